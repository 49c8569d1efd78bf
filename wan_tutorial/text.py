"""Words -> tokens -> embeddings: the first stage of the pipeline.

In: a prompt. Out: `EncodedText`, whose embedding (length, dim), float32, is what the transformer's cross-attention
reads. UMT5 (transformers' `UMT5EncoderModel`; official Wan: `wan/modules/t5.py`) turns pieces of words into vectors
that know their neighbours. The file is ComfyUI's `umt5_*_fp8_e4m3fn_scaled.safetensors`: Hugging Face names, fp8
weights with a `scale_weight` each, and the SentencePiece model inside as `spiece_model`; plain weights work too.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ftfy
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from wan_tutorial.checkpoint import check_tensors
from wan_tutorial.errors import WanError
from wan_tutorial.quantization import FP8, Fp8Linear, PackedLinear, QuantizedTensor

PAD, EOS = 0, 1  # token ids of every T5: padding, end of text
HEAD_DIM = 64  # d_kv of every UMT5


def clean_prompt(prompt: str) -> str:
    """Repair broken characters, turn HTML codes into letters, make all white space single spaces, as Wan does."""
    prompt = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", prompt).strip()


class Tokenizer:
    """Cuts a text into the pieces that the text encoder knows, with the SentencePiece model of its file."""

    def __init__(self, model: bytes):
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise WanError(
                f"the SentencePiece model inside this file ({len(model)} bytes) cannot be read: "
                "the file is damaged; download it again."
            ) from error
        self.vocab = self.processor.get_piece_size()
        special = (self.processor.pad_id(), self.processor.eos_id())
        if special != (PAD, EOS):
            raise WanError(
                f"a T5 vocabulary has padding 0 and end 1, but this one has {special}: it is not UMT5's."
            )

    def encode(self, prompt: str, length: int = 512) -> list[int]:
        """The token ids of a prompt, the end mark included, `length` at most (the end mark stays, words go)."""
        return self.processor.encode(clean_prompt(prompt))[: length - 1] + [EOS]

    def pieces(self, prompt: str) -> list[str]:
        """The pieces as text; a leading "▁" stands for the space before a word."""
        return self.processor.encode(clean_prompt(prompt), out_type=str)


@dataclass(frozen=True)
class EncodedText:
    """A prompt as the transformer receives it."""

    prompt: str  # cleaned
    ids: tuple[int, ...]  # true tokens, the end mark included
    pieces: tuple[str, ...]  # one for each id
    embedding: Tensor  # (length, dim) float32, zero beyond the true tokens
    cut: int  # pieces that did not fit into `length`

    @property
    def tokens(self) -> int:
        """How many rows of the embedding carry meaning."""
        return len(self.ids)


class TextEncoder(nn.Module):
    """UMT5 and its tokenizer as a stage."""

    def __init__(self, model: UMT5EncoderModel, tokenizer: Tokenizer):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        if tokenizer.vocab > model.shared.num_embeddings:
            raise WanError(
                f"this file's SentencePiece model knows {tokenizer.vocab} pieces, but its embedding holds "
                f"{model.shared.num_embeddings}: the two do not belong together; use a file that carries both."
            )

    @property
    def dim(self) -> int:
        return self.model.config.d_model

    @torch.no_grad()
    def encode(self, prompt: str, length: int = 512) -> EncodedText:
        """Encode one prompt into `length` rows; only the true tokens are computed, the rest is zero."""
        ids = self.tokenizer.encode(prompt, length)
        device = self.model.shared.weight.device
        embedding = self.embed(torch.tensor([ids], device=device))[0]  # (tokens, dim)
        pieces = self.tokenizer.pieces(prompt)
        return EncodedText(
            prompt=clean_prompt(prompt),
            ids=tuple(ids),
            pieces=(*pieces[: len(ids) - 1], "</s>"),
            embedding=F.pad(embedding, (0, 0, 0, length - len(ids))),
            cut=len(pieces) + 1 - len(ids),
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, L), padded with 0, to embeddings (B, L, dim) float32, zero at the padding."""
        real = ids != PAD
        words = self.model.shared(
            ids
        ).float()  # the table may rest in half precision, the arithmetic does not
        hidden = self.model(inputs_embeds=words, attention_mask=real.long()).last_hidden_state
        return hidden * real[..., None]


# ------------------------------------------------------------------------------------------------------ building


@dataclass(frozen=True)
class TextShape:
    """The numbers that make one UMT5 encoder different from another; the defaults are UMT5-XXL's."""

    vocab: int = 256384
    dim: int = 4096
    heads: int = 64
    ffn_dim: int = 10240
    layers: int = 24
    buckets: int = 32  # of relative distance; each layer has a table of its own

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "TextShape":
        """Read the shape from the tensors of a file with Hugging Face names."""
        attention, ffn = "encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense"
        query, bias, wide = (
            f"{attention}.q.weight",
            f"{attention}.relative_attention_bias.weight",
            f"{ffn}.wi_0.weight",
        )
        needed = ("shared.weight", query, bias, wide)
        missing = [name for name in needed if name not in state]
        if missing:
            raise WanError(
                f"a UMT5 text encoder has {', '.join(needed)}, but this file lacks {', '.join(missing)}: "
                "choose a file such as umt5_xxl_fp8_e4m3fn_scaled.safetensors."
            )
        scalars = [name for name in needed if len(state[name].shape) < 2]
        if scalars:
            raise WanError(
                f"no UMT5 text encoder has a {scalars[0]} of shape {tuple(state[scalars[0]].shape)}: the file is damaged; choose "
                "a file such as umt5_xxl_fp8_e4m3fn_scaled.safetensors."
            )
        blocks = [re.match(r"encoder\.block\.(\d+)\.", name) for name in state]
        return cls(
            vocab=state["shared.weight"].shape[0],
            dim=state["shared.weight"].shape[1],
            heads=state[query].shape[0] // HEAD_DIM,
            ffn_dim=state[wide].shape[0],
            layers=len({match[1] for match in blocks if match}),
            buckets=state[bias].shape[0],
        )


