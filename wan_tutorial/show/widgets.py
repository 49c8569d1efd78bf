"""What moves under the hand: sliders over pictures that Python has drawn, and boards that run the model.

In: steps, pictures, or a function that makes them. Out: a widget on the screen. All state is in Python, and the browser
is sent finished bytes as an `<img>` with its alternative text (ipywidgets' own `Image` has none), so nothing is fetched
from anywhere and ipywidgets 7.7 (Colab) and 8 behave alike. Each widget carries a static picture, which is what remains
of it on GitHub and in print.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.video import check_fps, strip_frames, to_frames

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure
    from torch import Tensor

    from wan_tutorial.sampling.solvers import Step
    from wan_tutorial.text import EncodedText

Look = Callable[["Tensor"], np.ndarray]  # a latent -> small pictures (F, H, W, 3) in [-1, 1]
WIDTH = 920  # pixels of a board
QUALITY = 76


# ------------------------------------------------------------------------------------------- a slider over pictures


@dataclass
class Flipbook:
    """A slider and a picture for each of its places.

    A place whose picture is there is shown at once; any other is drawn when it is first reached. `draw(place)` is a
    generator of (share done, picture), the picture with the last one.
    """

    labels: Sequence[str]  # what is said at each place
    words: Sequence[str]  # what the picture at each place shows, for those who do not see it
    pictures: dict[int, bytes]  # JPEG
    name: str = "step"
    start: int = 0
    draw: Callable[[int], Iterable[tuple[float, np.ndarray | None]]] | None = None
    ends: tuple[str, str] | None = None  # what stands at both ends of the slider
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [place for place in range(len(self.labels)) if place not in self.pictures]
        if not self.pictures or len(self.words) != len(self.labels) or (missing and self.draw is None):
            raise WanError(
                f"Every picture needs a label: {len(self.pictures)} pictures, {len(self.labels)} labels."
            )

    def widget(self) -> Widget:
        """The slider above the picture."""
        import ipywidgets

        wide = {"width": f"{WIDTH}px" if self.ends else "480px", "max_width": "100%"}  # of a narrower page
        slider = ipywidgets.IntSlider(
            value=self.start, min=0, max=len(self.labels) - 1, description=self.name, readout=False,
            layout=ipywidgets.Layout(**wide), style={"description_width": "initial"},
        )  # fmt: skip
        bar = ipywidgets.FloatProgress(min=0, max=1, layout=ipywidgets.Layout(width="200px"))
        label, image = ipywidgets.Label(), ipywidgets.HTML()
        slider.observe(lambda change: self.turn(change["new"]), names="value")
        self.parts = {"slider": slider, "label": label, "image": image, "bar": bar}
        self.turn(self.start)
        if self.ends is None:
            return ipywidgets.VBox([ipywidgets.HBox([slider, label]), image])
        apart = ipywidgets.Layout(**wide, justify_content="space-between")
        between = ipywidgets.HBox([ipywidgets.Label(end) for end in self.ends], layout=apart)
        return ipywidgets.VBox([between, slider, ipywidgets.HBox([label, bar]), image])

    def turn(self, place: int) -> None:
        """Show a place: swap bytes where they are there, draw them where they are not."""
        bar, label = self.parts["bar"], self.parts["label"]
        try:
            if place not in self.pictures and self.draw is not None:
                label.value, bar.layout.visibility = f"{self.labels[place]}, painting", "visible"
                for share, picture in self.draw(place):
                    bar.value = share
                    if picture is not None:
                        self.pictures[place] = style.to_jpeg(picture, quality=QUALITY)
            label.value = self.labels[place]
            self.parts["image"].value = picture_html(self.pictures[place], alt=self.words[place])
        except WanError as error:
            label.value = str(error)
        bar.layout.visibility, bar.value = "hidden", 0.0


def explore_pictures(
    pictures: Mapping[str, np.ndarray], *, alt: str, printed: Figure, name: str = "", start: int = 0
) -> Flipbook:
    """Slide through pictures {label: (height, width, 3) uint8}; readers of the page see the figure `printed`."""
    shown, labels = list(pictures.values()), list(pictures)
    pages = {place: style.to_jpeg(picture, quality=QUALITY) for place, picture in enumerate(shown)}
    book = Flipbook(labels, [f"{alt}: {label}" for label in labels], pages, name, start)
    static = style.to_jpeg(style.to_array(printed, dots=100), quality=QUALITY)
    show_widget(book.widget(), static, alt=f"{alt}. {printed.get_label()}")
    return book


def explore_walk(
    paint: Callable[[float], Iterable[Step]],
    decode: Callable[[Tensor], Tensor],
    *,
    ends: tuple[str, str],
    fps: float,
    stops: int = 9,
    ready: int = 5,
    say: Callable[[float], str] = "{:.0%} of the way".format,
) -> Flipbook:
    """Walk from one end (amount 0) to the other (amount 1), with a video at each stop, whose name is `say(amount)`.

    `paint(amount)` gives the steps of a video, `decode(latent)` its pixels. `ready` of the stops are painted before the
    slider is shown, and stand in print; the others when they are first reached, with a bar that shows how far.
    """
    amounts = [stop / (stops - 1) for stop in range(stops)]
    labels = [say(amount) for amount in amounts]

    def draw(place: int) -> Iterable[tuple[float, np.ndarray | None]]:
        for step in paint(amounts[place]):
            yield (step.index + 1) / (step.steps + 1), None
        yield 1.0, draw_strip(decode(step.latent), labels[place], fps=fps)

    painted = {
        place: next(strip for _, strip in draw(place) if strip is not None)
        for place in strip_frames(stops, ready)
    }
    pages = {place: style.to_jpeg(strip, quality=QUALITY) for place, strip in painted.items()}
    walk = f"A walk from {ends[0]} to {ends[1]}"
    words = [f"{walk}, {label}: film strip of the video there" for label in labels]
    book = Flipbook(labels, words, pages, "", 0, draw, ends)
    print_page = np.concatenate(list(painted.values()))
    said = f"{walk}. Film strips, from top to bottom: {', '.join(labels[place] for place in painted)}."
    show_widget(book.widget(), style.to_jpeg(print_page, quality=QUALITY), alt=said)
    return book


def draw_strip(video: Tensor | np.ndarray, title: str, *, fps: float, columns: int = 7) -> np.ndarray:
    """A film strip WIDTH wide under its title, with the seconds below it: (height, WIDTH, 3), uint8."""
    check_fps(fps)
    frames = to_frames(video)
    chosen, gap, above = strip_frames(len(frames), columns), 4, 24
    width = (WIDTH + gap) // len(chosen) - gap
    height = round(width * frames.shape[1] / frames.shape[2])
    page = Image.new("RGB", (WIDTH, above + height + 24), style.PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((0, 3), title, style.INK, _font(13, bold=True))
    for place, index in enumerate(chosen):
        left = place * (width + gap)
        picture = Image.fromarray(frames[index]).resize((width, height), Image.Resampling.LANCZOS)
        page.paste(picture, (left, above))
        told = f"{index / fps:.2f} s" if place else "time 0 s"
        draw.text((left + width // 2, above + height + 4), told, style.GREY, _font(11), anchor="ma")
    return np.asarray(page)


# --------------------------------------------------------------------------------------------- the scrubber


def explore_steps(
    runs: Mapping[str, Sequence[Step]], look: Look, *, alt: str = "", start: int | None = None
) -> Flipbook:
    """The denoising scrubber: drag through the steps of one or two runs and see what the model sees and guesses.

    For each run: the noise level on its curve, the clean guess and the latent frame by frame (through `look`, such as
    the fitted projection), and how fast each frame's guess is changing.
    """
    pages = draw_steps(runs, look)
    first = next(iter(runs.values()))
    labels = [f"step {step.index} of {step.steps}" for step in first][: len(pages)]
    words = [_say_steps(runs, index) for index in range(len(pages))]
    pictures = {place: style.to_jpeg(page, quality=QUALITY) for place, page in enumerate(pages)}
    book = Flipbook(labels, words, pictures, "step", len(pages) // 2 if start is None else start)
    said = f"{alt or 'Denoising scrubber'}. {words[book.start]}"
    show_widget(book.widget(), book.pictures[book.start], alt=said)
    return book


def draw_steps(runs: Mapping[str, Sequence[Step]], look: Look) -> list[np.ndarray]:
    """The scrubber's pictures, one for each step that all runs have."""
    if not runs or not all(len(steps) for steps in runs.values()):
        raise WanError("The scrubber needs at least one run with its steps: {name: list(pipe.denoise(...))}.")
    count = min(len(steps) for steps in runs.values())
    return [_draw_runs(runs, index, look) for index in range(count)]


