"""How well faces register that the template's modes do not know.

Open scans are bent by smooth random fields, cut, meshed anew and roughened, so that the true pose
stays known. Run it as `python -m tests.other_faces 504`.
"""

import sys

import numpy as np
from scipy.spatial.transform import Rotation
from trimesh.remesh import subdivide

from drfer.common.parallel import map_on_all_cores
from drfer.datasets.anny3dfe.populations import Populations
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan
from drfer.preprocessing.registration import RegistrationSettings, register
from drfer.preprocessing.resampling import OTHER_FACES
from drfer.preprocessing.template import is_fitted
from tests.damage import pose_error

PEOPLE = {1101: 40}
"""Of development; whoever is tested tells nothing of them."""
WAVES = 60
"""That a smooth random field is a sum of."""


def bent(rng, points, height, length):
    """Points (n, 3), mm, moved by at most `height` mm on the face, smoothly over `length` mm."""
    frequency, phase = rng.normal(size=(WAVES, 3)) / length, rng.uniform(0, 2 * np.pi, WAVES)
    move = np.cos(points @ frequency.T + phase) @ rng.normal(size=(WAVES, 3))
    return points + height * move / np.linalg.norm(move[is_fitted(points)], axis=1).max()


def without_eyes_and_mouth(rng, points, triangles):
    x, y = np.abs(points[:, 0]), points[:, 1]
    eye = ((x - 32) / 17) ** 2 + ((y - 38) / 11) ** 2 < 1
    mouth = (x / 28) ** 2 + ((y + 33) / 13) ** 2 < 1
    return points, triangles[~(eye | mouth)[triangles].any(axis=1)]


def half(rng, points, triangles):
    kept = points[:, 0] * rng.choice([-1, 1]) > -5
    return points, triangles[kept[triangles].all(axis=1)]


def noisy(rng, points, triangles):
    return points + [0, 0, 1] * rng.normal(size=(len(points), 1)), triangles


def meshed_anew(count):
    """Return what makes about so many triangles, evenly, out of any mesh."""

    def change(rng, points, triangles):
        while len(triangles) < 2 * count:
            points, triangles = subdivide(points, triangles)
        low, high = 0.2, 20.0
        for _ in range(12):
            cell = (low + high) / 2
            made = joined(points, triangles, cell)
            low, high = (cell, high) if len(made[1]) > count else (low, cell)
        return made

    return change


def joined(points, triangles, cell):
    """A mesh whose points in one cell of a grid are one, their mean."""
    _, number = np.unique(np.floor(points / cell), axis=0, return_inverse=True)
    number = number.ravel()
    sums = [np.bincount(number, points[:, axis]) for axis in range(3)]
    corners = number[triangles]
    corners = corners[(corners != np.roll(corners, 1, axis=1)).all(axis=1)]
    _, first = np.unique(np.sort(corners, axis=1), axis=0, return_index=True)
    return np.stack(sums, axis=1) / np.bincount(number)[:, None], corners[first]


CHANGES = {
    "eyes and mouth cut out": without_eyes_and_mouth,
    "2,000 triangles": meshed_anew(2_000),
    "60,000 triangles": meshed_anew(60_000),
    "half a face": half,
    "noise of 1 mm in depth": noisy,
}
BENDS = {
    f"bent by up to {height} mm over {length} mm": (height, length)
    for length in (20, 40, 80)
    for height in (2, 4, 6)
}
KINDS = (*BENDS, *CHANGES)


def changed(rng, points, triangles, kind):
    """A changed face in the head's frame, and its true pose there: the best rigid fit."""
    if kind in CHANGES:
        points, triangles = CHANGES[kind](rng, points, triangles)
        return points, triangles, np.eye(4)
    moved, face = bent(rng, points, *BENDS[kind]), is_fitted(points)
    return moved, triangles, best_rigid_fit(moved[face], points[face])


def best_rigid_fit(points, target):
    pose = np.eye(4)
    middle = points.mean(axis=0)
    turn, _ = Rotation.align_vectors(target - target.mean(axis=0), points - middle)
    pose[:3, :3] = turn.as_matrix()
    pose[:3, 3] = target.mean(axis=0) - turn.apply(middle)
    return pose


def registered_case(number, dataset, settings=OTHER_FACES.registration, seed=4):
    """The error of a drawn case's pose in degrees and mm."""
    rng = np.random.default_rng([seed, number])
    key = dataset.keys()[rng.integers(len(dataset.keys()))]
    pose, true = _registered(rng, dataset, key, KINDS[number % len(KINDS)], settings)
    return pose_error(pose @ np.linalg.inv(true))


def between_expressions(subject, dataset, kind=None, settings=OTHER_FACES.registration, seed=4):
    """By how many degrees the poses of a person's expressions differ from that of the neutral."""
    neutral, *others = (
        key
        for key in dataset.keys()
        if key.subject == subject and (key.expression == NEUTRAL or key.intensity == 4)
    )
    number = dataset.subjects.index(subject)
    poses = [
        _registered(np.random.default_rng([seed, number]), dataset, key, kind, settings)[0]
        for key in (neutral, *others)
    ]
    assert len(others) == len(EXPRESSIONS)
    return [pose_error(pose @ np.linalg.inv(poses[0]))[0] for pose in poses[1:]]


def _registered(rng, dataset, key, kind, settings):
    """The pose that is found from the head's frame to the template's, and the true one."""
    scan, truth = dataset.load(key), dataset.truth(key).pose
    points, triangles, true = (scan.points - truth[:3, 3]) @ truth[:3, :3], scan.triangles, None
    if kind:
        points, triangles, true = changed(rng, points, triangles, kind)
    used, corners = np.unique(triangles, return_inverse=True)
    points = points[used] @ truth[:3, :3].T + truth[:3, 3]
    scan = FaceScan(
        points.astype(np.float32), corners.reshape(-1, 3).astype(np.int32), key, "changed"
    )
    return register(scan, settings).pose @ truth, true


def main(count):
    dataset = Populations(PEOPLE)
    dataset.make()
    settings = {"with free modes": OTHER_FACES.registration, "without": RegistrationSettings()}
    errors = {
        name: np.array(map_on_all_cores(registered_case, range(count), name, dataset, one))
        for name, one in settings.items()
    }
    print(f"| within 2 degrees and 3 mm | {' | '.join(settings)} |\n|---|---|---|")
    for number, kind in enumerate((*KINDS, "all")):
        rows = slice(None) if kind == "all" else slice(number, None, len(KINDS))
        good = [(each[rows] <= [2, 3]).all(axis=1) for each in errors.values()]
        print(f"| {kind} | {' | '.join(f'{one.sum()} of {len(one)}' for one in good)} |")
    for name, each in errors.items():
        turn, shift = np.percentile(each, 95, axis=0)
        print(f"{name}: 95 % of errors within {turn:.1f} degrees, {shift:.1f} mm")
    for kind in (None, "bent by up to 4 mm over 40 mm"):
        for name, one in settings.items():
            turns = map_on_all_cores(
                between_expressions, dataset.subjects, name, dataset, kind, one
            )
            near = 100 * np.mean(np.concatenate(turns) <= 1)
            print(f"{near:.1f} % within 1 degree of the neutral's, {kind or 'as they are'}, {name}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
