"""What the docs and the README say of the code is true."""

import math
import re
from pathlib import Path

import pytest

from drfer.evaluation.plan import Request, plan
from drfer.evaluation.presets import PRESETS
from drfer.evaluation.result import load_results
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS, names_in
from drfer.evaluation.statistics import paired_difference, summarise
from drfer.evaluation.store import Store
from drfer.figures.tables import tables
from drfer.models.recogniser import load_recogniser
from drfer.models.shipped import load_model
from drfer.preprocessing import head_pose, template
from drfer.preprocessing.resampling import Settings
from drfer.training.data import DataSettings
from drfer.training.stages import STAGES, LossSettings
from tools import when_it_helps

ROOT = Path(__file__).parents[1]
PAPER = PRESETS["paper"]
COSTS = (ROOT / "docs" / "evaluation.md").read_text()
ROOTS = {
    "template": template,
    "head_pose": head_pose,
    "preprocessing": Settings(),
    "losses": LossSettings(),
    "data": DataSettings(),
    "stages": {name: PAPER.schedule(stage) for name, stage in STAGES.items()},
}
READINGS = re.findall(
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


@pytest.mark.parametrize("field, said, _", READINGS, ids=[row[0] for row in READINGS])
def test_the_register_of_readings_says_what_the_code_does(field, said, _):
    value = value_of(field)
    if field == "sizes.encoder":
        levels = [
            (a.centroids, a.radius, a.neighbours, "-".join(map(str, a.widths)))
            for a in value.levels
        ]
        texts = [f"({', '.join(map(str, level))})" for level in levels]
        value = " ".join([*texts, f"({'-'.join(map(str, value.global_widths))})"])
    assert str(value) == said


def test_the_register_is_not_empty():
    assert len(READINGS) > 25


def test_every_link_of_the_readme_and_docs_leads_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links {link}"


def test_every_result_in_the_readme_and_the_report_is_a_stored_one():
    """Rows of tables with an interval are those that `drfer figures` makes of stored results.

    Of those with several folds, since a single one has no interval; of all beside each other, or of
    one alone.
    """
    stored = [result for result in load_results(ROOT / "figures") if len(result.folds) > 1]
    together = [stored, *([result] for result in stored)]
    made = [line for some in together for lines in tables(some).values() for line in lines]
    for page in ("README.md", "REPRODUCTION.md"):
        lines = (ROOT / page).read_text().splitlines()
        rows = [line for line in lines if line.startswith("|") and "±" in line]
        assert rows, page
        assert set(rows) <= set(made), page


@pytest.mark.parametrize("panel, results_of", list(enumerate(("by_people", "by_factor"))))
def test_what_is_said_of_when_it_helps_is_stored(panel, results_of):
    """Each line of the report's tables is what stored answers say: from 9 people to 54, and by factor."""
    results = getattr(when_it_helps, results_of)()
    drawn = [text.get_text() for text in when_it_helps.picture().axes[panel].texts]
    section = (ROOT / "REPRODUCTION.md").read_text().split("## When does it help?")[1]
    tables = re.split(r"\| (?:with 18 )?training people \|", section)
    table = tables[1 + panel].split("\n\n")[0].replace("−", "-")
    said = table.splitlines()[2:]
    made = []
    for changed, result in results.items():
        cells = [changed, len(result.tests(METHOD)), _mean_of(result, BASELINE)]
        for row in (METHOD, CONTROL):
            gain = paired_difference(result.tests(row), result.tests(BASELINE), result.protocol)[0]
            assert f"{gain:+.1f}" in drawn
        for other in (BASELINE, CONTROL):
            mean, low, high, _ = paired_difference(
                result.tests(METHOD), result.tests(other), result.protocol
            )
            cells.append(f"{mean:+.2f} ({low:+.2f} to {high:+.2f})")
        cells += [_mean_of(result, row) for row in ("linear: vertices", "linear: less own neutral")]
        made.append(f"| {' | '.join(map(str, cells))} |")
    assert said == made


def test_what_is_said_of_each_part_is_stored():
    """Each line of table III in the report, and its verdict: whether the paper's effect is excluded."""
    result = when_it_helps.by_people()[when_it_helps.PEOPLE]
    made = []
    for row in names_in("table3"):
        if row == METHOD:
            continue
        paper = ROWS[METHOD].paper["bu3dfe"] - ROWS[row].paper["bu3dfe"]
        mean, low, high, draws = paired_difference(
            result.tests(METHOD), result.tests(row), result.protocol
        )
        assert draws == 5
        verdict = "undecided" if low <= paper <= high else "does not show"
        cells = (row, f"{paper:+.2f}", f"{mean:+.2f} ({low:+.2f} to {high:+.2f})", verdict)
        made.append(f"| {' | '.join(cells)} |")
    section = (ROOT / "REPRODUCTION.md").read_text().split("## What each part is worth")[1]
    table = section.split("## ")[0].replace("−", "-").splitlines()
    assert [line for line in table if line.startswith("|")][2:] == made


def test_what_is_said_of_ten_folds_is_stored():
    """Each line of the report's table of the paper's own protocol, on today's faces."""
    [result] = load_results(ROOT / "docs" / "ten-folds")
    made = []
    for row in result.rows:
        right = summarise(result.tests(row), result.protocol)
        assert right.folds == 10
        cells = [row, f"{right.mean:.1f} ({right.low:.1f} to {right.high:.1f})", ""]
        if row != BASELINE:
            mean, low, high, _ = paired_difference(
                result.tests(row), result.tests(BASELINE), result.protocol
            )
            cells[-1] = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        made.append(f"| {' | '.join(cells)} |")
    section = (ROOT / "REPRODUCTION.md").read_text().split("## On the paper's protocol")[1]
    table = section.split("## ")[0].replace("−", "-").splitlines()
    assert [line for line in table if line.startswith("|")][2:] == made


def test_what_the_trained_weights_are_worth_to_few_people_is_stored():
    """Each line of the table is what the stored answers say, with and without the kit's weights."""
    stored = load_results(ROOT / "docs" / "fine-tuning")
    started = {r.protocol.train_share: r for r in stored if "-from-shipped" in r.name}
    plain = {r.protocol.train_share: r for r in stored if "-from-shipped" not in r.name}
    assert plain.keys() == started.keys() and len(stored) == 2 * len(plain)
    made = []
    for share, without in sorted(plain.items()):
        answers = [result.tests(BASELINE) for result in (without, started[share])]
        gain, low, high, _ = paired_difference(*reversed(answers), without.protocol)
        people = math.ceil(share * 54)
        means = [_mean_of(result, BASELINE) for result in (without, started[share])]
        cells = (f"{100 * share:g} %", people, *means, f"{gain:+.1f} ({low:+.1f} to {high:+.1f})")
        made.append(f"| {' | '.join(map(str, cells))} |")
    page = (ROOT / "docs" / "your-own-faces.md").read_text()
    assert [line for line in page.splitlines() if re.match(r"\| \d+ % ", line)] == made


def _mean_of(result, row):
    return f"{summarise(result.tests(row), result.protocol).mean:.1f}"


def test_the_model_card_says_what_the_files_say():
    """Each line on unseen people and their groups; and the worst group is named."""
    page = (ROOT / "docs" / "model-card.md").read_text()
    drfer, recogniser = load_model()[1], load_recogniser().card
    made, worst = [], {}
    for kind, of in recogniser["on unseen people"].items():
        six = drfer["right on unseen people, %"][kind]
        numbers = (
            of["people"],
            f"{of['scans']:,}",
            of["right, %"],
            of["right by class, %"]["neutral"],
            of["expected calibration error, %"],
            of["unlike known faces, %"],
            six["right, %"],
        )
        made.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
        groups = of["right by group, %"]
        worst[kind] = min(
            (right, f"{name}: {group}")
            for name, each in groups.items()
            for group, right in each.items()
        )
    for of, names in recogniser["on unseen people"]["benchmark"]["right by group, %"].items():
        for name in names:
            rights = [
                each["right by group, %"][of][name]
                for each in recogniser["on unseen people"].values()
            ]
            made.append(f"| {of} | {name} | {' | '.join(map(str, rights))} |")
    for line in made:
        assert line in page, line
    for kind, (right, group) in worst.items():
        assert f"{group} ({kind}, {right} %)" in page
    assert f"{recogniser['training people']:,} people" in page


def test_what_development_people_said_is_stored():
    """Each row of the page, and each error in mm, is that of the stored answers."""
    [result] = load_results(ROOT / "docs" / "development")
    assert result.protocol.development
    section = COSTS.split("## What development people said")[1].split("\n## ")[0]
    said = dict(re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|$", section, re.M))
    assert list(said) == result.rows
    for row, accuracy in said.items():
        assert accuracy == f"{summarise(result.tests(row), result.protocol).mean:.2f}"
    [entry] = result.select("disentanglement")
    measured, section = entry["measured"], re.sub(r"\s+", " ", section)
    after = {
        name: values[METHOD]
        for name, values in measured.items()
        if name.endswith("mm to the surface")
    }
    faces, carried = (
        after["reconstruction, mm to the surface"],
        after["transfer, mm to the surface"],
    )
    for name, rival in (
        ("de-identification", "mean neutral face"),
        ("neutralisation", "mean neutral face"),
        ("neutralisation", "input scan"),
        ("fusion", "own neutral scan"),
    ):
        assert f"{faces[name]['decoded']:.2f}" in section and f"{faces[name][rival]:.2f}" in section
    assert f"{carried['fused']:.2f}" in section and f"{carried['own neutral']:.2f}" in section
    for row in (BASELINE, METHOD):
        leak = measured["leakage"][row]["expression feature"]["subject"]["accuracy"]
        assert f"{leak:.0f} %" in section


STEP_TIMES = re.findall(
    r"^\| (i+-?\w*|control) \| (\d+) \| ([\d.]+) \| (\d+) \| ([\d.]+) \|", COSTS, re.M
)
COLUMNS = {"classroom": (1, 2), "paper": (3, 4)}
"""Steps, and milliseconds of a step, of each preset."""
ONE_GPU, SHARED_GPU, GPUS = 15, 2.5 * 0.95, 16
"""Assumed: a GPU's rate in two cores' rates; four jobs' together in one's, 95 % busy."""


def test_the_table_of_costs_follows_from_the_step_times(faces, tmp_path):
    """Each cell is the sum over the plan's trainings.

    A fold on many GPUs takes as long as its longest chain at least.
    """
    for row in STEP_TIMES:
        for preset, (steps, _) in COLUMNS.items():
            schedule = PRESETS[preset].schedule(STAGES[row[0]])
            assert int(row[steps]) == schedule.epochs * -(-54 * 6 * 2 // schedule.batch_size)
    store = Store(tmp_path)
    for name in COLUMNS:
        seconds = seconds_of_stages(name)
        assert len(seconds) == 7
        main, table3 = (
            cost_of_a_fold((rows,), seconds, faces, store) for rows in ("main", "table3")
        )
        works = [main, 10 * main, 10 * table3, 1000 * main, 1000 * table3]
        assert f"| two cores, `{name}` | {' | '.join(map(as_time, works))} |" in COSTS
    chain = sum(seconds[stage] for stage in ("i-expression", "ii-expression", "iii")) / ONE_GPU
    one = [work / ONE_GPU for work in works]
    assert f"| one GPU, `paper`, assumed | {' | '.join(map(as_time, one))} |" in COSTS
    many = [max(chain, work / (ONE_GPU * SHARED_GPU * GPUS)) for work in works]
    assert f"| 16 GPUs, `paper`, assumed | {' | '.join(map(as_time, many))} |" in COSTS


@pytest.mark.parametrize("preset", COLUMNS)
def test_nine_rows_cost_no_more_than_four_runs(faces, tmp_path, preset):
    """They share stages; by the seconds that the stages take."""
    nine = names_in("table3")
    assert len(nine) == 9
    seconds, store = seconds_of_stages(preset), Store(tmp_path)
    one = cost_of_a_fold((METHOD,), seconds, faces, store)
    ratio = cost_of_a_fold(nine, seconds, faces, store) / one
    assert 1 < ratio <= 4
    said = re.sub(r"\s+", " ", COSTS)
    assert f"{ratio:.1f} times one run (`{preset}`)" in said


def seconds_of_stages(preset):
    """How long each stage takes with a preset."""
    steps, milliseconds = COLUMNS[preset]
    return {row[0]: int(row[steps]) * float(row[milliseconds]) / 1000 for row in STEP_TIMES}


def cost_of_a_fold(rows, seconds, faces, store):
    """Of the trainings of some rows; a fresh head is taken to cost a fifth of stage i."""
    jobs = plan(Request.of_names(PRESETS["smoke"], rows, (), (0,), 1, 0), faces, store)
    costs = {"head-iii": seconds["i-expression"] / 5, **seconds}
    return sum(costs[job.what] for job in jobs.values())


def as_time(seconds):
    for unit, size in (("days", 86400), ("h", 3600)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds / 60:.{0 if seconds >= 600 else 1}f} min"
