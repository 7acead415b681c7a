"""Where an evaluation's jobs run: in this process, or on a Ray cluster; and how far they are.

The jobs of folds share one set of faces. Those of a draw have one of their own, which comes and
goes with them; so they run one after the other in one place.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch

from drfer.common.device import device, keep_freed_memory
from drfer.common.errors import DrferError
from drfer.common.parallel import progress
from drfer.evaluation.draws import DrawFaces
from drfer.evaluation.experiment import forget_faces, posed_faces_of
from drfer.evaluation.plan import Job
from drfer.evaluation.store import Store
from drfer.preprocessing.faceset import FaceSet
from drfer.training.stages import STAGES

MOST_LOSSES = 10
"""Workers that a job on Ray may lose, each with its memory or its node, before it has failed."""
CONNECTION_SECONDS = 5
"""After which an address where nothing listens is given up."""
ANSWER_SECONDS = 20
"""After which an address where something else than Ray listens is given up."""
STATES = ("done", "running", "failed", "to do")


def run_here(jobs: dict[str, Job], faces: FaceSet | DrawFaces, store: Store) -> list[str]:
    """Do what is missing in this process, in order, but first what no other process makes just now.

    A job that fails does not stop the others; the store keeps why.

    Returns:
        The names of the jobs that failed, or that wait for one that did.
    """
    left, failed = {job.name: job for job in missing(jobs, store)}, set()
    with progress(None, "jobs", len(left), unit="job") as bar:
        while left:
            job = left.pop(_next(left, store))
            if not failed.isdisjoint(job.parents) or not _attempt(job, faces, store):
                failed.add(job.name)
            bar.update()
    return sorted(failed)


def run_draws_here(jobs: dict[str, Job], faces: DrawFaces, store: Store) -> list[str]:
    """Do what is missing in this process, draw by draw; draws that another process does come last.

    Returns:
        The names of the jobs that failed, or that wait for one that did.
    """
    left, failed = _unfinished(jobs, faces, store), []
    with progress(None, "draws", len(left), unit="draw") as bar:
        for wait in (False, True):
            for draw in list(left):
                done = _do_draw(left[draw], faces.of(draw), store, wait)
                if done is not None:
                    failed += done
                    del left[draw]
                    bar.update()
    return sorted(failed)


def run_on_ray(
    jobs: dict[str, Job],
    faces: FaceSet | DrawFaces,
    store: Store,
    address: str | None = None,
    workers: int | None = None,
    gpus: float = 0.0,
    threads: int = 1,
) -> list[str]:
    """Do what is missing on a Ray cluster.

    A job starts when its parents are done. One whose worker is lost starts again elsewhere, from
    its last checkpoint. The store must lie on a file system that all nodes share.

    Args:
        jobs: the plan.
        faces: preprocessed scans; Ray hands them to each node once. Those of draws are made where
            the draw is, and all jobs of a draw are one task.
        store: where results are kept.
        address: of a running cluster; without one, Ray starts on this machine.
        workers: at most so many jobs at a time on this machine; as many as cores if not given.
        gpus: that a job takes, a fraction if several share one.
        threads: that a job takes.

    Returns:
        The names of the jobs that failed, or that wait for one that did.

    Raises:
        DrferError: a number makes no sense, Ray is not installed, the cluster cannot be reached,
            or no node of it could hold a job.
    """
    _check_resources(workers, gpus, threads)
    ray = _start_ray(address, workers and workers * threads)
    try:
        _check_nodes(ray, gpus, threads)
        remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=MOST_LOSSES)
        submit = _submitted_draws if isinstance(faces, DrawFaces) else _submitted_jobs
        return sorted(_failed(ray, submit(ray, remote, jobs, faces, store, threads), store))
    finally:
        ray.shutdown()


def missing(jobs: dict[str, Job], store: Store) -> list[Job]:
    """Return the jobs whose result the store does not have, in order."""
    return [job for name, job in jobs.items() if store.record(name) is None]


def status(jobs: dict[str, Job], store: Store) -> str:
    """Say how many jobs of each kind are done, running, failed and missing, and what is left."""
    seconds: dict[str, list[float]] = {}
    counts: dict[str, Counter] = {}
    reasons: set[str] = set()
    for name, job in jobs.items():
        if record := store.record(name):
            seconds.setdefault(job.what, []).append(record["seconds"])
            state = "done"
        elif store.is_locked(name):
            state = "running"
        elif reason := store.failure(name):
            reasons.add(reason.splitlines()[-1])
            state = "failed"
        else:
            state = "to do"
        counts.setdefault(job.what, Counter())[state] += 1
    lines = [" " * 16 + "".join(f"{state:>9}" for state in STATES)]
    for what, of in counts.items():
        lines.append(f"{what:<16}" + "".join(f"{of[state]:>9}" for state in STATES))
    left = {what: of.total() - of["done"] for what, of in counts.items()}
    unknown = [what for what, count in left.items() if count and what not in seconds]
    rest = sum(
        count * statistics.median(seconds[what]) for what, count in left.items() if what in seconds
    )
    length = [f"about {rest / 3600:.1f} hours of work left for one worker"] if rest else []
    if unknown:
        length.append(f"of unknown length until one is done: {', '.join(unknown)}")
    lines.append("; besides, ".join(length) or "nothing is left to do")
    return "\n".join([*lines, *(f"failed: {reason}" for reason in sorted(reasons))])


def _next(left: dict[str, Job], store: Store) -> str:
    """Return the first job that could begin now; if all wait for another process, the first of all."""
    for name, job in left.items():
        if left.keys().isdisjoint(job.parents) and not store.is_locked(name):
            return name
    return next(iter(left))


def _attempt(job: Job, faces: FaceSet, store: Store) -> bool:
    """Whether a job could be done; if not, the store keeps why, and the others go on."""
    try:
        store.forget_failure(job.name)
        job.do(faces, store)
    except Exception as error:
        _fail(
            job.name, str(error) if isinstance(error, DrferError) else traceback.format_exc(), store
        )
        return False
    return True


def _fail(name: str, reason: str, store: Store) -> None:
    print(f"{name} failed: {reason}")
    store.save_failure(name, reason)


def _submitted_jobs(ray, remote, jobs, faces: FaceSet, store: Store, threads: int) -> dict:
    """Hand each missing job to Ray; jobs by the references to what will come of them."""
    waiting: dict = {}
    todo, work = missing(jobs, store), remote(_work)
    if any(job.needs_poses for job in todo):
        posed_faces_of(faces)  # once here, before each worker would make them for itself
    shared = ray.put(faces)
    for job in todo:
        parents = [waiting[parent] for parent in job.parents if parent in waiting]
        waiting[job.name] = work.remote(job, shared, store, threads, *parents)
    return {waiting[name]: [jobs[name]] for name in waiting}


def _submitted_draws(ray, remote, jobs, faces: DrawFaces, store: Store, threads: int) -> dict:
    """Hand each draw that is not finished to Ray; its jobs by the reference to what will come of it."""
    work = remote(_work_on_draw)
    return {
        work.remote(of_draw, faces.of(draw), store, threads): list(of_draw.values())
        for draw, of_draw in _unfinished(jobs, faces, store).items()
    }


def _unfinished(jobs: dict[str, Job], faces: DrawFaces, store: Store) -> dict[int, dict[str, Job]]:
    """Return the jobs of each draw that lacks results, or of which something is to be removed."""
    draws: dict[int, dict[str, Job]] = {}
    for name, job in jobs.items():
        draws.setdefault(job.run.repeat, {})[name] = job
    return {
        draw: of_draw
        for draw, of_draw in draws.items()
        if missing(of_draw, store) or faces.of(draw).are_left
    }


def _do_draw(
    jobs: dict[str, Job], faces: DrawFaces, store: Store, wait: bool = True
) -> list[str] | None:
    """Do the jobs of a draw; then its training faces go, and its weights if nothing failed.

    Returns:
        The names of the jobs that failed, or None if another process does this draw.
    """
    with faces.lock(wait) as held:
        if not held:
            return None
        failed = run_here(jobs, faces, store) if missing(jobs, store) else []
        forget_faces()
        for name, job in jobs.items():
            if job.what in STAGES and not failed:
                store.drop_tensors(name)
        faces.remove()  # last: a draw that left its faces is not finished
    return failed


def _work_on_draw(
    jobs: dict[str, Job], faces: DrawFaces, store: Store, threads: int
) -> tuple[list[str], str]:
    """A draw in a Ray worker: the names of the jobs that failed, and what was printed."""
    with _in_worker(threads) as said:
        failed = _do_draw(jobs, faces, store)
    return failed, said.getvalue()


def _work(
    job: Job, faces: FaceSet, store: Store, threads: int, *parents: tuple[list[str], str]
) -> tuple[list[str], str]:
    """A job in a Ray worker: its name if it failed, and what was printed.

    `parents` are there to be waited for.
    """
    with _in_worker(threads) as said:
        done = not any(failed for failed, _ in parents) and _attempt(job, _kept(faces), store)
    return [] if done else [job.name], said.getvalue()


@contextmanager
def _in_worker(threads: int) -> Iterator[StringIO]:
    """Compute with so many threads, and keep what is printed."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    with redirect_stdout(StringIO()) as said:
        yield said


