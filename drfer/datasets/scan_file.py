"""One face in one file: a mesh, a cloud, a VRML face set or a range image, in any unit.

Every reader ends in a `FaceScan` in millimetres with +y up, or in one sentence.
"""

from __future__ import annotations

import re
from itertools import dropwhile
from pathlib import Path

import numpy as np
from scipy.spatial import QhullError

from drfer.common.errors import DrferError, ScanFormatError, check_known
from drfer.datasets import bosphorus, bu3dfe
from drfer.datasets.bu3dfe import FARTHEST, without_loose_points
from drfer.datasets.clouds import triangulated, visible_points
from drfer.datasets.scan import NEUTRAL, FaceScan, ScanKey

MESHES = (".obj", ".ply", ".stl")
CLOUDS = (".xyz", ".npy")
SUFFIXES = (*MESHES, *CLOUDS, ".wrl", ".bnt")
"""Endings of the files that can be read; a PLY may hold a mesh or a cloud."""
UP = {
    "y": np.eye(3),
    "-y": np.diag([-1.0, -1.0, 1.0]),
    "z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "-z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "x": np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]),
    "-x": np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 1]]),
}
"""Rotation (3, 3) that brings an axis to +y; with z up the face is taken to look along -y."""
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4, "um": 0.001}
"""Millimetres in a unit, by the name that `--unit` takes."""
NAMES_OF_UNITS = {"cm": "centimetres", "m": "metres", "in": "inches", "um": "micrometres"}
LONGEST_SIDES = (("m", 2.0), ("in", 14.5), ("cm", 70.0), ("mm", 20_000.0), ("um", np.inf))
"""The first unit is taken in which a scan's longest side is less than this. Faces with their forehead
have 0.15 to 0.25 m, which is 15 to 25 cm or 6 to 10 inches, and whole heads up to 0.35 m or 14 inches.
A smaller part of a face in centimetres is taken for inches (`second_guess`)."""
FAR_FROM_ORIGIN = 10_000.0
"""mm; a scan farther away, as surveyors place them, is moved, since float32 would round it."""
CAMERA = np.array([0.0, 0.0, 600.0])
"""Where a cloud's points are seen from, mm from its middle: the distance of a depth camera."""
FEWEST_POINTS = 500
"""Of a cloud that is made a surface of."""
# how a line of a cloud begins; what stands above the first such line is a heading
_THREE_NUMBERS = re.compile(r"(\s*[-+]?([\d.]+(e[-+]?\d+)?|nan)(\s|$)){3}", re.I)


def read_scan(
    path: Path, key: ScanKey | None = None, up: str = "y", unit: str | None = None
) -> FaceScan:
    """Return the scan in a file of any format that the kit reads, in millimetres.

    A cloud is made a surface of. What was decided about a file, such as its unit, is said in the
    scan's `source`.

    Args:
        path: an OBJ, PLY, STL, XYZ, NPY, `.wrl` or `.bnt` file of one face.
        key: which scan it is; by default the neutral one of a subject named like the file.
        up: the axis that points up in it, one of `UP`.
        unit: its unit, one of `UNITS`; by default it is judged by the scan's size.

    Raises:
        ScanFormatError: the file cannot be read, or holds no scan; the sentence says where in it.
        DrferError: the file has another ending, or there is no such axis or unit.
    """
    kind = path.suffix.lower()
    if path.is_dir():
        raise DrferError(f"{path}: this is a folder; name the files in it")
    if kind not in SUFFIXES:
        raise DrferError(f"{path}: no format that is read here; give {', '.join(SUFFIXES)}")
    check_axis_and_unit(up, unit)
    try:
        path.stat()  # an error that says more than "no file"
        if not path.is_file():  # a pipe would never end
            raise ScanFormatError(f"{path}: this is not a file that could hold a scan")
        points, triangles = _read(path, kind)
    except OSError as error:
        raise ScanFormatError(f"{path}: cannot be read ({error.strerror})") from None
    points, lost = _without_lost_points(path, points, triangles)
    points, remarks, from_file = _in_millimetres(path, points, up, unit)
    remarks += lost
    if triangles is None:
        points, triangles = surface_of_cloud(path, points)
        remarks.append("a surface made of its points")
    elif kind in MESHES:
        # STL gives each triangle corners of its own, and OBJ may part a surface where its texture
        # is: taken as they are, every such edge would be the scan's border
        points, index = np.unique(points, axis=0, return_inverse=True)
        triangles = index.reshape(-1)[triangles].astype(np.int32)
    source = f"{path} ({', '.join(remarks)})" if remarks else str(path)
    named = key or ScanKey(path.stem, NEUTRAL, 0)
    return FaceScan(points.astype(np.float32), triangles, named, source, from_file, key is None)


