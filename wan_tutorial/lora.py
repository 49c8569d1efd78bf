"""LoRA: two thin matrices beside a layer change what it does, and its own weights stay as they are.

Stands beside the transformer and the text encoder. In: a `.safetensors` file of updates and a strength. Out: the same
model, in which a linear layer answers W x + b + strength ((alpha / rank) up (down x) + diff_b), with `down` (rank, in)
and `up` (out, rank): arXiv:2106.09685, equation 3. A file may hold whole differences too (`.diff` of a weight, `.diff_b`
of a bias), as the CausVid file does.

Upstream: ComfyUI's `comfy/lora.py` adds the update to each weight; diffusers' `WanLoraLoaderMixin` hands it to peft.
Here it is added to what a layer answers, so that packed weights stay packed and a strength is one number to change;
`merge_into` adds it to the weights, and `remove` puts back the originals, which were kept.

There is no UNet in Wan: what ComfyUI's older nodes call so is the transformer. A file's keys for the text encoder go
there; CausVid's files have none, so a "clip strength" finds nothing to change.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.files import Shapes, read_header, read_tensors, write_safetensors
from wan_tutorial.quantization import PackedLinear
from wan_tutorial.transformer import WanTransformer, wan_name

LARGEST_STRENGTH = 10.0
# Before the names of layers, as ComfyUI wants them.
PREFIX, TEXT_PREFIX = "diffusion_model.", "text_encoders.umt5xxl.transformer."
BESIDE = "lora_adapter_metadata"  # where a file's header holds the settings that diffusers notes
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)

_KEY = re.compile(
    r"^(.+?)\.(lora_(?!unet_|te)[\w.]+|diff(?:_\w+)?|alpha|dora_scale|(?:hada|lokr|oft)_[\w.]+|(?:set|reshape)_weight)$"
)
_KINDS = {
    **dict.fromkeys(("lora_down.weight", "lora_A.weight", "lora_A.default.weight"), "down"),
    **dict.fromkeys(("lora_up.weight", "lora_B.weight", "lora_B.default.weight"), "up"),
    "diff_b": "bias",
    "lora_B.bias": "up_bias",  # peft's: scaled as the product is
    "alpha": "alpha",
    "diff": "weight",
}
_OF_TRANSFORMER = re.compile(
    r"^(base_model\.model\.)?(model\.)?(diffusion_model\.|transformer\.|lora_unet_)?"
)
_OF_TEXT_ENCODER = re.compile(
    r"^(base_model\.model\.)?(text_encoders?\.((\w+\.)?transformer\.)?|lora_te\d?_|(?=encoder\.block\.))"
)


@dataclass(frozen=True, eq=False)
class Change:
    """What a LoRA does to one layer at strength 1."""

    down: Tensor | None = None  # (rank, in)
    up: Tensor | None = None  # (out, rank)
    alpha: Tensor | None = None  # a number; none: the rank, so that nothing is scaled
    weight: Tensor | None = None  # a whole difference, shaped as the layer's weight
    bias: Tensor | None = None  # (out,)

    @property
    def rank(self) -> int:
        return 0 if self.down is None else self.down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None or not self.rank else self.alpha.item() / self.rank

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The weight it belongs to, convolutions as matrices; None where only a bias changes."""
        if self.up is not None and self.down is not None:
            return self.up.shape[0], self.down[0].numel()
        return None if self.weight is None else tuple(self.weight.shape)

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def of_weight(self, shape: tuple[int, ...]) -> Tensor:
        """The change of a weight of this shape, float32."""
        return self.added_to(torch.zeros(shape), 1.0)

    def added_to(self, weight: Tensor, strength: float) -> Tensor:
        """weight + strength (scale up down + diff), in the weight's shape and type."""
        if self.up is not None and self.down is not None:
            up, down = (part.flatten(1).to(weight) for part in (self.up, self.down))
            matrix = weight.flatten(1)  # (out, in)
            weight = torch.addmm(matrix, up, down, alpha=strength * self.scale).view(weight.shape)
        return weight if self.weight is None else weight + strength * self.weight.to(weight)


