"""From training checkpoints to the shipped files: same formats, names and conventions as the real ones.

The one thing a file cannot hold is how latents are normalised: Wan's mean and deviation of each channel are
constants of the code. So the scale model's own statistics are folded into the last layer of its encoder and the
first of its decoder, and its latents come out with Wan's.
"""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor

from ..errors import WanError
from ..files import read_tensors, write_safetensors
from ..quantization import QuantizedTensor
from ..text import Tokenizer
from ..transformer import (
    WanTransformer,
    build_transformer,
    new_transformer,
    start_vace_blocks,
    vace_blocks_are_silent,
)
from ..vae import LATENT_MEAN, LATENT_STD, encode_full_length, new_autoencoder, to_wan_names
from .data import to_pixels, training_videos
from .loop import averaged, fast_products
from .quantize import quantize_master, write_text_encoder, write_transformer
from .train_transformer import SHAPE as TRANSFORMER_SHAPE
from .train_vae import SHAPE as VAE_SHAPE

ASSETS = Path("assets/mini")
MASTER = "Wan2.1_mini_VACE-F16.gguf"
QUANTISED = "Wan2.1_mini_VACE-Q3_K_S.gguf"
TEXT_ENCODER = "umt5_mini_fp8_e4m3fn_scaled.safetensors"
VAE = "wan_2.1_mini_vae.safetensors"


def release_text_encoder(folder: Path, assets: Path = ASSETS) -> None:
    weights = load_file(folder / "text_encoder.safetensors")
    spiece = (folder / "tokenizer.model").read_bytes()
    assert Tokenizer(spiece).vocab == len(weights["shared.weight"])
    write_text_encoder(weights, spiece, assets / TEXT_ENCODER)


@torch.no_grad()
def release_vae(folder: Path, assets: Path = ASSETS, *, sample: int = 192) -> None:
    """Fold the statistics of `sample` videos' latents into the network and write it in 16 bits, as Wan's is."""
    model = new_autoencoder(VAE_SHAPE).eval()
    model.load_state_dict(averaged(folder / "vae_videos"))
    videos = training_videos(folder)[0].videos()
    chunks = []
    for start in range(0, min(sample, len(videos)), 8):
        with fast_products("cpu"):
            chunks.append(
                encode_full_length(model, to_pixels(videos[start : start + 8])).float().chunk(2, 1)[0]
            )
    latents = torch.cat(chunks)  # (N, 16, F, H, W)
    fold_statistics(model, latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4)))
    write_vae(model, assets)


def write_vae(model: AutoencoderKLWan, assets: Path = ASSETS) -> None:
    """Write a VAE whose latents have Wan's statistics, in 16 bits."""
    halves = {
        name: t.to("cpu", torch.float16).contiguous() for name, t in to_wan_names(model.state_dict()).items()
    }
    write_safetensors(assets / VAE, halves)


@torch.no_grad()
def fold_statistics(model: AutoencoderKLWan, mean: Tensor, std: Tensor) -> None:
    """Rescale so that latents with this mean and deviation come out with Wan's, and decode as before.

    Encoder, last layer: z' = (z - mean) / std * WAN_STD + WAN_MEAN. Decoder, first layer: the same backwards.
    """
    wan_mean, wan_std = torch.tensor(LATENT_MEAN), torch.tensor(LATENT_STD)
    scale = wan_std / std  # (16,)
    last, first = model.quant_conv, model.post_quant_conv
    assert last.bias is not None and first.bias is not None
    last.weight[:16] *= scale.view(-1, 1, 1, 1, 1)
    last.bias[:16] = (last.bias[:16] - mean) * scale + wan_mean
    last.bias[16:] += 2 * scale.log()  # the log-variance of a scaled number
    first.bias += first.weight[..., 0, 0, 0] @ (mean - wan_mean / scale)
    first.weight /= scale.view(1, -1, 1, 1, 1)


def release_transformer(folder: Path, assets: Path = ASSETS) -> None:
    """Write the F16 master, and Q3_K_S made from it."""
    model: WanTransformer = new_transformer(TRANSFORMER_SHAPE)
    model.load_state_dict(averaged(folder / "transformer"))
    # Blocks that speak were trained with an earlier state of the main blocks, and stay.
    if vace_blocks_are_silent(model):
        start_vace_blocks(model)
    write_transformer(model.state_dict_wan_names(), assets / MASTER, "F16")
    quantize_master(assets / MASTER, assets / QUANTISED, "Q3_K_S")


def load_master(assets: Path = ASSETS) -> WanTransformer:
    """The released F16 master as a network of float32 weights."""
    return build_transformer(read_tensors(assets / MASTER).require("transformer").tensors)


def release_vace(trained: WanTransformer, assets: Path = ASSETS) -> None:
    """Write both files again with trained VACE blocks; no other tensor of either may differ by a bit."""
    names = (MASTER, QUANTISED)
    before = {name: _base_bits(assets / name) for name in names}
    new = {name: assets / f"new-{name}" for name in names}
    try:
        write_transformer(trained.state_dict_wan_names(), new[MASTER], "F16")
        quantize_master(new[MASTER], new[QUANTISED], "Q3_K_S")
        if any(_base_bits(new[name]) != before[name] for name in names):
            raise WanError(
                f"The main blocks of {MASTER} or {QUANTISED} are not those that VACE was trained on: train VACE again "
                "on the released transformer."
            )
        for name in names:
            new[name].replace(assets / name)
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def _base_bits(path: Path) -> dict[str, bytes]:
    """All tensors of a transformer but the VACE blocks', as the file holds them."""
    tensors = read_tensors(path).require("transformer").tensors.items()
    base = {name: t.raw if isinstance(t, QuantizedTensor) else t for name, t in tensors if "vace" not in name}
    return {name: data.contiguous().numpy().tobytes() for name, data in base.items()}
