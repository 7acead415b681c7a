"""The rows of `drfer bench`, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass

STEP = "training step of encoder and classifier, batch 24, sizes of {}"
CHAMFER = "chamfer distance and its gradient, 24 x 2048 points"
STAGE_STEPS = "whole training steps"
OTHERS = "and"
PRODUCTS = "the matrix products of its layers alone"
FIRST, LAST = "i-expression", "iii"
"""The stages whose steps are compared."""


@dataclass(frozen=True)
class Measured:
    """A time, or another number."""

    value: float
    spread: float | None = None
    """Interquartile range of the repetitions, as a share of the value."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    group: str
    """What is measured; ratios are between rows of one group."""
    who: str
    """By whom or what: "drfer, bfloat16", for instance."""
    unit: str
    measured: Measured | None
    """None where it cannot run here."""


def table(rows: list[Row]) -> str:
    """Return the rows of `measure` as a text table."""
    lines, heading = [], None
    for row in rows:
        if row.group != heading:
            heading = row.group
            lines.append(f"{heading:<66}{'':>9} spread   drfer is faster")
        if row.measured is None:
            lines.append(f"  {row.who}")
            continue
        value, spread = row.measured.value, row.measured.spread
        spread = "" if spread is None else f"{spread:.0%}"
        number = f"{value:.0f} {row.unit}"
        lines.append(f"  {row.who:<64}{number:>9} {spread:>6}   {_ratios(row, rows)}".rstrip())
    return "\n".join([*lines, *_conclusions(rows)])


def _ratios(row: Row, rows: list[Row]) -> str:
    """Say how many times faster the kit's rows of the group are than one of others."""
    if row.who.startswith(("drfer", PRODUCTS)) or row.group in (STAGE_STEPS, OTHERS):
        return ""
    own = [
        other
        for other in rows
        if other.group == row.group and other.who.startswith("drfer") and other.measured
    ]
    ratios = [
        f"{row.measured.value / other.measured.value:.1f}x ({other.who.partition(', ')[2]})"
        for other in own
    ]
    return ", ".join(ratios)


def _conclusions(rows: list[Row]) -> list[str]:
    """Compare rows: steps with their products, and stage iii with stage i."""
    values = {(row.group, row.who): row.measured.value for row in rows if row.measured}
    lines = []
    for (group, who), value in values.items():
        products = values.get((group, who.replace("drfer", PRODUCTS)))
        if who.startswith("drfer") and products:
            lines.append(f"{group}: {value / products:.2f} times the products ({who[7:]})")
    for (group, who), value in values.items():
        preset, _, stage = who.partition(", ")
        first = values.get((group, f"{preset}, {FIRST}"))
        if group == STAGE_STEPS and stage == LAST and first:
            lines.append(
                f"{preset}: a step of stage iii takes {value / first:.1f} times one of stage i"
            )
    return lines
