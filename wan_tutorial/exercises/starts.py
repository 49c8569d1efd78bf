"""Exercises of lesson 02: which lengths a video may have, and what stands between clean and noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Misconception
from wan_tutorial.noise import mix
from wan_tutorial.sizes import nearest_frames


def walk_noise(a: Tensor, b: Tensor, amount: float) -> Tensor:
    """Walk from noise `a` to noise `b` on the sphere, so that every stop is as loud as noise."""
    cosine = (a * b).sum() / (a.norm() * b.norm())
    theta = math.acos(cosine.clamp(-1, 1).item())
    return (math.sin((1 - amount) * theta) * a + math.sin(amount * theta) * b) / math.sin(theta)


def _two(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (1, 16, 2, 3, 4)
    return torch.randn(shape, generator=generator) + 0.5, torch.randn(shape, generator=generator)


check_nearest_frames = Exercise(
    solution=nearest_frames,
    inputs=lambda g: [(frames,) for frames in (13, 1, 12, 14, 15, 16, 80, 81, 82, 83, 2, 3, 0)],
    praise="The VAE codes one frame alone and then four at a time, so a video has 1, 5, 9, 13, ... frames.",
    hints=(
        "4k + 1: take the 1 away, then it is about multiples of four.",
        "To round to the nearest multiple of four, add two and then cut: (n + 2) // 4 * 4.",
        "max(1, (frames - 1 + 2) // 4 * 4 + 1)",
    ),
    misconceptions=(
        Misconception(
            lambda frames: max(1, (frames + 2) // 4 * 4),
            "these are multiples of four. The first frame is coded alone, so there is always one more: 4k + 1.",
        ),
        Misconception(
            lambda frames: max(1, (frames - 1) // 4 * 4 + 1),
            "you always go down: 16 becomes 13, though 17 is nearer.",
        ),
        Misconception(
            lambda frames: max(1, -(-(frames - 1) // 4) * 4 + 1),
            "you always go up: 14 becomes 17, though 13 is nearer.",
        ),
        Misconception(
            lambda frames: max(1, round((frames - 1) / 4) * 4 + 1),
            "Python's round() takes halves to the even number, so 3 becomes 1; of two equally near, take the larger.",
        ),
        Misconception(
            lambda frames: 4 * frames + 1,
            "you take `frames` for k. Asked is the nearest number that can be written as 4k + 1.",
        ),
    ),
)

check_mix = Exercise(
    solution=mix,
    inputs=lambda g: [(*_two(g), t) for t in (0.25, 0.5, 0.9, 0.0, 1.0)],
    praise="One line, and the whole method stands on it: clean at t = 0, pure noise at t = 1, a straight line between.",
    hints=(
        "At t = 0 the answer is the clean latent, at t = 1 it is the noise.",
        "Take t of the noise. How much of the clean latent is left?",
        "(1 - t) * clean + t * noise",
    ),
    misconceptions=(
        Misconception(
            lambda clean, noise, t: mix(noise, clean, t),
            "your time runs backwards: at t = 1 it must be pure noise. (Some other papers count so; Wan does not.)",
        ),
        Misconception(
            lambda clean, noise, t: clean + t * noise,
            "you add noise on top of the clean latent, as older models do; at t = 1 nothing of it may be left.",
        ),
        Misconception(
            lambda clean, noise, t: (1 - t) ** 0.5 * clean + t**0.5 * noise,
            "you take square roots, which keep the loudness even (DDPM does so). Wan walks on a straight line.",
        ),
        Misconception(
            lambda clean, noise, t: clean + t * (clean - noise),
            "you go away from the noise: the way from clean to noise is noise - clean.",
        ),
    ),
)

check_walk_noise = Exercise(
    solution=walk_noise,
    inputs=lambda g: [
        (torch.randn(40, generator=g), torch.randn(40, generator=g), x) for x in (0.5, 0.2, 0.9)
    ],
    praise="Half-way the spread is still 1. A straight mix would have 0.71, quieter than any pure noise in training.",
    hints=(
        "Find the angle theta between a and b from their cosine; math.acos turns a cosine into an angle.",
        "Weigh a by sin((1 - amount) theta) and b by sin(amount theta), and divide by sin(theta).",
        "theta = math.acos((a * b).sum() / (a.norm() * b.norm())), then "
        "(math.sin((1 - amount) * theta) * a + math.sin(amount * theta) * b) / math.sin(theta)",
    ),
    misconceptions=(
        Misconception(
            lambda a, b, amount: (1 - amount) * a + amount * b,
            "this is the straight line: half-way it is too quiet (spread 0.71). Walk on the arc.",
        ),
        Misconception(
            lambda a, b, amount: walk_noise(b, a, amount), "you walk from b to a: at amount 0 this must be a."
        ),
        Misconception(
            lambda a, b, amount: (
                walk_noise(a, b, amount) * math.sin(math.acos(((a * b).sum() / (a.norm() * b.norm())).item()))
            ),
            "the division by sin(theta) is missing: at amount 0 this is not quite a.",
        ),
    ),
)
