"""Draws and folds that never change, and by subject."""

import hashlib

import numpy as np
import pytest

from drfer.common.errors import DrferError
from drfer.evaluation import protocol as module
from drfer.evaluation.protocol import LISTS, Protocol, drawn_subjects, folds, protocol_keys
from tools import make_folds

SUBJECTS = [f"S{number:03d}" for number in range(100)]


def test_the_lists_are_those_of_all_published_numbers():
    digest = hashlib.sha256(LISTS.read_bytes()).hexdigest()
    assert digest == "2435560e3330728da5a3ec3fa41242a8627616b9b42ceca4ecb279f0984cab8f"


def test_the_lists_are_what_the_generator_gives(tmp_path):
    make_folds.write_lists(tmp_path / "folds.json")
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
        assert [len(part) for part in of_repeat] == [6] * 10
        assert sorted(sum(of_repeat, [])) == subjects
    assert len({str(of_repeat) for of_repeat in parts}) == 100


def test_beyond_the_lists_the_generator_serves(monkeypatch):
    subjects = drawn_subjects(SUBJECTS, Protocol())
    beyond = folds(subjects, Protocol(), repeat=100)
    assert beyond == folds(subjects, Protocol(), repeat=100)
    assert beyond != folds(subjects, Protocol(), repeat=99)
    assert sorted(sum(beyond, [])) == subjects
    assert drawn_subjects(SUBJECTS, Protocol(draw_seed=1)) != subjects
    assert folds(subjects, Protocol(draw_seed=1)) != folds(subjects, Protocol())
    redrawn = Protocol(redraw=True)
    assert drawn_subjects(SUBJECTS, redrawn, 0) != drawn_subjects(SUBJECTS, redrawn, 1)

    calls = []

    def in_order(*arguments):
        calls.append(arguments)
        return list(range(arguments[0]))

    monkeypatch.setattr(module, "order", in_order)
    assert folds(SUBJECTS[:12], Protocol(subjects=12, folds=4))[0] == SUBJECTS[:3]
    assert calls == [(12, 0, 0)]


def test_folds_part_the_subjects():
    protocol = Protocol()
    subjects = drawn_subjects(SUBJECTS, protocol)
    assert len(set(subjects)) == 60
    for repeat in range(3):
        parts = folds(subjects, protocol, repeat)
        assert [len(part) for part in parts] == [6] * 10
        assert sorted(sum(parts, [])) == subjects
    assert folds(subjects, protocol, 0) != folds(subjects, protocol, 1)
    assert len(protocol_keys(subjects, protocol)) == 60 * 13


def test_too_few_subjects_for_the_folds_are_refused():
    with pytest.raises(DrferError, match="at least that many"):
        drawn_subjects(["a", "b", "c"], Protocol())
    with pytest.raises(DrferError, match="at least that many"):
        drawn_subjects(["a", "b", "c"], Protocol(subjects=3, folds=10))
