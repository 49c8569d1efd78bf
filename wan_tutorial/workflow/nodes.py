"""The node types that this kit knows: their sockets, their widgets and the order in which a file lists the widgets.

Facts taken from ComfyUI's published node definitions; `tests/fixtures/comfyui_nodes.json` holds them again with their
sources, and a test keeps the two equal. What each node does is in `run.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

POWER_LORA = "Power Lora Loader (rgthree)"  # its widgets are rows {on, lora, strength, strengthTwo}, any number of them
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
PAGE_ONLY = (
    *NOTES,
    REROUTE,
    PRIMITIVE,
)  # nodes of ComfyUI's page alone: they hold words, or pass on what they get

# One node a paragraph: type | title | package; then what it takes, what it gives, and its widgets in a file's order.
# name? : may be left out; name! : ComfyUI would use it, this kit does not. Kinds: INT, FLOAT, STRING, BOOLEAN,
# COMBO (a choice; with none listed, any is accepted here and checked later) and FILE. `+ name` is a value that only
# ComfyUI's page uses, which files list after its widget.
_TABLE = """
UnetLoaderGGUF | Unet Loader (GGUF) | comfyui-gguf
    gives MODEL:MODEL
    unet_name FILE

UNETLoader | Load Diffusion Model
    gives MODEL:MODEL
    unet_name FILE
    weight_dtype COMBO default default fp8_e4m3fn fp8_e4m3fn_fast fp8_e5m2

CLIPLoader | Load CLIP
    gives CLIP:CLIP
    clip_name FILE
    type COMBO stable_diffusion
    device COMBO default default cpu

VAELoader | Load VAE
    gives VAE:VAE
    vae_name FILE

LoadImage | Load Image
    gives IMAGE:IMAGE MASK:MASK
    image FILE
    + upload "image"

LoraLoader | Load LoRA
    takes model:MODEL clip:CLIP
    gives MODEL:MODEL CLIP:CLIP
    lora_name FILE
    strength_model FLOAT 1 -100 100
    strength_clip FLOAT 1 -100 100

LoraLoaderModelOnly | LoraLoaderModelOnly
    takes model:MODEL
    gives MODEL:MODEL
    lora_name FILE
    strength_model FLOAT 1 -100 100

Power Lora Loader (rgthree) | Power Lora Loader (rgthree) | rgthree-comfy
    takes model:MODEL clip:CLIP
    gives MODEL:MODEL CLIP:CLIP

CLIPTextEncode | CLIP Text Encode (Prompt)
    takes clip:CLIP
    gives CONDITIONING:CONDITIONING
    text STRING

ModelSamplingSD3 | ModelSamplingSD3
    takes model:MODEL
    gives MODEL:MODEL
    shift FLOAT 3 0 100

WanVaceToVideo | WanVaceToVideo
    takes positive:CONDITIONING negative:CONDITIONING vae:VAE control_video?:IMAGE control_masks?:MASK \
reference_image?:IMAGE
    gives positive:CONDITIONING negative:CONDITIONING latent:LATENT trim_latent:INT
    width INT 832 16 16384
    height INT 480 16 16384
    length INT 81 1 16384
    batch_size INT 1 1 4096
    strength FLOAT 1 0 1000

EmptyHunyuanLatentVideo | EmptyHunyuanLatentVideo
    gives LATENT:LATENT
    width INT 848 16 16384
    height INT 480 16 16384
    length INT 25 1 16384
    batch_size INT 1 1 4096

KSampler | KSampler
    takes model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT
    gives LATENT:LATENT
    seed INT 0 0 18446744073709551615
    + control_after_generate "fixed"
    steps INT 20 1 10000
    cfg FLOAT 8 0 100
    sampler_name COMBO euler
    scheduler COMBO simple
    denoise FLOAT 1 0 1

TrimVideoLatent | TrimVideoLatent
    takes samples:LATENT
    gives LATENT:LATENT
    trim_amount INT 0 0 99999

VAEDecode | VAE Decode
    takes samples:LATENT vae:VAE
    gives IMAGE:IMAGE

CreateVideo | Create Video
    takes images:IMAGE audio!:AUDIO
    gives VIDEO:VIDEO
    fps FLOAT 30 1 120

SaveVideo | Save Video
    takes video:VIDEO
    filename_prefix STRING video/ComfyUI
    format COMBO auto
    codec COMBO auto

PreviewImage | Preview Image
    takes images:IMAGE

SaveAnimatedWEBP | SaveAnimatedWEBP
    takes images:IMAGE
    filename_prefix STRING ComfyUI
    fps FLOAT 6 0.01 1000
    lossless BOOLEAN true
    quality INT 80 0 100
    method COMBO default default fastest slowest

SaveWEBM | SaveWEBM
    takes images:IMAGE
    filename_prefix STRING ComfyUI
    codec COMBO vp9 vp9 av1
    fps FLOAT 24 0.01 1000
    crf FLOAT 32 0 63
"""


@dataclass
class Widget:
    """A setting on a node, and what may stand in it."""

    name: str
    kind: str
    default: Any = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    then: tuple[str, Any] | None = None  # the page-only value that follows it in a file: name, usual content


@dataclass
class NodeType:
    """What a node takes and gives, as {name: type}, and its widgets in the order of a file's `widgets_values`."""

    name: str
    title: str
    package: str
    takes: dict[str, str] = field(default_factory=dict)
    gives: dict[str, str] = field(default_factory=dict)
    widgets: list[Widget] = field(default_factory=list)
    optional: set[str] = field(default_factory=set)
    unsupported: set[str] = field(default_factory=set)

    @property
    def is_output(self) -> bool:
        return not self.gives

    @property
    def places(self) -> list[str]:
        """The names of a file's `widgets_values`, in order."""
        return [name for widget in self.widgets for name in (widget.name, *(widget.then or ())[:1])]

    def widget(self, name: str) -> Widget | None:
        return next((widget for widget in self.widgets if widget.name == name), None)


@functools.cache
def node_types() -> dict[str, NodeType]:
    """All known node types by name."""
    kinds = [_read_type(paragraph) for paragraph in _TABLE.strip().split("\n\n")]
    return {kind.name: kind for kind in kinds}


def _read_type(paragraph: str) -> NodeType:
    head, *lines = paragraph.splitlines()
    name, title, package = (part.strip() for part in f"{head} | comfy-core".split("|")[:3])
    kind = NodeType(name, title, package)
    for word, *rest in map(str.split, lines):
        if word == "takes":
            sockets = [socket.split(":") for socket in rest]
            kind.takes = {socket.rstrip("?!"): value for socket, value in sockets}
            kind.optional = {socket[:-1] for socket, _ in sockets if socket[-1] in "?!"}
            kind.unsupported = {socket[:-1] for socket, _ in sockets if socket[-1] == "!"}
        elif word == "gives":
            kind.gives = dict(socket.split(":") for socket in rest)
        elif word == "+":
            kind.widgets[-1].then = (rest[0], rest[1].strip('"'))
        else:
            kind.widgets.append(_read_widget(word, *rest))
    return kind


def _read_widget(name: str, kind: str, default: str = "", *limits: str) -> Widget:
    if kind in ("INT", "FLOAT"):
        number = int if kind == "INT" else float
        low, high = map(number, limits)
        return Widget(name, kind, number(default), low, high)
    return Widget(name, kind, default == "true" if kind == "BOOLEAN" else default, choices=limits)
