"""Point operators: farthest point sampling, ball query, nearest neighbours. One function each, backends inside.

Every backend returns the same indices, but for pairs whose distances differ by less than rounding; the tests hold
them against plain loops. On the CPU loops compiled by numba serve; on a GPU torch-cluster's FPS where it was built
for CUDA, and torch itself. `backends()` says which serves what, and why.
"""

from __future__ import annotations

import importlib.util

import numba
import numpy as np
import torch
from torch import Tensor

from drfer.scan import ShapeError

# numba's own threads: sharing OpenMP with torch would reset the number of threads that torch was given
numba.config.THREADING_LAYER = "workqueue"


def gather(values: Tensor, index: Tensor) -> Tensor:
    """values (B, N, C), index (B, ...) into N -> (B, ..., C)."""
    batch, count, channels = values.shape
    start = torch.arange(batch, device=index.device).view(-1, *[1] * (index.dim() - 1)) * count
    flat = values.reshape(batch * count, channels).index_select(0, (index + start).reshape(-1))
    return flat.view(*index.shape, channels)


def farthest_point_sample(points: Tensor, count: int) -> Tensor:
    """Indices (B, count) of farthest point sampling, starting at point 0 (Qi et al. 2017, section 3.2).

    points: (B, N, 3). Each next point is the one farthest from all chosen so far; so the first k of the result
    are the k-point sample. Raises ShapeError if count exceeds N.
    """
    _check_points(points)
    if not 1 <= count <= points.shape[1]:
        raise ShapeError(f"cannot sample {count} of {points.shape[1]} points")
    points = points.detach().float()
    if points.device.type == "cpu":
        _use_torch_threads()
        return torch.from_numpy(_farthest_points_compiled(_array(points), count, 0))
    if points.device.type == "cuda" and torch_cluster_has_cuda():
        return _farthest_point_sample_cluster(points, count)
    return farthest_point_sample_plain(points, count)


def farthest_point_order(points: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Farthest point sampling of one cloud (N, 3) on the CPU: indices (count,) int64, the first of them `start`."""
    return _farthest_points_compiled(np.ascontiguousarray(points, dtype=np.float32)[None], count, start)[0]


def farthest_point_sample_plain(points: Tensor, count: int) -> Tensor:
    """The definition, one point at a time: for any device, and to read."""
    batch, total, _ = points.shape
    chosen = torch.zeros(batch, count, dtype=torch.long, device=points.device)
    distance = points.new_full((batch, total), float("inf"))
    rows = torch.arange(batch, device=points.device)
    for step in range(1, count):
        latest = points[rows, chosen[:, step - 1]][:, None]
        distance = torch.minimum(distance, (points - latest).square().sum(dim=-1))
        chosen[:, step] = distance.argmax(dim=1)
    return chosen


def _farthest_point_sample_cluster(points: Tensor, count: int) -> Tensor:
    import torch_cluster

    batch, total, _ = points.shape
    cloud = torch.arange(batch, device=points.device).repeat_interleave(total)
    # torch-cluster counts ceil(ratio * N) in float32: aim half a point below
    flat = torch_cluster.fps(points.reshape(-1, 3), cloud, ratio=(count - 0.5) / total, random_start=False)
    assert flat.numel() == batch * count, "torch-cluster sampled another number of points"
    return flat.view(batch, count) - torch.arange(batch, device=points.device)[:, None] * total


def ball_query(points: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """The first `count` points by index within `radius` of each centre: (B, S, count) indices into N.

    points: (B, N, 3), centres: (B, S, 3). Where fewer lie inside, the first found fills up; where none does, point 0
    (Qi et al. 2017, section 3.2). With points in farthest-point order the first K cover the ball from coarse to fine.
    """
    _check_points(points, centres)
    points, centres = points.detach(), centres.detach()
    if points.device.type == "cpu":
        _use_torch_threads()
        return torch.from_numpy(_ball_query_compiled(_array(points), _array(centres), radius, count))
    return ball_query_plain(points, centres, radius, count)


def ball_query_plain(points: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """Ball query by all distances and a sort: for any device, and to read."""
    total = points.shape[1]
    squared = (centres[:, :, None] - points[:, None]).square().sum(dim=-1)
    index = torch.arange(total, device=points.device).expand_as(squared)
    index = index.masked_fill(squared > radius * radius, total).sort(dim=-1).values
    if count > total:
        index = torch.nn.functional.pad(index, (0, count - total), value=total)
    index = index[..., :count]
    first = index[..., :1].remainder(total)  # none inside: point 0
    return torch.where(index == total, first, index)


def nearest(queries: Tensor, points: Tensor) -> Tensor:
    """Index (B, N) of each query's nearest point. queries: (B, N, 3), points: (B, M, 3); ties: the lowest index."""
    _check_points(queries, points)
    queries, points = queries.detach(), points.detach()
    if queries.device.type == "cpu":
        _use_torch_threads()
        return torch.from_numpy(_nearest_compiled(_array(queries), _array(points).transpose(0, 2, 1).copy()))
    return nearest_plain(queries, points)


def nearest_plain(queries: Tensor, points: Tensor) -> Tensor:
    """Nearest neighbours by all distances: for any device, and to read."""
    return torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=-1)


