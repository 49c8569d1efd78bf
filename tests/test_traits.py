"""The reader of traits: what it is shown, what it is asked, and that it learns."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wan_tutorial.errors import WanError
from wan_tutorial.mini import traits
from wan_tutorial.mini.data import VideoPool
from wan_tutorial.mini.latents import LatentPool
from wan_tutorial.mini.traits import PARTS, LatentReader, as_expected, load_reader, train_reader, trait_parts
from wan_tutorial.mini.world import TRAITS, Scene, draw_scene


def test_parts_are_eighths():
    scene = Scene(**dict(zip(TRAITS, [0.0, 0.124, 0.125, 1.0] + [0.5] * (len(TRAITS) - 4), strict=True)))
    assert trait_parts(scene)[:4].tolist() == [0, 0, 1, 7] and len(trait_parts(scene)) == len(TRAITS)


@pytest.mark.parametrize(("frames", "asked"), [(1, [0]), (2, [0, 1]), (4, [1, 2]), (9, [2, 3, 4, 5, 6])])
def test_a_mistake_is_the_mean_cross_entropy_of_every_trait_in_the_middle(frames, asked):
    torch.manual_seed(0)
    reader, latents = LatentReader(width=8).eval(), torch.randn(3, 16, frames, 12, 12)
    parts = torch.randint(PARTS, (3, len(TRAITS)))
    logits = reader(latents).detach()
    assert logits.shape == (3, frames, len(TRAITS), PARTS)
    middle = torch.stack([logits[:, frame] for frame in asked]).mean(0)
    each = [[F.cross_entropy(middle[b, k], parts[b, k]) for k in range(len(TRAITS))] for b in range(3)]
    assert torch.allclose(reader.mistake(latents, parts), torch.tensor(each).mean(1), atol=1e-5)


def test_what_a_model_expects_is_paler_softer_and_still_itself():
    torch.manual_seed(0)
    latents = torch.randn(64, 16, 2, 12, 12) + 2 * torch.randn(64, 16, 1, 1, 1)
    seen = as_expected(latents)
    assert seen.shape == latents.shape and not torch.equal(seen, latents)
    assert torch.corrcoef(torch.stack([seen.flatten(), latents.flatten()]))[0, 1] > 0.8


def test_the_reader_is_found_where_it_was_trained(tmp_path):
    with pytest.raises(WanError, match="run the stage traits, after the stage latents"):
        load_reader(tmp_path)
    pool = LatentPool(VideoPool(tmp_path, 4, frames=5, height=32, width=32))
    with pytest.raises(WanError, match="holds no latents yet: run the stage latents"):
        train_reader([pool], tmp_path, minutes=0.01)
    pool.path.write_bytes(np.random.default_rng(0).normal(size=(4, *pool.shape)).astype(np.float16).tobytes())
    reader = train_reader([pool], tmp_path, minutes=0.01, batch=8)
    again, latents = load_reader(tmp_path), torch.from_numpy(pool.read().astype(np.float32))
    assert torch.equal(reader(latents), again(latents))
    assert not any(p.requires_grad for p in again.parameters()) and not again.training


def test_the_reader_learns():
    torch.manual_seed(0)
    reader, latents = LatentReader(width=16), torch.randn(4, 16, 2, 12, 12)
    parts = torch.stack([trait_parts(draw_scene(index)) for index in range(4)])
    optimiser = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        reader.mistake(latents, parts).mean().backward()
        optimiser.step()
    assert (
        reader.eval().mistake(latents, parts).mean()
        < 1.0
        < LatentReader(width=16).mistake(latents, parts).mean()
    )


def test_the_reader_learns_to_see_what_a_latent_shows(tmp_path, monkeypatch):
    """Its frame is nearer to the one shown than the mean of all frames is, which is what a reader that saw nothing has."""
    pool = LatentPool(VideoPool(tmp_path, 8, frames=5, height=32, width=32))
    frames = torch.from_numpy(np.array(pool.videos.videos()[:, ::4])).movedim(-1, 2).float() / 127.5 - 1
    # A code that can be seen through: each cell's 8 x 8 pixels as means of quarters, and four channels of nothing.
    code = F.avg_pool2d(frames.flatten(0, 1), 4)
    code = F.pad(F.pixel_unshuffle(code, 2), (0, 0, 0, 0, 0, 4)).unflatten(0, (8, 2)).transpose(1, 2)
    pool.path.write_bytes(code.half().numpy().tobytes())

    def eighty_steps(reader, loss_of, **_):
        optimiser = torch.optim.AdamW(reader.parameters(), lr=2e-3)
        for step in range(80):
            optimiser.zero_grad()
            loss_of(step)[0].backward()
            optimiser.step()
        return reader.requires_grad_(False)

    monkeypatch.setattr(traits, "train", eighty_steps)
    reader = train_reader([pool], tmp_path, minutes=1, batch=8)
    seen = F.pixel_shuffle(reader.see(code[:, :, 1]), 4)
    assert F.mse_loss(seen, frames[:, 1]) < 0.5 * frames[:, 1].var()
