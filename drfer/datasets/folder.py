"""What the readers of a user's folder share: which scans are there, and reading one of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey


class ScanFolder(ABC):
    """Scans in a folder, found at any depth and read one by one.

    A reader of a database says which file is which scan (`key_of`, `is_stranger`) and reads one
    (`read`).

    Args:
        root: the folder.

    Raises:
        DrferError: it is no folder, or no file in it is named like a scan.
    """

    name: str
    """Of the database."""
    intensities: tuple[int, ...]
    """Of the expressive scans that the protocol uses."""
    companion = ""
    """Suffix of the file beside a scan that is read with it, if there is one."""
    version = 1
    """Raised whenever the same file could be read differently."""
    expressions: tuple[str, ...] = EXPRESSIONS
    """The classes that the protocol tells apart, by their labels."""
    has_neutral = True
    """Whether there are neutral scans."""
    up = "y"
    """The axis that points up in the files."""
    why_none = "no file in it is named like one"
    """Why no scan was found, where none was."""
    absent: Sequence[str] = ()
    """Files that ought to be in the folder, and are not."""

    def __init__(self, root: Path) -> None:
        """Find the scans by their names; none is opened."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise DrferError(f"{self.root} is not a folder; give the one that holds the scans")
        self.files: dict[ScanKey, list[Path]] = {}
        self.strangers: list[Path] = []
        for path in sorted(self.root.rglob("*")):
            key = self.key_of(path)
            if key is not None:
                self.files.setdefault(key, []).append(path)
            elif self.is_stranger(path):
                self.strangers.append(path)
        if not self.files:
            raise DrferError(f"{self.root} holds no scan of {self.name}: {self.why_none}")

    @abstractmethod
    def key_of(self, path: Path) -> ScanKey | None:
        """Return which scan a file is, judged by its name, or None if it is none."""

    @abstractmethod
    def is_stranger(self, path: Path) -> bool:
        """Return whether a file looks like a scan, but for its name."""

    @abstractmethod
    def read(self, path: Path, key: ScanKey) -> FaceScan:
        """Return the scan in a file.

        Raises:
            ScanFormatError: the file holds no such scan; the sentence says where in it.
        """

    def read_file(self, path: Path, key: ScanKey) -> FaceScan:
        """Return the scan in a file, whatever that file may be.

        Raises:
            ScanFormatError: the file cannot be opened, or holds no such scan.
        """
        try:
            _check_regular(path)
            return self.read(path, key)
        except OSError as error:
            raise _unreadable(path, error) from None

    def keys(self) -> list[ScanKey]:
        """Return the keys of all scans, by subject, expression and intensity."""
        return sorted(self.files, key=lambda key: (key.subject, key.expression, key.intensity))

    def load(self, key: ScanKey) -> FaceScan:
        """Return the scan of a key; of several copies the first.

        Raises:
            DrferError: there is no such scan.
            ScanFormatError: it cannot be read.
        """
        if key not in self.files:
            raise DrferError(f"{self.root} has no scan {key} of {self.name}")
        return self.read_file(self.files[key][0], key)

    def needed(self, subject: str) -> list[ScanKey]:
        """Return the scans of a subject that the protocol uses: neutral, then each expression."""
        expressive = [
            ScanKey(subject, expression, intensity)
            for expression in self.expressions
            for intensity in self.intensities
        ]
        return [ScanKey(subject, NEUTRAL, 0), *expressive] if self.has_neutral else expressive

    @cached_property
    def subjects(self) -> list[str]:
        """Those of whom all scans are there that the protocol uses."""
        known = sorted({key.subject for key in self.files})
        return [
            subject for subject in known if all(key in self.files for key in self.needed(subject))
        ]

    @cached_property
    def hash(self) -> str:
        """Of the content of all scans that the protocol may use, and of how they are read."""
        digest = hashlib.sha256(f"{self.name} {self.version} {self.up}".encode())
        for subject in self.subjects:
            for key in self.needed(subject):
                path = self.files[key][0]
                try:
                    _check_regular(path)
                    digest.update(f"{key} ".encode() + path.read_bytes())
                    if self.companion and path.with_suffix(self.companion).is_file():
                        digest.update(path.with_suffix(self.companion).read_bytes())
                except OSError as error:
                    raise _unreadable(path, error) from None
        return digest.hexdigest()


def _check_regular(path: Path) -> None:
    path.stat()  # an OSError says more than "no file"
    if not path.is_file():  # a pipe would let its reader wait for ever
        raise ScanFormatError(f"{path}: this is no file that could hold a scan")


def _unreadable(path: Path, error: OSError) -> ScanFormatError:
    return ScanFormatError(f"{path}: cannot be read ({error.strerror})")
