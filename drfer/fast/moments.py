"""What a batch norm does to rows, and to the gradients that come back through it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import BatchNorm1d

from drfer.fast import group_loops


@dataclass(frozen=True)
class Moments:
    """How a batch norm sees its rows: as values * scale + offset. All of shape (C,)."""

    count: int
    """Of the rows that mean and deviation are of; 0 for running statistics, which are constants."""
    mean: np.ndarray
    deviation: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    @staticmethod
    def of(norm: BatchNorm1d, count: int, sums: np.ndarray, first: np.ndarray) -> Moments:
        """Take the moments of so many rows, which the running statistics follow.

        In evaluation, the running statistics themselves are taken.

        Args:
            norm: the batch norm.
            count: how many rows there are.
            sums: of the rows' differences from `first`, and of their squares, shape (jobs, 2, C).
            first: shape (C,).

        Raises:
            ValueError: there is but one row, in training.
        """
        if norm.training:
            if count < 2:
                raise ValueError("batch norm needs two rows or more in training")
            difference, squares = sums.sum(axis=0, dtype=np.float64) / count
            mean = first + difference
            variance = np.maximum(squares - difference * difference, 0)
            with torch.no_grad():
                norm.num_batches_tracked += 1
                unbiased = torch.from_numpy(variance * count / (count - 1))
                norm.running_mean.lerp_(torch.from_numpy(mean).float(), norm.momentum)
                norm.running_var.lerp_(unbiased.float(), norm.momentum)
        else:
            count = 0
            mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
        deviation = np.sqrt(variance + norm.eps)
        scale = norm.weight.detach().numpy() / deviation
        offset = norm.bias.detach().numpy() - mean * scale
        return Moments(count, *_single(mean, deviation, scale, offset))

    @property
    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset."""
        return self.scale, self.offset

    def normed(self, values: np.ndarray) -> Tensor:
        """Return norm(values)."""
        scale, offset = torch.from_numpy(self.scale), torch.from_numpy(self.offset)
        return torch.addcmul(offset, torch.from_numpy(values), scale)

    def activated(self, rows: Tensor) -> Tensor:
        """Return relu(norm(rows)), of the dtype of rows."""
        out = torch.empty_like(rows)
        group_loops.norm_relu(array_of(rows), *self.affine, array_of(out))
        return out

    def gradients(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of the norm's weight and bias.

        `sums`, shape (jobs, 2, C), are of the gradient of what left the norm, and of that times
        (rows - mean).
        """
        of_bias, weighted = sums.sum(axis=0, dtype=np.float64)
        return weighted / self.deviation, of_bias

    def gradients_at(self, rows: np.ndarray, into: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the same where only some rows, given with their gradients, have one that is not 0."""
        away = torch.from_numpy(rows) - torch.from_numpy(self.mean)
        sums = torch.stack([into.sum(dim=0), (into * away).sum(dim=0)])
        return self.gradients(sums[None].numpy())

    def taken(self, of_weight: np.ndarray, of_bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what mean and variance take from the gradient of each row: constant + slope * row.

        So a row's gradient is scale * (into - constant - slope * row).
        """
        if not self.count:
            return _single(np.zeros_like(of_bias), np.zeros_like(of_weight))
        slope = of_weight / self.count / self.deviation
        return _single(of_bias / self.count - slope * self.mean, slope)


def array_of(tensor: Tensor) -> np.ndarray:
    """Return a tensor's memory; that of bfloat16 as the bits in it."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _single(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(array.astype(np.float32) for array in arrays)
