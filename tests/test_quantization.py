"""Blocks against gguf, our quantisers against llama.cpp, packed layers against dense ones."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wan_tutorial.errors import WanError
from wan_tutorial.quantization import (
    BLOCK_TYPES,
    FLOAT_TYPES,
    FP8,
    Fp8Linear,
    QuantizedLinear,
    QuantizedTensor,
    dequantize,
    dequantize_fp8,
    quantize,
    quantize_fp8,
    widen_within,
)

REFERENCE = np.load(Path(__file__).parent / "fixtures" / "ggml_reference.npz")
# Where the half-precision numbers of a block lie: random bytes there would be NaN or infinity now and then.
HALVES = {
    "Q8_0": [0], "Q4_0": [0], "Q5_0": [0], "Q4_1": [0, 2], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def random_blocks(name: str, count: int) -> np.ndarray:
    """Blocks whose every bit is random, but for finite scales."""
    draw = np.random.default_rng(3)
    blocks = draw.integers(0, 256, (count, BLOCK_TYPES[name].bytes), dtype=np.uint8)
    for at in HALVES[name]:
        halves = (draw.standard_normal(count) * 10.0 ** draw.integers(-6, 3, count)).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(count, 2)
    return blocks


def matrix(rows: int = 8, columns: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32))


def relative_error(guess: torch.Tensor, truth: torch.Tensor) -> float:
    return float((guess - truth).square().mean().sqrt() / truth.square().mean().sqrt())


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_layout_sizes_are_ggufs(name):
    assert (BLOCK_TYPES[name].weights, BLOCK_TYPES[name].bytes) == gguf.GGML_QUANT_SIZES[
        gguf.GGMLQuantizationType[name]
    ]


@pytest.mark.parametrize("count", [1, 96, 5000])  # one block, some, more than one chunk
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_dequantized_as_gguf_does_to_the_last_bit(name, count):
    blocks = random_blocks(name, count)
    wanted = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    ours = dequantize(torch.from_numpy(blocks), name, wanted.shape)
    assert np.array_equal(ours.numpy().view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_floats_are_read_as_they_are(name):
    weights = matrix().to(FLOAT_TYPES[name])
    assert torch.equal(dequantize(quantize(weights, name), name, (8, 512)), weights.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_smaller_dtypes_are_the_float32_weights_rounded(name, dtype):
    packed = QuantizedTensor.from_weights(matrix(), name)
    assert torch.equal(packed.dequantize(dtype), packed.dequantize().to(dtype))


@pytest.mark.parametrize("name", REFERENCE.files)
def test_our_quantisers_err_no_more_than_llama_cpps(name):
    weights = matrix()  # the matrix of the fixture
    theirs = relative_error(dequantize(torch.from_numpy(REFERENCE[name]), name, (8, 512)), weights)
    ours = relative_error(QuantizedTensor.from_weights(weights, name).dequantize(), weights)
    assert ours <= 1.001 * theirs


@pytest.mark.parametrize(
    "name, published",
    [
        ("Q8_0", 0.0054),
        ("Q6_K", 0.0177),
        ("Q5_K", 0.0361),
        ("Q4_K", 0.0713),
        ("Q3_K", 0.151),
        ("Q2_K", 0.297),
    ],
)
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_errors_on_gaussian_weights(name, published, scale):
    weights = matrix(64, 1024, seed=1) * scale
    assert (
        relative_error(QuantizedTensor.from_weights(weights, name).dequantize(), weights) < 1.03 * published
    )


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_what_is_on_the_grid_comes_back(name):
    """Weights that a type can hold exactly lose next to nothing by packing and unpacking them again."""
    held = QuantizedTensor.from_weights(matrix(), name).dequantize()
    again = QuantizedTensor.from_weights(held, name).dequantize()
    assert relative_error(again, held) < 0.6 * relative_error(held, matrix())


@pytest.mark.parametrize("name", BLOCK_TYPES)
@pytest.mark.parametrize(
    "weights, tolerance",
    [
        (torch.zeros(2, 256), 0.0),
        (torch.full((2, 256), 0.7), 0.04),
        (torch.full((2, 256), -0.7), 0.04),
        (torch.cat((torch.zeros(1, 255), torch.ones(1, 1)), dim=1), 0.05),
        (torch.linspace(3.0, 4.0, 256)[None], 0.2),  # all of one sign, far from zero
    ],
    ids=["zeros", "constant", "negative constant", "one spike", "ramp"],
)
def test_odd_matrices(name, weights, tolerance):
    back = QuantizedTensor.from_weights(weights, name).dequantize()
    assert torch.isfinite(back).all()
    assert (back - weights).abs().max() <= tolerance * weights.abs().max()


def test_bad_weights_get_one_sentence():
    with pytest.raises(WanError, match="finite"):
        quantize(torch.full((1, 256), torch.nan), "Q3_K")
    with pytest.raises(WanError, match="finite"):
        quantize_fp8(torch.full((2, 2), torch.inf))
    with pytest.raises(WanError, match=r"blocks of 256 weights.*\(4, 300\).*F16"):
        quantize(torch.zeros(4, 300), "Q3_K")
    with pytest.raises(WanError, match="'Q9_K' is not a block type.*Q3_K"):
        quantize(torch.zeros(4, 256), "Q9_K")
    with pytest.raises(WanError, match="65504"):
        quantize(torch.full((1, 256), 1e9), "Q3_K")
    with pytest.raises(WanError, match="takes 110 bytes.*not 100"):
        QuantizedTensor(torch.zeros(100, dtype=torch.uint8), "Q3_K", (1, 256))


def test_fp8_keeps_three_bits_and_needs_its_scale():
    weights = matrix() * 1e-3
    packed, scale = quantize_fp8(weights)
    assert packed.dtype == FP8 and scale.dtype == torch.float32 and scale.shape == ()
    assert float(packed.float().abs().max()) == 448
    assert relative_error(dequantize_fp8(packed, scale), weights) < 0.03
    assert relative_error(packed.float(), weights) > 1000  # forgetting the scale is no small mistake
    assert torch.equal(dequantize_fp8(*quantize_fp8(torch.zeros(2, 2))), torch.zeros(2, 2))


def packed_layers() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Each kind of packed layer with its weight as a dense matrix."""
    weights, bias = matrix(16, 256), matrix(1, 16)[0]
    q3, (fp8, scale) = QuantizedTensor.from_weights(weights, "Q3_K"), quantize_fp8(weights)
    return {
        "Q3_K": (QuantizedLinear(q3, bias), q3.dequantize()),
        "fp8": (Fp8Linear(fp8, scale, bias), dequantize_fp8(fp8, scale)),
    }


