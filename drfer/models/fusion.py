"""The fusion module: the expression of one face and the identity of another make one face (figure 3 b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drfer.models.branch import FaceLayers, ModelSizes
from drfer.models.pointnet2 import Encoder


class Fusion(nn.Module):
    """Upsilon: expression face and identity face, (B, P, 3) each in farthest-point order -> fused face (B, P, 3).

    Two encoders of its own; their global features enter the first fully connected layer, and each further layer
    receives, by a skip connection, the pooled features of one encoder level of both faces, coarse to fine.
    """

    def __init__(self, sizes: ModelSizes) -> None:
        super().__init__()
        self.expression_encoder = Encoder(sizes.encoder)
        self.identity_encoder = Encoder(sizes.encoder)
        self.skips = sizes.skips
        *finer, whole = sizes.encoder.pooled_widths
        skip_widths = (
            (0, *(2 * width for width in reversed(finer)))
            if sizes.skips
            else (0,) * (len(finer) + 1)
        )
        if len(skip_widths) != len(sizes.decoder_widths) + 1:
            raise ValueError(
                "the fusion module needs as many decoder widths as the encoder has grouped levels"
            )
        self.layers = FaceLayers((2 * whole, *sizes.decoder_widths), sizes.points, skip_widths)

    def forward(self, expression_face: Tensor, identity_face: Tensor) -> Tensor:
        pairs = zip(
            self.expression_encoder.multiscale(expression_face),
            self.identity_encoder.multiscale(identity_face),
        )
        *finer, whole = [torch.cat(pair, dim=-1) for pair in pairs]
        if not self.skips:
            return self.layers(whole)
        return self.layers(whole, [whole[:, :0], *reversed(finer)])
