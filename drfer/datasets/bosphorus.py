"""Bosphorus (Savran et al. 2008): range images of 105 subjects; 65 show all six expressions.

A `.bnt` file holds five planes of doubles. Its range image becomes a mesh: spikes are removed,
neighbours are joined where they are near, and the largest piece is cropped around the nose tip.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scipy.ndimage import median_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from drfer.common.errors import ScanFormatError
from drfer.datasets.bu3dfe import FARTHEST, without_loose_points
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
"""Action units, turned heads and occlusions, which this kit does not use."""
EXPRESSIVE_SUBJECTS = sorted(set(range(105)) - {7, 10, 13, 20, 92} - set(range(47, 82)))
"""Numbers of the 65 subjects with all six expressions, after a published list."""

NOSE_TIP = "Nose tip"
"""The one landmark that is read, as the `.lm3` files name it."""
CROP = 80.0
"""mm around the nose tip that are kept."""
LONGEST_EDGE = 6.0
"""mm; neighbours farther apart are not joined."""
SPIKE = 4.0
"""mm; a point this far from the median of its 3 x 3 neighbourhood is no part of the face."""
MOST_PIXELS = 2_000_000
"""Of a range image: more than the database's scanner has (1600 x 1200)."""
MOST_BYTES = 100_000
"""Of a file of landmarks, which has one or two thousand."""


class Bosphorus(ScanFolder):
    """Bosphorus in a folder of the user's; of several takes of an expression the first counts.

    Expressive scans have intensity 1.

    Args:
        root: the folder.

    Raises:
        DrferError: there is no such folder, or no Bosphorus scan in it.
    """

    name = "bosphorus"
    intensities = (1,)
    companion = ".lm3"
    version = 2
    why_none = "no file in it is named like bs000_E_FEAR_0.bnt"

    def key_of(self, path: Path) -> ScanKey | None:
        """Return which scan a file is: `bs000_E_FEAR_0.bnt` is bs000's fear."""
        match = FILE_NAME.fullmatch(path.name)
        if not match:
            return None
        subject, code, _ = match.groups()
        if not code:
            return ScanKey(subject.lower(), NEUTRAL, 0)
        return ScanKey(subject.lower(), EXPRESSION_CODES[code.upper()], 1)

    def is_stranger(self, path: Path) -> bool:
        """Return whether a file is a range image, but of no kind that is known."""
        return path.suffix.lower() == ".bnt" and not OTHER_SCANS.fullmatch(path.name)

    def read(self, path: Path, key: ScanKey) -> FaceScan:
        """Return the scan in a `.bnt` file, cropped around the nose tip.

        The tip is the one in the `.lm3` file beside it. Where that file is missing or damaged, it
        is the foremost point; of damage the scan's source tells.
        """
        beside, source, nose = path.with_suffix(self.companion), str(path), None
        if beside.is_file():
            try:
                nose = read_nose_tip(beside)
            except (ScanFormatError, OSError) as error:
                source = f"{path} (cropped around its foremost point, since {error})"
        points, triangles = mesh_of_range_image(path, read_bnt(path), nose)
        return FaceScan(points, triangles, key, source)


