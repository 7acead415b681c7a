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
from drfer.training.data import Augmentation, FoldData, drop_points
from drfer.training.losses import chamfer_distance

pytestmark = pytest.mark.usefixtures("one_thread")


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
        seen = torch.cat([batch.whole for batch in epoch])
        return [(cloud == data.clouds).all(dim=(1, 2)).nonzero().item() for cloud in seen]

    assert sorted(scans(0, 10)) == data.train.tolist()
    assert scans(0, 10) == scans(0, 10) != scans(1, 10)
    assert len(scans(0, 7)) == 35, "a last batch of one scan is left out"


def test_a_batch_holds_each_scan_with_its_targets_all_scaled_alike(data):
    members = torch.from_numpy(data.train[[3, 0, 30, 17, 25]]).to(data.clouds.device)
    batch = data._batch(members, Augmentation(0.5, (0.8, 1.25)), torch.Generator().manual_seed(1))
    labels, subjects = data.labels[members], data.subject_numbers[members]
    assert batch.expression.equal(labels)
    assert batch.subject.equal(subjects)
    scale = batch.whole.norm(dim=(1, 2)) / data.clouds[members].norm(dim=(1, 2))
    assert scale.min() >= 0.8
    assert scale.max() <= 1.25
    assert len(set(scale.tolist())) == 5
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
        assert cloud[0] == whole[0]
        assert all(point in whole for point in cloud)


def test_scales_are_uniform_in_their_range(data):
    members = torch.from_numpy(data.train).repeat(50).to(data.clouds.device)
    batch = data._batch(members, Augmentation(0.0, (0.8, 1.25)), torch.Generator().manual_seed(1))
    scale = batch.whole[:, 0, 0] / data.clouds[members][:, 0, 0]
    assert (torch.histc(scale, 3, 0.8, 1.25) / len(members) - 1 / 3).abs().max() < 0.04


def test_without_augmentation_the_scans_go_in_as_they_are(data):
    members = torch.from_numpy(data.train[:4]).to(data.clouds.device)
    batch = data._batch(members, NO_AUGMENTATION, torch.Generator())
    assert batch.cloud.equal(batch.whole)
    assert batch.whole.equal(data.clouds[members])


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
    members = torch.from_numpy(data.train).repeat(30).to(data.clouds.device)
    scaled = Augmentation(0.0, (0.5, 0.5))
    batch = data._batch(members, scaled, torch.Generator().manual_seed(0))
    assert batch.cloud.shape == (len(members), POINTS, 3)
    assert batch.whole.equal(data.clouds[members] * 0.5)
    numbers = 2 * batch.cloud[:, 0, 0].cpu()
    expected = torch.tensor([row_of[faces.keys[scan]] for scan in members.tolist()])
    assert (numbers % 100).equal(expected.float()), "each scan at one of its own poses"
    assert (torch.bincount(numbers.int() // 100) / len(members) - 1 / 3).abs().max() < 0.05


@pytest.mark.gpu
def test_the_gpu_holds_the_data(data):
    assert data.clouds.is_cuda
    assert next(batches(data)).cloud.is_cuda
