"""The prompt lab without a browser: every control does what it says, and what the screen shows is what Python holds."""

import io
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small import write_small_model

from wan_tutorial.errors import WanError
from wan_tutorial.experiments import Experiments, Moment, RunSettings
from wan_tutorial.machine.hardware import Machine
from wan_tutorial.pipeline import load
from wan_tutorial.show import runs
from wan_tutorial.show.lab import Desk, Lab
from wan_tutorial.sizes import VideoSize

SETTINGS = RunSettings("a sword", negative="blurry", size=VideoSize(48, 48, 5), steps=2, guidance=2.0, seed=3)
# What ipywidgets 7.7 and 8 both have, and Colab and VS Code show.
SHARED = {"BoundedFloatText", "BoundedIntText", "Button", "Checkbox", "Dropdown", "FileUpload", "FloatProgress",
          "FloatSlider", "HBox", "HTML", "Image", "IntSlider", "SelectMultiple", "Text", "Textarea", "ToggleButton",
          "ToggleButtons", "VBox"}  # fmt: skip
LABELLED = SHARED - {"FloatProgress", "HBox", "HTML", "Image", "VBox"}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return load("mini", **vars(write_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


@pytest.fixture
def lab(pipe, tmp_path):
    lab = Lab(Experiments(tmp_path / "runs", {"mini": pipe}), SETTINGS)
    lab.desk.wait()
    return lab


def status(lab) -> str:
    return lab.parts["status"].value


def shown(lab) -> Image.Image:
    return Image.open(io.BytesIO(lab.parts["screen"].value))


def every(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)


class SlowBench(Experiments):
    """A bench whose runs take as long as they are told, step by step."""

    pause, error, begun = 0.01, None, 0

    def run(self, settings, *, see=None):
        for step in range(settings.steps):
            self.begun += 1
            time.sleep(self.pause)
            if self.error:
                raise self.error
            see(
                Moment(
                    "steps",
                    step + 1,
                    settings.steps,
                    np.stack([np.full((6, 6, 3), 40 * step % 250 + place) for place in (0, 9)]).astype(
                        np.uint8
                    ),
                )
            )
        return super().run(replace(settings, steps=1), see=None)


@pytest.fixture
def slow(pipe, tmp_path):
    lab = Lab(SlowBench(tmp_path / "runs", {"mini": pipe}), SETTINGS)
    lab.desk.wait()
    return lab


def until(said, seconds: float = 60) -> float:
    """Wait for something to be true; how long it took."""
    began = time.perf_counter()
    while not said():
        assert time.perf_counter() - began < seconds, "it never came"
        time.sleep(0.002)
    return time.perf_counter() - began


# ------------------------------------------------------------------------------------------------------ controls


def test_every_control_has_a_label_and_is_one_that_all_front_ends_have(lab):
    lab.bench.loras = lambda: ["a_lora.safetensors"]
    lab.add_lora()
    for widget in every(lab.widget):
        kind = type(widget).__name__
        assert kind in SHARED
        if kind in LABELLED:
            assert widget.description.strip(), kind


def test_controls_say_the_settings_that_were_put_into_them(lab, tmp_path):
    Image.new("RGB", (20, 30), "green").save(tmp_path / "picture.png")
    settings = replace(
        SETTINGS, prompt="an axe", negative="", seed=9, size=VideoSize(96, 64, 9), steps=7, guidance=1.0, shift=3.5,
        sampler="euler", scheduler="beta", loras=(("b.safetensors", 0.5), ("a.safetensors", -1.0)),
        reference=str(tmp_path / "picture.png"), fit="crop", vace_strength=0.5, start="x.png", denoise=0.6,
    )  # fmt: skip
    lab.use(replace(settings, start=None, denoise=1.0))
    assert lab.settings == replace(settings, start=None, denoise=1.0)
    assert lab.parts["thumb"].value and lab.parts["denoise"].disabled and not lab.parts["fit"].disabled
    lab.loras[0]["on"].value = False
    lab.loras[1]["remove"].click()
    assert lab.settings.loras == ()
    lab.use(SETTINGS)
    assert lab.settings == SETTINGS


def test_only_what_wan_can_make_is_offered(lab):
    for width in lab.parts["width"].options:
        for frames in lab.parts["frames"].options:
            VideoSize(width, 96, frames)
    lab.parts["steps"].value, lab.parts["guidance"].value = 5000, -3
    assert (lab.parts["steps"].value, lab.parts["guidance"].value) == (99, 0)
    replace(lab.settings, start="x", denoise=lab.parts["denoise"].min)  # the longest schedule there can be


def test_the_seed_is_rolled(lab):
    before = lab.parts["seed"].value
    lab.parts["dice"].click()
    assert lab.parts["seed"].value != before


def test_the_plan_is_said_before_it_runs(lab, monkeypatch):
    assert "Predicted here: about" in lab.parts["plan"].value and " GB of memory" in lab.parts["plan"].value
    monkeypatch.setenv("WAN_TUTORIAL_MODELS", "/nowhere")
    machine = Machine("Linux", "3.11", "2.13", 2, 16 * 10**9, 15 * 10**9, 10**12)
    monkeypatch.setattr("wan_tutorial.machine.hardware.read_machine", lambda: machine)
    lab.parts["model"].value = "wan2.1-vace-14b-q3"
    said = lab.parts["plan"].value
    assert "This may not fit: it takes about" in said and "would fit" in said and "Predicted here" in said
    assert "run `wan-tutorial download wan2.1-vace-14b-q3`" in said and lab.parts["run"].disabled
    assert lab.parts["run"].description == "Run all the same"
    assert (lab.parts["width"].value, lab.parts["steps"].value, lab.parts["prompt"].value) == (
        832,
        20,
        "a sword",
    )
    lab.parts["model"].value = "mini"
    assert not lab.parts["run"].disabled and lab.parts["run"].description == "Run"


def test_an_uploaded_picture_is_taken_from_ipywidgets_7_and_8(lab):
    page = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(page, format="png")
    data = page.getvalue()
    lab._take_picture({"seven.png": {"metadata": {}, "content": data}})
    assert "seven" in lab.settings.reference
    lab._take_picture(({"name": "eight.png", "content": memoryview(data)},))
    assert "eight" in lab.settings.reference and lab.parts["thumb"].layout.display is None
    lab._safely(lambda: lab._take_picture(({"name": "none.png", "content": b"no"},)))
    assert "none.png could not be read as a picture" in status(lab)


# ------------------------------------------------------------------------------------------------------- running


def test_pressing_run_shows_the_video_and_keeps_the_run(lab):
    before = lab.parts["screen"].value
    lab.parts["run"].click()
    lab.desk.wait()
    assert lab.parts["screen"].value != before and "Run 1 took" in status(lab)
    record = lab.record
    assert lab.bench.history() == [record] and record.settings == SETTINGS
    film = runs.beside([record.frames()])
    assert lab.parts["screen"].value == runs.to_webp(film, fps=record.fps)
    assert shown(lab).n_frames == 5 and shown(lab).info["loop"] == 0 and lab.parts["bar"].value == 1
    assert not lab.parts["run"].disabled and lab.parts["cancel"].disabled


def test_progress_tells_the_step_the_time_left_and_the_guess(slow):
    said, pictures = [], []
    slow.parts["status"].observe(lambda change: said.append(change["new"]), names="value")
    slow.parts["screen"].observe(lambda change: pictures.append(change["new"]), names="value")
    slow.parts["steps"].value = 5
    slow.run()
    assert any("Painting: step 1 of 5" in words for words in said)
    assert any("step 3 of 5, about 1 second left" in words for words in said)
    guess = Image.open(io.BytesIO(pictures[0]))
    assert len(pictures) >= 2 and (guess.width, guess.n_frames) == (runs.SCREEN // 2, 2)


def test_cancel_stops_within_a_step_and_the_next_run_is_whole(slow):
    slow.bench.pause, slow.parts["steps"].value = 0.05, 99
    slow.start()
    until(lambda: "step 2 of 99" in status(slow))
    begun = slow.bench.begun
    slow.parts["cancel"].click()
    took = until(lambda: "Cancelled" in status(slow))
    assert slow.bench.begun <= begun + 2 and took < 1
    assert slow.bench.history() == [] and slow.parts["cancel"].disabled and slow.parts["bar"].value == 0
    slow.bench.pause, slow.parts["steps"].value = 0, 2
    assert slow.run().number == 1


def test_a_real_run_is_cancelled_between_its_steps(lab):
    lab.parts["steps"].value = 99
    lab.start()
    until(lambda: "step 2 of 99" in status(lab))
    lab.cancel()
    lab.desk.wait()
    assert "Cancelled" in status(lab) and lab.bench.history() == [] and "alert" not in status(lab)
    lab.parts["steps"].value = 2
    assert lab.run().settings.steps == 2


def test_a_cancelled_run_is_no_run_before_it(slow):
    slow.run()
    slow.bench.pause, slow.parts["steps"].value = 0.05, 99
    stop = threading.Thread(target=lambda: (until(lambda: "step 2 of 99" in status(slow)), slow.cancel()))
    stop.start()
    with pytest.raises(WanError, match="was cancelled"):
        slow.run()
    stop.join()
    assert "Cancelled" in status(slow) and slow.record.number == 1


def test_a_second_run_waits_its_turn_and_cancel_forgets_it(slow):
    slow.parts["steps"].value, slow.bench.pause = 3, 0.03
    for seed in (1, 2, 3):
        slow.parts["seed"].value = seed
        slow.parts["run"].click()
    until(lambda: "2 more waiting" in status(slow))
    slow.desk.wait()
    assert [record.settings.seed for record in slow.bench.history()] == [1, 2, 3]
    slow.parts["steps"].value = 50
    slow.start()
    slow.start()
    until(lambda: "step 1 of 50" in status(slow))
    slow.cancel()
    slow.desk.wait()
    assert len(slow.bench.history()) == 3


@pytest.mark.parametrize(
    "error", [WanError("Thirteen is too much."), RuntimeError("first line\nsecond"), KeyError()]
)
def test_an_error_is_one_sentence_in_the_panel_and_raised_to_code(slow, error):
    slow.bench.error = error
    with pytest.raises(type(error)):
        slow.run()
    said = status(slow)
    assert "role='alert'" in said and "second" not in said and "Traceback" not in said
    assert ("Thirteen is too much." if isinstance(error, WanError) else type(error).__name__) in said
    slow.bench.error = None
    assert slow.run().number == 1


# ------------------------------------------------------------------------------------------------------- looking


@pytest.fixture(scope="module")
def two(pipe, tmp_path_factory):
    """A lab in which two runs were made, the second with another guidance."""
    lab = Lab(Experiments(tmp_path_factory.mktemp("two"), {"mini": pipe}), SETTINGS)
    lab.run()
    lab.parts["guidance"].value = 5.0
    lab.run()
    return lab


def test_the_screen_plays_stands_still_and_scrubs(two):
    two.parts["view"].value = "Video"
    two.parts["play"].value = False
    two.parts["place"].value = 3
    assert getattr(shown(two), "n_frames", 1) == 1 and "4 of 5, 0.19 s" in two.parts["where"].value
    assert two.parts["screen"].value == runs.to_webp(runs.beside([two.record.frames()])[3:4], fps=16)
    two.parts["play"].value = True
    two.parts["loop"].value = False
    assert shown(two).n_frames == 5 and shown(two).info["loop"] == 1
    two.parts["place"].value = 1  # a hand on the slider stops it
    assert not two.parts["play"].value and two.parts["play"].description == "Play"
    two.parts["play"].value = two.parts["loop"].value = True


def test_two_runs_are_seen_beside_each_other_with_their_difference_in_words(two):
    two.parts["view"].value = "Side by side"
    assert shown(two).size == (2 * runs.SCREEN + runs.GAP, runs.SCREEN)
    assert "Left run 1, right run 2" in two.parts["caption"].value
    assert "Run 1 and run 2: guidance 2 and 5" in two.parts["caption"].value
    two.parts["view"].value = "Difference"
    assert "of 255 on average" in two.parts["caption"].value
    two.parts["view"].value = "Steps"
    assert two.parts["place"].max == 1 and two.parts["place"].description == "Step"
    two.parts["play"].value = False
    assert "1, sigma 1.000" in two.parts["where"].value or "2, sigma" in two.parts["where"].value
    two.parts["play"].value, two.parts["view"].value = True, "Video"


def test_a_difference_is_dark_where_nothing_differs_and_needs_one_size():
    one = np.zeros((2, 4, 4, 3), np.uint8)
    other = one.copy()
    other[:, :2] = 90
    apart, mean = runs.difference(one, other)
    assert mean == 45 and apart[:, :2].min() > 3 * apart[:, 2:].max()
    with pytest.raises(WanError, match="4x4x2 and 4x4x1"):
        runs.difference(one, one[:1])


def test_a_second_run_is_asked_for_where_there_is_none(lab):
    lab.run()
    lab.parts["view"].value = "Side by side"
    assert "needs a second run" in status(lab) and lab.parts["view"].value == "Video"


# ------------------------------------------------------------------------------------------------ history, grids


def test_history_survives_a_restart_and_gives_settings_back(two, pipe):
    lab = Lab(Experiments(two.bench.folder, {"mini": pipe}), SETTINGS)
    lab.desk.wait()
    assert [label[:4] for label, _ in lab.parts["picks"].options] == [
        "0002",
        "0001",
    ] and lab.record.number == 2
    first = lab.bench.find(1)
    assert lab.other == first
    lab.parts["picks"].value = (first.id,)
    assert "a sword" in lab.parts["details"].value
    lab.parts["seed"].value = 77
    lab.parts["reuse"].click()
    assert lab.settings == first.settings
    lab.parts["show"].click()
    assert lab.record.number == 1
    lab.parts["compare"].click()
    assert "Choose two runs" in status(lab)
    lab.parts["picks"].value = tuple(record.id for record in lab.records)
    lab.parts["compare"].click()
    assert (lab.other.number, lab.record.number, lab.parts["view"].value) == (1, 2, "Side by side")
    assert "guidance 2 and 5" in lab.parts["details"].value


def test_an_earlier_run_is_a_video_to_start_from(two):
    starts = dict((label, path) for label, path in two.parts["start"].options)
    assert set(starts) == {"pure noise", "run 1", "run 2"}
    two.parts["start"].value, two.parts["denoise"].value = starts["run 1"], 0.5
    assert two.settings.denoise == 0.5 and not two.parts["denoise"].disabled
    two.parts["width"].value = 64  # a video of another size is none to start from
    assert two.settings.start is None and two.parts["denoise"].disabled
    two.use(SETTINGS)


def test_a_file_to_start_from_is_kept_and_so_is_a_runs_own(lab, pipe, tmp_path):
    first = lab.run()
    clip = str(tmp_path / "clip.png")
    shutil.copy(first.folder / "frames.png", clip)
    given = replace(SETTINGS, start=clip, denoise=0.5, seed=8)
    other = Lab(Experiments(lab.bench.folder, {"mini": pipe}), given)
    assert other.settings == given and not other.parts["denoise"].disabled
    record = other.run()
    assert other.settings == given and (record.folder / "start.png").exists()
    lab._refresh(record)
    assert lab.settings == SETTINGS
    lab.use_picked()
    assert lab.settings == record.settings
    assert (f"{record.id}/start.png", record.settings.start) in lab.parts["start"].options
    assert lab.run().checksum == record.checksum
    other.parts["start"].value = ""
    assert other.settings.start is None and clip in dict(other.parts["start"].options).values()
    lab.parts["start"].value = ""
    assert lab.settings.start is None and [name for name, _ in lab.parts["start"].options] == [
        "pure noise", "run 3", "run 2", "run 1"]  # fmt: skip


def test_repeating_and_saving_a_page(lab):
    record = lab.run()
    lab.parts["repeat"].click()
    lab.desk.wait()
    assert "Run 2 repeats run 1: the same video, bit for bit" in status(lab)
    lab.parts["picks"].value = (record.id,)
    lab.parts["page"].click()
    page = lab.bench.folder / "page.html"
    assert page.read_text().count("<article>") == 1 and "1 runs" not in lab.parts["said"].value
    assert str(page) in lab.parts["said"].value


def test_a_grid_fills_cell_by_cell_and_goes_on_after_a_cancel(lab):
    tables = []
    said = []
    lab.parts["grid"].observe(lambda change: tables.append(change["new"]), names="value")
    lab.parts["status"].observe(lambda change: said.append(change["new"]), names="value")
    lab.parts["across"].value, lab.parts["down"].value = "guidance", "seed"
    assert lab.parts["across_values"].value == "1, 3, 6, 9"
    lab.parts["across_values"].value, lab.parts["down_values"].value = "1, 2.5", "4, five"
    lab.parts["run_grid"].click()
    assert "Each seed of the grid is a whole number, not &#x27;five&#x27;" in status(lab)
    lab.parts["down_values"].value = "4, 5"
    stop = threading.Thread(target=lambda: (until(lambda: len(tables) == 2), lab.cancel()))
    stop.start()
    lab.start_grid()
    lab.desk.wait()
    stop.join()
    there = lab.bench.history()
    assert 2 <= len(there) < 4 and lab.records == there and lab.record == there[-1]
    assert len(lab.parts["picks"].options) == len(there) == len(lab.parts["start"].options) - 1
    assert "Cancelled" in status(lab)
    assert any("Video 2 of 4. Painting: step 1 of 2" in words for words in said)
    records = lab.run_grid()
    assert [(one.settings.seed, one.settings.guidance) for one in records] == [
        (4, 1.0),
        (4, 2.5),
        (5, 1.0),
        (5, 2.5),
    ]
    assert len(lab.bench.history()) == 4 and tables[-1].count("<img") == 4 and "waiting" in tables[0]
    assert "guidance 2.5" in tables[-1] and "seed 5" in tables[-1]


def test_a_grid_never_speaks_of_one_video_more_than_it_has(lab, monkeypatch):
    """After the last one the bench may still say a moment: it is of no next video."""
    grid, said = lab.bench.grid, []

    def and_a_moment_more(settings, axes, *, executor, see):
        yield from grid(settings, axes, executor=executor, see=see)
        see(Moment("record", 0, 1))

    monkeypatch.setattr(lab.bench, "grid", and_a_moment_more)
    lab.parts["status"].observe(lambda change: said.append(change["new"]), names="value")
    lab.parts["across"].value, lab.parts["across_values"].value = "guidance", "1, 2"
    lab.run_grid()
    assert any("Video 2 of 2" in words for words in said)
    assert not [words for words in said if "Video 3 of 2" in words]


def test_settings_beyond_a_controls_range_stay_as_they_are(lab):
    """A run from outside the lab may have more steps than its control offers: its settings must come out the same."""
    settings = replace(
        SETTINGS, steps=150, guidance=30.0, shift=50.0, seed=2**40, loras=(("a.safetensors", -5.0),)
    )
    lab.use(settings)
    assert lab.settings == settings


def test_files_that_vanish_are_said_and_the_next_run_is_made(lab, tmp_path):
    """A picture or a run deleted from the disk: one sentence, and the panel goes on working."""
    Image.new("RGB", (20, 30), "green").save(tmp_path / "picture.png")
    lab.use(replace(SETTINGS, reference=str(tmp_path / "picture.png")))
    (tmp_path / "picture.png").unlink()
    lab.parts["run"].click()
    lab.desk.wait()
    assert "picture.png" in status(lab) and "alert" in status(lab)
    lab.use(SETTINGS)
    shutil.rmtree(lab.run().folder)
    lab.parts["view"].value = "Steps"
    assert "steps.png could not be read as a picture: it is missing or damaged" in status(lab)
    lab.parts["view"].value = "Video"
    assert lab.run().frames().shape == (5, 48, 48, 3)


def test_a_grid_that_fails_shows_the_videos_it_made(lab, monkeypatch):
    grid = lab.bench.grid

    def fail(*given, **keywords):
        yield next(grid(*given, **keywords))
        raise WanError("The disk is full.")

    monkeypatch.setattr(lab.bench, "grid", fail)
    lab.parts["across"].value, lab.parts["across_values"].value = "guidance", "1, 2"
    with pytest.raises(WanError, match="disk is full"):
        lab.run_grid()
    assert lab.records == lab.bench.history() == [lab.record] and "disk is full" in status(lab)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), lambda path: path.unlink()])
