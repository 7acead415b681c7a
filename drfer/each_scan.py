"""What commands that take files of scans share: an answer for each file, whatever the others are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from drfer.common.errors import DrferError, ScanFormatError
from drfer.datasets.scan import FaceScan
from drfer.datasets.scan_file import (
    NAMES_OF_UNITS,
    check_axis_and_unit,
    read_scan,
    second_guess,
)

Made = TypeVar("Made")


def each_scan(
    paths: tuple[Path, ...], up: str, unit: str | None, make: Callable[[FaceScan], Made]
) -> Iterator[tuple[Path, Made | None, str]]:
    """Read files one by one, and make something of each.

    Args:
        paths: files with one face each.
        up: the axis that points up in them, such as "z" or "-y".
        unit: their unit, such as "cm"; None if it is to be judged by their size.
        make: what is made of a scan.

    Yields:
        A file, what was made of it, or None, and then why it was refused.

    Raises:
        DrferError: there is no file, or no such axis or unit.
    """
    check_axis_and_unit(up, unit)
    if not paths:
        raise DrferError("name at least one scan")
    for path in paths:
        try:
            yield path, made_of(path, up, unit, make), ""
        except DrferError as error:
            yield path, None, str(error)
        except Exception as error:  # a fault of ours, perhaps: the other files have none of it
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            yield path, None, f"{path}: drfer fails on this scan ({what})"


def made_of(path: Path, up: str, unit: str | None, make: Callable[[FaceScan], Made]) -> Made:
    """Read a file, and make something of it; in another unit if it is refused in the one by its size.

    Raises:
        DrferError: it cannot be read, or is refused.
    """
    scan = read_scan(path, up=up, unit=unit)
    try:
        return make(scan)
    except ScanFormatError as refusal:
        other = second_guess(scan) if unit is None else None
        if other is None:
            raise
        again = read_scan(path, up=up, unit=other)
        why = f"in {NAMES_OF_UNITS[other]}, since it is no face in {NAMES_OF_UNITS['in']}"
        try:
            return make(replace(again, source=f"{again.source} ({why})"))
        except ScanFormatError:
            raise refusal from None


def output_name(path: Path, up: str, unit: str | None, beside: str = "") -> str:
    """Return a name for what is written of a file.

    No other path or content has the same, nor has the same file with another axis or unit, or beside
    another file.
    """
    digest = hashlib.sha256(path.read_bytes())
    digest.update(os.fsencode(path.absolute()) + f"{up} {unit}".encode() + os.fsencode(beside))
    return f"{path.stem[:40]}-{digest.hexdigest()[:8]}"
