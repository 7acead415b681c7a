"""Bosphorus (Savran et al. 2008): range images of 105 subjects, of whom 65 show all six expressions.

A `.bnt` file holds five planes of doubles. Its range image becomes a mesh: spikes out, neighbours joined where they are
near, the largest piece cropped around the nose.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scipy.ndimage import median_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from drfer.common.errors import ScanFormatError
from drfer.datasets.bu3dfe import small_file, without_loose_points
from drfer.datasets.folder import ScanFolder
from drfer.datasets.scan import NEUTRAL, FaceScan, ScanKey

EXPRESSION_CODES = {
    "ANGER": "anger",
    "DISGUST": "disgust",
    "FEAR": "fear",
    "HAPPY": "happiness",
    "SADNESS": "sadness",
    "SURPRISE": "surprise",
}
FILE_NAME = re.compile(
    r"(bs\d{3})_(?:E_(ANGER|DISGUST|FEAR|HAPPY|SADNESS|SURPRISE)|N_N)_(\d+)\.bnt", re.IGNORECASE
)
OTHER_SCANS = re.compile(r"bs\d{3}_(LFAU|UFAU|CAU|YR|PR|CR|O|IGN)_.+_\d+\.bnt", re.IGNORECASE)
"""action units, turned heads and occlusions, which this kit does not use"""
EXPRESSIVE_SUBJECTS = sorted(set(range(105)) - {7, 10, 13, 20, 92} - set(range(47, 82)))
"""numbers of the 65 subjects with all six expressions, after a published list; `drfer check` compares"""

CROP = 80.0
"""mm around the nose tip that are kept"""
LONGEST_EDGE = 6.0
"""mm; neighbours farther apart are not joined"""
SPIKE = 4.0
"""mm; a point that stands this far out of the median of its 3 x 3 neighbourhood is none of the face"""


class Bosphorus(ScanFolder):
    """The database in a folder the user has. Expressive scans have level 1; of several takes the first counts."""

    name = "bosphorus"
    levels = (1,)
    landmarks_suffix = ".lm3"

    def key_of(self, path: Path) -> ScanKey | None:
        match = FILE_NAME.fullmatch(path.name)
        if not match:
            return None
        subject, code, _ = match.groups()
        return ScanKey(
            subject.lower(), *((EXPRESSION_CODES[code.upper()], 1) if code else (NEUTRAL, 0))
        )

    def is_stranger(self, path: Path) -> bool:
        return path.suffix.lower() == ".bnt" and not OTHER_SCANS.fullmatch(path.name)

    def read(self, path: Path, key: ScanKey) -> FaceScan:
        beside = path.with_suffix(self.landmarks_suffix)
        landmarks = read_lm3(beside) if beside.exists() else {}
        points, triangles = mesh_of_range_image(path, read_bnt(path), landmarks.get("Nose tip"))
        places = np.array(list(landmarks.values())) if landmarks else None
        return FaceScan(points, triangles, key, str(path), places)


def read_bnt(path: Path) -> np.ndarray:
    """The range image of a `.bnt` file: (rows, columns, 3) mm, top row first, NaN where there is background.

    Raises ScanFormatError naming the file and the field.
    """
    content = path.read_bytes()
    if len(content) < 18:
        raise ScanFormatError(
            f"{path}: {len(content)} bytes are too few for a .bnt header; the file is cut off"
        )
    rows, columns = np.frombuffer(content, "<u2", 2).tolist()
    background = float(np.frombuffer(content, "<f8", 1, offset=4)[0])
    name_length = int(np.frombuffer(content, "<u2", 1, offset=12)[0])
    start = 14 + name_length + 4
    if len(content) < start:
        raise ScanFormatError(
            f"{path}: its image name of {name_length} bytes runs past the end; the file is cut off"
        )
    count = int(np.frombuffer(content, "<u4", 1, offset=start - 4)[0])
    pixels = rows * columns
    if pixels == 0 or count < 3 * pixels:
        raise ScanFormatError(
            f"{path}: {rows} rows of {columns} need {5 * pixels} numbers, its header counts {count}"
        )
    if len(content) < start + 8 * 3 * pixels:  # the coordinates must be there; u and v are not used
        raise ScanFormatError(
            f"{path}: {rows} rows of {columns} need {start + 40 * pixels} bytes, the file has {len(content)}; it is cut off"
        )
    planes = np.frombuffer(content, "<f8", 3 * pixels, offset=start).reshape(3, rows, columns)
    image = np.moveaxis(planes, 0, -1)[::-1].copy()  # rows run bottom-up
    background_anywhere = (image == background).any(axis=-1) | ~(np.abs(image) < 1e6).all(axis=-1)
    image[background_anywhere] = np.nan
    return image


def mesh_of_range_image(
    path: Path, image: np.ndarray, nose: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) float32, mm, and triangles (m, 3) int32 of a range image (rows, columns, 3), top row first.

    nose: (3,) mm, the nose tip; else it is the foremost point of the largest piece. Raises ScanFormatError if
    nothing is left.
    """
    filled = np.where(np.isnan(image[..., 2]), -1e9, image[..., 2])
    smooth = median_filter(filled, size=3, mode="nearest")
    image = np.where((np.abs(filled - smooth) < SPIKE)[..., None], image, np.nan)
    down, right = _joined(image[:-1], image[1:]), _joined(image[:, :-1], image[:, 1:])
    diagonal = _joined(image[:-1, :-1], image[1:, 1:])
    number = np.arange(filled.size).reshape(filled.shape)
    quad = (
        number[:-1, :-1],
        number[1:, :-1],
        number[1:, 1:],
        number[:-1, 1:],
    )  # counter-clockwise from the viewer
    halves = (
        ((0, 1, 2), down[:, :-1] & right[1:] & diagonal),
        ((0, 2, 3), right[:-1] & down[:, 1:] & diagonal),
    )
    triangles = np.concatenate(
        [np.stack([quad[k][kept] for k in corners], axis=-1) for corners, kept in halves]
    )
    triangles = _largest_piece(triangles, filled.size)
    points = image.reshape(-1, 3)
    if len(triangles):
        named = np.flatnonzero(np.bincount(triangles.ravel()))
        centre = points[named[np.argmax(points[named, 2])]] if nose is None else nose
        near = ((points - centre) ** 2).sum(axis=1) < CROP**2
        triangles = triangles[near[triangles].all(axis=1)]
    if len(triangles) == 0:
        raise ScanFormatError(
            f"{path}: no surface is left of its range image without background and spikes"
        )
    points, triangles = without_loose_points(points, triangles)
    return points.astype(np.float32), triangles


