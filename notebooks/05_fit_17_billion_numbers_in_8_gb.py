# %% [markdown]
# # 05 · Fit 17 billion numbers in 8 GB
#
# | | |
# |---|---|
# | **After this lesson you can** | open a GGUF file and say what its parts are, say what every byte of a block is for and unpack one yourself, say what fewer bits cost and what they do not, choose between GGUF and fp8, and sum up the memory that a run takes on your own machine |
# | **Time** | 60 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | the weights of the transformer of lesson 04: not what they do, but how they are kept |

# %% [markdown] tags=["colab"]
# *To open this lesson in Colab from a clone: run `pip wheel . --no-deps`, open
# [Colab](https://colab.research.google.com) and upload this notebook; then upload `wan_tutorial-0.1.0-py3-none-any.whl` in its file panel.*

# %% tags=["setup"]
import importlib.util
import subprocess
import sys

KIT = "wan_tutorial-0.1.0-py3-none-any.whl"
if importlib.util.find_spec("wan_tutorial") is None:  # on Colab, once: the kit and what it needs
    subprocess.run([sys.executable, "-m", "pip", "install", KIT], check=True)

from wan_tutorial.show import show_machine, show_place

show_machine()

# %%
show_place("denoise")

# %% [markdown]
# ## Predict
#
# Training keeps a weight in 32 or 16 bits. **With how few can the model still paint: 8? 4? 2? And what goes first: the
# picture itself, or only the likeness to the video that the full model paints?** Write both down.

# %%
import wan_tutorial as wan

MODEL = "mini"  # its weights are Q3_K, as in "wan2.1-vace-14b-q3"
MASTER = "mini-f16"  # the same model before packing: 16 bits for each weight
PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising "
    "in a dark background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"

# %%
pipe, full = wan.load(MODEL), wan.load(MASTER)
path, master = pipe.files["transformer"], full.files["transformer"]

# %% [markdown]
# ## Look: the file
#
# A GGUF file begins with four letters, a version, and two counts. Then come names, types and shapes, then the bytes.

# %%
# NBVAL_CHECK_OUTPUT
import struct

with open(path, "rb") as file:
    letters, version, tensors, settings = struct.unpack("<4sIQQ", file.read(24))
print(letters, f"version {version}: {tensors} tensors, {settings} settings")

# %%
print(wan.inspect_file(path).page(tensors=6))

# %% [markdown]
# Here are both files as maps, on one scale. A white line stands where a block of the transformer begins. The vectors
# inside the blocks are thinner than a pixel here, and left out.

# %%
from wan_tutorial.files import read_header
from wan_tutorial.show import plot_files, show_figure

maps = {"F16": read_header(master), "Q3_K_S": read_header(path)}
show_figure(plot_files(maps, title="The same model, packed and not"))

# %% [markdown]
# **Notice** what was left alone: vectors, the patch embedding and the modulation stay in 32 bits, the matrices outside the
# blocks (text, time, head) in 16. They are few, and each of them touches everything. But they are not packed:

# %%
# NBVAL_CHECK_OUTPUT
from math import prod

entries = maps["Q3_K_S"].entries
plain = [entry for entry in entries if entry.type in ("F32", "F16")]
for counted, name in ((lambda one: prod(one.shape), "numbers"), (lambda one: one.bytes, "bytes")):
    left, whole = sum(map(counted, plain)), sum(map(counted, entries))
    print(f"left alone: {left:,} of {whole:,} {name}, {left / whole:.0%}")

# %% [markdown]
# That is why this file takes 4.85 bits a weight (its second line above), where its blocks take 3.44. Below, *bits per weight*
# of a file always means all of it. In the real model, whose blocks are much larger, the rest is 1.4 % of the numbers.
#
# ## Look: one block
#
# To *quantise* is to keep a weight as a small whole number and the length of a step. It is done in blocks: each row of a matrix
# is cut into pieces of 256 weights. Here are all 110 bytes of one, and how they make its largest weight. Move the slider: a
# weight is made of three bits that are its own, six that it shares with its group of 16, and sixteen that it shares with the
# block.

