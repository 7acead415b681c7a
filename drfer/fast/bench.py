"""How fast this kit is, beside the plain form of itself and beside PyTorch Geometric: `drfer bench`.

Everything is timed one after the other, as the median of its repeats; ratios are between rows of one run. The plain
form and PyTorch Geometric run in processes of their own, since this kit's way to keep freed memory would make them
faster than they are by themselves. Clouds are noisy copies of the template face, so that balls are as full as in a
training.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drfer.common.device import autocast, device, has_bfloat16, keep_freed_memory
from drfer.common.parallel import map_on_all_cores
from drfer.evaluation.experiment import PRESETS, Preset
from drfer.models import plain
from drfer.models.branch import Branch, Classifier
from drfer.preprocessing import template
from drfer.preprocessing.faceset import Settings, preprocess_scan
from drfer.training.losses import chamfer_distance
from drfer.training.stages import STAGES, Batch, LossSettings, Trainer, fresh_model

REPEATS = 5
STAGE_I, STAGE_III = "paper: step of stage i, batch 24", "paper: step of stage iii, batch 16"


@dataclass(frozen=True)
class Row:
    """One line of the table: time or memory of others and of this kit; None where something is not installed."""

    what: str
    unit: str
    geometric: float | None
    plain: float | None
    drfer: float


def run() -> list[Row]:
    """All rows, in the order of the table. Takes about three minutes on two cores."""
    keep_freed_memory()
    best = "bfloat16" if has_bfloat16() else "float32"
    paper, classroom = PRESETS["paper"], PRESETS["classroom"]
    geometric = _in_a_fresh_process(_time_geometric) if _has_geometric() else None
    plain_step = _in_a_fresh_process(_time_plain)
    return [
        Row(
            f"encoder + classifier step, {best}",
            "ms",
            geometric,
            plain_step,
            _milliseconds(_branch_step(paper, None, best)),
        ),
        Row(
            "encoder + classifier step, float32",
            "ms",
            geometric,
            plain_step,
            _milliseconds(_branch_step(paper, None, "float32")),
        ),
        Row(
            "chamfer forward and backward, 24 x 2048 points",
            "ms",
            None,
            _in_a_fresh_process(_time_cdist_chamfer),
            _milliseconds(_chamfer_step(chamfer_distance)),
        ),
        Row(STAGE_I, "ms", None, None, _milliseconds(_training_step(paper, "i-expression"))),
        Row(STAGE_III, "ms", None, None, _milliseconds(_training_step(paper, "iii"))),
        Row("preprocessing of one scan, one core", "ms", None, None, _preprocessing_milliseconds()),
        Row("paper: peak memory of stage iii", "MB", None, None, _in_a_fresh_process(_peak_memory)),
        Row(
            "classroom: three stages of a fold, from step times",
            "s",
            None,
            None,
            _fold_seconds(classroom),
        ),
    ]


def _in_a_fresh_process(function: Callable[[], float]) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


def _time_geometric() -> float:
    return _milliseconds(_geometric_step(PRESETS["paper"]))


def _time_plain() -> float:
    return _milliseconds(_branch_step(PRESETS["paper"], plain.encode, "float32"))


def _time_cdist_chamfer() -> float:
    return _milliseconds(_chamfer_step(_cdist_chamfer))


def table(rows: list[Row]) -> str:
    """The rows as a text table."""
    lines = [
        f"{'':<52}{'PyTorch':>11}{'plain':>9}{'drfer':>9}   drfer is faster than",
        f"{'':<52}{'Geometric':>11}{'twin':>9}{'':>9}   PyG      twin",
    ]
    for row in rows:
        times = [
            f"{value:.0f}" if value is not None else "-"
            for value in (row.geometric, row.plain, row.drfer)
        ]
        ratios = [
            f"{value / row.drfer:.1f}x" if value is not None else "-"
            for value in (row.geometric, row.plain)
        ]
        what = f"{row.what}, {row.unit}"
        lines.append(
            f"{what:<52}{times[0]:>11}{times[1]:>9}{times[2]:>9}   {ratios[0]:<8} {ratios[1]}"
        )
    by_name = {row.what: row.drfer for row in rows}
    ratio = by_name[STAGE_III] / by_name[STAGE_I]
    return "\n".join([*lines, f"a step of stage iii takes {ratio:.1f} times one of stage i"])


def _milliseconds(step: Callable[[], object], repeats: int = REPEATS) -> float:
    step()
    step()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        if device().type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _clouds(batch: int, points: int) -> Tensor:
    """Noisy faces (batch, points, 3) in frame units; the template's order is a farthest-point order."""
    face = torch.from_numpy(template.load().vertices[:points] / Settings().frame_length)
    noise = torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(0))
    return (face + 0.01 * noise).to(device())


