"""Independent work on all cores, with a progress bar."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing

from joblib import cpu_count
from joblib.externals.loky import ProcessPoolExecutor
from tqdm.auto import tqdm

from drfer.common.errors import DrferError

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "IGL_NUM_THREADS",
    ),
    "1",
)
"""Environment of a worker process: the libraries' threads would wait for each other on one core."""


def map_on_all_cores(
    function: Callable,
    items: Iterable,
    description: str,
    *shared,
    lost: Callable | None = None,
) -> list:
    """Return `[function(item, *shared) for item in items]`, made by one process for each core.

    Each process runs its libraries on one thread, gets `shared` once, and ends with its parent,
    however that ends.

    Args:
        function: what to do with one item.
        items: the items; they and the results are sent between processes.
        description: what the progress bar says.
        *shared: further arguments of every call.
        lost: gives the result for an item whose process died, from that item.

    Raises:
        DrferError: a process died and `lost` is not given.
    """
    items, results = list(items), []
    alone = False  # after a death, the next item runs by itself: does it die again?
    with progress(None, description, total=len(items)) as bar:
        while len(results) < len(items):
            rest = items[len(results) :]
            try:
                with closing(_in_workers(function, rest[:1] if alone else rest, shared)) as stream:
                    for result in stream:
                        results.append(result)
                        bar.update()
                alone = False
            except BrokenProcessPool:
                if lost is None:
                    raise DrferError(
                        f"a process died ({description}): perhaps memory ran out; "
                        "close other programs and run it again"
                    ) from None
                if alone:
                    results.append(lost(rest[0]))
                    bar.update()
                alone = not alone
    return results


def progress(
    items: Iterable | None,
    description: str,
    total: int | None = None,
    initial: int = 0,
    unit: str = "it",
) -> tqdm:
    """Return a progress bar, with the time left, around any iterable (or around none)."""
    return tqdm(
        items, desc=description, total=total, initial=initial, unit=unit, dynamic_ncols=True
    )


def _in_workers(function: Callable, items: Sequence, shared: tuple) -> Iterator:
    """Yield the results in the items' order; leave no process behind, whatever happens."""
    workers = ProcessPoolExecutor(
        max_workers=min(cpu_count(), len(items)),
        initializer=_begin,
        initargs=(os.getpid(), function, shared),
        env=ONE_THREAD,
    )
    finished = False
    try:
        # not `workers.map`: if interrupted it cancels what waits, and then loky cannot end workers
        futures = deque(workers.submit(_apply, item) for item in items)
        while futures:
            yield futures.popleft().result()
        finished = True
    finally:
        workers.shutdown(kill_workers=not finished)


def _begin(parent: int, function: Callable, shared: tuple) -> None:
    """In a worker: keep what every item needs, leave Ctrl-C to the parent, and end with it."""
    global _work
    _work = function, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # an orphan gets another parent
        time.sleep(0.5)
    os._exit(1)


def _apply(item):
    function, shared = _work
    return function(item, *shared)
