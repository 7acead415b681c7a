"""Rigid registration of a scan to the common mesh, without landmarks.

Two faces differ in shape, so the best rigid fit of one to the other depends on whose jaw is open and whose brows are
heavy. Here the template may bend along its principal modes of shape while it is fitted, and only the pose is kept:
the pose of a face then does not depend on its expression. (A purely rigid ICP on the region that expressions move
least left twice the error; docs/anny3dfe.md has the figures.)

Always from the template to the scan, never the other way round: so hair, collar and crop, which differ from scan to
scan, have no say unless a vertex comes to lie near them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from drfer.datasets.scan import FaceScan
from drfer.preprocessing import template as common_mesh


@dataclass(frozen=True)
class RegistrationSettings:
    """Lengths in mm."""

    starts: tuple[tuple[float, float], ...] = tuple(product((0, -25, 25), (0, -30, 30, -60, 60)))
    """how far to the right of the scan's middle, and below it, the template's starts"""
    coarse_vertices: int = 200
    """that the coarse fit from a start takes; the template is nearly rigid in it"""
    coarse_reach: tuple[float, float] = (30.0, 10.0)
    """largest distance of paired points at the beginning and the end of a coarse fit"""
    coarse_steps: int = 15
    fine_reach: tuple[float, ...] = (15.0, 12.0, 9.0, 6.0, 5.0, 4.0)
    """the same while pose and shape are fitted; the last one holds for the steps after it"""
    fine_steps: int = 30
    """at most; fewer if pose and shape come to rest"""
    stiffness: tuple[float, float, float] = (40.0, 20.0, 1.0)
    """distance that weighs as much as one standard deviation of shape: in coarse fits, in the first fine step, and at
    the end: the template softens by 40 % a step"""
    smallest_cosine: float = 0.0
    """of the angle between the normals of paired points: hair and spikes have any normal (a stricter test makes false
    minima: at 0.5 four in a thousand undamaged faces ended in one)"""
    isolated: float = 3.0
    """points without a neighbour on the mesh within so many usual edges are spikes, and left out"""
    tried: int = 4
    """most promising starts whose fit is carried through if the first did not convince"""
    sure_cost: float = 3.2
    """a fit of less, in square mm, needs no other start: nine in ten of the open faces"""
    largest_residual: float = 1.5
    largest_strain: float = 1.9
    smallest_share: float = 0.5
    """a registration beyond any of these is doubtful: no good one of the open faces is"""


REFUSED_STRAIN, REFUSED_RESIDUAL = 2.6, 3.0
"""more strain, or a larger residual over share, is no face. Faces of people are not of the shapes that the template
bends to: open faces warped by waves of 3 mm reach 2.1 and 2.6, a hand has 3.1, a box a strain of 2.9"""


@dataclass(frozen=True)
class Registration:
    """pose: (4, 4), scan -> template frame, mm. residual: root mean square distance, mm, of the fitted template's
    vertices from the scan points they are paired with. strain: how far the template was bent, root mean square over
    its modes, in standard deviations. share: of the template's vertices, how many are paired. cost: what a good fit
    has little of: squared distances, the unpaired counted as the largest reach, and strain."""

    pose: np.ndarray
    residual: float
    strain: float
    share: float
    cost: float

    def is_doubtful(self, settings: RegistrationSettings) -> bool:
        """Whether someone should look at it: the face is damaged, unlike all open ones, or not where it was found."""
        return (
            self.residual > settings.largest_residual
            or self.strain > settings.largest_strain
            or self.share < settings.smallest_share
        )

    @property
    def is_refused(self) -> bool:
        """Whether it cannot be a face."""
        return not (
            self.strain <= REFUSED_STRAIN and self.residual <= REFUSED_RESIDUAL * self.share
        )


@dataclass(frozen=True)
class _Surface:
    """What a scan is paired by: points and normals (n, 3), towards the viewer."""

    points: np.ndarray
    normals: np.ndarray
    tree: cKDTree


def register(
    scan: FaceScan, settings: RegistrationSettings = RegistrationSettings()
) -> Registration:
    """Pose and shape together, coarsely and then finely; the shape is dropped.

    A collar or hair moves the scan's middle, and ICP may end in a false minimum: if the first fit does not convince,
    all starts are tried coarsely, the best of them finely, and the fit of least cost counts.
    """
    surface = _surface(scan, settings)
    first = _coarse_fit(surface, settings.starts[0], settings)
    best = _fine_fit(surface, first.pose, settings)
    if best.cost > settings.sure_cost:
        others = [_coarse_fit(surface, start, settings) for start in settings.starts[1:]]
        others = sorted([first, *others], key=lambda fit: fit.cost)[: settings.tried]
        best = min(
            [best, *(_fine_fit(surface, fit.pose, settings) for fit in others)],
            key=lambda fit: fit.cost,
        )
    return best


def _coarse_fit(
    surface: _Surface, start: tuple[float, float], settings: RegistrationSettings
) -> Registration:
    """Middles together but for a shift, then a few vertices of a stiff template."""
    pose = np.eye(4)
    pose[:3, 3] = np.median(_model()[0], axis=0) + [*start, 0] - np.median(surface.points, axis=0)
    reach = np.linspace(*settings.coarse_reach, settings.coarse_steps)
    stiffness = np.full(settings.coarse_steps, settings.stiffness[0])
    return _fit(surface, pose, reach, stiffness, settings.coarse_vertices, settings)


def _fine_fit(surface: _Surface, pose: np.ndarray, settings: RegistrationSettings) -> Registration:
    steps = np.arange(settings.fine_steps)
    reach = np.array(settings.fine_reach)[np.minimum(steps, len(settings.fine_reach) - 1)]
    stiffness = np.maximum(settings.stiffness[1] * 0.6**steps, settings.stiffness[2])
    return _fit(surface, pose, reach, stiffness, None, settings)


def _fit(
    surface: _Surface, pose, reaches, stiffnesses, count, settings: RegistrationSettings
) -> Registration:
    """Point-to-plane ICP from the template's first vertices to the scan whose Gauss-Newton steps also move the shape:
    minimises sum of w (n . (R x + t - m - B c) / stiffness)^2 + |c|^2 over rotation R, shift t and shape c, where x, n
    are the scan's point and normal nearest to the template's vertex m + B c, and w is Tukey's weight of its distance.
    """
    mean, modes, normals = (values[..., :count, :] for values in _model())
    rotation, shift, shape = pose[:3, :3], pose[:3, 3], np.zeros(len(modes))
    for reach, stiffness in zip(reaches, stiffnesses):
        fitted = mean + np.tensordot(shape, modes, axes=1)
        distance, nearest = surface.tree.query(
            (fitted - shift) @ rotation, distance_upper_bound=reach
        )
        paired = np.flatnonzero(distance < reach)
        place, normal = (
            surface.points[nearest[paired]] @ rotation.T + shift,
            surface.normals[nearest[paired]] @ rotation.T,
        )
        alike = (normals[paired] * normal).sum(axis=1) > settings.smallest_cosine
        paired, place, normal = paired[alike], place[alike], normal[alike]
        distance = distance[paired]
        if len(paired) < 0.1 * len(mean):
            return Registration(
                _matrix(rotation, shift), float("inf"), float("inf"), 0.0, float("inf")
            )
        weight = (1 - (distance / reach) ** 2) ** 2
        try:
            turn, push, shape = _step(
                place, normal, weight, mean[paired], modes[:, paired], stiffness
            )
        except np.linalg.LinAlgError:  # a plane does not say where along it a face lies
            return Registration(
                _matrix(rotation, shift), float("inf"), float("inf"), 0.0, float("inf")
            )
        rotation, shift = turn @ rotation, turn @ shift + push
        at_end = reach == reaches[-1] and stiffness == stiffnesses[-1]
        if at_end and np.abs(turn - np.eye(3)).max() < 2e-4 and np.abs(push).max() < 0.02:
            break
    share, strain = len(paired) / len(mean), _root_mean_square(shape)
    cost = (np.sum(distance**2) + (len(mean) - len(paired)) * reach**2) / len(
        mean
    ) + 0.2 * strain**2
    return Registration(
        _matrix(rotation, shift), _root_mean_square(distance), strain, share, float(cost)
    )


def _step(place, normal, weight, mean, modes, stiffness):
    """One linear least squares problem: rotation (3, 3), shift (3,), shape (k,)."""
    jacobian = np.concatenate(
        [np.cross(place, normal), normal, -np.einsum("nd,knd->nk", normal, modes)], axis=1
    )  # of n . (place + turn x place + push - mean - modes c)
    offset = ((mean - place) * normal).sum(axis=1)
    weighted = jacobian.T * (weight / stiffness**2)
    system = weighted @ jacobian
    system[6:, 6:] += np.eye(len(modes))
    solution = np.linalg.solve(system, weighted @ offset)
    return Rotation.from_rotvec(solution[:3]).as_matrix(), solution[3:6], solution[6:]


def _surface(scan: FaceScan, settings: RegistrationSettings) -> _Surface:
    """A scan's points but for spikes, which stand far from all their neighbours on the mesh."""
    points, triangles = scan.points.astype(np.float64), scan.triangles
    ends = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    length = np.linalg.norm(points[ends[:, 0]] - points[ends[:, 1]], axis=1)
    shortest = np.full(len(points), np.inf)
    np.minimum.at(shortest, ends.ravel(), np.repeat(length, 2))
    kept = shortest < settings.isolated * np.median(length)
    points, normals = points[kept], _normals(points, triangles)[kept]
    return _Surface(points, normals, cKDTree(points))


def _normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Normals (n, 3) of a mesh's vertices, weighted by area; most triangles face the viewer, whatever their winding."""
    a, b, c = points[triangles.T]
    normal = np.cross(b - a, c - a)
    if np.count_nonzero(normal[:, 2] < 0) > len(normal) / 2:
        normal = -normal
    corners = triangles.ravel()
    sums = [np.bincount(corners, np.repeat(normal[:, axis], 3), len(points)) for axis in range(3)]
    sums = np.stack(sums, axis=1)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _matrix(rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, shift
    return pose


@lru_cache(maxsize=1)
def _model() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (n, 3), modes (k, n, 3) and the mean's normals (n, 3) of the vertices that are fitted."""
    template = common_mesh.load()
    vertices = template.vertices.astype(np.float64)
    normals = _normals(vertices, template.triangles)
    return vertices[template.fitted], template.modes.astype(np.float64), normals[template.fitted]
