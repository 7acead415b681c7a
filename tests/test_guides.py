"""The pages for those who read the code or build on it: their code runs, and their numbers are so."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import trimesh

from drfer.datasets.scan import NEUTRAL

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def blocks(page):
    """The Python code of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_reading_order_names_modules_as_long_as_they_are():
    text = (DOCS / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \[.+?\]\(\.\./(drfer/.+?\.py)\) \| (\d+) \|", text, re.M)
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    total = 0
    for _, module, said in rows:
        lines = len((ROOT / module).read_text().splitlines())
        total += lines
        assert abs(lines - int(said)) <= 0.1 * lines, f"{module} has {lines} lines"
    [said] = re.findall(r"about ([\d,]+) lines", text)
    assert abs(total - int(said.replace(",", ""))) < 100, total


def test_the_reading_order_has_the_whole_core():
    """All modules of the core, but for what serves a door of its own."""
    text = (DOCS / "architecture.md").read_text()
    elsewhere = {
        "shipped.py",
        "personal.py",
        "recogniser.py",
        "torch_dataset.py",
        "head_pose.py",
        "correspondence.py",  # beyond the paper
        "__init__.py",
    }
    for folder in ("preprocessing", "models", "training"):
        for path in (ROOT / "drfer" / folder).glob("*.py"):
            assert path.name in elsewhere or f"{folder}/{path.name}]" in text, path


def test_the_picture_shows_every_folder():
    picture = (DOCS / "architecture.md").read_text().split("```mermaid")[1].split("```")[0]
    for folder in (ROOT / "drfer").iterdir():
        if (folder / "__init__.py").exists() and folder.name != "common":
            assert f"<b>{folder.name}</b>" in picture


@pytest.fixture
def own_folder(database, tmp_path):
    """Scans as the page on datasets describes them: folders by subject, z up."""
    for key in database.keys():
        if key.intensity in (0, 4) and key.subject in database.subjects[:2]:
            scan = database.load(key)
            points = scan.points @ [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
            path = tmp_path / key.subject / f"{key.expression}.ply"
            path.parent.mkdir(exist_ok=True)
            trimesh.Trimesh(points, scan.triangles, process=False).export(path)
    return tmp_path


def test_a_dataset_takes_three_methods(own_folder, capsys):
    class_of_its_own, use = blocks("add-your-dataset.md")
    assert len(re.findall(r"^    def ", class_of_its_own, re.M)) == 3
    names = {}
    exec(class_of_its_own, names)
    exec(use.replace('"FOLDER"', repr(str(own_folder))), names)
    dataset, faces = names["dataset"], names["faces"]
    assert len(dataset.subjects) == 2 and len(faces) == 14
    assert len(names["clouds"]) == 12 and sum(key.expression == NEUTRAL for key in faces.keys) == 2
    assert not names["can_run"] and "of 2 subjects" in capsys.readouterr().out


def test_a_scan_is_registered_in_two_lines(database, tmp_path, monkeypatch):
    scan = database.load(database.keys()[0])
    monkeypatch.chdir(tmp_path)
    trimesh.Trimesh(scan.points / 10, scan.triangles, process=False).export("face.ply")
    [code] = blocks("your-own-faces.md")
    names = {}
    exec(code, names)
    assert names["carried"].points.shape == (39_923, 3) and not names["carried"].doubts


def test_pytorch_geometrics_example_trains_on_the_faces(faces, capsys):
    """As far as the packages are here: without PyTorch Geometric, all but the network."""
    [code] = blocks("use-with-other-networks.md")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 32 and max(map(len, lines)) <= 100
    names = {}
    if find_spec("torch_geometric") and find_spec("torch_cluster"):
        exec(code.replace("range(30)", "range(1)"), names)
        assert re.search(r"\d+% of 36 scans", capsys.readouterr().out)
        return
    before = code.split("class Net")[0]
    exec("\n".join(line for line in before.splitlines() if "torch_geometric" not in line), names)
    train, test = names["train"], names["test"]
    subjects = [{each.faces.keys[n].subject for n in each.members} for each in (train, test)]
    assert not subjects[0] & subjects[1] and len(test) == 36
