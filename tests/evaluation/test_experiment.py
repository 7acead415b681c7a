"""An experiment: it survives kill -9, repairs what is damaged, and loads weights strictly."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from driver import TINY
from only_readable import as_a_user_who_may_only_read
from safetensors.torch import load_file

from drfer.common.errors import DrferError
from drfer.evaluation import experiment as module
from drfer.evaluation.engine import missing, run_here
from drfer.evaluation.experiment import Experiment
from drfer.evaluation.measures import MEASURES
from drfer.evaluation.plan import Request, plan
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store
from drfer.training.stages import STAGES
from drfer.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

METHOD_STAGES = ("i-expression", "ii-expression", "i-identity", "ii-identity", "i-fusion", "iii")
"""The stages of the whole method, in the order in which `Experiment.train` goes through them."""
SMOKE_RUN = Run(PRESETS["smoke"], fold=0)
CHILD = """
import sys
from pathlib import Path

from drfer.datasets import open_dataset
from drfer.evaluation import experiment
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.run import Run
from drfer.evaluation.store import Store

def announcing(self, name, *arguments):
    original(self, name, *arguments)
    print("checkpoint", name.rsplit("-", 1)[0], flush=True)

experiment.CHECKPOINT_SECONDS = 0
original, Store.save_checkpoint = Store.save_checkpoint, announcing
run = Run(PRESETS["smoke"], fold=0)
faces = experiment.prepare_faces(open_dataset("anny3dfe", subjects=12), run.preset)
experiment.Experiment(run, faces, Store(Path(sys.argv[1]))).train("iii")
"""


@pytest.fixture(scope="module")
def undisturbed(faces, tmp_path_factory):
    """A whole smoke run in one go."""
    experiment = Experiment(SMOKE_RUN, faces, Store(tmp_path_factory.mktemp("undisturbed")))
    experiment.train("iii")
    return experiment


@pytest.fixture
def copied(undisturbed, tmp_path):
    """The same run, with a store that may be damaged."""
    shutil.copytree(undisturbed.store.root, tmp_path / "store")
    return Experiment(SMOKE_RUN, undisturbed.faces, Store(tmp_path / "store"))


@pytest.fixture
def trained(monkeypatch):
    """Names of the stages of which an epoch was trained, in order."""
    names = []
    original = Trainer.train_epoch

    def train_epoch(self):
        names.append(self.stage.name)
        return original(self)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    return names


def weights_file(experiment, stage):
    return experiment.store.root / experiment.name(stage) / "weights.safetensors"


def same_weights(one, other, stages=METHOD_STAGES):
    for stage in stages:
        a, b = (load_file(weights_file(each, stage)) for each in (one, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), stage
    return True


# ---------------------------------------------------------------------- what is done, and how often


def test_killed_in_every_stage_it_ends_with_the_same_weights(undisturbed, faces, tmp_path):
    killed_in = []
    for stage in METHOD_STAGES:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for line in child.stdout:
            if line.split() == ["checkpoint", stage]:
                child.send_signal(signal.SIGKILL)
                killed_in.append(stage)
                break
        child.wait()
        assert child.returncode == -signal.SIGKILL
    assert tuple(killed_in) == METHOD_STAGES
    assert list(tmp_path.glob("iii-*.checkpoint")), "the last kill came after one of stage iii"
    resumed = Experiment(SMOKE_RUN, faces, Store(tmp_path))
    resumed.train("iii")
    assert same_weights(resumed, undisturbed)
    for stage in METHOD_STAGES:
        assert resumed.train(stage).get("test") == undisturbed.train(stage).get("test")
    assert not list(tmp_path.glob("*.checkpoint"))


def test_what_is_there_is_not_done_again(undisturbed, trained):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.store.root.rglob("*")}
    again = Experiment(SMOKE_RUN, undisturbed.faces, undisturbed.store)
    for stage in METHOD_STAGES:
        assert again.train(stage) == undisturbed.train(stage)
        again.model(stage)
    assert not trained
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.store.root.rglob("*")}


def test_what_is_there_does_not_need_what_it_started_from(copied, undisturbed, trained):
    for stage in METHOD_STAGES[:-1]:
        shutil.rmtree(copied.store.root / copied.name(stage))
    assert copied.test("iii") == undisturbed.test("iii")
    copied.model("iii")
    assert not trained


def test_a_measure_is_taken_once(finished, faces, monkeypatch):
    experiment = Experiment(Run(TINY, 0), faces, finished.store)
    made = experiment.measure("features")

    def never(experiment):
        raise AssertionError("it is there")

    monkeypatch.setitem(MEASURES, "features", replace(MEASURES["features"], function=never))
    assert experiment.measure("features") == made
    assert {"measured", "seconds", "provenance"} == made.keys()


def test_a_finished_store_may_be_one_that_can_only_be_read(finished, faces, nothing_trains):
    experiment = Experiment(Run(TINY, 0), faces, finished.store)
    with as_a_user_who_may_only_read(finished.store.root):
        assert len(experiment.test("iii")["truth"]) == 36
        experiment.model("iii")
        assert experiment.measure("features")["measured"]["labels"]
        with pytest.raises(DrferError, match="cannot write to"):
            experiment.train("head-iii")


def test_only_stages_that_train_what_is_tested_have_a_test(finished, faces):
    experiment = Experiment(Run(TINY, 0), faces, finished.store)
    assert experiment.test("iii").keys() == {"truth", "predicted"}
    with pytest.raises(DrferError, match="nobody is tested after ii-identity"):
        experiment.test("ii-identity")


def test_a_model_has_the_weights_of_its_stages_and_no_others(undisturbed):
    model = undisturbed.model("ii-expression", "ii-identity", "i-fusion")
    fresh = undisturbed._fresh_model(SMOKE_RUN.preset.sizes).state_dict()
    stored = {}
    for stage in ("ii-expression", "ii-identity", "i-fusion"):
        stored |= load_file(weights_file(undisturbed, stage))
    untrained = {name for name in fresh if name.startswith("identity.classifier.")}
    assert untrained == fresh.keys() - stored.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.equal(stored[name] if name in stored else fresh[name]), name


def test_a_fresh_part_does_not_start_from_an_earlier_stage(undisturbed):
    trainer = undisturbed._trainer(STAGES["head-iii"])
    sizes = SMOKE_RUN.preset.sizes
    classifier = undisturbed._fresh_model(sizes).expression.classifier.state_dict()
    of_stage_iii = undisturbed.model("iii").expression.state_dict()
    for name, tensor in trainer.model.expression.state_dict().items():
        part, _, rest = name.partition(".")
        assert tensor.equal(classifier[rest] if part == "classifier" else of_stage_iii[name]), name


def test_records_are_json_and_carry_their_origin(undisturbed):
    for stage in METHOD_STAGES:
        record = undisturbed.train(stage)
        assert json.loads(json.dumps(record)) == record
        assert {"drfer", "torch", "date", "device"} <= record["provenance"].keys()
        values = [value for epoch in record["curves"] for value in epoch.values()]
        assert np.isfinite(values).all()
        assert ("test" in record) == STAGES[stage].tested


# ---------------------------------------------------------------------- damaged and foreign weights


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, os.remove])
@pytest.mark.parametrize("file", ["weights.safetensors", "record.json", "SHA256SUMS"])
def test_a_damaged_result_is_said_and_made_again(copied, undisturbed, file, damage, capsys):
    damage(copied.store.root / copied.name("iii") / file)
    model = copied.model("iii")
    assert "is damaged" in capsys.readouterr().out
    weights = load_file(weights_file(undisturbed, "iii"))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    assert copied.test("iii") == undisturbed.test("iii")


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_store_with_all_weights_cut_off_is_repaired_in_one_go(
    copied, undisturbed, context, trained
):
    for path in copied.store.root.glob("*/weights.safetensors"):
        cut_short(path)
    with context():
        model = copied.model("iii")
    assert set(trained) == set(METHOD_STAGES)
    assert same_weights(copied, undisturbed)
    for name, tensor in load_file(weights_file(undisturbed, "iii")).items():
        assert model.state_dict()[name].equal(tensor), name
    trained.clear()
    copied.model("iii")
    assert not trained


def rename(weights):
    weights["expression.encoder.another_name"] = weights.pop(sorted(weights)[0])


def drop(weights):
    weights.pop(sorted(weights)[0])


def add(weights):
    weights["expression.encoder.more"] = torch.zeros(1)


def add_of_another_part(weights):
    weights["identity.classifier.0.bias"] = torch.zeros(SMOKE_RUN.preset.sizes.classifier_widths[0])


def reshape(weights):
    name = next(name for name in sorted(weights) if weights[name].dim() == 2)
    weights[name] = weights[name].flatten()


def shrink(weights):
    name = next(name for name in sorted(weights) if weights[name].dim() == 1)
    weights[name] = weights[name][:1]


def as_integers(weights):
    name = next(name for name in sorted(weights) if weights[name].is_floating_point())
    weights[name] = weights[name].to(torch.int64)


TAMPERINGS = [rename, drop, add, reshape, shrink, dict.clear]
OF_A_STAGE = [*TAMPERINGS, add_of_another_part, as_integers]


def tamper(experiment, stage, change):
    """Store other weights in the place of a stage's, with right checksums."""
    store, name = experiment.store, experiment.name(stage)
    weights, record = store.load(name)
    change(weights)
    shutil.rmtree(store.root / name)
    store.save(name, weights, record)


