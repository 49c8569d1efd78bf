"""Model files: read without a copy, written whole or not at all, and bad ones named for what they are."""

import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from math import prod

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wan_tutorial.errors import WanError
from wan_tutorial.files import (
    describe,
    fingerprint,
    inspect_file,
    read_header,
    read_tensors,
    write_gguf,
    write_safetensors,
)
from wan_tutorial.mini.quantize import (
    FILE_TYPES,
    main,
    quantize_master,
    transformer_types,
    write_text_encoder,
    write_transformer,
)
from wan_tutorial.quantization import BLOCK_TYPES, FP8, QuantizedTensor, dequantize_fp8


def wan_shapes(dim=5120, ffn=13824, text=4096, layers=40, vace=8) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Wan2.1 VACE transformer, by default the 14B."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def block(name: str) -> None:
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"{name}.{attention}.{part}", dim, dim)
            for part in "qk":
                shapes[f"{name}.{attention}.norm_{part}.weight"] = (dim,)
        linear(f"{name}.ffn.0", ffn, dim)
        linear(f"{name}.ffn.2", dim, ffn)
        shapes[f"{name}.norm3.weight"] = shapes[f"{name}.norm3.bias"] = (dim,)
        shapes[f"{name}.modulation"] = (1, 6, dim)

    for i in range(layers):
        block(f"blocks.{i}")
    for i in range(vace):
        block(f"vace_blocks.{i}")
        linear(f"vace_blocks.{i}.after_proj", dim, dim)
    if vace:
        linear("vace_blocks.0.before_proj", dim, dim)
        shapes["vace_patch_embedding.weight"], shapes["vace_patch_embedding.bias"] = (
            (dim, 96, 1, 2, 2),
            (dim,),
        )
    shapes["patch_embedding.weight"], shapes["patch_embedding.bias"] = (dim, 16, 1, 2, 2), (dim,)
    linear("text_embedding.0", dim, text)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", dim, 256)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", 6 * dim, dim)
    linear("head.head", 64, dim)
    shapes["head.modulation"] = (1, 2, dim)
    return shapes


SMALL = wan_shapes(dim=256, ffn=512, text=256, layers=2, vace=1)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in SMALL.items()}


@pytest.fixture(scope="module")
def master(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small-F16.gguf"
    write_transformer(state, path, "F16")
    return path


@pytest.fixture(scope="module")
def packed(master):
    path = master.with_name("small-Q3_K_S.gguf")
    quantize_master(master, path, "Q3_K_S")
    return path


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory):
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "shared.weight": (40, 64),
        "encoder.embed_tokens.weight": (40, 64),
        "encoder.final_layer_norm.weight": (64,),
    }
    for i in range(2):
        block = f"encoder.block.{i}.layer"
        shapes |= {f"{block}.0.SelfAttention.{part}.weight": (64, 64) for part in "qkvo"}
        shapes |= {f"{block}.0.SelfAttention.relative_attention_bias.weight": (32, 2)}
        shapes |= {f"{block}.1.DenseReluDense.{part}.weight": (96, 64) for part in ("wi_0", "wi_1")}
        shapes |= {f"{block}.1.DenseReluDense.wo.weight": (64, 96)}
        shapes |= {f"{block}.{j}.layer_norm.weight": (64,) for j in range(2)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("text") / "umt5_small_fp8_e4m3fn_scaled.safetensors"
    write_text_encoder(state, b"not really a sentencepiece model", path)
    return path, state


# -- the formats -------------------------------------------------------------------------------------------


def test_gguf_as_gguf_itself_reads_it(packed):
    ours, reader = read_tensors(packed), gguf.GGUFReader(packed)
    assert list(ours.tensors) == [tensor.name for tensor in reader.tensors]
    for theirs in reader.tensors:
        tensor = ours.tensors[theirs.name]
        assert tuple(tensor.shape) == tuple(int(n) for n in theirs.shape[::-1])
        raw = tensor.raw if isinstance(tensor, QuantizedTensor) else tensor.view(torch.uint8)
        assert raw.numpy().tobytes() == theirs.data.tobytes()
    assert ours.metadata == {
        "general.architecture": "wan",
        "general.quantization_version": 2,
        "general.file_type": int(gguf.LlamaFileType.MOSTLY_Q3_K_S),
    }


def test_every_type_and_shape_survives_gguf(tmp_path):
    tensors = {
        "conv.weight": torch.randn(4, 3, 1, 2, 2),
        "scalar": torch.tensor(2.5),
        "half": torch.randn(3, 4).half(),
        "brain": torch.randn(3, 4).bfloat16(),
        "double": torch.randn(3).double(),
        "count": torch.arange(6).view(2, 3),
        **{name: QuantizedTensor.from_weights(torch.randn(2, 3, 256), name) for name in BLOCK_TYPES},
    }
    write_gguf(tmp_path / "all.gguf", tensors, file_type=11)
    back = read_tensors(tmp_path / "all.gguf")
    assert back.metadata["general.file_type"] == 11 and back.metadata["general.architecture"] == "wan"
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedTensor):
            assert back.tensors[name].type == name and back.tensors[name].shape == (2, 3, 256)
            assert torch.equal(back.tensors[name].raw, tensor.raw)
        else:
            assert back.tensors[name].dtype == tensor.dtype and torch.equal(back.tensors[name], tensor)


