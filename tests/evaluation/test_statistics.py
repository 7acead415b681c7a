"""Statistics against slow loops that say the same, and against tables of textbooks."""

from statistics import mean, stdev

import numpy as np
import pytest

from drfer.common.errors import DrferError
from drfer.evaluation.protocol import Draws, Protocol
from drfer.evaluation.statistics import (
    accuracy,
    accuracy_by_fold,
    confusion_matrix,
    corrected_interval,
    over_people_too,
    paired_difference,
    summarise,
)


def entry(repeat, fold, truth, predicted):
    return {"repeat": repeat, "fold": fold, "truth": truth, "predicted": predicted}


def drawn_entries(seed, runs):
    """Random predictions of each (repeat, fold)."""
    rng = np.random.default_rng(seed)
    return [
        entry(*run, rng.integers(6, size=12).tolist(), rng.integers(6, size=12).tolist())
        for run in runs
    ]


def test_a_summary_is_what_loops_say():
    entries = drawn_entries(0, [(repeat, fold) for repeat in range(3) for fold in range(4)])
    of_fold, right, seen = {}, [0] * 6, [0] * 6
    confusion = [[0] * 6 for _ in range(6)]
    for one in entries:
        hits = 0
        for truth, predicted in zip(one["truth"], one["predicted"]):
            confusion[truth][predicted] += 1
            seen[truth] += 1
            right[truth] += truth == predicted
            hits += truth == predicted
        of_fold[one["repeat"], one["fold"]] = 100 * hits / 12
    found = summarise(entries, Protocol(subjects=12, folds=4))
    assert accuracy_by_fold(entries) == pytest.approx(of_fold)
    assert [accuracy(one) for one in entries] == pytest.approx(list(of_fold.values()))
    assert found.mean == pytest.approx(mean(of_fold.values()))
    of_repeat = [mean(of_fold[repeat, fold] for fold in range(4)) for repeat in range(3)]
    assert found.deviation == pytest.approx(stdev(of_repeat))
    assert found.confusion.tolist() == confusion
    assert (found.folds, found.repeats) == (12, 3)
    assert found.recall.tolist() == pytest.approx([100 * r / s for r, s in zip(right, seen)])


def test_the_interval_is_nadeaus_and_bengios():
    values = [80.0, 84.0, 91.0, 77.0, 85.0, 88.0, 90.0, 79.0, 86.0, 83.0]
    variance = sum((value - mean(values)) ** 2 for value in values) / 9
    test_scans, training_scans = 6 * 12, 54 * 12
    t_of_9_degrees = 2.262157  # from a table
    reach = t_of_9_degrees * ((1 / 10 + test_scans / training_scans) * variance) ** 0.5
    low, high = corrected_interval(np.array(values), Protocol())
    assert (low, high) == pytest.approx((mean(values) - reach, mean(values) + reach), abs=1e-5)
    # more repeats of the same folds cannot make it as narrow as independent folds would
    low, high = corrected_interval(np.array(values * 10), Protocol())
    t_of_99_degrees = 1.984217
    reach = t_of_99_degrees * ((1 / 100 + 1 / 9) * variance * 100 / 99 * 9 / 10) ** 0.5
    assert (high - low) / 2 == pytest.approx(reach, abs=1e-5)


def test_the_interval_of_draws_is_students():
    """Against the example of a textbook's formula, mean ± t s / sqrt(n), and narrower than folds'."""
    values = [80.0, 84.0, 91.0, 77.0, 85.0, 88.0, 90.0, 79.0, 86.0, 83.0]
    t_of_9_degrees = 2.262157
    reach = t_of_9_degrees * stdev(values) / 10**0.5
    low, high = corrected_interval(np.array(values), Draws())
    assert (low, high) == pytest.approx((mean(values) - reach, mean(values) + reach), abs=1e-5)
    of_folds = corrected_interval(np.array(values), Protocol())
    assert (of_folds[1] - of_folds[0]) / (high - low) == pytest.approx((1 + 10 / 9) ** 0.5)
    assert corrected_interval(np.array([80.0]), Draws()) == (None, None)


