"""Who the open faces are: a phenotype and local changes of shape, drawn for each subject."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ANCESTRIES = ("african", "asian", "caucasian")


@dataclass(frozen=True)
class Identity:
    """How people differ. Phenotypes are on anny's scales; a range is drawn from evenly."""

    female_share: float = 0.56
    """Of the subjects."""
    women: tuple[float, float] = (0.8, 1.0)
    """Range of women's gender, on a scale from 0 (male) to 1 (female)."""
    men: tuple[float, float] = (0.0, 0.2)
    """The same of men."""
    age: tuple[float, float] = (0.62, 0.92)
    """18 to 70 years, on a scale from 0 (a newborn) to 1 (90 years)."""
    muscle: tuple[float, float] = (0.37, 0.73)
    weight: tuple[float, float] = (0.37, 0.73)
    ancestry: float = 1.4
    """Concentration of the Dirichlet law of the three ancestries' shares."""
    spread: float = 0.18
    """Standard deviation of each local change of shape, which reaches from -1 to 1."""
    asymmetry: float = 0.05
    """Standard deviation between the left and the right half of a local change."""
    largest_change: float = 1.0
    """Local changes beyond it are cut off."""


def draw_identity(
    rng: np.random.Generator,
    female: bool,
    local_changes: list[str],
    identity: Identity = Identity(),
) -> tuple[dict[str, float], dict[str, float]]:
    """Draw a person.

    Args:
        rng: where the draws come from.
        female: whether the person is a woman.
        local_changes: names of the face's local changes of shape; "l-" and "r-" begin the names of
            left and right halves, which change alike but for a slight asymmetry.
        identity: how people differ.

    Returns:
        The phenotype by name, and the amount of each local change by name.
    """
    shares = rng.dirichlet([identity.ancestry] * len(ANCESTRIES))
    phenotype = {
        "gender": rng.uniform(*(identity.women if female else identity.men)),
        "age": rng.uniform(*identity.age),
        "muscle": rng.uniform(*identity.muscle),
        "weight": rng.uniform(*identity.weight),
        **dict(zip(ANCESTRIES, shares)),
    }
    shared: dict[str, float] = {}
    changes = {}
    most = identity.largest_change
    for name in local_changes:
        part = name.removeprefix("l-").removeprefix("r-")
        # drawn anew for the second half too, and then not used: the draws' order is frozen
        shared.setdefault(part, rng.normal(0, identity.spread))
        change = shared[part] + rng.normal(0, identity.asymmetry)
        changes[name] = float(np.clip(change, -most, most))
    return phenotype, changes
