"""Write the file of drawn subjects and folds: `python -m tools.make_folds`."""

import json
from pathlib import Path

from drfer.evaluation.protocol import LISTS, draw, order


def write_lists(path: Path = LISTS) -> None:
    """Write the lists as numpy's generator gives them today."""
    drawn = {f"60 of {available}": draw(60, available, 0) for available in (100, 65)}
    orders = {"60": [order(60, 0, repeat) for repeat in range(100)]}
    path.write_text(json.dumps({"drawn": drawn, "orders": orders}).replace("], ", "],\n") + "\n")


if __name__ == "__main__":
    write_lists()
