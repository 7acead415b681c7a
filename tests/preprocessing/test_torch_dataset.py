"""The door for other networks: labelled clouds in PyTorch's own loader, divided by subject."""

import pytest
import torch
from torch.utils.data import DataLoader

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.preprocessing.torch_dataset import FaceDataset


def test_items_are_the_faces_of_the_set(faces):
    dataset = FaceDataset(faces, points=512)
    expressive = [n for n, key in enumerate(faces.keys) if key.expression != NEUTRAL]
    assert len(dataset) == len(expressive) and dataset.expressions == EXPRESSIONS
    for index in (0, 7, len(dataset) - 1):
        item, key = dataset[index], faces.keys[expressive[index]]
        assert item["points"].dtype == torch.float32 and item["points"].shape == (512, 3)
        assert item["points"].tolist() == faces.clouds[expressive[index], :512].tolist()
        assert EXPRESSIONS[item["expression"]] == key.expression
        assert dataset.subjects[item["subject"]] == key.subject and item["key"] == str(key)


def test_the_faces_stay_as_they_are(faces):
    before = faces.clouds[1, 0].copy()
    FaceDataset(faces)[0]["points"].zero_()
    assert (faces.clouds[1, 0] == before).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_pytorchs_loader_makes_batches_of_it(faces, workers):
    loader = DataLoader(FaceDataset(faces, points=256), batch_size=16, num_workers=workers)
    batches = list(loader)
    assert sum(len(batch["points"]) for batch in batches) == len(loader.dataset)
    assert batches[0]["points"].shape == (16, 256, 3)
    assert batches[0]["expression"].dtype == torch.int64 and len(batches[0]["key"]) == 16
    assert torch.equal(batches[0]["points"][3], loader.dataset[3]["points"])


def test_subjects_are_divided_without_overlap(faces):
    whole = FaceDataset(faces, points=64)
    train, test = whole.keep(whole.subjects[:9]), whole.keep(whole.subjects[9:])
    assert len(train) + len(test) == len(whole) and train.points == 64
    subjects = [{part[index]["subject"] for index in range(len(part))} for part in (train, test)]
    assert subjects == [set(range(9)), {9, 10, 11}], "one index for a subject in every part"
    assert FaceDataset(faces, {"F0001"}).members == whole.keep(["F0001"]).members


def test_neutral_is_a_seventh_class_if_asked(faces):
    with_neutral, without = FaceDataset(faces, neutral=True), FaceDataset(faces)
    labels = [with_neutral[index]["expression"] for index in range(len(with_neutral))]
    assert len(with_neutral) == len(faces) and labels.count(6) == len(faces.subjects)
    assert with_neutral.expressions[6] == NEUTRAL
    assert max(without[index]["expression"] for index in range(len(without))) == 5
    assert with_neutral.keep(["F0001"]).neutral


def test_a_dataset_is_opened_by_its_name(faces):
    opened = FaceDataset.open("anny3dfe", subjects=2, points=128)
    assert opened.subjects == ["F0001", "M0001"] and len(opened) == 2 * 6 * 2
    usual = FaceDataset(faces, opened.subjects, points=128)
    items = {opened[index]["key"]: opened[index]["points"] for index in range(len(opened))}
    for index in range(len(usual)):
        assert torch.equal(items[usual[index]["key"]], usual[index]["points"])


def test_what_cannot_be_is_one_sentence(faces, tmp_path):
    with pytest.raises(DrferError, match="no subject 'F0099'; there are F0001"):
        FaceDataset(faces, ["F0001", "F0099"])
    with pytest.raises(DrferError, match="1 to 2048 points, not 4096"):
        FaceDataset(faces, points=4096)
    with pytest.raises(DrferError, match="no scan of these subjects"):
        FaceDataset(faces, [])
    with pytest.raises(DrferError, match="--root"):
        FaceDataset.open("bu3dfe")
    with pytest.raises(DrferError, match="is not a folder"):
        FaceDataset.open("bosphorus", root=tmp_path / "nowhere")
