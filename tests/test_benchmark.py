"""The benchmark compares ways to do one thing: they must give the same numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import packed, small_transformer_state, write_small_model

from wan_tutorial.machine import benchmark
from wan_tutorial.machine.benchmark import (
    PAGE,
    Ours,
    Theirs,
    dense,
    spoken_ratio,
    stage_seconds,
    stage_table,
    step_seconds,
    with_diffusers_layers,
    with_section,
)
from wan_tutorial.machine.hardware import place_model, read_machine
from wan_tutorial.machine.weights import MINI
from wan_tutorial.quantization import packed_linears
from wan_tutorial.sizes import VideoSize
from wan_tutorial.transformer import build_transformer


def test_all_ways_of_holding_the_weights_agree_and_are_timed():
    state = packed(small_transformer_state(), "Q3_K")
    models = {
        "dense": build_transformer(dense(state)),
        "kept": build_transformer(state, widen_budget_bytes=10**9),
        "each use": build_transformer(state),
        "diffusers": with_diffusers_layers(build_transformer(state)),
    }
    for name, held in (("kept", True), ("each use", False)):
        assert all((layer.widened is not None) == held for layer in packed_linears(models[name]))
    latent, text = torch.randn(2, 16, 2, 4, 4), torch.randn(2, 5, 256)
    with torch.no_grad():
        first, *others = (m(latent, torch.tensor([900.0, 20.0]), text) for m in models.values())
    for other, most in zip(
        others, (1e-5, 1e-5, 2e-3), strict=True
    ):  # diffusers dequantises in half precision
        assert (other - first).norm() < most * first.norm()
    took = step_seconds(models, rounds=2)
    assert {len(seconds) for seconds in took.values()} == {2} and min(map(min, took.values())) > 0


def test_both_sides_of_the_table_do_the_same(tmp_path):
    """Our stages and diffusers' own pipeline, on the same three files, give the same embeddings, velocity and video."""
    pytest.importorskip("accelerate", reason="diffusers reads GGUF files only with accelerate")
    files, size = vars(write_small_model(tmp_path)), VideoSize(32, 32, 5)
    entry = replace(MINI, guidance=4.0, text_length=16)
    place = place_model(entry, read_machine(), device="cpu")
    ours, theirs = (side(entry, files, place, size, 2) for side in (Ours, Theirs))
    took = stage_seconds(ours, theirs, rounds=2)
    assert list(took) == ["load", "text", "step", "decode", "run"]
    text, context = ours.text(), ours.context()
    pairs = {
        "text": (ours.text(), theirs.text(), 1e-5),
        "step": (
            ours.step(text, context),
            theirs.step(text, context),
            5e-3,
        ),  # its layers unpack in half precision
        "decode": (ours.decode(ours.noise), theirs.decode(ours.noise).clamp(-1, 1), 1e-4),
        "run": (ours.run(), theirs.run(), 2e-2),
    }
    for name, (one, other, most) in pairs.items():
        assert one.shape == other.shape and (one - other).norm() < most * other.norm(), name
    table = stage_table(took)
    assert table.count("\n") == 6 and "| step | " in table and " to " in table


def test_ratios_are_those_of_the_turns():
    assert spoken_ratio([2.0, 6.0, 3.0], [1.0, 2.0, 2.0]) == "2.00 (1.50 to 3.00)"


def test_a_section_of_the_page_takes_the_place_of_its_own():
    page = with_section(with_section(PAGE, "## a\n\none\n"), "## b\n\ntwo\n")
    again = with_section(page, "## a\n\nthree\n")
    assert (
        again == PAGE + "\n## a\n\nthree\n\n## b\n\ntwo\n" and with_section(again, "## b\n\ntwo\n") == again
    )


def test_the_shipped_page_begins_as_one_written_now():
    page = Path(benchmark.__file__).with_name("BENCHMARK.md").read_text()
    assert page.startswith(PAGE)


def test_without_the_text_no_text_encoder_is_read(tmp_path):
    pytest.importorskip("accelerate", reason="diffusers reads GGUF files only with accelerate")
    files, size = vars(write_small_model(tmp_path)), VideoSize(32, 32, 5)
    entry = replace(MINI, guidance=4.0, text_length=16)
    place = place_model(entry, read_machine(), device="cpu")
    ours, theirs = (side(entry, files, place, size, 2, speaks=False) for side in (Ours, Theirs))
    took = stage_seconds(ours, theirs, rounds=1, stages=("load", "step"))
    assert (
        list(took) == ["load", "step"] and not hasattr(ours, "encoder") and theirs.pipe.text_encoder is None
    )
