"""Runs that are remembered: each one recorded so that it can be looked at, compared and made again, bit for bit.

Stands above the pipeline. In: `RunSettings`, all that a video depends on. Out: a `Record`, a plain folder with the
settings, the checksums of the model's files, versions, seconds, memory and pictures; nothing in it needs this program
to be read. A grid of runs goes to any `concurrent.futures` executor: threads, processes, or a cluster's.

    0007-3f9a1c/run.json       all that is known about the run
                frames.png     its frames from top to bottom, exactly
                steps.png      a small picture of the clean guess after each step, from top to bottom
                video.mp4      to be played
                reference.png  what was given to it: a reference picture, a video to start from
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import itertools
import json
import math
import os
import platform
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.files import sha256_of
from wan_tutorial.lora import asked_pairs, check_lora_path
from wan_tutorial.machine.hardware import plan_here
from wan_tutorial.machine.plan import Plan, Run
from wan_tutorial.machine.weights import MODELS, bundled_folder, find_files, find_model, models_folder
from wan_tutorial.noise import check_seed
from wan_tutorial.pipeline import Pipeline, Result, check_size, check_words, load
from wan_tutorial.reference import check_fit, check_strength, read_picture
from wan_tutorial.sampling.denoise import SamplingSettings, check_start
from wan_tutorial.sampling.solvers import Step
from wan_tutorial.show.latents import Projection, fit_projection
from wan_tutorial.show.video import check_fps, read_video, to_frames, write_video
from wan_tutorial.sizes import VideoSize

FORMAT = 1  # of run.json
FOLDER = "outputs/experiments"
SAMPLING = tuple(one.name for one in fields(SamplingSettings))
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_ONE_AT_A_TIME = threading.Lock()  # LoRAs are put on a network and taken off: two runs must not share one


# ---------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class RunSettings:
    """All that a video depends on, in words and numbers that a file can hold; it checks itself.

    What is None is filled in with the model's own. `reference` is a picture's path; `start` the path of a video, or of
    a record's frames.png, to begin from where `denoise` is below 1; `loras` are pairs of a path and a strength.
    """

    prompt: str
    negative: str = ""
    model: str = "mini"
    seed: int = 0
    size: VideoSize | None = None
    steps: int | None = None
    guidance: float | None = None
    shift: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    denoise: float = 1.0
    start: str | None = None
    loras: tuple[tuple[str, float], ...] = ()
    reference: str | None = None
    fit: str = "pad"
    vace_strength: float = 1.0

    def __post_init__(self) -> None:
        check_words(self.prompt, self.negative)
        own = find_model(self.model)
        for name in ("size", "steps", "guidance", "shift", "sampler", "scheduler"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(own, name))
        check_size(self.size)
        check_strength(self.vace_strength)
        loras = tuple((str(check_lora_path(one)), strength) for one, strength in asked_pairs(self.loras))
        object.__setattr__(self, "loras", loras)
        for name in ("start", "reference"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(check_path(path, name, example=f"{name}.png")))
        check_seed(self.seed)
        check_fit(self.fit)
        check_start(self.sampling, self.start)  # `sampling` raises for a value that cannot be

    @property
    def video_size(self) -> VideoSize:
        return self.size or find_model(self.model).size

    @property
    def sampling(self) -> SamplingSettings:
        return SamplingSettings(**{name: getattr(self, name) for name in SAMPLING})

    @property
    def run(self) -> Run:
        """The part of the settings that costs something, for the plan."""
        made = self.sampling
        return Run(self.video_size, made.steps, made.guidance, bool(self.loras), self.reference is not None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"size": str(self.size), "loras": [list(pair) for pair in self.loras]}

    def spread(self, axes: Mapping[str, Sequence[Any]]) -> list[RunSettings]:
        """The settings of a grid, row by row: one or two of them take each of their values."""
        known = [one.name for one in fields(self)]
        if not isinstance(axes, Mapping):
            raise WanError(
                f"A grid is settings with their values, not {axes!r}: try {{'guidance': [1, 3, 6]}}."
            )
        if not 1 <= len(axes) <= 2:
            raise WanError(f"A grid goes over one or two settings, not {len(axes)}.")
        for name, values in axes.items():
            if name not in known:
                raise WanError(
                    f"There is no setting called {name!r} to spread a grid over: choose of {', '.join(known)}."
                )
            if not isinstance(values, Sequence) or isinstance(values, str):
                raise WanError(
                    f"The values of {name} in a grid are a list, not {values!r}: try [{values!r}]."
                )
            if not values or len(set(map(str, values))) < len(values):
                raise WanError(
                    f"The values of {name} in a grid are one or more, each given once, not {list(values)}."
                )
        cells = itertools.product(*axes.values())
        return [replace(self, **dict(zip(axes, values, strict=True))) for values in cells]

    def unlike(self, other: RunSettings) -> list[str]:
        """What is different in another run's settings, in words: "guidance 6 and 3"."""
        words = []
        for name, first in self.to_json().items():
            second = other.to_json()[name]
            if first != second and name in ("prompt", "negative"):
                words.append(f"{name}: {_said_difference(first, second)}")
            elif first and second and name in ("reference", "start"):  # each record has its own copy
                if first != second and checksum(first) != checksum(second):
                    words.append(f"another {'picture' if name == 'reference' else 'video to start from'}")
            elif first != second:
                told = {"loras": "LoRA", "vace_strength": "VACE strength"}.get(name, name)
                words.append(f"{told} {_said(name, first)} and {_said(name, second)}")
        return words

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> RunSettings:
        loras = tuple((str(path), float(strength)) for path, strength in told.get("loras", ()))
        return cls(**{**told, "size": VideoSize.parse(told["size"]), "loras": loras})


