"""Videos as film strips: moments from left to right over a time axis, one row for each video.

Comes after the last stage. In: videos (frames, height, width, 3), floats in [-1, 1] or uint8. Out: figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.video import Frames, check_fps, strip_frames, to_frames


@style.styled
def plot_strips(videos: Mapping[str, Frames], *, fps: float, columns: int = 7, alt: str = "") -> Figure:
    """Film strips under each other, {title: video}; all read from left to right over one axis of seconds.

    Shows `columns` moments of each, evenly spaced, the first and the last among them.
    """
    if not videos:
        raise WanError("There is no video to show: give at least one, {title: video}.")
    check_fps(fps)
    rows = {name: to_frames(video) for name, video in videos.items()}
    count = max(len(frames) for frames in rows.values())
    chosen = strip_frames(count, columns)
    height, width = next(iter(rows.values())).shape[1:3]
    above = 0.25 if any(rows) else 0
    figure, grid = style.picture_grid(
        len(rows), len(chosen), aspect=height / width, above=above, bottom=0.22, top=0.02
    )
    for axes_row, (name, frames) in zip(grid, rows.items(), strict=True):
        for axes, index in zip(axes_row, chosen, strict=True):
            if index < len(frames):
                axes.imshow(frames[index], interpolation="lanczos")
        axes_row[0].set_title(name, fontsize=9, pad=4)
    _time_axis(grid[-1], [index / fps for index in chosen])
    names = "; ".join(name for name in rows if name)
    words = alt or f"Film strip of {len(rows)} {'video' if len(rows) == 1 else 'videos'}: {names}"
    return style.describe(figure, f"{words}. {len(chosen)} moments from 0 to {chosen[-1] / fps:.2f} seconds.")


@style.styled
def plot_pictures(
    pictures: Sequence[np.ndarray], *, labels: Sequence[str], title: str = "", alt: str, columns: int = 7
) -> Figure:
    """Single pictures (height, width, 3) in reading order, each with a label below it."""
    shown = to_frames(np.stack([np.asarray(picture) for picture in pictures]))
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    aspect = shown.shape[1] / shown.shape[2]
    figure, grid = style.picture_grid(rows, columns, aspect=aspect, below=0.22, top=0.3 if title else 0.02)
    for axes, picture, label in zip(grid.ravel(), shown, labels, strict=False):
        axes.imshow(picture, interpolation="lanczos")
        axes.set_xlabel(label, fontsize=8, labelpad=3)
    style.page_title(figure, title)
    return style.describe(figure, alt)


def _time_axis(row, seconds: Sequence[float]) -> None:
    """Seconds below the last row."""
    for place, (axes, second) in enumerate(zip(row, seconds, strict=True)):
        axes.set_xlabel(f"{second:.2f} s" if place else "time 0 s", fontsize=8, labelpad=3)
