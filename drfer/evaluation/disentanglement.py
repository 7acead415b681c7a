"""How well expression and identity come apart on a fold's test subjects: what the paper shows in pictures, in numbers.

A mean point distance says nothing alone, since even a perfect face has its points at other places than its target. So
each error stands beside those of faces that need no network, and of the target itself, resampled: a perfect answer.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import Delaunay
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from drfer.datasets.scan import ScanKey
from drfer.models.drfer import DrFER, reorder
from drfer.models.points import farthest_point_order, gather, nearest
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.faceset import FaceSet
from drfer.training.stages import FoldData

REGULARISATION = 1.0
"""C of every probe, scikit-learn's default: fixed, never tuned"""


def measure(
    stage_i: DrFER,
    stage_ii: DrFER,
    stage_iii: DrFER,
    data: FoldData,
    faces: FaceSet,
    source,
    seed: int,
) -> dict[str, dict]:
    """All of it as JSON. Of stage_i both encoders count; stage_ii has its branches, and the fusion module of stage i.

    Transfer needs a source that knows the truth; else its entry stays empty. A licensed database has the other
    subject's scan instead, but in that subject's own way of the expression: a perfect transfer would miss it.
    """
    subjects = np.array([faces.keys[scan].subject for scan in data.test])
    result: dict[str, dict] = {"leakage": {}, "reconstruction, mm": {}, "transfer, mm": {}}
    for stage, model in {"stage i": stage_i, "stage i + ii + iii": stage_iii}.items():
        model.eval()
        result["leakage"][stage] = {
            f"{name} feature": leakage(
                _in_batches(branch.encode, data.clouds[data.test]).cpu().numpy(),
                data.labels[data.test].cpu().numpy(),
                subjects,
            )
            for name, branch in (("expression", model.expression), ("identity", model.identity))
        }
    for stage, model in {"stage i + ii": stage_ii, "stage i + ii + iii": stage_iii}.items():
        result["reconstruction, mm"][stage] = reconstruction_errors(model, data, faces)
        if hasattr(source, "truth"):
            result["transfer, mm"][stage] = transfer_error(model, data, faces, source, seed)
    return result


def reconstruction_errors(
    model: DrFER, data: FoldData, faces: FaceSet
) -> dict[str, dict[str, float]]:
    """Phi_id(F) against the subject's own neutral scan, Phi_exp(F) against the training fold's class mean and both
    fused against F, the targets of equations (5), (4) and (10); mm, mean over the test scans. Beside: faces that take
    no network.

    A class mean shares vertices with the mean neutral face, and a decoder may learn them by heart: against it the
    mean neutral face pays for sampling less than a decoder does, and resampled more.
    """
    clouds, mean_neutral = data.clouds[data.test], data.mean_neutral[None]
    neutral_of = {faces.keys[scan].subject: scan for scan in data.test_neutral}
    own = data.clouds[[neutral_of[faces.keys[scan].subject] for scan in data.test]]
    of_class = data.mean_expression[data.labels[data.test]]
    beside = {
        "input scan": clouds,
        "mean neutral face": mean_neutral.expand_as(clouds),
        "mean neutral face, resampled": resampled(mean_neutral, clouds.shape[1]).expand_as(clouds),
    }
    model.eval()
    tasks = {
        "neutralisation": (_in_batches(model.identity, clouds), own, beside),
        "de-identification": (_in_batches(model.expression, clouds), of_class, beside),
        "fusion": (
            _fused(model, clouds, clouds),
            clouds,
            {"own neutral scan": own, "mean expression face": of_class},
        ),
    }
    return {
        name: _errors({"decoded": decoded} | rivals, target, target, faces)
        for name, (decoded, target, rivals) in tasks.items()
    }


def transfer_error(
    model: DrFER, data: FoldData, faces: FaceSet, source, seed: int
) -> dict[str, float]:
    """Upsilon(Phi_exp(scan of A), Phi_id(scan of B)) against the generator's own face of B with A's activation; mm,
    mean over `transfer_pairs`. Beside: B's true neutral, and the training fold's mean face of A's expression.

    The target is the whole true face, densely; the way back counts from where half of the training scans have points.
    The true neutral bears no error of registration. source: a database that knows the truth.
    """
    scans, partners = data.test, transfer_pairs(faces.keys, data.test, seed)
    model.eval()
    fused = _fused(model, data.clouds[scans], data.clouds[partners])
    pairs = []
    for scan, partner in zip(scans, partners):
        activation = source.truth(faces.keys[scan]).activation
        pairs.append(
            true_faces(source, faces.keys[partner].subject, np.stack([0 * activation, activation]))
        )
    neutral, truth = torch.from_numpy(np.stack(pairs, axis=1) / faces.settings.frame_length).to(
        fused
    )
    seen = np.flatnonzero((~faces.missing[data.train]).mean(axis=0) >= 0.5)
    answers = {
        "fused": fused,
        "own neutral": resampled(neutral[:, seen], fused.shape[1]),
        "mean expression face": data.mean_expression[data.labels[scans]],
    }
    return _errors(answers, truth, truth[:, seen], faces)


