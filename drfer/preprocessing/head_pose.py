"""Turned heads: dense faces rotated by pitch or yaw, and clouds of what a camera sees of them.

Section IV.E of the paper: 16 rotations and the frontal pose, where invisible points are removed to
simulate self-occlusion. Built in notebook 08.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from drfer.common.errors import DrferError
from drfer.common.files import CacheFile, cached_arrays, digest_of
from drfer.common.parallel import map_on_all_cores
from drfer.datasets import Dataset
from drfer.datasets.clouds import RADIUS_EXPONENT, visible_points
from drfer.datasets.scan import NEUTRAL, ScanKey
from drfer.fast.points import farthest_point_order
from drfer.preprocessing.faceset import FaceSet
from drfer.preprocessing.resampling import Settings, resample

VERSION = 1
"""Raised whenever the same scan could come out differently."""
CAMERA_DISTANCE = 600.0
"""mm from the template's origin, as far as a depth camera stands from a face; from 1500 mm 2 % of
the points that are seen differ."""
STORED_UNIT = 0.01
"""mm; turned clouds are kept as whole numbers of it, which fit in 16 bits: far below a scanner's
noise, at half the size."""


@dataclass(frozen=True)
class Pose:
    """A rotation of the head about the template's origin."""

    axis: str
    """Either "yaw", positive to the head's left, or "pitch", positive up."""
    degrees: int

    def rotation(self) -> np.ndarray:
        """Return the matrix R, shape (3, 3), that turns points (n, 3) as `points @ R.T`."""
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


@dataclass(frozen=True, eq=False)
class PosedFaces:
    """Expressive scans at all `POSES`, turned as they stand."""

    keys: list[ScanKey]
    """Which scan each is."""
    clouds: np.ndarray
    """Input points, shape (n, 17, 2048, 3), float32, frame units, in farthest-point order."""
    left: np.ndarray
    """How many points of the dense face are seen, shape (n, 17)."""
    hash: str
    """Of the faces, the poses and the camera."""


def turn_and_hide(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Turn a dense face and keep what the frontal camera sees of it.

    A scan is an open shell: where no hair or forehead closes it, the camera sees points from inside
    (heads that look down by 80 degrees keep 37 % of their points on the open faces; of a closed
    head 25 % would be seen).

    Args:
        points: shape (n, 3), mm.
        pose: how far to turn.

    Returns:
        The points that are seen, in their order, shape (m, 3), mm.
    """
    turned = points @ pose.rotation().T
    return turned[visible_points(turned, np.array([0, 0, CAMERA_DISTANCE]))]


def turned_back(clouds: np.ndarray, pose: Pose) -> np.ndarray:
    """Turn clouds (..., 3) of one pose to the frontal pose again, as registration would.

    Only what is hidden still tells them from frontal scans.
    """
    return (clouds @ pose.rotation()).astype(np.float32)


def pose_faces(faces: FaceSet) -> PosedFaces:
    """Turn the expressive scans of a set to all poses on all cores, or take them from the cache.

    Neutral scans are left out, since they are never classified.

    Raises:
        DrferError: the set does not know its dataset, a scan cannot be read, or the cache can be
            neither read nor written.
    """
    dataset = _dataset_of(faces)
    members = [number for number, key in enumerate(faces.keys) if key.expression != NEUTRAL]
    keys = [faces.keys[number] for number in members]

    def turn_all() -> dict[str, np.ndarray]:
        items = list(zip(keys, faces.poses[members]))
        done = map_on_all_cores(_in_all_poses, items, "turning faces", dataset, faces.settings)
        clouds, left = (np.stack(part) for part in zip(*done))
        return {"clouds": clouds, "left": left}

    arrays = cached_arrays(_file_name(dataset), _determined_by(faces.hash), turn_all)
    clouds = _in_frame(arrays["clouds"], faces.settings)
    return PosedFaces(keys, clouds, arrays["left"], poses_hash(faces))


def poses_hash(faces: FaceSet) -> str:
    """Return the hash of all that determines `pose_faces`."""
    return digest_of(_determined_by(faces.hash))


def cache_file(dataset: Dataset, faces_hash: str) -> CacheFile:
    """Return the file of turned faces in the cache, of a face set of some hash."""
    return CacheFile(_file_name(dataset), digest_of(_determined_by(faces_hash)))


def pose_scan(faces: FaceSet, key: ScanKey) -> tuple[np.ndarray, np.ndarray]:
    """Turn one scan of a set to all poses, as `pose_faces` does.

    Returns:
        Input points, shape (17, 2048, 3), float32, frame units, and how many points of the dense
        face are seen, shape (17,).

    Raises:
        DrferError: the set does not know its dataset, or the scan cannot be read.
    """
    registration = faces.poses[faces.keys.index(key)]
    stored, left = _in_all_poses((key, registration), _dataset_of(faces), faces.settings)
    return _in_frame(stored, faces.settings), left


def _dataset_of(faces: FaceSet) -> Dataset:
    if faces.dataset is None:
        raise DrferError("only faces that know their dataset can be turned: it has the dense scans")
    return faces.dataset


def _file_name(dataset: Dataset) -> str:
    return f"poses-{dataset.name}"


def _determined_by(faces_hash: str) -> list:
    constants = [VERSION, CAMERA_DISTANCE, RADIUS_EXPONENT, STORED_UNIT]
    return [faces_hash, constants, [asdict(pose) for pose in POSES]]


def _in_all_poses(
    key_and_registration: tuple[ScanKey, np.ndarray], dataset: Dataset, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Return clouds (17, 2048, 3) in stored units, and how many points were seen (17,)."""
    key, registration = key_and_registration
    points, missing = resample(dataset.load(key), registration, settings)
    seen = [turn_and_hide(points[~missing], pose) for pose in POSES]
    clouds = np.stack([_cloud(visible, settings) for visible in seen])
    return clouds, np.array([len(visible) for visible in seen])


def _cloud(points: np.ndarray, settings: Settings) -> np.ndarray:
    """Sample a cloud (2048, 3), int16, of points (m, 3), mm.

    It is in farthest-point order from the first template vertex seen. If there are too few points,
    copies of the first fill up, as in training with input dropout.
    """
    stored = np.round(points / STORED_UNIT).astype(np.int16)
    order = farthest_point_order(_in_frame(stored, settings), min(settings.points, len(stored)))
    return stored[np.pad(order, (0, settings.points - len(order)))]


def _in_frame(stored: np.ndarray, settings: Settings) -> np.ndarray:
    return stored * np.float32(STORED_UNIT / settings.frame_length)
