"""The VAE: names, shapes, the one-pass forward beside diffusers' chunks, statistics, tiles, errors."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from small import VAE, small_vae_state

from wan_tutorial import vae as stage
from wan_tutorial.errors import WanError
from wan_tutorial.vae import VaeShape, load_vae, new_autoencoder, to_diffusers_names, to_wan_names


@pytest.fixture(scope="module")
def vae():
    return load_vae(small_vae_state())


@pytest.mark.parametrize("res_blocks", [1, 2])
def test_names_go_there_and_back(res_blocks):
    model = new_autoencoder(VaeShape(8, res_blocks)).state_dict()
    file = to_wan_names(model)
    assert len(file) == len(model)
    back = to_diffusers_names(file)
    assert set(back) == set(model) and all(torch.equal(back[name], model[name]) for name in model)


def test_names_equal_diffusers_own_conversion():
    file = small_vae_state(VaeShape(8, 2))
    ours, theirs = to_diffusers_names(file), convert_wan_vae_to_diffusers(dict(file))
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_real_vae_has_its_194_tensors_and_known_names():
    with torch.device("meta"):
        names = to_wan_names(new_autoencoder(VaeShape()).state_dict())
    assert len(names) == 194
    # A few of the official file's, at the places where numbering through and numbering by stage differ.
    for name in (
        "encoder.downsamples.5.time_conv.weight",
        "decoder.upsamples.4.shortcut.weight",
        "decoder.upsamples.11.resample.1.weight",
        "decoder.upsamples.14.residual.6.bias",
        "decoder.middle.0.residual.0.gamma",
        "encoder.head.2.weight",
    ):
        assert name in names
    assert VaeShape.of(names) == VaeShape(96, 2)


def test_statistics_are_wans():
    defaults = AutoencoderKLWan.__init__.__wrapped__.__defaults__
    assert list(stage.LATENT_MEAN) in defaults and list(stage.LATENT_STD) in defaults


@pytest.mark.parametrize("res_blocks", [1, 2])
@pytest.mark.parametrize("frames", [1, 5, 13])
def test_one_pass_equals_diffusers_chunks(frames, res_blocks):
    model = load_vae(small_vae_state(VaeShape(8, res_blocks))).model
    generator = torch.Generator().manual_seed(frames)
    video = torch.rand(2, 3, frames, 16, 24, generator=generator) * 2 - 1
    latent = torch.randn(2, 16, (frames + 3) // 4, 2, 3, generator=generator)
    with torch.no_grad():
        naive = model.encode(video).latent_dist.parameters
        fast = stage.encode_full_length(model, video)
        assert naive.shape == (2, 32, (frames + 3) // 4, 2, 3)
        assert (naive - fast).norm() / naive.norm() < 1e-5
        naive = model.decode(latent).sample
        fast = stage.decode_full_length(model, latent).clamp(-1, 1)
        assert naive.shape == (2, 3, frames, 16, 24)
        assert (naive - fast).abs().max() < 1e-5


def test_one_pass_can_be_trained_in_bfloat16_and_channels_last():
    model = stage.channels_last(new_autoencoder(VAE))
    video = torch.rand(1, 3, 5, 16, 16).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        latent = stage.encode_full_length(model, video).chunk(2, dim=1)[0]
        loss = (stage.decode_full_length(model, latent).float() - video).abs().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_encode_normalises_and_decode_takes_it_back(vae):
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    latent = vae.encode(video)
    mean = vae.model.encode(video).latent_dist.mean
    assert latent.dtype == torch.float32 and latent.shape == (1, 16, 2, 2, 2)
    assert torch.allclose(latent * vae.std + vae.mean, mean, atol=1e-5)
    assert torch.allclose(vae.decode(latent), vae.model.decode(mean).sample, atol=1e-5)


def test_a_long_video_takes_the_chunks_with_the_same_result(vae, monkeypatch):
    latent = torch.randn(1, 16, 3, 2, 2)
    whole, encoded = vae.decode(latent), vae.encode(torch.zeros(1, 3, 5, 16, 16))
    monkeypatch.setattr(stage, "FULL_LENGTH_LIMIT", 0)
    monkeypatch.setattr(stage, "decode_full_length", None)
    monkeypatch.setattr(stage, "encode_full_length", None)
    assert torch.allclose(vae.decode(latent), whole, atol=1e-5)
    assert torch.allclose(vae.encode(torch.zeros(1, 3, 5, 16, 16)), encoded, atol=1e-5)


def test_tiles_differ_only_a_little_and_do_not_stay_on(vae):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 16, 1, 36, 36, generator=generator)  # 288 pixels: four tiles
    whole, tiled = vae.decode(latent), vae.decode(latent, tiled=True)
    assert tiled.shape == whole.shape == (1, 3, 1, 288, 288)
    assert (tiled - whole).abs().mean() < 0.1 * whole.std()
    assert torch.equal(vae.decode(latent), whole)
    pixels = (
        torch.nn.functional.avg_pool2d(torch.rand(1, 3, 288, 288, generator=generator), 9, 1, 4)[:, :, None]
        * 2
        - 1
    )
    whole, tiled = vae.encode(pixels), vae.encode(pixels, tiled=True)
    assert tiled.shape == whole.shape == (1, 16, 1, 36, 36)
    assert (tiled - whole).abs().mean() < 0.1 * whole.std()


def test_half_precision_weights_give_float32_videos():
    half = load_vae({name: tensor.half() for name, tensor in small_vae_state().items()})
    assert half.dtype == torch.float32
    video = load_vae(small_vae_state(), dtype=torch.bfloat16).decode(torch.randn(1, 16, 1, 2, 2))
    assert video.dtype == torch.float32 and video.abs().max() <= 1


def test_wrong_files_are_explained():
    state = small_vae_state()
    with pytest.raises(WanError, match="encoder.conv1.weight and conv2.weight"):
        load_vae({"blocks.0.self_attn.q.weight": torch.zeros(2, 2)})
    with pytest.raises(WanError, match="1 are not in this file .*decoder.head.2.bias"):
        load_vae({name: tensor for name, tensor in state.items() if name != "decoder.head.2.bias"})
    with pytest.raises(WanError, match="no place for 1 of this file's tensors .extra."):
        load_vae(state | {"extra": torch.zeros(1)})
    with pytest.raises(
        WanError, match=r"expects decoder.head.2.bias of shape \(3,\), but this file has \(12,\)"
    ):
        load_vae(state | {"decoder.head.2.bias": torch.zeros(12)})
    with pytest.raises(
        WanError, match="latents of 16 channels, and this one of 32: it is another model's VAE"
    ):
        load_vae(state | {"conv2.weight": torch.zeros(32, 32, 1, 1, 1)})
    with pytest.raises(WanError, match="Wan 2.2"):
        load_vae({name: tensor for name, tensor in state.items() if "resample" not in name})


def test_a_latent_that_is_no_number_is_not_shown(vae):
    with pytest.raises(WanError, match="numbers that are not finite"):
        vae.decode(torch.full((1, 16, 1, 2, 2), torch.nan))


@pytest.mark.parametrize("shape", [(6, 16, 16), (5, 12, 16), (5, 16, 20)])
def test_sizes_that_do_not_fit_are_explained(vae, shape):
    with pytest.raises(WanError, match="the nearest that fits is 5 frames of"):
        vae.encode(torch.zeros(1, 3, *shape))


def test_float16_encodes_and_what_overflows_is_encoded_once_more_exactly():
    state, video = small_vae_state(), torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    state["encoder.conv1.weight"] = state["encoder.conv1.weight"] * 1e7
    state["encoder.conv1.weight"] = state["encoder.conv1.weight"].clamp(-6e4, 6e4)
    half, exact = load_vae(state, dtype=torch.float16), load_vae(state)
    assert torch.allclose(half.encode(video), exact.encode(video), atol=0.05) and half.dtype == torch.float32


def test_float16_decodes_and_what_overflows_is_decoded_once_more_exactly():
    """A 16-bit VAE, as a T4 runs it; with a channel beyond 65504 it turns to float32 by itself."""
    state, latent = small_vae_state(), torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    half, exact = load_vae(state, dtype=torch.float16), load_vae(state)
    assert (half.decode(latent) - exact.decode(latent)).abs().max() < 0.02 and half.dtype == torch.float16
    state["decoder.conv1.weight"] = state["decoder.conv1.weight"].clone()
    state["decoder.conv1.weight"][0] *= 3e4
    state["conv2.weight"] = state["conv2.weight"] * 100
    half, exact = load_vae(state, dtype=torch.float16), load_vae(state)
    assert (
        torch.allclose(half.decode(latent), exact.decode(latent), atol=0.05) and half.dtype == torch.float32
    )
