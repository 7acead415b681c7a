"""What the exercises of notebook 08 are checked by."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.spatial import ConvexHull, cKDTree
from scipy.spatial.transform import Rotation

from drfer.course.checks import NOT_DONE, Exercise
from drfer.datasets.clouds import visible_points
from drfer.preprocessing import template

CAMERA = np.array([0.0, 0.0, 600.0])
SPARSE = 500
"""Points of the sparse face of exercise 3."""
AGREE = 92.0
"""Percent of them that have to be as on the dense face."""
NEAR = 6.0
"""mm within which a completed face of exercise 4 has to lie."""


def _roll(degrees: float) -> np.ndarray:
    return Rotation.from_euler("z", degrees, degrees=True).as_matrix()


def _share(distance: float, radius: float) -> float:
    return 100 * (1 - radius / distance) / 2


@cache
def _turned_templates() -> list[tuple[np.ndarray, np.ndarray]]:
    """The common mesh's first vertices, turned, and which of them are seen among all."""
    dense = template.load().vertices.astype(np.float64)
    turned = [
        dense @ Rotation.from_euler("y", degrees, degrees=True).as_matrix().T
        for degrees in (50, -70)
    ]
    return [(points[:SPARSE], visible_points(points, CAMERA)[:SPARSE]) for points in turned]


def _judge_exponent(exponent) -> str | None:
    if not np.isscalar(exponent) or not np.isfinite(float(exponent)):
        return f"a number is wanted, not {exponent}."
    for points, truly_seen in _turned_templates():
        away = points - CAMERA
        distance = np.linalg.norm(away, axis=1, keepdims=True)
        flipped = away * (2 * 10 ** float(exponent) * distance.max() / distance - 1)
        seen = np.isin(
            np.arange(len(points)), ConvexHull(np.vstack([flipped, 0 * CAMERA])).vertices
        )
        agree = 100 * (seen == truly_seen).mean()
        if agree < AGREE:
            as_dense = f"{agree:.0f} % of them are as on the dense face."
            if seen.mean() > truly_seen.mean():
                return f"it keeps too many points: {as_dense} Hint: a smaller sphere hides more."
            return (
                f"it loses too many points: {as_dense} Hint: the sphere is too small, and points "
                "that are seen end inside the hull."
            )
    return None


def _judge_completed(function) -> str | None:
    generator = np.random.default_rng()
    for side in (-1, 1):
        x, y = generator.uniform(-70, 70, 40_000), generator.uniform(-90, 90, 40_000)
        bend = generator.uniform(60, 90)
        nose = 25 * np.exp(-(x**2) / 200 - (y + 5) ** 2 / 500)
        dense = np.stack([x, y, nose - (x / bend) ** 2 * 30 - (y / 90) ** 2 * 20], axis=1)
        whole = dense[:3000]
        seen = whole[side * whole[:, 0] > generator.uniform(-25, -5)]
        answer = function(seen.copy())
        if answer is None:
            return NOT_DONE
        answer = np.asarray(answer, dtype=np.float64)
        if answer.ndim != 2 or answer.shape[1] != 3:
            return f"points (m, 3) are wanted, not an array of shape {answer.shape}."
        if not np.isfinite(answer).all():
            return "some coordinates are no numbers."
        off_face = cKDTree(dense).query(answer)[0].max()
        if off_face > NEAR:
            return f"a point of your answer lies {off_face:.0f} mm off the whole face."
        if cKDTree(answer).query(seen)[0].max() > NEAR / 2:
            return "points that were seen have gone."
        to_seen = cKDTree(seen).query(answer)[0]
        if ((1e-6 < to_seen) & (to_seen < 1)).mean() > 0.01:
            return "some of your new points lie where the face was seen already."
        far = cKDTree(answer).query(whole)[0].max()
        if far > 2 * NEAR:
            return f"a part of the whole face is still {far:.0f} mm away from your points."
    return None


EXERCISES = {
    1: Exercise(
        right=_roll,
        on=lambda: [(30,), (-75,), (float(np.random.default_rng().uniform(-90, 90)),)],
        hint="z stays; at 90 degrees the x axis goes to y",
    ),
    2: Exercise(
        right=_share,
        on=lambda: [(600.0, 100.0), (250.0, 100.0), (1e6, 80.0)],
        hint="the last rays that hit the ball touch it",
    ),
    3: Exercise(judge=_judge_exponent),
    4: Exercise(judge=_judge_completed, hint="a face is nearly its own mirror image in x"),
}
