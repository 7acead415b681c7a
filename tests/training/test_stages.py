"""The training stages: what goes in, which weights each changes by which terms, and that a resumed one is the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation.experiment import Preset, Run, run_stage
from drfer.evaluation.protocol import Protocol, protocol_keys
from drfer.evaluation.store import Store
from drfer.models.branch import ModelSizes
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes
from drfer.preprocessing.faceset import FaceSet, Settings
from drfer.training.losses import chamfer_distance
from drfer.training.stages import (
    STAGES,
    Augmentation,
    FoldData,
    LossSettings,
    Trainer,
    Training,
    drop_points,
    fresh_model,
    predict,
)

POINTS = 64
SUBJECTS = ["F0001", "F0002", "M0001", "M0002"]
TEST_SUBJECT = "F0002"
"""in the middle, so that the numbers of the subjects after it shift"""
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
WHOLE_SET = Training(epochs=1, learning_rate=1e-3, batch_size=36)


pytestmark = pytest.mark.usefixtures("one_thread")


def random_faces(seed=0):
    """Four subjects, seven kinds of faces: each scan a base, its subject's and its expression's shift, and noise."""
    generator = np.random.default_rng(seed)
    keys = protocol_keys(SUBJECTS, Protocol())
    base = generator.uniform(-0.7, 0.7, size=(80, 3))
    of_subject = {subject: generator.normal(scale=0.1, size=(80, 3)) for subject in SUBJECTS}
    of_expression = {
        name: generator.normal(scale=0.1, size=(80, 3)) for name in (*EXPRESSIONS, NEUTRAL)
    }
    scans = [base + of_subject[key.subject] + of_expression[key.expression] for key in keys]
    vertices = (np.stack(scans) + generator.normal(scale=0.02, size=(len(keys), 80, 3))).astype(
        np.float32
    )
    missing = generator.random(size=(len(keys), 80)) < 0.2
    missing[:, 5] = True  # a vertex that nobody has
    missing[::2, 7] = True  # and one that about half of them have
    return FaceSet(
        keys=keys,
        clouds=vertices[:, np.random.default_rng(1).permutation(80)[:70]],
        vertices=vertices,
        missing=missing,
        residuals=np.zeros(len(keys)),
        doubtful=np.zeros(len(keys), bool),
        poses=np.tile(np.eye(4), (len(keys), 1, 1)),
        hash="random",
        settings=Settings(points=70, template_points=80),
    )


@pytest.fixture(scope="module")
def faces():
    return random_faces()


@pytest.fixture(scope="module")
def data(faces):
    return FoldData(faces, [TEST_SUBJECT], POINTS)


def fixed_batch(data, training=WHOLE_SET):
    return next(data.batches(training, torch.Generator().manual_seed(0)))


def trainer_of(stage, data, settings=PAPER, sizes=SIZES, training=WHOLE_SET, model_seed=0):
    return Trainer(
        STAGES[stage], fresh_model(sizes, data, model_seed), data, training, settings, 5, "float32"
    )


def copied(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def numbered_clouds(batch, points):
    """Clouds whose every point tells its number: (number, cloud, 1)."""
    number = torch.arange(points).float().expand(batch, -1)
    return torch.stack(
        [number, torch.arange(batch)[:, None].expand(-1, points), torch.ones(batch, points)], dim=-1
    )


def test_dropped_points_become_the_first_and_the_others_move_to_the_front():
    clouds = numbered_clouds(50, 40)
    dropped = drop_points(clouds, 0.8, torch.Generator().manual_seed(0))
    assert dropped.shape == clouds.shape and dropped[..., 1:].equal(clouds[..., 1:])
    for numbers in dropped[..., 0].int().tolist():
        stayed = 1 + sum(number > 0 for number in numbers)
        assert (
            numbers[0] == 0
            and numbers[:stayed] == sorted(set(numbers))
            and not any(numbers[stayed:])
        )


def test_without_dropout_the_cloud_stays_as_it_is():
    clouds = torch.randn(3, 40, 3)
    assert drop_points(clouds, 0.0, torch.Generator()).equal(clouds)


@pytest.mark.parametrize("largest", [0.3, 0.875])
def test_the_share_of_dropped_points_is_uniform_up_to_the_largest(largest):
    clouds = numbered_clouds(4000, 400)
    dropped = drop_points(clouds, largest, torch.Generator().manual_seed(0))
    shares = 1 - (dropped[:, :, 0] > 0).sum(dim=1) / 399
    assert abs(shares.mean().item() - largest / 2) < 0.01
    quarters = torch.histc(shares, 4, 0, largest) / 4000
    assert (quarters - 0.25).abs().max() < 0.04 and shares.max() < largest + 0.1


def test_the_generator_alone_decides_what_is_dropped():
    clouds = torch.randn(5, 40, 3)
    first, again, other = (
        drop_points(clouds, 0.5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.equal(again) and not first.equal(other)


def test_a_fold_tests_on_its_test_subjects_and_trains_on_the_others(faces, data):
    for members, neutral, tested in (
        (data.train, False, False),
        (data.test, False, True),
        (data.test_neutral, True, True),
    ):
        expected = [
            number
            for number, key in enumerate(faces.keys)
            if (key.expression == NEUTRAL) == neutral and (key.subject == TEST_SUBJECT) == tested
        ]
        assert members.tolist() == expected
    assert data.subjects == ["F0001", "M0001", "M0002"]
    for number in data.train:
        key = faces.keys[number]
        assert EXPRESSIONS[data.labels[number]] == key.expression
        assert data.subjects[data.subject_numbers[number]] == key.subject
    assert torch.from_numpy(faces.clouds[:, :POINTS]).equal(data.clouds.cpu())


def test_no_test_subject_is_in_any_target_or_batch(faces):
    tested = np.array([key.subject == TEST_SUBJECT for key in faces.keys])[:, None, None]
    poisoned = replace(
        faces,
        clouds=np.where(tested, np.nan, faces.clouds),
        vertices=np.where(tested, np.nan, faces.vertices),
    )
    data = FoldData(poisoned, [TEST_SUBJECT], POINTS)
    for batch in data.batches(replace(WHOLE_SET, batch_size=10), torch.Generator().manual_seed(0)):
        for name, values in vars(batch).items():
            assert values.isfinite().all(), name
    assert data.clouds[data.test].isnan().all()


def mean_by_loops(faces, members):
    """The mean of the first vertices that at least half of the scans have, over those that have them."""
    face = []
    for vertex in range(80):
        seen = [
            faces.vertices[scan, vertex].astype(np.float64)
            for scan in members
            if not faces.missing[scan, vertex]
        ]
        if 2 * len(seen) >= len(members) and len(face) < POINTS:
            face.append(sum(seen) / len(seen))
    return torch.tensor(np.array(face)).float()


def test_mean_faces_are_those_of_the_loops(faces, data):
    for label, expression in enumerate(EXPRESSIONS):
        members = [i for i in data.train if faces.keys[i].expression == expression]
        torch.testing.assert_close(data.mean_expression[label].cpu(), mean_by_loops(faces, members))
    neutrals = [
        i
        for i, key in enumerate(faces.keys)
        if key.expression == NEUTRAL and key.subject != TEST_SUBJECT
    ]
    torch.testing.assert_close(data.mean_neutral.cpu(), mean_by_loops(faces, neutrals))


def test_each_subject_has_its_own_neutral_whatever_the_order_of_the_scans(faces):
    order = np.random.default_rng(2).permutation(len(faces))
    shuffled = replace(
        faces,
        keys=[faces.keys[i] for i in order],
        clouds=faces.clouds[order],
        vertices=faces.vertices[order],
        missing=faces.missing[order],
    )
    for scans in (faces, shuffled):
        data = FoldData(scans, [TEST_SUBJECT], POINTS)
        for number, subject in enumerate(data.subjects):
            scan = next(
                i
                for i, key in enumerate(scans.keys)
                if key.subject == subject and key.expression == NEUTRAL
            )
            assert (
                data.own_neutral[number].cpu().equal(torch.from_numpy(scans.clouds[scan, :POINTS]))
            )


def test_a_training_subject_without_a_neutral_scan_is_refused(faces):
    kept = [i for i, key in enumerate(faces.keys) if str(key) != "F0001 neutral 0"]
    incomplete = replace(
        faces,
        keys=[faces.keys[i] for i in kept],
        clouds=faces.clouds[kept],
        vertices=faces.vertices[kept],
        missing=faces.missing[kept],
    )
    with pytest.raises(DrferError):
        FoldData(incomplete, [TEST_SUBJECT], POINTS)


def test_an_epoch_is_every_training_scan_once_in_an_order_of_its_own(data):
    def scans(seed, batch_size):
        training = Training(1, 1e-3, batch_size, augmentation=NO_AUGMENTATION)
        batches = list(data.batches(training, torch.Generator().manual_seed(seed)))
        assert all(len(batch.cloud) == batch_size for batch in batches[:-1])
        seen = torch.cat([batch.whole for batch in batches])
        return [(seen[i] == data.clouds).all(dim=(1, 2)).nonzero().item() for i in range(len(seen))]

    assert sorted(scans(0, 10)) == data.train.tolist()
    assert scans(0, 10) == scans(0, 10) != scans(1, 10)
    assert len(scans(0, 7)) == 35, "a last batch of one scan is left out"


def test_a_batch_holds_each_scan_with_its_targets_all_scaled_alike(data):
    members = torch.from_numpy(data.train[[3, 0, 30, 17, 25]]).to(data.clouds.device)
    batch = data._batch(members, Augmentation(0.5, (0.8, 1.25)), torch.Generator().manual_seed(1))
    labels, subjects = data.labels[members], data.subject_numbers[members]
    assert batch.expression.equal(labels) and batch.subject.equal(subjects)
    scale = batch.whole.norm(dim=(1, 2)) / data.clouds[members].norm(dim=(1, 2))
    assert scale.min() >= 0.8 and scale.max() <= 1.25 and len(set(scale.tolist())) == 5
    for name, original in (
        ("whole", data.clouds[members]),
        ("mean_expression", data.mean_expression[labels]),
        ("own_neutral", data.own_neutral[subjects]),
        ("mean_neutral", data.mean_neutral.expand(5, -1, -1)),
    ):
        torch.testing.assert_close(getattr(batch, name), original * scale[:, None, None], msg=name)
    assert not batch.cloud.equal(batch.whole)
    assert (chamfer_distance(batch.cloud, batch.cloud) == 0).all()
    for cloud, whole in zip(batch.cloud.tolist(), batch.whole.tolist()):
        assert cloud[0] == whole[0] and all(point in whole for point in cloud)


def test_scales_are_uniform_in_their_range(data):
    members = torch.from_numpy(data.train).repeat(50).to(data.clouds.device)
    batch = data._batch(members, Augmentation(0.0, (0.8, 1.25)), torch.Generator().manual_seed(1))
    scale = batch.whole[:, 0, 0] / data.clouds[members][:, 0, 0]
    assert (torch.histc(scale, 3, 0.8, 1.25) / len(members) - 1 / 3).abs().max() < 0.04


def test_without_augmentation_the_scans_go_in_as_they_are(data):
    members = torch.from_numpy(data.train[:4]).to(data.clouds.device)
    batch = data._batch(members, NO_AUGMENTATION, torch.Generator())
    assert batch.cloud.equal(batch.whole) and batch.whole.equal(data.clouds[members])


CHANGED = {
    "i-expression": ["expression.encoder", "expression.classifier"],
    "i-identity": ["identity.encoder", "identity.classifier"],
    "i-fusion": ["fusion"],
    "ii-expression": ["expression"],
    "ii-identity": ["identity.encoder", "identity.decoder"],
    "iii": ["expression", "identity.encoder", "identity.decoder", "fusion"],
    "head": ["expression.classifier"],
    "ii-control": ["expression.encoder", "expression.classifier"],
    "iii-control": ["expression.encoder", "expression.classifier"],
}
EXPRESSION_TERMS = {"reconstruction exp", "triplet", "classification"}
TERMS = {
    "i-expression": {"classification"},
    "i-identity": {"classification"},
    "i-fusion": {"reconstruction"},
    "ii-expression": EXPRESSION_TERMS,
    "ii-identity": {"reconstruction id"},
    "iii": EXPRESSION_TERMS | {"reconstruction id", "cross-over", "fusion"},
    **dict.fromkeys(("head", "ii-control", "iii-control"), {"classification"}),
}


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
    """Names of all weights and buffers of some parts, but for biases that a batch norm takes away again at once."""
    cancelled = {"expression.classifier.0.bias", "identity.classifier.0.bias"}
    return {
        name for name in model.state_dict() if name.startswith(tuple(f"{part}." for part in parts))
    } - cancelled


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sizes", [SIZES, replace(SIZES, skips=False)])
def test_a_step_changes_the_stages_weights_and_no_others(stage, sizes, data):
    trainer = trainer_of(stage, data, sizes=sizes)
    changed = changed_by_one_step(trainer)
    assert changed & parts_of(trainer.model, "expression", "identity", "fusion") == parts_of(
        trainer.model, *CHANGED[stage]
    )
    assert all(name.startswith(STAGES[stage].trained) for name in changed)
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
def test_a_step_leaves_alone_what_a_missing_term_would_have_trained(
    stage, settings, sizes, without, data
):
    trainer = trainer_of(stage, data, settings, sizes)
    changed = changed_by_one_step(trainer)
    expected = parts_of(trainer.model, *CHANGED[stage]) - parts_of(trainer.model, *without)
    assert changed & parts_of(trainer.model, "expression", "identity", "fusion") == expected


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_a_fixed_batch(stage, data):
    trainer = trainer_of(stage, data)
    batch = fixed_batch(data, replace(WHOLE_SET, augmentation=NO_AUGMENTATION))
    for part in trainer.parts.values():
        part.train()
    torch.manual_seed(0)
    sums = [sum(trainer._step(batch).values()).item() for _ in range(30)]
    # two classifiers drop 40% of their units at random: compare means of several steps
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
def test_an_ablation_adds_or_drops_its_term_and_leaves_the_others(
    stage, settings, sizes, added, dropped, data
):
    model, batch = fresh_model(sizes, data, 0).eval(), fixed_batch(data)
    whole, ablated = (STAGES[stage].loss(model, chosen, batch) for chosen in (PAPER, settings))
    assert whole.keys() == TERMS[stage]
    assert ablated.keys() == (whole.keys() | added) - dropped
    for name in whole.keys() & ablated.keys():
        assert ablated[name].equal(whole[name]), name


def test_the_other_stages_have_their_one_term_whatever_the_settings(data):
    settings = LossSettings(triplet=False, classification=False, divergence="kl", fusion=False)
    model, batch = fresh_model(GAUSSIAN, data, 0).eval(), fixed_batch(data)
    for stage in ("i-expression", "i-identity", "i-fusion", "ii-identity"):
        assert STAGES[stage].loss(model, settings, batch).keys() == TERMS[stage]


def test_weights_of_terms_are_those_of_the_settings(data):
    model, batch = fresh_model(GAUSSIAN, data, 0).eval(), fixed_batch(data)

    def terms(**settings):
        return STAGES["iii"].loss(model, LossSettings(divergence="kl", **settings), batch)

    once, twice = terms(), terms(fusion_weight=0.2, divergence_weight=0.002)
    for name in once:
        torch.testing.assert_close(
            twice[name], once[name] * (2 if name in ("fusion", "divergence") else 1)
        )
    mean = terms(reduction="mean")
    for name in ("reconstruction exp", "reconstruction id", "cross-over", "fusion"):
        torch.testing.assert_close(mean[name] * POINTS, once[name])


def test_stage_terms_compare_with_the_targets_of_their_equations(data):
    model, batch = fresh_model(SIZES, data, 0).eval(), fixed_batch(data)
    terms, out = STAGES["iii"].loss(model, PAPER, batch), model.disentangle(batch.cloud)
    expected = {
        "reconstruction exp": chamfer_distance(out.expression_face, batch.mean_expression),
        "reconstruction id": chamfer_distance(out.identity_face, batch.own_neutral),
        "cross-over": chamfer_distance(out.identity_of_expression_face, batch.mean_neutral)
        + chamfer_distance(out.expression_of_identity_face, batch.mean_neutral),
        "fusion": 0.1 * chamfer_distance(out.fused_face, batch.whole),
    }
    for name, values in expected.items():
        torch.testing.assert_close(terms[name], values.mean())
    fused = model.fusion(batch.mean_expression, batch.own_neutral)
    alone = STAGES["i-fusion"].loss(model, PAPER, batch)["reconstruction"]
    torch.testing.assert_close(alone, chamfer_distance(fused, batch.whole).mean())


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
    training = Training(epochs=4, learning_rate=1e-3, batch_size=10)
    whole = trainer_of(stage, data, settings, sizes, training)
    for _ in range(4):
        whole.train_epoch()
    killed = trainer_of(stage, data, settings, sizes, training)
    for _ in range(2):
        killed.train_epoch()
    tensors, rest = killed.state()
    stored = copied(tensors), {"curves": list(rest["curves"]), "seconds": rest["seconds"]}
    torch.rand(7)  # the global generator stands elsewhere when a training is taken up again
    resumed = trainer_of(stage, data, settings, sizes, training, model_seed=1)
    resumed.restore(*stored)
    assert resumed.epoch == 2
    for _ in range(2):
        resumed.train_epoch()
    assert resumed.curves == whole.curves and resumed.epoch == 4
    there = whole.state()[0]
    assert there.keys() == resumed.state()[0].keys()
    assert all(values.equal(there[name]) for name, values in resumed.state()[0].items())


def test_training_leaves_the_global_random_numbers_alone(data):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trainer_of("i-expression", data).train_epoch()
    assert torch.rand(2).equal(expected)


def test_epochs_and_seeds_draw_differently(data):
    standing = replace(WHOLE_SET, learning_rate=0.0)
    one, again, other = (trainer_of("ii-identity", data, training=standing) for _ in range(3))
    other.seed += 1
    for trainer in (one, one, again, other):
        trainer.train_epoch()
    assert one.curves[0] == again.curves[0] != other.curves[0] and one.curves[0] != one.curves[1]


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_trained_parts_are_in_training_mode(stage, data):
    trainer = trainer_of(stage, data, sizes=GAUSSIAN)
    trainer.train_epoch()
    for name, module in trainer.model.named_modules():
        if not list(module.children()):
            assert module.training == f"{name}.".startswith(
                tuple(f"{part}." for part in CHANGED[stage])
            ), name


def test_a_fresh_model_starts_from_its_seed_and_near_the_mean_neutral_face(data):
    one, again, other = (fresh_model(SIZES, data, seed) for seed in (0, 0, 1))
    assert all(values.equal(again.state_dict()[name]) for name, values in one.state_dict().items())
    assert not one.identity.encoder.whole.linears[0].weight.equal(
        other.identity.encoder.whole.linears[0].weight
    )
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
    model = fresh_model(SIZES, data, 0)
    features, logits = predict(model, data.clouds, batch_size=48)
    assert features.shape == (52, 48) and logits.shape == (52, 6) and features.dtype == np.float32
    for here, there in zip(predict(model, data.clouds, batch_size=5), (features, logits)):
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ablated", [GAUSSIAN, replace(SIZES, skips=False)])
@pytest.mark.parametrize("stage", ["i-expression", "i-identity", "i-fusion", "ii-identity"])
def test_runs_that_share_a_result_would_each_have_made_the_same(stage, ablated, faces, tmp_path):
    trainings = dict.fromkeys(STAGES, Training(1, 1e-3, 18))
    made = {}
    for sizes in (SIZES, ablated):
        run = Run(Preset("tiny", sizes, trainings, Protocol(4, 4), 4, "float32"), fold=0)
        store = Store(tmp_path / str(len(made)))
        run_stage(run, stage, faces, FoldData(faces, run.test_subjects(faces), POINTS), store)
        made.setdefault(run.result_name(stage, faces), []).append(store)
    for name, stores in made.items():
        first, *others = (store.load(name)[0] for store in stores)
        assert all(weights[key].equal(first[key]) for weights in others for key in first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_holds_the_data_and_trains(data):
    assert data.clouds.is_cuda and fixed_batch(data).cloud.is_cuda
    trainer = trainer_of("iii", data)
    trainer.train_epoch()
    assert np.isfinite(list(trainer.curves[0].values())).all()


@pytest.mark.parametrize("stage", ["i-expression", "iii"])
def test_fast_and_plain_row_operators_train_alike(stage, data, monkeypatch):
    """The same losses, epoch by epoch, up to float32 rounding that the steps between carry on."""

    def curves():
        trainer = trainer_of(stage, data)
        for _ in range(4):
            trainer.train_epoch()
        return [sum(epoch.values()) for epoch in trainer.curves]

    fast = curves()
    monkeypatch.setattr("drfer.fast.rows._is_fast", lambda rows, norm: False)
    assert curves() == pytest.approx(fast, rel=1e-3)


def test_a_training_whose_loss_is_no_number_stops_and_is_no_result(data):
    trainer = trainer_of("i-expression", data)
    with torch.no_grad():
        next(trainer.model.expression.classifier.parameters()).fill_(float("nan"))
    with pytest.raises(DrferError, match="no finite number after epoch 1"):
        trainer.train_epoch()


def test_no_stage_takes_anothers_seed():
    """It is a stage's place; the first ones' results are stored under names that do not tell it."""
    assert list(STAGES)[:7] == [
        "i-expression",
        "i-identity",
        "i-fusion",
        "ii-expression",
        "ii-identity",
        "iii",
        "head",
    ]
