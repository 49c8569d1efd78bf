"""One look for every picture of the kit, and the way pictures reach a notebook, each with its description in words.

Stands under all of `show/`. In: a matplotlib figure or an array of pixels. Out: an image in the notebook whose
alternative text says what is to be seen. Figures are made without pyplot, so nothing is shown twice or kept open.
"""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

# After Okabe and Ito: eight colours that stay apart for all common kinds of colour blindness, and in grey print
# by their order of lightness.
INK, GREY, FAINT, PAPER = "#262626", "#737373", "#d9d9d9", "#ffffff"
BLUE, VERMILION, GREEN, AMBER, SKY, PINK = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
CYCLE = (BLUE, VERMILION, GREEN, PINK, AMBER, SKY, INK)

# The spaces a video passes through, and the network's own work: dark enough to carry white letters.
WORDS, EMBEDDINGS, LATENTS, PIXELS, WORK = AMBER, BLUE, "#a8447f", "#00795a", "#bf5300"

MONO = "DejaVu Sans Mono"  # for shapes
WIDTH = 9.2  # inches; a notebook's page at 100 dots an inch
DOTS = 160  # dots per inch of the picture itself: sharp on dense screens and in print

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.grid": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "image.interpolation": "nearest",
    "mathtext.fontset": "dejavusans",
}

# For numbers from small to large, and for numbers around a middle: the lightness tells the value by itself.
RISING = LinearSegmentedColormap.from_list(
    "rising", ["#fbfaf7", "#cfe3ee", "#7db8d8", "#2b83ba", "#08488a", "#051f45"]
)
AROUND = LinearSegmentedColormap.from_list(
    "around", ["#08488a", "#4f9bcb", "#d3e6f1", "#fbfaf7", "#f8d9bd", "#e58a3c", "#a84300"]
)

Plot = TypeVar("Plot", bound=Callable[..., Figure])


def styled(plot: Plot) -> Plot:
    """Draw a figure in the kit's style, whatever the reader's own matplotlib settings are."""

    @functools.wraps(plot)
    def plot_styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return plot(*args, **kwargs)

    return plot_styled  # type: ignore[return-value]


def new_figure(height: float, *, width: float = WIDTH) -> Figure:
    """An empty page, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def describe(figure: Figure, words: str) -> Figure:
    """Give a figure its alternative text: what a reader who cannot see it should know."""
    figure.set_label(" ".join(words.split()))
    return figure


def picture_grid(
    rows: int,
    columns: int,
    *,
    aspect: float,
    above: float = 0,
    below: float = 0,
    top: float = 0,
    bottom: float = 0,
    right: float = 0,
) -> tuple[Figure, np.ndarray]:
    """A page of bare axes for pictures, edge to edge, and the axes (rows, columns).

    `aspect` is height over width of a picture; `above` and `below` leave room at each, `top`, `bottom` and `right`
    on the page, in inches.
    """
    gap, edge = 0.035, 0.02
    cell = (WIDTH - right - 2 * edge - gap * (columns - 1)) / columns
    step = cell * aspect + above + below + gap
    height = top + rows * step + edge + bottom
    figure = Figure(figsize=(WIDTH, height))
    grid = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        left, low = edge + column * (cell + gap), height - top - row * step - above - cell * aspect
        place = (left / WIDTH, low / height, cell / WIDTH, cell * aspect / height)
        grid[row, column] = bare(figure.add_axes(place))
    return figure, grid


def page_title(figure: Figure, text: str) -> None:
    """A bold title at the top left of a page of pictures."""
    if text:
        high = figure.get_figheight()
        figure.text(0.02 / WIDTH, 1 - 0.05 / high, text, va="top", fontsize=10, fontweight="bold")


def bare(axes: Axes) -> Axes:
    """No frame, no ticks: for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def title(axes: Axes, text: str, *, note: str = "") -> None:
    """A bold title, and beside or under it a quiet note."""
    axes.set_title(text)
    if note:
        axes.text(1, 1.02, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=GREY)


# ------------------------------------------------------------------------------------------------- drawings' strokes

Point: TypeAlias = tuple[float, float]


