"""Runs to look at: films for the lab's screen, two runs beside each other, the table of a grid, one page to hand in.

In: frames (frames, height, width, 3), uint8, and records (`experiments.py` makes them), of which only what is in them
is read. Out: WebP pictures, which every browser plays by itself, and HTML that carries its pictures with it and takes
the colours of the page it stands on.
"""

from __future__ import annotations

import base64
import html
import io
import struct
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.video import check_writable, strip_frames
from wan_tutorial.show.widgets import WIDTH, _font

SCREEN = 192  # pixels: how high a small film is made; the page shows it twice as large, a larger one as it is
GAP = 6  # between films; transparent
PANEL = 500  # pixels: how high the lab is in print
LOUDER = 3  # a difference is shown this many times as large


# ------------------------------------------------------------------------------------------------------- films


def scaled(frames: np.ndarray, height: int) -> np.ndarray:
    """Frames (frames, height, width, 3) brought to a height with a smooth filter, for the eye only."""
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    smooth = Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), smooth)) for frame in frames])


def beside(films: Sequence[np.ndarray]) -> np.ndarray:
    """Films from left to right as one, (frames, height, width, 4); a shorter one rests on its last frame."""
    height = SCREEN if max(film.shape[1] for film in films) <= SCREEN else 2 * SCREEN
    count = max(map(len, films))
    gap = np.zeros((count, height, GAP, 4), np.uint8)
    row: list[np.ndarray] = []
    for film in films:
        pixels = scaled(film, height)[np.minimum(np.arange(count), len(film) - 1)]
        opaque = np.full((*pixels.shape[:3], 1), 255, np.uint8)
        row += [gap, np.concatenate([pixels, opaque], axis=3)]
    return np.concatenate(row[1:], axis=2)


def difference(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, float]:
    """Where two videos differ, dark to light (frames, height, width, 3), and the mean difference in parts of 255."""
    if one.shape != other.shape:
        sizes = " and ".join(f"{video.shape[2]}x{video.shape[1]}x{video.shape[0]}" for video in (one, other))
        raise WanError(f"A difference needs two videos of one size, not {sizes}: look at them side by side.")
    apart = np.abs(one.astype(np.int16) - other).mean(axis=3)  # (frames, height, width)
    light = style.RISING(1 - np.clip(LOUDER * apart / 255, 0, 1))[..., :3]
    return (255 * light).astype(np.uint8), float(apart.mean())


def steps_film(guesses: np.ndarray, width: int = 2 * SCREEN) -> np.ndarray:
    """The small clean guesses (steps, F, H, W, 3) as a film of its own: each step one row of frames, six at most."""
    guesses = guesses[:, strip_frames(guesses.shape[1], 6)]
    steps, frames, height, wide, _ = guesses.shape
    across = (width - 4 * (frames - 1)) // frames
    row = scaled(guesses.reshape(-1, height, wide, 3), max(1, round(across * height / wide)))
    row = np.pad(row, ((0, 0), (0, 0), (0, 4), (0, 0)))  # a black line between frames
    return (
        row.reshape(steps, frames, *row.shape[1:])
        .swapaxes(1, 2)
        .reshape(steps, row.shape[1], -1, 3)[:, :, :-4]
    )


def stacked(films: Sequence[np.ndarray]) -> np.ndarray:
    """Films of one width under each other as one, (frames, height, width, 4); a shorter one rests on its last frame."""
    count = max(map(len, films))
    shown: list[np.ndarray] = []
    for film in films:
        pixels = film[np.minimum(np.arange(count), len(film) - 1)]
        opaque = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=255)
        shown += [np.zeros((count, GAP, *opaque.shape[2:]), np.uint8), opaque]
    wide = max(film.shape[2] for film in shown)
    even = [np.pad(film, ((0, 0), (0, 0), (0, wide - film.shape[2]), (0, 0))) for film in shown[1:]]
    return np.concatenate(even, axis=1)


def thumbnail(path: str | Path, side: int = 96) -> bytes:
    """A picture file, small."""
    try:
        with Image.open(path) as picture:
            small = ImageOps.exif_transpose(picture).convert("RGBA")
            small.thumbnail((side, side))
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise WanError(f"{path} could not be read as a picture: choose another one.") from error
    white = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
    return to_webp(np.asarray(white.convert("RGB"))[None])


