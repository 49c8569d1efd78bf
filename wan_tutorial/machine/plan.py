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
from wan_tutorial.sizes import FEW_TOKENS, VideoSize, feed_forward_parts

GIB = 2**30
# PyTorch itself: the process with its libraries in RAM (measured: 0.3 GB on a CPU build, more with CUDA's), and the
# CUDA context with the allocator's rounding on a card. [assumed]
PROCESS, CUDA_PROCESS, CUDA_CONTEXT = 300_000_000, 3_000_000_000, 600_000_000
SPARE = 0.95  # of a memory, at most so much is planned with; the rest is kept back, and said to be
SMALLEST = 192  # pixels of the shorter side of a video offered in place of a far larger one
LONGEST = 180.0  # minutes: what takes longer is said not to fit
# Bytes a second from RAM to a card, unpinned over PCIe 3, and from a disk. [assumed]
COPY_SPEED, DISK_SPEED = 3e9, 1e9
LORA = 320_000_000  # bytes of CausVid v1, the largest
TILE, STRIDE = 256, 192  # pixels of the VAE's tiles, and from the start of one to the next
ON_CARD, IN_RAM, IN_FILE = "on the card", "in RAM", "in the file's pages"  # where the blocks rest


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


def block_parameters(entry: ModelEntry, *, vace: bool = True) -> int:
    """Weights in the matrices of the blocks: 8 of dim x dim and 2 of dim x ffn in each, and with `vace` those of the VACE
    blocks, which have projections of their own. 17,097,031,680 for the 14B model."""
    dim, ffn, layers, hints = entry.shape
    main = layers * (8 * dim * dim + 2 * dim * ffn)
    return main + hints * (8 * dim * dim + 2 * dim * ffn) + (hints + 1) * dim * dim if vace else main


def evaluation_flops(entry: ModelEntry, tokens: int, *, vace: bool = False) -> float:
    """One look of the transformer: 2 for each token and weight, and 4 T^2 dim in each block for self-attention.

    638 TFLOP for the 14B model at 15,600 tokens, 773 with the VACE blocks, which look only where something is given.
    """
    dim, _, layers, hints = entry.shape
    blocks = layers + hints if vace else layers
    return 2 * tokens * block_parameters(entry, vace=vace) + 4 * tokens**2 * dim * blocks


def step_memory(entry: ModelEntry, tokens: int, prompts: int, half: bool) -> int:
    """Bytes of activations at the fullest moment of a step, inside the first VACE block: what all of it holds, and the
    larger of what self-attention and the feed-forward add. 34 for each token and channel of the 14B model in half precision.

    tests/test_plan.py holds this against a model whose every tensor is counted.
    """
    return prompts * tokens * entry.shape[0] * (5 * 4 + round(max(block_memory(entry, tokens, half))))


def block_memory(entry: ModelEntry, tokens: int, half: bool, parts: int | None = None) -> tuple[float, float]:
    """Bytes for each token and channel that self-attention and the feed-forward add to the five tensors that are always
    there in float32: the residual stream, the embedded latent, the VACE stream before and in the block, the normed input.

    Attention: the query in the compute format, and the key in float32, copied, and its product with the rotation; or, where
    the compute format is float32 as well, query, key, value, the result, its heads side by side, and the output. The
    feed-forward: attention's answer, and what goes into the activation and comes out, ffn numbers each, of one part.
    """
    dim, ffn, *_ = entry.shape
    narrow = 2 if half else 4
    parts = feed_forward_parts(dim, ffn, tokens, narrow) if parts is None else parts
    return max(3 * 4 + narrow, 6 * narrow), narrow + 2 * ffn / dim * narrow / parts


def widened_layer(entry: ModelEntry, half: bool) -> int:
    """The largest matrix of a block, unpacked for one product; three times, for the pieces it is unpacked from."""
    dim, ffn, *_ = entry.shape
    return 3 * dim * ffn * (2 if half else 4)


