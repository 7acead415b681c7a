"""Who is trained on and who is tested: the drawn subjects and the folds (section IV.A of the paper).

Built in notebook 06.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from drfer.common.errors import DrferError
from drfer.datasets import Dataset, classes_of, has_neutral
from drfer.datasets.anny3dfe.database import INTENSITIES
from drfer.datasets.scan import NEUTRAL, ScanKey

LISTS = Path(__file__).with_name("folds.json")
"""Which subjects are drawn, and the orders that are cut into folds, as indices of subjects, for draw
seed 0 and the sizes of the paper's databases. They are a file because numpy may change what a seed
gives; `python -m tools.make_folds` wrote it."""


MOST_DRAWS = 99
"""Populations 1 to 99 of the open faces are trained on; those from 100 on are tested."""
FIRST_OF_DEVELOPMENT = 1000
"""Added to all of these if something is chosen by the draws, which may not be tested by them then."""
MOST_TRAIN_SUBJECTS = 100
"""As many as a population has."""
FEWEST_TRAIN_SUBJECTS = 9
"""As many as a fold of the smallest preset has."""
MOST_IDENTITY = 3.0
"""With it local changes of shape are cut off at less than two standard deviations."""

UNSAID = {"train_share": 1.0, "identity": 1.0, "wrong_labels": 0.0}
"""Settings that came later: neither results nor their names have them where they are so."""


@dataclass(frozen=True)
class Protocol:
    """Some subjects are drawn once, and cut into folds by subject; each fold is tested once."""

    subjects: int = 60
    """How many subjects are drawn."""
    folds: int = 10
    """Into how many folds they are cut."""
    intensities: tuple[int, ...] = (3, 4)
    """Which intensities of each expression are used: the two highest ones."""
    draw_seed: int = 0
    """Draws the subjects and shuffles them."""
    redraw: bool = False
    """Whether each repeat draws its subjects anew, which is the other mode found in the field."""
    train_share: float = 1.0
    """Of a fold's training subjects, the share that is trained on. A smaller share is a part of a larger one."""

    unit: ClassVar[str] = "fold"
    """What is trained and tested once."""
    first_repeat: ClassVar[int] = 0
    wrong_labels: ClassVar[float] = 0.0
    """Those of a database are what they are."""

    def __post_init__(self) -> None:
        """Refuse a share that leaves nobody to tell from others."""
        if self.train_share == 1:
            return
        in_a_fold = self.subjects * (self.folds - 1) // self.folds
        if not (self.train_share <= 1 and self.train_share * in_a_fold >= 2):
            raise DrferError(
                f"{self.train_share} is no share of {in_a_fold} training subjects; give --train-share "
                "at most 1, and enough for two of them"
            )

    @property
    def overlap(self) -> float:
        """The share of test to training scans, which says how much training sets overlap."""
        if self.train_share == 1:
            return 1 / (self.folds - 1)
        in_a_fold = self.subjects - self.subjects / self.folds
        return self.subjects / self.folds / math.ceil(self.train_share * in_a_fold)

    @property
    def suffix(self) -> str:
        """What the name of an evaluation's folder says of it."""
        share = "" if self.train_share == 1 else f"-share{100 * self.train_share:g}"
        return ("-redrawn" if self.redraw else "") + share.replace(".", "_")

    @property
    def note(self) -> str:
        """What a caption says of it."""
        return (
            "" if self.train_share == 1 else f", {100 * self.train_share:g} % of training subjects"
        )


@dataclass(frozen=True)
class Draws:
    """Each draw trains on a population of its own, and all are tested on the same subjects.

    Draw k trains on the first subjects of population k of the open faces, women and men in the
    population's shares. So training sets have nobody in common, and what draws give is independent
    but for the test subjects. In results, a draw is repeat k with the one fold 0.
    """

    train_subjects: int = 54
    """How many subjects a draw trains on: as many as a fold of the paper."""
    test_subjects: int = 300
    """How many subjects all draws are tested on, of populations 100 and on."""
    measured_subjects: int = 60
    """Of how many of these measures are taken; accuracy is of all."""
    intensities: tuple[int, ...] = (3, 4)
    """Which intensities of each expression are used: the two highest ones."""
    development: bool = False
    """Whether these are other people, from population 1000 on, by whom things are chosen and tuned."""
    identity: float = 1.0
    """How many times as much as on the benchmark a face differs from the average one (`Identity.spread`)."""
    wrong_labels: float = 0.0
    """Share of the training scans that are given the label of another expression."""
    kind: str = "draws"
    """Tells it from a `Protocol` where only the fields are written."""

    folds: ClassVar[int] = 1
    unit: ClassVar[str] = "draw"
    first_repeat: ClassVar[int] = 1
    overlap: ClassVar[float] = 0.0
    """No training subject is in two draws."""

    def __post_init__(self) -> None:
        """Refuse numbers of subjects that cannot be."""
        if not FEWEST_TRAIN_SUBJECTS <= self.train_subjects <= MOST_TRAIN_SUBJECTS:
            raise DrferError(
                f"a draw cannot train on {self.train_subjects} subjects; give --train-subjects "
                f"{FEWEST_TRAIN_SUBJECTS} to {MOST_TRAIN_SUBJECTS}"
            )
        if not self.intensities or not set(self.intensities) <= set(INTENSITIES):
            raise DrferError(
                f"the open faces have intensities 1 to 4, not {list(self.intensities)}: change --levels"
            )
        if not 0 <= self.identity <= MOST_IDENTITY:
            raise DrferError(
                f"people cannot differ by {self.identity} times the benchmark's identity; give "
                f"--identity 0 to {MOST_IDENTITY}"
            )
        if not 0 <= self.wrong_labels < 1:
            raise DrferError(
                f"{self.wrong_labels} is no share of labels; give --wrong-labels from 0 to below 1"
            )
        if not 2 <= self.measured_subjects < self.test_subjects:
            raise DrferError(
                f"{self.measured_subjects} of {self.test_subjects} test subjects cannot be "
                "measured; it must be fewer than all, and at least 2"
            )

    @property
    def suffix(self) -> str:
        """What the name of an evaluation's folder says of it."""
        name = "-development" if self.development else "-draws"
        if self.train_subjects != type(self).train_subjects:
            name += f"-{self.train_subjects}"
        return "".join([name, *self._factors]).replace(".", "_")

    @property
    def note(self) -> str:
        """What a caption says of it."""
        name = "development draws" if self.development else "draws"
        return ", ".join(
            ["", f"{name} of {self.train_subjects} training subjects", *self._factors.values()]
        )

    @property
    def _factors(self) -> dict[str, str]:
        """What a caption says of each thing that is other than usual, by what a folder's name does."""
        levels, share = [str(one) for one in self.intensities], f"{100 * self.wrong_labels:g}"
        factors = (
            ("identity", f"-identity{self.identity:g}", f"identity times {self.identity:g}"),
            ("intensities", f"-levels{''.join(levels)}", f"intensities {' and '.join(levels)}"),
            ("wrong_labels", f"-wrong{share}", f"{share} % wrong labels"),
        )
        return {
            name: note
            for field, name, note in factors
            if getattr(self, field) != getattr(type(self), field)
        }

    @property
    def first_population(self) -> int:
        """What the populations' numbers start from."""
        return FIRST_OF_DEVELOPMENT if self.development else 0


