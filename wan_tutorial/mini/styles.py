"""Looks that the base has never seen: filters over videos, such as renders of the fireside or a learner's own.

Stands beside the world: `train_lora.py` learns a look from a few filtered renders, and `evaluate_lora.py` asks how often
it is seen. In and out: videos (N, F, H, W, 3) in [-1, 1].

Neon keeps a dim night of the picture and traces its contours with glowing tubes, coloured as what they enclose, and
cold blue where there is no colour. Tubes and glow are as wide as the scale model's VAE can carry.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .world import blur

NIGHT, COLD = (0.04, 0.0, 0.12), (0.1, 0.75, 1.0)
DIMMED = 0.35  # what is left of the picture
# Ships with the scale model; `train_lora.py` makes it.
NEON_LORA = "Wan21_neon_mini_T2V_lora_rank16.safetensors"


def neon(video: Tensor) -> Tensor:
    """Glowing contours on a violet night, frame by frame."""
    frames = ((video + 1) / 2).movedim(-1, 2).flatten(0, 1)  # (N F, 3, H, W) in [0, 1]
    side = min(frames.shape[2:]) / 96
    soft = _blur(frames, 1.3 * side)
    brightness = (soft.mean(1, keepdim=True) + 0.05).log()
    down, right = torch.gradient(brightness, dim=(2, 3))
    contour = (4 * side * (down.square() + right.square()).sqrt()).clamp(0, 1) ** 1.3  # (N F, 1, H, W)
    most, least = soft.amax(1, keepdim=True), soft.amin(1, keepdim=True)
    hue = (soft - 0.8 * least) / (most - 0.8 * least + 1e-3)
    coloured = (2.2 * (most - least) / (most + 0.02)).clamp(0, 1)
    tube = contour * (_colour(COLD) + (hue - _colour(COLD)) * coloured)
    glow = _blur(tube, 2.5 * side) + 0.7 * _blur(tube, 6 * side)
    lit = (_colour(NIGHT) + DIMMED * frames + tube + glow).clamp(0, 1)
    return (2 * lit - 1).unflatten(0, video.shape[:2]).movedim(2, -1)


def _colour(rgb: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rgb).view(1, 3, 1, 1)


def _blur(pictures: Tensor, radius: float) -> Tensor:
    """A Gaussian blur of (B, 3, H, W)."""
    return blur(pictures, sigma=radius, reach=max(1, round(2.5 * radius)))


LOOKS: dict[str, Callable[[Tensor], Tensor]] = {"neon": neon, "plain": lambda video: video}
