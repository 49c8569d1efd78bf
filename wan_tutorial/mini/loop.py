"""The training loop that every stage of the scale model shares: one schedule, one log, one kind of checkpoint.

A stage gives `loss(step) -> (loss, figures)`; the loop does the rest: AdamW, warm-up and decay over the minutes
it was given, averaged weights, a CSV of its curves and a checkpoint every few minutes, from which it resumes.
"""

import csv
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..files import write_safetensors

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Moment:
    """Where a training stands after a step: what a watcher is shown."""

    step: int
    minutes: float  # used so far, those before an interruption included
    share: float  # of the minutes it was given
    figures: dict[str, float]  # the loss and what else the stage tells
    average: nn.Module  # the averaged network: what would be kept now


@dataclass(frozen=True)
class Budget:
    """How long a stage trains, and how fast."""

    minutes: float
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    averaging: float = 0.999  # of the averaged weights, once the run is long enough
    save_minutes: float = 4.0


def train(
    model: Network,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    budget: Budget,
    folder: Path,
    parameters: Iterable[nn.Parameter] | None = None,
    orthogonal: Iterable[nn.Parameter] = (),
    watch: Callable[[Moment], bool] | None = None,
    around: Callable[[int, float], AbstractContextManager] = lambda step, share: nullcontext(),
) -> Network:
    """Train `model` in place until the minutes are used; returns the averaged model, in evaluation mode.

    `parameters`: what to train, if not all; `orthogonal`: the matrices among them that Muon moves instead of AdamW.
    `watch` is shown every step; when it answers True, the training ends early and what was learned is kept.
    `around(step, share)` is entered for the passes forward and back of a step; share: of the minutes that are used.

    `folder` holds checkpoint.safetensors (weights and averages, float32), progress.csv (the curves) and the minutes
    already used: the same call after an interruption goes on from there, with a fresh optimiser and warm-up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    average = deepcopy(model).eval().requires_grad_(False)
    step, used = resume(model, average, folder)
    wanted = list(parameters if parameters is not None else model.parameters())
    optimisers = make_optimisers(wanted, set(orthogonal), budget)
    began, saved, first_step = time.monotonic(), time.monotonic(), step
    model.train()
    elapsed = used
    try:
        while (elapsed := used + (time.monotonic() - began) / 60) < budget.minutes:
            rate = budget.learning_rate * schedule(step - first_step, elapsed / budget.minutes, budget)
            model.zero_grad(set_to_none=True)
            with around(step, elapsed / budget.minutes):
                loss, figures = loss_of(step)
                loss.backward()
            norm = nn.utils.clip_grad_norm_(wanted, 1.0)
            if not math.isfinite(norm):
                raise FloatingPointError(f"the gradient at step {step} is {norm}: lower the learning rate.")
            for optimiser in optimisers:
                optimiser.param_groups[0]["lr"] = rate
                optimiser.step()
            step += 1
            update_average(average, model, min(budget.averaging, (1 + step) / (10 + step)))
            if step % 20 == 0:
                log(folder, step=step, minutes=elapsed, rate=rate, loss=loss.item(), **figures)
            if time.monotonic() - saved > 60 * budget.save_minutes:
                save(model, average, folder, step=step, minutes=elapsed)
                saved = time.monotonic()
            if watch is not None:
                told = {"loss": loss.item(), **figures}
                if watch(Moment(step, elapsed, elapsed / budget.minutes, told, average)):
                    break
    except KeyboardInterrupt:  # stopped by hand: nothing is lost
        save(model, average, folder, step=step, minutes=elapsed)
        raise
    save(model, average, folder, step=step, minutes=elapsed)
    return average


def make_optimisers(
    parameters: list[nn.Parameter], orthogonal: set[nn.Parameter], budget: Budget
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices and convolutions named."""
    plain = [p for p in parameters if p not in orthogonal]
    decay = budget.weight_decay
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(plain, lr=0.0, betas=(0.9, 0.98), weight_decay=decay)
    ]
    if orthogonal:
        matrices = [p for p in parameters if p in orthogonal]
        optimisers.append(Muon(matrices, weight_decay=decay))
    return optimisers


