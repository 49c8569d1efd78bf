"""Looking inside: what the transformer's attention looked at, read through its taps.

Stands beside `transformer.py`. In: the model and what it is asked. Out: an `Inside`, tables of shares that add up to 1.
The model itself never makes these tables (`scaled_dot_product_attention` keeps none of them), so they are made again
from query and key, one head and one latent frame at a time: on the real model a whole table would take 4 GB.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wan_tutorial.errors import WanError
from wan_tutorial.transformer import WanTransformer

Grid = tuple[int, int, int]  # tokens: frames, rows, columns


@dataclass(frozen=True)
class Inside:
    """One look of the transformer, seen from within; each table by the number of its block."""

    words: dict[int, Tensor] = field(
        default_factory=dict
    )  # (F, rows, columns, L): what each place reads, mean of heads
    frames: dict[int, Tensor] = field(
        default_factory=dict
    )  # (heads, F, F): how much frame i takes from frame j
    spots: dict[int, Tensor] = field(
        default_factory=dict
    )  # (heads, F, rows, columns): where the token `spot` looks


# What the time gives each block: for self-attention and for the feed-forward, what goes in is scaled and shifted, what
# comes out is multiplied by the gate.
MODULATION = tuple(
    f"{what}, {where}" for where in ("self-attention", "feed-forward") for what in ("shift", "scale", "gate")
)


@torch.no_grad()
def modulation(transformer: WanTransformer, sigma: float) -> Tensor:
    """What the time tells each block at noise level sigma: (blocks, 6, dim), in the order of MODULATION."""
    device = transformer.scale_shift_table.device
    _, shared = transformer._embed_time(torch.full((1,), 1000 * sigma, device=device))  # (1, 6, dim)
    own = torch.cat(
        [block.get_parameter("scale_shift_table") for block in transformer.blocks]
    )  # (blocks, 6, dim)
    return (own + shared).float().cpu()


@torch.no_grad()
def look_inside(
    transformer: WanTransformer,
    latent: Tensor,
    sigma: float,
    words: Tensor,
    *,
    spot: Grid = (0, 0, 0),
    blocks: Collection[int] | None = None,
    vace_context: Tensor | None = None,
    vace_strength: float = 1.0,
) -> Inside:
    """Ask the transformer once, for a latent (1, 16, F, H, W) at noise level sigma and an embedding (L, dim), and
    keep what the attentions of its main blocks, or of some of them, looked at.

    `spot`: the token (frame, row, column) whose own view of the video is kept. `vace_context` (1, 96, F, H, W): what is
    given; the references' frames then come first in every table.
    """
    grid = (latent.shape[2], latent.shape[3] // 2, latent.shape[4] // 2)
    if not all(0 <= place < count for place, count in zip(spot, grid, strict=True)):
        raise WanError(
            f"A spot is (frame, row, column) in a grid of {grid}, from 0 on, not {spot}: try (0, 0, 0)."
        )
    inside = Inside()

    def tap(name: str, query: Tensor, key: Tensor) -> None:
        stack, number, kind = name.split(".")
        block = int(number)
        if stack != "blocks" or (blocks is not None and block not in blocks):
            return
        heads = list(zip(query[0], key[0], strict=True))
        if kind == "cross_attn":
            mean = torch.stack([shares(q, k) for q, k in heads]).mean(dim=0)  # (T, L)
            inside.words[block] = mean.unflatten(0, grid).cpu()
            return
        place = (spot[0] * grid[1] + spot[1]) * grid[2] + spot[2]
        own = [shares(q[place], k).unflatten(0, grid) for q, k in heads]
        inside.spots[block] = torch.stack(own).cpu()
        inside.frames[block] = torch.stack([frame_table(q, k, grid[0]) for q, k in heads]).cpu()

    time = torch.full((1,), 1000 * sigma, device=latent.device)
    given = None if vace_context is None else vace_context.to(latent.device)
    words = words[None].to(latent.device)
    transformer(latent, time, words, vace_context=given, vace_strength=vace_strength, taps=tap)
    return inside


def word_map(tables: Mapping[int, Tensor], rows: Sequence[int], words: int) -> Tensor:
    """How much each place reads one word, among the words alone: (F, rows, columns), in the mean of the blocks.

    `tables`: of `Inside.words`, one block or several; `rows`: the word's; `words`: how many rows the prompt fills. The
    empty rows after it, which take most of the attention and hold no word, are left out of the sum.
    """
    among = [table[..., :words] / table[..., :words].sum(-1, keepdim=True) for table in tables.values()]
    return torch.stack([table[..., list(rows)].sum(-1) for table in among]).mean(dim=0)


def shares(query: Tensor, key: Tensor) -> Tensor:
    """Attention of one head: query (..., D) and key (L, D) -> (..., L), shares that add up to 1."""
    return (query @ key.T / key.shape[-1] ** 0.5).softmax(dim=-1)


def frame_table(query: Tensor, key: Tensor, frames: int) -> Tensor:
    """How much of its attention a token of frame i gives frame j, in the mean: query and key (T, D) -> (F, F)."""
    rows = [shares(one, key).unflatten(1, (frames, -1)).sum(-1).mean(0) for one in query.chunk(frames)]
    return torch.stack(rows)
