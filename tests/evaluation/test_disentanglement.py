"""Disentanglement in numbers: of models whose answers are known, and of untrained ones."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, ScanKey
from drfer.evaluation import disentanglement
from drfer.evaluation.disentanglement import (
    measure,
    reconstruction_errors,
    transfer_errors,
    transfer_pairs,
)
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.run import Run
from drfer.evaluation.surface_distance import (
    Region,
    distances,
    sampled,
    surface_of_true_face,
    surface_of_vertices,
)
from drfer.evaluation.truth import activations_of, registered_true_faces
from drfer.training.data import FoldData
from drfer.training.trainer import fresh_model

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = PRESETS["smoke"].sizes


@pytest.fixture(scope="module")
def data(faces):
    return FoldData(faces, *Run(PRESETS["smoke"], 0).split(faces), SIZES.points)


@pytest.fixture(scope="module")
def models(data):
    """Untrained models, to stand for those after each stage."""
    subjects = len(data.subjects)
    return [fresh_model(SIZES, subjects, data.mean_neutral, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def few(data):
    """The same fold with fewer test scans, for what takes long."""
    some = copy.copy(data)
    some.test = data.test[::7]
    return some


class Answers:
    """A "model" whose parts answer by functions of clouds."""

    def __init__(
        self, expression=lambda cloud: cloud, identity=lambda cloud: cloud, fusion=lambda a, b: a
    ):
        self.expression, self.identity, self.fusion = expression, identity, fusion

    def eval(self):
        return self


def without_truth(faces):
    """The same faces, of a dataset that does not know them without noise."""
    return replace(faces, dataset=SimpleNamespace(name="licensed"))


def region_of(faces, data, expression):
    members = [
        scan
        for scan, key in enumerate(faces.keys)
        if key.subject in data.subjects and key.expression == expression
    ]
    return Region(faces.missing[members]), members


def true_surface(faces, data, scan, shown=None):
    """The face of a scan's subject with the expression of another scan, without noise."""
    shown = scan if shown is None else shown
    (face,) = registered_true_faces(
        faces, np.array([scan]), activations_of(faces, np.array([shown]))
    )
    return surface_of_true_face(face, region_of(faces, data, faces.keys[shown].expression)[0])


def stored_surface(faces, data, scan):
    region, _ = region_of(faces, data, faces.keys[scan].expression)
    vertices = faces.vertices[scan].astype(float) * faces.settings.frame_length
    return surface_of_vertices(vertices, faces.missing[scan], region)


def mean_surface(faces, data, expression):
    region, members = region_of(faces, data, expression)
    vertices = np.zeros((len(region.shared), 3))
    for number in np.flatnonzero(region.common):
        there = [faces.vertices[m, number] for m in members if not faces.missing[m, number]]
        vertices[number] = np.mean(there, axis=0, dtype=float) * faces.settings.frame_length
    return surface_of_vertices(vertices, ~region.common, region)


def neutral_scan(faces, subject):
    return faces.keys.index(ScanKey(subject, NEUTRAL, 0))


def in_mm(faces, clouds):
    return np.asarray(clouds, dtype=float) * faces.settings.frame_length


def test_transfer_pairs_give_nothing_away(faces, data):
    partners = transfer_pairs(faces.keys, data.test, seed=3)
    assert set(partners) <= set(data.test)
    for scan, partner in zip(data.test, partners):
        a, b = faces.keys[scan], faces.keys[partner]
        assert a.subject != b.subject
        assert a.expression != b.expression
    assert np.array_equal(partners, transfer_pairs(faces.keys, data.test, seed=3))
    assert not np.array_equal(partners, transfer_pairs(faces.keys, data.test, seed=4))


@pytest.mark.parametrize("knows_truth", [True, False])
def test_reconstruction_errors_are_distances_from_the_right_faces(faces, few, knows_truth):
    """Scan by scan, of a model that hands back what it gets."""
    surface = true_surface if knows_truth else stored_surface
    faces = faces if knows_truth else without_truth(faces)
    found = reconstruction_errors({"any": Answers()}, few, faces)["any"]
    mean_neutral = in_mm(faces, few.mean_neutral)
    expected = {name: [] for name in ("input scan", "mean neutral face", "own neutral scan")}
    expected_of_mean, expected_of_itself = [], []
    for scan in few.test:
        key = faces.keys[scan]
        neutral = neutral_scan(faces, key.subject)
        cloud, own = in_mm(faces, few.clouds[scan]), in_mm(faces, few.clouds[neutral])
        target = surface(faces, few, neutral)
        for name, face in zip(expected, (cloud, mean_neutral, own)):
            expected[name].append(distances(face[None], target)[0])
        target = mean_surface(faces, few, key.expression)
        expected_of_mean.append(distances(np.stack([cloud, mean_neutral]), target))
        of_class = in_mm(faces, few.mean_expression[few.labels[scan]])
        target = surface(faces, few, scan)
        expected_of_itself.append(distances(np.stack([cloud, own, of_class]), target))
    for name, values in expected.items():
        assert found["neutralisation"][name] == pytest.approx(np.mean(values), abs=1e-5)
    names = ("input scan", "mean neutral face")
    for name, value in zip(names, np.mean(expected_of_mean, axis=0)):
        assert found["de-identification"][name] == pytest.approx(value, abs=1e-5)
    names = ("input scan", "own neutral scan", "mean expression face")
    for name, value in zip(names, np.mean(expected_of_itself, axis=0)):
        assert found["fusion"][name] == pytest.approx(value, abs=1e-5)
    for task in found.values():
        assert task["decoded"] == task["input scan"]


