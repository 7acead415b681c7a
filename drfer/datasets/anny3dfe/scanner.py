"""A frontal range scanner in simulation: rays, noise, spikes, holes, hair, crop, and any pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Scanner:
    """How scans come out. Lengths are in mm, angles in degrees; a range is drawn from evenly."""

    spacing: float = 1.5
    """Distance of neighbouring rays: about 8,000 vertices a face, as in BU-3DFE."""
    jitter: float = 0.3
    """Largest shift of a ray from its grid point, in grid spacings."""
    margin: float = 20.0
    """How far the grid reaches beyond the largest crop."""
    lift: float = 10.0
    """How far before the head the rays start."""
    deepest: float = -110.0
    """z, behind the nose tip, beyond which no scanned face reaches."""
    noise: float = 0.15
    """Standard deviation of depth."""
    spikes: int = 6
    """Largest number of vertices that are thrown out."""
    spike: tuple[float, float] = (5.0, 20.0)
    """Range of how far they are thrown, forward or back."""
    holes: int = 2
    """Largest number of round holes."""
    hole_radius: tuple[float, float] = (2.0, 5.0)
    hole_reach: float = 60.0
    """Largest distance of a hole's centre from the nose tip, along x and along y."""
    crop_radius: tuple[float, float] = (84.0, 98.0)
    """Range of the vertical half axis of the oval crop."""
    crop_width: float = 0.82
    """The oval's horizontal half axis, as a part of the vertical one."""
    crop_middle: tuple[float, float] = (0.0, 10.0)
    """Range of the height of the oval's middle above the nose tip."""
    hairline: tuple[float, float] = (58.0, 90.0)
    """Range of the hairline's height above the nose tip; what is above it is not seen."""
    hairline_fall: float = 0.006
    """By how much the hairline sinks to the sides: times x^2."""
    hairline_wave: float = 4.0
    """Height of the first of the hairline's waves; the k-th has a k-th of it."""
    hairline_waves: int = 3
    hairline_length: float = 20.0
    """Length, in mm a radian, of the first wave; the k-th has a k-th of it."""
    largest_edge: float = 7.0
    """Neighbouring rays farther apart than this are not joined: the edge of an occlusion."""
    angle: float = 10.0
    """Largest rotation about each axis."""
    shift: float = 50.0
    """Largest translation along each axis."""
    decimals: int = 3
    """Of a coordinate, as in a scanner's file."""


@dataclass(frozen=True, eq=False)
class RawScan:
    """What the scanner gives, and what only the simulation knows."""

    points: np.ndarray
    """Shape (n, 3), float32, mm, in the scanner's frame."""
    triangles: np.ndarray
    """Indices of points, shape (m, 3), int32."""
    pose: np.ndarray
    """Matrix (4, 4) from the head's canonical frame to the scanner's."""
    hit_triangle: np.ndarray
    """Which triangle of the head each point saw, shape (n,)."""
    hit_barycentric: np.ndarray
    """Where on it: barycentric coordinates (u, v) of its second and third corner, shape (n, 2)."""


def scan_face(
    rng: np.random.Generator,
    vertices: np.ndarray,
    triangles: np.ndarray,
    visible: np.ndarray,
    scanner: Scanner = Scanner(),
) -> RawScan:
    """Scan a head.

    Args:
        rng: where the draws come from.
        vertices: of the head in its canonical frame (nose tip near the origin), shape (v, 3), mm.
        triangles: of the head, shape (t, 3).
        visible: which triangles a scanner may see, shape (t,).
        scanner: how the scan comes out.
    """
    grid = _ray_grid(rng, scanner)
    depth, hit_triangle, hit_barycentric = cast_rays(vertices, triangles, grid, scanner)
    kept = (hit_triangle >= 0) & visible[hit_triangle] & _inside_crop(rng, grid, scanner)
    kept &= ~_in_holes(rng, grid, scanner)
    depth = depth + rng.normal(0, scanner.noise, depth.shape)
    _add_spikes(rng, depth, kept, scanner)

    points = np.concatenate([grid, depth[..., None]], axis=-1)
    faces, used = _triangulate(points, kept, scanner.largest_edge)
    pose = _draw_pose(rng, scanner)
    posed = points.reshape(-1, 3)[used] @ pose[:3, :3].T + pose[:3, 3]
    return RawScan(
        points=np.round(posed, scanner.decimals).astype(np.float32),
        triangles=faces,
        pose=pose,
        hit_triangle=hit_triangle.ravel()[used],
        hit_barycentric=hit_barycentric.reshape(-1, 2)[used],
    )


