# %% [markdown]
# # 00 · Make your first video
#
# | | |
# |---|---|
# | **After this lesson you can** | turn two prompts and a seed into a video, name the five stages in between, and say what shape each tensor has and why |
# | **Time** | 20 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | the whole pipeline, from the outside; the other lessons open its parts |
#
# The model here is a *scale model* of Wan2.1-VACE-14B: the same architecture, the same tensor names, the same kinds of
# file as the real one, only small, and trained on one subject: a fireside.
# The same code reads the real one: it is one name in a cell (not yet tried on the real weights).

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
show_place("all")

# %% [markdown]
# ## Predict
#
# A video of 13 frames, 96 pixels wide and 96 high, has 13 × 96 × 96 × 3 = 359,424 numbers. **How many numbers do you
# think the model has to make up?** As many as that? More? Write your guess down; the answer comes out of a cell below.

# %% [markdown]
# ## Look: one call
#
# These are the two prompts of the workflow that this kit was made from. The positive prompt says what to paint. The
# negative one says what to stay away from.

# %%
import wan_tutorial as wan

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising "
    "in a dark background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"
SEED = 6

# %%
pipe = wan.load(MODEL)
result = pipe.generate(PROMPT, negative=NEGATIVE, seed=SEED)
wan.show_video(result.video, fps=result.fps, times=4, alt="The video painted from the two prompts, playing")

# %% [markdown]
# Where nothing moves, such as on paper, a film strip stands in: moments of the video from left to right.

# %%
from wan_tutorial.show import plot_strips, show_figure, show_table

show_figure(plot_strips({"One prompt, one seed": result.video}, fps=result.fps, alt="The bonfire video"))

# %% [markdown]
# What moves, and what does not? The last picture is bright where pixels change from frame to frame.

# %%
from wan_tutorial.show import plot_pictures

moved = result.video.diff(dim=0).abs().mean(dim=(0, -1))  # (height, width)
bright = (2 * moved / moved.max() - 1)[..., None].expand(-1, -1, 3)
names = [f"frame {index}" for index in (0, 4, 8, 12)] + ["where it changes"]
pictures = [*result.video[[0, 4, 8, 12]], bright]
show_figure(
    plot_pictures(pictures, labels=names, alt="Four frames, and a map of what changes between frames")
)

# %% [markdown]
# **Notice** that nobody drew the movement or the place of the fire; the model was only shown videos with captions. It is a
# small model, so look for what it got right and for where things melt and smear: does the video have all that the prompt
# names?
#
# One video proves little. A *judge*, a second small network that never met this one, has looked at many generated videos
# and said what it saw. The shares below are shipped with the model and hold for exactly these model files; in brackets is
# where the true share lies with 95 % confidence. *Renders* are videos of the kind that the model learned from: they show how
# far the judge can be trusted. All else is generated: from captions such as the model has seen, from combinations that it has
# not, and from other ways to say the same. A video counts for a row only if its caption names the thing: where few captions
# do, the number behind *of* is small.

# %%
from wan_tutorial.show import show_obedience

show_obedience(pipe, ["subject", "colour", "setting", "smoke"])

# %% [markdown]
# Where did the time go?

# %%
rows = [[use.name, f"{use.seconds:.1f} s", f"{use.memory_peak / 1e6:.0f} MB"] for use in result.stages]
show_table(["stage", "time", "memory peak"], rows)

# %% [markdown]
# Most of it is in *steps*: the transformer was asked twenty times, each time for two prompts.
#
# ## Look: the same video in five stages
#
# Behind the one call stand five stages. Here they are one by one; each hands a tensor to the next.
#
# **1. Text.** Each prompt becomes a table of numbers, one row for each piece of a word (lesson 01).

# %%
# NBVAL_CHECK_OUTPUT
text = pipe.encode_text(PROMPT, NEGATIVE)
print("positive", tuple(text.positive.shape))
print("negative", tuple(text.negative.shape))

# %% [markdown]
# Rows beyond the end of a prompt are zero, so both tables have one size: 64 rows on the scale model, 512 on the real one.
#
# **2. Noise.** The seed decides which noise the video starts from (lesson 02).

# %%
# NBVAL_CHECK_OUTPUT
noise = pipe.draw_noise(result.size, seed=SEED)
print(tuple(noise.shape), "that is", noise.numel(), "numbers")

# %% [markdown]
# There is the answer to your prediction. The model does not make up 359,424 numbers but 9,216: it works in a *latent*,
# a video of 4 frames of 12 × 12 cells with 16 numbers in each cell.
#
# **3. Denoise.** Twenty times the transformer looks at the latent and says which way the noise lies; the solver moves
# the latent the other way (lesson 03). The loop hands you every step.

# %%
steps = list(pipe.denoise(noise, text))
for step in (*steps[::5], steps[-1]):
    print(
        f"step {step.index:2}   sigma {step.sigma:.2f} -> {step.sigma_next:.2f}   spread {step.latent.std():.2f}"
    )

# %% [markdown]
# *Sigma* is the share of noise in the latent: it falls from 1, all noise, to 0, none.
#
# **4. Decode.** The VAE turns the latent into pixels (lesson 06).

