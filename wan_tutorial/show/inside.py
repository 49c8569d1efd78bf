"""The transformer from inside: the way through it, tokens, the clocks of place, what the time does, who looks when.

In: shapes and plain tables of numbers. Out: figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.video import Frames, strip_frames, to_frames

Numbers = Any  # a tensor or an array
ACROSS = style.WIDTH


@style.styled
def plot_transformer(
    grid: Sequence[int], *, channels: int, dim: int, blocks: int, words: int, title: str = ""
) -> Figure:
    """The way of a latent through the transformer, with the shape of what flows; `grid`: frames, rows and columns of
    tokens, `words`: rows of the text."""
    figure = Figure(figsize=(ACROSS, 3.0))
    axes = style.bare(figure.add_axes((0, 0, 1, 1)))
    axes.set(xlim=(0, ACROSS), ylim=(0, 3.0), autoscale_on=False)
    frames, rows, columns = grid
    tokens = frames * rows * columns
    latent = f"({channels}, {frames}, {2 * rows}, {2 * columns})"
    style.box(axes, (3.06, 0.46, 3.86, 1.44), "#fbeee4")
    style.put(axes, 4.98, 0.27, f"{blocks} blocks, one after the other", 8.5, color=style.WORK)
    stages = (("self-attention", "every token looks\nat every token"), ("cross-attention", "every token looks\nat every word"),
              ("feed-forward", "every token\nfor itself"))  # fmt: skip
    for i, (name, what) in enumerate(stages):
        x = 3.20 + 1.23 * i
        style.box(axes, (x, 0.62, 1.10, 1.12), style.WORK)
        style.put(axes, x + 0.55, 1.48, name, 8.6, bold=True, color="white")
        style.put(axes, x + 0.55, 1.02, what, 7.4, color="white", linespacing=1.4)
    for x, width, name, what in (
        (1.42, 1.02, "cut", "patches of\n1 x 2 x 2 cells"),
        (7.44, 0.92, "join", "tokens back\nto cells"),
    ):
        style.box(axes, (x, 0.72, width, 0.92), style.LATENTS)
        style.put(axes, x + width / 2, 1.28, name, 9.5, bold=True, color="white")
        style.put(axes, x + width / 2, 1.02, what, 7.4, color="white")
    for start, end, colour in ((0.95, 1.42, style.LATENTS), (2.44, 3.06, style.GREY), (6.92, 7.44, style.GREY),
                               (8.36, 8.74, style.WORK)):  # fmt: skip
        style.arrow(axes, (start, 1.18), (end, 1.18), colour, lw=1.5, shrink=(1, 1))
    style.put(axes, 0.52, 1.30, "latent", va="bottom", color=style.LATENTS)
    style.put(axes, 0.52, 1.02, latent, 6.8, va="top", color=style.LATENTS, family=style.MONO)
    style.put(axes, 2.75, 1.36, f"{tokens:,}\ntokens", 7.4, va="bottom", color=style.GREY)
    style.put(axes, 2.75, 1.02, f"of {dim}\nnumbers", 7.4, va="top", color=style.GREY)
    style.put(axes, 8.96, 1.40, "velocity", va="bottom", color=style.WORK)
    style.put(axes, 8.96, 1.02, "as the\nlatent", 7.4, va="top", color=style.WORK)
    for name, what, x, target, colour in (
        ("time", "shifts, scales and gates", 2.20, 3.55, style.AMBER),
        ("place", "turns query and key", 3.95, 3.95, style.INK),
        ("words", f"{words} rows from the text encoder", 5.70, 4.98, style.EMBEDDINGS),
        ("time", "shifts, scales and gates", 7.60, 6.21, style.AMBER),
    ):
        style.put(axes, x, 2.74, name, 9.5, bold=True, color=colour)
        style.put(axes, x, 2.54, what, 7.6, color=style.GREY)
        style.arrow(axes, (x, 2.42), (target, 1.77), colour, lw=1.5, shrink=(1, 1))
    style.page_title(figure, title)
    return style.describe(
        figure,
        f"{title or 'Inside the transformer'}: a latent {latent} is cut into {tokens} tokens of {dim} numbers; {blocks} "
        f"blocks follow, each of self-attention, cross-attention to {words} rows of text and feed-forward; the place "
        "turns query and key of self-attention, the time shifts, scales and gates self-attention and feed-forward; the "
        "tokens are joined to a velocity of the latent's shape.",
    )


# ----------------------------------------------------------------------------------------------------- tokens


@style.styled
def plot_patches(frames: Frames, latent: Numbers, *, token: int, title: str = "") -> Figure:
    """Pictures of the latent frames, cut as the transformer cuts them, and the 64 numbers of one token.

    `frames` (F, height, width, 3): one picture for each latent frame; `latent` (1, 16, F, H, W).
    """
    pictures, cells = to_frames(frames), np.asarray(latent)[0]
    channels, count, height, width = cells.shape
    rows, columns = height // 2, width // 2
    if len(pictures) != count:
        raise WanError(f"Each of {count} latent frames needs its picture, and {len(pictures)} were given.")
    frame, row, column = (int(at) for at in np.unravel_index(token, (count, rows, columns)))
    left, side, gap = 0.02, 1.62, 0.07
    figure = Figure(figsize=(ACROSS, side + 0.62))
    high = side + 0.62
    tall, wide = pictures.shape[1:3]
    others = [place for place in strip_frames(count, 4) if place != frame]
    for at, place in enumerate(sorted([frame, *others[: 3 if count > 3 else count - 1]])):
        picture, x = pictures[place], left + at * (side + gap)
        axes = style.bare(figure.add_axes((x / ACROSS, 0.24 / high, side / ACROSS, side / high)))
        axes.imshow(picture, interpolation="lanczos", extent=(0, columns, rows, 0), aspect="auto")
        for line in range(1, max(rows, columns)):
            axes.axhline(line, color="white", lw=0.6, alpha=0.65)
            axes.axvline(line, color="white", lw=0.6, alpha=0.65)
        numbers = {0: "first", rows * columns - 1: "last"} if wide / columns > 4 else {}
        for number in numbers:
            y, across = divmod(number, columns)
            style.put(
                axes, across + 0.5, y + 0.5, str(place * rows * columns + number), 7, bold=True, color="white"
            )
        if place == frame:
            axes.add_patch(Rectangle((column, row), 1, 1, fc="none", ec=style.INK, lw=3.4))
            axes.add_patch(Rectangle((column, row), 1, 1, fc="none", ec=style.SKY, lw=1.8))
        axes.set_xlabel(f"latent frame {place}", fontsize=8, labelpad=3)
    x = left + min(count, 4) * (side + gap) + 0.55
    axes = style.bare(figure.add_axes((x / ACROSS, 0.24 / high, (ACROSS - x - 0.1) / ACROSS, side / high)))
    patch = cells[:, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(channels, 4)
    reach = float(np.abs(cells).max())
    axes.imshow(patch, cmap=style.AROUND, vmin=-reach, vmax=reach, aspect="auto")
    axes.set_xlabel("4 cells", fontsize=8, labelpad=3)
    axes.set_ylabel(f"{channels} channels", fontsize=8)
    axes.set_title(f"token {token}:\n{4 * channels} numbers", fontsize=8.5, pad=5)
    style.page_title(figure, title)
    return style.describe(
        figure,
        f"{title or 'Tokens'}: {count} latent frames cut into {rows} by {columns} patches, {count * rows * columns} tokens, "
        f"and the {4 * channels} numbers of token {token} in frame {frame}, row {row}, column {column}.",
    )


@style.styled
def plot_clocks(
    angles: Sequence[Numbers], *, axis: str, pairs: Sequence[int] = (0, 2, 4, 7, 11, 16), title: str = ""
) -> Figure:
    """Some channel pairs as clocks, and their hands at the positions 0, 1, 2 ... of one axis.

    `angles`: for each position the angles (radians) of that axis' pairs.
    """
    table = np.stack([np.asarray(one, dtype=np.float64) for one in angles])  # (positions, pairs)
    figure = Figure(figsize=(ACROSS, 1.85))
    colours = style.RISING(np.linspace(0.3, 0.98, len(table)))
    size = (ACROSS - 0.9) / len(pairs)
    for place, pair in enumerate(pairs):
        dial = min(size - 0.12, 1.12)
        axes = style.bare(
            figure.add_axes(((0.1 + place * size) / ACROSS, 0.24 / 1.85, dial / ACROSS, dial / 1.85))
        )
        axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
        around = np.linspace(0, 2 * np.pi, 120)
        axes.plot(np.cos(around), np.sin(around), color=style.FAINT, lw=1.2)
        for position, colour in enumerate(colours):
            x, y = np.cos(table[position, pair]), np.sin(table[position, pair])
            axes.plot([0, x], [0, y], color=colour, lw=1.8)
            axes.plot([x], [y], "o", color=colour, ms=3.5)
        turn = table[1, pair] - table[0, pair]
        axes.set_title(f"pair {pair}", fontsize=8.5, pad=3)
        axes.set_xlabel(f"{turn:.2g} rad a step", fontsize=7.5, labelpad=2, color=style.GREY)
    for position, colour in enumerate(colours):
        y = 0.70 - 0.085 * position
        figure.text(
            1 - 0.72 / ACROSS,
            y,
            f"{axis} {position}",
            color=colour,
            fontsize=8,
            fontweight="bold",
            va="center",
        )
    style.page_title(figure, title)
    speeds = ", ".join(f"pair {pair}: {table[1, pair] - table[0, pair]:.2g}" for pair in pairs)
    return style.describe(
        figure,
        f"{title or 'Clocks'}: hands of {len(pairs)} channel pairs at {len(table)} positions; radians a step, {speeds}.",
    )


# --------------------------------------------------------------------------------------------- time and moments


@style.styled
def plot_modulation(
    values: Mapping[str, Numbers], sigmas: Sequence[float], *, y: str = "root mean square", title: str = ""
) -> Figure:
    """What the time does, {name: (sigmas, blocks)}: a small plot for each, a line for each block against sigma."""
    names = list(values)
    columns = 3
    rows = -(-len(names) // columns)
    figure = style.new_figure(1.75 * rows + 0.35)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    told = []
    for axes, name in zip(grid.ravel(), names, strict=False):
        table = np.asarray(values[name], dtype=np.float64)
        for block, colour in enumerate(style.RISING(np.linspace(0.35, 0.98, table.shape[1]))):
            label = f"block {block}" if block in (0, table.shape[1] - 1) else None
            axes.plot(sigmas, table[:, block], color=colour, lw=1.6, label=label)
        axes.set_title(name, fontsize=9)
        axes.set_ylim(0, None)
        axes.grid(axis="y")
        told.append(
            f"{name} from {table[0].mean():.2g} at sigma {sigmas[0]:.2g} to {table[-1].mean():.2g} at {sigmas[-1]:.2g}"
        )
    for axes in grid[-1]:
        axes.set_xlabel("sigma")
    grid[0, 0].set_xlim(1.02, 0)  # as a run goes, from noise to clean; the axes share it
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    grid[0, -1].legend(loc="best", fontsize=7.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return style.describe(figure, f"{title or 'Modulation'}: {y} against sigma. " + "; ".join(told) + ".")


@style.styled
def plot_frame_tables(tables: Mapping[int, Numbers], *, title: str = "") -> Figure:
    """Who looks at which moment: for each block (a column) and head (a row) a table, frame looking by frame looked at.

    Of many blocks six are shown, of many heads the first four.
    """
    numbers = [list(tables)[at] for at in strip_frames(len(tables), 6)]
    stacks = {block: np.asarray(tables[block], dtype=np.float64)[:4] for block in numbers}
    heads, frames, _ = next(iter(stacks.values())).shape
    size = min(1.32, (ACROSS - 0.55) / len(stacks) - 0.08)
    top, bottom = 0.58, 0.42
    high = top + heads * (size + 0.1) + bottom
    figure = Figure(figsize=(ACROSS, high))
    for place, (block, stack) in enumerate(stacks.items()):
        for head in range(heads):
            x, y = 0.5 + place * (size + 0.08), high - top - head * (size + 0.1) - size
            axes = figure.add_axes((x / ACROSS, y / high, size / ACROSS, size / high))
            axes.imshow(stack[head], cmap=style.RISING, vmin=0, vmax=1)
            for spine in axes.spines.values():
                spine.set_color(style.FAINT)
                spine.set_visible(True)
            axes.tick_params(length=0, labelsize=7)
            axes.set_xticks(range(frames) if head == heads - 1 else [])
            axes.set_yticks(range(frames) if place == 0 else [])
            for (i, j), share in np.ndenumerate(stack[head]):
                if frames <= 6:
                    ink = "white" if share > 0.45 else style.INK
                    style.put(axes, j, i, f"{share:.0%}"[:-1], 6.6, color=ink)
            if head == 0:
                axes.set_title(f"block {block}", fontsize=8.5, pad=4)
            if place == 0:
                axes.set_ylabel(f"head {head}", fontsize=8.5)
    figure.text(0.5 / ACROSS, 0.08 / high, "across: the latent frame looked at; down: the frame that looks; numbers: per cent",
                fontsize=7.5, color=style.GREY, va="center")  # fmt: skip
    style.page_title(figure, title)
    own = {f"block {b}, head {h}": np.trace(s[h]) / frames for b, s in stacks.items() for h in range(heads)}
    least, most = min(own, key=own.__getitem__), max(own, key=own.__getitem__)
    return style.describe(
        figure,
        f"{title or 'Attention between frames'}: {len(stacks)} blocks with {heads} heads, each a table of {frames} by {frames} "
        f"latent frames. Most of its attention in its own frame: {most}, {own[most]:.0%}; least: {least}, {own[least]:.0%}.",
    )
