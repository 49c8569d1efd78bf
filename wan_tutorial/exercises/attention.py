"""Exercises of lesson 04: a latent cut into tokens, the angles that say where a token stands, who looks at whom."""

from __future__ import annotations

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Misconception

CLOCKS = (22, 21, 21)  # channel pairs that turn with the frame, the row, the column


def patchify(latent: Tensor) -> Tensor:
    """A latent (16, F, H, W) as tokens (F H/2 W/2, 64): patches of 2 x 2 cells, read frame by frame, row by row."""
    channels, frames, height, width = latent.shape
    cells = latent.reshape(channels, frames, height // 2, 2, width // 2, 2)
    patches = cells.permute(1, 2, 4, 0, 3, 5)  # (F, H/2, W/2, 16, 2, 2)
    return patches.reshape(-1, 4 * channels)


def rotary_angles(frame: int, row: int, column: int) -> Tensor:
    """How far each of a token's 64 channel pairs is turned, in radians: 22 by the frame, 21 by row and by column."""
    angles = []
    for position, count in ((frame, 22), (row, 21), (column, 21)):
        speeds = 10000 ** (-torch.arange(count) / count)
        angles.append(position * speeds)
    return torch.cat(angles)


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """How much of its attention each query (T, D) gives each key (L, D): (T, L), every row adds up to 1."""
    scores = query @ key.T / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1)


def _turned(frame: int, row: int, column: int, counts: tuple[int, int, int], stretch: float = 1.0) -> Tensor:
    """`rotary_angles` with the pairs shared out otherwise, or with speeds that fall `stretch` times as fast."""
    parts = zip((frame, row, column), counts, strict=True)
    return torch.cat([place * 10000 ** (-stretch * torch.arange(count) / count) for place, count in parts])


