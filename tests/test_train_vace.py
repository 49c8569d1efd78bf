"""Training VACE: what the blocks are given, and that nothing else moves. Short runs of the real code, small networks."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small import small_text_encoder_state, small_transformer_state

from wan_tutorial.errors import WanError
from wan_tutorial.files import read_tensors
from wan_tutorial.mini import loop, refine_vace, release, train_vace
from wan_tutorial.mini.captions import BRIEF_NEGATIVE
from wan_tutorial.mini.data import VideoPool
from wan_tutorial.mini.judge import names_in
from wan_tutorial.mini.latents import LatentPool
from wan_tutorial.mini.quantize import quantize_master, write_transformer
from wan_tutorial.mini.train_vace import (
    REFERENCES,
    HintPool,
    VaceBatches,
    another_look,
    draw_region,
    grey_latent,
    reference_pictures,
)
from wan_tutorial.mini.traits import LatentReader, trait_parts
from wan_tutorial.mini.world import HELD_OUT, TRAITS, draw_scene, render
from wan_tutorial.reference import encode_context, mask_channels, read_given
from wan_tutorial.sampling.denoise import guided_velocity
from wan_tutorial.sampling.solvers import euler
from wan_tutorial.sizes import VideoSize
from wan_tutorial.text import load_text_encoder
from wan_tutorial.transformer import build_transformer, start_vace_blocks
from wan_tutorial.vae import Vae, VaeShape, encode_full_length, new_autoencoder

SIZE = VideoSize(32, 32, 5)


@torch.no_grad()
def small_vae(seed: int) -> Vae:
    """Random weights, and latents with Wan's statistics."""
    torch.manual_seed(seed)
    model = new_autoencoder(VaeShape(base_dim=8, res_blocks=1)).eval()
    video = render([draw_scene(i) for i in range(4)], height=32, width=32, frames=5).movedim(-1, 1)
    raw = encode_full_length(model, video).chunk(2, dim=1)[0]
    release.fold_statistics(model, raw.mean(dim=(0, 2, 3, 4)), raw.std(dim=(0, 2, 3, 4)))
    return Vae(model)


@pytest.fixture(scope="module")
def vae() -> Vae:
    return small_vae(0)


@pytest.fixture(scope="module")
def pool(vae, tmp_path_factory) -> HintPool:
    videos = VideoPool(tmp_path_factory.mktemp("pool"), 6, frames=5, height=32, width=32)
    hints = HintPool(LatentPool(videos))
    hints.latents.encode(vae)
    hints.encode(vae, batch=4)
    return hints


def test_another_look_keeps_every_trait_and_changes_one_name_at_most():
    for seed in range(60):
        scene = draw_scene(seed)
        for change in (False, True):
            other, name = another_look(scene, seed, change=change)
            differ = {n for n in vars(scene) if getattr(scene, n) != getattr(other, n)} - {"defect"}
            assert differ == {"camera"} | ({name} if change else set())
            assert other.defect is None and not differ & set(TRAITS)
            assert other.combination not in HELD_OUT or not change


def test_references_are_five_pictures_of_one_scene():
    scenes = [draw_scene(seed) for seed in range(3)]
    pictures = reference_pictures(scenes, range(3), VideoSize(64, 64, 13))
    assert pictures.shape == (3, REFERENCES, 64, 64, 3)
    change = [(pictures[:, i] - pictures[:, j]).abs().mean() for i in range(5) for j in range(i)]
    assert min(change) > 0.005, "each differs from each"


def test_regions_are_neither_nothing_nor_everything():
    shares = [draw_region(seed, VideoSize()).mean().item() for seed in range(200)]
    assert 0.03 < min(shares) and max(shares) < 0.8 and np.std(shares) > 0.05


