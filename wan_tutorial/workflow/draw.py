"""A workflow as a picture, in the manner of ComfyUI's dark page: nodes with their settings, coloured links, groups.

In: a `Workflow`, and the `NodeRun`s of a run if there was one. Out: a matplotlib figure, for a PNG file or as SVG in a
notebook; after a run each node carries its seconds, each link starts with the shape of what went over it, and nodes
that make something to look at show it. Measures and colours are those of ComfyUI's page (litegraph.js).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import html
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve
from PIL import Image

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.workflow.graph import BYPASSED, MUTED, Node, Workflow, is_lora_row, picture_file
from wan_tutorial.workflow.layout import ROW, TITLE, WIDGET, natural_size, widget_rows
from wan_tutorial.workflow.nodes import NOTES, POWER_LORA, PRIMITIVE, REROUTE

if TYPE_CHECKING:
    from wan_tutorial.workflow.run import NodeRun

PAGE, GRID, BODY, BAR, TEXT, QUIET, FIELD, EDGE = (
    "#1d1e22", "#26272c", "#353535", "#2b2b2b", "#dddddd", "#9c9c9c", "#222222", "#666666"
)  # fmt: skip
KINDS = {
    "MODEL": "#b39ddb",
    "CLIP": "#ffd500",
    "VAE": "#ff6e6e",
    "CONDITIONING": "#ffa931",
    "LATENT": "#ff9cf9",
    "IMAGE": "#64b5f6",
    "MASK": "#81c784",
    "VIDEO": "#7fdbca",
}
OTHER = "#a5adb5"
LARGEST, MOST_NODES = 20000, 300  # pixels of a page each way; nodes on it
MARGIN, UNITS_PER_INCH, FONT = 50, 128, 13  # FONT: the height of letters, in the page's pixels


def draw_workflow(
    workflow: Workflow, runs: Sequence[NodeRun] = (), *, title: str = "", measures: bool = True
) -> Figure:
    """Draw a workflow; with the runs of its nodes, with what they gave, and with or without shapes and seconds."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "path.simplify": False}):
        return _Drawing(workflow, runs, title, measures).figure


def to_svg(figure: Figure) -> str:
    """A drawing as SVG, its letters as letters, its alternative text with it."""
    page = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "workflow", "svg.fonttype": "none"}):
        figure.savefig(page, format="svg", facecolor=PAGE, metadata={"Date": None})
    words = html.escape(str(figure.get_label()), quote=True)
    svg = page.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)


def show_workflow(workflow: Workflow, runs: Sequence[NodeRun] = (), *, title: str = "") -> None:
    """Show a workflow in a notebook, as wide as the page, sharp at every size; on a narrow page it can be scrolled."""
    from IPython.display import display

    figure = draw_workflow(workflow, runs, title=title)
    words, wide = str(figure.get_label()), 96 * figure.get_figwidth()  # pixels of a web page
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', ' width="100%"', to_svg(figure), count=1)
    coded = base64.b64encode(svg.encode()).decode()
    page = (
        f'<img src="data:image/svg+xml;base64,{coded}" alt="{html.escape(words)}" '
        f'style="width: 100%; min-width: {wide / 2:.0f}px; max-width: {wide:.0f}px">'
    )
    display({"text/html": page, "image/svg+xml": svg, "text/plain": words}, raw=True)