@dataclass(frozen=True)
class Fit:
    """Which of a LoRA's keys belong to a model, which do not, and why."""

    lora: str
    model: str  # "transformer" or "text encoder"
    layers: dict[str, str]  # layer of the LoRA -> layer of the model
    used: tuple[str, ...]  # keys
    unused: dict[str, str]  # key -> why
    elsewhere: tuple[str, ...] = ()  # keys for the other model of the two
    of_size: tuple[
        str, ...
    ] = ()  # of those not used: the keys that would have a place in a Wan of another size

    def joined(self, text: Fit) -> Fit:
        """This fit to the transformer with one to the text encoder: what neither uses is not used."""
        return replace(self, unused=self.unused | text.unused, elsewhere=text.used)

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Each reason with its keys."""
        found: dict[str, list[str]] = {}
        for key, why in self.unused.items():
            found.setdefault(why, []).append(key)
        return found

    def __str__(self) -> str:
        count = len(self.used) + len(self.unused)
        lines = [
            f"{self.lora}: {len(self.used)} of {count} keys used, on {len(self.layers)} layers of the {self.model}"
        ]
        lines += [f"  {len(keys)} not used ({_some(keys)}): {why}" for why, keys in self.reasons.items()]
        if self.model == "transformer":
            lines.append(
                f"  {len(self.elsewhere)} keys are for the text encoder"
                if self.elsewhere
                else "  no key is for the text encoder: a clip strength changes nothing"
            )
        return "\n".join(lines)

    @property
    def notice(self) -> str:
        """What a person should know about the keys that are not used."""
        told = "; ".join(f"{len(keys)} are {why}" for why, keys in self.reasons.items())
        used = len(self.used) + len(self.elsewhere)
        return f"{self.lora}: {used} keys are used and {len(self.unused)} are not: {told}."

    def require(self) -> Fit:
        """This fit, or a WanError if no key is usable."""
        if self.layers:
            return self
        if 2 * len(self.of_size) > len(self.unused):
            key = self.of_size[0]
            raise WanError(
                f"{self.lora} belongs to a Wan of another size: {key} is {self.unused[key]}; choose the LoRA that was made "
                "for this model."
            )
        if self.unused:
            key = next(key for key in self.unused if key not in self.of_size)
            raise WanError(
                f"{self.lora} belongs to another model: not one of its keys, such as {key}, has a place in this "
                f"{self.model} ({self.unused[key]}); choose a LoRA for Wan 2.1."
            )
        raise WanError(f"{self.lora} has no key for the {self.model}: there is nothing in it to apply here.")


def _some(keys: list[str], limit: int = 2) -> str:
    return ", ".join(keys[:limit]) + (", ..." if len(keys) > limit else "")


@dataclass(frozen=True, eq=False)
class Lora:
    """The updates of one file, ready for any model they fit."""

    name: str
    changes: Mapping[str, Change] = field(repr=False)  # by layer, as the file names it
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)  # the file's, by layer
    unread: Mapping[str, str] = field(default_factory=dict, repr=False)  # key -> why it cannot be read
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted({change.rank for change in self.changes.values() if change.rank}))

    @property
    def parameters(self) -> int:
        return sum(t.numel() for change in self.changes.values() for t in change.tensors().values())

    def tensors(self) -> list[Tensor]:
        """All its numbers, in order: what training moves."""
        return [tensor for change in self.changes.values() for tensor in change.tensors().values()]

    @cached_property
    def fingerprint(self) -> str:
        """Tells LoRAs apart by their contents."""
        digest = hashlib.sha256()
        for layer, change in self.changes.items():
            for name, tensor in change.tensors().items():
                digest.update(f"{layer}.{name}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def fit(self, shapes: Shapes) -> Fit:
        """Find each key's place among the tensors of a model, by name and shape: no weight is needed for that.

        `shapes`: of a transformer under Wan's names, or of a text encoder (`files.read_header(path).shapes`).
        """
        text = any(name.startswith("encoder.block.") for name in shapes)
        places = {_layer(name).replace(".", "_"): name for name in shapes if not name.endswith(".bias")}
        layers: dict[str, str] = {}
        elsewhere: list[str] = []
        of_size: list[str] = []
        unused = {key: why for key, why in self.unread.items() if bool(_OF_TEXT_ENCODER.match(key)) == text}
        for layer, change in self.changes.items():
            keys = self.keys.get(layer, (layer,))
            if bool(_OF_TEXT_ENCODER.match(layer)) != text:
                elsewhere += keys
                continue
            own = _own_name(layer)
            name = places.get(own.replace(".", "_"))
            why = _beyond(own, shapes) if name is None else _wrong_shape(change, shapes, name)
            of_size += keys if why else ()
            if name is not None and why is None:
                layers[layer] = _layer(name)
            else:
                unused |= dict.fromkeys(keys, why or _no_place(own))
        used = tuple(key for layer in layers for key in self.keys.get(layer, (layer,)))
        model = "text encoder" if text else "transformer"
        return Fit(self.name, model, layers, used, unused, tuple(elsewhere), tuple(of_size))

    def apply_to(self, model: nn.Module, strength: float = 1.0) -> AppliedLora:
        """Add the updates to what the model's layers answer, from now on; the weights are not touched."""
        return AppliedLora(self, model, strength, merged=False)

    def merge_into(self, model: nn.Module, strength: float = 1.0) -> AppliedLora:
        """Add the updates to the weights themselves; the originals are kept for `remove`.

        A packed weight is unpacked for it and stays so: rounded back to a few bits it would lose most of the update.
        """
        return AppliedLora(self, model, strength, merged=True)


