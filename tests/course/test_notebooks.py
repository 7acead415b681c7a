"""What every notebook of the course keeps to.

That its outputs are true, `pytest --nbval notebooks` finds out.
"""

import ast
import copy
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from drfer.course import checks
from drfer.course.checks import Exercise, verdict
from tools import notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OPENING = (
    "After this notebook you will be able to",
    "Before",
    "Equations",
    "Time",
    "Figure it feeds",
)
ABSOLUTE = re.compile(r"(?<![\w.:/-])(/(home|root|tmp|work|Users|usr|opt|mnt|var|data)/|[A-Z]:\\)")
TIMED = re.compile(r"perf_counter|time\.time\(|%%?time|timeit")
PINNED = {"torch": "2.13.0"}  # conda-forge's is older (see test_environment); outputs are of pip's
TEACHES = {
    "02": {"SharedMLP", "SetAbstraction", "Encoder"},
    "03": {"Classifier", "Fusion", "train"},
    "04": {"FaceDecoder", "Branch"},
    "05": {"DrFER", "Disentangled"},
    "07": {"GaussianHead"},
}
"""What of the method's modules a notebook builds; everything else it takes from there."""
DEFINED = {
    node.name
    for folder in ("models", "preprocessing", "training", "course")
    for path in (ROOT / "drfer" / folder).glob("*.py")
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_solution(cell):
    return "solution" in cell.metadata.get("tags", [])


def is_compared(cell):
    """Whether nbval compares a text of the cell that states something: not a picture's stand-in."""
    if "nbval-ignore-output" in cell.metadata.get("tags", []) or "NBVAL_" in cell.source:
        return False
    return any(output.output_type == "stream" and output.text.strip() for output in cell.outputs)


def problems(notebook, number):
    """What is wrong with a notebook, in words; nothing, if it may be committed."""
    cells, found = code_cells(notebook), []

    def refuse(reason, condition):
        if condition:
            found.append(reason)

    refuse("larger than 1 MB", len(nbformat.writes(notebook)) > 1_000_000)
    refuse(
        "opens without " + " or ".join(OPENING),
        any(part not in notebook.cells[0].source for part in OPENING),
    )
    refuse(
        "execution counts",
        [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)),
    )
    refuse("fewer than 5 compared cells", sum(map(is_compared, cells)) < 5)
    refuse("another version", notebook.metadata.get("drfer") != notebooks.made_with() | PINNED)
    refuse("an absolute path", any(ABSOLUTE.search(text) for text in texts(notebook)))
    refuse(
        "a line too long to read",
        any(len(line) > 105 for cell in cells for line in cell.source.splitlines()),
    )
    refuse(
        "a timing is compared",
        any(TIMED.search(cell.source) and is_compared(cell) for cell in cells),
    )
    for output in (output for cell in cells for output in cell.outputs):
        refuse("an error", output.output_type == "error")
        refuse("stderr", output.get("name") == "stderr")
        refuse("a widget without its kernel", notebooks.WIDGET in output.get("data", {}))
    for cell in cells:
        names = {
            node.name
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        taken = names & DEFINED - TEACHES.get(number, set())
        refuse(f"defines what the package has: {taken}", taken)
        live = [
            output
            for output in cell.outputs
            if "JupyterLab" in output.get("data", {}).get("text/plain", "")
        ]
        refuse(
            "a live picture without a still",
            len(live) > sum("image/png" in o.get("data", {}) for o in cell.outputs),
        )
    headings = re.findall(
        rf"### Exercise {number}\.(\d+) ●+○* \((\d+) minutes\)", everything(notebook)
    )
    refuse("fewer than three exercises", len(headings) < 3)
    hints = everything(notebook).count("<details><summary>Hint")
    refuse("fewer than two hints an exercise", hints < 2 * len(headings))
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    for one, _ in headings:
        name = f"Exercise {number}.{one}"
        refuse(f"{name} is checked nowhere", f"{name}: not done yet." not in printed)
        refuse(f"{name} has no right solution", f"{name}: right." not in printed)
    solutions = [cell for cell in cells if is_solution(cell)]
    refuse(
        "a solution lies open",
        any(not cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions),
    )
    refuse("does not show where one is", f"here({int(number)})" not in everything(notebook))
    refuse("ends without what to take away", "## To take away" not in notebook.cells[-1].source)
    bare = re.findall(r"^.*: (?:True|False)$", printed, re.MULTILINE)
    refuse(f"a bare truth value: {bare[:1]}", bare)
    return found


def everything(notebook):
    return "\n".join(cell.source for cell in notebook.cells)


def texts(notebook):
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            yield from (
                text for kind, text in output.get("data", {}).items() if kind.startswith("text/")
            )


@pytest.fixture
def notebook():
    return copy.deepcopy(nbformat.read(str(NOTEBOOKS[1]), as_version=4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_to_the_rules(path):
    assert problems(nbformat.read(str(path), as_version=4), path.stem[:2]) == []


def spoil(action):
    def spoiled(notebook):
        cell = next(cell for cell in code_cells(notebook) if is_compared(cell))
        action(notebook, cell)
        return problems(notebook, NOTEBOOKS[1].stem[:2])

    return spoiled


SPOILS = {
    "execution counts": lambda notebook, cell: cell.update(execution_count=None),
    "stderr": lambda notebook, cell: cell.outputs[0].update(name="stderr"),
    "another version": lambda notebook, cell: notebook.metadata["drfer"].update(torch="1.0"),
    "an absolute path": lambda notebook, cell: cell.outputs[0].update(
        text="saved in /home/me/faces"
    ),
    "larger than 1 MB": lambda notebook, cell: cell.outputs[0].update(text="x" * 1_000_000),
    "defines what the package has": lambda notebook, cell: cell.update(
        source="def chamfer_distance(a, b):\n    pass"
    ),
    "a timing is compared": lambda notebook, cell: cell.update(
        source="from time import perf_counter"
    ),
    "fewer than 5 compared cells": lambda notebook, cell: [
        other.outputs.clear() for other in code_cells(notebook) if is_compared(other)
    ],
    "a line too long to read": lambda notebook, cell: cell.update(source="#" * 106),
    "opens without": lambda notebook, cell: notebook.cells[0].update(source="# Hello"),
    "an error": lambda notebook, cell: cell.outputs.append(
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
    ),
    "a widget without its kernel": lambda notebook, cell: cell.outputs.append(
        nbformat.v4.new_output("display_data", data={notebooks.WIDGET: {}})
    ),
    "a live picture without a still": lambda notebook, cell: [
        output.get("data", {}).pop("image/png", None)
        for other in code_cells(notebook)
        for output in other.outputs
    ],
    "Exercise 01.1 has no right solution": lambda notebook, cell: [
        other.outputs.clear() for other in code_cells(notebook) if is_solution(other)
    ],
    "a solution lies open": lambda notebook, cell: [
        other.metadata.pop("jupyter") for other in code_cells(notebook) if is_solution(other)
    ],
    "a bare truth value": lambda notebook, cell: cell.outputs[0].update(text="the same: True\n"),
    "does not show where one is": lambda notebook, cell: notebook.cells.pop(1),
    "ends without": lambda notebook, cell: notebook.cells.pop(),
}


@pytest.mark.parametrize("reason", SPOILS)
def test_each_rule_refuses_a_notebook_that_breaks_it(notebook, reason):
    assert problems(notebook, NOTEBOOKS[1].stem[:2]) == []
    assert any(problem.startswith(reason) for problem in spoil(SPOILS[reason])(notebook))


@pytest.fixture
def checkout(tmp_path):
    """A folder in which `make` finds all that it needs, and no notebooks yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def make(target, checkout, *more):
    """Run a target of the Makefile with this environment, as if the one of the checkout were ready."""
    ready = [f"--assume-old=.venv/{name}" for name in ("ready", "ready-lab", "ready-cluster")]
    command = ["make", target, f"BIN={Path(sys.executable).parent}", *ready, *more]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_student_copies_have_pictures_and_neither_solutions_nor_printed_answers(checkout):
    (checkout / "notebooks").symlink_to(ROOT / "notebooks")
    make("student", checkout)
    copies = sorted((checkout / "student").glob("*.ipynb"))
    assert [path.name for path in copies] == [path.name for path in NOTEBOOKS]
    for original, path in zip(NOTEBOOKS, copies):
        student, full = (nbformat.read(str(file), as_version=4) for file in (path, original))
        nbformat.validate(student)
        assert not any(is_solution(cell) for cell in student.cells)
        assert not any(cell.execution_count for cell in code_cells(student))
        kept = [cell for cell in full.cells if not is_solution(cell)]
        assert [cell.source for cell in student.cells] == [cell.source for cell in kept]
        assert len(kept) < len(full.cells)
        assert pictures(student.cells) == pictures(not_to_be_predicted(kept)) != []
        assert not any(
            output.get("text") for cell in code_cells(student) for output in cell.outputs
        )


def not_to_be_predicted(cells):
    """The cells that do not follow a text that asks what will come."""
    asked, others = False, []
    for cell in cells:
        if cell.cell_type == "markdown":
            asked = any(f"**Predict{end}**" in cell.source for end in ("", ".", ":"))
        elif not asked:
            others.append(cell)
    return others


def test_a_builders_copy_leaves_the_classes_to_the_student(checkout):
    (checkout / "notebooks").symlink_to(ROOT / "notebooks")
    make("student", checkout, "BUILD=yes")
    emptied = 0
    for path in sorted((checkout / "student").glob("*.ipynb")):
        notebook = nbformat.read(str(path), as_version=4)
        assert not any(is_solution(cell) for cell in notebook.cells)
        for tree in (ast.parse(cell.source) for cell in code_cells(notebook)):
            for of_class in (node for node in tree.body if isinstance(node, ast.ClassDef)):
                for method in of_class.body:
                    if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                        [line] = method.body
                        of_exercise = ast.unparse(line) == "return None"
                        assert of_exercise or ast.unparse(line) == "raise NotImplementedError"
                        emptied += not of_exercise
    assert emptied > 10


def pictures(cells):
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]


def test_a_notebook_is_run_in_place_and_what_no_reader_sees_is_left_out(checkout):
    path = checkout / "notebooks" / "small.ipynb"
    path.parent.mkdir()
    source = (
        "from drfer.figures.notebook import Layer, show\nimport numpy as np\n"
        "show({'a': [Layer(np.eye(3))]})\nprint(1 + 1, flush=True)\nprint(3, flush=True)"
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), str(path))
    make("notebooks", checkout)
    saved = nbformat.read(str(path), as_version=4)
    assert saved.metadata["drfer"] == notebooks.made_with() and "widgets" not in saved.metadata
    assert "execution" not in saved.cells[0].metadata
    live, picture, printed = saved.cells[0].outputs
    assert printed.text == "2\n3\n" and "image/png" in picture.data
    assert list(live.data) == ["text/plain"]


@pytest.mark.parametrize(
    "answer, right, on, said",
    [
        (None, 1, (), "not done yet."),
        (lambda x: None, abs, (1,), "not done yet."),
        (2.00001, 2, (), "right."),
        (3, 2, (), "3 is too large. Hint: less"),
        (float("nan"), 2, (), "nan is no number. Hint: less"),
        ("fear", "anger", (), "fear is off. Hint: less"),
        ("fear", "fear", (), "right."),
        ("fear", 2, (), "a number is wanted, not fear. Hint: less"),
        (3, abs, (1,), "a function is wanted. Hint: less"),
        ([1, 2], [1, 2, 3], (), "the shape is off: (2,) instead of (3,). Hint: less"),
        (
            torch.tensor([1, 5]),
            np.array([1, 2]),
            (),
            "1 of 2 values are off, the first at (1,). Hint: less",
        ),
        (
            lambda x: 1 / 0,
            abs,
            (1,),
            "your answer stops with ZeroDivisionError: division by zero. Hint: less",
        ),
        (torch.ones(2, requires_grad=True), [1, 1], (), "right."),
        (np.sqrt, lambda x: x**0.5, (4.0,), "right."),
    ],
)
def test_a_check_says_right_or_what_is_off(answer, right, on, said):
    assert verdict(answer, Exercise(right=right, on=lambda: [on], hint="less")) == said


def test_a_judge_accepts_every_right_answer_and_says_what_is_off():
    def even(answer):
        return None if answer % 2 == 0 else f"{answer} is odd."

    exercise = Exercise(judge=even)
    said = [verdict(answer, exercise) for answer in (None, 2, 4, 3)]
    assert said == ["not done yet.", "right.", "right.", "3 is odd."]


def test_every_exercise_has_a_check_and_every_check_an_exercise(capsys):
    for path in NOTEBOOKS:
        number, notebook = path.stem[:2], nbformat.read(str(path), as_version=4)
        asked = re.findall(rf"### Exercise {number}\.(\d+)", everything(notebook))
        module = importlib.import_module(f"drfer.course.checks.nb{number}")
        assert sorted(map(int, asked)) == sorted(module.EXERCISES), path.name
        for one in module.EXERCISES:
            checks.check(f"{number}.{one}", None)
            assert capsys.readouterr().out == f"Exercise {number}.{one}: not done yet.\n"


def test_the_examination_before_any_change_says_what_is_to_be_run_first(capsys):
    notebook = nbformat.read(str(NOTEBOOKS[11]), as_version=4)
    [cell] = [c for c in code_cells(notebook) if c.source.startswith("EXAMINATION = None")]
    exec(cell.source.replace("EXAMINATION = None", "EXAMINATION = 2345"), {"MY_START": None})
    said = capsys.readouterr().out
    assert "MY_START" in said and "section 8" in said and said.count("\n") == 1


def test_the_examination_leaves_the_development_people_to_the_leaderboard():
    notebook = nbformat.read(str(NOTEBOOKS[11]), as_version=4)
    [one] = [c for c in code_cells(notebook) if c.source.startswith("EXAMINATION = None")]
    kept = {"people", "development", "expression", "subject", "frame", "my_branch", "my_change"}
    assert not kept & stored(one)
    before = code_cells(notebook)[: code_cells(notebook).index(one)]
    assert kept <= set().union(*map(stored, before))  # the names are still those of the notebook


def stored(cell):
    """Names to which a cell gives a value."""
    names = (node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def test_notebooks_are_valid_and_their_links_lead_somewhere():
    for path in NOTEBOOKS:
        nbformat.validate(json.loads(path.read_text()))
        for cell in nbformat.read(str(path), as_version=4).cells:
            for link in re.findall(
                r"\]\((?!http|#|attachment)([^)#]+)", cell.source * (cell.cell_type == "markdown")
            ):
                assert (path.parent / link).exists(), f"{path.name} links {link}"
