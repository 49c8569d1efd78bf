"""Move a training from one machine to another: the averaged weights in 16 bits, in a few small files.

What is left behind is the optimiser's memory; every stage begins with a warm-up, which makes up for it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import WanError

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
