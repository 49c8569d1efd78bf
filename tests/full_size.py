"""Stand-ins for the three real files: every name, shape and type of `fixtures/full_size.tsv`, contents made up.

`write_stand_in` fills a file with valid blocks of small random weights, tiled; with `sparse` it leaves holes, so that
a 7.8 GB file takes a few MB of disk and still reads as the real one. `PeakAnonymous` measures the memory that a
stage needs and the system cannot take back (a mapped file's pages it can).
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
import torch

from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.quantization import BLOCK_TYPES, FP8, QuantizedTensor, packed_bytes, quantize

TABLE = Path(__file__).parent / "fixtures" / "full_size.tsv"
_NUMPY = {"F32": np.float32, "F16": np.float16}
_TILE = 1 << 22  # weights in a tile


@dataclass(frozen=True)
class Row:
    """One tensor of a real file."""

    type: str
    shape: tuple[int, ...]
    name: str

    @property
    def bytes(self) -> int:
        if self.type in ("F8_E4M3", "U8"):
            return prod(self.shape)
        return packed_bytes(self.type, self.shape)


@cache
def table(role: str) -> tuple[Row, ...]:
    """The tensors of the transformer, the text_encoder or the vae."""
    parts = re.split(r"^# (\w+)\n", TABLE.read_text(), flags=re.MULTILINE)
    lines = dict(zip(parts[1::2], parts[2::2], strict=True))[role]
    return tuple(row for line in lines.splitlines() for row in _unfolded(line))


def _unfolded(line: str) -> Iterator[Row]:
    kind, shape, pattern = line.split("\t")
    size = () if shape == "scalar" else tuple(map(int, shape.split("x")))
    found = re.search(r"\[(\d+)-(\d+)\]", pattern)
    for number in range(int(found[1]), int(found[2]) + 1) if found else [0]:
        yield Row(kind, size, pattern.replace(found[0], str(number)) if found else pattern)


def write_stand_in(role: str, path: Path, *, sparse: bool = False) -> Path:
    """Write one of the files at full size; `sparse`: only what a reader looks at when it opens the file."""
    rows = [_own_tokenizer(row) for row in table(role)]
    if path.suffix == ".gguf":
        alignment = _write_gguf_header(path, rows)
    else:
        rows.sort(key=safetensors_order)
        alignment = _write_safetensors_header(path, rows)
    with path.open("r+b") as file:
        file.seek(0, 2)
        for row in rows:
            file.seek(-(-file.tell() // alignment) * alignment)
            if row.name == "spiece_model":
                file.write(_spiece())
            elif sparse and row.bytes > 1000:
                file.seek(row.bytes, 1)
            else:
                _write_tiled(file, row)
        file.truncate(-(-file.tell() // alignment) * alignment)
    return path


def _write_gguf_header(path: Path, rows: list[Row]) -> int:
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q3_K_S)
    for row in rows:
        kind = gguf.GGMLQuantizationType[row.type]
        writer.add_tensor_info(row.name, row.shape, np.dtype(np.float32), row.bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return gguf.GGUF_DEFAULT_ALIGNMENT


def _write_safetensors_header(path: Path, rows: list[Row]) -> int:
    path.write_bytes(safetensors_header(rows))
    return 1


def safetensors_header(rows: list[Row]) -> bytes:
    """The list at the start of a safetensors file, as its own library writes it: wide types first, then by name."""
    listed, end = {}, 0
    for row in rows:
        listed[row.name] = {"dtype": row.type, "shape": row.shape, "data_offsets": (end, end + row.bytes)}
        end += row.bytes
    text = json.dumps(listed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def safetensors_order(row: Row) -> tuple[int, str]:
    return ("F32", "F16", "F8_E4M3", "U8").index(row.type), row.name


def _write_tiled(file: BinaryIO, row: Row) -> None:
    content = _tile(row.type, _content(row))
    whole, rest = divmod(row.bytes, len(content))
    for _ in range(whole):
        file.write(content)
    file.write(content[:rest])


def _content(row: Row) -> str:
    if row.name.endswith(("norm.weight", "gamma")) or re.search(r"norm(_q|_k|3)\.weight$", row.name):
        return "ones"
    if row.name.endswith("scale_weight"):
        return "scale"
    if row.type in BLOCK_TYPES or row.type == "F8_E4M3" or len(row.shape) > 1:
        return "weights"
    return "small"


@cache
def _tile(kind: str, content: str) -> bytes:
    weights = torch.randn(_TILE, generator=torch.Generator().manual_seed(0)) * 0.014  # 1 / sqrt(5120)
    if content == "ones":
        weights = torch.ones(1 << 14)
    elif content == "scale":
        return np.float32(1e-3).tobytes()
    elif content == "small":
        weights = weights[: 1 << 15]
    if kind in _NUMPY:
        return weights.numpy().astype(_NUMPY[kind]).tobytes()
    if kind == "F8_E4M3":
        return (weights / 1e-3).to(FP8).view(torch.uint8).numpy().tobytes()
    return quantize(weights[: 1 << 20].view(-1, 256), kind).numpy().tobytes()


@cache
def _spiece() -> bytes:
    from wan_tutorial.files import read_tensors

    file = read_tensors(bundled_folder() / "umt5_mini_fp8_e4m3fn_scaled.safetensors")
    return file.tensors["spiece_model"].numpy().tobytes()


def _own_tokenizer(row: Row) -> Row:
    """The scale model's SentencePiece model stands in for UMT5's, which is not ours to ship."""
    return Row(row.type, (len(_spiece()),), row.name) if row.name == "spiece_model" else row


def compute_on_meta(monkeypatch) -> None:
    """Let a float32 model look at shapes alone: torch's autocast knows no device "meta", where nothing is computed."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


def stand_in_tensors(rows: list[Row]) -> dict[str, torch.Tensor | QuantizedTensor]:
    """Some of the transformer's tensors in memory, with the contents that the file has."""
    made: dict[str, torch.Tensor | QuantizedTensor] = {}
    for row in rows:
        raw = torch.from_numpy(
            np.resize(np.frombuffer(_tile(row.type, _content(row)), dtype=np.uint8), row.bytes)
        )
        packed = row.type not in _NUMPY
        dtype = torch.float16 if row.type == "F16" else torch.float32
        made[row.name] = (
            QuantizedTensor(raw, row.type, row.shape) if packed else raw.view(dtype).view(row.shape)
        )
    return made


# -------------------------------------------------------------------------------------------------- measuring


def anonymous_bytes() -> int:
    """This process's memory that lies in no file (Linux)."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


class PeakAnonymous:
    """`with PeakAnonymous() as memory: ...`; then memory.before, memory.peak and memory.after, in bytes."""

    def __enter__(self) -> "PeakAnonymous":
        self.before = self.peak = anonymous_bytes()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self.after = anonymous_bytes()
        self.peak = max(self.peak, self.after)
