"""From a raw scan to what the network sees: register, resample on the template, one frame, farthest-point order.

Section IV.B of the paper: rigid registration to a common mesh, 39,923 points, of which 2,048 are the input.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from drfer.common.errors import DrferError, ScanFormatError
from drfer.common.files import cache_folder, read_arrays, written_whole
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.scan import FaceScan, ScanKey
from drfer.models.points import farthest_point_order
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.registration import Registration, RegistrationSettings, register
from drfer.preprocessing.surface import border_edges, edge_codes, nearest_on_surface

VERSION = 6
"""raised whenever the same scan could come out differently"""

SMALLEST_COVER = 0.55
"""share of the template's vertices that a doubtful scan must have. Hands bend the template no more than a face may, and
cover 21 to 44 %; open faces warped by waves of 3 mm, as doubtful, 63 to 87 % (badly damaged open faces may have 47 %, and
register without doubt)"""


@dataclass(frozen=True)
class Settings:
    """Preprocessing; lengths in mm."""

    frame_length: float = 120.0
    """one unit of the network's frame, the same for every scan (size is identity): faces lie in the unit ball"""
    points: int = 2048
    """of an input cloud"""
    template_points: int = 4096
    """template vertices kept in correspondence, from which mean faces take theirs"""
    largest_distance: float = 10.0
    """a template vertex with no scan surface within this distance is missing"""
    registration: RegistrationSettings = RegistrationSettings()


@dataclass(frozen=True)
class FaceSet:
    """Preprocessed scans, in frame units. clouds: (n, 2048, 3), each in farthest-point order. vertices: (n, 4096, 3),
    the first template vertices on each scan, in correspondence. missing: (n, 4096), where a scan has no surface.
    keys: which scan each is. residuals: (n,), of the registrations, mm; doubtful: (n,), at which someone should look.
    poses: (n, 4, 4), from the scan to the template's frame, mm. hash: of scans, template and settings."""

    keys: list[ScanKey]
    clouds: np.ndarray
    vertices: np.ndarray
    missing: np.ndarray
    residuals: np.ndarray
    doubtful: np.ndarray
    poses: np.ndarray
    hash: str
    settings: Settings = field(default_factory=Settings)

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def subjects(self) -> list[str]:
        return sorted({key.subject for key in self.keys})


def resample(
    scan: FaceScan, pose: np.ndarray, settings: Settings = Settings()
) -> tuple[np.ndarray, np.ndarray]:
    """Carry the template's vertices to the nearest place on the registered scan: points (39923, 3), mm, template
    frame, and which of them are missing (39923,): nearest to the scan's border (a hole, the crop), or too far away (then
    they are left where the template has them)."""
    points = scan.points.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    template = common_mesh.load()
    triangle, weights, places = nearest_on_surface(
        template.vertices, points, scan.triangles, settings.largest_distance, template.by_place
    )
    return places, (triangle < 0) | _on_border(triangle, weights, scan.triangles)


