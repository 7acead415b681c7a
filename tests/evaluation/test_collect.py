"""From the store to a result: the same bytes in any order, and nothing of something else."""

import itertools
import json
import random
import shutil
from dataclasses import replace

import pytest
from driver import TINY, same_result, tiny_request
from mutants import mutate

from drfer.common.errors import DrferError
from drfer.evaluation.collect import collect, earlier_result
from drfer.evaluation.engine import run_here
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.plan import plan
from drfer.evaluation.result import load_result
from drfer.evaluation.rows import METHOD, ROWS
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")


def copied_part(finished, faces, request, folder):
    """A store that has nothing but what a request asks for."""
    store = Store(folder)
    for name in plan(request, faces, store):
        if not (folder / name).exists():
            shutil.copytree(finished.store.root / name, folder / name)
    return store


def content_of(folder):
    """What the files in a folder hold, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# ------------------------------------------------------------------------------- what a result says


def test_the_result_is_what_the_store_says(finished, faces):
    result = load_result(finished.folder)
    assert result.heading == finished.result.heading
    assert result.entries == finished.result.entries
    assert result.rows == ["w/o L_tri", "stage i", METHOD]
    for row in result.rows:
        entries = result.tests(row)
        assert [(entry["repeat"], entry["fold"]) for entry in entries] == [(0, 0), (0, 1)]
        for entry in entries:
            run = Run(TINY, entry["fold"]).change(ROWS[row])
            experiment = Experiment(run, faces, finished.store)
            record = finished.store.record(experiment.name(ROWS[row].stage))
            assert entry["result"] == experiment.name(ROWS[row].stage)
            assert entry["predicted"] == record["test"]["predicted"]
            assert entry["truth"] == experiment.data.labels[experiment.data.test].tolist()
    for entry in result.select("fold"):
        assert entry["test subjects"] == Run(TINY, entry["fold"]).split(faces)[1]
    assert len(result.select("features")) == 6
    assert result.protocol.intensities == (3, 4)
    assert result.heading["data hash"] == faces.hash
    assert result.heading["poses"][:2] == [["frontal", 0], ["yaw", -80]]
    assert len(result.heading["poses"]) == 17
    assert result.name == "anny3dfe-smoke"


def test_provenance_says_of_each_result_when_with_what_and_how_long(finished):
    origin = json.loads((finished.folder / "provenance.json").read_text())
    assert origin.keys() == finished.jobs.keys()
    for name, of in origin.items():
        record = finished.store.record(name)
        assert of == {**record["provenance"], "seconds": record["seconds"]}
        assert {"drfer", "torch", "device", "machine", "date", "seconds"} <= of.keys()


def test_the_order_of_the_jobs_does_not_matter(finished, faces, tmp_path):
    """Children first: each makes the parents that it finds missing."""
    request, store = tiny_request(folds=(1,)), Store(tmp_path / "store")
    jobs = plan(request, faces, store)
    for name in reversed(jobs):
        jobs[name].do(faces, store)
    assert same_result(finished, faces, request, store, tmp_path)
    assert load_result(tmp_path / "again").rows == finished.result.rows


# -------------------------------------------------------------------------------- results that grow

PARTS = (("stage i", 0, ()), (METHOD, 1, ("features",)), ("w/o L_tri", 1, ()), ("stage i", 1, ()))


def test_an_evaluation_grows_over_several_stores_in_any_order(finished, faces, tmp_path):
    """Row by row and fold by fold, each from a store that has nothing else."""
    written = set()
    for number, order in enumerate(itertools.permutations(PARTS)):
        folder = tmp_path / str(number)
        for row, fold, measures in order:
            request = tiny_request((row,), measures, (fold,))
            store = copied_part(finished, faces, request, tmp_path / f"{fold}{row[-2:]}{measures}")
            grown = collect(request, faces, store, folder)
        written.add((folder / "result.json").read_bytes())
    assert len(written) == 1
    folds = {row: [entry["fold"] for entry in grown.tests(row)] for row in grown.rows}
    assert folds == {"w/o L_tri": [1], "stage i": [0, 1], METHOD: [1]}
    whole = finished.result
    assert grown.tests("stage i") == whole.tests("stage i")
    assert grown.select("features") == whole.select("features", fold=1)
    assert load_result(folder).entries == grown.entries
    origin = json.loads((folder / "provenance.json").read_text())
    stages = {stage for stage in origin if stage.rpartition("-")[0] in STAGES}
    assert {name.rpartition("-")[0] for name in origin} == {
        job.what for job in finished.jobs.values()
    }
    assert len(origin) == len(stages) + 1


def test_what_is_missing_in_the_store_stays_missing(finished, faces, tmp_path):
    request = tiny_request((METHOD,), (), (0,))
    store = copied_part(finished, faces, tiny_request(("stage i",), (), (0,)), tmp_path / "store")
    assert collect(request, faces, store, tmp_path).rows == []
    assert collect(tiny_request(("main",), (), (0,)), faces, store, tmp_path).rows == ["stage i"]


# ----------------------------------------------------------------- folders that hold something else


@pytest.fixture
def folder(finished, tmp_path):
    """The finished evaluation's folder, copied, with samples in it."""
    folder = tmp_path / "anny3dfe-smoke"
    folder.mkdir()
    for name in ("result.json", "provenance.json"):
        shutil.copy(finished.folder / name, folder / name)
    return folder


