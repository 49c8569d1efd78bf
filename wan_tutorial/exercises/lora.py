"""Exercises of lesson 07: the best matrix of low rank, an update in two thin matrices, its scale, and the merge."""

from __future__ import annotations

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Misconception


def keep_rank(matrix: Tensor, rank: int) -> Tensor:
    """The best copy of a matrix that has only this rank: its `rank` largest parts, and nothing of the others."""
    columns, sizes, rows = torch.linalg.svd(matrix, full_matrices=False)
    return columns[:, :rank] * sizes[:rank] @ rows[:rank]


def low_rank(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """What a LoRA adds to a layer's answer for tokens x (T, in): down (rank, in) first, then up (out, rank) -> (T, out)."""
    return x @ down.T @ up.T


def lora_scale(alpha: float | None, rank: int, strength: float) -> float:
    """What the product of a LoRA's two matrices is multiplied by; a file without an alpha means the rank itself."""
    return strength * (1.0 if alpha is None else alpha / rank)


def merge(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """A layer's weight (out, in) with a LoRA's update in it."""
    return weight + scale * up @ down


def _thin(generator: torch.Generator, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def _without_sizes(matrix: Tensor, rank: int) -> Tensor:
    columns, _, rows = torch.linalg.svd(matrix, full_matrices=False)
    return columns[:, :rank] @ rows[:rank]


check_keep_rank = Exercise(
    solution=keep_rank,
    inputs=lambda g: [
        (torch.randn(shape, generator=g), rank) for shape, rank in (((6, 5), 2), ((4, 7), 3), ((5, 5), 1))
    ],
    praise="No matrix of this rank comes nearer to the original (Eckart and Young, 1936).",
    hints=(
        "torch.linalg.svd(matrix, full_matrices=False) gives columns, sizes and rows; the sizes fall.",
        "Keep the first `rank` of each: columns[:, :rank], sizes[:rank], rows[:rank]. Then put the matrix together again.",
        "columns[:, :rank] * sizes[:rank] @ rows[:rank]",
    ),
    misconceptions=(
        Misconception(
            lambda matrix, rank: matrix - keep_rank(matrix, min(matrix.shape) - rank),
            "you keep the smallest parts. The sizes fall: the largest come first.",
        ),
        Misconception(
            _without_sizes, "you leave out the sizes, so that every part counts as much as any other."
        ),
        Misconception(
            lambda matrix, rank: matrix - keep_rank(matrix, rank),
            "this is what is left over. Keep the largest parts, and drop this.",
        ),
        Misconception(
            lambda matrix, rank: torch.cat([matrix[:, :rank], 0 * matrix[:, rank:]], dim=1),
            "you keep some columns of the matrix itself. It has the right rank, but the rest of the picture is gone: each "
            "part of the SVD reaches over all of it.",
        ),
        Misconception(
            lambda matrix, rank: keep_rank(matrix, rank) - keep_rank(matrix, rank - 1),
            "you take part number `rank` alone, not the first `rank` parts together: mind the colon in [:rank].",
        ),
    ),
)

check_low_rank = Exercise(
    solution=low_rank,
    inputs=lambda g: [_thin(g, (t, wide), (rank, wide), (wide, rank)) for t, wide, rank in ((3, 8, 2), (5, 6, 4), (1, 9, 3))],
    praise="The large matrix up @ down is never made: each token is squeezed to `rank` numbers, and widened again.",
    hints=(
        "A layer's weight is (out, in), and tokens are rows: a layer answers x @ weight.T.",
        "First down, which makes `rank` numbers of each token; then up, in the same way.",
        "x @ down.T @ up.T",
    ),
    misconceptions=(
        Misconception(
            lambda x, down, up: x @ up @ down,
            "you go through up first, and backwards. Tokens are rows, so each matrix is met transposed: down.T, then up.T.",
        ),
        Misconception(
            lambda x, down, up: x + x @ down.T @ up.T,
            "you add the token itself. A layer's answer is W x, and the LoRA adds its product to that; here the product alone "
            "is asked for.",
        ),
        Misconception(
            lambda x, down, up: x @ down.T @ up.T / down.shape[0],
            "you divide by the rank. That is alpha's business, and comes afterwards.",
        ),
        Misconception(
            lambda x, down, up: x @ down[:1].T @ up[:, :1].T,
            "you use one row of down and one column of up: an update of rank 1. All of them add up.",
        ),
    ),
)  # fmt: skip

check_lora_scale = Exercise(
    solution=lora_scale,
    inputs=lambda g: [(16.0, 32, 1.0), (None, 32, 0.3), (64.0, 16, 0.5), (1.0, 4, -1.0), (None, 8, 1.0)],
    praise="So the same strength means the same whatever alpha the trainer chose: the file brings its own.",
    hints=(
        "Two factors: the strength that you choose, and one that the file brings.",
        "The file's factor is alpha / rank; without an alpha it is 1, as if alpha were the rank.",
        "strength * (1.0 if alpha is None else alpha / rank)",
    ),
    misconceptions=(
        Misconception(
            lambda alpha, rank, strength: strength,
            "you leave alpha out. A file with alpha 16 and rank 32 was trained to count by half.",
        ),
        Misconception(
            lambda alpha, rank, strength: strength * (1.0 if alpha is None else alpha),
            "you multiply by alpha itself; it is a share of the rank, so divide by that.",
        ),
        Misconception(
            lambda alpha, rank, strength: strength * (1.0 if alpha is None else rank / alpha),
            "you divide the rank by alpha. A larger alpha should count for more.",
        ),
        Misconception(
            lambda alpha, rank, strength: strength * (alpha or 0) / rank,
            "without an alpha you get 0: the LoRA is off. No alpha means that nothing is scaled.",
        ),
        Misconception(
            lambda alpha, rank, strength: strength * (1.0 if alpha is None else alpha / rank**0.5),
            "you divide by the root of the rank. Some trainers do so (rsLoRA), but the formula of LoRA has the rank itself.",
        ),
    ),
)

check_merge = Exercise(
    solution=merge,
    inputs=lambda g: [
        (*_thin(g, (wide, wide), (rank, wide), (wide, rank)), scale)
        for wide, rank, scale in ((8, 2, 0.3), (6, 3, 1.0), (9, 4, -0.5))
    ],
    praise="One matrix again, as fast as before. What was added can be taken away by the same sum.",
    hints=(
        "The update is a matrix of the weight's own shape: (out, rank) times (rank, in).",
        "up @ down, times the scale, added to what is there.",
        "weight + scale * up @ down",
    ),
    misconceptions=(
        Misconception(
            lambda weight, down, up, scale: (1 - scale) * weight + scale * up @ down,
            "you fade the weight out while the update comes in; at 1 nothing would be left of the model. An update is added.",
        ),
        Misconception(
            lambda weight, down, up, scale: weight + (scale * up) @ (scale * down),
            "you scale both thin matrices, so the scale counts twice: 0.3 acts like 0.09.",
        ),
        Misconception(
            lambda weight, down, up, scale: scale * (weight + up @ down),
            "you scale the model's own weight as well. At scale 0 the model should be as it was.",
        ),
        Misconception(
            lambda weight, down, up, scale: weight + scale * (up @ down).T,
            "your update lies on its side: up @ down is (out, in) already, as the weight is.",
        ),
        Misconception(
            lambda weight, down, up, scale: scale * up @ down,
            "this is the update alone. It belongs on top of the weight, not in its place.",
        ),
    ),
)
