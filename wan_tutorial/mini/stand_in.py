"""Files that stand in for the real model's: its names, its layout and its formats, with the scale model inside.

Stands beside the catalogue, where no GPU is at hand to run the real files. In: a folder. Out: in it, under the names
and in the places of the real ones, a transformer of all 1,331 tensors of Wan2.1-VACE-14B, with their types, but narrow;
a text encoder, a VAE, and a LoRA with CausVid's keys. Six of the 40 blocks are the scale model's and the others add
nothing, so what it paints is what the scale model paints; how it is read, staged and run is how the real one is.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wan_tutorial.files import read_tensors, write_gguf, write_safetensors
from wan_tutorial.machine.weights import (
    EXTRAS,
    MINI,
    ROLES,
    WAN_14B_Q3,
    ModelEntry,
    bundled_folder,
    find_files,
)
from wan_tutorial.mini.distill import NAME as LORA
from wan_tutorial.quantization import QuantizedTensor
from wan_tutorial.transformer import TransformerShape

CAUSVID = EXTRAS["causvid-v1"][0]
REAL = TransformerShape()  # 40 blocks, 8 VACE blocks


def write_stand_in(folder: str | Path) -> ModelEntry:
    """Write the four files in ComfyUI's models/ layout; the entry that `load` takes with this folder.

    Its settings are the real model's, its size and its text length the scale model's.
    """
    folder = Path(folder)
    files = {role: replace(file, bytes=None) for role, file in WAN_14B_Q3.files.items()}
    paths = {role: folder / file.places[0] / file.name for role, file in files.items()}
    lora = folder / CAUSVID.places[0] / CAUSVID.name
    for path in (*paths.values(), lora):
        path.parent.mkdir(parents=True, exist_ok=True)
    small = find_files(MINI)
    state: dict[str, Any] = read_tensors(small["transformer"]).tensors
    write_gguf(paths["transformer"], stretched(state))
    for role in ("text_encoder", "vae"):
        shutil.copyfile(small[role], paths[role])
    write_safetensors(lora, stretched_lora(state))
    sized = {role: replace(files[role], bytes=paths[role].stat().st_size) for role in ROLES}
    dim, ffn, *_ = MINI.shape
    return replace(
        WAN_14B_Q3, title="a stand-in: the real names, layout and formats, with the scale model inside", files=sized,
        size=MINI.size, trained_sizes=MINI.trained_sizes, text_length=MINI.text_length,
        guidance=MINI.guidance, shift=MINI.shift,
        shape=(dim, ffn, REAL.layers, REAL.vace_blocks), unknown_words=MINI.unknown_words,
    )  # fmt: skip


def places(small: TransformerShape) -> dict[str, str]:
    """Where the scale model's blocks stand among the real one's: each VACE block beside the main block it speaks to."""
    starts = list(zip(small.vace_layers, REAL.vace_layers, strict=False))
    found = {f"vace_blocks.{n}.": f"vace_blocks.{n}." for n in range(len(starts))}
    for block in range(small.layers):
        ours, theirs = max(pair for pair in starts if pair[0] <= block)
        found[f"blocks.{block}."] = f"blocks.{theirs + block - ours}."
    return found


def stretched(state: dict[str, Any]) -> dict[str, Any]:
    """A transformer's tensors with 40 and 8 blocks: its own where `places` puts them, silent ones elsewhere."""
    owners = {theirs: ours for ours, theirs in places(TransformerShape.of(state)).items()}
    made = {name: tensor for name, tensor in state.items() if "blocks." not in name}
    for kind, count in (("blocks.", REAL.layers), ("vace_blocks.", REAL.vace_blocks)):
        for number in range(count):
            here = f"{kind}{number}."
            pattern = owners.get(here, f"{kind}1.")
            for name, tensor in state.items():
                if name.startswith(pattern):
                    part = name.removeprefix(pattern)
                    made[here + part] = tensor if here in owners else _silent(part, tensor)
    return made


def _silent(part: str, tensor: Any) -> Any:
    """The same tensor of a block that adds nothing: no matrix, no bias."""
    if isinstance(tensor, QuantizedTensor):
        return QuantizedTensor(torch.zeros_like(tensor.raw), tensor.type, tensor.shape)
    return torch.zeros_like(tensor) if part.endswith("bias") else tensor


def stretched_lora(state: dict[str, Any], rank: int = 32) -> dict[str, torch.Tensor]:
    """CausVid's keys, ten layers of each of 40 blocks: the scale model's own LoRA where it has one, else no change."""
    path = bundled_folder() / LORA
    own: dict[str, Any] = read_tensors(path).tensors if path.is_file() else {}
    moved = places(TransformerShape.of(state))
    made = {}
    for name, tensor in state.items():
        if name.startswith("blocks.1.") and isinstance(tensor, QuantizedTensor):
            layer = name.removeprefix("blocks.1.").removesuffix(".weight")
            for number in range(REAL.layers):
                key = f"diffusion_model.blocks.{number}.{layer}"
                rows, columns = tensor.shape
                made[f"{key}.lora_down.weight"] = torch.zeros(rank, columns, dtype=torch.float16)
                made[f"{key}.lora_up.weight"] = torch.zeros(rows, rank, dtype=torch.float16)
    for key, change in own.items():
        block = next((ours for ours in moved if f".{ours}" in key), None)
        made[key.replace(f".{block}", f".{moved[block]}") if block else key] = change
    return made
