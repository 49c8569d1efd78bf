"""Sampling as curves: noise levels step by step, what shift does to them, errors, and the way through the plane.

In: lists of sigmas, latents, numbers. Out: figures. Colours are given in the order of the mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from wan_tutorial.show import style
from wan_tutorial.show.latents import plane_of

if TYPE_CHECKING:
    from torch import Tensor

    Numbers = Sequence[float] | Tensor | np.ndarray


@style.styled
def plot_sigmas(schedules: Mapping[str, Numbers], *, title: str = "") -> Figure:
    """Noise levels against the step, {name: sigmas}."""
    figure = style.new_figure(2.9, width=style.WIDTH * 0.8)
    axes = figure.subplots()
    told = []
    for under, (name, sigmas) in enumerate(schedules.items()):
        levels = _numbers(sigmas)
        wide = 1.4 + 1.5 * (len(schedules) - 1 - under)  # where curves coincide, the lower ones still show
        colour = style.CYCLE[under]
        axes.plot(levels, marker="o", clip_on=False, color=colour, lw=wide, ms=wide + 2.2, label=name)
        told.append(
            f"{name}: {len(levels) - 1} steps from {levels[0]:.2f} to {levels[-1]:.2f}, {_half(levels)}"
        )
    longest = max(len(_numbers(sigmas)) for sigmas in schedules.values()) - 1
    axes.set(
        xlabel="step",
        ylabel="sigma: share of noise",
        ylim=(-0.02, 1.04),
        xlim=(-0.02 * longest, longest * 1.02),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend(loc="lower left")
    style.title(axes, title, note="1 is pure noise, 0 is clean")
    return style.describe(figure, f"{title or 'Noise levels'}. " + "; ".join(told) + ".")


def _half(levels: np.ndarray) -> str:
    """Where a schedule passes the middle, in words."""
    below = np.flatnonzero(levels < 0.5)
    return f"below one half from step {below[0]}" if len(below) else "never below one half"


@style.styled
def plot_shift(shifts: Sequence[float], *, title: str = "What shift does to time") -> Figure:
    """The shifted time against the unshifted one, a curve for each shift."""
    figure = style.new_figure(3.0, width=style.WIDTH * 0.55)
    axes = figure.subplots()
    t = np.linspace(0, 1, 201)
    colours = style.RISING(np.linspace(0.35, 0.95, len(shifts)))
    for shift, colour in zip(shifts, colours, strict=True):
        shifted = shift * t / (1 + (shift - 1) * t)
        axes.plot(t, shifted, color=colour, clip_on=False)
        across = 1 / (1 + np.sqrt(shift))  # where the curve crosses the falling diagonal
        label = {"boxstyle": "round,pad=0.15", "fc": style.PAPER, "ec": "none"}
        axes.text(
            across, 1 - across, f"{shift:g}", ha="center", va="center", fontsize=8, color=colour, bbox=label
        )
    axes.set(xlabel="time without shift", ylabel="sigma with shift", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid()
    style.title(axes, title)
    middles = ", ".join(f"shift {s:g} moves 0.5 to {s * 0.5 / (1 + (s - 1) * 0.5):.2f}" for s in shifts)
    return style.describe(figure, f"{title}: {middles}; 0 and 1 stay where they are.")


@style.styled
def plot_lines(
    lines: Mapping[str, tuple[Numbers, Numbers]],
    *,
    x: str,
    y: str,
    title: str = "",
    logarithmic: bool = False,
    note: str = "",
) -> Figure:
    """Curves {name: (x values, y values)} with their points; the name stands at each curve's end."""
    figure = style.new_figure(3.1, width=style.WIDTH * 0.8)
    axes = figure.subplots()
    told = []
    for (name, (across, up)), colour in zip(lines.items(), style.CYCLE, strict=False):
        xs, ys = _numbers(across), _numbers(up)
        axes.plot(xs, ys, color=colour, marker="o", ms=4, label=name)
        told.append(f"{name}: from {ys[0]:.3g} at {xs[0]:.3g} to {ys[-1]:.3g} at {xs[-1]:.3g}")
    if logarithmic:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 4, 6) if high < 50 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=x, ylabel=y)
    if all(float(value).is_integer() for across, _ in lines.values() for value in _numbers(across)):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend()
    style.title(axes, title, note=note)
    return style.describe(figure, f"{title}. {y} against {x}. " + "; ".join(told) + ".")


