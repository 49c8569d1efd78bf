"""A run that can be interrupted: every answer of the model is kept in a folder, and a later run begins with them.

Stands between the model and the solver. A solver of higher order remembers earlier answers, so its latent alone is not
enough to go on from; given the kept answers again it walks the same steps, in no time, to where the run stopped, with
every solver and without knowing any of them. In: a `velocity_of`. Out: one that remembers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.files import read_tensors, replacing, write_safetensors
from wan_tutorial.sampling.solvers import VelocityOf

ABOUT = "run.json"


class KeptRun:
    """A folder for one run. `settings` tells runs apart: all that the result depends on, as JSON can hold it."""

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.folder = check_path(folder, "folder of a kept run", example="outputs/run")
        about, told = self.folder / ABOUT, json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False)
        # A prompt may hold what is no letter, such as half of one from a terminal of another encoding.
        text = told.encode("utf-8", "backslashreplace").decode("utf-8")
        try:
            known = about.is_file() and about.read_text(encoding="utf-8", errors="replace") == text
            if not known and (about.exists() or self._all_answers):
                raise WanError(
                    f"{self.folder} keeps another run, one with other settings (see {ABOUT} in it): name another folder, or "
                    "delete this one."
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            if not about.exists():
                with replacing(about) as partial:  # half of it would make this another run
                    partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise WanError(
                f"{self.folder} cannot be written ({error.strerror}): name another folder."
            ) from error

    @property
    def answers(self) -> list[Path]:
        """The model's answers so far, in order, up to the first that is missing."""
        return list(itertools.takewhile(Path.exists, map(self.place, itertools.count())))

    @property
    def _all_answers(self) -> list[Path]:
        return sorted(self.folder.glob("velocity-[0-9][0-9][0-9][0-9].safetensors"))

    def place(self, number: int) -> Path:
        """Where an answer is kept."""
        return self.folder / f"velocity-{number:04}.safetensors"

    def clear(self) -> None:
        """Forget the run, its last answer first; called when its video is made. What can't be deleted stays."""
        with suppress(OSError):
            halves = self.folder.glob(".*.partial")  # of a process that was killed while it wrote
            for path in (*reversed(self._all_answers), *halves, self.folder / ABOUT):
                path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


class RememberedVelocity:
    """A `velocity_of` that gives a run's kept answers first, and keeps each new one before it is used."""

    def __init__(self, velocity_of: VelocityOf, run: KeptRun) -> None:
        self.velocity_of, self.run = velocity_of, run
        self.kept = run.answers
        self.asked = 0
        self.positive: Tensor | None = None  # the two halves of a guided answer; none of a kept one
        self.negative: Tensor | None = None

    def __call__(self, latent: Tensor, sigma: float) -> Tensor:
        call, self.asked = self.asked, self.asked + 1
        if call < len(self.kept):
            return read_answer(self.kept[call], latent)
        velocity = self.velocity_of(latent, sigma)
        self.positive = getattr(self.velocity_of, "positive", None)
        self.negative = getattr(self.velocity_of, "negative", None)
        write_safetensors(self.run.place(call), {"velocity": velocity})
        return velocity


def read_answer(path: Path, latent: Tensor) -> Tensor:
    """A kept answer to be used for this latent; WanError if it cannot be one."""
    try:
        velocity: Any = read_tensors(path).tensors.get("velocity")
    except WanError:
        velocity = None
    if not (isinstance(velocity, Tensor) and velocity.is_floating_point() and velocity.isfinite().all()):
        raise WanError(f"{path} is damaged: delete it, and the run goes on from there.")
    if velocity.shape != latent.shape:
        raise WanError(f"{path} is of another size: delete {path.parent}.")
    return velocity.to(latent.device)
