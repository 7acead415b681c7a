"""What may befall a long evaluation: failing jobs, a full disk, damage, lost workers and drivers."""

import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from driver import TINY, same_result, start, tiny_request
from only_readable import as_a_user_who_may_only_read

from drfer.common.errors import DrferError
from drfer.evaluation import engine
from drfer.evaluation.engine import run_here, run_on_ray, status
from drfer.evaluation.plan import plan
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.rows import BASELINE
from drfer.evaluation.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def counts(text):
    """The table of `drfer status`: done, running, failed and to do of each kind."""
    lines = (line.split() for line in text.splitlines())
    return {
        line[0]: tuple(map(int, line[1:])) for line in lines if len(line) == 5 and line[1].isdigit()
    }


# ---------------------------------------------------------------------------------- in one process


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
        assert "hours of work left for one worker, and i-identity, ii-identity, iii" in said.out
    monkeypatch.setitem(PRESETS, "smoke", TINY)
    code, said = command("crossval", *selection)
    assert code == 0, said.err
    assert (tmp_path / "table-1.md").exists(), "it is drawn"
    code, said = command("status", *selection)
    assert set(counts(said.out).values()) == {(1, 0, 0, 0)}
    assert "about 0.0 hours" in said.out


def first_stage_jobs(finished):
    return {name: job for name, job in finished.jobs.items() if job.what == "i-expression"}


def test_status_sees_what_runs_and_how_long_it_takes(finished, tmp_path):
    store, jobs = Store(tmp_path), first_stage_jobs(finished)
    first, second = jobs
    assert counts(status(jobs, store)) == {"i-expression": (0, 0, 0, 2)}
    assert "left for one worker, and i-expression" in status(jobs, store)
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
    command, tiny_preset, finished, tmp_path
):
    """What is in it is counted, and what is missing is to do."""
    arguments = ("--preset", "smoke", "--folds", 0, 1, "--measures", "features")
    out = finished.folder
    with as_a_user_who_may_only_read(out):
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
    """To a process, a limit on the size of files is what a full disk is, with so many bytes left."""
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


# ------------------------------------------------------------------------------------------- on Ray


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


def on(cluster, jobs, faces, store, threads=1):
    return run_on_ray(jobs, faces, store, cluster.address, threads=threads)


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
    jobs, killed = plan(request, faces, store), []

    def kill_one():
        wait_until(lambda: in_the_middle_of("iii", jobs, store))
        killed.append(workers_of(os.getpid())[0])
        os.kill(killed[0], signal.SIGKILL)

    with meanwhile(kill_one):
        assert on(cluster, jobs, faces, store) == []
    assert killed
    assert same_result(finished, faces, request, store, tmp_path)
    assert Counter(store.record(name) is not None for name in jobs) == {True: len(jobs)}


