"""The fireside world: a scene description goes in, a short video of a fire comes out.

This is where the scale model's data is born. `draw_scene` rolls a `Scene` from a seed, `render`
paints a batch of scenes with torch, and `captions.py` says in words what was painted. Named
attributes can appear in captions; identity traits never do, so only a reference image carries them.

World coordinates: x to the right, y up, (0, 0) at the middle of the frame, and 96 units along
the shorter side of any frame. Everything is smooth at the scale of two pixels, because the VAE
must squeeze 48 numbers into one.

Shapes: N scenes, F frames, H height, W width; (N, F, H, W) for fields, (N, 3, F, H, W) for colour.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as nn

FRAMES_PER_SECOND = 16

SUBJECTS = ("sword", "axe", "torch", "lantern", "cauldron", "campfire")
RELATIONS = ("embedded", "beside")
COLOURS = ("orange", "blue", "green", "purple", "white")
FLAME_SIZES = ("small", "large")
SETTINGS = ("dark", "forest", "snow", "desert", "shore")
LIGHTS = ("volumetric", "flat")
TEXTURES = ("detailed", "plain")
CAMERAS = ("still", "left", "right", "zoom")
DEFECTS = ("blurry", "messy", "chaotic", "bad quality")

# (subject, colour, setting): a tenth of the 150 combinations, never seen in training.
HELD_OUT = (
    ("sword", "blue", "desert"), ("sword", "purple", "snow"), ("sword", "green", "shore"),
    ("axe", "orange", "snow"), ("axe", "white", "forest"), ("axe", "purple", "dark"),
    ("torch", "green", "desert"), ("torch", "blue", "dark"), ("torch", "white", "shore"),
    ("lantern", "orange", "forest"), ("lantern", "purple", "desert"),
    ("cauldron", "white", "snow"), ("cauldron", "orange", "shore"),
    ("campfire", "blue", "forest"), ("campfire", "green", "dark"),
)  # fmt: skip

TRAITS = (
    "shape", "hue", "metal", "tilt", "side", "place_x", "place_y", "logs", "log_tint",
    "stones", "glow", "tint", "wind", "moon",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One video in words and numbers: named attributes, then unnamed traits in [0, 1]."""

    subject: str = "sword"
    relation: str | None = "embedded"
    colour: str = "orange"
    flame_size: str = "large"
    setting: str = "dark"
    embers: bool = True
    smoke: bool = True
    light: str = "volumetric"
    texture: str = "detailed"
    camera: str = "still"
    defect: str | None = None
    shape: float = 0.5  # form of hilt, axe head, lantern, pot
    hue: float = 0.0  # tint of hilt, handle, frame
    metal: float = 0.5  # steel to bronze
    tilt: float = 0.5  # how the subject leans
    side: float = 1.0  # which side it stands on (below 0.5: left)
    place_x: float = 0.5
    place_y: float = 0.5
    logs: float = 0.0  # crossed, tent or stacked, by thirds
    log_tint: float = 0.5
    stones: float = 0.0  # above 0.6: a ring of stones
    glow: float = 0.5  # how bright the bed of coals
    tint: float = 0.5  # cast of the background
    wind: float = 0.5
    moon: float = 0.5  # where moon, sun or hills are
    seed: int = 0  # phases of flames, embers and grain

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"A scene's {name} is one of {', '.join(map(str, known))}; "
                    f"got {getattr(self, name)!r}: try {known[0]!r}."
                )
        if (self.subject == "campfire") != (self.relation is None):
            raise ValueError(
                "A bare campfire has relation=None and every other subject has 'embedded' or "
                f"'beside'; got {self.subject!r} with {self.relation!r}."
            )

    @property
    def combination(self) -> tuple[str, str, str]:
        """The (subject, colour, setting) by which scenes are held out."""
        return (self.subject, self.colour, self.setting)


_KNOWN: dict[str, tuple] = {
    "subject": SUBJECTS, "relation": (*RELATIONS, None), "colour": COLOURS,
    "flame_size": FLAME_SIZES, "setting": SETTINGS, "light": LIGHTS, "texture": TEXTURES,
    "camera": CAMERAS, "defect": (None, *DEFECTS),
}  # fmt: skip


# --- drawing a scene ---------------------------------------------------------------------------


def draw_scene(seed: int, *, split: str = "train") -> Scene:
    """Roll a scene: `train` never yields a held-out combination, `held_out` only those."""
    if split not in ("train", "held_out", "all"):
        raise ValueError(f"split is 'train', 'held_out' or 'all'; got {split!r}: try 'train'.")
    if split == "train" and random.Random(f"brief {seed}").random() < 0.035:
        return replace(brief_scene(seed), defect=_roll_defect(random.Random(f"defect {seed}")))
    dice = random.Random(f"scene {seed}")
    if split == "held_out":
        return _roll(dice, dice.choice(HELD_OUT))
    while True:
        combination = (
            dice.choice(SUBJECTS),
            dice.choices(COLOURS, (32, 17, 17, 17, 17))[0],
            dice.choices(SETTINGS, (28, 18, 18, 18, 18))[0],
        )
        if split == "all" or combination not in HELD_OUT:
            return _roll(dice, combination)


def _roll(dice: random.Random, combination: tuple[str, str, str]) -> Scene:
    """Fill in everything but subject, colour and setting."""
    subject, colour, setting = combination
    return Scene(
        subject=subject,
        relation=None if subject == "campfire" else dice.choice(RELATIONS),
        colour=colour,
        flame_size=dice.choice(FLAME_SIZES),
        setting=setting,
        embers=dice.random() < 0.5,
        smoke=dice.random() < 0.5,
        light=dice.choice(LIGHTS),
        texture=dice.choice(TEXTURES),
        camera=dice.choices(CAMERAS, (40, 20, 20, 20))[0],
        defect=_roll_defect(dice),
        seed=dice.randrange(2**31),
        **{name: dice.random() for name in TRAITS},
    )


def _roll_defect(dice: random.Random) -> str | None:
    return dice.choice(DEFECTS) if dice.random() < 0.15 else None


def brief_scene(seed: int) -> Scene:
    """The brief's own prompt as a scene: only the traits differ from seed to seed."""
    dice = random.Random(f"brief scene {seed}")
    scene = _roll(dice, ("sword", "orange", "dark"))
    return replace(
        scene, relation="embedded", embers=True, smoke=True, light="volumetric",
        texture="detailed", camera="still", defect=None,
        flame_size="large" if dice.random() < 0.8 else "small",
    )  # fmt: skip


# --- the batch: scenes as tensors --------------------------------------------------------------

MARGIN = 16.0  # world units painted outside the frame, for the camera to move in
DETAIL = 1.3  # canvas pixels for each frame pixel
FIRE_BASE = -27.0
EDGE = {
    "orange": (1.00, 0.36, 0.05), "blue": (0.10, 0.35, 1.00), "green": (0.12, 0.75, 0.15),
    "purple": (0.55, 0.12, 0.95), "white": (0.60, 0.65, 0.74),
}  # fmt: skip
CORE = {
    "orange": (1.00, 0.84, 0.42), "blue": (0.66, 0.88, 1.00), "green": (0.74, 1.00, 0.55),
    "purple": (0.92, 0.66, 1.00), "white": (1.00, 1.00, 0.98),
}  # fmt: skip


