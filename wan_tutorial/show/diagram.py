"""The pipeline as one drawing, with the shape of what flows along each arrow.

In: names, settings and shapes as plain values. Out: a figure. Words are amber, embeddings blue, latents pink, pixels
green, here and in all lessons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from wan_tutorial.sampling.denoise import SamplingSettings
from wan_tutorial.show import style

STAGES = ("text", "noise", "denoise", "decode", "video")
HEIGHT = 4.35


@dataclass(frozen=True)
class Flow:
    """What the drawing says: how large everything is, and with which settings and files."""

    embedding: Sequence[int]  # (tokens, dim)
    latent: Sequence[int]  # (1, 16, F, H, W)
    video: Sequence[int]  # (frames, height, width, 3)
    settings: SamplingSettings
    files: Mapping[str, Path] = field(default_factory=dict)  # by role: transformer, text_encoder, vae

    def file(self, role: str) -> str:
        """The name of a file, shortened in the middle; "" if there is none."""
        name = Path(self.files.get(role, "")).name
        return name if len(name) < 30 else name[:14] + "\u2026" + name[-14:]


@style.styled
def plot_workflow(flow: Flow, *, at: str | None = None, frames: np.ndarray | None = None) -> Figure:
    """Draw the way from two prompts and a seed to a video; `at` names a stage to stand out, the others step back.

    `frames` (n, height, width, 3), uint8: a video whose first, middle and last frame the drawing's film shows.
    """
    figure = Figure(figsize=(style.WIDTH, HEIGHT))
    axes = style.bare(figure.add_axes((0, 0, 1, 1)))
    axes.set(xlim=(0, style.WIDTH), ylim=(0, HEIGHT), autoscale_on=False)
    page = _Page(axes, at)
    vectors, latent, video = map(_shape, (flow.embedding, flow.latent, flow.video))

    page.note("positive prompt", 0.10, 3.40, 1.30, 0.44, style.WORDS, "text")
    page.note("negative prompt", 0.10, 2.70, 1.30, 0.44, style.WORDS, "text")
    page.note("seed", 0.10, 0.98, 1.30, 0.44, style.GREY, "noise")
    page.box(
        "Text encoder", ("UMT5",), 1.92, 2.70, 1.30, 1.14, style.EMBEDDINGS, "text", flow.file("text_encoder")
    )
    page.box("Draw noise", ("torch, on the CPU",), 1.92, 0.76, 1.30, 0.88, style.LATENTS, "noise")
    page.box(
        "VAE decoder", ("latent to pixels",), 7.80, 0.76, 1.30, 0.88, style.PIXELS, "decode", flow.file("vae")
    )

    page.frame(4.46, 0.50, 2.06, 3.58, "denoise")
    page.heading("Denoise", f"{flow.settings.steps} steps", 4.46, 2.06, 3.85, "denoise")
    page.box("Transformer", ("which way is noise?",), 4.62, 2.62, 1.74, 0.98, style.WORK, "denoise")
    words = (
        f"{flow.settings.sampler}, {flow.settings.scheduler}",
        f"guidance {flow.settings.guidance:g}, shift {flow.settings.shift:g}",
    )
    page.box("Solver", words, 4.62, 0.72, 1.74, 0.98, style.WORK, "denoise")
    page.loop(5.08, 5.90, 1.70, 2.62)
    page.file(flow.file("transformer"), 5.49, 0.33, "denoise")

    page.arrow((1.40, 3.62), (1.92, 3.48), "text")
    page.arrow((1.40, 2.92), (1.92, 3.06), "text")
    page.arrow((1.40, 1.20), (1.92, 1.20), "noise")
    page.arrow((3.22, 3.42), (4.46, 3.42), "text", style.EMBEDDINGS)
    page.arrow((3.22, 3.12), (4.46, 3.12), "text", style.EMBEDDINGS)
    page.shape("2 x " + vectors, 3.82, 3.60, style.EMBEDDINGS, "text")
    page.shape("embeddings", 3.82, 2.93, style.EMBEDDINGS, "text", mono=False)
    page.arrow((3.22, 1.20), (4.46, 1.20), "noise", style.LATENTS)
    page.shape(latent, 3.82, 1.39, style.LATENTS, "noise")
    page.shape("noise", 3.82, 1.02, style.LATENTS, "noise", mono=False)
    page.arrow((6.52, 1.20), (7.80, 1.20), "denoise", style.LATENTS)
    page.shape(latent, 7.14, 1.39, style.LATENTS, "denoise")
    page.shape("clean latent", 7.14, 1.02, style.LATENTS, "denoise", mono=False)
    page.film(8.45, 2.34, video, frames)
    return style.describe(figure, _words(flow, at))


@style.styled
def plot_place(at: str) -> Figure:
    """The five stages in a row, small, with one of them lit: where a lesson stands."""
    names = {"text": "text", "noise": "noise", "denoise": "denoise", "decode": "decode", "video": "video"}
    colours = (style.EMBEDDINGS, style.LATENTS, style.WORK, style.PIXELS, style.INK)
    figure = Figure(figsize=(style.WIDTH * 0.75, 0.5))
    axes = style.bare(figure.add_axes((0, 0, 1, 1)))
    axes.set(xlim=(0, 10), ylim=(0, 0.72))
    lit = STAGES if at == "all" else (at,)
    for index, ((key, name), colour) in enumerate(zip(names.items(), colours, strict=True)):
        on = key in lit
        x = 0.08 + index * 2.0
        face = colour if on else "white"
        box = FancyBboxPatch(
            (x, 0.12),
            1.5,
            0.46,
            boxstyle="round,pad=0,rounding_size=0.1",
            fc=face,
            ec=colour if on else style.FAINT,
            lw=1.2,
        )
        axes.add_patch(box)
        axes.text(
            x + 0.75,
            0.345,
            name,
            ha="center",
            va="center",
            fontsize=9,
            color="white" if on else style.GREY,
            fontweight="bold" if on else "normal",
        )
        if index < len(names) - 1:
            axes.add_patch(
                FancyArrowPatch(
                    (x + 1.55, 0.35), (x + 1.95, 0.35), arrowstyle="-|>", mutation_scale=8, color=style.FAINT
                )
            )
    return style.describe(figure, f"Where this lesson stands among {', '.join(STAGES)}: {', '.join(lit)}.")


class _Page:
    """The drawing's few shapes; whatever belongs to another stage than `at` is drawn faintly."""

    def __init__(self, axes: Axes, at: str | None) -> None:
        self.axes, self.at = axes, at

    def alpha(self, stage: str) -> float:
        return 1.0 if self.at in (None, "all", stage) else 0.25

    def box(
        self,
        name: str,
        lines: tuple[str, ...],
        x: float,
        y: float,
        w: float,
        h: float,
        colour: str,
        stage: str,
        file: str = "",
    ):
        alpha = self.alpha(stage)
        self._round(x, y, w, h, colour, alpha, rounding=0.09)
        middle, top = x + w / 2, y + h / 2 + 0.1 * len(lines)
        self.axes.text(
            middle,
            top,
            name,
            ha="center",
            va="center",
            color="white",
            fontsize=10.5,
            fontweight="bold",
            alpha=alpha,
        )
        for row, line in enumerate(lines, start=1):
            self.axes.text(
                middle,
                top - 0.205 * row - 0.01,
                line,
                ha="center",
                va="center",
                color="white",
                fontsize=8,
                alpha=alpha,
            )
        self.file(file, middle, y - 0.17, stage)

    def file(self, name: str, x: float, y: float, stage: str):
        if name:
            self.axes.text(
                x, y, name, ha="center", va="center", fontsize=6.8, color=style.GREY, alpha=self.alpha(stage)
            )

    def note(self, name: str, x: float, y: float, w: float, h: float, colour: str, stage: str):
        alpha = self.alpha(stage)
        patch = FancyBboxPatch(
            (x, y), w, h, boxstyle="round,pad=0,rounding_size=0.2", fc="white", ec=colour, lw=1.6, alpha=alpha
        )
        self.axes.add_patch(patch)
        self.axes.text(x + w / 2, y + h / 2 - 0.01, name, ha="center", va="center", fontsize=8.8, alpha=alpha)

    def frame(self, x: float, y: float, w: float, h: float, stage: str):
        self._round(x, y, w, h, "#fbeee4", self.alpha(stage), rounding=0.14)

    def heading(self, name: str, more: str, x: float, w: float, y: float, stage: str):
        alpha = self.alpha(stage)
        self.axes.text(
            x + 0.16, y, name, va="center", fontsize=10.5, fontweight="bold", color=style.WORK, alpha=alpha
        )
        self.axes.text(
            x + w - 0.16, y, more, ha="right", va="center", fontsize=8.5, color=style.WORK, alpha=alpha
        )

    def loop(self, left: float, right: float, low: float, high: float):
        """Latent up, velocity down."""
        alpha = self.alpha("denoise")
        self._line((left, low), (left, high), style.LATENTS, alpha)
        self._line((right, high), (right, low), style.WORK, alpha)
        middle = (low + high) / 2
        self.axes.text(
            left - 0.07,
            middle,
            "latent",
            rotation=90,
            ha="right",
            va="center",
            fontsize=8,
            color=style.LATENTS,
            alpha=alpha,
        )
        self.axes.text(
            right + 0.07,
            middle,
            "velocity",
            rotation=90,
            ha="left",
            va="center",
            fontsize=8,
            color=style.WORK,
            alpha=alpha,
        )

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], stage: str, colour: str = style.GREY
    ):
        self._line(start, end, colour, self.alpha(stage))

    def shape(self, text: str, x: float, y: float, colour: str, stage: str, *, mono: bool = True):
        family = "DejaVu Sans Mono" if mono else "DejaVu Sans"
        self.axes.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            family=family,
            fontsize=7.4,
            color=colour,
            alpha=self.alpha(stage),
        )

    def film(self, middle: float, y: float, shape: str, frames: np.ndarray | None):
        """A little strip of film where the video comes out."""
        alpha = max(self.alpha("video"), self.alpha("decode"))
        self._line((middle, 1.64), (middle, y - 0.02), style.PIXELS, alpha)
        size, gap = 0.41, 0.025
        w, h = 3 * size + 4 * gap, size + 0.24
        left = middle - w / 2
        self._round(left, y, w, h, style.INK, alpha, rounding=0.04)
        for i in range(3):
            x, low = left + gap + i * (size + gap), y + 0.12
            if frames is None:
                colour = ("#f6c98f", "#f0a24e", "#e07a2a")[i]
                self._round(x, low, size, size, colour, alpha, rounding=0.02)
            else:
                frame = frames[round(i * (len(frames) - 1) / 2)]
                place = (x, x + size, low, low + size)
                self.axes.imshow(
                    frame, extent=place, interpolation="lanczos", alpha=alpha, zorder=3, aspect="auto"
                )
        for i in range(9):
            for row in (y + 0.04, y + h - 0.08):
                self._round(left + 0.05 + i * (w - 0.15) / 8, row, 0.05, 0.04, "white", alpha, rounding=0.01)
        self.axes.text(
            middle,
            y + h + 0.34,
            "video",
            ha="center",
            va="center",
            fontsize=10.5,
            fontweight="bold",
            alpha=alpha,
        )
        self.shape(shape, middle, y + h + 0.15, style.PIXELS, "decode" if self.at == "decode" else "video")

    def _round(self, x: float, y: float, w: float, h: float, colour: str, alpha: float, *, rounding: float):
        box = FancyBboxPatch(
            (x, y), w, h, boxstyle=f"round,pad=0,rounding_size={rounding}", fc=colour, ec="none", alpha=alpha
        )
        self.axes.add_patch(box)

    def _line(self, start: tuple[float, float], end: tuple[float, float], colour: str, alpha: float):
        arrow = FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            lw=1.6,
            color=colour,
            alpha=alpha,
            shrinkA=2,
            shrinkB=1,
        )
        self.axes.add_patch(arrow)


def _shape(numbers: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, numbers)) + ")"


def _words(flow: Flow, at: str | None) -> str:
    """The drawing for those who do not see it."""
    lit = f" The stage {at} stands out." if at and at != "all" else ""
    s, latent = flow.settings, _shape(flow.latent)
    return (
        "Workflow: the positive and the negative prompt go through the text encoder and become two embeddings of "
        f"shape {_shape(flow.embedding)}; a seed becomes noise of shape {latent}; both enter the denoising loop, in "
        f"which the transformer gives a velocity and the solver ({s.sampler}, {s.scheduler}, guidance "
        f"{s.guidance:g}, shift {s.shift:g}) moves the latent, {s.steps} times; the clean latent of shape {latent} "
        f"goes through the VAE decoder and becomes a video of shape {_shape(flow.video)}.{lit}"
    )
