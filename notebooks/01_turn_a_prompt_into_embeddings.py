# %% [markdown]
# # 01 · Turn a prompt into embeddings
#
# | | |
# |---|---|
# | **After this lesson you can** | follow a prompt from letters to the numbers that the transformer reads, say why ComfyUI's "CLIP" node loads UMT5 and what CLIP would give instead, and operate on the words of a prompt |
# | **Time** | 50 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | the text encoder, the first stage; lesson 04 shows which place of the video looks at which word |

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
show_place("text")

# %% [markdown]
# ## Predict
#
# Three prompts: (a) *a sword in a blue fire*, (b) *a blade in azure flames*, (c) *a sword in a green fire*. a and c
# share five of their six words, a and b two. **Which two will be most alike after the text encoder, and which should be,
# if you want the right video?**

# %%
import wan_tutorial as wan

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising "
    "in a dark background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"

# %%
pipe = wan.load(MODEL)
text = pipe.encode_text(PROMPT, NEGATIVE)
encoded = text.positive_text

# %% [markdown]
# ## Look: tokens
#
# The first step cuts the prompt into *pieces* that stand in the encoder's dictionary, and looks up the number of each.
# Common words are one piece, rarer ones several. The last piece, `</s>`, says that the prompt ends.

# %%
from wan_tutorial.show import plot_tokens, show_figure

length = len(encoded.embedding)
show_figure(plot_tokens(encoded.pieces, encoded.ids, title="The prompt in pieces", length=length))

# %%
# NBVAL_CHECK_OUTPUT
for word in (" sword", " swordfish", " naturally", " unnaturally"):
    print(f"{word.strip():12}", pipe.text_encoder.tokenizer.pieces(word))

# %% [markdown]
# **Notice** that no word is unknown: what is not in the dictionary falls into smaller pieces, down to letters, and a letter that
# is not there either into its bytes. How many pieces are there? UMT5-XXL's dictionary serves a hundred languages.

# %%
from wan_tutorial.text import TextShape

print(
    f"pieces: {pipe.text_encoder.tokenizer.vocab:,} on the scale model, {TextShape().vocab:,} on the real one"
)

# %% [markdown]
# Before that, the prompt is cleaned, as Wan's own code does: broken characters are repaired, HTML codes become letters,
# any run of spaces becomes one.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.text import clean_prompt

print(clean_prompt("  A sword &amp; an axe,\n\n   beside   the fire â€“ at night "))

# %% [markdown]
# ## Look: one row for each piece
#
# The encoder turns each piece into a row of numbers, and lets every row look at all others. The transformer always reads
# the same number of rows; those beyond the prompt's end are zero.

# %%
# NBVAL_CHECK_OUTPUT
print("embedding", tuple(encoded.embedding.shape), "of which", encoded.tokens, "rows are words")
print("rows that are zero:", int((encoded.embedding.abs().sum(dim=1) == 0).sum()))

# %% [markdown]
# ## Build: padding
#
# Write what happens after the last piece: rows of zeros until there are `length`. Each wrong answer earns a hint; with
# `hint=1` the checker gives one at once.


# %%
import torch


def pad(embedding, length):
    """(tokens, dim) -> (length, dim)"""
    ...


# %%
from wan_tutorial.exercises.prompts import check_blend, check_cosine, check_fp8_value, check_pad

pad = check_pad(pad)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def pad(embedding, length):
#     empty = torch.zeros(length - len(embedding), embedding.shape[1])
#     return torch.cat([embedding, empty])
# ```
#
# </details>
#
# ## Build: how alike are two rows?
#
# By the angle between them. Its cosine is 1 for the same direction, 0 for nothing in common, whatever their lengths.


# %%
def cosine(a, b):
    """Two vectors (dim,) -> the cosine of the angle between them"""
    ...


# %%
cosine = check_cosine(cosine)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def cosine(a, b):
#     return (a * b).sum() / (a.norm() * b.norm())
# ```
#
# </details>
#
# Now your prediction. For a whole prompt we take the mean of its rows.

# %%
from wan_tutorial.show import cosine_matrix, plot_cosines

prompts = ["a sword in a blue fire", "a blade in azure flames", "a sword in a green fire"]


def mean_row(prompt):
    """One vector for a prompt: the mean of its pieces' rows."""
    encoded = pipe.text_encoder.encode(prompt)
    return encoded.embedding[: encoded.tokens].mean(dim=0)


