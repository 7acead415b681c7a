"""What may befall a long evaluation: failing jobs, a full disk, damage, a store of someone else."""

import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from driver import TINY, counts, same_result, start, tiny_request, wait_until
from only_readable import as_a_user_who_may_only_read

from drfer.evaluation.engine import missing, run_here, status
from drfer.evaluation.plan import plan
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.rows import BASELINE, METHOD
from drfer.evaluation.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_failing_job_stops_its_children_only(monkeypatch, command, tmp_path):
    broken = replace(TINY.schedules["i-identity"], learning_rate=-1.0)
    selection = ("--preset", "smoke", "--folds", 0, "--out", tmp_path)
    with monkeypatch.context() as patch:
        schedules = {**TINY.schedules, "i-identity": broken}
        patch.setitem(PRESETS, "smoke", replace(TINY, schedules=schedules))
        code, said = command("crossval", *selection)
        sentence = said.err.strip().splitlines()[-1]
        assert code == 2
        assert sentence.startswith("drfer: 3 of 6 jobs failed")
        assert "Traceback" not in said.err
        code, said = command("status", *selection)
        assert code == 0
        assert counts(said.out) == {
            "i-expression": (1, 0, 0, 0),
            "ii-expression": (1, 0, 0, 0),
            "i-identity": (0, 0, 1, 0),
            "ii-identity": (0, 0, 0, 1),
            "i-fusion": (1, 0, 0, 0),
            "iii": (0, 0, 0, 1),
        }
        assert "failed: ValueError: Invalid learning rate: -1.0" in said.out
        assert "\nof unknown length until one is done: i-identity, ii-identity, iii" in said.out
    monkeypatch.setitem(PRESETS, "smoke", TINY)
    code, said = command("crossval", *selection)
    assert code == 0, said.err
    assert (tmp_path / "table-1.md").exists(), "it is drawn"
    code, said = command("status", *selection)
    assert set(counts(said.out).values()) == {(1, 0, 0, 0)}
    assert "\nnothing is left to do" in said.out


def test_what_another_process_makes_comes_last(faces, tmp_path):
    store = Store(tmp_path / "store")
    jobs = plan(tiny_request((BASELINE, METHOD), (), folds=(0,)), faces, store)
    theirs = next(name for name, job in jobs.items() if job.what == "i-expression")
    with ThreadPoolExecutor() as threads:
        with store.lock(theirs):
            doing = threads.submit(run_here, jobs, faces, store)
            wait_until(lambda: len(missing(jobs, store)) == 3)
            left = {job.what for job in missing(jobs, store)}
        assert doing.result() == []
    assert left == {"i-expression", "ii-expression", "iii"}, "it and what waits for it"
    assert missing(jobs, store) == []


def first_stage_jobs(finished):
    return {name: job for name, job in finished.jobs.items() if job.what == "i-expression"}


def test_status_sees_what_runs_and_how_long_it_takes(finished, tmp_path):
    store, jobs = Store(tmp_path), first_stage_jobs(finished)
    first, second = jobs
    assert counts(status(jobs, store)) == {"i-expression": (0, 0, 0, 2)}
    assert "until one is done: i-expression" in status(jobs, store)
    assert "hours" not in status(jobs, store)
    with store.lock(first):
        assert counts(status(jobs, store)) == {"i-expression": (0, 1, 0, 1)}
    store.save(first, {}, {"seconds": 7200.0})
    assert counts(status(jobs, store)) == {"i-expression": (1, 0, 0, 1)}
    assert "about 2.0 hours" in status(jobs, store)
    store.save_failure(second, "why\nbecause\n")
    assert "failed: because" in status(jobs, store)
    assert counts(status(jobs, store)) == {"i-expression": (1, 0, 1, 0)}


