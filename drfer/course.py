"""The small training of notebooks 03 to 05, and the model of notebook 09: the kit's own or, without it, that small one."""

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

from drfer.evaluation import prepare_faces
from drfer.experiment import PRESETS, Run, assemble, run_stage
from drfer.jobs import cache_folder
from drfer.model.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.stages import Augmentation, Training
from drfer.store import Store

LEVELS = SetAbstractionSizes(128, 0.2, 16, (32, 32, 64)), SetAbstractionSizes(32, 0.4, 16, (64, 64, 128))
SIZES = dict(points=512, encoder=EncoderSizes(LEVELS, (128, 256)), decoder_widths=(256, 512), classifier_dropout=0.2)
STEPS = {"i-expression": (60, 2e-3), "i-identity": (30, 2e-3), "i-fusion": (45, 2e-3), "ii-expression": (25, 1e-3),
         "ii-identity": (25, 1e-3), "iii": (6, 1e-4)}  # fmt: skip
"""epochs and rates: above the paper's, because there is time for few steps"""
MILD = {name: Training(*steps, 16, 0.1, augmentation=Augmentation(0.0, (0.9, 1.1))) for name, steps in STEPS.items()}
SMALL = replace(PRESETS["smoke"], name="small", sizes=replace(PRESETS["smoke"].sizes, **SIZES), trainings=MILD)


def small_run(database):
    """Run, faces and store of a run on 12 subjects: in the user's cache folder, or trained in a minute on two cores."""
    run, faces, store = Run(SMALL, fold=3), prepare_faces(database, SMALL), Store(cache_folder() / "course")
    run_stage(run, "iii", faces, run.data(faces), store)
    return run, faces, store


def trained_model(database):
    """A model after all stages, those of a database's subjects that it never saw, and where it is from, in words."""
    if find_spec("drfer.shipped") and (loaded := import_module("drfer.shipped").load()):
        unseen = [subject for subject in database.subjects if subject not in loaded[1]["training subjects"]]
        return loaded[0].eval(), unseen, "loaded: the trained model that comes with the kit"
    run, faces, store = small_run(database)
    model = assemble(run, ("iii",), faces, run.data(faces), store).eval()
    return model, run.test_subjects(faces), "trained here: a small model, since none comes with the kit"
