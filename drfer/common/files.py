"""Files that are written whole or not at all, and the cache: arrays kept under a hash.

Everything that takes long to make and is the same every time is cached by one mechanism: the open
faces, preprocessed scans, turned heads. A file of the cache is named by the hash of all that
determines its content, and says inside what it is, so that no file is taken for another.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from drfer.common.errors import DamagedCacheError, DrferError

ANOTHER_CACHE = "set DRFER_CACHE to another folder"
ABOUT = "about this file"
"""Name of the array in a cache file that says, as JSON, what the file is."""


def cache_folder() -> Path:
    """Return the folder of all caches: `$DRFER_CACHE`, else the user's cache folder.

    Raises:
        DrferError: `$DRFER_CACHE` begins with the `~` of a user who has no home folder.
    """
    chosen = os.environ.get("DRFER_CACHE") or platformdirs.user_cache_dir("drfer")
    try:
        return Path(chosen).expanduser().absolute()
    except RuntimeError:
        raise DrferError(f"there is no home folder for {chosen}; {ANOTHER_CACHE}") from None


@contextmanager
def written_whole(target: Path, remedy: str = "choose another folder") -> Iterator[Path]:
    """Give a temporary path beside the target; what is written there becomes the target at the end.

    After a crash or a kill the target is as it was: complete or absent. What a killed process has
    left behind is removed by the next one that writes the same target, and never while its owner
    lives: the owner holds a lock that the system releases at its death.

    Args:
        target: the file or folder to write; its parent folders are made.
        remedy: what the user can do if the target cannot be written; it ends the error's sentence.

    Yields:
        The path to write to. Its name is the target's own.

    Raises:
        DrferError: the target cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        folder, lock = _locked_folder(target)
    except OSError as error:
        reason = error.strerror or error
        raise DrferError(f"cannot write to {target.parent}: {reason}; {remedy}") from None
    try:
        yield folder / target.name
        os.replace(folder / target.name, target)
    except OSError as error:
        # another process may have put the same folder there first: its copy is as good
        if not (target.is_dir() and (folder / target.name).is_dir()):
            reason = error.strerror or error
            raise DrferError(f"cannot write {target}: {reason}; {remedy}") from None
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content) -> None:
    """Write a JSON file whole, or not at all."""
    with written_whole(path) as target:
        target.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _locked_folder(target: Path) -> tuple[Path, FileLock]:
    """Make a temporary folder beside the target that counts as alive until this process ends."""
    while True:
        folder = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        lock = FileLock(Path(folder, ".lock"))
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError, FileExistsError):
            continue  # in this instant another process took the folder for a leftover
        return Path(folder), lock


def _remove_leftovers(target: Path) -> None:
    with os.scandir(target.parent) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name.startswith(f".{target.name}.") and name.endswith(".part"):
            lock = FileLock(target.parent / name / ".lock")
            try:
                lock.acquire(blocking=False)
            except (Timeout, OSError):  # its owner lives, or has just removed it
                continue
            shutil.rmtree(target.parent / name, ignore_errors=True)
            lock.release()


def digest_of(determined_by: object) -> str:
    """Return the SHA-256 hash, in hexadecimal, of anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()


def cached_arrays(
    name: str, determined_by: object, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return named arrays from the cache, or make them and put them there.

    A file whose content is damaged, or is not what its name says, is made again. A file that only
    cannot be read (for want of permission, say) stays.

    Args:
        name: what the arrays are; the file's name begins with it.
        determined_by: all that the arrays depend on, as anything that can be written as JSON.
        make: makes the arrays.

    Raises:
        DrferError: the cache can be neither read nor written.
    """
    file = CacheFile(name, digest_of(determined_by))
    try:
        arrays = file.load()
    except DamagedCacheError as error:
        print(f"{error}; it is made again")
        arrays = None
    if arrays is None:
        arrays = make()
        file.save(arrays)
    return arrays


