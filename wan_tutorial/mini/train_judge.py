"""Train the judge on renders and captions, never on generated videos.

`python -m wan_tutorial.mini.train_judge --minutes M`.

CLIP's objective without its false negatives: a text is a positive for every picture in the batch of which it is true.
Texts are captions as `write_caption` words them, and short ones that name one to three attributes, as the judge's
questions do. Pictures are a little shifted, mirrored, lit and softened, so that the judge also reads what a VAE made.
"""

import argparse
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from .captions import write_caption
from .data import VideoPool, training_videos
from .judge import (
    QUESTIONS,
    Judge,
    describe,
    image_features,
    judge_path,
    names_in,
    new_clip,
    save_judge,
    scene_values,
    text_features,
    zero_shot_accuracy,
)
from .loop import Budget, fast_products, train
from .world import Scene, draw_scene, render

Sources = list[tuple[VideoPool, np.ndarray]]
CAPTIONS = 16  # long captions in a batch; the rest of its texts are short
SHIFT = 8  # pixels a picture may be moved
SWAP = {"left": "right", "right": "left"}


def draw_pairs(sources: Sources, batch: int, dice: np.random.Generator) -> tuple[Tensor, list[Scene]]:
    """Random moments (B, 6, 96, 96), shifted, half of them mirrored, and what they show."""
    pictures, scenes = [], []
    for _ in range(batch):
        pool, videos = sources[dice.integers(len(sources))]
        index, at = int(dice.integers(len(videos))), int(dice.integers(pool.frames - 1))
        scene, picture = pool.scene(index), videos[index, at : at + 2]
        if dice.random() < 0.5:
            picture, scene = picture[:, :, ::-1], replace(scene, camera=SWAP.get(scene.camera, scene.camera))
        y, x = dice.integers(2 * SHIFT + 1, size=2)
        picture = np.pad(picture, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
        picture = picture[:, y : y + pool.height, x : x + pool.width]
        pictures.append(np.concatenate(picture, axis=-1))
        scenes.append(scene)
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 127.5 - 1, scenes


def disturb(pairs: Tensor) -> Tensor:
    """Soften and light two frames alike, a little, as a VAE might; then the second becomes a difference."""
    n = len(pairs)
    soft = F.interpolate(F.avg_pool2d(pairs, 2), scale_factor=2, mode="bilinear")
    pairs = torch.lerp(pairs, soft, torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.6))
    light = torch.empty(n, 3, 1, 1).uniform_(0.95, 1.05) * torch.empty(n, 1, 1, 1).uniform_(0.9, 1.1)
    first, second = ((pairs + 1) * light.repeat(1, 2, 1, 1) - 1).chunk(2, dim=1)
    return torch.cat((first, second - first), dim=1)


