"""A folder of results under the hash of all that determined them: what is there is not done again.

A result is a folder with one small JSON (the record), one safetensors file (weights or arrays) and
the checksums of both. It is written whole or not at all. A training in progress keeps one
checkpoint file, likewise. Any number of processes may work on a store: whoever makes a result holds
its lock.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from drfer.common.errors import DrferError
from drfer.common.files import written_whole

CHECKSUMS = "SHA256SUMS"
"""As `sha256sum --check` reads them."""
WEIGHTS = "weights.safetensors"
RECORD = "record.json"


class Store:
    """Results in a folder; their names are "<stage or measure>-<hash>"."""

    def __init__(self, root: Path) -> None:
        """Open a store; its folder is made when the first result is saved."""
        self.root = Path(root)

    def check_writable(self) -> None:
        """Raise DrferError now if nothing can be stored, and not after an hour of training."""
        with written_whole(self.root / ".writable") as target:
            target.touch()
        (self.root / ".writable").unlink(missing_ok=True)  # another process may try the same

    def load(self, name: str) -> tuple[dict[str, Tensor], dict] | None:
        """Return tensors and record of a finished result, or None if it has none, or not any more.

        A damaged result is reported and removed, since it can be made again.

        Raises:
            DrferError: the files cannot be read, which says nothing against the result.
        """
        if self._is_record_alone(name):
            return None
        files = self._read(name, WEIGHTS, RECORD)
        return files and (tensors_of(files[0]), json.loads(files[1]))

    def record(self, name: str) -> dict | None:
        """Return the record alone, which is quick."""
        files = self._read(name, RECORD)
        return files and json.loads(files[0])

    def save(self, name: str, tensors: dict[str, Tensor], record: dict) -> None:
        """Store a finished result, and drop its checkpoint.

        Raises:
            DrferError: the folder cannot be written.
        """
        files = {WEIGHTS: _bytes(tensors), RECORD: json.dumps(record).encode()}
        sums = [f"{_digest(content)}  {file}\n" for file, content in files.items()]
        files[CHECKSUMS] = "".join(sums).encode()
        with written_whole(self.root / name) as folder:
            folder.mkdir()
            for file, content in files.items():
                (folder / file).write_bytes(content)
            if self._is_record_alone(name):
                _remove(self.root / name)
        for left in (self._checkpoint(name), self._failure(name)):
            _remove(left)

    def drop_tensors(self, name: str) -> None:
        """Keep a result's record alone: it still counts as done, and its tensors' disk is free.

        Raises:
            DrferError: the folder cannot be written.
        """
        folder = self.root / name
        if not (folder / WEIGHTS).exists() or self.record(name) is None:
            return
        with written_whole(folder / CHECKSUMS) as target:
            target.write_text(f"{_digest((folder / RECORD).read_bytes())}  {RECORD}\n")
        _remove(folder / WEIGHTS)

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict] | None:
        """Return the state of an interrupted training as `save_checkpoint` got it, or None.

        A damaged checkpoint is reported and removed; the stage then starts from its beginning.
        """
        path = self._checkpoint(name)
        try:
            digest, rest, content = path.read_bytes().split(b"\n", 2)
            if _digest(rest + content).encode() != digest:
                raise ValueError("it is not what was written")
            return tensors_of(content), json.loads(rest)
        except FileNotFoundError:
            return None
        except (ValueError, SafetensorError, IsADirectoryError) as error:
            print(f"{path} is damaged ({error}); the stage starts from its beginning")
            _remove(path)
            return None
        except OSError as error:
            raise DrferError(f"cannot read {path}: {error.strerror}; make it readable") from None

    def save_checkpoint(self, name: str, tensors: dict[str, Tensor], rest: dict) -> None:
        """Write the state of a training as one file: a checksum, a line of JSON, the tensors."""
        line, content = json.dumps(rest).encode(), _bytes(tensors)
        with written_whole(self._checkpoint(name)) as target:
            target.write_bytes(b"\n".join([_digest(line + content).encode(), line, content]))

    def failure(self, name: str) -> str | None:
        """Return why a job failed, or None if it did not."""
        try:
            return self._failure(name).read_text(errors="replace").strip() or "no reason is kept"
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"the reason cannot be read ({error.strerror})"

    def save_failure(self, name: str, reason: str) -> None:
        """Keep why a job failed; a full disk cannot, and the job has failed all the same."""
        try:
            _remove(self._failure(name))
            with written_whole(self._failure(name)) as target:
                target.write_text(reason)
        except DrferError as error:
            print(f"the reason is not kept: {error}")

    def forget_failure(self, name: str) -> None:
        """Remove the reason of an earlier failure, before a new attempt."""
        _remove(self._failure(name))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a result's lock, so that no other process makes it at the same time.

        Waits for a process that holds it. The system lets go of a lock if its process dies.
        """
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            print(f"{name}: another process is making it; waiting")
            lock.acquire()
        except OSError as error:
            raise _cannot_write(self.root, error) from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self, name: str) -> bool:
        """Return whether some process is making a result."""
        path = self.root / "locks" / name
        if not path.exists():
            return False
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # a store that can only be read: then nobody here is making anything
            return False
        lock.release()
        return False

    def _is_record_alone(self, name: str) -> bool:
        try:
            lines = (self.root / name / CHECKSUMS).read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return False
        return [line.split()[1:] for line in lines] == [[RECORD]]

    def _read(self, name: str, *wanted: str) -> list[bytes] | None:
        folder = self.root / name
        if not folder.exists():
            return None
        try:
            lines = (folder / CHECKSUMS).read_text().splitlines()
            sums = dict(reversed(line.split()) for line in lines)
            files = [(folder / file).read_bytes() for file in wanted]
            for file, content in zip(wanted, files):
                if _digest(content) != sums[file]:
                    raise ValueError(f"{file} is not what was written")
            return files
        except (
            FileNotFoundError,
            NotADirectoryError,
            IsADirectoryError,
            ValueError,
            KeyError,
        ) as error:
            print(f"{folder} is damaged ({error}); it is made again")
            _remove(folder)
            return None
        except OSError as error:
            raise DrferError(f"cannot read {folder}: {error.strerror}; make it readable") from None

    def _checkpoint(self, name: str) -> Path:
        return self.root / f"{name}.checkpoint"

    def _failure(self, name: str) -> Path:
        return self.root / f"{name}.failed"

    def _lock(self, name: str) -> FileLock:
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self.root, error) from None
        return FileLock(folder / name)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and may be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DrferError(f"cannot remove {path}: {error.strerror}; remove it yourself") from None


def _cannot_write(root: Path, error: OSError) -> DrferError:
    return DrferError(f"cannot write to {root}: {error.strerror}; choose another folder")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bytes(tensors: dict[str, Tensor]) -> bytes:
    return bytes_of({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
