"""The small experiment that notebooks 03 to 05 share, and the strangers whom notebook 09 looks at."""

from dataclasses import replace

import pytest
import torch

from drfer.course import small as course
from drfer.evaluation.experiment import Experiment

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def quick(monkeypatch):
    """One epoch a stage."""
    schedules = {
        stage: replace(schedule, epochs=1) for stage, schedule in course.SMALL.schedules.items()
    }
    monkeypatch.setattr(course, "SMALL", replace(course.SMALL, schedules=schedules))


def test_a_stage_of_the_small_experiment_is_trained_once_and_its_test_subjects_are_unseen(
    quick, database, monkeypatch
):
    experiment = course.small_experiment(database)
    model = experiment.model("iii")

    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(Experiment, "_train", refuse)
    again = course.small_experiment(database)  # as the next notebook opens it
    for name, tensor in again.model("iii").state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert again.test_subjects and not set(again.test_subjects) & set(again.data.subjects)


def test_the_small_preset_says_how_long_each_stage_of_the_course_is():
    assert course.SMALL.schedules.keys() == course.LENGTHS.keys()
    for stage, (epochs, rate) in course.LENGTHS.items():
        schedule = course.SMALL.schedules[stage]
        assert (schedule.epochs, schedule.learning_rate) == (epochs, rate)


def test_the_kits_model_meets_a_population_that_it_never_saw(database):
    found = course.strangers()
    assert not found.model.training
    assert found.database.hash != database.hash
    assert found.database.settings["seed"] != database.settings["seed"]
    assert found.faces.dataset is found.database
    assert set(found.subjects) < set(found.faces.subjects)
