"""What the later stages do to the expression branch, against the loops that say the same."""

import pytest
import torch
from driver import TINY

from drfer.evaluation import diagnosis
from drfer.training.stages import STAGES, FoldData, LossSettings, fresh_model, predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(faces):
    return FoldData(faces, faces.subjects[:3], TINY.sizes.points)


@pytest.mark.parametrize("stage", ["ii-expression", "iii"])
def test_gradient_norms_are_those_of_one_backward_pass_a_term(stage, data, monkeypatch):
    monkeypatch.setattr(diagnosis, "BATCHES", 1)
    model, training, settings = (
        fresh_model(TINY.sizes, data, 0),
        TINY.training(stage),
        LossSettings(),
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    norms = diagnosis.gradient_norms(stage, model, data, training, settings, seed=4)
    batch = next(data.batches(training, torch.Generator().manual_seed(4)))
    for name, norm in norms.items():
        model.zero_grad(set_to_none=True)
        STAGES[stage].loss(model.eval(), settings, batch)[name].backward()
        weights = [w.grad for w in model.expression.encoder.parameters() if w.grad is not None]
        assert norm == pytest.approx(
            sum(float((w**2).sum()) for w in weights) ** 0.5, rel=1e-3, abs=1e-9
        )
    assert norms["reconstruction exp"] > 0
    assert ("cross-over" in norms) == (stage == "iii")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), (
        "only looked at"
    )


def test_feature_movement_is_a_share_of_the_features_spread(data):
    before, after = fresh_model(TINY.sizes, data, 0), fresh_model(TINY.sizes, data, 1)
    old, new = (predict(model, data.clouds[data.test])[0] for model in (before, after))
    moved = sum(((a - b) ** 2).sum() for a, b in zip(new, old)) ** 0.5
    spread = sum(((a - old.mean(axis=0)) ** 2).sum() for a in old) ** 0.5
    assert diagnosis.feature_movement(before, after, data) == pytest.approx(
        moved / spread, rel=1e-4
    )
    assert diagnosis.feature_movement(before, before, data) == 0
