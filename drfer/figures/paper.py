"""The paper's figures 1 to 6 and tables I to III from stored evaluations alone, in seconds.

A results folder has a folder for each evaluated dataset and preset. Every figure has a line of panels for each, every
table a column; what was not run says so. The same results give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from drfer.common.files import written_whole
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.protocol import accuracy_by_fold
from drfer.figures import architecture
from drfer.figures.run import COLOURS
from drfer.figures.tables import (
    BASELINE,
    CONTROL,
    NOT_RUN,
    WHOLE,
    Evaluation,
    load_evaluations,
    statistic,
    tables,
)

SETTINGS = {
    "raw": "raw: the rotated scan as it is",
    "registered": "registered: rotated back first",
    "trained": "trained: with rotated scans",
}
PITCH, YAW = "#0072B2", "#D55E00"
"""the paper's blue and red, as shades that the colour-blind can tell apart"""


def draw(results: Path | None = None, out: Path | None = None) -> list[Path]:
    """Draw everything from a results folder (else the checkout's figures, else ./figures); returns the files.

    Raises DrferError if the results are missing or broken, or `out` (else the results folder) cannot be written.
    """
    from plotly.offline import get_plotlyjs

    checkout = Path(__file__).parents[2] / "figures"
    results = results or (checkout if checkout.is_dir() else Path("figures"))
    stored, out = load_evaluations(results), out or results
    shown = stored or [Evaluation("anny3dfe")]
    texts = {name: "\n".join(lines) + "\n" for name, lines in tables(stored).items()}
    texts["tables.md"] = "\n".join(texts.values())
    for number, figure in ((1, turned_manifold(shown)), (4, turned_faces(shown))):
        texts[f"figure-{number}.html"] = figure.to_html(
            include_plotlyjs="directory", div_id=f"figure-{number}"
        )
    texts["plotly.min.js"] = get_plotlyjs()
    for name, text in texts.items():
        with written_whole(out / name) as target:
            target.write_text(text, encoding="utf-8")
    with matplotlib.style.context(
        "default"
    ):  # not the user's, so that the bytes are the same everywhere
        pictures = (
            manifold(shown),
            architecture.method(),
            architecture.architecture(),
            rotated_faces(shown),
            pose_curves(shown),
            feature_maps(shown),
        )
        named = {"main": rows_by_fold(shown)} | {
            f"figure-{number}": made for number, made in enumerate(pictures, 1)
        }
        for name, figure in named.items():
            for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
                with written_whole(out / f"{name}.{kind}") as target:
                    figure.savefig(target, dpi=150, metadata=metadata)
    return [
        *(out / name for name in texts),
        *(out / f"{name}.{kind}" for name in named for kind in ("pdf", "png")),
    ]


def rows_by_fold(evaluations: list[Evaluation]) -> Figure:
    """Our main figure: accuracy of the stages and the control, a thin line for each fold, their mean and its interval.
    An evaluation of a single fold is left to the tables, unless there is no other."""
    evaluations = [e for e in evaluations if len(e.facts.get("folds", ())) > 1] or evaluations
    figure, lines = _lines(evaluations, "rows", 1, 1, (6.6, 3.8))
    for evaluation, _, axes in lines:
        axis, rows = axes[0, 0], evaluation.facts["rows"]
        shown = [row for row in (BASELINE, "stage i + ii", WHOLE, CONTROL) if row in rows]
        by_fold = [accuracy_by_fold(rows[row]) for row in shown]
        common = sorted(set.intersection(*map(set, by_fold))) if shown else []
        for fold in common:
            values = [accuracies[fold] for accuracies in by_fold]
            axis.plot(
                values[: len(shown) - (CONTROL in shown)], color="#999999", linewidth=0.7, alpha=0.7
            )
            axis.plot(range(len(shown)), values, "o", color="#999999", markersize=3, alpha=0.7)
        for place, row in enumerate(shown):
            on_common = [entry for entry in rows[row] if (entry["repeat"], entry["fold"]) in common]
            mean, half_width = statistic(evaluation, on_common)
            colour = {BASELINE: PITCH, CONTROL: "#E69F00"}.get(row, "#009E73")
            axis.errorbar(
                place, mean, half_width, fmt="o", color=colour, markersize=8, capsize=5, zorder=5
            )
            axis.annotate(
                f"{mean:.1f}",
                (place, mean),
                (10, 6),
                textcoords="offset points",
                size=9,
                color=colour,
            )
        axis.set_xticks(range(len(shown)), shown)
        axis.set(
            ylabel="accuracy on unseen subjects, %",
            xlabel=f"{len(common)} folds; bars: 95 % interval of the mean",
            xlim=(-0.4, len(shown) - 0.4),
        )
        axis.grid(axis="y", linewidth=0.3)
    return figure


