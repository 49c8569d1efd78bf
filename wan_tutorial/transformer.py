"""The diffusion transformer: looks at a noisy latent, a time and a text, and says which way the noise lies.

In: latent (B, 16, F, H, W), timestep (B,) from 1000 (pure noise) to 0 (clean), text embeddings (B, L, text_dim) and,
for VACE, a context (B, 96, F, H, W) that says what is given. Out: the velocity, noise - clean, shaped as the latent.

The blocks are diffusers' (`transformer_wan.py`, `transformer_wan_vace.py`); the forward around them is ours, as in
ComfyUI (`comfy/ldm/wan/model.py`): a VACE block runs when its hint is due, so that only one hint is alive, where
diffusers and the official code (`wan/modules/vace_model.py`) compute all of them first. The numbers are the same.
Files keep the original Wan names (`blocks.0.self_attn.q.weight`); no config file is needed, the shape of the model
is read from the shapes of its tensors.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanTimeTextImageEmbedding,
    WanTransformerBlock,
)
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformerBlock
from torch import Tensor, nn
from torch.func import functional_call

from wan_tutorial.checkpoint import check_tensors
from wan_tutorial.errors import WanError
from wan_tutorial.quantization import FLOAT_TYPES, QuantizedLinear, QuantizedTensor, widen_within
from wan_tutorial.sizes import LATENT_CHANNELS, feed_forward_parts

HEAD_DIM = 128  # of every Wan model
CONTEXT_CHANNELS = 96  # of what is given: 16 of what stays, 16 of what is painted over, 64 of mask
PATCH = (1, 2, 2)  # a token is 1 latent frame x 2 x 2 latent cells

# What computes in float32 whatever the compute dtype, by the names of the file. The residual stream, the rotary
# embedding and the q/k norms do as well; so does the official code, while fp16 alone would overflow or blur there.
FLOAT32_PARTS = ("patch_embedding", "vace_patch_embedding", "time_embedding", "norm", "modulation", "head")

# The tensors whose shapes tell the shape of the model.
_TELLING = (
    "head.modulation",
    "head.head.weight",
    "patch_embedding.weight",
    "blocks.0.ffn.0.weight",
    "text_embedding.0.weight",
    "time_embedding.0.weight",
)

# The two whose weights have five dimensions.
_CONVOLUTIONS = ("patch_embedding", "vace_patch_embedding")

Taps = Callable[[str, Tensor, Tensor], None]


@dataclass(frozen=True)
class TransformerShape:
    """The numbers that make one Wan transformer different from another; the defaults are Wan2.1-VACE-14B's."""

    dim: int = 5120
    ffn_dim: int = 13824
    layers: int = 40
    text_dim: int = 4096
    freq_dim: int = 256
    vace_blocks: int = 8  # 0: plain text to video

    in_channels = LATENT_CHANNELS  # the same in all that are read here, so no field

    def __post_init__(self) -> None:
        if self.dim % HEAD_DIM or self.dim < HEAD_DIM:
            raise WanError(
                f"a Wan transformer has heads of {HEAD_DIM}, so its dim is a multiple of it, not {self.dim}."
            )
        if self.vace_blocks and self.layers % self.vace_blocks:
            raise WanError(
                f"VACE blocks sit at equal distances, so their number divides that of the layers; {self.vace_blocks} "
                f"does not divide {self.layers}."
            )

    @property
    def heads(self) -> int:
        return self.dim // HEAD_DIM

    @property
    def vace_layers(self) -> tuple[int, ...]:
        """The main blocks that receive a hint: 0, 5, 10 ... 35 in the 14B model."""
        return tuple(range(0, self.layers, self.layers // self.vace_blocks)) if self.vace_blocks else ()

    @classmethod
    def of(cls, state: Mapping[str, Tensor | QuantizedTensor]) -> "TransformerShape":
        """Read the shape from the tensors of a file with original Wan names, as ComfyUI's model_detection does."""
        lost = [
            f"{name}.weight"
            for name in _CONVOLUTIONS
            if f"{name}.bias" in state and f"{name}.weight" not in state
        ]
        if lost:
            raise WanError(
                f"this file has lost {' and '.join(lost)}: some converters to GGUF set tensors of five dimensions aside and "
                "do not put them back; choose another conversion of this model."
            )
        flat = [f"{name}.weight" for name in _CONVOLUTIONS if len(_shape_in(state, name)) not in (0, 5)]
        if flat:
            raise WanError(
                f"{flat[0]} has five dimensions, and in this file the shape {_shape_in(state, flat[0][:-7])}: it was "
                "converted for another program; choose another conversion of this model."
            )
        missing = [name for name in _TELLING if name not in state]
        if missing:
            raise WanError(
                f"a Wan transformer is known by {', '.join(_TELLING)}, but this file lacks {', '.join(missing)}: "
                "it is incomplete or of another model; choose a Wan2.1 VACE or T2V file."
            )
        if any(name.startswith("img_emb.") for name in state):
            raise WanError(
                "this is an image-to-video Wan (it has img_emb), which needs a CLIP image encoder; "
                "choose a Wan2.1 VACE or T2V file, VACE takes pictures as references."
            )
        channels = _side(state, "patch_embedding.weight", 1)
        if channels != LATENT_CHANNELS:
            raise WanError(
                f"a Wan2.1 VACE or T2V transformer takes latents of {LATENT_CHANNELS} channels, and this one takes "
                f"{channels}, as image-to-video, control and Wan 2.2 models do: choose a Wan2.1 VACE or T2V file."
            )
        if any(name.endswith(".scale_weight") for name in state):
            raise WanError(
                "this transformer is in scaled fp8, which is read for the text encoder alone: choose a GGUF file of this "
                "model, or one in 16 bits."
            )
        blocks = [re.match(r"(blocks|vace_blocks)\.(\d+)\.", name) for name in state]
        counts = {(match[1], int(match[2])) for match in blocks if match}
        return cls(
            dim=_side(state, "head.modulation", -1),
            ffn_dim=_side(state, "blocks.0.ffn.0.weight", 0),
            layers=sum(kind == "blocks" for kind, _ in counts),
            text_dim=_side(state, "text_embedding.0.weight", 1),
            freq_dim=_side(state, "time_embedding.0.weight", 1),
            vace_blocks=sum(kind == "vace_blocks" for kind, _ in counts),
        )


def _side(state: Mapping[str, Tensor | QuantizedTensor], name: str, axis: int) -> int:
    """One side of a tensor in a file."""
    shape = tuple(state[name].shape)
    if not -len(shape) <= axis < len(shape):
        raise WanError(
            f"no Wan transformer has a {name} of shape {shape}: the file is damaged or of another model; choose a Wan2.1 VACE "
            "or T2V file."
        )
    return shape[axis]


def _shape_in(state: Mapping[str, Tensor | QuantizedTensor], layer: str) -> tuple[int, ...]:
    """The shape of a layer's weight in a file; () where there is none."""
    weight = state.get(f"{layer}.weight")
    return () if weight is None else tuple(weight.shape)


# --------------------------------------------------------------------------------------------------- names

# diffusers' spelling -> Wan's, in this order. Beware the swap: the norm before cross-attention, the only one with
# weights, is norm3 in Wan's files and norm2 in diffusers.
_RENAMED = (
    (r"^condition_embedder\.(text|time)_embedder\.linear_1", r"\1_embedding.0"),
    (r"^condition_embedder\.(text|time)_embedder\.linear_2", r"\1_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^proj_out", "head.head"),
    (r"^scale_shift_table", "head.modulation"),
    (r"\.scale_shift_table", ".modulation"),
    (r"\.proj_in", ".before_proj"),
    (r"\.proj_out", ".after_proj"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0", ".o"),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj", ".ffn.0"),
    (r"\.ffn\.net\.2", ".ffn.2"),
)


def wan_name(name: str) -> str:
    """The original Wan name of a tensor or layer that diffusers' WanVACETransformer3DModel calls `name`."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


# --------------------------------------------------------------------------------------------------- the model


class WanTransformer(nn.Module):
    """A Wan VACE (or plain T2V) transformer. Its layers are named as diffusers names them."""

    def __init__(self, shape: TransformerShape):
        super().__init__()
        self.shape = shape
        self.compute_dtype = torch.float32
        dim, ffn_dim, heads = shape.dim, shape.ffn_dim, shape.heads
        self.patch_embedding = nn.Conv3d(LATENT_CHANNELS, dim, PATCH, stride=PATCH)
        if shape.vace_blocks:
            self.vace_patch_embedding = nn.Conv3d(CONTEXT_CHANNELS, dim, PATCH, stride=PATCH)
        self.condition_embedder = WanTimeTextImageEmbedding(dim, shape.freq_dim, 6 * dim, shape.text_dim)
        self.blocks = nn.ModuleList(
            WanTransformerBlock(dim, ffn_dim, heads, cross_attn_norm=True) for _ in range(shape.layers)
        )
        self.vace_blocks = nn.ModuleList(
            WanVACETransformerBlock(
                dim,
                ffn_dim,
                heads,
                cross_attn_norm=True,
                apply_input_projection=n == 0,
                apply_output_projection=True,
            )
            for n in range(shape.vace_blocks)
        )
        for block in self.vace_blocks:
            for name in ("proj_in", "proj_out"):
                plain = getattr(block, name, None)
                if plain is not None:
                    setattr(block, name, WideInputLinear(plain.in_features, plain.out_features))
        for block in (*self.blocks, *self.vace_blocks):
            block.ffn.__class__ = FeedForwardInParts  # the very layers, which take many tokens in parts
        self.blocks_in_ram: BlocksInRam | None = None  # None: they rest where they compute
        self.norm_out = FP32LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, LATENT_CHANNELS * 4)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.attentions: list[Attention] = []
        for name, module in self.named_modules():
            if isinstance(module, WanAttention):
                processor: Any = Attention(wan_name(name + ".").rstrip("."))
                module.set_processor(processor)
                self.attentions.append(processor)

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        text: Tensor,
        *,
        vace_context: Tensor | None = None,
        vace_strength: float | Sequence[float] = 1.0,
        taps: Taps | None = None,
    ) -> Tensor:
        """Predict the velocity of a latent (B, C, F, H, W) at timestep (B,), given text (B, L, text_dim).

        vace_context (B, 96, F, H, W); None skips the VACE blocks altogether, as in a plain T2V model: faster, but not
        the same as a context that says "nothing is given". vace_strength: one number, or one for each VACE block.
        taps: called as taps(name, query, key) at every attention, with (B, heads, tokens, 128), after norm and rope.
        """
        strengths = self._check(latent, text, vace_context, vace_strength)
        for attention in self.attentions:
            attention.taps = taps
        with self._precision(latent.device):
            grid = (latent.shape[2], latent.shape[3] // 2, latent.shape[4] // 2)
            rope = rope_table(grid, latent.device)
            time, modulation = self._embed_time(timestep)  # (B, dim), (B, 6, dim)
            words = self.condition_embedder.text_embedder(text)  # (B, L, dim)
            x = _tokens(self.patch_embedding, latent)  # (B, T, dim)
            context = None if vace_context is None else _tokens(self.vace_patch_embedding, vace_context)
            embedded: Tensor | None = x if context is not None else None
            bring = self.blocks_in_ram.bring if self.blocks_in_ram else (lambda block: block)
            for i, block in enumerate(self.blocks):
                x = bring(block)(x, words, modulation, rope)
                if context is not None and i in self.shape.vace_layers:
                    n = self.shape.vace_layers.index(i)
                    hint, context = bring(self.vace_blocks[n])(embedded, words, context, modulation, rope)
                    x = x + hint * strengths[n]
                    embedded = hint = None  # only the first VACE block looks at the latent itself
            velocity = self._head(x, time, grid)
        del x, context, words  # a search for an overflow looks once more
        if self.compute_dtype != torch.float32 and not velocity.isfinite().all():
            raise WanError(
                f"{self._first_overflow(latent, timestep, text, vace_context, vace_strength)} gives numbers that "
                f"{str(self.compute_dtype).removeprefix('torch.')} cannot hold: load the model with dtype=torch.float32, "
                "or bfloat16 where the GPU has it."
            )
        return velocity

    def _first_overflow(self, *inputs: Any) -> str:
        """The name of the first layer whose output is not finite: the forward once more, with an eye on every layer."""
        found: list[str] = []

        def look(name: str) -> Callable[..., None]:
            def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
                if not found and isinstance(output, Tensor) and not output.isfinite().all():
                    found.append(wan_name(name + ".").rstrip("."))

            return hook

        leaves = [(name, layer) for name, layer in self.named_modules() if not list(layer.children())]
        hooks = [layer.register_forward_hook(look(name)) for name, layer in leaves]
        precise, self.compute_dtype = self.compute_dtype, torch.float32
        latent, timestep, text, context, strength = inputs
        try:
            with torch.autocast(latent.device.type, dtype=precise):
                self(latent, timestep, text, vace_context=context, vace_strength=strength)
        finally:
            self.compute_dtype = precise
            for hook in hooks:
                hook.remove()
        return found[0] if found else "the transformer, between its layers,"

    def _embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """A timestep as a vector, and as the six shifts, scales and gates that every block starts from."""
        embedder = self.condition_embedder
        with _float32(timestep.device):
            time = embedder.time_embedder(embedder.timesteps_proj(timestep))
        return time, embedder.time_proj(F.silu(time)).float().unflatten(1, (6, -1))

    def _head(self, x: Tensor, time: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens back to latent cells."""
        with _float32(x.device):
            shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
            x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)  # (B, T, 2*2*C)
        x = x.unflatten(2, (2, 2, -1)).unflatten(1, grid)  # (B, F, H/2, W/2, 2, 2, C)
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (B, C, F, H, W)

    def _precision(self, device: torch.device) -> AbstractContextManager:
        """Half-precision matrix products around a float32 residual stream; float32 follows the caller's autocast."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.compute_dtype)

    def _check(
        self, latent: Tensor, text: Tensor, context: Tensor | None, strength: float | Sequence[float]
    ) -> list[float]:
        shape = self.shape
        if latent.shape[1] != LATENT_CHANNELS or latent.shape[3] % 2 or latent.shape[4] % 2:
            raise WanError(
                f"the transformer takes latents of {LATENT_CHANNELS} channels with even height and width, but this "
                f"one is {tuple(latent.shape)}: choose a video size in multiples of 16 pixels."
            )
        if text.shape[-1] != shape.text_dim:
            raise WanError(
                f"this transformer reads embeddings of {shape.text_dim} numbers for each token, and the text encoder gives "
                f"{text.shape[-1]}: the two belong to different models; choose the text encoder made for this one."
            )
        if context is not None and not shape.vace_blocks:
            raise WanError(
                "this model has no VACE blocks (plain T2V), so it takes no reference; choose a VACE file."
            )
        expected = (latent.shape[0], CONTEXT_CHANNELS, *latent.shape[2:])
        if context is not None and tuple(context.shape) != expected:
            raise WanError(
                f"the VACE context of this latent has shape {expected}, but {tuple(context.shape)} was given."
            )
        if isinstance(strength, (int, float)):
            return [float(strength)] * shape.vace_blocks
        if len(strength) != shape.vace_blocks:
            raise WanError(
                f"give one strength, or one for each of {shape.vace_blocks} VACE blocks; not {len(strength)}."
            )
        return [float(one) for one in strength]

    def wan_names(self) -> dict[str, str]:
        """Original Wan name -> own name (diffusers'), for every tensor the model holds."""
        with torch.device("meta"):
            return {wan_name(name): name for name in WanTransformer(self.shape).state_dict()}

    def state_dict_wan_names(self) -> dict[str, Tensor | QuantizedTensor]:
        """All tensors under their original Wan names, as a file stores them; packed ones stay packed."""
        return {wan: attrgetter(own)(self) for wan, own in self.wan_names().items()}


class WideInputLinear(nn.Linear):
    """A linear layer that reads the residual stream as it is: where float16 is asked, its product is float32.

    There is no norm before `before_proj` and `after_proj`, and large models have channels beyond 65504 there. The weights
    rest in the file's type.
    """

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != torch.float16:
            return super().forward(x)
        with _float32(x.device):
            return F.linear(x.float(), self.weight.float(), self.bias.float())


class FeedForwardInParts(FeedForward):
    """The feed-forward of a block, cut into parts of the tokens where whole it would need more memory than attention."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, (_, tokens, dim) = hidden_states.device.type, hidden_states.shape
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        ffn_dim = self.net[2].in_features
        parts = feed_forward_parts(dim, ffn_dim, tokens, dtype.itemsize)  # type: ignore[arg-type]
        if parts == 1:
            return super().forward(hidden_states)
        return torch.cat([FeedForward.forward(self, part) for part in hidden_states.chunk(parts, 1)], 1)


class BlocksInRam:
    """Blocks that rest in RAM, or in the pages of their file, and come to the device one after another to compute.

    At most two are there at once: a GPU works on one while the next comes, on a stream of its own, as a GPU's work goes
    on after Python has asked for it. So an evaluation takes longer only where copying takes longer than computing. Pages
    of a file are not pinned: that would take as much RAM as the file, and the copies are hidden as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._there: deque[tuple[dict[str, Tensor], Any]] = (
            deque()
        )  # copies, and the event that their work is done

    def bring(self, block: nn.Module) -> Callable[..., Any]:
        """The block, to be called in place of itself before another is brought."""
        if self._stream is not None and self._there:  # the last one's work has been asked for by now
            self._there[-1][1].record(torch.cuda.current_stream(self.device))
        if len(self._there) == 2:
            if self._stream is not None:
                self._there[0][1].synchronize()
            self._there.popleft()
        here = self._copies(block)
        self._there.append((here, None if self._stream is None else torch.cuda.Event()))
        return lambda *inputs: functional_call(block, here, inputs)

    def _copies(self, block: nn.Module) -> dict[str, Tensor]:
        named = {**dict(block.named_parameters()), **dict(block.named_buffers())}
        with torch.no_grad(), torch.cuda.stream(self._stream):  # None: does nothing
            copies = {name: t.to(self.device, non_blocking=True, copy=True) for name, t in named.items()}
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        return copies


class Attention:
    """Attention as diffusers' blocks call it (their "processor"), with rope in one product and a tap to look in."""

    def __init__(self, name: str):
        self.name = name  # blocks.3.cross_attn
        self.taps: Taps | None = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        exact = self.taps is not None  # who looks in sees float32
        query = _placed(attn.norm_q, attn.to_q(hidden_states), rotary_emb, exact)  # (B, heads, T, 128)
        key = _placed(attn.norm_k, attn.to_k(source), rotary_emb, exact)  # (B, heads, T or L, 128)
        value = _heads(attn.to_v(source))
        if self.taps is not None:
            self.taps(self.name, query, key)
            query, key = query.to(value.dtype), key.to(value.dtype)
        x = F.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](x.transpose(1, 2).flatten(2))  # (B, T, dim)


def _placed(norm: nn.Module, x: Tensor, table: Tensor | None, exact: bool) -> Tensor:
    """Norm and turn a query or key in float32; one after the other and narrow again at once, so that one is wide."""
    dtype = torch.float32 if exact else x.dtype
    x = x.float()
    x = _heads(norm(x))
    return (x if table is None else _rotate(x, table)).to(dtype)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (-1, HEAD_DIM)).transpose(1, 2)  # (B, T, dim) -> (B, heads, T, 128)


