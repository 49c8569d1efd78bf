"""Train the scale model's transformer by flow matching on latents and captions.

At a random time t the model sees (1 - t) clean + t noise and learns the velocity, noise - clean, by its squared
error. One caption in ten is dropped, so that guidance has something to guide away from. The VACE blocks are not
trained here: they start as copies of main blocks that add nothing.
"""

import random
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..noise import mix
from ..sampling.schedules import shift_time
from ..text import TextEncoder
from ..transformer import TransformerShape, WanTransformer, new_transformer, start_vace_blocks
from .captions import BRIEF_PROMPT, write_caption
from .latents import LatentPool
from .loop import Budget, train
from .world import Scene

SHAPE = TransformerShape(dim=256, ffn_dim=1024, layers=6, text_dim=256, vace_blocks=2)
TEXT_LENGTH = 64
DROPPED = 0.1  # share of captions replaced by the empty one
BRIEF_SHARE = 0.08  # of a batch: scenes of the brief's own prompt


def draw_times(count: int) -> Tensor:
    """Times in (0, 1), dense in the middle and shifted towards noise: shift(sigmoid(normal), 2); one in ten uniform."""
    middle = shift_time(torch.sigmoid(torch.randn(count)), 2.0)
    return torch.where(torch.rand(count) < 0.1, torch.rand(count), middle)


def caption_of(scene: Scene, *, brief: bool, dice: random.Random) -> str:
    """A fresh caption of the scene; sometimes none."""
    if dice.random() < DROPPED:
        return ""
    if brief and dice.random() < 0.5:
        return BRIEF_PROMPT
    return write_caption(scene, dice.randrange(10**9))


class Batches:
    """Draws (latent, caption) pairs from pools whose latents may still be growing."""

    def __init__(self, pools: list[LatentPool], brief: LatentPool):
        self.pools, self.brief, self.dice = pools, brief, random.Random()

    def draw(self, count: int) -> tuple[Tensor, list[str]]:
        latents, captions = [], []
        ready = [pool.ready for pool in self.pools]
        for _ in range(count):
            if self.brief.ready and self.dice.random() < BRIEF_SHARE:
                pool = self.brief
                index = self.dice.randrange(pool.ready)
            else:
                index = self.dice.randrange(sum(ready))
                pool = next(p for n, p in zip(np.cumsum(ready), self.pools, strict=True) if index < n)
                index -= sum(ready[: self.pools.index(pool)])
            latents.append(torch.from_numpy(pool.read()[index].astype(np.float32)))
            scene = pool.videos.scene(index)
            captions.append(caption_of(scene, brief=pool is self.brief, dice=self.dice))
        return torch.stack(latents), captions


@torch.no_grad()
def embed_captions(encoder: TextEncoder, captions: list[str]) -> Tensor:
    """(B, TEXT_LENGTH, dim), zero beyond each caption's true tokens."""
    ids = torch.zeros(len(captions), TEXT_LENGTH, dtype=torch.long)
    for row, caption in zip(ids, captions, strict=True):
        tokens = encoder.tokenizer.encode(caption, TEXT_LENGTH)
        row[: len(tokens)] = torch.tensor(tokens)
    longest = int((ids != 0).sum(1).max())
    ids = ids.to(encoder.model.shared.weight.device)
    return F.pad(encoder.embed(ids[:, :longest]), (0, 0, 0, TEXT_LENGTH - longest))


def flow_matching_loss(model: nn.Module, clean: Tensor, text: Tensor, t: Tensor) -> Tensor:
    """Squared error of the predicted velocity, one value for each sample."""
    noise = torch.randn_like(clean)
    with torch.autocast(clean.device.type, torch.bfloat16):
        velocity = model(mix(clean, noise, t), 1000 * t, text)
    return (velocity.float() - (noise - clean)).square().mean(dim=(1, 2, 3, 4))


def train_transformer(
    folder: Path,
    encoder: TextEncoder,
    batches: Batches,
    *,
    minutes: float,
    device: str = "cpu",
    batch: int = 16,
    compile: bool = False,
) -> WanTransformer:
    """Train for `minutes`; checkpoints and curves go to folder/transformer."""
    torch.manual_seed(0)
    model = new_transformer(SHAPE).to(device)
    loss_function = torch.compile(flow_matching_loss) if compile else flow_matching_loss

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        clean, captions = batches.draw(batch)
        t = draw_times(batch).to(device)
        losses = loss_function(model, clean.to(device), embed_captions(encoder, captions), t)
        late = losses.detach()[t < 0.5]
        return losses.mean(), {"late": late.mean().item() if len(late) else float("nan")}

    main = [p for name, p in model.named_parameters() if "vace" not in name]
    matrices = [p for name, p in model.blocks.named_parameters() if p.ndim == 2]
    budget = Budget(minutes, learning_rate=1e-3, warmup_steps=200)
    # On a CPU, plain attention over so few tokens goes back faster than the fused one.
    with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
        average = train(
            model, loss_of, budget=budget, folder=folder / "transformer", parameters=main, orthogonal=matrices
        )
    start_vace_blocks(average)
    return average
