"""A workflow at work: each node does here what it does in ComfyUI, with this package's stages, one after the other.

In: a checked `Workflow` and a model. Out: one `NodeRun` for each node, with what it gave: kind, shape, range, seconds
and a picture. With the same settings the video is the one that `Pipeline.generate` makes.

With the scale model a workflow made for the real one runs as it is: each real file has its counterpart, the size
becomes the scale model's own, and every such change is said in `NodeRun.words`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.machine.weights import bundled_folder, find_model, models_folder
from wan_tutorial.pipeline import Pipeline, TextEmbeddings, load, progress_bar
from wan_tutorial.reference import VaceContext, check_strength, read_given, read_picture
from wan_tutorial.sampling.denoise import SamplingSettings
from wan_tutorial.show.video import check_writable, to_frames, write_video
from wan_tutorial.sizes import VideoSize
from wan_tutorial.workflow.graph import Node, Workflow, find_inside, picture_file

_ROLES = {
    "UnetLoaderGGUF": ("transformer", "unet_name", ("diffusion_models", "unet")),
    "UNETLoader": ("transformer", "unet_name", ("diffusion_models", "unet")),
    "CLIPLoader": ("text_encoder", "clip_name", ("text_encoders", "clip")),
    "VAELoader": ("vae", "vae_name", ("vae",)),
}
_SAVERS = ("SaveVideo", "SaveAnimatedWEBP", "SaveWEBM")
MOST_TOKENS = 500_000  # 1280x720, 81 frames are 75,600: beyond this it is a slip, or malice
_WAN_NAMES = {"transformer": "wan", "text_encoder": "umt5", "vae": "wan"}  # what such a file's name says


@dataclass(frozen=True)
class ModelValue:
    """What a MODEL link carries: the transformer's file, and what nodes on the way have put on it."""

    file: str
    shift: float | None = None
    loras: tuple[tuple[Path, float], ...] = ()


@dataclass(frozen=True)
class ClipValue:
    """What a CLIP link carries: the text encoder's file, and what nodes on the way have put on it."""

    file: str
    loras: tuple[tuple[Path, float], ...] = ()


@dataclass(frozen=True)
class PromptValue:
    """What a CONDITIONING link carries."""

    text: str
    embedding: Tensor  # (L, D)
    tokens: int  # of them the prompt's own
    context: VaceContext | None = None  # what WanVaceToVideo adds, for the VACE blocks
    strength: float = 1.0  # of what they say


@dataclass(frozen=True)
class LatentValue:
    """What a LATENT link carries: the latent, and the size of its video."""

    latent: Tensor  # (1, 16, F, H, W)
    size: VideoSize


@dataclass(frozen=True)
class VideoValue:
    """What a VIDEO link carries."""

    frames: Tensor  # (frames, height, width, 3) in [-1, 1]
    fps: float


