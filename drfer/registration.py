"""Rigid registration of a scan to the common mesh, without landmarks.

Two faces differ in shape, so the best rigid fit of one to the other depends on whose jaw is open and whose brows are
heavy. Here the template may bend along its principal modes of shape while it is fitted, and only the pose is kept:
the pose of a face then does not depend on its expression. (A purely rigid ICP on the region that expressions move
least left twice the error; docs/anny3dfe.md has the figures.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import small_gicp
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from drfer import template as common_mesh
from drfer.scan import FaceScan


@dataclass(frozen=True)
class RegistrationSettings:
    """Lengths in mm."""

    coarse_reach: tuple[float, ...] = (30.0, 15.0, 8.0)
    """largest distance of paired points in the rigid alignment of the whole face, step by step"""
    starts: tuple[tuple[float, float], ...] = ((0, 0), (0, -30), (0, 30), (-25, 0), (25, 0), (0, -60))
    """how far to the left of the scan's middle, and above it, the template's starts"""
    reach: tuple[float, ...] = (15.0, 12.0, 9.0, 6.0, 5.0, 4.0)
    """the same while pose and shape are fitted; the last one holds for the steps after it"""
    steps: int = 30
    """at most; fewer if pose and shape come to rest"""
    stiffness: tuple[float, float] = (40.0, 1.0)
    """distance that weighs as much as one standard deviation of shape, in the first step and at the end: the
    template starts nearly rigid and softens by 30 % a step"""
    sure_residual: float = 1.5
    sure_strain: float = 1.9
    """a fit below both needs no other start: the open faces reach 1.4 mm and 1.9"""
    largest_residual: float = 1.7
    """a registration whose paired vertices lie further from the scan than this (root mean square) is refused"""
    largest_strain: float = 2.5
    """one that bends the template more than this (root mean square, in standard deviations of shape) likewise"""


@dataclass(frozen=True)
class Registration:
    """pose: (4, 4), scan -> template frame, mm. residual: root mean square distance, mm, of the fitted template's
    vertices from the scan points they are paired with; infinite if less than half of them find any. strain: how far
    the template was bent, root mean square over its modes, in standard deviations."""

    pose: np.ndarray
    residual: float
    strain: float


def register(scan: FaceScan, settings: RegistrationSettings = RegistrationSettings()) -> Registration:
    """Rigid ICP of the whole face, then pose and shape together; the shape is dropped.

    A collar or hair moves the scan's middle, and ICP may end in a false minimum: if the fit does not convince, the
    next start is tried, and the least bad one is returned if none does.
    """
    tried = []
    for start in settings.starts:
        tried.append(_fit_pose_and_shape(scan, _coarse_pose(scan, start, settings), settings))
        if tried[-1].residual < settings.sure_residual and tried[-1].strain < settings.sure_strain:
            break
    return min(tried, key=lambda one: one.residual * max(one.strain, 1))


def _coarse_pose(scan: FaceScan, start: tuple[float, float], settings: RegistrationSettings) -> np.ndarray:
    """Middles together but for a shift, then ICP from the template to the scan."""
    template, vertices = _coarse_template()
    points = scan.points.astype(np.float64)
    thinned, tree = small_gicp.preprocess_points(points, downsampling_resolution=6.0)
    pose = np.eye(4)
    pose[:3, 3] = np.median(points, axis=0) - np.median(vertices, axis=0) + [*start, 0]
    for reach in settings.coarse_reach:
        pose = small_gicp.align(
            thinned, template, tree, pose, "ICP", max_correspondence_distance=reach, max_iterations=20
        ).T_target_source
    return np.linalg.inv(pose)


def _fit_pose_and_shape(scan: FaceScan, pose: np.ndarray, settings: RegistrationSettings) -> Registration:
    """Point-to-plane ICP from the template to the scan whose Gauss-Newton steps also move the shape: minimises
    sum of (n . (R x + t - m - B c) / stiffness)^2 + |c|^2 over rotation R, shift t and shape c, where x, n are the
    scan's point and normal nearest to the template's vertex m + B c.

    From the template to the scan, never the other way round: so hair, collar and crop, which differ from scan to
    scan, have no say.
    """
    mean, modes = _shape_model()
    cloud, _ = small_gicp.preprocess_points(scan.points.astype(np.float64), downsampling_resolution=2.0)
    points, normals = cloud.points()[:, :3], cloud.normals()[:, :3]
    tree = cKDTree(points)
    rotation, shift, shape = pose[:3, :3], pose[:3, 3], np.zeros(len(modes))
    for step in range(settings.steps):
        fitted = mean + np.tensordot(shape, modes, axes=1)
        distance, nearest = tree.query((fitted - shift) @ rotation)
        paired = distance < settings.reach[min(step, len(settings.reach) - 1)]
        if paired.sum() < len(mean) / 2:
            return Registration(_matrix(rotation, shift), float("inf"), float("inf"))
        nearest = nearest[paired]
        place, normal = points[nearest] @ rotation.T + shift, normals[nearest] @ rotation.T
        first, last = settings.stiffness
        stiffness = max(last, first * 0.7**step)
        turn, push, shape = _step(place, normal, mean[paired], modes[:, paired], stiffness)
        rotation, shift = turn @ rotation, turn @ shift + push
        if stiffness == last and np.abs(turn - np.eye(3)).max() < 2e-4 and np.abs(push).max() < 0.02:
            break
    return Registration(_matrix(rotation, shift), _root_mean_square(distance[paired]), _root_mean_square(shape))


def _step(place, normal, mean, modes, stiffness):
    """One linear least squares problem: rotation (3, 3), shift (3,), shape (k,)."""
    jacobian = np.concatenate(
        [np.cross(place, normal), normal, -np.einsum("nd,knd->nk", normal, modes)], axis=1
    )  # of n . (place + turn x place + push - mean - modes c)
    offset = ((mean - place) * normal).sum(axis=1)
    system = jacobian.T @ jacobian / stiffness**2
    system[6:, 6:] += np.eye(len(modes))
    solution = np.linalg.solve(system, jacobian.T @ offset / stiffness**2)
    return Rotation.from_rotvec(solution[:3]).as_matrix(), solution[3:6], solution[6:]


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _matrix(rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, shift
    return pose


@lru_cache(maxsize=1)
def _coarse_template():
    template = common_mesh.load()
    vertices = template.vertices[template.fitted].astype(np.float64)
    return small_gicp.PointCloud(vertices), vertices


@lru_cache(maxsize=1)
def _shape_model() -> tuple[np.ndarray, np.ndarray]:
    template = common_mesh.load()
    return template.vertices[template.fitted].astype(np.float64), template.modes.astype(np.float64)