# %%
# NBVAL_CHECK_OUTPUT
video = pipe.decode(steps[-1].latent)
print(tuple(video.shape))

# %% [markdown]
# **5. Video.** Pixels become a file that a player understands.

# %%
# NBVAL_CHECK_OUTPUT
path = wan.write_video(video, "outputs/lesson_00.mp4", fps=pipe.entry.fps, times=4)
print(path.name, "largest difference from the one call:", (video - result.video).abs().max().item())

# %% [markdown]
# Zero: the one call and the five stages are the same thing.
#
# ## The whole way, drawn
#
# With the shapes you just printed at the arrows. Read it as ComfyUI users read their graph: boxes are nodes, arrows are
# wires. Blue wires carry embeddings, pink ones latents, green ones pixels.

# %%
from wan_tutorial.show import Flow, plot_workflow, to_frames

flow = Flow(text.positive.shape, noise.shape, video.shape, result.settings, pipe.files)
show_figure(plot_workflow(flow, frames=to_frames(video)))

# %% [markdown]
# What happened inside the loop? At each step the model has a guess of the finished video. Here are some of those
# guesses, decoded; one frame of each.

# %%
shown = [steps[i] for i in (0, 4, 8, 11, 14, 17, 19)]
guesses = [pipe.decode(step.clean_guess)[6] for step in shown]
labels = [f"step {step.index}, sigma {step.sigma:.2f}" for step in shown]
show_figure(
    plot_pictures(
        guesses, labels=labels, alt="The model's guess of frame 6 at seven steps, from first to last"
    )
)

# %% [markdown]
# **Notice** the order in which things come: the fire and its glow first, then the sword, then embers and edges. Lesson 03
# measures layout against detail.
#
# ## Build: the shape of a latent
#
# Every width, height and length has its latent shape, and a wrong one is a common error. Write the rule:
# 16 channels; the first frame coded alone and then four at a time; 8 × 8 pixels to a cell.


# %%
def latent_shape(width, height, frames):
    """-> (channels, latent frames, rows, columns)"""
    ...


# %%
from wan_tutorial.exercises.first import check_latent_shape, check_squeeze

latent_shape = check_latent_shape(latent_shape)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def latent_shape(width, height, frames):
#     return (16, (frames - 1) // 4 + 1, height // 8, width // 8)
# ```
#
# </details>
#
# The checker hands your function back when it is right, and the kit's own until then, so the lesson goes on. It knows the
# common mistakes, and each wrong answer earns a hint; `check_latent_shape(latent_shape, hint=1)` gives the first at once.

# %%
# NBVAL_CHECK_OUTPUT
for size in (wan.VideoSize(96, 96, 13), wan.VideoSize(832, 480, 81)):
    print(size, "->", latent_shape(size.width, size.height, size.frames))

# %% [markdown]
# And how much smaller is that? Write how many numbers of the video stand behind one number of the latent.


# %%
def squeeze(width, height, frames):
    """-> numbers in the video / numbers in its latent"""
    ...