def test_hints_are_what_the_pipeline_would_encode(pool, vae):
    """The cached clips of videos 2 and 3 against `reference.py` on their pixels."""
    first, region = (pool.latents.videos.videos()[i] for i in (2, 3))
    references, begun = pool.read(2)
    assert references.shape == (16, REFERENCES, 4, 4)
    given = encode_context(vae, read_given(SIZE, first_frame=first[0]))
    assert (begun - given.inactive[0]).abs().mean() < 0.05
    assert torch.equal(mask_channels(pool.mask(2)), given.mask)
    inactive = pool.read(3)[1]
    masked = encode_context(vae, read_given(SIZE, video=region, mask=pool.mask(3).numpy()))
    assert (inactive - masked.inactive[0]).abs().mean() < 0.05
    assert torch.equal(mask_channels(pool.mask(3)), masked.mask)
    assert (begun - inactive).abs().mean() > 0.08


def test_hints_resume_where_they_were_cut(pool, vae):
    whole = pool.path.read_bytes()
    with pool.path.open("r+b") as file:
        file.truncate(len(whole) // 2 + 11)
    assert pool.ready == 3
    pool.encode(vae)
    again, before = (np.frombuffer(data, np.float16) for data in (pool.path.read_bytes(), whole))
    assert again.shape == before.shape and np.abs(again - before).max() < 0.1
    pool.path.write_bytes(whole)


def test_hints_of_another_vae_are_found_out(pool):
    other = small_vae(1)
    whole = pool.path.read_bytes()
    pool.path.unlink()
    with pytest.raises(WanError, match="holds no hints yet: run the stage hints"):
        VaceBatches([pool], grey_latent(other, SIZE))
    pool.encode(other)
    with pytest.raises(WanError, match="come from two VAEs: delete it"):
        VaceBatches([pool], grey_latent(other, SIZE))
    pool.path.write_bytes(whole)


def test_batches_hold_the_tasks_in_the_real_layout(pool, vae):
    batches = VaceBatches([pool], grey_latent(vae, SIZE))
    seen = set()
    for task in list(train_vace.SHARES) * 14:
        batch = batches.draw(4, task)
        extra = batch.clean.shape[2] - SIZE.latent_frames
        assert batch.context.shape == (4, 96, *batch.clean.shape[2:]) and len(batch.captions) == 4
        inactive, reactive, mask = batch.context.split([16, 16, 64], dim=1)
        grey = batches.grey.expand(4, -1, -1, -1, -1)
        assert bool(extra) == (task == "reference")
        if extra:
            assert not batch.known.any()
            assert batch.known.shape == batch.subject.shape == batch.place.shape
            assert torch.equal(inactive[:, :, :1], batch.clean[:, :, :1]), (
                "a reference is part of what is clean"
            )
            assert not reactive[:, :, :1].any() and not mask[:, :, :1].any() and (mask[:, :, 1:] == 1).all()
            assert torch.equal(inactive[:, :, 1:], grey) and torch.equal(reactive[:, :, 1:], grey)
            seen.add(task)
            continue
        for one in range(4):
            if not (mask[one] == 1).all():
                seen.add("region")
                assert set(mask[one].unique().tolist()) == {0.0, 1.0}
                assert 0 < batch.known[one].mean() < 1
            else:
                same = torch.equal(inactive[one], grey[one])
                seen.add("nothing" if same else "first")
                assert same or (inactive[one, :, 0] - batch.clean[one, :, 0]).abs().mean() < 0.1
                assert (batch.known[one, 0] == (0 if same else 1)).all() and not batch.known[one, 1:].any()
    assert seen == {"reference", "region", "nothing", "first"}


def test_a_changed_attribute_is_named(pool, vae):
    """Where the reference shows another colour, the caption says the true one."""
    batches = VaceBatches([pool], grey_latent(vae, SIZE))
    named = 0
    for index in list(range(6)) * 14:
        scene = pool.latents.videos.scene(index)
        _, context, caption, _ = batches.draw_reference(pool, index)
        chosen = [torch.equal(context.references[0, :, 0], r) for r in pool.read(index)[0].unbind(1)].index(
            True
        )
        if chosen in (2, 3):
            _, attribute = another_look(scene, index, change=True)
            assert attribute in names_in(caption, scene)
            named += 1
    assert named > 12


def test_videos_whose_reference_shows_another_setting_are_drawn_more_often(pool, vae, monkeypatch):
    """Here one video of six."""
    monkeypatch.setattr(
        train_vace, "another_look", lambda scene, seed, change: (scene, "light" if seed else "setting")
    )
    batches = VaceBatches([pool], grey_latent(vae, SIZE))
    drawn = sum(batches.pick() == (0, 0) for _ in range(2000)) / 2000
    assert drawn == pytest.approx(1 / (1 + 5 * train_vace.OTHERS_SHARE), abs=0.05)


def test_a_sample_comes_with_the_traits_of_its_scene(pool, vae):
    drawn = VaceBatches([pool], grey_latent(vae, SIZE)).draw(12, "nothing")
    latents = [train_vace.latent_of(pool, index) for index in range(6)]
    for clean, traits in zip(drawn.clean, drawn.traits, strict=True):
        (index,) = (i for i, one in enumerate(latents) if torch.equal(clean[:, -one.shape[1] :], one))
        assert torch.equal(traits, trait_parts(pool.latents.videos.scene(index)))


def raw(tensor):
    return getattr(tensor, "raw", tensor)


@pytest.fixture
def no_runs(monkeypatch):
    monkeypatch.setattr(train_vace, "RUN_SHARE", 0.0)


def trained_for(steps, model, pool, vae, folder):
    """Train for some steps, however long they take; for 0 the minutes are used up."""
    encoder = load_text_encoder(small_text_encoder_state())
    batches = VaceBatches([pool], grey_latent(vae, SIZE))
    minutes, stop = (30.0 if steps else 1e-6), lambda moment: moment.step >= steps
    return train_vace.train_vace(folder, model, encoder, batches, minutes=minutes, batch=4, watch=stop)


def test_training_moves_the_vace_blocks_alone_and_the_files_prove_it(pool, vae, tmp_path):
    assets = tmp_path / "assets"
    assets.mkdir()
    model = build_transformer(small_transformer_state())
    start_vace_blocks(model)
    write_transformer(model.state_dict_wan_names(), assets / release.MASTER, "F16")
    quantize_master(assets / release.MASTER, assets / release.QUANTISED, "Q3_K_S")
    old = {name: (assets / name).read_bytes() for name in (release.MASTER, release.QUANTISED)}
    trained = trained_for(3, release.load_master(assets), pool, vae, tmp_path)
    assert trained.vace_blocks[0].proj_out.weight.any() and trained.vace_blocks[0].proj_in.weight.any()
    release.release_vace(trained, assets)
    for name, before in old.items():
        (tmp_path / name).write_bytes(before)
        tensors, originals = (read_tensors(folder / name).tensors for folder in (assets, tmp_path))
        moved = [key for key in tensors if not torch.equal(raw(tensors[key]), raw(originals[key]))]
        assert "vace_blocks.0.after_proj.weight" in moved and all("vace" in key for key in moved)
    with torch.no_grad():
        trained.blocks[0].ffn.net[2].weight.add_(0.01)
    with pytest.raises(WanError, match="main blocks of .* are not those"):
        release.release_vace(trained, assets)
    assert sorted(path.name for path in assets.iterdir()) == sorted(old)
    with pytest.raises(WanError, match="VACE blocks of another transformer: delete it"):
        trained_for(1, build_transformer(small_transformer_state(seed=1)), pool, vae, tmp_path)
    again = trained_for(0, release.load_master(assets), pool, vae, tmp_path)
    assert torch.equal(again.vace_blocks[0].proj_out.weight, trained.vace_blocks[0].proj_out.weight), (
        "it resumed"
    )


def test_traits_that_a_reference_shows_count(pool, vae, tmp_path, monkeypatch, no_runs):
    """With a reader whose every mistake is a thousand nats, which is asked about the video and not about the reference."""
    monkeypatch.setattr(train_vace, "SHARES", {"reference": 1.0})
    reader, asked, losses = LatentReader(width=16).requires_grad_(False), [], []
    monkeypatch.setattr(
        reader, "mistake", lambda latents, parts: asked.append(latents) or 1000 + 0 * parts.sum(1)
    )
    encoder, batches = (
        load_text_encoder(small_text_encoder_state()),
        VaceBatches([pool], grey_latent(vae, SIZE)),
    )

    def stop(moment):
        losses.append(moment.figures["reference"])
        return True

    model = build_transformer(small_transformer_state())
    train_vace.train_vace(tmp_path, model, encoder, batches, minutes=30, batch=4, watch=stop, reader=reader)
    assert asked[0].shape == (2, *pool.latents.shape) and asked[0].requires_grad
    assert losses[0] == pytest.approx(1000 * train_vace.TRAITS_WEIGHT, rel=0.1)


def test_every_sample_is_asked_twice_and_what_guidance_makes_of_the_answers_counts(
    pool, vae, tmp_path, monkeypatch, no_runs
):
    """Told is off by 1 and untold by -1: guided, that is 4 * 2 - 1 = 7, where something is given."""
    monkeypatch.setattr(train_vace, "SHARES", {"clip": 1.0})
    asked, whole, drawn, draw = [], train_vace.flow_matching_loss, [], VaceBatches.draw
    monkeypatch.setattr(VaceBatches, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])

    def loss(model, clean, text, t, visible, weight, **options):
        asked.append((clean, text, t, weight, options["noise"], options["also"]))
        return whole(model, clean, text, t, visible, weight, **options)

    monkeypatch.setattr(train_vace, "flow_matching_loss", loss)
    trained_for(1, build_transformer(small_transformer_state()), pool, vae, tmp_path)
    clean, text, t, weight, noise, also = asked[0]
    for half, other in (part.chunk(2) for part in (clean, t, noise)):
        assert torch.equal(half, other)
    told, untold = text.chunk(2)
    assert told.any() and torch.equal(untold[0], untold[1]) and not torch.equal(told[0], untold[0])
    off = torch.cat([torch.ones(2), -torch.ones(2)]).view(-1, 1, 1, 1, 1)
    costs = also(clean + off * t.view(-1, 1, 1, 1, 1))
    assert torch.allclose(costs, torch.tensor(train_vace.GUIDED_WEIGHT * 7**2), rtol=0.01)


