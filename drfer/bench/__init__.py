"""How long things take, beside what others need for the same and what they must: `drfer bench`.

Everything is timed by `torch.utils.benchmark`, one thing after the other, and ratios are between
rows of one run. What is not the kit's own runs in a process of its own: the way in which this kit
keeps freed memory would make it faster than it is by itself. Clouds are noisy copies of the template
face, so that balls are as full as in a training.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

from drfer.bench import timed
from drfer.bench.rows import (
    CHAMFER,
    FIRST,
    LAST,
    OTHERS,
    PRODUCTS,
    STAGE_STEPS,
    STEP,
    Measured,
    Row,
    table,
)
from drfer.bench.timed import CLASSROOM, PAPER
from drfer.common.device import has_bfloat16, keep_freed_memory
from drfer.common.errors import DrferError
from drfer.common.files import written_whole
from drfer.common.parallel import progress
from drfer.evaluation.origin import provenance
from drfer.evaluation.presets import Preset
from drfer.training.losses import chamfer_distance
from drfer.training.stages import STAGES


@dataclass(frozen=True)
class _Task:
    group: str
    who: str
    function: Callable[[], Measured]
    unit: str = "ms"
    alone: bool = False
    """Whether it runs in a process of its own."""
    lacks: str = ""
    """What it needs and is not there."""


def report(path: Path | None = None) -> str:
    """Time everything and return the table. It takes about five minutes on two cores.

    Args:
        path: a JSON file for the same numbers, which is opened before anything is timed.

    Raises:
        DrferError: the file cannot be written.
    """
    if path is None:
        return table(measure())
    if path.is_dir():
        raise DrferError(f"{path} is a folder; give the name of a file for the numbers")
    with written_whole(path) as target:
        rows = measure()
        measured = {"rows": [asdict(row) for row in rows], "provenance": provenance()}
        target.write_text(json.dumps(measured, indent=1))
    return table(rows)


def measure() -> list[Row]:
    """Measure and return all rows, in the order of the table."""
    keep_freed_memory()
    rows = []
    tasks = _tasks()
    for task in progress(tasks, "bench"):
        measured, lacks = None, task.lacks
        if not lacks and task.alone:
            try:
                measured = _in_a_process(task.function)
            except DrferError as error:  # the other rows are worth having
                lacks = str(error)
        elif not lacks:
            measured = task.function()
        who = f"{task.who} ({lacks})" if lacks else task.who
        rows.append(Row(task.group, who, task.unit, measured))
    return rows


def _tasks() -> list[_Task]:
    step = STEP.format("the paper")
    others = (
        ("plain form under torch.compile, float32", timed.time_compiled, _lacks_compiler()),
        (
            "PyTorch Geometric, float32",
            timed.time_geometric,
            _lacks("torch_geometric", "torch_cluster"),
        ),
        (
            "PyTorch Geometric with pyg-lib, float32",
            partial(timed.time_geometric, True),
            _lacks_pyg_lib(),
        ),
    )
    fold = "three stages of a fold of classroom, from step times"
    return [
        *_steps("the paper", PAPER),
        *(_Task(step, who, function, alone=True, lacks=lacks) for who, function, lacks in others),
        *_steps("classroom", CLASSROOM),
        _Task(CHAMFER, "drfer, float32", partial(timed.time_chamfer, chamfer_distance)),
        _Task(CHAMFER, "torch.cdist, float32", timed.time_plain_chamfer, alone=True),
        *(
            _Task(
                STAGE_STEPS,
                f"{preset.name}, {stage}",
                partial(timed.time_stage, preset, STAGES[stage]),
            )
            for preset in (PAPER, CLASSROOM)
            for stage in (FIRST, LAST)
        ),
        _Task(OTHERS, "preprocessing of one scan, one core", timed.time_preprocessing),
        _Task(OTHERS, "peak memory of the paper's stage iii", timed.peak_memory, "MB", alone=True),
        _Task(OTHERS, fold, partial(timed.fold_seconds, CLASSROOM), "s"),
    ]


def _steps(name: str, preset: Preset) -> list[_Task]:
    """Return the tasks of a step: in each precision, beside its products, and in its plain form."""
    group, tasks = STEP.format(name), []
    for precision in ("bfloat16", "float32") if has_bfloat16() else ("float32",):
        own = partial(timed.time_branch, preset, precision)
        products = partial(timed.time_products, preset, precision)
        tasks.append(_Task(group, f"drfer, {precision}", own))
        tasks.append(_Task(group, f"{PRODUCTS}, {precision}", products))
    plain = partial(timed.time_plain, preset)
    return [*tasks, _Task(group, "plain form, float32", plain, alone=True)]


def _lacks(*modules: str) -> str:
    """Say which of some modules are not installed; return "" if all are."""
    missing = [module.replace("_", "-") for module in modules if find_spec(module) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def _lacks_pyg_lib() -> str:
    lacks = _lacks("torch_geometric", "pyg_lib")
    if lacks:
        return lacks
    major, minor, *_ = version("torch_geometric").split(".")
    uses_it = (int(major), int(minor)) >= (2, 8)
    return "" if uses_it else "PyTorch Geometric before 2.8 takes torch-cluster all the same"


def _lacks_compiler() -> str:
    found = any(shutil.which(each) for each in ("g++", "clang++", "c++"))
    return "" if found else "no C++ compiler"


def _in_a_process(function: Callable[[], Measured]) -> Measured:
    """Return what a function returns in a process of its own, which ends when this one does.

    Raises:
        DrferError: the function failed, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, sending), daemon=True)
    process.start()
    sending.close()  # so that the pipe ends with the process
    try:
        result = receiving.recv()
    except EOFError:
        raise DrferError(
            "the process died: perhaps memory ran out; close other programs and run it again"
        ) from None
    finally:
        process.kill()
        process.join()
    if isinstance(result, Exception):
        said = str(result).splitlines()
        raise DrferError(f"failed: {said[0] if said else type(result).__name__}")
    return result


def _work(function: Callable[[], Measured], sending: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sending.send(function())
    except Exception as error:  # of whatever kind: it is said in the table
        sending.send(RuntimeError(str(error)))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
