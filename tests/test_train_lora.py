"""Training LoRAs: from folders and renders, in seconds, on a small random model; distilling; reading a look."""

import json
import random
import time
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small import write_small_model

from wan_tutorial.errors import WanError
from wan_tutorial.files import read_header
from wan_tutorial.lora import new_lora, read_lora, write_lora
from wan_tutorial.mini import distill, evaluate_lora, loop, styles, train_lora
from wan_tutorial.mini.captions import BRIEF_PROMPT
from wan_tutorial.mini.judge import names_in
from wan_tutorial.mini.linear_probe import LinearProbe
from wan_tutorial.mini.train_vace import another_look
from wan_tutorial.mini.world import draw_scene, render
from wan_tutorial.noise import mix
from wan_tutorial.pipeline import load
from wan_tutorial.show.video import write_video
from wan_tutorial.sizes import VideoSize

SIZE = VideoSize(32, 32, 5)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """A small random model in 3 bits that paints 32x32x5."""
    pipe = load("mini", **vars(write_small_model(tmp_path_factory.mktemp("model"))), device="cpu")
    pipe.entry = replace(pipe.entry, size=SIZE, trained_sizes=(SIZE,))
    return pipe


@pytest.fixture(scope="module")
def examples(pipe):
    videos = styles.neon(render([draw_scene(seed) for seed in range(4)], height=32, width=32, frames=5))
    return [train_lora.Example(video, ("a sword in the fire", "an axe")) for video in videos]


@pytest.fixture
def clock(monkeypatch):
    """Training's clock, slowed or hastened so that a step takes half a second on every machine."""
    ticks = (0.25 * n for n in count())
    clock = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)
    monkeypatch.setattr(loop, "time", clock)  # it looks twice at each step


def loss_on(pipe, examples, loras=()):
    """The flow-matching loss, always on the same noise."""
    torch.manual_seed(0)
    random.seed(0)
    lessons = train_lora.Lessons.of(pipe, examples, progress=False)
    pipe.rack.put_on(pipe.transformer, pipe.rack.read(loras))
    with torch.no_grad():
        loss = sum(lessons.loss(pipe.transformer).item() for _ in range(6)) / 6
    pipe.rack.put_on(pipe.transformer, ())
    return loss


# --------------------------------------------------------------------------------------------------- the look


def test_neon_glows_along_contours_on_any_size_and_leaves_no_doubt():
    video = render([draw_scene(seed) for seed in (3, 5)], frames=2)
    lit = styles.neon(video)
    assert lit.shape == video.shape and -1 <= lit.min() and lit.max() <= 1
    assert (lit - video).abs().mean() > 0.15
    assert torch.equal(styles.neon(video[:1]), lit[:1])  # each video for itself
    square = torch.full((1, 1, 96, 96, 3), -0.8)
    square[:, :, 32:64, 32:64] = torch.tensor([0.9, -0.6, -0.8])
    drawn = styles.neon(square)[0, 0]
    edge, inside, outside = drawn[48, 32], drawn[48, 48], drawn[4, 4]
    assert edge.mean() > inside.mean() > outside.mean()
    assert edge[0] > edge[1] > -1 and outside[2] > outside[1]  # a red tube on a violet night
    assert styles.neon(torch.zeros(1, 1, 64, 112, 3)).shape == (1, 1, 64, 112, 3)
    assert styles.LOOKS["plain"](video) is video


# --------------------------------------------------------------------------------------------------- examples


