# %% [markdown]
# # 06 · Turn latents into pixels
#
# | | |
# |---|---|
# | **After this lesson you can** | say what the VAE keeps of a video and what it loses, which pixel frames hang on which latent frame, what tiles cost, and why memory may run out at the very end |
# | **Time** | 45 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | the decoder, after the last step; its other half, the encoder, stands where a picture comes in (lesson 08) |

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
show_place("decode")

# %% [markdown]
# ## Predict
#
# The VAE keeps 9,216 numbers of a video that has 359,424. **Which will suffer most: the colours, the place of things, thin
# edges, small sparks?** And a second guess: the latent has four frames, the video thirteen. **If you change latent frame
# 2 and nothing else, which of the thirteen frames change?** Write both down.

# %%
import wan_tutorial as wan

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
pipe = wan.load(MODEL)

# %% [markdown]
# ## Look: there and back
#
# A *variational autoencoder* is two networks: an encoder from pixels to a latent, a decoder back. To see what is lost on
# the way, we need videos that the VAE has never met. The renderer of the scale model's world draws some.

# %%
from wan_tutorial.mini.world import draw_scene, render

scenes = [draw_scene(seed) for seed in (900_035, 900_001, 900_005, 900_006)]
videos = render(scenes, height=96, width=96, frames=13)
latents = [pipe.encode(video) for video in videos]
copies = [pipe.decode(latent) for latent in latents]

# %%
# NBVAL_CHECK_OUTPUT
print("pixels", tuple(videos[0].shape), "-> latent", tuple(latents[0].shape), "->", tuple(copies[0].shape))

# %%
from wan_tutorial.show import plot_strips, show_figure

rows = {"rendered": videos[0], "through the VAE": copies[0]}
rows["difference, times 8"] = (8 * (copies[0] - videos[0]).abs()).clamp(max=2) - 1
show_figure(
    plot_strips(rows, fps=pipe.entry.fps, alt="A video, the same through the VAE, and the difference")
)

# %% [markdown]
# **Notice** where the difference is bright: along edges, and wherever something is small and moves. Broad areas, places
# and colours come back.

# %%
from wan_tutorial.show import plot_pictures

shown = [*(video[6] for video in videos), *(copy[6] for copy in copies)]
labels = [*(f"{scene.subject}, {scene.setting}" for scene in scenes), *("its copy" for _ in copies)]
show_figure(plot_pictures(shown, labels=labels, columns=4, alt="Four rendered scenes above their copies"))

# %% [markdown]
# ## Build: how good is a copy?
#
# The usual number is the *peak signal-to-noise ratio*: 10 · log₁₀(range² / error), in decibels. The range is how far
# pixels can lie apart (here they go from -1 to 1), the error the mean of the squared differences.


# %%
def psnr(video, copy):
    """Two videos (frames, height, width, 3), pixels from -1 to 1 -> decibels"""
    ...


# %%
from wan_tutorial.exercises.pixels import check_compression_ratio, check_first_changed, check_psnr

psnr = check_psnr(psnr)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import math
#
#
# def psnr(video, copy):
#     return 10 * math.log10(4 / (copy - video).square().mean())
# ```
#
# </details>

# %%
from wan_tutorial.show import plot_lines

by_frame = {
    f"{scenes[i].subject}, {scenes[i].setting}": (range(13), list(map(psnr, videos[i], copies[i])))
    for i in (0, 1)
}
show_figure(plot_lines(by_frame, x="frame", y="PSNR (dB)", title="How good the copies are, frame by frame"))

# %% [markdown]
# **Notice** the bumps at frames 3, 7 and 11, clearest in the lantern's curve: one latent frame serves four, and here
# the third of each four is copied best or nearly so. Over a hundred videos the last of the four is the best
# ([card](../assets/mini/README.md)).
#
# Four videos are few. The evaluation file that ships with the scale model has a hundred, which no training saw:

# %%
from wan_tutorial.show import read_evaluation

