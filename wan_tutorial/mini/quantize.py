"""From trained weights to the files that are shipped, in the formats of the real ones.

    python -m wan_tutorial.mini.quantize MASTER.gguf --type Q3_K_S --out Wan2.1_mini_VACE-Q3_K_S.gguf

`write_transformer` writes the F16 file from which every other quantisation is made, and `write_text_encoder` the
scaled-fp8 UMT5. Which tensor gets which type follows ComfyUI-GGUF's converter (`tools/convert.py` and
`tools/lcpp.patch`), by which the published Wan files are made, so it works on the real F16 file too.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from gguf import LlamaFileType
from torch import Tensor

from wan_tutorial.errors import WanError
from wan_tutorial.files import AnyTensor, Shapes, inspect_file, read_tensors, write_gguf, write_safetensors
from wan_tutorial.quantization import BLOCK_TYPES, FLOAT_TYPES, QuantizedTensor, quantize_fp8

_SMALL = 1024  # tensors up to this many weights stay F32
_KEPT_HALF = ("text_embedding.", "time_embedding.", "time_projection.", "img_emb.", "head.")

# A file type is a block type for the matrices, with finer ones for the two that matter most to quality: the
# values of attention, and the second matrix of the feed-forward. The letter is for small, medium, large.
_MIXES: dict[str, tuple[str, str, str]] = {  # of all others, of `.v.weight`, of `.ffn.2.weight`
    "Q2_K": ("Q2_K", "Q3_K", "Q2_K"),
    "Q3_K_S": ("Q3_K", "Q3_K", "Q3_K"),
    "Q3_K_M": ("Q3_K", "Q4_K", "Q4_K"),
    "Q3_K_L": ("Q3_K", "Q5_K", "Q5_K"),
    "Q4_0": ("Q4_0", "Q4_0", "Q4_1"),
    "Q4_1": ("Q4_1", "Q4_1", "Q4_1"),
    "Q4_K_S": ("Q4_K", "Q4_K", "Q5_K"),
    "Q4_K_M": ("Q4_K", "Q6_K", "Q6_K"),
    "Q5_0": ("Q5_0", "Q5_0", "Q5_1"),
    "Q5_1": ("Q5_1", "Q5_1", "Q5_1"),
    "Q5_K_S": ("Q5_K", "Q5_K", "Q5_K"),
    "Q5_K_M": ("Q5_K", "Q6_K", "Q6_K"),
    "Q6_K": ("Q6_K", "Q6_K", "Q6_K"),
    "Q8_0": ("Q8_0", "Q8_0", "Q8_0"),
    "F16": ("F16", "F16", "F16"),
}
_FIRST_VALUES = {"Q3_K_M": (2, "Q5_K"), "Q4_K_S": (4, "Q5_K")}  # the first so many `.v.weight` get this type
_SHORT_NAMES = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}
FILE_TYPES = tuple(_MIXES)


def full_type_name(name: str) -> str:
    """The file type a person means; a bare Q3_K, Q4_K or Q5_K means the plain one, _S."""
    known = {known.lower(): known for known in (*FILE_TYPES, *_SHORT_NAMES)}
    if name.lower() not in known:
        nearest = difflib.get_close_matches(name.upper(), FILE_TYPES, n=1, cutoff=0.0)[0]
        raise WanError(
            f"{name!r} is not a file type; the nearest is {nearest}, and all are {', '.join(FILE_TYPES)}."
        )
    found = known[name.lower()]
    return _SHORT_NAMES.get(found, found)


def transformer_types(shapes: Shapes, file_type: str) -> dict[str, str]:
    """Tensor name to type, for a Wan transformer under its original names.

    Vectors, modulations, anything up to 1,024 weights and the 5-D patch embeddings stay F32; the matrices
    outside the blocks stay F16, and so does one whose rows do not fill whole blocks.
    """
    mix = _MIXES[full_type_name(file_type)]
    first, first_type = _FIRST_VALUES.get(full_type_name(file_type), (0, ""))
    values_seen = 0
    types = {}
    for name, shape in shapes.items():
        types[name] = _tensor_type(name, shape, mix)
        if name.endswith(".v.weight") and types[name] in BLOCK_TYPES:
            values_seen += 1
            types[name] = first_type if values_seen <= first else types[name]
    return types


def _tensor_type(name: str, shape: tuple[int, ...], mix: tuple[str, str, str]) -> str:
    if len(shape) != 2 or prod(shape) <= _SMALL or "modulation" in name:
        return "F32"
    if any(part in name for part in _KEPT_HALF):
        return "F16"
    chosen = mix[1] if name.endswith(".v.weight") else mix[2] if name.endswith(".ffn.2.weight") else mix[0]
    whole = chosen in FLOAT_TYPES or shape[-1] % BLOCK_TYPES[chosen].weights == 0
    return chosen if whole else "F16"


def _as_type(tensor: AnyTensor, type_name: str) -> AnyTensor:
    weights = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
    if type_name in FLOAT_TYPES:
        return weights.to(FLOAT_TYPES[type_name])
    return QuantizedTensor.from_weights(weights, type_name)


def write_transformer(state: Mapping[str, AnyTensor], path: str | os.PathLike[str], file_type: str) -> None:
    """Write a Wan transformer, names original, as a GGUF of the given file type."""
    file_type = full_type_name(file_type)
    types = transformer_types({name: tuple(tensor.shape) for name, tensor in state.items()}, file_type)
    number = LlamaFileType["MOSTLY_" + file_type]
    tensors = {name: _as_type(tensor, types[name]) for name, tensor in state.items()}
    write_gguf(path, tensors, file_type=int(number))


def quantize_master(master: str | os.PathLike[str], path: str | os.PathLike[str], file_type: str) -> None:
    """Make a GGUF of another type from an F16 master, or from any Wan transformer file."""
    file_type = full_type_name(file_type)
    source = read_tensors(master).require("transformer")
    packed = Counter(tensor.type for tensor in source.tensors.values() if isinstance(tensor, QuantizedTensor))
    if packed:
        raise WanError(
            f"{source.path.name} is quantised already ({', '.join(packed)}); start from the F16 master, as every "
            f"quantisation of a quantisation loses more."
        )
    write_transformer(source.tensors, path, file_type)


_FP8_NAME = re.compile(
    r"^encoder\.block\.\d+\.layer\.\d+\.(SelfAttention\.[qkvo]|DenseReluDense\.(wi_0|wi_1|wo))\.weight$"
)


def write_text_encoder(state: Mapping[str, Tensor], spiece: bytes, path: str | os.PathLike[str]) -> None:
    """Write a UMT5 encoder (Hugging Face's names) as ComfyUI's scaled fp8, its SentencePiece model inside.

    The seven matrices of every block become float8_e4m3fn, each with a float32 `scale_weight`; the embedding,
    norms and relative biases become float16. An empty tensor `scaled_fp8` says which fp8 it is. A second name
    of the embedding (`encoder.embed_tokens.weight`) is left out, as in the real file.
    """
    if not spiece:
        raise WanError("The SentencePiece model is empty; give the bytes of the trained .model file.")
    tensors: dict[str, Tensor] = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for name, weights in state.items():
        if name == "encoder.embed_tokens.weight":
            continue
        if _FP8_NAME.match(name):
            tensors[name], tensors[name.removesuffix("weight") + "scale_weight"] = quantize_fp8(weights)
        else:
            tensors[name] = weights.to(torch.float16)
    tensors["spiece_model"] = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    write_safetensors(path, tensors)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.quantize",
        description="Make a quantised GGUF of a Wan transformer from its F16 master.",
    )
    parser.add_argument("master", type=Path, help="the F16 master, .gguf or .safetensors")
    parser.add_argument("--type", default="Q3_K_S", help=f"one of {', '.join(FILE_TYPES)} (default: Q3_K_S)")
    parser.add_argument(
        "--out", type=Path, help="where to write (default: beside the master, named by the type)"
    )
    options = parser.parse_args(arguments)
    try:
        file_type = full_type_name(options.type)
        stem = re.sub(r"-(B?F16|F32)$", "", options.master.stem)
        out = options.out or options.master.with_name(f"{stem}-{file_type}.gguf")
        quantize_master(options.master, out, file_type)
        print(inspect_file(out).page(tensors=0))
    except WanError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
