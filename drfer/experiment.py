"""Presets, and a run as a chain of stages whose results are stored under the hash of all that determined them."""

from __future__ import annotations

from dataclasses import dataclass

from drfer.model.branch import ModelSizes
from drfer.model.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.protocol import Protocol
from drfer.stages import Augmentation, Training


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


def _trainings(epochs: dict[str, int], weight_decay: float = 0.0, augmentation: Augmentation = Augmentation()) -> dict:
    """The paper's rates and batch sizes (section IV.B) with a preset's epochs."""
    rates = {"i": (1e-3, 24), "ii": (1e-4, 24), "iii": (1e-5, 16)}
    return {
        name: Training(count, *rates[name.split("-")[0]], weight_decay=weight_decay, augmentation=augmentation)
        for name, count in epochs.items()
    }


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
            _trainings({"i-expression": 60, "i-identity": 40, "i-fusion": 40, "ii-expression": 40, "ii-identity": 40,
                        "iii": 20}),
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
            _trainings({"i-expression": 60, "i-identity": 40, "i-fusion": 40, "ii-expression": 40, "ii-identity": 40,
                        "iii": 20}),
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
