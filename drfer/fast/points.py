"""The point operators of `drfer.models.points` as compiled loops, for the CPU.

Every function gives the indices that its plain twin gives; only where distances differ by less than
rounding may it be another index. The loops save time by looking at fewer pairs: points near each
other are put into blocks, and a block that is too far away is passed over as a whole. (A ball query
is done when the ball is full.)
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from drfer.fast.compiled import interrupts_held, parallel_loops

BLOCK = 32
"""Points that are looked at, or passed over, together."""
GROUP = 16
"""Blocks that are passed over together."""


def farthest_point_sample(points: Tensor, count: int) -> Tensor:
    """Return what `drfer.models.points.farthest_point_sample` does, for clouds on a CPU."""
    return torch.from_numpy(_farthest_points(_array(points), count, 0))


def ball_query(points: Tensor, centroids: Tensor, radius: float, count: int) -> Tensor:
    """Return what `drfer.models.points.ball_query` does, for clouds on a CPU."""
    return torch.from_numpy(_balls(_array(points), _array(centroids), radius, count))


def nearest(queries: Tensor, points: Tensor) -> Tensor:
    """Return what `drfer.models.points.nearest` does, for clouds on a CPU."""
    return torch.from_numpy(_nearest(_array(queries), _array(points)))


def farthest_point_order(points: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Sample the farthest points of one cloud, in the order in which they are chosen.

    This is for preprocessing, and runs as compiled loops whatever `DRFER_FAST` says.

    Args:
        points: one cloud, shape (N, 3), in any unit; distances are computed in float32.
        count: how many points to choose, from 1 to N.
        start: index of the first chosen point.

    Returns:
        Indices into `points`, shape (count,), int64, the first of them `start`.
    """
    cloud = np.ascontiguousarray(points, dtype=np.float32)[None]
    return _farthest_points(cloud, count, start)[0]


def along_curve(points: np.ndarray) -> np.ndarray:
    """Order the points of one cloud along a curve through space, so that near ones follow each other.

    The curve is Morton's: it goes through each eighth of the bounding box before it enters the next.

    Args:
        points: one cloud, shape (N, 3), in any unit.

    Returns:
        Indices into `points`, shape (N,), int64.
    """
    with interrupts_held():  # the first call compiles
        return _along_curve(np.ascontiguousarray(points))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@parallel_loops
def _farthest_points(points, count, start):
    chosen = np.empty((len(points), count), dtype=np.int64)
    for cloud in numba.prange(len(points)):
        _farthest_points_of_cloud(points[cloud], start, chosen[cloud])
    return chosen


@numba.njit(cache=True)
def _farthest_points_of_cloud(points, start, chosen):
    """Farthest point sampling that updates distances only where they can change.

    A block (or group of blocks) stays as it is if its bounding box is farther from the latest point
    than all of its points are from the points chosen before. This is exact, to the last bit: float
    subtraction, product and sum are monotone, so that the distance computed to a box is never more
    than the one computed to a point in it.
    """
    order = _whole_blocks(_along_curve(points))
    low, high = _boxes(points, order, BLOCK)
    low_of_group, high_of_group = _boxes(points, order, BLOCK * GROUP)
    # coordinate by coordinate, so that the inner loop runs in vector registers
    xs, ys, zs = points[order, 0], points[order, 1], points[order, 2]
    squared = np.full(len(order), np.inf, dtype=points.dtype)
    farthest_of = np.full(len(low), np.inf, dtype=points.dtype)
    farthest_of_group = np.full(len(low_of_group), np.inf, dtype=points.dtype)
    chosen[0] = start
    for step in range(1, len(chosen)):
        x, y, z = points[chosen[step - 1]]
        for group in range(len(low_of_group)):
            to_group = _squared_to_box(low_of_group, high_of_group, group, x, y, z)
            if to_group < farthest_of_group[group]:
                farthest_of_group[group] = -1
                for block in range(group * GROUP, min((group + 1) * GROUP, len(low))):
                    if _squared_to_box(low, high, block, x, y, z) < farthest_of[block]:
                        farthest = np.float32(-1)
                        for i in range(block * BLOCK, block * BLOCK + BLOCK):
                            dx, dy, dz = xs[i] - x, ys[i] - y, zs[i] - z
                            squared[i] = min(squared[i], dx * dx + dy * dy + dz * dz)
                            farthest = max(farthest, squared[i])
                        farthest_of[block] = farthest
                    farthest_of_group[group] = max(farthest_of_group[group], farthest_of[block])
        chosen[step] = _lowest_index(order, squared, farthest_of, farthest_of_group)


@numba.njit(cache=True, inline="always")
def _lowest_index(order, squared, farthest_of, farthest_of_group):
    """Return the lowest index of the points that are farthest away."""
    farthest = farthest_of_group.max()
    lowest = len(order)
    for group in np.flatnonzero(farthest_of_group == farthest):
        for block in range(group * GROUP, min((group + 1) * GROUP, len(farthest_of))):
            if farthest_of[block] == farthest:
                for i in range(block * BLOCK, block * BLOCK + BLOCK):
                    if squared[i] == farthest and order[i] < lowest:
                        lowest = order[i]
    return lowest


@numba.njit(cache=True, inline="always")
def _squared_to_box(low, high, box, x, y, z):
    """Return the squared distance of a point from one of several boxes, 0 inside."""
    zero = low.dtype.type(0)
    dx = max(low[box, 0] - x, x - high[box, 0], zero)
    dy = max(low[box, 1] - y, y - high[box, 1], zero)
    dz = max(low[box, 2] - z, z - high[box, 2], zero)
    return dx * dx + dy * dy + dz * dz


