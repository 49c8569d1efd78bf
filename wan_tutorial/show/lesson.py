"""What every lesson opens with: what this machine can run, and where the lesson stands in the pipeline.

In: the machine's own account of itself (`machine/hardware.py`). Out: a few printed lines and a small drawing.
"""

from __future__ import annotations

from wan_tutorial.machine.hardware import Machine, judge_models, read_machine, spoken_bytes
from wan_tutorial.show.diagram import plot_place
from wan_tutorial.show.style import show_figure


def show_machine(machine: Machine | None = None) -> None:
    """Say what this machine has, which models and so which lessons run on it, and why."""
    machine = machine or read_machine()
    gpu = (
        f"{machine.gpu} with {spoken_bytes(machine.gpu_memory)}"
        if machine.gpu
        else "no GPU that PyTorch can use"
    )
    print(f"This machine: {machine.cores} cores, {spoken_bytes(machine.memory)} of memory, {gpu}.")
    verdicts = {verdict.model: verdict for verdict in judge_models(machine)}
    small, real = verdicts["mini"], verdicts["wan2.1-vace-14b-q3"]
    fits = "all lessons run here" if small.runs else "the lessons do not run here"
    print(f"Scale model: {fits}, {small.why}.")
    print(f"Real model: {'runs here' if real.runs else 'does not run here'}, {real.why}.")


def show_place(stage: str) -> None:
    """Draw where a lesson stands: "text", "noise", "denoise", "decode", "video" or "all"."""
    show_figure(plot_place(stage))


def count_parameters(network: object) -> int:
    """How many numbers a network has learned; shared ones count once. Works on shapes without memory (device meta)."""
    return sum(parameter.numel() for parameter in network.parameters())  # type: ignore[attr-defined]
