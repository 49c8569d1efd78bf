"""Model files: what is in them, their tensors without a second copy, and writing them whole or not at all.

Where this stands: before everything else. In goes the path of a `.gguf` or `.safetensors` file, out come named
tensors that still lie in the file: it is mapped into memory, and the system reads a page when it is first used.
A 17 GB model opens in a moment. Only these two formats are read, as neither can carry code; a pickle can.

Both formats are a list of names, types, shapes and places, followed by the bytes. The list is checked against
the file's length before any byte of a tensor is touched. `gguf.GGUFReader` reads the same lists, but runs out of
memory over a damaged array length and tells a half-downloaded file as a shape error, so the GGUF list is read
here; a test holds the two equal.

Corresponds to ComfyUI's `load_torch_file` and `model_detection.py`, and ComfyUI-GGUF's `loader.py`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from .errors import WanError, check_path
from .quantization import BLOCK_TYPES, QuantizedTensor

AnyTensor = Tensor | QuantizedTensor
Shapes = Mapping[str, tuple[int, ...]]

_GGUF_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_GGUF_INTEGERS = {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
_SAFETENSORS_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_MOST_DIMENSIONS = 8
_SAMPLES, _SAMPLE = 64, 65_536  # how much of a file its fingerprint looks at: places, and bytes at each


# What stands beside the weights in ComfyUI's text encoders: the tokenizer's file, a mark, and the scales of fp8 matrices.
_NOT_LEARNED = re.compile(r"(^|\.)(spiece_model|scaled_fp8|scale_weight|scale_input)$")


@dataclass(frozen=True)
class TensorEntry:
    """One line of a file's list: a tensor's name, type and shape, and where its bytes lie in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def parameters(self) -> int:
        """How many learned numbers it holds: none if it is a dictionary, a mark, or the scale of another tensor."""
        return 0 if _NOT_LEARNED.search(self.name) else prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A file's own list of what it holds."""

    path: Path
    format: str
    metadata: dict[str, Any]
    entries: tuple[TensorEntry, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, with the prefixes that some checkpoints put before a transformer's names taken off."""
        names = stripped_names([entry.name for entry in self.entries])
        return {names[entry.name]: entry.shape for entry in self.entries}


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a file, by name, lying in its memory map; `kind` and `description` say what they make."""

    path: Path
    tensors: dict[str, AnyTensor] = field(repr=False)
    metadata: dict[str, Any]
    kind: str
    description: str

    def require(self, kind: str) -> TensorFile:
        """This file, if it holds that kind of model; else a WanError that says what it does hold."""
        if self.kind != kind:
            raise WanError(
                f"{self.path.name} holds {self.description}; a {kind} file is needed here, such as {_EXAMPLES[kind]}."
            )
        return self


# ---------------------------------------------------------------------------------------------------------
# Reading


def read_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Open a `.gguf` or `.safetensors` file: plain tensors as torch tensors, packed ones as `QuantizedTensor`.

    WanError for a file that is missing, cut short, damaged, of another format, or with a type unknown here.
    """
    header = read_header(path)
    tensors = _map_gguf(header) if header.format == "GGUF" else _map_safetensors(header)
    names = stripped_names(list(tensors))
    kind, description = describe(header.shapes, header.metadata)
    return TensorFile(
        path=header.path,
        tensors={names[name]: tensor for name, tensor in tensors.items()},
        metadata=header.metadata,
        kind=kind,
        description=description,
    )


def read_header(path: str | os.PathLike[str]) -> Header:
    """A model file's list, checked against its length; reads none of its tensors."""
    path = check_path(path, "model file", example="model.safetensors")
    _check_there(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise WanError(f"{path} cannot be read: {error.strerror}.") from error
    if start[:4] == b"GGUF":
        return _read_gguf_header(path)
    if len(start) > 8 and start[8:9] == b"{":
        return _read_safetensors_header(path, size)
    raise WanError(f"{path.name} is not a GGUF or safetensors file: {_what_it_seems(start)}.")


def _check_there(path: Path) -> None:
    try:
        if path.is_dir():
            raise WanError(f"{path} is a folder; name a .gguf or .safetensors file in it.")
        if path.is_file():
            return
        if path.exists():  # a pipe would be waited for without end
            raise WanError(f"{path} is no ordinary file; name a .gguf or .safetensors file.")
        if not path.parent.is_dir():
            raise WanError(f"There is no file {path}: the folder {path.parent} does not exist.")
        others = [other.name for other in path.parent.iterdir() if other.is_file()]
    except OSError as error:
        raise WanError(f"{path} cannot be read: {error.strerror}.") from error
    nearest = difflib.get_close_matches(path.name, others, n=1, cutoff=0.3)
    advice = (
        f"the nearest name in that folder is {nearest[0]}" if nearest else "nothing there has a name like it"
    )
    raise WanError(f"There is no file {path}; {advice}.")


def _what_it_seems(start: bytes) -> str:
    """A guess, from its first bytes, at what a foreign file is."""
    if not start:
        return "it is empty"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return (
            "it is a PyTorch pickle (.pt, .pth, .ckpt or .bin), which can run code when opened; only .safetensors "
            "and .gguf files are read"
        )
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, a few lines that stand for the file; fetch the file itself with `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, as a download link that wants a login gives; download it again"
    return f"it begins with {start[:8]!r}"


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Tells files apart by their contents in a moment, however large: size, 64 kB at each of 64 even places, and the end.

    The first place is the list of tensors. Weights that were trained on differ nearly everywhere; a change of a few
    bytes between the places goes unseen, for which `sha256_of` reads every byte.
    """
    path = Path(path)
    _check_there(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place in (*range(0, size, max(_SAMPLE, -(-size // _SAMPLES))), max(0, size - _SAMPLE)):
            file.seek(place)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with path.open("rb") as file:
        while part := file.read(2**22):
            digest.update(part)
    return digest.hexdigest()


class _Cursor:
    """Walks through the list at the start of a GGUF file, never past the file's end."""

    NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    STRING, ARRAY = 8, 9

    def __init__(self, data: np.ndarray, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise WanError(
                f"{self.name} is cut short or damaged: its header asks for {count:,} bytes at byte {self.at:,}, and "
                f"the file ends at {len(self.data):,}; download it again."
            )
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code)))

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def text(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise WanError(
                f"{self.name} is damaged: a name in its header is not text; download it again."
            ) from None

    def value(self, kind: int) -> Any:
        if kind in self.NUMBERS:
            return self.number(self.NUMBERS[kind])
        if kind == self.STRING:
            return self.text()
        if kind != self.ARRAY:
            raise WanError(
                f"{self.name} is damaged: no metadata value has the type {kind}; download it again."
            )
        kind, count = self.number("I"), self.number("Q")
        if kind in self.NUMBERS:
            return list(self.numbers(self.NUMBERS[kind], count))
        if kind != self.STRING:
            raise WanError(
                f"{self.name} is damaged: no array holds values of type {kind}; download it again."
            )
        return [self.text() for _ in range(count)]


def _read_gguf_header(path: Path) -> Header:
    data = np.memmap(path, mode="r")
    cursor = _Cursor(data, path.name)
    cursor.take(4)
    version = cursor.number("I")
    if version not in (2, 3):
        raise WanError(
            f"{path.name} is GGUF version {version}; versions 2 and 3, little-endian, are read: choose a newer file."
        )
    tensor_count, value_count = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.number("I"))
    listed = [_read_gguf_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise WanError(f"{path.name} is damaged: its alignment is {alignment!r}; download it again.")
    start = -(-cursor.at // alignment) * alignment  # rounded up
    entries = tuple(
        TensorEntry(name, type_name, shape, start + offset, _gguf_bytes(path.name, name, type_name, shape))
        for name, type_name, shape, offset in listed
    )
    if any((entry.offset - start) % alignment for entry in entries):
        raise WanError(
            f"{path.name} is damaged: a tensor does not begin on its {alignment}-byte grid; download it again."
        )
    return _checked(Header(path, "GGUF", metadata, entries), len(data))


def _read_gguf_entry(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int]:
    """Name, type, shape and offset of the next tensor; GGUF writes a shape from its last number to its first."""
    name = cursor.text()
    dimensions = cursor.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise WanError(f"{cursor.name} is damaged: {name} has {dimensions} dimensions; download it again.")
    shape = cursor.numbers("Q", dimensions)[::-1]
    type_number, offset = cursor.number("I"), cursor.number("Q")
    try:
        return name, gguf.GGMLQuantizationType(type_number).name, shape, offset
    except ValueError:
        raise WanError(
            f"{cursor.name}: {name} has the type number {type_number}, which this version of gguf does not know; "
            f"the file is damaged or newer than it (pip install -U gguf)."
        ) from None


def _gguf_bytes(file_name: str, name: str, type_name: str, shape: tuple[int, ...]) -> int:
    if max(shape, default=0) >= 2**63:
        raise WanError(f"{file_name} is damaged: {name} has the shape {shape}; download it again.")
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    if weights > 1 and (not shape or shape[-1] % weights):
        raise WanError(
            f"{file_name} is damaged: {name} of shape {shape} cannot be {type_name}, whose rows hold a multiple of "
            f"{weights} weights; download it again."
        )
    return prod(shape) // weights * size


def _read_safetensors_header(path: Path, size: int) -> Header:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise WanError(
                f"{path.name} is cut short or damaged: its header asks for {length:,} bytes and {size - 8:,} follow; "
                f"download it again."
            )
        text = file.read(length)
    try:
        listed = json.loads(text)
        metadata = dict(listed.pop("__metadata__", {}) or {})
        entries = tuple(_safetensors_entry(name, line, 8 + length) for name, line in listed.items())
    except WanError as error:
        raise WanError(f"{path.name}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise WanError(
            f"{path.name} is damaged: its header cannot be read ({error}); download it again."
        ) from error
    return _checked(Header(path, "safetensors", metadata, entries), size)


def _safetensors_entry(name: str, line: dict[str, Any], start: int) -> TensorEntry:
    type_name, shape = line["dtype"], tuple(int(n) for n in line["shape"])
    first, end = (int(n) for n in line["data_offsets"])
    if type_name not in _SAFETENSORS_BYTES:
        known = ", ".join(sorted(_SAFETENSORS_BYTES))
        raise WanError(f"{name} is of type {type_name!r}; known are {known}: choose a file in one of them.")
    if min(shape, default=0) < 0 or first < 0 or end - first != prod(shape) * _SAFETENSORS_BYTES[type_name]:
        raise ValueError(f"{name} of shape {shape} does not fit in its {end - first} bytes")
    return TensorEntry(name, type_name, shape, start + first, end - first)


def _checked(header: Header, size: int) -> Header:
    """The header, if its names are unique and its tensors end within the file."""
    names = Counter(entry.name for entry in header.entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise WanError(f"{header.path.name} is damaged: it lists {twice[0]} twice; download it again.")
    end = max((entry.offset + entry.bytes for entry in header.entries), default=0)
    if end > size:
        raise WanError(
            f"{header.path.name} is cut short: its tensors end at byte {end:,} and the file has {size:,}, "
            f"{end - size:,} are missing; download it again."
        )
    return header


def _map_gguf(header: Header) -> dict[str, AnyTensor]:
    data = _mapped(header.path)
    plain = {**_GGUF_FLOATS, **_GGUF_INTEGERS}
    tensors: dict[str, AnyTensor] = {}
    for entry in header.entries:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            raw = torch.from_numpy(data[entry.offset : entry.offset + entry.bytes])
        if entry.type in plain:
            tensors[entry.name] = raw.view(plain[entry.type]).view(entry.shape)
        elif entry.type in BLOCK_TYPES:
            tensors[entry.name] = QuantizedTensor(raw, entry.type, entry.shape)
        else:
            raise WanError(
                f"{header.path.name}: {entry.name} is of type {entry.type}, which is not read here; "
                f"read are {', '.join([*plain, *BLOCK_TYPES])}: choose a file in one of them, such as Q3_K_S."
            )
    return tensors


def _mapped(path: Path) -> np.memmap:
    """A file's bytes. Copy on write, so that torch gets memory it may write to; the file itself never changes.

    Of a file larger than RAM and swap together Linux maps only what nobody may write to.
    """
    try:
        return np.memmap(path, mode="c")
    except OSError:
        return np.memmap(path, mode="r")


def _map_safetensors(header: Header) -> dict[str, AnyTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(header.path, framework="pt") as file:  # mapped, too
            return {entry.name: file.get_tensor(entry.name) for entry in header.entries}
    except SafetensorError as error:
        raise WanError(f"{header.path.name} is damaged: {error}; download it again.") from error
    except RuntimeError as error:  # larger than RAM and swap together
        raise WanError(
            f"{header.path.name} cannot be mapped into memory ({error}): choose a smaller file."
        ) from error


def stripped_names(names: list[str]) -> dict[str, str]:
    """Each name, and the name without the prefix under which a checkpoint keeps its transformer.

    The names of a LoRA keep theirs: it belongs to them.
    """
    prefix = re.compile(r"^(model\.)?diffusion_model\.")
    if any(_LORA_NAME.search(name) for name in names):
        return {name: name for name in names}
    return {name: prefix.sub("", name) for name in names}


# ---------------------------------------------------------------------------------------------------------
# What a file holds, told from its names and shapes alone: no config file is needed.

_LORA_NAME = re.compile(r"\.(lora_down|lora_up|lora_A|lora_B)\.(default\.)?weight$|\.diff(_b)?$")


def describe(shapes: Shapes, metadata: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Kind ("transformer", "text encoder", "vae", "lora", "clip" or "unknown") and a description of a model."""
    for kind, names, told in _KINDS:
        if all(name in shapes for name in names):
            try:
                return kind, told(shapes)
            except (IndexError, KeyError, ValueError):
                return "unknown", f"something like a {kind}, with shapes that make no sense"
    if any(_LORA_NAME.search(name) for name in shapes):
        return "lora", _describe_lora(shapes)
    if "condition_embedder.text_embedder.linear_1.weight" in shapes:
        return "unknown", "a Wan transformer under diffusers' names, where the original Wan names are read"
    if "vace_blocks.0.self_attn.q.weight" in shapes:
        return "unknown", "the VACE blocks alone, which other programs add to a text-to-video file"
    if any(name.endswith("encoder.conv_in.weight") for name in shapes):
        return "unknown", "another model's VAE, or Wan's under diffusers' names"
    architecture = (metadata or {}).get("general.architecture")
    return "unknown", "no model this kit knows" + (f" (architecture {architecture})" if architecture else "")


def _count(shapes: Shapes, pattern: str) -> int:
    """How many layers: one more than the largest number at the pattern's place among the names."""
    found = (re.match(pattern, name) for name in shapes)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _describe_transformer(shapes: Shapes) -> str:
    dim, ffn = shapes["head.modulation"][-1], shapes["blocks.0.ffn.0.weight"][0]
    layers, hints = _count(shapes, r"blocks\.(\d+)\."), _count(shapes, r"vace_blocks\.(\d+)\.")
    name = "VACE" if hints else "image-to-video" if "img_emb.proj.1.weight" in shapes else "text-to-video"
    places = [str(place) for place in range(0, layers, max(1, layers // hints))][:hints] if hints else []
    vace = f", VACE at {','.join(places)}" if hints else ""
    return f"a Wan2.1 {name} transformer: dim {dim}, {dim // 128} heads, {layers} layers, ffn {ffn}{vace}"


def _describe_text_encoder(shapes: Shapes) -> str:
    vocabulary, dim = shapes["shared.weight"]
    layers = _count(shapes, r"encoder\.block\.(\d+)\.")
    own_bias = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in shapes or layers == 1
    extras = ["scaled fp8"] if "scaled_fp8" in shapes else []
    extras += ["its SentencePiece model inside"] if "spiece_model" in shapes else []
    name = "UMT5" if own_bias else "T5"
    return f"a {name} text encoder: dim {dim}, {layers} layers, {vocabulary:,} words" + "".join(
        f", {x}" for x in extras
    )


def _describe_vae(shapes: Shapes) -> str:
    base, channels = shapes["encoder.conv1.weight"][0], shapes["decoder.conv1.weight"][1]
    return f"a Wan2.1 VAE: base dim {base}, {channels} latent channels"


def _describe_lora(shapes: Shapes) -> str:
    downs = [shape for name, shape in shapes.items() if re.search(r"\.(lora_down|lora_A)\.", name)]
    ranks = sorted({shape[0] for shape in downs if shape})
    whole = sum(bool(re.search(r"\.diff(_b)?$", name)) for name in shapes)
    beside = f", and {whole} whole differences (.diff, .diff_b)" if whole else ""
    return f"a LoRA: {len(downs)} low-rank updates of rank {', '.join(map(str, ranks)) or 'none'}{beside}"


_EXAMPLES = {
    "transformer": "Wan2.1_14B_VACE-Q3_K_S.gguf",
    "text encoder": "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "vae": "wan_2.1_vae.safetensors",
}

_KINDS = (
    (
        "transformer",
        ("head.modulation", "blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight"),
        _describe_transformer,
    ),
    (
        "text encoder",
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"),
        _describe_text_encoder,
    ),
    (
        "vae",
        ("encoder.conv1.weight", "decoder.conv1.weight", "decoder.middle.0.residual.0.gamma"),
        _describe_vae,
    ),
    (
        "clip",
        ("text_model.final_layer_norm.weight", "vision_model.post_layernorm.weight"),
        lambda shapes: "a CLIP: a text encoder and an image encoder",
    ),
)


@dataclass(frozen=True)
class FileSummary:
    """What `inspect_file` found; `str()` of it is a page to read."""

    header: Header
    kind: str
    description: str

    @property
    def parameters(self) -> int:
        return sum(entry.parameters for entry in self.header.entries)

    @property
    def bytes(self) -> int:
        """The tensors' bytes, the list at the file's start not counted."""
        return sum(entry.bytes for entry in self.header.entries)

    @property
    def bits_per_weight(self) -> float:
        """What a learned number takes in the mean; tensors that hold none are not counted."""
        weights = [entry for entry in self.header.entries if entry.parameters]
        return 8 * sum(entry.bytes for entry in weights) / max(1, self.parameters)

    @property
    def types(self) -> dict[str, tuple[int, int, int]]:
        """Type name to (tensors, parameters, bytes), the largest share first."""
        totals: dict[str, tuple[int, int, int]] = {}
        for entry in self.header.entries:
            count, parameters, size = totals.get(entry.type, (0, 0, 0))
            totals[entry.type] = (count + 1, parameters + entry.parameters, size + entry.bytes)
        return dict(sorted(totals.items(), key=lambda item: -item[1][2]))

    def __str__(self) -> str:
        return self.page()

    def page(self, *, tensors: int = 12) -> str:
        """The summary as text, with the first so many tensors."""
        entries = self.header.entries
        lines = [
            f"{self.header.path.name}: {self.description}",
            f"{self.header.format}, {_size(self.bytes)}, {len(entries):,} tensors, {self.parameters:,} parameters, "
            f"{self.bits_per_weight:.2f} bits per weight",
            *(f"  {key} = {_short(value)}" for key, value in self.header.metadata.items()),
            "",
            f"{'type':10}{'tensors':>9}{'parameters':>16}{'size':>11}{'bits each':>11}",
        ]
        for name, (count, parameters, size) in self.types.items():
            bits = f"{8 * size / parameters:.3f}" if parameters else "-"
            lines.append(f"{name:10}{count:9,}{parameters:16,}{_size(size):>11}{bits:>11}")
        first = entries[:tensors]
        if first:
            width = max(len(entry.name) for entry in first)
            lines += ["", f"the first {len(first)} tensors"]
            lines += [f"  {e.name:{width}}  {e.type:8} {' x '.join(map(str, e.shape))}" for e in first]
        return "\n".join(lines)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def _short(value: Any) -> str:
    text = f"{len(value)} values" if isinstance(value, list) and len(value) > 8 else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def inspect_file(path: str | os.PathLike[str]) -> FileSummary:
    """What is in a model file: architecture, types, sizes. Reads the list at its start, none of its tensors."""
    header = read_header(path)
    return FileSummary(header, *describe(header.shapes, header.metadata))


# ---------------------------------------------------------------------------------------------------------
# Writing


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there takes `path`'s place at the end, all at once.

    Where anything fails, `path` is as it was and the temporary file is gone.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.is_dir():
            raise WanError(f"{path} is a folder; name a file in it.")
        if path.exists() and not path.is_file():  # /dev/null would be one file less
            raise WanError(f"{path} is no ordinary file; name another.")
        if not path.parent.is_dir():
            raise WanError(
                f"{path} cannot be written: the folder {path.parent} does not exist; make it first."
            )
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # as any new file; safetensors writes for the owner alone
        os.replace(partial, path)
    except OSError as error:
        raise WanError(
            f"{path} cannot be written: {error.strerror or error}; choose another folder."
        ) from error
    finally:
        with suppress(OSError):  # a name too long for it
            partial.unlink(missing_ok=True)


def write_gguf(
    path: str | os.PathLike[str], tensors: Mapping[str, AnyTensor], *, file_type: int | None = None
) -> None:
    """Write a GGUF file whole or not at all; each tensor keeps the type and the shape it has, 5-D ones too.

    `file_type` is llama.cpp's number of the mix of types that a file is named after.
    """
    with replacing(path) as partial:
        writer = gguf.GGUFWriter(partial, "wan")
        try:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            if file_type is not None:
                writer.add_file_type(file_type)
            for name, tensor in tensors.items():
                _add_tensor(writer, name, tensor)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: AnyTensor) -> None:
    if isinstance(tensor, QuantizedTensor):
        raw = tensor.raw.cpu().contiguous().view(*tensor.shape[:-1], -1)
        writer.add_tensor(name, raw.numpy(), raw_dtype=gguf.GGMLQuantizationType[tensor.type])
        return
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy has no such type; the writer takes its bytes
        raw = tensor.view(torch.uint8)
        writer.add_tensor(name, raw.numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
    elif tensor.dtype in {**_GGUF_FLOATS, **_GGUF_INTEGERS}.values():
        writer.add_tensor(name, tensor.numpy())
    else:
        raise WanError(
            f"{name} is {tensor.dtype}, which GGUF cannot hold; widen it to float16 or float32 first."
        )


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    packed = [name for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)]
    if packed:
        raise WanError(
            f"{packed[0]} is packed in GGUF blocks, which safetensors cannot hold; use write_gguf."
        )
    with replacing(path) as partial:
        # A copy of each, as safetensors refuses tensors that share memory (a tied embedding, a slice).
        whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(whole, partial, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:  # a full disk is one of its own errors, not the system's
            raise OSError(str(error).rpartition("I/O error: ")[2]) from error
