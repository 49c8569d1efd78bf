"""Exercises of lesson 06: what the VAE squeezes, what that costs, and which frames a latent frame reaches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wan_tutorial.exercises.first import SIZES, latent_shape
from wan_tutorial.exercises.marking import Exercise, Misconception


def psnr(video: Tensor, copy: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels of pixels in [-1, 1]: their whole range, 2, over the error, squared."""
    return 10 * math.log10(4 / (copy - video).square().mean())


def compression_ratio(width: int, height: int, frames: int, bits: int) -> float:
    """How many times smaller a latent of `bits` a number is than its video of 8 bits a colour."""
    return 8 * 3 * frames * height * width / (bits * math.prod(latent_shape(width, height, frames)))


def first_changed(latent_frame: int) -> int:
    """The first pixel frame that changes with a latent frame: 0 for the first, which stands alone, then 4j - 3."""
    return max(0, 4 * latent_frame - 3)


def _pairs(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Videos and copies whose errors differ from frame to frame."""
    pairs = []
    for error in (0.3, 0.05, 0.01):
        video = torch.rand(5, 8, 8, 3, generator=generator) * 2 - 1
        growing = error * torch.arange(1, 6).view(5, 1, 1, 1)
        pairs.append((video, video + growing * torch.randn(video.shape, generator=generator)))
    return pairs


def _by_frame(video: Tensor, copy: Tensor) -> float:
    return sum(map(psnr, video, copy)) / len(video)


check_psnr = Exercise(
    solution=psnr,
    inputs=_pairs,
    praise="Half the error is 6 dB more, a tenth of it 20. A still from a good film on disc is above 40.",
    hints=(
        "First one number for the error: the mean over everything of the squared difference.",
        "The pixels reach from -1 to 1, so their range is 2, and its square is 4. Divide 4 by the error.",
        "10 * math.log10(4 / (copy - video).square().mean())",
    ),
    misconceptions=(
        Misconception(
            lambda video, copy: psnr(video, copy) - 20 * math.log10(2),
            "you take 1 for the range, which is right for pixels from 0 to 1. Here they go from -1 to 1: 6 dB are lost.",
        ),
        Misconception(
            lambda video, copy: psnr(video, copy) + 20 * math.log10(255 / 2),
            "you take 255 for the range, which is right for whole numbers in files. Here pixels go from -1 to 1.",
        ),
        Misconception(
            lambda video, copy: psnr(video, copy) / 2,
            "you divide by the root of the squared error: decibels count power, so both are squared.",
        ),
        Misconception(
            lambda video, copy: 20 * math.log10(2 / (copy - video).abs().mean()),
            "you take the mean of the absolute error. The squared one counts a few large errors more.",
        ),
        Misconception(
            lambda video, copy: 10 * math.log(4 / (copy - video).square().mean()),
            "you take the natural logarithm; decibels count powers of ten: math.log10.",
        ),
        Misconception(
            _by_frame,
            "you take a PSNR of each frame and then the mean, as some papers do. Here: one error for the whole video.",
        ),
    ),
)

check_compression_ratio = Exercise(
    solution=compression_ratio,
    inputs=lambda generator: [(*size, bits) for size, bits in zip(SIZES, (16, 32, 16, 8, 16), strict=True)],
    praise="A latent of 16 bits a number is near 24 times smaller than its video; in 32 bits only 12 times.",
    hints=(
        "Count the bits of the video and the bits of the latent, and divide.",
        "The video has 3 colours of 8 bits for each pixel of each frame. The latent has the shape of lesson 00.",
        "8 * 3 * frames * height * width / (bits * 16 * ((frames - 1) // 4 + 1) * (height // 8) * (width // 8))",
    ),
    misconceptions=(
        Misconception(
            lambda width, height, frames, bits: compression_ratio(width, height, frames, 8),
            "you count numbers. But a number of the latent takes `bits` bits, and one of the video 8.",
        ),
        Misconception(
            lambda width, height, frames, bits: 4 * compression_ratio(width, height, frames, bits),
            "you give the video's numbers 32 bits, as they have inside the model. On a disk and a screen they have 8.",
        ),
        Misconception(
            lambda width, height, frames, bits: compression_ratio(width, height, frames, bits) / 3,
            "you count one number for each pixel; it has three, red, green and blue.",
        ),
        Misconception(
            lambda width, height, frames, bits: 8 * 3 * 4 * 64 / (bits * 16),
            "you count four frames for every latent frame. The first stands alone, and short videos feel it.",
        ),
        Misconception(
            lambda width, height, frames, bits: 1 / compression_ratio(width, height, frames, bits),
            "you divide the latent by the video. Asked is how many times smaller the latent is.",
        ),
    ),
)

check_first_changed = Exercise(
    solution=first_changed,
    inputs=lambda generator: [(frame,) for frame in (1, 2, 0, 3, 5, 20)],
    praise="Nothing before it changes at all, not in the last bit: no layer of the decoder looks forwards.",
    hints=(
        "Latent frame 0 stands for frame 0 alone. Which frames does latent frame 1 stand for? And 2?",
        "1 to 4, then 5 to 8, then 9 to 12: the first of them grows by four.",
        "max(0, 4 * latent_frame - 3)",
    ),
    misconceptions=(
        Misconception(
            lambda latent_frame: 4 * latent_frame,
            "you give four frames to each latent frame, the first included. It stands for one frame alone.",
        ),
        Misconception(
            lambda latent_frame: 4 * latent_frame + 1,
            "you begin after the frames that this latent frame stands for. It changes these four first of all.",
        ),
        Misconception(
            lambda latent_frame: 0,
            "you let the change reach back to the beginning. The decoder looks only backwards, so changes go forwards.",
        ),
        Misconception(
            lambda latent_frame: latent_frame,
            "you count latent frames as if they were frames; after the first, each stands for four.",
        ),
    ),
)
