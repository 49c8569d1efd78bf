"""The denoising loop: settings and a velocity become a generator of named steps.

The third stage. In: noise (B, C, F, H, W), a `velocity_of(latent, sigma)` (the guided transformer, or any
function), settings. Out: one Step after the other; the last one's `latent` goes to the VAE. Progress bars,
previews and early stops need no callbacks: they are a `for` loop that looks, or breaks.

Upstream: ComfyUI's `KSampler` (`comfy/samplers.py`), the loop in diffusers' `pipeline_wan_vace.py`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wan_tutorial.errors import WanError
from wan_tutorial.noise import mix
from wan_tutorial.sampling.schedules import SCHEDULERS, TIMESTEPS, make_sigmas, model_timesteps
from wan_tutorial.sampling.solvers import SOLVERS, Step, VelocityOf

# Beyond them neighbouring levels become one number in float32. ComfyUI's node ends at 100 as well.
SMALLEST_SHIFT, LARGEST_SHIFT = 0.01, 100.0
LARGEST_GUIDANCE = 100.0  # where ComfyUI's node ends

Model = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # (latent, timestep (B,) in 0..1000, text (B, L, D)) -> velocity


@dataclass(frozen=True)
class SamplingSettings:
    """What a person sets in ComfyUI's KSampler and ModelSamplingSD3 nodes; it checks itself.

    `steps`: moves from noise to clean. `guidance`: how far past the negative prompt's velocity to go
    (ComfyUI's cfg); 1 leaves the negative prompt out. `shift`: how long to stay among the high noise
    levels. `denoise`: below 1, how much of the way to go back into noise when starting from a given video.
    """

    steps: int = 20
    guidance: float = 6.0
    shift: float = 8.0
    sampler: str = "uni_pc"
    scheduler: str = "simple"
    denoise: float = 1.0

    def __post_init__(self) -> None:
        _check_name("sampler", self.sampler, SOLVERS)
        _check_name("scheduler", self.scheduler, SCHEDULERS)
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise WanError(f"The steps must be a whole number, 1 or more, not {self.steps!r}: try 20.")
        if not _is_number(self.guidance) or not 0 <= self.guidance <= LARGEST_GUIDANCE:
            raise WanError(
                f"The guidance must be a number from 0 to {LARGEST_GUIDANCE:g}, not {self.guidance!r}: try 6, or 1 for "
                "none."
            )
        if not _is_number(self.shift) or not SMALLEST_SHIFT <= self.shift <= LARGEST_SHIFT:
            raise WanError(
                f"The shift must be a number from {SMALLEST_SHIFT:g} to {LARGEST_SHIFT:g}, not {self.shift!r}: try 8, or "
                "1 for none."
            )
        if not _is_number(self.denoise) or not 0 < self.denoise <= 1:
            raise WanError(f"The denoise must be above 0 and at most 1, not {self.denoise!r}: try 1, or 0.6.")
        _ = self.sigmas  # raises where steps / denoise asks for more levels than there are

    @property
    def sigmas(self) -> Tensor:
        """The noise levels of these settings, (steps + 1,), float64, falling to 0."""
        return make_sigmas(self.sampler, self.scheduler, self.steps, self.shift, self.denoise)

    @property
    def timesteps(self) -> list[float]:
        """What the model is told at each of these levels; see `schedules.model_timesteps`."""
        return model_timesteps(self.sigmas, self.scheduler)


def denoise(
    velocity_of: VelocityOf, noise: Tensor, *, settings: SamplingSettings, start: Tensor | None = None
) -> Iterator[Step]:
    """Turn noise into a clean latent, one Step at a time.

    `velocity_of(latent, sigma)` answers for a latent at a noise level; a `GuidedVelocity` also lends its
    two halves to the steps. `start` is a clean latent to begin from when settings.denoise is below 1: it is
    mixed with the noise at the first level and only the rest of the way is made. Stop early by leaving the
    loop or by `close()`. Raises WanError here, before the first step.
    """
    check_start(settings, start)
    if start is not None and start.shape != noise.shape:
        raise WanError(
            f"The latent to start from must have the shape of the noise, {tuple(noise.shape)}, "
            f"not {tuple(start.shape)}: encode a video of the same size."
        )
    return _steps(velocity_of, noise, settings, start)


def check_start(settings: SamplingSettings, start: object) -> None:
    """WanError where the settings need something to start from, and there is nothing."""
    if start is None and settings.denoise < 1:
        raise WanError(
            f"A denoise of {settings.denoise:g} goes only part of the way into noise, so it needs a video to "
            "start from: give one, or set denoise to 1."
        )


@torch.no_grad()  # torch keeps this to the inside of the generator: the caller's own gradients are untouched
def _steps(
    velocity_of: VelocityOf, noise: Tensor, settings: SamplingSettings, start: Tensor | None
) -> Iterator[Step]:
    sigmas = settings.sigmas.float().tolist()  # float32 values, as in ComfyUI and diffusers
    told = dict(zip(sigmas, settings.timesteps, strict=True))
    halves: dict[float, tuple[Tensor | None, Tensor | None]] = {}

    def velocity_at(latent: Tensor, sigma: float) -> Tensor:
        velocity = velocity_of(latent, told[sigma] / TIMESTEPS)
        if not velocity.isfinite().all():
            raise WanError(
                f"At noise level {sigma:.3g} the model answers with numbers that are not finite: its file is damaged, or "
                "the noise, text or context it was given is; download the file again, or try another prompt and picture."
            )
        halves[sigma] = (getattr(velocity_of, "positive", None), getattr(velocity_of, "negative", None))
        return velocity.to(latent.dtype)

    latent = noise if start is None else mix(start, noise, sigmas[0])
    for step in SOLVERS[settings.sampler](velocity_at, latent, sigmas):
        positive, negative = halves.pop(step.sigma)
        yield replace(step, timestep=told[step.sigma], positive=positive, negative=negative)


class GuidedVelocity:
    """A `velocity_of(latent, sigma)` made of a model, its prompts and a guidance; see `guided_velocity`.

    `positive` and `negative` are the two velocities behind its last answer; None where not computed.
    """

    def __init__(self, model: Model, texts: Sequence[Tensor], guidance: float, *, together: bool) -> None:
        self.model, self.texts, self.guidance, self.together = model, texts, guidance, together
        self.positive: Tensor | None = None
        self.negative: Tensor | None = None

    def __call__(self, latent: Tensor, sigma: float) -> Tensor:
        answers = self.ask_together(latent, sigma) if self.together else self.ask_in_turn(latent, sigma)
        self.positive, self.negative = answers[0].to(latent.dtype), None
        if len(answers) == 1:
            return self.positive
        self.negative = answers[1].to(latent.dtype)  # before the difference: half precision would coarsen it
        return self.negative + self.guidance * (self.positive - self.negative)

    def ask_in_turn(self, latent: Tensor, sigma: float) -> list[Tensor]:
        """One model call for each prompt: the plain way, and the one that needs less memory."""
        timestep = torch.full((len(latent),), TIMESTEPS * sigma, dtype=torch.float32, device=latent.device)
        texts = [text.expand(len(latent), *text.shape[1:]) for text in self.texts]  # (B, L, D) each
        return [self.model(latent, timestep, text) for text in texts]

    def ask_together(self, latent: Tensor, sigma: float) -> list[Tensor]:
        """One model call for both prompts, as a batch: the fast way, with the same answers."""
        batch = torch.cat([latent] * len(self.texts))  # (2B, C, F, H, W)
        timestep = torch.full((len(batch),), TIMESTEPS * sigma, dtype=torch.float32, device=latent.device)
        text = torch.cat([text.expand(len(latent), *text.shape[1:]) for text in self.texts])  # (2B, L, D)
        return list(self.model(batch, timestep, text).chunk(len(self.texts)))


def guided_velocity(
    model: Model, positive: Tensor, negative: Tensor | None, guidance: float, *, together: bool = True
) -> GuidedVelocity:
    """Join two prompts into one velocity: negative + guidance (positive - negative).

    Classifier-free guidance (arXiv:2207.12598). At guidance 1 this is the positive velocity, so the
    negative prompt is not asked at all, as in ComfyUI and diffusers. `positive` and `negative` are
    embeddings (1, L, D) or (B, L, D); `model(latent, timestep, text)` gets the timestep as (B,) in 0..1000.
    `together` batches both prompts in one call.
    """
    if math.isclose(guidance, 1.0):
        return GuidedVelocity(model, [positive], guidance, together=together)
    if negative is None:
        raise WanError(
            f"A guidance of {guidance:g} needs a negative prompt, which may be empty; or set guidance to 1."
        )
    if positive.shape[1:] != negative.shape[1:]:
        raise WanError(
            f"The positive and negative embeddings must have one shape, not {tuple(positive.shape)} and "
            f"{tuple(negative.shape)}: encode both with the same length."
        )
    return GuidedVelocity(model, [positive, negative], guidance, together=together)


def _check_name(kind: str, name: str, known: dict) -> None:
    if not isinstance(name, str) or name not in known:
        close = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise WanError(f"There is no {kind} called {name!r}.{hint} Known: {', '.join(known)}.")


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)  # of any length: no float could hold some
