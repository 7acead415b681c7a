"""The encoder as the definition has it, with the weights of the fast one: to read, to test against, to time.

Qi et al. 2017, section 3.2: group, join relative place and feature, a shared PointNet on every row, the maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from drfer.models.pointnet2 import Encoder, SetAbstraction
from drfer.models.points import ball_query_plain, farthest_point_sample_plain, gather


def set_abstraction(
    level: SetAbstraction, points: Tensor, features: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(B, N, 3) and (B, N, C) -> centroids (B, S, 3) and their features (B, S, C'), like `SetAbstraction.forward`."""
    sizes = level.sizes
    centres = gather(points, farthest_point_sample_plain(points, sizes.centres))
    neighbours = ball_query_plain(points, centres, sizes.radius, sizes.neighbours)
    rows = gather(points, neighbours) - centres[:, :, None]
    first = level.place.weight
    if features is not None:
        rows = torch.cat([rows, gather(features, neighbours)], dim=-1)
        first = torch.cat([first, level.feature.weight], dim=1)
    return centres, _pointnet(rows, [first, *_weights(level.shared)], level.shared.norms)


def encode(encoder: Encoder, cloud: Tensor) -> Tensor:
    """(B, N, 3) -> features (B, d), like `Encoder.forward`."""
    points, features = cloud, None
    for level in encoder.levels:
        points, features = set_abstraction(level, points, features)
    rows = torch.cat([points, features], dim=-1)[:, None]
    return _pointnet(rows, _weights(encoder.whole), encoder.whole.norms)[:, 0]


def _weights(shared) -> list[Tensor]:
    return [layer.weight for layer in shared.linears]


def _pointnet(rows: Tensor, weights: list[Tensor], norms) -> Tensor:
    """(B, S, K, C) -> (B, S, C'): linear, batch norm and ReLU on every row, then the maximum over a ball's K rows."""
    shape = rows.shape[:3]
    rows = rows.flatten(0, 2)
    for weight, norm in zip(weights, norms):
        rows = norm(linear(rows, weight)).relu()
    return rows.view(*shape, -1).amax(dim=2)
