"""How far faces lie from a target's surface, wherever on it their points are.

Two samples of one surface have their points some millimetres apart, and two scans of one face end at
other borders. So points are held against surfaces, and only in the region that scans share.

Used in notebook 09.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from drfer.common.errors import DrferError
from drfer.fast.points import along_curve, farthest_point_order
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.surface import nearest_on_surface

SHARED = 0.98
"""Vertices that so many of the scans have are in the region. At any place some scan has one of its
random holes; and where a border may lie, one scan in fifty is enough to leave it out."""
COMMON = 0.5
"""Vertices that so many of the scans have bear a target's surface, as they bear mean faces."""
CANDIDATES = 8
"""A sample is chosen from so many times its points."""


class Region:
    """The part of the template that almost all scans of one expression have.

    It ends before the borders of the scans: crop, hairline, nostrils, an open mouth.

    Attributes:
        shared: the template's first vertices that are in it, shape (V,).
        common: those that at least half of the scans have, shape (V,).
    """

    def __init__(self, missing: np.ndarray) -> None:
        """Find it.

        Args:
            missing: which of the template's first vertices each scan has no surface for, (n, V).

        Raises:
            DrferError: no vertex is in the region.
        """
        seen = (~missing).mean(axis=0)
        self.shared, self.common = seen >= SHARED, seen >= COMMON
        if not self.shared.any():
            raise DrferError(
                f"{len(missing)} scans of one expression have no vertex in common: look at those "
                "that preprocessing doubts, and take bad ones away"
            )


@dataclass(frozen=True, eq=False)
class Surface:
    """A face that others are held against, as a mesh in the template's frame.

    Attributes:
        vertices: shape (n, 3), mm.
        triangles: those that most scans have, shape (t, 3).
        shared: which vertices are in the region, shape (n,).
        points: an even sample of the vertices in the region, shape (K, 3), mm.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    shared: np.ndarray
    points: np.ndarray


def surface_of_vertices(vertices: np.ndarray, missing: np.ndarray, region: Region) -> Surface:
    """Return the surface of a face that is known at the template's first vertices.

    Args:
        vertices: shape (V, 3), mm.
        missing: which of them are not known, shape (V,).
        region: what is compared.
    """
    triangles = common_mesh.load().coarse_triangles(len(vertices))
    return _surface(vertices, triangles, region.common & ~missing, region.shared & ~missing)


def surface_of_true_face(face: np.ndarray, region: Region) -> Surface:
    """Return the surface of a face that is known at all vertices of the template.

    The template's vertices are carried to the nearest points of a scan, so that the lower lip of an
    open mouth bears the vertices of the template's chin. A true face has it where it is. So a point
    of the face is in the region if the template's vertex that is nearest to it is.

    Args:
        face: shape (39923, 3), mm, in the template's frame.
        region: what is compared.
    """
    template = common_mesh.load()
    _, owner = _first_vertices(len(region.shared)).query(face)
    return _surface(
        face, template.triangles, region.common[owner], region.shared[owner], len(region.shared)
    )


def distances(faces: np.ndarray, target: Surface) -> np.ndarray:
    """Return how far faces lie from a target.

    It is the mean of two means over the region: of the distance of a face's points from the target's
    surface, and of that of the target's points from the surface that the face's points span. (Their
    Delaunay triangulation in the frontal plane spans it: points of a face hardly hide each other.)
    A face with no point in the region has the second alone.

    Args:
        faces: shape (B, P, 3), mm, in the template's frame.
        target: what they are held against.

    Returns:
        Distances, shape (B,), mm.
    """
    points = faces.reshape(-1, 3)
    corner, away = _to_surface(points, target.vertices, target.triangles)
    inside = target.shared[corner].reshape(faces.shape[:2])
    there = np.where(inside, away.reshape(inside.shape), 0).sum(axis=1)
    back = np.array([_to_spanned(target.points, face) for face in faces])
    count = inside.sum(axis=1)
    return np.where(count > 0, (there / np.maximum(count, 1) + back) / 2, back)


def sampled(target: Surface, points: int) -> np.ndarray:
    """Return an even sample of a target's surface, as a perfect answer would be.

    Random points in random triangles are drawn, and of those the ones taken that farthest point
    sampling chooses.

    Args:
        target: its triangles are about equally large.
        points: how many points the sample has.

    Returns:
        Points, shape (points, 3), float32, mm.
    """
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(target.triangles), size=CANDIDATES * points)
    weights = generator.dirichlet([1, 1, 1], len(chosen))[..., None]
    candidates = (target.vertices[target.triangles[chosen]] * weights).sum(axis=1)
    candidates = candidates.astype(np.float32)
    return candidates[farthest_point_order(candidates, points)]


def _surface(
    vertices: np.ndarray,
    triangles: np.ndarray,
    common: np.ndarray,
    shared: np.ndarray,
    first: int | None = None,
) -> Surface:
    """Keep what most scans have; the first vertices are the even sample."""
    triangles = triangles[common[triangles].all(axis=1)]
    return Surface(vertices, triangles, shared, vertices[:first][shared[:first]])


@lru_cache(maxsize=1)
def _first_vertices(count: int) -> cKDTree:
    return cKDTree(common_mesh.load().vertices[:count])


def _to_spanned(points: np.ndarray, face: np.ndarray) -> float:
    _, away = _to_surface(points, face, Delaunay(face[:, :2]).simplices)
    return away.mean()


def _to_surface(
    points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each point, and which corner of the nearest triangle is meant most.

    Several triangles may be nearest, which meet where it is; they agree on that corner.
    """
    order = along_curve(points)
    triangle, weights, nearest = nearest_on_surface(points, vertices, triangles, np.inf, order)
    corner = triangles[triangle, weights.argmax(axis=1)]
    return corner, np.linalg.norm(points - nearest, axis=1)
