"""LoRAs as pictures: a thin product beside the weight it changes, its parts by size, the layers it reaches; sliders.

In: matrices, relative sizes of changes by layer, pictures, a function that paints. Out: figures, and a panel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from wan_tutorial.show import style
from wan_tutorial.show.panel import Panel
from wan_tutorial.show.video import Frames, to_frames
from wan_tutorial.show.widgets import draw_strip

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = re.compile(r"(blocks|vace_blocks)\.(\d+)\.(.+)")


@style.styled
def plot_low_rank(weight: Tensor, down: Tensor, up: Tensor, *, title: str = "") -> Figure:
    """An update of low rank, up (out, rank) times down (rank, in), and the weight (out, in) that it is added to; drawn
    to one scale."""
    (tall, wide), rank = weight.shape, len(down)
    unit = min(2.2 / tall, 6.3 / (3 * wide + rank))  # inches for one number
    high, middle = 3.2, 1.58
    parts = (
        ("up", up, "\u00b7"),
        ("down", down, "="),
        ("update", up @ down, "added\nto"),
        ("weight", weight, ""),
    )
    slots = [max(1.1, unit * matrix.shape[1]) for _, matrix, _ in parts]
    gap, left, told = (style.WIDTH - 0.04 - sum(slots)) / 3, 0.02, []
    figure = Figure(figsize=(style.WIDTH, high))
    for (name, matrix, sign), slot in zip(parts, slots, strict=True):
        numbers = matrix.detach().float().numpy()
        h, w = (unit * count for count in numbers.shape)
        centre, across = (left + slot / 2) / style.WIDTH, w / style.WIDTH
        axes = figure.add_axes((centre - across / 2, (middle - h / 2) / high, across, h / high))
        reach = 2.5 * float(numbers.std()) or 1.0
        coloured = style.AROUND(0.5 + 0.5 * numbers / reach)[..., :3]
        style.bare(axes).imshow(coloured, aspect="auto")
        count = f"made of {rank * (tall + wide):,}" if name == "update" else f"{numbers.size:,}"
        below = f"{numbers.shape[0]} \u00d7 {numbers.shape[1]}\n{count} numbers"
        told.append(f"{name} {numbers.shape[0]} by {numbers.shape[1]}, {count} numbers")
        figure.text(centre, (middle + h / 2 + 0.07) / high, name, ha="center", weight="bold")
        words = figure.text(centre, (middle - h / 2 - 0.07) / high, below, ha="center", va="top")
        words.set(fontsize=8, color=style.GREY)
        x, size = (left + slot + gap / 2) / style.WIDTH, 20 if len(sign) == 1 else 9
        figure.text(x, middle / high, sign, ha="center", va="center", fontsize=size, color=style.WORK)
        left += slot + gap
    style.page_title(figure, title)
    return style.describe(figure, f"{title or 'An update of low rank'}: {'; '.join(told)}.")


@style.styled
def plot_parts(sizes: Mapping[str, Tensor], *, title: str = "") -> Figure:
    """Singular values {name: sizes of its parts, falling}, each beside its matrix's largest."""
    figure = style.new_figure(2.7, width=style.WIDTH * 0.8)
    axes = figure.subplots()
    told = []
    for (name, values), colour in zip(sizes.items(), style.CYCLE, strict=False):
        shares = (values / values.max()).detach().float().numpy()
        count = int((shares > 1e-5).sum())
        places = np.arange(1, len(shares) + 1)
        axes.fill_between(places[:count], shares[:count], color=colour, alpha=0.12, lw=0)
        axes.plot(places, shares, color=colour, label=f"{name}: {count} parts", clip_on=False)
        if 1 < count < len(shares):
            axes.axvline(count, color=colour, lw=1, ls=(0, (3, 2)))
            axes.text(count, 0.94, f"  part {count}, the rank", color=colour, fontsize=8.5, va="center")
        told.append(f"{name} has {count} parts of {len(shares)} that are not 0")
    axes.set(
        xlabel="part, from the largest to the smallest", ylabel="size, beside the largest", ylim=(0, 1.02)
    )
    axes.set_xlim(1, None)
    axes.grid(axis="y")
    axes.legend()
    style.title(axes, title)
    return style.describe(figure, f"{title or 'Singular values'}: {'; '.join(told)}.")


