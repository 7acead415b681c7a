"""From a raw scan to what the network sees: register, resample on the template, one frame, farthest-point order.

Section IV.B of the paper: rigid registration to a common mesh, 39,923 points, of which 2,048 are the input.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import igl
import numpy as np

from drfer import template as common_mesh
from drfer.jobs import cache_folder, map_on_all_cores, read_arrays, written_whole
from drfer.pointops import farthest_point_order
from drfer.registration import RegistrationSettings, register
from drfer.scan import DrferError, FaceScan, ScanFormatError, ScanKey

VERSION = 4
"""raised whenever the same scan could come out differently"""


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
    keys: which scan each is. hash: of scans, template and settings."""

    keys: list[ScanKey]
    clouds: np.ndarray
    vertices: np.ndarray
    missing: np.ndarray
    residuals: np.ndarray
    poses: np.ndarray
    hash: str
    settings: Settings = field(default_factory=Settings)

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def subjects(self) -> list[str]:
        return sorted({key.subject for key in self.keys})

    def of(self, subjects: list[str]) -> FaceSet:
        """The scans of some subjects only."""
        kept = [number for number, key in enumerate(self.keys) if key.subject in subjects]
        return replace(
            self, keys=[self.keys[number] for number in kept], clouds=self.clouds[kept], vertices=self.vertices[kept],
            missing=self.missing[kept], residuals=self.residuals[kept], poses=self.poses[kept],
        )  # fmt: skip


def resample(scan: FaceScan, pose: np.ndarray, settings: Settings = Settings()) -> tuple[np.ndarray, np.ndarray]:
    """Carry the template's vertices to the nearest place on the registered scan: points (39923, 3), mm, template
    frame, and which of them are missing (39923,): nearest to the scan's border (a hole, the crop) or too far."""
    points = scan.points.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    triangles = scan.triangles.astype(np.int64)
    template = common_mesh.load()
    vertices = template.vertices[template.by_place].astype(np.float64)
    squared, triangle, places = igl.point_mesh_squared_distance(vertices, points, triangles)
    missing = (squared > settings.largest_distance**2) | _on_border(places, points, triangles, triangle)
    back = np.argsort(template.by_place)
    return places[back], missing[back]


def _on_border(places: np.ndarray, points: np.ndarray, triangles: np.ndarray, triangle: np.ndarray) -> np.ndarray:
    """Whether each place, on its triangle, lies on an edge that belongs to one triangle only, or on its ends."""
    edges = np.sort(np.stack([triangles[:, [1, 2]], triangles[:, [2, 0]], triangles[:, [0, 1]]], axis=1), axis=-1)
    code = edges[..., 0] * len(points) + edges[..., 1]
    _, inverse, count = np.unique(code, return_inverse=True, return_counts=True)
    border_edge = count[inverse].reshape(code.shape) == 1  # (t, 3): the edge opposite each corner
    border_point = np.zeros(len(points), dtype=bool)
    border_point[edges[border_edge]] = True

    candidates = np.flatnonzero(border_point[triangles[triangle]].any(axis=1))
    corners = triangles[triangle[candidates]]
    weights = _barycentric(places[candidates], points[corners])
    on_edge = (weights < 1e-6) & border_edge[triangle[candidates]]
    at_point = (weights > 1 - 1e-6) & border_point[corners]  # a triangle may touch the border with a corner only
    border = np.zeros(len(places), dtype=bool)
    border[candidates] = (on_edge | at_point).any(axis=1)
    return border


def _barycentric(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    to_place = places - corners[:, 0]
    aa, ab, bb = (a * a).sum(1), (a * b).sum(1), (b * b).sum(1)
    pa, pb = (to_place * a).sum(1), (to_place * b).sum(1)
    area = np.maximum(aa * bb - ab * ab, 1e-12)
    second, third = (bb * pa - ab * pb) / area, (aa * pb - ab * pa) / area
    return np.stack([1 - second - third, second, third], axis=1)


def preprocess_scan(scan: FaceScan, settings: Settings = Settings()) -> dict[str, np.ndarray]:
    """All of it for one scan. Raises ScanFormatError if it cannot be registered or covers too little of the face."""
    registration = register(scan, settings.registration)
    limits = settings.registration
    if registration.residual > limits.largest_residual or registration.strain > limits.largest_strain:
        raise ScanFormatError(
            f"{scan.source}, scan {scan.key}: does not register as a face (residual {registration.residual:.1f} mm, "
            f"strain {registration.strain:.1f}; at most {limits.largest_residual} mm and {limits.largest_strain} "
            "allowed); check its orientation and unit"
        )
    places, missing = resample(scan, registration.pose, settings)
    seen = places[~missing]
    if len(seen) < settings.points:
        raise ScanFormatError(f"{scan.source}, scan {scan.key}: only {len(seen)} of the template's vertices are seen")
    order = farthest_point_order(seen, settings.points)  # from the first template vertex seen: the nose tip
    return {
        "cloud": (seen[order] / settings.frame_length).astype(np.float32),
        "vertices": (places[: settings.template_points] / settings.frame_length).astype(np.float32),
        "missing": missing[: settings.template_points],
        "pose": registration.pose,
        "residual": np.float64(registration.residual),
    }


def preprocess(dataset, keys: list[ScanKey], settings: Settings = Settings()) -> FaceSet:
    """A dataset's scans as a FaceSet, from the cache or made on all cores. Cached under the hash of all that
    determines it; a cache that cannot be read is made again."""
    determined_by = [dataset.hash, common_mesh.load().hash, VERSION, asdict(settings), [str(key) for key in keys]]
    digest = hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()
    path = cache_folder() / f"faceset-{dataset.name}-{digest[:16]}.npz"
    arrays = read_arrays(path)
    if arrays is None:
        # subject by subject, so that each worker opens a subject's file once
        chunks = [[key for key in keys if key.subject == subject] for subject in sorted({key.subject for key in keys})]
        done = map_on_all_cores(_preprocess_chunk, chunks, "preprocessing", _prepare_worker, (dataset, settings))
        results = {key: result for chunk, part in zip(chunks, done) for key, result in zip(chunk, part)}
        arrays = {name: np.stack([results[key][name] for key in keys]) for name in next(iter(results.values()))}
        with written_whole(path) as target:
            np.savez(target, **arrays)
    return FaceSet(
        keys=list(keys), clouds=arrays["cloud"], vertices=arrays["vertices"], missing=arrays["missing"],
        residuals=arrays["residual"], poses=arrays["pose"], hash=digest, settings=settings,
    )  # fmt: skip


def _prepare_worker(*state) -> None:
    global _state
    _state = state


def _preprocess_chunk(keys: list[ScanKey]) -> list[dict[str, np.ndarray]]:
    dataset, settings = _state
    return [preprocess_scan(dataset.load(key), settings) for key in keys]


def mean_face(faces: FaceSet, members: np.ndarray, points: int) -> np.ndarray:
    """Pointwise mean (points, 3) of some scans over the template's vertices that at least half of them have.

    members: indices into `faces`. Raises DrferError if fewer than `points` vertices are seen that often.
    """
    seen = ~faces.missing[members]
    common = np.flatnonzero(seen.mean(axis=0) >= 0.5)[:points]
    if len(common) < points:
        raise DrferError(f"a mean face needs {points} common vertices, these {len(members)} scans share {len(common)}")
    weights = seen[:, common, None]
    return ((faces.vertices[members][:, common] * weights).sum(axis=0) / weights.sum(axis=0)).astype(np.float32)
