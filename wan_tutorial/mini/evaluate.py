"""Measure the shipped scale model: `python -m wan_tutorial.mini.evaluate --json FILE`.

Stands after everything: reads the files that ship, through the public pipeline, and holds what they do against fresh
renders of the world. Seeds are 0 to n - 1 and every video is shown, on contact sheets in `outputs/`. Each figure is a
dict with its value, its sample size n and a 95 % interval: Wilson's for shares, 1.96 standard errors for means.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from wan_tutorial.errors import WanError
from wan_tutorial.files import replacing
from wan_tutorial.mini.captions import BRIEF_NEGATIVE, BRIEF_PROMPT, FREE_PHRASINGS, WORDS, write_caption
from wan_tutorial.mini.data import BRIEF_POOL, TRAINING_POOLS
from wan_tutorial.mini.judge import (
    FROZEN_SHA256,
    Judge,
    agreement,
    judge_path,
    load_judge,
    measure_camera,
    names_in,
    scene_values,
)
from wan_tutorial.mini.linear_probe import LinearProbe
from wan_tutorial.mini.world import Scene, brief_scene, draw_scene, render, render_with_masks
from wan_tutorial.pipeline import Pipeline, load
from wan_tutorial.show.video import to_uint8, write_picture
from wan_tutorial.sizes import VideoSize

Row = dict[str, Any]
HELD_OUT_SEED = 900_000  # scenes from here on are in no training
HUE_SEED = 870_000  # of the renders from which the flames' hues are learned
OTHER_SEED = 950_000  # and from here on in no other figure


@dataclass(frozen=True)
class Sample:
    """How much to measure, and where pictures go."""

    captions: int = 200
    renders: int = 100
    guidance_without_negative: float = 2.0  # where an unguarded prompt often enough gets a defect
    folder: Path = Path("outputs")


# --- figures with intervals --------------------------------------------------------------------------


def share(right: Iterable[bool]) -> Row:
    """How many of n are true, with Wilson's 95 % interval."""
    answers = list(right)
    n, z = len(answers), 1.96
    if n == 0:
        return {"value": None, "n": 0, "low": None, "high": None}
    p = sum(answers) / n
    centre, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return _row(p, n, (centre - reach) / (1 + z * z / n), (centre + reach) / (1 + z * z / n))


def mean(values: Tensor | Sequence[float]) -> Row:
    """A mean with 1.96 standard errors either way."""
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    n, middle = len(values), values.mean().item()
    reach = 1.96 * values.std().item() / math.sqrt(n) if n > 1 else math.nan
    return _row(middle, n, middle - reach, middle + reach)


def _row(value: float, n: int, low: float | None = None, high: float | None = None) -> Row:
    row = {"value": value, "n": n, "low": low, "high": high}
    return {k: None if v is None or not math.isfinite(v) else round(v, 4) for k, v in row.items()}


# --- material: renders, reconstructions, generated videos -------------------------------------------------


def held_out_scenes(count: int, *, split: str = "train", defects: bool = True) -> list[Scene]:
    """Scenes that no training saw; `train`: of trained combinations, `held_out`: of the others."""
    scenes = [draw_scene(HELD_OUT_SEED + i, split=split) for i in range(count)]
    return scenes if defects else [replace(scene, defect=None) for scene in scenes]


def render_scenes(scenes: Sequence[Scene], size: VideoSize) -> tuple[Tensor, Tensor]:
    """Videos (N, F, H, W, 3) and the masks (N, F, H, W) of flame and subject."""
    shape: Row = {"height": size.height, "width": size.width, "frames": size.frames}
    parts = [render_with_masks(scenes[i : i + 16], **shape) for i in range(0, len(scenes), 16)]
    return torch.cat([video for video, _ in parts]), torch.cat([masks.amax(1) for _, masks in parts])


def reconstruct(pipe: Pipeline, videos: Tensor) -> Tensor:
    """What the VAE makes of videos."""
    return torch.stack([pipe.decode(pipe.encode(video)) for video in tqdm(videos, desc="reconstruct")])


