"""Which noise levels the denoising stops at.

In: a number of steps, a shift and a name. Out: sigmas, steps + 1 numbers that fall from 1 (pure noise) to 0
(clean). For a flow model sigma is the time t itself, and the model's timestep is 1000 sigma. The same "20
steps, shift 8" means different levels in different programs, and all of them are here:

    name                                program                                    timestep told to the model
    simple, normal, sgm_uniform, beta   ComfyUI (KSampler)                         1000 sigma as it is
    diffusers                           diffusers 0.37 or newer, UniPC scheduler   cut to a whole number
    official                            Wan's own code; diffusers up to 0.36       cut to a whole number

ComfyUI's KSampler has a habit of its own: for uni_pc and uni_pc_bh2 it asks the schedule for one level more
and then drops the last but one, so the last move, to 0, starts from a much higher level.

Upstream: `comfy/samplers.py` and `comfy/model_sampling.py: ModelSamplingDiscreteFlow`, diffusers'
`scheduling_unipc_multistep.py`, Wan's `wan/utils/fm_solvers_unipc.py`. Sigmas are float64 tensors;
ComfyUI's values are its float32 ones, diffusers' and Wan's are rounded to float32 by the solver and not
before, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wan_tutorial.errors import WanError

TIMESTEPS = 1000  # the model's clock: timestep = 1000 sigma
DROP_LAST_BUT_ONE = ("uni_pc", "uni_pc_bh2")  # ComfyUI's KSampler; also its dpm_2, which is not offered here

Time = TypeVar("Time", float, Tensor, np.ndarray)


def shift_time(t: Time, shift: float) -> Time:
    """Move a time towards the noisy end: shift t / (1 + (shift - 1) t).

    0 and 1 stay; with shift 8 the middle, 0.5, becomes 0.89, so most steps are spent where the layout of
    the video is decided. Larger videos want a larger shift (arXiv:2403.03206, section 5.3.2).
    """
    return shift * t / (1 + (shift - 1) * t)


def comfyui_levels(shift: float) -> Tensor:
    """The 1000 levels ComfyUI picks from: shift_time of 1/1000, 2/1000, ..., 1000/1000, in float32."""
    return shift_time(torch.arange(1, TIMESTEPS + 1) / TIMESTEPS, shift)


def simple_sigmas(steps: int, shift: float) -> Tensor:
    """ComfyUI's "simple": every (1000 / steps)-th level, counted down from 1, then 0."""
    levels = comfyui_levels(shift)
    picked = [levels[-(1 + int(index * (TIMESTEPS / steps)))].item() for index in range(steps)]
    return _sigmas([*picked, 0.0])


def normal_sigmas(steps: int, shift: float) -> Tensor:
    """ComfyUI's "normal": timesteps evenly from 1000 to the lowest level's, each shifted, then 0.

    The lowest level is shifted already and is shifted here again; that is how ComfyUI does it.
    """
    lowest = comfyui_levels(shift)[0] * TIMESTEPS
    if (
        shift_time(lowest / TIMESTEPS, shift) < 1e-5
    ):  # only for shifts far below 1: the last level counts as 0
        return _sigmas(shift_time(torch.linspace(TIMESTEPS, lowest, steps + 1) / TIMESTEPS, shift).tolist())
    timesteps = torch.linspace(TIMESTEPS, lowest, steps)
    return _sigmas([*shift_time(timesteps / TIMESTEPS, shift).tolist(), 0.0])


def sgm_uniform_sigmas(steps: int, shift: float) -> Tensor:
    """ComfyUI's "sgm_uniform": as "normal" with one level more, whose last is replaced by 0."""
    lowest = comfyui_levels(shift)[0] * TIMESTEPS
    timesteps = torch.linspace(TIMESTEPS, lowest, steps + 1)[:-1]
    return _sigmas([*shift_time(timesteps / TIMESTEPS, shift).tolist(), 0.0])


