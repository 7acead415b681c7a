"""The model that notebook 09 looks into: the kit's own if there is one, else a small one, and never seen subjects."""

from dataclasses import replace

import pytest
import torch

from drfer.course import small as course

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def quick(monkeypatch):
    """One epoch a stage, and no trained model whatever the package has."""
    trainings = {
        name: replace(training, epochs=1) for name, training in course.SMALL.trainings.items()
    }
    monkeypatch.setattr(course, "SMALL", replace(course.SMALL, trainings=trainings))
    monkeypatch.setattr(course.shipped, "load", lambda: None)


def test_without_the_kits_model_a_small_one_is_trained_once_and_its_test_subjects_are_unseen(
    quick, database, monkeypatch
):
    run, faces, store = course.small_run(database)
    monkeypatch.setattr(
        "drfer.evaluation.experiment._train_stage", lambda *arguments: pytest.fail("trained again")
    )
    model, same, _, unseen, origin = course.trained_model()
    assert origin.startswith("trained here") and not model.training and same.hash == database.hash
    assert unseen == run.test_subjects(faces) and not set(unseen) & set(run.data(faces).subjects)
    stored, _ = store.load(run.result_name("iii", faces))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())


def test_the_kits_model_comes_first_and_meets_a_population_that_it_never_saw(
    quick, database, monkeypatch
):
    monkeypatch.setattr(course.shipped, "load", lambda: (torch.nn.Linear(1, 1), {}))
    _, others, faces, unseen, origin = course.trained_model()
    assert origin.startswith("loaded") and set(unseen) < set(faces.subjects)
    assert others.hash != database.hash and others.settings["seed"] != database.settings["seed"]