@dataclass(frozen=True)
class Painted:
    """Videos (N, F, H, W, 3), latents (N, 16, F, H, W), and the seconds each took from noise to latent."""

    videos: Tensor
    latents: Tensor
    seconds: tuple[float, ...]


def paint(
    pipe: Pipeline, prompts: Sequence[str], given: Sequence[Row] = (), *, name: str, **settings: Any
) -> Painted:
    """One video of each prompt and what is given with it, seeds 0 to n - 1, else in the model's own settings."""
    results, given = [], given or [{}] * len(prompts)
    for seed, (prompt, one) in enumerate(zip(tqdm(prompts, desc=name), given, strict=True)):
        options: Row = {"seed": seed, "negative": BRIEF_NEGATIVE, "progress": False} | settings | one
        results.append(pipe.generate(prompt, **options))
    seconds = tuple(use.seconds for result in results for use in result.stages if use.name == "steps")
    videos, latents = [result.video for result in results], [result.latent for result in results]
    return Painted(torch.stack(videos), torch.cat(latents), seconds)


def show_sheets(videos: Tensor, name: str, folder: Path) -> list[str]:
    """Contact sheets of 8 x 8 videos, their middle frames in order; returns where they are."""
    frames, paths = to_uint8(videos[:, videos.shape[1] // 2]), []
    for number, start in enumerate(range(0, len(frames), 64)):
        part = frames[start : start + 64]
        rows = math.ceil(len(part) / 8)
        part = np.concatenate((part, np.zeros((rows * 8 - len(part), *part.shape[1:]), np.uint8)))
        _, height, width, _ = part.shape
        sheet = part.reshape(rows, 8, height, width, 3).swapaxes(1, 2).reshape(rows * height, 8 * width, 3)
        paths.append(str(write_picture(sheet, folder / f"evaluation_{name}_{number}.png")))
    return paths


# --- the VAE ------------------------------------------------------------------------------------------


def measure_vae(videos: Tensor, masks: Tensor, copies: Tensor, scenes: Sequence[Scene]) -> Row:
    """PSNR by frame and inside the mask of flame and subject, and gradient energy against the render's."""
    squared = (copies - videos).square().mean(-1)  # (N, F, H, W)
    by_frame = 10 * (4 / squared.mean((2, 3))).log10()  # (N, F)
    inside = 10 * (4 * masks.sum((1, 2, 3)) / (squared * masks).sum((1, 2, 3))).log10()
    energy = [
        v.diff(dim=2).square().mean((1, 2, 3, 4)) + v.diff(dim=3).square().mean((1, 2, 3, 4))
        for v in (copies, videos)
    ]
    sharpness = {}
    for setting in WORDS["setting"]:
        some = [i for i, scene in enumerate(scenes) if scene.setting == setting]
        sharpness[setting] = mean((energy[0] / energy[1])[some]) if some else share(())
    frames = [mean(column) for column in by_frame.T]
    worst = min(range(len(frames)), key=lambda at: frames[at]["value"])
    return {
        "psnr": mean(by_frame.mean(1)),
        "psnr_by_frame": frames,
        "psnr_worst_frame": frames[worst] | {"frame": worst},
        "psnr_in_mask": mean(inside),
        "sharpness": sharpness,
    }


# --- the judge ----------------------------------------------------------------------------------------


def measure_judge(judge: Judge, videos: Tensor, scenes: Sequence[Scene]) -> Row:
    """Zero-shot accuracy for each attribute, and the measured camera's; chaotic scenes have no camera move."""
    right = answers(judge, videos, [_truth(scene) for scene in scenes])
    clean = [seen for seen, scene in zip(right["subject"], scenes, strict=True) if scene.defect is None]
    return {name: share(column) for name, column in right.items()} | {"subject_without_defects": share(clean)}


def _truth(scene: Scene) -> dict[str, str]:
    camera = {} if scene.defect == "chaotic" else {"camera": scene.camera}
    return scene_values(scene) | camera


def answers(judge: Judge, videos: Tensor, truths: Sequence[Mapping[str, str]]) -> dict[str, list[bool]]:
    """For each attribute, video by video where the truth names it, whether it is seen."""
    seen = judge.read(videos) | {"camera": measure_camera(videos), "hue": read_hue(videos)}
    wanted = [dict(truth) | ({"hue": truth["colour"]} if "colour" in truth else {}) for truth in truths]
    return agreement(seen, wanted)


def read_hue(videos: Tensor) -> list[str]:
    """The flames' colour without the judge: told from the hues around the hearth of what is bright and flickers."""
    return hue_probe().read(flickering_hues(videos))


@lru_cache
def hue_probe() -> LinearProbe:
    """Learned from renders of scenes that are in no figure."""
    scenes = [scene for scene in (draw_scene(HUE_SEED + i) for i in range(540)) if not scene.defect]
    videos = [render(scenes[i : i + 32], frames=5) for i in range(0, len(scenes), 32)]
    features = torch.cat([flickering_hues(video) for video in videos])
    return LinearProbe.learn(features, [scene.colour for scene in scenes])


def flickering_hues(videos: Tensor) -> Tensor:
    """How often each hue comes, pale, clear or strong, among the pixels around the hearth that flicker: (N, 162).

    Among a fifth, a sixteenth and a sixty-fourth of them, since a flame's edge is coloured and its core nearly white, and
    where the camera moves, the edges of all bright things flicker.
    """
    height, width = videos.shape[2:4]
    side = min(height, width)
    rows = slice(round(height / 2 - 0.19 * side), round(height / 2 + 0.29 * side))
    columns = slice(round(width / 2 - 0.29 * side), round(width / 2 + 0.29 * side))
    pixels = ((videos[:, :, rows, columns] + 1) / 2).clamp(0, 1)
    light = pixels.amax(-1)  # (N, F, h, w)
    flicker = (light[:, 1:] * light.diff(dim=1).abs()).flatten(1)  # (N, P)
    red, green, blue = pixels[:, 1:].flatten(1, 3).unbind(-1)
    most, least = light[:, 1:].flatten(1), pixels[:, 1:].amin(-1).flatten(1)
    spread = most - least + 1e-4
    turn = torch.where(most == green, (blue - red) / spread + 2, (red - green) / spread + 4)
    turn = torch.where(most == red, (green - blue) / spread % 6, turn)  # of six
    strength = (3 * (most - least) / (most + 1e-3)).long().clamp(max=2)
    cell = (3 * turn).long().clamp(max=17) * 3 + strength
    counts = []
    for share_left_out in (0.8, 0.94, 0.985):
        counted = (flicker >= flicker.quantile(share_left_out, dim=1, keepdim=True)).float()
        hues = torch.zeros(len(videos), 18 * 3).scatter_add_(1, cell, counted)
        counts.append((hues / counted.sum(1, keepdim=True)).sqrt())
    return torch.cat(counts, dim=1)


# --- generated videos -----------------------------------------------------------------------------------


def measure_obedience(judge: Judge, videos: Tensor, truths: Sequence[Mapping[str, str]]) -> Row:
    """For each attribute that the prompts name, how often it is seen."""
    return {name: share(right) for name, right in answers(judge, videos, truths).items() if right}


def captions_of(scenes: Sequence[Scene]) -> tuple[list[str], list[dict[str, str]]]:
    """A caption of each scene and what it names."""
    captions = [write_caption(scene, seed) for seed, scene in enumerate(scenes)]
    return captions, named_truths(captions, scenes)


def named_truths(captions: Sequence[str], scenes: Sequence[Scene]) -> list[dict[str, str]]:
    """What each caption says of its scene."""
    named = [names_in(text, scene) for text, scene in zip(captions, scenes, strict=True)]
    return [{n: v for n, v in _truth(s).items() if n in ns} for s, ns in zip(scenes, named, strict=True)]


def measure_novelty(pipe: Pipeline, painted: Tensor, *, count: int) -> Row:
    """How far the brief's videos are from the nearest training latents, held against new renders' distance.

    Training's renders of the brief's prompt are rendered and encoded again, as their seeds determine them. Distances
    are root-mean-square differences of normalised latents; a model that replays comes far closer than a new render.
    """
    first, number = BRIEF_POOL

    def latents(seeds: Iterable[int], name: str) -> Tensor:
        scenes = [brief_scene(seed) for seed in seeds]
        return torch.cat(
            [pipe.encode(video) for video in tqdm(render_scenes(scenes, pipe.entry.size)[0], desc=name)]
        )

    seen = latents(range(first, first + min(number, count * 4)), "training latents").flatten(1)
    new = latents(range(HELD_OUT_SEED, HELD_OUT_SEED + count), "new latents").flatten(1)
    rows: Row = {}
    for name, some in (("generated", painted.flatten(1)), ("new_renders", new)):
        rows[name] = mean(torch.cdist(some, seen).amin(1) / seen.shape[1] ** 0.5)
    rows["training_latents_compared"] = len(seen)
    rows["training_renders_of_the_brief_prompt"] = number + sum(
        draw_scene(seed) == replace(brief_scene(seed), defect=draw_scene(seed).defect)
        for start, length in TRAINING_POOLS
        for seed in range(start, start + length)
    )
    rows["ratio"] = round(rows["generated"]["value"] / rows["new_renders"]["value"], 3)
    return rows


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Between Gaussians fitted to two sets of features (N, D): |m - n|^2 + tr(A + B - 2 (A B)^(1/2))."""
    a, b = first.double(), second.double()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    c, d = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(c)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ d @ root).clamp(min=0).sqrt().sum()
    return (shift + c.trace() + d.trace() - 2 * cross).item()


def other_scenes(scenes: Sequence[Scene], named: Sequence[Iterable[str]]) -> list[Scene]:
    """Scenes that fit the same captions: what these name is kept, all else is rolled anew.

    Their renders are what a perfect generator would paint, and as far from the first as n samples are by chance.
    """
    others = []
    for number, (scene, names) in enumerate(zip(scenes, named, strict=True)):
        kept = {name: getattr(scene, name) for name in {*names, "subject", "relation"}}
        others.append(replace(draw_scene(OTHER_SEED + number, split="all"), **kept | {"defect": None}))
    return others


def measure_likeness(judge: Judge, painted: Tensor, renders: Tensor, copies: Tensor, others: Tensor) -> Row:
    """Fréchet distances in the judge's features: generated, reconstructed and other renders, each against renders.

    A distance between two finite samples is above 0 even where both are drawn alike; that of `others`, see
    `other_scenes`, is this least that a generator could reach. Reconstructions are paired with their renders.
    """
    rows, real = {}, judge.features(renders)
    for name, videos in (("generated", painted), ("reconstructed", copies), ("other_renders", others)):
        n = min(len(videos), len(real))
        rows[name] = _row(frechet_distance(judge.features(videos)[:n], real[:n]), n)
    generated = rows["generated"]["value"]
    rows["ratio"] = round(generated / max(rows["reconstructed"]["value"], 1e-9), 2)
    rows["ratio_to_other_renders"] = round(generated / max(rows["other_renders"]["value"], 1e-9), 2)
    return rows


def measure_motion(painted: Tensor, renders: Tensor) -> Row:
    """Flicker of the light and upward drift, generated against renders of the same scenes: medians and ratio."""
    rows: Row = {}
    for name, of in (("flicker", _flicker), ("rise", _rise)):
        values = [of(videos).median().item() for videos in (painted, renders)]
        rows[name] = {
            "generated": values[0],
            "renders": values[1],
            "ratio": values[0] / values[1],
            "n": len(painted),
        }
    return rows


def _flicker(videos: Tensor) -> Tensor:
    """How much a pixel changes from frame to frame against its spread over the picture (N,)."""
    light = videos.mean(-1)
    return light.diff(dim=1).abs().mean((1, 2, 3)) / light.std((2, 3)).mean(1)


def _rise(videos: Tensor) -> Tensor:
    """Upward speed of what moves, in pixels a frame (N,), by least squares on the optical flow equation."""
    light = videos.mean(-1)
    middle = (light[:, 1:] + light[:, :-1]) / 2
    slope = (middle[:, :, 2:] - middle[:, :, :-2])[..., 1:-1] / 2
    change = light.diff(dim=1)[:, :, 1:-1, 1:-1]
    moving = change.abs() > change.abs().flatten(1).quantile(0.9, dim=1)[:, None, None, None]
    return (slope * change * moving).sum((1, 2, 3)) / (slope.square() * moving).sum((1, 2, 3))


def measure_variety(judge: Judge, painted: Tensor, renders: Tensor) -> Row:
    """Spread of videos of one caption in the judge's features, generated against renders."""
    spread = [
        f.sub(f.mean(0)).square().sum(1).mean().sqrt().item() for f in map(judge.features, (painted, renders))
    ]
    return {"generated": spread[0], "renders": spread[1], "ratio": spread[0] / spread[1], "n": len(painted)}


def measure_negative(pipe: Pipeline, judge: Judge, prompts: Sequence[str], sample: Sample) -> Row:
    """How many videos have a defect, without negative prompt, with the brief's, and with each defect alone."""
    rows: Row = {"guidance": sample.guidance_without_negative}
    for negative in ("", BRIEF_NEGATIVE, *WORDS["defect"]):
        name = f"against {negative!r}"
        settings: Row = {"negative": negative, "guidance": sample.guidance_without_negative}
        seen = judge.read(paint(pipe, prompts, name=name, **settings).videos)["defect"]
        rows[name] = {"any": share(d != "clean" for d in seen)}
        rows[name] |= {defect: share(d == defect for d in seen) for defect in WORDS["defect"]}
    return rows


# --- all of it --------------------------------------------------------------------------------------------


def evaluate(
    pipe: Pipeline, judge: Judge, sample: Sample, save: Callable[[Row], None], groups: Sequence[str]
) -> Row:
    """Every group of figures in turn; `save` is called after each with all there is so far."""
    report: Row = {}

    def add(name: str, row: Row) -> None:
        report[name] = row
        save(report)

    scenes, unseen = (held_out_scenes(sample.renders, split=split) for split in ("train", "held_out"))
    renders, masks = render_scenes(scenes, pipe.entry.size)
    copies = reconstruct(pipe, renders)
    add(
        "vae",
        measure_vae(renders, masks, copies, scenes) | {"sheets": show_sheets(copies, "vae", sample.folder)},
    )
    add("judge_on_renders", measure_judge(judge, renders, scenes))
    add(
        "judge_on_held_out_combinations",
        measure_judge(judge, render_scenes(unseen, pipe.entry.size)[0], unseen),
    )
    add("judge_on_reconstructions", measure_judge(judge, copies, scenes))
    if "generated" in groups:
        _evaluate_generated(pipe, judge, sample, add)
    if "sizes" in groups:
        for size in pipe.entry.trained_sizes[1:]:
            prompts, truths = captions_of(held_out_scenes(sample.captions, defects=False))
            painted = paint(pipe, prompts, name=str(size), size=size).videos
            add(f"size_{size}", measure_obedience(judge, painted, truths))
    if "negative" in groups:
        prompts, _ = captions_of(held_out_scenes(sample.captions, defects=False))
        add("negative", measure_negative(pipe, judge, prompts, sample))
    return report


def _evaluate_generated(
    pipe: Pipeline, judge: Judge, sample: Sample, add: Callable[[str, Row], None]
) -> None:
    """The brief's prompt first, then captions of trained combinations, of held-out ones, and free phrasings."""
    began = time.perf_counter()
    brief = paint(pipe, [BRIEF_PROMPT] * 8, name="brief")
    seconds = (time.perf_counter() - began) / 8
    truth = {
        name: value for name, value in _truth(brief_scene(0)).items() if name not in ("flame_size", "defect")
    }
    row = measure_obedience(judge, brief.videos, [truth] * 8) | {"seconds_a_video": round(seconds, 2)}
    renders, _ = render_scenes([brief_scene(HELD_OUT_SEED + i) for i in range(8)], pipe.entry.size)
    row["variety"] = measure_variety(judge, brief.videos, renders)
    add("brief", row | {"sheets": show_sheets(brief.videos, "brief", sample.folder)})
    add("novelty", measure_novelty(pipe, brief.latents, count=min(80, sample.captions)))
    for split in ("train", "held_out"):
        scenes = held_out_scenes(sample.captions, split=split, defects=False)
        prompts, truths = captions_of(scenes)
        painted = paint(pipe, prompts, name=split).videos
        row = measure_obedience(judge, painted, truths)
        add(f"captions_{split}", row | {"sheets": show_sheets(painted, split, sample.folder)})
        if split == "train":
            renders, _ = render_scenes(scenes, pipe.entry.size)
            add("motion", measure_motion(painted, renders))
            others, _ = render_scenes(other_scenes(scenes, truths), pipe.entry.size)
            add("likeness", measure_likeness(judge, painted, renders, reconstruct(pipe, renders), others))
    prompts, truths = (list(column) for column in zip(*FREE_PHRASINGS[: sample.captions], strict=True))
    painted = paint(pipe, prompts, name="free phrasings").videos
    row = measure_obedience(judge, painted, truths)
    add("free_phrasings", row | {"sheets": show_sheets(painted, "free", sample.folder)})


def compare_files(judge: Judge, files: Sequence[Path], sample: Sample) -> Row:
    """The same captions through other quantisations of the transformer, seed by seed."""
    prompts, truths = captions_of(held_out_scenes(sample.captions, defects=False))
    rows: Row = {}
    for path in files:
        painted = paint(load("mini", transformer=path), prompts, name=path.stem).videos
        sheets = show_sheets(painted, path.stem, sample.folder)
        rows[path.name] = measure_obedience(judge, painted, truths) | {
            "sha256": sha256(path),
            "sheets": sheets,
        }
    return rows


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(report: Row, path: Path) -> None:
    """The file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument(
        "--captions", type=int, default=200, help="generated videos in each group (default: 200)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="16 of everything: a few minutes, wide intervals"
    )
    parser.add_argument(
        "--groups", nargs="*", default=("generated", "sizes"), choices=("generated", "sizes", "negative")
    )
    parser.add_argument(
        "--files", nargs="*", type=Path, default=(), help="other transformer files to compare"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where contact sheets go")
    given = parser.parse_args(arguments)
    sample = Sample(captions=16, renders=16) if given.quick else Sample(captions=given.captions)
    sample = replace(sample, folder=given.outputs)
    try:
        pipe, judge = load("mini"), load_judge()
    except WanError as error:
        print(error, file=sys.stderr)
        return 2
    files: Row = {role: {"name": path.name, "sha256": sha256(path)} for role, path in pipe.files.items()}
    files["judge"] = {"name": judge_path().name, "sha256": sha256(judge_path())}
    files["judge"]["frozen"] = files["judge"]["sha256"] == FROZEN_SHA256
    own = pipe.entry
    head = {
        "files": files,
        "settings": {
            "steps": own.steps,
            "guidance": own.guidance,
            "shift": own.shift,
            "sampler": own.sampler,
        },
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
    }
    began = time.perf_counter()

    def save(report: Row) -> None:
        minutes = round((time.perf_counter() - began) / 60, 1)
        write_json(head | {"minutes": minutes, "figures": report}, given.json)

    report = evaluate(pipe, judge, sample, save, given.groups)
    if given.files:
        save(report | {"files_compared": compare_files(judge, given.files, sample)})
    print(f"Wrote {given.json}; contact sheets are in {sample.folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
