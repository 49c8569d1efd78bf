"""Lesson 05's pictures and sums: every bit of a block accounted for, solutions against gguf, parts that add up."""

from itertools import pairwise

import gguf
import numpy as np
import pytest
import torch

from wan_tutorial import show
from wan_tutorial.errors import WanError
from wan_tutorial.exercises import bits as exercise
from wan_tutorial.files import read_header, write_gguf
from wan_tutorial.machine.plan import CARDS, Run, block_parameters, plan_run, step_memory
from wan_tutorial.machine.weights import find_model
from wan_tutorial.quantization import BLOCK_TYPES, QuantizedTensor, dequantize, dequantize_fp8, quantize_fp8
from wan_tutorial.show import bits, memory, style
from wan_tutorial.sizes import VideoSize

ENTRY = find_model("wan2.1-vace-14b-q3")


@pytest.fixture(scope="module")
def raw():
    weights = torch.randn(1, 256, generator=torch.Generator().manual_seed(0))
    return QuantizedTensor.from_weights(weights, "Q3_K").raw


# ------------------------------------------------------------------------------------------------------ exercises


def test_the_block_taken_apart_is_ggufs_to_the_last_bit(raw):
    high, low, packed, d = raw[:32], raw[32:96], raw[96:108], raw[108:].view(torch.float16).float()
    mine = d * exercise.q3_k_scales(packed).repeat_interleave(16) * exercise.q3_k_numbers(high, low)
    theirs = gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType.Q3_K)
    assert np.array_equal(mine.numpy(), theirs)


@pytest.mark.parametrize("kind", exercise.LAYOUTS)
def test_bits_per_weight_are_ggufs(kind):
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    assert exercise.bits_per_weight(*exercise.LAYOUTS[kind]) == 8 * size / weights


