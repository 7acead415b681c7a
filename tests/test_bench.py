"""`drfer bench` without its minutes: what it times, and what becomes of its processes and files."""

import json
import math
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from drfer import bench
from drfer.bench import timed
from drfer.bench.rows import FIRST, LAST, PRODUCTS, STAGE_STEPS, Measured, Row
from drfer.common.errors import DrferError
from drfer.evaluation.presets import PRESETS
from drfer.training.stages import STAGES
from drfer.training.trainer import fresh_model

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [
    Row("step", "drfer, bfloat16", "ms", Measured(50.0, 0.02)),
    Row("step", f"{PRODUCTS}, bfloat16", "ms", Measured(40.0, 0.01)),
    Row("step", "drfer, float32", "ms", Measured(100.0, 0.02)),
    Row("step", "PyTorch Geometric, float32", "ms", Measured(400.0, 0.1)),
    Row("step", "PyTorch Geometric with pyg-lib, float32 (pyg-lib not installed)", "ms", None),
    Row(STAGE_STEPS, f"paper, {FIRST}", "ms", Measured(10.0, 0.0)),
    Row(STAGE_STEPS, f"paper, {LAST}", "ms", Measured(45.0, 0.0)),
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


def test_what_fails_beside_others_is_said_in_its_row(monkeypatch):
    tasks = [
        bench._Task("step", "other", partial(int, "no number"), alone=True),
        bench._Task("step", "drfer", partial(Measured, 1.0)),
    ]
    monkeypatch.setattr(bench, "_tasks", lambda: tasks)
    failed, own = bench.measure()
    assert failed.measured is None and "invalid literal for int()" in failed.who
    assert own.measured.value == 1.0


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
    assert [row["who"] for row in written["rows"]] == [row.who for row in ROWS]
    assert written["rows"][0]["measured"] == {"value": 50.0, "spread": 0.02}
    assert written["provenance"]["torch"] == torch.__version__


def test_the_table_has_times_spreads_and_ratios():
    lines = bench.table(ROWS).splitlines()
    heading, own, products, _, geometric, lacking, _, first, last, floor, ratio = lines
    assert heading.startswith("step ") and own.split() == ["drfer,", "bfloat16", "50", "ms", "2%"]
    assert products.split()[-3:] == ["40", "ms", "1%"]
    assert geometric.split()[-7:] == [
        "400",
        "ms",
        "10%",
        "8.0x",
        "(bfloat16),",
        "4.0x",
        "(float32)",
    ]
    assert lacking.endswith("(pyg-lib not installed)")
    assert first.split()[-3:] == ["10", "ms", "0%"] and last.split()[-3:] == ["45", "ms", "0%"]
    assert floor == "step: 1.25 times the products (bfloat16)"
    assert ratio.startswith("paper") and "4.5" in ratio


def test_every_row_has_a_name_of_its_own_and_groups_stay_together():
    tasks = bench._tasks()
    assert len({(task.group, task.who) for task in tasks}) == len(tasks)
    groups = [task.group for task in tasks]
    assert sorted(groups, key=groups.index) == groups


def test_products_are_those_of_the_shared_layers():
    """Of the first layer of each level for each point, of the others for each member of a group."""
    preset = PRESETS["smoke"]
    shapes = timed._product_shapes(preset)
    encoder = fresh_model(
        preset.sizes, 3, torch.zeros(preset.sizes.points, 3), 0
    ).expression.encoder
    shared = [*(level.shared for level in encoder.levels), encoder.whole]
    layers = [layer for one in shared for layer in one.linears]
    assert [(width, out) for _, width, out in shapes] == [
        (layer.in_features, layer.out_features) for layer in layers
    ]
    first, second = preset.sizes.encoder.levels
    rows = [preset.sizes.points, *[first.centroids * first.neighbours] * (len(first.widths) - 1)]
    rows += [first.centroids, *[second.centroids * second.neighbours] * (len(second.widths) - 1)]
    rows += [second.centroids] * len(preset.sizes.encoder.global_widths)
    assert [row for row, _, _ in shapes] == [timed.BATCH * row for row in rows]


def test_a_time_is_in_milliseconds():
    time_of_step = timed._milliseconds(lambda: time.sleep(0.01), repeats=3)
    assert 10 <= time_of_step.value < 1000 and 0 <= time_of_step.spread < 1


@pytest.mark.parametrize("stage", ["i-expression", "i-fusion", "iii"])
def test_a_timed_step_is_a_step_of_the_trainer(stage):
    step = timed._training_step(PRESETS["smoke"], STAGES[stage])
    torch.manual_seed(0)
    first, second = (sum(step().values()).item() for _ in range(2))
    assert math.isfinite(first) and first != second


def test_a_fold_is_all_stages_that_lead_to_the_last_and_all_their_steps(monkeypatch):
    stages_timed = []

    def one_second(preset, stage):
        stages_timed.append(stage.name)
        return Measured(1000.0)

    monkeypatch.setattr(timed, "time_stage", one_second)
    preset = PRESETS["smoke"]
    seconds = timed.fold_seconds(preset).value
    stages = ["i-expression", "i-identity", "i-fusion", "ii-expression", "ii-identity", "iii"]
    assert sorted(stages_timed) == sorted(stages)
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
    logits = timed._geometric_network(preset)(timed._clouds(3, preset.sizes.points))
    assert logits.shape == (3, 6)
