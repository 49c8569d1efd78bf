"""LoRA: read from files of every spelling, on plain and packed layers, merged and taken off, refused when wrong."""

import re

import full_size
import pytest
import torch
from small import (
    TEXT_TO_VIDEO,
    interrupt_at_second_call,
    packed,
    small_text_encoder_state,
    small_transformer_state,
    write_small_model,
)

from wan_tutorial import cli
from wan_tutorial.errors import WanError
from wan_tutorial.files import read_header, write_safetensors
from wan_tutorial.lora import Change, Lora, new_lora, read_lora, write_lora
from wan_tutorial.pipeline import load
from wan_tutorial.quantization import QuantizedLinear
from wan_tutorial.sizes import VideoSize
from wan_tutorial.text import load_text_encoder
from wan_tutorial.transformer import build_transformer
from wan_tutorial.workflow.layout import workflow_of
from wan_tutorial.workflow.run import video_of

LINEARS = [f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"] + ["ffn.0", "ffn.2"]


@pytest.fixture(scope="module")
def state():
    return small_transformer_state()


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return torch.randn(1, 16, 2, 4, 4), torch.tensor([700.0]), torch.randn(1, 6, 256)


def answer(model, inputs):
    latent, timestep, text = inputs
    torch.manual_seed(2)
    context = torch.randn(1, 96, *latent.shape[2:])
    with torch.no_grad():
        return model(latent, timestep, text, vace_context=context if model.shape.vace_blocks else None)


def causvid_state(state, *, first=0, parts=LINEARS, rank=4, norms=True, seed=0):
    """The keys of the published CausVid files, with small random numbers: every linear layer of the main blocks."""
    made = torch.Generator().manual_seed(seed)

    def some(*shape, size=0.1):
        return (torch.randn(*shape, generator=made) * size).half()

    keys = {}
    for block in range(first, 1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks."))):
        for part in parts:
            wide = state[f"blocks.{block}.{part}.weight"].shape
            name = f"diffusion_model.blocks.{block}.{part}"
            keys[f"{name}.lora_down.weight"] = some(rank, wide[1])
            keys[f"{name}.lora_up.weight"] = some(wide[0], rank)
            keys[f"{name}.diff_b"] = some(wide[0])
        for part in ("self_attn.norm_q", "cross_attn.norm_k", "norm3") if norms else ():
            keys[f"diffusion_model.blocks.{block}.{part}.diff"] = some(256)
        if norms:
            keys[f"diffusion_model.blocks.{block}.norm3.diff_b"] = some(256)
    return keys


VERSIONS = {
    "v1": {},
    "v1_5_no_first_block": {"first": 1},
    "v2": {"first": 1, "parts": LINEARS[:8], "norms": False},  # attention only
}


def written(tmp_path, keys, name="Wan21_CausVid_14B_T2V_lora_rank32.safetensors"):
    write_safetensors(tmp_path / name, keys)
    return tmp_path / name


def distance(one, other):
    return ((one - other).norm() / other.norm()).item()


# --------------------------------------------------------------------------------------------------- the sum


def by_hand(state, keys, strength):
    """The state with every update added to its tensor, in float64, by the definition and not by the package."""
    added = {name: tensor.double().clone() for name, tensor in state.items()}
    for key, tensor in keys.items():
        name, tensor = key.removeprefix("diffusion_model."), tensor.double()
        if name.endswith(".lora_up.weight"):
            down = keys[key.replace("lora_up", "lora_down")].double()
            scale = keys[key.replace("lora_up.weight", "alpha")].double() / len(down) if (
                key.replace("lora_up.weight", "alpha") in keys) else 1.0  # fmt: skip
            added[name.replace("lora_up.weight", "weight")] += strength * scale * tensor @ down
        elif name.endswith(".diff"):
            added[name.replace(".diff", ".weight")] += strength * tensor
        elif name.endswith(".diff_b"):
            added[name.replace(".diff_b", ".bias")] += strength * tensor
    return {name: tensor.float() for name, tensor in added.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_causvid_keys_are_all_used_and_do_what_they_say(state, inputs, tmp_path, version):
    keys = causvid_state(state, **VERSIONS[version])
    lora = read_lora(written(tmp_path, keys))
    model = build_transformer(state)
    before = answer(model, inputs)
    applied = lora.apply_to(model, 0.7)
    wanted = answer(build_transformer(by_hand(state, keys, 0.7)), inputs)
    assert distance(answer(model, inputs), wanted) < 1e-5 < 0.05 < distance(wanted, before)
    assert set(applied.fit.used) == set(keys) and not applied.fit.unused
    assert "no key is for the text encoder" in str(applied.fit) and lora.ranks == (4,)
    assert not any("vace" in layer for layer in applied.fit.layers.values())


@pytest.mark.parametrize("kind", ["plain", "Q3_K", "Q3_K widened", "Q8_0"])
def test_at_run_time_and_merged_are_the_same_and_removing_leaves_nothing(state, inputs, tmp_path, kind):
    lora = read_lora(written(tmp_path, causvid_state(state)))
    weights = state if kind == "plain" else packed(state, kind.split()[0])
    model = build_transformer(weights, widen_budget_bytes=10**9 if "widened" in kind else None)
    before = answer(model, inputs)
    applied = lora.apply_to(model, 0.8)
    at_run_time = answer(model, inputs)
    applied.remove()
    assert torch.equal(answer(model, inputs), before)
    merged = lora.merge_into(model, 0.8)
    assert distance(answer(model, inputs), at_run_time) < 1e-4 < 0.05 < distance(at_run_time, before)
    merged.remove()
    assert torch.equal(answer(model, inputs), before)
    layer = model.blocks[0].attn1.to_q
    assert isinstance(layer, QuantizedLinear) != (kind == "plain")


def test_strengths_change_without_reading_again_and_several_add_up(state, inputs, tmp_path):
    first = read_lora(written(tmp_path, causvid_state(state), "a.safetensors"))
    second_keys = causvid_state(state, seed=5, norms=False)
    second = read_lora(written(tmp_path, second_keys, "b.safetensors"))
    model = build_transformer(packed(state))
    before = answer(model, inputs)
    one = first.apply_to(model, 0.0)
    assert torch.equal(answer(model, inputs), before)  # off is off, to the bit
    one.strength = 0.5
    half = answer(model, inputs)
    two = second.merge_into(model, -0.4)
    both = answer(model, inputs)
    two.remove()
    two = second.apply_to(model, -0.4)
    assert distance(answer(model, inputs), both) < 1e-4 < 1e-2 < distance(both, half)
    twice = first.apply_to(model, 0.5)
    two.strength, one.strength = 0.0, 1.0
    twice.strength = 0
    whole = answer(model, inputs)
    one.strength = 0.5
    twice.strength = 0.5
    assert distance(answer(model, inputs), whole) < 1e-5
    one.strength = twice.strength = 0.0
    assert torch.equal(answer(model, inputs), before)


def test_merged_ones_come_off_in_any_order(state, inputs, tmp_path):
    loras = [read_lora(written(tmp_path, causvid_state(state, seed=n), f"{n}.safetensors")) for n in (1, 2)]
    model = build_transformer(state)
    before, weights = answer(model, inputs), model.blocks[1].ffn.net[2].weight
    first, second = (lora.merge_into(model, 0.3) for lora in loras)
    first.remove()
    alone = answer(model, inputs)
    second.remove()
    assert torch.equal(answer(model, inputs), before) and model.blocks[1].ffn.net[2].weight is weights
    loras[1].apply_to(model, 0.3)
    assert distance(answer(model, inputs), alone) < 1e-4


def test_in_half_precision_the_wide_layers_do_not_overflow(state, inputs):
    lora = Lora("wide", {"vace_blocks.0.after_proj": Change(weight=torch.eye(256))})
    model = build_transformer(packed(state), compute_dtype=torch.float16)
    plain = build_transformer(state, compute_dtype=torch.float16)
    for each in (model, plain):
        x = torch.full((1, 3, 256), 1e5)
        with torch.autocast("cpu", torch.float16):
            without = each.vace_blocks[0].proj_out(x)
            lora.apply_to(each)
            assert torch.allclose(each.vace_blocks[0].proj_out(x) - without, x, rtol=1e-3)


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_an_update_with_a_bias_answers_in_the_layers_own_type(state, inputs, tmp_path, kind):
    """A bias in float32 would widen query, key, value and feed-forward, and the plan of the memory with them."""
    model = build_transformer(packed(state) if kind == "packed" else state, compute_dtype=torch.bfloat16)
    read_lora(written(tmp_path, causvid_state(state))).apply_to(model)
    layer = model.blocks[0].attn1.to_q
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 3, 256)).dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------- spellings


def respelled(keys, spelling):
    """The same updates as other programs write them."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers

    bare = {key.removeprefix("diffusion_model."): tensor for key, tensor in keys.items()}
    if spelling == "diffusers":
        return _convert_non_diffusers_wan_lora_to_diffusers(dict(keys))
    if spelling == "lora_A, no prefix":
        names = {"lora_down": "lora_A", "lora_up": "lora_B"}
        return {key.replace(old, names[old]): t for old in names for key, t in bare.items() if old in key}
    if spelling == "kohya":
        alphas = {k.replace("lora_down.weight", "alpha"): torch.tensor(4.0) for k in bare if "lora_down" in k}
        split = [
            (k, len(k.split(".lora_")[0].split(".diff")[0].split(".alpha")[0])) for k in {**bare, **alphas}
        ]
        return {f"lora_unet_{k[:n].replace('.', '_')}{k[n:]}": {**bare, **alphas}[k] for k, n in split}
    before = {"peft": "", "ComfyUI's checkpoints": "model.diffusion_model."}.get(spelling, spelling)
    return {f"{before or 'base_model.model.'}{key}": tensor for key, tensor in bare.items()}


@pytest.mark.parametrize("spelling", ["diffusers", "lora_A, no prefix", "kohya", "peft", "ComfyUI's checkpoints",
                                      "base_model.model.diffusion_model.", "base_model.model.model."])  # fmt: skip
def test_every_spelling_says_the_same(state, inputs, tmp_path, spelling):
    keys = causvid_state(state, norms=False)
    if "lora_A" in spelling:
        keys = {key: tensor for key, tensor in keys.items() if "lora" in key}
    model, other = build_transformer(state), build_transformer(state)
    read_lora(written(tmp_path, keys)).apply_to(model, 0.6)
    applied = read_lora(written(tmp_path, respelled(keys, spelling), "other.safetensors")).apply_to(
        other, 0.6
    )
    assert not applied.fit.unused
    assert distance(answer(other, inputs), answer(model, inputs)) < 1e-6


def test_alpha_scales_and_a_convolution_takes_an_update_too(state, inputs, tmp_path):
    keys = {
        "diffusion_model.blocks.1.ffn.0.lora_down.weight": torch.randn(8, 256) * 0.1,
        "diffusion_model.blocks.1.ffn.0.lora_up.weight": torch.randn(512, 8) * 0.1,
        "diffusion_model.blocks.1.ffn.0.alpha": torch.tensor(2.0),
        "diffusion_model.patch_embedding.diff": torch.randn(256, 16, 1, 2, 2) * 0.1,
        "diffusion_model.patch_embedding.diff_b": torch.randn(256) * 0.1,
        "diffusion_model.head.head.diff": torch.randn(64, 256) * 0.1,
        "diffusion_model.time_projection.1.diff_b": torch.randn(1536) * 0.1,
    }
    model = build_transformer(state)
    applied = read_lora(written(tmp_path, keys)).apply_to(model)
    assert (
        distance(answer(model, inputs), answer(build_transformer(by_hand(state, keys, 1.0)), inputs)) < 1e-5
    )
    conv = {"patch_embedding.lora_down.weight": torch.randn(2, 16, 1, 2, 2), "patch_embedding.lora_up.weight":
            torch.randn(256, 2, 1, 1, 1)}  # fmt: skip
    before = model.patch_embedding.weight.clone()
    applied.remove()
    read_lora(written(tmp_path, conv)).apply_to(model)
    product = torch.einsum("or,rifhw->oifhw", conv["patch_embedding.lora_up.weight"].flatten(1),
                           conv["patch_embedding.lora_down.weight"])  # fmt: skip
    assert torch.allclose(model.patch_embedding.weight, state["patch_embedding.weight"] + product, atol=1e-5)
    assert not torch.allclose(before, state["patch_embedding.weight"])


# --------------------------------------------------------------------------------------- diffusers' own loading


def diffusers_model(state):
    from diffusers import WanVACETransformer3DModel

    model = WanVACETransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, text_dim=256, ffn_dim=512, num_layers=4, vace_layers=[0, 2],
        vace_in_channels=96,
    )  # fmt: skip
    ours = build_transformer(state)
    model.load_state_dict({own: state[wan] for wan, own in ours.wan_names().items()})
    return model.requires_grad_(False).eval()


def diffusers_answer(model, inputs):
    latent, timestep, text = inputs
    torch.manual_seed(2)
    context = torch.randn(1, 96, *latent.shape[2:])
    with torch.no_grad():
        return model(latent, timestep, text, control_hidden_states=context, return_dict=False)[0]


def test_ours_equals_diffusers_conversion_added_to_its_weights(state, inputs, tmp_path):
    """diffusers' own key conversion, its matrices multiplied out into its own model."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers

    keys = causvid_state(state, norms=False)
    theirs = diffusers_model(state)
    converted = _convert_non_diffusers_wan_lora_to_diffusers({k: t.float() for k, t in keys.items()})
    layers = {key.removeprefix("transformer.").split(".lora_")[0] for key in converted}
    for layer in layers:
        part = {
            p: converted[f"transformer.{layer}.{p}"]
            for p in ("lora_A.weight", "lora_B.weight", "lora_B.bias")
        }
        module = theirs.get_submodule(layer)
        module.weight += 0.9 * part["lora_B.weight"] @ part["lora_A.weight"]
        module.bias += 0.9 * part["lora_B.bias"]
    assert len(layers) == 40
    model = build_transformer(state)
    read_lora(written(tmp_path, keys)).apply_to(model, 0.9)
    assert distance(answer(model, inputs), diffusers_answer(theirs, inputs)) < 1e-4


def test_ours_equals_diffusers_with_peft(state, inputs, tmp_path):
    pytest.importorskip("peft")
    from diffusers import WanVACEPipeline

    keys = causvid_state(state, norms=False)
    theirs = diffusers_model(state)
    pipe = WanVACEPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=theirs)
    pipe.load_lora_weights({k: t.float() for k, t in keys.items()}, adapter_name="causvid")
    pipe.set_adapters("causvid", 0.9)
    model = build_transformer(state)
    read_lora(written(tmp_path, keys)).apply_to(model, 0.9)
    assert distance(answer(model, inputs), diffusers_answer(theirs, inputs)) < 1e-4


