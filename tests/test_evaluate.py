"""The evaluation's figures are right where the answer is known, and the whole of it runs on a small random model."""

import json
import math
from dataclasses import replace

import pytest
import torch
from small import write_small_model

from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.mini import evaluate as module
from wan_tutorial.mini.card import fill_card
from wan_tutorial.mini.evaluate import (
    Sample,
    captions_of,
    evaluate,
    frechet_distance,
    held_out_scenes,
    mean,
    measure_motion,
    measure_vae,
    other_scenes,
    render_scenes,
    sha256,
    share,
    show_sheets,
    write_json,
)
from wan_tutorial.mini.judge import Judge, names_in, new_clip
from wan_tutorial.mini.world import HELD_OUT, Scene, draw_scene, render
from wan_tutorial.pipeline import load
from wan_tutorial.sizes import VideoSize


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_shares_have_wilson_intervals():
    row = share([True] * 95 + [False] * 5)
    assert (row["value"], row["n"]) == (0.95, 100)
    assert row["low"] == pytest.approx(0.8882, abs=1e-4) and row["high"] == pytest.approx(0.9785, abs=1e-4)
    assert share([True] * 10)["high"] == pytest.approx(1.0)
    assert share([]) == {"value": None, "n": 0, "low": None, "high": None}


def test_means_have_standard_errors():
    assert mean([1.0, 2.0, 3.0]) == {
        "value": 2.0,
        "n": 3,
        "low": round(2 - 1.96 / math.sqrt(3), 4),
        "high": round(2 + 1.96 / math.sqrt(3), 4),
    }


def test_frechet_distance_of_known_gaussians():
    torch.manual_seed(0)
    first = torch.randn(20_000, 3)
    second = torch.randn(20_000, 3) * 2 + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(first, second) == pytest.approx(1 + 3, rel=0.05)  # |m|^2 + 3 (2 - 1)^2


def test_other_scenes_fit_the_same_captions_and_differ_in_what_these_leave_open():
    scenes = held_out_scenes(40, defects=False)
    prompts, truths = captions_of(scenes)
    others = other_scenes(scenes, truths)
    for scene, other, prompt in zip(scenes, others, prompts, strict=True):
        assert other.defect is None and other.seed != scene.seed
        assert all(getattr(other, name) == getattr(scene, name) for name in names_in(prompt, scene))
    assert any(scene.light != other.light for scene, other in zip(scenes, others, strict=True))


def test_vae_figures_of_a_known_error():
    scenes = [Scene(seed=1), Scene(setting="snow", seed=2)]
    videos, masks = render_scenes(scenes, VideoSize())
    assert masks.shape == videos.shape[:-1]
    copies = videos + 0.02 * (torch.arange(2 * 13).view(2, 13, 1, 1, 1) % 2 * 2 - 1)
    row = measure_vae(videos, masks, copies, scenes)
    assert row["psnr"]["value"] == pytest.approx(40, abs=0.01)  # 10 log10(4 / 0.02^2)
    assert row["psnr_in_mask"]["value"] == pytest.approx(40, abs=0.01)
    assert row["sharpness"]["snow"]["value"] == pytest.approx(1, abs=0.01)
    assert row["sharpness"]["forest"]["n"] == 0 and len(row["psnr_by_frame"]) == 13


def test_held_out_material():
    assert all(scene.combination in HELD_OUT for scene in held_out_scenes(20, split="held_out"))
    assert all(scene.combination not in HELD_OUT for scene in held_out_scenes(20))
    assert all(scene.defect is None for scene in held_out_scenes(60, defects=False))
    prompts, truths = captions_of(held_out_scenes(20, defects=False))
    assert len(prompts) == len(truths) == 20 and all("subject" in truth for truth in truths)


def test_motion_of_renders_is_like_renders_and_a_still_has_none():
    first = render([replace(draw_scene(seed), defect=None) for seed in range(4)])
    row = measure_motion(first, first)
    assert row["flicker"]["ratio"] == row["rise"]["ratio"] == 1
    assert measure_motion(first[:, :1].expand_as(first), first)["flicker"]["generated"] == 0


def test_contact_sheets_show_every_video(tmp_path):
    (first, second) = show_sheets(torch.zeros(70, 5, 16, 16, 3), "grey", tmp_path)
    from PIL import Image

    assert Image.open(first).size == (128, 128) and Image.open(second).size == (128, 16)


def test_json_and_hashes(tmp_path):
    write_json({"a": 1}, tmp_path / "deep" / "report.json")
    assert json.loads((tmp_path / "deep" / "report.json").read_text()) == {"a": 1}
    assert len(list((tmp_path / "deep").iterdir())) == 1
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf")


def test_the_whole_evaluation_runs(tmp_path, monkeypatch):
    pipe = load("mini", **vars(write_small_model(tmp_path)), device="cpu")
    pipe.entry = replace(pipe.entry, steps=1, size=VideoSize(32, 32, 5))
    monkeypatch.setattr(module, "TRAINING_POOLS", ((0, 200),))
    torch.manual_seed(0)
    saved = []
    judge = Judge.of(new_clip())
    sample = Sample(captions=2, renders=2, folder=tmp_path)
    report = evaluate(
        pipe, judge, sample, lambda report: saved.append(len(report)), ("generated", "negative")
    )
    assert saved == list(range(1, len(report) + 1))
    assert {"vae", "judge_on_renders", "brief", "novelty", "captions_held_out", "negative"} <= report.keys()
    assert report["novelty"]["training_latents_compared"] == 8
    assert report["captions_train"]["subject"]["n"] == 2
    json.dumps(report, allow_nan=False)


def test_the_card_says_what_the_evaluation_file_says():
    folder = bundled_folder()
    text, report = (folder / "README.md").read_text(), json.loads((folder / "evaluation.json").read_text())
    assert fill_card(text, report) == text
    report["figures"]["vae"]["psnr"]["value"] += 1
    assert fill_card(text, report) != text
