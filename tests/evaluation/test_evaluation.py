"""The evaluation: what its plan shares, what a setting changes, what it costs, and that its result is always the same."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driver import TINY, tiny_request

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation import experiment
from drfer.evaluation import plan as evaluation
from drfer.evaluation.engine import run_here, status
from drfer.evaluation.experiment import PARENTS, PRESETS, ROWS, TESTED, TRAINED_AS, Run
from drfer.evaluation.plan import ALL_ROWS, BASELINE, METHOD, Bench, Request, Source, collect, plan
from drfer.evaluation.protocol import drawn_subjects, protocol_keys, summarise
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import FaceSet
from drfer.preprocessing.head_pose import POSES, PosedFaces
from drfer.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")
DRIVER = Path(__file__).parents[1] / "driver.py"


def start(*arguments, **options):
    """The tiny evaluation's command line, as a process."""
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


# ------------------------------------------------------------------------------------------------------- plan


def test_rows_share_their_stages(faces):
    """One fold of table III: each training once, in an order that can be run."""
    jobs = plan(Request.of_names(PRESETS["smoke"], ("table3",), (), (0,), 1, 0), faces)
    counts = {stage: sum(job.what == stage for job in jobs.values()) for stage in STAGES}
    assert counts == {
        "i-expression": 1,
        "i-identity": 1,
        "i-fusion": 2,
        "ii-expression": 5,
        "ii-identity": 1,
        "iii": 7,
        "head": 1,
        "ii-control": 1,
        "iii-control": 1,
    }
    done = set()
    for name, job in jobs.items():
        assert done.issuperset(job.parents)
        done.add(name)
    for row in ROWS.values():
        run = Run(PRESETS["smoke"], 0).change(row)
        assert run.result_name(row.stage, faces) in jobs


def test_nine_rows_cost_less_than_four_runs(faces):
    """By the seconds that each stage took in the stored demonstration."""
    demo = Path(__file__).parents[2] / "figures" / "demo" / "result.json"
    seconds = json.loads(demo.read_text())["seconds"]

    def cost(*rows):
        jobs = plan(Request.of_names(PRESETS["smoke"], rows, (), (0,), 1, 0), faces)
        return sum(seconds[TRAINED_AS.get(job.what, job.what)] for job in jobs.values())

    nine = [row for row in ROWS if not row.endswith("as long")]
    assert len(nine) == 9
    ratio = cost(*nine) / cost(METHOD)
    print(f"\nnine rows of one fold cost {ratio:.2f} times one run")
    assert 1 < ratio <= 4


def changed_training(run, stage):
    trainings = dict(run.preset.trainings)
    trainings[stage] = replace(trainings[stage], learning_rate=0.5)
    return replace(run, preset=replace(run.preset, trainings=trainings))


def changed_losses(**fields):
    return lambda run: replace(run, losses=replace(run.losses, **fields))


def changed_sizes(**fields):
    return lambda run: replace(
        run, preset=replace(run.preset, sizes=replace(run.preset.sizes, **fields))
    )


ALL_STAGES = tuple(STAGES)
CHANGES = {
    "triplet": (changed_losses(triplet=False), ("ii-expression", "iii")),
    "classification": (changed_losses(classification=False), ("ii-expression", "iii")),
    "divergence": (changed_losses(divergence="kl"), ("ii-expression", "iii")),
    "mining": (changed_losses(mining="hard"), ("ii-expression", "iii")),
    "reduction": (
        changed_losses(reduction="mean"),
        ("i-fusion", "ii-expression", "ii-identity", "iii"),
    ),
    "fusion": (changed_losses(fusion=False), ("iii",)),
    "gaussian": (changed_sizes(gaussian_feature=True), ("ii-expression", "iii")),
    "skips": (changed_sizes(skips=False), ("i-fusion", "iii")),
    "points": (changed_sizes(points=128), ALL_STAGES),
    "fold": (lambda run: replace(run, fold=1), ALL_STAGES),
    "repeat": (lambda run: replace(run, repeat=1), ALL_STAGES),
    "seed": (lambda run: replace(run, seed=1), ALL_STAGES),
    "turned": (lambda run: replace(run, turned=True), ALL_STAGES),
    "precision": (
        lambda run: replace(run, preset=replace(run.preset, precision="float64")),
        ALL_STAGES,
    ),
    **{
        f"rate of {stage}": (
            lambda run, stage=stage: changed_training(run, stage),
            (stage, *(name for name, origin in TRAINED_AS.items() if origin == stage)),
        )
        for stage in PRESETS["smoke"].trainings
    },
}


