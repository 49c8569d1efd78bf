# %% [markdown]
# # 08 · Give it a reference image
#
# | | |
# |---|---|
# | **After this lesson you can** | have a video carry the look of a picture, begin it with a picture, or paint one region of it again; say what becomes of the picture on its way in, cut a mask into its 64 channels, and choose between a crop and white padding |
# | **Time** | 50 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | beside the steps: what is given goes through the VAE's encoder into blocks of its own, which speak into the transformer at every step |

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
# Here are five pictures of the fireside, the world that the scale model knows. **To which of them does this prompt belong?**
#
# *A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising in a dark
# background, volumetric lighting, detailed textures*

# %%
from wan_tutorial.mini.world import brief_scene, render
from wan_tutorial.show import plot_pictures, show_figure

five = render([brief_scene(seed) for seed in (2, 5, 8, 9, 11)], frames=1)[:, 0]
show_figure(plot_pictures(list(five), labels=list("ABCDE"), columns=5, alt="Five swords in five fires"))

# %% [markdown]
# <details><summary>Answer</summary>
#
# To all five. No word of it says what the hilt looks like, how the logs lie, where the fire stands, what tint the night has.
# Such a *trait* has no name in any caption, so no prompt can ask for it. A picture can.
#
# </details>
#
# So you hand the model a picture beside the prompt. **Where would you put it in: in place of the noise, as the video's first
# frame, as one frame more, or among the words?** And: **what will be left of its effect if you first cut it into squares and
# shuffle them?** Write both down.

# %%
import wan_tutorial as wan
from wan_tutorial.mini.captions import BRIEF_NEGATIVE, BRIEF_PROMPT

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
pipe = wan.load(MODEL)
size = pipe.entry.size

# %% [markdown]
# This is the *reference image* of the workflow that the kit was made from: picture A in large (in the repository it is
# `assets/bonfire.png`). Or take a photograph of your own: put the name of a file here. Whatever you choose, look first at
# what of it can arrive at all: the picture is fitted to the video's size, and then goes through the VAE, as a video of one
# frame.

# %%
bonfire = render([brief_scene(2)], height=384, width=384, frames=1)[0, 0]
PICTURE = bonfire  # or a file: "holiday.jpg"

# %%
from wan_tutorial.reference import read_given, reconstruct

copy = reconstruct(pipe.vae, PICTURE, size)
print(copy)

# %%
from wan_tutorial.mini.refine_vace import scramble

shuffled = scramble(copy.fitted, seed=0)
pictures = [copy.fitted, copy.carried, shuffled]
labels = [
    f"fitted to {size.width} x {size.height}",
    f"through the VAE: {copy.psnr:.1f} dB",
    "its squares shuffled",
]
show_figure(plot_pictures(pictures, labels=labels, columns=3, alt="The reference, its copy, and shuffled"))

# %% [markdown]
# ## Look: with, without, scrambled
#
# The same noise and the same prompt, three times. *Without* the picture goes in as well, but at strength 0: nobody listens.
# (That is fairer than leaving it out, as a reference changes the shape of the noise, and other noise is another video.)

# %%
from functools import cache

STEPS = 12
text = pipe.encode_text(BRIEF_PROMPT, BRIEF_NEGATIVE)
noise = pipe.draw_noise(seed=5, extra_frames=1)


def steps_with(context, strength=1.0):
    """The steps of a video painted with what is given, and how much of it counts."""
    return pipe.denoise(noise, text, steps=STEPS, vace_context=context.tensor, vace_strength=strength)


def without_reference(latent):
    """A latent's video in pixels; the reference's frame, the first, is left out."""
    return pipe.decode(latent[:, :, 1:])


def video_of(steps):
    """What the last of some steps has come to, in pixels."""
    *_, last = steps
    return without_reference(last.latent)


# %%
from wan_tutorial.show import plot_strips

context = pipe.encode_context(read_given(size, reference=PICTURE))
no_thing = pipe.encode_context(read_given(size, reference=shuffled))


@cache
def painted(strength):
    """The steps at one strength of the reference, made once."""
    return list(steps_with(context, strength))


