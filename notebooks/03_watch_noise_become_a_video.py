# %% [markdown]
# # 03 · Watch noise become a video
#
# | | |
# |---|---|
# | **After this lesson you can** | write a sampler yourself, say what steps, guidance, shift, sampler, scheduler and denoise do, and tell why two programs with the same settings paint different videos |
# | **Time** | 60 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | the denoising loop, between noise and decoder; lesson 04 opens the transformer inside it |

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
# The sampler takes twenty steps from noise to video. **At which of them will you first know what the video shows?**
# Write the number down. Then look.

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
noise = pipe.draw_noise(seed=6).to(pipe.placement.device)
runs = {name: list(pipe.denoise(noise, text, sampler=name)) for name in ("uni_pc", "euler")}

# %% [markdown]
# `denoise` is a generator: it hands out each step as it is made, with all that happened in it.

# %%
# NBVAL_CHECK_OUTPUT
from dataclasses import fields

print([field.name for field in fields(runs["uni_pc"][0])])

# %% [markdown]
# ## Look: drag through the steps
#
# The decoder would need some tenths of a second for each of these pictures. Instead, a small linear map from 16 channels
# to three colours, fitted to a few videos of known scenes, gives a rough preview at once (lesson 02 makes one).

# %%
from wan_tutorial.mini.world import draw_scene, render
from wan_tutorial.show import explore_steps, fit_projection, show_figure

videos = render([draw_scene(seed) for seed in range(6)], height=96, width=96, frames=13)
look = fit_projection([pipe.encode(video) for video in videos], list(videos))
book = explore_steps(runs, look)

# %% [markdown]
# Two solvers, one noise, side by side; each run shows its four latent frames. There are two curves of sigma, as ComfyUI gives
# uni_pc other levels than euler: it makes one more and leaves out the last before 0. *Latent* is where the sampler stands.
# *Clean guess* is where the model thinks the way will end. *Speed* is how much the guess of each frame changed in this step:
# drag from left to right and watch when it is high.
#
# Decoded, the guesses of the first run look like this:

# %%
from wan_tutorial.show import plot_pictures

shown = [runs["uni_pc"][i] for i in (0, 3, 6, 9, 12, 15, 19)]
guesses = [pipe.decode(step.clean_guess)[6] for step in shown]
labels = [f"step {step.index}, sigma {step.sigma:.2f}" for step in shown]
show_figure(plot_pictures(guesses, labels=labels, alt="Decoded clean guesses of one frame at seven steps"))

# %% [markdown]
# Is it true that the layout comes first and the detail last? Call the means of 8 × 8 pixels the *layout*, and what they
# leave over the *detail*, and measure how far each guess is from the last one in both.

# %%
import torch
from torch.nn.functional import avg_pool2d, interpolate

from wan_tutorial.show import plot_lines

frames = torch.stack(guesses).permute(0, 3, 1, 2)  # (7, 3, height, width)
layout = avg_pool2d(frames, 8)
parts = {"layout": layout, "detail": frames - interpolate(layout, scale_factor=8)}
away = {
    name: [((one - part[-1]).std() / part[-1].std()).item() for one in part] for name, part in parts.items()
}
lines = {name: ([step.index for step in shown], values) for name, values in away.items()}
show_figure(plot_lines(lines, x="step", y="distance from the last guess", title="What is settled when"))

# %%
# NBVAL_CHECK_OUTPUT
levels = pipe.settings().sigmas.tolist()
print(
    f"half of the {len(levels) - 1} steps are over when sigma is still {levels[(len(levels) - 1) // 2]:.2f}"
)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Both lines rise first: the first guess is a dark mean with little in it to be wrong; at step 3 the guess is
# over-bright. From there the layout is down to a quarter by step 6; the detail takes until step 15 to come as near. And
# your prediction? At step 0 there is a fire and no more; at step 3, the next one shown, the sword is there. The steps
# are not spread evenly over the noise: half of them are spent high up, where only the layout can be told from the noise
# at all. That is what *shift* is for.
#
# </details>
#
# ## Look: the velocity field
#
# What does the model answer? At every point and time a *velocity*: the direction in which noise lies. To see such a
# field we need a world of two numbers instead of 9,216. Let there be three "videos" in it. Then the exact answer can be
# written down: the clean point to expect is the mean of the three, weighted by how likely each is, seen from here.

