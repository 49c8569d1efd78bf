"""The benchmark compares four ways to hold the same weights: they must give the same velocity."""

import torch
from small import packed, small_transformer_state

from wan_tutorial.machine.benchmark import dense, step_seconds, with_diffusers_layers
from wan_tutorial.transformer import build_transformer


def test_all_ways_of_holding_the_weights_agree_and_are_timed():
    state = packed(small_transformer_state(), "Q3_K")
    models = {
        "dense": build_transformer(dense(state)),
        "kept": build_transformer(state, widen_budget_bytes=10**9),
        "each use": build_transformer(state),
        "diffusers": with_diffusers_layers(build_transformer(state)),
    }
    assert models["kept"].widened and not models["each use"].widened
    latent, text = torch.randn(2, 16, 2, 4, 4), torch.randn(2, 5, 256)
    with torch.no_grad():
        first, *others = (m(latent, torch.tensor([900.0, 20.0]), text) for m in models.values())
    for other, most in zip(
        others, (1e-5, 1e-5, 2e-3), strict=True
    ):  # diffusers dequantises in half precision
        assert (other - first).norm() < most * first.norm()
    took = step_seconds(models, rounds=2)
    assert {len(seconds) for seconds in took.values()} == {2} and min(map(min, took.values())) > 0