def downstream(stages):
    found = set(stages)
    for _ in PARENTS:
        found |= {stage for stage, parents in PARENTS.items() if found & set(parents)}
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_changes_the_names_downstream_of_it_only(faces, change):
    run, (function, readers) = Run(PRESETS["smoke"], 0), CHANGES[change]
    changed = function(run)
    different = {
        stage
        for stage in STAGES
        if run.result_name(stage, faces) != changed.result_name(stage, faces)
    }
    assert different == downstream(readers)


def test_another_version_or_other_data_is_never_mixed_in(finished, faces, monkeypatch):
    """Their results have other names, and are not counted."""
    request, other = tiny_request(), replace(faces, hash="of other faces")
    assert not plan(request, other).keys() & finished.jobs.keys()
    assert (
        collect(request, Source(), other, finished.bench.store, finished.folder / "other")["rows"]
        == {}
    )
    monkeypatch.setitem(STAGES, "ii-identity", replace(STAGES["ii-identity"], version=99))
    of_version = plan(request, faces)
    renamed = {of_version[name].what for name in of_version.keys() - finished.jobs.keys()}
    assert renamed == {"ii-identity", "iii", "features"}
    lines = {
        line.split()[0]: line.split()[1:]
        for line in status(of_version, finished.bench.store).splitlines()
    }
    assert lines["iii"] == ["0", "0", "0", "4"] and lines["i-expression"] == ["2", "0", "0", "0"]


def test_mistakes_are_one_sentence():
    for rows, measures, folds, repeats, sentence in (
        (("stage iv",), (), (0,), 1, "no row 'stage iv'"),
        (("main",), ("colour",), (0,), 1, "no measure 'colour'"),
        (("main",), (), (4,), 1, "no fold 4"),
        (("main",), (), (0,), 0, "repeats are none"),
    ):
        with pytest.raises(DrferError, match=sentence):
            Request.of_names(TINY, rows, measures, folds, repeats, 0)


def test_a_fold_named_twice_counts_once():
    assert tiny_request(folds=(1, 0, 1)) == tiny_request(folds=(0, 1))


def test_what_this_machine_computes_in_holds_for_all_workers(monkeypatch, faces):
    request, has_it = tiny_request(), experiment.has_bfloat16()
    names = plan(request, faces).keys()
    monkeypatch.setattr(experiment, "has_bfloat16", lambda: not has_it)
    assert plan(request, faces).keys() == names
    assert plan(tiny_request(), faces).keys().isdisjoint(names), (
        "a driver that computes otherwise has other names"
    )


def test_redrawn_subjects_differ_between_repeats(faces):
    protocol = replace(TINY.protocol, subjects=8, redraw=True)
    request = Request.of_names(replace(TINY, protocol=protocol), ("main",), (), (0,), 2, 0)
    first, second = request.runs()
    assert first.subjects(faces) != second.subjects(faces) and len(plan(request, faces)) == 12
    data = first.data(faces)
    assert set(data.subjects) | set(first.test_subjects(faces)) == set(first.subjects(faces))
    for scans, subjects in ((data.train, data.subjects), (data.test, first.test_subjects(faces))):
        assert {faces.keys[scan].subject for scan in scans} == set(subjects), (
            "measurements look the scans up in faces"
        )


# ------------------------------------------------------------------------------------------- a thousand folds


def test_a_thousand_folds_are_planned_listed_and_summarised_in_seconds(tmp_path):
    preset = PRESETS["classroom"]
    subjects = drawn_subjects([f"S{number:03d}" for number in range(100)], preset.protocol)
    keys, none = protocol_keys(subjects, preset.protocol), np.zeros(0)
    faces = FaceSet(keys, none, none, none, none, none, none, "0" * 64)
    request = Request.of_names(preset, ("main",), (), tuple(range(10)), 100, 0)
    store = Store(tmp_path / "store")
    for job in plan(request, faces).values():
        fake_record(store, job, preset)
    started = time.process_time()  # a busy machine takes longer, but not more
    jobs = plan(request, faces)
    listed = status(jobs, store)
    result = collect(request, Source(), faces, store, tmp_path)
    summary = summarise(result["rows"][METHOD], preset.protocol)
    seconds = time.process_time() - started
    assert len(jobs) == 6000 and "1000        0        0        0" in listed
    assert (summary.folds, summary.repeats) == (1000, 100)
    print(f"\n{seconds:.1f} seconds")
    assert seconds < 5


