"""Train the scale model's VACE blocks, with all the others frozen: what a video model learns to be given.

In the real layout (`reference.py`) these are the tasks: nothing given; a reference picture, which shows another moment and
camera of the scene and often another value of one named attribute, which the caption then names; a first frame; a
masked region. What a caption never names (the shape of a hilt, the tint of the sky) can be learned from the reference
alone; three things help it to be: errors over many cells (`COARSE_WEIGHT`), a reader that says which traits were missed
(`traits.LatentReader`), and samples that have gone a little wrong already (`gone_wrong`).

Guidance multiplies what two answers differ by, their mistakes about what is given among it. So every sample is asked
twice at the same noise, with its caption and without, and what guidance makes of the two counts too. A guided run goes
astray step by step, to where no noisy video of the training set ever is: most of the steps are therefore taken within
the model's own runs (`Run`), as in DAgger (arXiv:1011.0686), and there what was given is asked for again. Where nothing
is given, the blocks are to change nothing: there the main blocks' own answer is what is wanted. Everything given is
encoded once, beside the training latents, by `HintPool.encode`. What remains to be learned of a picture that shows no
thing at all, `refine_vace.py` teaches.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..errors import WanError
from ..machine.weights import MINI
from ..noise import mix
from ..reference import Given, VaceContext, encode_context, mask_channels, read_given
from ..sampling.schedules import shift_time
from ..sizes import VideoSize
from ..text import TextEncoder
from ..transformer import WanTransformer, start_vace_blocks, vace_blocks_are_silent
from ..vae import Vae
from .captions import write_caption
from .data import to_cells, to_pixels
from .judge import names_in
from .latents import LatentPool
from .loop import Budget, Moment, averaged, fast_products, narrow_is_faster, train
from .train_transformer import (
    SUBJECT_CLEAR,
    Rounding,
    draw_times,
    embed_captions,
    flow_matching_loss,
    gone_wrong,
    mean_places,
    squared_error,
    usual_place,
    weigh,
)
from .traits import LatentReader, trait_parts
from .world import CAMERAS, COLOURS, FLAME_SIZES, HELD_OUT, LIGHTS, SETTINGS, Scene, render

CHANGED: dict[str, tuple] = {
    "colour": COLOURS,
    "flame_size": FLAME_SIZES,
    "setting": SETTINGS,
    "embers": (True, False),
    "smoke": (True, False),
    "light": LIGHTS,
}
MOMENTS = (4, 12)  # frames of a render that become references
# A video's references, as `reference_pictures` has them: those that show its scene, and those with one attribute changed.
SAME, OTHER = (0, 1, 4), (2, 3)
REFERENCES = len(SAME) + len(OTHER)
CHANGED_SHARE = 0.65  # of the samples with a reference: those whose caption says something else than it shows
OTHERS_SHARE = 0.3  # of the videos whose reference shows the same setting, those that are not passed over
# Of the steps that each task has; a clip is a part of a video.
SHARES = {"reference": 0.5, "clip": 0.4, "nothing": 0.1}
KNOWN_WEIGHT = 5.0  # what a latent cell that is given counts beyond the 1 of every other: it can be exact
GUIDED_WEIGHT = 0.2  # what all of it counts once more, in what guidance makes of the two answers
GUIDANCE = 4.0  # the most of it
RUN_SHARE = 0.6  # of the steps in which something is given: those within a run of the model's own
RUN_SETTLED = (
    0.3  # the time from which on its video stays what it became: only what is given is still asked for
)
RUN_STEPS = (8, 20)  # the fewest and the most of a run
RUN_GUIDANCE = (2.0, 5.0)  # the least and the most
RUN_ALL_WEIGHT = 0.3  # what the whole error counts there
RUN_KNOWN_WEIGHT = 3.0  # what all that is given counts there
SILENCE_WEIGHT = 10.0  # what a departure from the main blocks' answer counts: the two are near from the start
DRIFT = 0.4  # the most that a sample leans towards another: what is given is believed, not what lies under the noise
TRAITS_WEIGHT = 4.0  # beside a reference: what a nat of its traits' cross-entropy counts, guided
MOTION_WEIGHT = (
    2.0  # a picture stands still: so that what is painted after it does not, motion counts more than it did
)
COARSE_WEIGHT = 1.0  # beside a reference: a sky's tint shows in means over many cells more than in any one


# --- what is given --------------------------------------------------------------------------------------------


def another_look(scene: Scene, seed: int, *, change: bool) -> tuple[Scene, str | None]:
    """The same things from another camera; with `change` one named attribute differs, and its name is returned."""
    dice = random.Random(f"another look {seed}")
    other = replace(
        scene, defect=None, camera=dice.choice([name for name in CAMERAS if name != scene.camera])
    )
    while change:
        name = dice.choice(list(CHANGED))
        value = dice.choice([value for value in CHANGED[name] if value != getattr(scene, name)])
        changed = replace(other, **{name: value})
        if changed.combination not in HELD_OUT:
            return changed, name
    return other, None


def draw_region(seed: int, size: VideoSize) -> Tensor:
    """A box or an ellipse about where the fire is, 1 inside: (height, width)."""
    dice = random.Random(f"region {seed}")
    y = torch.linspace(-1, 1, size.height)[:, None] - dice.uniform(-0.3, 0.5)
    x = torch.linspace(-1, 1, size.width) - dice.uniform(-0.4, 0.4)
    up, across = (y / dice.uniform(0.3, 0.8)).abs(), (x / dice.uniform(0.3, 0.8)).abs()
    inside = up.square() + across.square() if dice.random() < 0.5 else torch.maximum(up, across)
    return (inside < 1).float()


def reference_pictures(scenes: Sequence[Scene], seeds: Sequence[int], size: VideoSize) -> Tensor:
    """The references of each scene, (N, REFERENCES, height, width, 3): two moments, two changed, one cut to a shape."""
    looks = [
        [another_look(scene, seed, change=change)[0] for scene, seed in zip(scenes, seeds, strict=True)]
        for change in (False, True)
    ]
    videos = [render(group, height=size.height, width=size.width, frames=size.frames) for group in looks]
    last = size.frames - 1
    moments = [video[:, min(moment, last)] for video in videos for moment in MOMENTS]
    shaped = []
    for picture, seed in zip(moments[0], seeds, strict=True):
        dice = random.Random(f"shape {seed}")
        sides = [round(dice.uniform(0.6, 0.85) * side) for side in picture.shape[:2]]
        height, width = (sides[0], picture.shape[1]) if dice.random() < 0.5 else (picture.shape[0], sides[1])
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        cut = picture[top : top + height, left : left + width]
        shaped.append(read_given(size, reference=cut, fit=dice.choice(("pad", "crop"))).references[0])
    return torch.stack([*moments, torch.stack(shaped)], dim=1)


@dataclass
class HintPool:
    """What may be given of a LatentPool's videos, as latents, in the same order; may grow while training runs.

    Of each video: its references, and one clip: of every other video the first frame before grey, of the rest what lies
    outside a masked region, (16, REFERENCES + F, H, W) float16.
    """

    latents: LatentPool

    @property
    def path(self) -> Path:
        return self.latents.videos.path.with_suffix(".hints.f16")

    @property
    def size(self) -> VideoSize:
        pool = self.latents.videos
        return VideoSize(pool.width, pool.height, pool.frames)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        channels, frames, height, width = self.latents.shape
        return channels, REFERENCES + frames, height, width

    @property
    def ready(self) -> int:
        """How many videos have both latents and hints on disk."""
        done = self.path.stat().st_size // (2 * int(np.prod(self.shape))) if self.path.exists() else 0
        return min(done, self.latents.ready)

    def read(self, index: int) -> list[Tensor]:
        """One video's references (16, REFERENCES, H, W) and its clip (16, F, H, W), float32."""
        rows = np.memmap(self.path, mode="r", dtype=np.float16, shape=(self.ready, *self.shape))
        frames = self.latents.shape[1]
        hints = torch.from_numpy(rows[index].astype(np.float32))
        return list(hints.split([REFERENCES, frames], dim=1))

    def mask(self, index: int) -> Tensor:
        """What one video's clip leaves to be painted, 1 there: (frames, height, width)."""
        if index % 2:
            region = draw_region(self.latents.videos.first_seed + index, self.size)
            return region.expand(self.size.frames, -1, -1)
        later = torch.ones(self.size.frames, self.size.height, self.size.width)
        later[0] = 0
        return later

    @torch.no_grad()
    def encode(self, vae: Vae, *, batch: int = 8) -> None:
        """Render and encode what is not yet on disk."""
        pool, itemsize = self.latents.videos, 2 * int(np.prod(self.shape))
        done = self.path.stat().st_size // itemsize if self.path.exists() else 0
        videos = pool.videos()
        with self.path.open("ab") as file:
            file.truncate(done * itemsize)
            for start in tqdm(range(done, pool.count, batch), desc=f"encode {self.path.name}"):
                indices = range(start, min(start + batch, pool.count))
                scenes = [pool.scene(index) for index in indices]
                seeds = [pool.first_seed + index for index in indices]
                pictures = reference_pictures(scenes, seeds, self.size).flatten(0, 1)  # (N R, h, w, 3)
                clip = to_pixels(videos[start : start + len(scenes)])  # (N, 3, f, h, w)
                mask = torch.stack([self.mask(index) for index in indices])[:, None]
                with fast_products(vae.mean.device):
                    seen = vae.encode(pictures.movedim(-1, 1)[:, :, None])  # (N R, 16, 1, H, W)
                    clips = vae.encode(clip * (1 - mask))
                seen = seen[:, :, 0].unflatten(0, (len(scenes), -1)).transpose(1, 2)  # (N, 16, R, H, W)
                file.write(torch.cat([seen, clips], dim=2).to("cpu", torch.float16).numpy().tobytes())
                file.flush()

    def check(self) -> None:
        """WanError where latents and hints come from different VAEs: a first frame's latent is its video's first."""
        own = torch.from_numpy(self.latents.read()[0, :, 0].astype(np.float32))
        if (own - self.read(0)[1][:, 0]).abs().mean() > 0.1:
            raise WanError(
                f"{self.path} and the latents beside it come from two VAEs: delete it, run the stage hints."
            )


