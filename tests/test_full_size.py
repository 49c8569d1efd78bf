"""The loaders at full size: a header of the real layout in the default tests, the real bytes in `make test-full`."""

import shutil
from math import prod

import pytest
import torch
from full_size import (
    PeakAnonymous,
    Row,
    compute_on_meta,
    safetensors_header,
    safetensors_order,
    stand_in_tensors,
    table,
    write_stand_in,
)

from wan_tutorial.errors import WanError
from wan_tutorial.files import inspect_file, read_tensors
from wan_tutorial.lora import Change, Lora
from wan_tutorial.quantization import QuantizedLinear, packed_linears
from wan_tutorial.reference import encode_context, read_given
from wan_tutorial.sizes import VideoSize
from wan_tutorial.text import load_text_encoder
from wan_tutorial.transformer import build_transformer
from wan_tutorial.vae import load_vae

FILES = {
    "transformer": "Wan2.1_14B_VACE-Q3_K_S.gguf",
    "text_encoder": "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "vae": "wan_2.1_vae.safetensors",
}
GIGABYTE = 10**9


def test_the_table_has_the_published_figures():
    rows = table("transformer")
    assert len(rows) == 1331 and sum(prod(row.shape) for row in rows) == 17_337_592_896
    types = [row.type for row in rows]
    assert (types.count("F32"), types.count("Q3_K"), types.count("F16")) == (836, 489, 6)
    text = sorted(table("text_encoder"), key=safetensors_order)
    size = len(safetensors_header(text)) + sum(row.bytes for row in text)
    assert size == 6_735_906_897, "the file's published size, to the byte"
    assert len([row for row in text if row.type == "F8_E4M3"]) == 1 + 168


def test_every_tensor_of_the_real_layout_finds_its_place(tmp_path):
    """A 7.8 GB file with holes for contents, built onto the device "meta", where nothing is computed."""
    path = write_stand_in("transformer", tmp_path / FILES["transformer"], sparse=True)
    assert 7.84 <= path.stat().st_size / GIGABYTE < 7.85
    summary = inspect_file(path)
    assert summary.parameters == 17_337_592_896 and "dim 5120, 40 heads, 40 layers" in summary.description
    model = build_transformer(read_tensors(path).require("transformer").tensors, device="meta")
    placed = model.state_dict_wan_names()
    assert {name: tuple(tensor.shape) for name, tensor in placed.items()} == {
        row.name: row.shape for row in table("transformer")
    }
    assert model.shape.vace_layers == (0, 5, 10, 15, 20, 25, 30, 35)


def test_text_encoder_and_vae_of_the_real_layout_find_their_places(tmp_path):
    path = write_stand_in("text_encoder", tmp_path / FILES["text_encoder"], sparse=True)
    encoder = load_text_encoder(read_tensors(path).require("text encoder").tensors, device="meta")
    assert encoder.dim == 4096 and len(encoder.model.encoder.block) == 24
    path = write_stand_in("vae", tmp_path / FILES["vae"], sparse=True)
    file = read_tensors(path).require("vae")
    assert len(file.tensors) == 194 and "base dim 96" in file.description


def causvid(shapes: dict[str, tuple[int, ...]]) -> Lora:
    """The whole key set of the first CausVid file, as numbers that take no memory: low-rank updates of every linear layer of
    the main blocks and around them, whole differences of every norm, bias and of the patches."""
    changes, keys = {}, {}
    for name, shape in shapes.items():
        layer, _, own = name.rpartition(".")
        if own != "weight" or layer.startswith("vace_"):
            continue
        bias = torch.zeros(1).expand(shape[0]) if f"{layer}.bias" in shapes else None
        if len(shape) == 2:
            down, up = torch.zeros(1).expand(32, shape[1]), torch.zeros(1).expand(shape[0], 32)
            changes[layer] = Change(down=down, up=up, bias=bias)
        else:
            changes[layer] = Change(weight=torch.zeros(1).expand(shape), bias=bias)
        keys[layer] = tuple(f"diffusion_model.{layer}.{part}" for part in changes[layer].tensors())
    return Lora("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", changes, keys)


