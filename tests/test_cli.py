"""The command, as a person meets it: help, a video, a look into a file, and one sentence for every mistake."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import write_small_model

from wan_tutorial import cli
from wan_tutorial.errors import WanError
from wan_tutorial.machine.weights import MODELS
from wan_tutorial.sampling.schedules import SCHEDULERS
from wan_tutorial.sampling.solvers import SOLVERS
from wan_tutorial.show import video as pictures

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def command(files, tmp_path, monkeypatch):
    """Run `wan-tutorial generate` on the small model in an empty folder; the answer is the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, prompt: str = "a sword in the burning wood") -> int:
        own = ["--transformer", str(files.transformer), "--text-encoder", str(files.text_encoder)]
        small = ["--size", "32x32", "--frames", "5", "--steps", "2", "--device", "cpu"]
        return cli.main(["generate", prompt, *own, "--vae", str(files.vae), *small, *options])

    return run


def written() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------ generate


def test_generate_writes_a_video_and_a_strip_and_says_what_it_took(command, capsys):
    assert command("--strip", "--seed", "7", "--enlarge", "2", "--output", "runs/fire.mp4") == 0
    assert written() == ["runs/fire.mp4", "runs/fire_strip.png"]
    assert pictures.read_video("runs/fire.mp4").shape == (5, 64, 64, 3)
    out, err = capsys.readouterr()
    for words in (
        "wrote     runs/fire.mp4",
        "seed 7, 2 steps, guidance 4, shift 3, uni_pc, simple",
        "32x32, 5 frames",
    ):
        assert words in out
    for stage in ("load", "text", "steps", "decode"):
        assert f"\n{stage} " in out and stage in err  # the report; the progress bar
    assert out.count("memory peak") == 4 and "was trained on 96x96x13, 96x96x9, not on 32x32x5" in err


def test_pictures_reach_the_run(command, capsys):
    Image.new("RGB", (40, 30), "orange").save("fire.png")
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save("where.png")
    Image.new("RGB", (32, 32), "orange").save("still.png")
    assert command("--reference", "fire.png", "--reference-strength", "0.5", "--fit", "crop") == 0
    assert "given     1 reference, strength 0.5" in capsys.readouterr().out
    assert command("--video", "still.png", "--mask", "where.png") == 0
    assert "97 % of the video to keep" in capsys.readouterr().out
    assert command("--first-frame", "outputs/video.mp4") == 2
    assert "first frame outputs/video.mp4 is not a picture" in capsys.readouterr().err
    assert command("--video", "outputs/video.mp4", "--mask", "where.png", "--output", "again.mp4") == 0


def test_quiet_is_quiet(command, capsys):
    assert command("--quiet") == 0
    assert capsys.readouterr().err == "" and written() == ["outputs/video.mp4"]


def test_the_settings_reach_the_sampler(command, capsys):
    options = ("--guidance", "1", "--shift", "3", "--sampler", "euler", "--scheduler", "normal", "--quiet")
    assert command(*options, "--negative", "blurry") == 0
    assert "guidance 1, shift 3, euler, normal" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        (("--size", "33x32"), "multiple of 16 pixels, not 33: the nearest is 32"),
        (("--size", "32"), "--size is WIDTHxHEIGHT"),
        (("--size", "wide"), "--size is WIDTHxHEIGHT"),
        (("--size", "axb"), "--size is WIDTHxHEIGHT in pixels, such as 96x96, not 'axb'"),
        (("--frames", "-3"), "4k + 1 (1, 5, 9, 13, ...), not -3: the nearest is 1"),
        (("--frames", "12"), "4k + 1 (1, 5, 9, 13, ...), not 12: the nearest is 13"),
        (("--steps", "0"), "1 or more, not 0"),
        (("--sampler", "ddim"), "Known: euler"),
        (("--scheduler", "karras"), "Known: simple"),
        (("--seed", "-3"), "0 to 2^64 - 1, not -3"),
        (("--model", "large"), "Known: mini, mini-f16, wan2.1-vace-14b-q3"),
        (("--vae", "nowhere.safetensors"), "none at nowhere.safetensors"),
        (("--device", "toaster"), "cpu or cuda, not 'toaster'"),
        (("--device", "mps"), "cpu or cuda, not 'mps': try cpu"),
        (("--output", "video.gif"), "an .mp4 file, not 'video.gif': try video.mp4"),
        (("--output", "."), "is a folder: try"),
        (("--enlarge", "0"), "1 to 32 times, not 0"),
        (("--enlarge", "1000000"), "1 to 32 times, not 1000000"),
        (("--size", "9" * 5000 + "x96"), "--size is WIDTHxHEIGHT"),
        (("--frames", "4000001"), "16385 at most, not 4000001"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(command, capsys, options, words):
    assert command(*options) == 2
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if line.startswith("wan-tutorial: ")]
    assert len(said) == 1 and words in said[0] and "Traceback" not in err
    assert out == "" and written() == []


