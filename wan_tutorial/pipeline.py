"""The whole diagram: a prompt goes in, a video comes out, and every stage between can be called by itself.

    words -> encode_text -> embeddings ---+
    seed  -> draw_noise  -> noise --------+-> denoise -> clean latent -> decode -> video

`load` finds a model's files and builds its three networks; `Pipeline.generate` is the stages in a row. In: a prompt
and settings, which the catalogue (`machine/weights.py`) fills in where none are given. Out: a `Result`.
Upstream: diffusers' `WanVACEPipeline`, and the node graph of ComfyUI's VACE template.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from wan_tutorial import noise as seeds
from wan_tutorial.errors import WanError, check_path
from wan_tutorial.files import Shapes, fingerprint, read_header, read_tensors
from wan_tutorial.machine.hardware import (
    Machine,
    Placement,
    StageMeter,
    StageUse,
    must_offload,
    must_tile,
    place_model,
    plan_here,
    read_machine,
)
from wan_tutorial.machine.plan import Run, decode_memory, encode_memory
from wan_tutorial.machine.weights import ROLES, ModelEntry, find_files, find_model
from wan_tutorial.reference import (
    Given,
    Picture,
    Strength,
    VaceContext,
    check_fit,
    check_strength,
    encode_context,
    read_given,
)
from wan_tutorial.sampling import denoise as sampling
from wan_tutorial.sampling.denoise import SamplingSettings
from wan_tutorial.sampling.keep import KeptRun, RememberedVelocity
from wan_tutorial.sampling.solvers import Step
from wan_tutorial.sizes import LATENT_CHANNELS, VideoSize, nearest_frames

if TYPE_CHECKING:
    from wan_tutorial.lora import Asked, Fit, LoraRack
    from wan_tutorial.text import EncodedText

_KINDS = {
    "transformer": "transformer",
    "text_encoder": "text encoder",
    "vae": "vae",
}  # as `files.describe` says them
OUTSIDE = 1.1  # how far pixels may reach: a little beyond [-1, 1] is rounding or sharpening, 255 another unit


@dataclass(frozen=True)
class TextEmbeddings:
    """Two prompts as the transformer reads them: (tokens, dim) each, zero beyond a prompt's own tokens."""

    positive: Tensor
    negative: Tensor
    positive_text: EncodedText | None = (
        None  # where the embedding came from: cleaned prompt, token ids, pieces
    )
    negative_text: EncodedText | None = None


@dataclass(frozen=True)
class Result:
    """A finished video and all that is needed to make it again."""

    video: Tensor  # (frames, height, width, 3), float32 in [-1, 1]
    latent: Tensor  # (1, 16, F, H, W), float32
    model: str
    prompt: str
    negative: str
    seed: int
    size: VideoSize
    settings: SamplingSettings
    fps: int
    stages: tuple[StageUse, ...]  # what each stage took
    notices: tuple[str, ...]  # what a person should know about this request
    given: Given | None = None  # reference, first frame, video and mask, as they were fitted
    vace_strength: Strength = 1.0
    loras: tuple[tuple[str, float], ...] = ()  # names of files and their strengths


def load(
    model: str | ModelEntry = "mini",
    *,
    transformer: str | Path | None = None,
    text_encoder: str | Path | None = None,
    vae: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    widen_budget_bytes: int | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Pipeline:
    """Find a model's files, read them and build the pipeline; `wan.load("mini")` is the scale model.

    `model` names an entry of the catalogue, or is one; its settings hold; a path takes the place of one of its files; `folder`
    is where downloaded models are, if not where `wan-tutorial download` puts them (ComfyUI's models/ will do). Device,
    number format and the memory for widened weights are chosen for this machine where they are not given:
    `pipe.placement` says what was chosen and why. Raises WanError for a file that is missing, damaged or of another
    model.
    """
    entry = model if isinstance(model, ModelEntry) else find_model(model)
    own = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae}
    for name, path in {**own, "folder": folder}.items():
        if path is not None:
            check_path(
                path, name.replace("_", " "), example="models" if name == "folder" else f"{name}.safetensors"
            )
    files = find_files(entry, own, folder=folder)
    entry = entry if entry.light else _sized(entry, files)
    placement = place_model(
        entry, read_machine(), device=device, dtype=dtype, widen_budget_bytes=widen_budget_bytes
    )
    pipeline = Pipeline(entry, files, placement)
    if not entry.light:
        _examine(pipeline.files)
        return pipeline
    with _stage(pipeline.meter, "load", progress, total=len(ROLES)) as bar:
        for role in ROLES:
            pipeline.part(role)
            bar.update()
    return pipeline