@pytest.mark.parametrize("task", ["reference", "clip"])
def test_a_run_goes_where_the_sampler_goes_and_costs_what_its_answers_miss(
    pool, vae, tmp_path, monkeypatch, task
):
    """Beside the package's own guided Euler steps, with weights that stay as they are."""
    for name, value in {
        "SHARES": {task: 1.0},
        "RUN_SHARE": 1.0,
        "RUN_STEPS": (4, 4),
        "RUN_GUIDANCE": (3.0, 3.0),
        "MOTION_WEIGHT": 0.0,
        "COARSE_WEIGHT": 0.0,
        "KNOWN_WEIGHT": 0.0,
        "weigh": lambda subject, place, t: torch.ones_like(subject),
        "narrow_is_faster": lambda device: False,
    }.items():
        monkeypatch.setattr(train_vace, name, value)
    monkeypatch.setattr(loop, "schedule", lambda *given: 0.0)
    begin, begun, costs = train_vace.Run.begin, [], []

    def remember(*given):
        begun.append(begin(*given))
        copy = replace(begun[-1])
        begun.append(copy)
        return begun[-2]

    def watch(moment):
        costs.append(moment.figures[f"{task} in a run"])
        return len(begun) == 4

    monkeypatch.setattr(train_vace.Run, "begin", remember)
    model = build_transformer(small_transformer_state())
    start_vace_blocks(model)
    with torch.no_grad():
        for block in model.vace_blocks:
            block.proj_out.weight.normal_(std=0.05)
    encoder = load_text_encoder(small_text_encoder_state())
    batches = VaceBatches([pool], grey_latent(vae, SIZE))
    train_vace.train_vace(tmp_path, model, encoder, batches, minutes=30, batch=4, watch=watch)
    gone_on, first = begun[:2]
    steps = len(first.times) - 1
    assert len(costs) == steps + 1, "after the last step another run begins"
    assert steps == 4 and first.times[0] == 1
    clean, known, told = first.drawn.clean, first.drawn.known.clone(), first.text.chunk(2)
    assert abs(torch.corrcoef(torch.stack([first.noisy.flatten(), clean.flatten()]))[0, 1]) < 0.1
    if task == "reference":
        known[:, 0] = 1
    asked = partial(model, vace_context=first.drawn.context)
    wanted, latent = [], first.noisy
    with torch.no_grad():
        for step in euler(guided_velocity(asked, *told, 3.0, together=False), latent, first.times):
            t = torch.tensor(step.sigma).expand(2)
            answers = [latent - step.sigma * asked(latent, 1000 * t, text) for text in told]
            errors = [((answer - clean) / step.sigma).square().mean().item() for answer in answers]
            missed = ((step.clean_guess - clean) / step.sigma).square().mean(1)
            missed = (known * missed).sum((1, 2, 3)) / known.sum((1, 2, 3))
            still = min(max(step.sigma / train_vace.RUN_SETTLED - 1, 0), 1)
            whole = train_vace.RUN_ALL_WEIGHT * still * sum(errors) / 2
            wanted.append(whole + train_vace.RUN_KNOWN_WEIGHT * missed.mean().item())
            latent = step.latent
    assert costs[:steps] == pytest.approx(wanted, rel=1e-3)
    assert torch.allclose(gone_on.noisy, latent, atol=1e-3)


