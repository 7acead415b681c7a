"""`drfer register`: the common mesh on scans, written for other programs."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from drfer.datasets.anny3dfe import head as open_head
from drfer.datasets.scan import ScanKey
from drfer.preprocessing import template as common_mesh


@pytest.fixture
def register(command):
    """`drfer register` in this process: its exit code, and what it said."""
    return partial(command, "register")


@pytest.fixture(scope="module")
def scan(database):
    return database.load(ScanKey("M0001", "happiness", 4))


def written(folder):
    """What was written of the one scan there: its mesh, what is known of it, and its picture."""
    [mesh], [known], [picture] = (list(folder.glob(f"*.{kind}")) for kind in ("ply", "json", "png"))
    return trimesh.load_mesh(mesh, process=False), json.loads(known.read_text()), picture


def test_a_mesh_a_pose_and_a_picture_are_written(register, scan, tmp_path):
    path = tmp_path / "face.obj"
    trimesh.Trimesh(scan.points / 10, scan.triangles, process=False).export(path)
    code, said = register(path, "--out", tmp_path / "out")
    assert code == 0 and "in centimetres, by its size" in said.out and "residual" in said.out
    mesh, known, picture = written(tmp_path / "out")
    template = common_mesh.load()
    assert mesh.vertices.shape == (39_923, 3)
    assert np.array_equal(mesh.faces, template.triangles)
    raw = mesh.metadata["_ply_raw"]["vertex"]["data"]
    missing = np.asarray(raw["missing"]).ravel() == 1
    assert 0.02 < missing.mean() < 0.45
    assert known["share of the mesh found"] == pytest.approx(1 - missing.mean(), abs=1e-4)
    assert len(np.unique(mesh.visual.vertex_colors[missing], axis=0)) == 1
    assert picture.stat().st_size > 10_000
    turned = _applied(known["from the file to the template, mm"], scan.points / 10)
    away = cKDTree(turned).query(mesh.vertices[~missing])[0]
    assert np.median(away) < 1.5, "mm: as far as the scan's points are from each other"


def _applied(matrix, points):
    matrix = np.array(matrix)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize("turn", [(0, 40), (0, -40), (1, 30), (1, -30)])
def test_a_whole_head_is_cut_to_what_the_mesh_covers(register, turn, tmp_path):
    head = open_head.load()
    points = head.subdivide(head.average[None])[0]
    axis, degrees = turn
    matrix = trimesh.transformations.rotation_matrix(np.radians(degrees), np.eye(3)[1 - axis])
    path = tmp_path / "head.ply"
    placed = points @ matrix[:3, :3].T + [200, -300, 90]
    trimesh.Trimesh(placed, head.fine_triangles, process=False).export(path)
    code, _ = register(path, "--out", tmp_path / "out")
    mesh, known, _ = written(tmp_path / "out")
    assert code == 0 and not known["doubtful"] and known["share of the mesh found"] > 0.98
    rotation = np.array(known["from the file to the template, mm"])[:3, :3] @ matrix[:3, :3]
    assert np.degrees(np.arccos((np.trace(rotation) - 1) / 2)) < 1
    assert np.linalg.norm(mesh.vertices - common_mesh.load().vertices, axis=1).mean() < 2


def test_what_is_no_face_is_said_and_nothing_is_written(register, scan, tmp_path):
    face, ball, few = (tmp_path / f"{name}.ply" for name in ("face", "ball", "few"))
    trimesh.Trimesh(scan.points, scan.triangles, process=False).export(face)
    trimesh.creation.icosphere(4, 90).export(ball)
    trimesh.PointCloud(scan.points[:50]).export(few)
    code, said = register(ball, few, face, "--out", tmp_path / "out")
    assert code == 2
    assert "ball.ply" in said.out and "does not register as a face" in said.out
    assert "a cloud of 50 points is no surface" in said.out
    assert {path.stem.split("-")[0] for path in (tmp_path / "out").iterdir()} == {"face"}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("face.ply", "--unit", "feet"), "there is no unit 'feet'"),
        (("face.ply", "--up", "w"), "there is no axis 'w'"),
        ((), "scans|at least one"),
    ],
)
def test_mistakes_are_one_sentence(register, arguments, sentence, tmp_path):
    code, said = register(*arguments, "--out", tmp_path / "out")
    assert code == 2 and any(part in said.err + said.out for part in sentence.split("|"))
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_said(register, scan, tmp_path):
    face = Path(tmp_path / "face.ply")
    trimesh.Trimesh(scan.points, scan.triangles, process=False).export(face)
    (tmp_path / "out").write_text("in the way")
    code, said = register(face, "--out", tmp_path / "out")
    assert code == 2 and "cannot write" in said.out
