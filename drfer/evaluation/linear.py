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

from drfer.datasets import Dataset
from drfer.datasets.scan import NEUTRAL, ScanKey
from drfer.evaluation.draws import DrawFaces

if TYPE_CHECKING:
    from drfer.evaluation.experiment import Experiment

VERTICES = 2048
"""How many of the template's vertices are looked at, the first ones."""
SMALLEST_SHARE = 0.7
"""A vertex is used if this share of the training scans have it."""
REGULARISATION = 0.1
"""alpha of the ridge regression, in squared frame units; chosen among six from 0.001 to 1 on the 40
subjects of the open faces that the protocol does not draw."""


@dataclass(frozen=True, eq=False)
class Scans:
    """What linear classifiers see of scans, as a `FaceSet` has it."""

    keys: list[ScanKey]
    vertices: np.ndarray
    missing: np.ndarray
    dataset: Dataset


@dataclass(frozen=True)
class LinearClassifier:
    """A row of the tables that needs no network."""

    name: str
    """As `Row.stage` has it."""
    title: str
    """Its name in sentences."""
    numbers: Callable[[Scans, np.ndarray], np.ndarray]
    """What it sees of each of some scans, shape (n, d), by which of them it learns from."""
    regularisation: float = REGULARISATION
    """alpha of the ridge regression."""
    needs_truth: bool = False
    """Whether only faces of a generator have what it sees."""
    needs_neutral: bool = False
    """Whether it needs neutral scans."""
    version: int = 1
    """Is raised when its answers may come out differently."""

    def test(self, experiment: Experiment) -> dict[str, list[int]]:
        """Fit it to the training scans; return "truth" and "predicted" of the test scans."""
        scans, train, test = _scans_of(experiment)
        numbers = self.numbers(scans, train)
        label_of = {name: label for label, name in enumerate(experiment.faces.expressions)}
        truth = [label_of[scans.keys[scan].expression] for scan in test]
        taught = experiment.data.labels[train].cpu().numpy()
        with threadpool_limits(1):  # more add up in any order
            ridge = RidgeClassifier(alpha=self.regularisation)
            ridge.fit(numbers[train], taught)
            predicted = ridge.predict(numbers[test])
        return {"truth": truth, "predicted": predicted.tolist()}


def registered_vertices(scans: Scans, train: np.ndarray) -> np.ndarray:
    """Return the vertices that most training scans have; a missing one is the training scans' mean.

    Args:
        scans: of whom.
        train: indices of those that are learned from.

    Returns:
        Coordinates in frame units, shape (n, 3 k).
    """
    there = ~scans.missing[:, :VERTICES]
    used = np.flatnonzero(there[train].mean(axis=0) >= SMALLEST_SHARE)
    return _filled(scans.vertices[:, used], there[:, used], train)


def less_own_neutral(scans: Scans, train: np.ndarray) -> np.ndarray:
    """Return by how much the same vertices differ from the neutral scan of the same subject.

    A vertex that either scan lacks differs by the training scans' mean.

    Args:
        scans: of whom.
        train: indices of those that are learned from.

    Returns:
        Differences in frame units, shape (n, 3 k).
    """
    keys = scans.keys
    neutral_of = {key.subject: scan for scan, key in enumerate(keys) if key.intensity == 0}
    neutral = [neutral_of.get(key.subject, scan) for scan, key in enumerate(keys)]
    there = ~scans.missing[:, :VERTICES]
    there = there & there[neutral]
    used = np.flatnonzero(there[train].mean(axis=0) >= SMALLEST_SHARE)
    difference = scans.vertices[:, used] - scans.vertices[neutral][:, used]
    return _filled(difference, there[:, used], train)


def true_activations(scans: Scans, train: np.ndarray) -> np.ndarray:
    """Return the strength of each face unit with which the generator made the scans, (n, 52)."""
    return np.stack([scans.dataset.truth(key).activation for key in scans.keys])


def _scans_of(experiment: Experiment) -> tuple[Scans, np.ndarray, np.ndarray]:
    """All scans of a fold or a draw, which are learned from, and which are tested."""
    faces, data = experiment.faces, experiment.data
    scans = Scans(faces.keys, faces.vertices, faces.missing, faces.dataset)
    if not isinstance(faces, DrawFaces):
        return scans, data.train, data.test
    more = faces.further
    shown = [number for number, key in enumerate(more.keys) if key.expression != NEUTRAL]
    scans = Scans(
        [*scans.keys, *more.keys],
        np.concatenate([scans.vertices, more.vertices]),
        np.concatenate([scans.missing, more.missing]),
        scans.dataset,
    )
    return scans, data.train, np.concatenate([data.test, len(faces.keys) + np.array(shown)])


def _filled(values: np.ndarray, there: np.ndarray, train: np.ndarray) -> np.ndarray:
    weight = there[..., None]
    mean = (values[train] * weight[train]).sum(axis=0) / weight[train].sum(axis=0)
    return np.where(weight, values, mean).reshape(len(values), -1)


_ALL = (
    LinearClassifier("linear-vertices", "ridge on vertices", registered_vertices),
    LinearClassifier(
        "linear-difference",
        "ridge on vertices less neutral",
        less_own_neutral,
        needs_neutral=True,
    ),
    LinearClassifier(
        "linear-activations", "ridge on true activations", true_activations, needs_truth=True
    ),
)

CLASSIFIERS: dict[str, LinearClassifier] = {each.name: each for each in _ALL}
"""All linear classifiers by name."""
