"""An evaluation as a whole, from the command line to its files, whatever happens in between."""

import json
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest
from driver import TINY, same_result, start, tiny_request

from drfer.evaluation.collect import collect
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.plan import plan
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.result import load_result
from drfer.evaluation.rows import CONTROL, METHOD
from drfer.evaluation.store import Store
from drfer.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = "anny3dfe-smoke"
ALL_OF_FINISHED = ("--folds", 0, 1, "--rows", "main", "w/o L_tri", "--measures", "features")


def files_in(folder):
    """What every file below a folder holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def saved(monkeypatch):
    """Names of the results that are stored in this process, in order."""
    names = []
    original = Store.save

    def save(self, name, *arguments):
        names.append(name)
        original(self, name, *arguments)

    monkeypatch.setattr(Store, "save", save)
    return names


# -------------------------------------------------------------------------- one fold, and all folds


def test_one_fold_is_a_cross_validation_of_one_fold(
    command, tiny_preset, no_figures, saved, faces, tmp_path, database
):
    """What `drfer reproduce` has trained, `drfer crossval` does not train again."""
    code, said = command("reproduce", "--preset", "smoke", "--out", tmp_path)
    assert code == 0, said.err
    assert "no table" in said.out, "the table is printed"
    rows = ("stage i", "stage i + ii", METHOD, CONTROL)
    request = tiny_request(rows, ("features", "curves", "samples"), (0,))
    store = Store(tmp_path / "store")
    assert sorted(saved) == sorted(plan(request, faces, store))
    before = load_result(tmp_path / FOLDER)
    assert before.rows == list(rows)
    assert len(before.select("curves")) == 6
    assert "sample fused" in before.samples

    saved.clear()
    code, said = command("crossval", "--preset", "smoke", "--folds", 0, 1, "--out", tmp_path)
    assert code == 0, said.err
    jobs = plan(tiny_request(("main",), (), (1,)), faces, store)
    assert sorted(saved) == sorted(jobs), "only the other fold"
    after = load_result(tmp_path / FOLDER)
    assert before.entries.items() <= after.entries.items(), "what was there stays there"
    assert before.samples.keys() == after.samples.keys()
    assert [entry["fold"] for entry in after.tests(METHOD)] == [0, 1]

    saved.clear()
    shutil.copytree(tmp_path / "store", tmp_path / "again" / "store")
    for arguments in (("crossval", "--folds", 0, 1), ("reproduce",)):
        code, said = command(*arguments, "--preset", "smoke", "--out", tmp_path / "again")
        assert code == 0, said.err
    assert saved == []
    for name in ("result.json", "samples.npz"):
        here, there = (folder / FOLDER / name for folder in (tmp_path, tmp_path / "again"))
        assert here.read_bytes() == there.read_bytes(), "in either order"


# --------------------------------------------------------------------- refused before anything runs


def changed_heading(**fields):
    def change(folder, monkeypatch):
        path = folder / "result.json"
        content = json.loads(path.read_text())
        content["heading"] |= {name.replace("_", " "): value for name, value in fields.items()}
        path.write_text(json.dumps(content))

    return change


def raised_version(table, name):
    def change(folder, monkeypatch):
        monkeypatch.setitem(table, name, replace(table[name], version=99))

    return change


def other_preset(folder, monkeypatch):
    sizes = replace(TINY.sizes, decoder_widths=(64, 64))
    monkeypatch.setitem(PRESETS, "smoke", replace(TINY, sizes=sizes))


def other_file(name, content):
    return lambda folder, monkeypatch: (folder / name).write_text(content)


REFUSED = {
    "other data": (changed_heading(data_hash="0" * 64), "another data hash"),
    "another dataset": (changed_heading(dataset="bu3dfe"), "another dataset"),
    "another preset": (changed_heading(preset="paper"), "another preset"),
    "another preset of that name": (other_preset, "another version of drfer"),
    "another seed": (changed_heading(seed=1), "another seed"),
    "another precision": (changed_heading(precision="float16"), "another precision"),
    "another stage": (raised_version(STAGES, "i-expression"), "another version of drfer"),
    "another measure": (raised_version(MEASURES, "features"), "another version of drfer"),
    "a result of null": (other_file("result.json", "null"), "result.json is not a result"),
    "a result of a list": (other_file("result.json", "[]"), "result.json is not a result"),
    "provenance of null": (other_file("provenance.json", "null"), "provenance.json is not what"),
    "provenance of a list": (other_file("provenance.json", "[1]"), "provenance.json is not what"),
    "provenance of words": (other_file("provenance.json", "{'a'}"), "provenance.json is not what"),
    "samples of words": (other_file("samples.npz", "mine"), "samples.npz is not a result"),
}


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize("other", REFUSED)
def test_a_folder_of_other_results_is_refused_before_anything_runs(
    command, tiny_preset, no_figures, nothing_trains, finished, tmp_path, monkeypatch, other, engine
):
    (tmp_path / FOLDER).mkdir()
    for name in ("result.json", "provenance.json"):
        shutil.copy(finished.folder / name, tmp_path / FOLDER / name)
    change, sentence = REFUSED[other]
    change(tmp_path / FOLDER, monkeypatch)
    before = files_in(tmp_path)
    code, said = command(
        "crossval", "--preset", "smoke", "--folds", 0, "--engine", engine, "--out", tmp_path
    )
    assert code == 2
    assert said.err.startswith("drfer: ")
    assert sentence in said.err
    assert str(tmp_path / FOLDER) in said.err
    assert said.err.count("\n") == 1, "one sentence"
    assert files_in(tmp_path) == before, "nothing is lost, and nothing was run"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("--repeats", 10_000_000), "10000000 repeats cannot be run; give 1 to 1000"),
        (("--repeats", 0), "0 repeats cannot be run; give 1 to 1000"),
        (("--seed", 2**31), "2147483648 is no seed; give one from 0 to 2147483647"),
        (("--seed", -1), "-1 is no seed; give one from 0 to 2147483647"),
        (("--repeats", 2, "--seed", 2**31 - 1), "2147483648 is no seed"),
        (("--folds", 7), "there is no fold 7: preset smoke has folds 0 to 3"),
        (("--rows", "all"), "there is no row 'all'"),
        (("--measures", "speed"), "there is no measure 'speed'"),
        (("--dataset", "bu4dfe"), "there is no dataset 'bu4dfe'"),
        (("--preset", "huge"), "there is no preset 'huge'"),
        (("--out", "/proc/nowhere"), "cannot write"),
        (("--engine", "ray", "--threads", 0), "a job cannot take 0 threads"),
        (("--engine", "ray", "--threads", -1), "a job cannot take -1 threads"),
        (("--engine", "ray", "--gpus", -1), "a job cannot take -1.0 GPUs"),
        (("--engine", "ray", "--gpus", "nan"), "a job cannot take nan GPUs"),
        (("--engine", "ray", "--gpus", 1.5), "a job cannot take 1.5 GPUs"),
        (("--engine", "ray", "--workers", 0), "0 workers do nothing"),
        (("--engine", "ray", "--workers", -2), "-2 workers do nothing"),
    ],
)
def test_mistakes_are_one_sentence(
    command, tiny_preset, no_figures, nothing_trains, faces, tmp_path, arguments, sentence
):
    started = time.process_time()
    code, said = command("crossval", "--preset", "smoke", "--out", tmp_path, *arguments)
    assert code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.glob("*/*")), "nothing half-written"
    if "--repeats" in arguments:
        assert time.process_time() - started < 1


# ------------------------------------------------------------------------------ killed, and in twos


def test_killed_five_times_it_ends_with_the_same_bytes(finished, tmp_path):
    arguments = ("crossval", "--preset", "smoke", *ALL_OF_FINISHED, "--out", tmp_path)
    chance = random.Random(0)
    for _ in range(5):
        driver = start(*arguments)
        for _ in range(chance.randint(1, 4)):  # checkpoints and results
            assert driver.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        assert driver.returncode == -signal.SIGKILL
    driver = start(*arguments)
    said, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert 0 < said.count("saved") < len(finished.jobs), "what was there is not done again"
    again = tmp_path / FOLDER / "result.json"
    assert again.read_bytes() == (finished.folder / "result.json").read_bytes()


def test_two_drivers_on_one_store_share_the_work(finished, faces, tmp_path):
    arguments = ("crossval", "--preset", "smoke", "--folds", 0, "--measures", "features")
    drivers = [start(*arguments, "--out", tmp_path) for _ in range(2)]
    said = [driver.communicate() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    lines = [line for out, _ in said for line in out.splitlines()]
    saved = [line.split()[1] for line in lines if line.startswith("saved")]
    request = tiny_request(rows=("main",), folds=(0,))
    assert sorted(saved) == sorted(plan(request, faces, finished.store)), "each job once"
    collect(request, faces, finished.store, tmp_path / "finished")
    again = tmp_path / FOLDER / "result.json"
    assert again.read_bytes() == (tmp_path / "finished" / "result.json").read_bytes()


def test_a_store_with_all_weights_cut_off_is_repaired_in_one_run(
    command, tiny_preset, no_figures, finished, faces, tmp_path
):
    """A measure is missing, so that the weights are needed."""
    shutil.copytree(finished.store.root, tmp_path / "store")
    for name, job in finished.jobs.items():
        if job.what == "features":
            shutil.rmtree(tmp_path / "store" / name)
    for path in (tmp_path / "store").glob("*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    code, said = command("crossval", "--preset", "smoke", *ALL_OF_FINISHED, "--out", tmp_path)
    assert code == 0, said.err
    assert "is damaged" in said.out
    store = Store(tmp_path / "store")
    assert same_result(finished, faces, finished.request, store, tmp_path)
    for name, job in finished.jobs.items():
        if job.what in STAGES and job.run.losses.triplet:
            assert store.load(name), "the weights that were needed are whole again"
