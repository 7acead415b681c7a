"""One face scan, and which scan of a database it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drfer.common.errors import ScanFormatError

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""The six basic expressions (Ekman), in the alphabetical order of their labels 0-5."""

NEUTRAL = "neutral"


@dataclass(frozen=True)
class ScanKey:
    """Which scan of a database: subject ("F0001"), expression ("fear" or "neutral"), level (1-4; neutral 0)."""

    subject: str
    expression: str
    level: int

    def __str__(self) -> str:
        return f"{self.subject} {self.expression} {self.level}"


@dataclass(frozen=True)
class FaceScan:
    """One face as a scanner gave it: a triangle mesh in millimetres, in the scanner's own pose.

    points: (n, 3) float32, mm, +y up, +z to the viewer up to the head's pose. triangles: (m, 3) int32.
    landmarks: (l, 3) mm, or None where the database has none. source: the file or generator it came from.
    Raises ScanFormatError if it holds no points, NaN or infinities, or triangles that name no point.
    """

    points: np.ndarray
    triangles: np.ndarray
    key: ScanKey
    source: str
    landmarks: np.ndarray | None = None

    def __post_init__(self) -> None:
        def refuse(reason: str) -> None:
            raise ScanFormatError(f"{self.source}, scan {self.key}: {reason}")

        if self.points.ndim != 2 or self.points.shape[1:] != (3,):
            refuse(f"points must be (n, 3), not {self.points.shape}")
        if len(self.points) == 0:
            refuse("it has no points; remove it or export it again")
        bad = np.flatnonzero(~np.isfinite(self.points).all(axis=1))
        if len(bad):
            refuse(
                f"point {bad[0]} is not finite ({self.points[bad[0]].tolist()}); {len(bad)} such points in all"
            )
        if self.triangles.ndim != 2 or self.triangles.shape[1:] != (3,) or len(self.triangles) == 0:
            refuse(f"triangles must be (m, 3) with m > 0, not {self.triangles.shape}")
        if self.triangles.min() < 0 or self.triangles.max() >= len(self.points):
            refuse(
                f"a triangle names point {self.triangles.max()}, but there are {len(self.points)}"
            )
