# %% [markdown]
# # 04 · Look inside the transformer
#
# | | |
# |---|---|
# | **After this lesson you can** | cut a latent into tokens, say how a token knows its place and its time, write attention yourself, see which word lights which place and moment, and tell what such a picture proves and what it does not |
# | **Time** | 60 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | inside the denoising loop of lesson 03: what happens between a latent going in and a velocity coming out |

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
# The prompt speaks of *a sword in burning wood* in *a dark background*. The transformer looks its words up again at every
# place of the video. **Which places will read "dark", and which "sword"? And at the very first step, when there is only
# noise: will the places differ already?** Write down what you expect.

# %%
import wan_tutorial as wan

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising "
    "in a dark background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"
BLOCKS = None  # look into all of them; on the real model into some, such as (3, 20, 39)

# %%
pipe = wan.load(MODEL)
text = pipe.encode_text(PROMPT, NEGATIVE)
steps = list(pipe.denoise(pipe.draw_noise(seed=6), text))
video = pipe.decode(steps[-1].latent)

# %% [markdown]
# ## Look: the way through
#
# A latent goes in, a velocity of the same shape comes out. Between them the video is a list of *tokens*.

# %%
from wan_tutorial.show import plot_transformer, show_figure

shape, size = pipe.transformer.shape, pipe.entry.size
grid = (size.latent_frames, size.latent_height // 2, size.latent_width // 2)
words = len(text.positive)
show_figure(plot_transformer(grid, channels=16, dim=shape.dim, blocks=shape.layers, words=words))

# %% [markdown]
# A *block* is three jobs in a row: tokens look at each other, tokens look at the words, and each thinks for itself. What a job
# finds is added to the token. An attention has several *heads*, which look for different things at once, with 128 numbers each:
# in each head a token asks with a vector of its own, its *query*, and is found by another, its *key*.
#
# Three things come in from the side: **place**, **words** and **time**. This lesson takes them one by one. First the
# tokens: a patch of 2 × 2 latent cells of one latent frame, 16 numbers each.

# %%
from wan_tutorial.show import latent_moments, plot_patches

latent, sigma = steps[8].latent_before, steps[8].sigma
show_figure(plot_patches(latent_moments(video), latent.cpu(), token=93))

# %% [markdown]
# **Notice** that a token is 16 × 16 pixels of four frames (of one, in the first latent frame): all that the transformer can
# compare is squares of this size. What is finer lives in the numbers within a token. Those on the right are of the latent at
# step 8, so they are still more noise than video: orange is above 0, blue below.
#
# ## Build: cut the patches
#
# Write the cut: a latent (16, F, H, W) becomes (tokens, 64). Tokens are counted frame by frame, row by row. Inside a token
# come first the channels, then the two rows, then the two columns.


# %%
def patchify(latent):
    """A latent (16, F, H, W) -> tokens (F * H/2 * W/2, 64)"""
    ...


# %%
from wan_tutorial.exercises.attention import check_attention_weights, check_patchify, check_rotary_angles

patchify = check_patchify(patchify)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def patchify(latent):
#     channels, frames, height, width = latent.shape
#     cells = latent.reshape(channels, frames, height // 2, 2, width // 2, 2)
#     patches = cells.permute(1, 2, 4, 0, 3, 5)
#     return patches.reshape(-1, 4 * channels)
# ```
#
# </details>
#
# The model does the cut as a convolution, `patch_embedding`. It is the same thing: your cut, then one matrix.

# %%
# NBVAL_CHECK_OUTPUT
import torch

embedding = pipe.transformer.patch_embedding
tokens = patchify(latent[0])  # (T, 64)
mine = tokens @ embedding.weight.flatten(1).T + embedding.bias  # (T, dim)
theirs = embedding(latent).flatten(2).transpose(1, 2)[0]
print(
    tuple(tokens.shape), "->", tuple(mine.shape), " the model's own:", torch.allclose(mine, theirs, atol=1e-4)
)

# %% [markdown]
# Self-attention compares every token with every token. That is why size costs more than it seems:

# %%
# NBVAL_CHECK_OUTPUT
for video_size in (wan.VideoSize(96, 96, 13), wan.VideoSize(832, 480, 81), wan.VideoSize(1280, 720, 81)):
    print(f"{str(video_size):12} {video_size.tokens:7,} tokens, {video_size.tokens**2:14,} pairs")

# %% [markdown]
# ## Look: a token does not know where it is
#
# Nothing in a list says who stands beside whom: attention treats its tokens as a bag. What tells them their places comes
# in on the way, in the blocks. Take it out, and see what is lost: show the frames in reverse order, turn the answer
# back, and compare.


# %%
@torch.no_grad()
def velocity_at(latent, sigma, told=None, words=text.positive, taps=None):
    """What the transformer answers; `told`: another sigma than the true one, to deceive it."""
    time = latent.new_full((1,), 1000 * (sigma if told is None else told))
    return pipe.transformer(latent, time, words[None].to(latent), taps=taps)


def reversal_matters():
    """How much the answer depends on the order of the frames, relative to its size."""
    plain, turned = velocity_at(latent, sigma), velocity_at(latent.flip(2), sigma).flip(2)
    return ((plain - turned).norm() / plain.norm()).item()


# %%
from unittest.mock import patch


def no_places(grid, device):
    """A table of turns in which nothing turns."""
    return torch.ones(grid[0] * grid[1] * grid[2], 64, dtype=torch.complex64, device=device)


print(f"with places: a reversed video changes the answer by {reversal_matters():.0%}")
with patch("wan_tutorial.transformer.rope_table", no_places):
    print(f"without:     {reversal_matters():.6%}")

# %% [markdown]
# Without places, forwards and backwards are the same video to the model.
#
# ## Build: rotary positions
#
# The places come as *turns*. Query and key of each head are 128 numbers, taken as 64 pairs; a pair is a point in a plane,
# and it is turned like the hand of a clock. 22 clocks turn with the frame, 21 with the row, 21 with the column. Clock
# number i of `count` turns by 10000 to the power -i / count radians for each step along its axis. Write the 64 angles of
# a token.


# %%
def rotary_angles(frame, row, column):
    """-> the 64 angles of a token, in radians: 22 for the frame, 21 for the row, 21 for the column"""
    ...


# %%
rotary_angles = check_rotary_angles(rotary_angles)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def rotary_angles(frame, row, column):
#     angles = []
#     for position, count in ((frame, 22), (row, 21), (column, 21)):
#         speeds = 10000 ** (-torch.arange(count) / count)
#         angles.append(position * speeds)
#     return torch.cat(angles)
# ```
#
# </details>

# %%
from wan_tutorial.show import plot_clocks

rows = [rotary_angles(0, row, 0)[22:43] for row in range(6)]
show_figure(plot_clocks(rows, axis="row", title="Six of the 21 clocks of the row"))

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.transformer import rope_table

table = rope_table((4, 6, 6), torch.device("cpu"))  # (144, 64), complex
mine = torch.polar(torch.ones(64), rotary_angles(2, 3, 3))
print("token 93, as the model turns it:", torch.allclose(table[93], mine, atol=1e-5))

# %% [markdown]
# Why turns, of all things? Two tokens are compared by a product of query and key, and in that product only the
# *difference* of the angles is left. Three pairs of places; **predict** which scores are equal.

# %%
# NBVAL_CHECK_OUTPUT
query, key = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))


