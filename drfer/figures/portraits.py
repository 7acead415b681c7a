"""Faces from stored results: figure 4, rotated faces, and every face that the model makes of a scan."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drfer.evaluation.result import Result
from drfer.evaluation.result_format import SAMPLE_FACES
from drfer.figures.curves import rotations
from drfer.figures.faces import draw_face, scale_bar
from drfer.figures.shading import surface
from drfer.figures.strips import strips
from drfer.figures.style import NORMAL, SMALL, literal, look, marks_of, sheet


def has_rotated_faces(result: Result) -> bool:
    """Return whether a result has the arrays of figure 4."""
    return "posed clouds" in result.samples


@look()
def rotated_faces(results: list[Result]) -> Figure:
    """Return figure 4: what the camera sees of two subjects' faces in every pose.

    Below each face stands how many points of the dense face are left.
    """
    figure, shown = strips(results, has_rotated_faces, 4, 9, (11, 6.0))
    for result, _, axes in shown:
        clouds, left = result.samples["posed clouds"], result.samples["posed left"]
        reach = float(np.abs(clouds[..., :2]).max())
        for row, line in enumerate(axes):
            rotation, subject = ("pitch", "yaw")[row % 2], row // 2
            _row_label(line[0], f"{rotation}\nsubject {subject + 1}")
            for axis, (angle, pose) in zip(line, rotations(result, rotation)):
                face = surface(clouds[subject, pose])
                draw_face(axis, face, window=(-reach, reach, -reach, reach))
                count = f"{left[subject, pose]:,}"
                axis.text(0.5, -0.05, count, transform=axis.transAxes, ha="center", size=SMALL)
                if row == 0:
                    axis.set_title(f"{angle}°", size=NORMAL)
        scale_bar(axes[0, 0])
    return figure


@look()
def sample_faces(result: Result) -> Figure:
    """Return a test scan of each expression, and every face that the model makes of it.

    Columns are the faces of figure 2: the input, both branches' faces, those of the cross-over, and
    the fused one.
    """
    samples, marks = result.samples, marks_of(result.expressions)
    labels = samples["sample labels"]
    figure, axes = sheet(
        len(labels), len(SAMPLE_FACES), (1.6 * len(SAMPLE_FACES) + 0.3, 1.85 * len(labels) + 0.5)
    )
    for column, kind in enumerate(SAMPLE_FACES):
        axes[0, column].set_title(kind, size=10)
        for row, cloud in enumerate(samples[f"sample {kind}"]):
            draw_face(axes[row, column], surface(cloud))
    for axis, label in zip(axes[:, 0], labels):
        name = result.expressions[label]
        _row_label(axis, literal(name), marks[name][0])
    scale_bar(axes[0, 0])
    figure.suptitle(f"Faces of test subjects, {literal(result.caption)}", size=NORMAL)
    return figure


def _row_label(axis: Axes, text: str, colour: str = "black") -> None:
    upright = {"rotation": 90, "ha": "center", "va": "center"}
    axis.text(-0.1, 0.5, text, transform=axis.transAxes, color=colour, size=NORMAL, **upright)
