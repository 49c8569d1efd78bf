"""Train the scale model's transformer by flow matching on latents and captions.

At a random time t the model sees (1 - t) clean + t noise and learns the velocity, noise - clean, by its squared
error. One caption in ten is dropped, so that guidance has something to guide away from. The VACE blocks are not
trained here: they start as copies of main blocks that add nothing.

Five things make the few hours of a CPU go further. Mistakes count by how much of them the decoder shows (`visibility`),
more where the subject is than in an evening sky, or where it usually is while noise hides it (`weigh`), and more where
they come and go in time. Half of the samples lean towards another scene, from which the model has to find back
(`gone_wrong`); a reader says how well the traits of the scene, its subject's tilt and hue among them, can be told from
what the model expects (`traits.LatentReader`). And towards the end most steps see the weights as Q3_K will round them
(`Rounding`).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..noise import mix
from ..quantization import QuantizedTensor
from ..sampling.schedules import shift_time
from ..text import TextEncoder
from ..transformer import TransformerShape, WanTransformer, new_transformer, start_vace_blocks
from ..vae import Vae
from .captions import BRIEF_PROMPT, write_caption
from .data import VideoPool
from .latents import LatentPool
from .loop import Budget, narrow_is_faster, train
from .train_text import tokenize
from .traits import LatentReader, trait_parts
from .world import Scene

SHAPE = TransformerShape(dim=256, ffn_dim=1024, layers=6, text_dim=256, vace_blocks=2)
TEXT_LENGTH = 64
DROPPED = 0.1  # share of captions replaced by the empty one
BRIEF_SHARE = 0.12  # of a batch: scenes of the brief's own prompt
SHORTER, SHORTER_SHARE = 3, 0.08  # latent frames of the second size, 9 frames; of the steps
SUBJECT_WEIGHT = 4.0  # what a latent cell full of the subject counts beyond the 1 of every other
SUBJECT_KNOWN, SUBJECT_CLEAR = 0.85, 0.6  # at earlier times none of it counts, at later ones all
PLACE_WEIGHT = 8.0  # at those earlier times: what a cell counts that such a subject always covers
MOTION_WEIGHT = 0.5
TRAITS_WEIGHT = 0.5  # what a nat of the traits' cross-entropy counts
DRIFT = 0.25  # the most that a sample leans towards another
NOISY_SHARE = 0.4  # of a batch: times near pure noise, where sampling decides what stands where
ROUNDED_FROM, ROUNDED_SHARE = 0.6, 0.6  # of the minutes; of the steps after that


def draw_times(count: int, *, noisy: float = 0.0) -> Tensor:
    """Times in (0, 1), dense in the middle and shifted towards noise: shift(sigmoid(normal), 2); one in ten uniform.

    `noisy`: the share of them drawn with a shift of 6 instead, half of which lie above 0.85.
    """
    middle, late = (shift_time(torch.sigmoid(torch.randn(count)), shift) for shift in (2.0, 6.0))
    times = torch.where(torch.rand(count) < 0.1, torch.rand(count), middle)
    return torch.where(torch.rand(count) < noisy, late, times)


def caption_of(scene: Scene, *, brief: bool, dice: random.Random) -> str:
    """A fresh caption of the scene; sometimes none."""
    if dice.random() < DROPPED:
        return ""
    if brief and dice.random() < 0.5:
        return BRIEF_PROMPT
    return write_caption(scene, dice.randrange(10**9))


def weigh(subject: Tensor, place: Tensor, t: Tensor) -> Tensor:
    """What each latent cell counts at times t (B,), (B, F, H, W).

    `subject` is how much of each cell the subject covers, `place` how much such a subject covers on average. The
    first counts only once the noise is thin enough to show where the subject is. Before, this would teach the model
    to paint it at every place it could be: the least weighted error is at the weighted mean. The second knows no more
    than the caption does, so it moves no mean, and may count when the noise still hides everything.
    """
    seen = ((SUBJECT_KNOWN - t) / (SUBJECT_KNOWN - SUBJECT_CLEAR)).clamp(0, 1).view(-1, 1, 1, 1)
    return 1 + seen * SUBJECT_WEIGHT * subject + (1 - seen) * PLACE_WEIGHT * place


@dataclass(frozen=True)
class Batch:
    """One step's samples."""

    clean: Tensor  # (B, 16, F, H, W)
    captions: list[str]
    subject: Tensor  # how much of each cell it covers, 0 to 1: (B, F, H, W)
    place: Tensor  # the mean of that over all scenes of the same subject and relation; 0 without a caption
    traits: Tensor  # which eighth each unnamed trait lies in: (B, traits)


