"""The catalogue: for each model its files, and everything about it that no file can hold.

Stands beside the pipeline, which asks here which files to read and which settings a model was made for; `download`
fetches what is missing. In: a model's name. Out: a `ModelEntry`, and the paths of its files on this machine. Its
counterparts are the configuration files of a diffusers model folder and the defaults in ComfyUI's workflow templates.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.sizes import VideoSize

ROLES = ("transformer", "text_encoder", "vae")
GIGABYTE = 10**9

UnknownWords = Callable[[str], list[tuple[str, tuple[str, ...]]]]  # prompt -> [(word, nearest known words)]


APACHE = "Apache-2.0"


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: its name, where it comes from, and where ComfyUI keeps its kind.

    No checksum stands here: none could be verified when this was written. The hub tells one with each file;
    `download` compares, records it beside the file, and checks against the record from then on.
    """

    name: str
    repository: str | None = None  # on huggingface.co; None: it comes with this package
    folder: str = ""  # inside the repository
    bytes: int | None = None  # None: not published
    licence: str = APACHE  # as the repository's page said in 2026
    places: tuple[str, ...] = ()  # folders of ComfyUI's models/ that hold such files; the first is ours
    exact: bool = False  # whether `bytes` is exact, or computed from the type and rounded

    @property
    def address(self) -> str:
        return f"https://huggingface.co/{self.repository}"


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
    shape: tuple[int, int, int, int] = (
        256,
        1024,
        6,
        2,
    )  # dim, ffn, main and VACE blocks: for the plan, before
    # there is a file to read them from
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
    trained_sizes=(VideoSize(96, 96, 13), VideoSize(96, 96, 9)),
    fps=16,
    guidance=4.0,
    shift=3.0,  # few tokens: less than Wan's 8
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

_COMFY = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
_TRANSFORMERS = ("diffusion_models", "unet")

# Sizes: the text encoder's from its commit on the hub; our table of its tensors gives the same to the byte
# (tests/fixtures/full_size.tsv). The others are computed from the converters' rules.
UMT5_XXL = ModelFile(
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    _COMFY,
    "split_files/text_encoders",
    bytes=6_735_906_897,
    places=("text_encoders", "clip"),
    exact=True,
)
WAN_VAE = ModelFile("wan_2.1_vae.safetensors", _COMFY, "split_files/vae", bytes=254_000_000, places=("vae",))

WAN_14B_Q3 = ModelEntry(
    name="wan2.1-vace-14b-q3",
    title="Wan2.1-VACE-14B, 3 bits for each weight",
    files={
        "transformer": ModelFile(
            "Wan2.1_14B_VACE-Q3_K_S.gguf",
            "QuantStack/Wan2.1_14B_VACE-GGUF",
            bytes=7_844_000_000,
            places=_TRANSFORMERS,
        ),
        "text_encoder": UMT5_XXL,
        "vae": WAN_VAE,
    },
    size=VideoSize(832, 480, 81),
    trained_sizes=(
        VideoSize(832, 480, 81),
        VideoSize(480, 832, 81),
        VideoSize(1280, 720, 81),
        VideoSize(720, 1280, 81),
    ),
    fps=16,
    shape=(5120, 13824, 40, 8),
)

WAN_1_3B = replace(
    WAN_14B_Q3,
    name="wan2.1-vace-1.3b",
    title="Wan2.1-VACE-1.3B, 16 bits for each weight: the middle step",
    files={
        **WAN_14B_Q3.files,
        "transformer": ModelFile(
            "wan2.1_vace_1.3B_fp16.safetensors",
            _COMFY,
            "split_files/diffusion_models",
            bytes=4_310_000_000,
            places=_TRANSFORMERS,
        ),
    },
    trained_sizes=(VideoSize(832, 480, 81), VideoSize(480, 832, 81)),
    shape=(1536, 8960, 30, 15),
)


def _other_14b(kind: str, gigabytes: float) -> ModelEntry:
    """The same model in another quantisation."""
    q3 = WAN_14B_Q3.files["transformer"]
    name = f"Wan2.1_14B_VACE-{kind}.gguf"
    file = replace(q3, name=name, bytes=round(gigabytes * GIGABYTE))
    return replace(
        WAN_14B_Q3,
        name=f"wan2.1-vace-14b-{kind.lower()}",
        title=f"Wan2.1-VACE-14B, {kind}",
        files={**WAN_14B_Q3.files, "transformer": file},
    )


_OTHERS = {
    "Q4_0": 10.33, "Q4_1": 11.18, "Q4_K_S": 10.55, "Q4_K_M": 11.64, "Q5_0": 12.46, "Q5_1": 13.32, "Q5_K_S": 12.25,
    "Q5_K_M": 13.04, "Q6_K": 14.52, "Q8_0": 18.66, "F16": 34.69,
}  # fmt: skip # GB
_REAL = (WAN_14B_Q3, WAN_1_3B, *(_other_14b(kind, size) for kind, size in _OTHERS.items()))
MODELS = {entry.name: entry for entry in (MINI, MINI_F16, *_REAL)}