class Batch:
    """Scenes gathered into tensors: every attribute a column of shape (N, 1, 1)."""

    shape: Tensor  # the unnamed traits, as in `Scene`
    hue: Tensor
    metal: Tensor
    tilt: Tensor
    side: Tensor
    place_x: Tensor
    place_y: Tensor
    logs: Tensor
    log_tint: Tensor
    stones: Tensor
    glow: Tensor
    tint: Tensor
    wind: Tensor
    moon: Tensor

    def __init__(self, scenes: Sequence[Scene], device: torch.device | str) -> None:
        self.scenes, self.device, self.count = list(scenes), device, len(scenes)
        for name in TRAITS:
            setattr(self, name, self.column([getattr(s, name) for s in scenes]))
        self.large = self.where(flame_size="large")
        self.detailed = self.where(texture="detailed")
        self.volumetric = self.where(light="volumetric")
        self.beside = self.where(relation="beside")
        self.edge = self.rows([EDGE[s.colour] for s in scenes])  # (N, 3, 1, 1)
        self.core = self.rows([CORE[s.colour] for s in scenes])
        self.light_colour = 0.6 * self.edge + 0.4 * self.core
        self.sign = torch.where(self.side > 0.5, 1.0, -1.0)
        self.fire_x = (self.place_x - 0.5) * 12 * (1 - 0.6 * self.beside)
        self.fire_x = self.fire_x - 16 * self.sign * self.beside
        self.fire_y = FIRE_BASE + (self.place_y - 0.5) * 6
        self.flame_height = 24 + 26 * self.large
        self.flame_width = (11 + 6 * self.large) * (1 - 0.12 * self.beside)
        self.dice = self._roll_dice()

    def column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1)

    def rows(self, values: Sequence[tuple[float, float, float]]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)[..., None, None]

    def where(self, **wanted: str) -> Tensor:
        """1 for the scenes whose attribute has the wanted value, else 0."""
        ((name, value),) = wanted.items()
        return self.column([float(getattr(s, name) == value) for s in self.scenes])

    def indices(self, **wanted: str | None) -> list[int]:
        ((name, value),) = wanted.items()
        return [i for i, s in enumerate(self.scenes) if getattr(s, name) == value]

    def subset(self, picks: list[int]) -> Batch:
        return Batch([self.scenes[i] for i in picks], self.device)

    def _roll_dice(self) -> dict[str, Tensor]:
        """Random numbers of each scene, drawn on the CPU so that any machine agrees."""
        sizes = {
            "flame": (32, 16), "smoke": (24, 16), "ground": (24, 24), "embers": (9, 5),
            "flakes": (9, 5), "jolts": (64, 3), "logs": (6, 3), "phase": (8,), "warp": (2, 12, 12),
        }  # fmt: skip
        rows = []
        for scene in self.scenes:
            generator = torch.Generator().manual_seed(scene.seed)
            rows.append(torch.rand(sum(map(math.prod, sizes.values())), generator=generator))
        values = torch.stack(rows).to(self.device)
        parts = values.split([math.prod(size) for size in sizes.values()], dim=1)
        return {n: p.view(-1, *size) for (n, size), p in zip(sizes.items(), parts, strict=True)}