# %%
from wan_tutorial.show import plot_field

points = torch.tensor([[-1.6, 0.6], [1.3, 1.1], [0.4, -1.5]])


def toy_velocity(x, t):
    """The exact velocity in a world of three points: x (N, 2), t in (0, 1] -> (N, 2)."""
    distance = (x[:, None] - (1 - t) * points).square().sum(-1) / (2 * t * t)
    expected = (-distance).softmax(dim=1) @ points
    return (x - expected) / t


show_figure(plot_field(toy_velocity, data=points, title="Three videos of two numbers"))

# %% [markdown]
# The arrows are drawn *against* the velocity, the way the sampler walks. **Notice** the left panel: near the start every arrow
# points to the *middle* of the three. From pure noise all are possible, and the best guess is their mean. That is why the
# first clean guess of a real model is a blur. Only later do the arrows make up their minds, and each walk ends at one star.
#
# ## Build: your own sampler
#
# Three short functions, and you have one. (Each wrong answer earns a hint; `hint=1` gives one at once.) First the guess: velocity is noise minus clean, and the latent is
# (1 - sigma) clean + sigma noise. Where does the line end at sigma 0?


# %%
def clean_guess(latent, velocity, sigma):
    """-> the latent at the end of the straight line, at noise level 0"""
    ...


# %%
from wan_tutorial.exercises.steps import check_clean_guess, check_euler_step, check_guide, check_shift_time

clean_guess = check_clean_guess(clean_guess)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def clean_guess(latent, velocity, sigma):
#     return latent - sigma * velocity
# ```
#
# </details>
#
# Now one Euler step: not to the end, but to the next noise level.


# %%
def euler_step(latent, velocity, sigma, sigma_next):
    """-> the latent at noise level sigma_next"""
    ...


# %%
euler_step = check_euler_step(euler_step)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def euler_step(latent, velocity, sigma, sigma_next):
#     return latent + (sigma_next - sigma) * velocity
# ```
#
# </details>
#
# And guidance. The model is asked twice, once for each prompt; go from the negative prompt's answer in the direction
# of the positive's, `guidance` times as far.


# %%
def guide(positive, negative, guidance):
    """-> the guided velocity"""
    ...


# %%
guide = check_guide(guide)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def guide(positive, negative, guidance):
#     return negative + guidance * (positive - negative)
# ```
#
# </details>
#
# Put together, with the transformer between:


# %%
@torch.no_grad()
def ask(latent, sigma, words):
    """What the transformer answers for one prompt."""
    time = latent.new_full((1,), 1000 * sigma)
    return pipe.transformer(latent, time, words[None].to(latent))


# %%
from itertools import pairwise

latent, settings = noise, pipe.settings(sampler="euler")
for sigma, sigma_next in pairwise(settings.sigmas.tolist()):
    positive, negative = ask(latent, sigma, text.positive), ask(latent, sigma, text.negative)
    velocity = guide(positive, negative, settings.guidance)
    latent = euler_step(latent, velocity, sigma, sigma_next)

# %%
# NBVAL_CHECK_OUTPUT
difference = (latent - runs["euler"][-1].latent).abs().max() / latent.abs().max()
print("the same as the kit's euler:", difference.item() < 1e-3)

# %% [markdown]
# ## Explain
#
# **Why are there many steps at all, if the line's end can be computed from the first?**
#
# <details><summary>Answer</summary>
#
# Because the line is only straight if the velocity stays what it is, and it does not: from noise the model answers with
# the mean of all that is possible. A step later, less is possible, and the answer has changed. Steps are the chances to
# correct the course.
#
# </details>
#
# Two prompts from one noise, in the plane in which their latents differ most:

# %%
from wan_tutorial.show import plot_trajectory

other = pipe.encode_text("A green campfire in the snow, flat lighting", NEGATIVE)
ways = {
    "the sword": runs["euler"],
    "a green fire in the snow": list(pipe.denoise(noise, other, sampler="euler")),
}
paths = {name: [noise, *(step.latent for step in steps)] for name, steps in ways.items()}
show_figure(plot_trajectory(paths, title="One noise, two prompts"))
for name, path in paths.items():
    moves, whole = [b - a for a, b in pairwise(path)], path[-1] - path[0]
    longer = sum(move.norm() for move in moves) / whole.norm()
    angle = torch.rad2deg(torch.acos((moves[0] * whole).sum() / (moves[0].norm() * whole.norm())))
    print(
        f"{name}: {longer:.3f} times as long as the straight line; the first step is {angle:.0f} degrees off"
    )

