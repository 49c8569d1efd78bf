"""How to get from one noise level to the next: every solver a plain generator of the same signature.

    solver(velocity_of, latent, sigmas) -> Iterator[Step]

In: `velocity_of(latent, sigma)`, the model's answer to "which way is noise from here?"; a noisy latent of
any shape; the levels it passes, falling. Out: one Step for each move. All solve the same equation,
dx/dsigma = velocity, and read the velocity as a guess of the clean latent, clean = x - sigma velocity.
Written with that guess, the Euler step is a mix of where we are and where we think we are going:

    x_next = (sigma_next / sigma) x + (1 - sigma_next / sigma) clean

The better solvers ask how `clean` bends along the way and add what the bend amounts to. Latents keep their
dtype; every coefficient is a Python float (float64).

Upstream: k-diffusion's `sampling.py` and ComfyUI's `extra_samplers/uni_pc.py`, in which every sampler is
one function too; diffusers' `scheduling_unipc_multistep.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from wan_tutorial.noise import clean_guess

VelocityOf = Callable[[Tensor, float], Tensor]  # (latent, sigma) -> velocity, of the latent's shape
Sigmas = Sequence[float] | Tensor  # falling noise levels, one more than there are steps

# ComfyUI's uni_pc stops at 0.001, which its float32 way through sqrt(1 - 1 / (1 + sigma^2)) turns into this
COMFYUI_STOP = 0.0009765625


@dataclass(frozen=True, eq=False)
class Step:
    """One move of a solver: what it stood on, what the model said there, where it went.

    `latent_before` is what the model saw at `sigma`, `velocity` its answer (guided, where there is
    guidance), `latent` the state after the move, at `sigma_next`. `index` counts from 0 to steps - 1.
    `denoise` fills in the `timestep` the model was told and, under guidance, the velocities for the
    positive and the negative prompt.
    """

    index: int
    steps: int
    sigma: float
    sigma_next: float
    latent_before: Tensor
    velocity: Tensor
    latent: Tensor
    timestep: float | None = None
    positive: Tensor | None = None
    negative: Tensor | None = None

    @property
    def clean_guess(self) -> Tensor:
        """What the model would call the finished latent, judging from this step alone."""
        return clean_guess(self.latent_before, self.velocity, self.sigma)


def euler(velocity_of: VelocityOf, latent: Tensor, sigmas: Sigmas) -> Iterator[Step]:
    """Follow the velocity in a straight line to the next level. One model call for each step, first order.

    x_next = x + (sigma_next - sigma) velocity
    """
    levels = _floats(sigmas)
    for index, (sigma, sigma_next) in enumerate(pairwise(levels)):
        velocity = velocity_of(latent, sigma)
        before, latent = latent, latent + (sigma_next - sigma) * velocity
        yield Step(index, len(levels) - 1, sigma, sigma_next, before, velocity, latent)


def heun(velocity_of: VelocityOf, latent: Tensor, sigmas: Sigmas) -> Iterator[Step]:
    """Take an Euler step, look at the velocity there, go back and follow the mean of the two. Second order.

    Two model calls for each step but the last, which is Euler's: at sigma 0 there is no noise left to ask
    about.
    """
    levels = _floats(sigmas)
    for index, (sigma, sigma_next) in enumerate(pairwise(levels)):
        velocity = velocity_of(latent, sigma)
        before, latent = latent, latent + (sigma_next - sigma) * velocity
        if sigma_next > 0:
            velocity_there = velocity_of(latent, sigma_next)
            latent = before + (sigma_next - sigma) * (velocity + velocity_there) / 2
        yield Step(index, len(levels) - 1, sigma, sigma_next, before, velocity, latent)


def dpmpp_2m(velocity_of: VelocityOf, latent: Tensor, sigmas: Sigmas) -> Iterator[Step]:
    """DPM-Solver++(2M): the last two clean guesses show where the guess is heading. Second order, one call.

    The guess is taken to change evenly in -log(sigma); half a step ahead it is
    clean + (clean - clean_last) / (2 r), r = last step / this step (arXiv:2211.01095, algorithm 2).
    """
    levels = _floats(sigmas)
    clean_last, length_last = None, 0.0
    for index, (sigma, sigma_next) in enumerate(pairwise(levels)):
        velocity = velocity_of(latent, sigma)
        clean = target = clean_guess(latent, velocity, sigma)
        if sigma_next > 0:
            length = math.log(sigma / sigma_next)
            if clean_last is not None:
                target = clean + (clean - clean_last) * length / (2 * length_last)
            clean_last, length_last = clean, length
        keep = sigma_next / sigma
        before, latent = latent, keep * latent + (1 - keep) * target
        yield Step(index, len(levels) - 1, sigma, sigma_next, before, velocity, latent)


@dataclass(frozen=True)
class UniPC:
    """What distinguishes the UniPCs in use; the loop, `unified_predictor_corrector`, is one.

    `order`: how many clean guesses a prediction looks at. `half_log_snr`: the time in which the bend is
    measured. `signal`: how much of the clean latent is in x at a level, in that reading. `bend`: the
    paper's B(h), as a function of hh = -h.
    """

    order: int
    half_log_snr: Callable[[float], float]
    signal: Callable[[float], float]
    bend: Callable[[float], float]


@dataclass(frozen=True)
class Seen:
    """A clean guess the solver remembers, and where it was made: the level, and its half-log-SNR."""

    sigma: float
    half_log_snr: float
    clean: Tensor


def uni_pc(velocity_of: VelocityOf, latent: Tensor, sigmas: Sigmas) -> Iterator[Step]:
    """UniPC as ComfyUI's "uni_pc" has it: B(h) = -h ("bh1"), up to three guesses, in the time -log(sigma)."""
    return _comfyui_uni_pc(velocity_of, latent, sigmas, bend=lambda hh: hh)