def fake_record(store, job, preset):
    """As large as a real one: 60 epochs' curves, 72 test scans."""
    epochs, terms = preset.training(job.what).epochs, 6 if job.what == "iii" else 1
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


def test_a_run_takes_less_than_200_kilobytes_without_weights(finished):
    """Classroom runs have 25 times the curves of these."""
    sizes = {
        stage: max(
            len((finished.bench.store.root / name / "record.json").read_bytes())
            for name, job in finished.jobs.items()
            if job.what == stage
        )
        for stage in PRESETS["classroom"].trainings
    }
    grown = 0
    for stage, size in sizes.items():
        name = next(name for name, job in finished.jobs.items() if job.what == stage)
        record = finished.bench.store.record(name)
        epochs = PRESETS["classroom"].training(stage).epochs / len(record["curves"])
        grown += size + epochs * len(json.dumps(record["curves"]))
        if stage in TESTED:  # 72 test scans, not 36
            grown += len(json.dumps(record["test"]))
    print(f"\n{sum(sizes.values()) / 1000:.0f} kB; at classroom sizes {grown / 1000:.0f} kB")
    assert sum(sizes.values()) < grown < 200_000


# ----------------------------------------------------------------------------------------------------- result


def test_the_result_is_what_the_store_says(finished, faces):
    result = finished.result
    assert json.loads((finished.folder / "evaluation.json").read_text()) == json.loads(
        json.dumps(result)
    )
    for row, entries in result["rows"].items():
        assert [(entry["repeat"], entry["fold"]) for entry in entries] == [(0, 0), (0, 1)]
        for entry in entries:
            run = Run(TINY, entry["fold"]).change(ALL_ROWS[row])
            record = finished.bench.store.record(run.result_name(ALL_ROWS[row].stage, faces))
            data = finished.bench.data(run)
            assert entry["predicted"] == record["test"]["predicted"]
            assert entry["truth"] == data.labels[data.test].tolist()
    assert result["protocol"]["levels"] == (3, 4) and len(result["features"]) == 4
    origin = json.loads((finished.folder / "provenance.json").read_text())
    assert origin["jobs done"] == origin["jobs planned"] == len(finished.jobs)


def test_the_order_of_the_jobs_does_not_matter(finished, faces, tmp_path):
    """Children first: each makes the parents that it finds missing."""
    request, store = tiny_request(folds=(1,)), Store(tmp_path / "store")
    jobs = plan(request, faces)
    for name in reversed(jobs):
        Bench.do(replace_store(finished.bench, store), jobs[name])
    again = collect(request, Source(), faces, store, tmp_path)
    collect(request, Source(), faces, finished.bench.store, tmp_path / "finished")
    assert again["rows"].keys() == finished.result["rows"].keys()
    assert (tmp_path / "evaluation.json").read_bytes() == (
        tmp_path / "finished" / "evaluation.json"
    ).read_bytes()


def test_an_evaluation_grows_over_several_stores(finished, faces, tmp_path):
    """Row by row and fold by fold, each from a store that has nothing else; what another version gave is dropped."""
    for row, fold, measures in (
        ("stage i", 0, ()),
        (METHOD, 1, ("features",)),
        ("w/o L_tri", 1, ()),
        ("stage i", 1, ()),
    ):
        store = Store(tmp_path / f"{row} {fold}".replace("/", ""))
        request = tiny_request((row,), measures, (fold,))
        for name in plan(request, faces):
            shutil.copytree(finished.bench.store.root / name, store.root / name)
        grown = collect(request, Source(), faces, store, tmp_path)
    assert {
        row: [entry["fold"] for entry in entries] for row, entries in grown["rows"].items()
    } == {"w/o L_tri": [1], "stage i": [0, 1], METHOD: [1]}
    whole = finished.result
    assert grown["rows"]["stage i"] == whole["rows"]["stage i"]
    assert grown["features"] == [entry for entry in whole["features"] if entry["fold"] == 1]
    origin = json.loads((tmp_path / "provenance.json").read_text())
    assert origin["median seconds"].keys() == set(TINY.trainings) | {"features"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, "ii-identity", replace(STAGES["ii-identity"], version=99))
        later = collect(tiny_request(("stage i",), (), (0,)), Source(), faces, store, tmp_path)
    assert later["rows"].keys() == {"stage i"} and later["features"] == []


