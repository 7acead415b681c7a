"""Draws: named without their faces, the same bytes whatever happens, and a disk that does not fill."""

import json
import os
import random
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from driver import counts, start
from made_up_populations import TINY_DRAWS, draws_request

from drfer.common.errors import DrferError
from drfer.datasets.anny3dfe import Populations, database
from drfer.datasets.anny3dfe.database import FaceSettings
from drfer.datasets.anny3dfe.identity import Identity
from drfer.datasets.anny3dfe.populations import names_in
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.evaluation import draws as module
from drfer.evaluation import engine
from drfer.evaluation.collect import collect
from drfer.evaluation.draws import DrawFaces, clouds_to_test
from drfer.evaluation.engine import run_draws_here, status
from drfer.evaluation.evaluation import Evaluation
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.linear import CLASSIFIERS
from drfer.evaluation.plan import Request, plan
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.protocol import Draws, protocol_keys
from drfer.evaluation.result import load_result
from drfer.evaluation.rows import BASELINE, METHOD
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.preprocessing.head_pose import PosedFaces
from drfer.training.data import labels_of
from drfer.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = "anny3dfe-smoke-draws-9"
ARGUMENTS = ("--preset", "smoke", "--draws", 2, "--measures", "features")


@pytest.fixture
def nothing_is_made(monkeypatch, tmp_path):
    """Whoever makes or preprocesses a face fails."""

    def refuse(*arguments):
        raise AssertionError("faces are made")

    monkeypatch.setenv("DRFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(database, "_make", refuse)
    monkeypatch.setattr(module, "preprocess", refuse)


@pytest.fixture
def finished_draws(made_up_faces, tmp_path):
    """Two draws, done in this process in one go: the store, and what is in the cache after them."""
    request, store = draws_request(), Store(tmp_path / "finished" / "store")
    faces = DrawFaces(TINY_DRAWS.protocol)
    assert run_draws_here(plan(request, faces, store), faces, store) == []
    collect(request, faces, store, tmp_path / "finished" / FOLDER)
    return tmp_path / "finished"


def left_in(cache):
    """Names of the files and folders in the cache, but for the locks."""
    return {path.name for path in cache.iterdir()} - {"locks"}


def folder_of(population):
    return Populations({}).folder_of(population).name


def assert_nothing_of_a_draw_is_left(cache, store):
    """One population, and two face sets: of the tested."""
    left = left_in(cache)
    assert folder_of(100) in left
    assert sum(name.startswith("anny3dfe-") for name in left) == 1
    assert sum(name.startswith("faceset-") for name in left) == len(left) - 1 == 2
    for path in store.root.glob("*/weights.safetensors"):
        assert path.parent.name.rpartition("-")[0] not in STAGES, "weights of a finished draw"
    assert not list(store.root.glob("*.checkpoint"))


# ------------------------------------------------------------------------------------ who is in them


def test_nobody_is_in_two_draws_and_all_are_tested_on_the_same(nothing_is_made):
    draws = [DrawFaces(Draws(), draw) for draw in (1, 2, 99)]
    trained = [set(faces.train_subjects) for faces in draws]
    assert [len(subjects) for subjects in trained] == [54, 54, 54]
    assert len(set.union(*trained)) == 3 * 54
    for faces, subjects in zip(draws, trained):
        assert faces.test_subjects == draws[0].test_subjects
        assert not subjects & set(faces.test_subjects)
        women = sum(name[4] == "F" for name in subjects)
        assert women == 30, "in the share of a population"
        run = Run(replace(PRESETS["classroom"], protocol=Draws()), 0, repeat=faces.draw)
        assert run.split(faces) == (faces.train_subjects, faces.test_subjects)
    tested = draws[0].test_subjects
    assert len(set(tested)) == 300
    assert {name[:3] for name in tested} == {"100", "101", "102"}
    measured = set(draws[0].subjects) - trained[0]
    assert measured == set(tested[:60])
    assert sum(name[4] == "F" for name in measured) in (33, 34), "of 56 %"
    assert len(draws[0].keys) == len(set(draws[0].keys)) == (54 + 60) * 13


def test_development_has_people_of_its_own(nothing_is_made):
    usual, other = DrawFaces(Draws(), 7), DrawFaces(Draws(development=True), 7)
    assert {name.split("-")[0] for name in other.train_subjects} == {"1007"}
    assert {name.split("-")[0] for name in other.test_subjects} == {"1100", "1101", "1102"}
    assert [name.split("-")[1] for name in other.train_subjects] == [
        name.split("-")[1] for name in usual.train_subjects
    ]
    assert usual.hash != other.hash


def test_fewer_training_subjects_are_a_part_of_more(nothing_is_made):
    few, many = (DrawFaces(Draws(train_subjects=count), 3) for count in (18, 54))
    assert set(few.train_subjects) < set(many.train_subjects)
    assert few.test_subjects == many.test_subjects
    assert few.hash != many.hash


def test_the_hash_is_of_all_that_determines_the_faces(nothing_is_made, monkeypatch):
    before = DrawFaces(Draws())
    others = [
        before.of(2),
        DrawFaces(Draws(train_subjects=53)),
        DrawFaces(Draws(test_subjects=299)),
        DrawFaces(Draws(measured_subjects=59)),
        DrawFaces(Draws(intensities=(4,))),
        DrawFaces(Draws(intensities=(1, 2))),
        DrawFaces(Draws(identity=0.5)),
        DrawFaces(Draws(), settings=replace(before.settings, largest_distance=9.0)),
    ]
    assert DrawFaces(Draws()).hash == before.hash
    assert len({before.hash, *(faces.hash for faces in others)}) == 1 + len(others)
    monkeypatch.setattr(database, "VERSION", "1.1")
    module._tested_hashes.cache_clear()
    assert DrawFaces(Draws()).hash != before.hash
    module._tested_hashes.cache_clear()


def test_a_draws_arrays_belong_to_its_keys(made_up_faces):
    faces, protocol = DrawFaces(TINY_DRAWS.protocol, 2), TINY_DRAWS.protocol
    faces.dataset.make()
    alone = module.preprocess(faces.dataset, faces.keys[: 9 * 13])
    for name in ("clouds", "vertices", "missing", "residuals", "doubtful", "poses"):
        array = getattr(faces, name)
        assert len(array) == len(faces.keys) == (9 + 4) * 13
        assert np.array_equal(array[: 9 * 13], getattr(alone, name))
    data = Experiment(Run(TINY_DRAWS, 0, repeat=2), faces, Store(made_up_faces / "store")).data
    assert data.subjects == faces.train_subjects
    assert {faces.keys[scan].subject for scan in data.test} == set(faces.test_subjects[:4])
    clouds, labels = clouds_to_test(faces, data)
    everyone = module.preprocess(faces.dataset, protocol_keys(faces.test_subjects, protocol))
    expressive = [n for n, key in enumerate(everyone.keys) if key.expression != NEUTRAL]
    assert np.array_equal(clouds.numpy(), everyone.clouds[expressive][:, :64])
    expected = [EXPRESSIONS.index(everyone.keys[n].expression) for n in expressive]
    assert labels.tolist() == expected
    assert len(labels) == protocol.test_subjects * 12


def test_turned_heads_are_those_of_both_parts(made_up_faces, monkeypatch):
    faces = DrawFaces(TINY_DRAWS.protocol)

    def pose_faces(part):
        keys = [key for key in part.keys if key.expression != NEUTRAL]
        return PosedFaces(keys, np.full((len(keys), 17), len(part)), np.zeros(len(keys)), "")

    monkeypatch.setattr(module, "pose_faces", pose_faces)
    posed = faces.posed
    assert posed.keys == [key for key in faces.keys if key.expression != NEUTRAL]
    assert posed.clouds[:, 0].tolist() == [9 * 13] * 9 * 12 + [4 * 13] * 4 * 12


def test_a_factor_changes_faces_or_labels_and_nothing_else(made_up_faces, tmp_path):
    usual = TINY_DRAWS.protocol
    stronger = replace(usual, identity=2.0)
    spreads = [module.populations_of(one).faces.identity.spread for one in (usual, stronger)]
    assert spreads[1] == 2 * spreads[0] == 2 * FaceSettings().identity.spread
    assert replace(FaceSettings(), identity=replace(Identity(), spread=spreads[1])) == (
        module.populations_of(stronger).faces
    )
    weak = DrawFaces(replace(usual, intensities=(1, 2)))
    assert {key.intensity for key in weak.keys} == {0, 1, 2}
    assert weak.dataset.intensities == (1, 2)
    learned = []
    for share in (0.0, 0.25):
        preset = replace(TINY_DRAWS, protocol=replace(usual, wrong_labels=share))
        faces, run = DrawFaces(preset.protocol), Request(preset, folds=(0,)).runs()[0]
        experiment = Experiment(run, faces, Store(tmp_path))
        data, true = experiment.data, labels_of(faces)
        wrong = data.labels.numpy() != true
        assert wrong[data.train].sum() == round(share * len(data.train))
        assert not wrong[data.test].any()
        answers = CLASSIFIERS["linear-vertices"].test(experiment)
        assert answers["truth"] == clouds_to_test(faces, data)[1].tolist(), "the true ones"
        learned.append(answers["predicted"])
    assert learned[0] != learned[1], "of other labels"


@pytest.mark.parametrize(
    "changed",
    [{"identity": -0.1}, {"identity": 3.1}, {"intensities": ()}, {"intensities": (0, 1)}]
    + [{"wrong_labels": -0.1}, {"wrong_labels": 1.0}, {"wrong_labels": float("nan")}],
)
def test_factors_that_cannot_be_are_refused(changed):
    with pytest.raises(DrferError) as refusal:
        Draws(**changed)
    assert "\n" not in str(refusal.value)


# ------------------------------------------------------------------------------------------ planning


def test_twenty_draws_are_planned_and_looked_at_in_no_time(nothing_is_made, tmp_path):
    preset = replace(PRESETS["classroom"], protocol=PRESETS["classroom"].draws)
    faces, store = DrawFaces(preset.protocol), Store(tmp_path / "store")
    started = time.process_time()
    request = Request.of_names(preset, ("table3",), ("all",), (), 20, 0)
    jobs = plan(request, faces, store)
    listed = counts(status(jobs, store))
    assert collect(request, faces, store, tmp_path).rows == []
    assert time.process_time() - started < 5
    assert listed["i-expression"] == (0, 0, 0, 40), "with rotated scans too"
    assert listed["samples"] == (0, 0, 0, 1)
    assert not (tmp_path / "cache").exists()
    assert (
        list(plan(draws_request(1), faces, store))
        == list(plan(draws_request(3), faces, store))[: len(plan(draws_request(1), faces, store))]
    )


def test_no_two_draws_or_sizes_share_a_name(nothing_is_made, tmp_path):
    names = set()
    protocols = [
        Draws(),
        Draws(train_subjects=18),
        Draws(test_subjects=200),
        Draws(identity=1.5),
        Draws(intensities=(1, 2)),
        Draws(wrong_labels=0.1),
        Draws(wrong_labels=0.2),
    ]
    for protocol in protocols:
        preset = replace(TINY_DRAWS, protocol=protocol)
        request = Request.of_names(preset, (METHOD,), ("features", "pose"), (), 5, 0)
        jobs = plan(request, DrawFaces(protocol), Store(tmp_path))
        assert len(jobs) == 5 * (7 + 7 + 1 + 2)
        names |= jobs.keys()
    assert len(names) == len(protocols) * 5 * 17


def test_each_draw_has_a_seed_of_its_own():
    runs = draws_request(3, seed=10).runs()
    assert [(run.repeat, run.fold, run.seed) for run in runs] == [
        (1, 0, 11),
        (2, 0, 12),
        (3, 0, 13),
    ]
    assert runs[0].place == "draw 1"


# ------------------------------------------------------------------------------------ an evaluation


def test_two_draws_from_the_command_line_to_the_result(
    command, no_figures, made_up_faces, tmp_path, finished_draws
):
    code, said = command("status", *ARGUMENTS, "--out", tmp_path)
    assert set(counts(said.out).values()) == {(0, 0, 0, 2)}
    code, said = command("crossval", *ARGUMENTS, "--out", tmp_path)
    assert code == 0, said.err
    result, store = load_result(tmp_path / FOLDER), Store(tmp_path / "store")
    assert result.heading["protocol"]["kind"] == "draws"
    assert result.protocol == TINY_DRAWS.protocol
    assert result.name == FOLDER
    assert result.folds == [(1, 0), (2, 0)]
    for row in (BASELINE, METHOD):
        first, second = result.tests(row)
        assert first["truth"] == second["truth"]
        assert len(first["truth"]) == 6 * 12, "all who are tested"
    for entry in result.select("features"):
        assert len(entry["labels"]) == 4 * 12, "those who are measured"
    of_tested = [entry["test subjects"] for entry in result.select("fold")]
    assert of_tested == [DrawFaces(TINY_DRAWS.protocol).test_subjects] * 2
    assert set(of_tested[0]) == set(names_in(100, 6))
    assert_nothing_of_a_draw_is_left(made_up_faces, store)
    code, said = command("status", *ARGUMENTS, "--out", tmp_path)
    assert set(counts(said.out).values()) == {(2, 0, 0, 0)}, "without weights it is done too"
    assert bytes_of(tmp_path) == bytes_of(finished_draws)


def bytes_of(folder):
    return (folder / FOLDER / "result.json").read_bytes()


def test_provenance_keeps_the_hash_of_the_faces_that_were_made(finished_draws):
    origin = json.loads((finished_draws / FOLDER / "provenance.json").read_text())
    by_draw = {}
    for name, of in origin.items():
        hashes = {key: value for key, value in of.items() if key.startswith("faces of")}
        by_draw.setdefault(str(sorted(hashes)), set()).add(str(hashes))
    assert len(by_draw) == 2, "each draw has a population of its own, and one that is tested"
    assert all(len(hashes) == 1 for hashes in by_draw.values())
    assert all("faces of population 100" in populations for populations in by_draw)


def test_finished_draws_are_not_made_again(
    finished_draws, command, no_figures, nothing_trains, monkeypatch
):
    before = bytes_of(finished_draws)

    def refuse(*arguments):
        raise AssertionError("faces are made")

    monkeypatch.setattr(database, "_make", refuse)
    monkeypatch.setattr(module, "preprocess", refuse)
    code, said = command("crossval", *ARGUMENTS, "--out", finished_draws)
    assert code == 0, said.err
    assert bytes_of(finished_draws) == before


def test_an_evaluation_grows_by_draws_and_by_measures(
    command, no_figures, made_up_faces, finished_draws, tmp_path
):
    """A measure of a finished draw trains what it looks at once more, and gives the same."""
    plain = ("--preset", "smoke", "--out", tmp_path, "--draws")
    for arguments in ((1,), (1, "--measures", "features"), (2, "--measures", "features")):
        code, said = command("crossval", *plain, *arguments)
        assert code == 0, said.err
        assert "damaged" not in said.out
        assert_nothing_of_a_draw_is_left(made_up_faces, Store(tmp_path / "store"))
    assert bytes_of(tmp_path) == bytes_of(finished_draws)


def test_no_more_than_one_draws_faces_are_there_at_a_time(made_up_faces, tmp_path, monkeypatch):
    populations, kept, original = set(), [], Store.save

    def save(self, name, *arguments):
        original(self, name, *arguments)
        there = {path.name for path in made_up_faces.glob("anny3dfe-*")} - {folder_of(100)}
        assert len(there) == 1
        populations.update(there)
        kept.append(len(list(self.root.glob("*/weights.safetensors"))))

    monkeypatch.setattr(Store, "save", save)
    faces, store = DrawFaces(TINY_DRAWS.protocol), Store(tmp_path / "store")
    jobs = plan(draws_request(3, (BASELINE,), ()), faces, store)
    assert run_draws_here(jobs, faces, store) == []
    assert populations == {folder_of(draw) for draw in (1, 2, 3)}
    assert kept == [1, 1, 1]
    assert Experiment(Run(TINY_DRAWS, 0), faces, store)
    from drfer.evaluation import experiment

    assert experiment._fold_data.cache_info().currsize == 0, "memory is let go of"
    assert_nothing_of_a_draw_is_left(made_up_faces, store)


def test_a_draw_that_fails_leaves_no_faces_and_keeps_its_weights(
    command, no_figures, made_up_faces, finished_draws, tmp_path, monkeypatch
):
    good = PRESETS["smoke"]
    broken = replace(good.schedules["iii"], learning_rate=-1.0)
    bad = replace(good, schedules={**good.schedules, "iii": broken})
    with monkeypatch.context() as patch:
        patch.setitem(PRESETS, "smoke", bad)
        code, said = command("crossval", *ARGUMENTS, "--out", tmp_path)
        assert code == 2
        assert said.err.strip().splitlines()[-1].startswith("drfer: 4 of 16 jobs failed")
    left = {name for name in left_in(made_up_faces) if name.startswith("anny3dfe-")}
    assert left == {folder_of(100)}
    assert len(list((tmp_path / "store").glob("*/weights.safetensors"))) == 12
    code, said = command("crossval", *ARGUMENTS, "--out", tmp_path)
    assert code == 0, said.err
    assert bytes_of(tmp_path) == bytes_of(finished_draws)
    assert_nothing_of_a_draw_is_left(made_up_faces, Store(tmp_path / "store"))


# ---------------------------------------------------------------------------- killed, and in twos


def test_killed_at_any_time_it_ends_with_the_same_bytes(made_up_faces, finished_draws, tmp_path):
    shutil.rmtree(made_up_faces)
    chance = random.Random(0)
    for _ in range(3):
        driver = start("crossval", *ARGUMENTS, "--out", tmp_path)
        for _ in range(chance.randint(3, 9)):  # checkpoints and results
            assert driver.stdout.readline()
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        assert driver.returncode == -signal.SIGKILL
    driver = start("crossval", *ARGUMENTS, "--out", tmp_path)
    said, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert 0 < said.count("saved") < 16, "what was there is not done again"
    assert bytes_of(tmp_path) == bytes_of(finished_draws)
    assert_nothing_of_a_draw_is_left(made_up_faces, Store(tmp_path / "store"))


def test_killed_before_it_tidied_up_the_next_one_does(made_up_faces, tmp_path, monkeypatch):
    faces, store = DrawFaces(TINY_DRAWS.protocol), Store(tmp_path / "store")
    jobs = plan(draws_request(2, (BASELINE,), ()), faces, store)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "drop_tensors", lambda self, name: os.strerror(0))
        patch.setattr(DrawFaces, "remove", lambda self: None)
        run_draws_here(jobs, faces, store)
    assert len(list(store.root.glob("*/weights.safetensors"))) == 2
    assert faces.are_left and faces.of(2).are_left
    assert engine.missing(jobs, store) == []
    assert run_draws_here(jobs, faces, store) == []
    assert not faces.are_left
    assert_nothing_of_a_draw_is_left(made_up_faces, store)


