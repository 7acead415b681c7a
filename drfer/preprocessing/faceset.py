"""All scans of an evaluation, preprocessed: made on all cores, and kept in the cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from drfer.common.errors import DrferError
from drfer.common.files import CacheFile, cached_arrays, digest_of
from drfer.common.parallel import map_on_all_cores
from drfer.datasets import Dataset, classes_of
from drfer.datasets.scan import NEUTRAL, ScanKey
from drfer.fast.points import farthest_point_order
from drfer.preprocessing import surface
from drfer.preprocessing import template as common_mesh
from drfer.preprocessing.resampling import OTHER_FACES, Settings, preprocess_scan

VERSION = 6
"""Raised whenever the same scan could come out differently."""

ANOTHER_KIND = 0.2
"""If a larger share of a set is unlike the open faces, the set is of another kind, ..."""
STANDS_OUT = 4.0
"""... and a scan is doubtful only if its residual lies so many standard deviations above the middle
of the set (both by medians, which a few bad scans do not move)."""
FEWEST = 20
"""Scans by which a kind can be known."""


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Preprocessed scans.

    Lengths are in frame units (of `settings.frame_length` mm) where nothing else is said.
    """

    keys: list[ScanKey]
    """Which scan each is."""
    clouds: np.ndarray
    """Input points, shape (n, 2048, 3), float32, each cloud in farthest-point order."""
    vertices: np.ndarray
    """The first template vertices on each scan, in correspondence, shape (n, 4096, 3), float32."""
    missing: np.ndarray
    """Which of these vertices a scan has no surface for, shape (n, 4096)."""
    residuals: np.ndarray
    """Of the registrations, mm, shape (n,)."""
    doubtful: np.ndarray
    """At which scans someone should look, shape (n,): those that are neither like the open faces nor
    like the other scans of this set."""
    poses: np.ndarray
    """Matrices from the scan's frame to the template's, mm, shape (n, 4, 4)."""
    hash: str
    """Of the scans, the template, and how they are preprocessed."""
    settings: Settings = field(default_factory=Settings)
    dataset: Dataset | None = None
    """Where the scans are from; None for made-up ones."""

    def __len__(self) -> int:
        """Return the number of scans."""
        return len(self.keys)

    @cached_property
    def subjects(self) -> list[str]:
        """Whose scans these are, in order."""
        return sorted({key.subject for key in self.keys})

    @property
    def expressions(self) -> tuple[str, ...]:
        """The classes by their labels."""
        return classes_of(self.dataset)


def preprocess(dataset: Dataset, keys: list[ScanKey], settings: Settings | None = None) -> FaceSet:
    """Preprocess scans of a dataset on all cores, or take them from the cache.

    Says which scans are doubtful, if there are any.

    Args:
        dataset: where the scans are from.
        keys: which scans.
        settings: how it is done; by default as `settings_for` says.

    Raises:
        ScanFormatError: a scan cannot be read, or does not register as a face.
        DrferError: there are no keys, or the cache can be neither read nor written.
    """
    if not keys:
        raise DrferError(f"there is no scan of {dataset.name} to preprocess")
    settings = settings or settings_for(dataset)
    determined_by = _determined_by(dataset, keys, settings)
    arrays = cached_arrays(
        _file_name(dataset), determined_by, lambda: _preprocess_all(dataset, keys, settings)
    )
    doubtful = stand_out(arrays["doubtful"], arrays["residual"])
    _warn(dataset, keys, arrays["doubtful"], doubtful)
    return FaceSet(
        keys=list(keys),
        clouds=arrays["cloud"],
        vertices=arrays["vertices"],
        missing=arrays["missing"],
        residuals=arrays["residual"],
        doubtful=doubtful,
        poses=arrays["pose"],
        hash=digest_of(determined_by),
        settings=settings,
        dataset=dataset,
    )


def settings_for(dataset: Dataset) -> Settings:
    """Return how a dataset's scans are preprocessed: the open faces, which know their truth, or others."""
    return Settings() if hasattr(dataset, "truth") else OTHER_FACES


def cache_file(
    dataset: Dataset, keys: list[ScanKey], settings: Settings | None = None
) -> CacheFile:
    """Return the file of a face set in the cache; its digest is the set's hash.

    Both are known before the set is made.
    """
    digest = digest_of(_determined_by(dataset, keys, settings or settings_for(dataset)))
    return CacheFile(_file_name(dataset), digest)


def _file_name(dataset: Dataset) -> str:
    return f"faceset-{dataset.name}"


def _determined_by(dataset: Dataset, keys: list[ScanKey], settings: Settings) -> list:
    """Return all that a face set depends on; `surface.CELL` decides between equally near points."""
    versions = [VERSION, common_mesh.load().hash, surface.CELL]
    return [dataset.hash, versions, asdict(settings), [str(key) for key in keys]]


