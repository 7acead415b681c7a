"""Accuracy and losses as curves and tables of colour: the main figure, figure 5, and those of a run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from drfer.evaluation.result import TITLES, Result
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS
from drfer.evaluation.statistics import accuracy_by_fold, paired_difference, summarise
from drfer.figures.strips import strips
from drfer.figures.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    HALO,
    NORMAL,
    NOT_RUN,
    ORANGE,
    SMALL,
    literal,
    look,
    sheet,
)
from drfer.figures.tables import at_poses, number_of, statistic
from drfer.training.stages import STAGES

AFTER_EACH_STAGE = (BASELINE, "stage i + ii", METHOD)
"""The rows that follow one model through its training."""

SETTINGS = {
    "raw": "raw: the rotated scan as it is",
    "registered": "registered: rotated back first",
    "trained": "trained: with rotated scans",
}
"""How rotated scans are read, and what the panels of figure 5 call it."""

AT_POSES = {
    METHOD: ("DrFER", GREEN, "-o"),
    BASELINE: ("baseline", BLUE, "--s"),
    CONTROL: (CONTROL, ORANGE, ":^"),
}
"""Of the rows of figure 5: name, colour and line."""

FOLDS_FOR_BARS = 5
"""From how many folds or draws on figure 5 has bars."""


@look()
def rows_by_fold(results: list[Result]) -> Figure:
    """Return our main figure: the accuracy after each stage and of the control, and what they gain.

    Thin lines are folds; dots with bars are the mean over the folds that all rows have, and its
    95 % interval. Beside them is what each row gains on the baseline, fold by fold, and the paper's
    gain. An evaluation of a single fold is left to the tables, unless there is no other.
    """
    several = [result for result in results if len(_folds(result)) > 1]
    figure, shown = strips(several or results, _folds, 1, 2, (11, 3.8))
    for result, _, axes in shown:
        rows = [row for row in (*AFTER_EACH_STAGE, CONTROL) if row in result.rows]
        common = _common_folds(result, rows)
        _rows_by_fold(axes[0, 0], result, rows, common)
        _gains(axes[0, 1], result, rows, common)
    return figure


def _common_folds(result: Result, rows: list[str]) -> list[tuple[int, int]]:
    by_fold = [accuracy_by_fold(result.tests(row)) for row in rows]
    return sorted(set.intersection(*map(set, by_fold))) if rows else []


def _folds(result: Result) -> set[tuple[int, int]]:
    return {(entry["repeat"], entry["fold"]) for entry in result.select("test")}


def _rows_by_fold(axis: Axes, result: Result, rows: list[str], common: list) -> None:
    by_fold = [accuracy_by_fold(result.tests(row)) for row in rows]
    joined = len(rows) - (CONTROL in rows)  # the control does not follow on the others
    for fold in common:
        values = [accuracies[fold] for accuracies in by_fold]
        axis.plot(values[:joined], color=GREY, linewidth=0.7, alpha=0.7)
        axis.plot(range(len(rows)), values, "o", color=GREY, markersize=3, alpha=0.7)
    for x, row in enumerate(rows if common else ()):
        mean, half_width = statistic(result, _on(common, result, row))
        _mark(axis, x, row, mean, half_width, f"{mean:.1f}")
    axis.set_xticks(range(len(rows)), rows)
    unit = result.protocol.unit
    several = f"{len(common)} {unit}s; bars: 95 % interval of the mean"
    axis.set_xlabel(f"one {unit}: a few points are chance" if len(common) == 1 else several)
    axis.margins(y=0.15)
    axis.set(ylabel="accuracy on unseen subjects, %", xlim=(-0.4, max(len(rows), 1) - 0.4))
    axis.grid(axis="y", linewidth=0.3)


def _gains(axis: Axes, result: Result, rows: list[str], common: list) -> None:
    """Draw how many points each row is above the baseline, fold by fold, and in the paper."""
    dataset = "bosphorus" if result.dataset == "bosphorus" else "bu3dfe"
    others = [row for row in rows if row != BASELINE] if common and BASELINE in rows else []
    before, papers = _on(common, result, BASELINE), ROWS[BASELINE].paper[dataset]
    for x, row in enumerate(others):
        after = _on(common, result, row)
        by_fold = zip(*(accuracy_by_fold(entries).values() for entries in (after, before)))
        points = [ours - baseline for ours, baseline in by_fold]
        axis.plot([x] * len(points), points, "o", color=GREY, markersize=3, alpha=0.7)
        mean, low, high, _ = paired_difference(after, before, result.protocol)
        _mark(axis, x, row, mean, None if high is None else high - mean, f"{mean:+.2f}")
        gain = ROWS[row].paper.get(dataset)
        if gain is not None:
            axis.hlines(gain - papers, x - 0.3, x + 0.3, color="black", linestyle=":")
            text = f"{gain - papers:+.2f} in the paper"
            beside = {"xytext": (0, 3), "textcoords": "offset points", "size": SMALL}
            axis.annotate(text, (x, gain - papers), ha="center", **beside)
    axis.axhline(0, color=BLUE, linewidth=1)
    axis.set_xticks(range(len(others)), others)
    axis.margins(y=0.15)
    axis.set(ylabel=f"points above {BASELINE}", xlim=(-0.5, max(len(others), 1) - 0.5))
    axis.set_xlabel(f"the paper's are of {TITLES[dataset]}")
    axis.grid(axis="y", linewidth=0.3)


def _on(folds: list, result: Result, row: str) -> list[dict]:
    """Return a row's tests on some folds, in their order."""
    by_fold = {(entry["repeat"], entry["fold"]): entry for entry in result.tests(row)}
    return [by_fold[fold] for fold in folds]


