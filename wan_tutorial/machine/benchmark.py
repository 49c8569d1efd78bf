"""How long one guided step takes with packed weights, against the same weights held dense, in one run.

    python -m wan_tutorial.machine.benchmark [--rounds 15] [--threads 2]

Four ways to hold the scale model's Q3_K weights: dense float32; packed, but kept widened within a memory budget;
packed and widened at every use; and packed in diffusers' own GGUF layers. The ways take turns, so that a noisy machine
disturbs all alike, and only ratios are worth comparing.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from wan_tutorial.files import read_tensors
from wan_tutorial.machine.weights import find_files, find_model
from wan_tutorial.quantization import QuantizedLinear, QuantizedTensor
from wan_tutorial.sampling.denoise import guided_velocity
from wan_tutorial.transformer import WanTransformer, build_transformer


def dense(state: dict[str, Any]) -> dict[str, Tensor]:
    """The same weights in float32."""
    return {n: t.dequantize() if isinstance(t, QuantizedTensor) else t.float() for n, t in state.items()}


def with_diffusers_layers(model: WanTransformer) -> WanTransformer:
    """Put diffusers' GGUFLinear in place of every packed layer."""
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
    from gguf import GGMLQuantizationType

    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            parent, _, own = name.rpartition(".")
            theirs = GGUFLinear(layer.in_features, layer.out_features, True, compute_dtype=torch.float32)
            raw = layer.raw.reshape(layer.out_features, -1)
            theirs.weight = GGUFParameter(raw, quant_type=GGMLQuantizationType[layer.type_name])
            assert layer.bias is not None
            theirs.bias = nn.Parameter(layer.bias.float(), requires_grad=False)
            setattr(model.get_submodule(parent), own, theirs)
    return model


def step_seconds(models: dict[str, WanTransformer], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of one guided step at 96x96x13, for each way, `rounds` times in turn."""
    latent, text = torch.randn(1, 16, 4, 12, 12), torch.randn(2, 1, 64, 256)
    took: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 2):
        for name, model in models.items():
            velocity_of = guided_velocity(model, text[0], text[1], 6.0)
            with torch.no_grad():
                began = time.perf_counter()
                velocity_of(latent, 0.8)
            if turn > 1:  # the first two warm up
                took[name].append(time.perf_counter() - began)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wan_tutorial.machine.benchmark", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    state: dict[str, Any] = read_tensors(find_files(find_model("mini"))["transformer"]).tensors
    models = {
        "dense float32": build_transformer(dense(state)),
        "Q3_K, widened within a budget": build_transformer(state, widen_budget_bytes=10**9),
        "Q3_K, widened at every use": build_transformer(state),
        "Q3_K in diffusers' layers": with_diffusers_layers(build_transformer(state)),
    }
    took = step_seconds(models, rounds=options.rounds)
    base = statistics.median(took["dense float32"])
    for name, seconds in took.items():
        ratios = [each / base for each in seconds]
        print(
            f"{name:30} {statistics.median(ratios):5.2f}x  ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{1000 * statistics.median(seconds):.0f} ms"
        )


if __name__ == "__main__":
    main()
