"""The open faces: BU-3DFE's structure, the same from run to run, and a truth that fits the scans."""

import numpy as np
import pytest

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.anny3dfe.database import Anny3DFE, scan_keys, subject_names
from drfer.datasets.anny3dfe.expressions import ACTION_UNITS, PROTOTYPES
from drfer.datasets.anny3dfe.head import HeadGenerator
from drfer.datasets.scan import EXPRESSIONS, ScanKey


def test_structure_is_that_of_bu3dfe(database):
    names = subject_names(100)
    assert len(set(names)) == 100 and sum(name[0] == "F" for name in names) == 56
    keys = scan_keys(database.subjects[0])
    assert len(keys) == len(set(keys)) == 25
    assert {(key.expression, key.level) for key in keys} == {("neutral", 0)} | {
        (expression, level) for expression in EXPRESSIONS for level in (1, 2, 3, 4)
    }


def test_scans_have_a_real_scanners_size(database):
    scans = [database.load(key) for key in database.keys()[::7]]
    sizes = [len(scan.points) for scan in scans]
    assert 7000 < np.median(sizes) < 9000
    for scan in scans:
        assert len(np.unique(scan.triangles)) == len(scan.points), (
            "every vertex belongs to a triangle"
        )


def test_same_seed_gives_the_same_bits_and_a_part_of_a_larger_database(database, tmp_path):
    again = Anny3DFE(2, root=tmp_path / "again")
    once_more = Anny3DFE(2, root=tmp_path / "once more")
    assert again.hash == once_more.hash
    for key in again.keys()[::5]:
        assert np.array_equal(again.load(key).points, database.load(key).points)
    other = Anny3DFE(2, seed=1, root=tmp_path / "other seed")
    assert other.hash != again.hash


def test_truth_fits_the_scan(database):
    """Each point, brought to the head's frame, lies where its ray met the true surface, but for noise and spikes."""
    head = HeadGenerator().head
    for key in database.keys()[3:40:9]:
        scan, truth = database.load(key), database.truth(key)
        surface = head.subdivide(
            head.pose_face(database.true_neutral(key.subject), truth.activation)[None]
        )[0]
        corners = surface[head.fine_triangles[truth.hit_triangle]]
        u, v = truth.hit_place.T[..., None]
        true_places = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        in_head_frame = (scan.points - truth.pose[:3, 3]) @ truth.pose[:3, :3]
        distance = np.linalg.norm(in_head_frame - true_places, axis=1)
        assert np.median(distance) < 0.2 and np.percentile(distance, 99) < 0.6
        assert distance.max() < 21, "a spike is at most 20 mm"


def test_expressions_grow_with_level(database):
    strengths = {level: [] for level in (1, 2, 3, 4)}
    for key in database.keys():
        if key.level:
            strengths[key.level].append(np.linalg.norm(database.truth(key).activation))
    means = [np.mean(strengths[level]) for level in (1, 2, 3, 4)]
    assert means == sorted(means)


def test_the_table_of_expressions_names_real_units():
    units = HeadGenerator().head.units
    for prototype in PROTOTYPES.values():
        for unit in (*prototype.always, *prototype.sometimes):
            assert unit in ACTION_UNITS and (unit in units or unit + "Left" in units)


def test_a_killed_generation_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "drfer.datasets.anny3dfe.map_on_all_cores",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        Anny3DFE(2, root=tmp_path / "database")
    assert not (tmp_path / "database").exists()


def test_caches_that_do_not_fit_are_named(database, tmp_path):
    with pytest.raises(DrferError, match="other settings"):
        Anny3DFE(3, root=database.root)
    (tmp_path / "old").mkdir()
    manifest = (database.root / "manifest.json").read_text()
    (tmp_path / "old" / "manifest.json").write_text(
        manifest.replace('"version": "', '"version": "0.')
    )
    with pytest.raises(DrferError, match="version 0."):
        Anny3DFE(12, root=tmp_path / "old")
    (tmp_path / "old" / "manifest.json").write_text("[")
    with pytest.raises(DrferError, match="not an Anny-3DFE database"):
        Anny3DFE(12, root=tmp_path / "old")


def test_bad_questions_are_one_sentence(database):
    with pytest.raises(DrferError, match="1 to 100 subjects"):
        Anny3DFE(101)
    with pytest.raises(DrferError, match="has no scan"):
        database.load(ScanKey("F0099", "fear", 1))


def test_a_truncated_subject_file_is_named(tmp_path):
    database = Anny3DFE(1, root=tmp_path / "database")
    path = database.root / f"{database.subjects[0]}.npz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ScanFormatError, match=path.name):
        database.load(database.keys()[0])
