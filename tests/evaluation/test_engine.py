"""What may befall a long evaluation: failing jobs, a full disk, damage, lost workers, nodes and drivers."""

import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from driver import TINY, tiny_request
from test_evaluation import replace_store, start

from drfer.cli import main
from drfer.common.errors import DrferError
from drfer.evaluation import engine
from drfer.evaluation.engine import Place, run_here, run_on_ray, status
from drfer.evaluation.experiment import PRESETS
from drfer.evaluation.plan import BASELINE, Source, collect, plan
from drfer.evaluation.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def counts(text):
    """The table of `drfer status`: done, running, failed and to do of each kind."""
    lines = (line.split() for line in text.splitlines())
    return {
        line[0]: tuple(map(int, line[1:])) for line in lines if len(line) == 5 and line[1].isdigit()
    }


def same_result(finished, faces, request, store, folder):
    """Whether a store's evaluation is, to the byte, that of the one done in one go."""
    for root, of in ((folder / "again", store), (folder / "once", finished.bench.store)):
        collect(request, Source(), faces, of, root)
    return (folder / "again/evaluation.json").read_bytes() == (
        folder / "once/evaluation.json"
    ).read_bytes()


# --------------------------------------------------------------------------------------------- in one process


def command(monkeypatch, capsys, *arguments):
    """Exit code, and what was said."""
    monkeypatch.setattr(sys, "argv", ["drfer", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr()


def test_a_failing_job_stops_its_children_only(monkeypatch, capsys, tmp_path):
    broken = replace(TINY.trainings["i-identity"], learning_rate=-1.0)
    selection = ("--preset", "smoke", "--folds", 0, "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(
            PRESETS, "smoke", replace(TINY, trainings=TINY.trainings | {"i-identity": broken})
        )
        code, said = command(patch, capsys, "crossval", *selection)
        sentence = said.err.strip().splitlines()[-1]
        assert (
            code == 2
            and sentence.startswith("drfer: 3 of 6 jobs failed")
            and "Traceback" not in said.err
        )
        code, said = command(patch, capsys, "status", *selection)
        assert code == 0 and counts(said.out) == {
            "i-expression": (1, 0, 0, 0),
            "ii-expression": (1, 0, 0, 0),
            "i-identity": (0, 0, 1, 0),
            "ii-identity": (0, 0, 0, 1),
            "i-fusion": (1, 0, 0, 0),
            "iii": (0, 0, 0, 1),
        }
        assert "failed: ValueError: Invalid learning rate: -1.0" in said.out
        assert "hours of work left for one worker, and i-identity, ii-identity, iii" in said.out
    monkeypatch.setitem(PRESETS, "smoke", TINY)
    code, said = command(monkeypatch, capsys, "crossval", *selection)
    assert code == 0 and (tmp_path / "table-1.md").exists()
    code, said = command(monkeypatch, capsys, "status", *selection)
    assert set(counts(said.out).values()) == {(1, 0, 0, 0)} and "about 0.0 hours" in said.out


def test_status_sees_what_runs_and_how_long_it_takes(finished, tmp_path):
    store = Store(tmp_path)
    jobs = {name: job for name, job in finished.jobs.items() if job.what == "i-expression"}
    first, second = jobs
    assert counts(status(jobs, store)) == {
        "i-expression": (0, 0, 0, 2)
    } and "left for one worker, and i-exp" in status(jobs, store)
    with store.lock(first):
        assert counts(status(jobs, store)) == {"i-expression": (0, 1, 0, 1)}
    store.save(first, {}, {"seconds": 7200.0})
    assert counts(status(jobs, store)) == {
        "i-expression": (1, 0, 0, 1)
    } and "about 2.0 hours" in status(jobs, store)
    store.failure(second).write_text("why\nbecause\n")
    assert "failed: because" in status(jobs, store) and counts(status(jobs, store)) == {
        "i-expression": (1, 0, 1, 0)
    }


@pytest.mark.parametrize(
    "size, sentence", [(0, "drfer: cannot write"), (20_000, "drfer: 1 of 1 jobs failed")]
)
def test_a_full_disk_is_said_and_nothing_half_written_stays(
    finished, faces, tmp_path, size, sentence
):
    """A limit on the size of files is to a process what a full disk is: 0 bytes, or some, can still be written."""
    arguments = (
        "crossval",
        "--preset",
        "smoke",
        "--folds",
        0,
        "--rows",
        BASELINE,
        "--out",
        tmp_path,
    )
    driver = start(
        *arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    )
    _, said = driver.communicate()
    assert driver.returncode == 2 and said.strip().splitlines()[-1].startswith(sentence), said
    request, store = (
        tiny_request(rows=(BASELINE,), measures=(), folds=(0,)),
        Store(tmp_path / "store"),
    )
    jobs = plan(request, faces)
    (name,) = jobs
    left = {path.name for path in store.root.iterdir()} - {"locks"}
    assert left == ({f"{name}.failed"} if size else set()) and store.record(name) is None
    if size:  # the reason is small enough to be kept
        assert "failed: cannot write" in status(jobs, store) and "File too large" in status(
            jobs, store
        )
    assert run_here(jobs, replace_store(finished.bench, store)) == []
    assert (
        same_result(finished, faces, request, store, tmp_path) and not store.failure(name).exists()
    )


def test_a_damaged_record_is_said_and_made_again_and_a_damaged_parent_too(
    finished, faces, tmp_path, capsys
):
    request, store = (
        tiny_request(rows=("stage i + ii",), measures=(), folds=(0,)),
        Store(tmp_path / "store"),
    )
    jobs, bench = plan(request, faces), replace_store(finished.bench, store)
    parent, child = jobs
    assert run_here(jobs, bench) == []
    record = store.root / child / "record.json"
    record.write_bytes(record.read_bytes().replace(b'"truth": [', b'"truth": [5, '))
    weights = store.root / parent / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    assert run_here(jobs, bench) == []
    said = capsys.readouterr().out
    assert f"{child} is damaged" in said and f"{parent} is damaged" in said
    assert same_result(finished, faces, request, store, tmp_path)


def test_a_result_that_cannot_be_read_now_is_not_thrown_away(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.save("stage-1", {}, {"seconds": 1.0})

    def no_more_files(*arguments):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", no_more_files)
        with pytest.raises(DrferError, match="cannot read .*Too many open files"):
            store.record("stage-1")
    assert store.record("stage-1") == {"seconds": 1.0}


# ----------------------------------------------------------------------------------------------------- on Ray


@pytest.fixture(scope="module")
def cluster(cache):
    """Two nodes of a core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def on(cluster, jobs, store, threads=1):
    return run_on_ray(
        jobs, Place(Source(), TINY, store.root), cluster.address, None, gpus=0, threads=threads
    )


def wait_until(condition, seconds=120):
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.01)
    return found


def workers_of(driver):
    """Process numbers of a driver's Ray workers that do a job: grandchildren, under its raylet."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::_work"):
                if parent(parent(int(process.name))) == driver:
                    found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def in_the_middle_of(what, jobs, store):
    """Whether a job of a kind runs."""
    return any(store.is_locked(name) for name, job in jobs.items() if job.what == what)


@contextmanager
def meanwhile(function):
    """Something that happens while the block runs."""
    errors = []

    def run():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    assert not errors, errors


def test_two_workers_one_of_them_killed_give_the_same_bytes(cluster, finished, faces, tmp_path):
    request, store = tiny_request(), Store(tmp_path / "store")
    jobs, killed = plan(request, faces), []

    def kill_one():
        wait_until(lambda: in_the_middle_of("iii", jobs, store))
        killed.append(workers_of(os.getpid())[0])
        os.kill(killed[0], signal.SIGKILL)

    with meanwhile(kill_one):
        assert on(cluster, jobs, store) == []
    assert killed and same_result(finished, faces, request, store, tmp_path)
    assert Counter(store.record(name) is not None for name in jobs) == {True: len(jobs)}


def test_a_job_that_loses_its_workers_too_often_fails(cluster, faces, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    jobs = plan(tiny_request(rows=("stage i + ii",), measures=(), folds=(0,)), faces)
    other = plan(tiny_request(rows=(BASELINE,), measures=(), folds=(1,)), faces)
    monkeypatch.setattr(engine, "LARGEST_LOSSES", 0)

    def kill():
        wait_until(lambda: in_the_middle_of("i-expression", jobs, store))
        for worker in workers_of(os.getpid()):
            os.kill(worker, signal.SIGKILL)

    with meanwhile(kill):
        assert on(cluster, jobs, store) == sorted(jobs)
    assert counts(status(jobs, store)) == {
        "i-expression": (0, 0, 1, 0),
        "ii-expression": (0, 0, 0, 1),
    }
    assert "failed: WorkerCrashedError" in status(jobs, store)
    assert on(cluster, other, store) == []


def test_a_job_too_large_for_every_node_is_refused(cluster, finished, tmp_path):
    with pytest.raises(DrferError, match="no node of the Ray cluster has 2 cores"):
        on(cluster, finished.jobs, Store(tmp_path), threads=2)


def test_where_there_are_gpus_jobs_do_not_all_take_the_first(
    cluster, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "device", lambda: SimpleNamespace(type="cuda"))
    with pytest.raises(DrferError, match="say with --gpus"):
        on(cluster, finished.jobs, Store(tmp_path))


def test_a_lost_node_loses_nothing(cluster, finished, faces, tmp_path):
    request, store = tiny_request(), Store(tmp_path / "store")
    jobs, removed = plan(request, faces), []

    def remove():
        wait_until(lambda: sum(store.is_locked(name) for name in jobs) == 2)  # one on each node
        cluster.remove_node(cluster.second, allow_graceful=False)
        removed.append(sum(store.record(name) is not None for name in jobs))

    with meanwhile(remove):
        assert on(cluster, jobs, store) == []
    assert removed[0] < len(jobs) and same_result(finished, faces, request, store, tmp_path)


def test_a_killed_driver_lets_go_and_the_next_goes_on(finished, faces, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "RAY_ADDRESS", "127.0.0.1:1"
    )  # a cluster that was not asked for is left alone
    request, store = tiny_request(folds=(0,)), Store(tmp_path / "store")
    jobs = plan(request, faces)
    arguments = (
        "crossval",
        "--preset",
        "smoke",
        "--folds",
        0,
        "--rows",
        "main",
        "w/o L_tri",
        "--measures",
        "features",
        "--engine",
        "ray",
        "--workers",
        2,
        "--out",
        tmp_path,
    )
    driver = start(*arguments)
    wait_until(lambda: in_the_middle_of("ii-expression", jobs, store))
    workers = workers_of(driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert workers
    wait_until(
        lambda: not any(store.is_locked(name) for name in jobs), seconds=30
    )  # its workers are gone too
    done = {name for name in jobs if store.record(name)}
    before = {name: (store.root / name).stat().st_mtime_ns for name in done}
    assert 0 < len(done) < len(jobs)
    assert run_here(jobs, replace_store(finished.bench, store)) == []
    assert before == {name: (store.root / name).stat().st_mtime_ns for name in done}
    assert same_result(finished, faces, request, store, tmp_path)


def test_ray_is_missing_or_nowhere_in_one_sentence(finished, monkeypatch, tmp_path):
    place = Place(Source(), TINY, tmp_path)
    with pytest.raises(DrferError, match="no Ray cluster at nowhere"):
        run_on_ray(finished.jobs, place, "nowhere", None, gpus=0, threads=1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DrferError, match="Ray is not installed"):
        run_on_ray(finished.jobs, place, None, None, gpus=0, threads=1)
