"""A video becomes something to look at: an mp4 file, or a film strip that reads from left to right.

Comes after the last stage. In: frames, (frames, height, width, 3), as floats in [-1, 1] (what `decode` returns) or
as uint8. Out: files and uint8 pictures. The mp4 is written by mediapy with the ffmpeg that imageio-ffmpeg carries.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wan_tutorial.errors import WanError, check_path

if TYPE_CHECKING:
    from torch import Tensor

Frames: TypeAlias = "Tensor | np.ndarray"

PAPER, INK, FAINT = (255, 255, 255), (38, 38, 38), (176, 176, 176)
MOST_TIMES = 32  # larger than its frames a video is shown
SLOWEST, FASTEST = 0.01, 1000.0  # frames a second: what ComfyUI's Save nodes take
LOUDEST = 16.0  # a quick look through a latent may leave [-1, 1] by a little; beyond this it is another unit


def to_uint8(video: Frames) -> np.ndarray:
    """Pixels in [-1, 1] to whole numbers from 0 to 255; uint8 passes as it is. Any shape.

    WanError for what is no pixels: other things than numbers, numbers that are not finite, floats up to 255.
    """
    if hasattr(video, "detach"):
        plain = video.detach().cpu()
        video = plain.float() if plain.is_floating_point() else plain  # numpy has no bfloat16
    pixels = np.asarray(video)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "fiub":
        raise WanError(
            f"Pixels are numbers, not {type(video).__name__}: pass `result.video`, or what `decode` returns."
        )
    pixels = pixels.astype(np.float32)
    reach = float(np.abs(pixels).max(initial=0.0))
    if not reach <= LOUDEST:  # not a number is not below it either
        raise WanError(
            f"Pixels are floats from -1 to 1, or uint8, and these reach {reach:g}: if they go from 0 to 255, try "
            "pixels / 127.5 - 1."
        )
    return np.round((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)


def to_frames(video: Frames) -> np.ndarray:
    """`to_uint8` for a whole video, (frames, height, width, 3); WanError for anything of another shape."""
    frames = to_uint8(video)
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise WanError(
            f"A video has the shape (frames, height, width, 3), not {frames.shape}: pass what `decode` returns."
        )
    return frames


def enlarge(frames: np.ndarray, times: int) -> np.ndarray:
    """Frames (frames, height, width, 3), uint8, made `times` larger with a smooth filter, for the eye only."""
    if check_times(times) == 1:
        return frames
    size = (frames.shape[2] * times, frames.shape[1] * times)
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames]
    )


def check_times(times: int) -> int:
    """The number of times to enlarge by, if it is one."""
    if not _is_count(times) or times > MOST_TIMES:
        raise WanError(f"A video is enlarged 1 to {MOST_TIMES} times, not {times!r}: try 4.")
    return times


def check_fps(fps: float) -> float:
    """Frames a second, if a video can have so many."""
    number = isinstance(fps, int | float) and not isinstance(fps, bool) and math.isfinite(fps)
    if not number or not SLOWEST <= fps <= FASTEST:
        raise WanError(
            f"A video has {SLOWEST:g} to {FASTEST:g} frames a second, not {fps!r}: try 16, Wan's own fps."
        )
    return fps


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# -------------------------------------------------------------------------------------------------------- files


def check_writable(path: str | Path) -> Path:
    """Make sure a file can be written at `path` before hours are spent on its contents; makes its folder."""
    path = check_path(path, "output", example="outputs/video.mp4")
    if path.is_dir():
        raise WanError(f"The output must be a file, but {path} is a folder: try {path / 'video.mp4'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _complete_or_nothing(path) as partial:
            partial.touch()
            partial.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise WanError(
            f"The folder {path.parent} cannot be written ({reason}): choose another output."
        ) from error
    return path


def check_video_path(path: str | Path) -> Path:
    """`check_writable` for a video, which must be an mp4."""
    path = check_path(path, "output", example="outputs/video.mp4")
    if path.suffix.lower() != ".mp4" and not path.is_dir():
        raise WanError(
            f"A video is written as an .mp4 file, not {path.name!r}: try {path.stem or 'video'}.mp4."
        )
    return check_writable(path)


@contextmanager
def _complete_or_nothing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending; takes its place when all is well, vanishes otherwise."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield partial
        if partial.exists():
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_video(video: Frames, path: str | Path, *, fps: float, times: int = 1) -> Path:
    """Write an mp4 (H.264) that browsers play; `times` enlarges a small video. The file appears complete or not."""
    import imageio_ffmpeg
    import mediapy

    check_fps(fps)
    path = check_video_path(path)
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    frames = enlarge(to_frames(video), times)
    with _complete_or_nothing(path) as partial:
        try:
            mediapy.write_video(partial, frames, fps=fps, codec="h264", crf=16)
        except (OSError, RuntimeError) as error:  # ffmpeg's end is a broken pipe here
            raise WanError(
                f"{path} could not be written (is the disk full?): choose another output."
            ) from error
    return path


def write_picture(picture: Tensor | np.ndarray, path: str | Path) -> Path:
    """Write a picture (height, width, 3), uint8 or floats in [-1, 1], as PNG or whatever the path's ending says."""
    path, pixels = check_writable(path), to_uint8(picture)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise WanError(
            f"A picture has the shape (height, width, 3), not {pixels.shape}: try one frame, video[0]."
        )
    with _complete_or_nothing(path) as partial:
        try:
            Image.fromarray(pixels).save(partial)
        except (OSError, ValueError) as error:  # a full disk, an ending that Pillow does not know
            raise WanError(
                f"{path} could not be written as a picture: try {path.with_suffix('.png')}."
            ) from error
    return path