Asked: TypeAlias = "Sequence[tuple[str | os.PathLike[str] | Lora, float]]"
Worn: TypeAlias = tuple[tuple[Lora, float], ...]


def asked_pairs(loras: Any) -> list[tuple[Path | Lora, float]]:
    """Each LoRA that is asked for, a file or one that is read already, and its strength; WanError for no such list."""
    listed = isinstance(loras, Iterable | None) and not isinstance(loras, str)
    pairs = list(loras or ()) if listed else [loras]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise WanError(f"LoRAs are given as a list of (file, strength), not {pair!r}: try [(file, 1.0)].")
    return [
        (one if isinstance(one, Lora) else check_lora_path(one), check_strength(strength))
        for one, strength in pairs
    ]


def check_lora_path(path: object) -> Path:
    """The path of a LoRA; WanError for what names none."""
    return check_path(path, "LoRA", example="mine.safetensors")


@lru_cache(maxsize=8192)
def _own_name(layer: str) -> str:
    """The model's name of a layer that a LoRA file names."""
    text = _OF_TEXT_ENCODER.match(layer)
    if text:
        return layer[text.end() :]
    return wan_name(_OF_TRANSFORMER.sub("", layer) + ".").rstrip(".")


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _no_place(layer: str) -> str:
    """Why no Wan of this kind has a layer of this name."""
    if "_img" in layer or layer.startswith("img_emb"):
        return "for the image encoder of an image-to-video Wan, which this model does not have"
    return "for a layer that this model does not have"


def _beyond(layer: str, shapes: Shapes) -> str | None:
    """What is wrong with a block's number, if something is."""
    block = re.match(r"(blocks|vace_blocks)[._](\d+)[._]", layer)
    count = len({name.split(".")[1] for name in shapes if block and name.startswith(f"{block[1]}.")})
    if block and int(block[2]) >= count:
        return f"for {block[1]}.{block[2]}, where this model has {count}"
    return None


def _wrong_shape(change: Change, shapes: Shapes, name: str) -> str | None:
    """What is wrong with a change's shape, if something is."""
    given, wanted = change.shape, tuple(shapes[name])
    flat = (wanted[0], math.prod(wanted[1:]))
    as_matrix = change.up is not None and len(wanted) > 1 and given == flat
    if given is not None and given != wanted and not as_matrix:
        return f"made for a layer of shape {given}, where this model's is {wanted}"
    if change.weight is not None and tuple(change.weight.shape) != wanted:
        return f"made for a layer of shape {tuple(change.weight.shape)}, where this model's is {wanted}"
    if change.bias is None:
        return None
    if not _may_have_bias(name, shapes):
        return "a bias for what has none"
    if change.bias.shape != wanted[:1]:
        told = change.bias.numel() if change.bias.ndim == 1 else tuple(change.bias.shape)
        return f"made for a bias of {told}, where this model's is {wanted[0]}"
    return None


def _may_have_bias(name: str, shapes: Shapes) -> bool:
    """Linear layers and convolutions do, those without one as well; a norm only if it has one."""
    if f"{_layer(name)}.bias" in shapes:
        return True
    matrix = name.endswith(".weight") and len(shapes[name]) > 1
    return matrix and not name.endswith(("shared.weight", "relative_attention_bias.weight"))


