"""DrFER as a whole: two branches, their cross-over and the fusion module (figure 2 of the paper)."""

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
    """Everything one forward pass makes of a batch of faces; symbols are the paper's. Faces: (B, P, 3)."""

    expression_feature: Tensor
    """R_exp, (B, d)"""
    expression_face: Tensor
    """F_exp, the de-identified face: what only the expression branch keeps"""
    identity_face: Tensor
    """F_id, the de-expressed face"""
    identity_of_expression_face: Tensor
    """F_exp_id = Phi_id(F_exp): neither, so the mean neutral face"""
    expression_of_identity_face: Tensor
    """F_id_exp = Phi_exp(F_id): likewise"""
    fused_face: Tensor | None
    """Upsilon(F_exp, F_id), the input again; None without the fusion module"""
    feature_mean: Tensor | None = None
    feature_log_variance: Tensor | None = None


class DrFER(nn.Module):
    """Phi_exp, Phi_id and Upsilon. The cross-over adds no module: it runs each branch's face through the other."""

    def __init__(self, sizes: ModelSizes, subjects: int) -> None:
        super().__init__()
        self.expression = Branch(sizes, len(EXPRESSIONS), gaussian=sizes.gaussian_feature)
        self.identity = Branch(sizes, subjects)
        self.fusion = Fusion(sizes)

    def disentangle(
        self, face: Tensor, fuse: bool = True, count_decoded: bool = False
    ) -> Disentangled:
        """face: (B, P, 3), frame units, in farthest-point order. count_decoded: whether a training's running statistics
        follow the decoded faces of the cross-over too."""
        feature, mean, log_variance = self.expression.encode_distribution(face)
        expression_face = self.expression.decoder(feature)
        identity_face = self.identity(face)
        expression_ordered, identity_ordered = reorder(expression_face), reorder(identity_face)
        with (
            nullcontext()
            if count_decoded
            else running_statistics_kept(self.expression, self.identity)
        ):
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


@contextmanager
def running_statistics_kept(*modules: nn.Module) -> Iterator[None]:
    """Batch norm inside trains on each batch's own statistics, but does not count them into the running ones.

    Those serve a trained model, which reads scans, while every second batch of an encoder in stage iii is of decoded
    faces, which are smoother. REPRODUCTION.md says what the mixture did.
    """
    norms = [
        layer
        for module in modules
        for layer in module.modules()
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


def reorder(face: Tensor) -> Tensor:
    """A decoded face (B, P, 3) in farthest-point order, as the encoders expect; gradients pass through."""
    return gather(face, farthest_point_sample(face, face.shape[1]))