def test_a_file_where_the_folder_should_be_is_found_before_any_work(command, capsys):
    Path("taken").write_text("a file")
    assert command("--output", "taken/video.mp4") == 2
    assert "cannot be written" in capsys.readouterr().err and written() == ["taken"]


def test_a_folder_that_may_not_be_written_is_found_before_any_work(command, capsys):
    assert command("--output", "/proc/nothing/video.mp4") == 2  # not even by an administrator
    assert "The folder /proc/nothing cannot be written (" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_half_written(command, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    import mediapy

    monkeypatch.setattr(mediapy, "write_video", interrupted)
    assert command("--quiet") == 130
    out, err = capsys.readouterr()
    assert err.strip() == f"wan-tutorial: {cli.STOPPED}" and out == ""
    assert written() == []


# -------------------------------------------------------------------------------------------- inspect and doctor


def test_inspect_tells_what_is_in_a_file(files, capsys):
    assert cli.main(["inspect", str(files.transformer)]) == 0
    page = capsys.readouterr().out
    assert "VACE transformer" in page and "Q3_K" in page and "bits per weight" in page
    assert cli.main(["inspect", str(files.vae), "--tensors"]) == 0
    assert "decoder.head.2.weight" in capsys.readouterr().out


def test_inspect_of_anything_else_is_a_sentence(tmp_path, capsys):
    foreign = tmp_path / "holiday.gguf"
    foreign.write_bytes(b"not a model")
    for path in (foreign, tmp_path / "missing.gguf", tmp_path):
        assert cli.main(["inspect", str(path)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("wan-tutorial: ") and err.count("\n") == 1


def test_doctor_judges_every_model(capsys):
    assert cli.main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "memory" in page and "cores" in page
    for name in MODELS:
        assert name in page


def test_doctor_plans_what_its_options_ask_for(capsys):
    assert cli.main(["doctor", "--size", "480x480", "--frames", "17"]) == 0
    assert "wan2.1-vace-14b-q3 on" in (page := capsys.readouterr().out) and "480x480, 17 frames" in page
    assert cli.main(["doctor", "mini", "--steps", "0"]) == 2
    assert "1 or more, not 0" in capsys.readouterr().err
    assert cli.main(["doctor", "mini", "--guidance", "-2"]) == 2
    assert "0 to 100, not -2.0" in capsys.readouterr().err
    assert cli.main(["doctor", "--frames", "1" + 400 * "0"]) == 2
    assert "16385 at most" in capsys.readouterr().err
    assert cli.main(["download", "mini", "--folder", "~nosuchuser/x"]) == 2
    assert "the home of someone unknown here" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- help


def test_help_knows_every_sampler_scheduler_and_model(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["generate", "--help"])
    page = capsys.readouterr().out
    assert stop.value.code == 0 and "examples:" in page
    for name in (*SOLVERS, *SCHEDULERS, *MODELS):
        assert name in page


def test_help_comes_at_once_and_loads_nothing():
    """A second at most on any machine: neither torch nor numpy is imported to print a page of text."""
    code = "import sys; from wan_tutorial.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)))"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("[]\n") and "generate" in done.stdout
    assert time.perf_counter() - began < 3  # 0.05 s where nothing else runs


# ------------------------------------------------------------------------------------------------------ pictures


def test_pixels_become_whole_numbers_and_back():
    assert pictures.to_uint8(np.array([-1.0, 0.0, 1.0, 7.0, -7.0])).tolist() == [0, 128, 255, 255, 0]
    assert pictures.to_uint8(np.array([3], dtype=np.uint8)).tolist() == [3]


def test_a_video_survives_its_file(tmp_path):
    grid = np.linspace(-1, 1, 64)
    still = np.stack(np.broadcast_arrays(grid[None, :], grid[:, None], 0 * grid), axis=-1)
    video = np.stack([np.roll(still, 2 * frame, axis=1) for frame in range(9)])
    path = pictures.write_video(video, tmp_path / "new" / "video.mp4", fps=8)
    back = pictures.read_video(path)
    assert back.shape == video.shape
    error = (back.astype(float) - pictures.to_uint8(video)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 30  # dB
    with pytest.raises(WanError, match="could not be read as a video"):
        (tmp_path / "bad.mp4").write_bytes(b"nothing" * 100)
        pictures.read_video(tmp_path / "bad.mp4")


def test_no_more_of_a_video_is_read_than_is_asked_for(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    path = pictures.write_video(frames, tmp_path / "video.mp4", fps=8)
    assert np.array_equal(pictures.read_video(path, most=5), pictures.read_video(path)[:5])


def test_a_pipe_that_breaks_under_the_video_is_an_error(command, capsys, monkeypatch):
    """It is ffmpeg that has gone then, not the reader of our output."""
    import mediapy

    def broken(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(mediapy, "write_video", broken)
    assert command("--quiet") == 2 and written() == []
    assert "outputs/video.mp4 could not be written" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    import mediapy

    def fail(path, *_, **__):
        Path(path).write_bytes(b"half")
        raise RuntimeError("no space")

    path = tmp_path / "video.mp4"
    path.write_bytes(b"the old one")
    monkeypatch.setattr(mediapy, "write_video", fail)
    with pytest.raises(WanError, match="video.mp4 could not be written"):
        pictures.write_video(np.zeros((1, 16, 16, 3)), path, fps=8)
    assert path.read_bytes() == b"the old one" and len(list(tmp_path.iterdir())) == 1


def test_a_strip_reads_from_left_to_right_from_first_to_last():
    assert pictures.strip_frames(13, 7) == [0, 2, 4, 6, 8, 10, 12]
    assert pictures.strip_frames(5, 7) == [0, 1, 2, 3, 4]
    assert pictures.strip_frames(1, 7) == [0] and pictures.strip_frames(81, 2) == [0, 80]
    brightness = np.linspace(-1, 1, 13)[:, None, None, None]
    strip = pictures.film_strip(np.broadcast_to(brightness, (13, 32, 32, 3)), 7, fps=16, frame_height=64)
    row = strip[56].mean(axis=-1)  # a line through the pictures' middle
    centres = [24 + place * 70 + 32 for place in range(7)]
    assert [float(row[x]) for x in centres] == pytest.approx([0, 42, 85, 128, 170, 213, 255], abs=1)
    assert strip.dtype == np.uint8 and (strip[:, :24] == 255).all()  # the margin


def test_titles_too_long_are_cut_at_a_word(tmp_path):
    strip = pictures.film_strip(np.zeros((5, 32, 32, 3)), 2, fps=8, title="word " * 60)
    path = pictures.write_picture(strip, tmp_path / "strip.png")
    assert np.array_equal(np.asarray(Image.open(path)), strip)


@pytest.mark.parametrize("shape", [(13, 32, 32), (32, 32, 3), (1, 3, 13, 32, 32), (0, 32, 32, 3)])
def test_anything_but_a_video_is_refused(shape):
    with pytest.raises(WanError, match=r"\(frames, height, width, 3\)"):
        pictures.film_strip(np.zeros(shape), fps=8)