def test_given_nothing_the_main_blocks_own_answer_is_wanted(pool, vae, tmp_path, monkeypatch):
    """Blocks that speak cost what they change; silent ones nothing."""
    monkeypatch.setattr(train_vace, "SHARES", {"nothing": 1.0})
    model, losses = build_transformer(small_transformer_state()), []
    start_vace_blocks(model)
    encoder = load_text_encoder(small_text_encoder_state())
    batches = VaceBatches([pool], grey_latent(vae, SIZE))

    def stop(moment):
        losses.append(moment.figures["nothing"])
        return True

    train_vace.train_vace(tmp_path / "silent", model, encoder, batches, minutes=30, batch=4, watch=stop)
    with torch.no_grad():
        for block in model.vace_blocks:
            block.proj_out.weight.normal_(std=0.1)
    train_vace.train_vace(tmp_path / "loud", model, encoder, batches, minutes=30, batch=4, watch=stop)
    assert losses[0] < 1e-9 < losses[1]


# --- refining -------------------------------------------------------------------------------------------------


@pytest.fixture
def speaking():
    """A small network whose VACE blocks say something."""
    model = build_transformer(small_transformer_state())
    start_vace_blocks(model)
    with torch.no_grad():
        for block in model.vace_blocks:
            block.proj_out.weight.normal_(std=0.1)
    return model


