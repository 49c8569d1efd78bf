"""Exercises of lesson 11: the loss a transformer learns from, captions left out, and weights averaged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Function, Misconception
from wan_tutorial.noise import mix


def flow_loss(model: Function, clean: Tensor, noise: Tensor, t: float) -> Tensor:
    """Squared error of the velocity that the model answers at time t; one number that gradients can flow back from."""
    noisy = (1 - t) * clean + t * noise
    return (model(noisy, t) - (noise - clean)).square().mean()


def drop_captions(text: Tensor, empty: Tensor, rolls: Tensor, share: float) -> Tensor:
    """Captions (B, L, D) with those whose roll (B,), between 0 and 1, is below `share` replaced by the empty one (L, D)."""
    return torch.where((rolls < share)[:, None, None], empty, text)


def moving_average(average: Tensor, weights: Tensor, keep: float) -> Tensor:
    """The averaged weights after one more step: mostly what they were, and a little of what the weights are now."""
    return keep * average + (1 - keep) * weights


@dataclass(frozen=True)
class _Model:
    """A model that answers what it sees, made a little larger, and the time."""

    slope: float

    def __call__(self, latent: Tensor, t: float) -> Tensor:
        return self.slope * latent + t

    def __repr__(self) -> str:
        return "a model"


def _moments(generator: torch.Generator) -> list[tuple[object, ...]]:
    shape = (2, 16, 2, 3, 4)
    return [
        (_Model(slope), torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), t)
        for slope, t in ((0.5, 0.3), (1.0, 0.5), (-0.2, 0.9), (0.7, 0.1))
    ]


def _captions(generator: torch.Generator) -> list[tuple[object, ...]]:
    return [
        (*(torch.randn(shape, generator=generator) for shape in ((6, 4, 3), (4, 3))), torch.tensor(rolls), share)
        for rolls, share in (
            ([0.05, 0.5, 0.92, 0.3, 0.08, 0.7], 0.1),
            ([0.6, 0.02, 0.4, 0.2, 0.97, 0.35], 0.3),
            ([0.9, 0.8, 0.3, 0.5, 0.6, 0.7], 0.1),
        )
    ]  # fmt: skip


check_flow_loss = Exercise(
    solution=flow_loss,
    inputs=_moments,
    praise="These two lines are the whole lesson plan of the transformer, the scale model's and Wan's alike.",
    hints=(
        "Mix clean and noise as in lesson 02, and show that to the model, with the time.",
        "The model should answer noise - clean. Square what it is off by, and take the mean over everything.",
        "noisy = (1 - t) * clean + t * noise, then (model(noisy, t) - (noise - clean)).square().mean()",
    ),
    misconceptions=(
        Misconception(
            lambda model, clean, noise, t: (model(mix(clean, noise, t), t) - noise).square().mean(),
            "you ask for the noise, as DDPM and Stable Diffusion do. Wan asks for the velocity, noise - clean.",
        ),
        Misconception(
            lambda model, clean, noise, t: (model(mix(clean, noise, t), t) - clean).square().mean(),
            "you ask for the clean video itself. Wan asks for the velocity, noise - clean.",
        ),
        Misconception(
            lambda model, clean, noise, t: (model(mix(clean, noise, t), t) - (clean - noise)).square().mean(),
            "your velocity points from noise to clean. It is noise - clean: how the latent changes when t grows.",
        ),
        Misconception(
            lambda model, clean, noise, t: (model(mix(noise, clean, t), t) - (noise - clean)).square().mean(),
            "your time runs backwards: at t = 1 the model must see pure noise.",
        ),
        Misconception(
            lambda model, clean, noise, t: (model(clean, t) - (noise - clean)).square().mean(),
            "you show the model the clean video, so it never learns what to do with noise.",
        ),
        Misconception(
            lambda model, clean, noise, t: (model(mix(clean, noise, t), t) - (noise - clean)).abs().mean(),
            "you take the absolute error. Its best answer is a median; the squared error's is the mean, the true velocity.",
        ),
    ),
)  # fmt: skip

check_drop_captions = Exercise(
    solution=drop_captions,
    inputs=_captions,
    praise="So one model learns both: what a prompt asks for, and what videos look like when nobody asks.",
    hints=(
        "Which captions go? Those whose roll is below the share. Each has its own roll.",
        "torch.where(condition, a, b) takes a where the condition holds. The condition has the shape (B,), so give it "
        "two more: (rolls < share)[:, None, None].",
        "torch.where((rolls < share)[:, None, None], empty, text)",
    ),
    misconceptions=(
        Misconception(
            lambda text, empty, rolls, share: text * (rolls >= share)[:, None, None],
            "you put zeros. The empty prompt is not nothing: it has a row that says that the prompt ends.",
        ),
        Misconception(
            lambda text, empty, rolls, share: drop_captions(text, empty, 1 - rolls, 1 - share),
            "you keep the share and drop the rest: nine captions in ten are gone, and the model hardly learns to read.",
        ),
        Misconception(
            lambda text, empty, rolls, share: drop_captions(text, empty, rolls[:1].expand(len(rolls)), share),
            "you decide once for the whole batch. Each caption has its own roll.",
        ),
        Misconception(
            lambda text, empty, rolls, share: (1 - share) * text + share * empty,
            "you mix a share of the empty prompt into every caption. A caption stays whole or goes whole.",
        ),
    ),
)

check_moving_average = Exercise(
    solution=moving_average,
    inputs=lambda g: [
        (torch.randn(3, 4, generator=g), torch.randn(3, 4, generator=g), keep) for keep in (0.999, 0.9, 0.7)
    ],
    praise="With 0.999 it remembers about a thousand steps. What is shipped are these weights, not the last ones.",
    hints=(
        "If keep is 1, the average stays what it is; if it is 0, it is the weights of now.",
        "How much of the new weights comes in, so that both shares make 1?",
        "keep * average + (1 - keep) * weights",
    ),
    misconceptions=(
        Misconception(
            lambda average, weights, keep: (1 - keep) * average + keep * weights,
            "you keep little of the average and take nearly all of the new weights: it forgets at once.",
        ),
        Misconception(
            lambda average, weights, keep: (average + weights) / 2,
            "you take the mean of both and never look at keep: it remembers about two steps.",
        ),
        Misconception(
            lambda average, weights, keep: average + (1 - keep) * weights,
            "you add the new without taking from the old, so the average grows with every step.",
        ),
    ),
)