measured = read_evaluation(pipe).get("vae", {})
for name in ("psnr", "psnr_worst_frame", "psnr_in_mask"):
    if row := measured.get(name):
        print(f"{name:17} {row['value']:.1f} dB ({row['low']:.1f} to {row['high']:.1f}), n = {row['n']}")
    else:
        print(f"{name:17} not measured on these files")

# %% [markdown]
# In brackets is where the true mean lies with 95 % confidence. *Worst frame* is the one of the thirteen that is copied worst;
# *in mask* counts only flame and subject: what you look at is what is hardest.
#
# ## Build: how much is squeezed?
#
# Lesson 00 counted numbers. But a number may take more or fewer bits: on a screen a colour has 8, in a latent a number
# has 16 or 32. Write how many times smaller the latent is.


# %%
def compression_ratio(width, height, frames, bits):
    """Size of the video (8 bits a colour) over size of its latent (`bits` a number)"""
    ...


# %%
compression_ratio = check_compression_ratio(compression_ratio)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def compression_ratio(width, height, frames, bits):
#     latent = 16 * ((frames - 1) // 4 + 1) * (height // 8) * (width // 8)
#     return 8 * 3 * frames * height * width / (bits * latent)
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
for width, height, frames in ((96, 96, 1), (96, 96, 13), (832, 480, 81)):
    ratio = compression_ratio(width, height, frames, 16)
    print(f"{width} x {height} x {frames}: a latent in 16 bits is {ratio:.1f} times smaller")

# %% [markdown]
# Video files squeeze, too. **Which is smaller here, and which the better copy? And why do models not paint in mp4?**

# %%
import torch

path = wan.write_video(videos[0], "outputs/lesson_06.mp4", fps=pipe.entry.fps)
again = wan.show.video.read_video(path)
mp4 = psnr(videos[0], torch.from_numpy(again).float() / 127.5 - 1)
print(f"mp4:    {path.stat().st_size:6} bytes, {mp4:.1f} dB")
print(f"latent: {2 * latents[0].numel():6} bytes, {psnr(videos[0], copies[0]):.1f} dB")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Here the mp4 wins twice: 10,992 bytes against 18,432, and 34.5 dB against 32.1. But small is not enough: nobody could paint
# in an mp4. In a latent, near numbers mean near pictures; halfway between two latents lies a picture of both, as the next cell
# shows, and noise can be taken away little by little. Halfway between two mp4 files lies a broken file.
#
# </details>

# %%
between = {
    f"{amount:.0%}": (1 - amount) * latents[1] + amount * latents[2] for amount in (0, 0.25, 0.5, 0.75, 1)
}
pictures = [pipe.decode(latent[:, :, :1])[0] for latent in between.values()]
show_figure(
    plot_pictures(pictures, labels=list(between), columns=5, alt="From one latent to another, in five steps")
)

# %% [markdown]
# ## Look: the sixteen channels
#
# Each latent cell holds sixteen numbers for 8 × 8 pixels. What are they? First as they are:

# %%
from wan_tutorial.show import plot_channels

show_figure(plot_channels(latents[1], title=f"{scenes[1].subject}, {scenes[1].setting}: latent frame 0"))

# %% [markdown]
# Now as what they do: raise one channel everywhere by one and a half standard deviations, and decode. Sixteen times.


# %%
def raised(channel, amount=1.5):
    """The first frame of the second video, with one channel of its latent raised."""
    latent = latents[1][:, :, :1].clone()
    latent[:, channel] += amount
    return pipe.decode(latent)[0]


pictures = [raised(0, 0), *(raised(channel) for channel in range(16))]
labels = ["as it is", *(f"channel {channel}" for channel in range(16))]
alt = "One frame as it is, and with each channel raised"
show_figure(plot_pictures(pictures, labels=labels, columns=6, alt=alt))

# %% [markdown]
# **Notice** that no channel is *red* and none is *edges*: most change colour, light and texture all at once. The VAE
# chose its own sixteen directions. That is why a quick preview needs a fitted map from sixteen channels to three colours
# (lesson 02), and why nobody paints latents by hand.
#
# ## Look: change one latent frame
#
# Now the second prediction. Take latent frame 2 of the first video, put another video's in its place, and decode. Then move
# the slider to other frames, and try the other things it can become.