@dataclass(frozen=True)
class Output:
    """One output of a node that has run."""

    name: str
    kind: str
    value: Any

    @property
    def tensor(self) -> Tensor | None:
        """The numbers in it, if it is made of numbers."""
        for name in ("embedding", "latent", "frames"):
            if hasattr(self.value, name):
                return getattr(self.value, name)
        return self.value if isinstance(self.value, Tensor) else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.tensor is None else tuple(self.tensor.shape)

    @property
    def words(self) -> str:
        """Kind, shape and range, or the value itself."""
        if self.tensor is None or self.shape is None:
            return f"{self.kind} {getattr(self.value, 'file', self.value)}"
        low, high = self.tensor.min().item(), self.tensor.max().item()
        return f"{self.kind} {'x'.join(map(str, self.shape))}, {low:.2f} to {high:.2f}"

    def picture(self) -> np.ndarray | None:
        """A look at it: (height, width, 3), uint8; None where there is nothing to see."""
        if self.kind in ("IMAGE", "VIDEO") and self.tensor is not None:
            return to_frames(self.tensor)[len(self.tensor) // 2]
        if isinstance(self.value, LatentValue):
            return _latent_picture(self.value.latent)
        if isinstance(self.value, PromptValue):
            return _prompt_picture(self.value.embedding[: self.value.tokens])
        return None


@dataclass(frozen=True)
class NodeRun:
    """A node that has run: what it gave, how long it took, and what a person should know."""

    node: Node
    outputs: tuple[Output, ...]
    seconds: float
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        gave = [output.words for output in self.outputs]
        told = "; ".join(gave) if len("".join(gave)) < 80 else f";\n{'':12}".join(gave)
        said = "".join(f"\n{'':12}{words}" for words in self.words)
        return f"{self.seconds:8.2f} s  {self.node.title}{': ' if gave else ''}{told}{said}"


def run_workflow(
    workflow: Workflow,
    *,
    model: str = "mini",
    pipe: Pipeline | None = None,
    folder: str | Path | None = None,
    save_to: str | Path | None = None,
    progress: bool = False,
) -> Iterator[NodeRun]:
    """Run a workflow node by node.

    `model` is an entry of the catalogue, `pipe` a pipeline that is loaded already. `folder` is a folder of models, laid
    out as ComfyUI's; for a heavy model that of the downloads if not given. `save_to` is where Save nodes write, nowhere if
    not given. Raises WanError before any node runs if the workflow cannot run.
    """
    for finding in workflow.check():
        if finding.problem:
            raise WanError(finding.words)
    return _Runner(workflow, pipe, model, folder, save_to, progress).run()


def video_of(runs: list[NodeRun]) -> VideoValue:
    """The video that a finished run made: the last that a node gave; 16 frames a second where no node said."""
    for run in reversed(runs):
        for output in run.outputs:
            if isinstance(output.value, VideoValue):
                return output.value
            if run.node.type == "VAEDecode":
                return VideoValue(output.value, 16)
    raise WanError("This run made no video: the workflow has no VAE Decode node that runs.")


class _Runner:
    """One run: the values that nodes have given so far, and the verbs of the nodes."""

    def __init__(
        self, workflow: Workflow, pipe: Pipeline | None, model: str, folder: Any, save_to: Any, progress: bool
    ) -> None:
        self.workflow, self.progress = workflow, progress
        self.entry = pipe.entry if pipe else find_model(model)
        named = None if folder is None else check_path(folder, "folder of models", example="models")
        self.folder = models_folder(named) if named or not self.entry.light else None
        self.save_to = None if save_to is None else check_path(save_to, "save_to", example="outputs")
        if self.save_to and self.save_to.is_file():
            raise WanError(
                f"Save nodes write into a folder, and {self.save_to} is a file: try {self.save_to.parent}."
            )
        self.given: dict[tuple[str, int], Any] = {}
        self.words: list[str] = []
        self.stand_ins: dict[str, str] = {}  # role: what is said about it
        self.plan = workflow.plan()
        own: dict[str, Any] = dict(self._model_files(pipe))
        self.settings = {node.id: self._settings(node) for node in self.plan if node.type == "KSampler"}
        for node in self.plan:
            if self.save_to and node.type in _SAVERS:
                check_writable(self._free_path(node, self.save_to))  # now, not after hours of sampling
        self.pipe = pipe or load(model, folder=self.folder, **own)

    def run(self) -> Iterator[NodeRun]:
        for node in self.plan:
            self.words = []
            began = time.perf_counter()
            with torch.no_grad():
                values = getattr(self, f"_{_VERBS[node.type]}")(node)
            seconds = time.perf_counter() - began
            names = node.known.gives.items() if node.known else ()
            outputs = tuple(
                Output(name, kind, value) for (name, kind), value in zip(names, values, strict=True)
            )
            self.given |= {(node.id, slot): output.value for slot, output in enumerate(outputs)}
            yield NodeRun(node, outputs, seconds, tuple(self.words))

    # ------------------------------------------------------------------------------------- inputs and files

    def _take(self, node: Node, name: str) -> Any:
        """The value at an input, from the node that feeds it; a widget's own value where nothing does."""
        link = self.workflow.source(node, name)
        if link is not None and (link.source, link.slot) in self.given:
            return self.given[link.source, link.slot]
        return self.workflow.value(node, name) if node.known and node.known.widget(name) else None

    def _model_files(self, pipe: Pipeline | None) -> dict[str, Path]:
        """The user's own files by role; all others are the model's."""
        own: dict[str, Path] = {}
        asked: dict[str, str] = {}
        for node in self.plan:
            if node.type not in _ROLES:
                continue
            role, widget, places = _ROLES[node.type]
            name = self.workflow.value(node, widget)
            if asked.setdefault(role, name) != name:
                raise WanError(f"This workflow loads {asked[role]!r} and {name!r}, and this kit runs one of each kind: "
                               "mute the nodes of one.")  # fmt: skip
            file = pipe.files[role].name if pipe else self.entry.files[role].name
            if Path(name).name == file:
                continue
            path = None if pipe else self._inside(name, places)
            if path:
                own[role] = path
            elif (pipe or self.entry.light) and _WAN_NAMES[role] in name.lower():
                self.stand_ins[role] = f"{file} stands in for {name}"
            else:
                where = "" if pipe or not self.folder else f" and is not in {self.folder}"
                fix = f"set this node to {file}" + (
                    "" if pipe else ", or give folder=, where your models are"
                )
                raise WanError(f"{node} asks for {name!r}, which is not a file of the model {self.entry.name}{where}: "
                               f"{fix}.")  # fmt: skip
        return own

    def _inside(self, name: str, places: tuple[str, ...]) -> Path | None:
        """A file of this name in the model folders, never outside of them, not even by a link on the disk."""
        roots = [self.folder / place for place in places] + [self.folder] if self.folder else []
        roots += [bundled_folder()] if self.entry.light else []
        return find_inside(name, roots)

    def _settings(self, node: Node) -> dict[str, Any]:
        """A KSampler's settings in our words; `SamplingSettings` checks them before anything runs."""
        names = {"steps": "steps", "guidance": "cfg", "sampler": "sampler_name", "scheduler": "scheduler"}
        names |= {"denoise": "denoise"}
        settings = {ours: self.workflow.value(node, theirs) for ours, theirs in names.items()}
        SamplingSettings(**settings)
        return settings

    # --------------------------------------------------------------------------------- the verbs, as nodes come

    def _load_model(self, node: Node) -> tuple[Any, ...]:
        role = _ROLES[node.type][0]
        if self.entry.light:
            self.pipe.part(role)
        if role in self.stand_ins:
            self.words.append(f"{self.stand_ins[role]}.")
        name = self.pipe.files[role].name
        kinds: dict[str, Any] = {"transformer": ModelValue, "text_encoder": ClipValue}
        return (kinds.get(role, str)(name),)

    def _load_image(self, node: Node) -> tuple[Any, ...]:
        from PIL import Image, ImageOps

        name = self.workflow.value(node, "image")
        path = picture_file(self.workflow, name)
        if path is None:
            raise WanError(f"{node} asks for the picture {name!r}, which is not beside the workflow's file.")
        picture = read_picture(path, "picture", self.words)[None]  # (1, height, width, 3)
        with Image.open(path) as image:
            alpha = np.asarray(
                ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"), dtype=np.float32
            )
        return picture, 1 - torch.from_numpy(alpha)[None] / 255  # ComfyUI's mask: where it is transparent

    def _add_loras(self, node: Node) -> tuple[Any, ...]:
        model, clip = self._take(node, "model"), self._take(node, "clip")
        loras, clip_loras = self.workflow.loras(node), self.workflow.clip_loras(node)
        names = dict.fromkeys(name for name, _ in loras + clip_loras)  # each once
        files = {name: self._lora_file(node, name) for name in names}
        on_model = [(files[name], float(strength)) for name, strength in loras]
        on_clip = [(files[name], float(strength)) for name, strength in clip_loras if clip is not None]
        for path, fit in zip(
            files.values(), self.pipe.fit_loras([(path, 1.0) for path in files.values()]), strict=True
        ):
            self.words += [fit.notice] if fit.unused else []
            if fit.elsewhere:
                at = [f"at strength {strength:g}" for one, strength in on_clip if one == path]
                how = (
                    f"applied {' and '.join(at)}"
                    if at
                    else "not applied, as this node gives them no strength"
                )
                self.words.append(f"{fit.lora}: {len(fit.elsewhere)} keys are for the text encoder, {how}.")
        clip = None if clip is None else replace(clip, loras=(*clip.loras, *on_clip))
        changed = replace(model, loras=(*model.loras, *on_model))
        return (changed, clip)[: len(node.known.gives) if node.known else 0]

    def _lora_file(self, node: Node, name: str) -> Path:
        """A LoRA's file, or on a light model that of its counterpart."""
        path = self._inside(name, ("loras",))
        if path is None and self.entry.light:
            path = self._inside(name.replace("14B", "mini"), ())
            self.words += [f"{path.name} stands in for {name}."] if path else []
        if path is None:
            raise WanError(f"{node} asks for the LoRA {name!r}, which is not there: switch it off, or give "
                           "folder=, where your models are.")  # fmt: skip
        return path

    def _shift_model(self, node: Node) -> tuple[Any, ...]:
        return (replace(self._take(node, "model"), shift=float(self._take(node, "shift"))),)

    def _encode_prompt(self, node: Node) -> tuple[Any, ...]:
        text = self._take(node, "text")
        encoded = self.pipe.encode_prompt(text, loras=self._take(node, "clip").loras)
        return (PromptValue(text, encoded.embedding, len(encoded.embedding.abs().sum(dim=1).nonzero())),)

    def _empty_latent(self, node: Node) -> tuple[Any, ...]:
        return (self._new_latent(node),)

    def _vace_inputs(self, node: Node) -> tuple[Any, ...]:
        """Prompts with what else is given, and a latent that is a frame longer with a reference.

        With nothing but words given the VACE blocks rest, as in generate.
        """
        positive, negative = self._take(node, "positive"), self._take(node, "negative")
        names = {"reference": "reference_image", "video": "control_video", "mask": "control_masks"}
        pictures = {ours: self._take(node, theirs) for ours, theirs in names.items()}
        if all(picture is None for picture in pictures.values()):
            return positive, negative, self._new_latent(node), 0
        check_strength(strength := self._take(node, "strength"))
        if pictures["reference"] is not None:
            pictures["reference"] = pictures["reference"][0]  # the node takes one
        empty = self._new_latent(node)
        given = read_given(empty.size, **pictures, fit="crop")
        self.pipe.free("text_encoder")
        context = self.pipe.encode_context(given)
        self.pipe.free("vae")
        self.words += [f"Given: {given}.", *given.notices]
        told = (replace(prompt, context=context, strength=strength) for prompt in (positive, negative))
        front = torch.zeros_like(context.references).to(empty.latent)
        longer = replace(empty, latent=torch.cat([front, empty.latent], dim=2))
        return (*told, longer, context.extra_frames)

    def _new_latent(self, node: Node) -> LatentValue:
        width, height, length, batch = (
            self._take(node, n) for n in ("width", "height", "length", "batch_size")
        )
        if batch != 1:
            raise WanError(
                f"The batch_size of {node} must be 1, not {batch}: this kit makes one video at a time."
            )
        size = VideoSize(width, height, length)
        if "transformer" in self.stand_ins and size not in self.entry.trained_sizes:
            self.words.append(
                f"{size} becomes {self.entry.size}, the size that the model {self.entry.name} paints."
            )
            size = self.entry.size
        if size.tokens > MOST_TOKENS:
            raise WanError(
                f"{node} asks for {size}, {size.tokens} tokens: no Wan model paints more than {MOST_TOKENS}."
            )
        return LatentValue(torch.zeros(size.latent_shape), size)

    def _sample(self, node: Node) -> tuple[Any, ...]:
        model, start = self._take(node, "model"), self._take(node, "latent_image")
        positive, negative, seed = (self._take(node, name) for name in ("positive", "negative", "seed"))
        settings = {**self.settings[node.id], "shift": model.shift}
        self.pipe.free("text_encoder")
        extra = start.latent.shape[2] - start.size.latent_frames
        noise = self.pipe.draw_noise(start.size, seed=seed, extra_frames=extra)
        begin = start.latent if settings["denoise"] < 1 or start.latent.any() else None
        text = TextEmbeddings(positive.embedding, negative.embedding)
        context = positive.context and positive.context.tensor
        given = {"vace_context": context, "vace_strength": positive.strength, "loras": model.loras}
        with progress_bar("steps", settings["steps"], show=self.progress) as bar:
            for step in self.pipe.denoise(noise, text, start=begin, **given, **settings):
                latent = step.latent
                bar.update()
        self.pipe.free("transformer")
        return (LatentValue(latent.cpu(), start.size),)

    def _trim(self, node: Node) -> tuple[Any, ...]:
        given, amount = self._take(node, "samples"), self._take(node, "trim_amount")
        frames = given.latent.shape[2]
        if amount >= frames:
            raise WanError(f"{node} cuts {amount} latent frames, and there are {frames}: cut fewer.")
        return (replace(given, latent=given.latent[:, :, amount:]),)  # (1, 16, F, H, W)

    def _decode(self, node: Node) -> tuple[Any, ...]:
        video = self.pipe.decode(self._take(node, "samples").latent)
        self.pipe.free("vae")
        return (video,)

    def _create_video(self, node: Node) -> tuple[Any, ...]:
        return (VideoValue(self._take(node, "images"), float(self._take(node, "fps"))),)

    def _save(self, node: Node) -> tuple[Any, ...]:
        video = self._take(node, "video" if node.type == "SaveVideo" else "images")
        frames, fps = (
            (video.frames, video.fps) if isinstance(video, VideoValue) else (video, self._take(node, "fps"))
        )
        if self.save_to is None:
            self.words.append("Not written: no folder was given with save_to.")
            return ()
        path = write_video(frames, self._free_path(node, self.save_to), fps=fps)
        self.words.append(f"Wrote {path}.")
        return ()

    def _free_path(self, node: Node, folder: Path) -> Path:
        """Where a Save node writes: its prefix with the first number that is free, inside the folder."""
        written = str(self.workflow.value(node, "filename_prefix"))
        prefix = re.sub(r'[%:*?"<>|]', "_", written).replace("\\", "/")
        # exists() would stumble over a name that is too long
        check_path(folder / f"{prefix}_00001_.mp4", "output", example="outputs/video.mp4")
        numbered = (folder / f"{prefix}_{number:05}_.mp4" for number in range(1, 100000))
        path = next(path for path in numbered if not path.exists())
        if not path.resolve().is_relative_to(folder.resolve()):
            raise WanError(f"{node} would write outside of {folder}: change its filename_prefix.")
        return path

    def _preview(self, node: Node) -> tuple[Any, ...]:
        return ()


_VERBS = {
    **dict.fromkeys(_ROLES, "load_model"),
    "LoadImage": "load_image",
    **dict.fromkeys(("LoraLoader", "LoraLoaderModelOnly", "Power Lora Loader (rgthree)"), "add_loras"),
    "ModelSamplingSD3": "shift_model",
    "CLIPTextEncode": "encode_prompt",
    "WanVaceToVideo": "vace_inputs",
    "EmptyHunyuanLatentVideo": "empty_latent",
    "KSampler": "sample",
    "TrimVideoLatent": "trim",
    "VAEDecode": "decode",
    "CreateVideo": "create_video",
    **dict.fromkeys(_SAVERS, "save"),
    "PreviewImage": "preview",
}


def _latent_picture(latent: Tensor) -> np.ndarray:
    """The middle frame of a latent, its three main directions as red, green and blue."""
    from wan_tutorial.show.latents import plane_of
    from wan_tutorial.show.video import enlarge

    cells = latent[0, :, latent.shape[2] // 2].float().cpu().numpy()  # (16, H, W)
    places, _ = plane_of(cells.reshape(len(cells), -1).T.astype(np.float64), axes=3)  # (H W, 3)
    reach = max(float(np.abs(places).max()), 1e-9)
    picture = ((places / reach + 1) * 127.5).astype(np.uint8).reshape(*cells.shape[1:], 3)
    return enlarge(picture[None], 8)[0]


def _prompt_picture(embedding: Tensor) -> np.ndarray:
    """Tokens from top to bottom, the first 64 numbers of each from left to right, around zero."""
    from wan_tutorial.show.style import AROUND
    from wan_tutorial.show.video import enlarge

    numbers = embedding[:, :64].float().cpu().numpy()
    reach = max(float(np.quantile(np.abs(numbers), 0.98)) if numbers.size else 0.0, 1e-9)
    picture = (AROUND(np.clip(numbers / reach / 2 + 0.5, 0, 1))[..., :3] * 255).astype(np.uint8)
    return enlarge(picture[None], 4)[0]
