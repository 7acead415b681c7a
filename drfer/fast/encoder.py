"""The PointNet++ encoder's forward pass in a form that is fast on a CPU.

Parameters, their names, and results are those of `drfer.models.pointnet2.Encoder`. Three changes
save the time:

1. The first shared layer runs before grouping. It is linear, so that for a point j in the ball of
   centroid i, W [x_j - x_i ; f_j] = (W_x x_j + W_f f_j) - W_x x_i. So it has a row for each point
   instead of one for each point of each ball. (In bfloat16 this rounds x_j before the difference is
   taken, as if it were off by up to 0.2 mm.)
2. Batch norm, ReLU and the next product are one operation (`drfer.fast.rows`).
3. So are the last batch norm and the maximum, which comes before the last ReLU: both are monotone,
   so that max(relu(h)) = relu(max(h)).

On other devices, or with DRFER_FAST=0 in the environment, the plain forward pass serves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from drfer import fast
from drfer.fast.rows import norm_relu_linear, norm_relu_linear_norm_maximum
from drfer.models.pointnet2 import Encoder, EncoderSizes, SetAbstraction, SharedMLP
from drfer.models.points import ball_query, gather


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
        if not _serves(points, self.shared):
            return super().forward(points, features)
        sizes = self.sizes
        centroids = points[:, : sizes.centroids]
        neighbours = ball_query(points, centroids, sizes.radius, sizes.neighbours)
        located, rows = self._first_layer(points, features)
        rows = gather(rows, neighbours) - located[:, : sizes.centroids, None]
        batch, groups, members, width = rows.shape
        pooled = _rest_and_maximum(rows.view(-1, width), self.shared, members)
        return centroids, pooled.view(batch, groups, -1)

    def _first_layer(self, points: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return W_x x, and W_x x + W_f f, for every point: shape (B, N, width) each."""
        weight = self.shared.linears[0].weight
        if features is None:
            located = linear(points, weight)
            return located, located
        of_coordinates, of_features = _in_autocast_dtype(weight).tensor_split([3], dim=1)
        located = linear(points, of_coordinates.contiguous())
        return located, located + linear(features, of_features.contiguous())


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

    def multiscale(self, cloud: Tensor) -> list[Tensor]:
        """Return what `Encoder.multiscale` does."""
        if not _serves(cloud, self.whole):
            return super().multiscale(cloud)
        points, features = cloud, None
        pooled = []
        for level in self.levels:
            points, features = level(points, features)
            pooled.append(features.amax(dim=1))
        rows = torch.cat([points.to(features.dtype), features], dim=-1)
        first = self.whole.linears[0](rows.flatten(0, 1))
        return [*pooled, _rest_and_maximum(first, self.whole, members=rows.shape[1])]


def _serves(cloud: Tensor, shared: SharedMLP) -> bool:
    """Whether the fast form serves; it needs two layers, of which it joins the last two norms."""
    return cloud.device.type == "cpu" and fast.enabled() and len(shared.norms) > 1


def _rest_and_maximum(rows: Tensor, shared: SharedMLP, members: int) -> Tensor:
    """Apply what follows the first product, and take the maximum over each group of rows."""
    *weights, last_weight = [layer.weight for layer in shared.linears][1:]
    *norms, norm, last_norm = shared.norms
    for earlier, weight in zip(norms, weights):
        rows = norm_relu_linear(rows, earlier, weight)
    return norm_relu_linear_norm_maximum(rows, norm, last_weight, last_norm, members).relu()


def _in_autocast_dtype(weight: Tensor) -> Tensor:
    """Return a parameter, of which slices are to be taken, in the dtype that products run in.

    Autocast converts a whole parameter once in a step, and the gradients of all its uses are added
    up in that copy. Slices it converts anew at each use. A product with the identity, which is
    exact, gives access to the copy.
    """
    if not torch.is_autocast_enabled(weight.device.type):
        return weight
    return linear(torch.eye(weight.shape[1]), weight).T
