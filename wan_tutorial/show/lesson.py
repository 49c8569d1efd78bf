"""What every lesson opens and ends with: what this machine can run, where the lesson stands, what the real model costs.

In: the machine's own account of itself (`machine/hardware.py`), plans (`machine/plan.py`). Out: a few printed lines, a
small drawing, a table.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wan_tutorial.machine.hardware import Machine, StageUse, Verdict, judge_models, read_machine, spoken_bytes
from wan_tutorial.machine.plan import Run, find_card, plan_run
from wan_tutorial.machine.weights import bundled_folder, find_model
from wan_tutorial.show.diagram import plot_place
from wan_tutorial.show.style import show_figure, show_table

REAL = "wan2.1-vace-14b-q3"
DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts Google Drive
SAMPLES = {  # groups of the shipped evaluation -> what was asked for
    "judge_on_renders": "renders: how well the judge reads",
    "judge_on_held_out_combinations": "renders of combinations held out of training",
    "captions_train": "captions",
    "captions_held_out": "combinations held out of training",
    "free_phrasings": "other phrasings",
}


SPOKEN = {  # attributes of the shipped evaluation whose name does not say how they are told
    "subject_without_defects": "subject, in videos without defects",
    "camera": "camera, by optical flow",
}


def show_machine(machine: Machine | None = None) -> None:
    """Say what this machine has, which models and so which lessons run on it, and why."""
    machine = machine or read_machine()
    gpu = (
        f"{machine.gpu} with {spoken_bytes(machine.gpu_memory)}"
        if machine.gpu
        else "no GPU that PyTorch can use"
    )
    verdicts = {verdict.model: verdict for verdict in judge_models(machine)}
    small, real = verdicts["mini"], verdicts[REAL]
    fits = "all lessons run here" if small.runs else "the lessons do not run here"
    for line in (
        f"This machine: {machine.cores} core{'s' if machine.cores > 1 else ''}, {spoken_bytes(machine.memory)} of memory, {gpu}.",
        f"Scale model: {fits}, {small.why}.",
        f"Real model: {_say_verdict(real)}.",
    ):
        print(textwrap.fill(line, 88, subsequent_indent="  "))  # notebooks break longer lines inside words


def _say_verdict(verdict: Verdict) -> str:
    """Whether a model runs here and why; one that only takes too long is not said to be unable to run."""
    slow = re.match(r"it takes (about [\d,]+ hours)(.*)", verdict.why)
    if slow and not verdict.runs:
        return f"too slow here: {slow[1]} a video{slow[2]}"
    return f"{'runs here' if verdict.runs else 'does not run here'}, {verdict.why}"


def results_folder() -> Path:
    """Where results outlive the session: Google Drive where it is mounted, else outputs/; says which."""
    folder = DRIVE / "wan_tutorial" if DRIVE.is_dir() else Path("outputs")
    folder.mkdir(parents=True, exist_ok=True)
    on_colab = not DRIVE.is_dir() and DRIVE.parents[1].is_dir()
    lost = ", which is lost with this session: mount Google Drive to keep it" if on_colab else ""
    print(f"Results go to {folder}{lost}.")
    return folder


def show_place(stage: str) -> None:
    """Draw where a lesson stands: "text", "noise", "denoise", "decode", "video" or "all"."""
    show_figure(plot_place(stage))


def show_costs(measured: Sequence[StageUse], pipe: Any, *, card: str = "T4") -> None:
    """Stages measured here on the model that ran, beside what the plan predicts for the real model on a card.

    The prediction is for the real model's own settings, and the longest video of its size that the card can hold; with a
    reference where the run here had something given.
    """
    entry, given = find_model(REAL), any(use.name == "context" for use in measured)
    run = Run(entry.size, entry.steps, entry.guidance, reference=given)
    plan = plan_run(entry, find_card(card), run)
    if plan.nearest:
        plan = plan_run(entry, plan.card, plan.nearest)
    predicted = {stage.name: stage for stage in plan.stages}
    rows: list[list[object]] = []
    for use in measured:
        stage, memory = predicted[use.name], use.gpu_memory_peak or use.memory_peak
        minutes = f"{stage.minutes:.0f} minutes" if stage.minutes >= 1 else f"{60 * stage.minutes:.0f} s"
        there = f"{minutes}, {spoken_bytes(stage.vram)} of GPU memory"
        rows.append([use.name, there, f"{use.seconds:.1f} s, {spoken_bytes(memory)}"])
    show_table(["stage", f"real model on a {card}, predicted", f"{pipe.entry.name} here, measured"], rows)
    run, beside = plan.run, ", a reference" if given else ""
    print(f"Predicted for {run.size}, {run.steps} steps, guidance {run.guidance:g}{beside}.")


def read_evaluation(pipe: Any) -> dict[str, Any]:
    """The figures that ship with the scale model (evaluation.json), if they were measured on the files that `pipe` reads.

    They carry the hashes of those files; of any other model nothing is said: {}. A group that names more files, such as
    the LoRAs, is left out where one of those that ship has changed since.
    """
    report = json.loads((bundled_folder() / "evaluation.json").read_text())
    if not pipe.entry.light:
        return {}
    if any(report["files"][role]["sha256"] != _sha256(file) for role, file in pipe.files.items()):
        return {}
    return {
        name: rows for name, rows in report["figures"].items() if _files_are_the_same(rows.get("files", {}))
    }


def _files_are_the_same(hashes: Mapping[str, str]) -> bool:
    """Whether files {name: SHA-256} are still what they were, as far as they ship with the scale model."""
    here = {name: bundled_folder() / name for name in hashes}
    return all(_sha256(path) == hashes[name] for name, path in here.items() if path.is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say_share(row: Mapping[str, Any]) -> str:
    """A share of the evaluation with its sample size and its 95 % interval: "70 % of 47 (56 to 81)"."""
    return f"{row['value']:.0%} of {row['n']} ({100 * row['low']:.0f} to {100 * row['high']:.0f})"


def show_obedience(pipe: Any, attributes: Sequence[str]) -> None:
    """How often the judge sees what a caption asked for, in the shipped evaluation; 95 % intervals in brackets."""
    figures = read_evaluation(pipe)
    if not figures:
        print("The shipped evaluation was made with other model files, so it says nothing about these.")
        return
    groups = {name: words for name, words in SAMPLES.items() if name in figures}
    rows: list[list[object]] = [
        [
            SPOKEN.get(attribute, attribute),
            *(say_share(_asked(figures[group], attribute)) for group in groups),
        ]
        for attribute in attributes
    ]
    show_table(["asked for", *groups.values()], rows)


def _asked(rows: Mapping[str, Any], attribute: str) -> Mapping[str, Any]:
    """A group's share for an attribute; what was generated from captions has no `subject_without_defects` but `subject`,
    as no caption asks for a defect."""
    whole: Mapping[str, Any] = rows.get(attribute) or rows[attribute.removesuffix("_without_defects")]
    return whole


def count_parameters(network: object) -> int:
    """How many numbers a network has learned; shared ones count once. Works on shapes without memory (device meta)."""
    return sum(parameter.numel() for parameter in network.parameters())  # type: ignore[attr-defined]