# --------------------------------------------------------------------------------------------------- files


def read_lora(path: str | os.PathLike[str]) -> Lora:
    """Read a LoRA file: `lora_down`/`lora_up` or `lora_A`/`lora_B`, `alpha`, `.diff`, `.diff_b`, whatever its prefix.

    Raises WanError for a file that is missing, cut short, no safetensors file, no LoRA, or that holds matrices that do
    not belong together or numbers that are not finite.
    """
    path = check_lora_path(path)
    if read_header(path).format != "safetensors":
        raise WanError(f"{path.name} is a GGUF file; LoRAs are read from .safetensors files.")
    file = read_tensors(path)
    if file.kind != "lora":
        raise WanError(f"{file.path.name} holds {file.description}, not a LoRA; a LoRA's keys end in lora_down.weight "
                       "and lora_up.weight, or lora_A and lora_B.")  # fmt: skip
    parts, keys, unread = _sort(path.name, file.tensors)
    for layer, own in parts.items():
        if "down" in own and own["down"].ndim and "alpha" not in own:
            own |= _alpha_beside(file.metadata, layer, len(own["down"]))
    changes = {layer: _change(path.name, layer, own) for layer, own in parts.items()}
    return Lora(
        name=path.name,
        changes=changes,
        keys={layer: tuple(names) for layer, names in keys.items()},
        unread=unread,
        metadata=file.metadata,
    )


def _sort(
    file: str, tensors: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, list[str]], dict[str, str]]:
    """Each layer's parts and its keys, and why the other keys are not read."""
    parts: dict[str, dict[str, Tensor]] = {}
    keys: dict[str, list[str]] = {}
    unread: dict[str, str] = {}
    spoiled: dict[str, str] = {}
    for key, tensor in tensors.items():
        found = _KEY.match(key)
        kind = _KINDS.get(found[2]) if found else None
        if not found or kind is None:
            unread[key] = "of a kind that is not read here"
            spoiled |= {found[1]: "beside a key of a kind that is not read here"} if found else {}
            continue
        tensor = (
            tensor.half() if tensor.dtype in FP8 else tensor
        )  # a byte can't even be asked whether it is finite
        if not torch.isfinite(tensor).all():
            raise WanError(f"{file} holds numbers that are not finite, in {key}: its training went wrong, or the "
                           "file is damaged; download it again or choose another.")  # fmt: skip
        parts.setdefault(found[1], {})[kind] = tensor
        keys.setdefault(found[1], []).append(key)
    spoiled |= {
        layer: "an alpha without its matrices" for layer, own in parts.items() if set(own) == {"alpha"}
    }
    for layer in [layer for layer in parts if layer in spoiled]:
        unread |= dict.fromkeys(keys.pop(layer), spoiled[layer])
        del parts[layer]
    return parts, keys, unread


