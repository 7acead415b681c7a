"""How all figures look: colours, sheets of panels, text that is drawn as it stands, and saving.

Figures are made without pyplot, so that neither a display nor the user's settings matter.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy.spatial import cKDTree

from drfer.common.errors import DrferError
from drfer.common.files import written_whole
from drfer.datasets.scan import EXPRESSIONS

ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILION, PURPLE, GREY = "#D55E00", "#CC79A7", "#999999"
"""Okabe and Ito's palette, which the colour-blind can tell apart."""

COLOURS = dict(zip(EXPRESSIONS, (VERMILION, GREEN, PURPLE, ORANGE, BLUE, SKY)))
"""The colour of each basic expression, the same everywhere."""

MARKERS = "os^Dv"
"""Shapes of dots, for classes that share a colour."""

FILLS = {"expression": "#F8D08A", "identity": "#A9D3F0", "fusion": "#A5DBC8"}
"""Light colours of the model's three parts: Okabe and Ito's orange, blue and green."""

EDGES = {"expression": "#A66A00", "identity": BLUE, "fusion": "#00694C"}
"""Dark colours of the same parts, for lines and text."""

DPI = 150
"""Of saved pictures."""

SMALL, NORMAL = 8, 9
"""Font sizes in points: of labels, and of titles."""

HALO = withStroke(linewidth=2, foreground="white")
"""Path effect of a text that may lie on something."""

NOT_RUN = "not run"
"""What a figure or table says of what was not evaluated."""

_MISSING = "\N{WHITE SQUARE}"
_OPTIONS = {
    "png": {"pil_kwargs": {"compress_level": 1}},
    "pdf": {"metadata": {"CreationDate": None}},  # the same bytes for the same figure
    "svg": {"metadata": {"Date": None}},
}


Marks = dict[str, tuple[str, str]]
"""Colour and marker by class."""


def marks_of(expressions: Sequence[str]) -> Marks:
    """Return colour and marker of each class: the known ones, or the palette's in turn."""
    if COLOURS.keys() >= set(expressions):
        return {name: (COLOURS[name], MARKERS[0]) for name in expressions}
    palette = [*COLOURS.values(), "black"]
    return {
        name: (palette[i % len(palette)], MARKERS[i // len(palette) % len(MARKERS)])
        for i, name in enumerate(expressions)
    }


@contextmanager
def look() -> Iterator[None]:
    """Draw in matplotlib's own style, whatever the user has set; also a decorator of functions."""
    with matplotlib.style.context(["default", {"svg.hashsalt": "drfer"}]):
        yield


def sheet(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Return a figure with a grid of panels.

    Args:
        rows: how many rows of panels.
        columns: how many columns.
        size: width and height in inches.

    Returns:
        The figure, and its axes, an array of shape (rows, columns).
    """
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def literal(text: str, longest: int = 120) -> str:
    """Return a text that matplotlib draws as it stands.

    File names and names of subjects can hold anything: dollar signs, which would begin a formula,
    and characters that the font lacks, which are drawn as empty squares.

    Args:
        text: from outside, such as a file's name.
        longest: how many characters are shown; of a longer text the middle is left out.
    """
    shown = "".join(each if each == "\n" or ord(each) in _glyphs() else _MISSING for each in text)
    if len(shown) > longest:
        half = (longest - 1) // 2
        shown = f"{shown[:half]}…{shown[-half:]}"
    return shown.replace("$", r"\$")


@cache
def _glyphs() -> frozenset[int]:
    """Every character of the font that comes with matplotlib."""
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def png(figure: Figure, dpi: int = DPI, colours: int = 256) -> bytes:
    """Return a figure as a small PNG, the same bytes for the same figure.

    Args:
        figure: any figure of matplotlib.
        dpi: pixels an inch.
        colours: how many different colours the picture has at most.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    with look():
        figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 0})
    _with_few_colours(Image.open(drawn).convert("RGB"), colours).save(small, "png", optimize=True)
    return small.getvalue()


def _with_few_colours(picture: Image.Image, colours: int) -> Image.Image:
    """The picture in its most frequent colours, and rare ones, such as those of labels.

    White and black stay as they are.
    """
    rare = colours // 4
    frequent = picture.quantize(colours - rare - 2, kmeans=2).getpalette(None)
    distinct = picture.quantize(rare, method=Image.Quantize.MAXCOVERAGE).getpalette(None)
    palette = np.array([255, 255, 255, 0, 0, 0, *frequent, *distinct], dtype=np.uint8)
    pixels = np.asarray(picture).reshape(-1, 3)
    numbers = pixels @ np.array([65536, 256, 1])
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    nearest = cKDTree(palette.reshape(-1, 3)).query(pixels[first])[1].astype(np.uint8)
    reduced = Image.frombytes("P", picture.size, nearest[which].tobytes())
    reduced.putpalette(palette.tobytes())
    return reduced


def save(figure: Figure, path: Path, dpi: int = DPI, small: bool = True) -> Path:
    """Write a figure whole or not at all, and return the file's path.

    Args:
        figure: any figure of matplotlib.
        path: the file; its name says what kind of picture it is.
        dpi: pixels an inch.
        small: whether a PNG is made small, which takes as long again as to draw it.

    Raises:
        DrferError: the name does not end in .png, .pdf or .svg, or the file cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in _OPTIONS:
        raise DrferError(f"{path}: a picture's name must end in .png, .pdf or .svg")
    with written_whole(path) as target:
        if kind == "png" and small:
            target.write_bytes(png(figure, dpi))
        else:
            with look():
                figure.savefig(target, format=kind, dpi=dpi, **_OPTIONS[kind])
    return path
