"""What the notebooks share for pictures: clouds, meshes and curves, live where a front end runs and always as a still.

A picture is a dict of panels, side by side: title -> list of layers. `show` shows one, `explore` one that sliders move.
Live, it is plotly's FigureWidget: the mouse turns it, and sliders change its traces in place. The still is a PNG by
matplotlib, so that a notebook reads well on a code host too. `still` alone is for any figure of matplotlib.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from drfer.figures.run import sheet, surface_light

GREY = "#9a9a9a"
ZOOM = 1.4
"""how large plotly draws the cube of a 3D panel"""
WIDEST = 860
"""pixels of a live picture: what JupyterLab has beside its list of files"""
LIGHTING, LAMP = dict(ambient=0.2, diffuse=0.75, specular=0.05), dict(x=-500, y=-700, z=-1000)
"""above the viewer's shoulder: with an orthographic camera plotly 7.1 takes the lamp's place with the other sign"""
PLOTLY_SIZE = 0.4
"""of a marker that looks one pixel wide with that camera"""
LIVE = "(In JupyterLab a picture to turn and to move by sliders stands here once the cell has run; a still follows.)"


@dataclass(frozen=True)
class Layer:
    """One cloud, mesh or curve. points: (n, 3), mm, +y up, +z to the viewer; or (n, 2), a plane of any unit.
    triangles: (m, 3), of a mesh. colour: of all; without it values (n,) give the colours, without these depth does
    (a mesh is grey). size: of points, in pixels. line: joins the points; a row of NaN interrupts it."""

    points: np.ndarray
    triangles: np.ndarray | None = None
    colour: str | None = None
    values: np.ndarray | None = None
    size: float = 3
    line: bool = False

    @property
    def is_flat(self) -> bool:
        return self.points.shape[1] == 2

    @property
    def shades(self) -> np.ndarray | None:
        """What the colour scale is applied to, (n,), if anything."""
        if (
            self.colour
            or self.line
            or (self.values is None and (self.is_flat or self.triangles is not None))
        ):
            return None
        return self.points[:, 2] if self.values is None else self.values


Picture = dict[str, list[Layer]]


def show(
    picture: Picture,
    live: bool = True,
    scale: tuple[float, float, str] | None = None,
    axes: tuple[str, str] = ("x, mm", "y, mm"),
    columns: int | None = None,
) -> None:
    """A picture, live unless that is switched off, and its still, in rows of `columns` panels. scale: least and largest
    of the values that colours stand for, and their name with the unit. A browser turns sixteen 3D panels a page."""
    if live:
        _display_widget(live_figure(picture, scale, axes))
    still(still_figure(picture, scale, axes, columns))


def explore(
    function: Callable[..., Picture],
    stills: list[dict] | None = None,
    scale: tuple[float, float, str] | None = None,
    axes: tuple[str, str] = ("x, mm", "y, mm"),
    columns: int | None = None,
    **sliders,
) -> None:
    """The picture that a function of sliders gives; its defaults are where they start, and its panels and layers stay
    as many. sliders: as in `ipywidgets.interactive`: (least, largest, step), a list to choose from, or a widget.
    stills: the values to show side by side where no front end runs, by default the function's own."""
    import ipywidgets

    pictures = [function(**values) for values in stills or [{}]]
    figure = live_figure(function(), scale, axes, pictures)

    @functools.wraps(function)
    def answer(**values):
        update_figure(figure, function(**values))

    _display_widget(ipywidgets.VBox([ipywidgets.interactive(answer, **sliders), figure]))
    still(
        still_figure(
            [panel for picture in pictures for panel in picture.items()], scale, axes, columns
        )
    )


