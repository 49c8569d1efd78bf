"""The catalogue: for each model its files, and everything about it that no file can hold.

Stands beside the pipeline, which asks here which files to read and which settings a model was made for. In: a model's
name. Out: a `ModelEntry`, and the paths of its files on this machine. Its counterparts are the configuration files of
a diffusers model folder and the defaults in ComfyUI's workflow templates.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wan_tutorial.errors import WanError
from wan_tutorial.sizes import VideoSize

ROLES = ("transformer", "text_encoder", "vae")
GIGABYTE = 10**9

UnknownWords = Callable[[str], list[tuple[str, tuple[str, ...]]]]  # prompt -> [(word, nearest known words)]


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: its name, and where it comes from."""

    name: str
    repository: str | None = None  # on huggingface.co; None: it comes with this package
    folder: str = ""  # inside the repository
    bytes: int | None = None  # None: not published


@dataclass(frozen=True)
class ModelEntry:
    """A model as the pipeline sees it: files by role, the settings it was made for, and what it needs."""

    name: str
    title: str
    files: Mapping[str, ModelFile]  # one for each of ROLES
    size: VideoSize
    trained_sizes: tuple[VideoSize, ...]
    fps: int
    steps: int = 20
    guidance: float = 6.0
    shift: float = 8.0
    sampler: str = "uni_pc"
    scheduler: str = "simple"
    text_length: int = 512  # tokens the transformer was trained to see
    # Light: all parts stay in memory, in float32, and both prompts go through the transformer as one batch.
    # Otherwise each part is loaded when its stage begins and freed after it.
    light: bool = False
    memory_needed: int = 0  # bytes of RAM
    gpu_memory_needed: int = 0  # bytes; 0: no GPU needed
    unknown_words: UnknownWords | None = None  # None: the model knows about any word


def _unknown_fireside_words(prompt: str) -> list[tuple[str, tuple[str, ...]]]:
    from wan_tutorial.mini.captions import unknown_words

    return unknown_words(prompt)


MINI = ModelEntry(
    name="mini",
    title="the scale model: Wan2.1-VACE in small, trained on one fireside",
    files={
        "transformer": ModelFile("Wan2.1_mini_VACE-Q3_K_S.gguf"),
        "text_encoder": ModelFile("umt5_mini_fp8_e4m3fn_scaled.safetensors"),
        "vae": ModelFile("wan_2.1_mini_vae.safetensors"),
    },
    size=VideoSize(96, 96, 13),
    trained_sizes=(VideoSize(96, 96, 13),),
    fps=16,
    text_length=64,
    light=True,
    memory_needed=2 * GIGABYTE,
    unknown_words=_unknown_fireside_words,
)

MINI_F16 = replace(
    MINI,
    name="mini-f16",
    title="the scale model before quantisation, 16 bits for each weight",
    files={**MINI.files, "transformer": ModelFile("Wan2.1_mini_VACE-F16.gguf")},
)

WAN_14B_Q3 = ModelEntry(
    name="wan2.1-vace-14b-q3",
    title="Wan2.1-VACE-14B, 3 bits for each weight",
    files={
        "transformer": ModelFile(
            "Wan2.1_14B_VACE-Q3_K_S.gguf", "QuantStack/Wan2.1_14B_VACE-GGUF", bytes=7_840_000_000
        ),
        "text_encoder": ModelFile(
            "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
            "Comfy-Org/Wan_2.1_ComfyUI_repackaged",
            "split_files/text_encoders",
            bytes=6_735_906_897,
        ),
        "vae": ModelFile(
            "wan_2.1_vae.safetensors",
            "Comfy-Org/Wan_2.1_ComfyUI_repackaged",
            "split_files/vae",
            bytes=254_000_000,
        ),
    },
    size=VideoSize(832, 480, 81),
    trained_sizes=(
        VideoSize(832, 480, 81),
        VideoSize(480, 832, 81),
        VideoSize(1280, 720, 81),
        VideoSize(720, 1280, 81),
    ),
    fps=16,
    memory_needed=12 * GIGABYTE,
    gpu_memory_needed=12 * GIGABYTE,
)

MODELS = {entry.name: entry for entry in (MINI, MINI_F16, WAN_14B_Q3)}


def find_model(name: str) -> ModelEntry:
    """The catalogue's entry of this name; WanError names the ones there are."""
    if name not in MODELS:
        close = difflib.get_close_matches(str(name).lower(), MODELS, n=1, cutoff=0.4)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise WanError(f"There is no model called {name!r}.{hint} Known: {', '.join(MODELS)}.")
    return MODELS[name]


def bundled_folder() -> Path:
    """Where the scale model lies: inside an installed package, or in assets/mini of a clone."""
    package = Path(__file__).parents[1]
    installed = package / "assets"
    return installed if installed.is_dir() else package.parent / "assets" / "mini"


def find_files(entry: ModelEntry, own: Mapping[str, str | Path | None] | None = None) -> dict[str, Path]:
    """The path of each of a model's files on this machine, by role; `own` are the user's in place of the entry's.

    Raises WanError naming the first file that is not there. Nothing is opened yet.
    """
    own = own or {}
    return {role: _find_file(entry, role, own.get(role)) for role in ROLES}


def _find_file(entry: ModelEntry, role: str, own: str | Path | None) -> Path:
    if own is not None:
        path = Path(own).expanduser()
        if path.is_file():
            return path
        names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
        hint = f"; did you mean {path.parent / close[0]}?" if close else "; check the path."
        raise WanError(f"The {_spoken(role)} must be a file, but there is none at {path}{hint}")
    file = entry.files[role]
    if file.repository is None:
        path = bundled_folder() / file.name
        if path.is_file():
            return path
        raise WanError(
            f"{file.name}, which comes with this package, is missing from {path.parent}: install the package again, "
            "or restore the folder with git."
        )
    raise WanError(
        f"The model {entry.name} needs {file.name} (from https://huggingface.co/{file.repository}): "
        f"download it and say where it is, {role}=PATH in Python, --{role.replace('_', '-')} PATH on the command line."
    )


def _spoken(role: str) -> str:
    return "VAE" if role == "vae" else role.replace("_", " ")
