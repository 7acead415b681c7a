"""Presets, and a run as a chain of stages whose results are stored under the hash of all that determined them."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
import torch

import drfer
from drfer.common.device import device, has_bfloat16
from drfer.common.errors import DrferError
from drfer.common.parallel import progress
from drfer.evaluation.protocol import Protocol, drawn_subjects, folds
from drfer.evaluation.store import Store
from drfer.models.branch import ModelSizes
from drfer.models.drfer import DrFER
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.preprocessing.faceset import FaceSet
from drfer.preprocessing.head_pose import PosedFaces, poses_hash
from drfer.training.stages import (
    STAGES,
    FoldData,
    LossSettings,
    Stage,
    Trainer,
    Training,
    fresh_model,
    predict,
)

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

    def training(self, stage: str) -> Training:
        return self.trainings[TRAINED_AS.get(stage, stage)]


def _trainings(epochs: dict[str, int]) -> dict[str, Training]:
    """The paper's rates and batch sizes (section IV.B) with a preset's epochs. The paper calls stage i's rate
    "initial", so that it decays there; the later stages fine-tune at a constant one."""
    rates = {"i": (1e-3, 24, 0.01), "ii": (1e-4, 24, 1.0), "iii": (1e-5, 16, 1.0)}
    return {name: Training(count, *rates[name.split("-")[0]]) for name, count in epochs.items()}


LONG = {
    "i-expression": 60,
    "i-identity": 30,
    "i-fusion": 20,
    "ii-expression": 30,
    "ii-identity": 30,
    "iii": 15,
}
"""epochs of the presets that are meant to learn; the paper says none"""
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
            _trainings(LONG),
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
            _trainings(LONG),
        ),
        Preset(
            "smoke",
            ModelSizes(
                points=256,
                encoder=EncoderSizes(
                    (
                        SetAbstractionSizes(64, 0.3, 8, (16, 16, 32)),
                        SetAbstractionSizes(16, 0.6, 16, (32, 32, 64)),
                    ),
                    (64, 64, 128),
                ),
                decoder_widths=(128, 256),
                classifier_widths=(64, 32),
            ),
            _trainings(
                {
                    "i-expression": 3,
                    "i-identity": 2,
                    "i-fusion": 2,
                    "ii-expression": 2,
                    "ii-identity": 2,
                    "iii": 1,
                }
            ),
            Protocol(subjects=12, folds=4),
            dataset_subjects=12,
        ),
    )
}


TRAINED_AS = {"head": "i-expression", "ii-control": "ii-expression", "iii-control": "iii"}
"""stages that take as many steps, at the same rates, as another"""

PARENTS = {
    "i-expression": (),
    "i-identity": (),
    "i-fusion": (),
    "ii-expression": ("i-expression",),
    "ii-identity": ("i-identity",),
    "iii": ("ii-expression", "ii-identity", "i-fusion"),
    "head": ("iii",),
    "ii-control": ("i-expression",),
    "iii-control": ("ii-control",),
}
"""the stages whose weights a stage starts from; a run is the part of this graph that leads to its last stage"""

EVALUATED = {
    "i-expression": "stage i",
    "ii-expression": "stage i + ii",
    "iii": "stage i + ii + iii",
}
"""the stages after which the expression branch of a run is tested, and the rows of table III they make"""
TESTED = (*EVALUATED, "head", "iii-control")


@dataclass(frozen=True)
class Row:
    """A row of table III, or one of ours: after which stage it is tested, and which fields of the run it changes."""

    stage: str
    losses: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)
    training: Callable[[Training], Training] = lambda training: training
    """applied to every stage's"""


ROWS = {
    "w/o L_tri": Row("iii", losses={"triplet": False}),
    "w/o L_cls": Row("head", losses={"classification": False}),
    "w/ L_KL": Row("iii", losses={"divergence": "kl"}, sizes={"gaussian_feature": True}),
    "w/ L_JS": Row("iii", losses={"divergence": "js"}, sizes={"gaussian_feature": True}),
    "w/o fusion": Row("iii", losses={"fusion": False}),
    "w/o skip": Row("iii", sizes={"skips": False}),
    "stage i": Row("i-expression"),
    "stage i + ii": Row("ii-expression"),
    "stage i + ii + iii": Row("iii"),
    "stage i, as long": Row("iii-control"),
}
"""table III of the paper in its order, and a control: stage i with the steps and rates of all stages, but their
classification loss alone"""

