"""Distances from surfaces: against slow loops, and of faces whose distance is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from drfer.common.errors import DrferError
from drfer.datasets.anny3dfe import head as open_head
from drfer.datasets.anny3dfe.scanner import Scanner, scan_face
from drfer.datasets.scan import NEUTRAL, FaceScan, ScanKey
from drfer.evaluation.surface_distance import (
    Region,
    Surface,
    distances,
    sampled,
    surface_of_true_face,
    surface_of_vertices,
)
from drfer.evaluation.truth import registered_true_faces
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.resampling import preprocess_scan

POINTS = 1024


@pytest.fixture(scope="module")
def neutral(faces):
    """The number of a neutral scan."""
    return faces.keys.index(ScanKey("F0001", NEUTRAL, 0))


@pytest.fixture(scope="module")
def region(faces):
    """What the neutral scans share."""
    return Region(faces.missing[[key.expression == NEUTRAL for key in faces.keys]])


@pytest.fixture(scope="module")
def true_face(faces, neutral):
    """That face without noise, as it was registered, mm."""
    return registered_true_faces(faces, np.array([neutral]), np.zeros((1, 52)))[0]


def other_points(face, seed):
    """Points of a true face that a scanner sees: other ones for each seed, mm."""
    template = common_mesh.load()
    inside = np.hypot(*(template.vertices[:, :2] / (66, 82)).T) < 1
    triangles = template.triangles[inside[template.triangles].all(axis=1)]
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(triangles), POINTS, replace=False)
    weights = generator.dirichlet([1, 1, 1], POINTS)[..., None]
    return (face[triangles[chosen]] * weights).sum(axis=1)


def test_a_region_is_what_nearly_all_scans_have():
    missing = np.zeros((100, 4), bool)
    missing[:2, 1] = missing[:3, 2] = missing[:51, 3] = True
    region = Region(missing)
    assert region.shared.tolist() == [True, True, False, False]
    assert region.common.tolist() == [True, True, True, False]
    with pytest.raises(DrferError, match="100 scans of one expression have no vertex in common"):
        Region(missing[:, 3:])


def test_the_region_of_faces_has_no_border(region):
    """It is most of what scans have, and nothing that the crop or the hairline may reach."""
    x, y, _ = common_mesh.load().vertices[:4096][region.shared].T
    assert 1500 < len(x) < region.common.sum() < 4096
    assert np.abs(x).max() < 70
    assert -82 < y.min() and y.max() < 62
    assert np.sum(np.hypot(x, y) < 30) > 200, "the middle of the face is there"


def nearest_by_loops(point, vertices, corners):
    """Distance of a point from a triangle, by trying many points of it; the weights of the best."""
    steps = np.linspace(0, 1, 61)
    weights = [(1 - a - b, a, b) for a in steps for b in steps if a + b <= 1 + 1e-9]
    away = np.linalg.norm(np.array(weights) @ vertices[corners] - point, axis=1)
    return away.min(), weights[away.argmin()], corners


def test_distances_are_those_of_the_loops():
    """A tilted square of four triangles, whose lower half is in the region, and points around it."""
    vertices = np.array([[0, 0, 0], [2, 0, 0.5], [2, 2, 1], [0, 2, 0.5], [1, 1, 0.2]], float)
    triangles = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    shared = vertices[:, 1] < 1.5
    target = Surface(vertices, triangles, shared, vertices[:2])
    faces = np.random.default_rng(0).uniform([-0.3, -0.3, 0], [2.3, 2.3, 1], size=(3, 12, 3))
    expected = []
    for face in faces:
        there = []
        for point in face:
            away, weights, corners = min(
                nearest_by_loops(point, vertices, corners) for corners in triangles.tolist()
            )
            if shared[corners[np.argmax(weights)]]:
                there.append(away)
        spanned = [
            [a, b, c]
            for a in range(12)
            for b in range(a)
            for c in range(b)
            if is_empty(face, a, b, c)
        ]
        back = [
            min(nearest_by_loops(point, face, corners)[0] for corners in spanned)
            for point in target.points
        ]
        assert 0 < len(there) < 12, "some points lie elsewhere"
        expected.append((np.mean(there) + np.mean(back)) / 2)
    assert np.allclose(distances(faces, target), expected, atol=0.01)


def is_empty(face, *corners):
    """Whether no other point lies in the frontal circle through three: Delaunay's condition."""
    a, b, c = face[list(corners), :2]
    system = 2 * np.array([b - a, c - a])
    centre = np.linalg.solve(system, [b @ b - a @ a, c @ c - a @ a])
    others = np.delete(face[:, :2], corners, axis=0)
    return np.linalg.norm(others - centre, axis=1).min() > np.linalg.norm(a - centre)


def test_a_face_with_nothing_in_the_region_is_as_far_as_the_region_is_from_it():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 0], [9, 8, 0]], float)
    triangles = np.array([[0, 1, 2], [1, 3, 4]])
    shared = np.array([True, False, True, False, False])
    target = Surface(vertices, triangles, shared, vertices[:1])
    away = np.array([[9.0, 9, 0], [9, 8, 0], [8, 9, 0]])
    expected = np.hypot(8.5, 8.5)
    assert distances(away[None], target) == pytest.approx([expected])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_surface_at_other_points_has_hardly_a_distance(true_face, region, seed):
    target = surface_of_true_face(true_face, region)
    even = sampled(target, POINTS)
    assert even.shape == (POINTS, 3)
    assert distances(even[None], target)[0] < 0.1
    # points that do not know of each other leave larger gaps
    assert distances(other_points(true_face, seed)[None], target)[0] < 0.2


