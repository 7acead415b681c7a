"""Anny-3DFE: an open, synthetic face database with the structure of BU-3DFE.

100 subjects (56 F, 44 M) x 25 scans: neutral, and six expressions at four levels. Every scan is drawn from
the dataset's seed, its subject's name and its own number, so that a database of fewer subjects is a part
of the larger one. What only the simulation knows (pose, correspondence, activation) is kept beside each
scan as its `Truth`; the pipeline itself never reads it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from drfer.common.errors import DrferError, ScanFormatError
from drfer.common.files import cache_folder, written_whole
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.anny3dfe.expressions import Spread, draw_activation, draw_style
from drfer.datasets.anny3dfe.scanner import Scanner, scan_face
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey

VERSION = "1.0"
"""Frozen with the spread: a new number whenever a scan could come out differently."""

FEMALE_SHARE = 0.56
LEVELS = (1, 2, 3, 4)
IDENTITY_SPREAD = 0.145
"""standard deviation of each local change of shape (its range is -1 to 1)"""
IDENTITY_ASYMMETRY = 0.05
"""standard deviation between the left and the right half of a local change"""


@dataclass(frozen=True)
class Truth:
    """What the simulation knows of a scan. pose: (4, 4), canonical head frame -> scan, mm. activation: (52,)
    strength of each face unit. hit_triangle: (n,), hit_place: (n, 2): where on the subdivided head each point lies."""

    pose: np.ndarray
    activation: np.ndarray
    hit_triangle: np.ndarray
    hit_place: np.ndarray


class Anny3DFE:
    """The database as a list of keys and a loader; makes itself on first use, in the cache folder.

    subjects: how many of the (at most) 100. seed: another seed, another population.
    Raises DrferError if a cache of another version lies in `root`.
    """

    name = "anny3dfe"
    levels = (3, 4)
    """those that the protocol uses"""

    def __init__(
        self,
        subjects: int = 100,
        seed: int = 0,
        root: Path | None = None,
        spread: Spread = Spread(),
        scanner: Scanner = Scanner(),
    ) -> None:
        if not 1 <= subjects <= 100:
            raise DrferError(f"Anny-3DFE has 1 to 100 subjects, not {subjects}; change --subjects")
        self.settings = json.loads(  # as JSON keeps it: lists for tuples
            json.dumps(
                {
                    "version": VERSION,
                    "subjects": subjects,
                    "seed": seed,
                    "spread": asdict(spread),
                    "scanner": asdict(scanner),
                }
            )
        )
        digest = hashlib.sha256(json.dumps(self.settings).encode()).hexdigest()[:8]
        self.root = (
            Path(root) if root else cache_folder() / f"anny3dfe-{VERSION}-{subjects}x25-{digest}"
        )
        if not self.root.exists():
            _generate(self.root, self.settings, spread, scanner)
        self.manifest = self._read_manifest()
        self.hash: str = self.manifest["hash"]
        self.subjects: list[str] = subject_names(subjects)

    def _read_manifest(self) -> dict:
        try:
            manifest = json.loads((self.root / "manifest.json").read_text())
            version = manifest["settings"]["version"]
        except (OSError, ValueError, KeyError, TypeError):
            raise DrferError(
                f"{self.root} is not an Anny-3DFE database (no readable manifest.json); delete it"
            ) from None
        if manifest["settings"] != self.settings:
            what = f"version {version}" if version != VERSION else "other settings"
            raise DrferError(
                f"{self.root} holds Anny-3DFE of {what}, this is version {VERSION}; delete or rename it"
            )
        return manifest

    def keys(self) -> list[ScanKey]:
        return [key for subject in self.subjects for key in scan_keys(subject)]

    def load(self, key: ScanKey) -> FaceScan:
        """The scan of a key, in the scanner's frame. Raises ScanFormatError if its file is damaged."""
        arrays, number = self._arrays(key)
        start, end = arrays["point_start"][number : number + 2]
        first, last = arrays["triangle_start"][number : number + 2]
        return FaceScan(
            points=arrays["points"][start:end],
            triangles=arrays["triangles"][first:last].astype(np.int32),
            key=key,
            source=str(self.root / f"{key.subject}.npz"),
        )

    def truth(self, key: ScanKey) -> Truth:
        """What the simulation knows of a scan: for tests and measurements, never for the pipeline."""
        arrays, number = self._arrays(key)
        start, end = arrays["point_start"][number : number + 2]
        return Truth(
            pose=arrays["pose"][number],
            activation=arrays["activation"][number],
            hit_triangle=arrays["hit_triangle"][start:end],
            hit_place=arrays["hit_place"][start:end].astype(np.float64),
        )

    def true_neutral(self, subject: str) -> np.ndarray:
        """The subject's coarse neutral head (4538, 3), mm, canonical frame; with `Truth.activation` and
        `HeadModel.pose_face` any true face of the subject."""
        return self._arrays(ScanKey(subject, NEUTRAL, 0))[0]["neutral"].astype(np.float64)

    def _arrays(self, key: ScanKey) -> tuple[dict[str, np.ndarray], int]:
        numbers = {known: number for number, known in enumerate(scan_keys(key.subject))}
        if key.subject not in self.subjects or key not in numbers:
            raise DrferError(f"{self.name} has no scan {key}")
        return _read_subject(self.root / f"{key.subject}.npz"), numbers[key]