videos = {"without (strength 0)": video_of(painted(0.0)), "with": video_of(painted(1.0))}
videos["with its squares shuffled"] = video_of(steps_with(no_thing))

# %%
show_figure(plot_strips(videos, fps=pipe.entry.fps, alt="Without, with, and with a scrambled reference"))

# %% [markdown]
# How far has each video moved *towards* the picture? The simplest measure compares pixel by pixel: the mean difference of
# each frame to the reference, and how much of it has gone.


# %%
def distance(video, picture=copy.fitted):
    """Mean difference between a video's pixels and a picture; they go from -1 to 1."""
    return (video - picture).abs().mean().item()


far = distance(videos["without (strength 0)"])
for name, video in videos.items():
    print(f"{name:26} distance {distance(video):.3f}, {1 - distance(video) / far:+.0%} of the way")

# %% [markdown]
# One seed is luck, and pixels are a poor judge of a hilt. In the shipped evaluation a *probe* (lesson 07), a small network
# that reads traits from pictures and has never met this model, is shown each generated video and ten scenes that share every
# word; it must find the one the reference came from. The reference shows another moment, from another camera, and differs from
# the prompt in one thing that has a name, such as the colour of the flames. Guessing finds one in ten.

# %%
from wan_tutorial.show import read_evaluation, say_share

found = read_evaluation(pipe).get("reference", {}).get("identity", {})
rows = {kind: kind for kind in ("reference", "scrambled", "absent")}
rows |= {"reference, guidance 2": "guidance_2", "reference, no guidance": "guidance_1"}
rows |= {"4 steps with the LoRA": "with_lora"}
for name, kind in rows.items():
    row = found.get(kind)
    if row is None:
        print(f"{name:22} not measured on these files")
    else:
        print(f"{name:22} found in {say_share(row)}, words obeyed: {row['obeyed']['value']:.0%}")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# The right picture brings the video half of the way, its shuffled squares little. The probe's counts say the same of many
# scenes: *scrambled* is found about as often as guessing finds one. What share the palette alone would have, this does not
# tell: these blocks carried the colours of shuffled squares too, until they were taught to answer such a picture with nothing
# (`SILENT` in `wan_tutorial/mini/refine_vace.py`). They know shuffling when they see it.
#
# The words tell the price of a picture: *absent* obeys more of them. The two rows with less guidance tell what it is for: fewer
# words are obeyed, and here fewer references are found, too. The last row is for later, when the LoRA comes.
#
# </details>
#
# In each of these videos the prompt contradicts its picture in one thing. **Predict:** which contradiction costs the traits
# most: other flames (their colour, their size), another setting, other light, or embers and smoke that come or go?

# %%
from wan_tutorial.show import show_table

rows = [[name.replace("_", " "), say_share(row)] for name, row in found.get("by_change", {}).items()]
show_table(["the prompt changes", "and the reference is still found in"], rows)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# None costs much, with some thirty videos each. Even in another *setting*, where sky and ground have to go, most of the
# picture, the tint, the moon and the places of things come along. It was not always so: earlier blocks of this model lost
# the reference in three of five such videos. They had learned without negative prompts, and so answered one with less of
# the picture; and guidance multiplies what the two answers differ by (more of it in the model's
# [training notes](../assets/mini/TRAINING.md)).
#
# </details>
#
# ## Look: what the blocks are fed
#
# *VACE*, Video All-in-one Creation and Editing, is what Wan's authors call it: a few blocks beside the main ones (here two
# beside six, in the real model eight beside forty), each of which looks at what is given and adds its *hint* to what the main
# block makes of the noise. What they look at has the latent's places and 96 channels. Here is all of it, for a reference and
# nothing else:

# %%
from wan_tutorial.show import plot_context

show_figure(plot_context(context, title="A reference image, and nothing else given"))

# %% [markdown]
# Read it column by column.
#
# - **The reference is a frame of its own**, before those of the video. You see it sixteen times, once for each channel of its
#   latent. Its second row is zero and its mask says: keep.
# - **The video's frames are grey**, as nothing of them is given: a grey video, through the VAE, as what stays *and* as what is
#   painted over. Grey is 0 in pixels but not in a latent: each channel has its own flat value for it. Their mask says: paint
#   everything.
#
# In the official code the first row is called *inactive*, the second *reactive*.
#
# And the noise? It has that extra frame, too. The model paints the reference along with the video, and after the last step
# the extra frame is trimmed off: in ComfyUI the node is called *TrimVideoLatent*.

