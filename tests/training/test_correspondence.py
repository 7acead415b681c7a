"""The same vertices in for every scan, and expressions carried from one subject to another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_faces import (
    NO_AUGMENTATION,
    ONE_BATCH,
    POINTS,
    SIZES,
    TEST_SUBJECT,
    TRAIN_SUBJECTS,
    batches,
)

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.preprocessing.head_pose import PosedFaces
from drfer.preprocessing.resampling import template_clouds
from drfer.training.correspondence import Displacements, filled
from drfer.training.data import DataSettings, FoldData
from drfer.training.trainer import fresh_model, predict

pytestmark = pytest.mark.usefixtures("one_thread")


FEWER = 48
"""Points that every one of the made-up scans has among its vertices."""


def data_with(faces, **settings):
    return FoldData(faces, TRAIN_SUBJECTS, [TEST_SUBJECT], FEWER, None, DataSettings(**settings))


def test_template_clouds_are_the_first_vertices_that_each_scan_has(faces):
    clouds = template_clouds(faces.vertices, faces.missing, FEWER)
    for cloud, vertices, missing in zip(clouds, faces.vertices, faces.missing):
        there = [vertex for vertex, gone in zip(vertices, missing) if not gone]
        assert np.array_equal(cloud, np.stack(there[:FEWER]))
    assert data_with(faces, input="template").clouds.cpu().equal(torch.from_numpy(clouds))
    with pytest.raises(DrferError, match="a scan has .* and 1000 are needed"):
        template_clouds(faces.vertices, faces.missing, 1000)


def test_holes_deviate_from_the_mean_as_the_nearest_vertex_does():
    generator = np.random.default_rng(0)
    base = generator.uniform(size=(50, 3))
    shift = np.array([[0.1, 0, 0], [0, -0.2, 0], [0, 0, 0.3]])[:, None]
    neutrals = base + shift
    missing = generator.random((3, 50)) < 0.2
    missing[:, 7] = True  # nobody has this one
    damaged = np.where(missing[..., None], 9.0, neutrals)
    damaged[:, 7] = base[7]
    mended = filled(damaged, missing)
    assert np.array_equal(mended[~missing], neutrals[~missing].astype(np.float32))
    for subject, scan in enumerate(mended):
        for vertex in np.flatnonzero(missing[subject]):
            there = [
                np.mean([damaged[s, v] for s in range(3) if not missing[s, v] or v == 7], axis=0)
                for v in range(50)
            ]
            known = np.flatnonzero(~missing[subject])
            near = min(known, key=lambda v: np.linalg.norm(there[v] - there[vertex]))
            expected = there[vertex] + neutrals[subject, near] - there[near]
            assert np.allclose(scan[vertex], expected, atol=1e-6)


def test_a_carried_scan_is_moved_from_its_own_neutral_to_anothers():
    generator = np.random.default_rng(0)
    neutrals = generator.normal(size=(4, 30, 3)).astype(np.float32)
    vertices = neutrals[[0, 2]] + generator.normal(scale=0.01, size=(2, 30, 3)).astype(np.float32)
    clouds = vertices[:, ::2]
    carried = Displacements(neutrals, np.zeros((4, 30), bool), clouds, vertices)
    subjects = torch.tensor([0, 2] * 500)
    to, moved = carried.draw(subjects, 0.6, torch.Generator().manual_seed(0))
    expected = neutrals[to.numpy()] - neutrals[subjects.numpy()]
    assert np.allclose(moved, expected, atol=1e-6)
    assert abs((to == subjects).float().mean() - (0.4 + 0.6 / 4)) < 0.04
    assert carried.of_points(torch.tensor([0, 1] * 500), moved).equal(moved[:, ::2])
    stay, still = carried.draw(subjects, 0.0, torch.Generator().manual_seed(0))
    assert stay.equal(subjects) and not still.any()


def test_a_batch_of_carried_scans_has_the_other_persons_targets(faces):
    plain, data = (
        data_with(faces, input="template"),
        data_with(faces, input="template", carried=1.0),
    )
    rows = torch.arange(len(data.train))
    batch = data._batch(rows, NO_AUGMENTATION, torch.Generator().manual_seed(0))
    was = data.subject_numbers[data.train]
    assert not batch.subject.equal(was)
    assert batch.own_neutral_cloud.equal(data.own_neutral[batch.subject])
    assert batch.expression.equal(data.labels[data.train])
    neutrals = data.displacements.neutrals
    for row in range(0, len(rows), 5):
        there = np.flatnonzero(~faces.missing[data.train[row]])[:FEWER]
        moved = (neutrals[batch.subject[row]] - neutrals[was[row]])[there]
        expected = plain.clouds[data.train[row]] + moved
        torch.testing.assert_close(batch.cloud[row], expected)
        stays = (batch.subject[row] == was[row]).item()
        assert stays == batch.cloud[row].equal(plain.clouds[data.train[row]])


def test_carried_surfaces_move_with_their_vertices(faces):
    data = data_with(faces, carried=1.0)
    rows = torch.arange(6)
    shift = torch.tensor([1.0, -2.0, 3.0]).expand(6, faces.vertices.shape[1], 3)
    still, moved = (
        data.scan_surfaces.sample(rows, 40, torch.Generator().manual_seed(0), displacement)
        for displacement in (None, shift)
    )
    torch.testing.assert_close(moved, still + shift[:, :40])


def test_neutral_scans_may_be_a_seventh_class_and_are_never_an_answer(faces):
    plain, seven = data_with(faces), data_with(faces, neutral_class=True)
    assert plain.classes == 6 and seven.classes == 7
    added = set(seven.train) - set(plain.train)
    assert {faces.keys[scan].expression for scan in added} == {NEUTRAL}
    assert len(added) == len(TRAIN_SUBJECTS)
    assert seven.test.tolist() == plain.test.tolist()
    assert (seven.labels[sorted(added)] == len(EXPRESSIONS)).all()
    assert seven.mean_expression.shape[0] == 7
    assert seven.mean_expression[6].equal(seven.mean_neutral)
    assert next(batches(seven, replace(ONE_BATCH, batch_size=39))).expression.max() == 6
    six = fresh_model(replace(SIZES, points=FEWER), 3, plain.mean_neutral, 0)
    model = fresh_model(replace(SIZES, points=FEWER), 3, seven.mean_neutral, 0, seven.classes)
    assert six.expression.classifier[-1].out_features == 6
    assert model.expression.classifier[-1].out_features == 7
    assert predict(model, seven.clouds[:4])[1].shape == (4, 6)


def test_constants_may_be_scaled_as_they_once_were(faces):
    data = data_with(faces, scaled_constants=True)
    batch = next(batches(data))
    scale = batch.own_neutral_cloud[:, 0, 0] / data.own_neutral[batch.subject][:, 0, 0]
    expected = data.mean_expression[batch.expression] * scale[:, None, None]
    torch.testing.assert_close(batch.mean_expression, expected)
    torch.testing.assert_close(batch.mean_neutral, data.mean_neutral * scale[:, None, None])


@pytest.mark.parametrize("settings", [{"input": "template"}, {"carried": 0.5}])
def test_turned_heads_are_not_in_correspondence(faces, settings):
    keys = [key for key in faces.keys if key.expression != NEUTRAL]
    posed = PosedFaces(keys, np.zeros((len(keys), 3, 70, 3)), np.full((len(keys), 3), 7), "none")
    with pytest.raises(DrferError, match="turned heads"):
        FoldData(faces, TRAIN_SUBJECTS, [TEST_SUBJECT], POINTS, posed, DataSettings(**settings))