def _labels(batch: int) -> Tensor:
    return (torch.arange(batch) % 6).to(device())


def _branch_step(preset: Preset, encode: Callable | None, precision: str) -> Callable[[], None]:
    """A training step of encoder and classifier; `encode` replaces the encoder's own forward."""
    branch = Branch(preset.sizes, 6).to(device()).train()
    return _classification_step(
        branch,
        lambda cloud: branch.classifier(
            (encode(branch.encoder, cloud) if encode else branch.encode(cloud)).float()
        ),
        _clouds(24, preset.sizes.points),
        precision,
    )


def _classification_step(
    network: nn.Module, logits: Callable, clouds: Tensor, precision: str
) -> Callable[[], None]:
    optimizer, labels = torch.optim.Adam(network.parameters(), 1e-3), _labels(len(clouds))

    def step() -> None:
        with autocast(precision):
            loss = nn.functional.cross_entropy(logits(clouds).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _has_geometric() -> bool:
    try:
        import torch_cluster  # noqa: F401
        import torch_geometric  # noqa: F401
    except ImportError:
        return False
    return True


def _geometric_step(preset: Preset) -> Callable[[], None]:
    """The same network as PyTorch Geometric's own PointNet++ example builds it, float32."""
    from torch_geometric.nn import MLP, PointNetConv, fps, global_max_pool, radius

    sizes, clouds = preset.sizes, _clouds(24, preset.sizes.points)

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
            batch = torch.arange(len(clouds), device=clouds.device).repeat_interleave(
                clouds.shape[1]
            )
            features, places = None, clouds.flatten(0, 1)
            for conv, level in zip(self.levels, sizes.encoder.levels):
                centres = fps(places, batch, ratio=level.centres * len(clouds) / len(places))
                ball, member = radius(
                    places,
                    places[centres],
                    level.radius,
                    batch,
                    batch[centres],
                    max_num_neighbors=level.neighbours,
                )
                own = None if features is None else features[centres]
                features = conv(
                    (features, own), (places, places[centres]), torch.stack([member, ball])
                )
                places, batch = places[centres], batch[centres]
            return self.classifier(
                global_max_pool(self.whole(torch.cat([features, places], dim=1)), batch)
            )

    network = Geometric().to(device())
    return _classification_step(network, network, clouds, "float32")


def _cdist_chamfer(a: Tensor, b: Tensor) -> Tensor:
    squared = torch.cdist(a, b).square()
    return squared.amin(dim=2).sum(dim=1) + squared.amin(dim=1).sum(dim=1)


def _chamfer_step(chamfer: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    target = _clouds(24, 2048)
    face = (target + 0.02 * torch.randn_like(target)).requires_grad_()

    def step() -> None:
        face.grad = None
        chamfer(face, target).mean().backward()

    return step


class _OneFace:
    """What a fresh model needs to know of a fold."""

    def __init__(self, preset: Preset) -> None:
        self.subjects = [str(number) for number in range(54)]
        self.mean_neutral = _clouds(1, preset.sizes.points)[0]


def _training_step(preset: Preset, stage: str) -> Callable[[], object]:
    """A whole step of a training of this preset, as `Trainer` takes it."""
    training, fold = preset.trainings[stage], _OneFace(preset)
    trainer = Trainer(
        STAGES[stage], fresh_model(preset.sizes, fold, 0), fold, training, LossSettings(), 0
    )
    for part in trainer.parts.values():
        part.train()
    clouds, labels = _clouds(training.batch_size, preset.sizes.points), _labels(training.batch_size)
    batch = Batch(clouds, clouds, labels, labels, clouds, clouds, clouds)
    return lambda: trainer._step(batch)


def _fold_seconds(preset: Preset) -> float:
    """Time of all trainings of a fold: the step of each, times its number of steps."""
    subjects = preset.protocol.subjects * (preset.protocol.folds - 1) // preset.protocol.folds
    scans = subjects * 6 * len(preset.protocol.levels)
    return sum(
        training.epochs
        * -(-scans // training.batch_size)
        * _milliseconds(_training_step(preset, stage))
        / 1000
        for stage, training in preset.trainings.items()
    )


def _peak_memory() -> float:
    """MB that a process takes at most while it trains the largest stage, on the GPU if it computes there."""
    keep_freed_memory()
    step = _training_step(PRESETS["paper"], "iii")
    for _ in range(3):
        step()
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _preprocessing_milliseconds() -> float:
    from drfer.datasets.anny3dfe.database import Anny3DFE

    database = Anny3DFE(1)
    scans = [database.load(key) for key in database.keys()[::6]]
    return map_on_all_cores(_time_preprocessing, [scans], "preprocessing")[0]


def _time_preprocessing(scans: list) -> float:
    return statistics.median(
        _milliseconds(lambda scan=scan: preprocess_scan(scan), 3) for scan in scans
    )
