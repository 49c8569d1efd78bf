"""The judge: a small CLIP that looks at a fireside video and says which words are true of it.

Stands outside the pipeline: trained on renders and captions alone (`train_judge.py`), apart from the generator, and
frozen before any generated video is scored. Each attribute is read zero-shot: the video is compared with sentences
that name the attribute's values, as CLIP does it. In: videos (N, F, H, W, 3) in [-1, 1]. Out: values, probabilities,
or features. The camera's move is not asked of the judge but measured, by `measure_camera`.

The network is transformers' `CLIPModel` with two changes: it sees a frame together with its difference from the next
one (chaos is a matter of motion), and its eye is convolutional, as in CLIP's first models: trained on few pictures, a
vision transformer of the same size told colours and settings, and nothing else.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from ..errors import WanError
from ..files import write_safetensors
from ..machine.weights import bundled_folder
from .captions import VOCABULARY, WORDS, words_in
from .world import Scene, blur

# The shipped judge's hash, recorded when it was frozen and before it scored any generated video.
FROZEN_SHA256 = "6e096d7ab47c698e64be5a0526bd62c0c7c29be388412da508de4d8e6d62b08c"

SIDE = 96  # pixels of the square the judge sees
TEXT_LENGTH = 64
CLEAN = ("good quality", "clear", "sharp")  # no caption says so; the judge needs words for "no defect"
PAD, START = 0, 1
WORD_IDS = {word: i for i, word in enumerate(sorted(VOCABULARY | set(" ".join(CLEAN).split())), start=2)}
END = len(WORD_IDS) + 2

# What the judge is asked, attribute by attribute: value -> the phrases that name it.
QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    name: dict(values) for name, values in WORDS.items() if name != "camera"
}
QUESTIONS["subject"]["campfire"] = WORDS["subject"]["campfire"][:3]  # "fire" alone is in every scene
QUESTIONS["defect"]["clean"] = CLEAN


def scene_values(scene: Scene) -> dict[str, str]:
    """What is true of a scene, in the judge's words; the bare campfire has no relation."""
    values = {name: getattr(scene, name) for name in QUESTIONS}
    values |= {name: "yes" if values[name] else "no" for name in ("embers", "smoke")}
    values["defect"] = values["defect"] or "clean"
    return {name: value for name, value in values.items() if value is not None}


def names_in(text: str, scene: Scene) -> list[str]:
    """The attributes of a scene that its caption names."""
    padded = f" {' '.join(words_in(text))} "
    values = scene_values(scene) | {"camera": scene.camera}
    return [n for n, v in values.items() if any(f" {p} " in padded for p in WORDS[n].get(v, ()))]


def describe(values: Mapping[str, str], dice: random.Random) -> str:
    """A short text that names exactly these attributes, such as 'a sword, tall blue flames, no smoke'."""
    phrase = {name: dice.choice(QUESTIONS[name][value]) for name, value in values.items()}
    parts = [phrase[name] for name in phrase if name not in ("subject", "relation", "flame_size", "colour")]
    if "subject" in phrase or "relation" in phrase:
        subject = f"{dice.choice(('a', 'the'))} {phrase['subject']}" if "subject" in phrase else ""
        parts.append(f"{subject} {phrase.get('relation', '')}".strip())
    if "flame_size" in phrase or "colour" in phrase:
        flames = dice.choice(("flames", "fire"))
        parts.append(f"{phrase.get('flame_size', '')} {phrase.get('colour', '')} {flames}".strip())
    dice.shuffle(parts)
    return ", ".join(parts)


def tokenize(texts: Sequence[str]) -> Tensor:
    """Texts to word ids (B, L), padded to the longest; words the judge does not know are skipped."""
    rows = []
    for text in texts:
        ids = [WORD_IDS[word] for word in words_in(text) if word in WORD_IDS]
        rows.append(torch.tensor([START, *ids[: TEXT_LENGTH - 2], END]))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


class Residual(nn.Module):
    """Two convolutions around which the picture may pass unchanged."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(*_convolve(width, width), *_convolve(width, width))

    def forward(self, picture: Tensor) -> Tensor:
        return picture + self.layers(picture)


def _convolve(width: int, out: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.GELU()


class Eye(nn.Module):
    """What CLIP's vision tower reads: one token (B, 1, width), a summary that convolutions make of the picture."""

    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(4),  # (B, 96, 24, 24)
            *_convolve(96, 96),
            Residual(96),
            *_convolve(96, width, stride=2),  # (B, width, 12, 12)
            Residual(width),
        )
        self.summary = nn.Linear(2 * width, width)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        picture = self.stem(pixel_values)
        # Training's heads read it too.
        self.seen = torch.cat((picture.mean((2, 3)), picture.amax((2, 3))), dim=1)
        return self.summary(self.seen)[:, None]


