"""What the docs and the README say of the code is so."""

import re
from pathlib import Path

import pytest

from drfer.evaluation.experiment import PRESETS
from drfer.evaluation.plan import Request, plan
from drfer.figures.tables import load_evaluations, tables
from drfer.preprocessing import head_pose as poses
from drfer.preprocessing import template
from drfer.preprocessing.faceset import Settings
from drfer.training.stages import LossSettings

ROOT = Path(__file__).parents[1]
PAPER = PRESETS["paper"]
COSTS = (ROOT / "docs" / "evaluation.md").read_text()
ROOTS = {
    "template": template,
    "poses": poses,
    "preprocessing": Settings(),
    "losses": LossSettings(),
}
ROWS = re.findall(
    r"^\| `([\w.-]+)` \| (.+?) \| (paper|ours) \|",
    (ROOT / "docs" / "readings.md").read_text(),
    re.M,
)


def value_of(field):
    head, *rest = field.split(".")
    value = ROOTS.get(head) or getattr(PAPER, head)
    for name in rest:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


@pytest.mark.parametrize("field, said, _", ROWS, ids=[row[0] for row in ROWS])
def test_the_register_of_readings_says_what_the_code_does(field, said, _):
    value = value_of(field)
    if field == "sizes.encoder":
        levels = [
            (a.centres, a.radius, a.neighbours, "-".join(map(str, a.widths))) for a in value.levels
        ]
        texts = [f"({', '.join(map(str, level))})" for level in levels]
        value = " ".join([*texts, f"({'-'.join(map(str, value.global_widths))})"])
    assert str(value) == said


def test_the_register_is_not_empty():
    assert len(ROWS) > 25


def test_every_link_of_the_readme_and_docs_leads_somewhere():
    for page in (ROOT / "README.md", ROOT / "REPRODUCTION.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links {link}"


def test_every_result_in_the_readme_and_the_report_is_a_stored_one():
    """Rows of tables that have an interval are those that `drfer figures` makes of the stored results with several folds."""
    stored = [
        evaluation
        for evaluation in load_evaluations(ROOT / "figures")
        if len(evaluation.facts["folds"]) > 1
    ]
    made = [line for lines in tables(stored).values() for line in lines]
    for page in ("README.md", "REPRODUCTION.md"):
        rows = [
            line
            for line in (ROOT / page).read_text().splitlines()
            if line.startswith("|") and "±" in line
        ]
        assert rows and set(rows) <= set(made), page


STEP_TIMES = re.findall(r"^\| (i+-?\w*) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|", COSTS, re.M)
STEPS = {stage: int(steps) for stage, steps, *_ in STEP_TIMES}
ONE_GPU, SHARED_GPU, GPUS = 15, 2.5 * 0.95, 16
"""assumed: a GPU's rate in two cores' rates; four jobs' together in one's, 95 % busy"""


def test_the_table_of_costs_follows_from_the_step_times(faces):
    """Each cell is the sum over the plan's trainings; a fold on many GPUs takes as long as its longest chain at least."""
    for stage, steps, _, _ in STEP_TIMES:
        training = PAPER.trainings[stage]
        assert int(steps) == training.epochs * -(-54 * 6 * 2 // training.batch_size)
    for name, column in (("classroom", 2), ("paper", 3)):
        seconds = {row[0]: int(row[1]) * float(row[column]) / 1000 for row in STEP_TIMES}
        assert len(seconds) == 6
        main, table3 = (cost_of_a_fold(rows, seconds, faces) for rows in ("main", "table3"))
        works = [main, 10 * main, 10 * table3, 1000 * main, 1000 * table3]
        assert f"| two cores, `{name}` | {' | '.join(map(as_time, works))} |" in COSTS
    chain = sum(seconds[stage] for stage in ("i-expression", "ii-expression", "iii")) / ONE_GPU
    assert (
        f"| one GPU, `paper`, assumed | {' | '.join(as_time(work / ONE_GPU) for work in works)} |"
        in COSTS
    )
    many = [max(chain, work / (ONE_GPU * SHARED_GPU * GPUS)) for work in works]
    assert f"| 16 GPUs, `paper`, assumed | {' | '.join(map(as_time, many))} |" in COSTS


def cost_of_a_fold(rows, seconds, faces):
    """Of the trainings of some rows; the control's steps cost what the baseline's do."""
    jobs = plan(Request.of_names(PRESETS["smoke"], (rows,), (), (0,), 1, 0), faces)
    step = seconds["i-expression"] / STEPS["i-expression"]
    costs = {
        "head": seconds["i-expression"],
        "ii-control": STEPS["ii-expression"] * step,
        "iii-control": STEPS["iii"] * step,
        **seconds,
    }
    return sum(costs[job.what] for job in jobs.values())


def as_time(seconds):
    for unit, size in (("days", 86400), ("h", 3600)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds / 60:.{0 if seconds >= 600 else 1}f} min"


def test_the_package_stays_small():
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "drfer").rglob("*.py"))
    assert (
        lines < 7800
    )  # a fifth of them makes the open faces, a fifth evaluates and draws, 400 serve the notebooks
