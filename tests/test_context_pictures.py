"""Lesson 08's own: the picture of 96 channels shows every one in its place, and attention is read with what is given."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from small import small_transformer_state

from wan_tutorial import taps
from wan_tutorial.reference import VaceContext, mask_channels
from wan_tutorial.show import reference, style
from wan_tutorial.transformer import build_transformer, new_transformer, start_vace_blocks


def context_of(references: int, frames: int = 5) -> VaceContext:
    generator = torch.Generator().manual_seed(3)
    latents = [
        torch.randn(1, 16, count, 4, 6, generator=generator)
        for count in (references, (frames + 3) // 4, (frames + 3) // 4)
    ]
    mask = torch.zeros(frames, 32, 48)
    mask[:, 8:24, :20] = 1
    return VaceContext(*latents, mask_channels(mask))


@pytest.mark.parametrize(("references", "frames", "columns"), [(0, 5, 2), (2, 5, 4), (1, 49, 6)])
def test_the_picture_has_three_rows_and_a_column_for_each_frame(references, frames, columns):
    figure = reference.plot_context(context_of(references, frames), title="Given")
    assert isinstance(figure, Figure) and figure.get_figwidth() <= style.WIDTH
    assert len(figure.axes) == 3 * columns
    words = figure.get_label()
    assert f"96 channels of {references + (frames + 3) // 4} latent frames, {references} of them" in words
    assert "21%" in words and style.to_array(figure, dots=60).std() > 1  # 16 x 20 of 32 x 48


def test_each_square_shows_its_own_channels():
    context = context_of(1)
    axes = reference.plot_context(context).axes  # row by row
    whole = context.tensor[0].numpy()
    for square, channels, frame in ((0, slice(0, 16), 0), (5, slice(16, 32), 2), (7, slice(32, 96), 1)):
        drawn = np.asarray(axes[square].images[0].get_array())
        expected = reference.mosaic(whole[channels, frame])
        assert np.array_equal(np.ma.filled(drawn, np.nan), expected, equal_nan=True)


def test_a_mosaic_reads_from_top_left_row_by_row():
    picture = reference.mosaic(np.arange(16.0)[:, None, None] * np.ones((1, 2, 3)))
    assert picture.shape == (4 * 3 - 1, 4 * 4 - 1)
    assert picture[::3, ::4].ravel().tolist() == list(range(16))
    assert np.isnan(picture[2]).all() and np.isnan(picture[:, 3]).all()


def test_attention_is_read_with_what_is_given():
    state = small_transformer_state()
    model = build_transformer(state)
    torch.nn.init.normal_(model.vace_blocks[0].proj_out.weight, std=0.3)
    context = context_of(1).tensor
    latent = torch.randn(1, 16, *context.shape[2:], generator=torch.Generator().manual_seed(5))
    words = torch.randn(7, 256, generator=torch.Generator().manual_seed(6))
    look = {
        strength: taps.look_inside(
            model, latent, 0.8, words, vace_context=context, vace_strength=strength
        ).frames
        for strength in (0.0, 1.0)
    }
    resting = taps.look_inside(model, latent, 0.8, words).frames
    last = max(resting)
    torch.testing.assert_close(look[0.0][last], resting[last])
    assert (look[1.0][last] - resting[last]).abs().max() > 1e-3


def test_what_is_given_comes_in_as_a_latent_does():
    """From the first step of training the copied blocks can read what stays: it is embedded as their own latent is."""
    model = new_transformer(build_transformer(small_transformer_state()).shape)
    start_vace_blocks(model)
    context = context_of(1).tensor
    mine = model.vace_blocks[0].proj_in(model.vace_patch_embedding(context).flatten(2).transpose(1, 2))
    own = model.patch_embedding(context[:, :16]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(mine, own - model.patch_embedding.bias)