@pytest.mark.parametrize("change", OF_A_STAGE)
@pytest.mark.parametrize("stage", ["i-expression", "iii"])
def test_weights_of_other_code_are_refused_in_one_sentence(copied, stage, change, trained):
    tamper(copied, stage, change)
    with pytest.raises(DrferError, match="holds weights of another version of drfer") as refusal:
        copied.model(stage)
    assert str(copied.store.root / copied.name(stage)) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not trained


@pytest.mark.parametrize("change", OF_A_STAGE)
def test_nothing_is_trained_from_weights_of_other_code(copied, change):
    shutil.rmtree(copied.store.root / copied.name("iii"))
    tamper(copied, "ii-identity", change)
    with pytest.raises(DrferError, match="holds weights of another version of drfer"):
        copied.train("iii")
    jobs = plan(Request(SMOKE_RUN.preset, folds=(0,)), copied.faces, copied.store)
    assert [job.what for job in missing(jobs, copied.store)] == ["iii"]
    assert run_here(jobs, copied.faces, copied.store) == [copied.name("iii")]
    assert "of another version of drfer" in copied.store.failure(copied.name("iii"))
    assert copied.store.record(copied.name("iii")) is None


def checkpointed(experiment, change):
    """Replace the result of stage iii by a checkpoint with other weights."""
    name = experiment.name("iii")
    shutil.rmtree(experiment.store.root / name)
    trainer = experiment._trainer(STAGES["iii"])
    tensors, rest = trainer.state()
    weights = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    change(weights)
    tensors = {f"model.{key}": tensor for key, tensor in weights.items()}
    experiment.store.save_checkpoint(name, tensors, rest)
    return name


def test_a_checkpoint_of_this_code_is_taken(copied, undisturbed):
    name = checkpointed(copied, lambda weights: None)
    assert copied.store.load_checkpoint(name)
    copied.train("iii")
    assert same_weights(copied, undisturbed)


@pytest.mark.parametrize("change", TAMPERINGS)
def test_a_checkpoint_of_other_code_is_refused_in_one_sentence(copied, change):
    name = checkpointed(copied, change)
    with pytest.raises(DrferError, match="of another version of drfer") as refusal:
        copied.train("iii")
    assert f"{name}.checkpoint" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert (copied.store.root / f"{name}.checkpoint").exists()
    assert copied.store.record(name) is None


def test_a_checkpoint_is_kept_now_and_then(copied, monkeypatch):
    kept = []
    monkeypatch.setattr(Store, "save_checkpoint", lambda self, name, *state: kept.append(name))
    for seconds, expected in ((0, 1), (1000, 0)):
        monkeypatch.setattr(module, "CHECKPOINT_SECONDS", seconds)
        shutil.rmtree(copied.store.root / copied.name("iii"))
        copied.train("iii")
        assert len(kept) == expected
        kept.clear()
