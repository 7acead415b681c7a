"""What the notebooks' pictures are made of: panels of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drfer.figures.faces import Window, colour_map
from drfer.figures.shading import Surface, surface

Scale = tuple[float, float, str]
"""Least and largest value that colours stand for, and what they are, with the unit."""


_SMOOTHED_LIVE = 2500
"""Points of the largest surface whose shading is smoothed in a live picture."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One face, cloud, mesh, plane or curve of a panel.

    A mesh is drawn as a shaded surface, and so is a cloud without a colour, since it is a whole face;
    a cloud with a colour is drawn as dots.

    Attributes:
        points: shape (n, 3), mm, +y up and +z towards the viewer; or (n, 2), a plane of any unit.
        triangles: indices of points, shape (m, 3), of a mesh.
        colour: of all of it. Without it the values give the colours.
        values: one for each point, shape (n,), shown as colour. Dots without colour and values show
            their depth.
        size: of dots, in pixels.
        line: whether the points are joined to a line, which a row of NaN interrupts.
        dots: whether a cloud is drawn as dots, if not by the rule above.
        window: left, right, lower and upper edge, mm, of the part that the panel shows; None for all.
        name: what it is called in the picture's legend. Without one it is not in it.
        group: the heading under which the name stands there.
    """

    points: np.ndarray
    triangles: np.ndarray | None = None
    colour: str | None = None
    values: np.ndarray | None = None
    size: float = 3
    line: bool = False
    dots: bool | None = None
    window: Window | None = None
    name: str | None = None
    group: str = ""

    @property
    def is_flat(self) -> bool:
        """Whether it lies in a plane of two axes."""
        return self.points.shape[1] == 2

    @property
    def is_surface(self) -> bool:
        """Whether it is drawn as a shaded surface."""
        if self.is_flat or self.line or self.dots:
            return False
        return self.triangles is not None or self.dots is False or self.colour is None

    @cached_property
    def surface(self) -> Surface:
        """The surface that is drawn: of all points that are finite."""
        return surface(self.points[self._drawn], self.triangles)

    @cached_property
    def live_surface(self) -> Surface:
        """The same for a live picture, which has to answer at once: large ones are not smoothed."""
        points = self.points[self._drawn]
        return surface(points, self.triangles, smooth=len(points) <= _SMOOTHED_LIVE)

    @property
    def shades(self) -> np.ndarray | None:
        """What the colour scale is applied to, one for each point that is drawn, if anything is."""
        if self.is_surface:
            return None if self.values is None else self.values[self._drawn]
        if self.colour or self.line or (self.values is None and self.is_flat):
            return None
        return self.points[:, 2] if self.values is None else self.values

    @property
    def _drawn(self) -> np.ndarray | slice:
        """The points of a surface: all of a mesh, and of a cloud those that are there."""
        whole = self.triangles is not None
        return slice(None) if whole else np.isfinite(self.points).all(axis=1)


Picture = dict[str, list[Layer]]
"""Title -> layers of each panel, side by side."""


def named(panels: Iterable[tuple[str, list[Layer]]]) -> dict[tuple[str, str], Layer]:
    """Return what the legend of a picture holds: by group and name, the first layer of that name."""
    found = {}
    for _, layers in panels:
        for layer in layers:
            if layer.name is not None:
                found.setdefault((layer.group, layer.name), layer)
    return found


def colours_of(panels: Iterable[tuple[str, list[Layer]]], scale: Scale | None) -> str:
    """The colours of a picture's values: those of faces as soon as a face has values."""
    layers = [layer for _, layers in panels for layer in layers]
    if any(layer.is_surface and layer.values is not None for layer in layers):
        return colour_map(scale[:2] if scale else (0, 1))
    return "cividis"


def box(panels: Sequence[list[Layer]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest coordinates of what all layers show."""
    layers = [layer for layers in panels for layer in layers]
    points = np.concatenate([layer.points for layer in layers])
    window = next((layer.window for layer in layers if layer.window), None)
    if window is None:
        return np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    left, right, low, high = window
    x, y = points[:, :2].T
    seen = points[(left <= x) & (x <= right) & (low <= y) & (y <= high)]
    depth = (seen[:, 2].min(), seen[:, 2].max()) if len(seen) else (0.0, 0.0)
    return np.array([left, low, depth[0]]), np.array([right, high, depth[1]])
