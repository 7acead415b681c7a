"""An experiment: one fold of one preset on one set of faces, with a store for what it makes.

`Experiment` is the class to start from. It trains stages, gives their models, tests them and
measures them; what the store already has is not made again.

Used from notebook 05 on; what its numbers mean is the matter of notebook 06.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, lru_cache

import torch
from torch import Tensor

from drfer.common.errors import DrferError
from drfer.common.parallel import progress
from drfer.datasets import classes_of, has_neutral
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.draws import DrawFaces, clouds_to_test, origin_of
from drfer.evaluation.linear import CLASSIFIERS, LinearClassifier
from drfer.evaluation.measures import MEASURES, Measure
from drfer.evaluation.origin import (
    load_weights,
    name_of,
    other_version,
    provenance,
    weights_of,
)
from drfer.evaluation.presets import Preset
from drfer.evaluation.protocol import drawn_subjects, protocol_keys, said
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.models import shipped
from drfer.models.branch import ModelSizes
from drfer.models.drfer import DrFER
from drfer.preprocessing.faceset import FaceSet, preprocess, with_mean_neutrals
from drfer.preprocessing.head_pose import PosedFaces, pose_faces, poses_hash
from drfer.training.data import DataSettings, FoldData
from drfer.training.stages import STAGES, Stage
from drfer.training.trainer import Trainer, fresh_model, predict

CHECKPOINT_SECONDS = 20
"""Time between two checkpoints of a training."""
LOOKS = 20
"""At so many epochs of a training, or one fewer, its test scans are looked at for "best look"."""
MOST_LOOKED_AT = 1000
"""If there are more test scans, nobody looks."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """A run on a set of faces, with a store for its results."""

    run: Run
    """The settings."""
    faces: FaceSet | DrawFaces
    """Preprocessed scans; they know the dataset that they are from."""
    store: Store
    """Keeps weights and records under the hash of all that determined them."""

    def train(self, stage: str) -> dict:
        """Train a stage and all that it starts from, unless the store has them.

        Args:
            stage: its name in `STAGES`; or a linear classifier's in `CLASSIFIERS`, which starts
                from nothing.

        Returns:
            The stage's record: "curves" (loss terms by epoch), "seconds", "provenance", and for a
            tested stage "test" with the lists "truth" and "predicted", and "best look", which is
            the same of the best of some epochs. A linear classifier's has no curves.

        Raises:
            DrferError: the loss is no longer finite, or the store cannot be written.
        """
        name = self.name(stage)
        if record := self.store.record(name):
            return record
        for parent in parents_of(stage):
            self.train(parent)
        with self.store.lock(name):  # perhaps another process makes it just now
            if record := self.store.record(name):
                return record
            return (
                self._fit(CLASSIFIERS[stage])
                if stage in CLASSIFIERS
                else self._train(STAGES[stage])
            )

    def model(self, *stages: str) -> DrFER:
        """Return a model with the weights that some stages gave it, on the training device.

        Parts that none of these stages trained are untrained; the sizes are those that the last of
        them reads. A stage that the store does not have is trained first.
        """
        sizes, _ = self.run.settings_of(STAGES[stages[-1]])
        return self._assemble(stages, sizes)

    def test(self, stage: str) -> dict[str, list[int]]:
        """Return "truth" and "predicted" of the test scans after a stage, as labels of expressions.

        Raises:
            DrferError: nobody is tested after this stage.
        """
        record = self.train(stage)
        if "test" not in record:
            raise DrferError(f"nobody is tested after {stage}: it does not train what is tested")
        return record["test"]

    def measure(self, what: str) -> dict:
        """Return the record of a measure; made unless the store has it, and then kept there.

        Args:
            what: its name in `MEASURES`.
        """
        name = self.measure_name(what)
        if record := self.store.record(name):
            return record
        with self.store.lock(name):
            return self.store.record(name) or self._measure(MEASURES[what], name)

    def measure_name(self, what: str) -> str:
        """Return the name of a measure's result in the store."""
        measure = MEASURES[what]
        determined_by = {
            "measure": what,
            "version": measure.version,
            "seed": self.run.seed,
            "poses": poses_hash(self.faces) if measure.poses else None,
            "parents": [self.name(stage) for stage in measure.stages],
        }
        return name_of(what, determined_by)

    def name(self, stage: str) -> str:
        """Return the name of a stage's result in the store."""
        if stage not in self._names:
            linear = CLASSIFIERS.get(stage)
            determined_by = (
                self._determines(linear) if linear else self._determined_by(STAGES[stage])
            )
            self._names[stage] = name_of(stage, determined_by)
        return self._names[stage]

    @cached_property
    def data(self) -> FoldData:
        """The fold's scans on the training device; of a draw's test scans, those that are measured."""
        train, test = self._split
        points = self.run.preset.sizes.points
        run = self.run
        return _fold_data(self.faces, tuple(train), tuple(test), points, run.posed, run.data)

    @property
    def posed_faces(self) -> PosedFaces:
        """The expressive scans at all head poses."""
        return posed_faces_of(self.faces)

    @cached_property
    def test_subjects(self) -> list[str]:
        """Who is tested; of a draw, of whom measures are taken."""
        present = set(self.faces.subjects)
        return [subject for subject in self._split[1] if subject in present]

    @cached_property
    def _split(self) -> tuple[list[str], list[str]]:
        return self.run.split(self.faces)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {}

    def _determined_by(self, stage: Stage) -> dict:
        """All that a stage's result depends on, as JSON can hold it."""
        sizes, settings = self.run.settings_of(stage)
        train, test = self._split
        start = {"start": shipped.digest()} if self.run.preset.start else {}
        return start | {
            "stage": stage.name,
            "version": stage.version,
            "sizes": _as_json(sizes),
            "schedule": _as_json(self.run.preset.schedule(stage)),
            "losses": _as_json(settings),
            "data": _as_json(self.run.data),
            "precision": self.run.precision,
            "seed": self.run.seed,
            "seed of the stage": self._seed_of(stage),
            "faces": self.faces.hash,
            "poses": poses_hash(self.faces) if self.run.posed else None,
            "training subjects": train,
            "test subjects": test,
            "parents": [self.name(parent) for parent in stage.parents],
        }

    def _determines(self, linear: LinearClassifier) -> dict:
        """All that a linear classifier's answers depend on."""
        train, test = self._split
        share = self.run.data.wrong_labels
        return ({"wrong labels": share} if share else {}) | {
            "linear": linear.name,
            "version": linear.version,
            "regularisation": linear.regularisation,
            "faces": self.faces.hash,
            "training subjects": train,
            "test subjects": test,
        }

    def _fit(self, linear: LinearClassifier) -> dict:
        started = time.perf_counter()
        record = {
            "stage": linear.name,
            "title": linear.title,
            "determined by": self._determines(linear),
            "test": linear.test(self),
            "seconds": round(time.perf_counter() - started, 1),
            "provenance": provenance() | origin_of(self.faces),
        }
        self.store.save(self.name(linear.name), {}, record)
        return record

    @torch.inference_mode(False)
    @torch.enable_grad()  # who only evaluates may meet a damaged result, which is then made again
    def _train(self, stage: Stage) -> dict:
        trainer = self._trainer(stage)
        name = self.name(stage.name)
        if checkpoint := self.store.load_checkpoint(name):
            try:
                trainer.restore(*checkpoint)
            except (RuntimeError, ValueError, KeyError, TypeError):
                raise other_version(self.store.root / f"{name}.checkpoint") from None
        self._train_with_checkpoints(trainer, name)
        record = {
            "stage": stage.name,
            "title": stage.title,
            "determined by": self._determined_by(stage),
            "curves": trainer.curves,
            "seconds": round(trainer.seconds, 1),
            "provenance": provenance() | origin_of(self.faces),
        }
        if stage.tested and len(self.data.test):
            record["test"] = self._tested(trainer.model)
            record["best look"] = trainer.best_look
        record = json.loads(json.dumps(record))  # as the store will give it back
        self.store.save(name, weights_of(trainer.model, stage), record)
        return record

    def _measure(self, measure: Measure, name: str) -> dict:
        for stage in measure.stages:
            self.train(stage)
        started = time.perf_counter()
        arrays, measured = measure.function(self)
        record = {
            "measured": measured,
            "seconds": round(time.perf_counter() - started, 1),
            "provenance": provenance() | origin_of(self.faces),
        }
        tensors = {key: torch.tensor(array) for key, array in arrays.items()}
        self.store.save(name, tensors, record)
        return record

    def _trainer(self, stage: Stage) -> Trainer:
        sizes, settings = self.run.settings_of(stage)
        model = self._assemble(stage.parents, sizes)
        for part in stage.fresh:
            untrained = self._fresh_model(sizes).get_submodule(part)
            model.get_submodule(part).load_state_dict(untrained.state_dict())
        schedule = self.run.preset.schedule(stage)
        seed = self._seed_of(stage)
        return Trainer(stage, model, self.data, schedule, settings, seed, self.run.precision)

    def _seed_of(self, stage: Stage) -> int:
        return 100 * self.run.seed + stage.seed

    def _train_with_checkpoints(self, trainer: Trainer, name: str) -> None:
        title = f"{trainer.stage.title} ({self.run.place})"
        total, saved_at = trainer.schedule.epochs, time.monotonic()
        tested = len(clouds_to_test(self.faces, self.data)[0])
        is_looked_at = trainer.stage.tested and 0 < tested <= MOST_LOOKED_AT
        between = math.ceil(total / LOOKS)
        with progress(range(total), title, total, initial=trainer.epoch, unit="epoch") as bar:
            for terms in trainer.epochs():
                if is_looked_at and (trainer.epoch % between == 0 or trainer.epoch == total):
                    self._look(trainer)
                bar.update()
                bar.set_postfix(loss=f"{sum(terms.values()):.3f}")
                if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                    self.store.save_checkpoint(name, *trainer.state())
                    saved_at = time.monotonic()

    def _tested(self, model: DrFER) -> dict[str, list[int]]:
        clouds, labels = clouds_to_test(self.faces, self.data)
        _, logits = predict(model, clouds, len(self.faces.expressions))
        return {"truth": labels.tolist(), "predicted": logits.argmax(axis=1).tolist()}

    def _look(self, trainer: Trainer) -> None:
        """Test at an epoch, and keep the answers if they are the best so far.

        Nothing may be chosen by this. It shows what a choice by test accuracy would be worth.
        """
        looked = {"epoch": trainer.epoch, **self._tested(trainer.model)}
        if trainer.best_look is None or _right(looked) > _right(trainer.best_look):
            trainer.best_look = looked

    def _assemble(self, stages: tuple[str, ...], sizes: ModelSizes) -> DrFER:
        model = self._fresh_model(sizes)
        if self.run.preset.start:
            same = tuple(self.faces.expressions) == EXPRESSIONS and not self.run.data.neutral_class
            shipped.give_weights(model, same)
        for stage in stages:
            weights = self._weights(stage)
            load_weights(model, STAGES[stage], weights, self.store.root / self.name(stage))
        return model

    def _weights(self, stage: str) -> dict[str, Tensor]:
        """What a stage trained; it is trained if the store does not have it, or not any more."""
        name = self.name(stage)
        if stored := self.store.load(name):
            return stored[0]
        with self.store.lock(name):
            if stored := self.store.load(name):  # another process made it meanwhile
                return stored[0]
            self._train(STAGES[stage])
        return self.store.load(name)[0]

    def _fresh_model(self, sizes: ModelSizes) -> DrFER:
        subjects = len(self.data.subjects)
        return fresh_model(
            sizes, subjects, self.data.mean_neutral, self.run.seed, self.data.classes
        )


