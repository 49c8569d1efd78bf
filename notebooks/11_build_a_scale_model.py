# %% [markdown]
# # 11 · Build a scale model
#
# | | |
# |---|---|
# | **After this lesson you can** | say what a video model is trained on and how, train one of its parts yourself and read its curves, write the loss that the transformer learns from, and tell what a reported figure is worth |
# | **Time** | 60 minutes; the cells run in about one, plus four minutes of training, or as long as you set |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | before the pipeline: where its three files come from |

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
# In a moment you will train a VAE from random numbers, for three minutes, on this computer. **What will it get right
# first: colours, the place of things, or edges?** And **will it copy pictures that it has never seen as well as those it
# was trained on?**

# %%
import wan_tutorial as wan

MODEL = "mini"  # the model that this lesson takes apart
pipe = wan.load(MODEL)

# %% [markdown]
# ## Look: a world small enough to know
#
# The real Wan learned from videos of everything, and nobody can say what is in them. The scale model learned from *the
# fireside*: a program that draws a video from a description. Choose one, and read a caption that it would be given:

# %%
from wan_tutorial.show import explore_scene

fireside = explore_scene(subject="lantern", colour="blue", setting="shore", relation="beside", seed=3)

# %% [markdown]
# Every word that a prompt may use is a menu here. For training, a random generator turns the menus. (Some of these scenes
# are spoiled on purpose, as you will see.)

# %%
from wan_tutorial.mini.world import draw_scene, render
from wan_tutorial.show import plot_pictures, show_figure

scenes = [draw_scene(seed) for seed in range(14)]
frames = render(scenes, frames=1)[:, 0]
labels = [f"{scene.subject}, {scene.setting}" for scene in scenes]
show_figure(plot_pictures(list(frames), labels=labels, alt="Fourteen random scenes of the fireside"))

# %% [markdown]
# **One scene, many captions.** Each time a scene is met in training, it gets a new caption: other words, another order,
# some things left unsaid.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.mini.captions import write_caption

for seed in range(4):
    print("-", write_caption(scenes[0], seed))

# %% [markdown]
# **One caption, many scenes.** Some *traits* are never named: the shape of a handle, its tint, how the logs lie, the exact
# place. Here they are rolled anew, and everything that has a name stays. Only a reference image can ask for one of these
# (lesson 08).

# %%
import random
from dataclasses import replace
from wan_tutorial.mini.world import TRAITS

dice = random.Random(0)
twins = [replace(scenes[0], **{trait: dice.random() for trait in TRAITS}, defect=None) for _ in range(6)]
show_figure(
    plot_pictures(
        list(render(twins, frames=1)[:, 0]),
        labels=["the same caption"] * 6,
        columns=6,
        alt="Six scenes that share all that can be named",
    )
)

# %% [markdown]
# **Defects.** A negative prompt can only steer away from what the model has met under that name. So some videos are
# spoiled, and most captions of these say how.

# %%
from wan_tutorial.mini.world import DEFECTS
from wan_tutorial.show import plot_strips

rows = {str(defect or "as it should be"): replace(twins[0], defect=defect) for defect in (None, *DEFECTS)}
videos = dict(zip(rows, render(list(rows.values())), strict=True))
show_figure(plot_strips(videos, fps=16, columns=6, alt="One scene without and with each of four defects"))

# %% [markdown]
# **Held out.** Has a model learned what *blue* means and what *desert* means, or only remembered videos? A tenth of the
# combinations of subject, colour and setting is never shown in training:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.mini.world import COLOURS, HELD_OUT, SETTINGS, SUBJECTS
from wan_tutorial.show import show_table

table = [
    [
        subject,
        *(", ".join(c for c in COLOURS if (subject, c, place) in HELD_OUT) or "-" for place in SETTINGS),
    ]
    for subject in SUBJECTS
]
show_table(["held out", *SETTINGS], table)
print(len(HELD_OUT), "of", len(SUBJECTS) * len(COLOURS) * len(SETTINGS), "combinations")

