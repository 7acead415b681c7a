"""Where an evaluation's jobs run: in this process, or on a Ray cluster; and how far they are."""

from __future__ import annotations

import os
import statistics
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import torch

from drfer.common.device import device, keep_freed_memory
from drfer.common.errors import DrferError
from drfer.common.files import written_whole
from drfer.common.parallel import progress
from drfer.evaluation.experiment import Preset
from drfer.evaluation.plan import Bench, Job, Source
from drfer.evaluation.store import Store

LARGEST_LOSSES = 10
"""workers that a job on Ray may lose, each with its memory or its node, before it counts as failed"""


@dataclass(frozen=True)
class Place:
    """What a worker opens its bench with; a store of a cluster lies on a file system that all nodes share."""

    source: Source
    preset: Preset
    store: Path


def run_here(jobs: dict[str, Job], bench: Bench) -> list[str]:
    """Do what is missing, in order, in this process; returns the names of the jobs that failed."""
    missing = _missing(jobs, bench.store)
    failed: set[str] = set()
    for job in progress(missing, "jobs", unit="job"):
        if failed.isdisjoint(job.parents) and _attempt(job, bench.store, lambda: bench):
            continue
        failed.add(job.name)
    return sorted(failed)


def run_on_ray(
    jobs: dict[str, Job],
    place: Place,
    address: str | None,
    workers: int | None,
    gpus: float,
    threads: int,
) -> list[str]:
    """Do what is missing on a Ray cluster: that at `address`, or one of this machine's cores.

    A job starts when its parents are done; one whose worker is lost starts again elsewhere, from its checkpoint.
    workers: at most so many at a time on a cluster of this machine. gpus: of a job, a fraction if several share one.
    Raises DrferError if Ray is not installed, the cluster cannot be reached, or no node of it could hold a job.
    """
    ray = _ray()
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            # "local": without it, Ray would join any cluster that it finds on this machine
            cores = workers and workers * threads
            ray.init(address="local", num_cpus=cores, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray has no narrower one for a start that takes too long
        raise DrferError(
            f"no Ray {f'cluster at {address}' if address else 'here'}: {error}"
        ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= gpus for node in nodes):
            raise DrferError(
                f"no node of the Ray cluster has {threads} cores and {gpus} GPUs: give --threads, --gpus less"
            )
        if not gpus and device().type == "cuda":  # all jobs would share the first
            raise DrferError(
                "there are GPUs here: say with --gpus how much of one a job takes, such as 1 or 0.25"
            )
        remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=LARGEST_LOSSES)(_work)
        waiting: dict = {}
        for job in _missing(jobs, Store(place.store)):
            parents = [waiting[parent] for parent in job.parents if parent in waiting]
            waiting[job.name] = remote.remote(job, place, threads, *parents)
        return sorted(
            _failed(ray, {waiting[name]: jobs[name] for name in waiting}, Store(place.store))
        )
    finally:
        ray.shutdown()


def _failed(ray, by_reference: dict, store: Store) -> set[str]:
    """Wait for all jobs; the names of those that failed."""
    pending, failed = list(by_reference), set()
    with progress(None, "jobs", len(pending), unit="job") as bar:
        while pending:
            ready, pending = ray.wait(pending, timeout=1)
            bar.update(len(ready))
            bar.refresh()
            for reference in ready:
                job, done = by_reference[reference], False
                try:
                    done, said = ray.get(reference)
                    print(said, end="")
                except ray.exceptions.RayError as error:
                    if failed.isdisjoint(job.parents):  # else it is the parent's
                        _fail(
                            job.name,
                            f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}",
                            store,
                        )
                if not done:
                    failed.add(job.name)
    return failed


def _work(job: Job, place: Place, threads: int, *parents: tuple[bool, str]) -> tuple[bool, str]:
    """A job in a Ray worker: whether it could be done, and what was printed. `parents` are there to be waited for."""
    torch.set_num_threads(threads)
    with redirect_stdout(StringIO()) as said:
        done = all(done for done, _ in parents) and _attempt(
            job, Store(place.store), partial(_open_bench, place)
        )
    return done, said.getvalue()


_benches: list[tuple[Place, Bench]] = []


def _open_bench(place: Place) -> Bench:
    """A worker's bench; it keeps the last one."""
    if not _benches or _benches[0][0] != place:
        keep_freed_memory()
        _benches[:] = [(place, Bench(place.source, place.preset, Store(place.store)))]
    return _benches[0][1]


def _attempt(job: Job, store: Store, bench: Callable[[], Bench]) -> bool:
    """Whether a job could be done; if not, why stands in the store, and the others go on."""
    try:
        store.failure(job.name).unlink(missing_ok=True)
        bench().do(job)
    except Exception as error:
        _fail(
            job.name, str(error) if isinstance(error, DrferError) else traceback.format_exc(), store
        )
        return False
    return True


def _fail(name: str, reason: str, store: Store) -> None:
    print(f"{name} failed: {reason}")
    with suppress(DrferError):  # a full disk cannot keep the reason either
        with written_whole(store.failure(name)) as target:
            target.write_text(reason)


def _missing(jobs: dict[str, Job], store: Store) -> list[Job]:
    return [job for name, job in jobs.items() if store.record(name) is None]


def _ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        import ray
    except ImportError:
        raise DrferError(
            'Ray is not installed: pip install "drfer[cluster]", or leave --engine at local'
        ) from None
    return ray


STATES = ("done", "running", "failed", "to do")


def status(jobs: dict[str, Job], store: Store) -> str:
    """How many jobs of each kind are done, running, failed and missing, and about how long the rest takes."""
    seconds: dict[str, list[float]] = {}
    counts: dict[str, Counter] = {}
    reasons: set[str] = set()
    for name, job in jobs.items():
        record = store.record(name)
        if record:
            seconds.setdefault(job.what, []).append(record["seconds"])
            state = "done"
        elif store.is_locked(name):
            state = "running"
        else:
            state = "to do"
            with suppress(FileNotFoundError):
                reasons.add(store.failure(name).read_text().strip().splitlines()[-1])
                state = "failed"
        counts.setdefault(job.what, Counter())[state] += 1
    lines = [" " * 16 + "".join(f"{state:>9}" for state in STATES)]
    for what, of in counts.items():
        lines.append(f"{what:<16}" + "".join(f"{of[state]:>9}" for state in STATES))
    left = {what: of.total() - of["done"] for what, of in counts.items()}
    unknown = [what for what, count in left.items() if count and what not in seconds]
    rest = sum(
        count * statistics.median(seconds[what]) for what, count in left.items() if what in seconds
    )
    lines.append(
        f"about {rest / 3600:.1f} hours of work left for one worker"
        + (f", and {', '.join(unknown)}" if unknown else "")
    )
    return "\n".join([*lines, *(f"failed: {reason}" for reason in sorted(reasons))])
