"""Weights in few bits: GGUF blocks and scaled fp8, read, written, and used in linear layers.

Where this stands: a model file gives packed bytes (`files.read_tensors`), the transformer and the text
encoder compute with them. Quantisation cuts a row of weights into **blocks**; a block stores small whole
numbers `q` and the scale that turns them back into weights. Three families are read here:

* simple blocks of 32 weights, one scale each:     w = d * q          (Q4_0, Q5_0, Q8_0)
                                                   w = d * q + m      (Q4_1, Q5_1)
* K-quants, 256 weights in groups of 16 or 32; each group has a scale of its own, itself stored in 4 to 8
  bits and multiplied by the block's scale `d`:    w = d * s * q      (Q3_K, Q6_K)
                                                   w = d * s * q - dmin * m   (Q2_K, Q4_K, Q5_K)
* scaled fp8: an eight-bit float per weight and one scale for the whole matrix.

`d`, `dmin`, `m` of a block are half-precision floats. Bits per weight are bytes * 8 / weights: Q3_K takes
110 bytes for 256 weights, 3.4375 bits.

Corresponds to ggml's `ggml-quants.c` (the layouts), `gguf.quants` (the same in numpy) and ComfyUI-GGUF's
`dequant.py` (the same in torch). gguf only reads K-quants; the quantisers that write them are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import WanError


@dataclass(frozen=True)
class BlockType:
    """How a type packs its weights: `weights` numbers in `bytes` bytes."""

    weights: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.weights


BLOCK_TYPES = {
    "Q8_0": BlockType(32, 34),
    "Q5_1": BlockType(32, 24),
    "Q5_0": BlockType(32, 22),
    "Q4_1": BlockType(32, 20),
    "Q4_0": BlockType(32, 18),
    "Q6_K": BlockType(256, 210),
    "Q5_K": BlockType(256, 176),
    "Q4_K": BlockType(256, 144),
    "Q3_K": BlockType(256, 110),
    "Q2_K": BlockType(256, 84),
}
FLOAT_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0


def block_type(name: str) -> BlockType:
    """The layout of a block type; WanError for a name this package does not know."""
    if name not in BLOCK_TYPES:
        raise WanError(f"{name!r} is not a block type this package reads; it reads {', '.join(BLOCK_TYPES)}.")
    return BLOCK_TYPES[name]


def packed_bytes(type_name: str, shape: tuple[int, ...]) -> int:
    """How many bytes a tensor of this shape takes in this type; its rows must fill whole blocks."""
    count = int(np.prod(shape, dtype=np.int64))
    if type_name in FLOAT_TYPES:
        return count * FLOAT_TYPES[type_name].itemsize
    block = block_type(type_name)
    if not shape or shape[-1] % block.weights:
        raise WanError(
            f"{type_name} packs rows in blocks of {block.weights} weights, and a row of shape {tuple(shape)} is no "
            f"multiple of that; keep this tensor in F16."
        )
    return count // block.weights * block.bytes


# ---------------------------------------------------------------------------------------------------------
# Bits in bytes. Every layout below is told in these two words: a byte holds 8 / bits pieces, and the pieces
# of one position lie side by side in the result. Eight bytes are shifted at once, as one 64-bit word.

_BYTE_ONES = 0x0101010101010101
_CHUNK_BLOCKS = 4096  # a million weights at a time stay in a processor's cache


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """(..., bytes) -> (..., 8 // bits, bytes): piece 0 of every byte (its lowest bits), then piece 1, ..."""
    words = packed.clone(memory_format=torch.contiguous_format).view(torch.int64)
    mask = (2**bits - 1) * _BYTE_ONES
    return (
        torch.stack([words >> shift for shift in range(0, 8, bits)], dim=-2)
        .bitwise_and_(mask)
        .view(torch.uint8)
    )


def _pack(pieces: Tensor, bits: int) -> Tensor:
    """(..., 8 // bits, bytes) -> (..., bytes): the way back."""
    shifts = range(0, 8, bits)
    return sum(
        (pieces[..., i, :] << shift for i, shift in enumerate(shifts)), torch.zeros_like(pieces[..., 0, :])
    )


def _half(blocks: Tensor, at: int) -> Tensor:
    """The half-precision float at a byte of every block, as (blocks, 1) float32."""
    return blocks[:, at : at + 2].clone().view(torch.float16).float()


def _scaled(q: Tensor, scale: Tensor, offset: Tensor | None, dtype: torch.dtype) -> Tensor:
    """q (blocks, groups, n) times its group's scale (blocks, groups), plus its offset: the weights.

    On a GPU the product is made in `dtype`, which saves memory; a CPU is quicker in float32 and rounds after.
    """
    work = dtype if q.is_cuda else torch.float32
    weights = q.to(work).mul_(scale.to(work)[..., None])
    return (weights if offset is None else weights.add_(offset.to(work)[..., None])).to(dtype)


# ---------------------------------------------------------------------------------------------------------
# Blocks -> weights. Each takes (blocks, bytes) uint8 and gives (blocks, groups, n).


def _dequantize_q8_0(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """d (2 bytes), q: 32 signed bytes."""
    q = blocks[:, None, 2:].view(torch.int8)
    return _scaled(q, _half(blocks, 0), None, dtype)


def _dequantize_q4_0(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """d (2 bytes), q + 8: 32 x 4 bits; the low halves of 16 bytes come first, then the high halves."""
    q = _unpack(blocks[:, 2:], 4).view(torch.int8).sub_(8)  # (blocks, 2, 16)
    return _scaled(q.view(-1, 1, 32), _half(blocks, 0), None, dtype)


def _dequantize_q4_1(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """d, m (2 bytes each), q: 32 x 4 bits as in Q4_0, never negative."""
    q = _unpack(blocks[:, 4:], 4)
    return _scaled(q.view(-1, 1, 32), _half(blocks, 0), _half(blocks, 2), dtype)


def _fifth_bits(packed: Tensor) -> Tensor:
    """(blocks, 4) bytes -> (blocks, 2, 16): bit i of the 32, worth 16, belongs to weight i."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> shifts & 1).mul_(16).view(-1, 2, 16)


def _dequantize_q5_0(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """d (2 bytes), the fifth bits (4 bytes), the lower four as in Q4_0; q is stored plus 16."""
    q = (_unpack(blocks[:, 6:], 4) | _fifth_bits(blocks[:, 2:6])).view(torch.int8).sub_(16)
    return _scaled(q.view(-1, 1, 32), _half(blocks, 0), None, dtype)


def _dequantize_q5_1(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """d, m (2 bytes each), then as Q5_0; q is never negative."""
    q = _unpack(blocks[:, 8:], 4) | _fifth_bits(blocks[:, 4:8])
    return _scaled(q.view(-1, 1, 32), _half(blocks, 0), _half(blocks, 2), dtype)


def _dequantize_q2_k(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """16 bytes of s (low half) and m (high half), 64 bytes of q (2 bits each), d, dmin; 16 groups of 16."""
    scales = _unpack(blocks[:, :16], 4).float()  # (blocks, 2, 16)
    q = _unpack(blocks[:, 16:80].reshape(-1, 2, 32), 2)  # (blocks, 2, 4, 32)
    scale, offset = _half(blocks, 80) * scales[:, 0], -(_half(blocks, 82) * scales[:, 1])
    return _scaled(q.view(-1, 16, 16), scale, offset, dtype)


def _dequantize_q3_k(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """32 bytes of third bits, 64 bytes of the lower two, 12 bytes of s (16 x 6 bits), d; 16 groups of 16.

    q runs from -4 to 3 and is stored plus 4, s from -32 to 31 and is stored plus 32.
    """
    low = _unpack(blocks[:, 32:96].reshape(-1, 2, 32), 2).view(-1, 256)
    high = _unpack(blocks[:, :32], 1).view(-1, 256)
    q = low.add_(high, alpha=4).view(torch.int8).sub_(4)
    scale = _half(blocks, 108) * (_unpack_q3_k_scales(blocks[:, 96:108]) - 32)
    return _scaled(q.view(-1, 16, 16), scale, None, dtype)


def _unpack_q3_k_scales(packed: Tensor) -> Tensor:
    """(blocks, 12) -> (blocks, 16): low four bits in bytes 0 to 7, upper two of four scales in each of 8 to 11."""
    words = packed.clone(memory_format=torch.contiguous_format).view(torch.int32)  # four bytes at once
    low = torch.cat((words[:, :2], words[:, :2] >> 4), dim=1) & 0x0F0F0F0F
    high = torch.cat([words[:, 2:] >> shift for shift in (0, 2, 4, 6)], dim=1) & 0x03030303
    return (low | high << 4).view(torch.uint8).float()


def _dequantize_q4_k(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """d, dmin, 12 bytes of s and m (8 x 6 bits each), 128 bytes of q (4 bits each); 8 groups of 32."""
    scale, offset = _q4_k_scales(blocks)
    q = _unpack(blocks[:, 16:].reshape(-1, 4, 32), 4)  # (blocks, 4, 2, 32)
    return _scaled(q.view(-1, 8, 32), scale, offset, dtype)


def _dequantize_q5_k(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """As Q4_K, with 32 bytes of fifth bits before the lower four."""
    scale, offset = _q4_k_scales(blocks)
    low = _unpack(blocks[:, 48:].reshape(-1, 4, 32), 4).view(-1, 256)
    high = _unpack(blocks[:, 16:48], 1).view(-1, 256)
    return _scaled(low.add_(high, alpha=16).view(-1, 8, 32), scale, offset, dtype)


def _q4_k_scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and offset of the 8 groups of a Q4_K or Q5_K block.

    Bytes 0 to 3 of the 12 hold s 0 to 3 in six bits, bytes 4 to 7 m 0 to 3; bytes 8 to 11 hold the lower four
    bits of s and m 4 to 7, whose upper two are the two bits left over in bytes 0 to 7.
    """
    words = blocks[:, 4:16].clone().view(torch.int32)  # (blocks, 3), four bytes each
    s, m, low = words[:, 0:1], words[:, 1:2], words[:, 2:3]
    scales = torch.cat((s & 0x3F3F3F3F, low & 0x0F0F0F0F | s >> 2 & 0x30303030), dim=1).view(torch.uint8)
    mins = torch.cat((m & 0x3F3F3F3F, low >> 4 & 0x0F0F0F0F | m >> 2 & 0x30303030), dim=1).view(torch.uint8)
    return _half(blocks, 0) * scales.float(), -(_half(blocks, 2) * mins.float())


def _dequantize_q6_k(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """128 bytes of lower four bits, 64 bytes of the upper two, 16 signed bytes of s, d; 16 groups of 16."""
    low = _unpack(blocks[:, :128].reshape(-1, 2, 64), 4).view(-1, 256)
    high = _unpack(blocks[:, 128:192].reshape(-1, 2, 32), 2).view(-1, 256)
    q = low.add_(high, alpha=16).view(torch.int8).sub_(32)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(torch.int8).float()
    return _scaled(q.view(-1, 16, 16), scale, None, dtype)


_DEQUANTIZERS: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "Q8_0": _dequantize_q8_0,
    "Q5_1": _dequantize_q5_1,
    "Q5_0": _dequantize_q5_0,
    "Q4_1": _dequantize_q4_1,
    "Q4_0": _dequantize_q4_0,
    "Q6_K": _dequantize_q6_k,
    "Q5_K": _dequantize_q5_k,
    "Q4_K": _dequantize_q4_k,
    "Q3_K": _dequantize_q3_k,
    "Q2_K": _dequantize_q2_k,
}


def dequantize(
    raw: Tensor, type_name: str, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Packed bytes -> weights of the given shape.

    In float32 equal to `gguf.quants.dequantize`, bit for bit.
    """
    if type_name in FLOAT_TYPES:
        return raw.contiguous().view(FLOAT_TYPES[type_name]).view(shape).to(dtype)
    blocks = raw.reshape(-1, block_type(type_name).bytes)
    if raw.is_cuda or len(blocks) <= _CHUNK_BLOCKS:
        return _DEQUANTIZERS[type_name](blocks, dtype).view(shape)
    weights = torch.empty(shape, dtype=dtype)
    parts = weights.view(len(blocks), -1).split(_CHUNK_BLOCKS)
    for part, chunk in zip(parts, blocks.split(_CHUNK_BLOCKS), strict=True):
        part.copy_(_DEQUANTIZERS[type_name](chunk, dtype).view(len(chunk), -1))
    return weights


# ---------------------------------------------------------------------------------------------------------
# Weights -> blocks. Rounding to the nearest step is easy; choosing the step is the art. With q fixed, the best
# scale is a least-squares fit, so: try a row of steps, round, fit, keep what leaves the smallest squared error.
# llama.cpp searches the same way but weighs large weights more; plain squared error is what we measure.


def _fit_scale(x: Tensor, low: int, high: int, nudges: Tensor, importance: Tensor | None = None) -> Tensor:
    """The scale (..., 1) for which x (..., n) is best told as scale * q, with whole q from low to high.

    The largest x goes near the longer end of the range; a nudge of 0.1 puts it a tenth of a step beyond.
    The scale may be negative. `importance` (..., n) weighs the squared errors.
    """
    extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    extreme = torch.where(extreme == 0, 1.0, extreme)
    best = torch.zeros_like(extreme)
    best_gain = torch.zeros_like(extreme)
    weighed = x if importance is None else x * importance
    for nudge in nudges.tolist():
        end = low - nudge if low < 0 else high + nudge
        q = (x * (end / extreme)).round_().clamp_(low, high)
        dot = (q * weighed).sum(-1, keepdim=True)
        norm = (q.square() if importance is None else q.square() * importance).sum(-1, keepdim=True)
        norm.clamp_(min=torch.finfo(norm.dtype).tiny)
        gain = dot.square() / norm  # how much squared error this q takes away
        best = torch.where(gain > best_gain, dot / norm, best)
        best_gain = torch.maximum(gain, best_gain)
    return best


def _fit_scale_and_min(x: Tensor, high: int, nudges: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and min (..., 1), both >= 0, for which x (..., n) is best told as scale * q - min, q from 0 to high."""
    n = x.shape[-1]
    bottom = x.amin(-1, keepdim=True).clamp_(max=0)
    spread = x.amax(-1, keepdim=True) - bottom
    steps_per_unit = torch.where(spread > 0, 1 / spread, 0.0)
    sum_x = x.sum(-1, keepdim=True)
    scale, minimum = torch.zeros_like(spread), -bottom
    best_error = torch.full_like(spread, torch.inf)
    for nudge in nudges.tolist():
        q = ((x - bottom) * ((high + nudge) * steps_per_unit)).round_().clamp_(0, high)
        sum_q, sum_qq = q.sum(-1, keepdim=True), q.square().sum(-1, keepdim=True)
        sum_qx = (q * x).sum(-1, keepdim=True)
        determinant = n * sum_qq - sum_q.square()
        solvable = determinant > 0
        slope = torch.where(solvable, (n * sum_qx - sum_x * sum_q) / determinant, 0.0)
        shift = torch.where(solvable, (sum_q * sum_qx - sum_qq * sum_x) / determinant, -sum_x / n)
        below = shift <= 0  # a min below zero cannot be stored: fit the scale alone
        slope = torch.where(below, sum_qx / sum_qq.clamp(min=1), slope).clamp_(min=0)
        shift = shift.clamp_(min=0)
        error = slope * (slope * sum_qq - 2 * sum_qx) + shift * (n * shift + 2 * sum_x - 2 * slope * sum_q)
        better = error < best_error
        scale, minimum = torch.where(better, slope, scale), torch.where(better, shift, minimum)
        best_error = torch.minimum(error, best_error)
    return scale, minimum


def _to_half(scale: Tensor) -> Tensor:
    """A block's scale as it will be stored: rounded to half precision."""
    half = scale.to(torch.float16)
    if not torch.isfinite(half).all():
        raise WanError(
            "These weights are too large to be quantised: a block's scale exceeds 65504, the largest half."
        )
    return half


def _divide(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale, and 0 where the scale is 0."""
    return x * torch.where(scale == 0, 0.0, 1 / scale)


def _stored_scales(scales: Tensor, low: int, high: int, importance: Tensor) -> tuple[Tensor, Tensor]:
    """The scales of a block's groups (blocks, groups) told as d * s: d (blocks, 1) in half precision, whole s.

    The same fit again, one floor up: here the scales are the numbers, and a group's error counts by its weight.
    """
    d = _to_half(_fit_scale(scales, low, high, torch.linspace(-0.9, 0.9, 19), importance))
    return d, _divide(scales, d.float()).round_().clamp_(low, high)


def _symmetric_blocks(x: Tensor, group: int, low: int, high: int, s_low: int, s_high: int, nudges: Tensor):
    """x (blocks, 256) -> d (blocks, 1) half, s (blocks, groups), q (blocks, 256): x is about d * s * q."""
    groups = x.view(len(x), -1, group)
    scales = _fit_scale(groups, low, high, nudges)
    q = _divide(groups, scales).round_().clamp_(low, high)
    d, s = _stored_scales(scales.squeeze(-1), s_low, s_high, q.square().sum(-1))
    q = _divide(groups, (d.float() * s)[..., None]).round_().clamp_(low, high)
    return d, s, q.view_as(x)


def _offset_blocks(x: Tensor, group: int, high: int, s_high: int, nudges: Tensor):
    """x (blocks, 256) -> d, dmin half, s, m (blocks, groups), q (blocks, 256): x is about d * s * q - dmin * m."""
    groups = x.view(len(x), -1, group)
    scales, mins = _fit_scale_and_min(groups, high, nudges)
    q = _divide(groups + mins, scales).round_().clamp_(0, high)
    d, s = _stored_scales(scales.squeeze(-1), 0, s_high, q.square().sum(-1))
    dmin, m = _stored_scales(mins.squeeze(-1), 0, s_high, torch.ones_like(s))
    scales, mins = (d.float() * s)[..., None], (dmin.float() * m)[..., None]
    q = _divide(groups + mins, scales).round_().clamp_(0, high)
    return d, dmin, s, m, q.view_as(x)


def _bytes(*parts: Tensor) -> Tensor:
    """The parts of a block side by side, as bytes."""
    return torch.cat([part.contiguous().view(torch.uint8).view(len(part), -1) for part in parts], dim=1)


def _quantize_q2_k(x: Tensor) -> Tensor:
    d, dmin, s, m, q = _offset_blocks(x, 16, 3, 15, torch.linspace(-0.9, 0.9, 19))
    scales = _pack(torch.stack((s, m), dim=1).to(torch.uint8), 4)
    return _bytes(scales, _pack(q.to(torch.uint8).view(-1, 2, 4, 32), 2), d, dmin)


def _quantize_q3_k(x: Tensor) -> Tensor:
    d, s, q = _symmetric_blocks(x, 16, -4, 3, -32, 31, torch.linspace(-1.0, 1.5, 26))
    stored = (q + 4).to(torch.uint8)
    scale = (s + 32).to(torch.uint8)  # (blocks, 16)
    scales = torch.cat((_pack((scale & 15).view(-1, 2, 8), 4), _pack((scale >> 4).view(-1, 4, 4), 2)), dim=1)
    high = _pack((stored >> 2).view(-1, 8, 32), 1)
    return _bytes(high, _pack((stored & 3).view(-1, 2, 4, 32), 2), scales, d)


def _pack_q4_k_scales(s: Tensor, m: Tensor) -> Tensor:
    """s, m (blocks, 8), 0 to 63 -> (blocks, 12); the layout is told at `_q4_k_scales`."""
    s, m = s.to(torch.uint8), m.to(torch.uint8)
    first = torch.cat((s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6), dim=1)
    return torch.cat((first, s[:, 4:] & 15 | (m[:, 4:] & 15) << 4), dim=1)


def _quantize_q4_k(x: Tensor) -> Tensor:
    d, dmin, s, m, q = _offset_blocks(x, 32, 15, 63, torch.linspace(-1.5, 0.9, 17))
    return _bytes(d, dmin, _pack_q4_k_scales(s, m), _pack(q.to(torch.uint8).view(-1, 4, 2, 32), 4))


def _quantize_q5_k(x: Tensor) -> Tensor:
    d, dmin, s, m, q = _offset_blocks(x, 32, 31, 63, torch.linspace(-1.5, 0.9, 17))
    stored = q.to(torch.uint8)
    high = _pack((stored >> 4).view(-1, 8, 32), 1)
    return _bytes(d, dmin, _pack_q4_k_scales(s, m), high, _pack((stored & 15).view(-1, 4, 2, 32), 4))


def _quantize_q6_k(x: Tensor) -> Tensor:
    d, s, q = _symmetric_blocks(x, 16, -32, 31, -128, 127, torch.linspace(-0.9, 0.9, 19))
    stored = (q + 32).to(torch.uint8)
    high = _pack((stored >> 4).view(-1, 2, 4, 32), 2)
    return _bytes(_pack((stored & 15).view(-1, 2, 2, 64), 4), high, s.to(torch.int8), d)


_QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q6_K": _quantize_q6_k,
    "Q5_K": _quantize_q5_k,
    "Q4_K": _quantize_q4_k,
    "Q3_K": _quantize_q3_k,
    "Q2_K": _quantize_q2_k,
}


def quantize(weights: Tensor, type_name: str) -> Tensor:
    """Weights -> packed bytes (flat uint8), for every type this package reads.

    K-quants are fitted here; the simple blocks are `gguf`'s. No importance matrix is used. WanError where a
    row does not fill whole blocks or a weight is not a finite number.
    """
    packed_bytes(type_name, tuple(weights.shape))
    if type_name in FLOAT_TYPES:
        return weights.to(FLOAT_TYPES[type_name]).contiguous().view(-1).view(torch.uint8)
    if not torch.isfinite(weights).all():
        raise WanError("Only finite weights can be quantised; these hold NaN or infinity.")
    weights = weights.detach().to("cpu", torch.float32)
    if type_name not in _QUANTIZERS:
        return _quantize_simple(weights, type_name)
    chunks = weights.reshape(-1, 256).split(_CHUNK_BLOCKS)
    return torch.cat([_QUANTIZERS[type_name](chunk) for chunk in chunks]).view(-1)


def _quantize_simple(weights: Tensor, type_name: str) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    raw = quants.quantize(weights.contiguous().numpy(), GGMLQuantizationType[type_name])
    return torch.from_numpy(raw).view(-1)


# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor that stays packed: its bytes, the name of its type, and the shape it has when widened.

    The bytes may lie in a memory map; nothing is read before `dequantize`.
    """

    raw: Tensor
    type: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        needed = packed_bytes(self.type, self.shape)
        if self.raw.dtype != torch.uint8 or self.raw.numel() != needed:
            raise WanError(
                f"A {self.type} tensor of shape {self.shape} takes {needed} bytes (uint8), "
                f"not {self.raw.numel()} of {self.raw.dtype}."
            )

    @classmethod
    def from_weights(cls, weights: Tensor, type_name: str) -> QuantizedTensor:
        return cls(quantize(weights, type_name), type_name, tuple(weights.shape))

    @property
    def nbytes(self) -> int:
        return self.raw.numel()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return dequantize(self.raw, self.type, self.shape, dtype=dtype)

    def to(self, device: torch.device | str) -> QuantizedTensor:
        return QuantizedTensor(self.raw.to(device), self.type, self.shape)

    def __repr__(self) -> str:
        return f"QuantizedTensor({self.type}, {self.shape}, {self.nbytes:,} bytes)"


def quantize_fp8(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights -> (float8_e4m3fn weights, float32 scalar scale), weights being about fp8 * scale.

    An eight-bit float reaches 448 at most; the scale brings the largest weight there, so that small weights
    keep clear of fp8's coarse end. The scale belongs to the file: without it a model runs and is wrong.
    """
    if not torch.isfinite(weights).all():
        raise WanError("Only finite weights can be quantised; these hold NaN or infinity.")
    weights = weights.detach().float()
    scale = weights.abs().max() / FP8_LARGEST
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (weights / scale).to(FP8), scale


def dequantize_fp8(weights: Tensor, scale: Tensor | float, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """fp8 weights times their scale, in `dtype`; each product is rounded once."""
    return weights.to(dtype).mul_(float(scale))


class PackedLinear(nn.Module):
    """A linear layer whose frozen weight stays packed: y = x W^T + b, W made when it is needed.

    Two paths, equal to the last bit: by default W is unpacked **on the fly** at each call and thrown away, so
    memory holds only the packed bytes; `widen(dtype)` unpacks once and keeps W, for speed.
    W is made in the dtype of x, or in autocast's where that is on.

    `updates` is a list of functions x -> something to add to y. Low-rank updates (LoRA) enter here: with
    `updates.append(lambda x: (x @ down.T) @ up.T * strength)` the layer computes x (W + strength up down)^T and
    the packed weight is never touched. Taking a function out of the list takes its effect away.
    """

    widened: Tensor | None
    wide_input = (
        False  # whether x may be beyond float16's range: then the product is float32 where float16 is asked
    )

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.updates: list[Callable[[Tensor], Tensor]] = []
        self.register_buffer("widened", None, persistent=False)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W as (out_features, in_features) in `dtype`, made anew."""
        raise NotImplementedError

    def widen(self, dtype: torch.dtype = torch.float32) -> PackedLinear:
        """Keep W unpacked from now on."""
        self.widened = self.dequantize(dtype)
        return self

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if self.wide_input and dtype == torch.float16:
            with torch.autocast(device, enabled=False):
                return self(x.float())
        weight = self.dequantize(dtype) if self.widened is None else self.widened.to(dtype)
        x = x.to(dtype)
        y = F.linear(x, weight, None if self.bias is None else self.bias.to(dtype))
        for update in self.updates:
            y = y + update(x).to(y.dtype)
        return y

    def extra_repr(self) -> str:
        path = "on the fly" if self.widened is None else f"widened to {self.widened.dtype}"
        return f"in_features={self.in_features}, out_features={self.out_features}, {path}"


class QuantizedLinear(PackedLinear):
    """A linear layer that holds GGUF blocks."""

    raw: Tensor

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        self.type_name = weight.type
        self.register_buffer("raw", weight.raw)

    @property
    def weight(self) -> QuantizedTensor:
        return QuantizedTensor(self.raw, self.type_name, (self.out_features, self.in_features))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return dequantize(self.raw, self.type_name, (self.out_features, self.in_features), dtype=dtype)

    def extra_repr(self) -> str:
        return f"{self.type_name}, {super().extra_repr()}"


class Fp8Linear(PackedLinear):
    """A linear layer that holds scaled fp8, ComfyUI's `weight` and `scale_weight`: y = x (W * scale)^T + b.

    The bytes are kept as bytes and the scale as a plain number, so that `model.half()` cannot round them, and
    `weight` is None: transformers' T5 feed-forward casts activations to `wo.weight.dtype` where it finds one,
    and activations in fp8 are ruin.
    """

    raw: Tensor
    weight: Any = None

    def __init__(self, weight: Tensor, scale: Tensor | float, bias: Tensor | None = None) -> None:
        if weight.dtype != FP8:
            raise WanError(
                f"Fp8Linear holds float8_e4m3fn weights, not {weight.dtype}; make them with quantize_fp8."
            )
        super().__init__(weight.shape[1], weight.shape[0], bias)
        self.scale = float(scale)
        self.register_buffer("raw", weight.view(torch.uint8))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return dequantize_fp8(self.raw.view(FP8), self.scale, dtype=dtype)


def packed_linears(model: nn.Module) -> Iterator[PackedLinear]:
    """Every packed layer of a model, in order."""
    return (module for module in model.modules() if isinstance(module, PackedLinear))


def widen_within(model: nn.Module, budget_bytes: int, *, dtype: torch.dtype = torch.float32) -> None:
    """Keep as many layers widened as the budget allows, first come first served; the rest is unpacked at every call.

    Every layer is used once per step, so a byte buys the same speed wherever it goes.
    """
    for layer in packed_linears(model):
        size = layer.in_features * layer.out_features * dtype.itemsize
        if size <= budget_bytes:
            layer.widen(dtype)
            budget_bytes -= size
