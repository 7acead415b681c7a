"""For those who write the notebooks or teach with them.

python -m drfer.notebooks run notebooks/01_*.ipynb     # executes in place, and keeps what a reader can see
python -m drfer.notebooks student notebooks student    # copies without solutions and outputs (`make student`)
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import nbformat

from drfer.common.files import written_whole
from drfer.datasets.anny3dfe import database as anny3dfe
from drfer.preprocessing import faceset as preprocessing

WIDGET = "application/vnd.jupyter.widget-view+json"


def made_with() -> dict[str, str]:
    """The versions that outputs depend on; a notebook keeps those that it was run with."""
    faces = {"anny3dfe": anny3dfe.VERSION, "preprocessing": str(preprocessing.VERSION)}
    packages = ("drfer", "torch", "numpy", "scikit-learn")
    return faces | {
        package: version(package).split("+")[0] for package in packages
    }  # torch 2.13.0+cpu is torch 2.13.0


def is_solution(cell) -> bool:
    """Whether a cell bears the tag "solution"."""
    return "solution" in cell.metadata.get("tags", [])


def student_copy(notebook):
    """The notebook without its solutions and without outputs."""
    copy = nbformat.from_dict(notebook)
    copy.cells = [cell for cell in copy.cells if not is_solution(cell)]
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    return copy


def run(path: Path) -> None:
    """Execute a notebook in place. Of live pictures the stills stay: a widget's view shows nothing without its kernel."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, store_widget_state=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    notebook.metadata["drfer"] = made_with()
    _write(notebook, path)


def _write(notebook, path: Path) -> None:
    with written_whole(path) as target:
        nbformat.write(notebook, target)


def main(command: str, *arguments: str) -> None:
    if command == "run":
        for path in arguments:
            run(Path(path))
    elif command == "student":
        source, target = map(Path, arguments)
        for path in sorted(source.glob("*.ipynb")):
            _write(student_copy(nbformat.read(path, as_version=4)), target / path.name)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
