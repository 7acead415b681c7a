"""`drfer bench` without its three minutes: what it times, and what becomes of its processes and files."""

import json
import math
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from drfer import bench
from drfer.bench import Timing
from drfer.common.errors import DrferError
from drfer.evaluation.presets import PRESETS
from drfer.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [
    Timing("encoder", "ms", 200.0, None, 50.0),
    Timing(bench.STAGE_I, "ms", None, 30.0, 10.0),
    Timing(bench.STAGE_III, "ms", None, None, 45.0),
]
KILLED = """
from functools import partial
from drfer import bench
forever = "import time\\nprint('working', flush=True)\\ntime.sleep(600)"
bench._in_a_process(partial(exec, forever))
"""


def test_a_process_that_is_timed_ends_with_a_killed_bench():
    parent = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "working\n"
    parent.kill()
    parent.communicate(timeout=20)  # the pipe ends when the last process that holds it has ended


def test_a_process_that_dies_is_one_sentence():
    with pytest.raises(DrferError, match="died"):
        bench._in_a_process(partial(sys.exit, 1))


def test_an_interrupted_bench_leaves_no_process(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("multiprocessing.connection.Connection.recv", interrupted)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        bench._in_a_process(partial(time.sleep, 600))
    assert time.monotonic() - started < 60


def test_a_process_gives_back_its_number():
    assert bench._in_a_process(partial(pow, 2, 5)) == 32


@pytest.mark.parametrize("name", ["", "file/numbers.json", "/proc/nowhere/numbers.json"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_timed(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(bench, "measure", lambda: pytest.fail("timed first"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DrferError):
        bench.report(tmp_path / name)


def test_the_file_has_the_tables_numbers_and_may_lie_in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda: ROWS)
    path = tmp_path / "new" / "numbers.json"
    assert bench.report(path) == bench.report() == bench.table(ROWS)
    written = json.loads(path.read_text())
    assert [Timing(**row) for row in written["rows"]] == ROWS
    assert written["provenance"]["torch"] == torch.__version__


def test_the_table_has_times_and_ratios():
    _, _, encoder, stage_i, stage_iii, ratio = bench.table(ROWS).splitlines()
    assert encoder.split()[-5:] == ["200", "-", "50", "4.0x", "-"]
    assert stage_i.split()[-5:] == ["-", "30", "10", "-", "3.0x"]
    assert stage_iii.split()[-5:] == ["-", "-", "45", "-", "-"]
    assert ratio.endswith("takes 4.5 times one of stage i")


def test_a_time_is_in_milliseconds():
    times = bench._milliseconds(lambda: time.sleep(0.01), repeats=3)
    assert 10 <= times < 1000


@pytest.mark.parametrize("stage", ["i-expression", "i-fusion", "iii"])
def test_a_timed_step_is_a_step_of_the_trainer(stage):
    step = bench._training_step(PRESETS["smoke"], STAGES[stage])
    torch.manual_seed(0)
    first, second = (sum(step().values()).item() for _ in range(2))
    assert math.isfinite(first) and first != second


def test_a_fold_is_all_stages_that_lead_to_the_last_and_all_their_steps(monkeypatch):
    timed = []

    def one_second(preset, stage):
        timed.append(stage.name)
        return 1000.0

    monkeypatch.setattr(bench, "_time_stage", one_second)
    preset = PRESETS["smoke"]
    seconds = bench._fold_seconds(preset)
    stages = ["i-expression", "i-identity", "i-fusion", "ii-expression", "ii-identity", "iii"]
    assert sorted(timed) == sorted(stages)
    scans = 9 * 6 * 2  # of twelve subjects three are tested; six expressions, two intensities
    steps = 0
    for stage in stages:
        schedule = preset.schedule(STAGES[stage])
        steps += schedule.epochs * ((scans + schedule.batch_size - 1) // schedule.batch_size)
    assert seconds == pytest.approx(steps)


def test_pytorch_geometrics_network_is_of_the_same_size():
    pytest.importorskip("torch_geometric")
    pytest.importorskip("torch_cluster")
    preset = PRESETS["smoke"]
    logits = bench._geometric_network(preset)(bench._clouds(3, preset.sizes.points))
    assert logits.shape == (3, 6)
