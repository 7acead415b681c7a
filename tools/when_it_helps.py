"""Draw what the method gains with few and many training people: `python -m tools.when_it_helps`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from drfer.evaluation.protocol import Draws
from drfer.evaluation.result import Result, load_results
from drfer.evaluation.rows import BASELINE, CONTROL, METHOD, ROWS
from drfer.evaluation.statistics import paired_difference
from drfer.figures.style import BLUE, GREEN, NORMAL, ORANGE, SMALL, look, save, sheet

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "when-it-helps" / "people.png"
NAMES = {METHOD: ("DrFER, all stages", GREEN, "o"), CONTROL: (f"{CONTROL} as these", ORANGE, "s")}
"""Of the rows that are drawn: what they are called, and how they are."""


def by_people() -> dict[int, Result]:
    """Return the stored results of draws by how many people each trains on, fewest first."""
    found = {
        result.protocol.train_subjects: result
        for folder in (PATH.parent, ROOT / "figures")
        for result in load_results(folder)
        if isinstance(result.protocol, Draws)
    }
    return dict(sorted(found.items()))


@look()
def picture(results: dict[int, Result]) -> Figure:
    """Return a figure of what rows gain on the baseline, over the number of training people."""
    figure, ((axis,),) = sheet(1, 1, (7, 4.2))
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
            beside = {"xytext": (8, 5), "textcoords": "offset points", "size": NORMAL}
            axis.annotate(f"{mean:+.1f}", (place, mean), color=colour, **beside)
    gain = ROWS[METHOD].paper["bu3dfe"] - ROWS[BASELINE].paper["bu3dfe"]
    axis.axhline(
        gain, color="black", linestyle=":", label=f"DrFER in the paper, BU-3DFE: {gain:+.2f}"
    )
    axis.axhline(0, color=BLUE, linewidth=1)
    ticks = [f"{people}\n({len(result.tests(METHOD))} draws)" for people, result in results.items()]
    axis.set_xticks(range(len(ticks)), ticks)
    axis.set(
        xlabel="training people", ylabel=f"points above {BASELINE}", xlim=(-0.5, len(ticks) - 0.5)
    )
    axis.set_title("Anny-3DFE (synthetic), classroom; bars: 95 % interval over draws", size=NORMAL)
    axis.grid(axis="y", linewidth=0.3)
    axis.legend(fontsize=SMALL)
    return figure


if __name__ == "__main__":
    print(save(picture(by_people()), PATH))
