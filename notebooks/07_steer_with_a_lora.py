# %% [markdown]
# # 07 · Steer with a LoRA
#
# | | |
# |---|---|
# | **After this lesson you can** | say what is in a LoRA file and what is not, add one to a layer in three lines, choose strength and steps knowing what they do, wear two at once, and train your own in three minutes |
# | **Time** | 60 minutes; the cells run in about one, and the training as long as you like: three minutes |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | beside the transformer, in the denoising loop: thin matrices that change what its layers answer |

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
# The ordinary way to a video is twenty steps, each with two prompts: the transformer looks forty times. A small file, a *LoRA*
# (low-rank adaptation), is said to do with four. **What must such a file change: one layer much, or all layers a little? And
# how large must it be, beside the transformer: a half, a tenth, a hundredth?** ComfyUI's *LoraLoader* has two sliders,
# `strength_model` and `strength_clip`. **What will the second one do?**

# %%
import wan_tutorial as wan
from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.mini.distill import NAME
from wan_tutorial.mini.styles import NEON_LORA

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
SPEED = bundled_folder() / NAME  # there: the path of Wan21_CausVid_14B_T2V_lora_rank32.safetensors
LOOK = bundled_folder() / NEON_LORA  # there: any LoRA of a look for Wan 2.1
PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising "
    "in a dark background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"

# %%
pipe = wan.load(MODEL)
text, noise = pipe.encode_text(PROMPT, NEGATIVE), pipe.draw_noise(seed=6)
print(SPEED.name)
print(LOOK.name)

# %% [markdown]
# The first file is the scale model's counterpart of the *CausVid* LoRA: made in the same format, at the same rank, for the
# same purpose, and trained on this model's own videos. The second teaches it a look.
#
# ## Look: what it does
#
# One prompt and one noise, four ways: with the model's own settings; in four steps; in four steps without guidance; and so
# again, with the LoRA.

# %%
FEW = {"steps": 4, "guidance": 1.0}
ways = {
    f"{pipe.entry.steps} steps, guided": {},
    "4 steps, guided": {"steps": 4},
    "4 steps, not guided": FEW,
    "4 steps, not guided, with the LoRA": FEW | {"loras": [(SPEED, 1.0)]},
}

# %%
import time

finished, took = {}, {}
for name, settings in ways.items():
    for _ in range(2):  # the first run also puts the LoRA into the weights
        began = time.perf_counter()
        *_, step = pipe.denoise(noise, text, **settings)
        finished[name], took[name] = step.latent, time.perf_counter() - began
videos = {name: pipe.decode(latent) for name, latent in finished.items()}

# %%
from wan_tutorial.show import plot_bars, plot_strips, show_figure

show_figure(
    plot_strips(videos, fps=pipe.entry.fps, columns=9, alt="One prompt and one noise, painted four ways")
)

# %%
show_figure(plot_bars(took, y="seconds from noise to latent", title="What each way costs"))

# %% [markdown]
# **Notice** what four steps without guidance lose, and what the LoRA gives back of it, for the same time. How much it gives
# back depends on how long it was trained; further down it is measured.
#
# ## Look: what is in the file
#
# The kit tells every key's place from names and shapes alone:

# %%
# NBVAL_CHECK_OUTPUT
fit = pipe.fit_loras([(SPEED, 1.0)])[0]
print(fit)

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.files import read_header

for key, shape in read_header(SPEED).shapes.items():
    if "blocks.3.self_attn.q" in key:
        print(f"{key:52} {tuple(shape)}")

# %% [markdown]
# Three tensors for each layer: `lora_down` and `lora_up`, two thin matrices, and `diff_b`, a change of the layer's bias.
# `diffusion_model.` is ComfyUI's word for the transformer. (Error messages of some loaders say `unet`. There is none in
# Wan; the word is left over from older models.)
#
# No key is for the text encoder. So what does a clip strength change?

# %%
# NBVAL_CHECK_OUTPUT
import torch

worn = pipe.encode_text(PROMPT, NEGATIVE, loras=[(SPEED, 1.0)])
print("the same embeddings:", torch.equal(worn.positive, text.positive))

