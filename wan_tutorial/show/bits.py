"""Packed weights as pictures: what a file is made of, the bytes of one block, and what fewer bits cost.

In: headers, raw bytes, weights, numbers. Out: figures and widgets. Blue are a weight's own bits, pink the scales of its
group, amber the block's 16-bit floats, here and in all of lesson 05.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image, ImageDraw

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.panel import Panel
from wan_tutorial.show.widgets import WIDTH, _font

if TYPE_CHECKING:
    from torch import Tensor

    from wan_tutorial.files import Header

LOW, HIGH, SCALES, HALVES = "lower bits", "upper bits", "scales of groups", "scale of the block"
COLOURS = {LOW: style.BLUE, HIGH: style.SKY, SCALES: style.PINK, HALVES: style.AMBER}

# The fields of a block in the order of its bytes (ggml's `ggml-common.h`); tests hold their sums against gguf's.
FIELDS: dict[str, tuple[tuple[str, int], ...]] = {
    "Q8_0": ((HALVES, 2), (LOW, 32)),
    "Q5_1": ((HALVES, 4), (HIGH, 4), (LOW, 16)),
    "Q5_0": ((HALVES, 2), (HIGH, 4), (LOW, 16)),
    "Q4_1": ((HALVES, 4), (LOW, 16)),
    "Q4_0": ((HALVES, 2), (LOW, 16)),
    "Q6_K": ((LOW, 128), (HIGH, 64), (SCALES, 16), (HALVES, 2)),
    "Q5_K": ((HALVES, 4), (SCALES, 12), (HIGH, 32), (LOW, 128)),
    "Q4_K": ((HALVES, 4), (SCALES, 12), (LOW, 128)),
    "Q3_K": ((HIGH, 32), (LOW, 64), (SCALES, 12), (HALVES, 2)),
    "Q2_K": ((SCALES, 16), (LOW, 64), (HALVES, 4)),
}
TYPE_COLOURS = {"F32": style.INK, "F16": style.GREY, "Q3_K": style.BLUE, "Q2_K": style.SKY, "Q4_K": style.GREEN,
                "Q5_K": style.PINK, "Q6_K": style.AMBER, "Q8_0": style.VERMILION}  # fmt: skip
PIXELS = 1300  # of a map's length, as it is shown
_BLOCK = re.compile(r"(?:^|\.)((?:vace_)?blocks\.\d+)\.")


# ------------------------------------------------------------------------------------------------------ files


@style.styled
def plot_files(headers: Mapping[str, Header], *, title: str = "") -> Figure:
    """Files as maps on one scale of megabytes, {name: header}: tensors in the order of the file, in the colour of their
    type, but for those thinner than a pixel; white lines where a block of the transformer begins."""
    figure = style.new_figure(0.75 + 0.62 * len(headers))
    axes = figure.subplots()
    used: dict[str, str] = {}
    told = []
    pixel = (
        max(entry.offset + entry.bytes for header in headers.values() for entry in header.entries) / PIXELS
    )
    for row, (name, header) in enumerate(headers.items()):
        for kind, start, stop in _pieces(header, pixel):
            colour = used.setdefault(kind, TYPE_COLOURS.get(kind, style.VERMILION))
            axes.barh(row, (stop - start) / 1e6, left=start / 1e6, height=0.62, color=colour, lw=0)
        starts = _block_starts(header)
        for start in starts:
            axes.plot([start / 1e6] * 2, [row - 0.31, row + 0.31], color="white", lw=0.7)
        end = max(entry.offset + entry.bytes for entry in header.entries) / 1e6
        axes.text(end * 1.005, row, f" {end:.1f} MB", va="center", fontsize=8.5)
        told.append(f"{name}: {len(header.entries)} tensors, {len(starts)} blocks, {end:.1f} MB")
    axes.set_yticks(range(len(headers)), list(headers))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("place in the file, MB")
    axes.margins(x=0.09)
    axes.set_xlim(0, None)
    axes.legend(handles=[Patch(color=colour, label=kind) for kind, colour in used.items()], ncols=len(used),
                loc="lower right", bbox_to_anchor=(1, 1))  # fmt: skip
    style.title(axes, title)
    return style.describe(figure, f"{title or 'Files as maps'}. {'; '.join(told)}. Types: {', '.join(used)}.")


def _pieces(header: Header, thin: float) -> list[tuple[str, int, int]]:
    """The runs of one type in a file, (type, first byte, end); a run of fewer bytes than `thin` goes to the one before."""
    pieces: list[tuple[str, int, int]] = []
    for entry in sorted(header.entries, key=lambda entry: entry.offset):
        start, end = entry.offset, entry.offset + entry.bytes
        if pieces and pieces[-1][0] == entry.type:
            start = pieces.pop()[1]
        pieces.append((entry.type, start, end))
    shown = pieces[:1]
    for kind, start, end in pieces[1:]:
        before, first, _ = shown[-1]
        if end - start < thin or kind == before:
            shown[-1] = before, first, end
        else:
            shown.append((kind, start, end))
    return shown


def _block_starts(header: Header) -> list[int]:
    """Where the transformer's blocks begin in a file, in bytes."""
    starts: dict[str, int] = {}
    for entry in header.entries:
        if block := _BLOCK.search(entry.name):
            starts[block[1]] = min(entry.offset, starts.get(block[1], entry.offset))
    return sorted(starts.values())


