"""Presets: the sizes and lengths of a whole run, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from drfer.evaluation.protocol import Draws, Protocol
from drfer.models.branch import ModelSizes
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.training.stages import Schedule, Stage


@dataclass(frozen=True)
class Preset:
    """Everything of a run that is chosen once for all its folds and stages."""

    name: str
    """How the command line calls it."""
    sizes: ModelSizes
    """Widths of all layers, and the number of points of a cloud."""
    protocol: Protocol | Draws = Protocol()
    """Who is trained on and who is tested."""
    draws: Draws = Draws()
    """The protocol instead, if draws are asked for."""
    length: str = "paper"
    """Which of a stage's numbers of epochs is taken: "paper", "classroom", "short" or "smoke"."""
    dataset_subjects: int = 100
    """How many subjects the open faces are made with."""
    precision: str = "auto"
    """Of matrix products: "auto" is bfloat16 where the processor computes in it, else float32."""
    start: str | None = None
    """Where training begins: "shipped" with the weights of the kit's trained model, None with none."""
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    """Schedules, by a stage's name, that replace the stage's own."""

    def schedule(self, stage: Stage) -> Schedule:
        """Return how this preset trains a stage."""
        if stage.name in self.schedules:
            return self.schedules[stage.name]
        return replace(stage.schedule, epochs=stage.epochs[self.length])


_PAPER = ModelSizes(
    points=2048,
    encoder=EncoderSizes(
        levels=(
            SetAbstractionSizes(centroids=512, radius=0.2, neighbours=32, widths=(64, 64, 128)),
            SetAbstractionSizes(centroids=128, radius=0.4, neighbours=64, widths=(128, 128, 256)),
        ),
        global_widths=(256, 512, 1024),
    ),
    decoder_widths=(1024, 2048),
    classifier_widths=(512, 256),
)
_CLASSROOM = ModelSizes(
    points=1024,
    encoder=EncoderSizes(
        levels=(
            SetAbstractionSizes(centroids=256, radius=0.2, neighbours=16, widths=(32, 32, 64)),
            SetAbstractionSizes(centroids=64, radius=0.4, neighbours=32, widths=(64, 64, 128)),
        ),
        global_widths=(128, 256, 512),
    ),
    decoder_widths=(512, 1024),
    classifier_widths=(256, 128),
)
_SMOKE = ModelSizes(
    points=256,
    encoder=EncoderSizes(
        levels=(
            SetAbstractionSizes(centroids=64, radius=0.3, neighbours=8, widths=(16, 16, 32)),
            SetAbstractionSizes(centroids=16, radius=0.6, neighbours=16, widths=(32, 32, 64)),
        ),
        global_widths=(64, 64, 128),
    ),
    decoder_widths=(128, 256),
    classifier_widths=(64, 32),
)

PRESETS: dict[str, Preset] = {
    "paper": Preset("paper", _PAPER),
    "classroom": Preset("classroom", _CLASSROOM, length="classroom"),
    "short": Preset("short", _CLASSROOM, length="short"),
    "smoke": Preset(
        "smoke",
        _SMOKE,
        Protocol(subjects=12, folds=4),
        Draws(train_subjects=9, test_subjects=6, measured_subjects=4),
        length="smoke",
        dataset_subjects=12,
    ),
}
"""The paper's sizes; a quarter of them, for two cores; the same far from convergence, for a first
look; and a test of the whole in a minute."""
