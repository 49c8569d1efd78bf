"""The stages in a row: on small random models, against diffusers, and when asked wrongly."""

import io
import mmap
import re
import shutil
import sys
import time
import weakref
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from small import (
    TEXT_TO_VIDEO,
    diffusers_pipeline,
    packed,
    small_transformer_state,
    small_vae_state,
    write_small_model,
)

from wan_tutorial import pipeline as module
from wan_tutorial.errors import WanError
from wan_tutorial.files import read_tensors, write_gguf, write_safetensors
from wan_tutorial.machine import hardware, weights
from wan_tutorial.machine.hardware import (
    Machine,
    StageMeter,
    judge_models,
    place_model,
    plan_here,
    this_card,
    usual_run,
)
from wan_tutorial.machine.weights import MINI, MODELS, WAN_14B_Q3, find_files, find_model
from wan_tutorial.pipeline import Pipeline, load
from wan_tutorial.reference import FITS, read_given
from wan_tutorial.sampling.denoise import SamplingSettings
from wan_tutorial.sampling.keep import KeptRun
from wan_tutorial.sampling.schedules import SCHEDULERS
from wan_tutorial.sampling.solvers import SOLVERS
from wan_tutorial.sizes import VideoSize

SMALL = VideoSize(32, 32, 5)
PROMPT = "a sword in the burning wood"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict:
    return vars(write_small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def pipe(files) -> Pipeline:
    return load("mini", **files, device="cpu")


def generate(pipe: Pipeline, prompt: str = PROMPT, **options):
    return pipe.generate(prompt, **{"size": SMALL, "steps": 2, "progress": False} | options)


# ------------------------------------------------------------------------------------------------- the whole row


def test_the_five_stages_are_generate(pipe):
    """A learner who calls the stages one by one gets what generate returns, number for number."""
    text = pipe.encode_text(PROMPT, "blurry")
    noise = pipe.draw_noise(SMALL, seed=3)
    for step in pipe.denoise(
        noise, text, steps=3, guidance=4.0, shift=5.0, sampler="euler", scheduler="simple"
    ):
        latent = step.latent
    video = pipe.decode(latent)
    options = {"steps": 3, "guidance": 4.0, "shift": 5.0, "sampler": "euler", "scheduler": "simple"}
    result = generate(pipe, negative="blurry", seed=3, **options)
    assert text.positive.shape == text.negative.shape == (MINI.text_length, 256)
    assert noise.shape == SMALL.latent_shape == result.latent.shape
    assert torch.equal(latent, result.latent) and torch.equal(video, result.video)
    assert video.shape == (5, 32, 32, 3) and video.dtype == torch.float32
    assert video.min() >= -1 and video.max() <= 1


def test_the_result_says_how_to_make_it_again(pipe):
    result = generate(pipe, negative="messy", seed=5, steps=2, guidance=3.0)
    again = pipe.generate(
        result.prompt,
        negative=result.negative,
        seed=result.seed,
        size=result.size,
        progress=False,
        **vars(result.settings),
    )
    assert torch.equal(again.video, result.video)
    assert (result.model, result.fps, result.size) == ("mini", MINI.fps, SMALL)
    assert [use.name for use in result.stages] == ["text", "steps", "decode"]
    assert all(use.seconds > 0 and use.memory_peak > 10**7 for use in result.stages)
    assert [use.name for use in pipe.meter.stages] == ["load"]


def test_seed_prompt_and_negative_prompt_all_matter(pipe):
    first = generate(pipe, negative="blurry").latent
    assert not torch.equal(first, generate(pipe, negative="blurry", seed=1).latent)
    assert not torch.equal(first, generate(pipe, "an axe in blue flames", negative="blurry").latent)
    assert not torch.equal(first, generate(pipe, negative="chaotic motion").latent)


def test_guidance_1_never_asks_the_negative_prompt(pipe, monkeypatch):
    batches = []
    forward = pipe.transformer.forward

    def counting(latent, *rest, **options):
        batches.append(len(latent))
        return forward(latent, *rest, **options)

    monkeypatch.setattr(pipe.transformer, "forward", counting)
    one = generate(pipe, negative="blurry", guidance=1.0).latent
    assert set(batches) == {1}
    batches.clear()
    two = generate(pipe, negative="messy", guidance=1.0).latent
    assert torch.equal(one, two)
    batches.clear()
    generate(pipe, guidance=2.0)
    assert set(batches) == {2}


def test_packed_and_widened_weights_make_one_video(files, pipe):
    on_the_fly = load("mini", **files, device="cpu", widen_budget_bytes=0)
    assert pipe.placement.widen_budget_bytes > 0
    assert torch.equal(generate(on_the_fly).latent, generate(pipe).latent)


def test_denoise_below_1_stays_near_the_video_it_starts_from(pipe):
    start = generate(pipe).video
    clean = pipe.encode(start)
    far = [
        (
            generate(pipe, "an axe", start=start, denoise=part, steps=4, guidance=1.0, seed=9).latent - clean
        ).norm()
        for part in (0.2, 0.6, 1.0)
    ]
    assert far[0] < far[1] < far[2]


def test_a_generator_can_be_left_early(pipe):
    text, noise = pipe.encode_text(PROMPT), pipe.draw_noise(SMALL)
    steps = pipe.denoise(noise, text, steps=20)
    assert next(steps).index == 0
    steps.close()
    assert list(steps) == []


def test_a_heavy_model_holds_one_part_at_a_time(files, pipe):
    """Text encoder, transformer and VAE come and go, and the video is the same."""
    heavy = Pipeline(replace(MINI, light=False), files, pipe.placement)
    assert heavy._parts == {}
    held = []
    build = heavy._build
    heavy._build = lambda role, tensors: (held.append((role, *heavy._parts)), build(role, tensors))[1]
    result = generate(heavy)
    assert held == [("text_encoder",), ("transformer",), ("vae",)] and heavy._parts == {}
    assert torch.allclose(result.latent, generate(pipe).latent, atol=1e-4)


# ------------------------------------------------------------------------------------------- stopping and going on


@pytest.mark.parametrize("sampler", ["uni_pc", "heun"])
def test_an_interrupted_run_goes_on_from_its_last_step(pipe, tmp_path, monkeypatch, sampler):
    """As if nothing had happened, with a solver that remembers and with one that asks twice for a step."""
    options = {"steps": 5, "sampler": sampler, "negative": "blurry", "seed": 4}
    whole = generate(pipe, **options)
    asked = []
    forward = pipe.transformer.forward

    def stopping(*inputs, **named):
        asked.append(1)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return forward(*inputs, **named)

    monkeypatch.setattr(pipe.transformer, "forward", stopping)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        generate(pipe, keep=folder, **options)
    with pytest.raises(WanError, match="keeps another run.*name another folder"):
        generate(pipe, keep=folder, **options | {"seed": 5})
    before = len(asked)
    result = generate(pipe, keep=folder, **options)
    calls = {"uni_pc": 5, "heun": 9}[sampler]
    assert len(asked) - before == calls - 3, "the first three answers were kept"
    assert torch.equal(result.latent, whole.latent) and torch.equal(result.video, whole.video)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_said_before_any_work(pipe):
    with pytest.raises(WanError, match="cannot be written.*name another folder"):
        generate(pipe, keep="/proc/nothing/run")


def stopped(pipe, monkeypatch, calls, **options):
    """A run that is stopped when the model is asked for the last time."""
    forward, asked = pipe.transformer.forward, []

    def stopping(*inputs, **named):
        asked.append(1)
        if len(asked) == calls:
            raise KeyboardInterrupt
        return forward(*inputs, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipe.transformer, "forward", stopping)
        generate(pipe, **options)


def test_kept_answers_are_known_by_their_number_and_only_whole_ones_are_used(pipe, tmp_path, monkeypatch):
    options = {"steps": 5, "seed": 4, "keep": tmp_path / "run"}
    whole = generate(pipe, steps=5, seed=4)
    spoils = {
        "one missing": lambda folder: (folder / "velocity-0001.safetensors").unlink(),
        "a copy beside": lambda folder: shutil.copy(
            folder / "velocity-0002.safetensors", folder / "velocity-0000 (1).safetensors"
        ),
    }
    for name, spoil in spoils.items():
        stopped(pipe, monkeypatch, 4, **options)
        spoil(tmp_path / "run")
        assert torch.equal(generate(pipe, **options).latent, whole.latent), name
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    first = tmp_path / "run" / "velocity-0000.safetensors"
    stopped(pipe, monkeypatch, 4, **options)
    good = read_tensors(first).tensors["velocity"].clone()
    for wrong in ({"velocity": (100 * good).int()}, {"other": good}, {"velocity": good * torch.nan}):
        write_safetensors(first, wrong)
        with pytest.raises(WanError, match="velocity-0000.safetensors is damaged: delete it"):
            generate(pipe, **options)
    first.write_bytes(first.read_bytes()[:-5])
    with pytest.raises(WanError, match="velocity-0000.safetensors is damaged: delete it"):
        generate(pipe, **options)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(WanError, match="keeps another run"):
        generate(pipe, **options | {"seed": 5})


def test_a_kept_run_knows_its_start_video_by_every_pixel(pipe, tmp_path, monkeypatch):
    video = generate(pipe, seed=2).video
    options = {"steps": 5, "denoise": 0.6, "keep": tmp_path / "run"}
    stopped(pipe, monkeypatch, 3, start=video, **options)
    with pytest.raises(WanError, match="keeps another run"):
        generate(pipe, start=video.flip(0), **options)  # its pixels have the same sum
    generate(pipe, start=video, **options)


def test_a_prompt_with_half_a_letter_is_kept_too(pipe, tmp_path, monkeypatch):
    options = {"prompt": "caf\udce9 sword", "steps": 3, "keep": tmp_path / "run"}
    stopped(pipe, monkeypatch, 3, **options)
    generate(pipe, **options)
    assert not (tmp_path / "run").exists()


def test_a_video_is_not_lost_where_its_folder_cannot_be_emptied(pipe, tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", denied)
    assert generate(pipe, keep=tmp_path / "run").video.isfinite().all()


def test_after_a_run_in_inference_mode_the_model_can_still_be_trained(pipe):
    size = VideoSize(48, 32, 5)  # of its own: what is remembered is by size
    with torch.inference_mode():
        generate(pipe, size=size, steps=1)
    latent = pipe.draw_noise(size).requires_grad_()
    words = pipe.encode_text(PROMPT).positive[None]
    pipe.transformer(latent, torch.tensor([500.0]), words).sum().backward()
    assert latent.grad is not None and latent.grad.isfinite().all()


def test_stages_refuse_what_is_no_float_or_holds_nothing(pipe):
    text, noise = pipe.encode_text(PROMPT), pipe.draw_noise(SMALL)
    for wrong in (noise.long(), noise[:, :, :0]):
        with pytest.raises(WanError, match="The noise is a tensor of floats"):
            list(pipe.denoise(wrong, text, steps=1))
    with pytest.raises(WanError, match="latent.*is a tensor of floats"):
        pipe.decode(noise[:, :, :0])
    with pytest.raises(WanError, match="tensor of floats from -1 to 1"):
        pipe.encode(torch.zeros(1, 0, 16, 3))
    for wrong in (text.positive[None], text.positive.numpy(), text.positive.long()):
        with pytest.raises(WanError, match="An embedding is a tensor of floats .tokens, dim."):
            list(pipe.denoise(noise, replace(text, positive=wrong), steps=1))
    half = replace(text, positive=text.positive.half(), negative=text.negative.half())
    assert next(iter(pipe.denoise(noise, half, steps=1))).latent.isfinite().all()


def test_a_size_that_no_memory_holds_is_a_sentence(pipe):
    with pytest.raises(WanError, match="memory does not hold the noise of a video of 32x32x5"):
        pipe.draw_noise(SMALL, extra_frames=10**12)
    for width, told in ((1_600_000, "1600000"), (10**400, "as many as this"), (10**5000, "as many as this")):
        with pytest.raises(WanError, match=f"width of a video must be 16385 at most, not {told}"):
            VideoSize(width, 96, 13)
    for steps, denoise in ((3, 1e-310), (10**400, 0.5)):
        with pytest.raises(WanError):
            pipe.settings(steps=steps, denoise=denoise)


def test_a_kept_run_outlives_a_full_disk_and_a_killed_process(tmp_path, monkeypatch):
    """Going on writes nothing that is there already, and a half that was left does not stay for ever."""
    kept = KeptRun(tmp_path / "run", {"seed": 1})
    (tmp_path / "run" / ".velocity-0000.safetensors.17.partial").write_bytes(b"half")

    def full(path, *_, **__):
        path.write_bytes(b"{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    KeptRun(tmp_path / "run", {"seed": 1})
    with pytest.raises(WanError, match="cannot be written: No space left on device; choose another folder"):
        KeptRun(tmp_path / "other", {"seed": 1})
    assert list((tmp_path / "other").iterdir()) == []
    kept.clear()
    assert not (tmp_path / "run").exists()


def test_a_kept_run_knows_its_model_by_contents(tmp_path):
    """New weights under an old name are another model: what was kept of it is not gone on with."""
    model = write_small_model(tmp_path)
    old = load("mini", **vars(model), device="cpu")
    told = (PROMPT, "", 0, SMALL, SamplingSettings(), None, {})
    old._kept_run(tmp_path / "run", *told)
    copies = {role: tmp_path / "elsewhere" / path.name for role, path in vars(model).items()}
    (tmp_path / "elsewhere").mkdir()
    for role, path in vars(model).items():
        copies[role].write_bytes(path.read_bytes())
    load("mini", **copies, device="cpu")._kept_run(tmp_path / "run", *told)  # goes on from a copy
    for role in ("transformer", "text_encoder", "vae"):
        good, path = copies[role].read_bytes(), copies[role]
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(WanError, match="keeps another run"):
            Pipeline(MINI, copies, old.placement)._kept_run(tmp_path / "run", *told)
        path.write_bytes(good)


@pytest.mark.parametrize("kind, stream", [("ipykernel.iostream", "out"), ("io", "err")])
def test_progress_is_no_error_in_a_notebook(pipe, monkeypatch, kind, stream):
    """A notebook paints stderr as an error; a terminal keeps it apart from what a program prints."""
    page = {
        name: type("OutStream", (io.StringIO,), {"__module__": kind if name == "out" else "io"})()
        for name in ("out", "err")
    }
    monkeypatch.setattr(sys, "stdout", page["out"])
    monkeypatch.setattr(sys, "stderr", page["err"])
    generate(pipe, steps=1, progress=True)
    other = page["err" if stream == "out" else "out"]
    assert (
        "steps" in page[stream].getvalue()
        and "\r" in page[stream].getvalue()
        and "\r" not in other.getvalue()
    )
    assert "was trained on" in page["err"].getvalue()  # a notice is a warning everywhere


def test_blocks_may_rest_in_ram_and_the_video_is_the_same(files, pipe, monkeypatch):
    """A heavy model is read anew when the plan for a run says that its blocks have to rest elsewhere."""
    one, other = (Pipeline(replace(MINI, light=False), files, pipe.placement) for _ in range(2))
    asked = []
    monkeypatch.setattr(
        module, "must_offload", lambda _entry, run, _device: asked.append(run) or run.steps == 2
    )
    visiting = generate(one).latent
    assert one.blocks_in_ram and asked[0].size == SMALL
    generate(one, steps=1)
    assert not one.blocks_in_ram
    monkeypatch.undo()
    assert torch.equal(generate(other).latent, visiting) and not other.blocks_in_ram


def broken(files, pipe, role, layer, error):
    """A heavy pipeline whose one layer raises, and the networks it built, by weak references."""
    heavy, built = Pipeline(replace(MINI, light=False), files, pipe.placement), []
    build = heavy._build

    def fail(*_, **__):
        raise error

    def build_broken(asked, tensors):
        part = build(asked, tensors)
        if asked == role:
            part.get_submodule(layer).forward = fail
            built.append(weakref.ref(part))
        return part

    heavy._build = build_broken
    return heavy, built


DEEP = {
    "transformer": "blocks.1.ffn.net.2",
    "text_encoder": "model.encoder.block.1.layer.0.SelfAttention.q",
    "vae": "model.decoder.mid_block.attentions.0",
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("role", DEEP)
def test_a_stopped_heavy_run_gives_its_memory_back(files, pipe, role, error):
    """Also where the error is kept, as a notebook keeps its last one: its frames hold the network that was at work."""
    heavy, built = broken(files, pipe, role, DEEP[role], error("stop"))
    with pytest.raises((error, WanError)) as kept:
        generate(heavy)
    assert heavy._parts == {} and kept.value is not None
    assert len(built) == 1 and built[0]() is None


def test_what_a_stage_by_itself_left_behind_is_given_back_before_a_run(files, pipe):
    heavy = Pipeline(replace(MINI, light=False), files, pipe.placement)
    next(heavy.denoise(heavy.draw_noise(SMALL), heavy.encode_text(PROMPT), steps=2))  # and stopped
    held, build = [], heavy._build
    heavy._build = lambda role, tensors: (held.append((role, *heavy._parts)), build(role, tensors))[1]
    generate(heavy, start=pipe.decode(pipe.draw_noise(SMALL)).clamp(-1, 1), denoise=0.5)
    assert held == [("vae",), ("transformer",), ("vae",)], (
        "the text encoder was there already, and nothing meets"
    )


@pytest.mark.parametrize(
    ("role", "words"),
    [("transformer", "steps: fewer frames or pixels"), ("text_encoder", "text: other programs or cells")],
)
def test_a_gpu_that_is_too_small_is_said_in_a_sentence(files, pipe, role, words):
    heavy, _ = broken(files, pipe, role, DEEP[role], torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(WanError, match=f"The GPU's memory ran out in the stage {words}"):
        generate(heavy)
    assert heavy._parts == {}


def test_a_heavy_models_files_are_examined_before_any_work(files, tmp_path):
    """Its VAE is read last, after minutes of steps: what is wrong with it is said when the model is loaded."""
    entry, own = replace(MINI, light=False), {role: path for role, path in files.items()}
    assert load(entry, **own)._parts == {}
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(files["vae"].read_bytes()[:-100])
    with pytest.raises(WanError, match="torn.safetensors is cut short"):
        load(entry, **own | {"vae": torn})
    other = tmp_path / "other.safetensors"
    state = small_vae_state()
    write_safetensors(other, {n: t.contiguous() for n, t in state.items() if "resample" not in n})
    with pytest.raises(WanError, match=r"other.safetensors: .*another model's VAE"):
        load(entry, **own | {"vae": other})
    with pytest.raises(
        WanError, match=r"holds a Wan2.1 VAE.*a text encoder file is needed here, such as umt5"
    ):
        load(entry, **own | {"text_encoder": files["vae"]})


def test_on_the_processor_of_a_machine_with_a_gpu_the_plan_is_the_processors(files, pipe, monkeypatch):
    heavy = Pipeline(replace(MINI, light=False), files, pipe.placement)
    seen = []
    monkeypatch.setattr(module, "read_machine", lambda: T4)
    monkeypatch.setattr(module, "must_tile", lambda _needs, machine: seen.append(machine.gpu) or False)
    heavy.decode(heavy.draw_noise(SMALL))
    (notice,) = heavy._plan_notices(WAN_14B_Q3.size, heavy.settings())
    assert seen == [None] and "T4" not in notice


def test_on_a_card_too_small_for_two_networks_the_others_leave(files, pipe, monkeypatch):
    """Where stages are called by themselves, too."""
    on_card = replace(pipe.placement, device=torch.device("cuda"))
    for free, stays in ((20 * 10**9, True), (10**9, False)):
        heavy = Pipeline(replace(MINI, light=False), files, pipe.placement)
        heavy.part("text_encoder")
        monkeypatch.setattr(heavy, "placement", on_card)
        monkeypatch.setattr(module, "read_machine", lambda free=free: replace(T4, gpu_memory_free=free))
        heavy._make_room("transformer")
        assert ("text_encoder" in heavy._parts) is stays


def test_the_plan_counts_the_files_that_are_there(files):
    own = load(WAN_14B_Q3, **files)
    for role, path in files.items():
        assert own.entry.files[role].bytes == Path(path).stat().st_size


# ------------------------------------------------------------------------------------------------ against diffusers


def test_latents_agree_with_diffusers_pipeline(files, tmp_path):
    """Same weights, seed, grid with its truncated timesteps, and solver (bh2): diffusers' own WanVACEPipeline."""
    dense = tmp_path / "dense.gguf"
    write_gguf(dense, small_transformer_state())
    pipe = load("mini", **files | {"transformer": dense}, device="cpu")
    theirs = diffusers_pipeline(pipe)
    text, noise = pipe.encode_text(PROMPT, "blurry"), pipe.draw_noise(SMALL, seed=11)
    expected = theirs(
        prompt_embeds=text.positive[None],
        negative_prompt_embeds=text.negative[None],
        height=SMALL.height,
        width=SMALL.width,
        num_frames=SMALL.frames,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(11),
        output_type="latent",
    ).frames
    for step in pipe.denoise(
        noise,
        text,
        steps=6,
        guidance=4.0,
        shift=5.0,
        sampler="uni_pc_diffusers",
        scheduler="diffusers",
        vace_context=pipe.encode_context(read_given(SMALL)).tensor,
    ):
        ours = step.latent
    assert (ours - expected).norm() / expected.norm() < 1e-3


# ------------------------------------------------------------------------------------------------ what it says


def test_unknown_words_are_named_with_the_nearest_known(pipe):
    notices = generate(pipe, "a sward in the burning wood, spaceship").notices
    assert any("'sward'" in notice and "sword" in notice for notice in notices)
    assert any("'spaceship'" in notice for notice in notices)


def test_an_empty_prompt_runs_and_says_what_it_means(pipe, capsys):
    result = generate(pipe, "", progress=True)
    assert "The prompt is empty" in " ".join(result.notices)
    assert "The prompt is empty" in capsys.readouterr().err


def test_a_size_it_was_not_trained_on_runs_and_says_so(pipe):
    (notice,) = [notice for notice in generate(pipe).notices if "trained" in notice]
    assert "trained on 96x96x13" in notice and "not on 32x32x5" in notice
    assert pipe.notices(PROMPT, "", MINI.size) == ()


def test_a_prompt_that_is_too_long_says_what_is_left_out(pipe):
    assert any("longer than the 64 tokens" in notice for notice in generate(pipe, "sword " * 90).notices)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"steps": 0}, "steps must be a whole number, 1 or more, not 0"),
        ({"sampler": "uni_pk"}, "Did you mean uni_pc"),
        ({"scheduler": "simpel"}, "Did you mean simple"),
        ({"guidance": float("nan")}, "guidance must be a number"),
        ({"shift": 0.0}, "shift must be a number from 0.01 to 100"),
        ({"denoise": 0.5}, "needs a video to start"),
        ({"denoise": 0.5, "start": torch.zeros(5, 48, 48, 3)}, r"= \(5, 32, 32, 3\), not \(5, 48, 48, 3\)"),
        (
            {"denoise": 0.5, "start": np.zeros((5, 32, 32, 3), np.uint8)},
            "floats from -1 to 1, .* not .* of uint8",
        ),
        ({"seed": -1}, "A seed is a whole number"),
        ({"size": "96x96x13"}, r"not '96x96x13': try wan.VideoSize\(width=96, height=96, frames=13\)"),
        ({"prompt": ["a sword", "an axe"]}, r"A prompt is one text, not \['a sword', 'an axe'\]"),
        ({"negative": None}, "A prompt is one text, not None"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(pipe, monkeypatch, tmp_path, options, words):
    monkeypatch.setattr(Pipeline, "part", lambda *_: pytest.fail("a network was asked for"))
    with pytest.raises(WanError, match=words):
        generate(pipe, **{"keep": tmp_path / "run"} | options)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------- model files


def test_an_unknown_model_is_answered_with_the_known():
    with pytest.raises(WanError, match="Did you mean mini.*Known: mini, mini-f16, wan2.1-vace-14b-q3"):
        load("mimi")


def test_a_missing_file_is_answered_with_the_nearest(files):
    path = files["vae"].with_name("vea.safetensors")
    with pytest.raises(WanError, match="none at .*vea.safetensors; did you mean .*vae.safetensors"):
        load("mini", **files | {"vae": path})


def test_the_real_model_says_which_file_it_needs_and_how_to_give_it(files):
    nowhere = files["vae"].parent / "nowhere"
    with pytest.raises(WanError, match="Wan2.1_14B_VACE-Q3_K_S.gguf.*--transformer PATH"):
        load("wan2.1-vace-14b-q3", folder=nowhere)
    found = find_files(WAN_14B_Q3, files)
    assert list(found) == ["transformer", "text_encoder", "vae"]


def test_a_bundled_file_that_is_gone_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "bundled_folder", lambda: tmp_path)
    with pytest.raises(WanError, match="Q3_K_S.gguf, which comes with this package, is missing"):
        load("mini")


def test_a_file_in_the_wrong_place_says_what_it_is(files):
    with pytest.raises(WanError, match="VAE.*; a transformer file is needed"):
        load("mini", **files | {"transformer": files["vae"]})


def test_a_file_without_vace_refuses_a_reference_before_any_work(files, tmp_path):
    write_gguf(tmp_path / "t2v.gguf", small_transformer_state(TEXT_TO_VIDEO))
    plain = Pipeline(MINI, files | {"transformer": tmp_path / "t2v.gguf"}, place_model(MINI, LAPTOP))
    with pytest.raises(WanError, match="t2v.gguf has no VACE blocks .*choose a VACE file"):
        generate(plain, reference=np.zeros((32, 32, 3), dtype=np.uint8))
    assert plain._parts == {}


def test_a_truncated_file_is_named(files, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files["transformer"].read_bytes()[:-5000])
    with pytest.raises(WanError, match="cut.gguf is cut short"):
        load("mini", **files | {"transformer": cut})


def test_a_file_that_lacks_a_tensor_is_named(files, tmp_path):
    state = packed(small_transformer_state())
    del state["blocks.1.ffn.0.weight"]
    path = tmp_path / "holes.gguf"
    write_gguf(path, state)
    with pytest.raises(WanError, match=r"holes.gguf: .*blocks.1.ffn.0.weight"):
        load("mini", **files | {"transformer": path})


def test_the_scale_model_is_here_and_fits_its_catalogue():
    """The files that come with the package open, are what their names say, and fit together."""
    for name in ("mini", "mini-f16"):
        entry = find_model(name)
        for role, path in find_files(entry).items():
            assert read_tensors(path).kind == role.replace("_", " ")
    pipe = load("mini", device="cpu")
    shape = pipe.transformer.shape
    assert pipe.text_encoder.dim == shape.text_dim and len(shape.vace_layers) == 2
    assert pipe.notices(MINI.title.split(":")[0], "", MINI.size)  # "scale model" is not a word of its world


# ------------------------------------------------------------------------------------------------------ hardware

LAPTOP = Machine("Linux x86_64", "3.11.7", "2.13.0", 2, 16 * 10**9, 4 * 10**9, 50 * 10**9)
T4 = replace(LAPTOP, memory=13 * 10**9, gpu="Tesla T4", gpu_memory=15 * 10**9, gpu_memory_free=15 * 10**9)


def test_each_machine_gets_a_verdict_with_its_reason():
    verdicts = {verdict.model: verdict for verdict in judge_models(LAPTOP)}
    assert list(verdicts) == list(MODELS)
    assert verdicts["mini"].runs and "cpu" in verdicts["mini"].why
    assert not verdicts["wan2.1-vace-14b-q3"].runs
    assert "hours on this CPU (predicted)" in verdicts["wan2.1-vace-14b-q3"].why
    real = "wan2.1-vace-14b-q3"
    tight = {v.model: v for v in judge_models(replace(T4, gpu_memory=2 * 10**9))}[real]
    assert not tight.runs and "and Tesla T4 has 2.0 GB, of which 5% are kept back" in tight.why
    small = {v.model: v for v in judge_models(replace(T4, gpu_memory=6 * 10**9))}[real]
    assert small.runs and "at most" in small.why
    on_t4 = {verdict.model: verdict for verdict in judge_models(T4)}
    assert on_t4[real].runs and "at most" not in on_t4[real].why
    starved = judge_models(replace(LAPTOP, memory=10**9))
    assert not any(verdict.runs for verdict in starved) and "this machine has 1.0 GB" in starved[0].why


def test_placement_follows_the_machine_and_gives_reasons():
    assert place_model(MINI, LAPTOP).device.type == "cpu"
    assert place_model(MINI, LAPTOP).widen_budget_bytes == 10**9
    on_t4 = place_model(WAN_14B_Q3, T4)
    assert on_t4.device.type == "cuda" and on_t4.dtype == torch.float16 and "bfloat16" in on_t4.dtype_why
    assert (on_t4.text_device.type, on_t4.vae_dtype, on_t4.widen_budget_bytes) == ("cuda", torch.float16, 0)
    for busy in (replace(T4, gpu_memory=7 * 10**9), replace(T4, gpu_memory_free=6 * 10**9)):
        small = place_model(WAN_14B_Q3, busy)
        assert small.device.type == "cuda" and small.text_device.type == "cpu"
    card = this_card(replace(T4, gpu_memory_free=6 * 10**9))
    assert card.vram < 7 * 10**9 and "8.4 GB more are held by other programs" in card.name
    assert this_card(T4).name == "Tesla T4"
    assert plan_here(MINI, usual_run(MINI), T4).card.vram == 0
    assert place_model(WAN_14B_Q3, replace(T4, gpu_bf16=True)).dtype == torch.bfloat16
    small = place_model(MINI, T4)
    assert (small.dtype, small.device.type) == (torch.float32, "cpu")
    with pytest.raises(WanError, match="cuda needs an NVIDIA GPU"):
        place_model(MINI, LAPTOP, device="cuda")
    with pytest.raises(WanError, match="A device is cpu or cuda, not 'toaster'"):
        place_model(MINI, LAPTOP, device="toaster")
    with pytest.raises(WanError, match="0 or more, not -1"):
        place_model(MINI, LAPTOP, widen_budget_bytes=-1)
    with pytest.raises(WanError, match="torch.bfloat16, not 'float16': leave it out"):
        place_model(MINI, LAPTOP, dtype="float16")


def test_the_meter_sees_the_peak_of_a_stage():
    meter = StageMeter(torch.device("cpu"))
    with meter.stage("quiet"):
        pass
    with meter.stage("loud"):
        block = mmap.mmap(-1, 100_000_000)  # new pages for certain: malloc may hand out old ones again
        np.frombuffer(block, dtype=np.uint8)[::1024] = 1
        time.sleep(0.5)  # many looks long, on a busy machine too
        block.close()
    quiet, loud = meter.stages
    assert loud.memory_peak - quiet.memory_peak > 40_000_000
    assert (
        hardware.spoken_bytes(12_300_000_000) == "12.3 GB" and hardware.spoken_bytes(606_000_000) == "606 MB"
    )


def test_the_front_pages_table_of_settings_names_what_there_is():
    """Its second column is generate's own, all of it, the third diffusers'; what the others' words are called is here."""
    from diffusers import WanVACEPipeline

    page = (Path(__file__).parents[1] / "README.md").read_text().split("## Settings in other programs")[1]
    rows = [
        line.strip("| ").split(" | ") for line in page.split("##")[0].splitlines() if line.startswith("| ")
    ][1:]
    ours, theirs = (set(signature(call).parameters) for call in (Pipeline.generate, WanVACEPipeline.__call__))
    own = {name for row in rows for name in re.findall(r"`([a-z_]+)`", re.split("[;:]", row[1])[0])}
    assert own == ours - {"self", "prompt", "first_frame", "keep", "progress"}
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)[`=]", row[2])}
    values = {"uni_pc_diffusers", "diffusers", "official"}
    assert values <= {*SOLVERS, *SCHEDULERS} and {"pad", "crop"} == set(FITS)
    methods = {"load_lora_weights", "set_adapters"}
    assert named - values - methods - {"flow_shift"} <= theirs  # flow_shift is the scheduler's
    assert all(hasattr(WanVACEPipeline, name) for name in methods)


def test_settings_are_the_models_own_where_none_are_given(pipe):
    assert pipe.settings() == SamplingSettings(
        MINI.steps, MINI.guidance, MINI.shift, MINI.sampler, MINI.scheduler
    )
    assert pipe.settings(steps=4).steps == 4
    assert module.ROLES == tuple(pipe.files)
