"""How long our stages take beside diffusers' own pipeline, on the same files with the same settings, in one run.

    python -m wan_tutorial.machine.benchmark [--model NAME] [--folder DIR] [--device cuda] [--write PAGE]

Five things are timed on both sides: loading, the text, one guided step, decoding, and a whole run. Both sides stay in
memory, and take turns, so that a noisy machine disturbs both alike; only ratios are worth comparing. Where diffusers has
no way of its own to read a file (a scaled fp8 text encoder, a VAE of another size), its side gets transformers' and its
own class with the weights widened, as everybody does it. For a light model there is a second table: four ways to hold
packed weights. `--folder` may hold any files of the real names, such as a stand-in's. `--stages` leaves some out: without
the text no text encoder is loaded, which takes 23 GB widened, and random embeddings take its place.
"""

import argparse
import json
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from wan_tutorial.errors import WanError
from wan_tutorial.files import read_tensors
from wan_tutorial.machine.hardware import Placement, place_model, read_machine
from wan_tutorial.machine.weights import ModelEntry, find_files, find_model
from wan_tutorial.noise import draw_noise
from wan_tutorial.quantization import FP8, QuantizedLinear, QuantizedTensor, dequantize_fp8
from wan_tutorial.reference import encode_context, read_given
from wan_tutorial.sampling.denoise import SamplingSettings, denoise, guided_velocity
from wan_tutorial.sizes import VideoSize
from wan_tutorial.text import TextShape, load_text_encoder, new_text_encoder
from wan_tutorial.transformer import TransformerShape, WanTransformer, build_transformer
from wan_tutorial.vae import LATENT_MEAN, LATENT_STD, VaeShape, load_vae, new_autoencoder, to_diffusers_names

STAGES = ("load", "text", "step", "decode", "run")
PROMPTS = ("a sword in a pile of burning wood, glowing embers and smoke", "bad quality, blurry")
SHIFT = 5.0
Action = Callable[[], Any]


