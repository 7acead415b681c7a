"""Subjects of several populations of the open faces as one dataset, known before they are made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from drfer.common.errors import DrferError
from drfer.common.files import cache_folder, digest_of
from drfer.datasets.anny3dfe.database import (
    Anny3DFE,
    FaceSettings,
    Truth,
    all_settings,
    folder_name,
    scan_keys,
    subject_names,
)
from drfer.datasets.scan import FaceScan, ScanKey


class Populations:
    """Subjects of populations that differ in their seed alone, as one dataset.

    A subject's name begins with its population's seed, such as "003-F0001". So nobody has the name
    of somebody else, and a list of names says with the settings which faces these are, before any
    is made. They are made when the first is read, or by `make`.

    Args:
        sizes: how many subjects of a population belong to the dataset, by its seed.
        faces: how the faces come out; other settings than the benchmark's are for experiments.
        intensities: those that each expression is made at.
    """

    name = Anny3DFE.name

    def __init__(
        self,
        sizes: Mapping[int, int],
        faces: FaceSettings = FaceSettings(),
        intensities: tuple[int, ...] = Anny3DFE.intensities,
    ) -> None:
        """Name the subjects; nothing is made."""
        self.sizes, self.faces, self.intensities = dict(sizes), faces, intensities

    @property
    def hash(self) -> str:
        """Of how the faces are made, whichever they are: the names of the keys say that."""
        return digest_of(self._settings_of(0))

    @property
    def subjects(self) -> list[str]:
        """The names of all subjects, population by population."""
        return [name for seed, count in self.sizes.items() for name in names_in(seed, count)]

    def keys(self) -> list[ScanKey]:
        """Return the keys of all scans, subject by subject."""
        return [key for name in self.subjects for key in scan_keys(name, self.intensities)]

    @cached_property
    def databases(self) -> dict[int, Anny3DFE]:
        """The populations by seed; what is not in the cache is made."""
        return {
            seed: Anny3DFE(count, seed, self.faces, self.intensities)
            for seed, count in self.sizes.items()
        }

    def make(self) -> None:
        """Make what is not in the cache, and know where it is when this is sent to other processes.

        Raises:
            DrferError: the faces can be neither read nor made.
        """
        assert self.databases

    def load(self, key: ScanKey) -> FaceScan:
        """Return the scan of a key, in the scanner's frame.

        Raises:
            DrferError: there is no such scan.
            ScanFormatError: its file is damaged.
        """
        database, own_key = self._found(key)
        scan = database.load(own_key)
        return FaceScan(scan.points, scan.triangles, key, scan.source)

    def truth(self, key: ScanKey) -> Truth:
        """Return what the simulation knows of a scan: for measurements, never for the pipeline."""
        database, own_key = self._found(key)
        return database.truth(own_key)

    def true_neutral(self, subject: str) -> np.ndarray:
        """Return a subject's neutral head as the generator made it (see `Anny3DFE`)."""
        database, own_key = self._found(ScanKey(subject, "", 0))
        return database.true_neutral(own_key.subject)

    def folder_of(self, seed: int) -> Path:
        """Return the folder of a population's files, whether it is there or not."""
        return cache_folder() / folder_name(self._settings_of(seed))

    def remove(self, seed: int) -> None:
        """Remove a population's files; whoever reads it again makes it again."""
        shutil.rmtree(self.folder_of(seed), ignore_errors=True)
        self.__dict__.pop("databases", None)

    def _settings_of(self, seed: int) -> dict:
        return all_settings(seed, self.faces, self.intensities)

    def _found(self, key: ScanKey) -> tuple[Anny3DFE, ScanKey]:
        seed, _, subject = key.subject.partition("-")
        if not seed.isdigit() or int(seed) not in self.sizes:
            raise DrferError(f"{self.name} has no scan {key}")
        return self.databases[int(seed)], ScanKey(subject, key.expression, key.intensity)


def names_in(seed: int, count: int) -> list[str]:
    """Return the names of so many subjects of a population."""
    return [f"{seed:03d}-{name}" for name in subject_names(count)]
