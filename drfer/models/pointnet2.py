"""The PointNet++ encoder (Qi et al. 2017), single-scale grouping, for clouds in farthest-point order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drfer.fast.rows import norm_relu_linear, norm_relu_linear_norm_maximum
from drfer.models.points import ball_query, gather


@dataclass(frozen=True)
class SetAbstractionSizes:
    """One set abstraction level."""

    centres: int
    """number of centroids, the first ones of the cloud (farthest-point order makes sampling a slice)"""
    radius: float
    """of the ball around a centroid, in frame units"""
    neighbours: int
    """points in a ball"""
    widths: tuple[int, ...]
    """of the shared layers of its PointNet, two at least"""


@dataclass(frozen=True)
class EncoderSizes:
    """levels: the grouped levels. global_widths: the last level's, whose last is the feature's width."""

    levels: tuple[SetAbstractionSizes, ...]
    global_widths: tuple[int, ...]

    @property
    def pooled_widths(self) -> tuple[int, ...]:
        """Width of each level's output, the global feature last."""
        return (*(level.widths[-1] for level in self.levels), self.global_widths[-1])


class SharedMLP(nn.Module):
    """Linear - batch norm - ReLU on every row, then the maximum over each group of rows: (G * members, C) -> (G, C').

    The maximum goes before the last ReLU, since both are monotone: max(relu(h)) = relu(max(h)).
    """

    def __init__(self, widths: Sequence[int], first_is_done: bool = False) -> None:
        super().__init__()
        pairs = list(zip(widths, widths[1:]))
        self.linears = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairs[first_is_done:])
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for _, b in pairs)
        self.first_is_done = first_is_done

    def forward(self, rows: Tensor, members: int) -> Tensor:
        linears = list(self.linears)
        if not self.first_is_done:
            rows = linears.pop(0)(rows)
        for norm, linear in zip(self.norms, linears[:-1]):
            rows = norm_relu_linear(rows, norm, linear.weight)
        *_, norm, last = self.norms
        return norm_relu_linear_norm_maximum(rows, norm, linears[-1].weight, last, members).relu()


class SetAbstraction(nn.Module):
    """Sampling, grouping and a PointNet in each ball: (B, N, 3) and (B, N, C) -> (B, S, 3) and (B, S, C').

    The first layer runs before grouping, which is exact because it is linear: for a point j in the ball of
    centroid i, W [x_j - x_i; f_j] = (W_x x_j + W_f f_j) - W_x x_i. So it costs N rows instead of S * K. (In bfloat16
    x_j is rounded before the difference, as if by 0.2 mm.)
    """

    def __init__(self, channels: int, sizes: SetAbstractionSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.place = nn.Linear(3, sizes.widths[0], bias=False)
        self.feature = nn.Linear(channels, sizes.widths[0], bias=False) if channels else None
        self.shared = SharedMLP((3 + channels, *sizes.widths), first_is_done=True)

    def forward(self, points: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        centres = points[:, : self.sizes.centres]
        neighbours = ball_query(points, centres, self.sizes.radius, self.sizes.neighbours)
        placed = self.place(points)
        rows = placed if self.feature is None else placed + self.feature(features)
        grouped = gather(rows, neighbours) - placed[:, : self.sizes.centres, None]
        batch, groups, members, width = grouped.shape
        return centres, self.shared(grouped.view(-1, width), members).view(batch, groups, -1)


class Encoder(nn.Module):
    """PointNet++ encoder: a cloud (B, N, 3) in farthest-point order -> its feature (B, d).

    `multiscale` also gives the pooled feature of every level, for the fusion module's skip connections.
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        channels = (0, *sizes.pooled_widths)
        self.levels = nn.ModuleList(
            SetAbstraction(c, level) for c, level in zip(channels, sizes.levels)
        )
        self.whole = SharedMLP((3 + channels[len(sizes.levels)], *sizes.global_widths))

    def forward(self, cloud: Tensor) -> Tensor:
        return self.multiscale(cloud)[-1]

    def multiscale(self, cloud: Tensor) -> list[Tensor]:
        """Pooled features, (B, width) a level, the global feature last."""
        points, features, pooled = cloud, None, []
        for level in self.levels:
            points, features = level(points, features)
            pooled.append(features.amax(dim=1))
        rows = torch.cat([points.to(features.dtype), features], dim=-1)
        return [*pooled, self.whole(rows.flatten(0, 1), members=rows.shape[1])]
