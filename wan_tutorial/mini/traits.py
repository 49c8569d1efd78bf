"""Read the traits that no caption names from latents: a teacher for what a reference picture must carry.

A tint of the sky is a large part of what makes a scene itself and a small part of a squared error. As a face
recogniser tells a model of portraits whether it painted the same face (the ID loss of PuLID, arXiv:2404.16022), this
one tells the VACE blocks whether their scene has the reference's traits. It is trained once, on renders and their latents,
and then stays as it is. The probe that measures references (`probe.py`) reads pixels and never teaches.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WanError
from .data import to_pixels
from .latents import LatentPool
from .loop import Budget, averaged, fast_products, train
from .world import TRAITS, Scene

PARTS = 8  # of [0, 1], in which each trait is read
SIGHT_WEIGHT = 10.0  # what a squared error of the frame that is seen counts beside a nat of its traits


class LatentReader(nn.Module):
    """First it sees, as a small decoder does, then it tells what it saw.

    Latents say little to a classifier: taught their traits alone it stays near guessing. As a picture, every cell of a
    latent teaches it to see, and every render, encoded or not, to tell.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(16, 4 * width, 3, padding=1), nn.GELU(),  # (B, 128, 12, 12)
            nn.Conv2d(4 * width, 4 * width, 3, padding=1), nn.GELU(),
            nn.Conv2d(4 * width, 8 * width, 3, padding=1), nn.PixelShuffle(2), nn.GELU(),  # (B, 64, 24, 24)
            nn.Conv2d(2 * width, 48, 3, padding=1),  # a frame, 4 x 4 pixels of 3 colours in each place
        )  # fmt: skip
        self.tell = nn.Sequential(
            *convolve(48, width),
            *convolve(width, width),
            *convolve(width, 2 * width, stride=2),  # (B, 64, 12, 12)
            *convolve(2 * width, 2 * width),
            *convolve(2 * width, 2 * width, stride=2),  # (B, 64, 6, 6): places are kept apart
            nn.AdaptiveAvgPool2d(6),  # changes nothing at 96 x 96 pixels; other sizes fit too
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(72 * width, 256), nn.GELU(),
            nn.Linear(256, len(TRAITS) * PARTS), nn.Unflatten(1, (len(TRAITS), PARTS)),
        )  # fmt: skip

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, 16, F, H, W) to logits (B, F, traits, 8)."""
        frames = self.see(latents.transpose(1, 2).flatten(0, 1))
        return self.tell(frames).unflatten(0, (-1, latents.shape[2]))

    def mistake(self, latents: Tensor, parts: Tensor) -> Tensor:
        """Cross-entropy of the traits read from latents (B, 16, F, H, W) to the true ones (B, traits): nats, (B,).

        Those of the middle are asked, as one, by the mean of their logits. Towards its ends a moving camera has carried
        things away from where they are on the whole: asked there too, it would learn to stand still.
        """
        frames = latents.shape[2]
        logits = self(latents[:, :, frames // 4 : frames - frames // 4]).mean(1)  # (B, traits, 8)
        return F.cross_entropy(logits.movedim(-1, 1), parts, reduction="none").mean(1)


def convolve(width: int, out: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    """The layers of one convolution 3 x 3, for `nn.Sequential`."""
    return nn.Conv2d(width, out, 3, stride, padding=1, bias=False), nn.GroupNorm(8, out), nn.GELU()


def trait_parts(scene: Scene) -> Tensor:
    """Which eighth each trait lies in: (traits,)."""
    return torch.tensor([min(PARTS - 1, int(getattr(scene, name) * PARTS)) for name in TRAITS])


def soften(frames: Tensor) -> Tensor:
    """Frames (B, 3, H, W), most of them softened as a VAE softens, all with a little noise."""
    size = (len(frames), 1, 1, 1)
    soft = F.interpolate(F.avg_pool2d(frames, 2), scale_factor=2, mode="bilinear")
    frames = torch.lerp(frames, soft, torch.rand(size) * (torch.rand(size) < 0.7))
    return frames + 0.04 * torch.randn_like(frames)


def as_expected(latents: Tensor) -> Tensor:
    """Latents (B, 16, F, H, W) as a model expects them behind noise: paler, softer, never exact."""
    size = (len(latents), 1, 1, 1, 1)
    soft = F.interpolate(F.avg_pool3d(latents, (1, 2, 2)), size=latents.shape[2:], mode="trilinear")
    latents = torch.lerp(latents, soft, torch.rand(size))
    pale = 0.5 + 0.5 * torch.rand(size)
    mean = latents.mean((0, 2, 3, 4), keepdim=True)
    return torch.lerp(mean, latents, pale) + 0.4 * torch.rand(size) * torch.randn_like(latents)


def train_reader(
    pools: Sequence[LatentPool], folder: Path, *, minutes: float, batch: int = 40
) -> LatentReader:
    """Train for `minutes` on frames and on latents as a model expects them; checkpoint and curves go to folder/traits."""
    torch.manual_seed(0)
    dice, pools = np.random.default_rng(), [pool for pool in pools if pool.ready]
    if not pools:
        raise WanError(f"{folder} holds no latents yet: run the stage latents.")
    videos = [pool.videos.videos() for pool in pools]
    parts = [torch.stack([trait_parts(pool.videos.scene(i)) for i in range(pool.ready)]) for pool in pools]
    reader = LatentReader()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        number = int(dice.integers(len(pools)))
        picks, moments = (
            dice.integers(len(parts[number]), size=batch),
            dice.integers(pools[number].shape[1], size=batch),
        )
        latents = torch.from_numpy(
            pools[number].read()[picks, :, moments].astype(np.float32)
        )  # (B, 16, H, W)
        frames = to_pixels(
            videos[number][picks, 4 * moments]
        )  # the last of the four that a latent stands for
        seen = F.pixel_unshuffle(frames, 4)
        with fast_products("cpu"):
            sight, expected = (
                reader.see(torch.cat([latents, as_expected(latents[:, :, None])[:, :, 0]])).float().chunk(2)
            )
            told = reader.tell(torch.cat([F.pixel_unshuffle(soften(frames), 4), expected])).float()
        traits = F.cross_entropy(told.movedim(-1, 1), parts[number][picks].repeat(2, 1))
        blind = F.mse_loss(sight, seen)
        return traits + SIGHT_WEIGHT * blind, {"nats": traits.item(), "sight": blind.item()}

    budget = Budget(minutes, learning_rate=2e-3, warmup_steps=60, weight_decay=0.05, save_minutes=1)
    matrices = [p for p in reader.parameters() if p.ndim >= 2]
    return train(reader, loss_of, budget=budget, folder=folder / "traits", orthogonal=matrices)


def load_reader(folder: Path) -> LatentReader:
    """The averaged reader that `train_reader` left in folder/traits, frozen; WanError if there is none."""
    if not (folder / "traits" / "checkpoint.safetensors").exists():
        raise WanError(f"{folder} holds no reader of traits: run the stage traits, after the stage latents.")
    reader = LatentReader()
    reader.load_state_dict(averaged(folder / "traits"))
    return reader.eval().requires_grad_(False)