def test_the_lab_opens_over_a_damaged_run(lab, pipe, monkeypatch, damage):
    first = lab.run()
    damage(lab.run().folder / "frames.png")
    caught = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: caught.append(data))
    other = Lab(Experiments(lab.bench.folder, {"mini": pipe}), SETTINGS)
    other.show()
    other.desk.wait()
    assert "frames.png could not be read as a picture" in status(other)
    assert "screen is empty" in caught[0]["text/plain"]
    other.parts["picks"].value = (first.id,)
    other.show_picked()
    assert other.film is not None and other.run().number == 3


def test_a_damaged_reference_does_not_hide_its_run(lab, tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (20, 30), "green").save(picture)
    lab.use(replace(SETTINGS, reference=str(picture)))
    record = lab.run()
    whole = picture.read_bytes()
    (record.folder / "reference.png").write_bytes(whole.replace(b"IDAT", b"I\0AT"))  # Pillow's SyntaxError
    lab._refresh(record)
    assert "reference.png could not be read as a picture" in status(lab) and lab.film is not None
    lab.use(SETTINGS)
    assert lab.run().number == 2


def test_a_page_of_a_run_without_its_video_is_refused_in_a_sentence(lab):
    (lab.run().folder / "video.mp4").unlink()
    lab.parts["page"].click()
    assert "The video of run 1 could not be read" in status(lab)
    assert not (lab.bench.folder / "page.html").exists()


