"""Exercises of lesson 03: from a velocity to a step, to a guess, to guidance, to a schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Misconception
from wan_tutorial.noise import clean_guess
from wan_tutorial.sampling.schedules import shift_time


def euler_step(latent: Tensor, velocity: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Follow the velocity in a straight line from noise level sigma to sigma_next."""
    return latent + (sigma_next - sigma) * velocity


def guide(positive: Tensor, negative: Tensor, guidance: float) -> Tensor:
    """Go from the negative prompt's velocity past the positive's: guidance 1 stops there, 6 goes six times as far."""
    return negative + guidance * (positive - negative)


def _latents(generator: torch.Generator, count: int) -> list[Tensor]:
    return [torch.randn(1, 16, 2, 3, 4, generator=generator) for _ in range(count)]


check_euler_step = Exercise(
    solution=euler_step,
    inputs=lambda g: [(*_latents(g, 2), *levels) for levels in ((1.0, 0.9), (0.7, 0.4), (0.3, 0.0))],
    praise="Twenty of these lines, one after the other, are the whole of the simplest sampler.",
    hints=(
        "Velocity says how the latent changes when sigma grows by 1. How much does sigma change here?",
        "Sigma changes by sigma_next - sigma, which is negative: we walk against the velocity.",
        "latent + (sigma_next - sigma) * velocity",
    ),
    misconceptions=(
        Misconception(
            lambda latent, velocity, sigma, sigma_next: latent + (sigma - sigma_next) * velocity,
            "you walk towards the noise. The velocity points from clean to noise, and sigma falls: "
            "sigma_next - sigma is negative, and that is right.",
        ),
        Misconception(
            lambda latent, velocity, sigma, sigma_next: latent - sigma * velocity,
            "you walk all the way to sigma 0. That is the clean guess; a step goes only as far as sigma_next.",
        ),
        Misconception(
            lambda latent, velocity, sigma, sigma_next: latent - velocity,
            "you subtract the whole velocity, as if sigma went from 1 to 0 in one step.",
        ),
        Misconception(
            lambda latent, velocity, sigma, sigma_next: latent - sigma_next * velocity,
            "you step by sigma_next itself; the length of the step is the difference of the two levels.",
        ),
        Misconception(
            lambda latent, velocity, sigma, sigma_next: sigma_next / sigma * latent,
            "you only make the latent smaller and never look at the velocity.",
        ),
    ),
)

check_clean_guess = Exercise(
    solution=clean_guess,
    inputs=lambda g: [(*_latents(g, 2), sigma) for sigma in (0.9, 0.5, 0.1)],
    praise="The model's idea of the finished video, at any moment. At sigma 1 a blur: the mean of all that may be.",
    hints=(
        "An Euler step that goes all the way: where does the line stand at noise level 0?",
        "From sigma to 0 the level changes by -sigma.",
        "latent - sigma * velocity",
    ),
    misconceptions=(
        Misconception(
            lambda latent, velocity, sigma: latent + sigma * velocity,
            "you walk towards the noise: velocity points from clean to noise.",
        ),
        Misconception(
            lambda latent, velocity, sigma: latent + (1 - sigma) * velocity,
            "this is the other end of the line, at sigma 1: the noise, not the video.",
        ),
        Misconception(
            lambda latent, velocity, sigma: latent - velocity,
            "you subtract the whole velocity, which is right at sigma 1 only: the way left is sigma long.",
        ),
        Misconception(
            lambda latent, velocity, sigma: latent - (1 - sigma) * velocity,
            "you walk 1 - sigma, the way that is already behind us; sigma is what is left.",
        ),
    ),
)

check_guide = Exercise(
    solution=guide,
    inputs=lambda g: [(*_latents(g, 2), guidance) for guidance in (6.0, 1.0, 3.5, 0.0)],
    praise="At 1 the negative prompt falls out of the sum: that is why it does nothing at cfg 1, and costs nothing.",
    hints=(
        "Start at the negative velocity and go in the direction of the positive one.",
        "The direction is positive - negative; go `guidance` times as far as it is long.",
        "negative + guidance * (positive - negative)",
    ),
    misconceptions=(
        Misconception(
            lambda positive, negative, guidance: guide(negative, positive, guidance),
            "you go from the positive past the negative: the video becomes what you asked it not to be.",
        ),
        Misconception(
            lambda positive, negative, guidance: positive + guidance * (positive - negative),
            "you start at the positive velocity; so 6 acts like 7, and 1 is not neutral. Start at the negative.",
        ),
        Misconception(
            lambda positive, negative, guidance: guidance * positive,
            "you make the positive velocity longer and ignore the negative: all moves too far, in no better direction.",
        ),
        Misconception(
            lambda positive, negative, guidance: guidance * (positive - negative),
            "this is only the difference between the prompts; what they agree on, most of the video, is lost.",
        ),
    ),
)

check_shift_time = Exercise(
    solution=shift_time,
    inputs=lambda g: [(t, shift) for shift in (8.0, 3.0, 1.0) for t in (0.5, 0.1, 0.9, 1.0, 0.0)],
    praise="With shift 8 the middle moves to 0.89: most steps are spent on the layout, few on the fine grain.",
    hints=(
        "t = 0 must stay 0, t = 1 must stay 1, and shift 1 must change nothing: check your formula at these.",
        "Above the line stands shift * t. Below it something that is 1 at t = 0, and shift at t = 1.",
        "shift * t / (1 + (shift - 1) * t)",
    ),
    misconceptions=(
        Misconception(
            lambda t, shift: shift_time(shift_time(t, shift), shift),
            "the shift is applied twice. (It happens: one program shifts the schedule, another the model's clock.)",
        ),
        Misconception(
            lambda t, shift: shift_time(t, 1 / shift),
            "you move times towards the clean end; large shifts are for more steps in the noise.",
        ),
        Misconception(
            lambda t, shift: shift * t,
            "times above 1 mean nothing: t = 1 must stay 1. Divide by 1 + (shift - 1) t.",
        ),
        Misconception(
            lambda t, shift: min(1.0, shift * t),
            "you cut at 1, so all times above 1 / shift become pure noise. The formula bends instead of cutting.",
        ),
        Misconception(
            lambda t, shift: t ** (1 / shift),
            "a power bends time too, and keeps 0 and 1, but along another curve: shift 8 makes 0.5 0.89, not 0.92.",
        ),
    ),
)