# %% [markdown]
# **Notice** that both begin together and part early. How bent is a way? A straight one would have the number 1. 1.05 looks like
# little, but a way that is 17 degrees off its line from end to end has no more (1 / cos 17° = 1.05). The first velocity is off by
# more than twice that: this is why one step is not enough.
#
# ## Build: shift
#
# Wan moves all times towards the noisy end: shift · t / (1 + (shift - 1) · t).


# %%
def shift_time(t, shift):
    """-> the shifted time"""
    ...


# %%
shift_time = check_shift_time(shift_time)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def shift_time(t, shift):
#     return shift * t / (1 + (shift - 1) * t)
# ```
#
# </details>

# %%
from wan_tutorial.show import plot_shift, plot_strips

show_figure(plot_shift([1, 2, 4, 8, 16]))
print("the middle of the way, with shift 8:", round(shift_time(0.5, 8.0), 2))

# %%
shifted = {}
for shift in (1.0, 3.0, 8.0):
    final = [step.latent for step in pipe.denoise(noise, text, steps=8, shift=shift)][-1]
    shifted[f"shift {shift:g}, 8 steps"] = pipe.decode(final)
show_figure(plot_strips(shifted, fps=pipe.entry.fps, alt="Shift 1, 3 and 8 with eight steps each"))

# %%
twenty = pipe.decode(runs["uni_pc"][-1].latent)  # the same noise and prompts in twenty steps
for name, video in shifted.items():
    print(f"{name}: {(video - twenty).square().mean().sqrt():.3f} away from the video of twenty steps")

# %% [markdown]
# Eight steps are few, and shift says where they go. Here 1 and 3 are close, and 8 is clearly worse: on 12 × 12 cells there
# is little layout to protect. That is one prompt. In 48 captions an earlier version of this model obeyed 73 % of the camera
# moves at shift 3 and 50 % at 8 ([training notes](../assets/mini/TRAINING.md)), so this course gives its scale model 3.
#
# ComfyUI gives Wan 8. The noise of neighbouring places averages out, so the layout of a large picture shows through more
# noise than that of a small one, and is decided nearer to 1: [Stable Diffusion 3](https://arxiv.org/abs/2403.03206) shifts by
# the square root of the ratio of pixel numbers.

# %% [markdown]
# ## Look: guidance and shift under your hand
#
# Move the sliders and press **Run**; the picture grows with each step.

# %%
from functools import partial

from wan_tutorial.show import explore_sampling

own = {"guidance": pipe.entry.guidance, "shift": pipe.entry.shift}
board = explore_sampling(partial(pipe.denoise, noise, text), look, steps=10, **own)

# %% [markdown]
# ## Look: guidance, measured
#
# **Predict:** what will guidance 12 do to the picture, and what will it do to the size of the numbers?

# %%
guided, contrast = {}, {}
for guidance in (1.0, 4.0, 8.0, 12.0):
    final = [step.latent for step in pipe.denoise(noise, text, steps=10, guidance=guidance)][-1]
    guided[f"guidance {guidance:g}"] = pipe.decode(final)
    contrast[f"guidance {guidance:g}"] = final.std().item()
show_figure(plot_strips(guided, fps=pipe.entry.fps, alt="Guidance 1, 4, 8 and 12"))

# %%
from wan_tutorial.show import plot_bars

show_figure(
    plot_bars(
        contrast, y="standard deviation of the finished latent", title="What guidance does to the numbers"
    )
)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Guidance goes past the positive prompt's answer, out of the range that training has seen: the numbers grow with it, and in
# the picture contrast and colour with them. Guidance 1 is the model's own answer: here it has sword, fire and embers, in
# softer colours. At 8 flames double, at 12 the sword falls apart. Where between them the prompt is obeyed best is measured,
# not calculated.
#
# </details>
#
# And the negative prompt? It is one of the two ends that guidance is measured from. Does it do anything? Four seeds
# at once, with the negative prompt and with an empty one, at the model's usual guidance, and a number for the sharpness of the
# result: the mean difference between neighbouring pixels. (Lesson 02 warned that sharp is not good. Here it is what to measure:
# the negative prompt says *blurry*.)

