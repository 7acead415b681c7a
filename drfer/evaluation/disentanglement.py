"""How well expression and identity come apart on a fold's test subjects, in numbers.

The paper shows this in pictures. Here errors are distances from surfaces, in the region that scans
share: of noise-free faces where the dataset knows them. Each stands beside those of faces that need
no network, and beside that of the target itself at other points, which is what a perfect answer has.
The leakage of features stands beside that of the vertices that they are made of.

Built in notebook 09.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drfer.datasets.scan import NEUTRAL, ScanKey
from drfer.evaluation.leakage import leakage, own_neutral, zero_points
from drfer.evaluation.surface_distance import (
    Region,
    Surface,
    distances,
    sampled,
    surface_of_true_face,
    surface_of_vertices,
)
from drfer.evaluation.truth import activations_of, registered_true_faces
from drfer.models.drfer import DrFER, reorder
from drfer.preprocessing.faceset import FaceSet
from drfer.training.data import FoldData

PARTS, WHOLE = "stage i + ii", "stage i + ii + iii"
"""After which stages decoded faces are measured."""


def measure(
    stage_i: DrFER, stage_ii: DrFER, stage_iii: DrFER, data: FoldData, faces: FaceSet, seed: int
) -> dict[str, dict]:
    """Return leakage, reconstruction errors and transfer errors, as JSON can hold them.

    Transfer needs a dataset that knows the truth; else its entry stays empty.

    Args:
        stage_i: a model of which both encoders count.
        stage_ii: a model of which both branches count, with the fusion module of stage i.
        stage_iii: the whole model.
        data: the fold's scans.
        faces: the faces that they are from.
        seed: draws the pairs of subjects between which expressions are transferred.
    """
    subjects = np.array([faces.keys[scan].subject for scan in data.test])
    labels = data.labels[data.test].cpu().numpy()
    leaking = {"no network": zero_points(data, faces)}
    for stage, model in {"stage i": stage_i, WHOLE: stage_iii}.items():
        model.eval()
        leaking[stage] = {
            f"{name} feature": _features(branch, data)
            for name, branch in (("expression", model.expression), ("identity", model.identity))
        }
    models = {PARTS: stage_ii, WHOLE: stage_iii}
    knows_truth = hasattr(faces.dataset, "truth")
    return {
        "leakage": {
            stage: {name: leakage(rows, labels, subjects) for name, rows in by_name.items()}
            for stage, by_name in leaking.items()
        },
        "reconstruction, mm to the surface": reconstruction_errors(models, data, faces),
        "transfer, mm to the surface": transfer_errors(models, data, faces, seed)
        if knows_truth
        else {},
    }


def reconstruction_errors(
    models: dict[str, DrFER], data: FoldData, faces: FaceSet
) -> dict[str, dict[str, dict[str, float]]]:
    """Return errors of decoded faces against the targets of equations (5), (4) and (10), in mm.

    "neutralisation" is Phi_id(F) against the subject's own neutral face, "de-identification" is
    Phi_exp(F) against the training fold's mean face of the expression, and "fusion" is both fused
    against F. Each is a mean over the test scans, and stands beside faces that need no network.
    Own neutral face and F are those without noise, or else the stored scans' surfaces.

    Returns:
        For the name of each model, for each of these, the error of each face.
    """
    clouds = data.clouds[data.test]
    neutral = data.mean_neutral.expand_as(clouds)
    neutral_scans = own_neutral(faces)[data.test]
    own, of_class = data.clouds[neutral_scans], data.mean_expression[data.labels[data.test]]
    tasks = {
        "neutralisation": _Task(
            lambda model: _in_batches(model.identity, clouds),
            lambda: _targets(faces, data, neutral_scans),
            {"input scan": clouds, "mean neutral face": neutral, "own neutral scan": own},
        ),
        "de-identification": _Task(
            lambda model: _in_batches(model.expression, clouds),
            lambda: _mean_targets(faces, data),
            {"input scan": clouds, "mean neutral face": neutral},
        ),
        "fusion": _Task(
            lambda model: fused_faces(model, clouds, clouds),
            lambda: _targets(faces, data, data.test),
            {"input scan": clouds, "own neutral scan": own, "mean expression face": of_class},
        ),
    }
    found = {name: task.errors(models, faces) for name, task in tasks.items()}
    return {stage: {name: by_stage[stage] for name, by_stage in found.items()} for stage in models}


def transfer_errors(
    models: dict[str, DrFER], data: FoldData, faces: FaceSet, seed: int
) -> dict[str, dict[str, float]]:
    """Return the errors of carrying an expression from one person to another, in mm.

    The answer is Upsilon(Phi_exp(scan of A), Phi_id(scan of B)); the target is the generator's own
    face of B with A's activation. It is a mean over `transfer_pairs`, beside B's true neutral face
    and the training fold's mean face of A's expression.

    Returns:
        For the name of each model the error of each face.
    """
    scans, partners = data.test, transfer_pairs(faces.keys, data.test, seed)
    clouds, regions = data.clouds, _regions(faces, data)
    neutral_scans = own_neutral(faces)[partners]
    activations = activations_of(faces, scans)
    true_neutral = _surfaces(faces, neutral_scans, 0 * activations, [regions[NEUTRAL]] * len(scans))
    neutral = np.stack([sampled(surface, clouds.shape[1]) for surface in true_neutral])
    of_expression = [regions[faces.keys[scan].expression] for scan in scans]
    task = _Task(
        lambda model: fused_faces(model, clouds[scans], clouds[partners]),
        lambda: _surfaces(faces, neutral_scans, activations, of_expression),
        {
            "own neutral": torch.from_numpy(neutral).to(clouds) / faces.settings.frame_length,
            "mean expression face": data.mean_expression[data.labels[scans]],
        },
        "fused",
    )
    return task.errors(models, faces)


def transfer_pairs(keys: list[ScanKey], scans: np.ndarray, seed: int) -> np.ndarray:
    """Draw for each scan one of another subject that shows another expression.

    So nothing is given away of that subject with the expression that is carried over.

    Args:
        keys: which scan each is.
        scans: indices into keys, from which partners are drawn, too.
        seed: of the draw.

    Returns:
        The partners, as indices into keys, shape of scans.
    """
    generator = np.random.default_rng(seed)

    def partner(key: ScanKey) -> int:
        subject = generator.choice(sorted({keys[scan].subject for scan in scans} - {key.subject}))
        of_subject = [scan for scan in scans if keys[scan].subject == subject]
        return generator.choice(
            [scan for scan in of_subject if keys[scan].expression != key.expression]
        )

    return np.array([partner(keys[scan]) for scan in scans])


def fused_faces(model: DrFER, expressive: Tensor, identities: Tensor) -> Tensor:
    """Return faces with the expression of one scan and the identity of another.

    Args:
        model: in evaluation mode.
        expressive: the scans that give the expression, shape (n, P, 3).
        identities: the scans that give the identity, shape (n, P, 3).

    Returns:
        Upsilon(Phi_exp(expressive), Phi_id(identities)), shape (n, P, 3).
    """
    return _in_batches(
        lambda a, b: model.fusion(reorder(model.expression(a)), reorder(model.identity(b))),
        expressive,
        identities,
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """Faces that models are asked for, and what their answers are held against."""

    answer: Callable[[DrFER], Tensor]
    """What a model answers, shape (n, P, 3), frame units."""
    targets: Callable[[], list[Surface]]
    """Makes n surfaces, several of which may be one object."""
    beside: dict[str, Tensor]
    """Answers that need no network."""
    answered: str = "decoded"
    """What a model's answer is called."""

    def errors(self, models: dict[str, DrFER], faces: FaceSet) -> dict[str, dict[str, float]]:
        """Return the mean distance of each answer, for each model, in mm."""
        decoded = {stage: self.answer(model.eval()) for stage, model in models.items()}
        answers = torch.stack([*decoded.values(), *self.beside.values()], dim=1).cpu().double()
        in_mm = answers.numpy() * faces.settings.frame_length
        targets = self.targets()
        found = np.empty((len(targets), in_mm.shape[1] + 1))
        for target in dict.fromkeys(targets):
            rows = [row for row, other in enumerate(targets) if other is target]
            of_target = distances(np.concatenate(in_mm[rows]), target)
            found[rows, :-1] = of_target.reshape(len(rows), -1)
            found[rows, -1] = distances(sampled(target, in_mm.shape[2])[None], target)
        names = (*self.beside, "target, resampled")
        means = found.mean(axis=0).tolist()
        beside = dict(zip(names, means[len(models) :]))
        return {stage: {self.answered: mean} | beside for stage, mean in zip(models, means)}