def read_video(path: str | Path, *, most: int | None = None) -> np.ndarray:
    """Read a video file's frames, all or the first so many: (frames, height, width, 3), uint8."""
    import imageio_ffmpeg  # not mediapy: its reader asks for an option that newer ffmpegs have dropped

    path = check_path(path, "video", example="outputs/video.mp4")
    if not path.is_file():
        raise WanError(f"There is no video at {path}: check the path.")
    try:
        reader = imageio_ffmpeg.read_frames(str(path))
        width, height = next(reader)[
            "size"
        ]  # the first answer describes the video, the others are its frames
        frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in islice(reader, most)]
        reader.close()
        return np.stack(frames)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise WanError(
            f"{path} could not be read as a video: it may be damaged or of another kind."
        ) from error


def show_video(video: Frames, *, fps: float, times: int = 1, title: str | None = None, alt: str = "") -> None:
    """Show a playing video in a notebook; `alt` says what is to be seen.

    The page gets an mp4 with controls, and beside it the same as a moving picture, for where an mp4 may not play:
    GitHub, and a notebook that nobody has run on this computer yet.
    """
    import imageio_ffmpeg
    import mediapy
    from IPython.display import display

    check_fps(fps)
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    frames = to_frames(video)
    large = enlarge(frames, times)
    player = mediapy.show_video(large, fps=fps, codec="h264", title=title, return_html=True)
    words = alt or f"Video of {len(frames)} frames, {len(frames) / fps:.1f} seconds"
    still = base64.b64encode(moving_picture(frames, fps=fps)).decode()
    data = {"text/html": player, "image/png": still, "text/plain": words}
    display(data, metadata={"image/png": {"alt": words, "width": large.shape[2]}}, raw=True)


def moving_picture(video: Frames, *, fps: float, longest: int = 192) -> bytes:
    """A video as an animated PNG that plays for ever wherever a picture is shown; larger ones are made smaller."""
    check_fps(fps)
    frames = to_frames(video)
    scale = min(1.0, longest / max(frames.shape[1:3]))
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    first, *others = (Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames)
    page = io.BytesIO()
    first.save(page, format="png", save_all=True, append_images=others, duration=1000 / fps, loop=0)
    return page.getvalue()


# --------------------------------------------------------------------------------------------------- film strip


def strip_frames(frames: int, columns: int) -> list[int]:
    """Which frames a strip shows: the first, the last, and evenly between; all, if there are no more than columns."""
    if not _is_count(columns):
        raise WanError(f"A film strip has 1 column or more, not {columns!r}: try 7.")
    return sorted({int(i) for i in np.linspace(0, frames - 1, min(columns, frames)).round()})


def film_strip(
    video: Frames, columns: int = 7, *, fps: float, frame_height: int = 192, title: str | None = None
) -> np.ndarray:
    """Moments of a video from left to right over a time axis, as one picture (height, width, 3), uint8."""
    check_fps(fps)
    if not _is_count(frame_height):
        raise WanError(f"The frames of a strip are 1 pixel high or more, not {frame_height!r}: try 192.")
    frames = to_frames(video)
    chosen = strip_frames(len(frames), columns)
    height, width = frame_height, round(frame_height * frames.shape[2] / frames.shape[1])
    margin, gap, text = 24, 6, 15
    top = margin + (text + 14 if title else 0)
    page_width = 2 * margin + len(chosen) * (width + gap) - gap
    page = Image.new("RGB", (page_width, top + height + 44 + margin // 2), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=text)
    if title:
        draw.text((margin, margin - 6), _shorten(title, page_width - 2 * margin, font), INK, font)
    axis = top + height + 12
    draw.line([(margin, axis), (page_width - margin, axis)], FAINT, 1)
    for place, index in enumerate(chosen):
        left = margin + place * (width + gap)
        page.paste(
            Image.fromarray(frames[index]).resize((width, height), Image.Resampling.LANCZOS), (left, top)
        )
        centre = left + width / 2
        draw.line([(centre, axis - 4), (centre, axis + 4)], INK, 1)
        label = f"{index / fps:.2f} s"
        if place == 0 and font.getlength(f"time {label}") <= width:
            label = f"time {label}"
        draw.text((centre, axis + 8), label, INK, font, anchor="mt")
    return np.asarray(page)


def _shorten(title: str, width: int, font: Any) -> str:
    """Cut a title to what fits, at a word."""
    if font.getlength(title) <= width:
        return title
    words = title.split()
    while words and font.getlength(" ".join(words) + " ...") > width:
        words.pop()
    return " ".join(words) + " ..."