def _tokens(embedding: nn.Module, latent: Tensor) -> Tensor:
    """Cut a latent into patches and embed each as a token; float32."""
    with _float32(latent.device):
        return embedding(latent.float()).flatten(2).transpose(1, 2).contiguous()  # (B, T, dim)


def _float32(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # the next to ask may be a training
def rope_table(grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Rotary position embedding: for every token the turns of its 64 channel pairs, complex (tokens, 64).

    22 pairs turn with the frame, 21 with the row, 21 with the column (`rope_params` in `wan/modules/model.py`).
    """
    pairs = HEAD_DIM // 2
    turns = []
    for axis, count in enumerate((pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)):
        speed = 1e4 ** (-torch.arange(count, dtype=torch.float64) / count)
        angle = torch.arange(grid[axis], dtype=torch.float64)[:, None] * speed  # (positions, count)
        shape = [1, 1, 1, count]
        shape[axis] = grid[axis]
        turns.append(torch.polar(torch.ones_like(angle), angle).view(shape).expand(*grid, count))
    return torch.cat(turns, dim=-1).flatten(0, 2).to(device, torch.complex64)


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each pair of channels by its angle: one complex product. x float32 (B, heads, T, 128)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())  # (B, heads, T, 64)
    return torch.view_as_real(pairs * table).flatten(-2)


# --------------------------------------------------------------------------------------------------- building


def build_transformer(
    state: Mapping[str, Tensor | QuantizedTensor],
    *,
    compute_dtype: torch.dtype = torch.float32,
    widen_budget_bytes: int | None = None,
    device: torch.device | str = "cpu",
    blocks_in_ram: bool = False,
) -> WanTransformer:
    """Build a frozen transformer from a file's tensors (original Wan names), packed or not.

    Tensors are placed one by one, so a `state` that reads from a memory map never stands in RAM twice.
    compute_dtype: of the matrix products; FLOAT32_PARTS names what stays float32 under bfloat16 and float16.
    widen_budget_bytes: so much memory may hold packed weights unpacked; None or 0 unpacks at every call.
    blocks_in_ram: the blocks rest there and visit the device (see BlocksInRam), where all else stays.
    """
    device = torch.device(device)
    with torch.device("meta"):
        model = WanTransformer(TransformerShape.of(state))
    expected = model.state_dict()
    names = {wan_name(name): name for name in expected}
    check_tensors(state, {wan: expected[name] for wan, name in names.items()}, what="this Wan transformer")
    model.compute_dtype = compute_dtype
    for wan, name in names.items():
        exact = any(part.startswith(FLOAT32_PARTS) for part in wan.split("."))
        tensor = state[wan]
        if exact and isinstance(tensor, QuantizedTensor):
            tensor = tensor.dequantize()
        resting = blocks_in_ram and name.startswith(("blocks.", "vace_blocks."))
        home = torch.device("cpu") if resting else device
        _place(model, name, tensor, torch.float32 if exact else compute_dtype, home)
    if blocks_in_ram:
        model.blocks_in_ram = BlocksInRam(device)
    if widen_budget_bytes:
        widen_within(model, widen_budget_bytes, dtype=compute_dtype)
    return model.requires_grad_(False).eval()


def _place(
    model: nn.Module, name: str, tensor: Tensor | QuantizedTensor, dtype: torch.dtype, device: torch.device
) -> None:
    """Put one tensor where it belongs, turning its layer into a packed one when the tensor is packed."""
    path, _, kind = name.rpartition(".")
    layer = model.get_submodule(path)
    if isinstance(tensor, QuantizedTensor):
        matrix = kind == "weight" and len(tensor.shape) == 2
        if matrix and isinstance(layer, nn.Linear) and tensor.type not in FLOAT_TYPES:
            packed = QuantizedLinear(tensor.to(device), None)
            packed.bias = layer.bias
            packed.wide_input = isinstance(layer, WideInputLinear)
            setattr(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], packed)
            return
        tensor = tensor.dequantize(dtype)
    setattr(layer, kind, nn.Parameter(tensor.to(device, dtype), requires_grad=False))


def new_transformer(shape: TransformerShape) -> WanTransformer:
    """A randomly initialised float32 model to train, as Wan's `init_weights` begins: it predicts zero at first."""
    model = WanTransformer(shape)
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv3d)):
            silent = name == "proj_out" or name.endswith(
                (".proj_in", ".proj_out")
            )  # Wan: head, before_, after_proj
            if silent:
                nn.init.zeros_(layer.weight)
            elif "text_embedder" in name or "time_embedder" in name:
                nn.init.normal_(layer.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(layer.weight.flatten(1))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def vace_blocks_are_silent(model: WanTransformer) -> bool:
    """Whether the VACE blocks say nothing yet, as after `start_vace_blocks`."""
    told = (tensor for name, tensor in model.vace_blocks.state_dict().items() if ".proj_out." in name)
    return not any(tensor.any() for tensor in told)


def start_vace_blocks(model: WanTransformer) -> None:
    """Begin VACE training where the main blocks stand: each VACE block a copy of its main block, saying nothing yet.

    What is given comes in as a latent does, through a copy of the latent's embedding, so that the copied blocks can read it
    from the first step. Upstream `before_proj` begins at zero, and the way in has to be found first.
    """
    for block, i in zip(model.vace_blocks, model.shape.vace_layers, strict=True):
        block.load_state_dict(model.blocks[i].state_dict(), strict=False)
        for name, parameter in block.named_parameters():
            if name.startswith(("proj_in.", "proj_out.")):
                (nn.init.eye_ if name == "proj_in.weight" else nn.init.zeros_)(parameter)
    if model.shape.vace_blocks:
        embedding, own = model.vace_patch_embedding, model.patch_embedding
        for parameter in embedding.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            embedding.weight[:, :LATENT_CHANNELS] = own.weight  # what stays: the first channels