@numba.njit(cache=True)
def _whole_blocks(order):
    """Repeat the last index until the blocks are full: loops of a known length are faster."""
    padded = np.full((len(order) + BLOCK - 1) // BLOCK * BLOCK, order[-1])
    padded[: len(order)] = order
    return padded


@numba.njit(cache=True)
def _along_curve(points):
    """Return the order of points along Morton's curve, shape (N,)."""
    keys = _morton_codes(points).astype(np.int64)
    for i in range(len(keys)):
        keys[i] = keys[i] << 32 | i
    keys.sort()
    return keys & 0xFFFFFFFF


@numba.njit(cache=True)
def _morton_codes(points):
    """Return Morton codes, shape (N,): the bits of the three coordinates in turn."""
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
    """Return the lowest and the highest coordinates, shape (blocks, 3), of blocks of `size` points."""
    blocks = (len(order) + size - 1) // size
    low = np.full((blocks, 3), np.inf, dtype=points.dtype)
    high = np.full((blocks, 3), -np.inf, dtype=points.dtype)
    for i in range(len(order)):
        for axis in range(3):
            low[i // size, axis] = min(low[i // size, axis], points[order[i], axis])
            high[i // size, axis] = max(high[i // size, axis], points[order[i], axis])
    return low, high


@parallel_loops
def _balls(points, centroids, radius, count):
    squared_radius = points.dtype.type(radius * radius)  # rounded as the distances are
    index = np.empty((len(points), centroids.shape[1], count), dtype=np.int64)
    for cloud in numba.prange(len(points)):
        _balls_of_cloud(points[cloud], centroids[cloud], squared_radius, index[cloud])
    return index


@numba.njit(cache=True)
def _balls_of_cloud(points, centroids, squared_radius, index):
    """Ball query that ends its search of a ball as soon as the ball is full."""
    total, count = len(points), index.shape[1]
    blocks = (total + BLOCK - 1) // BLOCK
    places = np.full((3, blocks * BLOCK), np.nan, dtype=points.dtype)  # in no ball
    places[:, :total] = points.T
    xs, ys, zs = places[0], places[1], places[2]
    squared = np.empty(BLOCK, dtype=points.dtype)
    members = np.zeros(count + BLOCK, dtype=np.int64)
    for group in range(len(centroids)):
        x, y, z = centroids[group]
        found = 0
        for block in range(blocks):
            for i in range(BLOCK):
                dx, dy, dz = (
                    xs[block * BLOCK + i] - x,
                    ys[block * BLOCK + i] - y,
                    zs[block * BLOCK + i] - z,
                )
                squared[i] = dx * dx + dy * dy + dz * dz
            for i in range(BLOCK):  # without a branch: what is outside is written over
                members[found] = block * BLOCK + i
                found += squared[i] <= squared_radius
            if found >= count:
                break
        if found == 0:
            members[0] = 0
        for k in range(count):
            index[group, k] = members[k] if k < found else members[0]


@parallel_loops
def _nearest(queries, points):
    index = np.empty(queries.shape[:2], dtype=np.int64)
    for cloud in numba.prange(len(queries)):
        _nearest_of_cloud(queries[cloud], points[cloud], index[cloud])
    return index


@numba.njit(cache=True)
def _nearest_of_cloud(queries, points, index):
    """Nearest neighbours that look only into blocks whose bounding box is near enough.

    Queries are answered in their order along Morton's curve, too: the answer to one is a good first
    guess for the next.
    """
    order = _whole_blocks(_along_curve(points))
    low, high = _boxes(points, order, BLOCK)
    low_x, low_y, low_z = low[:, 0].copy(), low[:, 1].copy(), low[:, 2].copy()
    high_x, high_y, high_z = high[:, 0].copy(), high[:, 1].copy(), high[:, 2].copy()
    xs, ys, zs = points[order, 0], points[order, 1], points[order, 2]
    to_box = np.empty(len(low), dtype=points.dtype)
    squared = np.empty(BLOCK, dtype=points.dtype)
    zero = points.dtype.type(0)
    best = 0
    for query in _along_curve(queries):
        x, y, z = queries[query]
        dx, dy, dz = points[best, 0] - x, points[best, 1] - y, points[best, 2] - z
        least = dx * dx + dy * dy + dz * dz
        for block in range(len(low)):
            dx = max(low_x[block] - x, x - high_x[block], zero)
            dy = max(low_y[block] - y, y - high_y[block], zero)
            dz = max(low_z[block] - z, z - high_z[block], zero)
            to_box[block] = dx * dx + dy * dy + dz * dz
        for block in range(len(low)):
            if to_box[block] <= least:
                first = block * BLOCK
                near = 0  # a sum of whole numbers runs in vector registers, a minimum does not
                for i in range(BLOCK):
                    dx, dy, dz = xs[first + i] - x, ys[first + i] - y, zs[first + i] - z
                    squared[i] = dx * dx + dy * dy + dz * dz
                    near += squared[i] <= least
                if near > 0:
                    for i in range(BLOCK):  # equally near points: the lowest index
                        if squared[i] < least or squared[i] == least and order[first + i] < best:
                            least, best = squared[i], order[first + i]
        index[query] = best
