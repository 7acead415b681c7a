"""Personal mode: the linear model of what moves between two scans of one person, and its command."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, ScanKey
from drfer.models.personal import ARRAYS, PATH, load_personal_model, softmax
from tools import make_personal
from tools.unseen_people import calibration_error

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(faces):
    return make_personal.fit([faces])


def carried(points, missing):
    return SimpleNamespace(points=points, missing=missing, doubts=())


def of(faces, scan):
    """A scan's vertices as `carry_template` gives them."""
    return carried(faces.vertices[scan].astype(float) * make_personal.MM, faces.missing[scan])


def test_a_scan_gets_the_score_of_its_own_row_whatever_it_lacks(model, faces):
    scores, labels = make_personal.scores_of(model, faces)
    shown = [scan for scan, key in enumerate(faces.keys) if key.intensity]
    neutral_of = {key.subject: scan for scan, key in enumerate(faces.keys) if not key.intensity}
    for row in (0, 5, 17):
        scan = shown[row]
        mine, neutral = of(faces, scan), of(faces, neutral_of[faces.keys[scan].subject])
        found = model.probabilities(mine, neutral)
        assert tuple(found) == EXPRESSIONS and sum(found.values()) == pytest.approx(1)
        assert list(found.values()) == pytest.approx(softmax(scores[row : row + 1])[0], abs=1e-6)
        assert EXPRESSIONS[labels[row]] == faces.keys[scan].expression
    nothing = carried(mine.points + 1000, np.ones_like(mine.missing))
    by_hand = [(model.mean * weight).sum() + bias for weight, bias in zip(model.weight, model.bias)]
    assert list(model.probabilities(nothing, neutral).values()) == pytest.approx(
        softmax(np.array([by_hand]))[0]
    )


def test_it_knows_those_whom_it_was_trained_on(model, faces):
    scores, labels = make_personal.scores_of(model, faces)
    assert (scores.argmax(axis=1) == labels).mean() > 0.95


def test_the_temperature_is_that_under_which_answers_come_out_as_often_as_they_say(
    model, monkeypatch
):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 6))
    chance = softmax(scores / 0.5)
    labels = np.array([rng.choice(6, p=row) for row in chance])
    monkeypatch.setattr(make_personal, "scores_of", lambda model, faces: (scores, labels))
    assert make_personal.calibrated(model, None).temperature == pytest.approx(0.5, rel=0.06)


def test_the_calibration_error_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(6), 200)
    labels = rng.integers(0, 6, 200)
    total = 0.0
    for low in np.arange(15) / 15:
        inside = [
            row
            for row, each in enumerate(probabilities)
            if low <= each.max() < low + 1 / 15 - 1e-12
        ]
        if inside:
            sure = np.mean([probabilities[row].max() for row in inside])
            right = np.mean([probabilities[row].argmax() == labels[row] for row in inside])
            total += len(inside) / 200 * abs(sure - right)
    assert calibration_error(probabilities, labels) == pytest.approx(100 * total)
    sure = np.eye(6)[labels]
    assert calibration_error(sure, labels) == 0


def test_another_persons_neutral_scan_is_told_from_the_own(model, faces):
    """As linear discriminants: the directions are those of their definition."""
    knowing = make_personal.knowing_people(model, [faces], faces)
    own, other = (make_personal.seen_by(model, faces, who)[0] for who in (0, 1))
    told = make_personal.taken_for_two(knowing, faces)
    assert told["own neutral scan"] <= 1 and told["another's"] == 100
    by_hand = [
        min(
            np.linalg.norm((row[..., None] * knowing.directions).sum(axis=(0, 1)) - shown)
            for shown in knowing.shown
        )
        for row in other[:5]
    ]
    np.testing.assert_allclose(knowing.distance(other[:5]), by_hand)
    ends = np.percentile(knowing.distance(own), 99.5), np.percentile(knowing.distance(other), 0.5)
    assert make_personal.SURE == 99.5 and knowing.limit == np.mean(ends)
    neutral = faces.keys.index(ScanKey("F0001", "neutral", 0))
    shown = next(n for n, key in enumerate(faces.keys) if key.subject == "F0001" and key.intensity)
    another = next(n for n, key in enumerate(faces.keys) if key.subject != "F0001")
    assert not knowing.of_two_people(of(faces, shown), of(faces, neutral))
    assert knowing.of_two_people(of(faces, another), of(faces, neutral))


