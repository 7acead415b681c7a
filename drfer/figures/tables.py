"""The paper's tables I to III and those of our own, in Markdown, from stored results.

What the paper reports stands in columns of its own: its datasets are others than ours.
"""

from __future__ import annotations

import csv
import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from drfer.common.errors import DrferError
from drfer.evaluation.protocol import Draws
from drfer.evaluation.result import TITLES, Result
from drfer.evaluation.result_format import POSE_SETTINGS
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS, names_in
from drfer.evaluation.statistics import (
    corrected_interval,
    over_people_too,
    paired_difference,
    summarise,
)
from drfer.figures.style import NOT_RUN

LITERATURE = Path(__file__).with_name("paper_tables.csv")
"""What the paper's tables I and II report of other methods."""

MEASURED = {
    "disentanglement": "Disentanglement: leakage in %, errors in mm; the surface is that of the face "
    "without noise where the dataset knows it, else of the stored scan, on what all scans share "
    "(older results: between points); not in the paper, which has no ground truth for it",
    "diagnosis": "What the later stages do to the expression branch; not in the paper",
}
"""Kinds of entries that have a table of numbers each, and its title."""

NO_TRUTH = "no ground truth"
"""Of a measurement that needs faces which only a generator can make."""

NOT_MEASURED = "not measured"
"""Of a measurement that another version of a measure has."""


def tables(results: list[Result]) -> dict[str, list[str]]:
    """Return every table over all evaluations, as lines of Markdown by file name."""
    bosphorus = [result for result in results if result.dataset == "bosphorus"]
    others = [result for result in results if result.dataset != "bosphorus"]
    open_too = _with_missing(results, "anny3dfe")
    return {
        "table-1.md": _comparison("I", "bu3dfe", _with_missing(others, "anny3dfe", "bu3dfe")),
        "table-2.md": _comparison("II", "bosphorus", _with_missing(bosphorus, "bosphorus")),
        "table-3.md": _ablations(open_too),
        "table-controls.md": _controls(open_too),
        "table-differences.md": _differences(open_too),
        "table-readings.md": _readings(open_too),
        "table-pose.md": _poses(open_too),
        "table-features.md": _features(open_too),
        **{
            f"table-{kind}.md": _measured(kind, title, open_too) for kind, title in MEASURED.items()
        },
    }


def accuracy_table(result: Result) -> list[str]:
    """Return the accuracy of every tested row of one evaluation, as lines of Markdown."""
    paper = "bosphorus" if result.dataset == "bosphorus" else "bu3dfe"
    head = ["trained by", "this kit", f"the paper, {TITLES[paper]}, 100 x 10 folds"]
    rows = [[row, _cell(result, row), _reported(row, paper, "not given")] for row in result.rows]
    lines = [f"Accuracy in % ({_escaped(result.caption)})", "", *_markdown(head, rows), ""]
    folds = {(entry["repeat"], entry["fold"]): entry for entry in result.select("test")}
    if len(folds) == 1:
        scans, unit = len(next(iter(folds.values()))["truth"]), result.protocol.unit
        lines.append(f"One {unit}, one seed: of {scans} scans, one is {100 / scans:.2g} points.")
    return [*lines, *_of_draws(result), "The columns are of different data."]


def statistic(result: Result, entries: list[dict]) -> tuple[float, float]:
    """Return the mean accuracy of entries, and half the width of its 95 % interval, in percent.

    Args:
        result: where the entries are from; its protocol says how much the folds overlap.
        entries: one for each fold of each repeat, or for each draw, with "truth" and "predicted".

    Returns:
        The mean, and half the width of its interval (nan of a single fold or draw).
    """
    found = summarise(entries, result.protocol)
    return found.mean, np.nan if found.low is None else found.mean - found.low


def at_poses(entry: dict, poses: list[int]) -> dict:
    """Return an entry of kind "pose" as a test at some of its poses.

    Args:
        entry: has "truth", and "predicted" at every pose.
        poses: indices into the evaluation's poses.
    """
    predicted = [label for pose in poses for label in entry["predicted"][pose]]
    return {**entry, "truth": entry["truth"] * len(poses), "predicted": predicted}


def _with_missing(results: list[Result], *datasets: str) -> list[Result]:
    """Add a result without entries for each dataset that was not evaluated."""
    present = {result.dataset for result in results}
    missing = [Result({"dataset": each}) for each in datasets if each not in present]
    return [*results, *missing]


