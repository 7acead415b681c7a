"""The fusion module: one face's expression and another's identity make one face (figure 3 b).

Built in notebook 03.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drfer.fast.encoder import FastEncoder
from drfer.models.branch import FaceDecoder, ModelSizes


class Fusion(nn.Module):
    """Upsilon: gives the face that has the expression of one face and the identity of another.

    Each face has an encoder of its own. The two global features enter the first fully connected
    layer. Every further layer also receives, by a skip connection, what one set abstraction level
    of both encoders found, from coarse to fine.

    Shapes:
        expression face (B, P, 3), identity face (B, P, 3) -> fused face (B, P, 3)
    """

    def __init__(self, sizes: ModelSizes) -> None:
        """Create an untrained fusion module.

        Args:
            sizes: widths of all layers, and whether there are skip connections.

        Raises:
            ValueError: the sizes do not have one decoder width for each set abstraction level that
                groups points, so that skip connections and layers do not match.
        """
        super().__init__()
        self.expression_encoder = FastEncoder(sizes.encoder)
        self.identity_encoder = FastEncoder(sizes.encoder)
        self.skips = sizes.skips
        *finer, whole = sizes.encoder.pooled_widths
        if len(sizes.decoder_widths) != len(finer):
            raise ValueError(
                f"the fusion module needs as many decoder widths as set abstraction levels with "
                f"balls: {len(finer)}, not {len(sizes.decoder_widths)}"
            )
        skip_widths = (0, *(2 * width for width in reversed(finer))) if sizes.skips else ()
        self.layers = FaceDecoder((2 * whole, *sizes.decoder_widths), sizes.points, skip_widths)

    def forward(self, expression_face: Tensor, identity_face: Tensor) -> Tensor:
        """Return the fused face.

        Args:
            expression_face: gives the expression, shape (B, P, 3), frame units, in farthest-point
                order.
            identity_face: gives the identity, likewise.
        """
        of_expression = self.expression_encoder.multiscale(expression_face)
        of_identity = self.identity_encoder.multiscale(identity_face)
        pairs = zip(of_expression, of_identity)
        *finer, whole = [torch.cat(pair, dim=-1) for pair in pairs]
        if not self.skips:
            return self.layers(whole)
        nothing = whole[:, :0]  # the first layer has the global features and no skip connection
        return self.layers(whole, [nothing, *reversed(finer)])