def _say_steps(runs: Mapping[str, Sequence[Step]], index: int) -> str:
    """The scrubber's picture in words."""
    told = []
    for name, steps in runs.items():
        speeds = ", ".join(f"{speed:.2f}" for speed in frame_speeds(steps, index))
        told.append(f"{name}: sigma {steps[index].sigma:.3f}, speed of the frames' guesses {speeds}")
    return f"Step {index}: clean guess and latent, frame by frame. {'; '.join(told)}."


def _draw_runs(runs: Mapping[str, Sequence[Step]], index: int, look: Look) -> np.ndarray:
    """Runs side by side at one step, WIDTH wide: their curves on the left, then two rows of frames for each."""
    left, gap, title, between = 224, 4, 28, 18
    *_, count, rows, columns = next(iter(runs.values()))[index].latent.shape
    chosen = strip_frames(count, 7 if len(runs) == 1 else 4)
    room = (WIDTH - left - between * (len(runs) - 1)) // len(runs)
    width = min(170, (room + gap) // len(chosen) - gap)
    height = round(width * rows / columns)
    page = Image.new("RGB", (WIDTH, title + 2 * (height + gap) + 36), style.PAPER)
    draw = ImageDraw.Draw(page)
    levels = [[one.sigma for one in steps] + [steps[-1].sigma_next] for steps in runs.values()]
    total = max(steps[-1].steps for steps in runs.values())  # a run that is still growing has fewer
    _draw_curves(draw, levels, index, total, (30, title + 4, left - 72, title + 2 * height - 14))
    names = (
        ("clean\nguess", title + height // 2),
        ("latent", title + height * 3 // 2),
        ("speed", page.height - 25),
    )
    for what, middle in names:
        draw.multiline_text((left - 6, middle), what, style.GREY, _font(11), anchor="rm", align="right")
    for place, (name, steps) in enumerate(runs.items()):
        x = left + place * (room + between)
        draw.text((x, 6), name, style.CYCLE[place], _font(13, bold=True))
        level = f"sigma {steps[index].sigma:.3f}"
        draw.text((x + len(chosen) * (width + gap) - gap, 7), level, style.INK, _font(12), anchor="ra")
        spots = {frame: x + column * (width + gap) for column, frame in enumerate(chosen)}
        _draw_frames(page, steps, index, look, spots, title, (width, height))
    return np.asarray(page)


def _draw_frames(
    page: Image.Image,
    steps: Sequence[Step],
    index: int,
    look: Look,
    spots: Mapping[int, int],  # frame -> where its left edge is
    top: int,
    size: tuple[int, int],
) -> None:
    """One run: clean guesses over latents, and under each frame a bar for how fast its guess is changing."""
    draw, speeds, gap = ImageDraw.Draw(page), frame_speeds(steps, index), 4
    guess, latent = (to_frames(look(one)) for one in (steps[index].clean_guess, steps[index].latent_before))
    middle, low = top + size[1] + gap, top + 2 * (size[1] + gap) + 4
    for frame, left in spots.items():
        page.paste(Image.fromarray(guess[frame]).resize(size, Image.Resampling.BICUBIC), (left, top))
        page.paste(Image.fromarray(latent[frame]).resize(size, Image.Resampling.NEAREST), (left, middle))
        reach = left + max(1, round((size[0] - 1) * min(1.0, 2 * speeds[frame])))  # full at one half
        draw.rectangle((left, low, left + size[0] - 1, low + 6), fill=style.FAINT)
        draw.rectangle((left, low, reach, low + 6), fill=style.VERMILION)
        draw.text((left, low + 10), f"frame {frame}: {speeds[frame]:.2f}", style.GREY, _font(10))


def frame_speeds(steps: Sequence[Step], index: int) -> list[float]:
    """How much the clean guess of each latent frame changed since the step before: root mean square; 0 at the first."""
    if index == 0:
        return [0.0] * steps[0].latent.shape[2]
    change = steps[index].clean_guess - steps[index - 1].clean_guess  # (1, 16, F, H, W)
    return change.square().mean(dim=(0, 1, 3, 4)).sqrt().tolist()


def _draw_curves(
    draw: ImageDraw.ImageDraw,
    levels: Sequence[Sequence[float]],
    index: int,
    total: int,
    box: tuple[int, int, int, int],
) -> None:
    """Noise levels as a line for each run with a dot for each step, and a ring where we are."""
    left, top, right, bottom = box
    for level in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * level
        draw.line((left, y, right, y), style.FAINT, 1)
        draw.text((left - 6, y), f"{level:g}", style.GREY, _font(11), anchor="rm")
    for number, (one, colour) in reversed(list(enumerate(zip(levels, style.CYCLE, strict=False)))):
        spots = [
            (left + (right - left) * i / total, bottom - (bottom - top) * level)
            for i, level in enumerate(one)
        ]
        draw.line(spots, colour, 2)
        for x, y in spots:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        (x, y), size = spots[index], 6 + 3 * number
        draw.ellipse((x - size, y - size, x + size, y + size), outline=colour, width=2)
    draw.text((left, bottom + 6), "sigma at each step", style.GREY, _font(11))


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of the plots, which matplotlib brings along."""
    from matplotlib import font_manager

    kind = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return ImageFont.truetype(font_manager.findfont(kind), size)


# -------------------------------------------------------------------------------------- a board that runs the model


@dataclass
class Board:
    """Controls, a button, a bar that shows progress, and a picture that the work draws into.

    `work(**values)` is a generator: each thing it yields is (share done, picture), so long work shows itself growing;
    a picture that is not there yet is None.
    """

    what: str  # a name for the picture, in words
    controls: Mapping[str, Widget]
    work: Callable[..., Iterable[tuple[float, np.ndarray | None]]]
    shows: str = "clean guess and latent at the last step, frame by frame"
    parts: dict[str, Any] = field(default_factory=dict)

    def show(self) -> Board:
        """Do the work once with the controls as they stand, and show the result with the controls above it."""
        import ipywidgets

        button = ipywidgets.Button(description="Run", button_style="primary")
        bar = ipywidgets.FloatProgress(value=0, min=0, max=1, layout=ipywidgets.Layout(width="240px"))
        said, image = ipywidgets.HTML(""), ipywidgets.HTML()
        button.on_click(lambda _: self.run())
        self.parts = {"button": button, "bar": bar, "label": said, "image": image}
        static = self.run()
        rows = [ipywidgets.HBox(list(self.controls.values())), ipywidgets.HBox([button, bar, said]), image]
        show_widget(ipywidgets.VBox(rows), static, alt=self.say())
        return self

    def say(self) -> str:
        """The picture in words: what it is, and the controls it was made with."""
        values = {name: _spoken(control.value) for name, control in self.controls.items()}
        told = ", ".join(f"{name} {value}" for name, value in values.items() if value)
        return f"{self.what}: {told}; {self.shows}."

    def run(self) -> bytes:
        """What the button does; an error is said beside it. Returns the last picture."""
        button, bar, said, image = (self.parts[name] for name in ("button", "bar", "label", "image"))
        button.disabled, said.value, bar.value, page = True, "", 0.0, b""
        values = {name: control.value for name, control in self.controls.items()}
        try:
            for share, picture in self.work(**values):
                bar.value = share
                if picture is not None:
                    page = style.to_jpeg(picture, quality=QUALITY)
                    image.value = picture_html(page, alt=self.say())
        except WanError as error:
            said.value = html.escape(str(error), quote=False)
        finally:
            button.disabled = False
        return page


def _spoken(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def explore_sampling(
    run: Callable[..., Iterable[Step]],
    look: Look,
    *,
    steps: int = 12,
    guidance: float = 6.0,
    shift: float = 8.0,
) -> Board:
    """The guidance and shift explorer: two sliders, a button, and the video growing step by step.

    `run(steps=, guidance=, shift=)` gives the steps, such as a `functools.partial` of `pipe.denoise`.
    """
    import ipywidgets

    wide = ipywidgets.Layout(width="290px")
    controls = {
        "guidance": ipywidgets.FloatSlider(
            value=guidance, min=0, max=15, step=0.5, description="guidance", layout=wide
        ),
        "shift": ipywidgets.FloatSlider(
            value=shift, min=1, max=16, step=0.5, description="shift", layout=wide
        ),
        "steps": ipywidgets.IntSlider(value=steps, min=1, max=30, description="steps", layout=wide),
    }

    def work(guidance: float, shift: float, steps: int) -> Iterable[tuple[float, np.ndarray]]:
        name = f"guidance {guidance:g}, shift {shift:g}, {steps} steps"
        return _growing(name, run(steps=steps, guidance=guidance, shift=shift), look)

    return Board("Guidance and shift explorer", controls, work).show()


def _growing(name: str, steps: Iterable[Step], look: Look) -> Iterable[tuple[float, np.ndarray]]:
    """Steps as they come: the share done, and the run so far drawn at its last step."""
    seen: list[Step] = []
    for step in steps:
        seen.append(step)
        yield (step.index + 1) / step.steps, _draw_runs({name: seen}, len(seen) - 1, look)


def explore_words(
    prompt: str,
    encode: Callable[[str], EncodedText],
    paint: Callable[[Tensor], Iterable[Step]],
    decode: Callable[[Tensor], Tensor],
    *,
    fps: float,
    word: str | None = None,
) -> Board:
    """Word surgery: choose a word of a prompt, scale its rows (0 takes it out, 2 doubles it) or swap it, and see the video.

    `encode(prompt)` gives the encoded text, `paint(embedding)` the steps of a video, `decode(latent)` its pixels.
    """
    import ipywidgets

    words = list(dict.fromkeys(re.findall(r"[\w'-]+", prompt)))
    controls = {
        "word": ipywidgets.Dropdown(
            options=words, value=word or words[min(1, len(words) - 1)], description="word"
        ),
        "strength": ipywidgets.FloatSlider(value=0.0, min=0, max=3, step=0.25, description="strength"),
        "swap": ipywidgets.Text(value="", description="swap for", placeholder="another word"),
    }

    def at_full_strength(change: dict[str, Any]) -> None:
        if not change["old"]:  # a word that comes in should be seen
            controls["strength"].value = 1.0

    controls["swap"].observe(at_full_strength, names="value")

    def work(word: str, strength: float, swap: str) -> Iterable[tuple[float, np.ndarray | None]]:
        new = swap.strip() or word
        encoded = encode(re.sub(rf"\b{re.escape(word)}\b", lambda _: new, prompt))
        name = f"{word!r} swapped for {new!r}" if new != word else f"{word!r}"
        for step in paint(scale_word(encoded, new, strength)):
            yield (step.index + 1) / (step.steps + 1), None
        yield 1.0, draw_strip(decode(step.latent), f"{name}, strength {strength:g}", fps=fps)

    return Board("Word surgery", controls, work, "film strip of the video").show()


def scale_word(encoded: EncodedText, word: str, strength: float) -> Tensor:
    """The embedding (length, dim) with every row of a word, or of several, times `strength`: 0 takes it out."""
    embedding = encoded.embedding.clone()
    for start, end in find_word(encoded.pieces, word):
        embedding[start:end] *= strength
    return embedding


def find_word(pieces: Sequence[str], word: str) -> list[tuple[int, int]]:
    """Where the pieces of a word stand, as (first, beyond the last); WanError if it does not occur."""
    spoken = [piece.replace("\u2581", " ") for piece in pieces]
    found = [
        (start, end)
        for start in range(len(spoken))
        for end in range(start + 1, len(spoken) + 1)
        if "".join(spoken[start:end]).strip().lower() == word.lower() and spoken[start].startswith(" ")
        and (spoken[start].strip() or not spoken[start + 1].startswith(" ")) and spoken[end - 1].strip()
    ]  # fmt: skip
    if not found:
        raise WanError(
            f"The word {word!r} is not in the prompt: choose one of {''.join(spoken[:-1]).strip()!r}."
        )
    return found


# ------------------------------------------------------------------------------------------------- to the screen


def picture_html(data: bytes, *, alt: str) -> str:
    """A JPEG for an `ipywidgets.HTML`: shown in the same moment as it is set, with its alternative text, and never wider
    than the page."""
    picture = style.to_html(data, kind="jpeg", alt=alt, width=WIDTH)
    return picture.removesuffix(">") + ' style="max-width: 100%; height: auto">'


def show_widget(widget: Widget, static: bytes, *, alt: str) -> None:
    """Show a live widget where there are widgets, and its static picture (JPEG) where there are none."""
    import base64

    from IPython.display import display

    live = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    data = {
        "application/vnd.jupyter.widget-view+json": live,
        "image/jpeg": base64.b64encode(static).decode(),
        "text/plain": alt,
    }
    display(data, metadata={"image/jpeg": {"alt": alt, "width": WIDTH}}, raw=True)