def test_who_has_hardly_moved_may_show_no_expression(model, faces):
    knowing = make_personal.knowing_people(model, [faces], faces)
    neutral = faces.keys.index(ScanKey("F0001", "neutral", 0))
    shown = [n for n, key in enumerate(faces.keys) if key.subject == "F0001" and key.intensity]
    assert knowing.is_at_rest(of(faces, neutral), of(faces, neutral))
    assert not any(knowing.is_at_rest(of(faces, scan), of(faces, neutral)) for scan in shown)
    assert make_personal.taken_for_rest(knowing, faces) <= 100 - make_personal.SEEN + 1


def test_a_model_is_read_as_it_was_written(model, tmp_path):
    path = tmp_path / "personal.safetensors"
    card = {"temperature": 0.5, "limit": 3.0, "least": 0.25, "of": "a test"}
    written = replace(model, temperature=0.5, limit=3.0, card=card)
    make_personal.write(written, path)
    read = load_personal_model(path)
    assert read.temperature == 0.5 and read.card["of"] == "a test"
    assert read.limit == 3.0 and read.least == 0.25
    for name in ("used", *ARRAYS):
        assert np.allclose(getattr(read, name), getattr(model, name), atol=1e-5)


@pytest.mark.parametrize("damage", ["gone", "cut off", "a text", "a folder"])
def test_a_damaged_file_is_one_sentence(model, tmp_path, damage):
    path = tmp_path / "personal.safetensors"
    if damage == "cut off":
        make_personal.write(
            replace(model, card={"temperature": 1.0, "limit": 1.0, "least": 0.0}), path
        )
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "a text":
        path.write_text("no weights")
    elif damage == "a folder":
        path.mkdir()
    with pytest.raises(DrferError) as refused:
        load_personal_model(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def scans_of_a_person(database, tmp_path_factory):
    """Files of one person's neutral scan, and of all expressions."""
    folder = tmp_path_factory.mktemp("person")
    for expression, intensity in (("neutral", 0), *((name, 4) for name in EXPRESSIONS)):
        scan = database.load(ScanKey("F0001", expression, intensity))
        mesh = trimesh.Trimesh(scan.points, scan.triangles, process=False)
        mesh.export(folder / f"{expression}.ply")
    return folder


def test_the_kits_own_personal_model_names_a_strangers_expressions(
    command, scans_of_a_person, tmp_path
):
    card = load_personal_model().card
    assert PATH.stat().st_size < 1e6 and card["training people"] >= 300
    assert card["right on unseen people, %"] > 97
    files = [scans_of_a_person / f"{name}.ply" for name in EXPRESSIONS]
    neutral = ["--neutral", scans_of_a_person / "neutral.ply", "--json", "--out", tmp_path]
    code, said = command("predict", *files, *neutral)
    answers = [json.loads(line)["probabilities"] for line in said.out.splitlines()]
    assert code == 0 and [max(each, key=each.get) for each in answers] == list(EXPRESSIONS)
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_a_neutral_scan_that_is_none_is_refused_before_anything_is_answered(
    command, scans_of_a_person, tmp_path
):
    trimesh.creation.icosphere(4, 90).export(tmp_path / "ball.ply")
    scan = scans_of_a_person / "anger.ply"
    for bad, reason in (("ball.ply", "does not register"), ("none.ply", "cannot be read")):
        code, said = command("predict", scan, "--neutral", tmp_path / bad, "--out", tmp_path / "o")
        assert code == 2 and reason in said.err and not said.out
    assert not (tmp_path / "o").exists()


def test_a_neutral_scan_of_somebody_else_is_one_sentence(
    command, database, scans_of_a_person, tmp_path
):
    other = database.load(ScanKey("M0001", "neutral", 0))
    trimesh.Trimesh(other.points, other.triangles, process=False).export(tmp_path / "other.ply")
    scan = scans_of_a_person / "anger.ply"
    out = tmp_path / "o"
    code, said = command("predict", scan, "--neutral", tmp_path / "other.ply", "--out", out)
    assert code == 2 and "two people" in said.out and "other.ply" in said.out
    assert not list(out.glob("*"))
    told = load_personal_model().card["taken for scans of two people, %"]
    for kind in ("benchmark", "widened"):
        assert told[kind]["own neutral scan"] < 1 and told[kind]["another's"] > 98
