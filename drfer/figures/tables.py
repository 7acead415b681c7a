"""Stored evaluations, and the paper's tables I to III from them: the paper's numbers in a column of their own."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.protocol import Protocol, accuracy_by_fold, paired_difference, summarise
from drfer.figures.run import PAPER_BOSPHORUS, PAPER_BU3DFE

DATASETS = {
    "anny3dfe": "Anny-3DFE (synthetic)",
    "bu3dfe": "BU-3DFE",
    "bosphorus": "Bosphorus",
    "scans": "own scans",
}
BASELINE, WHOLE, CONTROL = "stage i", "stage i + ii + iii", "stage i, as long"
ROWS = (*PAPER_BU3DFE, CONTROL)
"""table III's rows as the paper has them, and our control: the baseline trained for as many steps as all stages"""
MEASURED = {
    "disentanglement": "Disentanglement: leakage in %, errors in mm; not in the paper, which has no ground truth for it",
    "diagnosis": "What the later stages do to the expression branch; not in the paper",
}
"""sections of numbers that have a table each, and its title"""
NOT_RUN = "not run"
NO_TRUTH = "no ground truth"
"""of a measurement that needs faces which only a generator can make"""


@dataclass(frozen=True)
class Evaluation:
    """What one folder holds; without `facts`, a dataset that was not evaluated."""

    dataset: str
    facts: dict = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        preset = f", {self.facts['preset']}" if self.facts else ""
        return f"{DATASETS.get(self.dataset, self.dataset)}{preset}"

    @property
    def caption(self) -> str:
        """What every figure says of its origin."""
        if not self.facts:
            return f"{self.name}: {NOT_RUN}"
        return f"{self.name} preset, seed {self.facts['seed']}, data {self.facts['data hash'][:8]}"

    def has(self, section: str) -> bool:
        return bool(self.facts.get(section)) or section in self.samples

    def entries(self, section: str, **wanted) -> list[dict]:
        """The entries of a list in evaluation.json whose fields have the wanted values."""
        found = self.facts.get(section, [])
        return [
            entry for entry in found if all(entry[name] == value for name, value in wanted.items())
        ]


def load_evaluations(results: Path) -> list[Evaluation]:
    """Every evaluation in a folder, by name. Raises DrferError if there is no folder or a file in it is broken."""
    if not results.is_dir():
        raise DrferError(
            f"there is no folder {results}: say with --results where the evaluations are"
        )
    return [_load(path) for path in sorted(results.glob("*/evaluation.json"))]


