"""The stages on a card that is not there: its tensors know shape, number format and device, and hold no numbers.

Where a tensor of the processor meets one of the card, or float16 meets float32 in a product, these tests fail as a GPU
would. What they cannot see: numbers (an overflow), memory, speed, the order of work on two streams.
"""

from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import test_workflow
import torch
from PIL import Image
from small import VAE, packed, small_text_encoder_state, small_transformer_state, small_vae_state
from test_lora import causvid_state
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from wan_tutorial import experiments, vae
from wan_tutorial import pipeline as module
from wan_tutorial.files import write_gguf, write_safetensors
from wan_tutorial.machine.weights import MINI
from wan_tutorial.mini.train_transformer import Rounding
from wan_tutorial.mini.train_vae import grow_into_time
from wan_tutorial.noise import mix
from wan_tutorial.pipeline import load
from wan_tutorial.quantization import BLOCK_TYPES, QuantizedTensor
from wan_tutorial.reference import read_given, reconstruct
from wan_tutorial.sampling.keep import KeptRun
from wan_tutorial.sizes import VideoSize
from wan_tutorial.transformer import TransformerShape, rope_table
from wan_tutorial.workflow import read_workflow

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer")  # a LoRA's sum is known by it
SIZE = VideoSize(32, 32, 5)
SHAPE = TransformerShape(dim=256, ffn_dim=512, layers=2, text_dim=256, vace_blocks=1)
HEAVY = replace(MINI, light=False)  # as the real model: each network comes for its stage, in half precision
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::convolution", "aten::_scaled_dot_product")
PICTURE, VIDEO = torch.zeros(32, 32, 3), torch.zeros(5, 32, 32, 3)


class Card(FakeTensorMode):
    """Tensors of cuda:0 are torch's fake ones. Those of the processor are real, and zeros where they come from the card."""

    avoid_device_init = True  # whatever torch.cuda.is_available is made to say
    at_work = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.at_work:  # torch's own steps on the way to an answer
            return super().__torch_dispatch__(func, types, args, kwargs)
        on_card = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor)]
        if not on_card and "cuda" not in str(kwargs.get("device")):
            return func(*args, **kwargs)
        if func.name() == "aten::_local_scalar_dense":  # .item(), or an `if`: without numbers it is 1, or yes
            return torch.ones((), dtype=on_card[0].dtype).item()
        if func.name().startswith(PRODUCTS):  # torch forgives this its fake tensors, and a GPU does not
            assert len({x.dtype for x in on_card}) == 1, f"{func} of {[x.dtype for x in on_card]}"
        self.at_work = True
        try:
            answer = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self.at_work = False
        return tree_map_only(FakeTensor, self._arrived, answer)

    @staticmethod
    def _arrived(tensor: FakeTensor) -> Tensor:
        assert tensor.dtype != torch.bfloat16, "a T4 does not compute in bfloat16"
        return tensor if tensor.is_cuda else torch.zeros(tensor.shape, dtype=tensor.dtype)