class _Drawing:
    """One picture being made; everything is in the pixels of ComfyUI's page, y downwards."""

    def __init__(self, workflow: Workflow, runs: Sequence[NodeRun], title: str, measures: bool) -> None:
        self.workflow, self.title, self.measures = workflow, title, measures
        self.runs = {run.node.id: run for run in runs}
        self.sizes = {node.id: _size(node) for node in workflow.nodes.values()}
        left, top, right, bottom = self._bounds()
        if max(right - left, bottom - top) > LARGEST or len(workflow.nodes) > MOST_NODES:
            raise WanError(f"A drawing has room for {MOST_NODES} nodes on {LARGEST} pixels each way, not for "
                           f"{len(workflow.nodes)} on {right - left:.0f} x {bottom - top:.0f}.")  # fmt: skip
        self.figure = Figure(
            figsize=((right - left) / UNITS_PER_INCH, (bottom - top) / UNITS_PER_INCH), facecolor=PAGE
        )
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(left, right), ylim=(bottom, top))
        self.axes.axis("off")
        self._grid(left, top, right, bottom)
        for words, box, colour in sorted(workflow.groups, key=lambda group: -group[1][2] * group[1][3]):
            self._group(words, box, colour)
        for node in workflow.nodes.values():
            self._links_into(node)
        for node in workflow.nodes.values():
            self._node(node)
        if title:
            self._text(left + MARGIN, top + 0.72 * MARGIN, title, size=24, colour="#ffffff")
        style.describe(self.figure, _in_words(workflow, runs, title))

    def _bounds(self) -> tuple[float, float, float, float]:
        boxes = [(x, y, x + w, y + h) for _, (x, y, w, h), _ in self.workflow.groups]
        for node in self.workflow.nodes.values():
            (x, y), (width, height) = node.position, self.sizes[node.id]
            boxes.append((x, y - TITLE, x + width, y + height))
        xs, ys = [b[0] for b in boxes] + [b[2] for b in boxes], [b[1] for b in boxes] + [b[3] for b in boxes]
        extra = 40 if self.title else 0
        left, top = min(xs, default=0) - MARGIN, min(ys, default=0) - MARGIN - extra
        return left, top, max(xs, default=600) + MARGIN, max(ys, default=300) + MARGIN

    # ---------------------------------------------------------------------------------------------- strokes

    def _box(self, x: float, y: float, width: float, height: float, *, fill: Any, edge: Any = "none", round: float = 8,
             line: float = 0.8, alpha: float = 1, layer: float = 3) -> None:  # fmt: skip
        shape = f"round,pad=0,rounding_size={min(round, width / 2, height / 2)}"
        box = FancyBboxPatch(
            (x, y), width, height, boxstyle=shape, fc=fill, ec=edge, lw=line, alpha=alpha, zorder=layer
        )
        self.axes.add_patch(box)

    def _text(self, x: float, y: float, words: str, *, size: float = FONT, colour: str = TEXT, side: str = "left",
              layer: float = 5, bold: bool = False) -> None:  # fmt: skip
        points = size * 72 / UNITS_PER_INCH
        shown = _drawable(words).replace("$", r"\$")
        weight = "bold" if bold else "normal"
        self.axes.text(x, y, shown, fontsize=points, color=colour, ha=side, va="center_baseline", zorder=layer,
                       fontweight=weight, clip_on=True)  # fmt: skip

    def _dot(self, x: float, y: float, kind: str, linked: bool = True) -> None:
        colour = KINDS.get(kind, OTHER)
        self.axes.add_patch(Circle((x, y), 5, fc=colour if linked else FIELD, ec=colour if not linked else "#00000080",
                                   lw=1.2 if not linked else 0.6, zorder=6))  # fmt: skip

    def _grid(self, left: float, top: float, right: float, bottom: float) -> None:
        for x in np.arange(np.ceil(left / 50) * 50, right, 50):
            self.axes.plot([x, x], [top, bottom], color=GRID, lw=0.5, zorder=0)
        for y in np.arange(np.ceil(top / 50) * 50, bottom, 50):
            self.axes.plot([left, right], [y, y], color=GRID, lw=0.5, zorder=0)

    def _group(self, words: str, box: tuple[float, float, float, float], colour: str) -> None:
        colour = _colour(colour, "#3f789e")
        self._box(*box, fill=colour, alpha=0.22, round=10, layer=1)
        self._box(*box, fill="none", edge=colour, line=1.1, alpha=0.75, round=10, layer=1)
        self._text(
            box[0] + 14, box[1] + 22, _fit(words, box[2] - 28, 20), size=20, colour="#d8e3ea", layer=2.7
        )

    # ------------------------------------------------------------------------------------------------ links

    def _links_into(self, node: Node) -> None:
        for name, link in node.links.items():
            giver = self.workflow.nodes[link.source]
            start, end = self._output_at(giver, link.slot), self._input_at(node, name)
            kind = self.workflow.kind(link)
            reach = max(40.0, min(0.5 * abs(end[0] - start[0]), 260.0))
            points = [start, (start[0] + reach, start[1]), (end[0] - reach, end[1]), end]
            curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
            self.axes.add_patch(
                PathPatch(curve, fc="none", ec="#00000088", lw=3.4, zorder=2.4, capstyle="round")
            )
            self.axes.add_patch(PathPatch(curve, fc="none", ec=KINDS.get(kind, OTHER), lw=1.9, zorder=2.5,
                                          capstyle="round"))  # fmt: skip

    def _output_at(self, node: Node, slot: int) -> tuple[float, float]:
        x, y = node.position
        if node.collapsed:
            return x + self.sizes[node.id][0], y - TITLE / 2
        return x + self.sizes[node.id][0], y + ROW * (slot + 0.7)

    def _input_at(self, node: Node, name: str) -> tuple[float, float]:
        x, y = node.position
        names = list(node.takes)
        if node.collapsed:
            return x, y - TITLE / 2
        if name in names:
            return x, y + ROW * (names.index(name) + 0.7)
        rows = [row for row, _ in widget_rows(node)]
        place = rows.index(name) if name in rows else 0
        return x, self._widgets_top(node) + WIDGET * place + 10

    def _widgets_top(self, node: Node) -> float:
        return node.position[1] + ROW * max(len(node.takes), len(node.gives)) + 8

    # ------------------------------------------------------------------------------------------------ nodes

    def _node(self, node: Node) -> None:
        (x, y), (width, height) = node.position, self.sizes[node.id]
        fill, bar = _colour(node.fill, BODY), _colour(node.colour, BAR)
        if node.collapsed:
            self._box(x, y - TITLE, width, TITLE, fill=bar, edge="#00000055", round=15)
        else:
            self._box(
                x + 3, y - TITLE + 5, width, height + TITLE, fill="#000000", alpha=0.35, round=10, layer=2.8
            )
            self._box(x, y - TITLE, width, height + TITLE, fill=fill, edge="#00000066", round=9)
            self._box(x, y - TITLE, width, TITLE, fill=bar, round=9, layer=3.1)
            self.axes.add_patch(Rectangle((x, y - 9), width, 9, fc=bar, ec="none", zorder=3.1))
        self.axes.add_patch(
            Circle(
                (x + 16, y - TITLE / 2), 4.5, fc=QUIET if not node.collapsed else TEXT, ec="none", zorder=5
            )
        )
        run = self.runs.get(node.id)
        taken = f"{run.seconds:.2f} s" if run and self.measures else ""
        self._text(x + 29, y - TITLE / 2, _fit(node.title, width - 45 - _width(taken, 12), 14), size=14)
        self._text(x + width - 12, y - TITLE / 2, taken, size=12, colour="#9fd89f", side="right")
        if not node.collapsed:
            self._sockets(node)
            self._settings(node)
        if node.mode in (MUTED, BYPASSED):
            shade = "#c04dff" if node.mode == BYPASSED else "#101010"
            self._box(
                x,
                y - TITLE,
                width,
                height * (not node.collapsed) + TITLE,
                fill=shade,
                alpha=0.45,
                round=9,
                layer=8,
            )

    def _sockets(self, node: Node) -> None:
        x, width = node.position[0], self.sizes[node.id][0]
        optional = node.known.optional if node.known else frozenset()
        for name, kind in node.takes.items():
            place = self._input_at(node, name)
            self._dot(*place, kind, name in node.links)
            self._text(
                x + 14, place[1], _fit(name, width / 2, FONT), colour=QUIET if name in optional else TEXT
            )
        for slot, (name, kind) in enumerate(node.gives):
            place = self._output_at(node, slot)
            used = any(link.source == node.id and link.slot == slot for n in self.workflow.nodes.values()
                       for link in n.links.values())  # fmt: skip
            self._dot(*place, kind, used)
            label = _fit(name, width / 2, FONT)
            self._text(x + width - 14, place[1], label, side="right")
            run = self.runs.get(node.id)
            if run and self.measures and slot < len(run.outputs):
                output, end = run.outputs[slot], x + width - 26 - _width(label, FONT)
                words = " × ".join(map(str, output.shape)) if output.shape else str(output.value)
                if output.shape or isinstance(output.value, int):
                    self._text(end, place[1], words, size=10.5, colour=KINDS.get(kind, OTHER), side="right")
        for name in node.links:
            if name not in node.takes:
                self._dot(*self._input_at(node, name), self.workflow.kind(node.links[name]))

    def _settings(self, node: Node) -> None:
        x, top, width = node.position[0] + 15, self._widgets_top(node), self.sizes[node.id][0] - 30
        bottom = node.position[1] + self.sizes[node.id][1]
        rows = widget_rows(node)
        if node.type in (*NOTES, "CLIPTextEncode"):
            words = str(self.workflow.value(node, "text") or "")
            return self._page_of_words(
                x - 5, top, width + 10, bottom - top - 8, words, boxed=node.type not in NOTES
            )
        if node.type == POWER_LORA:
            self._lora_rows(node, x, top, width)
            top += WIDGET * (len(rows) + 2)
        else:
            for place, (name, value) in enumerate(rows):
                if top + WIDGET * place + 20 <= bottom + 4:
                    self._widget(x, top + WIDGET * place, width, name, value, linked=name in node.links)
            top += WIDGET * len(rows)
        self._picture_in(node, x, top + 2, width, bottom - top - 10)

    def _widget(self, x: float, y: float, width: float, name: str, value: Any, *, linked: bool) -> None:
        self._box(x, y, width, 20, fill=FIELD, edge=EDGE, line=0.7, round=10, layer=4)
        ink = QUIET if linked else TEXT
        label = _fit(name.replace("_", " ") if name == "control_after_generate" else name, 0.55 * width, 12)
        self._text(x + 14, y + 10, label, size=12, colour=QUIET)
        room = width - 40 - _width(label, 12)
        self._text(x + width - 14, y + 10, _fit(_spoken(value), room, 12), size=12, colour=ink, side="right")

    def _lora_rows(self, node: Node, x: float, y: float, width: float) -> None:
        self._switch(x, y + 10, all(row.get("on") for row in node.values.values() if is_lora_row(row)))
        self._text(x + 36, y + 10, "Toggle All", size=12, colour=QUIET)
        self._text(x + width - 14, y + 10, "Strength", size=12, colour=QUIET, side="right")
        for place, row in enumerate((row for row in node.values.values() if is_lora_row(row)), 1):
            top = y + WIDGET * place
            self._box(x, top, width, 20, fill=FIELD, edge=EDGE, line=0.7, round=10, layer=4)
            self._switch(x + 6, top + 10, bool(row.get("on")))
            self._text(x + 40, top + 10, _fit(_spoken(row.get("lora")), width - 110, 12), size=12)
            self._text(
                x + width - 14,
                top + 10,
                f"\u25c2  {_spoken(row.get('strength'))}  \u25b8",
                size=12,
                side="right",
            )
        top = y + WIDGET * (len(node.values) + 1)
        self._box(x, top, width, 20, fill="#2a2a3a", edge=EDGE, line=0.7, round=6, layer=4)
        self._text(x + width / 2, top + 10, "+ Add Lora", size=12, side="center")

    def _switch(self, x: float, y: float, on: bool) -> None:
        self._box(x, y - 6, 24, 12, fill="#4a6f9f" if on else "#444444", round=6, layer=4.5)
        self.axes.add_patch(
            Circle((x + (18 if on else 6), y), 6, fc="#9cc4f5" if on else "#888888", ec="none", zorder=5)
        )

    def _page_of_words(
        self, x: float, y: float, width: float, height: float, words: str, *, boxed: bool
    ) -> None:
        if boxed:
            self._box(x, y, width, height, fill=FIELD, edge="#00000066", round=6, layer=4)
        lines, step = list(_wrapped(words, width - 20, FONT)), 18
        room = max(1, int((height - 12) / step))
        for place, line in enumerate(lines[:room]):
            cut = place == room - 1 and len(lines) > room
            self._text(x + 10, y + 15 + step * place, f"{line} ..." if cut else line)

    def _picture_in(self, node: Node, x: float, y: float, width: float, height: float) -> None:
        """What the node made or loads, where there is room for it below its settings."""
        picture = self._picture(node) if height > 60 else None
        if picture is None:
            return
        scale = min(width / picture.shape[1], height / picture.shape[0])
        wide, high = picture.shape[1] * scale, picture.shape[0] * scale
        left = x + (width - wide) / 2
        self.axes.imshow(
            picture, extent=(left, left + wide, y + high, y), zorder=4, interpolation="none", aspect="auto"
        )

    def _picture(self, node: Node) -> np.ndarray | None:
        run = self.runs.get(node.id)
        if run and run.outputs:
            return run.outputs[0].picture()
        if node.type == "LoadImage" and (
            path := picture_file(self.workflow, self.workflow.value(node, "image"))
        ):
            with contextlib.suppress(OSError, ValueError, Image.DecompressionBombError):
                return np.asarray(Image.open(path).convert("RGB"))
        if node.known and node.known.is_output:  # it shows what it was given
            links = (link for name in node.links if (link := self.workflow.source(node, name)) is not None)
            link = next(links, None)
            given = self.runs.get(link.source) if link else None
            return (
                given.outputs[link.slot].picture()
                if given and link and link.slot < len(given.outputs)
                else None
            )
        return None