def _comparison(table: str, dataset: str, results: list[Result]) -> list[str]:
    """Tables I and II: other methods as the paper reports them, DrFER and its baseline."""
    with LITERATURE.open(encoding="utf-8") as file:
        literature = [row for row in csv.DictReader(file) if row["table"] == table]
    fields = ("method", "modality", "feature", "accuracy")
    rows = [[*(row[name] for name in fields), *("" for _ in results)] for row in literature]
    for method, name in (("DrFER's baseline (stage i)", BASELINE), ("DrFER", METHOD)):
        ours = [_cell(result, name) for result in results]
        reported = _reported(name, dataset)
        rows.append([f"**{method}**", "3D", "deep learning", reported, *ours])
    head = [*fields[:3], f"{TITLES[dataset]}, as reported by the paper", *_columns(results)]
    title = (
        f"Table {table}. Accuracy in %. †: the method's 3D part alone is also reported. "
        "[n]: the paper's reference."
    )
    gains = [line for result in results for line in _gain(result)]
    return [title, "", *_markdown(head, rows), *gains, "", *_origins(results)]


def _ablations(results: list[Result]) -> list[str]:
    """Table III, and the control beside it."""
    names = (*names_in("table3"), CONTROL)
    rows = [[name, _reported(name, "bu3dfe", "not in the paper")] for name in names]
    head = ["row", "BU-3DFE, as reported by the paper"]
    title = (
        f"Table III. Accuracy in %, ablations. {CONTROL!r} is classification alone for as many "
        "steps as all stages."
    )
    return _beside_the_method(title, head, rows, results)


def _controls(results: list[Result]) -> list[str]:
    """What could be gained at all, controls, and rows beyond the paper, as far as they were tested."""
    title = (
        "Controls. Accuracy in % of what is not in the paper: other trainings of the baseline, linear "
        "classifiers, and changes of our own."
    )
    return _tested_rows(
        title, (BASELINE, *names_in("control"), *names_in("bound"), *names_in("beyond")), results
    )


def _differences(results: list[Result]) -> list[str]:
    """Rows of draws against each other: how sure a difference is of other trainings and people."""
    title = (
        "Differences. Points by which the first row is better than the second, draw by draw, each with "
        "its 95 % interval: over other training people; and, resampled, over other test people too."
    )
    head = ["row", "less the row", "points", "over draws", "over draws and test people", "draws"]
    drawn = [each for each in results if each.entries and isinstance(each.protocol, Draws)]
    lines = []
    for result in drawn:
        lines += ["", *_markdown(head, [_difference(result, *pair) for pair in _pairs(result)])]
    return [title, *(lines or ["", f"Draws: {NOT_RUN}."]), "", *_origins(results)]


def _pairs(result: Result) -> list[tuple[str, str]]:
    """Rows and what they are held against: the baseline, and the control that trains as long."""
    draws_of = {row: {entry["repeat"] for entry in result.tests(row)} for row in result.rows}
    return [
        (row, other)
        for other in (BASELINE, CONTROL)
        for row in result.rows
        if row != other and draws_of[row] & draws_of.get(other, set())
    ]


def _difference(result: Result, row: str, other: str) -> list[str]:
    """A line of that table."""
    entries, others = result.tests(row), result.tests(other)
    mean, low, high, count = paired_difference(entries, others, result.protocol)
    of_each = len(result.expressions) * len(result.protocol.intensities)
    wide = over_people_too(entries, others, of_each)
    over_draws, over_both = (
        "one draw" if low is None else f"{low:+.2f} to {high:+.2f}"
        for low, high in ((low, high), wide)
    )
    return [row, other, f"{mean:+.2f}", over_draws, over_both, str(count)]


def _readings(results: list[Result]) -> list[str]:
    """Rows where the paper is silent, as far as they were tested."""
    title = (
        "Readings. Accuracy in % of DrFER as we read the paper, and read otherwise where it is "
        "silent."
    )
    return _tested_rows(title, names_in("reading"), results)


def _tested_rows(title: str, names: tuple[str, ...], results: list[Result]) -> list[str]:
    tested = {row for result in results for row in result.rows}
    rows = [[METHOD], *([row, ROWS[row].explains] for row in names if row in tested)]
    rows[0].append(ROWS[METHOD].explains)
    return _beside_the_method(title, ["row", "what it is"], rows, results)