# %%
means = torch.stack([mean_row(prompt) for prompt in prompts])
for other in (1, 2):
    print(f"{cosine(means[0], means[other]):.2f}  {prompts[0]!r} and {prompts[other]!r}")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# For the right video a and b should be nearly one: they ask for the same. On the scale model it is a and c, 0.85, against
# 0.74: it goes more by the shared words than you want. Nothing but training brings *blade* near to *sword*, and only as near
# as the task asked for.
#
# </details>
#
# ## Look: a row knows its neighbours
#
# The word *flames* has one entry in the dictionary. But its row depends on the sentence around it. **Predict:** which rows
# of these two sentences will differ, apart from the colours?

# %%
one, two = (pipe.text_encoder.encode(f"a sword in {colour} flames") for colour in ("blue", "green"))
labels = [[piece.replace("\u2581", "") for piece in text.pieces] for text in (one, two)]
table = cosine_matrix(one.embedding[: one.tokens], two.embedding[: two.tokens])
show_figure(plot_cosines(table, *labels, title="Rows: blue flames, columns: green flames"))

# %% [markdown]
# **Read the diagonal**: it compares each word with itself in the other sentence. A dictionary would have 1.00
# everywhere but at the colour. Here a little of the colour has run into the other words, most into *a* (0.92), hardly
# any into *flames* (0.99): each row has looked at all others, but not all take the same from it.
#
# So can the encoder tell *whose* colour it is? Swap two colours in a sentence and compare the row of *fire*; or swap the
# order of the parts.

# %%
pairs = (
    ("a blue fire beside a green lantern", "a green fire beside a blue lantern", "fire"),
    ("a lantern in the snow", "in the snow, a lantern", "lantern"),
    ("a sword in the fire", "a sword beside the fire", "sword"),
)


def word_row(prompt, word):
    """The row of one word of a prompt."""
    encoded = pipe.text_encoder.encode(prompt)
    return encoded.embedding[encoded.pieces.index("\u2581" + word)]


for first, second, word in pairs:
    print(
        f"{cosine(word_row(first, word), word_row(second, word)):.3f}  {word!r} in {first!r} and {second!r}"
    )

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# A cosine near 1 means that *this* row hardly knows the difference. Others may: those of *blue* and *green*, or of *a*. But the
# transformer reads nothing but the rows: what none of them tells it, it cannot paint. What an encoder tells apart is what its
# training asked of it. In the captions of this small world there is one fire, and *in the fire* stands against *beside the
# fire*; few say whose colour is whose. How UMT5-XXL does on these pairs has not been measured here.
#
# </details>
#
# ## Look: UMT5 is not CLIP
#
# In ComfyUI a node called *CLIPLoader* loads this encoder, and older guides say that CLIP reads the prompt. The name is
# history: the first models with such graphs used CLIP. Which one it is, the file says itself. The kit also carries a true
# CLIP, a small one trained on the same world, which serves as the judge of generated videos. Here is what each file holds:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.files import read_tensors
from wan_tutorial.mini.judge import judge_path, load_judge, text_features

for path in (pipe.files["text_encoder"], judge_path()):
    print(f"{path.name:42}", sorted({name.split(".")[0] for name in read_tensors(path).tensors}))

# %% [markdown]
# UMT5 is a language model of two halves, an encoder and a decoder. Wan uses the *encoder* alone, with its dictionary: it gives
# a *sequence* of rows and has never seen a picture. CLIP has a *text model*, a *vision model* and a *projection* of both into
# one space: it makes *one point* for a text and one for a picture, so that a text lies near the pictures it describes.

# %%
judge = load_judge()
print("UMT5:", tuple(encoded.embedding.shape), "  CLIP:", tuple(text_features(judge.clip, [PROMPT])[0].shape))

# %%
from wan_tutorial.mini.world import Scene, render

asked = [
    ("sword", "orange", "dark"),
    ("axe", "blue", "forest"),
    ("lantern", "green", "snow"),
    ("cauldron", "purple", "shore"),
]
scenes = [Scene(subject=s, colour=c, setting=place, seed=i) for i, (s, c, place) in enumerate(asked)]
videos = render(scenes, height=96, width=96, frames=13)
captions = [f"{s}, {c} flames, {place}" for s, c, place in asked]
table = cosine_matrix(text_features(judge.clip, captions), judge.features(videos))

