"""Checks of notebook 00."""

from __future__ import annotations

import numpy as np

from drfer.course.checks import Exercise
from drfer.datasets.anny3dfe import Anny3DFE
from drfer.datasets.scan import EXPRESSIONS, ScanKey

JAW_OPEN = 24
"""Which of anny's 52 face units opens the jaw."""


def _clouds() -> list[tuple]:
    rng = np.random.default_rng()
    return [(rng.normal(size=(count, 3)) * (40, 60, 30) + 5,) for count in (1, 7, 500)]


def _jaw(answer) -> str | None:
    if isinstance(answer, ScanKey):
        answer = (answer.subject, answer.expression, answer.intensity)
    if isinstance(answer, str) or np.shape(answer) != (3,):
        return f'a triple such as ("F0001", "sadness", 2) is wanted, not {answer!r}.'
    key = ScanKey(*answer)
    database = Anny3DFE(subjects=12)
    if key not in database.keys():
        return f"there is no scan {key} of these twelve people."
    if key.expression not in EXPRESSIONS or key.expression == "surprise":
        return "an expression other than surprise is wanted."
    if key.subject == "F0003":
        return "F0003 is in the text already: somebody else is wanted."
    dropped = database.truth(key).activation[JAW_OPEN]
    if dropped <= 0.1:
        return (
            f"in {key} the jaw has dropped by {100 * dropped:.0f} % of what it can: look further."
        )
    return None


EXERCISES = {
    1: Exercise(right=48, hint="people times intensities."),
    2: Exercise(
        right=lambda points: np.ptp(points, axis=0),
        on=_clouds,
        hint="for each column, its largest value less its least one.",
    ),
    3: Exercise(judge=_jaw),
}
"""By number."""