@pytest.mark.parametrize("kind", ["Q3_K", "fp8"])
def test_packed_layer_is_the_dense_layer_on_both_paths(kind):
    layer, dense = packed_layers()[kind]
    x = matrix(5, 256, seed=2)
    wanted = F.linear(x, dense, layer.bias)
    on_the_fly = layer(x)
    assert torch.equal(on_the_fly, wanted)
    assert layer.widened is None
    assert torch.equal(layer.widen()(x), wanted) and torch.equal(layer.widened, dense)


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize("kind", ["Q3_K", "fp8"])
def test_packed_layer_follows_the_dtype_of_its_input_and_of_autocast(kind, widened):
    layer, dense = packed_layers()[kind]
    layer = layer.to(torch.bfloat16)  # the packed bytes are no floats and stay
    layer = layer.widen(torch.bfloat16) if widened else layer
    x = matrix(5, 256, seed=2)
    wanted = F.linear(x.bfloat16(), dense.bfloat16(), layer.bias)
    assert torch.equal(layer(x.bfloat16()), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), wanted)
    assert layer(x).dtype == torch.float32


def test_updates_are_added_and_learn_while_the_weight_rests():
    layer, dense = packed_layers()["Q3_K"]
    down, up = nn.Parameter(matrix(4, 256, seed=5)), nn.Parameter(matrix(16, 4, seed=6))
    x = matrix(5, 256, seed=2)
    plain = layer(x)
    layer.updates.append(lambda x: x @ down.T @ up.T * 0.5)
    y = layer(x)
    assert torch.allclose(y, F.linear(x, dense + 0.5 * up @ down, layer.bias), atol=1e-3)
    y.square().sum().backward()
    assert down.grad.abs().sum() > 0 and up.grad.abs().sum() > 0
    layer.updates.pop()
    assert torch.equal(layer(x), plain)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_a_budget_widens_what_it_can_hold():
    q3 = QuantizedTensor.from_weights(matrix(16, 256), "Q3_K")
    one = 16 * 256 * 4
    for budget, dtype, held in (
        (0, torch.float32, 0),
        (2 * one + 1, torch.float32, 2),
        (3 * one // 2, torch.bfloat16, 3),
    ):
        model = nn.Sequential(*(QuantizedLinear(q3) for _ in range(3)), nn.Linear(16, 16))
        widen_within(model, budget, dtype=dtype)
        assert [model[i].widened is not None for i in range(3)] == [i < held for i in range(3)]
