"""What this machine has, what fits on it and why, and what each stage took.

Stands beside the pipeline, which asks here for the device, the number format and the memory it may use; every answer
comes with its reason, to be shown. In: nothing but the machine. Out: `Machine`, choices, `StageUse`.
"""

from __future__ import annotations

import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from wan_tutorial.errors import WanError
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
    gpu_memory_free: int = 0
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
    return Machine(
        **vars(machine)
        | {
            "gpu": torch.cuda.get_device_name(),
            "gpu_memory": total,
            "gpu_memory_free": free,
            "gpu_bf16": torch.cuda.get_device_capability() >= (8, 0),
        }
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


def place_model(
    entry: ModelEntry,
    machine: Machine,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    widen_budget_bytes: int | None = None,
) -> Placement:
    """Choose device, number format and the memory for widened weights; what is given is taken as it is."""
    chosen, device_why = _choose_device(machine, device)
    number, dtype_why = (
        (dtype, "as asked for") if dtype is not None else _choose_dtype(entry, machine, chosen)
    )
    if widen_budget_bytes is not None:
        if widen_budget_bytes < 0:
            raise WanError(
                f"The widen budget is a number of bytes, 0 or more, not {widen_budget_bytes}: try 0."
            )
        return Placement(chosen, device_why, number, dtype_why, widen_budget_bytes, "as asked for")
    free = machine.gpu_memory_free if chosen.type == "cuda" else machine.memory_free
    widen_why = "a quarter of the memory that is free; weights held wide need no unpacking at each step"
    return Placement(chosen, device_why, number, dtype_why, free // 4, widen_why)


def _choose_device(machine: Machine, asked: str | torch.device | None) -> tuple[torch.device, str]:
    if asked is None:
        if machine.gpu:
            return torch.device("cuda"), f"there is a GPU, {machine.gpu}"
        return torch.device("cpu"), "there is no NVIDIA GPU that PyTorch can use"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise WanError(f"A device is cpu or cuda, not {asked!r}.") from None
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
    needs, gpu_needs = entry.memory_needed, entry.gpu_memory_needed
    if machine.memory < needs:
        why = f"it needs {spoken_bytes(needs)} of memory, and this machine has {spoken_bytes(machine.memory)}"
        return Verdict(entry.name, False, why)
    if gpu_needs and not machine.gpu:
        why = f"it needs an NVIDIA GPU with {spoken_bytes(gpu_needs)}, and PyTorch finds none here"
        return Verdict(entry.name, False, why)
    if machine.gpu_memory < gpu_needs:
        has = spoken_bytes(machine.gpu_memory)
        why = f"it needs a GPU with {spoken_bytes(gpu_needs)}, and the {machine.gpu} has {has}"
        return Verdict(entry.name, False, why)
    placement = place_model(entry, machine)
    number = str(placement.dtype).removeprefix("torch.")
    return Verdict(entry.name, True, f"on {placement.device}, in {number}: {placement.dtype_why}")


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
