"""Rigid registration of a scan to the common mesh, without landmarks.

Two faces differ in shape, so the best rigid fit of one to the other depends on whose jaw is open
and whose brows are heavy. Here the template may bend along its principal modes of shape while it is
fitted, and only the pose is kept: the pose of a face then does not depend on its expression. (A
purely rigid ICP on the region that expressions move least left twice the error; docs/anny3dfe.md
has the figures.)

The modes are of the open faces. Other faces differ in ways that these do not know, and what the
template cannot follow would turn it: `FreeModes` let it follow anything smooth.

Pairs always go from the template to the scan, never the other way round: so hair, collar and crop,
which differ from scan to scan, have no say unless a vertex comes to lie near them.

Built in notebook 01.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.linalg import eigh
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation
from trimesh.remesh import subdivide

from drfer.datasets.scan import FaceScan
from drfer.preprocessing import template as common_mesh


@dataclass(frozen=True)
class FreeModes:
    """How the template may bend where its own modes do not know a face; lengths in mm.

    These modes are those of a Gaussian process (Luethi et al. 2018), without what a turn or a shift
    of the whole template would do as well.
    """

    length: float = 25.0
    """Over which the template bends: of the process's kernel exp(-distance^2 / (2 length^2))."""
    deviation: float = 0.6
    """Standard deviation of how far each vertex moves, along each axis."""
    count: int = 20
    """Along each axis."""
    reach: tuple[float, ...] = (8.0, 6.0, 4.0)
    """Largest distance of paired points in the first steps; the last one holds for those after."""
    smallest_share: float = 0.7
    """Of the template's vertices that are paired; half a face does not say how the whole is bent."""
    least: float = 0.4
    """Root mean square movement below which the pose of the template's own modes is kept."""


@dataclass(frozen=True)
class RegistrationSettings:
    """How a scan is registered; lengths in mm."""

    starts: tuple[tuple[float, float], ...] = tuple(product((0, -25, 25), (0, -30, 30, -60, 60)))
    """How far to the right of the scan's middle, and below it, the template's starts."""
    coarse_vertices: int = 200
    """That the coarse fit from a start takes; the template is nearly rigid in it."""
    coarse_reach: tuple[float, float] = (30.0, 10.0)
    """Largest distance of paired points at the beginning and the end of a coarse fit."""
    coarse_steps: int = 15
    fine_reach: tuple[float, ...] = (15.0, 12.0, 9.0, 6.0, 5.0, 4.0)
    """The same while pose and shape are fitted; the last one holds for the steps after it."""
    fine_steps: int = 30
    """At most; fewer if pose and shape come to rest."""
    stiffness: tuple[float, float, float] = (40.0, 20.0, 1.0)
    """Distance that weighs as much as one standard deviation of shape: in coarse fits, in the first
    fine step, and at the end."""
    softening: float = 0.6
    """What is left of the stiffness after a fine step."""
    rest_turn: float = 2e-4
    """A fit rests when no entry of a step's rotation matrix changes more, ..."""
    rest_shift: float = 0.02
    """... and no coordinate of its shift."""
    smallest_cosine: float = 0.0
    """Of the angle between the normals of paired points: hair and spikes have any normal (a
    stricter test makes false minima: at 0.5 four in a thousand undamaged faces ended in one)."""
    fewest_paired: float = 0.1
    """Share of the template's vertices below which a fit is given up."""
    isolated: float = 3.0
    """Points without a neighbour on the mesh within so many median edges are spikes; left out."""
    coarsest: float = 2.6
    """Median edge above which a scan is fitted once more with its triangles divided, so that template
    vertices are paired with its surface, and not with corners far away on it. Open faces have 2."""
    tried: int = 4
    """Most promising starts whose fit is carried through if the first did not convince."""
    strain_cost: float = 0.2
    """Square mm that a squared strain of one costs when fits are compared."""
    sure_cost: float = 3.2
    """A fit of less, in square mm, needs no other start: nine in ten of the open faces."""
    largest_residual: float = 1.5
    largest_strain: float = 1.9
    smallest_share: float = 0.5
    """A registration beyond any of these three is doubtful: no good one of the open faces is."""
    refused_residual: float = 3.0
    refused_strain: float = 2.6
    """More strain, or a larger residual over share, is no face. Faces of people are not of the
    shapes that the template bends to: open faces warped by waves of 3 mm reach a strain of 2.1 and
    a residual over share of 2.6; a hand has 3.1 of the latter, a box a strain of 2.9."""
    free: FreeModes | None = None
    """For faces other than the open ones; None where the template's own modes are enough."""