def new_text_encoder(shape: TextShape) -> UMT5EncoderModel:
    """A randomly initialised UMT5 encoder to train (without dropout); `to_file_names` gives what a file stores."""
    config = UMT5Config(
        vocab_size=shape.vocab,
        d_model=shape.dim,
        d_kv=HEAD_DIM,
        d_ff=shape.ffn_dim,
        num_layers=shape.layers,
        num_heads=shape.heads,
        relative_attention_num_buckets=shape.buckets,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    model = UMT5EncoderModel(config)
    _tie(model)
    return model


def to_file_names(model: UMT5EncoderModel) -> dict[str, Tensor]:
    """The tensors as a file stores them: the embedding once, as shared.weight."""
    state = model.state_dict()
    del state["encoder.embed_tokens.weight"]
    return state


def _tie(model: UMT5EncoderModel) -> None:
    """Make the encoder read the one embedding table: transformers 5 may leave it an untrained one of its own."""
    model.set_input_embeddings(model.shared)
    assert model.encoder.embed_tokens.weight is model.shared.weight


class HalfLinear(PackedLinear):
    """A linear layer that rests in 16 bits and is widened to the activations' type at each call."""

    raw: Tensor
    weight: Any = None  # see Fp8Linear

    def __init__(self, weight: Tensor):
        super().__init__(weight.shape[1], weight.shape[0], None)
        self.register_buffer("raw", weight)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.raw.to(dtype)


def load_text_encoder(state: Mapping[str, Any], *, device: torch.device | str = "cpu") -> TextEncoder:
    """Build the frozen text encoder from a file's tensors, plain or scaled fp8, with the tokenizer inside.

    Weights keep the bytes they rest in (fp8, 16 bits) and are widened to float32 one layer at a time, so that
    UMT5-XXL needs little more than its file; activations are float32, as fp16 overflows in UMT5.
    """
    if "spiece_model" not in state:
        raise WanError(
            "a text encoder file carries its tokenizer as spiece_model, but this one does not: "
            "choose ComfyUI's repackaged file, such as umt5_xxl_fp8_e4m3fn_scaled.safetensors."
        )
    tokenizer = Tokenizer(state["spiece_model"].numpy().tobytes())
    with torch.device("meta"):
        model = new_text_encoder(TextShape.of(state))
    weights = {name: state[name] for name in state if not _is_extra(name)}
    packed = [name for name, weight in weights.items() if isinstance(weight, QuantizedTensor)]
    weights |= {name: weights[name].dequantize(torch.float16) for name in packed}  # of a GGUF file
    check_tensors(weights, to_file_names(model), what="the UMT5 text encoder")
    for name, weight in weights.items():
        _place(model, name, weight.to(device), state)
    _tie(model)
    return TextEncoder(model.requires_grad_(False).eval(), tokenizer)


def _is_extra(name: str) -> bool:
    """What stands in the file beside the weights: tokenizer, markers, scales, a second copy of the embedding."""
    return (
        name in ("spiece_model", "scaled_fp8", "encoder.embed_tokens.weight")
        or "scale_" in name.split(".")[-1]
    )


def _place(model: UMT5EncoderModel, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> None:
    """Put one tensor where it belongs; a matrix that rests in fp8 or 16 bits stays so."""
    path = name.rpartition(".")[0]
    parent, _, own = path.rpartition(".")
    layer = model.get_submodule(path)
    if weight.itemsize == 1 and not (isinstance(layer, nn.Linear) and weight.dtype == FP8):
        raise WanError(
            f"fp8 is read as float8_e4m3fn and in the layers' matrices alone, and {name} is "
            f"{str(weight.dtype).removeprefix('torch.')}: choose umt5_xxl_fp8_e4m3fn_scaled.safetensors, or a file in 16 "
            "bits."
        )
    if isinstance(layer, nn.Linear) and weight.dtype == FP8:
        scale = state.get(f"{path}.scale_weight")
        if scale is None:
            raise WanError(
                f"fp8 weights mean nothing without their scale, and {path}.scale_weight is not in this file: "
                "choose a file whose name says fp8_e4m3fn_scaled."
            )
        if scale.numel() != 1 or not scale.float().isfinite().all():
            raise WanError(
                f"a matrix in fp8 has one finite number as its scale, and {path}.scale_weight is not one: choose "
                "umt5_xxl_fp8_e4m3fn_scaled.safetensors, or a file in 16 bits."
            )
        setattr(model.get_submodule(parent), own, Fp8Linear(weight, scale))
    elif isinstance(layer, nn.Linear) and weight.dtype in (torch.float16, torch.bfloat16):
        setattr(model.get_submodule(parent), own, HalfLinear(weight))
    else:
        keep = weight.dtype if layer is model.shared else torch.float32
        layer.weight = nn.Parameter(weight.to(keep), requires_grad=False)