def _beside_the_method(
    title: str, head: list[str], rows: list[list[str]], results: list[Result]
) -> list[str]:
    """A table of rows: each evaluation's accuracy, and how much better the whole method is."""
    filled = []
    for row in rows:
        ours = [text for each in results for text in (_cell(each, row[0]), _lead(each, row[0]))]
        filled.append([*row, *ours])
    ours = [name for column in _columns(results) for name in (column, "all stages less the row")]
    return [title, "", *_markdown([*head, *ours], filled), "", *_origins(results)]


def _features(results: list[Result]) -> list[str]:
    """How the classes lie in feature space: means over folds, of the control too."""
    names = {"silhouette": "silhouette", "purity": "purity among five neighbours"}
    rows = []
    for row in (BASELINE, METHOD, CONTROL):
        entries = [result.select("features", row=row) for result in results]
        for name, title in names.items():
            cells = (
                _mean([entry[name] for entry in each], result) if each else NOT_RUN
                for each, result in zip(entries, results)
            )
            rows.append([f"{row}, {title}", *cells])
    title = "Expression features of unseen subjects. Means over folds or draws, ± half of the 95 % interval."
    return [title, "", *_markdown(["measure", *_columns(results)], rows), "", *_origins(results)]


def _poses(results: list[Result]) -> list[str]:
    """Accuracy from the front and turned, of each setting and row, and what the whole method gains."""
    title = (
        "Head pose. Accuracy in % on the frontal scans, and the mean over the rotated ones; and how "
        "much better all stages are than the row, each ± half of the 95 % interval. Figure 5 draws it."
    )
    gains = ("all stages less the row, frontal", "all stages less the row, rotated")
    head = ["evaluation", "setting", "row", "frontal", gains[0], "rotated", gains[1]]
    shown = [result for result in results if result.select("pose")]
    rows = []
    for result in shown:
        names = [name for name, _ in result.heading["poses"]]
        frontal = [pose for pose, name in enumerate(names) if name == "frontal"]
        rotated = [pose for pose, name in enumerate(names) if name != "frontal"]
        rows += [
            [result.title, setting, row]
            + [cell for poses in (frontal, rotated) for cell in _at(result, row, setting, poses)]
            for setting in POSE_SETTINGS
            for row in (BASELINE, METHOD, CONTROL)
            if result.select("pose", setting=setting, row=row)
        ]
    table = _markdown(head, rows) if rows else [f"Poses: {NOT_RUN}."]
    return [title, "", *table, "", *_origins(shown or results)]


def _at(result: Result, row: str, setting: str, poses: list[int]) -> tuple[str, str]:
    """The accuracy of a row at some poses, and how much better the whole method is there."""
    of_row, of_method = (
        [at_poses(entry, poses) for entry in result.select("pose", setting=setting, row=each)]
        for each in (row, METHOD)
    )
    return _mean_of(result, of_row), "" if row == METHOD else _ahead(result, of_method, of_row)


def _measured(kind: str, title: str, results: list[Result]) -> list[str]:
    """Mean over folds or draws of every number that the evaluations have in entries of a kind."""
    entries = [result.select(kind) for result in results]
    columns = [
        _means([dict(_numbers(entry["measured"])) for entry in each], result)
        for each, result in zip(entries, results)
    ]
    names = list(dict.fromkeys(name for column in columns for name in column))
    absent = [
        _why_absent(result) if column else NOT_RUN for column, result in zip(columns, results)
    ]
    rows = [
        [name, *(column.get(name, none) for column, none in zip(columns, absent))] for name in names
    ]
    rows = rows or [[kind, *(NOT_RUN for _ in columns)]]
    counts = "".join(f"; {r.title}: {len(each)}" for r, each in zip(results, entries) if each)
    units = " or ".join(dict.fromkeys(f"{_unit(result)}s" for result in results))
    title = f"{title}. Means over {units}, ± half of the 95 % interval{_escaped(counts)}."
    table = _markdown(["measure", *_columns(results)], rows)
    return [title, "", *table, "", *_origins(results)]


def _why_absent(result: Result) -> str:
    return NOT_MEASURED if result.dataset == "anny3dfe" else NO_TRUTH


