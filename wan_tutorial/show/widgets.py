"""What moves under the hand: sliders over pictures that Python has drawn, and boards that run the model.

In: steps, pictures, or a function that makes them. Out: a widget on the screen. All state is in Python and the
browser shows bytes in an `Image`, so nothing is fetched from anywhere and ipywidgets 7.7 (Colab) and 8 behave alike.
Each widget carries a static picture, which is what remains of it on GitHub and in print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wan_tutorial.errors import WanError
from wan_tutorial.show import style
from wan_tutorial.show.video import to_frames

if TYPE_CHECKING:
    from ipywidgets import Widget
    from torch import Tensor

    from wan_tutorial.sampling.solvers import Step
    from wan_tutorial.text import EncodedText

Look = Callable[["Tensor"], np.ndarray]  # a latent -> small pictures (F, H, W, 3) in [-1, 1]
WIDTH = 920  # pixels of a board
QUALITY = 76


# ------------------------------------------------------------------------------------------- a slider over pictures


@dataclass
class Flipbook:
    """A slider and a picture for each of its places; the pictures are drawn before the first is shown."""

    pictures: Sequence[bytes]  # JPEG
    labels: Sequence[str]  # what the slider says at each place
    name: str = "step"
    start: int = 0
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pictures or len(self.pictures) != len(self.labels):
            raise WanError(
                f"Every picture needs a label: {len(self.pictures)} pictures, {len(self.labels)} labels."
            )

    def widget(self) -> Widget:
        """The slider above the picture. Moving it swaps bytes: nothing is computed."""
        import ipywidgets

        slider = ipywidgets.IntSlider(
            value=self.start, min=0, max=len(self.pictures) - 1, description=self.name, readout=False,
            layout=ipywidgets.Layout(width="480px"),
        )  # fmt: skip
        label = ipywidgets.Label(self.labels[self.start])
        image = ipywidgets.Image(value=self.pictures[self.start], format="jpeg", width=WIDTH)

        def turn(change: dict[str, Any]) -> None:
            image.value, label.value = self.pictures[change["new"]], self.labels[change["new"]]

        slider.observe(turn, names="value")
        self.parts = {"slider": slider, "label": label, "image": image}
        return ipywidgets.VBox([ipywidgets.HBox([slider, label]), image])


def explore_pictures(
    pictures: Mapping[str, np.ndarray], *, alt: str, name: str = "", start: int = 0
) -> Flipbook:
    """Slide through pictures {label: (height, width, 3) uint8}; readers of the page see the first, middle and last."""
    pages = [style.to_jpeg(picture, quality=QUALITY) for picture in pictures.values()]
    book = Flipbook(pages, list(pictures), name, start)
    shown = list(pictures.values())
    print_page = np.concatenate([shown[i] for i in sorted({0, len(shown) // 2, len(shown) - 1})])
    show_widget(book.widget(), style.to_jpeg(print_page, quality=QUALITY), alt=alt)
    return book


def explore_steps(
    runs: Mapping[str, Sequence[Step]], look: Look, *, alt: str = "", start: int | None = None
) -> Flipbook:
    """The denoising scrubber: drag through the steps of one or two runs and see what the model sees and guesses.

    For each run: the noise level on its curve, the clean guess and the latent frame by frame (through `look`, such as
    the fitted projection), and how fast each frame's guess is changing.
    """
    pages = draw_steps(runs, look)
    first = next(iter(runs.values()))
    labels = [f"step {step.index} of {step.steps}, sigma {step.sigma:.3f}" for step in first][: len(pages)]
    start = len(pages) // 2 if start is None else start
    book = Flipbook([style.to_jpeg(page, quality=QUALITY) for page in pages], labels, "step", start)
    words = (
        alt
        or f"Denoising scrubber at {labels[start]}: sigma on its curve, clean guess, latent and speed of frames"
    )
    show_widget(book.widget(), book.pictures[start], alt=f"{words}. Runs: {', '.join(runs)}.")
    return book


def draw_steps(runs: Mapping[str, Sequence[Step]], look: Look) -> list[np.ndarray]:
    """The scrubber's pictures, one for each step that all runs have."""
    if not runs or not all(len(steps) for steps in runs.values()):
        raise WanError("The scrubber needs at least one run with its steps: {name: list(pipe.denoise(...))}.")
    count = min(len(steps) for steps in runs.values())
    columns = [
        [_draw_run(name, steps, index, look) for index in range(count)] for name, steps in runs.items()
    ]
    return [np.concatenate([column[index] for column in columns]) for index in range(count)]