def block_bytes(entry: ModelEntry) -> tuple[int, int]:
    """Bytes of one block of the transformer's file, and of all that is in no block: the embeddings of text and time, in 16
    bits, and of the time's other half, the patches and the head, in 32 (0.15 and 0.53 GB of the 14B Q3_K file)."""
    dim, _, layers, hints = entry.shape
    rest = 2 * (4096 * dim + 7 * dim * dim) + 4 * (dim * dim + 768 * dim)
    return (_file_bytes(entry, "transformer") - rest) // (layers + hints), rest


def decode_memory(size: VideoSize, bytes_each: int, tiled: bool) -> int:
    """The VAE's decoder: 7000 numbers for each pixel of a frame, ComfyUI's own estimate (comfy/sd.py), as one latent
    frame is decoded at a time (4,600 to 4,900 counted in the official layers, without the convolutions' workspace);
    tiled, for one tile of 256 x 256; and the finished video in float32."""
    pixels = 256 * 256 if tiled else size.width * size.height
    return 7000 * pixels * bytes_each + size.frames * size.height * size.width * 3 * 4


def encode_memory(size: VideoSize, bytes_each: int, tiled: bool) -> int:
    """The VAE's encoder, which takes four frames at a time: 5200 numbers for each pixel of a frame (3,600 counted in the
    official layers, and the same share of workspace as in the decoder); and the video."""
    pixels = TILE**2 if tiled else size.width * size.height
    return 5200 * pixels * bytes_each + size.frames * size.height * size.width * 3 * bytes_each


def encode_flops(size: VideoSize, tiled: bool = False) -> float:
    """5.2 MFLOP for each pixel of each frame, counted as the decoder's are."""
    return decode_flops(size, tiled) * 5.2 / 8.6


def decode_flops(size: VideoSize, tiled: bool = False) -> float:
    """8.6 MFLOP for each pixel of each frame, counted by torch in diffusers' AutoencoderKLWan with base_dim 96; tiles
    overlap, so that they decode more pixels than the video has: 1.66 times as many at 832x480."""
    return (
        8.6e6
        * size.frames
        * (_tiled(size.height) * _tiled(size.width) if tiled else size.height * size.width)
    )


