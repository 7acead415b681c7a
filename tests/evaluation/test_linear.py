"""Linear classifiers: what they see, who they learn from, and what they answer."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from driver import TINY

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.linear import (
    CLASSIFIERS,
    SMALLEST_SHARE,
    VERTICES,
    less_own_neutral,
    registered_vertices,
)
from drfer.evaluation.plan import Request, without_truth
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def experiment(faces, tmp_path):
    return Experiment(Run(TINY, 0), faces, Store(tmp_path))


def by_loops(experiment, values, there):
    """Coordinates of the vertices that enough training scans have; holes are their mean."""
    train, columns = experiment.data.train, []
    for vertex in range(VERTICES):
        seen = [scan for scan in train if there[scan, vertex]]
        if len(seen) < SMALLEST_SHARE * len(train):
            continue
        mean = np.mean([values[scan, vertex].astype(np.float64) for scan in seen], axis=0)
        column = [row[vertex] if has[vertex] else mean for row, has in zip(values, there)]
        columns.append(np.stack(column))
    return np.concatenate(columns, axis=1)


def test_vertices_are_those_of_the_loops(experiment):
    faces = experiment.faces
    expected = by_loops(experiment, faces.vertices, ~faces.missing)
    assert np.allclose(registered_vertices(faces, experiment.data.train), expected, atol=1e-6)


def test_differences_are_those_of_the_loops(experiment):
    faces = experiment.faces
    number_of = {str(key): number for number, key in enumerate(faces.keys)}
    own = [number_of[f"{key.subject} {NEUTRAL} 0"] for key in faces.keys]
    there = ~faces.missing & ~faces.missing[own]
    expected = by_loops(experiment, faces.vertices - faces.vertices[own], there)
    assert np.allclose(less_own_neutral(faces, experiment.data.train), expected, atol=1e-6)


def test_nothing_of_the_test_subjects_is_learned(experiment):
    data, faces = experiment.data, experiment.faces
    record = experiment.train("linear-vertices")
    vertices, missing = faces.vertices.copy(), faces.missing.copy()
    vertices[data.test[1:]], missing[data.test[1:]] = 0.1, False  # all but the first test scan
    changed = replace(faces, vertices=vertices, missing=missing)
    other = Experiment(experiment.run, changed, Store("/nowhere"))
    answer = CLASSIFIERS["linear-vertices"].test(other)
    assert answer["predicted"][0] == record["test"]["predicted"][0]
    assert len(set(answer["predicted"][1:])) == 1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_is_asked_for_is_stored_once(experiment, name):
    record = experiment.train(name)
    data, keys = experiment.data, experiment.faces.keys
    assert record["test"]["truth"] == [
        EXPRESSIONS.index(keys[scan].expression) for scan in data.test
    ]
    assert experiment.store.record(experiment.name(name)) == record
    assert experiment.train(name)["provenance"] == record["provenance"]
    right = np.mean(np.equal(record["test"]["truth"], record["test"]["predicted"]))
    assert right > 0.5, "even a handful of subjects says more than chance"


def test_less_neutral_and_the_truth_are_easier(experiment):
    def right(name):
        tested = experiment.train(name)["test"]
        return np.mean(np.equal(tested["truth"], tested["predicted"]))

    assert right("linear-vertices") < right("linear-difference") <= right("linear-activations")


def test_its_name_depends_on_faces_fold_and_version_and_not_on_the_preset(experiment, monkeypatch):
    name = experiment.name("linear-vertices")
    other_length = replace(TINY, length="short")
    for run, faces, same in (
        (Run(TINY, 1), experiment.faces, False),
        (Run(TINY, 0), replace(experiment.faces, hash="other"), False),
        (Run(other_length, 0), experiment.faces, True),
    ):
        assert (Experiment(run, faces, experiment.store).name("linear-vertices") == name) == same
    linear = CLASSIFIERS["linear-vertices"]
    monkeypatch.setitem(CLASSIFIERS, linear.name, replace(linear, version=99))
    assert Experiment(experiment.run, experiment.faces, experiment.store).name(linear.name) != name


def test_rows_that_need_the_truth_are_left_out_where_nobody_knows_it(capsys):
    request = Request.of_names(TINY, ("bounds",), (), (0,), 1, 0)
    assert without_truth(request, SimpleNamespace(name="made", truth=None)) == request
    assert capsys.readouterr().out == ""
    rows = without_truth(request, SimpleNamespace(name="bu3dfe")).rows
    assert rows == ("linear: vertices", "linear: less own neutral")
    assert capsys.readouterr().out.count("\n") == 1


def test_there_is_no_such_classifier(experiment):
    with pytest.raises((KeyError, DrferError)):
        experiment.train("linear-nothing")
