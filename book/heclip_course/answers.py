"""Judging an answer: a learner's function may do anything, and is told in one sentence what.

:mod:`heclip_course.exercises` knows what is right and which mistakes are likely;
this module calls the function, survives it, and finds words for what came back.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

Wrong = Mapping[str, Any]  # what is wrong, by the result it leads to
_CLOSE = {"rtol": 1e-4, "atol": 1e-6, "equal_nan": True}  # single precision is good enough
_LONGEST = 200  # characters of a learner's error message


def judge(
    function: Callable,
    arguments: tuple,
    right: Any,
    wrong: Wrong,
    *,
    tensor: bool = False,
    indices: bool = False,
) -> None:
    """Call a learner's function and print how its result compares with the right one.

    Parameters
    ----------
    function
        What the learner wrote; anything at all.
    arguments
        What it is called with, arrays or tensors; they have to stay as they are.
    right
        The right result.
    wrong
        Results of likely mistakes, by the sentence that explains them.
    tensor
        The result has to be a tensor, with a gradient if an argument has one.
    indices
        The result has to consist of whole numbers.
    """
    result, trouble = call(function, arguments)
    trouble = trouble or _unusable(result, arguments, tensor=tensor)
    print(trouble or _verdict(plain(result), plain(right), wrong, indices=indices))


def call(function: Callable, arguments: tuple) -> tuple[Any, str]:
    """Call a learner's function.

    Returns
    -------
    result
        What it returned.
    trouble
        Why there is nothing to judge; empty if there is.
    """
    trouble = _uncallable(function, len(arguments))
    if trouble:
        return None, trouble
    given = [np.copy(plain(argument)) for argument in arguments]
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            result = function(*arguments)
    except (Exception, SystemExit) as error:  # a learner's function may raise anything
        return None, _stopped(error)
    finally:
        print(printed.getvalue(), end="")
    for position, (before, after) in enumerate(zip(given, arguments, strict=True)):
        if not np.array_equal(before, plain(after)):
            return None, (
                f"Your function changed its argument number {position + 1}. "
                "Work on a copy: whoever calls it still needs the original."
            )
    if result is None and printed.getvalue():
        return None, (
            "Not done yet: the function prints but returns None. End it with return and the value."
        )
    return result, "" if result is not None else "Not done yet: the function returns None."


def plain(value: Any) -> np.ndarray:
    """An array of whatever was given; tensors without their gradient."""
    import torch

    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)


def _uncallable(function: Any, wanted: int) -> str:
    """Why a thing cannot be called with `wanted` arguments."""
    if not callable(function):
        return (
            f"Give the check your function itself, by its name and without parentheses; "
            f"it got {_kind(function)}."
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C have none
        return ""
    try:
        signature.bind(*range(wanted))
    except TypeError:
        takes = ", ".join(signature.parameters) or "nothing"
        number = "one argument" if wanted == 1 else f"{wanted} arguments"
        return f"Your function is called with {number}, but it takes ({takes})."
    return ""


def _stopped(error: BaseException) -> str:
    """What stopped a learner's function, and in which of its lines."""
    if isinstance(error, RecursionError):
        return "Your function calls itself without end (RecursionError)."
    if isinstance(error, SystemExit):
        return "Your function ends the whole program (SystemExit); leave out exit() and quit()."
    if "in-place" in str(error) or "inplace" in str(error):  # torch writes both
        return (
            "Your function changes its argument in place, which a tensor with a gradient does not "
            "allow. Make a new tensor: x = x / 2, not x /= 2."
        )
    said = " ".join(str(error).split())
    said = said if len(said) <= _LONGEST else said[: _LONGEST - 4] + " ..."
    line = _line_of(error)
    place = f", in its line `{line}`" if line else ""
    return f"Your function stopped with {type(error).__name__}: {said or 'no message'}{place}."


def _line_of(error: BaseException) -> str:
    """The line of the learner's function that was running; the frame after our own call."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[1].line or "") if len(frames) > 1 else ""


def _verdict(found: np.ndarray, wanted: np.ndarray, wrong: Wrong, *, indices: bool) -> str:
    """One sentence about a result."""
    if found.shape == wanted.shape and np.allclose(found, wanted, **_CLOSE):
        if indices and found.dtype.kind != wanted.dtype.kind:
            return f"Return whole numbers, for only they can index; yours are {found.dtype}."
        return "Correct."
    for reason, value in wrong.items():  # some of these have another shape
        value = plain(value)
        if value.shape == found.shape and np.allclose(found, value, **_CLOSE):
            return f"Not yet: {reason}"
    if found.shape != wanted.shape:
        hint = " Is it transposed?" if found.shape == wanted.shape[::-1] else ""
        return f"The shape is {_shape(found)}, but {_shape(wanted)} is wanted.{hint}"
    if not np.isfinite(found).all():
        return "Not yet: some values are not finite. Do you divide by zero?"
    if found.dtype == np.float16 and np.allclose(found, wanted, rtol=1e-2, atol=1e-3):
        return "Not yet: float16 is too coarse here; compute in float32 or float64."
    worst = np.unravel_index(np.argmax(np.abs(found - wanted)), found.shape)
    place = f" at {tuple(map(int, worst))}" if found.ndim else ""
    return f"Not yet: the value{place} is {found[worst]:.6g}, but should be {wanted[worst]:.6g}."


def _unusable(result: Any, arguments: tuple, *, tensor: bool) -> str:
    """Why a result cannot be compared with any other."""
    import torch

    if tensor and not isinstance(result, torch.Tensor):
        return f"Return a torch tensor; yours is {_kind(result)}."
    if tensor and any(a.requires_grad for a in arguments) and not result.requires_grad:
        return (
            "The value has lost its gradient: nothing could be trained with it. "
            "Stay in torch, without .detach(), .item() or .numpy()."
        )
    if callable(result) and not isinstance(result, torch.Tensor):
        return "You return a function, not its value: call it, with parentheses."
    if isinstance(result, list | tuple | set | dict) or hasattr(result, "toarray"):
        return f"Return one array; yours is {_kind(result)}."
    try:
        kind = plain(result).dtype
    except Exception:  # something that cannot become an array
        return f"Return one array of numbers; yours is {_kind(result)}."
    if kind.kind == "O":
        return f"Return one array of numbers; yours is {_kind(result)} of Python objects."
    if np.issubdtype(kind, np.complexfloating):
        return f"Return real numbers; yours are complex ({kind})."
    if not np.issubdtype(kind, np.number):
        return f"Return numbers; yours are of type {kind}."
    return ""


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "an array"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _shape(array: np.ndarray) -> str:
    return str(array.shape) if array.ndim else "() (a single number)"
