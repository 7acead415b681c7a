"""How well expression and identity come apart on a fold's test subjects, in numbers.

The paper shows this in pictures. A mean point distance says nothing alone, since even a perfect face
has its points elsewhere than its target has. So each error stands beside those of faces that need no
network, and beside that of the target itself at other points, which is what a perfect answer has.

Built in notebook 09.
"""

from __future__ import annotations

from collections.abc import Callable
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
from drfer.fast.points import farthest_point_order
from drfer.models.drfer import DrFER, reorder
from drfer.models.points import gather, nearest
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.faceset import FaceSet
from drfer.training.data import FoldData

REGULARISATION = 1.0
"""C of every probe, scikit-learn's default; it was never tuned."""


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
    result: dict[str, dict] = {"leakage": {}, "reconstruction, mm": {}, "transfer, mm": {}}
    for stage, model in {"stage i": stage_i, "stage i + ii + iii": stage_iii}.items():
        model.eval()
        result["leakage"][stage] = {
            f"{name} feature": leakage(_features(branch, data), labels, subjects)
            for name, branch in (("expression", model.expression), ("identity", model.identity))
        }
    for stage, model in {"stage i + ii": stage_ii, "stage i + ii + iii": stage_iii}.items():
        result["reconstruction, mm"][stage] = reconstruction_errors(model, data, faces)
        if hasattr(faces.dataset, "truth"):
            result["transfer, mm"][stage] = transfer_error(model, data, faces, seed)
    return result


def reconstruction_errors(
    model: DrFER, data: FoldData, faces: FaceSet
) -> dict[str, dict[str, float]]:
    """Return errors of decoded faces against the targets of equations (5), (4) and (10), in mm.

    "neutralisation" is Phi_id(F) against the subject's own neutral scan, "de-identification" is
    Phi_exp(F) against the training fold's mean face of the expression, and "fusion" is both fused
    against F. Each is a mean over the test scans, and stands beside faces that need no network.

    A mean face shares its vertices with the mean neutral face, and a decoder may learn them by
    heart. So against it the mean neutral face pays less for its sampling than a decoder does, and
    more once it is resampled.
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
            fused_faces(model, clouds, clouds),
            clouds,
            {"own neutral scan": own, "mean expression face": of_class},
        ),
    }
    return {
        name: _errors({"decoded": decoded} | rivals, target, target, faces)
        for name, (decoded, target, rivals) in tasks.items()
    }


def transfer_error(model: DrFER, data: FoldData, faces: FaceSet, seed: int) -> dict[str, float]:
    """Return the error of carrying an expression from one person to another, in mm.

    The answer is Upsilon(Phi_exp(scan of A), Phi_id(scan of B)); the target is the generator's own
    face of B with A's activation. It is a mean over `transfer_pairs`, beside B's true neutral face
    and the training fold's mean face of A's expression.

    The target is the whole true face, densely; the way from it to the answer counts where at least
    half of the training scans have points. B's true neutral face bears no error of registration.
    """
    scans, partners = data.test, transfer_pairs(faces.keys, data.test, seed)
    model.eval()
    fused = fused_faces(model, data.clouds[scans], data.clouds[partners])
    pairs = []
    for scan, partner in zip(scans, partners):
        activation = faces.dataset.truth(faces.keys[scan]).activation
        both = np.stack([0 * activation, activation])
        pairs.append(true_faces(faces.dataset, faces.keys[partner].subject, both))
    in_frame = np.stack(pairs, axis=1) / faces.settings.frame_length
    neutral, truth = torch.from_numpy(in_frame).to(fused)
    seen = np.flatnonzero((~faces.missing[data.train]).mean(axis=0) >= 0.5)
    answers = {
        "fused": fused,
        "own neutral": resampled(neutral[:, seen], fused.shape[1]),
        "mean expression face": data.mean_expression[data.labels[scans]],
    }
    return _errors(answers, truth, truth[:, seen], faces)


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


def true_faces(dataset, subject: str, activations: np.ndarray) -> np.ndarray:
    """Return a subject's noise-free faces at the template's vertices.

    Args:
        dataset: open faces, which know the truth.
        subject: whose face it is.
        activations: strengths of the face units, shape (k, 52).

    Returns:
        Points in the template's frame, shape (k, 39923, 3), mm.
    """
    head, template = _head(), common_mesh.load()
    surfaces = head.subdivide(head.pose_face(dataset.true_neutral(subject), activations))
    return _at_template(surfaces, head, template)


def _at_template(surfaces: np.ndarray, head, template) -> np.ndarray:
    corners = surfaces[:, head.fine_triangles[template.head_triangle]]
    uv = template.head_place
    barycentric = np.column_stack([1 - uv.sum(axis=1), uv])[..., None]
    return (corners * barycentric).sum(axis=2) - template.origin


@lru_cache(maxsize=1)  # it takes ten seconds
def _head():
    from drfer.datasets.anny3dfe.head import HeadGenerator

    return HeadGenerator().head


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


def point_distance(faces: Tensor, targets: Tensor, shown: Tensor) -> Tensor:
    """Return the mean point distance of faces from their targets.

    It is the mean of two means: of each of the face's points to the nearest of the target's, and of
    each of `shown` to the nearest of the face's. Distances are not squared.

    Args:
        faces: shape (B, N, 3).
        targets: in the same unit, shape (B, M, 3).
        shown: the target's points that a face should cover, shape (B, K, 3).

    Returns:
        Distances in that unit, shape (B,).
    """
    return (_to_nearest(faces, targets) + _to_nearest(shown, faces)) / 2


def resampled(faces: Tensor, points: int) -> Tensor:
    """Return an even sample of faces at other points than their own.

    A random point is taken in each triangle (Delaunay in the frontal plane), and of those the ones
    that farthest point sampling chooses.

    Args:
        faces: shape (B, N, 3) with N >= points.
        points: how many points the sample has.

    Returns:
        Points, shape (B, points, 3).
    """
    samples = []
    for face in faces.cpu().numpy():
        corners = face[Delaunay(face[:, :2]).simplices]
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
        corners = corners[longest < 2 * np.median(longest)]  # not across the mouth, nor the border
        weights = np.random.default_rng(0).dirichlet([1, 1, 1], len(corners))
        candidates = (corners * weights[..., None]).sum(axis=1)
        samples.append(candidates[farthest_point_order(candidates, points)])
    return torch.from_numpy(np.stack(samples)).to(faces)


def leakage(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return how well linear probes find expression and subject in features, in percent.

    The probes are logistic regressions on standardised features. One group after the other is left
    out for the test: subjects where the expression is asked for, and expressions where the subject
    is. So neither probe can know a scan by the other.

    Args:
        features: shape (n, d).
        labels: expression of each scan, shape (n,).
        subjects: subject of each scan, shape (n,).

    Returns:
        For "expression" and "subject" the "accuracy" and the "chance".
    """
    return {
        "expression": _probe(features, labels, subjects),
        "subject": _probe(features, subjects, labels),
    }