def new_clip() -> CLIPModel:
    """The judge's network with random weights, about 3 million."""
    vision: dict[str, Any] = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 0,
        "num_attention_heads": 4,
    }
    text: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text |= {"vocab_size": END + 1, "max_position_embeddings": TEXT_LENGTH}
    text |= {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
    vision |= {"image_size": SIDE, "patch_size": 96, "num_channels": 6}
    vision["hidden_act"] = text["hidden_act"] = "gelu"
    config = CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=128, logit_scale_init_value=3.0
    )
    config._attn_implementation = "eager"  # trains twice as fast on a CPU
    clip = CLIPModel(config)
    clip.vision_model.embeddings = Eye(192)
    return clip


def frame_pairs(video: Tensor, count: int = 4) -> Tensor:
    """(N, F, H, W, 3) -> (N, count, 6, 96, 96): frames spread over the video, each with its change to the next."""
    n, frames, height, width = video.shape[:4]
    starts = torch.linspace(0, max(frames - 2, 0), count).round().long()
    first, second = video[:, starts], video[:, (starts + 1).clamp(max=frames - 1)]
    pairs = torch.cat((first, second - first), dim=-1).movedim(-1, 2).flatten(0, 1)  # (N count, 6, H, W)
    if (height, width) != (SIDE, SIDE):
        scale = SIDE / min(height, width)
        size = (round(height * scale), round(width * scale))
        pairs = F.interpolate(pairs, size=size, mode="bilinear", antialias=True)
        top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        pairs = pairs[..., top : top + SIDE, left : left + SIDE]
    return pairs.unflatten(0, (n, count))


def image_features(clip: CLIPModel, pairs: Tensor) -> Tensor:
    """(B, 6, 96, 96) -> vectors (B, D), of any length."""
    return clip.get_image_features(pixel_values=pairs).pooler_output.float()


def text_features(clip: CLIPModel, texts: Sequence[str]) -> Tensor:
    """Texts -> unit vectors (B, D)."""
    ids = tokenize(texts).to(clip.logit_scale.device)
    states = clip.get_text_features(input_ids=ids, attention_mask=(ids != PAD).long())
    return F.normalize(states.pooler_output.float(), dim=-1)


@dataclass(frozen=True)
class Judge:
    """A frozen CLIP with its questions: attribute -> (values, D), each row the mean of sentences naming a value."""

    clip: CLIPModel
    questions: dict[str, Tensor]

    @staticmethod
    @torch.inference_mode()
    def of(clip: CLIPModel) -> "Judge":
        """Ask each question in all its phrases, 24 wordings a value."""
        clip.eval()
        questions = {}
        for name, values in QUESTIONS.items():
            dice = random.Random(name)
            rows = [
                text_features(clip, [describe({name: value}, dice) for _ in range(24)]).mean(0)
                for value in values
            ]
            questions[name] = F.normalize(torch.stack(rows), dim=-1)
        return Judge(clip, questions)

    @torch.inference_mode()
    def frame_features(self, video: Tensor, *, batch: int = 16) -> Tensor:
        """(N, F, H, W, 3) -> unit vectors of four moments of each video (N, 4, D)."""
        parts = [
            F.normalize(image_features(self.clip, frame_pairs(part).flatten(0, 1)), dim=-1)
            for part in video.float().split(batch)
        ]
        return torch.cat(parts).unflatten(0, (len(video), -1))

    def features(self, video: Tensor) -> Tensor:
        """(N, F, H, W, 3) -> (N, D), for distances between sets of videos."""
        return self.frame_features(video).mean(1)

    def probabilities(self, video: Tensor) -> dict[str, Tensor]:
        """For each attribute (N, values), in the order of `QUESTIONS`: the logits of four moments, averaged."""
        features, scale = self.features(video), self.clip.logit_scale.exp().detach()
        return {name: (scale * features @ rows.T).softmax(-1) for name, rows in self.questions.items()}

    def read(self, video: Tensor) -> dict[str, list[str]]:
        """For each attribute the most probable value of each video."""
        return {
            name: [tuple(QUESTIONS[name])[i] for i in table.argmax(-1).tolist()]
            for name, table in self.probabilities(video).items()
        }


def judge_path() -> Path:
    """Where the shipped judge lies."""
    return bundled_folder() / "judge_clip.safetensors"