# --- batches -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VaceBatch:
    """One step's samples: clean latents with their references in front, what is given, and captions, none of them empty."""

    clean: Tensor  # (B, 16, R + F, H, W)
    context: Tensor  # (B, 96, R + F, H, W)
    captions: list[str]
    subject: Tensor  # how much of each cell it covers, 0 to 1; 0 in the references: (B, R + F, H, W)
    place: Tensor  # the mean of that over scenes of the same subject and relation
    known: Tensor  # how much of each cell the clip gives, 0 to 1; 0 in the references: (B, R + F, H, W)
    traits: Tensor  # which eighth each unnamed trait lies in: (B, traits)

    def to(self, device: str) -> "VaceBatch":
        parts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "captions"}
        return replace(self, **{name: part.to(device) for name, part in parts.items()})


# One sample: clean latents (16, R + F, H, W), what is given, a caption, and how much of each cell is given (F, H, W).
Drawn: TypeAlias = tuple[Tensor, VaceContext, str, Tensor]


class VaceBatches:
    """Draws from pools whose hints may still be growing; `grey` is the latent of a grey clip, (1, 16, F, H, W)."""

    def __init__(self, pools: Sequence[HintPool], grey: Tensor):
        self.pools, self.grey, self.dice = [pool for pool in pools if pool.ready], grey.cpu(), random.Random()
        if not self.pools:
            raise WanError(
                f"{pools[0].path} holds no hints yet: run the stage hints, after the stage latents."
            )
        for pool in self.pools:
            pool.check()
        self.subjects = [pool.latents.videos.subjects() for pool in self.pools]
        videos = [pool.latents.videos for pool in self.pools]
        self.places = mean_places(list(zip(videos, self.subjects, strict=True)))

    def draw_task(self) -> str:
        return self.dice.choices(list(SHARES), list(SHARES.values()))[0]

    def draw(self, count: int, task: str) -> VaceBatch:
        picks = [self.pick() for _ in range(count)]
        draw = getattr(self, f"draw_{task}")
        clean, contexts, captions, known = zip(
            *(draw(self.pools[number], index) for number, index in picks), strict=True
        )
        covered = np.stack([self.subjects[number][index] for number, index in picks])
        scenes = [self.pools[number].latents.videos.scene(index) for number, index in picks]
        places = [usual_place(self.places, *pair) for pair in zip(scenes, captions, strict=True)]
        front = (0, 0, 0, 0, clean[0].shape[1] - covered.shape[1], 0)
        return VaceBatch(
            torch.stack(clean),
            torch.cat([context.tensor for context in contexts]),
            list(captions),
            F.pad(torch.from_numpy(covered).float() / 255, front),
            F.pad(torch.stack(places), front),
            F.pad(torch.stack(known), front),
            torch.stack([trait_parts(scene) for scene in scenes]),
        )

    def pick(self) -> tuple[int, int]:
        """A pool's number and a video's; of those whose changed reference shows another setting, more than the rest."""
        ready = [pool.ready for pool in self.pools]
        while True:
            (number,) = self.dice.choices(range(len(ready)), ready)
            index, videos = self.dice.randrange(ready[number]), self.pools[number].latents.videos
            _, changed = another_look(videos.scene(index), videos.first_seed + index, change=True)
            if changed == "setting" or self.dice.random() < OTHERS_SHARE:
                return number, index

    def draw_reference(self, pool: HintPool, index: int) -> Drawn:
        """A reference and nothing else; where it shows another attribute, the caption names the true one."""
        scene, seed = pool.latents.videos.scene(index), pool.latents.videos.first_seed + index
        caption, chosen = write_caption(scene, self.dice.randrange(10**9)), self.dice.choice(SAME)
        if self.dice.random() < CHANGED_SHARE:
            changed_caption, named = caption_naming(
                scene, another_look(scene, seed, change=True)[1], self.dice
            )
            if named:
                caption, chosen = changed_caption, self.dice.choice(OTHER)
        reference = pool.read(index)[0][:, chosen : chosen + 1]
        clean = torch.cat([reference, latent_of(pool, index)], dim=1)
        return clean, self.context(reference[None]), caption, torch.zeros(self.grey.shape[2:])

    def draw_clip(self, pool: HintPool, index: int) -> Drawn:
        """What the pool has of this video: its first frame, or the surroundings of a region."""
        clean, context, caption, _ = self.draw_nothing(pool, index)
        _, clip = pool.read(index)
        mask = pool.mask(index)
        # What was in a region is hidden: shown as the reactive part, it would be the answer itself.
        context = replace(context, inactive=clip[None], mask=mask_channels(mask))
        return clean, context, caption, 1 - to_cells(mask[None])[0]

    def draw_nothing(self, pool: HintPool, index: int) -> Drawn:
        """The video and its caption alone."""
        clean = latent_of(pool, index)
        caption = write_caption(pool.latents.videos.scene(index), self.dice.randrange(10**9))
        return clean, self.context(clean[None, :, :0]), caption, torch.zeros(clean.shape[1:])

    def context(self, references: Tensor) -> VaceContext:
        """References (1, 16, R, H, W) before a video of which nothing is given."""
        mask = torch.ones(1, 64, *self.grey.shape[2:])
        return VaceContext(references, self.grey, self.grey, mask)


