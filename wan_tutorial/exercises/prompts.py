"""Exercises of lesson 01: how alike two embeddings are, what an eight-bit weight says, what stands after the words."""

from __future__ import annotations

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Misconception


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle between two vectors (D,): 1 for the same direction, 0 for none in common."""
    return (a * b).sum() / (a.norm() * b.norm())


def fp8_value(byte: int, scale: float) -> float:
    """What a byte of a scaled float8_e4m3fn weight stands for: sign, 4 bits of exponent, 3 of fraction, times scale."""
    sign = -1 if byte & 0b1000_0000 else 1
    exponent, fraction = byte >> 3 & 0b1111, byte & 0b111
    if exponent == 0:
        return sign * fraction / 8 * 2**-6 * scale
    return sign * (1 + fraction / 8) * 2 ** (exponent - 7) * scale


def pad(embedding: Tensor, length: int) -> Tensor:
    """Rows of zeros after the words, until there are `length`: (tokens, dim) -> (length, dim)."""
    empty = torch.zeros(length - len(embedding), embedding.shape[1])
    return torch.cat([embedding, empty])


def blend(a: Tensor, b: Tensor, amount: float) -> Tensor:
    """Walk from embedding `a` (amount 0) to embedding `b` (amount 1) in a straight line."""
    return (1 - amount) * a + amount * b


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


check_cosine = Exercise(
    solution=cosine,
    inputs=lambda g: (
        [(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0]))]
        + [(_normal(g, 64) * scale, _normal(g, 64) + 0.3) for scale in (1.0, 5.0, 0.2)]
    ),
    praise="Length does not matter, only direction: a vector and ten times it have cosine 1.",
    hints=(
        "Multiply number by number and add up: large when two vectors point the same way. Then take length out.",
        "The length of a vector is a.norm(). Divide by both lengths.",
        "(a * b).sum() / (a.norm() * b.norm())",
    ),
    misconceptions=(
        Misconception(
            lambda a, b: (a * b).sum(),
            "this is the dot product: it grows with the length of the vectors. Divide by both lengths.",
        ),
        Misconception(
            lambda a, b: (a * b).sum() / (a.square().sum() * b.square().sum()),
            "you divide by the squares of the lengths: a.norm() is the root of the sum of squares.",
        ),
        Misconception(
            lambda a, b: cosine(a - a.mean(), b - b.mean()),
            "you take the mean away first; that is a correlation. A cosine is measured from zero.",
        ),
        Misconception(
            lambda a, b: (a * b).sum() / a.norm(),
            "you divide by one length only: ten times b would be ten times as similar. Divide by both.",
        ),
        Misconception(
            lambda a, b: (a - b).norm(),
            "this is the distance between the ends of the vectors: 0 for equals, where the cosine is 1.",
        ),
    ),
)

check_fp8_value = Exercise(
    solution=fp8_value,
    inputs=lambda g: (
        [(0b0_0111_000, 1.0), (0b1_0111_100, 0.5), (0b0_0000_011, 0.25), (0b0_1111_110, 1.0)]
        + [(int(b), 0.01) for b in torch.randint(0, 0b0111_1111, (12,), generator=g)]
    ),
    praise="Eight bits: a sign, 16 powers of two, 8 places between each and the next; the scale sets the size of all.",
    hints=(
        "The three lowest bits are the fraction, the four above them the exponent, the highest is the sign.",
        "The exponent is stored plus 7, and a 1 stands before the fraction, unless the exponent is 0: then the number "
        "is fraction / 8 * 2**-6.",
        "exponent, fraction = byte >> 3 & 15, byte & 7; then sign * (1 + fraction / 8) * 2 ** (exponent - 7) * scale, "
        "or, for exponent 0, sign * fraction / 8 * 2**-6 * scale",
    ),
    misconceptions=(
        Misconception(
            lambda byte, scale: fp8_value(byte, 1.0),
            "you leave the scale out. The model then runs, silently, with weights hundreds of times too large.",
        ),
        Misconception(
            lambda byte, scale: (
                fp8_value(byte, scale)
                - (
                    0
                    if byte >> 3 & 15 == 0
                    else (-1 if byte & 128 else 1) * 2 ** ((byte >> 3 & 15) - 7) * scale
                )
            ),
            "you forget the 1 before the fraction: it is not stored, as it is always there (1.fraction).",
        ),
        Misconception(
            lambda byte, scale: fp8_value(byte, scale) / (1 if byte >> 3 & 15 == 0 else 2),
            "your exponent is off by one: it is stored plus 7, so the byte 0 0111 000 means 1.",
        ),
        Misconception(
            lambda byte, scale: (
                (-1 if byte & 128 else 1) * (1 + (byte & 7) / 8) * 2 ** ((byte >> 3 & 15) - 7) * scale
            ),
            "exponent 0 is special: there the 1 before the fraction is missing, so that 0 itself can be written.",
        ),
        Misconception(
            lambda byte, scale: fp8_value(byte & 127, scale),
            "your numbers are never negative: the highest bit, byte & 128, is the sign.",
        ),
    ),
)

check_pad = Exercise(
    solution=pad,
    inputs=lambda g: [
        (_normal(g, tokens, 8), length) for tokens, length in ((3, 8), (1, 5), (8, 8), (5, 16))
    ],
    praise="The transformer sees `length` rows whatever the prompt; the ones after the words are zero.",
    hints=(
        "How many rows are missing? Make them of zeros and put them after the words.",
        "torch.zeros(rows, columns) makes them, torch.cat([first, second]) joins them.",
        "torch.cat([embedding, torch.zeros(length - len(embedding), embedding.shape[1])])",
    ),
    misconceptions=(
        Misconception(
            lambda embedding, length: pad(embedding, length).roll(length - len(embedding), 0),
            "you put the zeros before the words: everything moves to places the model knows as the end of a prompt.",
        ),
        Misconception(
            lambda embedding, length: torch.cat(
                [embedding, embedding[-1:].expand(length - len(embedding), -1)]
            ),
            "you fill up with the last row, so the end of the sentence is said many times over. Fill with zeros.",
        ),
        Misconception(
            lambda embedding, length: embedding.repeat(-(-length // len(embedding)), 1)[:length],
            "you repeat the prompt until it is full. What stands after the words is zero.",
        ),
        Misconception(
            lambda embedding, length: torch.cat(
                [embedding, embedding.mean(0, keepdim=True).expand(length - len(embedding), -1)]
            ),
            "you fill up with the mean of the words. What stands after them is zero: it says nothing.",
        ),
    ),
)

check_blend = Exercise(
    solution=blend,
    inputs=lambda g: [(_normal(g, 4, 8), _normal(g, 4, 8), amount) for amount in (0.0, 0.25, 0.7, 1.0)],
    praise="At 0 it is the first prompt, at 1 the second, and between them points that no sentence leads to.",
    hints=(
        "At amount 0 the answer is a, at amount 1 it is b.",
        "Take so much of b, and what is left over of a.",
        "(1 - amount) * a + amount * b",
    ),
    misconceptions=(
        Misconception(
            lambda a, b, amount: blend(b, a, amount), "you walk from b to a: at amount 0 this must be a."
        ),
        Misconception(
            lambda a, b, amount: a + amount * b,
            "you keep all of a while b is added: at amount 1 this is a + b. As b comes, a must go.",
        ),
        Misconception(lambda a, b, amount: (a + b) / 2, "this is the middle whatever the amount."),
        Misconception(
            lambda a, b, amount: (1 - amount) * a + b,
            "b is whole from the start: it should come in with the amount.",
        ),
    ),
)
