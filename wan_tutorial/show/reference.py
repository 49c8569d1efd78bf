"""What the VACE blocks are fed, as one picture: 96 channels of every latent frame, those of the references in front.

In: a `VaceContext`. Out: a figure. Each square holds the maps of one frame side by side: 4 x 4 channels of a latent, or
the 8 x 8 of a mask, which stand as the pixels of a cell do: read from top left, a row of the cell after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from wan_tutorial.show import style

if TYPE_CHECKING:
    from wan_tutorial.reference import VaceContext

MOST = 5  # latent frames of the video side by side
ROWS = (
    ("what stays", "16 channels: 0 to 15"),
    ("what is painted over", "16 channels: 16 to 31"),
    ("where to paint", "64 channels: 32 to 95"),
)
SIGN = LinearSegmentedColormap.from_list("sign", [style.INK, "#fff3d6"])  # dark: keep, light: paint


@style.styled
def plot_context(context: VaceContext, *, title: str = "") -> Figure:
    """All that the VACE blocks look at: a column for each latent frame, a row for each kind of channel.

    Of a long video its first frames are shown.
    """
    values = context.tensor[0].float().cpu().numpy()  # (96, R + F, H, W)
    extra = context.extra_frames
    shown = min(values.shape[1], extra + MOST)
    reach = float(np.quantile(np.abs(values[:32]), 0.99)) or 1.0
    left, gap, top, between = 1.78, 0.07, 0.66 if title else 0.4, 0.2 if extra else 0.0
    cell = min(1.7, (style.WIDTH - left - between - 0.02) / shown - gap)
    high = cell * values.shape[2] / values.shape[3]
    width, height = left + between + shown * (cell + gap), top + 3 * (high + gap) + 0.3
    figure = Figure(figsize=(width, height))
    parts = (values[:16], values[16:32], values[32:])
    for row, (part, (name, count)) in enumerate(zip(parts, ROWS, strict=True)):
        low = height - top - (row + 1) * (high + gap)
        middle = (low + high / 2) / height
        figure.text((left - 0.12) / width, middle, name, ha="right", va="bottom", fontweight="bold")
        figure.text((left - 0.12) / width, middle - 0.03 / height, count, ha="right", va="top", fontsize=8,
                    color=style.GREY)  # fmt: skip
        for frame in range(shown):
            x = left + frame * (cell + gap) + between * (frame >= extra)
            axes = style.bare(figure.add_axes((x / width, low / height, cell / width, high / height)))
            colours, ends = (SIGN, (0, 1)) if row == 2 else (style.AROUND, (-reach, reach))
            axes.set_facecolor(style.FAINT)
            axes.imshow(mosaic(part[:, frame]), cmap=colours, vmin=ends[0], vmax=ends[1], aspect="auto")
            if row == 0:
                name, pixels = _frame_names(frame, extra)
                axes.set_title(f"{name}\n", fontsize=8.5, pad=1, loc="center")
                axes.text(0.5, 1.03, pixels, transform=axes.transAxes, ha="center", fontsize=8,
                          color=style.GREY)  # fmt: skip
    note = "latents: blue below, orange above the mean; mask: light where to paint, dark where to keep"
    figure.text(left / width, 0.12 / height, note, fontsize=8, color=style.GREY, va="center")
    style.page_title(figure, title)
    painted = ", ".join(f"{share:.0%}" for share in context.mask[0].float().mean(dim=(0, 2, 3)).tolist())
    return style.describe(
        figure,
        f"{title or 'What the VACE blocks look at'}: {values.shape[0]} channels of {values.shape[1]} latent frames, "
        f"{extra} of them references. To be painted, frame by frame of the video: {painted}.",
    )


def _frame_names(frame: int, extra: int) -> tuple[str, str]:
    if frame < extra:
        return "reference" if extra == 1 else f"reference {frame + 1}", "a picture of its own"
    number = frame - extra
    pixels = "frame 0" if number == 0 else f"frames {4 * number - 3} to {4 * number}"
    return f"latent frame {number}", pixels


def mosaic(maps: np.ndarray) -> np.ndarray:
    """Maps (n x n, H, W) side by side, n in a row, with a line between them that is not a number."""
    side = round(len(maps) ** 0.5)
    line = max(1, round(maps.shape[2] / 12))
    framed = np.pad(maps, ((0, 0), (0, line), (0, line)), constant_values=np.nan)  # (n n, H + 1, W + 1)
    rows = framed.reshape(side, side, *framed.shape[1:]).transpose(0, 2, 1, 3)
    return rows.reshape(side * framed.shape[1], side * framed.shape[2])[:-line, :-line]
