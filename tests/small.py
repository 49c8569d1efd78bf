"""Small random models with the real names, layouts and quirks, for everybody's tests.

`small_*_state` gives tensors in memory; `write_small_model(folder)` writes the three files of a whole pipeline.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from wan_tutorial.files import write_gguf, write_safetensors
from wan_tutorial.quantization import FP8, QuantizedTensor, quantize_fp8
from wan_tutorial.text import TextShape, new_text_encoder, to_file_names
from wan_tutorial.transformer import TransformerShape, new_transformer
from wan_tutorial.vae import VaeShape, new_autoencoder, to_wan_names

TRANSFORMER = TransformerShape(dim=256, ffn_dim=512, layers=4, text_dim=256, vace_blocks=2)
TEXT_TO_VIDEO = TransformerShape(dim=256, ffn_dim=512, layers=2, text_dim=256, vace_blocks=0)
VAE = VaeShape(base_dim=8, res_blocks=1)

SENTENCES = (
    "A sword stands in the burning wood of a bonfire at night.",
    "An axe beside the fire, orange flames, glowing embers, thin smoke.",
    "A torch in a snowfield, blue flames, soft volumetric light, still camera.",
    "A lantern by the sea shore, green fire, slow pan to the left, detailed texture.",
    "blurry, messy, chaotic motion, bad quality",
)


def small_transformer_state(shape: TransformerShape = TRANSFORMER, *, seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors under original Wan names; nothing in them is zero, so that every part matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = new_transformer(shape).requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    return model.state_dict_wan_names()


def packed(state: dict[str, Tensor], kind: str = "Q3_K") -> dict[str, Tensor | QuantizedTensor]:
    """The same state with the matrices of its blocks packed, as a GGUF file holds them."""
    return {
        name: QuantizedTensor.from_weights(tensor, kind)
        if "blocks." in name and _is_matrix(tensor)
        else tensor
        for name, tensor in state.items()
    }


def small_vae_state(shape: VaeShape = VAE, *, seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors under the original names of wan_2.1_vae.safetensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            name: tensor.detach()
            for name, tensor in to_wan_names(new_autoencoder(shape).state_dict()).items()
        }


@lru_cache
def small_sentencepiece(vocab: int = 120) -> bytes:
    """A SentencePiece model of a few sentences, with T5's padding 0, end 1, unknown 2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=vocab,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def small_text_encoder_state(
    *, fp8: bool = True, dim: int = 256, layers: int = 2, seed: int = 0
) -> dict[str, Tensor]:
    """A UMT5 encoder under Hugging Face names with its tokenizer, scaled fp8 as ComfyUI's file or plain float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = TextShape(vocab=128, dim=dim, heads=dim // 64, ffn_dim=2 * dim, layers=layers)
        plain = {name: tensor.detach() for name, tensor in to_file_names(new_text_encoder(shape)).items()}
    state = {"spiece_model": torch.frombuffer(bytearray(small_sentencepiece()), dtype=torch.uint8)}
    if not fp8:
        return state | plain
    state["scaled_fp8"] = torch.empty(2).to(FP8)
    for name, tensor in plain.items():
        if _is_matrix(tensor) and name != "shared.weight" and "relative_attention_bias" not in name:
            state[name], state[name.removesuffix("weight") + "scale_weight"] = quantize_fp8(tensor)
        else:
            state[name] = tensor.half()
    return state


@dataclass(frozen=True)
class SmallModel:
    """Where `write_small_model` put its files."""

    transformer: Path
    text_encoder: Path
    vae: Path


def write_small_model(folder: Path, *, kind: str = "Q3_K", seed: int = 0) -> SmallModel:
    """Write a whole random pipeline: GGUF transformer, scaled-fp8 text encoder, VAE."""
    model = SmallModel(
        folder / f"small-{kind}.gguf", folder / "umt5_small_fp8.safetensors", folder / "vae.safetensors"
    )
    write_gguf(model.transformer, packed(small_transformer_state(seed=seed), kind))
    write_safetensors(model.text_encoder, small_text_encoder_state(seed=seed))
    write_safetensors(model.vae, small_vae_state(seed=seed))
    return model


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.ndim == 2


def diffusers_pipeline(pipe):
    """diffusers' own WanVACEPipeline around the weights of `pipe`: its grid at shift 5, its solver (bh2)."""
    from diffusers import UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel

    shape = pipe.transformer.shape
    transformer = WanVACETransformer3DModel(
        num_attention_heads=shape.heads,
        attention_head_dim=128,
        text_dim=shape.text_dim,
        ffn_dim=shape.ffn_dim,
        num_layers=shape.layers,
        freq_dim=shape.freq_dim,
        vace_layers=list(shape.vace_layers),
        vace_in_channels=96,
        rope_max_seq_len=64,
    )
    transformer.load_state_dict(pipe.transformer.state_dict(), strict=True)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    made = WanVACEPipeline(
        tokenizer=None, text_encoder=None, vae=pipe.vae.model, scheduler=scheduler, transformer=transformer
    )
    made.set_progress_bar_config(disable=True)
    return made


def interrupt_at_second_call(pipe, monkeypatch):
    """Let the transformer answer once, then be stopped as by Ctrl-C."""
    asked, forward = [], pipe.transformer.forward

    def stopping(*inputs, **named):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return forward(*inputs, **named)

    monkeypatch.setattr(pipe.transformer, "forward", stopping)