def turned(vector, place):
    """A query or key (128,), its 64 pairs turned for a place (frame, row, column)."""
    return torch.view_as_complex(vector.view(64, 2)) * torch.polar(torch.ones(64), rotary_angles(*place))


for a, b in (((0, 0, 0), (1, 2, 3)), ((2, 3, 1), (3, 5, 4)), ((0, 0, 0), (1, 3, 2))):
    score = (turned(query, a) * turned(key, b).conj()).real.sum()
    print(f"{a} and {b}: {score.item():.3f}")

# %% [markdown]
# The first two pairs have the same offset: one frame on, two rows down, three columns right. So a head can learn "the
# place one to the right of me" once and use it everywhere, also in videos larger than it was trained on.
#
# ## Look: time
#
# The time comes in as numbers: a small network makes six vectors of sigma, the same for all blocks, and each block adds six
# of its own, which it has learned and which do not change. What goes into self-attention and feed-forward is scaled and
# shifted; what comes out is multiplied by a *gate* before it is added to the token:
#
# x ← x + gate · attention(norm(x) · (1 + scale) + shift)

# %%
from wan_tutorial.show import plot_modulation
from wan_tutorial.taps import MODULATION, look_inside, modulation

sigmas = torch.linspace(1, 0.02, 25).tolist()
told = torch.stack([modulation(pipe.transformer, one) for one in sigmas])  # (25, blocks, 6, dim)
sizes = told.square().mean(dim=-1).sqrt()
show_figure(plot_modulation({name: sizes[..., i] for i, name in enumerate(MODULATION)}, sigmas))

