"""Pixels <-> latents: the last stage of the pipeline, and the first when a picture comes in.

In: video (B, 3, F, H, W), float in [-1, 1], F = 4k + 1. Out: latent (B, 16, k + 1, H/8, W/8), normalised with Wan's
statistics, in which the transformer paints; and back. The network is diffusers' `AutoencoderKLWan` (official Wan:
`wan/modules/vae.py`; ComfyUI: `comfy/ldm/wan/vae.py`); files keep the original names of `wan_2.1_vae.safetensors`.

Every convolution in time looks only backwards, so a video may be walked through in two ways with one result:
chunk by chunk with a cache of the last frames (diffusers' way: little memory), or the full length in one pass
(`encode_full_length`, `decode_full_length`: faster, and differentiable for training).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanResample
from torch import Tensor, nn

from wan_tutorial.checkpoint import check_tensors
from wan_tutorial.errors import WanError
from wan_tutorial.sizes import LATENT_CHANNELS

# Wan's own latent statistics, one pair for each of the 16 channels (`wan/modules/vae.py`; the same numbers stand
# in ComfyUI's `latent_formats.Wan21`). The transformer sees (latent - mean) / std.
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

# One pass over all frames holds every frame's widest activation at once, about 12 tensors of
# pixels x base_dim x 4 bytes: up to this product (1.5 GB) it is taken, beyond it diffusers' chunks.
FULL_LENGTH_LIMIT = 32_000_000


# diffusers' networks and layers: their parts are attributes that no type declares.
Network = Any


@dataclass(frozen=True)
class VaeShape:
    """The numbers that make one Wan VAE different from another."""

    base_dim: int = 96  # channels at full resolution; Wan 96
    res_blocks: int = 2  # residual blocks per resolution; Wan 2

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "VaeShape":
        """Read the shape from the tensors of a file with original Wan names."""
        if "encoder.conv1.weight" not in state or "conv2.weight" not in state:
            raise WanError(
                "a Wan VAE file holds encoder.conv1.weight and conv2.weight, but this one does not: "
                "choose a file such as wan_2.1_vae.safetensors."
            )
        resamples = [
            re.fullmatch(r"encoder\.downsamples\.(\d+)\.resample\.1\.weight", name) for name in state
        ]
        places = [int(match[1]) for match in resamples if match]
        if len(places) != 3:
            raise WanError(
                f"a Wan 2.1 VAE halves the picture 3 times, but this file does it {len(places)} times: "
                "it is another model's VAE (Wan 2.2 has its own); choose wan_2.1_vae.safetensors."
            )
        channels = state["conv2.weight"].shape[0]
        if channels != LATENT_CHANNELS:
            raise WanError(
                f"a Wan 2.1 VAE has latents of {LATENT_CHANNELS} channels, and this one of {channels}: it is another "
                "model's VAE; choose wan_2.1_vae.safetensors."
            )
        return cls(base_dim=state["encoder.conv1.weight"].shape[0], res_blocks=min(places))


# ---------------------------------------------------------------------------------------------- building and names


def new_autoencoder(shape: VaeShape) -> AutoencoderKLWan:
    """A randomly initialised VAE network, for training or for receiving a file's tensors."""
    return AutoencoderKLWan(
        base_dim=shape.base_dim,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=shape.res_blocks,
        attn_scales=[],
        temperal_downsample=[False, True, True],
    )


def channels_last(model: AutoencoderKLWan) -> AutoencoderKLWan:
    """Lay the convolutions' weights out channel by channel, in place: a quarter to a half faster on a CPU.

    The numbers stay the same. For the full effect give the network inputs laid out alike:
    `video.contiguous(memory_format=torch.channels_last_3d)`.
    """
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in layouts and parameter.shape[-1] > 1:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])
    return model


# diffusers' spelling -> Wan's. Wan's blocks are Sequentials, whose numbers say where a layer stands:
# residual = norm, SiLU, conv, norm, SiLU, dropout, conv; head = norm, SiLU, conv; middle = block, attention, block.
_RENAMED = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.0\.(?=norm|conv)", ".middle.0.residual."),
    (r"\.mid_block\.resnets\.1\.(?=norm|conv)", ".middle.2.residual."),
    (r"\.down_blocks\.(\d+)\.(?=norm\d|conv\d)", r".downsamples.\1.residual."),
    (r"\.down_blocks\.(\d+)\.conv_shortcut\.", r".downsamples.\1.shortcut."),
    (r"\.down_blocks\.(\d+)\.", r".downsamples.\1."),
    (r"\.residual\.norm1\.", ".residual.0."),
    (r"\.residual\.conv1\.", ".residual.2."),
    (r"\.residual\.norm2\.", ".residual.3."),
    (r"\.residual\.conv2\.", ".residual.6."),
)


