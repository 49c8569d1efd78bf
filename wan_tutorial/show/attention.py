"""Attention painted over the video: the squares of a frame lit by how much something looks at them.

In: videos, and maps of shares (F, rows, columns) with a number for each token. Out: pictures and a widget. A square is
a token. The scale is relative and drawn beside each row: 1 is the map's own mean, 2 is twice as much. Of the video only
an outline stands in a map, so that no square is bright because the video is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image, ImageDraw, ImageFilter

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.panel import Panel
from wan_tutorial.show.video import Frames, strip_frames, to_frames
from wan_tutorial.show.widgets import WIDTH, _font
from wan_tutorial.taps import word_map

if TYPE_CHECKING:
    from torch import Tensor

Map = Any  # a tensor or an array (F, rows, columns)
MOST = 6  # latent frames side by side
EDGE, SCALE = 0.06, 1.55  # inches: left of a row's name, and how long its scale is
WEAKEST = 0.75  # the scale spans at least this and its reciprocal: a map that hardly differs is not blown up
OUTLINE, STRENGTH = 0.55, 0.65  # the grey of the video's outline in a map, and how much it covers
# From dark to light in one sweep, so that it reads in grey print and without red or green.
LIGHT = LinearSegmentedColormap.from_list(
    "light", ["#10192e", "#37336b", "#93366f", "#dd6a3b", "#f6b545", "#fff3c4"]
)


def latent_moments(video: Frames) -> np.ndarray:
    """One pixel frame for each latent frame: the first, then the third of every four. (4k + 1, ...) -> (k + 1, ...)."""
    frames = to_frames(video)
    return frames[[0, *range(3, len(frames), 4)]]


def light_map(shares: Map, frames: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A map as squares with the outlines of frames (F, height, width, 3), and the ends of its scale as multiples of
    the map's mean."""
    relative = np.asarray(shares, dtype=np.float64)
    relative = relative / max(relative.mean(), 1e-12)
    if relative.shape[0] != len(frames):
        raise WanError(
            f"A map of {relative.shape[0]} latent frames needs as many pictures, not {len(frames)}: take "
            "latent_moments(video)."
        )
    low, high = min(float(relative.min()), WEAKEST), max(float(relative.max()), 1 / WEAKEST)
    level = (relative - low) / max(high - low, 1e-9)  # (F, rows, columns)
    rows, columns = (size // n for size, n in zip(frames.shape[1:3], relative.shape[1:], strict=True))
    colour = LIGHT(level)[..., :3].repeat(rows, axis=1).repeat(columns, axis=2)
    line = _outline(frames)
    colour[line] = (1 - STRENGTH) * colour[line] + STRENGTH * OUTLINE
    return (255 * colour).astype(np.uint8), low, high


def _outline(frames: np.ndarray) -> np.ndarray:
    """Where the bright parts of frames (F, height, width, 3) end: (F, height, width), true on a line one pixel wide."""
    soft = ImageFilter.GaussianBlur(1.2)  # without specks
    light = np.stack([np.asarray(Image.fromarray(frame).convert("L").filter(soft)) for frame in frames])
    bright = light > light.mean()
    line = np.zeros_like(bright)
    line[:, :-1] |= bright[:, :-1] != bright[:, 1:]
    line[:, :, :-1] |= bright[:, :, :-1] != bright[:, :, 1:]
    return line


@style.styled
def plot_light(
    maps: Mapping[str, Map],
    video: Frames,
    *,
    spot: tuple[int, int, int] | None = None,
    title: str = "",
    alt: str = "",
) -> Figure:
    """The video's moments, and under them one row for each map {name: (F, rows, columns)} with its scale.

    `spot`: a token (frame, row, column) to be marked with a ring, such as the one whose view the maps are.
    """
    moments = latent_moments(video)
    lit = {name: light_map(shares, moments) for name, shares in maps.items()}
    chosen = strip_frames(len(moments), MOST)
    names = ["the video", *lit]
    figure, grid, cell = _label_grid(len(names), moments[chosen], top=0.42 if title else 0.2)
    rows = {"the video": (moments, 0.0, 0.0), **lit}
    for axes_row, name in zip(grid, names, strict=True):
        frames, low, high = rows[name]
        for axes, frame in zip(axes_row, frames[chosen], strict=True):
            axes.imshow(frame, interpolation="lanczos" if name == "the video" else "nearest")
        place, up = axes_row[0].get_position(), 0.64 if high else 0.5
        figure.text(EDGE / figure.get_figwidth(), place.y0 + up * place.height, name, va="center", fontsize=9,
                    fontweight="bold")  # fmt: skip
        if high:
            _plot_scale(figure, place, low, high)
    for place, axes in zip(chosen, grid[0], strict=True):
        axes.set_title(f"latent frame {place}", fontsize=8, fontweight="normal", color=style.GREY, pad=3)
    if spot and spot[0] in chosen:
        _mark_spot(grid[:, chosen.index(spot[0])], spot, moments.shape[1:3], next(iter(maps.values())))
    style.page_title(figure, title)
    told = "; ".join(
        f"{name}: {low:.2f} to {high:.2f} times its mean" for name, (_, low, high) in lit.items()
    )
    return style.describe(
        figure, f"{alt or title or 'Attention over the video'}. {len(moments)} moments; {told}."
    )


def _label_grid(rows: int, moments: np.ndarray, *, top: float) -> tuple[Figure, np.ndarray, float]:
    """Axes for rows of frames with room for a name at their left."""
    left, gap = EDGE + SCALE + 0.15, 0.05
    cell = min(1.45, (style.WIDTH - left) / len(moments) - gap)
    aspect = moments.shape[1] / moments.shape[2]
    width, height = left + len(moments) * (cell + gap), top + rows * (cell * aspect + gap)
    figure = Figure(figsize=(width, height))
    grid = np.empty((rows, len(moments)), dtype=object)
    for row, column in np.ndindex(rows, len(moments)):
        x, y = left + column * (cell + gap), height - top - row * (cell * aspect + gap) - cell * aspect
        place = (x / width, y / height, cell / width, cell * aspect / height)
        grid[row, column] = style.bare(figure.add_axes(place))
    return figure, grid, cell


def _plot_scale(figure: Figure, beside: Bbox, low: float, high: float) -> None:
    """The scale of a row's light at the row's left: its colours, and its ends as multiples of the map's mean."""
    width, height = figure.get_size_inches()
    middle = beside.y0 + 0.44 * beside.height
    place = (EDGE / width, middle - 0.05 / height, SCALE / width, 0.1 / height)
    axes = style.bare(figure.add_axes(place))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=LIGHT, aspect="auto")
    for x, text, align in (
        (0, f"{low:.2f}", "left"),
        (0.5, "times its mean", "center"),
        (1, f"{high:.2f}", "right"),
    ):
        axes.text(x, -0.5, text, transform=axes.transAxes, ha=align, va="top", fontsize=7.5, color=style.GREY)