def test_eight_bit_floats_are_read_as_comfyui_reads_them(state, inputs, tmp_path):
    keys = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in causvid_state(state, norms=False).items()}
    model, other = build_transformer(state), build_transformer(state)
    read_lora(written(tmp_path, keys)).apply_to(model)
    wide = {key: tensor.half() for key, tensor in keys.items()}
    read_lora(written(tmp_path, wide, "wide.safetensors")).apply_to(other)
    assert torch.equal(answer(model, inputs), answer(other, inputs))


def test_an_alpha_that_diffusers_notes_in_the_header_counts(state, tmp_path):
    from diffusers import WanPipeline

    keys = {key.replace("lora_down", "lora_A").replace("lora_up", "lora_B").removeprefix("diffusion_model."): tensor
            for key, tensor in causvid_state(state, parts=["ffn.0", "ffn.2"], norms=False).items() if "lora" in key}  # fmt: skip
    noted = {"r": 4, "lora_alpha": 16, "alpha_pattern": {"blocks.1.ffn.2": 2}}
    WanPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=keys, transformer_lora_adapter_metadata=noted
    )
    lora = read_lora(tmp_path / "pytorch_lora_weights.safetensors")
    assert {layer: change.scale for layer, change in lora.changes.items() if "blocks.1." in layer} == {
        "transformer.blocks.1.ffn.0": 4.0,
        "transformer.blocks.1.ffn.2": 0.5,
    }
    write_lora(lora, tmp_path / "again.safetensors")
    again = read_lora(tmp_path / "again.safetensors")
    assert again.changes["diffusion_model.blocks.1.ffn.2"].scale == 0.5
    assert set(again.metadata) == {"format"}, "its alphas stand beside the matrices now"
    weird = {"lora_adapter_metadata": "no json"}
    write_safetensors(tmp_path / "weird.safetensors", keys, metadata=weird)
    assert all(change.scale == 1 for change in read_lora(tmp_path / "weird.safetensors").changes.values())


