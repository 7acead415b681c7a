"""The model that notebook 09 looks into: the shipped one if there is one, else a small one, and never seen subjects."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from drfer import course

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def quick(monkeypatch):
    """One epoch a stage, and no shipped model whatever the package has."""
    trainings = {name: replace(training, epochs=1) for name, training in course.SMALL.trainings.items()}
    monkeypatch.setattr(course, "SMALL", replace(course.SMALL, trainings=trainings))
    monkeypatch.setattr(course, "find_spec", lambda name: None)


def test_without_a_shipped_model_a_small_one_is_trained_once_and_its_test_subjects_are_unseen(
    quick, database, monkeypatch
):
    run, faces, store = course.small_run(database)
    monkeypatch.setattr("drfer.experiment._train_stage", lambda *arguments: pytest.fail("trained again"))
    model, unseen, origin = course.trained_model(database)
    assert origin.startswith("trained here") and not model.training
    assert unseen == run.test_subjects(faces) and not set(unseen) & set(run.data(faces).subjects)
    stored, _ = store.load(run.result_name("iii", faces))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("has_one", [True, False])
def test_a_shipped_model_comes_first(quick, database, monkeypatch, has_one):
    seen = [*database.subjects[:9], "F0050"]
    shipped = ModuleType("drfer.shipped")
    shipped.load = lambda: (torch.nn.Linear(1, 1), {"training subjects": seen}) if has_one else None
    monkeypatch.setattr(course, "find_spec", lambda name: shipped)
    monkeypatch.setitem(sys.modules, "drfer.shipped", shipped)
    model, unseen, origin = course.trained_model(database)
    assert origin.startswith("loaded" if has_one else "trained here") and not model.training
    assert not has_one or unseen == database.subjects[9:]
