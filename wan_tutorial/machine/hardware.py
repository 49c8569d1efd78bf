"""What this machine has, what fits on it and why, and what each stage took.

Stands beside the pipeline, which asks here for the device, the number format and the memory it may use; every answer
comes with its reason, to be shown. In: nothing but the machine. Out: `Machine`, choices, `StageUse`. What a run will
take is predicted in `plan.py`; what a stage did take is measured here.
"""

from __future__ import annotations

import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psutil
import torch

from wan_tutorial.errors import WanError
from wan_tutorial.machine.plan import (
    CARDS,
    CUDA_CONTEXT,
    IN_RAM,
    SPARE,
    Card,
    Plan,
    Run,
    plan_run,
    text_memory,
)
from wan_tutorial.machine.weights import GIGABYTE, MODELS, ModelEntry


@dataclass(frozen=True)
class Machine:
    """What there is to work with; memory and disk in bytes."""

    system: str
    python: str
    torch: str
    cores: int
    memory: int
    memory_free: int
    disk_free: int
    gpu: str | None = None  # an NVIDIA GPU that PyTorch can use
    gpu_memory: int = 0
    gpu_memory_free: int = 0  # for this process: what PyTorch keeps in store counts
    gpu_bf16: bool = False  # computes in bfloat16 (Ampere and later; a T4 does not)


def read_machine() -> Machine:
    """Look at this machine."""
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    machine = Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        cores=cores,
        memory=memory.total,
        memory_free=memory.available,
        disk_free=shutil.disk_usage(".").free,
    )
    if not torch.cuda.is_available():
        return machine
    free, total = torch.cuda.mem_get_info()
    return replace(
        machine,
        gpu=torch.cuda.get_device_name(),
        gpu_memory=total,
        gpu_memory_free=free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(),
        gpu_bf16=torch.cuda.get_device_capability() >= (8, 0),
    )


# ------------------------------------------------------------------------------------ choices, with their reasons


@dataclass(frozen=True)
class Placement:
    """Where and how a model computes, and why."""

    device: torch.device
    device_why: str
    dtype: torch.dtype
    dtype_why: str
    widen_budget_bytes: int
    widen_why: str
    text_device: torch.device = torch.device("cpu")
    vae_dtype: torch.dtype = torch.float32


def place_model(
    entry: ModelEntry,
    machine: Machine,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    widen_budget_bytes: int | None = None,
) -> Placement:
    """Choose device, number format and the memory for widened weights; what is given is taken as it is."""
    chosen, device_why = _choose_device(entry, machine, device)
    if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
        raise WanError(
            f"A number format is torch.float32, torch.float16 or torch.bfloat16, not {dtype!r}: leave it out."
        )
    number, dtype_why = (
        (dtype, "as asked for") if dtype is not None else _choose_dtype(entry, machine, chosen)
    )
    on_gpu = chosen.type == "cuda"
    text_fits = entry.light or gpu_room(machine) * SPARE - CUDA_CONTEXT > text_memory(entry)
    text_device = chosen if on_gpu and text_fits else torch.device("cpu")
    vae_dtype = number if on_gpu and not entry.light else torch.float32
    if widen_budget_bytes is not None:
        whole = isinstance(widen_budget_bytes, int) and not isinstance(widen_budget_bytes, bool)
        if not whole or widen_budget_bytes < 0:
            raise WanError(
                f"The widen budget is a whole number of bytes, 0 or more, not {widen_budget_bytes!r}: try 0."
            )
        widen, widen_why = widen_budget_bytes, "as asked for"
    elif not entry.light:
        widen = 0
        widen_why = "the model barely fits packed, and unpacking at each step costs little beside the step"
    else:
        widen = (machine.gpu_memory_free if on_gpu else machine.memory_free) // 4
        widen_why = "a quarter of the memory that is free; weights held wide need no unpacking at each step"
    return Placement(chosen, device_why, number, dtype_why, widen, widen_why, text_device, vae_dtype)


def _choose_device(
    entry: ModelEntry, machine: Machine, asked: str | torch.device | None
) -> tuple[torch.device, str]:
    if asked is None:
        if entry.light:  # so that a lesson's own tensors and the model's are always on one device
            return torch.device("cpu"), "the model is small"
        if machine.gpu:
            return torch.device("cuda"), f"there is a GPU, {machine.gpu}"
        return torch.device("cpu"), "there is no NVIDIA GPU that PyTorch can use"
    device: torch.device | None
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise WanError(f"A device is cpu or cuda, not {str(asked)!r}: try cpu.")
    if device.type == "cuda" and not machine.gpu:
        raise WanError(
            "The device cuda needs an NVIDIA GPU that PyTorch can use, and there is none: use cpu."
        )
    return device, "as asked for"


def _choose_dtype(entry: ModelEntry, machine: Machine, device: torch.device) -> tuple[torch.dtype, str]:
    if device.type != "cuda":
        return torch.float32, "the one format that every CPU computes fast and exactly"
    if entry.light:
        return torch.float32, "the model is small: exactness costs nothing"
    if machine.gpu_bf16:
        return torch.bfloat16, "half the memory of float32, with its range"
    return torch.float16, "half the memory of float32; this GPU does not compute in bfloat16"


