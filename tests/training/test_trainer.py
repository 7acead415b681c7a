"""The training loop: one that was killed and resumed ends like one that was not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_faces import (
    GAUSSIAN,
    ONE_BATCH,
    PAPER,
    SIZES,
    copied,
    model_for,
    trainer_of,
)

from drfer.common.errors import DrferError
from drfer.training.stages import STAGES, LossSettings, Schedule
from drfer.training.trainer import predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "stage, settings, sizes",
    [
        ("i-expression", PAPER, SIZES),
        ("ii-expression", LossSettings(divergence="js"), GAUSSIAN),
        ("iii", PAPER, SIZES),
        ("iii", LossSettings(classification=False), SIZES),
    ],
)
def test_a_resumed_training_ends_with_the_very_weights_of_one_in_one_go(
    stage, settings, sizes, data
):
    schedule = Schedule(epochs=4, learning_rate=1e-3, batch_size=10)
    whole = trainer_of(stage, data, settings, sizes, schedule)
    assert list(whole.epochs()) == whole.curves
    killed = trainer_of(stage, data, settings, sizes, schedule)
    for _ in range(2):
        killed.train_epoch()
    tensors, rest = killed.state()
    stored = copied(tensors), {**rest, "curves": list(rest["curves"])}
    torch.rand(7)  # the global generator is elsewhere when a training is taken up again
    resumed = trainer_of(stage, data, settings, sizes, schedule, model_seed=1)
    resumed.restore(*stored)
    assert resumed.epoch == 2
    assert len(list(resumed.epochs())) == 2
    assert resumed.curves == whole.curves
    assert resumed.epoch == whole.epoch == 4
    expected = whole.state()[0]
    assert expected.keys() == resumed.state()[0].keys()
    assert all(values.equal(expected[name]) for name, values in resumed.state()[0].items())


def test_the_loss_of_an_epoch_is_the_mean_over_its_scans(data, monkeypatch):
    trainer = trainer_of("i-expression", data, schedule=replace(ONE_BATCH, batch_size=10))
    values = iter([torch.tensor(value) for value in (1.0, 2.0, 3.0, 4.0)])
    monkeypatch.setattr(trainer, "step", lambda batch: {"loss": next(values)})
    assert trainer.train_epoch() == {"loss": pytest.approx((10 + 20 + 30 + 6 * 4) / 36)}


@pytest.mark.parametrize("final_rate", [1.0, 0.01])
def test_the_learning_rate_falls_along_a_cosine(data, final_rate):
    schedule = replace(ONE_BATCH, epochs=5, final_rate=final_rate)
    trainer = trainer_of("head-iii", data, schedule=schedule)
    rates = []
    for _ in trainer.epochs():
        rates += [group["lr"] for group in trainer.optimizer.param_groups]
    share = [1.0, 0.8535534, 0.5, 0.1464466, 0.0]  # (1 + cos(pi e / 4)) / 2
    expected = [1e-3 * (final_rate + (1 - final_rate) * each) for each in share]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_training_does_not_touch_the_global_random_numbers(data):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trainer_of("i-expression", data).train_epoch()
    assert torch.rand(2).equal(expected)


def test_epochs_and_seeds_draw_differently(data):
    no_learning = replace(ONE_BATCH, learning_rate=0.0)
    one, again, other = (trainer_of("ii-identity", data, schedule=no_learning) for _ in range(3))
    other.seed += 1
    for trainer in (one, one, again, other):
        trainer.train_epoch()
    assert one.curves[0] == again.curves[0] != other.curves[0]
    assert one.curves[0] != one.curves[1]


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_trained_parts_are_in_training_mode(stage, data):
    trainer = trainer_of(stage, data, sizes=GAUSSIAN)
    trainer.train_epoch()
    prefixes = tuple(f"{part}." for part in STAGES[stage].trains)
    for name, module in trainer.model.named_modules():
        if not list(module.children()):
            assert module.training == f"{name}.".startswith(prefixes), name


def test_a_fresh_model_starts_from_its_seed_and_near_the_mean_neutral_face(data):
    one, again, other = (model_for(data, seed=seed) for seed in (0, 0, 1))
    assert all(values.equal(again.state_dict()[name]) for name, values in one.state_dict().items())
    first_weights = [model.identity.encoder.whole.linears[0].weight for model in (one, other)]
    assert not first_weights[0].equal(first_weights[1])
    out = one.eval().disentangle(data.clouds[:3])
    for face in (
        out.expression_face,
        out.identity_face,
        out.expression_of_identity_face,
        out.fused_face,
    ):
        assert (face - data.mean_neutral).norm(dim=-1).max() < 0.1
    assert one.identity.classifier[-1].out_features == 3


def test_predictions_do_not_depend_on_the_batch(data):
    model = model_for(data)
    features, logits = predict(model, data.clouds, batch_size=48)
    assert features.shape == (52, 48)
    assert logits.shape == (52, 6)
    assert features.dtype == np.float32
    for found, expected in zip(predict(model, data.clouds, batch_size=5), (features, logits)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["i-expression", "iii"])
def test_fast_and_plain_forms_train_alike(stage, data, monkeypatch):
    """The same losses in each epoch, up to float32 rounding, which the steps between carry on."""

    def curves():
        trainer = trainer_of(stage, data)
        for _ in range(4):
            trainer.train_epoch()
        return [sum(epoch.values()) for epoch in trainer.curves]

    fast = curves()
    monkeypatch.setenv("DRFER_FAST", "0")
    assert curves() == pytest.approx(fast, rel=1e-3)


def test_a_training_whose_loss_is_no_number_stops_and_is_no_result(data):
    trainer = trainer_of("i-expression", data)
    with torch.no_grad():
        next(trainer.model.expression.classifier.parameters()).fill_(float("nan"))
    with pytest.raises(DrferError, match="no finite number after epoch 1"):
        trainer.train_epoch()
    assert trainer.curves == []


@pytest.mark.gpu
def test_the_gpu_trains(data):
    trainer = trainer_of("iii", data)
    trainer.train_epoch()
    assert np.isfinite(list(trainer.curves[0].values())).all()


@pytest.mark.gpu
@pytest.mark.parametrize("stage", STAGES)
def test_no_step_waits_for_the_gpu(stage, data):
    trainer = trainer_of(stage, data)
    trainer.switch_to_training()
    steps = data.batches(4, trainer.schedule.augmentation, torch.Generator())
    trainer.step(next(steps))  # the optimizer's state is made in the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in steps:
            trainer.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
