"""Runs that are remembered: complete records, the same bits again, grids that go on, on any executor."""

import copy
import hashlib
import io
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import write_small_model

from wan_tutorial import experiments
from wan_tutorial.errors import WanError
from wan_tutorial.experiments import Experiments, RunSettings, paint, read_record, read_stack, record_files
from wan_tutorial.files import write_safetensors
from wan_tutorial.pipeline import load
from wan_tutorial.show.runs import thumbnail, write_page
from wan_tutorial.show.video import to_frames
from wan_tutorial.sizes import VideoSize

SETTINGS = RunSettings(
    "a sword in the burning wood", negative="blurry", size=VideoSize(32, 32, 5), steps=2, guidance=2.0
)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return load("mini", **vars(write_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


@pytest.fixture
def bench(pipe, tmp_path):
    return Experiments(tmp_path / "runs", {"mini": pipe})


@pytest.fixture(scope="module")
def made(pipe, tmp_path_factory):
    """One run, for those who only look."""
    return Experiments(tmp_path_factory.mktemp("runs"), {"mini": pipe}).run(SETTINGS)


# ---------------------------------------------------------------------------------------------------- settings


def test_settings_fill_in_the_models_own_and_check_themselves():
    own = RunSettings("a fire")
    assert (own.size, own.steps, own.guidance) == (VideoSize(96, 96, 13), 20, 4.0)
    assert (own.sampler, own.shift) == ("uni_pc", 3.0)
    assert RunSettings("a fire", model="wan2.1-vace-14b-q3").size == VideoSize(832, 480, 81)
    for wrong, told in (
        ({"model": "mimi"}, "Did you mean mini"),
        ({"steps": 0}, "1 or more"),
        ({"sampler": "uni"}, "no sampler"),
        ({"seed": -1}, "whole number from 0"),
        ({"fit": "squeeze"}, "'pad' .* 'crop'"),
        ({"denoise": 0.5}, "video to start from"),
    ):
        with pytest.raises(WanError, match=told):
            RunSettings("a fire", **wrong)


def test_settings_go_through_a_file_unchanged():
    settings = replace(SETTINGS, loras=(("speed.safetensors", 0.3),), denoise=0.5, start="run.png")
    assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_a_grid_spreads_row_by_row_and_refuses_what_it_cannot_spread():
    cells = SETTINGS.spread({"guidance": [1.0, 3.0], "seed": [1, 2, 3]})
    assert [(cell.guidance, cell.seed) for cell in cells] == [(g, s) for g in (1.0, 3.0) for s in (1, 2, 3)]
    for axes, told in (
        ({}, "one or two"),
        ({"seed": [1], "steps": [1], "shift": [1.0]}, "one or two"),
        ({"sharpness": [1]}, "no setting called 'sharpness'"),
        ({"seed": []}, "one or more"),
        ({"seed": [1, 1]}, "given once"),
        ({"steps": [2, 0]}, "1 or more"),
    ):
        with pytest.raises(WanError, match=told):
            SETTINGS.spread(axes)


def test_the_difference_between_two_settings_is_said_in_words():
    other = replace(
        SETTINGS, guidance=3.5, seed=4, prompt="a sword in the snow", loras=(("a/speed.safetensors", 0.5),)
    )
    assert SETTINGS.unlike(other) == [
        "prompt: without 'burning wood', with 'snow'",
        "seed 0 and 4",
        "guidance 2 and 3.5",
        "LoRA none and speed at 0.5",
    ]
    assert SETTINGS.unlike(SETTINGS) == []
    assert SETTINGS.unlike(replace(SETTINGS, prompt="in the burning wood a sword")) == [
        "prompt: the same words in another order"
    ]


# ------------------------------------------------------------------------------------------------------ one run


def test_painting_is_generating_bit_for_bit_and_tells_each_step(pipe):
    moments = []
    result, guesses = paint(SETTINGS, pipe, see=moments.append)
    plain = pipe.generate(
        SETTINGS.prompt, negative="blurry", size=SETTINGS.size, steps=2, guidance=2.0, progress=False
    )
    assert torch.equal(result.video, plain.video) and torch.equal(result.latent, plain.latent)
    assert [(one.stage, one.done, one.total) for one in moments] == [
        ("text", 0, 2),
        ("steps", 1, 2),
        ("steps", 2, 2),
        ("decode", 0, 1),
    ]
    assert guesses.shape == (2, 2, 4, 4, 3) and np.array_equal(moments[2].guess, guesses[1])


def test_a_record_is_a_plain_folder_that_tells_everything(made, pipe):
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "frames.png",
        "run.json",
        "steps.png",
        "video.mp4",
    ]
    told = json.loads((made.folder / "run.json").read_text())
    assert set(told["files"]) == {"transformer", "text_encoder", "vae"}
    for role, path in pipe.files.items():
        assert told["files"][role] == {
            "name": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    assert told["versions"]["torch"] == torch.__version__ and set(told["seconds"]) == {
        "text",
        "steps",
        "decode",
    }
    assert told["memory_peak"] > 10**8 and told["threads"] == torch.get_num_threads()
    again = read_record(made.folder)
    assert again == made and again.settings == SETTINGS and re.fullmatch("0001-[0-9a-f]{6}", again.id)
    result, guesses = paint(SETTINGS, pipe)
    assert np.array_equal(again.frames(), to_frames(result.video)) and np.array_equal(
        again.guesses(), guesses
    )
    assert again.checksum == hashlib.sha256(result.video.contiguous().numpy().tobytes()).hexdigest()


def test_a_run_is_repeated_bit_for_bit_and_a_changed_one_is_noticed(bench, tmp_path):
    first = bench.run(SETTINGS)
    again = bench.repeat(first)
    assert again.id != first.id and again.checksum == first.checksum and again.key == first.key
    for name in ("frames.png", "steps.png"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()
    about = first.folder / "run.json"
    about.write_text(about.read_text().replace(first.checksum, "0" * 64))
    with pytest.raises(WanError, match="its video is another: the record was changed"):
        bench.repeat(read_record(first.folder))
    told = json.loads(about.read_text())
    told["files"]["vae"]["sha256"] = "0" * 64
    about.write_text(json.dumps(told))
    with pytest.raises(WanError, match="vae.safetensors is not the file that run 1 was made with"):
        bench.repeat(read_record(first.folder))


def test_what_was_given_to_a_run_is_kept_with_it(bench, tmp_path):
    picture, before = tmp_path / "a picture.png", bench.run(SETTINGS)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    given = replace(SETTINGS, reference=str(picture), vace_strength=0.7, denoise=0.6,
                    start=str(before.folder / "frames.png"))  # fmt: skip
    stages = []
    first = bench.run(given, see=lambda moment: stages.append(moment.stage))
    assert stages == ["text", "context", "steps", "steps", "decode", "record"]
    assert first.checksum != before.checksum and {"reference.png", "start.png"} <= {
        p.name for p in first.folder.iterdir()
    }
    assert len(first.guesses()) == 2  # without the reference's own frame
    second = bench.run(replace(first.settings, seed=9))  # with its own copy of what was given
    assert first.settings.unlike(second.settings) == ["seed 0 and 9"]
    other = replace(first.settings, reference=str(before.folder / "frames.png"))
    assert first.settings.unlike(other) == ["another picture"]
    page = write_page([first, before], tmp_path / "page.html").read_text()
    assert page.count('alt="The reference picture"') == 1
    picture.unlink()
    shutil.rmtree(before.folder)
    assert bench.repeat(read_record(first.folder)).checksum == first.checksum
    other = replace(given, size=VideoSize(48, 32, 5), reference=None, start=str(first.folder / "start.png"))
    with pytest.raises(WanError, match="48x32x5, not 32x32x5"):
        bench.run(other)


def test_a_lora_changes_the_run_and_is_part_of_its_key(bench, pipe, tmp_path):
    file, layer = tmp_path / "small_lora.safetensors", "diffusion_model.blocks.0.self_attn.q"
    torch.manual_seed(0)
    write_safetensors(
        file,
        {f"{layer}.lora_down.weight": torch.randn(4, 256), f"{layer}.lora_up.weight": torch.randn(256, 4)},
    )
    bare, worn = bench.run(SETTINGS), bench.run(replace(SETTINGS, loras=((str(file), 0.5),)))
    assert worn.checksum != bare.checksum and worn.key != bare.key
    assert worn.files["lora 0"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert bench.run(SETTINGS).checksum == bare.checksum  # nothing is left on the networks
    assert bench.repeat(worn).checksum == worn.checksum
    file.unlink()
    with pytest.raises(WanError, match="small_lora.safetensors"):
        bench.repeat(worn)


def test_a_run_that_is_stopped_leaves_nothing_and_the_next_is_whole(bench):
    def stop(moment):
        if moment.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(SETTINGS, see=stop)
    assert bench.history() == [] and not list(bench.folder.glob("*"))
    assert bench.run(SETTINGS).number == 1


# ---------------------------------------------------------------------------------------------------- the folder


def copies(bench: Experiments, record, count: int) -> None:
    """More records like one, as if made one after the other."""
    files = {path.name: path.read_bytes() for path in record.folder.iterdir()}
    for _ in range(count):
        bench.keep(files)


def test_a_record_appears_whole_or_not_at_all(bench, made, monkeypatch):
    write = Path.write_bytes

    def fail(path, data):
        if path.name == "run.json":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(WanError, match="No space left on device"):
        copies(bench, made, 1)
    assert not list(bench.folder.iterdir())


def test_history_leaves_out_what_is_damaged_or_unfinished(bench, made):
    copies(bench, made, 3)
    first, second, _ = bench.history()
    (first.folder / "run.json").write_text("{")
    (second.folder / "run.json").unlink()
    (bench.folder / ".new-killed").mkdir()
    (bench.folder / "notes").mkdir()
    assert [record.number for record in bench.history()] == [3]
    assert bench.find(3) == bench.find("3") == bench.history()[0]
    with pytest.raises(WanError, match="no run 9"):
        bench.find(9)
    copies(bench, made, 1)
    assert bench.history()[-1].number == 4


@pytest.mark.parametrize(
    "name, value", [("fps", 10**400), ("memory_peak", "x"), ("memory_peak", 10**400), ("seconds", {"text": "x"}),
                    ("seconds", {"text": 10**400}), ("versions", {})]
)  # fmt: skip
def test_a_record_whose_numbers_are_none_is_left_out(bench, made, name, value):
    copies(bench, made, 2)
    about = bench.history()[0].folder / "run.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {name: value}))
    assert [record.number for record in bench.history()] == [2]
    with pytest.raises(WanError, match="damaged"):
        bench.find(1)


def test_a_record_that_is_too_deep_to_read_is_left_out(bench, made):
    copies(bench, made, 2)
    (bench.history()[0].folder / "run.json").write_text("[" * 100_000)
    assert [record.number for record in bench.history()] == [2]


def test_damaged_pictures_of_a_record_are_said_in_a_sentence(bench, made, monkeypatch):
    copies(bench, made, 1)
    (record,) = bench.history()
    path = record.folder / "frames.png"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's DecompressionBombError
    for read in (lambda: read_stack(path, 32), lambda: thumbnail(path)):
        with pytest.raises(WanError, match="could not be read as a picture"):
            read()
    monkeypatch.undo()
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"I\0AT"))  # its SyntaxError
    for read in (record.frames, lambda: thumbnail(path)):
        with pytest.raises(WanError, match="could not be read as a picture"):
            read()
    size = record.settings.video_size
    Image.new("RGB", (size.latent_width, size.latent_height)).save(record.folder / "steps.png")
    with pytest.raises(WanError, match="no whole number of steps"):
        record.guesses()


def test_a_hundred_runs_are_read_within_a_second(bench, made):
    copies(bench, made, 100)
    began = time.process_time()
    history = bench.history()
    assert time.process_time() - began < 1
    assert [record.number for record in history] == list(range(1, 101))


def test_a_page_carries_everything_with_it(bench, made, tmp_path):
    copies(bench, made, 2)
    first, second = bench.history()
    other = replace(second, settings=replace(SETTINGS, prompt="a <b>sword</b> & 'more'", seed=9))
    page = write_page([first, other], tmp_path / "page.html", words=RunSettings.unlike)
    text = page.read_text()
    assert text.count("<video") == 2 == text.count("data:video/mp4;base64,")
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "<script" not in text
    assert "a &lt;b&gt;sword&lt;/b&gt; &amp;" in text and "<b>sword" not in text and "seed 0 and 9" in text
    assert [path.name for path in tmp_path.glob("*.html")] == ["page.html"]
    with pytest.raises(WanError, match="at least one run"):
        write_page([], tmp_path / "empty.html")


def test_uploaded_pictures_stay_inside_the_folder(bench):
    with pytest.raises(WanError, match="could not be read as a picture"):
        bench.add_picture("virus.png", b"no picture")
    page = bench.folder.parent / "a.png"
    Image.new("RGB", (20, 20), "red").save(page)
    kept = bench.add_picture("../../../a b.png", page.read_bytes())
    assert kept.parent == bench.folder / "pictures" and kept in bench.pictures()


def test_an_uploaded_picture_is_upright_and_white_where_it_is_transparent(bench):
    photo = Image.new("RGBA", (20, 30), (255, 0, 0, 0))
    turned = photo.getexif()
    turned[274] = 6  # as a phone held upright writes it
    page = bench.folder.parent / "photo.png"
    photo.save(page, exif=turned)
    with Image.open(bench.add_picture("photo.png", page.read_bytes())) as kept:
        assert kept.size == (30, 20) and kept.mode == "RGB" and kept.getpixel((3, 3)) == (255, 255, 255)
    with Image.open(io.BytesIO(thumbnail(page))) as small:
        assert small.size == (30, 20) and min(small.convert("RGB").getpixel((3, 3))) > 250


# -------------------------------------------------------------------------------------------------------- grids

GRID = replace(SETTINGS, steps=1)
AXES = {"guidance": [1.0, 2.0, 3.0], "seed": [1, 2, 3, 4]}


@pytest.fixture(scope="module")
def local(pipe, tmp_path_factory):
    """A grid of twelve, made here: key -> checksum."""
    bench = Experiments(tmp_path_factory.mktemp("grid"), {"mini": pipe})
    return {record.key: record.checksum for record in bench.grid(GRID, AXES)}


def test_a_grid_that_was_interrupted_goes_on_where_it_stopped(bench, local, monkeypatch):
    painted, work = [], experiments.paint

    def counted(settings, *arguments, **keywords):
        painted.append(settings)
        return work(settings, *arguments, **keywords)

    monkeypatch.setattr(experiments, "paint", counted)
    begun = bench.grid(GRID, AXES)
    for _ in range(5):
        next(begun)
    begun.close()
    assert len(painted) == len(bench.history()) == 5
    records = list(bench.grid(GRID, AXES))
    assert len(painted) == 12 == len(records) == len(bench.history())
    assert {record.key: record.checksum for record in records} == local and len(set(local.values())) == 12
    assert len(list(bench.grid(GRID, AXES))) == 12 == len(painted)  # nothing is made twice


def test_any_executor_makes_the_same_grid(bench, local):
    with ThreadPoolExecutor(2) as executor:
        records = list(bench.grid(GRID, AXES, executor=executor))
    assert {record.key: record.checksum for record in records} == local
    assert len(bench.history()) == 12


@pytest.mark.full  # two more processes with torch in them; any executor is tested above
def test_two_workers_of_a_cluster_make_the_same_grid(bench, local):
    distributed = pytest.importorskip(
        "distributed", reason="Dask is not here: pip install 'wan-tutorial[cluster]'"
    )
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
    )
    with cluster, distributed.Client(cluster) as client:
        begun = bench.grid(GRID, AXES, executor=client.get_executor())
        next(begun)
        begun.close()  # interrupted: what is on its way is called back
        kept = len(bench.history())
        records = list(bench.grid(GRID, AXES, executor=client.get_executor()))
        workers = client.run(lambda: __import__("os").getpid())
    assert len(set(workers.values())) == 2 and 1 <= kept < 12
    assert {record.key: record.checksum for record in records} == local


def test_a_grid_over_models_gives_each_worker_its_models_files(bench, pipe, monkeypatch):
    given = {}

    def worker(settings, files, threads, asked):
        given[settings.model] = files
        return record_files(settings, bench.pipes[settings.model], *paint(settings, pipe), threads=threads)

    monkeypatch.setattr(experiments, "paint_files", worker)
    other = copy.copy(pipe)
    other.files = {**pipe.files, "transformer": pipe.files["transformer"].with_name("other.gguf")}
    other.files["transformer"].write_bytes(pipe.files["transformer"].read_bytes() + b"0")
    bench.pipes["mini-f16"] = other
    with ThreadPoolExecutor(1) as executor:
        list(bench.grid(SETTINGS, {"model": ["mini", "mini-f16"]}, executor=executor))
    assert given["mini"]["transformer"].endswith("small-Q3_K.gguf")
    assert given["mini-f16"]["transformer"].endswith("other.gguf")
