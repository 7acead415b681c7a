"""The losses, each with its formula and the paper's number for it.

The stages' sums, equations (7), (8) and (10), are put together from these in `stages`.

Built in notebooks 03 (equations 1 to 3), 04 (4 to 6), 05 (9) and 07 (KL and JS).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from drfer.common.errors import ShapeError
from drfer.models.points import gather, nearest

MARGIN = 0.3
"""alpha in equation (6), the paper's value."""
FUSION_WEIGHT = 0.1
"""lambda in equation (10), the paper's value."""


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of predicted classes: equation (1) for expressions, (2) for subjects.

        l_CE(z, c) = -log( exp(z_c) / sum_k exp(z_k) )

    Args:
        logits: z, shape (B, classes).
        labels: the true classes c, shape (B,), int64.

    Returns:
        The mean over the batch, a scalar.

    Built in notebook 03.
    """
    return cross_entropy(logits, labels)


def chamfer_distance(a: Tensor, b: Tensor, reduction: str = "sum") -> Tensor:
    """Squared chamfer distance between point sets (Fan et al. 2017, equation 1), one for each pair.

        d_CD(A, B) = sum_{x in A} min_{y in B} ||x - y||^2 + sum_{y in B} min_{x in A} ||x - y||^2

    Args:
        a: points, shape (B, N, 3), in any length unit u.
        b: points, shape (B, M, 3), in the same unit.
        reduction: "sum" over each set's points, as in the formula, or their "mean".

    Returns:
        Distances, shape (B,), in u^2.

    Raises:
        ShapeError: the batch sizes differ, or a cloud does not have the shape (B, N, 3).
        ValueError: there is no such reduction.

    Built in notebook 04.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is 'sum' or 'mean', not {reduction!r}")
    # which point is nearest is constant almost everywhere: only the distance to it has a gradient
    nearest_in_b = gather(b, nearest(a, b))
    nearest_in_a = gather(a, nearest(b, a))
    from_a = (a - nearest_in_b).square().sum(dim=-1)
    from_b = (b - nearest_in_a).square().sum(dim=-1)
    if reduction == "sum":
        return from_a.sum(dim=1) + from_b.sum(dim=1)
    return from_a.mean(dim=1) + from_b.mean(dim=1)


def reconstruction_loss(face: Tensor, target: Tensor, reduction: str = "sum") -> Tensor:
    """Chamfer distance of decoded faces to their targets: equations (3), (4) and (5).

        (3)  L_rec^ori = d_CD(Upsilon(...), F)       the fused face should be the scan
        (4)  L_rec^exp = d_CD(F_exp, F^mean_C)       the de-identified face, the class's mean face
        (5)  L_rec^id  = d_CD(F_id, F^P_neu)         the de-expressed face, the subject's neutral

    Args:
        face: decoded faces, shape (B, N, 3), frame units.
        target: target faces, shape (B, M, 3), frame units.
        reduction: "sum" or "mean" over points, as in `chamfer_distance`.

    Returns:
        The mean over the batch, a scalar, in squared frame units.

    Raises:
        ShapeError: the batch sizes differ, or a face does not have the shape (B, N, 3).
        ValueError: there is no such reduction.

    Built in notebooks 03 and 04.
    """
    return chamfer_distance(face, target, reduction).mean()


