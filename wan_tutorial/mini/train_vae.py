"""Train the scale model's VAE: first on single frames, which teach the space fast, then on the full length.

The network is Wan's own (`AutoencoderKLWan`), base_dim 16 with one residual block. A VAE trained on short clips
does not hold over long ones, so the second part trains on all 13 frames.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, WanResample
from torch import Tensor, nn

from ..vae import VaeShape, channels_last, decode_full_length, encode_full_length, new_autoencoder
from .data import VideoPool, to_pixels
from .loop import Budget, train

SHAPE = VaeShape(base_dim=16, res_blocks=1)
KL_WEIGHT = 1e-4  # enough to keep the latents near a unit Gaussian, too little to blur


def draw_crops(
    videos: np.ndarray, *, batch: int, frames: int, side: int, dice: np.random.Generator
) -> Tensor:
    """Random crops in space (and, for single frames, time), mirrored half of the time: (B, 3, frames, side, side)."""
    count, length, height, width = videos.shape[:4]
    crops = []
    for _ in range(batch):
        at = dice.integers(length - frames + 1)
        y, x = dice.integers(height - side + 1), dice.integers(width - side + 1)
        crop = videos[dice.integers(count), at : at + frames, y : y + side, x : x + side]
        crops.append(crop[:, :, ::-1] if dice.random() < 0.5 else crop)
    return to_pixels(np.stack(crops))


def reconstruction_loss(output: Tensor, video: Tensor) -> Tensor:
    """Absolute and squared error, plus two terms that each bring one thing sooner: edges and colours.

    Differences between neighbours keep edges sharp; means over 8x8 pixels, the size of a latent cell, are colour.
    """
    error = output - video
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    if video.shape[2] > 1:
        edges = edges + error.diff(dim=2).abs().mean()
    coarse = F.avg_pool3d(error, (1, 8, 8)).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges + 2 * coarse


def vae_loss(model: nn.Module, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of one batch, with the squared error and the KL divergence from a unit Gaussian for the log."""
    with torch.autocast(video.device.type, torch.bfloat16):
        mean, log_variance = encode_full_length(model, video).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        output = decode_full_length(model, latent).float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return reconstruction_loss(output, video) + KL_WEIGHT * kl, (output - video).square().mean(), kl


@torch.no_grad()
def grow_into_time(model: AutoencoderKLWan) -> None:
    """Let a network that has only seen single frames begin on videos where it stands, instead of from noise.

    A single frame meets only the last time slice of a causal kernel, so the others are still random: they are made
    nearly silent. Halving time begins as the mean of two frames, doubling it as showing each frame twice.
    """
    for module in model.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] == 3:
            module.weight[:, :, :-1] *= 0.1
        if isinstance(module, WanResample) and "3d" in module.mode:
            weight = module.time_conv.weight  # (C or 2C, C, 3, 1, 1)
            same = torch.eye(weight.shape[1]).repeat(weight.shape[0] // weight.shape[1], 1)[..., None, None]
            weight *= 0.1
            weight[:, :, 2] += same if module.mode == "upsample3d" else same / 2
            weight[:, :, 1] += 0 if module.mode == "upsample3d" else same / 2
            nn.init.zeros_(module.time_conv.bias)  # type: ignore[arg-type]


def train_vae(folder: Path, *, minutes: float, device: str = "cpu", compile: bool = False) -> nn.Module:
    """Train for `minutes` (a fifth of them on single frames); checkpoints and curves go to folder/vae_*."""
    torch.manual_seed(0)
    videos = VideoPool(folder, 2560).videos()
    with torch.device(device):
        model = channels_last(new_autoencoder(SHAPE))
    loss_function = torch.compile(vae_loss) if compile else vae_loss
    dice = np.random.default_rng()

    def stage(name: str, share: float, *, batch: int, frames: int, side: int, rate: float) -> nn.Module:
        def loss_of(step: int):
            video = draw_crops(videos, batch=batch, frames=frames, side=side, dice=dice)
            video = video.to(device).contiguous(memory_format=torch.channels_last_3d)
            loss, squared, kl = loss_function(model, video)
            return loss, {"psnr": 10 * np.log10(4 / squared.item()), "kl": kl.item()}

        return train(model, loss_of, budget=Budget(minutes * share, learning_rate=rate), folder=folder / name)

    average = stage("vae_frames", 0.2, batch=32, frames=1, side=64, rate=2e-3)
    model.load_state_dict(average.state_dict())
    if not (folder / "vae_videos").exists():
        grow_into_time(model)
    return stage("vae_videos", 0.8, batch=4, frames=13, side=48, rate=1e-3)
