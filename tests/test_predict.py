"""The trained model in few bytes, and what `drfer predict` says of scans, and of what is none."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import licensed
import numpy as np
import pytest
import torch
import trimesh
from driver import TINY
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import drfer
from drfer import predict
from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.anny3dfe import Anny3DFE
from drfer.datasets.scan import NEUTRAL
from drfer.datasets.scan_file import read_scan
from drfer.evaluation.experiment import Experiment, prepare_faces
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.store import Store
from drfer.models import recogniser, shipped
from drfer.models.recogniser import CLASSES
from drfer.training.data import FoldData
from tools import make_shipped

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model_file(faces, tmp_path_factory):
    """A tiny model, trained on everyone, as the kit's own is made."""
    folder = tmp_path_factory.mktemp("shipped")
    store, path = Store(folder / "store"), folder / "shipped.safetensors"
    make_shipped.make(TINY, faces, store, lambda model: {"strangers": 50.0}, path)
    return path


@pytest.fixture(scope="module")
def recogniser_path(model_file, faces):
    """A tiny recogniser, made likewise; the same people set its temperature and its limit."""
    path, store = model_file.parent / "recogniser.safetensors", Store(model_file.parent / "store")
    make_shipped.make_recogniser(
        TINY, faces, [faces, faces], store, lambda made: {"strangers": 50.0}, path
    )
    return path


@pytest.fixture
def tiny(model_file, recogniser_path, monkeypatch):
    monkeypatch.setattr(shipped, "PATH", model_file)
    monkeypatch.setattr(recogniser, "PATH", recogniser_path)
    return model_file


def said_of(scan):
    """What the models that stand for the kit's say of a scan."""
    return predict.predict(shipped.load_model()[0], recogniser.load_recogniser(), scan)


def test_a_file_says_who_was_trained_on_and_how_well_others_were_recognised(tiny, faces):
    model, card = shipped.load_model()
    assert not model.training
    assert card["training people"] == len(faces.subjects)
    assert card["training scans"] == len(faces) - len(faces.subjects)
    assert card["data hash"] == faces.hash
    assert card["loss of the last epoch"].keys() >= {"i-expression", "i-fusion", "iii"}
    assert {"strangers": 50.0} in card.values()
    assert {"torch", "machine", "date"} <= card["provenance"].keys()


def test_a_recogniser_is_as_sure_as_its_people_say_and_modest_far_away(tiny, faces):
    made = recogniser.load_recogniser()
    near, rise = made.card["temperature"]
    far = torch.tensor([0.0, 1.0, 5.0])
    by_hand = [max(recogniser.COLDEST, near + rise * float(one)) for one in far]
    assert made.temperature(far).tolist() == pytest.approx(by_hand)
    labels = [recogniser.CLASSES.index(key.expression) for key in faces.keys]

    def surprise():
        probabilities, _ = made.recognise(faces.vertices, faces.missing)
        return -np.log(probabilities[range(len(faces)), labels]).mean()

    best = surprise()
    for other in ([near * 1.5, rise * 1.5], [near * 0.7, rise * 0.7], [near + 0.3, rise]):
        made.card["temperature"] = other
        assert surprise() > best


def test_a_shipped_file_can_be_read_by_others(tiny):
    assert tiny.stat().st_mode & 0o777 == 0o644


def changed(path, target, change):
    """A copy of a model's file with its tensors and card changed."""
    with safe_open(path, "pt") as stored:
        metadata, names = dict(stored.metadata()), list(stored.keys())
        tensors = {name: stored.get_tensor(name) for name in names}
    change(tensors, metadata)
    save_file(tensors, target, metadata)
    return target


BIAS = "expression.classifier.0.bias"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _: tensors.update(renamed=tensors.pop(BIAS)),
        lambda tensors, _: tensors.pop(BIAS),
        lambda tensors, _: tensors.update({BIAS: tensors[BIAS][1:].clone()}),
        lambda tensors, _: tensors.update(extra=torch.zeros(2)),
    ],
    ids=["renamed", "missing", "another shape", "one more"],
)
def test_weights_of_another_version_are_refused(tiny, tmp_path, change):
    other = changed(tiny, tmp_path / "other.safetensors", change)
    with pytest.raises(DrferError, match="does not hold the weights of this version's model"):
        shipped.load_model(other)