def parents_of(stage: str) -> tuple[str, ...]:
    """Return the stages whose weights a stage starts from; a linear classifier has none."""
    return () if stage in CLASSIFIERS else STAGES[stage].parents


def prepare_faces(dataset, preset: Preset) -> FaceSet:
    """Return the scans of a dataset that a preset's protocol uses, preprocessed or from the cache.

    Raises:
        DrferError: the dataset has too few subjects for the protocol, or fewer than two classes.
    """
    if len(classes_of(dataset)) < 2:
        raise DrferError(f"{dataset.name} has one class alone: there is nothing to tell apart")
    protocol = replace(preset.protocol, intensities=dataset.intensities)
    subjects = dataset.subjects if protocol.redraw else drawn_subjects(dataset.subjects, protocol)
    faces = preprocess(dataset, protocol_keys(subjects, protocol, dataset))
    return faces if has_neutral(dataset) else with_mean_neutrals(faces)


@lru_cache(maxsize=1)
def posed_faces_of(faces: FaceSet | DrawFaces) -> PosedFaces:
    """Return the expressive scans of a set at all head poses; kept for the next call."""
    return faces.posed if isinstance(faces, DrawFaces) else pose_faces(faces)


def forget_faces() -> None:
    """Let go of what was kept for the next call, once a draw is done."""
    posed_faces_of.cache_clear()
    _fold_data.cache_clear()


@lru_cache(maxsize=2)
def _fold_data(
    faces: FaceSet | DrawFaces,
    train: tuple[str, ...],
    test: tuple[str, ...],
    points: int,
    posed: bool,
    settings: DataSettings,
) -> FoldData:
    """Kept for the next call, since all rows of a table share a fold's scans."""
    at_all_poses = posed_faces_of(faces) if posed else None
    return FoldData(faces, list(train), list(test), points, at_all_poses, settings)


def _right(tested: dict) -> int:
    return sum(map(int.__eq__, tested["truth"], tested["predicted"]))


@cache
def _as_json(config) -> dict:
    """Once for each: a plan of a thousand folds asks for the same few again and again."""
    return said(asdict(config))