def _joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether neighbours (rows, columns, 3) are both there (not NaN) and near enough for an edge."""
    return ((a - b) ** 2).sum(axis=-1) < LONGEST_EDGE**2


def _largest_piece(triangles: np.ndarray, points: int) -> np.ndarray:
    if len(triangles) == 0:
        return triangles
    ends = triangles[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), dtype=bool), ends.T), shape=(points, points))
    piece = connected_components(graph, directed=False)[1][triangles[:, 0]]
    return triangles[piece == np.bincount(piece).argmax()]


def read_lm3(path: Path) -> dict[str, np.ndarray]:
    """Landmarks of an `.lm3` file: (3,) mm by name. Raises ScanFormatError naming file and line."""
    lines = [
        (number, line.strip()) for number, line in enumerate(small_file(path).splitlines(), start=1)
    ]
    lines = [(number, line) for number, line in lines if line and not line.startswith((b"#", b"*"))]
    header = re.fullmatch(rb"(\d+) landmarks:?", lines[0][1]) if lines else None
    if not header:
        raise ScanFormatError(f"{path}: there is no line 'N landmarks:' in it")
    count, body = int(header[1][:6]), lines[1:]
    if count > 24 or len(body) < 2 * count:
        raise ScanFormatError(
            f"{path}: it announces {count} landmarks and holds {len(body) // 2}; 24 are known"
        )
    landmarks = {}
    for (_, name), (number, place) in zip(body[0 : 2 * count : 2], body[1 : 2 * count : 2]):
        try:
            values = np.array(place.split(), dtype=np.float64)
        except ValueError:
            values = np.empty(0)
        if values.shape != (3,) or not (np.abs(values) < 1e6).all():
            raise ScanFormatError(f"{path}, line {number}: {place[:40]!r} is not a place")
        landmarks[name.decode("ascii", "replace")[:40]] = values
    return landmarks
