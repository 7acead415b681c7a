"""The one drawer of faces: scans, registered meshes and clouds, all as shaded surfaces.

Every face is seen from the front (+z is towards the viewer), without perspective, and lit from above
the viewer's left shoulder. Panels of one figure have one scale, so that a dropped jaw is longer than
a shut one. `mesh_trace` hands the same surface to plotly, for live pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import TriMesh
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation
from scipy.spatial import Delaunay, QhullError, cKDTree

from drfer.datasets.scan import FaceScan
from drfer.figures.style import COLOURS, NORMAL, SMALL, literal, look, sheet

CLAY = "#DAD2C8"
"""The colour of a face that has none."""

LAMP = np.array([-0.36, 0.48, 0.80])
"""Direction to the lamp, of length 1: above the viewer's left shoulder."""

FACE = (-80.0, 80.0, -97.0, 91.0)
MOUTH = (-42.0, 42.0, -74.0, -6.0)
BROWS = (-55.0, 55.0, 6.0, 70.0)
"""What a panel shows of registered faces: left, right, lower and upper edge in mm."""

Window = tuple[float, float, float, float]

_AMBIENT, _DIFFUSE, _FILL = 0.2, 0.56, 0.3
_FILL_LAMP = np.array([0.40, -0.35, 0.85])
"""A weak second lamp, from the right, so that the far cheek is not black."""

_CREASES = (0.55, 1.2)
"""How dark a crease and how light a ridge can be, beside a flat place."""

_DETAIL = 0.04
"""What is smaller than this share of a face's extent (6 mm) is taken for noise when it is shaded."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A face as it is drawn; `surface` makes one.

    Attributes:
        points: shape (n, 3), mm.
        triangles: indices of points, shape (m, 3), anticlockwise seen from outside.
        normals: outward directions of length 1, shape (n, 3).
        creases: factors of brightness, shape (n,): below 1 in a crease, above 1 on a ridge.
    """

    points: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray
    creases: np.ndarray

    @property
    def brightness(self) -> np.ndarray:
        """How bright each point appears, shape (n,), about 0.1 to 1.2."""
        lit = np.clip(self.normals @ LAMP, 0, None)
        filled = np.clip(self.normals @ _FILL_LAMP, 0, None)
        return (_AMBIENT + _DIFFUSE * lit + _FILL * filled) * self.creases


