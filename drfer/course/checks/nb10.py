"""Checks of notebook 10."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from drfer.course.checks import NOT_DONE, Exercise, difference
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.statistics import accuracy, corrected_interval

GAIN, DEVIATION = 1.4, 3.0
"""What is hoped for, and how much differences vary, in points."""
COSTS = {"folds": 8, "draws": 12}
"""Minutes of one."""
OVERLAPS = {"folds": 1 / 9, "draws": 0.0}
"""Test scans over training scans that are shared."""
BUDGET = 360
"""Minutes."""


def _counts() -> list[tuple]:
    rng = np.random.default_rng()
    tied = rng.integers(1, 9, (6, 6))
    tied[1] = tied[4] = [9, 1, 9, 9, 1, 9]  # two are recognised least often
    return [(rng.integers(0, 9, (6, 6)) + 5 * np.eye(6, dtype=int),) for _ in range(3)] + [(tied,)]


def _hardest(counts: np.ndarray) -> list[str]:
    recall = counts.diagonal() / counts.sum(axis=1)
    return [EXPRESSIONS[i] for i in np.flatnonzero(recall == recall.min())]


def _names_hardest(answer) -> str | None:
    if not callable(answer):
        return "a function is wanted."
    for (counts,) in _counts():
        right, given = _hardest(counts), answer(counts.copy())
        if given is None:
            return NOT_DONE
        if isinstance(given, str) or np.ndim(given) != 1:
            return f"a list of names is wanted, not {given!r}."
        if len(given) != len(right):
            have = "one expression has" if len(right) == 1 else f"{len(right)} expressions share"
            return f"{have} the lowest recall, and you name {len(given)}."
        if off := difference(given, right):
            return f"{off} Hint: the diagonal over the sum of its row."
    return None


def _pairs_of_rows() -> list[tuple]:
    rng = np.random.default_rng()
    pairs = []
    for folds, overlap in ((4, 1 / 3), (10, 1 / 9), (20, 0.0)):
        sizes = rng.choice([12, 24, 36, 72], folds)
        sizes[:2] = 12, 72  # one scan counts more in a small fold
        truths = [rng.integers(0, 6, size) for size in sizes]
        rows = [
            [{"truth": truth, "predicted": _guessed(rng, truth, share)} for truth in truths]
            for share in (0.8, 0.7)
        ]
        pairs.append((*rows, overlap))
    return pairs


def _guessed(rng: np.random.Generator, truth: np.ndarray, share: float) -> np.ndarray:
    return np.where(rng.random(len(truth)) < share, truth, (truth + 1) % 6)


def _difference(ours: list[dict], theirs: list[dict], overlap: float) -> tuple[float, float]:
    differences = np.array([accuracy(a) - accuracy(b) for a, b in zip(ours, theirs)])
    low, high = corrected_interval(differences, SimpleNamespace(overlap=overlap))
    return differences.mean(), (high - low) / 2


def _plan(answer) -> str | None:
    if isinstance(answer, str) or np.shape(answer) != (2,):
        return f'a pair such as ("folds", 10) is wanted, not {answer!r}.'
    kind, count = answer
    if kind not in COSTS:
        return f'"folds" or "draws" are wanted, not {kind!r}.'
    if count < 2 or count != int(count) or (kind == "folds" and count % 10):
        return f"{count} {kind} cannot be run."
    cost = int(count) * COSTS[kind]
    if cost > BUDGET:
        return f"{count} {kind} take {cost / 60:.1f} hours: too long."
    values = np.tile([-1.0, 1.0], int(count))[: int(count)]
    values *= DEVIATION / values.std(ddof=1)
    low, high = corrected_interval(values, SimpleNamespace(overlap=OVERLAPS[kind]))
    reach = (high - low) / 2
    return f"the interval would be ± {reach:.3f} points: too wide." if reach >= GAIN else None


def _figure(answer) -> str | None:
    rng = np.random.default_rng()
    counts, names = rng.integers(1, 40, (6, 6)), list(rng.permutation(EXPRESSIONS))
    figure = answer(counts, names)
    if figure is None:
        return NOT_DONE
    if not isinstance(figure, Figure) or not figure.axes:
        return "a figure of matplotlib with a panel is wanted."
    FigureCanvasAgg(figure).draw()  # only then ticks have their labels
    return _said_by_bars(figure.axes[0], dict(zip(names, 100 * counts.diagonal() / counts.sum(1))))


def _said_by_bars(axis: Axes, recall: dict[str, float]) -> str | None:
    bars = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    if len(bars) != len(recall):
        return f"the first panel has {len(bars)} bars: one for each expression is wanted."
    upright = np.ptp([bar.get_width() for bar in bars]) < 1e-6
    along, across = (axis.yaxis, axis.xaxis) if upright else (axis.xaxis, axis.yaxis)
    shown = {}
    for bar in bars:
        low, length = bar.get_x(), bar.get_width()
        if not upright:
            low, length = bar.get_y(), bar.get_height()
        nearest = np.abs(across.get_ticklocs() - (low + length / 2)).argmin()
        name = across.get_ticklabels()[nearest].get_text()
        shown[name] = bar.get_height() if upright else bar.get_width()
    if sorted(shown) != sorted(recall):
        return "the labels of the bars are not the six names."
    off = [name for name in recall if abs(shown[name] - recall[name]) > 0.01]
    if off:
        return f"the bar of {off[0]} is off: recall in % is wanted."
    if not any(unit in along.get_label_text() for unit in ("%", "percent")):
        return "the axis along the bars does not say its unit."
    low, high = along.get_view_interval()
    if abs(low) > 1e-6:
        return "the axis along the bars does not start at 0."
    if high < max(shown.values()):
        return "the axis along the bars ends before the longest bar does."
    return None


EXERCISES = {
    1: Exercise(judge=_names_hardest),
    2: Exercise(
        right=_difference,
        on=_pairs_of_rows,
        hint="one difference a fold, of all its own scans, and std with ddof=1.",
    ),
    3: Exercise(judge=_plan),
    4: Exercise(judge=_figure),
}
"""By number."""
