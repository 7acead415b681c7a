"""A run: the bounds of its settings, what a table's row changes, and what names depend on."""

from dataclasses import replace

import pytest
import torch

from drfer.common.errors import DrferError
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.protocol import fields_of, protocol_of
from drfer.evaluation.rows import ROWS
from drfer.evaluation.run import LARGEST_SEED, Run
from drfer.evaluation.store import Store
from drfer.models.drfer import DrFER
from drfer.models.shipped import give_weights, load_model
from drfer.models.shipped import sizes as shipped_sizes
from drfer.training.data import DataSettings
from drfer.training.stages import STAGES

SMOKE_RUN = Run(PRESETS["smoke"], fold=0)


def changed_schedule(run, stage):
    schedule = replace(run.preset.schedule(STAGES[stage]), learning_rate=0.5)
    schedules = {**run.preset.schedules, stage: schedule}
    return replace(run, preset=replace(run.preset, schedules=schedules))


def changed_losses(**fields):
    return lambda run: replace(run, losses=replace(run.losses, **fields))


def changed_sizes(**fields):
    return lambda run: replace(
        run, preset=replace(run.preset, sizes=replace(run.preset.sizes, **fields))
    )


def changed_data(run, name, value):
    return replace(run, data=replace(run.data, **{name: value}))


ALL_STAGES = tuple(STAGES)
OTHER_DATA = {
    "input": "template",
    "carried": 0.5,
    "neutral_class": True,
    "wrong_labels": 0.1,
    "scaled_constants": True,
}
RUN_NUMBERS = ("fold", "seed", "repeat")
CHANGES = {
    "triplet": (changed_losses(triplet=False), ("ii-expression", "iii")),
    "classification": (changed_losses(classification=False), ("ii-expression", "iii")),
    "divergence": (changed_losses(divergence="kl"), ("ii-expression", "iii")),
    "mining": (changed_losses(mining="hard"), ("ii-expression", "iii")),
    "reduction": (
        changed_losses(reduction="mean"),
        ("i-fusion", "ii-expression", "ii-identity", "iii"),
    ),
    "fusion": (changed_losses(fusion=False), ("iii",)),
    "gaussian": (changed_sizes(gaussian_feature=True), ("ii-expression", "iii")),
    "skips": (changed_sizes(skips=False), ("i-fusion", "iii")),
    "contrastive": (
        changed_losses(contrastive=0.1),
        ("i-expression", "ii-expression", "iii", "control"),
    ),
    **{
        name: (lambda run, name=name, value=value: changed_data(run, name, value), ALL_STAGES)
        for name, value in OTHER_DATA.items()
    },
    "points": (changed_sizes(points=128), ALL_STAGES),
    "fold": (lambda run: replace(run, fold=1), ALL_STAGES),
    "repeat": (lambda run: replace(run, repeat=1), ALL_STAGES),
    "seed": (lambda run: replace(run, seed=1), ALL_STAGES),
    "posed": (lambda run: replace(run, posed=True), ALL_STAGES),
    "precision": (
        lambda run: replace(run, preset=replace(run.preset, precision="float64")),
        ALL_STAGES,
    ),
    **{
        f"rate of {stage}": (lambda run, stage=stage: changed_schedule(run, stage), (stage,))
        for stage in STAGES
    },
}


def downstream(stages):
    """The stages, and all that start from them."""
    found = set(stages)
    for stage in STAGES.values():
        if found & set(stage.parents):
            found.add(stage.name)
    return found


def test_every_field_of_the_data_settings_is_changed_once():
    assert OTHER_DATA.keys() == DataSettings.__dataclass_fields__.keys()


def test_no_two_folds_seeds_and_repeats_share_a_name(faces, tmp_path):
    runs = [replace(SMOKE_RUN, **{name: value}) for name in RUN_NUMBERS for value in range(3)]
    for stage in ("i-expression", "iii"):
        names = {Experiment(run, faces, Store(tmp_path)).name(stage) for run in runs}
        assert len(names) == 1 + 2 * len(RUN_NUMBERS)


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_changes_the_names_downstream_of_it_only(faces, tmp_path, change):
    function, readers = CHANGES[change]
    plain, changed = (
        Experiment(run, faces, Store(tmp_path)) for run in (SMOKE_RUN, function(SMOKE_RUN))
    )
    different = {stage for stage in STAGES if plain.name(stage) != changed.name(stage)}
    assert different == downstream(readers)


def test_other_faces_and_another_version_of_a_stage_have_other_names(faces, tmp_path, monkeypatch):
    def names(of_faces=faces):
        experiment = Experiment(SMOKE_RUN, of_faces, Store(tmp_path))
        return {stage: experiment.name(stage) for stage in STAGES}

    before = names()
    other = names(replace(faces, hash="of other faces"))
    assert all(before[stage] != other[stage] for stage in STAGES)
    monkeypatch.setitem(STAGES, "ii-identity", replace(STAGES["ii-identity"], version=99))
    later = names()
    assert {s for s in STAGES if before[s] != later[s]} == {"ii-identity", "iii", "head-iii"}