def read_bnt(path: Path) -> np.ndarray:
    """Return the range image of a `.bnt` file.

    Returns:
        Shape (rows, columns, 3), mm, top row first; NaN where there is background.

    Raises:
        ScanFormatError: the sentence names the file and the field that is wrong.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(14)
        if len(header) < 14 or size < 18:
            raise ScanFormatError(
                f"{path}: {size} bytes are too few for a .bnt header; the file is cut off"
            )
        rows, columns = np.frombuffer(header, "<u2", 2).tolist()
        background = float(np.frombuffer(header, "<f8", 1, offset=4)[0])
        name_length = int(np.frombuffer(header, "<u2", 1, offset=12)[0])
        start = 14 + name_length + 4
        if size < start:
            raise ScanFormatError(
                f"{path}: its image name of {name_length} bytes runs past the end; "
                "the file is cut off"
            )
        file.seek(start - 4)
        count = int(np.frombuffer(file.read(4), "<u4", 1)[0])
        pixels = rows * columns
        _check_size(path, (rows, columns), count, start, size)
        values = np.frombuffer(file.read(8 * 3 * pixels), "<f8")
    if values.size < 3 * pixels:
        raise ScanFormatError(f"{path}: it became shorter while it was read")
    image = np.moveaxis(values.reshape(3, rows, columns), 0, -1)[::-1].copy()  # bottom row first
    background_anywhere = (image == background).any(axis=-1)
    image[background_anywhere | ~(np.abs(image) < FARTHEST).all(axis=-1)] = np.nan
    return image


def _check_size(path: Path, shape: tuple[int, int], count: int, start: int, size: int) -> None:
    """Compare what a header claims with what the file holds."""
    rows, columns = shape
    pixels = rows * columns
    if pixels == 0 or count < 3 * pixels:
        raise ScanFormatError(
            f"{path}: {rows} rows of {columns} need {5 * pixels} numbers, its header counts {count}"
        )
    if size < start + 8 * 3 * pixels:  # the coordinates must be there; u and v are not used
        raise ScanFormatError(
            f"{path}: {rows} rows of {columns} need {start + 40 * pixels} bytes, "
            f"the file has {size}; it is cut off"
        )
    if pixels > MOST_PIXELS:
        raise ScanFormatError(
            f"{path}: {rows} rows of {columns} are more than the {MOST_PIXELS:,} pixels "
            "that a range image may have"
        )


def mesh_of_range_image(
    path: Path, image: np.ndarray, nose: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Join the neighbouring pixels of a range image to a mesh, and crop the face.

    Args:
        path: the image's file, for errors.
        image: shape (rows, columns, 3), mm, top row first, NaN for background.
        nose: the nose tip, shape (3,), mm; if None, the foremost point of the largest piece.

    Returns:
        Points (n, 3), float32, mm, and triangles (m, 3), int32, counter-clockwise for the viewer.

    Raises:
        ScanFormatError: nothing is left.
    """
    filled = np.where(np.isnan(image[..., 2]), -1e9, image[..., 2])
    smooth = median_filter(filled, size=3, mode="nearest")
    image = np.where((np.abs(filled - smooth) < SPIKE)[..., None], image, np.nan)
    triangles = _largest_piece(_triangles_of_grid(image), filled.size)
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


def _triangles_of_grid(image: np.ndarray) -> np.ndarray:
    """Return two triangles (m, 3) for each square of pixels, where their edges are short."""
    down, right = _joined(image[:-1], image[1:]), _joined(image[:, :-1], image[:, 1:])
    diagonal = _joined(image[:-1, :-1], image[1:, 1:])
    number = np.arange(image[..., 0].size).reshape(image.shape[:2])
    square = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    halves = (
        ((0, 1, 2), down[:, :-1] & right[1:] & diagonal),
        ((0, 2, 3), right[:-1] & down[:, 1:] & diagonal),
    )
    return np.concatenate(
        [np.stack([square[k][kept] for k in corners], axis=-1) for corners, kept in halves]
    )


def _joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return whether neighbours (rows, columns, 3) are both there and near enough for an edge."""
    return ((a - b) ** 2).sum(axis=-1) < LONGEST_EDGE**2


def _largest_piece(triangles: np.ndarray, points: int) -> np.ndarray:
    if len(triangles) == 0:
        return triangles
    ends = triangles[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), dtype=bool), ends.T), shape=(points, points))
    piece = connected_components(graph, directed=False)[1][triangles[:, 0]]
    return triangles[piece == np.bincount(piece).argmax()]


def read_nose_tip(path: Path) -> np.ndarray | None:
    """Return the nose tip, shape (3,), mm, of an `.lm3` file, or None if it marks none.

    Raises:
        ScanFormatError: the sentence names the file and the line that is wrong.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ScanFormatError(f"{path}: {size} bytes are too many for a file of landmarks")
    lines = [line.strip() for line in path.read_bytes().splitlines()]
    for number, line in enumerate(lines, start=1):
        if line != NOSE_TIP.encode():
            continue
        words = lines[number].split() if number < len(lines) else []
        try:
            position = np.array(words, dtype=np.float64)
        except ValueError:
            position = np.empty(0)
        if position.shape != (3,) or not (np.abs(position) < FARTHEST).all():
            raise ScanFormatError(f"{path}, line {number + 1}: {words[:3]!r} are no coordinates")
        return position
    if not any(re.fullmatch(rb"\d+ landmarks:?", line) for line in lines):
        raise ScanFormatError(f"{path}: there is no line 'N landmarks:' in it")
    return None
