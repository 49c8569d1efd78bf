"""The VAE under the hand: which frames a latent frame reaches, and an editor that shows it.

In: a latent, a function that decodes it, how much frames changed. Out: a figure, and a panel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.panel import Panel
from wan_tutorial.show.video import to_frames
from wan_tutorial.show.widgets import WIDTH, _font

if TYPE_CHECKING:
    from torch import Tensor


@style.styled
def plot_reach(change: Tensor | np.ndarray, *, rows: str, columns: str, title: str = "") -> Figure:
    """How much each thing changes with each other thing: (rows, columns), not below 0; what does not change stays white."""
    table = np.asarray(change, dtype=np.float64)
    if table.ndim != 2 or table.min() < 0:
        raise WanError(f"Changes are a table of numbers from 0 up, not {table.shape} from {table.min():.2g}.")
    high, wide = table.shape
    figure = style.new_figure(1.05 + 0.42 * high, width=min(style.WIDTH, 1.6 + 0.62 * wide))
    axes = figure.subplots()
    axes.imshow(np.where(table > 0, table, np.nan), cmap=style.RISING, vmin=-0.1 * table.max(), aspect="auto")
    for row, column in np.argwhere(table > 0):
        value = table[row, column]
        ink = style.PAPER if value > 0.55 * table.max() else style.INK
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
    axes.set_xticks(range(wide))
    axes.set_yticks(range(high))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(wide + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(high + 1) - 0.5, minor=True)
    axes.grid(which="minor", lw=1.2)
    axes.tick_params(which="minor", length=0)
    axes.set(xlabel=columns, ylabel=rows)
    style.title(axes, title, note="white: not changed at all")
    reach = [(row, np.flatnonzero(one > 0)) for row, one in enumerate(table)]
    told = ", ".join(f"{row} reaches {one[0]} to {one[-1]}" for row, one in reach if len(one))
    return style.describe(figure, f"{title}. {rows} against {columns}: {told}.")


def explore_latent_frames(
    latent: Tensor, decode: Callable[[Tensor], Tensor], instead: Mapping[str, Tensor], *, frame: int = 2
) -> Panel:
    """The latent-frame editor: put something else into one latent frame, and see which pixel frames change.

    `instead`: {name: latent of the same shape} whose frame may take the place of the latent's own.
    """
    import ipywidgets

    before = decode(latent)
    tidy = {"style": {"description_width": "initial"}, "continuous_update": False}
    controls = {
        "frame": ipywidgets.IntSlider(frame, 0, latent.shape[2] - 1, description="latent frame", **tidy),
        "name": ipywidgets.Dropdown(options=list(instead), description="becomes", layout={"width": "340px"}),
        "amount": ipywidgets.FloatSlider(1.0, min=0, max=1, step=0.1, description="how much", **tidy),
    }

    def draw(frame: int, name: str, amount: float) -> tuple[np.ndarray, str]:
        edited = latent.clone()
        edited[:, :, frame] = (1 - amount) * latent[:, :, frame] + amount * instead[name][:, :, frame]
        after = decode(edited)
        change = (after - before).abs().mean(dim=(1, 2, 3)).tolist()
        touched = [place for place, value in enumerate(change) if value > 0]
        said = f"{touched[0]} to {touched[-1]}" if touched else "none"
        words = f"latent frame {frame} becomes {amount:.0%} {name}; frames that change: {said}"
        return draw_change(before, after, change, frame=frame, title=words), f"Latent-frame editor: {words}."

    return Panel(controls, draw).show()


def draw_change(
    before: Tensor, after: Tensor, change: list[float], *, frame: int, title: str = ""
) -> np.ndarray:
    """Two videos (f, h, w, 3) frame under frame, their difference, and a bar for how much each frame changed."""
    difference = (after - before).abs().clamp(max=1) * 2 - 1
    rows = {"before": to_frames(before), "after": to_frames(after), "difference": to_frames(difference)}
    count, left, top, gap = len(change), 72, 46, 3
    side = (WIDTH - left) // count - gap
    page = Image.new("RGB", (WIDTH, top + 3 * (side + gap) + 58), style.PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((4, 2), title, style.INK, _font(14, True))
    own = range(max(0, 4 * frame - 3), 4 * frame + 1)  # the frames that this latent frame stands for
    for place in range(count):
        x = left + place * (side + gap)
        pen.text(
            (x + side // 2, 36), str(place), style.VERMILION if place in own else style.GREY, _font(12), "mm"
        )
        if place in own:
            pen.rectangle((x - gap, top - 3, x + side, top - 2), fill=style.VERMILION)
        for row, frames in enumerate(rows.values()):
            picture = Image.fromarray(frames[place]).resize((side, side), Image.Resampling.LANCZOS)
            page.paste(picture, (x, top + row * (side + gap)))
        low = top + 3 * (side + gap) + 4
        high = round((side - 1) * min(1.0, change[place] / 0.5))
        pen.rectangle((x, low, x + side - 1, low + 8), fill=style.FAINT)
        pen.rectangle((x, low, x + high, low + 8), fill=style.VERMILION) if change[place] else None
        said = f"{change[place]:.3f}" if change[place] else "0"
        pen.text((x + side // 2, low + 20), said, style.INK if change[place] else style.GREY, _font(11), "mm")
    for row, name in enumerate(rows):
        pen.text((4, top + row * (side + gap) + side // 2), name, style.GREY, _font(12), "lm")
    pen.text((4, 36), "frame", style.GREY, _font(12), "lm")
    pen.text((4, top + 3 * (side + gap) + 24), "mean change", style.GREY, _font(11), "lm")
    under = f"marked: the frames that latent frame {frame} stands for"
    pen.text((WIDTH - 4, page.height - 8), under, style.VERMILION, _font(11), "rm")
    return np.asarray(page)
