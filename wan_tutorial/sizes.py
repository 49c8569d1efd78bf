"""The size of a video, and every other size that follows from it.

Stands before the first stage: everything that has a shape asks here. In: width, height and frames, as a
person says them. Out: the shape of the latent and the number of tokens. Corresponds to the
width/height/length fields of ComfyUI's `WanVaceToVideo` and the checks in diffusers' `WanVACEPipeline`.
"""

from __future__ import annotations

from dataclasses import dataclass

from wan_tutorial.errors import WanError

LATENT_CHANNELS = 16  # numbers the VAE keeps per latent cell
VAE_SPACE = 8  # pixels per latent cell, in width and in height
VAE_TIME = 4  # frames per latent frame, after the first, which is coded alone: 4k + 1 frames -> k + 1
PATCH = 2  # latent cells per token, in width and in height; 1 in time
PIXEL_STEP = VAE_SPACE * PATCH  # 16
LARGEST = 16_385  # pixels of a side, and frames: ComfyUI's fields end there, and the next frame is 4k + 1
FEW_TOKENS = 4096  # with so few, activations are small beside the weights: the feed-forward takes them whole


@dataclass(frozen=True)
class VideoSize:
    """A video's width and height in pixels and its length in frames, checked against what Wan can make.

    Width and height are multiples of 16 (8 pixels to a latent cell, 2 cells to a token). Frames are 4k + 1:
    the VAE codes the first frame alone and then four at a time. Raises WanError with the nearest valid
    value.
    """

    width: int = 96
    height: int = 96
    frames: int = 13

    def __post_init__(self) -> None:
        _check_pixels("width", self.width)
        _check_pixels("height", self.height)
        _check_frames(self.frames)

    @property
    def latent_frames(self) -> int:
        return (self.frames - 1) // VAE_TIME + 1

    @property
    def latent_height(self) -> int:
        return self.height // VAE_SPACE

    @property
    def latent_width(self) -> int:
        return self.width // VAE_SPACE

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(B, C, F, H, W) = (1, 16, k + 1, height / 8, width / 8)."""
        return (1, LATENT_CHANNELS, self.latent_frames, self.latent_height, self.latent_width)

    @property
    def tokens(self) -> int:
        """How many patches of 1 x 2 x 2 latent cells the transformer sees; reference frames add more."""
        return self.latent_frames * (self.latent_height // PATCH) * (self.latent_width // PATCH)

    @classmethod
    def parse(cls, text: str) -> VideoSize:
        """Read "96x96x13": width x height x frames."""
        parts = text.lower().split("x") if isinstance(text, str) else []
        if len(parts) != 3 or not all(part.strip().isdecimal() and len(part) < 20 for part in parts):
            raise WanError(
                f"A size is WIDTHxHEIGHTxFRAMES, three whole numbers such as 96x96x13, not {text!r}."
            )
        width, height, frames = (int(part) for part in parts)
        return cls(width, height, frames)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


def nearest_pixels(value: float) -> int:
    """The multiple of 16 nearest to `value`, at least 16; of two equally near, the larger."""
    return max(PIXEL_STEP, int(value / PIXEL_STEP + 0.5) * PIXEL_STEP)


def nearest_frames(value: float) -> int:
    """The number 4k + 1 nearest to `value`, at least 1; of two equally near, the larger."""
    return max(1, int((value - 1) / VAE_TIME + 0.5) * VAE_TIME + 1)


def feed_forward_parts(dim: int, ffn_dim: int, tokens: int, bytes_each: int) -> int:
    """Into how many parts the tokens of a feed-forward are cut, so that it needs no more memory than self-attention.

    It holds what goes into its activation and what comes out, 2 ffn_dim numbers of the compute format for each token;
    attention a query or key in float32, a copy of it and their product, or five tensors of dim in the compute format.
    The transformer cuts by it, and the plan predicts by it.
    """
    attention = max(3 * 4, 5 * bytes_each) * dim
    return max(1, round(2 * ffn_dim * bytes_each / attention)) if tokens > FEW_TOKENS else 1


def _check_pixels(name: str, value: int) -> None:
    _check_whole(name, value)
    if value < PIXEL_STEP or value % PIXEL_STEP:
        raise WanError(
            f"The {name} of a video must be a multiple of {PIXEL_STEP} pixels, not {value}: "
            f"the nearest is {nearest_pixels(value)}."
        )


def _check_frames(value: int) -> None:
    _check_whole("frames", value)
    if value < 1 or (value - 1) % VAE_TIME:
        raise WanError(
            f"The frames of a video must be 4k + 1 (1, 5, 9, 13, ...), not {value}: "
            f"the nearest is {nearest_frames(value)}."
        )


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WanError(f"The {name} of a video must be a whole number, not {value!r}.")
    if value > LARGEST:
        told = str(value) if value < 10**12 else "as many as this"
        raise WanError(f"The {name} of a video must be {LARGEST} at most, not {told}: try 96x96x13.")
