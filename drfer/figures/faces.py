"""The one drawer of faces: scans, registered meshes and clouds, all as shaded surfaces.

Every face is seen from the front (+z is towards the viewer), without perspective, and lit from above
the viewer's left shoulder. Panels of one figure have one scale, so that a dropped jaw is longer than
a shut one. `mesh_trace` hands the same surface to plotly, for live pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import TriMesh
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from drfer.datasets.scan import FaceScan
from drfer.figures.shading import CREASES, Surface, surface
from drfer.figures.style import COLOURS, HALO, NORMAL, SMALL, literal, look, sheet

CLAY = "#DAD2C8"
"""The colour of a face that has none."""

FACE = (-80.0, 80.0, -97.0, 91.0)
MOUTH = (-42.0, 42.0, -74.0, -6.0)
BROWS = (-55.0, 55.0, 6.0, 70.0)
"""What a panel shows of registered faces: left, right, lower and upper edge in mm."""

Window = tuple[float, float, float, float]

_LIGHTING = {"ambient": 0.28, "diffuse": 0.68, "specular": 0.03, "fresnel": 0.0}
_PLOTLY_LAMP = {"x": -60_000, "y": 80_000, "z": -300}
"""The same lamp: with an orthographic camera plotly counts depth far more, and the other way round."""


def draw_face(
    axes: Axes,
    face: Surface,
    colour: str = CLAY,
    values: np.ndarray | None = None,
    scale: tuple[float, float] | None = None,
    window: Window | None = FACE,
) -> ScalarMappable | None:
    """Draw a face into a panel, near parts over far ones.

    Args:
        axes: the panel.
        face: what is drawn.
        colour: of the face, if it has no values.
        values: one for each point, shape (n,), such as a displacement in mm, shown as colour; nan
            is shown as the colour of a face without values.
        scale: the values that the ends of the colour scale stand for; by default the extremes. A
            scale from -x to x has two colours with a light middle.
        window: left, right, lower and upper edge of what the panel shows, in mm; with it the panel
            has no axes. None leaves edges and axes as they are.

    Returns:
        What `matplotlib.figure.Figure.colorbar` needs for a legend of the values, or None.
    """
    mapped = None if values is None else _mapped(values, scale)
    shades = face.brightness[:, None]
    if mapped is None:
        colours = np.array(to_rgb(colour)) * shades
    else:  # less shade, so that the colours are still those of the legend
        known = np.isfinite(values)[:, None]
        colours = np.where(known, mapped.to_rgba(values)[:, :3], to_rgb(CLAY))
        colours = colours * (0.4 + 0.6 * shades)
    far_first = np.argsort(face.points[face.triangles, 2].mean(axis=1), kind="stable")
    x, y, _ = face.points.T
    if len(face.triangles):
        mesh = TriMesh(Triangulation(x, y, face.triangles[far_first]), rasterized=True)
        mesh.set_facecolor(np.column_stack([np.clip(colours, 0, 1), np.ones(len(x))]))
        # the limits of all its triangles are those of their points, which takes a thousandth as long
        axes.add_collection(mesh, autolim=False)
        axes.update_datalim(face.points[:, :2])
    if window is not None:
        axes.set(xlim=window[:2], ylim=window[2:])
        axes.axis("off")
    axes.set_aspect("equal")
    return mapped


def mesh_trace(face: Surface, colour: str = CLAY, values: np.ndarray | None = None) -> dict:
    """Return plotly's trace of a face, lit by the same lamp.

    Args:
        face: what is drawn.
        colour: of the face, if it has no values.
        values: one for each point, shape (n,), that the figure's `coloraxis` turns into colours; nan
            counts as 0.
    """
    short = np.uint16 if len(face.points) < 2**16 else np.int32  # less to send to the browser
    triangles = face.triangles if len(face.triangles) else np.zeros((1, 3))
    trace = {
        "type": "mesh3d",
        "hoverinfo": "skip",
        "lighting": _LIGHTING,
        "lightposition": _PLOTLY_LAMP,
    }
    trace |= dict(zip("xyz", face.points.T.astype(np.float32)))
    trace |= dict(zip("ijk", triangles.T.astype(short)))
    if values is not None:
        known = np.nan_to_num(values).astype(np.float32)
        return trace | {"intensity": known, "coloraxis": "coloraxis"}
    if (face.creases == 1).all():  # one colour is less to send and to draw
        return trace | {"color": colour}
    ends = np.clip(np.outer(CREASES, to_rgb(colour)), 0, 1)
    return trace | {
        "intensity": face.creases.astype(np.float32),
        "cmin": CREASES[0],
        "cmax": CREASES[1],
        "colorscale": [[0, to_hex(ends[0])], [1, to_hex(ends[1])]],
        "showscale": False,
    }


def colour_map(scale: tuple[float, float]) -> str:
    """Return the name, the same in matplotlib and plotly, of the colours of values on faces.

    Args:
        scale: least and largest value; if they are -x and x, the colours have a light middle.
    """
    return "RdBu_r" if scale[0] == -scale[1] else "YlOrRd"


def windows(clouds: Sequence[np.ndarray]) -> list[Window]:
    """Return for each cloud a window around its middle, all equally large.

    Stray points, the outermost hundredth at each side, do not count.

    Args:
        clouds: shape (n, 3) each, mm.
    """
    ends = np.array([np.percentile(cloud[:, :2], (1, 99), axis=0) for cloud in clouds])
    half = 0.56 * (ends[:, 1] - ends[:, 0]).max(axis=0)
    edges = np.stack([ends.mean(axis=1) - half, ends.mean(axis=1) + half], axis=2)
    return [tuple(four) for four in edges.reshape(-1, 4).tolist()]


def scale_bar(axes: Axes, length: float = 50) -> None:
    """Draw a bar of so many mm at the lower left of a panel."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    x, y = left + 0.03 * (right - left), low + 0.02 * (high - low)
    axes.plot([x, x + length], [y, y], color="black", linewidth=1.2, solid_capstyle="butt")
    y += 0.01 * (high - low)
    axes.text(x, y, f"{length:g} mm", size=6, va="bottom", path_effects=[HALO])


