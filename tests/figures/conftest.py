"""Made-up results in the shape of true ones, and a made-up face that every test can draw."""

import numpy as np
import pytest

from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.result import Result
from drfer.evaluation.result_format import SAMPLE_FACES
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, names_in
from drfer.figures.curves import AT_POSES, SETTINGS

POSES = [["frontal", 0]] + [
    [kind, angle] for kind in ("pitch", "yaw") for angle in range(-80, 81, 20) if angle
]


def _entries(seed, folds, scans):
    """Entries of every kind, by their names."""
    random = np.random.default_rng(seed)
    truth = np.tile(np.arange(6), scans // 6)

    def guessed(share):
        right = random.random(scans) < share
        return np.where(right, truth, random.integers(6, size=scans)).tolist()

    def entry(kind, fold, **rest):
        return {"kind": kind, "repeat": 0, "fold": fold, "result": f"{kind}-{fold}", **rest}

    labels = truth.tolist()
    entries = []
    for fold in range(folds):
        for row in names_in("table3"):
            entries.append(entry("test", fold, row=row, truth=labels, predicted=guessed(0.8)))
        for setting in SETTINGS:
            for row in AT_POSES:
                by_pose = [guessed(0.9 - abs(angle) / 400) for _, angle in POSES]
                said = {"truth": labels, "predicted": by_pose}
                entries.append(entry("pose", fold, row=row, setting=setting, **said))
        measured = {"leakage": {"subject probe, %": 20.0 + 2 * fold}}
        entries.append(entry("disentanglement", fold, measured=measured))
        for stage, terms in (("i-expression", 1), ("iii", 3)):
            curves = [{f"term {t}": 1 / (epoch + t) for t in range(terms)} for epoch in (1, 2, 3)]
            entries.append(
                entry("curves", fold, stage=stage, title=f"stage {stage}", curves=curves)
            )
    for row, spread in ((BASELINE, 1), (METHOD, 3)):
        plane = random.normal(size=(scans, 2)) + spread * truth[:, None]
        measures = {"labels": labels, "silhouette": 0.31, "purity": 0.74}
        entries.append(entry("features", 0, row=row, tsne=plane.tolist(), **measures))
    for fold, silhouette in enumerate((0.25, 0.5)):
        measures = {"labels": labels, "silhouette": silhouette, "purity": 0.6}
        entries.append(entry("features", fold, row=CONTROL, **measures))
    return {f"{number}": each for number, each in enumerate(entries)}


@pytest.fixture(scope="session")
def face():
    """A cloud with a nose and, if it is open, a mouth: (n, 3) mm, bulging towards the viewer."""

    def make(open_mouth=False, points=600):
        x, y = np.random.default_rng(0).uniform(-1, 1, size=(2, 40 * points))
        cloud = np.column_stack([65 * x, 85 * y, 40 * (1 - x**2 - y**2)])
        cloud[:, 2] += 20 * np.exp(-((cloud[:, 0] / 12) ** 2) - (cloud[:, 1] / 20) ** 2)
        mouth = np.hypot(cloud[:, 0] / 22, (cloud[:, 1] + 45) / 16) < 1
        cloud = cloud[(np.hypot(x, y) < 1) & ~(mouth & open_mouth)]
        chosen = [0]  # farthest points, as the kit's clouds are
        away = np.full(len(cloud), np.inf)
        for _ in range(points - 1):
            away = np.minimum(away, np.linalg.norm(cloud - cloud[chosen[-1]], axis=1))
            chosen.append(int(away.argmax()))
        return cloud[chosen]

    return make


@pytest.fixture(scope="session")
def made_samples(face):
    """Arrays for pictures, as the first run of an evaluation leaves them."""

    def make(seed=0, subjects=3):
        random = np.random.default_rng(seed)
        kinds = [(person, -1, 0) for person in range(subjects)]
        kinds += [(p, e, i) for p in range(subjects) for e in range(6) for i in range(1, 5)]
        subject, expression, intensity = np.array(kinds).T
        towards = random.normal(size=(7, 16))
        noise = random.normal(size=(len(kinds), 16))
        features = (intensity[:, None] * towards[expression] + noise).astype("f4")
        faces = np.stack([face(open_mouth, 200) for open_mouth in (False, True)]).astype("f4")
        return {
            "manifold features": features,
            "manifold expression": expression,
            "manifold intensity": intensity,
            "manifold subject": subject,
            "posed clouds": np.repeat(faces[:, None], 17, axis=1),
            "posed left": random.integers(400, 2048, size=(2, 17)),
            **{f"sample {name}": faces[[0, 1, 0, 1, 0, 1]] for name in SAMPLE_FACES},
            "sample labels": np.arange(6),
        }

    return make


@pytest.fixture(scope="session")
def made_result():
    """A result with entries of all kinds but tests of the control; samples only if they are given."""

    def make(dataset="anny3dfe", seed=0, folds=3, scans=36, samples=None):
        protocol = {"subjects": 60, "folds": 10, "intensities": [3, 4], "draw_seed": 0}
        heading = {
            "dataset": dataset,
            "data hash": "0123456789abcdef",
            "preset": "classroom",
            "precision": "float32",
            "seed": seed,
            "protocol": {**protocol, "redraw": False},
            "expressions": list(EXPRESSIONS),
            "poses": POSES,
        }
        return Result(heading, _entries(seed, folds, scans), samples or {})

    return make
