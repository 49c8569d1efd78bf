"""The prompt lab: every setting under the hand, one run after the other, all of them remembered and compared.

Stands over the whole pipeline, which it knows only through its bench (`experiments.Experiments`): that makes the runs
and keeps them. In: the bench and the settings to begin with. Out: a panel of widgets. All state is in Python; the work
is done by one thread beside the kernel's own, so that the controls answer while a video is painted.

Only what ipywidgets 7.7 and 8 share is used: plain controls, pictures as bytes, HTML in the page's own colours.
"""

from __future__ import annotations

import queue
import re
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from html import escape, unescape
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from wan_tutorial.errors import WanError
from wan_tutorial.machine.weights import find_model
from wan_tutorial.sampling.schedules import SCHEDULERS
from wan_tutorial.sampling.solvers import SOLVERS
from wan_tutorial.show import runs, style
from wan_tutorial.show.widgets import show_widget
from wan_tutorial.sizes import VideoSize

VIEWS = ("Video", "Side by side", "Difference", "Steps")
STAGES = {"model": "Reading the model", "text": "Reading the prompt", "context": "Reading the picture",
          "steps": "Painting", "decode": "Decoding", "record": "Writing it down"}  # fmt: skip
# Settings whose value is the control's own, whatever else is chosen.
PLAIN = ("prompt", "negative", "seed", "steps", "guidance", "shift", "sampler", "scheduler", "fit")
# Values to begin with, when a setting is chosen for a grid.
GRID = {
    "guidance": "1, 3, 6, 9", "steps": "4, 8, 16", "shift": "1, 3, 8", "seed": "1, 2, 3, 4",
    "sampler": "euler, uni_pc", "scheduler": "simple, beta", "denoise": "0.5, 0.7, 0.9", "vace_strength": "0.5, 1, 1.5",
}  # fmt: skip
GUESS_EVERY = 0.25  # seconds: what an eye follows; more would slow the run
CLEAN_GUESS = "<span class='wan-quiet'>The clean guess: where the model thinks it will end.</span>"
CSS = """<style>
.wan-lab { gap: 16px; align-items: flex-start; flex-flow: row wrap; overflow: visible; padding: 4px 2px 12px;
  color: var(--jp-ui-font-color1, inherit); font-family: var(--jp-ui-font-family, system-ui, sans-serif); }
.wan-lab .wan-column, .wan-lab .wan-card, .wan-lab .wan-row { gap: 10px; overflow: visible; min-width: 0; }
.wan-lab .wan-card { padding: 14px; border: 1px solid var(--jp-border-color2, #8885); border-radius: 10px;
  background: var(--jp-layout-color1, transparent); }
.wan-lab .wan-column > .wan-card { margin: 0 0 6px; }
.wan-lab .wan-row { align-items: flex-end; flex-flow: row nowrap; }
.wan-lab .wan-row > * { min-width: 0; }
.wan-lab .wan-wrap { flex-wrap: wrap; align-items: center; }
.wan-lab .wan-field { flex-direction: column; align-items: stretch; height: auto; width: auto; margin: 0; gap: 3px;
  position: relative; overflow: visible; }
.wan-lab .wan-field > .widget-label { width: auto; height: auto; max-width: none; text-align: left; line-height: 17px;
  font-size: 12px; color: var(--jp-ui-font-color2, inherit); margin: 0; }
.wan-lab .wan-field > :not(label) { width: 100%; max-width: none; margin: 0; flex: none; box-sizing: border-box; }
.wan-lab .wan-field > select:not([multiple]), .wan-lab .wan-field > input { height: 30px; line-height: 28px; }
.wan-lab .wan-field > select:not([multiple]) { padding-left: 8px; }
.wan-lab .wan-field > .slider-container { height: 30px; padding: 9px 8px 0; }
.wan-lab .wan-field > .widget-readout { position: absolute; top: -1px; right: 0; width: auto; height: 18px;
  line-height: 18px; min-width: 30px; padding: 0; text-align: right; font-size: 12px; }
.wan-lab .wan-field select { font-family: inherit; }
.wan-lab .wan-field > select[multiple] { padding: 4px 6px; line-height: 1.6; }
.wan-lab .wan-field textarea { min-height: 52px; line-height: 1.45; padding: 7px 9px; resize: vertical; flex: none;
  font-family: inherit; }
.wan-lab input, .wan-lab select, .wan-lab textarea, .wan-lab .jupyter-button { border-radius: 6px; }
.wan-lab .jupyter-button { margin: 0; height: 30px; line-height: 30px; padding: 0 14px; box-shadow: none !important; }
.wan-lab .widget-toggle-button.mod-active { background: transparent; font-weight: 600;
  box-shadow: inset 0 0 0 1.5px var(--jp-brand-color1, #1976d2) !important; color: inherit; }
.wan-lab :focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
.wan-lab .widget-html, .wan-lab .widget-html-content { height: auto; margin: 0; min-width: 0; line-height: 1.45; }
.wan-lab .widget-image { margin: 0; height: auto; max-width: 100%; object-fit: contain; }
.wan-lab .wan-screen { border-radius: 8px; align-self: center; }
.wan-lab .widget-hprogress { height: 8px; align-self: center; margin: 0; }
.wan-lab .progress { height: 8px; margin: 0; border-radius: 4px; background: var(--jp-layout-color3, #8883); border: 0; }
.wan-lab .progress-bar { border-radius: 4px; }
.wan-lab .wan-choice { width: auto; height: auto; margin: 0; }
.wan-lab .wan-choice > :not(label) { flex-wrap: wrap; margin: 0; gap: 6px; display: flex; }
.wan-lab .wan-choice .widget-toggle-button { width: auto; min-width: 0; padding: 0 9px; margin: 0; font-size: 12.5px; }
.wan-lab .noUi-handle { border: 1.5px solid var(--jp-ui-font-color2, #777); }
.wan-lab .wan-choice > .widget-label { position: absolute; width: 1px; height: 1px; overflow: hidden; margin: 0;
  clip-path: inset(50%); }
.wan-lab .wan-tabs { border-bottom: 1px solid var(--jp-border-color2, #8885); }
.wan-lab .wan-tabs .widget-toggle-button { background: none; font-size: 14px; border-radius: 0; padding: 0 4px;
  margin-right: 12px; height: 34px; border-bottom: 2px solid transparent; }
.wan-lab .wan-tabs .widget-toggle-button.mod-active { border-bottom-color: var(--jp-brand-color1, #1976d2);
  box-shadow: none !important; }
.wan-lab .wan-quiet { color: var(--jp-ui-font-color2, inherit); font-size: 13px; }
.wan-lab .wan-problem { color: var(--jp-error-color0, #c33); }
.wan-lab h3 { margin: 0; font-size: 13px; font-weight: 600; line-height: 30px; }
.wan-lab table.wan-settings { border-collapse: collapse; font-size: 13px; margin: 0; }
.wan-lab .wan-settings tr, .wan-lab .wan-grid tr { background: none !important; }
.wan-lab .wan-settings th { font-weight: 400; color: var(--jp-ui-font-color2, inherit); text-align: left;
  padding: 1px 14px 1px 0; vertical-align: top; white-space: nowrap; }
.wan-lab .wan-settings td { text-align: left; padding: 1px 0; white-space: normal; }
.wan-lab table.wan-grid { border-collapse: separate; border-spacing: 6px; margin: 0 -6px; font-size: 12px; }
.wan-lab .wan-grid th { font-weight: 500; text-align: left; color: var(--jp-ui-font-color2, inherit); padding: 0; }
.wan-lab .wan-grid td { padding: 0; text-align: center; min-width: 64px; }
.wan-lab .wan-grid img { border-radius: 6px; display: block; width: 100%; max-width: 144px; }
</style>"""