_last_faces: list[FaceSet] = []


def _kept(faces: FaceSet) -> FaceSet:
    """The faces of the worker's last job, if they are the same, with all that was made of them."""
    if not _last_faces or _last_faces[0].hash != faces.hash:
        _last_faces[:] = [faces]
    return _last_faces[0]


def _failed(ray, by_reference: dict[object, list[Job]], store: Store) -> set[str]:
    """Wait for all tasks; the names of the jobs that failed."""
    pending, failed = list(by_reference), set()
    with progress(None, "tasks", len(pending), unit="task") as bar:
        while pending:
            ready, pending = ray.wait(pending, timeout=1)
            bar.update(len(ready))
            bar.refresh()
            for reference in ready:
                try:
                    of_task, said = ray.get(reference)
                    print(said, end="")
                except ray.exceptions.RayError as error:
                    of_task = _lost(error, by_reference[reference], failed, store)
                failed.update(of_task)
    return failed


def _lost(error: Exception, jobs: list[Job], failed: set[str], store: Store) -> list[str]:
    """Keep why a task is lost, with the first of its jobs that is missing; the names of all these."""
    left = missing({job.name: job for job in jobs}, store)
    if left and failed.isdisjoint(left[0].parents):  # else it is the parent's failure
        last_line = str(error).strip().splitlines()[-1]
        _fail(left[0].name, f"{type(error).__name__}: {last_line}", store)
    return [job.name for job in left]


