"""The point operators against slow loops that say the same one point at a time, on random and on awkward clouds."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from drfer.common.errors import ShapeError
from drfer.models import points as operators
from drfer.models.points import (
    backends,
    ball_query,
    ball_query_plain,
    farthest_point_sample,
    farthest_point_sample_plain,
    gather,
    nearest,
    nearest_plain,
)

SIZES = [(1, 2), (3, 17), (2, 64), (2, 300)]
SAMPLERS = [farthest_point_sample, farthest_point_sample_plain]
BALLS = [ball_query, ball_query_plain]
NEIGHBOURS = [nearest, nearest_plain]
DTYPES = [torch.float32, torch.float64]


def random_clouds(batch, count, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, count, 3))).to(dtype)


def grid(side):
    """Every distance in it is a small whole number squared: exact in float32, and full of ties."""
    axis = torch.arange(side, dtype=torch.float32)
    return torch.cartesian_prod(axis, axis, axis)[None]


def by_loops(loop, *clouds):
    """A loop over the clouds of a batch, in float64."""
    clouds = [cloud.double().numpy() for cloud in clouds]
    return torch.tensor([loop(*members) for members in zip(*clouds)])


def farthest_by_loops(points, count):
    chosen = [0]
    while len(chosen) < count:
        distances = [min(squared(point - points[i]) for i in chosen) for point in points]
        chosen.append(distances.index(max(distances)))
    return chosen


def is_farthest_order(points, order):
    """Whether each point is one of those farthest from all before it."""
    to_chosen = np.full(len(points), np.inf)
    for previous, point in pairwise(order):
        to_chosen = np.minimum(to_chosen, ((points - points[previous]) ** 2).sum(axis=1))
        if to_chosen[point] < to_chosen.max() * (1 - 1e-6):
            return False
    return True


def ball_by_loops(points, centroids, radius, count):
    groups = []
    for centroid in centroids:
        inside = [
            i for i, point in enumerate(points) if squared(point - centroid) <= radius * radius
        ][:count]
        groups.append(inside + [inside[0] if inside else 0] * (count - len(inside)))
    return groups


def nearest_by_loops(queries, points):
    indices = []
    for query in queries:
        distances = [squared(query - point) for point in points]
        indices.append(distances.index(min(distances)))
    return indices


def squared(difference):
    x, y, z = difference.tolist()
    return x * x + y * y + z * z


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("batch, total, count", [(1, 2, 2), (3, 17, 17), (2, 64, 20), (2, 90, 12)])
def test_farthest_points_are_those_of_the_loops(sample, batch, total, count):
    clouds = random_clouds(batch, total)
    assert sample(clouds, count).equal(
        by_loops(lambda points: farthest_by_loops(points, count), clouds)
    )


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("total, count", [(33, 33), (300, 300), (1000, 1000), (3000, 64)])
def test_each_farthest_point_is_the_farthest_from_those_before(sample, total, count):
    clouds = random_clouds(2, total, seed=1)
    for points, order in zip(clouds.double().numpy(), sample(clouds, count).numpy()):
        assert len(set(order)) == count and is_farthest_order(points, order)


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("total", [1, 2, 5, 64, 300, 2048])
def test_farthest_points_begin_at_point_0(sample, total):
    assert sample(random_clouds(3, total, seed=2), 1).tolist() == [[0]] * 3


@pytest.mark.parametrize("sample", SAMPLERS)
def test_the_first_farthest_points_are_the_smaller_sample(sample):
    clouds = random_clouds(2, 500, seed=4)
    whole = sample(clouds, 400)
    for count in (1, 2, 50, 399):
        assert sample(clouds, count).equal(whole[:, :count])


@pytest.mark.parametrize("sample", SAMPLERS)
def test_of_equally_far_points_the_lowest_index_is_sampled(sample):
    cloud = grid(4)[:, np.random.default_rng(11).permutation(64)]
    assert sample(cloud, 20).equal(by_loops(lambda points: farthest_by_loops(points, 20), cloud))


@pytest.mark.parametrize("sample", SAMPLERS)
def test_duplicates_are_sampled_last(sample):
    points = random_clouds(1, 10, seed=5)
    order = sample(points.repeat(1, 3, 1), 30)[0]
    assert sorted(i % 10 for i in order[:10].tolist()) == list(range(10))
    assert sample(points[:, :1].expand(-1, 40, -1), 40).max() < 40


@pytest.mark.parametrize(
    "batch, total, count",
    [(1, 2, 2), (3, 17, 17), (2, 100, 15), (2, 300, 5), (2, 300, 300), (4, 2048, 512)],
)
def test_torch_cluster_samples_the_same_points(batch, total, count):
    pytest.importorskip("torch_cluster")
    clouds = random_clouds(batch, total, seed=6)
    there = operators._farthest_point_sample_cluster(clouds, count)
    assert there.equal(farthest_point_sample_plain(clouds, count))
    assert there.equal(farthest_point_sample(clouds, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("query", BALLS)
@pytest.mark.parametrize("batch, total", SIZES)
@pytest.mark.parametrize("radius, count", [(0.3, 4), (0.8, 8), (2.0, 16)])
def test_balls_hold_the_points_of_the_loops(query, batch, total, radius, count, dtype):
    clouds = random_clouds(batch, total, dtype=dtype)
    centroids = random_clouds(batch, 11, seed=1, dtype=dtype)
    expected = by_loops(
        lambda points, middles: ball_by_loops(points, middles, radius, count), clouds, centroids
    )
    assert query(clouds, centroids, radius, count).equal(expected)


@pytest.mark.parametrize("query", BALLS)
def test_a_ball_with_too_few_points_repeats_its_first_and_an_empty_one_point_0(query):
    points = torch.tensor([[[9.0, 0, 0], [0, 0, 0], [0.5, 0, 0], [1, 0, 0], [9, 0, 0]]])
    centroids = torch.tensor([[[0.0, 0, 0], [9, 0, 0], [0, 50, 0]]])
    assert query(points, centroids, 0.7, 4).tolist() == [[[1, 2, 1, 1], [0, 4, 0, 0], [0, 0, 0, 0]]]


@pytest.mark.parametrize("query", BALLS)
def test_a_ball_may_ask_for_more_points_than_there_are(query):
    points = torch.tensor([[[0.0, 0, 0], [5, 0, 0], [0.1, 0, 0]]])
    assert query(points, points, 1.0, 5).tolist() == [
        [[0, 2, 0, 0, 0], [1, 1, 1, 1, 1], [0, 2, 0, 0, 0]]
    ]


@pytest.mark.parametrize("query", BALLS)
def test_a_ball_of_any_radius_holds_no_more_than_the_cloud(query):
    cloud = random_clouds(1, 40)
    index = query(cloud, cloud[:, :3], float("inf"), 64)
    assert index.tolist() == [[[*range(40), *[0] * 24]] * 3]


@pytest.mark.parametrize("query", BALLS)
def test_points_on_the_radius_are_inside(query):
    points = torch.tensor([[[3.0, 4, 0], [0, -5, 0], [0, 4, 3.0001], [-4, 0, -3]]])
    assert query(points, torch.zeros(1, 1, 3), 5.0, 3).tolist() == [[[0, 1, 3]]]
    cloud = grid(4)
    assert query(cloud, cloud, 2.0, 9).equal(
        by_loops(lambda points: ball_by_loops(points, points, 2.0, 9), cloud)
    )


@pytest.mark.parametrize("radius", [0.1, 0.2, 0.3, 0.4, 0.6])
def test_all_backends_round_the_radius_alike(radius):
    points = torch.tensor([[[9.0, 9, 9], [radius, 0, 0], [0, radius, 0]]])
    here, there = (query(points, torch.zeros(1, 1, 3), radius, 2).tolist() for query in BALLS)
    assert here == there


@pytest.mark.parametrize("query", BALLS)
def test_duplicates_fill_a_ball_in_their_order(query):
    points = random_clouds(1, 20, seed=7).repeat(1, 3, 1)
    expected = by_loops(lambda cloud: ball_by_loops(cloud, cloud, 0.5, 5), points)
    assert query(points, points, 0.5, 5).equal(expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("find", NEIGHBOURS)
@pytest.mark.parametrize("batch, total", SIZES)
def test_nearest_points_are_those_of_the_loops(find, batch, total, dtype):
    queries = random_clouds(batch, 70, dtype=dtype)
    points = random_clouds(batch, total, seed=1, dtype=dtype)
    assert find(queries, points).equal(by_loops(nearest_by_loops, queries, points))


@pytest.mark.parametrize("find", NEIGHBOURS)
def test_of_equally_near_points_the_lowest_index_is_taken(find):
    queries = grid(3) + torch.tensor([0.5, 0.5, 0])
    assert find(queries, grid(4)).equal(by_loops(nearest_by_loops, queries, grid(4)))
    points = random_clouds(1, 25, seed=8)
    assert find(points.repeat(1, 2, 1), points.repeat(1, 3, 1)).tolist() == [
        [*range(25), *range(25)]
    ]


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3)])
def test_gather_takes_each_index_from_its_own_cloud(shape):
    generator = np.random.default_rng(9)
    values = torch.from_numpy(generator.normal(size=(5, 13, 4)))
    index = torch.from_numpy(generator.integers(0, 13, size=shape))
    taken = gather(values, index)
    assert taken.shape == (*shape, 4)
    for where in np.ndindex(shape):
        assert taken[where].equal(values[where[0], index[where]])


def test_gather_passes_gradients_back_also_to_a_row_taken_twice():
    values = random_clouds(2, 5, dtype=torch.float64).requires_grad_()
    index = torch.tensor([[[0, 0, 4], [1, 0, 0]], [[2, 2, 2], [3, 1, 0]]])
    assert torch.autograd.gradcheck(lambda rows: gather(rows, index), values)


@pytest.mark.parametrize(
    "call",
    [
        lambda cloud: farthest_point_sample(cloud[0], 2),
        lambda cloud: farthest_point_sample(cloud[..., :2], 2),
        lambda cloud: farthest_point_sample(cloud, 6),
        lambda cloud: farthest_point_sample(cloud, 0),
        lambda cloud: ball_query(cloud, cloud[:1], 1.0, 2),
        lambda cloud: ball_query(cloud, cloud[0], 1.0, 2),
        lambda cloud: ball_query(cloud.mT, cloud, 1.0, 2),
        lambda cloud: nearest(cloud, cloud[:1]),
        lambda cloud: nearest(cloud, cloud[..., :2]),
        lambda cloud: nearest(cloud[0], cloud),
        lambda cloud: nearest(cloud, cloud[:, :0]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ShapeError):
        call(random_clouds(2, 5))


def test_the_operators_take_clouds_that_are_views_or_need_gradients():
    clouds = random_clouds(2, 40).requires_grad_()
    view = clouds.mT.contiguous().mT[:, ::2]
    copy = view.detach().clone()
    assert farthest_point_sample(view, 9).equal(farthest_point_sample(copy, 9))
    assert ball_query(view, view[:, :5], 0.7, 4).equal(ball_query(copy, copy[:, :5], 0.7, 4))
    assert nearest(view[:, :5], view).equal(nearest(copy[:, :5], copy))


def test_backends_say_what_serves_either_device(monkeypatch):
    assert backends().keys() == {"cpu", "cuda"}
    assert "numba" in backends()["cpu"]
    monkeypatch.setenv("DRFER_FAST", "0")
    assert "plain" in backends()["cpu"] and "DRFER_FAST" in backends()["cpu"]


@pytest.mark.parametrize(
    "version, said", [(-1, "built for the CPU only"), (12080, "built with CUDA")]
)
def test_backends_name_torch_cluster_on_a_gpu_only_if_it_is_built_for_it(
    version, said, monkeypatch
):
    pytest.importorskip("torch_cluster")
    monkeypatch.setattr(torch.ops.torch_cluster, "cuda_version", lambda: version)
    assert said in backends()["cuda"]


def test_a_torch_cluster_that_cannot_be_loaded_is_none(monkeypatch):
    pytest.importorskip("torch_cluster")

    def undefined_symbol(name):
        raise OSError("undefined symbol")

    monkeypatch.setattr(operators.importlib, "import_module", undefined_symbol)
    assert not operators.torch_cluster_has_cuda()


OPERATORS = {
    "farthest_point_sample": lambda cloud: farthest_point_sample(cloud, 9),
    "ball_query": lambda cloud: ball_query(cloud, cloud[:, :5], 0.7, 4),
    "nearest": lambda cloud: nearest(cloud[:, :5] + 0.1, cloud),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("switch, form", [("0", "plain"), ("1", "compiled"), (None, "compiled")])
def test_one_switch_chooses_between_compiled_loops_and_plain_torch(name, switch, form, monkeypatch):
    called = []

    def spied(said, function):
        return lambda *arguments: (called.append(said), function(*arguments))[1]

    plain, compiled = getattr(operators, f"{name}_plain"), getattr(operators.compiled, name)
    monkeypatch.setattr(operators, f"{name}_plain", spied("plain", plain))
    monkeypatch.setattr(operators.compiled, name, spied("compiled", compiled))
    monkeypatch.delenv("DRFER_FAST", raising=False)
    if switch is not None:
        monkeypatch.setenv("DRFER_FAST", switch)
    clouds = random_clouds(2, 40)
    index = OPERATORS[name](clouds)
    assert called == [form]
    monkeypatch.setenv("DRFER_FAST", "1" if form == "plain" else "0")
    assert index.equal(OPERATORS[name](clouds)) and len(set(called)) == 2


@pytest.mark.gpu
@pytest.mark.parametrize(
    "operator",
    [
        lambda cloud: farthest_point_sample(cloud, 200),
        lambda cloud: ball_query(cloud, cloud[:, :64], 0.3, 8),
        lambda cloud: nearest(cloud[:, :64] + 0.1, cloud),
        lambda cloud: gather(cloud, nearest(cloud + 0.1, cloud)),
    ],
)
def test_the_gpu_gives_the_same(operator):
    clouds = random_clouds(3, 500, seed=10)
    assert operator(clouds.cuda()).cpu().equal(operator(clouds))
