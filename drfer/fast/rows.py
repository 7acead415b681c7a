"""What stands between the linear layers of a PointNet, in as few passes over its rows as there can be.

A PointNet's rows are many (393,216 of 64 to 128 channels at the paper's sizes) and its products are fast, so that
batch norm, ReLU and the maximum over neighbours, each reading and writing all rows several times, would take most of
a step. Here they are one pass forward and one or two backward. On a GPU, in evaluation, and for other dtypes torch's
own operators serve; the tests hold both against each other.

The loops see float32 and bfloat16 alike as the integers of the same bits: shifted up by 0 or 16 they are float32.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import BatchNorm1d
from torch.nn.functional import linear

from drfer.models.points import use_torch_threads

ROWS_A_JOB = 1024
"""rows whose sums are taken in float32; sums of these sums are float64"""
BLOCK_VALUES = 1 << 22
"""values of rows that are worked on together, so that they stay in the cache between one pass and the next"""
_BITS = {torch.float32: (torch.int32, np.int32(0)), torch.bfloat16: (torch.int16, np.int32(16))}


def norm_relu_linear(rows: Tensor, norm: BatchNorm1d, weight: Tensor) -> Tensor:
    """relu(norm(rows)) @ weight.T: rows (M, C), weight (D, C) -> (M, D).

    What lies between norm and product is not kept for the backward pass but computed again: a third of a step's
    memory for one pass over the rows.
    """
    if not _is_fast(rows, norm):
        return linear(norm(rows).relu(), weight)
    return _NormReLULinear.apply(rows, norm.weight, norm.bias, weight, norm)


def norm_relu_linear_norm_maximum(
    rows: Tensor, norm: BatchNorm1d, weight: Tensor, last_norm: BatchNorm1d, members: int
) -> Tensor:
    """last_norm(relu(norm(rows)) @ weight.T), and of that the maximum over each group of so many rows:
    rows (G * members, C), weight (D, C) -> (G, D).

    The gradient goes to the first of the largest. (`amax` shares it among equals; in a ball, equals are the same
    point, found once and filled up.)
    """
    if members > 256 or not _is_fast(
        rows, norm
    ):  # the fast one keeps the largest's place in a byte
        out = last_norm(linear(norm(rows).relu(), weight))
        return out.view(-1, members, out.shape[1]).max(dim=1).values
    return _NormReLULinearNormMaximum.apply(
        rows,
        norm.weight,
        norm.bias,
        weight,
        last_norm.weight,
        last_norm.bias,
        norm,
        last_norm,
        members,
    )


def _is_fast(rows: Tensor, norm: BatchNorm1d) -> bool:
    return norm.training and rows.device.type == "cpu" and rows.dtype in _BITS


class _NormReLULinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, rows: Tensor, scale: Tensor, bias: Tensor, weight: Tensor, norm: BatchNorm1d
    ) -> Tensor:
        use_torch_threads()
        bits, shift = _bits(rows)
        ctx.mean, ctx.deviation = _moments(
            _sums(bits, shift, _first(rows)), _first(rows), len(rows), norm
        )
        ctx.save_for_backward(rows, scale, bias, weight)
        return linear(
            _normed(rows, *_affine(ctx.mean, ctx.deviation, scale, bias)), weight.to(rows.dtype)
        )

    @staticmethod
    def backward(ctx, gradient: Tensor):
        use_torch_threads()
        rows, weight, bias, product = ctx.saved_tensors
        scale, offset = _affine(ctx.mean, ctx.deviation, weight, bias)
        of_product = gradient.T @ _normed(rows, scale, offset)
        into = gradient @ product.to(rows.dtype)
        return (
            *_through_norm_and_relu(into, rows, ctx.mean, ctx.deviation, scale, offset),
            of_product.float(),
            None,
        )


def _through_norm_and_relu(
    into: Tensor, rows: Tensor, mean, deviation, scale, offset
) -> tuple[Tensor, ...]:
    """The gradient of what left the ReLU becomes, in its place, that of what entered the norm; and those of the
    norm's weight and bias."""
    bits, shift = _bits(rows)
    sums = _gradient_sums(bits, _bits(into)[0], shift, scale, offset, mean).sum(axis=0)
    of_bias, of_weight = sums[0], sums[1] / deviation
    slope = of_weight / len(rows) / deviation
    constant = of_bias / len(rows) - slope * mean
    _norm_relu_backward(
        bits, _bits(into)[0], shift, scale, offset, *_single(constant, slope), _bits(into)[0]
    )
    return into, *_parameters(of_weight, of_bias)


