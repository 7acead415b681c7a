"""Statistics over folds, repeats or draws: accuracy, confusion, and intervals that respect overlap.

Built in notebook 06.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # Student's t without scipy.stats, which takes 0.5 s to import

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.protocol import Draws, Protocol

RESAMPLES = 4000
"""Of draws and people, for the interval of `over_people_too`."""


@dataclass(frozen=True)
class Summary:
    """Accuracy over folds and repeats, in percent.

    Attributes:
        mean: mean over all folds.
        deviation: standard deviation of the repeats' means; None for one repeat.
        low: lower end of the mean's 95 % interval; None for one fold.
        high: its upper end.
        folds: how many folds there are, over all repeats.
        repeats: how many repeats there are.
        recall: share of each expression's scans that was recognised, in percent, shape (classes,).
        confusion: counts, shape (classes, classes), true expression by predicted expression.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    folds: int
    repeats: int
    recall: np.ndarray
    confusion: np.ndarray


def summarise(
    entries: Sequence[dict], protocol: Protocol | Draws, classes: int | None = None
) -> Summary:
    """Return the summary of entries that have repeat, fold, truth and predicted.

    Args:
        entries: one for each fold of each repeat.
        protocol: says how much the training sets of the folds overlap.
        classes: how many there are; as many as the largest label says, but six at least, if not
            given.
    """
    by_fold = accuracy_by_fold(entries)
    values = np.array(list(by_fold.values()))
    repeats = sorted({repeat for repeat, _ in by_fold})
    of_repeats = [
        np.mean([value for (other, _), value in by_fold.items() if other == repeat])
        for repeat in repeats
    ]
    truth, predicted = (np.concatenate([e[of] for e in entries]) for of in ("truth", "predicted"))
    counts = confusion_matrix(truth, predicted, classes)
    low, high = corrected_interval(values, protocol)
    return Summary(
        mean=float(values.mean()),
        deviation=float(np.std(of_repeats, ddof=1)) if len(repeats) > 1 else None,
        low=low,
        high=high,
        folds=len(values),
        repeats=len(repeats),
        recall=100 * counts.diagonal() / np.maximum(counts.sum(axis=1), 1),
        confusion=counts,
    )


def paired_difference(
    entries: Sequence[dict], others: Sequence[dict], protocol: Protocol | Draws
) -> tuple[float, float | None, float | None, int]:
    """Compare two rows fold by fold.

    Returns:
        The mean difference in accuracy on the folds that both have, in points, the lower and the
        upper end of its 95 % interval (None for one fold), and the number of folds.

    Raises:
        DrferError: the rows have no fold in common.
    """
    differences = np.array([fold.mean() for fold in _by_scan(entries, others)])
    low, high = corrected_interval(differences, protocol)
    return float(differences.mean()), low, high, len(differences)


def over_people_too(
    entries: Sequence[dict], others: Sequence[dict], scans_of_each: int, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a difference over other draws and other test people.

    The interval of `paired_difference` says how the difference moves with the training people; all
    draws are tested on the same ones. Here draws and test people are both resampled with
    replacement, people and not scans, since those of one person are not independent (a bootstrap;
    Owen 2007, "The pigeonhole bootstrap").

    Args:
        entries: one for each draw, whose test scans stand person by person.
        others: those of the other row.
        scans_of_each: how many test scans each person has.
        seed: of the resampling.

    Returns:
        Its lower and its upper end, in points.

    Raises:
        DrferError: the rows have no draw in common.
    """
    scans = np.array(_by_scan(entries, others))
    differences = scans.reshape(len(scans), -1, scans_of_each).mean(axis=2)
    rng = np.random.default_rng(seed)
    draws, people = (
        rng.multinomial(count, [1 / count] * count, RESAMPLES) / count
        for count in differences.shape
    )
    low, high = np.percentile((draws @ differences * people).sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _by_scan(entries: Sequence[dict], others: Sequence[dict]) -> list[np.ndarray]:
    """Return what one row has more than another on each test scan of each common fold: 100, 0, -100.

    Raises:
        DrferError: the rows have no fold in common.
    """
    right = [
        {(one["repeat"], one["fold"]): np.equal(one["truth"], one["predicted"]) for one in each}
        for each in (entries, others)
    ]
    common = sorted(right[0].keys() & right[1].keys())
    if not common:
        raise DrferError("no fold or draw was run for both rows: run the same ones for both")
    return [right[0][fold] * 100.0 - right[1][fold] * 100.0 for fold in common]


def accuracy(entry: dict) -> float:
    """Return the share of scans that an entry with truth and predicted has right, in percent."""
    return 100 * float(np.mean(np.equal(entry["truth"], entry["predicted"])))


def accuracy_by_fold(entries: Sequence[dict]) -> dict[tuple[int, int], float]:
    """Return the accuracy in percent by (repeat, fold)."""
    return {(entry["repeat"], entry["fold"]): accuracy(entry) for entry in entries}


def corrected_interval(
    values: np.ndarray, protocol: Protocol | Draws
) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of a mean over folds and repeats; (None, None) for a single value.

    The training sets of the folds overlap, so that the variance of the mean over J folds is not
    s^2 / J but s^2 (1 / J + test share / training share) (Nadeau and Bengio 2003, "Inference for
    the generalization error", section 3). Those of draws do not, and theirs is the interval of
    Student's t.

    Args:
        values: one for each fold of each repeat, or for each draw, shape (J,).
        protocol: says how much they overlap.
    """
    if len(values) < 2:
        return None, None
    spread = values.std(ddof=1) * np.sqrt(1 / len(values) + protocol.overlap)
    reach = stdtrit(len(values) - 1, 0.975) * spread
    return float(values.mean() - reach), float(values.mean() + reach)


def confusion_matrix(
    truth: Sequence[int], predicted: Sequence[int], classes: int | None = None
) -> np.ndarray:
    """Return counts, shape (classes, classes): row the true expression, column the predicted one.

    Args:
        truth: labels.
        predicted: labels.
        classes: how many there are; as many as the largest label says, but six at least, if not
            given.
    """
    classes = classes or max(len(EXPRESSIONS), 1 + int(np.max([truth, predicted])))
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(truth), np.asarray(predicted)), 1)
    return counts
