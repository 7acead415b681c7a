"""The faces of independent draws: named before they are made, and made when a draw needs them.

A plan, its status and a finished draw need names alone, which follow from the settings of the open
faces and of preprocessing. So disk and memory do not grow with the number of draws: the faces that
a draw trains on are made when its jobs begin, and removed after them. Those that all draws are
tested on are made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from drfer.common.files import CacheFile, cache_lock, digest_of
from drfer.datasets import classes_of
from drfer.datasets.anny3dfe.database import FaceSettings
from drfer.datasets.anny3dfe.populations import Populations, names_in
from drfer.datasets.scan import NEUTRAL, ScanKey
from drfer.evaluation.protocol import Draws, protocol_keys
from drfer.evaluation.run import Run
from drfer.preprocessing import faceset, head_pose
from drfer.preprocessing.faceset import FaceSet, preprocess
from drfer.preprocessing.head_pose import PosedFaces, pose_faces, poses_hash
from drfer.preprocessing.resampling import Settings
from drfer.training.data import FoldData, input_clouds, labels_of

FIRST_TESTED = 100
"""The first population of test subjects, counted from the protocol's first."""
OF_A_POPULATION = 100
"""How many of its subjects are taken before those of the next."""


def _of_parts(name: str) -> cached_property:
    """An array of the training scans and of the measured test scans, one after the other."""
    return cached_property(
        lambda self: np.concatenate([getattr(part, name) for part in self._parts])
    )


@dataclass(frozen=True, eq=False)
class DrawFaces:
    """What a `FaceSet` is to a fold, to a draw: keys and hash are known, arrays made when read.

    Keys and arrays are of the training subjects and of those test subjects of whom measures are
    taken; `further` has the others, who are only classified.
    """

    protocol: Draws
    """How many subjects there are."""
    draw: int = 1
    """Which draw."""
    settings: Settings = Settings()
    """How scans are preprocessed."""

    clouds = _of_parts("clouds")
    vertices = _of_parts("vertices")
    missing = _of_parts("missing")
    residuals = _of_parts("residuals")
    doubtful = _of_parts("doubtful")
    poses = _of_parts("poses")

    def of(self, draw: int) -> DrawFaces:
        """Return the faces of another draw."""
        return replace(self, draw=draw)

    @property
    def population(self) -> int:
        """The seed of the population that is trained on."""
        return self.protocol.first_population + self.draw

    @cached_property
    def train_subjects(self) -> list[str]:
        """Who is trained on."""
        return names_in(self.population, self.protocol.train_subjects)

    @property
    def test_subjects(self) -> list[str]:
        """Who is tested, in every draw: first those of whom measures are taken."""
        measured, others = _tested(self.protocol)
        return [*measured, *others]

    @cached_property
    def subjects(self) -> list[str]:
        """Whose scans the keys and arrays are of."""
        return sorted({*self.train_subjects, *_tested(self.protocol)[0]})

    @cached_property
    def dataset(self) -> Populations:
        """The populations of all these subjects."""
        return populations_of(self.protocol, {self.population: self.protocol.train_subjects})

    @property
    def expressions(self) -> tuple[str, ...]:
        """The classes by their labels."""
        return classes_of(self.dataset)

    @cached_property
    def keys(self) -> list[ScanKey]:
        """Which scan each is."""
        return [*self._train_keys, *self._keys_of(_tested(self.protocol)[0])]

    @cached_property
    def hash(self) -> str:
        """Of all that determines the scans, the further ones included."""
        return digest_of([self._train_file.digest, *_tested_hashes(self.protocol, self.settings)])

    @cached_property
    def further(self) -> FaceSet:
        """The scans of the test subjects that are not in `keys`."""
        return self._preprocessed(self._keys_of(_tested(self.protocol)[1]))

    @cached_property
    def posed(self) -> PosedFaces:
        """The expressive scans at all head poses."""
        parts = [pose_faces(part) for part in self._parts]
        return PosedFaces(
            keys=[key for part in parts for key in part.keys],
            clouds=np.concatenate([part.clouds for part in parts]),
            left=np.concatenate([part.left for part in parts]),
            hash=poses_hash(self),
        )

    @contextmanager
    def lock(self, wait: bool) -> Iterator[bool]:
        """Keep other processes from making or removing the training faces.

        Args:
            wait: whether to wait for a process that has them.

        Yields:
            Whether this process has them now.
        """
        with cache_lock(self.dataset.folder_of(self.population).name, wait) as held:
            yield held

    @property
    def are_left(self) -> bool:
        """Whether there is anything in the cache that `remove` removes."""
        places = [file.path for file in self._own_files]
        return any(path.exists() for path in (*places, self.dataset.folder_of(self.population)))

    def remove(self) -> None:
        """Remove what the cache has of the training faces."""
        for file in self._own_files:
            file.remove()
        self.dataset.remove(self.population)

    @property
    def _own_files(self) -> list[CacheFile]:
        file = self._train_file
        return [file, head_pose.cache_file(self.dataset, file.digest)]

    @cached_property
    def _train_file(self) -> CacheFile:
        return faceset.cache_file(self.dataset, self._train_keys, self.settings)

    @cached_property
    def _train_keys(self) -> list[ScanKey]:
        return self._keys_of(self.train_subjects)

    def _keys_of(self, subjects: list[str]) -> list[ScanKey]:
        return protocol_keys(subjects, self.protocol)

    @cached_property
    def _parts(self) -> tuple[FaceSet, FaceSet]:
        measured = self._keys_of(_tested(self.protocol)[0])
        return self._preprocessed(self._train_keys), self._preprocessed(measured)

    def _preprocessed(self, keys: list[ScanKey]) -> FaceSet:
        with cache_lock("draws"):  # one process makes faces, on all cores, and others wait for it
            self.dataset.make()
            return preprocess(self.dataset, keys, self.settings)