def _check_resources(workers: int | None, gpus: float, threads: int) -> None:
    if threads < 1:
        raise DrferError(f"a job cannot take {threads} threads; give --threads 1 or more")
    if not gpus >= 0 or (gpus > 1 and gpus % 1):
        raise DrferError(f"a job cannot take {gpus} GPUs; give --gpus 0, a fraction, 1, 2, ...")
    if workers is not None and workers < 1:
        raise DrferError(f"{workers} workers do nothing; give --workers 1 or more")


def _check_nodes(ray, gpus: float, threads: int) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= gpus for node in nodes):
        raise DrferError(
            f"no node of the Ray cluster has {threads} cores and {gpus} GPUs: give --threads, "
            "--gpus less"
        )
    if not gpus and device().type == "cuda":  # all jobs would share the first
        raise DrferError(
            "there are GPUs here: say with --gpus how much of one a job takes, such as 1 or 0.25"
        )


def _start_ray(address: str | None, cores: int | None):
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        import ray
    except ImportError:
        raise DrferError(
            'Ray is not installed: pip install "drfer[cluster]", or leave --engine at local'
        ) from None
    if address:
        _check_answers(address)
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            # "local": without it, Ray would join any cluster that it finds on this machine
            ray.init(address="local", num_cpus=cores, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray has no narrower one for a start that takes too long
        where = f"cluster at {address}" if address else "here"
        raise DrferError(f"no Ray {where}: {str(error).strip().splitlines()[0]}") from None
    return ray


def _check_answers(address: str) -> None:
    """Refuse an address where no cluster is; Ray itself would try for minutes, and say much."""
    if address == "local":
        return
    try:
        if address != "auto":
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECTION_SECONDS).close()
        if not address.startswith("ray://"):  # a cluster's own port, and not that of its clients
            ray = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address"]
            subprocess.run([*ray, address], timeout=ANSWER_SECONDS, check=True, capture_output=True)
    except (OSError, ValueError, OverflowError, subprocess.SubprocessError) as error:
        other = isinstance(error, subprocess.SubprocessError)
        reason = "its health check fails" if other else error
        raise DrferError(
            f"no Ray cluster answers at {address} ({reason}); give --address HOST:PORT"
        ) from None
