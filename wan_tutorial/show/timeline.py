"""A run as a skyline: how long each stage takes and how much memory, predicted, and measured beside it.

In: plans of `machine/plan.py`, and what stages took. Out: a figure, a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from wan_tutorial.machine.hardware import StageUse, spoken_bytes
from wan_tutorial.machine.plan import SPARE, Plan
from wan_tutorial.machine.weights import GIGABYTE
from wan_tutorial.show import style

COLOURS = {"text": style.EMBEDDINGS, "context": style.PINK, "steps": style.WORK, "decode": style.PIXELS}
SHORTEST = 0.5  # seconds: of stages predicted shorter a plan says nothing useful


@style.styled
def plot_timelines(plans: Mapping[str, Plan], *, title: str = "") -> Figure:
    """For each {name: plan} a row over one axis of minutes: each stage as wide as it takes, as high as its memory.

    White lines part the steps; the dashed line is what the machine can be planned with.
    """
    figure = style.new_figure(0.75 + 1.15 * len(plans))
    rows = figure.subplots(len(plans), 1, sharex=True, squeeze=False)[:, 0]
    longest, told = max(plan.minutes for plan in plans.values()), []
    for axes, (name, plan) in zip(rows, plans.items(), strict=True):
        limit = SPARE * (plan.card.vram or plan.card.ram) / GIGABYTE
        _draw_stages(axes, plan)
        axes.axhline(limit, color=style.INK, lw=1.2, ls=(0, (3, 2)))
        axes.text(1.0, limit, f"{plan.card.name}: {limit:.1f} GB ", transform=axes.get_yaxis_transform(), ha="right",
                  va="bottom", fontsize=8)  # fmt: skip
        most = max(plan.memory(stage) for stage in plan.stages) / GIGABYTE
        axes.set(ylim=(0, 1.3 * max(limit, most)), xlim=(0, 1.09 * longest), ylabel="GB")
        parts = ", ".join(f"{stage.name} {_spoken(stage.minutes)}" for stage in plan.stages)
        run = plan.run
        settings = f"{run.size}, {run.steps} steps, guidance {run.guidance:g}"
        axes.set_title(f"{name}: {settings}", fontsize=9, pad=4)
        told.append(f"{name}, {settings}: {parts}; at most {most:.1f} of {limit:.1f} GB")
    rows[-1].set_xlabel("minutes, predicted")
    names = dict.fromkeys(stage.name for plan in plans.values() for stage in plan.stages)
    figure.legend(handles=[Patch(color=COLOURS.get(name, style.GREY), label=name) for name in names], loc="outside upper right",
                  ncols=len(names), fontsize=8.5)  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return style.describe(figure, f"{title or 'Runs over time'}. {'. '.join(told)}.")


def _draw_stages(axes: Axes, plan: Plan) -> None:
    """The skyline of one run."""
    start = 0.0
    for stage in plan.stages:
        high, colour = plan.memory(stage) / GIGABYTE, COLOURS.get(stage.name, style.GREY)
        axes.bar(start, high, stage.minutes, align="edge", color=colour, lw=0)
        if stage.name == "steps":
            each = stage.minutes / plan.run.steps
            axes.vlines(
                [start + each * i for i in range(1, plan.run.steps)], 0, high, color=style.PAPER, lw=0.8
            )
        start += stage.minutes
    axes.text(start, 0, f"  {_spoken(plan.minutes)}", va="bottom", fontsize=8.5, fontweight="bold")


def show_forecast(plan: Plan, measured: Sequence[StageUse]) -> None:
    """What was predicted for each stage of a run and what it took, on the same machine.

    Stages predicted below `SHORTEST` are not compared: a plan knows of no start-up.
    """
    predicted = {stage.name: stage for stage in plan.stages}
    rows: list[list[object]] = []
    for use in measured:
        took = f"{use.seconds:.1f} s, {spoken_bytes(use.gpu_memory_peak or use.memory_peak)}"
        stage = predicted.get(use.name)
        if stage is None:
            rows.append([use.name, "nothing", took, ""])
            continue
        seconds = 60 * stage.minutes
        said = f"{seconds:.1f} s, {spoken_bytes(plan.memory(stage))}"
        times = f"{use.seconds / seconds:.1f} times as long" if seconds >= SHORTEST else "-"
        rows.append([use.name, said, took, times])
    style.show_table(["stage", "predicted", "measured", "took"], rows)
    print(f"Planned with {plan.card.speed / 1e12:g} TFLOP/s for {plan.card.name} ({plan.card.source}).")


def _spoken(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes >= 9.5 else f"{minutes:.1f} min"
