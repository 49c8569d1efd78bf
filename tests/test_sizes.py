"""VideoSize: derived shapes against Wan's own numbers, and errors that name the nearest valid size."""

import pytest

from wan_tutorial.errors import WanError
from wan_tutorial.sizes import VideoSize, nearest_frames, nearest_pixels


@pytest.mark.parametrize(
    ("size", "shape", "tokens"),
    [
        (VideoSize(), (1, 16, 4, 12, 12), 144),
        (VideoSize(832, 480, 81), (1, 16, 21, 60, 104), 32_760),  # Wan's 480p: 75,600 at 720p, 32,760 here
        (VideoSize(1280, 720, 81), (1, 16, 21, 90, 160), 75_600),
        (VideoSize(64, 32, 1), (1, 16, 1, 4, 8), 8),
    ],
)
def test_shapes_follow_from_the_size(size, shape, tokens):
    assert size.latent_shape == shape
    assert (size.latent_frames, size.latent_height, size.latent_width) == shape[2:]
    assert size.tokens == tokens
    assert VideoSize.parse(str(size)) == size


@pytest.mark.parametrize(
    ("width", "height", "frames", "sentence"),
    [
        (100, 96, 13, "The width of a video must be a multiple of 16 pixels, not 100: the nearest is 96."),
        (96, 0, 13, "The height of a video must be a multiple of 16 pixels, not 0: the nearest is 16."),
        (96, -32, 13, "The height of a video must be a multiple of 16 pixels, not -32: the nearest is 16."),
        (96, 96, 12, "The frames of a video must be 4k + 1 (1, 5, 9, 13, ...), not 12: the nearest is 13."),
        (96, 96, 0, "The frames of a video must be 4k + 1 (1, 5, 9, 13, ...), not 0: the nearest is 1."),
        (96.0, 96, 13, "The width of a video must be a whole number, not 96.0."),
        (96, True, 13, "The height of a video must be a whole number, not True."),
    ],
)
def test_a_size_wan_cannot_make_names_the_nearest(width, height, frames, sentence):
    with pytest.raises(WanError) as error:
        VideoSize(width, height, frames)
    assert str(error.value) == sentence


@pytest.mark.parametrize("text", ["96x96", "96x96x13x1", "wide", "96 by 96", "96x-96x13", ""])
def test_unreadable_sizes_show_how_to_write_one(text):
    with pytest.raises(WanError, match="WIDTHxHEIGHTxFRAMES, three whole numbers such as 96x96x13"):
        VideoSize.parse(text)


def test_the_nearest_is_valid_and_none_is_nearer():
    pixels, frames = range(16, 400, 16), range(1, 100, 4)
    for value in range(1, 300):
        assert abs(nearest_pixels(value) - value) == min(abs(valid - value) for valid in pixels)
    for value in range(90):
        assert abs(nearest_frames(value) - value) == min(abs(valid - value) for valid in frames)