def test_a_file_written_again_says_the_same_whatever_its_spelling(state, inputs, tmp_path):
    """Also of names that only a model can tell apart, and of the text encoder's."""
    for spelling in ("kohya", "diffusers"):
        first = read_lora(written(tmp_path, respelled(causvid_state(state, norms=False), spelling)))
        write_lora(first, tmp_path / "again.safetensors", dtype=torch.float32)
        again = read_lora(tmp_path / "again.safetensors")
        model, other = build_transformer(state), build_transformer(state)
        first.apply_to(model), again.apply_to(other)
        assert distance(answer(other, inputs), answer(model, inputs)) < 1e-6
    name = "encoder.block.1.layer.1.DenseReluDense.wo"
    for before in ("text_encoder.", "lora_te1_", "base_model.model.", "text_encoders.transformer."):
        own = name.replace(".", "_") if before == "lora_te1_" else name
        words = read_lora(written(tmp_path, {f"{before}{own}.diff": torch.ones(256, 512)}))
        write_lora(words, tmp_path / "again.safetensors")
        for lora in (words, read_lora(tmp_path / "again.safetensors")):
            fit = lora.fit({key: tuple(t.shape) for key, t in small_text_encoder_state().items()})
            assert list(fit.layers.values()) == [name], before


# ------------------------------------------------------------------------------------- used, not used, and why