def to_webp(film: np.ndarray, *, fps: float = 16, loop: bool = True) -> bytes:
    """A film (frames, height, width, 3 or 4) as a picture that plays by itself; a still, if it has one frame."""
    first, *rest = (Image.fromarray(frame) for frame in film)
    page = io.BytesIO()
    moving: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0 if loop else 1}
    first.save(
        page, format="webp", quality=88, method=0, duration=round(1000 / fps), **(moving if rest else {})
    )
    return page.getvalue()


# -------------------------------------------------------------------------------------------------------- words


def settings_rows(record: Any) -> list[tuple[str, str]]:
    """A run's settings and what it took, as names and words."""
    settings, made = record.settings, record.settings.sampling
    rows = [("prompt", settings.prompt), ("negative prompt", settings.negative or "none"), ("model", settings.model),
            ("seed", str(settings.seed)), ("size", str(settings.size)), ("steps", str(made.steps)),
            ("guidance", f"{made.guidance:g}"), ("shift", f"{made.shift:g}"),
            ("sampler", f"{made.sampler}, {made.scheduler}")]  # fmt: skip
    if settings.start:
        rows.append(("denoise", f"{made.denoise:g}, from a given video"))
    rows += [("LoRA", f"{Path(path).stem} at {strength:g}") for path, strength in settings.loras]
    if settings.reference:
        rows.append(("reference", f"{settings.fit}, strength {settings.vace_strength:g}"))
    seconds = ", ".join(f"{name} {taken:.1f}" for name, taken in record.seconds.items())
    rows.append(("seconds", f"{sum(record.seconds.values()):.1f} ({seconds})"))
    rows.append(("memory", f"{record.memory_peak / 1e9:.1f} GB at most"))
    return rows


def settings_table(record: Any) -> str:
    """The same as an HTML table, with the reference picture under it."""
    rows = "".join(f"<tr><th scope='row'>{name}</th><td>{html.escape(said)}</td></tr>"
                   for name, said in settings_rows(record))  # fmt: skip
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in record.notices)
    given = record.settings.reference
    picture = style.to_html(thumbnail(given), kind="webp", alt="The reference picture") if given else ""
    return f"<table class='wan-settings'>{rows}</table>{picture}{notes}"


def playing(record: Any, height: int) -> str:
    """A run as a small `<img>` that plays."""
    data = to_webp(scaled(record.frames(), height), fps=record.fps)
    return style.to_html(data, kind="webp", alt=f"Video of run {record.number}: {record.settings.prompt}")


def _said(name: str, value: Any) -> str:
    return html.escape(
        f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}".strip()
    )


def grid_table(axes: Mapping[str, Sequence[Any]], cells: Sequence[str | None]) -> str:
    """A grid as an HTML table: `cells` are pictures (see `playing`) row by row, None where there is none yet."""
    (down, rows), (across, columns) = (
        axes.items() if len(axes) == 2 else (("", [""]), next(iter(axes.items())))
    )
    head = "".join(f"<th scope='col'>{_said(across, value)}</th>" for value in columns)
    body = ""
    for row, value in enumerate(rows):
        made = cells[row * len(columns) : (row + 1) * len(columns)]
        shown = "".join(f"<td>{cell or '<i>waiting</i>'}</td>" for cell in made)
        body += f"<tr><th scope='row'>{_said(down, value)}</th>{shown}</tr>"
    return f"<table class='wan-grid'><tr><td></td>{head}</tr>{body}</table>"