def wan_name(name: str, res_blocks: int) -> str:
    """The original Wan name of a tensor that diffusers' AutoencoderKLWan calls `name`."""

    def upsample(
        match: re.Match,
    ) -> str:  # the decoder: Wan numbers blocks and upsamplers through, diffusers by stage
        stage, kind, place = int(match[1]), match[2], int(match[3])
        number = stage * (res_blocks + 2) + (place if kind == "resnets" else res_blocks + 1)
        return f".upsamples.{number}."

    name = re.sub(r"\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", upsample, name)
    name = re.sub(r"\.upsamples\.(\d+)\.(?=norm\d|conv\d)", r".upsamples.\1.residual.", name)
    name = re.sub(r"\.upsamples\.(\d+)\.conv_shortcut\.", r".upsamples.\1.shortcut.", name)
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def to_wan_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename diffusers' state dict to the original names of wan_2.1_vae.safetensors."""
    stage = [re.match(r"decoder\.up_blocks\.0\.resnets\.(\d+)\.", name) for name in state]
    res_blocks = max(
        int(match[1]) for match in stage if match
    )  # the decoder has one block more than the encoder
    return {wan_name(name, res_blocks): tensor for name, tensor in state.items()}


def to_diffusers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a file's tensors (original Wan names) to diffusers'; WanError when they are not a Wan 2.1 VAE's."""
    shape = VaeShape.of(state)
    with torch.device("meta"):
        expected = new_autoencoder(shape).state_dict()
    names = {wan_name(name, shape.res_blocks): name for name in expected}
    check_tensors(state, {wan: expected[name] for wan, name in names.items()}, what="the Wan VAE")
    return {names[name]: tensor for name, tensor in state.items()}


# ------------------------------------------------------------------------------------- the network in one pass


def encode_full_length(model: Network, video: Tensor) -> Tensor:
    """Encode all frames in one pass; the fast twin of `model.encode(video).latent_dist.parameters`.

    video (B, 3, 4k + 1, H, W) -> mean and log-variance of the latent, not yet normalised, (B, 32, k + 1, H/8, W/8).
    """
    encoder = model.encoder
    x = _causal_conv(encoder.conv_in, video)
    for layer in encoder.down_blocks:
        x = _shrink(layer, x) if isinstance(layer, WanResample) else _residual(layer, x)
    x = _middle(encoder.mid_block, x)
    x = _causal_conv(encoder.conv_out, _norm_silu(encoder.norm_out, x))
    return _causal_conv(model.quant_conv, x)


def decode_full_length(model: Network, latent: Tensor) -> Tensor:
    """Decode all frames in one pass; the fast twin of `model.decode(latent).sample`, without its clamp.

    latent, not normalised, (B, 16, k + 1, h, w) -> video (B, 3, 4k + 1, 8h, 8w).
    """
    decoder = model.decoder
    x = _causal_conv(decoder.conv_in, _causal_conv(model.post_quant_conv, latent))
    x = _middle(decoder.mid_block, x)
    for stage in decoder.up_blocks:
        for block in stage.resnets:
            x = _residual(block, x)
        if stage.upsamplers is not None:
            x = _grow(stage.upsamplers[0], x)
    return _causal_conv(decoder.conv_out, _norm_silu(decoder.norm_out, x))


def _causal_conv(conv: Network, x: Tensor) -> Tensor:
    """Convolve in space and time, padding time with zeros on the left only: no frame sees a later one."""
    width, _, height, _, past, _ = conv._padding
    if (
        x.shape[2] == 1 and conv.stride[0] == 1
    ):  # a single frame meets only the kernel's last slice: 3x less work
        y = F.conv2d(x[:, :, 0], conv.weight[:, :, -1], conv.bias, padding=(height, width))
        return y[:, :, None]
    x = F.pad(x, (0, 0, 0, 0, past, 0)) if past else x
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, padding=(0, height, width))


def _norm_silu(norm: Network, x: Tensor) -> Tensor:
    """Scale each cell's channels to unit mean square, times gamma, then SiLU; the sum of squares is in float32."""
    with torch.autocast(x.device.type, enabled=False):
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        return F.silu(x * (norm.scale / length).to(x.dtype) * norm.gamma.to(x.dtype))


def _residual(block: Network, x: Tensor) -> Tensor:
    """The residual block: x + conv(silu(norm(conv(silu(norm(x))))))."""
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else _causal_conv(block.conv_shortcut, x)
    x = _causal_conv(block.conv1, _norm_silu(block.norm1, x))
    return shortcut + _causal_conv(block.conv2, _norm_silu(block.norm2, x))


def _middle(middle: Network, x: Tensor) -> Tensor:
    """Block, attention within each frame, block: at the lowest resolution, where attention is cheap."""
    x = middle.attentions[0](_residual(middle.resnets[0], x))
    return _residual(middle.resnets[1], x)


