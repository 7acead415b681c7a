"""Checks of notebook 11."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drfer.course.checks import NOT_DONE, Exercise, difference
from drfer.evaluation.features import neighbour_purity
from drfer.evaluation.leakage import leakage
from drfer.training.losses import supervised_contrastive_loss

HINT = (
    "Hint: positives are of other people; the sum below the line is over all other scans; mind "
    "which scans the outer mean is over."
)
"""For a value of exercise 2 that is off."""


def _ramp(answer) -> str | None:
    if answer(0.0) is None:
        return NOT_DONE
    values = np.array([float(answer(progress)) for progress in np.linspace(0, 1, 41)])
    if abs(values[0]) > 1e-6:
        return f"it starts at {values[0]:.2g}."
    if values.min() < -1e-6 or values.max() > 1 + 1e-6:
        return f"it goes from {values.min():.2g} to {values.max():.2g}."
    if (np.diff(values) < -1e-9).any():
        return "it falls somewhere."
    if values[-1] < 0.9:
        return f"it ends at {values[-1]:.2g}."
    return None


def _batches() -> list[tuple]:
    found = [
        (torch.randn(count, 8), torch.randint(3, (count,)), torch.randint(people, (count,)))
        for count, people in ((12, 4), (7, 7), (24, 2))
    ]
    # four scans with a positive, and three without: two of them are of one person
    some_alone = torch.randn(7, 8), torch.tensor([0, 0, 1, 1, 2, 2, 3]), torch.arange(7) % 5
    some_alone[2][5] = some_alone[2][4]
    nobody_else = torch.randn(5, 8), torch.arange(5), torch.zeros(5, dtype=torch.int64)
    batches = (*found, some_alone, nobody_else)
    return [(*batch, temperature) for batch in batches for temperature in (0.1, 0.5)]


def _loss_and_gradient(loss, features: Tensor, *rest) -> tuple[object, Tensor | None]:
    """What a loss gives, and its gradient at the features, if it has one."""
    features = features.clone().requires_grad_()
    value = loss(features * 1, *rest)  # no leaf, as in a training: it may be changed in place
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
        return value, None
    [gradient] = torch.autograd.grad(value, features, allow_unused=True)
    return value, gradient


def _contrastive(answer) -> str | None:
    for features, labels, subjects, temperature in _batches():
        rest = labels, subjects, temperature
        right, wanted = _loss_and_gradient(supervised_contrastive_loss, features, *rest)
        # a student may change what the function is given
        changeable = labels.clone(), subjects.clone(), temperature
        value, gradient = _loss_and_gradient(answer, features, *changeable)
        if value is None:
            return NOT_DONE
        if off := difference(value, right, tolerance=1e-3):
            return f"{off} {HINT}"
        if not wanted.any():
            continue  # a loss of 0 that nothing pulls at
        if gradient is None:
            return "its value is right, but no gradient flows back to the features."
        if off := difference(gradient, wanted, tolerance=1e-2):
            return f"its value is right, but not its gradient at the features: {off}"
    return None


def _hidden(answer) -> str | None:
    scans = np.array(np.meshgrid(range(12), range(6), (3, 4), indexing="ij")).reshape(3, -1)
    subject, expression, intensity = scans[:, np.random.default_rng().permutation(scans.shape[1])]
    feature = answer(subject, expression, intensity)
    if feature is None:
        return NOT_DONE
    feature = np.asarray(feature, dtype=np.float64)
    if feature.ndim != 2 or len(feature) != len(subject) or not np.isfinite(feature).all():
        return f"finite numbers of the shape ({len(subject)}, d) are wanted, not {feature.shape}."
    held = 100 * neighbour_purity(feature, subject, 1)
    if held < 90:
        return f"the nearest neighbour is the same person in {held:.0f} % of the scans only."
    read = leakage(feature, expression, subject)["subject"]
    if read["accuracy"] > 2 * read["chance"]:
        return f"a linear probe names the person in {read['accuracy']:.0f} % of the scans."
    return None


EXERCISES = {
    1: Exercise(judge=_ramp),
    2: Exercise(judge=_contrastive),
    3: Exercise(judge=_hidden),
}
"""By number."""
