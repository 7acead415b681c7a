"""The check cells of the notebooks: they print "right", or what is off about an answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

RIGHT, NOT_DONE = "right.", "not done yet."


def check(
    exercise: int, answer, right, on: tuple = (), tolerance: float = 1e-4, hint: str = ""
) -> None:
    """Print whether an exercise is solved, and else what is off.

    Args:
        exercise: its number in the notebook.
        answer: the student's number, name, array or tensor, or a function that gives one. None, or
            a function that returns None, counts as not done yet.
        right: the right answer, or a function that gives it.
        on: the arguments of both functions.
        tolerance: how far numbers may be off, relative to the largest right one.
        hint: what is printed after a wrong answer.
    """
    verdict = _verdict(answer, right, on, tolerance)
    is_wrong = verdict not in (RIGHT, NOT_DONE)
    help_on = f" Hint: {hint}" if hint and is_wrong else ""
    print(f"Exercise {exercise}: {verdict}{help_on}")


def _verdict(answer, right, on: tuple, tolerance: float) -> str:
    try:
        if isinstance(answer, Callable):
            answer, right = answer(*on), right(*on)
        if answer is None:
            return NOT_DONE
        answer, right = (
            np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x)
            for x in (answer, right)
        )
    except Exception as error:  # whatever a student's code may raise is told, not thrown
        return f"your answer stops with {type(error).__name__}: {error}."
    if answer.shape != right.shape:
        return f"the shape is off: {answer.shape} instead of {right.shape}."
    if right.dtype.kind in "US":
        return RIGHT if (answer == right).all() else f"{answer} is off."
    if answer.dtype.kind not in "biuf":
        return f"a number is wanted, not {answer}."
    off = ~(
        np.abs(answer.astype(float) - right) <= tolerance * max(np.abs(right).max(), 1e-12)
    )  # NaN is off, too
    if not off.any():
        return RIGHT
    if right.ndim == 0 and np.isnan(answer):
        return f"{answer} is no number."
    if right.ndim == 0:
        return f"{answer:g} is too {'large' if answer > right else 'small'}."
    return f"{off.sum()} of {off.size} values are off, the first at {tuple(map(int, np.argwhere(off)[0]))}."