def _fused(model: DrFER, expressive: Tensor, identities: Tensor) -> Tensor:
    return _in_batches(
        lambda a, b: model.fusion(reorder(model.expression(a)), reorder(model.identity(b))),
        expressive,
        identities,
    )


def _errors(
    answers: dict[str, Tensor], target: Tensor, shown: Tensor, faces: FaceSet
) -> dict[str, float]:
    """Mean point distance of each kind of answer, and of the target at other points, over the scans; mm."""
    points = next(iter(answers.values())).shape[1]
    return {
        name: point_distance(answer, target, shown).mean().item() * faces.settings.frame_length
        for name, answer in (answers | {"target, resampled": resampled(shown, points)}).items()
    }


def transfer_pairs(keys: list[ScanKey], scans: np.ndarray, seed: int) -> np.ndarray:
    """For each of the scans (indices into keys) one of another subject B among them, drawn by the seed, that shows
    another expression, so that nothing of B with this one is given away."""
    generator = np.random.default_rng(seed)

    def partner(key: ScanKey) -> int:
        subject = generator.choice(sorted({keys[scan].subject for scan in scans} - {key.subject}))
        of_subject = [scan for scan in scans if keys[scan].subject == subject]
        return generator.choice(
            [scan for scan in of_subject if keys[scan].expression != key.expression]
        )

    return np.array([partner(keys[scan]) for scan in scans])


def true_faces(source, subject: str, activations: np.ndarray) -> np.ndarray:
    """A subject's noise-free faces at the template's vertices, (k, 39923, 3), mm, template frame.

    activations: (k, 52), of whichever subject. source: a database that knows the truth.
    """
    head, template = _head(), common_mesh.load()
    surfaces = head.subdivide(head.pose_face(source.true_neutral(subject), activations))
    weights = np.column_stack([1 - template.head_place.sum(axis=1), template.head_place])[..., None]
    return (surfaces[:, head.fine_triangles[template.head_triangle]] * weights).sum(
        axis=2
    ) - template.origin


@lru_cache(maxsize=1)  # it takes ten seconds
def _head():
    from drfer.datasets.anny3dfe.head import HeadGenerator

    return HeadGenerator().head


def point_distance(faces: Tensor, targets: Tensor, shown: Tensor) -> Tensor:
    """Mean point distance (B,), in the unit of faces (B, N, 3) and targets (B, M, 3): over a face's points the mean
    distance, not squared, to the target's nearest point; over `shown`, the targets' points that a face should cover
    (B, K, 3), the mean distance to the face's; the mean of both."""
    return (_to_nearest(faces, targets) + _to_nearest(shown, faces)) / 2


def _to_nearest(queries: Tensor, points: Tensor) -> Tensor:
    return (queries - gather(points, nearest(queries, points))).norm(dim=-1).mean(dim=1)


def resampled(faces: Tensor, points: int) -> Tensor:
    """An even sample (B, points, 3) of faces (B, N, 3), N >= points, between their own points: of a random place in
    each triangle (Delaunay in the frontal plane), those that farthest point sampling takes first."""
    samples = []
    for face in faces.cpu().numpy():
        corners = face[Delaunay(face[:, :2]).simplices]
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
        corners = corners[
            longest < 2 * np.median(longest)
        ]  # neither across the mouth nor along the border
        weights = np.random.default_rng(0).dirichlet([1, 1, 1], len(corners))
        places = (corners * weights[..., None]).sum(axis=1)
        samples.append(places[farthest_point_order(places, points)])
    return torch.from_numpy(np.stack(samples)).to(faces)


@torch.no_grad()
def _in_batches(function, *clouds: Tensor) -> Tensor:
    return torch.cat([function(*parts) for parts in zip(*(each.split(24) for each in clouds))])


def leakage(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray
) -> dict[str, dict[str, float]]:
    """Accuracy in percent, and chance, of linear probes for expression and subject on features (n, d).

    Logistic regression on standardised features. One group after the other is left out for the test: subjects where
    the expression is asked for, expressions where the subject is. So neither probe can know a scan by the other.
    """
    return {
        "expression": _probe(features, labels, subjects),
        "subject": _probe(features, subjects, labels),
    }


def _probe(features: np.ndarray, classes: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=5000))
    predicted = cross_val_predict(
        probe, features.astype(np.float64), classes, groups=groups, cv=LeaveOneGroupOut()
    )
    return {
        "accuracy": 100 * float(np.mean(predicted == classes)),
        "chance": 100 / len(np.unique(classes)),
    }
