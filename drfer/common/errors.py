"""The errors that a user can meet: each is one sentence that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class DrferError(Exception):
    """A mistake the user can mend. The command line prints its one sentence and exits with code 2."""


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise a DrferError for a name that is none of the known ones."""
    if name not in known:
        raise DrferError(f"there is no {what} {name!r}; choose from {', '.join(known)}")


class ScanFormatError(DrferError):
    """A scan that cannot be used: names the file (or scan), the place in it and what is wrong there."""


class ShapeError(DrferError, ValueError):
    """Tensors whose shapes do not fit together."""
