"""Looking inside: tables that add up, taps that change nothing, solutions that are the model's own, pictures with words."""

import inspect

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from small import TRANSFORMER, small_transformer_state

from wan_tutorial import show, taps
from wan_tutorial.errors import WanError
from wan_tutorial.exercises import attention as exercise
from wan_tutorial.show import attention, inside, panel, style
from wan_tutorial.transformer import build_transformer, rope_table

GRID, WORDS = (3, 2, 4), 7  # tokens: frames, rows, columns; rows of text
SPOT = (1, 0, 3)


@pytest.fixture(scope="module")
def model():
    return build_transformer(small_transformer_state())


@pytest.fixture(scope="module")
def asked():
    generator = torch.Generator().manual_seed(4)
    latent = torch.randn(1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2], generator=generator)
    return latent, 0.7, torch.randn(WORDS, 256, generator=generator)


@pytest.fixture(scope="module")
def seen(model, asked):
    return taps.look_inside(model, *asked, spot=SPOT)


def answer(model, asked, **kwargs):
    latent, sigma, words = asked
    with torch.no_grad():
        return model(latent, torch.tensor([1000 * sigma]), words[None], **kwargs)


# ------------------------------------------------------------------------------------------------------- tables


def test_every_table_is_shares_that_add_up(seen):
    assert list(seen.words) == list(seen.frames) == list(seen.spots) == list(range(TRANSFORMER.layers))
    for block in range(TRANSFORMER.layers):
        assert seen.words[block].shape == (*GRID, WORDS)
        assert seen.frames[block].shape == (2, GRID[0], GRID[0])
        assert seen.spots[block].shape == (2, *GRID)
        torch.testing.assert_close(seen.words[block].sum(-1), torch.ones(GRID))
        torch.testing.assert_close(seen.frames[block].sum(-1), torch.ones(2, GRID[0]))
        torch.testing.assert_close(seen.spots[block].sum(dim=(1, 2, 3)), torch.ones(2))


def test_tables_are_the_whole_attention_summed(model, asked, seen):
    """Against the naive way: the whole (tokens, tokens) table of every head at once."""
    kept = {}
    answer(model, asked, taps=lambda name, query, key: kept.update({name: (query[0], key[0])}))
    query, key = kept["blocks.2.self_attn"]
    whole = (query @ key.transpose(1, 2) / 128**0.5).softmax(-1)  # (heads, T, T)
    by_frame = whole.view(2, GRID[0], 8, GRID[0], 8).sum(-1).mean(2)
    torch.testing.assert_close(seen.frames[2], by_frame)
    place = (SPOT[0] * GRID[1] + SPOT[1]) * GRID[2] + SPOT[2]
    torch.testing.assert_close(seen.spots[2], whole[:, place].view(2, *GRID))
    query, key = kept["blocks.1.cross_attn"]
    words = (query @ key.transpose(1, 2) / 128**0.5).softmax(-1).mean(0)
    torch.testing.assert_close(seen.words[1], words.view(*GRID, WORDS))


def test_looking_changes_nothing_and_blocks_can_be_chosen(model, asked):
    plain = answer(model, asked)
    few = taps.look_inside(model, *asked, blocks=(1,))
    assert list(few.words) == [1] and torch.equal(answer(model, asked), plain)
    assert torch.equal(answer(model, asked, taps=lambda *_: None), plain)


def test_a_word_map_counts_among_words_alone():
    table = torch.tensor([0.1, 0.3, 0.2, 0.4]).expand(
        1, 1, 2, 4
    )  # two words in three rows, then an empty row
    one = taps.word_map({0: table, 5: table}, [1, 2], 3)
    torch.testing.assert_close(one, torch.full((1, 1, 2), 0.5 / 0.6))


def test_modulation_is_what_the_blocks_use(model):
    told = taps.modulation(model, 0.7)
    assert told.shape == (TRANSFORMER.layers, len(taps.MODULATION), TRANSFORMER.dim)
    assert not torch.allclose(told, taps.modulation(model, 0.1))
    with torch.no_grad():
        _, shared = model._embed_time(torch.tensor([700.0]))
    torch.testing.assert_close(told[3], (model.blocks[3].scale_shift_table + shared)[0].detach())


# ------------------------------------------------------------------------------------------------------ exercises


def test_patches_and_one_matrix_are_the_patch_embedding(model, asked):
    latent, embedding = asked[0], model.patch_embedding
    mine = exercise.patchify(latent[0]) @ embedding.weight.flatten(1).T + embedding.bias
    torch.testing.assert_close(mine, embedding(latent).flatten(2).transpose(1, 2)[0], atol=1e-4, rtol=1e-4)


def test_rotary_angles_are_the_models_turns():
    table = rope_table(GRID, torch.device("cpu")).view(*GRID, 64)
    for place in ((0, 0, 0), (2, 1, 3), SPOT):
        mine = torch.polar(torch.ones(64), exercise.rotary_angles(*place))
        torch.testing.assert_close(table[place], mine, atol=1e-5, rtol=1e-5)


