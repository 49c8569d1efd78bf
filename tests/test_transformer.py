"""The transformer: names, shapes, our forward beside diffusers', packed weights, precision, training, errors."""

import weakref
from operator import attrgetter

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from full_size import compute_on_meta
from small import TEXT_TO_VIDEO, TRANSFORMER, packed, small_transformer_state

from wan_tutorial import transformer
from wan_tutorial.errors import WanError
from wan_tutorial.files import read_tensors
from wan_tutorial.lora import Change, Lora
from wan_tutorial.machine.weights import MINI, find_files
from wan_tutorial.quantization import QuantizedLinear, QuantizedTensor, packed_linears
from wan_tutorial.transformer import (
    FLOAT32_PARTS,
    BlocksInRam,
    TransformerShape,
    WanTransformer,
    build_transformer,
    new_transformer,
    rope_table,
    start_vace_blocks,
)


@pytest.fixture(scope="module")
def state():
    return small_transformer_state()


@pytest.fixture(scope="module")
def model(state):
    return build_transformer(state)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 16, 3, 6, 8, generator=generator)
    text = torch.randn(2, 7, 256, generator=generator)
    return latent, torch.tensor([987.3, 12.0]), text


@pytest.fixture(scope="module")
def context():
    return torch.randn(2, 96, 3, 6, 8, generator=torch.Generator().manual_seed(2))


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def reference(state):
    model = WanVACETransformer3DModel(
        num_attention_heads=2, text_dim=256, ffn_dim=512, num_layers=4, vace_layers=[0, 2]
    )
    model.load_state_dict(convert_wan_transformer_to_diffusers(dict(state)), strict=True)
    return model.eval()


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_forward_equals_diffusers_with_a_context(model, reference, inputs, context, strength):
    latent, timestep, text = inputs
    with torch.no_grad():
        ours = model(latent, timestep, text, vace_context=context, vace_strength=strength)
        scale = torch.full((2,), strength)
        theirs = reference(
            latent, timestep, text, control_hidden_states=context, control_hidden_states_scale=scale
        ).sample
    assert ours.shape == latent.shape and relative(ours, theirs) < 1e-5


def test_forward_without_context_is_the_plain_model(model, reference, inputs, context):
    latent, timestep, text = inputs
    with torch.no_grad():
        ours = model(latent, timestep, text)
        theirs = reference(
            latent, timestep, text, control_hidden_states=context, control_hidden_states_scale=torch.zeros(2)
        ).sample
        silent = model(latent, timestep, text, vace_context=context, vace_strength=0.0)
    assert relative(ours, theirs) < 1e-5 and relative(silent, ours) < 1e-6


def test_each_vace_block_may_have_its_own_strength(model, reference, inputs, context):
    latent, timestep, text = inputs
    with torch.no_grad():
        ours = model(latent, timestep, text, vace_context=context, vace_strength=(0.2, 0.9))
        theirs = reference(
            latent,
            timestep,
            text,
            control_hidden_states=context,
            control_hidden_states_scale=torch.tensor([0.2, 0.9]),
        ).sample
    assert relative(ours, theirs) < 1e-5


def test_names_go_there_and_back_and_equal_diffusers(state, model):
    assert set(model.state_dict_wan_names()) == set(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict_wan_names().items())
    own = model.state_dict()
    theirs = convert_wan_transformer_to_diffusers(dict(state))
    assert set(own) == set(theirs) and all(torch.equal(own[name], theirs[name]) for name in own)


def test_the_real_model_has_its_1331_tensors():
    with torch.device("meta"):
        model = WanTransformer(TransformerShape())
    names = {wan: model.get_parameter(own) for wan, own in model.wan_names().items()}
    assert len(names) == 1331
    assert sum(parameter.numel() for parameter in names.values()) == 17_337_592_896
    assert TransformerShape.of(names) == TransformerShape()
    assert TransformerShape().vace_layers == (0, 5, 10, 15, 20, 25, 30, 35)
    assert names["blocks.39.norm3.weight"].shape == (5120,)
    assert names["vace_blocks.0.before_proj.weight"].shape == (5120, 5120)
    assert "vace_blocks.1.before_proj.weight" not in names


def test_plain_text_to_video_files_load_and_refuse_a_context(inputs, context):
    model = build_transformer(small_transformer_state(TEXT_TO_VIDEO))
    assert model.shape == TEXT_TO_VIDEO and model.shape.vace_layers == ()
    with torch.no_grad():
        assert model(*inputs).shape == inputs[0].shape
    with pytest.raises(WanError, match="no VACE blocks"):
        model(*inputs, vace_context=context)


