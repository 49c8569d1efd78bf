"""What lessons 06 and 11 stand on: the exercises' answers are the package's own, panels and boards show what happens."""

import signal

import numpy as np
import pytest
import torch
from small import small_vae_state
from torch import nn

from wan_tutorial.errors import WanError
from wan_tutorial.exercises import first, pixels, training
from wan_tutorial.mini.curves import read_curve
from wan_tutorial.mini.evaluate import measure_vae
from wan_tutorial.mini.loop import Budget, train, update_average
from wan_tutorial.mini.train_transformer import flow_matching_loss
from wan_tutorial.mini.train_vae import vae_loss
from wan_tutorial.mini.world import HELD_OUT, Scene
from wan_tutorial.show import pixels as pictures
from wan_tutorial.show import style
from wan_tutorial.show import training as watching
from wan_tutorial.vae import VaeShape, load_vae, new_autoencoder

LIVE = "application/vnd.jupyter.widget-view+json"


class Shown:
    """Stands in for a notebook's page: what was displayed, and what took its place later."""

    def __init__(self) -> None:
        self.pages: list[tuple[dict, dict]] = []

    def __call__(self, data, metadata, raw, display_id=None):
        assert raw
        self.pages.append((data, metadata))
        return self

    def update(self, data, *, metadata, raw):
        self(data, metadata, raw)


@pytest.fixture
def shown(monkeypatch) -> Shown:
    page = Shown()
    monkeypatch.setattr("IPython.display.display", page)
    return page


@pytest.fixture(scope="module")
def vae():
    return load_vae(small_vae_state())


# ------------------------------------------------------------ the solutions are what the package itself does


def test_psnr_is_what_the_evaluation_measures():
    videos = torch.rand(1, 1, 8, 8, 3) * 2 - 1
    copies, masks = videos + 0.1 * torch.randn_like(videos), torch.ones(1, 1, 8, 8)
    row = measure_vae(videos, masks, copies, [Scene()])["psnr"]
    assert pixels.psnr(videos[0], copies[0]) == pytest.approx(row["value"], abs=1e-3)


def test_eight_bits_squeeze_as_many_bits_as_numbers():
    for size in first.SIZES:
        assert pixels.compression_ratio(*size, 8) == pytest.approx(first.squeeze(*size))


def test_no_frame_before_the_first_changed_one_changes_at_all(vae):
    """Measured on a VAE with random weights: causality is built in, not learned."""
    latent = torch.randn(1, 16, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    before = vae.decode(latent)
    for frame in range(4):
        edited = latent.clone()
        edited[:, :, frame] += 1
        change = (vae.decode(edited) - before).abs().amax(dim=(0, 1, 3, 4))
        assert change.nonzero()[0].item() == pixels.first_changed(frame)


def test_the_flow_loss_is_the_one_that_trained_the_transformer(monkeypatch):
    clean, noise = torch.randn(2, 3, 16, 2, 4, 4).unbind()
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)
    theirs = flow_matching_loss(lambda x, time, text: 0.5 * x, clean, None, torch.full((3,), 0.4)).mean()
    torch.testing.assert_close(training.flow_loss(lambda x, t: 0.5 * x, clean, noise, 0.4), theirs)


def test_the_moving_average_is_the_loops_own():
    average, model = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = training.moving_average(average.weight.detach().clone(), model.weight.detach(), 0.9)
    update_average(average, model, 0.9)
    torch.testing.assert_close(average.weight.detach(), expected)


# ----------------------------------------------------------------------------------------- the latent-frame editor


