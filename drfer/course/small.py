"""The small training of notebooks 03 to 05, and the model of notebook 09: the kit's own or, without it, that small one."""

from dataclasses import replace

from drfer.common.files import cache_folder
from drfer.datasets.anny3dfe.database import Anny3DFE
from drfer.evaluation.experiment import PRESETS, Run, assemble, run_stage
from drfer.evaluation.plan import prepare_faces
from drfer.evaluation.store import Store
from drfer.models import shipped
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.training.stages import Augmentation, Training

LEVELS = (
    SetAbstractionSizes(128, 0.2, 16, (32, 32, 64)),
    SetAbstractionSizes(32, 0.4, 16, (64, 64, 128)),
)
SIZES = dict(
    points=512,
    encoder=EncoderSizes(LEVELS, (128, 256)),
    decoder_widths=(256, 512),
    classifier_dropout=0.2,
)
STEPS = {
    "i-expression": (60, 2e-3),
    "i-identity": (30, 2e-3),
    "i-fusion": (45, 2e-3),
    "ii-expression": (25, 1e-3),
    "ii-identity": (25, 1e-3),
    "iii": (6, 1e-4),
}
"""epochs and rates: above the paper's, because there is time for few steps"""
MILD = {
    name: Training(*steps, 16, 0.1, augmentation=Augmentation(0.0, (0.9, 1.1)))
    for name, steps in STEPS.items()
}
SMALL = replace(
    PRESETS["smoke"], name="small", sizes=replace(PRESETS["smoke"].sizes, **SIZES), trainings=MILD
)


def small_run(database):
    """Run, faces and store of a run on 12 subjects: in the user's cache folder, or trained in a minute on two cores."""
    run, faces, store = (
        Run(SMALL, fold=0),
        prepare_faces(database, SMALL),
        Store(cache_folder() / "course"),
    )
    run_stage(run, "iii", faces, run.data(faces), store)
    return run, faces, store


def trained_model():
    """A model after all stages, a database with its preprocessed faces, those of its subjects that the model never saw
    and that are mixed, and where the model is from, in words."""
    if loaded := shipped.load():
        database = Anny3DFE(
            SMALL.dataset_subjects, seed=1
        )  # another population: the model knows all of the first
        faces = prepare_faces(database, SMALL)
        return (
            loaded[0],
            database,
            faces,
            Run(SMALL, 0).test_subjects(faces),
            "loaded: the kit's trained model",
        )
    database = Anny3DFE(SMALL.dataset_subjects)
    run, faces, store = small_run(database)
    model = assemble(run, ("iii",), faces, run.data(faces), store).eval()
    origin = "trained here: a small model, since none comes with the kit"
    return model, database, faces, run.test_subjects(faces), origin