def refined(model, pool, vae, folder, watch):
    encoder, batches = load_text_encoder(small_text_encoder_state()), refine_vace.RefiningBatches([pool], vae)
    return refine_vace.refine_vace(folder, model, encoder, batches, minutes=30, batch=4, watch=watch)


def test_strange_and_scrambled_pictures_are_encoded_as_references_are(pool, vae, monkeypatch):
    drawn = []
    for name in ("scramble", "make_strange"):
        make = getattr(refine_vace, name)
        monkeypatch.setattr(
            refine_vace, name, lambda *given, make=make: drawn.append(make(*given)) or drawn[-1]
        )
    batches = refine_vace.RefiningBatches([pool], vae)
    batches.dice.seed(0)  # four squares may be shuffled to what they were
    assert {batches.draw_task() for _ in range(200)} == set(refine_vace.SHARES)
    frames = torch.from_numpy(pool.latents.videos.videos()[:].astype(np.float32) / 127.5 - 1)
    for task in ("scrambled", "strange"):
        for index in range(6):
            clean, context, _, known = getattr(batches, f"draw_{task}")(pool, index)
            own = encode_context(vae, read_given(SIZE, reference=drawn[-1]))
            assert (
                context.tensor - own.tensor
            ).abs().mean() < 0.01 and not known.any()  # bfloat16 and float32
            assert torch.equal(clean[:, 0], context.references[0, :, 0])
            assert torch.equal(clean[:, 1:], train_vace.latent_of(pool, index))
            assert ((frames - drawn[-1]).abs().amax((2, 3, 4)) > 0.1).all(), (
                "no frame of any video is left as it was"
            )


