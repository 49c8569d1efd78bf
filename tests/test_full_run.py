"""What lesson 09 stands on: a stand-in with the real file's layout and the scale model's numbers, and its pictures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from full_size import table
from small import packed, small_transformer_state

from wan_tutorial import pipeline
from wan_tutorial.files import read_header, read_tensors
from wan_tutorial.lora import read_lora
from wan_tutorial.machine.hardware import StageUse
from wan_tutorial.machine.plan import CARDS, Run, plan_run
from wan_tutorial.machine.weights import (
    EXTRAS,
    MINI,
    WAN_14B_Q3,
    assets_folder,
    bundled_folder,
    find_file,
    find_files,
)
from wan_tutorial.mini.stand_in import places, stretched, write_stand_in
from wan_tutorial.show import lesson, style, timeline
from wan_tutorial.sizes import VideoSize
from wan_tutorial.transformer import TransformerShape, build_transformer

ROOT = Path(__file__).parents[1]
SMALL = VideoSize(32, 32, 5)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return write_stand_in(folder), folder


def test_the_stand_in_has_the_real_files_names_types_and_places(stand_in):
    entry, folder = stand_in
    found = find_files(WAN_14B_Q3, folder=folder)
    assert list(found.values()) == list(find_files(entry, folder=folder).values())
    real = {row.name: row.type for row in table("transformer")}
    assert {one.name: one.type for one in read_header(found["transformer"]).entries} == real
    shape = TransformerShape.of(read_tensors(found["transformer"]).tensors)
    assert entry.shape == (shape.dim, shape.ffn_dim, shape.layers, shape.vace_blocks)
    assert all(entry.files[role].bytes == path.stat().st_size for role, path in found.items())
    (causvid,) = EXTRAS["causvid-v1"]
    fit = read_lora(find_file(causvid, folder)).fit(read_header(found["transformer"]).shapes)
    assert len(fit.layers) >= 400 and not fit.unused


@pytest.mark.parametrize("layers", [4, 6, 8])
def test_each_vace_block_stays_beside_the_block_it_speaks_to(layers):
    small, real = TransformerShape(dim=256, layers=layers, vace_blocks=2), TransformerShape()
    found = places(small)
    blocks = [int(found[f"blocks.{i}."].split(".")[1]) for i in range(layers)]
    assert blocks == sorted(set(blocks)) and max(blocks) < real.layers
    assert [blocks[i] for i in small.vace_layers] == list(real.vace_layers[:2])


def test_silent_blocks_change_nothing():
    """Random weights, VACE blocks that speak, a context: six blocks and forty-eight give the same velocity."""
    state = packed(small_transformer_state())
    few, many = build_transformer(state), build_transformer(stretched(state))
    assert len(many.blocks) == 40 and len(many.vace_blocks) == 8
    latent, text, context = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 5, 256), torch.randn(1, 96, 2, 4, 4)
    with torch.no_grad():
        one, other = (
            model(latent, torch.tensor([700.0]), text, vace_context=context) for model in (few, many)
        )
        bare = few(latent, torch.tensor([700.0]), text)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert (one - bare).norm() > 1e-3 * one.norm(), "the hints are heard"


def test_the_real_way_of_running_gives_the_scale_models_video(stand_in):
    entry, folder = stand_in
    heavy, light = pipeline.load(entry, folder=folder, device="cpu"), pipeline.load("mini", device="cpu")
    assert not heavy._parts and len(light._parts) == 3
    asked = {"size": SMALL, "steps": 2, "seed": 3, "progress": False}
    one, other = (pipe.generate("a sword in the burning wood", **asked) for pipe in (heavy, light))
    assert not heavy._parts, "each part has left"
    torch.testing.assert_close(one.latent, other.latent, rtol=1e-4, atol=1e-4)


def test_the_catalogue_knows_the_scale_models_shape_and_the_package_carries_the_briefs_files():
    shape = TransformerShape.of(read_tensors(bundled_folder() / MINI.files["transformer"].name).tensors)
    assert MINI.shape == (shape.dim, shape.ffn_dim, shape.layers, shape.vace_blocks)
    assert (assets_folder() / "bonfire.png").is_file() and (assets_folder() / "workflows").is_dir()


def test_the_front_page_says_the_minutes_of_the_plan():
    size, text = VideoSize(832, 480, 33), (ROOT / "README.md").read_text()
    runs = (
        Run(VideoSize(832, 480, 25), 4, 1.0, lora=True),
        Run(size, 20, 6.0),
        Run(size, 4, 1.0, True, True),
    )
    for card in ("T4", "L4", "A100"):
        said = re.search(rf"^\| {card}[^|]*\|(.+)\|$", text, re.MULTILINE)[1].split("|")
        planned = [plan_run(WAN_14B_Q3, CARDS[card], run).minutes for run in runs]
        assert list(map(float, said)) == pytest.approx(planned, rel=0.2)


# ---------------------------------------------------------------------------------------------------- its pictures


def plans() -> dict:
    run = Run(VideoSize(832, 480, 33), 4, 1.0)
    return {"fast": plan_run(WAN_14B_Q3, CARDS["T4"], run),
            "slow": plan_run(WAN_14B_Q3, CARDS["T4"], replace(run, steps=20, guidance=6.0))}  # fmt: skip


def test_a_timeline_is_as_wide_as_the_minutes_and_as_high_as_the_memory():
    made = plans()
    figure = timeline.plot_timelines(made, title="Two runs")
    for axes, plan in zip(figure.axes, made.values(), strict=True):
        bars = axes.patches
        assert [bar.get_width() for bar in bars] == pytest.approx([stage.minutes for stage in plan.stages])
        assert [bar.get_height() * 1e9 for bar in bars] == pytest.approx(
            [stage.vram for stage in plan.stages]
        )
    assert "T4" in figure.get_label() or "15.0 GB" in figure.get_label()
    assert figure.get_figwidth() <= style.WIDTH


def test_a_forecast_sets_measured_beside_predicted(monkeypatch, capsys):
    tables = []
    monkeypatch.setattr(style, "show_table", lambda columns, rows: tables.append(rows))
    plan = plans()["fast"]
    steps = next(stage for stage in plan.stages if stage.name == "steps")
    uses = [
        StageUse("context", 1.0, 10**9, 2 * 10**9),
        StageUse("steps", 120 * steps.minutes, 10**9, 3 * 10**9),
        StageUse("decode", 1.0, 10**9, 2 * 10**9),
    ]
    shorten = {"decode": 0.1 / 60}
    plan = replace(
        plan, stages=tuple(replace(s, minutes=shorten.get(s.name, s.minutes)) for s in plan.stages)
    )
    timeline.show_forecast(plan, uses)
    context, row, short = tables[0]
    assert context[1] == "nothing" and "2.0 GB" in context[2]
    assert row[3] == "2.0 times as long" and "3.0 GB" in row[2]
    assert short[1].startswith("0.1 s") and short[3] == "-", "too short to be compared"
    assert "TFLOP/s for T4" in capsys.readouterr().out


def test_results_go_to_drive_where_it_is_mounted(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    content = tmp_path / "content"
    monkeypatch.setattr(lesson, "DRIVE", content / "drive" / "MyDrive")
    assert str(lesson.results_folder()) == "outputs" and "lost" not in capsys.readouterr().out
    content.mkdir()
    assert str(lesson.results_folder()) == "outputs"
    assert "lost with this session: mount Google Drive" in capsys.readouterr().out
    lesson.DRIVE.mkdir(parents=True)
    assert (
        lesson.results_folder() == lesson.DRIVE / "wan_tutorial" and (lesson.DRIVE / "wan_tutorial").is_dir()
    )