def _normed(rows: Tensor, scale: np.ndarray, offset: np.ndarray) -> Tensor:
    """relu(rows * scale + offset), of the dtype of rows."""
    bits, shift = _bits(rows)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    _norm_relu(bits, shift, scale, offset, _bits(out)[0])
    return out


class _NormReLULinearNormMaximum(torch.autograd.Function):
    """With x a row after the ReLU and y = W x: neither is kept, and the gradient of y never stands in memory.

    Batch norm's gradient of y is a sparse part e, where a row was the largest, less a + b y in each channel. So
    that of x is W'e - W'a - (W' diag(b) W) x, and that of W is sum e x' - a sum x' - diag(b) W sum x x': the products
    with W become products with C x C matrices, half as large where a layer doubles the channels.
    """

    @staticmethod
    def forward(
        ctx, rows, weight, bias, product, last_weight, last_bias, norm, last_norm, members
    ) -> Tensor:
        use_torch_threads()
        bits, shift = _bits(rows)
        ctx.mean, ctx.deviation = _moments(
            _sums(bits, shift, _first(rows)), _first(rows), len(rows), norm
        )
        scale, offset = _affine(ctx.mean, ctx.deviation, weight, bias)
        groups, channels = len(rows) // members, len(product)
        largest, index = (
            np.empty((groups, channels), np.float32),
            np.empty((groups, channels), np.uint8),
        )
        # the largest after a norm of negative weight was the smallest before
        sign = np.where(last_weight.detach().numpy() < 0, np.float32(-1), np.float32(1))
        matrix, sums, first = product.detach().to(rows.dtype).T, [], None
        for part in _parts(groups, members, rows.shape[1] + channels):
            block = linear(
                _normed(rows[part.start * members : part.stop * members], scale, offset), matrix.T
            )
            first = _first(block) if first is None else first
            shaped = _bits(block)[0].reshape(-1, members, channels)
            sums.append(_sums_and_largest(shaped, shift, first, sign, largest[part], index[part]))
        ctx.last_mean, ctx.last_deviation = _moments(
            np.concatenate(sums), first, len(rows), last_norm
        )
        ctx.save_for_backward(rows, weight, bias, product, last_weight)
        ctx.largest, ctx.index, ctx.members = largest, index, members
        scale, offset = _affine(ctx.last_mean, ctx.last_deviation, last_weight, last_bias)
        return torch.from_numpy(largest * scale + offset).to(rows.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        use_torch_threads()
        rows, weight, bias, product, last_weight = ctx.saved_tensors
        members, count, shift = ctx.members, len(rows), _bits(rows)[1]
        into = gradient.float().contiguous().numpy()
        of_last_bias = into.sum(axis=0, dtype=np.float64)
        of_last_weight = np.einsum(
            "gc,gc->c", into, (ctx.largest - ctx.last_mean) / ctx.last_deviation, dtype=np.float64
        )
        last_scale = last_weight.detach().numpy() / ctx.last_deviation
        slope = of_last_weight / count / ctx.last_deviation
        constant = last_scale * (of_last_bias / count - slope * ctx.last_mean)  # a
        slope = last_scale * slope  # b
        into = into * last_scale  # e

        matrix, negative_slope = (
            product.detach().float().contiguous(),
            torch.from_numpy(-slope).float(),
        )
        through = ((matrix.T * negative_slope) @ matrix).to(rows.dtype)
        shift_of_x = _single(-constant @ matrix.numpy())[0]
        scale, offset = _affine(ctx.mean, ctx.deviation, weight, bias)
        of_x = torch.empty_like(rows, memory_format=torch.contiguous_format)
        gram, of_product, sum_of_x = 0, 0, 0
        for part in _parts(len(into), members, 2 * rows.shape[1]):
            where = slice(part.start * members, part.stop * members)
            x = _normed(rows[where], scale, offset)
            torch.mm(x, through, out=of_x[where])
            gram = gram + (x.T @ x).double()
            shaped = (-1, members, rows.shape[1])
            partial, sums = _add_sparse(
                _bits(x)[0].reshape(shaped),
                _bits(of_x[where])[0].reshape(shaped),
                shift,
                into[part],
                ctx.index[part],
                matrix.numpy(),
                shift_of_x,
                numba.get_num_threads(),
            )
            of_product, sum_of_x = of_product + partial.sum(axis=0), sum_of_x + sums.sum(axis=0)
        of_dense = negative_slope[:, None] * (matrix @ gram.float())
        of_product = of_product - np.outer(constant, sum_of_x) + of_dense.numpy()
        of_rows, of_weight, of_bias = _through_norm_and_relu(
            of_x, rows, ctx.mean, ctx.deviation, scale, offset
        )
        return (
            of_rows,
            of_weight,
            of_bias,
            *_parameters(of_product, of_last_weight, of_last_bias),
            None,
            None,
            None,
        )


def _parts(groups: int, members: int, channels: int) -> list[slice]:
    """Slices of groups whose rows of so many channels stay in the cache."""
    step = max(BLOCK_VALUES // (members * channels), 1)
    return [slice(start, min(start + step, groups)) for start in range(0, groups, step)]


def _bits(tensor: Tensor) -> tuple[np.ndarray, np.int32]:
    """A float tensor's memory as integers, and the shift that makes them float32."""
    integers, shift = _BITS[tensor.dtype]
    return tensor.detach().contiguous().view(integers).numpy(), shift


def _first(rows: Tensor) -> np.ndarray:
    """The first row, from which sums count, so that a large mean does not drown the variance."""
    return rows[0].detach().float().numpy()


def _moments(
    sums: np.ndarray, first: np.ndarray, count: int, norm: BatchNorm1d
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C,) of so many rows, from sums (jobs, 2, C) of differences from the first row, and
    of their squares; the norm's running statistics follow them."""
    difference, squares = sums.sum(axis=0, dtype=np.float64) / count
    variance, mean = np.maximum(squares - difference * difference, 0), first + difference
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(torch.from_numpy(mean).float(), norm.momentum)
        norm.running_var.lerp_(
            torch.from_numpy(variance * count / (count - 1)).float(), norm.momentum
        )
    return _single(mean, np.sqrt(variance + norm.eps))


def _affine(mean, deviation, weight: Tensor, bias: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm as values * scale + offset."""
    scale = weight.detach().numpy() / deviation
    return scale, bias.detach().numpy() - mean * scale


def _single(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(array.astype(np.float32) for array in arrays)


def _parameters(*gradients: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in _single(*gradients))


@numba.njit(inline="always")
def _widen(bits, shift):
    return np.int32(np.int32(bits) << shift).view(np.float32)


@numba.njit(inline="always")
def _narrow(value, shift):
    """Round to nearest, ties to even, as the processor does."""
    bits = np.float32(value).view(np.int32)
    if shift == 0:
        return bits
    return np.int32((bits + np.int32(0x7FFF) + ((bits >> shift) & np.int32(1))) >> shift)


@numba.njit(parallel=True, cache=True)
def _sums(rows, shift, first):
    """Sums of differences from `first`, and of their squares, (jobs, 2, C)."""
    count, channels = rows.shape
    jobs = (count + ROWS_A_JOB - 1) // ROWS_A_JOB
    sums = np.zeros((jobs, 2, channels), dtype=np.float32)
    for job in numba.prange(jobs):
        total, squares = np.zeros(channels, dtype=np.float32), np.zeros(channels, dtype=np.float32)
        for row in range(job * ROWS_A_JOB, min((job + 1) * ROWS_A_JOB, count)):
            for c in range(channels):
                difference = _widen(rows[row, c], shift) - first[c]
                total[c] += difference
                squares[c] += difference * difference
        sums[job, 0], sums[job, 1] = total, squares
    return sums


@numba.njit(parallel=True, cache=True)
def _norm_relu(rows, shift, scale, offset, out):
    count, channels = rows.shape
    for row in numba.prange(count):
        for c in range(channels):
            out[row, c] = _narrow(
                max(_widen(rows[row, c], shift) * scale[c] + offset[c], np.float32(0)), shift
            )


@numba.njit(parallel=True, cache=True)
def _gradient_sums(rows, gradient, shift, scale, offset, mean):
    """Sums of the gradient where the ReLU let pass, and of it times (row - mean): (jobs, 2, C)."""
    count, channels = rows.shape
    jobs = (count + ROWS_A_JOB - 1) // ROWS_A_JOB
    sums = np.zeros((jobs, 2, channels), dtype=np.float64)
    for job in numba.prange(jobs):
        total, weighted = np.zeros(channels, dtype=np.float32), np.zeros(channels, dtype=np.float32)
        for row in range(job * ROWS_A_JOB, min((job + 1) * ROWS_A_JOB, count)):
            for c in range(channels):
                value = _widen(rows[row, c], shift)
                passed = value * scale[c] + offset[c] > 0
                into = _widen(gradient[row, c], shift) if passed else np.float32(0)
                total[c] += into
                weighted[c] += into * (value - mean[c])
        sums[job, 0], sums[job, 1] = total, weighted
    return sums


@numba.njit(parallel=True, cache=True)
def _norm_relu_backward(rows, gradient, shift, scale, offset, constant, slope, out):
    count, channels = rows.shape
    for row in numba.prange(count):
        for c in range(channels):
            value = _widen(rows[row, c], shift)
            passed = value * scale[c] + offset[c] > 0
            into = _widen(gradient[row, c], shift) if passed else np.float32(0)
            out[row, c] = _narrow(scale[c] * (into - constant[c] - slope[c] * value), shift)


@numba.njit(parallel=True, cache=True)
def _sums_and_largest(rows, shift, first, sign, largest, index):
    """`_sums` of rows (G, members, C), and with it the largest of sign * value of each group and which member it is."""
    groups, members, channels = rows.shape
    groups_a_job = max(ROWS_A_JOB // members, 1)
    jobs = (groups + groups_a_job - 1) // groups_a_job
    sums = np.zeros((jobs, 2, channels), dtype=np.float32)
    for job in numba.prange(jobs):
        total, squares = np.zeros(channels, dtype=np.float32), np.zeros(channels, dtype=np.float32)
        best, at = np.empty(channels, dtype=np.float32), np.empty(channels, dtype=np.int32)
        for group in range(job * groups_a_job, min((job + 1) * groups_a_job, groups)):
            best[:], at[:] = -np.inf, 0
            for member in range(members):
                for c in range(channels):
                    value = _widen(rows[group, member, c], shift)
                    total[c] += value - first[c]
                    squares[c] += (value - first[c]) * (value - first[c])
                    larger = value * sign[c] > best[c]
                    best[c] = value * sign[c] if larger else best[c]
                    at[c] = np.int32(member) if larger else at[c]
            for c in range(channels):
                largest[group, c], index[group, c] = best[c] * sign[c], at[c]
        sums[job, 0], sums[job, 1] = total, squares
    return sums


@numba.njit(parallel=True, cache=True)
def _add_sparse(x, of_x, shift, into, index, matrix, constant, jobs):
    """Add to the gradient of x what its group's maxima and the constant bring: `into` (G, D) is the gradient of the
    largest of each group, `index` which member that was. Returns each job's sum of into x' (D, C), and its sum of x."""
    groups, members, width = x.shape
    channels = len(matrix)
    of_matrix, sums = (
        np.zeros((jobs, channels, width), np.float32),
        np.zeros((jobs, width), np.float64),
    )
    for job in numba.prange(jobs):
        total, of_mine = np.empty(width, np.float32), np.empty((members, width), np.float32)
        mine = np.empty((members, width), np.float32)
        for group in range(groups * job // jobs, groups * (job + 1) // jobs):
            total[:] = 0
            for member in range(members):
                for k in range(width):
                    mine[member, k] = _widen(x[group, member, k], shift)
                    of_mine[member, k] = _widen(of_x[group, member, k], shift) + constant[k]
                    total[k] += mine[member, k]
            for k in range(width):
                sums[job, k] += total[k]
            for c in range(channels):
                member, value = index[group, c], into[group, c]
                for k in range(width):
                    of_mine[member, k] += value * matrix[c, k]
                    of_matrix[job, c, k] += value * mine[member, k]
            for member in range(members):
                for k in range(width):
                    of_x[group, member, k] = _narrow(of_mine[member, k], shift)
    return of_matrix, sums
