"""Make the model of personal mode that comes with the kit: `python -m tools.make_personal`.

It is trained on development people, its temperature is set on others of them, and what the card says
of it is measured on the people that independent draws are tested on, who had a part in neither.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import RidgeClassifier

from drfer.common.files import written_whole
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation.draws import DrawFaces
from drfer.evaluation.linear import REGULARISATION, SMALLEST_SHARE, VERTICES
from drfer.evaluation.origin import provenance
from drfer.evaluation.protocol import Draws
from drfer.models.personal import PATH, PersonalModel, softmax
from drfer.preprocessing.faceset import FaceSet
from drfer.preprocessing.resampling import Settings

MM = Settings().frame_length
TEMPERATURES = np.geomspace(0.02, 2, 60)


def movements(faces: FaceSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how far each expressive scan's vertices lie from those of the same person's neutral.

    Returns:
        Movements (n, V, 3), mm; which of them both scans have, (n, V); and expressions (n,).
    """
    neutral_of = {k.subject: scan for scan, k in enumerate(faces.keys) if k.expression == NEUTRAL}
    scans = np.array([n for n, key in enumerate(faces.keys) if key.expression != NEUTRAL])
    neutral = np.array([neutral_of[faces.keys[scan].subject] for scan in scans])
    there = ~faces.missing[:, :VERTICES]
    vertices = faces.vertices[:, :VERTICES].astype(np.float64) * MM
    labels = np.array([EXPRESSIONS.index(faces.keys[scan].expression) for scan in scans])
    return vertices[scans] - vertices[neutral], there[scans] & there[neutral], labels


def fit(parts: list[FaceSet]) -> PersonalModel:
    """Return a model that is trained on the people of some sets of faces, with temperature 1."""
    moved, there, labels = (np.concatenate(each) for each in zip(*map(movements, parts)))
    used = np.flatnonzero(there.mean(axis=0) >= SMALLEST_SHARE)
    moved, there = moved[:, used], there[:, used, None]
    mean = (moved * there).sum(axis=0) / there.sum(axis=0)
    rows = np.where(there, moved, mean).reshape(len(moved), -1)
    ridge = RidgeClassifier(alpha=REGULARISATION * MM**2).fit(rows, labels)
    weight = ridge.coef_.reshape(len(EXPRESSIONS), len(used), 3)
    return PersonalModel(used, mean, weight, ridge.intercept_, 1.0, {})


def scores_of(model: PersonalModel, faces: FaceSet) -> tuple[np.ndarray, np.ndarray]:
    """Return a model's scores of each expressive scan, (n, 6), and its expression, (n,)."""
    moved, there, labels = movements(faces)
    moved, there = moved[:, model.used], there[:, model.used, None]
    return model.scores(np.where(there, moved, model.mean)), labels


def calibrated(model: PersonalModel, faces: FaceSet) -> PersonalModel:
    """Return the model with the temperature under which these people's answers are likeliest."""
    return replace(model, temperature=likeliest_temperature(*scores_of(model, faces)))


def likeliest_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return by what scores (n, classes) are to be divided, so that labels (n,) are likeliest."""

    def surprise(temperature: float) -> float:
        return -np.log(softmax(scores / temperature)[np.arange(len(labels)), labels]).mean()

    return float(min(TEMPERATURES, key=surprise))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error in percent (Guo et al. 2017).

    Answers are sorted into equal intervals of their probability; in each, the mean probability is
    held against the share of right answers, and the differences are averaged by scans.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    interval = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [
        np.abs(sure[interval == one].sum() - right[interval == one].sum()) for one in range(bins)
    ]
    return 100 * float(sum(gaps)) / len(labels)


def main() -> None:
    """Make the kit's own file."""
    first, second = (DrawFaces(Draws(development=True), draw) for draw in (1, 2))
    (one, apart), (two, _) = first._parts, second._parts
    model = calibrated(fit([one, two, first.further]), apart)
    unseen = DrawFaces(Draws())
    parts = [unseen.further, unseen._parts[1]]
    scores, labels = (np.concatenate(each) for each in zip(*(scores_of(model, p) for p in parts)))
    probabilities = softmax(scores / model.temperature)
    right = probabilities.argmax(axis=1) == labels
    people = len(one.subjects) + len(two.subjects) + len(first.further.subjects)
    card = {
        "temperature": model.temperature,
        "training people": people,
        "people for the temperature": len(apart.subjects),
        "unseen people": sum(len(part.subjects) for part in parts),
        "right on unseen people, %": round(100 * float(right.mean()), 2),
        "the same by expression, %": {
            name: round(100 * float(right[labels == label].mean()), 2)
            for label, name in enumerate(EXPRESSIONS)
        },
        "expected calibration error on unseen people, %": round(
            calibration_error(probabilities, labels), 2
        ),
        "provenance": provenance(),
    }
    write(replace(model, card=card), PATH)
    print(json.dumps(card, indent=2))


def write(model: PersonalModel, path: Path) -> None:
    """Write a model's file."""
    arrays = {
        "used": model.used.astype(np.int32),
        "mean": model.mean.astype(np.float32),
        "weight": model.weight.astype(np.float32),
        "bias": model.bias.astype(np.float32),
    }
    # safetensors writes bytes as they lie, and takes a transposed array for one that is not
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with written_whole(path) as target:
        save_file(arrays, target, {"card": json.dumps(model.card)})
        target.chmod(0o644)


if __name__ == "__main__":
    main()
