"""Measures: what each says of an experiment, and that results take it over."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from driver import TINY, tiny_request

from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation import experiment as module
from drfer.evaluation.collect import collect
from drfer.evaluation.engine import run_here
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.features import neighbour_purity, silhouette
from drfer.evaluation.measures import MEASURES, WITH_CONTROL, Measure
from drfer.evaluation.plan import Request, plan
from drfer.evaluation.result import load_result
from drfer.evaluation.result_format import SAMPLE_GROUPS
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.preprocessing.head_pose import POSES, PosedFaces
from drfer.training.stages import STAGES
from drfer.training.trainer import predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def experiment(finished, faces):
    return Experiment(Run(TINY, 0), faces, finished.store)


@pytest.fixture
def posed(faces, monkeypatch):
    """Head poses at which nothing is hidden, and a list that grows each time they are made."""
    members = [number for number, key in enumerate(faces.keys) if key.expression != NEUTRAL]
    rotations = [pose.rotation().T.astype(np.float32) for pose in POSES]
    clouds = np.stack([faces.clouds[members] @ rotation for rotation in rotations], axis=1)
    keys = [faces.keys[number] for number in members]
    made = []

    def pose_faces(of):
        made.append(of)
        return PosedFaces(keys, clouds, np.full(clouds.shape[:2], 7), "nothing hidden")

    module.posed_faces_of.cache_clear()
    monkeypatch.setattr(module, "pose_faces", pose_faces)
    yield made
    module.posed_faces_of.cache_clear()


def test_head_pose_measures_what_stands_before_the_camera(finished, faces, tmp_path, posed):
    """Turning back whole heads gives the frontal answers, and those are the stage's own."""
    request, store = tiny_request(("main", CONTROL), ("pose",), (0,)), finished.store
    jobs = plan(request, faces, store)
    assert not any(job.needs_poses for job in finished.jobs.values())
    assert any(job.needs_poses for job in jobs.values())
    assert run_here(jobs, faces, store) == []
    assert len(posed) == 1, "made once for all jobs"
    module.posed_faces_of.cache_clear()
    assert run_here(jobs, faces, store) == []
    result = collect(request, faces, store, tmp_path)
    assert len(posed) == 1, "nothing is missing any more"

    found = {(entry["row"], entry["setting"]): entry for entry in result.select("pose")}
    assert found.keys() == {
        (row, setting) for row in WITH_CONTROL for setting in ("raw", "registered", "trained")
    }
    for (row, setting), entry in found.items():
        (test,) = result.tests(row)
        assert np.shape(entry["predicted"]) == (17, 36)
        assert entry["truth"] == test["truth"]
        if setting != "trained":
            assert entry["predicted"][0] == test["predicted"]
        if setting == "registered":
            same = np.equal(entry["predicted"], entry["predicted"][0]).mean()
            assert same > 0.97, "the rest is rounding"
    assert max(found[METHOD, "raw"]["truth"]) < len(EXPRESSIONS)
    at_poses = [job for job in jobs.values() if job.run.posed]
    assert len(at_poses) == 8, "trained with head poses: six stages, the control and the measure"


