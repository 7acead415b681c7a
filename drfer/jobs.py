"""Independent work on all cores with a progress bar, and files that are written whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs
from tqdm.auto import tqdm

from drfer.scan import DrferError


def cache_folder() -> Path:
    """Where made and preprocessed faces are kept: $DRFER_CACHE, else the user's cache folder."""
    return Path(os.environ.get("DRFER_CACHE") or platformdirs.user_cache_dir("drfer"))


def map_on_all_cores(function: Callable, items: Sequence, description: str, *shared) -> list:
    """[function(item, *shared) for item in items] in one process a core, of one thread each; each gets `shared` once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(items))
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs threads may hang
    with _one_thread_for_children(), ProcessPoolExecutor(workers, context, _keep, (function, shared)) as pool:
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
    return tqdm(items, desc=description, total=total, initial=initial, unit=unit, dynamic_ncols=True)


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A temporary path beside the target, for a file or a folder, that takes the target's place when all went well.

    After a crash or a kill the target is as it was: complete or absent. Raises DrferError if the place
    cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise DrferError(f"cannot write to {target.parent}: {error.strerror}; choose another folder") from None
    try:
        yield workplace / target.name
        os.replace(workplace / target.name, target)
    except OSError as error:
        # a second process may have put the same folder there first: theirs is as good
        if not (target.is_dir() and (workplace / target.name).is_dir()):
            raise DrferError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """A cache of arrays; None if it is not there, or cannot be read, when it is removed: it can be made again."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except Exception:  # truncated, overwritten, not a zip: whatever it is
        path.unlink()
        return None


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed process left beside a target; younger than an hour it may be another's work."""
    for leftover in target.parent.glob(f".{target.name}.*"):
        if time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)
