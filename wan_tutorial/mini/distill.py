"""Distil the guided model of many steps into a LoRA of four: the scale model's counterpart of the CausVid file.

    python -m wan_tutorial.mini.distill --teacher 1000 --minutes 60 --folder outputs/training

Two stages, both of which go on where they were cut. First the teacher (all steps, guided, with the brief's negative
prompt) paints `--teacher` latents, each kept with nothing but its number, from which noise and caption are drawn again.
Then the student, the same model with a LoRA on its main blocks, walks its four steps from the same noise, alone and
without guidance, and at every place where its own walk takes it learns to point at the latent that the teacher reached.
So one answer carries what guidance and the other steps would have added, and mistakes of early steps are part of what
the later ones learn. Progressive distillation (arXiv:2202.00512) halves steps instead and needs many rounds; CausVid
itself (arXiv:2412.07772) matches distributions, with a second network to train.

Out: rank 32 with `.diff_b`, in the key format of `Wan21_CausVid_14B_T2V_lora_rank32.safetensors`.
"""

import argparse
import random
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..errors import WanError
from ..lora import Lora, new_lora, write_lora
from ..noise import draw_noise
from ..pipeline import Pipeline, load
from ..sampling.denoise import SamplingSettings, denoise, guided_velocity
from ..sampling.solvers import Step
from .captions import BRIEF_NEGATIVE, BRIEF_PROMPT, write_caption
from .loop import Budget, fast_products, train
from .release import ASSETS
from .train_transformer import BRIEF_SHARE, embed_captions
from .world import draw_scene

NAME = "Wan21_CausVid_mini_T2V_lora_rank32.safetensors"
RANK, STEPS, BATCH = 32, 4, 8
FIRST_SEED = 700_000  # of captions and noise; no evaluation sees them


@dataclass
class Lectures:
    """What the teacher painted: `count` latents in a flat file, of which the first `ready` are there."""

    folder: Path
    pipe: Pipeline

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pipe.entry.size.latent_shape[1:]  # (16, F, H, W)

    @property
    def path(self) -> Path:
        return self.folder / "teacher.latents.f16"

    @property
    def ready(self) -> int:
        return self.path.stat().st_size // (2 * int(np.prod(self.shape))) if self.path.exists() else 0

    def read(self) -> np.ndarray:
        """(ready, 16, F, H, W) float16, a memory map."""
        return np.memmap(self.path, mode="r", dtype=np.float16, shape=(self.ready, *self.shape))

    def noise(self, picks: list[int]) -> Tensor:
        return torch.cat([draw_noise(self.pipe.entry.size, seed=FIRST_SEED + i) for i in picks])

    def texts(self, picks: list[int]) -> Tensor:
        """The captions' embeddings (B, L, D)."""
        return embed_captions(self.pipe.text_encoder, [caption_of(i) for i in picks])

    @torch.no_grad()
    def paint(self, count: int) -> None:
        """Paint what is not there yet, with the model's own settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        avoided = embed_captions(self.pipe.text_encoder, [BRIEF_NEGATIVE])
        settings = self.pipe.settings()
        done = self.ready
        with self.path.open("ab") as file:
            file.truncate(done * 2 * int(np.prod(self.shape)))  # a run that was cut may have left part of one
            for start in tqdm(range(done, count, BATCH), desc="teacher"):
                picks = list(range(start, min(start + BATCH, count)))
                velocity = guided_velocity(
                    self.pipe.transformer, self.texts(picks), avoided, settings.guidance
                )
                with fast_products("cpu"):
                    step = last(denoise(velocity, self.noise(picks), settings=settings))
                file.write(step.latent.to(torch.float16).numpy().tobytes())
                file.flush()


def caption_of(number: int) -> str:
    """The caption of a lecture: of a random scene without defects, now and then the brief's own prompt."""
    dice = random.Random(f"lecture {number}")
    if dice.random() < BRIEF_SHARE:
        return BRIEF_PROMPT
    scene = draw_scene(FIRST_SEED + number)
    while scene.defect:
        scene = draw_scene(dice.randrange(10**9))
    return write_caption(scene, number)


def last(steps: Iterator[Step]) -> Step:
    """The end of a walk."""
    return deque(steps, maxlen=1).pop()


def walk(model: nn.Module, noise: Tensor, text: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """The student's own walk, unguided: the latents at which the model was asked (K B, ...), and their times (K B,)."""
    places: list[Tensor] = []
    times: list[Tensor] = []

    def velocity_of(latent: Tensor, sigma: float) -> Tensor:
        places.append(latent)
        times.append(torch.full((len(latent),), sigma))
        return model(latent, 1000 * times[-1], text).float()

    last(denoise(velocity_of, noise, settings=settings))
    return torch.cat(places), torch.cat(times)


def pointing_loss(model: nn.Module, places: Tensor, times: Tensor, text: Tensor, clean: Tensor) -> Tensor:
    """How far from the teacher's latent the student points, for every place (K B,): pseudo-Huber, as of
    arXiv:2310.14189, which forgives a wrong detail sooner than a square does."""
    velocity = model(places, 1000 * times, text).float()
    guess = places - times.view(-1, 1, 1, 1, 1) * velocity
    squared = (guess - clean).square().mean(dim=(1, 2, 3, 4))
    return (squared + 0.03**2).sqrt() - 0.03


def distil(lectures: Lectures, pipe: Pipeline, *, minutes: float, steps: int = STEPS) -> Lora:
    """Train the LoRA; checkpoint and curve are kept in the folder of the lectures."""
    torch.manual_seed(0)
    lora = new_lora(pipe.transformer, rank=RANK, biases=True, name=NAME)
    learned = nn.ParameterList(lora.tensors())
    applied = lora.apply_to(pipe.transformer)
    settings, latents = pipe.settings(steps=steps, guidance=1.0), lectures.read()
    dice = random.Random()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        picks = [dice.randrange(len(latents)) for _ in range(BATCH)]
        clean = torch.from_numpy(latents[picks].astype(np.float32))
        text = lectures.texts(picks)
        with fast_products("cpu"):
            places, times = walk(pipe.transformer, lectures.noise(picks), text, settings)
            count = len(places) // BATCH
            losses = pointing_loss(
                pipe.transformer, places, times, text.repeat(count, 1, 1), clean.repeat(count, 1, 1, 1, 1)
            )
        by_step = losses.detach().view(count, -1).mean(1).tolist()
        return losses.mean(), {f"at_{i}": value for i, value in enumerate(by_step)}

    budget = Budget(minutes, learning_rate=1e-3, warmup_steps=20, weight_decay=0.0, save_minutes=2)
    with sdpa_kernel(SDPBackend.MATH):  # over so few tokens a CPU goes back faster through plain attention
        average = train(learned, loss_of, budget=budget, folder=lectures.folder)
    for own, mean in zip(learned, average, strict=True):
        own.data.copy_(mean)
    applied.remove()
    return lora


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wan_tutorial.mini.distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--teacher", type=int, default=1000, metavar="N", help="latents to learn from (default: 1000)"
    )
    parser.add_argument(
        "--minutes", type=float, default=30, help="of the student's training, in all (default: 30)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/training"), help="lectures, checkpoint, curve"
    )
    parser.add_argument("--out", type=Path, default=ASSETS / NAME, help=f"default: {ASSETS / NAME}")
    given = parser.parse_args(arguments)
    try:
        lectures = Lectures(given.folder / "distill", load("mini-f16"))
        lectures.paint(given.teacher)
        write_lora(distil(lectures, load("mini"), minutes=given.minutes), given.out)
    except WanError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