def test_the_editor_shows_the_frames_that_change_and_no_others(shown, vae):
    latent = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    asked = []

    def decode(one):
        asked.append(one)
        return vae.decode(one)[0].permute(1, 2, 3, 0)

    panel = pictures.explore_latent_frames(latent, decode, {"zeros": torch.zeros_like(latent)}, frame=1)
    data, metadata = shown.pages[0]
    assert LIVE in data and metadata["image/jpeg"]["alt"] == data["text/plain"]
    assert "frames that change: 1 to 8" in data["text/plain"]
    for frame, told in ((2, "5 to 8"), (0, "0 to 8")):
        panel.controls["frame"].value = frame
        assert f"frames that change: {told}" in panel.parts["image"].value
        assert torch.equal(asked[-1][:, :, frame], torch.zeros(1, 16, 2, 2))
        kept = [i for i in range(3) if i != frame]
        assert torch.equal(asked[-1][:, :, kept], latent[:, :, kept])
    panel.controls["amount"].value = 0.0
    assert "frames that change: none" in panel.parts["image"].value


def test_what_does_not_change_stays_white_in_the_table_of_reach():
    figure = pictures.plot_reach(
        np.triu(np.ones((3, 5))), rows="latent frame", columns="frame", title="Reach"
    )
    assert "0 reaches 0 to 4, 1 reaches 1 to 4, 2 reaches 2 to 4" in figure.get_label()
    drawn = figure.axes[0].images[0].get_array()
    assert np.ma.getmaskarray(np.ma.masked_invalid(drawn)).sum() == 3
    with pytest.raises(WanError, match="from 0 up"):
        pictures.plot_reach(-np.ones((2, 2)), rows="a", columns="b")


# ------------------------------------------------------------------------------------------------ watched training


