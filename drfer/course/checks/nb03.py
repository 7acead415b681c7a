"""Checks of notebook 03."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from drfer.course.checks import NOT_DONE, Exercise
from drfer.models.points import farthest_point_sample, gather
from drfer.preprocessing import template
from drfer.training.losses import chamfer_distance

POINTS, FRAME = 512, 120
"""Of a cloud, and mm in one frame unit."""
AWAY = (8, 30)
"""mm that a new cloud may lie from the old face or its mirror image: in the middle, and at most."""
EVEN = 0.75
"""Share of their spacing that the first 128 points have to keep."""
SEEDS = range(20)
"""Of the generators that an augmentation is tried with."""
SAME_WAY = 1 - 1e-6
"""Cosine from which on two points lie in one direction, as scaled ones do."""


def _logits() -> list[tuple]:
    rng = np.random.default_rng()
    tries = []
    for (scans, classes), scale in zip([(24, 6), (7, 9), (2, 6)], (1, 30, 30)):
        logits = scale * rng.normal(size=(scans, classes))
        if scans == 2:  # far apart from each other, and both too large for exp
            logits += [[1000.0], [3000.0]]
        tries.append((logits, rng.integers(0, classes, scans)))
    # a right class whose softmax is rounded to 0
    return [*tries, (np.array([[1000.0, -1000.0, 0.0], [0.0, 1.0, 2.0]]), np.array([1, 2]))]


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> Tensor:
    return cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))


def _dropped() -> list[tuple]:
    tries = []
    for share in (0.0, 0.4, 0.9, 1.0):
        dropped = torch.rand(60) < share
        dropped[0] = False
        tries.append((torch.randn(60, 3), dropped))
    return tries


def _with_copies(cloud: Tensor, dropped: Tensor) -> Tensor:
    return torch.cat([cloud[~dropped], cloud[:1].expand(int(dropped.sum()), 3)])


def _clouds_and_means() -> list[tuple]:
    means = torch.randn(6, 40, 3)
    true = torch.randint(6, (9,))
    return [
        (means[true] + 0.8 * torch.randn(9, 40, 3), means),
        (torch.randn(5, 30, 3), torch.randn(6, 30, 3)),
    ]


def _nearest_mean(clouds: Tensor, means: Tensor) -> Tensor:
    distances = [chamfer_distance(clouds, mean.expand(len(clouds), -1, -1)) for mean in means]
    return torch.stack(distances, dim=1).argmin(dim=1)


@cache
def _face() -> tuple[Tensor, Tensor]:
    """A cloud in farthest-point order, and the surface that it is from, in frame units."""
    dense = torch.tensor(template.load().vertices / FRAME, dtype=torch.float32)[None]
    some = dense[
        :, torch.randperm(dense.shape[1], generator=torch.Generator().manual_seed(0))[:6000]
    ]
    return gather(some, farthest_point_sample(some, POINTS))[0], some[0]


def _spacing(cloud: Tensor) -> float:
    """How far the first 128 points are from their neighbours among themselves; few are near."""
    first = cloud[:128]
    return torch.cdist(first, first).fill_diagonal_(torch.inf).amin(dim=1).quantile(0.2).item()


def _is_new(directions: Tensor, known: Tensor) -> Tensor:
    """Which of some directions, (n, 3), are none of those that are known."""
    return (directions @ known.T).amax(dim=1) <= SAME_WAY


def _are_of_one(clouds: list[Tensor], some: Tensor) -> bool:
    """Whether clouds can be one cloud, of which some points are given, scaled and with points lost."""
    known = normalize(some, dim=1)
    for cloud in clouds:
        made = normalize(cloud.unique(dim=0), dim=1)
        known = torch.cat([known, made[_is_new(made, known)]])
        if len(known) > POINTS:
            return False
    return True


def _judge_augmentation(function) -> str | None:
    cloud, surface = _face()
    before = cloud.clone()
    # the other way round the second time, so that taking turns is not taken for luck
    made, again = (
        [function(cloud, torch.Generator().manual_seed(seed)) for seed in seeds]
        for seeds in (SEEDS, reversed(SEEDS))
    )
    if any(each is None for each in (*made, *again)):
        return NOT_DONE
    if any(each.shape != cloud.shape for each in made):
        return f"a cloud of the shape {tuple(cloud.shape)} is wanted, not {tuple(made[0].shape)}."
    if not cloud.equal(before):
        return "it changes the cloud that it was given; return a new one."
    if not all(each.isfinite().all() for each in made):
        return "some coordinates are no numbers."
    if not all(one.equal(other) for one, other in zip(made, reversed(again))):
        return "the same generator gives two different clouds: draw all luck from it."
    if all(each.equal(made[0]) for each in made):
        return f"{len(SEEDS)} generators give the same cloud: nothing is random."
    if _are_of_one(made, cloud):
        return "it only scales or drops points, which the kit does already."
    if _are_of_one(made, made[0][:1]):
        return "what it does besides scaling or dropping points is the same for every generator."
    for each in made:
        mirrored = surface * torch.tensor([-1.0, 1.0, 1.0])
        away = torch.stack([torch.cdist(each, face).amin(dim=1) for face in (surface, mirrored)])
        away = FRAME * away[away.mean(dim=1).argmin()]
        if away.median() > AWAY[0] or away.max() > AWAY[1]:
            return (
                f"one new face lies up to {away.max():.0f} mm from the old one "
                f"({away.median():.0f} mm in the middle); {AWAY[1]:.0f} and {AWAY[0]:.0f} mm are allowed."
            )
        if _spacing(each) < EVEN * _spacing(cloud):
            return "the first 128 points are no longer an even sample of the face."
    return None


EXERCISES = {
    1: Exercise(
        right=_cross_entropy,
        on=_logits,
        hint="-log p is log(sum(exp(z))) less z of the right class; then the mean over scans.",
    ),
    2: Exercise(
        right=_with_copies, on=_dropped, hint="those that stay come first, in their old order."
    ),
    3: Exercise(
        right=_nearest_mean, on=_clouds_and_means, hint="six distances a cloud; the least counts."
    ),
    4: Exercise(judge=_judge_augmentation),
}
"""By number."""