def test_attention_weights_are_the_kits():
    query, key = torch.randn(2, 6, 128, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(exercise.attention_weights(query, key), taps.shares(query, key))


# ------------------------------------------------------------------------------------------------------- pictures


def video(frames: int = 9) -> torch.Tensor:
    return torch.rand(frames, 32, 64, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_every_plot_has_words_and_fits_the_page(seen):
    latent = torch.randn(1, 16, *[3, 4, 8])
    sigmas = [1.0, 0.5, 0.0]
    figures = [
        inside.plot_transformer(GRID, channels=16, dim=256, blocks=4, words=7),
        inside.plot_patches(attention.latent_moments(video()), latent, token=9),
        inside.plot_clocks([exercise.rotary_angles(0, row, 0)[22:43] for row in range(4)], axis="row"),
        inside.plot_modulation({name: torch.rand(3, 4) for name in taps.MODULATION}, sigmas),
        inside.plot_frame_tables(seen.frames),
        attention.plot_light({"one": seen.spots[0][0], "two": seen.spots[1][1]}, video(), spot=SPOT),
    ]
    for figure in figures:
        assert isinstance(figure, Figure) and figure.get_figwidth() <= style.WIDTH
        assert len(figure.get_label()) > 15 and style.to_array(figure, dots=40).std() > 1
    assert "24 tokens of 256 numbers" in figures[0].get_label()
    assert "token 9 in frame 1, row 0, column 1" in figures[1].get_label()


def test_moments_are_one_frame_for_each_latent_frame():
    frames = np.arange(13, dtype=np.uint8).reshape(13, 1, 1, 1) * np.ones((1, 4, 4, 3), np.uint8)
    assert attention.latent_moments(frames)[:, 0, 0, 0].tolist() == [0, 3, 7, 11]


def test_light_falls_on_the_token_that_is_looked_at():
    moments = np.full((3, 32, 64, 3), 128, np.uint8)
    shares = torch.full((3, 2, 4), 0.01)
    shares[2, 1, 3] = 1.0
    lit, low, high = attention.light_map(shares, moments)
    assert lit[2, 16:, 48:].mean() > 2 * lit[2, :16].mean() and lit[0].std() == pytest.approx(lit[1].std())
    assert high == pytest.approx(24 * 1.0 / 1.23) and low == pytest.approx(24 * 0.01 / 1.23)
    _, low, high = attention.light_map(torch.ones(3, 2, 4), moments)
    assert (low, high) == (attention.WEAKEST, 1 / attention.WEAKEST)  # nothing differs: nothing is blown up
    with pytest.raises(WanError, match="as many pictures, not 2"):
        attention.light_map(shares, moments[:2])


def test_the_video_lights_no_square_of_a_map():
    """Bright and dark places of the video have the same colour where the map is the same; a line parts them."""
    moments = np.zeros((3, 32, 64, 3), np.uint8)
    moments[:, :, 32:] = 230
    lit, _, _ = attention.light_map(torch.ones(3, 2, 4), moments)
    assert (lit[:, :, :28] == lit[0, 0, 0]).all() and (lit[:, :, 36:] == lit[0, 0, 0]).all()
    lined = (lit[0] != lit[0, 0, 0]).any(axis=-1)
    assert lined.any(axis=1).all() and lined.sum() == 32


def test_words_are_found_in_pieces():
    pieces = ("\u2581a", "\u2581sword", "fish", ",", "\u2581in", "\u2581a", "\u2581fire", "</s>")
    assert attention.word_rows(pieces) == {
        "a": [0],
        "swordfish": [1, 2],
        "in": [4],
        "a (2)": [5],
        "fire": [6],
    } or (attention.word_rows(pieces) == {"a": [0], "sword": [1, 2], "in": [4], "a (2)": [5], "fire": [6]})


def test_the_explorer_paints_what_its_pickers_say(monkeypatch, seen):
    caught = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, metadata, raw: caught.append((data, metadata))
    )
    pieces = ("\u2581a", "\u2581red", "\u2581fire", "</s>")
    looks, guesses = {"0": seen.words, "8": seen.words}, {"0": video(), "8": -video()}
    board = show.explore_attention(looks, guesses, pieces, word="fire")
    before = board.parts["image"].value
    values = {}
    for name, value in (("word", "red"), ("step", "8"), ("layer", "2")):
        board.controls[name].value = value
        values[name] = board.parts["image"].value
    assert len({before, *values.values()}) == 4
    assert "the word &#x27;red&#x27; at step 8, layer: 2" in values["layer"]
    data, metadata = caught[0]
    assert "image/jpeg" in data and metadata["image/jpeg"]["alt"] == data["text/plain"]
    with pytest.raises(WanError, match="'axe' is not in the prompt: choose one of a, red, fire"):
        show.explore_attention(looks, guesses, pieces, word="axe")


def test_a_panel_says_errors_and_goes_on(monkeypatch):
    import ipywidgets

    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: None)

    def draw(level: int) -> tuple[np.ndarray, str]:
        if level == 3:
            raise WanError("Three is too much.")
        return np.full((4, 4, 3), 20 * level, np.uint8), f"level {level}"

    board = panel.Panel({"level": ipywidgets.IntSlider(value=1, max=5)}, draw).show()
    first = board.parts["image"].value
    board.controls["level"].value = 3
    assert board.parts["label"].value == "Three is too much." and board.parts["image"].value == first
    board.controls["level"].value = 4
    assert board.parts["label"].value == "" and 'alt="level 4"' in board.parts["image"].value


def test_taps_stay_readable():
    assert len(inspect.getsource(taps.look_inside).splitlines()) <= 45