def train_line(board, folder, minutes=1.0, each=lambda step: None):
    """Fit y = 2x under a board's eyes."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)

    def loss_of(step):
        each(step)
        x = torch.randn(16, 1)
        return (model(x) - 2 * x).square().mean(), {"error": (model.weight - 2).abs().item()}

    budget = Budget(minutes, learning_rate=0.1, warmup_steps=1)
    return train(model, loss_of, budget=budget, folder=folder, watch=board)


def grey(network):
    """One picture, brighter as the weight nears 2."""
    return np.full((1, 8, 8, 3), np.clip(100 * network.weight.item(), 0, 255), np.uint8)


TARGET = np.full((1, 8, 8, 3), 200, np.uint8)


def test_stop_keeps_what_was_learned_and_the_minutes_that_are_left(shown, tmp_path):
    with watching.TrainingBoard(TARGET, grey, figure="error", y="error") as board:
        press = lambda step: board.stop() if step == 40 else None  # noqa: E731
        network = train_line(board, tmp_path, each=press)
    assert board.stopped and len(board.values) == 41
    assert (network.weight - 2).abs() < 1.2 and board.values[-1] < board.values[0]
    steps, minutes = (tmp_path / "used.txt").read_text().split()
    assert steps == "41" and float(minutes) < 0.5
    assert "kept" in board._said.value
    with watching.TrainingBoard(TARGET, grey, figure="error", y="error") as board:
        train_line(board, tmp_path, minutes=float(minutes) + 0.005)
    assert board.minutes[0] >= float(minutes) and not board.stopped  # goes on where it was
    with watching.TrainingBoard(TARGET, grey, figure="error", y="error") as board:
        train_line(board, tmp_path, minutes=float(minutes))
    assert not board.pages and "no minutes are left" in board._said.value


def test_an_interrupt_of_the_kernel_stops_and_keeps(shown, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with watching.TrainingBoard(TARGET, grey) as board:
        train_line(board, tmp_path, each=lambda s: signal.raise_signal(signal.SIGINT) if s == 5 else None)
    assert board.stopped and len(board.values) == 6
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), watching.TrainingBoard(TARGET, grey):  # asked twice
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_picture_moves_and_the_last_one_stays_on_the_page(shown, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(watching.time, "monotonic", lambda: 3.0 * next(clock))
    with watching.TrainingBoard(TARGET, grey, figure="error", y="error of the slope") as board:
        train_line(board, tmp_path, minutes=6)
    assert len(board.pages) >= 3 and len({page.tobytes() for page in board.pages.values()}) > 2
    assert len(board.pages) == len(board.copies) and len(board.history(2)) == 2
    (start, _), (data, metadata) = shown.pages
    assert "image/jpeg" not in start and data[LIVE] == start[LIVE]
    assert (
        metadata["image/jpeg"]["alt"] == data["text/plain"]
        and "error of the slope from" in data["text/plain"]
    )


def test_the_history_is_close_where_most_is_learned():
    board = watching.TrainingBoard(TARGET, grey)
    board.copies = {float(second): TARGET for second in range(0, 181, 5)}
    assert list(board.history(5)) == [0, 5, 15, 55, 180] and list(board.history(2)) == [0, 180]
    assert board.history(100) == board.copies
    told = "to copy, after 0 s, after 5 s, after 15 s, after 55 s, after 180 s"
    assert told in board.plot_history().get_label()


def test_single_frames_train_all_but_the_convolutions_in_time(tmp_path):
    """They meet no gradient, and Muon leaves them alone."""
    model = new_autoencoder(VaeShape(8, 1))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    frame = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    kernels = [weight for weight in model.parameters() if weight.ndim >= 4 and weight.shape[0] >= 8]
    train(
        model,
        lambda step: (vae_loss(model, frame, narrow=False)[0], {}),
        budget=Budget(1.0, warmup_steps=1, weight_decay=0.0),
        folder=tmp_path,
        orthogonal=kernels,
        watch=lambda moment: moment.step == 2,
    )
    rest = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert rest and all("time_conv" in name for name in rest)


def test_a_lesson_trains_for_what_it_says_or_for_what_the_tests_ask(monkeypatch):
    monkeypatch.delenv("WAN_TUTORIAL_MINUTES", raising=False)
    assert watching.training_minutes(3) == 3
    monkeypatch.setenv("WAN_TUTORIAL_MINUTES", "0.2")
    assert watching.training_minutes(3) == 0.2


def test_a_moment_has_words_and_fits_the_page():
    made = np.zeros((4, 32, 32, 3), np.uint8)
    figure = watching.plot_moment([0.1, 0.2], [9.0, 12.0], made, made, y="PSNR (dB)", title="After 6 s")
    assert "PSNR (dB) from 9.0 to" in figure.get_label()
    assert all(axes.get_position().x1 <= 1 for axes in figure.axes)
    assert style.to_array(figure, dots=50).std() > 1


def test_a_curve_forgets_what_was_done_again(tmp_path):
    rows = "1,0.1,9\n2,0.2,8\n3,0.3,7\n2,0.25,6\n3,0.4,5\n"  # cut after step 3, and gone on from step 1
    (tmp_path / "progress.csv").write_text("step,minutes,loss\n" + rows)
    minutes, losses = read_curve(tmp_path / "progress.csv", "loss")
    assert minutes.tolist() == [0.1, 0.2, 0.25, 0.4] and losses.tolist() == [9, 8, 6, 5]


# -------------------------------------------------------------------------------------------------- the fireside


def test_the_scene_explorer_draws_and_captions_what_is_chosen(shown):
    panel = watching.explore_scene(subject="axe", setting="snow", relation="beside")
    assert panel.controls["relation"].value == "beside"
    said = shown.pages[0][0]["text/plain"]
    assert said.startswith("A scene: ") and any(word in said for word in ("axe", "hatchet"))
    before = panel.parts["image"].value
    panel.controls["setting"].value = "shore"
    shore = panel.parts["image"].value
    assert shore != before and any(word in shore for word in ("shore", "sea", "beach", "ocean"))
    panel.controls["subject"].value = "campfire"  # stands neither in the fire nor beside it
    assert panel.parts["label"].value == "" and panel.parts["image"].value != shore
    plain = panel.parts["image"].value
    panel.controls["defect"].value = "blurry"
    assert panel.parts["image"].value != plain
    panel.controls["defect"].value = "none"
    assert panel.controls["defect"].index == 0 and panel.parts["image"].value == plain
    assert ("campfire", "orange", "shore") not in HELD_OUT
