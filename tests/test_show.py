"""Pictures: every plot returns a figure with words and shows what it was given; the maths by known answers."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from wan_tutorial import show
from wan_tutorial.errors import WanError
from wan_tutorial.machine.hardware import Machine, StageUse, Verdict, judge_models
from wan_tutorial.sampling.denoise import SamplingSettings
from wan_tutorial.show import curves, diagram, latents, lesson, strips, style, text_maps, widgets

COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.AMBER, style.SKY, style.PINK)
FLOW = diagram.Flow((64, 256), (1, 16, 4, 12, 12), (13, 96, 96, 3), SamplingSettings())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def video(frames: int = 13, seed: int = 0) -> torch.Tensor:
    return normal(frames, 32, 48, 3, seed=seed).clamp(-1, 1)


FIGURES = {
    "strips": lambda: strips.plot_strips({"one": video(), "two": video(9)}, fps=16),
    "pictures": lambda: strips.plot_pictures(list(video(9)), labels=["x"] * 9, alt="Nine pictures in a row"),
    "channels": lambda: latents.plot_channels(normal(1, 16, 4, 12, 12), title="Channels"),
    "histogram": lambda: latents.plot_histogram({"noise": normal(1, 16, 4, 12, 12)}, title="Values"),
    "sigmas": lambda: curves.plot_sigmas({"one": [1, 0.8, 0]}, title="Levels"),
    "shift": lambda: curves.plot_shift([1, 8]),
    "lines": lambda: curves.plot_lines(
        {"a": ([1, 2], [3, 4])}, x="steps", y="error", title="Error", logarithmic=True
    ),
    "bars": lambda: curves.plot_bars(
        {"a": 1.0, "b": 0.5}, y="error", title="Error", spread={"b": (0.1, 0.0)}
    ),
    "bar groups": lambda: curves.plot_bar_groups(
        {"first": {"a": 1.0, "b": -0.5}, "last": {"a": 0.2, "b": 0.1}},
        y="correlation",
        reach=1.0,
        title="Two",
    ),
    "field": lambda: curves.plot_field(lambda x, t: x, data=torch.zeros(1, 2), starts=2, title="Field"),
    "trajectory": lambda: curves.plot_trajectory({"a": [normal(1, 16, 2, 4, 4, seed=i) for i in range(4)]}),
    "tokens": lambda: text_maps.plot_tokens(["\u2581a", "\u2581sword", "</s>"], [3, 4, 1], length=64),
    "cosines": lambda: text_maps.plot_cosines(np.eye(3), ["a", "b", "c"], ["a", "b", "c"]),
    "map": lambda: text_maps.plot_prompt_map(normal(6, 8), list("abcdef"), ["x", "y"] * 3),
    "workflow": lambda: diagram.plot_workflow(FLOW, frames=np.zeros((5, 8, 8, 3), np.uint8)),
    "place": lambda: diagram.plot_place("noise"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_plot_returns_a_figure_with_words_of_notebook_width(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert len(figure.get_label()) > 15
    assert figure.get_figwidth() <= style.WIDTH
    assert to_array(figure).std() > 1


def to_array(figure: Figure) -> np.ndarray:
    return style.to_array(figure, dots=60)


def test_pictures_do_not_depend_on_the_readers_own_settings():
    import matplotlib

    plain = style.to_png(FIGURES["sigmas"](), dots=60)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "black"}):
        assert style.to_png(FIGURES["sigmas"](), dots=60) != b""
    assert style.to_png(FIGURES["sigmas"](), dots=60) == plain


def test_colours_stay_apart_without_red_and_green():
    """The eight colours seen by someone without red cones (Viénot 1999) keep a distance; grey print keeps an order."""
    see = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS]) ** 2.2
    seen = np.clip(rgb @ see.T, 0, 1) ** (1 / 2.2)
    gaps = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(len(COLOURS), 1)]
    assert gaps.min() > 0.1


def test_scales_of_colour_rise_in_lightness():
    light = style.RISING(np.linspace(0, 1, 20))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) < 0).all()
    around = style.AROUND(np.linspace(0, 1, 21))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert around.argmax() == 10


def test_white_words_on_coloured_boxes_can_be_read():
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in (style.EMBEDDINGS, style.LATENTS, style.PIXELS, style.WORK):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, colour


# ------------------------------------------------------------------------------------------------- to the screen


def shown(monkeypatch) -> list[dict]:
    caught: list[dict] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: caught.append(data))
    return caught


def test_a_figure_is_shown_with_its_words(monkeypatch):
    caught = shown(monkeypatch)
    show.show_figure(FIGURES["sigmas"]())
    show.show_figure(FIGURES["strips"](), alt='flames & "logs"')
    assert 'alt="Levels.' in caught[0]["text/html"] and "image/png" in caught[0]["text/html"]
    assert (
        'alt="flames &amp; &quot;logs&quot;"' in caught[1]["text/html"]
        and "image/jpeg" in caught[1]["text/html"]
    )
    assert caught[1]["text/plain"] == 'flames & "logs"'
    with pytest.raises(ValueError, match="alternative text"):
        show.show_figure(style.new_figure(1))


def test_a_table_is_shown_as_html_and_as_plain_text(monkeypatch):
    caught = shown(monkeypatch)
    show.show_table(["role", "size"], [["vae", "1 < 2"], ["transformer", 3]])
    assert "<td align='left'>1 &lt; 2</td>" in caught[0]["text/html"]
    assert caught[0]["text/plain"].splitlines()[2] == "transformer  3"


def test_line_drawings_with_few_colours_are_small():
    figure = FIGURES["sigmas"]()
    assert len(style.to_png(figure, colours=96)) < 60_000


def test_fewer_colours_hardly_change_a_colour_map():
    """A rare colour, such as the ends of a scale, is not merged with the grey of the letters beside it."""
    numbers = np.array([[0.97, -0.05, 0.1], [0.02, 0.9, -0.2], [0.0, -0.9, 1.0]])
    figure = text_maps.plot_cosines(numbers, ["a", "b", "c"], ["a", "b", "c"], title="Rows and columns")
    whole, fewer = (
        np.asarray(Image.open(io.BytesIO(style.to_png(figure, colours=colours))).convert("RGB"), dtype=int)
        for colours in (None, 96)
    )
    assert np.abs(whole - fewer).max() < 24
    assert (fewer[(whole == 255).all(axis=-1)] == 255).all()


def test_the_machine_is_described_without_a_path(capsys):
    show.show_machine()
    told = capsys.readouterr().out
    assert "Scale model: all lessons run here" in told and "/" not in told.split("Real")[0]
    lines = told.splitlines()
    assert [line for line in lines if line[0] != " "] == [
        lines[0],
        *re.findall(r"^(?:Scale|Real).*", told, re.M),
    ]
    assert max(map(len, lines)) <= 88  # a notebook breaks longer ones inside words


def test_a_model_that_is_only_slow_is_called_slow(monkeypatch, capsys):
    def say(why: str) -> str:
        verdicts = [Verdict("mini", True, "on cpu"), Verdict(lesson.REAL, False, why)]
        monkeypatch.setattr(lesson, "judge_models", lambda machine: verdicts)
        show.show_machine()
        return " ".join(capsys.readouterr().out.split("Real model: ")[1].split())

    assert say("it takes about 21 hours on this CPU (predicted)") == (
        "too slow here: about 21 hours a video on this CPU (predicted)."
    )
    assert say("it needs 20 GB of memory") == "does not run here, it needs 20 GB of memory."


def test_the_plan_says_how_slow_a_model_is_in_the_words_that_are_shown():
    laptop = Machine("Linux", "3.11", "2.13", 2, 25 * 10**9, 20 * 10**9, 10**12)
    real = {one.model: one for one in judge_models(laptop)}[lesson.REAL]
    assert lesson._say_verdict(real).startswith("too slow here: about ")


def test_parameters_count_once_and_without_memory():
    with torch.device("meta"):
        layer = torch.nn.Linear(10**6, 10**6)
    assert show.count_parameters(layer) == 10**12 + 10**6


# -------------------------------------------------------------------------------------------------------- maths


def test_the_projection_finds_a_linear_map_exactly():
    """Colours that are a linear map of the latent: least squares must find it, at every place and time."""
    weight, bias = normal(16, 3, seed=1).double().numpy() * 0.05, np.array([0.1, -0.2, 0.0])
    pairs = [normal(1, 16, 3, 4, 5, seed=seed) for seed in range(3)]
    videos = []
    for latent in pairs:
        cells = latent[0].double().numpy().transpose(1, 2, 3, 0) @ weight + bias  # (F, H, W, 3)
        frames = np.concatenate([cells[:1], np.repeat(cells[1:], 4, axis=0)])
        videos.append(torch.from_numpy(frames.repeat(8, axis=1).repeat(8, axis=2)))
    projection = show.fit_projection(pairs, videos)
    np.testing.assert_allclose(projection.weight, weight, atol=1e-8)
    np.testing.assert_allclose(projection.bias, bias, atol=1e-8)
    assert projection.explained == pytest.approx(1)
    assert projection(pairs[0]).shape == (3, 4, 5, 3)


def test_average_cells_knows_that_the_first_frame_stands_alone():
    frames = np.zeros((9, 8, 16, 3))
    frames[0], frames[1:5], frames[5:] = 1, np.arange(4).reshape(4, 1, 1, 1), 7
    cells = latents.average_cells(frames)
    assert cells.shape == (3, 1, 2, 3)
    np.testing.assert_allclose(cells[:, 0, 0, 0], [1, 1.5, 7])


def test_the_projection_explains_real_pictures():
    """On the fireside world with a plain averaging encoder, the map from noise-mixed averages explains most."""
    from wan_tutorial.mini.world import brief_scene, render

    frames = render([brief_scene(1), brief_scene(2)], height=96, width=96, frames=5)
    mixing = normal(3, 16, seed=3)
    pairs = []
    for one in frames:
        cells = torch.from_numpy(latents.average_cells(one.numpy())).float() @ mixing  # (F, H, W, 16)
        pairs.append(cells.permute(3, 0, 1, 2)[None])
    assert show.fit_projection(pairs, list(frames)).explained > 0.999


def test_the_plane_is_that_of_the_largest_differences():
    t = np.linspace(-1, 1, 9)
    points = np.stack([5 * t, t**2, np.zeros(9)], axis=1) @ np.linalg.qr(normal(3, 3).numpy())[0]
    places, shares = show.plane_of(points)
    np.testing.assert_allclose(np.abs(places[:, 0]), np.abs(5 * t), atol=1e-6)
    assert shares[0] > 0.95 and shares.sum() == pytest.approx(1)


def test_cosines_are_right():
    a = np.array([[1.0, 0], [0, 2]])
    np.testing.assert_allclose(
        show.cosine_matrix(a, np.array([[3.0, 0], [1, 1]])), [[1, 2**-0.5], [0, 2**-0.5]]
    )


# ------------------------------------------------------------------------------------------ what pictures say


def test_a_strip_shows_first_and_last_frame_in_order():
    frames = np.zeros((13, 32, 32, 3), np.uint8)
    frames[:] = (np.arange(13) * 20).astype(np.uint8).reshape(13, 1, 1, 1)
    picture = to_array(strips.plot_strips({"": frames}, fps=16, columns=4))
    row = picture[picture.shape[0] // 3].mean(axis=-1)
    width = len(row)
    seen = [row[int((i + 0.5) * width / 4)] for i in range(4)]
    np.testing.assert_allclose(seen, [0, 80, 160, 240], atol=3)


def test_words_of_a_schedule_say_where_it_passes_the_middle():
    assert "below one half from step 2" in curves.plot_sigmas({"x": [1, 0.6, 0.4, 0]}).get_label()


def test_the_workflow_tells_its_shapes_and_settings():
    words = FIGURES["workflow"]().get_label()
    for part in ("(64, 256)", "(1, 16, 4, 12, 12)", "(13, 96, 96, 3)", "uni_pc", "20 times"):
        assert part in words


def test_bad_input_gets_one_sentence():
    for call, told in (
        (lambda: strips.plot_strips({}, fps=16), "at least one"),
        (lambda: latents.plot_channels(normal(3, 4, 5)), r"\(1, 16, F, H, W\)"),
        (lambda: show.fit_projection([], []), "pairs"),
        (lambda: text_maps.plot_cosines(np.eye(3), ["a"], ["b"]), "label"),
    ):
        with pytest.raises(WanError, match=told):
            call()


def test_jpeg_and_html_round_trip():
    picture = np.full((8, 8, 3), 200, np.uint8)
    data = style.to_jpeg(picture)
    assert abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - 200).max() <= 3
    page = style.to_html(data, kind="jpeg", alt="x", width=5)
    assert re.fullmatch(r'<img src="data:image/jpeg;base64,[^"]+" alt="x" width="5">', page)


def test_every_name_of_show_is_there_and_importing_it_loads_nothing():
    for names in show._HOMES.values():
        for name in names.split():
            assert getattr(show, name) is not None and name in dir(show)
    heavy = "'matplotlib' in sys.modules, 'torch' in sys.modules"
    code = f"import sys, wan_tutorial.show, wan_tutorial.exercises; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    with pytest.raises(AttributeError):
        _ = show.missing


# ------------------------------------------------------------------------------------------------------ widgets


def fake_steps(count: int = 6, seed: int = 0) -> list:
    from wan_tutorial.sampling.solvers import euler

    clean = normal(1, 16, 4, 12, 12, seed=seed)
    levels = torch.linspace(1, 0, count + 1)
    return list(
        euler(lambda latent, sigma: (latent - clean) / sigma, normal(1, 16, 4, 12, 12, seed=9), levels)
    )


def look(latent: torch.Tensor) -> np.ndarray:
    return latent[0, :3].permute(1, 2, 3, 0).clamp(-1, 1).numpy()


def test_dragging_the_scrubber_shows_the_picture_of_that_step_at_once(monkeypatch):
    caught = shown_widget(monkeypatch)
    runs = {"one": fake_steps(), "two": fake_steps(seed=1)}
    book = widgets.explore_steps(runs, look)
    slider, image, label = (book.parts[name] for name in ("slider", "image", "label"))
    assert len(set(book.pictures.values())) == 6 and slider.max == 5
    assert shown_bytes(image) == book.pictures[3]  # it opens in the middle
    started = time.perf_counter()
    for place in (0, 5, 2):
        slider.value = place
        assert shown_bytes(image) == book.pictures[place]
        assert label.value == f"step {place} of 6"
        assert f'alt="Step {place}: ' in image.value and "one: sigma" in image.value
    assert (time.perf_counter() - started) / 3 < 0.1
    data, metadata = caught[0]
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/jpeg", "text/plain"}
    assert metadata["image/jpeg"]["alt"] == data["text/plain"]
    assert "one: sigma 0.5" in data["text/plain"] and "two: sigma 0.5" in data["text/plain"]


def shown_widget(monkeypatch) -> list[tuple[dict, dict]]:
    caught: list[tuple[dict, dict]] = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, metadata, raw: caught.append((data, metadata))
    )
    return caught


def shown_bytes(image) -> bytes:
    """What the browser is given to show."""
    (coded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', image.value)
    return base64.b64decode(coded)


def test_two_runs_stand_side_by_side_and_one_alone_fills_the_page():
    two = widgets.draw_steps({"one": fake_steps(), "two": fake_steps(seed=1)}, look)[2]
    one = widgets.draw_steps({"one": fake_steps()}, look)[2]
    assert two.shape[1] == one.shape[1] == widgets.WIDTH and two.shape[0] < one.shape[0] < 450
    assert (one[60:-60, -9] != 255).any()  # pictures reach the right edge


def walk(monkeypatch, *, broken: float | None = None) -> tuple[widgets.Flipbook, list[float], list]:
    painted, caught = [], shown_widget(monkeypatch)

    def paint(amount):
        painted.append(amount)
        if amount == broken:
            raise WanError("No way there.")
        return iter(fake_steps(3, seed=len(painted)))

    def decode(latent):
        return latent[0, :3, :1, :8, :8].permute(1, 2, 3, 0).repeat(13, 1, 1, 1).clamp(-1, 1)

    return widgets.explore_walk(paint, decode, ends=("here", "there"), fps=16), painted, caught


def test_a_walk_shows_ready_stops_at_once_and_paints_the_others_when_reached(monkeypatch):
    book, painted, caught = walk(monkeypatch)
    assert painted == [0, 0.25, 0.5, 0.75, 1]
    slider, image, label, bar = (book.parts[name] for name in ("slider", "image", "label", "bar"))
    slider.value = 4
    assert label.value == "50% of the way" and shown_bytes(image) == book.pictures[4] and len(painted) == 5
    shares = []
    bar.observe(lambda change: shares.append(change["new"]), names="value")
    slider.value = 3
    assert painted[-1] == 0.375 and shares == [0.25, 0.5, 0.75, 1.0, 0.0] and label.value == "38% of the way"
    assert shown_bytes(image) == book.pictures[3] != book.pictures[4]
    slider.value, slider.value = 4, 3
    assert len(painted) == 6, "what is painted stays"
    assert 'alt="A walk from here to there, 38% of the way' in image.value
    data, _ = caught[0]
    assert "0% of the way, 25% of the way" in data["text/plain"] and "here to there" in data["text/plain"]
    static = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"]))))
    assert static.shape[0] == 5 * widgets.draw_strip(np.zeros((13, 8, 8, 3)), "", fps=16).shape[0]
    ends = book.widget().children[0]
    assert ends.layout.max_width == book.parts["slider"].layout.max_width == "100%", "whole on a narrow page"


def test_a_stop_that_cannot_be_painted_says_so_and_the_walk_goes_on(monkeypatch):
    book, *_ = walk(monkeypatch, broken=0.125)
    book.parts["slider"].value = 1
    assert book.parts["label"].value == "No way there." and book.parts["bar"].layout.visibility == "hidden"
    book.parts["slider"].value = 2
    assert book.parts["label"].value == "25% of the way"


def test_pages_of_pictures_are_named_and_need_labels(monkeypatch):
    caught = shown_widget(monkeypatch)
    pages = {name: np.full((8, 9, 3), 40 * place, np.uint8) for place, name in enumerate("abcd")}
    printed = show.plot_pictures(list(pages.values()), labels=list(pages), alt="All of them: a, b, c, d.")
    book = widgets.explore_pictures(pages, alt="Four greys", printed=printed, name="grey")
    book.parts["slider"].value = 3
    assert book.parts["label"].value == "d" and 'alt="Four greys: d"' in book.parts["image"].value
    assert caught[0][0]["text/plain"] == "Four greys. All of them: a, b, c, d."
    with pytest.raises(WanError, match="needs a label"):
        widgets.Flipbook(["a", "b"], ["a", "b"], {0: b""})


def test_the_scrubber_needs_steps():
    with pytest.raises(WanError, match="at least one run"):
        widgets.draw_steps({"empty": []}, look)


def test_speed_is_how_much_the_guess_of_a_frame_changed():
    steps = fake_steps()
    assert show.frame_speeds(steps, 0) == [0.0] * 4
    assert max(show.frame_speeds(steps, 3)) < 1e-4  # this velocity always knows the clean latent
    moved = replace(
        steps[3], velocity=steps[3].velocity.index_add(2, torch.tensor([1]), torch.ones(1, 16, 1, 12, 12))
    )
    speeds = show.frame_speeds([*steps[:3], moved], 3)
    assert speeds[1] == pytest.approx(moved.sigma, rel=1e-3) and speeds[0] < 1e-4


def test_the_explorer_runs_with_its_sliders_shows_progress_and_says_errors(monkeypatch):
    shown_widget(monkeypatch)
    asked = []

    def run(**settings):
        asked.append(settings)
        if settings["guidance"] == 13:
            raise WanError("Thirteen is too much.")
        return iter(fake_steps(settings["steps"]))

    board = widgets.explore_sampling(run, look, steps=3)
    before = board.parts["image"].value
    board.controls["guidance"].value, board.controls["steps"].value = 2.0, 4
    board.parts["button"].click()
    assert asked[-1] == {"guidance": 2.0, "shift": 8.0, "steps": 4}
    assert board.parts["image"].value != before and board.parts["bar"].value == 1.0
    assert "guidance 2, shift 8, steps 4" in board.parts["image"].value
    board.controls["guidance"].value = 13
    board.parts["button"].click()
    assert board.parts["label"].value == "Thirteen is too much." and not board.parts["button"].disabled


def test_word_surgery_changes_the_rows_of_that_word_alone(monkeypatch):
    shown_widget(monkeypatch)
    pieces = ("\u2581a", "\u2581sword", "f", "ish", "\u2581sword", ",", "</s>")
    embedding = torch.ones(9, 4)
    text = SimpleNamespace(pieces=pieces, embedding=embedding)
    assert widgets.find_word(pieces, "sword") == [(1, 2), (4, 5)]
    assert widgets.find_word(pieces, "Swordfish") == [(1, 4)]
    rare = ("\u2581a", "\u2581", "u", "n", "cle", "\u2581", "\u2581sword", "</s>")
    assert widgets.find_word(rare, "uncle") == [(1, 5)] and widgets.find_word(rare, "sword") == [(6, 7)]
    changed = show.scale_word(text, "swordfish", 0.0)
    assert changed.sum(dim=1).tolist() == [4, 0, 0, 0, 4, 4, 4, 4, 4] and embedding.sum() == 36
    with pytest.raises(WanError, match="not in the prompt"):
        show.scale_word(text, "axe", 0.0)
    seen = []

    def encode(prompt):
        seen.append(prompt)
        return SimpleNamespace(pieces=tuple("\u2581" + word for word in prompt.split()), embedding=embedding)

    board = widgets.explore_words(
        "a sword burns, a swordfish",
        encode,
        lambda rows: iter(fake_steps(2)),
        lambda latent: video(5),
        fps=16,
    )
    assert (
        'alt="Word surgery: word sword, strength 0; film strip of the video."' in board.parts["image"].value
    )
    assert board.controls["word"].options == ("a", "sword", "burns", "swordfish")
    board.controls["swap"].value = "lantern"
    assert board.controls["strength"].value == 1.0  # it was 0: the new word would not be seen
    board.parts["button"].click()
    assert seen == ["a sword burns, a swordfish", "a lantern burns, a swordfish"]  # whole words alone
    assert board.parts["label"].value == ""


# ------------------------------------------------------------------------------------------ video and figures


def test_a_video_comes_with_a_moving_picture_for_where_it_may_not_play(monkeypatch):
    caught = shown_widget(monkeypatch)
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3)).astype(np.uint8)
    show.show_video(frames, fps=8, times=2, alt="Five frames of snow")
    data, metadata = caught[0]
    assert "<video" in data["text/html"] and data["text/plain"] == "Five frames of snow"
    assert metadata["image/png"] == {"alt": "Five frames of snow", "width": 48}
    moving = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert moving.n_frames == 5 and moving.info["duration"] == pytest.approx(125)
    for index in range(5):
        moving.seek(index)
        np.testing.assert_array_equal(np.asarray(moving.convert("RGB")), frames[index])
    large = Image.open(io.BytesIO(show.moving_picture(np.zeros((2, 480, 832, 3), np.uint8), fps=16)))
    assert large.size == (192, 111)


def fake_pipe(*, light: bool = True, files: dict | None = None) -> SimpleNamespace:
    return SimpleNamespace(entry=SimpleNamespace(name="mini", light=light), files=files or {})


def test_costs_stand_beside_the_plan_of_the_real_model(monkeypatch, capsys):
    caught = shown(monkeypatch)
    use = [StageUse("steps", 1.25, 500_000_000), StageUse("decode", 2.0, 1, gpu_memory_peak=3_000_000_000)]
    show.show_costs(use, fake_pipe())
    head, steps, decode = caught[0]["text/plain"].splitlines()
    assert "real model on a T4, predicted" in head and "mini here, measured" in head
    assert "minutes, " in steps and steps.endswith("1.2 s, 500 MB") and decode.endswith("2.0 s, 3.0 GB")
    assert re.fullmatch(r"Predicted for 832x480x\d+, 20 steps, guidance 6\.\n", capsys.readouterr().out)
    show.show_costs([StageUse("context", 0.5, 1), *use], fake_pipe())
    assert "guidance 6, a reference.\n" in capsys.readouterr().out
    assert caught[1]["text/plain"].splitlines()[1].startswith("context  ")


def test_shipped_figures_belong_to_the_files_they_were_measured_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lesson, "bundled_folder", lambda: tmp_path)
    (tmp_path / "vae").write_bytes(b"weights")
    row = {"value": 0.25, "n": 40, "low": 0.141, "high": 0.403}
    report = {
        "files": {"vae": {"sha256": hashlib.sha256(b"weights").hexdigest()}},
        "figures": {
            "judge_on_renders": {"subject": row, "subject_without_defects": row | {"n": 30}, "camera": row},
            "captions_train": {"subject": row, "camera": row},
        },
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    pipe, caught = fake_pipe(files={"vae": tmp_path / "vae"}), shown(monkeypatch)
    show.show_obedience(pipe, ["subject"])
    assert "25% of 40 (14 to 40)" in caught[0]["text/plain"] and "captions" in caught[0]["text/plain"]
    show.show_obedience(pipe, ["subject_without_defects", "camera"])
    _, subject, camera = caught.pop()["text/plain"].splitlines()
    assert "25% of 30" in subject and "25% of 40" in subject, "captions ask for no defect"
    assert camera.startswith("camera, by optical flow")
    assert show.read_evaluation(fake_pipe(light=False)) == {}
    (tmp_path / "vae").write_bytes(b"others")
    show.show_obedience(pipe, ["subject"])
    assert len(caught) == 1 and "other model files" in capsys.readouterr().out


def test_figures_about_a_lora_belong_to_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(lesson, "bundled_folder", lambda: tmp_path)
    for name in ("vae", "speed.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    measured = {"vae": digest, "speed.safetensors": digest, "not_shipped.safetensors": "0" * 64}
    figures = {"motion": {"n": 1}, "lora": {"files": measured, "few_steps": {}}}
    report = {"files": {"vae": {"sha256": digest}}, "figures": figures}
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    pipe = fake_pipe(files={"vae": tmp_path / "vae"})
    assert show.read_evaluation(pipe) == figures
    (tmp_path / "speed.safetensors").write_bytes(b"trained anew")
    assert show.read_evaluation(pipe) == {"motion": {"n": 1}}
