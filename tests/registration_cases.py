"""How often registration finds the true pose of damaged, turned faces.

Run it as `python -m tests.registration_cases 500`.
"""

import sys

import numpy as np

from drfer.common.parallel import map_on_all_cores
from drfer.datasets.anny3dfe import Anny3DFE
from tests.damage import ANGLES, DAMAGES, case, registered_case


def _measure(number, database):
    """Whether the pose is good (2 degrees, 3 mm) and whether it is doubtful."""
    registration, angle, shift = registered_case(database, number)
    return angle < 2 and shift < 3, registration.is_doubtful()


def main(count):
    measured = map_on_all_cores(_measure, range(count), "registering", Anny3DFE())
    good, doubtful = np.array(measured).T
    angles, damages, _ = zip(*(case(number) for number in range(count)))
    angles, damages = np.array(angles), np.array(damages)
    print("within 2 degrees and 3 mm, of all that were drawn\n")
    print(
        "| damage |"
        + "".join(f" {angle} degrees |" for angle in ANGLES)
        + "\n|---|"
        + "---|" * len(ANGLES)
    )
    for damage in DAMAGES:
        cells = [good[(damages == damage) & (angles == angle)] for angle in ANGLES]
        print(f"| {damage} |" + "".join(f" {cell.sum()} of {len(cell)} |" for cell in cells))
    print(
        f"\n{good.sum()} of {count} good ({100 * good.mean():.1f} %); "
        f"of the others {(~good & doubtful).sum()} doubtful, "
        f"{(~good & ~doubtful).sum()} passed unseen; "
        f"of the good ones {(good & doubtful).sum()} doubtful"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
