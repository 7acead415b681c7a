"""Keeps the classes of a student's notebooks, from one notebook to the next.

`keep("Encoder")` at the end of a notebook puts the cell that defines `Encoder` into a file;
`mine("Encoder")` in a later one gives the class back, or the kit's own if there is none.
"""

from __future__ import annotations

import ast
import linecache
from pathlib import Path
from types import FunctionType

from drfer.common.files import cache_folder, written_whole
from drfer.models import branch, fusion, pointnet2, points

PREAMBLE = "import torch\nfrom torch import nn\n\n"
"""What a kept class can rely on, besides the names of the kit's model."""

DEFINITIONS = ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef
"""What of a kept cell is run again; what it tried out is not."""


def keep(*names: str) -> None:
    """Put the cells that last defined some classes or functions into the student's file.

    Args:
        names: of what this notebook has defined.
    """
    from IPython import get_ipython

    shell = get_ipython()
    for name in names:
        cells = [_cell_of(shell.user_ns.get(name)), *shell.user_ns["In"]]
        source = next((cell for cell in reversed(cells) if _defines(cell, name)), None)
        if source is None:
            print(f"no cell of this notebook defines {name}: run it first.")
            continue
        with written_whole(_file(name)) as target:
            target.write_text(source, encoding="utf-8")
        print(f"{name} is kept for the next notebooks.")


def mine(name: str, kit, **uses):
    """Return what `keep` kept under a name, or what the kit has instead.

    Args:
        name: of the class or function.
        kit: the kit's own.
        uses: what the kept cell means by other names, such as other classes of the student's. Names
            of the kit's model that are not among these are the kit's.
    """
    path = _file(name)
    if not path.exists():
        print(f"{name}: the kit's, for you have kept none")
        return kit
    names: dict = {"__name__": f"mine_{name}"}
    for module in (points, pointnet2, branch, fusion):
        names |= {key: value for key, value in vars(module).items() if not key.startswith("_")}
    names |= uses
    tree = ast.parse(PREAMBLE + path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, DEFINITIONS)]
    exec(compile(tree, str(path), "exec"), names)
    names |= uses  # also for what the cell imports itself
    print(f"{name}: yours")
    return names[name]


def _cell_of(defined) -> str:
    """Return the cell that defines a class or function, where no history is kept, as under nbval."""
    for value in (defined, *getattr(defined, "__dict__", {}).values()):
        if isinstance(value, FunctionType):
            return "".join(linecache.getlines(value.__code__.co_filename))
    return ""


def _defines(cell: str, name: str) -> bool:
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # a magic command
        return False
    return any(getattr(node, "name", None) == name for node in body)


def _file(name: str) -> Path:
    return cache_folder() / "course" / "mine" / f"{name}.py"
