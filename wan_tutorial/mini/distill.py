"""Distil the guided model of many steps into a LoRA of four: the scale model's counterpart of the CausVid file.

    python -m wan_tutorial.mini.distill --teacher 1000 --minutes 60 --folder outputs/training

Two stages, both of which go on where they were cut. First the teacher (all steps, guided, with the brief's negative
prompt) paints `--teacher` latents, each kept with nothing but its number, from which noise and caption are drawn again,
and with the reference that every third was shown: else four steps would learn to do without one.
Then the student, the same model with a LoRA on its main blocks, walks its four steps from the same noise, alone and
without guidance, and at every place where its own walk takes it learns to point at the latent that the teacher reached.
So one answer carries what guidance and the other steps would have added, and mistakes of early steps are part of what
the later ones learn. Progressive distillation (arXiv:2202.00512) halves steps instead and needs many rounds; CausVid
itself (arXiv:2412.07772) matches distributions, with a second network to train.

Out: rank 32 with `.diff_b`, in the key format of `Wan21_CausVid_14B_T2V_lora_rank32.safetensors`.
"""

import argparse
import math
import random
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
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
from ..reference import VaceContext, encode_context, read_given
from ..sampling.denoise import Model, SamplingSettings, denoise, guided_velocity
from ..sampling.solvers import Step
from .captions import BRIEF_NEGATIVE, BRIEF_PROMPT, write_caption
from .loop import Budget, fast_products, train
from .release import ASSETS
from .train_transformer import BRIEF_SHARE, embed_captions
from .train_vace import MOMENTS, another_look, caption_naming
from .world import Scene, brief_scene, draw_scene, render

NAME = "Wan21_CausVid_mini_T2V_lora_rank32.safetensors"
RANK, STEPS, BATCH = 32, 4, 8
FIRST_SEED = 700_000  # of captions and noise; no evaluation sees them
SHOWN = 3  # every third lecture has a reference


