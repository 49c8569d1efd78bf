"""Measure LoRAs of the scale model: `python -m wan_tutorial.mini.evaluate_lora --json FILE --causvid FILE --look FILE`.

Stands beside `evaluate.py` and speaks as it does: captions of scenes that no training saw, seeds 0 to n - 1, the frozen
judge, contact sheets of every video. A few steps are held against many, with guidance and without; a look is sought by
a probe, a linear reading of what the judge's eye sees, trained on renders with and without it. As the judge was never
shown the look, obedience under it is read by probes too, one for each attribute, trained on renders in the look.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wan_tutorial.errors import WanError
from wan_tutorial.mini import evaluate as plain
from wan_tutorial.mini.distill import STEPS
from wan_tutorial.mini.evaluate import Row, captions_of, held_out_scenes, mean, share
from wan_tutorial.mini.judge import (
    QUESTIONS,
    Judge,
    agreement,
    frame_pairs,
    image_features,
    load_judge,
    scene_values,
)
from wan_tutorial.mini.linear_probe import LinearProbe
from wan_tutorial.mini.styles import LOOKS
from wan_tutorial.mini.world import draw_scene
from wan_tutorial.pipeline import Pipeline, load

PROBE_SEED = 850_000  # of the renders that probes learn from


# --- few steps against many -------------------------------------------------------------------------------------


def measure_few_steps(pipe: Pipeline, judge: Judge, lora: Path, *, count: int, folder: Path) -> Row:
    """The model's own steps, guided; 4 steps guided, unguided, and unguided with the LoRA."""
    scenes = held_out_scenes(count, defects=False)
    prompts, truths = captions_of(scenes)
    renders, _ = plain.render_scenes(scenes, pipe.entry.size)
    ways: dict[str, Row] = {
        "own_steps_guided": {},
        "4_steps_guided": {"steps": STEPS},
        "4_steps_unguided": {"steps": STEPS, "guidance": 1.0},
        "4_steps_with_lora": {"steps": STEPS, "guidance": 1.0, "loras": [(lora, 1.0)]},
    }
    rows: Row = {}
    for name, settings in ways.items():
        painted = plain.paint(pipe, prompts, name=name, **settings)
        right = plain.answers(judge, painted.videos, truths)
        rows[name] = {
            "adherence": share(answer for column in right.values() for answer in column),
            "by_attribute": {attribute: share(column) for attribute, column in right.items() if column},
            "seconds": mean(painted.seconds),
            "frechet": plain.frechet_distance(judge.features(painted.videos), judge.features(renders)),
            "motion": plain.measure_motion(painted.videos, renders),
            "identity": mean(measure_identity(judge, painted.videos)),
            "sheets": plain.show_sheets(painted.videos, f"lora_{name}", folder),
        }
    whole, few = rows["own_steps_guided"], rows["4_steps_with_lora"]
    rows["adherence_kept"] = round(few["adherence"]["value"] / whole["adherence"]["value"], 4)
    rows["time_ratio"] = round(few["seconds"]["value"] / whole["seconds"]["value"], 4)
    return rows


def measure_identity(judge: Judge, videos: Tensor) -> Tensor:
    """How alike a video's first and last moments are in the judge's features: cosines (N,)."""
    features = judge.frame_features(videos)  # (N, moments, D), of length 1
    return (features[:, 0] * features[:, -1]).sum(-1)


