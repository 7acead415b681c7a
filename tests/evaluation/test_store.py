"""The store keeps results whole, notices damage, and says in one sentence what it cannot do."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from only_readable import as_a_user_who_may_only_read

from drfer.common.errors import DamagedCacheError, DrferError
from drfer.common.files import CacheFile, written_whole
from drfer.evaluation.store import Store

NAME = "stage-1"
HOLDER = """
import sys
from pathlib import Path
from drfer.evaluation.store import Store
with Store(Path(sys.argv[1])).lock("stage-1"):
    print("held", flush=True)
    sys.stdin.read()
"""


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:100])


def empty(path):
    path.write_bytes(b"")


def make_a_folder(path):
    path.unlink()
    path.mkdir()
    (path / "something").touch()


DAMAGES = [flip_a_bit, cut_short, empty, os.remove, make_a_folder]


def saved(folder):
    store = Store(folder)
    store.save(NAME, {"a": torch.arange(100.0)}, {"seconds": 1.0, "curves": [{"loss": 0.5}] * 9})
    return store


# ------------------------------------------------------------------------------------------ results


def test_a_result_comes_back_as_it_was_saved(tmp_path):
    tensors, record = saved(tmp_path).load(NAME)
    assert tensors.keys() == {"a"}
    assert tensors["a"].equal(torch.arange(100.0))
    assert record == saved(tmp_path).record(NAME) == {"seconds": 1.0, "curves": [{"loss": 0.5}] * 9}
    assert Store(tmp_path).load("stage-2") is None
    assert Store(tmp_path).record("stage-2") is None


def test_its_checksums_are_those_of_sha256sum(tmp_path):
    saved(tmp_path)
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / NAME, check=True
    )


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["weights.safetensors", "record.json", "SHA256SUMS"])
def test_a_damaged_result_is_said_and_removed(tmp_path, damage, file, capsys):
    store = saved(tmp_path)
    damage(tmp_path / NAME / file)
    assert store.load(NAME) is None
    assert "is damaged" in capsys.readouterr().out
    assert not (tmp_path / NAME).exists()


def test_a_result_that_is_a_file_is_removed(tmp_path, capsys):
    (tmp_path / NAME).write_text("no folder")
    assert Store(tmp_path).record(NAME) is None
    assert "is damaged" in capsys.readouterr().out
    assert saved(tmp_path).record(NAME)


def test_the_record_is_read_without_the_weights(tmp_path):
    """So that a plan of a thousand folds is looked through in seconds."""
    store = saved(tmp_path)
    os.remove(tmp_path / NAME / "weights.safetensors")
    assert store.record(NAME)["seconds"] == 1.0


def test_a_result_that_cannot_be_read_now_is_not_thrown_away(tmp_path, monkeypatch):
    store = saved(tmp_path)

    def no_more_files(*arguments):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", no_more_files)
        with pytest.raises(DrferError, match="cannot read .*Too many open files"):
            store.record(NAME)
    assert store.record(NAME)["seconds"] == 1.0


def test_nothing_is_unpickled(finished, monkeypatch):
    """What comes from elsewhere may hold anything; no file of a store or of the cache is run."""

    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in finished.jobs:
        assert finished.store.load(name)
    file = CacheFile("anything", "0" * 64)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file.path, anything=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(DamagedCacheError):
        file.load()


# ------------------------------------------------------------------------------- tensors that go


def test_a_result_without_its_tensors_is_still_done(tmp_path, capsys):
    store = saved(tmp_path)
    record = store.record(NAME)
    for _ in range(2):  # once more does no harm
        store.drop_tensors(NAME)
        assert {path.name for path in (tmp_path / NAME).iterdir()} == {"record.json", "SHA256SUMS"}
        assert store.record(NAME) == record
        assert store.load(NAME) is None
    assert capsys.readouterr().out == "", "nothing is damaged"
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / NAME, check=True
    )
    assert saved(tmp_path).load(NAME)[1] == record, "it can be made again"
    store.drop_tensors("stage-2")
    assert not (tmp_path / "stage-2").exists()


def test_a_process_that_died_while_it_dropped_tensors_is_made_up_for(tmp_path, monkeypatch):
    from drfer.evaluation import store as module

    store = saved(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_remove", lambda path: None)  # it dies before this
        store.drop_tensors(NAME)
    assert (tmp_path / NAME / "weights.safetensors").exists()
    assert store.record(NAME) and store.load(NAME) is None
    store.drop_tensors(NAME)
    assert not (tmp_path / NAME / "weights.safetensors").exists()
    assert store.record(NAME)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_without_tensors_is_said_and_removed(tmp_path, damage, capsys):
    store = saved(tmp_path)
    store.drop_tensors(NAME)
    damage(tmp_path / NAME / "record.json")
    assert store.record(NAME) is None
    assert "is damaged" in capsys.readouterr().out
    assert not (tmp_path / NAME).exists()


# -------------------------------------------------------------------------------------- checkpoints


def with_checkpoint(folder):
    store = Store(folder)
    store.save_checkpoint(NAME, {"a": torch.arange(100.0)}, {"curves": [{"loss": 1.0}] * 9})
    return store


def test_a_checkpoint_comes_back_as_it_was_saved_and_goes_with_the_result(tmp_path):
    tensors, rest = with_checkpoint(tmp_path).load_checkpoint(NAME)
    assert tensors["a"].equal(torch.arange(100.0))
    assert rest == {"curves": [{"loss": 1.0}] * 9}
    assert saved(tmp_path).load_checkpoint(NAME) is None
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty, make_a_folder])
def test_a_damaged_checkpoint_is_said_and_dropped(tmp_path, damage, capsys):
    store = with_checkpoint(tmp_path)
    path = tmp_path / f"{NAME}.checkpoint"
    damage(path)
    assert store.load_checkpoint(NAME) is None
    assert "is damaged" in capsys.readouterr().out
    assert not path.exists()
    assert with_checkpoint(tmp_path).load_checkpoint(NAME), "and the next one can be kept"


# ------------------------------------------------------------------------------ reasons of failures


def test_the_reason_of_a_failure_is_kept_until_the_next_attempt_or_result(tmp_path):
    store = Store(tmp_path)
    assert store.failure(NAME) is None
    store.save_failure(NAME, "because\nof this")
    assert store.failure(NAME) == "because\nof this"
    store.forget_failure(NAME)
    assert store.failure(NAME) is None
    store.save_failure(NAME, "because")
    assert saved(tmp_path).failure(NAME) is None


@pytest.mark.parametrize(
    "damage, said", [(empty, "no reason is kept"), (make_a_folder, "cannot be read")]
)
def test_a_damaged_reason_is_still_a_failure(tmp_path, damage, said):
    store = Store(tmp_path)
    store.save_failure(NAME, "because")
    damage(tmp_path / f"{NAME}.failed")
    assert said in store.failure(NAME)
    store.save_failure(NAME, "another reason")
    assert store.failure(NAME) == "another reason"
    damage(tmp_path / f"{NAME}.failed")
    store.forget_failure(NAME)
    assert store.failure(NAME) is None


# -------------------------------------------------------------------------------------------- locks


def test_a_lock_is_held_until_its_process_ends(tmp_path):
    store = Store(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    assert store.is_locked(NAME)
    assert not store.is_locked("stage-2")
    holder.kill()
    holder.communicate()
    assert not store.is_locked(NAME)
    with store.lock(NAME):
        assert store.is_locked(NAME)
    assert not store.is_locked(NAME)


# ------------------------------------------------------------------- folders that cannot be written


def test_a_store_that_can_only_be_read_is_read(tmp_path):
    store = saved(tmp_path / "store")
    with store.lock("stage-2"):
        pass
    with as_a_user_who_may_only_read(store.root):
        with pytest.raises(DrferError, match="cannot write to"):
            store.check_writable()
        with pytest.raises(DrferError, match="cannot write to"), store.lock("stage-3"):
            pass
        assert store.load(NAME)
        assert not store.is_locked("stage-2")
        assert not store.is_locked("stage-3")
        store.save_failure(NAME, "nobody can keep it, and the job has failed all the same")
    assert store.failure(NAME) is None


def test_two_processes_may_try_the_store_at_once(tmp_path, monkeypatch):
    """The other one removes the file of the trial first."""
    original = Path.unlink

    def removed_by_the_other_first(path, **options):
        original(path)
        original(path, **options)

    monkeypatch.setattr(Path, "unlink", removed_by_the_other_first)
    Store(tmp_path).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_written_whole_leaves_the_old_file_when_writing_fails(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_whole(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DrferError, match="cannot write"),
        written_whole(tmp_path / "file" / "result.json"),
    ):
        pass
