"""Figures over several evaluations: a strip of panels for each."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure, SubFigure

from drfer.evaluation.result import Result
from drfer.figures.style import NORMAL, NOT_RUN, literal

LETTERS_OF_AN_INCH = 13
"""Of a caption."""


def strips(
    results: list[Result],
    has: Callable[[Result], object],
    rows: int,
    columns: int,
    size: tuple[float, float],
) -> tuple[Figure, list[tuple[Result, SubFigure, np.ndarray]]]:
    """Return a figure with a titled strip of panels for each evaluation.

    Args:
        results: the evaluations.
        has: whether an evaluation has what the figure shows; if not, its strip is a line that says so.
        rows: how many rows of panels a strip has.
        columns: how many columns.
        size: width of the figure, and height of a strip, in inches.

    Returns:
        The figure, and for each evaluation with panels its result, its strip, and its axes, an array
        of shape (rows, columns).
    """
    heights = [size[1] if has(result) else 0.5 for result in results]
    figure = Figure(figsize=(size[0], sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    shown = []
    for part, result in zip(parts, results):
        if has(result):
            caption = textwrap.fill(literal(result.caption), LETTERS_OF_AN_INCH * round(size[0]))
            part.suptitle(caption, size=NORMAL)
            shown.append((result, part, part.subplots(rows, columns, squeeze=False)))
        else:
            said = literal(f"{result.title}: {NOT_RUN}")
            part.text(0.5, 0.5, said, ha="center", va="center", color="#555555")
    return figure, shown