class CountingVae:
    """A VAE by its shapes alone; remembers how many frames it was asked to encode."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, video: torch.Tensor, *, tiled: bool = False) -> torch.Tensor:
        _, _, frames, height, width = video.shape
        self.asked.append(frames)
        return torch.zeros(1, 16, (frames + 3) // 4, height // 8, width // 8)


def test_lora_reference_and_visiting_blocks_at_full_size(tmp_path, monkeypatch):
    """The 14B layout at 832x480x33 with CausVid and a reference: blocks rest in the file, and compute on "meta"."""
    path = write_stand_in("transformer", tmp_path / FILES["transformer"], sparse=True)
    tensors = read_tensors(path).require("transformer").tensors
    model = build_transformer(tensors, device="meta", blocks_in_ram=True)
    homes = {name.split(".")[0]: tensor.device.type for name, tensor in model.state_dict().items()}
    assert homes.pop("blocks") == homes.pop("vace_blocks") == "cpu" and set(homes.values()) == {"meta"}

    lora = causvid({row.name: row.shape for row in table("transformer")})
    applied = lora.apply_to(model, 0.3)
    assert set(applied.fit.used) == {key for keys in lora.keys.values() for key in keys}
    assert len(applied.fit.used) == 40 * (10 * 3 + 6) + 6 * 3 + 2 and not applied.fit.unused
    assert all(layer.widened is None for layer in packed_linears(model))  # the weights stay packed
    assert model.blocks[7].attn1.to_q.updates and not model.vace_blocks[0].attn1.to_q.updates

    size, vae = VideoSize(832, 480, 33), CountingVae()
    picture = torch.zeros(480, 832, 3)
    context = encode_context(vae, read_given(size, reference=picture))
    assert vae.asked == [33, 1]  # the grey clip once, the reference once
    assert context.tensor.shape == (1, 96, 10, 60, 104)
    noise = torch.empty(1, 16, 10, 60, 104, device="meta")
    shapes = []

    def unpacked(layer: QuantizedLinear, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        shapes.append(layer.raw.device.type)
        return torch.empty(layer.out_features, layer.in_features, dtype=dtype, device=layer.raw.device)

    monkeypatch.setattr(QuantizedLinear, "dequantize", unpacked)
    compute_on_meta(monkeypatch)
    with torch.no_grad():
        velocity = model(
            noise,
            torch.empty(1, device="meta"),
            torch.empty(1, 512, 4096, device="meta"),
            vace_context=context.tensor.to("meta"),
        )
    assert velocity.shape == noise.shape and context.trim(velocity).shape == (1, 16, 9, 60, 104)
    assert shapes == ["meta"] * 489  # each packed matrix came to the device, once


def test_a_row_counts_its_bytes():
    assert Row("Q3_K", (2, 256), "x").bytes == 220 and Row("F32", (), "x").bytes == 4


# ---------------------------------------------------------------------------------------- the real bytes, in minutes


def room(folder, gigabytes: float) -> None:
    free = shutil.disk_usage(folder).free / GIGABYTE
    if free < gigabytes + 1:
        pytest.skip(f"needs {gigabytes:.0f} GB of disk, {free:.0f} are free")


@pytest.mark.full
def test_the_whole_transformer_loads_without_a_second_copy_and_looks_once(tmp_path, capsys):
    room(tmp_path, 8)
    path = write_stand_in("transformer", tmp_path / FILES["transformer"])
    with PeakAnonymous() as loading:
        model = build_transformer(read_tensors(path).require("transformer").tensors)
    generator = torch.Generator().manual_seed(0)
    with PeakAnonymous() as looking, torch.no_grad():
        velocity = model(
            torch.randn(1, 16, 1, 8, 8, generator=generator),
            torch.tensor([900.0]),
            torch.randn(1, 512, 4096, generator=generator),
            vace_context=torch.randn(1, 96, 1, 8, 8, generator=generator),
        )
    with capsys.disabled():
        print(
            f"\nloading: {(loading.after - loading.before) / 1e9:.2f} GB stay resident, peak "
            f"{(loading.peak - loading.after) / 1e9:.2f} over it; one look at 64x64x1: peak {looking.peak / 1e9:.2f} GB"
        )
    assert velocity.shape == (1, 16, 1, 8, 8) and velocity.isfinite().all()
    assert loading.peak - loading.after < 1.5 * GIGABYTE


@pytest.mark.full
def test_float16_at_full_width_survives_outliers_and_names_what_it_cannot():
    """One main and one VACE block of the real width, with channels far beyond 65504 in the residual stream."""
    rows = [row for row in table("transformer") if "blocks." not in row.name or "blocks.0." in row.name]
    state = stand_in_tensors(rows)
    state["patch_embedding.bias"] = state["patch_embedding.bias"].clone()
    state["patch_embedding.bias"][[3, 1000, 5000]] = torch.tensor([3e5, -2e5, 9e4])
    generator = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(1, 16, 1, 8, 8, generator=generator),
        torch.tensor([900.0]),
        torch.randn(1, 12, 4096, generator=generator),
    )
    context = torch.randn(1, 96, 1, 8, 8, generator=generator)
    answers = {}
    for dtype in (torch.float32, torch.float16):
        with torch.no_grad():
            answers[dtype] = build_transformer(state, compute_dtype=dtype)(*inputs, vace_context=context)
    exact, half = answers.values()
    assert half.isfinite().all() and (half - exact).norm() / exact.norm() < 0.01
    state["text_embedding.2.bias"] = torch.full((5120,), 1e6)
    with (
        torch.no_grad(),
        pytest.raises(WanError, match="^text_embedding.2 gives numbers that float16 cannot hold"),
    ):
        build_transformer(state, compute_dtype=torch.float16)(*inputs, vace_context=context)


@pytest.mark.full
def test_the_whole_text_encoder_reads_two_prompts_in_little_memory(tmp_path, capsys):
    room(tmp_path, 7)
    path = write_stand_in("text_encoder", tmp_path / FILES["text_encoder"])
    with PeakAnonymous() as memory:
        encoder = load_text_encoder(read_tensors(path).require("text encoder").tensors)
        encoded = [encoder.encode(prompt) for prompt in ("a sword in the burning wood", "blurry")]
    with capsys.disabled():
        print(f"\ntext stage: peak {(memory.peak - memory.before) / 1e9:.2f} GB of anonymous memory")
    assert all(one.embedding.shape == (512, 4096) and one.embedding.isfinite().all() for one in encoded)
    assert memory.peak < 9 * GIGABYTE


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_vae_decodes(tmp_path, dtype):
    path = write_stand_in("vae", tmp_path / FILES["vae"])
    vae = load_vae(read_tensors(path).require("vae").tensors, dtype=dtype)
    assert vae.decode(torch.randn(1, 16, 2, 8, 8)).isfinite().all()