def manifold(evaluations: list[Evaluation]) -> Figure:
    """Figure 1: expression features from neutral through the levels, on their first two principal components."""
    figure, lines = _lines(evaluations, "manifold features", 1, 1, (6.6, 5.2))
    for evaluation, _, axes in lines:
        axis = axes[0, 0]
        shares, trajectories = _trajectories(evaluation.samples, 2)
        for expression, subjects, mean in trajectories:
            for line in subjects:
                axis.plot(*line.T, color=COLOURS[expression], linewidth=0.7, alpha=0.5)
                axis.scatter(*line[0], s=14, color="#999999", zorder=3)
            axis.plot(*mean.T, color=COLOURS[expression], linewidth=2.4, label=expression, zorder=4)
            sizes = np.linspace(0, 90, len(mean))
            axis.scatter(
                *mean.T,
                s=sizes,
                color=COLOURS[expression],
                edgecolor="white",
                linewidth=0.7,
                zorder=5,
            )
        axis.scatter([], [], s=14, color="#999999", label="neutral of a subject")
        axis.scatter(
            0,
            0,
            s=90,
            marker="X",
            color="black",
            edgecolor="white",
            zorder=6,
            label="neutral, mean",
        )
        for number, name in enumerate(("x", "y")):
            label = f"principal component {number + 1} ({shares[number]:.0%} of variance), feature units"
            axis.set(**{f"{name}label": label})
        axis.set_aspect("equal", "datalim")
        title = "larger dot: higher level\nthin: one subject"
        axis.legend(
            fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title=title, title_fontsize=8
        )
    return figure


def _trajectories(
    samples: dict[str, np.ndarray], components: int
) -> tuple[np.ndarray, list[tuple]]:
    """Shares of variance of the first principal components, and for each expression in them its name, the line of
    every subject and their mean, (levels + 1, components) each, around the mean neutral."""
    features = samples["manifold features"].astype(np.float64)
    expression, level, subject = (
        samples[f"manifold {name}"] for name in ("expression", "level", "subject")
    )
    _, strengths, directions = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    directions = directions[:components]
    largest = np.abs(directions).argmax(axis=1)[
        :, None
    ]  # a direction's sign is free: its largest entry is positive
    directions = directions * np.sign(np.take_along_axis(directions, largest, axis=1))
    places = (features - features[expression < 0].mean(axis=0)) @ directions.T
    trajectories = []
    for number, name in enumerate(EXPRESSIONS):
        scans = np.flatnonzero((expression < 0) | (expression == number))
        scans = scans[np.argsort(level[scans], kind="stable")]
        subjects = [places[scans[subject[scans] == person]] for person in np.unique(subject)]
        mean = [
            places[scans[level[scans] == height]].mean(axis=0) for height in np.unique(level[scans])
        ]
        trajectories.append((name, subjects, np.stack(mean)))
    return (strengths**2 / (strengths**2).sum())[:components], trajectories


def rotated_faces(evaluations: list[Evaluation]) -> Figure:
    """Figure 4: two subjects' faces in every pose with the number of points left."""
    figure, lines = _lines(evaluations, "posed clouds", 4, 9, (9.0, 5.0))
    for evaluation, strip, axes in lines:
        clouds, left = evaluation.samples["posed clouds"], evaluation.samples["posed left"]
        reach, (far, near) = np.abs(clouds[..., :2]).max(), np.percentile(clouds[..., 2], (2, 98))
        for row, line in enumerate(axes):
            kind, subject = ("pitch", "yaw")[row % 2], row // 2
            line[0].text(
                -0.1,
                0.5,
                f"{kind}\nsubject {subject + 1}",
                transform=line[0].transAxes,
                rotation=90,
                ha="center",
                va="center",
                size=8,
            )
            for axis, (angle, pose) in zip(line, _poses(evaluation, kind)):
                x, y, z = clouds[subject, pose][np.argsort(clouds[subject, pose, :, 2])].T
                dots = axis.scatter(
                    x,
                    y,
                    c=z,
                    s=0.8,
                    cmap="cividis",
                    vmin=far,
                    vmax=near,
                    linewidths=0,
                    rasterized=True,
                )
                axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
                axis.axis("off")
                axis.text(
                    0.5,
                    -0.06,
                    f"{left[subject, pose]:,}",
                    transform=axis.transAxes,
                    ha="center",
                    size=8,
                )
                if row == 0:
                    axis.set_title(f"{angle}°", size=9)
        unit = "mm" if reach > 3 else "frame units"  # a face lies within the unit ball of its frame
        strip.colorbar(dots, ax=axes, shrink=0.4, pad=0.01).set_label(f"depth, {unit}", size=8)
    return figure


