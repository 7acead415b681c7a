"""What `drfer bench` times."""

from __future__ import annotations

import os
import resource
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from drfer.bench.rows import Measured
from drfer.common.device import autocast, device, keep_freed_memory
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.scan import NEUTRAL
from drfer.evaluation.presets import PRESETS, Preset
from drfer.evaluation.protocol import protocol_keys
from drfer.models.branch import Branch, Classifier
from drfer.preprocessing import template
from drfer.preprocessing.faceset import Settings, preprocess_scan
from drfer.training.data import Batch
from drfer.training.stages import STAGES, LossSettings, Stage
from drfer.training.trainer import Trainer, fresh_model

REPEATS = 5
"""About how often a step is timed; its time is the median."""
PAPER = PRESETS["paper"]
CLASSROOM = PRESETS["classroom"]
BATCH = 24
SUBJECTS = 54
"""Training subjects of a fold."""


def _milliseconds(step: Callable[[], object], repeats: int = REPEATS) -> Measured:
    """Return the median time of a step, on torch's threads."""
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    about = timer.timeit(1).mean  # after two steps to warm up
    times = timer.blocked_autorange(min_run_time=repeats * about)
    return Measured(1000 * times.median, times.iqr / times.median)


def _clouds(batch: int, points: int) -> Tensor:
    """Return noisy faces, shape (batch, points, 3), in frame units and farthest-point order."""
    face = torch.from_numpy(template.load().vertices[:points] / Settings().frame_length)
    noise = torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(0))
    return (face + 0.01 * noise).to(device())


def _labels(batch: int) -> Tensor:
    return (torch.arange(batch) % 6).to(device())


def time_branch(preset: Preset, precision: str) -> Measured:
    """Time a training step of encoder and classifier, as stage i has it."""
    branch = Branch(preset.sizes, 6).to(device()).train()
    return _time_classification(preset, branch, _logits_of(branch), precision)


def _logits_of(branch: Branch) -> Callable[[Tensor], Tensor]:
    return lambda clouds: branch.classifier(branch.encode(clouds))


def time_plain(preset: Preset) -> Measured:
    """Time the same in its plain form; for a process of its own, whose environment it changes."""
    os.environ["DRFER_FAST"] = "0"
    return time_branch(preset, "float32")


def time_compiled() -> Measured:
    """Time the plain form at the paper's sizes under torch.compile; in a process of its own, too."""
    os.environ["DRFER_FAST"] = "0"
    branch = Branch(PAPER.sizes, 6).to(device()).train()
    return _time_classification(PAPER, branch, torch.compile(_logits_of(branch)), "float32")


def time_products(preset: Preset, precision: str) -> Measured:
    """Time the matrix products of a step's shared layers: forward, and both backward ones.

    The first layer of each level counts once for each point, since it can be applied before points
    are grouped. (`drfer.fast` needs a fifth fewer products than these, so that a step may take less.)
    """
    dtype, factors = getattr(torch, precision), []
    for rows, width, out in _product_shapes(preset):
        shapes = ((rows, width), (out, width), (rows, out))
        factors.append([torch.randn(shape, device=device()).to(dtype) for shape in shapes])

    def products() -> None:
        for values, weight, gradient in factors:
            values @ weight.T
            gradient @ weight
            gradient.T @ values

    return _milliseconds(products)


def _product_shapes(preset: Preset) -> list[tuple[int, int, int]]:
    """Rows, input and output width of each shared layer of an encoder, for a batch."""
    encoder = preset.sizes.encoder
    points = (preset.sizes.points, *(level.centroids for level in encoder.levels))
    members = (*(level.centroids * level.neighbours for level in encoder.levels), points[-1])
    channels = (0, *encoder.pooled_widths[:-1])
    all_widths = (*(level.widths for level in encoder.levels), encoder.global_widths)
    shapes = []
    for one, many, features, widths in zip(points, members, channels, all_widths):
        rows = (one, *[many] * (len(widths) - 1))
        inputs = (3 + features, *widths[:-1])
        shapes += [(BATCH * n, width, out) for n, width, out in zip(rows, inputs, widths)]
    return shapes


