"""The main job on trees that are laid out as the licensed databases are."""

import json

import pytest

from drfer.cli import main

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