def _lora(name: str, size: int | None) -> ModelFile:
    return ModelFile(name, "Kijai/WanVideo_comfy", bytes=size, places=("loras",))


# Files that are no part of a model: LoRAs for the 14B one, and the CLIP of lesson 01, a folder for transformers.
EXTRAS: dict[str, tuple[ModelFile, ...]] = {
    "causvid-v1": (_lora("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", 319_000_000),),
    "causvid-v1.5": (_lora("Wan21_CausVid_14B_T2V_lora_rank32_v1_5_no_first_block.safetensors", None),),
    "causvid-v2": (_lora("Wan21_CausVid_14B_T2V_lora_rank32_v2.safetensors", 205_000_000),),
    "clip": tuple(
        ModelFile(name, "openai/clip-vit-base-patch32", bytes=size, licence="MIT (openai/CLIP)",
                  places=("clip_vision/clip-vit-base-patch32",))
        for name, size in (("model.safetensors", 605_000_000), ("config.json", None), ("tokenizer.json", None),
                           ("preprocessor_config.json", None))
    ),
}  # fmt: skip


def find_model(name: str) -> ModelEntry:
    """The catalogue's entry of this name; WanError names the ones there are."""
    if not isinstance(name, str) or name not in MODELS:
        close = difflib.get_close_matches(str(name).lower(), MODELS, n=1, cutoff=0.4)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise WanError(f"There is no model called {name!r}.{hint} Known: {', '.join(MODELS)}.")
    return MODELS[name]


def assets_folder() -> Path:
    """What comes with the package, the bonfire picture and the workflows among it: inside an installed one, or in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "assets"
    return installed if installed.is_dir() else package.parent / "assets"


def bundled_folder() -> Path:
    """Where the scale model lies."""
    return assets_folder() / "mini"


def default_folder() -> Path:
    """Where downloads go: $WAN_TUTORIAL_MODELS, or models/ of a clone, or this user's cache."""
    named = os.environ.get("WAN_TUTORIAL_MODELS")
    if named:
        return Path(named).expanduser()
    clone = Path(__file__).parents[2]
    if (clone / "pyproject.toml").is_file():
        return clone / "models"
    return Path.home() / ".cache" / "wan_tutorial" / "models"


def models_folder(folder: str | Path | None = None) -> Path:
    """The folder that holds the models: the one named, or its models/ where ComfyUI itself was named, or ours."""
    root = default_folder() if folder is None else check_path(folder, "folder of models", example="models")
    inside = root / "models"
    return inside if any((inside / place).is_dir() for place in _TRANSFORMERS) else root


def find_file(file: ModelFile, folder: str | Path | None = None) -> Path | None:
    """A catalogue file on this machine, or None: in ComfyUI's places under the folder, in the folder itself, or
    where huggingface_hub keeps what other programs downloaded. Looks at names only; no network."""
    if file.repository is None:
        path = bundled_folder() / file.name
        return path if path.is_file() else None
    root = models_folder(folder)
    for place in file.places:
        for path in sorted((root / place).rglob(file.name)):
            if path.is_file():
                return path
    if (root / file.name).is_file():
        return root / file.name
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(file.repository, "/".join(filter(None, (file.folder, file.name))))
    return Path(cached) if isinstance(cached, str) else None


def find_files(
    entry: ModelEntry, own: Mapping[str, str | Path | None] | None = None, *, folder: str | Path | None = None
) -> dict[str, Path]:
    """The path of each of a model's files on this machine, by role; `own` are the user's in place of the entry's.

    `folder`: where downloaded models are, in ComfyUI's models/ layout or all in one, or ComfyUI itself. Raises
    WanError naming the first file that is not there. Nothing is opened yet.
    """
    own = own or {}
    return {role: _find_file(entry, role, own.get(role), folder) for role in ROLES}


def _find_file(entry: ModelEntry, role: str, own: str | Path | None, folder: str | Path | None) -> Path:
    if own is not None:
        path = Path(own).expanduser()
        if path.is_file():
            return path
        names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
        hint = f"; did you mean {path.parent / close[0]}?" if close else "; check the path."
        raise WanError(f"The {_spoken(role)} must be a file, but there is none at {path}{hint}")
    file = entry.files[role]
    found = find_file(file, folder)
    if found:
        return found
    if file.repository is None:
        raise WanError(
            f"{file.name}, which comes with this package, is missing from {bundled_folder()}: install the package "
            "again, or restore the folder with git."
        )
    raise WanError(
        f"The model {entry.name} needs {file.name} (from {file.address}), which is not in "
        f"{models_folder(folder)}: run `wan-tutorial download {entry.name}`, or say where it is, {role}=PATH in "
        f"Python, --{role.replace('_', '-')} PATH on the command line."
    )


def _spoken(role: str) -> str:
    return "VAE" if role == "vae" else role.replace("_", " ")