def _probe(features: np.ndarray, classes: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    regression = LogisticRegression(C=REGULARISATION, max_iter=5000)
    predicted = cross_val_predict(
        make_pipeline(StandardScaler(), regression),
        features.astype(np.float64),
        classes,
        groups=groups,
        cv=LeaveOneGroupOut(),
    )
    accuracy = 100 * float(np.mean(predicted == classes))
    return {"accuracy": accuracy, "chance": 100 / len(np.unique(classes))}


def _errors(
    answers: dict[str, Tensor], target: Tensor, shown: Tensor, faces: FaceSet
) -> dict[str, float]:
    """Mean point distance of each answer, and of the target at other points, over the scans; mm."""
    points = next(iter(answers.values())).shape[1]
    answers = answers | {"target, resampled": resampled(shown, points)}
    return {
        name: point_distance(answer, target, shown).mean().item() * faces.settings.frame_length
        for name, answer in answers.items()
    }


def _to_nearest(queries: Tensor, points: Tensor) -> Tensor:
    return (queries - gather(points, nearest(queries, points))).norm(dim=-1).mean(dim=1)


def _features(branch, data: FoldData) -> np.ndarray:
    return _in_batches(branch.encode, data.clouds[data.test]).cpu().numpy()


@torch.no_grad()
def _in_batches(function: Callable[..., Tensor], *clouds: Tensor) -> Tensor:
    return torch.cat([function(*parts) for parts in zip(*(each.split(24) for each in clouds))])