@look()
def scan_sheet(scans: list[list[FaceScan]], title: str) -> Figure:
    """Return a figure of raw scans in the poses that they came in, all in one scale.

    Args:
        scans: rows of scans, such as one row a subject.
        title: of the whole figure.
    """
    columns = max(len(row) for row in scans)
    figure, panels = sheet(len(scans), columns, (1.75 * columns, 2.15 * len(scans) + 0.4))
    edges = iter(windows([scan.points for row in scans for scan in row]))
    for row, axes in zip(scans, panels):
        for scan, panel in zip(row, axes):
            mesh = simplified(scan.points, scan.triangles)
            draw_face(panel, surface(*mesh), window=next(edges))
            colour = COLOURS.get(scan.key.expression, "black")
            panel.set_title(literal(str(scan.key), 40), size=SMALL, color=colour)
        for panel in axes[len(row) :]:
            panel.axis("off")
    scale_bar(panels[0, 0])
    figure.suptitle(literal(title), size=NORMAL)
    return figure


def simplified(points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a mesh; if it has more points than a panel has pixels, one for each small cube."""
    if len(points) < 60_000:
        return points, triangles
    low, high = np.percentile(points, (1, 99), axis=0)
    cubes = np.floor((points - low) / ((high - low).max() / 200 + 1e-12))
    _, first, cube = np.unique(cubes, axis=0, return_index=True, return_inverse=True)
    triangles = cube.reshape(-1)[triangles]
    a, b, c = triangles.T
    return points[first], triangles[(a != b) & (b != c) & (c != a)]


def _mapped(values: np.ndarray, scale: tuple[float, float] | None) -> ScalarMappable:
    low, high = scale if scale else (float(np.nanmin(values)), float(np.nanmax(values)))
    return ScalarMappable(Normalize(low, high), colour_map((low, high)))
