"""Independent work on all cores, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from tqdm.auto import tqdm


def map_on_all_cores(function: Callable, items: Sequence, description: str, *shared) -> list:
    """[function(item, *shared) for item in items] in one process a core, of one thread each; each gets `shared` once."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = min(cores, len(items))
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs threads may hang
    with (
        _one_thread_for_children(),
        ProcessPoolExecutor(workers, context, _keep, (function, shared)) as pool,
    ):
        return list(progress(pool.map(_apply, items), description, len(items)))


def _keep(function: Callable, shared: tuple) -> None:
    """In a worker: what it needs for every item, sent once."""
    global _work
    _work = function, shared


def _apply(item):
    function, shared = _work
    return function(item, *shared)


@contextmanager
def _one_thread_for_children() -> Iterator[None]:
    """Processes started inside run their libraries on one thread: two on a core wait for each other."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IGL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def progress(items, description: str, total: int | None = None, initial: int = 0, unit: str = "it"):
    """A progress bar with the time left around any iterable."""
    return tqdm(
        items, desc=description, total=total, initial=initial, unit=unit, dynamic_ncols=True
    )
