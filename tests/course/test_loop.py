"""The course's training loop, its picture, the map, and what a student keeps between notebooks."""

import linecache

import numpy as np
import pytest
import torch
from torch import nn

from drfer.course import mine as kept
from drfer.course.loop import Watch, train
from drfer.course.map import PLACES, course_map
from drfer.models.pointnet2 import Encoder

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_loop_minimises_the_sum_of_the_terms_and_changes_nothing_but_the_parts():
    torch.manual_seed(0)
    part, other = nn.Linear(2, 1), nn.Linear(2, 1)
    before = [weight.clone() for weight in other.parameters()]
    inputs = torch.randn(64, 2)
    wanted = inputs @ torch.tensor([[2.0], [-1.0]])

    def loss(batch):
        x, y = batch
        return {
            "error": (part(x) + 0 * other(x) - y).square().mean(),
            "bias": part.bias.abs().sum(),
        }

    seen = []
    curve = train([part], lambda epoch: [(inputs, wanted)] * 4, loss, 60, 0.1, seen.append)
    assert curve == seen and len(curve) == 60 and set(curve[0]) == {"error", "bias"}
    assert curve[-1]["error"] < 1e-2 < curve[0]["error"]
    assert torch.allclose(part.weight, torch.tensor([[2.0, -1.0]]), atol=0.05)
    assert all(map(torch.equal, before, other.parameters())) and not part.training


def test_the_picture_of_a_training_is_drawn_a_few_times_and_says_what_is_left(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr("drfer.course.loop.still", drawn.append)
    looks = iter(range(100))
    watch = Watch(20, {"a guess": 1.8}, lambda: {"seen": 90 + next(looks), "unseen": 50.0})
    for epoch in range(20):
        watch({"classification": 2 / (epoch + 1), "triplet": 0.3})
    assert len(drawn) == 10 and list(watch.looks) == list(range(2, 21, 2))
    printed = capsys.readouterr().out
    assert "epoch 2 of 20, about " in printed and "epoch 20 of 20" not in printed
    left, right = drawn[-1].axes
    assert {text.get_text() for text in left.texts} == {"a guess"}
    assert [line.get_label() for line in left.lines][:2] == ["classification", "triplet"]
    assert [line.get_label() for line in right.lines][:2] == ["seen", "unseen"]


def test_the_name_of_a_dotted_line_lies_off_the_curves():
    watch = Watch(20, {"a rival that does nothing": 0.3})
    for epoch in range(20):  # one curve close below the line, one that comes down to it
        watch.curve.append({"triplets": 0.29, "classification": max(1 - epoch / 14, 0.32)})
    figure = watch.figure()
    figure.draw_without_rendering()
    [axis] = figure.axes
    [text] = axis.texts
    box = text.get_window_extent()
    for line in axis.lines[:2]:
        steps = np.linspace(1, 20, 200)
        heights = np.interp(steps, *line.get_data())
        assert not box.count_contains(axis.transData.transform(np.column_stack([steps, heights])))


@pytest.mark.parametrize("notebook", PLACES)
def test_the_map_has_a_notebooks_parts_in_colour_and_says_where_one_is(notebook):
    rectangles, says = PLACES[notebook]
    axis = course_map(notebook).axes[0]
    pale = [patch for patch in axis.patches if patch.get_alpha() == 0.13]
    assert (len(pale) == 0) == (notebook in (0, 5, 10, 11))
    assert len(pale) < len(axis.patches)
    assert axis.texts[-1].get_text() == f"you are here: {says}"


class Shell:
    """What `keep` asks IPython for."""

    def __init__(self, *cells, **defined):
        self.user_ns = {"In": ["", *cells], **defined}


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path))

    def with_cells(*cells, **defined):
        monkeypatch.setattr("IPython.get_ipython", lambda: Shell(*cells, **defined))

    return with_cells


def test_what_a_student_keeps_is_taken_back_in_the_next_notebook(shell, capsys):
    shell(
        "class Layer(nn.Linear):\n    number = 1",
        "%matplotlib inline\n!ls",
        "class Layer(nn.Linear):\n    number = 2\n",
    )
    kept.keep("Layer", "Other")
    assert capsys.readouterr().out == (
        "Layer is kept for the next notebooks.\n"
        "no cell of this notebook defines Other: run it first.\n"
    )
    mine = kept.mine("Layer", nn.Linear)
    assert mine.number == 2 and issubclass(mine, nn.Linear)
    assert kept.mine("Other", nn.Bilinear) is nn.Bilinear
    assert capsys.readouterr().out == "Layer: yours\nOther: the kit's, for you have kept none\n"


def test_a_cell_is_kept_without_a_history_too(shell, capsys):
    """As nbval runs notebooks; IPython then knows cells by the file names of their code."""
    cell, names = "class Layer:\n    def forward(self):\n        return 7\n", {}
    linecache.cache["/tmp/cell_1.py"] = (len(cell), None, cell.splitlines(True), "/tmp/cell_1.py")
    exec(compile(cell, "/tmp/cell_1.py", "exec"), names)
    shell(Layer=names["Layer"])
    kept.keep("Layer")
    assert kept.mine("Layer", None)().forward() == 7


def test_of_a_kept_cell_only_definitions_are_run_and_the_students_own_classes_are_used(
    shell, capsys
):
    shell(
        "from drfer.models.branch import Classifier\n"
        "class Two(nn.Module):\n"
        "    def parts(self):\n"
        "        return Classifier, Encoder, torch.Tensor\n"
        "clouds = not_there.any_more()\n"
    )
    kept.keep("Two")

    class Own:
        pass

    found = kept.mine("Two", None, Classifier=Own)().parts()
    assert found == (Own, Encoder, torch.Tensor)
