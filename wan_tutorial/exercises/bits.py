"""Exercises of lesson 05: a Q3_K block taken apart, bits per weight, a row in eight-bit floats, the memory of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from wan_tutorial.exercises.marking import Exercise, Misconception

FP8 = torch.float8_e4m3fn


def bits_per_weight(q_bits: int, group: int, group_bits: int, block: int, floats: int) -> float:
    """What a weight takes in a file: its own bits, its part of its group's scale, its part of its block's 16-bit floats."""
    return q_bits + group_bits / group + 16 * floats / block


def q3_k_numbers(high: Tensor, low: Tensor) -> Tensor:
    """The 256 whole numbers of a Q3_K block, -4 to 3: 32 bytes of third bits and 64 bytes of the lower two."""
    first = [part >> shift & 3 for part in (low[:32], low[32:]) for shift in (0, 2, 4, 6)]
    third = [high >> bit & 1 for bit in range(8)]
    return torch.cat(first).int() + 4 * torch.cat(third).int() - 4


def q3_k_scales(packed: Tensor) -> Tensor:
    """The 16 scales of a Q3_K block, -32 to 31, from 12 bytes: lower four bits in eight of them, upper two in four."""
    low = torch.cat([packed[:8] & 15, packed[:8] >> 4])
    high = torch.cat([packed[8:] >> shift & 3 for shift in (0, 2, 4, 6)])
    return (low + 16 * high).int() - 32


def fp8_row(weights: Tensor) -> Tensor:
    """A row of weights after a stay in scaled float8_e4m3fn, whose largest number is 448."""
    scale = weights.abs().max() / 448
    return (weights / scale).to(FP8).float() * scale


def memory_sum(weights: int, bits: float, tokens: int, dim: int) -> float:
    """Bytes at the fullest moment of a step: packed weights, and eight tensors of float32 and one of 16 bits, each
    of a number for every token and channel."""
    return weights * bits / 8 + tokens * dim * (8 * 4 + 2)


LAYOUTS = {  # bits of q, weights in a group, bits of a group's scale (and min), weights in a block, its 16-bit floats
    "Q8_0": (8, 32, 0, 32, 1),
    "Q6_K": (6, 16, 8, 256, 1),
    "Q5_K": (5, 32, 12, 256, 2),
    "Q4_K": (4, 32, 12, 256, 2),
    "Q4_0": (4, 32, 0, 32, 1),
    "Q3_K": (3, 16, 6, 256, 1),
    "Q2_K": (2, 16, 8, 256, 2),
}


def _bytes(generator: torch.Generator, count: int) -> Tensor:
    return torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)


check_bits_per_weight = Exercise(
    solution=bits_per_weight,
    inputs=lambda g: list(LAYOUTS.values()),
    praise="So Q3_K is 3.4375 bits, not 3: a scale in six bits for each 16, and one in 16 bits for each 256.",
    hints=(
        "A weight has its own bits. What it shares with others, it pays for in part.",
        "Its group's scale is shared by `group` weights, and each 16-bit float by `block` weights.",
        "q_bits + group_bits / group + 16 * floats / block",
    ),
    misconceptions=(
        Misconception(
            lambda q_bits, group, group_bits, block, floats: float(q_bits),
            "you count the numbers and not their scales. That is why a Q3 file is larger than three bits for each weight.",
        ),
        Misconception(
            lambda q_bits, group, group_bits, block, floats: q_bits + group_bits / group + 2 * floats / block,
            "a 16-bit float takes 2 bytes, and you count in bits.",
        ),
        Misconception(
            lambda q_bits, group, group_bits, block, floats: q_bits + (group_bits + 16 * floats) / block,
            "you count the group's scale once for the whole block; each group has its own.",
        ),
        Misconception(
            lambda q_bits, group, group_bits, block, floats: q_bits + group_bits / group,
            "you leave out the block's own scale. In blocks of 32 weights it is half a bit for each.",
        ),
    ),
)

check_q3_k_numbers = Exercise(
    solution=q3_k_numbers,
    inputs=lambda g: [(_bytes(g, 32), _bytes(g, 64)) for _ in range(3)],
    praise="256 numbers of three bits each, from 96 bytes, not one bit of them unused.",
    hints=(
        "`low >> 2 & 3` gives bits 2 and 3 of every byte at once. Which 32 numbers come first: those in the lowest bits of "
        "the first 32 bytes.",
        "Numbers 0 to 127 are in low[:32]: 32 at shift 0, 32 at shift 2, then 4 and 6. 128 to 255 are in low[32:]. The third "
        "bits of numbers 0 to 31 are bit 0 of `high`, of 32 to 63 bit 1, and so on. The third bit is worth 4; take 4 from all.",
        "torch.cat([part >> s & 3 for part in (low[:32], low[32:]) for s in (0, 2, 4, 6)]).int() + 4 * torch.cat([high >> b & "
        "1 for b in range(8)]).int() - 4",
    ),
    misconceptions=(
        Misconception(
            lambda high, low: (q3_k_numbers(high, low).to(torch.uint8)).int(),
            "some of your numbers are about 250: bytes (uint8) have no numbers below zero and wrap around. Make them .int() "
            "before you take 4 away.",
        ),
        Misconception(
            lambda high, low: q3_k_numbers(high, low) + 4,
            "your numbers run from 0 to 7. They are stored plus 4: take it away, or every weight is pushed to one side.",
        ),
        Misconception(
            lambda high, low: q3_k_numbers(255 - high, low),
            "your third bits are upside down: where the bit is set, nothing is taken away; where it is not, 4 is.",
        ),
        Misconception(
            lambda high, low: (
                torch.stack([low >> s & 3 for s in (0, 2, 4, 6)], dim=1).flatten().int()
                + 4 * torch.stack([high >> b & 1 for b in range(8)], dim=1).flatten().int()
                - 4
            ),
            "you read each byte to its end before the next. Neighbouring weights lie in neighbouring bytes, at the same bits: "
            "so a processor gets 32 of them with one shift.",
        ),
        Misconception(
            lambda high, low: (
                torch.cat([low >> s & 3 for s in (0, 2, 4, 6)]).int()
                + 4 * torch.cat([high >> b & 1 for b in range(8)]).int()
                - 4
            ),
            "you go through all 64 bytes at each shift. The first 32 bytes hold the first 128 numbers, all four shifts of "
            "them; then come the other 32.",
        ),
    ),
)

check_q3_k_scales = Exercise(
    solution=q3_k_scales,
    inputs=lambda g: [(_bytes(g, 12),) for _ in range(4)],
    praise="Sixteen six-bit numbers in twelve bytes. Times d, they are the steps of the sixteen groups.",
    hints=(
        "Eight bytes hold two halves of four bits each, that is 16 lower halves. Four bytes hold four pieces of two bits, "
        "that is 16 upper pieces.",
        "Lower: packed[:8] & 15 are scales 0 to 7, packed[:8] >> 4 are 8 to 15. Upper: packed[8:] >> 0 & 3 belong to scales 0 "
        "to 3, >> 2 to 4 to 7, and so on; they are worth 16. Take 32 from all.",
        "low = torch.cat([packed[:8] & 15, packed[:8] >> 4]); high = torch.cat([packed[8:] >> s & 3 for s in (0, 2, 4, 6)]); "
        "(low + 16 * high).int() - 32",
    ),
    misconceptions=(
        Misconception(
            lambda packed: q3_k_scales(packed) + 32,
            "your scales run from 0 to 63. They are stored plus 32, and scales may be negative.",
        ),
        Misconception(
            lambda packed: torch.cat([packed[:8] & 15, packed[:8] >> 4]).int() - 32,
            "you use the lower four bits only. The upper two lie in the last four bytes.",
        ),
        Misconception(
            lambda packed: q3_k_scales(packed).view(2, 8).T.flatten(),
            "you take both halves of a byte one after the other. First come the lower halves of all eight bytes, then the "
            "upper halves.",
        ),
        Misconception(
            lambda packed: (
                torch.cat([packed[:8] & 15, packed[:8] >> 4]).int()
                + 16 * torch.stack([packed[8:] >> s & 3 for s in (0, 2, 4, 6)], dim=1).flatten().int()
                - 32
            ),
            "you read the upper pieces byte by byte. Scales 0 to 3 find theirs in the lowest bits of the four bytes.",
        ),
        Misconception(
            lambda packed: q3_k_scales(packed).to(torch.uint8).int(),
            "some of your scales are about 250: bytes wrap around below zero. Make them .int() before you take 32 away.",
        ),
    ),
)

check_fp8_row = Exercise(
    solution=fp8_row,
    inputs=lambda g: [(torch.randn(256, generator=g) * size,) for size in (0.02, 1.0, 30.0)],
    praise="Each number keeps three bits after its first, wherever it lies: small weights stay as exact as large ones.",
    hints=(
        "Choose the scale so that the largest weight, whatever its sign, becomes 448. Divide by it, round, multiply again.",
        "The scale is weights.abs().max() / 448. Rounding is a change of type: .to(torch.float8_e4m3fn), and .float() back.",
        "scale = weights.abs().max() / 448; (weights / scale).to(torch.float8_e4m3fn).float() * scale",
    ),
    misconceptions=(
        Misconception(
            lambda weights: weights.to(FP8).float(),
            "you round the weights as they are. Small ones fall to where this format has only few numbers left.",
        ),
        Misconception(
            lambda weights: (weights / (weights.abs().max() / 448)).to(FP8).float(),
            "you forget to multiply by the scale again: all weights come back hundreds of times too large or too small. It "
            "is the file's `scale_weight`.",
        ),
        Misconception(
            lambda weights: (weights / weights.abs().max()).to(FP8).float() * weights.abs().max(),
            "you bring the largest weight to 1. The format reaches to 448: below 1 you use little more than half of its "
            "numbers, and the smallest weights get coarse steps.",
        ),
        Misconception(
            lambda weights: (weights / (weights.abs().max() / 127)).round() * (weights.abs().max() / 127),
            "you round to 255 even steps. That is int8; a float's steps are finer near zero and coarser far from it.",
        ),
    ),
)

check_memory_sum = Exercise(
    solution=memory_sum,
    inputs=lambda g: [
        (17_097_031_680, 3.4375, 8100, 5120),
        (17_097_031_680, 16.0, 32760, 5120),
        (9_437_184, 3.4375, 144, 256),
        (1_300_000_000, 4.5, 15600, 1536),
    ],
    praise="Packed weights are there all the time, activations only while a block works. The larger of the two decides.",
    hints=(
        "Two parts: what the weights take, and what the tokens take while a block works on them. Both in bytes.",
        "Weights times bits are bits; eight make a byte. A float32 takes 4 bytes, a 16-bit float 2: for each token and channel "
        "there are eight of the first and one of the second.",
        "weights * bits / 8 + tokens * dim * (8 * 4 + 2)",
    ),
    misconceptions=(
        Misconception(
            lambda weights, bits, tokens, dim: weights * bits + tokens * dim * 34,
            "you add bits to bytes: eight bits are a byte.",
        ),
        Misconception(
            lambda weights, bits, tokens, dim: weights * bits / 8,
            "you count the file alone. It fits, and the first step fails: the tokens need room, too.",
        ),
        Misconception(
            lambda weights, bits, tokens, dim: weights * bits / 8 + tokens * dim * 18,
            "you count 2 bytes for every number. The residual stream, the norms and the turned query and key are float32.",
        ),
        Misconception(
            lambda weights, bits, tokens, dim: weights * 2 + tokens * dim * 34,
            "you count all weights unpacked to 16 bits. They stay packed; one matrix at a time is unpacked and thrown away.",
        ),
    ),
)
