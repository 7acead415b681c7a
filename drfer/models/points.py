"""Point operators: farthest point sampling, ball query and nearest neighbours (Qi et al. 2017).

Each operator stands here twice. The form whose name ends in `_plain` is the definition in torch,
for any device, and the one to read. The form without gives the same indices from whatever is fast
on the device of its input: the compiled loops of `drfer.fast.points` on a CPU, torch-cluster for
farthest point sampling on a GPU if it is built for CUDA, and the plain form elsewhere. `backends`
says which serve on this machine.

Built in notebook 02.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import Tensor

from drfer import fast
from drfer.common.errors import ShapeError
from drfer.fast import points as compiled

MOST_DISTANCES = 1 << 25
"""That the plain form of `nearest` computes at a time: in float32, each step of it takes 128 MB."""


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Pick rows of each cloud by their index; gradients pass back to the picked rows.

    Args:
        values: one row for each point, shape (B, N, C).
        index: which rows to take, from 0 to N - 1, shape (B, ...).

    Returns:
        Rows, shape (B, ..., C): `values[b, index[b, ...]]` for each cloud b.
    """
    batch, count, channels = values.shape
    start = torch.arange(batch, device=index.device).view(-1, *[1] * (index.dim() - 1)) * count
    flat = values.reshape(batch * count, channels).index_select(0, (index + start).reshape(-1))
    return flat.view(*index.shape, channels)


def farthest_point_sample(points: Tensor, count: int) -> Tensor:
    """Choose points that are far from each other (Qi et al. 2017, section 3.2).

    The first is point 0. Each next one is the point farthest from all chosen so far, the one of
    lowest index if several are (on a GPU with torch-cluster, any of them). So the first k of the
    result are the sample of k points.

    Args:
        points: clouds, shape (B, N, 3), in any unit.
        count: how many points to choose, from 1 to N.

    Returns:
        Indices into N, shape (B, count), int64, in the order in which they are chosen.

    Raises:
        ShapeError: the points have another shape, or the count is not from 1 to N.
    """
    _check_points(points)
    if not 1 <= count <= points.shape[1]:
        raise ShapeError(f"cannot sample {count} of {points.shape[1]} points")
    points = points.detach().float()
    if _compiled_serve(points):
        return compiled.farthest_point_sample(points, count)
    if points.device.type == "cuda" and torch_cluster_has_cuda():
        return _farthest_point_sample_cluster(points, count)
    return farthest_point_sample_plain(points, count)


def farthest_point_sample_plain(points: Tensor, count: int) -> Tensor:
    """Define `farthest_point_sample`, one chosen point after the other."""
    batch, total, _ = points.shape
    clouds = torch.arange(batch, device=points.device)
    chosen = torch.zeros(batch, count, dtype=torch.long, device=points.device)
    to_chosen = points.new_full((batch, total), float("inf"))
    for step in range(1, count):
        latest = points[clouds, chosen[:, step - 1]][:, None]
        to_chosen = torch.minimum(to_chosen, (points - latest).square().sum(dim=-1))
        chosen[:, step] = to_chosen.argmax(dim=1)
    return chosen


def ball_query(points: Tensor, centroids: Tensor, radius: float, count: int) -> Tensor:
    """Find the points in a ball around each centroid (Qi et al. 2017, section 3.2).

    A ball takes the first `count` points by index whose distance is at most the radius. If it holds
    fewer, the first one found fills it up; if it holds none, point 0 does. Of points in
    farthest-point order, the first few cover the ball evenly.

    Args:
        points: clouds, shape (B, N, 3).
        centroids: centres of the balls, shape (B, S, 3), in the same unit.
        radius: of the balls, in the same unit.
        count: how many points a ball takes, K.

    Returns:
        Indices into N, shape (B, S, K), int64.

    Raises:
        ShapeError: the shapes do not fit together.
    """
    _check_points(points, centroids)
    if _compiled_serve(points):
        return compiled.ball_query(points, centroids, radius, count)
    return ball_query_plain(points.detach(), centroids.detach(), radius, count)