def triplet_loss(
    features: Tensor,
    labels: Tensor,
    margin: float = MARGIN,
    mining: str = "semi-hard",
    normalised: bool = True,
) -> Tensor:
    """Triplet loss, equation (6), over triplets that are found in the batch.

        L_tri = max( ||R_A - R_P||^2 - ||R_A - R_N||^2 + alpha, 0 )

    Every ordered pair of two scans of one class is an anchor A and a positive P. Which scans of
    other classes are its negatives N is called mining. The paper cites Schroff et al. 2015, whose
    features have length 1 and whose mining is semi-hard (section 3.2); that it does the same, and
    what happens where no negative is semi-hard, is our choice.

    Args:
        features: R, shape (B, d).
        labels: classes, shape (B,).
        margin: alpha, in squared units of the features.
        mining: "semi-hard" takes the nearest negative that is farther away than the positive, or
            the farthest one if none is; "hard" takes the nearest; "all" takes every negative.
        normalised: whether features are first brought to length 1.

    Returns:
        The mean over the triplets, a scalar; 0 if the batch holds none.

    Raises:
        ShapeError: features and labels do not have the shapes (B, d) and (B,).
        ValueError: there is no such mining.

    Built in notebook 04.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ShapeError(
            f"features (B, d) and labels (B,) expected, not {features.shape} and {labels.shape}"
        )
    if mining not in ("semi-hard", "hard", "all"):
        raise ValueError(f"mining is 'semi-hard', 'hard' or 'all', not {mining!r}")
    if normalised:
        features = normalize(features, dim=1)
    distance = (features[:, None] - features[None]).square().sum(dim=-1)
    same_class = labels[:, None] == labels[None]
    is_negative = ~same_class
    is_pair = same_class & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # of the shape (anchors, positives, negatives)
    violation = distance[:, :, None] - distance[:, None] + margin
    is_triplet = is_pair[:, :, None] & is_negative[:, None]
    if mining != "all":
        is_triplet = is_triplet & _mined(distance, is_negative, mining)
    return violation.relu().where(is_triplet, 0).sum() / is_triplet.sum().clamp(min=1)


@torch.no_grad()
def _mined(distance: Tensor, is_negative: Tensor, mining: str) -> Tensor:
    """Return which negative is mined for each anchor and positive: one each, (B, B, B)."""
    to_negatives = distance.masked_fill(~is_negative, float("inf"))[:, None]
    chosen = to_negatives
    if mining == "semi-hard":
        beyond = to_negatives.masked_fill(distance[:, None] <= distance[:, :, None], float("inf"))
        farthest = (-distance).masked_fill(~is_negative, float("inf"))[:, None]
        chosen = torch.where(beyond.isinf().all(dim=2, keepdim=True), farthest, beyond)
    mined = chosen.expand(-1, len(distance), -1).argmin(dim=2, keepdim=True)
    return mined == torch.arange(len(distance), device=distance.device)


def supervised_contrastive_loss(
    features: Tensor, labels: Tensor, subjects: Tensor, temperature: float = 0.1
) -> Tensor:
    """Supervised contrastive loss across subjects; it is not in the paper.

        L = mean over i of -1/|pos(i)| sum_{p in pos(i)} log( exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t) )

    This is L_sup^out of Khosla et al. 2020 (equation 2), but for the positives pos(i): scans of the
    same expression of *other* subjects, so that what two scans have in common is not the person.

    Args:
        features: R, shape (B, d); z is R at length 1.
        labels: expressions, shape (B,).
        subjects: whose scans they are, shape (B,).
        temperature: t.

    Returns:
        The mean over the scans that have a positive, a scalar; 0 if none has.

    Raises:
        ShapeError: the shapes are others.
    """
    if features.dim() != 2 or not labels.shape == subjects.shape == features.shape[:1]:
        raise ShapeError(
            f"features (B, d), labels and subjects (B,) expected, not {features.shape}, "
            f"{labels.shape} and {subjects.shape}"
        )
    unit = normalize(features, dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, float("-inf"))
    log_share = similarity.log_softmax(dim=1)
    positive = (labels[:, None] == labels) & (subjects[:, None] != subjects)
    count = positive.sum(dim=1)
    of_scan = log_share.where(positive, 0).sum(dim=1) / count.clamp(min=1)
    return -of_scan.sum() / (count > 0).sum().clamp(min=1)


def cross_over_loss(
    identity_of_expression: Tensor,
    expression_of_identity: Tensor,
    mean_neutral: Tensor,
    reduction: str = "sum",
) -> Tensor:
    """Cross-over loss, equation (9): what went through both branches should be the mean neutral face.

        L_rec^dis = d_CD(F_exp_id, F^mean_neu) + d_CD(F_id_exp, F^mean_neu)

    Args:
        identity_of_expression: F_exp_id = Phi_id(F_exp), shape (B, N, 3), frame units.
        expression_of_identity: F_id_exp = Phi_exp(F_id), shape (B, N, 3), frame units.
        mean_neutral: F^mean_neu for each scan, shape (B, M, 3), frame units.
        reduction: "sum" or "mean" over points, as in `chamfer_distance`.

    Returns:
        The mean over the batch, a scalar, in squared frame units.

    Raises:
        ShapeError: the batch sizes differ, or a face does not have the shape (B, N, 3).
        ValueError: there is no such reduction.

    Built in notebook 05.
    """
    of_expression_stream = reconstruction_loss(identity_of_expression, mean_neutral, reduction)
    of_identity_stream = reconstruction_loss(expression_of_identity, mean_neutral, reduction)
    return of_expression_stream + of_identity_stream


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a Gaussian feature from N(0, 1), for the ablation "w/ L_KL".

        KL( N(m, s^2) || N(0, 1) ) = 1/2 sum_k ( s_k^2 + m_k^2 - 1 - log s_k^2 )

    Args:
        mean: m, shape (B, d).
        log_variance: log s^2, shape (B, d).

    Returns:
        The sum over the feature's components, as a mean over the batch; a scalar.

    Built in notebook 07.
    """
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1).mean()


def js_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Geometric Jensen-Shannon divergence of a Gaussian feature from N(0, 1), for "w/ L_JS".

        JS = 1/2 KL( N(m, s^2) || G ) + 1/2 KL( N(0, 1) || G ),

    where G is the normalised geometric mean of the two densities. G is Gaussian again, with

        variance  v = 2 / (1 / s^2 + 1)  and  mean  m v / (2 s^2),

    so that the formula is closed (Deasy et al. 2020, equation 7, with alpha = 1/2).

    Args:
        mean: m, shape (B, d).
        log_variance: log s^2, shape (B, d).

    Returns:
        The sum over the feature's d numbers and mean over the batch, a scalar.

    Built in notebook 07.
    """
    variance = log_variance.exp()
    middle_variance = 2 / (1 / variance + 1)
    middle_mean = 0.5 * middle_variance * mean / variance

    def kl_to_middle(from_mean: Tensor, from_variance: Tensor) -> Tensor:
        ratio = from_variance / middle_variance
        distance = (middle_mean - from_mean).square() / middle_variance
        return 0.5 * (ratio + distance - 1 - ratio.log())

    standard = kl_to_middle(torch.zeros_like(mean), torch.ones_like(variance))
    return 0.5 * (kl_to_middle(mean, variance) + standard).sum(dim=1).mean()