def _alpha_beside(metadata: Mapping[str, str], layer: str, rank: int) -> dict[str, Tensor]:
    """The alpha of a layer as diffusers notes it: not beside the matrices but in the file's header, as peft's settings."""
    try:
        noted = json.loads(metadata.get(BESIDE, "{}"))
        own = {key.removeprefix("transformer."): value for key, value in noted.items()}
        name, alpha = layer.removeprefix("transformer."), own.get("lora_alpha")
        for pattern, other in (own.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", name):  # peft's rule
                alpha = other
        root = rank**0.5 if own.get("use_rslora") else 1.0  # of which alpha / rank makes alpha / sqrt(rank)
        return {} if alpha is None else {"alpha": torch.tensor(float(alpha) * root)}
    except (ValueError, TypeError, AttributeError, re.error):
        return {}  # no settings that anybody could follow


def _change(file: str, layer: str, parts: dict[str, Tensor]) -> Change:
    """The parts of one layer, if they belong together."""
    empty = [name for name, tensor in parts.items() if not tensor.numel()]
    if empty:
        raise WanError(
            f"{file} is damaged: of {layer} there is a part without a number in it; download it again."
        )
    down, up = parts.get("down"), parts.get("up")
    if (down is None) != (up is None):
        there, missing = ("lora_down", "lora_up") if up is None else ("lora_up", "lora_down")
        raise WanError(
            f"{file} is incomplete: {layer} has a {there} without its {missing}; download it again."
        )
    if (
        down is not None
        and up is not None
        and (down.ndim < 2 or up.ndim < 2 or up[0].numel() != down.shape[0])
    ):
        raise WanError(f"{file} is damaged: the two matrices of {layer}, {tuple(up.shape)} and {tuple(down.shape)}, "
                       "cannot be multiplied; download it again.")  # fmt: skip
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise WanError(f"{file} is damaged: the alpha of {layer} is not one number; download it again.")
    scaled = parts.pop("up_bias", None)
    change = Change(**parts)
    if scaled is None:
        return change
    return replace(change, bias=scaled * change.scale + (0 if change.bias is None else change.bias))


def write_lora(lora: Lora, path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float16) -> None:
    """Write a LoRA in the key format of the CausVid files, which ComfyUI's loaders read.

    Names with underscores for dots (`lora_unet_blocks_0_ffn_0`) stay as they are: which is which only a model tells.
    """
    spelled = {"down": "lora_down.weight", "up": "lora_up.weight", "weight": "diff", "bias": "diff_b"}
    tensors = {
        f"{_written_name(layer)}.{spelled.get(name, name)}": tensor.detach().to(dtype)
        for layer, change in lora.changes.items()
        for name, tensor in change.tensors().items()
    }
    metadata = {
        name: text for name, text in lora.metadata.items() if name != BESIDE
    }  # its alphas are written out
    write_safetensors(path, tensors, metadata=metadata)


def _written_name(layer: str) -> str:
    if layer.startswith(("lora_unet_", "lora_te")):
        return layer
    return (TEXT_PREFIX if _OF_TEXT_ENCODER.match(layer) else PREFIX) + _own_name(layer)


def new_lora(
    model: WanTransformer, *, rank: int, layers: str = r"^blocks\.", biases: bool = False, name: str = "new"
) -> Lora:
    """An update to train, for the linear layers of a transformer whose names match; at first it changes nothing.

    `down` begins random and `up` at zero, as in the paper; `biases` adds a `diff_b` to each. Its `tensors()` ask for
    gradients, and with `apply_to` the model's answer depends on them.
    """
    changes = {}
    for layer, (module, _) in _places(model).items():
        if re.search(layers, layer) and isinstance(module, nn.Linear | PackedLinear):
            wide, tall = module.in_features, module.out_features
            parts = {"down": torch.randn(rank, wide) / wide**0.5, "up": torch.zeros(tall, rank)}
            parts |= {"bias": torch.zeros(tall)} if biases else {}
            changes[layer] = Change(**{kind: nn.Parameter(tensor) for kind, tensor in parts.items()})
    return Lora(name, changes)


# --------------------------------------------------------------------------------------- a LoRA on a model


class AppliedLora:
    """A LoRA on a model. `strength` can be set at any time, and 0 is exactly off; `remove` takes it away.

    `fit` says which keys are at work. Any number of LoRAs may be on one model, merged or not; their updates add up.
    Changed weights are kept while it is off, so that the same strength is back at once; `remove` gives up their memory.
    """

    def __init__(self, lora: Lora, model: nn.Module, strength: float, *, merged: bool) -> None:
        check_strength(strength)
        places = _places(model)
        self.lora, self.merged = lora, merged
        self.fit = lora.fit(shapes_of(model)).require()
        changed = [(*places[name], lora.changes[layer]) for layer, name in self.fit.layers.items()]
        self._updates: dict[nn.Module, _Update] = {}
        self._sums: dict[tuple[nn.Module, str], tuple[Any, Tensor]] = {}  # of what, and the tensor it made
        if not merged:
            linear = [entry for entry in changed if isinstance(entry[0], nn.Linear | PackedLinear)]
            changed = [entry for entry in changed if entry not in linear]
            self._updates = {layer: _Update(change, layer) for layer, _, change in linear}
        self._changed = [one for entry in changed for one in _changed_tensors(*entry)]
        self._strength = 0.0
        self.strength = strength

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        value = check_strength(value)
        if value == self._strength:
            return
        self._strength = value
        try:
            self._share(value)
        except BaseException:  # memory that ran out half-way, a stop: all of it or nothing
            self.remove()
            raise

    def _share(self, value: float) -> None:
        """Have every layer show the updates at this strength."""
        for update in self._updates.values():
            update.set(value)
        for layer, name, change in self._changed:
            _set_share(layer, name, self, value, change)

    def remove(self) -> None:
        """Take the LoRA away; a merged one leaves the very weights that were there before."""
        self.strength = 0.0
        self._sums.clear()

    def __repr__(self) -> str:
        how = "merged into" if self.merged else "on"
        return f"AppliedLora({self.lora.name!r} {how} the {self.fit.model}, strength {self.strength:g})"


def check_strength(strength: float) -> float:
    """A LoRA's strength, if it is one; WanError otherwise."""
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not abs(strength) <= LARGEST_STRENGTH:  # what is not a number is not below it either
        raise WanError(
            f"A LoRA's strength is a number from {-LARGEST_STRENGTH:g} to {LARGEST_STRENGTH:g}, not {strength!r}: "
            "try 1, or 0 for off."
        )
    return float(strength)


def _changed_tensors(layer: nn.Module, own: str, change: Change) -> Iterator[tuple[nn.Module, str, Change]]:
    """The tensors of a layer that a change changes, each with its own part."""
    if change.shape is not None:
        yield layer, "widened" if isinstance(layer, PackedLinear) else own, change
    if change.bias is not None:
        yield layer, "bias", Change(weight=change.bias)


class _Update:
    """What a LoRA adds to the answers of one linear layer, while its strength is not 0."""

    def __init__(self, change: Change, layer: nn.Module) -> None:
        home: Any = layer.raw if isinstance(layer, PackedLinear) else layer.weight
        self.layer, self.scale, self.strength = layer, change.scale, 0.0
        self.parts = {  # what is being trained stays where it is: a copy would not learn
            name: part if part.requires_grad else part.to(home.device)
            for name, part in change.tensors().items()
            if name != "alpha"
        }
        self.hook: Any = None

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)"""
        part = {name: tensor.to(x) for name, tensor in self.parts.items()}  # to where the layer visits
        bias = part["bias"] * self.strength if "bias" in part else None
        if "down" in part:  # the numbers go to the thin side
            thin = F.linear(x, part["down"].flatten(1)) * (self.scale * self.strength)
            y = F.linear(thin, part["up"].flatten(1), bias)
            return y + F.linear(x, part["weight"]) * self.strength if "weight" in part else y
        if "weight" in part:
            return F.linear(x, part["weight"] * self.strength, bias)
        assert bias is not None
        return bias

    def set(self, strength: float) -> None:
        self.strength = strength
        if isinstance(self.layer, PackedLinear):
            self.layer.updates[:] = [update for update in self.layer.updates if update is not self]
            if strength:
                self.layer.updates.append(self)
        elif strength and self.hook is None:
            self.hook = self.layer.register_forward_hook(self._add_to_answer)
        elif not strength and self.hook is not None:
            self.hook.remove()
            self.hook = None

    def _add_to_answer(self, _layer: nn.Module, inputs: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        with torch.autocast(answer.device.type, enabled=False):  # in the type that the layer itself chose
            return answer + self(inputs[0].to(answer.dtype))


@dataclass(eq=False)
class _Kept:
    """A tensor of a layer as it was before any LoRA, and what the LoRAs on it add."""

    original: Tensor | None
    shares: dict[AppliedLora, tuple[float, Change]] = field(default_factory=dict)


@torch.no_grad()
def _set_share(layer: nn.Module, name: str, owner: AppliedLora, strength: float, change: Change) -> None:
    """Set one LoRA's share in a tensor of a layer: the original plus all shares, or the very original."""
    kept: dict[str, _Kept] = layer.__dict__.setdefault("_kept_for_loras", {})
    entry = kept.setdefault(name, _Kept(getattr(layer, name)))
    entry.shares.pop(owner, None)
    if strength:
        entry.shares[owner] = (strength, change)
    if not entry.shares:
        setattr(layer, name, kept.pop(name).original)
        return
    summands = (
        _state(entry.original),
        [(s, c, *map(_state, c.tensors().values())) for s, c in entry.shares.values()],
    )
    last = next(reversed(entry.shares))
    if last._sums.get((layer, name), (None,))[0] != summands:
        last._sums[layer, name] = summands, _sum(layer, name, entry)
    setattr(layer, name, last._sums[layer, name][1])