@pytest.mark.parametrize("task", refine_vace.SHARES)
def test_what_was_answered_stays_where_it_is_to_stay(speaking, pool, vae, tmp_path, monkeypatch, task):
    """Without negative prompts that costs nothing at first, and all else does; no weight moves but the VACE blocks'."""
    monkeypatch.setattr(refine_vace, "SHARES", {task: 1.0})
    monkeypatch.setattr(refine_vace, "NEGATIVE_SHARES", (1, 0, 0))
    monkeypatch.setattr(refine_vace, "DECIDED", 1.0)
    costs, before = [], {name: tensor.clone() for name, tensor in speaking.state_dict().items()}

    def watch(moment):
        costs.extend(cost for name, cost in moment.figures.items() if name.startswith(task) and cost == cost)
        return len(costs) == 3

    trained = refined(speaking, pool, vae, tmp_path, watch)
    assert (costs[0] < 1e-9) == (task == "clip"), "nothing but rounding"
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert all("vace" in name for name in moved) and bool(moved) >= (task != "clip")
    learned = loop.averaged(tmp_path / "refine")
    for name, tensor in trained.state_dict().items():
        between = torch.lerp(before[name], learned[name], refine_vace.LEARNED_SHARE)
        assert torch.allclose(tensor, between, atol=1e-6)


def test_refining_goes_on_from_the_blocks_that_it_began_with(speaking, pool, vae, tmp_path, monkeypatch):
    """What it released in between is not taken for those: their share would be mixed in twice."""
    monkeypatch.setattr(refine_vace, "SHARES", {"reference": 1.0})
    began = {name: tensor.clone() for name, tensor in speaking.state_dict().items()}
    released = refined(speaking, pool, vae, tmp_path, lambda moment: moment.step == 3)
    again = refined(released, pool, vae, tmp_path, lambda moment: moment.step == 4)
    learned = loop.averaged(tmp_path / "refine")
    for name, tensor in again.state_dict().items():
        assert torch.allclose(tensor, began[name].lerp(learned[name], refine_vace.LEARNED_SHARE), atol=1e-6)


def test_beside_a_reference_guidance_is_turned_towards_the_main_blocks(monkeypatch):
    kept, main = torch.randn(4, 16, 3, 2, 2), torch.randn(4, 16, 2, 2, 2)
    told, untold = kept.chunk(2)
    direction, other = told - untold, main.chunk(2)[0] - main.chunk(2)[1]

    def turned(t):
        return refine_vace.turn(kept, main, t) - untold

    assert torch.equal(turned(0.9), direction), "while the layout is open all stays"
    late = turned(0.4)
    assert torch.allclose(late[:, :, 0], direction[:, :, 0], atol=1e-5), "the reference itself as it was"
    for share, motion in ((refine_vace.STILL_TURN, False), (refine_vace.MOTION_TURN, True)):
        mine, theirs, found = (
            one.diff(dim=2) if motion else one.mean(2) for one in (direction[:, :, 1:], other, late[:, :, 1:])
        )
        assert torch.allclose(found, torch.lerp(mine, theirs, share), atol=1e-4)
    same = torch.cat([untold[:, :, 1:] + direction[:, :, 1:], untold[:, :, 1:]])
    assert torch.allclose(refine_vace.turn(kept, same, 0.4), told, atol=1e-5), "nothing to turn"


