"""DrFER as a whole: two branches, their cross-over and the fusion module (figure 2).

Built in notebook 05.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from drfer.datasets.scan import EXPRESSIONS
from drfer.models.branch import Branch, ModelSizes
from drfer.models.fusion import Fusion
from drfer.models.points import farthest_point_sample, gather


@dataclass(frozen=True)
class Disentangled:
    """All that one forward pass makes of a batch of faces F, under the paper's symbols.

    Faces have the shape (B, P, 3), in frame units.
    """

    expression_feature: Tensor
    """R_exp, shape (B, d)."""
    expression_face: Tensor
    """F_exp = Phi_exp(F), the de-identified face: only the expression is left."""
    identity_face: Tensor
    """F_id = Phi_id(F), the de-expressed face: only the identity is left."""
    identity_of_expression_face: Tensor
    """F_exp_id = Phi_id(F_exp): neither is left, so it should be the mean neutral face."""
    expression_of_identity_face: Tensor
    """F_id_exp = Phi_exp(F_id): likewise."""
    fused_face: Tensor | None
    """Upsilon(F_exp, F_id), which should be F again; None if it was not asked for."""
    feature_mean: Tensor | None = None
    """Mean of the Gaussian that R_exp was drawn from, shape (B, d), in the KL and JS ablations."""
    feature_log_variance: Tensor | None = None
    """Log variance of that Gaussian, shape (B, d)."""


class DrFER(nn.Module):
    """Both branches and the fusion module.

    The cross-over adds no module: it sends each branch's decoded face through the other branch.

    Attributes:
        expression: Phi_exp, whose classifier tells the expressions apart.
        identity: Phi_id, whose classifier tells the training subjects apart.
        fusion: Upsilon.
    """

    def __init__(self, sizes: ModelSizes, subjects: int, classes: int = len(EXPRESSIONS)) -> None:
        """Create an untrained model.

        Args:
            sizes: widths of all layers.
            subjects: how many training subjects the identity classifier tells apart.
            classes: how many classes the expression classifier tells apart.
        """
        super().__init__()
        self.expression = Branch(sizes, classes, gaussian=sizes.gaussian_feature)
        self.identity = Branch(sizes, subjects)
        self.fusion = Fusion(sizes)

    def disentangle(
        self, face: Tensor, fuse: bool = True, count_decoded: bool = False
    ) -> Disentangled:
        """Take faces apart into expression and identity, cross the parts over, and fuse them again.

        Args:
            face: shape (B, P, 3), frame units, in farthest-point order.
            fuse: whether the fusion module puts the parts together again.
            count_decoded: whether in training the running statistics of batch norm follow the
                decoded faces of the cross-over too. By default they follow scans alone, which are
                what a trained model reads.

        Returns:
            Every feature and face of figure 2.
        """
        feature, mean, log_variance = self.expression.encode_distribution(face)
        expression_face = self.expression.decoder(feature)
        identity_face = self.identity(face)

        expression_ordered = reorder(expression_face)
        identity_ordered = reorder(identity_face)
        counting = nullcontext() if count_decoded else _statistics_kept(self)
        with counting:
            identity_of_expression_face = self.identity(expression_ordered)
            expression_of_identity_face = self.expression(identity_ordered)

        return Disentangled(
            expression_feature=feature,
            expression_face=expression_face,
            identity_face=identity_face,
            identity_of_expression_face=identity_of_expression_face,
            expression_of_identity_face=expression_of_identity_face,
            fused_face=self.fusion(expression_ordered, identity_ordered) if fuse else None,
            feature_mean=mean,
            feature_log_variance=log_variance,
        )


def reorder(face: Tensor) -> Tensor:
    """Bring decoded faces into farthest-point order, which encoders expect.

    A decoder gives its points in an order of its own. Gradients pass through to each point.

    Args:
        face: shape (B, P, 3).

    Returns:
        The same points in another order, shape (B, P, 3).
    """
    return gather(face, farthest_point_sample(face, face.shape[1]))


@contextmanager
def _statistics_kept(model: DrFER) -> Iterator[None]:
    """Keep the branches' running statistics as they are; each batch is normed by itself either way.

    Of what the encoders see in stage iii, every second batch is of decoded faces, which are smoother
    than scans. REPRODUCTION.md says what running statistics of the mixture did.
    """
    norms = [
        layer
        for branch in (model.expression, model.identity)
        for layer in branch.modules()
        if isinstance(layer, nn.BatchNorm1d)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