@dataclass(frozen=True, eq=False)
class Registration:
    """A pose, and how well the template fits there."""

    pose: np.ndarray
    """Matrix (4, 4) from the scan's frame to the template's, mm."""
    residual: float
    """Root mean square distance, mm, of the fitted template's vertices from the scan points that
    they are paired with."""
    strain: float
    """How far the template was bent: root mean square over its modes, in standard deviations."""
    share: float
    """Of the template's vertices, how many are paired."""
    cost: float
    """What a good fit has little of: squared distances, the unpaired counted as the largest reach,
    and strain."""

    def doubts(self, settings: RegistrationSettings = RegistrationSettings()) -> tuple[str, ...]:
        """Return why someone should look at it: in what it is beyond all good open faces.

        The face is then damaged, unlike all of these, or not where it was found.
        """
        residual, strain = settings.largest_residual, settings.largest_strain
        reasons = {
            f"residual {self.residual:.1f} mm, above {residual}": self.residual > residual,
            f"strain {self.strain:.1f}, above {strain}": self.strain > strain,
            f"{self.share:.0%} of the mesh near the scan, below {settings.smallest_share:.0%}": (
                self.share < settings.smallest_share
            ),
        }
        return tuple(reason for reason, holds in reasons.items() if holds)

    def is_doubtful(self, settings: RegistrationSettings = RegistrationSettings()) -> bool:
        """Return whether there are doubts."""
        return bool(self.doubts(settings))

    def is_refused(self, settings: RegistrationSettings = RegistrationSettings()) -> bool:
        """Return whether it cannot be a face."""
        return not (
            self.strain <= settings.refused_strain
            and self.residual <= settings.refused_residual * self.share
        )


@dataclass(frozen=True, eq=False)
class _Surface:
    """What a scan is paired by: points and normals (n, 3), towards the viewer."""

    points: np.ndarray
    normals: np.ndarray
    tree: cKDTree
    edge: float
    """Median length of the scan's edges, mm."""


def register(
    scan: FaceScan, settings: RegistrationSettings = RegistrationSettings()
) -> Registration:
    """Fit pose and shape together, coarsely and then finely; the shape is dropped.

    A collar or hair moves the scan's middle, and ICP may end in a false minimum: if the first fit
    does not convince, all starts are tried coarsely, the best of them finely, and the fit of least
    cost counts. What was found of a coarse mesh is fitted once more to its divided triangles. With
    free modes, the pose that counts is the one found with them; all else is of the fit without.

    Raises:
        ScanFormatError: the scan has no surface: all its triangles are without area.
    """
    surface = _surface(scan, settings)
    found = _best_fit(surface, settings)
    if found.is_refused(settings):
        return found
    if surface.edge > settings.coarsest:
        surface = _surface(scan, settings, divided=True)
        found = _fine_fit(surface, found.pose, settings)
    if settings.free and found.share >= settings.free.smallest_share:
        found = replace(found, pose=_free_pose(surface, found.pose, settings, settings.free))
    return found


def _best_fit(surface: _Surface, settings: RegistrationSettings) -> Registration:
    first = _coarse_fit(surface, settings.starts[0], settings)
    best = _fine_fit(surface, first.pose, settings)
    if best.cost > settings.sure_cost:
        others = [_coarse_fit(surface, start, settings) for start in settings.starts[1:]]
        others = sorted([first, *others], key=lambda fit: fit.cost)[: settings.tried]
        fine = [_fine_fit(surface, fit.pose, settings) for fit in others]
        best = min([best, *fine], key=lambda fit: fit.cost)
    return best