@dataclass
class Lectures:
    """What the teacher painted: `count` latents in a flat file, of which the first `ready` are there.

    Before each stands the reference that the teacher was shown, or zeros: (16, 1 + F, H, W).
    """

    folder: Path
    pipe: Pipeline

    @property
    def shape(self) -> tuple[int, ...]:
        channels, frames, height, width = self.pipe.entry.size.latent_shape[1:]
        return channels, 1 + frames, height, width

    @property
    def path(self) -> Path:
        return self.folder / "teacher.latents.f16"

    @property
    def ready(self) -> int:
        return self.path.stat().st_size // (2 * int(np.prod(self.shape))) if self.path.exists() else 0

    def read(self) -> np.ndarray:
        """(ready, 16, 1 + F, H, W) float16, a memory map."""
        return np.memmap(self.path, mode="r", dtype=np.float16, shape=(self.ready, *self.shape))

    def noise(self, picks: list[int]) -> Tensor:
        """(B, 16, F, H, W), or 1 + F frames for lectures with a reference; all of them have one, or none."""
        extra = int(is_shown(picks[0]))
        return torch.cat(
            [draw_noise(self.pipe.entry.size, seed=FIRST_SEED + i, extra_frames=extra) for i in picks]
        )

    def texts(self, picks: list[int]) -> Tensor:
        """The captions' embeddings (B, L, D)."""
        return embed_captions(self.pipe.text_encoder, [caption_of(i) for i in picks])

    @cached_property
    def nothing(self) -> VaceContext:
        """What VACE is told beside a reference."""
        return encode_context(self.pipe.vae, read_given(self.pipe.entry.size))

    def with_references(self, model: Model, references: Tensor) -> Model:
        """The model with a reference each, (B, 16, 1, H, W); the latents it is asked about are B, 2 B ... samples."""
        shown = [replace(self.nothing, references=one[None]).tensor for one in references]
        context = torch.cat(shown)  # (B, 96, 1 + F, H, W)

        def asked(latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            given = context.repeat(len(latent) // len(context), 1, 1, 1, 1)
            return model(latent, timestep, text, vace_context=given)  # type: ignore[call-arg]

        return asked

    @torch.no_grad()
    def paint(self, count: int) -> None:
        """Paint what is not there yet, with the model's own settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self.ready
        with self.path.open("ab") as file:
            file.truncate(done * 2 * int(np.prod(self.shape)))  # a run that was cut may have left part of one
            for start in tqdm(range(done, count, BATCH), desc="teacher"):
                numbers = list(range(start, min(start + BATCH, count)))
                painted = torch.zeros(len(numbers), *self.shape)
                for shown in (False, True):
                    picks = [number for number in numbers if is_shown(number) == shown]
                    if picks:
                        painted[[numbers.index(number) for number in picks]] = self.paint_alike(picks)
                file.write(painted.to(torch.float16).numpy().tobytes())
                file.flush()

    def paint_alike(self, picks: list[int]) -> Tensor:
        """Lectures that all have a reference, or none."""
        avoided, settings = embed_captions(self.pipe.text_encoder, [BRIEF_NEGATIVE]), self.pipe.settings()
        model, noise = self.pipe.transformer, self.noise(picks)
        references = torch.zeros_like(noise[:, :, :1])
        if is_shown(picks[0]):
            size = self.pipe.entry.size
            looks = [another_look(scene_of(number), number, change=True)[0] for number in picks]
            videos = render(looks, height=size.height, width=size.width, frames=size.frames)
            pictures = videos[:, min(MOMENTS[-1], size.frames - 1)].movedim(-1, 1)  # (B, 3, h, w)
            references = self.pipe.vae.encode(pictures[:, :, None])
            model = self.with_references(model, references)
        velocity = guided_velocity(model, self.texts(picks), avoided, settings.guidance)
        with fast_products("cpu"):
            latent = last(denoise(velocity, noise, settings=settings)).latent
        return torch.cat([references, latent[:, :, -(self.shape[1] - 1) :]], dim=2)


def is_shown(number: int) -> bool:
    """Whether the teacher had a reference: another moment and camera, and another value of one named attribute."""
    return number % SHOWN == SHOWN - 1


def is_brief(number: int) -> bool:
    return random.Random(f"lecture {number}").random() < BRIEF_SHARE


def scene_of(number: int) -> Scene:
    """What a lecture is about: a random scene without defects, now and then the brief's own."""
    if is_brief(number):
        return brief_scene(FIRST_SEED + number)
    scene, dice = draw_scene(FIRST_SEED + number), random.Random(f"scene {number}")
    while scene.defect:
        scene = draw_scene(dice.randrange(10**9))
    return scene


def caption_of(number: int) -> str:
    """The caption of a lecture; beside a reference it names what that shows otherwise."""
    scene = scene_of(number)
    if is_shown(number):
        changed = another_look(scene, number, change=True)[1]
        return caption_naming(scene, changed, random.Random(f"caption {number}"))[0]
    return BRIEF_PROMPT if is_brief(number) else write_caption(scene, number)


def last(steps: Iterator[Step]) -> Step:
    """The end of a walk."""
    return deque(steps, maxlen=1).pop()


def walk(model: Model, noise: Tensor, text: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """The student's own walk, unguided: the latents at which the model was asked (K B, ...), and their times (K B,)."""
    places: list[Tensor] = []
    times: list[Tensor] = []

    def velocity_of(latent: Tensor, sigma: float) -> Tensor:
        places.append(latent)
        times.append(torch.full((len(latent),), sigma))
        return model(latent, 1000 * times[-1], text).float()

    last(denoise(velocity_of, noise, settings=settings))
    return torch.cat(places), torch.cat(times)


def pointing_loss(model: Model, places: Tensor, times: Tensor, text: Tensor, clean: Tensor) -> Tensor:
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
        kind = is_shown(dice.randrange(len(latents)))
        picks = dice.choices([i for i in range(len(latents)) if is_shown(i) == kind], k=BATCH)
        clean, model = torch.from_numpy(latents[picks].astype(np.float32)), pipe.transformer
        if kind:
            model = lectures.with_references(model, clean[:, :, :1])
        else:
            clean = clean[:, :, 1:]
        text = lectures.texts(picks)
        with fast_products("cpu"):
            places, times = walk(model, lectures.noise(picks), text, settings)
            count = len(places) // BATCH
            losses = pointing_loss(
                model, places, times, text.repeat(count, 1, 1), clean.repeat(count, 1, 1, 1, 1)
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
        if not 0 < given.minutes < math.inf or given.teacher < 1:
            raise WanError(
                f"Distilling takes more than 0 minutes and 1 latent or more, not {given.minutes:g} and {given.teacher}: try "
                "30 and 1000."
            )
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
