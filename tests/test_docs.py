"""What the docs and the README say of the code is so."""

import re
from pathlib import Path

import pytest

from drfer import poses, template
from drfer.experiment import PRESETS
from drfer.preprocessing import Settings
from drfer.stages import LossSettings
from drfer.tables import load_evaluations, tables

ROOT = Path(__file__).parents[1]
PAPER = PRESETS["paper"]
ROOTS = {"template": template, "poses": poses, "preprocessing": Settings(), "losses": LossSettings()}
ROWS = re.findall(r"^\| `([\w.-]+)` \| (.+?) \| (paper|ours) \|", (ROOT / "docs" / "readings.md").read_text(), re.M)


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
        levels = [(a.centres, a.radius, a.neighbours, "-".join(map(str, a.widths))) for a in value.levels]
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
    """Rows of tables that have an interval are those that `drfer figures` makes of the stored results."""
    made = [line for lines in tables(load_evaluations(ROOT / "figures")).values() for line in lines]
    for page in ("README.md", "REPRODUCTION.md"):
        rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("|") and "±" in line]
        assert rows and set(rows) <= set(made), page


def test_the_package_stays_small():
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "drfer").rglob("*.py"))
    assert lines < 7800  # a fifth of them makes the open faces, a fifth evaluates and draws, 400 serve the notebooks