def _coarse_fit(
    surface: _Surface, start: tuple[float, float], settings: RegistrationSettings
) -> Registration:
    """Lay the middles on each other but for a shift; then fit a few vertices, stiffly."""
    pose = np.eye(4)
    pose[:3, 3] = np.median(_model()[0], axis=0) + [*start, 0] - np.median(surface.points, axis=0)
    reach = np.linspace(*settings.coarse_reach, settings.coarse_steps)
    stiffness = np.full(settings.coarse_steps, settings.stiffness[0])
    model = tuple(values[: settings.coarse_vertices] for values in _model())
    return _fit(surface, pose, reach, stiffness, model, settings)[0]


def _fine_fit(surface: _Surface, pose: np.ndarray, settings: RegistrationSettings) -> Registration:
    steps = np.arange(settings.fine_steps)
    reach = np.array(settings.fine_reach)[np.minimum(steps, len(settings.fine_reach) - 1)]
    stiffness = np.maximum(settings.stiffness[1] * settings.softening**steps, settings.stiffness[2])
    return _fit(surface, pose, reach, stiffness, _model(), settings)[0]


def _free_pose(
    surface: _Surface, pose: np.ndarray, settings: RegistrationSettings, free: FreeModes
) -> np.ndarray:
    """Return the pose that free modes lead to, unless they have nothing to say."""
    steps = np.arange(settings.fine_steps)
    reach = np.array(free.reach)[np.minimum(steps, len(free.reach) - 1)]
    stiffness = np.full(len(steps), settings.stiffness[2])
    mean, modes, normals = _free_model(free)
    found, shape = _fit(surface, pose, reach, stiffness, (mean, modes, normals), settings)
    known = _model()[1].shape[2]
    moved = modes[..., known:] @ shape[known:]
    bent = np.sqrt((moved**2).sum(axis=1).mean()) >= free.least
    return found.pose if bent and found.share else pose


def _fit(
    surface: _Surface, pose, reaches, stiffnesses, model, settings: RegistrationSettings
) -> tuple[Registration, np.ndarray]:
    """Run point-to-plane ICP whose Gauss-Newton steps also move the shape.

    It goes from a model's vertices (mean, modes, normals) to the scan, and minimises

        sum of w (n . (R x + t - m - B c) / stiffness)^2 + |c|^2

    over rotation R, shift t and shape c, where x and n are the scan's point and normal nearest to
    the template's vertex m + B c, and w is Tukey's weight of its distance. Returns the shape, too.
    """
    mean, modes, normals = model
    rotation, shift, shape = pose[:3, :3], pose[:3, 3], np.zeros(modes.shape[2])
    for reach, stiffness in zip(reaches, stiffnesses):
        fitted = mean + modes @ shape
        paired, point, normal, distance = _pairs(
            surface, fitted, normals, (rotation, shift), reach, settings.smallest_cosine
        )
        if len(paired) < settings.fewest_paired * len(mean):
            return _given_up(rotation, shift), shape
        weight = (1 - (distance / reach) ** 2) ** 2
        try:
            turn, push, shape = _step(point, normal, weight, mean[paired], modes[paired], stiffness)
        except np.linalg.LinAlgError:  # a plane does not say where along it a face lies
            return _given_up(rotation, shift), shape
        rotation, shift = turn @ rotation, turn @ shift + push
        at_end = reach == reaches[-1] and stiffness == stiffnesses[-1]
        still = np.abs(turn - np.eye(3)).max() < settings.rest_turn
        if at_end and still and np.abs(push).max() < settings.rest_shift:
            break
    share, strain = len(paired) / len(mean), _root_mean_square(shape)
    squared = np.sum(distance**2) + (len(mean) - len(paired)) * reach**2
    cost = float(squared / len(mean) + settings.strain_cost * strain**2)
    residual = _root_mean_square(distance)
    return Registration(_matrix(rotation, shift), residual, strain, share, cost), shape


def _pairs(surface: _Surface, fitted, normals, pose, reach: float, smallest_cosine: float):
    """Pair template vertices with the scan's nearest points.

    Returns:
        Which vertices are paired, (k,), the points and normals that they are paired with, both
        (k, 3) in the template's frame, and their distances, (k,).
    """
    rotation, shift = pose
    distance, nearest = surface.tree.query((fitted - shift) @ rotation, distance_upper_bound=reach)
    paired = np.flatnonzero(distance < reach)
    point = surface.points[nearest[paired]] @ rotation.T + shift
    normal = surface.normals[nearest[paired]] @ rotation.T
    alike = (normals[paired] * normal).sum(axis=1) > smallest_cosine
    return paired[alike], point[alike], normal[alike], distance[paired[alike]]


