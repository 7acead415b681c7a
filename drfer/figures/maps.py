"""Expression features on a plane: figure 1, the expression manifold, and figure 6, t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drfer.evaluation.result import Result
from drfer.evaluation.rows import BASELINE, METHOD
from drfer.figures.strips import strips
from drfer.figures.style import GREY, NORMAL, NOT_RUN, SMALL, Marks, literal, look, marks_of

_OUTLINED = {"edgecolor": "white", "linewidth": 0.7}


@dataclass(frozen=True, eq=False)
class Trajectory:
    """How the features of one expression move away from neutral as it grows stronger.

    Attributes:
        expression: its name.
        subjects: a line for each subject, shape (intensities + 1, components) each, in feature
            units around the mean of all neutral scans.
        mean: their mean line, of the same shape.
    """

    expression: str
    subjects: list[np.ndarray]
    mean: np.ndarray


def trajectories(
    samples: dict[str, np.ndarray], expressions: Sequence[str], components: int
) -> tuple[np.ndarray, list[Trajectory]]:
    """Return the trajectories of all expressions on the principal components of their features.

    Args:
        samples: a result's, with "manifold features", "... expression" (-1 of a neutral scan),
            "... intensity" and "... subject".
        expressions: the classes by their labels.
        components: how many principal components.

    Returns:
        Each component's share of the variance, shape (components,), and the trajectories.
    """
    features = samples["manifold features"].astype(np.float64)
    names = ("expression", "intensity", "subject")
    expression, intensity, subject = (samples[f"manifold {name}"] for name in names)
    _, strengths, directions = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    directions = directions[:components]
    largest = np.abs(directions).argmax(axis=1)[:, None]
    # the sign of a direction is free: its largest entry shall be positive
    directions = directions * np.sign(np.take_along_axis(directions, largest, axis=1))
    on_plane = (features - features[expression < 0].mean(axis=0)) @ directions.T
    found = []
    for label, name in enumerate(expressions):
        scans = np.flatnonzero((expression < 0) | (expression == label))
        scans = scans[np.argsort(intensity[scans], kind="stable")]
        lines = [on_plane[scans[subject[scans] == person]] for person in np.unique(subject)]
        steps = np.unique(intensity[scans])
        mean = np.stack([on_plane[scans[intensity[scans] == step]].mean(axis=0) for step in steps])
        found.append(Trajectory(name, lines, mean))
    return (strengths**2 / (strengths**2).sum())[:components], found


def has_manifold(result: Result) -> bool:
    """Return whether a result has the arrays of figure 1."""
    return "manifold features" in result.samples


@look()
def manifold(results: list[Result]) -> Figure:
    """Return figure 1: expression features from neutral through all intensities, on a plane."""
    figure, shown = strips(results, has_manifold, 1, 1, (6.6, 5.2))
    for result, _, axes in shown:
        marks = marks_of(result.expressions)
        _manifold(axes[0, 0], marks, *trajectories(result.samples, result.expressions, 2))
    return figure


def _manifold(axis: Axes, marks: Marks, shares: np.ndarray, lines: list[Trajectory]) -> None:
    for line in lines:
        colour, marker = marks[line.expression]
        for of_subject in line.subjects:
            axis.plot(*of_subject.T, color=colour, linewidth=0.7, alpha=0.5)
            axis.scatter(*of_subject[0], s=14, color=GREY, zorder=3)
        axis.plot(
            *line.mean.T, color=colour, linewidth=2.4, label=literal(line.expression), zorder=4
        )
        sizes = np.linspace(0, 90, len(line.mean))
        axis.scatter(*line.mean.T, s=sizes, color=colour, marker=marker, zorder=5, **_OUTLINED)
    axis.scatter([], [], s=14, color=GREY, label="neutral of a subject")
    cross = {"s": 90, "marker": "X", "color": "black", "zorder": 6, **_OUTLINED}
    axis.scatter(0, 0, label="neutral, mean", **cross)
    for number, name in enumerate("xy"):
        of_variance = f"{shares[number]:.0%} of variance"
        label = f"principal component {number + 1} ({of_variance}), feature units"
        axis.set(**{f"{name}label": label})
    axis.set_aspect("equal", "datalim")
    axis.legend(
        fontsize=SMALL,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        title="larger dot: higher intensity\nthin: one subject",
        title_fontsize=SMALL,
    )


@look()
def feature_maps(results: list[Result]) -> Figure:
    """Return figure 6: t-SNE of a fold's expression features before and after disentanglement."""
    figure, shown = strips(results, lambda result: result.select("features"), 1, 2, (9.4, 4.2))
    for result, _, axes in shown:
        rows = ((BASELINE, "before: stage i"), (METHOD, "after: stage i + ii + iii"))
        for axis, (row, title) in zip(axes[0], rows):
            entries = result.select("features", row=row)
            first = min(entries, key=lambda entry: (entry["repeat"], entry["fold"]), default=None)
            _feature_map(axis, title, first, result)
        axes[0, -1].legend(fontsize=SMALL, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _feature_map(axis: Axes, title: str, entry: dict | None, result: Result) -> None:
    unit = result.protocol.unit
    if entry:
        fold = f", fold {entry['fold']}" if unit == "fold" else ""
        title += f", {'repeat' if fold else unit} {entry['repeat']}{fold}\n"
        title += f"silhouette {entry['silhouette']:.2f}, 5-NN purity {entry['purity']:.2f}"
    else:
        axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center")
    plane = np.array(entry["tsne"] if entry else []).reshape(-1, 2)
    labels = np.array(entry["labels"] if entry else [])
    for label, (name, (colour, marker)) in enumerate(marks_of(result.expressions).items()):
        of_class = {"s": 26, "color": colour, "marker": marker, "label": literal(name), **_OUTLINED}
        axis.scatter(*plane[labels == label].T, **of_class)
    axis.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
    axis.set_title(title, size=NORMAL)
