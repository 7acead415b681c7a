"""Checks of notebook 11."""

from __future__ import annotations

import numpy as np
import torch

from drfer.course.checks import NOT_DONE, Exercise
from drfer.evaluation.features import neighbour_purity
from drfer.evaluation.leakage import leakage
from drfer.training.losses import supervised_contrastive_loss


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
    nobody_else = torch.randn(5, 8), torch.arange(5), torch.zeros(5, dtype=torch.int64)
    return [(*batch, temperature) for batch in (*found, nobody_else) for temperature in (0.1, 0.5)]


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
    2: Exercise(
        right=supervised_contrastive_loss,
        on=_batches,
        tolerance=1e-3,
        hint="positives are of other people; the sum below the line is over all other scans.",
    ),
    3: Exercise(judge=_hidden),
}
"""By number."""