# %%
import torch

from wan_tutorial.files import read_tensors
from wan_tutorial.show import explore_block

MATRIX = "blocks.3.ffn.2.weight"
packed = read_tensors(path).tensors
raw = packed[MATRIX].raw[:110].clone()
largest = packed[MATRIX].dequantize()[0, :256].abs().argmax().item()
panel = explore_block(raw, weight=largest)

# %% [markdown]
# ## Build: take the block apart
#
# First the 256 whole numbers, from -4 to 3. `low` holds their lower two bits, four numbers in a byte: the first 32 bytes hold
# numbers 0 to 127, of which 0 to 31 lie in the lowest two bits, 32 to 63 in the next two. The other 32 bytes hold 128 to 255
# likewise. `high` holds the third bits, eight numbers in a byte: numbers 0 to 31 in bit 0, 32 to 63 in bit 1, and so on.
# Stored is the number plus 4.


# %%
def q3_k_numbers(high, low):
    """Bytes (32,) and (64,), uint8 -> 256 whole numbers from -4 to 3"""
    ...


# %%
from wan_tutorial.exercises.bits import check_bits_per_weight, check_q3_k_numbers, check_q3_k_scales

q3_k_numbers = check_q3_k_numbers(q3_k_numbers)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def q3_k_numbers(high, low):
#     first = [part >> shift & 3 for part in (low[:32], low[32:]) for shift in (0, 2, 4, 6)]
#     third = [high >> bit & 1 for bit in range(8)]
#     return torch.cat(first).int() + 4 * torch.cat(third).int() - 4
# ```
#
# </details>
#
# Then the 16 scales of six bits, from -32 to 31. The first 8 of their 12 bytes hold the lower four bits of each: scales 0 to
# 7 in the lower halves, 8 to 15 in the upper. The last 4 bytes hold the upper two bits: scales 0 to 3 in bits 0 and 1, 4 to
# 7 in bits 2 and 3, and so on. Stored is the scale plus 32.


# %%
def q3_k_scales(packed):
    """Bytes (12,), uint8 -> 16 whole numbers from -32 to 31"""
    ...


# %%
q3_k_scales = check_q3_k_scales(q3_k_scales)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def q3_k_scales(packed):
#     low = torch.cat([packed[:8] & 15, packed[:8] >> 4])
#     high = torch.cat([packed[8:] >> shift & 3 for shift in (0, 2, 4, 6)])
#     return (low + 16 * high).int() - 32
# ```
#
# </details>
#
# Put together, and held against the reference, the `gguf` package:

# %%
# NBVAL_CHECK_OUTPUT
import gguf

high, low, scales, d = raw[:32], raw[32:96], raw[96:108], raw[108:].view(torch.float16).float()
mine = d * q3_k_scales(scales).repeat_interleave(16) * q3_k_numbers(high, low)
theirs = gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType.Q3_K)
print(len(mine), "weights, the same as gguf's to the last bit:", torch.equal(mine, torch.from_numpy(theirs)))

# %% [markdown]
# So the file holds no weights at all: it holds small numbers and the steps to multiply them by.
#
# ## Build: bits per weight
#
# How many bits does a weight take, with its part of what it shares? It has `q_bits` of its own; `group` weights share
# `group_bits` (a scale, or a scale and a minimum); `block` weights share `floats` numbers of 16 bits.


# %%
def bits_per_weight(q_bits, group, group_bits, block, floats):
    """-> bits for each weight"""
    ...


# %%
bits_per_weight = check_bits_per_weight(bits_per_weight)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def bits_per_weight(q_bits, group, group_bits, block, floats):
#     return q_bits + group_bits / group + 16 * floats / block
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.exercises.bits import LAYOUTS

for kind, layout in LAYOUTS.items():
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    print(f"{kind}: {bits_per_weight(*layout):.4f} bits; gguf's own table: {8 * size / weights:.4f}")

