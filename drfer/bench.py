"""How much time the fast forms save, beside plain forms and PyTorch Geometric: `drfer bench`.

Everything is timed by `torch.utils.benchmark`, one thing after the other, and ratios are between
rows of one run. Plain forms and PyTorch Geometric run in processes of their own: the way in which
this kit keeps freed memory would make them faster than they are by themselves. Clouds are noisy
copies of the template face, so that balls are as full as in a training.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from drfer.common.device import autocast, device, has_bfloat16, keep_freed_memory
from drfer.common.errors import DrferError
from drfer.common.files import written_whole
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.scan import NEUTRAL
from drfer.evaluation.experiment import provenance
from drfer.evaluation.presets import PRESETS, Preset
from drfer.evaluation.protocol import protocol_keys
from drfer.models.branch import Branch, Classifier
from drfer.preprocessing import template
from drfer.preprocessing.faceset import Settings, preprocess_scan
from drfer.training.data import Batch
from drfer.training.losses import chamfer_distance
from drfer.training.stages import STAGES, LossSettings, Stage
from drfer.training.trainer import Trainer, fresh_model

REPEATS = 5
"""How often, at least, a step is timed; its time is the median."""
PAPER = PRESETS["paper"]
CLASSROOM = PRESETS["classroom"]
SUBJECTS = 54
"""Training subjects of a fold."""
STAGE_I = "paper: step of stage i, batch 24"
STAGE_III = "paper: step of stage iii, batch 16"


@dataclass(frozen=True)
class Timing:
    """One row of the table: the time or memory of others and of this kit."""

    what: str
    """What is measured."""
    unit: str
    """Of the three numbers."""
    geometric: float | None
    """PyTorch Geometric's; None where it has no such thing or is not installed."""
    plain: float | None
    """The plain form's; None where it is not measured."""
    drfer: float
    """This kit's."""


def report(path: Path | None = None) -> str:
    """Time everything and return the table. It takes about three minutes on two cores.

    Args:
        path: a JSON file for the same numbers, which is opened before anything is timed.

    Raises:
        DrferError: the file cannot be written, or a process that was timed died.
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


def measure() -> list[Timing]:
    """Measure and return all rows, in the order of the table."""
    keep_freed_memory()
    best = "bfloat16" if has_bfloat16() else "float32"
    installed = find_spec("torch_geometric") and find_spec("torch_cluster")
    geometric = _in_a_process(_time_geometric) if installed else None
    plain = _in_a_process(_time_plain)
    plain_chamfer = _in_a_process(_time_plain_chamfer)
    step = "encoder + classifier step"
    chamfer = "chamfer forward and backward, 24 x 2048 points"
    peak = "paper: peak memory of stage iii"
    fold = "classroom: three stages of a fold, from step times"
    return [
        Timing(f"{step}, {best}", "ms", geometric, plain, _time_branch(best)),
        Timing(f"{step}, float32", "ms", geometric, plain, _time_branch("float32")),
        Timing(chamfer, "ms", None, plain_chamfer, _time_chamfer(chamfer_distance)),
        Timing(STAGE_I, "ms", None, None, _time_stage(PAPER, STAGES["i-expression"])),
        Timing(STAGE_III, "ms", None, None, _time_stage(PAPER, STAGES["iii"])),
        Timing("preprocessing of one scan, one core", "ms", None, None, _time_preprocessing()),
        Timing(peak, "MB", None, None, _in_a_process(_peak_memory)),
        Timing(fold, "s", None, None, _fold_seconds(CLASSROOM)),
    ]


def table(rows: list[Timing]) -> str:
    """Return the rows of `measure` as a text table."""
    lines = [
        f"{'':<52}{'PyTorch':>11}{'plain':>9}{'drfer':>9}   drfer is faster than",
        f"{'':<52}{'Geometric':>11}{'form':>9}{'':>9}   PyG      plain",
    ]
    for row in rows:
        others = (row.geometric, row.plain)
        ratios = ["-" if value is None else f"{value / row.drfer:.1f}x" for value in others]
        times = ["-" if value is None else f"{value:.0f}" for value in (*others, row.drfer)]
        what = f"{row.what}, {row.unit}"
        numbers = f"{times[0]:>11}{times[1]:>9}{times[2]:>9}"
        lines.append(f"{what:<52}{numbers}   {ratios[0]:<8} {ratios[1]}")
    by_name = {row.what: row.drfer for row in rows}
    ratio = by_name[STAGE_III] / by_name[STAGE_I]
    return "\n".join([*lines, f"a step of stage iii takes {ratio:.1f} times one of stage i"])


def _milliseconds(step: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of a step, on torch's threads."""
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    about = timer.timeit(1).mean  # after two steps to warm up
    return 1000 * timer.blocked_autorange(min_run_time=repeats * about).median