def assert_refused(request, faces, store, folder, sentence):
    before = content_of(folder)
    for attempt in (earlier_result, collect):
        with pytest.raises(DrferError, match=sentence) as refusal:
            attempt(request, faces, store, folder)
        assert "\n" not in str(refusal.value)
        assert str(folder) in str(refusal.value)
    assert content_of(folder) == before, "nothing is lost"


def test_results_of_something_else_are_not_replaced(finished, faces, folder):
    store, request = finished.store, finished.request
    assert earlier_result(request, faces, store, folder).entries == finished.result.entries
    other_faces = replace(faces, hash="of other faces")
    assert_refused(request, other_faces, store, folder, "results of another data hash")
    for seed in (1, 2**31 - 1):
        assert_refused(tiny_request(seed=seed), faces, store, folder, "results of another seed")
    for change, sentence in (
        ({"name": "large"}, "results of another preset"),
        ({"protocol": replace(TINY.protocol, redraw=True)}, "results of another protocol"),
        ({"precision": "float64"}, "results of another precision"),
        ({"sizes": replace(TINY.sizes, points=128)}, "results of another version of drfer"),
        ({"schedules": {}}, "results of another version of drfer"),
    ):
        preset = replace(request.preset, **change)
        assert_refused(replace(request, preset=preset), faces, store, folder, sentence)


@pytest.mark.parametrize("table, name", [(STAGES, "ii-identity"), (MEASURES, "features")])
def test_results_of_another_version_of_the_code_are_not_replaced(
    finished, faces, folder, table, name, monkeypatch
):
    """A stage or measure whose version was raised, and a request that asks for another part."""
    monkeypatch.setitem(table, name, replace(table[name], version=99))
    for request in (finished.request, tiny_request(("stage i",), (), (0,))):
        sentence = "results of another version of drfer cannot be put together"
        assert_refused(request, faces, finished.store, folder, sentence)


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '"text"', '{"jobs done": 3}', "\xff", "[" * 10**5]
)
def test_provenance_of_another_form_is_refused_before_anything_runs(
    finished, faces, folder, content
):
    (folder / "provenance.json").write_bytes(content.encode("latin-1"))
    sentence = "provenance.json is not what this version of drfer wrote"
    assert_refused(finished.request, faces, finished.store, folder, sentence)
    (folder / "result.json").unlink()
    assert_refused(finished.request, faces, finished.store, folder, sentence)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"format": 1}'])
def test_a_result_of_another_form_is_not_replaced(finished, faces, folder, content):
    (folder / "result.json").write_text(content)
    sentence = "result.json is not a result of this version of drfer"
    assert_refused(finished.request, faces, finished.store, folder, sentence)


def test_a_mutant_is_kept_or_refused_in_one_sentence(finished, faces, folder):
    """A real result.json with something changed by chance, in a folder that is to grow."""
    path = folder / "result.json"
    original, refused = path.read_bytes(), 0
    for number in range(200):
        content = json.loads(original)
        mutate(content, random.Random(number))
        path.write_text(json.dumps(content))
        try:
            earlier_result(finished.request, faces, finished.store, folder)
        except DrferError as refusal:
            refused += 1
            assert "\n" not in str(refusal)
            assert str(folder) in str(refusal)
    assert 100 < refused < 200


def test_broken_samples_are_not_replaced(finished, faces, folder):
    (folder / "samples.npz").write_bytes(b"mine")
    assert_refused(finished.request, faces, finished.store, folder, "samples.npz is not a result")


def test_a_store_that_was_made_again_gives_the_same_result(finished, faces, folder, tmp_path):
    request = tiny_request(("stage i",), (), (0,))
    store = Store(tmp_path / "store")
    assert run_here(plan(request, faces, store), faces, store) == []
    before = (folder / "result.json").read_bytes()
    collect(request, faces, store, folder)
    assert (folder / "result.json").read_bytes() == before