# %%
first, last = sizes[0].mean(dim=0), sizes[-1].mean(dim=0)
for name, start, end in zip(MODULATION, first.tolist(), last.tolist(), strict=True):
    print(f"{name:22} {start:.2f} in the noise, {end:.2f} at the end: {end / start - 1:+.0%}")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# One network does different work at different times: here you see by how much. A gate near zero would switch off what it
# stands behind. A flat curve says that a vector keeps its size; its direction may still turn. Cross-attention has no gate
# and no shift: when it is asked is up to the tokens, and a picture below shows it.
#
# </details>
#
# ## Build: attention
#
# Each token asks with its *query*, and each token (or word) has a *key* to be found by. The score of a pair is the product
# of the two, divided by the root of their length; softmax (exponentials, divided by their sum) makes shares of a row of
# scores. With them each token takes the mean of what the others offer, their *values*, and adds it to itself. Write the
# shares.


# %%
def attention_weights(query, key):
    """Queries (T, D) and keys (L, D) -> shares (T, L); each row adds up to 1"""
    ...


# %%
attention_weights = check_attention_weights(attention_weights)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def attention_weights(query, key):
#     scores = query @ key.T / query.shape[-1] ** 0.5
#     return scores.softmax(dim=-1)
# ```
#
# </details>
#
# Now we need real queries and keys. The transformer has *taps*: give it a function, and it is called at every attention.

# %%
# NBVAL_CHECK_OUTPUT
names, seen = [], {}


def keep(name, query, key):
    names.append(name)
    if name == "blocks.3.self_attn":
        seen["query"], seen["key"] = query[0], key[0]  # (heads, T, 128)


tapped = velocity_at(latent, sigma, taps=keep)
print(len(names), "attentions; one of them:", names[6], "queries", tuple(seen["query"].shape))
print("the answer is the same to the last bit:", torch.equal(tapped, velocity_at(latent, sigma)))

# %% [markdown]
# Looking changes nothing. What does it cost? `look_inside` is the kit's tap: your function for every block, head and frame.

# %%
from statistics import median
from time import perf_counter


def seconds(work, times=5):
    """How long something takes: the middle of some tries."""
    marks = [perf_counter()]
    for _ in range(times):
        work()
        marks.append(perf_counter())
    return median(end - start for start, end in zip(marks, marks[1:], strict=False))


plain = seconds(lambda: velocity_at(latent, sigma))
inside = seconds(lambda: look_inside(pipe.transformer, latent, sigma, text.positive, blocks=BLOCKS))
print(f"a look of the transformer {1000 * plain:.0f} ms, with all tables kept {1000 * inside:.0f} ms")

# %%
# NBVAL_CHECK_OUTPUT
SPOT = (2, 3, 3)  # token 93
inside = look_inside(pipe.transformer, latent, sigma, text.positive, spot=SPOT, blocks=BLOCKS)
place = (SPOT[0] * grid[1] + SPOT[1]) * grid[2] + SPOT[2]
by_hand = attention_weights(seen["query"][1, place : place + 1], seen["key"][1])[0].cpu()  # head 1: (T,)
print("as you computed it:", torch.allclose(inside.spots[3][1].flatten(), by_hand, atol=1e-5))

# %% [markdown]
# ## Look: self-attention across time
#
# This is what makes it a *video* model: a token may look at any moment. Who looks when?

# %%
from wan_tutorial.show import plot_frame_tables

