"""The plan: its formulas against counts, its choices and reasons, and what it says when something does not fit."""

import re
import weakref
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from full_size import table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from wan_tutorial import cli, sizes
from wan_tutorial.errors import WanError
from wan_tutorial.machine.plan import (
    CARDS,
    IN_RAM,
    ON_CARD,
    SPARE,
    Run,
    block_bytes,
    block_memory,
    block_parameters,
    decode_flops,
    decode_memory,
    encode_flops,
    encode_memory,
    evaluation_flops,
    find_card,
    plan_run,
    step_memory,
)
from wan_tutorial.machine.weights import MODELS, WAN_1_3B, WAN_14B_Q3
from wan_tutorial.sizes import VideoSize, feed_forward_parts
from wan_tutorial.transformer import TransformerShape, new_transformer
from wan_tutorial.vae import VaeShape, new_autoencoder

T4_RUN = Run(VideoSize(832, 480, 33), 4, 1.0, lora=True, reference=True)


class LiveBytes(TorchDispatchMode):
    """Counts every tensor that is made, until it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in (item for item in tree_iter(out) if isinstance(item, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return out

    def gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def test_work_is_that_of_the_real_table():
    """The formula's weights are the packed ones of the 14B file; the work is the sum in the sources."""
    packed = [row for row in table("transformer") if row.type == "Q3_K"]
    assert (
        block_parameters(WAN_14B_Q3) == sum(row.shape[0] * row.shape[1] for row in packed) == 17_097_031_680
    )
    assert round(evaluation_flops(WAN_14B_Q3, 15_600, vace=True) / 1e12) == 773
    assert round(evaluation_flops(WAN_14B_Q3, 15_600) / 1e12) == 638
    assert T4_RUN.tokens == 15_600


