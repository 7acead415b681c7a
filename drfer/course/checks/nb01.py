"""Checks of notebook 01."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from drfer.course.checks import NOT_DONE, Exercise, difference
from drfer.datasets.anny3dfe import Anny3DFE
from drfer.datasets.scan import ScanKey
from drfer.fast.points import farthest_point_order
from drfer.preprocessing import template


def _pose(rotation: Rotation, shift: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.as_matrix(), shift
    return pose


def _poses() -> list[tuple]:
    rng = np.random.default_rng()
    return [(_pose(Rotation.random(random_state=rng), rng.normal(0, 50, 3)),) for _ in range(5)]


def _way_back(answer) -> str | None:
    if not callable(answer):
        return "a function is wanted."
    for (pose,) in _poses():
        right = np.linalg.inv(pose)
        with patch.object(np.linalg, "inv", wraps=np.linalg.inv) as inverse:
            back = answer(pose.copy())
        if back is None:
            return NOT_DONE
        if off := difference(back, right, tolerance=1e-8):
            return f"{off} Hint: solve x' = R x + t for x."
        if inverse.called or answer is np.linalg.inv:
            return "the matrix is right, but `np.linalg.inv` made it: try it without."
    return None


def _weighted_pairs() -> list[tuple]:
    rng = np.random.default_rng()
    tried = []
    for mirror in (1, 1, -1):  # a fit may not mirror, even if that fits better
        points = rng.normal(0, (40, 60, 30), (80, 3))
        targets = Rotation.random(random_state=rng).apply(points * [mirror, 1, 1])
        targets = targets + rng.normal(0, 5, points.shape) + rng.normal(0, 30, 3)
        tried.append((points, targets, rng.uniform(0.1, 1, len(points))))
    return tried


def _weighted_fit(points, targets, weights):
    middle, target = (np.average(each, axis=0, weights=weights) for each in (points, targets))
    rotation, _ = Rotation.align_vectors(targets - target, points - middle, weights=weights)
    return _pose(rotation, target - rotation.apply(middle))


def _lost(answer) -> str | None:
    angles = np.asarray(answer, dtype=float)
    if angles.shape != (3,) or not np.isfinite(angles).all():
        return "three angles in degrees are wanted."
    rotation = Rotation.from_euler("xyz", angles, degrees=True)
    turned = np.degrees(rotation.magnitude())
    if turned > 75 + 1e-6:
        return f"this start is turned by {turned:.0f} degrees in all: at most 75 are allowed."
    key, database = ScanKey("M0002", "surprise", 4), Anny3DFE(subjects=12)
    points = database.load(key).points.astype(float)
    pose = _icp(points, rotation)
    rest = Rotation.from_matrix(pose[:3, :3] @ database.truth(key).pose[:3, :3])
    left = np.degrees(rest.magnitude())
    if left <= 20:
        return f"from there ICP comes home: {left:.0f} degrees are left."
    return None


def _icp(points: np.ndarray, rotation: Rotation, steps: int = 60) -> np.ndarray:
    """The notebook's ICP, from a start that lays the middles on each other."""
    mesh = template.load()
    lower_face, tree = mesh.vertices[mesh.fitted].astype(float), cKDTree(points)
    shift = np.median(lower_face, axis=0) - rotation.as_matrix() @ np.median(points, axis=0)
    pose = _pose(rotation, shift)
    for _ in range(steps):
        nearest = points[tree.query((lower_face - pose[:3, 3]) @ pose[:3, :3])[1]]
        pose = _weighted_fit(nearest, lower_face, np.ones(len(nearest)))
    return pose


def _covers(answer) -> str | None:
    rng = np.random.default_rng()
    for radius in (0.3, 0.7, 5.0):
        points = rng.normal(size=(400, 3))
        chosen = answer(points, radius)
        if chosen is None:
            return NOT_DONE
        chosen = np.asarray(chosen)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or len(chosen) == 0:
            return "a row of indices is wanted."
        order = farthest_point_order(points, len(points))
        farthest = [cKDTree(points[order[:k]]).query(points)[0].max() for k in range(1, 401)]
        count = int(np.argmax(np.array(farthest) <= radius)) + 1
        if len(chosen) != count:
            how = "many" if len(chosen) > count else "few"
            return f"with a radius of {radius} it has {len(chosen)} points, which is too {how}."
        if off := difference(chosen, order[:count]):
            return off
    return None


EXERCISES = {
    1: Exercise(judge=_way_back),
    2: Exercise(
        right=_weighted_fit,
        on=_weighted_pairs,
        tolerance=1e-6,
        hint="both means are weighted, and so is each pair in the product.",
    ),
    3: Exercise(judge=_lost),
    4: Exercise(judge=_covers, hint="stop as soon as no point is farther than the radius."),
}
"""By number."""