# %% [markdown]
# ## Look: who learned from what, for how long
#
# Four networks, one after the other, each frozen before the next begins:
#
# 1. The **text encoder** reads captions alone: it fills in hidden words and says which scene a caption tells.
# 2. The **VAE** sees videos alone: it copies them through the narrow latent. First single frames, then all thirteen.
# 3. The **transformer** never sees a pixel: it learns from finished latents and encoded captions. Two parts come after it,
#    with its main blocks frozen: the **VACE blocks** learn beside references, first frames and masks, and the **LoRA** for
#    four steps learns from what the guided model paints in twenty.
# 4. The **judge**, a small CLIP, learns apart from the others, and only to mark them.
#
# Their curves, as they were written down in training; the minutes of VACE blocks and LoRA stand in the
# [card](../assets/mini/README.md). Two units are new. *Cross-entropy* says how surprised a model is by the right word: 0 nats
# if it was sure of it, and one nat more for each 2.7 times that its chance was smaller. The *contrastive loss* is the same for
# the right text among many, for each picture, and the right picture for each text.

# %%
from wan_tutorial.machine.weights import bundled_folder
from wan_tutorial.mini.curves import CURVES, plot_curves, read_curve

curves, rows = bundled_folder() / "curves", []
for stage, (column, title, unit) in CURVES.items():
    minutes, values = read_curve(curves / f"{stage}.csv", column)
    ends = f"{values[0]:.2f}", f"{values[-20:].mean():.2f}"
    rows.append([title, f"{minutes[0]:.0f}", f"{minutes[-1]:.0f}", *ends, unit])
told = "; ".join("{}, minutes {} to {}: from {} to {}".format(*row) for row in rows)
show_figure(plot_curves(curves), alt=f"Learning curves. {told}.")

# %%
from wan_tutorial.mini.data import TRAINING_POOLS

columns = ["stage", "from minute", "to minute", "at the start of the curve", "at its end", "what is counted"]
show_table(columns, rows)
print("rendered for training:", sum(count for _, count in TRAINING_POOLS), "videos of 13 frames")

# %% [markdown]
# **Notice** the first three: quick at first, then slower and slower. A VAE's first minutes learn colours and places; detail
# takes the rest. *VAE decoder alone* seems to gain nothing: from crop to crop its decibels jump by more than it gained on new
# videos, and its last 35 minutes were paid for contrast, which PSNR does not see. A curve that begins much later than 0 goes
# on from an earlier training; where it rises first, its steps had been made large again, to find a better place than the one
# they had settled in.
#
# The transformer's trembles, because each step draws other noise and other amounts of it, and the amount decides more about
# the error than the training does: further down you will see that. And it climbs, because what is counted changed three
# times (the minutes are the card's). From 288 on, a mistake counts more where such a subject usually is, as long as noise
# hides it; and most samples were nearly all noise by then. From 389 on, half of a second error is added: what a reader of
# latents misreads of the scene. From 531 on, motion counts twice as much. So the last number is no squared error, and no sign
# of a worse model: the plain error of these weights is measured below, under *what the transformer learns from*. Losses are
# compared only where they are taken the same way.
#
# ## Look: train a VAE
#
# Now you. The network is the scale model's own VAE with random weights. The pictures are single frames of 96 scenes; eight
# scenes that it never trains on are its exam, and you will watch four of these.

# %%
from wan_tutorial.mini.data import to_bytes

school = to_bytes(render([draw_scene(seed) for seed in range(96)], frames=1)).numpy()  # (96, 1, 96, 96, 3)
exam = render([draw_scene(900_000 + seed) for seed in (35, 1, 5, 6, 13, 19, 24, 30)], frames=1)[:, 0]
print("to learn from:", school.shape, "for the exam:", tuple(exam.shape))

# %%
import shutil
import torch
from pathlib import Path
from wan_tutorial.mini.train_vae import SHAPE
from wan_tutorial.show import count_parameters
from wan_tutorial.vae import new_autoencoder

torch.manual_seed(0)
network, folder = new_autoencoder(SHAPE), Path("outputs/lesson_11")
shutil.rmtree(folder, ignore_errors=True)  # begin anew
print(f"{count_parameters(network):,} random numbers")

# %% [markdown]
# The training itself is this function, with the parts that trained the shipped VAE. At each step: draw eight crops, let the
# network copy them, measure the error, and move every weight a little to where the error is less. (`orthogonal` names the
# convolutions: *Muon* moves them, which evens out each step, so that no direction of a matrix is left behind. *AdamW* moves
# all else. `narrow` is the next cell's question, and `averaging` you will build yourself.)


# %%
import numpy as np
from wan_tutorial.mini.loop import Budget, train
from wan_tutorial.mini.train_vae import draw_crops, vae_loss