@pytest.mark.parametrize("ffn", [691, 1493])  # the 14B model's ratio to dim, and the 1.3B's
def test_step_memory_is_that_of_a_model_whose_every_tensor_is_counted(ffn, monkeypatch):
    """In half precision, where the second is cut into parts."""
    monkeypatch.setattr(sizes, "FEW_TOKENS", 1000)
    shape = TransformerShape(dim=256, ffn_dim=ffn, layers=2, text_dim=256, vace_blocks=1)
    model = new_transformer(shape).eval().requires_grad_(False)
    model.compute_dtype = torch.bfloat16
    latent, context = torch.randn(1, 16, 3, 40, 40), torch.randn(1, 96, 3, 40, 40)
    live = LiveBytes()
    live.seen |= {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    with torch.no_grad(), live:
        model(latent, torch.tensor([500.0]), torch.randn(1, 64, 256), vace_context=context)
    small = replace(MODELS["mini"], shape=(256, ffn, 2, 1))
    assert live.peak / step_memory(small, 3 * 20 * 20, 1, half=True) == pytest.approx(1, abs=0.1)


def test_the_feed_forward_is_cut_where_that_saves_something():
    """The 14B model's adds less than its attention; the 1.3B model's more, and so does each of them in float32."""
    for entry, added, parts in ((WAN_14B_Q3, 12.8, 1), (WAN_1_3B, 25.3, 2)):
        attention, whole = block_memory(entry, 32_760, True, 1)
        assert (attention, round(whole, 1)) == (14, added)
        assert feed_forward_parts(*entry.shape[:2], 32_760, 2) == parts
    assert feed_forward_parts(*WAN_1_3B.shape[:2], 100, 2) == 1  # so few are taken whole
    plan = plan_run(WAN_14B_Q3, CARDS["T4"], T4_RUN)
    assert (
        "whole, as it adds 13 bytes for each token and channel, and self-attention 14: parts would save"
        in str(plan)
    )
    assert plan_run(WAN_1_3B, CARDS["T4"], T4_RUN).choice("feed-forward") == "in 2 parts"


def test_blocks_and_the_rest_are_those_of_the_real_table():
    rows = table("transformer")
    blocks = sum(row.bytes for row in rows if "blocks." in row.name)
    block, rest = block_bytes(WAN_14B_Q3)
    assert block == pytest.approx(blocks / 48, rel=0.01)
    held = (
        sum(row.bytes * (2 if row.type == "F16" and "time_emb" in row.name else 1) for row in rows) - blocks
    )
    assert rest == pytest.approx(held, rel=0.01)


def test_decode_work_and_memory_are_those_of_the_real_layers():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        vae = new_autoencoder(VaeShape()).requires_grad_(False)
        latent = torch.empty(1, 16, 3, 8, 8)
    size = VideoSize(64, 64, 9)
    with FlopCounterMode(display=False) as work:
        vae.decode(latent)
    assert work.get_total_flops() / decode_flops(size) == pytest.approx(1, abs=0.02)
    with torch.no_grad(), LiveBytes() as live:
        vae.decode(latent)
    counted = live.peak - 9 * 64 * 64 * 3 * 4  # without the video
    assert 0.55 < counted / decode_memory(VideoSize(64, 64, 1), 4, False) < 0.9  # the rest is workspace
    video = torch.empty(1, 3, 9, 64, 64, device="meta")
    with FlopCounterMode(display=False) as work:
        vae.encode(video)
    assert work.get_total_flops() / encode_flops(size) == pytest.approx(1, abs=0.02)
    live = LiveBytes()
    live.seen |= {parameter.untyped_storage()._cdata for parameter in vae.parameters()}
    with torch.no_grad(), live:
        vae.encode(video)
    assert 0.55 < live.peak / encode_memory(size, 4, False) < 0.9


def test_tiles_decode_what_overlaps_twice():
    """1.66 times the work at 832x480; the rule is counted in the convolutions of diffusers' own tiles."""
    from torch.utils.flop_counter import FlopCounterMode

    large, size = VideoSize(832, 480, 1), VideoSize(480, 256, 1)
    assert decode_flops(large, tiled=True) / decode_flops(large) == pytest.approx(1.656, abs=0.001)
    work = []
    with torch.device("meta"):
        vae = new_autoencoder(VaeShape(base_dim=8, res_blocks=1)).requires_grad_(False)
        latent = torch.empty(1, 16, 1, 32, 60)
    vae.enable_tiling()
    for vae.use_tiling in (False, True):
        with FlopCounterMode(display=False) as counter:
            vae.decode(latent)
        counted = counter.get_flop_counts()["Global"].items()
        work.append(sum(flops for operation, flops in counted if "conv" in str(operation)))
    assert work[1] / work[0] == pytest.approx(decode_flops(size, tiled=True) / decode_flops(size), rel=0.005)


def test_the_t4_plan_fits_and_says_why_it_chose():
    plan = plan_run(WAN_14B_Q3, find_card("t4"), T4_RUN)
    assert plan.fits and [stage.name for stage in plan.stages] == ["text", "context", "steps", "decode"]
    bare = plan_run(WAN_14B_Q3, find_card("T4"), replace(T4_RUN, reference=False))
    assert [stage.name for stage in bare.stages] == ["text", "steps", "decode"]
    assert plan.choice("number format") == "float16" and plan.choice("text encoder") == "GPU"
    assert plan.choice("blocks") == ON_CARD
    assert max(stage.ram for stage in plan.stages) < 12e9 and 3 < plan.minutes < 6
    page = str(plan)
    for words in (
        "predicted, not measured",
        "VACE hints: one at a time",
        "no bfloat16",
        "15,600 tokens",
        "it fits, with 5% of each memory kept back",
    ):
        assert words in page
    assert all(choice.why for choice in plan.choices)


def test_blocks_rest_in_ram_where_the_card_cannot_hold_them():
    long = replace(T4_RUN, size=VideoSize(832, 480, 81))
    for card, run in (("8GB", T4_RUN), ("T4", long), ("12GB", long)):
        plan, without = (plan_run(WAN_14B_Q3, CARDS[card], run, offload=offload) for offload in (True, False))
        assert plan.fits and plan.choice("blocks") == IN_RAM and "two at a time" in str(plan)
        assert not without.fits and (not without.nearest or without.nearest.size.frames < run.size.frames)
        assert max(stage.vram for stage in plan.stages) < CARDS[card].vram * SPARE
        assert plan.minutes < 1.1 * plan_run(WAN_14B_Q3, replace(CARDS[card], vram=10**11), run).minutes
    q8 = plan_run(MODELS["wan2.1-vace-14b-q8_0"], CARDS["T4"], T4_RUN)
    assert q8.choice("blocks") == IN_RAM and "the disk is read at each step" in str(q8)
    assert plan_run(WAN_14B_Q3, CARDS["24GB"], long).choice("blocks") == ON_CARD


def test_what_does_not_fit_names_the_nearest_that_does():
    long = Run(VideoSize(1280, 720, 81), 4, 1.0)
    plan = plan_run(WAN_14B_Q3, find_card("8GB"), long)
    assert not plan.fits and "of VRAM, and 8GB has 8.3 GB, of which 5% are kept back" in plan.problem
    assert plan.nearest.size.frames < 81 and "the nearest that does: 1280x720" in str(plan)
    tiled = plan_run(WAN_14B_Q3, find_card("12GB"), Run(VideoSize(1280, 720, 9), 4, 1.0))
    assert tiled.choice("VAE decode") == "tiled"
    tiny = plan_run(WAN_14B_Q3, replace(find_card("8GB"), vram=2 * 10**9), T4_RUN)
    assert tiny.nearest is None and "a smaller one is wan2.1-vace-1.3b" in str(tiny)
    smaller = replace(find_card("8GB"), vram=7 * 10**9)
    assert "a smaller one is mini" in str(plan_run(WAN_1_3B, replace(smaller, ram=10**9), T4_RUN))
    middle = plan_run(MODELS["wan2.1-vace-1.3b"], smaller, T4_RUN)
    assert middle.choice("text encoder") == "CPU" and middle.fits


def test_a_size_far_too_large_has_a_nearest_too_and_a_still_picture_stays_one():
    huge = plan_run(WAN_14B_Q3, CARDS["T4"], Run(VideoSize(8192, 8192, 81), 4, 1.0))
    assert huge.nearest.size == VideoSize(2464, 2464, 9)
    still = plan_run(WAN_14B_Q3, CARDS["T4"], Run(VideoSize(8192, 8192, 1), 4, 1.0))
    assert still.nearest.size.frames == 1 and "1 frame\n" in str(still) + "\n"
    one = str(plan_run(MODELS["mini"], CARDS["T4"], Run(VideoSize(16, 16, 1), 1, 1.0)))
    assert "16x16, 1 frame, 1 step, guidance 1; 1 token\n" in one


def test_ram_that_is_too_small_is_the_machines_and_not_the_cards():
    plan = plan_run(WAN_14B_Q3, replace(CARDS["L4"], ram=2 * 10**9), T4_RUN)
    assert "of RAM, and the machine with L4 has 2.0 GB" in plan.problem


@pytest.mark.parametrize("card", CARDS)
def test_the_settings_it_names_pass_its_own_examination(card):
    asked = [
        Run(VideoSize(width, height, frames), steps, guidance, lora=True, reference=True)
        for width, height in ((1280, 720), (832, 480))
        for frames, steps, guidance in ((81, 20, 5.0), (121, 4, 1.0))
    ]
    for entry, run in product((WAN_14B_Q3, WAN_1_3B, MODELS["wan2.1-vace-14b-f16"], MODELS["mini"]), asked):
        plan = plan_run(entry, CARDS[card], run)
        assert plan.fits or plan.problem
        if plan.nearest:
            again = plan_run(entry, CARDS[card], plan.nearest)
            assert again.fits and again.nearest is None and "it fits" in str(again)


def test_the_front_page_has_the_minutes_of_the_plan():
    runs = (Run(VideoSize(832, 480, 25), 4, 1.0, lora=True), Run(VideoSize(832, 480, 33), 20, 6.0), T4_RUN)
    page = (Path(__file__).parents[1] / "README.md").read_text()
    for card in ("T4", "L4", "A100"):
        (row,) = re.findall(rf"^\| {card}[^|]*\|(.*)\|$", page, re.MULTILINE)
        for said, run in zip(row.split("|"), runs, strict=True):
            assert float(said) == pytest.approx(plan_run(WAN_14B_Q3, CARDS[card], run).minutes, rel=0.12)


def test_every_card_plans_every_model():
    for card in CARDS.values():
        assert card.source
        for entry in MODELS.values():
            plan = plan_run(entry, card, Run(VideoSize(480, 480, 17), 4, 1.0))
            assert plan.stages and (plan.fits or plan.problem)


def test_more_of_anything_costs_more():
    base = plan_run(WAN_14B_Q3, CARDS["L4"], T4_RUN)
    for run in (Run(VideoSize(832, 480, 49), 4, 1.0, True, True), Run(T4_RUN.size, 4, 6.0, True, True)):
        assert plan_run(WAN_14B_Q3, CARDS["L4"], run).minutes > base.minutes


def test_doctor_plans_for_a_card_by_name(capsys):
    assert cli.main(["doctor", "--card", "T4", "--size", "832x480", "--frames", "33"]) == 0
    page = capsys.readouterr().out  # the settings are those that generate would take
    assert "wan2.1-vace-14b-q3 on T4: 832x480, 33 frames, 20 steps, guidance 6;" in page
    assert cli.main(["doctor", "mini"]) == 0
    assert "mini on" in capsys.readouterr().out
    assert cli.main(["doctor", "--card", ""]) == 2
    assert "no card called ''" in capsys.readouterr().err
    assert cli.main(["doctor", "--card", "T5"]) == 2
    assert "no card called 'T5' in the table. Known: T4, L4, A100" in capsys.readouterr().err
    with pytest.raises(WanError):
        find_card("H900")