def fields_of(protocol: Protocol | Draws) -> dict:
    """Return what determines a protocol, for JSON."""
    return said(asdict(protocol))


def said(fields: dict) -> dict:
    """Return fields of settings without those that go without saying."""
    return {
        name: value for name, value in fields.items() if name not in UNSAID or value != UNSAID[name]
    }


def protocol_of(fields: dict) -> Protocol | Draws:
    """Return the protocol of which `fields_of` gave these, as JSON keeps them.

    Raises:
        TypeError: there are other fields.
        DrferError: the numbers cannot be.
    """
    kind = Draws if fields.get("kind") == Draws.kind else Protocol
    return kind(**{**fields, "intensities": tuple(fields["intensities"])})


def drawn_subjects(available: list[str], protocol: Protocol, repeat: int = 0) -> list[str]:
    """Return the protocol's subjects in a repeat.

    Args:
        available: all subjects of the dataset.
        protocol: how many are drawn.
        repeat: matters only if the protocol draws anew in each repeat.

    Raises:
        DrferError: the dataset has fewer subjects than the protocol needs.
    """
    if len(available) < protocol.subjects or protocol.subjects < protocol.folds:
        raise DrferError(
            f"{protocol.folds} folds of {protocol.subjects} subjects need at least that many; "
            f"the dataset has {len(available)} with every scan that is used "
            "(`drfer check` says who lacks which); --preset smoke needs 12, and tests the code alone"
        )
    listed = not protocol.redraw and protocol.draw_seed == 0
    drawn = _lists()["drawn"].get(f"{protocol.subjects} of {len(available)}") if listed else None
    if drawn is None:
        seed = [protocol.draw_seed, repeat] if protocol.redraw else protocol.draw_seed
        drawn = draw(protocol.subjects, len(available), seed)
    return [available[number] for number in drawn]


def folds(subjects: list[str], protocol: Protocol, repeat: int = 0) -> list[list[str]]:
    """Return the test subjects of each fold in one repeat; each repeat shuffles them anew."""
    listed = _lists()["orders"].get(str(len(subjects)), []) if protocol.draw_seed == 0 else []
    if repeat < len(listed):
        shuffled = listed[repeat]
    else:
        shuffled = order(len(subjects), protocol.draw_seed, repeat)
    parts = np.array_split(shuffled, protocol.folds)
    return [[subjects[number] for number in part] for part in parts]


def protocol_keys(
    subjects: list[str], protocol: Protocol | Draws, dataset: Dataset | None = None
) -> list[ScanKey]:
    """Return the scans that the protocol uses of some subjects.

    These are the neutral scans, which serve as targets only, and the expressive ones to classify.

    Args:
        subjects: whose scans.
        protocol: says which intensities.
        dataset: whose classes; without it, the six basic expressions and neutral.
    """
    keys = []
    for subject in subjects:
        if has_neutral(dataset):
            keys.append(ScanKey(subject, NEUTRAL, 0))
        for expression in classes_of(dataset):
            keys += [ScanKey(subject, expression, i) for i in protocol.intensities]
    return keys


def draw(count: int, available: int, seed: int | list[int]) -> list[int]:
    """Draw so many of the available indices, in order."""
    return sorted(np.random.default_rng(seed).choice(available, count, replace=False).tolist())


def order(subjects: int, draw_seed: int, repeat: int) -> list[int]:
    """Return the shuffled indices of so many subjects in a repeat."""
    return np.random.default_rng([draw_seed, 1 + repeat]).permutation(subjects).tolist()


@cache
def _lists() -> dict[str, dict[str, list]]:
    return json.loads(LISTS.read_text())
