"""How an answer is marked: run it beside the kit's own on random inputs, and say in plain words what differs.

In: an `Exercise` and a learner's function. Out: a `Verdict`. An exercise knows the misconceptions that lead to wrong
answers as functions of their own: an answer that agrees with one of them everywhere is told what it did, not only that
it is wrong. Nothing a learner writes raises here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
EMPTY = "Replace the ..., run its cell and then this one; the lesson goes on."
OURS = "is the kit's own here, not yours: run the cell with yours first, then this one."
TOLERANCE = 1e-4  # relative: an answer in other words may round differently


@dataclass(frozen=True)
class Misconception:
    """A wrong answer that runs, has the right shape, and comes from a thought worth talking about."""

    function: Function
    explanation: str


@dataclass(frozen=True, repr=False)  # an answer is not to be seen by asking what the exercise is
class Exercise:
    """A question with its answer, the inputs that tell right from wrong, and help in three steps.

    Called with a learner's function it marks it, see `check`.
    """

    solution: Function
    inputs: Callable[[torch.Generator], Sequence[tuple[Any, ...]]]
    praise: str
    hints: tuple[str, str, str]
    misconceptions: tuple[Misconception, ...]

    @property
    def name(self) -> str:
        """The name that the learner's function has."""
        return self.solution.__name__

    def __call__(self, answer: Function, *, hint: int | None = None) -> Function:
        return check(self, answer, hint=hint)


@dataclass(frozen=True)
class Verdict:
    """How an answer was marked: "right", "empty" or "wrong", and what to tell the learner."""

    mark: str
    message: str


_attempts: dict[str, int] = {}  # wrong answers so far, by exercise, in this session


def check(exercise: Exercise, answer: Function, *, hint: int | None = None) -> Function:
    """Mark an answer, print the verdict and the next hint, and return a function that works.

    After the first wrong answer comes the first hint, then the second and the third; `hint=3` shows all at once.
    """
    verdict = mark(exercise, answer)
    ours = answer is exercise.solution  # the name holds what an earlier check handed back
    print(f"{exercise.name} {OURS}" if ours else verdict.message)
    if verdict.mark == "wrong":
        _attempts[exercise.name] = _attempts.get(exercise.name, 0) + 1
        next_one = min(_attempts[exercise.name], len(exercise.hints))
        _print_hints(exercise, range(next_one, next_one + 1) if hint is None else range(1, hint + 1))
    elif hint is not None:
        _print_hints(exercise, range(1, hint + 1))
    return answer if verdict.mark == "right" else exercise.solution


def _print_hints(exercise: Exercise, levels: range) -> None:
    for level in levels:
        if 1 <= level <= len(exercise.hints):
            print(f"Hint {level} of {len(exercise.hints)}: {exercise.hints[level - 1]}")


def mark(exercise: Exercise, answer: Function) -> Verdict:
    """Compare an answer with the solution on every input; the first difference decides."""
    if not callable(answer):
        return Verdict(
            "wrong", f"Not yet: pass the function itself, check(... {exercise.name}), not what it returns."
        )
    inputs = list(exercise.inputs(torch.Generator().manual_seed(0)))
    for arguments in inputs:
        problem = _compare(exercise, answer, arguments)
        if problem is not None:
            return problem if problem.mark == "empty" else _explain(exercise, answer, inputs, problem)
    return Verdict("right", f"Right. {exercise.praise}")


def _compare(exercise: Exercise, answer: Function, arguments: tuple[Any, ...]) -> Verdict | None:
    """None if the answer agrees on these arguments; otherwise what is wrong."""
    expected = exercise.solution(*_copies(arguments))
    try:
        given = answer(*_copies(arguments))
    except NotImplementedError:
        given = None
    except Exception as error:  # a learner's function may fail in any way
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return Verdict("wrong", f"Not yet: {exercise.name}({_say_all(arguments)}) stops with {told}")
    if given is None or given is Ellipsis:
        return Verdict("empty", f"{exercise.name} is still empty. {EMPTY}")
    try:
        return _compare_values(exercise.name, arguments, expected, given)
    except Exception:  # so large a number, a tuple of a class of its own
        told = f"{exercise.name}({_say_all(arguments)}) gives a {type(given).__name__} that cannot be compared with"
        return Verdict("wrong", f"Not yet: {told} {_say(expected)}.")


def _compare_values(name: str, arguments: tuple[Any, ...], expected: Any, given: Any) -> Verdict | None:
    shape = _wrong_kind(expected, given)
    if shape:
        return Verdict("wrong", f"Not yet: {name}({_say_all(arguments)}) should return {shape}.")
    if not agrees(expected, given):
        return Verdict("wrong", f"Not yet: {_say_difference(name, arguments, expected, given)}")
    return None


