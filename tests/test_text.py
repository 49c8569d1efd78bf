"""The text stage: cleaning, pieces, UMT5 from plain and scaled-fp8 files against transformers, errors."""

import pytest
import torch
from small import SENTENCES, small_sentencepiece, small_text_encoder_state

from wan_tutorial.errors import WanError
from wan_tutorial.quantization import FP8, QuantizedTensor, dequantize_fp8, packed_linears
from wan_tutorial.text import (
    TextShape,
    Tokenizer,
    clean_prompt,
    load_text_encoder,
    new_text_encoder,
    to_file_names,
)


@pytest.fixture(scope="module")
def state():
    return small_text_encoder_state()


@pytest.fixture(scope="module")
def encoder(state):
    return load_text_encoder(state)


def widened(state):
    """The plain float32 weights that a scaled-fp8 file stands for."""
    return {
        name: dequantize_fp8(tensor, state[name.removesuffix("weight") + "scale_weight"])
        if tensor.dtype == FP8
        else tensor.float()
        for name, tensor in state.items()
        if name.endswith("weight") and not name.endswith("scale_weight")
    }


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("  a   sword\n\tin fire ", "a sword in fire"),
        ("sword &amp;amp; axe", "sword & axe"),
        ("the smithâ€™s fire", "the smith's fire"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned_as_wan_does(given, clean):
    assert clean_prompt(given) == clean


def test_tokenizer_ends_the_text_and_keeps_the_end_when_it_cuts():
    tokenizer = Tokenizer(small_sentencepiece())
    ids = tokenizer.encode(SENTENCES[0])
    assert ids[-1] == 1 and 0 not in ids
    assert len(tokenizer.pieces(SENTENCES[0])) == len(ids) - 1
    assert "".join(tokenizer.pieces("a sword")).replace("▁", " ").strip() == "a sword"
    assert tokenizer.encode(SENTENCES[0], 4) == [*ids[:3], 1]
    assert tokenizer.encode("") == [1]


def test_fp8_file_equals_transformers_on_the_widened_weights(state, encoder):
    reference = new_text_encoder(TextShape.of(state)).eval()
    missing = reference.load_state_dict(widened(state), strict=False)
    assert missing.missing_keys == ["encoder.embed_tokens.weight"] and not missing.unexpected_keys
    text = encoder.encode("A sword in the bonfire, blue flames.", 32)
    ids = torch.tensor([[*text.ids, *[0] * (32 - text.tokens)]])
    with torch.no_grad():
        expected = reference(ids, attention_mask=(ids != 0).long()).last_hidden_state[0]
    real = slice(text.tokens)
    assert (text.embedding[real] - expected[real]).norm() / expected[real].norm() < 1e-5
    assert text.embedding.shape == (32, 256) and text.embedding.dtype == torch.float32
    assert not text.embedding[text.tokens :].any()


def test_a_batch_with_padding_equals_prompts_one_by_one(encoder):
    texts = [encoder.encode(sentence, 64) for sentence in SENTENCES]
    ids = torch.zeros(len(texts), 64, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[: text.tokens] = torch.tensor(text.ids)
    with torch.no_grad():
        together = encoder.embed(ids)
    assert torch.allclose(together, torch.stack([text.embedding for text in texts]), atol=1e-4)


def test_fp8_stays_fp8_and_the_embedding_is_tied_and_half(encoder):
    assert sum(1 for _ in packed_linears(encoder)) == 2 * 7  # as 168 = 24 * 7 in UMT5-XXL
    shared = encoder.model.shared.weight
    assert shared.dtype == torch.float16 and encoder.model.encoder.embed_tokens.weight is shared


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_files_stay_so_and_compute_in_float32(dtype):
    plain = small_text_encoder_state(fp8=False)
    half = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in plain.items()
    }
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in half.items()}
    ours, expected = (load_text_encoder(one).encode(SENTENCES[1], 64).embedding for one in (half, wide))
    assert torch.equal(ours, expected)