# %%
# NBVAL_CHECK_OUTPUT
last = painted(1.0)[-1].latent
print("given", tuple(context.tensor.shape), " painted", tuple(last.shape), end=" ")
print(" trimmed", tuple(context.trim(last).shape))

# %% [markdown]
# ## Build: count it


# %%
def context_shape(width, height, frames, references):
    """-> (channels, frames, height, width) of what the VACE blocks look at"""
    ...


# %%
from wan_tutorial.exercises.references import check_context_shape, check_mask_cells, check_split_video

context_shape = check_context_shape(context_shape)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def context_shape(width, height, frames, references):
#     latent_frames = (frames - 1) // 4 + 1
#     return 96, references + latent_frames, height // 8, width // 8
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
print("here:", context_shape(96, 96, 13, 1))
print("the real model, 832 x 480 x 81:", context_shape(832, 480, 81, 1))

# %% [markdown]
# ## Look: the strength
#
# A hint is a number for every feature of every token, added to the main block's own. So it can be added in part: `strength`
# times the hint (official Wan calls it `context_scale`, ComfyUI `strength` of *WanVaceToVideo*). Slide it.

# %%
from wan_tutorial.show import explore_walk

ends = ("strength 0: as if there were no picture", "strength 1: as trained")
names = "strength {:g}".format
walk = explore_walk(painted, without_reference, ends=ends, fps=pipe.entry.fps, stops=5, ready=3, say=names)

# %%
from wan_tutorial.show import plot_lines

strengths = (0.0, 0.25, 0.5, 0.75, 1.0)
along = [video_of(painted(strength)) for strength in strengths]
lines = {"from the video at strength 0": (strengths, [distance(one, along[0]) for one in along])}
lines["from the reference"] = (strengths, [distance(one) for one in along])
show_figure(plot_lines(lines, x="strength", y="mean distance of pixels", title="What the strength moves"))

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Both lines bend: half of the strength does nearly three quarters of the work. The first says how much the hints change; the second, whether
# the change leads to the picture. They need not tell the same: a model may be pushed about without being led. Strengths above
# 1 are allowed, up to 10; the blocks were never trained for them. Try 2 and 4 in `painted(...)`.
#
# </details>
#
# ## Look: who looks at the reference?
#
# The hints are one way from the picture to the video. There may be a second: the extra frame stands among the others, and in
# self-attention every token may look at every frame (lesson 04). Does it? What the picture shows, that frame knows from its
# hints; at strength 0 it is a frame like any other. Frame 0 in these tables is the reference; the rows below it are the video.

# %%
from wan_tutorial.show import plot_frame_tables
from wan_tutorial.taps import look_inside

step = painted(1.0)[2]
inside = {}
for strength in (0.0, 1.0):
    inside[strength] = look_inside(
        pipe.transformer, step.latent_before, step.sigma, text.positive,
        vace_context=context.tensor, vace_strength=strength,
    )  # fmt: skip
show_figure(plot_frame_tables(inside[1.0].frames, title=f"Who looks where, at sigma {step.sigma:.2f}"))

# %%
for strength, seen in inside.items():
    share = [table[:, 1:, 0].mean().item() for table in seen.frames.values()]
    print(f"strength {strength:g}: share of the video's attention that goes to the reference, block by block:",
          ", ".join(f"{one:.0%}" for one in share))  # fmt: skip

# %% [markdown]
# Spread evenly it would be 20 % a frame. Block 0 looks alike both ways, as the first hint is added only after it. Some later
# blocks turn to the reference, others away from it: a few heads do the looking, not all.
#
# ## Look: a region
#
# A reference is one thing that can be given. The other two rows of the picture serve for videos. You have a video and want
# one region of it painted again: a *mask* says where, white or 1 for *paint here*. (In Wan's image-to-video model it is the
# other way round, which has cost many people an evening.)

# %%
import torch