def _regions(faces: FaceSet, data: FoldData) -> dict[str, Region]:
    """For each expression, and neutral, the region that the training scans of it share."""
    return {
        expression: Region(faces.missing[_training_scans(faces, data, expression)])
        for expression in (NEUTRAL, *faces.expressions)
    }


def _training_scans(faces: FaceSet, data: FoldData, expression: str) -> np.ndarray:
    subjects = set(data.subjects)
    return np.array(
        [
            scan
            for scan, key in enumerate(faces.keys)
            if key.subject in subjects and key.expression == expression
        ],
        dtype=int,
    )


def _targets(faces: FaceSet, data: FoldData, scans: np.ndarray) -> list[Surface]:
    """Surfaces of scans: without noise if the dataset knows them. A scan named twice has one."""
    regions = _regions(faces, data)
    once = np.unique(scans)
    of_scans = [regions[faces.keys[scan].expression] for scan in once]
    if hasattr(faces.dataset, "truth"):
        surfaces = _surfaces(faces, once, activations_of(faces, once), of_scans)
    else:
        in_mm = faces.vertices[once].astype(np.float64) * faces.settings.frame_length
        parts = zip(in_mm, faces.missing[once], of_scans)
        surfaces = [surface_of_vertices(*each) for each in parts]
    of_scan = dict(zip(once.tolist(), surfaces))
    return [of_scan[scan] for scan in scans.tolist()]


def _mean_targets(faces: FaceSet, data: FoldData) -> list[Surface]:
    """For each test scan the mean face of its expression, over the training scans."""
    surfaces = {}
    for expression, region in _regions(faces, data).items():
        members = _training_scans(faces, data, expression)
        weights = ~faces.missing[members, :, None]
        sums = (faces.vertices[members].astype(np.float64) * weights).sum(axis=0)
        in_mm = sums / np.maximum(weights.sum(axis=0), 1) * faces.settings.frame_length
        surfaces[expression] = surface_of_vertices(in_mm, ~region.common, region)
    return [surfaces[faces.keys[scan].expression] for scan in data.test]


def _surfaces(
    faces: FaceSet, scans: np.ndarray, activations: np.ndarray, regions: list[Region]
) -> list[Surface]:
    true = registered_true_faces(faces, scans, activations)
    return [surface_of_true_face(face, region) for face, region in zip(true, regions)]


def _features(branch, data: FoldData) -> np.ndarray:
    return _in_batches(branch.encode, data.clouds[data.test]).cpu().numpy()


@torch.no_grad()
def _in_batches(function: Callable[..., Tensor], *clouds: Tensor) -> Tensor:
    return torch.cat([function(*parts) for parts in zip(*(each.split(24) for each in clouds))])