# ------------------------------------------------------------------------------------------------ what fits here


@dataclass(frozen=True)
class Verdict:
    """Whether a model runs on this machine, and why."""

    model: str
    runs: bool
    why: str


def judge_models(machine: Machine) -> list[Verdict]:
    """For each model of the catalogue: does it fit here?"""
    return [_judge_model(entry, machine) for entry in MODELS.values()]


def _judge_model(entry: ModelEntry, machine: Machine) -> Verdict:
    if machine.memory < entry.memory_needed:
        needs, has = spoken_bytes(entry.memory_needed), spoken_bytes(machine.memory)
        return Verdict(entry.name, False, f"it needs {needs} of memory, and this machine has {has}")
    plan = plan_here(entry, usual_run(entry), machine)
    fitting = plan.nearest if plan.nearest and machine.gpu else None
    if not plan.fits and not fitting:
        return Verdict(entry.name, False, f"{plan.problem} (predicted)")
    placement = place_model(entry, machine)
    number = str(placement.dtype).removeprefix("torch.")
    small = f"; {fitting.size} at most ({plan.problem}; predicted)" if fitting else ""
    return Verdict(entry.name, True, f"on {placement.device}, in {number}: {placement.dtype_why}{small}")


def usual_run(entry: ModelEntry) -> Run:
    """How a model is usually run: the scale model by its own settings, a heavy one distilled, in 4 steps."""
    if entry.light:
        return Run(entry.size, entry.steps, entry.guidance)
    return Run(entry.size, 4, 1.0, lora=True)


def gpu_room(machine: Machine) -> int:
    """What of the card a run will find: what is free, and what this process holds, which is given back before."""
    own = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return min(machine.gpu_memory, machine.gpu_memory_free + own + CUDA_CONTEXT)


def this_card(machine: Machine) -> Card:
    """This machine as the plan sees it: a card of the table by its name, or else the one nearest in memory."""
    if not machine.gpu:
        cpu = CARDS["CPU"]
        speed, source = 5e10 * machine.cores, "assumed: 50 GFLOP/s for each core, in float32"
        return Card("this CPU", 0, machine.memory, min(speed, 10 * cpu.speed), False, source)
    words = machine.gpu.replace("-", " ").split()
    known = [CARDS[name] for name in ("T4", "L4", "A100") if name in words]
    near = known or sorted(
        (card for card in CARDS.values() if card.vram), key=lambda card: abs(card.vram - machine.gpu_memory)
    )
    source = near[0].source if known else f"assumed: as the card {near[0].name} of the table"
    held = machine.gpu_memory - gpu_room(machine)
    others = f" ({spoken_bytes(held)} more are held by other programs or notebooks: end them)"
    name = machine.gpu + (others if held > 0.1 * machine.gpu_memory else "")
    return Card(name, gpu_room(machine), machine.memory, near[0].speed, machine.gpu_bf16, source)


def must_tile(needs: int, machine: Machine) -> bool:
    """Whether the VAE has to work in tiles on this machine, as it stands now, where whole frames need so many bytes."""
    free = machine.gpu_memory_free if machine.gpu else machine.memory_free
    return needs > free * SPARE


def must_offload(entry: ModelEntry, run: Run, device: torch.device) -> bool:
    """Whether the transformer's blocks have to rest in RAM during a run, as the plan for this machine says."""
    return device.type == "cuda" and plan_here(entry, run).choice("blocks") == IN_RAM


def plan_here(entry: ModelEntry, run: Run, machine: Machine | None = None) -> Plan:
    """What a run will take on this machine; a light model runs on its processor."""
    machine = machine or read_machine()
    return plan_run(entry, this_card(replace(machine, gpu=None) if entry.light else machine), run)


def spoken_bytes(count: int | float) -> str:
    """12_300_000_000 -> "12.3 GB"; below one gigabyte in MB."""
    return f"{count / GIGABYTE:.1f} GB" if count >= GIGABYTE else f"{count / 10**6:.0f} MB"


# --------------------------------------------------------------------------------------------- what a stage took


@dataclass(frozen=True)
class StageUse:
    """What one stage took: seconds, and the most memory the whole process held during it."""

    name: str
    seconds: float
    memory_peak: int  # bytes of RAM, resident
    gpu_memory_peak: int | None = None  # bytes allocated by PyTorch; None without a GPU


class StageMeter:
    """Measures stages: `with meter.stage("decode"): ...`; the results gather in `meter.stages`."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.stages: list[StageUse] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        with _watch_memory() as peak:
            yield
            if self.on_gpu:
                torch.cuda.synchronize()
        gpu_peak = torch.cuda.max_memory_allocated() if self.on_gpu else None
        self.stages.append(StageUse(name, time.perf_counter() - start, peak[0], gpu_peak))


@contextmanager
def _watch_memory(every: float = 0.01) -> Iterator[list[int]]:
    """Look at this process's resident memory 100 times a second; the list's one number is the largest seen."""
    process, done = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def look() -> None:
        peak[0] = max(peak[0], process.memory_info().rss)

    def keep_looking() -> None:
        while not done.wait(every):
            look()

    watcher = threading.Thread(target=keep_looking, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        look()