shape = {"height": size.height, "width": size.width}
clip = render([brief_scene(5)], frames=size.frames, **shape)[0]
across, down = torch.linspace(-1, 1, size.width), torch.linspace(-1, 1, size.height)[:, None]
mask = ((across.square() + (0.9 * down).square()) < 0.55).float()  # an ellipse, 1 inside
given = read_given(size, video=clip, mask=mask)
print("Given:", given)

# %%
rows = {"what stays": given.inactive, "what is painted over": given.reactive}
rows["where to paint"] = 2 * given.mask[..., None].expand(-1, -1, -1, 3) - 1
show_figure(plot_strips(rows, fps=pipe.entry.fps, alt="A video, divided by a mask"))

# %% [markdown]
# ## Build: divide the video
#
# Where nothing is, the parts are grey: 0, the middle of the range.


# %%
def split_video(video, mask):
    """A video (f, h, w, 3) and a mask (f, h, w), 1 to paint -> what stays, what is painted over"""
    ...


# %%
split_video = check_split_video(split_video)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def split_video(video, mask):
#     mask = mask[..., None]
#     return video * (1 - mask), video * mask
# ```
#
# </details>
#
# ## Build: the mask's 64 channels
#
# The mask must go to the latent's size, eight times smaller. It could be shrunk; but then an edge could run only between
# cells. VACE keeps every pixel: a cell's 8 × 8 pixels become 64 channels, counted along the rows of the cell.


# %%
def mask_cells(mask):
    """One frame's mask (height, width) -> (64, height / 8, width / 8)"""
    ...


# %%
mask_cells = check_mask_cells(mask_cells)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mask_cells(mask):
#     height, width = mask.shape
#     blocks = mask.reshape(height // 8, 8, width // 8, 8)
#     return blocks.permute(1, 3, 0, 2).reshape(64, height // 8, width // 8)
# ```
#
# </details>
#
# In time it is simpler, and cruder: for each latent frame one frame is taken, the middle one of its part of the video. With
# thirteen frames these are 1, 4, 8 and 11. So you have all three parts in your hands. Put together, they are what the
# pipeline makes:

# %%
# NBVAL_CHECK_OUTPUT
stays, painted_over = split_video(clip, given.mask)
part = size.frames / size.latent_frames
middles = [int((i + 0.5) * part) for i in range(size.latent_frames)]
cells = torch.stack([mask_cells(given.mask[frame]) for frame in middles], dim=1)[None]
parts = [pipe.encode(stays), pipe.encode(painted_over)]
by_hand = torch.cat([*parts, cells.to(parts[0])], dim=1)
region = pipe.encode_context(given)
print(tuple(by_hand.shape), "as the pipeline makes it:", torch.allclose(by_hand, region.tensor, atol=1e-3))

# %%
show_figure(plot_context(region, title="A region to paint again"))

# %% [markdown]
# **Notice** the second row: what is to be painted over goes in as well. With a drawing there, of a pose or a depth, the same
# row guides what is painted: a *control video*. And each of the 64 small ellipses is a little different: look at their edges.
#
# So whoever wants something else in the ellipse cuts out what is there: grey, in the second row too. Now paint it, with other
# words:

# %%
prompt = "A sword embedded in a pile of burning wood, blue flames, dark background, detailed textures"
holed = clip * (1 - mask)[..., None]  # grey inside
result = pipe.generate(
    prompt, negative=BRIEF_NEGATIVE, seed=2, steps=STEPS, video=holed, mask=mask, progress=False
)
rows = {"given": holed, "painted inside the ellipse: blue flames": result.video}
show_figure(plot_strips(rows, fps=result.fps, alt="A video and the same with its middle painted again"))

# %%
outside = (mask == 0)[None, ..., None]
through_vae = pipe.decode(pipe.encode(clip))
for name, video in (("painted again", result.video), ("the VAE alone", through_vae)):
    error = ((video - clip).square() * outside).sum() / (3 * len(clip) * outside.sum())
    print(f"outside of the ellipse, {name}: {10 * torch.log10(4 / error):.1f} dB")

# %% [markdown]
# Nothing is pasted back: what stays is painted, too, and kept only because the model was told to. No copy can be better than
# the VAE's, which is the second number. (Some workflows paste the original over the result at the end.)
#
# ## Look: a first frame
#
# *Image to video* is the same thing with another mask: the first frame stays, the rest is grey and is painted.

