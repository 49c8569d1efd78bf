# %% [markdown]
# # 02 · Start from noise
#
# | | |
# |---|---|
# | **After this lesson you can** | say the shape of a latent and why frames come as 4k + 1, make a video repeatable, tell what the noise decides and what the prompt, and walk between two seeds |
# | **Time** | 40 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | the noise, before the denoising loop; lesson 03 takes it from there |

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
show_place("noise")

# %% [markdown]
# ## Predict
#
# Two videos: the same noise with two prompts, and the same prompt with two noises. **Which pair will be more alike?**
# Say what you expect to be shared: colours? the place of things? the motion?

# %%
import wan_tutorial as wan

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
PROMPT = "A sword embedded in a pile of burning wood, glowing embers, in a dark background"
OTHER = "A lantern beside the fire, on a sea shore, blue flames"
NEGATIVE = "bad quality, blurry, messy, chaotic"

# %%
pipe = wan.load(MODEL)
size = pipe.entry.size
sword, lantern = pipe.encode_text(PROMPT, NEGATIVE), pipe.encode_text(OTHER, NEGATIVE)

# %% [markdown]
# ## Look: the noise
#
# A seed is a number that a random generator starts from. The same seed gives the same noise on every machine, because it
# is drawn on the processor in 32 bits; graphics cards count their random numbers differently.

# %%
# NBVAL_CHECK_OUTPUT
noise = pipe.draw_noise(seed=6)
print("shape", tuple(noise.shape))
print("first numbers", [round(number, 4) for number in noise.flatten()[:4].tolist()])

# %% [markdown]
# One sample, 16 channels, then frames, rows, columns. Here is the first of its frames, channel by channel:

# %%
from wan_tutorial.show import plot_channels, plot_histogram, show_figure

show_figure(plot_channels(noise, title="Noise: the 16 channels of latent frame 0"))

# %%
# NBVAL_CHECK_OUTPUT
print(f"mean {noise.mean():.3f}, standard deviation {noise.std():.3f}")

# %% [markdown]
# ## Look: a video among the latents
#
# What does a latent that means something look like? We take a rendered video from the world that the scale model was
# trained on, and encode it.

# %%
import torch

from wan_tutorial.mini.world import brief_scene, draw_scene, render

scenes = [brief_scene(1), *(draw_scene(seed) for seed in range(5))]
videos = render(scenes, height=96, width=96, frames=13)
latents = [pipe.encode(video) for video in videos]
veil = pipe.draw_noise(wan.VideoSize(96, 96, 13), seed=6).to(latents[0])  # noise as large as the videos
show_figure(plot_channels(latents[0], title="A video: the 16 channels of latent frame 0"))

# %% [markdown]
# **Notice** that you can make out the fire in many channels, each in its own way; lesson 06 asks what they mean. And the
# numbers have about the same size as noise. That is no accident: the VAE's numbers are scaled so that they do.

# %%
show_figure(plot_histogram({"noise": noise, "a video": latents[0]}, title="How large the numbers are"))
several = torch.cat(latents)
print(f"all {len(latents)} videos: mean {several.mean():.2f}, standard deviation {several.std():.2f}")

# %% [markdown]
# ## Look: a preview for nothing
#
# Decoding takes some tenths of a second. For a quick look, fit the best linear map from a cell's 16 channels to the mean colour
# of its pixels, by least squares on the six videos above. It is only 51 numbers, and one colour for a cell is never sharp. How
# well does it do, on the very videos that it was fitted to?

# %%
from wan_tutorial.show import fit_projection, plot_pictures

look = fit_projection(latents, list(videos))
print(f"the linear map explains {look.explained:.0%} of the variance of the cells' mean colours")

# %%
pictures = [
    videos[0][0].numpy(),
    *(look(one)[0].repeat(8, axis=0).repeat(8, axis=1) for one in (latents[0], veil)),
]
labels = ["a video's first frame", "its latent, projected", "noise, projected"]
show_figure(
    plot_pictures(pictures, labels=labels, columns=5, alt="A frame, its latent and noise, both projected")
)

# %% [markdown]
# What if noise is decoded as it is, without a transformer?

# %%
from wan_tutorial.show import plot_strips

show_figure(plot_strips({"noise, decoded": pipe.decode(noise)}, fps=pipe.entry.fps, alt="Decoded noise"))

# %% [markdown]
# Not television snow: the decoder has only ever drawn shapes and colours, and draws them out of everything.
#
# ## Build: lengths that exist
#
# The VAE codes the first frame alone and then always four together, so a video has 1, 5, 9, 13, ... frames. Programs
# that are asked for another length should offer the nearest. Write that; of two equally near ones take the larger. Each
# wrong answer earns a hint; with `hint=1` the checker gives one at once.


# %%
def nearest_frames(frames):
    """-> the nearest length of the form 4k + 1, at least 1"""
    ...


# %%
from wan_tutorial.exercises.starts import check_mix, check_nearest_frames, check_walk_noise

