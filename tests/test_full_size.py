"""The loaders at full size: a header of the real layout in the default tests, the real bytes in `make test-full`."""

import shutil
from math import prod

import pytest
import torch
from full_size import PeakAnonymous, Row, safetensors_header, safetensors_order, table, write_stand_in

from wan_tutorial.files import inspect_file, read_tensors
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
