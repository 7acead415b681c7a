"""The PointNet++ encoder (Qi et al. 2017, single-scale grouping): from a cloud to one feature.

This is the definition. A set abstraction level samples centroids, groups the points around each of
them into a ball, and lets a small PointNet (shared layers and a maximum) describe each ball by one
feature. Two such levels, and a last one over all points that remain, make the encoder of the
branches and of the fusion module (section III.B and figure 3 a of the DrFER paper).

This module is the one to read. The model uses `drfer.fast.encoder.FastEncoder`, a subclass that
computes the same from the same weights in less time on a CPU, and is this encoder elsewhere.

Built in notebook 02.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from drfer.models.points import ball_query, gather


@dataclass(frozen=True)
class SetAbstractionSizes:
    """Sizes of one set abstraction level."""

    centroids: int
    """How many centroids are sampled."""
    radius: float
    """Radius of the ball around a centroid, in frame units (120 mm each)."""
    neighbours: int
    """How many points a ball takes."""
    widths: tuple[int, ...]
    """Output widths of the shared layers, the last of which is that of the level's features."""


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of an encoder."""

    levels: tuple[SetAbstractionSizes, ...]
    """The set abstraction levels that group points into balls: all but the last level."""
    global_widths: tuple[int, ...]
    """Widths of the shared layers of the last level, which takes all remaining points as one
    group."""

    @property
    def pooled_widths(self) -> tuple[int, ...]:
        """Width of each level's features, that of the global feature last."""
        return (*(level.widths[-1] for level in self.levels), self.global_widths[-1])


class SharedMLP(nn.Module):
    """Layers that treat every row alike: linear, batch norm and ReLU, as often as there are widths.

    The first layer sees coordinates. It computes in float32 also where autocast has bfloat16 for the
    others: rounded to 8 bits, a point of a face would be off by up to 0.2 mm.

    Shapes:
        rows (..., C) -> (..., C'), with C the first and C' the last of the widths.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        """Create the layers; `widths` are the input's width and each layer's output width."""
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the layers to each row."""
        leading = rows.shape[:-1]
        rows = rows.flatten(0, -2)
        with torch.autocast(rows.device.type, enabled=False):
            rows = self.linears[0](rows)
        rows = self.norms[0](rows).relu()
        for linear, norm in zip(self.linears[1:], self.norms[1:]):
            rows = norm(linear(rows)).relu()
        return rows.unflatten(0, leading)


class SetAbstraction(nn.Module):
    r"""One set abstraction level: sample centroids, group points around them, describe each group.

    The feature of centroid i is the maximum over the points j in its ball N(i),

        f'_i = max_{j in N(i)} h([x_j - x_i ; f_j]),

    where h are the shared layers. Coordinates relative to the centroid make the feature local, and
    the maximum makes it independent of the order of the points in a ball.

    Centroids are a farthest-point sample of the cloud. Clouds come in farthest-point order, and of
    such a cloud the first S points are the sample of S points, so that sampling is a slice. (After
    random input dropout they are only nearly that.)

        >>> from drfer.models.points import farthest_point_sample
        >>> cloud = torch.rand(1, 100, 3)
        >>> cloud = gather(cloud, farthest_point_sample(cloud, 100))
        >>> farthest_point_sample(cloud, 8)
        tensor([[0, 1, 2, 3, 4, 5, 6, 7]])

    Shapes:
        points (B, N, 3) and features (B, N, C) -> centroids (B, S, 3) and features (B, S, C')
    """

    def __init__(self, channels: int, sizes: SetAbstractionSizes) -> None:
        """Create a level whose points come with features of `channels` numbers, 0 for none."""
        super().__init__()
        self.sizes = sizes
        self.shared = SharedMLP((3 + channels, *sizes.widths))

    def forward(self, points: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the centroids and a feature of each.

        Args:
            points: clouds in farthest-point order, shape (B, N, 3), frame units.
            features: one for each point, shape (B, N, C); None at the first level.

        Returns:
            Centroids, shape (B, S, 3), again in farthest-point order; their features, (B, S, C').
        """
        sizes = self.sizes
        centroids = points[:, : sizes.centroids]  # a farthest-point sample, thanks to the order
        neighbours = ball_query(points, centroids, sizes.radius, sizes.neighbours)
        rows = gather(points, neighbours) - centroids[:, :, None]
        if features is not None:
            rows = torch.cat([rows, gather(features, neighbours)], dim=-1)
        return centroids, self.shared(rows).amax(dim=2)


class Encoder(nn.Module):
    """The whole encoder: set abstraction levels, and a last one that takes all points as one group.

    At the paper's sizes 2,048 points become 512 centroids, then 128, then one feature R of 1,024
    numbers.

    Shapes:
        cloud (B, N, 3) -> feature (B, d)
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        """Create an untrained encoder of these sizes."""
        super().__init__()
        channels = (0, *(level.widths[-1] for level in sizes.levels))
        self.levels = nn.ModuleList(
            SetAbstraction(width, level) for width, level in zip(channels, sizes.levels)
        )
        self.whole = SharedMLP((3 + channels[-1], *sizes.global_widths))

    def forward(self, cloud: Tensor) -> Tensor:
        """Return the feature, shape (B, d), of clouds in farthest-point order, shape (B, N, 3)."""
        return self.multiscale(cloud)[-1]

    def multiscale(self, cloud: Tensor) -> list[Tensor]:
        """Return a feature of the whole cloud from every level, fine to coarse.

        The fusion module's skip connections take these.

        Args:
            cloud: clouds in farthest-point order, shape (B, N, 3), frame units.

        Returns:
            For each set abstraction level the maximum of its features over all centroids, shape
            (B, C'); and, last, the global feature that `forward` returns, shape (B, d).
        """
        points, features = cloud, None
        pooled = []
        for level in self.levels:
            points, features = level(points, features)
            pooled.append(features.amax(dim=1))
        return [*pooled, self.describe_whole(points, features)]

    def describe_whole(self, points: Tensor, features: Tensor) -> Tensor:
        """Apply the last level, whose only group is all points: (B, S, 3), (B, S, C) -> (B, d)."""
        return self.whole(torch.cat([points, features], dim=-1)).amax(dim=1)
