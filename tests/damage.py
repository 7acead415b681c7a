"""What real scans suffer and the open faces do not: spikes, hair, collars, lost cheeks, any pose.

Everything is drawn in the head's frame (origin at the nose tip, +y up, +z to the viewer, mm), which
the truth knows.
"""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from drfer.datasets.scan import FaceScan
from drfer.preprocessing.registration import register

ANGLES = (0, 10, 20, 30)
DAMAGES = {
    "none": (),
    "spikes": ("spikes",),
    "hair": ("hair",),
    "collar": ("collar",),
    "cheek": ("cheek",),
    "tangle": ("tangle",),
    "all": ("hair", "collar", "cheek", "spikes"),
}
SPACING = 1.8
"""of the points on hair and collar, mm"""


def case(number, seed=0):
    """Angle, damage and generator of a drawn case: in turn over angles, then over damages."""
    damage = list(DAMAGES)[number // len(ANGLES) % len(DAMAGES)]
    return ANGLES[number % len(ANGLES)], damage, np.random.default_rng([seed, number])


def registered_case(database, number, seed=0):
    """Registration of a drawn scan, damaged, turned about a random axis and moved by 200 mm.

    Also the error of its pose in degrees and mm.
    """
    angle, damage, rng = case(number, seed)
    key = database.keys()[rng.integers(len(database.keys()))]
    scan, truth = database.load(key), database.truth(key).pose
    in_head_frame = (scan.points - truth[:3, 3]) @ truth[:3, :3]
    points, triangles = damaged(rng, in_head_frame, scan.triangles, DAMAGES[damage])
    axis, away = rng.normal(size=(2, 3))
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_rotvec(
        np.radians(angle) * axis / np.linalg.norm(axis)
    ).as_matrix()
    turned[:3, 3] = 200 * away / np.linalg.norm(away)
    moved = points @ turned[:3, :3].T + turned[:3, 3]
    registration = register(
        FaceScan(moved.astype(np.float32), triangles.astype(np.int32), key, "damaged")
    )
    return registration, *pose_error(registration.pose @ turned)


def pose_error(pose):
    """Degrees and mm between a pose (4, 4), head's frame -> template's frame, and the true one."""
    from drfer.preprocessing import template

    turn = Rotation.from_matrix(pose[:3, :3]).magnitude()
    return np.degrees(turn), np.linalg.norm(pose[:3, 3] + template.load().origin)


def damaged(rng, points, triangles, damages):
    """A scan in the head's frame (n, 3), (m, 3) with hair, collar ... in its way.

    Only points of triangles remain.
    """
    for damage in damages:
        points, triangles = globals()[f"_with_{damage}"](rng, points, triangles)
    used, triangles = np.unique(triangles, return_inverse=True)
    return points[used], triangles.reshape(-1, 3)


def _with_spikes(rng, points, triangles):
    """1 % of the points, 10-60 mm before or behind the surface."""
    thrown = rng.choice(len(points), len(points) // 100, replace=False)
    points = points.copy()
    points[thrown, 2] += rng.choice([-1, 1], len(thrown)) * rng.uniform(10, 60, len(thrown))
    return points, triangles


def _with_cheek(rng, points, triangles):
    """One cheek missing, from the side of the nose outwards, from below the eye to the jaw."""
    side = rng.choice([-1, 1])
    gone = (points[:, 0] * side > 18) & (points[:, 1] < 10) & (points[:, 1] > -75)
    return points, triangles[~gone[triangles].any(axis=1)]


def _with_hair(rng, points, triangles):
    """A rough, tattered surface over the forehead, and locks that hide the sides."""
    x, y = _grid((-92, 92), (-90, 125))
    fringe, lock, ends = rng.uniform(36, 60), rng.uniform(52, 66), rng.uniform(-85, 40, 2)
    edge = fringe - 0.005 * x**2 + 5 * _waves(rng, x.shape, 4)
    hair = (y > edge) | (
        (np.abs(x) > lock + 3 * _waves(rng, x.shape, 4)) & (y > ends[(x > 0).astype(int)])
    )
    depth = -16 - 32 * (x / 70) ** 2 - np.maximum(y - 60, 0) ** 2 / 50 + rng.uniform(3, 15)
    depth = depth + 4 * _waves(rng, x.shape, 3) + rng.normal(0, 1.5, x.shape)
    return _covered(points, triangles, x, y, depth, hair & (rng.random(x.shape) < 0.9))


def _with_collar(rng, points, triangles):
    """A folded band round the neck, up to the chin or below it."""
    x, y = _grid((-95, 95), (-150, -70))
    top = rng.uniform(-100, -80) + rng.uniform(0, 20) * (x / 95) ** 2 + 3 * _waves(rng, x.shape, 8)
    depth = (
        rng.uniform(-60, -35) - 50 * (x / 95) ** 2 - 0.3 * (y + 90) + 5 * _waves(rng, x.shape, 5)
    )
    return _covered(points, triangles, x, y, depth, y < top)


def _with_tangle(rng, points, triangles):
    """Hair and collar of the hardest kind: single triangles anywhere in the space they fill."""
    corners = [
        np.column_stack([rng.uniform(low, high, 1500) for low, high in box])
        for box in (((-80, 80), (45, 110), (-60, 10)), ((-90, 90), (-140, -95), (-60, 0)))
    ]
    loose = len(points) + np.arange(3000).reshape(-1, 3)
    return np.concatenate([points, *corners]), np.concatenate([triangles, loose])


def _grid(width, height):
    return np.meshgrid(np.arange(*width, SPACING), np.arange(*height, SPACING))


def _waves(rng, shape, size):
    """Smooth noise of unit standard deviation, as wide as so many grid cells."""
    noise = gaussian_filter(rng.normal(size=shape), size)
    return noise / noise.std()


def _covered(points, triangles, x, y, depth, there):
    """A scan and a surface over a grid, joined, without the scan's triangles behind the surface."""
    column = np.clip(np.rint((points[:, 0] - x[0, 0]) / SPACING).astype(int), 0, x.shape[1] - 1)
    row = np.clip(np.rint((points[:, 1] - y[0, 0]) / SPACING).astype(int), 0, x.shape[0] - 1)
    hidden = there[row, column] & (points[:, 2] < depth[row, column])
    number = np.arange(x.size).reshape(x.shape)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    corners = np.concatenate(
        [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    )
    surface = np.column_stack([x.ravel(), y.ravel(), depth.ravel()])
    edges = np.linalg.norm(surface[corners] - surface[np.roll(corners, 1, axis=1)], axis=-1)
    corners = corners[there.ravel()[corners].all(axis=1) & (edges.max(axis=1) < 12)]
    triangles = triangles[~hidden[triangles].any(axis=1)]
    return np.concatenate([points, surface]), np.concatenate([triangles, corners + len(points)])
