"""What the later stages do to the expression branch: whose gradient moves it, and how far.

Used in notebook 05.
"""

from __future__ import annotations

import numpy as np
import torch

from drfer.models.drfer import DrFER
from drfer.training.data import FoldData
from drfer.training.stages import LossSettings, Schedule, Stage
from drfer.training.trainer import predict

BATCHES = 4
"""Batches of training scans over which gradients are measured."""


def gradient_norms(
    stage: Stage,
    model: DrFER,
    data: FoldData,
    schedule: Schedule,
    settings: LossSettings,
    seed: int,
) -> dict[str, float]:
    """Return the norm of each loss term's gradient in the expression encoder's weights.

    It is the mean over the first batches of an epoch, with batch norm and dropout in evaluation.

    Args:
        stage: whose loss is measured.
        model: with the weights at which it is measured.
        data: the fold's scans.
        schedule: batch size and augmentation.
        settings: which loss terms there are.
        seed: of the batches.
    """
    model.eval()
    weights = list(model.expression.encoder.parameters())
    norms: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(seed)
    batches = data.batches(schedule.batch_size, schedule.augmentation, generator)
    for _, batch in zip(range(BATCHES), batches):
        terms = stage.loss(model, settings, batch)
        for name, value in terms.items():
            gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            squares = sum(float(part.square().sum()) for part in gradients if part is not None)
            norms.setdefault(name, []).append(squares**0.5)
    return {name: float(np.mean(values)) for name, values in norms.items()}


def feature_movement(before: DrFER, after: DrFER, data: FoldData) -> float:
    """Return how far the test scans' expression features moved, as a share of how far they lay apart.

    It is the root mean square of the change over that of the distance from the features' mean.
    """
    old, new = (predict(model, data.clouds[data.test])[0] for model in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old - old.mean(axis=0)))