# %%
start = render([brief_scene(9)], frames=1, **shape)[0, 0]
begun = pipe.generate(
    BRIEF_PROMPT, negative=BRIEF_NEGATIVE, seed=3, steps=STEPS, first_frame=start, progress=False
)
frames = range(0, size.frames, 2)
labels = ["given", *(f"painted: frame {frame}" if frame == 0 else f"frame {frame}" for frame in frames)]
pictures = [start, *(begun.video[frame] for frame in frames)]
show_figure(plot_pictures(pictures, labels=labels, columns=8, alt="A picture, and the video begun with it"))

# %%
from wan_tutorial.exercises.pixels import psnr

print(f"frame 0 against the picture: {psnr(start, begun.video[0]):.1f} dB,", end=" ")
print(f"the VAE's own copy: {psnr(start, pipe.decode(pipe.encode(start[None]))[0]):.1f} dB")

# %% [markdown]
# ## Explain
#
# **In the mask of a first frame, look at which frames were taken: 1, 4, 8, 11. Frame 0 is not among them. How does the model
# know that the first frame is to be kept?**
#
# <details><summary>Answer</summary>
#
# The mask it sees says *paint* in all four latent frames. What tells it is the first row: in latent frame 0 what stays is not
# grey. It learned in training that a picture there is to be kept. The same happens in the real model with 81 frames, whose
# middles are 1, 5, 9 and so on.
#
# </details>
#
# ## Look: crop or white?
#
# A reference rarely has the video's proportions. The official code and diffusers put all of it on a white canvas; ComfyUI cuts
# it to size. Here is a wide picture, both ways. **Predict** what the white will do. (Below, brightness goes from -1, black, to
# 1, white.)

# %%
wide = render([brief_scene(2)], height=216, width=384, frames=1)[0, 0]
fitted = {fit: read_given(size, reference=wide, fit=fit) for fit in ("pad", "crop")}
fits = {}
for fit, one in fitted.items():
    fits[fit] = video_of(steps_with(pipe.encode_context(one)))

# %%
pictures = [frame for fit in fits for frame in (fitted[fit].references[0], *fits[fit][[0, 6, 12]])]
names = {"pad": "pad: all of it, on white", "crop": "crop: cut to size"}
labels = [label for fit in fits for label in (names[fit], "painted: frame 0", "frame 6", "frame 12")]
show_figure(
    plot_pictures(pictures, labels=labels, columns=4, alt="A padded and a cut reference, and their videos")
)

# %%
top = size.height // 6
for fit, video in fits.items():
    shown = fitted[fit].references[0, :top].mean()
    print(
        f"{fit:4} the upper sixth: of the reference {shown:+.2f}, of the video {video[:, :top].mean():+.2f}"
    )

# %% [markdown]
# And what of the picture arrives? Its distance to the video, without the bars; and, as a yardstick, to a video made with
# picture B in its place.

# %%
strange = render([brief_scene(5)], height=216, width=384, frames=1)[0, 0]
for fit, video in fits.items():
    picture = fitted[fit].references[0]
    lines = picture.mean(dim=(1, 2)) < 0.9  # those that are not white
    other = video_of(steps_with(pipe.encode_context(read_given(size, reference=strange, fit=fit))))
    near, away = (distance(one[:, lines], picture[lines]) for one in (video, other))
    print(f"{fit:4} distance to the picture: {near:.3f} with it, {away:.3f} with picture B")

# %% [markdown]
# This model paints no white: in training a few of its references lay on white (`reference_pictures` in
# `wan_tutorial/mini/train_vace.py`), so it has learned that white there means *nothing*. But a few are few: of the small sword
# between the bars next to nothing arrives. Its guard is sea green, the painted one red, and with picture B in its place the
# video is nearly as close. For the real model the advice in ComfyUI's own template is a picture with one plain background, or
# a background alone.
#
# ## Look: a photograph
#
# Rear Admiral Grace Hopper, who wrote the first compiler, and a picture that matplotlib brings along. What will the fireside
# model make of her? First what arrives, then what it paints.