def latent_of(pool: HintPool, index: int) -> Tensor:
    return torch.from_numpy(pool.latents.read()[index].astype(np.float32))  # (16, F, H, W)


def caption_naming(scene: Scene, attribute: str | None, dice: random.Random) -> tuple[str, bool]:
    """A caption that names this attribute, and whether one was found."""
    for _ in range(12):
        caption = write_caption(scene, dice.randrange(10**9))
        if attribute in names_in(caption, scene):
            return caption, True
    return caption, False


# --- training ----------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A batch on its way from noise to video, under guidance: each training step that it has takes it one step further."""

    noisy: Tensor  # (B, 16, R + F, H, W)
    drawn: VaceBatch  # the clean video that it should come to, and what is given
    text: Tensor  # of the captions, then as many of no caption: (2 B, L, 4096)
    guidance: Tensor  # one for each sample, (B,)
    times: Tensor  # those still to come, down to 0

    @classmethod
    def begin(cls, drawn: VaceBatch, text: Tensor) -> "Run":
        """From noise alone, as a video is painted: nothing of the clean one shows."""
        (least, most), size, device = RUN_GUIDANCE, len(drawn.clean), drawn.clean.device
        guidance = least + (most - least) * torch.rand(size, device=device)
        times = shift_time(torch.linspace(1, 0, 1 + random.randint(*RUN_STEPS)), MINI.shift)
        return cls(torch.randn_like(drawn.clean), drawn, text, guidance, times.to(device))

    @property
    def finished(self) -> bool:
        return len(self.times) < 2

    def noise(self) -> Tensor:
        """The noise that would make these latents of the clean video: what a step that leads to it leads away from."""
        return (self.noisy - (1 - self.times[0]) * self.drawn.clean) / self.times[0]

    def go_on(self, expected: Tensor) -> None:
        """One Euler step towards the clean latents that the guided model expects, (B, 16, R + F, H, W)."""
        t, later = self.times[:2]
        self.noisy, self.times = torch.lerp(expected, self.noisy, later / t), self.times[1:]