def time_geometric(with_pyg_lib: bool = False) -> Measured:
    """Time the same network, built as in PyTorch Geometric's own PointNet++ example."""
    import torch_geometric.typing

    torch_geometric.typing.WITH_PYG_LIB = with_pyg_lib
    network = _geometric_network(PAPER).to(device())
    return _time_classification(PAPER, network, network, "float32")


def _time_classification(
    preset: Preset, network: nn.Module, logits_of: Callable, precision: str
) -> Measured:
    clouds = _clouds(BATCH, preset.sizes.points)
    labels = _labels(BATCH)
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


def time_plain_chamfer() -> Measured:
    """Time the chamfer distance by all distances."""
    return time_chamfer(_chamfer_by_cdist)


def _chamfer_by_cdist(a: Tensor, b: Tensor) -> Tensor:
    squared = torch.cdist(a, b).square()
    return squared.amin(dim=2).sum(dim=1) + squared.amin(dim=1).sum(dim=1)


def time_chamfer(chamfer: Callable[[Tensor, Tensor], Tensor]) -> Measured:
    """Time a chamfer distance and its gradient."""
    target = _clouds(BATCH, 2048)
    face = (target + 0.02 * torch.randn_like(target)).requires_grad_()

    def step() -> None:
        face.grad = None
        chamfer(face, target).mean().backward()

    return _milliseconds(step)


def time_stage(preset: Preset, stage: Stage) -> Measured:
    """Time a training step of a stage: loss, gradient and optimizer."""
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
        scan=clouds,
        expression=labels,
        subject=labels,
        mean_expression=clouds,
        mean_neutral=clouds,
        own_neutral=clouds,
        own_neutral_cloud=clouds,
    )
    return lambda: trainer.step(batch)


def fold_seconds(preset: Preset) -> Measured:
    """Return the time of all trainings of a fold: a step's time, times how many steps there are."""
    protocol = preset.protocol
    subjects = protocol.subjects * (protocol.folds - 1) // protocol.folds
    keys = protocol_keys([str(number) for number in range(subjects)], protocol)
    scans = sum(key.expression != NEUTRAL for key in keys)
    seconds = 0.0
    for stage in _with_parents(STAGES["iii"]):
        schedule = preset.schedule(stage)
        steps = schedule.epochs * -(-scans // schedule.batch_size)
        seconds += steps * time_stage(preset, stage).value / 1000
    return Measured(seconds)


def _with_parents(stage: Stage) -> list[Stage]:
    """Return a stage and all stages that it builds on."""
    found = [stage]
    for name in stage.parents:
        found += [parent for parent in _with_parents(STAGES[name]) if parent not in found]
    return found


def peak_memory() -> Measured:
    """Return how many MB a process takes while it trains stage iii, of the GPU if it computes there."""
    keep_freed_memory()
    step = _training_step(PAPER, STAGES["iii"])
    for _ in range(3):
        step()
    if device().type == "cuda":
        return Measured(torch.cuda.max_memory_allocated() / 2**20)
    return Measured(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def time_preprocessing() -> Measured:
    """Time the preprocessing of a scan, on one core."""
    from drfer.datasets.anny3dfe.database import Anny3DFE

    database = Anny3DFE(1)
    scans = [database.load(key) for key in database.keys()[::6]]
    return map_on_all_cores(_time_scans, [scans], "preprocessing")[0]


def _time_scans(scans: list) -> Measured:
    """Time the preprocessing of some scans; in a worker, which has one thread."""
    times = [_milliseconds(lambda scan=scan: preprocess_scan(scan), repeats=3) for scan in scans]
    return Measured(statistics.median(time.value for time in times))
