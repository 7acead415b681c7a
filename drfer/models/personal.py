"""Personal mode: the expression of a scan whose person's neutral scan is at hand.

With it, identity needs no network to be taken away: the common mesh lies on both scans, and how far
each of its vertices has moved between them is the expression. Ridge regression names it. It is what
the tables call "linear: less own neutral", trained on more people. If two scans differ by more than
an expression, they are of two people, and it says so. `tools/make_personal.py` makes its file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.spatial.distance import cdist

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS
from drfer.preprocessing.resampling import Carried

PATH = Path(__file__).with_name("personal.safetensors")
"""The kit's own file."""
ARRAYS = ("mean", "weight", "bias", "directions", "shown")
"""What it holds beside `used`."""


@dataclass(frozen=True, eq=False)
class PersonalModel:
    """A linear classifier of how the template's vertices have moved."""

    used: np.ndarray
    """Which of the template's vertices it looks at, shape (k,)."""
    mean: np.ndarray
    """By how much they move on average, which one takes that either scan lacks; (k, 3), mm."""
    weight: np.ndarray
    """Shape (6, k, 3), per mm."""
    bias: np.ndarray
    """Shape (6,)."""
    temperature: float
    """Scores are divided by this before the softmax, so that probabilities are neither too sure nor
    too modest."""
    directions: np.ndarray
    """Along which two people differ most, where one's own scans differ by 1; shape (k, 3, d), per
    mm."""
    shown: np.ndarray
    """How far each expression moves a person's face along these, shape (6, d)."""
    limit: float
    """A movement further than this from all of these is no expression: it is another person's."""
    least: float
    """A movement that changes the scores by less is hardly one: the face may be at rest."""
    card: dict
    """How it was trained, on whom, and what it is worth on people whom it never saw."""

    def probabilities(self, scan: Carried, neutral: Carried) -> dict[str, float]:
        """Return the probability of each of the six expressions.

        Args:
            scan: the common mesh on the scan that is asked about.
            neutral: the common mesh on a neutral scan of the same person.
        """
        scores = self.scores(self._moved(scan, neutral))
        return dict(zip(EXPRESSIONS, softmax(scores / self.temperature)[0].tolist()))

    def of_two_people(self, scan: Carried, neutral: Carried) -> bool:
        """Return whether two scans differ by more than any expression moves a face."""
        return bool(self.distance(self._moved(scan, neutral))[0] > self.limit)

    def is_at_rest(self, scan: Carried, neutral: Carried) -> bool:
        """Return whether two scans differ by less than nearly every expression moves a face."""
        return bool(self.movement(self._moved(scan, neutral))[0] < self.least)

    def _moved(self, scan: Carried, neutral: Carried) -> np.ndarray:
        """Return how far the vertices have moved, shape (1, k, 3), mm."""
        lacking = scan.missing[self.used] | neutral.missing[self.used]
        moved = scan.points[self.used] - neutral.points[self.used]
        return np.where(lacking[:, None], self.mean, moved)[None]

    def scores(self, moved: np.ndarray) -> np.ndarray:
        """Return the score of each expression, shape (n, 6), for movements (n, k, 3) in mm."""
        return np.einsum("nki,cki->nc", moved, self.weight) + self.bias

    def movement(self, moved: np.ndarray) -> np.ndarray:
        """Return how much movements (n, k, 3), mm, change the scores, shape (n,)."""
        return np.linalg.norm(self.scores(moved) - self.bias, axis=1)

    def distance(self, moved: np.ndarray) -> np.ndarray:
        """Return how far movements (n, k, 3), mm, lie from those of the nearest expression, (n,)."""
        placed = np.einsum("nki,kid->nd", moved, self.directions)
        return cdist(placed, self.shown).min(axis=1)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return probabilities, shape (n, 6), whose logarithms differ as the scores do."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def load_personal_model(path: Path | None = None) -> PersonalModel:
    """Return a trained personal model.

    Args:
        path: a file that `tools/make_personal.py` wrote; by default the one that comes with the kit.

    Raises:
        DrferError: the file is not there or is damaged.
    """
    path = Path(path or PATH)
    try:
        with safe_open(path, "np") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}
            card = json.loads((stored.metadata() or {})["card"])
        used = arrays.pop("used")
        arrays = {name: arrays[name].astype(np.float64) for name in ARRAYS}
        numbers = {name: card[name] for name in ("temperature", "limit", "least")}
        return PersonalModel(used, **arrays, **numbers, card=card)
    except FileNotFoundError:
        raise DrferError(f"there is no personal model {path}: take the file again") from None
    except OSError as error:
        raise DrferError(f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise DrferError(
            f"{path} is damaged, or holds no personal model ({error}): take the file again"
        ) from None
