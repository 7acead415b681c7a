"""Draw what the method gains when one factor is another: `python -m tools.when_it_helps`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drfer.evaluation.protocol import Draws
from drfer.evaluation.result import Result, load_results
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS
from drfer.evaluation.statistics import paired_difference
from drfer.figures.style import BLUE, GREEN, NORMAL, ORANGE, SMALL, look, save, sheet

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "when-it-helps" / "gains.png"
PEOPLE = 18
"""Training people around whom the other factors change."""
FACTORS = {
    "as the benchmark": {},
    "10 % wrong labels": {"wrong_labels": 0.1},
    "identity x 1.5": {"identity": 1.5},
    "identity x 0.5": {"identity": 0.5},
    "intensities 1, 2": {"intensities": (1, 2)},
}
"""One change of draws each, in the order in which they were written down before they ran."""
NAMES = {METHOD: ("DrFER, all stages", GREEN, "o"), CONTROL: (f"{CONTROL} as these", ORANGE, "s")}
"""Of the rows that are drawn: what they are called, and how they are."""


def by_people() -> dict[int, Result]:
    """Return the stored results of draws by how many people each trains on, fewest first."""
    found = {
        protocol.train_subjects: result
        for protocol, result in _stored().items()
        if protocol == Draws(train_subjects=protocol.train_subjects)
    }
    return dict(sorted(found.items()))


def by_factor() -> dict[str, Result]:
    """Return the stored results of draws of `PEOPLE` people by what is other than usual."""
    kinds = {name: Draws(train_subjects=PEOPLE, **change) for name, change in FACTORS.items()}
    return {name: _stored()[kind] for name, kind in kinds.items() if kind in _stored()}


@cache
def _stored() -> dict[Draws, Result]:
    return {
        result.protocol: result
        for folder in (PATH.parent, ROOT / "figures")
        for result in load_results(folder)
        if isinstance(result.protocol, Draws)
    }


@look()
def picture() -> Figure:
    """Return a figure of what rows gain on the baseline, by training people and by other factors."""
    figure, (panels,) = sheet(1, 2, (12, 4.4))
    panels[1].sharey(panels[0])
    _draw_gains(panels[0], by_people())
    panels[0].set(xlabel="training people", ylabel=f"points above {BASELINE}")
    panels[0].legend(fontsize=SMALL)
    _draw_gains(panels[1], by_factor())
    panels[1].set(xlabel=f"what is other than usual, {PEOPLE} training people")
    figure.suptitle("Anny-3DFE (synthetic), classroom; bars: 95 % interval over draws", size=NORMAL)
    return figure


def _draw_gains(axis: Axes, results: dict) -> None:
    for number, (row, (name, colour, marker)) in enumerate(NAMES.items()):
        for x, result in enumerate(results.values()):
            mean, low, high, _ = paired_difference(
                result.tests(row), result.tests(BASELINE), result.protocol
            )
            place = x + 0.1 * (2 * number - 1)
            axis.errorbar(
                place,
                mean,
                [[mean - low], [high - mean]],
                fmt=marker,
                color=colour,
                markersize=8,
                capsize=5,
                label=None if x else name,
            )
            outwards = {"xytext": (-8, 5), "ha": "right"} if number == 0 else {"xytext": (8, 5)}
            beside = {"textcoords": "offset points", "size": NORMAL, **outwards}
            axis.annotate(f"{mean:+.1f}", (place, mean), color=colour, **beside)
    gain = ROWS[METHOD].paper["bu3dfe"] - ROWS[BASELINE].paper["bu3dfe"]
    axis.axhline(
        gain, color="black", linestyle=":", label=f"DrFER in the paper, BU-3DFE: {gain:+.2f}"
    )
    axis.axhline(0, color=BLUE, linewidth=1)
    ticks = [f"{people}\n({len(result.tests(METHOD))} draws)" for people, result in results.items()]
    axis.set_xticks(range(len(ticks)), ticks)
    axis.set_xlim(-0.5, len(ticks) - 0.5)
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.grid(axis="y", linewidth=0.3)


if __name__ == "__main__":
    print(save(picture(), PATH))