@pytest.mark.parametrize("posed_training", [False, True])
def test_raw_heads_are_read_as_they_are_and_registered_ones_turned_back(
    experiment, posed, posed_training, monkeypatch
):
    """By a "model" that says in which direction a cloud's first points lie."""

    def by_direction(model, clouds, expressions=6):
        mean = clouds[:, :5].mean(dim=1)
        return None, torch.cat([mean, -mean], dim=1).numpy()

    monkeypatch.setattr("drfer.evaluation.measures.predict", by_direction)
    experiment = replace(experiment, run=replace(experiment.run, posed=posed_training))
    monkeypatch.setattr(Experiment, "model", lambda self, stage: torch.nn.Linear(1, 1))
    _, measured = MEASURES["pose"].function(experiment)
    clouds = experiment.data.clouds[experiment.data.test].numpy()
    frontal = by_direction(None, torch.tensor(clouds))[1].argmax(axis=1).tolist()
    for found in measured["predicted"].values():
        for number, pose in enumerate(POSES):
            turned = torch.tensor(clouds @ pose.rotation().T.astype(np.float32))
            expected = by_direction(None, turned)[1].argmax(axis=1).tolist()
            assert found["trained" if posed_training else "raw"][number] == expected
            if not posed_training:
                assert np.equal(found["registered"][number], frontal).mean() > 0.9
        assert len(set(map(tuple, found["trained" if posed_training else "raw"]))) > 3
        assert found.keys() == ({"trained"} if posed_training else {"raw", "registered"})


def test_features_are_those_of_the_test_scans_after_each_model(experiment):
    measured = experiment.measure("features")["measured"]
    data = experiment.data
    assert measured["labels"] == data.labels[data.test].tolist()
    for row in (BASELINE, METHOD, CONTROL):
        found = measured["rows"][row]
        features, _ = predict(experiment.model(ROWS[row].stage), data.clouds[data.test])
        labels = np.array(measured["labels"])
        assert ("tsne" in found) == (row != CONTROL)
        assert row == CONTROL or np.shape(found["tsne"]) == (36, 2)
        assert found["silhouette"] == pytest.approx(silhouette(features, labels), abs=1e-4)
        assert found["purity"] == pytest.approx(neighbour_purity(features, labels), abs=1e-4)


def test_curves_are_those_of_the_methods_stages(experiment, finished):
    entries = MEASURES["curves"].entries(experiment.measure("curves")["measured"])
    stages = ["i-expression", "i-identity", "i-fusion", "ii-expression", "ii-identity", "iii"]
    assert [entry["stage"] for entry in entries] == stages
    for entry in entries:
        record = finished.store.record(experiment.name(entry["stage"]))
        assert entry["curves"] == record["curves"]
        assert entry["title"] == record["title"] == STAGES[entry["stage"]].title
    assert len(entries[0]["curves"]) == 2


def test_the_diagnosis_is_of_the_weights_that_each_stage_starts_from_and_ends_with(
    experiment, monkeypatch
):
    asked = []

    def norms(stage, model, data, schedule, settings, seed):
        assert schedule == TINY.schedule(stage)
        weight = model.expression.encoder.whole.linears[0].weight
        asked.append((stage.name, weight.detach().clone()))
        return {"a term": 1.0}

    monkeypatch.setattr("drfer.evaluation.diagnosis.gradient_norms", norms)
    _, measured = MEASURES["diagnosis"].function(experiment)
    assert measured["gradient norm"].keys() == {"ii-expression", "iii"}
    assert measured["feature movement"].keys() == {"stage i + ii", METHOD}
    assert all(movement > 0 for movement in measured["feature movement"].values())
    starts_and_ends = ["i-expression", "ii-expression", "ii-expression", "iii"]
    assert [name for name, _ in asked] == ["ii-expression", "ii-expression", "iii", "iii"]
    for (_, weight), stage in zip(asked, starts_and_ends):
        model = experiment.model(stage)
        assert weight.equal(model.expression.encoder.whole.linears[0].weight)