@dataclass(frozen=True)
class CacheFile:
    """One file of the cache: named arrays, and what they are.

    The file is an `.npz` archive. Besides the arrays it holds its own name and digest, and the
    hash of the arrays' content; whatever does not agree is damaged.
    """

    name: str
    """What the arrays are; a `/` in it makes a folder."""
    digest: str
    """Hash of all that determines the arrays, as `digest_of` gives it."""

    @property
    def path(self) -> Path:
        """Where the file lies in today's cache folder."""
        return cache_folder() / f"{self.name}-{self.digest[:16]}.npz"

    def content_hash(self) -> str | None:
        """Return the hash of the content as the file states it, or None if there is no such file.

        This does not read the arrays, and so notices only damage that concerns the whole file.

        Raises:
            DamagedCacheError: the file is damaged, or another one.
            DrferError: the file cannot be read.
        """
        with self._opened() as stored:
            return None if stored is None else self._stated_hash(stored)

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the arrays, or None if there is no such file.

        Raises:
            DamagedCacheError: the file is damaged, or another one.
            DrferError: the file cannot be read.
        """
        with self._opened() as stored:
            if stored is None:
                return None
            stated = self._stated_hash(stored)
            arrays = {name: stored[name] for name in stored.files if name != ABOUT}
            if hash_of_arrays(arrays) != stated:
                raise DamagedCacheError(f"{self.path} is damaged (its content has another hash)")
            return arrays

    def remove(self) -> None:
        """Remove the file, if it is there.

        Raises:
            DrferError: it may not be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise DrferError(f"cannot remove {self.path}: {error.strerror}; remove it") from None

    def save(self, arrays: dict[str, np.ndarray], compressed: bool = False) -> str:
        """Write the arrays, whole or not at all.

        Args:
            arrays: what to keep.
            compressed: whether to spend time on a smaller file.

        Returns:
            The hash of the content.

        Raises:
            DrferError: the file cannot be written.
        """
        content = hash_of_arrays(arrays)
        about = {"name": self.name, "digest": self.digest, "content": content}
        with written_whole(self.path, ANOTHER_CACHE) as target:
            write = np.savez_compressed if compressed else np.savez
            write(target, **{ABOUT: np.array(json.dumps(about))}, **arrays)
        return content

    @contextmanager
    def _opened(self) -> Iterator[np.lib.npyio.NpzFile | None]:
        """Open the archive, and tell what is damaged from what cannot be read."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise self._unreadable(error) from None
        with file:
            try:
                with np.load(file, allow_pickle=False) as stored:
                    yield stored
            except DrferError:
                raise
            except OSError as error:
                if error.errno not in (None, errno.EINVAL):  # an offset that leads out of the file
                    raise self._unreadable(error) from None
                raise DamagedCacheError(f"{self.path} is damaged ({error})") from None
            except MemoryError as error:
                if _is_sound_archive(file):
                    raise self._unreadable(error) from None
                raise DamagedCacheError(f"{self.path} is damaged (a size in it)") from None
            except Exception as error:  # whatever numpy and zipfile make of wrong bytes
                raise DamagedCacheError(f"{self.path} is damaged ({error})") from None

    def _stated_hash(self, stored: np.lib.npyio.NpzFile) -> str:
        about = json.loads(str(stored[ABOUT]))
        if (about["name"], about["digest"]) != (self.name, self.digest):
            raise DamagedCacheError(f"{self.path} is damaged (it holds {about['name']!r})")
        return about["content"]

    def _unreadable(self, error: OSError | MemoryError) -> DrferError:
        reason = getattr(error, "strerror", None) or "there is not enough memory"
        return DrferError(
            f"{self.path} cannot be read: {reason}; make it readable, or {ANOTHER_CACHE}"
        )


@contextmanager
def cache_lock(name: str, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of the cache folder, which the system releases if its process dies.

    Args:
        name: what is to be made or removed by one process at a time.
        wait: whether to wait for a process that holds it.

    Yields:
        Whether this process holds it now.

    Raises:
        DrferError: the cache cannot be written.
    """
    path = cache_folder() / "locks" / name
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        reason = error.strerror or error
        raise DrferError(f"cannot write to {path.parent}: {reason}; {ANOTHER_CACHE}") from None
    try:
        yield True
    finally:
        lock.release()


def hash_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 hash, in hexadecimal, of the bytes of some arrays in their order."""
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _is_sound_archive(file) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:
        return False