def _draw_run(name: str, steps: Sequence[Step], index: int, look: Look) -> np.ndarray:
    """One run at one step, WIDTH wide: the curve on the left, two rows of frames, a bar under each."""
    step = steps[index]
    guess, latent = to_frames(look(step.clean_guess)), to_frames(look(step.latent_before))
    speed = frame_speeds(steps, index)
    left, gap, title = 232, 5, 26
    side = min(124, (WIDTH - left - 70) // len(guess) - gap)
    page = Image.new("RGB", (WIDTH, title + 2 * (side + gap) + 44), style.PAPER)
    draw, small, bold = ImageDraw.Draw(page), _font(12), _font(14)
    draw.text((4, 4), name, style.INK, bold)
    levels = [one.sigma for one in steps] + [steps[-1].sigma_next]
    _draw_curve(draw, levels, index, (30, title + 8, left - 26, title + 2 * side - 4))
    for row, (what, frames) in enumerate((("clean\nguess", guess), ("latent", latent))):
        top = title + row * (side + gap)
        draw.multiline_text((left, top + side // 2 - 14), what, style.GREY, small)
        for place, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize(
                (side, side), Image.Resampling.BICUBIC if row == 0 else Image.Resampling.NEAREST
            )
            page.paste(picture, (left + 58 + place * (side + gap), top))
    top = title + 2 * (side + gap) + 6
    draw.text((left, top - 2), "speed", style.GREY, small)
    for place, value in enumerate(speed):
        x = left + 58 + place * (side + gap)
        draw.rectangle((x, top + 3, x + side - 1, top + 9), fill=style.FAINT)
        draw.rectangle(
            (x, top + 3, x + max(1, round((side - 1) * min(1.0, value))), top + 9), fill=style.VERMILION
        )
        draw.text((x, top + 12), f"frame {place}: {value:.2f}", style.GREY, small)
    return np.asarray(page)


def frame_speeds(steps: Sequence[Step], index: int) -> list[float]:
    """How much the clean guess of each latent frame changed since the step before: root mean square; 0 at the first."""
    if index == 0:
        return [0.0] * steps[0].latent.shape[2]
    change = steps[index].clean_guess - steps[index - 1].clean_guess  # (1, 16, F, H, W)
    return change.square().mean(dim=(0, 1, 3, 4)).sqrt().tolist()


def _draw_curve(
    draw: ImageDraw.ImageDraw, levels: Sequence[float], index: int, box: tuple[int, int, int, int]
) -> None:
    """Noise levels as a line with a dot for each step, and a ring where we are."""
    left, top, right, bottom = box
    spots = [
        (left + (right - left) * i / max(1, len(levels) - 1), bottom - (bottom - top) * level)
        for i, level in enumerate(levels)
    ]
    small = _font(11)
    for level in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * level
        draw.line((left, y, right, y), style.FAINT, 1)
        draw.text((left - 6, y), f"{level:g}", style.GREY, small, anchor="rm")
    draw.line(spots, style.BLUE, 2)
    for i, (x, y) in enumerate(spots):
        size = 6 if i == index else 2
        fill = style.PAPER if i == index else style.BLUE
        draw.ellipse(
            (x - size, y - size, x + size, y + size),
            fill=fill,
            outline=style.INK if i == index else None,
            width=2,
        )
    draw.text((left, bottom + 8), f"sigma {levels[index]:.3f}", style.INK, _font(13))
    draw.text((right, bottom + 9), f"step {index}", style.GREY, small, anchor="ra")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font of the plots, which matplotlib brings along."""
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


# -------------------------------------------------------------------------------------- a board that runs the model


@dataclass
class Board:
    """Controls, a button, a bar that shows progress, and a picture that the work draws into.

    `work(**values)` is a generator: each thing it yields is (share done, picture), so long work shows itself growing.
    """

    controls: Mapping[str, Widget]
    work: Callable[..., Iterable[tuple[float, np.ndarray]]]
    parts: dict[str, Any] = field(default_factory=dict)

    def widget(self, first: np.ndarray) -> Widget:
        import ipywidgets

        button = ipywidgets.Button(description="Run", button_style="primary")
        bar = ipywidgets.FloatProgress(value=0, min=0, max=1, layout=ipywidgets.Layout(width="240px"))
        said = ipywidgets.Label("")
        image = ipywidgets.Image(value=style.to_jpeg(first, quality=QUALITY), format="jpeg", width=WIDTH)
        button.on_click(lambda _: self.run())
        self.parts = {"button": button, "bar": bar, "label": said, "image": image}
        rows = [ipywidgets.HBox(list(self.controls.values())), ipywidgets.HBox([button, bar, said]), image]
        return ipywidgets.VBox(rows)

    def run(self) -> None:
        """What the button does; an error is said beside it."""
        button, bar, said, image = (self.parts[name] for name in ("button", "bar", "label", "image"))
        button.disabled, said.value, bar.value = True, "", 0.0
        try:
            for share, picture in self.work(
                **{name: control.value for name, control in self.controls.items()}
            ):
                bar.value, image.value = share, style.to_jpeg(picture, quality=QUALITY)
        except WanError as error:
            said.value = str(error)
        finally:
            button.disabled = False


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

    wide = ipywidgets.Layout(width="270px")
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
        name, seen = f"guidance {guidance:g}, shift {shift:g}", []
        for step in run(steps=steps, guidance=guidance, shift=shift):
            seen.append(step)
            yield (step.index + 1) / step.steps, _draw_run(name, seen, len(seen) - 1, look)

    *_, (_, first) = work(guidance, shift, steps)
    board = Board(controls, work)
    words = (
        f"Guidance and shift explorer at guidance {guidance:g} and shift {shift:g}: the last step of {steps}"
    )
    show_widget(board.widget(first), style.to_jpeg(first, quality=QUALITY), alt=words)
    return board


def explore_words(
    prompt: str,
    encode: Callable[[str], EncodedText],
    run: Callable[[Tensor], Iterable[Step]],
    look: Look,
    *,
    word: str | None = None,
) -> Board:
    """Word surgery: choose a word of a prompt, scale its rows (0 takes it out, 2 doubles it) or swap it, and run.

    `encode(prompt)` gives the encoded text, `run(embedding)` the steps of a video painted from it.
    """
    import ipywidgets

    words = list(dict.fromkeys(prompt.replace(",", " ").replace(".", " ").split()))
    word = word or words[min(1, len(words) - 1)]
    controls = {
        "word": ipywidgets.Dropdown(options=words, value=word, description="word"),
        "strength": ipywidgets.FloatSlider(value=0.0, min=0, max=3, step=0.25, description="strength"),
        "swap": ipywidgets.Text(value="", description="swap for", placeholder="another word"),
    }

    def work(word: str, strength: float, swap: str) -> Iterable[tuple[float, np.ndarray]]:
        new = swap.strip() or word
        encoded = encode(prompt.replace(word, new, 1))
        seen = []
        for step in run(scale_word(encoded, new, strength)):
            seen.append(step)
            said = f"{word!r} swapped for {new!r}" if new != word else f"{word!r}"
            yield (
                (step.index + 1) / step.steps,
                _draw_run(f"{said}, strength {strength:g}", seen, len(seen) - 1, look),
            )

    *_, (_, first) = work(word, 0.0, "")
    board = Board(controls, work)
    words_said = (
        f"Word surgery: the last step of a video whose word {word!r} was taken out of the prompt's embedding"
    )
    show_widget(board.widget(first), style.to_jpeg(first, quality=QUALITY), alt=words_said)
    return board


def scale_word(encoded: EncodedText, word: str, strength: float) -> Tensor:
    """The embedding (length, dim) with every row of a word times `strength`: 0 takes it out."""
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
        and spoken[start].strip()
    ]  # fmt: skip
    if not found:
        raise WanError(
            f"The word {word!r} is not in the prompt: choose one of {''.join(spoken[:-1]).strip()!r}."
        )
    return found


# ------------------------------------------------------------------------------------------------- to the screen


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
