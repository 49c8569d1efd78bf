"""The training of the scale model: short runs of the real code on small networks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import small_text_encoder_state
from torch import nn

from wan_tutorial.errors import WanError
from wan_tutorial.files import read_tensors
from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.mini import data, handover, release, train_transformer, train_vae
from wan_tutorial.mini import train as command
from wan_tutorial.mini.captions import write_caption
from wan_tutorial.mini.data import VideoPool, to_bytes, to_pixels
from wan_tutorial.mini.latents import LatentPool
from wan_tutorial.mini.loop import Budget, Muon, averaged, orthogonalise, train
from wan_tutorial.mini.release import fold_statistics
from wan_tutorial.mini.train_text import (
    ATTRIBUTES,
    MASK,
    TextTask,
    hide,
    number_attributes,
    tokenize,
    train_tokenizer,
)
from wan_tutorial.mini.train_transformer import draw_times, flow_matching_loss
from wan_tutorial.mini.train_vae import draw_crops, edge_energy, grow_into_time
from wan_tutorial.mini.traits import LatentReader, trait_parts
from wan_tutorial.mini.world import draw_scene
from wan_tutorial.pipeline import load
from wan_tutorial.quantization import QuantizedTensor
from wan_tutorial.text import EOS, PAD, TextShape, Tokenizer, load_text_encoder, new_text_encoder
from wan_tutorial.transformer import new_transformer
from wan_tutorial.vae import Vae, VaeShape, decode_full_length, encode_full_length, new_autoencoder

SMALL = VaeShape(base_dim=8, res_blocks=1)


def test_a_pool_is_the_same_whether_rendered_at_once_or_in_parts(tmp_path):
    at_once = VideoPool(tmp_path / "a", 20, frames=5, height=32, width=32).videos()
    VideoPool(tmp_path / "b", 7, frames=5, height=32, width=32).videos()
    in_parts = VideoPool(tmp_path / "b", 20, frames=5, height=32, width=32).videos()
    assert at_once.shape == (20, 5, 32, 32, 3) and at_once.std() > 10
    assert np.abs(at_once.astype(int) - in_parts).max() <= 1
    pixels = to_pixels(at_once[:2])
    assert pixels.shape == (2, 3, 5, 32, 32)
    assert (to_bytes(pixels.movedim(1, -1)).numpy() == at_once[:2]).all()


def test_latents_of_a_pool_resume_where_they_were_cut(tmp_path):
    pool = LatentPool(VideoPool(tmp_path, 6, frames=5, height=32, width=32))
    vae = Vae(new_autoencoder(SMALL).eval())
    pool.encode(vae, batch=4)
    whole = pool.read().copy()
    with pool.path.open("r+b") as file:
        file.truncate(whole[0].nbytes * 3 + 10)  # cut in the middle of the fourth
    assert pool.ready == 3
    pool.encode(vae, batch=3)
    assert pool.read().shape == (6, 16, 2, 4, 4)
    assert np.allclose(pool.read(), whole, atol=0.05)


def test_folding_gives_latents_with_wans_statistics_and_the_same_pictures():
    torch.manual_seed(0)
    model = new_autoencoder(SMALL).eval()
    video = torch.rand(2, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = encode_full_length(model, video).chunk(2, dim=1)[0]
        before = decode_full_length(model, raw)
        fold_statistics(model, raw.mean(dim=(0, 2, 3, 4)), raw.std(dim=(0, 2, 3, 4)))
        latent = Vae(model).encode(video)
        after = Vae(model).decode(latent)
    assert latent.mean(dim=(0, 2, 3, 4)).abs().max() < 1e-4
    assert (latent.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 1e-3
    assert torch.allclose(after, before.clamp(-1, 1), atol=1e-4)


def test_growing_into_time_keeps_single_frames_and_starts_near_them():
    torch.manual_seed(0)
    model = new_autoencoder(SMALL).eval()
    frame = torch.rand(1, 3, 1, 32, 32) * 2 - 1

    def through(video):
        with torch.no_grad():
            return decode_full_length(model, encode_full_length(model, video).chunk(2, dim=1)[0])

    alone, still = through(frame), frame.repeat(1, 1, 5, 1, 1)
    wild = (through(still) - alone).abs().mean()
    grow_into_time(model)
    assert torch.allclose(through(frame), alone, atol=1e-5)
    assert (
        through(still) - alone
    ).abs().mean() < 0.5 * wild  # a still video: nearly the same frame again and again


def test_the_loop_learns_logs_and_resumes(tmp_path):
    torch.manual_seed(0)
    target = torch.tensor([[1.0, -2.0, 0.5]])

    def loss_of(step):
        x = torch.randn(32, 3)
        return (model(x) - x @ target.T).square().mean(), {"seen": float(step)}

    model = nn.Linear(3, 1)
    budget = Budget(minutes=0.01, learning_rate=0.1, warmup_steps=5)
    average = train(model, loss_of, budget=budget, folder=tmp_path)
    assert (average.weight - target).abs().max() < 0.2
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert rows[0] == "step,minutes,rate,loss,seen" and len(rows) > 2
    fresh = nn.Linear(3, 1)
    resumed = train(fresh, lambda step: pytest.fail("the minutes are used"), budget=budget, folder=tmp_path)
    assert torch.equal(resumed.weight, average.weight) and torch.equal(fresh.weight, model.weight)


def test_muon_moves_every_direction_of_a_matrix_and_of_a_convolution():
    torch.manual_seed(0)
    for shape in ((8, 40), (40, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert 0.6 < values.min() and values.max() < 1.3
    target, layer = torch.randn(8, 4, 3, 3, 3), nn.Conv3d(4, 8, 3)
    optimiser = Muon([layer.weight], weight_decay=0.0)
    optimiser.param_groups[0]["lr"] = 0.05
    before = (layer.weight - target).square().mean().item()
    for _ in range(60):
        (layer.weight - target).square().mean().backward()
        optimiser.step()
        layer.weight.grad = None
    assert (layer.weight - target).square().mean() < 0.2 * before


def test_crops_prefer_the_busy_places():
    flat = np.zeros((1, 5, 64, 64, 3), np.uint8)
    flat[:, :, :, 32:] = np.random.default_rng(0).integers(0, 255, (1, 5, 64, 32, 3))
    dice = np.random.default_rng(0)
    crops = draw_crops(flat, batch=200, frames=5, side=16, dice=dice)
    assert crops.shape == (200, 3, 5, 16, 16)
    busy = (crops.std(dim=(1, 2, 3, 4)) > 0.1).float().mean()
    at_random = (64 - 16 + 1 - 17) / (64 - 16 + 1)  # places that touch the busy half
    assert busy > at_random + 0.1
    assert edge_energy(flat[0, :, :, 32:]) > edge_energy(flat[0, :, :, :32]) == 0


def test_the_text_encoder_learns_which_scene_a_caption_tells():
    torch.manual_seed(0)
    scenes = [draw_scene(seed) for seed in range(6)]
    tokenizer = Tokenizer(train_tokenizer(captions=300, vocabulary=450))
    ids = tokenize(tokenizer, [write_caption(scene, 0) for scene in scenes])
    numbers = torch.tensor([number_attributes(scene) for scene in scenes])
    for name, column in zip(ATTRIBUTES, numbers.T, strict=True):
        told = [ATTRIBUTES[name][number] for number in column]
        assert told == [getattr(scene, name) for scene in scenes]
    task = TextTask(new_text_encoder(TextShape(tokenizer.vocab, dim=64, heads=1, ffn_dim=64, layers=1)))
    optimiser = torch.optim.Adam(task.parameters(), 5e-3)
    losses = []
    for _ in range(60):
        loss, figures = task(ids, numbers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(figures)
    assert losses[-1]["scene"] < 0.3 * losses[0]["scene"]
    assert losses[-1]["recall"] < 0.5 * losses[0]["recall"]


def test_a_handover_survives_the_move_in_small_files(tmp_path, monkeypatch):
    model = nn.Linear(64, 64)
    train(
        model, lambda step: (model.weight.sum() * 0, {}), budget=Budget(0.001), folder=tmp_path / "a" / "text"
    )
    monkeypatch.setattr(handover, "LIMIT", 104_000)  # so that weight and bias need a file each
    handover.hand_over(tmp_path / "a", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("text-*.safetensors"))) == 2
    handover.take_over(tmp_path / "out", tmp_path / "b")
    moved = nn.Linear(64, 64)
    train(
        moved,
        lambda step: pytest.fail("the minutes are used"),
        budget=Budget(0.001),
        folder=tmp_path / "b" / "text",
    )
    assert torch.allclose(moved.weight, model.weight, atol=1e-3)
    with pytest.raises(WanError, match="vae_videos-0.safetensors"):
        handover.take_over(tmp_path / "a", tmp_path / "c")


def test_the_tokenizer_knows_its_world_and_can_spell_the_rest():
    tokenizer = Tokenizer(train_tokenizer(captions=300, vocabulary=450))
    sword, odd = tokenizer.pieces("a sword"), tokenizer.encode("Ünïcödé ☃", 64)
    assert "▁sword" in sword and len(odd) > 3 and 2 not in odd  # 2 would be "unknown"
    ids = tokenize(tokenizer, ["a sword", "a sword beside the fire"])
    read, hidden = hide(ids, share=1.0)
    assert (read[hidden] == MASK).all() and not hidden[(ids == PAD) | (ids == EOS)].any()


def test_the_flow_matching_loss_is_zero_for_the_true_velocity_and_counts_each_sample():
    torch.manual_seed(0)
    clean, t = torch.zeros(4, 16, 2, 4, 4), torch.tensor([0.1, 0.4, 0.7, 0.9])
    # With clean = 0 the noisy latent is t * noise and the velocity is the noise itself.
    exact = flow_matching_loss(lambda x, time, text: x / (time / 1000).view(-1, 1, 1, 1, 1), clean, None, t)
    blind = flow_matching_loss(lambda x, time, text: torch.zeros_like(x), clean, None, t)
    assert exact.shape == (4,) and exact.max() < 1e-8
    assert (blind - 1).abs().max() < 0.3
    times = draw_times(4000)
    assert 0 < times.min() and times.max() < 1 and 0.55 < times.mean() < 0.7
    noisy = draw_times(4000, noisy=1.0)
    assert noisy.max() < 1 and 0.45 < (noisy > 0.85).float().mean() < 0.6


def test_training_can_go_on_from_the_shipped_files(tmp_path):
    folder = bundled_folder()
    handover.take_over(folder, tmp_path)
    state = read_tensors(folder / release.MASTER).tensors
    model = new_transformer(train_transformer.SHAPE)
    model.load_state_dict(averaged(tmp_path / "transformer"))
    assert torch.equal(model.blocks[2].ffn.net[2].weight, state["blocks.2.ffn.2.weight"].float())
    vae = new_autoencoder(train_vae.SHAPE)
    vae.load_state_dict(averaged(tmp_path / "vae_videos"))
    assert (tmp_path / "vae_videos" / "used.txt").read_text() == "0 0"


def test_a_pool_knows_where_its_subjects_are(tmp_path):
    pool = VideoPool(tmp_path, 6, frames=5, height=96, width=96)
    covered = pool.subjects()
    assert covered.shape == (6, 2, 12, 12) and covered.dtype == np.uint8
    for index, share in enumerate(covered.reshape(6, -1).mean(1) / 255):
        bare = pool.scene(index).subject == "campfire"
        assert share == 0 if bare else 0.005 < share < 0.3
    before = covered.copy()
    pool.path.with_suffix(".subject.u8").write_bytes(before.tobytes()[:1000])  # cut short: made whole again
    assert (pool.subjects() == before).all()


def test_visibility_is_how_a_decoder_answers():
    mix_channels = torch.randn(3, 16)

    class Linear:
        def decode(self, latent):
            return torch.einsum("oc,bcfhw->bofhw", mix_channels, latent)

    root = train_transformer.visibility(Linear(), torch.randn(2, 16, 2, 3, 3))
    metric = mix_channels.T @ mix_channels
    wanted = 0.5 * metric / metric.diag().mean() + 0.5 * torch.eye(16)
    assert torch.allclose(root.T @ root, wanted, atol=1e-4)
    clean = torch.randn(2, 16, 2, 3, 3)
    torch.manual_seed(0)
    losses = flow_matching_loss(
        lambda x, time, text: torch.zeros_like(x),
        clean,
        None,
        torch.ones(2),
        root,
        torch.full((2, 2, 3, 3), 3.0),
    )
    torch.manual_seed(0)
    velocity = torch.randn_like(clean) - clean
    squared = torch.einsum("bcfhw,cd,bdfhw->bfhw", velocity, wanted, velocity) / 16
    assert torch.allclose(losses, 3 * squared.mean((1, 2, 3)), rtol=1e-4)


def loss_of_error(error: torch.Tensor, **counted: float) -> float:
    """The flow matching loss of a model whose answer is off by `error`, (1, C, F, H, W)."""
    clean = torch.zeros_like(error)
    torch.manual_seed(0)
    wrong = torch.randn_like(clean) + error
    torch.manual_seed(0)
    return flow_matching_loss(
        lambda x, time, text: wrong, clean, None, torch.ones(1), **counted, narrow=False
    ).item()


def test_an_error_that_comes_and_goes_in_time_counts_more_than_one_that_stays():
    flicker = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1).expand(1, 16, 4, 2, 2)
    assert loss_of_error(torch.ones_like(flicker), motion=0.5) == pytest.approx(1, abs=1e-4)
    wanted = 1 + 0.5 * (2 + 4 + 4 + 2) / 4
    assert loss_of_error(flicker, motion=0.5) == pytest.approx(wanted, abs=1e-4)


def test_an_error_over_many_cells_counts_more_than_one_that_evens_out():
    chequers = (torch.arange(6)[:, None] + torch.arange(6)) % 2 * 2.0 - 1  # the last blocks of 4 are cut
    chequers = chequers.expand(1, 16, 2, 6, 6)
    assert loss_of_error(torch.ones_like(chequers), coarse=0.5) == pytest.approx(1 + 0.5 * 16, abs=1e-4)
    assert loss_of_error(chequers, coarse=0.5) == pytest.approx(1, abs=1e-4)
    corner = torch.zeros(1, 16, 1, 6, 6)
    corner[..., 4:, 4:] = 1  # one block, which says nothing of its neighbours
    assert loss_of_error(corner, coarse=0.5) == pytest.approx((1 + 0.5 * 16) * 4 / 36, abs=1e-4)


def test_what_the_velocity_points_at_may_cost_too():
    error = torch.randn(1, 16, 2, 4, 4)
    plain = loss_of_error(error)
    far = loss_of_error(error, also=lambda clean: clean.square().mean((1, 2, 3, 4)))
    assert far == pytest.approx(plain + error.square().mean().item(), rel=1e-4)  # at t = 1, from clean = 0
    assert loss_of_error(0 * error, also=lambda clean: clean.abs().amax((1, 2, 3, 4))) == pytest.approx(
        0, abs=1e-5
    )


def test_the_right_velocity_leads_out_of_a_drift():
    """What the noisy latents lean to is in what the model sees; the answer that points at clean costs nothing."""
    torch.manual_seed(0)
    clean, drift, t = torch.randn(3, 16, 2, 4, 4), torch.randn(3, 16, 2, 4, 4), torch.tensor([0.3, 0.6, 0.9])
    seen = []

    def right(x, time, text):
        seen.append(x)
        return (x - clean) / (time / 1000).view(-1, 1, 1, 1, 1)

    torch.manual_seed(1)
    flow_matching_loss(right, clean, None, t, narrow=False)
    torch.manual_seed(1)
    losses = flow_matching_loss(right, clean, None, t, drift=drift, narrow=False)
    assert torch.allclose(seen[1] - seen[0], (1 - t).view(-1, 1, 1, 1, 1) * drift, atol=1e-5)
    assert losses.max() < 1e-8
    blind = flow_matching_loss(lambda x, time, text: torch.zeros_like(x), clean, None, t, drift=drift)
    assert blind.min() > 0.5


def test_half_of_the_samples_lean_and_none_in_a_late_step():
    torch.manual_seed(0)
    clean = torch.randn(200, 16, 2, 2, 2)
    leans = train_transformer.gone_wrong(clean, torch.full((200,), 0.9))
    share = (leans / (clean.roll(1, 0) - clean)).flatten(1)
    assert torch.allclose(share, share[:, :1].expand_as(share), atol=1e-3), (
        "towards the next scene, all of it alike"
    )
    assert 0.35 < (share[:, 0] > 0).float().mean() < 0.65 and share.max() <= train_transformer.DRIFT + 1e-3
    assert not train_transformer.gone_wrong(clean, torch.full((200,), 0.3)).any()


def test_contrast_is_missed_where_a_picture_is_blurred_and_not_where_it_moved():
    torch.manual_seed(0)
    video = torch.rand(1, 3, 2, 32, 32) - 0.5
    blurred = F.avg_pool3d(F.pad(video, (1, 1, 1, 1)), (1, 3, 3), stride=1)
    mirrored, brighter = video.flip(-1), video + 0.3
    assert train_vae.contrast_loss(video, video) == 0
    assert train_vae.contrast_loss(brighter, video) < 1e-4
    assert train_vae.contrast_loss(mirrored, video) < 0.3 * train_vae.contrast_loss(blurred, video)


def test_batches_are_now_and_then_cut_to_the_shorter_size(tmp_path, monkeypatch):
    pool = LatentPool(VideoPool(tmp_path, 4, frames=13, height=32, width=32))
    shape = (4, *pool.shape)
    pool.path.write_bytes(np.arange(np.prod(shape), dtype=np.float16).tobytes())
    brief = LatentPool(VideoPool(tmp_path, 1, height=32, width=32, split="brief"))
    batches = train_transformer.Batches([pool], brief)
    for share, frames in ((0.0, 4), (1.0, train_transformer.SHORTER)):
        monkeypatch.setattr(train_transformer, "SHORTER_SHARE", share)
        batch = batches.draw(3)
        assert batch.clean.shape == (3, 16, frames, 4, 4)
        assert batch.subject.shape == batch.place.shape == (3, frames, 4, 4)
        for caption, place in zip(batch.captions, batch.place, strict=True):
            assert caption or not place.any()


def test_neighbours_in_a_batch_are_alike_and_come_with_their_traits(tmp_path):
    pool = LatentPool(VideoPool(tmp_path, 12, frames=13, height=32, width=32))
    rows = np.ones((12, *pool.shape), np.float16) * np.arange(12).reshape(-1, 1, 1, 1, 1)
    pool.path.write_bytes(rows.astype(np.float16).tobytes())
    brief = LatentPool(VideoPool(tmp_path, 1, height=32, width=32, split="brief"))
    batch = train_transformer.Batches([pool], brief).draw(16)
    scenes = [pool.videos.scene(int(latent[0, 0, 0, 0])) for latent in batch.clean]
    assert [scene.subject for scene in scenes] == sorted(scene.subject for scene in scenes)
    assert torch.equal(batch.traits, torch.stack([trait_parts(scene) for scene in scenes]))


def test_traits_missed_count_where_there_is_a_reader(tmp_path, monkeypatch):
    pool = LatentPool(VideoPool(tmp_path, 4, frames=13, height=32, width=32))
    pool.path.write_bytes(np.zeros((4, *pool.shape), np.float16).tobytes())
    brief = LatentPool(VideoPool(tmp_path, 1, height=32, width=32, split="brief"))
    reader, losses, asked = LatentReader(width=16).requires_grad_(False), [], []
    monkeypatch.setattr(
        reader, "mistake", lambda latents, parts: asked.append(latents) or 1000 + 0 * parts.sum(1)
    )
    monkeypatch.setattr(train_transformer, "train", lambda model, loss_of, **_: losses.append(loss_of(0)[0]))
    monkeypatch.setattr(train_transformer, "visibility", lambda vae, latents: torch.eye(16))
    encoder = load_text_encoder(small_text_encoder_state())
    monkeypatch.setattr(
        train_transformer, "SHAPE", replace(train_transformer.SHAPE, layers=2, text_dim=encoder.dim)
    )
    for read in (None, reader):
        batches = train_transformer.Batches([pool], brief)
        train_transformer.train_transformer(tmp_path, encoder, None, batches, minutes=1, batch=2, reader=read)
    assert losses[0] < 100 < 1000 * train_transformer.TRAITS_WEIGHT <= losses[1]
    assert asked[0].shape[:2] == (2, 16)


def test_while_noise_hides_a_subject_only_its_usual_place_counts():
    subject, place = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    hidden, clear = (train_transformer.weigh(subject, place, torch.full((3,), t)) for t in (0.95, 0.5))
    assert torch.equal(hidden, 1 + train_transformer.PLACE_WEIGHT * place)
    assert torch.equal(clear, 1 + train_transformer.SUBJECT_WEIGHT * subject)


def test_the_usual_place_is_the_mean_over_scenes_of_the_same_words(tmp_path):
    pools = [VideoPool(tmp_path, 12, frames=5, height=32, width=32, first_seed=seed) for seed in (0, 100)]
    covered = [pool.subjects() for pool in pools]
    places = train_transformer.mean_places(list(zip(pools, covered, strict=True)))
    scenes = [
        (pool.scene(i), cells[i]) for pool, cells in zip(pools, covered, strict=True) for i in range(12)
    ]
    for words, place in places.items():
        same = [cells for scene, cells in scenes if (scene.subject, scene.relation) == words]
        np.testing.assert_allclose(place.numpy(), np.mean(same, axis=0) / 255, atol=1e-6)
    assert not places["campfire", None].any() and len(places) > 4


def test_rounding_is_felt_in_the_step_and_gone_after_it():
    matrix = nn.Parameter(torch.randn(4, 256))
    exact = matrix.detach().clone()
    rounding = train_transformer.Rounding([matrix])
    rounding.dice.random = lambda: 0.0
    with rounding(3, 0.5):
        assert torch.equal(matrix, exact), "not yet"
    with rounding(4, 0.9):
        rounded = QuantizedTensor.from_weights(exact, "Q3_K").dequantize()
        assert torch.allclose(matrix, rounded, atol=1e-6) and not torch.equal(matrix, exact)
        (matrix * 2).sum().backward()
    assert torch.allclose(matrix, exact, atol=1e-6) and (matrix.grad == 2).all()
    rounding.dice.random = lambda: 0.99
    with rounding(5, 0.9):
        assert torch.allclose(matrix, exact, atol=1e-6), "not in every step"


@pytest.mark.full
def test_each_stage_of_the_command_hands_on_to_the_next(tmp_path, monkeypatch):
    """A step or a few of each, from no file at all to a model that paints; then to another machine."""
    monkeypatch.setattr(data, "TRAINING_POOLS", ((0, 16),))
    monkeypatch.setattr(command, "BRIEF_POOL", (500_000, 16))
    folder, assets, out = (tmp_path / name for name in ("training", "assets", "out"))
    assets.mkdir()

    def stage(name: str) -> None:
        paths = ("--folder", str(folder), "--assets", str(assets), "--out", str(out))
        assert command.main([name, "--minutes", "0.05", "--device", "cpu", *paths]) == 0

    learned = [stage for stage in command.STAGES if stage not in ("handover", "takeover")]
    masters = []
    for name in learned:
        stage(name)
        if name in ("transformer", "vace", "refine"):
            masters.append(read_tensors(assets / release.MASTER).tensors)
    for earlier, later in itertools.pairwise(masters):
        moved = {name for name in later if not torch.equal(earlier[name], later[name])}
        assert moved and all("vace" in name for name in moved)
    roles = {"transformer": release.QUANTISED, "text_encoder": release.TEXT_ENCODER, "vae": release.VAE}
    pipe = load("mini", **{role: assets / name for role, name in roles.items()})
    assert pipe.generate("a fire", steps=1).video.isfinite().all()
    stage("handover")
    folder = tmp_path / "elsewhere"
    stage("takeover")
    assert (folder / "transformer" / "used.txt").exists()
