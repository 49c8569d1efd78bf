"""Move a training from one machine to another: the averaged weights in 16 bits, in a few small files.

What is left behind is the optimiser's memory; every stage begins with a warm-up, which makes up for it.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import WanError
from ..files import read_tensors
from ..transformer import TransformerShape, new_transformer
from ..vae import to_diffusers_names

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
            tensors = load_file(folder / stage / "checkpoint.safetensors")
            halves = {n[8:]: t.to(torch.float16) for n, t in tensors.items() if n.startswith("average.")}
            for number, group in enumerate(shards(halves)):
                save_file(group, out / f"{stage}-{number}.safetensors")
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
            (folder / stage).mkdir(parents=True, exist_ok=True)
            full = {name: tensor.float() for name, tensor in halves.items()}
            tensors = {
                f"{kind}.{name}": t.clone() for kind in ("weights", "average") for name, t in full.items()
            }
            save_file(tensors, folder / stage / "checkpoint.safetensors")
            shutil.copy(source / f"{stage}-used.txt", folder / stage / "used.txt")
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
    kinds = ("weights", "average")
    tensors = {
        f"{kind}.{name}": t.float().contiguous().clone() for kind in kinds for name, t in state.items()
    }
    save_file(tensors, folder / "checkpoint.safetensors")
    (folder / "used.txt").write_text(used)