class Bindings(TorchFunctionMode):
    """Three of torch's methods ask for the GPU's driver before anything else: they work on the bare shape instead."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        asking = (Tensor.__getitem__, Tensor.__setitem__, Tensor.contiguous)
        card = args[0].fake_mode if func in asking and isinstance(args[0], FakeTensor) else None
        if card is None or card.in_kernel_invocation:
            return func(*args, **kwargs or {})
        with in_kernel_invocation_manager(card):
            answer = func(*args, **kwargs or {})
        same = answer is None or answer is args[0]
        return answer if same else FakeTensor(card, answer, args[0].device)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict:
    """By the number format of the transformer's blocks."""
    folder, state = tmp_path_factory.mktemp("model"), small_transformer_state(SHAPE)
    write_gguf(folder / "small-Q3_K.gguf", packed(state))
    write_gguf(folder / "small-F16.gguf", {name: tensor.half() for name, tensor in state.items()})
    write_safetensors(folder / "umt5_small_fp8.safetensors", small_text_encoder_state(layers=1))
    write_safetensors(folder / "vae.safetensors", small_vae_state())
    rest = {"text_encoder": folder / "umt5_small_fp8.safetensors", "vae": folder / "vae.safetensors"}
    return {kind: {"transformer": folder / f"small-{kind}.gguf", **rest} for kind in ("Q3_K", "F16")}


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """CausVid's keys, and for each other way into a model one: float32, unpacked, wide input, a convolution, words."""
    keys = causvid_state(small_transformer_state(SHAPE), parts=["self_attn.q", "ffn.2"])
    for layer in ("time_embedding.0", "text_embedding.0", "vace_blocks.0.before_proj"):
        shapes = {"lora_down.weight": (4, 256), "lora_up.weight": (256, 4), "diff_b": (256,)}
        keys |= {f"diffusion_model.{layer}.{kind}": torch.zeros(shapes[kind]).half() for kind in shapes}
    keys["diffusion_model.patch_embedding.diff"] = torch.zeros(256, 16, 1, 2, 2).half()
    words = "text_encoders.umt5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    keys[f"{words}.diff_b"] = torch.zeros(256)
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    write_safetensors(path, keys)
    return path


@pytest.fixture
def load_on_card(files, monkeypatch):
    """`load`, with torch as it is on a machine with a T4."""
    says = {"is_available": True, "mem_get_info": (14 * 10**9, 15 * 10**9), "get_device_capability": (7, 5)}
    says |= {"get_device_name": "Tesla T4", "stream": nullcontext()}
    says |= dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated"), 0)
    says |= dict.fromkeys(("empty_cache", "synchronize", "reset_peak_memory_stats"))
    for name, answer in says.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    rope_table.cache_clear()  # it keeps tensors of a card
    with Card(allow_non_fake_inputs=True), Bindings():
        yield lambda entry=HEAVY, kind="Q3_K": load(entry, **files[kind], device="cuda:0")
    rope_table.cache_clear()


def generate(pipe, **options):
    told = {"negative": "blurry", "size": SIZE, "steps": 1, "guidance": 4.0, "progress": False}
    result = pipe.generate("a sword", **told | options)
    for made, shape in ((result.video, (5, 32, 32, 3)), (result.latent, SIZE.latent_shape)):
        assert (tuple(made.shape), made.device.type, made.dtype) == (shape, "cpu", torch.float32)


CASES = [
    {},
    {"reference": [PICTURE, PICTURE], "steps": 2, "guidance": 1.0},
    {"first_frame": PICTURE},
    {"start": VIDEO, "denoise": 0.5, "reference": PICTURE},
]


@pytest.mark.parametrize("options", CASES, ids=" ".join)
def test_generate_runs_on_the_card(load_on_card, options):
    pipe = load_on_card(kind="F16")
    assert (pipe.placement.dtype, pipe.placement.vae_dtype) == (torch.float16, torch.float16)
    generate(pipe, **options)


@pytest.mark.parametrize(
    ("entry", "in_ram", "guidance"), [(HEAVY, False, 1.0), (HEAVY, True, 1.0), (MINI, False, 4.0)]
)
def test_a_lora_at_run_time_and_merged(load_on_card, lora, monkeypatch, entry, in_ram, guidance):
    monkeypatch.setattr(module, "must_offload", lambda *_: in_ram)
    generate(load_on_card(entry), reference=PICTURE, loras=[(lora, 0.5)], guidance=guidance)