def measure_strengths(pipe: Pipeline, lora: Path, *, count: int, **settings: Any) -> Row:
    """How far each strength moves the latents from those at strength 0, in root-mean-square; the mean should grow."""
    prompts, _ = captions_of(held_out_scenes(count, defects=False))
    at = {
        strength: plain.paint(
            pipe, prompts, name=f"strength {strength}", loras=[(lora, strength)], **settings
        ).latents
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    moved = {s: (latents - at[0.0]).square().mean((1, 2, 3, 4)).sqrt() for s, latents in at.items()}
    return {str(strength): mean(distances) for strength, distances in moved.items()}


# --- a look -------------------------------------------------------------------------------------------------


@torch.no_grad()
def eye_features(judge: Judge, videos: Tensor) -> Tensor:
    """What the judge's eye sees before it sums up, over four moments: (N, F, H, W, 3) -> (N, 384)."""
    rows = []
    for part in videos.float().split(16):
        pairs = frame_pairs(part)  # (n, moments, 6, H, W)
        image_features(judge.clip, pairs.flatten(0, 1))
        eye: Any = judge.clip.vision_model.embeddings
        rows.append(eye.seen.unflatten(0, pairs.shape[:2]).mean(1))
    return torch.cat(rows)


@dataclass(frozen=True)
class LookReader:
    """Probes for a look: is it there, and what of the prompt is seen in it."""

    judge: Judge
    style: LinearProbe
    attributes: dict[str, LinearProbe]

    @classmethod
    def learn(
        cls, pipe: Pipeline, judge: Judge, look: str, *, count: int, first_seed: int = PROBE_SEED
    ) -> LookReader:
        """From renders with and without the look, as they are and as the VAE repeats them."""
        scenes = [draw_scene(first_seed + i) for i in range(count)]
        ordinary, _ = plain.render_scenes(scenes, pipe.entry.size)
        styled = LOOKS[look](ordinary)
        features = {
            name: torch.cat([eye_features(judge, v), eye_features(judge, plain.reconstruct(pipe, v))])
            for name, v in ((look, styled), ("ordinary", ordinary))
        }
        style = LinearProbe.learn(
            torch.cat(list(features.values())), [name for name in features for _ in range(2 * count)]
        )
        truths = [scene_values(scene) for scene in scenes] * 2
        attributes = {}
        for name in QUESTIONS:
            some = [i for i, truth in enumerate(truths) if name in truth]
            attributes[name] = LinearProbe.learn(features[look][some], [truths[i][name] for i in some])
        return cls(judge, style, attributes)

    def measure(self, videos: Tensor, truths: Sequence[Mapping[str, str]], look: str) -> Row:
        """How often the look is seen, and the prompt obeyed under it."""
        features = eye_features(self.judge, videos)
        right = agreement({name: probe.read(features) for name, probe in self.attributes.items()}, truths)
        return {
            "look_seen": share(seen == look for seen in self.style.read(features)),
            "obeyed": share(answer for column in right.values() for answer in column),
            "by_attribute": {name: share(column) for name, column in right.items() if column},
        }


def measure_look(
    pipe: Pipeline,
    judge: Judge,
    loras: Mapping[str, Path | None],
    *,
    look: str,
    count: int,
    renders: int,
    folder: Path,
) -> Row:
    """The look in renders nobody learned from (the probes' own limits), and in what the model paints with each LoRA."""
    reader = LookReader.learn(pipe, judge, look, count=renders)
    scenes = held_out_scenes(count, defects=False)
    prompts, truths = captions_of(scenes)
    ordinary, _ = plain.render_scenes(scenes, pipe.entry.size)
    rows: Row = {}
    for name, videos in (("renders_in_the_look", LOOKS[look](ordinary)), ("ordinary_renders", ordinary)):
        rows[name] = reader.measure(plain.reconstruct(pipe, videos), truths, look)
    for name, lora in loras.items():
        painted = plain.paint(pipe, prompts, name=name, loras=[(lora, 1.0)] if lora else [])
        rows[name] = reader.measure(painted.videos, truths, look)
        rows[name]["obeyed_by_the_judge"] = share(
            answer for column in plain.answers(judge, painted.videos, truths).values() for answer in column
        )
        rows[name]["sheets"] = plain.show_sheets(painted.videos, f"lora_{name}", folder)
    return rows


# --- all of it ----------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.evaluate_lora", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--causvid", type=Path, help="a LoRA for 4 steps without guidance")
    parser.add_argument("--look", type=Path, help="a LoRA trained on renders in a look")
    parser.add_argument("--control", type=Path, help="a LoRA trained on ordinary renders")
    parser.add_argument("--learner", type=Path, help="a LoRA trained on the look for three minutes")
    parser.add_argument("--style", default="neon", choices=list(LOOKS), help="the look (default: neon)")
    parser.add_argument(
        "--captions", type=int, default=200, help="generated videos in each group (default: 200)"
    )
    parser.add_argument("--renders", type=int, default=400, help="that the probes learn from (default: 400)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where contact sheets go")
    given = parser.parse_args(arguments)
    looks = {"look": given.look, "control": given.control, "learner": given.learner}
    wanted: dict[str, Path | None] = {name: path for name, path in looks.items() if path}
    try:
        pipe, judge = load("mini"), load_judge()
        loras = [path for path in (given.causvid, *wanted.values()) if path]
        for path in loras:
            print(pipe.fit_loras([(path, 1.0)])[0])
        report: Row = {"files": {path.name: plain.sha256(path) for path in (*pipe.files.values(), *loras)}}
        few: Row = {"count": given.captions, "folder": given.outputs}
        if given.causvid:
            report["few_steps"] = measure_few_steps(pipe, judge, given.causvid, **few)
            settings = {"steps": STEPS, "guidance": 1.0}
            report["strengths_few_steps"] = measure_strengths(
                pipe, given.causvid, count=min(16, given.captions), **settings
            )
        if wanted:
            wanted["base"] = None
            report["look"] = measure_look(pipe, judge, wanted, look=given.style, renders=given.renders, **few)
        if given.look:
            report["strengths_look"] = measure_strengths(pipe, given.look, count=min(16, given.captions))
    except WanError as error:
        print(error, file=sys.stderr)
        return 2
    plain.write_json(report, given.json)
    print(f"Wrote {given.json}; contact sheets are in {given.outputs}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