def _size(node: Node) -> tuple[float, float]:
    own = natural_size(node)
    if node.collapsed:
        return max(120.0, _width(node.title, 14) + 50), 0.0
    if node.type == REROUTE:
        return max(75.0, node.size[0]), 26.0
    tall = node.type in (*NOTES, "CLIPTextEncode", PRIMITIVE) or not node.known or node.known.is_output
    return node.size[0] or own[0], (node.size[1] or own[1]) if tall else max(node.size[1], min(own[1], 300.0))


def _colour(written: str | None, otherwise: str) -> str:
    """A colour from a file, if it is one."""
    return written if written and matplotlib.colors.is_color_like(written) else otherwise


def _spoken(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else " ".join(str(value).split())


@functools.cache
def _font() -> Any:
    """The font of all letters, which matplotlib brings along."""
    return get_font(findfont("DejaVu Sans"))


@functools.lru_cache(maxsize=4096)
def _width(words: str, size: float) -> float:
    """How wide these words are, in the page's pixels."""
    _font().set_size(100, 72)  # each time: drawing sets it to what it needs
    _font().set_text(_drawable(words), 0)
    return _font().get_width_height()[0] / 64 * size / 100


@functools.lru_cache(maxsize=4096)
def _drawable(words: str) -> str:
    """Words with a box in place of each letter that the font does not have."""
    known = _letters()
    return "".join(letter if ord(letter) in known else "\u25af" for letter in words)


@functools.cache
def _letters() -> frozenset[int]:
    return frozenset(_font().get_charmap())


def _fit(words: str, width: float, size: float) -> str:
    """As much of a text as there is room for."""
    words = " ".join(words[:400].split())
    if _width(words, size) <= width:
        return words
    while words and _width(f"{words}...", size) > width:
        words = words[:-1]
    return f"{words.rstrip()}..."


def _wrapped(words: str, width: float, size: float) -> Iterator[str]:
    """Lines that are as long as the room allows, broken between words."""
    for paragraph in words[:5000].splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _width(longer, size) > width:
                yield line
                longer = word
            line = longer
        yield _fit(line, width, size)


def _in_words(workflow: Workflow, runs: Sequence[NodeRun], title: str) -> str:
    """The alternative text: every node, and what feeds it."""
    parts = []
    for node in workflow.nodes.values():
        feeders = dict.fromkeys(workflow.nodes[link.source].title for link in node.links.values())
        parts.append(f"{node.title}{' from ' + ', '.join(feeders) if feeders else ''}")
    took = f" It ran in {sum(run.seconds for run in runs):.1f} seconds." if runs else ""
    return f"{title or 'A ComfyUI workflow'} as a graph of {len(parts)} nodes: {'; '.join(parts)}.{took}"
