"""Surfaces of scans, meshes and clouds, and how bright each point of them appears.

`drfer.figures.faces` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from drfer.datasets.clouds import triangulated

LAMP = np.array([-0.36, 0.48, 0.80])
"""Direction to the lamp, of length 1: above the viewer's left shoulder."""

_AMBIENT, _DIFFUSE, _FILL = 0.2, 0.56, 0.3
_FILL_LAMP = np.array([0.40, -0.35, 0.85])
"""A weak second lamp, from the right, so that the far cheek is not black."""

CREASES = (0.55, 1.2)
"""How dark a crease and how light a ridge can be, beside a flat place."""

_DETAIL = 0.04
"""What is smaller than this share of a face's extent (6 mm) is taken for noise when it is shaded."""

_DECISIVE = 0.2
"""Share of all normals, by area, that has to look at the viewer or away to say which side is out."""

_MOST = 24
"""Neighbours of a point at most: a live picture has to answer at once."""


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


def surface(
    points: np.ndarray, triangles: np.ndarray | None = None, smooth: bool = True
) -> Surface:
    """Return the surface of a mesh, or of a cloud.

    A cloud is triangulated in a plane, and triangles with long edges are left out: those that span
    the open mouth, a hole, or the gap between the nose and the cheek behind it. Normals are those of
    planes fitted to each point's neighbours, which does without the noise of scanners and decoders.

    Args:
        points: shape (n, 3), mm, +y up and +z towards the viewer.
        triangles: indices of points, shape (m, 3), of a mesh; None for a cloud.
        smooth: whether noise is smoothed away and creases are darkened, which takes 60 ms for a
            scan of 7,500 points.
    """
    points = np.asarray(points, dtype=np.float64)
    triangles = triangulated(points) if triangles is None else np.asarray(triangles)
    facing = _normals_of_mesh(points, triangles)
    if _is_inside_out(points, facing):  # some formats wind their triangles the other way round
        triangles, facing = triangles[:, ::-1], -facing
    facing[~facing.any(axis=1)] = (0, 0, 1)  # those that no triangle has look at the viewer
    if len(points) < 3 or not smooth:
        length = np.linalg.norm(facing, axis=1, keepdims=True)
        facing = facing / np.maximum(length, 1e-12)
        return Surface(points, triangles, facing, np.ones(len(points)))
    neighbours, weights = _neighbours(points)
    middle, normals = _fitted_planes(points, neighbours, weights)
    normals *= np.where((normals * facing).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    above = ((middle - points) * normals).sum(axis=1, keepdims=True)
    smooth = points + above / 2 * normals
    return Surface(points, triangles, normals, _creases(smooth, normals, neighbours, weights))


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


def _is_inside_out(points: np.ndarray, facing: np.ndarray) -> bool:
    """Whether normals (n, 3), as long as their triangles are large, point into the face.

    Those of a face look at the viewer; those of a whole head cancel out, and point away from its
    middle.
    """
    towards = facing[:, 2].sum()
    if abs(towards) > _DECISIVE * np.linalg.norm(facing, axis=1).sum():
        return bool(towards < 0)
    return len(points) > 0 and bool((facing * (points - points.mean(axis=0))).sum() < 0)


def _normals_of_mesh(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Sum of the normals of each point's triangles, by area, shape (n, 3)."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    corners = triangles.ravel()
    sums = [
        np.bincount(corners, weights=np.repeat(axis, 3), minlength=len(points)) for axis in across.T
    ]
    return np.stack(sums, axis=1)


def _neighbours(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point's neighbours as indices and weights, (n, k) each: those within the detail drawn."""
    low, high = np.percentile(points, (2, 98), axis=0)
    distance, neighbours = cKDTree(points).query(points, k=min(_MOST, len(points)))
    spacing = np.median(distance[:, 1])
    within = 3 * (_DETAIL * (high - low).max() / max(spacing, 1e-12)) ** 2
    count = int(np.clip(within, 9, _MOST))
    distance, neighbours = distance[:, :count], neighbours[:, :count]
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
    length = np.sqrt(np.einsum("nki,nki->nk", away, away))
    rise = np.einsum("nki,ni->nk", away, normals) / (length + 1e-12)
    smooth = (weights * rise.mean(axis=1)[neighbours]).sum(axis=1)
    return np.clip(np.exp(-3 * smooth), *CREASES)