# %%
from wan_tutorial.show import plot_pictures

show_figure(plot_pictures([v[6] for v in videos], labels=captions, columns=6, alt="Four rendered scenes"))
show_figure(
    plot_cosines(table, captions, [f"video {i}" for i in range(4)], title="CLIP: texts against videos")
)

# %% [markdown]
# **Notice** the diagonal: CLIP can say which text belongs to which video. UMT5 cannot, but it keeps every word apart, in
# order, and that is what the transformer needs to paint from.
#
# ## Look: a map of prompts
#
# Sixteen prompts, four subjects in four colours, each a point; near points mean like embeddings. The map shows the two
# directions in which they differ most.

# %%
from wan_tutorial.show import plot_prompt_map

FLAMES = {"orange": "#E69F00", "blue": "#0072B2", "green": "#009E73", "purple": "#CC79A7"}
pairs = [(s, c) for c in FLAMES for s in ("sword", "axe", "lantern", "campfire")]
vectors = torch.stack([mean_row(f"a {subject} in {colour} flames") for subject, colour in pairs])
labels = [f"{subject}, {colour}" for subject, colour in pairs]
groups = [colour for _, colour in pairs]
show_figure(plot_prompt_map(vectors, labels, groups, colours=FLAMES, title="Sixteen prompts"))

# %% [markdown]
# **Notice** that the campfires stand apart on the right, and that of each subject the orange one stands highest. A map of two
# directions leaves much out. In all directions: which prompts are nearer to each other, those with the same subject or those
# with the same colour?

# %%
alike = cosine_matrix(vectors, vectors)
for part, name in ((0, "subject"), (1, "colour")):
    same = [
        alike[i, j] for i, a in enumerate(pairs) for j, b in enumerate(pairs) if i < j and a[part] == b[part]
    ]
    print(f"same {name:8} mean cosine {sum(same) / len(same):.2f} over {len(same)} pairs")

# %% [markdown]
# Prompts that share the subject are the nearer ones: changing the colour (0.83 left) moves an embedding a little less than
# changing the subject (0.79 left).
#
# ## Look: positive and negative
#
# The negative prompt goes through the same encoder, the same way. There is nothing negative in its numbers: give it as the
# positive one and you get the very same rows. What makes it negative is what the sampler does with it: it walks away from
# it (lesson 03).

# %%
# NBVAL_CHECK_OUTPUT
swapped = pipe.encode_text(NEGATIVE, PROMPT)
print("positive", tuple(text.positive.shape), text.positive_text.tokens, "tokens")
print("negative", tuple(text.negative.shape), text.negative_text.tokens, "tokens")
print("the same rows in either place:", torch.equal(text.negative, swapped.positive))

# %% [markdown]
# ## Look: word surgery
#
# Embeddings are only numbers, so one can operate on them after the encoder. Set the rows of *sword* to zero, or double them;
# or leave the word out of the text, or swap it. **Predict** which of these takes the sword out of the video. (Remember: rows
# know their neighbours.) Look for it in the strips; after them the judge says how sure it is that it sees one.

# %%
from dataclasses import replace

from wan_tutorial.show import plot_strips, scale_word

noise = pipe.draw_noise(seed=6)


def paint(embedding):
    """The steps of a video painted from a changed embedding."""
    return pipe.denoise(noise, replace(text, positive=embedding), steps=8)


def embed(prompt):
    """The rows of another prompt, with the padding."""
    return pipe.text_encoder.encode(prompt, length).embedding


# %%
changes = {
    "as it is": text.positive,
    "rows of 'sword' doubled": scale_word(encoded, "sword", 2.0),
    "rows of 'sword' set to zero": scale_word(encoded, "sword", 0.0),
    "'sword' left out of the text": embed(PROMPT.replace("sword ", "")),
    "'sword' swapped for 'lantern'": embed(PROMPT.replace("sword", "lantern")),
}
painted = {name: pipe.decode(list(paint(rows))[-1].latent) for name, rows in changes.items()}
alt = "The word sword as it is, doubled, set to zero, left out and swapped"
show_figure(plot_strips(painted, fps=pipe.entry.fps, alt=alt))