def test_safetensors_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 4), "fp8": torch.randn(4).to(FP8), "none": torch.empty(0, dtype=FP8)}
    tensors["tied"] = tensors["a"]
    write_safetensors(tmp_path / "x.safetensors", tensors, metadata={"who": "me"})
    back = read_tensors(tmp_path / "x.safetensors")
    assert back.metadata == {"who": "me"}
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype == tensor.dtype and back.tensors[name].shape == tensor.shape
        assert torch.equal(back.tensors[name].float(), tensor.float())


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_opening_a_large_file_takes_no_memory(tmp_path, suffix):
    path = tmp_path / f"large.{suffix}"
    write = write_gguf if suffix == "gguf" else write_safetensors
    write(path, {"big": torch.ones(16_000_000)})
    psutil = pytest.importorskip("psutil")
    before = psutil.Process().memory_info().rss
    tensor = read_tensors(path).tensors["big"]
    assert psutil.Process().memory_info().rss - before < 20e6  # of 64 MB
    assert float(tensor[-1]) == 1
    tensor[0] = 5  # a page of our own; the file does not change
    assert float(read_tensors(path).tensors["big"][0]) == 1


def test_a_file_larger_than_memory_is_mapped_to_be_read_only(packed, monkeypatch):
    """Linux refuses a map that could be written to and has no room for it."""
    usual, mapped = read_tensors(packed).tensors, np.memmap

    def refused(path, mode):
        if mode == "c":
            raise OSError(12, "Cannot allocate memory")
        return mapped(path, mode=mode)

    monkeypatch.setattr(np, "memmap", refused)
    for name, tensor in read_tensors(packed).tensors.items():
        same = usual[name]
        raw = [t.raw if isinstance(t, QuantizedTensor) else t for t in (tensor, same)]
        assert torch.equal(*raw)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_checkpoint_prefixes_are_taken_off(tmp_path, prefix):
    names = ["head.modulation", "blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight"]
    write_safetensors(tmp_path / "x.safetensors", {prefix + name: torch.ones(1, 2, 256) for name in names})
    found = read_tensors(tmp_path / "x.safetensors")
    assert list(found.tensors) == sorted(names) and found.kind == "transformer"


def test_a_lora_keeps_its_prefix(tmp_path):
    names = [
        "diffusion_model.blocks.0.ffn.0.lora_down.weight",
        "diffusion_model.blocks.0.ffn.0.lora_up.weight",
    ]
    names.append("diffusion_model.blocks.0.norm3.diff_b")
    write_safetensors(tmp_path / "x.safetensors", {name: torch.ones(4, 4) for name in names})
    found = read_tensors(tmp_path / "x.safetensors")
    assert list(found.tensors) == sorted(names)
    assert (found.kind, found.description) == (
        "lora",
        "a LoRA: 1 low-rank updates of rank 4, and 1 whole differences (.diff, .diff_b)",
    )


# -- what is in a file -------------------------------------------------------------------------------------


def test_inspection_of_a_transformer(packed):
    summary = inspect_file(packed)
    assert summary.kind == "transformer"
    assert summary.description == "a Wan2.1 VACE transformer: dim 256, 2 heads, 2 layers, ffn 512, VACE at 0"
    assert summary.parameters == sum(prod(shape) for shape in SMALL.values())
    assert summary.types["Q3_K"][0] == 32 and summary.types["F16"][0] == 6
    page = str(summary)
    assert "Q3_K" in page and "3.438" in page and "general.file_type = 11" in page
    assert "blocks.0.self_attn.q.weight" in page and "256 x 256" in page
    assert "blocks.0" not in summary.page(tensors=0)