# %%
from wan_tutorial.show import plot_block_types

show_figure(plot_block_types(list(LAYOUTS)))

# %% [markdown]
# **Notice** Q4_0 beside Q4_K: the same bits. The old type gives every 32 weights a scale of 16 bits. The K type gives them a
# scale and a minimum of six bits each, and has room left for two numbers of 16 bits that 256 weights share. Which is better
# spent? Find both on the right of the next picture.
#
# ## Look: pack it yourself
#
# Pick a matrix of the master, a type, and a row. Black dots are weights before, blue lines after; orange is what was lost. On
# the right, what every type takes and loses on this matrix; the lower of two points with the same bits is the better type.

# %%
from wan_tutorial.show import explore_quantization

original = read_tensors(master).tensors
picked = (MATRIX, "blocks.0.self_attn.q.weight", "blocks.5.cross_attn.v.weight")
panel = explore_quantization({name: original[name] for name in picked})

# %%
from wan_tutorial.quantization import QuantizedTensor

matrix = original[MATRIX].float()
for kind in ("Q4_0", "Q4_K"):
    error = QuantizedTensor.from_weights(matrix, kind).dequantize() - matrix
    print(f"{kind}: {bits_per_weight(*LAYOUTS[kind])} bits, off by {error.norm() / matrix.norm():.1%}")

# %% [markdown]
# <details><summary>Which is better spent?</summary>
#
# On the K type's scales and minima: as many bits, and an error nearly a fifth smaller. Pick the other two matrices: it is so
# there, too.
#
# </details>
#
# ## Look: from F16 to Q2_K
#
# Now whole files. The kit's quantisers make six of them from the F16 master, here and now. (A file type is a block type for
# most matrices. In Q4_K_S the second matrix of each feed-forward and the first four value matrices get Q5_K; in Q2_K the
# value matrices get Q3_K.)

# %%
from pathlib import Path

from wan_tutorial.mini.quantize import quantize_master

KINDS = ("Q8_0", "Q6_K", "Q5_K_S", "Q4_K_S", "Q3_K_S", "Q2_K")
Path("outputs").mkdir(exist_ok=True)
files = {"F16": master}
for kind in KINDS:
    files[kind] = Path("outputs") / f"lesson_05-{kind}.gguf"
    quantize_master(master, files[kind], kind)

# %% [markdown]
# Three questions to each. How far are the weights off? How far is the *velocity* off? And how well does it still do what it
# was trained for: guess the velocity of videos that no training saw, under known noise? (The *loss*: the mean squared error
# of that guess.)


# %%
def weight_error(path):
    """How far a file's packed matrices are from the master's, relative to their size."""
    off = size = 0.0
    for name, tensor in read_tensors(path).tensors.items():
        if isinstance(tensor, QuantizedTensor):
            true = original[name].float()
            off += (tensor.dequantize() - true).square().sum().item()
            size += true.square().sum().item()
    return (off / size) ** 0.5


# %%
from wan_tutorial.mini.captions import write_caption
from wan_tutorial.mini.world import draw_scene, render

scenes = [draw_scene(9_000_000 + seed) for seed in range(6)]
videos = render(scenes, height=96, width=96, frames=13)
clean = torch.cat([full.encode(one) for one in videos])  # (6, 16, F, H, W)
noise = torch.cat([full.draw_noise(seed=seed) for seed in range(6)])
captions = torch.stack([full.encode_text(write_caption(scene, 0)).positive for scene in scenes])

# %%
from wan_tutorial.noise import mix


@torch.no_grad()
def guesses(pipeline):
    """The velocities that a model guesses for six videos at three noise levels: (3, 6, 16, F, H, W)."""
    times = [torch.full((6,), 1000 * sigma) for sigma in (0.9, 0.7, 0.4)]
    return torch.stack([pipeline.transformer(mix(clean, noise, t[0] / 1000), t, captions) for t in times])


models = {kind: wan.load(MASTER, transformer=file) for kind, file in files.items()}
answers = {kind: guesses(model) for kind, model in models.items()}

