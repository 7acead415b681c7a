"""Turned heads: dense faces rotated by pitch or yaw, what a frontal camera sees of them, and an input cloud of that.

Section IV.E of the paper: 16 rotations and the frontal pose, invisible points removed to simulate self-occlusion.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from drfer.common.files import cache_folder, read_arrays, written_whole
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.scan import NEUTRAL, ScanKey
from drfer.models.points import farthest_point_order
from drfer.preprocessing.faceset import FaceSet, Settings, resample

VERSION = 1
"""raised whenever the same scan could come out differently"""
CAMERA_DISTANCE = 600.0
"""mm from the template's origin, as far as a depth camera stands from a face; from 1500 mm 2 % of points differ"""
RADIUS_EXPONENT = 4.0
"""of the sphere that hidden points are flipped at. Rays cast on the surfaces of 24 open faces agree for 97 % of points,
all poses together (93 % with 3, which loses points seen from the side; 91 % with 5, which keeps some of the far side)"""
STORED_UNIT = 0.01
"""mm; turned clouds are whole numbers of it, which fit in 16 bits: far below a scanner's noise, at half the size"""


@dataclass(frozen=True)
class Pose:
    """A rotation about the template's origin. axis: "yaw", positive to the head's left, or "pitch", positive up."""

    axis: str
    degrees: int

    def rotation(self) -> np.ndarray:
        """Matrix (3, 3): points (n, 3) turn by points @ rotation().T."""
        about = {"yaw": [0, 1, 0], "pitch": [-1, 0, 0]}[self.axis]
        return Rotation.from_rotvec(np.multiply(about, self.degrees), degrees=True).as_matrix()


FRONTAL = Pose("yaw", 0)
POSES = (
    FRONTAL,
    *(
        Pose(axis, degrees)
        for axis in ("yaw", "pitch")
        for degrees in (-80, -60, -40, -20, 20, 40, 60, 80)
    ),
)


@dataclass(frozen=True)
class PosedFaces:
    """Expressive scans at all `POSES`, turned as they stand. clouds: (n, 17, 2048, 3) float32, frame units, in
    farthest-point order. left: (n, 17), how many points of the dense face are seen. hash: of faces, poses and camera."""

    keys: list[ScanKey]
    clouds: np.ndarray
    left: np.ndarray
    hash: str


def visible_points(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Which points (n, 3) a camera (3,) sees, (n,): hidden point removal (Katz et al. 2007, section 3).

    Seen is what lies on the convex hull of the camera and the points flipped at a sphere around it, of radius
    10^RADIUS_EXPONENT times the largest distance. Of coinciding points one is seen at most.
    """
    from_camera = points.astype(np.float64) - camera
    distance = np.linalg.norm(from_camera, axis=1, keepdims=True)
    radius = distance.max() * 10**RADIUS_EXPONENT
    flipped = from_camera * (2 * radius / distance - 1)
    visible = np.zeros(len(points) + 1, dtype=bool)
    visible[ConvexHull(np.vstack([flipped, np.zeros((1, 3))])).vertices] = True
    return visible[:-1]


def turn_and_hide(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Points (n, 3), mm, turned, and of them those that the frontal camera sees: (m, 3), in their order.

    A scan is an open shell: where no hair or forehead closes it, the camera sees points from inside (heads that look
    down by 80 degrees keep 37 % of their points on the open faces; of a closed head 25 % would be seen).
    """
    turned = points @ pose.rotation().T
    return turned[visible_points(turned, np.array([0, 0, CAMERA_DISTANCE]))]


def turned_back(clouds: np.ndarray, pose: Pose) -> np.ndarray:
    """Clouds (..., 3) of one pose in the frontal pose again, as registration would bring them: only what is hidden
    still tells them from frontal scans."""
    return (clouds @ pose.rotation()).astype(np.float32)


def pose_faces(dataset, faces: FaceSet) -> PosedFaces:
    """The expressive scans of a preprocessed set at all poses, from the cache or made on all cores; neutral ones are
    never classified. Cached as `preprocess` does it."""
    members = [number for number, key in enumerate(faces.keys) if key.expression != NEUTRAL]
    keys = [faces.keys[number] for number in members]
    digest = poses_hash(faces)
    path = cache_folder() / f"poses-{dataset.name}-{digest[:16]}.npz"
    arrays = read_arrays(path)
    if arrays is None:
        items = list(zip(keys, faces.poses[members]))
        done = map_on_all_cores(_in_all_poses, items, "turning faces", dataset, faces.settings)
        clouds, left = (np.stack(part) for part in zip(*done))
        arrays = {"clouds": clouds, "left": left}
        with written_whole(path) as target:
            np.savez(target, **arrays)
    return PosedFaces(keys, _in_frame(arrays["clouds"], faces.settings), arrays["left"], digest)


def poses_hash(faces: FaceSet) -> str:
    """Of all that determines `pose_faces`."""
    constants = [VERSION, CAMERA_DISTANCE, RADIUS_EXPONENT, STORED_UNIT]
    determined_by = [faces.hash, constants, [asdict(pose) for pose in POSES]]
    return hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()


def pose_scan(dataset, faces: FaceSet, key: ScanKey) -> tuple[np.ndarray, np.ndarray]:
    """What `pose_faces` has of one scan: clouds (17, 2048, 3), and how many points were seen (17,)."""
    stored, left = _in_all_poses((key, faces.poses[faces.keys.index(key)]), dataset, faces.settings)
    return _in_frame(stored, faces.settings), left


def _in_all_poses(key_and_registration: tuple[ScanKey, np.ndarray], dataset, settings: Settings):
    """Clouds (17, 2048, 3) in stored units, and how many points were seen (17,)."""
    key, registration = key_and_registration
    places, missing = resample(dataset.load(key), registration, settings)
    seen = [turn_and_hide(places[~missing], pose) for pose in POSES]
    return np.stack([_cloud(points, settings) for points in seen]), np.array(
        [len(points) for points in seen]
    )


def _cloud(points: np.ndarray, settings: Settings) -> np.ndarray:
    """A cloud (2048, 3) int16 of points (m, 3), mm, in farthest-point order from the first template vertex seen; if
    they are fewer, copies of the first fill up, as in training with input dropout."""
    stored = np.round(points / STORED_UNIT).astype(np.int16)
    order = farthest_point_order(_in_frame(stored, settings), min(settings.points, len(stored)))
    return stored[np.pad(order, (0, settings.points - len(order)))]


def _in_frame(stored: np.ndarray, settings: Settings) -> np.ndarray:
    return stored * np.float32(STORED_UNIT / settings.frame_length)
