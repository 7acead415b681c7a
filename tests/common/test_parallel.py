"""Work on all cores: right results, one thread a process, and no process that is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from drfer.common.errors import DrferError, ScanFormatError
from drfer.common.parallel import map_on_all_cores


def scaled(item, factor, offset):
    return item * factor + offset


def refused(item):
    raise ScanFormatError(f"scan {item} is none")


def threads_of(item):
    import torch

    return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def dying(item):
    if item % 4 == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_results_come_in_the_items_order():
    got = map_on_all_cores(scaled, range(20), "scaling", np.arange(3), 1)
    assert all(np.array_equal(a, item * np.arange(3) + 1) for item, a in enumerate(got))
    assert map_on_all_cores(scaled, [], "nothing", 2, 0) == []


def test_what_a_worker_raises_arrives():
    with pytest.raises(ScanFormatError, match="^scan 0 is none$"):
        map_on_all_cores(refused, range(4), "refusing")


def test_each_process_has_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert set(map_on_all_cores(threads_of, range(2), "counting")) == {("1", 1)}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_process_that_dies_is_one_sentence():
    with pytest.raises(DrferError, match=r"^a process died \(working\)"):
        map_on_all_cores(dying, range(4), "working")


def test_the_others_go_on_where_a_death_has_a_result():
    got = map_on_all_cores(dying, range(8), "working", lost=lambda item: f"{item} is lost")
    assert got == [0, 1, "2 is lost", 3, 4, 5, "6 is lost", 7]


SLEEPING = """
import os, signal, sys, time
from pathlib import Path
from drfer.common.parallel import map_on_all_cores

def sleep(item, folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(120)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests may ignore it
    map_on_all_cores(sleep, range(8), "sleeping", sys.argv[1])
"""


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children_of(process):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, parent = stat.parent.name, stat.read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == process:
            found.append(int(name))
    return found


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads the processes from /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT"])
def test_workers_end_with_their_parent(name, tmp_path):
    (tmp_path / "sleeping.py").write_text(SLEEPING)
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "sleeping.py", tmp_path / "pids"],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    workers = min(
        len(os.sched_getaffinity(0)), 8
    )  # all of them: one that starts is noisy when it ends
    began = tmp_path / "pids"
    assert wait_until(lambda: len(list(began.iterdir())) == workers, 60), "a worker did not begin"
    children = children_of(parent.pid)
    assert {int(path.name) for path in (tmp_path / "pids").iterdir()} <= set(children)
    if name == "SIGINT":  # Ctrl-C reaches every process of the terminal
        os.killpg(parent.pid, signal.SIGINT)
    else:
        parent.send_signal(getattr(signal, name))
    assert wait_until(lambda: parent.poll() is not None, 10), "the parent goes on"
    assert wait_until(lambda: not any(map(is_running, children)), 10), "a child was left behind"
    said = parent.stderr.read().decode()
    if name == "SIGINT":
        assert said.count("KeyboardInterrupt") == 1, said
