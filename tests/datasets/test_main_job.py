"""The main job on trees that are laid out as the licensed databases are."""

import json

import pytest
import trimesh

from drfer.cli import main
from drfer.evaluation.result import load_result
from drfer.evaluation.statistics import summarise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "name, paper, intensities", [("bu3dfe", "BU-3DFE", [3, 4]), ("bosphorus", "Bosphorus", [1])]
)
def test_reproduce_goes_from_files_to_figures(
    name, paper, intensities, request, tmp_path, monkeypatch, capsys
):
    root = request.getfixturevalue(name)
    arguments = ["--dataset", name, "--root", str(root), "--preset", "smoke"]
    monkeypatch.setattr("sys.argv", ["drfer", "reproduce", *arguments, "--out", str(tmp_path)])
    main()
    folder = tmp_path / f"{name}-smoke"
    drawn = {path.name for path in folder.iterdir()}
    assert {"table.md", "faces.png", "curves.png", "confusion.png"} <= drawn
    assert f"the paper, {paper}" in capsys.readouterr().out
    heading = json.loads((folder / "result.json").read_text())["heading"]
    assert heading["dataset"] == name
    assert heading["protocol"]["intensities"] == intensities


def test_twelve_labels_of_ones_own_without_neutral_scans(database, tmp_path, monkeypatch, capsys):
    """CoMA has twelve extreme expressions and no neutral scan: here half of them are weak."""
    folder = tmp_path / "own"
    folder.mkdir()
    rows = ["file,subject,expression"]
    for number, key in enumerate(key for key in database.keys() if key.intensity >= 3):
        scan = database.load(key)
        name = f"{number}.ply"
        trimesh.Trimesh(scan.points, scan.triangles, process=False).export(folder / name)
        label = f"{'weak' if key.intensity == 3 else 'Strong'} {key.expression} $_AU"
        rows.append(f"{name},{key.subject},{label}")
    (folder / "scans.csv").write_text("\n".join(rows))

    def drfer(*arguments):
        monkeypatch.setattr("sys.argv", ["drfer", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    with pytest.raises(SystemExit):  # 12 subjects are too few for the paper's protocol
        drfer("check", "scans", folder, "--sheet", tmp_path / "sheet.png")
    said = capsys.readouterr().out
    assert "Strong anger $_AU" in said and "the mean of a person's scans will stand" in said
    own = ("--dataset", "scans", "--root", folder, "--preset", "smoke", "--out", tmp_path / "out")
    drfer("reproduce", *own)
    result = load_result(tmp_path / "out" / "scans-smoke")
    assert len(result.expressions) == 12 and "weak fear $_AU" in result.expressions
    [entry] = result.tests("stage i + ii + iii")
    assert set(entry["truth"]) == set(range(12))
    assert summarise([entry], result.protocol).confusion.shape == (12, 12)
    drfer(
        "crossval",
        *own,
        "--folds",
        0,
        "--rows",
        "bounds",
        "--measures",
        "features",
        "disentanglement",
    )
    result = load_result(tmp_path / "out" / "scans-smoke")
    assert result.tests("linear: vertices") and result.select("features")
    assert not result.tests("linear: less own neutral"), "nobody has a neutral scan"
    assert result.select("disentanglement")
    drawn = {path.name for path in (tmp_path / "out" / "scans-smoke").iterdir()}
    assert {"table.md", "faces.png", "curves.png", "confusion.png"} <= drawn
    drfer("figures", "--results", tmp_path / "out", "--out", tmp_path / "figures")
    assert (tmp_path / "figures" / "figure-6.png").exists()
