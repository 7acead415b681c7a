"""Faces made of random numbers, and a very small model, for tests of training."""

from dataclasses import replace

import numpy as np
import torch

from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation.protocol import Protocol, protocol_keys
from drfer.models.branch import ModelSizes
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.preprocessing.faceset import FaceSet, Settings
from drfer.training.data import Augmentation, FoldData
from drfer.training.stages import STAGES, LossSettings, Schedule
from drfer.training.trainer import Trainer, fresh_model

POINTS = 64
VERTICES = 80
SUBJECTS = ["F0001", "F0002", "M0001", "M0002"]
TEST_SUBJECT = "F0002"
"""In the middle, so that the labels of the subjects after it are not their indices."""
TRAIN_SUBJECTS = ["F0001", "M0001", "M0002"]
SIZES = ModelSizes(
    points=POINTS,
    encoder=EncoderSizes(
        (SetAbstractionSizes(16, 0.5, 8, (16, 24)), SetAbstractionSizes(4, 1.0, 8, (24, 32))),
        (32, 48),
    ),
    decoder_widths=(32, 48),
    classifier_widths=(16,),
)
GAUSSIAN = replace(SIZES, gaussian_feature=True)
PAPER = LossSettings()
NO_AUGMENTATION = Augmentation(0.0, (1.0, 1.0))
ONE_BATCH = Schedule(epochs=1, learning_rate=1e-3, batch_size=36)
"""All training scans are one batch."""


def random_faces(seed=0):
    """Return four subjects' scans at all expressions: a base, two shifts and noise.

    One shift is the subject's and one the expression's.
    """
    generator = np.random.default_rng(seed)
    keys = protocol_keys(SUBJECTS, Protocol())
    shape = (VERTICES, 3)
    base = generator.uniform(-0.7, 0.7, size=shape)
    of_subject = {subject: generator.normal(scale=0.1, size=shape) for subject in SUBJECTS}
    of_expression = {
        name: generator.normal(scale=0.1, size=shape) for name in (*EXPRESSIONS, NEUTRAL)
    }
    scans = [base + of_subject[key.subject] + of_expression[key.expression] for key in keys]
    noise = generator.normal(scale=0.02, size=(len(keys), *shape))
    vertices = (np.stack(scans) + noise).astype(np.float32)
    missing = generator.random(size=(len(keys), VERTICES)) < 0.2
    missing[:, 5] = True  # no scan has this vertex
    missing[::2, 7] = True  # about half of the scans have this one
    return FaceSet(
        keys=keys,
        clouds=vertices[:, np.random.default_rng(1).permutation(VERTICES)[:70]],
        vertices=vertices,
        missing=missing,
        residuals=np.zeros(len(keys)),
        doubtful=np.zeros(len(keys), bool),
        poses=np.tile(np.eye(4), (len(keys), 1, 1)),
        hash="random",
        settings=Settings(points=70, template_points=VERTICES),
        dataset=None,
    )


def some_of(faces, members):
    """Return the faces of some scans, in that order."""
    return replace(
        faces,
        keys=[faces.keys[scan] for scan in members],
        clouds=faces.clouds[members],
        vertices=faces.vertices[members],
        missing=faces.missing[members],
        residuals=faces.residuals[members],
        doubtful=faces.doubtful[members],
        poses=faces.poses[members],
    )


def fold_data(faces):
    """Return the data of the fold that tests the one test subject."""
    return FoldData(faces, TRAIN_SUBJECTS, [TEST_SUBJECT], POINTS)


def batches(data, schedule=ONE_BATCH, seed=0):
    """Return an iterator over the batches of an epoch."""
    generator = torch.Generator().manual_seed(seed)
    return data.batches(schedule.batch_size, schedule.augmentation, generator)


def model_for(data, sizes=SIZES, seed=0):
    """Return an untrained model for a fold."""
    return fresh_model(sizes, len(data.subjects), data.mean_neutral, seed)


def trainer_of(stage, data, settings=PAPER, sizes=SIZES, schedule=ONE_BATCH, model_seed=0):
    """Return a trainer of a stage that starts from an untrained model."""
    model = model_for(data, sizes, model_seed)
    return Trainer(STAGES[stage], model, data, schedule, settings, 5, "float32")


def copied(tensors):
    """Return copies of named tensors."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