class Batches:
    """Draws from pools whose latents may still be growing."""

    def __init__(self, pools: list[LatentPool], brief: LatentPool):
        self.pools, self.brief, self.dice = pools, brief, random.Random()
        self.subjects = {pool.path: pool.videos.subjects() for pool in (*pools, brief)}
        self.places = mean_places([(pool.videos, self.subjects[pool.path]) for pool in (*pools, brief)])

    def draw(self, count: int) -> Batch:
        """`count` samples; now and then all of them cut to the shorter size, as what is causal can be cut anywhere."""
        frames = SHORTER if self.dice.random() < SHORTER_SHARE else None
        picks = sorted(
            (self.pick() for _ in range(count)), key=lambda pick: pick[0].videos.scene(pick[1]).subject
        )
        scenes = [pool.videos.scene(index) for pool, index in picks]
        captions = [
            caption_of(scene, brief=pool is self.brief, dice=self.dice)
            for scene, (pool, _) in zip(scenes, picks, strict=True)
        ]
        clean = np.stack([pool.read()[index][:, :frames] for pool, index in picks]).astype(np.float32)
        covered = np.stack([self.subjects[pool.path][index][:frames] for pool, index in picks])
        places = [usual_place(self.places, *pair)[:frames] for pair in zip(scenes, captions, strict=True)]
        return Batch(
            torch.from_numpy(clean),
            captions,
            torch.from_numpy(covered).float() / 255,
            torch.stack(places),
            torch.stack([trait_parts(scene) for scene in scenes]),
        )

    def pick(self) -> tuple[LatentPool, int]:
        """A pool and one of its videos."""
        if self.brief.ready and self.dice.random() < BRIEF_SHARE:
            return self.brief, self.dice.randrange(self.brief.ready)
        pool = self.dice.choices(self.pools, [pool.ready for pool in self.pools])[0]
        return pool, self.dice.randrange(pool.ready)


def mean_places(pools: Sequence[tuple[VideoPool, np.ndarray]]) -> dict[tuple[str, str | None], Tensor]:
    """How much of each latent cell a subject covers on average, 0 to 1, (F, H, W), by subject and relation.

    `pools`: videos and what their subjects cover, as `VideoPool.subjects` gives it.
    """
    found: dict[tuple[str, str | None], list[Tensor]] = {}
    for videos, covered in pools:
        for index, cells in enumerate(covered):
            scene = videos.scene(index)
            found.setdefault((scene.subject, scene.relation), []).append(
                torch.from_numpy(cells.astype(np.float32))
            )
    return {words: torch.stack(cells).mean(0) / 255 for words, cells in found.items()}


def usual_place(places: Mapping[tuple[str, str | None], Tensor], scene: Scene, caption: str) -> Tensor:
    """What a caption tells of where its subject is: the mean place of such subjects, (F, H, W); 0 if it is empty."""
    return places[scene.subject, scene.relation] * bool(caption)


@torch.no_grad()
def embed_captions(encoder: TextEncoder, captions: list[str]) -> Tensor:
    """(B, TEXT_LENGTH, dim), zero beyond each caption's true tokens."""
    ids = tokenize(encoder.tokenizer, captions, TEXT_LENGTH).to(encoder.model.shared.weight.device)
    return F.pad(encoder.embed(ids), (0, 0, 0, TEXT_LENGTH - ids.shape[1]))


