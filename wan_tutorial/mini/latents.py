"""Encode the training videos once: the transformer never sees a pixel.

The latents of a pool lie beside its videos in a flat float16 file, which may grow while the transformer is
already training on its beginning.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..vae import Vae
from .data import VideoPool, to_pixels
from .loop import fast_products


@dataclass
class LatentPool:
    """The latents of a VideoPool's videos, in the same order, normalised as the transformer meets them."""

    videos: VideoPool

    @property
    def path(self) -> Path:
        return self.videos.path.with_suffix(".latents.f16")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        pool = self.videos
        return 16, (pool.frames + 3) // 4, pool.height // 8, pool.width // 8  # (C, F, H, W)

    @property
    def ready(self) -> int:
        """How many latents are on disk."""
        return self.path.stat().st_size // (2 * int(np.prod(self.shape))) if self.path.exists() else 0

    def read(self) -> np.ndarray:
        """(ready, C, F, H, W) float16, a memory map."""
        return np.memmap(self.path, mode="r", dtype=np.float16, shape=(self.ready, *self.shape))

    @torch.no_grad()
    def encode(self, vae: Vae, *, batch: int = 8) -> None:
        """Encode what is not yet on disk."""
        done, videos = self.ready, self.videos.videos()
        with self.path.open("ab") as file:
            file.truncate(done * 2 * int(np.prod(self.shape)))
            for start in tqdm(range(done, self.videos.count, batch), desc=f"encode {self.path.name}"):
                with fast_products(vae.mean.device):
                    latent = vae.encode(to_pixels(videos[start : start + batch]))
                file.write(latent.to("cpu", torch.float16).numpy().tobytes())
                file.flush()
