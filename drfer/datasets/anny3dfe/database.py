"""The open faces as a dataset: 100 subjects (56 F, 44 M) x 25 scans, made on first use.

Each subject has a neutral scan, and six expressions at four intensities. Every scan is drawn from
the dataset's seed, its subject's name and its own number, so that a database of fewer subjects, or
of fewer intensities, is a part of the larger one. What only the simulation knows (pose,
correspondence, activation) is kept beside each scan as its `Truth`; the pipeline itself never reads
it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from drfer.common.errors import DamagedCacheError, DrferError, ScanFormatError
from drfer.common.files import CacheFile, cache_folder, digest_of
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.anny3dfe import expressions
from drfer.datasets.anny3dfe.expressions import Spread, draw_activation, draw_style
from drfer.datasets.anny3dfe.generator import HeadGenerator, HeadSettings
from drfer.datasets.anny3dfe.head import HeadModel, load, load_people
from drfer.datasets.anny3dfe.identity import Identity, draw_identity
from drfer.datasets.anny3dfe.scanner import Scanner, scan_face
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey

VERSION = "2.0"
"""Frozen with the settings: a new number whenever a scan could come out differently."""

MOST_SUBJECTS = 100
INTENSITIES = (1, 2, 3, 4)


@dataclass(frozen=True)
class FaceSettings:
    """Every number that the faces depend on, but for the tables in `expressions`."""

    identity: Identity = field(default_factory=Identity)
    head: HeadSettings = field(default_factory=HeadSettings)
    spread: Spread = field(default_factory=Spread)
    scanner: Scanner = field(default_factory=Scanner)


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulation knows of a scan."""

    pose: np.ndarray
    """Matrix (4, 4) from the head's canonical frame to the scan's, mm."""
    activation: np.ndarray
    """Strength of each face unit, shape (52,)."""
    hit_triangle: np.ndarray
    """On which triangle of the fine head each point lies, shape (n,)."""
    hit_barycentric: np.ndarray
    """Where on it: barycentric coordinates of its second and third corner, shape (n, 2)."""


