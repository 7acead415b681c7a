"""What the exercises of notebook 02 are checked by."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from drfer.course.checks import NOT_DONE, Exercise
from drfer.course.small import ENCODER
from drfer.evaluation.presets import PRESETS
from drfer.models.pointnet2 import Encoder, EncoderSizes, SetAbstraction, SetAbstractionSizes
from drfer.models.points import ball_query, ball_query_plain
from drfer.preprocessing import template

MILLIMETRES = 120
"""In one frame unit."""
POINTS = 512
"""Of the cloud on which exercise 5 is checked."""
LEVELS = 2
"""Of the course's encoder, which exercise 5 keeps."""
SEEN = 95.0
"""Percent of the points that each level has to see there."""
SHARE = 0.5
"""Of the work of the course's encoder that is allowed there."""
FINE = SetAbstractionSizes(centroids=20, radius=0.25, neighbours=6, widths=(8, 12))
COARSE = SetAbstractionSizes(centroids=20, radius=0.5, neighbours=12, widths=(8, 10))
"""Two sizes of balls for exercise 4."""


def _reach() -> float:
    return MILLIMETRES * sum(level.radius for level in PRESETS["paper"].sizes.encoder.levels)


def _balls() -> list[tuple[Tensor, Tensor, float, int]]:
    random = torch.Generator().manual_seed(2)
    points = torch.rand(2, 70, 3, generator=random)
    return [(points, points[:, :12], radius, 8) for radius in (0.15, 0.3, 0.8)]


def _judge_few(function) -> str | None:
    random = torch.Generator().manual_seed(3)
    for points, width in ((300, 40), (60, 100)):
        rows = torch.randn(points, width, generator=random)
        indices = function(rows.clone())
        if indices is None:
            return NOT_DONE
        indices = torch.as_tensor(indices).long().unique()
        if not len(indices) or not 0 <= indices[0] <= indices[-1] < points:
            return f"indices from 0 to {points - 1} are wanted."
        lost = int((rows[indices].amax(dim=0) < rows.amax(dim=0)).sum())
        if lost:
            return f"without the other points {lost} of {width} numbers of the feature change."
        needed = len(rows.argmax(dim=0).unique())
        if len(indices) > needed:
            return f"{len(indices)} points are more than the {needed} that it needs."
    return None


def _judge_two_scales(given) -> str | None:
    random = torch.Generator().manual_seed(4)
    points = torch.rand(3, 60, 3, generator=random)
    features = torch.rand(3, 60, 5, generator=random)
    level = given(5, FINE, COARSE)
    kit = nn.ModuleList(SetAbstraction(5, sizes) for sizes in (FINE, COARSE)).eval()
    if not isinstance(level, nn.Module):
        return NOT_DONE if level is None else "a class of modules is wanted."
    with torch.no_grad():
        made = level.eval()(points, features)
        if made is None:
            return NOT_DONE
        centroids, described = made
        width = FINE.widths[-1] + COARSE.widths[-1]
        if tuple(described.shape) != (3, FINE.centroids, width):
            return f"the features have the shape {tuple(described.shape)}, not (B, S, {width})."
        if not centroids.equal(points[:, : FINE.centroids]):
            return "the centroids are not the first points."
        weights, wanted = list(level.state_dict().values()), kit.state_dict()
        for order in ((0, 1), (1, 0)):
            names = [name for one in order for name in wanted if name.startswith(f"{one}.")]
            if [each.shape for each in weights] != [wanted[name].shape for name in names]:
                continue
            kit.load_state_dict(dict(zip(names, weights)))
            fine, coarse = (one(points, features)[1] for one in kit)
            for joined in ((fine, coarse), (coarse, fine)):
                if torch.allclose(described, torch.cat(joined, dim=-1), atol=1e-5):
                    return None
            return "the features are not those of a fine and a coarse level, joined."
    return "its weights are not those of two set abstraction levels, one after the other."


@cache
def _face() -> Tensor:
    """The common mesh as a cloud, (1, 512, 3), frame units."""
    return torch.from_numpy(template.load().vertices[None, :POINTS]) / MILLIMETRES


def _work(sizes: EncoderSizes) -> int:
    """Multiplications of all linear layers for one face."""
    rows = []

    def count(linear: nn.Linear, given: tuple[Tensor], made: Tensor) -> None:
        rows.append(len(given[0]) * linear.in_features * linear.out_features)

    encoder = Encoder(sizes).eval()
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        encoder(_face())
    return sum(rows)


def _judge_cheap(sizes) -> str | None:
    if not isinstance(sizes, EncoderSizes):
        return "`EncoderSizes` are wanted."
    if sizes.global_widths[-1] != ENCODER.global_widths[-1]:
        return f"the feature has to keep its {ENCODER.global_widths[-1]} numbers."
    if len(sizes.levels) != LEVELS:
        return f"{LEVELS} levels are wanted, not {len(sizes.levels)}."
    points = _face()
    for number, level in enumerate(sizes.levels, start=1):
        centroids = points[:, : level.centroids]
        seen = ball_query(points, centroids, level.radius, level.neighbours).unique()
        if 100 * len(seen) < SEEN * points.shape[1]:
            return f"level {number} sees only {len(seen)} of its {points.shape[1]} points."
        points = centroids
    share = _work(sizes) / _work(ENCODER)
    if share > SHARE:
        return (
            f"it does {100 * share:.0f} % of the work. Hint: where is most of the work? Print it "
            "level by level."
        )
    return None


EXERCISES = {
    1: Exercise(
        right=_reach(),
        hint="from the centroid to a centroid of level 1, and from there to a point.",
    ),
    2: Exercise(
        right=ball_query_plain,
        on=_balls,
        hint="mark who is outside by an index that is too large, and sort.",
    ),
    3: Exercise(judge=_judge_few, hint="who holds the maximum of each number?"),
    4: Exercise(judge=_judge_two_scales, hint="two levels over the same points, side by side."),
    5: Exercise(judge=_judge_cheap),
}
