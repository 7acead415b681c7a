"""A real result, in full and cut small, and made-up arrays that could go with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from drfer.evaluation.measures import MEASURES
from drfer.evaluation.result_format import SAMPLE_GROUPS

STORED = Path(__file__).parents[1] / "figures" / "anny3dfe-classroom"
"""A real result, with all kinds of entries."""


def small(result):
    """One or two entries of each kind of a result, cut to few scans, and no samples."""
    entries = {}
    for kind in ("fold", "test", *MEASURES):
        of_kind = [item for item in result.entries.items() if item[1]["kind"] == kind]
        for name, entry in of_kind[:2]:
            entries[name] = {key: cut(value, kind, key) for key, value in entry.items()}
    return replace(result, entries=entries, samples={})


def cut(value, kind, key):
    """The first three scans or epochs of what is a list of many; head poses stay as they are."""
    if key == "predicted" and kind == "pose":
        return [of_pose[:3] for of_pose in value]
    return value[:3] if isinstance(value, list) else value


def samples():
    """Made-up arrays of the forms that a samples.npz has."""
    generator = np.random.default_rng(0)
    faces = SAMPLE_GROUPS[2][1:]
    return {
        "manifold features": generator.normal(size=(5, 8)).astype(np.float32),
        "manifold expression": np.array([-1, 0, 5, 2, 1]),
        "manifold intensity": np.array([0, 1, 2, 3, 4]),
        "manifold subject": np.zeros(5, int),
        "posed clouds": generator.normal(size=(2, 17, 9, 3)).astype(np.float32),
        "posed left": np.full((2, 17), 9),
        "sample labels": np.arange(6),
        **{name: generator.normal(size=(6, 9, 3)).astype(np.float32) for name in faces},
    }
