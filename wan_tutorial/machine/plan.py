"""The plan: what a run will take, stage by stage, before anything is downloaded or run.

Stands beside the pipeline. In: a model of the catalogue, a machine (this one, or a card by name) and the settings of a
run. Out: a `Plan`, with memory and minutes of each stage, the choices made and why, and the nearest settings that fit
where these do not. Every number here is PREDICTED, NOT MEASURED, except where a source says so; the formulas stand below
with their sources, to be read and doubted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from wan_tutorial.errors import WanError
from wan_tutorial.machine.weights import GIGABYTE, ModelEntry
from wan_tutorial.sizes import VideoSize

GIB = 2**30
# PyTorch itself: the process with its libraries in RAM (measured: 0.3 GB on a CPU build, more with CUDA's), and the
# CUDA context with the allocator's rounding on a card. [assumed]
PROCESS, CUDA_PROCESS, CUDA_CONTEXT = 300_000_000, 3_000_000_000, 600_000_000
SPARE = 0.95  # of a memory, at most so much is planned with
LONGEST = 180.0  # minutes: what takes longer is said not to fit


@dataclass(frozen=True)
class Card:
    """A machine as the plan sees it. `speed`: what it truly computes in this model, not the number on its box."""

    name: str
    vram: int  # bytes; 0: a CPU
    ram: int  # bytes
    speed: float  # FLOP/s
    bf16: bool
    source: str  # of the speed


CARDS = {
    card.name: card
    for card in (
        Card("T4", round(14.74 * GIB), round(12.7 * GIGABYTE), 14e12, False,
             "public Colab runs: Wan 14B, 512x512x49, 20 steps at cfg 3 in 26 minutes"),
        Card("L4", round(22.2 * GIB), 53 * GIGABYTE, 36e12, True,
             "the same runs on an L4: 2.6 times as fast as on a T4"),
        Card("A100", round(39.4 * GIB), 83 * GIGABYTE, 140e12, True, "assumed: 45 % of the published 312 TFLOP/s"),
        Card("8GB", 8 * GIB - 3 * 10**8, 16 * GIGABYTE, 15e12, True, "assumed: half of an RTX 4060's published figure"),
        Card("12GB", 12 * GIB - 3 * 10**8, 32 * GIGABYTE, 12e12, True, "assumed: half of an RTX 3060's"),
        Card("16GB", 16 * GIB - 3 * 10**8, 32 * GIGABYTE, 22e12, True, "assumed: half of an RTX 4060 Ti's"),
        Card("24GB", 24 * GIB - 3 * 10**8, 64 * GIGABYTE, 80e12, True,
             "assumed: half of an RTX 4090's; ComfyUI's template says 40 minutes at 1280x720x81, 20 steps, which is more"),
        Card("CPU", 0, 16 * GIGABYTE, 1e11, False, "assumed: 100 GFLOP/s in float32, two to four laptop cores"),
    )
}  # fmt: skip


def find_card(name: str) -> Card:
    """A card by name; WanError names the known."""
    for card in CARDS.values():
        if card.name.lower() == name.lower().replace(" ", ""):
            return card
    raise WanError(f"There is no card called {name!r} in the table. Known: {', '.join(CARDS)}.")


# -------------------------------------------------------------------------------------------------- the formulas


def block_parameters(entry: ModelEntry) -> int:
    """Weights in the matrices of the blocks: 8 of dim x dim and 2 of dim x ffn in each, and the VACE blocks' own
    projections. 17,097,031,680 for the 14B model."""
    dim, ffn, layers, hints = entry.shape
    return (layers + hints) * (8 * dim * dim + 2 * dim * ffn) + (hints + 1) * dim * dim


def evaluation_flops(entry: ModelEntry, tokens: int) -> float:
    """One look of the transformer: 2 for each token and weight, and 4 T^2 dim in each block for self-attention.

    773 TFLOP for the 14B model at 15,600 tokens.
    """
    dim, _, layers, hints = entry.shape
    return 2 * tokens * block_parameters(entry) + 4 * tokens**2 * dim * (layers + hints)


def step_memory(entry: ModelEntry, tokens: int, prompts: int, half: bool) -> int:
    """Bytes of activations at the fullest moment of a block, which is its self-attention.

    In float32, whatever the format: the residual stream, the VACE stream, the embedded latent and the hint (4), the
    normed input (1), query and key with their rotated copies and the product between them (5); query, key, value and
    result in the compute format (4). The feed-forward is never the fullest: 2 x ffn is less than 8 x dim, so cutting it
    into chunks would save nothing. tests/test_plan.py holds this against a model whose every tensor is counted.
    """
    dim, *_ = entry.shape
    narrow = 2 if half else 4
    return prompts * tokens * dim * (10 * 4 + 4 * narrow)


def widened_layer(entry: ModelEntry, half: bool) -> int:
    """The largest matrix of a block, unpacked for one product; three times, for the pieces it is unpacked from."""
    dim, ffn, *_ = entry.shape
    return 3 * dim * ffn * (2 if half else 4)


def decode_memory(size: VideoSize, bytes_each: int, tiled: bool) -> int:
    """The VAE's decoder: 7000 numbers for each pixel of a frame, ComfyUI's own estimate (comfy/sd.py), as one latent
    frame is decoded at a time (4,600 to 4,900 counted in the official layers, without the convolutions' workspace);
    tiled, for one tile of 256 x 256; and the finished video in float32."""
    pixels = 256 * 256 if tiled else size.width * size.height
    return 7000 * pixels * bytes_each + size.frames * size.height * size.width * 3 * 4


def decode_flops(size: VideoSize) -> float:
    """8.6 MFLOP for each pixel of each frame, counted by torch in diffusers' AutoencoderKLWan with base_dim 96."""
    return 8.6e6 * size.frames * size.height * size.width


# --------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Run:
    """The settings that cost something."""

    size: VideoSize
    steps: int
    guidance: float
    lora: bool = False
    reference: bool = False

    @property
    def prompts(self) -> int:
        return 1 if self.guidance == 1 else 2

    @property
    def tokens(self) -> int:
        """A reference image is one more latent frame."""
        frames = self.size.latent_frames + self.reference
        return frames * self.size.latent_height * self.size.latent_width // 4


@dataclass(frozen=True)
class Choice:
    """One thing decided for the user, and the reason."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Stage:
    """What one stage will take; predicted."""

    name: str
    ram: int  # bytes that the system cannot take back: without the files' own pages
    vram: int
    minutes: float


@dataclass(frozen=True)
class Plan:
    """A run on a machine, before it runs."""

    entry: ModelEntry
    card: Card
    run: Run
    choices: tuple[Choice, ...]
    stages: tuple[Stage, ...]
    problem: str | None  # why it does not fit
    nearest: Run | None = None  # settings that do

    @property
    def fits(self) -> bool:
        return self.problem is None

    @property
    def minutes(self) -> float:
        return sum(stage.minutes for stage in self.stages)

    def choice(self, what: str) -> str:
        return next(choice.value for choice in self.choices if choice.what == what)

    def __str__(self) -> str:
        run, size = self.run, self.run.size
        extras = [name for name, on in (("a LoRA", run.lora), ("a reference", run.reference)) if on]
        lines = [
            f"{self.entry.name} on {self.card.name}: {size.width}x{size.height}, {size.frames} frames, "
            f"{run.steps} steps, guidance {run.guidance:g}{''.join(f', {extra}' for extra in extras)}; "
            f"{run.tokens:,} tokens",
            "predicted, not measured",
            f"  {'stage':8}{'RAM':>10}{'VRAM':>10}{'minutes':>9}",
        ]
        for stage in self.stages:
            vram = _gigabytes(stage.vram) if self.card.vram else "-"
            lines.append(
                f"  {stage.name:8}{_gigabytes(stage.ram):>10}{vram:>10}{_spoken_minutes(stage.minutes):>9}"
            )
        lines += [f"  {choice.what}: {choice.value}, as {choice.why}" for choice in self.choices]
        lines.append(f"  speed: {self.card.speed / 1e12:g} TFLOP/s; {self.card.source}")
        lines.append("  it fits" if self.fits else f"  it does not fit: {self.problem}")
        if self.nearest:
            near = self.nearest.size
            lines.append(f"  the nearest that does: {near.width}x{near.height}, {near.frames} frames")
        elif not self.fits:
            lines.append("  no size of this model does: a smaller one is wan2.1-vace-1.3b, the smallest mini")
        return "\n".join(lines)


def plan_run(entry: ModelEntry, card: Card, run: Run) -> Plan:
    """Predict a run; where it does not fit, look for the longest and then the largest video that does."""
    plan = _plan(entry, card, run)
    if plan.fits:
        return plan
    for size in _smaller(run.size):
        if _plan(entry, card, replace(run, size=size)).fits:
            return replace(plan, nearest=replace(run, size=size))
    return plan


def _plan(entry: ModelEntry, card: Card, run: Run) -> Plan:
    half = bool(card.vram) and not entry.light
    choices = tuple(_choices(entry, card, run, half))
    picked = {choice.what: choice.value for choice in choices}
    stages = tuple(_stages(entry, card, run, half, picked))
    return Plan(entry, card, run, choices, stages, _problem(card, stages))


def _choices(entry: ModelEntry, card: Card, run: Run, half: bool) -> Iterator[Choice]:
    if not half:
        why = "the model is small" if entry.light else "every CPU computes it fast and exactly"
        yield Choice("number format", "float32", why)
    elif card.bf16:
        yield Choice("number format", "bfloat16", "it is half of float32 with float32's range")
    else:
        yield Choice("number format", "float16", "this card has no bfloat16; checked for overflow at each step, and "
                     "not verified on the real weights")  # fmt: skip
    if entry.light:
        yield Choice("staging", "all parts stay", "they take a few MB")
    else:
        yield Choice(
            "staging", "one part at a time", "text encoder, transformer and VAE never meet in memory"
        )
    fits = card.vram * SPARE > CUDA_CONTEXT + text_memory(entry)
    place = "GPU" if card.vram and fits else "CPU"
    why = (
        "it fits and leaves before the transformer comes"
        if place == "GPU"
        else "the card is too small for it"
    )
    yield Choice("text encoder", place, why if card.vram else "there is no GPU")
    yield Choice("VACE hints", "one at a time", "each is made when its block needs it: eight at once would take "
                 f"{_gigabytes(8 * run.tokens * entry.shape[0] * 2)}")  # fmt: skip
    yield Choice("feed-forward", "whole", "self-attention needs more than it does: chunks would save nothing")
    free = (card.vram or card.ram) * SPARE - (CUDA_CONTEXT if card.vram else PROCESS)
    whole = decode_memory(run.size, 2 if half else 4, False)
    tiled = not entry.light and whole > free
    yield Choice("VAE decode", "tiled" if tiled else "whole frames",
                 f"whole frames would take {_gigabytes(whole)}" if tiled else "the memory is there")  # fmt: skip


def _stages(entry: ModelEntry, card: Card, run: Run, half: bool, picked: dict[str, str]) -> Iterator[Stage]:
    gpu = bool(card.vram)
    process, context = (CUDA_PROCESS, CUDA_CONTEXT) if gpu else (PROCESS, 0)
    text, on_gpu = text_memory(entry), picked["text encoder"] == "GPU"
    speed = card.speed if on_gpu else min(card.speed, CARDS["CPU"].speed)
    text_flops = 2 * 100 * (4.63e9 if not entry.light else 4e6)  # two prompts of about 50 tokens
    spent = text - _file_bytes(entry, "text_encoder")  # a CPU keeps the weights in the file's pages
    reading = _file_bytes(entry, "text_encoder") / 1e9  # a GB/s from a disk [assumed]
    yield Stage("text", process + (0 if on_gpu else spent), context + (text if on_gpu else 0),
                (text_flops / speed + reading) / 60)  # fmt: skip
    weights = _file_bytes(entry, "transformer")
    lora = 320_000_000 if run.lora else 0  # CausVid v1, the largest
    busy = step_memory(entry, run.tokens, run.prompts if entry.light else 1, half) + widened_layer(
        entry, half
    )
    flops = evaluation_flops(entry, run.tokens) * run.prompts * run.steps
    # Without a GPU the packed weights stay in the file's pages; what rests unpacked (embeddings, head) is wide.
    held = weights if gpu else 1_000_000_000 if not entry.light else weights
    yield Stage("steps", process + (0 if gpu else held + lora + busy), context + (held + lora + busy if gpu else 0),
                (flops / card.speed + weights / 1e9) / 60)  # fmt: skip
    each, tiled = (2 if half else 4), picked["VAE decode"] == "tiled"
    vae = _file_bytes(entry, "vae") * (1 if half else 2)
    needs = vae + decode_memory(run.size, each, tiled)
    if entry.light:  # a sixteenth of the channels, 24 where Wan has 96
        needs = vae + decode_memory(run.size, each, tiled) // 4
    cost = decode_flops(run.size) * (1 if not tiled else 4 / 3) / (16 if entry.light else 1)
    yield Stage(
        "decode", process + (0 if gpu else needs), context + (needs if gpu else 0), cost / card.speed / 60
    )


def text_memory(entry: ModelEntry) -> int:
    """The text encoder's file, and the widest of its matrices in float32 with what it is unpacked from."""
    widest = 3 * 4096 * 10240 * 4 if not entry.light else 10**7
    return _file_bytes(entry, "text_encoder") + widest


def _file_bytes(entry: ModelEntry, role: str) -> int:
    file = entry.files[role]
    return file.bytes or {"transformer": 6_000_000, "text_encoder": 4_000_000, "vae": 8_000_000}[role]


def _problem(card: Card, stages: tuple[Stage, ...]) -> str | None:
    for stage in stages:
        for kind, needed, there in (("VRAM", stage.vram, card.vram), ("RAM", stage.ram, card.ram)):
            if needed > there * SPARE:
                return (f"the stage {stage.name} takes {_gigabytes(needed)} of {kind}, and {card.name} has "
                        f"{_gigabytes(there)}")  # fmt: skip
    minutes = sum(stage.minutes for stage in stages)
    return f"it takes about {minutes / 60:.0f} hours on {card.name}" if minutes > LONGEST else None


def _smaller(size: VideoSize) -> Iterator[VideoSize]:
    """Fewer frames first, then fewer pixels in the same shape."""
    for part in (1.0, 0.75, 0.6, 0.5, 0.4):
        width, height = (max(16, round(side * part / 16) * 16) for side in (size.width, size.height))
        frames = size.frames if part < 1 else size.frames - 4
        while frames >= 5:
            yield VideoSize(width, height, frames)
            frames -= 4


def _spoken_minutes(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes >= 0.05 else "< 0.1"


def _gigabytes(count: float) -> str:
    return f"{count / GIGABYTE:.1f} GB"