def _by_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a 2-D layer to every frame: frames stand in for the batch."""
    batch, _, frames = x.shape[:3]
    y = layer(x.transpose(1, 2).flatten(0, 1))  # (B F, C, H, W)
    return y.unflatten(0, (batch, frames)).transpose(1, 2)  # (B, C, F, H', W')


def _shrink(resample: Network, x: Tensor) -> Tensor:
    """Halve height and width; in the 3-D kind halve time as well: 4k + 1 frames become 2k + 1."""
    x = _by_frame(resample.resample, x)
    if resample.mode == "downsample3d" and x.shape[2] > 1:  # the first frame keeps its own latent frame
        x = torch.cat([x[:, :, :1], _causal_conv(resample.time_conv, x)], dim=2)
    return x


def _grow(resample: Network, x: Tensor) -> Tensor:
    """Double height and width; in the 3-D kind double time as well: k + 1 frames become 2k + 1."""
    if resample.mode == "upsample3d" and x.shape[2] > 1:
        # The first frame passes alone, and the rest begins with zeros before it, as if the first did not exist:
        # Wan was trained that way ("Rep" in the official code), so the quirk is part of the model.
        rest = _causal_conv(resample.time_conv, x[:, :, 1:])  # (B, 2C, k, H, W): two frames side by side
        rest = rest.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)  # (B, C, 2k, H, W)
        x = torch.cat([x[:, :, :1], rest], dim=2)
    conv = resample.resample[1]
    return _by_frame(lambda frames: conv(F.interpolate(frames, scale_factor=2, mode="nearest-exact")), x)


# ------------------------------------------------------------------------------------------------- the stage


class Vae(nn.Module):
    """The VAE as a stage: normalised latents on one side, pixels on the other."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: AutoencoderKLWan):
        super().__init__()
        self.model: Network = model
        self.register_buffer("mean", torch.tensor(LATENT_MEAN).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LATENT_STD).view(1, -1, 1, 1, 1), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @torch.no_grad()
    def encode(self, video: Tensor, *, tiled: bool = False) -> Tensor:
        """Pixels to latent: video (B, 3, 4k + 1, H, W) in [-1, 1] -> (B, 16, k + 1, H/8, W/8), float32.

        Takes the mean of the posterior, so the same video always gives the same latent.
        `tiled`: in overlapping tiles of 256 pixels, for pictures too large for the memory.
        """
        frames, height, width = video.shape[2:]
        if frames % 4 != 1 or height % 8 or width % 8:
            raise WanError(
                "the VAE takes 4k + 1 frames with sides that are multiples of 8, but this video has "
                f"{frames} frames of {width}x{height}: the nearest that fits is "
                f"{max(0, round((frames - 1) / 4)) * 4 + 1} frames of "
                f"{max(1, round(width / 8)) * 8}x{max(1, round(height / 8)) * 8}."
            )
        video = video.to(self.model.device, self.dtype)  # (B, 3, F, H, W)
        if not tiled and self._fits(frames * height * width * video.shape[0]):
            video = video.contiguous(memory_format=torch.channels_last_3d)
            moments = encode_full_length(self.model, video)
        else:
            self._tile(tiled)
            moments = self.model.encode(video).latent_dist.parameters
        if self.dtype == torch.float16 and not moments.isfinite().all():  # as in decode
            self.model.float()
            return self.encode(video, tiled=tiled)
        return (moments.chunk(2, dim=1)[0].float() - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latent: Tensor, *, tiled: bool = False) -> Tensor:
        """Latent to pixels: (B, 16, k + 1, h, w) -> video (B, 3, 4k + 1, 8h, 8w), float32 in [-1, 1]."""
        latent = (latent.to(self.mean.device, torch.float32) * self.std + self.mean).to(self.dtype)
        batch, _, frames, height, width = latent.shape
        if not tiled and self._fits(batch * (4 * frames - 3) * height * width * 64):
            latent = latent.contiguous(memory_format=torch.channels_last_3d)
            video = decode_full_length(self.model, latent)
        else:
            self._tile(tiled)
            video = self.model.decode(latent).sample
        if self.dtype == torch.float16 and not video.isfinite().all():  # beyond 65504: once more, exactly
            self.model.float()
            return self.decode((latent.float() - self.mean) / self.std, tiled=tiled)
        if not video.isfinite().all():
            raise WanError(
                "the VAE answers with numbers that are not finite: its file is damaged, or the latent is; download the file "
                "again."
            )
        return video.float().clamp(-1, 1).contiguous()

    def _fits(self, pixels: int) -> bool:
        return pixels * self.model.config.base_dim <= FULL_LENGTH_LIMIT

    def _tile(self, tiled: bool) -> None:
        self.model.enable_tiling()
        self.model.use_tiling = tiled


def load_vae(state: Mapping[str, Any], *, dtype: torch.dtype = torch.float32) -> Vae:
    """Build the VAE from a file's tensors (original Wan names); its size is read from their shapes."""
    with torch.device("meta"):
        model = new_autoencoder(VaeShape.of(state))
    tensors = {name: tensor.to(dtype) for name, tensor in to_diffusers_names(state).items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return Vae(channels_last(model.requires_grad_(False).eval()))