def test_a_draw_of_another_process_is_left_to_it(made_up_faces, tmp_path):
    """The others come first; then its end is waited for."""
    faces, store = DrawFaces(TINY_DRAWS.protocol), Store(tmp_path / "store")
    jobs = plan(draws_request(2, (BASELINE,), ()), faces, store)
    first, second = jobs
    held, seen = threading.Event(), []

    def hold():
        with faces.lock(wait=True) as mine:
            assert mine
            held.set()
            while store.record(second) is None:
                time.sleep(0.01)
            seen.append(store.record(first))

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    assert run_draws_here(jobs, faces, store) == []
    other.join()
    assert seen == [None]
    assert store.record(first)
    assert_nothing_of_a_draw_is_left(made_up_faces, store)


def test_two_drivers_share_the_draws(made_up_faces, finished_draws, tmp_path):
    shutil.rmtree(made_up_faces)
    drivers = [start("crossval", *ARGUMENTS, "--out", tmp_path) for _ in range(2)]
    said = [driver.communicate() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    lines = [line for out, _ in said for line in out.splitlines()]
    saved = [line.split()[1] for line in lines if line.startswith("saved")]
    assert len(saved) == len(set(saved)) == 16, "each job once"
    assert bytes_of(tmp_path) == bytes_of(finished_draws)
    assert_nothing_of_a_draw_is_left(made_up_faces, Store(tmp_path / "store"))


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("--draws", 0), "0 draws cannot be run; give 1 to 99"),
        (("--draws", -1), "-1 draws cannot be run; give 1 to 99"),
        (("--draws", 100), "100 draws cannot be run; give 1 to 99"),
        (("--draws", 2, "--folds", 0), "leave --folds, --repeats, --redraw and"),
        (("--draws", 2, "--repeats", 2), "leave --folds, --repeats, --redraw and"),
        (("--draws", 2, "--redraw"), "leave --folds, --repeats, --redraw and"),
        (("--draws", 2, "--dataset", "bu3dfe"), "other datasets have none"),
        (("--draws", 2, "--dataset", "bosphorus", "--root", "."), "other datasets have none"),
        (("--draws", 2, "--dataset", "scans", "--root", "."), "other datasets have none"),
        (("--draws", 2, "--root", "."), "leave --dataset, --root and --up away"),
        (("--draws", 2, "--up", "z"), "leave --dataset, --root and --up away"),
        (("--train-subjects", 18), "--train-subjects is for draws"),
        (("--development",), "--development is for draws"),
        (("--draws", 2, "--train-subjects", 8), "on 8 subjects; give --train-subjects 9 to 100"),
        (("--draws", 2, "--train-subjects", 101), "give --train-subjects 9 to 100"),
        (("--draws", 2, "--seed", 2**31 - 2), "2147483648 is no seed"),
        (("--draws", 2, "--out", "/proc/nowhere"), "cannot write"),
    ],
)
def test_mistakes_are_one_sentence(
    command, tiny_preset, no_figures, nothing_is_made, tmp_path, arguments, sentence
):
    code, said = command("crossval", "--preset", "smoke", "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_numbers_of_test_subjects_that_cannot_be_are_refused():
    for measured, tested in ((1, 300), (300, 300), (60, 30)):
        with pytest.raises(DrferError, match=f"{measured} of {tested} test subjects") as refusal:
            Draws(measured_subjects=measured, test_subjects=tested)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "draws, name",
    [
        (Draws(), "anny3dfe-classroom-draws"),
        (Draws(train_subjects=18), "-draws-18"),
        (Draws(development=True), "anny3dfe-classroom-development"),
        (Draws(train_subjects=18, development=True), "-development-18"),
        (Draws(identity=1.5), "anny3dfe-classroom-draws-identity1_5"),
        (Draws(train_subjects=18, intensities=(1, 2)), "-draws-18-levels12"),
        (Draws(wrong_labels=0.1), "-draws-wrong10"),
    ],
)
def test_each_kind_of_draws_has_a_folder_of_its_own(nothing_is_made, tmp_path, draws, name):
    preset = replace(PRESETS["classroom"], protocol=draws)
    request = Request.of_names(preset, ("main", "bounds"), (), (), 1, 0)
    evaluation = Evaluation.open(request, None, tmp_path, to_run=False)
    assert evaluation.folder.name.endswith(name)
    assert "linear: true activations" in evaluation.request.rows, "the truth is known"


def test_results_of_other_training_subjects_are_not_mixed(
    finished_draws, command, no_figures, nothing_trains
):
    other = finished_draws / "anny3dfe-smoke-draws-10"
    (finished_draws / FOLDER).rename(other)
    code, said = command("crossval", *ARGUMENTS, "--train-subjects", 10, "--out", finished_draws)
    assert code == 2
    assert "results of another" in said.err and "protocol" in said.err