def _poses(evaluation: Evaluation, kind: str) -> list[tuple[int, int]]:
    """(angle in degrees, number among the 17 poses) of the rotations of a kind, with the frontal pose, by angle."""
    poses = enumerate(evaluation.facts["poses"])
    return sorted((angle, number) for number, (name, angle) in poses if name in (kind, "frontal"))


def pose_curves(evaluations: list[Evaluation]) -> Figure:
    """Figure 5: accuracy over pitch and yaw of DrFER and its baseline, in each setting."""
    figure, lines = _lines(evaluations, "pose", 1, 3, (10.5, 3.5))
    for evaluation, _, axes in lines:
        for axis, (setting, title) in zip(axes[0], SETTINGS.items()):
            counts = []
            for row, name, style in ((WHOLE, "DrFER", "-o"), (BASELINE, "baseline", "--s")):
                folds = evaluation.entries("pose", setting=setting, row=row)
                counts.append(f"{name}: {f'{len(folds)} folds' if folds else NOT_RUN}")
                for kind, colour in (("pitch", PITCH), ("yaw", YAW)):
                    points = [
                        (angle, *_of_pose(evaluation, folds, p))
                        for angle, p in _poses(evaluation, kind)
                        if folds
                    ]
                    axis.errorbar(
                        *np.reshape(points, (-1, 3)).T,
                        fmt=style,
                        color=colour,
                        ecolor=(colour, 0.35),
                        markersize=4,
                        capsize=2,
                        linewidth=1.4,
                        elinewidth=0.8,
                        label=f"{name}, {kind}",
                    )
            axis.axhline(
                80,
                color="#555555",
                linewidth=0.9,
                linestyle=":",
                label="the paper:\nall above 80 %",
            )
            axis.set_title(f"{title}\n{', '.join(counts)}", size=9)
            axis.set(xlabel="angle, degrees", xticks=range(-80, 81, 40), xlim=(-88, 88))
        low = max(0, min(70, *(axis.get_ylim()[0] for axis in axes.flat)))
        for axis in axes.flat:
            axis.set_ylim(low, 100)
        axes[0, 0].set_ylabel("accuracy, %")
        axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3)
    return figure


def _of_pose(evaluation: Evaluation, folds: list[dict], pose: int) -> tuple[float, float]:
    """Mean accuracy and half its interval, which of fewer than five folds is wider than the axis."""
    mean, half_width = statistic(
        evaluation, [{**fold, "predicted": fold["predicted"][pose]} for fold in folds]
    )
    return mean, half_width if len(folds) >= 5 else np.nan


def feature_maps(evaluations: list[Evaluation]) -> Figure:
    """Figure 6: t-SNE of one fold's expression features before and after disentanglement."""
    figure, lines = _lines(evaluations, "features", 1, 2, (9.4, 4.2))
    for evaluation, _, axes in lines:
        for axis, (title, entry) in zip(axes[0], _before_and_after(evaluation)):
            axis.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
            axis.set_title(title, size=9)
            if entry is None:
                axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center")
            for number, name in enumerate(EXPRESSIONS):
                places = (
                    np.array(entry["tsne"])[np.equal(entry["labels"], number)]
                    if entry
                    else np.empty((0, 2))
                )
                axis.scatter(
                    *places.T,
                    s=26,
                    color=COLOURS[name],
                    label=name,
                    edgecolor="white",
                    linewidth=0.4,
                )
        axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _before_and_after(evaluation: Evaluation) -> list[tuple[str, dict | None]]:
    """Titles and feature entries of the baseline and the whole training, of the first fold that has them."""
    panels = []
    for row, title in ((BASELINE, "before: stage i"), (WHOLE, "after: stage i + ii + iii")):
        entry = min(
            evaluation.entries("features", row=row),
            key=lambda e: (e["repeat"], e["fold"]),
            default=None,
        )
        if entry:
            title += f", repeat {entry['repeat']}, fold {entry['fold']}\n"
            title += f"silhouette {entry['silhouette']:.2f}, 5-NN purity {entry['purity']:.2f}"
        panels.append((title, entry))
    return panels