def grey_latent(vae: Vae, size: VideoSize) -> Tensor:
    """The latent of a clip in which nothing is given: (1, 16, F, H, W)."""
    given: Given = read_given(size)
    return encode_context(vae, given).inactive


def train_vace(
    folder: Path,
    model: WanTransformer,
    encoder: TextEncoder,
    batches: VaceBatches,
    *,
    minutes: float,
    visible: Tensor | None = None,
    reader: LatentReader | None = None,
    device: str = "cpu",
    batch: int = 8,
    compile: bool = False,
    watch: Callable[[Moment], bool] | None = None,
) -> WanTransformer:
    """Train the VACE blocks of a finished transformer for `minutes`; checkpoints and curves go to folder/vace.

    All other weights stay bit for bit as they are. Mistakes count, and VACE's matrices are rounded now and then, as in
    `train_transformer`, whose `visibility` may be given as `visible`; with a `reader` the traits that a reference shows
    and the painted scene has not count too. Blocks that say nothing yet begin as copies of their main blocks. `batch`
    counts answers: half as many samples, each asked twice.
    """
    torch.manual_seed(0)
    check_base(folder / "vace", model)
    if vace_blocks_are_silent(model):
        start_vace_blocks(model)
    model = model.to(device)
    narrow = narrow_is_faster(device)

    def guided_cost(
        expected: Tensor, clean: Tensor, t: Tensor, known: Tensor, weight: float, traits: Tensor | None
    ) -> Tensor:
        """What guidance makes of two answers, (B, 16, R + F, H, W): its mistakes in what is known, and its traits."""
        squared = squared_error((expected - clean) / t.view(-1, 1, 1, 1, 1), visible)
        cells = known.sum((1, 2, 3)).clamp(min=1)  # a first frame's count as much as the many around a region
        cost = weight * (known * squared).sum((1, 2, 3)) / cells
        if traits is not None and reader is not None:
            cost = cost + TRAITS_WEIGHT * reader.mistake(expected[:, :, 1:], traits)
        return cost

    def losses_of(
        noise: Tensor,
        clean: Tensor,
        drift: Tensor,
        context: Tensor,
        text: Tensor,
        t: Tensor,
        guidance: Tensor,
        weight: Tensor,
        known: Tensor,
        known_weight: float,
        traits: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """What each answer costs, (2 B,), and the clean latents that guidance makes of the two, (B, 16, R + F, H, W)."""
        expected: list[Tensor] = []

        def also(latents: Tensor) -> Tensor:
            guided = guide(latents, guidance)
            expected.append(guided.detach())
            return twice(guided_cost(guided, clean, t, known, known_weight, traits))

        costs = flow_matching_loss(
            partial(model, vace_context=twice(context)),
            twice(clean),
            text,
            twice(t),
            visible,
            weight,
            motion=MOTION_WEIGHT,
            coarse=0.0 if traits is None else COARSE_WEIGHT,
            noise=twice(noise),
            drift=twice(drift),
            also=also,
            narrow=narrow,
        )
        return costs, expected[0]

    def silence_of(clean: Tensor, context: Tensor, text: Tensor, t: Tensor) -> Tensor:
        asked = partial(model, vace_context=context)
        return SILENCE_WEIGHT * departure(model, asked, clean, text, t, visible, narrow)

    # A graph for each task.
    loss_function = torch.compile(losses_of, dynamic=False) if compile else losses_of
    silence_function = torch.compile(silence_of, dynamic=False) if compile else silence_of
    runs: dict[str, Run] = {}

    def begin(task: str) -> tuple[VaceBatch, Tensor]:
        drawn = batches.draw(batch // 2, task)
        return drawn.to(device), embed_captions(encoder, drawn.captions + [""] * (batch // 2))

    def weight_of(drawn: VaceBatch, t: Tensor, *, shown: bool) -> Tensor:
        """What each cell of the answers with a caption and of those without counts, (2 B, R + F, H, W)."""
        # By a reference: no noise hides the subject then.
        clear = t.clamp(max=SUBJECT_CLEAR) if shown else t
        # Without a caption nothing tells where the subject is.
        places = drawn.place, torch.zeros_like(drawn.place)
        weight = torch.cat([weigh(drawn.subject, place, clear) for place in places])
        return weight + KNOWN_WEIGHT * twice(drawn.known)

    def loss_of_run(task: str) -> Tensor:
        if task not in runs or runs[task].finished:
            runs[task] = Run.begin(*begin(task))
        run, drawn, shown = runs[task], runs[task].drawn, task == "reference"
        t, known = run.times[:1].expand(batch // 2), drawn.known.clone()
        if shown:
            known[:, 0] = 1  # a reference is part of what is denoised
        still = ((t - RUN_SETTLED) / RUN_SETTLED).clamp(0, 1).view(-1, 1, 1, 1)
        weight = RUN_ALL_WEIGHT * twice(still) * weight_of(drawn, t, shown=shown)
        traits = drawn.traits if shown else None
        given = drawn.context, run.text, t, run.guidance, weight, known, RUN_KNOWN_WEIGHT, traits
        losses, expected = loss_function(run.noise(), drawn.clean, torch.zeros_like(drawn.clean), *given)
        run.go_on(expected)
        return losses.mean()

    def loss_of_samples(task: str) -> Tensor:
        """Of noisy videos, some of them gone a little wrong."""
        # Nearer to noise than the main blocks were trained: what a picture shows matters before the layout stands.
        (drawn, text), t = begin(task), shift_time(draw_times(batch // 2), 2.0).to(device)
        clean, shown = drawn.clean, task == "reference"
        if task == "nothing":
            return silence_function(twice(clean), twice(drawn.context), text, twice(t)).mean()
        front = int(shown)  # a reference does not lean
        drift = F.pad(gone_wrong(clean[:, :, front:], t, most=DRIFT), (0, 0, 0, 0, front, 0))
        guidance = 1 + (GUIDANCE - 1) * (torch.rand_like(t) if shown else torch.ones_like(t))
        weight, traits = weight_of(drawn, t, shown=shown), drawn.traits if shown else None
        given = drawn.context, text, t, guidance, weight, drawn.known, GUIDED_WEIGHT, traits
        return loss_function(torch.randn_like(clean), clean, drift, *given)[0].mean()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        task = batches.draw_task()
        inside = task != "nothing" and random.random() < RUN_SHARE
        loss = loss_of_run(task) if inside else loss_of_samples(task)
        within = [f"{name} in a run" for name in SHARES if name != "nothing"]
        figures = dict.fromkeys([*SHARES, *within], float("nan"))
        return loss, figures | {f"{task} in a run" if inside else task: loss.item()}

    budget = Budget(minutes, learning_rate=1e-3, warmup_steps=50)
    return train_blocks(model, loss_of, budget, folder / "vace", watch)


def train_blocks(
    model: WanTransformer,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    budget: Budget,
    folder: Path,
    watch: Callable[[Moment], bool] | None,
) -> WanTransformer:
    """`loop.train` for all that belongs to VACE and nothing else."""
    trained = {name: p for name, p in model.named_parameters() if "vace" in name}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    matrices = [p for name, p in trained.items() if p.ndim == 2 and "vace_blocks" in name]
    # On a CPU, plain attention over so few tokens goes back faster than the fused one.
    on_cpu = matrices[0].device.type == "cpu"
    with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
        return train(
            model,
            loss_of,
            budget=budget,
            folder=folder,
            parameters=trained.values(),
            orthogonal=matrices,
            watch=watch,
            around=Rounding(matrices),
        )


def departure(
    model: WanTransformer,
    asked: Callable[..., Tensor],
    clean: Tensor,
    text: Tensor,
    t: Tensor,
    visible: Tensor | None,
    narrow: bool,
) -> Tensor:
    """How far the answer with VACE is from that of the main blocks alone: squared, one value for each sample.

    What is wanted holds no noise and no other scene: only what the VACE blocks say is left to be wrong.
    """
    noisy = mix(clean, torch.randn_like(clean), t)
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=narrow):
        with torch.no_grad():
            wanted = model(noisy, 1000 * t, text)
        error = asked(noisy, 1000 * t, text).float() - wanted.float()
    return squared_error(error, visible, motion=MOTION_WEIGHT).mean((1, 2, 3))


def guide(answers: Tensor, guidance: Tensor) -> Tensor:
    """What guidance (B,) makes of the answers with their captions and, behind them, those without, (2 B, ...)."""
    told, untold = answers.chunk(2)
    return torch.lerp(untold, told, guidance.view(-1, 1, 1, 1, 1))


def twice(batch: Tensor) -> Tensor:
    """The samples (B, ...) and the same ones again, (2 B, ...)."""
    return torch.cat([batch, batch])


def check_base(folder: Path, model: WanTransformer) -> None:
    """WanError where an interrupted training stood on another base."""
    if (folder / "checkpoint.safetensors").exists():
        kept = averaged(folder)
        base = {name: tensor for name, tensor in model.state_dict().items() if "vace" not in name}
        if any(not torch.equal(tensor.cpu(), kept[name]) for name, tensor in base.items()):
            raise WanError(
                f"{folder} holds VACE blocks of another transformer: delete it to begin anew, or bring back the one it "
                "was trained with."
            )