class Anny3DFE:
    """The open faces: keys, and a loader of scans. It makes itself on first use.

    The scans of each subject are one file in the cache folder, which the databases of all sizes
    share.

    Args:
        subjects: how many of the 100.
        seed: another seed gives another population.
        faces: how the faces come out; another setting gives another database.
        intensities: those that each expression is made at. The protocol needs 3 and 4 alone,
            which take half the time of all four.
        only: names of the subjects that are wanted; everybody if None.

    Raises:
        DrferError: there are fewer subjects, or none of such a name, the seed is negative, there is
            no such intensity, or the faces can be neither read nor made.
    """

    name = "anny3dfe"
    intensities = (3, 4)
    """Those that the protocol uses."""

    def __init__(
        self,
        subjects: int = MOST_SUBJECTS,
        seed: int = 0,
        faces: FaceSettings = FaceSettings(),
        intensities: tuple[int, ...] = INTENSITIES,
        only: Sequence[str] | None = None,
    ) -> None:
        """Look for the subjects' files, and make those that are missing."""
        if not 1 <= subjects <= MOST_SUBJECTS:
            raise DrferError(
                f"Anny-3DFE has 1 to {MOST_SUBJECTS} subjects, not {subjects}; change --subjects"
            )
        if seed < 0:
            raise DrferError(f"{seed} is no seed for Anny-3DFE; give 0 or more with --seed")
        self.made_at = tuple(sorted(set(intensities)))
        if not self.made_at or not set(self.made_at) <= set(INTENSITIES):
            raise DrferError(f"Anny-3DFE has the intensities 1 to 4, not {list(intensities)}")
        self.intensities = tuple(one for one in type(self).intensities if one in self.made_at)
        self.settings = all_settings(seed, faces, self.made_at)
        everybody = subject_names(subjects, faces.identity.female_share)
        wanted = set(everybody if only is None else only)
        self.subjects = [subject for subject in everybody if subject in wanted]
        if not wanted or len(self.subjects) < len(wanted):
            raise DrferError(f"these are no subjects of Anny-3DFE: {sorted(wanted) or 'nobody'}")
        self._population = (subjects, seed, faces)
        contents = {subject: self._content_hash(subject) for subject in self.subjects}
        missing = [subject for subject, content in contents.items() if content is None]
        if missing:
            scans = len(scan_keys("", self.made_at))
            print(
                f"Making Anny-3DFE {VERSION}: {len(missing)} subjects x {scans} scans, in {self.root}"
            )
            files = {subject: self._file(subject) for subject in missing}
            contents |= zip(missing, _make(files, seed, faces, self.made_at))
        self.hash: str = hashlib.sha256("".join(contents.values()).encode()).hexdigest()

    @property
    def root(self) -> Path:
        """The folder of the subjects' files."""
        return cache_folder() / self._folder

    @property
    def _folder(self) -> str:
        return folder_name(self.settings)

    def at_all_intensities(self, subjects: Sequence[str]) -> Anny3DFE:
        """Return some subjects of this population, at all four intensities."""
        return Anny3DFE(*self._population, INTENSITIES, only=subjects)

    def keys(self) -> list[ScanKey]:
        """Return the keys of all scans, subject by subject."""
        return [key for subject in self.subjects for key in scan_keys(subject, self.made_at)]

    def load(self, key: ScanKey) -> FaceScan:
        """Return the scan of a key, in the scanner's frame.

        Raises:
            DrferError: there is no such scan.
            ScanFormatError: its file is damaged.
        """
        arrays, number = self._arrays(key)
        start, end = arrays["point_start"][number : number + 2]
        first, last = arrays["triangle_start"][number : number + 2]
        return FaceScan(
            points=arrays["points"][start:end],
            triangles=arrays["triangles"][first:last].astype(np.int32),
            key=key,
            source=str(self._file(key.subject).path),
        )

    def truth(self, key: ScanKey) -> Truth:
        """Return what the simulation knows of a scan: for measurements, never for the pipeline."""
        arrays, number = self._arrays(key)
        start, end = arrays["point_start"][number : number + 2]
        return Truth(
            pose=arrays["pose"][number],
            activation=arrays["activation"][number],
            hit_triangle=arrays["hit_triangle"][start:end],
            hit_barycentric=arrays["hit_place"][start:end].astype(np.float64),
        )

    def true_neutral(self, subject: str) -> np.ndarray:
        """Return a subject's neutral head as the generator made it.

        With `Truth.activation` and `HeadModel.pose_face` it gives any true face of the subject.

        Returns:
            Coarse vertices, shape (4538, 3), mm, in the canonical frame.
        """
        return self._arrays(ScanKey(subject, NEUTRAL, 0))[0]["neutral"].astype(np.float64)

    def _file(self, subject: str) -> CacheFile:
        return CacheFile(f"{self._folder}/{subject}", digest_of([self.settings, subject]))

    def _content_hash(self, subject: str) -> str | None:
        try:
            return self._file(subject).content_hash()
        except DamagedCacheError as error:
            print(f"{error}; it is made again")
            return None

    def _arrays(self, key: ScanKey) -> tuple[dict[str, np.ndarray], int]:
        keys = scan_keys(key.subject, self.made_at)
        numbers = {known: number for number, known in enumerate(keys)}
        if key.subject not in self.subjects or key not in numbers:
            raise DrferError(f"{self.name} has no scan {key}")
        file = self._file(key.subject)
        return _read_subject(file, file.path), numbers[key]


@lru_cache(maxsize=4)  # scans are read subject by subject
def _read_subject(file: CacheFile, path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = file.load()
    except DamagedCacheError as error:
        raise ScanFormatError(f"{error}; delete it, and the next run makes it again") from None
    if arrays is None:
        raise ScanFormatError(f"{path} is not there; run `drfer faces` on this machine")
    return arrays


def all_settings(
    seed: int, faces: FaceSettings = FaceSettings(), intensities: tuple[int, ...] = INTENSITIES
) -> dict:
    """Return everything that determines the faces of a population, as plain data for JSON."""
    return {
        "version": VERSION,
        "seed": seed,
        "expressions": list(EXPRESSIONS),
        "intensities": list(intensities),
        "face units": list(expressions.ACTION_UNITS),
        "prototypes": {name: asdict(p) for name, p in expressions.PROTOTYPES.items()},
        **json.loads(json.dumps(asdict(faces))),
    }


def folder_name(settings: dict) -> str:
    """Return the name of a population's folder in the cache, by all its settings."""
    return f"{Anny3DFE.name}-{VERSION}-{digest_of(settings)[:8]}"


def subject_names(count: int, female_share: float = Identity.female_share) -> list[str]:
    """Return the names of so many subjects: F0001 and so on for women, then M0001 and so on."""
    female = round(female_share * count)
    women = [f"F{number:04d}" for number in range(1, female + 1)]
    return women + [f"M{number:04d}" for number in range(1, count - female + 1)]


def scan_keys(subject: str, intensities: tuple[int, ...] = INTENSITIES) -> list[ScanKey]:
    """Return the keys of a subject's scans: neutral first, then expression by expression."""
    expressive = [
        ScanKey(subject, expression, intensity)
        for expression in EXPRESSIONS
        for intensity in intensities
    ]
    return [ScanKey(subject, NEUTRAL, 0), *expressive]


def _generator(seed: int, subject: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, ord(subject[0]), int(subject[1:]), number])