def flow_matching_loss(
    model: Callable[..., Tensor],
    clean: Tensor,
    text: Tensor,
    t: Tensor,
    visible: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    motion: float = 0.0,
    coarse: float = 0.0,
    noise: Tensor | None = None,
    drift: Tensor | None = None,
    also: Callable[[Tensor], Tensor] | None = None,
    narrow: bool = True,
) -> Tensor:
    """Squared error of the predicted velocity, one value for each sample.

    `visible` (16, 16) turns an error's channels before it is squared, see `visibility`; `weight` is what each latent
    cell counts, (B, F, H, W); `motion` what an error's change from frame to frame counts beside the error itself, and
    `coarse` what its mean over 4 x 4 cells does (a loss at two scales: https://arxiv.org/abs/2301.11093). `noise` is
    drawn if it is not given. `drift` is what the noisy latents have already gone wrong: it is in them, and the velocity
    that is right leads out of it. `also` is added: what the clean latents that the velocity points at cost beside, one
    value for each sample.
    `narrow`: matrices are multiplied in bfloat16, where that is sooner (`narrow_is_faster`).
    """
    noise, share = torch.randn_like(clean) if noise is None else noise, t.view(-1, 1, 1, 1, 1)
    noisy, wanted = mix(clean, noise, t), noise - clean
    if drift is not None:
        noisy = noisy + (1 - share) * drift
        # So that noisy - t * wanted is clean, as without a drift.
        wanted = wanted + (1 - share) / share * drift
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=narrow):
        velocity = model(noisy, 1000 * t, text)
    error = velocity.float() - wanted
    beside = also(clean - share * error) if also else 0.0  # what is pointed at: noisy - t * velocity
    squared = squared_error(error, visible, motion=motion, coarse=coarse)
    return (squared if weight is None else weight * squared).mean(dim=(1, 2, 3)) + beside


def squared_error(
    error: Tensor, visible: Tensor | None = None, *, motion: float = 0.0, coarse: float = 0.0
) -> Tensor:
    """What an error (B, C, F, H, W) counts in each latent cell, (B, F, H, W); the options are `flow_matching_loss`'s."""
    if visible is not None:
        error = torch.einsum("dc,bcfhw->bdfhw", visible, error)
    squared = error.square().mean(1)
    if motion and error.shape[2] > 1:
        squared = squared + motion * _change(error)
    if coarse:
        squared = squared + coarse * _coarse(error)
    return squared


def _change(error: Tensor) -> Tensor:
    """How an error (B, C, F, H, W) changes from frame to frame, squared: half of it counted at either, (B, F, H, W)."""
    change = error.diff(dim=2).square().mean(1) / 2
    return F.pad(change, (0, 0, 0, 0, 0, 1)) + F.pad(change, (0, 0, 0, 0, 1, 0))


def _coarse(error: Tensor) -> Tensor:
    """An error (B, C, F, H, W) averaged over 4 x 4 cells, squared, (B, F, H, W), times 16: noise counts as it did."""
    height, width = error.shape[3:]
    squares = F.avg_pool3d(error, (1, 4, 4), ceil_mode=True).square().mean(1)
    return 16 * squares.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :height, :width]


@torch.no_grad()
def visibility(vae: Vae, latents: Tensor) -> Tensor:
    """A (16, 16) matrix R such that |R e|^2 says what an error e of a latent's channels does: half e itself, half pixels.

    Each channel of `latents` (B, 16, F, H, W) is disturbed in turn by the same noise. The decoder's answers, multiplied
    with each other, are the metric that pixels give the channels (mean diagonal 1), of which R is the root.
    """
    noise = 0.2 * torch.randn(len(latents), 1, *latents.shape[2:], device=latents.device)
    plain, changes = vae.decode(latents).float(), []
    for channel in range(latents.shape[1]):
        disturbed = latents.clone()
        disturbed[:, channel : channel + 1] += noise
        changes.append((vae.decode(disturbed).float() - plain).flatten())
    products = torch.stack(changes) @ torch.stack(changes).T
    half = 0.5 * products / products.diag().mean() + 0.5 * torch.eye(len(products), device=products.device)
    return torch.linalg.cholesky(half).T.contiguous()