def _mark(axis: Axes, x: int, row: str, mean: float, half_width: float | None, text: str) -> None:
    """Draw a row's mean and interval in its colour, with the number beside it."""
    colour = {BASELINE: BLUE, CONTROL: ORANGE}.get(row, GREEN)
    bar = {"fmt": "o", "markersize": 8, "capsize": 5, "zorder": 5}
    axis.errorbar(x, mean, half_width, color=colour, **bar)
    beside = {"xytext": (10, 0), "textcoords": "offset points", "size": NORMAL, "va": "center"}
    axis.annotate(text, (x, mean), color=colour, path_effects=[HALO], **beside)


@look()
def pose_curves(results: list[Result]) -> Figure:
    """Return figure 5: accuracy over pitch and yaw of DrFER, its baseline and the control.

    Each setting in which rotated scans can be read has a column of panels.
    """
    figure, shown = strips(results, lambda result: result.select("pose"), 2, 3, (10.5, 6.4))
    for result, _, axes in shown:
        for line, rotation in zip(axes, ("pitch", "yaw")):
            for axis, setting in zip(line, SETTINGS):
                _pose_curves(axis, result, setting, rotation)
            line[0].set_ylabel(f"{rotation}: accuracy, %")
        for axis, setting in zip(axes[0], SETTINGS):
            axis.set_title(f"{SETTINGS[setting]}\n{_counted(result, setting)}", size=NORMAL)
        low = max(0, min(70, *(axis.get_ylim()[0] for axis in axes.flat)))
        for axis in axes.flat:
            axis.set_ylim(low, 100)
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "handlelength": 3}
        axes[0, -1].legend(fontsize=SMALL, **beside)
    return figure


def _counted(result: Result, setting: str) -> str:
    """Of how many folds or draws the curves of a setting are: the usual number, then exceptions."""
    rows_of: dict[int, list[str]] = {}
    for row, (name, *_) in AT_POSES.items():
        rows_of.setdefault(len(result.select("pose", setting=setting, row=row)), []).append(name)
    most, *others = sorted(rows_of, key=lambda count: -len(rows_of[count]))
    unit = result.protocol.unit
    said = {count: number_of(count, unit) if count else NOT_RUN for count in rows_of}
    return "; ".join((said[most], *(f"{', '.join(rows_of[n])}: {said[n]}" for n in others)))


def _pose_curves(axis: Axes, result: Result, setting: str, rotation: str) -> None:
    most = 0
    for row, (name, colour, style) in AT_POSES.items():
        folds = result.select("pose", setting=setting, row=row)
        if not folds:
            continue
        most = max(most, len(folds))
        poses = rotations(result, rotation)
        points = [(angle, *_accuracy_of_pose(result, folds, pose)) for angle, pose in poses]
        axis.errorbar(
            *np.transpose(points),
            fmt=style,
            color=colour,
            ecolor=(colour, 0.35),
            markersize=4,
            capsize=2,
            linewidth=1.4,
            elinewidth=0.8,
            label=name,
        )
    paper = {"color": "#555555", "linewidth": 0.9, "linestyle": ":"}
    axis.axhline(80, label="the paper:\nall above 80 %", **paper)
    bars = "bars: 95 % interval of the mean"
    if most < FOLDS_FOR_BARS:
        bars = f"no bars: fewer than {FOLDS_FOR_BARS} {result.protocol.unit}s"
    xlabel = f"angle, degrees\n({bars})" if most else "angle, degrees"
    axis.set(xlabel=xlabel, xticks=range(-80, 81, 40), xlim=(-88, 88))