def _sized(entry: ModelEntry, files: Mapping[str, Path]) -> ModelEntry:
    """The entry with the sizes of the files that are there, which may not be the catalogue's: the plan asks for them."""
    sizes = {role: path.stat().st_size for role, path in files.items() if path.exists()}
    return replace(
        entry,
        files={role: replace(file, bytes=sizes.get(role, file.bytes)) for role, file in entry.files.items()},
    )


def _examine(files: Mapping[str, Path]) -> None:
    """WanError for a file of another kind or cut short, and for another model's VAE, which a heavy model reads last."""
    for role, path in files.items():
        tensors: Any = read_tensors(path).require(_KINDS[role]).tensors
        if role == "vae":
            from wan_tutorial.vae import to_diffusers_names

            try:
                to_diffusers_names(tensors)
            except WanError as error:
                raise WanError(f"{path.name}: {error}") from error


class Pipeline:
    """The three networks of one model, and the stages as verbs."""

    def __init__(self, entry: ModelEntry, files: Mapping[str, Path], placement: Placement) -> None:
        self.entry, self.files, self.placement = entry, dict(files), placement
        self.meter = StageMeter(placement.device)  # what loading took
        self.blocks_in_ram = False  # where the transformer's blocks rest
        self._parts: dict[str, Any] = {}

    @cached_property
    def rack(self) -> LoraRack:
        """Where the LoRAs of runs hang; on a light model they are merged into the weights, which is faster."""
        from wan_tutorial.lora import LoraRack

        return LoraRack(merged=self.entry.light)

    # ------------------------------------------------------------------------------------------- the networks

    @property
    def text_encoder(self) -> Any:
        return self.part("text_encoder")

    @property
    def transformer(self) -> Any:
        return self.part("transformer")

    @property
    def vae(self) -> Any:
        return self.part("vae")

    def part(self, role: str) -> Any:
        """One of the networks; read from its file at the first call."""
        if role not in self._parts:
            self._make_room(role)
            file = read_tensors(self.files[role]).require(_KINDS[role])
            try:
                self._parts[role] = self._build(role, file.tensors)
            except WanError as error:
                raise WanError(f"{file.path.name}: {error}") from error
        return self._parts[role]

    def _make_room(self, role: str) -> None:
        """On a card that does not hold all three networks of a heavy model others leave, the transformer last."""
        place = self.placement.text_device if role == "text_encoder" else self.placement.device
        if self.entry.light or place.type != "cuda":
            return
        needed = 1.2 * self.files[role].stat().st_size + 10**9
        for other in sorted(self._parts, key=lambda other: other == "transformer"):
            if read_machine().gpu_memory_free < needed:
                self.free(other)

    def free(self, role: str) -> None:
        """Give back the memory of a network that has done its work; a light model keeps them all."""
        if not self.entry.light:
            part = self._parts.pop(role, None)
            if part is not None:
                self.rack.put_on(part, ())  # a LoRA and its layer hold each other, and the memory, fast
            del part
            if self.placement.device.type == "cuda":
                torch.cuda.empty_cache()

    def _build(self, role: str, tensors: Mapping[str, Any]) -> Any:
        place = self.placement
        if role == "transformer":
            from wan_tutorial.transformer import build_transformer

            return build_transformer(
                tensors,
                compute_dtype=place.dtype,
                widen_budget_bytes=place.widen_budget_bytes,
                device=place.device,
                blocks_in_ram=self.blocks_in_ram,
            )
        if role == "text_encoder":
            from wan_tutorial.text import load_text_encoder

            return load_text_encoder(tensors, device=place.text_device)
        from wan_tutorial.vae import load_vae

        return load_vae(tensors, dtype=place.vae_dtype).to(place.device)

    # --------------------------------------------------------------------------------------------- the stages

    @cached_property
    def _shapes(self) -> list[Shapes]:
        """What the files of the transformer and the text encoder hold."""
        return [read_header(self.files[role]).shapes for role in ("transformer", "text_encoder")]

    def fit_loras(self, loras: Asked) -> list[Fit]:
        """Which keys of each LoRA this model uses, told from names and shapes alone; WanError for one that has none."""
        fits = []
        for lora, _ in self.rack.read(loras):
            own, text = (lora.fit(shapes) for shapes in self._shapes)
            if not (own.layers or text.layers):
                (text if text.unused and not own.unused else own).require()
            fits.append(own.joined(text))
        return fits

    def encode_text(self, prompt: str, negative: str = "", *, loras: Asked = ()) -> TextEmbeddings:
        """Words to embeddings: two prompts -> two tensors (tokens, dim), as long as the model was trained to see."""
        check_words(prompt, negative)
        positive, avoided = (self.encode_prompt(words, loras=loras) for words in (prompt, negative))
        return TextEmbeddings(positive.embedding, avoided.embedding, positive, avoided)  # (L, D) each

    def encode_prompt(self, prompt: str, *, loras: Asked = ()) -> EncodedText:
        """One prompt to its embedding (tokens, dim), with what LoRAs change in the text encoder."""
        worn, encoder = self.rack.read(loras), self.text_encoder
        self.fit_loras(worn)
        try:
            self.rack.put_on(encoder, worn)
            return encoder.encode(prompt, self.entry.text_length)
        finally:
            self.rack.put_on(encoder, ())

    def draw_noise(self, size: VideoSize | None = None, *, seed: int = 0, extra_frames: int = 0) -> Tensor:
        """A seed to noise: (1, 16, F, H, W), float32, the same on every machine; F + 1 with a reference."""
        check_size(self.entry.size if size is None else size)
        return seeds.draw_noise(size or self.entry.size, seed=seed, extra_frames=extra_frames)

    def denoise(
        self,
        noise: Tensor,
        text: TextEmbeddings,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        shift: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float = 1.0,
        start: Tensor | None = None,
        vace_context: Tensor | None = None,
        vace_strength: Strength = 1.0,
        loras: Asked = (),
        keep: KeptRun | None = None,
    ) -> Iterator[Step]:
        """Noise to a clean latent, one named Step at a time; the last step's `latent` goes to `decode`.

        Settings that are not given are the model's own. `start`, a latent of the noise's shape, with `denoise` below
        1: begin from this video, noised only that far. `vace_context` (1, 96, F, H, W): what the VACE blocks look at;
        without one they rest. `vace_strength`: how much of what they say counts. `loras`: files and strengths, on the
        transformer for this run alone. `keep`: where the model's answers are kept, so that an interrupted run can go on.
        """
        settings = self.settings(
            steps=steps, guidance=guidance, shift=shift, sampler=sampler, scheduler=scheduler, denoise=denoise
        )
        check_strength(vace_strength)
        _check_latent(noise, "noise", "draw_noise")
        for what, given in (("latent to start from", start), ("VACE context", vace_context)):
            if given is not None:
                _check_latent(given, what, "encode" if given is start else "encode_context(given).tensor")
        if not isinstance(text, TextEmbeddings):
            raise WanError(
                f"The text is what `encode_text` returns, not {_kind(text)}: try pipe.encode_text(prompt)."
            )
        for embedding in (text.positive, text.negative):
            if not isinstance(embedding, Tensor) or embedding.ndim != 2 or not embedding.is_floating_point():
                raise WanError(
                    f"An embedding is a tensor of floats (tokens, dim), not {_kind(embedding)}: try pipe.encode_text(prompt)."
                )
        if keep is not None and not isinstance(keep, KeptRun):
            raise WanError(f"Steps are kept in a KeptRun, not {_kind(keep)}: give the folder to `generate`.")
        worn = self.rack.read(loras)
        self.fit_loras(worn)
        device = self.placement.device
        self._place_blocks(noise, settings, bool(worn))
        context = None if vace_context is None else vace_context.to(device)

        def model(latent: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
            given = None if context is None else context.expand(len(latent), *context.shape[1:])
            self.rack.put_on(self.transformer, worn)
            return self.transformer(latent, timestep, words, vace_context=given, vace_strength=vace_strength)

        velocity_of = sampling.guided_velocity(
            model,
            text.positive[None].float().to(device),  # (1, L, D)
            text.negative[None].float().to(device),
            settings.guidance,
            together=self.entry.light,
        )
        answer = velocity_of if keep is None else RememberedVelocity(velocity_of, keep)
        start = None if start is None else start.to(device)
        return self._taking_off(sampling.denoise(answer, noise.to(device), settings=settings, start=start))

    def _place_blocks(self, noise: Tensor, settings: SamplingSettings, lora: bool) -> None:
        """Where the transformer's blocks rest during this run; it is read anew where that changes."""
        _, _, frames, height, width = noise.shape
        run = Run(VideoSize(8 * width, 8 * height, 4 * frames - 3), settings.steps, settings.guidance, lora)
        if self.placement.device.type == "cuda":  # the plan counts on one network at a time
            self.free("text_encoder")
            self.free("vae")
        in_ram = must_offload(self.entry, run, self.placement.device)
        if in_ram != self.blocks_in_ram:
            self.free("transformer")
            self.blocks_in_ram = in_ram

    def _taking_off(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; however they end, no LoRA is left on the transformer."""
        try:
            yield from steps
        finally:
            if "transformer" in self._parts:
                self.rack.put_on(self.transformer, ())

    def decode(self, latent: Tensor) -> Tensor:
        """A latent to pixels: (1, 16, F, H, W) -> video (frames, height, width, 3) in [-1, 1], on the CPU."""
        _check_latent(latent, "latent", "denoise")
        if tuple(latent.shape[:2]) != (1, LATENT_CHANNELS):
            raise WanError(
                f"One latent of {LATENT_CHANNELS} channels is decoded at a time, not {tuple(latent.shape)}: try latent[:1]."
            )
        _, _, frames, height, width = latent.shape
        tiled = self._must_tile(decode_memory, 8 * width, 8 * height, 4 * frames - 3)
        video = self.vae.decode(latent, tiled=tiled)[0]
        return video.permute(1, 2, 3, 0).cpu()  # (3, f, h, w) -> (f, h, w, 3)

    def encode(self, video: Tensor) -> Tensor:
        """Pixels to a latent: (frames, height, width, 3) in [-1, 1] -> (1, 16, F, H, W)."""
        _check_pixels(video, "video to encode")
        frames, height, width, _ = video.shape
        tiled = self._must_tile(encode_memory, width, height, frames)
        return self.vae.encode(video.permute(3, 0, 1, 2)[None], tiled=tiled)  # (1, 3, f, h, w) ->

    def encode_context(self, given: Given) -> VaceContext:
        """What is given, in pixels, to what the VACE blocks look at; its `tensor` goes to `denoise`."""
        if not isinstance(given, Given):
            raise WanError(f"What is given is read first: try encode_context(read_given(size, reference=...)), not "
                           f"{_kind(given)}.")  # fmt: skip
        tiled = self._must_tile(encode_memory, given.size.width, given.size.height, given.size.frames)
        return encode_context(self.vae, given, tiled=tiled)

    def _must_tile(
        self, memory: Callable[[VideoSize, int, bool], int], width: int, height: int, frames: int
    ) -> bool:
        """Whether the VAE has to work in tiles, as this machine stands now; `memory` is the plan's of what it does."""
        if self.entry.light:
            return False
        size = VideoSize(-(-width // 16) * 16, -(-height // 16) * 16, nearest_frames(frames))
        return must_tile(memory(size, self.vae.dtype.itemsize, False), self._machine())

    # ---------------------------------------------------------------------------------------------- all of it

    def generate(
        self,
        prompt: str,
        *,
        negative: str = "",
        seed: int = 0,
        size: VideoSize | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        shift: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float = 1.0,
        start: Tensor | None = None,
        reference: Picture | Sequence[Picture] | None = None,
        first_frame: Picture | None = None,
        mask: Any = None,
        video: Any = None,
        vace_strength: Strength = 1.0,
        fit: str = "pad",
        loras: Asked = (),
        keep: str | Path | None = None,
        progress: bool = True,
    ) -> Result:
        """A prompt to a video: text, noise, steps, decode.

        Settings that are not given are the model's own; `start` is a video (frames, height, width, 3) of the same
        size, to begin from when `denoise` is below 1. `reference`, `first_frame`, `video` with `mask`, and `fit`: see
        `reference.read_given`; with none of them the VACE blocks rest. `loras`: [(file, strength), ...]. `keep` names a
        folder for the run: interrupted, it goes on there from its last step when asked for again; finished, the folder
        is emptied. Raises WanError before any work for what cannot be done.
        """
        size = self.entry.size if size is None else size
        _check_request(prompt, negative, size, start)
        settings = self.settings(
            steps=steps, guidance=guidance, shift=shift, sampler=sampler, scheduler=scheduler, denoise=denoise
        )
        sampling.check_start(settings, start)
        pictures = {"reference": reference, "first_frame": first_frame, "mask": mask, "video": video}
        shown = any(picture is not None for picture in pictures.values())
        check_fit(fit)
        given = read_given(size, **pictures, fit=fit) if shown else None
        check_strength(vace_strength, self._vace_blocks() if given else None)
        worn = self.rack.read(loras)
        notices = (*self.notices(prompt, negative, size), *(given.notices if given else ()))
        notices += tuple(fit.notice for fit in self.fit_loras(worn) if fit.unused)
        notices = (*notices, *self._plan_notices(size, settings, shown, bool(worn)))
        _say(notices, progress)
        noise = self.draw_noise(size, seed=seed, extra_frames=len(given.references) if given else 0)
        hints: dict[str, Any] = {"given": given.fingerprint, "vace_strength": vace_strength} if given else {}
        if worn and keep is not None:
            hints["loras"] = [(lora.name, lora.fingerprint, strength) for lora, strength in worn]
        kept = None
        if keep is not None:
            kept = self._kept_run(keep, prompt, negative, seed, size, settings, start, hints)
        meter = StageMeter(self.placement.device)
        with self._giving_back():
            for role in (
                "transformer",
                "vae",
            ):  # what was left by stages that were called, or stopped, by themselves
                self.free(role)
            with _stage(meter, "text", progress):
                text = self.encode_text(prompt, negative, loras=worn)
                self.free("text_encoder")
            context = None
            if given:
                with _stage(meter, "context", progress):
                    context = self.encode_context(given)
                    self.free("vae")
            with _stage(meter, "steps", progress, total=settings.steps) as bar:
                clean = None if start is None else self.encode(start)
                self.free("vae")
                if context and clean is not None:
                    clean = torch.cat([context.references, clean], dim=2)
                for step in self.denoise(
                    noise,
                    text,
                    start=clean,
                    vace_context=context.tensor if context else None,
                    vace_strength=vace_strength,
                    loras=worn,
                    keep=kept,
                    **vars(settings),
                ):
                    latent = context.trim(step.latent) if context else step.latent
                    bar.update()
                self.free("transformer")
            with _stage(meter, "decode", progress):
                video = self.decode(latent)
                self.free("vae")
        if kept:
            kept.clear()
        too_long = tuple(_cut_notices(text))
        _say(too_long, progress)
        return Result(
            video=video,
            latent=latent.cpu(),
            model=self.entry.name,
            prompt=prompt,
            negative=negative,
            seed=seed,
            size=size,
            settings=settings,
            fps=self.entry.fps,
            stages=tuple(meter.stages),
            notices=notices + too_long,
            given=given,
            vace_strength=vace_strength,
            loras=tuple((lora.name, strength) for lora, strength in worn),
        )

    @contextmanager
    def _giving_back(self) -> Iterator[None]:
        """However a run ends, by an error or a stop as well, a heavy model's memory is given back."""
        try:
            yield
        except BaseException as error:
            if not self.entry.light:
                _let_go(error)
            raise
        finally:
            for role in ROLES:
                self.free(role)

    def _kept_run(
        self,
        folder: str | Path,
        prompt: str,
        negative: str,
        seed: int,
        size: VideoSize,
        settings: SamplingSettings,
        start: Tensor | None,
        more: Mapping[str, Any],
    ) -> KeptRun:
        """The folder of a run, known by all that its steps depend on; `more` holds what only some runs have."""
        folder = check_path(folder, "folder of a kept run", example="outputs/run")
        files = {role: f"{path.name} {fingerprint(path)}" for role, path in self.files.items()}
        begun = (
            None
            if start is None
            else hashlib.sha256(start.float().cpu().contiguous().numpy().data).hexdigest()
        )
        told = {"prompt": prompt, "negative": negative, "seed": seed, "size": str(size), "start": begun}
        return KeptRun(folder, told | files | vars(settings) | dict(more))

    def settings(
        self,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        shift: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float = 1.0,
    ) -> SamplingSettings:
        """Sampling settings, the model's own where none are given; WanError for a value that cannot be."""
        own = self.entry
        return SamplingSettings(
            steps=own.steps if steps is None else steps,
            guidance=own.guidance if guidance is None else guidance,
            shift=own.shift if shift is None else shift,
            sampler=own.sampler if sampler is None else sampler,
            scheduler=own.scheduler if scheduler is None else scheduler,
            denoise=denoise,
        )

    def _vace_blocks(self) -> int:
        """How many VACE blocks the transformer's file has; WanError if none."""
        file = self.files["transformer"]
        names = read_header(file).shapes
        blocks = {name.split(".")[1] for name in names if name.startswith("vace_blocks.")}
        if not blocks:
            raise WanError(
                f"{file.name} has no VACE blocks (plain T2V), so it takes no reference, first frame or video; choose a VACE "
                "file."
            )
        return len(blocks)

    def notices(self, prompt: str, negative: str, size: VideoSize) -> tuple[str, ...]:
        """What a person should know about this request, one sentence each; none of it stops the work."""
        return (*_text_notices(self.entry, prompt, negative), *_size_notices(self.entry, size))

    def _machine(self) -> Machine:
        """This machine, without its GPU where this pipeline computes on the processor."""
        machine = read_machine()
        return machine if self.placement.device.type == "cuda" else replace(machine, gpu=None)

    def _plan_notices(
        self, size: VideoSize, settings: SamplingSettings, reference: bool = False, lora: bool = False
    ) -> Iterator[str]:
        """What the plan says of a heavy model's run: how long, or that it may not fit."""
        if self.entry.light:
            return
        run = Run(size, settings.steps, settings.guidance, lora, reference)
        plan = plan_here(self.entry, run, self._machine())
        if plan.fits:
            yield f"This run will take about {plan.minutes:.0f} minutes (predicted)."
        else:
            near = f"; {plan.nearest.size} would fit" if plan.nearest else ""
            yield f"This run may not fit: {plan.problem} (predicted){near}."


def _let_go(error: BaseException | None) -> None:
    """Forget what the frames of an error hold: a notebook keeps its last error, and with it the network at work there."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def check_words(*words: str) -> None:
    """WanError for a prompt that is no text."""
    for one in words:
        if not isinstance(one, str):
            raise WanError(f"A prompt is one text, not {one!r}: for several videos call this once for each.")


def _check_request(prompt: str, negative: str, size: VideoSize, start: Tensor | None) -> None:
    """WanError for words, a size or a video to start from that are none."""
    check_words(prompt, negative)
    check_size(size)
    wanted = (size.frames, size.height, size.width, 3)
    floats = isinstance(start, Tensor) and start.is_floating_point()
    if start is not None and (not floats or tuple(start.shape) != wanted):
        raise WanError(
            "The video to start from is floats from -1 to 1, as large as the one to paint, (frames, height, width, 3) = "
            f"{wanted}, not {_kind(start)}: give what `generate` or `decode` returned, and its size."
        )
    if start is not None:
        _check_pixels(start, "video to start from")


def _kind(value: Any) -> str:
    """A value in a few words: shape and type of a tensor, else the name of its class."""
    return f"{tuple(value.shape)} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__


def check_size(size: Any) -> None:
    """WanError for what is no VideoSize."""
    if not isinstance(size, VideoSize):
        raise WanError(f"A size is VideoSize(width, height, frames), not {size!r}: try wan.{VideoSize()!r}.")


def _check_latent(latent: Any, what: str, maker: str) -> None:
    """WanError for what has not a latent's five dimensions; `maker` is the stage that gives one."""
    if isinstance(latent, Tensor) and latent.ndim == 5 and latent.is_floating_point() and latent.numel():
        return
    inside = next((name for name in ("latent", "tensor") if hasattr(latent, name)), None)
    fix = f"pass its .{inside}" if inside else f"pass what pipe.{maker} gives"
    raise WanError(
        f"The {what} is a tensor of floats (B, C, frames, height, width), not {_kind(latent)}: {fix}."
    )


def _check_pixels(video: Any, what: str) -> None:
    """WanError for what is no video in floats from -1 to 1."""
    right = (
        isinstance(video, Tensor)
        and video.is_floating_point()
        and (video.ndim == 4 and video.shape[3] == 3 and video.numel())
    )
    if not right:
        raise WanError(
            f"The {what} is a tensor of floats from -1 to 1, (frames, height, width, 3), not {_kind(video)}: of uint8 frames "
            "make torch.as_tensor(frames) / 127.5 - 1."
        )
    reach = video.abs().max().item() if video.numel() else 0.0
    if not reach <= OUTSIDE:  # not a number is not below it either
        raise WanError(f"The pixels of the {what} go from -1 to 1, and these reach {reach:g}: if they go to 255, try video / "
                       "127.5 - 1.")  # fmt: skip


def _text_notices(entry: ModelEntry, prompt: str, negative: str) -> Iterator[str]:
    if not prompt.strip():
        yield "The prompt is empty: the model paints anything it has seen, guided only away from a negative prompt."
    for words in (prompt, negative):
        for word, nearest in entry.unknown_words(words) if entry.unknown_words else ():
            known = f"; the nearest it knows: {', '.join(nearest)}" if nearest else ""
            yield f"The model {entry.name} has never seen the word {word!r}{known}."


def _size_notices(entry: ModelEntry, size: VideoSize) -> Iterator[str]:
    if size not in entry.trained_sizes:
        trained = ", ".join(map(str, entry.trained_sizes))
        yield f"The model {entry.name} was trained on {trained}, not on {size}: it runs, but expect less of it."


def _cut_notices(text: TextEmbeddings) -> Iterator[str]:
    for encoded in (text.positive_text, text.negative_text):
        if encoded and encoded.cut:
            yield (
                f"The prompt is longer than the {len(encoded.embedding)} tokens this model reads: "
                f"its last {encoded.cut} are left out."
            )


def _say(notices: Iterable[str], progress: bool) -> None:
    for notice in notices if progress else ():
        print(notice, file=sys.stderr)


def progress_stream() -> TextIO:
    """Where progress goes: to stderr, but in a notebook to stdout, as pages paint stderr as an error."""
    return sys.stdout if type(sys.stdout).__module__.startswith("ipykernel") else sys.stderr


def progress_bar(name: str, total: int, *, show: bool) -> tqdm:
    """A bar for a person who waits."""
    shape = "{desc} {bar:32} {n_fmt}/{total_fmt}  {elapsed} (left {remaining})"
    return tqdm(desc=f"{name:6}", total=total, bar_format=shape, disable=not show, file=progress_stream())


@contextmanager
def _stage(meter: StageMeter, name: str, progress: bool, total: int = 1) -> Iterator[tqdm]:
    """One stage, measured, under a progress bar that is full at its end."""
    with meter.stage(name), progress_bar(name, total, show=progress) as bar:
        try:
            yield bar
        except torch.OutOfMemoryError as error:
            fix = "other programs or cells may hold some: end them"  # no size makes these two smaller
            if name not in ("load", "text"):
                fix = "fewer frames or pixels need less; `wan-tutorial doctor MODEL` names a size that fits"
            raise WanError(f"The GPU's memory ran out in the stage {name}: {fix}.") from error
        bar.update(total - bar.n)