def _preprocess_all(
    dataset: Dataset, keys: list[ScanKey], settings: Settings
) -> dict[str, np.ndarray]:
    """Preprocess subject by subject, so that each worker opens a subject's file once."""
    of_subjects = [
        [key for key in keys if key.subject == subject]
        for subject in sorted({key.subject for key in keys})
    ]
    done = map_on_all_cores(_preprocess_subject, of_subjects, "preprocessing", dataset, settings)
    results = {
        key: result
        for of_subject, part in zip(of_subjects, done)
        for key, result in zip(of_subject, part)
    }
    names = list(results[keys[0]])
    return {name: np.stack([results[key][name] for key in keys]) for name in names}


def _preprocess_subject(
    keys: list[ScanKey], dataset: Dataset, settings: Settings
) -> list[dict[str, np.ndarray]]:
    return [preprocess_scan(dataset.load(key), settings) for key in keys]


def stand_out(unlike: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return which scans of a set are doubtful.

    Args:
        unlike: which registered less well than any good open face, shape (n,).
        residuals: of the registrations, mm, shape (n,).

    Returns:
        Truth values, shape (n,).
    """
    if len(unlike) < FEWEST or unlike.mean() <= ANOTHER_KIND:
        return unlike
    middle = np.median(residuals)
    deviation = np.median(np.abs(residuals - middle)) * 1.4826  # as of a normal distribution
    return unlike & (residuals > middle + STANDS_OUT * deviation)


def _warn(dataset: Dataset, keys: list[ScanKey], unlike: np.ndarray, doubtful: np.ndarray) -> None:
    named = [str(key) for key, is_so in zip(keys, doubtful) if is_so]
    shown = ", ".join(named[:5]) + (" ..." if len(named) > 5 else "")
    if (unlike & ~doubtful).any():
        print(
            f"{unlike.sum()} of {len(keys)} scans of {dataset.name} register less well than any good "
            "open face: they are faces of another kind, or not upright and in millimetres (the "
            "picture of `drfer check` shows it). "
            + (f"{len(named)} stand out among them: {shown}. Look at those." if named else "")
        )
    elif named:
        print(
            f"{len(named)} scans of {dataset.name} register less well than any good open face: "
            f"{shown}. Look at them."
        )


def with_mean_neutrals(faces: FaceSet) -> FaceSet:
    """Return faces without neutral scans with the mean of each subject's scans as theirs.

    It is the mean over the vertices that at least half of the subject's scans have.

    Args:
        faces: scans, none of which is neutral.

    Returns:
        The same scans, and after them a neutral one for each subject.

    Raises:
        DrferError: a subject's scans have too little in common.
    """
    made = [_mean_neutral(faces, subject) for subject in faces.subjects]
    clouds, vertices, missing, residuals = (np.stack(arrays) for arrays in zip(*made))
    count = len(made)
    return FaceSet(
        keys=[*faces.keys, *(ScanKey(subject, NEUTRAL, 0) for subject in faces.subjects)],
        clouds=np.concatenate([faces.clouds, clouds]),
        vertices=np.concatenate([faces.vertices, vertices]),
        missing=np.concatenate([faces.missing, missing]),
        residuals=np.concatenate([faces.residuals, residuals]),
        doubtful=np.concatenate([faces.doubtful, np.zeros(count, dtype=bool)]),
        poses=np.concatenate([faces.poses, np.tile(np.eye(4), (count, 1, 1))]),
        hash=digest_of([faces.hash, "mean neutrals 1"]),
        settings=faces.settings,
        dataset=faces.dataset,
    )


def _mean_neutral(faces: FaceSet, subject: str) -> tuple[np.ndarray, ...]:
    """Return a mean's cloud (p, 3), vertices (v, 3), missing (v,) and residual."""
    of_subject = np.array([key.subject == subject for key in faces.keys])
    seen = ~faces.missing[of_subject]
    vertices = (faces.vertices[of_subject] * seen[..., None]).sum(axis=0)
    vertices = (vertices / np.maximum(seen.sum(axis=0), 1)[:, None]).astype(np.float32)
    missing = seen.mean(axis=0) < 0.5
    present = vertices[~missing]
    if len(present) < faces.clouds.shape[1]:
        raise DrferError(
            f"the scans of {subject} have too little in common for a mean face: {len(present)} "
            f"vertices, where {faces.clouds.shape[1]} are needed"
        )
    cloud = present[farthest_point_order(present, faces.clouds.shape[1])]
    return cloud, vertices, missing, faces.residuals[of_subject].mean()


def mean_face(faces: FaceSet, members: np.ndarray, points: int) -> np.ndarray:
    """Average some scans, vertex by vertex, over the template's vertices that most of them have.

    Args:
        faces: the scans.
        members: indices of those that are averaged.
        points: how many vertices the mean has: the first that at least half of the members have.

    Returns:
        Shape (points, 3), float32, in frame units.

    Raises:
        DrferError: there are fewer such vertices.
    """
    seen = ~faces.missing[members]
    common = np.flatnonzero(seen.mean(axis=0) >= 0.5)[:points]
    if len(common) < points:
        raise DrferError(
            f"a mean face needs {points} common vertices, "
            f"these {len(members)} scans share {len(common)}"
        )
    weights = seen[:, common, None]
    sums = (faces.vertices[members][:, common] * weights).sum(axis=0)
    return (sums / weights.sum(axis=0)).astype(np.float32)