def surface(points: np.ndarray, triangles: np.ndarray | None = None) -> Surface:
    """Return the surface of a mesh, or of a cloud.

    A cloud is triangulated in a plane, and triangles with long edges are left out: those that span
    the open mouth, a hole, or the gap between the nose and the cheek behind it. Normals are those of
    planes fitted to each point's neighbours, which does without the noise of scanners and decoders.

    Args:
        points: shape (n, 3), mm, +y up and +z towards the viewer.
        triangles: indices of points, shape (m, 3), of a mesh; None for a cloud.
    """
    points = np.asarray(points, dtype=np.float64)
    triangles = triangulated(points) if triangles is None else np.asarray(triangles)
    facing = _normals_of_mesh(points, triangles)
    if facing[:, 2].sum() < 0:  # some formats wind their triangles the other way round
        triangles, facing = triangles[:, ::-1], -facing
    facing[~facing.any(axis=1)] = (0, 0, 1)  # those that no triangle has look at the viewer
    if len(points) < 3:
        return Surface(points, triangles, facing, np.ones(len(points)))
    neighbours, weights = _neighbours(points)
    middle, normals = _fitted_planes(points, neighbours, weights)
    normals *= np.where((normals * facing).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    above = ((middle - points) * normals).sum(axis=1, keepdims=True)
    smooth = points + above / 2 * normals
    return Surface(points, triangles, normals, _creases(smooth, normals, neighbours, weights))


def triangulated(cloud: np.ndarray) -> np.ndarray:
    """Return triangles of a cloud, shape (m, 3), anticlockwise seen from outside.

    They are found in the face's own frontal plane, also when it is turned, and those with an edge
    that is long beside the cloud's spacing, in the plane or in space, are left out.

    Args:
        cloud: shape (n, 3), in any unit.
    """
    nothing = np.empty((0, 3), dtype=int)
    if len(cloud) < 8:
        return nothing
    spacing = cKDTree(cloud).query(cloud, k=7)[0][:, -1]
    usual = np.median(spacing)
    spacing = np.clip(spacing, usual, 2 * usual)  # the sixth neighbour of a point at a rim is far
    plane = cloud @ _own_axes(cloud)[:2].T
    try:
        triangles = Delaunay(plane).simplices
    except QhullError:  # all points are on one line
        return nothing
    a, b, c = (plane[triangles[:, corner]] for corner in range(3))
    (x, y), (u, v) = (b - a).T, (c - a).T
    triangles = np.where((x * v - y * u < 0)[:, None], triangles[:, ::-1], triangles)
    ends = triangles, np.roll(triangles, 1, axis=1)
    in_plane = np.linalg.norm(plane[ends[0]] - plane[ends[1]], axis=-1)
    in_space = np.linalg.norm(cloud[ends[0]] - cloud[ends[1]], axis=-1)
    near = (spacing[ends[0]] + spacing[ends[1]]) / 2
    return triangles[((in_plane < 1.3 * near) & (in_space < 2.8 * near)).all(axis=1)]


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
        colours = np.where(known, mapped.to_rgba(values)[:, :3], to_rgb(CLAY)) * (
            0.4 + 0.6 * shades
        )
    far_first = np.argsort(face.points[face.triangles, 2].mean(axis=1), kind="stable")
    x, y, _ = face.points.T
    if len(face.triangles):
        mesh = TriMesh(Triangulation(x, y, face.triangles[far_first]), rasterized=True)
        mesh.set_facecolor(np.column_stack([np.clip(colours, 0, 1), np.ones(len(x))]))
        axes.add_collection(mesh)
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
    ends = [
        "rgb({})".format(
            ",".join(str(round(255 * min(factor * part, 1))) for part in to_rgb(colour))
        )
        for factor in _CREASES
    ]
    return trace | {
        "intensity": face.creases.astype(np.float32),
        "cmin": _CREASES[0],
        "cmax": _CREASES[1],
        "colorscale": [[0, ends[0]], [1, ends[1]]],
        "showscale": False,
    }


_LIGHTING = {"ambient": 0.28, "diffuse": 0.68, "specular": 0.03, "fresnel": 0.0}
_PLOTLY_LAMP = {"x": -60_000, "y": 80_000, "z": -300}
"""The same lamp: with an orthographic camera plotly counts depth far more, and the other way round."""


def colour_map(scale: tuple[float, float]) -> str:
    """Return the name, the same in matplotlib and plotly, of the colours of values on faces.

    Args:
        scale: least and largest value; if they are -x and x, the colours have a light middle.
    """
    return "RdBu_r" if scale[0] == -scale[1] else "YlOrRd"


def displacement(points: np.ndarray, reference: Surface) -> np.ndarray:
    """Return how far points lie outside a reference surface, shape (n,), negative inside.

    This is the distance to the tangent plane at the nearest point of the reference, so that it does
    not matter where on the surface either was sampled. It is nan where the reference ends.

    Args:
        points: shape (n, 3), mm.
        reference: the surface to measure from, such as a neutral face.
    """
    tree = cKDTree(reference.points)
    nearest = tree.query(points)[1]
    away = points - reference.points[nearest]
    outside = (away * reference.normals[nearest]).sum(axis=1)
    aside = np.linalg.norm(away - outside[:, None] * reference.normals[nearest], axis=1)
    spacing = np.median(tree.query(reference.points, k=2)[0][:, 1])
    return np.where(aside < 2 * spacing, outside, np.nan)


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
    axes.text(x, y + 0.01 * (high - low), f"{length:g} mm", size=6, va="bottom")


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
            draw_face(panel, surface(scan.points, scan.triangles), window=next(edges))
            colour = COLOURS.get(scan.key.expression, "black")
            panel.set_title(literal(str(scan.key), 40), size=SMALL, color=colour)
        for panel in axes[len(row) :]:
            panel.axis("off")
    scale_bar(panels[0, 0])
    figure.suptitle(literal(title), size=NORMAL)
    return figure


def _mapped(values: np.ndarray, scale: tuple[float, float] | None) -> ScalarMappable:
    low, high = scale if scale else (float(np.nanmin(values)), float(np.nanmax(values)))
    return ScalarMappable(Normalize(low, high), colour_map((low, high)))


def _own_axes(cloud: np.ndarray) -> np.ndarray:
    """Axes (3, 3), one a row, the last of them across the flattest plane, towards the viewer."""
    across = np.linalg.eigh(np.cov(cloud.T))[1][:, 0]
    across = across if across[2] >= 0 else -across
    along = np.cross([0.0, 1.0, 0.0] if abs(across[1]) < 0.9 else [0.0, 0.0, -1.0], across)
    along /= np.linalg.norm(along)
    return np.stack([along, np.cross(across, along), across])


def _normals_of_mesh(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Sum of the normals of each point's triangles, by area, shape (n, 3)."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], across)
    return normals


def _neighbours(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point's neighbours as indices and weights, (n, k) each: those within the detail drawn."""
    low, high = np.percentile(points, (2, 98), axis=0)
    tree = cKDTree(points)
    spacing = np.median(tree.query(points, k=2)[0][:, 1])
    within = 3 * (_DETAIL * (high - low).max() / max(spacing, 1e-12)) ** 2
    count = min(int(np.clip(within, 9, 36)), len(points))
    distance, neighbours = tree.query(points, k=count)
    weights = np.exp(-((distance / (0.7 * distance[:, -1:] + 1e-12)) ** 2))
    return neighbours, weights / weights.sum(axis=1, keepdims=True)


def _fitted_planes(
    points: np.ndarray, neighbours: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Middle and normal, (n, 3) each, of the plane through each point's neighbours."""
    middle = np.einsum("nk,nki->ni", weights, points[neighbours])
    away = points[neighbours] - middle[:, None]
    spread = np.einsum("nk,nki,nkj->nij", weights, away, away)
    return middle, np.linalg.eigh(spread)[1][:, :, 0]


def _creases(
    points: np.ndarray, normals: np.ndarray, neighbours: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Factors of brightness: dark where the neighbours rise above a point's tangent plane."""
    away = points[neighbours[:, 1:]] - points[:, None]
    rise = np.einsum("nki,ni->nk", away, normals) / (np.linalg.norm(away, axis=2) + 1e-12)
    smooth = (weights * rise.mean(axis=1)[neighbours]).sum(axis=1)
    return np.clip(np.exp(-3 * smooth), *_CREASES)
