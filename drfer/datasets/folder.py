"""What the readers of a user's folder share: which scans are there, and reading one of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey


class ScanFolder(ABC):
    """Scans in a folder, searched at any depth and read one by one. A database's reader fills in what is abstract."""

    name: str
    levels: tuple[int, ...]
    """of the expressive scans that the protocol uses"""
    landmarks_suffix = ""
    """of the file beside a scan that is read with it"""
    version = 1
    """raised whenever the same file could be read differently"""
    up = "y"
    """the axis that points up"""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DrferError(f"{self.root} is not a folder; give the database's with --root")
        self.files: dict[ScanKey, list[Path]] = {}
        self.strangers: list[Path] = []
        for path in sorted(self.root.rglob("*")):
            key = self.key_of(path)
            if key is not None:
                self.files.setdefault(key, []).append(path)
            elif self.is_stranger(path):
                self.strangers.append(path)
        if not self.files:
            raise DrferError(
                f"{self.root} holds no scan of {self.name}: no file in it is named like one"
            )

    @abstractmethod
    def key_of(self, path: Path) -> ScanKey | None:
        """Which scan a file is, from its name; None if it is none."""

    @abstractmethod
    def is_stranger(self, path: Path) -> bool:
        """Whether a file looks like a scan, but for its name."""

    @abstractmethod
    def read(self, path: Path, key: ScanKey) -> FaceScan:
        """The scan in a file. Raises ScanFormatError naming file and place."""

    def keys(self) -> list[ScanKey]:
        return sorted(self.files, key=lambda key: (key.subject, key.expression, key.level))

    def load(self, key: ScanKey) -> FaceScan:
        """The scan of a key; of several copies the first. Raises ScanFormatError if it cannot be read."""
        if key not in self.files:
            raise DrferError(f"{self.root} has no scan {key} of {self.name}")
        path = self.files[key][0]
        try:
            return self.read(path, key)
        except OSError as error:
            raise ScanFormatError(f"{path}: cannot be read ({error.strerror})") from None

    def needed(self, subject: str) -> list[ScanKey]:
        """The scans of a subject that the protocol uses."""
        expressive = [
            ScanKey(subject, expression, level)
            for expression in EXPRESSIONS
            for level in self.levels
        ]
        return [ScanKey(subject, NEUTRAL, 0), *expressive]

    @cached_property
    def subjects(self) -> list[str]:
        """Those of whom all scans are there that the protocol uses."""
        known = sorted({key.subject for key in self.files})
        return [
            subject for subject in known if all(key in self.files for key in self.needed(subject))
        ]

    @cached_property
    def hash(self) -> str:
        """Of the content of all scans that the protocol may use, their landmarks, and how they are read."""
        digest = hashlib.sha256(f"{self.name} {self.version} {self.up}".encode())
        for subject in self.subjects:
            for key in self.needed(subject):
                path = self.files[key][0]
                try:
                    digest.update(f"{key} ".encode() + path.read_bytes())
                    if self.landmarks_suffix and path.with_suffix(self.landmarks_suffix).exists():
                        digest.update(path.with_suffix(self.landmarks_suffix).read_bytes())
                except OSError as error:
                    raise ScanFormatError(f"{path}: cannot be read ({error.strerror})") from None
        return digest.hexdigest()
