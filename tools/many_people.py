"""Many people of many kinds, for the model that comes with the kit: wider than the benchmark's.

Each population has dials of its own, drawn from the ranges below by its seed: how people differ, how
they show things, and what scanner they are scanned with. Every second one has no eyes, as scans have
whose scanner cannot see wet or glossy surfaces. Making them needs the extra `populations`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property

import numpy as np

from drfer.common.errors import ScanFormatError
from drfer.common.files import cached_arrays, digest_of
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.anny3dfe.database import (
    Anny3DFE,
    FaceSettings,
    _generator,
    all_settings,
    scan_keys,
    subject_names,
)
from drfer.datasets.anny3dfe.expressions import Spread
from drfer.datasets.anny3dfe.generator import skin_of
from drfer.datasets.anny3dfe.head import load as load_head
from drfer.datasets.anny3dfe.identity import Identity, draw_identity
from drfer.datasets.anny3dfe.scanner import Scanner
from drfer.datasets.scan import NEUTRAL, FaceScan, ScanKey
from drfer.preprocessing.faceset import VERSION, FaceSet
from drfer.preprocessing.resampling import Settings, preprocess_scan

PEOPLE = 50
"""In each population."""
TRAINING = range(2001, 2021)
APART = range(2101, 2107)
"""Populations whose people set temperature and limits; like all seeds from 1000 on, of development."""
UNSEEN = range(2201, 2207)
"""Populations that the card's numbers are of: three hundred people, since the calibration error of a
hundred is 3.3 % by chance alone."""
LEVELS = (3, 4, 2, 4, 3)
"""Intensity of a population's expressions, in turn."""

WAVE = (2.0, 60.0)
"""Height and length in mm of the waves that faces are warped by."""
NARROW = Settings(smallest_cover=0.35)
"""For training: narrow scans without eyes teach, too."""

IDENTITY = {"spread": (0.12, 0.30), "asymmetry": (0.03, 0.09), "ancestry": (0.6, 1.6)}
SPREAD = {
    "style": (0.06, 0.20),
    "unit_jitter": (0.06, 0.20),
    "optional_share": (0.20, 0.45),
    "second_expression": (0.15, 0.35),
    "asymmetry": (0.05, 0.20),
}
SCANNER = {"spacing": (1.2, 2.8), "noise": (0.05, 0.60), "crop_width": (0.76, 0.95)}
"""Ranges that dials are drawn from evenly; they reach beyond the benchmark's on both sides."""


def wide(seed: int) -> FaceSettings:
    """Return the dials of a population."""
    rng = np.random.default_rng([seed, 19])

    def drawn(ranges: dict) -> dict[str, float]:
        return {name: round(rng.uniform(*ends), 4) for name, ends in ranges.items()}

    def ends(low: tuple[float, float], high: tuple[float, float]) -> tuple[float, float]:
        return round(rng.uniform(*low), 2), round(rng.uniform(*high), 2)

    return FaceSettings(
        identity=Identity(
            **drawn(IDENTITY),
            age=ends((0.58, 0.66), (0.88, 0.98)),
            muscle=ends((0.2, 0.4), (0.7, 0.9)),
            weight=ends((0.2, 0.4), (0.7, 0.9)),
        ),
        spread=Spread(**drawn(SPREAD)),
        scanner=Scanner(
            **drawn(SCANNER),
            spikes=int(rng.integers(0, 20)),
            holes=int(rng.integers(0, 6)),
            crop_radius=ends((80, 88), (92, 106)),
            hairline=ends((54, 64), (80, 95)),
        ),
    )


def has_eyes(seed: int) -> bool:
    """Return whether a population's scans have eyes."""
    return seed % 2 == 0