def box(
    axes: Axes,
    place: tuple[float, float, float, float],
    colour: str,
    *,
    edge: str = "none",
    lw: float = 1.0,
    rounding: float = 0.09,
) -> None:
    """A filled box with round corners; `place`: left, low, width, height."""
    x, y, width, height = place
    shape = f"round,pad=0,rounding_size={rounding}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=colour, ec=edge, lw=lw))


def arrow(
    axes: Axes,
    start: Point,
    end: Point,
    colour: str,
    *,
    lw: float = 1.6,
    head: float = 11,
    shrink: Point = (2, 1),
) -> None:
    """An arrow, a little shorter than from `start` to `end`: by `shrink` points at either."""
    line = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=head, lw=lw, color=colour, shrinkA=shrink[0],
                           shrinkB=shrink[1])  # fmt: skip
    axes.add_patch(line)


def put(
    axes: Axes, x: float, y: float, words: str, size: float = 8, *, bold: bool = False, **more: Any
) -> None:
    """Words in a drawing, centred unless told otherwise; `more` as matplotlib's own text takes it."""
    weight = "bold" if bold else "normal"
    axes.text(x, y, words, fontsize=size, fontweight=weight, **{"ha": "center", "va": "center", **more})


# --------------------------------------------------------------------------------------------------- to bytes


def to_png(figure: Figure, *, dots: int = DOTS, colours: int | None = None) -> bytes:
    """A figure as PNG; with `colours`, reduced to so many, which makes line drawings three times smaller."""
    page = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(page, format="png", dpi=dots, metadata={"Software": None})
    if colours is None:
        return page.getvalue()
    small = io.BytesIO()
    whole = Image.open(page).convert(
        "RGB"
    )  # the colours that lie farthest apart: a rare one is not lost to a near one
    picture = whole.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


def to_jpeg(picture: np.ndarray, *, quality: int = 90) -> bytes:
    """Pixels (height, width, 3), uint8, as JPEG."""
    page = io.BytesIO()
    Image.fromarray(picture).save(page, format="jpeg", quality=quality, optimize=True)
    return page.getvalue()


def to_array(figure: Figure, *, dots: int = DOTS) -> np.ndarray:
    """A figure as pixels (height, width, 3), uint8."""
    return np.asarray(Image.open(io.BytesIO(to_png(figure, dots=dots))).convert("RGB"))


def to_html(data: bytes, *, kind: str, alt: str, width: int | None = None) -> str:
    """Image bytes as an `<img>` that carries its own data and its alternative text."""
    coded = base64.b64encode(data).decode()
    size = f' width="{width}"' if width else ""
    return f'<img src="data:image/{kind};base64,{coded}" alt="{html.escape(alt)}"{size}>'


# --------------------------------------------------------------------------------------------------- to the screen


def show_figure(figure: Figure, *, alt: str | None = None) -> None:
    """Show a figure in a notebook. Its alternative text is its own (see `describe`) unless another is given."""
    words = alt or str(figure.get_label())
    if not words:
        raise ValueError("A figure needs alternative text: pass alt='what is to be seen'.")
    pictures = [image for axes in figure.axes for image in axes.images]
    photographs = any(np.ndim(np.asarray(image.get_array())) == 3 for image in pictures)
    width = round(figure.get_figwidth() * 100)
    if photographs:
        _show(
            to_html(to_jpeg(to_array(figure, dots=110), quality=80), kind="jpeg", alt=words, width=width),
            words,
        )
    else:
        _show(to_html(to_png(figure, colours=96), kind="png", alt=words, width=width), words)


def show_picture(picture: np.ndarray, *, alt: str, width: int | None = None) -> None:
    """Show pixels (height, width, 3), uint8, in a notebook, with alternative text."""
    _show(to_html(to_jpeg(picture), kind="jpeg", alt=alt, width=width), alt)


def show_table(columns: list[str], rows: list[list[object]], *, caption: str = "") -> None:
    """Show a table in a notebook; the first column names the rows."""
    text = [[str(cell) for cell in row] for row in rows]
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th align='left'>{html.escape(row[0])}</th>"
        + "".join(f"<td align='left'>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in text
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    widths = [max(len(row[i]) for row in [columns, *text]) for i in range(len(columns))]
    plain = "\n".join(
        "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [columns, *text]
    )
    _show(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", plain)


def _show(page: str, words: str) -> None:
    from IPython.display import display

    display({"text/html": page, "text/plain": words}, raw=True)