# %%
from wan_tutorial.show import explore_latent_frames

instead = {
    "the same frame of another video": latents[1],
    "noise": pipe.draw_noise(wan.VideoSize(96, 96, 13), seed=7).to(latents[0]),
    "nothing: all zeros": torch.zeros_like(latents[0]),
    "the frame before it": latents[0][:, :, [0, 0, 1, 2]],
}
editor = explore_latent_frames(latents[0], pipe.decode, instead, frame=2)

# %% [markdown]
# Every latent frame in turn, as a table:

# %%
from wan_tutorial.show import plot_reach

change = torch.zeros(4, 13)
for frame in range(4):
    edited = latents[0].clone()
    edited[:, :, frame] = latents[1][:, :, frame]
    change[frame] = (pipe.decode(edited) - copies[0]).abs().mean(dim=(1, 2, 3))
show_figure(plot_reach(change, rows="latent frame", columns="pixel frame", title="Mean change of each frame"))

# %% [markdown]
# **Notice** the white corner: not *small* changes there, but none. A change reaches its own frames and those after them,
# fading. Within its four frames the change grows, and the first after them (9, for latent frame 2) moves more than the first
# of them (5): "its own" says where a latent frame begins to count, not where it ends. In the real VAE this has not been
# measured.
#
# ## Build: who is touched first?
#
# Write the rule behind the table's stairs, for a latent frame of any video, however long.


# %%
def first_changed(latent_frame):
    """-> the first pixel frame that changes when this latent frame does"""
    ...


# %%
first_changed = check_first_changed(first_changed)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def first_changed(latent_frame):
#     return max(0, 4 * latent_frame - 3)
# ```
#
# </details>
#
# Does your rule agree with what was measured?

# %%
# NBVAL_CHECK_OUTPUT
for frame in range(4):
    print(
        "latent frame", frame, "- rule", first_changed(frame), "- measured", change[frame].nonzero()[0].item()
    )

# %% [markdown]
# ## Explain
#
# **A network that may look at past frames only is called *causal*. It might copy better if it could look both ways. What
# does Wan buy with it?**
#
# <details><summary>Answer</summary>
#
# Three things. The first frame depends on nothing else, so a single picture is a video of one frame: the same VAE serves
# both, and a reference image can be put in front. A video can be decoded a piece at a time, as no piece waits for what
# comes later. And so the memory it takes hardly grows with the video's length: the next cell decodes latent frame by
# latent frame, with a cache of the last frames of each layer, and gets the same.
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
raw = latents[0] * pipe.vae.std + pipe.vae.mean  # as the decoder wants them; "Break it" shows what if not
with torch.no_grad():
    piece_by_piece = pipe.vae.model.decode(raw.to(pipe.vae.dtype)).sample[0].float().cpu()
difference = (piece_by_piece.permute(1, 2, 3, 0).clamp(-1, 1) - copies[0]).abs().max().item()
print("the same as all frames at once:", difference < 1e-3)

# %% [markdown]
# ## Look: where the memory goes
#
# Inside, the decoder grows its picture in four stages. How much does it hold at each? We can ask the *real* decoder without
# its weights: PyTorch can run it on tensors that have a shape and nothing else.

# %%
from wan_tutorial.vae import VaeShape, new_autoencoder

largest = {}


def note(_module, _inputs, output):
    """Remember the largest output at each size of the picture."""
    name = f"{output.shape[-1]} x {output.shape[-2]}"
    largest[name] = max(largest.get(name, 0), 2 * output.numel() / 1e6)


with torch.device("meta"):
    decoder = new_autoencoder(VaeShape())  # Wan's own size
    for module in decoder.decoder.modules():
        module.register_forward_hook(note)
    _ = decoder.decode(torch.empty(1, 16, 2, 60, 104))

# %%
from wan_tutorial.show import plot_bars

show_figure(plot_bars(largest, y="MB in 16 bits", title="The largest output of a layer of the real decoder"))

