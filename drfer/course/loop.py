"""The training loop of the course, in fifteen lines, and a picture of a training while it runs.

Built in notebook 03, and used unchanged in 04, 05, 07 and 11. The package's own loop is
`drfer.training.trainer`: the same, and it can be interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import cycle

import numpy as np
import torch
from matplotlib.text import Text
from torch import Tensor, nn

from drfer.figures.notebook import still
from drfer.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, sheet
from drfer.training.data import Batch

LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of loss terms."""


def train(
    parts: Iterable[nn.Module],
    batches: Callable[[int], Iterable[Batch]],
    loss: Callable[[Batch], dict[str, Tensor]],
    epochs: int,
    rate: float,
    watch: Callable[[dict[str, float]], None] = lambda means: None,
) -> list[dict[str, float]]:
    """Train parts of a model by Adam.

    Args:
        parts: the modules whose weights change.
        batches: gives the batches of an epoch, by its number.
        loss: gives named terms for a batch; their sum is minimised.
        epochs: how many.
        rate: Adam's learning rate in the first epoch; it falls along a cosine to a tenth.
        watch: called after each epoch with its mean terms.

    Returns:
        The mean of each term in each epoch.
    """
    parts = nn.ModuleList(parts)
    optimizer = torch.optim.Adam(parts.parameters(), rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, rate / 10)
    curve = []
    for epoch in range(epochs):
        parts.train()  # who watched may have switched to evaluation
        steps = []
        for batch in batches(epoch):
            terms = loss(batch)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            steps.append({name: term.item() for name, term in terms.items()})
        decay.step()
        curve.append({name: sum(step[name] for step in steps) / len(steps) for name in steps[0]})
        watch(curve[-1])
    parts.eval()
    return curve


class Watch:
    """Draws a training while it runs: its loss, what it is held against, and how long it will take.

    Hand it to `train` as `watch`. It draws a few times, for a picture takes longer than an epoch.
    """

    def __init__(
        self,
        epochs: int,
        held_against: dict[str, float] = {},
        accuracy: Callable[[], dict[str, float]] | None = None,
        every: int | None = None,
        label: str = "loss",
        classes: int = 6,
    ) -> None:
        """Set up the picture.

        Args:
            epochs: of the whole training.
            held_against: losses that are drawn as dotted lines, by what they are: "a guess".
            accuracy: gives percentages by name, such as of training and of unseen people; they have
                a second panel. It is called before each drawing.
            every: after how many epochs it draws; ten times in all if not given.
            label: what the loss is called.
            classes: among how many the accuracy chooses; a guess is drawn as a dotted line.
        """
        self.epochs = epochs
        self.held_against = held_against
        self.accuracy = accuracy
        self.every = every or max(epochs // 10, 1)
        self.label = label
        self.guess = 100 / classes
        self.curve: list[dict[str, float]] = []
        self.looks: dict[int, dict[str, float]] = {}
        self.started = time.perf_counter()

    def __call__(self, means: dict[str, float]) -> None:
        """Take an epoch's mean terms, and draw if it is time."""
        from IPython.display import clear_output

        self.curve.append(means)
        done = len(self.curve)
        if done % self.every and done < self.epochs:
            return
        if self.accuracy:
            self.looks[done] = self.accuracy()
        clear_output(wait=True)
        still(self.figure())
        seconds = time.perf_counter() - self.started
        if done < self.epochs:
            left = seconds / done * (self.epochs - done)
            print(f"epoch {done} of {self.epochs}, about {left:.0f} s left")

    def figure(self):
        """Return the picture of the training so far."""
        figure, axes = sheet(1, 1 + bool(self.accuracy), (7.6 if self.accuracy else 4.2, 2.6))
        left = axes[0, 0]
        for name, colour in zip(self.curve[0], cycle(LINES)):
            values = [means[name] for means in self.curve]
            left.plot(range(1, len(values) + 1), values, color=colour, label=name)
        names_of_lines = {}
        for name, value in self.held_against.items():
            left.axhline(value, color=GREY, linestyle=":")
            names_of_lines[name] = left.text(0, value, name, fontsize=8)
        left.set(xlabel="epoch", ylabel=self.label, xlim=(0, self.epochs))
        left.set_ylim(0, 1.1 * left.get_ylim()[1])  # room for what a dotted line is
        curves = [[means[name] for means in self.curve] for name in self.curve[0]]
        if names_of_lines:
            figure.draw_without_rendering()  # only then it is known how large a text is
        for text in names_of_lines.values():
            _move_off_curves(text, curves, self.epochs)
        above = {
            "fontsize": 7,
            "loc": "lower center",
            "bbox_to_anchor": (0.5, 1.0),
        }  # hides no curve
        if len(self.curve[0]) > 1:
            left.legend(ncols=min(len(self.curve[0]), 3), **above)
        if self.accuracy:
            right = axes[0, 1]
            names = next(iter(self.looks.values()))
            for name, colour, marker in zip(names, (BLUE, VERMILION), "os"):
                shown = [look[name] for look in self.looks.values()]
                right.plot(list(self.looks), shown, f"{marker}-", color=colour, label=name)
            right.axhline(self.guess, color=GREY, linestyle=":")
            right.text(self.epochs, self.guess, "a guess", ha="right", va="bottom", fontsize=8)
            right.set(xlabel="epoch", ylabel="right, %", xlim=(0, self.epochs), ylim=(0, 105))
            right.legend(ncols=2, **above)
        return figure


def _move_off_curves(text: Text, curves: list[list[float]], epochs: int) -> None:
    """Lay the name of a dotted line to the end and the side of it where the fewest curves pass."""
    steps = np.linspace(1, len(curves[0]), 400)
    heights = [np.interp(steps, range(1, len(curve) + 1), curve) for curve in curves]
    drawn = [text.axes.transData.transform(np.column_stack([steps, each])) for each in heights]

    def hidden(place: tuple[float, str, str]) -> int:
        x, side, edge = place
        text.set(x=x, ha=side, va=edge)
        box = text.get_window_extent()
        return sum(box.count_contains(points) for points in drawn)

    places = [(epochs, "right"), (0.01 * epochs, "left")]
    best = min([(*end, edge) for edge in ("bottom", "top") for end in places], key=hidden)
    hidden(best)