def test_the_real_models_are_recognised():
    assert describe(wan_shapes())[1] == (
        "a Wan2.1 VACE transformer: dim 5120, 40 heads, 40 layers, ffn 13824, VACE at 0,5,10,15,20,25,30,35"
    )
    assert describe(wan_shapes(1536, 8960, layers=30, vace=0))[1] == (
        "a Wan2.1 text-to-video transformer: dim 1536, 12 heads, 30 layers, ffn 8960"
    )
    vae = {"encoder.conv1.weight": (96, 3, 3, 3, 3), "decoder.conv1.weight": (384, 16, 3, 3, 3)}
    assert describe(vae | {"decoder.middle.0.residual.0.gamma": (384, 1, 1, 1)}) == (
        "vae",
        "a Wan2.1 VAE: base dim 96, 16 latent channels",
    )
    assert describe({"x": (1,)}, {"general.architecture": "flux"}) == (
        "unknown",
        "no model this kit knows (architecture flux)",
    )
    assert describe(dict.fromkeys(wan_shapes(), ()))[0] == "unknown"


def test_the_wrong_model_is_named(packed):
    with pytest.raises(
        WanError,
        match=r"small-Q3_K_S.gguf holds a Wan2.1 VACE transformer.*a vae file is needed here, such as wan_2.1_vae",
    ):
        read_tensors(packed).require("vae")
    assert "the VACE blocks alone" in describe({"vace_blocks.0.self_attn.q.weight": (1,)})[1]
    for name in ("encoder.conv_in.weight", "first_stage_model.encoder.conv_in.weight"):
        assert describe({name: (1,)})[1] == "another model's VAE, or Wan's under diffusers' names"
    senseless = {"encoder.block.0.layer.0.SelfAttention.q.weight": (1, 1), "shared.weight": (5,)}
    assert describe(senseless)[1] == "something like a text encoder, with shapes that make no sense"


# -- bad files: each gets one sentence ---------------------------------------------------------------------


def test_missing_files(master, tmp_path):
    with pytest.raises(WanError, match="nearest name in that folder is small-F16.gguf"):
        read_tensors(master.with_name("smal-f16.gguf"))
    with pytest.raises(WanError, match="folder .*nowhere does not exist"):
        read_tensors(tmp_path / "nowhere" / "x.gguf")
    with pytest.raises(WanError, match="is a folder"):
        read_tensors(tmp_path)
    with pytest.raises(WanError, match="nothing there has a name like it"):
        read_tensors(tmp_path / "x.gguf")