nearest_frames = check_nearest_frames(nearest_frames)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def nearest_frames(frames):
#     return max(1, (frames - 1 + 2) // 4 * 4 + 1)
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
for seconds in (1, 2, 5):
    frames = nearest_frames(16 * seconds)
    print(f"{seconds} s at 16 frames a second: {frames} frames, {(frames - 1) // 4 + 1} latent frames")

# %% [markdown]
# Five seconds are 81 frames: now you know where Wan's default comes from.
#
# ## Look: what does the noise decide, and what the prompt?
#
# Your prediction, tested: two prompts, two seeds, four videos.

# %%
made = {}
for name, text in (("sword", sword), ("lantern", lantern)):
    for seed in (6, 4):
        *_, last = pipe.denoise(pipe.draw_noise(seed=seed), text, steps=10)
        made[f"{name}, seed {seed}"] = pipe.decode(last.latent)

# %%
show_figure(plot_strips(made, fps=pipe.entry.fps, alt="Two prompts with two seeds each"))

# %%
from wan_tutorial.show import show_table

names = list(made)
gap = {(a, b): (made[a] - made[b]).square().mean().sqrt().item() for a in names for b in names}
show_table(
    ["difference (root mean square)", *names], [[a, *(f"{gap[a, b]:.2f}" for b in names)] for a in names]
)
print(f"one prompt, two seeds: {(gap[names[0], names[1]] + gap[names[2], names[3]]) / 2:.2f} in the mean")
print(f"one seed, two prompts: {(gap[names[0], names[2]] + gap[names[1], names[3]]) / 2:.2f} in the mean")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# The prompt decides what is there, as far as the model obeys it: the setting and its colours above all, which fill most of
# the pixels. The noise decides what the prompt leaves open: where things stand, how the flames curl, here also which colour
# the sword's guard and the lantern have. So the pair with one prompt is the more alike: 0.43 apart, against 0.82 for the pair
# with one noise. For these two prompts the prompt decides more of the pixels. Choose two prompts in one setting, and it may
# turn round.
#
# </details>
#
# And the same seed twice is the same video, to the last bit:

# %%
# NBVAL_CHECK_OUTPUT
*_, again = pipe.denoise(pipe.draw_noise(seed=4), lantern, steps=10)
print(
    "same seed, same settings, same video:",
    bool((pipe.decode(again.latent) == made["lantern, seed 4"]).all()),
)

# %% [markdown]
# ## Build: between clean and noise
#
# All of this method stands on one line. At time t = 0 a latent is clean, at t = 1 it is noise, and between them it is
# a mix of both. Write the mix.


# %%
def mix(clean, noise, t):
    """-> the latent at time t"""
    ...


# %%
mix = check_mix(mix)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mix(clean, noise, t):
#     return (1 - t) * clean + t * noise
# ```
#
# </details>
#
# **Predict:** a video under 50 % noise: will you still see what it is?

# %%
times = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
frames = [pipe.decode(mix(latents[0], veil, t))[6] for t in times]
labels = [f"t = {t:g}" for t in times]
show_figure(plot_pictures(frames, labels=labels, alt="One frame of a video under more and more noise"))

# %%
# NBVAL_CHECK_OUTPUT
for t in (0.0, 0.5, 1.0):
    mixed = mix(latents[0], veil, t)
    print(f"t = {t:g}: standard deviation {mixed.std():.1f}")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# At 0.5 fire, blade and guard are still there, under stains. At 0.6 the colours go; at 0.8 hardly a trace is left.
#
# </details>
#
# **Notice** the middle: the mix is *quieter* than both ends, by about the root of one half. The model has learned each
# time's loudness. We test below how much it matters.
#
# ## Explain
#
# **Training shows the model mixes at all times t and asks for the velocity, noise - clean. Why does it help that this is
# the same number all along the line?**
#
# <details><summary>Answer</summary>
#
# Because the way from a noise to its video is then a straight line, and straight lines can be walked in few steps. (What
# the model can answer is only the *mean* over all videos that could be behind a mix; that is why its ways bend after
# all, and lesson 03 needs more than one step.)
#
# </details>
#
# ## Build: walk between two seeds
#
# A slider between two noises. A straight mix of two noises is too quiet half-way, as you just saw. How far apart are they?

# %%
# NBVAL_CHECK_OUTPUT
import math

first, second = pipe.draw_noise(seed=6), pipe.draw_noise(seed=4)
cosine = (first * second).sum() / (first.norm() * second.norm())
print(f"the angle between two noises: {math.degrees(math.acos(cosine)):.0f} degrees")

# %% [markdown]
# Nothing in common, and the same length: two noises stand on a sphere, a quarter of the way round from each other. So walk
# on the arc: with theta the angle between them, weigh `a` by sin((1 - amount) theta) and `b` by sin(amount theta), and
# divide by sin(theta).


