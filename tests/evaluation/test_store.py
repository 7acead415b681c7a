"""The store keeps results whole, survives kill -9, and resumes to the very same weights."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drfer.common.errors import DrferError
from drfer.common.files import read_arrays, written_whole
from drfer.evaluation.experiment import PARENTS, PRESETS, Run, assemble, run_fold
from drfer.evaluation.store import Store

STAGES = tuple(PRESETS["smoke"].trainings)
CHILD = """
import sys
from pathlib import Path
from drfer import experiment, store
from drfer.datasets import open_dataset
from drfer.evaluation import prepare_faces
experiment.CHECKPOINT_SECONDS = 0
original = store.Store.save_checkpoint
def announce(self, name, tensors, rest):
    original(self, name, tensors, rest)
    print("checkpoint", name.rsplit("-", 1)[0], flush=True)
store.Store.save_checkpoint = announce
run = experiment.Run(experiment.PRESETS["smoke"], fold=0)
experiment.run_fold(run, prepare_faces(open_dataset("anny3dfe", subjects=12), run.preset), store.Store(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def undisturbed(faces, tmp_path_factory):
    """A whole smoke run in one go."""
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    return store, run_fold(Run(PRESETS["smoke"], fold=0), faces, store)


def test_killed_in_every_stage_ends_with_the_same_weights(undisturbed, faces, tmp_path):
    whole, _ = undisturbed
    killed_in = []
    for stage in STAGES:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.DEVNULL,
        )
        for line in child.stdout:
            if line.split() == ["checkpoint", stage]:
                child.send_signal(signal.SIGKILL)
                killed_in.append(stage)
                break
        child.wait()
        assert child.returncode == -signal.SIGKILL
    assert killed_in == list(STAGES) and len(STAGES) == 6
    run = Run(PRESETS["smoke"], fold=0)
    assert list(tmp_path.glob("iii-*.checkpoint")), (
        "the last kill came after a checkpoint of stage iii"
    )
    resumed = run_fold(run, faces, Store(tmp_path))
    for stage in STAGES:
        name = run.result_name(stage, faces)
        once, again = (
            load_file(root / name / "weights.safetensors") for root in (whole.root, tmp_path)
        )
        assert once.keys() == again.keys()
        assert all(torch.equal(once[key], again[key]) for key in once), stage
        assert resumed[stage].get("test") == undisturbed[1][stage].get("test")
    assert not list(tmp_path.glob("*.checkpoint"))


def test_what_is_there_is_not_done_again(undisturbed, faces):
    store, records = undisturbed
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    again = run_fold(Run(PRESETS["smoke"], fold=0), faces, store)
    assert again == records
    assert before == {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, os.remove])
@pytest.mark.parametrize("file", ["weights.safetensors", "record.json", "SHA256SUMS"])
def test_a_damaged_result_is_said_and_made_again(undisturbed, faces, file, damage, capsys):
    store, records = undisturbed
    run = Run(PRESETS["smoke"], fold=0)
    whole = store.load(run.result_name("iii", faces))[0]
    damage(store.root / run.result_name("iii", faces) / file)
    model = assemble(run, ("iii",), faces, run.data(faces), store)
    assert "is damaged" in capsys.readouterr().out
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in whole.items())
    assert store.record(run.result_name("iii", faces))["test"] == records["iii"]["test"]


def test_a_damaged_checkpoint_is_said_and_dropped(tmp_path, capsys):
    store = Store(tmp_path)
    store.save_checkpoint("stage-1", {"a": torch.ones(3)}, {"curves": []})
    tensors, rest = store.load_checkpoint("stage-1")
    assert torch.equal(tensors["a"], torch.ones(3)) and rest == {"curves": []}
    path = tmp_path / "stage-1.checkpoint"
    path.write_bytes(path.read_bytes()[:-5])
    assert store.load_checkpoint("stage-1") is None
    assert "is damaged" in capsys.readouterr().out and not path.exists()


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, lambda path: path.write_bytes(b"")])
def test_a_checkpoint_damaged_anywhere_is_dropped(tmp_path, damage, capsys):
    store = Store(tmp_path)
    store.save_checkpoint("stage-1", {"a": torch.arange(100.0)}, {"curves": [{"loss": 1.0}] * 9})
    damage(tmp_path / "stage-1.checkpoint")
    assert store.load_checkpoint("stage-1") is None and "is damaged" in capsys.readouterr().out


def test_nothing_is_unpickled(undisturbed, faces, monkeypatch, tmp_path):
    """What comes from elsewhere may hold anything: no file of a store, nor of a cache of faces, is run."""

    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    store, run = undisturbed[0], Run(PRESETS["smoke"], fold=0)
    for stage in STAGES:
        assert store.load(run.result_name(stage, faces))
    np.savez(tmp_path / "cache.npz", anything=np.array([{"an": "object"}], dtype=object))
    assert read_arrays(tmp_path / "cache.npz") is None and not (tmp_path / "cache.npz").exists()


def test_two_processes_may_try_the_store_at_once(tmp_path, monkeypatch):
    """The other one removes the trial file first."""
    original = Path.unlink

    def removed_by_the_other_first(path, **options):
        original(path)
        original(path, **options)

    monkeypatch.setattr(Path, "unlink", removed_by_the_other_first)
    Store(tmp_path).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_held_until_its_process_ends(tmp_path):
    store = Store(tmp_path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from drfer.store import Store\n"
            "with Store(Path(sys.argv[1])).lock('stage-1'): print('held', flush=True); sys.stdin.read()",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert (
        holder.stdout.readline() == "held\n"
        and store.is_locked("stage-1")
        and not store.is_locked("stage-2")
    )
    holder.kill()
    holder.communicate()
    assert not store.is_locked("stage-1")
    with store.lock("stage-1"):
        assert store.is_locked("stage-1")
    assert not store.is_locked("stage-1")


def test_every_setting_that_matters_changes_the_name(faces):
    run = Run(PRESETS["smoke"], fold=0)
    names = {run.result_name("iii", faces)}
    others = [
        Run(PRESETS["smoke"], fold=1),
        Run(PRESETS["smoke"], fold=0, seed=1),
        Run(PRESETS["smoke"], fold=0, repeat=1),
    ]
    for other in others:
        assert other.result_name("i-expression", faces) != run.result_name("i-expression", faces)
        names.add(other.result_name("iii", faces))
    assert len(names) == 4


def test_parents_come_before_their_children():
    order = list(PARENTS)
    for stage, parents in PARENTS.items():
        assert all(order.index(parent) < order.index(stage) for parent in parents)


def test_records_are_json_and_carry_their_origin(undisturbed):
    store, records = undisturbed
    for record in records.values():
        assert json.loads(json.dumps(record)) == record
        assert {"drfer", "torch", "date", "device"} <= record["provenance"].keys()
        assert np.isfinite([value for epoch in record["curves"] for value in epoch.values()]).all()


def test_written_whole_leaves_the_old_file_when_writing_fails(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_whole(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["result.json"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DrferError, match="cannot write"),
        written_whole(tmp_path / "file" / "result.json"),
    ):
        pass
