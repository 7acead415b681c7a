"""A row of a table is data: a row and a stage are added by one entry each."""

from dataclasses import replace

import numpy as np
import pytest
from driver import TINY

from drfer.evaluation.collect import collect
from drfer.evaluation.engine import run_here
from drfer.evaluation.linear import CLASSIFIERS
from drfer.evaluation.plan import Request, plan
from drfer.evaluation.result import load_result
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS, Row, names_in
from drfer.evaluation.store import Store
from drfer.figures.tables import tables
from drfer.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_stage_and_a_row_are_added_by_one_entry_each(faces, tmp_path, monkeypatch):
    """Plan, training, result and table III have them, with no other change."""
    stage = replace(
        STAGES["control"],
        name="longer",
        title="stage i, and then some",
        parents=("i-expression",),
        epochs={"paper": 40, "smoke": 3},
        seed=99,
        tested=True,
    )
    row = Row(
        "stage i, longer",
        "longer",
        "The baseline, trained on at another rate.",
        group="table3",
        losses={"margin": 0.5},  # no stage of this row reads it
    )
    monkeypatch.setitem(STAGES, stage.name, stage)
    monkeypatch.setitem(ROWS, row.name, row)

    request = Request.of_names(TINY, (BASELINE, row.name), (), (0,), 1, 0)
    store = Store(tmp_path / "store")
    jobs = plan(request, faces, store)
    assert [job.what for job in jobs.values()] == ["i-expression", "longer"]
    assert row.name in Request.of_names(TINY, ("table3",), (), (0,), 1, 0).rows

    assert run_here(jobs, faces, store) == []
    record = store.record(next(name for name, job in jobs.items() if job.what == "longer"))
    assert record["title"] == "stage i, and then some"
    assert len(record["curves"]) == 3
    assert record["curves"][0].keys() == {"classification"}

    collect(request, faces, store, tmp_path)
    result = load_result(tmp_path)
    assert result.rows == [BASELINE, row.name]
    (entry,) = result.tests(row.name)
    assert entry["predicted"] == record["test"]["predicted"]
    accuracy = 100 * np.mean(np.equal(entry["truth"], entry["predicted"]))
    (line,) = [
        line for line in tables([result])["table-3.md"] if line.startswith(f"| {row.name} |")
    ]
    assert f"| {accuracy:.2f}" in line
    assert "not in the paper" in line


def test_every_row_explains_itself_and_names_a_tested_stage():
    assert [row.name for row in ROWS.values()] == list(ROWS)
    for row in ROWS.values():
        assert row.stage in CLASSIFIERS or STAGES[row.stage].tested, row.name
        assert row.explains.endswith(".")
        assert row.explains[0].isupper()
        assert row.group in ("table3", "control", "bound", "reading", "beyond")
        assert set(row.paper) <= {"bu3dfe", "bosphorus"}


def test_the_papers_rows_are_those_of_table_three():
    assert {name: ROWS[name].paper["bu3dfe"] for name in names_in("table3")} == {
        "w/o L_tri": 85.92,
        "w/o L_cls": 87.59,
        "w/ L_KL": 85.98,
        "w/ L_JS": 85.04,
        "w/o fusion": 87.15,
        "w/o skip": 87.76,
        "stage i": 84.83,
        "stage i + ii": 86.67,
        "stage i + ii + iii": 89.15,
    }
    assert ROWS[BASELINE].paper["bosphorus"] == 83.23
    assert ROWS[METHOD].paper["bosphorus"] == 86.77
    assert names_in("control")[0] == CONTROL
    assert all(not row.paper for row in ROWS.values() if row.group != "table3")