@pytest.mark.parametrize("what", MEASURES)
def test_the_name_of_a_measure_depends_on_its_version_seed_and_stages(
    faces, tmp_path, what, monkeypatch
):
    def name(run):
        return Experiment(run, faces, Store(tmp_path)).measure_name(what)

    names = [name(SMOKE_RUN), *(name(function(SMOKE_RUN)) for function, _ in CHANGES.values())]
    assert names[1:].count(names[0]) < len(CHANGES) / 2
    for change in ("seed", "fold", "repeat", "points", "posed", "rate of iii"):
        assert name(CHANGES[change][0](SMOKE_RUN)) != names[0], change
    assert name(CHANGES["rate of head-i"][0](SMOKE_RUN)) == names[0]
    monkeypatch.setitem(MEASURES, what, replace(MEASURES[what], version=99))
    assert name(SMOKE_RUN) != names[0]


def test_the_bounds_of_folds_and_seeds_are_said():
    for wrong, sentence in (
        ({"fold": 4}, "no fold 4: preset smoke has folds 0 to 3"),
        ({"fold": -1}, "no fold -1"),
        ({"seed": -1}, f"-1 is no seed; give one from 0 to {LARGEST_SEED}"),
        ({"seed": 2**31}, "2147483648 is no seed; give one from 0 to 2147483647"),
    ):
        with pytest.raises(DrferError, match=sentence):
            replace(SMOKE_RUN, **wrong)
    replace(SMOKE_RUN, fold=3, seed=LARGEST_SEED)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_changes_what_it_names_and_nothing_else(row):
    run, row = SMOKE_RUN.change(ROWS[row]), ROWS[row]
    for settings, plain, changes in (
        (run.losses, SMOKE_RUN.losses, row.losses),
        (run.preset.sizes, SMOKE_RUN.preset.sizes, row.sizes),
        (run.data, SMOKE_RUN.data, row.data),
    ):
        assert settings == replace(plain, **changes)
        assert all(getattr(plain, name) != value for name, value in changes.items())
    for stage in STAGES.values():
        plain, changed = SMOKE_RUN.preset.schedule(stage), run.preset.schedule(stage)
        assert changed.epochs == -(-plain.epochs * row.length // 1)
        augmentation = replace(plain.augmentation, **row.augmentation)
        expected = replace(plain, augmentation=augmentation, epochs=changed.epochs)
        assert changed == expected
    assert (run.fold, run.seed, run.repeat, run.posed) == (0, 0, 0, False)


def test_a_share_of_the_training_subjects_is_part_of_a_larger_one(faces):
    def split(share):
        protocol = replace(PRESETS["smoke"].protocol, train_share=share)
        return Run(replace(PRESETS["smoke"], protocol=protocol), fold=1).split(faces)

    whole, tested = SMOKE_RUN.split(faces)[0], split(1.0)[1]
    parts = [split(share)[0] for share in (0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [3, 5, 9] == [3, 5, len(whole)]
    assert set(parts[0]) < set(parts[1]) < set(parts[2])
    assert all(split(share)[1] == tested and not set(tested) & set(parts[2]) for share in (0.25, 1))
    quarter = replace(PRESETS["smoke"].protocol, train_share=0.25)
    assert quarter.suffix == "-share25" and quarter.overlap == 1.0, "3 are tested, 3 trained on"
    assert protocol_of(fields_of(quarter)) == quarter and "25 %" in quarter.note
    of_folds = [
        Run(replace(PRESETS["smoke"], protocol=quarter), fold=fold).split(faces)[0]
        for fold in range(4)
    ]
    assert len(set(map(tuple, of_folds))) == 4, "each fold trains on people of its own"
    assert "train_share" not in fields_of(PRESETS["smoke"].protocol)


def test_training_can_start_from_the_kits_model(faces, tmp_path):
    preset = replace(PRESETS["classroom"], protocol=PRESETS["smoke"].protocol)
    plain, started = (
        Experiment(Run(replace(preset, start=start), fold=0), faces, Store(tmp_path))
        for start in (None, "shipped")
    )
    assert all(plain.name(stage) != started.name(stage) for stage in STAGES)
    trained = load_model()[0].state_dict()
    for stage in ("i-expression", "i-fusion"):
        weights = started._trainer(STAGES[stage]).model.state_dict()
        assert all(torch.equal(weights[name], trained[name]) for name in trained)
        own = {name for name in weights.keys() - trained.keys() if "num_batches" not in name}
        assert own == {name for name in own if name.startswith("identity.classifier.")} != set()
    other = DrFER(preset.sizes, subjects=3)
    last = other.expression.classifier[-1].weight.clone()
    give_weights(other, same_classes=False)
    assert torch.equal(other.expression.classifier[-1].weight, last), "six other classes"
    assert shipped_sizes() == preset.sizes
    with pytest.raises(DrferError, match="other sizes"):
        give_weights(DrFER(PRESETS["smoke"].sizes, subjects=3))