@lru_cache
def narrow_is_faster(device: str) -> bool:
    """Whether matrices multiply sooner in bfloat16 than in float32: not every CPU that knows bfloat16 gains by it."""
    a, b = torch.ones(2048, 256, device=device), torch.ones(256, 1024, device=device)
    seconds: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16) * 2:  # the first round warms up
        left, right, began = a.to(dtype), b.to(dtype), time.perf_counter()
        for _ in range(8):
            product = left @ right
        product.sum().item()  # waits for a GPU
        seconds[dtype] = time.perf_counter() - began
    return seconds[torch.bfloat16] < seconds[torch.float32]


def fast_products(device: torch.device | str) -> AbstractContextManager:
    """Autocast to bfloat16 where that is faster. Not to be entered in compiled code, which would measure itself."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=narrow_is_faster(kind))


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, so that no direction of a matrix is left behind.

    torch.optim.Muon takes matrices only; this one reads a convolution (out, in, ...) as a matrix of `out` rows as well,
    and takes all matrices of one shape at once. Five Newton-Schulz steps and their numbers:
    https://kellerjordan.github.io/posts/muon; the scale 0.2 sqrt(longer side) lets one learning rate serve AdamW and it:
    https://arxiv.org/abs/2502.16982.
    """

    def __init__(self, parameters: list[nn.Parameter], *, weight_decay: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": 0.0})
        self.weight_decay, self.momentum = weight_decay, momentum

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for weight in self.param_groups[0]["params"]:
            if weight.grad is not None:  # a convolution in time has none where only single frames were seen
                alike[tuple(weight.flatten(1).shape)].append(weight)
        rate = self.param_groups[0]["lr"]
        for shape, weights in alike.items():
            updates = orthogonalise(torch.stack([self._momentum(weight).flatten(1) for weight in weights]))
            for weight, update in zip(weights, updates, strict=True):
                weight.mul_(1 - rate * self.weight_decay)
                weight.add_(update.reshape(weight.shape), alpha=-rate * 0.2 * max(shape) ** 0.5)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        assert weight.grad is not None
        average = self.state[weight].setdefault("average", torch.zeros_like(weight))
        average.lerp_(weight.grad, 1 - self.momentum)
        return weight.grad.lerp(average, self.momentum)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring every singular value of matrices (..., m, n) near 1, by five Newton-Schulz steps."""
    flat = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if flat else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.bfloat16() if narrow_is_faster(x.device.type) else x
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x if flat else x.mT).to(matrices.dtype)


def schedule(steps_since_start: int, progress: float, budget: Budget) -> float:
    """Warm-up over the first steps, then a cosine from 1 down to 0.02 at the end of the minutes."""
    warm = min(1.0, (steps_since_start + 1) / budget.warmup_steps)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Exponential moving average of the weights: average = keep * average + (1 - keep) * weights."""
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    old, new = zip(*((a, b) for a, b in pairs if b.requires_grad), strict=True)
    torch._foreach_lerp_(list(old), [parameter.detach() for parameter in new], 1 - keep)


def save(model: nn.Module, average: nn.Module, folder: Path, *, step: int, minutes: float) -> None:
    """Write weights and averages to checkpoint.safetensors, all or nothing."""
    tensors = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    used = {"step": str(step), "minutes": str(minutes)}
    write_safetensors(folder / "checkpoint.safetensors", tensors, metadata=used)
    (folder / "used.txt").write_text(f"{step} {minutes}")


def resume(model: nn.Module, average: nn.Module, folder: Path) -> tuple[int, float]:
    """Load the checkpoint of an interrupted run, if there is one; returns the steps and minutes it had used."""
    if not (folder / "checkpoint.safetensors").exists():
        return 0, 0.0
    tensors = load_file(folder / "checkpoint.safetensors")
    model.load_state_dict({name[8:]: t for name, t in tensors.items() if name.startswith("weights.")})
    average.load_state_dict({name[8:]: t for name, t in tensors.items() if name.startswith("average.")})
    step, minutes = (folder / "used.txt").read_text().split()
    return int(step), float(minutes)


def averaged(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a stage's checkpoint."""
    tensors = load_file(folder / "checkpoint.safetensors")
    return {name[8:]: tensor for name, tensor in tensors.items() if name.startswith("average.")}


def log(folder: Path, **figures: float) -> None:
    """Append one row to progress.csv."""
    path = folder / "progress.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, figures)
        if new:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" for name, value in figures.items()})