def _step(point, normal, weight, mean, modes, stiffness):
    """Solve one linear least squares problem for rotation (3, 3), shift (3,) and shape (k,)."""
    jacobian = np.concatenate(
        [np.cross(point, normal), normal, -np.einsum("nd,ndk->nk", normal, modes)], axis=1
    )  # of n . (point + turn x point + push - mean - modes c)
    offset = ((mean - point) * normal).sum(axis=1)
    weighted = jacobian.T * (weight / stiffness**2)
    system = weighted @ jacobian
    system[6:, 6:] += np.eye(modes.shape[2])
    solution = np.linalg.solve(system, weighted @ offset)
    return Rotation.from_rotvec(solution[:3]).as_matrix(), solution[3:6], solution[6:]


def _given_up(rotation: np.ndarray, shift: np.ndarray) -> Registration:
    endless = float("inf")
    return Registration(_matrix(rotation, shift), endless, endless, 0.0, endless)


def _surface(scan: FaceScan, settings: RegistrationSettings, divided: bool = False) -> _Surface:
    """Return a scan's points but for spikes, which stand far from all their neighbours.

    Args:
        scan: the scan.
        settings: say which points stand far, and which edges are long.
        divided: whether triangles are divided into four until half of their edges are short.
    """
    points, triangles = scan.points.astype(np.float64), scan.triangles
    ends, length = _edges(points, triangles)
    shortest = np.full(len(points), np.inf)
    np.minimum.at(shortest, ends.ravel(), np.repeat(length, 2))
    kept = shortest < settings.isolated * np.median(length)
    if divided:
        triangles = triangles[kept[triangles].all(axis=1)]
        while np.median(_edges(points, triangles)[1]) > settings.coarsest:
            points, triangles = subdivide(points, triangles)
        kept = np.unique(triangles)
    points, normals = points[kept], _normals(points, triangles)[kept]
    if not normals.any():
        raise scan.refusal("its triangles have no area; export it again, as a surface")
    # a scan's points need no balanced tree: it takes twice as long to build and is no faster
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    return _Surface(points, normals, tree, float(np.median(length)))


def _edges(points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two ends of each triangle's edges, shape (3t, 2), and their lengths."""
    ends = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    along = points[ends[:, 0]] - points[ends[:, 1]]
    return ends, np.sqrt(np.einsum("ed,ed->e", along, along))


def _normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return normals (n, 3) of a mesh's vertices, weighted by area.

    They point to the viewer as most triangles' do, whatever the winding.
    """
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
    """Return mean (n, 3), modes (n, 3, k) and the mean's normals (n, 3) of the fitted vertices."""
    template = common_mesh.load()
    vertices = template.vertices.astype(np.float64)
    normals = _normals(vertices, template.triangles)
    modes = np.ascontiguousarray(template.modes.transpose(1, 2, 0), dtype=np.float64)
    return vertices[template.fitted], modes, normals[template.fitted]


@lru_cache(maxsize=1)
def _free_model(free: FreeModes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the model with free modes after its own: mean (n, 3), modes (n, 3, k), normals (n, 3)."""
    mean, modes, normals = _model()
    between = cdist(mean, mean, "sqeuclidean")
    size, along = eigh(
        np.exp(-between / (2 * free.length**2)),
        subset_by_index=(len(mean) - free.count, len(mean) - 1),
    )
    smooth = free.deviation * along * np.sqrt(size)
    moved = np.einsum("nk,ij->nijk", smooth, np.eye(3)).reshape(3 * len(mean), -1)
    turns = np.cross(np.eye(3), (mean - mean.mean(axis=0))[:, None]).transpose(0, 2, 1)
    shifts = np.broadcast_to(np.eye(3), turns.shape)
    rigid = np.linalg.qr(np.concatenate([turns, shifts], axis=2).reshape(len(moved), 6))[0]
    moved = (moved - rigid @ (rigid.T @ moved)).reshape(len(mean), 3, -1)
    return mean, np.concatenate([modes, moved], axis=2), normals
