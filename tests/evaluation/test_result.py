"""Results: their files come back as they were written, and they merge in any order."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from stored_results import STORED, samples

from drfer.common.errors import DrferError
from drfer.evaluation.result import Result, load_result, load_results
from drfer.evaluation.rows import BASELINE, METHOD, ROWS

# ----------------------------------------------------------------------------------- what they give


def test_a_result_comes_back_as_it_was_saved(stored, tmp_path):
    result = replace(stored, samples=samples())
    result.save(tmp_path / "a")
    again = load_result(tmp_path / "a")
    assert again.heading == result.heading
    assert list(again.entries.items()) == list(result.entries.items())
    assert again.samples.keys() == result.samples.keys()
    assert all(np.array_equal(again.samples[name], result.samples[name]) for name in samples())
    again.save(tmp_path / "b")
    for name in ("result.json", "samples.npz"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert first == second, "the same bytes"


def test_entries_are_selected_by_kind_and_fields(stored):
    assert stored.select("test") == [e for e in stored.entries.values() if e["kind"] == "test"]
    assert len(stored.tests(METHOD)) == 10
    assert [entry["fold"] for entry in stored.tests(BASELINE)] == list(range(10))
    assert stored.select("test", row=METHOD, fold=3) == [stored.tests(METHOD)[3]]
    assert stored.select("test", row="no such row") == []
    assert stored.select("features", silhouette=None) == []
    assert stored.rows == [row for row in ROWS if stored.tests(row)]
    assert stored.folds == [(0, fold) for fold in range(10)]
    assert stored.protocol.intensities == (3, 4)


def test_a_result_says_what_it_is_of(stored):
    assert stored.name == STORED.name == "anny3dfe-classroom"
    assert stored.title == "Anny-3DFE (synthetic), classroom"
    data = stored.heading["data hash"][:8]
    assert stored.caption == f"Anny-3DFE (synthetic), classroom preset, seed 0, data {data}"
    redrawn = replace(stored, heading=stored.heading | {"seed": 7})
    redrawn.heading["protocol"] = stored.heading["protocol"] | {"redraw": True}
    assert redrawn.name == "anny3dfe-classroom-redrawn-seed7"
    assert Result({"dataset": "bu3dfe"}).title == "BU-3DFE"


def test_all_results_of_a_folder_are_loaded_by_name(stored, tmp_path):
    for seed in (1, 0, 2):
        result = replace(stored, heading=stored.heading | {"seed": seed})
        result.save(tmp_path / result.name)
    (tmp_path / "store").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert [result.heading["seed"] for result in load_results(tmp_path)] == [0, 1, 2]
    with pytest.raises(DrferError, match="there is no folder"):
        load_results(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------ merging


def parts_of(result, count, seed):
    """Distribute a result's entries over some parts at random."""
    chance = random.Random(seed)
    parts = [{} for _ in range(count)]
    for name, entry in result.entries.items():
        for number in {chance.randrange(count), chance.randrange(count)}:  # some are in two parts
            parts[number][name] = entry
    return [Result(result.heading, part) for part in parts]


def merged_bytes(parts, folder):
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merged(part)
    whole.save(folder)
    files = ("result.json", "samples.npz")
    return [(folder / name).read_bytes() for name in files if (folder / name).exists()]


def test_parts_merge_in_any_order_to_the_same_bytes(stored, tmp_path):
    stored.save(tmp_path / "whole")
    expected = (tmp_path / "whole" / "result.json").read_bytes()
    parts = [replace(part, samples={}) for part in parts_of(stored, 4, seed=0)]
    for number, order in enumerate(itertools.permutations(parts)):
        assert merged_bytes(order, tmp_path / str(number)) == [expected]
    left, right = parts[0].merged(parts[1]), parts[2].merged(parts[3])
    assert merged_bytes([left, right], tmp_path / "in pairs") == [expected]
    assert merged_bytes([left, left, right, right], tmp_path / "twice") == [expected]


def test_samples_are_of_the_first_run_in_whatever_order_they_come(stored, tmp_path):
    parts = []
    for fold in (3, 0, 5):
        name = f"samples / repeat 0 / fold {fold} / samples-{fold}"
        result = f"samples-{fold}"
        entry = {
            "kind": "samples",
            "repeat": 0,
            "fold": fold,
            "result": result,
            "shown": ["a", "b"],
        }
        arrays = {key: array + (fold if "left" in key else 0) for key, array in samples().items()}
        parts.append(Result(stored.heading, {name: entry}, arrays))
    parts.append(Result(stored.heading))
    written = {
        tuple(merged_bytes(order, tmp_path / str(number)))
        for number, order in enumerate(itertools.permutations(parts))
    }
    assert len(written) == 1
    assert (load_result(tmp_path / "0").samples["posed left"] == 9).all()


def test_results_of_something_else_do_not_merge(stored):
    for field, value in (
        ("data hash", "another"),
        ("preset", "paper"),
        ("seed", 1),
        ("precision", "float32"),
        ("dataset", "bu3dfe"),
        ("protocol", stored.heading["protocol"] | {"redraw": True}),
    ):
        assert stored.heading[field] != value
        other = Result(stored.heading | {field: value})
        for one, two in ((stored, other), (other, stored)):
            with pytest.raises(DrferError, match=f"results of another {field} cannot be put"):
                one.merged(two)
    less = {name: value for name, value in stored.heading.items() if name != "seed"}
    for one, two in ((stored, Result(less)), (Result(less), stored)):
        with pytest.raises(DrferError, match="results of another seed"):
            one.merged(two)


def test_results_of_another_version_do_not_merge(stored):
    """Two entries for one place in a table would count twice."""
    for kind in ("test", "pose", "features", "disentanglement", "curves"):
        name, entry = next(i for i in stored.entries.items() if i[1]["kind"] == kind)
        later = Result(stored.heading, {f"{name} of later": entry | {"result": "later"}})
        with pytest.raises(DrferError, match="another version of drfer"):
            stored.merged(later)