def _load(path: Path) -> Evaluation:
    samples = {}
    try:
        facts = json.loads(path.read_text())
        _check(facts)
        path = path.with_name("samples.npz")
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                samples = {name: stored[name] for name in stored.files}
            _check_samples(samples, len(facts.get("poses", [])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DrferError(
            f"{path} is broken ({error!r}): evaluate again, or take its folder away"
        ) from None
    return Evaluation(facts["dataset"], facts, samples)


def _check(facts: dict) -> None:
    """Raise some error unless an evaluation has all that the tables and figures read of it."""
    kinds = {
        "dataset": str,
        "preset": str,
        "data hash": str,
        "seed": int,
        "rows": dict,
        "protocol": dict,
    }
    for name, kind in kinds.items():
        if not isinstance(facts[name], kind):
            raise TypeError(f"{name!r} is not as it should be")
    for entries in facts["rows"].values():
        if any(np.shape(entry["truth"]) != np.shape(entry["predicted"]) for entry in entries):
            raise ValueError("a fold has not as many predictions as scans")
        accuracy_by_fold(entries)
    for entry in facts.get("pose", []):
        if np.shape(entry["predicted"]) != (len(facts["poses"]), len(entry["truth"])):
            raise ValueError("a prediction is missing in 'pose'")
    for entry in facts.get("features", []):
        if np.shape(entry["tsne"]) != (len(entry["labels"]), 2) or {
            "silhouette",
            "purity",
            "repeat",
            "fold",
        } - set(entry):
            raise ValueError("an entry of 'features' is not whole")


def _check_samples(samples: dict[str, np.ndarray], poses: int) -> None:
    manifold = [f"manifold {name}" for name in ("features", "expression", "level", "subject")]
    if manifold[0] in samples and len({len(samples[name]) for name in manifold}) > 1:
        raise ValueError("the arrays of the manifold differ in length")
    if "posed clouds" in samples and not samples["posed clouds"].shape[:2] == samples[
        "posed left"
    ].shape == (2, poses):
        raise ValueError("'posed clouds' and 'posed left' are not of two subjects in every pose")


def statistic(evaluation: Evaluation, entries: list[dict]) -> tuple[float, float]:
    """Mean accuracy over folds and repeats in %, and half the width of its corrected 95 % interval (nan of one)."""
    found = summarise(entries, Protocol(**evaluation.facts["protocol"]))
    return found.mean, np.nan if found.low is None else found.mean - found.low


def tables(stored: list[Evaluation]) -> dict[str, list[str]]:
    """Every table as lines of Markdown, by file name."""
    bosphorus = [evaluation for evaluation in stored if evaluation.dataset == "bosphorus"]
    others = [evaluation for evaluation in stored if evaluation.dataset != "bosphorus"]
    open_too = _with_missing(stored, "anny3dfe")
    return {
        "table-1.md": _comparison(
            "I", "BU-3DFE", PAPER_BU3DFE, _with_missing(others, "anny3dfe", "bu3dfe")
        ),
        "table-2.md": _comparison(
            "II", "Bosphorus", PAPER_BOSPHORUS, _with_missing(bosphorus, "bosphorus")
        ),
        "table-3.md": _ablations(open_too),
        "table-readings.md": _readings(open_too),
        **{
            f"table-{name}.md": _measured(name, title, open_too) for name, title in MEASURED.items()
        },
    }


def _with_missing(evaluations: list[Evaluation], *datasets: str) -> list[Evaluation]:
    present = {evaluation.dataset for evaluation in evaluations}
    return [*evaluations, *(Evaluation(dataset) for dataset in datasets if dataset not in present)]


def _comparison(
    table: str, dataset: str, paper: dict[str, float], evaluations: list[Evaluation]
) -> list[str]:
    with (Path(__file__).parent / "paper_tables.csv").open(encoding="utf-8") as file:
        literature = [row for row in csv.DictReader(file) if row["table"] == table]
    rows = [
        [
            row["method"],
            row["modality"],
            row["feature"],
            row["accuracy"],
            *["" for _ in evaluations],
        ]
        for row in literature
    ]
    for method, name in (("DrFER's baseline (stage i)", BASELINE), ("DrFER", WHOLE)):
        ours = [_cell(evaluation, name) for evaluation in evaluations]
        rows.append([f"**{method}**", "3D", "deep learning", f"{paper[name]:.2f}", *ours])
    head = [
        "method",
        "modality",
        "feature",
        f"{dataset}, as reported by the paper",
        *_columns(evaluations),
    ]
    title = f"Table {table}. Accuracy in %. †: the method's 3D part alone is also reported. [n]: the paper's reference."
    gains = [line for evaluation in evaluations for line in _gain(evaluation)]
    return [title, "", *_markdown(head, rows), *gains, "", *_origins(evaluations)]


def _ablations(evaluations: list[Evaluation]) -> list[str]:
    rows = [
        [row, f"{PAPER_BU3DFE[row]:.2f}" if row in PAPER_BU3DFE else "not in the paper"]
        for row in ROWS
    ]
    head = ["row", "BU-3DFE, as reported by the paper"]
    title = f"Table III. Accuracy in %, ablations. {CONTROL!r} is the baseline trained for as many steps as all stages."
    return _beside_the_whole(title, head, rows, evaluations)


def _readings(evaluations: list[Evaluation]) -> list[str]:
    every = dict.fromkeys(
        row for evaluation in evaluations for row in evaluation.facts.get("rows", {})
    )
    rows = [[WHOLE], *([row] for row in every if row not in ROWS)]
    title = "Readings. Accuracy in % of DrFER as we read the paper, and read otherwise where it is silent."
    return _beside_the_whole(title, ["row"], rows, evaluations)


def _beside_the_whole(
    title: str, head: list[str], rows: list[list[str]], evaluations: list[Evaluation]
) -> list[str]:
    """A table of rows with each evaluation's accuracy, and what the whole method has more on the same folds."""
    filled = [
        [*row, *(text for e in evaluations for text in (_cell(e, row[0]), _lead(e, row[0])))]
        for row in rows
    ]
    head = [
        *head,
        *(name for column in _columns(evaluations) for name in (column, "all stages less the row")),
    ]
    return [title, "", *_markdown(head, filled), "", *_origins(evaluations)]


def _lead(evaluation: Evaluation, row: str) -> str:
    """What the whole method has more than a row on the folds of both, with its interval; nothing if there are none."""
    rows = evaluation.facts.get("rows", {})
    if row == WHOLE:
        return ""
    try:
        mean, low, _, folds = paired_difference(
            rows[WHOLE], rows[row], Protocol(**evaluation.facts["protocol"])
        )
    except (KeyError, DrferError):
        return ""
    return f"{mean:+.2f}{_plus_minus(np.nan if low is None else mean - low, folds)}"


def _measured(section: str, title: str, evaluations: list[Evaluation]) -> list[str]:
    """Mean over folds of every number that the evaluations have in a section."""
    columns = [_means([dict(_numbers(entry)) for entry in e.entries(section)]) for e in evaluations]
    names = list(dict.fromkeys(name for column in columns for name in column))
    absent = [NO_TRUTH if column else NOT_RUN for column in columns]
    rows = [
        [name, *(f"{c[name]:.3g}" if name in c else a for c, a in zip(columns, absent))]
        for name in names
    ]
    rows = rows or [[section, *[NOT_RUN] * len(columns)]]
    table = _markdown(["measure", *_columns(evaluations)], rows)
    folds = "".join(
        f"; {e.name}: {len(e.entries(section))}" for e in evaluations if e.entries(section)
    )
    return [
        f"{title}. Means over folds, without intervals{folds}.",
        "",
        *table,
        "",
        *_origins(evaluations),
    ]


def _numbers(entry: dict, path: str = "") -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{path}{name}, ")
        elif isinstance(value, int | float) and name not in ("repeat", "fold"):
            yield f"{path}{name}", float(value)


def _means(entries: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {
        name: float(np.mean([entry[name] for entry in entries if name in entry])) for name in names
    }


def _cell(evaluation: Evaluation, row: str) -> str:
    """Mean, interval if there is one, and folds; every table takes them from here."""
    entries = evaluation.facts.get("rows", {}).get(row)
    if not entries:
        return NOT_RUN
    mean, half_width = statistic(evaluation, entries)
    return f"{mean:.2f}{_plus_minus(half_width, len(entries))}"


def _plus_minus(half_width: float, folds: int) -> str:
    return (
        "" if folds < 3 else f" ± {half_width:.2f}"
    ) + f" ({folds} fold{'s' if folds > 1 else ''})"


def _gain(evaluation: Evaluation) -> list[str]:
    """DrFER less its baseline, fold by fold, and what each says of each expression."""
    rows = evaluation.facts.get("rows", {})
    lead = _lead(evaluation, BASELINE)
    if not lead:
        return []
    protocol = Protocol(**evaluation.facts["protocol"])
    lines = [f"{evaluation.name}: DrFER less its baseline, fold by fold: {lead} points."]
    for row in (BASELINE, WHOLE):
        found = summarise(rows[row], protocol)
        recall = ", ".join(f"{name} {value:.0f}" for name, value in zip(EXPRESSIONS, found.recall))
        lines.append(f"Recall after {row}, %: {recall}.")
        if found.deviation is not None:
            lines.append(
                f"Standard deviation over {found.repeats} repeats of {row}: {found.deviation:.2f}."
            )
    return ["", *(f"- {line}" for line in lines)]


def _columns(evaluations: list[Evaluation]) -> list[str]:
    return [f"this kit, {evaluation.name}" for evaluation in evaluations]


def _origins(evaluations: list[Evaluation]) -> list[str]:
    return [f"- {evaluation.caption}" for evaluation in evaluations]


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
