"""Make the model of personal mode that comes with the kit: `python -m tools.make_personal`.

It is trained on development people, its temperature is set on others of them, and what the card says
of it is measured on the people that independent draws are tested on, who had a part in neither. What
tells another person's neutral scan from the own is learned from the thousand people of the other two
models (`tools/many_people.py`), and its limit set by people apart.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import eigh
from sklearn.linear_model import RidgeClassifier

from drfer.common.files import written_whole
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation.draws import DrawFaces
from drfer.evaluation.linear import REGULARISATION, SMALLEST_SHARE, VERTICES
from drfer.evaluation.origin import provenance
from drfer.evaluation.protocol import Draws
from drfer.models.personal import ARRAYS, PATH, PersonalModel, softmax
from drfer.preprocessing.faceset import FaceSet
from drfer.preprocessing.resampling import Settings
from tools.many_people import APART, NARROW, TRAINING, many_people
from tools.unseen_people import calibration_error, unseen

MM = Settings().frame_length
TEMPERATURES = np.geomspace(0.02, 2, 60)
DIRECTIONS, SHRINKAGE = 8, 0.3
"""Along which people differ, and how much of their own scans' mean variance is added to all."""
SURE = 99.5
"""So many percent of scans differ from the own neutral scan by less than some distance, and from another
person's by more than some other one; the limit is in the middle."""
SEEN = 99.0
"""So many percent of expressions change the scores more than a face at rest."""


def movements(faces: FaceSet, other: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how far each expressive scan's vertices lie from those of a neutral scan.

    Args:
        faces: scans of people who have a neutral one each.
        other: whose neutral scan: 0 for the own, or of the person so many places further on.

    Returns:
        Movements (n, V, 3), mm; which of them both scans have, (n, V); and expressions (n,).
    """
    neutral_of = {k.subject: scan for scan, k in enumerate(faces.keys) if k.expression == NEUTRAL}
    of_whom = dict(zip(neutral_of, np.roll(list(neutral_of), -other)))
    scans = np.array([n for n, key in enumerate(faces.keys) if key.expression != NEUTRAL])
    neutral = np.array([neutral_of[of_whom[faces.keys[scan].subject]] for scan in scans])
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
    nobody = np.zeros((len(used), 3, 0)), np.zeros((len(EXPRESSIONS), 0))
    return PersonalModel(used, mean, weight, ridge.intercept_, 1.0, *nobody, np.inf, 0.0, {})


def scores_of(model: PersonalModel, faces: FaceSet) -> tuple[np.ndarray, np.ndarray]:
    """Return a model's scores of each expressive scan, (n, 6), and its expression, (n,)."""
    moved, labels = seen_by(model, faces)
    return model.scores(moved), labels


def seen_by(model: PersonalModel, faces: FaceSet, other: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the movements that a model looks at, (n, k, 3), and their expressions (see above)."""
    moved, there, labels = movements(faces, other)
    moved, there = moved[:, model.used], there[:, model.used, None]
    return np.where(there, moved, model.mean), labels


def knowing_people(model: PersonalModel, parts: list[FaceSet], apart: FaceSet) -> PersonalModel:
    """Return the model with what tells two people apart from one: linear discriminant analysis.

    Args:
        model: looks at movements.
        parts: people of each population, to learn from: own neutral scans, and the next person's.
        apart: other people, who set the limit, and the least movement.
    """
    moved, labels = (np.concatenate(each) for each in zip(*(seen_by(model, p) for p in parts)))
    wrong = np.concatenate([seen_by(model, part, other=1)[0] for part in parts])
    means = np.stack([moved[labels == c].mean(axis=0) for c in range(len(EXPRESSIONS))])
    within, between = (
        np.cov(rows.reshape(len(rows), -1).T, bias=True) for rows in (moved - means[labels], wrong)
    )
    size = len(within)
    within += SHRINKAGE * np.trace(within) / size * np.eye(size)
    found = eigh(between, within, subset_by_index=(size - DIRECTIONS, size - 1))[1]
    directions = found.reshape(len(model.used), 3, DIRECTIONS)
    shown = np.einsum("nki,kid->nd", means, directions)
    model = replace(model, directions=directions, shown=shown)
    own, others = (model.distance(seen_by(model, apart, who)[0]) for who in (0, 1))
    between = (np.percentile(own, SURE), np.percentile(others, 100 - SURE))
    least = np.percentile(model.movement(seen_by(model, apart)[0]), 100 - SEEN)
    return replace(model, limit=float(np.mean(between)), least=float(least))


def everyone() -> list[FaceSet]:
    """Return the thousand people, population by population."""
    return [many_people(range(seed, seed + 1), NARROW) for seed in TRAINING]


def taken_for_two(model: PersonalModel, faces: FaceSet) -> dict[str, float]:
    """Return how often scans are taken for those of two people, in percent."""
    own, other = (
        float(np.mean(model.distance(seen_by(model, faces, who)[0]) > model.limit))
        for who in (0, 1)
    )
    return {"own neutral scan": round(100 * own, 2), "another's": round(100 * other, 2)}


def taken_for_rest(model: PersonalModel, faces: FaceSet) -> float:
    """Return how often expressions are taken for a face at rest, in percent."""
    return round(100 * float(np.mean(model.movement(seen_by(model, faces)[0]) < model.least)), 2)


def calibrated(model: PersonalModel, faces: FaceSet) -> PersonalModel:
    """Return the model with the temperature under which these people's answers are likeliest."""
    return replace(model, temperature=likeliest_temperature(*scores_of(model, faces)))


def likeliest_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return by what scores (n, classes) are to be divided, so that labels (n,) are likeliest."""

    def surprise(temperature: float) -> float:
        return -np.log(softmax(scores / temperature)[np.arange(len(labels)), labels]).mean()

    return float(min(TEMPERATURES, key=surprise))


def main() -> None:
    """Make the kit's own file."""
    first, second = (DrawFaces(Draws(development=True), draw) for draw in (1, 2))
    (one, apart), (two, _) = first._parts, second._parts
    model = calibrated(fit([one, two, first.further]), apart)
    model = knowing_people(model, everyone(), many_people(APART, NARROW))
    drawn, strangers = DrawFaces(Draws()), unseen()
    parts = [drawn.further, drawn._parts[1]]
    scores, labels = (np.concatenate(each) for each in zip(*(scores_of(model, p) for p in parts)))
    probabilities = softmax(scores / model.temperature)
    right = probabilities.argmax(axis=1) == labels
    people = len(one.subjects) + len(two.subjects) + len(first.further.subjects)
    card = {
        "temperature": model.temperature,
        "limit": model.limit,
        "least": model.least,
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
        "taken for scans of two people, %": {
            kind: taken_for_two(model, faces) for kind, faces in strangers.items()
        },
        "taken for faces at rest, %": {
            kind: taken_for_rest(model, faces) for kind, faces in strangers.items()
        },
        "provenance": provenance(),
    }
    write(replace(model, card=card), PATH)
    print(json.dumps(card, indent=2))


def write(model: PersonalModel, path: Path) -> None:
    """Write a model's file."""
    arrays = {name: getattr(model, name).astype(np.float32) for name in ARRAYS}
    arrays["used"] = model.used.astype(np.int32)
    # safetensors writes bytes as they lie, and takes a transposed array for one that is not
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with written_whole(path) as target:
        save_file(arrays, target, {"card": json.dumps(model.card)})
        target.chmod(0o644)


if __name__ == "__main__":
    main()