def match_loss(pictures: Tensor, texts: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE both ways with several positives: pictures (B, D), texts (T, D), true (B, T)."""
    logits = scale * pictures @ texts.T
    loss = logits.new_zeros(())
    for scores, wanted in ((logits, true), (logits.T, true.T)):
        some = wanted.any(1)
        found = scores[some].masked_fill(~wanted[some], -torch.inf).logsumexp(1)
        loss = loss + (scores[some].logsumexp(1) - found).mean()
    return loss / 2


def caption_texts(scenes: list[Scene], dice: random.Random) -> tuple[list[str], Tensor]:
    """A caption of each scene, silent about its defect, and of which scenes each is true (B, T)."""
    told = [replace(scene, defect=None) for scene in scenes]
    texts = [write_caption(scene, dice.randrange(10**9)) for scene in told]
    named = [names_in(text, scene) for text, scene in zip(texts, told, strict=True)]
    true = [
        [all(getattr(s, n) == getattr(t, n) for n in ns) for t, ns in zip(told, named, strict=True)]
        for s in told
    ]
    return texts, torch.tensor(true)


def short_texts(scenes: list[Scene], dice: random.Random) -> tuple[list[str], Tensor]:
    """One text for each set of two or three values found in the batch, and of which scenes each is true (B, T)."""
    names = dice.sample(sorted(QUESTIONS), dice.choice((2, 3)))
    kinds = [tuple((n, v) for n, v in scene_values(scene).items() if n in names) for scene in scenes]
    found = sorted(set(kinds) - {()})
    return [describe(dict(kind), dice) for kind in found], torch.tensor(
        [[k == f for f in found] for k in kinds]
    )


class JudgeTask(nn.Module):
    """The CLIP, and heads that only its training has: they teach the eye before the words have settled."""

    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip
        self.heads = nn.ModuleDict({n: nn.Linear(384, len(values)) for n, values in QUESTIONS.items()})

    def forward(
        self, pairs: Tensor, scenes: list[Scene], dice: random.Random
    ) -> tuple[Tensor, dict[str, float]]:
        """Every question, by head and by text, then short texts, then captions; one pass through each tower."""
        questions = [describe({name: value}, dice) for name in QUESTIONS for value in QUESTIONS[name]]
        short, short_true = short_texts(scenes, dice)
        captions, caption_true = caption_texts(scenes[:CAPTIONS], dice)
        with fast_products(pairs.device):
            features = image_features(self.clip, pairs)
            texts = text_features(self.clip, [*questions, *short, *captions])
        seen = self.clip.vision_model.embeddings.seen.float()
        pictures, scale = F.normalize(features, dim=-1), self.clip.logit_scale.clamp(max=4.6).exp()
        asked, short_features, caption_features = texts.split([len(questions), len(short), len(captions)])
        values = [scene_values(scene) for scene in scenes]
        sizes = [len(v) for v in QUESTIONS.values()]
        by_head, by_text, figures = [], [], {}
        for (name, words), rows in zip(QUESTIONS.items(), asked.split(sizes), strict=True):
            some = [i for i, v in enumerate(values) if name in v]
            truth = torch.tensor([tuple(words).index(values[i][name]) for i in some])
            logits = scale * pictures[some] @ rows.T
            by_text.append(F.cross_entropy(logits, truth))
            by_head.append(F.cross_entropy(self.heads[name](seen[some]), truth))
            figures[name] = (logits.argmax(1) == truth).float().mean().item()
        figures["by_head"] = torch.stack(by_head).mean().item()
        loss = 3 * torch.stack(by_head).mean() + torch.stack(by_text).mean()
        loss = loss + 0.1 * match_loss(pictures, short_features, short_true, scale)
        return loss + 0.1 * match_loss(pictures[:CAPTIONS], caption_features, caption_true, scale), figures


@torch.no_grad()
def calibrate(clip: CLIPModel, batches: Iterable[Tensor]) -> CLIPModel:
    """Measure the batch statistics of the averaged weights, which an average of weights does not hold."""
    clip.vision_model.train()
    for pairs in batches:
        image_features(clip, pairs)
    return clip.eval()


def train_judge(pools: Sequence[VideoPool], *, minutes: float, folder: Path, batch: int = 32) -> CLIPModel:
    """Train for `minutes`; checkpoint and curves go to `folder`, from which an interrupted run goes on."""
    torch.manual_seed(0)
    sources = [(pool, pool.videos()) for pool in pools]
    task = JudgeTask(new_clip()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    numbers, dice = np.random.default_rng(), random.Random()

    def draw() -> tuple[Tensor, list[Scene]]:
        pairs, scenes = draw_pairs(sources, batch, numbers)
        return disturb(pairs).contiguous(memory_format=torch.channels_last), scenes

    budget = Budget(minutes, learning_rate=2e-3, warmup_steps=60, weight_decay=0.05, save_minutes=1)
    towers = (task.clip.text_model.encoder, task.clip.vision_model.encoder)
    # By Muon, words settle far sooner.
    matrices = [p for tower in towers for p in tower.parameters() if p.ndim == 2]
    average = train(task, lambda step: task(*draw(), dice), budget=budget, folder=folder, orthogonal=matrices)
    return calibrate(average.clip, (draw()[0] for _ in range(60)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--folder", type=Path, default=Path("outputs/training"))
    parser.add_argument("--output", type=Path, default=judge_path())
    given = parser.parse_args()
    clip = train_judge(training_videos(given.folder), minutes=given.minutes, folder=given.folder / "judge")
    save_judge(clip, given.output)
    for split in ("train", "held_out"):
        scenes = [draw_scene(900_000 + i, split=split) for i in range(200)]  # that no training saw
        videos = torch.cat([render(scenes[i : i + 16]) for i in range(0, len(scenes), 16)])
        accuracy = zero_shot_accuracy(Judge.of(clip), videos, scenes)
        print(split, {name: round(share, 3) for name, share in accuracy.items()})


if __name__ == "__main__":
    main()
