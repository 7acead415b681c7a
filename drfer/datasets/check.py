"""`drfer check`: what a folder of scans holds, against what belongs there.

It reads every scan and stops at none, not even at one that crashes the process that reads it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from drfer.common.errors import ScanFormatError
from drfer.common.files import written_whole
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.bosphorus import EXPRESSIVE_SUBJECTS
from drfer.datasets.folder import ScanFolder
from drfer.datasets.scan import NEUTRAL, FaceScan, ScanKey
from drfer.datasets.scans import TABLE, Scans

EXPECTED = {"bu3dfe": (100, (1, 2, 3, 4)), "bosphorus": (105, (1,))}
"""Subjects of the whole database, and the intensities of each expression."""
SHOWN = 12
"""Lines of one kind of fault that are printed; the rest is counted."""


class Draw(Protocol):
    """What the check needs to know of an evaluation protocol: how many subjects and folds."""

    @property
    def subjects(self) -> int:
        """Subjects that are drawn."""

    @property
    def folds(self) -> int:
        """Folds that they are divided into."""


@dataclass(frozen=True)
class Finding:
    """What reading one file came to."""

    path: Path
    key: ScanKey
    error: str
    """Why the file cannot be read; "" if it can."""
    source: str = ""
    """What the scan says of its source: more than the path if its reader decided something."""
    components: int = 1
    """Pieces of the mesh, as `_topology` counts them."""
    tangled_edges: int = 0
    """Edges of more than two triangles."""


def check(dataset: ScanFolder, protocol: Draw, sheet: Path | None) -> bool:
    """Print a report on a folder of scans.

    Args:
        dataset: the folder.
        protocol: the evaluation that it is to serve.
        sheet: where to draw one scan of each class, as a PNG file; None for no picture.

    Returns:
        Whether the protocol can run.

    Raises:
        DrferError: the picture cannot be written.
    """
    files = [(path, key) for key, paths in dataset.files.items() for path in paths]
    what = f"reading {len(files)} scans"
    findings = map_on_all_cores(_examine, files, what, dataset, lost=_crashed)
    readable = {finding.key for finding in findings if not finding.error}
    _report_counts(dataset, readable)
    _report_files(dataset, findings)
    _report_meshes(findings)
    possible = _report_subjects(dataset, protocol, readable)
    if sheet:
        _draw(dataset, findings, sheet)
    return possible


def _report_counts(dataset: ScanFolder, readable: set[ScanKey]) -> None:
    subjects = {key.subject for key in dataset.files}
    whole = (
        f" (the whole database has {EXPECTED[dataset.name][0]})" if dataset.name in EXPECTED else ""
    )
    scans = sum(map(len, dataset.files.values()))
    print(f"{dataset.root}: {scans} scans of {len(subjects)} subjects{whole}")
    if isinstance(dataset, Scans) and dataset.labels is None:
        print(f"it has no {TABLE}: each file is taken for the neutral scan of a subject of its own")
    alike = Counter(subject.lower() for subject in subjects)
    spelt = sorted(subject for subject in subjects if alike[subject.lower()] > 1)
    _report("subjects whose names differ in capitals alone; are they the same people?", spelt)
    counts = Counter((key.expression, key.intensity) for key in readable)
    intensities = sorted({intensity for _, intensity in counts if intensity})
    width = 2 + max(map(len, ("readable scans", *dataset.expressions)))
    print("readable scans".ljust(width) + "".join(f"{f'intensity {i}':>13}" for i in intensities))
    for expression in dataset.expressions:
        numbers = "".join(f"{counts[expression, i]:>13}" for i in intensities)
        print(expression.ljust(width) + numbers)
    print(NEUTRAL.ljust(width) + f"{counts[NEUTRAL, 0]:>13}")
    if not dataset.has_neutral:
        print("no neutral scans: the mean of a person's scans will stand for theirs")
    if dataset.name not in EXPECTED:
        people = {
            name: len({key.subject for key in readable if key.expression == name})
            for name in (*dataset.expressions, NEUTRAL)
        }
        rare = {name: n for name, n in people.items() if 0 < n < len(subjects) / 2}
        lines = [f"{name}: {n} of {len(subjects)}" for name, n in rare.items()]
        _report("classes that few subjects have; is their name misspelt?", lines)


def _report_files(dataset: ScanFolder, findings: list[Finding]) -> None:
    _report("named in the table, but not in the folder", list(dataset.absent))
    _report("unreadable", [finding.error for finding in findings if finding.error])
    missing = [key for key in _expected(dataset) if key not in dataset.files]
    used = {0, *dataset.intensities}
    _report("missing", [f"{key}" for key in missing if key.intensity in used])
    unused = [f"{key}" for key in missing if key.intensity not in used]
    _report("missing that the protocol does not use", unused)
    several = [
        f"{key}: {', '.join(str(path.relative_to(dataset.root)) for path in paths)}"
        for key, paths in dataset.files.items()
        if len(paths) > 1
    ]
    _report("given more than once", several)
    _report("named like no scan of this database", [str(path) for path in dataset.strangers])


def _report_meshes(findings: list[Finding]) -> None:
    strays = sorted((f for f in findings if f.components > 1), key=lambda f: -f.components)
    _report(
        "with stray components, the most first",
        [f"{f.path}: {f.components} components" for f in strays],
    )
    tangled = [f"{f.path}: {f.tangled_edges}" for f in findings if f.tangled_edges]
    _report("with edges of more than two triangles", tangled)
    remarks = [f.source for f in findings if not f.error and f.source != str(f.path)]
    _report("read with a remark", remarks)


def _report_subjects(dataset: ScanFolder, protocol: Draw, readable: set[ScanKey]) -> bool:
    """Say whether enough subjects are complete, and return that."""
    complete = [
        subject for subject in dataset.subjects if readable.issuperset(dataset.needed(subject))
    ]
    if dataset.name == "bosphorus":
        listed = {f"bs{number:03d}" for number in EXPRESSIVE_SUBJECTS}
        _report(
            "with all expressions, but not in the published list of 65",
            sorted(set(dataset.subjects) - listed),
        )
    blocking = [subject for subject in dataset.subjects if subject not in complete]
    _report(
        "subjects with an unreadable scan; any of them may be drawn: "
        "take those files out of the folder",
        blocking,
    )
    possible = len(complete) >= protocol.subjects and not blocking
    print(
        f"{len(complete)} subjects have every scan that the protocol needs, readable; "
        f"it draws {protocol.subjects}: "
        f"the {protocol.folds}-fold protocol {'can run' if possible else 'cannot run'}"
    )
    return possible


def _expected(dataset: ScanFolder) -> list[ScanKey]:
    """Return the scans that the subjects here should have, first what the protocol needs."""
    _, intensities = EXPECTED.get(dataset.name, (0, dataset.intensities))
    known = sorted({key.subject for key in dataset.files})
    if dataset.name == "bosphorus":  # 40 of its subjects were never asked for expressions
        known = [subject for subject in known if int(subject[2:]) in EXPRESSIVE_SUBJECTS]
    needed = [key for subject in known for key in dataset.needed(subject)]
    rest = [
        ScanKey(subject, expression, intensity)
        for subject in known
        for expression in dataset.expressions
        for intensity in intensities
    ]
    return list(dict.fromkeys([*needed, *rest]))


def _report(what: str, lines: list[str]) -> None:
    if lines:
        print(f"{len(lines)} {what}:")
        print(*(f"  {line}" for line in lines[:SHOWN]), sep="\n")
        if len(lines) > SHOWN:
            print(f"  and {len(lines) - SHOWN} more")


def _examine(path_and_key: tuple[Path, ScanKey], dataset: ScanFolder) -> Finding:
    path, key = path_and_key
    try:
        scan = dataset.read_file(path, key)
        return Finding(path, key, "", scan.source, *_topology(scan))
    except ScanFormatError as error:
        return Finding(path, key, str(error))
    except Exception as error:  # a fault of the reader; the other scans are still to be read
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return Finding(path, key, f"{path}: its reader fails ({what})")


def _crashed(path_and_key: tuple[Path, ScanKey]) -> Finding:
    path, key = path_and_key
    return Finding(path, key, f"{path}: the process that reads it dies, perhaps for want of memory")


def _topology(scan: FaceScan) -> tuple[int, int]:
    """Return 1 + the number of components of less than a tenth of the points; tangled edges."""
    edges = np.sort(scan.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    _, uses = np.unique(edges[:, 0] * len(scan.points) + edges[:, 1], return_counts=True)
    graph = coo_matrix((np.ones(len(edges), dtype=bool), edges.T), shape=(len(scan.points),) * 2)
    sizes = np.bincount(connected_components(graph, directed=False)[1])
    return int((sizes < 0.1 * len(scan.points)).sum()) + 1, int((uses > 2).sum())


def _draw(dataset: ScanFolder, findings: list[Finding], sheet: Path) -> None:
    from drfer.figures.faces import scan_sheet

    by_intensity = sorted(reversed(findings), key=lambda finding: finding.key.intensity)
    of_highest = {finding.key.expression: finding for finding in by_intensity if not finding.error}
    scans = [
        dataset.read_file(of_highest[name].path, of_highest[name].key)
        for name in (NEUTRAL, *dataset.expressions)
        if name in of_highest
    ]
    if scans:
        title = f"{dataset.name}: one scan of each class, as the files have it"
        with written_whole(sheet) as target:
            scan_sheet([scans], title).savefig(target, format="png", dpi=80)
        print(f"one scan of each class: {sheet}; look whether they stand upright and face you")