def test_what_has_no_place_on_a_layer_is_not_used_and_never_reached(state, inputs, tmp_path):
    """Biases of what has none, matrices on a vector, an alpha alone: told beforehand, not by an error in a run."""
    layer = "diffusion_model.blocks.0"
    wrong = {
        f"{layer}.self_attn.norm_q.diff_b": (torch.ones(256), "a bias for what has none"),
        f"{layer}.modulation.diff_b": (torch.ones(1), "a bias for what has none"),
        f"{layer}.ffn.0.diff_b": (torch.tensor(1.0), "made for a bias of \\(\\), where this model's is 512"),
        f"{layer}.self_attn.q.alpha": (torch.tensor(4.0), "an alpha without its matrices"),
    }
    good = {f"{layer}.norm3.diff_b": torch.ones(256), f"{layer}.cross_attn.q.diff_b": torch.ones(256)}
    thin = {
        f"{layer}.norm3.lora_up.weight": torch.ones(256, 2),
        f"{layer}.norm3.lora_down.weight": torch.ones(2, 1),
    }
    shapes = read_header(write_small_model(tmp_path).transformer).shapes
    for key, (tensor, why) in wrong.items():
        lora = read_lora(written(tmp_path, good | {key: tensor}))
        assert re.fullmatch(why, lora.fit(shapes).unused[key])
        model = build_transformer(state)
        applied = lora.apply_to(model)
        assert applied.fit.unused.keys() == {key} and len(applied.fit.used) == 2
        answer(model, inputs)
    fit = read_lora(written(tmp_path, thin)).fit(shapes)
    assert not fit.layers and all(
        "of shape (256, 1), where this model's is (256,)" in w for w in fit.unused.values()
    )