# --------------------------------------------------------------------------------------------------------- page

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }}
body {{ max-width: 1000px; margin: 2.5rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.6rem; font-weight: 600; margin: 0; }}
h2 {{ font-size: 1.1rem; font-weight: 600; margin: 0 0 .75rem; }}
p {{ margin: .5rem 0; opacity: .75; }}
article {{ display: grid; grid-template-columns: minmax(240px, 360px) 1fr; gap: 1.5rem; padding: 2rem 0;
  border-top: 1px solid #8884; break-inside: avoid; }}
article h2, article .strip {{ grid-column: 1 / -1; margin: 0; }}
video, .strip img {{ width: 100%; border-radius: 8px; display: block; }}
table {{ border-collapse: collapse; align-self: start; }}
th {{ text-align: left; font-weight: 500; opacity: .65; padding: .15rem 1rem .15rem 0; vertical-align: top;
  white-space: nowrap; }}
td {{ padding: .15rem 0; }}
@media (max-width: 640px) {{ article {{ grid-template-columns: 1fr; }} }}
</style>
<h1>{title}</h1><p>{words}</p>
{articles}
</html>
"""


def write_page(
    records: Sequence[Any], path: str | Path, *, title: str = "Experiments", words: Any = None
) -> Path:
    """Write one HTML file with the videos, pictures and settings of some runs; it needs nothing else beside it.

    `words(first, other)` says how a run's settings differ from the first one's.
    """
    if not records:
        raise WanError("A page needs at least one run: choose some.")
    articles = []
    for record in records:
        told = (
            "; ".join(words(records[0].settings, record.settings))
            if words and record is not records[0]
            else ""
        )
        articles.append(_article(record, told))
    count = f"{len(records)} {'run' if len(records) == 1 else 'runs'}"
    page = _PAGE.format(title=html.escape(title), words=f"{count}, made with wan_tutorial "
                        f"{records[0].versions['wan_tutorial']}.", articles="\n".join(articles))  # fmt: skip
    path = check_writable(path)
    partial = path.with_name(f".{path.name}")
    partial.write_text(page, encoding="utf-8")
    return partial.replace(path)


def _article(record: Any, told: str) -> str:
    try:
        film = base64.b64encode((record.folder / "video.mp4").read_bytes()).decode()
    except OSError as error:
        raise WanError(
            f"The video of run {record.number} could not be read ({error.strerror}): leave that run out of the page."
        ) from error
    frames = record.frames()
    moments = frames[strip_frames(len(frames), 6)]
    strip = style.to_jpeg(np.concatenate(list(scaled(moments, 160)), axis=1), quality=82)
    alt = f"Six moments of run {record.number}, from left to right"
    apart = f"<p>Against the first: {html.escape(told)}.</p>" if told else ""
    return (
        f"<article><h2>Run {record.number}</h2>"
        f'<div><video controls loop muted autoplay playsinline src="data:video/mp4;base64,{film}"></video>{apart}</div>'
        f"{settings_table(record)}"
        f"<div class='strip'>{style.to_html(strip, kind='jpeg', alt=alt)}</div></article>"
    )


# ------------------------------------------------------------------------------------ for readers without a kernel


def draw_panel(record: Any, settings: Any, plan: str = "") -> np.ndarray:
    """What remains of the lab on a printed page: its controls as they stand, and six moments of the run on its screen.

    `plan` is what stands under Run: what the run will take.
    """
    page = Image.new("RGB", (WIDTH, PANEL), style.PAPER)
    draw = ImageDraw.Draw(page)
    left, edge, top = 12, 372, 10
    _box(draw, (1, 1, edge, PANEL - 2))
    for row in _control_rows(settings):
        x, high = left, 4 * 17 + 9 if row[0][0] == "Prompt" else 24
        wide = (edge - 2 * left - 8 * (len(row) - 1)) // len(row)
        for label, value in row:
            draw.text((x, top), label, style.GREY, _font(10))
            _box(draw, (x, top + 14, x + wide, top + 14 + high), fill=None if label else style.FAINT)
            lines = (
                textwrap.wrap(" ".join(value.split()), 52, max_lines=4, placeholder="...")
                if high > 24
                else [_cut(value, _font(12), wide - 12)]
            )
            for place, line in enumerate(lines):
                draw.text((x + 7, top + 18 + 17 * place), line, style.INK, _font(12))
            x += wide + 8
        top += high + 19
    _draw_desk(page, record, plan, edge + 16)
    return np.asarray(page)


def _control_rows(settings: Any) -> list[list[tuple[str, str]]]:
    """The lab's controls, row by row, with what they say; a button has no label."""
    made, size = settings.sampling, settings.video_size
    loras = ", ".join(f"{Path(path).stem} at {strength:g}" for path, strength in settings.loras)
    return [
        [("Prompt", settings.prompt)],
        [("Negative prompt", settings.negative)],
        [("Seed", str(settings.seed)), ("", "New seed"), ("Model", settings.model)],
        [("Width", str(size.width)), ("Height", str(size.height)), ("Frames", str(size.frames))],
        [("Steps", str(made.steps)), ("Guidance", f"{made.guidance:g}"), ("Shift", f"{made.shift:g}")],
        [("Sampler", made.sampler), ("Scheduler", made.scheduler)],
        [("Start from", "a video" if settings.start else "pure noise"), ("Denoise", f"{made.denoise:g}")],
        [("LoRAs", loras or "none"), ("", "Add")],
        [("Reference", Path(settings.reference).stem if settings.reference else "none"), ("", "Upload")],
        [("Fit", "cut to shape" if settings.fit == "crop" else "whole, on white"),
         ("Strength", f"{settings.vace_strength:g}")],
    ]  # fmt: skip


def _draw_desk(page: Image.Image, record: Any, plan: str, left: int) -> None:
    """The other half of the panel: the buttons, the plan, and the screen with six moments of a run."""
    draw, font, small = ImageDraw.Draw(page), _font(12), _font(11)
    _box(draw, (left, 1, WIDTH - 2, 72))
    for x, name, fill, ink in ((12, "Run", style.BLUE, style.PAPER), (84, "Cancel", style.FAINT, style.INK)):
        _box(draw, (left + x, 13, left + x + 62, 40), fill=fill)
        draw.text((left + x + 31, 26), name, ink, font, anchor="mm")
    done = WIDTH - 16 if record else left + 162
    draw.line((left + 162, 26, WIDTH - 16, 26), style.FAINT, 6)
    draw.line((left + 162, 26, done, 26), style.BLUE, 6 if record else 0)
    draw.text((left + 14, 57), _cut(plan, small, WIDTH - left - 30), style.GREY, small, anchor="lm")
    _box(draw, (left, 84, WIDTH - 2, PANEL - 2))
    for place, name in enumerate(("Look", "History", "Grid")):
        draw.text((left + 16 + 76 * place, 96), name, style.GREY if place else style.INK, _font(13))
    draw.line((left + 14, 118, left + 54, 118), style.BLUE, 2)
    for x, name in ((14, "Video"), (76, "Side by side"), (178, "Difference"), (270, "Steps")):
        _box(draw, (left + x, 130, left + x + draw.textlength(name, small) + 18, 152))
        draw.text((left + x + 9, 141), name, style.INK, small, anchor="lm")
    corner = (left + 14, 164)
    if record is not None:
        _paste_moments(page, record, corner, WIDTH - left - 30)
        draw.text((left + 14, PANEL - 56), f"Run {record.number}: six moments of it", style.INK, font)
    else:
        _box(draw, (*corner, WIDTH - 16, PANEL - 50), fill="#f2f2f2")
        middle = ((left + WIDTH - 2) // 2, (corner[1] + PANEL - 50) // 2)
        draw.text(middle, "Nothing is painted yet: press Run.", style.GREY, font, anchor="mm")
    told = "This is a picture of the lab. In a running notebook every control works."
    draw.text((left + 14, PANEL - 32), told, style.GREY, small)


def _paste_moments(page: Image.Image, record: Any, corner: tuple[int, int], room: int) -> None:
    """Six moments of a run, three beside each other, as large as there is room."""
    frames, gap = record.frames(), 6
    height = (PANEL - 70 - corner[1] - gap) // 2
    height = min(height, (room - 2 * gap) // 3 * frames.shape[1] // frames.shape[2])
    moments = scaled(frames[strip_frames(len(frames), 6)], height)
    for place, moment in enumerate(moments):
        x, y = place % 3 * (moments.shape[2] + gap), place // 3 * (height + gap)
        page.paste(Image.fromarray(moment), (corner[0] + x, corner[1] + y))


def _box(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], *, fill: str | None = None
) -> None:
    draw.rounded_rectangle(box, 6, fill, None if fill else style.FAINT)


def _cut(words: str, font: Any, room: int) -> str:
    words = " ".join(words.split())  # Pillow cannot measure a line break
    if font.getlength(words) <= room:
        return words
    while words and font.getlength(words + "...") > room:
        words = words[:-1]
    return words + "..."
