"""Results under the hash of all that determined them: what is there is not done again.

A result is a folder with one small JSON (the record), one safetensors file (weights or arrays) and the checksums of
both, written whole or not at all. A training in progress keeps one checkpoint file, likewise. Any number of processes
may work on a store: whoever makes a result holds its lock.
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
"""as `sha256sum --check` reads them"""


class Store:
    """Results in a folder. Names are "<stage or measurement>-<hash>"."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Raise DrferError now if nothing can be stored, and not after an hour of training."""
        with written_whole(self.root / ".writable") as target:
            target.touch()
        (self.root / ".writable").unlink(missing_ok=True)  # another process may try the same

    def load(self, name: str) -> tuple[dict[str, Tensor], dict] | None:
        """Tensors and record of a finished result; None if it is not there. A damaged one is said and removed."""
        files = self._read(name, "weights.safetensors", "record.json")
        return files and (tensors_of(files[0]), json.loads(files[1]))

    def record(self, name: str) -> dict | None:
        """The record alone, which is quick."""
        files = self._read(name, "record.json")
        return files and json.loads(files[0])

    def _read(self, name: str, *wanted: str) -> list[bytes] | None:
        folder = self.root / name
        if not folder.exists():
            return None
        try:
            sums = dict(
                reversed(line.split()) for line in (folder / CHECKSUMS).read_text().splitlines()
            )
            files = [(folder / file).read_bytes() for file in wanted]
            for file, content in zip(wanted, files):
                if hashlib.sha256(content).hexdigest() != sums[file]:
                    raise ValueError(f"{file} is not what was written")
            return files
        except (FileNotFoundError, ValueError, KeyError) as error:
            print(f"{folder} is damaged ({error}); it is made again")
            shutil.rmtree(folder, ignore_errors=True)
            return None
        except OSError as error:  # which says nothing against the result
            raise DrferError(f"cannot read {folder}: {error.strerror}; make it readable") from None

    def save(self, name: str, tensors: dict[str, Tensor], record: dict) -> None:
        """Store a finished result and drop its checkpoint. Raises DrferError if the folder cannot be written."""
        files = {"weights.safetensors": _bytes(tensors), "record.json": json.dumps(record).encode()}
        sums = "".join(
            f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in files.items()
        )
        with written_whole(self.root / name) as folder:
            folder.mkdir()
            for file, content in {**files, CHECKSUMS: sums.encode()}.items():
                (folder / file).write_bytes(content)
        for left in (self._checkpoint(name), self.failure(name)):
            left.unlink(missing_ok=True)

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict] | None:
        """State of an interrupted training, as `save_checkpoint` got it; None if there is none. A damaged one is
        said and removed."""
        path = self._checkpoint(name)
        if not path.exists():
            return None
        try:
            digest, rest, content = path.read_bytes().split(b"\n", 2)
            if hashlib.sha256(rest + content).hexdigest().encode() != digest:
                raise ValueError("not what was written")
            return tensors_of(content), json.loads(rest)
        except (ValueError, SafetensorError) as error:
            print(f"{path} is damaged ({error}); the stage starts anew")
            path.unlink()
            return None

    def save_checkpoint(self, name: str, tensors: dict[str, Tensor], rest: dict) -> None:
        """One file: a checksum, the rest as a line of JSON, the tensors."""
        rest, content = json.dumps(rest).encode(), _bytes(tensors)
        with written_whole(self._checkpoint(name)) as target:
            target.write_bytes(
                hashlib.sha256(rest + content).hexdigest().encode() + b"\n" + rest + b"\n" + content
            )

    def _checkpoint(self, name: str) -> Path:
        return self.root / f"{name}.checkpoint"

    def failure(self, name: str) -> Path:
        """Where it stands why a job failed."""
        return self.root / f"{name}.failed"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a result's lock, so that no other process makes it at the same time; waits for one that does. The
        system lets go of it if the process dies."""
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            print(f"{name}: another process is at it; waiting")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def is_locked(self, name: str) -> bool:
        """Whether some process is making a result."""
        path = self.root / "locks" / name
        return path.exists() and _is_held(path)

    def _lock(self, name: str) -> FileLock:
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DrferError(
                f"cannot write to {self.root}: {error.strerror}; choose another folder"
            ) from None
        return FileLock(folder / name)


def _is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _bytes(tensors: dict[str, Tensor]) -> bytes:
    return bytes_of({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
