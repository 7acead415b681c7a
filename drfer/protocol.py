"""Who is trained on and who is tested: the 60 subjects, the folds by subject, and the statistics over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drfer.scan import EXPRESSIONS, NEUTRAL, DrferError, ScanKey

LEVELS = (3, 4)
"""the two highest intensities (section IV.A of the paper)"""


@dataclass(frozen=True)
class Protocol:
    """Section IV.A: some subjects drawn once, folds by subject."""

    subjects: int = 60
    folds: int = 10
    levels: tuple[int, ...] = LEVELS
    draw_seed: int = 0
    """draws the subjects, once for the whole experiment"""


def drawn_subjects(available: list[str], protocol: Protocol) -> list[str]:
    """The protocol's subjects. Raises DrferError if there are too few for it."""
    if len(available) < protocol.subjects or protocol.subjects < protocol.folds:
        raise DrferError(
            f"{protocol.folds} folds of {protocol.subjects} subjects need at least that many; "
            f"the dataset has {len(available)}"
        )
    drawn = np.random.default_rng(protocol.draw_seed).choice(len(available), protocol.subjects, replace=False)
    return [available[number] for number in sorted(drawn)]


def folds(subjects: list[str], protocol: Protocol, repeat: int = 0) -> list[list[str]]:
    """The test subjects of each fold in one repeat; repeats shuffle the subjects anew."""
    order = np.random.default_rng([protocol.draw_seed, 1 + repeat]).permutation(len(subjects))
    return [[subjects[number] for number in part] for part in np.array_split(order, protocol.folds)]


def protocol_keys(subjects: list[str], protocol: Protocol) -> list[ScanKey]:
    """The scans that the protocol uses: neutral ones (as targets only) and the expressive ones it classifies."""
    return [
        key
        for subject in subjects
        for key in (
            ScanKey(subject, NEUTRAL, 0),
            *(ScanKey(subject, expression, level) for expression in EXPRESSIONS for level in protocol.levels),
        )
    ]


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts (6, 6): row the true expression, column the predicted one."""
    counts = np.zeros((len(EXPRESSIONS),) * 2, dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return counts
