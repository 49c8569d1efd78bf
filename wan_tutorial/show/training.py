"""A training that can be watched and stopped, and the world that the scale model learns, under the hand.

In: the moments of `mini/loop.py`'s `train`, scenes. Out: a board that moves while the network learns, a panel.
"""

from __future__ import annotations

import base64
import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from wan_tutorial.show import style
from wan_tutorial.show.panel import Panel
from wan_tutorial.show.strips import plot_pictures
from wan_tutorial.show.video import Frames, film_strip, to_frames
from wan_tutorial.show.widgets import QUALITY, WIDTH, _font, picture_html

if TYPE_CHECKING:
    from torch import nn

    from wan_tutorial.mini.loop import Moment


def training_minutes(minutes: float) -> float:
    """The minutes a lesson trains: what it says, or $WAN_TUTORIAL_MINUTES, with which the kit's own tests are quick."""
    return float(os.environ.get("WAN_TUTORIAL_MINUTES", minutes))


class TrainingBoard:
    """Shows a training as it goes: its curve, and what the network makes of some pictures, beside what it should.

    with TrainingBoard(targets, look, figure="psnr", y="PSNR (dB)") as board:
        network = train(..., watch=board)

    `look(network)` gives pictures like `targets` (N, h, w, 3); `rows` names both. An interrupt of the kernel, which every
    notebook program has a square button for, ends the training after the step it is at, and what was learned until then is
    kept. (A button of its own would be heard too late: a kernel that works does not listen to widgets.)
    """

    def __init__(
        self,
        targets: Frames,
        look: Callable[[nn.Module], Frames],
        *,
        figure: str = "loss",
        y: str = "loss",
        rows: tuple[str, str] = ("to copy", "its copy"),
    ) -> None:
        self.targets, self.look, self.figure, self.y, self.rows = to_frames(targets), look, figure, y, rows
        self.minutes: list[float] = []
        self.values: list[float] = []
        self.pages: dict[str, np.ndarray] = {}  # {when: picture}: the history, for a slider
        self.copies: dict[float, np.ndarray] = {}  # {seconds: what the network made of the targets}
        self.stopped = False
        self._moment: Moment | None = None
        self._drawn, self._drawing = (
            -float("inf"),
            0.0,
        )  # when last, and how long it took: at most a tenth of the time

    def __enter__(self) -> TrainingBoard:
        import ipywidgets

        self._bar = ipywidgets.FloatProgress(min=0, max=1, layout=ipywidgets.Layout(width="420px"))
        self._said, self._image = ipywidgets.Label("starts"), ipywidgets.HTML()
        row = ipywidgets.HBox([self._bar, self._said])
        self._widget = ipywidgets.VBox([row, self._image])
        self._handle = self._display()
        self._old: Any = None
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __call__(self, moment: Moment) -> bool:
        """What `train` tells at every step; True asks it to end."""
        self._moment = moment
        self.minutes.append(moment.minutes)
        self.values.append(moment.figures[self.figure])
        self._bar.value = min(1.0, moment.share)
        at = f"{60 * moment.minutes:.0f} s, step {moment.step}"
        self._said.value = f"{at}; the kernel's \u25a0 stops it and keeps what it has learned"
        if time.monotonic() - self._drawn > max(2.0, 10 * self._drawing):
            self.draw()
        return self.stopped

    def __exit__(self, *error: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
        if self._moment is not None:
            self.draw()
            how = "stopped: what it had learned is kept" if self.stopped else "done"
            self._said.value = f"{60 * self._moment.minutes:.0f} s, step {self._moment.step}, {how}"
            data, metadata = self._page()
            self._handle.update(data, metadata=metadata, raw=True)
        elif not any(error):
            self._said.value = "no minutes are left: raise them to go on"

    def stop(self) -> None:
        """End the training after the step it is at."""
        self.stopped, self._said.value = True, "stops after this step"

    def draw(self) -> None:
        """Draw the moment, show it and remember it."""
        assert self._moment is not None
        began = time.monotonic()
        made = to_frames(self.look(self._moment.average))
        when = f"{60 * self._moment.minutes:.0f} s, step {self._moment.step}"
        page = plot_moment(
            self.minutes, self.values, self.targets, made, y=self.y, title=f"After {when}", rows=self.rows
        )
        self.pages[when] = style.to_array(page, dots=100)[:, :WIDTH]
        self.copies[60 * self._moment.minutes] = made
        self._words = str(page.get_label())
        self._image.value = picture_html(style.to_jpeg(self.pages[when], quality=QUALITY), alt=self._words)
        self._drawn, self._drawing = time.monotonic(), time.monotonic() - began

    def history(self, most: int = 5) -> dict[float, np.ndarray]:
        """Some of the copies, {seconds: pictures}: the first, the last, and between them even steps of the logarithm of
        time, as most is learned early."""
        seconds = np.array(list(self.copies))
        if len(seconds) <= most:
            return dict(self.copies)
        wanted = np.geomspace(seconds[-1], seconds[1], most - 1)
        chosen = {0, *(int(np.abs(seconds - when).argmin()) for when in wanted)}
        return {seconds[i]: self.copies[seconds[i]] for i in sorted(chosen)}

    def plot_history(self, most: int = 5) -> Figure:
        """What was to be copied on the left, and to the right of it the copies as they came along."""
        columns = {self.rows[0]: self.targets}
        columns |= {f"after {when:.0f} s": made for when, made in self.history(most).items()}
        shown = [frames[row] for row in range(len(self.targets)) for frames in columns.values()]
        alt = f"{len(self.targets)} pictures, from left to right: {', '.join(columns)}."
        return plot_pictures(shown, labels=[*columns] * len(self.targets), columns=len(columns), alt=alt)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopped:  # asked twice: really
            raise KeyboardInterrupt
        self.stop()

    def _page(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and its static picture once there is one."""
        live = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
        data: dict[str, Any] = {
            "application/vnd.jupyter.widget-view+json": live,
            "text/plain": "A training starts.",
        }
        if not self.pages:
            return data, {}
        still = style.to_jpeg(list(self.pages.values())[-1], quality=QUALITY)
        data |= {"image/jpeg": base64.b64encode(still).decode(), "text/plain": self._words}
        return data, {"image/jpeg": {"alt": self._words, "width": WIDTH}}

    def _display(self) -> Any:
        from IPython.display import display

        data, metadata = self._page()
        return display(data, metadata=metadata, raw=True, display_id=True)


@style.styled
def plot_moment(
    minutes: Sequence[float],
    values: Sequence[float],
    targets: np.ndarray,
    made: np.ndarray,
    *,
    y: str,
    title: str = "",
    rows: tuple[str, str] = ("to copy", "its copy"),
) -> Figure:
    """A curve so far on the left, and on the right pictures that should be, above what the network makes of them."""
    from wan_tutorial.mini.curves import smooth

    figure = Figure(figsize=(style.WIDTH, 2.9))
    axes = figure.add_axes((0.065, 0.16, 0.3, 0.7))
    seconds, drawn = 60 * np.asarray(minutes), np.asarray(values, dtype=np.float64)
    axes.plot(seconds, drawn, color=style.FAINT, lw=0.8)
    axes.plot(seconds, smooth(drawn), color=style.BLUE, marker="o" if len(drawn) == 1 else None)
    axes.set(xlabel="seconds", ylabel=y, xlim=(0, max(1.0, seconds[-1])))
    axes.grid(axis="y")
    style.title(axes, title)
    count, gap = len(targets), 0.004
    side = min(0.565 / count - gap, 0.46 * 2.9 / style.WIDTH)
    high = side * style.WIDTH / 2.9
    for row, (name, frames) in enumerate(zip(rows, (targets, made), strict=True)):
        for place, frame in enumerate(frames):
            left, low = 0.425 + place * (side + gap), 0.5 + (0.01 if row == 0 else -high - 0.01)
            box = style.bare(figure.add_axes((left, low, side, high)))
            box.imshow(frame, interpolation="lanczos")
            if place == 0:
                box.set_ylabel(name, fontsize=8.5, color=style.GREY)
    above = f"{count} pictures: {rows[0]}, above {rows[1]}"
    words = f"{title}: {y} from {drawn[0]:.1f} to {smooth(drawn)[-1]:.1f}; {above}"
    return style.describe(figure, f"{words}.")


def explore_scene(**start: object) -> Panel:
    """The fireside under the hand: choose what can be named, and see the video and a caption of it.

    `start`: attributes of the first scene, as `mini.world.Scene` names them.
    """
    import ipywidgets

    from wan_tutorial.mini.captions import write_caption
    from wan_tutorial.mini.world import _KNOWN, HELD_OUT, Scene, render

    first = Scene(**start)  # type: ignore[arg-type]
    slim = {"layout": ipywidgets.Layout(width="215px"), "style": {"description_width": "80px"}}
    controls: dict[str, Any] = {
        name: ipywidgets.Dropdown(
            options=[value or "none" for value in known],  # a menu whose value is None shows nothing
            value=getattr(first, name) or "none", description=name.replace("_", " "), **slim,
        )
        for name, known in _KNOWN.items() if name != "relation"
    }  # fmt: skip
    controls["relation"] = ipywidgets.Dropdown(
        options=("embedded", "beside"), value=first.relation or "embedded", description="relation", **slim
    )
    for name in ("embers", "smoke"):
        controls[name] = ipywidgets.Checkbox(getattr(first, name), description=name, indent=False,
                                             layout=ipywidgets.Layout(width="90px"))  # fmt: skip
    controls["seed"] = ipywidgets.IntSlider(
        first.seed, 0, 20, continuous_update=False, description="seed",
        layout=ipywidgets.Layout(width="330px"), style=slim["style"],
    )  # fmt: skip

    def draw(subject: str, relation: str, defect: str, seed: int, **named: Any) -> tuple[np.ndarray, str]:
        place, spoiled = None if subject == "campfire" else relation, None if defect == "none" else defect
        scene = Scene(subject=subject, relation=place, defect=spoiled, seed=seed, **named)
        caption = write_caption(scene, seed)
        held_out = "held out of all training" if scene.combination in HELD_OUT else "seen in training"
        strip = film_strip(render([scene])[0], 7, fps=16, frame_height=112)
        return _above(strip, caption, f"{', '.join(scene.combination)}: {held_out}"), f"A scene: {caption}"

    return Panel(controls, draw).show()


def _above(picture: np.ndarray, text: str, note: str) -> np.ndarray:
    """A picture with some lines of text above it, WIDTH wide."""
    shown = Image.fromarray(picture)
    lines = textwrap.wrap(f"\u201c{text}\u201d", 118)
    top = 12 + 19 * len(lines) + 20
    page = Image.new("RGB", (WIDTH, top + shown.height), style.PAPER)
    pen = ImageDraw.Draw(page)
    for index, line in enumerate(lines):
        pen.text((24, 6 + 19 * index), line, style.INK, _font(14))
    pen.text((24, top - 24), note, style.GREY, _font(12))
    page.paste(shown, (0, top))
    return np.asarray(page)
