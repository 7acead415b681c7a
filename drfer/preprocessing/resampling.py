"""From one raw scan to what the network sees: register, resample on the template, sample points.

Section IV.B of the paper: rigid registration to a common mesh, 39,923 points, of which 2,048 are
the input. Built in notebook 01.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.scan import FaceScan
from drfer.fast.compiled import interrupts_held
from drfer.fast.points import farthest_point_order
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.registration import (
    FreeModes,
    Registration,
    RegistrationSettings,
    register,
)
from drfer.preprocessing.surface import border_edges, nearest_on_surface

CERTAIN_COVER = 0.4
"""Share of the template's vertices below which a scan is doubtful; badly damaged open faces have 0.47."""
ONE_FACE = 110.0
"""mm from the middle of a face, beyond which nothing of it lies; ..."""
SECOND_FACE = 0.3
"""... and how many triangles must lie there, beside those of the face, to be looked at."""


@dataclass(frozen=True)
class Settings:
    """How scans are preprocessed; lengths in mm."""

    frame_length: float = 120.0
    """One unit of the network's frame. It is the same for every scan, since size belongs to
    identity; faces lie in the unit ball."""
    points: int = 2048
    """Of an input cloud."""
    template_points: int = 4096
    """Template vertices that are kept in correspondence; mean faces are made of them."""
    largest_distance: float = 10.0
    """A template vertex with no scan surface within this distance is missing."""
    smallest_cover: float = 0.55
    """Share of the template's vertices that a doubtful scan must have. Hands bend the template no
    more than a face may, and cover 21 to 44 %; open faces warped by waves of 3 mm, as doubtful,
    63 to 87 % (badly damaged open faces may have 47 %, and register without doubt)."""
    registration: RegistrationSettings = RegistrationSettings()


OTHER_FACES = Settings(
    registration=RegistrationSettings(strain_cost=0.5, sure_cost=3.5, tried=8, free=FreeModes())
)
"""How all scans are preprocessed but the open faces, of which the template's modes are: what strains
these much is seldom a face, so of half a face more starts are tried."""


def preprocess_scan(scan: FaceScan, settings: Settings = Settings()) -> dict[str, np.ndarray]:
    """Preprocess one scan.

    Args:
        scan: the scan, in mm, upright and facing +z to within about 30 degrees.
        settings: how it is done.

    Returns:
        Arrays by name:
        "cloud", the input points in frame units and farthest-point order, (2048, 3), float32;
        "vertices", the first template vertices on the scan, in frame units, (4096, 3), float32;
        "missing", which of these the scan has no surface for, (4096,);
        "pose", from the scan's frame to the template's, in mm, (4, 4);
        "residual" of the registration, mm, and whether it is "doubtful", so that someone should
        look at the scan.

    Raises:
        ScanFormatError: the scan does not register as a face, or covers too little of one.
    """
    return network_input(carry_template(scan, settings), settings)


@dataclass(frozen=True, eq=False)
class Carried:
    """The template on a scan: the same face, in the template's pose and topology."""

    registration: Registration
    points: np.ndarray
    """The template's vertices, shape (39923, 3), mm, in the template's frame."""
    missing: np.ndarray
    """For which of them the scan has no surface, shape (39923,): these are where the template has
    them, or at the scan's border."""
    doubts: tuple[str, ...]
    """Why someone should look at it; none if nobody needs to."""


def carry_template(scan: FaceScan, settings: Settings = Settings()) -> Carried:
    """Register a scan, and carry the template's vertices onto it.

    Raises:
        ScanFormatError: the scan does not register as a face, covers too little of one, or holds a
            second one.
    """
    registration = register(scan, settings.registration)
    doubts = registration.doubts(settings.registration)
    if registration.is_refused(settings.registration):
        raise _no_face(scan, registration)
    _check_alone(scan, registration.pose, settings)
    points, missing = resample(scan, registration.pose, settings)
    seen = np.count_nonzero(~missing)
    if seen < max(settings.points, bool(doubts) * settings.smallest_cover * len(points)):
        raise _no_face(scan, registration, f", {seen / len(points):.0%} of the mesh covered")
    if seen < CERTAIN_COVER * len(points):
        doubts += (f"{seen / len(points):.0%} of the mesh found, below {CERTAIN_COVER:.0%}",)
    return Carried(registration, points, missing, doubts)