def _ray_grid(rng: np.random.Generator, scanner: Scanner) -> np.ndarray:
    reach = scanner.crop_radius[1] + scanner.margin
    axis = np.arange(-reach, reach, scanner.spacing)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    return grid + rng.uniform(-scanner.jitter, scanner.jitter, grid.shape) * scanner.spacing


def cast_rays(
    vertices: np.ndarray, triangles: np.ndarray, grid: np.ndarray, scanner: Scanner = Scanner()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find what rays along -z hit first.

    Args:
        vertices: of a surface, shape (v, 3), mm.
        triangles: of the surface, shape (t, 3).
        grid: x and y of each ray, shape (rows, columns, 2), mm.
        scanner: where rays begin, and how deep they reach.

    Returns:
        For each ray the depth z, shape (rows, columns), the triangle that was hit (-1 for none),
        and the barycentric coordinates of its second and third corner, shape (rows, columns, 2).
    """
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    start = vertices[:, 2].max() + scanner.lift
    origins = np.concatenate([grid.reshape(-1, 2), np.full((grid[..., 0].size, 1), start)], axis=1)
    # setting up embree is the scanner's main cost
    reachable = np.flatnonzero(vertices[triangles[:, 0], 2] > scanner.deepest)
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), triangles[reachable].astype(np.int32))
    towards = np.broadcast_to(np.float32([0, 0, -1]), origins.shape).copy()
    hits = scene.run(origins.astype(np.float32), towards, output=True)
    shape = grid.shape[:2]
    triangle = np.where(hits["primID"] >= 0, reachable[hits["primID"]], -1).reshape(shape)
    barycentric = np.stack([hits["u"], hits["v"]], axis=-1).reshape(*shape, 2)
    return (start - hits["tfar"].astype(np.float64)).reshape(shape), triangle, barycentric


def _inside_crop(rng: np.random.Generator, grid: np.ndarray, scanner: Scanner) -> np.ndarray:
    x, y = grid[..., 0], grid[..., 1]
    vertical = rng.uniform(*scanner.crop_radius)
    middle = rng.uniform(*scanner.crop_middle)
    oval = (x / (scanner.crop_width * vertical)) ** 2 + ((y - middle) / vertical) ** 2 < 1
    phases = rng.uniform(0, 2 * np.pi, scanner.hairline_waves)
    waves = sum(
        scanner.hairline_wave / (k + 1) * np.sin(x * (k + 1) / scanner.hairline_length + phase)
        for k, phase in enumerate(phases)
    )
    return oval & (y < rng.uniform(*scanner.hairline) + waves - scanner.hairline_fall * x**2)


def _in_holes(rng: np.random.Generator, grid: np.ndarray, scanner: Scanner) -> np.ndarray:
    inside = np.zeros(grid.shape[:2], dtype=bool)
    reach = scanner.hole_reach
    for _ in range(rng.integers(0, scanner.holes + 1)):
        centre = rng.uniform([-reach, -reach], [reach, reach])
        radius = rng.uniform(*scanner.hole_radius)
        inside |= np.linalg.norm(grid - centre, axis=-1) < radius
    return inside


def _add_spikes(
    rng: np.random.Generator, depth: np.ndarray, kept: np.ndarray, scanner: Scanner
) -> None:
    pixels = np.flatnonzero(kept)
    for pixel in rng.choice(pixels, rng.integers(0, scanner.spikes + 1), replace=False):
        depth.flat[pixel] += rng.choice([-1, 1]) * rng.uniform(*scanner.spike)


def _triangulate(
    points: np.ndarray, kept: np.ndarray, largest_edge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Join the kept points of a grid by two triangles in each of its cells, where edges are short.

    Returns:
        Triangles over the points that are used, shape (m, 3), int32, and the flat grid indices of
        those points.
    """
    number = np.arange(kept.size).reshape(kept.shape)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    corners = np.concatenate(
        [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    )
    corners = corners[kept.ravel()[corners].all(axis=1)]
    positions = points.reshape(-1, 3)[corners]
    edges = np.linalg.norm(positions - np.roll(positions, 1, axis=1), axis=-1)
    corners = corners[edges.max(axis=1) < largest_edge]
    used, faces = np.unique(corners, return_inverse=True)
    return faces.reshape(-1, 3).astype(np.int32), used


def _draw_pose(rng: np.random.Generator, scanner: Scanner) -> np.ndarray:
    pose = np.eye(4)
    angles = rng.uniform(-scanner.angle, scanner.angle, 3)
    pose[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    pose[:3, 3] = rng.uniform(-scanner.shift, scanner.shift, 3)
    return pose
