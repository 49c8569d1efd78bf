"""Measure what the scale model makes of a reference, a first frame and a mask.

`python -m wan_tutorial.mini.evaluate_reference --json FILE`, with `--lora FILE` for four steps without
guidance. Figures, intervals and material are those of `evaluate.py`; what no caption names is read by `probe.py`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wan_tutorial.errors import WanError
from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.mini.evaluate import (
    Row,
    answers,
    captions_of,
    held_out_scenes,
    mean,
    measure_obedience,
    named_truths,
    paint,
    render_scenes,
    sha256,
    share,
    show_sheets,
    write_json,
)
from wan_tutorial.mini.judge import Judge, load_judge
from wan_tutorial.mini.probe import TraitProbe, draw_candidates, load_probe, rate_on_renders
from wan_tutorial.mini.refine_vace import scramble
from wan_tutorial.mini.train_vace import CHANGED, MOMENTS, another_look, caption_naming
from wan_tutorial.mini.world import COLOURS, HELD_OUT, Scene, render
from wan_tutorial.pipeline import Pipeline, load

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
GUIDANCES = (1.0, 2.0)  # beside the model's own
SETTINGS_WITH_LORA = {"steps": 4, "guidance": 1.0}


# --- which of ten it was --------------------------------------------------------------------------------------


def identity_cases(count: int) -> tuple[list[Scene], list[str], list[Tensor], list[str]]:
    """Scenes, captions that name the one attribute in which each differs from its reference, the references, its name.

    The reference is a later moment of a render of the scene from another camera, with another colour, setting ...
    """
    scenes = held_out_scenes(count, defects=False)
    looks = [another_look(scene, i, change=True) for i, scene in enumerate(scenes)]
    dice = random.Random("identity")
    captions = [caption_naming(scene, name, dice)[0] for scene, (_, name) in zip(scenes, looks, strict=True)]
    pictures = torch.cat([render([other for other, _ in looks[i : i + 16]]) for i in range(0, count, 16)])
    return scenes, captions, list(pictures[:, MOMENTS[-1]]), [name or "" for _, name in looks]


def measure_identity(
    pipe: Pipeline, probe: TraitProbe, judge: Judge, count: int, folder: Path, **settings: Any
) -> Row:
    """How often generated frames are found among ten scenes that share every name, and how many words they obey.

    Beside that: of a scrambled reference, of none, and of the reference at less guidance than the model's own; and of
    the references by which attribute the prompt changes.
    """
    scenes, captions, pictures, changed = identity_cases(count)
    truths = named_truths(captions, scenes)
    candidates = [draw_candidates(scene, i) for i, scene in enumerate(scenes)]
    shown: list[Row] = [{"reference": picture} for picture in pictures]
    kinds: dict[str, list[Row]] = {
        "reference": shown,
        "scrambled": [{"reference": scramble(picture, i)} for i, picture in enumerate(pictures)],
        "absent": [{} for _ in pictures],
    }
    kinds |= {f"guidance_{g:g}": [one | {"guidance": g} for one in shown] for g in GUIDANCES}
    rows: Row = {"probe_on_renders": rate_on_renders(probe, count), "chance": 1 / len(candidates[0])}
    for name, given in kinds.items():
        videos = paint(pipe, captions, given, name=name, **settings).videos
        found = [one == 0 for one in probe.choose(videos, candidates)]
        told = answers(judge, videos, truths)
        rows[name] = share(found) | {
            "obeyed": share(right for one in told.values() for right in one),
            "camera": share(told["camera"]),
        }
        if name == "reference":
            rows["by_change"] = {
                attribute: share(one for one, other in zip(found, changed, strict=True) if other == attribute)
                for attribute in CHANGED
                if attribute in changed
            }
        rows[name]["sheets"] = show_sheets(videos, f"identity_{name}", folder)
    return rows


# --- first frame, region, strength, nothing -----------------------------------------------------------------------


def psnr(some: Tensor, others: Tensor, where: Tensor | None = None) -> Tensor:
    """Of each pair of videos or pictures (N, ...), in dB, where the weight `where` is not 0."""
    squared = (some - others).square().mean(-1)
    weight = torch.ones_like(squared) if where is None else where.expand_as(squared)
    return 10 * (4 * weight.flatten(1).sum(1) / (squared * weight).flatten(1).sum(1)).log10()


def measure_first_frame(pipe: Pipeline, count: int, folder: Path, **settings: Any) -> Row:
    """PSNR of frame 0 to the picture given, beside what the VAE alone makes of that picture; less guidance beside it."""
    scenes = held_out_scenes(count, defects=False)
    first = render_scenes(scenes, pipe.entry.size)[0][:, 0]
    given: list[Row] = [{"first_frame": frame} for frame in first]
    captions = captions_of(scenes)[0]
    videos = paint(pipe, captions, given, name="first frame", **settings).videos
    copies = torch.stack([pipe.decode(pipe.encode(frame[None]))[0] for frame in first])
    generated, vae = psnr(videos[:, 0], first), psnr(copies, first)
    rows = {"generated": mean(generated), "vae": mean(vae), "below_the_vae": mean(vae - generated)}
    for guidance in GUIDANCES:
        less = paint(
            pipe, captions, given, name=f"guidance {guidance:g}", **settings | {"guidance": guidance}
        )
        rows[f"guidance_{guidance:g}"] = mean(vae - psnr(less.videos[:, 0], first))
    return rows | {"sheets": show_sheets(videos, "first_frame", folder)}


def measure_region(pipe: Pipeline, judge: Judge, count: int, folder: Path, **settings: Any) -> Row:
    """A box about the fire is painted again in another colour: PSNR outside of it, and how often the colour is seen."""
    scenes, size = held_out_scenes(count, defects=False), pipe.entry.size
    wanted = [replace(scene, colour=_another_colour(scene, i)) for i, scene in enumerate(scenes)]
    dice = random.Random("region")
    captions = [caption_naming(scene, "colour", dice)[0] for scene in wanted]
    clips, _ = render_scenes(scenes, size)
    mask = torch.zeros(size.height, size.width)
    mask[round(0.15 * size.height) : round(0.92 * size.height), size.width // 6 : -size.width // 6] = 1.0
    holed = clips * (1 - mask)[..., None]  # grey where it is painted again: nothing tells the old colour
    given: list[Row] = [{"video": clip, "mask": mask} for clip in holed]
    videos = paint(pipe, captions, given, name="region", **settings).videos
    copies = torch.stack([pipe.decode(pipe.encode(clip)) for clip in clips])
    outside = (1 - mask)[None, None]
    truths = [{"colour": scene.colour} for scene in wanted]
    return {
        "outside": mean(psnr(videos, clips, outside)),
        "outside_vae": mean(psnr(copies, clips, outside)),
        "inside": {name: share(right) for name, right in answers(judge, videos, truths).items() if right},
        "sheets": show_sheets(videos, "region", folder),
    }


def _another_colour(scene: Scene, seed: int) -> str:
    others = [c for c in COLOURS if c != scene.colour and (scene.subject, c, scene.setting) not in HELD_OUT]
    return random.Random(f"another colour {seed}").choice(others)


def measure_strengths(pipe: Pipeline, count: int, **settings: Any) -> Row:
    """The mean change of a video at each strength of its reference, from strength 0 on the same noise (in [-1, 1])."""
    _, captions, pictures, _ = identity_cases(count)
    given: list[Row] = [{"reference": picture} for picture in pictures]
    videos = [
        paint(pipe, captions, given, name=f"strength {s:g}", vace_strength=s, **settings).videos
        for s in STRENGTHS
    ]
    effects = [mean((one - videos[0]).abs().mean((1, 2, 3, 4))) for one in videos]
    values = [effect["value"] for effect in effects]
    grows = all(a < b for a, b in zip(values, values[1:], strict=False))
    return {"strengths": list(STRENGTHS), "effects": effects, "grows": grows}


def measure_nothing(pipe: Pipeline, judge: Judge, count: int, **settings: Any) -> Row:
    """Obedience where VACE is told that nothing is given, beside the same prompts and seeds while it rests."""
    prompts, truths = captions_of(held_out_scenes(count, defects=False))
    grey = torch.zeros(pipe.entry.size.frames, pipe.entry.size.height, pipe.entry.size.width, 3)
    at_rest = paint(pipe, prompts, name="at rest", **settings).videos
    told = paint(pipe, prompts, [{"video": grey} for _ in prompts], name="nothing given", **settings).videos
    return {
        "at_rest": measure_obedience(judge, at_rest, truths),
        "nothing_given": measure_obedience(judge, told, truths),
    }


# --- all of it ----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.evaluate_reference", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--json", type=Path, required=True, help="where the figures go")
    add(
        "--probe",
        type=Path,
        default=bundled_folder() / "trait_probe.safetensors",
        help="another probe than the shipped one",
    )
    add("--count", type=int, default=200, help="videos for each figure (default: 200)")
    add("--lora", type=Path, help="measure with this LoRA, at 4 steps without guidance")
    groups = ("identity", "first_frame", "region", "strength", "nothing")
    add("--groups", nargs="*", default=groups, choices=groups)
    add("--outputs", type=Path, default=Path("outputs"), help="where contact sheets go")
    given = parser.parse_args(arguments)
    settings: Row = {"loras": [(given.lora, 1.0)], **SETTINGS_WITH_LORA} if given.lora else {}
    try:
        pipe, judge, probe = load("mini"), load_judge(), load_probe(given.probe)
        report: Row = {"files": {path.name: sha256(path) for path in (*pipe.files.values(), given.probe)}}
        measures: dict[str, Callable[[], Row]] = {
            "identity": lambda: measure_identity(pipe, probe, judge, given.count, given.outputs, **settings),
            "first_frame": lambda: measure_first_frame(pipe, given.count, given.outputs, **settings),
            "region": lambda: measure_region(pipe, judge, given.count, given.outputs, **settings),
            "strength": lambda: measure_strengths(pipe, max(1, given.count // 5), **settings),
            "nothing": lambda: measure_nothing(pipe, judge, given.count, **settings),
        }
        for name in given.groups:
            report[name] = measures[name]()
            write_json(report, given.json)
    except WanError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Wrote {given.json}; contact sheets are in {given.outputs}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