def test_a_folder_of_pictures_and_videos_becomes_clips_of_the_models_size(pipe, tmp_path):
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 255, (48, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 40), "orange").save(tmp_path / "b.JPG")
    (tmp_path / "a.txt").write_text("a sword\n", encoding="utf-8")
    long = np.linspace(0, 255, 12)[:, None, None, None] * np.ones((1, 64, 64, 3))
    write_video(long.astype(np.uint8), tmp_path / "c.mp4", fps=16)
    (tmp_path / "notes.md").write_text("not an example")
    found = train_lora.read_examples(pipe, tmp_path, caption="a fire")
    assert [example.captions for example in found] == [("a sword",), ("a fire",), ("a fire",), ("a fire",)]
    assert all(example.video.shape == (5, 32, 32, 3) for example in found)
    assert torch.equal(found[0].video[0], found[0].video[4])  # a picture stands still
    light = [example.video.mean((1, 2, 3)) for example in found[2:]]
    assert (light[0].diff() > 0).all() and light[1][-1] > 0.9 > -0.9 > light[0][
        0
    ]  # first and last five frames
    with pytest.raises(WanError, match="^b.JPG has no caption: write one into b.txt"):
        train_lora.read_examples(pipe, tmp_path)


def test_examples_that_cannot_be_are_refused(pipe, tmp_path):
    with pytest.raises(WanError, match="holds no pictures or videos"):
        train_lora.read_examples(pipe, tmp_path, caption="x")
    with pytest.raises(WanError, match="is none: a look is one of neon, plain"):
        train_lora.read_examples(pipe, tmp_path / "nowhere", caption="x")
    Image.new("RGB", (40, 10)).save(tmp_path / "a.png")
    with pytest.raises(WanError, match="a.png cannot be learned from. .*not 40x10"):
        train_lora.read_examples(pipe, tmp_path, caption="x")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("\ufeffa sword".encode())
    assert train_lora.read_examples(pipe, tmp_path)[0].captions == ("a sword",)
    (tmp_path / "a.txt").write_bytes("ein Lagerfeuer für zwei".encode("latin-1"))
    with pytest.raises(WanError, match="a.txt is no text in UTF-8"):
        train_lora.read_examples(pipe, tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(WanError, match="1 render or more, not 0"):
        train_lora.render_examples("neon", 0)
    with pytest.raises(WanError, match="more than 0 minutes.*not inf"):
        train_lora.train_lora(pipe, [], minutes=float("inf"))
    (tmp_path / "a.png").unlink()
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(WanError, match="could not be read as a video"):
        train_lora.read_examples(pipe, tmp_path, caption="x")


def test_renders_come_with_captions_that_say_nothing_of_the_look():
    found = train_lora.render_examples("neon", 8)
    assert len(found) == 8 and found[0].video.shape == (13, 96, 96, 3)
    assert found[7].captions[0] == BRIEF_PROMPT
    assert len(found[0].captions) == 3 and not any("neon" in caption for e in found for caption in e.captions)


# --------------------------------------------------------------------------------------------------- training


def test_training_learns_the_examples_and_leaves_the_base_alone(pipe, examples, tmp_path, clock):
    before, raw = loss_on(pipe, examples), pipe.transformer.blocks[0].attn1.to_q.raw.clone()
    bare = pipe.generate("a sword", steps=1, progress=False).latent
    lora = train_lora.train_lora(pipe, examples, minutes=0.3, rank=4, folder=tmp_path, progress=False)
    assert loss_on(pipe, examples, [(lora, 1.0)]) < 0.9 * before
    assert loss_on(pipe, examples) == before and torch.equal(pipe.transformer.blocks[0].attn1.to_q.raw, raw)
    assert torch.equal(pipe.generate("a sword", steps=1, progress=False).latent, bare)
    assert not any(tensor.requires_grad for tensor in lora.tensors()) and lora.ranks == (4,)
    write_lora(lora, tmp_path / "mine.safetensors")
    names = list(read_header(tmp_path / "mine.safetensors").shapes)
    assert all(name.startswith("diffusion_model.blocks.") for name in names)
    assert {name.rsplit(".lora_", 1)[1] for name in names} == {"down.weight", "up.weight"}
    mine = read_lora(tmp_path / "mine.safetensors")
    assert loss_on(pipe, examples, [(mine, 1.0)]) == pytest.approx(
        loss_on(pipe, examples, [(lora, 1.0)]), rel=1e-3
    )
    again = train_lora.train_lora(pipe, examples, minutes=0.3, rank=4, folder=tmp_path, progress=False)
    assert all(
        torch.equal(a, b) for a, b in zip(again.tensors(), lora.tensors(), strict=True)
    )  # the minutes are used


def test_a_folder_is_gone_on_with_for_the_same_training_alone(pipe, examples, tmp_path):
    options = {
        "minutes": 5,
        "folder": tmp_path,
        "watch": lambda moment: moment.step % 3 == 0,
        "progress": False,
    }
    train_lora.train_lora(pipe, examples, rank=4, **options)
    train_lora.train_lora(pipe, examples, rank=4, **options)
    assert (tmp_path / "used.txt").read_text().split()[0] == "6"
    for other, rank in ((examples[:2], 4), (examples, 2)):
        with pytest.raises(
            WanError, match="a training of other examples, or of another model or rank: name another"
        ):
            train_lora.train_lora(pipe, other, rank=rank, **options)


def test_a_stopped_training_keeps_what_it_learned(pipe, examples, monkeypatch, capsys, tmp_path):
    steps, loss = [], train_lora.Lessons.loss

    def stopping(self, model):
        steps.append(1)
        if len(steps) > 6:
            raise KeyboardInterrupt
        return loss(self, model)

    monkeypatch.setattr(train_lora.Lessons, "loss", stopping)
    lora = train_lora.train_lora(pipe, examples, minutes=5, rank=2, folder=tmp_path)
    assert "holds what was learned so far" in capsys.readouterr().err
    means = loop.averaged(tmp_path)
    assert all(torch.equal(own, means[str(i)]) for i, own in enumerate(lora.tensors()))
    assert (tmp_path / "used.txt").read_text().startswith("6 "), "and goes on from there"
    assert all(change.up.abs().sum() > 0 for change in lora.changes.values())
    assert not pipe.transformer.blocks[0].attn1.to_q.updates


def test_the_command_trains_from_a_folder(pipe, tmp_path, monkeypatch, capsys, clock):
    monkeypatch.setattr(train_lora, "load", lambda name: pipe)
    Image.new("RGB", (40, 40), "orange").save(tmp_path / "b.png")
    words = [str(tmp_path), "--out", str(tmp_path / "my.safetensors"), "--minutes", "0.02", "--rank", "2"]
    assert train_lora.main([*words, "--caption", "a fire"]) == 0
    assert "learned from 1 clips" in capsys.readouterr().out and read_lora(
        tmp_path / "my.safetensors"
    ).ranks == (2,)
    for wrong, said in (
        (words, "b.png has no caption"),
        ([*words, "--caption", "a", "--minutes", "0"], "more than 0 minutes"),
        ([*words, "--out", str(tmp_path / "my.pt")], "is a .safetensors file, not 'my.pt'"),
        (["weather", *words[1:]], "a look is one of neon, plain"),
    ):
        assert train_lora.main(wrong) == 2
        assert said in capsys.readouterr().err


def test_a_watcher_may_end_a_training(pipe, examples):
    seen = []

    def watch(moment):
        seen.append(moment.step)
        return moment.step == 3

    lora = train_lora.train_lora(pipe, examples, minutes=5, rank=2, watch=watch, progress=False)
    assert seen == [1, 2, 3] and all(change.up.abs().sum() > 0 for change in lora.changes.values())


# --------------------------------------------------------------------------------------------------- distilling


def test_the_teachers_latents_resume_and_captions_repeat(pipe, tmp_path):
    pipe.entry = replace(pipe.entry, steps=2)
    lectures = distill.Lectures(tmp_path, pipe)
    lectures.paint(3)
    whole = lectures.read().copy()
    assert whole.shape == (3, 16, 3, 4, 4)
    assert whole[2, :, 0].any() and not whole[:2, :, 0].any(), "the third was shown a reference"
    with lectures.path.open("r+b") as file:
        file.truncate(whole[0].nbytes + 7)  # cut in the second
    assert lectures.ready == 1
    lectures.paint(3)
    assert np.allclose(lectures.read(), whole, atol=2e-2)
    alone = pipe.generate(
        distill.caption_of(1), negative=distill.BRIEF_NEGATIVE, seed=distill.FIRST_SEED + 1, progress=False
    )
    assert np.allclose(alone.latent[0].numpy(), whole[1, :, 1:], atol=2e-2)  # what generate paints
    changed, name = another_look(distill.scene_of(2), 2, change=True)
    picture = render([changed], height=32, width=32, frames=5)[0, -1]
    shown = pipe.generate(
        distill.caption_of(2),
        negative=distill.BRIEF_NEGATIVE,
        seed=distill.FIRST_SEED + 2,
        reference=picture,
        progress=False,
    )
    assert name in names_in(distill.caption_of(2), distill.scene_of(2))
    assert np.allclose(shown.latent[0].numpy(), whole[2, :, 1:], atol=2e-2)
    captions = [distill.caption_of(number) for number in range(60)]
    assert captions == [distill.caption_of(n) for n in range(60)] and 0 < captions.count(BRIEF_PROMPT) < 20


def test_the_student_walks_its_own_steps_and_a_perfect_one_has_no_loss():
    clean, noise = torch.randn(2, 16, 2, 4, 4), torch.randn(2, 16, 2, 4, 4)

    class Perfect(torch.nn.Module):
        def forward(self, latent, timestep, text):  # the straight way to `clean`
            count = len(latent) // len(clean)
            return (latent - clean.repeat(count, 1, 1, 1, 1)) / (timestep / 1000).view(-1, 1, 1, 1, 1)

    settings = load("mini").settings(steps=4, guidance=1.0, shift=8.0)
    places, times = distill.walk(Perfect(), noise, torch.zeros(2, 3, 8), settings)
    assert places.shape == (8, 16, 2, 4, 4)
    assert times[::2].tolist() == pytest.approx(
        [1, 0.9697, 0.9231, 0.8421], abs=1e-4
    )  # ComfyUI's, for uni_pc
    assert torch.allclose(places[6:], mix(clean, noise, times[-1].item()), atol=1e-4)
    target = clean.repeat(4, 1, 1, 1, 1)
    losses = distill.pointing_loss(Perfect(), places, times, torch.zeros(8, 3, 8), target)
    assert losses.shape == (8,) and losses.max() < 1e-3
    assert distill.pointing_loss(Perfect(), places, times, torch.zeros(8, 3, 8), target + 1).min() > 0.9


def test_distilling_nothing_writes_nothing(tmp_path, capsys):
    for words in (["--minutes", "0"], ["--minutes", "nan"], ["--teacher", "0"]):
        assert (
            distill.main([*words, "--folder", str(tmp_path), "--out", str(tmp_path / "none.safetensors")])
            == 2
        )
        assert "more than 0 minutes and 1 latent or more" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_distilling_comes_nearer_to_the_teacher_in_the_causvid_format(pipe, tmp_path, clock):
    pipe.entry = replace(pipe.entry, steps=3)
    lectures = distill.Lectures(tmp_path, pipe)
    lectures.paint(8)

    def distance(lora):
        settings = pipe.settings(steps=4, guidance=1.0)
        pipe.rack.put_on(pipe.transformer, pipe.rack.read([(lora, 1.0)] if lora else []))
        with torch.no_grad():
            picks = [number for number in range(8) if not distill.is_shown(number)]
            places, times = distill.walk(
                pipe.transformer, lectures.noise(picks), lectures.texts(picks), settings
            )
            text, clean = (
                lectures.texts(picks).repeat(4, 1, 1),
                torch.from_numpy(lectures.read()[picks][:, :, 1:].astype(np.float32)),
            )
            loss = distill.pointing_loss(
                pipe.transformer, places, times, text, clean.repeat(4, 1, 1, 1, 1)
            ).mean()
        pipe.rack.put_on(pipe.transformer, ())
        return loss.item()

    before = distance(None)
    lora = distill.distil(lectures, pipe, minutes=0.25)
    assert distance(lora) < 0.8 * before
    write_lora(lora, tmp_path / distill.NAME)
    names = set(read_header(tmp_path / distill.NAME).shapes)
    linears = [f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"] + ["ffn.0", "ffn.2"]
    assert names == {
        f"diffusion_model.blocks.{block}.{part}.{end}"
        for block in range(4) for part in linears for end in ("lora_down.weight", "lora_up.weight", "diff_b")
    }  # fmt: skip
    assert read_lora(tmp_path / distill.NAME).ranks == (32,)


# --------------------------------------------------------------------------------------------------- probes


def test_a_probe_learns_what_is_there_and_tells_it_from_chance():
    torch.manual_seed(0)
    features = torch.randn(120, 40)
    truths = ["yes" if row[3] > 0 else "no" for row in features]
    probe = LinearProbe.learn(features[:80], truths[:80])
    right = sum(a == b for a, b in zip(probe.read(features[80:]), truths[80:], strict=True))
    assert right >= 34 and probe.values == ("no", "yes")
    blind = LinearProbe.learn(features[:80], random.Random(0).sample(truths[:80], 80))
    assert sum(a == b for a, b in zip(blind.read(features[80:]), truths[80:], strict=True)) < 32


def test_the_judges_eye_sees_neon():
    judge = evaluate_lora.load_judge()
    ordinary = render([draw_scene(seed) for seed in range(16)], frames=5)
    both = evaluate_lora.eye_features(judge, torch.cat([ordinary, styles.neon(ordinary)]))
    truths = ["plain"] * 16 + ["neon"] * 16
    learn = [i for i in range(32) if i % 16 < 10]
    probe = LinearProbe.learn(both[learn], [truths[i] for i in learn])
    rest = [i for i in range(32) if i % 16 >= 10]
    assert sum(a == truths[i] for a, i in zip(probe.read(both[rest]), rest, strict=True)) >= 11


def test_the_evaluation_gives_every_figure(pipe, tmp_path, monkeypatch):
    pipe.entry = replace(pipe.entry, steps=2)
    monkeypatch.setattr(evaluate_lora, "load", lambda name: pipe)
    words = [
        "--json",
        str(tmp_path / "lora.json"),
        "--outputs",
        str(tmp_path),
        "--captions",
        "3",
        "--renders",
        "6",
    ]
    for name in ("causvid", "look", "control"):
        torch.manual_seed(len(name))
        lora = new_lora(pipe.transformer, rank=2)
        for change in lora.changes.values():
            torch.nn.init.normal_(change.up, std=0.1)
        write_lora(lora, tmp_path / f"{name}.safetensors")
        words += [f"--{name}", str(tmp_path / f"{name}.safetensors")]
    assert evaluate_lora.main(words) == 0
    report = json.loads((tmp_path / "lora.json").read_text())
    few = report["few_steps"]
    assert few["4_steps_with_lora"]["adherence"]["n"] == few["own_steps_guided"]["adherence"]["n"] > 3
    assert few["4_steps_with_lora"]["frechet"] != few["4_steps_unguided"]["frechet"]
    assert set(report["look"]) == {"renders_in_the_look", "ordinary_renders", "look", "control", "base"}
    assert all(row["look_seen"]["n"] == 3 for row in report["look"].values())
    for strengths in (report["strengths_few_steps"], report["strengths_look"]):
        moved = [row["value"] for row in strengths.values()]
        assert moved[0] == 0 and moved == sorted(moved)
    assert set(report["files"]) > {"causvid.safetensors", "look.safetensors"}
    assert evaluate_lora.main([*words[:2], "--look", str(tmp_path / "none.safetensors")]) == 2