def _lines(
    evaluations: list[Evaluation], section: str, rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, list[tuple]]:
    """A figure with a titled line of panels for each evaluation that has a section, and a word for each that has not.

    Returns the figure and [(evaluation, its part of the figure, its axes (rows, columns))].
    """
    heights = [size[1] if evaluation.has(section) else 0.5 for evaluation in evaluations]
    figure = Figure(figsize=(size[0], sum(heights)), layout="constrained")
    strips = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    lines = []
    for strip, evaluation in zip(strips, evaluations):
        if evaluation.has(section):
            strip.suptitle(evaluation.caption, size=9)
            lines.append((evaluation, strip, strip.subplots(rows, columns, squeeze=False)))
        else:
            strip.text(
                0.5, 0.5, f"{evaluation.name}: {NOT_RUN}", ha="center", va="center", color="#555555"
            )
    return figure, lines


# --- figures to turn


def turned_manifold(evaluations: list[Evaluation]):
    """Figure 1 on three principal components."""
    figure = _pages(evaluations, 1, "manifold features")
    for row, evaluation in enumerate(evaluations, 1):
        if evaluation.has("manifold features"):
            for name, _, mean in _trajectories(evaluation.samples, 3)[1]:
                x, y, z = mean.T
                figure.add_scatter3d(
                    x=x,
                    y=y,
                    z=z,
                    name=name,
                    legendgroup=name,
                    showlegend=row == 1,
                    mode="lines+markers",
                    line={"color": COLOURS[name], "width": 6},
                    marker={"color": COLOURS[name], "size": 4},
                    hovertext=[
                        f"{name}, step {step}" if step else "neutral" for step in range(len(mean))
                    ],
                    hoverinfo="text",
                    row=row,
                    col=1,
                )
    return figure.update_scenes(
        **{f"{axis}axis_title": f"component {n}" for n, axis in enumerate("xyz", 1)}
    )


def turned_faces(evaluations: list[Evaluation]):
    """Figure 4 with a slider for the pose; a turned face shows what the camera did not see."""
    figure = _pages(evaluations, 2, "posed clouds")
    traces: list[int] = []
    steps: dict[int, str] = {}
    for row, evaluation in enumerate(evaluations, 1):
        for subject, poses in enumerate(evaluation.samples.get("posed clouds", ()), 1):
            for pose, (x, y, z) in enumerate(np.moveaxis(poses, -1, 1)):
                name, angle = evaluation.facts["poses"][pose]
                steps[pose] = f"{name} {angle}°"
                traces.append(pose)
                figure.add_scatter3d(
                    x=x,
                    y=y,
                    z=z,
                    mode="markers",
                    visible=pose == 0,
                    showlegend=False,
                    hoverinfo="skip",
                    marker={"size": 2, "color": z, "colorscale": "Cividis"},
                    row=row,
                    col=subject,
                )
    slider = [
        {
            "label": label,
            "method": "restyle",
            "args": [{"visible": [pose == trace for trace in traces]}],
        }
        for pose, label in steps.items()
    ]
    clouds = [
        evaluation.samples["posed clouds"]
        for evaluation in evaluations
        if evaluation.has("posed clouds")
    ]
    reach = max((float(np.abs(array).max()) for array in clouds), default=1.0)
    sides = {
        f"{axis}axis_range": (-reach, reach) for axis in "xyz"
    }  # the same in every pose: no face changes its size
    camera = {"eye": {"x": 0, "y": 0, "z": 1.8}, "up": {"x": 0, "y": 1, "z": 0}}
    figure.update_layout(sliders=[{"steps": slider}] if steps else [])
    return figure.update_scenes(aspectmode="cube", camera=camera, **sides)


def _pages(evaluations: list[Evaluation], columns: int, section: str):
    from plotly.subplots import make_subplots

    titles = [
        e.caption if e.has(section) else f"{e.name}: {NOT_RUN}"
        for e in evaluations
        for _ in range(columns)
    ]
    specs = [[{"type": "scene"}] * columns] * len(evaluations)
    figure = make_subplots(len(evaluations), columns, specs=specs, subplot_titles=titles)
    return figure.update_layout(height=650 * len(evaluations), template="plotly_white")