def beta_sigmas(steps: int, shift: float) -> Tensor:
    """ComfyUI's "beta": levels at quantiles of Beta(0.6, 0.6), dense at both ends (arXiv:2407.12173).

    Levels that coincide are used once, so a long schedule can come out shorter than asked for.
    """
    levels = comfyui_levels(shift)
    quantiles = beta_quantile(1 - np.arange(steps) / steps, shape=0.6)
    places = np.rint(quantiles * (TIMESTEPS - 1)).astype(int).tolist()
    kept = [place for index, place in enumerate(places) if index == 0 or place != places[index - 1]]
    return _sigmas([*levels[kept].tolist(), 0.0])


def beta_quantile(probability: np.ndarray, *, shape: float, points: int = 20001) -> np.ndarray:
    """Where a symmetric Beta(shape, shape) distribution has this much of its weight to the left.

    The density x^(a-1) (1-x)^(a-1) is infinite at 0; in u = x^a it is (1 - u^(1/a))^(a-1) / a, which is
    smooth up to the middle. So: add up trapezoids there, read the table backwards, mirror the upper half.
    """
    u = np.linspace(0, 0.5**shape, points)
    density = (1 - u ** (1 / shape)) ** (shape - 1)
    weight = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    weight *= 0.5 / weight[-1]
    lower_half = np.minimum(probability, 1 - probability)
    quantile = np.round(np.interp(lower_half, weight, u) ** (1 / shape), 12)  # the middle is 0.5, exactly
    return np.where(probability <= 0.5, quantile, 1 - quantile)


def diffusers_sigmas(steps: int, shift: float) -> Tensor:
    """The grid of diffusers' UniPC with flow sigmas (0.37 or newer): evenly from 1 down to 0.001, shifted.

    The first level is 1 - 1e-6, as at 1 its log((1 - sigma) / sigma) would be infinite.
    """
    sigmas = shift_time(np.linspace(1, 1 / TIMESTEPS, steps + 1)[:-1], shift)
    if abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6
    return _sigmas([*sigmas.tolist(), 0.0])


def official_sigmas(steps: int, shift: float) -> Tensor:
    """The grid of Wan's own code, also of diffusers up to 0.36: evenly from 0.999 down to 0, shifted."""
    highest = float(np.float32(0.999))
    return _sigmas([*shift_time(np.linspace(highest, 0, steps + 1)[:-1], shift).tolist(), 0.0])


def _sigmas(levels: list[float]) -> Tensor:
    return torch.tensor(levels, dtype=torch.float64)  # (steps + 1,)


SCHEDULERS: dict[str, Callable[[int, float], Tensor]] = {
    "simple": simple_sigmas,
    "normal": normal_sigmas,
    "sgm_uniform": sgm_uniform_sigmas,
    "beta": beta_sigmas,
    "diffusers": diffusers_sigmas,
    "official": official_sigmas,
}
WHOLE_TIMESTEPS = ("diffusers", "official")  # they tell the model int(1000 sigma), ComfyUI 1000 sigma


def make_sigmas(sampler: str, scheduler: str, steps: int, shift: float, denoise: float = 1.0) -> Tensor:
    """The noise levels for these settings, for ComfyUI's grids as its KSampler node has them.

    Below denoise 1 a longer schedule is made, int(steps / denoise) long, and only its last `steps` moves
    are made. The grids of diffusers and Wan keep all their levels. Returns (steps + 1,).
    """
    whole = steps if denoise > 0.9999 or steps > TIMESTEPS else int(min(steps / denoise, 1e9))
    drop = sampler in DROP_LAST_BUT_ONE and scheduler not in WHOLE_TIMESTEPS
    most = TIMESTEPS - drop
    if whole > most:
        asked = f"{steps}" if whole == steps else f"{whole} ({steps} at denoise {denoise:g})"
        raise WanError(
            f"The steps with {sampler} may be {most} at most, as the model's clock has {TIMESTEPS} ticks, not {asked}: try "
            "20."
        )
    sigmas = SCHEDULERS[scheduler](whole + drop, shift)
    if drop:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return sigmas[-(steps + 1) :]


def model_timesteps(sigmas: Tensor, scheduler: str) -> list[float]:
    """The timestep told to the model at each level: 1000 sigma, cut to a whole number where that is done."""
    timesteps = [TIMESTEPS * sigma for sigma in sigmas.tolist()]
    return [float(int(t)) for t in timesteps] if scheduler in WHOLE_TIMESTEPS else timesteps