@pytest.mark.parametrize("offset", [-1.0, 1.0, 2.0])
def test_an_offset_along_the_normals_is_the_distance(true_face, region, offset):
    template = common_mesh.load()
    a, b, c = (true_face[template.triangles[:, corner]] for corner in range(3))
    normals = np.zeros_like(true_face)
    for corner in range(3):
        np.add.at(normals, template.triangles[:, corner], np.cross(b - a, c - a))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    target = surface_of_true_face(true_face, region)
    moved = Surface(true_face + offset * normals, target.triangles, target.shared, target.points)
    found = distances(sampled(moved, POINTS)[None], target)[0]
    assert found == pytest.approx(abs(offset), rel=0.1)


def rescanned(database, key, seed):
    """A scan of the same face with other noise, crop and hairline, preprocessed."""
    head = open_head.load()
    surface = head.subdivide(database.true_neutral(key.subject)[None])[0]
    visible = np.repeat(head.seen_from_front, head.fine_per_coarse)
    generator = np.random.default_rng(seed)
    raw = scan_face(generator, surface, head.fine_triangles, visible, Scanner())
    return preprocess_scan(FaceScan(raw.points, raw.triangles, key, "scanned again"))


@pytest.mark.parametrize("known", ["without noise", "as it was scanned"])
def test_a_scan_of_the_same_face_with_another_crop_is_as_near_as_noise(
    database, faces, neutral, true_face, region, known
):
    """Two clouds of it are 2.4 mm apart by their nearest points."""
    length = faces.settings.frame_length
    stored = faces.vertices[neutral].astype(np.float64) * length
    target = surface_of_true_face(true_face, region)
    if known == "as it was scanned":
        target = surface_of_vertices(stored, faces.missing[neutral], region)
    again = np.stack(
        [rescanned(database, faces.keys[neutral], seed)["cloud"][:POINTS] for seed in range(2)]
    )
    found = distances(again.astype(np.float64) * length, target)
    print(f"\nscanned again, {known}: {found.round(3)} mm")
    other = next(
        number
        for number, key in enumerate(faces.keys)
        if key.expression == NEUTRAL and key.subject != faces.keys[neutral].subject
    )
    stranger = faces.clouds[[other], :POINTS].astype(np.float64) * length
    assert found.max() < 0.3
    assert distances(stranger, target)[0] > 3 * found.max()


def test_a_true_face_and_its_scan_have_the_same_region(faces, neutral, true_face, region):
    """Of a neutral face a vertex and what the scan has there are about the same point."""
    vertices = faces.vertices[neutral].astype(np.float64) * faces.settings.frame_length
    true = surface_of_true_face(true_face, region)
    scanned = surface_of_vertices(vertices, faces.missing[neutral], region)
    assert len(scanned.points) == (region.shared & ~faces.missing[neutral]).sum()
    assert len(true.points) == pytest.approx(len(scanned.points), rel=0.1)
    assert np.array_equal(scanned.shared, region.shared & ~faces.missing[neutral])
    for one, other in ((true, scanned), (scanned, true)):
        away = np.linalg.norm(one.points[:, None] - other.points[None, ::3], axis=2).min(axis=1)
        assert np.quantile(away, 0.95) < 6, "no piece of the one is missing in the other"


def test_the_lower_lip_of_an_open_mouth_is_compared(faces, database):
    """The template's own vertices of it are missing there, since nothing is behind them."""
    key = ScanKey("F0001", "surprise", 4)
    scan = faces.keys.index(key)
    members = [number for number, each in enumerate(faces.keys) if each.expression == "surprise"]
    region = Region(faces.missing[members])
    activation = database.truth(key).activation[None]
    face = registered_true_faces(faces, np.array([scan]), activation)[0]
    vertices = common_mesh.load().vertices[:4096]
    lip = np.flatnonzero((np.abs(vertices[:, 0]) < 8) & (np.abs(vertices[:, 1] + 46) < 5))
    owned = {tuple(point) for point in surface_of_true_face(face, region).points}
    assert region.shared[lip].mean() < 0.5
    assert np.mean([tuple(point) in owned for point in face[lip]]) > 0.5


def test_a_sample_is_even_and_on_the_surface():
    x, y = np.meshgrid(np.arange(30.0), np.arange(30.0))
    vertices = np.column_stack([x.ravel(), y.ravel(), 0.3 * x.ravel() - 0.1 * y.ravel()])
    a = (np.arange(29)[:, None] * 30 + np.arange(29)).ravel()
    triangles = np.concatenate([[a, a + 1, a + 30], [a + 1, a + 31, a + 30]], axis=1).T
    plane = SimpleNamespace(vertices=vertices, triangles=triangles)
    sample = sampled(plane, 300)
    assert np.array_equal(sample, sampled(plane, 300))
    assert np.allclose(sample[:, 2], 0.3 * sample[:, 0] - 0.1 * sample[:, 1], atol=1e-4)
    cells = np.histogram2d(sample[:, 0], sample[:, 1], 3)[0]
    assert cells.min() > 0.8 * 300 / 9 and cells.max() < 1.25 * 300 / 9
