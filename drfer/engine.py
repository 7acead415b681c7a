"""Where an evaluation's jobs run: in this process, or on a Ray cluster; and how far they are."""

from __future__ import annotations

import statistics
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from drfer.device import keep_freed_memory
from drfer.evaluation import Bench, Job, Source
from drfer.experiment import Preset
from drfer.jobs import progress
from drfer.scan import DrferError
from drfer.store import Store


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
        if failed.isdisjoint(job.parents) and _attempt(job, bench):
            continue
        failed.add(job.name)
    return sorted(failed)


def run_on_ray(
    jobs: dict[str, Job], place: Place, address: str | None, workers: int | None, gpus: float, threads: int
) -> list[str]:
    """Do what is missing on a Ray cluster: that at `address`, or one of this machine's cores.

    A job starts when its parents are done; one whose worker is lost starts again elsewhere, from its checkpoint.
    workers: at most so many at a time on a cluster of this machine. gpus: of a job, a fraction if several share one.
    Raises DrferError if Ray is not installed or the cluster cannot be reached.
    """
    ray = _ray()
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(num_cpus=workers and workers * threads, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DrferError(f"no Ray cluster at {address}: {error}") from None
    try:
        remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=-1)(_work)
        waiting: dict = {}
        for job in _missing(jobs, Store(place.store)):
            parents = [waiting[parent] for parent in job.parents if parent in waiting]
            waiting[job.name] = remote.remote(job, place, threads, *parents)
        by_reference = {reference: name for name, reference in waiting.items()}
        return sorted(name for name, done in _as_they_finish(ray, by_reference) if not done)
    finally:
        ray.shutdown()


def _as_they_finish(ray, by_reference: dict) -> Iterable[tuple[str, bool]]:
    pending = list(by_reference)
    with progress(None, "jobs", len(pending), unit="job") as bar:
        while pending:
            ready, pending = ray.wait(pending, timeout=1)
            bar.update(len(ready))
            bar.refresh()
            for reference in ready:
                yield by_reference[reference], ray.get(reference)


def _work(job: Job, place: Place, threads: int, *parents: bool) -> bool:
    """A job in a Ray worker; `parents` are there to be waited for."""
    torch.set_num_threads(threads)
    return all(parents) and _attempt(job, _open_bench(place))


_benches: list[tuple[Place, Bench]] = []


def _open_bench(place: Place) -> Bench:
    """A worker's bench; it keeps the last one."""
    if not _benches or _benches[0][0] != place:
        keep_freed_memory()
        _benches[:] = [(place, Bench(place.source, place.preset, Store(place.store)))]
    return _benches[0][1]


def _attempt(job: Job, bench: Bench) -> bool:
    """Whether a job could be done; if not, why stands in the store, and the others go on."""
    failure = bench.store.failure(job.name)
    try:
        failure.unlink(missing_ok=True)
        bench.do(job)
    except Exception as error:
        reason = str(error) if isinstance(error, DrferError) else traceback.format_exc()
        print(f"{job.name} failed: {reason}")
        try:
            failure.write_text(reason)
        except OSError:  # a full disk cannot keep the reason either
            pass
        return False
    return True


def _missing(jobs: dict[str, Job], store: Store) -> list[Job]:
    return [job for name, job in jobs.items() if store.record(name) is None]


def _ray():
    try:
        import ray
    except ImportError:
        raise DrferError('Ray is not installed: pip install "drfer[cluster]", or leave --engine at local') from None
    return ray


STATES = ("done", "running", "failed", "to do")


def status(jobs: dict[str, Job], store: Store) -> str:
    """How many jobs of each kind are done, running, failed and missing, and about how long the rest takes."""
    running = store.locked()
    seconds: dict[str, list[float]] = {}
    counts: dict[str, Counter] = {}
    for name, job in jobs.items():
        record = store.record(name)
        if record:
            seconds.setdefault(job.what, []).append(record["seconds"])
            state = "done"
        elif name in running:
            state = "running"
        else:
            state = "failed" if store.failure(name).exists() else "to do"
        counts.setdefault(job.what, Counter())[state] += 1
    lines = [" " * 16 + "".join(f"{state:>9}" for state in STATES)]
    for what, of in counts.items():
        lines.append(f"{what:<16}" + "".join(f"{of[state]:>9}" for state in STATES))
    left = {what: of.total() - of["done"] for what, of in counts.items()}
    unknown = [what for what, count in left.items() if count and what not in seconds]
    rest = sum(count * statistics.median(seconds[what]) for what, count in left.items() if what in seconds)
    lines.append(
        f"about {rest / 3600:.1f} hours of work left for one worker"
        + (f", and {', '.join(unknown)}" if unknown else "")
    )
    failures = [
        store.failure(name).read_text().strip().splitlines()[-1] for name in jobs if store.failure(name).exists()
    ]
    return "\n".join([*lines, *(f"failed: {reason}" for reason in sorted(set(failures)))])