def _said(name: str, value: Any) -> str:
    if name == "loras":
        return " + ".join(f"{Path(path).stem} at {strength:g}" for path, strength in value) or "none"
    if name in ("reference", "start"):
        return ("a picture" if name == "reference" else "a video") if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _said_difference(first: str, second: str) -> str:
    """Which words of a prompt were taken out, which came in."""
    old, new = first.split(), second.split()
    gone = [word for word in old if word not in new]
    come = [word for word in new if word not in old]
    said = [f"{verb} {' '.join(words)!r}" for verb, words in (("without", gone), ("with", come)) if words]
    return ", ".join(said) or "the same words in another order"


# ------------------------------------------------------------------------------------------------------ one run


@dataclass(frozen=True)
class Moment:
    """Where a run is: its stage, and of the stage "steps" what was just made."""

    stage: str  # "text", "context", "steps", "decode", "record"
    done: int
    total: int
    guess: np.ndarray | None = None  # the clean guess as a small video (F, H, W, 3), uint8


See = Callable[[Moment], None]  # is told of each moment; what it raises ends the run


def paint(
    settings: RunSettings, pipe: Pipeline, *, see: See | None = None, threads: int | None = None
) -> tuple[Result, np.ndarray]:
    """Make the video of these settings, and a small picture of each step's clean guess (steps, F, H, W, 3), uint8.

    The work is `Pipeline.generate`'s own; `see` is told of each step. `threads`: how many the sums are shared among,
    on which their last bits depend; as many as torch has if not given.
    """
    tell = see or (lambda moment: None)
    look, size, guesses = look_through(pipe), settings.video_size, []

    def seen(step: Step) -> None:
        guesses.append(
            to_frames(look(step.clean_guess[:, :, -size.latent_frames :]))
        )  # without a reference's frames
        tell(Moment("steps", step.index + 1, step.steps, guesses[-1]))

    with _ONE_AT_A_TIME:
        if threads:
            torch.set_num_threads(threads)
        tell(Moment("text", 0, settings.sampling.steps))
        result = _watched(pipe, seen, tell).generate(settings.prompt, **_keywords(settings), progress=False)
    return result, np.stack(guesses)