def test_the_fp8_row_is_the_packages():
    row = torch.randn(64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(exercise.fp8_row(row), dequantize_fp8(*quantize_fp8(row)))


def test_the_memory_sum_is_the_plans():
    run = Run(VideoSize(832, 480, 33), 4, 1.0)
    mine = exercise.memory_sum(block_parameters(ENTRY), 3.4375, run.tokens, ENTRY.shape[0])
    plans = block_parameters(ENTRY) * 110 / 256 + step_memory(ENTRY, run.tokens, 1, half=True)
    assert mine == pytest.approx(plans)


# --------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_the_fields_of_a_block_are_all_its_bytes(kind):
    assert sum(size for _, size in bits.FIELDS[kind]) == BLOCK_TYPES[kind].bytes


@pytest.mark.parametrize("weight", [0, 37, 100, 128, 200, 255])
def test_the_bits_said_to_make_a_weight_are_those_that_do(raw, weight):
    """Flip each of the 880 bits: exactly the ones named may change this weight, and each of them can."""
    said = {spot for spots in bits.q3_k_bits(weight).values() for spot in spots}
    assert len(said) == 2 + 1 + 6 + 16
    index = torch.arange(880)
    changing = set()
    for scale in (
        raw,
        _with_scales_of_one(raw),
    ):  # in one of them q or s may be 0, and its partner's bits idle
        flipped = scale.repeat(880, 1)
        flipped[index, index // 8] ^= (1 << index % 8).to(torch.uint8)
        now = dequantize(flipped, "Q3_K", (880, 256))[:, weight]
        was = dequantize(scale, "Q3_K", (1, 256))[0, weight]
        changing |= {(int(i) // 8, int(i) % 8) for i in (now != was).nonzero().flatten()}
    assert changing <= said and said - changing <= set(
        bits.q3_k_bits(weight)[bits.SCALES] + bits.q3_k_bits(weight)[bits.HALVES]
    )


def _with_scales_of_one(raw: torch.Tensor) -> torch.Tensor:
    """The same block with every scale 33 - 32 and d 1, all numbers 3 or -1."""
    other = raw.clone()
    other[:96] |= 0b11111111
    other[96:104], other[104:108] = 0x11, 0b10101010
    other[108:] = torch.tensor([1.0], dtype=torch.float16).view(torch.uint8)
    return other


def test_the_drawing_of_a_block_marks_a_weight(raw):
    marked = bits.draw_block(raw, 37)
    assert marked.shape == (600, 1840, 3)
    assert not np.array_equal(marked, bits.draw_block(raw, 38))
    with pytest.raises(WanError, match="110 bytes, not 84"):
        bits.draw_block(raw[:84], 37)


def test_the_block_explorer_follows_its_slider(monkeypatch, raw):
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: None)
    board = show.explore_block(raw, weight=0)
    before = board.parts["image"].value
    board.controls["weight"].value = 255
    assert board.parts["image"].value != before and "weight 255 is made of bits" in board.parts["image"].value


# ------------------------------------------------------------------------------------------------------- pictures


def test_pictures_have_words_and_fit_the_page(tmp_path, raw):
    matrix = torch.randn(4, 256)
    path = tmp_path / "small.gguf"
    write_gguf(
        path, {"blocks.0.q.weight": QuantizedTensor.from_weights(matrix, "Q3_K"), "head.bias": torch.ones(8)}
    )
    costs = {"error": {"Q3_K": 0.15, "Q8_0": 0.005}, "loss": {"Q3_K": 0.1, "Q8_0": 0.09}}
    run = Run(VideoSize(480, 480, 33), 4, 1.0)
    plans = {
        name: plan_run(find_model(f"wan2.1-vace-14b-{name}"), CARDS["T4"], run, offload=False)
        for name in ("q3", "f16")
    }
    figures = [
        bits.plot_files({"small": read_header(path)}),
        bits.plot_block_types(["Q8_0", "Q3_K"]),
        bits.plot_bit_damage(torch.rand(110, 8)),
        bits.plot_costs({"Q3_K": 3.4, "Q8_0": 8.5}, costs, logarithmic=("error",)),
        memory.plot_memory(plans, title="Two files"),
        memory.plot_plan(plans["f16"]),
    ]
    for figure in figures:
        assert len(figure.get_label()) > 15 and figure.get_figwidth() <= style.WIDTH
        assert style.to_array(figure, dots=40).std() > 1
    assert "2 tensors" in figures[0].get_label() and "Types: Q3_K, F32" in figures[0].get_label()
    assert "Q8_0 8.5, Q3_K 3.438" in figures[1].get_label()
    assert "f16 " in figures[4].get_label() and figures[4].get_label().count("too much") == 1
    assert "It does not fit" in figures[5].get_label() and ", 4 steps: " in figures[5].get_label()


def test_a_map_has_lines_for_blocks_alone_and_no_piece_thinner_than_a_pixel(tmp_path):
    path = tmp_path / "small.gguf"
    wide, vector = torch.randn(64, 256), torch.ones(8)
    tensors = {"head.bias": torch.ones(4096), "text.0.weight": QuantizedTensor.from_weights(wide, "Q8_0")}
    for block in ("blocks.0", "blocks.1", "vace_blocks.0"):
        tensors |= {
            f"{block}.q.weight": QuantizedTensor.from_weights(wide, "Q3_K"),
            f"{block}.q.bias": vector,
        }
    write_gguf(path, tensors)
    header = read_header(path)
    first = {entry.name: entry.offset for entry in header.entries}
    starts = sorted(first[f"{block}.q.weight"] for block in ("blocks.0", "blocks.1", "vace_blocks.0"))
    assert bits._block_starts(header) == starts
    pieces = bits._pieces(header, 100)
    assert [kind for kind, _, _ in pieces] == ["F32", "Q8_0", "Q3_K"]
    assert all(before[2] <= after[1] for before, after in pairwise(pieces))
    assert [kind for kind, _, _ in bits._pieces(header, 1)].count("F32") == 4


def test_a_number_beside_a_bar_stands_clear_of_the_limit():
    ends = (2.0, 11.0, 14.0, 15.0, 15.1)
    assert [memory._clear_of(15.0, end, 3.0) for end in ends] == [2.0, 11.0, 15.0, 15.0, 15.1]
    assert [memory._words_place(15.0, end, 3.0) for end in ends] == [
        (2.0, False), (11.0, False), (14.0, True), (15.0, False), (15.1, False)
    ]  # fmt: skip
    assert memory._words_place(4.0, 2.0, 3.0) == (4.0, False), "too short a bar for words inside it"


def test_the_quantisation_explorer_packs_what_is_picked(monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: None)
    generator = torch.Generator().manual_seed(3)
    matrices = {name: torch.randn(8, 256, generator=generator) for name in ("one", "two")}
    board = show.explore_quantization(matrices)
    seen = [board.parts["image"].value]
    for name, value in (("kind", "Q8_0"), ("name", "two"), ("row", 5), ("kind", "fp8")):
        board.controls[name].value = value
        seen.append(board.parts["image"].value)
    assert len(set(seen)) == 5 and "after fp8, 8 bits each" in seen[-1]


# --------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("card", ["T4", "24GB", "CPU"])
@pytest.mark.parametrize("model", ["wan2.1-vace-14b-q3", "wan2.1-vace-14b-q8_0", "mini"])
def test_the_parts_of_a_step_are_the_plans_whole(card, model):
    plan = plan_run(find_model(model), CARDS[card], Run(VideoSize(480, 480, 33), 4, 1.0))
    stage = next(stage for stage in plan.stages if stage.name == "steps")
    parts = memory.step_parts(plan)
    assert sum(parts.values()) == pytest.approx(stage.vram if plan.card.vram else stage.ram)
    assert all(size > 0 for size in parts.values()) and list(parts) == list(memory.PARTS)


def test_the_calculator_answers_every_control(monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: None)
    models = {name: find_model(name) for name in ("wan2.1-vace-14b-q3", "wan2.1-vace-1.3b")}
    board = show.explore_memory(CARDS, models, model="wan2.1-vace-14b-q3", card="8GB")
    seen = [board.parts["image"].value]
    assert "It does not fit" in seen[0]
    for name, value in (
        ("card", "T4"),
        ("frames", 61),
        ("pixels", "480x480"),
        ("fast", False),
        ("model", "wan2.1-vace-1.3b"),
    ):
        board.controls[name].value = value
        seen.append(board.parts["image"].value)
    assert len(set(seen)) == 6