# %% [markdown]
# **Notice** that it grows up to the end, where the picture has its full size, and that this is one latent frame's worth:
# four frames of 832 × 480 pixels, with 192 features for each pixel, which the next layer halves. The layer that makes them
# computes in 32 bits and then rounds to 16: for a moment there are three times as many bytes.
#
# What to do when that does not fit: cut the latent into *tiles*, decode each, put them together. Here with tiles of 64
# pixels on a picture of 128; the real decoder takes tiles of 256. First edge to edge, then with an overlap of 16 pixels
# in which one tile fades into the next.

# %%
large = render(scenes[1:2], height=128, width=128, frames=1)[0]
latent = pipe.encode(large)


def decode_in_tiles(stride):
    """Decode in tiles of 64 pixels, one every `stride` pixels -> (1, height, width, 3)"""
    sides = [f"tile_sample_{kind}_{side}" for kind in ("min", "stride") for side in ("height", "width")]
    pipe.vae.model.enable_tiling(**dict(zip(sides, (64, 64, stride, stride), strict=True)))
    video = pipe.vae.decode(latent, tiled=True)[0].permute(1, 2, 3, 0).cpu()
    pipe.vae.model.enable_tiling(**dict(zip(sides, (256, 256, 192, 192), strict=True)))  # as it was
    return video


# %%
made = {"whole": pipe.decode(latent), "edge to edge": decode_in_tiles(64), "overlapping": decode_in_tiles(48)}

# %%
seams = [(8 * (video[0] - made["whole"][0]).abs()).clamp(max=2) - 1 for video in made.values()]
pictures = [*(video[0] for video in made.values()), *seams]
labels = [*made, *["difference from whole, times 8"] * 3]
show_figure(
    plot_pictures(pictures, labels=labels, columns=3, alt="A picture decoded whole and in tiles, and seams")
)

# %%
for name, video in made.items():
    jump = (video[0, :, 64] - video[0, :, 63]).abs().mean() / video[0].diff(dim=1).abs().mean()
    print(f"{name:13} step across the line at 64 pixels: {jump:.2f} times an ordinary step")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Edge to edge, each tile ends where it knows nothing of its neighbour, and a grid shows. With an overlap the lines are
# faded, but not all is the same: each tile still sees only itself (the middle of the decoder looks at the whole picture),
# so tiles may differ a little in light. The overlap is computed twice. That is the price in time:
#
# </details>


# %%
# NBVAL_CHECK_OUTPUT
def covered(side, tile, stride):
    """How many pixels along one side are computed in all."""
    return sum(min(tile, side - start) for start in range(0, side, stride))


for width, height in ((128, 128), (832, 480), (1280, 720)):
    tile, stride = (64, 48) if width == 128 else (256, 192)
    work = covered(width, tile, stride) * covered(height, tile, stride) / (width * height)
    print(f"{width} x {height} in overlapping tiles of {tile}: {work:.2f} times the work")

# %% [markdown]
# ## Break it
#
# The transformer works with latents whose channels all have mean 0 and spread 1. The VAE's own have not: between the two
# stand sixteen means and sixteen standard deviations. Forget them, or divide where you should multiply, and every shape
# is still right. **Predict** what you will see.

# %%
vae, first = pipe.vae, latents[1][:, :, :1]
ways = {
    "right": first * vae.std + vae.mean,
    "forgotten": first,
    "means forgotten": first * vae.std,
    "divided": first / vae.std + vae.mean,
}
with torch.no_grad():
    decoded = {name: vae.model.decode(raw.to(vae.dtype)).sample for name, raw in ways.items()}
wrong = {name: video[0, :, 0].permute(1, 2, 0).float().cpu() for name, video in decoded.items()}