def check_axis_and_unit(up: str, unit: str | None) -> None:
    """Check that an axis is one of `UP`, and a unit one of `UNITS` or None.

    Raises:
        DrferError: it is not; the sentence lists those that are.
    """
    check_known("axis", up, UP)
    if unit is not None:
        check_known("unit", unit, UNITS)


def _read(path: Path, kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return points (n, 3), float64, in the file's unit, and triangles (m, 3); None of a cloud."""
    if kind == ".wrl":
        points, triangles = without_loose_points(*bu3dfe.read_vrml(path))
    elif kind == ".bnt":
        points, triangles = bosphorus.mesh_of_range_image(path, bosphorus.read_bnt(path))
    elif kind == ".npy":
        points, triangles = _read_array(path), None
    elif kind == ".xyz":
        points, triangles = _read_columns(path), None
    else:
        points, triangles = _read_with_library(path, kind)
    return points.astype(np.float64), triangles


def _read_array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            points = np.load(file, allow_pickle=False)
    except Exception as error:  # whatever a broken header makes numpy raise
        what = _first_line(error).split(". ")[0]
        raise ScanFormatError(f"{path}: cannot be read as NPY ({what})") from None
    if not isinstance(points, np.ndarray) or points.ndim != 2 or points.shape[1] < 3:
        shape = getattr(points, "shape", "an archive")
        raise ScanFormatError(f"{path}: points are rows of x, y and z, but it holds {shape}")
    if not (np.issubdtype(points.dtype, np.floating) or np.issubdtype(points.dtype, np.integer)):
        raise ScanFormatError(f"{path}: it holds {points.dtype}, not numbers")
    return points[:, :3]


def _read_columns(path: Path) -> np.ndarray:
    """Read x, y and z from lines of numbers, parted by spaces, commas, semicolons or tabs.

    What stands above the first line of three numbers is a heading.
    """
    text = path.read_text(encoding="utf-8", errors="replace").translate({44: " ", 59: " "})
    rows = list(dropwhile(lambda line: not _THREE_NUMBERS.match(line), text.splitlines()))
    if not rows:
        raise ScanFormatError(f"{path}: cannot be read as XYZ: no line has three numbers")
    try:
        return np.loadtxt(rows, usecols=(0, 1, 2), ndmin=2)
    except ValueError as error:
        raise ScanFormatError(f"{path}: cannot be read as XYZ ({_first_line(error)})") from None


def _read_with_library(path: Path, kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    import trimesh

    try:
        # given the file and not its path, trimesh leaves materials and textures beside it alone
        with path.open("rb") as file:
            read = trimesh.load_scene(file, file_type=kind[1:], process=False)
        parts = list(read.geometry.values())
        if len(parts) > 1 and all(isinstance(part, trimesh.Trimesh) for part in parts):
            parts = [read.to_mesh()]
        if len(parts) != 1:
            raise ValueError(f"{len(parts)} meshes or clouds")
        (mesh,) = parts
        points = np.asarray(mesh.vertices, dtype=np.float64)
        is_cloud = isinstance(mesh, trimesh.PointCloud)
        triangles = None if is_cloud else np.asarray(mesh.faces, dtype=np.int64)
    except Exception as error:  # whatever a broken file makes the library raise
        name = kind[1:].upper()
        raise ScanFormatError(
            f"{path}: cannot be read as {name}; it is cut off, damaged, or something else "
            f"({_first_line(error)})"
        ) from None
    if points.ndim != 2 or points.shape[1] != 3:
        raise ScanFormatError(f"{path}: it holds no points of x, y and z")
    polygons = mesh.metadata.get("_ply_raw", {}).get("face", {}).get("length", 0)
    if polygons > (0 if triangles is None else len(triangles)):
        raise ScanFormatError(
            f"{path}: its header promises {polygons} polygons, "
            f"but {0 if triangles is None else len(triangles)} are there"
        )
    if triangles is None or (len(triangles) == 0 and kind == ".ply"):
        return points, None
    if triangles.ndim != 2 or triangles.shape[1] != 3 or len(triangles) == 0:
        raise ScanFormatError(f"{path}: it holds no triangle mesh")
    if triangles.min() < 0 or triangles.max() >= len(points):
        raise ScanFormatError(f"{path}: its triangles name points that are not there")
    return without_loose_points(points, triangles)


def _without_lost_points(
    path: Path, points: np.ndarray, triangles: np.ndarray | None
) -> tuple[np.ndarray, list[str]]:
    """Return a cloud's points without those that a depth camera lost, and say so; a mesh has none."""
    finite = np.isfinite(points).all(axis=1)
    lost = int((~finite).sum())
    if lost and triangles is not None:
        raise ScanFormatError(
            f"{path}: point {np.argmin(finite)} is not finite; {lost} such points in all"
        )
    if not finite.any():
        raise ScanFormatError(f"{path}: it has no points; export it again")
    remarks = [f"without {lost:,} points that are not finite"] if lost else []
    return points[finite], remarks


def _in_millimetres(
    path: Path, points: np.ndarray, up: str, unit: str | None
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return points (n, 3) in mm with y up, what was decided, and the matrix that did it."""
    remarks = []
    if unit is None:
        unit = unit_by_size(points)
        if unit != "mm":
            remarks.append(f"in {NAMES_OF_UNITS[unit]}, by its size")
    from_file = np.eye(4)
    from_file[:3, :3] = UNITS[unit] * UP[up]
    points = points @ from_file[:3, :3].T
    middle = np.round(np.median(points, axis=0))
    if np.abs(middle).max() > FAR_FROM_ORIGIN:
        points, from_file[:3, 3] = points - middle, -middle
        remarks.append("moved to the origin")
    near = (np.abs(points) < FARTHEST).all(axis=1)
    if not near.all():
        raise ScanFormatError(
            f"{path}: point {np.argmin(near)} is too far away from the others to be measured"
        )
    return points, remarks, from_file


def unit_by_size(points: np.ndarray) -> str:
    """Return the unit that makes some points (n, 3) as large as a face or a head.

    Stray points, the outermost hundredth at each side, do not count.
    """
    low, high = np.percentile(points, (1, 99), axis=0)
    longest = (high - low).max()
    return next(unit for unit, most in LONGEST_SIDES if longest < most)


def second_guess(scan: FaceScan) -> str | None:
    """Return the unit that a scan may have if it is no face in the one that its size suggested.

    Part of a face in centimetres is as large as a whole head in inches. Of a scan that was not taken
    for inches there is no second guess: None.
    """
    inches = np.isclose(np.linalg.norm(scan.from_file[:3, 0]), UNITS["in"])
    return "cm" if inches else None


def surface_of_cloud(path: Path, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the points of a cloud that are seen from the front.

    Args:
        path: the cloud's file, for errors.
        points: shape (n, 3), mm; the face looks along +z.

    Returns:
        The points that are seen, (k, 3), and triangles (m, 3), int32, counter-clockwise for the
        viewer.

    Raises:
        ScanFormatError: there are too few points for a surface.
    """
    points = np.unique(points, axis=0)
    if len(points) < FEWEST_POINTS:
        raise ScanFormatError(
            f"{path}: a cloud of {len(points)} points is no surface; "
            f"it takes {FEWEST_POINTS}, and better {10 * FEWEST_POINTS}"
        )
    try:
        points = points[visible_points(points, np.median(points, axis=0) + CAMERA)]
    except QhullError:
        raise ScanFormatError(f"{path}: its points lie on a line or in a plane") from None
    triangles = triangulated(points)
    if len(triangles) == 0:
        raise ScanFormatError(f"{path}: its points are no surface")
    return without_loose_points(points, triangles)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