# %%
seeds = torch.cat([pipe.draw_noise(seed=seed) for seed in range(4)])  # (4, 16, F, H, W)
sharpness = {}
for name, words in (("with the negative prompt", NEGATIVE), ("with an empty one", "")):
    steps = pipe.denoise(seeds, pipe.encode_text(PROMPT, words), steps=8)
    *_, last = (step.latent for step in steps)
    made = [pipe.decode(one[None]) for one in last]
    sharpness[name] = [video.diff(dim=2).abs().mean().item() for video in made]

# %%
means = {name: sum(values) / len(values) for name, values in sharpness.items()}
show_figure(
    plot_bars(means, y="mean difference between neighbouring pixels", title="Sharpness, mean of four seeds")
)
pairs = zip(*sharpness.values(), strict=True)
print("sharper with the negative prompt in", sum(a > b for a, b in pairs), "of 4 seeds")

# %% [markdown]
# Four seeds show a direction at most, not a law. For more, there is the judge. In training some videos were spoiled on purpose,
# each in one of the four ways that the negative prompt names, and the judge has learned to see such a *defect*. In the shipped
# evaluation it counts them over 24 captions each, without a negative prompt (the first row) and with one, and at guidance 2:
# a lower guidance keeps a video less firmly to its prompt, so that defects should be more frequent.

# %%
from wan_tutorial.show import read_evaluation, say_share

counted = {name: row for name, row in read_evaluation(pipe).get("negative", {}).items() if name != "guidance"}
for name, row in counted.items():
    print(f"{name:50} a defect in {say_share(row['any'])}")
print(f"{len(counted)} negative prompts were counted for these model files")

# %% [markdown]
# There was nothing to take away: without a negative prompt (the first row) the judge found a defect in none of 24
# captions, so the true share is at most about one in seven. The single one against *blurry* may be chance.
#
# At guidance 1 the negative prompt falls out of the formula, and the kit does not even compute it. Workflows with a speed
# LoRA run so, and there the negative prompt does nothing at all. What does that save?

# %%
import time

for guidance in (pipe.entry.guidance, 1.0):
    began = time.perf_counter()
    count = len(list(pipe.denoise(noise, text, steps=6, guidance=guidance)))
    print(f"guidance {guidance:g}: {(time.perf_counter() - began) / count:.2f} s for each step")

# %% [markdown]
# ## Look: which solver, how many steps
#
# Euler follows the tangent. Better solvers remember earlier answers and follow the bend. What is that worth? We take
# 200 steps as the truth and measure how far off each solver is with fewer, all on the same noise levels. (The positive
# prompt alone, to halve the work.)

# %%
from wan_tutorial.sampling.schedules import simple_sigmas
from wan_tutorial.sampling.solvers import SOLVERS


def finish(sampler, steps):
    """The finished latent of one solver, without guidance."""
    levels = simple_sigmas(steps, shift=pipe.entry.shift)
    *_, last = SOLVERS[sampler](lambda latent, sigma: ask(latent, sigma, text.positive), noise, levels)
    return last.latent


truth = finish("dpmpp_2m", 200)

# %%
counts, errors = (4, 8, 16), {}
for sampler in ("euler", "heun", "dpmpp_2m", "uni_pc"):
    ends = [finish(sampler, count) for count in counts]
    asked = [2 * count - 1 if sampler == "heun" else count for count in counts]
    errors[sampler] = (asked, [((end - truth).norm() / truth.norm()).item() for end in ends])

# %%
x, y = "times the model is asked", "relative error"
show_figure(plot_lines(errors, x=x, y=y, title="4, 8 and 16 steps: how far from 200", logarithmic=True))

# %% [markdown]
# **Notice** that heun asks twice in each step but the last. At equal work it is no better than Euler here; the solvers that
# *remember* (dpmpp_2m, uni_pc) get nearer than both for nothing. And *error* means distance to the same model's own 200-step
# video: a video with a large error may be as pretty, it is only another one. One noise and one prompt are no law either;
# change the seed and see what stays.
#
# ## Look: the same settings in two programs
#
# "uni_pc, 6 steps, shift 3". For uni_pc ComfyUI's KSampler asks its schedule for 7 steps, which are 8 levels with the 0, and drops
# the last level but one; diffusers spaces its own evenly in time, and solves by another variant of uni_pc. Same words, other noise
# levels:

