"""Batch norm, ReLU and maximum between a PointNet's linear layers, in as few passes as possible.

A PointNet has many rows (393,216 of 64 to 128 channels at the paper's sizes) and its matrix
products are fast. Batch norm, ReLU and the maximum over neighbours, which read and write all rows
several times each, would take most of a training step. Here they are one pass forward and one or
two backward, in training on a CPU; elsewhere, in evaluation, and for other dtypes torch's own
operators serve.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import BatchNorm1d
from torch.nn.functional import linear

from drfer.fast import row_loops
from drfer.fast.compiled import use_torch_threads

BLOCK_VALUES = 1 << 22
"""How many values of rows are worked on together, so that they stay in the cache between passes."""
_BITS = {torch.float32: (torch.int32, np.int32(0)), torch.bfloat16: (torch.int16, np.int32(16))}


def norm_relu_linear(rows: Tensor, norm: BatchNorm1d, weight: Tensor) -> Tensor:
    """Return relu(norm(rows)) @ weight.T.

    What lies between norm and product is not kept for the backward pass but computed again there:
    that saves a third of a training step's memory, and costs one pass over the rows.

    Args:
        rows: values, shape (M, C), float32 or bfloat16 for the fast form.
        norm: batch norm over C channels; its running statistics follow the rows in training.
        weight: of the linear layer, shape (D, C).

    Returns:
        Rows of the same dtype, shape (M, D).
    """
    if not _is_fast(rows, norm):
        return linear(norm(rows).relu(), weight)
    return _NormReLULinear.apply(rows, norm.weight, norm.bias, weight, norm)


def norm_relu_linear_norm_maximum(
    rows: Tensor, norm: BatchNorm1d, weight: Tensor, last_norm: BatchNorm1d, members: int
) -> Tensor:
    """Return the maximum of last_norm(relu(norm(rows)) @ weight.T) over each group of rows.

    The gradient goes to the first of the largest rows of a group, where `amax` shares it among
    equals. In a ball, equal rows are the same point, found once and repeated to fill the ball.

    Args:
        rows: values, shape (G * members, C), group after group.
        norm: batch norm over C channels, before the ReLU.
        weight: of the linear layer, shape (D, C).
        last_norm: batch norm over D channels, after the linear layer.
        members: how many rows a group has.

    Returns:
        One row for each group, of the same dtype, shape (G, D).
    """
    # the fast form keeps the number of the largest member in a byte
    if members > 256 or not _is_fast(rows, norm):
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
        first = _first(rows)
        sums = row_loops.sums_of_rows(*_bits(rows), first)
        ctx.mean, ctx.deviation = _moments(sums, first, len(rows), norm)
        ctx.save_for_backward(rows, scale, bias, weight)
        normed = _normed(rows, *_affine(ctx.mean, ctx.deviation, scale, bias))
        return linear(normed, weight.to(rows.dtype))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        rows, weight, bias, product = ctx.saved_tensors
        scale, offset = _affine(ctx.mean, ctx.deviation, weight, bias)
        of_product = gradient.T @ _normed(rows, scale, offset)
        into = gradient @ product.to(rows.dtype)
        return (
            *_through_norm_and_relu(into, rows, ctx.mean, ctx.deviation, scale, offset),
            of_product.float(),
            None,
        )


class _NormReLULinearNormMaximum(torch.autograd.Function):
    """With x a row after the ReLU and y = W x: neither is kept, nor is the gradient of y.

    Batch norm's gradient of y is, in each channel, a sparse part e, where a row was the largest,
    less a + b y. So that of x is W'e - W'a - (W' diag(b) W) x, and that of W is
    sum e x' - a sum x' - diag(b) W sum x x'. The products with W become products with C x C
    matrices, which are half as large where a layer doubles the channels.
    """

    @staticmethod
    def forward(
        ctx, rows, weight, bias, product, last_weight, last_bias, norm, last_norm, members
    ) -> Tensor:
        first = _first(rows)
        sums = row_loops.sums_of_rows(*_bits(rows), first)
        ctx.mean, ctx.deviation = _moments(sums, first, len(rows), norm)
        scale, offset = _affine(ctx.mean, ctx.deviation, weight, bias)
        largest, ctx.index, sums, first = _largest_of_groups(
            rows, scale, offset, product, last_weight, members
        )
        ctx.last_mean, ctx.last_deviation = _moments(sums, first, len(rows), last_norm)
        ctx.save_for_backward(rows, weight, bias, product, last_weight)
        ctx.largest = largest
        ctx.members = members
        scale, offset = _affine(ctx.last_mean, ctx.last_deviation, last_weight, last_bias)
        return torch.from_numpy(largest * scale + offset).to(rows.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        rows, weight, bias, product, last_weight = ctx.saved_tensors
        count = len(rows)
        into = gradient.float().contiguous().numpy()
        of_last_bias = into.sum(axis=0, dtype=np.float64)
        normed_largest = (ctx.largest - ctx.last_mean) / ctx.last_deviation
        of_last_weight = np.einsum("gc,gc->c", into, normed_largest, dtype=np.float64)
        last_scale = last_weight.detach().numpy() / ctx.last_deviation
        slope = of_last_weight / count / ctx.last_deviation
        constant = last_scale * (of_last_bias / count - slope * ctx.last_mean)  # a
        slope = last_scale * slope  # b
        into = into * last_scale  # e

        scale, offset = _affine(ctx.mean, ctx.deviation, weight, bias)
        of_x, of_product = _through_product(
            rows, scale, offset, product, into, ctx.index, constant, slope, ctx.members
        )
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


def _largest_of_groups(
    rows: Tensor, scale, offset, product: Tensor, last_weight: Tensor, members: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of y = W x: each group's largest, which member it is, and the sums of all y from a first one."""
    groups, channels = len(rows) // members, len(product)
    largest = np.empty((groups, channels), np.float32)
    index = np.empty((groups, channels), np.uint8)
    # the largest after a norm of negative weight was the smallest before
    sign = np.where(last_weight.detach().numpy() < 0, np.float32(-1), np.float32(1))
    matrix = product.detach().to(rows.dtype).T
    sums = []
    first = None
    for part in _parts(groups, members, rows.shape[1] + channels):
        normed = _normed(rows[part.start * members : part.stop * members], scale, offset)
        block = linear(normed, matrix.T)
        if first is None:
            first = _first(block)
        bits, shift = _bits(block)
        bits = bits.reshape(-1, members, channels)
        sums.append(
            row_loops.sums_and_largest(bits, shift, first, sign, largest[part], index[part])
        )
    return largest, index, np.concatenate(sums), first


def _through_product(
    rows: Tensor, scale, offset, product: Tensor, into, index, constant, slope, members: int
) -> tuple[Tensor, np.ndarray]:
    """Gradients of x and of W, from that of y: `into` at each group's largest, less a + b y."""
    matrix = product.detach().float().contiguous()
    negative_slope = torch.from_numpy(-slope).float()
    through = ((matrix.T * negative_slope) @ matrix).to(rows.dtype)
    shift_of_x = _single(-constant @ matrix.numpy())[0]
    of_x = torch.empty_like(rows, memory_format=torch.contiguous_format)
    shift = _bits(rows)[1]
    shaped = (-1, members, rows.shape[1])
    gram, of_product, sum_of_x = 0, 0, 0
    for part in _parts(len(into), members, 2 * rows.shape[1]):
        where = slice(part.start * members, part.stop * members)
        x = _normed(rows[where], scale, offset)
        torch.mm(x, through, out=of_x[where])
        gram = gram + (x.T @ x).double()
        partial, sums = row_loops.add_sparse(
            _bits(x)[0].reshape(shaped),
            _bits(of_x[where])[0].reshape(shaped),
            shift,
            into[part],
            index[part],
            matrix.numpy(),
            shift_of_x,
            use_torch_threads(),
        )
        of_product = of_product + partial.sum(axis=0)
        sum_of_x = sum_of_x + sums.sum(axis=0)
    of_dense = negative_slope[:, None] * (matrix @ gram.float())
    return of_x, of_product - np.outer(constant, sum_of_x) + of_dense.numpy()


def _through_norm_and_relu(
    into: Tensor, rows: Tensor, mean, deviation, scale, offset
) -> tuple[Tensor, ...]:
    """Turn the gradient of what left the ReLU, in its memory, into that of what entered the norm.

    Returns it with the gradients of the norm's weight and bias.
    """
    bits, shift = _bits(rows)
    gradient = _bits(into)[0]
    sums = row_loops.gradient_sums(bits, gradient, shift, scale, offset, mean).sum(axis=0)
    of_bias = sums[0]
    of_weight = sums[1] / deviation
    slope = of_weight / len(rows) / deviation
    constant = of_bias / len(rows) - slope * mean
    row_loops.norm_relu_backward(
        bits, gradient, shift, scale, offset, *_single(constant, slope), gradient
    )
    return into, *_parameters(of_weight, of_bias)


def _normed(rows: Tensor, scale: np.ndarray, offset: np.ndarray) -> Tensor:
    """Return relu(rows * scale + offset), of the dtype of rows."""
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    row_loops.norm_relu(*_bits(rows), scale, offset, _bits(out)[0])
    return out


def _parts(groups: int, members: int, channels: int) -> list[slice]:
    """Slices of groups whose rows of so many channels stay in the cache."""
    step = max(BLOCK_VALUES // (members * channels), 1)
    return [slice(start, min(start + step, groups)) for start in range(0, groups, step)]


def _bits(tensor: Tensor) -> tuple[np.ndarray, np.int32]:
    """Return a float tensor's memory as integers, and the shift that makes them float32."""
    integers, shift = _BITS[tensor.dtype]
    return tensor.detach().contiguous().view(integers).numpy(), shift


def _first(rows: Tensor) -> np.ndarray:
    """Return the first row: sums count from it, so that a large mean does not drown the variance."""
    return rows[0].detach().float().numpy()


def _moments(
    sums: np.ndarray, first: np.ndarray, count: int, norm: BatchNorm1d
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, shape (C,); the norm's running statistics follow them.

    `sums`, shape (jobs, 2, C), are of the rows' differences from `first`, and of their squares.
    """
    difference, squares = sums.sum(axis=0, dtype=np.float64) / count
    mean = first + difference
    variance = np.maximum(squares - difference * difference, 0)
    unbiased = variance * count / (count - 1)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(torch.from_numpy(mean).float(), norm.momentum)
        norm.running_var.lerp_(torch.from_numpy(unbiased).float(), norm.momentum)
    return _single(mean, np.sqrt(variance + norm.eps))


def _affine(mean, deviation, weight: Tensor, bias: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset with which batch norm is values * scale + offset."""
    scale = weight.detach().numpy() / deviation
    return scale, bias.detach().numpy() - mean * scale


def _single(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(array.astype(np.float32) for array in arrays)


def _parameters(*gradients: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in _single(*gradients))
