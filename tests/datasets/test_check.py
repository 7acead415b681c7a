"""`drfer check` names every fault, and stops at none."""

import os
import shutil
import signal
from types import SimpleNamespace

import licensed
import numpy as np
import pytest
import trimesh

from drfer.common.errors import DrferError
from drfer.datasets.bosphorus import Bosphorus
from drfer.datasets.bu3dfe import BU3DFE
from drfer.datasets.check import check
from drfer.datasets.scan import ScanKey
from drfer.datasets.scans import Scans

KEY = ScanKey("F0001", "fear", 4)
PROTOCOL = SimpleNamespace(subjects=12, folds=4)


def test_every_fault_is_named(bu3dfe, database, tmp_path, capsys):
    """Ten faults in a tree of twelve subjects; broken landmarks are none."""
    root = tmp_path / "bu3dfe"
    shutil.copytree(bu3dfe, root)

    def of(stem):
        return next(path for path in root.rglob(f"{stem}*_F3D.wrl"))

    first, second, third = database.subjects[:3]
    cut, words, index, empty = (of(f"{first}_{code}04") for code in ("AN", "DI", "FE", "HA"))
    cut.write_text(cut.read_text()[:3000])
    words.write_text(words.read_text().replace("coordIndex", "coordindex"))
    index.write_text(index.read_text().replace("coordIndex [\n", "coordIndex [\n0 1 99999 -1,\n"))
    empty.write_bytes(b"")
    pipe = of(f"{first}_SA04")
    pipe.unlink()
    os.mkfifo(pipe)
    of(f"{second}_SU04").unlink()
    shutil.copy(of(f"{second}_HA04"), root / of(f"{second}_HA04").name)
    of(f"{second}_AN04").rename(root / f"{second}_XX04WH_F3D.wrl")
    stray, scan = of(f"{third}_HA04"), database.load(KEY)
    specks = np.arange(120).reshape(40, 3) + len(scan.points)
    stray.write_text(licensed.vrml([*scan.points, *np.eye(120, 3)], [*scan.triangles, *specks]))
    tangled = of(f"{third}_AN04")
    a, b, _ = scan.triangles[0]
    tangled.write_text(licensed.vrml(scan.points, [*scan.triangles, [a, b, 9], [a, b, 99]]))

    assert not check(BU3DFE(root), PROTOCOL, None)
    said = capsys.readouterr().out
    for sentence in (
        "readable scans    intensity 3  intensity 4",
        "5 unreadable",
        f"{cut}: its ",
        f"{words}: there is no coordIndex",
        f"{index}: a polygon names point 99999",
        f"{empty}: there is no point list",
        f"{pipe}: this is no file",
        f"2 missing:\n  {second} anger 4\n  {second} surprise 4",
        "1 given more than once",
        "1 named like no scan",
        f"components, the most first:\n  {stray}: ",
        "1 with edges of more than two triangles",
        "10 subjects have every scan",
        "cannot run",
        "1 subjects with an unreadable scan; any of them may be drawn: "
        f"take those files out of the folder:\n  {first}",
    ):
        assert sentence in said, f"{sentence} not in:\n{said}"


def test_a_sound_tree_can_run_and_is_drawn(bu3dfe, tmp_path, capsys):
    sheet = tmp_path / "made" / "sheet.png"
    assert check(BU3DFE(bu3dfe), PROTOCOL, sheet)
    assert "can run" in capsys.readouterr().out and sheet.stat().st_size > 10_000


class Crashing(BU3DFE):
    """A reader with a fault, and one that takes its process with it."""

    def read(self, path, key):
        if key.expression == "fear":
            raise ZeroDivisionError("float division\nby zero")
        if key.expression == "anger":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(path, key)


def test_a_scan_that_crashes_its_reader_ends_no_report(bu3dfe, database, tmp_path, capsys):
    subject = database.subjects[0]
    for path in bu3dfe.rglob(f"{subject}_*_F3D.wrl"):
        shutil.copy(path, tmp_path)
    for path in tmp_path.glob("*_*03*"):
        path.unlink()
    dataset = Crashing(tmp_path)
    assert len(dataset.files) == 7
    assert not check(dataset, PROTOCOL, None)
    said = capsys.readouterr().out
    assert "2 unreadable" in said and "7 scans of 1 subjects" in said
    assert "F3D.wrl: its reader fails (ZeroDivisionError: float division)\n" in said
    assert "F3D.wrl: the process that reads it dies" in said
    for expression in ("disgust", "happiness", "sadness", "surprise"):
        assert f"{expression:<16}{1:>13}\n" in said


def test_a_damaged_nose_tip_is_mentioned(bosphorus, tmp_path, capsys):
    shutil.copytree(bosphorus / "bs000", tmp_path / "bs000")
    landmarks = tmp_path / "bs000" / "bs000_E_FEAR_0.lm3"
    landmarks.write_bytes(b"garbage")
    check(Bosphorus(tmp_path), PROTOCOL, None)
    said = capsys.readouterr().out
    assert "unreadable" not in said and "1 read with a remark" in said and str(landmarks) in said


def test_a_class_that_few_have_is_named_for_its_spelling(database, tmp_path, capsys):
    scan = database.load(KEY)
    rows = ["file,subject,expression"]
    for subject in "abc":
        for label in ("smile", "frwon" if subject == "b" else "frown"):
            name = f"{subject}-{label}.ply"
            trimesh.Trimesh(scan.points, scan.triangles, process=False).export(tmp_path / name)
            rows.append(f"{name},{subject},{label}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    assert not check(Scans(tmp_path), PROTOCOL, sheet=None)
    said = capsys.readouterr().out
    assert "is their name misspelt?:\n  frwon: 1 of 3\n" in said
    assert "missing:\n  a frwon 1\n" in said
    (tmp_path / "scans.csv").unlink()
    check(Scans(tmp_path), PROTOCOL, sheet=None)
    said = capsys.readouterr().out
    assert "misspelt" not in said and "it has no scans.csv: each file is taken" in said
    rows = [row.replace(",b,", ",A,") for row in rows]
    (tmp_path / "Scans.CSV").write_text("\n".join([*rows, "gone.ply,c,frown"]))
    check(Scans(tmp_path), PROTOCOL, sheet=None)
    said = capsys.readouterr().out
    assert "1 named in the table, but not in the folder:\n  gone.ply\n" in said
    assert "names differ in capitals alone; are they the same people?:\n  A\n  a\n" in said
    (tmp_path / "b.pcd").touch()
    for content, why in {
        "b.pcd,b,smile": "'b.pcd', as in .*, has an ending that is not read here; known are .bnt, ",
        "a-smile,a,smile": "none of the files in .*CSV is there, such as 'a-smile'",
        "": "names no file",
    }.items():
        (tmp_path / "Scans.CSV").write_text(f"{rows[0]}\n{content}")
        with pytest.raises(DrferError, match=why):
            Scans(tmp_path)