@pytest.mark.parametrize("damage", ["cut off", "no card", "a text", "a folder", "not there"])
def test_a_damaged_file_is_one_sentence(tiny, tmp_path, damage):
    path = tmp_path / "damaged.safetensors"
    if damage == "cut off":
        path.write_bytes(tiny.read_bytes()[:-100])
    elif damage == "no card":
        changed(tiny, path, lambda _, metadata: metadata.pop("card"))
    elif damage == "a text":
        path.write_text("no weights")
    elif damage == "a folder":
        path.mkdir()
    with pytest.raises(DrferError) as refused:
        shipped.load_model(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_few_bytes_say_nearly_the_same(tiny, faces):
    store = Store(tiny.parent / "store")
    whole = Experiment(make_shipped.Everyone(TINY, 0), faces, store).model("iii").eval()
    small, _ = shipped.load_model()
    data = FoldData(faces, faces.subjects, [], TINY.sizes.points)
    clouds = data.clouds[data.train]
    with torch.no_grad():
        theirs, ours = whole.disentangle(clouds), small.disentangle(clouds)
        logits = [
            model.expression.classifier(model.expression.encode(clouds)) for model in (whole, small)
        ]
    for name in ("expression_face", "identity_face", "fused_face"):
        assert (getattr(ours, name) - getattr(theirs, name)).abs().max() * 120 < 1, "mm"
    assert (logits[0] - logits[1]).abs().max() < 0.05
    assert tiny.stat().st_size < sum(4 * tensor.numel() for tensor in whole.state_dict().values())


@pytest.fixture(scope="module")
def strangers(cache):
    """People of the benchmark whom the kit's own models have not met."""
    return prepare_faces(Anny3DFE(12, intensities=(3, 4)), PRESETS["smoke"])


def test_the_kits_own_models_fit_into_a_repository_and_have_met_a_thousand_people():
    assert shipped.PATH.stat().st_size + recogniser.PATH.stat().st_size <= 10e6
    for card in (drfer.load_model()[1], recogniser.load_recogniser().card):
        assert card["training people"] >= 1000


def test_the_kits_own_drfer_knows_the_expressions_of_people_whom_it_never_saw(strangers):
    model, _ = drfer.load_model()
    assert model.fusion.skips
    data = FoldData(strangers, strangers.subjects, [], 1024)
    with torch.no_grad():
        logits = model.expression.classifier(model.expression.encode(data.clouds[data.train]))
    assert (logits.argmax(dim=1) == data.labels[data.train]).float().mean() > 0.8


def test_the_kits_own_recogniser_knows_strangers_and_how_sure_it_may_be(strangers):
    mine = recogniser.load_recogniser()
    found, unlike = mine.recognise(strangers.vertices, strangers.missing)
    labels = np.array([CLASSES.index(key.expression) for key in strangers.keys])
    right = found.argmax(axis=1) == labels
    assert right.mean() > 0.85 and right[labels == CLASSES.index(NEUTRAL)].mean() > 0.5
    assert np.abs(found.max(axis=1).mean() - right.mean()) < 0.08
    assert unlike.mean() < 0.1


def test_a_face_that_is_turned_inside_out_is_unlike_all_known_ones(strangers):
    _, unlike = recogniser.load_recogniser().recognise(-strangers.vertices, strangers.missing)
    assert unlike.all()


@pytest.fixture(scope="module")
def scan(database):
    return database.load(
        next(key for key in database.keys() if (key.expression, key.intensity) == ("surprise", 4))
    )


@pytest.fixture(scope="module")
def face(scan, tmp_path_factory):
    """The scan as a file."""
    path = tmp_path_factory.mktemp("scan") / "face.ply"
    trimesh.Trimesh(scan.points, scan.triangles, process=False).export(path)
    return path


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "wrl"])
def test_formats_give_the_same_answer(tiny, scan, tmp_path, kind):
    path = tmp_path / f"face.{kind}"
    if kind == "wrl":
        path.write_text(licensed.vrml(scan.points, scan.triangles))
    else:
        trimesh.Trimesh(scan.points, scan.triangles, process=False).export(path)
    found, expected = said_of(read_scan(path)), said_of(scan)
    assert tuple(found.probabilities) == CLASSES
    assert sum(found.probabilities.values()) == pytest.approx(1)
    probabilities = list(expected.probabilities.values())
    assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=0.05)
    assert np.linalg.norm(found.registered.mean(axis=0) - expected.registered.mean(axis=0)) < 1


@pytest.mark.parametrize("degrees", [-30, 30])
def test_a_turned_head_is_turned_back(tiny, scan, degrees):
    turn = trimesh.transformations.rotation_matrix(np.radians(degrees), [0, 1, 0])[:3, :3]
    turned = replace(scan, points=(scan.points @ turn.T + [50, 0, 9]).astype(np.float32))
    found, expected = said_of(turned), said_of(scan)
    assert not found.doubts
    assert np.abs(found.registered.mean(axis=0) - expected.registered.mean(axis=0)).max() < 1, "mm"


def test_what_is_no_face_is_refused(tiny, tmp_path):
    trimesh.creation.icosphere(4, 90).export(tmp_path / "ball.ply")
    with pytest.raises(ScanFormatError, match="does not register as a face"):
        said_of(read_scan(tmp_path / "ball.ply"))


def test_what_is_no_scan_is_refused(tmp_path):
    (tmp_path / "empty.obj").write_text("# nothing\n")
    (tmp_path / "folder.obj").mkdir()
    os.mkfifo(tmp_path / "pipe.obj")
    for name, sentence in {
        "empty.obj": "empty.obj",
        "photo.jpg": "no format that is read here",
        "missing.wrl": "cannot be read",
        "folder.obj": "this is a folder; name the files in it",
        "pipe.obj": "not a file that could hold a scan",  # whose reader would wait for ever
    }.items():
        with pytest.raises(DrferError, match=sentence):
            read_scan(tmp_path / name)