# %%
# NBVAL_CHECK_OUTPUT
squeeze = check_squeeze(squeeze)
print(f"scale model {squeeze(96, 96, 13):.1f}, real model {squeeze(832, 480, 81):.1f}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def squeeze(width, height, frames):
#     latent = 16 * ((frames - 1) // 4 + 1) * (height // 8) * (width // 8)
#     return 3 * frames * height * width / latent
# ```
#
# </details>
#
# ## Explain
#
# The latent is about 40 times smaller than the video. **Why does the model not work on pixels directly?** And **why is
# the short video squeezed less than the long one?**
#
# <details><summary>Answer</summary>
#
# The transformer compares every place with every other, so its work grows faster than the number of places; pixels
# would be far too many. The VAE leaves out what the eye misses least, and the transformer paints what is left; what the
# VAE cannot hold, the transformer can never paint. The short
# video is squeezed less because its first frame is coded alone: one latent frame for one frame, where the later ones
# stand for four. In a long video that no longer counts, and the ratio nears 8 × 8 × 4 × 3 / 16 = 48.
#
# </details>
#
# ## Break it
#
# First a length that cannot be. ComfyUI rounds such lengths silently; this kit says what is wrong.

# %%
# NBVAL_CHECK_OUTPUT
try:
    wan.VideoSize(96, 96, 12)
except wan.WanError as error:
    print(error)

# %% [markdown]
# Then fewer steps. **Predict:** what will one step look like: noise, a half-finished picture, or something else?

# %%
few = {}
for count in (1, 4, 20):
    latent = [step.latent for step in pipe.denoise(noise, text, steps=count)][-1]
    few[f"{count} step{'s' if count > 1 else ''}"] = pipe.decode(latent)
show_figure(plot_strips(few, fps=pipe.entry.fps, alt="The same prompt and seed with 1, 4 and 20 steps"))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Not noise: something smooth, without detail, often with colours too strong. From pure noise the model cannot know which
# video is meant, so its best guess is near the mean of all that the prompt allows (guidance, lesson 03, then pushes it
# further), and one step goes straight there. More steps mean that later guesses can build on what the earlier ones
# decided.
#
# </details>
#
# ## The files, and what is in them
#
# A model is files of numbers with names. Here there are three, one for each network; a LoRA, a small file that changes
# the first of them, would be a fourth (lesson 07). This is all a program like ComfyUI knows about them: names and shapes;
# there is no config file.

# %%
# NBVAL_CHECK_OUTPUT
for role, path in pipe.files.items():
    print(f"{role:13} {path.name}")

# %%
print(wan.inspect_file(pipe.files["transformer"]).page(tensors=5))

# %%
print(wan.inspect_file(pipe.files["text_encoder"]).page(tensors=3))

# %%
print(wan.inspect_file(pipe.files["vae"]).page(tensors=3))

# %% [markdown]
# **Notice** `Q3_K` in the first: weights in three bits and a bit more each, where training used 16 or 32. It is how a
# model of 17 billion numbers, its *parameters*, fits into 8 GB; lesson 05 takes such a block apart. The text encoder
# has numbers of eight bits, and carries its own dictionary (the *SentencePiece model* in its first line). The dictionary, `U8`,
# and the scales of the matrices, `F32`, were not learned: they count as no parameters.
#
# ## On the real model
#
# Scale model and real model side by side. The columns on the right are read from the same dataclasses that build the
# networks; the sizes are counted, not quoted.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.transformer import TransformerShape, WanTransformer

small, real = TransformerShape(**vars(pipe.transformer.shape)), TransformerShape()
names = ("dim", "heads", "layers", "ffn_dim", "text_dim", "in_channels", "vace_blocks")
show_table(
    ["transformer", "scale model", "real model"], [[n, getattr(small, n), getattr(real, n)] for n in names]
)

# %%
import torch

from wan_tutorial.show import count_parameters
from wan_tutorial.text import TextShape, new_text_encoder
from wan_tutorial.vae import VaeShape, new_autoencoder

with torch.device("meta"):  # shapes only: no memory is used
    text_encoder, vae = new_text_encoder(TextShape()), new_autoencoder(VaeShape())
    networks = {"transformer": WanTransformer(real), "text_encoder": text_encoder, "vae": vae}

# %%
rows = []
for role, network in networks.items():
    ours, theirs = wan.inspect_file(pipe.files[role]).parameters, count_parameters(network)
    rows.append([role, f"{ours / 1e6:.1f} million", f"{theirs / 1e6:,.0f} million", f"{theirs / ours:,.0f}"])
show_table(["numbers learned", "scale model", "real model", "times as many"], rows)

# %% [markdown]
# Same parts, same names, another size. (The *14B* in the name does not count the VACE blocks, which let a reference in:
# lesson 08.) To run this lesson on the real one, set `MODEL`, beside the prompts above, to `"wan2.1-vace-14b-q3"` on a
# machine that fits. It needs these files:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.machine.weights import find_model

entry = find_model("wan2.1-vace-14b-q3")
rows = [
    [role, file.name, file.repository, f"{file.bytes / 1e9:.1f} GB"] for role, file in entry.files.items()
]
show_table(["role", "file", "from huggingface.co", "size"], rows)

# %% [markdown]
# And it takes longer. On the left is what this kit's plan predicts for a free Colab GPU, at the length that fits there; on
# the right is what this notebook measured on the model that it ran. With the real model as `MODEL`, that is the real
# model's measurement.

# %%
from wan_tutorial.show import show_costs

show_costs(result.stages, pipe)

# %% [markdown]
# The prediction has not been checked on a real T4. Lesson 09 plans minutes and memory for your own machine before
# anything is downloaded. What you would see there: objects and motions of every kind, after minutes instead of seconds.
#
# ## Recap
#
# - A prompt becomes embeddings, a seed becomes noise, the transformer turns the noise step by step into a clean latent,
#   the VAE turns the latent into pixels.
# - The latent has the shape (1, 16, k + 1, height / 8, width / 8) for 4k + 1 frames.
# - A model is three files of named numbers, a LoRA is a fourth; the shapes tell the architecture.
#
# **1. You change the seed and nothing else. Which of the five stages do the same as before?**
#
# <details><summary>Answer</summary>
#
# Only the text stage: its embeddings are the same numbers. The noise is another, and so is everything after it.
#
# </details>
#
# **2. A video of 832 × 480 pixels and 81 frames: what is the shape of its latent?**
#
# <details><summary>Answer</summary>
#
# (1, 16, 21, 60, 104): 80 / 4 + 1 latent frames, 480 / 8 rows, 832 / 8 columns.
#
# </details>
#
# **3. The text encoder of this workflow is loaded by a node called "CLIP". What does it load?**
#
# <details><summary>Answer</summary>
#
# UMT5, a language model, as the file's name says. "CLIP" is what ComfyUI calls any text encoder; lesson 01 computes
# the difference.
#
# </details>
#
# **Next:** [01 · Turn a prompt into embeddings](01_turn_a_prompt_into_embeddings.ipynb)
