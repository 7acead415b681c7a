"""One face scan, and which scan of a database it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from drfer.common.errors import ScanFormatError

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""The six basic expressions (Ekman), in the alphabetical order of their labels 0 to 5."""

NEUTRAL = "neutral"


@dataclass(frozen=True)
class ScanKey:
    """Which scan of a database: whose face, which expression, and how strong."""

    subject: str
    """Such as "F0001"."""
    expression: str
    """`NEUTRAL`, or a class: one of `EXPRESSIONS`, or of the labels of a user's own scans."""
    intensity: int
    """Of the expression: 1 to 4 in BU-3DFE and Anny-3DFE, 1 elsewhere; neutral scans have 0."""

    def __str__(self) -> str:
        """Return the key in words, such as "F0001 fear 4"."""
        return f"{self.subject} {self.expression} {self.intensity}"


@dataclass(frozen=True, eq=False)
class FaceScan:
    """One face as a scanner gave it: a triangle mesh in millimetres, in the scanner's own pose.

    Raises:
        ScanFormatError: there are no points or triangles, a coordinate is not finite, or a
            triangle names a point that does not exist.
    """

    points: np.ndarray
    """Shape (n, 3), float32, mm; +y is up and +z towards the viewer, but for the head's pose."""
    triangles: np.ndarray
    """Indices of points, shape (m, 3), int32."""
    key: ScanKey
    source: str
    """The file or generator that the scan came from."""
    from_file: np.ndarray = field(default_factory=lambda: np.eye(4))
    """Matrix (4, 4) from the file's coordinates, in its unit, to `points`."""
    is_alone: bool = False
    """Whether nobody said which scan it is, so that its file's name is all that it is called."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a mesh."""
        points, triangles = self.points, self.triangles
        if points.ndim != 2 or points.shape[1:] != (3,):
            raise self.refusal(f"points must be (n, 3), not {points.shape}")
        if len(points) == 0:
            raise self.refusal("it has no points; remove it or export it again")
        bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(bad):
            raise self.refusal(
                f"point {bad[0]} is not finite ({points[bad[0]].tolist()}); "
                f"{len(bad)} such points in all"
            )
        if triangles.ndim != 2 or triangles.shape[1:] != (3,) or len(triangles) == 0:
            raise self.refusal(f"triangles must be (m, 3) with m > 0, not {triangles.shape}")
        if triangles.min() < 0 or triangles.max() >= len(points):
            raise self.refusal(
                f"a triangle names point {triangles.max()}, but there are {len(points)}"
            )

    def refusal(self, reason: str) -> ScanFormatError:
        """Return the error that names this scan and says why it cannot be used."""
        name = self.source if self.is_alone else f"{self.source}, scan {self.key}"
        return ScanFormatError(f"{name}: {reason}")
