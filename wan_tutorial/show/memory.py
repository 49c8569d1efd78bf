"""The memory of a run as bars under a limit, and a calculator to play with.

In: plans of `machine/plan.py`. Out: figures and a widget. Everything here is predicted; the plan says from what.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from wan_tutorial.machine.plan import (
    CUDA_CONTEXT,
    PROCESS,
    SPARE,
    Card,
    Plan,
    Run,
    plan_run,
    step_memory,
    widened_layer,
)
from wan_tutorial.machine.weights import GIGABYTE, ModelEntry
from wan_tutorial.show import style
from wan_tutorial.show.panel import Panel
from wan_tutorial.sizes import VideoSize

PARTS = {
    "PyTorch itself": style.GREY,
    "packed weights": style.BLUE,
    "one matrix unpacked": style.SKY,
    "tokens": style.VERMILION,
}


def step_parts(plan: Plan) -> dict[str, float]:
    """What the fullest stage of a run, its steps, is made of, in bytes: the parts that the plan adds up."""
    half, entry = bool(plan.card.vram) and not plan.entry.light, plan.entry
    stage = next(stage for stage in plan.stages if stage.name == "steps")
    tokens = step_memory(entry, plan.run.tokens, plan.run.prompts if entry.light else 1, half)
    rest = {"PyTorch itself": CUDA_CONTEXT if plan.card.vram else PROCESS, "one matrix unpacked": widened_layer(entry, half),
            "tokens": tokens}  # fmt: skip
    parts = rest | {"packed weights": plan.memory(stage) - sum(rest.values())}
    return {name: float(parts[name]) for name in PARTS}


def _clear_of(limit: float, end: float, room: float) -> float:
    """Where a number beside a bar begins, so that the limit's line does not run through it."""
    return limit if limit - room < end <= limit else end


def _words_place(limit: float, end: float, room: float) -> tuple[float, bool]:
    """Where words about a bar go, and whether inside it: beside it, unless the limit's line would run through them."""
    place = _clear_of(limit, end, room)
    return (end, True) if place != end and end >= room else (place, False)


@style.styled
def plot_memory(plans: Mapping[str, Plan], *, title: str = "") -> Figure:
    """The memory of the steps, part by part, for each {name: plan}, and the line that the card draws."""
    figure = style.new_figure(1.05 + 0.36 * len(plans))
    axes = figure.subplots()
    card = next(iter(plans.values())).card
    limit = SPARE * (card.vram or card.ram) / GIGABYTE
    most = max(limit, *(sum(step_parts(plan).values()) / GIGABYTE for plan in plans.values()))
    told = []
    for row, (name, plan) in enumerate(plans.items()):
        left = 0.0
        for part, size in step_parts(plan).items():
            label = part if row == 0 else None
            axes.barh(row, size / GIGABYTE, left=left, height=0.64, color=PARTS[part], label=label)
            left += size / GIGABYTE
        fits = left <= limit
        place = _clear_of(limit, left, 0.085 * most)
        axes.annotate(f"{left:.1f} GB", (place, row), (6, 0), textcoords="offset points", va="center", fontsize=8.5,
                      fontweight="bold" if fits else "normal", color=style.INK if fits else style.VERMILION)  # fmt: skip
        told.append(f"{name} {left:.1f} GB{'' if fits else ', too much'}")
    axes.axvline(limit, color=style.INK, lw=1.4, ls=(0, (3, 2)))
    axes.text(limit, -0.5, f" {card.name}: {limit:.1f} GB", fontsize=8.5, va="bottom")
    axes.set_yticks(range(len(plans)), list(plans))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("GB during the steps, predicted")
    axes.set(xlim=(0, 1.12 * most), ylim=(len(plans) - 0.45, -0.95))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=8)
    axes.set_title(title)
    return style.describe(figure, f"{title or 'Memory of the steps'} on {card.name}, of which {limit:.1f} GB can be planned "
                          f"with: {'; '.join(told)}.")  # fmt: skip