# %% [markdown]
# Nothing, whatever its value. And in the transformer? Each field below is one layer; the darker, the larger its change
# beside the weight it is added to.

# %%
from wan_tutorial.files import read_tensors
from wan_tutorial.lora import read_lora

speed, weights = read_lora(SPEED), read_tensors(pipe.files["transformer"]).tensors
changes = {}
for key, layer in fit.layers.items():
    weight = weights[f"{layer}.weight"].dequantize().float()
    changes[layer] = (speed.changes[key].of_weight(weight.shape).norm() / weight.norm()).item()

# %%
from wan_tutorial.show import plot_layers

layers = [name.removesuffix(".weight") for name, one in weights.items() if len(one.shape) == 2]
show_figure(plot_layers(changes, layers, title="Where the LoRA is"))
size = sum(torch.Size(one.shape).numel() for one in weights.values())
print(f"{speed.parameters:,} numbers, {speed.parameters / size:.1%} of the transformer's {size:,}")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# All 60 layers of the main blocks, by roughly 7 to 24 % of their weight, most in cross-attention's output. Nothing in the VACE
# blocks, which listen to reference images (lesson 08): they speak to the faster model as they spoke to the slower one. The
# embeddings and the head around the blocks have no key either. (The real file may differ in that last point. With its path in
# `SPEED`, these cells tell.)
#
# How large? 14 % of this transformer's numbers; under 1 % of the real one's, as computed below. A thin matrix takes `rank`
# numbers for each row and column, a weight takes rows times columns: the wider the layers, the smaller the share.
#
# </details>
#
# ## Build: the best copy of low rank
#
# How can two thin matrices change a large one? A matrix can be taken apart into a sum of simple ones, each a column times a
# row, ordered by size: the *singular value decomposition*. How many of them it needs is its *rank*. Keep only the largest:


# %%
def keep_rank(matrix, rank):
    """-> the nearest matrix that has only this rank; torch.linalg.svd takes a matrix apart"""
    ...


# %%
from wan_tutorial.exercises.lora import check_keep_rank, check_lora_scale, check_low_rank, check_merge

keep_rank = check_keep_rank(keep_rank)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def keep_rank(matrix, rank):
#     columns, sizes, rows = torch.linalg.svd(matrix, full_matrices=False)
#     return columns[:, :rank] * sizes[:rank] @ rows[:rank]
# ```
#
# </details>
#
# A picture is a matrix, too: three, one for each colour. Here is a render, and copies of it of low rank:

# %%
from wan_tutorial.mini.world import draw_scene, render
from wan_tutorial.show import plot_pictures

picture = render([draw_scene(0)], frames=1)[0, 0]  # (96, 96, 3)
ranks = (1, 2, 4, 8, 16, 32, 96)
copied = [torch.stack([keep_rank(one, rank) for one in picture.unbind(-1)], dim=-1) for rank in ranks]
labels = [f"rank {rank}: {min(1, rank * 192 / 96**2):.0%}" for rank in ranks]
show_figure(
    plot_pictures(copied, labels=labels, alt="One picture at ranks 1 to 96, with their share of numbers")
)

# %% [markdown]
# Rank 1 is one column times one row: stripes. **Notice** how few ranks the layout needs; the per cent say how many numbers
# each copy takes beside the picture's own. (At the last rank the picture is whole, and two thin matrices would take more.)
#
# ## Look: low rank in the file
#
# The update of one layer, drawn to scale, and the weight it is added to:

# %%
from wan_tutorial.show import plot_low_rank, plot_parts

LAYER = "blocks.3.self_attn.q"
weight = weights[f"{LAYER}.weight"].dequantize().float()
change = next(speed.changes[key] for key, layer in fit.layers.items() if layer == LAYER)
down, up = change.down.float(), change.up.float()
show_figure(plot_low_rank(weight, down, up, title=LAYER))

# %%
sizes = {"weight": torch.linalg.svdvals(weight), "update": torch.linalg.svdvals(up @ down)}
show_figure(plot_parts(sizes, title="How large the parts of a weight and of its update are"))
squares = sizes["update"].square()
for rank in (1, 4, 8, 16, len(down)):
    print(f"the {rank:2} largest parts hold {squares[:rank].sum() / squares.sum():6.1%} of the update")