def test_what_is_not_used_is_named_with_its_reason(state, tmp_path):
    keys = causvid_state(state, norms=False)
    keys |= {
        "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.ones(4, 256),
        "diffusion_model.blocks.0.cross_attn.k_img.lora_up.weight": torch.ones(256, 4),
        "diffusion_model.blocks.9.ffn.0.diff_b": torch.ones(512),
        "diffusion_model.blocks.1.ffn.0.diff_b": torch.ones(100),
        "diffusion_model.blocks.0.diff_m": torch.ones(6, 256),
        "diffusion_model.blocks.2.ffn.2.dora_scale": torch.ones(256),
        "diffusion_model.something.diff": torch.ones(3),
        "text_encoder.encoder.block.0.layer.0.SelfAttention.q.diff": torch.ones(256, 256),
    }
    lora = read_lora(written(tmp_path, keys))
    fit = lora.fit(read_header(write_small_model(tmp_path).transformer).shapes)
    said = str(fit)
    assert "image encoder of an image-to-video Wan" in said and "blocks.9, where this model has 4" in said
    assert (
        "made for a bias of 100, where this model's is 512" in said
        and "1 keys are for the text encoder" in said
    )
    assert fit.unused["diffusion_model.something.diff"] == "for a layer that this model does not have"
    assert fit.unused["diffusion_model.blocks.0.diff_m"] == "of a kind that is not read here"
    assert "dora_scale" in said and "diffusion_model.blocks.2.ffn.2.lora_up.weight" in fit.unused
    assert len(fit.used) + len(fit.unused) + 1 == len(keys)
    assert "vace" not in said
    with pytest.raises(WanError, match="no key for the text encoder"):
        Lora("causvid", {"blocks.0.ffn.0": Change(bias=torch.ones(512))}).fit(
            {"encoder.block.0.x.weight": (1,)}
        ).require()


def test_one_key_that_nearly_fits_makes_no_wan_of_another_model(tmp_path):
    keys = {f"double_blocks.{i}.img_attn.proj.diff": torch.ones(2, 2) for i in range(3)}
    keys["blocks.0.ffn.0.diff_b"] = torch.ones(3)
    shapes = {name: tuple(tensor.shape) for name, tensor in small_transformer_state().items()}
    with pytest.raises(WanError, match="belongs to another model.*double_blocks"):
        read_lora(written(tmp_path, keys)).fit(shapes).require()


def test_a_lora_for_the_text_encoder_works_there(tmp_path):
    state = small_text_encoder_state()
    encoder = load_text_encoder(state)
    name = "encoder.block.1.layer.1.DenseReluDense.wo"
    keys = {f"text_encoders.umt5xxl.transformer.{name}.{part}.weight": tensor for part, tensor in
            {"lora_down": torch.randn(2, 512) * 0.2, "lora_up": torch.randn(256, 2) * 0.2}.items()}  # fmt: skip
    keys["diffusion_model.blocks.0.ffn.0.diff_b"] = torch.ones(512)
    lora = read_lora(written(tmp_path, keys))
    before = encoder.encode("a sword", 16).embedding
    applied = lora.apply_to(encoder, 0.5)
    changed = encoder.encode("a sword", 16).embedding
    applied.remove()
    assert torch.equal(encoder.encode("a sword", 16).embedding, before)
    lora.merge_into(encoder, 0.5)
    assert distance(encoder.encode("a sword", 16).embedding, changed) < 1e-4 < distance(changed, before)
    assert applied.fit.used == tuple(keys)[:2] and "of the text encoder" in str(applied.fit)


def test_a_text_to_video_model_takes_it_too(inputs, tmp_path):
    state = small_transformer_state(TEXT_TO_VIDEO)
    model = build_transformer(state)
    before = answer(model, inputs)
    read_lora(written(tmp_path, causvid_state(state))).apply_to(model)
    assert distance(answer(model, inputs), before) > 0.05


# ------------------------------------------------------------------------------------------------- training's part


def test_a_new_lora_changes_nothing_until_trained_and_survives_its_file(state, inputs, tmp_path):
    torch.manual_seed(0)
    model = build_transformer(packed(state))
    before = answer(model, inputs)
    lora = new_lora(model, rank=4, biases=True)
    applied = lora.apply_to(model)
    assert distance(answer(model, inputs), before) < 1e-6
    assert len(lora.changes) == 40 and len(lora.tensors()) == 120
    latent, timestep, text = inputs
    model(latent, timestep, text).square().mean().backward()
    with torch.no_grad():
        for tensor in lora.tensors():
            if tensor.grad is not None:
                tensor -= 0.3 * tensor.grad / tensor.grad.norm().clamp(min=1e-9)
    trained = answer(model, inputs)
    assert distance(trained, before) > 1e-2
    applied.remove()
    write_lora(lora, tmp_path / "mine.safetensors")
    again = read_lora(tmp_path / "mine.safetensors")
    names = read_header(tmp_path / "mine.safetensors").shapes
    assert set(names) == set(causvid_state(state, norms=False))  # the very keys of the CausVid file
    again.apply_to(model)
    assert distance(answer(model, inputs), trained) < 2e-3  # its numbers were rounded to 16 bits
    assert again.fingerprint != lora.fingerprint and again.fingerprint == read_lora(
        tmp_path / "mine.safetensors").fingerprint  # fmt: skip


# --------------------------------------------------------------------------------------------------- full size