def test_foreign_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("data.pkl", "")
    foreign = {
        "model.ckpt": (b"\x80\x02}q\x00.", "PyTorch pickle"),
        "empty.gguf": (b"", "it is empty"),
        "page.gguf": (b"<!DOCTYPE html><html>login</html>", "web page"),
        "pointer.gguf": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        "photo.png": (b"\x89PNG\r\n\x1a\n", "it begins with"),
    }
    for name, (content, _) in foreign.items():
        (tmp_path / name).write_bytes(content)
    for name, words in {
        "model.pt": "PyTorch pickle",
        **{n: words for n, (_, words) in foreign.items()},
    }.items():
        with pytest.raises(WanError, match=f"{name} is not a GGUF or safetensors file: .*{words}"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("which", ["gguf", "safetensors"])
def test_truncated_files_say_what_is_missing(which, packed, text_encoder, tmp_path):
    whole = (packed if which == "gguf" else text_encoder[0]).read_bytes()
    path = tmp_path / f"cut.{which}"
    path.write_bytes(whole[:-1000])
    with pytest.raises(
        WanError, match=f"cut short: .* the file has {len(whole) - 1000:,}, .* missing; download"
    ):
        read_tensors(path)
    for length in {*range(9, 400, 13), 2000}:  # inside the header
        path.write_bytes(whole[:length])
        with pytest.raises(WanError, match=r"download it again|begins with"):
            read_tensors(path)


def test_damaged_headers_end_in_a_sentence_and_never_hang(packed, text_encoder, tmp_path):
    """A byte at the start of a file overwritten, each in turn: the file is read, or refused in one sentence."""
    for source in (packed, text_encoder[0]):
        whole = source.read_bytes()
        path = tmp_path / f"damaged{source.suffix}"
        refused = 0
        for at in (*range(150), *range(150, 600, 9)):
            path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
            try:
                read_tensors(path)
            except WanError as error:
                refused += 1
                assert "\n" not in str(error)
        assert refused > 50


def gguf_with(tmp_path, *, type_number=0, shape=(4,), offset=0, metadata=b"", values=0, copies=1):
    """A hand-made GGUF with one tensor, to be wrong in one way."""
    entry = struct.pack("<Q1sI", 1, b"x", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
    entry += struct.pack("<IQ", type_number, offset)
    head = struct.pack("<4sIQQ", b"GGUF", 3, copies, values) + metadata + copies * entry
    path = tmp_path / "made.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(4096))
    return path


def test_what_is_no_ordinary_file_is_neither_waited_for_nor_replaced(tmp_path):
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(WanError, match="is no ordinary file; name a .gguf"):
        read_header(pipe)
    with pytest.raises(WanError, match="is no ordinary file; name another"):
        write_safetensors(pipe, {"a": torch.ones(2)})
    assert pipe.is_fifo()
    long = tmp_path / ("n" * 240 + ".safetensors")
    with pytest.raises(WanError, match="cannot be written: File name too long"):
        write_safetensors(long, {"a": torch.ones(2)})


def test_numbers_that_no_header_holds_are_damage(tmp_path):
    for line in ('{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}',
                 '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}'):  # fmt: skip
        (tmp_path / "a.safetensors").write_bytes(len(line).to_bytes(8, "little") + line.encode() + bytes(4))
        with pytest.raises(WanError, match="is damaged: its header cannot be read"):
            read_header(tmp_path / "a.safetensors")


def test_damaged_gguf_is_named(tmp_path):
    assert read_tensors(gguf_with(tmp_path)).tensors["x"].shape == (4,)
    endless = struct.pack(
        "<Q1sIIQ", 1, b"k", 9, 0, 2**60
    )  # an array of 2^60 bytes, over which GGUFReader runs out of memory
    for wrong, words in (
        (dict(type_number=4711), "type number 4711"),
        (
            dict(type_number=16, shape=(256,)),
            "is of type IQ2_XXS, which is not read here; read are F64.* choose a file in one of them",
        ),
        (dict(type_number=11, shape=(100,)), r"\(100,\) cannot be Q3_K"),
        (dict(shape=(2**40, 2**40)), "cut short"),
        (dict(shape=(1,) * 9), "9 dimensions"),
        (dict(offset=3), "32-byte grid"),
        (dict(copies=2), "lists x twice"),
        (dict(metadata=endless, values=1), "asks for 1,152,921,504,606,846,976 bytes"),
        (dict(values=2**60), "cut short or damaged"),
    ):
        with pytest.raises(WanError, match=words):
            read_tensors(gguf_with(tmp_path, **wrong))
    path = gguf_with(tmp_path)
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + path.read_bytes()[8:])
    with pytest.raises(WanError, match="version 50331648; versions 2 and 3.* choose a newer"):
        read_tensors(path)


def test_damaged_safetensors_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    for header, words in (
        (b'{"a": ', "header cannot be read"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "does not fit in its 4 bytes"),
        (
            b'{"a": {"dtype": "F3", "shape": [2], "data_offsets": [0, 8]}}',
            "x.safetensors: a is of type 'F3'; known are BF16.* choose",
        ),
        (b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}', "4 are missing"),
        (b'{"a": 3}', "header cannot be read"),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
        with pytest.raises(WanError, match=words):
            read_header(path)


# -- writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_gguf, write_safetensors])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(write, tmp_path):
    path = tmp_path / "model"
    path.write_text("old")
    with pytest.raises(Exception):  # noqa: B017 (whatever the writer says of it)
        write(path, {"fine": torch.ones(2), "wrong": "no tensor"})
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["model"]
    with pytest.raises(WanError, match="folder .*nowhere does not exist"):
        write(tmp_path / "nowhere" / "x", {})
    with pytest.raises(WanError, match="is a folder"):
        write(tmp_path, {})


@pytest.mark.parametrize("write", [write_gguf, write_safetensors])
def test_a_full_disk_is_said_in_a_sentence(write, tmp_path):
    """A process of its own, whose files may have 100 kB: the writers' own errors are not all the system's."""
    code = f"""
import resource, signal, sys, torch
from wan_tutorial.errors import WanError
from wan_tutorial.files import {write.__name__}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    {write.__name__}(sys.argv[1], {{"x": torch.ones(200_000)}})
except WanError as error:
    print(error)
"""
    path = tmp_path / "model"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert f"{path} cannot be written: " in done.stdout and "choose another folder" in done.stdout, (
        done.stderr
    )
    assert not os.listdir(tmp_path)


def test_what_a_format_cannot_hold_is_said(tmp_path):
    with pytest.raises(WanError, match="a is torch.float8_e4m3fn, which GGUF cannot hold"):
        write_gguf(tmp_path / "x.gguf", {"a": torch.ones(2).to(FP8)})
    packed = QuantizedTensor.from_weights(torch.ones(1, 256), "Q3_K")
    with pytest.raises(WanError, match="a is packed in GGUF blocks, which safetensors cannot hold"):
        write_safetensors(tmp_path / "x.safetensors", {"a": packed})
    assert not os.listdir(tmp_path)


# -- the shipped files: which tensor gets which type -------------------------------------------------------

# GB of the published Wan2.1-VACE-14B files (QuantStack), from the rules of the converter that made them.
PUBLISHED = {
    "Q2_K": 6.36, "Q3_K_S": 7.84, "Q3_K_M": 8.64, "Q4_0": 10.33, "Q4_K_S": 10.55, "Q4_K_M": 11.64, "Q5_0": 12.46,
    "Q5_K_S": 12.25, "Q5_K_M": 13.04, "Q6_K": 14.52, "Q8_0": 18.66, "F16": 34.69,
}  # fmt: skip


@pytest.mark.parametrize("file_type", PUBLISHED)
def test_sizes_of_the_14b_files(file_type):
    shapes = wan_shapes()
    types = transformer_types(shapes, file_type)
    sizes = gguf.GGML_QUANT_SIZES
    total = 0
    for name, shape in shapes.items():
        weights, size = sizes[gguf.GGMLQuantizationType[types[name]]]
        total += prod(shape) // weights * size
    assert total / 1e9 == pytest.approx(PUBLISHED[file_type], abs=0.011)


def test_types_of_the_14b_q3_k_s():
    shapes = wan_shapes()
    types = transformer_types(shapes, "Q3_K_S")
    assert len(types) == 1331 and sum(prod(shape) for shape in shapes.values()) == 17_337_592_896
    counts = {name: list(types.values()).count(name) for name in ("F32", "Q3_K", "F16")}
    assert counts == {"F32": 836, "Q3_K": 489, "F16": 6}
    assert types["vace_patch_embedding.weight"] == types["blocks.3.modulation"] == "F32"
    assert types["head.head.weight"] == types["time_projection.1.weight"] == "F16"
    assert types["vace_blocks.0.before_proj.weight"] == types["blocks.7.ffn.2.weight"] == "Q3_K"


def test_rows_that_fill_no_blocks_stay_half():
    types = transformer_types({"blocks.0.ffn.2.weight": (256, 320)}, "Q3_K_S")
    assert types == {"blocks.0.ffn.2.weight": "F16"}
    assert transformer_types({"blocks.0.ffn.2.weight": (256, 320)}, "Q8_0") == {
        "blocks.0.ffn.2.weight": "Q8_0"
    }


def test_master_holds_the_weights_in_half(state, master):
    found = read_tensors(master).tensors
    assert found.keys() == state.keys()
    for name, weights in state.items():
        assert found[name].shape == weights.shape
        wanted = torch.float16 if transformer_types(SMALL, "F16")[name] == "F16" else torch.float32
        assert found[name].dtype == wanted and torch.equal(found[name], weights.to(wanted))


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_every_file_type_is_made_from_the_master(master, tmp_path, file_type, capsys):
    out = tmp_path / "x.gguf"
    assert main([str(master), "--type", file_type, "--out", str(out)]) == 0
    assert "a Wan2.1 VACE transformer" in capsys.readouterr().out
    found, types = read_tensors(out), transformer_types(SMALL, file_type)
    assert found.metadata["general.file_type"] == gguf.LlamaFileType["MOSTLY_" + file_type]
    weights = read_tensors(master).tensors
    for name, tensor in found.tensors.items():
        if isinstance(tensor, QuantizedTensor):
            assert tensor.type == types[name]
            error = (tensor.dequantize() - weights[name]).square().mean().sqrt() / weights[name].float().std()
            assert (
                error < {"2": 0.30, "3": 0.152, "4": 0.09, "5": 0.044, "6": 0.018, "8": 0.006}[tensor.type[1]]
            )
        else:
            assert torch.equal(tensor, weights[name])


def test_the_command_speaks_plainly(master, packed, capsys):
    before = sorted(os.listdir(master.parent))
    assert main([str(master), "--type", "Q3_XS"]) == 2
    assert "'Q3_XS' is not a file type; the nearest is Q3_K_S" in capsys.readouterr().err
    assert main([str(packed), "--type", "Q2_K"]) == 2
    assert "quantised already (Q3_K); start from the F16 master" in capsys.readouterr().err
    assert main([str(master), "--type", "Q4_K", "--out", str(master.parent / "no" / "x.gguf")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert sorted(os.listdir(master.parent)) == before


def test_text_encoder_file(text_encoder):
    path, state = text_encoder
    found = load_file(path)  # safetensors' own reader
    assert found["scaled_fp8"].dtype == FP8 and found["scaled_fp8"].numel() == 0
    assert bytes(found["spiece_model"].numpy()) == b"not really a sentencepiece model"
    assert found["shared.weight"].dtype == torch.float16 and "encoder.embed_tokens.weight" not in found
    scaled = [name for name in found if name.endswith(".scale_weight")]
    assert len(scaled) == 2 * 7
    for name in scaled:
        weight = name.replace(".scale_weight", ".weight")
        assert found[name].dtype == torch.float32 and found[name].shape == ()
        assert found[weight].dtype == FP8
        back = dequantize_fp8(found[weight], found[name])
        assert float((back - state[weight]).square().mean().sqrt()) < 0.03
    assert inspect_file(path).description == (
        "a UMT5 text encoder: dim 64, 2 layers, 40 words, scaled fp8, its SentencePiece model inside"
    )
    with pytest.raises(WanError, match="SentencePiece model is empty"):
        write_text_encoder(state, b"", path)


def test_only_learned_numbers_are_counted(text_encoder):
    """The tokenizer's bytes and the scales of the fp8 matrices are no parameters, and not in the bits of one."""
    path, state = text_encoder
    summary = inspect_file(path)
    learned = {name: tensor for name, tensor in state.items() if name != "encoder.embed_tokens.weight"}
    assert summary.parameters == sum(tensor.numel() for tensor in learned.values())
    bits = sum(tensor.numel() * (8 if re.search(r"\.(q|k|v|o|wi_0|wi_1|wo)\.weight$", name) else 16)
               for name, tensor in learned.items())  # fmt: skip
    assert summary.bits_per_weight == bits / summary.parameters
    assert [line.split()[-1] for line in str(summary).splitlines() if line.startswith("U8 ")] == ["-"]


def test_numpy_scalars_of_a_file_are_plain(packed):
    assert all(type(n) is int for entry in read_header(packed).entries for n in entry.shape)
    assert not isinstance(read_tensors(packed).metadata["general.file_type"], np.generic)


def test_a_fingerprint_knows_contents_and_not_names(tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    weights = torch.randn(3_000_000, generator=torch.Generator().manual_seed(0))
    write_safetensors(one, {"weight": weights})
    write_safetensors(other, {"weight": weights})
    assert fingerprint(one) == fingerprint(other)
    write_safetensors(other, {"weight": weights + 1e-3})  # trained on a little
    assert fingerprint(one) != fingerprint(other)
    write_safetensors(other, {"weight": torch.cat([weights, weights[:1]])})
    assert fingerprint(one) != fingerprint(other)
    with pytest.raises(WanError, match="There is no file"):
        fingerprint(tmp_path / "none.gguf")


def test_a_fingerprint_reads_little_of_a_large_file(tmp_path):
    large = tmp_path / "large.gguf"
    with large.open("wb") as file:
        file.truncate(8 * 10**9)  # a hole: it takes no room on the disk
    began = time.perf_counter()
    fingerprint(large)
    assert time.perf_counter() - began < 1