# %%
from wan_tutorial.show import show_table

bits = {kind: wan.inspect_file(file).bits_per_weight for kind, file in files.items()}
true, exact = noise - clean, answers["F16"]
weights_off = {kind: weight_error(files[kind]) for kind in KINDS}
velocity_off = {kind: ((answers[kind] - exact).norm() / exact.norm()).item() for kind in KINDS}
loss = {kind: (answer - true).square().mean().item() for kind, answer in answers.items()}

# %%
rows = [
    [
        k,
        f"{bits[k]:.2f}",
        f"{files[k].stat().st_size / 1e6:.1f} MB",
        f"{weights_off.get(k, 0):.1%}",
        f"{velocity_off.get(k, 0):.1%}",
        f"{loss[k]:.4f}",
    ]
    for k in files
]
show_table(["type", "bits per weight", "file", "weights off by", "velocity off by", "loss"], rows)

# %%
from wan_tutorial.show import plot_costs

costs = {"weights off by": weights_off, "velocity off by": velocity_off, "loss on unseen videos": loss}
show_figure(
    plot_costs(bits, costs, logarithmic=("weights off by", "velocity off by"), title="What fewer bits cost")
)

# %% [markdown]
# **Read the third panel first.** The first two say how *different* a packed model is; only the loss says whether it is
# *worse*. The first panel falls by about half with each bit, as it must: one bit more makes the steps half as long.
#
# And the video? One prompt, one seed, ten steps, seven files:

# %%
text, seed = full.encode_text(PROMPT, NEGATIVE), full.draw_noise(seed=6)
painted, last = {}, {}
for kind, model in models.items():
    *_, step = model.denoise(seed, text, steps=10)
    last[kind] = step.latent
    painted[f"{kind}, {bits[kind]:.2f} bits"] = full.decode(step.latent)

# %%
from wan_tutorial.show import plot_strips

show_figure(
    plot_strips(painted, fps=pipe.entry.fps, columns=8, alt="One prompt and one seed, from F16 to Q2_K")
)

# %%
for kind in KINDS:
    away = (last[kind] - last["F16"]).norm() / last["F16"].norm()
    print(f"{kind:7} the finished latent is {away:.0%} away from F16's")
*_, step = full.denoise(full.draw_noise(seed=8), text, steps=10)
print(f"F16 with another seed: {(step.latent - last['F16']).norm() / last['F16'].norm():.0%} away")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Likeness goes first. At Q3_K_S the latent is 15 % away, while the loss is only 3 % up (0.3422 to 0.3511) and the sword is as
# good. The picture goes at Q2_K: the loss is 22 % up, the guard loses its green, the blade turns blotchy.
#
# Another seed is far away, too (the last line), and no worse: it is the same model. So do not judge a type by how closely it
# repeats one video; ask how good its videos are. One seed cannot tell that. The loss, over six videos and three noise levels,
# is a first answer, on this small model.
#
# </details>
#
# ## Explain
#
# **In the table, the weights of Q3_K_S are off by more than its velocity is. Where has the rest gone?** Here is one matrix,
# fed with random numbers and with what comes to it in the model. Then: how much of what leaves a block is its own work, which
# is added to what came in (lesson 04)?

# %%
layer, came = full.transformer.blocks[3].ffn.net[2], {}
hook = layer.register_forward_hook(lambda layer, inputs, output: came.update(x=inputs[0].flatten(0, 1)))
guesses(full)
hook.remove()

# %%
x, error = came["x"], QuantizedTensor.from_weights(matrix, "Q3_K").dequantize() - matrix
print(f"the weights are off by {error.norm() / matrix.norm():.1%}")
for name, fed in (("random numbers", torch.randn_like(x)), ("the model's own numbers", x)):
    print(f"fed with {name}, the output is off by {(fed @ error.T).norm() / (fed @ matrix.T).norm():.1%}")

# %%
parts = {}