@lru_cache(maxsize=4)  # scans are read subject by subject
def _read_subject(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ScanFormatError(
            f"{path}: damaged ({error}); delete the folder {path.parent} and it is made again"
        ) from None


def subject_names(count: int) -> list[str]:
    """F0001 ... and M0001 ..., 56 % female, as many as count."""
    female = round(FEMALE_SHARE * count)
    return [f"F{n:04d}" for n in range(1, female + 1)] + [
        f"M{n:04d}" for n in range(1, count - female + 1)
    ]


def scan_keys(subject: str) -> list[ScanKey]:
    """A subject's 25 scans: neutral first, then expression by expression."""
    expressive = [
        ScanKey(subject, expression, level) for expression in EXPRESSIONS for level in LEVELS
    ]
    return [ScanKey(subject, NEUTRAL, 0), *expressive]


def draw_identity(
    rng: np.random.Generator, female: bool, local_changes: list[str]
) -> tuple[dict, dict]:
    """A person: phenotype (age, gender, ancestry ...) and local changes of the face's parts, mildly asymmetric."""
    ancestry = rng.dirichlet([1.4, 1.4, 1.4])
    phenotype = {
        "gender": rng.uniform(0.8, 1.0) if female else rng.uniform(0.0, 0.2),
        "age": rng.uniform(0.62, 0.92),  # 18 to 70 years on anny's scale of 0 (child) to 1 (90)
        "muscle": rng.uniform(0.37, 0.73),
        "weight": rng.uniform(0.37, 0.73),
        **dict(zip(("african", "asian", "caucasian"), ancestry)),
    }
    shared: dict[str, float] = {}
    changes = {}
    for name in local_changes:
        part = name.removeprefix("l-").removeprefix("r-")
        shared.setdefault(part, rng.normal(0, IDENTITY_SPREAD))
        changes[name] = float(np.clip(shared[part] + rng.normal(0, IDENTITY_ASYMMETRY), -1, 1))
    return phenotype, changes


def _generator(seed: int, subject: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, ord(subject[0]), int(subject[1:]), number])


def _generate(root: Path, settings: dict, spread: Spread, scanner: Scanner) -> None:
    from drfer.datasets.anny3dfe.head import HeadGenerator

    print(f"Making Anny-3DFE {VERSION}: {settings['subjects']} subjects x 25 scans, in {root}")
    seed, subjects = settings["seed"], subject_names(settings["subjects"])
    heads = HeadGenerator()
    neutrals = []
    for subject in subjects:
        identity = draw_identity(
            _generator(seed, subject, 0), subject[0] == "F", heads.local_changes
        )
        neutrals.append(heads.neutral(*identity).astype(np.float32))
    with written_whole(root) as folder:
        folder.mkdir()
        items = list(zip(subjects, neutrals))
        hashes = map_on_all_cores(
            _scan_subject, items, "faces", heads.head, folder, seed, spread, scanner
        )
        manifest = {
            "settings": settings,
            "hash": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _scan_subject(
    subject_and_neutral: tuple[str, np.ndarray], head, folder: Path, seed: int, spread, scanner
) -> str:
    """Draw, scan and write a subject's 25 faces; returns the hash of what was written."""
    subject, neutral = subject_and_neutral
    style = draw_style(_generator(seed, subject, 1), spread)
    keys = scan_keys(subject)
    draws = [_generator(seed, subject, 2 + number) for number in range(len(keys))]
    activations = np.array(
        [
            np.zeros(len(head.units))
            if key.expression == NEUTRAL
            else draw_activation(rng, key.expression, key.level, style, head.units, spread)
            for rng, key in zip(draws, keys)
        ]
    )
    surfaces = head.subdivide(head.pose_face(neutral.astype(np.float64), activations))
    visible = np.repeat(head.seen_from_front, 16)
    scans = [
        scan_face(rng, surface, head.fine_triangles, visible, scanner)
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
        "hit_place": np.concatenate([scan.hit_place for scan in scans]).astype(np.float16),
    }
    np.savez_compressed(folder / f"{subject}.npz", **arrays)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()
