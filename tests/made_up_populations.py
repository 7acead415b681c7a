"""Populations of the open faces made of random numbers in no time, and a tiny evaluation of draws."""

from dataclasses import replace

import numpy as np
from driver import TINY
from random_faces import SIZES, VERTICES

from drfer.datasets.anny3dfe import database
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation.plan import Request
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.rows import BASELINE, METHOD
from drfer.preprocessing import faceset

TINY_DRAWS = replace(TINY, sizes=SIZES, protocol=TINY.draws)
"""The preset of the evaluation: 9 subjects are trained on, and 6 tested, 4 of them measured."""


def draws_request(draws=2, rows=(BASELINE, METHOD), measures=("features",), seed=0) -> Request:
    """Return the request of an evaluation of draws that takes seconds."""
    return Request.of_names(TINY_DRAWS, rows, measures, (), draws, seed)


def make_up(set_attribute):
    """Put random numbers in the place of faces, and the tiny preset in that of the smoke preset.

    Args:
        set_attribute: does what `setattr` does.
    """
    set_attribute(database, "_make", made_up_files)
    set_attribute(faceset, "_preprocess_all", made_up_scans)
    PRESETS["smoke"] = replace(TINY, sizes=SIZES)


def made_up_files(files, seed, faces, intensities):
    """Write a number for each subject, as `database._make` writes faces."""
    return [
        file.save({"number": _generator(f"{seed:03d}-{subject}").random(3)})
        for subject, file in files.items()
    ]


def made_up_scans(dataset, keys, settings):
    """What preprocessing gives of scans: a base, two shifts and noise (see `random_faces`)."""
    populations = {int(key.subject[:3]) for key in keys}
    assert all(dataset.folder_of(seed).is_dir() for seed in populations), "it was not made first"
    shape = (VERTICES, 3)
    base = np.random.default_rng(0).uniform(-0.7, 0.7, size=shape)
    names = (*EXPRESSIONS, NEUTRAL)
    vertices = np.stack(
        [
            base
            + np.random.default_rng(names.index(key.expression)).normal(scale=0.1, size=shape)
            + _generator(key.subject).normal(scale=0.05, size=shape)
            + _generator(str(key)).normal(scale=0.02, size=shape)
            for key in keys
        ]
    ).astype(np.float32)
    return {
        "cloud": vertices[:, np.random.default_rng(1).permutation(VERTICES)[:70]],
        "vertices": vertices,
        "missing": np.zeros((len(keys), VERTICES), bool),
        "residual": np.zeros(len(keys)),
        "doubtful": np.zeros(len(keys), bool),
        "pose": np.tile(np.eye(4), (len(keys), 1, 1)),
    }


def _generator(name):
    return np.random.default_rng(list(name.encode()))
