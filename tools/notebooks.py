"""What notebooks of the course keep when they are saved, and what students' copies do.

`jupyter nbconvert` does the work for `make notebooks` and `make student`; only what is particular to
this course is here.
"""

from __future__ import annotations

from importlib.metadata import version

from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode

import drfer
from drfer.datasets.anny3dfe import database as anny3dfe
from drfer.preprocessing import faceset as preprocessing

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
    """Makes a student's copy: without solutions and printed answers, with all pictures."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Leave the cells that are tagged as solutions out, and of outputs all but pictures.

        Args:
            nb: the notebook, changed in place.
            resources: what nbconvert knows of the file, handed on as it is.

        Returns:
            Both, as nbconvert wants it.
        """
        nb.cells = [cell for cell in nb.cells if "solution" not in cell.metadata.get("tags", [])]
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.execution_count = None
                cell.outputs = [
                    each for each in cell.outputs if "image/png" in each.get("data", {})
                ]
                for output in cell.outputs:
                    output.pop("execution_count", None)
        return nb, resources
