"""A set abstraction level's PointNet on a CPU, from groups of points to one feature of each.

A level has many rows (393,216 of 64 to 128 channels at the paper's sizes) and its matrix products
are fast. Batch norm, ReLU and the maximum over neighbours, which read and write all rows several
times each, would take most of a training step. Here the whole level is one operation. It works on
parts of the rows that stay in the processor's cache, and does everything to a part that can be done
before the sums over all rows, which batch norm waits for, are known.

With r_k the rows that enter the k-th batch norm, and x_k = relu(norm_k(r_k)):

    forward     r_0 = W_x (x_j - x_i) + W_f f_j,  r_k = W_k x_{k-1},  maximum of norm_L(r_L)
    backward    gradient of x_{L-1}, then of x_{L-2}, and so on, and at last of points and features

Only the rows r_0 to r_{L-1} are kept; x_k is computed again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from drfer.fast import group_loops
from drfer.fast.compiled import use_torch_threads
from drfer.fast.moments import Moments, array_of
from drfer.models.pointnet2 import SharedMLP

BLOCK_VALUES = 1 << 22
"""How many values of rows are worked on together, so that they stay in the cache between passes."""
MOST_MEMBERS = 256
"""Of a group: the number of the largest is kept in a byte."""


def describe_groups(
    points: Tensor,
    centroids: Tensor,
    neighbours: Tensor,
    features: Tensor | None,
    shared: SharedMLP,
) -> Tensor:
    """Return the maximum over each group of shared([x_j - x_i ; f_j]).

    The gradient of the maximum goes to the first of the largest, where `amax` shares it among
    equals. Equal members are mostly one point, repeated to fill a ball; in bfloat16 also points that
    8 bits do not tell apart.

    In autocast, matrix products are in bfloat16, but coordinates enter in float32: rounded to 8
    bits, they would be off by up to 0.2 mm.

    Args:
        points: x_j, shape (B, N, 3), float32.
        centroids: x_i, one for each group, shape (B, S, 3).
        neighbours: which points are the members of a group, shape (B, S, K), K at most 256.
        features: f_j, shape (B, N, C), or None.
        shared: two shared layers or more; their running statistics follow the rows.

    Returns:
        Shape (B, S, C').
    """
    first, *others = (layer.weight for layer in shared.linears)
    of_places, of_features = first.tensor_split([3], dim=1)
    # linear, so that features can be multiplied before they are gathered: once for each point
    located = None if features is None else linear(features, of_features)
    norms = [parameter for norm in shared.norms for parameter in (norm.weight, norm.bias)]
    pooled = _DescribeGroups.apply(
        shared.norms, neighbours, points, centroids, located, of_places, *others, *norms
    )
    return pooled.relu()


class _DescribeGroups(torch.autograd.Function):
    @staticmethod
    def forward(ctx, norms, neighbours, points, centroids, located, of_places, *parameters):
        weights = parameters[: len(norms) - 1]
        batch, groups, members = neighbours.shape
        count = neighbours.numel()
        rows, *sums = _first_rows(neighbours, points, centroids, located, of_places)
        all_rows, ctx.moments = [rows], [Moments.of(norms[0], count, *sums)]
        for norm, weight in zip(norms[1:], weights[:-1]):
            rows, *sums = _next_rows(rows, ctx.moments[-1], weight)
            all_rows.append(rows)
            ctx.moments.append(Moments.of(norm, count, *sums))

        ctx.largest, ctx.index, *sums = _largest_of_groups(
            rows, ctx.moments[-1], weights[-1], norms[-1].weight, members
        )
        ctx.last = Moments.of(norms[-1], count, *sums)
        ctx.save_for_backward(
            neighbours, points, centroids, located, of_places, *weights, *all_rows
        )
        return ctx.last.normed(ctx.largest).to(rows.dtype).view(batch, groups, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        with torch.autocast("cpu", enabled=False):  # also where it is called inside autocast
            return _DescribeGroups._gradients(ctx, gradient)

    @staticmethod
    def _gradients(ctx, gradient: Tensor):
        neighbours, points, centroids, located, of_places, *others = ctx.saved_tensors
        weights, rows, moments = others[: len(ctx.moments)], others[len(ctx.moments) :], ctx.moments
        into = gradient.float().flatten(0, 1).contiguous()
        of_norms = [ctx.last.gradients_at(ctx.largest, into)]
        of_x, of_product, sums = _through_largest(
            rows[-1], moments[-1], weights[-1], ctx.last, into, ctx.index, of_norms[0]
        )
        of_weights = [of_product]
        for k in reversed(range(1, len(rows))):
            of_norms.append(moments[k].gradients(sums))
            of_x, of_product, sums = _through_product(
                of_x, rows[k], moments[k], of_norms[-1], rows[k - 1], moments[k - 1], weights[k - 1]
            )
            of_weights.append(of_product)
        of_norms.append(moments[0].gradients(sums))
        of_points, of_centroids = _through_first_rows(
            of_x, rows[0], moments[0], of_norms[-1], neighbours, points.shape[1]
        )
        return (
            None,
            None,
            of_points @ of_places if ctx.needs_input_grad[2] else None,
            -of_centroids @ of_places if ctx.needs_input_grad[3] else None,
            None if located is None else of_points.to(located.dtype),
            _outer(of_points, points) - _outer(of_centroids, centroids),
            *reversed(of_weights),
            *(torch.from_numpy(one).float() for pair in reversed(of_norms) for one in pair),
        )


def _first_rows(
    neighbours: Tensor, points: Tensor, centroids: Tensor, located: Tensor | None, weight: Tensor
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return r_0, its sums, and where these count from.

    That is some value near the rows', so that a large mean does not drown the variance.
    """
    dtype = _dtype_of_products() if located is None else located.dtype
    rows = torch.empty(neighbours.numel(), len(weight), dtype=dtype)
    first = np.zeros(len(weight), np.float32)
    if located is not None:
        first = located[0, neighbours[0, 0, 0]].detach().float().numpy()
    sums = group_loops.first_layer(
        *(each.detach().contiguous().numpy() for each in (points, centroids, neighbours)),
        None if located is None else array_of(located),
        weight.detach().T.contiguous().numpy(),
        first,
        array_of(rows),
    )
    return rows, sums, first


def _next_rows(
    rows: Tensor, moments: Moments, weight: Tensor
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return r_k = W x of x = relu(norm(r_{k-1})), its sums, and where these count from."""
    product = weight.detach().to(rows.dtype).T
    out = torch.empty(len(rows), len(weight), dtype=rows.dtype)
    sums, first = [], None
    for part in _parts(len(rows), rows.shape[1] + out.shape[1]):
        torch.mm(moments.activated(rows[part]), product, out=out[part])
        if first is None:
            first = out[0].float().numpy()
        sums.append(group_loops.sums_of_rows(array_of(out[part]), first))
    return out, np.concatenate(sums), first


def _largest_of_groups(
    rows: Tensor, moments: Moments, weight: Tensor, last_weight: Tensor, members: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the largest of each group among y = W x, the rows that enter the last norm.

    Returns:
        The largest, (G, D), and which member each is; the sums of all y, and where these count from.
    """
    groups, channels = len(rows) // members, len(weight)
    largest = np.empty((groups, channels), np.float32)
    index = np.empty((groups, channels), np.uint8)
    # the largest after a norm of negative weight was the smallest before
    sign = np.where(last_weight.detach().numpy() < 0, np.float32(-1), np.float32(1))
    product = weight.detach().to(rows.dtype).T
    sums, first = [], None
    for part in _parts(groups, members * (rows.shape[1] + channels)):
        block = torch.mm(moments.activated(rows[_rows_of(part, members)]), product)
        if first is None:
            first = block[0].float().numpy()
        of_groups = array_of(block).reshape(-1, members, channels)
        sums.append(
            group_loops.sums_and_largest(of_groups, first, sign, largest[part], index[part])
        )
    return largest, index, np.concatenate(sums), first


def _through_largest(
    rows: Tensor, moments: Moments, weight: Tensor, last: Moments, into, index, of_norm
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return the gradients of x and of W, given that of the maximum, and what x's norm waits for.

    Batch norm's gradient of y = W x is, in each channel, a sparse part e, where a row was the
    largest, less a + b y. So that of x is W'e - W'a - (W' diag(b) W) x, and that of W is
    sum e x' - a sum x' - diag(b) W sum x x'. Neither y nor its gradient is made, and products with
    W become products with C x C matrices, half as large where a layer doubles the channels.
    """
    constant, slope = (last.scale * taken for taken in last.taken(*of_norm))  # a, b
    into = into * torch.from_numpy(last.scale)  # e
    members = len(rows) // len(into)
    matrix = weight.detach().float().contiguous()
    constant, slope = torch.from_numpy(constant), torch.from_numpy(slope)
    through = -((matrix.T * slope) @ matrix).to(rows.dtype)
    shift_of_x = -(constant @ matrix).numpy()
    of_x = torch.empty_like(rows)
    gram, of_product, sum_of_x, sums = 0, 0, 0, []
    for part in _parts(len(into), members * 2 * rows.shape[1]):
        where = _rows_of(part, members)
        x = moments.activated(rows[where])
        torch.mm(x, through, out=of_x[where])
        gram = gram + (x.T @ x).float()
        of_groups = (
            array_of(each).reshape(-1, members, x.shape[1])
            for each in (rows[where], x, of_x[where])
        )
        of_part, sum_of_part, sums_of_part = group_loops.add_sparse(
            *of_groups,
            into[part].numpy(),
            index[part],
            matrix.numpy(),
            shift_of_x,
            moments.mean,
            min(use_torch_threads(), part.stop - part.start),
        )
        of_product = of_product + of_part.sum(axis=0)
        sum_of_x = sum_of_x + sum_of_part.sum(axis=0)
        sums.append(sums_of_part)
    of_product = torch.from_numpy(of_product) - torch.outer(constant, torch.from_numpy(sum_of_x))
    return of_x, of_product - slope[:, None] * (matrix @ gram), np.concatenate(sums)


def _through_product(
    of_x: Tensor, rows: Tensor, moments: Moments, of_norm, rows_before, before: Moments, weight
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return the same of r_k = W x_{k-1}, given the gradient of x_k, whose memory is used up."""
    product = weight.detach().to(rows.dtype)
    of_x_before = torch.empty_like(rows_before)
    of_product, sums = 0, []
    for part in _parts(len(rows), rows.shape[1] + 2 * rows_before.shape[1]):
        of_rows = of_x[part]
        group_loops.norm_relu_backward(
            array_of(rows[part]), array_of(of_rows), *moments.affine, *moments.taken(*of_norm)
        )
        of_product = of_product + (of_rows.T @ before.activated(rows_before[part])).float()
        torch.mm(of_rows, product, out=of_x_before[part])
        sums.append(
            group_loops.gradient_sums(
                array_of(rows_before[part]),
                array_of(of_x_before[part]),
                *before.affine,
                before.mean,
            )
        )
    return of_x_before, of_product, np.concatenate(sums)


def _through_first_rows(
    of_x: Tensor, rows: Tensor, moments: Moments, of_norm, neighbours: Tensor, points: int
) -> tuple[Tensor, Tensor]:
    """Add up the gradient of r_0: over each point's rows, (B, N, C), and each centroid's, (B, S, C)."""
    batch, groups, _ = neighbours.shape
    of_points = torch.zeros(batch, points, rows.shape[1])
    of_centroids = torch.zeros(batch, groups, rows.shape[1])
    group_loops.first_layer_backward(
        array_of(rows),
        array_of(of_x),
        *moments.affine,
        *moments.taken(*of_norm),
        neighbours.numpy(),
        of_points.numpy(),
        of_centroids.numpy(),
    )
    return of_points, of_centroids


def _outer(of_rows: Tensor, places: Tensor) -> Tensor:
    """Return the sum of gradient place' over all rows, shape (C, 3)."""
    return (places.flatten(0, 1).T @ of_rows.flatten(0, 1)).T


def _parts(count: int, values: int) -> list[slice]:
    """Cut rows, or groups, of so many values each into slices that stay in the cache."""
    step = max(BLOCK_VALUES // values, 1)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _rows_of(groups: slice, members: int) -> slice:
    return slice(groups.start * members, groups.stop * members)


def _dtype_of_products() -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
