"""The node types that this kit knows: their names, sockets, widgets and the order in which a file lists the widgets.

Facts taken from ComfyUI's published node definitions; `tests/fixtures/comfyui_nodes.json` holds them again with their
sources, and a test keeps the two equal. What each node does is in `run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_RESOLUTION = 16384
POWER_LORA = "Power Lora Loader (rgthree)"
CONTROL_AFTER = "control_after_generate"  # a value that only ComfyUI's page uses: what happens to the seed next


@dataclass(frozen=True)
class Widget:
    """A setting on a node: its kind is INT, FLOAT, STRING, BOOLEAN, COMBO, or FILE (the name of a file)."""

    name: str
    kind: str
    default: int | float | str | bool
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    many_lines: bool = False
    then: tuple[str, object] | None = None  # a page-only value that follows it in a file, and its usual content


@dataclass(frozen=True)
class NodeType:
    """What a node takes and gives: sockets as {name: type}, widgets in the order of a file's `widgets_values`."""

    name: str
    title: str
    takes: dict[str, str] = field(default_factory=dict)
    gives: dict[str, str] = field(default_factory=dict)
    widgets: tuple[Widget, ...] = ()
    optional: frozenset[str] = frozenset()
    unsupported: frozenset[str] = frozenset()  # inputs that ComfyUI would use and this kit does not
    is_output: bool = False
    package: str = "comfy-core"

    def widget(self, name: str) -> Widget | None:
        return next((widget for widget in self.widgets if widget.name == name), None)


def _file(name: str) -> Widget:
    return Widget(name, "FILE", "")


def _whole(name: str, default: int, low: int, high: int, then: tuple[str, object] | None = None) -> Widget:
    return Widget(name, "INT", default, low, high, then=then)


def _real(name: str, default: float, low: float, high: float) -> Widget:
    return Widget(name, "FLOAT", default, low, high)


def _choice(name: str, *choices: str) -> Widget:
    return Widget(name, "COMBO", choices[0], choices=choices)


def _size(width: int, height: int, length: int) -> tuple[Widget, ...]:
    return (
        _whole("width", width, 16, MAX_RESOLUTION),
        _whole("height", height, 16, MAX_RESOLUTION),
        _whole("length", length, 1, MAX_RESOLUTION),
        _whole("batch_size", 1, 1, 4096),
    )


_PROMPTS = {"positive": "CONDITIONING", "negative": "CONDITIONING"}
_CLIP_TYPE = Widget("type", "COMBO", "stable_diffusion")  # its choices grow with every release: any is accepted