def live_figure(
    picture: Picture, scale=None, axes=("x, mm", "y, mm"), others: Sequence[Picture] = ()
):
    """Plotly's widget of a picture: one millimetre is as long in all panels, and stays so when sliders move. others:
    what sliders may lead to, for which there shall be room, too."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    count, flat = len(picture), next(iter(picture.values()))[0].is_flat
    kinds, space = [[{"type": "xy" if flat else "scene"}] * count], 0.02 + 0.06 * flat
    figure = go.FigureWidget(
        make_subplots(1, count, specs=kinds, subplot_titles=list(picture), horizontal_spacing=space)
    )
    for column, layers in enumerate(picture.values(), start=1):
        for layer in layers:
            figure.add_trace(_trace(layer), row=1, col=column)
    colours = dict(showscale=False)
    if scale:
        colours = dict(cmin=scale[0], cmax=scale[1], colorbar=dict(title=scale[2], len=0.7))
    figure.update_layout(
        width=min(430 * count, WIDEST),
        height=470,
        margin=dict(l=10, r=10, t=30, b=10),
        showlegend=False,
        template="plotly_white",
        coloraxis=dict(colorscale="Cividis", **colours),
    )
    if flat:
        figure.update_xaxes(title=axes[0])
        figure.update_yaxes(title=axes[1])
        return figure
    boxes = np.array(
        [_box(panels) for panels in zip(*(each.values() for each in (picture, *others)))]
    )
    half = 0.52 * np.ptp(boxes, axis=1).max()
    camera = dict(
        eye=dict(x=0, y=0, z=1), up=dict(x=0, y=1, z=0), projection=dict(type="orthographic")
    )
    cube = dict(aspectmode="manual", aspectratio=dict.fromkeys("xyz", ZOOM), camera=camera)
    for column, middle in enumerate(boxes.mean(axis=1), start=1):
        x, y, z = (
            dict(range=[m - half, m + half], nticks=4, showbackground=False)
            for m in middle.tolist()
        )
        figure.update_scenes(
            xaxis=dict(title=axes[0], **x),
            yaxis=dict(title=axes[1], **y),
            zaxis=dict(title="", showticklabels=False, **z),
            **cube,
            row=1,
            col=column,
        )
    return figure


def update_figure(figure, picture: Picture) -> None:
    """Another picture of as many panels and layers into a live one, in one message and without moving the camera."""
    layers = [layer for panel in picture.values() for layer in panel]
    with figure.batch_update():  # plotly sends only what differs
        for trace, layer in zip(figure.data, layers, strict=True):
            trace.update({name: value for name, value in _trace(layer).items() if name != "type"})
        for annotation, title in zip(figure.layout.annotations, picture, strict=True):
            annotation.text = title


def still_figure(picture, scale=None, axes=("x, mm", "y, mm"), columns: int | None = None):
    """Matplotlib's figure of a picture, or of (title, layers) pairs, seen from the front."""
    panels = list(picture.items()) if isinstance(picture, dict) else picture
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure, grid = sheet(
        rows, columns, (min(3.4 * columns, 2.3 * columns + 2), min(3.4, 10 / columns + 0.9) * rows)
    )
    mapped = None
    for axis, (title, layers) in zip(grid.flat, panels):
        for layer in layers:
            mapped = _draw(axis, layer, scale) or mapped
        axis.set_title(title, fontsize=9)
        axis.set(xlabel=axes[0], ylabel=axes[1])
        axis.tick_params(labelsize=7)
        if not layers[0].is_flat:
            axis.set_aspect("equal")
    for axis in list(grid.flat)[len(panels) :]:
        axis.set_axis_off()
    if scale and mapped:
        figure.colorbar(mapped, ax=grid, shrink=0.7).set_label(scale[2], fontsize=8)
    return figure


def still(figure, dpi: int = 80) -> None:
    """Any figure of matplotlib as a small PNG, of 128 colours, in the notebook."""
    from IPython.display import display

    display({"image/png": _png(figure, dpi), "text/plain": "(a picture)"}, raw=True)