@pytest.mark.parametrize(
    ("version", "megabytes"), [("v1", 306.7), ("v1_5_no_first_block", 299.0), ("v2", 204.5)]
)
def test_at_full_size_every_key_has_its_place(version, megabytes):
    """The published files' keys against the 14B model's 1,331 names and shapes, without a single weight."""
    shapes = {row.name: row.shape for row in full_size.table("transformer")}
    options = {"first": 0, "parts": LINEARS} | VERSIONS[version]
    changes = {
        f"diffusion_model.blocks.{block}.{part}": Change(
            down=torch.empty(32, shapes[f"blocks.{block}.{part}.weight"][1], device="meta"),
            up=torch.empty(shapes[f"blocks.{block}.{part}.weight"][0], 32, device="meta"),
        )
        for block in range(options["first"], 40)
        for part in options["parts"]
    }
    lora = Lora("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", changes)
    fit = lora.fit(shapes)
    assert len(fit.layers) == len(changes) and not fit.unused
    assert lora.parameters * 2 / 1e6 == pytest.approx(megabytes, abs=0.1)  # in 16 bits
    small_shapes = {name: tuple(tensor.shape) for name, tensor in small_transformer_state().items()}
    with pytest.raises(WanError, match="of another size.*made for a layer of shape \\(5120, 5120\\)"):
        lora.fit(small_shapes).require()


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 11, -50.0, 10**400, "1", True, None])
def test_senseless_strengths_are_refused(state, strength):
    lora = Lora("x", {"blocks.0.ffn.0": Change(bias=torch.ones(512))})
    with pytest.raises(WanError, match="strength is a number from -10 to 10"):
        lora.apply_to(build_transformer(state), strength)