def ball_query_plain(points: Tensor, centroids: Tensor, radius: float, count: int) -> Tensor:
    """Define `ball_query`: count along the points how many the ball holds so far.

    The k-th point of a ball is where that number first reaches k.
    """
    total = points.shape[1]
    inside = squared_distances(centroids, points) <= radius * radius
    held = inside.cumsum(dim=-1, dtype=torch.int32)
    wanted = torch.arange(1, count + 1, dtype=torch.int32, device=points.device)
    index = torch.searchsorted(held, wanted.expand(*held.shape[:2], -1).contiguous())
    first = index[..., :1].remainder(total)  # point 0 if none is inside
    return torch.where(index == total, first, index)


def nearest(queries: Tensor, points: Tensor) -> Tensor:
    """Find the nearest point of each query, the one of lowest index if several are equally near.

    Args:
        queries: shape (B, N, 3).
        points: among which the nearest is looked for, shape (B, M, 3), in the same unit.

    Returns:
        Indices into M, shape (B, N), int64.

    Raises:
        ShapeError: the shapes do not fit together.
    """
    _check_points(queries, points)
    if _compiled_serve(queries):
        return compiled.nearest(queries, points)
    return nearest_plain(queries.detach(), points.detach())


def nearest_plain(queries: Tensor, points: Tensor) -> Tensor:
    """Define `nearest`, by all distances, of as many queries at a time as memory holds well."""
    at_a_time = max(MOST_DISTANCES // (len(points) * points.shape[1]), 1)
    parts = queries.split(at_a_time, dim=1)
    return torch.cat([squared_distances(part, points).argmin(dim=2) for part in parts], dim=1)


def squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """Return the squared distance of each query (B, N, 3) from each point (B, M, 3): (B, N, M).

    Axis by axis, so that nothing of the shape (B, N, M, 3) is made; and by differences, since the
    shorter way |q|^2 - 2 q.p + |p|^2 loses in float32 what near points differ by.
    """
    pairs = zip(queries.unbind(dim=2), points.unbind(dim=2))
    x, y, z = ((of_query[:, :, None] - of_point[:, None]).square() for of_query, of_point in pairs)
    return x + y + z


def backends() -> dict[str, str]:
    """Say what serves the point operators on this machine.

    Returns:
        A phrase for "cpu" (all operators) and one for "cuda" (farthest point sampling; the other
        operators are plain torch there).
    """
    cpu = "loops compiled by numba" if fast.enabled() else "plain torch (DRFER_FAST=0)"
    if torch_cluster_has_cuda():
        cuda = "torch-cluster (built with CUDA)"
    elif importlib.util.find_spec("torch_cluster") is None:
        cuda = "plain torch (torch-cluster is not installed)"
    else:
        cuda = "plain torch (torch-cluster is built for the CPU only)"
    return {"cpu": cpu, "cuda": cuda}


def torch_cluster_has_cuda() -> bool:
    """Return whether torch-cluster is installed and built with CUDA."""
    if importlib.util.find_spec("torch_cluster") is None:
        return False
    try:
        importlib.import_module("torch_cluster")
        return torch.ops.torch_cluster.cuda_version() != -1
    except (ImportError, OSError, RuntimeError, AttributeError):
        return False  # built for another version of torch, for instance


def _compiled_serve(points: Tensor) -> bool:
    return points.device.type == "cpu" and fast.enabled()


def _farthest_point_sample_cluster(points: Tensor, count: int) -> Tensor:
    import torch_cluster

    batch, total, _ = points.shape
    starts = torch.arange(batch + 1, device=points.device) * total
    # torch-cluster counts ceil(ratio * N) in float32, so the ratio aims half a point below
    ratio = points.new_full((), (count - 0.5) / total)
    flat = torch_cluster.fps(points.reshape(-1, 3), ratio=ratio, random_start=False, ptr=starts)
    return flat.view(batch, count) - starts[:-1, None]


def _check_points(*clouds: Tensor) -> None:
    """Raise a ShapeError unless all clouds are (B, N, 3), with one B."""
    for cloud in clouds:
        if cloud.dim() != 3 or cloud.shape[2] != 3:
            raise ShapeError(f"clouds have the shape (B, N, 3), not {tuple(cloud.shape)}")
        if 0 in cloud.shape or len(cloud) != len(clouds[0]):
            shapes = " and ".join(str(tuple(one.shape)) for one in clouds)
            raise ShapeError(f"clouds need points, and the same batch size, not {shapes}")
