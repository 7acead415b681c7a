"""The exercises of notebook 05: the cross-over, gradients that meet, and the expression mixer."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from drfer.common.device import device
from drfer.course.checks import NOT_DONE, Exercise
from drfer.course.small import SMALL, strangers
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, ScanKey
from drfer.evaluation.run import Run
from drfer.evaluation.truth import true_faces
from drfer.figures.shading import displacement, surface
from drfer.models.drfer import DrFER, reorder
from drfer.preprocessing.faceset import FaceSet
from drfer.training.losses import cross_over_loss
from drfer.training.trainer import fresh_model

TRIED = ("surprise", "happiness", "anger")
VERTICES = 4096
WILD = 300.0
"""By how much more the drawings of exercise 1 depend on their input than those of a fresh model."""

SAME = 2e-3
"""How far two values of (9) may be apart, as a share, and count as the same."""


def _cross_over(model: DrFER, clouds: Tensor, mean_neutral: Tensor) -> Tensor:
    out = model.disentangle(clouds, fuse=False)
    crossed = out.identity_of_expression_face, out.expression_of_identity_face
    return cross_over_loss(*crossed, mean_neutral.expand_as(clouds))


def _is_unsorted(given: float, model: DrFER, clouds: Tensor, mean_neutral: Tensor) -> bool:
    """Whether a value is what comes out if one of the drawn faces is not sorted, or neither."""
    mean = mean_neutral.expand_as(clouds)
    with torch.no_grad():
        drawn = model.expression(clouds), model.identity(clouds)
        crossed = [
            (second(face), second(reorder(face)))
            for face, second in zip(drawn, (model.identity, model.expression))
        ]
        *wrong, _ = (cross_over_loss(*faces, mean).item() for faces in product(*crossed))
    return any(abs(given / each - 1) < SAME for each in wrong)


def _small_models() -> list[tuple]:
    """Untrained ones whose two branches draw other faces of each cloud, and made-up clouds."""
    points, generator = SMALL.sizes.points, torch.Generator().manual_seed(51)
    mean = 0.4 * torch.randn(points, 3, generator=generator).to(device())
    model = fresh_model(SMALL.sizes, 3, mean, seed=51)
    model.identity.decoder.start_from(1.2 * mean.flip(0))
    clouds = 0.4 * torch.randn(4, points, 3, generator=generator).to(device())
    clouds *= torch.tensor([0.5, 0.8, 1.0, 1.3], device=clouds.device)[:, None, None]
    with torch.no_grad():
        for branch in (model.expression, model.identity):
            branch.decoder.layers[-1].weight.mul_(WILD)
            for _ in range(20):  # batch norm gets statistics under which features differ
                branch.encode(reorder(clouds))
    model.eval()
    return [(model, clouds[:1], mean), (model, clouds, 0.9 * mean)]


def _differentiable_cross_over(function) -> str | None:
    for model, clouds, mean in _small_models():
        clouds = clouds.clone().requires_grad_()
        given = function(model, clouds, mean)
        if given is None:
            return NOT_DONE
        if not isinstance(given, Tensor) or given.dim() != 0:
            return "the answer has to be a tensor of one number."
        right = _cross_over(model, clouds, mean).item()
        if not abs(given.item() / right - 1) < SAME:
            off = f"{given.item():g} is too {'large' if given.item() > right else 'small'}."
            if _is_unsorted(given.item(), model, clouds, mean):
                off += " Hint: what a branch drew has to be sorted."
            return off
        if not given.requires_grad:
            return "no gradient can flow back from it."
        [of_clouds] = torch.autograd.grad(given, [clouds], allow_unused=True)
        if of_clouds is None or not of_clouds.any():
            return "no gradient flows back through what the first branch drew."
    return None


def _vectors() -> list[tuple]:
    generator = torch.Generator().manual_seed(52)
    a, b = torch.randn(2, 1000, generator=generator)
    nothing = torch.zeros_like(a)
    return [(a, b), (a, 3 * a + b), (0.01 * a, -a + 0.2 * b), (nothing, b), (nothing, nothing)]


def mean_moves(faces: FaceSet, subjects: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return how people's faces move on average when they put on an expression.

    Args:
        faces: preprocessed scans.
        subjects: over whom the mean is taken.

    Returns:
        The template's first vertices on the mean neutral face, shape (V, 3), and the move of each
        by each expression, shape (6, V, 3); frame units.
    """
    number = {key: place for place, key in enumerate(faces.keys)}
    neutral = {subject: number[ScanKey(subject, NEUTRAL, 0)] for subject in subjects}
    rows = list(neutral.values())
    places = _mean(faces.vertices[rows], ~faces.missing[rows])
    moves = []
    for expression in EXPRESSIONS:
        scans = [
            scan
            for scan, key in enumerate(faces.keys)
            if key.expression == expression and key.subject in neutral
        ]
        own = [neutral[faces.keys[scan].subject] for scan in scans]
        there = ~(faces.missing[scans] | faces.missing[own])
        moves.append(_mean(faces.vertices[scans] - faces.vertices[own], there))
    return places, np.stack(moves)


def _mean(rows: np.ndarray, there: np.ndarray) -> np.ndarray:
    weights = there[..., None]
    return ((rows * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1)).astype(np.float32)


def _beats_doing_nothing(function) -> str | None:
    known = strangers()
    faces, model = known.faces, known.model
    people, (a, b, *_) = Run(SMALL, fold=1).split(faces)
    points = model.expression.decoder.layers[-1].out_features // 3
    clouds = torch.tensor(faces.clouds[:, :points], device=device())
    places, moves = (torch.tensor(each, device=device()) for each in mean_moves(faces, people))
    number = {key: place for place, key in enumerate(faces.keys)}
    keys = [ScanKey(a, expression, 4) for expression in TRIED]
    neutral_b = clouds[number[ScanKey(b, NEUTRAL, 0)]][None]
    answers = []
    for key in keys:
        scan_a = clouds[number[key]][None]
        answer = function(scan_a, neutral_b.clone(), model, places.clone(), moves.clone())
        if answer is None:
            return NOT_DONE
        if tuple(answer.shape) != (1, points, 3):
            return f"the shape is off: {tuple(answer.shape)} instead of {(1, points, 3)}."
        answers.append(answer.detach())
    units = np.stack([known.database.truth(key).activation for key in keys])
    errors = []
    for face, answer in zip(true_faces(known.database, b, units), answers):
        goal = surface(face[:VERTICES])
        both = torch.cat([answer, neutral_b]).cpu().numpy() * faces.settings.frame_length
        errors.append([_distance(each, goal) for each in both])
    mixed, nothing = np.mean(errors, axis=0)
    if not mixed < 0.9 * nothing:
        return (
            f"your faces are {mixed:.2f} mm from the truth, doing nothing {nothing:.2f} mm; at most "
            "nine tenths of the latter are wanted."
        )
    return None


def _distance(points: np.ndarray, goal) -> float:
    """Mean distance in mm; a point beside the goal's surface counts as 5 mm off."""
    return float(np.nan_to_num(np.abs(displacement(points, goal)), nan=5.0).mean())


EXERCISES = {
    1: Exercise(judge=_differentiable_cross_over),
    2: Exercise(
        right=lambda a, b: cosine_similarity(a, b, dim=0),
        on=_vectors,
        tolerance=1e-3,
        hint="divide by both lengths; with a vector of length 0 the cosine is to be 0.",
    ),
    3: Exercise(judge=_beats_doing_nothing, hint="keep B's scan, and move its points."),
}