NODE_TYPES: dict[str, NodeType] = {
    kind.name: kind
    for kind in (
        # loaders
        NodeType(
            "UnetLoaderGGUF",
            "Unet Loader (GGUF)",
            gives={"MODEL": "MODEL"},
            widgets=(_file("unet_name"),),
            package="ComfyUI-GGUF",
        ),
        NodeType(
            "UNETLoader",
            "Load Diffusion Model",
            gives={"MODEL": "MODEL"},
            widgets=(
                _file("unet_name"),
                _choice("weight_dtype", "default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"),
            ),
        ),
        NodeType(
            "CLIPLoader",
            "Load CLIP",
            gives={"CLIP": "CLIP"},
            widgets=(_file("clip_name"), _CLIP_TYPE, _choice("device", "default", "cpu")),
        ),
        NodeType("VAELoader", "Load VAE", gives={"VAE": "VAE"}, widgets=(_file("vae_name"),)),
        NodeType(
            "LoadImage",
            "Load Image",
            gives={"IMAGE": "IMAGE", "MASK": "MASK"},
            widgets=(Widget("image", "FILE", "", then=("upload", "image")),),
        ),
        # LoRAs
        NodeType(
            "LoraLoader",
            "Load LoRA",
            takes={"model": "MODEL", "clip": "CLIP"},
            gives={"MODEL": "MODEL", "CLIP": "CLIP"},
            widgets=(
                _file("lora_name"),
                _real("strength_model", 1.0, -100, 100),
                _real("strength_clip", 1.0, -100, 100),
            ),
        ),
        NodeType(
            "LoraLoaderModelOnly",
            "LoraLoaderModelOnly",
            takes={"model": "MODEL"},
            gives={"MODEL": "MODEL"},
            widgets=(_file("lora_name"), _real("strength_model", 1.0, -100, 100)),
        ),
        NodeType(  # its widgets are rows {on, lora, strength, strengthTwo}, as many as one likes: see comfyui_json
            POWER_LORA,
            POWER_LORA,
            takes={"model": "MODEL", "clip": "CLIP"},
            gives={"MODEL": "MODEL", "CLIP": "CLIP"},
            package="rgthree-comfy",
        ),
        # prompts, sampling, decoding
        NodeType(
            "CLIPTextEncode",
            "CLIP Text Encode (Prompt)",
            takes={"clip": "CLIP"},
            gives={"CONDITIONING": "CONDITIONING"},
            widgets=(Widget("text", "STRING", "", many_lines=True),),
        ),
        NodeType(
            "ModelSamplingSD3",
            "ModelSamplingSD3",
            takes={"model": "MODEL"},
            gives={"MODEL": "MODEL"},
            widgets=(_real("shift", 3.0, 0, 100),),
        ),
        NodeType(
            "WanVaceToVideo",
            "WanVaceToVideo",
            takes={
                **_PROMPTS,
                "vae": "VAE",
                "control_video": "IMAGE",
                "control_masks": "MASK",
                "reference_image": "IMAGE",
            },
            gives={**_PROMPTS, "latent": "LATENT", "trim_latent": "INT"},
            widgets=(*_size(832, 480, 81), _real("strength", 1.0, 0, 1000)),
            optional=frozenset({"control_video", "control_masks", "reference_image"}),
            unsupported=frozenset({"control_video", "control_masks"}),
        ),
        NodeType(
            "EmptyHunyuanLatentVideo",
            "EmptyHunyuanLatentVideo",
            gives={"LATENT": "LATENT"},
            widgets=_size(848, 480, 25),
        ),
        NodeType(
            "KSampler",
            "KSampler",
            takes={"model": "MODEL", **_PROMPTS, "latent_image": "LATENT"},
            gives={"LATENT": "LATENT"},
            widgets=(
                _whole("seed", 0, 0, 2**64 - 1, then=(CONTROL_AFTER, "fixed")),
                _whole("steps", 20, 1, 10000),
                _real("cfg", 8.0, 0, 100),
                Widget("sampler_name", "COMBO", "euler"),  # `SamplingSettings` knows which there are
                Widget("scheduler", "COMBO", "simple"),
                _real("denoise", 1.0, 0, 1),
            ),
        ),
        NodeType(
            "TrimVideoLatent",
            "TrimVideoLatent",
            takes={"samples": "LATENT"},
            gives={"LATENT": "LATENT"},
            widgets=(_whole("trim_amount", 0, 0, 99999),),
        ),
        NodeType(
            "VAEDecode", "VAE Decode", takes={"samples": "LATENT", "vae": "VAE"}, gives={"IMAGE": "IMAGE"}
        ),
        # outputs
        NodeType(
            "CreateVideo",
            "Create Video",
            takes={"images": "IMAGE", "audio": "AUDIO"},
            gives={"VIDEO": "VIDEO"},
            widgets=(_real("fps", 30.0, 1, 120),),
            optional=frozenset({"audio"}),
            unsupported=frozenset({"audio"}),
        ),
        NodeType(
            "SaveVideo",
            "Save Video",
            takes={"video": "VIDEO"},
            widgets=(
                Widget("filename_prefix", "STRING", "video/ComfyUI"),
                _choice("format", "auto", "mp4"),
                _choice("codec", "auto", "h264"),
            ),
            is_output=True,
        ),
        NodeType("PreviewImage", "Preview Image", takes={"images": "IMAGE"}, is_output=True),
        NodeType(
            "SaveAnimatedWEBP",
            "SaveAnimatedWEBP",
            takes={"images": "IMAGE"},
            widgets=(
                Widget("filename_prefix", "STRING", "ComfyUI"),
                _real("fps", 6.0, 0.01, 1000),
                Widget("lossless", "BOOLEAN", True),
                _whole("quality", 80, 0, 100),
                _choice("method", "default", "fastest", "slowest"),
            ),
            is_output=True,
        ),
        NodeType(
            "SaveWEBM",
            "SaveWEBM",
            takes={"images": "IMAGE"},
            widgets=(
                Widget("filename_prefix", "STRING", "ComfyUI"),
                _choice("codec", "vp9", "av1"),
                _real("fps", 24.0, 0.01, 1000),
                _real("crf", 32.0, 0, 63),
            ),
            is_output=True,
        ),
    )
}

# Nodes of ComfyUI's page alone: they hold words, or pass on what they are given.
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
PAGE_ONLY = (*NOTES, REROUTE, PRIMITIVE)