def uni_pc_bh2(velocity_of: VelocityOf, latent: Tensor, sigmas: Sigmas) -> Iterator[Step]:
    """UniPC as ComfyUI's "uni_pc_bh2" has it: as `uni_pc`, with B(h) = exp(-h) - 1."""
    return _comfyui_uni_pc(velocity_of, latent, sigmas, bend=math.expm1)


def uni_pc_diffusers(velocity_of: VelocityOf, latent: Tensor, sigmas: Sigmas) -> Iterator[Step]:
    """UniPC as in diffusers and Wan's own code: "bh2", two guesses, in the time log((1 - sigma) / sigma).

    That time is infinite at sigma 1, so levels above 1 - 1e-6 count as 1 - 1e-6, which is where diffusers
    starts.
    """
    kind = UniPC(
        order=2,
        half_log_snr=lambda sigma: math.log(1 / min(sigma, 1 - 1e-6) - 1),
        signal=lambda sigma: 1 - sigma,
        bend=math.expm1,
    )
    return unified_predictor_corrector(velocity_of, latent, _floats(sigmas), kind)


def unified_predictor_corrector(
    velocity_of: VelocityOf, latent: Tensor, levels: list[float], kind: UniPC
) -> Iterator[Step]:
    """UniPC (arXiv:2302.04867): predict the next latent; once the model has been asked there, redo the move.

    The correction needs no model call of its own: it uses the call that the next prediction needs anyway.
    The first steps have few guesses to look back on, and the last ones look back less so as not to
    overshoot.
    """
    steps = len(levels) - 1
    seen: list[Seen] = []  # newest first
    start, used = latent, 0  # where the last move began, and how many older guesses it looked at
    for index, (sigma, sigma_next) in enumerate(pairwise(levels)):
        velocity = velocity_of(latent, sigma)
        here, before = Seen(sigma, kind.half_log_snr(sigma), clean_guess(latent, velocity, sigma)), latent
        if index > 0:  # correct: the last move again, now knowing the guess made where it led
            latent = unipc_move(start, seen[0], [*seen[1 : 1 + used], here], sigma, kind)
        seen = [here, *seen][: kind.order]
        used = min(kind.order, index + 1, steps - index) - 1
        start = latent
        latent = unipc_move(start, here, seen[1 : 1 + used], sigma_next, kind)  # predict
        yield Step(index, steps, sigma, sigma_next, before, velocity, latent)


