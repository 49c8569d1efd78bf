"""A probe for what no caption names: it looks at a frame and says which shape, tint and place its things have.

`python -m wan_tutorial.mini.probe --minutes M` trains it on renders alone and measures it on others.

Stands beside the judge, for the measurement of references: of ten scenes that share every name, which one do the
generated frames show? Each trait is a number in [0, 1], read as one of eight parts of it, because many have steps in
them or do not show in every scene: then the probe is unsure, and the trait counts little. In: videos
(N, F, H, W, 3) in [-1, 1]. Out: log-probabilities (N, traits, 8).
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import WanError
from ..files import write_safetensors
from .evaluate import held_out_scenes
from .loop import Budget, fast_products, train
from .train_vace import another_look
from .traits import PARTS, convolve, soften, trait_parts
from .world import TRAITS, Scene, draw_scene, render

SIDE = 96  # pixels of the frames it reads
FRAMES = 4  # of a video that are read
CANDIDATES = 10
FIRST_SEED = (
    10_000_000  # of the scenes that it learns from: a probe that meets a scene twice learns it by heart
)


class TraitProbe(nn.Module):
    """Convolutions to a grid of 6 x 6 places, which are kept apart: many traits are about where things are."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.look = nn.Sequential(
            nn.PixelUnshuffle(4),  # (B, 48, 24, 24)
            *convolve(48, width),
            *convolve(width, width),
            *convolve(width, 2 * width, stride=2),  # (B, 64, 12, 12)
            *convolve(2 * width, 2 * width),
            *convolve(2 * width, 2 * width, stride=2),  # (B, 64, 6, 6)
        )
        self.tell = nn.Sequential(
            nn.Flatten(), nn.Linear(72 * width, 256), nn.GELU(), nn.Linear(256, len(TRAITS) * PARTS)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, 96, 96) to logits (B, traits, 8)."""
        return self.tell(self.look(frames)).unflatten(1, (len(TRAITS), PARTS))

    @torch.no_grad()
    def read(self, videos: Tensor) -> Tensor:
        """Log-probabilities of each part of each trait, (N, traits, 8), the mean over a few frames of each video."""
        picks = torch.linspace(0, videos.shape[1] - 1, FRAMES).round().long()
        frames = videos[:, picks].flatten(0, 1).movedim(-1, 1)  # (N 4, 3, H, W)
        if frames.shape[2:] != (SIDE, SIDE):
            frames = F.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        return self(frames).log_softmax(-1).unflatten(0, (len(videos), FRAMES)).mean(1)

    def choose(self, videos: Tensor, candidates: Sequence[Sequence[Scene]]) -> list[int]:
        """For each video which of its candidates it shows: the one whose traits are most probable together."""
        numbers = torch.stack([torch.stack([trait_parts(scene) for scene in row]) for row in candidates])
        told = self.read(videos)[:, None].expand(-1, numbers.shape[1], -1, -1)  # (N, candidates, traits, 8)
        return told.gather(-1, numbers[..., None]).sum((2, 3)).argmax(1).tolist()


def draw_candidates(scene: Scene, seed: int, count: int = CANDIDATES) -> list[Scene]:
    """The scene, and others that share its every name and none of its traits."""
    dice = random.Random(f"candidates {seed}")
    found = [scene]
    for _ in range(count - 1):
        traits: dict[str, Any] = {name: dice.random() for name in TRAITS}
        found.append(replace(scene, seed=dice.randrange(2**31), **traits))
    return found


# --- training and measuring -----------------------------------------------------------------------------------


def draw_frames(step: int, *, scenes: int = 16, moments: int = 4) -> tuple[Tensor, Tensor]:
    """Moments of new scenes (B, 3, 96, 96), most softened as a VAE softens, and the parts their traits lie in."""
    first = FIRST_SEED + step * scenes
    drawn = [replace(draw_scene(seed), defect=None) for seed in range(first, first + scenes)]
    videos = render(drawn).movedim(-1, 2)  # (scenes, F, 3, 96, 96)
    picks = torch.rand(scenes, videos.shape[1]).argsort(1)[:, :moments]
    frames = videos[torch.arange(scenes)[:, None], picks].flatten(0, 1)
    return soften(frames), torch.stack([trait_parts(scene) for scene in drawn]).repeat_interleave(moments, 0)


def train_probe(*, minutes: float, folder: Path) -> TraitProbe:
    """Train for `minutes`, never twice on one scene; checkpoint and curves go to `folder`."""
    torch.manual_seed(0)
    probe = TraitProbe()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        frames, parts = draw_frames(step)
        with fast_products("cpu"):
            logits = probe(frames).float()
        loss = F.cross_entropy(logits.flatten(0, 1), parts.flatten())
        return loss, {"nats": loss.item()}

    matrices = [p for p in probe.parameters() if p.ndim >= 2]
    budget = Budget(minutes, learning_rate=2e-3, warmup_steps=60, weight_decay=0.05, save_minutes=1)
    return train(probe, loss_of, budget=budget, folder=folder, orthogonal=matrices)


def save_probe(probe: TraitProbe, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {name: tensor.half() for name, tensor in probe.state_dict().items()})


def load_probe(path: Path) -> TraitProbe:
    if not path.exists():
        raise WanError(f"No probe at {path}: train one with `python -m wan_tutorial.mini.probe`.")
    probe = TraitProbe()
    probe.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return probe.eval().requires_grad_(False)


def rate_on_renders(probe: TraitProbe, count: int) -> float:
    """How often the probe finds a scene among ten from another moment and camera of it, one of its names changed."""
    scenes = held_out_scenes(count, defects=False)
    looks = [another_look(scene, i, change=True)[0] for i, scene in enumerate(scenes)]
    videos = torch.cat([render(looks[i : i + 16]) for i in range(0, count, 16)])
    chosen = probe.choose(videos, [draw_candidates(scene, i) for i, scene in enumerate(scenes)])
    return sum(one == 0 for one in chosen) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--output", type=Path, default=Path("outputs/training/trait_probe.safetensors"))
    given = parser.parse_args()
    probe = train_probe(minutes=given.minutes, folder=given.output.parent / "probe")
    save_probe(probe, given.output)
    print(f"found among ten, on 200 renders: {rate_on_renders(load_probe(given.output), 200):.1%}")


if __name__ == "__main__":
    main()
