"""What may befall an evaluation on Ray: lost workers, nodes and drivers, and mistakes."""

import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from driver import counts, same_result, start, tiny_request, wait_until
from made_up_populations import TINY_DRAWS, draws_request

from drfer.common.errors import DrferError
from drfer.evaluation import engine
from drfer.evaluation.collect import collect
from drfer.evaluation.draws import DrawFaces
from drfer.evaluation.engine import run_draws_here, run_here, run_on_ray, status
from drfer.evaluation.plan import plan
from drfer.evaluation.rows import BASELINE
from drfer.evaluation.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_draw_is_one_task_and_gives_the_same_bytes(made_up_faces, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_start_ray", lambda address, cores: RayInThisProcess())
    tasks, original = [], engine._work_on_draw

    def work(jobs, *arguments):
        tasks.append(list(jobs))
        return original(jobs, *arguments)

    monkeypatch.setattr(engine, "_work_on_draw", work)
    request, faces, written = draws_request(), DrawFaces(TINY_DRAWS.protocol), []
    for name, run in (("ray", run_on_ray), ("here", run_draws_here)):
        store = Store(tmp_path / name / "store")
        jobs = plan(request, faces, store)
        assert run(jobs, faces, store) == []
        collect(request, faces, store, tmp_path / name)
        written.append((tmp_path / name / "result.json").read_bytes())
    assert written[0] == written[1]
    assert tasks == [list(jobs)[:8], list(jobs)[8:]]
    assert not faces.are_left and not faces.of(2).are_left
    assert run_on_ray(jobs, faces, store) == []
    assert len(tasks) == 2, "nothing is missing any more"


def test_a_draw_whose_workers_are_lost_has_failed_and_the_next_goes_on(
    made_up_faces, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "_start_ray", lambda address, cores: RayInThisProcess())
    original = engine._do_draw
    monkeypatch.setattr(
        RayInThisProcess, "get", lambda self, one: one.value if one.value[0] is not None else fail()
    )

    def fail():
        raise RuntimeError("the worker died")

    def lost_in_draw_1(jobs, faces, store, wait=True):
        return original(jobs, faces, store, wait) if faces.draw > 1 else None

    monkeypatch.setattr(engine, "_do_draw", lost_in_draw_1)
    store, faces = Store(tmp_path / "store"), DrawFaces(TINY_DRAWS.protocol)
    jobs = plan(draws_request(2, (BASELINE,), ()), faces, store)
    first, second = jobs
    assert run_on_ray(jobs, faces, store) == [first]
    assert store.record(second)
    assert "failed: RuntimeError: the worker died" in status(jobs, store)


# ----------------------------------------------------------------------------------- Ray's mistakes


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