def unipc_move(latent: Tensor, here: Seen, others: list[Seen], sigma_next: float, kind: UniPC) -> Tensor:
    """Move to sigma_next: Euler's step, plus the bend that the other clean guesses show.

    x_next = keep x + (1 - keep) clean - signal B(h) sum of rho_m (clean_m - clean) / r_m, with keep the
    ratio of the sigmas, h the length of the step in half-log-SNR and r_m the place of guess m, in units of
    h, seen from here.
    """
    keep = sigma_next / here.sigma
    moved = keep * latent + (1 - keep) * here.clean
    if not others:
        return moved
    length = kind.half_log_snr(sigma_next) - here.half_log_snr
    places = [(other.half_log_snr - here.half_log_snr) / length for other in others]
    scale = kind.signal(sigma_next) * kind.bend(-length)
    for rho, place, other in zip(unipc_weights(places, length, kind.bend), places, others, strict=True):
        moved = moved - scale * rho / place * (other.clean - here.clean)
    return moved


def unipc_weights(places: list[float], length: float, bend: Callable[[float], float]) -> list[float]:
    """The rho that make the move exact for clean guesses that are polynomials in half-log-SNR.

    They solve sum over m of rho_m r_m^(k-1) = k! phi_(k+1)(-h) / B(h), k = 1, 2, ..., where
    phi_1(z) = (e^z - 1) / z and phi_(k+1)(z) = (phi_k(z) - 1/k!) / z. A single guess gets one half, as in
    the authors' own code.
    """
    if len(places) == 1:
        return [0.5]
    hh = -length
    powers = torch.tensor([[r**row for r in places] for row in range(len(places))], dtype=torch.float64)
    phi, right = math.expm1(hh) / hh - 1, []  # phi is hh phi_(k+1)(hh)
    for k in range(1, len(places) + 1):
        right.append(phi * math.factorial(k) / bend(hh))
        phi = phi / hh - 1 / math.factorial(k + 1)
    return torch.linalg.solve(powers, torch.tensor(right, dtype=torch.float64)).tolist()


def _comfyui_uni_pc(
    velocity_of: VelocityOf, latent: Tensor, sigmas: Sigmas, *, bend: Callable[[float], float]
) -> Iterator[Step]:
    """ComfyUI's UniPC with its two quirks: it stops at sigma 0.001 and divides the result by 0.999.

    Its order is min(3, steps - 1), at least 1 here. (Read in its code, not run: with one step its order is
    0 and the noise comes back unmoved; here one step is Euler's.)
    """
    levels = _floats(sigmas)
    steps = len(levels) - 1
    stops_at_zero = levels[-1] == 0
    if stops_at_zero:
        levels[-1] = COMFYUI_STOP
    order = max(1, min(3, steps - 1))
    # ComfyUI works on x / sqrt(1 + sigma^2); seen from x itself, the signal is 1 at every level
    kind = UniPC(order, half_log_snr=lambda sigma: -math.log(sigma), signal=lambda sigma: 1.0, bend=bend)
    for step in unified_predictor_corrector(velocity_of, latent, levels, kind):
        if stops_at_zero and step.index == steps - 1:
            step = replace(step, sigma_next=0.0, latent=step.latent / (1 - 0.001))
        yield step


def _floats(sigmas: Sigmas) -> list[float]:
    return sigmas.tolist() if isinstance(sigmas, Tensor) else [float(sigma) for sigma in sigmas]


SOLVERS: dict[str, Callable[[VelocityOf, Tensor, Sigmas], Iterator[Step]]] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "uni_pc": uni_pc,
    "uni_pc_bh2": uni_pc_bh2,
    "uni_pc_diffusers": uni_pc_diffusers,
}
