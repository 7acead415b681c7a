"""What the later stages do to the expression branch: whose gradient moves it, and how far its features move."""

from __future__ import annotations

import numpy as np
import torch

from drfer.models.drfer import DrFER
from drfer.training.stages import STAGES, FoldData, LossSettings, Training, predict

BATCHES = 4
"""of training scans, over which gradients are measured"""


def gradient_norms(
    stage: str, model: DrFER, data: FoldData, training: Training, settings: LossSettings, seed: int
) -> dict[str, float]:
    """By loss term of a stage: the norm of its gradient in the expression encoder's weights, mean over the first few
    batches of an epoch; layers of batch norm and dropout in evaluation."""
    model.eval()
    weights = list(model.expression.encoder.parameters())
    norms: dict[str, list[float]] = {}
    for _, batch in zip(
        range(BATCHES), data.batches(training, torch.Generator().manual_seed(seed))
    ):
        terms = STAGES[stage].loss(model, settings, batch)
        for name, value in terms.items():
            gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            squares = sum(float(part.square().sum()) for part in gradients if part is not None)
            norms.setdefault(name, []).append(squares**0.5)
    return {name: float(np.mean(values)) for name, values in norms.items()}


def feature_movement(before: DrFER, after: DrFER, data: FoldData) -> float:
    """How far the test scans' expression features moved, as a share of how far they lay apart: the root mean square of
    the change over that of the distance from their mean."""
    old, new = (predict(model, data.clouds[data.test])[0] for model in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old - old.mean(axis=0)))
