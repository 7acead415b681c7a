"""Presets, and a run as a chain of stages whose results are stored under the hash of all that determined them."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch

import drfer
from drfer.device import device, has_bfloat16
from drfer.jobs import progress
from drfer.model.branch import ModelSizes
from drfer.model.drfer import DrFER
from drfer.model.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.preprocessing import FaceSet
from drfer.protocol import Protocol, folds
from drfer.scan import DrferError
from drfer.stages import STAGES, FoldData, LossSettings, Stage, Trainer, Training, fresh_model, predict
from drfer.store import Store

CHECKPOINT_SECONDS = 20
"""time between two checkpoints of a training"""


@dataclass(frozen=True)
class Preset:
    """Sizes and lengths of a whole run. trainings: by the stages' names."""

    name: str
    sizes: ModelSizes
    trainings: dict[str, Training]
    protocol: Protocol = Protocol()
    dataset_subjects: int = 100
    precision: str = "auto"
    """of matrix products: "auto" is bfloat16 where the processor computes in it, else float32"""


def _trainings(epochs: dict[str, int]) -> dict[str, Training]:
    """The paper's rates and batch sizes (section IV.B) with a preset's epochs. The paper calls stage i's rate
    "initial", so that it decays there; the later stages fine-tune at a constant one."""
    rates = {"i": (1e-3, 24, 0.01), "ii": (1e-4, 24, 1.0), "iii": (1e-5, 16, 1.0)}
    return {name: Training(count, *rates[name.split("-")[0]]) for name, count in epochs.items()}


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "paper",
            ModelSizes(
                points=2048,
                encoder=EncoderSizes(
                    (
                        SetAbstractionSizes(512, 0.2, 32, (64, 64, 128)),
                        SetAbstractionSizes(128, 0.4, 64, (128, 128, 256)),
                    ),
                    (256, 512, 1024),
                ),
                decoder_widths=(1024, 2048),
                classifier_widths=(512, 256),
            ),
            _trainings({"i-expression": 60, "i-identity": 30, "i-fusion": 20, "ii-expression": 30, "ii-identity": 30,
                        "iii": 15}),
        ),
        Preset(
            "classroom",
            ModelSizes(
                points=1024,
                encoder=EncoderSizes(
                    (
                        SetAbstractionSizes(256, 0.2, 16, (32, 32, 64)),
                        SetAbstractionSizes(64, 0.4, 32, (64, 64, 128)),
                    ),
                    (128, 256, 512),
                ),
                decoder_widths=(512, 1024),
                classifier_widths=(256, 128),
            ),
            _trainings({"i-expression": 60, "i-identity": 30, "i-fusion": 20, "ii-expression": 30, "ii-identity": 30,
                        "iii": 15}),
        ),
        Preset(
            "smoke",
            ModelSizes(
                points=256,
                encoder=EncoderSizes(
                    (SetAbstractionSizes(64, 0.3, 8, (16, 16, 32)), SetAbstractionSizes(16, 0.6, 16, (32, 32, 64))),
                    (64, 64, 128),
                ),
                decoder_widths=(128, 256),
                classifier_widths=(64, 32),
            ),
            _trainings({"i-expression": 3, "i-identity": 2, "i-fusion": 2, "ii-expression": 2, "ii-identity": 2,
                        "iii": 1}),
            Protocol(subjects=12, folds=4),
            dataset_subjects=12,
        ),
    )
}  # fmt: skip


PARENTS = {
    "i-expression": (),
    "i-identity": (),
    "i-fusion": (),
    "ii-expression": ("i-expression",),
    "ii-identity": ("i-identity",),
    "iii": ("ii-expression", "ii-identity", "i-fusion"),
}
"""the stages whose weights a stage starts from; a run is this graph from top to bottom"""

EVALUATED = {"i-expression": "stage i", "ii-expression": "stage i + ii", "iii": "stage i + ii + iii"}
"""the stages after which the expression branch is tested, and the rows of table III they make"""