def _check_alone(scan: FaceScan, pose: np.ndarray, settings: Settings) -> None:
    """Refuse a scan whose surface beside the face that was found is a face, too."""
    middle_distance = np.linalg.norm(scan.points @ pose[:3, :3].T + pose[:3, 3], axis=1)
    beside = (middle_distance > ONE_FACE)[scan.triangles].all(axis=1)
    if np.count_nonzero(beside) < SECOND_FACE * np.count_nonzero(~beside):
        return
    used, corners = np.unique(scan.triangles[beside], return_inverse=True)
    rest = replace(
        scan, points=scan.points[used], triangles=corners.reshape(-1, 3).astype(np.int32)
    )
    try:
        second = register(rest, settings.registration)
    except ScanFormatError:
        return
    if not second.is_doubtful(settings.registration):
        raise scan.refusal("holds a second face; give a file for each")


def network_input(carried: Carried, settings: Settings = Settings()) -> dict[str, np.ndarray]:
    """Return what is kept of a scan whose template is carried: see `preprocess_scan`."""
    points, missing = carried.points, carried.missing
    # rounded before it is ordered, so that the order holds for what is stored
    seen = (points[~missing] / settings.frame_length).astype(np.float32)
    # the first template vertex that is seen is the one nearest to the nose tip
    order = farthest_point_order(seen, settings.points)
    kept = points[: settings.template_points] / settings.frame_length
    return {
        "cloud": seen[order],
        "vertices": kept.astype(np.float32),
        "missing": missing[: settings.template_points],
        "pose": carried.registration.pose,
        "residual": np.float64(carried.registration.residual),
        "doubtful": np.bool_(bool(carried.doubts)),
    }


def resample(
    scan: FaceScan, pose: np.ndarray, settings: Settings = Settings()
) -> tuple[np.ndarray, np.ndarray]:
    """Carry each of the template's vertices to the nearest point of a registered scan.

    A vertex is missing if its nearest point lies on the scan's border (a hole, the crop), or if
    nothing is near enough; then it is left where the template has it.

    Args:
        scan: the scan.
        pose: matrix (4, 4) from the scan's frame to the template's, mm.
        settings: `largest_distance` says what is near enough.

    Returns:
        Points in the template's frame, shape (39923, 3), mm, and which are missing, (39923,).
    """
    points = scan.points.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    template = common_mesh.load()
    triangle, barycentric, nearest = nearest_on_surface(
        template.vertices, points, scan.triangles, settings.largest_distance, template.curve_order
    )
    return nearest, (triangle < 0) | _on_border(triangle, barycentric, scan.triangles)


def template_clouds(vertices: np.ndarray, missing: np.ndarray, points: int) -> np.ndarray:
    """Return each scan's first template vertices that it has.

    They are in the template's farthest-point order, which is an even one on every scan.

    Args:
        vertices: where the template's first vertices lie on each scan, shape (n, V, 3).
        missing: which of them a scan has no surface for, shape (n, V).
        points: how many points P each cloud has.

    Returns:
        Clouds, shape (n, P, 3).

    Raises:
        DrferError: a scan has fewer vertices.
    """
    fewest = (~missing).sum(axis=1).min()
    if fewest < points:
        raise DrferError(
            f"a scan has {fewest} of the template's first {vertices.shape[1]} vertices, and "
            f"{points} are needed as its input"
        )
    first = np.argsort(missing, axis=1, kind="stable")[:, :points]
    return np.take_along_axis(vertices, first[..., None], axis=1)


def _on_border(triangle: np.ndarray, barycentric: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return which points lie on an edge that belongs to one triangle only, or on its ends."""
    with interrupts_held():  # the first call compiles
        edge_alone = border_edges(triangles, triangles.max() + 1)
    of_border = np.zeros(triangles.max() + 1, dtype=bool)
    for corner in range(3):
        of_border[np.delete(triangles, corner, axis=1)[edge_alone[:, corner]]] = True
    border = of_border[triangles].any(axis=1)[triangle]  # only these can be, and they are few
    triangle, barycentric = triangle[border], barycentric[border]
    on_edge = (barycentric == 0) & edge_alone[triangle]
    # a triangle may touch the border with a corner only
    at_point = (barycentric == 1) & of_border[triangles[triangle]]
    border[border] = (on_edge | at_point).any(axis=1)
    return border


def _no_face(scan: FaceScan, registration: Registration, cover: str = "") -> ScanFormatError:
    fit = (
        f"residual {registration.residual:.1f} mm over {registration.share:.0%} of it, "
        f"strain {registration.strain:.1f}{cover}"
    )
    if registration.share == 0:
        fit = "nothing of it fits"
    return scan.refusal(
        f"does not register as a face ({fit}); check its orientation and unit (--up, --unit)"
    )
