"""Refine trained VACE blocks: what they learned from videos is put right by answers.

Blocks that learned to carry a picture carry one of shuffled squares as well: it still has its colours. Beside a picture,
which stands still, little moves. And they learned without negative prompts. All of it can be said as the answer that is
wanted at some point of a run, made of what the blocks answered before and of what the main blocks answer alone:

- nothing given, or a scrambled picture: the main blocks' own answer;
- a first frame or a region: what was answered before (learning without forgetting, arXiv:1606.09282);
- a reference: what was answered before, with the direction of guidance turned (`turn`);
- a strange picture, a scene turned, mirrored and in other colours: the same, so that only what is shuffled is taken for it;
- beside a negative prompt: what was answered without one, moved as that prompt moves the main blocks. Blocks that learned
  without one answer it with less of what is given, and guidance multiplies what two answers differ by.

Answers hold no noise and no other scene, so minutes do what takes hours from videos (`train_vace.py`). Most steps are
taken within guided runs of the model's own, where they matter.
"""

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..files import write_safetensors
from ..noise import mix
from ..sampling.schedules import shift_time
from ..text import TextEncoder
from ..transformer import WanTransformer
from ..vae import Vae
from .captions import BRIEF_NEGATIVE, WORDS
from .data import to_pixels
from .loop import Budget, Moment, fast_products, narrow_is_faster
from .train_transformer import draw_times, embed_captions, squared_error
from .train_vace import (
    COARSE_WEIGHT,
    KNOWN_WEIGHT,
    MOTION_WEIGHT,
    Drawn,
    HintPool,
    Run,
    VaceBatch,
    VaceBatches,
    check_base,
    grey_latent,
    guide,
    train_blocks,
    twice,
)

# Of the steps that each has of what may be given.
SHARES = {"reference": 0.52, "strange": 0.06, "clip": 0.22, "nothing": 0.07, "scrambled": 0.13}
SILENT = ("nothing", "scrambled")  # those in which VACE is to change nothing
DECIDED = 0.6  # the time down to which the layout is open
# From then on, beside a reference: how far guidance's direction turns towards that of the main blocks, which is 1.
MOTION_TURN, STILL_TURN = 1.0, 0.3
# Of the runs, those that guidance leads away from nothing, from the brief's negative prompt, from another defect.
NEGATIVE_SHARES = (0.3, 0.55, 0.15)
RUN_SHARE = 0.7  # of the steps: those within a run of the model's own
GUIDED_WEIGHT = 0.2  # what a departure counts once more, in what guidance makes of the two answers
LEARNED_SHARE = 0.7  # of the weights that come out: the rest is what they were before
PATCHES = (8, 12, 16, 16, 24)  # pixels of the squares that a picture is shuffled in