BASELINE, METHOD = "stage i", "stage i + ii + iii"


def _augmented(training: Training, **changes) -> Training:
    return replace(training, augmentation=replace(training.augmentation, **changes))


SENSITIVITY = {
    "chamfer mean": Row("iii", losses={"reduction": "mean"}),
    "triplet on raw features": Row("iii", losses={"normalised": False}),
    "triplet of the hardest": Row("iii", losses={"mining": "hard"}),
    "statistics of decoded faces": Row("iii", losses={"count_decoded": True}),
    "half the epochs": Row(
        "iii", training=lambda training: replace(training, epochs=-(-training.epochs // 2))
    ),
    "dropout up to 0.875": Row(
        "iii", training=lambda training: _augmented(training, largest_dropout=0.875)
    ),
    "scale 0.8 to 1.25": Row(
        "iii", training=lambda training: _augmented(training, scale=(0.8, 1.25))
    ),
}
"""our readings that matter most, changed to what the paper may have meant instead"""


@dataclass(frozen=True)
class Run:
    """One fold of one preset with one seed: all that determines its numbers, but for the data."""

    preset: Preset
    fold: int
    seed: int = 0
    repeat: int = 0
    losses: LossSettings = LossSettings()
    turned: bool = False
    """whether the training scans stand in all poses of the experiment on head pose"""
    names: dict = field(default_factory=dict, init=False, compare=False, repr=False)
    """of results, by stage and data, once they are known"""

    def __post_init__(self) -> None:
        count = self.preset.protocol.folds
        if not 0 <= self.fold < count:
            raise DrferError(
                f"there is no fold {self.fold}: preset {self.preset.name} has folds 0 to {count - 1}"
            )
        if not 0 <= self.seed < 2**31:
            raise DrferError(f"{self.seed} is no seed; give 0 or more")

    def change(self, row: Row) -> Run:
        """This run as a row of a table has it."""
        preset = self.preset
        preset = replace(
            preset,
            sizes=replace(preset.sizes, **row.sizes),
            trainings={name: row.training(training) for name, training in preset.trainings.items()},
        )
        return replace(self, preset=preset, losses=replace(self.losses, **row.losses))

    def subjects(self, faces: FaceSet) -> list[str]:
        """Those of this repeat: all there are, unless the protocol draws anew."""
        return drawn_subjects(faces.subjects, self.preset.protocol, self.repeat)

    def test_subjects(self, faces: FaceSet) -> list[str]:
        return folds(self.subjects(faces), self.preset.protocol, self.repeat)[self.fold]

    def data(self, faces: FaceSet, turned: PosedFaces | None = None) -> FoldData:
        """The fold's scans; `turned` where the training scans stand in all poses."""
        return FoldData(
            faces, self.test_subjects(faces), self.preset.sizes.points, turned, self.subjects(faces)
        )

    def precision(self) -> str:
        if self.preset.precision == "auto":
            return "bfloat16" if has_bfloat16() else "float32"
        return self.preset.precision

    def read_by(self, stage: str) -> tuple[ModelSizes, LossSettings]:
        """The sizes and settings that a stage reads; those that it does not stand at their defaults, so that the
        ablations share the stages that they have in common."""
        sizes, settings = self.preset.sizes, self.losses
        if stage not in ("i-fusion", "iii", "head"):
            sizes = replace(sizes, skips=True)
        if stage not in ("ii-expression", "iii", "head"):
            sizes = replace(sizes, gaussian_feature=False)
            settings = LossSettings(reduction=settings.reduction)
        if stage != "iii":
            settings = replace(settings, fusion=True, count_decoded=False)
        if stage not in ("i-fusion", "ii-expression", "ii-identity", "iii"):
            settings = LossSettings()
        return sizes, settings

    def determined_by(self, stage: Stage, faces: FaceSet) -> dict:
        """Everything a stage's result depends on, as JSON."""
        sizes, settings = self.read_by(stage.name)
        return {
            "stage": stage.name,
            "version": stage.version
            + sizes.gaussian_feature,  # the head's second: the first began at random
            "sizes": _as_json(sizes),
            "training": _as_json(self.preset.training(stage.name)),
            "losses": _as_json(settings),
            "precision": self.precision(),
            "seed": self.seed,
            "data": faces.hash,
            "turned": poses_hash(faces) if self.turned else None,
            "subjects": self.subjects(faces) if self.preset.protocol.redraw else None,
            "test subjects": self.test_subjects(faces),
            "parents": [self.result_name(parent, faces) for parent in PARENTS[stage.name]],
        }

    def result_name(self, stage: str, faces: FaceSet) -> str:
        """The stage's name in the store."""
        if (stage, faces.hash) not in self.names:
            self.names[stage, faces.hash] = name_of(stage, self.determined_by(STAGES[stage], faces))
        return self.names[stage, faces.hash]


@cache
def _as_json(config) -> dict:
    """Of a frozen config, once: a plan of a thousand folds asks for the same few again and again."""
    return asdict(config)


def name_of(what: str, determined_by: dict) -> str:
    """A result's name in the store: what it is, and the hash of all that determined it."""
    text = json.dumps(determined_by, sort_keys=True)
    return f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def run_stage(run: Run, name: str, faces: FaceSet, data: FoldData, store: Store) -> dict:
    """Train a stage, or take it from the store; returns its record. Its parents are made first if they are missing."""
    result_name = run.result_name(name, faces)
    for parent in PARENTS[name]:
        run_stage(run, parent, faces, data, store)
    with store.lock(result_name):
        return store.record(result_name) or _train_stage(
            run, STAGES[name], result_name, faces, data, store
        )


def _train_stage(
    run: Run, stage: Stage, result_name: str, faces: FaceSet, data: FoldData, store: Store
) -> dict:
    sizes, settings = run.read_by(stage.name)
    model = assemble(run, PARENTS[stage.name], faces, data, store, sizes)
    for part in stage.fresh:
        untrained = fresh_model(sizes, data, run.seed).get_submodule(part)
        model.get_submodule(part).load_state_dict(untrained.state_dict())
    training = run.preset.training(stage.name)
    trainer = Trainer(
        stage, model, data, training, settings, _stage_seed(run.seed, stage.name), run.precision()
    )
    checkpoint = store.load_checkpoint(result_name)
    if checkpoint:
        trainer.restore(*checkpoint)
    title = f"{stage.title} (fold {run.fold}, repeat {run.repeat})"
    _train(trainer, title, lambda: store.save_checkpoint(result_name, *trainer.state()))
    record = {
        "stage": stage.name,
        "result": result_name,
        "determined by": run.determined_by(stage, faces),
        "curves": trainer.curves,
        "seconds": round(trainer.seconds, 1),
        "provenance": provenance(),
    }
    if stage.name in TESTED and len(data.test):
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
    run: Run,
    stages: tuple[str, ...],
    faces: FaceSet,
    data: FoldData,
    store: Store,
    sizes: ModelSizes | None = None,
) -> DrFER:
    """A model with the weights that some finished stages gave (their sizes, unless others are given); what none of
    them trained is fresh."""
    model = fresh_model(sizes or run.read_by(stages[-1])[0], data, run.seed)
    for name in stages:
        stored = store.load(run.result_name(name, faces))
        if stored is None:  # damaged, and removed by the store
            run_stage(run, name, faces, data, store)
            stored = store.load(run.result_name(name, faces))
        model.load_state_dict(stored[0], strict=False)
    return model


def _weights_of(model: DrFER, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(tuple(f"{p}." for p in parts))
    }


def _stage_seed(seed: int, stage: str) -> int:
    return seed * 100 + list(STAGES).index(stage)


def run_fold(run: Run, faces: FaceSet, store: Store) -> dict[str, dict]:
    """All three stages of one fold; the records by stage name."""
    data = run.data(faces)
    return {name: run_stage(run, name, faces, data, store) for name in run.preset.trainings}


def accuracy(record: dict) -> float:
    """Share of the test scans that a stage's record has right, in percent."""
    test = record["test"]
    return 100 * float(np.mean(np.equal(test["truth"], test["predicted"])))


def provenance() -> dict:
    """Where and with what a result was computed."""
    return {
        "drfer": drfer.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak memory of the process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // 1024,
    }
