"""Requests that no stage can carry out: each gets one sentence with the rule, the value and the nearest fix."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import write_small_model

from wan_tutorial import film_strip, inspect_file, show_video, write_video
from wan_tutorial.errors import WanError, check_path
from wan_tutorial.experiments import Experiments, RunSettings, explore
from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.pipeline import Pipeline, load
from wan_tutorial.reference import read_given
from wan_tutorial.sampling.keep import KeptRun
from wan_tutorial.show.strips import plot_strips
from wan_tutorial.show.video import check_writable, moving_picture, read_video, to_uint8, write_picture
from wan_tutorial.show.widgets import draw_strip
from wan_tutorial.sizes import VideoSize
from wan_tutorial.workflow import read_workflow

SIZE = VideoSize(32, 32, 5)
VIDEO = torch.zeros(5, 32, 32, 3)
SETTINGS = {"size": SIZE, "steps": 1}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> Pipeline:
    return load("mini", **vars(write_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


def says(words: str, do, *arguments, **options) -> None:
    with pytest.raises(WanError, match=words):
        do(*arguments, **options)


# ------------------------------------------------------------------------------------------------ paths and fps

NO_PATHS = [3, None, True, b"a.mp4", ["a.mp4"], ""]


@pytest.mark.parametrize("path", NO_PATHS, ids=repr)
def test_what_is_no_path_is_named_with_an_example(path):
    words = f"is named by a path, not {re.escape(repr(path))}: try '"
    for read in (check_writable, read_video, inspect_file, lambda it: KeptRun(it, {})):
        says(words, read, path)
    says(words, write_video, VIDEO, path, fps=16)
    says(words, write_picture, VIDEO[0], path)
    says(words, Experiments, path)


def test_nobodys_home_is_no_place():
    says(
        "~nobody_of_that_name/x.*: write it out", check_path, "~nobody_of_that_name/x", "output", example="x"
    )


def test_a_number_in_place_of_a_file_is_said_before_any_work(pipe, monkeypatch):
    monkeypatch.setattr(Pipeline, "part", lambda *_: pytest.fail("a network was asked for"))
    for options, words in (
        ({"loras": [(5, 1.0)]}, "The LoRA is named by a path, not 5: try 'mine.safetensors'"),
        ({"loras": 5}, r"a list of \(file, strength\), not 5"),
        ({"loras": "mine.safetensors"}, "a list of .*, not 'mine.safetensors'"),
        ({"reference": 5}, "The reference 5 is not a picture that can be read: give a PNG"),
        ({"reference": 5.5}, "The reference 5.5 is not a picture"),
        ({"reference": []}, "A list of references has one picture or more"),
        ({"first_frame": True}, "The first frame True is not a picture"),
        ({"keep": 5}, "The folder of a kept run is named by a path, not 5: try 'outputs/run'"),
        (
            {"keep": ""},
            "is named by a path, not ''",
        ),  # it would be this very folder, which is removed at the end
        ({"guidance": 10**400}, "a number from 0 to 100"),
        ({"fit": ["pad"]}, r"by 'pad' \(on white\) or 'crop' \(cut\), not by \['pad'\]"),
    ):
        says(words, pipe.generate, "a sword", **SETTINGS | options, progress=False)
    says("The LoRA is named by a path, not None", pipe.encode_text, "a sword", loras=[(None, 1.0)])
    says(r"There is no model called \[\]", load, [])
    for bytes_ in ("x", -1, True, 1e9):
        says("a whole number of bytes, 0 or more, not", load, "mini", device="cpu", widen_budget_bytes=bytes_)
    for role in ("transformer", "text_encoder", "vae", "folder"):
        says(f"The {role.replace('_', ' ')} is named by a path, not 5", load, "mini", **{role: 5})


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "8", None, True, 1e-9, 10**9], ids=repr)
def test_frames_a_second_are_a_number_that_a_video_can_have(fps, tmp_path):
    words = f"A video has 0.01 to 1000 frames a second, not {re.escape(repr(fps))}: try 16"
    says(words, write_video, VIDEO, tmp_path / "a.mp4", fps=fps)
    for show in (show_video, film_strip, moving_picture):
        says(words, show, VIDEO, fps=fps)
    says(words, draw_strip, VIDEO, "", fps=fps)
    says(words, plot_strips, {"": VIDEO}, fps=fps)


def test_the_folders_of_a_workflow_are_paths(pipe, tmp_path):
    workflow = read_workflow(bundled_folder().parent / "workflows" / "t2v_workflow.json")
    says("The workflow is named by a path, not 5", read_workflow, 5)
    says("The folder of models is named by a path, not 5", workflow.run, pipe=pipe, folder=5)
    says("The save_to is named by a path, not 5: try 'outputs'", workflow.run, pipe=pipe, save_to=5)
    (tmp_path / "file").touch()
    says("into a folder, and .*file is a file", workflow.run, pipe=pipe, save_to=tmp_path / "file")


def test_a_folder_with_another_programs_run_json_is_another_run(tmp_path):
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    says("keeps another run", KeptRun, tmp_path, {})
    (tmp_path / "folder" / "run.json").mkdir(parents=True)
    says("keeps another run", KeptRun, tmp_path / "folder", {})


def test_a_size_is_read_from_three_numbers_of_a_sane_length():
    for wrong in (5, "9" * 5000 + "x16x1"):
        says("A size is WIDTHxHEIGHTxFRAMES", VideoSize.parse, wrong)


# ------------------------------------------------------------------------------------------------------- pixels


def test_pixels_of_another_unit_are_refused_instead_of_written_white(tmp_path):
    for video, words in (
        (VIDEO + 200, "reach 200: if they go from 0 to 255, try pixels / 127.5 - 1"),
        ((VIDEO + 200).long(), "reach 200"),
        (VIDEO * float("nan"), "these reach nan"),
        ("a.mp4", "Pixels are numbers, not str: pass `result.video`"),
        (SimpleNamespace(video=VIDEO), "Pixels are numbers, not SimpleNamespace"),
    ):
        says(words, write_video, video, tmp_path / "a.mp4", fps=8)
    assert not list(tmp_path.iterdir())
    learned = torch.full((2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert to_uint8(learned).tolist() == [[191, 191], [191, 191]]
    assert to_uint8(np.full((2,), 3.0)).tolist() == [255, 255]  # a look through a latent may leave [-1, 1]


def test_a_picture_is_written_from_floats_too(tmp_path):
    write_picture(VIDEO[0], tmp_path / "grey.png")
    assert (tmp_path / "grey.png").exists()
    says(
        r"has the shape \(height, width, 3\), not \(5, 32, 32, 3\)", write_picture, VIDEO, tmp_path / "a.png"
    )


def test_counts_are_whole_numbers(tmp_path):
    says("1 to 32 times, not 1.5: try 4", write_video, VIDEO, tmp_path / "a.mp4", fps=8, times=1.5)
    says("1 column or more, not '3': try 7", film_strip, VIDEO, "3", fps=8)
    says("1 pixel high or more, not 0: try 192", film_strip, VIDEO, fps=8, frame_height=0)


def test_a_video_to_encode_is_checked_before_it_becomes_a_wrong_latent(pipe):
    for video, words in (
        (VIDEO + 200, "these reach 200: if they go to 255, try video / 127.5 - 1"),
        (VIDEO * float("nan"), "these reach nan"),
        (VIDEO.to(torch.uint8), r"not \(5, 32, 32, 3\) of torch.uint8: of uint8 frames make"),
        (VIDEO.numpy(), r"not \(5, 32, 32, 3\) of float32"),
        (VIDEO[0], r"not \(32, 32, 3\) of torch.float32"),
        ("a.mp4", "not str"),
    ):
        says(words, pipe.encode, video)
    says("start from go from -1 to 1, and these reach 200", pipe.generate, "a sword", **SETTINGS, start=VIDEO + 200,
         denoise=0.5)  # fmt: skip


# ------------------------------------------------------------------------------------------ stages called by hand


def test_each_stage_says_what_it_takes(pipe):
    noise, text = pipe.draw_noise(SIZE), pipe.encode_text("a sword")
    given = read_given(SIZE)
    *_, step = pipe.denoise(noise, text, steps=1)
    says("not '32x32x5': try wan.VideoSize", pipe.draw_noise, "32x32x5")
    says("what `encode_text` returns, not str: try pipe.encode_text", pipe.denoise, noise, "a sword")
    says("not EncodedText", pipe.denoise, noise, text.positive_text)
    says("The noise is a tensor .* not NoneType: pass what pipe.draw_noise gives", pipe.denoise, None, text)
    says(r"not \(16, 2, 4, 4\) of torch.float32", pipe.denoise, noise[0], text)
    says("KeptRun, not str: give the folder to `generate`", pipe.denoise, noise, text, keep="outputs/run")
    says("The VACE context is .* not VaceContext: pass its .tensor", pipe.denoise, noise, text,
         vace_context=pipe.encode_context(given))  # fmt: skip
    says("The latent to start from is .* not int", pipe.denoise, noise, text, start=5, denoise=0.5)
    says("The latent is .* not Step: pass its .latent", pipe.decode, step)
    says("not NoneType: pass what pipe.denoise gives", pipe.decode, None)
    says("One latent .* at a time, not .2, 16, 2, 4, 4.", pipe.decode, torch.cat([noise, noise]))
    says(r"encode_context\(read_given\(size, reference=...\)\), not str", pipe.encode_context, "a.png")


# --------------------------------------------------------------------------------------------------- experiments


@pytest.mark.parametrize(
    "options, words",
    [
        ({"prompt": None}, "A prompt is one text, not None"),
        ({"negative": 5}, "A prompt is one text, not 5"),
        ({"size": "32x32x5"}, "not '32x32x5': try wan.VideoSize"),
        ({"loras": 5}, r"a list of \(file, strength\), not 5"),
        ({"loras": [5]}, r"a list of \(file, strength\), not 5"),
        ({"loras": [(5, 1.0)]}, "The LoRA is named by a path, not 5"),
        ({"loras": [("x", "y")]}, "strength is a number .* not 'y'"),
        ({"reference": 5}, "The reference is named by a path, not 5"),
        ({"start": 5, "denoise": 0.5}, "The start is named by a path, not 5"),
        ({"vace_strength": float("nan")}, "a number from 0 to 10, not nan"),
        ({"vace_strength": "1"}, "a number from 0 to 10, not '1'"),
    ],
)
def test_settings_check_themselves(options, words):
    says(words, RunSettings, **{"prompt": "a sword"} | options)


def test_settings_given_as_a_list_are_those_given_as_a_tuple():
    loras = [["a.safetensors", 1]]
    assert RunSettings("a sword", loras=loras) == RunSettings("a sword", loras=(("a.safetensors", 1.0),))


def test_a_grid_says_what_it_goes_over(tmp_path):
    settings = RunSettings("a sword")
    says(r"try \{'guidance': \[1, 3, 6\]\}", settings.spread, 5)
    says(r"The values of steps in a grid are a list, not 5: try \[5\]", settings.spread, {"steps": 5})
    says("are a list, not '12'", settings.spread, {"steps": "12"})
    says("There is no run None in", Experiments(tmp_path).find, None)


@pytest.mark.parametrize(
    "wrong", [{"fps": 0}, {"fps": "x"}, {"seconds": None}, {"seconds": {"text": "x"}}], ids=str
)
def test_a_damaged_record_is_left_out_before_the_lab_shows_it(pipe, tmp_path, wrong):
    bench = Experiments(tmp_path, {"mini": pipe})
    about = bench.run(RunSettings("a sword", **SETTINGS)).folder / "run.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | wrong))
    assert bench.history() == []


def test_the_lab_takes_a_pipeline_as_its_pipe(tmp_path):
    says("what wan.load gives, not 'mini': try model='mini'", explore, pipe="mini", folder=tmp_path)
    says("A prompt is one text, not 5", explore, 5, folder=tmp_path)
    says("is named by a path, not 5", explore, folder=5)
