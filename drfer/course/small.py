"""The small training of notebooks 03 to 05 and 09, and the model that notebook 09 looks into."""

from __future__ import annotations

from dataclasses import dataclass, replace

from drfer.common.files import cache_folder
from drfer.datasets import Dataset
from drfer.datasets.anny3dfe import Anny3DFE
from drfer.evaluation.experiment import Experiment, prepare_faces
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.models.drfer import DrFER
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.models.shipped import load_model
from drfer.preprocessing.faceset import FaceSet
from drfer.training.data import Augmentation
from drfer.training.stages import Schedule

SMOKE = PRESETS["smoke"]
ENCODER = EncoderSizes(
    levels=(
        SetAbstractionSizes(centroids=128, radius=0.2, neighbours=16, widths=(32, 32, 64)),
        SetAbstractionSizes(centroids=32, radius=0.4, neighbours=16, widths=(64, 64, 128)),
    ),
    global_widths=(128, 256),
)
LENGTHS = {
    "i-expression": (60, 2e-3),
    "i-identity": (30, 2e-3),
    "i-fusion": (45, 2e-3),
    "ii-expression": (25, 1e-3),
    "ii-identity": (25, 3e-3),
    "iii": (6, 1e-4),
}
"""Epochs and learning rates by stage. The rates are above the paper's, for there is time for few
steps only."""
SMALL = replace(
    SMOKE,
    name="small",
    sizes=replace(
        SMOKE.sizes,
        points=512,
        encoder=ENCODER,
        decoder_widths=(256, 512),
        classifier_dropout=0.2,
    ),
    schedules={
        stage: Schedule(
            learning_rate=rate,
            batch_size=16,
            final_rate=0.1,
            epochs=epochs,
            augmentation=Augmentation(largest_dropout=0.0, scale=(0.9, 1.1)),
        )
        for stage, (epochs, rate) in LENGTHS.items()
    },
)
"""The preset of the course: 12 subjects, and a minute for all stages on two cores."""

STRANGE = 1
"""The population of people whom the kit's trained model never saw."""


def small_experiment(database: Dataset) -> Experiment:
    """Return the course's experiment, whose results lie in the user's cache folder.

    Each stage is trained when it is first asked for: `small_experiment(database).model("iii")`.

    Args:
        database: the open faces of 12 subjects.
    """
    faces = prepare_faces(database, SMALL)
    return Experiment(Run(SMALL, fold=0), faces, Store(cache_folder() / "course"))


@dataclass(frozen=True, eq=False)
class Strangers:
    """The kit's trained model, and faces of people whom it never saw."""

    model: DrFER
    """In evaluation."""
    database: Dataset
    """Where the faces are from."""
    faces: FaceSet
    """Preprocessed scans."""
    subjects: list[str]
    """A quarter of the subjects, as many as a fold tests."""


def strangers() -> Strangers:
    """Return the kit's trained model before another population: it knows everyone of the first."""
    model, _ = load_model()
    database = Anny3DFE(SMALL.dataset_subjects, STRANGE, intensities=SMALL.protocol.intensities)
    faces = prepare_faces(database, SMALL)
    _, subjects = Run(SMALL, fold=0).split(faces)
    return Strangers(model, database, faces, subjects)
