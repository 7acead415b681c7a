"""BU-3DFE (Yin et al. 2006): 100 subjects x 25 scans, as its licensees have it on disk.

Reads the cropped faces (`F0001_AN01WH_F3D.wrl`) and their landmarks (`.bnd`) from any depth of folders. VRML is read by
its words and not by its lines, since layouts differ between copies of the database.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from drfer.common.errors import ScanFormatError
from drfer.datasets.folder import ScanFolder
from drfer.datasets.scan import NEUTRAL, FaceScan, ScanKey

EXPRESSION_CODES = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "NE": NEUTRAL,
    "SA": "sadness",
    "SU": "surprise",
}
FILE_NAME = re.compile(
    r"([FM]\d{4})_(AN|DI|FE|HA|NE|SA|SU)(0[0-4])[A-Z]{2}_F3D\.wrl", re.IGNORECASE
)
LANDMARKS = 83
EYES, BROWS = (slice(0, 8), slice(8, 16)), (slice(16, 26), slice(26, 36))
"""landmarks of one side and the other; which one is the left is contradictory between copies"""


class BU3DFE(ScanFolder):
    """The database in a folder the user has. Raises DrferError if there is no such scan in it."""

    name = "bu3dfe"
    levels = (3, 4)
    landmarks_suffix = ".bnd"

    def key_of(self, path: Path) -> ScanKey | None:
        match = FILE_NAME.fullmatch(path.name)
        if not match:
            return None
        subject, code, level = match.groups()
        expression = EXPRESSION_CODES[code.upper()]
        if (expression == NEUTRAL) != (level == "00"):
            return None
        return ScanKey(subject.upper(), expression, int(level))

    def is_stranger(self, path: Path) -> bool:
        return path.name.upper().endswith("_F3D.WRL")

    def read(self, path: Path, key: ScanKey) -> FaceScan:
        points, triangles = read_vrml(path)
        beside = path.with_suffix(self.landmarks_suffix)
        landmarks = read_bnd(beside, points) if beside.exists() else None
        return FaceScan(*without_loose_points(points, triangles), key, str(path), landmarks)


def without_loose_points(
    points: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same mesh without points that no triangle names."""
    used = np.zeros(len(points), dtype=bool)
    used[triangles] = True
    return points[used], (np.cumsum(used, dtype=np.int32) - 1)[triangles]


def read_vrml(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) float32 and triangles (m, 3) int32 of the face set in a VRML 2.0 file; polygons become fans.

    Raises ScanFormatError naming the file and what is wrong in it.
    """
    text = path.read_bytes()
    if b"#" in text:  # comments, the header among them
        text = re.sub(rb"#[^\r\n]*", b"", text)
    points = _numbers(path, text, rb"\bCoordinate\s*\{\s*point\s*\[", "point", np.float64)
    if points.size == 0 or points.size % 3:
        raise ScanFormatError(
            f"{path}: its point list holds {points.size} numbers, not a multiple of 3"
        )
    if not np.isfinite(points).all() or np.abs(points).max() > 1e6:
        raise ScanFormatError(
            f"{path}: point {np.argmax(~(np.abs(points) <= 1e6)) // 3} is not a place in millimetres"
        )
    points = points.reshape(-1, 3).astype(np.float32)
    index = _numbers(path, text, rb"\bcoordIndex\s*\[", "coordIndex", np.int64)
    triangles = _fans(index)
    if len(triangles) == 0:
        raise ScanFormatError(f"{path}: its coordIndex list holds no polygon")
    outside = triangles[(triangles < 0) | (triangles >= len(points))]
    if outside.size:
        raise ScanFormatError(
            f"{path}: a polygon names point {outside[0]}, but there are {len(points)}"
        )
    return points, triangles.astype(np.int32)


def _numbers(path: Path, text: bytes, opening: bytes, what: str, dtype: type) -> np.ndarray:
    """The numbers between a keyword's [ and its ]."""
    found = re.search(opening, text)
    if not found:
        raise ScanFormatError(f"{path}: there is no {what} list in it; is it a VRML 2.0 face?")
    end = text.find(b"]", found.end())
    if end < 0:
        raise ScanFormatError(f"{path}: its {what} list is not closed; the file is cut off")
    words = text[found.end() : end].replace(b",", b" ").split()
    try:
        return np.array(words, dtype=dtype)
    except (ValueError, OverflowError):
        bad = _first_bad(words, dtype)
        raise ScanFormatError(
            f"{path}: word {bad + 1} of its {what} list is {words[bad][:20]!r}"
        ) from None


def _first_bad(words: list[bytes], dtype: type) -> int:
    """Number of the first word that is no number; halving, since a list may be long and its end the bad one."""
    start, end = 0, len(words)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            np.array(words[start:middle], dtype=dtype)
            start = middle
        except (ValueError, OverflowError):
            end = middle
    return start


def _fans(index: np.ndarray) -> np.ndarray:
    """Triangles (m, 3) of polygons that each end with -1 (the last may go without), from each polygon's first point."""
    if index.size and index[-1] != -1:
        index = np.append(index, -1)
    ends = np.flatnonzero(index == -1)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    fans = np.maximum(ends - starts - 2, 0)  # triangles of each polygon
    first = np.repeat(starts, fans)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(fans) - fans, fans)
    return np.stack([index[first], index[second], index[second + 1]], axis=1)


def small_file(path: Path) -> bytes:
    """The content of a file of landmarks, which has a few kilobytes. Raises ScanFormatError if it is far larger."""
    size = path.stat().st_size
    if size > 100_000:
        raise ScanFormatError(f"{path}: {size} bytes are too many for a file of landmarks")
    return path.read_bytes()


def read_bnd(path: Path, points: np.ndarray) -> np.ndarray:
    """Landmarks (83, 3), mm, of a `.bnd` file that names vertices of the mesh `points`; of eyes and brows the left
    one (greater x) comes first. Raises ScanFormatError naming file and line."""
    landmarks = []
    for number, line in enumerate(small_file(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            vertex = int(words[0])
            place = [float(word) for word in words[1:]]
        except ValueError:
            raise ScanFormatError(
                f"{path}, line {number}: {line[:40]!r} is not a vertex number and a place"
            ) from None
        if len(place) != 3 or not 0 <= vertex < len(points) or not (np.abs(place) < 1e6).all():
            raise ScanFormatError(
                f"{path}, line {number}: no place of one of the {len(points)} vertices"
            )
        landmarks.append(place)
        if len(landmarks) > LANDMARKS:
            break
    if len(landmarks) != LANDMARKS:
        count = f"more than {LANDMARKS}" if len(landmarks) > LANDMARKS else len(landmarks)
        raise ScanFormatError(f"{path}: it holds {count} landmarks, not {LANDMARKS}")
    landmarks = np.array(landmarks)
    for one, other in (EYES, BROWS):
        if landmarks[one, 0].mean() < landmarks[other, 0].mean():
            landmarks[one], landmarks[other] = landmarks[other].copy(), landmarks[one].copy()
    return landmarks