# %% [markdown]
# **Notice** where the orange line ends: at part 32, the rank; after it there is nothing, exactly. The weight itself goes on to
# its last part and could not be copied so. What LoRA rests on is that the *change* that a new task needs can do with few parts
# ([the paper](https://arxiv.org/abs/2106.09685) found it for language models). The last lines say how much of it fewer would
# have carried here.
#
# ## Build: the product, the scale, the merge
#
# A layer answers W x. What does the LoRA add to it? Go through the thin matrices, one after the other. Tokens are rows, and
# a matrix has the shape (out, in).


# %%
def low_rank(x, down, up):
    """x (T, in), down (rank, in), up (out, rank) -> what is added for each token, (T, out)"""
    ...


# %%
low_rank = check_low_rank(low_rank)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def low_rank(x, down, up):
#     return x @ down.T @ up.T
# ```
#
# </details>
#
# It is multiplied by the strength that you choose, and by alpha / rank. `alpha` is a number that the trainer chose and wrote
# into the file. This file has none (`alpha=None`), and then nothing is scaled.


# %%
def lora_scale(alpha, rank, strength):
    """-> the number that the product is multiplied by"""
    ...


# %%
lora_scale = check_lora_scale(lora_scale)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def lora_scale(alpha, rank, strength):
#     return strength * (1.0 if alpha is None else alpha / rank)
# ```
#
# </details>
#
# Or add the update to the weight, once and for all:


# %%
def merge(weight, down, up, scale):
    """-> the weight (out, in) with the update in it"""
    ...


# %%
merge = check_merge(merge)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def merge(weight, down, up, scale):
#     return weight + scale * up @ down
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
x, scale = torch.randn(5, weight.shape[1]), lora_scale(None, len(down), 0.7)
beside = x @ weight.T + scale * low_rank(x, down, up)
inside = x @ merge(weight, down, up, scale).T
print("beside the layer or inside it, the same:", torch.allclose(beside, inside, atol=1e-4))

# %% [markdown]
# And with all layers of the transformer:


# %%
@torch.no_grad()
def velocity_now():
    """What the transformer answers for the noise, as it is dressed now."""
    return pipe.transformer(noise, torch.tensor([1000.0]), text.positive[None])


bare, dressed = velocity_now(), {}
for name, put_on in {"beside": speed.apply_to, "merged": speed.merge_into}.items():
    it = put_on(pipe.transformer, 0.7)
    dressed[name] = velocity_now()
    it.remove()

# %%
# NBVAL_CHECK_OUTPUT
apart = (dressed["beside"] - dressed["merged"]).norm() / (dressed["merged"] - bare).norm()
print("beside and merged are the same:", apart.item() < 1e-3)
print("taken off, the model is what it was:", torch.equal(velocity_now(), bare))

# %% [markdown]
# ## Explain
#
# **If both are the same, why do programs do it in different ways?**
#
# <details><summary>Answer</summary>
#
# Merged, each layer is one matrix again, and as fast as before. But a packed weight must be unpacked for it and stay so: the
# next cell says what that costs. Beside the layer, packed weights stay packed, the strength is one number that can change
# between two steps, and two small products are added to each layer. The kit merges on the scale model, where memory is
# plenty, and goes beside on the real one. diffusers goes beside; ComfyUI adds the update to each weight, and for packed
# files it does so whenever it unpacks one.
#
# </details>