def scramble(picture: Tensor, seed: int, patch: int = 16) -> Tensor:
    """The same pixels (H, W, 3) in shuffled squares of `patch` pixels: every colour is there, and no thing."""
    height, width = (side // patch for side in picture.shape[:2])
    squares = picture.unflatten(1, (width, patch)).unflatten(0, (height, patch)).transpose(1, 2).flatten(0, 1)
    order = torch.randperm(len(squares), generator=torch.Generator().manual_seed(seed))
    return squares[order].unflatten(0, (height, width)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def make_strange(picture: Tensor, dice: random.Random) -> Tensor:
    """A picture (H, W, 3) turned, mirrored and with its colours exchanged: nothing that was trained on, and no noise."""
    turned = picture.rot90(dice.randrange(4)) if picture.shape[0] == picture.shape[1] else picture
    mirrored = turned.flip(1) if dice.random() < 0.5 else turned
    exchanged = mirrored[..., dice.choice(list(permutations(range(3)))[1:])]
    return -exchanged if dice.random() < 0.3 else exchanged


class RefiningBatches(VaceBatches):
    """Draws what VaceBatches draws, and pictures that are strange or scrambled: of any scene, encoded as they are drawn."""

    def __init__(self, pools: Sequence[HintPool], vae: Vae):
        super().__init__(pools, grey_latent(vae, pools[0].size))
        self.vae = vae

    def draw_task(self) -> str:
        return self.dice.choices(list(SHARES), list(SHARES.values()))[0]

    def draw_negative(self) -> str:
        """What guidance leads away from: nothing, the brief's negative prompt, or another defect."""
        another = self.dice.choice([name for names in WORDS["defect"].values() for name in names])
        return self.dice.choices(("", BRIEF_NEGATIVE, another), NEGATIVE_SHARES)[0]

    def draw_scrambled(self, pool: HintPool, index: int) -> Drawn:
        picture = self.draw_picture(pool)
        sizes = [patch for patch in PATCHES if not any(side % patch for side in picture.shape[:2])]
        shuffled = scramble(picture, self.dice.randrange(10**9), self.dice.choice(sizes))
        return self.draw_with(shuffled, pool, index)

    def draw_strange(self, pool: HintPool, index: int) -> Drawn:
        return self.draw_with(make_strange(self.draw_picture(pool), self.dice), pool, index)

    def draw_picture(self, pool: HintPool) -> Tensor:
        """A moment of any of a pool's videos, (H, W, 3)."""
        videos = pool.latents.videos.videos()
        frame = videos[self.dice.randrange(len(videos)), self.dice.randrange(videos.shape[1])]
        return to_pixels(frame[None, None])[0, :, 0].movedim(0, -1)

    @torch.no_grad()
    def draw_with(self, picture: Tensor, pool: HintPool, index: int) -> Drawn:
        """A video of the pool and its caption, and beside it this picture as a reference."""
        clean, _, caption, known = self.draw_nothing(pool, index)
        with fast_products(self.vae.mean.device):
            reference = self.vae.encode(picture.movedim(-1, 0)[None, :, None].to(self.vae.mean.device))
        reference = reference.float().cpu()
        return torch.cat([reference[0], clean], dim=1), self.context(reference), caption, known


def refine_vace(
    folder: Path,
    model: WanTransformer,
    encoder: TextEncoder,
    batches: RefiningBatches,
    *,
    minutes: float,
    visible: Tensor | None = None,
    device: str = "cpu",
    batch: int = 16,
    watch: Callable[[Moment], bool] | None = None,
) -> WanTransformer:
    """Refine the VACE blocks of a released transformer for `minutes`; checkpoints and curves go to folder/refine.

    All other weights stay bit for bit as they are. Called again with more minutes it goes on, from the same weights before,
    even where its own have been released in between. `batch` counts answers: half as many samples, each asked with its
    caption and with a negative prompt. A departure counts as a mistake does in `train_vace`, with `visible` as there, and
    so does what guidance makes of two; VACE's matrices are rounded now and then. What comes out lies between the weights
    before and those learned (arXiv:2109.01903): it has most of what is new and forgets less.
    """
    torch.manual_seed(0)
    check_base(folder / "refine", model)
    model = model.to(device)
    before = blocks_before(folder / "refine", model)
    narrow, runs = narrow_is_faster(device), dict[str, Run]()

    nothing = embed_captions(encoder, [""])
    frames = batches.grey.shape[2]

    def begin(task: str) -> tuple[VaceBatch, Tensor]:
        drawn, avoided = batches.draw(batch // 2, task), batches.draw_negative()
        return drawn.to(device), embed_captions(encoder, drawn.captions + [avoided] * (batch // 2))

    def departure(run: Run, task: str) -> Tensor:
        """How far the answers at this point of a run are from what is wanted; the run goes on by them."""
        t, noisy = run.times[:1].expand(len(run.noisy)), run.noisy
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=narrow):
            wanted = wish(before, run, task, nothing, frames)
            velocity = model(twice(noisy), 1000 * twice(t), run.text, vace_context=twice(run.drawn.context))
        # Of the picture itself nothing is asked where it should be nothing.
        hidden = noisy.shape[2] - wanted.shape[2]
        error = velocity.float()[:, :, hidden:] - wanted
        run.go_on(noisy - t[0] * guide(velocity.detach().float(), run.guidance))
        weight = 1 + KNOWN_WEIGHT * run.drawn.known[:, hidden:]
        plain, guided = (
            squared_error(one, visible, motion=MOTION_WEIGHT, coarse=COARSE_WEIGHT)
            for one in (error, guide(error, run.guidance))
        )
        return (twice(weight) * plain).mean() + GUIDED_WEIGHT * (weight * guided).mean()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        task = batches.draw_task()
        if random.random() < RUN_SHARE:
            if task not in runs or runs[task].finished:
                runs[task] = Run.begin(*begin(task))
            run, name = runs[task], f"{task} in a run"
        else:
            run, name = Run.begin(*begin(task)), task
            t = shift_time(draw_times(1), 2.0).to(device)
            noisy = mix(run.drawn.clean, run.noisy, t.expand(len(run.noisy)))
            run = replace(run, noisy=noisy, times=torch.cat([t, torch.zeros_like(t)]))
        loss = departure(run, task)
        figures = dict.fromkeys([*SHARES, *(f"{one} in a run" for one in SHARES)], float("nan"))
        return loss, figures | {name: loss.item()}

    budget = Budget(minutes, learning_rate=4e-4, warmup_steps=50)
    learned = train_blocks(model, loss_of, budget, folder / "refine", watch)
    with torch.no_grad():
        for name, parameter in learned.named_parameters():
            if "vace" in name:
                parameter.copy_(torch.lerp(before.get_parameter(name), parameter, LEARNED_SHARE))
    return learned


def blocks_before(folder: Path, model: WanTransformer) -> WanTransformer:
    """The model as it was when the refinement in `folder` began, which keeps it beside its checkpoint; frozen."""
    kept = folder / "before.safetensors"
    if not (folder / "checkpoint.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(kept, model.state_dict())
    before = deepcopy(model).eval().requires_grad_(False)
    before.load_state_dict(load_file(kept))
    return before


@torch.no_grad()
def wish(before: WanTransformer, run: Run, task: str, nothing: Tensor, frames: int) -> Tensor:
    """The answers that are wanted at a point of a run, (2 B, 16, F or 1 + F, H, W): with captions, then with the negative
    prompt.

    `before`: the model as it was; `nothing`: the empty prompt, (1, L, 4096); `frames`: F, those of the video in latents.
    """
    captions, avoided = run.text.chunk(2)
    nothing, t = nothing.expand_as(captions), run.times[:1].expand(len(captions))
    video = run.noisy[:, :, run.noisy.shape[2] - frames :]  # without the reference's frame
    answers = before(
        torch.cat([video] * 3), 1000 * torch.cat([t] * 3), torch.cat([captions, avoided, nothing])
    )
    told, negated, untold = answers.float().chunk(3)
    if task in SILENT:
        return torch.cat([told, negated])
    texts, context = torch.cat([captions, nothing]), twice(run.drawn.context)
    kept = before(twice(run.noisy), 1000 * twice(t), texts, vace_context=context).float()
    with_caption, without = kept.chunk(2)
    if task != "clip":
        with_caption = turn(kept, torch.cat([told, untold]), float(t[0]))
    # A negative prompt moves an answer as it moves that of the main blocks; what is given stays.
    without = F.pad(negated - untold, (0, 0, 0, 0, without.shape[2] - frames, 0)) + without
    return torch.cat([with_caption, without])


def turn(kept: Tensor, main: Tensor, t: float) -> Tensor:
    """What is wanted beside a reference with captions, (B, 16, 1 + F, H, W).

    Guidance goes on in the direction in which the caption moves an answer. Once the layout stands (t up to DECIDED) that
    of the answers `kept` (2 B, with captions and behind that without) is turned towards that of the main blocks alone,
    `main` (2 B, 16, F, H, W): in what changes from frame to frame beyond it, for a picture that stands still holds the
    camera; in what does not, a little.
    """
    told, untold = kept.chunk(2)
    if t > DECIDED:
        return told
    with_caption, without = main.chunk(2)
    other = (with_caption - without) - (told - untold)[:, :, 1:]
    still = other.mean(2, keepdim=True)
    turned = told.clone()
    turned[:, :, 1:] += MOTION_TURN * (other - still) + STILL_TURN * still
    return turned
