"""Exercises of lesson 00: what size things have."""

from __future__ import annotations

from wan_tutorial.exercises.marking import Exercise, Misconception

SIZES = ((96, 96, 13), (832, 480, 81), (480, 832, 33), (1280, 720, 1), (64, 112, 5))


def latent_shape(width: int, height: int, frames: int) -> tuple[int, int, int, int]:
    """(16, k + 1, height / 8, width / 8) for 4k + 1 frames."""
    return (16, (frames - 1) // 4 + 1, height // 8, width // 8)


def squeeze(width: int, height: int, frames: int) -> float:
    """How many numbers of the video stand behind one number of the latent."""
    channels, latent_frames, rows, columns = latent_shape(width, height, frames)
    return 3 * frames * height * width / (channels * latent_frames * rows * columns)


check_latent_shape = Exercise(
    solution=latent_shape,
    inputs=lambda generator: SIZES,
    praise="16 channels, one latent frame for the first frame and one for every four after it, 8 x 8 pixels to a cell.",
    hints=(
        "The first frame is coded alone; after it, every four frames become one latent frame.",
        "So 13 frames are 1 + 4 + 4 + 4: four latent frames. And the order is channels, frames, rows, columns.",
        "(16, (frames - 1) // 4 + 1, height // 8, width // 8)",
    ),
    misconceptions=(
        Misconception(
            lambda width, height, frames: (16, frames // 4, height // 8, width // 8),
            "you divide all frames by four, so the first one is lost. It is coded alone: 13 frames are 1 + 4 + 4 + 4.",
        ),
        Misconception(
            lambda width, height, frames: (16, (frames - 1) // 4 + 1, width // 8, height // 8),
            "you put the columns before the rows. Tensors of pictures go (..., height, width); square videos hide it.",
        ),
        Misconception(
            lambda width, height, frames: (16, (frames - 1) // 4 + 1, height // 16, width // 16),
            "you divide by 16. That is a token of the transformer, 2 x 2 cells; a latent cell stands for 8 x 8 pixels.",
        ),
        Misconception(
            lambda width, height, frames: (3, (frames - 1) // 4 + 1, height // 8, width // 8),
            "you keep three channels, but a latent has no red, green and blue: it has 16 numbers in each cell.",
        ),
    ),
)

check_squeeze = Exercise(
    solution=squeeze,
    inputs=lambda generator: SIZES,
    praise="A long video comes near 48: 8 x 8 pixels by 4 frames by 3 colours become 16 numbers. A picture alone: 12.",
    hints=(
        "Count the numbers of the video, count the numbers of the latent, divide.",
        "The video has frames x height x width x 3 numbers; the latent's shape is what latent_shape gives.",
        "3 * frames * height * width / (16 * ((frames - 1) // 4 + 1) * (height // 8) * (width // 8))",
    ),
    misconceptions=(
        Misconception(
            lambda width, height, frames: squeeze(width, height, frames) / 3,
            "you count pixels, not numbers: each pixel has three, red, green and blue.",
        ),
        Misconception(
            lambda width, height, frames: squeeze(width, height, frames) * 16,
            "you count latent cells, not numbers: each cell has 16.",
        ),
        Misconception(
            lambda width, height, frames: 1 / squeeze(width, height, frames),
            "you divide the latent by the video. Asked is how many numbers of the video one of the latent stands for.",
        ),
        Misconception(
            lambda width, height, frames: 48.0,
            "48 is right in the middle of a long video, but the first frame is coded alone, and short videos feel it.",
        ),
    ),
)