class Stopped(Exception):
    """The run at hand was cancelled."""


class Desk:
    """One thread that does one piece of work after the other, in order; the piece at hand can be stopped."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[Callable[[], None]] = queue.Queue()
        self.stopping = threading.Event()
        threading.Thread(target=self._work, daemon=True, name="prompt lab").start()

    def add(self, work: Callable[[], None]) -> None:
        self.waiting.put(work)

    def stop(self) -> None:
        """Ask the piece at hand to end at its next `check`, and forget those that wait."""
        self.stopping.set()
        while not self.waiting.empty():
            self.waiting.get()
            self.waiting.task_done()

    def check(self) -> None:
        if self.stopping.is_set():
            raise Stopped

    def wait(self) -> None:
        """Until nothing is left to do."""
        self.waiting.join()

    def _work(self) -> None:
        while True:
            work = self.waiting.get()
            self.stopping.clear()
            try:
                work()
            except Exception:  # noqa: BLE001 - a fault is shown, and the next piece is done all the same
                traceback.print_exc()
            finally:
                self.waiting.task_done()


class Lab:
    """The panel. `parts` are its widgets by name; each button is a method too: `run`, `cancel`, `run_grid`, ..."""

    def __init__(self, bench: Any, settings: Any, *, executor: Any = None) -> None:
        self.bench, self.desk, self.first, self.executor = bench, Desk(), settings, executor
        self.records: list[Any] = bench.history()  # oldest first
        self.record: Any = None  # the run on the screen
        self.other: Any = self.records[-2] if len(self.records) > 1 else None  # the one beside it
        self.error: Exception | None = None  # what ended the last piece of work
        self.parts: dict[str, Any] = {}
        self.loras: list[dict[str, Any]] = []  # rows: on, file, strength
        self.film: tuple[np.ndarray, float, list[str]] | None = (
            None  # on the screen: frames, a second's, labels
        )
        self.busy, self.filling, self.steps_began, self.guess_shown = False, False, 0.0, 0.0
        self.widget = self._build()
        self.use(settings)
        self._refresh(self.records[-1] if self.records else None)
        self.desk.add(lambda: self._doing(self._warm))

    def show(self) -> None:
        """Put the panel on the page; where there is no kernel, a picture of it stays."""
        plan = unescape(re.sub("<[^>]+>", " ", self.parts["plan"].value)).strip()
        record = self.record
        try:
            page = runs.draw_panel(record, self.settings, plan)
        except WanError:  # its frames are gone or damaged, as the status says: the panel opens all the same
            record, page = None, runs.draw_panel(None, self.settings, plan)
        static = style.to_jpeg(page, quality=84)
        screen = f"Run {record.number} is on its screen" if record else "Its screen is empty"
        alt = f"The prompt lab, with the prompt: {self.settings.prompt}. {plan} {screen}."
        show_widget(self.widget, static, alt=alt)

    # ------------------------------------------------------------------------------------------- the controls

    def _build(self) -> Any:
        controls = self._box([self._prompts(), self._sampling(), self._lora_card(), self._reference_card()])
        desk = self._box([self._run_card(), self._look_card()])
        controls.layout.flex, desk.layout.flex, controls.layout.max_width = "1 1 250px", "2 1 330px", "400px"
        box = ipywidgets.HBox([ipywidgets.HTML(CSS, layout={"display": "none"}), controls, desk])
        box.add_class("wan-lab")
        return box

    def _field(self, name: str, kind: Any, label: str, *, flex: str = "1 1 0", **given: Any) -> Any:
        """A control with its label above it; the label is the control's own, so that it is read out with it."""
        control = kind(description=label, **given)
        control.layout.flex, control.layout.width = flex, "auto"
        control.add_class("wan-field")
        self.parts[name] = control
        return control

    def _button(self, name: str, label: str, action: Callable[[], Any], tip: str, **given: Any) -> Any:
        button = ipywidgets.Button(description=label, tooltip=tip, layout={"width": "auto"}, **given)
        button.on_click(lambda _: self._safely(action))
        self.parts[name] = button
        return button

    def _toggle(self, name: str, label: str, tip: str) -> Any:
        """A button that stays down."""
        toggle = ipywidgets.ToggleButton(value=True, description=label, tooltip=tip, layout={"width": "auto"})
        self.parts[name] = toggle
        return toggle

    def _choice(self, name: str, label: str, options: tuple[str, ...]) -> Any:
        choice = ipywidgets.ToggleButtons(description=label, options=options)
        choice.add_class("wan-choice")
        self.parts[name] = choice
        return choice

    def _words(self, name: str, text: str = "") -> Any:
        self.parts[name] = ipywidgets.HTML(text)
        return self.parts[name]

    def _row(self, *children: Any, wrap: bool = False) -> Any:
        row = ipywidgets.HBox(list(children))
        row.add_class("wan-row")
        if wrap:
            row.add_class("wan-wrap")
        return row

    def _box(self, children: list[Any], kind: str = "wan-column") -> Any:
        column = ipywidgets.VBox(children)
        column.add_class(kind)
        return column

    def _prompts(self) -> Any:
        seed = self._field("seed", ipywidgets.BoundedIntText, "Seed", min=0, max=2**31 - 1)
        dice = self._button("dice", "New seed", self.roll, "Choose a seed at random")
        prompt = self._field("prompt", ipywidgets.Textarea, "Prompt", flex="none", rows=4)
        negative = self._field("negative", ipywidgets.Textarea, "Negative prompt", flex="none", rows=2)
        return self._box([prompt, negative, self._row(seed, dice)], "wan-card")

    def _sampling(self) -> Any:
        drop, number, whole = ipywidgets.Dropdown, ipywidgets.BoundedFloatText, ipywidgets.BoundedIntText
        field = self._field
        rows = [
            self._row(field("model", drop, "Model", options=self.bench.models())),
            self._row(*(field(side, drop, side.capitalize()) for side in ("width", "height", "frames"))),
            self._row(field("steps", whole, "Steps", min=1, max=99),
                      field("guidance", number, "Guidance", min=0, max=20, step=0.5),
                      field("shift", number, "Shift", min=0.5, max=20, step=0.5)),
            self._row(field("sampler", drop, "Sampler", options=list(SOLVERS)),
                      field("scheduler", drop, "Scheduler", options=list(SCHEDULERS))),
            self._row(field("start", drop, "Start from", options=[("pure noise", "")]),
                      field("denoise", ipywidgets.FloatSlider, "Denoise", min=0.1, max=1, step=0.05, value=1)),
        ]  # fmt: skip
        for name in ("width", "height", "frames", "steps", "guidance", "start"):
            self.parts[name].observe(lambda _: self._changed(), names="value")
        self.parts["model"].observe(lambda _: self._new_model(), names="value")
        return self._box(rows, "wan-card")

    def _lora_card(self) -> Any:
        add = self._button("add_lora", "Add", self.add_lora, "Put another LoRA on the model")
        add.disabled = not self.bench.loras()
        none = "No LoRA on the model." if self.bench.loras() else "No LoRA file is at hand."
        self.parts["loras"] = self._box([])
        title = ipywidgets.HTML("<h3>LoRAs</h3>", layout={"flex": "1 1 0"})
        words = self._words("no_lora", f"<span class='wan-quiet'>{none}</span>")
        return self._box([self._row(title, add), words, self.parts["loras"]], "wan-card")

    def _reference_card(self) -> Any:
        upload = ipywidgets.FileUpload(accept="image/*", description="Upload", layout={"width": "auto"})
        upload.observe(lambda change: self._safely(partial(self._take_picture, change["new"])), names="value")
        picture = self._field("reference", ipywidgets.Dropdown, "Reference", options=[("none", "")])
        picture.observe(lambda _: self._changed(), names="value")
        fits = [("whole, on white", "pad"), ("cut to shape", "crop")]
        fit = self._field("fit", ipywidgets.Dropdown, "Fit", options=fits)
        strength = self._field(
            "vace_strength", ipywidgets.FloatSlider, "Strength", min=0, max=2, step=0.05, value=1
        )
        thumb = ipywidgets.Image(format="webp", layout={"display": "none", "max_width": "96px"})
        self.parts |= {"upload": upload, "thumb": thumb}
        return self._box([self._row(picture, upload), self._row(fit, strength), thumb], "wan-card")

    def _run_card(self) -> Any:
        run = self._button("run", "Run", self.start, "Make a video of these settings", button_style="primary")
        cancel = self._button(
            "cancel", "Cancel", self.cancel, "Stop the run at hand and forget those that wait"
        )
        bar = ipywidgets.FloatProgress(min=0, max=1, layout={"flex": "1 1 80px", "width": "auto"})
        cancel.disabled, self.parts["bar"] = True, bar
        return self._box(
            [self._row(run, cancel, bar), self._words("status"), self._words("plan")], "wan-card"
        )

    def _look_card(self) -> Any:
        tabs = self._choice("tab", "Part of the panel", ("Look", "History", "Grid"))
        tabs.add_class("wan-tabs")
        tabs.observe(lambda change: self._turn(change["new"]), names="value")
        self.pages = {"Look": self._screen(), "History": self._history(), "Grid": self._grid()}
        self._turn("Look")
        return self._box([tabs, *self.pages.values()], "wan-card")

    def _turn(self, page: str) -> None:
        for name, part in self.pages.items():
            part.layout.display = None if name == page else "none"

    def _screen(self) -> Any:
        screen = ipywidgets.Image(format="webp")
        screen.add_class("wan-screen")
        view = self._choice("view", "View", VIEWS)
        play = self._toggle("play", "Play", "Play, or stand still")
        loop = self._toggle("loop", "Loop", "Begin again at the end")
        place = ipywidgets.IntSlider(description="Frame", min=0, max=0, readout=False)
        place.layout.flex, place.style.description_width = "1 1 140px", "initial"
        for control, action in (
            (view, self._look),
            (play, self._draw),
            (loop, self._draw),
            (place, self._scrub),
        ):
            control.observe(lambda _, action=action: self._safely(action), names="value")
        self.parts |= {"screen": screen, "place": place}
        bar = self._row(play, loop, place, self._words("where"), wrap=True)
        return self._box([view, screen, bar, self._words("caption")])

    def _history(self) -> Any:
        label = "Runs, newest first (Ctrl or Shift: several)"
        picks = self._field("picks", ipywidgets.SelectMultiple, label, flex="none", rows=8)
        picks.observe(lambda _: self._safely(self._details), names="value")
        buttons = [
            self._button("show", "Show", self.show_picked, "Show the chosen run on the screen"),
            self._button("compare", "Compare", self.compare_picked, "Show the two chosen runs side by side"),
            self._button("reuse", "Use its settings", self.use_picked, "Put its settings into the controls"),
            self._button(
                "repeat", "Repeat", self.repeat_picked, "Run it again; the same video must come out"
            ),
            self._button(
                "page", "Save a page", self.save_page, "One HTML page of the chosen runs, or of all"
            ),
        ]
        return self._box([picks, self._row(*buttons, wrap=True), self._words("said"), self._words("details")])

    def _grid(self) -> Any:
        names = [(name.replace("_", " "), name) for name in GRID]
        rows = []
        for side, label, options in (
            ("across", "Across", names),
            ("down", "Down", [("nothing", ""), *names]),
        ):
            pick = self._field(side, ipywidgets.Dropdown, label, options=options)
            values = self._field(
                f"{side}_values", ipywidgets.Text, "Values, with commas between", flex="2 1 0"
            )
            values.value = GRID.get(pick.value, "")
            pick.observe(partial(self._suggest, values), names="value")
            rows.append(self._row(pick, values))
        tip = "A video for each pair of values; what is there already is not made again"
        start = self._button("run_grid", "Run the grid", self.start_grid, tip)
        return self._box([*rows, self._row(start), self._words("grid")])

    def _suggest(self, values: Any, change: Mapping[str, Any]) -> None:
        values.value = GRID.get(change["new"], "")

    # --------------------------------------------------------------------------------------- settings in and out

    @property
    def settings(self) -> Any:
        """What the controls say."""
        value = {name: part.value for name, part in self.parts.items() if hasattr(part, "value")}
        return replace(
            self.first,
            **{name: value[name] for name in ("model", *PLAIN)},
            size=self._size(),
            start=value["start"] or None,
            denoise=value["denoise"] if value["start"] else 1.0,
            loras=tuple((row["file"].value, row["strength"].value) for row in self.loras if row["on"].value),
            reference=value["reference"] or None,
            vace_strength=value["vace_strength"] if value["reference"] else 1.0,
        )

    def _size(self) -> VideoSize:
        return VideoSize(*(self.parts[name].value for name in ("width", "height", "frames")))

    def use(self, settings: Any) -> None:
        """Put settings into the controls."""
        with self._filling():
            self.parts["model"].value = settings.model
            self._offer_sizes(settings.video_size)
            self._offer("start", self._starts(settings.start), settings.start)
            pictures = [
                ("none", ""),
                *((path.stem.replace("_", " "), str(path)) for path in self.bench.pictures()),
            ]
            self._offer("reference", pictures, settings.reference)
            for name in (*PLAIN, "denoise", "vace_strength"):
                _put(self.parts[name], getattr(settings, name))
            self.loras = []
            for path, strength in settings.loras:
                self.add_lora(path, strength)
            self._draw_loras()

    @contextmanager
    def _filling(self) -> Iterator[None]:
        """Many controls are set at once: what follows from them is worked out once, after the last."""
        before, self.filling = self.filling, True
        try:
            yield
        finally:
            self.filling = before
        self._changed()

    def _offer(self, name: str, options: list[tuple[str, str]], chosen: str | None) -> None:
        """Fill a list of files, and choose one, which is added if it is not there."""
        if chosen and chosen not in [path for _, path in options]:
            options = [*options, (Path(chosen).stem, chosen)]
        self.parts[name].options = options
        self.parts[name].value = chosen or ""

    def _offer_sizes(self, size: VideoSize) -> None:
        """Only what Wan can make: multiples of 16 pixels, 4k + 1 frames."""
        light = find_model(self.parts["model"].value).light
        pixels, frames = (
            (range(48, 161, 16), range(1, 34, 4)) if light else (range(256, 1281, 16), range(1, 122, 4))
        )
        for name, offered in (("width", pixels), ("height", pixels), ("frames", frames)):
            value = getattr(size, name)
            self.parts[name].options = sorted({*offered, value})
            self.parts[name].value = value

    def _starts(self, chosen: str | None) -> list[tuple[str, str]]:
        """Videos to start from: earlier runs of the size that is set, and the files that the lab and a run were given."""
        size, every = self._size(), {str(one.folder / "frames.png"): one for one in reversed(self.records)}
        fitting = [
            (f"run {one.number}", path) for path, one in every.items() if one.settings.video_size == size
        ]
        given = [path for path in dict.fromkeys((self.first.start, chosen)) if path and path not in every]
        return [("pure noise", ""), *fitting, *(("/".join(Path(path).parts[-2:]), path) for path in given)]

    def _new_model(self) -> None:
        """Another model: its own size and sampling settings."""
        if not self.filling:
            value = {name: self.parts[name].value for name in ("prompt", "negative", "model", "seed")}
            self.use(type(self.first)(**value))

    def _changed(self) -> None:
        """A control was moved: what follows from it."""
        if self.filling:
            return
        chosen = self.parts["start"].value
        starts = self._starts(chosen)
        if [path for _, path in starts] != [path for _, path in self.parts["start"].options]:
            with self._filling():
                self._offer("start", starts, chosen if chosen in [path for _, path in starts] else None)
            return
        self.parts["denoise"].disabled = not self.parts["start"].value
        chosen = self.parts["reference"].value
        self.parts["fit"].disabled = self.parts["vace_strength"].disabled = not chosen
        self.parts["thumb"].layout.display = None if chosen else "none"
        self._plan()
        if chosen:
            self._safely(lambda: setattr(self.parts["thumb"], "value", runs.thumbnail(chosen)))

    def _plan(self) -> None:
        """What these settings will take here, and why they cannot be run, if they cannot."""
        run = self.parts["run"]
        try:
            plan, missing = self.bench.plan(self.settings), self.bench.missing(self.parts["model"].value)
        except WanError as error:
            run.disabled, self.parts["plan"].value = True, _problem(error)
            return
        run.disabled, run.description = missing is not None, "Run" if plan.fits else "Run all the same"
        run.button_style = "primary" if plan.fits else "warning"
        self.parts["plan"].value = _plan_words(plan) + (_problem(missing) if missing else "")

    def roll(self) -> None:
        """A new seed, by chance."""
        self.parts["seed"].value = secrets.randbelow(10**6)

    def add_lora(self, path: str | None = None, strength: float = 1.0) -> None:
        """One more LoRA: on or off, which file, how strong."""
        files = [str(one) for one in self.bench.loras()]
        if path and path not in files:
            files.append(path)
        row: dict[str, Any] = {
            "on": ipywidgets.Checkbox(value=True, indent=False, description="on", layout={"width": "52px"}),
            "file": ipywidgets.Dropdown(options=[(Path(one).stem, one) for one in files], value=path or files[0],
                                        description="LoRA"),
            "strength": ipywidgets.BoundedFloatText(value=0, min=-2, max=2, step=0.1, description="Strength"),
            "remove": ipywidgets.Button(description="Remove", tooltip="Take this LoRA off", layout={"width": "auto"}),
        }  # fmt: skip
        _put(row["strength"], strength)
        for name, flex in (("file", "2 1 0"), ("strength", "1 1 0")):
            row[name].add_class("wan-field")
            row[name].layout.flex, row[name].layout.width = flex, "auto"
        row["remove"].on_click(lambda _: self.remove_lora(row))
        row["on"].observe(lambda _: self._changed(), names="value")
        self.loras.append(row)
        self._draw_loras()
        self._changed()

    def remove_lora(self, row: dict[str, Any]) -> None:
        self.loras = [one for one in self.loras if one is not row]
        self._draw_loras()
        self._changed()

    def _draw_loras(self) -> None:
        lines = [
            (self._row(row["file"], row["strength"]), self._row(row["on"], row["remove"]))
            for row in self.loras
        ]
        self.parts["loras"].children = [part for line in lines for part in line]
        self.parts["no_lora"].layout.display = "none" if self.loras else None

    def _take_picture(self, given: Any) -> None:
        """An uploaded file; ipywidgets 7 gives a dictionary of files, ipywidgets 8 a tuple."""
        if isinstance(given, Mapping):
            files = [(name, one["content"]) for name, one in given.items()]
        else:
            files = [(one["name"], bytes(one["content"])) for one in given]
        for name, data in files[-1:]:
            path = self.bench.add_picture(name, data)
            self.use(replace(self.settings, reference=str(path)))

    # ------------------------------------------------------------------------------------------------- running

    def start(self) -> None:
        """Press Run: now, or after what is being done."""
        settings = self.settings
        self._queue(lambda: self._paint(settings))

    def run(self) -> Any:
        """Press Run and wait for the record; raises what went wrong."""
        self.start()
        return self._wait()

    def cancel(self) -> None:
        """Stop within a step, and forget what waits."""
        self.desk.stop()
        self._say("Stopping after this step.")

    def _wait(self) -> Any:
        self.desk.wait()
        if self.error:
            raise self.error
        return self.record

    def _queue(self, work: Callable[[], str]) -> None:
        self.desk.add(lambda: self._doing(work))
        if self.busy:
            self._say(self.status_words)

    @property
    def status_words(self) -> str:
        waiting = self.desk.waiting.qsize()
        return f"{self.now}{f'; {waiting} more waiting' if waiting else ''}."

    now = "Ready"
    within = ""  # of a grid: which of its videos is being made

    def _doing(self, work: Callable[[], str]) -> None:
        """One piece of work on the desk's thread, from its first word to its last."""
        self.error, self.busy = None, True
        self.parts["cancel"].disabled = False
        try:
            self._finish(work())
        except Stopped:
            self.error = WanError("The run was cancelled.")  # or `run` would return the run before it
            self._finish("Cancelled", whole=False)
        except WanError as error:
            self.error = error
            self._finish("", whole=False, problem=str(error))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is said in the panel, and raised by `run`
            self.error = error
            told = str(error).strip().splitlines()
            words = f"{type(error).__name__}: {told[0] if told else 'no reason given'}"
            self._finish("", whole=False, problem=f"Something unexpected went wrong: {words}")

    def _finish(self, words: str, *, whole: bool = True, problem: str = "") -> None:
        self.busy = False
        self.parts["cancel"].disabled = True
        self.parts["bar"].value = float(whole and words != "Ready")
        self._say(words and f"{words}.") if not problem else self._complain(problem)
        if self.film is None:
            self._safely(self._look)  # what is to be seen may be gone from the disk

    def _say(self, words: str) -> None:
        self.parts["status"].value = f"<div role='status' aria-live='polite'>{escape(words)}</div>"

    def _complain(self, words: object) -> None:
        self.parts["status"].value = _problem(words)

    def _safely(self, action: Callable[[], Any]) -> None:
        """What a control does; an error is one sentence in the panel."""
        if self.filling:
            return
        try:
            action()
        except WanError as error:
            self._complain(error)

    def _warm(self) -> str:
        """Read the model while a person reads the panel; what is not here is said by the plan."""
        self.now = STAGES["model"]
        self._say(f"{self.now}.")
        try:
            self.bench.warm(self.first.model)
        except WanError:
            pass
        return "Ready"

    def _paint(self, settings: Any) -> str:
        began = time.perf_counter()
        record = self.bench.run(settings, see=self._see)
        self._refresh(record)
        return f"Run {record.number} took {time.perf_counter() - began:.1f} seconds"

    def _see(self, moment: Any) -> None:
        """A moment of a run: shown at once. Raises Stopped where the run was cancelled."""
        self.desk.check()
        self.film, total = None, moment.total + 2
        if moment.stage == "steps":
            if moment.done == 1:
                self.steps_began = time.perf_counter() - 1e-9
            self.parts["bar"].value = (moment.done + 1) / total
            words = f"Painting: step {moment.done} of {moment.total}"
            if moment.done > 1:
                each = (time.perf_counter() - self.steps_began) / (moment.done - 1)
                words += f", about {_spoken(each * (moment.total - moment.done + 1))} left"
            if moment.done == 1 or time.perf_counter() - self.guess_shown > GUESS_EVERY:
                self._put(runs.scaled(moment.guess, runs.SCREEN // 2), fps=4)
                self.parts["caption"].value = CLEAN_GUESS
                self.guess_shown = time.perf_counter()
        else:
            words = STAGES[moment.stage]
            self.parts["bar"].value = {"text": 0.02, "context": 0.02}.get(moment.stage, 0.97)
        self.now = self.within + words
        self._say(self.status_words)

    # ------------------------------------------------------------------------------------------------- looking

    def _refresh(self, record: Any) -> None:
        """The records have changed: the newest goes on the screen, and the one that was there beside it."""
        self.records = self.bench.history()
        with self._filling():
            self.parts["picks"].options = [(str(one)[:110], one.id) for one in reversed(self.records)]
            self.parts["picks"].value = (record.id,) if record else ()
            chosen = self.parts["start"].value
            self._offer("start", self._starts(chosen), chosen)
        if record is not None and self.record is not None and record.id != self.record.id:
            self.other = self.record
        self.record = record
        self._safely(self._look)  # a run whose files are damaged does not take the others with it
        self._safely(self._details)

    def _look(self) -> None:
        """Put the chosen view of the run, or of two, on the screen."""
        if self.record is None:
            self.parts["screen"].layout.display = "none"
            self.parts["caption"].value = "<span class='wan-quiet'>Nothing is painted yet: press Run.</span>"
            return
        view = self.parts["view"].value
        if view in ("Side by side", "Difference") and self.other is None:
            with self._filling():
                self.parts["view"].value = "Video"
            raise WanError(
                f"{view} needs a second run: make one, or choose two in History and press Compare."
            )
        films = dict(zip(VIEWS, (self._video, self._beside, self._apart, self._steps), strict=True))
        self.film, caption = films[view]()
        if self.other is not None and view != "Video":
            caption += f".<br>{_apart_words(self.other, self.record)}"
        self.parts["caption"].value = f"<span class='wan-quiet'>{caption}.</span>"
        with self._filling():
            self.parts["place"].description = self.unit.capitalize()
            self.parts["place"].max = len(self.film[0]) - 1
            self.parts["place"].value = min(self.parts["place"].value, len(self.film[0]) - 1)
        self._draw()

    def _frames(self, count: int) -> list[str]:
        return [f"{index + 1} of {count}, {index / self.record.fps:.2f} s" for index in range(count)]

    @property
    def unit(self) -> str:
        """What the film on the screen is made of."""
        return "step" if self.parts["view"].value == "Steps" else "frame"

    def _video(self) -> Any:
        frames = self.record.frames()
        words = f"Run {self.record.number}: {escape(self.record.settings.prompt)}"
        return (runs.beside([frames]), self.record.fps, self._frames(len(frames))), words.rstrip(".")

    def _beside(self) -> Any:
        film = runs.beside([self.other.frames(), self.record.frames()])
        words = f"Left run {self.other.number}, right run {self.record.number}"
        return (film, self.record.fps, self._frames(len(film))), words

    def _apart(self) -> Any:
        apart, mean = runs.difference(self.other.frames(), self.record.frames())
        words = f"The lighter, the more they differ; {mean:.1f} of 255 on average, shown {runs.LOUDER} times as large"
        return (runs.beside([apart]), self.record.fps, self._frames(len(apart))), words

    def _steps(self) -> Any:
        both = [one for one in (self.other, self.record) if one is not None]
        films = [runs.steps_film(one.guesses()) for one in both]
        film = runs.stacked(films)
        levels = self.record.settings.sampling.sigmas.tolist()
        labels = [
            f"{index + 1}, sigma {levels[min(index, len(levels) - 1)]:.3f}" for index in range(len(film))
        ]
        words = " above ".join(f"run {one.number}" for one in both)
        return (film, 4, labels), f"The clean guess after each step, frames from left to right: {words}"

    def _scrub(self) -> None:
        """A hand on the slider: the film stands still there."""
        if self.parts["play"].value:
            self.parts["play"].value = False  # which draws
        else:
            self._draw()

    def _draw(self) -> None:
        """The bytes on the screen: the film, which the browser plays by itself, or one frame of it."""
        if self.film is None:
            return
        film, fps, labels = self.film
        playing, place = self.parts["play"].value, self.parts["place"].value
        shown = film if playing else film[place : place + 1]
        width = 2 * film.shape[2] if self.unit == "step" else None
        self._put(shown, fps=fps, loop=self.parts["loop"].value, width=width)
        self.parts["play"].description = "Pause" if playing else "Play"
        self.parts[
            "where"
        ].value = (
            f"<span class='wan-quiet'>{f'{len(film)} {self.unit}s' if playing else labels[place]}</span>"
        )

    def _put(self, film: np.ndarray, *, fps: float, loop: bool = True, width: int | None = None) -> None:
        """A film, or a still, on the screen; of the screen's height, if no width is given."""
        screen, height = self.parts["screen"], film.shape[1]
        data = runs.to_webp(film, fps=fps, loop=loop)  # takes a moment: before the old film changes its width
        screen.layout.display = None
        screen.layout.width = f"{width or 2 * runs.SCREEN * film.shape[2] // height}px"
        screen.value = data

    # ------------------------------------------------------------------------------------------------- history

    def _picked(self, most: int | None = None) -> list[Any]:
        """The chosen runs, in the order in which they were made."""
        chosen = [one for one in self.records if one.id in self.parts["picks"].value]
        if not chosen or (most and len(chosen) != most):
            raise WanError(
                f"Choose {('one run', 'two runs')[most - 1] if most else 'some runs'} in the list first."
            )
        return chosen

    def _details(self) -> None:
        chosen = [one for one in self.records if one.id in self.parts["picks"].value]
        if len(chosen) == 2:
            self.parts["details"].value = f"{_apart_words(*chosen)}."
        else:
            self.parts["details"].value = runs.settings_table(chosen[0]) if len(chosen) == 1 else ""

    def show_picked(self) -> None:
        (self.record,) = self._picked(1)
        self.parts["tab"].value = "Look"
        self._look()

    def compare_picked(self) -> None:
        self.other, self.record = self._picked(2)
        self.parts["tab"].value = "Look"
        with self._filling():
            self.parts["view"].value = "Side by side"
        self._look()

    def use_picked(self) -> None:
        (record,) = self._picked(1)
        self.use(record.settings)

    def repeat_picked(self) -> None:
        (record,) = self._picked(1)
        self._queue(lambda: self._again(record))

    def _again(self, record: Any) -> str:
        again = self.bench.repeat(record, see=self._see)
        self._refresh(again)
        return f"Run {again.number} repeats run {record.number}: the same video, bit for bit"

    def save_page(self, path: str | Path | None = None) -> Path:
        """Write the chosen runs, or all if none is chosen, as one HTML page."""
        chosen = self._picked() if self.parts["picks"].value else self.records
        path = runs.write_page(
            chosen, path or Path(self.bench.folder) / "page.html", words=type(self.first).unlike
        )
        runs_said = f"{len(chosen)} run{'s' if len(chosen) > 1 else ''}, {path.stat().st_size / 1e6:.1f} MB"
        self.parts["said"].value = f"<span role='status'>Wrote {escape(str(path))}: {runs_said}.</span>"
        return path

    # ---------------------------------------------------------------------------------------------------- grid

    def _axes(self) -> dict[str, list[Any]]:
        """What the grid goes over: the columns' setting last."""
        axes = {}
        for side in ("down", "across"):
            name = self.parts[side].value
            if name:
                kind = type(getattr(self.settings, name))
                axes[name] = [
                    _read(kind, name, word) for word in self.parts[f"{side}_values"].value.split(",")
                ]
        return axes

    def start_grid(self) -> None:
        """Make a video for each cell; cells that are there already are taken from the history."""
        settings, axes = self.settings, self._axes()
        cells = settings.spread(axes)
        self._queue(lambda: self._fill_grid(settings, axes, cells))

    def run_grid(self) -> list[Any]:
        """Run the grid and wait for its records, in the order of the cells."""
        self.start_grid()
        self._wait()
        return self.grid_records

    grid_records: list[Any] = []

    def _fill_grid(self, settings: Any, axes: dict[str, list[Any]], cells: list[Any]) -> str:
        keys = [self.bench.key(cell) for cell in cells]
        made: dict[str, tuple[Any, str]] = {}
        self.within = f"Video 1 of {len(cells)}. "
        try:
            for record in self.bench.grid(settings, axes, executor=self.executor, see=self._see):
                made[record.key] = (record, runs.playing(record, 144))
                self.parts["grid"].value = runs.grid_table(
                    axes, [made[key][1] if key in made else None for key in keys]
                )
                self.now = f"{len(made)} of {len(cells)} videos"
                self._say(self.status_words)
                self.within = f"Video {len(made) + 1} of {len(cells)}. " if len(made) < len(cells) else ""
                self.desk.check()
        finally:
            self.within = ""
            there = [made[key][0] for key in keys if key in made]
            if there:  # of a grid that was cancelled or failed, too
                self._refresh(there[-1])
        self.grid_records = there
        return f"{len(cells)} videos"


def _put(control: Any, value: Any) -> None:
    """Set a control; its range grows where the value lies outside, or the control would change it in silence."""
    if hasattr(control, "max"):
        control.min, control.max = min(control.min, value), max(control.max, value)
    control.value = value


def _apart_words(one: Any, other: Any) -> str:
    """Which settings of two runs differ."""
    apart = "; ".join(one.settings.unlike(other.settings)) or "the same settings"
    return f"Run {one.number} and run {other.number}: {escape(apart)}"


def _read(kind: type, name: str, word: str) -> Any:
    """A typed value of a grid."""
    try:
        return kind(word.strip())
    except ValueError as error:
        spoken = "a whole number" if kind is int else "a number"
        raise WanError(
            f"Each {name} of the grid is {spoken}, not {word.strip()!r}: separate them with commas."
        ) from error


def _problem(words: object) -> str:
    return f"<div role='alert' class='wan-problem'>{escape(str(words))}</div>"


def _plan_words(plan: Any) -> str:
    """The plan in a line: time and memory, or why it does not fit and what would."""
    kind = "GPU memory" if plan.card.vram else "memory"
    memory = max(map(plan.memory, plan.stages)) / 1e9
    words = f"Predicted here: about {_spoken(60 * plan.minutes)}, {memory:.1f} GB of {kind}"
    if plan.fits:
        return f"<span class='wan-quiet'>{words}.</span>"
    near = f"; {plan.nearest.size} would fit" if plan.nearest else "; no size of this model does"
    told = f"This may not fit: {escape(plan.problem)}{near}."
    return f"<div class='wan-problem'>{told}</div><span class='wan-quiet'>{words}.</span>"


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} second{'s' if round(seconds) > 1 else ''}"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
