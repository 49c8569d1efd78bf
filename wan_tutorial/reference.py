"""What a model is given besides words: a reference picture, a first frame, a video with a mask.

Stands between a person's pictures and the transformer's VACE blocks. In: pictures and videos, as files, arrays or
tensors. Out: `Given`, all of it fitted to the video that is to be painted, in pixels; and `VaceContext`, what the VACE
blocks look at, (1, 96, R + F, H, W): 16 channels of what stays, 16 of what is painted over, 64 of mask. A reference is
a latent frame of its own before the video's F, with nothing in the last 80 channels; after sampling it is cut off.

Upstream: official Wan `wan/vace.py`; `preprocess_conditions`, `prepare_video_latents` and `prepare_masks` in diffusers'
`pipeline_wan_vace.py`; ComfyUI's `WanVaceToVideo` (`comfy_extras/nodes_wan.py`).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.sizes import VAE_SPACE, VideoSize

if TYPE_CHECKING:
    from wan_tutorial.vae import Vae

# A file, a Pillow image, uint8 (height, width, 3 or 4), or floats in [-1, 1] (height, width, 3) as a tensor.
Picture: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
Strength: TypeAlias = "float | Sequence[float]"  # one, or one for each VACE block

FITS = ("pad", "crop")
SMALLEST, LARGEST, LONGEST = 16, 8192, 8  # sides of a picture in pixels; its longer side against the shorter
STRONGEST = 10.0
AVERAGED = (
    4  # bilinear interpolation looks at 2 x 2 pixels: a picture larger by more is averaged down to this first
)


# ------------------------------------------------------------------------------------------------------- pixels


@dataclass(frozen=True)
class Given:
    """What is given, in pixels of the video to paint; grey, which is 0, where nothing is."""

    size: VideoSize
    references: Tensor  # (R, height, width, 3) in [-1, 1]
    video: Tensor  # (frames, height, width, 3) in [-1, 1]
    mask: Tensor  # (frames, height, width) in [0, 1]; 1: paint here, 0: keep. Wan's image-to-video model has it reversed
    notices: tuple[str, ...] = ()

    @property
    def inactive(self) -> Tensor:
        """What stays: the video where the mask is 0, grey elsewhere; (frames, height, width, 3)."""
        return self.video * (self.mask <= 0.5)[..., None]

    @property
    def reactive(self) -> Tensor:
        """What is painted over, and may guide the painting: the video where the mask is 1; (frames, height, width, 3)."""
        return self.video * (self.mask > 0.5)[..., None]

    def __str__(self) -> str:
        count, kept = len(self.references), (self.mask <= 0.5).float().mean().item()
        parts = [f"{count} reference{'s' * (count > 1)}"] * bool(count)
        parts += ["a video to follow"] * bool(self.reactive.any())
        parts += [f"{100 * kept:.0f} % of the video to keep"] * bool(kept)
        return ", ".join(parts) or "nothing"

    @property
    def fingerprint(self) -> str:
        """Two requests with one fingerprint are given the same."""
        digest = hashlib.sha256()
        for tensor in (self.references, self.video, self.mask):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def read_given(
    size: VideoSize,
    *,
    reference: Picture | Sequence[Picture] | None = None,
    first_frame: Picture | None = None,
    mask: Any = None,
    video: Any = None,
    fit: str = "pad",
) -> Given:
    """Read and fit what is given; with nothing given, a grey video that is all to be painted.

    `reference`: a picture whose things are to appear, or several. `first_frame`: a picture to begin with. `video`:
    frames (f, h, w, 3) or a sequence of pictures, or one picture that stands still; what it lacks in length is painted.
    `mask`: which part of it to paint, white or 1; a picture for all frames, or frames (f, h, w). A video without a mask
    is a control video: what it shows (poses, depths) guides the painting.

    `fit` is for references: "pad" puts the whole picture on white, as the official code and diffusers do, "crop" cuts
    it to the video's proportions, as ComfyUI does. First frames, videos and masks are always cut. One thing is done
    that those three do not: what is more than four times too large is averaged before it is resized.
    Raises WanError for what cannot be used.
    """
    check_fit(fit)
    if first_frame is not None and (video is not None or mask is not None):
        raise WanError(
            "A first frame already says what is kept and what is painted: leave out the video and the mask, "
            "or give the picture as the video's first frame."
        )
    shown = _pictures(reference)
    if reference is not None and not shown:
        raise WanError(
            "A list of references has one picture or more, and this one is empty: leave it out, or fill it."
        )
    notices: list[str] = []
    pictures = [_fit(read_picture(one, "reference", notices)[None], size, fit) for one in shown]
    if first_frame is not None:
        frames = read_picture(first_frame, "first frame", notices)[None]
        kept = torch.zeros(1, *frames.shape[1:3])
    else:
        frames = _read_frames(video, size, notices)
        kept = _read_mask(mask, frames, size)
    frames, kept = frames[: size.frames], kept[: size.frames]
    missing = size.frames - len(frames)
    if missing and video is not None:
        notices.append(f"The video has {len(frames)} frames of {size.frames}: the rest is painted.")
    if mask is not None and video is None:
        notices.append("A mask without a video keeps grey: give the video, too.")
    return Given(
        size,
        torch.cat([*pictures, torch.zeros(0, size.height, size.width, 3)]),
        F.pad(_fit(frames, size, "crop"), (0, 0, 0, 0, 0, 0, 0, missing)),
        F.pad(_fit(kept[..., None], size, "crop")[..., 0], (0, 0, 0, 0, 0, missing), value=1.0),
        tuple(dict.fromkeys(notices)),  # each once, though every frame may say it
    )


def read_picture(source: Picture, what: str = "picture", notices: list[str] | None = None) -> Tensor:
    """A picture as floats (height, width, 3) in [-1, 1]; `what` it is, for the sentence if it cannot be.

    Where a picture is transparent it becomes white, which is what VACE's own padding is; `notices` hears of it.
    """
    if isinstance(source, Tensor) and source.is_floating_point():
        pixels = source.float().cpu()
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            _check_sides(what, pixels.shape[1], pixels.shape[0])
            if -1.001 <= pixels.min() <= pixels.max() <= 1.001:
                return pixels
        raise WanError(
            f"A {what} as a tensor is (height, width, 3) with values from -1 to 1, not {tuple(pixels.shape)}."
        )
    image = _open(source, what)
    _check_sides(what, *image.size)
    if _is_transparent(image):
        if notices is not None:
            notices.append(f"The {what} has transparent parts: they become white.")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1)


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is: many pictures that have an alpha channel are opaque everywhere."""
    may_be = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    return may_be and image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def _open(source: Any, what: str) -> Image.Image:
    """A Pillow image of a file or an array, upright."""
    try:
        if isinstance(source, Image.Image):
            source.load()
            return _upright(source)
        if isinstance(source, str | Path):
            path = check_path(source, what, example="picture.png")
            if not path.exists():
                raise WanError(f"The {what} {path} is not there: check its name.")
            with Image.open(path) as image:
                _check_sides(what, *image.size)  # before any pixel is read
                image.load()
                return _upright(image)
        return _upright(Image.fromarray(np.asarray(source)))
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        SyntaxError,
        IndexError,
        struct.error,  # of what a camera noted, damaged
        Image.DecompressionBombError,
    ) as error:
        if isinstance(error, WanError):
            raise
        name = f" {source}" if isinstance(source, str | Path | int | float) else ""
        raise WanError(
            f"The {what}{name} is not a picture that can be read: give a PNG or JPEG, or uint8 (height, width, 3)."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """As a person sees it: turned as the camera noted, and grey of 16 bits in 8, where Pillow would cut it off at 255."""
    if image.mode == "F":
        raise ValueError("floats are read as tensors, which have three channels")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    return image


def _check_sides(what: str, width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < SMALLEST or long > LARGEST or long > LONGEST * short:
        raise WanError(
            f"A {what} has sides of {SMALLEST} to {LARGEST} pixels, the longer at most {LONGEST} times the shorter, "
            f"not {width}x{height}: crop or resize it."
        )


def _pictures(reference: Any) -> list[Any]:
    if reference is None:
        return []
    if isinstance(reference, Tensor | np.ndarray):
        return list(reference) if reference.ndim == 4 else [reference]
    return (
        list(reference) if isinstance(reference, Sequence) and not isinstance(reference, str) else [reference]
    )


def _read_frames(video: Any, size: VideoSize, notices: list[str]) -> Tensor:
    """A video's frames (f, h, w, 3) in [-1, 1]; one picture stands still; nothing is grey."""
    if video is None:
        return torch.zeros(size.frames, size.height, size.width, 3)
    frames = [read_picture(frame, "video", notices) for frame in _pictures(video)[: size.frames]]
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise WanError("A video is at least one frame, and all its frames have one size.")
    still = isinstance(video, str | Path | Image.Image) or getattr(video, "ndim", 4) == 3
    return torch.stack(frames * size.frames if still else frames)


def _read_mask(mask: Any, frames: Tensor, size: VideoSize) -> Tensor:
    """Where to paint, (f, h, w) in [0, 1], as large as the frames it belongs to; everywhere if not given."""
    if mask is None:
        return torch.ones(frames.shape[:3])
    if isinstance(mask, str | Path | Image.Image):
        image = _open(mask, "mask")
        if _is_transparent(image):
            raise WanError(
                "This mask has transparent parts, which say neither paint nor keep: make it white where to paint and black "
                "elsewhere."
            )
        mask = np.array(image.convert("L"))
    try:
        values = torch.as_tensor(mask if isinstance(mask, Tensor) else np.asarray(mask)).cpu()
    except (TypeError, ValueError) as error:
        raise WanError(
            f"A mask is one picture, or numbers (frames, height, width), not {type(mask).__name__}: try a PNG, white where "
            "to paint."
        ) from error
    most = 1 if values.is_floating_point() or values.numel() and values.max() <= 1 else 255
    if values.numel() and not 0 <= values.min() <= values.max() <= most:
        raise WanError(
            f"A mask's numbers are from 0, keep, to 1, paint, or whole ones to 255, not {values.min().item():g} to "
            f"{values.max().item():g}: divide by the largest."
        )
    values = values.float() / most
    values = values[None] if values.ndim == 2 else values
    sides = {tuple(frames.shape[1:3]), (size.height, size.width)}
    if values.ndim == 3 and values.shape[2] in (3, 4) and tuple(values.shape[:2]) in sides:
        raise WanError(
            f"A mask has one number for each pixel, not {values.shape[2]} colours: try mask[..., 0]."
        )
    if values.ndim != 3 or tuple(values.shape[1:]) not in sides or len(values) not in (1, len(frames)):
        height, width = frames.shape[1:3]
        raise WanError(
            f"A mask has the size of its video, {width}x{height}, and one frame or as many, not "
            f"{'x'.join(map(str, reversed(values.shape[1:])))} in {len(values) if values.ndim else 0} frames: resize it."
        )
    if not (values > 0.5).any():
        raise WanError("This mask is black everywhere, so nothing would be painted: white is what to paint.")
    if tuple(values.shape[1:]) != tuple(frames.shape[1:3]):  # it has the size of the video to paint
        values = F.interpolate(values[None], size=frames.shape[1:3], mode="nearest-exact")[0]
    return values.expand(len(frames), -1, -1)


def check_fit(fit: str) -> None:
    """WanError for a way of fitting that there is not."""
    if not isinstance(fit, str) or fit not in FITS:
        raise WanError(f"A reference is fitted by 'pad' (on white) or 'crop' (cut), not by {fit!r}.")


def _fit(pixels: Tensor, size: VideoSize, fit: str) -> Tensor:
    """Bring pictures (N, h, w, C) to a video's height and width: on white, or cut from their middle."""
    if tuple(pixels.shape[1:3]) == (size.height, size.width):
        return pixels
    return (_pad if fit == "pad" else _crop)(pixels.movedim(-1, 1), size.height, size.width).movedim(1, -1)


def _pad(pixels: Tensor, height: int, width: int) -> Tensor:
    """The whole picture in the middle of a white canvas: (N, C, h, w) -> (N, C, height, width)."""
    old_height, old_width = pixels.shape[2:]
    scale = min(height / old_height, width / old_width)
    inner = _resize(pixels, int(old_height * scale), int(old_width * scale))
    top, left = (height - inner.shape[2]) // 2, (width - inner.shape[3]) // 2
    canvas = pixels.new_ones(*pixels.shape[:2], height, width)
    canvas[:, :, top : top + inner.shape[2], left : left + inner.shape[3]] = inner
    return canvas


def _crop(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle of the picture in the canvas's proportions: (N, C, h, w) -> (N, C, height, width)."""
    old_height, old_width = pixels.shape[2:]
    x = max(0, round((old_width - old_height * (width / height)) / 2))
    y = max(0, round((old_height - old_width * (height / width)) / 2))
    return _resize(pixels[:, :, y : old_height - y, x : old_width - x], height, width)


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, as both codes do; but they look at 2 x 2 pixels only, so that a large photograph would turn to specks."""
    times = math.ceil(min(pixels.shape[2] / height, pixels.shape[3] / width) / AVERAGED)
    pixels = F.avg_pool2d(pixels, times) if times > 1 else pixels
    return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)


def check_strength(strength: Strength, blocks: int | None = None) -> None:
    """WanError unless every strength is a number from 0 to 10; 0 is as if nothing were given, 1 as trained.

    `blocks`: how many VACE blocks there are, for a strength for each.
    """
    each = strength if isinstance(strength, Sequence) and not isinstance(strength, str) else None
    if each is not None and blocks is not None and len(each) != blocks:
        raise WanError(f"Give one strength, or one for each of {blocks} VACE blocks, not {len(each)}: try 1.")
    for one in (strength,) if each is None else each:
        if not isinstance(one, int | float) or isinstance(one, bool) or not 0 <= one <= STRONGEST:
            raise WanError(f"The strength of what is given is a number from 0 to 10, not {one!r}: try 1.")


# ------------------------------------------------------------------------------------------------------ latents


@dataclass(frozen=True)
class VaceContext:
    """What the VACE blocks look at, part by part; `tensor` is the whole."""

    references: Tensor  # (1, 16, R, H, W)
    inactive: Tensor  # (1, 16, F, H, W)
    reactive: Tensor  # (1, 16, F, H, W)
    mask: Tensor  # (1, 64, F, H, W)

    @property
    def extra_frames(self) -> int:
        """Latent frames that come before the video's own, one for each reference."""
        return self.references.shape[2]

    @property
    def tensor(self) -> Tensor:
        """(1, 96, R + F, H, W); of a reference, reactive part and mask are 0: it is kept."""
        before = torch.cat([self.references, torch.zeros_like(self.references)], dim=1)  # (1, 32, R, H, W)
        video = torch.cat([self.inactive, self.reactive], dim=1)  # (1, 32, F, H, W)
        mask = F.pad(self.mask, (0, 0, 0, 0, self.extra_frames, 0))  # (1, 64, R + F, H, W)
        return torch.cat([torch.cat([before, video], dim=2), mask], dim=1)

    def trim(self, latent: Tensor) -> Tensor:
        """Cut the references off a latent: (1, 16, R + F, H, W) -> (1, 16, F, H, W). ComfyUI's TrimVideoLatent."""
        return latent[:, :, self.extra_frames :]


def encode_context(vae: Vae, given: Given, *, tiled: bool = False) -> VaceContext:
    """Pixels to what the VACE blocks look at.

    Where nothing is given, or nothing but references, what stays and what is painted over are one grey clip, which is
    encoded once; official Wan, diffusers and ComfyUI do it twice. Several references keep their order, as in the
    official code (diffusers reverses it). `tiled`: for pictures too large for the memory.
    """
    inactive, reactive = given.inactive, given.reactive
    kept = _encode(vae, inactive, tiled)
    painted = kept if torch.equal(inactive, reactive) else _encode(vae, reactive, tiled)
    pictures = [_encode(vae, picture[None], tiled) for picture in given.references]
    references = torch.cat(pictures, dim=2) if pictures else kept[:, :, :0]
    return VaceContext(references, kept, painted, mask_channels(given.mask).to(kept))


def _encode(vae: Vae, frames: Tensor, tiled: bool = False) -> Tensor:
    return vae.encode(frames.permute(3, 0, 1, 2)[None], tiled=tiled)  # (f, h, w, 3) -> (1, 16, F, H, W)


def mask_channels(mask: Tensor) -> Tensor:
    """A mask in pixels to a latent's: (f, h, w) -> (1, 64, F, H, W), one channel for each of a cell's 8 x 8 pixels.

    In time one frame stands for four, from the middle of each part (torch's nearest-exact): of 81 frames 1, 5, 9 ...,
    never the first. So a kept first frame is not in the mask that the model sees; the inactive latent shows it.
    """
    cells = F.pixel_unshuffle(mask[:, None], VAE_SPACE).transpose(0, 1)[None]  # (1, 64, f, H, W)
    size = ((len(mask) + 3) // 4, *cells.shape[3:])
    return F.interpolate(cells, size=size, mode="nearest-exact")


# ---------------------------------------------------------------------------------- what a picture loses on the way


@dataclass(frozen=True)
class Reconstruction:
    """A picture as it is fitted, and as the VAE gives it back: what of it can reach the video at all."""

    fitted: Tensor  # (height, width, 3) in [-1, 1]
    carried: Tensor  # the same, through the VAE

    @property
    def psnr(self) -> float:
        """How near the two are, in dB: 10 log10(4 / mean squared difference)."""
        return 10 * math.log10(4 / max((self.fitted - self.carried).square().mean().item(), 1e-9))

    def __str__(self) -> str:
        kept = "nearly everything" if self.psnr > 30 else "shapes and colours, few fine lines"
        kept = kept if self.psnr > 22 else "large shapes and colours"
        return f"The VAE gives this picture back at {self.psnr:.1f} dB: {kept}."


def reconstruct(vae: Vae, picture: Picture, size: VideoSize, *, fit: str = "pad") -> Reconstruction:
    """Fit a picture and send it through the VAE and back."""
    fitted = read_given(replace(size, frames=1), reference=picture, fit=fit).references
    carried = vae.decode(_encode(vae, fitted))[0, :, 0].permute(1, 2, 0).cpu()  # (1, 3, 1, h, w) -> (h, w, 3)
    return Reconstruction(fitted[0], carried)