show_figure(plot_frame_tables(inside.frames, title=f"Who looks at which moment, at sigma {sigma:.2f}"))

# %%
own = torch.stack([table.diagonal(dim1=1, dim2=2).mean() for table in inside.frames.values()]).mean()
print(
    f"{1 - own:.0%} of all attention goes to another moment; spread evenly, it would be {1 - 1 / grid[0]:.0%}"
)

# %% [markdown]
# A dark diagonal is a head that stays in its own frame. A dark line beside it looks one frame back or ahead. A head
# whose squares are all alike looks everywhere. And where in the picture? The ring is the token; the rows show where it
# looks, in each block through the head that is most set on one place. The grey line is the video's: it runs round what is bright.

# %%
from wan_tutorial.show import plot_light

views = {}
for block, heads in inside.spots.items():
    head = heads.flatten(1).amax(dim=1).argmax().item()
    views[f"block {block}, head {head}"] = heads[head]
show_figure(plot_light(views, video, spot=SPOT, alt="Where one token on the blade looks"))

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Block 1 lights its own square in all four frames, block 5 mostly one frame back; block 2 the square above the ring,
# block 3 the one to the right, block 4 the one below. These look by *position*, whatever is there, which is what the
# clocks make possible: move `SPOT`, and they move with the ring. Heads that look by *content* would stay with a thing;
# this choice of heads hides them. Plot the others (`heads[1 - head]`) and look at blocks 1 and 2 first: in the tables
# above, these heads spread over all four moments.
#
# </details>
#
# ## Look: how much do the places listen to the words?
#
# Now cross-attention. The prompt fills only some rows of the text; the rest are empty, and they can be looked at, too. They
# come in as zeros, and a small network makes one and the same vector of each:

# %%
# NBVAL_CHECK_OUTPUT
count = text.positive_text.tokens
with torch.no_grad():
    rows = pipe.transformer.condition_embedder.text_embedder(text.positive[None].to(latent))[0]
alike = torch.allclose(rows[count:], rows[-1:].expand_as(rows[count:]), atol=1e-5)
print(f"{count} rows of words, {words - count} empty ones, all alike: {alike}")

# %% [markdown]
# A token that looks there learns nothing of what the prompt says. How much of the attention is left for words? Six steps
# of the run:

# %%
chosen = (0, 4, 8, 12, 16, 19)
looks = {}
for i in chosen:
    at, level = steps[i].latent_before, steps[i].sigma
    looks[i] = look_inside(pipe.transformer, at, level, text.positive, blocks=BLOCKS).words
shares = torch.tensor(
    [[t[..., :count].sum(-1).mean() for t in looks[i].values()] for i in chosen]
)  # (6, blocks)

# %%
from wan_tutorial.show import plot_lines

levels = [steps[i].sigma for i in chosen]
lines = {f"block {block}": (chosen, shares[:, i]) for i, block in enumerate(looks[0])}
show_figure(plot_lines(lines, x="step", y="share of attention", title="Attention that goes to words"))

# %%
start, end = shares.mean(dim=1)[[0, -1]].tolist()
print(f"words get {start:.0%} of the attention at sigma {levels[0]:.2f} and {end:.0%} at {levels[-1]:.2f};")
print(f"they are {count / words:.0%} of the rows")

# %% [markdown]
# **Notice** when the words are asked most. Where the curves fall, a likely reason is that the latent itself already says
# what it is going to be. Whether a word that is asked less also matters less is tested below.
#
# ## Look: which word lights which place
#
# Back to your prediction. To compare words, leave the empty rows out and ask: of what a place reads, how much is *this*
# word? First at step 4, in the mean of all blocks.

# %%
from wan_tutorial.show import word_rows
from wan_tutorial.taps import word_map

rows_of = word_rows(text.positive_text.pieces)
shown = ("sword", "burning", "fire", "smoke", "dark", "background")
maps = {word: word_map(looks[4], rows_of[word], count) for word in shown}
show_figure(plot_light(maps, video, title=f"Step 4, sigma {steps[4].sigma:.2f}: places that read a word"))