def test_packed_weights_widened_or_not_give_the_same(state, inputs, context):
    file = packed(state, "Q3_K")
    fly, wide = build_transformer(file), build_transformer(file, widen_budget_bytes=10**9)
    some = build_transformer(file, widen_budget_bytes=8_000_000)
    dense = build_transformer(
        {n: t.dequantize() if isinstance(t, QuantizedTensor) else t for n, t in file.items()}
    )
    with torch.no_grad():
        expected = dense(*inputs, vace_context=context)
        for model in (fly, wide, some):
            assert relative(model(*inputs, vace_context=context), expected) < 1e-6
    layers = 6 * 10 + 3  # q k v o twice, two of the feed-forward; before_proj once, after_proj twice
    held = [[layer.widened is not None for layer in packed_linears(model)] for model in (fly, some, wide)]
    assert not any(held[0]) and 0 < sum(held[1]) < sum(held[2]) == len(held[2]) == layers
    assert isinstance(fly.blocks[0].attn1.to_q, QuantizedLinear)
    stored = fly.state_dict_wan_names()["blocks.0.self_attn.q.weight"]
    assert torch.equal(stored.raw, file["blocks.0.self_attn.q.weight"].raw)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_keeps_the_named_parts_in_float32(state, model, inputs, context, dtype, limit):
    half = build_transformer(state, compute_dtype=dtype)
    with torch.no_grad():
        ours, expected = half(*inputs, vace_context=context), model(*inputs, vace_context=context)
    assert ours.dtype == torch.float32 and relative(ours, expected) < limit
    kinds = {wan: half.get_parameter(own).dtype for wan, own in half.wan_names().items()}
    for name in (
        "patch_embedding.weight",
        "time_embedding.0.weight",
        "blocks.0.norm3.weight",
        "head.head.weight",
    ):
        assert kinds[name] == torch.float32
    for name in ("blocks.0.modulation", "head.modulation", "vace_blocks.1.self_attn.norm_q.weight"):
        assert kinds[name] == torch.float32
    for name in ("blocks.0.ffn.0.weight", "text_embedding.0.weight", "time_projection.1.weight"):
        assert kinds[name] == dtype


def test_packed_and_half_precision_together_agree(state, inputs, context):
    file = packed(state, "Q8_0") | {
        "time_embedding.2.weight": QuantizedTensor.from_weights(state["time_embedding.2.weight"], "Q8_0")
    }
    fly = build_transformer(file, compute_dtype=torch.bfloat16)
    wide = build_transformer(file, compute_dtype=torch.bfloat16, widen_budget_bytes=10**9)
    with torch.no_grad():
        assert torch.equal(fly(*inputs, vace_context=context), wide(*inputs, vace_context=context))
    assert fly.condition_embedder.time_embedder.linear_2.weight.dtype == torch.float32


def test_tokens_know_their_place():
    """Rope turns tokens apart: distances in time, rows and columns alone decide the product of two tokens."""
    table = rope_table((2, 3, 4), torch.device("cpu")).view(2, 3, 4, 64)
    assert torch.allclose(table.abs(), torch.ones(()))
    assert torch.allclose(table[0, 0, 0], torch.ones(64, dtype=torch.complex64))
    one = table[1, 2, 3] * table[0, 1, 2].conj()
    assert torch.allclose(one, table[1, 1, 1], atol=1e-6)
    assert torch.allclose(table[1, 0, 0, 22:], torch.ones(42, dtype=torch.complex64))


def test_taps_see_every_attention(model, inputs, context):
    seen = {}
    with torch.no_grad():
        plain = model(*inputs, vace_context=context)
        tapped = model(
            *inputs, vace_context=context, taps=lambda name, query, key: seen.update({name: (query, key)})
        )
        assert torch.equal(plain, tapped)
        model(*inputs)
    assert len(seen) == 12
    query, key = seen["vace_blocks.1.cross_attn"]
    assert query.shape == (2, 2, 36, 128) and key.shape == (2, 2, 7, 128)