@pytest.fixture
def predicted(tiny, command):
    """`drfer predict` in this process: its exit code, and what it printed."""

    def run(*arguments):
        code, said = command("predict", *arguments)
        return code, said.out

    return run


def test_the_command_prints_probabilities_and_draws_each_face(predicted, face, tmp_path):
    code, said = predicted(face, "--out", tmp_path / "drawn")
    assert code == 0 and all(f"  {name}" in said for name in CLASSES)
    [drawn] = (tmp_path / "drawn").iterdir()
    assert f"picture: {drawn}" in said
    picture = np.asarray(Image.open(drawn).convert("RGB"))
    assert picture.shape[0] > 200 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_the_registered_mesh_is_written_too_if_asked_for(predicted, face, tmp_path):
    code, said = predicted(face, "--out", tmp_path / "drawn", "--mesh", "--json")
    answer = json.loads(said)
    assert code == 0 and [Path(path).suffix for path in answer["registered"]] == [
        ".ply",
        ".json",
        ".png",
    ]
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {
        Path(path).name for path in [*answer["registered"], answer["picture"]]
    }


def test_one_refused_scan_is_said_and_the_others_are_answered(predicted, face, tmp_path):
    ball = tmp_path / "ball.ply"
    trimesh.creation.icosphere(4, 90).export(ball)
    code, said = predicted(ball, face, "--out", tmp_path / "drawn", "--json")
    refused, found = map(json.loads, said.splitlines())
    assert code == 2 and "does not register" in refused["refused"]
    assert found["probabilities"].keys() == set(CLASSES) and Path(found["picture"]).exists()


def test_one_scan_that_crashes_the_registration_does_not_end_the_others(
    predicted, face, tmp_path, monkeypatch
):
    carry = predict.carry_template

    def fragile(scan, settings):
        if scan.source.endswith("bad.ply"):
            raise ValueError("array must not contain infs\nor NaNs")
        return carry(scan, settings)

    monkeypatch.setattr(predict, "carry_template", fragile)
    bad = Path(shutil.copy(face, tmp_path / "bad.ply"))
    code, said = predicted(face, bad, face, "--out", tmp_path / "drawn", "--json")
    first, refused, last = map(json.loads, said.splitlines())
    assert code == 2 and first == last and "probabilities" in first
    assert "bad.ply" in refused["refused"] and "array must not contain infs" in refused["refused"]


def test_no_picture_is_drawn_over_another_scans(predicted, face, scan, tmp_path):
    """Two files of one name have a picture each; the same file again has the same picture."""
    drawn = tmp_path / "drawn"
    other = tmp_path / "other" / "face.ply"
    other.parent.mkdir()
    shutil.copy(face, other)
    predicted(face, "--out", drawn)
    [first] = drawn.iterdir()
    before = first.read_bytes()
    predicted(other, "--out", drawn)
    assert first.read_bytes() == before and len(list(drawn.iterdir())) == 2
    predicted(face, other, "--out", drawn)
    assert len(list(drawn.iterdir())) == 2
    trimesh.Trimesh(scan.points + 1, scan.triangles, process=False).export(other)
    predicted(other, "--out", drawn)
    assert len(list(drawn.iterdir())) == 3 and first.read_bytes() == before


def test_an_answer_is_given_though_its_picture_cannot_be_written(predicted, face, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, said = predicted(face, face, "--out", tmp_path / "file")
    assert code == 2 and said.count("surprise") == 2 and said.count("picture: cannot write") == 2


def test_nothing_to_predict_and_a_strange_axis_are_one_sentence(tiny, tmp_path):
    for paths, up, unit, sentence in (
        ((), "y", None, "at least one scan"),
        ((tmp_path,), "w", None, "no axis 'w'"),
        ((tmp_path,), "y", "feet", "no unit 'feet'"),
    ):
        with pytest.raises(DrferError, match=sentence):
            models = shipped.load_model()[0], recogniser.load_recogniser()
            next(predict.answers(*models, paths, up, unit, tmp_path))


ODD_NAMES = [rb"$\frac$.ply", rb"**.ply", b"f\xe9e.ply", "面部.ply".encode(), b"a" * 250 + b".ply"]


def test_any_file_name_can_be_printed_and_drawn(tiny, face, tmp_path):
    """Mathematics, a pattern, no UTF-8, glyphs that the font lacks, and the longest; in ASCII."""
    for name in ODD_NAMES:
        shutil.copyfile(face, os.path.join(os.fsencode(tmp_path), name))
    script = "from drfer.models import shipped; from drfer import cli; from pathlib import Path\n"
    script += f"shipped.PATH = Path({str(tiny)!r}); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", *ODD_NAMES, "--out", "drawn"],
        cwd=tmp_path,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
    assert done.stdout.count(b"picture: drawn/") == len(ODD_NAMES)
    assert len(list((tmp_path / "drawn").iterdir())) == len(ODD_NAMES)


def test_pictures_say_which_scan(tiny, scan):
    figure = predict.picture(said_of(scan))
    assert scan.source[-50:] in figure.get_suptitle()
