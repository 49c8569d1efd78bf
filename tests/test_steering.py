"""Lesson 07's parts: its formulas are the kit's own, its pictures say what is in the file, its sliders paint."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from small import small_transformer_state

from wan_tutorial.errors import WanError
from wan_tutorial.exercises import lora as exercise
from wan_tutorial.lora import Change, Lora
from wan_tutorial.show import lora as pictures
from wan_tutorial.show import panel, style
from wan_tutorial.transformer import build_transformer

LAYERS = [f"blocks.{i}.{part}" for i in range(3) for part in ("self_attn.q", "ffn.0")] + [
    f"vace_blocks.0.{part}" for part in ("self_attn.q", "ffn.0", "after_proj")
]


def thin(tall=12, wide=8, rank=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rank, wide, generator=generator), torch.randn(tall, rank, generator=generator)


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_product_scale_and_merge_are_the_kits_own(alpha):
    down, up = thin()
    weight, x = torch.randn(12, 8), torch.randn(5, 8)
    change = Change(down=down, up=up, alpha=None if alpha is None else torch.tensor(alpha))
    scale = exercise.lora_scale(alpha, len(down), 0.7)
    torch.testing.assert_close(exercise.merge(weight, down, up, scale), change.added_to(weight, 0.7))
    torch.testing.assert_close(
        scale * exercise.low_rank(x, down, up), x @ change.of_weight((12, 8)).T * 0.7, atol=1e-5, rtol=1e-4
    )


def test_a_layer_that_wears_a_lora_answers_so():
    model = build_transformer(small_transformer_state())
    layer = model.blocks[1].attn1.to_q
    down, up = thin(layer.out_features, layer.in_features)
    x = torch.randn(1, 4, layer.in_features)
    with torch.no_grad():
        before = layer(x)
        worn = Lora("it", {"blocks.1.self_attn.q": Change(down=down, up=up)}).apply_to(model, 0.5)
        added = layer(x) - before
        worn.remove()
    torch.testing.assert_close(added[0], 0.5 * exercise.low_rank(x[0], down, up), atol=1e-4, rtol=1e-4)


def test_no_copy_of_the_same_rank_is_nearer():
    matrix = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    best = exercise.keep_rank(matrix, 2)
    assert torch.linalg.matrix_rank(best) == 2
    for seed in range(20):
        down, up = (torch.randn(s, generator=torch.Generator().manual_seed(seed)) for s in ((2, 6), (9, 2)))
        other = exercise.keep_rank(best + 0.1 * up @ down, 2)
        assert (matrix - best).norm() < (matrix - other).norm()


def changed(layers):
    return {name: 0.05 * (place + 1) for place, name in enumerate(layers)}


FIGURES = {
    "low rank": lambda: pictures.plot_low_rank(torch.randn(12, 8), *thin(), title="A layer"),
    "parts": lambda: pictures.plot_parts({"weight": torch.linspace(3, 1, 8), "update": torch.eye(8)[0]}),
    "layers": lambda: pictures.plot_layers(changed(LAYERS[:6]), LAYERS, title="Where it is"),
    "forty blocks": lambda: pictures.plot_layers(
        {"blocks.0.ffn.0": 0.1}, [f"{kind}blocks.{i}.ffn.0" for kind in ("", "vace_") for i in range(40)]
    ),
    "grid": lambda: pictures.plot_grid(
        [[np.full((8, 8, 3), -0.5)] * 3] * 2, rows="ab", columns="xyz", notes=[["1 s"] * 3] * 2, title="Both"
    ),
    "grid and goal": lambda: pictures.plot_grid(
        [[np.zeros((8, 8, 3))] * 3] * 2,
        rows="ab",
        columns="xyz",
        notes=[["1 s"] * 3] * 2,
        beside=(np.full((8, 8, 3), 0.5), "the goal", "20 steps"),
    ),  # fmt: skip
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_has_words_and_fits_the_page(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure) and len(figure.get_label()) > 15
    assert figure.get_figwidth() <= style.WIDTH + 1e-6
    assert style.to_array(figure, dots=50).std() > 1


def test_the_words_count_what_is_there():
    assert (
        "update 12 by 8, made of 60 numbers; weight 12 by 8, 96 numbers" in FIGURES["low rank"]().get_label()
    )
    assert "weight has 8 parts of 8" in FIGURES["parts"]().get_label()
    assert "update has 1 parts of 8" in FIGURES["parts"]().get_label()
    assert FIGURES["grid and goal"]().get_label().endswith("b: 1 s, 1 s, 1 s; beside it the goal, 20 steps.")
    words = FIGURES["layers"]().get_label()
    assert "6 of 9 layers are changed, by up to 30% of their weight" in words
    assert words.endswith("not changed are layers of vace_blocks.")
    everywhere = pictures.plot_layers(changed(LAYERS), LAYERS).get_label()
    assert everywhere.endswith("not changed are layers of none.")


def test_where_the_parts_of_an_update_end_a_line_says_so():
    update = torch.cat([torch.linspace(1, 0.2, 4), torch.zeros(12)])
    (axes,) = pictures.plot_parts({"weight": torch.linspace(1, 0.1, 16), "update": update}).axes
    assert [text.get_text().strip() for text in axes.texts] == ["part 4, the rank"]
    assert axes.lines[-1].get_xdata()[0] == 4


def test_only_layers_that_change_are_coloured():
    axes = FIGURES["layers"]().axes[0]
    grey = [patch for patch in axes.patches if len(set(patch.get_facecolor()[:3])) == 1]
    assert len(axes.patches) == 9 and len(grey) == 3


def test_a_slider_paints_anew(monkeypatch):
    monkeypatch.setattr(panel, "show_widget", lambda widget, static, *, alt: None)
    asked, meanwhile = [], []

    def paint(strengths):
        asked.append(dict(strengths))
        meanwhile.extend([it.parts["label"].value] if len(asked) > 1 else [])
        if strengths["speed"] > 1.5:
            raise WanError("too fast")
        return torch.full((5, 8, 8, 3), strengths["two words"] / 2)

    it = pictures.explore_loras(paint, {"speed": 1.0, "two words": 0.0}, fps=16)
    assert asked == [{"speed": 1.0, "two words": 0.0}]
    before = it.parts["image"].value
    it.controls["two words"].value = 0.5
    assert asked[-1] == {"speed": 1.0, "two words": 0.5} and it.parts["image"].value != before
    assert "speed 1, two words 0.5" in it.parts["image"].value
    assert meanwhile == ["Painting anew: the picture below is still the one before."]
    assert it.parts["label"].value == ""
    it.controls["speed"].value = 2.0
    assert it.parts["label"].value == "too fast" and len(meanwhile) == 2
