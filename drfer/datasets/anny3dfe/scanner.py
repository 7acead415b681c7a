"""A frontal range scanner in simulation: rays, noise, spikes, holes, hair, crop, and an arbitrary pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from scipy.spatial.transform import Rotation

DEEPEST = -110.0
"""z, mm behind the nose tip, beyond which no scanned face reaches"""


@dataclass(frozen=True)
class Scanner:
    """All lengths in mm, angles in degrees."""

    spacing: float = 1.5
    """distance of neighbouring rays: about 8,000 vertices a face, as in BU-3DFE"""
    jitter: float = 0.3
    """largest shift of a ray from its grid place, in grid spacings"""
    noise: float = 0.15
    """standard deviation of depth"""
    spikes: int = 6
    """largest number of vertices thrown out by 5-20 mm"""
    holes: int = 2
    """largest number of round holes, of radius 2-5 mm"""
    crop_radius: tuple[float, float] = (84.0, 98.0)
    """range of the vertical half axis of the oval crop around the face's middle; its width is 0.82 of it"""
    hairline: tuple[float, float] = (58.0, 90.0)
    """range of the hairline's height above the nose tip; it waves by 4 mm and hides what is above"""
    largest_edge: float = 7.0
    """neighbouring rays further apart than this are not joined: the edge of an occlusion"""
    angle: float = 10.0
    """largest rotation about each axis"""
    shift: float = 50.0
    """largest translation along each axis"""


@dataclass(frozen=True)
class RawScan:
    """What the scanner gives, and what only the simulation knows.

    points: (n, 3) mm in the scanner's frame. triangles: (m, 3). pose: (4, 4) from the head's canonical frame
    to the scanner's. hit_triangle: (n,) and hit_place: (n, 2), barycentric (u, v): the place on the head's
    surface that each point saw.
    """

    points: np.ndarray
    triangles: np.ndarray
    pose: np.ndarray
    hit_triangle: np.ndarray
    hit_place: np.ndarray


def scan_face(
    rng: np.random.Generator,
    vertices: np.ndarray,
    triangles: np.ndarray,
    visible: np.ndarray,
    scanner: Scanner,
) -> RawScan:
    """Scan a head (v, 3) mm in its canonical frame, nose tip near the origin; visible: (t,) which triangles count."""
    grid = _ray_grid(rng, scanner)
    depth, hit_triangle, hit_place = cast_rays(vertices, triangles, grid)
    kept = (hit_triangle >= 0) & visible[hit_triangle] & _inside_crop(rng, grid, scanner)
    kept &= ~_in_holes(rng, grid, scanner)
    depth = depth + rng.normal(0, scanner.noise, depth.shape)
    _add_spikes(rng, depth, kept, scanner)

    points = np.concatenate([grid, depth[..., None]], axis=-1)
    faces, used = _triangulate(points, kept, scanner.largest_edge)
    pose = _draw_pose(rng, scanner)
    posed = points.reshape(-1, 3)[used] @ pose[:3, :3].T + pose[:3, 3]
    return RawScan(
        points=np.round(posed, 3).astype(np.float32),  # a scanner's file holds three decimals
        triangles=faces,
        pose=pose,
        hit_triangle=hit_triangle.ravel()[used],
        hit_place=hit_place.reshape(-1, 2)[used],
    )


def _ray_grid(rng: np.random.Generator, scanner: Scanner) -> np.ndarray:
    reach = scanner.crop_radius[1] + 20
    axis = np.arange(-reach, reach, scanner.spacing)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    return grid + rng.uniform(-scanner.jitter, scanner.jitter, grid.shape) * scanner.spacing


def cast_rays(
    vertices: np.ndarray, triangles: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth z, triangle (-1: none) and barycentric place of the first hit of each ray along -z."""
    start = vertices[:, 2].max() + 10
    origins = np.concatenate([grid.reshape(-1, 2), np.full((grid[..., 0].size, 1), start)], axis=1)
    reachable = np.flatnonzero(
        vertices[triangles[:, 0], 2] > DEEPEST
    )  # embree's set-up is the scanner's main cost
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), triangles[reachable].astype(np.int32))
    towards = np.broadcast_to(np.float32([0, 0, -1]), origins.shape).copy()
    hits = scene.run(origins.astype(np.float32), towards, output=True)
    shape = grid.shape[:2]
    triangle = np.where(hits["primID"] >= 0, reachable[hits["primID"]], -1).reshape(shape)
    place = np.stack([hits["u"], hits["v"]], axis=-1).reshape(*shape, 2)
    return (start - hits["tfar"].astype(np.float64)).reshape(shape), triangle, place


def _inside_crop(rng: np.random.Generator, grid: np.ndarray, scanner: Scanner) -> np.ndarray:
    x, y = grid[..., 0], grid[..., 1]
    vertical = rng.uniform(*scanner.crop_radius)
    middle = rng.uniform(0, 10)
    oval = (x / (0.82 * vertical)) ** 2 + ((y - middle) / vertical) ** 2 < 1
    phases, amplitude = rng.uniform(0, 2 * np.pi, 3), 4.0
    waves = sum(
        amplitude / (k + 1) * np.sin(x * (k + 1) / 20 + phase) for k, phase in enumerate(phases)
    )
    return oval & (y < rng.uniform(*scanner.hairline) + waves - 0.006 * x**2)


def _in_holes(rng: np.random.Generator, grid: np.ndarray, scanner: Scanner) -> np.ndarray:
    inside = np.zeros(grid.shape[:2], dtype=bool)
    for _ in range(rng.integers(0, scanner.holes + 1)):
        centre, radius = rng.uniform([-60, -60], [60, 60]), rng.uniform(2, 5)
        inside |= np.linalg.norm(grid - centre, axis=-1) < radius
    return inside


def _add_spikes(
    rng: np.random.Generator, depth: np.ndarray, kept: np.ndarray, scanner: Scanner
) -> None:
    places = np.flatnonzero(kept)
    for place in rng.choice(places, rng.integers(0, scanner.spikes + 1), replace=False):
        depth.flat[place] += rng.choice([-1, 1]) * rng.uniform(5, 20)


def _triangulate(
    points: np.ndarray, kept: np.ndarray, largest_edge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two triangles in each grid cell whose corners exist and lie near. Returns them over the used points,
    (m, 3) int32, and the flat grid indices of those points."""
    number = np.arange(kept.size).reshape(kept.shape)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    corners = np.concatenate(
        [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    )
    corners = corners[kept.ravel()[corners].all(axis=1)]
    places = points.reshape(-1, 3)[corners]
    edges = np.linalg.norm(places - np.roll(places, 1, axis=1), axis=-1)
    corners = corners[edges.max(axis=1) < largest_edge]
    used, faces = np.unique(corners, return_inverse=True)
    return faces.reshape(-1, 3).astype(np.int32), used


def _draw_pose(rng: np.random.Generator, scanner: Scanner) -> np.ndarray:
    pose = np.eye(4)
    angles = rng.uniform(-scanner.angle, scanner.angle, 3)
    pose[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    pose[:3, 3] = rng.uniform(-scanner.shift, scanner.shift, 3)
    return pose