def _explain(
    exercise: Exercise, answer: Function, inputs: Sequence[tuple[Any, ...]], problem: Verdict
) -> Verdict:
    """Where the answer agrees everywhere with a known misconception, say which."""
    for wrong in exercise.misconceptions:
        if all(_agrees_on(wrong.function, answer, arguments) for arguments in inputs):
            return Verdict("wrong", f"Not yet: {wrong.explanation}")
    return problem


def _agrees_on(one: Function, other: Function, arguments: tuple[Any, ...]) -> bool:
    try:
        return agrees(one(*_copies(arguments)), other(*_copies(arguments)))
    except Exception:
        return False


def agrees(expected: Any, given: Any) -> bool:
    """Whether two answers are the same: numbers to a relative 1e-4, whole numbers and truths exactly."""
    if callable(expected):  # a model that an exercise passes in
        return bool(expected == given)
    if isinstance(expected, tuple | list):
        same_length = isinstance(given, tuple | list | torch.Size) and len(given) == len(expected)
        return same_length and all(map(agrees, expected, given))
    if isinstance(expected, Tensor):
        if not isinstance(given, Tensor) or given.shape != expected.shape:
            return False
        if given.is_complex() and not expected.is_complex():
            return False
        size = max(expected.double().abs().max().item(), 1e-3) if expected.numel() else 1.0
        return bool(((given.double() - expected.double()).abs() <= TOLERANCE * size).all())
    if isinstance(expected, bool | str | None):
        return isinstance(given, type(expected)) and given == expected
    if isinstance(given, Tensor) and given.numel() == 1:
        given = given.item()
    if not isinstance(given, int | float) or isinstance(given, bool):
        return False
    return math.isclose(expected, given, rel_tol=TOLERANCE, abs_tol=1e-9)


def _wrong_kind(expected: Any, given: Any) -> str | None:
    """What kind of thing the answer should have been, if it is of another kind or shape."""
    if isinstance(expected, Tensor):
        wanted = f"a tensor of shape {tuple(expected.shape)}"
        if not isinstance(given, Tensor):
            return f"{wanted}, not {_say(given)}"
        if given.is_complex() and not expected.is_complex():
            return f"{wanted} of real numbers, not of complex ones"
        return None if given.shape == expected.shape else f"{wanted}, not {tuple(given.shape)}"
    if isinstance(expected, tuple):
        things = f"{len(expected)} {'tensors' if isinstance(expected[0], Tensor) else 'numbers'}"
        if not isinstance(given, tuple | list | torch.Size):
            return f"{things} in a tuple, not {_say(given)}"
        if len(given) != len(expected):
            return f"{things}, not {len(given)}: {_say(tuple(given))}"
        tensors = [one for one in zip(expected, given, strict=True) if isinstance(one[0], Tensor)]
        return next(filter(None, (_wrong_kind(*pair) for pair in tensors)), None)
    if isinstance(expected, bool):
        return None if isinstance(given, bool) else f"True or False, not {_say(given)}"
    number = isinstance(given, int | float) or (isinstance(given, Tensor) and given.numel() == 1)
    return None if number and not isinstance(given, bool) else f"a number, not {_say(given)}"


def _say_difference(name: str, arguments: tuple[Any, ...], expected: Any, given: Any) -> str:
    call = f"{name}({_say_all(arguments)})"
    if isinstance(expected, tuple) and isinstance(expected[0], Tensor):
        number, pair = next(
            (i, pair) for i, pair in enumerate(zip(expected, given, strict=True)) if not agrees(*pair)
        )
        return _say_difference(f"part {number} of {name}", arguments, *pair)
    if isinstance(expected, Tensor) and expected.numel() > 8:
        place = (given.double() - expected.double()).abs().flatten().argmax()
        want, got = expected.flatten()[place].item(), given.flatten()[place].item()
        return (
            f"{call} has the right shape, but one of its numbers is {got:.4g} where it should be {want:.4g}."
        )
    return f"{call} gives {_say(given)}, and it should be {_say(expected)}."


def _say_all(arguments: tuple[Any, ...]) -> str:
    return ", ".join(_say(one) for one in arguments)


def _say(value: Any) -> str:
    """A value as a learner would write it, short."""
    if isinstance(value, Tensor):
        return "a tensor " + str(tuple(value.shape)) if value.numel() > 8 else str(_rounded(value.tolist()))
    if isinstance(value, tuple) and any(isinstance(one, Tensor) for one in value):
        return f"({', '.join(map(_say, value))})"
    return str(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_rounded, value))
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _copies(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments that an answer may change in place without harm to the next."""
    return tuple(one.clone() if isinstance(one, Tensor) else one for one in arguments)
