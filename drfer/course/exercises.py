"""The check cells of the notebooks: right, or what is off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

RIGHT, NOT_DONE = "right.", "not done yet."


def check(
    exercise: int, answer, right, on: tuple = (), tolerance: float = 1e-4, hint: str = ""
) -> None:
    """Print whether an exercise is solved, and else what is off and a hint.

    answer, right: a number, a name, an array or tensor, or, with the arguments `on`, functions that give one. An answer
    (or what the function returns) of None is not done yet. tolerance: of numbers, relative to the largest one.
    """
    verdict = _verdict(answer, right, on, tolerance)
    hint = "" if verdict in (RIGHT, NOT_DONE) else f" Hint: {hint}" * bool(hint)
    print(f"Exercise {exercise}: {verdict}{hint}")


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
