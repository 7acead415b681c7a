"""How compiled loops are called: on torch's threads, and with a Ctrl-C that is never lost."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

import numba
import pytest
import torch

from drfer.fast.compiled import interrupts_held, use_torch_threads


@pytest.fixture(autouse=True)
def handler():
    """Python's own handler of Ctrl-C, whatever this test run began with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press_inside_a_callback(times=1):
    """A Ctrl-C at the only moment at which Python code runs while a C library works: in its callback."""
    press = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    for _ in range(times):
        press()


def test_an_interrupt_inside_a_callback_acts_at_the_end(handler):
    went_on = False
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        press_inside_a_callback()
        went_on = True
    assert went_on and signal.getsignal(signal.SIGINT) is handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_holding_it_would_be_lost():
    press_inside_a_callback()


def test_a_second_interrupt_acts_at_once(handler):
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was held, too")
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_outweighs_the_error_that_it_comes_with():
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        press_inside_a_callback()
        raise RuntimeError("no compiled object yet")


def test_without_an_interrupt_nothing_changes(handler):
    with interrupts_held():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(ValueError, match="mine"), interrupts_held():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_of_the_programs_own_is_called_and_an_ignored_signal_stays_ignored():
    called = []
    signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
    with interrupts_held():
        signal.raise_signal(signal.SIGINT)
        assert called == []
    assert called == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_held():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_other_threads_leave_signals_alone(handler):
    seen = []

    def work():
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


INTERRUPTED = """
import signal
import numba
import numpy as np
from numba.core.codegen import CPUCodeLibrary
from drfer.fast.compiled import parallel_loops

finish = CPUCodeLibrary._object_compiled_hook

def interrupted(cls, module, buffer):
    if not presses:
        presses.append(signal.raise_signal(signal.SIGINT))
    finish(module, buffer)

presses = []
CPUCodeLibrary._object_compiled_hook = classmethod(interrupted)

@parallel_loops
def doubled(values):
    out = np.empty_like(values)
    for i in numba.prange(len(values)):
        out[i] = 2 * values[i]
    return out

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    doubled(np.ones(3))
except KeyboardInterrupt:
    print("interrupted, presses:", len(presses))
print(doubled(np.ones(3)))
"""


def test_an_interrupt_while_numba_compiles_is_not_lost(tmp_path):
    """Pressed inside LLVM's callback, where the error used to be printed and forgotten."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.stdout == "interrupted, presses: 1\n[2. 2. 2.]\n", done.stderr
    assert done.stderr == "", "and what was being compiled is whole"


@pytest.mark.parametrize("threads", [1, 2])
def test_loops_take_as_many_threads_as_torch(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert use_torch_threads() == min(threads, numba.config.NUMBA_NUM_THREADS)
    assert numba.get_num_threads() == min(threads, numba.config.NUMBA_NUM_THREADS)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
