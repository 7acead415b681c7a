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

from drfer.common.errors import ShapeError

# OpenMP's threads look for work for a moment before they sleep (see drfer/__init__.py); numba's own ones sleep at once
numba.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]


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
        use_torch_threads()
        return torch.from_numpy(_farthest_points_compiled(_array(points), count, 0))
    if points.device.type == "cuda" and torch_cluster_has_cuda():
        return _farthest_point_sample_cluster(points, count)
    return farthest_point_sample_plain(points, count)


def farthest_point_order(points: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Farthest point sampling of one cloud (N, 3) on the CPU: indices (count,) int64, the first of them `start`."""
    use_torch_threads()
    return _farthest_points_compiled(
        np.ascontiguousarray(points, dtype=np.float32)[None], count, start
    )[0]


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
    flat = torch_cluster.fps(
        points.reshape(-1, 3), cloud, ratio=(count - 0.5) / total, random_start=False
    )
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
        use_torch_threads()
        return torch.from_numpy(
            _ball_query_compiled(_array(points), _array(centres), radius, count)
        )
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
        use_torch_threads()
        return torch.from_numpy(_nearest_compiled(_array(queries), _array(points)))
    return nearest_plain(queries, points)


def nearest_plain(queries: Tensor, points: Tensor) -> Tensor:
    """Nearest neighbours by all distances: for any device, and to read."""
    # cloud by cloud: all distances of a batch at once are more than a GPU's kernel takes
    pairs = zip(queries, points)
    return torch.stack([(a[:, None] - b).square().sum(dim=-1).argmin(dim=1) for a, b in pairs])


def by_place(points: np.ndarray) -> np.ndarray:
    """An order of points (N, 3) in which near ones follow each other."""
    return np.argsort(_place_codes(np.ascontiguousarray(points)))


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
        cuda = (
            "plain torch loop (torch-cluster was built for the CPU only and fails on CUDA tensors)"
        )
    else:
        cuda = "plain torch loop (torch-cluster is not installed)"
    return {
        "cpu": "loops compiled by numba (several times faster there than torch-cluster)",
        "cuda": cuda,
    }


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()


def use_torch_threads() -> None:
    """Let numba's loops take as many threads as torch does."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if (
        torch.get_num_threads() != threads
    ):  # numba's first call starts OpenMP's threads, as many as there are cores
        torch.set_num_threads(threads)


def _check_points(*clouds: Tensor) -> None:
    for cloud in clouds:
        if (
            cloud.dim() != 3
            or 0 in cloud.shape
            or cloud.shape[-1] != 3
            or len(cloud) != len(clouds[0])
        ):
            raise ShapeError(
                f"point clouds must be (B, N, 3) of one batch, not {[tuple(c.shape) for c in clouds]}"
            )


BLOCK, GROUP = 32, 16
"""points that are updated, or passed over, together; and blocks of them that are passed over together"""


@numba.njit(parallel=True, cache=True)
def _farthest_points_compiled(points, count, start):
    """Farthest point sampling that looks only where something can change: neighbours are put into blocks, and blocks
    into groups; a block or group whose box is farther from the latest point than all of its points are from the chosen
    ones stays as it is.

    Exact, to the last bit: float subtraction, product and sum are monotone, so the distance computed to the box is
    never more than the one computed to a point in it.
    """
    batch = len(points)
    chosen = np.full((batch, count), start, dtype=np.int64)
    for cloud in numba.prange(batch):
        order = np.argsort(_place_codes(points[cloud]))
        low, high = _boxes(points[cloud], order, BLOCK)
        low_of_group, high_of_group = _boxes(points[cloud], order, BLOCK * GROUP)
        # coordinate by coordinate, so that the inner loop runs in vector registers
        xs, ys, zs = points[cloud, order, 0], points[cloud, order, 1], points[cloud, order, 2]
        squared = np.full(len(order), np.inf, dtype=points.dtype)
        farthest_of = np.full(len(low), np.inf, dtype=points.dtype)
        farthest_of_group = np.full(len(low_of_group), np.inf, dtype=points.dtype)
        for step in range(1, count):
            x, y, z = points[cloud, chosen[cloud, step - 1]]
            for group in range(len(low_of_group)):
                if (
                    _squared_to_box(low_of_group, high_of_group, group, x, y, z)
                    < farthest_of_group[group]
                ):
                    farthest_of_group[group] = -1
                    for block in range(group * GROUP, min((group + 1) * GROUP, len(low))):
                        if _squared_to_box(low, high, block, x, y, z) < farthest_of[block]:
                            farthest = np.float32(-1)
                            for i in range(block * BLOCK, min((block + 1) * BLOCK, len(order))):
                                dx, dy, dz = xs[i] - x, ys[i] - y, zs[i] - z
                                squared[i] = min(squared[i], dx * dx + dy * dy + dz * dz)
                                farthest = max(farthest, squared[i])
                            farthest_of[block] = farthest
                        farthest_of_group[group] = max(farthest_of_group[group], farthest_of[block])
            farthest = farthest_of_group.max()
            lowest = len(order)  # equally far points: the lowest index, as everywhere
            for group in np.flatnonzero(farthest_of_group == farthest):
                for block in range(group * GROUP, min((group + 1) * GROUP, len(low))):
                    if farthest_of[block] == farthest:
                        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(order))):
                            if squared[i] == farthest and order[i] < lowest:
                                lowest = order[i]
            chosen[cloud, step] = lowest
    return chosen