# %% [markdown]
# The scale is relative, and each row has its own: 2 is a place that gives the word twice its mean share. Is what you see more
# than chance? Take the brightness of the finished video, square by square, and correlate. +1: the brighter a place will be, the
# more it reads the word; 0: no relation; -1: the reverse.

# %%
import numpy as np

bright = latent_moments(video).mean(axis=-1)  # (F, height, width)
bright = bright.reshape(grid[0], grid[1], -1, grid[2], bright.shape[2] // grid[2]).mean(axis=(2, 4))
ties = {}
for i in (0, 4):
    maps = {word: word_map(looks[i], rows_of[word], count).numpy() for word in shown}
    ties[i] = {word: round(np.corrcoef(one.ravel(), bright.ravel())[0, 1], 2) for word, one in maps.items()}

# %%
from wan_tutorial.show import plot_bar_groups

series = {"step 0, pure noise": ties[0], "step 4": ties[4]}
what, title = (
    "correlation with the brightness of the finished video",
    "Words read where it will be bright (+) or dark (-)",
)
show_figure(plot_bar_groups(series, y=what, title=title, reach=1.0))

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# *Sword* is read on the blade and around it, *dark* and *background* above and beside the fire. A bar to the left is a
# word read more where it will be dark. The bars of the first step are as long as those of step 4 (dark -0.78 and -0.77, fire
# 0.58 and 0.53): the places were divided before there was anything to see. By comparing themselves with their
# neighbours the tokens find out where they stand, and a fire stands where fires stood in training. (The correlation does not see
# how strong a map is: a narrow range beside it, such as 0.65 to 1.71 for *burning*, means that its bar says little.)
#
# </details>
#
# Explore the rest yourself: pick a word, a step and a layer.

# %%
from wan_tutorial.show import explore_attention

names = {i: f"{i}, sigma {steps[i].sigma:.2f}" for i in chosen}
guesses = {names[i]: pipe.decode(steps[i].clean_guess) for i in chosen}
panel = explore_attention(
    {names[i]: looks[i] for i in chosen}, guesses, text.positive_text.pieces, word="dark", step=names[4]
)

# %% [markdown]
# ## Explain
#
# **A place that lights up for a word: is it the place that the word changes?** We can test it. Take the word's rows out,
# ask again, and see where the velocity differs. Then compare with the light.

# %%
from wan_tutorial.show import scale_word

effects = {}
for i in chosen[:4]:
    at, level = steps[i].latent_before, steps[i].sigma
    without = velocity_at(at, level, words=scale_word(text.positive_text, "dark", 0.0))
    change = (velocity_at(at, level) - without).square().sum(dim=1)[0]  # (F, H, W)
    effects[i] = change.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).sum(dim=(2, 4)).sqrt().cpu()  # tokens

# %%
for i, effect in effects.items():
    light = word_map(looks[i], rows_of["dark"], count)
    tie = torch.corrcoef(torch.stack([light.flatten(), effect.flatten()]))[0, 1]
    size_of = effect.norm() / velocity_at(steps[i].latent_before, steps[i].sigma).norm()
    print(
        f"step {i:2}: without 'dark' the answer changes by {size_of:.1%}; correlation with the light {tie:+.2f}"
    )

# %%
both = {"reads 'dark'": word_map(looks[4], rows_of["dark"], count), "changes without it": effects[4]}
show_figure(plot_light(both, video, title="Step 4: where a word is read, and where it matters"))

# %% [markdown]
# <details><summary>Answer</summary>
#
# At the first step, where the word decides a quarter of the answer, light and effect go together (+0.85). From step 8 on the
# word changes under 1 % and the light says nothing of where (+0.07, -0.06), though it is drawn as brightly. So a map must
# come with a test: reading is not yet doing.
#
# </details>
#
# ## Break it
#
# The time is only a number that somebody hands over. Programs have handed over the wrong one: shifted twice, rounded, or
# counted from the other end. Take the latent of step 12 and lie about its sigma. **Predict** the guess of a model that
# thinks the video is nearly finished, and of one that thinks it is pure noise.

# %%
from wan_tutorial.show import plot_pictures

