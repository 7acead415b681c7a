"""The errors that a user can meet: each is one sentence that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class DrferError(Exception):
    """A mistake that the user can mend; the command line prints its sentence, and exits with 2."""


class ScanFormatError(DrferError):
    """A scan that cannot be used: the sentence names the file, where in it, and what is wrong."""


class DamagedCacheError(DrferError):
    """A file of the cache that holds something else than what its name promises."""


class ShapeError(DrferError, ValueError):
    """Tensors whose shapes do not fit together."""


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Check that a name is one of the known ones.

    Args:
        what: the kind of thing that is named, such as "dataset"; it appears in the error.
        name: the name that was given.
        known: all names that exist.

    Raises:
        DrferError: the name is none of the known ones; the sentence lists those.
    """
    if name not in known:
        names = [f'"{each}"' if " " in each else each for each in known]
        raise DrferError(f"there is no {what} {name!r}; choose from {', '.join(names)}")
