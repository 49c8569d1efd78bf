"""Exercises of lesson 08: what the VACE blocks are fed, cut and counted by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from wan_tutorial.exercises.first import SIZES, latent_shape
from wan_tutorial.exercises.marking import Exercise, Misconception


def split_video(video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What stays and what is painted over, (f, h, w, 3) each, grey where the other is; the mask (f, h, w) is 1 to paint."""
    mask = mask[..., None]
    return video * (1 - mask), video * mask


def mask_cells(mask: Tensor) -> Tensor:
    """One frame's mask (height, width) -> (64, height/8, width/8): a channel for each of a cell's 8 x 8 pixels."""
    height, width = mask.shape
    blocks = mask.reshape(height // 8, 8, width // 8, 8)  # (H, 8, W, 8)
    return blocks.permute(1, 3, 0, 2).reshape(64, height // 8, width // 8)


def context_shape(width: int, height: int, frames: int, references: int) -> tuple[int, int, int, int]:
    """The shape (channels, frames, height, width) of what the VACE blocks look at."""
    _, latent_frames, rows, columns = latent_shape(width, height, frames)
    return 16 + 16 + 64, references + latent_frames, rows, columns


def _videos(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Videos and masks of zeros and ones, each with some of both."""
    pairs = []
    for frames, height, width in ((5, 8, 12), (1, 16, 8), (3, 6, 6)):
        video = torch.rand(frames, height, width, 3, generator=generator) * 2 - 1
        pairs.append((video, (torch.rand(frames, height, width, generator=generator) > 0.4).float()))
    return pairs


def _with_nothing_as(value: float, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts with another colour than grey where the other is."""
    stays, painted = split_video(video, mask)
    return stays + value * mask[..., None], painted + value * (1 - mask[..., None])


def _masks(generator: torch.Generator) -> list[tuple[Tensor]]:
    return [
        ((torch.rand(size, generator=generator) > 0.5).float(),) for size in ((16, 24), (96, 96), (48, 32))
    ]


def _blocks(mask: Tensor) -> Tensor:
    return mask.reshape(mask.shape[0] // 8, 8, mask.shape[1] // 8, 8)


check_split_video = Exercise(
    solution=split_video,
    inputs=_videos,
    praise="Grey is 0, the middle of -1 to 1. Where one part shows the video, the other is grey; their sum is the video.",
    hints=(
        "The mask has no axis of colours yet: mask[..., None] has one, and then it can be multiplied with the video.",
        "Where the mask is 1, the video is painted over. Times the mask is that part; times (1 - mask) is what stays.",
        "video * (1 - mask[..., None]), video * mask[..., None]",
    ),
    misconceptions=(
        Misconception(
            lambda video, mask: split_video(video, 1 - mask),
            "you keep what the mask marks. In VACE a mask says where to paint; in Wan's image-to-video model it says "
            "where to keep, which is why the two are so often confused.",
        ),
        Misconception(
            lambda video, mask: _with_nothing_as(-1, video, mask),
            "you put -1 where nothing is, and that is black: something to be seen. Nothing is 0, which is grey.",
        ),
        Misconception(
            lambda video, mask: _with_nothing_as(1, video, mask),
            "you put 1 where nothing is, and that is white: something to be seen. Nothing is 0, which is grey.",
        ),
        Misconception(
            lambda video, mask: (split_video(video, mask)[0], torch.zeros_like(video)),
            "you leave the second part empty. What lies under the mask goes in as well: a pose or an outline there "
            "guides what is painted.",
        ),
        Misconception(
            lambda video, mask: (video, split_video(video, mask)[1]),
            "your first part shows the whole video, so the model would be told to keep what it should paint over.",
        ),
    ),
)  # fmt: skip

check_mask_cells = Exercise(
    solution=mask_cells,
    inputs=_masks,
    praise="Nothing is averaged and nothing is lost: 64 small maps hold every pixel of the mask, 8 x 8 to a cell.",
    hints=(
        "Cut both sides into eights: reshape(height // 8, 8, width // 8, 8). Which two of the four axes become the 64?",
        "The two eights become channels, the row first; the cells stay: permute(1, 3, 0, 2), then one reshape.",
        "mask.reshape(height // 8, 8, width // 8, 8).permute(1, 3, 0, 2).reshape(64, height // 8, width // 8)",
    ),
    misconceptions=(
        Misconception(
            lambda mask: mask.reshape(64, mask.shape[0] // 8, mask.shape[1] // 8),
            "you reshape at once, which cuts the list of pixels into 64 strips. The shape is right, but neighbours of a "
            "cell end up far apart.",
        ),
        Misconception(
            lambda mask: _blocks(mask).permute(3, 1, 0, 2).reshape(64, mask.shape[0] // 8, mask.shape[1] // 8),
            "you count the 64 down the columns of a cell. The model was taught to count along its rows: 1, 3 before 0, 2.",
        ),
        Misconception(
            lambda mask: _blocks(mask).permute(0, 2, 1, 3).reshape(64, mask.shape[0] // 8, mask.shape[1] // 8),
            "you put the cells first and the pixels within a cell last. The channels come first: they are the pixels.",
        ),
        Misconception(
            lambda mask: _blocks(mask).mean(dim=(1, 3)).expand(64, -1, -1),
            "you take the mean of each cell, 64 times the same. VACE keeps all 64 pixels, so that an edge may run through "
            "a cell.",
        ),
        Misconception(
            lambda mask: mask[::8, ::8].expand(64, -1, -1),
            "you take one pixel of each cell, 64 times the same. VACE keeps all 64, each in a channel of its own.",
        ),
    ),
)  # fmt: skip

check_context_shape = Exercise(
    solution=context_shape,
    inputs=lambda generator: [(*size, n) for size, n in zip(SIZES, (1, 0, 2, 4, 3), strict=True)],
    praise="One frame more to paint for each reference; after the last step these frames are cut off.",
    hints=(
        "Channels: the latent of what stays, the latent of what is painted over, and the mask.",
        "16 + 16 + 64. Each reference is encoded alone, so it is one latent frame more, before those of the video.",
        "(96, references + (frames - 1) // 4 + 1, height // 8, width // 8)",
    ),
    misconceptions=(
        Misconception(
            lambda *size: (33, *context_shape(*size)[1:]),
            "you give the mask one channel. It has 64: one for each of the 8 x 8 pixels that a cell stands for.",
        ),
        Misconception(
            lambda *size: (80, *context_shape(*size)[1:]),
            "you count one latent of 16 channels. There are two: what stays, and what is painted over.",
        ),
        Misconception(
            lambda width, height, frames, references: context_shape(width, height, frames + references, 0),
            "you put the references before the video's frames and encode all together. Each is encoded alone, or four of "
            "them would be squeezed into one.",
        ),
        Misconception(
            lambda width, height, frames, references: context_shape(width, height, frames, 0),
            "you leave the references out. Each is a latent frame of its own, before those of the video.",
        ),
        Misconception(
            lambda width, height, frames, references: context_shape(width, height, frames, 2 * references),
            "you give a reference two frames, one that stays and one that is painted over. They are channels of one frame.",
        ),
    ),
)  # fmt: skip