true = steps[12]
lies = {"the truth": true.sigma, "pure noise": 1.0, "half-way": 0.5, "nearly clean": 0.1}
pictures = []
for lie in lies.values():
    guess = true.latent_before - true.sigma * velocity_at(true.latent_before, true.sigma, told=lie)
    pictures.append(pipe.decode(guess)[6])
labels = [f"told {lie:.2f}: {name}" for name, lie in lies.items()]
show_figure(
    plot_pictures(pictures, labels=labels, columns=4, alt="One latent, four times told another sigma")
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# A small lie hardly shows (0.50). Told 0.10, the model takes noise for detail and keeps it: the guess is full of specks. Told
# too high a sigma, it takes detail for noise and removes it: a blur. Nothing fails, every shape is right. Such a picture *can*
# be a clock that is wrong.
#
# </details>
#
# ## On the real model
#
# The cells above are written to run there, too, with one thing set: `BLOCKS`, as not everything can be kept. They have not been
# run there. The same numbers on both:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.show import show_table
from wan_tutorial.transformer import TransformerShape

real, real_size = TransformerShape(), wan.VideoSize(832, 480, 81)
rows = []
for name, s, tokens, L in (
    ("scale model", shape, size.tokens, 64),
    ("real model", real, real_size.tokens, 512),
):
    tables = (4 * tokens**2, 4 * s.layers * tokens * L)  # bytes
    rows.append([name, s.layers, s.heads, f"{tokens:,}", *(f"{size / 1e6:,.2f} MB" for size in tables)])
show_table(["", "blocks", "heads", "tokens", "one head's table", "words of all blocks"], rows)

# %% [markdown]
# A run never holds such a table: attention is computed in tiles that are thrown away at once. `look_inside` makes it frame by
# frame, and `blocks=` keeps only some blocks. How real heads divide their work has not been measured here. What one look
# takes is the plan's to predict, for a T4 card, at a size that fits it:

# %%
from wan_tutorial.machine.plan import Run, find_card, plan_run
from wan_tutorial.machine.weights import find_model

run = Run(wan.VideoSize(480, 480, 33), 1, 1.0)  # one step, one prompt
plan = plan_run(find_model("wan2.1-vace-14b-q3"), find_card("T4"), run)
one = next(stage for stage in plan.stages if stage.name == "steps")
print(f"{run.size}: {60 * one.minutes:.0f} s and {one.vram / 1e9:.1f} GB of GPU memory, predicted")

# %% [markdown]
# And measured, where `MODEL` is the real one:

# %%
if pipe.entry.light:
    print("This is the scale model; on the real one this cell measures one look with three blocks kept.")
else:
    with pipe.meter.stage("one look inside"):
        look_inside(pipe.transformer, latent, sigma, text.positive, blocks=BLOCKS)
    print(pipe.meter.stages[-1])

# %% [markdown]
# ## Recap
#
# - A token is 1 × 2 × 2 latent cells, 16 × 16 pixels of four frames. Self-attention grows with the square of their number.
# - Place turns query and key, so that their product knows only distances. Time scales, shifts and gates each block. Words
#   are looked up in every block, more at some steps than at others.
# - Attention can be watched without changing the answer, for the price of the tables. It shows who reads what; whether that
#   changes anything has to be tested.
#
# **1. You make a video twice as wide and twice as high. How many times the work is self-attention?**
#
# <details><summary>Answer</summary>
#
# Sixteen times: four times the tokens, and the pairs are their square. (The matrices that each token goes through alone
# cost four times as much.)
#
# </details>
#
# **2. A head of the model looks "one frame back". You make a video longer than any in training. Does the head still work?**
#
# <details><summary>Answer</summary>
#
# As far as its turns go, yes: the product knows only the difference of two places, and "one back" is the same everywhere.
# What is new are the long distances, which no head has seen.
#
# </details>
#
# **3. The word "sword" lights a spot, but there is no sword in the video. What went wrong?**
#
# <details><summary>Answer</summary>
#
# Nothing that attention could show: the word was read there. Whether the model can *make* a sword of it is a matter of what
# it has learned, and of what its decoder can draw.
#
# </details>
#
# **Next:** [05 · Fit 17 billion numbers in 8 GB](05_fit_17_billion_numbers_in_8_gb.ipynb)