def faces_of(faces: FaceSet | DrawFaces, run: Run) -> FaceSet | DrawFaces:
    """Return the faces that a run is on: of an evaluation of draws, those of its draw."""
    return faces.of(run.repeat) if isinstance(faces, DrawFaces) else faces


def clouds_to_test(faces: FaceSet | DrawFaces, data: FoldData) -> tuple[Tensor, Tensor]:
    """Return clouds and labels of all test scans, those of a draw that are not measured included.

    Args:
        faces: a fold's or a draw's faces.
        data: made of them.

    Returns:
        Clouds (n, P, 3) and expressions (n,), on the training device.
    """
    clouds, labels = data.clouds[data.test], data.labels[data.test]
    if not isinstance(faces, DrawFaces):
        return clouds, labels
    more, points = faces.further, clouds.shape[1]
    shown = [number for number, key in enumerate(more.keys) if key.expression != NEUTRAL]
    further = torch.from_numpy(input_clouds(more, points, data.settings)[shown]).to(clouds)
    theirs = torch.from_numpy(labels_of(more)[shown]).to(labels)
    return torch.cat([clouds, further]), torch.cat([labels, theirs])


def origin_of(faces: FaceSet | DrawFaces) -> dict[str, str]:
    """Return the content hashes of a draw's populations, as far as they were made for it.

    What a result's name says of them is what was asked for.
    """
    if not isinstance(faces, DrawFaces):
        return {}
    made = vars(faces.dataset).get("databases", {})
    return {f"faces of population {seed}": of.hash for seed, of in made.items()}


def populations_of(protocol: Draws, trained: Mapping[int, int] = {}) -> Populations:
    """Return the populations that draws are tested on, and some that are trained on.

    Args:
        protocol: says how their people differ, and at which intensities they are made.
        trained: how many subjects of a population are trained on, by its seed.
    """
    usual = FaceSettings()
    spread = protocol.identity * usual.identity.spread
    faces = replace(usual, identity=replace(usual.identity, spread=spread))
    return Populations({**trained, **_sizes(protocol)}, faces, protocol.intensities)


@cache
def _tested(protocol: Draws) -> tuple[list[str], list[str]]:
    """The test subjects of whom measures are taken, evenly spread over all, and the others."""
    names = [name for seed, count in _sizes(protocol).items() for name in names_in(seed, count)]
    count = protocol.measured_subjects
    measured = [names[(2 * number + 1) * len(names) // (2 * count)] for number in range(count)]
    return measured, [name for name in names if name not in measured]


@cache
def _tested_hashes(protocol: Draws, settings: Settings) -> list[str]:
    """Hashes of the two sets of test scans."""
    dataset = populations_of(protocol)
    return [
        faceset.cache_file(dataset, protocol_keys(names, protocol), settings).digest
        for names in _tested(protocol)
    ]


def _sizes(protocol: Draws) -> dict[int, int]:
    """How many subjects of each population are tested."""
    first = protocol.first_population + FIRST_TESTED
    starts = range(0, protocol.test_subjects, OF_A_POPULATION)
    return {
        first + number: min(OF_A_POPULATION, protocol.test_subjects - start)
        for number, start in enumerate(starts)
    }