def study(network, pictures, minutes, *, folder, narrow, watch=None):
    """Train a VAE on crops of pictures (N, 1, h, w, 3), uint8; returns it with averaged weights."""
    dice = np.random.default_rng(0)
    kernels = [weight for weight in network.parameters() if weight.ndim >= 4 and weight.shape[0] >= 8]

    def loss_of(step):
        crops = draw_crops(pictures, batch=8, frames=1, side=48, dice=dice)
        loss, squared, _ = vae_loss(network, crops, narrow=narrow)
        return loss, {"psnr": 10 * np.log10(4 / squared.item())}

    budget = Budget(minutes, learning_rate=4e-3, warmup_steps=20, averaging=0.99)
    return train(network, loss_of, budget=budget, folder=folder, orthogonal=kernels, watch=watch)


# %% [markdown]
# Some processors compute 16-bit numbers at once and some must go round about. Which is this one?

# %%
import time

crops = draw_crops(school, batch=8, frames=1, side=48, dice=np.random.default_rng(0))


def seconds_of(narrow):
    """How long one step takes, in 16 bits or in 32."""
    started = time.perf_counter()
    vae_loss(network, crops, narrow=narrow)[0].backward()
    return time.perf_counter() - started


took = [(seconds_of(True), seconds_of(False)) for _ in range(3)][-1]  # the first ones warm up
narrow = took[0] < took[1]
print("faster here:", "bfloat16" if narrow else "float32")

# %%
from wan_tutorial.vae import decode_full_length, encode_full_length


@torch.no_grad()
def copies(network, pictures):
    """What a VAE makes of pictures (N, h, w, 3)."""
    video = pictures.permute(0, 3, 1, 2)[:, :, None]  # (N, 3, 1, h, w)
    latent = encode_full_length(network, video).chunk(2, dim=1)[0]
    return decode_full_length(network, latent)[:, :, 0].permute(0, 2, 3, 1).clamp(-1, 1)


# %% [markdown]
# **Watch the pictures on the right, and compare with your prediction.** The square button of your notebook program
# (*interrupt the kernel*) ends the training early, and what was learned is kept. To go on later, raise `MINUTES` and run
# this cell again.

# %%
from functools import partial
from wan_tutorial.show import TrainingBoard, training_minutes

MINUTES = 3  # in all; more is better
minutes = training_minutes(MINUTES)
with TrainingBoard(
    exam[:4], partial(copies, pictures=exam[:4]), figure="psnr", y="PSNR of crops (dB)"
) as board:
    mine = study(network, school, minutes, folder=folder, narrow=narrow, watch=board)

# %% [markdown]
# Slide back through what you saw:

# %%
from wan_tutorial.show import explore_pictures

book = explore_pictures(
    board.pages, name="time", alt="The VAE's copies as it learned", printed=board.plot_history()
)

# %% [markdown]
# How far did it come? The exam's eight pictures, copied by a card of their mean colour, by an untrained network, by yours,
# and by the VAE that ships with the kit, which had longer and learned from videos:


# %%
def decibels(pictures, made):
    """Peak signal-to-noise ratio, as in lesson 06."""
    return 10 * np.log10(4 / (made - pictures).square().mean().item())


made = {"rendered": exam, "yours": copies(mine, exam), "shipped": copies(pipe.vae.model, exam)}
results = {
    "one mean colour": decibels(exam, exam.mean(dim=(0, 1, 2)).expand_as(exam)),
    "untrained": decibels(exam, copies(new_autoencoder(SHAPE), exam)),
    **{name: decibels(exam, pictures) for name, pictures in made.items() if name != "rendered"},
}

# %%
from wan_tutorial.show import plot_bars

show_figure(plot_bars(results, y="PSNR of the exam (dB)", title=f"After {board.minutes[-1]:.1f} minutes"))
shown = [picture for row in made.values() for picture in row[:6]]
labels = [name for name in made for _ in range(6)]
show_figure(
    plot_pictures(shown, labels=labels, columns=6, alt="Rendered pictures, your copies, the shipped VAE's")
)

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# Brightness first, then broad colours in their places, then shapes; edges last. It is the order in which they reduce the
# error: a wrong sky costs thousands of pixels, a hilt a handful. Bright sparks on dark come earlier than a hilt: they are
# small, but far from what stands behind them. Denoising showed the same order in lesson 03, for another reason.
#
# </details>
#
# ## Build: what the transformer learns from
#
# The VAE learns to copy. The transformer learns to answer one question: *in this mix of a clean latent and noise, which
# way lies the noise?* Write its loss: mix (lesson 02), ask the model, compare with noise - clean; the mean of the squares.


