"""A run: the settings of one fold, by which every number of it is determined but for the faces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from drfer.common.device import has_bfloat16
from drfer.common.errors import DrferError
from drfer.evaluation.presets import Preset
from drfer.evaluation.protocol import Draws, drawn_subjects, folds
from drfer.evaluation.rows import Row
from drfer.models.branch import ModelSizes
from drfer.preprocessing.faceset import FaceSet
from drfer.training.data import DataSettings
from drfer.training.stages import MODEL_SWITCHES, STAGES, LossSettings, Stage

if TYPE_CHECKING:
    from drfer.evaluation.draws import DrawFaces

LARGEST_SEED = 2**31 - 1
"""What torch, numpy and scikit-learn all take."""

POSED_LENGTH = 8
"""How many times as long a training is whose scans stand at 17 poses (docs/convergence.md)."""


@dataclass(frozen=True)
class Run:
    """The settings of an experiment: all that determines its numbers, but for the faces."""

    preset: Preset
    """Sizes, lengths and protocol."""
    fold: int
    """Which fold is tested."""
    seed: int = 0
    """Of weights, batches and augmentation."""
    repeat: int = 0
    """Which repeat of the protocol it is; each has folds of its own. Or which draw."""
    losses: LossSettings = LossSettings()
    """Which loss terms there are."""
    data: DataSettings = DataSettings()
    """What of the scans is shown to the network."""
    posed: bool = False
    """Whether the training scans stand at all head poses, and not only frontal."""

    def __post_init__(self) -> None:
        """Refuse a fold or a seed that there is not."""
        count = self.preset.protocol.folds
        if not 0 <= self.fold < count:
            raise DrferError(
                f"there is no fold {self.fold}: preset {self.preset.name} has folds 0 to {count - 1}"
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise DrferError(f"{self.seed} is no seed; give one from 0 to {LARGEST_SEED}")

    def change(self, row: Row) -> Run:
        """Return these settings with the changes of a table's row."""
        preset = replace(self.preset, sizes=replace(self.preset.sizes, **row.sizes))
        if row.augmentation or row.length != 1:
            preset = _rescheduled(preset, row.length, row.augmentation)
        return replace(
            self,
            preset=preset,
            losses=replace(self.losses, **row.losses),
            data=replace(self.data, **row.data),
        )

    def at_all_poses(self) -> Run:
        """Return these settings with training scans at all head poses, and longer trainings."""
        return replace(self, preset=_rescheduled(self.preset, POSED_LENGTH, {}), posed=True)

    def split(self, faces: FaceSet | DrawFaces) -> tuple[list[str], list[str]]:
        """Return the training subjects and the test subjects."""
        protocol = self.preset.protocol
        if isinstance(protocol, Draws):
            return faces.train_subjects, faces.test_subjects
        subjects = drawn_subjects(faces.subjects, protocol, self.repeat)
        parts = folds(subjects, protocol, self.repeat)
        # each fold begins with the part after its own, so that shares of folds are of other people
        others = [s for part in parts[self.fold + 1 :] + parts[: self.fold] for s in part]
        kept = others[: math.ceil(protocol.train_share * len(others))]
        return sorted(kept), parts[self.fold]

    @property
    def place(self) -> str:
        """Which part of the protocol it is, in words."""
        if isinstance(self.preset.protocol, Draws):
            return f"draw {self.repeat}"
        return f"fold {self.fold}, repeat {self.repeat}"

    @property
    def precision(self) -> str:
        """Precision of matrix products on this machine: "float32" or "bfloat16"."""
        if self.preset.precision == "auto":
            return "bfloat16" if has_bfloat16() else "float32"
        return self.preset.precision

    def settings_of(self, stage: Stage) -> tuple[ModelSizes, LossSettings]:
        """Return the sizes and loss settings that a stage reads.

        Those that it does not read stand at their defaults, so that rows of a table share the
        stages that they have in common.
        """
        return _only(self.preset.sizes, stage.reads), _only(self.losses, stage.reads)


def _rescheduled(preset: Preset, length: float, augmentation: Mapping[str, object]) -> Preset:
    """A preset whose trainings are some times as long, with something of augmentation changed."""
    schedules = {}
    for name, stage in STAGES.items():
        usual = preset.schedule(stage)
        schedules[name] = replace(
            usual,
            epochs=math.ceil(usual.epochs * length),
            augmentation=replace(usual.augmentation, **augmentation),
        )
    return replace(preset, schedules=schedules)


def _only(settings, reads: frozenset[str]):
    """Settings whose optional fields stand at their defaults unless they are read."""
    defaults = {
        name: field.default
        for name, field in type(settings).__dataclass_fields__.items()
        if name in _OPTIONAL and name not in reads
    }
    return replace(settings, **defaults)


_OPTIONAL = MODEL_SWITCHES | LossSettings.__dataclass_fields__.keys()