def test_bad_files_end_in_one_sentence(state, tmp_path):
    model = build_transformer(state)

    def fails(match, keys=None, path=None):
        path = written(tmp_path, keys, "bad.safetensors") if keys else path
        with pytest.raises(WanError, match=match) as error:
            read_lora(path).apply_to(model)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400

    wide = small_transformer_state(TEXT_TO_VIDEO)
    big = {k: torch.ones(*(2 * n for n in t.shape)) for k, t in causvid_state(wide).items()}
    fails("of another size.*shape \\(512, 512\\), where this model's is \\(256, 256\\)", big)
    flux = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(4, 8)}
    flux |= {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(8, 4)}
    fails("belongs to another model", flux)
    words = {"lora_te1_text_model_x.lora_down.weight": torch.ones(4, 8)}
    words |= {"lora_te1_text_model_x.lora_up.weight": torch.ones(8, 4)}
    fails("no key for the transformer", words)
    keys = causvid_state(state, norms=False)
    name = "diffusion_model.blocks.0.ffn.0"
    fails(
        "not finite, in diffusion_model.blocks.0.ffn.0.diff_b",
        keys | {f"{name}.diff_b": torch.full((512,), torch.nan)},
    )
    fails("cannot be multiplied", keys | {f"{name}.lora_up.weight": torch.ones(512, 5)})
    fails("cannot be multiplied", keys | {f"{name}.lora_up.weight": torch.ones(512)})
    fails("not one number", keys | {f"{name}.alpha": torch.ones(3)})
    fails("without its lora_up", {k: t for k, t in keys.items() if k != f"{name}.lora_up.weight"})
    fails("holds no model this kit knows, not a LoRA", {"lora": torch.ones(3)})
    fails("holds a Wan2.1 VACE transformer.*not a LoRA", state)
    whole = written(tmp_path, keys).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    fails("a part without a number in it", keys | {f"{name}.lora_up.weight": torch.ones(0, 4)})
    fails("begins with the home of someone unknown", path="~nobodyhere/my.safetensors")
    fails("a path of this system, which 'aaa.*shorten it", path="a" * 5000)
    fails("cut short", path=tmp_path / "cut.safetensors")
    fails("There is no file", path=tmp_path / "missing.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "lora.pt")
    fails("pickle", path=tmp_path / "lora.pt")
    fails("GGUF", path=write_small_model(tmp_path).transformer)


# ------------------------------------------------------------------------------------- in the pipeline and around it


SIZE, PROMPT = VideoSize(32, 32, 5), "a sword in the burning wood"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipe(files):
    return load("mini", **vars(files), device="cpu")


@pytest.fixture
def lora_file(state, tmp_path):
    return written(tmp_path, causvid_state(state), "Wan21_CausVid_mini_T2V_lora_rank32.safetensors")


def generate(pipe, **options):
    return pipe.generate(PROMPT, **{"size": SIZE, "steps": 2, "guidance": 2.0, "progress": False} | options)


def test_a_run_wears_its_loras_and_leaves_none_behind(pipe, lora_file):
    bare = generate(pipe)
    worn = generate(pipe, loras=[(lora_file, 0.8)])
    assert worn.loras == ((lora_file.name, 0.8),) and bare.loras == ()
    assert distance(worn.latent, bare.latent) > 0.02
    assert torch.equal(generate(pipe).latent, bare.latent)
    assert torch.equal(generate(pipe, loras=[(lora_file, 0)]).latent, bare.latent)
    assert worn.notices == bare.notices  # nothing unused to tell
    applied = read_lora(lora_file).apply_to(pipe.transformer, 0.8)
    assert distance(generate(pipe).latent, worn.latent) < 1e-4  # at run time as merged, the pipeline's way
    applied.remove()
    less = [generate(pipe, loras=[(lora_file, s)]).latent for s in (0.2, 0.4)]
    moved = [distance(latent, bare.latent) for latent in (*less, worn.latent)]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_two_runs_may_take_turns_on_one_model(pipe, lora_file):
    text, noise = pipe.encode_text(PROMPT), pipe.draw_noise(SIZE)

    def steps(**options):
        return pipe.denoise(noise, text, steps=2, guidance=1.0, **options)

    alone = [[step.latent for step in steps(loras=[(lora_file, s)] if s else [])][-1] for s in (0, 0.5)]
    together = [(a.latent, b.latent) for a, b in zip(steps(), steps(loras=[(lora_file, 0.5)]), strict=True)][
        -1
    ]
    assert torch.equal(together[0], alone[0]) and torch.equal(together[1], alone[1])
    begun = steps(loras=[(lora_file, 0.5)])
    next(begun)
    begun.close()
    weight = pipe.transformer.blocks[0].ffn.net[2].widened
    assert weight is None or torch.equal(weight, pipe.transformer.blocks[0].ffn.net[2].dequantize())


def test_a_text_encoder_lora_and_a_stranger_in_the_pipeline(pipe, lora_file, tmp_path):
    words = {"text_encoder.encoder.block.0.layer.0.SelfAttention.v.diff": torch.randn(256, 256) * 0.1}
    path = written(tmp_path, words, "words.safetensors")
    bare, worn = generate(pipe), generate(pipe, loras=[(path, 1.0), (lora_file, 0.0)])
    assert distance(worn.latent, bare.latent) > 1e-3
    assert torch.equal(generate(pipe).latent, bare.latent)
    partly = causvid_state(small_transformer_state(), norms=False) | {
        "diffusion_model.odd.diff": torch.ones(2)
    }
    told = generate(pipe, loras=[(written(tmp_path, partly, "odd.safetensors"), 0.1)]).notices
    assert any(
        "120 keys are used and 1 are not: 1 are for a layer that this model does not have" in n for n in told
    )
    both = partly | words | {"lora_te1_text_model_encoder_layers_0_mlp_fc1.diff": torch.ones(2)}
    (fit,) = pipe.fit_loras([(written(tmp_path, both, "both.safetensors"), 1.0)])
    assert len(fit.used) == 120 and len(fit.elsewhere) == 1 and len(fit.unused) == 2
    assert "121 keys are used and 2 are not" in fit.notice
    other = {"text_encoder.encoder.block.0.layer.0.SelfAttention.v.diff": torch.ones(64, 64)}
    with pytest.raises(
        WanError, match="of another size: .*SelfAttention.v.diff is made for a layer of shape \\(64, 64"
    ):
        generate(pipe, loras=[(written(tmp_path, other, "other.safetensors"), 1.0)])
    stranger = written(tmp_path, {"double_blocks.0.x.diff": torch.ones(2)}, "flux.safetensors")
    with pytest.raises(WanError, match="flux.safetensors belongs to another model"):
        generate(pipe, loras=[(stranger, 1.0)])
    for wrong in (["file"], [lora_file], [(lora_file, 1, 1)]):
        with pytest.raises(WanError, match="a list of \\(file, strength\\)"):
            generate(pipe, loras=wrong)
    with pytest.raises(WanError, match="strength is a number"):
        generate(pipe, loras=[(lora_file, float("nan"))])


def test_the_stages_by_themselves_refuse_a_stranger_and_keep_no_lora(pipe, tmp_path):
    words = {"text_encoder.encoder.block.0.layer.0.SelfAttention.v.diff": torch.randn(256, 256) * 0.1}
    path = written(tmp_path, words, "words.safetensors")
    bare = pipe.encode_text(PROMPT).positive
    assert not torch.equal(pipe.encode_text(PROMPT, loras=[(path, 1.0)]).positive, bare)
    assert torch.equal(pipe.text_encoder.encode(PROMPT, len(bare)).embedding, bare)
    stranger = written(tmp_path, {"double_blocks.0.x.diff": torch.ones(2)}, "flux.safetensors")
    with pytest.raises(WanError, match="flux.safetensors belongs to another model"):
        pipe.denoise(pipe.draw_noise(SIZE), pipe.encode_text(PROMPT), loras=[(stranger, 1.0)])
    with pytest.raises(WanError, match="flux.safetensors belongs to another model"):
        pipe.encode_text(PROMPT, loras=[(stranger, 1.0)])


def test_an_error_half_way_leaves_no_lora_behind(state, inputs, tmp_path, monkeypatch):
    from wan_tutorial import lora as module

    model = build_transformer(state)
    bare = answer(model, inputs)
    lora = read_lora(written(tmp_path, causvid_state(state)))
    rack, whole, count = module.LoraRack(merged=True), module._set_share, []

    def failing(layer, name, owner, strength, change):
        count.append(strength)
        if strength and len(count) == 20:
            raise torch.OutOfMemoryError("no memory left")
        whole(layer, name, owner, strength, change)

    monkeypatch.setattr(module, "_set_share", failing)
    with pytest.raises(torch.OutOfMemoryError):
        rack.put_on(model, ((lora, 1.0),))
    assert torch.equal(answer(model, inputs), bare)
    rack.put_on(model, ((lora, 1.0),))
    assert distance(answer(model, inputs), bare) > 0.01
    rack.put_on(model, ())
    assert torch.equal(answer(model, inputs), bare)


def test_weights_with_a_lora_in_them_are_made_once_and_again_when_a_number_changed(
    state, inputs, tmp_path, monkeypatch
):
    from wan_tutorial import lora as module

    model = build_transformer(state)
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)
    bare, made, whole = answer(model, inputs), [], module._sum
    monkeypatch.setattr(module, "_sum", lambda *given: made.append(given) or whole(*given))
    first, second = (read_lora(written(tmp_path, causvid_state(state))) for _ in range(2))
    rack, both = module.LoraRack(merged=True), ((first, 1.0), (second, 0.5))
    rack.put_on(model, both)
    count, worn = len(made), answer(model, inputs)
    rack.put_on(model, ())
    assert torch.equal(answer(model, inputs), bare)
    rack.put_on(model, both)
    assert torch.equal(answer(model, inputs), worn) and len(made) == count > 0
    rack.put_on(model, ())
    with torch.no_grad():
        next(iter(first.changes.values())).tensors()["up"].mul_(2)  # as training does
    rack.put_on(model, both)
    assert len(made) == count + 2, "one layer of each LoRA, whose sum stands on the other's"
    rack.put_on(model, ())
    (applied, _), _ = rack._fitted[model][1]
    assert applied._sums
    applied.remove()
    assert not applied._sums


