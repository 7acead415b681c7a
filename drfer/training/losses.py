"""The losses, each under the paper's number; a scalar unless the docstring says otherwise.

The stages' sums, equations (7), (8) and (10), are put together from these in `stages.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from drfer.common.errors import ShapeError
from drfer.models.points import gather, nearest

MARGIN = 0.3
"""alpha of equation (6)"""
FUSION_WEIGHT = 0.1
"""lambda of equation (10)"""


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Equations (1) and (2): cross-entropy of logits (B, classes) against labels (B,)."""
    return cross_entropy(logits, labels)


def chamfer_distance(a: Tensor, b: Tensor, reduction: str = "sum") -> Tensor:
    """Squared chamfer distance d_CD between point sets, one value a pair (Fan et al. 2017, eq. 1).

    a: (B, N, 3), b: (B, M, 3), same unit u. Returns (B,), in u^2: squared distance to the nearest neighbour, summed
    ("sum") or averaged ("mean") over the points of each set, both directions added. Raises ShapeError if B or the
    last axis differ.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is 'sum' or 'mean', not {reduction!r}")
    # the neighbour is constant almost everywhere: only the distance to it needs a gradient
    a_to_b, b_to_a = nearest(a, b), nearest(b, a)
    there, back = (
        (a - gather(b, a_to_b)).square().sum(dim=-1),
        (b - gather(a, b_to_a)).square().sum(dim=-1),
    )
    if reduction == "sum":
        return there.sum(dim=1) + back.sum(dim=1)
    return there.mean(dim=1) + back.mean(dim=1)


def reconstruction_loss(face: Tensor, target: Tensor, reduction: str = "sum") -> Tensor:
    """Equations (3), (4) and (5): chamfer distance of faces (B, N, 3) to their targets (B, M, 3), batch mean."""
    return chamfer_distance(face, target, reduction).mean()


def triplet_loss(
    features: Tensor,
    labels: Tensor,
    margin: float = MARGIN,
    mining: str = "semi-hard",
    normalised: bool = True,
) -> Tensor:
    """Equation (6) over the triplets mined in a batch (Schroff et al. 2015, section 3.2).

    features: (B, d), labels: (B,). Every ordered pair of one class is anchor and positive; mining chooses the
    negative: "semi-hard" the nearest one that is farther than the positive, where there is one, else the farthest;
    "hard" the nearest; "all" every one. Mean over triplets; 0 if the batch holds no triplet.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ShapeError(
            f"features (B, d) and labels (B,) expected, not {features.shape} and {labels.shape}"
        )
    if normalised:
        features = normalize(features, dim=1)
    distance = (features[:, None] - features[None]).square().sum(dim=-1)
    same = labels[:, None] == labels[None]
    anchor, positive = (
        same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    ).nonzero(as_tuple=True)
    is_negative = ~same[anchor]
    if not is_negative.any():
        return features.sum() * 0.0
    to_positive, to_negatives = distance[anchor, positive], distance[anchor]
    if mining == "all":
        return (to_positive[:, None] - to_negatives + margin).relu()[is_negative].mean()
    return (
        (to_positive - _mined(to_positive, to_negatives, is_negative, mining) + margin)
        .relu()
        .mean()
    )


def _mined(to_positive: Tensor, to_negatives: Tensor, is_negative: Tensor, mining: str) -> Tensor:
    far = to_negatives.masked_fill(~is_negative, float("inf"))
    if mining == "hard":
        return far.amin(dim=1)
    if mining != "semi-hard":
        raise ValueError(f"mining is 'semi-hard', 'hard' or 'all', not {mining!r}")
    beyond = far.masked_fill(to_negatives <= to_positive[:, None], float("inf")).amin(dim=1)
    farthest = to_negatives.masked_fill(~is_negative, -1).amax(dim=1)
    return torch.where(beyond.isinf(), farthest, beyond)


def cross_over_loss(
    identity_of_expression: Tensor,
    expression_of_identity: Tensor,
    mean_neutral: Tensor,
    reduction: str = "sum",
) -> Tensor:
    """Equation (9): both streams' second faces (B, P, 3) against the mean neutral face (B, P, 3)."""
    return reconstruction_loss(
        identity_of_expression, mean_neutral, reduction
    ) + reconstruction_loss(expression_of_identity, mean_neutral, reduction)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), (B, d) each: summed over the feature, batch mean (ablation "w/ L_KL")."""
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1).mean()


def js_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Geometric Jensen-Shannon divergence of N(mean, variance) and N(0, 1), (B, d) each, batch mean.

    Half KL to the normalised geometric mean of the two densities from either side, which is Gaussian again, so
    that the form is closed (Deasy et al. 2020, eq. 7, alpha = 1/2; ablation "w/ L_JS").
    """
    variance = log_variance.exp()
    middle_variance = 2 / (1 / variance + 1)
    middle_mean = 0.5 * middle_variance * mean / variance

    def kl_to_middle(from_mean: Tensor, from_variance: Tensor) -> Tensor:
        ratio = from_variance / middle_variance
        return 0.5 * (
            ratio + (middle_mean - from_mean).square() / middle_variance - 1 - ratio.log()
        )

    standard = kl_to_middle(torch.zeros_like(mean), torch.ones_like(variance))
    return 0.5 * (kl_to_middle(mean, variance) + standard).sum(dim=1).mean()