def _make(
    files: dict[str, CacheFile], seed: int, faces: FaceSettings, intensities: tuple[int, ...]
) -> list[str]:
    """Make the scans of some subjects; return the hash of each file's content."""
    _demand("faces", "embreex", "igl")
    hashes: dict[str, str] = {}
    for head, neutrals in _heads(files, seed, faces):
        items = [(subject, neutral, files[subject]) for subject, neutral in neutrals.items()]
        made = map_on_all_cores(_make_subject, items, "faces", head, seed, faces, intensities)
        hashes |= zip(neutrals, made)
    return [hashes[subject] for subject in files]


def _heads(
    subjects: Iterable[str], seed: int, faces: FaceSettings
) -> list[tuple[HeadModel, dict[str, np.ndarray]]]:
    """Return the neutral heads of some subjects by name: those that ship with the kit, and the others.

    Each group comes with the average head that belongs to it. Who ships is never made: what `anny`
    makes differs from processor to processor by a thousandth of a millimetre, and a subject is to be
    the same whoever else is asked for.
    """
    usual = (faces.head, faces.identity) == (HeadSettings(), Identity())
    people = load_people(seed) if usual else {}
    shipped = {subject: people[subject] for subject in subjects if subject in people}
    groups = [(load(), shipped)] if shipped else []
    if others := [subject for subject in subjects if subject not in shipped]:
        _demand("populations", "anny", "warp")
        groups.append(make_heads(others, seed, faces))
    return groups


def make_heads(
    subjects: Iterable[str], seed: int, faces: FaceSettings = FaceSettings()
) -> tuple[HeadModel, dict[str, np.ndarray]]:
    """Make the average head and neutral heads with `anny`.

    Args:
        subjects: their names.
        seed: of their population.
        faces: which head, and how people differ.

    Returns:
        The average head with its face units, and vertices by the subject's name, each of shape
        (v, 3), float32, mm.

    Raises:
        DrferError: the tables that `anny` computes on its first use cannot be kept.
    """
    heads = _maker_of(faces.head)
    neutrals = {}
    for subject in subjects:
        rng = _generator(seed, subject, 0)
        person = draw_identity(rng, subject[0] == "F", heads.local_changes, faces.identity)
        neutrals[subject] = heads.neutral(*person).astype(np.float32)
    return heads.head, neutrals


@lru_cache(maxsize=1)  # it takes seconds to build, and populations follow each other
def _maker_of(settings: HeadSettings) -> HeadGenerator:
    return HeadGenerator(settings)


def _demand(extra: str, *modules: str) -> None:
    lacking = [name for name in modules if find_spec(name) is None]
    if lacking:
        raise DrferError(
            f"making these faces needs {' and '.join(lacking)}; "
            f"the extra drfer[{extra}] has what is missing, and `drfer doctor` says the command for it"
        )


def _make_subject(
    item: tuple[str, np.ndarray, CacheFile],
    head: HeadModel,
    seed: int,
    faces: FaceSettings,
    intensities: tuple[int, ...],
) -> str:
    """Draw, scan and write the faces of a subject; return the hash of what was written."""
    subject, neutral, file = item
    style = draw_style(_generator(seed, subject, 1), faces.spread)
    keys = scan_keys(subject, intensities)
    # a scan's number is that among all intensities, so that it comes out the same among fewer
    numbers = {key: number for number, key in enumerate(scan_keys(subject))}
    draws = [_generator(seed, subject, 2 + numbers[key]) for key in keys]
    activations = np.array(
        [
            np.zeros(len(head.units))
            if key.expression == NEUTRAL
            else draw_activation(
                rng, key.expression, key.intensity, style, head.units, faces.spread
            )
            for rng, key in zip(draws, keys)
        ]
    )
    surfaces = head.subdivide(head.pose_face(neutral.astype(np.float64), activations))
    visible = np.repeat(head.seen_from_front, head.fine_per_coarse)
    scans = [
        scan_face(rng, surface, head.fine_triangles, visible, faces.scanner)
        for rng, surface in zip(draws, surfaces)
    ]
    arrays = {
        "neutral": neutral,
        "activation": activations,
        "pose": np.array([scan.pose for scan in scans]),
        "points": np.concatenate([scan.points for scan in scans]),
        "point_start": np.cumsum([0] + [len(scan.points) for scan in scans]),
        "triangles": np.concatenate([scan.triangles for scan in scans]).astype(np.uint16),
        "triangle_start": np.cumsum([0] + [len(scan.triangles) for scan in scans]),
        "hit_triangle": np.concatenate([scan.hit_triangle for scan in scans]).astype(np.int32),
        "hit_place": np.concatenate([scan.hit_barycentric for scan in scans]).astype(np.float16),
    }
    return file.save(arrays, compressed=True)