@pytest.mark.parametrize("task", ["reference", "clip", "scrambled"])
@pytest.mark.parametrize("negative", ["", "blurry"])
def test_a_negative_prompt_moves_an_answer_as_it_moves_that_of_the_main_blocks(
    speaking, pool, vae, task, negative
):
    encoder, batches = load_text_encoder(small_text_encoder_state()), refine_vace.RefiningBatches([pool], vae)
    text_of, frames = partial(train_vace.embed_captions, encoder), batches.grey.shape[2]
    drawn = batches.draw(2, task)
    run = train_vace.Run.begin(drawn, text_of(drawn.captions + [negative] * 2))
    wanted = refine_vace.wish(speaking, run, task, text_of([""]), frames).chunk(2)[1]
    with torch.no_grad():
        given = partial(speaking, vace_context=drawn.context)(
            run.noisy, torch.full((2,), 1000.0), text_of(["", ""])
        )
        main = [
            speaking(run.noisy[:, :, -frames:], torch.full((2,), 1000.0), text_of([words] * 2))
            for words in (negative, "")
        ]
    given[:, :, -frames:] += main[0] - main[1]
    assert torch.allclose(wanted, main[0] if task == "scrambled" else given, atol=1e-4)
    assert bool((main[0] - main[1]).abs().max() > 1e-3) == bool(negative), "another prompt is another answer"


def test_guidance_leads_away_from_all_kinds_of_negative_prompts(pool, vae):
    batches = refine_vace.RefiningBatches([pool], vae)
    drawn = {batches.draw_negative() for _ in range(300)}
    assert {"", BRIEF_NEGATIVE} < drawn and len(drawn) > 4


def test_silence_is_learned(speaking, pool, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(refine_vace, "SHARES", {"scrambled": 1.0})
    monkeypatch.setattr(refine_vace, "RUN_SHARE", 0.0)
    costs = []
    refined(
        speaking,
        pool,
        vae,
        tmp_path,
        lambda moment: costs.append(moment.figures["scrambled"]) or len(costs) == 60,
    )
    assert np.mean(costs[-10:]) < 0.7 * np.mean(costs[:10])


@pytest.mark.parametrize("task", ["reference", "scrambled"])
def test_a_refined_run_goes_where_the_sampler_goes(speaking, pool, vae, tmp_path, monkeypatch, task):
    """Beside the package's own guided Euler steps, with weights that stay as they are."""
    monkeypatch.setattr(refine_vace, "SHARES", {task: 1.0})
    monkeypatch.setattr(refine_vace, "RUN_SHARE", 1.0)
    monkeypatch.setattr(train_vace, "RUN_STEPS", (4, 4))
    monkeypatch.setattr(train_vace, "RUN_GUIDANCE", (3.0, 3.0))
    monkeypatch.setattr(refine_vace, "narrow_is_faster", lambda device: False)
    monkeypatch.setattr(loop, "schedule", lambda *given: 0.0)
    begin, begun, steps = train_vace.Run.begin, [], []

    def remember(*given):
        run = begin(*given)
        begun.extend([run, replace(run)])
        return run

    monkeypatch.setattr(train_vace.Run, "begin", remember)
    refined(speaking, pool, vae, tmp_path, lambda moment: steps.append(moment.step) or len(begun) == 4)
    gone_on, first = begun[:2]
    assert len(steps) == 5 and gone_on.finished, "after the last step another run begins"
    latent = first.noisy
    asked = partial(speaking, vace_context=first.drawn.context)
    with torch.no_grad():
        for step in euler(
            guided_velocity(asked, *first.text.chunk(2), 3.0, together=False), latent, first.times
        ):
            latent = step.latent
    assert torch.allclose(gone_on.noisy, latent, atol=1e-3)
