"""Scans of your own: one face each, in any format and unit that is read here, any axis up."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

from drfer.common.errors import DrferError, check_known
from drfer.datasets.folder import ScanFolder
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey
from drfer.datasets.scan_file import SUFFIXES, UP, read_scan

TABLE = "scans.csv"
"""The table beside the scans. It has one line for each file, and the columns file (the name, or the
path in the folder), subject and expression."""
COLUMNS = ("file", "subject", "expression")
OTHER_NAMES = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}
"""What tables call expressions besides."""
SEPARATORS = (",", ";", "\t")
LONGEST_NAME = 40
"""Characters of an expression's name: figures and tables show it."""


class Scans(ScanFolder):
    """A user's own scans in a folder, with the labels of its `scans.csv` if there is one.

    The labels are the classes, whatever they are, and `NEUTRAL` is none of them: neutral scans are
    the identity branch's targets. Without a table, each file is the neutral scan of a subject of
    its own.

    Args:
        root: the folder.
        up: the axis that points up in the files, one of `UP`.

    Raises:
        DrferError: there is no such axis or folder, the folder holds no scan, or the table is
            wrong (the sentence names the line).
    """

    name = "scans"
    intensities = (1,)
    version = 3
    why_none = f"no file in it ends in {', '.join(sorted(SUFFIXES))}"

    def __init__(self, root: Path, up: str = "y") -> None:
        """Read the table, and find the scans by their names."""
        check_known("axis", up, UP)
        self.up = up
        table = _table_in(Path(root))
        self.labels = read_table(table) if table else None
        if self.labels is not None:
            first = next(iter(self.labels), None)
            self.why_none = _why_none(table, first) if first else f"{table} names no file"
        super().__init__(root)
        if self.labels:
            there = {path for paths in self.files.values() for path in paths}
            names = {path.relative_to(self.root).as_posix() for path in there}
            names |= {path.name for path in there}
            self.absent = [name for name in self.labels if name not in names]
            shown = {key.expression for key in self.files}
            self.has_neutral = NEUTRAL in shown
            self.expressions = tuple(sorted(shown - {NEUTRAL})) or EXPRESSIONS

    def key_of(self, path: Path) -> ScanKey | None:
        """Return which scan a file is, after the table or, without one, by its name."""
        if path.suffix.lower() not in SUFFIXES:
            return None
        if self.labels is None:
            return ScanKey(path.stem, NEUTRAL, 0)
        return self.labels.get(path.relative_to(self.root).as_posix()) or self.labels.get(path.name)

    def is_stranger(self, path: Path) -> bool:
        """Return whether a file could hold a scan; it is then one that the table leaves out."""
        return path.suffix.lower() in SUFFIXES

    def read(self, path: Path, key: ScanKey) -> FaceScan:
        """Return the scan in a file."""
        return read_scan(path, key, self.up)


def _why_none(table: Path, first: str) -> str:
    """Say why no file that a table names is a scan."""
    if (table.parent / first).is_file():
        known = ", ".join(sorted(SUFFIXES))
        return f"{first!r}, as in {table}, has an ending that is not read here; known are {known}"
    return f"none of the files in {table} is there, such as {first!r}: give their endings, too"


def _table_in(root: Path) -> Path | None:
    """The table in a folder, in capitals or not; None if there is none."""
    names = sorted(root.iterdir()) if root.is_dir() else []
    return next((path for path in names if path.name.lower() == TABLE), None)


def read_table(path: Path) -> dict[str, ScanKey]:
    """Return which scan each file is, by its name in a table as any spreadsheet writes it.

    Commas, semicolons or tabs part the columns; capitals and spaces around names do not matter, nor
    whether paths have slashes or backslashes. Expressions may have any names; the six basic ones
    are known by their adjectives too.

    Raises:
        DrferError: a column or a cell is missing, an expression's name is too long, or a file
            stands in it twice; the sentence names the line.
    """
    lines = _text(path).splitlines()
    heading = lines[0] if lines else ""
    separator = max(SEPARATORS, key=heading.count)
    try:
        rows = list(csv.reader(lines, delimiter=separator))
    except csv.Error as error:
        raise DrferError(f"{path}: cannot be read as a table ({error})") from None
    names = [name.strip().lower() for name in rows[0]] if rows else []
    for column in COLUMNS:
        if column not in names:
            raise DrferError(
                f"{path}, line 1: there is no column {column!r}; "
                f"the first line names the columns {', '.join(COLUMNS)}"
            )
    labels: dict[str, ScanKey] = {}
    spelling = {name: name for name in (*EXPRESSIONS, NEUTRAL)} | OTHER_NAMES
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = dict(zip(names, map(str.strip, row)))
        file, subject, expression = (_cell(path, number, cells, column) for column in COLUMNS)
        name = file.replace("\\", "/").removeprefix("./")
        if name in labels:
            raise DrferError(
                f"{path}, line {number}: {name!r} stands in it twice; "
                "give files their folder, as in anna/1.obj"
            )
        if len(expression) > LONGEST_NAME:
            raise DrferError(
                f"{path}, line {number}: {expression[:LONGEST_NAME]!r}... is too long a name for an "
                f"expression: at most {LONGEST_NAME} characters"
            )
        expression = spelling.setdefault(expression.lower(), expression)  # as it stands first
        labels[name] = ScanKey(subject, expression, int(expression != NEUTRAL))
    return labels


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DrferError(f"{path}: cannot be read ({error.strerror})") from None
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content:
        raise DrferError(f"{path}: this is no text; save the table as CSV, UTF-8, with commas")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _cell(path: Path, line: int, cells: dict[str, str], column: str) -> str:
    if not cells.get(column):
        raise DrferError(f"{path}, line {line}: the column {column!r} is missing or empty")
    return cells[column]