def test_a_job_that_loses_its_workers_too_often_fails(cluster, faces, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    jobs = plan(tiny_request(("stage i + ii",), (), (0,)), faces, store)
    other = plan(tiny_request((BASELINE,), (), (1,)), faces, store)
    monkeypatch.setattr(engine, "MOST_LOSSES", 0)

    def kill():
        wait_until(lambda: in_the_middle_of("i-expression", jobs, store))
        for worker in workers_of(os.getpid()):
            os.kill(worker, signal.SIGKILL)

    with meanwhile(kill):
        assert on(cluster, jobs, faces, store) == sorted(jobs)
    assert counts(status(jobs, store)) == {
        "i-expression": (0, 0, 1, 0),
        "ii-expression": (0, 0, 0, 1),
    }
    assert "failed: WorkerCrashedError" in status(jobs, store)
    assert on(cluster, other, faces, store) == []


def test_a_job_too_large_for_every_node_is_refused(cluster, finished, faces, tmp_path):
    with pytest.raises(DrferError, match="no node of the Ray cluster has 2 cores"):
        on(cluster, finished.jobs, faces, Store(tmp_path), threads=2)


def test_where_there_are_gpus_jobs_do_not_all_take_the_first(
    cluster, finished, faces, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "device", lambda: SimpleNamespace(type="cuda"))
    with pytest.raises(DrferError, match="say with --gpus"):
        on(cluster, finished.jobs, faces, Store(tmp_path))


def test_a_lost_node_loses_nothing(cluster, finished, faces, tmp_path):
    request, store = tiny_request(), Store(tmp_path / "store")
    jobs, removed = plan(request, faces, store), []

    def remove():
        wait_until(lambda: sum(store.is_locked(name) for name in jobs) == 2)  # one on each node
        cluster.remove_node(cluster.second, allow_graceful=False)
        removed.append(sum(store.record(name) is not None for name in jobs))

    with meanwhile(remove):
        assert on(cluster, jobs, faces, store) == []
    assert removed[0] < len(jobs)
    assert same_result(finished, faces, request, store, tmp_path)


def test_a_killed_driver_lets_go_and_the_next_goes_on(finished, faces, tmp_path, monkeypatch):
    # a cluster that was not asked for is not joined
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    request, store = tiny_request(folds=(0,)), Store(tmp_path / "store")
    jobs = plan(request, faces, store)
    selection = ("--preset", "smoke", "--folds", 0, "--rows", "main", "w/o L_tri")
    on_ray = ("--measures", "features", "--engine", "ray", "--workers", 2, "--out", tmp_path)
    driver = start("crossval", *selection, *on_ray)
    wait_until(lambda: in_the_middle_of("ii-expression", jobs, store))
    workers = workers_of(driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert workers
    # its workers end, too
    wait_until(lambda: not any(store.is_locked(name) for name in jobs), seconds=30)
    done = {name for name in jobs if store.record(name)}
    before = {name: (store.root / name).stat().st_mtime_ns for name in done}
    assert 0 < len(done) < len(jobs)
    assert run_here(jobs, faces, store) == []
    assert before == {name: (store.root / name).stat().st_mtime_ns for name in done}
    assert same_result(finished, faces, request, store, tmp_path)


class Answer:
    """A reference to a value, as Ray gives them."""

    def __init__(self, value):
        self.value = value


class RayInThisProcess:
    """What the engine asks of Ray, done at once."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1}}]

    def remote(self, **options):
        def decorate(function):
            def do(*given):
                values = [each.value if isinstance(each, Answer) else each for each in given]
                return Answer(function(*values))

            return SimpleNamespace(remote=do)

        return decorate

    def put(self, value):
        return Answer(value)

    def wait(self, pending, timeout):
        return pending, []

    def get(self, reference):
        return reference.value

    def shutdown(self):
        pass


def test_head_poses_are_made_once_before_the_workers_need_them(
    finished, faces, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "_start_ray", lambda address, cores: RayInThisProcess())
    happened = []
    monkeypatch.setattr(engine, "posed_faces_of", lambda faces: happened.append("posed"))
    monkeypatch.setattr(
        engine, "_attempt", lambda job, faces, store: happened.append(job.name) or True
    )
    store = Store(tmp_path)
    jobs = plan(tiny_request(("main",), ("pose",), (0,)), faces, store)
    assert run_on_ray(jobs, faces, store) == []
    assert happened == ["posed", *jobs]
    happened.clear()
    assert run_on_ray(finished.jobs, faces, store) == []
    assert happened == list(finished.jobs), "no job of these needs them"
    happened.clear()
    for name in jobs:
        store.save(name, {}, {"seconds": 1.0})
    assert run_on_ray(jobs, faces, store) == []
    assert happened == [], "nothing is missing any more"


# ------------------------------------------------------------------------------------- Ray's mistakes


@pytest.fixture
def listener():
    """An address where something listens that is no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "host:port", "127.0.0.1:99999", ":"])
def test_an_address_where_nothing_listens_is_one_sentence(finished, faces, tmp_path, address):
    started = time.monotonic()
    with pytest.raises(DrferError, match=f"no Ray cluster answers at {address} ") as refusal:
        run_on_ray(finished.jobs, faces, Store(tmp_path), address)
    assert "give --address HOST:PORT" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert time.monotonic() - started < 30


def test_an_address_where_something_else_listens_is_one_sentence(
    command, tiny_preset, no_figures, faces, tmp_path, listener
):
    started = time.monotonic()
    on_ray = ("--engine", "ray", "--address", listener)
    code, said = command("crossval", "--preset", "smoke", "--out", tmp_path, *on_ray)
    assert code == 2
    assert said.err.startswith(f"drfer: no Ray cluster answers at {listener}")
    assert said.err.count("\n") == 1
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"threads": 0}, "a job cannot take 0 threads; give --threads 1 or more"),
        ({"threads": -1}, "a job cannot take -1 threads"),
        ({"gpus": -1}, "a job cannot take -1 GPUs; give --gpus 0, a fraction, 1, 2"),
        ({"gpus": float("nan")}, "a job cannot take nan GPUs"),
        ({"gpus": float("inf")}, "a job cannot take inf GPUs"),
        ({"gpus": 2.5}, "a job cannot take 2.5 GPUs"),
        ({"workers": 0}, "0 workers do nothing; give --workers 1 or more"),
        ({"workers": -1}, "-1 workers do nothing"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(
    finished, faces, tmp_path, wrong, sentence, monkeypatch
):
    monkeypatch.setattr(engine, "_start_ray", None)
    with pytest.raises(DrferError, match=sentence):
        run_on_ray(finished.jobs, faces, Store(tmp_path), **wrong)


def test_without_ray_it_is_one_sentence(finished, faces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DrferError, match="Ray is not installed"):
        run_on_ray(finished.jobs, faces, Store(tmp_path))