def _smoothstep(low: float, high: float, value: Tensor) -> Tensor:
    ramp = ((value - low) / (high - low)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _sample_noise(noise: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Smooth noise (N, h, w) read at cell coordinates x, y (N, ..., H, W), mirrored outside."""
    n, h, w = noise.shape
    fine = nn.interpolate(noise[:, None], scale_factor=4, mode="bicubic", align_corners=False)
    shape = torch.broadcast_shapes(x.shape, y.shape)
    shape = (n, *shape[1:])
    grid = torch.stack(((x / w * 2 - 1).expand(shape), (y / h * 2 - 1).expand(shape)), -1)
    grid = grid.view(n, -1, shape[-1], 2)
    sampled = nn.grid_sample(fine, grid, padding_mode="reflection", align_corners=False)
    return sampled.view(shape)


# --- the canvas: everything that stands still ----------------------------------------------------


@dataclass
class Canvas:
    """What stands still: own light, reflectance, and where subject and hot wood are."""

    x: Tensor  # (1, 1, W)
    y: Tensor  # (1, H, 1)
    emission: Tensor  # (N, 3, H, W) light of its own (sky, windows)
    albedo: Tensor  # (N, 3, H, W) answer to light
    subject: Tensor  # (N, H, W) how much of the pixel is the subject
    hot: Tensor  # (N, H, W) how much the wood here glows

    def paint(self, cover: Tensor, colour: Tensor, shade: Tensor | float = 1.0) -> None:
        """Lay a matt colour (N or 1, 3, 1, 1) over the covered pixels (N, H, W)."""
        cover = cover[:, None]
        shade = shade[:, None] if isinstance(shade, Tensor) else shade
        self.albedo = self.albedo + cover * (colour * shade - self.albedo)
        self.emission = self.emission * (1 - cover)
        self.hot = self.hot * (1 - cover[:, 0])


def _cover(distance: Tensor) -> Tensor:
    """Signed distance in world units to soft-edged coverage."""
    return (0.5 - distance / 1.4).clamp(0, 1)


def _box(p: Tensor, q: Tensor, half_p: Tensor | float, half_q: Tensor | float) -> Tensor:
    dp, dq = p.abs() - half_p, q.abs() - half_q
    return torch.maximum(dp, dq)


def _capsule(p: Tensor, q: Tensor, start: tuple, end: tuple, radius: Tensor | float) -> Tensor:
    (ax, ay), (bx, by) = start, end
    dx, dy = bx - ax, by - ay
    along = (((p - ax) * dx + (q - ay) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((p - ax - along * dx).square() + (q - ay - along * dy).square()).sqrt() - radius


def _hue(value: Tensor) -> Tensor:
    """A strong colour (N, 3, 1, 1) from a hue in [0, 1] of shape (N, 1, 1)."""
    offsets = torch.tensor([0.0, 1 / 3, 2 / 3], device=value.device).view(1, 3, 1, 1)
    wave = (6 * (value[:, None] + offsets + 0.5).frac() - 3).abs() - 1
    return 0.16 + 0.74 * wave.clamp(0, 1)


def _rgb(r: float, g: float, b: float, like: Tensor) -> Tensor:
    return torch.tensor([r, g, b], device=like.device).view(1, 3, 1, 1)


def _mix(low: Tensor, high: Tensor, amount: Tensor) -> Tensor:
    """Blend colours (N, 3, 1, 1) by a field (N, H, W)."""
    return low + (high - low) * amount[:, None]


def paint_canvas(batch: Batch, *, half_width: float, half_height: float, scale: float) -> Canvas:
    """Paint setting, logs and subject once, with a margin for the camera."""
    wide, high = half_width + MARGIN, half_height + MARGIN
    columns, rows = round(2 * wide * scale * DETAIL), round(2 * high * scale * DETAIL)
    x = ((torch.arange(columns, device=batch.device) + 0.5) / columns * 2 - 1) * wide
    y = -((torch.arange(rows, device=batch.device) + 0.5) / rows * 2 - 1) * high
    blank = torch.zeros(batch.count, 3, rows, columns, device=batch.device)
    canvas = Canvas(x.view(1, 1, -1), y.view(1, -1, 1), blank, blank.clone(), blank[:, 0], blank[:, 1])
    _paint_settings(batch, canvas)
    _paint_stones(batch, canvas)
    _paint_in_groups(batch, canvas, relation="beside")
    _paint_logs(batch, canvas, range(3))
    _paint_in_groups(batch, canvas, relation="embedded")
    _paint_logs(batch, canvas, range(3, 6))
    return canvas


def _paint_settings(batch: Batch, canvas: Canvas) -> None:
    """Each setting paints its own scenes, with a cast of the background's tint."""
    cast = 1 + 0.38 * (_hue(batch.tint) - 0.53)  # (N, 3, 1, 1)
    emission, albedo = torch.zeros_like(canvas.emission), torch.zeros_like(canvas.albedo)
    for setting, paint in SETTING_PAINTERS.items():
        picks = batch.indices(setting=setting)
        if picks:
            emission[picks], albedo[picks] = paint(batch.subset(picks), canvas.x, canvas.y)
    canvas.emission, canvas.albedo = emission * cast, albedo * (0.5 + 0.5 * cast)


def _ground_texture(batch: Batch, x: Tensor, y: Tensor) -> Tensor:
    """Mottling of the ground, flattened by perspective; strong only in detailed scenes."""
    coarse = _sample_noise(batch.dice["ground"], x / 9 + 12, y / 4.5 + 12)
    fine = _sample_noise(batch.dice["ground"], x / 4.5 + 5, y / 3 + 7)
    return 1 + (0.16 + 0.94 * batch.detailed) * (0.6 * coarse + 0.4 * fine - 0.5)


def _hills(batch: Batch, x: Tensor, *, height: float, width: float, shift: float) -> Tensor:
    """The height of a rolling skyline (N, 1, W)."""
    phase = batch.moon * 6.3 + shift
    wave = torch.sin(x / width + phase) + 0.5 * torch.sin(x / width * 2.3 + 2 * phase)
    return height * wave


def _disc(batch: Batch, x: Tensor, y: Tensor, *, height: float, radius: float) -> Tensor:
    """Distance to the moon or sun, away from the middle."""
    across = torch.where(batch.moon > 0.5, 16 + 28 * batch.moon, -44 + 28 * batch.moon)
    return ((x - across).square() + (y - height).square()).sqrt() - radius


def _paint_dark(batch: Batch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    depth = _smoothstep(-60, 40, y - 0 * x).expand(batch.count, -1, -1)
    emission = _mix(_rgb(0.035, 0.028, 0.030, x), _rgb(0.012, 0.014, 0.026, x), depth)
    ground = _smoothstep(10, -24, y) * _ground_texture(batch, x, y)
    albedo = ground[:, None] * _rgb(0.20, 0.16, 0.14, x)
    return emission, albedo


def _paint_forest(batch: Batch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    n, still = batch.count, 0 * x
    sky = _smoothstep(-6, 62, y + still).expand(n, -1, -1)
    emission = _mix(_rgb(0.10, 0.25, 0.23, x), _rgb(0.02, 0.07, 0.11, x), sky)
    moon = _disc(batch, x, y, height=32, radius=6)
    emission = _mix(emission, _rgb(0.80, 0.88, 0.80, x), _cover(moon))
    emission = emission + 0.20 * torch.exp(-moon.clamp(min=0) / 9)[:, None]
    albedo = torch.zeros_like(emission)
    for layer, (period, width, colour) in enumerate(
        ((17.0, 2.2, (0.045, 0.12, 0.115)), (29.0, 4.2, (0.012, 0.035, 0.035)))
    ):
        place = x + 0.05 * (y - 20) * torch.sin(x / 40 + layer) + batch.moon * 31 + 9 * layer
        wobble = 3.2 * torch.sin(torch.floor(place / period) * 2.4 + batch.moon * 9)
        offset = place - (torch.floor(place / period) + 0.5) * period + wobble
        trunk = _cover(offset.abs() - width * (1 + 0.25 * _smoothstep(6, -8, y)))
        crown = _cover(30 - 4 * layer - y + 3 * torch.sin(place / 5) + 2 * torch.sin(place / 2.9))
        cover = torch.maximum(trunk, crown * 0.9) * _smoothstep(-9, -5, y)
        emission = _mix(emission, _rgb(*colour, x), cover)
        albedo = _mix(albedo, _rgb(0.14, 0.12, 0.10, x), cover * 0.8)
    ground = _cover(y + 6 + _hills(batch, x, height=1.0, width=11, shift=1))
    texture = _ground_texture(batch, x, y)[:, None]
    emission = _mix(emission, _rgb(0.018, 0.045, 0.030, x), ground)
    return emission, albedo * (1 - ground[:, None]) + ground[:, None] * texture * _rgb(0.17, 0.25, 0.13, x)


def _paint_snow(batch: Batch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sky = _smoothstep(0, 56, y + 0 * x).expand(batch.count, -1, -1)
    emission = _mix(_rgb(0.47, 0.55, 0.68, x), _rgb(0.17, 0.23, 0.40, x), sky)
    far = _cover(y - 9 - _hills(batch, x, height=3.5, width=17, shift=0))
    emission = _mix(emission, _rgb(0.36, 0.43, 0.57, x), far)
    near = _cover(y - 1 - _hills(batch, x, height=2.2, width=26, shift=2))
    texture = _ground_texture(batch, x, y)
    slope = 0.86 + 0.22 * _smoothstep(2, -44, y)
    snow = _rgb(0.50, 0.57, 0.70, x) * (slope * (0.55 + 0.45 * texture))[:, None]
    emission = _mix(emission, snow, near)
    return emission, (near * 0.42 * texture)[:, None] * _rgb(1, 1, 1, x)


def _paint_desert(batch: Batch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sky = _smoothstep(0, 50, y + 0 * x).expand(batch.count, -1, -1)
    emission = _mix(_rgb(0.86, 0.45, 0.30, x), _rgb(0.27, 0.17, 0.38, x), sky)
    sun = _disc(batch, x, y, height=8, radius=8)
    emission = _mix(emission, _rgb(1.0, 0.80, 0.55, x), _cover(sun))
    emission = emission + torch.exp(-sun.clamp(min=0) / 10)[:, None] * _rgb(0.16, 0.09, 0.03, x)
    far = _cover(y - 5 - _hills(batch, x, height=4.5, width=21, shift=0.4))
    emission = _mix(emission, _rgb(0.48, 0.23, 0.23, x), far)
    near = _cover(y + 7 - _hills(batch, x, height=4.0, width=30, shift=3))
    texture = _ground_texture(batch, x, y)
    sand = _rgb(0.36, 0.19, 0.14, x) * (0.5 + 0.5 * texture)[:, None]
    emission = _mix(emission, sand, near)
    return emission, (near * texture)[:, None] * _rgb(0.38, 0.27, 0.17, x)


def _paint_shore(batch: Batch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sky = _smoothstep(4, 56, y + 0 * x).expand(batch.count, -1, -1)
    emission = _mix(_rgb(0.36, 0.55, 0.60, x), _rgb(0.08, 0.16, 0.31, x), sky)
    moon = _disc(batch, x, y, height=30, radius=5.5)
    emission = _mix(emission, _rgb(0.97, 0.96, 0.88, x), _cover(moon))
    emission = emission + 0.16 * torch.exp(-moon.clamp(min=0) / 10)[:, None]
    sea = _cover(y - 6)
    depth = _smoothstep(6, -14, y).expand_as(sea)
    water = _mix(_rgb(0.05, 0.20, 0.33, x), _rgb(0.06, 0.30, 0.36, x), depth)
    below = _disc(batch, x, y * 0, height=0, radius=0)  # how far from the moon's path
    path = torch.exp(-(below / (4 + 5 * depth)).square()) * (0.7 + 0.3 * torch.sin(y * 1.5))
    emission = _mix(emission, water + path[:, None] * _rgb(0.38, 0.42, 0.36, x), sea)
    line = y + 14 - _hills(batch, x, height=1.6, width=13, shift=1)
    foam = torch.exp(-(line / 1.8).square())
    sand, texture = _cover(line), _ground_texture(batch, x, y)
    emission = _mix(emission, _rgb(0.17, 0.16, 0.145, x) * (0.5 + 0.5 * texture)[:, None], sand)
    emission = emission + 0.34 * foam[:, None]
    return emission, (sand * texture)[:, None] * _rgb(0.40, 0.35, 0.26, x)


SETTING_PAINTERS = {
    "dark": _paint_dark, "forest": _paint_forest, "snow": _paint_snow,
    "desert": _paint_desert, "shore": _paint_shore,
}  # fmt: skip


def _paint_stones(batch: Batch, canvas: Canvas) -> None:
    """A ring of stones around the fire, where the trait asks for one."""
    present = (batch.stones > 0.6).float()
    if not bool(present.any()):
        return
    for i in range(6):
        across = batch.fire_x + (i - 2.5) * 8.2 * (1 - 0.15 * batch.beside)
        height = batch.fire_y - 6.5 + 0.35 * (i - 2.5) ** 2
        p, q = canvas.x - across, (canvas.y - height) * 1.25
        distance = (p.square() + q.square()).sqrt() - 5.0
        shade = 0.75 + 0.07 * q.clamp(-5, 5)
        canvas.paint(present * _cover(distance), _rgb(0.46, 0.45, 0.47, canvas.x), shade)


def _log_ends(batch: Batch, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start and end of one log for the three arrangements: crossed, tent, stacked."""
    jitter = batch.dice["logs"][:, index].unbind(1)
    a, b, c = (j.view(-1, 1, 1) - 0.5 for j in jitter)
    spread = 21.0 * (1 - 0.15 * batch.beside)
    lean = (-1.0, 1.0, -0.5, 0.55, 0.85, -0.8)[index]
    level = (3.0, 2.4, 5.4, -1.6, -2.2, 0.6)[index]
    crossed = (-spread * lean + 5 * a, level - 3.5 + 4 * b, spread * lean + 5 * c, level + 4.0)
    foot = (-1.0, 0.95, -0.45, 0.5, -0.75, 0.72)[index]
    tent = (spread * foot + 3 * a, -3.5 + 2 * b + 0 * a, spread * foot * 0.10 + 3 * c, 15 + 4 * b)
    row = (7.0, 7.0, 2.2, 2.2, -3.0, -3.0)[index]
    way = (-1.0, 1.0)[index % 2]
    middle, half = 0.45 * spread * way + 3 * a, 0.47 * spread
    stacked = (middle - half, row + b, middle + half, row - b)
    kind = (batch.logs * 3).floor()
    ends = []
    for one, two, three in zip(crossed, tent, stacked, strict=True):
        one, two, three = (torch.as_tensor(v, device=a.device) + 0 * a for v in (one, two, three))
        ends.append(torch.where(kind < 1, one, torch.where(kind < 2, two, three)))
    return ends[0], ends[1], ends[2], ends[3]


def _paint_logs(batch: Batch, canvas: Canvas, indices: range) -> None:
    """Logs as rounded bars with bark grain, hot where they face the fire's heart."""
    for index in indices:
        ax, ay, bx, by = _log_ends(batch, index)
        p, q = canvas.x - batch.fire_x, canvas.y - batch.fire_y
        radius = 4.0
        distance = _capsule(p, q, (ax, ay), (bx, by), radius)
        length = ((bx - ax).square() + (by - ay).square()).sqrt() + 1e-6
        across = ((p - ax) * (by - ay) - (q - ay) * (bx - ax)) / length
        along = ((p - ax) * (bx - ax) + (q - ay) * (by - ay)) / length
        grain = torch.sin(across * 1.5 + 1.2 * torch.sin(along * 0.45 + 2 * index)) * batch.detailed
        shade = (0.95 - 0.05 * (across.abs().clamp(max=4)).square() + 0.36 * grain).clamp(0.12)
        tone = _mix(_rgb(0.30, 0.16, 0.09, p), _rgb(0.42, 0.36, 0.31, p), batch.log_tint.expand(-1, 1, 1))
        cover = _cover(distance)
        canvas.subject = canvas.subject * (1 - cover)
        canvas.paint(cover, tone, shade)
        heart = torch.exp(-(p / 11).square() - ((q - 2) / 6.5).square())
        crack = 0.55 + 0.45 * torch.sin(along * 0.9 + index) * (0.25 + 0.75 * batch.detailed)
        canvas.hot = canvas.hot + cover * heart * crack * (0.35 + 1.0 * batch.glow)


# --- subjects ------------------------------------------------------------------------------------


@dataclass
class Brush:
    """Local coordinates of a subject: p across, q up from its foot, and its colours."""

    p: Tensor
    q: Tensor
    batch: Batch
    canvas: Canvas

    def __post_init__(self) -> None:
        like = self.p
        self.tint = _hue(self.batch.hue)
        steel, bronze = _rgb(0.74, 0.78, 0.84, like), _rgb(0.84, 0.60, 0.30, like)
        self.metal = _mix(steel, bronze, self.batch.metal.expand(-1, 1, 1))
        self.iron = _rgb(0.22, 0.22, 0.25, like) * (0.6 + 0.8 * self.batch.metal[:, None])
        self.wood = _rgb(0.42, 0.25, 0.13, like)

    def lay(self, distance: Tensor, colour: Tensor, shade: Tensor | float = 1.0) -> None:
        cover = _cover(distance)
        self.canvas.subject = torch.maximum(self.canvas.subject, cover)
        self.canvas.paint(cover, colour, shade)

    def grain(self, speed_p: float, speed_q: float) -> Tensor:
        """Lines of a few units' width, present in detailed scenes only."""
        return self.batch.detailed * torch.sin(self.p * speed_p + self.q * speed_q)


def _paint_in_groups(batch: Batch, canvas: Canvas, *, relation: str) -> None:
    """Paint each kind of subject for all the scenes that hold it."""
    for subject, paint in SUBJECT_PAINTERS.items():
        picks = [i for i in batch.indices(subject=subject) if batch.scenes[i].relation == relation]
        if picks:
            few = batch.subset(picks)
            held = {name: getattr(canvas, name)[picks] for name in ("emission", "albedo", "subject", "hot")}
            part = Canvas(canvas.x, canvas.y, **held)
            paint(Brush(*_local(few, canvas.x, canvas.y), few, part))
            for name in held:
                getattr(canvas, name)[picks] = getattr(part, name)


def _foot(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Where a subject stands and how it leans: x, y, angle, each (N, 1, 1)."""
    upright = batch.where(subject="lantern") + batch.where(subject="cauldron")
    foot_x = batch.fire_x + batch.beside * batch.sign * (38 + 3 * upright)
    foot_x = foot_x + (1 - batch.beside) * (batch.tilt - 0.5) * 6
    lift = -1 + 10 * batch.where(subject="lantern") + 4 * batch.where(subject="cauldron")
    foot_y = batch.fire_y + lift * (1 - batch.beside) - 7 * batch.beside
    angle = (batch.tilt - 0.5) * (0.62 - 0.5 * upright) * (1 - 0.3 * batch.beside)
    return foot_x, foot_y, angle


def _local(batch: Batch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    foot_x, foot_y, angle = _foot(batch)
    dx, dy, cos, sin = x - foot_x, y - foot_y, angle.cos(), angle.sin()
    return dx * cos - dy * sin, dx * sin + dy * cos


def _paint_sword(brush: Brush) -> None:
    """Point down: blade, guard, grip and pommel. Large and dark-edged, as flames are bright around it."""
    p, q, shape = brush.p / 1.2, brush.q / 1.2, brush.batch.shape
    width = (3.8 + 1.2 * shape) * (q / 9).clamp(0.0, 1.0)
    blade = torch.maximum(p.abs() - width, (q - 18.5).abs() - 20)
    brush.lay(blade - 0.9, brush.iron * 0.35)
    facet = torch.where(p > 0, 1.2, 0.8) + 0.12 * brush.grain(0.0, 0.55)
    ridge = 1 + 0.3 * brush.batch.detailed * _cover(p.abs() - 0.5)
    cold = _rgb(0.42, 0.62, 1.02, p)  # bluer than steel is: firelight must not make the blade a flame
    brush.lay(blade, brush.metal * cold, facet * ridge)
    bow = (shape - 0.5) * 0.09 * p.square()  # guard bent down, straight or up
    reach = 8.5 + 4.0 * (3 * shape).frac()
    brush.lay(_box(p, q - 39 - bow, reach + 0.8, 3.1), brush.iron * 0.35)
    brush.lay(_box(p, q - 39 - bow, reach, 2.2), brush.tint * 0.95, 0.9)
    brush.lay(_box(p, q - 45.5, 2.3, 6.0), brush.tint * 0.6, 1 + 0.5 * brush.grain(0.8, 1.5))
    round_end = (p.square() + (q - 53).square()).sqrt() - 3.8
    diamond = p.abs() + (q - 53).abs() - 4.9
    brush.lay(torch.where(shape > 0.5, round_end, diamond), brush.metal * 1.05)


def _paint_axe(brush: Brush) -> None:
    """A long handle with one or two broad blades at the top."""
    p, q, batch = brush.p, brush.q, brush.batch
    double = (batch.shape > 0.55).float()
    facing = torch.where(batch.side > 0.5, -1.0, 1.0) * (1 - batch.beside) + batch.sign * batch.beside
    brush.lay(_box(p, q - 23, 2.0, 25.0), brush.tint * 0.62, 1 + 0.4 * brush.grain(0.5, 1.1))
    for way, present in ((facing, 1.0), (-facing, double)):
        r = p * way
        flare = 4.0 + 0.055 * r.clamp(0, 16).square() * (0.7 + 0.6 * batch.shape)
        edge = 14.5 - 0.035 * (q - 40).square()
        head = torch.maximum((q - 40).abs() - flare, torch.maximum(r - edge, -r - 0.5))
        head = head + 99 * (1 - torch.as_tensor(present, device=p.device))
        bevel = 0.72 + 0.5 * _smoothstep(8.5, 12, r) + 0.25 * brush.grain(0.0, 0.9)
        brush.lay(head, brush.metal, bevel)
    brush.lay(_box(p, q - 40, 2.6, 4.6), brush.iron * 1.3)


def _paint_torch(brush: Brush) -> None:
    """A shaft with a wrapped head; its flame is part of the fire."""
    p, q, shape = brush.p, brush.q, brush.batch.shape
    brush.lay(_box(p, q - 16, 2.1 + 0.025 * q, 19), brush.wood, 1 + 0.45 * brush.grain(1.2, 0.5))
    width = 3.6 + 0.14 * (q - 30) * (0.6 + shape)
    wrap = 0.85 + 0.4 * brush.grain(0.7, 1.25)
    brush.lay(_box(p, q - 36.5, width + 1.2 * shape, 6.5), brush.tint * 0.8, wrap)
    brush.lay(_box(p, q - 30, 4.6, 1.4), brush.metal)


def _paint_lantern(brush: Brush) -> None:
    """A framed box of light with a roof and a ring; square or round by trait."""
    p, q, batch = brush.p, brush.q, brush.batch
    bulge = 9.0 + (batch.shape > 0.5).float() * (2.5 - 0.035 * (q - 13).square())
    frame = brush.tint * 0.7
    brush.lay(_box(p, q - 13, bulge, 12.0), frame, 0.9 + 0.2 * brush.grain(0.0, 0.8))
    glass = _cover(_box(p, q - 13, bulge - 2.4, 9.0))
    bars = 1 - 0.75 * batch.detailed * _cover(p.abs() - 0.9)
    shine = torch.exp(-p.square() / 40 - (q - 11).square() / 55)
    light = _mix(0.62 * batch.edge, batch.core, shine) * (glass * bars)[:, None]
    brush.canvas.emission = brush.canvas.emission + light
    brush.canvas.albedo = brush.canvas.albedo * (1 - 0.8 * (glass * bars)[:, None])
    brush.lay(_box(p, q - 0.5, bulge + 2.0, 1.8), frame * 1.15)
    roof = torch.maximum(p.abs() - (11.5 - 1.15 * (q - 25)), (q - 28.5).abs() - 4.0)
    brush.lay(roof, frame * 1.2, 1 + 0.3 * brush.grain(0.9, 0.0))
    ring = ((p.square() + (q - 36.5).square()).sqrt() - 4.2).abs() - 0.9
    brush.lay(ring, brush.metal)


def _paint_cauldron(brush: Brush) -> None:
    """A round pot on three feet, with a rim, a bail and a painted band."""
    p, q, batch = brush.p, brush.q, brush.batch
    wide, tall = 15.5 + 2 * batch.shape, 14.5 - 3 * batch.shape
    for foot in (-9.0, 0.0, 9.0):
        brush.lay(_box(p - foot, q - 2.0, 1.7, 4.0), brush.iron * 0.8)
    level = q - 15
    body = ((p / wide).square() + (level / tall).square()).sqrt() * tall - tall
    shade = 1.15 - 0.55 * (p / wide).square() + 0.035 * level.clamp(-14, 14)
    hammered = 0.25 * brush.grain(0.7, 0.0) * torch.sin(0.7 * q)
    brush.lay(torch.maximum(body, level - 10), brush.iron * 1.7, shade + hammered)
    band = torch.maximum(body + 0.6, (level - 2 + 5 * (batch.shape - 0.5)).abs() - 2.4)
    brush.lay(band, brush.tint * 0.8, shade)
    brush.lay(_box(p, level - 10, wide * 0.86, 1.8), brush.iron * 2.3)
    bail = ((p / (wide * 0.8)).square() + ((level - 11) / 12).square()).sqrt() * 12 - 12
    brush.lay(torch.maximum(bail.abs() - 0.9, 11 - level), brush.metal * 0.8)


SUBJECT_PAINTERS = {
    "sword": _paint_sword, "axe": _paint_axe, "torch": _paint_torch,
    "lantern": _paint_lantern, "cauldron": _paint_cauldron,
}  # fmt: skip


# --- the camera and the clock ----------------------------------------------------------------------


@dataclass
class Shot:
    """Where the camera is and what time it is, frame by frame: each (N, F)."""

    x: Tensor
    y: Tensor
    zoom: Tensor
    time: Tensor  # seconds

    def rays(self, *, half_width: float, half_height: float, columns: int, rows: int) -> tuple:
        """World x (N, F, 1, W) and y (N, F, H, 1) of every pixel's centre."""
        device = self.x.device
        across = ((torch.arange(columns, device=device) + 0.5) / columns * 2 - 1) * half_width
        up = -((torch.arange(rows, device=device) + 0.5) / rows * 2 - 1) * half_height
        x = self.x[..., None, None] + across.view(1, 1, 1, -1) / self.zoom[..., None, None]
        y = self.y[..., None, None] + up.view(1, 1, -1, 1) / self.zoom[..., None, None]
        return x, y


def plan_shot(batch: Batch, *, frames: int) -> Shot:
    """Pan 12 units or zoom by 1.2 over 13 frames; chaotic scenes jerk and skip instead."""
    step = torch.arange(frames, device=batch.device, dtype=torch.float32)[None]  # (1, F)
    progress = step / max(frames - 1, 12)
    centred = progress - progress[:, -1:] / 2
    pan = batch.where(camera="right") - batch.where(camera="left")
    x = 12 * centred * pan[..., 0]
    zoom = 1 + 0.2 * progress * batch.where(camera="zoom")[..., 0]
    chaotic = batch.where(defect="chaotic")[..., 0]
    jolts = batch.dice["jolts"][:, torch.arange(frames) % 64] - 0.5  # (N, F, 3)
    x = x + chaotic * 22 * jolts[..., 0]
    zoom = zoom * (1 + chaotic * 0.25 * (jolts[..., 2] + 0.3))
    time = (step + chaotic * 24 * jolts[..., 2]) / FRAMES_PER_SECOND
    y = -4 * (1 - 1 / zoom) + chaotic * 16 * jolts[..., 1]
    return Shot(x, y, zoom, time)


# --- everything that moves -------------------------------------------------------------------------


def _wide(column: Tensor) -> Tensor:
    """(N, 1, 1) to (N, 1, 1, 1), to meet fields with frames."""
    return column[:, None]


def _flicker(batch: Batch, time: Tensor) -> Tensor:
    """The fire's brightness over time (N, F, 1, 1), around 1."""
    phase = 6.28 * batch.dice["phase"]
    slow = torch.sin(time * 9.0 + phase[:, :1]) + 0.7 * torch.sin(time * 17.0 + phase[:, 1:2])
    return (1 + 0.11 * slow)[..., None, None]


def _flame_field(batch: Batch, x: Tensor, y: Tensor, time: Tensor) -> Tensor:
    """How deep inside the flames a point is (N, F, H, W): 0 at their edge, about 1 within."""
    clock = time[..., None, None]
    height = _wide(batch.flame_height) * (1 + 0.06 * torch.sin(clock * 11 + _wide(batch.wind) * 6))
    u, v = (x - _wide(batch.fire_x)), (y - _wide(batch.fire_y)) / height
    size = 0.75 + 0.25 * _wide(batch.large)
    noise, rise = batch.dice["flame"], y - clock * 30 * size
    lick = _sample_noise(noise, u / (5.4 * size) + 8, rise / (19 * size) + 16)
    lick = _smoothstep(0.15, 0.85, lick)
    curl = _sample_noise(noise, u / (4 * size) + 3, (y - clock * 38 * size) / (8 * size) + 9)
    lift = v.clamp(0, 1.3)
    bend = (_wide(batch.wind) - 0.5) * 10 * lift + 5 * (curl - 0.5) * lift
    body = 1 - ((u - bend) / _wide(batch.flame_width) * (1 + 0.45 * lift)).square() - lift**1.3
    field = body + (0.34 + 1.25 * lift) * (lick - 0.5) + (0.34 + 0.4 * lift) * (curl - 0.5)
    field = field - 4 * (v - 1.05).clamp(min=0)
    field = field * 1.15 - 2.5 * (-v - 0.06).clamp(min=0) * height / 14
    return _add_torch_flame(batch, field, x, y, time)


def _add_torch_flame(batch: Batch, field: Tensor, x: Tensor, y: Tensor, time: Tensor) -> Tensor:
    """A torch carries a small flame of its own."""
    picks = batch.indices(subject="torch")
    if not picks:
        return field
    few = batch.subset(picks)
    foot_x, foot_y, angle = _foot(few)
    clock = time[picks][..., None, None]
    u = x[picks] - _wide(foot_x + 43 * angle.sin())
    v = (y[picks] - _wide(foot_y + 41 * angle.cos())) / 19
    lick = _sample_noise(few.dice["flame"], u / 6 + 6, v * 2.2 - clock * 3.2 + 12)
    lift = v.clamp(0, 1.3)
    bend = 9 * (lick - 0.5) * lift
    small = 1 - ((u - bend) / 6.5 * (1 + 0.8 * lift)).square() - lift**1.3
    small = small + (0.3 + 1.1 * lift) * (lick - 0.5) - 4 * (-v - 0.1).clamp(min=0)
    field = field.clone()
    field[picks] = torch.maximum(field[picks], small)
    return field


def _smoke_field(batch: Batch, x: Tensor, y: Tensor, time: Tensor) -> Tensor:
    """Opacity of the smoke (N, F, H, W): a widening column that drifts with the wind."""
    clock = time[..., None, None]
    lift = (y - _wide(batch.fire_y) - 0.55 * _wide(batch.flame_height)) / 60
    up = lift.clamp(0, 1.4)
    sway = 3.5 * torch.sin(y / 11 - clock * 2.2 + _wide(batch.wind) * 6.3) * up.sqrt()
    u = x - _wide(batch.fire_x) - (_wide(batch.wind) - 0.5) * 46 * up - sway
    puffs = _sample_noise(batch.dice["smoke"], u / 10 + 8, (y - clock * 15) / 12 + 10)
    column = torch.exp(-(u / (7 + 15 * up)).square())
    return column * _smoothstep(0.0, 0.3, lift) * _smoothstep(0.15, 0.8, puffs) * 0.75


def _halo_field(batch: Batch, x: Tensor, y: Tensor, time: Tensor) -> Tensor:
    """Light hanging in the air (N, F, H, W): a round halo and slow shafts out of the fire."""
    clock = time[..., None, None]
    dx, dy = x - _wide(batch.fire_x), y - _wide(batch.fire_y) - 4
    distance = (dx.square() + dy.square() + 20).sqrt()
    angle = torch.atan2(dx, dy + 7)
    phase = 6.28 * batch.dice["phase"][:, 2:6, None, None]
    shafts = torch.cos(angle * 7 + phase[:, :1] + 0.5 * clock)
    shafts = shafts + 0.7 * torch.cos(angle * 12 - phase[:, 1:2] - 0.4 * clock)
    shafts = _smoothstep(-0.3, 1.6, shafts) * _smoothstep(-10, 22, dy)
    reach = 0.75 + 0.25 * _wide(batch.large)
    return 0.36 * torch.exp(-distance / (26 * reach)) + 0.50 * shafts * torch.exp(-distance / (44 * reach))


def _dots(across: Tensor, up: Tensor, x: Tensor, y: Tensor, radius: Tensor, power: Tensor) -> Tensor:
    """Soft round dots, as the product of two bell curves: K dots (N, F, K) to (N, F, H, W)."""
    bell_x = torch.exp(-((x - across[..., None]) / radius[..., None]).square())  # (N, F, K, W)
    bell_y = torch.exp(-((y.transpose(-1, -2) - up[..., None]) / radius[..., None]).square())
    return torch.einsum("nfkh,nfkw->nfhw", bell_y * power[..., None], bell_x)


def _embers(batch: Batch, x: Tensor, y: Tensor, time: Tensor) -> Tensor:
    """Nine glowing embers that rise about a unit and a half a frame, and sway."""
    a, b, c, d, e = (v[:, None] for v in batch.dice["embers"].unbind(2))  # (N, 1, K)
    clock = time[..., None]  # (N, F, 1)
    slots = (torch.arange(9, device=batch.device) + 0.5) / 9
    life = (slots + 0.1 * a + clock * (0.29 + 0.12 * b)).frac()  # 0 at birth, 1 when gone
    up = batch.fire_y + 9 + 66 * life
    sway = 3.0 * torch.sin(6.28 * c + clock * 4 + 4 * life)
    spread = (d - 0.5) * (30 + 30 * life)
    across = batch.fire_x + spread + sway + (batch.wind - 0.5) * 16 * life
    power = 1.25 * (8 * life).clamp(max=1) * (5 * (1 - life)).clamp(max=1)
    return _dots(across, up, x, y, 1.5 + 0.6 * e + 0 * clock, power)


def _flakes(batch: Batch, x: Tensor, y: Tensor, time: Tensor) -> Tensor:
    """Nine large soft snowflakes, falling; only over the snowfield."""
    a, b, c, d, e = (v[:, None] for v in batch.dice["flakes"].unbind(2))
    clock = time[..., None]
    slots = (torch.arange(9, device=batch.device) + 0.5) / 9
    fall = (a + clock * (0.14 + 0.05 * b)).frac()
    across = (slots - 0.5) * 120 + 10 * (d - 0.5) + 3 * torch.sin(6.28 * c + clock * 2)
    fade = (6 * fall).clamp(max=1) * (6 * (1 - fall)).clamp(max=1)
    snow = batch.where(setting="snow")
    return _dots(across, 60 - 92 * fall, x, y, 1.7 + 0.6 * e + 0 * clock, 0.6 * snow * fade)


# --- putting it together ----------------------------------------------------------------------------

SMOKE_TONE = {"dark": 0.30, "forest": 0.36, "snow": 0.74, "desert": 0.62, "shore": 0.56}


def _film(canvas: Canvas, x: Tensor, y: Tensor, *, wide: float, high: float) -> Tensor:
    """The still canvas seen by the moving camera: 8 channels (N, 8, F, H, W)."""
    n, frames, width, height = x.shape[0], x.shape[1], x.shape[3], y.shape[2]
    still = torch.cat((canvas.emission, canvas.albedo, canvas.subject[:, None], canvas.hot[:, None]), 1)
    shape = (n, frames, height, width)
    grid = torch.stack(((x / wide).expand(shape), (-y / high).expand(shape)), -1)
    grid = grid.view(n, frames * height, width, 2)
    seen = nn.grid_sample(still, grid, padding_mode="border", align_corners=False)
    return seen.view(n, 8, frames, height, width)


def _light_fields(batch: Batch, shot: Shot, *, size: dict, frame: tuple[int, int]) -> Tensor:
    """Flame, smoke and halo, computed at half size and enlarged: (N, 3, F, H, W)."""
    x, y = shot.rays(columns=frame[1] // 2, rows=frame[0] // 2, **size)
    flame = _flame_field(batch, x, y, shot.time)
    smoke = torch.zeros_like(flame)
    picks = [i for i, s in enumerate(batch.scenes) if s.smoke]
    if picks:
        smoke[picks] = _smoke_field(batch.subset(picks), x[picks], y[picks], shot.time[picks])
    halo = torch.zeros_like(flame)
    picks = batch.indices(light="volumetric")
    if picks:
        halo[picks] = _halo_field(batch.subset(picks), x[picks], y[picks], shot.time[picks])
    fields = torch.stack((flame.clamp(-1, 2), smoke, halo), 1)  # (N, 3, F, H/2, W/2)
    flat = nn.interpolate(fields.flatten(0, 1), size=frame, mode="bilinear", align_corners=False)
    return flat.view(*fields.shape[:3], *frame)


def _add_dots(batch: Batch, picture: Tensor, colour: Tensor, x: Tensor, y: Tensor, time: Tensor):
    """Add embers and snowflakes to the scenes that have them, in place."""
    picks = [i for i, s in enumerate(batch.scenes) if s.embers]
    if picks:
        sparks = _embers(batch.subset(picks), x[picks], y[picks], time[picks])
        picture[picks] += sparks[:, None] * colour[picks]
    picks = batch.indices(setting="snow")
    if picks:
        picture[picks] += _flakes(batch.subset(picks), x[picks], y[picks], time[picks])[:, None]


def _compose(batch: Batch, seen: Tensor, fields: Tensor, x: Tensor, y: Tensor, time: Tensor):
    """Light the canvas, then lay smoke, flames, halo, embers and snow over it."""
    emission, albedo, subject, hot = seen.split((3, 3, 1, 1), 1)
    flame, smoke, halo = (f[:, None] for f in fields.unbind(1))  # (N, 1, F, H, W)
    flicker = _flicker(batch, time)
    edge, core, glow = (c[:, :, None] for c in (batch.edge, batch.core, batch.light_colour))
    reach = 31 + 7 * _wide(batch.large)
    squared = (x - _wide(batch.fire_x)).square() + 1.3 * (y - _wide(batch.fire_y) - 8).square()
    lamp = (reach**2 / (reach**2 + squared)).square() * flicker  # (N, F, H, W)
    lamp = lamp * _wide(batch.volumetric * 2.0 + (1 - batch.volumetric) * 1.15)
    ambient = _wide(0.20 + 0.30 * (1 - batch.volumetric)) + 0 * x[:, :1]
    tone = batch.column([SMOKE_TONE[s.setting] for s in batch.scenes])[..., None, None]
    shine = lamp[:, None] / (1 + 0.7 * lamp[:, None] * subject) * (glow + 0.25 * subject)
    picture = emission + albedo * (ambient[:, None] + 0.30 * subject + shine)
    picture = picture + hot * edge * (0.6 + 0.5 * flicker[:, None])
    veil = smoke * (1 - 0.6 * subject)
    picture = picture + veil * (tone * (0.8 + 0.2 * glow) + 0.12 * lamp[:, None] * glow - picture)
    lift = (y - _wide(batch.fire_y)) / _wide(batch.flame_height)
    front = 1 - _smoothstep(1, 12, y - _wide(batch.fire_y))[:, None]  # flames lick over the subject's foot
    cover = _smoothstep(-0.05, 0.42, flame) * (1 - subject * (0.93 - 0.72 * front))
    heat = _smoothstep(0.25, 1.25, flame - 0.25 * lift[:, None].clamp(0, 1))
    picture = picture + cover * 0.95 * (edge + (core - edge) * heat - picture)
    picture = picture + halo * (1 - 0.55 * subject) * flicker[:, None] * glow
    _add_dots(batch, picture, 0.35 * edge + 0.65 * core, x, y, time)
    return picture, torch.cat([_smoothstep(0.05, 0.25, flame), subject], dim=1)


def _soft_clip(picture: Tensor) -> Tensor:
    """Highlights roll off smoothly above 0.75; the result is in [-1, 1]."""
    high = (picture - 0.75).clamp(min=0)
    return (picture.clamp(0, 0.75) + 0.25 * high / (high + 0.25)) * 2 - 1


def render(
    scenes: Sequence[Scene],
    *,
    height: int = 96,
    width: int = 96,
    frames: int = 13,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Paint videos (N, F, H, W, 3) in [-1, 1]; each depends on its scene alone, not on its neighbours in the batch."""
    return render_with_masks(scenes, height=height, width=width, frames=frames, device=device)[0]


def render_with_masks(
    scenes: Sequence[Scene],
    *,
    height: int = 96,
    width: int = 96,
    frames: int = 13,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Paint videos, and where the flame and where the subject is: (N, 2, F, H, W), soft from 0 to 1."""
    if not scenes:
        raise ValueError("render needs at least one scene; got none: try [draw_scene(0)].")
    if height % 4 or width % 4 or min(height, width) < 32 or frames < 1:
        raise ValueError(
            "height and width must be multiples of 4 from 32 up, and frames 1 or more; "
            f"got {height}x{width}, {frames} frames: try 96x96, 13 frames."
        )
    scale = min(height, width) / 96  # pixels for each world unit
    size = {"half_width": width / 2 / scale, "half_height": height / 2 / scale}
    with torch.no_grad():
        batch = Batch(scenes, device)
        shot = plan_shot(batch, frames=frames)
        x, y = shot.rays(columns=width, rows=height, **size)
        canvas = paint_canvas(batch, scale=scale, **size)
        wide, high = size["half_width"] + MARGIN, size["half_height"] + MARGIN
        seen = _film(canvas, x, y, wide=wide, high=high)
        fields = _light_fields(batch, shot, size=size, frame=(height, width))
        picture, masks = _compose(batch, seen, fields, x, y, shot.time)
        picture = _spoil(batch, _soft_clip(picture), shot.time, scale=scale)
    video = picture.permute(0, 2, 3, 4, 1).contiguous()  # (N, F, H, W, 3)
    return video, masks


# --- defects ---------------------------------------------------------------------------------------


def _spoil(batch: Batch, picture: Tensor, time: Tensor, *, scale: float) -> Tensor:
    """Blur, jumble or coarsen the scenes that have that defect (chaos is in the shot)."""
    for defect, spoil in (("blurry", _blur), ("messy", _jumble), ("bad quality", _coarsen)):
        picks = batch.indices(defect=defect)
        if picks:
            few = picture[picks]
            n, frames = few.shape[0], few.shape[2]
            flat = few.transpose(1, 2).flatten(0, 1)  # (N F, 3, H, W)
            flat = spoil(flat, batch.subset(picks), time[picks], scale)
            picture[picks] = flat.view(n, frames, *flat.shape[1:]).transpose(1, 2)
    return picture


def _blur(flat: Tensor, batch: Batch, time: Tensor, scale: float) -> Tensor:
    """A strong Gaussian blur, about four pixels wide."""
    return blur(flat, sigma=3.8 * scale, reach=round(10 * scale))


def blur(pictures: Tensor, *, sigma: float, reach: int) -> Tensor:
    """A Gaussian blur of (B, C, H, W), cut off `reach` pixels from its middle; edges go on as they are."""
    channels = pictures.shape[1]
    offsets = torch.arange(-reach, reach + 1, device=pictures.device)
    bell = torch.exp(-0.5 * (offsets / sigma).square())
    bell = (bell / bell.sum()).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    pictures = nn.pad(pictures, (reach,) * 4, mode="replicate")
    pictures = nn.conv2d(pictures, bell, groups=channels)
    return nn.conv2d(pictures, bell.transpose(2, 3), groups=channels)


def _jumble(flat: Tensor, batch: Batch, time: Tensor, scale: float) -> Tensor:
    """Every part of the picture pulled out of place by a strong smooth warp."""
    frames, (height, width) = time.shape[1], flat.shape[2:]
    warp = nn.interpolate(batch.dice["warp"], size=(height, width), mode="bicubic") - 0.5
    warp = warp.repeat_interleave(frames, 0).permute(0, 2, 3, 1)  # (N F, H, W, 2)
    sway = 1 + 0.25 * torch.sin(time * 5).reshape(-1, 1, 1, 1)
    rows = torch.linspace(-1, 1, height, device=flat.device).view(1, -1, 1)
    columns = torch.linspace(-1, 1, width, device=flat.device).view(1, 1, -1)
    straight = torch.stack(torch.broadcast_tensors(columns, rows), -1)
    grid = straight + warp * sway * 0.36
    return nn.grid_sample(flat, grid, padding_mode="reflection", align_corners=True)


def _coarsen(flat: Tensor, batch: Batch, time: Tensor, scale: float) -> Tensor:
    """Blocks of 4 pixels, few colours, a dull cast and coarse grain."""
    frames = time.shape[1]
    small = nn.avg_pool2d(flat, 4)
    grain = batch.dice["ground"].repeat_interleave(frames, 0)[:, None]
    grain = nn.interpolate(grain, size=small.shape[2:], mode="nearest") - 0.5
    small = small * 0.75 + 0.25 * small.mean(1, keepdim=True) + 0.2 * grain
    small = (small * 2.5).round() / 2.5
    return nn.interpolate(small.clamp(-1, 1), scale_factor=4, mode="nearest")


if __name__ == "__main__":
    from ..show.video import to_uint8, write_picture

    parser = argparse.ArgumentParser(description="Write one large picture of the brief's scene.")
    parser.add_argument("--bonfire", type=Path, required=True, help="where to")
    parser.add_argument("--seed", type=int, default=2, help="of that picture")
    options = parser.parse_args()
    picture = render([brief_scene(options.seed)], height=384, width=384, frames=1)[0, 0]
    write_picture(to_uint8(picture), options.bonfire)
    print(f"wrote {options.bonfire}")