def torch_cluster_has_cuda() -> bool:
    """Whether torch-cluster is there and its extensions were built with CUDA."""
    if importlib.util.find_spec("torch_cluster") is None:
        return False
    try:
        import torch_cluster  # noqa: F401  (loads the operators)

        return torch.ops.torch_cluster.cuda_version() != -1
    except (ImportError, OSError, RuntimeError, AttributeError):
        return False


def backends() -> dict[str, str]:
    """Which backend serves farthest point sampling on which device, and why."""
    installed = importlib.util.find_spec("torch_cluster") is not None
    if torch_cluster_has_cuda():
        cuda = "torch-cluster (built with CUDA)"
    elif installed:
        cuda = "plain torch loop (torch-cluster was built for the CPU only and fails on CUDA tensors)"
    else:
        cuda = "plain torch loop (torch-cluster is not installed)"
    return {"cpu": "loops compiled by numba (several times faster there than torch-cluster)", "cuda": cuda}


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()


def _use_torch_threads() -> None:
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def _check_points(*clouds: Tensor) -> None:
    for cloud in clouds:
        if cloud.dim() != 3 or 0 in cloud.shape or cloud.shape[-1] != 3 or len(cloud) != len(clouds[0]):
            raise ShapeError(f"point clouds must be (B, N, 3) of one batch, not {[tuple(c.shape) for c in clouds]}")


@numba.njit(parallel=True, cache=True)
def _farthest_points_compiled(points, count, start):
    batch, total, _ = points.shape
    chosen = np.full((batch, count), start, dtype=np.int64)
    for cloud in numba.prange(batch):
        # coordinate by coordinate, so that the inner loops run in vector registers
        xs, ys, zs = points[cloud, :, 0].copy(), points[cloud, :, 1].copy(), points[cloud, :, 2].copy()
        squared = np.full(total, np.inf, dtype=points.dtype)
        for step in range(1, count):
            latest = chosen[cloud, step - 1]
            x, y, z = xs[latest], ys[latest], zs[latest]
            for i in range(total):
                dx, dy, dz = xs[i] - x, ys[i] - y, zs[i] - z
                squared[i] = min(squared[i], dx * dx + dy * dy + dz * dz)
            farthest = squared[0]
            for i in range(total):
                farthest = max(farthest, squared[i])
            chosen[cloud, step] = 0
            for i in range(total):
                if squared[i] == farthest:
                    chosen[cloud, step] = i
                    break
    return chosen


@numba.njit(parallel=True, cache=True)
def _ball_query_compiled(points, centres, radius, count):
    squared_radius = points.dtype.type(radius * radius)  # rounded as the distances are
    batch, total, _ = points.shape
    groups = centres.shape[1]
    index = np.zeros((batch, groups, count), dtype=np.int64)
    for job in numba.prange(batch * groups):
        cloud, group = job // groups, job % groups
        x, y, z = centres[cloud, group]
        found = 0
        for i in range(total):
            dx, dy, dz = points[cloud, i, 0] - x, points[cloud, i, 1] - y, points[cloud, i, 2] - z
            if dx * dx + dy * dy + dz * dz <= squared_radius:
                index[cloud, group, found] = i
                found += 1
                if found == count:
                    break
        if found > 0:
            index[cloud, group, found:] = index[cloud, group, 0]
    return index


@numba.njit(parallel=True, cache=True, fastmath={"contract"})
def _nearest_compiled(queries, points):
    """points: (B, 3, M), coordinate by coordinate, so that the inner loop runs in vector registers."""
    batch, total, _ = queries.shape
    others = points.shape[2]
    index = np.zeros((batch, total), dtype=np.int64)  # a query that is NaN is nearest to nothing
    block = 64
    blocks = (total + block - 1) // block
    for job in numba.prange(batch * blocks):
        cloud, start = job // blocks, (job % blocks) * block
        squared = np.empty(others, dtype=queries.dtype)
        for q in range(start, min(start + block, total)):
            x, y, z = queries[cloud, q]
            for i in range(others):
                dx, dy, dz = points[cloud, 0, i] - x, points[cloud, 1, i] - y, points[cloud, 2, i] - z
                squared[i] = dx * dx + dy * dy + dz * dz
            least = squared[0]
            for i in range(others):
                least = min(least, squared[i])
            for i in range(others):
                if squared[i] == least:
                    index[cloud, q] = i
                    break
    return index