def _tiled(side: int) -> int:
    """The pixels of all tiles along one side."""
    return sum(min(TILE, side - start) for start in range(0, side, STRIDE))


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

    def memory(self, stage: Stage) -> int:
        """Bytes of the memory that is short: the card's, or the computer's where there is none."""
        return stage.vram if self.card.vram else stage.ram

    def choice(self, what: str) -> str:
        return next(choice.value for choice in self.choices if choice.what == what)

    def __str__(self) -> str:
        run, size = self.run, self.run.size
        extras = [name for name, on in (("a LoRA", run.lora), ("a reference", run.reference)) if on]
        lines = [
            f"{self.entry.name} on {self.card.name}: {size.width}x{size.height}, {_counted(size.frames, 'frame')}, "
            f"{_counted(run.steps, 'step')}, guidance {run.guidance:g}"
            f"{''.join(f', {extra}' for extra in extras)}; "
            f"{_counted(run.tokens, 'token')}",
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
        kept = f"{1 - SPARE:.0%} of each memory kept back"
        lines.append(f"  it fits, with {kept}" if self.fits else f"  it does not fit: {self.problem}")
        if self.nearest:
            near = self.nearest.size
            lines.append(
                f"  the nearest that does: {near.width}x{near.height}, {_counted(near.frames, 'frame')}"
            )
        elif not self.fits:
            lines.append(f"  no useful size of this model does: {_smaller_model(self.entry)}")
        return "\n".join(lines)


def plan_run(entry: ModelEntry, card: Card, run: Run, *, offload: bool = True) -> Plan:
    """Predict a run; where it does not fit, look for the longest and then the largest video that does.

    `offload`: whether the blocks may rest in RAM where the card cannot hold them all.
    """
    plan = _plan(entry, card, run, offload)
    if plan.fits:
        return plan
    for size in _smaller(run.size):
        if _plan(entry, card, replace(run, size=size), offload).fits:
            return replace(plan, nearest=replace(run, size=size))
    return plan


def _plan(entry: ModelEntry, card: Card, run: Run, offload: bool) -> Plan:
    half = bool(card.vram) and not entry.light
    choices = tuple(_choices(entry, card, run, half, offload))
    picked = {choice.what: choice.value for choice in choices}
    stages = tuple(_stages(entry, card, run, half, picked))
    return Plan(entry, card, run, choices, stages, _problem(card, stages))


def _choices(entry: ModelEntry, card: Card, run: Run, half: bool, offload: bool) -> Iterator[Choice]:
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
    yield _feed_forward(entry, run, half)
    yield _blocks(entry, card, run, half, offload)
    whole = _file_bytes(entry, "vae") * (1 if half else 2) + decode_memory(run.size, 2 if half else 4, False)
    tiled = not entry.light and whole > _left(card)
    yield Choice("VAE decode", "tiled" if tiled else "whole frames",
                 f"whole frames would take {_gigabytes(whole)}" if tiled else "the memory is there")  # fmt: skip


def _feed_forward(entry: ModelEntry, run: Run, half: bool) -> Choice:
    parts = feed_forward_parts(*entry.shape[:2], run.tokens, 2 if half else 4)
    attention, whole = block_memory(entry, run.tokens, half, 1)
    needs = f"{whole:.0f} bytes for each token and channel, and self-attention {attention:.0f}"
    if parts > 1:
        return Choice("feed-forward", f"in {parts} parts", f"whole it would add {needs}")
    if run.tokens <= FEW_TOKENS:
        return Choice(
            "feed-forward", "whole", f"there is room for {_counted(run.tokens, 'token')} either way"
        )
    return Choice("feed-forward", "whole", f"it adds {needs}: parts would save nothing")


def _blocks(entry: ModelEntry, card: Card, run: Run, half: bool, offload: bool) -> Choice:
    """Where the transformer's blocks rest while they do not compute."""
    if not card.vram:
        return Choice("blocks", IN_FILE, "there is no GPU to bring them to")
    whole = sum(_step_parts(entry, run, half, ON_CARD))
    if entry.light or whole <= _left(card):
        return Choice("blocks", ON_CARD, "there is room for all of them")
    if not offload:
        return Choice("blocks", ON_CARD, "asked for")
    slow = (
        "" if _cached(entry, card) else "; the RAM does not hold them all, so the disk is read at each step"
    )
    return Choice("blocks", IN_RAM, f"all of them and the tokens would take {_gigabytes(whole + CUDA_CONTEXT)}, and two at a "
                  f"time do, the next on its way while one computes{slow}")  # fmt: skip


def _left(card: Card) -> float:
    """What of a card, or of the RAM where there is none, a stage may take."""
    return (card.vram or card.ram) * SPARE - (CUDA_CONTEXT if card.vram else PROCESS)


def _step_parts(entry: ModelEntry, run: Run, half: bool, blocks: str) -> tuple[int, int, int]:
    """Bytes of weights, of tokens and of one matrix unpacked, where a step computes."""
    tokens = step_memory(entry, run.tokens, run.prompts if entry.light else 1, half)
    block, rest = block_bytes(entry)
    weights = _file_bytes(entry, "transformer") + (LORA if run.lora else 0)
    if blocks == IN_RAM:
        weights = rest + 2 * block
    elif blocks == IN_FILE and not entry.light:  # what rests unpacked is wide
        weights = 2 * rest + (LORA if run.lora else 0)
    return weights, tokens, widened_layer(entry, half)


def _cached(entry: ModelEntry, card: Card) -> bool:
    """Whether the system can keep the transformer's file in RAM, so that it is read from disk only once."""
    return card.ram * SPARE > CUDA_PROCESS + _file_bytes(entry, "transformer")


def _stages(entry: ModelEntry, card: Card, run: Run, half: bool, picked: dict[str, str]) -> Iterator[Stage]:
    gpu = bool(card.vram)
    process, context = (CUDA_PROCESS, CUDA_CONTEXT) if gpu else (PROCESS, 0)
    text, on_gpu = text_memory(entry), picked["text encoder"] == "GPU"
    speed = card.speed if on_gpu else min(card.speed, CARDS["CPU"].speed)
    text_flops = 2 * 100 * (4.63e9 if not entry.light else 4e6)  # two prompts of about 50 tokens
    spent = text - _file_bytes(entry, "text_encoder")  # a CPU keeps the weights in the file's pages
    reading = _file_bytes(entry, "text_encoder") / DISK_SPEED
    yield Stage("text", process + (0 if on_gpu else spent), context + (text if on_gpu else 0),
                (text_flops / speed + reading) / 60)  # fmt: skip
    vae = _file_bytes(entry, "vae") * (1 if half else 2)
    each, tiled = 2 if half else 4, picked["VAE decode"] == "tiled"
    # A light model's VAE has 24 channels where Wan has 96: a quarter of the numbers, a sixteenth of the work.
    slim, weak = (4, 16) if entry.light else (1, 1)
    if run.reference:  # in RAM lie the grey clip, what is kept of it and what is painted over
        needs = vae + encode_memory(run.size, each, tiled) // slim
        pictures = 3 * run.size.frames * run.size.height * run.size.width * 3 * 4
        cost = encode_flops(replace(run.size, frames=run.size.frames + 4), tiled) / weak
        yield Stage("context", process + pictures + (0 if gpu else needs), context + (needs if gpu else 0),
                    cost / card.speed / 60)  # fmt: skip
    weights = _file_bytes(entry, "transformer")
    needs = sum(_step_parts(entry, run, half, picked["blocks"]))
    look = evaluation_flops(entry, run.tokens, vace=run.reference) / card.speed
    if picked["blocks"] == IN_RAM:  # copied while the blocks before them compute
        look = max(look, weights / (COPY_SPEED if _cached(entry, card) else DISK_SPEED))
    lora = LORA if run.lora and gpu else 0  # its file, from which the card's copy is made
    yield Stage("steps", process + (lora if gpu else needs), context + (needs if gpu else 0),
                (look * run.prompts * run.steps + weights / DISK_SPEED) / 60)  # fmt: skip
    needs = vae + decode_memory(run.size, each, tiled) // slim
    cost = decode_flops(run.size, tiled) / weak
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
        for kind, needed, owner, there in (
            ("VRAM", stage.vram, card.name, card.vram),
            ("RAM", stage.ram, f"the machine with {card.name}" if card.vram else card.name, card.ram),
        ):
            if needed > there * SPARE:
                return (f"the stage {stage.name} takes {_gigabytes(needed)} of {kind}, and {owner} has "
                        f"{_gigabytes(there)}, of which {1 - SPARE:.0%} are kept back")  # fmt: skip
    minutes = sum(stage.minutes for stage in stages)
    return f"it takes about {minutes / 60:.0f} hours on {card.name}" if minutes > LONGEST else None


def _smaller_model(entry: ModelEntry) -> str:
    if entry.light:
        return "it is the smallest, and takes a larger machine"
    return "a smaller one is " + ("mini" if "1.3b" in entry.name else "wan2.1-vace-1.3b, the smallest mini")


def _smaller(size: VideoSize) -> Iterator[VideoSize]:
    """Fewer frames first, then fewer pixels in the same shape; a still picture only where one was asked for."""
    for part in (1.0, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05):
        width, height = (max(16, round(side * part / 16) * 16) for side in (size.width, size.height))
        if part < 0.4 and min(width, height) < SMALLEST:
            return
        frames = size.frames if part < 1 else size.frames - 4
        while frames >= min(5, size.frames):
            yield VideoSize(width, height, frames)
            frames -= 4


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _spoken_minutes(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes >= 0.05 else "< 0.1"


def _gigabytes(count: float) -> str:
    return f"{count / GIGABYTE:.1f} GB"