@numba.njit(cache=True, inline="always")
def _squared_to_box(low, high, box, x, y, z):
    """Squared distance of a point from one of some boxes, 0 inside."""
    zero = low.dtype.type(0)
    dx = max(low[box, 0] - x, x - high[box, 0], zero)
    dy = max(low[box, 1] - y, y - high[box, 1], zero)
    dz = max(low[box, 2] - z, z - high[box, 2], zero)
    return dx * dx + dy * dy + dz * dz


@numba.njit(cache=True)
def _place_codes(points):
    """Morton codes (N,): the bits of the three coordinates in turn, so that neighbours get codes near each other."""
    codes = np.zeros(len(points), dtype=np.int32)
    for axis in range(3):
        low = points[:, axis].min()
        step = (points[:, axis].max() - low) / 1023 + np.float32(1e-30)
        for i in range(len(points)):
            cell = np.int32((points[i, axis] - low) / step)
            for bit in range(10):
                codes[i] |= ((cell >> bit) & 1) << (3 * bit + axis)
    return codes


@numba.njit(cache=True)
def _boxes(points, order, size):
    """Lowest and highest coordinates (blocks, 3) of each block of so many points."""
    blocks = (len(order) + size - 1) // size
    low = np.full((blocks, 3), np.inf, dtype=points.dtype)
    high = np.full((blocks, 3), -np.inf, dtype=points.dtype)
    for i in range(len(order)):
        for axis in range(3):
            low[i // size, axis] = min(low[i // size, axis], points[order[i], axis])
            high[i // size, axis] = max(high[i // size, axis], points[order[i], axis])
    return low, high


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


@numba.njit(parallel=True, cache=True)
def _nearest_compiled(queries, points):
    """Nearest neighbours that look only into blocks whose box is near enough, as farthest point sampling does above.

    Queries go in the order of their places, too: the last one's answer is a good first guess for the next.
    """
    batch, total, _ = queries.shape
    index = np.zeros((batch, total), dtype=np.int64)
    for cloud in numba.prange(batch):
        order, turns = (
            np.argsort(_place_codes(points[cloud])),
            np.argsort(_place_codes(queries[cloud])),
        )
        low, high = _boxes(points[cloud], order, BLOCK)
        low_x, low_y, low_z = low[:, 0].copy(), low[:, 1].copy(), low[:, 2].copy()
        high_x, high_y, high_z = high[:, 0].copy(), high[:, 1].copy(), high[:, 2].copy()
        xs, ys, zs = points[cloud, order, 0], points[cloud, order, 1], points[cloud, order, 2]
        to_box, squared = (
            np.empty(len(low), dtype=points.dtype),
            np.empty(BLOCK, dtype=points.dtype),
        )
        zero = points.dtype.type(0)
        best = 0
        for query in turns:
            x, y, z = queries[cloud, query]
            dx, dy, dz = (
                points[cloud, best, 0] - x,
                points[cloud, best, 1] - y,
                points[cloud, best, 2] - z,
            )
            least = dx * dx + dy * dy + dz * dz
            for block in range(len(low)):
                dx = max(low_x[block] - x, x - high_x[block], zero)
                dy = max(low_y[block] - y, y - high_y[block], zero)
                dz = max(low_z[block] - z, z - high_z[block], zero)
                to_box[block] = dx * dx + dy * dy + dz * dz
            for block in range(len(low)):
                if to_box[block] <= least:
                    first = block * BLOCK
                    members = min(BLOCK, len(order) - first)
                    nearest_here = least
                    for i in range(members):
                        dx, dy, dz = xs[first + i] - x, ys[first + i] - y, zs[first + i] - z
                        squared[i] = dx * dx + dy * dy + dz * dz
                        nearest_here = min(nearest_here, squared[i])
                    for i in range(members):  # equally near points: the lowest index
                        if squared[i] == nearest_here and (
                            nearest_here < least or order[first + i] < best
                        ):
                            least, best = nearest_here, order[first + i]
            index[cloud, query] = best
    return index