# %%
changed = [weights[f"{layer}.weight"] for layer in changes]
packed = sum(getattr(one, "raw", one).nbytes for one in changed)
unpacked = sum(2 * torch.Size(one.shape).numel() for one in changed)
print(f"the changed layers take {packed / 1e6:.1f} MB packed, {unpacked / 1e6:.1f} MB merged in 16 bits;")
print(f"beside them the LoRA takes {SPEED.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Could one not merge and pack again? The update is added, then all is rounded to three bits. **How far from the merged weight
# is the layer then?**

# %%
from wan_tutorial.quantization import QuantizedTensor

update = up @ down
after = QuantizedTensor.from_weights(merge(weight, down, up, 1.0), "Q3_K").dequantize()
lost = (after - weight - update).norm() / update.norm()
print(f"packed again, the layer is off by an error {lost:.0%} as large as the update itself")

# %% [markdown]
# What the LoRA says is then hardly louder than the noise of rounding. Hence beside the layer, or merged in 16 bits.
#
# ## Look: strength
#
# Strength 0 is off, and 1 is as trained. Four steps without guidance; drag. **Predict:** what lies beyond 1?

# %%
from wan_tutorial.show import explore_walk


def at_strength(amount):
    """The steps of a video with the LoRA at twice the amount."""
    return pipe.denoise(noise, text, **FEW, loras=[(SPEED, 2 * amount)])


book = explore_walk(
    at_strength,
    pipe.decode,
    ends=("strength 0", "strength 2"),
    fps=pipe.entry.fps,
    stops=9,
    ready=3,
    say=lambda amount: f"strength {2 * amount:g}",
)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Up to 1 the update comes in by degrees. Beyond it everything that the LoRA does is overdone: the model is pushed on in the
# direction that training took, further than training ever went. *Break it* goes to 3.
#
# </details>

# %% [markdown]
# ## Look: strength by steps
#
# The LoRA learned to reach in four steps, alone, what the guided model reaches in all its steps from the same noise. So a
# distance can be measured: how far is each result from that goal? For two seeds, of which you see the first:

# %%
from itertools import product

STRENGTHS, STEPS = (0.0, 0.3, 0.7, 1.0), (2, 4, 8)
pair = torch.cat([pipe.draw_noise(seed=seed) for seed in (6, 8)])
*_, goal = pipe.denoise(pair, text)
cells = {}
for strength, steps in product(STRENGTHS, STEPS):
    began = time.perf_counter()
    *_, step = pipe.denoise(pair, text, steps=steps, guidance=1.0, loras=[(SPEED, strength)])
    cells[strength, steps] = step.latent, (time.perf_counter() - began) / 2

# %%
from wan_tutorial.show import plot_grid, plot_lines

away = {cell: (made - goal.latent).square().mean().sqrt().item() for cell, (made, _) in cells.items()}
show_figure(
    plot_grid(
        [[pipe.decode(cells[one, steps][0][:1])[6] for steps in STEPS] for one in STRENGTHS],
        rows=[f"strength {one:g}" for one in STRENGTHS],
        columns=[f"{steps} steps" for steps in STEPS],
        notes=[[f"{cells[one, n][1]:.2f} s, {away[one, n]:.2f} away" for n in STEPS] for one in STRENGTHS],
        beside=(pipe.decode(goal.latent[:1])[6], "the goal", f"{pipe.entry.steps} steps, guided"),
    )
)

# %%
lines = {f"strength {one:g}": (STEPS, [away[one, n] for n in STEPS]) for one in STRENGTHS}
show_figure(
    plot_lines(
        lines, x="steps, not guided", y="distance", title="How far from the guided video of many steps"
    )
)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# At two steps full strength comes nearest; at four, for which the LoRA was trained, and at eight, 0.7 does, for these two
# seeds. At 1, four more steps change nothing (0.31). As trained is a starting point, not the best setting. The line of strength
# 0 shows what steps alone can do: they lead to the *unguided* video, which is another one. The LoRA brings what guidance would
# have added, and at full strength it brings all of it at every step. So do not expect that more steps and more strength add up.
#
# A small distance means: the same video. A large one means another video, not always a worse one.
#
# </details>
#
# Is it as good, then? That needs many captions. The shipped evaluation counts them, for the files whose hashes it carries:

# %%
from wan_tutorial.show import read_evaluation, say_share, show_table

rows = [
    [
        name.replace("_", " "),
        say_share(row["adherence"]),
        f"{row['frechet']:.3g}",
        f"{row['seconds']['value']:.2f}",
    ]
    for name, row in read_evaluation(pipe).get("lora", {}).get("few_steps", {}).items()
    if isinstance(row, dict)
]
if rows:
    show_table(["way", "asked for and seen", "Fréchet distance", "seconds"], rows)
else:
    print("not measured on these files")

# %% [markdown]
# *Asked for and seen*: the judge's reading of lesson 11. The *Fréchet distance* compares all videos with renders at once; less
# is better.
#
# ## Look: two at once
#
# The second file taught the model a look: a violet night in which contours glow. An axe on a beach has broad ones. (Put `text`
# in the place of `beach` to see the sword in its bonfire: the look hides its hilt.) The first row below is a render of such a
# scene, under the filter that made the look's examples.

# %%
from wan_tutorial.mini.styles import neon
from wan_tutorial.mini.world import Scene

beach = pipe.encode_text("an axe beside blue flames on a beach, no embers", NEGATIVE)
scene = Scene("axe", "beside", "blue", setting="shore", embers=False, light="flat", texture="plain", side=0)
strips = {"a render under the filter": neon(render([scene], frames=13))[0]}

# %%
look = read_lora(LOOK)
dresses = {
    f"the look alone, {pipe.entry.steps} steps, guided": ([(look, 1.0)], {}),
    "the speed alone, 4 steps": ([(speed, 1.0)], FEW),
    "both, 4 steps": ([(speed, 1.0), (look, 1.0)], FEW),
}
for name, (loras, settings) in dresses.items():
    *_, step = pipe.denoise(noise, beach, loras=loras, **settings)
    strips[name] = pipe.decode(step.latent)
show_figure(
    plot_strips(strips, fps=pipe.entry.fps, columns=9, alt="The look, the speed, and both LoRAs at once")
)

# %% [markdown]
# Nothing in the prompt asks for the look. Compare with the first row: how much of the thin tubes does it reach, and where do
# they run together?
#
# <details><summary>Answer</summary>
#
# The horizon and the edge of the water come near to tubes. Flames and logs run together into broad light, and the axe is a
# coloured patch.
#
# </details>
#
# How often is it seen? A *probe* is a small network or linear map, trained on renders to read one thing from a picture. In the
# shipped evaluation one probe looks for the look, and others, which learned from renders under the filter, for what was asked
# for. *One of three minutes* was trained as you will train yours below, the *control* as the look's was, but on ordinary renders.

# %%
readings = read_evaluation(pipe).get("lora", {}).get("look", {})
for group, key, said in (
    ("look", "look_seen", "look seen, with the look"),
    ("learner", "look_seen", "look seen, with one of three minutes"),
    ("control", "look_seen", "look seen, with the control"),
    ("renders_in_the_look", "obeyed", "asked for and seen, in renders under the filter"),
    ("look", "obeyed", "asked for and seen, with the look"),
    ("ordinary_renders", "obeyed", "asked for and seen, in ordinary renders"),
    ("base", "obeyed", "asked for and seen, without a LoRA"),
):
    print(f"{said:48}", say_share(readings[group][key]) if readings else "not measured on these files")

# %% [markdown]
# The look comes every time, and costs a few words. The probes miss some even in renders, where every word is there, and more
# of them without the filter, which they have not met. So hold each kind of video against renders of its own kind: under the
# look five points are lost on the way (90 to 85 %), without it one (85 to 84).
#
# Does the order of two LoRAs matter?

# %%
# NBVAL_CHECK_OUTPUT
*_, other = pipe.denoise(noise, beach, loras=[(look, 1.0), (speed, 1.0)], **FEW)
print("in the other order the same:", torch.allclose(other.latent, step.latent, atol=1e-3))

# %% [markdown]
# Updates add up, so the order says nothing. Neither knew of the other when it was trained. Do they get into each other's
# way? Take both updates of each layer as two long arrows: a cosine near 0 says that they push in directions that have
# nothing to do with each other.

# %%
shared = {layer: key for key, layer in pipe.fit_loras([(LOOK, 1.0)])[0].layers.items() if layer in changes}
cosines = {}
for key, layer in fit.layers.items():
    if layer in shared:
        one, two = speed.changes[key], look.changes[shared[layer]]
        arrows = [change.of_weight(weights[f"{layer}.weight"].shape).flatten() for change in (one, two)]
        cosines[layer] = torch.cosine_similarity(*arrows, dim=0).item()

# %%
together = change.of_weight(weight.shape) + look.changes[shared[LAYER]].of_weight(weight.shape)
print(f"ranks of {LAYER}: {len(down)} and {look.ranks[0]}, together {torch.linalg.matrix_rank(together)}")
print(f"cosines of {len(cosines)} layers: from {min(cosines.values()):.3f} to {max(cosines.values()):.3f}")

# %% [markdown]
# By this measure hardly: the largest is 0.08, where 1 is the same direction, and unrelated arrows of that many numbers lie
# within about 0.01 of 0. What later layers make of both together, it does not say: for that, look at the last row of the
# strips above.
#
# ## Look: train your own
#
# What makes a LoRA? A few examples, the loss that trained the model (lesson 11), and patience for some minutes. The model
# itself is frozen, in three bits as it is; only the thin matrices learn. The examples are renders under a neon filter, with
# captions that say nothing of neon. Or your own: name a folder of pictures and videos, each with its caption in a text file
# beside it (`NAME.txt` beside `NAME.png`).

# %%
from wan_tutorial.mini.train_lora import read_examples, render_examples, train_lora

FOLDER = None  # or "my_pictures"
examples = read_examples(pipe, FOLDER) if FOLDER else render_examples("neon", 64)
firsts = [example.video[0] for example in examples]
show_figure(
    plot_pictures(firsts[:7], labels=["example"] * 7, alt="First frames of some examples to learn from")
)
print(examples[0].captions[0])

# %% [markdown]
# **Predict:** the captions never say *neon*. What will you have to type to get the look?
#
# The board paints four seeds of the axe's prompt as the model paints now, in four steps with the speed LoRA on as well, and of
# each the first frame alone, which a causal decoder can make without the others (lesson 06).

# %%
four = torch.cat([pipe.draw_noise(seed=seed) for seed in range(4)])


def painted_now(_learned):
    """First frames (4, height, width, 3), as the model paints at this moment."""
    *_, step = pipe.denoise(four, beach, **FEW, loras=wearing)
    return torch.cat([pipe.decode(one[None, :, :1]) for one in step.latent])


# %%
from wan_tutorial.show import TrainingBoard, training_minutes

MINUTES = 3
minutes, wearing = training_minutes(MINUTES), [(speed, 1.0)]
with TrainingBoard(
    torch.stack(firsts[:4]), painted_now, y="flow-matching loss", rows=("examples", "painted now")
) as board:
    mine = train_lora(pipe, examples, minutes=minutes, watch=board, progress=False, name="mine")
    wearing += [(mine, 1.0)]  # for the last picture: the training has taken it off

# %% [markdown]
# Into a file, in the format of the CausVid files, which ComfyUI's loader reads as well, and back:

# %%
from pathlib import Path

from wan_tutorial.lora import write_lora

MINE = Path("outputs/lesson_07/mine.safetensors")
MINE.parent.mkdir(parents=True, exist_ok=True)
write_lora(mine, MINE)
print(pipe.fit_loras([(MINE, 1.0)])[0])
print(
    f"{MINE.stat().st_size / 1e6:.1f} MB, learned from {len(examples)} clips in {board.minutes[-1]:.1f} minutes"
)

# %% [markdown]
# Did it learn the look, or only its examples? Four scenes that it has never seen, under the filter and without, and the loss
# on both, with your LoRA and without. A control: on ordinary renders it should *not* be better.

# %%
from wan_tutorial.noise import mix

clips = {kind: render_examples(kind, 4, first_seed=910_000) for kind in ("neon", "plain")}
levels = torch.tensor([0.3, 0.5, 0.7, 0.9])


@torch.no_grad()
def loss_on(examples):
    """The flow-matching loss of the model as it is dressed now, always with the same noise."""
    clean = torch.cat([pipe.encode(example.video) for example in examples])
    words = torch.stack([pipe.encode_text(example.captions[0]).positive for example in examples])
    velocity = pipe.transformer(mix(clean, four, levels), 1000 * levels, words)
    return (velocity - (four - clean)).square().mean().item()


# %%
losses = {}
for kind, unseen in clips.items():
    losses[f"{kind}, without"] = loss_on(unseen)
    it = mine.apply_to(pipe.transformer)
    losses[f"{kind}, with yours"] = loss_on(unseen)
    it.remove()
show_figure(plot_bars(losses, y="loss on unseen scenes", title="What your LoRA has learned"))

# %% [markdown]
# <details><summary>Did it learn the look, or only its examples?</summary>
#
# The look: on neon scenes that it never saw, the loss falls from about 0.85 to about 0.55. It costs something: on
# ordinary renders it rises, from 0.34 to about 0.5, as the LoRA pulls every video towards neon. And look at what it
# paints: the night is violet and edges glow, but fires stand doubled. The look comes first, and the layout suffers, in
# the shipped file as well; at half the strength it suffers less. With 24 examples in place of 64 the first loss stayed
# at 0.66, as more was learned by heart.
#
# </details>
#
# Now use it. A slider for each of the three LoRAs; the video is painted anew, in four steps, when you let go.

# %%
from wan_tutorial.show import explore_loras

wardrobe = {"speed": speed, "shipped look": look, "yours": mine}


def in_dress(strengths):
    """A video in four steps with these LoRAs."""
    loras = [(wardrobe[name], strength) for name, strength in strengths.items()]
    *_, step = pipe.denoise(noise, beach, **FEW, loras=loras)
    return pipe.decode(step.latent)


panel = explore_loras(in_dress, {"speed": 1.0, "shipped look": 0.0, "yours": 1.0}, fps=pipe.entry.fps)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# You need not type anything: what all examples share and no caption names becomes the new normal. Had the captions said
# *neon*, the word would have taken part of it. Try a negative strength, and strengths between.
#
# </details>
#
# ## Break it
#
# The speed LoRA holds guidance already. **Predict** what becomes of the video if guidance is left at the model's own, too.
# And of a strength of 3, or a look at -1?

# %%
broken = {
    "as it should be": FEW | {"loras": [(speed, 1.0)]},
    f"guidance {pipe.entry.guidance:g} as well": {"steps": 4, "loras": [(speed, 1.0)]},
    "strength 3": FEW | {"loras": [(speed, 3.0)]},
    "the look at -1": FEW | {"loras": [(speed, 1.0), (look, -1.0)]},
}
wrecks, spread = {}, {}
for name, settings in broken.items():
    *_, step = pipe.denoise(noise, text, **settings)
    wrecks[name], spread[name] = pipe.decode(step.latent), step.latent.std().item()

# %%
show_figure(
    plot_strips(wrecks, fps=pipe.entry.fps, columns=9, alt="The speed LoRA used wrongly in three ways")
)
show_figure(
    plot_bars(spread, y="standard deviation of the finished latent", title="How large the numbers get")
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Guidance on top of guidance: the numbers leave the range that the decoder knows, and contrast and colour with them; the bars
# say how far. Three times the update is no update that any training has seen. Strength 3 ruins the picture with numbers hardly
# larger: size alone does not tell. A negative look leads away from it, not to its opposite: nobody ever showed the model what
# *un-neon* is. Here it leads into the dark: the sword is gone, and a low fire burns in a black night. The numbers are large
# all the same: a dark picture is not a small latent.
#
# </details>
#
# And the most common mistake of all, a LoRA that was made for another model:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.lora import Change, Lora

q = "diffusion_model.blocks.0.self_attn.q"
stranger = Lora("of_a_wider_wan.safetensors", {q: Change(torch.zeros(32, 1536), torch.zeros(1536, 32))})
try:
    pipe.fit_loras([(stranger, 1.0)])
except wan.WanError as error:
    print(error)

# %% [markdown]
# Some programs say nothing but *lora key not loaded*, or nothing at all, and paint as if the LoRA were off. If a strength
# seems to have no effect, look there first.
#
# ## On the real model
#
# How large is a LoRA of rank 32 there? From the shapes of its tensors, without a byte of it:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.transformer import TransformerShape, WanTransformer

with torch.device("meta"):  # shapes only
    real = WanTransformer(TransformerShape())
shapes = {name: real.get_parameter(own).shape for name, own in real.wan_names().items()}
linear = [shape for name, shape in shapes.items() if name.startswith("blocks.") and len(shape) == 2]
thin = 32 * sum(map(sum, linear))
print(f"{thin:,} numbers, {2 * thin / 1e6:.0f} MB in 16 bits")
print(f"{thin / sum(map(torch.Size.numel, shapes.values())):.1%} of the transformer's")

# %% [markdown]
# And what it saves, as the plan predicts it for one card:

# %%
from wan_tutorial.machine.plan import CARDS, Run, plan_run
from wan_tutorial.machine.weights import find_model

entry, size = find_model("wan2.1-vace-14b-q3"), wan.VideoSize(480, 480, 33)
runs = {"20 steps, guided": Run(size, 20, 6.0), "4 steps, with the LoRA": Run(size, 4, 1.0, lora=True)}
rows = []
for name, run in runs.items():
    plan = plan_run(entry, CARDS["T4"], run)
    rows.append([name, f"{plan.minutes:.0f}", f"{max(stage.vram for stage in plan.stages) / 1e9:.1f}"])
show_table([f"{size} on a T4, predicted", "minutes", "GB on the GPU"], rows)

# %% [markdown]
# Neither was checked on a real T4. Set `MODEL`, `SPEED` and `LOOK`, and the cells that open the file or paint run
# unchanged; those that merge or train are made for the scale model. They paint at the model's own size, 832x480x81,
# where twenty guided steps take about 86 minutes (predicted; lesson 12). For the table's size draw the noise with
# `pipe.draw_noise(wan.VideoSize(480, 480, 33), seed=...)`. What the real file does at which strength is not measured
# here. ComfyUI's template sets 0.3 for four steps and speaks of 0.3 to 0.7; WanGP's page on LoRAs pairs 0.3 with twelve
# steps and about 1 with four: advice that does not agree, so make your own grid. And where `MODEL` is the real one:

# %%
if pipe.entry.light:
    print("This is the scale model; on the real one this cell measures a run of four steps, stage by stage.")
else:
    result = pipe.generate(PROMPT, size=size, **FEW, loras=[(SPEED, 1.0)])
    show_table(["stage", "seconds"], [[use.name, f"{use.seconds:.0f}"] for use in result.stages])

# %% [markdown]
# ## Recap
#
# - A LoRA is two thin matrices for a layer: `down` to a few numbers, `up` again; their product, times strength and alpha /
#   rank, is added to what the layer answers, or to its weight. Both give the same.
# - The CausVid kind changes the main blocks: no text encoder, so a clip strength does nothing, and no VACE blocks. It
#   carries what guidance and many steps would have done; so guidance goes to 1.
# - Several add up, in any order. What all examples share and no caption names is what a LoRA learns.
#
# **1. A friend turns `strength_clip` of the CausVid LoRA from 0 to 1, and swears that it is sharper. What do you tell them?**
#
# <details><summary>Answer</summary>
#
# The file has no key for the text encoder, so the embeddings are the same to the last bit, and the video too, if the seed is
# the same. They changed something else, the seed most likely.
#
# </details>
#
# **2. A layer has 4,096 rows and as many columns. From which rank on does a LoRA have more numbers than the layer?**
#
# <details><summary>Answer</summary>
#
# Above 2,048: rank · (4,096 + 4,096) against 4,096 · 4,096. At rank 32 it is one sixty-fourth.
#
# </details>
#
# **3. You train on twenty pictures of your dog, each captioned "a dog on a lawn". Afterwards "a cat on a sofa" looks odd. Why?**
#
# <details><summary>Answer</summary>
#
# What all pictures share and the caption does not say, such as the camera, the light, the grain, went into the thin matrices
# and is there for every prompt. Captions that name it, and pictures that do not all share it, keep it out.
#
# </details>
#
# **Next:** [08 · Give it a reference image](08_give_it_a_reference_image.ipynb)