def save_judge(clip: CLIPModel, path: Path) -> None:
    """Half-precision weights, under transformers' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in clip.state_dict().items()}
    write_safetensors(path, tensors, metadata={"format": "pt", "words": " ".join(WORD_IDS)})


def load_judge(path: Path | str | None = None) -> Judge:
    """The frozen judge, ready to read videos."""
    path = Path(path) if path is not None else judge_path()
    if not path.exists():
        raise WanError(f"No judge at {path}: train one with `python -m wan_tutorial.mini.train_judge`.")
    clip = new_clip()
    try:
        tensors = load_file(path)
        clip.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise WanError(f"{path} is not this package's judge: {reason}") from error
    return Judge.of(clip.requires_grad_(False))


def agreement(
    seen: Mapping[str, Sequence[str]], truths: Sequence[Mapping[str, str]]
) -> dict[str, list[bool]]:
    """For each attribute whether what is seen is true, video by video where the truth names it."""
    return {
        name: [value == truth[name] for value, truth in zip(column, truths, strict=True) if name in truth]
        for name, column in seen.items()
    }


def zero_shot_accuracy(judge: Judge, video: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """For each attribute the share of videos that the judge reads right (nan if no scene has it)."""
    answers = agreement(judge.read(video), [scene_values(scene) for scene in scenes])
    return {name: sum(right) / len(right) if right else math.nan for name, right in answers.items()}


# --- the camera, measured -----------------------------------------------------------------------


def _soften(fields: Tensor, radius: float) -> Tensor:
    """A Gaussian blur of (B, 1, H, W)."""
    return blur(fields, sigma=radius, reach=math.ceil(2.5 * radius))


def measure_flow(video: Tensor, *, rounds: int = 12) -> Tensor:
    """The common motion of a video's pixels: (N, F, H, W, 3) -> (N, 4) as right, down, widen, heighten.

    In sides of the frame, for one frame of time. Least squares on the optical flow equation over all pairs of
    frames, in rounds that let go of the places that do not follow: flames, embers and smoke. Height is measured
    apart from width, because rising smoke stretches a picture upward; a zoom widens it as well.
    """
    grey = ((video.float().mean(-1) + 1) / 2 + 0.08).log()
    n, frames = grey.shape[:2]
    side = max(1.0, min(grey.shape[2:]) / 48)
    grey = F.avg_pool2d(_soften(grey.flatten(0, 1)[:, None], 0.6 * side), round(side))
    grey = (grey - _soften(grey, 2.5)).view(n, frames, *grey.shape[2:])  # edges, whatever the light does
    before, after = grey[:, :-1], grey[:, 1:]
    down, right = torch.gradient((before + after) / 2, dim=(2, 3))
    height, width = grey.shape[2:]
    y = (torch.arange(height) - (height - 1) / 2).view(-1, 1)
    x = (torch.arange(width) - (width - 1) / 2).view(1, -1)
    inside = (..., slice(2, -2), slice(2, -2))
    fields = (right, down, right * x, down * y)
    rows = torch.stack([field[inside].flatten(1) for field in fields], -1)  # (N, P, 4)
    change = (before - after)[inside].flatten(1)
    weight = torch.ones_like(change)
    for _ in range(rounds):
        weighted = rows * weight[..., None]
        square = weighted.mT @ rows + 1e-6 * torch.eye(4)
        flow = torch.linalg.solve(square, weighted.mT @ change[..., None])  # (N, 4, 1)
        miss = (change - (rows @ flow)[..., 0]).abs()
        miss = miss.view(n, frames - 1, -1).mean(1)  # of each place (N, P / F)
        trust = (1 + (miss / (0.2 * miss.mean(1, keepdim=True) + 1e-9)).square()) ** -2
        weight = trust.repeat(1, frames - 1)
    side = min(height, width)
    return flow[..., 0] * torch.tensor([1 / side, 1 / side, 1, 1])


def measure_camera(video: Tensor) -> list[str]:
    """Still, left, right or zoom, from the measured motion of each video, whatever its length.

    The world's pans move the picture 1 / 100 of its side a frame, its zooms widen it by 1.3 % and more; half of that
    is taken as seen.
    """
    moves = []
    for right, _, widen, _ in measure_flow(video).tolist():
        pan, zoom = abs(right) / 0.0105, widen / 0.013
        moves.append(
            "still" if max(pan, zoom) < 0.5 else "zoom" if zoom > pan else "left" if right > 0 else "right"
        )
    return moves