def test_a_desk_outlives_a_fault_in_its_work(capsys):
    done, desk = [], Desk()
    desk.add(lambda: 1 / 0)
    desk.add(lambda: done.append(1))
    desk.wait()
    assert done == [1] and "ZeroDivisionError" in capsys.readouterr().err


def test_the_panel_leaves_a_picture_for_those_without_a_kernel(lab, monkeypatch):
    caught = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: caught.append(data))
    lab.show()
    lab.run()
    lab.show()
    assert all("image/jpeg" in data and "a sword" in data["text/plain"] for data in caught)
    assert ["screen is empty" in data["text/plain"] for data in caught] == [True, False]
    empty = runs.draw_panel(None, SETTINGS)
    full = runs.draw_panel(lab.record, replace(SETTINGS, prompt="x" * 400))
    assert full.shape == empty.shape and (full != empty).mean() > 0.1, "a run's moments are on the screen"


@pytest.mark.parametrize("gap", ["\n", "\r", "\u2029"])
def test_the_picture_takes_words_of_several_lines(gap):
    lines, line = (replace(SETTINGS, prompt=f"a{one}sword", negative=f"a{one}blur") for one in (gap, " "))
    assert (runs.draw_panel(None, lines) == runs.draw_panel(None, line)).all()


def test_the_picture_has_the_plan_under_run(lab, monkeypatch):
    told = []
    draw = runs.draw_panel
    monkeypatch.setattr(runs, "draw_panel", lambda *given: told.append(given[2]) or draw(*given))
    lab.show()
    assert told[0].startswith("Predicted here: about 1 second") and "<" not in told[0]
    assert (draw(None, SETTINGS, told[0]) != draw(None, SETTINGS)).any()