def _numbers(measured: dict, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested dictionaries, under the names that lead to it."""
    for name, value in measured.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{path}{name}, ")
        else:
            yield f"{path}{name}", float(value)


def _means(entries: list[dict[str, float]], result: Result) -> dict[str, str]:
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {
        name: _mean([entry[name] for entry in entries if name in entry], result) for name in names
    }


def _mean(values: list[float], result: Result) -> str:
    """A mean, with its interval if there are three folds or draws."""
    if len(values) < 3:
        return f"{np.mean(values):.3g}"
    low, high = corrected_interval(np.array(values), result.protocol)
    return f"{np.mean(values):.3g} ± {(high - low) / 2:.2g}"


def _cell(result: Result, row: str) -> str:
    """Mean, interval if there is one, and folds or draws; every table takes them from here."""
    entries = result.tests(row)
    return _mean_of(result, entries) if entries else NOT_RUN


def _mean_of(result: Result, entries: list[dict]) -> str:
    mean, half_width = statistic(result, entries)
    return f"{mean:.2f}{_plus_minus(half_width, len(entries), _unit(result))}"


def _lead(result: Result, row: str) -> str:
    """How much better the whole method is than a row, on the folds of both; empty without any."""
    if row == METHOD or not result.entries:
        return ""
    return _ahead(result, result.tests(METHOD), result.tests(row))


def _ahead(result: Result, entries: list[dict], others: list[dict]) -> str:
    """By how many points entries are better than others, on the folds of both; empty without any."""
    try:
        mean, low, _, folds = paired_difference(entries, others, result.protocol)
    except DrferError:
        return ""
    half_width = np.nan if low is None else mean - low
    return f"{mean:+.2f}{_plus_minus(half_width, folds, _unit(result))}"


def _plus_minus(half_width: float, count: int, unit: str) -> str:
    """An interval, which says nothing of fewer than three folds or draws, and their number."""
    interval = "" if count < 3 else f" ± {half_width:.2f}"
    return f"{interval} ({number_of(count, unit)})"


def number_of(count: int, unit: str) -> str:
    """Return a number of things, such as "1 fold" or "20 draws"."""
    return f"{count} {unit}{'s' if count > 1 else ''}"


def _unit(result: Result) -> str:
    return result.protocol.unit if result.entries else "fold"


def _gain(result: Result) -> list[str]:
    """How much better DrFER is than its baseline, and what each says of each expression."""
    lead = _lead(result, BASELINE)
    if not lead:
        return []
    unit = _unit(result)
    lines = [f"{_escaped(result.title)}: DrFER less its baseline, {unit} by {unit}: {lead} points."]
    for row in (BASELINE, METHOD):
        found = summarise(result.tests(row), result.protocol, len(result.expressions))
        named = zip(map(_escaped, result.expressions), found.recall)
        recall = ", ".join(f"{name} {value:.0f}" for name, value in named)
        lines.append(f"Recall after {row}, %: {recall}.")
        if found.deviation is not None:
            of = number_of(found.repeats, "draw" if unit == "draw" else "repeat")
            lines.append(f"Standard deviation over {of} of {row}: {found.deviation:.2f}.")
    return ["", *(f"- {line}" for line in lines)]


def _reported(row: str, dataset: str, otherwise: str = "") -> str:
    """The accuracy that the paper reports, if it does."""
    paper = ROWS[row].paper
    return f"{paper[dataset]:.2f}" if dataset in paper else otherwise


def _columns(results: list[Result]) -> list[str]:
    return [f"this kit, {result.title}" for result in results]


def _origins(results: list[Result]) -> list[str]:
    """What each column is of."""
    lines = [
        f"- {_escaped(result.caption if result.entries else f'{result.title}: {NOT_RUN}')}"
        for result in results
    ]
    notes = dict.fromkeys(note for result in results for note in _of_draws(result))
    return [*lines, *(f"- {note}" for note in notes)]


def _of_draws(result: Result) -> list[str]:
    """What a draw is, if the evaluation has draws."""
    if not result.entries or not isinstance(result.protocol, Draws):
        return []
    draws = result.protocol
    return [
        f"Each draw trains on {draws.train_subjects} subjects of a population of its own, and all "
        f"are tested on the same {draws.test_subjects} subjects of others (measures: on "
        f"{draws.measured_subjects} of them). ± is Student's interval over draws; it needs no "
        "correction for overlap."
    ]


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = (head, ["---"] * len(head), *rows)
    return [f"| {' | '.join(map(_escaped, cells))} |" for cells in lines]


def _escaped(text: str) -> str:
    """Keep a name from outside from being taken for HTML, or for the end of a cell."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")
