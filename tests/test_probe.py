"""The measurement of references: ten candidates, a probe that reads their traits, and figures known in advance."""

import json
import math
from dataclasses import replace

import torch
from small import write_small_model

from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.mini import evaluate_reference as rows
from wan_tutorial.mini.evaluate import sha256
from wan_tutorial.mini.judge import names_in
from wan_tutorial.mini.probe import (
    CANDIDATES,
    TraitProbe,
    draw_candidates,
    draw_frames,
    load_probe,
    rate_on_renders,
    save_probe,
)
from wan_tutorial.mini.traits import PARTS, trait_parts
from wan_tutorial.mini.world import TRAITS, draw_scene
from wan_tutorial.pipeline import load
from wan_tutorial.sizes import VideoSize


def test_candidates_share_every_name_and_no_trait():
    scene = draw_scene(3)
    candidates = draw_candidates(scene, 3)
    assert len(candidates) == CANDIDATES and candidates[0] == scene
    names = set(vars(scene)) - set(TRAITS) - {"seed"}
    for other in candidates[1:]:
        assert all(getattr(other, name) == getattr(scene, name) for name in names)
        assert not any(getattr(other, name) == getattr(scene, name) for name in TRAITS)


def test_the_probe_chooses_the_scene_whose_traits_it_reads(monkeypatch, tmp_path):
    """With readings that are sure of some traits and unsure of the others; with none it is at chance."""
    scenes = [draw_scene(seed) for seed in range(60)]
    candidates = [draw_candidates(scene, i) for i, scene in enumerate(scenes)]
    probe = TraitProbe()
    save_probe(probe, tmp_path / "probe.safetensors")
    again = load_probe(tmp_path / "probe.safetensors")
    videos = torch.rand(3, 5, 96, 96, 3)
    told = again.read(videos)
    assert told.shape == (3, len(TRAITS), PARTS) and torch.allclose(
        told.exp().sum(-1), torch.ones(3, 14), atol=0.1
    )
    assert again.read(videos[:, :, :48, :48]).shape == told.shape

    def reading(sure: int):
        logits = torch.zeros(60, len(TRAITS), PARTS)
        for row, scene in zip(logits, scenes, strict=True):
            row[torch.arange(sure), trait_parts(scene)[:sure]] = 6.0
        monkeypatch.setattr(probe, "read", lambda _: logits.log_softmax(-1))
        chosen = probe.choose(torch.zeros(60, 1), [row[1:] + row[:1] for row in candidates])
        return sum(one == CANDIDATES - 1 for one in chosen) / 60

    assert reading(14) == 1.0 and reading(5) > 0.9 and reading(0) == 0.0  # unsure of all: the first of ten


def test_each_reference_differs_in_one_name_and_the_caption_says_it():
    scenes, captions, pictures, changed = rows.identity_cases(12)
    assert [tuple(picture.shape) for picture in pictures] == [(96, 96, 3)] * 12
    for i, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        assert rows.another_look(scene, i, change=True)[1] == changed[i] in names_in(caption, scene)


def test_scrambling_keeps_every_pixel_and_moves_them():
    picture = torch.rand(96, 96, 3)
    mixed = rows.scramble(picture, 0)
    assert mixed.shape == picture.shape and not torch.equal(mixed, picture)
    assert torch.equal(mixed.flatten().sort().values, picture.flatten().sort().values)
    corners = [picture[y : y + 16, x : x + 16] for y in range(0, 96, 16) for x in range(0, 96, 16)]
    assert any(torch.equal(mixed[:16, :16], corner) for corner in corners)


def test_psnr_counts_only_where_it_is_asked():
    video, other = torch.zeros(2, 3, 4, 4, 3), torch.zeros(2, 3, 4, 4, 3)
    other[1, :, :2] = 0.2
    where = torch.zeros(1, 1, 4, 4)
    where[..., :2, :] = 1.0
    whole, part = rows.psnr(video, other), rows.psnr(video, other, where)
    assert math.isclose(part[1], 10 * math.log10(4 / 0.04), abs_tol=1e-3)
    assert math.isclose(whole[1], part[1] + 10 * math.log10(2), abs_tol=1e-3) and whole[0] == math.inf


def test_the_whole_measurement_runs(tmp_path, monkeypatch):
    """On random weights, two videos of each: every row is there."""
    pipe = load("mini", **vars(write_small_model(tmp_path)), device="cpu")
    monkeypatch.setattr(rows, "load", lambda _: pipe)
    pipe.entry = replace(pipe.entry, size=VideoSize(48, 48, 5), steps=1, guidance=1.0)
    save_probe(TraitProbe(), tmp_path / "probe.safetensors")
    options = ["--json", tmp_path / "rows.json", "--probe", tmp_path / "probe.safetensors", "--count", 2]
    assert rows.main([str(o) for o in [*options, "--outputs", tmp_path]]) == 0
    report = json.loads((tmp_path / "rows.json").read_text())
    kinds = {"reference", "scrambled", "absent", "guidance_1", "guidance_2", "probe_on_renders"}
    assert kinds <= set(report["identity"])
    assert sum(one["n"] for one in report["identity"]["by_change"].values()) == 2
    assert all(report["identity"][kind]["obeyed"]["n"] >= 2 for kind in ("reference", "absent", "guidance_1"))
    assert {"below_the_vae", "guidance_1", "guidance_2"} <= set(report["first_frame"])
    assert report["first_frame"]["below_the_vae"]["n"] == 2 and report["region"]["outside"]["n"] == 2
    assert report["strength"]["effects"][0]["value"] == 0 and len(report["strength"]["effects"]) == 5
    assert set(report["nothing"]) == {"at_rest", "nothing_given"}
    assert rows.main([str(o) for o in [*options[:3], tmp_path / "none", *options[4:]]]) == 2


def test_no_scene_is_learned_from_twice():
    frames, parts = draw_frames(0)
    assert frames.shape == (64, 3, 96, 96) and parts.shape == (64, len(TRAITS))
    same = parts.unflatten(0, (16, 4))
    assert (same == same[:, :1]).all()  # four moments of each scene
    pictures = frames.unflatten(0, (16, 4))
    assert all(not torch.equal(some[0], some[1]) for some in pictures)
    _, others = draw_frames(1)
    assert not any((one == other).all() for one in parts for other in others)


def test_the_shipped_probe_is_the_one_that_measured_and_finds_renders():
    path = bundled_folder() / "trait_probe.safetensors"
    report = json.loads((bundled_folder() / "evaluation.json").read_text())
    assert report["figures"]["reference"]["files"][path.name] == sha256(path)
    assert rate_on_renders(load_probe(path), 48) > 0.9
