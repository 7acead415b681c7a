"""Scans of your own: OBJ, PLY or STL of one face each, in metres or millimetres, any axis up."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.bu3dfe import FARTHEST, without_loose_points
from drfer.datasets.folder import ScanFolder
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey

SUFFIXES = (".obj", ".ply", ".stl")
TABLE = "scans.csv"
"""The table beside the scans. It has one line for each file, and the columns file (the name, or the
path in the folder), subject and expression."""
UP = {
    "y": np.eye(3),
    "-y": np.diag([-1.0, -1.0, 1.0]),
    "z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "-z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "x": np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]),
    "-x": np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 1]]),
}
"""Rotation (3, 3) that brings an axis to +y; with z up the face is taken to look along -y."""
METRES = 2.0
"""A scan whose longest side is shorter is in metres: a face has 0.1 to 0.5 m, or 100 to 500 mm."""


class Scans(ScanFolder):
    """A user's own scans in a folder, with the labels of its `scans.csv` if there is one.

    Without a table, each file is the neutral scan of a subject of its own.

    Args:
        root: the folder.
        up: the axis that points up in the files, one of `UP`.

    Raises:
        DrferError: there is no such axis or folder, the folder holds no scan, or the table is
            wrong (the sentence names the line).
    """

    name = "scans"
    intensities = (1,)
    version = 2

    def __init__(self, root: Path, up: str = "y") -> None:
        """Read the table, and find the scans by their names."""
        if up not in UP:
            raise DrferError(f"there is no axis {up!r}; choose from {', '.join(UP)}")
        self.up = up
        table = Path(root) / TABLE
        self.labels = _read_table(table) if table.exists() else None
        super().__init__(root)

    def key_of(self, path: Path) -> ScanKey | None:
        """Return which scan a file is, after the table or, without one, by its name."""
        if path.suffix.lower() not in SUFFIXES:
            return None
        if self.labels is None:
            return ScanKey(path.stem, NEUTRAL, 0)
        return self.labels.get(path.relative_to(self.root).as_posix()) or self.labels.get(path.name)

    def is_stranger(self, path: Path) -> bool:
        """Return whether a file is a mesh; it is then one that the table leaves out."""
        return path.suffix.lower() in SUFFIXES

    def read(self, path: Path, key: ScanKey) -> FaceScan:
        """Return the scan in a mesh file."""
        return read_scan(path, key, self.up)


def read_scan(path: Path, key: ScanKey, up: str = "y") -> FaceScan:
    """Return the scan in one mesh file, in millimetres; its `source` says if it was in metres.

    Args:
        path: an OBJ, PLY or STL file.
        key: which scan it is.
        up: the axis that points up in it, one of `UP`.

    Raises:
        ScanFormatError: the file holds no triangle mesh, or a damaged one.
    """
    points, triangles = _read_mesh(path)
    points, triangles = without_loose_points(points, triangles)
    near = (np.abs(points) < FARTHEST).all(axis=1)
    if not near.all():
        raise ScanFormatError(
            f"{path}: point {np.argmin(near)} is not finite, or too far away to be measured"
        )
    # STL gives each triangle corners of its own, and OBJ may part a surface where its texture is:
    # taken as they are, every such edge would be the scan's border
    points, index = np.unique(points, axis=0, return_inverse=True)
    triangles = index.reshape(-1)[triangles].astype(np.int32)
    source = str(path)
    if np.ptp(points, axis=0).max() < METRES:
        points, source = points * 1000, f"{path} (in metres, by its size)"
    return FaceScan((points @ UP[up].T).astype(np.float32), triangles, key, source)


def _read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 3), in the file's unit, and triangles (m, 3) as the library reads them."""
    import trimesh

    kind = path.suffix[1:]
    try:
        # given the file and not its path, trimesh leaves materials and textures beside it alone
        with path.open("rb") as file:
            mesh = trimesh.load_mesh(file, file_type=kind.lower(), process=False)
        points = np.asarray(mesh.vertices, dtype=np.float64)
        triangles = np.asarray(mesh.faces, dtype=np.int64)
    except Exception as error:  # whatever a broken file makes the library raise
        raise ScanFormatError(
            f"{path}: cannot be read as {kind.upper()} ({_first_line(error)})"
        ) from None
    if points.ndim != 2 or triangles.ndim != 2 or {points.shape[1], triangles.shape[1]} != {3}:
        raise ScanFormatError(f"{path}: it holds no triangle mesh")
    if len(triangles) == 0 or triangles.min() < 0 or triangles.max() >= len(points):
        raise ScanFormatError(
            f"{path}: it holds no triangles, or they name points that are not there"
        )
    polygons = mesh.metadata.get("_ply_raw", {}).get("face", {}).get("length", 0)
    if len(triangles) < polygons:
        raise ScanFormatError(
            f"{path}: its header promises {polygons} polygons, but {len(triangles)} are there"
        )
    return points, triangles


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def _read_table(path: Path) -> dict[str, ScanKey]:
    labels = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DrferError(f"{path}: cannot be read as a table ({error})") from None
    for line, row in enumerate(rows, start=2):
        missing = [name for name in ("file", "subject", "expression") if not row.get(name)]
        if missing:
            raise DrferError(f"{path}, line {line}: the column {missing[0]!r} is missing or empty")
        expression = row["expression"].strip().lower()
        if expression not in (*EXPRESSIONS, NEUTRAL):
            raise DrferError(
                f"{path}, line {line}: there is no expression {expression!r}; "
                f"choose from {', '.join((*EXPRESSIONS, NEUTRAL))}"
            )
        if (name := row["file"].strip()) in labels:
            raise DrferError(
                f"{path}, line {line}: {name!r} stands in it twice; "
                "give files their folder, as in anna/1.obj"
            )
        labels[name] = ScanKey(row["subject"].strip(), expression, int(expression != NEUTRAL))
    return labels