def _mark_spot(
    column_of_axes: np.ndarray, spot: tuple[int, int, int], pixels: tuple[int, ...], shares: Map
) -> None:
    _, row, column = spot
    rows, columns = np.asarray(shares).shape[1:]
    y, x = (row + 0.5) * pixels[0] / rows - 0.5, (column + 0.5) * pixels[1] / columns - 0.5
    for axes in column_of_axes:
        axes.plot([x], [y], "o", ms=11, mfc="none", mec="white", mew=2.6)
        axes.plot([x], [y], "o", ms=11, mfc="none", mec=style.SKY, mew=1.3)


# ------------------------------------------------------------------------------------------------------ the widget


def explore_attention(
    looks: Mapping[str, Mapping[int, Tensor]],
    guesses: Mapping[str, Frames],
    pieces: Sequence[str],
    *,
    word: str,
    step: str | None = None,
) -> Panel:
    """Pick a word, a step and a layer, and see which places of the video read it.

    `looks`: {step: {block: (F, rows, columns, L)}}, as `taps.look_inside` gives them; `guesses`: {step: video}, what the
    model believed at that step; `pieces`: the prompt's tokens.
    """
    import ipywidgets

    spots = word_rows(pieces)
    if word not in spots:
        raise WanError(f"The word {word!r} is not in the prompt: choose one of {', '.join(spots)}.")
    first = next(iter(looks.values()))
    steps, layers = list(looks), ["mean of all", *map(str, first)]
    moments = {step: latent_moments(video) for step, video in guesses.items()}
    wide = ipywidgets.Layout(width="300px")
    controls = {
        "word": ipywidgets.Dropdown(options=list(spots), value=word, description="word", layout=wide),
        "step": ipywidgets.SelectionSlider(
            options=steps, value=step or steps[0], description="step", readout=False, layout=wide
        ),
        "layer": ipywidgets.Dropdown(options=layers, value=layers[0], description="layer", layout=wide),
    }

    def draw(word: str, step: str, layer: str) -> tuple[np.ndarray, str]:
        tables = {block: table for block, table in looks[step].items() if layer in (layers[0], str(block))}
        shares = word_map(tables, spots[word], len(pieces)).numpy()
        told = f"Attention explorer: which places of the video read the word {word!r} at step {step}, layer: {layer}"
        return draw_light(shares, moments[step], f"{word!r}", f"step {step}, layer: {layer}"), told

    return Panel(controls, draw).show()