# %%
def walk_noise(a, b, amount):
    """-> noise between a (amount 0) and b (amount 1), as loud as both"""
    ...


# %%
walk_noise = check_walk_noise(walk_noise)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import math
#
#
# def walk_noise(a, b, amount):
#     cosine = (a * b).sum() / (a.norm() * b.norm())
#     theta = math.acos(cosine)
#     return (math.sin((1 - amount) * theta) * a + math.sin(amount * theta) * b) / math.sin(theta)
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
straight, arc = mix(first, second, 0.5), walk_noise(first, second, 0.5)
print(f"half-way, straight: {straight.std():.2f}; on the arc: {arc.std():.2f}")

# %% [markdown]
# Drag from one seed to the other: each stop is a video of its own, eight steps long. Five of the nine are painted, the
# others when you reach them.

# %%
from wan_tutorial.show import explore_walk

book = explore_walk(
    lambda amount: pipe.denoise(walk_noise(first, second, amount), sword, steps=8),
    pipe.decode,
    ends=("seed 6", "seed 4"),
    fps=pipe.entry.fps,
)

# %% [markdown]
# **Notice** that the stops are mostly whole videos, not one picture fading into another (half-way the sword looks a little
# like that): what is between the two is again noise of full loudness, and the model makes of it what it makes of any.

# %% [markdown]
# ## Break it
#
# Half-way on a straight mix the noise has 0.7 of its loudness. Is that a fault to worry about? And what if it had a fifth,
# or twice as much? **Predict** what you will see at 2, and at 0: no noise at all.

# %%
loudness = {}
for factor in (0, 0.2, 0.7, 1, 2):
    *_, last = pipe.denoise(factor * noise, sword, steps=10)
    loudness[f"noise times {factor:g}"] = pipe.decode(last.latent)
alt = "The same noise: none of it, too quiet, a little too quiet, right and too loud"
show_figure(plot_strips(loudness, fps=pipe.entry.fps, alt=alt))

# %%
for name, video in loudness.items():
    print(f"{name:16} sharpness {video.diff(dim=2).abs().mean():.4f}, contrast {video.std():.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The model believes what it is told: at sigma 1 it expects noise of spread 1, and takes that much away. Of noise twice as
# loud the rest stays, and reads as detail: that video has the largest sharpness of all, so do not take sharpness for quality.
# With a fifth, what differs most from video to video is gone, the flames and most embers, though the prompt asks for them;
# the sword, which has one shape, stays. (That is read from one picture, not measured.) With none, all places start with the
# same numbers. The model does know places (lesson 04), but only by comparing what stands there, and where all is equal there
# is nothing to compare: one small, faint pattern over and over, as on wallpaper. At 0.7 hardly anything is missing, on this
# model; the arc is still right, as it costs nothing and needs no luck.
#
# </details>
#
# ## On the real model
#
# The cells are written to run with `MODEL = "wan2.1-vace-14b-q3"` on a machine that fits; they have not been run there. The
# shape there:

# %%
# NBVAL_CHECK_OUTPUT
real = wan.VideoSize(832, 480, 81)
print("latent", real.latent_shape)

# %%
from wan_tutorial.machine.hardware import StageMeter
from wan_tutorial.show import show_costs

meter = StageMeter(pipe.placement.device)
with meter.stage("steps"):
    *_, last = pipe.denoise(noise, sword)
with meter.stage("decode"):
    pipe.decode(last.latent)
show_costs(meter.stages, pipe)

# %% [markdown]
# Predicted, and not checked on a real T4. The noise itself costs nothing anywhere. The same seed gives the same noise in
# ComfyUI, if the size is the same: the draw is the same, on the processor, in 32 bits. A reference image adds a latent frame
# in front and so changes the whole draw (lesson 08). Whether the real model divides the work between prompt and noise as the
# scale model does has not been measured here.
#
# ## Recap
#
# - A latent has 16 channels, k + 1 frames for 4k + 1 frames of video, and an eighth of height and width.
# - Seed and settings fix the video. The prompt decides what; the noise decides what the prompt leaves open.
# - Time t mixes clean and noise in a straight line; between two noises walk on the arc, to stay as loud as noise.
#
# **1. A video has 14 frames. What is wrong, and what will a friendly program do?**
#
# <details><summary>Answer</summary>
#
# 14 is not 4k + 1. It will offer 13.
#
# </details>
#
# **2. You change the width from 96 to 112 and keep the seed. Is the noise the same in the left part?**
#
# <details><summary>Answer</summary>
#
# No. The generator fills the tensor row by row, so two columns more (112 / 8 = 14, not 12) move every number after the first
# row.
#
# </details>
#
# **3. At which t is the mix of a video and noise quietest, if both have spread 1?**
#
# <details><summary>Answer</summary>
#
# At t = 0.5, where its spread is the root of 0.25 + 0.25, about 0.71.
#
# </details>
#
# **Next:** [03 · Watch noise become a video](03_watch_noise_become_a_video.ipynb)