def pick(shown: dict[str, object], dpi: int = 80) -> None:
    """A menu of figures of matplotlib and of texts in Markdown, all drawn beforehand; the first figure is the still."""
    import ipywidgets
    from nbconvert.filters import markdown2html

    pages = {
        name: markdown2html(what)
        if isinstance(what, str)
        else f'<img src="data:image/png;base64,{base64.b64encode(_png(what, dpi)).decode()}">'
        for name, what in shown.items()
    }
    menu = ipywidgets.Dropdown(options=list(pages), description="show")
    page = ipywidgets.HTML(next(iter(pages.values())))
    menu.observe(lambda change: page.set_trait("value", pages[change["new"]]), "value")
    _display_widget(ipywidgets.VBox([menu, page]))
    still(next(what for what in shown.values() if not isinstance(what, str)), dpi)


def _png(figure, dpi: int) -> bytes:
    from PIL import Image

    file, small = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        small, "png", optimize=True
    )
    return small.getvalue()


def _display_widget(widget) -> None:
    from IPython.display import display

    bundle = widget._repr_mimebundle_()  # its own text would be the whole figure
    display({**bundle, "text/plain": LIVE}, raw=True)


def _trace(layer: Layer) -> dict:
    colours = {"color": layer.colour or GREY}
    if layer.shades is not None:
        colours = {
            "color" if layer.triangles is None else "intensity": layer.shades,
            "coloraxis": "coloraxis",
        }
    if layer.triangles is not None:
        look = dict(type="mesh3d", lighting=LIGHTING, lightposition=LAMP, **colours)
    elif layer.line:
        look = dict(mode="lines", line=colours)
    else:
        size = layer.size if layer.is_flat else PLOTLY_SIZE * layer.size
        look = dict(mode="markers", marker=dict(size=size, line={"width": 0}, **colours))
    return (
        {"type": "scatter" if layer.is_flat else "scatter3d", "hoverinfo": "skip"}
        | look
        | _coordinates(layer)
    )


def _coordinates(layer: Layer) -> dict:
    found = dict(zip("xyz", np.asarray(layer.points, dtype=np.float32).T))
    if layer.triangles is None:
        return found
    short = np.uint16 if len(layer.points) < 2**16 else np.int32  # less to send
    return found | dict(zip("ijk", np.asarray(layer.triangles, dtype=short).T))


def _box(panels: Sequence[list[Layer]]) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate([layer.points for layers in panels for layer in layers])
    return np.nanmin(points, axis=0), np.nanmax(points, axis=0)


def _draw(axis, layer: Layer, scale):
    """One layer into matplotlib's axis; returns what a colour bar needs, if anything."""
    limits = dict(zip(("vmin", "vmax"), scale[:2])) if scale else {}
    if layer.line:
        axis.plot(layer.points[:, 0], layer.points[:, 1], color=layer.colour or GREY, linewidth=0.8)
        return None
    if layer.triangles is None:
        order = np.argsort(layer.points[:, 2], kind="stable") if not layer.is_flat else slice(None)
        shades = layer.colour or GREY if layer.shades is None else layer.shades[order]
        mapping = {} if layer.shades is None else {"cmap": "cividis", **limits}
        dots = axis.scatter(
            *layer.points[order, :2].T,
            c=shades,
            s=(0.65 * layer.size) ** 2,
            linewidths=0,
            **mapping,
        )
        return None if layer.shades is None else dots
    from matplotlib.colors import LinearSegmentedColormap

    nearest_last = np.argsort(layer.points[layer.triangles][..., 2].mean(axis=1), kind="stable")
    triangles = layer.triangles[nearest_last]
    if layer.shades is not None:
        return axis.tripcolor(
            *layer.points[:, :2].T,
            triangles,
            facecolors=layer.shades[triangles].mean(axis=1),
            cmap="cividis",
            **limits,
        )
    lit = LinearSegmentedColormap.from_list("lit", ["black", layer.colour or GREY, "white"])
    light = surface_light(layer.points, triangles)
    axis.tripcolor(
        *layer.points[:, :2].T, triangles, facecolors=light, cmap=lit, vmin=-0.2, vmax=1.2
    )
    return None