def note_part(block, inputs, output):
    """Keep how large a block's own work is beside what leaves it."""
    parts.setdefault(block, []).append(((output - inputs[0]).norm() / output.norm()).item())


hooks = [block.register_forward_hook(note_part) for block in full.transformer.blocks]
guesses(full)
for hook in hooks:
    hook.remove()
print(
    "a block's own work, block by block:", ", ".join(f"{sum(one) / len(one):.0%}" for one in parts.values())
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Not into averages: fed with random numbers, a layer's output is off by as much as its weights are. Fed with what the model
# really computes, it is off by less. Such inputs lie along the directions in which a trained matrix is strong, and rounding
# errors have no direction. Besides, the way past each block has no weights to round, and from block 1 on a block's own work is
# only a third to a little over a half of what leaves it. Norms, modulation and head are not packed.
#
# </details>
#
# ## Build: fp8, the other way
#
# The text encoder is packed otherwise: `fp8`, an eight-bit *float* for each weight and one scale for a whole matrix. Lesson
# 01 read such a byte. Now write one row: choose the scale so that the largest weight, whatever its sign, becomes 448, divide,
# round to `torch.float8_e4m3fn`, and come back.


# %%
def fp8_row(weights):
    """Weights (n,) -> the same weights after a stay in scaled fp8, as float32"""
    ...


# %%
from wan_tutorial.exercises.bits import check_fp8_row, check_memory_sum

fp8_row = check_fp8_row(fp8_row)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def fp8_row(weights):
#     scale = weights.abs().max() / 448
#     return (weights / scale).to(torch.float8_e4m3fn).float() * scale
# ```
#
# </details>
#
# Q8_0 takes about the same room. **Predict** which is closer on an ordinary row. And which if one weight is a hundred times
# as large as the others?

# %%
row = original[MATRIX][0].float()
spiked = row.clone()
spiked[5] = 100 * row.abs().max()


def even_steps(weights):
    """Eight bits with one scale for the row: 255 even steps."""
    step = weights.abs().max() / 127
    return (weights / step).round() * step


# %%
ways = {
    "fp8": fp8_row,
    "Q8_0": lambda w: QuantizedTensor.from_weights(w[None], "Q8_0").dequantize()[0],
    "even steps": even_steps,
}
others = torch.arange(len(row)) != 5
for name, way in ways.items():
    errors = [((way(w) - w)[others].norm() / row[others].norm()).item() for w in (row, spiked)]
    print(
        f"{name:10} ordinary row {errors[0]:6.2%}   with one huge weight {errors[1]:6.2%} (the others' error)"
    )

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Even steps are the finest where the weights are alike: a float spends bits on an exponent that is not needed there. But one
# huge weight makes all even steps coarse: those of the whole row, or with Q8_0 those of its block of 32 alone. A float's
# steps are fine near zero whatever else there is. Fp8 is also quick to unpack: one change of type and one product.
#
# </details>
#
# ## Build: the memory sum
#
# Back to the real model. First the sizes of its files: from the shapes of its tensors and the converter's rules, without a
# byte of it on this machine.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.mini.quantize import transformer_types
from wan_tutorial.quantization import packed_bytes
from wan_tutorial.transformer import TransformerShape, WanTransformer

with torch.device("meta"):  # shapes only
    real = WanTransformer(TransformerShape())
shapes = {name: tuple(real.get_parameter(own).shape) for name, own in real.wan_names().items()}
for kind in ("F16", *KINDS):
    types = transformer_types(shapes, kind)
    size = sum(packed_bytes(types[name], shape) for name, shape in shapes.items())
    print(f"{kind:7}{size / 1e9:7.2f} GB")

# %%
# NBVAL_CHECK_OUTPUT
numbers = sum(map(prod, shapes.values()))
in_blocks = sum(prod(shapes[name]) for name, kind in types.items() if kind not in ("F32", "F16"))
print(
    f"{numbers:,} numbers, of which {in_blocks / numbers:.1%} are packed, {1 - in_blocks / numbers:.1%} not"
)

# %% [markdown]
# There is the title of this lesson: in Q3_K_S, 17 billion numbers take less than 8 GB. **Does that mean that the model runs on
# a card of 8 GB?** The weights are not all. At the fullest moment of a block there stand eight tensors of float32 and one of
# 16 bits, each with a number for every token and channel: five of float32 that are always there (20 bytes), and what
# self-attention adds (14 bytes). `tests/test_plan.py` holds this sum against a model whose every tensor is counted. Sum it
# up: packed weights plus these tensors, in bytes.


# %%
def memory_sum(weights, bits, tokens, dim):
    """-> bytes at the fullest moment of a step"""
    ...


# %%
memory_sum = check_memory_sum(memory_sum)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def memory_sum(weights, bits, tokens, dim):
#     return weights * bits / 8 + tokens * dim * (8 * 4 + 2)
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.machine.plan import CARDS, Run, block_parameters, plan_run
from wan_tutorial.machine.weights import MODELS, find_model

entry = find_model("wan2.1-vace-14b-q3")
for size in (wan.VideoSize(480, 480, 33), wan.VideoSize(832, 480, 33), wan.VideoSize(832, 480, 81)):
    run = Run(size, 4, 1.0)
    needed = memory_sum(
        block_parameters(entry), bits_per_weight(*LAYOUTS["Q3_K"]), run.tokens, entry.shape[0]
    )
    print(f"{str(size):12} {run.tokens:6,} tokens: {needed / 1e9:5.1f} GB")

# %% [markdown]
# So much for 8 GB. The plan adds what is left: the matrices that are not packed, one matrix unpacked, PyTorch itself.
# Everything it says is predicted.

# %%
from wan_tutorial.show import plot_memory

CARD = "T4"  # or "8GB", "12GB", "16GB", "24GB", "L4", "A100"
run = Run(wan.VideoSize(832, 480, 33), 4, 1.0)
names = {"Q3_K_S": "q3", "Q4_K_S": "q4_k_s", "Q5_K_S": "q5_k_s", "Q6_K": "q6_k", "Q8_0": "q8_0", "F16": "f16"}
plans = {
    kind: plan_run(find_model(f"wan2.1-vace-14b-{name}"), CARDS[CARD], run, offload=False)
    for kind, name in names.items()
}
show_figure(plot_memory(plans, title=f"{run.size}, {run.tokens:,} tokens, no LoRA"))

# %% [markdown]
# And on your own machine? The first card in the list is this machine, as the kit sees it.

# %%
from wan_tutorial.machine.hardware import read_machine, this_card
from wan_tutorial.show import explore_memory

cards = {"this machine": this_card(read_machine()), **CARDS}
heavy = {name: entry for name, entry in MODELS.items() if not entry.light}
panel = explore_memory(cards, heavy, model="wan2.1-vace-14b-q3", card="T4")

# %% [markdown]
# **Try** to fit the model on 8GB. Fewer frames, fewer pixels, another model? Then tick *blocks may rest in RAM*. This is
# *offloading*: the blocks stay in the computer's own memory and come to the card one after another, two at a time, the next
# while one computes. The bars above are without it; the kit does it where a run would not fit otherwise, and its plan says so.
#
# ## Break it
#
# A block has 880 bits. **Predict:** if one of them is wrong, which does the most harm? Flip each, one after the other, and
# see how far the 256 weights move.

# %%
from wan_tutorial.quantization import dequantize
from wan_tutorial.show import plot_bit_damage

small = read_tensors(files["Q3_K_S"]).tensors
block, spot = small[MATRIX].raw[:110], torch.arange(880)
flipped = block.repeat(881, 1)
flipped[spot, spot // 8] ^= (1 << spot % 8).to(torch.uint8)  # the last one stays as it is
weights = dequantize(flipped, "Q3_K", (881, 256))
damage = (weights[:-1] - weights[-1]).norm(dim=1) / weights[-1].norm()
damage = damage.nan_to_num(1e6, posinf=1e6).view(110, 8)
show_figure(
    plot_bit_damage(damage, title="How far one wrong bit moves the 256 weights, relative to their size")
)

# %% [markdown]
# Now in a file: the worst of these bits, and a bit of one number. One bit among millions.

# %%
from wan_tutorial.files import write_gguf

wrong = {}
for name, (byte, bit) in {"worst bit": divmod(damage.argmax().item(), 8), "bit of a number": (40, 0)}.items():
    bytes_now = small[MATRIX].raw.clone()
    bytes_now[byte] ^= 1 << bit
    broken = Path("outputs") / "lesson_05-broken.gguf"
    write_gguf(broken, small | {MATRIX: QuantizedTensor(bytes_now, "Q3_K", small[MATRIX].shape)})
    *_, step = wan.load(MASTER, transformer=broken).denoise(seed, text, steps=10)
    wrong[f"{name}: bit {bit} of byte {byte}"] = full.decode(step.latent)

# %%
shown = {"as it should be": painted[f"Q3_K_S, {bits['Q3_K_S']:.2f} bits"], **wrong}
show_figure(
    plot_strips(shown, fps=pipe.entry.fps, alt="Q3_K_S as it is, and with one bit of the file flipped")
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# A bit of a number moves one weight by a few steps, and nobody can tell. The upper bits of d, the block's scale, are an
# exponent: one of them multiplies 256 weights by 65,536 or so. And the file still opens: its header, its names and its sizes
# are right. That is what checksums are for; the kit compares them when it downloads, and records them.
#
# </details>
#
# ## On the real model
#
# Set `MODEL` to `"wan2.1-vace-14b-q3"` where its files are, and you take the real file's own bytes apart (written for that,
# and not run there yet), while the comparison from F16 to Q2_K stays with the scale model, whose master is at hand. For the
# real one it needs the F16 master, 35 GB, and has not been made here. What the plan predicts for one card:

# %%
print(
    plan_run(
        find_model("wan2.1-vace-14b-q3"), CARDS["T4"], Run(wan.VideoSize(480, 480, 33), 4, 1.0, lora=True)
    )
)

# %% [markdown]
# And measured, where `MODEL` is the real one:

# %%
if pipe.entry.light:
    print("This is the scale model; on the real one this cell measures a run of one step, stage by stage.")
else:
    result = pipe.generate(PROMPT, size=wan.VideoSize(480, 480, 33), steps=1, guidance=1.0)
    show_table(
        ["stage", "seconds", "GB on the GPU"],
        [[u.name, f"{u.seconds:.0f}", f"{(u.gpu_memory_peak or 0) / 1e9:.1f}"] for u in result.stages],
    )

# %% [markdown]
# ## Recap
#
# - A packed file holds small whole numbers and, on two levels, the scales that make weights of them. Q3_K is 3.4375 bits.
# - Each bit less doubles the error of the weights. A different video is not a worse one: judge by quality, not likeness.
# - Weights that fit are not a run that fits: tokens take room as well, and the fullest moment decides.
#
# **1. A file type is called Q4_K_S. Does every weight in the file take 4 bits?**
#
# <details><summary>Answer</summary>
#
# None does. A Q4_K weight takes 4.5 bits with its part of the scales, some matrices get a finer type, and vectors, embeddings
# and head stay in 16 or 32 bits.
#
# </details>
#
# **2. You have the choice: more frames with Q3_K_S, or fewer with Q4_K_S. Which part of the memory do frames take?**
#
# <details><summary>Answer</summary>
#
# The tokens' part, which grows with each frame; the packed weights stay the same whatever the video.
#
# </details>
#
# **3. Is the transformer faster when its weights are packed?**
#
# <details><summary>Answer</summary>
#
# Not by itself: each matrix is unpacked before it is used, which costs time at every step, though little beside the products
# of many tokens. It is faster where the alternative is weights that do not fit and are fetched from elsewhere.
#
# </details>
#
# **Next:** [06 · Turn latents into pixels](06_turn_latents_into_pixels.ipynb)