def test_a_gguf_encoder_with_these_names_is_read_and_odd_shapes_are_refused():
    plain = small_text_encoder_state(fp8=False)
    packed = {
        name: QuantizedTensor.from_weights(tensor.float(), "Q8_0") if name.endswith(".q.weight") else tensor
        for name, tensor in plain.items()
    }
    ours, expected = (load_text_encoder(one).encode(SENTENCES[1], 64).embedding for one in (packed, plain))
    assert 0 < (ours - expected).abs().max() < 0.05 * expected.abs().max()
    name = "encoder.block.0.layer.0.SelfAttention.q"
    with pytest.raises(WanError, match="no UMT5 text encoder has a .*q.weight of shape"):
        load_text_encoder(plain | {f"{name}.weight": torch.tensor(1.0)})
    state = small_text_encoder_state()
    for scale in (torch.ones(256, 1), torch.tensor(torch.nan)):
        with pytest.raises(WanError, match="one finite number as its scale"):
            load_text_encoder(state | {f"{name}.scale_weight": scale})


def test_encoded_text_tells_its_pieces_and_what_was_cut(encoder):
    text = encoder.encode("  A sword &amp; a torch ", 64)
    assert text.prompt == "A sword & a torch" and text.cut == 0
    assert len(text.pieces) == text.tokens == len(text.ids) and text.pieces[-1] == "</s>"
    short = encoder.encode("A sword & a torch", 3)
    assert short.tokens == 3 and short.cut == text.tokens - 3 and short.pieces[:2] == text.pieces[:2]
    empty = encoder.encode("", 8)
    assert empty.pieces == ("</s>",) and empty.embedding[0].any()


def test_shape_is_read_from_the_tensors(state):
    assert TextShape.of(state) == TextShape(vocab=128, dim=256, heads=4, ffn_dim=512, layers=2)
    with torch.device("meta"):
        xxl = to_file_names(new_text_encoder(TextShape()))
    assert len(xxl) == 242  # 24 layers x 10, embedding, last norm
    assert sum(tensor.numel() for tensor in xxl.values()) == 5_680_910_336
    assert TextShape.of(xxl) == TextShape()


def test_new_encoder_can_be_trained_and_saved(state):
    model = new_text_encoder(TextShape(vocab=128, dim=64, heads=1, ffn_dim=64, layers=1))
    model(torch.tensor([[5, 6, 1]])).last_hidden_state.square().mean().backward()
    assert model.shared.weight.grad.abs().sum() > 0
    loaded = load_text_encoder(to_file_names(model) | {"spiece_model": state["spiece_model"]})
    with torch.no_grad():
        expected = model.eval()(torch.tensor([loaded.tokenizer.encode("a torch")])).last_hidden_state[0]
    assert torch.allclose(loaded.encode("a torch", len(expected)).embedding, expected, atol=1e-5)


def test_a_vocabulary_larger_than_the_embedding_is_explained(state):
    model = new_text_encoder(TextShape(vocab=16, dim=64, heads=1, ffn_dim=64, layers=1))
    with pytest.raises(WanError, match="do not belong together"):
        load_text_encoder(to_file_names(model) | {"spiece_model": state["spiece_model"]})


def test_wrong_files_are_explained(state):
    without = {name: tensor for name, tensor in state.items() if name != "spiece_model"}
    with pytest.raises(WanError, match="carries its tokenizer as spiece_model"):
        load_text_encoder(without)
    with pytest.raises(WanError, match="cannot be read"):
        load_text_encoder(without | {"spiece_model": torch.zeros(100, dtype=torch.uint8)})
    with pytest.raises(WanError, match="lacks shared.weight"):
        load_text_encoder({name: tensor for name, tensor in state.items() if name != "shared.weight"})
    with pytest.raises(WanError, match="mean nothing without their scale"):
        load_text_encoder({name: tensor for name, tensor in state.items() if "scale_" not in name})
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    for own, kind in ((name, torch.float8_e5m2), ("shared.weight", torch.float8_e4m3fn)):
        with pytest.raises(WanError, match=f"{own} is {str(kind)[6:]}: choose umt5_xxl_fp8_e4m3fn_scaled"):
            load_text_encoder(state | {own: state[own].float().to(kind)})
    with pytest.raises(WanError, match="1 are not in this file .encoder.final_layer_norm.weight"):
        load_text_encoder(
            {n: tensor for n, tensor in state.items() if n != "encoder.final_layer_norm.weight"}
        )
    with pytest.raises(WanError, match="no place for 1"):
        load_text_encoder(state | {"decoder.block.0.weight": torch.zeros(1)})
