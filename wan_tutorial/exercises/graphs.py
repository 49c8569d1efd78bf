"""Exercises of lesson 12: when a node of a graph can run, and what the values in a workflow's file mean."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from wan_tutorial.exercises.marking import Exercise, Misconception


def can_run(name: str, feeders: Collection[str], done: Collection[str]) -> bool:
    """Whether a node's turn has come: it has not run yet, and every node that feeds it has."""
    return name not in done and all(feeder in done for feeder in feeders)


def ksampler_settings(values: Sequence[Any]) -> tuple[int, int, float, float]:
    """Seed, steps, cfg and denoise from a KSampler's `widgets_values`."""
    seed, _, steps, cfg, _, _, denoise = values
    return seed, steps, cfg, denoise


_FEEDS = {
    "model": (),
    "clip": (),
    "vae": (),
    "positive": ("clip",),
    "negative": ("clip",),
    "sampler": ("model", "positive", "negative"),
    "decode": ("sampler", "vae"),
}


def _moments(generator: torch.Generator) -> list[tuple[Any, ...]]:
    moments: list[set[str]] = [
        set(),
        {"clip"},
        {"model", "clip", "vae"},
        {"model", "clip", "vae", "positive"},
    ]
    moments += [set(_FEEDS) - {"decode", "sampler"}, set(_FEEDS) - {"decode"}, set(_FEEDS)]
    return [(name, _FEEDS[name], tuple(sorted(done))) for done in moments for name in _FEEDS]


def _values(generator: torch.Generator) -> list[tuple[Any, ...]]:
    seeds = torch.randint(1, 10**6, (6,), generator=generator).tolist()
    rows = zip(seeds, ("fixed", "randomize", "increment") * 2, (20, 4, 8, 30, 6, 12), strict=True)
    return [
        ([seed, after, steps, 0.5 + steps / 4, "uni_pc", "simple", 1 / steps],) for seed, after, steps in rows
    ]


check_can_run = Exercise(
    solution=can_run,
    inputs=_moments,
    praise="That is all there is to a graph engine: ask this of every node until all have run.",
    hints=(
        "Two things must hold: the node itself has not run, and all that feed it have.",
        "feeders are the nodes that feed it; `all(...)` of nothing is True, as it should be for loaders.",
        "name not in done and all(feeder in done for feeder in feeders)",
    ),
    misconceptions=(
        Misconception(
            lambda name, feeders, done: name not in done and (not feeders or any(f in done for f in feeders)),
            "you let a node run when one of its feeders has; the KSampler needs the model and both prompts.",
        ),
        Misconception(
            lambda name, feeders, done: all(feeder in done for feeder in feeders),
            "you let nodes run that have run already, so the loop would never end.",
        ),
        Misconception(
            lambda name, feeders, done: (
                name not in done and bool(feeders) and all(f in done for f in feeders)
            ),
            "you ask that something feeds the node, but nothing feeds a loader, and it must be the first to run.",
        ),
    ),
)

check_ksampler_settings = Exercise(
    solution=ksampler_settings,
    inputs=_values,
    praise="The value after the seed belongs to ComfyUI's page alone; scripts that forget it read 'fixed' as steps.",
    hints=(
        "There are seven values for six settings: look at the second.",
        "The second says what the page does with the seed after a run. Steps are the third, cfg the fourth.",
        "values[0], values[2], values[3], values[6]",
    ),
    misconceptions=(
        Misconception(
            lambda values: (values[0], values[1], values[2], values[5]),
            "you count as if there were six values; the second, such as 'fixed', is no setting of the sampler.",
        ),
        Misconception(
            lambda values: (values[0], values[3], values[2], values[6]),
            "you take cfg for steps and steps for cfg: steps come first.",
        ),
        Misconception(
            lambda values: (values[0], values[2], values[3], 1.0),
            "you leave denoise at 1, but it is the last of the values, and people do change it.",
        ),
    ),
)
