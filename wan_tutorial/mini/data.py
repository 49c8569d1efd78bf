"""Training data: fireside videos rendered once into a file that every training stage reads.

Rendering one video costs more than a training step on it, so the videos are drawn ahead into a flat uint8 file
(a memory map, a few hundred KB a video) and every scene can be drawn again from its seed alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .world import Scene, brief_scene, draw_scene, render, render_with_masks

BATCH = 16
# First seed and count of each.
TRAINING_POOLS = ((0, 2560), (100_000, 3072), (200_000, 4096), (300_000, 4096))
BRIEF_POOL = (500_000, 960)  # of scenes of the brief's own prompt


@dataclass
class VideoPool:
    """`count` videos of one size on disk; video i shows the scene drawn from seed `first_seed + i`.

    `split` is "train", "held_out", or "brief": scenes of the brief's own prompt.
    """

    folder: Path
    count: int
    frames: int = 13
    height: int = 96
    width: int = 96
    split: str = "train"
    first_seed: int = 0

    @property
    def path(self) -> Path:
        size = f"{self.width}x{self.height}x{self.frames}"
        return self.folder / f"{self.split}-{size}-from{self.first_seed}.u8"

    def scene(self, index: int) -> Scene:
        seed = self.first_seed + index
        return brief_scene(seed) if self.split == "brief" else draw_scene(seed, split=self.split)

    def videos(self) -> np.ndarray:
        """(count, F, H, W, 3) uint8, a memory map; what is not yet on disk is rendered first."""
        shape = (self.frames, self.height, self.width, 3)
        return self._drawn(self.path, shape, lambda scenes, size: to_bytes(render(scenes, **size)))

    def subjects(self) -> np.ndarray:
        """How much of each latent cell the subject covers, 0 to 255: (count, F', H/8, W/8), rendered where missing."""
        shape = ((self.frames + 3) // 4, self.height // 8, self.width // 8)
        return self._drawn(self.path.with_suffix(".subject.u8"), shape, draw_subjects)

    def _drawn(
        self, path: Path, shape: tuple[int, ...], draw: Callable[[list[Scene], dict[str, Any]], Tensor]
    ) -> np.ndarray:
        """A file of `count` pieces of this shape, a memory map; `draw(scenes, size)` makes what it lacks."""
        path.parent.mkdir(parents=True, exist_ok=True)
        size = {"height": self.height, "width": self.width, "frames": self.frames}
        done = path.stat().st_size // int(np.prod(shape)) if path.exists() else 0
        with path.open("ab") as file:
            file.truncate(done * int(np.prod(shape)))  # a run that was cut may have left part of one
            for start in tqdm(
                range(done, self.count, BATCH), desc=f"render {path.name}", disable=done >= self.count
            ):
                scenes = [self.scene(i) for i in range(start, min(start + BATCH, self.count))]
                file.write(draw(scenes, size).numpy().tobytes())
        return np.memmap(path, mode="r", dtype=np.uint8, shape=(self.count, *shape))


def draw_subjects(scenes: list[Scene], size: dict[str, Any]) -> Tensor:
    """The subject's share of each latent cell, 0 to 255."""
    return (to_cells(render_with_masks(scenes, **size)[1][:, 1]) * 255).round().to(torch.uint8)


def to_cells(covered: Tensor) -> Tensor:
    """Means over latent cells: 8x8 pixels of the first frame, then of four frames each; (N, f, h, w) -> (N, F, H, W)."""
    squares = F.avg_pool2d(covered, 8)
    return torch.cat([squares[:, :1], squares[:, 1:].unflatten(1, (-1, 4)).mean(2)], 1)


def training_videos(folder: Path) -> list[VideoPool]:
    """What VAE and transformer learn from: thousands of scenes, in a few files."""
    return [VideoPool(folder, count, first_seed=first) for first, count in TRAINING_POOLS]


def to_bytes(video: Tensor) -> Tensor:
    """Float pixels in [-1, 1] to uint8 in 0..255."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pixels(video: np.ndarray) -> Tensor:
    """uint8 (B, F, H, W, 3) to float pixels (B, 3, F, H, W) in [-1, 1], the layout of the VAE."""
    return torch.from_numpy(np.array(video)).movedim(-1, 1).float() / 127.5 - 1