def test_the_stages_run_there_by_themselves(load_on_card):
    pipe = load_on_card()
    text, latent = pipe.encode_text("a sword", "blurry"), pipe.encode(VIDEO)
    assert {(one.device.type, one.dtype) for one in (text.positive, latent)} == {("cuda", torch.float32)}
    mixed = mix(latent, pipe.draw_noise(SIZE).to(latent), 0.5)
    *_, step = pipe.denoise(mixed, text, steps=2, guidance=1.0)
    assert list(pipe._parts) == ["transformer"]  # the plan counts on one network at a time
    assert pipe.decode(step.clean_guess).shape == pipe.decode(mixed).shape == VIDEO.shape
    context = pipe.encode_context(read_given(SIZE, reference=PICTURE))
    told = {"start": torch.cat([context.references, latent], dim=2).cpu(), "denoise": 0.5, "steps": 1}
    noise = pipe.draw_noise(SIZE, extra_frames=context.extra_frames)
    *_, step = pipe.denoise(noise, text, vace_context=context.tensor.cpu(), **told)
    assert pipe.decode(context.trim(step.latent)).shape == VIDEO.shape
    seen, time = [], torch.full((1,), 500.0, device=latent.device)
    pipe.transformer(latent, time, text.positive[None], taps=lambda *given: seen.append(given))
    assert len(seen) == 2 * SHAPE.layers and str(reconstruct(pipe.vae, PICTURE, SIZE))


def test_a_kept_run_with_words_from_the_processor(load_on_card, tmp_path):
    pipe = load_on_card(kind="F16")
    pipe.placement = replace(pipe.placement, text_device=torch.device("cpu"))  # the card is small
    told = pipe.draw_noise(SIZE), pipe.encode_text("a sword", "blurry")
    next(pipe.denoise(*told, steps=2, keep=KeptRun(tmp_path, {})))
    *_, step = pipe.denoise(*told, steps=2, keep=KeptRun(tmp_path, {}))
    assert step.latent.is_cuda and len(KeptRun(tmp_path, {}).answers) == 2


@pytest.mark.parametrize("tiled", [False, True])
def test_a_large_video(load_on_card, monkeypatch, tiled):
    """Four frames at a time, and in tiles."""
    pipe, video = load_on_card(), torch.zeros(5, 16, 272, 3)
    monkeypatch.setattr(vae, "FULL_LENGTH_LIMIT", 0)
    monkeypatch.setattr(module, "must_tile", lambda *_: tiled)
    latent = pipe.encode(video)
    assert latent.is_cuda and pipe.decode(latent).shape == video.shape


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_every_block_type_is_unpacked_in_half_precision(load_on_card, kind):
    weights = QuantizedTensor.from_weights(torch.zeros(2, 256), kind).to("cuda:0").dequantize(torch.float16)
    assert (tuple(weights.shape), weights.device.type, weights.dtype) == ((2, 256), "cuda", torch.float16)


def test_a_workflow_with_a_picture(load_on_card, monkeypatch, tmp_path):
    # how many rows of an embedding are words is told from its numbers: here all of them
    monkeypatch.setattr(Tensor, "nonzero", lambda rows: torch.zeros(len(rows), 1))
    workflow = test_workflow.small(read_workflow(test_workflow.LORA))
    workflow.folder = tmp_path
    Image.new("RGB", (32, 32)).save(tmp_path / "bonfire.png")
    workflow.nodes["4"].values["lora_1"]["on"] = False
    workflow.set("KSampler", "steps", 1)
    runs = {done.node.type: done for done in workflow.run(pipe=load_on_card())}
    assert all(str(done) for done in runs.values())
    assert runs["WanVaceToVideo"].outputs[0].value.context.tensor.is_cuda
    assert all(output.picture() is not None for output in runs["WanVaceToVideo"].outputs[:3])
    assert runs["VAEDecode"].outputs[0].picture().shape == PICTURE.shape


def test_an_experiment(load_on_card):
    settings = experiments.RunSettings("a sword", size=SIZE, steps=1, guidance=1.0)
    result, guesses = experiments.paint(settings, load_on_card(kind="F16"))
    assert result.video.shape == VIDEO.shape and guesses.shape == (1, 2, 4, 4, 3)


def test_what_training_makes_beside_its_weights_is_where_they_are(load_on_card):
    """Training takes a GPU where there is one. Its way back asks for the driver: only what comes before is seen here."""
    grow_into_time(vae.new_autoencoder(VAE).requires_grad_(False).to("cuda:0"))
    rounding = Rounding([torch.zeros(2, 256, device="cuda:0")])
    rounding.dice.random = lambda: 0.0
    with rounding(0, 1.0):
        assert rounding.errors[0].is_cuda
