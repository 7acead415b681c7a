"""The check cells of the notebooks: they say what is off about an answer, and never what is right.

`check("03.1", answer)` looks up exercise 1 of notebook 03 in `drfer.course.checks.nb03`. Each module
of this folder holds what one notebook's exercises are checked by, so that no notebook gives its
answers away.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch

RIGHT, NOT_DONE = "right.", "not done yet."


@dataclass(frozen=True)
class Exercise:
    """How one exercise is checked: by inputs, or by a judge."""

    right: object = None
    """The right number, name or array; or a function that gives it, like the student's."""
    on: Callable[[], list[tuple]] = lambda: [()]
    """Makes the inputs of functions, one tuple of arguments for each try. They are none of those in
    the notebook."""
    tolerance: float = 1e-4
    """How far numbers may be off, relative to the largest right one."""
    judge: Callable[[object], str | None] | None = None
    """For answers of which many are right: gets the answer, and returns what is off about it in a
    sentence, or None if it is right."""
    hint: str = ""
    """Printed after a wrong answer."""


def check(number: str, answer) -> None:
    """Print whether an exercise is solved, and else what is off.

    Args:
        number: of the notebook and the exercise in it, such as "03.1".
        answer: the student's number, name, array, tensor, function, module or class. None, or a
            function that returns None, counts as not done yet.
    """
    notebook, exercise = number.split(".")
    module = importlib.import_module(f"drfer.course.checks.nb{notebook}")
    print(f"Exercise {number}: {verdict(answer, module.EXERCISES[int(exercise)])}")


def verdict(answer, exercise: Exercise) -> str:
    """Return what `check` prints of an answer: `RIGHT`, `NOT_DONE`, or what is off.

    Args:
        answer: the student's.
        exercise: how it is checked.
    """
    if answer is None:
        return NOT_DONE
    try:
        said = exercise.judge(answer) if exercise.judge else _compared(answer, exercise)
    except Exception as error:  # whatever a student's code may raise is told, not thrown
        said = f"your answer stops with {type(error).__name__}: {error}."
    if not said or said == NOT_DONE:
        return said or RIGHT
    return said + (f" Hint: {exercise.hint}" if exercise.hint else "")


def _compared(answer, exercise: Exercise) -> str | None:
    for arguments in exercise.on():
        given, right = answer, exercise.right
        if callable(right):
            if not callable(given):
                return "a function is wanted."
            # a student may change what the function is given
            given, right = given(*deepcopy(arguments)), right(*arguments)
        if given is None:
            return NOT_DONE
        off = difference(given, right, exercise.tolerance)
        if off:
            return off
    return None


def difference(answer, right, tolerance: float = 1e-4) -> str | None:
    """Return in a sentence what is off about an answer, or None if it is right.

    Args:
        answer: a number, a name, an array or a tensor.
        right: the right one.
        tolerance: how far numbers may be off, relative to the largest right one.
    """
    answer, right = (
        np.asarray(each.detach().cpu() if isinstance(each, torch.Tensor) else each)
        for each in (answer, right)
    )
    if answer.shape != right.shape:
        return f"the shape is off: {answer.shape} instead of {right.shape}."
    if right.dtype.kind in "US":
        return None if (answer == right).all() else f"{answer} is off."
    if answer.dtype.kind not in "biuf":
        return f"a number is wanted, not {answer}."
    limit = tolerance * max(np.abs(right).max(initial=0), 1e-12)
    off = ~(np.abs(answer.astype(float) - right) <= limit)  # NaN is off, too
    if not off.any():
        return None
    if right.ndim == 0 and np.isnan(answer):
        return f"{answer} is no number."
    if right.ndim == 0:
        return f"{answer:g} is too {'large' if answer > right else 'small'}."
    first = tuple(map(int, np.argwhere(off)[0]))
    return f"{off.sum()} of {off.size} values are off, the first at {first}."
