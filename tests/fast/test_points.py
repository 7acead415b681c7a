"""What the compiled point operators do beyond their plain twins; `models/test_points.py` has the rest."""

import numpy as np
import pytest
import torch

from drfer.fast.points import along_curve, farthest_point_order, nearest


def random_points(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def farthest_by_loops(points, count, start):
    chosen = [start]
    while len(chosen) < count:
        distances = [min(((point - points[i]) ** 2).sum() for i in chosen) for point in points]
        chosen.append(int(np.argmax(distances)))
    return chosen


@pytest.mark.parametrize("start", [0, 1, 57, 99])
def test_farthest_point_order_begins_where_it_is_told(start):
    points = random_points(100, 3, seed=3)
    order = farthest_point_order(points, 30, start)
    assert order.dtype == np.int64
    assert order.tolist() == farthest_by_loops(points.astype(np.float64), 30, start)


def test_farthest_point_order_takes_any_layout_and_float():
    points = random_points(3, 60).T.astype(np.float64)
    copy = np.ascontiguousarray(points, dtype=np.float32)
    assert farthest_point_order(points, 60).tolist() == farthest_point_order(copy, 60).tolist()


def test_preprocessing_has_its_order_whatever_the_switch_says(monkeypatch):
    points = random_points(50, 3)
    order = farthest_point_order(points, 20)
    monkeypatch.setenv("DRFER_FAST", "0")
    assert farthest_point_order(points, 20).tolist() == order.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_along_the_curve_each_point_comes_once_and_near_its_neighbours(dtype):
    points = random_points(3000, 3, seed=4).astype(dtype)
    order = along_curve(points)
    assert sorted(order) == list(range(3000))

    def mean_step(points):
        return np.linalg.norm(np.diff(points, axis=0), axis=1).mean()

    assert mean_step(points[order]) < 0.2 * mean_step(points)


def test_the_curve_goes_through_one_eighth_after_the_other():
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    points = np.concatenate([corners + 0.1 * random_points(8, 3, seed=k) for k in range(5)])
    octant = np.tile(np.arange(8), 5)[along_curve(points.clip(-0.2, 1.2))]
    assert (np.diff(octant) != 0).sum() == 7


@pytest.mark.parametrize("broken", ["query", "first point", "all points"])
def test_nearest_stays_within_the_cloud_where_a_point_is_not_a_number(broken):
    queries = torch.from_numpy(random_points(2, 300, 3))
    points = torch.from_numpy(random_points(2, 40, 3, seed=1))
    spoiled = {"query": queries, "first point": points[:, :1], "all points": points}
    spoiled[broken].fill_(float("nan"))
    index = nearest(queries, points)
    assert 0 <= index.min() and index.max() < 40
