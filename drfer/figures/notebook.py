"""The notebooks' pictures: faces, clouds, planes and curves, live where a front end runs.

A picture is a dict of panels, side by side: title -> list of layers. `show` shows one, `explore` one
that sliders move. Live, it is plotly's FigureWidget: the mouse turns it, and sliders change it in
place. Each has a still by matplotlib, so that a notebook reads well without a kernel too. `still`
alone is for any figure of matplotlib.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from drfer.figures.faces import CLAY, MOUTH, Window, draw_face, scale_bar
from drfer.figures.layers import Layer, Picture, Scale, box, colours_of, named
from drfer.figures.live import live_figure, update_figure
from drfer.figures.style import DPI, GREY, NORMAL, SMALL, literal, look, png, sheet

STILL_COLOURS = 128
"""How many colours a still has: notebooks shall stay small."""

_LIVE = (
    "(In JupyterLab a picture to turn and to move by sliders stands here once the cell has run; "
    "a still follows.)"
)


def show(
    picture: Picture,
    live: bool = True,
    scale: Scale | None = None,
    axes: tuple[str, str] = ("x, mm", "y, mm"),
    columns: int | None = None,
) -> None:
    """Show a picture, and its still. A browser turns sixteen 3D panels a page.

    Args:
        picture: title -> layers of each panel.
        live: whether there is a picture to turn, besides the still.
        scale: what the colours of values stand for.
        axes: labels of both axes, with units.
        columns: how many panels stand side by side in the still; all of them if not given.
    """
    if live:
        _display_widget(live_figure(picture, scale, axes))
    still(still_figure(picture, scale, axes, columns), colours=STILL_COLOURS)


def explore(
    function: Callable[..., Picture],
    stills: list[dict] | None = None,
    scale: Scale | None = None,
    axes: tuple[str, str] = ("x, mm", "y, mm"),
    columns: int | None = None,
    **sliders,
) -> None:
    """Show the picture that a function of sliders gives, and a still.

    Args:
        function: gives a picture of always as many panels and layers; the defaults of its arguments
            are where the sliders start.
        stills: the arguments of the pictures that stand side by side in the still; the function's
            own defaults if not given.
        scale: what the colours of values stand for.
        axes: labels of both axes, with units.
        columns: how many panels stand side by side in the still; all of them if not given.
        sliders: by argument, as in `ipywidgets.interactive`: (least, largest, step), a list to
            choose from, or a widget.
    """
    import ipywidgets

    pictures = [function(**values) for values in stills or [{}]]
    figure = live_figure(function(), scale, axes, pictures)

    @functools.wraps(function)
    def answer(**values):
        update_figure(figure, function(**values))

    _display_widget(ipywidgets.VBox([ipywidgets.interactive(answer, **sliders), figure]))
    panels = [panel for picture in pictures for panel in picture.items()]
    still(still_figure(panels, scale, axes, columns), colours=STILL_COLOURS)


def close_up(picture: Picture, window: Window = MOUTH) -> Picture:
    """Return a part of every panel, for faces in the template's pose.

    Args:
        picture: title -> layers of each panel.
        window: such as `MOUTH` or `BROWS` of `drfer.figures.faces`.
    """
    return {
        title: [replace(layer, window=window) for layer in layers]
        for title, layers in picture.items()
    }


@look()
def still_figure(
    picture: Picture | list[tuple[str, list[Layer]]],
    scale: Scale | None = None,
    axes: tuple[str, str] = ("x, mm", "y, mm"),
    columns: int | None = None,
) -> Figure:
    """Return matplotlib's figure of a picture, seen from the front and in one scale.

    Args:
        picture: title -> layers of each panel, or pairs of these.
        scale: what the colours of values stand for.
        axes: labels of both axes, with units.
        columns: how many panels stand side by side; all of them if not given.
    """
    panels = list(picture.items()) if isinstance(picture, dict) else picture
    columns = columns or len(panels)
    flat = panels[0][1][0].is_flat
    faces = all(any(layer.is_surface for layer in layers) for _, layers in panels)
    windows = [None] * len(panels) if flat else _windows([layers for _, layers in panels])
    in_legend = named(panels)
    room = 0.8 * bool(scale) + 1.0 * bool(in_legend)
    figure, grid = _grid(len(panels), columns, windows[0], faces, room)
    colours = colours_of(panels, scale)
    mapped = None
    for axis, (title, layers), window in zip(grid.flat, panels, windows):
        for layer in layers:
            mapped = _draw(axis, layer, scale, colours) or mapped
        axis.set_title(literal(title, 400), size=NORMAL if columns < 5 else 7)
        axis.set(xlabel=axes[0], ylabel=axes[1])
        if window:
            axis.set(xlim=window[:2], ylim=window[2:], aspect="equal")
    if faces:  # their scale is a bar
        scale_bar(grid[0, 0], 50 if np.ptp(windows[0][:2]) > 120 else 20)
    if scale and mapped:
        figure.colorbar(mapped, ax=grid, shrink=0.7).set_label(scale[2], size=SMALL)
    if in_legend:
        _draw_legend(figure, in_legend)
    return figure


def _draw_legend(figure: Figure, in_legend: dict[tuple[str, str], Layer]) -> None:
    """Write the names of layers beside all panels, under the headings of their groups."""
    lines, heading = [], ""
    for (group, name), layer in in_legend.items():
        if group and group != heading:
            lines.append(Line2D([], [], linestyle="", label=literal(group)))
        heading = group
        style = {"linestyle": "-"} if layer.line else {"linestyle": "", "marker": "o"}
        colour = layer.colour or (CLAY if layer.is_surface else GREY)
        lines.append(Line2D([], [], color=colour, markersize=5, label=literal(name), **style))
    figure.legend(handles=lines, loc="outside right center", fontsize=7, handlelength=1)


def _grid(
    count: int, columns: int, window: Window | None, faces: bool, room: float
) -> tuple[Figure, np.ndarray]:
    """A figure with so many panels, in rows, and room for legends; panels of faces have no axes."""
    rows = -(-count // columns)
    width = min(3.0, 7.6 / columns)
    if window is None:
        height = min(width, 2.6) + 0.6
    else:
        height = width * _shape(window) + (0.3 if faces else 0.7)
    figure, grid = sheet(rows, columns, (width * columns + room, height * rows))
    for number, axis in enumerate(grid.flat):
        axis.tick_params(labelsize=7)
        if faces or number >= count:
            axis.axis("off")
    return figure, grid


def still(figure: Figure, dpi: int = DPI, colours: int = 256) -> None:
    """Show any figure of matplotlib as a small PNG.

    Args:
        figure: what is shown.
        dpi: pixels an inch.
        colours: how many different ones it has at most.
    """
    from IPython.display import display

    display({"image/png": png(figure, dpi, colours), "text/plain": "(a picture)"}, raw=True)


def pick(shown: dict[str, object], dpi: int = DPI) -> None:
    """Show a menu of pictures and texts, all drawn beforehand; the first figure is the still.

    Args:
        shown: by the name in the menu, a figure of matplotlib, or a text in Markdown.
        dpi: pixels an inch.
    """
    import ipywidgets
    from nbconvert.filters import markdown2html

    pages = {
        name: markdown2html(what) if isinstance(what, str) else _image(what, dpi)
        for name, what in shown.items()
    }
    menu = ipywidgets.Dropdown(options=list(pages), description="show")
    page = ipywidgets.HTML(next(iter(pages.values())))
    menu.observe(lambda change: page.set_trait("value", pages[change["new"]]), "value")
    _display_widget(ipywidgets.VBox([menu, page]))
    still(next(what for what in shown.values() if not isinstance(what, str)), dpi)


def _image(figure: Figure, dpi: int) -> str:
    """A figure as an image in HTML."""
    encoded = base64.b64encode(png(figure, dpi)).decode()
    return f'<img style="max-width: 100%" src="data:image/png;base64,{encoded}">'


def _display_widget(widget) -> None:
    from IPython.display import display

    bundle = widget._repr_mimebundle_()  # its own text would be the whole figure
    display({**bundle, "text/plain": _LIVE}, raw=True)


def _windows(panels: list[list[Layer]]) -> list[Window]:
    """What each panel shows: all the same if that has room for all, else equally large parts."""
    boxes = np.array([box([layers]) for layers in panels])[..., :2]
    largest = np.ptp(boxes, axis=1).max(axis=0)
    together = np.array([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)])
    if (np.ptp(together, axis=0) < 1.25 * largest).all():
        boxes[:] = together
        largest = np.ptp(together, axis=0)
    middle = boxes.mean(axis=1)
    edges = np.stack([middle - 0.53 * largest, middle + 0.53 * largest], axis=2)
    return [tuple(four) for four in edges.reshape(-1, 4).tolist()]


def _shape(window: Window) -> float:
    """A window's height over its width."""
    left, right, low, high = window
    return (high - low) / (right - left)


def _draw(axis: Axes, layer: Layer, scale: Scale | None, colours: str) -> ScalarMappable | None:
    """Draw one layer with matplotlib; return what a colour bar needs, if anything."""
    limits = scale[:2] if scale else None
    if layer.is_surface:
        return draw_face(axis, layer.surface, layer.colour or CLAY, layer.shades, limits, None)
    if layer.line:
        axis.plot(*layer.points[:, :2].T, color=layer.colour or GREY, linewidth=0.8)
        return None
    far_first = slice(None) if layer.is_flat else np.argsort(layer.points[:, 2], kind="stable")
    x, y = layer.points[far_first, :2].T
    style = {"s": (0.65 * layer.size) ** 2, "linewidths": 0}
    if layer.shades is None:
        axis.scatter(x, y, color=layer.colour or GREY, **style)
        return None
    low, high = limits or (None, None)
    return axis.scatter(x, y, c=layer.shades[far_first], cmap=colours, vmin=low, vmax=high, **style)