# %%
# NBVAL_CHECK_OUTPUT
grids = {name: pipe.settings(scheduler=name, steps=6).sigmas for name in ("simple", "diffusers", "official")}
for name, sigmas in grids.items():
    print(f"{name:10}", "  ".join(f"{sigma:.3f}" for sigma in sigmas.tolist()))

# %%
from wan_tutorial.show import plot_sigmas

named = {
    "ComfyUI KSampler": grids["simple"],
    "diffusers": grids["diffusers"],
    "Wan's own code": grids["official"],
}
show_figure(plot_sigmas(named, title=f"uni_pc, 6 steps, shift {pipe.entry.shift:g}, in three programs"))

# %%
same = {}
for levels, solver in (("simple", "uni_pc"), ("diffusers", "uni_pc"), ("diffusers", "uni_pc_diffusers")):
    run = pipe.denoise(noise, text, steps=6, scheduler=levels, sampler=solver)
    same[f"levels: {levels}, solver: {solver}"] = pipe.decode([step.latent for step in run][-1])
alt = "The same settings in ComfyUI, with diffusers' levels, and with its levels and solver"
show_figure(plot_strips(same, fps=pipe.entry.fps, alt=alt))

# %%
comfyui, *others = same.values()
for name, video in zip(list(same)[1:], others, strict=True):
    print(f"{name}: {(video - comfyui).square().mean().sqrt():.3f} away from ComfyUI's")

# %% [markdown]
# **Notice** that the levels alone can spoil a video (how much depends on the seed), and that with diffusers' own solver it is
# whole again. Both solvers look how their last guesses bend and continue the bend. But ComfyUI's looks back on three guesses and
# diffusers' on two, and they measure the bend in two different times. **Predict:** which of the two matters? Here are all four
# pairs on diffusers' levels, all else as in diffusers.

# %%
import math

from wan_tutorial.sampling.solvers import UniPC, unified_predictor_corrector


def guided_velocity(latent, sigma):
    """What the transformer answers for both prompts, put together by your `guide`."""
    return guide(ask(latent, sigma, text.positive), ask(latent, sigma, text.negative), pipe.entry.guidance)


clocks = {  # name: (the time at a sigma, the share of the clean latent that goes with it)
    "-log(sigma), ComfyUI's": (lambda sigma: -math.log(sigma), lambda sigma: 1.0),
    "log(1 / sigma - 1), diffusers'": (lambda sigma: math.log(1 / sigma - 1), lambda sigma: 1 - sigma),
}

# %%
levels = grids["diffusers"].tolist()
for name, (clock, signal) in clocks.items():
    print(f"time {name}: gaps", *(f"{b - a:.2f}" for a, b in pairwise(map(clock, levels[:-1]))))
    for guesses in (2, 3):
        kind = UniPC(order=guesses, half_log_snr=clock, signal=signal, bend=math.expm1)
        *_, last = unified_predictor_corrector(guided_velocity, noise, levels, kind)
        far = (pipe.decode(last.latent) - twenty).square().mean().sqrt()
        print(f"  {guesses} guesses: {far:.3f} away from the video of twenty steps")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Neither alone. The third guess does harm in ComfyUI's time only, and there two guesses are enough to keep the video whole. The
# gaps show a likely reason. In that time each gap is longer than the one before, so a curve through three guesses is continued
# as far as it looks back (0.22 ahead, after 0.13 and 0.09), and overshoots. In diffusers' time they are even but for the first.
#
# </details>
#
# So a solver and its levels belong together. At 20 steps all three strips are near (try it).
#
# ## Look: denoise below 1
#
# Give a video, go only part of the way back into noise, and come down with another prompt. The lower `denoise`, the more
# of the given video stays. Look what survives, the setting or the things in it. And mind where it begins: ComfyUI makes
# int(8 / denoise) steps and walks only the last 8, so 0.7 begins at sigma 0.90 and 0.9 at 1.00.

