"""Live pictures by plotly, which the mouse turns and sliders change in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from drfer.figures.faces import CLAY, mesh_trace
from drfer.figures.layers import Layer, Picture, Scale, box, colours_of, named
from drfer.figures.style import GREY

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ZOOM = 1.4
"""How large plotly draws the cube of a 3D panel."""

_WIDEST = 860
"""Pixels of a live picture: what JupyterLab has beside its list of files."""

_PLOTLY_SIZE = 0.4
"""Of a marker that looks one pixel wide with an orthographic camera."""


def live_figure(
    picture: Picture,
    scale: Scale | None = None,
    axes: tuple[str, str] = ("x, mm", "y, mm"),
    others: Sequence[Picture] = (),
) -> go.FigureWidget:
    """Return plotly's widget of a picture.

    One millimetre is as long in all panels, and stays so when sliders move.

    Args:
        picture: title -> layers of each panel.
        scale: what the colours of values stand for.
        axes: labels of both axes, with units.
        others: pictures that sliders may lead to, for which there shall be room, too.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    count = len(picture)
    flat = next(iter(picture.values()))[0].is_flat
    grid = {
        "specs": [[{"type": "xy" if flat else "scene"}] * count],
        "subplot_titles": list(picture),
        "horizontal_spacing": 0.08 if flat else 0.02,
    }
    figure = go.FigureWidget(make_subplots(1, count, **grid))
    in_legend = named(picture.items())
    not_yet = set(in_legend)
    for column, layers in enumerate(picture.values(), start=1):
        for layer in layers:
            key = (layer.group, layer.name)
            figure.add_trace({**_trace(layer), "showlegend": key in not_yet}, row=1, col=column)
            not_yet.discard(key)
    colours = {"showscale": False}
    if scale:
        bar = {"title": scale[2], "len": 0.7}
        colours = {"cmin": scale[0], "cmax": scale[1], "colorbar": bar}
    figure.update_layout(
        width=min(430 * count, _WIDEST),
        height=470,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        showlegend=bool(in_legend),
        legend={
            "itemclick": False,
            "itemdoubleclick": False,
            "itemsizing": "constant",
            "tracegroupgap": 6,
        },
        template="plotly_white",
        coloraxis={"colorscale": colours_of(picture.items(), scale), **colours},
    )
    if flat:
        figure.update_xaxes(title=axes[0])
        figure.update_yaxes(title=axes[1])
    else:
        panels = zip(*(each.values() for each in (picture, *others)))
        _set_scenes(figure, np.array([box(layers) for layers in panels]), axes)
    return figure


def _set_scenes(figure: go.FigureWidget, boxes: np.ndarray, axes: tuple[str, str]) -> None:
    """Cubes of the same size around the boxes of all panels, (panels, 2, 3), seen from the front."""
    half = 0.52 * np.ptp(boxes, axis=1).max()
    camera = {
        "eye": {"x": 0, "y": 0, "z": 1},
        "up": {"x": 0, "y": 1, "z": 0},
        "projection": {"type": "orthographic"},
    }
    cube = {"aspectmode": "manual", "aspectratio": dict.fromkeys("xyz", _ZOOM), "camera": camera}
    for column, middle in enumerate(boxes.mean(axis=1), start=1):
        x, y, z = (
            {"range": [m - half, m + half], "nticks": 4, "showbackground": False}
            for m in middle.tolist()
        )
        figure.update_scenes(
            xaxis={"title": axes[0], **x},
            yaxis={"title": axes[1], **y},
            zaxis={"title": "", "showticklabels": False, **z},
            **cube,
            row=1,
            col=column,
        )


def update_figure(figure: go.FigureWidget, picture: Picture) -> None:
    """Put another picture into a live one, in one message and without moving the camera.

    Args:
        figure: made by `live_figure`.
        picture: of as many panels and layers.

    Raises:
        ValueError: the numbers of panels or layers differ.
    """
    layers = [layer for panel in picture.values() for layer in panel]
    with figure.batch_update():  # plotly sends only what differs
        for trace, layer in zip(figure.data, layers, strict=True):
            trace.update({name: value for name, value in _trace(layer).items() if name != "type"})
        for annotation, title in zip(figure.layout.annotations, picture, strict=True):
            annotation.text = title


def _trace(layer: Layer) -> dict:
    """Plotly's trace of a layer, with its name if it has one."""
    if layer.name is None:
        return _unnamed(layer)
    heading = {"legendgroup": layer.group, "legendgrouptitle": {"text": layer.group}}
    return _unnamed(layer) | {"name": layer.name} | heading


def _unnamed(layer: Layer) -> dict:
    if layer.is_surface:
        return mesh_trace(layer.live_surface, layer.colour or CLAY, layer.shades)
    colours = {"color": layer.colour or GREY}
    if layer.shades is not None:
        colours = {"color": layer.shades, "coloraxis": "coloraxis"}
    trace = {"type": "scatter" if layer.is_flat else "scatter3d", "hoverinfo": "skip"}
    trace |= dict(zip("xyz", np.asarray(layer.points, dtype=np.float32).T))
    if layer.line:
        return trace | {"mode": "lines", "line": colours}
    size = layer.size if layer.is_flat else _PLOTLY_SIZE * layer.size
    return trace | {"mode": "markers", "marker": {"size": size, "line": {"width": 0}, **colours}}
