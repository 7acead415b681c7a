"""What the later stages do to the expression branch, against slow loops that say the same."""

from itertools import islice

import numpy as np
import pytest
import torch
from driver import TINY

from drfer.evaluation import diagnosis
from drfer.training.data import FoldData
from drfer.training.stages import STAGES, LossSettings
from drfer.training.trainer import fresh_model, predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(faces):
    return FoldData(faces, faces.subjects[3:], faces.subjects[:3], TINY.sizes.points)


def model_for(data, seed=0):
    return fresh_model(TINY.sizes, len(data.subjects), data.mean_neutral, seed)


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("name", ["ii-expression", "iii"])
def test_gradient_norms_are_those_of_one_backward_pass_a_term(name, batches, data, monkeypatch):
    monkeypatch.setattr(diagnosis, "BATCHES", batches)
    stage, settings = STAGES[name], LossSettings()
    model, schedule = model_for(data), TINY.schedule(stage)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    norms = diagnosis.gradient_norms(stage, model, data, schedule, settings, seed=4)
    epoch = data.batches(
        schedule.batch_size, schedule.augmentation, torch.Generator().manual_seed(4)
    )
    expected = {term: [] for term in norms}
    for batch in islice(epoch, batches):
        for term, values in expected.items():
            model.zero_grad(set_to_none=True)
            stage.loss(model.eval(), settings, batch)[term].backward()
            weights = [w.grad for w in model.expression.encoder.parameters() if w.grad is not None]
            values.append(sum(float((w**2).sum()) for w in weights) ** 0.5)
    for term, norm in norms.items():
        assert norm == pytest.approx(np.mean(expected[term]), rel=1e-3, abs=1e-9)
    assert norms["reconstruction exp"] > 0
    assert ("cross-over" in norms) == (name == "iii")
    unchanged = [torch.equal(before[key], tensor) for key, tensor in model.state_dict().items()]
    assert all(unchanged), "the model is only looked at"


def test_feature_movement_is_a_share_of_the_features_spread(data):
    before, after = model_for(data, 0), model_for(data, 1)
    old, new = (predict(model, data.clouds[data.test])[0] for model in (before, after))
    moved = sum(((a - b) ** 2).sum() for a, b in zip(new, old)) ** 0.5
    spread = sum(((a - old.mean(axis=0)) ** 2).sum() for a in old) ** 0.5
    found = diagnosis.feature_movement(before, after, data)
    assert found == pytest.approx(moved / spread, rel=1e-4)
    assert diagnosis.feature_movement(before, before, data) == 0