@pytest.mark.parametrize("content", ["", " \n\n", None, b"\xff\xfe"])
def test_a_reason_that_is_empty_or_a_folder_is_a_failure_all_the_same(
    finished, faces, tmp_path, content
):
    store, jobs = Store(tmp_path / "store"), first_stage_jobs(finished)
    first, second = jobs
    store.save(first, {}, {"seconds": 1.0})
    path = store.root / f"{second}.failed"
    if content is None:
        path.mkdir()
        (path / "something").touch()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    (store.root / f"{second}.checkpoint").mkdir()
    assert counts(status(jobs, store)) == {"i-expression": (1, 0, 1, 0)}
    assert status(jobs, store).splitlines()[-1].startswith("failed: ")
    assert run_here({second: jobs[second]}, faces, store) == []
    assert store.record(second)
    assert {path.name for path in store.root.iterdir()} == {first, second, "locks"}


def test_status_of_a_store_that_can_only_be_read(finished, tmp_path):
    """With a result gone that was there, and another damaged: nobody can make them here."""
    store, jobs = Store(tmp_path / "store"), dict(finished.jobs)
    gone, damaged, *others = list(jobs)
    for name in (damaged, *others):
        store.save(name, {}, {"seconds": 1.0})
    with store.lock(gone):
        pass
    (store.root / damaged / "record.json").write_bytes(b"{}")
    with as_a_user_who_may_only_read(store.root):
        said = counts(status(jobs, store))
    assert sum(of[0] for of in said.values()) == len(jobs) - 2
    assert sum(of[3] for of in said.values()) == 2
    assert store.root.joinpath(damaged, "record.json").read_bytes() == b"{}"


def test_the_status_command_reads_a_store_that_cannot_be_written(
    command, tiny_preset, finished, cache, tmp_path
):
    """What is in it is counted, and what is missing is to do."""
    arguments = ("--preset", "smoke", "--folds", 0, 1, "--measures", "features")
    out = finished.folder
    with as_a_user_who_may_only_read(out, cache):
        code, said = command("status", *arguments, "--folds", 0, 1, 2, "--out", out)
    assert code == 0, said.err
    assert counts(said.out)["iii"] == (2, 0, 0, 1)
    code, said = command("status", *arguments, "--out", tmp_path / "nothing")
    assert code == 0, said.err
    assert counts(said.out)["iii"] == (0, 0, 0, 2)
    assert not (tmp_path / "nothing").exists(), "it was only looked at"


@pytest.mark.parametrize(
    "size, sentence", [(0, "drfer: cannot write"), (20_000, "drfer: 1 of 1 jobs failed")]
)
def test_a_full_disk_is_said_and_nothing_half_written_stays(
    finished, faces, tmp_path, size, sentence
):
    """A limit on the size of files is to a process what a disk with so many bytes left is."""
    selection = ("--preset", "smoke", "--folds", 0, "--rows", BASELINE, "--out", tmp_path)
    limits = (size, size)
    driver = start(
        "crossval",
        *selection,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    _, said = driver.communicate()
    assert driver.returncode == 2
    assert said.strip().splitlines()[-1].startswith(sentence), said
    request, store = tiny_request((BASELINE,), (), (0,)), Store(tmp_path / "store")
    jobs = plan(request, faces, store)
    (name,) = jobs
    left = {path.name for path in store.root.iterdir()} - {"locks"}
    assert left == ({f"{name}.failed"} if size else set())
    assert store.record(name) is None
    if size:  # the reason is small enough to be kept
        assert "failed: cannot write" in status(jobs, store)
        assert "File too large" in status(jobs, store)
    assert run_here(jobs, faces, store) == []
    assert same_result(finished, faces, request, store, tmp_path)
    assert store.failure(name) is None


def test_a_damaged_record_is_said_and_made_again_and_a_damaged_parent_too(
    finished, faces, tmp_path, capsys
):
    request, store = tiny_request(("stage i + ii",), (), (0,)), Store(tmp_path / "store")
    jobs = plan(request, faces, store)
    parent, child = jobs
    assert run_here(jobs, faces, store) == []
    record = store.root / child / "record.json"
    record.write_bytes(record.read_bytes().replace(b'"truth": [', b'"truth": [5, '))
    weights = store.root / parent / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    assert run_here(jobs, faces, store) == []
    said = capsys.readouterr().out
    assert f"{child} is damaged" in said
    assert f"{parent} is damaged" in said
    assert same_result(finished, faces, request, store, tmp_path)
