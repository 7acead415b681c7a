"""Nearest points on a mesh against libigl's, and in bounded memory; borders against a count."""

import time

import numpy as np
import pytest
from damage import damaged

from drfer.preprocessing import surface
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.surface import border_edges, nearest_on_surface


@pytest.mark.parametrize("damages", [(), ("hair", "collar", "cheek", "spikes"), ("tangle",)])
def test_nearest_on_surface_is_what_libigl_finds(database, damages):
    import igl

    key, reach = database.keys()[7], 10.0
    scan, truth, template = database.load(key), database.truth(key).pose, common_mesh.load()
    in_head_frame = (scan.points - truth[:3, 3]) @ truth[:3, :3]
    points, triangles = damaged(np.random.default_rng(2), in_head_frame, scan.triangles, damages)
    queries = np.concatenate(
        [template.vertices[template.curve_order] + template.origin, [[0, 0, 500], [900, 0, 0]]]
    )
    triangle, weights, nearest = nearest_on_surface(
        queries, points, triangles, reach, np.arange(len(queries))
    )
    shuffled = np.random.default_rng(3).permutation(len(queries))
    assert np.allclose(nearest_on_surface(queries, points, triangles, reach, shuffled)[2], nearest)
    squared, _, _ = igl.point_mesh_squared_distance(queries, points, triangles.astype(np.int64))
    assert np.array_equal(triangle >= 0, squared <= reach**2) and not (triangle >= 0)[-2:].any()
    within = triangle >= 0
    found = np.einsum("nc,ncd->nd", weights[within], points[triangles[triangle[within]]])
    assert np.allclose(
        np.linalg.norm(found - queries[within], axis=1), np.sqrt(squared[within]), atol=1e-4
    )
    assert np.allclose(nearest[within], found, rtol=0, atol=1e-12)
    assert np.array_equal(nearest[~within], queries[~within])
    assert weights.min() >= 0 and np.allclose(weights[within].sum(axis=1), 1)


def test_border_edges_are_those_of_one_triangle(database):
    triangles = database.load(database.keys()[0]).triangles
    uses = {}
    for a, b, c in triangles.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            uses[tuple(sorted(edge))] = uses.get(tuple(sorted(edge)), 0) + 1
    points = triangles.max() + 1
    alone = border_edges(triangles, points)
    for corner, others in ((0, (1, 2)), (1, (2, 0)), (2, (0, 1))):
        edges = np.sort(triangles[:, others], axis=1).tolist()
        assert alone[:, corner].tolist() == [uses[tuple(edge)] == 1 for edge in edges]


def test_borders_of_a_fan_are_found_at_once():
    """All of its 200,000 triangles share a corner, so that comparing a corner's edges takes minutes."""
    rim = np.arange(1, 200_001)
    fan = np.stack([np.zeros_like(rim), rim, rim + 1], axis=1)
    started = time.monotonic()
    alone = border_edges(fan, 200_002)
    assert time.monotonic() - started < 20  # most of it compiles
    assert alone[:, 0].all() and alone[0].tolist() == [True, False, True]
    assert alone.sum() == 200_002 and alone[-1].tolist() == [True, True, False]


def strays(kind):
    """Triangles (m, 3, 3), mm, that make the grid of a face's mesh too large."""
    rng = np.random.default_rng(0)
    if kind == "one huge":
        return np.array([[[-1e6, -1e6, -300], [1e6, -1e6, -300], [0, 1e6, -300.0]]])
    if kind == "20,000 far apart":
        return rng.uniform(-1e5, 1e5, (20_000, 1, 3)) + rng.uniform(-3, 3, (20_000, 3, 3))
    return rng.uniform(-400, 400, (20_000, 3, 3)) - [0, 0, 1000]


@pytest.mark.parametrize("kind", ["one huge", "20,000 far apart", "20,000 large behind the face"])
def test_stray_triangles_cost_bounded_memory_and_change_nothing(database, kind, monkeypatch):
    scan, template = database.load(database.keys()[7]), common_mesh.load()
    points = scan.points - np.median(scan.points, axis=0)
    queries = template.vertices[template.curve_order[::4]].astype(float)
    order = np.arange(len(queries))
    expected = nearest_on_surface(queries, points, scan.triangles, 10.0, order)
    far = strays(kind)
    loose = len(points) + np.arange(3 * len(far)).reshape(-1, 3)
    points = np.concatenate([points, far.reshape(-1, 3)])
    grids, original = [], surface._grid

    def recorded(*arguments):
        grids.append(original(*arguments))
        return grids[-1]

    monkeypatch.setattr(surface, "_grid", recorded)
    triangles = np.concatenate([scan.triangles, loose])
    found = nearest_on_surface(queries, points, triangles, 10.0, order)
    assert sum(array.nbytes for array in grids[0]) < 300e6
    assert np.allclose(found[2], expected[2], atol=1e-6)
    assert np.array_equal(found[0] < 0, expected[0] < 0)


def test_a_grid_that_fits_keeps_its_cells(database):
    """And so which of two equally near triangles is found."""
    scan = database.load(database.keys()[7])
    corners = scan.points.astype(float)[scan.triangles][..., :2]
    low, high = corners.min(axis=1), corners.max(axis=1)
    assert surface._cell_width(low - low.min(axis=0), high - low.min(axis=0)) == surface.CELL
