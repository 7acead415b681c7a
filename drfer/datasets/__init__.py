"""Where scans come from: the open faces, the licensed databases, and a user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from drfer.common.errors import DrferError, check_known
from drfer.datasets.scan import EXPRESSIONS, FaceScan, ScanKey

NAMES = ("anny3dfe", "bu3dfe", "bosphorus", "scans")


class Dataset(Protocol):
    """What preprocessing and the experiments ask of a dataset: four attributes and two methods.

    Any object that has them is a dataset; it need not inherit from this class. It must be small,
    and picklable: it is sent to worker processes, which load the scans themselves. It may have two
    attributes more: `expressions` (see `classes_of`; "neutral" is none) and `has_neutral`.
    """

    @property
    def name(self) -> str:
        """Of the database, in lower case; it appears in file names and captions."""

    @property
    def hash(self) -> str:
        """Changes whenever any scan could be another one; caches and results carry it."""

    @property
    def subjects(self) -> list[str]:
        """Those of whom every scan is there that the protocol uses, in a fixed order."""

    @property
    def intensities(self) -> tuple[int, ...]:
        """Intensities of the expressive scans that the protocol uses, such as `(3, 4)`."""

    def keys(self) -> list[ScanKey]:
        """Return the keys of all scans, in a fixed order."""

    def load(self, key: ScanKey) -> FaceScan:
        """Return one scan, in millimetres, upright and facing +z to within about 30 degrees.

        Raises:
            DrferError: there is no such scan, or it cannot be read.
        """


def classes_of(dataset: Dataset | None) -> tuple[str, ...]:
    """Return the classes of a dataset by their labels: its `expressions`, or the six basic ones."""
    return tuple(getattr(dataset, "expressions", EXPRESSIONS))


def has_neutral(dataset: Dataset | None) -> bool:
    """Return whether a dataset has neutral scans: yes, unless its `has_neutral` says no."""
    return getattr(dataset, "has_neutral", True)


def open_dataset(
    name: str,
    root: Path | None = None,
    subjects: int = 100,
    up: str = "y",
    only: Callable[[list[str]], list[str]] | None = None,
) -> Dataset:
    """Open a dataset by its name.

    Args:
        name: one of `NAMES`: "anny3dfe" are the open faces, made on first use; "bu3dfe" and
            "bosphorus" the licensed databases; "scans" a user's own.
        root: the folder of a dataset that is not made.
        subjects: how many of the open faces' subjects.
        up: the axis that points up in a user's own scans.
        only: chooses those of the open faces' subjects that are made, by their names.

    Raises:
        DrferError: there is no dataset of this name, the folder holds none, or an argument is
            given that the dataset cannot use.
    """
    from drfer.datasets.anny3dfe import Anny3DFE
    from drfer.datasets.anny3dfe.database import subject_names
    from drfer.datasets.bosphorus import Bosphorus
    from drfer.datasets.bu3dfe import BU3DFE
    from drfer.datasets.scans import Scans

    check_known("dataset", name, NAMES)
    if up != "y" and name != "scans":
        raise DrferError(
            "--up is for scans of your own: say --dataset scans, or `drfer check scans`"
        )
    if name == "anny3dfe":
        if root:
            raise DrferError(
                "anny3dfe is made by this kit: with --root say --dataset bu3dfe, bosphorus or scans"
            )
        return Anny3DFE(subjects, only=only and only(subject_names(subjects)))
    if root is None:
        raise DrferError(f"{name} lies in a folder of yours: name it with --root FOLDER")
    if name == "scans":
        return Scans(root, up)
    return {"bu3dfe": BU3DFE, "bosphorus": Bosphorus}[name](root)