# %%
def flow_loss(model, clean, noise, t):
    """model(latent, t) answers a velocity -> one number, a tensor"""
    ...


# %%
from wan_tutorial.exercises.training import check_drop_captions, check_flow_loss, check_moving_average

flow_loss = check_flow_loss(flow_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def flow_loss(model, clean, noise, t):
#     noisy = (1 - t) * clean + t * noise
#     return (model(noisy, t) - (noise - clean)).square().mean()
# ```
#
# </details>
#
# With it you can examine the shipped transformer: eight videos that it has not seen, each with its own caption, with none,
# and with its neighbour's. A model that answers nothing at all would have a loss of about 2.

# %%
tests = [replace(draw_scene(900_100 + seed), defect=None) for seed in range(8)]
clean = torch.cat([pipe.encode(video) for video in render(tests)])  # (8, 16, 4, 12, 12)
noise = torch.cat([pipe.draw_noise(seed=seed) for seed in range(8)])
words = torch.stack([pipe.encode_text(write_caption(scene, 0)).positive for scene in tests])
empty = pipe.encode_text("").positive  # (64, 256)
readings = {"its caption": words, "no caption": empty.expand_as(words), "a wrong one": words.roll(1, dims=0)}


# %%
@torch.no_grad()
def examine(rows, t):
    """The shipped transformer's loss at time t, when it reads these rows."""

    def transformer(latent, t):
        return pipe.transformer(latent, torch.full((len(latent),), 1000 * t), rows)

    return flow_loss(transformer, clean, noise, t).item()


times = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
losses = {name: (times, [examine(rows, t) for t in times]) for name, rows in readings.items()}

# %%
from wan_tutorial.show import plot_lines

show_figure(
    plot_lines(losses, x="time t: share of noise", y="flow-matching loss", title="How well it knows the way")
)

# %%
gain = [
    1 - right / none for right, none in zip(losses["its caption"][1], losses["no caption"][1], strict=True)
]
for t, part in zip(times, gain, strict=True):
    print(f"t = {t}: the caption takes {part:5.1%} off the loss")

# %% [markdown]
# **Notice** the ends. Near t = 0 hardly any noise is in the mix, so it is hard to see. Near t = 1 the video is hard to see,
# and the loss says how much of it a guess can know. If the captions are read at all, it shows where the picture itself
# does not yet tell what it is: compare the three lines there.
#
# ## Build: leave out captions
#
# Guidance (lesson 03) needs the model's answer to an *empty* prompt. It must have met some: so in training one caption in
# ten is replaced by the empty one. Each caption has rolled a number between 0 and 1; drop those below the share.


# %%
def drop_captions(text, empty, rolls, share):
    """text (B, L, D), empty (L, D), rolls (B,) -> text with some captions replaced"""
    ...


# %%
drop_captions = check_drop_captions(drop_captions)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def drop_captions(text, empty, rolls, share):
#     return torch.where((rolls < share)[:, None, None], empty, text)
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
rolls = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
many = drop_captions(torch.ones(10_000, 1, 1), torch.zeros(1, 1), rolls, 0.1)
print("dropped:", int((many == 0).sum()), "of 10,000")

# %% [markdown]
# ## Build: average the weights
#
# The last weights of a training tremble: each step follows eight crops and no others. What is kept, of the VAE above and
# of every shipped file, is a running average: `keep` of the average, and the rest of the weights of now.


# %%
def moving_average(average, weights, keep):
    """-> the average after one more step"""
    ...


# %%
moving_average = check_moving_average(moving_average)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def moving_average(average, weights, keep):
#     return keep * average + (1 - keep) * weights
# ```
#
# </details>
#
# A toy: a thousand weights on their way from 0 to 1, each step with a tremble of its own. How far from 1 are they, and
# how far are two averages of them?

# %%
generator, ways = torch.Generator().manual_seed(0), {"the weights": 0.0, "keep 0.9": 0.9, "keep 0.99": 0.99}
errors, kept = {name: [] for name in ways}, {name: torch.zeros(1000) for name in ways}
for step in range(1, 601):
    weights = 1 - 0.98**step + 0.3 * torch.randn(1000, generator=generator)
    for name, keep in ways.items():
        kept[name] = moving_average(kept[name], weights, keep)
        errors[name].append((kept[name] - 1).square().mean().sqrt().item())

# %%
lines = {name: (range(1, 601, 30), values[::30]) for name, values in errors.items()}
show_figure(plot_lines(lines, x="step", y="distance from 1", title="Trembling weights and their averages"))

# %% [markdown]
# **Notice** the price: a long memory is calm in the end and late at the beginning.
#
# ## Explain
#
# **Why is the VAE frozen before the transformer begins? Would both not be better if they learned together?**
#
# <details><summary>Answer</summary>
#
# The transformer learns the way through a space of latents. If the VAE went on learning, the space would move under it.
# Worse: both would be paid for making latents that are easy to predict, and the easiest are all alike. So the space is
# made first, with latents of mean 0 and spread 1, and every training video is encoded once and never again, which also
# saves most of the time.
#
# </details>
#
# ## Look: how it was measured
#
# Is it good? Looking at a few videos deceives: one remembers the best. So a *judge* reads every video and says what is in
# it. It is a small CLIP that was trained on renders and captions, and frozen before any generated video was marked. Can it
# be trusted? First it must read renders, where we know the truth.

# %%
from wan_tutorial.mini.judge import load_judge

judge, renders = load_judge(), render(tests)
seen = judge.read(renders)
rows = [
    [
        name,
        *(
            f"{value} ({'right' if value == getattr(scene, name) else getattr(scene, name)})"
            for value, scene in zip(seen[name], tests[:4], strict=False)
        ),
    ]
    for name in ("subject", "colour", "setting")
]
show_table(["the judge says", *(f"video {i}" for i in range(4))], rows)

# %% [markdown]
# Now its verdicts on generated videos, from the evaluation file, which holds for the files with the hashes it names. In
# brackets stands the 95 % interval: where the true share may well lie, given how few were looked at. No caption asks for a
# defect, so the subject is held against renders without one. The camera's moves are measured by optical flow, not judged.

# %%
from wan_tutorial.show import read_evaluation, show_obedience

show_obedience(pipe, ("subject_without_defects", "relation", "colour", "setting", "light", "camera"))

# %%
figures = read_evaluation(pipe)
if figures:
    rows = {
        "the judge on renders": figures["judge_on_renders"]["subject_without_defects"],
        "generated": figures["captions_train"]["subject"],
        "the judge on held-out renders": figures["judge_on_held_out_combinations"]["subject_without_defects"],
        "generated, held out": figures["captions_held_out"]["subject"],
    }
    spread = {n: (row["value"] - row["low"], row["high"] - row["value"]) for n, row in rows.items()}
    values = {name: row["value"] for name, row in rows.items()}
    show_figure(
        plot_bars(values, y="share with the right subject", title="Is the subject there?", spread=spread)
    )
    ceiling, generated, held_ceiling, held_out = values.values()
    print(
        f"points below the judge: {100 * (ceiling - generated):.1f}, held out {100 * (held_ceiling - held_out):.1f}"
    )

# %% [markdown]
# **Read it like this:** the judge's own errors are the ceiling. Of held-out combinations the judge itself reads fewer
# right, as it never met them either: hold the held-out bar against that one, not against 1. One in six is chance, as
# there are six subjects; a model that only remembers would come near it on the held-out combinations. In these files the
# generated videos stay 5.5 points below the judge on the ordinary combinations, and 10 on the held-out ones, where the
# intervals hardly touch. So it composes, but falls short of what its judge can read, and perhaps further where it has to
# compose: so few videos cannot tell 5.5 from 10. The [card](../assets/mini/README.md) has all figures and what is behind
# them.
#
# ## Break it
#
# A network of 2.6 million numbers and one single picture. **Predict:** how will it do on that picture, and on the exam? (The
# next cell trains for a third of your minutes, without pictures.)

# %%
lonely = new_autoencoder(SHAPE)
shutil.rmtree(folder / "one", ignore_errors=True)
lonely = study(lonely, school[:1], minutes / 3, folder=folder / "one", narrow=narrow)
taught = torch.from_numpy(school[:, 0]).float() / 127.5 - 1

# %%
marks = {
    "one picture, on that picture": decibels(taught[:1], copies(lonely, taught[:1])),
    "one picture, on the exam": decibels(exam, copies(lonely, exam)),
    "96 pictures, on these": decibels(taught, copies(mine, taught)),
    "96 pictures, on the exam": decibels(exam, copies(mine, exam)),
}
show_figure(plot_bars(marks, y="PSNR (dB)", title="Taught on one picture, and on 96 for three times as long"))

# %%
pictures = [taught[0], copies(lonely, taught[:1])[0], *exam[:2], *copies(lonely, exam[:2])]
labels = ["its one picture", "its copy", "exam", "exam", "copy of the first", "copy of the second"]
show_figure(
    plot_pictures(pictures, labels=labels, columns=6, alt="A VAE taught on one picture, asked to copy others")
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It learns its picture, and sees it everywhere: new pictures come out in its colours. Loss on the training data says
# nothing about that, and falls as nicely as ever. Hence pictures for the exam, held-out combinations, and a judge.
#
# </details>
#
# ## On the real model
#
# Wan2.1 was made in the same order: a VAE, a text encoder taken ready from others, then the transformer by flow
# matching on latents. Its videos and its training code are not public, and none of it was repeated here. But its size
# can be compared. One look of a transformer takes about two operations for each weight and token, and in self-attention
# four for each pair of tokens, channel and block (`evaluation_flops` in `wan_tutorial/machine/plan.py`):
# self-attention's part is little here, half of it there. (The VACE blocks rest where nothing is given, and are left
# out.)

# %%
from wan_tutorial.machine.plan import block_parameters, evaluation_flops
from wan_tutorial.machine.weights import find_model

real, shape = find_model("wan2.1-vace-14b-q3"), pipe.transformer.shape
small = replace(pipe.entry, shape=(shape.dim, shape.ffn_dim, shape.layers, shape.vace_blocks))
for entry in (small, real):
    weights, tokens = block_parameters(entry, vace=False), entry.size.tokens
    work = evaluation_flops(entry, tokens)
    print(f"{entry.name}: {weights:,} weights in its blocks, {tokens:,} tokens in a video,")
    print(f"  {work:.1e} operations, {1 - 2 * weights * tokens / work:.0%} of them in self-attention")

# %%
started = time.perf_counter()
examine(words, 0.5)
seconds = (time.perf_counter() - started) / len(words)
times_more = evaluation_flops(real, real.size.tokens) / evaluation_flops(small, small.size.tokens)
print(
    f"here one look at one video takes {seconds:.3f} s; the real model's, {times_more:,.0f} times as much, would"
)
print(f"take {seconds * times_more / 3600:,.1f} hours on this machine, and a training step three times that")

# %% [markdown]
# Hence small models for learning about models: an idea that needs ten short trainings, like the one above, can be tried in
# an afternoon. What a small one cannot tell is whether it still holds when everything is a thousand times larger.
#
# To train the whole scale model, `python -m wan_tutorial.mini.train --help` names its stages; each can be interrupted and
# goes on where it was.
#
# ## Recap
#
# - Text encoder, VAE, transformer: trained one after the other, each frozen before the next; a judge apart from all.
# - The transformer's loss: mix clean and noise, ask for noise - clean, square the error. Captions are sometimes dropped, so
#   that guidance has something to start from; the weights that ship are averages.
# - Training loss says how well a model knows its lessons. Held-out scenes, a judge that is itself examined, and intervals
#   say what it has learned.
#
# **1. A training loss falls and falls. What else must you see before you believe that the model gets better?**
#
# <details><summary>Answer</summary>
#
# The same measure on data that it never trained on. The lonely VAE's loss fell beautifully.
#
# </details>
#
# **2. Somebody trains without dropping captions. Training looks fine. What goes wrong later?**
#
# <details><summary>Answer</summary>
#
# Guidance. The model has never met an empty prompt, so its answer to one, the point that guidance starts from, means
# nothing.
#
# </details>
#
# **3. A model shows the right colour in 12 of 16 videos, another in 13 of 16. Which is better?**
#
# <details><summary>Answer</summary>
#
# Nobody can tell: the intervals reach from about 50 to 90 % and from 57 to 93 %. A difference of one video in sixteen needs
# hundreds of videos to be seen.
#
# </details>
#
# **Next:** [12 · Open a ComfyUI workflow](12_open_a_comfyui_workflow.ipynb)
