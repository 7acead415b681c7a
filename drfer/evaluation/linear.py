"""Linear classifiers, which say what could be gained at all; they are no networks, and not the paper's.

Their input is the template's vertices on each registered scan, in correspondence. One classifier
sees them as they are. One sees by how much they differ from the subject's own neutral scan: identity
is then removed as perfectly as it can be. One sees how the generator moved the face, and no face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import RidgeClassifier
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from drfer.evaluation.experiment import Experiment

VERTICES = 2048
"""How many of the template's vertices are looked at, the first ones."""
SMALLEST_SHARE = 0.7
"""A vertex is used if this share of the training scans have it."""
REGULARISATION = 0.1
"""alpha of the ridge regression, in squared frame units; chosen on development subjects of version
1.0 of the open faces among 0.1, 1, 10 and 100."""


@dataclass(frozen=True)
class LinearClassifier:
    """A row of the tables that needs no network."""

    name: str
    """As `Row.stage` has it."""
    title: str
    """Its name in sentences."""
    numbers: Callable[[Experiment], np.ndarray]
    """What it sees of each scan of the faces, shape (n, d)."""
    regularisation: float = REGULARISATION
    """alpha of the ridge regression."""
    needs_truth: bool = False
    """Whether only faces of a generator have what it sees."""
    version: int = 1
    """Is raised when its answers may come out differently."""

    def test(self, experiment: Experiment) -> dict[str, list[int]]:
        """Fit it to the training scans; return "truth" and "predicted" of the test scans."""
        data = experiment.data
        numbers, labels = self.numbers(experiment), data.labels.cpu().numpy()
        with threadpool_limits(1):  # more add up in any order
            ridge = RidgeClassifier(alpha=self.regularisation)
            ridge.fit(numbers[data.train], labels[data.train])
            predicted = ridge.predict(numbers[data.test])
        return {"truth": labels[data.test].tolist(), "predicted": predicted.tolist()}


def registered_vertices(experiment: Experiment) -> np.ndarray:
    """Return the vertices that most training scans have; a missing one is the training scans' mean.

    Returns:
        Coordinates in frame units, shape (n, 3 k).
    """
    faces, train = experiment.faces, experiment.data.train
    there = ~faces.missing[:, :VERTICES]
    used = np.flatnonzero(there[train].mean(axis=0) >= SMALLEST_SHARE)
    return _filled(faces.vertices[:, used], there[:, used], train)


def less_own_neutral(experiment: Experiment) -> np.ndarray:
    """Return by how much the same vertices differ from the neutral scan of the same subject.

    A vertex that either scan lacks differs by the training scans' mean.

    Returns:
        Differences in frame units, shape (n, 3 k).
    """
    faces, data = experiment.faces, experiment.data
    keys = faces.keys
    neutral_of = {key.subject: scan for scan, key in enumerate(keys) if key.intensity == 0}
    neutral = [neutral_of.get(key.subject, scan) for scan, key in enumerate(keys)]
    there = ~faces.missing[:, :VERTICES]
    there = there & there[neutral]
    used = np.flatnonzero(there[data.train].mean(axis=0) >= SMALLEST_SHARE)
    difference = faces.vertices[:, used] - faces.vertices[neutral][:, used]
    return _filled(difference, there[:, used], data.train)


def true_activations(experiment: Experiment) -> np.ndarray:
    """Return the strength of each face unit with which the generator made the scans, (n, 52)."""
    faces = experiment.faces
    return np.stack([faces.dataset.truth(key).activation for key in faces.keys])


def _filled(values: np.ndarray, there: np.ndarray, train: np.ndarray) -> np.ndarray:
    weight = there[..., None]
    mean = (values[train] * weight[train]).sum(axis=0) / weight[train].sum(axis=0)
    return np.where(weight, values, mean).reshape(len(values), -1)


_ALL = (
    LinearClassifier("linear-vertices", "ridge on vertices", registered_vertices),
    LinearClassifier("linear-difference", "ridge on vertices less neutral", less_own_neutral),
    LinearClassifier(
        "linear-activations", "ridge on true activations", true_activations, needs_truth=True
    ),
)

CLASSIFIERS: dict[str, LinearClassifier] = {each.name: each for each in _ALL}
"""All linear classifiers by name."""
