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
def plot_workflow(flow: Flow, *, frames: np.ndarray) -> Figure:
    """Draw the way from two prompts and a seed to a video.

    `frames` (n, height, width, 3), uint8: the video, whose first, middle and last frame the drawing's film shows.
    """
    figure = Figure(figsize=(style.WIDTH, HEIGHT))
    axes = style.bare(figure.add_axes((0, 0, 1, 1)))
    axes.set(xlim=(0, style.WIDTH), ylim=(0, HEIGHT), autoscale_on=False)
    vectors, latent, video = map(_shape, (flow.embedding, flow.latent, flow.video))
    made = flow.settings

    for name, y, colour in (
        ("positive prompt", 3.40, style.WORDS),
        ("negative prompt", 2.70, style.WORDS),
        ("seed", 0.98, style.GREY),
    ):
        style.box(axes, (0.10, y, 1.30, 0.44), "white", edge=colour, lw=1.6, rounding=0.2)
        style.put(axes, 0.75, y + 0.21, name, 8.8)
    _stage(axes, (1.92, 2.70, 1.30, 1.14), style.EMBEDDINGS, "Text encoder", "UMT5")
    _stage(axes, (1.92, 0.76, 1.30, 0.88), style.LATENTS, "Draw noise", "torch, on the CPU")
    _stage(axes, (7.80, 0.76, 1.30, 0.88), style.PIXELS, "VAE decoder", "latent to pixels")

    style.box(axes, (4.46, 0.50, 2.06, 3.58), "#fbeee4", rounding=0.14)
    style.put(axes, 4.62, 3.85, "Denoise", 10.5, bold=True, color=style.WORK, ha="left")
    style.put(axes, 6.36, 3.85, f"{made.steps} steps", 8.5, color=style.WORK, ha="right")
    _stage(axes, (4.62, 2.62, 1.74, 0.98), style.WORK, "Transformer", "which way is noise?")
    _stage(axes, (4.62, 0.72, 1.74, 0.98), style.WORK, "Solver", f"{made.sampler}, {made.scheduler}",
           f"guidance {made.guidance:g}, shift {made.shift:g}")  # fmt: skip
    style.put(axes, 5.01, 2.16, "latent", rotation=90, color=style.LATENTS, ha="right")
    style.put(axes, 5.97, 2.16, "velocity", rotation=90, color=style.WORK, ha="left")
    for role, x, y in (("text_encoder", 2.57, 2.53), ("transformer", 5.49, 0.33), ("vae", 8.45, 0.59)):
        style.put(axes, x, y, flow.file(role), 6.8, color=style.GREY)

    for start, end, colour in (
        ((1.40, 3.62), (1.92, 3.48), style.GREY),
        ((1.40, 2.92), (1.92, 3.06), style.GREY),
        ((1.40, 1.20), (1.92, 1.20), style.GREY),
        ((3.22, 3.42), (4.46, 3.42), style.EMBEDDINGS),
        ((3.22, 3.12), (4.46, 3.12), style.EMBEDDINGS),
        ((3.22, 1.20), (4.46, 1.20), style.LATENTS),
        ((5.08, 1.70), (5.08, 2.62), style.LATENTS),  # the loop: latent up,
        ((5.90, 2.62), (5.90, 1.70), style.WORK),  # velocity down
        ((6.52, 1.20), (7.80, 1.20), style.LATENTS),
        ((8.45, 1.64), (8.45, 2.32), style.PIXELS),
    ):
        style.arrow(axes, start, end, colour)
    for x, high, shape, low, name, colour in (
        (3.82, 3.60, f"2 x {vectors}", 2.93, "embeddings", style.EMBEDDINGS),
        (3.82, 1.39, latent, 1.02, "noise", style.LATENTS),
        (7.14, 1.39, latent, 1.02, "clean latent", style.LATENTS),
    ):
        style.put(axes, x, high, shape, 7.4, color=colour, family=style.MONO)
        style.put(axes, x, low, name, 7.4, color=colour)
    style.put(axes, 8.45, 3.33, "video", 10.5, bold=True)
    style.put(axes, 8.45, 3.14, video, 7.4, color=style.PIXELS, family=style.MONO)
    _film(axes, 8.45, 2.34, frames)
    return style.describe(figure, _words(flow))


@style.styled
def plot_place(at: str) -> Figure:
    """The five stages in a row, small, with one of them lit: where a lesson stands."""
    colours = (style.EMBEDDINGS, style.LATENTS, style.WORK, style.PIXELS, style.INK)
    figure = Figure(figsize=(style.WIDTH * 0.75, 0.5))
    axes = style.bare(figure.add_axes((0, 0, 1, 1)))
    axes.set(xlim=(0, 10), ylim=(0, 0.72))
    lit = STAGES if at == "all" else (at,)
    for index, (name, colour) in enumerate(zip(STAGES, colours, strict=True)):
        on, x = name in lit, 0.08 + index * 2.0
        face, edge = (colour, colour) if on else ("white", style.FAINT)
        style.box(axes, (x, 0.12, 1.5, 0.46), face, edge=edge, lw=1.2, rounding=0.1)
        style.put(axes, x + 0.75, 0.345, name, 9, bold=on, color="white" if on else style.GREY)
        if index:
            style.arrow(axes, (x - 0.45, 0.35), (x - 0.05, 0.35), style.FAINT, lw=1, head=8, shrink=(2, 2))
    return style.describe(figure, f"Where this lesson stands among {', '.join(STAGES)}: {', '.join(lit)}.")


def _stage(axes: Axes, place: tuple[float, float, float, float], colour: str, name: str, *lines: str) -> None:
    """A box with the name of a stage, and a line or two about it."""
    x, y, width, height = place
    style.box(axes, place, colour)
    middle, top = x + width / 2, y + height / 2 + 0.1 * len(lines)
    style.put(axes, middle, top, name, 10.5, bold=True, color="white")
    for row, line in enumerate(lines, start=1):
        style.put(axes, middle, top - 0.205 * row - 0.01, line, color="white")


def _film(axes: Axes, middle: float, y: float, frames: np.ndarray) -> None:
    """A little strip of film: the first, the middle and the last frame."""
    size, gap = 0.41, 0.025
    w, h = 3 * size + 4 * gap, size + 0.24
    left = middle - w / 2
    style.box(axes, (left, y, w, h), style.INK, rounding=0.04)
    for i in range(3):
        x, low = left + gap + i * (size + gap), y + 0.12
        frame, place = frames[round(i * (len(frames) - 1) / 2)], (x, x + size, low, low + size)
        axes.imshow(frame, extent=place, interpolation="lanczos", zorder=3, aspect="auto")
    for i in range(9):
        for row in (y + 0.04, y + h - 0.08):
            style.box(axes, (left + 0.05 + i * (w - 0.15) / 8, row, 0.05, 0.04), "white", rounding=0.01)


def _shape(numbers: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, numbers)) + ")"


def _words(flow: Flow) -> str:
    """The drawing for those who do not see it."""
    s, latent = flow.settings, _shape(flow.latent)
    return (
        "Workflow: the positive and the negative prompt go through the text encoder and become two embeddings of "
        f"shape {_shape(flow.embedding)}; a seed becomes noise of shape {latent}; both enter the denoising loop, in "
        f"which the transformer gives a velocity and the solver ({s.sampler}, {s.scheduler}, guidance "
        f"{s.guidance:g}, shift {s.shift:g}) moves the latent, {s.steps} times; the clean latent of shape {latent} "
        f"goes through the VAE decoder and becomes a video of shape {_shape(flow.video)}."
    )
