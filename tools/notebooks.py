"""What a notebook of the course keeps when it is saved: `make notebooks` runs all of them with this clean-up.

`jupyter nbconvert` runs the notebooks and makes the students' copies; only what is particular to this course is here.
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
    """Returns the versions that outputs depend on; each notebook's metadata keeps those that it was run with."""
    faces = {"anny3dfe": anny3dfe.VERSION, "preprocessing": str(preprocessing.VERSION)}
    # "2.13.0+cpu" is another build of the same torch
    packages = {name: version(name).split("+")[0] for name in ("torch", "numpy", "scikit-learn")}
    return faces | {"drfer": drfer.__version__} | packages


class ForReaders(Preprocessor):
    """Keeps what a reader can see: the still of a live picture, not the widget that needs a running kernel."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Takes widget views and times of execution out of a notebook that was just run, and notes the versions.

        Args:
            nb: the notebook, changed in place.
            resources: what nbconvert knows of the file, handed on as it is.

        Returns:
            Both, as nbconvert wants it.
        """
        for cell in nb.cells:
            cell.metadata.pop("execution", None)
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(WIDGET, None)
        nb.metadata["drfer"] = made_with()
        return nb, resources
