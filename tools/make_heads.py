"""Make the heads that ship with the kit: the average one, its face units, and people.

`python -m tools.make_heads` takes a minute, and needs the extra `populations`.
"""

from __future__ import annotations

import numpy as np

from drfer.course.small import SMALL, STRANGE
from drfer.datasets.anny3dfe.database import MOST_SUBJECTS, make_heads, subject_names
from drfer.datasets.anny3dfe.head import FILE

PEOPLE = {0: MOST_SUBJECTS, STRANGE: SMALL.dataset_subjects}
"""How many people of a population ship with the kit, by its seed."""


def main() -> None:
    """Write the file."""
    people = {}
    for seed, count in PEOPLE.items():
        head, neutrals = make_heads(subject_names(count), seed)
        people[f"subjects {seed}"] = list(neutrals)
        people[f"neutral {seed}"] = np.stack(list(neutrals.values()))
    np.savez_compressed(
        FILE,
        average=head.average,
        triangles=head.triangles.astype(np.uint16),
        units=head.units,
        unit_shapes=head.unit_shapes,
        seen_from_front=head.seen_from_front,
        subdivisions=head.subdivisions,
        **people,
    )
    print(f"{FILE}: {FILE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
