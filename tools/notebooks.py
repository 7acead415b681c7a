"""What notebooks of the course keep when they are saved, and what students' copies do.

`jupyter nbconvert` does the work for `make notebooks` and `make student`; only what is particular to
this course is here.
"""

from __future__ import annotations

import ast
import re
from importlib.metadata import version

from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode

import drfer
from drfer.datasets.anny3dfe import database as anny3dfe
from drfer.preprocessing import faceset as preprocessing

PREDICT = re.compile(r"\*\*Predict[.:]?\*\*")
WIDGET = "application/vnd.jupyter.widget-view+json"


def made_with() -> dict[str, str]:
    """Return the versions that outputs depend on; a notebook keeps those that it was run with."""
    faces = {"anny3dfe": anny3dfe.VERSION, "preprocessing": str(preprocessing.VERSION)}
    # "2.13.0+cpu" is another build of the same torch
    packages = {name: version(name).split("+")[0] for name in ("torch", "numpy", "scikit-learn")}
    return faces | {"drfer": drfer.__version__} | packages


class ForReaders(Preprocessor):
    """Keeps what a reader can see: the still of a live picture, not the widget that needs a kernel."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Take widget views and times of execution out of a notebook that was run; note the versions.

        Args:
            nb: the notebook, changed in place.
            resources: what nbconvert knows of the file, handed on as it is.

        Returns:
            Both, as nbconvert wants it.
        """
        for cell in nb.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs = _joined(cell.outputs)
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(WIDGET, None)
        nb.metadata["drfer"] = made_with()
        return nb, resources


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs in which what a cell printed in pieces is one piece, as nbval compares it."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


class ForStudents(Preprocessor):
    """Makes a student's copy: without solutions, printed answers, and what is to be predicted."""

    to_build = False
    """Whether classes are emptied but for their layers, whose names the weights know."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Leave the cells that are tagged as solutions out, and of outputs all but pictures.

        Pictures of cells between "Predict" and the next text go too: they show what comes.

        Args:
            nb: the notebook, changed in place.
            resources: what nbconvert knows of the file, handed on as it is.

        Returns:
            Both, as nbconvert wants it.
        """
        nb.cells = [cell for cell in nb.cells if "solution" not in cell.metadata.get("tags", [])]
        to_predict = False
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.execution_count = None
                pictures = [each for each in cell.outputs if "image/png" in each.get("data", {})]
                cell.outputs = [] if to_predict else pictures
                for output in cell.outputs:
                    output.pop("execution_count", None)
                if self.to_build:
                    cell.source = _with_empty_classes(cell.source)
            else:
                to_predict = bool(PREDICT.search(cell.source))
        return nb, resources


class ForBuilders(ForStudents):
    """Makes the copy of a student who writes what the layers do: only `__init__` has a body."""

    to_build = True


def _with_empty_classes(source: str) -> str:
    lines = source.split("\n")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    methods = [node for one in classes for node in one.body if isinstance(node, ast.FunctionDef)]
    for method in reversed(methods):
        first, last = method.body[0], method.end_lineno
        is_exercise = "# your code" in "\n".join(lines[method.lineno - 1 : last])
        if method.name != "__init__" and not is_exercise:
            indent, ours = " " * first.col_offset, lines[first.lineno - 1 : last]
            yours = (
                f"{indent}raise NotImplementedError  # your code, in place of {len(ours)} of ours"
            )
            lines[first.lineno - 1 : last] = [yours]
    return "\n".join(lines)