def _patches(latent: Tensor, *order: int) -> Tensor:
    """`patchify` with the axes (channel, frame, row, row in patch, column, column in patch) in another order."""
    channels, frames, height, width = latent.shape
    cells = latent.reshape(channels, frames, height // 2, 2, width // 2, 2)
    return cells.permute(*order).reshape(-1, 4 * channels)


def _far_cells(latent: Tensor) -> Tensor:
    channels, frames, height, width = latent.shape
    cells = latent.reshape(channels, frames, 2, height // 2, 2, width // 2)
    return cells.permute(1, 3, 5, 0, 2, 4).reshape(-1, 4 * channels)


check_patchify = Exercise(
    solution=patchify,
    inputs=lambda g: [
        (torch.randn(16, *shape, generator=g),) for shape in ((1, 4, 6), (4, 12, 12), (2, 6, 4))
    ],
    praise="A reshape, a permute, a reshape: that is all the cutting there is. The weights do the rest.",
    hints=(
        "First split rows and columns: 12 rows are 6 pairs of 2. A reshape can do that without moving a number.",
        "After latent.reshape(16, F, H // 2, 2, W // 2, 2), bring what numbers the tokens to the front: frame, row of "
        "patches, column of patches. Behind them stays what is inside one: channel, row, column.",
        "latent.reshape(16, F, H // 2, 2, W // 2, 2).permute(1, 2, 4, 0, 3, 5).reshape(-1, 64), with F, H and W from "
        "latent.shape",
    ),
    misconceptions=(
        Misconception(
            lambda latent: latent.reshape(-1, 4 * latent.shape[0]),
            "a reshape alone moves nothing: your tokens are 64 numbers in a row of one channel, a strip and no patch. "
            "Split, permute, then join.",
        ),
        Misconception(
            lambda latent: _patches(latent, 1, 4, 2, 0, 3, 5),
            "your patches are right, but you number them column by column. Tokens are read row by row; each would be "
            "told a place that is not its own.",
        ),
        Misconception(
            lambda latent: _patches(latent, 1, 2, 4, 3, 5, 0),
            "your tokens hold the right 64 numbers in another order: here the channel comes first, then row and column "
            "in the patch, as in the weights of the model's patch embedding.",
        ),
        Misconception(
            _far_cells,
            "you join cells that are half a picture apart: reshape to (H // 2, 2), not to (2, H // 2), as neighbours "
            "are the last to change.",
        ),
        Misconception(
            lambda latent: _patches(latent, 1, 2, 4, 0, 5, 3),
            "each of your patches lies on its side: inside a patch, too, rows come before columns.",
        ),
    ),
)

check_rotary_angles = Exercise(
    solution=rotary_angles,
    inputs=lambda g: (
        [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
        + [tuple(place) for place in torch.randint(0, 30, (5, 3), generator=g).tolist()]
    ),
    praise="64 clocks, from a radian a step to one in some 6,000 steps: near things and far things are both told apart.",
    hints=(
        "Do it for one axis first: pair number i of count turns by position * 10000 ** (-i / count).",
        "torch.arange(count) counts the pairs. Three axes with 22, 21 and 21 pairs: torch.cat joins them.",
        "torch.cat([position * 10000 ** (-torch.arange(count) / count) for position, count in ((frame, 22), (row, 21), "
        "(column, 21))])",
    ),
    misconceptions=(
        Misconception(
            lambda frame, row, column: _turned(frame, row, column, (21, 21, 22)),
            "64 pairs do not divide by three, and you give the one left over to the column. Wan gives it to the frame: "
            "22, 21, 21.",
        ),
        Misconception(
            lambda frame, row, column: rotary_angles(frame, column, row),
            "you turn the second third by the column and the last by the row; it is frame, row, column.",
        ),
        Misconception(
            lambda frame, row, column: rotary_angles(*[frame + row + column] * 3),
            "you add the three positions up: one step right and one step down then look alike. Each axis has clocks of "
            "its own.",
        ),
        Misconception(
            lambda frame, row, column: _turned(frame, row, column, CLOCKS, 0.0),
            "all your clocks turn at one speed: after 6.28 steps every hand is back, and the token seems to be at home. "
            "Each pair is slower than the one before.",
        ),
        Misconception(
            lambda frame, row, column: _turned(frame, row, column, CLOCKS, 2.0),
            "your speeds fall too fast: you count channels, two for each pair, where the exponent counts pairs, i / 22.",
        ),
    ),
)

check_attention_weights = Exercise(
    solution=attention_weights,
    inputs=lambda g: [
        (torch.randn(t, d, generator=g) * 2, torch.randn(n, d, generator=g) * 2)
        for t, n, d in ((4, 6, 8), (5, 5, 128), (3, 64, 128))
    ],
    praise="Two lines. The rest of attention is to take the values of all keys, weighed so, and add them up.",
    hints=(
        "Every query with every key: a product of two matrices gives all the scores at once.",
        "query @ key.T has the shape (T, L). Divide by the root of D, so that scores do not grow with D; then softmax.",
        "(query @ key.T / query.shape[-1] ** 0.5).softmax(dim=-1)",
    ),
    misconceptions=(
        Misconception(
            lambda query, key: (query @ key.T).softmax(dim=-1),
            "you leave out the division by the root of D: scores grow with D, and each query sees one key only.",
        ),
        Misconception(
            lambda query, key: (query @ key.T / query.shape[-1]).softmax(dim=-1),
            "you divide by D, not by its root: all keys get nearly the same share.",
        ),
        Misconception(
            lambda query, key: (query @ key.T / query.shape[-1] ** 0.5).softmax(dim=0),
            "your columns add up to 1: each key shares itself out. It is the query that has 1 to give: dim=-1.",
        ),
        Misconception(
            lambda query, key: query @ key.T / query.shape[-1] ** 0.5,
            "these are the scores, above and below zero. Softmax makes shares of them that add up to 1.",
        ),
        Misconception(
            lambda query, key: (query @ key.T).abs() / (query @ key.T).abs().sum(-1, keepdim=True),
            "you share out the scores themselves, so two that point apart count as much as two that point together. "
            "Softmax takes the exponential first.",
        ),
    ),
)