class Ours:
    """The kit's stages on a model's files."""

    def __init__(
        self,
        entry: ModelEntry,
        files: Mapping[str, Path],
        place: Placement,
        size: VideoSize,
        steps: int,
        *,
        speaks: bool = True,
    ):
        self.entry, self.files, self.place, self.size = entry, files, place, size
        self.guidance = entry.guidance
        self.settings = SamplingSettings(steps, entry.guidance, SHIFT, "uni_pc_diffusers", "diffusers")
        self.noise = draw_noise(size, seed=0).to(place.device)
        self.speaks = speaks  # whether there is a text encoder

    def load(self) -> None:
        state = {role: read_tensors(path).tensors for role, path in self.files.items()}
        if self.speaks:
            self.encoder = load_text_encoder(state["text_encoder"], device=self.place.text_device)
        self.transformer = build_transformer(
            state["transformer"],
            compute_dtype=self.place.dtype,
            widen_budget_bytes=self.place.widen_budget_bytes,
            device=self.place.device,
        )
        self.vae = load_vae(state["vae"], dtype=self.place.vae_dtype).to(self.place.device)

    def text(self) -> Tensor:
        if not self.speaks:
            width = TransformerShape.of(read_tensors(self.files["transformer"]).tensors).text_dim
            return torch.randn(2, 1, self.entry.text_length, width, device=self.place.device)
        encoded = [self.encoder.encode(prompt, self.entry.text_length) for prompt in PROMPTS]
        return torch.stack([one.embedding for one in encoded])[:, None].to(self.place.device)  # (2, 1, L, D)

    def velocity(self, text: Tensor, context: Tensor) -> Callable[[Tensor, float], Tensor]:
        def model(latent: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
            return self.transformer(
                latent, timestep, words, vace_context=context.expand(len(latent), *context.shape[1:])
            )

        return guided_velocity(model, text[0], text[1], self.guidance, together=self.entry.light)

    @torch.no_grad()
    def step(self, text: Tensor, context: Tensor) -> Tensor:
        return self.velocity(text, context)(self.noise, 0.8)

    def context(self) -> Tensor:
        return encode_context(self.vae, read_given(self.size)).tensor.to(self.place.device)

    def decode(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent)[0].permute(1, 2, 3, 0).cpu()

    def run(self) -> Tensor:
        velocity = self.velocity(self.text(), self.context())
        *_, last = denoise(velocity, self.noise, settings=self.settings)
        return self.decode(last.latent)


class Theirs(Ours):
    """The same with diffusers' `WanVACEPipeline`: its transformer from the file, by its own GGUF layers if it is one."""

    def load(self) -> None:
        from diffusers import UniPCMultistepScheduler, WanVACEPipeline

        state = {role: read_tensors(self.files[role]).tensors for role in ("text_encoder", "vae")}
        encoder = None
        if self.speaks:
            self.tokenizer = load_text_encoder(state["text_encoder"]).tokenizer
            encoder = widened_text_encoder(state["text_encoder"]).to(self.place.text_device)
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        )
        self.pipe = cast(Any, WanVACEPipeline)(
            tokenizer=None,
            text_encoder=encoder,
            vae=self._vae(state["vae"]),
            scheduler=scheduler,
            transformer=self._transformer(),
        )
        self.pipe.set_progress_bar_config(disable=True)

    def _vae(self, state: Mapping[str, Any]) -> Any:
        vae: Any = new_autoencoder(VaeShape.of(state)).eval()
        vae.load_state_dict(to_diffusers_names(state))
        return nn.Module.to(vae, device=self.place.device, dtype=self.place.vae_dtype)

    def _transformer(self) -> Any:
        from diffusers import GGUFQuantizationConfig, WanVACETransformer3DModel

        path, dtype = self.files["transformer"], self.place.dtype
        shape = TransformerShape.of(read_tensors(path).tensors)
        packed = GGUFQuantizationConfig(compute_dtype=dtype) if path.suffix == ".gguf" else None
        with tempfile.TemporaryDirectory() as folder:
            about = {"_class_name": "WanVACETransformer3DModel", **diffusers_config(shape)}
            Path(folder, "config.json").write_text(json.dumps(about))
            try:
                made = WanVACETransformer3DModel.from_single_file(
                    str(path), config=folder, quantization_config=packed, torch_dtype=dtype
                )
            except ImportError as error:
                raise WanError(
                    "diffusers reads GGUF files only with accelerate: pip install accelerate."
                ) from error
        return made.to(self.place.device)

    @torch.no_grad()
    def text(self) -> Tensor:
        length, device = self.entry.text_length, self.place.text_device
        ids = [self.tokenizer.encode(prompt, length) for prompt in PROMPTS]
        padded = torch.tensor([one + [0] * (length - len(one)) for one in ids], device=device)
        real = padded != 0
        hidden = self.pipe.text_encoder(padded, attention_mask=real.long()).last_hidden_state
        return (hidden * real[..., None])[:, None].to(self.place.device)

    @torch.no_grad()
    def step(self, text: Tensor, context: Tensor) -> Tensor:
        dtype, timestep = self.place.dtype, torch.tensor([800.0], device=self.place.device)
        positive, negative = (
            self.pipe.transformer(
                self.noise.to(dtype),
                timestep,
                words.to(dtype),
                control_hidden_states=context.to(dtype),
                return_dict=False,
            )[0].float()
            for words in text
        )
        return negative + self.guidance * (positive - negative)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(one, device=latent.device).view(1, -1, 1, 1, 1) for one in (LATENT_MEAN, LATENT_STD)
        )
        video = self.pipe.vae.decode((latent * std + mean).to(self.place.vae_dtype)).sample
        return video[0].float().permute(1, 2, 3, 0).cpu()

    def run(self) -> Tensor:
        text = self.text()
        made = self.pipe(
            prompt_embeds=text[0],
            negative_prompt_embeds=text[1],
            height=self.size.height,
            width=self.size.width,
            num_frames=self.size.frames,
            num_inference_steps=self.settings.steps,
            guidance_scale=self.guidance,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames[0]  # (frames, 3, height, width) in [0, 1]
        return made.permute(0, 2, 3, 1).float().cpu() * 2 - 1


def diffusers_config(shape: TransformerShape) -> dict[str, Any]:
    """What diffusers wants to be told about a transformer; the kit reads it from the file."""
    return {
        "num_attention_heads": shape.heads,
        "attention_head_dim": 128,
        "text_dim": shape.text_dim,
        "ffn_dim": shape.ffn_dim,
        "num_layers": shape.layers,
        "freq_dim": shape.freq_dim,
        "vace_layers": list(shape.vace_layers),
        "vace_in_channels": 96,
        "rope_max_seq_len": 1024,
    }


def widened_text_encoder(state: Mapping[str, Any]) -> nn.Module:
    """transformers' UMT5 with a file's weights in float32."""
    model = new_text_encoder(TextShape.of(state)).eval()
    wide = {}
    for name in model.state_dict():
        weight = state["shared.weight" if name == "encoder.embed_tokens.weight" else name]
        scale = state.get(name.removesuffix("weight") + "scale_weight", 1.0)
        wide[name] = dequantize_fp8(weight, scale) if weight.dtype == FP8 else weight.float()
    model.load_state_dict(wide)
    return model


# ------------------------------------------------------------------------------------------------------- timing


def take_turns(actions: Mapping[str, Action], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each action, `rounds` times in turn, after some that do not count.

    Without a GPU they are seconds of the processor, which other programs do not lengthen.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    took: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + warm_up):
        for name, action in actions.items():
            began = clock()
            action()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm_up:
                took[name].append(clock() - began)
    return took


def stage_seconds(
    ours: Ours, theirs: Theirs, *, rounds: int, stages: Sequence[str] = STAGES
) -> dict[str, dict[str, list[float]]]:
    """Stage -> side -> seconds; both sides get the same embeddings, context and latent."""
    sides = {"ours": ours, "diffusers": theirs}
    took = {"load": take_turns({name: side.load for name, side in sides.items()}, rounds=min(rounds, 3))}
    text, context, latent = ours.text(), ours.context(), ours.noise
    given: dict[str, tuple[Tensor, ...]] = {"step": (text, context), "decode": (latent,)}
    for stage in stages:
        if stage != "load":
            actions = {
                name: _bound(getattr(side, stage), given.get(stage, ())) for name, side in sides.items()
            }
            took[stage] = take_turns(actions, rounds=rounds)
    return took


def _bound(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Action:
    return lambda: method(*arguments)


def dense(state: Mapping[str, Any]) -> dict[str, Tensor]:
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


def step_seconds(models: Mapping[str, WanTransformer], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of one guided step at 96x96x13, for each way to hold the weights, `rounds` times in turn."""
    latent, text = torch.randn(1, 16, 4, 12, 12), torch.randn(2, 1, 64, 256)

    def step(model: WanTransformer) -> Action:
        velocity_of = guided_velocity(model, text[0], text[1], 6.0)
        return torch.no_grad()(lambda: velocity_of(latent, 0.8))

    return take_turns({name: step(model) for name, model in models.items()}, rounds=rounds, warm_up=2)


def ways_to_hold(path: Path) -> dict[str, WanTransformer]:
    """Four ways to hold a file's packed weights."""
    state: dict[str, Any] = read_tensors(path).tensors
    return {
        "dense float32": build_transformer(dense(state)),
        "packed, widened within a budget": build_transformer(state, widen_budget_bytes=10**9),
        "packed, widened at every use": build_transformer(state),
        "packed, in diffusers' layers": with_diffusers_layers(build_transformer(state)),
    }


# -------------------------------------------------------------------------------------------------------- tables


def spoken_ratio(seconds: list[float], base: list[float]) -> str:
    """The median of the ratios turn by turn, with the smallest and the largest."""
    ratios = [one / other for one, other in zip(seconds, base, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def stage_table(took: Mapping[str, Mapping[str, list[float]]]) -> str:
    """A markdown table: each stage, both sides' medians, and the ratio."""
    lines = ["| stage | ours | diffusers | ours / diffusers |", "|---|---|---|---|"]
    for stage, sides in took.items():
        ours, theirs = (f"{statistics.median(sides[name]):.3f} s" for name in ("ours", "diffusers"))
        lines.append(f"| {stage} | {ours} | {theirs} | {spoken_ratio(sides['ours'], sides['diffusers'])} |")
    return "\n".join(lines)


def ways_table(took: Mapping[str, list[float]]) -> str:
    """A markdown table: each way to hold the weights, its median, and the ratio to the first."""
    base = next(iter(took.values()))
    lines = ["| weights | one guided step | against the first |", "|---|---|---|"]
    for name, seconds in took.items():
        lines.append(f"| {name} | {statistics.median(seconds):.3f} s | {spoken_ratio(seconds, base)} |")
    return "\n".join(lines)


PAGE = """# How long it takes, beside diffusers

Written by `python -m wan_tutorial.machine.benchmark`. Both sides took turns in one run. Ratios are medians of the turns, in
brackets the smallest and the largest; below 1 the kit is faster. Seconds belong to the machine of the day; on a CPU they are
CPU time, which other programs do not lengthen.

*Text* takes the kit longer: it keeps the weights in fp8 and widens each matrix at every use, once for each prompt; on
diffusers' side they were widened beforehand. In *step* and *run* the VACE blocks look at a grey video on both sides, as
diffusers' pipeline gives them one where nothing is given; `generate` lets them rest there.
"""


def section(model: str, settings: str, stages: str, ways: str) -> str:
    """What the page says of one model."""
    import diffusers

    versions = (
        f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}"
    )
    parts = [f"## {model}", f"{settings}. {versions}.", stages]
    if ways:
        parts += ["The same weights, held in four ways, in a step without VACE blocks:", ways]
    return "\n\n".join(parts) + "\n"


def with_section(page: str, new: str) -> str:
    """The page with this section in place of the one of the same title, or at its end."""
    head, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    titles = [one.splitlines()[0] for one in sections]
    place = titles.index(new.splitlines()[0]) if new.splitlines()[0] in titles else len(titles)
    sections[place : place + 1] = [new]
    return "\n\n".join(part.strip() for part in (head, *sections)) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.machine.benchmark", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--folder", type=Path, help="your models folder, or a stand-in's")
    parser.add_argument("--device", help="cpu or cuda (default: for a heavy model a GPU if there is one)")
    parser.add_argument("--size", help="WIDTHxHEIGHTxFRAMES (default: the model's own)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="loading is always one")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write a markdown page")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    entry, machine = find_model(options.model), read_machine()
    files = find_files(entry, folder=options.folder)
    place = place_model(entry, machine, device=options.device)
    size = VideoSize.parse(options.size) if options.size else entry.size
    speaks = "text" in options.stages or "run" in options.stages
    ours = Ours(entry, files, place, size, options.steps, speaks=speaks)
    theirs = Theirs(entry, files, place, size, options.steps, speaks=speaks)
    where = machine.gpu if place.device.type == "cuda" else f"a processor, threads: {options.threads}"
    table = section(
        entry.name,
        f"At {size}, {options.steps} steps, guidance {entry.guidance:g}, "
        f"{str(place.dtype).removeprefix('torch.')}, on {where}; {options.rounds} turns",
        stage_table(stage_seconds(ours, theirs, rounds=options.rounds, stages=options.stages)),
        ways_table(step_seconds(ways_to_hold(files["transformer"]), rounds=options.rounds))
        if entry.light
        else "",
    )
    print(table)
    if options.write:
        before = options.write.read_text() if options.write.exists() else PAGE
        options.write.write_text(with_section(before, table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
