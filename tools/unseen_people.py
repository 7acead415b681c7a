"""What the cards of the kit's trained models say: how well they do on people whom they never saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from drfer.common.device import device
from drfer.datasets.anny3dfe.identity import ANCESTRIES
from drfer.datasets.anny3dfe.populations import Populations
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.protocol import Draws, protocol_keys
from drfer.models.drfer import DrFER
from drfer.models.personal import softmax
from drfer.models.recogniser import CLASSES, Recogniser
from drfer.preprocessing.faceset import FaceSet, preprocess
from drfer.preprocessing.resampling import OTHER_FACES
from drfer.training.trainer import predict
from tools.many_people import UNSEEN, Warped, build_of, many_people

BENCHMARK = 100
"""The first population that independent draws are tested on: unseen people of the benchmark."""
THIRDS = {
    "age": ("youngest third", "middle third", "oldest third"),
    "weight": ("lightest third", "middle third", "heaviest third"),
}


def unseen() -> dict[str, FaceSet]:
    """Return scans of people whom no training has met, as `drfer predict` sees them, by kind."""
    return {
        "benchmark": of_benchmark(BENCHMARK, 100),
        "widened": many_people(UNSEEN, OTHER_FACES),
        "warped": many_people(UNSEEN, OTHER_FACES, Warped),
    }


def of_benchmark(seed: int, people: int) -> FaceSet:
    """Return a population of the benchmark's kind, as `drfer predict` sees it."""
    dataset = Populations({seed: people})
    return preprocess(dataset, protocol_keys(dataset.subjects, Draws()), OTHER_FACES)


def labels_in(classes: Sequence[str], faces: FaceSet) -> np.ndarray:
    """Return each scan's label, shape (n,); -1 if it shows none of the classes."""
    label_of = {name: label for label, name in enumerate(classes)}
    return np.array([label_of.get(key.expression, -1) for key in faces.keys])


def right_of(model: DrFER, strangers: dict[str, FaceSet]) -> dict[str, dict]:
    """Return how well a whole model tells apart the six expressions of some people."""
    said, points = {}, model.expression.decoder.layers[-1].out_features // 3
    for kind, faces in strangers.items():
        labels = labels_in(EXPRESSIONS, faces)
        clouds = faces.clouds[labels >= 0, :points]
        _, logits = predict(model, torch.from_numpy(clouds).to(device()))
        said[kind] = measured(softmax(logits), labels[labels >= 0])
    return said


def worth_of(recogniser: Recogniser, strangers: dict[str, FaceSet]) -> dict[str, dict]:
    """Return how well a recogniser names what some people show, and whom it fails most."""
    said = {}
    for kind, faces in strangers.items():
        probabilities, unlike = recogniser.recognise(faces.vertices, faces.missing)
        labels = labels_in(CLASSES, faces)
        right = probabilities.argmax(axis=1) == labels
        said[kind] = measured(probabilities, labels) | {
            "people": len(faces.subjects),
            "unlike known faces, %": percent(unlike),
            "right by group, %": {
                of: {str(name): percent(right[group == name]) for name in np.unique(group)}
                for of, group in groups_of(faces).items()
            },
        }
    return {"on unseen people": said}


def measured(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Return how good answers are.

    Args:
        probabilities: of each class, shape (n, classes).
        labels: what was shown, shape (n,).
    """
    right = probabilities.argmax(axis=1) == labels
    return {
        "scans": len(labels),
        "right, %": percent(right),
        "right by class, %": {
            name: percent(right[labels == label])
            for label, name in enumerate(CLASSES[: probabilities.shape[1]])
        },
        "expected calibration error, %": round(calibration_error(probabilities, labels), 2),
    }


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


def groups_of(faces: FaceSet) -> dict[str, np.ndarray]:
    """Return to which groups each scan's person belongs: names, shape (n,), by what they are of."""
    builds = [build_of(key.subject) for key in faces.keys]
    sexes = {"F": "women", "M": "men"}
    groups = {
        "sex": np.array([sexes[key.subject.split("-")[1][0]] for key in faces.keys]),
        "ancestry": np.array([max(ANCESTRIES, key=one.get) for one in builds]),
    }
    for dial, thirds in THIRDS.items():
        values = np.array([one[dial] for one in builds])
        ends = np.quantile(values, [1 / 3, 2 / 3])
        groups[dial] = np.array(thirds)[np.searchsorted(ends, values)]
    return groups


def percent(right: np.ndarray) -> float:
    """Return the share of true values in percent, to a tenth."""
    return round(100 * float(np.mean(right)), 1)
