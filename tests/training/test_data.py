"""What a training step sees: which scans, beside which targets, and how they are augmented."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_faces import (
    NO_AUGMENTATION,
    ONE_BATCH,
    POINTS,
    TEST_SUBJECT,
    TRAIN_SUBJECTS,
    VERTICES,
    batches,
    fold_data,
    some_of,
)

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.preprocessing.head_pose import PosedFaces
from drfer.training.data import Augmentation, DataSettings, FoldData, drop_points

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------- wrong labels


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_wrong_labels_are_other_classes_and_the_same_every_time(faces, share):
    def data_of(wrong):
        settings = DataSettings(wrong_labels=wrong)
        return FoldData(faces, TRAIN_SUBJECTS, [TEST_SUBJECT], POINTS, None, settings)

    right, wrong, again = data_of(0.0), data_of(share), data_of(share)
    changed = (wrong.labels != right.labels).numpy()
    assert changed.sum() == round(share * len(right.train))
    assert not changed[right.test].any() and set(np.flatnonzero(changed)) <= set(right.train)
    assert 0 <= wrong.labels[wrong.train].min() and wrong.labels.max() < len(EXPRESSIONS)
    assert wrong.labels.equal(again.labels)


# ----------------------------------------------------------------------------- random input dropout


def numbered_clouds(batch, points):
    """Clouds in which every point says which it is: (index of the point, index of the cloud, 1)."""
    number = torch.arange(points).float().expand(batch, -1)
    cloud = torch.arange(batch)[:, None].expand(-1, points)
    return torch.stack([number, cloud, torch.ones(batch, points)], dim=-1)


def test_dropped_points_become_the_first_and_the_others_move_to_the_front():
    clouds = numbered_clouds(50, 40)
    dropped = drop_points(clouds, 0.8, torch.Generator().manual_seed(0))
    assert dropped.shape == clouds.shape
    assert dropped[..., 1:].equal(clouds[..., 1:])
    for numbers in dropped[..., 0].int().tolist():
        stayed = 1 + sum(number > 0 for number in numbers)
        assert numbers[0] == 0
        assert numbers[:stayed] == sorted(set(numbers))
        assert not any(numbers[stayed:])


def test_without_dropout_the_cloud_does_not_change():
    clouds = torch.randn(3, 40, 3)
    assert drop_points(clouds, 0.0, torch.Generator()).equal(clouds)


@pytest.mark.parametrize("largest", [0.3, 0.875])
def test_the_share_of_dropped_points_is_uniform_up_to_the_largest(largest):
    clouds = numbered_clouds(4000, 400)
    dropped = drop_points(clouds, largest, torch.Generator().manual_seed(0))
    shares = 1 - (dropped[:, :, 0] > 0).sum(dim=1) / 399
    assert abs(shares.mean().item() - largest / 2) < 0.01
    quarters = torch.histc(shares, 4, 0, largest) / 4000
    assert (quarters - 0.25).abs().max() < 0.04
    assert shares.max() < largest + 0.1


def test_the_generator_alone_decides_what_is_dropped():
    clouds = torch.randn(5, 40, 3)
    first, again, other = (
        drop_points(clouds, 0.5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.equal(again)
    assert not first.equal(other)


# ---------------------------------------------------------------------------------- scans of a fold


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
    assert data.subjects == TRAIN_SUBJECTS == ["F0001", "M0001", "M0002"]
    for number in data.train:
        key = faces.keys[number]
        assert EXPRESSIONS[data.labels[number]] == key.expression
        assert data.subjects[data.subject_numbers[number]] == key.subject
    assert torch.from_numpy(faces.clouds[:, :POINTS]).equal(data.clouds.cpu())


def test_subjects_that_are_neither_trained_nor_tested_are_not_in_the_fold(faces):
    data = FoldData(faces, ["M0002", "F0001"], [TEST_SUBJECT], POINTS)
    assert data.subjects == ["F0001", "M0002"], "labels do not depend on the order they come in"
    assert {faces.keys[scan].subject for scan in data.train} == {"F0001", "M0002"}
    for scan in [*data.test, *data.test_neutral]:
        assert faces.keys[scan].subject == TEST_SUBJECT
    left_out = [scan for scan, key in enumerate(faces.keys) if key.subject == "M0001"]
    assert (data.subject_numbers[left_out] == -1).all()
    others = some_of(faces, [scan for scan in range(len(faces)) if scan not in left_out])
    alone = FoldData(others, ["M0002", "F0001"], [TEST_SUBJECT], POINTS)
    assert data.mean_neutral.equal(alone.mean_neutral)
    assert data.mean_expression.equal(alone.mean_expression)


def test_no_test_subject_is_in_any_target_or_batch(faces):
    tested = np.array([key.subject == TEST_SUBJECT for key in faces.keys])[:, None, None]
    poisoned = replace(
        faces,
        clouds=np.where(tested, np.nan, faces.clouds),
        vertices=np.where(tested, np.nan, faces.vertices),
    )
    data = fold_data(poisoned)
    for batch in batches(data, replace(ONE_BATCH, batch_size=10)):
        for name, values in vars(batch).items():
            assert values.isfinite().all(), name
    assert data.clouds[data.test].isnan().all()


def mean_by_loops(faces, members):
    """Mean of the first vertices that at least half of the scans have, over those scans."""
    face = []
    for vertex in range(VERTICES):
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


def test_each_subject_has_its_own_neutral_scan_whatever_the_order_of_the_scans(faces):
    order = np.random.default_rng(2).permutation(len(faces))
    for scans in (faces, some_of(faces, order)):
        data = fold_data(scans)
        for number, subject in enumerate(data.subjects):
            scan = next(
                i
                for i, key in enumerate(scans.keys)
                if key.subject == subject and key.expression == NEUTRAL
            )
            expected = torch.from_numpy(scans.clouds[scan, :POINTS])
            assert data.own_neutral[number].cpu().equal(expected)


@pytest.mark.parametrize("change", ["without", "twice"])
def test_a_training_subject_needs_exactly_one_neutral_scan(faces, change):
    members = list(range(len(faces)))
    neutral = next(i for i in members if str(faces.keys[i]) == "F0001 neutral 0")
    changed = {"without": [i for i in members if i != neutral], "twice": [*members, neutral]}
    with pytest.raises(DrferError, match="exactly one neutral scan"):
        fold_data(some_of(faces, changed[change]))


# ------------------------------------------------------------------------------------------ batches


def test_an_epoch_is_every_training_scan_once_in_an_order_of_its_own(data):
    def scans(seed, batch_size):
        schedule = replace(ONE_BATCH, batch_size=batch_size, augmentation=NO_AUGMENTATION)
        epoch = list(batches(data, schedule, seed))
        assert all(len(batch.cloud) == batch_size for batch in epoch[:-1])
        seen = torch.cat([batch.cloud for batch in epoch])
        return [(cloud == data.clouds).all(dim=(1, 2)).nonzero().item() for cloud in seen]

    assert sorted(scans(0, 10)) == data.train.tolist()
    assert scans(0, 10) == scans(0, 10) != scans(1, 10)
    assert len(scans(0, 7)) == 35, "a last batch of one scan is left out"


def test_what_is_of_one_person_is_scaled_with_the_scan_and_constants_are_not(data):
    rows = torch.tensor([3, 0, 30, 17, 25])
    scans = torch.from_numpy(data.train)[rows].to(data.clouds.device)
    batch = data._batch(rows, Augmentation(0.5, (0.8, 1.25)), torch.Generator().manual_seed(1))
    labels, subjects = data.labels[scans], data.subject_numbers[scans]
    assert batch.expression.equal(labels)
    assert batch.subject.equal(subjects)
    assert batch.mean_expression.equal(data.mean_expression[labels])
    assert batch.mean_neutral.equal(data.mean_neutral.expand(5, -1, -1))
    scale = batch.own_neutral_cloud.norm(dim=(1, 2)) / data.own_neutral[subjects].norm(dim=(1, 2))
    assert scale.min() >= 0.8
    assert scale.max() <= 1.25
    assert len(set(scale.tolist())) == 5
    scale = scale[:, None, None]
    torch.testing.assert_close(batch.own_neutral_cloud, data.own_neutral[subjects] * scale)
    for cloud, whole in zip(batch.cloud, data.clouds[scans] * scale):
        gap = torch.cdist(cloud, whole, compute_mode="donot_use_mm_for_euclid_dist")
        assert gap.min(dim=1).values.max() < 1e-6, "every point is one of the scan's"
    for drawn, surfaces, members in (
        (batch.scan, data.scan_surfaces, rows),
        (batch.own_neutral, data.neutral_surfaces, subjects.cpu()),
    ):
        assert drawn.shape == batch.cloud.shape
        for points, member, factor in zip(drawn / scale, members, scale):
            lowest, highest = surfaces.vertices[member].aminmax(dim=0)
            assert (lowest - 1e-6 <= points).all() and (points <= highest + 1e-6).all()


def test_scales_are_uniform_in_their_range(data):
    rows = torch.arange(len(data.train)).repeat(50)
    batch = data._batch(rows, Augmentation(0.0, (0.8, 1.25)), torch.Generator().manual_seed(1))
    scale = batch.cloud[:, 0, 0] / data.clouds[data.train[rows]][:, 0, 0]
    assert (torch.histc(scale, 3, 0.8, 1.25) / len(rows) - 1 / 3).abs().max() < 0.04


def test_without_augmentation_the_scans_go_in_as_they_are(data):
    batch = data._batch(torch.arange(4), NO_AUGMENTATION, torch.Generator())
    assert batch.cloud.equal(data.clouds[data.train[:4]])


def test_targets_have_other_points_in_every_epoch(data):
    first, again, other = (next(batches(data, seed=seed)) for seed in (0, 0, 1))
    order, others = (batch.cloud.flatten(1).sum(dim=1).argsort() for batch in (first, other))
    for name in ("scan", "own_neutral"):
        assert getattr(first, name).equal(getattr(again, name))
        assert not getattr(first, name)[order].isclose(getattr(other, name)[others]).any()


def test_with_head_poses_the_inputs_are_posed_and_the_targets_frontal_and_whole(faces):
    keys = [key for key in faces.keys if key.expression != NEUTRAL][::-1]
    row_of = {key: row for row, key in enumerate(keys)}
    posed = np.zeros((len(keys), 3, POINTS + 6, 3), np.float32)
    posed += np.arange(len(keys))[:, None, None, None] + 100 * np.arange(3)[:, None, None]
    posed_faces = PosedFaces(keys, posed, np.full((len(keys), 3), 7), "numbered")
    data = FoldData(faces, TRAIN_SUBJECTS, [TEST_SUBJECT], POINTS, posed_faces)
    frontal = fold_data(faces)
    for name in ("clouds", "own_neutral", "mean_expression", "mean_neutral"):
        assert getattr(data, name).equal(getattr(frontal, name)), name
    rows = torch.arange(len(data.train)).repeat(30)
    batch = data._batch(rows, Augmentation(0.0, (0.5, 0.5)), torch.Generator().manual_seed(0))
    assert batch.cloud.shape == (len(rows), POINTS, 3)
    assert batch.scan.abs().max() < 2, "frontal ones have no numbers in them"
    numbers = 2 * batch.cloud[:, 0, 0].cpu()
    expected = torch.tensor([row_of[faces.keys[scan]] for scan in data.train[rows].tolist()])
    assert (numbers % 100).equal(expected.float()), "each scan at one of its own poses"
    assert (torch.bincount(numbers.int() // 100) / len(rows) - 1 / 3).abs().max() < 0.05


@pytest.mark.gpu
def test_the_gpu_holds_the_data(data):
    assert data.clouds.is_cuda
    assert next(batches(data)).cloud.is_cuda