def word_rows(pieces: Sequence[str]) -> dict[str, list[int]]:
    """The rows of each word of a prompt: {"sword": [1]}. A word that comes again gets a number, "in (2)"; commas and
    the end are no words."""
    rows: dict[str, list[int]] = {}
    name = ""
    for index, piece in enumerate(pieces):
        spoken = piece.removeprefix("\u2581")
        if not spoken[:1].isalnum():
            name = ""
            continue
        if spoken != piece or not name:
            again = 1 + sum(known.split(" (")[0] == spoken for known in rows)
            name = f"{spoken} ({again})" if again > 1 else spoken
        rows.setdefault(name, []).append(index)
    return rows


def draw_light(shares: np.ndarray, moments: np.ndarray, name: str, note: str) -> np.ndarray:
    """A board with the moments above and the same moments lit by a map below, WIDTH wide; quick enough to drag."""
    lit, low, high = light_map(shares, moments)
    chosen = strip_frames(len(moments), MOST)
    moments, lit = moments[chosen], lit[chosen]
    left, gap, title = 196, 6, 34
    side = min(170, (WIDTH - left) // len(moments) - gap)
    tall = round(side * moments.shape[1] / moments.shape[2])
    page = Image.new("RGB", (WIDTH, title + 2 * (tall + gap) + 4), style.PAPER)
    pen, small = ImageDraw.Draw(page), _font(12)
    pen.text((4, 6), name, style.INK, _font(17))
    pen.text((WIDTH - gap, 10), note, style.GREY, small, anchor="ra")
    for row, (frames, smooth) in enumerate(((moments, True), (lit, False))):
        filter = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        for place, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize((side, tall), filter)
            page.paste(picture, (left + place * (side + gap), title + row * (tall + gap)))
    pen.multiline_text((4, title + tall // 2 - 12), "the clean guess\nat this step", style.GREY, small)
    _draw_scale(pen, (4, title + tall + gap + tall // 2 - 20), low, high, float(shares.mean()))
    return np.asarray(page)


def _draw_scale(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], low: float, high: float, mean: float
) -> None:
    """The scale of the light: its ends as multiples of the mean, and what the mean is."""
    (x, y), long = corner, 150
    for i in range(long):
        colour = tuple(int(255 * part) for part in LIGHT(i / long)[:3])
        pen.line((x + i, y, x + i, y + 12), fill=colour)
    small = _font(11)
    pen.text((x, y + 16), f"{low:.2f}", style.GREY, small)
    pen.text((x + long, y + 16), f"{high:.2f}", style.GREY, small, anchor="ra")
    pen.text((x, y - 18), "times the word's mean", style.GREY, small)
    pen.text((x, y + 34), f"mean: {mean:.1%} of what words get", style.GREY, small)