@style.styled
def plot_bars(
    values: Mapping[str, float],
    *,
    y: str,
    title: str = "",
    spread: Mapping[str, float | tuple[float, float]] | None = None,
) -> Figure:
    """One bar for each {name: value}, lying, with its number; `spread` adds an error bar, to both sides or (below, above)."""
    figure = style.new_figure(0.62 + 0.34 * len(values), width=style.WIDTH * 0.75)
    axes = figure.subplots()
    places = np.arange(len(values))[::-1]
    colours = [style.CYCLE[i % len(style.CYCLE)] for i in range(len(values))]
    errors = np.array([np.broadcast_to((spread or {}).get(name, 0.0), 2) for name in values]).T  # (2, bars)
    drawn = errors if spread else None
    axes.barh(places, list(values.values()), xerr=drawn, color=colours, height=0.62, ecolor=style.INK)
    reach = max(abs(v) for v in values.values()) or 1
    for place, value, above in zip(places, values.values(), errors[1], strict=True):
        axes.text(max(value + above, 0.0) + 0.012 * reach, place, f"{value:.3g}", va="center", fontsize=8.5)
    axes.set_yticks(places, list(values))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel=y, xlim=(min(0, *values.values()), 1.12 * reach))
    style.title(axes, title)
    return style.describe(
        figure, f"{title}. {y}: " + ", ".join(f"{k} {v:.3g}" for k, v in values.items()) + "."
    )


@style.styled
def plot_bar_groups(
    series: Mapping[str, Mapping[str, float]], *, y: str, reach: float, title: str = ""
) -> Figure:
    """Bars in groups: {series: {name: value}}, for each name one bar of each series, on an axis from -reach to reach."""
    names = list(next(iter(series.values())))
    figure = style.new_figure(0.75 + 0.22 * len(names) * len(series), width=style.WIDTH * 0.75)
    axes = figure.subplots()
    places, thick, told = np.arange(len(names))[::-1], 0.8 / len(series), []
    for number, ((label, values), colour) in enumerate(zip(series.items(), style.CYCLE, strict=False)):
        heights = places + thick * ((len(series) - 1) / 2 - number)
        ordered = [values[name] for name in names]
        axes.barh(heights, ordered, color=colour, height=0.92 * thick, label=label)
        for height, value in zip(heights, ordered, strict=True):
            side, align = (1, "left") if value >= 0 else (-1, "right")
            axes.text(
                value + side * 0.012 * reach, height, f"{value:.2f}", va="center", ha=align, fontsize=7.5
            )
        told.append(f"{label}: " + ", ".join(f"{name} {values[name]:.2f}" for name in names))
    axes.axvline(0, color=style.GREY, lw=0.8)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel=y, xlim=(-1.12 * reach, 1.12 * reach))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    style.title(axes, title)
    return style.describe(figure, f"{title}. {y}. " + "; ".join(told) + ".")


