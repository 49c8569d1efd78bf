"""Noise: the same draw as ComfyUI and diffusers, mixing and unmixing, walking between two noises."""

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from wan_tutorial.errors import WanError
from wan_tutorial.noise import clean_guess, draw_noise, mix
from wan_tutorial.sizes import VideoSize

SIZE = VideoSize(96, 64, 9)


def test_the_draw_is_comfyuis_and_diffusers():
    noise = draw_noise(SIZE, seed=7)
    assert noise.shape == (1, 16, 3, 8, 12)
    assert noise.dtype == torch.float32
    generator = torch.Generator("cpu").manual_seed(7)
    assert torch.equal(noise, randn_tensor(noise.shape, generator=generator))
    with torch.random.fork_rng():  # ComfyUI's prepare_noise: the global generator, seeded
        assert torch.equal(noise, torch.randn(noise.shape, generator=torch.manual_seed(7), device="cpu"))


def test_drawing_repeats_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    assert torch.equal(draw_noise(SIZE, seed=3), draw_noise(SIZE, seed=3))
    assert not torch.equal(draw_noise(SIZE, seed=3), draw_noise(SIZE, seed=4))
    assert torch.equal(before, torch.random.get_rng_state())


def test_extra_frames_lengthen_the_draw():
    assert draw_noise(SIZE, seed=7, extra_frames=1).shape == (1, 16, 4, 8, 12)


def test_noise_is_standard_normal():
    noise = draw_noise(VideoSize(256, 256, 33), seed=0)
    assert noise.mean().abs() < 0.01
    assert (noise.std() - 1).abs() < 0.01


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", None, True])
def test_seeds_that_are_none(seed):
    with pytest.raises(WanError, match="A seed is a whole number from 0 to 2\\^64 - 1, not"):
        draw_noise(SIZE, seed=seed)


def test_the_largest_seed_works():
    assert draw_noise(SIZE, seed=2**64 - 1).isfinite().all()


def test_extra_frames_below_zero():
    with pytest.raises(WanError, match="0 or more, not -1"):
        draw_noise(SIZE, seed=0, extra_frames=-1)


def test_mix_runs_from_clean_to_noise_and_back():
    clean, noise = torch.randn(2, 3, 4, generator=torch.manual_seed(0)), torch.ones(2, 3, 4)
    assert torch.equal(mix(clean, noise, 0.0), clean)
    assert torch.equal(mix(clean, noise, 1.0), noise)
    latent, velocity = mix(clean, noise, 0.3), noise - clean
    torch.testing.assert_close(clean_guess(latent, velocity, 0.3), clean)


def test_mix_takes_one_time_for_each_sample():
    clean, noise = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    mixed = mix(clean, noise, torch.tensor([0.25, 0.75]))
    assert torch.equal(mixed[0], torch.full((3, 4), 0.25))
    assert torch.equal(mixed[1], torch.full((3, 4), 0.75))
