"""Words as pictures: a prompt cut into tokens, how alike embeddings are, and a map of many prompts.

In: pieces, ids, matrices, points. Out: figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.curves import _numbers
from wan_tutorial.show.latents import plane_of

if TYPE_CHECKING:
    from torch import Tensor

SPACE = "\u2581"  # how SentencePiece writes the space before a word


@style.styled
def plot_tokens(
    pieces: Sequence[str], ids: Sequence[int], *, title: str = "", length: int | None = None
) -> Figure:
    """A prompt as the tokenizer cuts it: each piece a chip with its id; chips that touch belong to one word.

    With `length`, the note says how many empty places follow.
    """
    figure = Figure(figsize=(style.WIDTH, 1))
    axes = style.bare(figure.add_axes((0, 0, 1, 1)))
    widths = [0.118 * max(len(piece.replace(SPACE, "")), 2) + 0.12 for piece in pieces]
    x, y, line, left = 0.06, 0.0, 0.62, 0.06
    spots: list[tuple[float, float]] = []
    for piece, width in zip(pieces, widths, strict=True):
        gap = 0.0 if not spots else 0.1 if piece.startswith(SPACE) or piece == "</s>" else 0.015
        if x + gap + width > style.WIDTH - 0.06:
            x, y, gap = left, y + line, 0
        x += gap
        spots.append((x, y))
        x += width
    top, height = 0.36 if title else 0.06, y + line
    figure.set_size_inches(style.WIDTH, height + top + 0.04)
    axes.set(xlim=(0, style.WIDTH), ylim=(height + 0.04, -top))
    for (cx, cy), piece, number, width in zip(spots, pieces, ids, widths, strict=True):
        special = piece in ("</s>", "<unk>", "<pad>")
        face, edge = ("#f0f0f0", style.GREY) if special else ("#fdf1d8", style.AMBER)
        style.box(axes, (cx, cy, width, 0.33), face, edge=edge, lw=0.9, rounding=0.05)
        style.put(axes, cx + width / 2, cy + 0.172, piece.replace(SPACE, "") or "\u2423", 9.5)
        style.put(axes, cx + width / 2, cy + 0.44, str(number), 7, color=style.GREY)
    if title:
        axes.text(0.06, -0.15, title, fontsize=10, fontweight="bold", va="center")
    if length:
        note = f"{len(pieces)} tokens, then {length - len(pieces)} rows of zeros"
        axes.text(style.WIDTH - 0.06, -0.15, note, fontsize=8, color=style.GREY, ha="right", va="center")
    said = ", ".join(piece.replace(SPACE, "") for piece in pieces)
    return style.describe(figure, f"{title or 'Tokens'}: {len(pieces)} pieces: {said}.")


@style.styled
def plot_cosines(
    matrix: Tensor | np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str = ""
) -> Figure:
    """How alike two lists of vectors are: cosines from -1 to 1, a square for each pair, with its number."""
    cosines = np.asarray(matrix, dtype=np.float64)
    if cosines.shape != (len(rows), len(columns)):
        raise WanError(
            f"A table of cosines needs a label for each row and column: {cosines.shape} was given with "
            f"{len(rows)} and {len(columns)} labels."
        )
    longest = max(len(row) for row in rows) * 0.066
    cell = min(0.62, (style.WIDTH - longest - 1.0) / len(columns))
    high = max(cell * 0.62, 0.23)
    below = max(len(c) for c in columns) * 0.05 + 0.15
    figure = style.new_figure(
        high * len(rows) + below + 0.5, width=max(cell * len(columns) + longest + 1.0, 4.0)
    )
    axes = figure.subplots()
    low = min(0.0, float(cosines.min()))
    colours = style.AROUND if low < -0.05 else style.RISING
    limits = (-1, 1) if low < -0.05 else (0, 1)
    picture = axes.imshow(cosines, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if cell > 0.3:
        _write_numbers(axes, cosines, limits)
    bar = figure.colorbar(picture, ax=axes, fraction=0.025, pad=0.015)
    bar.outline.set_visible(False)
    bar.set_label("cosine", fontsize=8)
    style.title(axes, title)
    row, column = divmod(int(np.argmax(np.where(cosines > 0.9999, -2, cosines))), len(columns))
    alike = f"most alike apart from equals: {rows[row]} and {columns[column]}, {cosines[row, column]:.2f}"
    return style.describe(figure, f"{title or 'Cosines'}: {len(rows)} by {len(columns)}; {alike}.")


def _write_numbers(axes, cosines: np.ndarray, limits: tuple[float, float]) -> None:
    for (row, column), value in np.ndenumerate(cosines):
        dark = value > 0.55 if limits[0] == 0 else abs(value) > 0.75
        text = f"{value:.2f}".replace("0.", ".", 1)
        style.put(axes, column, row, text, 7.5, color="white" if dark else style.INK)


@style.styled
def plot_prompt_map(
    vectors: Tensor | np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    colours: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """Prompts as points in the plane where their embeddings (N, D) differ most; a colour and a mark for each group.

    `colours` {group: colour}: where a group's own name is a colour, it should have that one.
    """
    places, shares = plane_of(_numbers(vectors))
    figure = style.new_figure(4.6, width=style.WIDTH * 0.9)
    axes = figure.subplots()
    colours = colours or dict(zip(dict.fromkeys(groups), style.CYCLE, strict=False))
    for (group, colour), mark in zip(colours.items(), "osD^vP*", strict=False):
        mine = [i for i, other in enumerate(groups) if other == group]
        axes.scatter(
            places[mine, 0],
            places[mine, 1],
            s=52,
            color=colour,
            marker=mark,
            label=group,
            edgecolor="white",
            lw=0.8,
            zorder=3,
        )
    axes.set(
        xlabel=f"first direction ({shares[0]:.0%} of the differences)", ylabel=f"second ({shares[1]:.0%})"
    )
    axes.margins(0.12)
    axes.grid()
    axes.legend(loc="best")
    style.title(axes, title)
    _label_points(figure, axes, places, labels)
    counts = ", ".join(f"{list(groups).count(g)} {g}" for g in dict.fromkeys(groups))
    return style.describe(figure, f"{title or 'Map of prompts'}: {len(labels)} prompts as points ({counts}).")


def _label_points(figure: Figure, axes: Axes, places: np.ndarray, labels: Sequence[str]) -> None:
    """A name beside each point, on the first of four sides where it meets no other name and no point."""
    figure.draw_without_rendering()  # only then is it known where things stand on the page
    spots = axes.transData.transform(places)  # (N, 2), in dots
    taken: list[Bbox] = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in spots]
    sides = {(8, 0): "left center", (-8, 0): "right center", (0, 8): "center bottom", (0, -8): "center top"}
    for (x, y), label in zip(places, labels, strict=True):
        for number, (side, align) in enumerate(sides.items(), 1):
            across, up = align.split()
            name = axes.annotate(label, (x, y), side, textcoords="offset points", fontsize=7.5, color=style.GREY,
                                 ha=across, va=up)  # fmt: skip
            box = name.get_window_extent()
            inside = box.x0 > axes.bbox.x0 and box.x1 < axes.bbox.x1
            if number == len(sides) or (inside and not any(box.overlaps(other) for other in taken)):
                break
            name.remove()
        taken.append(box)


def cosine_matrix(rows: Tensor | np.ndarray, columns: Tensor | np.ndarray) -> np.ndarray:
    """The cosine of each of `rows` (N, D) with each of `columns` (M, D): (N, M)."""
    a, b = _numbers(rows), _numbers(columns)
    a = a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    return a @ (b / np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-12)).T
