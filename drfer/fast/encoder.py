"""The PointNet++ encoder in a form that is fast on a CPU.

Parameters, their names, and results are those of `drfer.models.pointnet2.Encoder`. What follows the
choice of a level's groups is one operation (`drfer.fast.groups`), for all levels alike: the last one
has a single group, of all points, around the origin.

On other devices, or with DRFER_FAST=0 in the environment, the plain forward pass serves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drfer import fast
from drfer.fast.groups import MOST_MEMBERS, describe_groups
from drfer.models.pointnet2 import Encoder, EncoderSizes, SetAbstraction, SharedMLP
from drfer.models.points import ball_query


class FastSetAbstraction(SetAbstraction):
    """One set abstraction level, with the parameters of a plain one.

    Shapes:
        points (B, N, 3) and features (B, N, C) -> centroids (B, S, 3) and features (B, S, C')
    """

    def __init__(self, plain: SetAbstraction) -> None:
        """Take over the sizes and the shared layers of a plain level."""
        nn.Module.__init__(self)
        self.sizes = plain.sizes
        self.shared = plain.shared

    def forward(self, points: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `SetAbstraction.forward` does."""
        sizes = self.sizes
        if not _serves(points, self.shared, sizes.neighbours):
            return super().forward(points, features)
        centroids = points[:, : sizes.centroids]
        neighbours = ball_query(points, centroids, sizes.radius, sizes.neighbours)
        return centroids, describe_groups(points, centroids, neighbours, features, self.shared)


class FastEncoder(Encoder):
    """The encoder of the branches and of the fusion module: `Encoder`, but faster on a CPU.

    The weights of either can be loaded into the other.

    Shapes:
        cloud (B, N, 3) -> feature (B, d)
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        """Create an untrained encoder; its random weights are those that `Encoder` would draw."""
        super().__init__(sizes)
        self.levels = nn.ModuleList(FastSetAbstraction(level) for level in self.levels)

    def describe_whole(self, points: Tensor, features: Tensor) -> Tensor:
        """Return what `Encoder.describe_whole` does."""
        batch, count, _ = points.shape
        if not _serves(points, self.whole, count):
            return super().describe_whole(points, features)
        everyone = torch.arange(count).expand(batch, 1, -1).contiguous()
        origin = points.new_zeros(batch, 1, 3)
        return describe_groups(points, origin, everyone, features, self.whole)[:, 0]


def _serves(points: Tensor, shared: SharedMLP, members: int) -> bool:
    """Whether the fast form serves; it needs two layers, and groups that are not too large."""
    is_single = points.device.type == "cpu" and points.dtype == torch.float32
    in_half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
    fits = len(shared.norms) > 1 and members <= MOST_MEMBERS
    return is_single and not in_half and fits and fast.enabled()
