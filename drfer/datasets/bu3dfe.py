"""BU-3DFE (Yin et al. 2006): 100 subjects x 25 scans, as its licensees have it on disk.

The cropped faces (`F0001_AN01WH_F3D.wrl`) are read from any depth of folders. VRML is read by its
words and not by its lines, since layouts differ between copies of the database. The landmarks
(`.bnd`) are not read: nothing here uses them.
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


FARTHEST = 1e6
"""mm; a coordinate beyond this is no measurement."""


class BU3DFE(ScanFolder):
    """BU-3DFE in a folder of the user's.

    Args:
        root: the folder.

    Raises:
        DrferError: there is no such folder, or no BU-3DFE scan in it.
    """

    name = "bu3dfe"
    intensities = (3, 4)
    why_none = "no file in it is named like F0001_AN01WH_F3D.wrl"

    def key_of(self, path: Path) -> ScanKey | None:
        """Return which scan a file is: `F0001_AN01WH_F3D.wrl` is F0001's anger at intensity 1."""
        match = FILE_NAME.fullmatch(path.name)
        if not match:
            return None
        subject, code, intensity = match.groups()
        expression = EXPRESSION_CODES[code.upper()]
        if (expression == NEUTRAL) != (intensity == "00"):
            return None
        return ScanKey(subject.upper(), expression, int(intensity))

    def is_stranger(self, path: Path) -> bool:
        """Return whether a file ends like a cropped face."""
        return path.name.upper().endswith("_F3D.WRL")

    def read(self, path: Path, key: ScanKey) -> FaceScan:
        """Return the scan in a VRML file."""
        points, triangles = without_loose_points(*read_vrml(path))
        return FaceScan(points, triangles, key, str(path))


def without_loose_points(
    points: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same mesh without points that no triangle names.

    Args:
        points: shape (n, 3).
        triangles: indices of points, shape (m, 3).

    Returns:
        The points that are left, in their order, and triangles (m, 3), int32, over those.
    """
    used = np.zeros(len(points), dtype=bool)
    used[triangles] = True
    return points[used], (np.cumsum(used, dtype=np.int32) - 1)[triangles]


def read_vrml(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the mesh of the face set in a VRML 2.0 file; polygons become fans of triangles.

    Returns:
        Points (n, 3), float32, in the file's unit (mm), and triangles (m, 3), int32.

    Raises:
        ScanFormatError: the sentence names the file and what is wrong in it.
    """
    text = path.read_bytes()
    if b"#" in text:  # comments, the header among them
        text = re.sub(rb"#[^\r\n]*", b"", text)
    points = _numbers(path, text, rb"\bCoordinate\s*\{\s*point\s*\[", "point", np.float64)
    if points.size == 0 or points.size % 3:
        raise ScanFormatError(
            f"{path}: its point list holds {points.size} numbers, not a multiple of 3"
        )
    if not np.isfinite(points).all() or np.abs(points).max() > FARTHEST:
        raise ScanFormatError(
            f"{path}: point {np.argmax(~(np.abs(points) <= FARTHEST)) // 3} "
            "is not finite, or farther than a kilometre away"
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
    """Return the numbers between a keyword's [ and its ]."""
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
    """Return which word is the first that is no number, by halving: lists are long."""
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
    """Return triangles (m, 3) that fan out from the first point of each polygon.

    Each polygon ends with -1; the last may go without.
    """
    if index.size and index[-1] != -1:
        index = np.append(index, -1)
    ends = np.flatnonzero(index == -1)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    fans = np.maximum(ends - starts - 2, 0)  # triangles of each polygon
    first = np.repeat(starts, fans)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(fans) - fans, fans)
    return np.stack([index[first], index[second], index[second + 1]], axis=1)
