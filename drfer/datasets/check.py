"""`drfer check`: what a folder of scans holds against what belongs there. It reads every scan and stops at none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from drfer.common.errors import ScanFormatError
from drfer.common.files import written_whole
from drfer.common.parallel import map_on_all_cores
from drfer.datasets.bosphorus import EXPRESSIVE_SUBJECTS
from drfer.datasets.folder import ScanFolder
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, FaceScan, ScanKey
from drfer.evaluation.protocol import Protocol

EXPECTED = {"bu3dfe": (100, (1, 2, 3, 4)), "bosphorus": (105, (1,))}
"""subjects of the whole database, and the levels of each expression"""
SHOWN = 12
"""lines of one kind of fault that are printed; the rest is counted"""


@dataclass(frozen=True)
class Finding:
    """What reading one file came to. error: "" if it can be read."""

    path: Path
    key: ScanKey
    error: str
    source: str = ""
    components: int = 1
    tangled_edges: int = 0
    """edges of more than two triangles"""


def check(dataset: ScanFolder, protocol: Protocol, sheet: Path | None) -> bool:
    """Print a report, draw one scan a class to `sheet`, and say whether the protocol can run."""
    files = [(path, key) for key, paths in dataset.files.items() for path in paths]
    findings = map_on_all_cores(_examine, files, f"reading {len(files)} scans", dataset)
    readable = {finding.key for finding in findings if not finding.error}
    _report_counts(dataset, readable)
    _report("unreadable", [finding.error for finding in findings if finding.error])
    missing = [key for key in _expected(dataset) if key not in dataset.files]
    _report("missing", [f"{key}" for key in missing if key.level in (0, *dataset.levels)])
    unused = [f"{key}" for key in missing if key.level not in (0, *dataset.levels)]
    _report("missing that the protocol does not use", unused)
    _report(
        "given more than once",
        [
            f"{key}: {', '.join(str(path.relative_to(dataset.root)) for path in paths)}"
            for key, paths in dataset.files.items()
            if len(paths) > 1
        ],
    )
    _report("named like no scan of this database", [str(path) for path in dataset.strangers])
    strays = sorted((f for f in findings if f.components > 1), key=lambda f: -f.components)
    _report(
        "with stray components, the most first",
        [f"{f.path}: {f.components} components" for f in strays],
    )
    tangled = [f"{f.path}: {f.tangled_edges}" for f in findings if f.tangled_edges]
    _report("with edges of more than two triangles", tangled)
    _report(
        "read in another unit",
        [f.source for f in findings if not f.error and f.source != str(f.path)],
    )
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
        "subjects with an unreadable scan; any of them may be drawn: take those files out of the folder",
        blocking,
    )
    possible = len(complete) >= protocol.subjects and not blocking
    print(
        f"{len(complete)} subjects have every scan that the protocol needs, readable; it draws {protocol.subjects}: "
        f"the {protocol.folds}-fold protocol {'can run' if possible else 'cannot run'}"
    )
    if sheet:
        _draw(dataset, findings, sheet)
    return possible


def _report_counts(dataset: ScanFolder, readable: set[ScanKey]) -> None:
    subjects = {key.subject for key in dataset.files}
    whole = (
        f" (the whole database has {EXPECTED[dataset.name][0]})" if dataset.name in EXPECTED else ""
    )
    print(
        f"{dataset.root}: {sum(map(len, dataset.files.values()))} scans of {len(subjects)} subjects{whole}"
    )
    counts = Counter((key.expression, key.level) for key in readable)
    levels = sorted({level for _, level in counts if level})
    print(f"{'readable scans':<16}" + "".join(f"{f'level {level}':>9}" for level in levels))
    for expression in EXPRESSIONS:
        print(f"{expression:<16}" + "".join(f"{counts[expression, level]:>9}" for level in levels))
    print(f"{NEUTRAL:<16}{counts[NEUTRAL, 0]:>9}")


def _expected(dataset: ScanFolder) -> list[ScanKey]:
    """The scans that the subjects who are there should have; those that the protocol needs first."""
    _, levels = EXPECTED.get(dataset.name, (0, dataset.levels))
    known = sorted({key.subject for key in dataset.files})
    if dataset.name == "bosphorus":  # 40 of its subjects were never asked for expressions
        known = [subject for subject in known if int(subject[2:]) in EXPRESSIVE_SUBJECTS]
    needed = [key for subject in known for key in dataset.needed(subject)]
    rest = [
        ScanKey(subject, e, level) for subject in known for e in EXPRESSIONS for level in levels
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
        scan = dataset.read(path, key)
    except ScanFormatError as error:
        return Finding(path, key, str(error))
    except OSError as error:
        return Finding(path, key, f"{path}: cannot be read ({error.strerror})")
    return Finding(path, key, "", scan.source, *_topology(scan))


def _topology(scan: FaceScan) -> tuple[int, int]:
    """Components that are no larger than a tenth of the mesh count as stray: 1 + their number; and edges of more than
    two triangles."""
    edges = np.sort(scan.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    _, uses = np.unique(edges[:, 0] * len(scan.points) + edges[:, 1], return_counts=True)
    graph = coo_matrix((np.ones(len(edges), dtype=bool), edges.T), shape=(len(scan.points),) * 2)
    sizes = np.bincount(connected_components(graph, directed=False)[1])
    return int((sizes < 0.1 * len(scan.points)).sum()) + 1, int((uses > 2).sum())


def _draw(dataset: ScanFolder, findings: list[Finding], sheet: Path) -> None:
    from drfer.figures import run as figures

    by_level = sorted(reversed(findings), key=lambda finding: finding.key.level)
    first = {
        finding.key.expression: finding for finding in by_level if not finding.error
    }  # of the highest level
    scans = [
        dataset.read(first[name].path, first[name].key)
        for name in (NEUTRAL, *EXPRESSIONS)
        if name in first
    ]
    if scans:
        title = f"{dataset.name}: one scan of each class, as the files have it"
        with written_whole(sheet) as target:
            figures.scan_sheet([scans], title).savefig(target, format="png", dpi=80)
        print(f"one scan of each class: {sheet}; look whether they stand upright and face you")