# %%
from matplotlib import cbook

photo = str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
portrait = reconstruct(pipe.vae, photo, size, fit="crop")
print(portrait)

# %%
hopper = pipe.encode_context(read_given(size, reference=photo, fit="crop"))
by_the_fire = video_of(steps_with(hopper))
pictures = [portrait.fitted, portrait.carried, *by_the_fire[[0, 6, 12]]]
labels = ["fitted", f"after the VAE: {portrait.psnr:.1f} dB", "painted: frame 0", "frame 6", "frame 12"]
show_figure(plot_pictures(pictures, labels=labels, columns=5, alt="A photograph on its way into a fireside"))
print(f"distance to the photograph {distance(by_the_fire, portrait.fitted):.3f},", end=" ")
print(f"without it {distance(along[0], portrait.fitted):.3f}")

# %% [markdown]
# **What the scale model can carry:** what its world has: tints, where things are, how big, how logs lie, which form of hilt or
# handle, as long as its training had the like. **What it cannot:** anything its VAE blurs away (compare the first two
# pictures), and anything that is not a fireside. It has never seen a face, a room or daylight in a street, and makes little
# of one: some blue about where hers was, a fifth of the distance gone, and by the fire no admiral. The real model has seen
# nearly everything, and can do what this one cannot; the way in is the same.
#
# ## Look: with the LoRA
#
# Now everything at once: the second result of the workflow that the kit was made from. The same two prompts, the reference
# image, and the CausVid LoRA (lesson 07), which needs four steps and no guidance. Which layers does it change?

# %%
from wan_tutorial.machine.weights import bundled_folder

causvid = bundled_folder() / "Wan21_CausVid_mini_T2V_lora_rank32.safetensors"
fit = pipe.fit_loras([(causvid, 1.0)])[0]
print(fit)
print("layers of VACE blocks among them:", sum("vace" in name for name in fit.layers.values()))

# %%
second = pipe.generate(
    BRIEF_PROMPT, negative=BRIEF_NEGATIVE, reference=PICTURE, loras=[(causvid, 1.0)], steps=4, guidance=1.0,
    seed=5, progress=False,
)  # fmt: skip
slow = pipe.generate(BRIEF_PROMPT, negative=BRIEF_NEGATIVE, reference=PICTURE, seed=5, progress=False)
rows = {
    "4 steps with the LoRA, no guidance": second.video,
    f"{slow.settings.steps} steps, guided": slow.video,
}
show_figure(plot_strips(rows, fps=second.fps, alt="With LoRA in four steps, and without in twenty"))
for name, run in zip(rows, (second, slow), strict=True):
    seconds = next(use.seconds for use in run.stages if use.name == "steps")
    print(f"{name:36} {seconds:4.1f} s of steps, distance to the reference {distance(run.video):.3f}")

# %% [markdown]
# (`wan.show_video(second.video, fps=second.fps, times=4)` plays it.)
#
# The LoRA was made for the main blocks: the VACE blocks go on as they were, and speak to blocks that now stride through four
# steps instead of many. On this model that costs something, by both measures: the distance is larger, and the probe finds
# about four in five references where the guided run has about nine in ten (the table further up). And this LoRA has met
# references: every third example of its training had one (`SHOWN` in `wan_tutorial/mini/distill.py`). The real one was made
# for text to video. Whether that pair needs a lower strength has not been measured; ComfyUI's template says 0.3 to 0.7 for the
# LoRA.
#
# ## Break it
#
# Forget to trim, with the reference on white. The latent has a frame too many, and nothing complains: five latent frames are a
# fine video of seventeen. **Predict** what its first frames show.