def test_samples_are_faces_and_features_of_the_first_run(experiment, faces):
    arrays, measured = MEASURES["samples"].function(experiment)
    assert arrays.keys() == {name for group in SAMPLE_GROUPS for name in group}
    tested = experiment.test_subjects
    assert measured["shown"] == [f"{subject} surprise 4" for subject in tested[:2]]
    assert arrays["posed clouds"].shape == (2, 17, 2048, 3)

    scans = 25 * len(tested)  # four intensities of six expressions, and neutral
    assert arrays["manifold features"].shape == (scans, 128)
    assert np.bincount(arrays["manifold expression"] + 1).tolist() == [3, *[12] * 6]
    assert np.bincount(arrays["manifold intensity"]).tolist() == [3, *[18] * 4]
    assert np.bincount(arrays["manifold subject"]).tolist() == [25] * 3

    data, model = experiment.data, experiment.model("iii").eval()
    assert arrays["sample labels"].tolist() == list(range(6))
    labels = data.labels[data.test].tolist()
    last = [max(i for i, label in enumerate(labels) if label == wanted) for wanted in range(6)]
    clouds = data.clouds[data.test][last]
    with torch.no_grad():
        out = model.disentangle(clouds)
    length = faces.settings.frame_length
    for name, face in (
        ("input", clouds),
        ("de-identified", out.expression_face),
        ("de-expressed", out.identity_face),
        ("exp, then id", out.identity_of_expression_face),
        ("id, then exp", out.expression_of_identity_face),
        ("fused", out.fused_face),
    ):
        assert np.abs(arrays[f"sample {name}"] - face.numpy() * length).max() < 0.006


def test_samples_reach_the_result_and_are_repaired(finished, faces, tmp_path, capsys):
    request = tiny_request(("main",), ("samples",), (0,))
    store = Store(tmp_path / "store")
    shutil.copytree(finished.store.root, store.root)
    assert run_here(plan(request, faces, store), faces, store) == []
    made = collect(request, faces, store, tmp_path / "a")
    assert load_result(tmp_path / "a").samples.keys() == made.samples.keys()
    (entry,) = made.select("samples")
    assert entry["shown"] == [f"{s} surprise 4" for s in Run(TINY, 0).split(faces)[1][:2]]
    for path in store.root.glob("*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    collect(request, faces, store, tmp_path / "b")
    assert "is damaged" in capsys.readouterr().out
    for name in ("result.json", "samples.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_was_not_asked_for_has_no_samples(finished, faces):
    assert finished.result.samples == {}
    assert not (finished.folder / "samples.npz").exists()


def test_every_measure_gives_entries_that_a_result_can_hold(finished, faces, tmp_path, posed):
    request = tiny_request(("main",), ("all",), (0,))
    jobs = plan(request, faces, finished.store)
    assert run_here(jobs, faces, finished.store) == []
    collect(request, faces, finished.store, tmp_path)
    result = load_result(tmp_path)
    assert {entry["kind"] for entry in result.entries.values()} == {"fold", "test", *MEASURES}
    for name, entry in result.entries.items():
        assert entry["result"] in ("", *jobs)
        assert json.loads(json.dumps(entry)) == entry, name


def test_a_measure_is_added_by_one_entry(finished, faces, tmp_path, monkeypatch):
    def count(experiment):
        return {}, {"test scans": len(experiment.data.test)}

    added = Measure("size", "How many scans are tested.", ("i-expression",), count)
    monkeypatch.setitem(MEASURES, "size", added)
    request = Request.of_names(TINY, (BASELINE,), ("size",), (0, 1), 1, 0)
    assert run_here(plan(request, faces, finished.store), faces, finished.store) == []
    collect(request, faces, finished.store, tmp_path)
    assert [entry["measured"] for entry in load_result(tmp_path).select("size")] == [
        {"test scans": 36},
        {"test scans": 36},
    ]


def test_every_measure_explains_itself_and_looks_at_known_stages():
    assert [measure.name for measure in MEASURES.values()] == list(MEASURES)
    for measure in MEASURES.values():
        assert measure.explains.endswith(".")
        assert set(measure.stages) <= set(STAGES)


def test_a_measure_trains_what_it_looks_at(finished, faces, tmp_path):
    """Called on its own, with an empty store."""
    experiment = Experiment(replace(Run(TINY, 0)), faces, Store(tmp_path))
    experiment.measure("curves")
    assert len([path for path in tmp_path.iterdir() if path.name != "locks"]) == 7