@style.styled
def plot_layers(changes: Mapping[str, float], layers: Collection[str], *, title: str = "") -> Figure:
    """Which layers a LoRA reaches: a column for each block, a field for each layer, the darker the more it is changed.

    `changes`: {layer: size of its change beside its weight's}; `layers`: all that the model has, such as
    "blocks.3.ffn.0".
    """
    found = {name: match.groups() for name in layers if (match := _BLOCK.fullmatch(name))}
    rows = list(dict.fromkeys(row for _, _, row in found.values()))
    blocks = sorted({(kind, int(number)) for kind, number, _ in found.values()})
    main = sum(kind == "blocks" for kind, _ in blocks)
    wide = len(blocks) + 0.4  # a little room between the two kinds
    figure = style.new_figure(1.0 + 0.235 * len(rows), width=min(style.WIDTH, 2.9 + 0.6 * wide))
    axes = figure.subplots()
    axes.set(xlim=(0, wide), ylim=(len(rows), 0))
    most = max(changes.values(), default=1.0)
    for name, (kind, number, row) in found.items():
        at = blocks.index((kind, int(number)))
        spot = at + 0.4 * (at >= main) + 0.02, rows.index(row) + 0.04
        colour = style.RISING(0.1 + 0.9 * changes[name] / most) if name in changes else "#f0f0f0"
        axes.add_patch(Rectangle(spot, 0.96, 0.92, color=colour, lw=0))
    every = max(1, len(blocks) // 20)
    shown = [(at + 0.4 * (at >= main) + 0.5, str(blocks[at][1])) for at in range(0, len(blocks), every)]
    axes.set_xticks(*zip(*shown, strict=True))
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for left, name in ((0.0, "main blocks"), (main + 0.4, "VACE blocks")):
        axes.text(left + 0.02, -0.25, name, fontsize=8.5, color=style.GREY, clip_on=False)
    scale = figure.colorbar(ScalarMappable(Normalize(0, most), style.RISING), ax=axes, aspect=16)
    scale.ax.yaxis.set_major_formatter(PercentFormatter(1))
    scale.set_label("size of the change beside the weight")
    axes.set_title(title, pad=22)
    missed = sorted({kind for name, (kind, *_) in found.items() if name not in changes})
    words = f"{len(changes)} of {len(found)} layers are changed, by up to {most:.0%} of their weight"
    missing = f"not changed are layers of {' and '.join(missed) or 'none'}"
    return style.describe(figure, f"{title or 'Layers'}: {words}; {missing}.")


@style.styled
def plot_grid(
    pictures: Sequence[Sequence[np.ndarray]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    notes: Sequence[Sequence[str]],
    beside: tuple[np.ndarray, str, str] | None = None,
    title: str = "",
) -> Figure:
    """Pictures (height, width, 3) in a table, its rows and columns named, a note under each.

    `beside`: one more picture on the right, with its name and note, which the others are held against.
    """
    shown = [to_frames(np.stack([np.asarray(one) for one in row])) for row in pictures]
    left, gap, above, below = 1.05, 0.06, 0.5 if title else 0.28, 0.24
    side = min(1.55, (style.WIDTH - left) / len(columns) - gap)
    tall = side * shown[0].shape[1] / shown[0].shape[2]
    right = left + len(columns) * (side + gap)  # where the table ends
    high, wide = above + len(rows) * (tall + below), right + (0.2 + side if beside else 0)
    figure = Figure(figsize=(wide, high))
    for row, (name, line) in enumerate(zip(rows, shown, strict=True)):
        low = high - above - row * (tall + below) - tall
        figure.text((left - 0.12) / wide, (low + tall / 2) / high, name, ha="right", va="center", fontsize=9)
        for column, picture in enumerate(line):
            x = left + column * (side + gap)
            axes = style.bare(figure.add_axes((x / wide, low / high, side / wide, tall / high)))
            axes.imshow(picture, interpolation="lanczos")
            axes.set_xlabel(notes[row][column], fontsize=7.8, labelpad=2.5, color=style.GREY)
            if row == 0:
                axes.set_title(columns[column], fontsize=9, loc="center", pad=4)
    told = [f"{name}: {', '.join(line)}" for name, line in zip(rows, notes, strict=True)]
    if beside:
        picture, name, note = beside
        place = (right + 0.2) / wide, (high - tall) / 2 / high, side / wide, tall / high
        axes = style.bare(figure.add_axes(place))
        axes.imshow(to_frames(np.asarray(picture)[None])[0], interpolation="lanczos")
        axes.set_title(name, fontsize=9, loc="center", pad=4)
        axes.set_xlabel(note, fontsize=7.8, labelpad=2.5, color=style.GREY)
        told.append(f"beside it {name}, {note}")
    style.page_title(figure, title)
    return style.describe(
        figure, f"{title or 'A grid'}. Across: {', '.join(columns)}. Down: {'; '.join(told)}."
    )


def explore_loras(
    paint: Callable[[Mapping[str, float]], Frames], strengths: Mapping[str, float], *, fps: float
) -> Panel:
    """A slider for each LoRA; the video is painted anew when one of them is let go.

    `strengths`: where the sliders start, {name: strength}; `paint(strengths)` gives a video (frames, height, width, 3).
    """
    import ipywidgets

    controls = {
        name: ipywidgets.FloatSlider(
            value=value, min=-1, max=2, step=0.1, description=name, continuous_update=False,
            layout=ipywidgets.Layout(width="300px"), style={"description_width": "initial"},
        )
        for name, value in strengths.items()
    }  # fmt: skip

    def draw(**chosen: float) -> tuple[np.ndarray, str]:
        said = ", ".join(f"{name} {strength:g}" for name, strength in chosen.items())
        return draw_strip(
            np.asarray(paint(chosen)), said, fps=fps
        ), f"Film strip with LoRAs at these strengths: {said}"

    return Panel(controls, draw, meanwhile="Painting anew: the picture below is still the one before.").show()