def test_a_bias_of_peft_is_scaled_as_its_product(tmp_path):
    layer = "diffusion_model.blocks.0.ffn.0"
    keys = {f"{layer}.lora_A.weight": torch.randn(4, 256), f"{layer}.lora_B.weight": torch.randn(512, 4)}
    keys |= {f"{layer}.lora_B.bias": torch.ones(512), f"{layer}.alpha": torch.tensor(2.0)}
    change = read_lora(written(tmp_path, keys)).changes[layer]
    assert torch.equal(change.bias, torch.full((512,), 0.5))


def test_a_bias_on_a_layer_without_one_has_the_layers_type(tmp_path):
    encoder = load_text_encoder(small_text_encoder_state(fp8=False))
    key = "text_encoder.encoder.block.0.layer.0.SelfAttention.v.diff_b"
    lora = read_lora(written(tmp_path, {key: torch.ones(256, dtype=torch.float16)}))
    beside, bare = [], encoder.encode(PROMPT, 8).embedding
    for put_on in (lora.apply_to, lora.merge_into):
        on = put_on(encoder, 0.5)
        beside.append(encoder.encode(PROMPT, 8).embedding)
        on.remove()
    assert distance(*beside) < 1e-5 and distance(beside[0], bare) > 1e-4
    assert torch.equal(encoder.encode(PROMPT, 8).embedding, bare)


def test_a_kept_run_knows_its_loras(pipe, lora_file, tmp_path, monkeypatch):
    whole = generate(pipe, loras=[(lora_file, 0.5)], steps=3)
    interrupt_at_second_call(pipe, monkeypatch)
    options = {"steps": 3, "keep": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        generate(pipe, loras=[(lora_file, 0.5)], **options)
    for other in ([(lora_file, 0.6)], []):
        with pytest.raises(WanError, match="keeps another run"):
            generate(pipe, loras=other, **options)
    assert torch.equal(generate(pipe, loras=[(lora_file, 0.5)], **options).latent, whole.latent)


def test_the_command_takes_loras(files, lora_file, tmp_path, capsys):
    own = ["--transformer", files.transformer, "--text-encoder", files.text_encoder, "--vae", files.vae]
    rest = ["--size", "32x32", "--frames", "5", "--steps", "1", "--output", tmp_path / "out.mp4"]

    def command(*loras):
        options = [word for lora in loras for word in ("--lora", lora)]
        return cli.main(["generate", PROMPT, *map(str, (*own, *rest, *options))]), capsys.readouterr()

    status, page = command(f"{lora_file}:0.5", lora_file)
    assert status == 0 and (tmp_path / "out.mp4").is_file()
    assert f"LoRA      {lora_file.name}, strength 0.5\nLoRA      {lora_file.name}, strength 1\n" in page.out
    status, page = command(f"{lora_file}:much")
    assert status == 2 and "a strength is a number, not 'much'" in page.err
    for wrong, said in (
        (tmp_path / "none.safetensors", "There is no file"),
        ("~nobodyhere/my.safetensors:1", "the home of someone unknown"),
        ("a" * 5000, "shorten it"),
    ):
        status, page = command(wrong)
        assert status == 2 and said in page.err and "Traceback" not in page.err


@pytest.mark.parametrize("kind", ["Power Lora Loader (rgthree)", "LoraLoader", "LoraLoaderModelOnly"])
def test_a_workflow_runs_with_its_lora_and_equals_generate(pipe, lora_file, kind):
    result = generate(pipe, loras=[(lora_file, 0.7)], negative="blurry", seed=5)
    workflow = workflow_of(result)
    workflow.set("UnetLoaderGGUF", "unet_name", pipe.files["transformer"].name)
    [node] = [node for node in workflow.nodes.values() if node.type == "Power Lora Loader (rgthree)"]
    if kind != node.type:
        node.type, node.values = (
            kind,
            {"lora_name": lora_file.name, "strength_model": 0.7, "strength_clip": 1.0},
        )
    if kind == "LoraLoaderModelOnly":  # the prompts get their words from the loader itself
        for other in workflow.nodes.values():
            if other.type == "CLIPTextEncode":
                other.links["clip"] = node.links["clip"]
        del node.links["clip"]
    runs = list(workflow.run(pipe=pipe, folder=lora_file.parent))
    assert torch.equal(video_of(runs).frames, result.video)
