"""The exercises of notebook 04: chamfer distance, triplets, and size."""

from __future__ import annotations

import torch
from torch import Tensor

from drfer.course.checks import NOT_DONE, Exercise, difference
from drfer.training.losses import MARGIN, triplet_loss

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def _weighted_chamfer(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return squared.amin(dim=1).sum() + (weight * squared.amin(dim=0)).sum()


def _weighted_clouds() -> list[tuple]:
    generator = torch.Generator().manual_seed(41)
    return [
        tuple(torch.rand(*shape, generator=generator) for shape in ((n, 3), (m, 3), (m,)))
        for n, m in ((7, 5), (40, 60))
    ]


def _anchors_gradient(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    anchor = anchor.clone().requires_grad_()
    gap = (anchor - positive).square().sum() - (anchor - negative).square().sum()
    (gap + MARGIN).relu().backward()
    return anchor.grad


def _triplets() -> list[tuple]:
    """Triplets whose squared distances differ by more than the margin, and by less."""
    generator = torch.Generator().manual_seed(42)
    anchor, one, other = torch.randn(3, 8, generator=generator)
    one, other = one / one.norm(), other / other.norm()
    squared = [(1.0, 0.3), (0.2, 1.4), (0.5, 0.65), (1.0, 1.5)]  # to the positive, to the negative
    return [(anchor, anchor + p**0.5 * one, anchor + n**0.5 * other) for p, n in squared]


def _pull(function) -> str | None:
    if not callable(function):
        return "a function is wanted."
    for triplet in _triplets():
        given = function(*(each.clone() for each in triplet))
        if given is None:
            return NOT_DONE
        right = _anchors_gradient(*triplet)
        off = difference(given, right)
        if off and not right.any():
            return f"{off} Hint: what is the gradient of a triplet that costs nothing?"
        if off:
            return f"{off} This triplet costs something. Hint: write both squares out."
    return None


def _free_of_cost(features) -> str | None:
    features = torch.as_tensor(features, dtype=torch.float32)
    if features.shape != (6, 2):
        return f"the shape is off: {tuple(features.shape)} instead of (6, 2)."
    if not torch.isfinite(features).all():
        return "not all of them are numbers."
    if (features < 0).any():
        return "a feature after a ReLU has no negative number."
    if (features.norm(dim=1) < 1e-6).any():
        return "a feature of length 0 has no direction."
    pairs = features[::2] - features[1::2]
    if (pairs.norm(dim=1) < 1e-6).any():
        return "two scans of one expression are never quite the same: move them apart a little."
    loss = triplet_loss(features, LABELS, mining="all").item()
    return f"the loss is still {loss:.3f}." if loss > 1e-6 else None


def _forgets_size(function) -> str | None:
    generator = torch.Generator().manual_seed(44)
    clouds = torch.randn(3, 50, 3, generator=generator) + 0.2
    given = function(clouds)
    if given is None:
        return NOT_DONE
    if given.shape != clouds.shape:
        return f"the shape is off: {tuple(given.shape)} instead of {tuple(clouds.shape)}."
    for factors in ((0.8, 0.8, 0.8), (0.8, 1.25, 1.0)):
        scaled = torch.tensor(factors)[:, None, None] * clouds
        off = (function(scaled) - given).abs().max().item()
        if not off < 1e-4:
            said = " and ".join(f"{each:g}" for each in dict.fromkeys(factors))
            return f"{said} times the clouds of a batch come out elsewhere, by up to {off:.3f}."
    # a scaled copy: distances inside a cloud keep their ratios
    before, after = (
        torch.cdist(each, each, compute_mode="donot_use_mm_for_euclid_dist")
        for each in (clouds, given)
    )
    ratio = (after / before)[before > 0].view(3, -1)
    if not (ratio.min() > 0 and ((ratio.amax(dim=1) / ratio.amin(dim=1)) < 1.001).all()):
        return "the shape has changed, and not only the size."
    centred = [(each - each.mean(dim=1, keepdim=True)).flatten(1) for each in (clouds, given)]
    if torch.cosine_similarity(*centred).min() < 0.999:
        return "the cloud has been turned or mirrored."
    return None


EXERCISES = {
    1: Exercise(
        right=_weighted_chamfer,
        on=_weighted_clouds,
        hint="only the direction from the target to the face has weights.",
    ),
    2: Exercise(judge=_pull),
    3: Exercise(
        judge=_free_of_cost, hint="only the direction of a feature counts, not its length."
    ),
    4: Exercise(judge=_forgets_size, hint="divide each cloud by one length of its own."),
}