class Population:
    """One of these populations as a dataset: neutral, and each expression at one intensity.

    Args:
        seed: which; its faces are made when the first is read.
    """

    name = "many-people"

    def __init__(self, seed: int) -> None:
        """Name the subjects, which begin with the seed."""
        self.seed = seed
        self.intensities = (LEVELS[seed % len(LEVELS)],)
        self.subjects = [f"{seed}-{name}" for name in subject_names(PEOPLE)]
        settings = all_settings(seed, wide(seed), self.intensities)
        self.hash = digest_of([settings, has_eyes(seed), PEOPLE])

    def keys(self) -> list[ScanKey]:
        """Return the keys of all scans, subject by subject."""
        return [key for name in self.subjects for key in scan_keys(name, self.intensities)]

    @cached_property
    def database(self) -> Anny3DFE:
        """The faces with eyes."""
        return Anny3DFE(PEOPLE, self.seed, wide(self.seed), intensities=self.intensities)

    def load(self, key: ScanKey) -> FaceScan:
        """Return the scan of a key."""
        own = replace(key, subject=key.subject.split("-")[1])
        scan = self.database.load(own)
        points, triangles = scan.points, scan.triangles
        if not has_eyes(self.seed):
            of_eye = _eyes()[self.database.truth(own).hit_triangle // load_head().fine_per_coarse]
            kept, corners = np.unique(
                triangles[~of_eye[triangles].any(axis=1)], return_inverse=True
            )
            points, triangles = points[kept], corners.reshape(-1, 3).astype(np.int32)
        return FaceScan(points, triangles, key, scan.source)


class Warped(Population):
    """A population whose scans are bent by a smooth wave each, as no head of the generator is."""

    name = "warped-people"

    def __init__(self, seed: int) -> None:
        """Name the subjects."""
        super().__init__(seed)
        self.hash = digest_of([self.hash, WAVE])

    def load(self, key: ScanKey) -> FaceScan:
        """Return the scan of a key."""
        scan = super().load(key)
        rng = np.random.default_rng(list(str(key).encode()))
        along, towards = rng.normal(size=(2, 3))
        height, length = WAVE
        phase = scan.points @ along / np.linalg.norm(along) * 2 * np.pi / length
        wave = height * np.sin(phase + rng.uniform(0, 2 * np.pi))
        moved = scan.points + wave[:, None] * towards / np.linalg.norm(towards)
        return replace(scan, points=moved.astype(np.float32))


def build_of(subject: str) -> dict[str, float]:
    """Return a subject's phenotype: age, weight, ancestries and so on, on anny's scales.

    Args:
        subject: such as "2201-F0001"; populations below 1000 are of the benchmark.
    """
    seed, name = subject.split("-")
    identity = wide(int(seed)).identity if int(seed) >= TRAINING[0] else Identity()
    rng = _generator(int(seed), name, 0)
    return draw_identity(rng, name[0] == "F", [], identity)[0]


def many_people(
    seeds: range, settings: Settings = Settings(), kind: type[Population] = Population
) -> FaceSet:
    """Return the preprocessed scans of some populations, from the cache as far as they are there.

    A scan that does not register is left out, and a person whose neutral scan does not.

    Args:
        seeds: which populations.
        settings: how scans are preprocessed.
        kind: as they are, or warped.
    """
    populations = [kind(seed) for seed in seeds]
    parts = [_preprocessed(population, settings) for population in populations]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    words = [str(key).split() for key in whole["key"]]
    return FaceSet(
        keys=[ScanKey(subject, shown, int(level)) for subject, shown, level in words],
        clouds=whole["cloud"],
        vertices=whole["vertices"],
        missing=whole["missing"],
        residuals=whole["residual"],
        doubtful=whole["doubtful"],
        poses=whole["pose"],
        hash=digest_of([population.hash for population in populations]),
    )


def _preprocessed(population: Population, settings: Settings) -> dict[str, np.ndarray]:
    """The arrays of a population's scans, kept in the cache."""

    def make() -> dict[str, np.ndarray]:
        assert population.database
        people = [
            [key for key in population.keys() if key.subject == name]
            for name in population.subjects
        ]
        title = f"population {population.seed}"
        done = map_on_all_cores(_preprocess_person, people, title, population, settings)
        rows = [row for person in done for row in person]
        print(f"{title}: {len(rows)} of {sum(map(len, people))} scans register")
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    return cached_arrays(population.name, [population.hash, VERSION, asdict(settings)], make)


def _preprocess_person(
    keys: list[ScanKey], population: Population, settings: Settings
) -> list[dict]:
    rows = []
    for key in keys:
        try:
            row = preprocess_scan(population.load(key), settings)
        except ScanFormatError:
            if key.expression == NEUTRAL:
                return []
        else:
            rows.append(row | {"key": np.array(str(key))})
    return rows


def _eyes() -> np.ndarray:
    """Which of the head's triangles a scanner sees that are not of its skin, shape (t,)."""
    head = load_head()
    return head.seen_from_front & ~skin_of(head.triangles)[head.triangles[:, 0]]
