"""Files are whole or absent, leftovers go and live work stays; the cache knows its own content."""

import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from drfer.common.errors import DamagedCacheError, DrferError
from drfer.common.files import (
    ABOUT,
    CacheFile,
    cache_folder,
    cached_arrays,
    digest_of,
    written_whole,
)

ARRAYS = {"points": np.arange(3000.0).reshape(-1, 3), "seen": np.arange(1000) % 3 == 0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRFER_CACHE", str(tmp_path / "cache"))


def python(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WRITING = """
import sys, time
from pathlib import Path
from drfer.common.files import written_whole
with written_whole(Path(sys.argv[1])) as path:
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["file.txt", "a [b] ** ?.txt"])
def test_a_killed_write_leaves_the_target_and_the_next_one_cleans_up(tmp_path, name):
    target = tmp_path / name
    target.write_text("old")
    process = python(WRITING, target)
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.wait()
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    with written_whole(target) as path:
        path.write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_what_a_live_process_writes_stays_however_old_it_looks(tmp_path):
    target = tmp_path / "file.txt"
    with written_whole(target) as path:
        path.write_text("slow")
        for old in (path.parent, *path.parent.iterdir()):
            os.utime(old, (0, 0))  # as after a night's sleep
        other = python(WRITING.replace("time.sleep(60)", ""), target)
        assert other.wait() == 0 and target.read_text() == "half"
        assert path.read_text() == "slow"
    assert target.read_text() == "slow" and list(tmp_path.iterdir()) == [target]


def test_many_processes_write_the_same_file_at_once(tmp_path):
    """Each also finds leftovers of killed ones, which all of them remove."""
    script = """
import sys
from pathlib import Path
from drfer.common.files import written_whole
for number in range(200):
    for leftover in range(2):
        Path(sys.argv[1] + f"/.file.{sys.argv[2]}-{number}-{leftover}.part").mkdir()
    with written_whole(Path(sys.argv[1], "file")) as path:
        path.write_text("whole")
"""
    processes = [python(script, tmp_path, name) for name in range(4)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    with written_whole(tmp_path / "file") as path:
        path.write_text("last")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_of_two_that_write_the_same_folder_one_stays(tmp_path):
    target = tmp_path / "folder"
    with written_whole(target) as mine:
        mine.mkdir()
        (mine / "file").write_text("mine")
        with written_whole(target) as theirs:
            theirs.mkdir()
            (theirs / "file").write_text("theirs")
    assert (target / "file").read_text() == "theirs"


@pytest.mark.parametrize("where", ["a file/file.txt", "x" * 300 + "/file.txt", "x" * 300])
def test_what_cannot_be_written_is_one_sentence(tmp_path, where):
    (tmp_path / "a file").write_text("")
    with pytest.raises(DrferError, match="^cannot write .*; choose another folder$"):
        with written_whole(tmp_path / where) as path:
            path.write_text("")


def test_a_folder_in_the_way_is_one_sentence_and_stays(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(DrferError, match="cannot write .*file.txt: Is a directory"):
        with written_whole(tmp_path / "file.txt") as path:
            path.write_text("")
    assert (tmp_path / "file.txt").is_dir()


def test_the_cache_folder_is_the_users_or_the_one_that_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DRFER_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("DRFER_CACHE", "relative")
    assert cache_folder() == Path.cwd() / "relative"
    monkeypatch.setenv("DRFER_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "drfer"
    monkeypatch.setenv("DRFER_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(DrferError, match="no home folder.*DRFER_CACHE"):
        cache_folder()


@pytest.mark.parametrize("blocked", ["{}/a file/cache", "{}/" + "x" * 300])
def test_a_cache_that_cannot_be_is_one_sentence(blocked, tmp_path, monkeypatch):
    """A home that cannot be written looks the same: the tests' user may write anywhere."""
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("DRFER_CACHE", blocked.format(tmp_path))
    with pytest.raises(DrferError, match="set DRFER_CACHE to another folder$"):
        cached_arrays("points", 1, lambda: ARRAYS)


def same(arrays):
    return list(arrays) == list(ARRAYS) and all(
        np.array_equal(arrays[name], ARRAYS[name]) and arrays[name].dtype == ARRAYS[name].dtype
        for name in ARRAYS
    )


def never():
    raise AssertionError("it was made again")


def test_arrays_are_made_once_for_what_determines_them():
    assert same(cached_arrays("points", [1, "a"], lambda: ARRAYS))
    assert same(cached_arrays("points", [1, "a"], never))
    other = cached_arrays("points", [2, "a"], lambda: {"none": np.zeros(0)})
    assert list(other) == ["none"] and same(cached_arrays("points", [1, "a"], never))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path):
    path.write_bytes(b"")


def another_kind(path):
    path.write_text("these are no arrays")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def fewer(path):
    """The arrays of fewer scans, under what the file says of itself."""
    with np.load(path) as stored:
        arrays = {name: stored[name][: len(stored[name]) // 2] for name in ARRAYS}
        about = stored[ABOUT]
    np.savez(path, **{ABOUT: about}, **arrays)


def an_objects(path):
    np.savez(path, **{ABOUT: np.array([{"an": "object"}], dtype=object)})


def of_another_program(path):
    np.savez(path, **ARRAYS)


DAMAGES = (cut_off, emptied, another_kind, flipped, fewer, an_objects, of_another_program)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_again_and_said(damage, capsys):
    cached_arrays("points", 1, lambda: ARRAYS)
    path = next(cache_folder().iterdir())
    damage(path)
    assert same(cached_arrays("points", 1, lambda: ARRAYS))
    assert f"{path} is damaged" in capsys.readouterr().out
    assert same(cached_arrays("points", 1, never))


def test_a_file_put_under_anothers_name_is_not_taken_for_it(capsys):
    first, second = CacheFile("F0001", digest_of(1)), CacheFile("M0001", digest_of(1))
    first.save(ARRAYS)
    second.save({name: array[::-1] for name, array in ARRAYS.items()})
    first.path.write_bytes(second.path.read_bytes())
    with pytest.raises(DamagedCacheError, match="it holds 'M0001'"):
        first.load()
    with pytest.raises(DamagedCacheError):
        first.content_hash()
    assert same(cached_arrays("F0001", 1, lambda: ARRAYS))


def test_what_only_cannot_be_read_stays(monkeypatch):
    cached_arrays("points", 1, lambda: ARRAYS)
    path = next(cache_folder().iterdir())
    original = Path.open

    def refused(self, *arguments):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        with pytest.raises(DrferError, match="cannot be read: Permission denied; .*DRFER_CACHE"):
            cached_arrays("points", 1, never)
    assert same(cached_arrays("points", 1, never))


def test_a_disk_that_fails_is_no_damage(monkeypatch):
    cached_arrays("points", 1, lambda: ARRAYS)

    def failing(*arguments, **options):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", failing)
        with pytest.raises(DrferError, match="cannot be read: Input/output error"):
            cached_arrays("points", 1, never)
    assert same(cached_arrays("points", 1, never))


def test_memory_that_does_not_suffice_is_no_damage(monkeypatch):
    cached_arrays("points", 1, lambda: ARRAYS)

    def failing(*arguments, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", failing)
        with pytest.raises(DrferError, match="not enough memory"):
            cached_arrays("points", 1, never)
    assert same(cached_arrays("points", 1, never))


def test_a_folder_in_place_of_a_cache_file_is_one_sentence():
    file = CacheFile("points", digest_of(1))
    file.path.mkdir(parents=True)
    (file.path / "of the user").write_text("")
    with pytest.raises(DrferError, match="cannot be read: Is a directory"):
        cached_arrays("points", 1, never)
    assert (file.path / "of the user").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_wherever_a_bit_flips_no_other_arrays_are_read(compressed):
    file = CacheFile("points", digest_of(1))
    file.save(ARRAYS, compressed)
    sound, rng = file.path.read_bytes(), random.Random(0)
    with zipfile.ZipFile(file.path) as archive:
        headers = [info.header_offset + step for info in archive.infolist() for step in range(200)]
    ends = range(len(sound) - 300, len(sound))
    damaged = 0
    for position in [*headers, *ends, *(rng.randrange(len(sound)) for _ in range(300))]:
        content = bytearray(sound)
        content[position] ^= 1 << rng.randrange(8)
        file.path.write_bytes(content)
        try:
            assert same(file.load()), "a flip that does not matter, as in a date"
        except DamagedCacheError as error:
            assert "\n" not in str(error)
            damaged += 1
    assert damaged > 500


def test_nothing_is_unpickled(monkeypatch):
    """A file of the cache may come from elsewhere, and a pickle can run anything."""
    import pickle

    cached_arrays("points", 1, lambda: ARRAYS)
    path = next(cache_folder().iterdir())
    about = {"name": "points", "digest": digest_of(1), "content": "0"}
    np.savez(path, **{ABOUT: np.array(json.dumps(about)), "points": np.array([{}], dtype=object)})
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *a, **k: pytest.fail("it was unpickled"))
    assert same(cached_arrays("points", 1, lambda: ARRAYS))


def test_a_kill_while_the_cache_is_written_leaves_none(tmp_path):
    script = """
import os, signal, numpy as np
from drfer.common import files
def write_and_die(target, **arrays):
    target.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
np.savez = write_and_die
files.cached_arrays("points", 1, lambda: {"a": np.zeros(3)})
"""
    process = python(script)
    assert process.wait() == -signal.SIGKILL
    assert list(cache_folder().glob("*.npz")) == []
    assert same(cached_arrays("points", 1, lambda: ARRAYS))
