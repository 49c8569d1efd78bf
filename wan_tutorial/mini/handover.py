"""Move a training from one machine to another: the averaged weights in 16 bits, in a few small files.

What is left behind is the optimiser's memory; every stage begins with a warm-up, which makes up for it.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ..errors import WanError
from ..files import read_tensors, write_safetensors
from ..transformer import TransformerShape, new_transformer
from ..vae import to_diffusers_names
from .loop import averaged

STAGES = ("vae_frames", "vae_videos", "vae_decoder", "text", "transformer")
LIMIT = 15_000_000  # bytes a file


def shards(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Split tensors into groups of at most LIMIT bytes."""
    group: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if group and sum(t.nbytes for t in group.values()) + tensor.nbytes > LIMIT - 100_000:
            yield group
            group = {}
        group[name] = tensor
    yield group


def hand_over(folder: Path, out: Path) -> None:
    """Write each stage's averaged weights and used minutes, and the tokenizer, from `folder` to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if (folder / stage / "checkpoint.safetensors").exists():
            halves = {name: tensor.half() for name, tensor in averaged(folder / stage).items()}
            for number, group in enumerate(shards(halves)):
                write_safetensors(out / f"{stage}-{number}.safetensors", group)
            shutil.copy(folder / stage / "used.txt", out / f"{stage}-used.txt")
    if (folder / "tokenizer.model").exists():
        shutil.copy(folder / "tokenizer.model", out)


def take_over(source: Path, folder: Path) -> None:
    """Turn a hand-over back into checkpoints, from which every stage resumes."""
    if any(source.glob("*.gguf")):
        return take_over_release(source, folder)
    found = sorted(source.glob("*-*.safetensors"))
    if not found:
        raise WanError(
            f"a hand-over holds files such as vae_videos-0.safetensors, and {source} has none of them."
        )
    for stage in STAGES:
        halves: dict[str, Tensor] = {}
        for path in source.glob(f"{stage}-*.safetensors"):
            halves |= load_file(path)
        if halves:
            used = (source / f"{stage}-used.txt").read_text()
            write_checkpoint(halves, folder / stage, used=used)
    if (source / "tokenizer.model").exists():
        shutil.copy(source / "tokenizer.model", folder)


def take_over_release(assets: Path, folder: Path) -> None:
    """Begin transformer and VAE where the shipped files stand: the F16 master and the VAE, with no minutes used.

    The text encoder is not taken over: it is frozen, and rests in fp8.
    """
    [master] = assets.glob("*-F16.gguf")
    [vae] = assets.glob("*vae.safetensors")
    packed: dict[str, Any] = read_tensors(master).require("transformer").tensors
    own = new_transformer(TransformerShape.of(packed)).wan_names()
    write_checkpoint({own[name]: t for name, t in packed.items()}, folder / "transformer", used="0 0")
    tensors: dict[str, Any] = read_tensors(vae).require("vae").tensors
    write_checkpoint(to_diffusers_names(tensors), folder / "vae_videos", used="0 0")


def write_checkpoint(state: Mapping[str, Tensor], folder: Path, *, used: str) -> None:
    """A checkpoint whose weights and averages are both `state`; `used` is its steps and minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{kind}.{name}": t.float() for kind in ("weights", "average") for name, t in state.items()}
    write_safetensors(folder / "checkpoint.safetensors", tensors)
    (folder / "used.txt").write_text(used)
