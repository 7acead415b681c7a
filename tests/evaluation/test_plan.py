"""The plan of an evaluation: what its rows share, what it refuses, and how fast a large one is."""

import hashlib
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from driver import TINY, tiny_request

from drfer.common.errors import DrferError
from drfer.evaluation import run as run_module
from drfer.evaluation.collect import collect
from drfer.evaluation.engine import status
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.plan import MOST_REPEATS, Request, plan, without_looks
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.protocol import drawn_subjects, protocol_keys
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS, names_in
from drfer.evaluation.run import POSED_LENGTH, Run
from drfer.evaluation.statistics import summarise
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import FaceSet
from drfer.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")


def smoke_plan(faces, folder, rows, measures=(), folds=(0,)):
    request = Request.of_names(PRESETS["smoke"], rows, measures, folds, 1, 0)
    return plan(request, faces, Store(folder))


def assert_parents_come_first(jobs):
    done = set()
    for name, job in jobs.items():
        assert name == job.name
        assert done.issuperset(job.parents)
        done.add(name)


def test_rows_share_their_stages(faces, tmp_path):
    """One fold of table III: each stage is trained once, in an order that can be run."""
    jobs = smoke_plan(faces, tmp_path, ("table3",))
    counts = {stage: sum(job.what == stage for job in jobs.values()) for stage in STAGES}
    assert counts == {
        "i-expression": 1,
        "i-identity": 1,
        "i-fusion": 2,
        "ii-expression": 5,
        "ii-identity": 1,
        "iii": 7,
        "head-i": 0,
        "head-ii": 0,
        "head-iii": 1,
        "control": 1,
    }
    assert_parents_come_first(jobs)
    for row in (*names_in("table3"), CONTROL):
        run = Run(PRESETS["smoke"], 0).change(ROWS[row])
        assert Experiment(run, faces, Store(tmp_path)).name(ROWS[row].stage) in jobs


def test_every_row_and_measure_can_be_planned(faces, tmp_path):
    jobs = smoke_plan(faces, tmp_path, tuple(ROWS), ("all",), (0, 1))
    assert_parents_come_first(jobs)
    counts = {what: sum(job.what == what for job in jobs.values()) for what in MEASURES}
    assert counts == {
        "pose": 4,  # with and without head poses in training
        "features": 2,
        "disentanglement": 2,
        "diagnosis": 2,
        "curves": 2,
        "samples": 1,  # of the first run only
    }
    posed = [job for job in jobs.values() if job.run.posed]
    assert len(posed) == 2 * 8, "six stages, the control and the measure, in two folds"
    stage = STAGES["iii"]
    long = {job.run.preset.schedule(stage).epochs for job in posed}
    assert long == {POSED_LENGTH * PRESETS["smoke"].schedule(stage).epochs}
    assert {job.what for job in jobs.values() if job.needs_poses and not job.run.posed} == {
        "pose",
        "samples",
    }
    assert all(job.needs_poses for job in posed)


