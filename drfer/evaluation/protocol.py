"""Who is trained on and who is tested: the 60 subjects, the folds by subject, and the statistics over them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import (
    stdtrit,
)  # Student's t; scipy.stats, which has it too, takes half a second to import

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, ScanKey

LEVELS = (3, 4)
"""the two highest intensities (section IV.A of the paper)"""
LISTS = Path(__file__).with_name("folds.json")
"""who is drawn, and the order that is cut into folds, as numbers of subjects: of draw seed 0, for the databases' sizes and
100 repeats. They are files because numpy may change what a seed gives; `python -m drfer.protocol` wrote them"""


@dataclass(frozen=True)
class Protocol:
    """Section IV.A: some subjects drawn once, folds by subject."""

    subjects: int = 60
    folds: int = 10
    levels: tuple[int, ...] = LEVELS
    draw_seed: int = 0
    """draws the subjects, once for the whole experiment"""
    redraw: bool = False
    """whether each repeat draws its subjects anew, the other mode found in the field"""


def drawn_subjects(available: list[str], protocol: Protocol, repeat: int = 0) -> list[str]:
    """The protocol's subjects in a repeat. Raises DrferError if there are too few for it."""
    if len(available) < protocol.subjects or protocol.subjects < protocol.folds:
        raise DrferError(
            f"{protocol.folds} folds of {protocol.subjects} subjects need at least that many; "
            f"the dataset has {len(available)}"
        )
    listed = not protocol.redraw and protocol.draw_seed == 0
    drawn = _lists()["drawn"].get(f"{protocol.subjects} of {len(available)}") if listed else None
    if drawn is None:
        seed = [protocol.draw_seed, repeat] if protocol.redraw else protocol.draw_seed
        drawn = _draw(protocol.subjects, len(available), seed)
    return [available[number] for number in drawn]


def _draw(count: int, available: int, seed: int | list[int]) -> list[int]:
    return sorted(np.random.default_rng(seed).choice(available, count, replace=False).tolist())


def folds(subjects: list[str], protocol: Protocol, repeat: int = 0) -> list[list[str]]:
    """The test subjects of each fold in one repeat; repeats shuffle the subjects anew."""
    listed = _lists()["orders"].get(str(len(subjects)), []) if protocol.draw_seed == 0 else []
    order = (
        listed[repeat]
        if repeat < len(listed)
        else _order(len(subjects), protocol.draw_seed, repeat)
    )
    return [[subjects[number] for number in part] for part in np.array_split(order, protocol.folds)]


def _order(subjects: int, draw_seed: int, repeat: int) -> list[int]:
    return np.random.default_rng([draw_seed, 1 + repeat]).permutation(subjects).tolist()


@cache
def _lists() -> dict[str, dict[str, list]]:
    return json.loads(LISTS.read_text())


def write_lists(path: Path = LISTS) -> None:
    """Write the lists as the generator gives them today."""
    drawn = {f"60 of {available}": _draw(60, available, 0) for available in (100, 65)}
    orders = {"60": [_order(60, 0, repeat) for repeat in range(100)]}
    path.write_text(json.dumps({"drawn": drawn, "orders": orders}).replace("], ", "],\n") + "\n")


def protocol_keys(subjects: list[str], protocol: Protocol) -> list[ScanKey]:
    """The scans that the protocol uses: neutral ones (as targets only) and the expressive ones it classifies."""
    return [
        key
        for subject in subjects
        for key in (
            ScanKey(subject, NEUTRAL, 0),
            *(
                ScanKey(subject, expression, level)
                for expression in EXPRESSIONS
                for level in protocol.levels
            ),
        )
    ]


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts (6, 6): row the true expression, column the predicted one."""
    counts = np.zeros((len(EXPRESSIONS),) * 2, dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return counts


@dataclass(frozen=True)
class Summary:
    """Accuracy in percent over folds and repeats. deviation: standard deviation of the repeats' means, None of one
    repeat. low, high: 95 % interval of the mean, None of one fold. recall: (6,) percent. confusion: (6, 6) counts."""

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    folds: int
    repeats: int
    recall: np.ndarray
    confusion: np.ndarray


def summarise(entries: list[dict], protocol: Protocol) -> Summary:
    """Entries with repeat, fold, truth and predicted -> their summary."""
    by_fold = accuracy_by_fold(entries)
    repeats = sorted({repeat for repeat, _ in by_fold})
    of_repeats = [
        np.mean([value for (r, _), value in by_fold.items() if r == repeat]) for repeat in repeats
    ]
    values = np.array(list(by_fold.values()))
    counts = sum(
        confusion_matrix(np.array(entry["truth"]), np.array(entry["predicted"]))
        for entry in entries
    )
    return Summary(
        mean=float(values.mean()),
        deviation=float(np.std(of_repeats, ddof=1)) if len(repeats) > 1 else None,
        **dict(zip(("low", "high"), corrected_interval(values, protocol))),
        folds=len(values),
        repeats=len(repeats),
        recall=100 * counts.diagonal() / np.maximum(counts.sum(axis=1), 1),
        confusion=counts,
    )


def paired_difference(
    entries: list[dict], baseline: list[dict], protocol: Protocol
) -> tuple[float, float, float, int]:
    """Mean difference in accuracy on the folds that both have, in points, its 95 % interval, and the number of folds.

    Raises DrferError if they share none.
    """
    ours, theirs = accuracy_by_fold(entries), accuracy_by_fold(baseline)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise DrferError("no fold was run for both: run the same folds for both rows")
    differences = np.array([ours[fold] - theirs[fold] for fold in common])
    return float(differences.mean()), *corrected_interval(differences, protocol), len(common)


def accuracy_by_fold(entries: list[dict]) -> dict[tuple[int, int], float]:
    """Percent right by (repeat, fold)."""
    return {
        (entry["repeat"], entry["fold"]): 100
        * float(np.mean(np.equal(entry["truth"], entry["predicted"])))
        for entry in entries
    }


def corrected_interval(values: np.ndarray, protocol: Protocol) -> tuple[float | None, float | None]:
    """95 % interval of a mean over folds and repeats; (None, None) for a single value.

    Training sets overlap, so that the variance of the mean is not s^2 / J but s^2 (1 / J + test share / training
    share) (Nadeau and Bengio 2003, "Inference for the generalization error", section 3).
    """
    if len(values) < 2:
        return None, None
    spread = values.std(ddof=1) * np.sqrt(1 / len(values) + 1 / (protocol.folds - 1))
    reach = stdtrit(len(values) - 1, 0.975) * spread
    return float(values.mean() - reach), float(values.mean() + reach)


if __name__ == "__main__":
    write_lists()