@style.styled
def plot_block_types(types: Sequence[str], *, title: str = "Where the bits go") -> Figure:
    """For each block type the bits of a weight: its own, its part of the scales, its part of the block's numbers."""
    from wan_tutorial.quantization import BLOCK_TYPES

    figure = style.new_figure(0.95 + 0.3 * len(types))
    axes = figure.subplots()
    for row, name in enumerate(types):
        left = 0.0
        for kind in COLOURS:
            bits = sum(8 * size for field, size in FIELDS[name] if field == kind) / BLOCK_TYPES[name].weights
            axes.barh(
                row, bits, left=left, height=0.66, color=COLOURS[kind], label=kind if row == 0 else None
            )
            left += bits
        axes.text(left + 0.06, row, f"{left:.5g}", va="center", fontsize=8.5)
    axes.set_yticks(range(len(types)), [f"{name}, {BLOCK_TYPES[name].weights} weights" for name in types])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bits per weight")
    handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    axes.legend(handles=handles, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    style.title(axes, title)
    told = ", ".join(f"{name} {BLOCK_TYPES[name].bits_per_weight:.4g}" for name in types)
    return style.describe(figure, f"{title}. Bits per weight: {told}.")


# ------------------------------------------------------------------------------------------------- one block


def q3_k_bits(weight: int) -> dict[str, list[tuple[int, int]]]:
    """Which bits of a Q3_K block make weight number 0 to 255: {field: [(byte of the block, bit of the byte), ...]}, the
    lowest bit of each number first."""
    half, within = divmod(weight, 128)
    shift, group = 2 * (within // 32), weight // 16
    return {
        LOW: [(32 + 32 * half + weight % 32, shift + bit) for bit in (0, 1)],
        HIGH: [(weight % 32, weight // 32)],
        SCALES: [(96 + group % 8, 4 * (group // 8) + bit) for bit in range(4)]
        + [(104 + group % 4, 2 * (group // 4) + bit) for bit in (0, 1)],
        HALVES: [(108 + bit // 8, bit % 8) for bit in range(16)],
    }


# What stands in each row of the drawing: field, words, first byte, bytes.
ROWS = (
    (HIGH, "third bits\nof 256 weights", 0, 32),
    (LOW, "lower two bits,\nweights 0-127", 32, 32),
    (LOW, "lower two bits,\nweights 128-255", 64, 32),
    (SCALES, "16 scales\nof six bits", 96, 12),
    (HALVES, "the block's\nscale d", 108, 2),
)
SHARP = 2  # pixels for each dot


def draw_block(raw: Tensor | np.ndarray, weight: int) -> np.ndarray:
    """The 110 bytes of a Q3_K block, each with its value in hexadecimal, coloured by what it is for; (height, width, 3).

    The bytes that hold `weight`, 0 to 255, stand out, and its bits are worked out below them.
    """
    data = [int(byte) for byte in np.asarray(raw).ravel()]
    if len(data) != 110:
        raise WanError(f"A Q3_K block has 110 bytes, not {len(data)}: take raw[:110] of a tensor.")
    held = _bytes_of(weight)
    cell, gap, left, y = 23, 2, 104, 10
    page = Image.new("RGB", (WIDTH * SHARP, 300 * SHARP), style.PAPER)
    pen = ImageDraw.Draw(page)
    for kind, said, start, count in ROWS:
        pen.multiline_text((4 * SHARP, (y + 3) * SHARP), said, style.INK, _font(10 * SHARP))
        for index, byte in enumerate(range(start, start + count)):
            x, strong = left + index * (cell + gap), byte in held
            box = [x * SHARP, y * SHARP, (x + cell) * SHARP, (y + cell) * SHARP]
            face, edge = (COLOURS[kind], style.INK) if strong else (_pale(COLOURS[kind]), None)
            pen.rectangle(box, fill=face, outline=edge, width=2 * SHARP)
            ink = "#ffffff" if strong and kind == LOW else style.INK
            _put(pen, x + cell / 2, y + cell / 2, f"{data[byte]:02x}", 10, ink=ink)
        y += cell + 10
    _draw_sum(pen, data, weight, y + 6)
    return np.asarray(page)


def _bytes_of(weight: int) -> list[int]:
    """The bytes of a block that hold a weight, in order."""
    return sorted({byte for spots in q3_k_bits(weight).values() for byte, _ in spots})


def _pale(colour: str, share: float = 0.72) -> tuple[int, int, int]:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return tuple(round(part + (255 - part) * share) for part in parts)  # type: ignore[return-value]


def _put(pen: Any, x: float, y: float, words: str, size: int, *, ink: str = style.INK, bold: bool = False):
    """Words in the drawing, around a place."""
    pen.text((x * SHARP, y * SHARP), words, ink, _font(size * SHARP, bold=bold), anchor="mm")


def _draw_sum(pen: Any, data: list[int], weight: int, y: int) -> None:
    """The bits that make a weight, and the sum that makes it."""
    read = {
        kind: "".join(str(data[byte] >> bit & 1) for byte, bit in reversed(spots))
        for kind, spots in q3_k_bits(weight).items()
    }
    value = {kind: int(digits, 2) for kind, digits in read.items()}
    d = float(np.array([value[HALVES]], dtype=np.uint16).view(np.float16)[0])
    q, s = value[LOW] + 4 * value[HIGH] - 4, value[SCALES] - 32
    cards = (
        (HIGH, "third bit", f"4 x {value[HIGH]}"),
        (LOW, "lower two", f"+ {value[LOW]} - 4  =  q = {q}"),
        (SCALES, f"scale of group {weight // 16}", f"{value[SCALES]} - 32  =  s = {s}"),
        (HALVES, "d, a 16-bit float", f"d = {d:.4g}"),
    )
    x = 4.0
    for kind, name, told in cards:
        digits = read[kind]
        wide = 34 + 9.4 * max(len(digits), 0.72 * len(told), 0.72 * len(name))
        box = [x * SHARP, y * SHARP, (x + wide) * SHARP, (y + 66) * SHARP]
        pen.rounded_rectangle(box, 6 * SHARP, fill=_pale(COLOURS[kind]))
        _put(pen, x + wide / 2, y + 12, name, 10, ink=style.GREY)
        _put(pen, x + wide / 2, y + 33, digits, 14, bold=True)
        _put(pen, x + wide / 2, y + 54, told, 11)
        x += wide + 12
    told = f"weight {weight}  =  d x s x q  =  {d:.4g} x {s} x {q}  =  {d * s * q + 0.0:.4g}"
    pen.text((4 * SHARP, (y + 88) * SHARP), told, style.INK, _font(15 * SHARP, bold=True), anchor="lm")


def explore_block(raw: Tensor | np.ndarray, *, weight: int = 37) -> Panel:
    """Slide through the 256 weights of a Q3_K block and see which bits of its bytes make each."""
    import ipywidgets

    slider = ipywidgets.IntSlider(
        value=weight, min=0, max=255, description="weight", layout=ipywidgets.Layout(width="520px")
    )

    def draw(weight: int) -> tuple[np.ndarray, str]:
        held = ", ".join(map(str, _bytes_of(weight)))
        words = f"A Q3_K block's 110 bytes; weight {weight} is made of bits in the bytes {held}"
        return draw_block(raw, weight), words

    return Panel({"weight": slider}, draw).show()


@style.styled
def plot_bit_damage(damage: Tensor | np.ndarray, *, title: str = "") -> Figure:
    """How much each bit of a Q3_K block matters: (110 bytes, 8 bits) of errors, as a map with the highest bit on top."""
    table = np.asarray(damage, dtype=np.float64).T[::-1]  # (8, 110)
    figure = style.new_figure(2.0)
    axes = figure.subplots()
    shown = np.log10(np.maximum(table, table[table > 0].min()))
    picture = axes.imshow(shown, cmap=style.RISING, aspect="auto")
    starts = np.cumsum([0] + [size for _, size in FIELDS["Q3_K"]])
    for (kind, size), start in zip(FIELDS["Q3_K"], starts, strict=False):
        axes.axvline(start - 0.5, color="white", lw=2)
        where = {HIGH: "third bits", LOW: "lower two bits", SCALES: "scales", HALVES: "d"}[kind]
        axes.text(start + size / 2 - 0.5, -1.05, where, ha="center", fontsize=8, color=style.INK)
    axes.set_yticks(range(8), [str(bit) for bit in reversed(range(8))])
    axes.set(xlabel="byte of the block", ylabel="bit")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label("error, powers of ten", fontsize=8)
    axes.set_title(title, pad=20)
    byte, bit = np.unravel_index(np.asarray(damage).argmax(), (110, 8))
    return style.describe(figure, f"{title or 'Damage by bit'}: the worst is bit {bit} of byte {byte}, {table.max():.2g}; the "
                          f"mildest {table.min():.2g}.")  # fmt: skip


# ---------------------------------------------------------------------------------------------- bits and quality


@style.styled
def plot_costs(
    bits: Mapping[str, float],
    costs: Mapping[str, Mapping[str, float]],
    *,
    logarithmic: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """What fewer bits cost: {type: bits per weight} and, for each panel, {what: {type: value}}; those named in `logarithmic`
    are shares, in per cent."""
    figure = style.new_figure(2.9)
    told = []
    for axes, (what, values) in zip(figure.subplots(1, len(costs)), costs.items(), strict=True):
        names = sorted(values, key=lambda name: bits[name])
        x, y = [bits[name] for name in names], [values[name] for name in names]
        axes.plot(x, y, color=style.BLUE, lw=1.4, zorder=1)
        axes.scatter(x, y, s=26, color=style.BLUE, zorder=2)
        shares = what in logarithmic
        for name, across, up in zip(names, x, y, strict=True):
            axes.annotate(name, (across, up), (4, 4), textcoords="offset points", fontsize=7.2, rotation_mode="anchor",
                          rotation=0 if shares else 65)  # fmt: skip
        if shares:
            _in_per_cent(axes)
        axes.set_xscale("log")
        axes.set_xticks([4, 6, 8, 12, 16], ["4", "6", "8", "12", "16"], minor=False)
        axes.set_xticks([], minor=True)
        axes.margins(x=0.2, y=0.24)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel("bits per weight of the file")
        axes.set_title(what, fontsize=9)
        told.append(f"{what}: " + ", ".join(f"{name} {values[name]:.3g}" for name in names))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return style.describe(figure, f"{title or 'Bits against cost'}. " + "; ".join(told) + ".")


def _in_per_cent(axes: Axes) -> None:
    """Shares on an axis that gives each factor the same room."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.yaxis.set_minor_locator(NullLocator())


def explore_quantization(matrices: Mapping[str, Tensor], *, kind: str = "Q3_K", start: int = 0) -> Panel:
    """The quantisation explorer: pick a matrix, a type and a place in it; see weights before and after packing, and
    what the type costs and loses on this matrix beside all others."""
    import ipywidgets

    from wan_tutorial.quantization import BLOCK_TYPES, QuantizedTensor, dequantize_fp8, quantize_fp8

    kinds = (*sorted(BLOCK_TYPES, key=lambda name: BLOCK_TYPES[name].bits_per_weight), "fp8")

    @lru_cache(maxsize=256)
    def packed(name: str, kind: str) -> Tensor:
        if kind == "fp8":
            return dequantize_fp8(*quantize_fp8(matrices[name]))
        return QuantizedTensor.from_weights(matrices[name].float(), kind).dequantize()

    def lost(name: str, kind: str) -> float:
        weights = matrices[name].float()
        return ((packed(name, kind) - weights).norm() / weights.norm()).item()

    bits = {kind: BLOCK_TYPES[kind].bits_per_weight if kind in BLOCK_TYPES else 8.0 for kind in kinds}
    wide = ipywidgets.Layout(width="300px")
    controls = {
        "name": ipywidgets.Dropdown(options=list(matrices), description="matrix", layout=wide),
        "kind": ipywidgets.Dropdown(options=list(kinds), value=kind, description="type", layout=wide),
        "row": ipywidgets.IntSlider(value=start, min=0, max=min(len(m) for m in matrices.values()) - 1,
                                    description="row", continuous_update=False, layout=wide),
    }  # fmt: skip

    def draw(name: str, kind: str, row: int) -> tuple[np.ndarray, str]:
        losses = {other: (bits[other], lost(name, other)) for other in kinds}
        before, after = matrices[name][row, :64].float().numpy(), packed(name, kind)[row, :64].numpy()
        figure = plot_packing(before, after, losses, kind=kind, title=f"{name}, row {row}, weights 0 to 63")
        return style.to_array(figure, dots=150), str(figure.get_label())

    return Panel(controls, draw).show()


@style.styled
def plot_packing(
    before: np.ndarray,
    after: np.ndarray,
    losses: Mapping[str, tuple[float, float]],
    *,
    kind: str,
    title: str = "",
) -> Figure:
    """Some weights of a row before and after packing, and beside them what every type takes and loses.

    `losses`: {type: (bits per weight, relative error of the whole matrix)}.
    """
    figure = style.new_figure(3.2)
    left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
    x = np.arange(len(before))
    group = 16 if kind in ("Q2_K", "Q3_K", "Q6_K") else 32
    for line in range(0, len(before) + 1, group if kind != "fp8" else len(before)):
        left.axvline(line - 0.5, color=style.FAINT, lw=0.8, zorder=0)
    left.vlines(
        x, np.minimum(before, after), np.maximum(before, after), color=style.VERMILION, lw=1.6, zorder=1
    )
    left.hlines(
        after, x - 0.42, x + 0.42, color=style.BLUE, lw=2.2, zorder=2, label=f"after a stay in {kind}"
    )
    left.scatter(x, before, s=9, color=style.INK, zorder=3, label="before")
    left.axhline(0, color=style.GREY, lw=0.6, zorder=0)
    left.set(
        xlabel=f"weight; lines where a group of {group} ends" if kind != "fp8" else "weight",
        xlim=(-1, len(before)),
    )
    left.margins(y=0.2)
    left.legend(loc="upper left", ncols=2, frameon=True, framealpha=1, edgecolor="none")
    left.set_title(title)
    for name, (bits, loss) in losses.items():
        chosen, simple = name == kind, name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
        colour = style.VERMILION if chosen else style.GREY
        right.plot(
            [bits], [loss], "o", color=colour, ms=8 if chosen else 4.5, mfc="none" if simple else colour
        )
        away, side = ((5, 4 if name.endswith("0") else -7), "left") if simple else ((-6, -8), "right")
        right.annotate(name, (bits, loss), away, textcoords="offset points", fontsize=8.5 if chosen else 7, ha=side,
                       fontweight="bold" if chosen else "normal")  # fmt: skip
    _in_per_cent(right)
    right.margins(x=0.22, y=0.12)
    right.grid(axis="y")
    right.set(xlabel="bits per weight")
    right.set_title("error of the whole matrix", fontsize=9)
    right.text(
        1,
        0.98,
        "rings: the old types",
        transform=right.transAxes,
        ha="right",
        va="top",
        fontsize=7,
        color=style.GREY,
    )
    bits, loss = losses[kind]
    return style.describe(
        figure,
        f"{title}: {len(before)} weights before and after {kind}, {bits:.4g} bits each; relative error of the matrix {loss:.2%}.",
    )