def answering(data, target_of):
    """A branch that finds out which scan it sees, and gives the points of a surface."""

    def branch(clouds):
        scans = [next(s for s in data.test if data.clouds[s].equal(cloud)) for cloud in clouds]
        return torch.stack([target_of(scan) for scan in scans])

    return branch


def test_a_model_that_answers_with_the_targets_is_as_good_as_they_at_other_points(faces, few):
    """And far better than all that needs no network, scans of the very faces but for noise."""

    def points(surface):
        return torch.from_numpy(sampled(surface, SIZES.points) / faces.settings.frame_length)

    def neutral_of(scan):
        neutral = neutral_scan(faces, faces.keys[scan].subject)
        return points(true_surface(faces, few, neutral))

    inputs = iter(few.clouds[few.test].split(24))
    fused = answering(few, lambda scan: points(true_surface(faces, few, scan)))
    perfect = Answers(
        expression=answering(
            few, lambda scan: points(mean_surface(faces, few, faces.keys[scan].expression))
        ),
        identity=answering(few, neutral_of),
        fusion=lambda expression_face, identity_face: fused(next(inputs)),
    )
    found = reconstruction_errors({"perfect": perfect}, few, faces)["perfect"]
    for errors in found.values():
        assert errors["decoded"] == pytest.approx(errors["target, resampled"], abs=1e-5)
        assert errors["decoded"] <= min(errors.values()) + 1e-5
    assert found["neutralisation"]["own neutral scan"] < found["neutralisation"]["input scan"]
    assert found["fusion"]["input scan"] < found["fusion"]["own neutral scan"]


@pytest.mark.parametrize(
    "answer", ["target, resampled", "own neutral", "mean expression face", "swapped"]
)
def test_transfer_is_judged_by_the_first_scans_expression_on_the_second_subject(faces, few, answer):
    def scan_of(cloud):
        return next(scan for scan in few.test if few.clouds[scan].equal(cloud))

    def fuse(expression_cloud, identity_cloud):
        a, b = scan_of(expression_cloud), scan_of(identity_cloud)
        if answer == "mean expression face":
            return few.mean_expression[EXPRESSIONS.index(faces.keys[a].expression)]
        if answer == "swapped":
            a, b = b, a
        of_b = neutral_scan(faces, faces.keys[b].subject)
        surface = true_surface(faces, few, of_b, of_b if answer == "own neutral" else a)
        return torch.from_numpy(sampled(surface, SIZES.points) / faces.settings.frame_length)

    model = Answers(
        fusion=lambda first, second: torch.stack([fuse(*pair) for pair in zip(first, second)])
    )
    errors = transfer_errors({"any": model}, few, faces, seed=0)["any"]
    assert errors["target, resampled"] + 0.2 < errors["own neutral"]
    if answer == "swapped":
        assert errors["fused"] > errors["target, resampled"] + 0.3
    else:
        assert errors["fused"] == pytest.approx(errors[answer], abs=1e-4)


def test_leakage_is_that_of_both_encoders_before_and_after_and_of_vertices(
    faces, few, models, monkeypatch
):
    monkeypatch.setattr(disentanglement, "leakage", lambda *given: given)
    found = measure(*models, few, without_truth(faces), seed=0)["leakage"]
    for stage, model in (("stage i", models[0]), ("stage i + ii + iii", models[2])):
        for name in ("expression", "identity"):
            features, labels, subjects = found[stage][f"{name} feature"]
            own = getattr(model, name).encode(few.clouds[few.test])
            assert np.allclose(features, own.detach().numpy(), atol=1e-5)
            assert [(subject, EXPRESSIONS[label]) for subject, label in zip(subjects, labels)] == [
                (faces.keys[scan].subject, faces.keys[scan].expression) for scan in few.test
            ]
    assert found["no network"].keys() == {"registered vertices", "vertices less own neutral"}
    for rows, *rest in found["no network"].values():
        assert len(rows) == len(few.test)
        assert np.array_equal(rest, [labels, subjects])


def test_all_measures_of_untrained_models_are_json_and_repeat(faces, few, models):
    result = measure(*models, few, faces, seed=0)
    assert json.loads(json.dumps(result)) == result == measure(*models, few, faces, seed=0)
    assert result["leakage"].keys() == {"no network", "stage i", "stage i + ii + iii"}
    assert "true activations" in result["leakage"]["no network"]
    after = ("stage i + ii", "stage i + ii + iii")
    for name in ("reconstruction, mm to the surface", "transfer, mm to the surface"):
        assert tuple(result[name]) == after
    for stage, model in zip(after, models[1:]):
        alone = reconstruction_errors({"alone": model}, few, faces)["alone"]
        assert result["reconstruction, mm to the surface"][stage] == alone
        alone = transfer_errors({"alone": model}, few, faces, seed=0)["alone"]
        assert result["transfer, mm to the surface"][stage] == alone
    parts, whole = result["transfer, mm to the surface"].values()
    assert parts.pop("fused") != whole.pop("fused")
    assert parts == whole
    licensed = measure(*models, few, without_truth(faces), seed=0)
    assert licensed["transfer, mm to the surface"] == {}
    features = ("stage i", "stage i + ii + iii")
    assert all(licensed["leakage"][stage] == result["leakage"][stage] for stage in features)
