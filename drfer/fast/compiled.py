"""How loops are compiled by numba and called: with torch's threads, and with a working Ctrl-C."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numba
import torch

# The threads of OpenMP look for work for a moment before they sleep (drfer/__init__.py says how
# long); those of numba's own pool sleep at once.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]


def parallel_loops(function: Callable) -> Callable:
    """Compile a function whose loops run over `numba.prange`; it is called from Python only.

    The function is compiled at its first call for each combination of types, which takes seconds,
    and the result is kept on disk. It runs on as many threads as torch does.
    """
    loops = numba.njit(parallel=True, cache=True)(function)
    compiled = set()

    @functools.wraps(function)
    def call(*arguments):
        use_torch_threads()
        types = tuple(getattr(argument, "dtype", type(argument)) for argument in arguments)
        if types in compiled:
            return loops(*arguments)
        with interrupts_held():
            result = loops(*arguments)
        compiled.add(types)
        return result

    return call


def use_torch_threads() -> int:
    """Let compiled loops take as many threads as torch does, and return how many that is."""
    wanted = torch.get_num_threads()
    threads = min(wanted, numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    if torch.get_num_threads() != wanted:
        # at its first call numba starts OpenMP with a thread for each core, and torch reads that
        torch.set_num_threads(wanted)
    return threads


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold a Ctrl-C back while the block runs, and let it act at the block's end.

    While LLVM compiles, Python code runs only inside LLVM's callbacks. A KeyboardInterrupt that is
    raised there is printed and lost, and the program goes on as if nobody had pressed a key; or the
    callback's own work is left undone, and numba fails with an error of its own. A second Ctrl-C
    acts at once, for those who do not want to wait until a function is compiled.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield  # only the main thread is interrupted, and only by a handler
        return

    held = []

    def hold(number, frame):
        held.append((number, frame))
        if len(held) > 1:
            previous(number, frame)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if len(held) == 1:
            previous(*held[0])