def test_new_model_predicts_zero_and_learns_under_autocast(inputs, context):
    model = new_transformer(TRANSFORMER)
    with torch.no_grad():
        assert not model(*inputs, vace_context=context).any()
    torch.nn.init.normal_(model.proj_out.weight, std=0.02)
    torch.nn.init.normal_(model.vace_blocks[0].proj_out.weight, std=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        loss = (model(*inputs, vace_context=context) - inputs[0]).square().mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_vace_blocks_start_as_silent_copies(inputs, context):
    model = new_transformer(TRANSFORMER)
    torch.nn.init.normal_(model.proj_out.weight, std=0.02)
    start_vace_blocks(model)
    assert torch.equal(model.vace_blocks[1].attn1.to_q.weight, model.blocks[2].attn1.to_q.weight)
    with torch.no_grad():
        assert torch.equal(model(*inputs, vace_context=context), model(*inputs))


def test_wrong_files_are_explained(state):
    without = {name: tensor for name, tensor in state.items() if name != "blocks.1.ffn.2.bias"}
    with pytest.raises(WanError, match="needs 185 tensors, but 1 are not in this file .blocks.1.ffn.2.bias"):
        build_transformer(without)
    for name, wrong in (
        ("text_embedding.0.weight", torch.ones(3)),
        ("patch_embedding.weight", torch.tensor(1.0)),
        ("head.modulation", torch.ones(1, 2, 0)),
    ):
        with pytest.raises(WanError, match="of shape|heads of 128"):
            build_transformer(state | {name: wrong})
    with pytest.raises(WanError, match="this file lacks head.modulation"):
        build_transformer({"encoder.conv1.weight": torch.zeros(1)})
    with pytest.raises(WanError, match="no place for 1 of this file's tensors .blocks.0.lora"):
        build_transformer(state | {"blocks.0.lora": torch.zeros(1)})
    with pytest.raises(
        WanError, match=r"expects blocks.0.ffn.0.bias of shape \(512,\), but this file has \(5,\)"
    ):
        build_transformer(state | {"blocks.0.ffn.0.bias": torch.zeros(5)})
    for lost in ("patch_embedding.weight", "vace_patch_embedding.weight"):
        with pytest.raises(WanError, match=f"has lost {lost}: some converters .* five dimensions"):
            build_transformer({name: tensor for name, tensor in state.items() if name != lost})
    with pytest.raises(WanError, match="image-to-video"):
        build_transformer(state | {"img_emb.proj.0.weight": torch.zeros(1)})
    for channels in (36, 48):  # Wan 2.2's image-to-video, without img_emb, and its 5B model
        with pytest.raises(
            WanError, match=f"latents of 16 channels, and this one takes {channels}, as image-to-video"
        ):
            build_transformer(state | {"patch_embedding.weight": torch.zeros(256, channels, 1, 2, 2)})
    flat = state["vace_patch_embedding.weight"].flatten(0, 1)
    with pytest.raises(
        WanError, match=r"vace_patch_embedding.weight has five dimensions, and .* \(24576, 1, 2, 2\)"
    ):
        build_transformer(state | {"vace_patch_embedding.weight": flat})
    with pytest.raises(WanError, match="scaled fp8, which is read for the text encoder alone: choose a GGUF"):
        build_transformer(state | {"blocks.0.ffn.0.scale_weight": torch.ones(())})


def test_wrong_inputs_are_explained(model, inputs, context):
    latent, timestep, text = inputs
    with pytest.raises(WanError, match="even height and width"):
        model(latent[..., :5, :], timestep, text)
    with pytest.raises(
        WanError, match=r"embeddings of 256 numbers .* gives 128: the two belong to different models"
    ):
        model(latent, timestep, text[..., :128])
    with pytest.raises(WanError, match="VACE context of this latent has shape"):
        model(latent, timestep, text, vace_context=context[:, :, :2])
    with pytest.raises(WanError, match="one for each of 2 VACE blocks"):
        model(latent, timestep, text, vace_context=context, vace_strength=(1.0, 1.0, 1.0))
    with pytest.raises(WanError, match="multiple of it, not 200"):
        TransformerShape(dim=200)
    with pytest.raises(WanError, match="3 does not divide 8"):
        TransformerShape(dim=256, layers=8, vace_blocks=3)


# ------------------------------------------------------------------------------------------ where memory is short


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_that_visit_give_the_same_to_the_bit_and_are_two_at_most(
    state, inputs, context, monkeypatch, dtype
):
    file = packed(state)
    alive, most, copies = set(), [], BlocksInRam._copies

    def counted(self, block):
        here = copies(self, block)
        alive.add(id(block))
        weakref.finalize(next(iter(here.values())), alive.discard, id(block))
        most.append(len(alive))
        return here

    monkeypatch.setattr(BlocksInRam, "_copies", counted)
    resting = build_transformer(file, compute_dtype=dtype)
    visiting = build_transformer(file, compute_dtype=dtype, blocks_in_ram=True)
    lora = Lora("some", {"blocks.1.ffn.0": Change(weight=torch.randn(512, 256), bias=torch.randn(512)),
                         "blocks.2.norm3": Change(weight=torch.randn(256))})  # fmt: skip
    with torch.no_grad():
        for given in (context, None):
            assert torch.equal(visiting(*inputs, vace_context=given), resting(*inputs, vace_context=given))
        before = resting(*inputs)
        for model in (resting, visiting):
            lora.apply_to(model, 0.5)
        assert torch.equal(visiting(*inputs), resting(*inputs)) and relative(resting(*inputs), before) > 1e-3
    assert len(most) == 6 + 4 + 4 and most[0] == 1 and set(most[1:]) == {2}


def test_every_tensor_of_a_visiting_block_comes_to_the_device(state, inputs, context, monkeypatch):
    """Were one left behind, its product with tensors on another device would fail."""
    compute_on_meta(monkeypatch)
    model = build_transformer(packed(state), device="meta", blocks_in_ram=True)
    with torch.no_grad():
        velocity = model(*(each.to("meta") for each in inputs), vace_context=context.to("meta"))
    assert velocity.device.type == "meta" and velocity.shape == inputs[0].shape
    assert {tensor.device.type for tensor in model.blocks.state_dict().values()} == {"cpu"}


def test_a_stop_inside_a_visiting_block_leaves_the_model_whole(state, inputs, monkeypatch):
    model = build_transformer(state, blocks_in_ram=True)
    with torch.no_grad():
        before = model(*inputs)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(
                model.blocks[2].ffn, "forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())
            )
            model(*inputs)
        assert torch.equal(model(*inputs), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict_wan_names().items())


def test_a_feed_forward_in_parts_is_the_whole_one(model, inputs, context, monkeypatch):
    with torch.no_grad():
        whole = model(*inputs, vace_context=context)
        monkeypatch.setattr(transformer, "feed_forward_parts", lambda *_: 5)
        asked = []
        hook = (
            model.blocks[0]
            .ffn.net[2]
            .register_forward_hook(lambda _layer, x, _y: asked.append(x[0].shape[1]))
        )
        parts = model(*inputs, vace_context=context)
        hook.remove()
    assert asked == [8, 8, 8, 8, 4] and relative(parts, whole) < 1e-6


# ------------------------------------------------------------------------------------------------ half precision


def look(model):
    """One guided look of a small model, the same for all."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 16, 2, 8, 8, generator=generator)
    text = torch.randn(1, 12, 256, generator=generator)
    context = torch.randn(1, 96, 2, 8, 8, generator=generator)
    return model(latent, torch.tensor([700.0]), text, vace_context=context)


def test_float16_survives_an_outlier_in_the_residual_stream():
    """A channel far beyond 65504, as large models have: the stream is float32, so it does no harm."""
    state = small_transformer_state()
    state["patch_embedding.bias"][3] = 3e5
    for dtype, given in ((torch.float16, state), (torch.float16, packed(state)), (torch.bfloat16, state)):
        exact = look(build_transformer(given))
        half = look(build_transformer(given, compute_dtype=dtype))
        assert half.isfinite().all()
        assert (half - exact).norm() / exact.norm() < (0.01 if dtype == torch.float16 else 0.05)


@pytest.mark.parametrize(
    "planted, named",
    [
        ("blocks.1.ffn.0", "blocks.1.ffn.0"),
        ("vace_blocks.1.self_attn.v", "vace_blocks.1.self_attn.v"),
        ("text_embedding.2", "text_embedding.2"),
    ],
)
def test_float16_that_overflows_names_the_layer(planted, named):
    """An outlier inside a half-precision product cannot be helped, but it is found, and named as the file does."""
    state = small_transformer_state()
    state[f"{planted}.weight"][5] *= 1e6
    assert look(build_transformer(state)).isfinite().all()
    model = build_transformer(state, compute_dtype=torch.float16)
    with pytest.raises(WanError, match=rf"^{named} gives numbers that float16 cannot hold: .*float32"):
        look(model)
    assert model.compute_dtype == torch.float16
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize("dtype, limit", [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_the_scale_model_survives_outliers_in_half_precision(dtype, limit):
    """The shipped weights with a channel planted beyond 65504, its hints included."""
    state = dict(read_tensors(find_files(MINI)["transformer"]).tensors)
    for name, channel, size in (("patch_embedding.bias", 3, 3e5), ("vace_patch_embedding.bias", 40, -1e5)):
        state[name] = state[name].clone()
        state[name][channel] = size
    with torch.no_grad():
        exact = look(build_transformer(state))
        half = look(build_transformer(state, compute_dtype=dtype))
    assert half.isfinite().all() and relative(half, exact) < limit


def test_what_stays_float32_is_as_named():
    model = build_transformer(small_transformer_state(), compute_dtype=torch.float16)
    for wan, own in model.wan_names().items():
        exact = any(part.startswith(FLOAT32_PARTS) for part in wan.split("."))
        assert attrgetter(own)(model).dtype == (torch.float32 if exact else torch.float16), wan