def rotations(result: Result, kind: str) -> list[tuple[int, int]]:
    """Return the rotations of a kind, and the frontal pose, in the order of their angles.

    Args:
        result: an evaluation.
        kind: "pitch" or "yaw".

    Returns:
        For each its angle in degrees, and its index among the evaluation's poses.
    """
    poses = enumerate(result.heading["poses"])
    return sorted((angle, index) for index, (name, angle) in poses if name in (kind, "frontal"))


def _accuracy_of_pose(result: Result, folds: list[dict], pose: int) -> tuple[float, float]:
    """Mean accuracy and half its interval, which of few folds is wider than the axis."""
    mean, half_width = statistic(result, [at_poses(fold, [pose]) for fold in folds])
    return mean, half_width if len(folds) >= FOLDS_FOR_BARS else np.nan


@look()
def training_curves(result: Result) -> Figure:
    """Return every loss term of every stage over its epochs: a thin line a fold, and their mean."""
    entries = result.select("curves")
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    columns = min(3, len(stages))
    rows = -(-len(stages) // columns)
    figure, axes = sheet(rows, columns, (5 * columns, 3.1 * rows + 0.3))
    for axis, stage in zip(axes.flat, stages):
        _training_curves(axis, [entry for entry in entries if entry["stage"] == stage])
    for axis in axes.flat[len(stages) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("loss term, weighted\n(chamfer: squared frame units)", fontsize=SMALL)
    figure.suptitle(f"Training loss, {literal(result.caption)}", fontsize=10)
    return figure


def _training_curves(axis: Axes, entries: list[dict]) -> None:
    first = entries[0]
    positive = True
    for term, colour in zip(first["curves"][0], [*COLOURS.values(), GREY] * 2):
        folds = [[epoch[term] for epoch in entry["curves"]] for entry in entries]
        folds = [fold for fold in folds if len(fold) == len(folds[0])]
        epochs = range(1, len(folds[0]) + 1)
        for fold in folds if len(folds) > 1 else ():
            axis.plot(epochs, fold, color=colour, linewidth=0.5, alpha=0.4)
        axis.plot(epochs, np.mean(folds, axis=0), ".-", color=colour, label=literal(term, 40))
        positive &= bool(np.min(folds) > 0)
    equation = f", eq. {STAGES[first['stage']].equation}" if first["stage"] in STAGES else ""
    axis.set_title(f"{literal(first['title'], 60)}{equation}", size=NORMAL)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if positive:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


@look()
def confusion_matrices(result: Result) -> Figure:
    """Return the confusion after each stage, over all folds: true expression by predicted one."""
    rows = [row for row in AFTER_EACH_STAGE if row in result.rows] or result.rows[:3]
    side = 4.3 * max(1.0, len(result.expressions) / 8)
    figure, axes = sheet(1, len(rows), (side * len(rows), side + 0.8))
    for axis, row in zip(axes.flat, rows):
        found = summarise(result.tests(row), result.protocol, len(result.expressions))
        folds = number_of(found.folds, result.protocol.unit)
        _confusion_matrix(axis, found.confusion, result.expressions)
        axis.set_title(f"{row}: {found.mean:.1f} % ({folds})", size=10)
    axes.flat[0].set_ylabel("true expression (% of its scans)")
    figure.suptitle(f"Confusion on unseen subjects, {literal(result.caption)}", fontsize=10)
    return figure


def _confusion_matrix(axis: Axes, counts: np.ndarray, expressions: list[str]) -> None:
    names = [literal(name) for name in expressions]
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (i, j), share in np.ndenumerate(shares):
        colour = "white" if share > 55 else "black"
        axis.text(j, i, f"{share:.0f}", ha="center", va="center", color=colour, size=NORMAL)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=SMALL)
    axis.set_yticks(range(len(names)), names, fontsize=SMALL)
    axis.set_xlabel("predicted")
