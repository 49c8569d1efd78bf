"""Train a LoRA in minutes, on a CPU: a few pictures or videos teach the frozen scale model a look it has never seen.

    python -m wan_tutorial.mini.train_lora FOLDER --out mine.safetensors               your own pictures and videos
    python -m wan_tutorial.mini.train_lora neon --minutes 15 --out look.safetensors    renders in a look of `styles.py`
    python -m wan_tutorial.mini.train_lora plain --minutes 15 --out control.safetensors    ordinary renders, to compare

In: clips with captions, as latents and embeddings. Out: a `Lora` in the key format of the CausVid file, which ComfyUI
reads. Only the thin matrices learn, by the flow-matching loss that trained the base; the base may be packed to 3 bits
(arXiv:2305.14314). Ctrl-C, or a notebook's stop button, ends the training early and keeps what was learned.
"""

import argparse
import hashlib
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import WanError, check_path
from ..lora import Lora, new_lora, write_lora
from ..noise import mix
from ..pipeline import Pipeline, load, progress_stream
from ..reference import read_given
from ..show.video import check_writable, read_video
from ..transformer import WanTransformer
from .captions import BRIEF_PROMPT, write_caption
from .loop import Budget, Moment, averaged, fast_products, train
from .styles import LOOKS
from .train_transformer import DROPPED, draw_times, embed_captions
from .world import brief_scene, draw_scene, render

PICTURES, VIDEOS = (".png", ".jpg", ".jpeg", ".webp"), (".mp4", ".webm", ".mov", ".gif")
CLIPS = 4  # at most, of one video
FIRST_SEED = 800_000  # of the scenes that are rendered here, which no other training sees
RANK, BATCH, RATE = 16, 8, 2e-3


@dataclass(frozen=True)
class Example:
    """A clip to learn from."""

    video: Tensor  # (frames, height, width, 3) in [-1, 1]
    captions: tuple[str, ...]  # one, or several ways to say it


def read_examples(pipe: Pipeline, folder: str | Path, *, caption: str | None = None) -> list[Example]:
    """The pictures and videos of a folder, cut to the model's size; a picture stands still.

    A caption is the text in NAME.txt beside NAME.png, or `caption` for all that have none.
    """
    folder = check_path(folder, "folder of examples", example="my_pictures")
    if not folder.is_dir():
        raise WanError(
            f"Examples are a folder of pictures and videos, and {folder} is none: a look is one of {', '.join(LOOKS)}."
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (*PICTURES, *VIDEOS))
    if not paths:
        raise WanError(
            f"{folder} holds no pictures or videos: put some there, as {', '.join((*PICTURES, *VIDEOS))}."
        )
    return [example for path in paths for example in _read_example(path, caption, pipe)]