# %%
s = pipe.entry.size
given = render([draw_scene(0)], height=s.height, width=s.width, frames=s.frames)[0]
kept = {"given": given}
for amount in (0.4, 0.7, 0.9):
    top = pipe.settings(steps=8, denoise=amount).sigmas[0]
    steps = pipe.denoise(noise, text, start=pipe.encode(given), denoise=amount, steps=8)
    kept[f"denoise {amount:g}, from sigma {top:.2f}"] = pipe.decode([step.latent for step in steps][-1])
show_figure(
    plot_strips(kept, fps=pipe.entry.fps, alt="A given video, repainted with denoise 0.4, 0.7 and 0.9")
)

# %%
ends = {"the given video": given, "what the prompt alone paints": twenty}
for name, video in kept.items():
    told = [f"{(video - end).square().mean().sqrt():.2f} from {what}" for what, end in ends.items()]
    print(f"{name:28}", ", ".join(told))

# %% [markdown]
# At 0.4 the fire's place and colour are left, and a scrap of the guard; the shore is gone. The two distances cross where the
# prompt takes over. It is early: the noise level at which the repainting begins, not the number you set, decides what of the
# given video can still be told from the noise.

# %% [markdown]
# ## Break it
#
# **Predict:** what happens if one sign is wrong, and every step walks *with* the velocity instead of against it?

# %%
latent = noise
for step in runs["euler"]:
    latent = latent + (step.sigma - step.sigma_next) * step.velocity
ends = {"against the velocity": runs["euler"][-1].latent, "with it": latent}
print(", ".join(f"{name}: standard deviation {end.std():.1f}" for name, end in ends.items()))
made = {f"{name}, frame {i}": pipe.decode(end)[i] for name, end in ends.items() for i in (0, 6)}
alt = "The right sampler, and one that walks with the velocity"
show_figure(plot_pictures([*made.values()], labels=[*made], columns=4, alt=alt))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The noise is not taken away but doubled, and the decoder shows a storm. It is an easy mistake, and a test of shapes does not
# find it.
#
# </details>
#
# ## On the real model
#
# The cells are written to run with `MODEL = "wan2.1-vace-14b-q3"` on a machine that fits; they have not been run there. The
# solver comparison would take hours, so lower its 200. What is the same: formulas and grids. What is not measured here: which
# solver is best at which number of steps on the real model. Its makers use 50 steps, ComfyUI's template 20, or 4 with a speed
# LoRA.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.machine.weights import find_model

entry = find_model("wan2.1-vace-14b-q3")
print(entry.steps, "steps, guidance", entry.guidance, "shift", entry.shift, entry.sampler, entry.scheduler)

# %%
from wan_tutorial.machine.hardware import StageMeter
from wan_tutorial.show import show_costs

meter = StageMeter(pipe.placement.device)
with meter.stage("steps"):
    list(pipe.denoise(noise, text))
show_costs(meter.stages, pipe)

# %% [markdown]
# Predicted, and not checked on a real T4.
#
# ## Recap
#
# - The model answers with a velocity; a sampler follows it from noise to clean; a clean guess is that walk in one leap.
# - Guidance walks from the negative prompt's answer past the positive's; at 1 the negative prompt does nothing.
# - Shift spends steps on the layout. Solvers differ in how they use what they have already seen. Programs differ in the noise
#   levels and the solver that the same words mean.
#
# **1. A friend sets guidance to 1 and complains that the negative prompt is ignored. Is it a bug?**
#
# <details><summary>Answer</summary>
#
# No. negative + 1 · (positive - negative) = positive: the negative prompt cancels out.
#
# </details>
#
# **2. You double the steps and the video changes, though the seed is the same. Why?**
#
# <details><summary>Answer</summary>
#
# The noise is the same, but the walk stops at other levels, so the model is asked at other points and the errors of
# following a bent way in straight pieces are others. With more steps the videos grow alike.
#
# </details>
#
# **3. Which shift spends more of its steps on fine detail, 3 or 8?**
#
# <details><summary>Answer</summary>
#
# 3. A larger shift keeps sigma high for longer, where the layout is decided.
#
# </details>
#
# **Next:** [04 · Look inside the transformer](04_look_inside_the_transformer.ipynb), which answers at each step.
# [12 · Open a ComfyUI workflow](12_open_a_comfyui_workflow.ipynb) has all of this as nodes and wires.