# %%
labels = [f"{name}: {psnr(videos[1][0], picture):.1f} dB" for name, picture in wrong.items()]
show_figure(
    plot_pictures(list(wrong.values()), labels=labels, columns=4, alt="Decoded right and in three wrong ways")
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# A picture comes out each time, with its contents in place, and its contrast and colours off. It is a common mistake in
# code that loads this VAE by hand: one program stores the standard deviations, another their reciprocals.
#
# </details>
#
# ## On the real model
#
# Every cell above is written to run unchanged with the real VAE; none has been run there. It has the same sixteen channels
# and the same means and spreads, six times as many features in each layer, and has seen more than firesides. How good its
# copies are has not been measured here. What it will take is planned before anything is downloaded:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.machine.plan import Run, decode_memory, find_card, plan_run, step_memory
from wan_tutorial.machine.weights import find_model
from wan_tutorial.show import show_table

real, rows = find_model("wan2.1-vace-14b-q3"), []
for width, height, frames in ((480, 480, 49), (832, 480, 33), (1280, 720, 17), (1280, 720, 81)):
    size = wan.VideoSize(width, height, frames)
    looks = step_memory(real, Run(size, 20, 6.0).tokens, 1, True)
    counts = [looks, decode_memory(size, 2, False), decode_memory(size, 2, True)]
    rows.append([str(size), *(f"{count / 1e9:.1f} GB" for count in counts)])
show_table(["predicted", "a step, without weights", "decode, whole frames", "decode, tiles"], rows)

# %% [markdown]
# A step looks at all frames at once, so it grows with the length. The decoder goes through the video latent frame by latent
# frame, so it hardly grows with the length, but with every pixel of a frame: large pictures hit the decoder first. (The
# weights of the transformer, which a step needs beside it, have left the card when the decoder comes.)
#
# And it comes *last*. When it runs out of memory, all the minutes of the steps have been spent. How many, and what the plan
# does about it:

# %%
# NBVAL_CHECK_OUTPUT
for card in ("8GB", "12GB", "T4"):
    plan = plan_run(real, find_card(card), Run(wan.VideoSize(1280, 720, 17), 20, 6.0))
    before = sum(stage.minutes for stage in plan.stages if stage.name != "decode")
    print(f"{card:4} after {before:.0f} minutes the decoder begins; planned: {plan.choice('VAE decode')}")

# %% [markdown]
# (8GB stands for an RTX 4060, 12GB for the slower RTX 3060; their speeds are assumed.)
#
# Hence three habits, which this kit has: plan the decoder before the first step, give back the transformer's memory before
# decoding, and keep the finished latent, so that a failed decode can be tried again in tiles (`generate(keep=...)`).
#
# Predicted there, measured here, in one table. On a machine that runs the real model its measurement stands in the last
# column:

# %%
from wan_tutorial.machine.hardware import StageMeter
from wan_tutorial.show import show_costs

meter = StageMeter(pipe.placement.device)
with meter.stage("decode"):
    pipe.decode(latents[0])
show_costs(meter.stages, pipe)

# %% [markdown]
# ## Recap
#
# - The VAE turns 8 × 8 pixels of 4 frames into 16 numbers, and back. Places and colours survive, thin and small things
#   suffer; PSNR says how much.
# - It is causal: a latent frame touches its own four frames and later ones, never an earlier one. So pictures are videos
#   of one frame, and long videos are decoded piece by piece.
# - Decoding comes last, and its memory goes by the size of a frame. Tiles save memory, for more time and faint seams.
#
# **1. Latent frame 20 of an 81-frame video is damaged. How many pixel frames can still be trusted?**
#
# <details><summary>Answer</summary>
#
# 77: frames 0 to 76. Latent frame 20 is the last, and stands for frames 77 to 80.
#
# </details>
#
# **2. A friend's run stops at 100 % of the steps with "out of memory". The same settings with half the frames stop at the
# same place. Why did halving not help, and what would?**
#
# <details><summary>Answer</summary>
#
# The decoder's memory goes with the pixels of a frame, not with the number of frames. Smaller frames help, or tiles.
#
# </details>
#
# **3. Your copy has 25 dB, a colleague's 31. How many times smaller is their mean squared error?**
#
# <details><summary>Answer</summary>
#
# About four times: 10 · log₁₀(4) is 6 dB. Their error itself, its root, is half of yours.
#
# </details>
#
# **Next:** [07 · Steer with a LoRA](07_steer_with_a_lora.ipynb). Lesson [11](11_build_a_scale_model.ipynb) trains such a VAE while you watch.
