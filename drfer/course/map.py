"""The map at the head of each notebook: figure 2 with "you are here".

What a notebook is about keeps its colours; the rest of the figure is pale.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drfer.figures.architecture import method
from drfer.figures.style import VERMILION, look, png

Rectangle = tuple[float, float, float, float]
"""Left, right, lower and upper edge in inches of figure 2."""

_FACE = (0.0, 0.95, 3.2, 4.4)
_ENCODERS = ((0.95, 1.93, 5.0, 6.1), (0.95, 1.93, 1.5, 2.6))
_FEATURES = ((1.95, 2.36, 5.0, 6.1), (1.95, 2.36, 1.5, 2.6))
_CLASSIFIERS = ((1.05, 3.25, 6.2, 7.3), (1.05, 3.25, 0.35, 1.35))
_FUSION = (4.65, 7.3, 2.8, 4.4)
_BRANCHES = ((0.85, 4.6, 4.5, 7.3), (0.85, 4.6, 0.3, 3.1))
_WHOLE = (0.0, 7.3, 0.3, 7.3)

PLACES: dict[int, tuple[tuple[Rectangle, ...], str]] = {
    0: ((), "this is all of it"),
    1: ((_FACE,), "a scan becomes the cloud that both branches see"),
    2: (_ENCODERS, "both encoders are a PointNet++"),
    3: ((*_ENCODERS, *_FEATURES, *_CLASSIFIERS, _FUSION), "stage i: two classifiers and fusion"),
    4: (_BRANCHES, "stage ii: each branch draws a face"),
    5: ((_WHOLE,), "stage iii: everything, end to end"),
    6: ((_CLASSIFIERS[0],), "how good are its answers?"),
    7: (((1.05, 7.3, 6.2, 7.3), (3.4, 7.3, 0.9, 1.5), (5.9, 7.3, 2.8, 3.35)), "the losses"),
    8: ((_FACE,), "what if the head is turned?"),
    9: (_FEATURES, "what do the features know?"),
    10: ((_WHOLE,), "all results of it"),
    11: ((_WHOLE,), "your turn to change it"),
}
"""For each notebook, which parts of figure 2 it is about, and what it says of them."""


def here(notebook: int) -> None:
    """Show the map with a notebook's parts in colour.

    Args:
        notebook: its number, 0 to 11.
    """
    from IPython.display import display

    picture = png(course_map(notebook), dpi=110, colours=64)
    # half as wide in a browser as it has pixels, so that it is sharp on any screen
    display({"image/png": picture}, metadata={"image/png": {"width": 430}}, raw=True)


@look()
def course_map(notebook: int) -> Figure:
    """Return figure 2 with a notebook's parts in colour and all others pale.

    Args:
        notebook: its number, 0 to 11.
    """
    rectangles, says = PLACES[notebook]
    figure = method()
    renderer = FigureCanvasAgg(figure).get_renderer()
    axis = figure.axes[0]
    *texts, note = axis.texts
    arrows = [text.arrow_patch for text in texts if getattr(text, "arrow_patch", None)]
    for artist in (*axis.patches, *texts, *arrows, *axis.lines):
        box = artist.get_window_extent(renderer)
        middle = axis.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
        if rectangles and not any(_within(middle, each) for each in rectangles):
            artist.set_alpha(0.13)
    note.set(text=f"you are here: {says}", color=VERMILION, weight="bold", size=13, alpha=1)
    return figure


def _within(point: Sequence[float], rectangle: Rectangle) -> bool:
    left, right, low, high = rectangle
    return left <= point[0] <= right and low <= point[1] <= high
