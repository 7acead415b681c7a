"""The stages: which weights each changes by which terms, and what its result depends on."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from random_faces import (
    GAUSSIAN,
    NO_AUGMENTATION,
    ONE_BATCH,
    PAPER,
    POINTS,
    SIZES,
    batches,
    copied,
    model_for,
    trainer_of,
)

from drfer.evaluation.experiment import Experiment
from drfer.evaluation.presets import Preset
from drfer.evaluation.protocol import Protocol
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.models.branch import ModelSizes
from drfer.training.losses import chamfer_distance
from drfer.training.stages import MODEL_SWITCHES, STAGES, LossSettings, Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

CHANGED = {
    "i-expression": ["expression.encoder", "expression.classifier"],
    "i-identity": ["identity.encoder", "identity.classifier"],
    "i-fusion": ["fusion"],
    "ii-expression": ["expression"],
    "ii-identity": ["identity.encoder", "identity.decoder"],
    "iii": ["expression", "identity.encoder", "identity.decoder", "fusion"],
    "head-i": ["expression.classifier"],
    "head-ii": ["expression.classifier"],
    "head-iii": ["expression.classifier"],
    "control": ["expression.encoder", "expression.classifier"],
}
EXPRESSION_TERMS = {"reconstruction exp", "triplet", "classification"}
TERMS = {
    "i-expression": {"classification"},
    "i-identity": {"classification"},
    "i-fusion": {"reconstruction"},
    "ii-expression": EXPRESSION_TERMS,
    "ii-identity": {"reconstruction id"},
    "iii": EXPRESSION_TERMS | {"reconstruction id", "cross-over", "fusion"},
    **dict.fromkeys(("head-i", "head-ii", "head-iii", "control"), {"classification"}),
}


def fixed_batch(data, schedule=ONE_BATCH):
    return next(batches(data, schedule))


# -------------------------------------------------------------------------------- weights and terms


def changed_by_one_step(trainer):
    """Names of the weights and buffers of the whole model that one step changes."""
    before = copied(trainer.model.state_dict())
    trainer.train_epoch()
    return {
        name
        for name, values in trainer.model.state_dict().items()
        if not values.equal(before[name])
    }


def parts_of(model, *parts):
    """Names of all weights and buffers of some parts.

    Without biases that a batch norm takes away again at once.
    """
    cancelled = {"expression.classifier.0.bias", "identity.classifier.0.bias"}
    prefixes = tuple(f"{part}." for part in parts)
    return {name for name in model.state_dict() if name.startswith(prefixes)} - cancelled


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sizes", [SIZES, replace(SIZES, skips=False)])
def test_a_step_changes_the_stages_weights_and_no_others(stage, sizes, data):
    assert list(STAGES[stage].trains) == CHANGED[stage]
    trainer = trainer_of(stage, data, sizes=sizes)
    changed = changed_by_one_step(trainer)
    whole = parts_of(trainer.model, "expression", "identity", "fusion")
    assert changed & whole == parts_of(trainer.model, *CHANGED[stage])
    assert all(name.startswith(STAGES[stage].trains) for name in changed)
    assert trainer.curves[0].keys() == TERMS[stage]


@pytest.mark.parametrize(
    "stage, settings, sizes, without",
    [
        ("ii-expression", LossSettings(classification=False), SIZES, ["expression.classifier"]),
        ("iii", LossSettings(classification=False), SIZES, ["expression.classifier"]),
        ("iii", LossSettings(fusion=False), SIZES, ["fusion"]),
        ("ii-expression", LossSettings(divergence="kl"), GAUSSIAN, []),
        ("iii", LossSettings(divergence="js"), GAUSSIAN, []),
    ],
)
def test_a_step_does_not_change_what_a_missing_term_would_have_trained(
    stage, settings, sizes, without, data
):
    trainer = trainer_of(stage, data, settings, sizes)
    changed = changed_by_one_step(trainer)
    expected = parts_of(trainer.model, *CHANGED[stage]) - parts_of(trainer.model, *without)
    assert changed & parts_of(trainer.model, "expression", "identity", "fusion") == expected


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_a_fixed_batch(stage, data):
    trainer = trainer_of(stage, data)
    batch = fixed_batch(data, replace(ONE_BATCH, augmentation=NO_AUGMENTATION))
    trainer.switch_to_training()
    torch.manual_seed(0)
    sums = [sum(trainer.step(batch).values()).item() for _ in range(30)]
    # two classifiers drop 40 % of their units at random, so means of several steps are compared
    assert np.mean(sums[-5:]) < 0.9 * np.mean(sums[:5])


@pytest.mark.parametrize("stage", ["ii-expression", "iii"])
@pytest.mark.parametrize(
    "settings, sizes, added, dropped",
    [
        (PAPER, SIZES, set(), set()),
        (LossSettings(triplet=False), SIZES, set(), {"triplet"}),
        (LossSettings(classification=False), SIZES, set(), {"classification"}),
        (
            LossSettings(triplet=False, classification=False),
            SIZES,
            set(),
            {"triplet", "classification"},
        ),
        (LossSettings(divergence="kl"), GAUSSIAN, {"divergence"}, set()),
        (LossSettings(divergence="js"), GAUSSIAN, {"divergence"}, set()),
        (LossSettings(fusion=False), SIZES, set(), {"fusion"}),
    ],
)
def test_an_ablation_adds_or_drops_its_term_and_does_not_touch_the_others(
    stage, settings, sizes, added, dropped, data
):
    model, batch = model_for(data, sizes).eval(), fixed_batch(data)
    whole, ablated = (STAGES[stage].loss(model, chosen, batch) for chosen in (PAPER, settings))
    assert whole.keys() == TERMS[stage]
    assert ablated.keys() == (whole.keys() | added) - dropped
    for name in whole.keys() & ablated.keys():
        assert ablated[name].equal(whole[name]), name


def test_the_other_stages_have_their_one_term_whatever_the_settings(data):
    settings = LossSettings(triplet=False, classification=False, divergence="kl", fusion=False)
    model, batch = model_for(data, GAUSSIAN).eval(), fixed_batch(data)
    for stage in ("i-expression", "i-identity", "i-fusion", "ii-identity"):
        assert STAGES[stage].loss(model, settings, batch).keys() == TERMS[stage]


def test_weights_of_terms_are_those_of_the_settings(data):
    model, batch = model_for(data, GAUSSIAN).eval(), fixed_batch(data)

    def terms(**settings):
        return STAGES["iii"].loss(model, LossSettings(divergence="kl", **settings), batch)

    once, twice = terms(), terms(fusion_weight=0.2, divergence_weight=0.002)
    for name in once:
        factor = 2 if name in ("fusion", "divergence") else 1
        torch.testing.assert_close(twice[name], once[name] * factor)
    mean = terms(reduction="mean")
    for name in ("reconstruction exp", "reconstruction id", "cross-over", "fusion"):
        torch.testing.assert_close(mean[name] * POINTS, once[name])


def test_stage_terms_compare_with_the_targets_of_their_equations(data):
    model, batch = model_for(data).eval(), fixed_batch(data)
    terms, out = STAGES["iii"].loss(model, PAPER, batch), model.disentangle(batch.cloud)
    expected = {
        "reconstruction exp": chamfer_distance(out.expression_face, batch.mean_expression),
        "reconstruction id": chamfer_distance(out.identity_face, batch.own_neutral),
        "cross-over": chamfer_distance(out.identity_of_expression_face, batch.mean_neutral)
        + chamfer_distance(out.expression_of_identity_face, batch.mean_neutral),
        "fusion": 0.1 * chamfer_distance(out.fused_face, batch.scan),
    }
    for name, values in expected.items():
        torch.testing.assert_close(terms[name], values.mean())
    fused = model.fusion(batch.mean_expression, batch.own_neutral_cloud)
    alone = STAGES["i-fusion"].loss(model, PAPER, batch)["reconstruction"]
    torch.testing.assert_close(alone, chamfer_distance(fused, batch.scan).mean())


# ------------------------------------------------------------------------- what a result depends on

LOSS_FIELDS = [field.name for field in fields(LossSettings)]
SWITCHES = sorted(MODEL_SWITCHES)
OTHER_VALUES = {"divergence": "kl", "mining": "hard", "reduction": "mean", "contrastive": 0.1}
"""Of the settings that are words or 0; the others are negated or doubled."""


class RecordingSettings(LossSettings):
    """Settings that remember which of their fields were read."""

    def __getattribute__(self, name):
        if name in LOSS_FIELDS:
            read = object.__getattribute__(self, "__dict__").setdefault("_read", set())
            read.add(name)
        return object.__getattribute__(self, name)


def other_value(field):
    """A value that a field of the loss settings does not have by default."""
    default = getattr(PAPER, field)
    if field in OTHER_VALUES:
        return OTHER_VALUES[field]
    return not default if isinstance(default, bool) else 2 * default


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_reads_the_settings_that_its_stage_names_and_no_others(stage, data):
    """All of them over the settings of all ablations, since a missing term reads nothing."""
    read = set()
    for changes in ({}, {"divergence": "kl"}, {"divergence": "js"}, {"fusion": False}):
        sizes = GAUSSIAN if "divergence" in changes else SIZES
        settings = RecordingSettings(**changes)
        STAGES[stage].loss(model_for(data, sizes), settings, fixed_batch(data))
        read |= vars(settings).get("_read", set())
    assert read == STAGES[stage].reads & set(LOSS_FIELDS)


def test_the_recording_settings_record():
    settings = RecordingSettings(margin=0.5)
    assert settings.margin == 0.5
    assert settings.mining == "semi-hard"
    assert vars(settings)["_read"] == {"margin", "mining"}


def shapes_of(model, stages):
    """Shapes of all weights that some stages train."""
    prefixes = tuple(f"{part}." for stage in stages for part in STAGES[stage].trains)
    weights = model.state_dict().items()
    return {name: tensor.shape for name, tensor in weights if name.startswith(prefixes)}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_switches_of_the_sizes_that_shape_its_weights(stage, switch, data):
    """Its own weights, and those that it starts from."""
    changed = replace(SIZES, **{switch: not getattr(SIZES, switch)})
    involved = (stage, *STAGES[stage].parents)
    plain, other = (shapes_of(model_for(data, sizes), involved) for sizes in (SIZES, changed))
    assert (plain != other) == (switch in STAGES[stage].reads)


def test_whatever_a_stage_says_it_reads_is_there():
    known = {*LOSS_FIELDS, *(field.name for field in fields(ModelSizes))}
    for stage in STAGES.values():
        assert stage.reads <= known, stage.name


def tiny_run(sizes=SIZES, losses=PAPER):
    schedules = dict.fromkeys(STAGES, Schedule(learning_rate=1e-3, batch_size=18))
    protocol = Protocol(subjects=4, folds=4)
    preset = Preset(
        "tiny", sizes, protocol, dataset_subjects=4, precision="float32", schedules=schedules
    )
    return Run(preset, fold=0, losses=losses)


@pytest.mark.parametrize("field", [*LOSS_FIELDS, *SWITCHES])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_another_name_if_what_it_reads_changes_and_only_then(
    stage, field, faces, tmp_path
):
    if field in SWITCHES:
        changed = tiny_run(replace(SIZES, **{field: not getattr(SIZES, field)}))
    else:
        changed = tiny_run(losses=replace(PAPER, **{field: other_value(field)}))
    store = Store(tmp_path)
    names = [Experiment(run, faces, store).name(stage) for run in (tiny_run(), changed)]

    def reads(name):
        return field in STAGES[name].reads or any(map(reads, STAGES[name].parents))

    assert (names[0] != names[1]) == reads(stage)


@pytest.mark.parametrize("ablated", [GAUSSIAN, replace(SIZES, skips=False)])
@pytest.mark.parametrize("stage", ["i-expression", "i-identity", "i-fusion", "ii-identity"])
def test_runs_that_share_a_result_would_each_have_made_the_same(stage, ablated, faces, tmp_path):
    made = {}
    for number, sizes in enumerate((SIZES, ablated)):
        experiment = Experiment(tiny_run(sizes), faces, Store(tmp_path / str(number)))
        experiment.train(stage)
        made.setdefault(experiment.name(stage), []).append(experiment.store)
    for name, stores in made.items():
        first, *others = (store.load(name)[0] for store in stores)
        assert all(weights[key].equal(first[key]) for weights in others for key in first)


def test_parents_come_before_their_children():
    order = list(STAGES)
    for stage in STAGES.values():
        assert all(order.index(parent) < order.index(stage.name) for parent in stage.parents)


def test_no_stage_takes_anothers_seed(faces, tmp_path, monkeypatch):
    seeds = {name: stage.seed for name, stage in STAGES.items()}
    assert seeds == {
        "i-expression": 0,
        "i-identity": 1,
        "i-fusion": 2,
        "ii-expression": 3,
        "ii-identity": 4,
        "iii": 5,
        "head-i": 6,
        "head-ii": 7,
        "head-iii": 8,
        "control": 9,
    }
    assert max(seeds.values()) < 100, "the seeds of the next run begin there"
    experiment = Experiment(tiny_run(), faces, Store(tmp_path))
    name = experiment.name("i-fusion")
    assert experiment._trainer(STAGES["i-fusion"]).seed == 2
    monkeypatch.setitem(STAGES, "i-fusion", replace(STAGES["i-fusion"], seed=20))
    later = Experiment(replace(tiny_run(), seed=3), faces, Store(tmp_path))
    assert later._trainer(STAGES["i-fusion"]).seed == 320
    assert Experiment(tiny_run(), faces, Store(tmp_path)).name("i-fusion") != name


def test_the_control_takes_as_many_steps_as_the_stages_train_the_branch():
    scans = 54 * 12
    for length, epochs in STAGES["control"].epochs.items():
        steps = sum(
            STAGES[stage].epochs[length] * scans / STAGES[stage].schedule.batch_size
            for stage in ("i-expression", "ii-expression", "iii")
        )
        assert abs(epochs * scans / 24 - steps) <= scans / 24, length
