"""The trained model in few bytes, and what `drfer predict` says of scans in all formats, and of what is no face."""

import json
import sys
from dataclasses import replace

import licensed
import numpy as np
import pytest
import torch
import trimesh
from driver import TINY
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from test_preprocessing import no_faces

from drfer import predict
from drfer.cli import main
from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.experiment import PRESETS
from drfer.evaluation.store import Store
from drfer.models import shipped

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model_file(database, faces, tmp_path_factory):
    """A tiny model, trained on everyone, as the kit's own is made."""
    folder = tmp_path_factory.mktemp("shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "classroom", TINY)
        shipped.make(
            database, faces, Store(folder / "store"), {"0": 50.0}, folder / "shipped.safetensors"
        )
    return folder / "shipped.safetensors"


@pytest.fixture
def tiny(model_file, monkeypatch):
    monkeypatch.setitem(PRESETS, "classroom", TINY)
    monkeypatch.setattr(shipped, "PATH", model_file)
    return model_file


def test_a_file_says_who_was_trained_on_and_how_well_others_were_recognised(tiny, faces):
    model, card = shipped.load()
    assert not model.training
    assert card["training subjects"] == faces.subjects and card["training scans"] == len(
        faces
    ) - len(faces.subjects)
    assert (
        card["data hash"] == faces.hash
        and card["loss of the last epoch"].keys() == TINY.trainings.keys()
    )
    assert {"torch", "machine", "date"} <= card["provenance"].keys()


def test_a_checkout_may_have_no_model(tmp_path):
    assert shipped.load(tmp_path / "none.safetensors") is None


def test_weights_of_another_version_are_refused(tiny, tmp_path):
    with safe_open(tiny, "pt") as stored:
        card, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}
    name = next(name for name in tensors if name.startswith("fusion"))
    tensors["renamed"] = tensors.pop(name)
    save_file(tensors, tmp_path / "other.safetensors", card)
    with pytest.raises(DrferError, match=f"not of this version's model: {name}, renamed"):
        shipped.load(tmp_path / "other.safetensors")


def test_few_bytes_say_nearly_the_same(tiny, faces, database):
    everyone = shipped.Everyone(replace(TINY, protocol=replace(TINY.protocol, folds=1)), 0)
    data = shipped.FoldData(faces, [], TINY.sizes.points)
    whole = shipped.assemble(everyone, ("iii",), faces, data, Store(tiny.parent / "store")).eval()
    small, _ = shipped.load()
    clouds = data.clouds[data.train]
    with torch.no_grad():
        theirs, ours = whole.disentangle(clouds), small.disentangle(clouds)
        logits = [
            model.expression.classifier(model.expression.encode(clouds)) for model in (whole, small)
        ]
    for name in ("expression_face", "identity_face"):
        assert (getattr(ours, name) - getattr(theirs, name)).abs().max() * 120 < 1, "mm"
    assert (logits[0] - logits[1]).abs().max() < 0.05
    assert tiny.stat().st_size < sum(4 * tensor.numel() for tensor in whole.state_dict().values())


def test_the_kits_own_model_fits_into_a_repository_and_loads():
    if not shipped.PATH.exists():
        pytest.fail("this checkout has no trained model: python -m drfer.shipped makes it")
    assert shipped.PATH.stat().st_size <= 10e6
    model, card = shipped.load()
    assert len(card["training subjects"]) == 100 and model.fusion.skips


@pytest.fixture(scope="module")
def scan(database):
    return database.load(
        next(key for key in database.keys() if key.expression == "surprise" and key.level == 4)
    )


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "wrl"])
def test_formats_give_the_same_answer(tiny, scan, tmp_path, kind):
    path = tmp_path / f"face.{kind}"
    if kind == "wrl":
        path.write_text(licensed.vrml(scan.points, scan.triangles))
    else:
        trimesh.Trimesh(scan.points, scan.triangles, process=False).export(path)
    model, _ = shipped.load()
    found, expected = predict.predict(model, predict.read_scan(path)), predict.predict(model, scan)
    assert found.probabilities.keys() == set(EXPRESSIONS) and sum(
        found.probabilities.values()
    ) == pytest.approx(1)
    assert list(found.probabilities.values()) == pytest.approx(
        list(expected.probabilities.values()), abs=0.05
    )
    assert np.linalg.norm(found.registered.mean(axis=0) - expected.registered.mean(axis=0)) < 1


@pytest.mark.parametrize("degrees", [-30, 30])
def test_a_turned_head_is_turned_back(tiny, scan, degrees):
    model, _ = shipped.load()
    turned = trimesh.transformations.rotation_matrix(np.radians(degrees), [0, 1, 0])[:3, :3]
    found = predict.predict(
        model, replace(scan, points=(scan.points @ turned.T + [50, 0, 9]).astype(np.float32))
    )
    expected = predict.predict(model, scan)
    assert not found.doubtful
    assert np.abs(found.registered.mean(axis=0) - expected.registered.mean(axis=0)).max() < 1, "mm"


@pytest.mark.parametrize("what", no_faces())
def test_what_is_no_face_is_refused(tiny, tmp_path, what):
    no_faces()[what].export(tmp_path / "thing.ply")
    with pytest.raises(ScanFormatError, match="does not register as a face"):
        predict.predict(shipped.load()[0], predict.read_scan(tmp_path / "thing.ply"))


def test_an_empty_mesh_and_a_strange_file_are_refused(tmp_path):
    (tmp_path / "empty.obj").write_text("# nothing\n")
    with pytest.raises(ScanFormatError, match="empty.obj"):
        predict.read_scan(tmp_path / "empty.obj")
    with pytest.raises(DrferError, match="no format that is read here"):
        predict.read_scan(tmp_path / "photo.jpg")
    with pytest.raises(ScanFormatError, match="cannot be read"):
        predict.read_scan(tmp_path / "missing.wrl")


def test_the_command_prints_six_probabilities_and_draws_each_face_and_goes_on_after_a_refusal(
    tiny, scan, tmp_path, monkeypatch, capsys
):
    face, ball = tmp_path / "face.ply", tmp_path / "ball.ply"
    trimesh.Trimesh(scan.points, scan.triangles, process=False).export(face)
    trimesh.creation.icosphere(4, 90).export(ball)
    for flags in ([], ["--json"]):
        arguments = [
            "drfer",
            "predict",
            str(ball),
            str(face),
            "--out",
            str(tmp_path / "drawn"),
            *flags,
        ]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        said = capsys.readouterr().out
        if flags:
            refused, found = map(json.loads, said.splitlines())
            assert "does not register" in refused["refused"] and found[
                "probabilities"
            ].keys() == set(EXPRESSIONS)
        else:
            assert f"{ball}: refused" in said and all(f"  {name}" in said for name in EXPRESSIONS)
    picture = np.asarray(Image.open(tmp_path / "drawn" / "02-face.png").convert("RGB"))
    assert picture.shape[0] > 200 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_pictures_say_which_scan(tiny, scan):
    assert scan.source in predict.picture(predict.predict(shipped.load()[0], scan)).get_suptitle()
