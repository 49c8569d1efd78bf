"""Exercises of lesson 10: when a comparison is fair, and how sure a mean of a few seeds is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Misconception


def is_fair(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether two lists of settings, in the same order, differ in exactly one place."""
    return sum(one != other for one, other in zip(before, after, strict=True)) == 1


def standard_error(differences: Tensor) -> float:
    """How far the mean of some differences (n,) may be off by chance: their standard deviation / sqrt(n)."""
    return (differences.std() / len(differences) ** 0.5).item()


def _settings(generator: torch.Generator) -> list[tuple[Any, ...]]:
    seed, steps = torch.randint(1, 50, (2,), generator=generator).tolist()
    start = [seed, steps, 6.0, "uni_pc"]
    changed: list[tuple[Any, ...]] = [([*start], [*start])]
    for place, value in enumerate((seed + 1, steps + 4, 3.0, "euler")):
        one = [*start[:place], value, *start[place + 1 :]]
        changed += [([*start], one), ([*start], [seed + 2, *one[1:3], "heun"])]
    return [*changed, ([*start], [seed + 1, steps + 1, 3.0, "euler"])]


check_is_fair = Exercise(
    solution=is_fair,
    inputs=_settings,
    praise="One change, and whatever is different in the videos comes from it.",
    hints=(
        "Walk through both lists together and count the places where they differ.",
        "zip(before, after) gives the pairs; one != other is True, which counts as 1 in a sum.",
        "sum(one != other for one, other in zip(before, after)) == 1",
    ),
    misconceptions=(
        Misconception(
            lambda before, after: before != after,
            "this is True for two and more changes as well. Then nobody knows which of them did it.",
        ),
        Misconception(
            lambda before, after: sum(one != other for one, other in zip(before, after, strict=True)) <= 1,
            "this is True where nothing was changed at all: two equal runs compare nothing.",
        ),
        Misconception(
            lambda before, after: sum(a != b for a, b in zip(before[1:], after[1:], strict=True)) == 1,
            "you leave out the first setting, the seed. Another seed is another video: it is a change like any other.",
        ),
    ),
)

check_standard_error = Exercise(
    solution=standard_error,
    inputs=lambda g: [(0.3 + torch.randn(count, generator=g),) for count in (4, 4, 9, 16)],
    praise="Four times as many seeds, half the doubt.",
    hints=(
        "How far single differences lie from their mean is their standard deviation: differences.std().",
        "A mean of n of them lies nearer: divide by the square root of n.",
        "(differences.std() / len(differences) ** 0.5).item()",
    ),
    misconceptions=(
        Misconception(
            lambda differences: differences.std().item(),
            "this is how far a single seed lies from the mean. The mean of n seeds is surer: divide by sqrt(n).",
        ),
        Misconception(
            lambda differences: (differences.std() / len(differences)).item(),
            "you divide by n, which promises too much: chances cancel only with the square root of n.",
        ),
        Misconception(
            lambda differences: (differences.var() / len(differences) ** 0.5).item(),
            "this is the variance, in squared units; the standard deviation is its root: .std().",
        ),
    ),
)
