"""One face in one file: whatever its unit and place, as a mesh or as a cloud."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.scan import ScanKey
from drfer.datasets.scan_file import UNITS, read_scan, surface_of_cloud, unit_by_size
from drfer.preprocessing.registration import register

KEY = ScanKey("F0001", "neutral", 0)


@pytest.fixture(scope="module")
def scan(database):
    return database.load(KEY)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_told_by_size_or_taken_as_said(scan, unit, tmp_path):
    path = tmp_path / "face.stl"
    trimesh.Trimesh(scan.points / UNITS[unit], scan.triangles, process=False).export(path)
    read = read_scan(path)
    assert ("by its size" in read.source) == (unit != "mm")
    assert np.allclose(np.sort(read.points, axis=0), np.sort(scan.points, axis=0), atol=1e-2)
    assert np.array_equal(read_scan(path, unit=unit).points, read.points)
    assert read_scan(path, unit=unit).source == str(path)


@pytest.mark.parametrize("longest", [150, 180, 250, 350])
def test_faces_and_whole_heads_of_any_size_have_the_right_unit(longest):
    head = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 3)) * [0.6, 1.0, 0.7] * longest / 0.98
    for unit, millimetres in UNITS.items():
        assert unit_by_size(head / millimetres) == unit


def test_stray_points_do_not_decide_the_unit(scan):
    points = np.concatenate([scan.points, np.full((50, 3), 4e4)])
    assert unit_by_size(points) == "mm"


def test_a_scan_far_from_the_origin_keeps_its_form_and_says_where_it_was(scan, tmp_path):
    path = tmp_path / "survey.xyz"
    placed = scan.points.astype(float) / 1000 + [356_000, 5_810_000, 34]
    np.savetxt(path, placed, fmt="%.6f")
    read = read_scan(path)
    assert "moved to the origin" in read.source and np.abs(read.points).max() < 500
    turn, shift = read.from_file[:3, :3], read.from_file[:3, 3]
    there = (read.points.astype(float) - shift) @ np.linalg.inv(turn).T
    assert cKDTree(placed).query(there)[0].max() < 1e-4, "metres, on the way back"


@pytest.mark.parametrize("suffix", ["ply", "xyz", "npy"])
def test_a_cloud_registers_as_its_mesh_does(scan, suffix, tmp_path):
    path = tmp_path / f"cloud.{suffix}"
    shuffled = np.random.default_rng(0).permutation(scan.points)
    if suffix == "ply":
        trimesh.PointCloud(shuffled).export(path)
    elif suffix == "npy":
        np.save(path, shuffled)
    else:
        np.savetxt(path, np.column_stack([shuffled, shuffled]), delimiter=",", header="x, y, z")
    read = read_scan(path)
    assert "a surface made of its points" in read.source
    assert len(read.points) > 0.95 * len(scan.points)
    turned, expected = (
        scan.points @ pose[:3, :3].T + pose[:3, 3]
        for pose in (register(read).pose, register(scan).pose)
    )
    assert np.linalg.norm(turned - expected, axis=1).max() < 1, "mm"


def test_of_a_whole_head_the_front_is_taken(scan):
    """Behind the face lies another, as the back of a head does."""
    back = scan.points * [1, 1, -1] - [0, 0, 150]
    points, triangles = surface_of_cloud("x", np.concatenate([scan.points, back]).astype(float))
    behind = points[:, 2] < scan.points[:, 2].min() - 1
    assert behind.mean() < 0.1, "but for what is seen beside the face"
    a, b, c = points[triangles.T]
    across = np.cross(b - a, c - a)
    assert (across[:, 2] > 0).mean() > 0.95, "counter-clockwise for the viewer"


@pytest.mark.parametrize(
    "points, sentence",
    [
        (np.random.default_rng(0).normal(size=(50, 3)) * 50, "a cloud of 50 points is no surface"),
        (np.zeros((4000, 3)), "a cloud of 1 points is no surface"),
        (np.outer(np.arange(4000.0), [1, 2, 3]), "on a line|no surface"),
        (np.empty((0, 3)), "it has no points"),
        (np.full((4000, 3), np.nan), "it has no points"),
        (np.zeros((4000, 2)), r"it holds \(4000, 2\)"),
        (np.array(["a"] * 4000).reshape(-1, 4), "not numbers"),
    ],
)
def test_what_is_no_cloud_is_one_sentence(points, sentence, tmp_path):
    path = tmp_path / "cloud.npy"
    np.save(path, points)
    with pytest.raises(ScanFormatError, match=sentence) as refusal:
        read_scan(path, unit="mm")
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", ["xyz", "npy"])
def test_a_cloud_may_have_lost_points_and_a_heading(scan, suffix, tmp_path):
    """Depth cameras write nan for what they did not see, and tables of points name their columns."""
    path, whole = tmp_path / f"lost.{suffix}", tmp_path / f"whole.{suffix}"
    lost = scan.points.astype(np.float64)
    lost[::50] = np.nan
    for place, points in ((path, lost), (whole, np.delete(lost, np.s_[::50], axis=0))):
        if suffix == "npy":
            np.save(place, points)
        else:
            np.savetxt(place, points, header="X Y Z\n7,000 points", comments="")
    read = read_scan(path)
    assert f"without {len(lost[::50])} points that are not finite" in read.source
    assert np.array_equal(read.points, read_scan(whole).points)
    assert np.array_equal(read.triangles, read_scan(whole).triangles)


def test_other_wrong_files_and_names_are_one_sentence(scan, tmp_path):
    (tmp_path / "words.xyz").write_text("one two three\n")
    (tmp_path / "nothing.xyz").write_text("")
    (tmp_path / "half.xyz").write_text("1 2 3\n1 2 three\n")
    (tmp_path / "pickle.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.savez(tmp_path / "archive.npz", scan.points)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    for name, sentence in {
        "words.xyz": "cannot be read as XYZ: no line has three numbers",
        "nothing.xyz": "no line has three numbers",
        "half.xyz": "cannot be read as XYZ",
        "pickle.npy": "cannot be read as NPY",
        "archive.npy": "an archive",
    }.items():
        with pytest.raises(ScanFormatError, match=sentence):
            read_scan(tmp_path / name)
    np.save(tmp_path / "face.npy", scan.points)
    with pytest.raises(DrferError, match="no unit 'yard'; choose from mm, cm, m, in, um"):
        read_scan(tmp_path / "face.npy", unit="yard")


def test_a_key_is_the_callers_or_the_file_names(scan, tmp_path):
    path = tmp_path / "anna.npy"
    np.save(path, scan.points)
    assert read_scan(path).key == ScanKey("anna", "neutral", 0)
    assert read_scan(path, KEY).key == KEY
    assert replace(scan, points=scan.points).from_file.tolist() == np.eye(4).tolist()