# %%
rows = [judge.probabilities(video[None])["subject"][0, 0].item() for video in painted.values()]
for name, share in zip(painted, rows, strict=True):
    print(f"{name:32} the judge's belief in a sword: {share:.0%}")

# %% [markdown]
# How much of the word has gone into its neighbours? Encode the prompt with another subject and see how far the rows of all
# *other* words move.

# %%
from wan_tutorial.show.widgets import find_word

other = pipe.text_encoder.encode(PROMPT.replace("sword", "axe"))
after = encoded.tokens - find_word(encoded.pieces, "sword")[0][1]  # pieces that follow the word
here, there = (one.embedding[one.tokens - after : one.tokens] for one in (encoded, other))
for piece, alike in zip(encoded.pieces[-after:][:7], torch.cosine_similarity(here, there), strict=False):
    print(f"{piece.replace(chr(0x2581), ''):10} its row beside 'sword' and beside 'axe': {alike:.2f}")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Only the swap took the sword out: with the word's rows at zero the judge still saw one (99 %). Two reasons are
# possible. *Traces*: the other words' rows hold something of the sword, as every cosine below 1 in the last list shows.
# Or *habit*: in training this very prompt always came with a sword. Where the word is missing from the text there are
# no traces, and the judge sees a sword all the same (95 %): nearly all of it is habit. That is one seed; with another
# in `paint` all numbers change, so see whether these two stay close.
#
# </details>
#
# Operate yourself: choose a word, a strength, or another word, and press **Run**. Strength 0 takes the word's rows out, 1
# leaves them, 2 doubles them. Without *dark* the setting stays dark: traces, or habit?

# %%
from wan_tutorial.show import explore_words

board = explore_words(
    PROMPT,
    lambda prompt: pipe.text_encoder.encode(prompt, length),
    paint,
    pipe.decode,
    fps=pipe.entry.fps,
    word="dark",
)

# %% [markdown]
# ## Build: walk between two prompts
#
# Between two embeddings lie points that no sentence leads to. Write the straight line from `a` to `b`.


# %%
def blend(a, b, amount):
    """-> the embedding between a (amount 0) and b (amount 1)"""
    ...


# %%
blend = check_blend(blend)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def blend(a, b, amount):
#     return (1 - amount) * a + amount * b
# ```
#
# </details>

# %% [markdown]
# Drag from one prompt to the other. Five of the nine stops are painted; the ones between are painted when you reach them.
# **Predict:** will colour and setting change together, and evenly?

# %%
from wan_tutorial.show import explore_walk

FROM, TO = "a campfire with orange flames in the dark", "a campfire with blue flames in the snow"
start, end = pipe.encode_text(FROM).positive, pipe.encode_text(TO).positive
book = explore_walk(
    lambda amount: paint(blend(start, end, amount)), pipe.decode, ends=(FROM, TO), fps=pipe.entry.fps
)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# The line through the embeddings is even, the walk of the videos is not: nothing was ever trained on the points between, so
# nothing makes it so. Here nothing but the fire's size changes up to 25 %; at 50 % colour and setting have turned together.
# Put two prompts of your own into the cell.
#
# </details>
#
# ## Build: one byte of the file
#
# The encoder of UMT5-XXL has 5.7 billion numbers. The file keeps each weight of its layers in one byte, a *float8*, and one
# scale for each matrix. Here are a few bytes of the first matrix.

# %%
tensors = read_tensors(pipe.files["text_encoder"]).tensors
matrix = "encoder.block.0.layer.0.SelfAttention.q"
row, scale = tensors[f"{matrix}.weight"][0], tensors[f"{matrix}.scale_weight"].item()
codes = row[:6].view(torch.uint8).tolist()
print("  ".join(f"{code:08b}" for code in codes), f"  scale {scale:.3g}")

# %% [markdown]
# The highest bit is the sign. The next four are the exponent, stored plus 7. The last three are the fraction, with a 1
# before it that is not stored. If the exponent bits are 0, the number is fraction / 8 · 2⁻⁶ instead. All times the scale.
# (Seven ones after the sign are kept for *not a number*, so the largest number is 0 1111 110: 448.)


# %%
def fp8_value(byte, scale):
    """A byte (0 to 255) -> the weight it stands for"""
    ...


