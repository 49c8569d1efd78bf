"""The plan: its formulas against counts, its choices and reasons, and what it says when something does not fit."""

import weakref
from dataclasses import replace

import pytest
import torch
from full_size import table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from wan_tutorial import cli
from wan_tutorial.errors import WanError
from wan_tutorial.machine.plan import (
    CARDS,
    Run,
    block_parameters,
    decode_flops,
    decode_memory,
    evaluation_flops,
    find_card,
    plan_run,
    step_memory,
)
from wan_tutorial.machine.weights import MODELS, WAN_14B_Q3
from wan_tutorial.sizes import VideoSize
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
    assert round(evaluation_flops(WAN_14B_Q3, 15_600) / 1e12) == 773
    assert T4_RUN.tokens == 15_600


def test_step_memory_is_that_of_a_model_whose_every_tensor_is_counted():
    """dim 256 and Wan's ratio of feed-forward to dim, in half precision."""
    model = new_transformer(
        TransformerShape(dim=256, ffn_dim=691, layers=4, text_dim=256, vace_blocks=2)
    ).eval()
    model.requires_grad_(False).compute_dtype = torch.bfloat16
    latent, text = torch.randn(1, 16, 3, 32, 32), torch.randn(1, 64, 256)
    context, tokens = torch.randn(1, 96, 3, 32, 32), 3 * 16 * 16
    with torch.no_grad(), LiveBytes() as live:
        model(latent, torch.tensor([500.0]), text, vace_context=context)
    small = MODELS["mini"]
    predicted = step_memory(small, tokens, 1, half=True)
    assert live.peak / predicted == pytest.approx(1, abs=0.1)


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


def test_the_t4_plan_fits_and_says_why_it_chose():
    plan = plan_run(WAN_14B_Q3, find_card("t4"), T4_RUN)
    assert plan.fits and [stage.name for stage in plan.stages] == ["text", "steps", "decode"]
    assert plan.choice("number format") == "float16" and plan.choice("text encoder") == "GPU"
    assert max(stage.ram for stage in plan.stages) < 12e9 and 3 < plan.minutes < 6
    page = str(plan)
    for words in (
        "predicted, not measured",
        "VACE hints: one at a time",
        "no bfloat16",
        "15,600 tokens",
        "it fits",
    ):
        assert words in page
    assert all(choice.why for choice in plan.choices)


def test_what_does_not_fit_names_the_nearest_that_does():
    long = Run(VideoSize(1280, 720, 81), 4, 1.0)
    plan = plan_run(WAN_14B_Q3, find_card("T4"), long)
    assert not plan.fits and "of VRAM, and T4 has 15.8 GB" in plan.problem
    assert plan_run(WAN_14B_Q3, find_card("T4"), plan.nearest).fits
    assert plan.nearest.size.frames < 81
    tiled = plan_run(WAN_14B_Q3, find_card("12GB"), Run(VideoSize(1280, 720, 9), 4, 1.0))
    assert tiled.choice("VAE decode") == "tiled"
    small = plan_run(WAN_14B_Q3, find_card("8GB"), T4_RUN)
    assert small.nearest is None and "a smaller one is wan2.1-vace-1.3b" in str(small)
    smaller = replace(find_card("8GB"), vram=7 * 10**9)
    middle = plan_run(MODELS["wan2.1-vace-1.3b"], smaller, T4_RUN)
    assert middle.choice("text encoder") == "CPU" and middle.fits


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
    assert "wan2.1-vace-14b-q3 on T4: 832x480, 33 frames" in capsys.readouterr().out
    assert cli.main(["doctor", "mini"]) == 0
    assert "mini on" in capsys.readouterr().out
    assert cli.main(["doctor", "--card", "T5"]) == 2
    assert "no card called 'T5' in the table. Known: T4, L4, A100" in capsys.readouterr().err
    with pytest.raises(WanError):
        find_card("H900")