def replace_store(bench, store):
    other = object.__new__(Bench)
    other.__dict__.update(bench.__dict__, store=store)
    return other


def test_killed_five_times_it_ends_with_the_same_bytes(finished, tmp_path):
    arguments = (
        "crossval",
        "--preset",
        "smoke",
        "--folds",
        0,
        1,
        "--rows",
        "main",
        "w/o L_tri",
        "--measures",
        "features",
        "--out",
        tmp_path,
    )
    chance = random.Random(0)
    for _ in range(5):
        driver = start(*arguments)
        for _ in range(chance.randint(1, 4)):  # checkpoints and results
            assert driver.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        assert driver.returncode == -signal.SIGKILL
    driver = start(*arguments)
    said, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert 0 < said.count("saved") < len(finished.jobs), "what was there is not done again"
    again = tmp_path / "anny3dfe-smoke" / "evaluation.json"
    assert again.read_bytes() == (finished.folder / "evaluation.json").read_bytes()


def test_two_drivers_on_one_store_share_the_work(finished, faces, tmp_path):
    arguments = (
        "crossval",
        "--preset",
        "smoke",
        "--folds",
        0,
        "--measures",
        "features",
        "--out",
        tmp_path,
    )
    drivers = [start(*arguments) for _ in range(2)]
    said = [driver.communicate() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    saved = [
        line.split()[1] for out, _ in said for line in out.splitlines() if line.startswith("saved")
    ]
    request = tiny_request(rows=("main",), folds=(0,))
    jobs = plan(request, faces)
    assert sorted(saved) == sorted(jobs), "each job once"
    collect(request, Source(), faces, finished.bench.store, tmp_path / "finished")
    again = tmp_path / "anny3dfe-smoke" / "evaluation.json"
    assert again.read_bytes() == (tmp_path / "finished" / "evaluation.json").read_bytes()


def test_head_pose_measures_what_stands_before_the_camera(finished, faces, tmp_path, monkeypatch):
    """On heads of which nothing is hidden, turning back gives the frontal answers, and those are the stage's own."""
    members = [number for number, key in enumerate(faces.keys) if key.expression != NEUTRAL]
    clouds = np.stack(
        [faces.clouds[members] @ pose.rotation().T.astype(np.float32) for pose in POSES], axis=1
    )
    posed = PosedFaces(
        [faces.keys[n] for n in members], clouds, np.full(clouds.shape[:2], 7), "all seen"
    )
    made = []
    monkeypatch.setattr(evaluation, "pose_faces", lambda dataset, of: made.append(of) or posed)
    bench, request = (
        replace_store(finished.bench, finished.bench.store),
        tiny_request(("main",), ("pose",), (0,)),
    )
    jobs = plan(request, faces)
    bench.prepare(finished.jobs)
    assert not made, "no job of these turns a head"
    bench.prepare(jobs)
    assert len(made) == 1
    assert run_here(jobs, bench) == []
    replace_store(finished.bench, bench.store).prepare(jobs)
    assert len(made) == 1, "nothing is missing any more"
    result = collect(request, Source(), faces, bench.store, tmp_path)
    found = {(entry["row"], entry["setting"]): entry for entry in result["pose"]}
    assert found.keys() == {
        (row, setting) for row in (BASELINE, METHOD) for setting in ("raw", "registered", "trained")
    }
    for (row, setting), entry in found.items():
        assert (
            np.shape(entry["predicted"]) == (17, 36)
            and entry["truth"] == result["rows"][row][0]["truth"]
        )
        if setting != "trained":
            assert entry["predicted"][0] == result["rows"][row][0]["predicted"]
        if setting == "registered":
            same = np.equal(entry["predicted"], entry["predicted"][0]).mean()
            assert same > 0.97  # the rest is rounding
    assert max(found[METHOD, "raw"]["truth"]) < len(EXPRESSIONS)
    turned = [job for job in jobs.values() if job.run.turned]
    assert len(turned) == 7, "trained with turned heads: six stages and the measurement"