@style.styled
def plot_trajectory(paths: Mapping[str, Sequence[Tensor]], *, title: str = "") -> Figure:
    """The way of latents from noise to video, {name: latents in order}, in the plane where they differ most.

    All paths share the plane.
    """
    figure = style.new_figure(3.6, width=style.WIDTH * 0.7)
    axes = figure.subplots()
    flat = {name: np.stack([_numbers(one).ravel() for one in path]) for name, path in paths.items()}
    places, shares = plane_of(np.concatenate(list(flat.values())))
    start = 0
    for (name, path), colour in zip(flat.items(), style.CYCLE, strict=False):
        way = places[start : start + len(path)]
        start += len(path)
        axes.plot(*way.T, color=colour, lw=1.4, label=name, zorder=2)
        axes.scatter(
            way[:, 0],
            way[:, 1],
            s=np.linspace(10, 34, len(way)),
            color=colour,
            zorder=3,
            edgecolor="white",
            lw=0.6,
        )
        axes.plot(*way[0], "o", ms=10, mfc="none", mec=colour, mew=1.4)
        axes.plot(*way[-1], "*", ms=14, color=colour, mec="white", mew=0.8, zorder=4)
    axes.set(
        xlabel=f"first direction ({shares[0]:.0%} of the differences)", ylabel=f"second ({shares[1]:.0%})"
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid()
    axes.legend(loc="best")
    style.title(axes, title, note="ring: noise; star: finished")
    words = f"{title or 'Trajectories'}: {len(flat)} paths of {', '.join(str(len(p)) for p in flat.values())} points"
    return style.describe(
        figure, f"{words} in the plane of their two main directions, from a ring to a star."
    )


def _numbers(values: Numbers) -> np.ndarray:
    detached = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return np.asarray(detached, dtype=np.float64)


@style.styled
def plot_field(
    velocity_of: Callable[[Tensor, float], Tensor],
    *,
    data: Tensor,
    times: Sequence[float] = (0.95, 0.5, 0.02),
    starts: int = 14,
    title: str = "",
) -> Figure:
    """A velocity field of two numbers at some times: arrows against it, the data as stars, walks from noise.

    `velocity_of(points (N, 2), t)`; `data` (N, 2). Each walk is made with 60 Euler steps and drawn up to the time
    of its panel.
    """
    import torch

    figure = style.new_figure(3.6)
    walks = _walk(velocity_of, torch.randn(starts, 2, generator=torch.Generator().manual_seed(5)))
    reach = 3.1
    ticks = torch.linspace(-reach * 0.93, reach * 0.93, 13)
    grid = torch.cartesian_prod(ticks, ticks)  # (169, 2)
    for axes, t in zip(figure.subplots(1, len(times)), times, strict=True):
        arrows = -velocity_of(grid, t)
        arrows = arrows / arrows.norm(dim=1, keepdim=True).clamp(min=1e-6)
        axes.quiver(*grid.T, *arrows.T, color="#a9bccb", scale=26, width=0.0055, pivot="mid")
        made = walks[: 1 + round((1 - t) * 60)]  # (steps, starts, 2)
        for walk in made.transpose(0, 1):
            axes.plot(*walk.T, color=style.VERMILION, lw=1.0, alpha=0.75)
        axes.scatter(*made[-1].T, s=16, color=style.VERMILION, zorder=3, edgecolor="white", lw=0.5)
        axes.scatter(*data.T, s=150, marker="*", color=style.BLUE, zorder=4, edgecolor="white", lw=0.8)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        style.bare(axes).set(xlabel="first number", ylabel="second number")
        axes.set_title(f"time {t:g}", fontsize=9, loc="left")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    legend = "arrow: against the velocity, towards clean      star: a video      dot: where a walk stands, with its way"
    figure.supxlabel(legend, fontsize=8, color=style.GREY)
    at = ", ".join(f"{t:g}" for t in times)
    words = f"arrows against the velocity, towards clean, at times {at}; {starts} walks from noise end at the stars"
    return style.describe(figure, f"{title or 'Velocity field'}: {len(data)} data points as stars, {words}.")


def _walk(velocity_of: Callable[[Tensor, float], Tensor], points: Tensor, steps: int = 60) -> Tensor:
    """Euler's way from noise at 1 to 0: (steps + 1, N, 2)."""
    import torch

    way = [points]
    for index in range(steps):
        way.append(way[-1] - velocity_of(way[-1], 1 - index / steps) / steps)
    return torch.stack(way)
