"""The command line as a stranger meets it: files from a run, and one sentence for each mistake."""

import subprocess
import sys

import numpy as np
import pytest

from drfer.cli import main
from drfer.common.errors import DrferError
from drfer.evaluation.protocol import (
    Protocol,
    confusion_matrix,
    drawn_subjects,
    folds,
    protocol_keys,
)


def drfer(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "drfer.cli", *arguments], capture_output=True, text=True, **options
    )


def test_reproduce_goes_from_faces_to_figures(faces, tmp_path):
    done = drfer("reproduce", "--preset", "smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "anny3dfe-smoke-fold0-seed0"
    for name in (
        "table.md",
        "curves.png",
        "confusion.png",
        "faces.png",
        "tsne.png",
        "result.json",
        "arrays.npz",
    ):
        assert (folder / name).stat().st_size > 200 and f"{folder / name}" in done.stdout
    assert "| stage i + ii + iii |" in done.stdout and "89.15" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--dataset", "bu4dfe"], "no dataset 'bu4dfe'"),
        (["--preset", "huge"], "no preset 'huge'"),
        (["--preset", "smoke", "--fold", "4"], "no fold 4"),
        (["--preset", "smoke", "--fold", "-1"], "no fold -1"),
        (["--preset", "smoke", "--seed", "-1"], "-1 is no seed"),
        (["--preset", "smoke", "--out", "/proc/nowhere"], "cannot write"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    arguments, sentence, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["drfer", "reproduce", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and sentence in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_doctor_names_versions_and_backends():
    done = drfer("doctor")
    assert done.returncode == 0
    for word in ("torch ", "torch-cluster", "device", "precision", "FPS on cpu", "FPS on cuda"):
        assert word in done.stdout


def test_folds_part_the_subjects():
    protocol = Protocol()
    subjects = drawn_subjects([f"S{n:03d}" for n in range(100)], protocol)
    assert len(set(subjects)) == 60
    for repeat in range(3):
        parts = folds(subjects, protocol, repeat)
        assert [len(part) for part in parts] == [6] * 10
        assert sorted(sum(parts, [])) == subjects
    assert folds(subjects, protocol, 0) != folds(subjects, protocol, 1)
    assert len(protocol_keys(subjects, protocol)) == 60 * 13


def test_too_few_subjects_for_the_folds_are_refused():
    with pytest.raises(DrferError, match="at least that many"):
        drawn_subjects(["a", "b", "c"], Protocol())
    with pytest.raises(DrferError, match="at least that many"):
        drawn_subjects(["a", "b", "c"], Protocol(subjects=3, folds=10))


def test_confusion_counts_rows_as_truth():
    counts = confusion_matrix(np.array([0, 0, 5]), np.array([0, 2, 5]))
    assert counts[0, 0] == counts[0, 2] == counts[5, 5] == 1 and counts.sum() == 3
