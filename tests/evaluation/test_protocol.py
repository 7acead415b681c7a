"""Folds that never change, and statistics against their slow twins and against tables of textbooks."""

import hashlib
from statistics import mean, stdev

import numpy as np
import pytest

from drfer.common.errors import DrferError
from drfer.evaluation import protocol as module
from drfer.evaluation.protocol import (
    LISTS,
    Protocol,
    accuracy_by_fold,
    corrected_interval,
    drawn_subjects,
    folds,
    paired_difference,
    summarise,
    write_lists,
)

SUBJECTS = [f"S{number:03d}" for number in range(100)]


def entry(repeat, fold, truth, predicted):
    return {"repeat": repeat, "fold": fold, "truth": truth, "predicted": predicted}


def drawn_entries(seed, places):
    rng = np.random.default_rng(seed)
    return [
        entry(*place, rng.integers(6, size=12).tolist(), rng.integers(6, size=12).tolist())
        for place in places
    ]


# -------------------------------------------------------------------------------------------------- the lists


def test_the_lists_are_those_of_all_published_numbers():
    digest = hashlib.sha256(LISTS.read_bytes()).hexdigest()
    assert digest == "2435560e3330728da5a3ec3fa41242a8627616b9b42ceca4ecb279f0984cab8f"


def test_the_lists_are_what_the_generator_gives(tmp_path):
    write_lists(tmp_path / "folds.json")
    assert (tmp_path / "folds.json").read_text() == LISTS.read_text()
    drawn = np.sort(np.random.default_rng(0).choice(100, 60, replace=False))
    order = np.random.default_rng([0, 1 + 7]).permutation(60)
    subjects = drawn_subjects(SUBJECTS, Protocol())
    assert subjects == [SUBJECTS[number] for number in drawn]
    assert sum(folds(subjects, Protocol(), repeat=7), []) == [subjects[number] for number in order]


@pytest.mark.parametrize("available", [100, 65])
def test_the_code_reads_the_lists_and_not_the_generator(available, monkeypatch):
    subjects = drawn_subjects(SUBJECTS[:available], Protocol())
    parts = [folds(subjects, Protocol(), repeat) for repeat in range(100)]
    monkeypatch.setattr(np.random, "default_rng", None)
    assert drawn_subjects(SUBJECTS[:available], Protocol()) == subjects
    assert [folds(subjects, Protocol(), repeat) for repeat in range(100)] == parts
    for of_repeat in parts:
        assert [len(part) for part in of_repeat] == [6] * 10 and sorted(
            sum(of_repeat, [])
        ) == subjects
    assert len({str(of_repeat) for of_repeat in parts}) == 100


def test_beyond_the_lists_the_generator_serves(monkeypatch):
    subjects = drawn_subjects(SUBJECTS, Protocol())
    beyond = folds(subjects, Protocol(), repeat=100)
    assert (
        beyond == folds(subjects, Protocol(), repeat=100) != folds(subjects, Protocol(), repeat=99)
    )
    assert sorted(sum(beyond, [])) == subjects
    assert drawn_subjects(SUBJECTS, Protocol(draw_seed=1)) != subjects
    assert folds(subjects, Protocol(draw_seed=1)) != folds(subjects, Protocol())
    redrawn = Protocol(redraw=True)
    assert drawn_subjects(SUBJECTS, redrawn, 0) != drawn_subjects(SUBJECTS, redrawn, 1)
    calls = []
    monkeypatch.setattr(
        module, "_order", lambda *arguments: calls.append(arguments) or list(range(arguments[0]))
    )
    assert folds(SUBJECTS[:12], Protocol(subjects=12, folds=4))[0] == SUBJECTS[:3] and calls == [
        (12, 0, 0)
    ]


# --------------------------------------------------------------------------------------------- the statistics


def test_a_summary_is_what_loops_say():
    places = [(repeat, fold) for repeat in range(3) for fold in range(4)]
    entries = drawn_entries(0, places)
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
    assert found.mean == pytest.approx(mean(of_fold.values()))
    of_repeat = [mean(of_fold[repeat, fold] for fold in range(4)) for repeat in range(3)]
    assert found.deviation == pytest.approx(stdev(of_repeat))
    assert found.confusion.tolist() == confusion and (found.folds, found.repeats) == (12, 3)
    assert found.recall.tolist() == pytest.approx([100 * r / s for r, s in zip(right, seen)])


def test_the_interval_is_nadeaus_and_bengios():
    values = [80.0, 84.0, 91.0, 77.0, 85.0, 88.0, 90.0, 79.0, 86.0, 83.0]
    variance = sum((value - mean(values)) ** 2 for value in values) / 9
    test_scans, training_scans = 6 * 12, 54 * 12
    reach = (
        2.262157 * ((1 / 10 + test_scans / training_scans) * variance) ** 0.5
    )  # t of 9 degrees, from a table
    low, high = corrected_interval(np.array(values), Protocol())
    assert (low, high) == pytest.approx((mean(values) - reach, mean(values) + reach), abs=1e-5)
    many = (
        values * 10
    )  # more repeats of the same folds cannot make it as narrow as independent ones would
    low, high = corrected_interval(np.array(many), Protocol())
    reach = 1.984217 * ((1 / 100 + 1 / 9) * variance * 100 / 99 * 9 / 10) ** 0.5
    assert (high - low) / 2 == pytest.approx(reach, abs=1e-5)


def test_one_fold_has_no_interval_and_one_repeat_no_deviation():
    single = summarise([entry(0, 3, [0, 1], [0, 2])], Protocol())
    assert (single.mean, single.deviation, single.low, single.high) == (50.0, None, None, None)
    assert single.recall.tolist() == [100, 0, 0, 0, 0, 0]  # of classes not seen, 0
    assert summarise([entry(0, 0, [0], [0]), entry(0, 1, [0], [1])], Protocol()).deviation is None


def test_a_difference_is_of_common_folds_only():
    ours = [entry(0, 0, [0, 1], [0, 1]), entry(0, 1, [0, 1], [0, 0]), entry(1, 0, [0, 1], [1, 0])]
    theirs = [entry(0, 1, [0, 1], [1, 0]), entry(0, 0, [0, 1], [0, 0]), entry(0, 2, [0, 1], [0, 1])]
    gain, low, high, count = paired_difference(ours, theirs, Protocol())
    assert (gain, low, high, count) == (
        50.0,
        50.0,
        50.0,
        2,
    )  # 100 - 50 and 50 - 0, whatever their order
    places = [(repeat, fold) for repeat in range(2) for fold in range(10)]
    a, b = drawn_entries(1, places), drawn_entries(2, places)
    differences = [
        accuracy_by_fold([x])[place] - accuracy_by_fold([y])[place]
        for x, y, place in zip(a, b, places)
    ]
    reach = 2.093024 * (1 / 20 + 1 / 9) ** 0.5 * stdev(differences)
    expected = (mean(differences), mean(differences) - reach, mean(differences) + reach, 20)
    assert paired_difference(a, b[::-1], Protocol()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DrferError, match="no fold was run for both"):
        paired_difference(ours[:1], theirs[:1], Protocol())