def explore_memory(
    cards: Mapping[str, Card], models: Mapping[str, ModelEntry], *, model: str, card: str
) -> Panel:
    """The calculator: your card, the model's file, the video; what it takes, whether it fits, how many minutes."""
    import ipywidgets

    wide = ipywidgets.Layout(width="300px")
    sizes = ["480x480", "832x480", "1280x720"]
    controls = {
        "card": ipywidgets.Dropdown(options=list(cards), value=card, description="card", layout=wide),
        "model": ipywidgets.Dropdown(options=list(models), value=model, description="model", layout=wide),
        "pixels": ipywidgets.Dropdown(options=sizes, value=sizes[1], description="pixels", layout=wide),
        "frames": ipywidgets.IntSlider(value=33, min=5, max=121, step=4, description="frames", layout=wide),
        "fast": ipywidgets.Checkbox(value=True, description="speed LoRA: 4 steps, guidance 1", indent=False),
        "offload": ipywidgets.Checkbox(value=False, description="blocks may rest in RAM", indent=False),
    }

    def draw(
        card: str, model: str, pixels: str, frames: int, fast: bool, offload: bool
    ) -> tuple[np.ndarray, str]:
        width, height = map(int, pixels.split("x"))
        run = Run(VideoSize(width, height, frames), 4 if fast else 20, 1.0 if fast else 6.0, lora=fast)
        plan = plan_run(models[model], cards[card], run, offload=offload)
        figure = plot_plan(plan)
        return style.to_array(figure, dots=150), str(figure.get_label())

    return Panel(controls, draw).show()


@style.styled
def plot_plan(plan: Plan) -> Figure:
    """One run: its stages as bars against the card's memory, and the verdict in words."""
    figure = style.new_figure(2.9)
    axes, words = figure.subplots(1, 2, width_ratios=(1.9, 1))
    style.bare(words)
    limit = SPARE * (plan.card.vram or plan.card.ram) / GIGABYTE
    most = max(limit, *(plan.memory(stage) / GIGABYTE for stage in plan.stages))
    colours = {"text": style.EMBEDDINGS, "context": style.PIXELS, "steps": style.WORK, "decode": style.PIXELS}
    for row, stage in enumerate(plan.stages):
        size = plan.memory(stage) / GIGABYTE
        axes.barh(row, size, height=0.6, color=colours[stage.name], alpha=1 if size <= limit else 0.55)
        told = f"{size:.1f} GB, {stage.minutes:.1f} min"
        place, inside = _words_place(limit, size, 0.27 * most)
        axes.annotate(told, (place, row), (-6 if inside else 6, 0), textcoords="offset points", va="center",
                      ha="right" if inside else "left", fontsize=8.5,
                      color=style.PAPER if inside else style.INK)  # fmt: skip
    axes.axvline(limit, color=style.INK, lw=1.4, ls=(0, (3, 2)))
    axes.text(limit, -0.45, f" {limit:.1f} GB", fontsize=8, va="bottom")
    axes.set_yticks(range(len(plan.stages)), [stage.name for stage in plan.stages])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel="GB, predicted", xlim=(0, 1.3 * most))
    settings = f"{plan.run.steps} steps{', a LoRA' if plan.run.lora else ''}"
    axes.set_title(f"{plan.entry.name} on {plan.card.name}: {settings}", pad=22)
    verdict = "It fits." if plan.fits else "It does not fit:"
    lines = [f"{plan.run.size}, {plan.run.tokens:,} tokens", f"about {plan.minutes:.0f} minutes", "", verdict]
    lines += textwrap.wrap(plan.problem or "", 44)
    if plan.nearest:
        lines += ["", f"The nearest that does: {plan.nearest.size}"]
    words.text(0, 0.95, "\n".join(lines), va="top", fontsize=8.8, linespacing=1.5)
    told = "; ".join(f"{stage.name} {plan.memory(stage) / GIGABYTE:.1f} GB" for stage in plan.stages)
    return style.describe(
        figure,
        f"{plan.entry.name} on {plan.card.name}, {plan.run.size}, {settings}: {told}; {limit:.1f} GB can be planned with. "
        f"{verdict} {plan.problem or ''}",
    )
