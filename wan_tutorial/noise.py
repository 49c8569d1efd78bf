"""A seed becomes noise, and noise and a clean latent become each other.

The second stage. In: a size and a seed. Out: latent noise (B, C, F, H, W), float32 on the CPU. The draw is
that of ComfyUI's `comfy/sample.py: prepare_noise`; diffusers' `randn_tensor` with a CPU generator draws the
same numbers.

The one line that the whole kit stands on (rectified flow, arXiv:2209.03003):

    x_t = (1 - t) clean + t noise        so that        dx/dt = noise - clean = velocity
"""

from __future__ import annotations

import torch
from torch import Tensor

from wan_tutorial.errors import WanError
from wan_tutorial.sizes import LATENT_CHANNELS, VideoSize

LARGEST_SEED = 2**64 - 1  # torch's generator and ComfyUI's seed field both hold 64 bits


def draw_noise(size: VideoSize, *, seed: int, extra_frames: int = 0) -> Tensor:
    """Draw the noise a video of this size starts from; the same seed is the same noise on every machine.

    Drawn on the CPU in float32 whatever the device, because GPUs count their random numbers differently.
    `extra_frames` are latent frames put before the video's own, one for each reference image. They change
    the whole draw, as the numbers fill channel after channel. Returns (1, 16, F + extra_frames, H, W).
    """
    check_seed(seed)
    if not isinstance(extra_frames, int) or extra_frames < 0:
        raise WanError(f"The extra latent frames must be a whole number, 0 or more, not {extra_frames!r}.")
    generator = torch.Generator(device="cpu").manual_seed(seed)  # leaves torch's global generator alone
    shape = (1, LATENT_CHANNELS, size.latent_frames + extra_frames, size.latent_height, size.latent_width)
    try:
        return torch.randn(shape, generator=generator, dtype=torch.float32)  # (1, C, F + extra, H, W)
    except RuntimeError as error:  # torch asks for the memory at once
        raise WanError(
            f"This machine's memory does not hold the noise of a video of {size}: try 96x96x13."
        ) from error


def check_seed(seed: int) -> None:
    """WanError for a seed that torch's generator cannot take."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise WanError(f"A seed is a whole number from 0 to 2^64 - 1, not {seed!r}: try 7.")


def mix(clean: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    """Stand at time t on the straight line from clean (t = 0) to noise (t = 1): (1 - t) clean + t noise.

    `t` is one number, or a tensor (B,) with one for each sample.
    """
    if isinstance(t, Tensor) and t.ndim == 1:
        t = t.reshape(-1, *[1] * (clean.ndim - 1))  # (B, 1, 1, ...)
    return (1 - t) * clean + t * noise


def clean_guess(latent: Tensor, velocity: Tensor, t: float) -> Tensor:
    """Where the straight line through `latent` along `velocity` ends at t = 0: latent - t velocity."""
    return latent - t * velocity