def gone_wrong(clean: Tensor, t: Tensor, *, most: float = DRIFT) -> Tensor:
    """Half of the samples lean a little towards the next one's scene, as a run of many steps does by its own mistakes.

    In training the noise hides one scene; in a run what lies under it is soon a little of two, and a model that never
    saw that paints both: a blade that stands here and there. Nothing leans at times below 0.3, where one step could
    not right it. Neighbours in a batch are alike (`Batches.draw`), so that what they share stays.
    """
    size = (len(clean), 1, 1, 1, 1)
    share = most * torch.rand(size, device=clean.device) * (torch.rand(size, device=clean.device) < 0.5)
    share = share * ((t.view(size) - 0.3) / 0.3).clamp(0, 1)
    return share * (clean.roll(1, 0) - clean)


class Rounding:
    """Now and then, for one step, matrices as Q3_K would round them; the gradient goes to the exact ones.

    The straight-through estimator of arXiv:1308.3432. Rounding errors are computed anew every 20 steps.
    """

    def __init__(self, matrices: Sequence[Tensor]):
        self.matrices, self.dice = list(matrices), random.Random()
        self.errors: list[Tensor] = []

    @contextmanager
    def __call__(self, step: int, share: float) -> Iterator[None]:
        """`share`: of the training's minutes that are used."""
        if share < ROUNDED_FROM or self.dice.random() >= ROUNDED_SHARE:
            yield
            return
        if step % 20 == 0 or not self.errors:
            exact = [matrix.detach() for matrix in self.matrices]
            self.errors = [QuantizedTensor.from_weights(m, "Q3_K").dequantize().to(m) - m for m in exact]
        with torch.no_grad():
            torch._foreach_add_(self.matrices, self.errors)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_sub_(self.matrices, self.errors)


def train_transformer(
    folder: Path,
    encoder: TextEncoder,
    vae: Vae,
    batches: Batches,
    *,
    minutes: float,
    reader: LatentReader | None = None,
    device: str = "cpu",
    batch: int = 32,
    compile: bool = False,
) -> WanTransformer:
    """Train for `minutes`; checkpoints and curves go to folder/transformer. With a `reader`, traits missed count too."""
    torch.manual_seed(0)
    model = new_transformer(SHAPE).to(device)
    start_vace_blocks(model)
    visible, narrow = visibility(vae, batches.draw(8).clean.to(device)), narrow_is_faster(device)

    def losses_of(clean: Tensor, text: Tensor, t: Tensor, weight: Tensor, traits: Tensor) -> Tensor:
        options: dict = {"motion": MOTION_WEIGHT, "drift": gone_wrong(clean, t), "narrow": narrow}
        if reader is not None:
            options["also"] = lambda latents: TRAITS_WEIGHT * reader.mistake(latents, traits)
        return flow_matching_loss(model, clean, text, t, visible, weight, **options)

    loss_function = torch.compile(losses_of, dynamic=False) if compile else losses_of

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        drawn, t = batches.draw(batch), draw_times(batch, noisy=NOISY_SHARE).to(device)
        weight = weigh(drawn.subject.to(device), drawn.place.to(device), t)
        text = embed_captions(encoder, drawn.captions)
        losses = loss_function(drawn.clean.to(device), text, t, weight, drawn.traits.to(device))
        late = losses.detach()[t < 0.5]
        return losses.mean(), {"late": late.mean().item() if len(late) else float("nan")}

    main = [p for name, p in model.named_parameters() if "vace" not in name]
    matrices = [p for name, p in model.blocks.named_parameters() if p.ndim == 2]
    budget = Budget(minutes, learning_rate=1.5e-3, warmup_steps=200)
    # On a CPU, plain attention over so few tokens goes back faster than the fused one.
    with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
        return train(
            model,
            loss_of,
            budget=budget,
            folder=folder / "transformer",
            parameters=main,
            orthogonal=matrices,
            around=Rounding(matrices),
        )