# %%
fp8_value = check_fp8_value(fp8_value)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def fp8_value(byte, scale):
#     sign = -1 if byte & 128 else 1
#     exponent, fraction = byte >> 3 & 15, byte & 7
#     if exponent == 0:
#         return sign * fraction / 8 * 2**-6 * scale
#     return sign * (1 + fraction / 8) * 2 ** (exponent - 7) * scale
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
mine = torch.tensor([fp8_value(code, scale) for code in row.view(torch.uint8).tolist()])
print("the whole row as PyTorch reads it:", torch.allclose(mine, row.float() * scale))

# %% [markdown]
# ## Explain
#
# **Why does fp8 need the scale? The exponent already reaches from 2⁻⁶ to 2⁸.**
#
# <details><summary>Answer</summary>
#
# The weights are small, and near its lower end fp8 is coarse: below 2⁻⁶ the steps no longer shrink. The scale moves the
# matrix to where the steps shrink with the numbers: the largest weight becomes 448, the largest number that the format has.
#
# </details>
#
# ## Break it
#
# Some loaders forgot the scale. Nothing fails: every shape is right, and the model runs. **Predict** what comes out.

# %%
from wan_tutorial.text import load_text_encoder

without = {name: torch.ones_like(t) if name.endswith("scale_weight") else t for name, t in tensors.items()}
broken = load_text_encoder(without, device=text.positive.device).encode(PROMPT, length).embedding
right, wrong = text.positive[: encoded.tokens], broken[: encoded.tokens]
print(
    "cosine of each word with what it should be: mean",
    round(torch.cosine_similarity(right, wrong).mean().item(), 2),
)

# %%
fates = {"with the scales": painted["as it is"], "without": pipe.decode(list(paint(broken))[-1].latent)}
show_figure(
    plot_strips(
        fates, fps=pipe.entry.fps, alt="The same prompt with and without the scales of the text encoder"
    )
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# A video, painted from other points than the prompt's: the further the cosine is from 1, the less it has to do with the
# words. Nothing stopped and nothing warned. Such errors are silent, and only a comparison with numbers known to be right
# finds them.
#
# </details>
#
# ## On the real model
#
# The cells are written to run with `MODEL = "wan2.1-vace-14b-q3"` on a machine that fits; they have not been run there. The
# CLIP here knows nothing but firesides. The real encoder is the same architecture, larger:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.machine.weights import find_model

print(TextShape())
print(find_model("wan2.1-vace-14b-q3").files["text_encoder"].name)

# %%
from wan_tutorial.machine.hardware import StageMeter
from wan_tutorial.show import show_costs

meter = StageMeter(pipe.placement.device)
with meter.stage("text"):
    pipe.encode_text(PROMPT, NEGATIVE)
show_costs(meter.stages, pipe)

# %% [markdown]
# Predicted, and not checked on a real T4; most of it is reading the file. The real encoder knows a hundred languages
# (Wan's own default negative prompt is Chinese) and any word. ComfyUI also reads `(word:1.2)` as a weight, which this
# kit and diffusers do not; a prompt with such brackets means different things in the two. How well word surgery works
# on the real model has not been measured here.
#
# ## Recap
#
# - A prompt is cleaned, cut into pieces, and becomes one row of numbers for each; the rows after its end are zero.
# - UMT5 gives a sequence whose rows know their neighbours. CLIP gives one point, shared with pictures. Wan reads UMT5.
# - Embeddings can be changed like any numbers, but a word's meaning has spread into its neighbours.
#
# **1. Two prompts have the same words in another order. Are their embeddings the same rows in another order?**
#
# <details><summary>Answer</summary>
#
# No: every row depends on its neighbours and their distance. How much is another question, and an encoder's own: you have
# measured some pairs.
#
# </details>
#
# **2. ComfyUI's node for a LoRA, a small file that changes a model, has a second strength, "clip". Why can it do nothing here?**
#
# <details><summary>Answer</summary>
#
# It would change the text encoder, and the LoRA file used here holds no numbers for it. Lesson 07 looks inside.
#
# </details>
#
# **3. What does the byte 1 0111 100 stand for, at scale 1?**
#
# <details><summary>Answer</summary>
#
# Sign minus, exponent 7 - 7 = 0, fraction 4 / 8: minus 1.5.
#
# </details>
#
# **Next:** [02 · Start from noise](02_start_from_noise.ipynb)