def test_a_row_after_which_nobody_is_tested_is_refused(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(ROWS, "new", replace(ROWS[METHOD], name="new", stage="i-fusion"))
    with pytest.raises(DrferError, match="'new' is tested after i-fusion, where `tested` is False"):
        smoke_plan(faces, tmp_path, ("new",))


def test_groups_of_rows_are_the_rows_of_the_group():
    def rows(*names):
        return Request.of_names(TINY, names, (), (), 1, 0).rows

    assert rows("main") == ("stage i", METHOD)
    assert rows("table3") == (*names_in("table3"), CONTROL)
    assert len(rows("table3")) == 10
    assert rows("control") == names_in("control")
    assert rows("bounds") == names_in("bound")
    assert rows("beyond") == names_in("beyond")
    assert len(rows("readings")) == 7
    assert rows("stage i", "main", "stage i") == ("stage i", METHOD)


def test_mistakes_are_one_sentence():
    for rows, measures, folds, repeats, seed, sentence in (
        (("stage iv",), (), (0,), 1, 0, "no row 'stage iv'"),
        (("main",), ("colour",), (0,), 1, 0, "no measure 'colour'"),
        (("main",), (), (4,), 1, 0, "no fold 4: preset smoke has folds 0 to 3"),
        (("main",), (), (0,), 0, 0, "0 repeats cannot be run; give 1 to 1000"),
        (("main",), (), (0,), -1, 0, "-1 repeats cannot be run; give 1 to 1000"),
        (("main",), (), (0,), 1, -1, "-1 is no seed; give one from 0 to 2147483647"),
        (("main",), (), (0,), 1, 2**31, "2147483648 is no seed; give one from 0 to 2147483647"),
        (("main",), (), (0,), 2, 2**31 - 1, "2147483648 is no seed"),
    ):
        with pytest.raises(DrferError, match=sentence) as refusal:
            Request.of_names(TINY, rows, measures, folds, repeats, seed)
        assert "\n" not in str(refusal.value)


def test_ten_million_repeats_are_refused_at_once():
    started = time.process_time()
    with pytest.raises(DrferError, match="10000000 repeats cannot be run; give 1 to 1000"):
        Request.of_names(TINY, ("main",), (), (), 10_000_000, 0)
    assert time.process_time() - started < 1
    assert Request.of_names(TINY, ("main",), (), (0,), MOST_REPEATS, 0).repeats == 1000


def test_a_fold_named_twice_counts_once():
    assert tiny_request(folds=(1, 0, 1)) == tiny_request(folds=(0, 1))
    assert tiny_request(folds=()) == tiny_request(folds=(0, 1, 2, 3))


def test_what_this_machine_computes_in_holds_for_all_workers(monkeypatch, faces, tmp_path):
    store = Store(tmp_path)
    request, has_it = tiny_request(), run_module.has_bfloat16()
    names = plan(request, faces, store).keys()
    monkeypatch.setattr(run_module, "has_bfloat16", lambda: not has_it)
    assert plan(request, faces, store).keys() == names
    other = plan(tiny_request(), faces, store).keys()
    assert other.isdisjoint(names), "a driver that computes otherwise has other names"


def test_redrawn_subjects_differ_between_repeats(faces, tmp_path):
    protocol = replace(TINY.protocol, subjects=8, redraw=True)
    request = Request.of_names(replace(TINY, protocol=protocol), ("main",), (), (0,), 2, 0)
    first, second = request.runs()
    (train, test), other = first.split(faces), second.split(faces)
    assert {*train, *test} != {*other[0], *other[1]}
    assert len(plan(request, faces, Store(tmp_path))) == 12
    data = Experiment(first, faces, Store(tmp_path)).data
    assert data.subjects == train
    assert len(train) == 6
    assert not set(train) & set(test)
    for scans, subjects in ((data.train, train), (data.test, test)):
        found = {faces.keys[scan].subject for scan in scans}
        assert found == set(subjects), "measures look the scans up in the faces"


def test_another_version_or_other_data_is_never_mixed_in(finished, faces, tmp_path, monkeypatch):
    """Their results have other names, and are not counted."""
    other = replace(faces, hash="of other faces")
    assert not plan(finished.request, other, finished.store).keys() & finished.jobs.keys()
    assert collect(finished.request, other, finished.store, tmp_path).rows == []
    monkeypatch.setitem(STAGES, "ii-identity", replace(STAGES["ii-identity"], version=99))
    of_version = plan(finished.request, faces, finished.store)
    renamed = {of_version[name].what for name in of_version.keys() - finished.jobs.keys()}
    assert renamed == {"ii-identity", "iii", "features"}
    lines = {
        line.split()[0]: line.split()[1:]
        for line in status(of_version, finished.store).splitlines()
    }
    assert lines["iii"] == ["0", "0", "0", "4"]
    assert lines["i-expression"] == ["2", "0", "0", "0"]


# --------------------------------------------------------------------------------- a thousand folds


def test_a_thousand_folds_are_planned_listed_and_summarised_in_seconds(tmp_path):
    preset = PRESETS["classroom"]
    subjects = drawn_subjects([f"S{number:03d}" for number in range(100)], preset.protocol)
    keys, none = protocol_keys(subjects, preset.protocol), np.zeros(0)
    faces = FaceSet(
        keys=keys,
        clouds=none,
        vertices=none,
        missing=none,
        residuals=none,
        doubtful=none,
        poses=none,
        hash="0" * 64,
        dataset=SimpleNamespace(name="anny3dfe"),
    )
    request = Request.of_names(preset, ("main",), (), tuple(range(10)), 100, 0)
    store = Store(tmp_path / "store")
    for job in plan(request, faces, store).values():
        save_made_up_record(store, job, preset)
    started = time.process_time()  # a busy machine takes longer, but not more
    jobs = plan(request, faces, store)
    listed = status(jobs, store)
    result = collect(request, faces, store, tmp_path)
    summary = summarise(result.tests(METHOD), preset.protocol)
    seconds = time.process_time() - started
    assert len(jobs) == 6000
    assert "1000        0        0        0" in listed
    assert (summary.folds, summary.repeats) == (1000, 100)
    print(f"\n{seconds:.1f} seconds")
    assert seconds < 5


def save_made_up_record(store, job, preset):
    """As large as a real one: 60 epochs' curves, 72 test scans."""
    epochs, terms = preset.schedule(STAGES[job.what]).epochs, 6 if job.what == "iii" else 1
    record = {
        "curves": [{f"term {term}": 1 / 7 for term in range(terms)}] * epochs,
        "determined by": "x" * 1500,
        "seconds": 60.0,
        "test": {"truth": [0, 1, 2] * 24, "predicted": [0, 1, 3] * 24},
        "provenance": {
            "date": "2030-01-01",
            "drfer": "0",
            "torch": "0",
            "device": "cpu",
            "machine": "x",
        },
    }
    folder, content = store.root / job.name, json.dumps(record).encode()
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(content)
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  record.json\n")


def with_ancestors(stage):
    return {stage}.union(*map(with_ancestors, STAGES[stage].parents))


def test_a_run_takes_less_than_200_kilobytes_without_weights(finished):
    """Classroom runs have 25 times the curves of these."""
    stages = {job.what for job in finished.jobs.values() if job.what in STAGES}
    assert {*with_ancestors(ROWS[METHOD].stage), *with_ancestors(ROWS[CONTROL].stage)} == stages
    total = grown = 0
    for stage in stages:
        names = [name for name, job in finished.jobs.items() if job.what == stage]
        sizes = [len((finished.store.root / n / "record.json").read_bytes()) for n in names]
        total += max(sizes)
        record = finished.store.record(names[0])
        factor = PRESETS["classroom"].schedule(STAGES[stage]).epochs / len(record["curves"])
        grown += max(sizes) + factor * len(json.dumps(record["curves"]))
        if STAGES[stage].tested:  # 72 test scans, not 36
            grown += len(json.dumps(record["test"]))
    print(f"\n{total / 1000:.0f} kB; at classroom sizes {grown / 1000:.0f} kB")
    assert total < grown < 200_000


def test_draws_have_no_best_epoch(capsys):
    request = Request.of_names(TINY, ("main", "control"), (), (0,), 1, 0)
    rows = without_looks(request).rows
    assert set(request.rows) - set(rows) == {f"{row}, best epoch" for row in (BASELINE, METHOD)}
    assert capsys.readouterr().out.count("is left out") == 2