@dataclass(frozen=True)
class Run:
    """One fold of one preset with one seed: all that determines its numbers, but for the data."""

    preset: Preset
    fold: int
    seed: int = 0
    repeat: int = 0
    losses: LossSettings = LossSettings()

    def __post_init__(self) -> None:
        count = self.preset.protocol.folds
        if not 0 <= self.fold < count:
            raise DrferError(f"there is no fold {self.fold}: preset {self.preset.name} has folds 0 to {count - 1}")

    def test_subjects(self, faces: FaceSet) -> list[str]:
        subjects = sorted({key.subject for key in faces.keys})
        return folds(subjects, self.preset.protocol, self.repeat)[self.fold]

    def precision(self) -> str:
        if self.preset.precision == "auto":
            return "bfloat16" if has_bfloat16() else "float32"
        return self.preset.precision

    def read_by(self, stage: str) -> tuple[ModelSizes, LossSettings]:
        """The sizes and settings that a stage reads; those that it does not stand at their defaults, so that the
        ablations share the stages that they have in common."""
        sizes, settings = self.preset.sizes, self.losses
        if stage not in ("i-fusion", "iii"):
            sizes, settings = replace(sizes, skips=True), replace(settings, fusion=True)
        if stage not in ("ii-expression", "iii"):
            sizes = replace(sizes, gaussian_feature=False)
            settings = LossSettings(reduction=settings.reduction, fusion=settings.fusion)
        if stage in ("i-expression", "i-identity"):
            settings = LossSettings()
        return sizes, settings

    def determined_by(self, stage: Stage, faces: FaceSet) -> dict:
        """Everything a stage's result depends on, as JSON."""
        sizes, settings = self.read_by(stage.name)
        return {
            "stage": stage.name,
            "version": stage.version,
            "sizes": asdict(sizes),
            "training": asdict(self.preset.trainings[stage.name]),
            "losses": asdict(settings),
            "precision": self.precision(),
            "seed": self.seed,
            "data": faces.hash,
            "test subjects": self.test_subjects(faces),
            "parents": [self.result_name(parent, faces) for parent in PARENTS[stage.name]],
        }

    def result_name(self, stage: str, faces: FaceSet) -> str:
        """The stage's name in the store."""
        text = json.dumps(self.determined_by(STAGES[stage], faces), sort_keys=True)
        return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def run_stage(run: Run, name: str, faces: FaceSet, data: FoldData, store: Store) -> dict:
    """Train a stage, or take it from the store; returns its record. Its parents must be in the store."""
    stage, result_name = STAGES[name], run.result_name(name, faces)
    stored = store.load(result_name)
    if stored:
        print(f"{stage.title}: in the store")
        return stored[1]
    sizes, settings = run.read_by(name)
    model = assemble(run, PARENTS[name], faces, data, store, sizes)
    training = run.preset.trainings[name]
    trainer = Trainer(stage, model, data, training, settings, _stage_seed(run.seed, name), run.precision())
    checkpoint = store.load_checkpoint(result_name)
    if checkpoint:
        trainer.restore(*checkpoint)
    _train(trainer, stage.title, lambda: store.save_checkpoint(result_name, *trainer.state()))
    record = {
        "stage": name,
        "result": result_name,
        "determined by": run.determined_by(stage, faces),
        "curves": trainer.curves,
        "seconds": round(trainer.seconds, 1),
        "provenance": provenance(),
    }
    if name in EVALUATED:
        truth = data.labels[data.test].cpu().numpy()
        predicted = predict(trainer.model, data.clouds[data.test])[1].argmax(axis=1)
        record["test"] = {"truth": truth.tolist(), "predicted": predicted.tolist()}
    record = json.loads(json.dumps(record))  # as the store gives it back
    store.save(result_name, _weights_of(trainer.model, stage.trained), record)
    return record


def _train(trainer: Trainer, title: str, save_checkpoint) -> None:
    total, last_saved = trainer.training.epochs, time.monotonic()
    with progress(range(total), title, total=total, initial=trainer.epoch, unit="epoch") as bar:
        while trainer.epoch < total:
            trainer.train_epoch()
            bar.update()
            bar.set_postfix(loss=f"{sum(trainer.curves[-1].values()):.3f}")
            if time.monotonic() - last_saved > CHECKPOINT_SECONDS:
                save_checkpoint()
                last_saved = time.monotonic()


def assemble(
    run: Run, stages: tuple[str, ...], faces: FaceSet, data: FoldData, store: Store, sizes: ModelSizes | None = None
) -> DrFER:
    """A model with the weights that some finished stages gave (their sizes, unless others are given); what none of
    them trained is fresh."""
    model = fresh_model(sizes or run.read_by(stages[-1])[0], data, run.seed)
    for name in stages:
        stored = store.load(run.result_name(name, faces))
        if stored is None:
            run_stage(run, name, faces, data, store)
            stored = store.load(run.result_name(name, faces))
        model.load_state_dict(stored[0], strict=False)
    return model


def _weights_of(model: DrFER, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {
        name: tensor for name, tensor in model.state_dict().items() if name.startswith(tuple(f"{p}." for p in parts))
    }


def _stage_seed(seed: int, stage: str) -> int:
    return seed * len(STAGES) + list(STAGES).index(stage)


def run_fold(run: Run, faces: FaceSet, store: Store) -> dict[str, dict]:
    """All three stages of one fold; the records by stage name."""
    data = FoldData(faces, run.test_subjects(faces), run.preset.sizes.points)
    return {name: run_stage(run, name, faces, data, store) for name in STAGES}


def accuracy(record: dict) -> float:
    """Share of the test scans that a stage's record has right, in percent."""
    test = record["test"]
    return 100 * float(np.mean(np.equal(test["truth"], test["predicted"])))


def provenance() -> dict:
    """Where and with what a result was computed."""
    return {
        "drfer": drfer.__version__,
        "torch": torch.__version__,
        "device": str(device()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak memory of the process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