def _state(tensor: Tensor | None) -> tuple[int, int] | None:
    """Changes when a tensor's numbers do, or where they are."""
    return None if tensor is None else (tensor.data_ptr(), tensor._version)


def _sum(layer: nn.Module, name: str, entry: _Kept) -> Tensor:
    """The original and all shares."""
    total: Any = entry.original
    if total is None:  # a packed weight, or a layer without a bias
        total = layer.dequantize() if name == "widened" else _no_bias(layer)  # type: ignore
    dtype, total = total.dtype, total.float()
    for share, difference in entry.shares.values():
        total = difference.added_to(total, share)
    total = total.to(dtype)
    return total if name == "widened" else nn.Parameter(total, requires_grad=False)


def _no_bias(layer: Any) -> Tensor:
    """Zeros where a layer has no bias, in the type it computes with."""
    if isinstance(layer, PackedLinear):
        home: Any = layer.raw
        return torch.zeros(layer.out_features, device=home.device)
    return layer.weight.new_zeros(len(layer.weight))


def _places(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Every layer that a LoRA may change, by its name in files: the module, and which of its tensors is the weight."""
    spell = _own_name if isinstance(model, WanTransformer) else _plain
    return {spell(name): place for name, place in _named_places(model)}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a LoRA may change, by its name in files."""
    shapes = {}
    for name, (layer, own) in _places(model).items():
        shapes[name if own != "weight" else f"{name}.weight"] = _shape(layer, own)
        if own == "weight" and isinstance(getattr(layer, "bias", None), Tensor):
            shapes[f"{name}.bias"] = _shape(layer, "bias")
    return shapes


def _plain(name: str) -> str:
    return name.removeprefix("model.")  # of a TextEncoder, which holds its network as `model`


def _named_places(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    for name, layer in model.named_modules():
        if isinstance(layer, PackedLinear) or isinstance(getattr(layer, "weight", None), Tensor):
            yield name, (layer, "weight")
        for own, _ in layer.named_parameters(recurse=False):
            if own not in ("weight", "bias"):
                yield f"{name}.{own}".lstrip("."), (layer, own)


def _shape(layer: nn.Module, own: str) -> tuple[int, ...]:
    if isinstance(layer, PackedLinear) and own == "weight":
        return layer.out_features, layer.in_features
    return tuple(getattr(layer, own).shape)


class LoraRack:
    """The LoRAs that runs ask for: each file read once, put on a model when a run's turn comes, taken off after it.

    Runs may take turns on one model, step by step. `merged`: into the weights, for speed, where memory allows both.
    """

    def __init__(self, *, merged: bool) -> None:
        self.merged = merged
        self._read: dict[tuple[Path, int], Lora] = {}
        self._on: WeakKeyDictionary[nn.Module, Worn | None] = WeakKeyDictionary()
        self._fitted: WeakKeyDictionary[nn.Module, tuple[Worn, list[tuple[AppliedLora, float]]]] = (
            WeakKeyDictionary()
        )

    def read(self, loras: Asked) -> Worn:
        """Files, or LoRAs that are read already, each with its strength."""
        asked = asked_pairs(loras)
        return tuple((one if isinstance(one, Lora) else self._file(one), strength) for one, strength in asked)

    def _file(self, path: Path) -> Lora:
        key = (path.absolute(), path.stat().st_mtime_ns if path.exists() else 0)
        if key not in self._read:
            self._read[key] = read_lora(path)
        return self._read[key]

    def put_on(self, model: nn.Module, worn: Worn) -> None:
        """Have exactly these on the model, those of them that hold anything for it.

        What was fitted for the last run is kept: most runs ask for the same again.
        """
        if worn == self._on.get(model, ()):
            return
        made, fitted = self._fitted.get(model, ((), []))
        self._on[model] = None  # until all are on: an error on the way leaves something to take off
        for applied, _ in reversed(fitted):
            applied.strength = 0.0  # the sums are kept
        if worn and worn != made:
            fitted, shapes = [], shapes_of(model)
            for lora, strength in worn:
                if lora.fit(shapes).layers:
                    fitted.append((AppliedLora(lora, model, 0.0, merged=self.merged), strength))
            self._fitted[model] = (worn, fitted)
        if worn:
            for applied, strength in fitted:
                applied.strength = strength
        self._on[model] = worn