def _on_border(triangle: np.ndarray, weights: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Whether each place, on its triangle, lies on an edge that belongs to one triangle only, or on its ends."""
    points = triangles.max() + 1
    codes, alone = edge_codes(triangles, points), border_edges(triangles, points)
    border_point = np.zeros(points, dtype=bool)
    border_point[alone // points] = border_point[alone % points] = True
    border = border_point[triangles].any(axis=1)[triangle]  # only these can be, and they are few
    triangle, weights = triangle[border], weights[border]
    on_edge = (weights == 0) & np.isin(codes[triangle], alone)
    at_point = (weights == 1) & border_point[
        triangles[triangle]
    ]  # a triangle may touch the border with a corner only
    border[border] = (on_edge | at_point).any(axis=1)
    return border


def preprocess_scan(scan: FaceScan, settings: Settings = Settings()) -> dict[str, np.ndarray]:
    """All of it for one scan. Raises ScanFormatError if it cannot be registered or covers too little of the face."""
    registration = register(scan, settings.registration)
    doubtful = registration.is_doubtful(settings.registration)
    if registration.is_refused:
        raise _no_face(scan, registration)
    places, missing = resample(scan, registration.pose, settings)
    # rounded before it is ordered, and so in order
    seen = (places[~missing] / settings.frame_length).astype(np.float32)
    if len(seen) < max(settings.points, doubtful * SMALLEST_COVER * len(places)):
        raise _no_face(scan, registration, f", {len(seen) / len(places):.0%} of the mesh covered")
    order = farthest_point_order(
        seen, settings.points
    )  # from the first template vertex seen: the nose tip
    return {
        "cloud": seen[order],
        "vertices": (places[: settings.template_points] / settings.frame_length).astype(np.float32),
        "missing": missing[: settings.template_points],
        "pose": registration.pose,
        "residual": np.float64(registration.residual),
        "doubtful": np.bool_(doubtful),
    }


def _no_face(scan: FaceScan, registration: Registration, cover: str = "") -> ScanFormatError:
    return ScanFormatError(
        f"{scan.source}, scan {scan.key}: does not register as a face (residual {registration.residual:.1f} mm over "
        f"{registration.share:.0%} of it, strain {registration.strain:.1f}{cover}); check its orientation and unit"
    )


def preprocess(dataset, keys: list[ScanKey], settings: Settings = Settings()) -> FaceSet:
    """A dataset's scans as a FaceSet, from the cache or made on all cores. Cached under the hash of all that
    determines it; a cache that cannot be read is made again."""
    determined_by = [
        dataset.hash,
        common_mesh.load().hash,
        VERSION,
        asdict(settings),
        [str(key) for key in keys],
    ]
    digest = hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()
    path = cache_folder() / f"faceset-{dataset.name}-{digest[:16]}.npz"
    arrays = read_arrays(path)
    if arrays is None:
        # subject by subject, so that each worker opens a subject's file once
        chunks = [
            [key for key in keys if key.subject == subject]
            for subject in sorted({key.subject for key in keys})
        ]
        done = map_on_all_cores(_preprocess_chunk, chunks, "preprocessing", dataset, settings)
        results = {
            key: result for chunk, part in zip(chunks, done) for key, result in zip(chunk, part)
        }
        arrays = {
            name: np.stack([results[key][name] for key in keys])
            for name in next(iter(results.values()))
        }
        with written_whole(path) as target:
            np.savez(target, **arrays)
    if arrays["doubtful"].any():
        _warn(dataset, [key for key, doubtful in zip(keys, arrays["doubtful"]) if doubtful])
    return FaceSet(
        keys=list(keys),
        clouds=arrays["cloud"],
        vertices=arrays["vertices"],
        missing=arrays["missing"],
        residuals=arrays["residual"],
        doubtful=arrays["doubtful"],
        poses=arrays["pose"],
        hash=digest,
        settings=settings,
    )


def _warn(dataset, keys: list[ScanKey]) -> None:
    shown = ", ".join(map(str, keys[:5])) + (" ..." if len(keys) > 5 else "")
    print(
        f"{len(keys)} scans of {dataset.name} register less well than any good open face: {shown}. Look at them."
    )


def _preprocess_chunk(
    keys: list[ScanKey], dataset, settings: Settings
) -> list[dict[str, np.ndarray]]:
    return [preprocess_scan(dataset.load(key), settings) for key in keys]


def mean_face(faces: FaceSet, members: np.ndarray, points: int) -> np.ndarray:
    """Pointwise mean (points, 3) of some scans over the template's vertices that at least half of them have.

    members: indices into `faces`. Raises DrferError if fewer than `points` vertices are seen that often.
    """
    seen = ~faces.missing[members]
    common = np.flatnonzero(seen.mean(axis=0) >= 0.5)[:points]
    if len(common) < points:
        raise DrferError(
            f"a mean face needs {points} common vertices, these {len(members)} scans share {len(common)}"
        )
    weights = seen[:, common, None]
    return (
        (faces.vertices[members][:, common] * weights).sum(axis=0) / weights.sum(axis=0)
    ).astype(np.float32)