def _read_example(path: Path, caption: str | None, pipe: Pipeline) -> Iterator[Example]:
    size, beside = pipe.entry.size, path.with_suffix(".txt")
    words = _read_caption(beside) if beside.is_file() else caption
    if words is None:
        raise WanError(f"{path.name} has no caption: write one into {beside.name}, or give one for all.")
    frames = list(read_video(path)) if path.suffix.lower() in VIDEOS else [path] * size.frames
    frames += frames[-1:] * (size.frames - len(frames))  # too short: the last one stands
    count = min(CLIPS, len(frames) // size.frames)
    for clip in range(count):
        start = clip * (len(frames) - size.frames) // max(1, count - 1)
        try:
            given = read_given(size, reference=frames[start : start + size.frames], fit="crop")
        except WanError as error:
            raise WanError(f"{path.name} cannot be learned from. {error}") from error
        yield Example(given.references, (words,))


def _read_caption(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()  # some editors begin with an invisible mark
    except UnicodeDecodeError as error:
        raise WanError(f"{path.name} is no text in UTF-8: save it so again, or write it anew.") from error


def render_examples(look: str, count: int = 64, *, first_seed: int = FIRST_SEED) -> list[Example]:
    """Renders of random scenes in a look, every eighth of the brief's own, each with captions that say nothing of it."""
    if count < 1:
        raise WanError(f"A look is learned from 1 render or more, not {count}: try 64.")
    seeds = range(first_seed, first_seed + count)
    scenes = [
        brief_scene(seed) if i % 8 == 7 else replace(draw_scene(seed), defect=None)
        for i, seed in enumerate(seeds)
    ]
    videos = [LOOKS[look](render(scenes[i : i + 16])) for i in range(0, count, 16)]
    captions = [tuple(write_caption(scene, seed) for seed in range(3)) for scene in scenes]
    captions[7::8] = [(BRIEF_PROMPT, *words[1:]) for words in captions[7::8]]
    return [Example(video, words) for video, words in zip(torch.cat(videos), captions, strict=True)]


def train_lora(
    pipe: Pipeline,
    examples: Sequence[Example],
    *,
    minutes: float = 3.0,
    rank: int = RANK,
    folder: Path | None = None,
    watch: Callable[[Moment], bool] | None = None,
    progress: bool = True,
    name: str = "new",
) -> Lora:
    """Learn what the examples have in common; returns the LoRA, which `write_lora` writes.

    `minutes` are those of training, after the clips are encoded. `folder` keeps a checkpoint and the curve, from which
    an interrupted training goes on, of the same examples; `watch` is shown every step and ends the training by answering
    True.
    """
    if not 0 < minutes < math.inf or rank < 1:
        raise WanError(
            f"A training takes more than 0 minutes and a rank of 1 or more, not {minutes} and {rank}: try 3 and {RANK}."
        )
    torch.manual_seed(0)
    lessons = Lessons.of(pipe, examples, progress)
    if folder:
        check_same_training(folder, lessons, pipe, rank)
    lora = new_lora(pipe.transformer, rank=rank, name=name)
    applied = lora.apply_to(pipe.transformer)
    learned = nn.ParameterList(lora.tensors())
    bar = tqdm(
        total=round(60 * minutes), desc="learn ", unit="s", disable=not progress, file=progress_stream()
    )
    try:
        began = time.monotonic()

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            loss = lessons.loss(pipe.transformer)
            bar.set_postfix(loss=f"{loss.item():.3f}", steps=step, refresh=False)
            bar.update(min(bar.total, int(time.monotonic() - began)) - bar.n)
            return loss, {}

        budget = Budget(
            minutes, learning_rate=RATE, warmup_steps=20, weight_decay=0.0, save_minutes=min(1, minutes / 4)
        )
        with nullcontext(str(folder)) if folder else tempfile.TemporaryDirectory() as place:
            try:
                train(learned, loss_of, budget=budget, folder=Path(place), watch=watch)
            except KeyboardInterrupt:
                bar.write("stopped: the LoRA holds what was learned so far", file=sys.stderr)
            means = averaged(Path(place))
        for name, own in learned.named_parameters():
            own.data.copy_(means[name])
    finally:
        bar.close()
        applied.remove()
        learned.requires_grad_(False)
    return lora


def check_same_training(folder: Path, lessons: "Lessons", pipe: Pipeline, rank: int) -> None:
    """WanError where the checkpoint in a folder is of other examples, another model or another rank."""
    digest = hashlib.sha256()
    for tensor in (lessons.latents, *lessons.texts):
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    mine = f"rank {rank}, {pipe.files['transformer'].name}, examples {digest.hexdigest()[:16]}\n"
    noted = folder / "learns_from.txt"
    if (folder / "checkpoint.safetensors").exists() and noted.exists() and noted.read_text() != mine:
        raise WanError(
            f"{folder} holds a training of other examples, or of another model or rank: name another folder, or delete it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    noted.write_text(mine)


@dataclass(frozen=True)
class Lessons:
    """The examples as the transformer meets them."""

    latents: Tensor  # (N, 16, F, H, W)
    texts: list[Tensor]  # (1 + captions, L, D) each; the first is the empty caption

    @classmethod
    def of(cls, pipe: Pipeline, examples: Sequence[Example], progress: bool) -> "Lessons":
        bar = tqdm(examples, desc="encode", unit="clip", disable=not progress, file=progress_stream())
        latents = torch.cat([pipe.encode(example.video) for example in bar])
        return cls(latents, [embed_captions(pipe.text_encoder, ["", *e.captions]) for e in examples])

    def loss(self, model: WanTransformer) -> Tensor:
        """The flow-matching loss on a few examples: squared error of the velocity, noise - clean."""
        picks = torch.randint(len(self.latents), (BATCH,)).tolist()
        said = [0 if random.random() < DROPPED else random.randrange(1, len(self.texts[i])) for i in picks]
        text = torch.stack([self.texts[i][n] for i, n in zip(picks, said, strict=True)])
        clean = self.latents[picks]
        t = draw_times(BATCH).to(clean.device)
        noise = torch.randn_like(clean)
        with fast_products(clean.device):
            velocity = model(mix(clean, noise, t), 1000 * t, text)
        return (velocity.float() - (noise - clean)).square().mean()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.train_lora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("examples", help=f"a folder of pictures and videos, or {' or '.join(LOOKS)}")
    parser.add_argument("--out", type=Path, required=True, help="the LoRA, a .safetensors file")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training (default: 3)")
    parser.add_argument(
        "--rank", type=int, default=RANK, help=f"width of the thin matrices (default: {RANK})"
    )
    parser.add_argument("--caption", help="for the examples of a folder that have no NAME.txt beside them")
    parser.add_argument("--renders", type=int, default=64, help="of a look (default: 64)")
    parser.add_argument("--model", default="mini", help="what to train beside (default: mini)")
    parser.add_argument("--folder", type=Path, help="keep a checkpoint and the curve here, to go on from")
    given = parser.parse_args(arguments)
    try:
        if given.out.suffix != ".safetensors":
            raise WanError(
                f"A LoRA is a .safetensors file, not {given.out.name!r}: try {given.out.stem}.safetensors."
            )
        check_writable(given.out)
        pipe = load(given.model)
        if given.examples in LOOKS and not Path(given.examples).is_dir():
            examples = render_examples(given.examples, given.renders)
        else:
            examples = read_examples(pipe, given.examples, caption=given.caption)
        options = {"minutes": given.minutes, "rank": given.rank, "folder": given.folder}
        lora = train_lora(pipe, examples, **options, name=given.out.name)
        write_lora(lora, given.out)
    except WanError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"wrote {given.out}: {lora.parameters:,} numbers of rank {given.rank}, learned from {len(examples)} clips"
    )
    print(f'try it: wan-tutorial generate "a sword in the burning wood" --lora {given.out}')
    return 0


if __name__ == "__main__":
    sys.exit(main())