def _in_a_process(function: Callable[[], float]) -> float:
    """Return what a function returns in a process of its own, which ends when this one does."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, sending), daemon=True)
    process.start()
    sending.close()  # so that the pipe ends with the process
    try:
        return receiving.recv()
    except EOFError:
        raise DrferError(
            "a process that was to be timed died: perhaps memory ran out; close other programs "
            "and run it again"
        ) from None
    finally:
        process.kill()
        process.join()


def _work(function: Callable[[], float], sending: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sending.send(function())


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _clouds(batch: int, points: int) -> Tensor:
    """Return noisy faces, shape (batch, points, 3), in frame units and farthest-point order."""
    face = torch.from_numpy(template.load().vertices[:points] / Settings().frame_length)
    noise = torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(0))
    return (face + 0.01 * noise).to(device())


def _labels(batch: int) -> Tensor:
    return (torch.arange(batch) % 6).to(device())


def _time_plain() -> float:
    os.environ["DRFER_FAST"] = "0"
    return _time_branch("float32")


def _time_branch(precision: str) -> float:
    """Return the time of a training step of encoder and classifier, as stage i has it."""
    branch = Branch(PAPER.sizes, 6).to(device()).train()
    return _time_classification(
        branch, lambda clouds: branch.classifier(branch.encode(clouds)), precision
    )


def _time_geometric() -> float:
    network = _geometric_network(PAPER).to(device())
    return _time_classification(network, network, "float32")


def _time_classification(network: nn.Module, logits_of: Callable, precision: str) -> float:
    clouds = _clouds(24, PAPER.sizes.points)
    labels = _labels(24)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> None:
        with autocast(precision):
            loss = nn.functional.cross_entropy(logits_of(clouds).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return _milliseconds(step)


def _geometric_network(preset: Preset) -> nn.Module:
    """Encoder and classifier, built as in PyTorch Geometric's own PointNet++ example."""
    from torch_geometric.nn import MLP, PointNetConv, fps, global_max_pool, radius

    sizes = preset.sizes

    class Geometric(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = (0, *sizes.encoder.pooled_widths)
            self.levels = nn.ModuleList(
                PointNetConv(MLP([3 + c, *level.widths]), add_self_loops=False)
                for c, level in zip(channels, sizes.encoder.levels)
            )
            self.whole = MLP([3 + channels[len(self.levels)], *sizes.encoder.global_widths])
            self.classifier = Classifier(
                sizes.feature_width, sizes.classifier_widths, 6, sizes.classifier_dropout
            )

        def forward(self, clouds: Tensor) -> Tensor:
            batch = torch.arange(len(clouds), device=clouds.device)
            batch = batch.repeat_interleave(clouds.shape[1])
            points = clouds.flatten(0, 1)
            features = None
            for conv, level in zip(self.levels, sizes.encoder.levels):
                chosen = fps(points, batch, ratio=level.centroids * len(clouds) / len(points))
                balls = radius(
                    points,
                    points[chosen],
                    level.radius,
                    batch,
                    batch[chosen],
                    max_num_neighbors=level.neighbours,
                )
                own = None if features is None else features[chosen]
                edges = balls.flip(0)  # from the points to the centroids
                features = conv((features, own), (points, points[chosen]), edges)
                points, batch = points[chosen], batch[chosen]
            rows = self.whole(torch.cat([features, points], dim=1))
            return self.classifier(global_max_pool(rows, batch))

    return Geometric()


def _time_plain_chamfer() -> float:
    return _time_chamfer(_chamfer_by_cdist)


def _chamfer_by_cdist(a: Tensor, b: Tensor) -> Tensor:
    squared = torch.cdist(a, b).square()
    return squared.amin(dim=2).sum(dim=1) + squared.amin(dim=1).sum(dim=1)


def _time_chamfer(chamfer: Callable[[Tensor, Tensor], Tensor]) -> float:
    target = _clouds(24, 2048)
    face = (target + 0.02 * torch.randn_like(target)).requires_grad_()

    def step() -> None:
        face.grad = None
        chamfer(face, target).mean().backward()

    return _milliseconds(step)


def _time_stage(preset: Preset, stage: Stage) -> float:
    return _milliseconds(_training_step(preset, stage))


def _training_step(preset: Preset, stage: Stage) -> Callable[[], object]:
    """Return a whole training step of a stage, as the trainer takes it."""
    schedule = preset.schedule(stage)
    points, batch_size = preset.sizes.points, schedule.batch_size
    model = fresh_model(preset.sizes, SUBJECTS, _clouds(1, points)[0], seed=0)
    trainer = Trainer(stage, model, None, schedule, LossSettings(), seed=0)
    trainer.switch_to_training()
    clouds = _clouds(batch_size, points)
    labels = _labels(batch_size)
    batch = Batch(
        cloud=clouds,
        whole=clouds,
        expression=labels,
        subject=labels,
        mean_expression=clouds,
        own_neutral=clouds,
        mean_neutral=clouds,
    )
    return lambda: trainer.step(batch)


def _fold_seconds(preset: Preset) -> float:
    """Return the time of all trainings of a fold: a step's time, times how many steps there are."""
    protocol = preset.protocol
    subjects = protocol.subjects * (protocol.folds - 1) // protocol.folds
    keys = protocol_keys([str(number) for number in range(subjects)], protocol)
    scans = sum(key.expression != NEUTRAL for key in keys)
    seconds = 0.0
    for stage in _with_parents(STAGES["iii"]):
        schedule = preset.schedule(stage)
        steps = schedule.epochs * -(-scans // schedule.batch_size)
        seconds += steps * _time_stage(preset, stage) / 1000
    return seconds


def _with_parents(stage: Stage) -> list[Stage]:
    """Return a stage and all stages that it builds on."""
    found = [stage]
    for name in stage.parents:
        found += [parent for parent in _with_parents(STAGES[name]) if parent not in found]
    return found


def _peak_memory() -> float:
    """Return how many MB a process takes while it trains stage iii, of the GPU if it computes there."""
    keep_freed_memory()
    step = _training_step(PAPER, STAGES["iii"])
    for _ in range(3):
        step()
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _time_preprocessing() -> float:
    from drfer.datasets.anny3dfe.database import Anny3DFE

    database = Anny3DFE(1)
    scans = [database.load(key) for key in database.keys()[::6]]
    return map_on_all_cores(_time_scans, [scans], "preprocessing")[0]


def _time_scans(scans: list) -> float:
    """Return the median time of preprocessing one of the scans; in a worker, which has one thread."""
    times = [_milliseconds(lambda scan=scan: preprocess_scan(scan), repeats=3) for scan in scans]
    return statistics.median(times)