def _watched(pipe: Pipeline, seen: Callable[[Step], None], tell: See) -> Pipeline:
    """The same pipeline, with the same networks, whose steps are told to `seen` as they are made, its stages to `tell`."""
    _ = pipe.rack  # there before the copy, so that both share one: it knows which LoRAs hang on the networks
    watched = copy.copy(pipe)

    def denoise(*arguments: Any, **keywords: Any) -> Iterator[Step]:
        for step in pipe.denoise(*arguments, **keywords):
            seen(step)
            yield step

    def told(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def work_and_tell(*arguments: Any) -> Any:
            tell(Moment(stage, 0, 1))
            return work(*arguments)

        return work_and_tell

    watched.denoise = denoise  # type: ignore[method-assign]
    watched.encode_context = told("context", pipe.encode_context)  # type: ignore[method-assign]
    watched.decode = told("decode", pipe.decode)  # type: ignore[method-assign]
    return watched


def _keywords(settings: RunSettings) -> dict[str, Any]:
    """The settings as `Pipeline.generate` takes them."""
    words: dict[str, Any] = {"negative": settings.negative, "seed": settings.seed, "size": settings.size}
    words |= vars(settings.sampling)
    if settings.start is not None:
        words["start"] = read_frames(settings.start, settings.video_size)
    if settings.loras:
        words["loras"] = list(settings.loras)
    if settings.reference is not None:
        words |= {
            "reference": settings.reference,
            "fit": settings.fit,
            "vace_strength": settings.vace_strength,
        }
    return words


def read_frames(path: str | Path, size: VideoSize) -> Tensor:
    """A video file, or a record's frames.png, as (frames, height, width, 3) in [-1, 1]; WanError for another size."""
    path = Path(path)
    frames = read_stack(path, size.height) if path.suffix == ".png" else read_video(path)
    if frames.shape[:3] != (size.frames, size.height, size.width):
        have = f"{frames.shape[2]}x{frames.shape[1]}x{frames.shape[0]}"
        raise WanError(f"The video to start from must have the size of the new one, {size}, not {have}.")
    return torch.from_numpy(frames / np.float32(127.5) - 1).float()


def read_stack(path: Path, height: int) -> np.ndarray:
    """A picture of frames from top to bottom as (frames, height, width, 3), uint8."""
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise WanError(f"{path} could not be read as a picture: it is missing or damaged.") from error
    if len(pixels) % height:
        raise WanError(f"{path.name} is {len(pixels)} pixels high, which is no number of frames of {height}.")
    return pixels.reshape(-1, height, *pixels.shape[1:])


@functools.lru_cache(maxsize=4)
def _projection(vae: Path, pipe: Pipeline) -> Projection:
    from wan_tutorial.mini.world import draw_scene, render

    videos = render([draw_scene(seed) for seed in range(3)], height=96, width=96, frames=13)
    latents = [pipe.encode(video).cpu() for video in videos]
    # A little noise on them keeps the colours steady for latents unlike these: half the error on generated ones.
    noise = torch.Generator().manual_seed(0)
    noisy = [latent + 0.3 * torch.randn(latent.shape, generator=noise) for latent in latents]
    fitted = fit_projection(noisy, list(videos))
    pipe.free("vae")
    return fitted


def look_through(pipe: Pipeline) -> Projection:
    """The quick look from latents to colours, fitted once for each VAE on a few drawn scenes."""
    return _projection(pipe.files["vae"], pipe)


# ----------------------------------------------------------------------------------------------------- a record


@dataclass(frozen=True)
class Record:
    """A run that was made: what is in its folder."""

    folder: Path
    settings: RunSettings
    made: str  # when, in UTC
    key: str  # what was asked for: equal for runs that must come out equal
    checksum: str  # SHA-256 of the video in float32
    files: Mapping[str, Mapping[str, str]]  # role: name and SHA-256
    versions: Mapping[str, str]
    threads: int
    device: str
    fps: int
    seconds: Mapping[str, float]  # of each stage
    memory_peak: int  # bytes of RAM
    notices: tuple[str, ...] = ()
    gpu_memory_peak: int | None = None

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def number(self) -> int:
        return int(self.id[:4])

    def frames(self) -> np.ndarray:
        """The video, (frames, height, width, 3), uint8."""
        return read_stack(self.folder / "frames.png", self.settings.video_size.height)

    def guesses(self) -> np.ndarray:
        """A small picture of the clean guess after each step, (steps, F, H, W, 3), uint8."""
        size = self.settings.video_size
        path = self.folder / "steps.png"
        stack = read_stack(path, size.latent_height)
        if len(stack) % size.latent_frames:
            raise WanError(f"{path} holds no whole number of steps: it is damaged.")
        return stack.reshape(-1, size.latent_frames, *stack.shape[1:])

    def __str__(self) -> str:
        made, total = self.settings.sampling, sum(self.seconds.values())
        also = (", LoRA" if self.settings.loras else "") + (", reference" if self.settings.reference else "")
        return (f"{self.number:04}  seed {self.settings.seed}, {made.steps} steps, guidance {made.guidance:g}{also}, "
                f"{total:.1f} s: {self.settings.prompt}")  # fmt: skip


def paint_files(
    settings: RunSettings, files: Mapping[str, str], threads: int, asked: str
) -> dict[str, bytes]:
    """One run as the files of its record: what a worker of any executor does, on this machine or another one.

    `asked` tells this request from earlier ones: Dask takes equal calls for one, even if that one was cancelled.
    """
    pipe = _pipeline(settings.model, tuple(sorted(files.items())))
    return record_files(settings, pipe, *paint(settings, pipe, threads=threads), threads=threads)


@functools.lru_cache(maxsize=1)
def _pipeline(model: str, files: tuple[tuple[str, str], ...]) -> Pipeline:
    return load(model, **dict(files))  # type: ignore[arg-type]


def record_files(
    settings: RunSettings, pipe: Pipeline, result: Result, guesses: np.ndarray, *, threads: int
) -> dict[str, bytes]:
    """All that a record keeps, by file name; run.json is the last."""
    files = {
        "frames.png": stack_png(to_frames(result.video)),
        "steps.png": stack_png(np.concatenate(guesses)),
    }
    with tempfile.TemporaryDirectory() as folder:
        files["video.mp4"] = write_video(result.video, Path(folder, "video.mp4"), fps=result.fps).read_bytes()
    given = {name: Path(path) for name in ("reference", "start") if (path := getattr(settings, name))}
    files |= {f"{name}{path.suffix}": path.read_bytes() for name, path in given.items()}
    inside = {name: f"{name}{path.suffix}" for name, path in given.items()}
    gpu = [stage.gpu_memory_peak for stage in result.stages if stage.gpu_memory_peak is not None]
    about = {
        "format": FORMAT,
        "settings": settings.to_json() | inside,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "key": key_of(settings, pipe.files),
        "checksum": hashlib.sha256(result.video.contiguous().numpy().tobytes()).hexdigest(),
        "files": _checksums(settings, pipe.files),
        "versions": _versions(),
        "threads": threads,
        "device": str(pipe.placement.device),
        "fps": result.fps,
        "seconds": {stage.name: round(stage.seconds, 3) for stage in result.stages},
        "memory_peak": max(stage.memory_peak for stage in result.stages),
        "gpu_memory_peak": max(gpu) if gpu else None,
        "notices": list(result.notices),
    }
    return files | {"run.json": json.dumps(about, indent=1, ensure_ascii=False).encode()}


def stack_png(frames: np.ndarray) -> bytes:
    """Frames (frames, height, width, 3), uint8, from top to bottom in one picture."""
    page = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(page, format="png")
    return page.getvalue()


def key_of(settings: RunSettings, files: Mapping[str, Path]) -> str:
    """A checksum of all that a video depends on: settings, and the contents of every file, wherever it lies."""
    told = settings.to_json() | {"files": {role: checksum(path) for role, path in sorted(files.items())}}
    told["loras"] = [[checksum(path), strength] for path, strength in settings.loras]
    for name in ("reference", "start"):
        told[name] = checksum(told[name]) if told[name] else None
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _checksums(settings: RunSettings, files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    every = dict(files) | {f"lora {place}": Path(path) for place, (path, _) in enumerate(settings.loras)}
    return {role: {"name": path.name, "sha256": checksum(path)} for role, path in every.items()}


def checksum(path: str | Path) -> str:
    """SHA-256 of a file; read once as long as the file stays as it is. WanError if it is not there."""
    try:
        about = os.stat(path)
        return _checksum(Path(path), about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise WanError(
            f"{path} could not be read ({error.strerror}): choose a file that is there."
        ) from error


@functools.lru_cache(maxsize=256)
def _checksum(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def _versions() -> dict[str, str]:
    import diffusers

    import wan_tutorial

    return {
        "wan_tutorial": wan_tutorial.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "diffusers": diffusers.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


# -------------------------------------------------------------------------------------------------- all of them


@dataclass
class Experiments:
    """A folder of records: run and remember, look back, run again, run a grid."""

    folder: Path = Path(FOLDER)
    pipes: dict[str, Pipeline] = field(default_factory=dict)  # loaded models, by name

    def __post_init__(self) -> None:
        self.folder = check_path(self.folder, "folder of the runs", example=FOLDER)

    def pipe(self, model: str) -> Pipeline:
        """The model, loaded at its first use."""
        if model not in self.pipes:
            self.pipes[model] = load(model)
        return self.pipes[model]

    def warm(self, model: str) -> None:
        """Load a model, and fit the quick look through it."""
        look_through(self.pipe(model))

    def key(self, settings: RunSettings) -> str:
        """What tells these settings' runs from all others; see `key_of`."""
        return key_of(settings, self.pipe(settings.model).files)

    def run(self, settings: RunSettings, *, see: See | None = None) -> Record:
        """Make a video and record it. `see` is told of each moment, and ends the run by raising."""
        pipe, threads = self.pipe(settings.model), torch.get_num_threads()
        result, guesses = paint(settings, pipe, see=see, threads=threads)
        (see or (lambda moment: None))(Moment("record", 0, 1))
        return self.keep(record_files(settings, pipe, result, guesses, threads=threads))

    def keep(self, files: Mapping[str, bytes]) -> Record:
        """Write a record's files as a new folder: whole, or not at all."""
        key = json.loads(files["run.json"])["key"]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        except OSError as error:
            raise WanError(
                f"{self.folder} cannot be written ({error.strerror}): choose another folder."
            ) from error
        try:
            for name, data in files.items():
                (partial / name).write_bytes(data)
            partial.chmod(0o755)
            for number in itertools.count(self._last() + 1):
                place = self.folder / f"{number:04}-{key[:6]}"
                if (
                    not place.exists()
                ):  # two writers at once: the second's rename fails on a folder that is not empty
                    return read_record(partial.rename(place))
        except OSError as error:
            raise WanError(
                f"{self.folder} cannot be written ({error.strerror}): is the disk full?"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        raise AssertionError  # the count has no end

    def _last(self) -> int:
        return max((int(path.name[:4]) for path in self._folders()), default=0)

    def _folders(self) -> list[Path]:
        return sorted(
            path for path in self.folder.glob("*") if re.fullmatch(r"\d{4,}-[0-9a-f]{6}", path.name)
        )

    def history(self) -> list[Record]:
        """All records, oldest first. A folder that cannot be read is left out."""
        return [record for record in map(_readable, self._folders()) if record]

    def find(self, which: str | int) -> Record:
        """A record by its number or its name."""
        names = [path for path in self._folders() if path.name == which or path.name[:4] == f"{which!s:>04}"]
        if not names:
            raise WanError(f"There is no run {which} in {self.folder}: `history()` lists those there are.")
        return read_record(names[-1])

    def repeat(self, record: Record, *, see: See | None = None) -> Record:
        """Run a record again as it was; on the same machine its video must come out the same, bit for bit.

        Raises WanError where a file has changed since, and where the video came out another.
        """
        pipe = self.pipe(record.settings.model)
        for role, now in _checksums(record.settings, pipe.files).items():
            if now != record.files.get(role):
                raise WanError(f"{now['name']} is not the file that run {record.number} was made with: put that one "
                               "back, or run its settings as a new experiment.")  # fmt: skip
        result, guesses = paint(record.settings, pipe, see=see, threads=record.threads)
        again = self.keep(record_files(record.settings, pipe, result, guesses, threads=record.threads))
        if again.checksum != record.checksum:
            changed = [name for name, one in record.versions.items() if again.versions.get(name) != one]
            why = (
                f"other versions of {', '.join(changed)}"
                if changed
                else "the record was changed, or this is another machine"
            )
            raise WanError(f"Run {again.number} repeats run {record.number} and its video is another: {why}.")
        return again

    def grid(
        self,
        settings: RunSettings,
        axes: Mapping[str, Sequence[Any]],
        *,
        executor: Executor | None = None,
        see: See | None = None,
    ) -> Iterator[Record]:
        """The records of a grid, each as it is finished; those that are there already come first and cost nothing.

        `axes` names one or two settings and their values. `executor` is any of `concurrent.futures`, or what Dask's
        `client.get_executor()` gives: the workers paint, this process writes. Interrupted, ask again: it goes on.
        """  # fmt: skip
        asked = {self.key(cell): cell for cell in settings.spread(axes)}
        there = {record.key: record for record in self.history()}
        yield from (there[key] for key in asked if key in there)
        missing = [cell for key, cell in asked.items() if key not in there]
        if executor is None:
            yield from (self.run(cell, see=see) for cell in missing)
            return
        threads = torch.get_num_threads()
        work: list[Future[dict[str, bytes]]] = [
            executor.submit(paint_files, cell, self._own_files(cell.model), threads, secrets.token_hex(8))
            for cell in missing
        ]
        try:
            yield from (self.keep(done.result()) for done in as_completed(work))
        finally:
            for one in work:
                one.cancel()

    def _own_files(self, model: str) -> dict[str, str]:
        return {role: str(path) for role, path in self.pipe(model).files.items()}

    # --------------------------------------------------------------------------------- what the lab asks for

    def plan(self, settings: RunSettings) -> Plan:
        """What a run will take on this machine."""
        return plan_here(find_model(settings.model), settings.run)

    def missing(self, model: str) -> str | None:
        """Why a model cannot be used here, where its files are not all there."""
        try:
            _ = model in self.pipes or find_files(find_model(model))
        except WanError as error:
            return str(error)
        return None

    def models(self) -> list[str]:
        return list(MODELS)

    def loras(self) -> list[Path]:
        """LoRA files at hand: the scale model's own, and those in the folder of downloads."""
        places = (bundled_folder().glob("*lora*.safetensors"), models_folder().glob("loras/**/*.safetensors"))
        return [path for found in places for path in sorted(found)]

    def pictures(self) -> list[Path]:
        """Pictures to be used as a reference: the workflow's own in assets/, and those that were uploaded before."""
        places = (bundled_folder().parent.glob("bonfire.png"), (self.folder / "pictures").glob("*"))
        return [path for found in places for path in sorted(found) if path.suffix.lower() in PICTURES]

    def add_picture(self, name: str, data: bytes) -> Path:
        """Take in an uploaded picture; WanError if it is none."""
        try:
            with Image.open(io.BytesIO(data)) as picture:
                pixels = to_frames(read_picture(picture)[None])[0]  # upright, what is transparent white
        except WanError:
            raise
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise WanError(f"{name} could not be read as a picture: choose a PNG or a JPEG.") from error
        stem = re.sub(r"[^\w-]+", "_", Path(name).stem)[:40] or "picture"
        path = self.folder / "pictures" / f"{stem}-{hashlib.sha256(data).hexdigest()[:6]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        Image.fromarray(pixels).save(partial, format="png")
        return partial.replace(path)


def read_record(folder: Path) -> Record:
    """Read a record's folder; WanError if it is not one, or is damaged."""
    try:
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if told.pop("format") != FORMAT:
            raise WanError(f"{folder.name} was written by another version of this program.")
        settings = dict(told.pop("settings"))
        for name in ("reference", "start"):
            if settings[name]:
                settings[name] = str(folder / Path(settings[name]).name)
        told["notices"] = tuple(told["notices"])
        check_fps(told["fps"])
        if not all(map(math.isfinite, (*told["seconds"].values(), told["memory_peak"]))):
            raise ValueError("no number")
        _ = told["versions"]["wan_tutorial"]  # or a KeyError, as below: a page names it
        return Record(folder=folder, settings=RunSettings.from_json(settings), **told)
    except WanError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WanError(f"{folder} could not be read as a run: it is damaged or of another kind.") from error


def _readable(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except WanError:
        return None


def explore(
    prompt: str | None = None,
    *,
    folder: str | Path = FOLDER,
    pipe: Pipeline | None = None,
    executor: Executor | None = None,
    **given: Any,
) -> Any:
    """Open the prompt lab: every control, run and cancel, history, comparison, grids, and a page to hand in.

    `given` are any `RunSettings` to begin with, such as model= or steps=; runs are kept in `folder`; `executor` is where
    grids are made. Returns the lab: what its buttons do, its methods do as well.
    """  # fmt: skip
    from wan_tutorial.show.lab import Lab

    if pipe is not None and not isinstance(pipe, Pipeline):
        raise WanError(
            f"The lab's pipe is what wan.load gives, not {pipe!r}: try model={pipe!r}, or leave it out."
        )
    if pipe is not None:
        given["model"] = pipe.entry.name
    settings = RunSettings(prompt if prompt is not None else PROMPT, **{"negative": NEGATIVE, **given})
    bench = Experiments(folder)  # type: ignore[arg-type] # it makes a path of a text
    if pipe is not None:
        bench.pipes[pipe.entry.name] = pipe
    lab = Lab(bench, settings, executor=executor)
    lab.show()
    return lab


PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising in a dark "
    "background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"
