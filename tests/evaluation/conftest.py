"""What the tests of the evaluation share."""

import pytest
from driver import TINY, draw_nothing
from made_up_populations import make_up
from stored_results import STORED

from drfer.evaluation.presets import PRESETS
from drfer.evaluation.result import load_result
from drfer.training.trainer import Trainer


@pytest.fixture
def tiny_preset(monkeypatch):
    """The command line's smoke preset has few steps."""
    monkeypatch.setitem(PRESETS, "smoke", TINY)


@pytest.fixture
def made_up_faces(tmp_path, monkeypatch):
    """Draws are of random numbers and few steps; gives the folder of their cache."""
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MADE_UP_FACES", "yes")
    monkeypatch.setitem(PRESETS, "smoke", TINY)  # so that it is put back
    make_up(monkeypatch.setattr)
    return tmp_path / "cache"


@pytest.fixture
def no_figures(monkeypatch):
    """The command line draws nothing; figures have tests of their own."""
    monkeypatch.setattr("drfer.figures.paper.draw", draw_nothing)


@pytest.fixture
def nothing_trains(monkeypatch):
    """Whoever trains fails."""

    def refuse(self):
        raise AssertionError("something is trained")

    monkeypatch.setattr(Trainer, "train_epoch", refuse)


@pytest.fixture(scope="session")
def stored():
    """A real result, which came with the source code."""
    return load_result(STORED)