def test_a_difference_is_taken_draw_by_draw():
    ours, theirs = (drawn_entries(seed, [(draw, 0) for draw in (1, 2, 3)]) for seed in (1, 2))
    differences = [accuracy(x) - accuracy(y) for x, y in zip(ours, theirs)]
    reach = 4.302653 * stdev(differences) / 3**0.5  # t of 2 degrees of freedom
    expected = (mean(differences), mean(differences) - reach, mean(differences) + reach, 3)
    assert paired_difference(ours, theirs[::-1], Draws()) == pytest.approx(expected, abs=1e-4)
    found = summarise(ours, Draws())
    assert (found.folds, found.repeats) == (3, 3)
    assert found.deviation == pytest.approx(stdev([accuracy(one) for one in ours]))


def test_one_fold_has_no_interval_and_one_repeat_no_deviation():
    single = summarise([entry(0, 3, [0, 1], [0, 2])], Protocol())
    assert (single.mean, single.deviation, single.low, single.high) == (50.0, None, None, None)
    assert single.recall.tolist() == [100, 0, 0, 0, 0, 0], "0 for expressions that were not seen"
    assert summarise([entry(0, 0, [0], [0]), entry(0, 1, [0], [1])], Protocol()).deviation is None


def test_a_difference_is_of_common_folds_only():
    ours = [entry(0, 0, [0, 1], [0, 1]), entry(0, 1, [0, 1], [0, 0]), entry(1, 0, [0, 1], [1, 0])]
    theirs = [entry(0, 1, [0, 1], [1, 0]), entry(0, 0, [0, 1], [0, 0]), entry(0, 2, [0, 1], [0, 1])]
    # 100 - 50 and 50 - 0, whatever the order of the folds
    assert paired_difference(ours, theirs, Protocol()) == (50.0, 50.0, 50.0, 2)
    runs = [(repeat, fold) for repeat in range(2) for fold in range(10)]
    a, b = drawn_entries(1, runs), drawn_entries(2, runs)
    differences = [accuracy(x) - accuracy(y) for x, y in zip(a, b)]
    t_of_19_degrees = 2.093024
    reach = t_of_19_degrees * (1 / 20 + 1 / 9) ** 0.5 * stdev(differences)
    expected = (mean(differences), mean(differences) - reach, mean(differences) + reach, 20)
    assert paired_difference(a, b[::-1], Protocol()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DrferError, match="run the same ones for both"):
        paired_difference(ours[:1], theirs[:1], Protocol())


def test_confusion_counts_rows_as_truth():
    counts = confusion_matrix(np.array([0, 0, 5]), np.array([0, 2, 5]))
    assert counts[0, 0] == counts[0, 2] == counts[5, 5] == 1
    assert counts.sum() == 3


def test_other_draws_and_other_people_are_drawn_as_loops_would():
    rng = np.random.default_rng(1)
    draws, people, scans = 4, 5, 3
    truth = [0] * (people * scans)
    rows = [
        [entry(k, 0, truth, rng.integers(2, size=people * scans).tolist()) for k in range(draws)]
        for _ in range(2)
    ]
    means = []
    for _ in range(4000):
        total = 0
        some_draws, some_people = rng.integers(draws, size=draws), rng.integers(people, size=people)
        for k in some_draws:
            for p in some_people:
                for scan in range(p * scans, (p + 1) * scans):
                    one, other = (row[k]["predicted"][scan] == 0 for row in rows)
                    total += 100 * (int(one) - int(other))
        means.append(total / (draws * people * scans))
    found = over_people_too(*rows, scans_of_each=scans)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=3)
    assert found == over_people_too(*rows, scans_of_each=scans), "the same to the bit"


def test_scans_of_one_person_are_drawn_together():
    """People who are wholly right or wholly wrong tell less than as many scans that differ."""
    tied = [entry(1, 0, [0] * 600, ([0] * 3 + [1] * 3) * 100)]
    other = [entry(1, 0, [0] * 600, [1] * 600)]
    of_people, of_scans = (over_people_too(tied, other, scans) for scans in (3, 1))
    width = [high - low for low, high in (of_people, of_scans)]
    assert width[0] == pytest.approx(width[1] * 3**0.5, rel=0.1)


def test_rows_without_a_common_draw_have_no_difference():
    with pytest.raises(DrferError, match="run the same ones"):
        over_people_too([entry(1, 0, [0], [0])], [entry(2, 0, [0], [0])], 1)