# %%
*_, last = steps_with(pipe.encode_context(fitted["pad"]))
untrimmed = pipe.decode(last.latent)
print("frames:", len(untrimmed), "instead of", len(fits["pad"]))
rows = {"not trimmed": untrimmed, "trimmed": fits["pad"]}
show_figure(plot_strips(rows, fps=pipe.entry.fps, columns=9, alt="A video not trimmed, and trimmed"))
changes = untrimmed.diff(dim=0).abs().mean((1, 2, 3))
print("not trimmed, change from frame to frame:", " ".join(f"{change:.2f}" for change in changes))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The video begins with the reference, white bars and all, as the model paints it along; in the next frames it melts into the
# video, and there the changes are largest. And more is wrong: the first latent frame of a video is one picture, every other
# four. Decoded in second place, the video's own first frame becomes four. *First frames that morph out of the reference* is a
# common question; the first thing to check is the trim. Another thing to break: set `mask = 1 - mask` where the ellipse is
# made, and the middle stays while all around it is painted.
#
# </details>
#
# ## On the real model
#
# Every cell above is written to run with the real weights; none has been run there. Put the path of the real LoRA file into
# `causvid`, and bring time: the cells paint at the model's own size, 832x480x81. What all of them take together is printed
# below; the table before it is for a smaller video and compares. A reference costs one latent frame more to paint, and a VACE
# block after every fifth main block at each look.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.machine.plan import Run, find_card, plan_run
from wan_tutorial.machine.weights import find_model

real, card, rows = find_model("wan2.1-vace-14b-q3"), find_card("T4"), []
for name, *settings in (("20 steps, guided", 20, 6.0, False), ("4 steps with LoRA", 4, 1.0, True)):
    for reference in (False, True):
        run = Run(wan.VideoSize(480, 480, 33), *settings, reference)
        plan = plan_run(real, card, run)
        memory = max(stage.vram for stage in plan.stages) / 1e9
        what = "and a reference" if reference else name
        rows.append([what, f"{run.tokens:,}", f"{plan.minutes:.0f} minutes", f"{memory:.1f} GB"])
show_table([f"{run.size} on a T4, predicted", "tokens", "time", "GPU memory"], rows)

# %%
# NBVAL_CHECK_OUTPUT
lesson = {  # the videos above: how many, and what each takes
    "12 steps, guided": (14, Run(real.size, 12, 6.0, reference=True)),
    "20 steps, guided": (1, Run(real.size, 20, 6.0, reference=True)),
    "4 steps with LoRA": (1, Run(real.size, 4, 1.0, True, True)),
}
hours = sum(count * plan_run(real, card, run).minutes for count, run in lesson.values()) / 60
print(f"all videos of this lesson at {real.size} on a T4: about {hours:.0f} hours, predicted")

# %%
from wan_tutorial.show import show_costs

show_costs(slow.stages, pipe)

# %% [markdown]
# How strongly the real model follows a reference has not been measured here. What its users report: the prompt should name what
# the reference shows, a plain background helps, and a picture of a *style* is not what VACE was trained for.
#
# ## Recap
#
# - Some things have no words; a reference image carries them. It goes through the VAE, stands as a latent frame of its own before the
#   video's, is painted along and cut off at the end.
# - The VACE blocks look at 96 channels: 16 of what stays, 16 of what is painted over, 64 of mask. With nothing given they are grey,
#   grey, and *paint everything*. First frame, region and control video are the same three parts, filled otherwise.
# - Their hints are added to the main blocks' work, times a strength. Compare with strength 0, not with leaving the picture out.
#   A scrambled reference tells how much is colour alone, unless, as here, the blocks were taught to ignore shuffled pictures.
#
# **1. With which inputs, and what mask, would you ask for a video that *ends* with a given picture?**
#
# <details><summary>Answer</summary>
#
# A video of grey frames whose last frame is the picture, with a mask that is 1 everywhere but in that frame.
#
# </details>
#
# **2. A friend compares *no reference, seed 5* with *reference, seed 5*, and says that the reference has moved the fire to the left.
# What is wrong with the comparison?**
#
# <details><summary>Answer</summary>
#
# With a reference the noise has a frame more, and the same seed gives other numbers everywhere: the fire may have moved by
# that alone. Compare with strength 0, which has the same noise; and with more than one seed.
#
# </details>
#
# **3. Why 64 channels for a mask, where one channel of shares between 0 and 1 could say how much of each cell is masked?**
#
# <details><summary>Answer</summary>
#
# A share says *how much*, and not *where*: the left half and the right half of a cell are both one half. The 64 say which pixels.
#
# </details>
#
# **Next:** [09 · Run the full pipeline](09_run_the_full_pipeline.ipynb) does this with the real weights, if your machine can.
