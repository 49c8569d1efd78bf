"""Train the scale model's VAE: first on single frames, which teach the space fast, then on the full length.

The network is Wan's own (`AutoencoderKLWan`), base_dim 16 with one residual block. A VAE trained on short clips
does not hold over long ones, so the second part trains on all 13 frames.
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, WanResample
from torch import Tensor, nn

from ..vae import Vae, VaeShape, channels_last, decode_full_length, encode_full_length, new_autoencoder
from .data import to_pixels, training_videos
from .latents import LatentPool
from .loop import Budget, narrow_is_faster, train

SHAPE = VaeShape(base_dim=16, res_blocks=1)
KL_WEIGHT = 1e-4  # enough to keep the latents near a unit Gaussian, too little to blur
# Of the decoder alone; after 2.5 minutes of 1.0, edges had 0.63 to 0.83 of their energy.
CONTRAST_WEIGHT = 1.5


def draw_crops(
    videos: np.ndarray, *, batch: int, frames: int, side: int, dice: np.random.Generator
) -> Tensor:
    """Crops in space (and, for single frames, time), mirrored half of the time: (B, 3, frames, side, side).

    Of two random places the busier is taken: a sword needs more practice than an evening sky.
    """
    count, length, height, width = videos.shape[:4]

    def draw() -> np.ndarray:
        at = dice.integers(length - frames + 1)
        y, x = dice.integers(height - side + 1), dice.integers(width - side + 1)
        return videos[dice.integers(count), at : at + frames, y : y + side, x : x + side]

    crops = [max(draw(), draw(), key=edge_energy) for _ in range(batch)]
    return to_pixels(np.stack([crop[:, :, ::-1] if dice.random() < 0.5 else crop for crop in crops]))


def edge_energy(crop: np.ndarray) -> float:
    """Mean difference between neighbouring pixels of the first frame of a crop (F, H, W, 3), uint8."""
    frame = crop[0].astype(np.int16)
    return float(np.abs(np.diff(frame, axis=0)).mean() + np.abs(np.diff(frame, axis=1)).mean())


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


def contrast_loss(output: Tensor, video: Tensor) -> Tensor:
    """How far the strength of edges, root mean square over 8x8 pixels, is from the video's.

    The error alone is least for a blurred picture: detail that the latent only half tells is best left half as strong.
    Nobody likes to look at that. This asks for details as strong as the video's, wherever exactly they are.
    """

    def strength(picture: Tensor) -> Tensor:
        down, across = picture.diff(dim=-2)[..., :, :-1], picture.diff(dim=-1)[..., :-1, :]
        energy = (down.square() + across.square()).mean(1)  # (B, F, H - 1, W - 1)
        return (F.avg_pool2d(energy, 8, stride=4) + 1e-5).sqrt()

    return (strength(output) - strength(video)).abs().mean()


def vae_loss(model: nn.Module, video: Tensor, *, narrow: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of one batch, with the squared error and the KL divergence from a unit Gaussian for the log.

    `narrow`: in bfloat16, which processors without it compute five times slower than float32.
    """
    with torch.autocast(video.device.type, torch.bfloat16, enabled=narrow):
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
            same = torch.eye(weight.shape[1], device=weight.device)
            same = same.repeat(weight.shape[0] // weight.shape[1], 1)[..., None, None]
            weight *= 0.1
            weight[:, :, 2] += same if module.mode == "upsample3d" else same / 2
            weight[:, :, 1] += 0 if module.mode == "upsample3d" else same / 2
            nn.init.zeros_(module.time_conv.bias)  # type: ignore[arg-type]


def train_vae(
    folder: Path, *, minutes: float, device: str = "cpu", compile: bool = False
) -> AutoencoderKLWan:
    """Train for `minutes` (a fifth of them on single frames); checkpoints and curves go to folder/vae_*."""
    torch.manual_seed(0)
    with torch.device(device):
        model = channels_last(new_autoencoder(SHAPE))
    model = _stage(
        model, folder / "vae_frames", Budget(0.2 * minutes, learning_rate=2e-3), 32, 1, 64, compile
    )
    if not (folder / "vae_videos").exists():
        grow_into_time(model)
    return _stage(model, folder / "vae_videos", Budget(0.8 * minutes, learning_rate=2e-3), 4, 13, 48, compile)


def draw_latent_crops(
    pools: list[LatentPool], *, batch: int, cells: int, dice: random.Random
) -> tuple[Tensor, Tensor]:
    """The same places in latents (B, 16, F, cells, cells) and in the videos they came from, pixels; busy ones, as above."""

    def draw() -> tuple[np.ndarray, np.ndarray]:
        pool = dice.choice(pools)
        index = dice.randrange(pool.ready)
        y, x = (dice.randrange(side - cells + 1) for side in pool.shape[2:])
        video = pool.videos.videos()[index][:, 8 * y : 8 * (y + cells), 8 * x : 8 * (x + cells)]
        return pool.read()[index, :, :, y : y + cells, x : x + cells].astype(np.float32), video

    crops = [max(draw(), draw(), key=lambda crop: edge_energy(crop[1])) for _ in range(batch)]
    latents, videos = zip(*crops, strict=True)
    return torch.from_numpy(np.stack(latents)), to_pixels(np.stack(videos))


def train_decoder(
    folder: Path, vae: Vae, pools: list[LatentPool], *, minutes: float, compile: bool = False
) -> AutoencoderKLWan:
    """Train the decoder of a finished VAE for `minutes` more; the encoder, and so every latent, stays as it is."""
    model, dice = vae.model, random.Random()
    narrow = narrow_is_faster(model.device.type)
    trained = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)

    def decoder_loss(latent: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        latent = latent + 0.05 * torch.randn_like(latent)  # what the transformer paints is never exact either
        with torch.autocast(video.device.type, torch.bfloat16, enabled=narrow):
            output = decode_full_length(model, latent * vae.std + vae.mean).float()
        loss = reconstruction_loss(output, video) + CONTRAST_WEIGHT * contrast_loss(output, video)
        return loss, (output - video).square().mean()

    loss_function = torch.compile(decoder_loss) if compile else decoder_loss

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        latent, video = draw_latent_crops(pools, batch=4, cells=6, dice=dice)
        video = video.to(model.device).contiguous(memory_format=torch.channels_last_3d)
        loss, squared = loss_function(latent.to(model.device), video)
        return loss, {"psnr": 10 * np.log10(4 / squared.item())}

    return train(
        model,
        loss_of,
        budget=Budget(minutes, learning_rate=1e-3),
        folder=folder / "vae_decoder",
        parameters=trained,
        orthogonal=kernels(trained),
    )


def kernels(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """The convolutions that Muon moves: all but the few that are only a handful of numbers wide."""
    return [p for p in parameters if p.ndim >= 4 and min(p.shape[0], p[0].numel()) >= 8]


def _stage(
    model: AutoencoderKLWan, folder: Path, budget: Budget, batch: int, frames: int, side: int, compile: bool
) -> AutoencoderKLWan:
    """Train on random crops; returns the averaged network, ready for the next stage."""
    many = [pool.videos() for pool in training_videos(folder.parent)]
    dice = np.random.default_rng()
    loss_function = torch.compile(vae_loss) if compile else vae_loss
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        videos = many[dice.integers(len(many))]
        video = draw_crops(videos, batch=batch, frames=frames, side=side, dice=dice)
        video = video.to(model.device).contiguous(memory_format=torch.channels_last_3d)
        loss, squared, kl = loss_function(model, video, narrow=narrow_is_faster(model.device.type))
        return loss, {"psnr": 10 * np.log10(4 / squared.item()), "kl": kl.item()}

    average = train(
        model, loss_of, budget=budget, folder=folder, parameters=parameters, orthogonal=kernels(parameters)
    )
    model.load_state_dict(average.state_dict())
    return model
