# %% [markdown]
# # 09 · Run the full pipeline
#
# | | |
# |---|---|
# | **After this lesson you can** | say before a download what a run will take of memory and time, fetch the real files or use the ones you have, run the workflow's two videos on a GPU, go on after a lost session, and know what to turn down when it does not fit |
# | **Time** | 45 minutes; the cells run in about one without a GPU, in about 35 minutes on a Colab T4 (predicted), the download not counted |
# | **Needs** | without a GPU: 2 GB of free memory, 0 MB to download. The real model: 15 GB to download, and a free Colab T4 or an NVIDIA GPU of 12 GB, or of 8 GB beside 16 GB of RAM, in which the blocks wait (predicted) |
# | **Where it stands** | the whole pipeline, now with the 17-billion-parameter model of the original workflow |

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
# **Read this first.** The people who wrote this lesson had neither the real weights nor a T4 at hand. The code that reads
# and runs the real files has been proved on files of their exact layout, at full size, and against two other programs on
# small weights; every minute and gigabyte below is a prediction, and says so. Nobody has verified it on the real weights
# yet. If you run it, you may be the first to know: the cells measure.
#
# ## Predict
#
# A free Colab session has a GPU of 15 GB, 12.7 GB of RAM, and may end at any moment. The files together have 15 GB. **Which
# will be the fullest moment: reading the prompt, the steps, or decoding? And if the session ends at step 19 of 20, what is
# lost?** Write both down.
#
# ## Look: the plan
#
# Three runs. The first only shows that everything works. The other two are the videos of the original workflow: one with 20
# steps and guidance; one with the CausVid LoRA, which needs neither, and a reference image.

# %%
from dataclasses import replace

import wan_tutorial as wan
from wan_tutorial.machine.hardware import read_machine, this_card
from wan_tutorial.machine.plan import CARDS, Run, plan_run
from wan_tutorial.machine.weights import find_model

MODEL = "wan2.1-vace-14b-q3"
FOLDER = None  # a models folder that you have, such as ComfyUI's models/; None: the kit's own
FIRST = Run(wan.VideoSize(832, 480, 25), steps=4, guidance=1.0, lora=True)
GUIDED = Run(wan.VideoSize(832, 480, 33), steps=20, guidance=6.0)
REFERENCE = Run(wan.VideoSize(832, 480, 33), steps=4, guidance=1.0, lora=True, reference=True)

# %% [markdown]
# The plan is made for this machine's GPU. Where there is none it is made for a T4, and the cells below run on a stand-in.

# %%
entry, card = find_model(MODEL), this_card(read_machine())
REAL = card.vram > 0 and plan_run(entry, card, FIRST).fits  # set to False to stay without the download
card = card if card.vram else CARDS["T4"]
print(plan_run(entry, card, FIRST))

# %%
from wan_tutorial.show import plot_timelines, show_figure

runs = {"to see that it works": FIRST, "the first video": GUIDED, "the second video": REFERENCE}
plans = {name: plan_run(entry, card, run) for name, run in runs.items()}
show_figure(plot_timelines(plans, title=f"{MODEL} on {card.name}, predicted"))

# %% [markdown]
# **Notice** that nearly all of it is orange, in minutes and, on a T4, in gigabytes too: the steps are the fullest moment.
# Reading the prompt and decoding are thin lines at the two ends; pink, in the second video, is the reference image. And no
# stage stands on another: the text encoder leaves before the transformer comes, and the transformer before the decoder.
#
# Every number is a formula that you can read, in `wan_tutorial/machine/plan.py`; the T4's speed is taken from runs that people
# reported. The next two exercises are two of the formulas.
#
# ## Build: the minutes
#
# One look of the transformer at this video is so many operations, and a card does so many in a second. Each step is one
# look, or two: one for each prompt, where guidance compares them. How many minutes do the steps take?


# %%
def step_minutes(work, steps, guidance, speed):
    """Operations for one look, steps, guidance, operations a second -> minutes"""
    ...


# %%
from wan_tutorial.exercises.running import check_run_fits, check_step_minutes

step_minutes = check_step_minutes(step_minutes)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def step_minutes(work, steps, guidance, speed):
#     looks = steps if guidance == 1 else 2 * steps
#     return looks * work / speed / 60
# ```
#
# </details>
#
# How does it grow with the length of the video? Your formula, on a T4:

# %%
from wan_tutorial.machine.plan import evaluation_flops
from wan_tutorial.show import plot_lines

lengths = list(range(9, 82, 8))
works = [evaluation_flops(entry, wan.VideoSize(832, 480, frames).tokens) for frames in lengths]
speed = CARDS["T4"].speed
lines = {
    "20 steps, guidance 6": [step_minutes(work, 20, 6.0, speed) for work in works],
    "4 steps, guidance 1": [step_minutes(work, 4, 1.0, speed) for work in works],
}
lines = {name: (lengths, minutes) for name, minutes in lines.items()}
show_figure(plot_lines(lines, x="frames of 832 x 480", y="minutes", title="The steps on a T4, predicted"))

# %% [markdown]
# **Notice** that the upper line bends: twice the frames take more than twice the time, as in self-attention every token
# looks at every other (lesson 04).
#
# ## Build: does it fit?
#
# Given what each stage takes of RAM and of VRAM, and what the machine has of both: does the run fit?


# %%
def run_fits(stages, ram, vram):
    """[(RAM, VRAM) of each stage], RAM, VRAM, all in GB -> True or False"""
    ...


# %%
run_fits = check_run_fits(run_fits)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def run_fits(stages, ram, vram):
#     return all(in_ram <= ram and in_vram <= vram for in_ram, in_vram in stages)
# ```
#
# </details>
#
# Your verdict on the three runs, beside the plan's (which keeps a little of each memory back):

# %%
for name, plan in plans.items():
    stages = [(stage.ram / 1e9, stage.vram / 1e9) for stage in plan.stages]
    verdict = run_fits(stages, 0.95 * card.ram / 1e9, 0.95 * card.vram / 1e9)
    print(f"{name:21} you: {verdict}, the plan: {plan.fits}")

# %% [markdown]
# ## Look: what to turn down
#
# Suppose you want all that this model was trained for: 1280 x 720 pixels, 81 frames, 20 steps, guidance 6, and on a T4. Turn
# one thing at a time and see which number moves. Where the weights and the tokens do not fit together, the plan lets the
# blocks wait in the computer's own RAM, and fetches each when its turn comes.

# %%
whole = Run(wan.VideoSize(1280, 720, 81), steps=20, guidance=6.0)
turned = {
    "all of it": (entry, whole),
    "33 frames": (entry, replace(whole, size=wan.VideoSize(1280, 720, 33))),
    "832 x 480 pixels": (entry, replace(whole, size=wan.VideoSize(832, 480, 81))),
    "guidance 1": (entry, replace(whole, guidance=1.0)),
    "4 steps and guidance 1 (a LoRA)": (entry, replace(whole, steps=4, guidance=1.0, lora=True)),
    "the 1.3-billion model": (find_model("wan2.1-vace-1.3b"), whole),
}

# %%
from wan_tutorial.show import show_table

rows = []
for name, (model, run) in turned.items():
    plan = plan_run(model, CARDS["T4"], run)
    gigabytes = [f"{stage.vram / 1e9:.1f}" for stage in plan.stages]
    verdict = "fits" if plan.fits else plan.problem
    rows.append([name, *gigabytes, plan.choice("blocks"), f"{plan.minutes:.0f}", verdict])
stages = [f"{stage.name}, GB" for stage in plan.stages]
show_table(["on a T4, predicted", *stages, "blocks", "minutes", "verdict"], rows)

# %% [markdown]
# **Notice** which knobs move memory, which time, and which both. Steps and guidance move time alone: the transformer looks at
# one prompt after the other. Frames and pixels move both, and time by more than they themselves grow. You see it in the
# column *blocks*: with 81 frames of 1280 x 720 the weights no longer fit beside the tokens and wait in RAM, so the card is
# full either way. The decoder cares for the size of a frame, and hardly for how many there are. And a run of many hours
# counts as one that does not fit, as a free session will not last that long.
#
# What fits need not look good. The 1.3-billion model was trained at 832 x 480 alone: at 1280 x 720 it would run, and nobody
# promises a picture.
#
# ## The files
#
# What has to come, from where, and whether it is here. The kit looks in the places where ComfyUI keeps such files, and in
# the cache of huggingface_hub, before it asks for anything.

# %%
from wan_tutorial.machine.weights import EXTRAS, find_file

(LORA,) = EXTRAS["causvid-v1"]
rows = []
for file in (*entry.files.values(), LORA):
    here = "yes" if find_file(file, FOLDER) else "no"
    size = f"{'' if file.exact else 'about '}{file.bytes / 1e9:.2f} GB"
    rows.append([file.name, file.repository, size, file.licence, here])
show_table(["file", "from huggingface.co", "size", "licence", "here"], rows)

# %%
total = sum(file.bytes for file in (*entry.files.values(), LORA))
for speed in (5, 25, 100):
    print(f"{total / 1e9:.1f} GB at {speed:3} MB a second: {total / 1e6 / speed / 60:3.0f} minutes")

# %% [markdown]
# The next cell downloads what is missing, if `REAL` is true. Before it begins it looks at the disk; interrupted, it goes on
# where it stopped; what came is compared with the hub's checksum. Where a hub or a file is gone, it says what to do by hand.
#
# Without a GPU the cell writes a *stand-in* instead: four small files with the real names, in the real formats. The
# transformer has all 1,331 tensors of the real one under their own names, each of its type, only narrow. Six of its 40
# blocks are the scale model's, and the other 34 add nothing. So it is read, staged and run exactly as the real one, and
# paints what the scale model paints.

# %%
from wan_tutorial.machine.download import download
from wan_tutorial.mini.stand_in import write_stand_in

if REAL:
    download(MODEL, FOLDER)
    download("causvid-v1", FOLDER)
else:
    FOLDER = "outputs/lesson_09_models"
    entry = write_stand_in(FOLDER)
    FIRST, REFERENCE = replace(FIRST, size=entry.size), replace(REFERENCE, size=entry.size)
    GUIDED = replace(GUIDED, size=entry.size, guidance=entry.guidance)

# %%
pipe = wan.load(entry, folder=FOLDER)
for role, path in pipe.files.items():
    print(f"{role:13} {path.name:45} {path.stat().st_size / 1e6:8,.1f} MB")

# %%
print(wan.inspect_file(pipe.files["transformer"]).page(tensors=0))

# %% [markdown]
# **Notice** the counts: 489 packed matrices, 836 tensors in F32, six in F16, as the converters' rules give them for the real
# file. Nothing has been read yet beyond the headers: a heavy model's parts come in when their stage begins.
#
# ## Look: the first run
#
# The prompts are those of the workflow, and so is the LoRA's strength, 0.3. (The stand-in's LoRA is the scale model's, which
# was trained for strength 1.)

# %%
PROMPT = (
    "A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising "
    "in a dark background, volumetric lighting, detailed textures"
)
NEGATIVE = "bad quality, blurry, messy, chaotic"
SEED = 6
LORAS = [(find_file(LORA, FOLDER), 0.3 if REAL else 1.0)]

# %% [markdown]
# A video that is lost with the session is no video. With the real model on Colab, the next cell asks for your Google Drive;
# otherwise results go to a folder beside this lesson. (The model's 15 GB stay on Colab's own disk: a free Drive has no room
# for them.)

# %%
if REAL and "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount("/content/drive")

from wan_tutorial.show import results_folder

SAVE = results_folder()

# %%
result = pipe.generate(
    PROMPT,
    negative=NEGATIVE,
    seed=SEED,
    size=FIRST.size,
    steps=FIRST.steps,
    guidance=FIRST.guidance,
    loras=LORAS,
    progress=REAL,
)
wan.show_video(result.video, fps=result.fps, times=1 if REAL else 4, alt="The video of the first run")

# %%
from wan_tutorial.machine.hardware import spoken_bytes

for use in result.stages:
    memory = spoken_bytes(use.gpu_memory_peak or use.memory_peak)
    print(f"{use.name:8} {use.seconds:6.1f} s, {memory}")

# %% [markdown]
# Four steps and no guidance: how good that is depends on what the LoRA was taught. Before you judge a setting by one video:
# another seed is another video (lesson 10).
#
# Where the stand-in ran, one question is left: did the real way of running change anything? The scale model keeps all its
# parts in memory and looks at both prompts at once; here each part came and went, and the prompts took turns, through 48
# blocks of which most do nothing. So the two are compared with guidance, which needs both prompts:

# %%
if not REAL:
    mini, settings = wan.load("mini"), vars(result.settings) | {"guidance": entry.guidance}
    bare = pipe.generate(PROMPT, negative=NEGATIVE, seed=SEED, size=FIRST.size, progress=False, **settings)
    small = mini.generate(PROMPT, negative=NEGATIVE, seed=SEED, progress=False, **settings)
    print("without the LoRA, largest difference:", f"{(bare.latent - small.latent).abs().max():.1e}")

# %% [markdown]
# Nothing, or the last digits of a float: how a run is spread over the memory changes what it costs, not what it paints.
#
# ## Look: a session that ends
#
# Every answer of the transformer is kept in a folder as soon as it is there. Here is a run by its stages, as in lesson 00,
# which stops after two of four steps, as if the session had ended. (A small video, so that it takes little time on a GPU, too.)

# %%
from wan_tutorial.sampling.keep import KeptRun

SHORT = wan.VideoSize(480, 480, 5) if REAL else entry.size
known = {"prompt": PROMPT, "seed": SEED, "size": str(SHORT), "steps": 4}
text = pipe.encode_text(PROMPT, NEGATIVE)
pipe.free("text_encoder")
noise = pipe.draw_noise(SHORT, seed=SEED)

# %%
kept = KeptRun(SAVE / "lesson_09_run", known)
for step in pipe.denoise(noise, text, steps=4, guidance=1.0, keep=kept):
    print(f"step {step.index}, sigma {step.sigma:.2f} -> {step.sigma_next:.2f}")
    if step.index == 1:
        break  # the session ends here
print("kept:", *(path.name for path in kept.answers))

# %% [markdown]
# **Predict:** a new session asks for the same run again. From which step will it have to compute?

# %%
import time

began, again = time.perf_counter(), KeptRun(SAVE / "lesson_09_run", known)
for step in pipe.denoise(noise, text, steps=4, guidance=1.0, keep=again):
    print(f"step {step.index}: {time.perf_counter() - began:.2f} s")
    began = time.perf_counter()
gone_on = step.latent

# %%
# NBVAL_CHECK_OUTPUT
*_, whole = pipe.denoise(noise, text, steps=4, guidance=1.0)
print("against a run without a break:", (whole.latent - gone_on).abs().max().item())
again.clear()
pipe.free("transformer")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# The two kept steps cost nothing, the other two are computed, and the result is the same to the last bit. Kept are the
# transformer's *answers*, not the latent: a solver such as uni_pc remembers earlier answers, so with the latent alone it
# could not go on as it would have.
#
# </details>
#
# `generate` does all of this by itself where it is given a folder: `keep=...`. Asked again, it goes on; finished, it empties
# the folder.
#
# ## Look: the first video
#
# The workflow's own settings: 20 steps, uni_pc, guidance 6, shift 8. **On a T4 this is the long one**; the plan above says how
# long. (The stand-in runs with the scale model's own guidance and shift.)

# %%
guided = pipe.generate(
    PROMPT,
    negative=NEGATIVE,
    seed=SEED,
    size=GUIDED.size,
    steps=GUIDED.steps,
    guidance=GUIDED.guidance,
    keep=SAVE / "lesson_09_first",
    progress=REAL,
)
print(wan.write_video(guided.video, SAVE / "lesson_09_bonfire.mp4", fps=guided.fps).name)

# %% [markdown]
# ## Look: the second video
#
# The same prompts, the LoRA, and a reference image. Its things should come over: how the fire stands, what the sword looks
# like (lesson 08). There is one stage more, *context*: the VAE encodes the picture, before the transformer comes.

# %%
from PIL import Image

from wan_tutorial.machine.weights import assets_folder
from wan_tutorial.show import show_picture

reference = Image.open(assets_folder() / "bonfire.png").convert("RGB")
referred = pipe.generate(
    PROMPT,
    negative=NEGATIVE,
    seed=SEED,
    size=REFERENCE.size,
    steps=REFERENCE.steps,
    guidance=REFERENCE.guidance,
    loras=LORAS,
    reference=reference,
    keep=SAVE / "lesson_09_second",
    progress=REAL,
)
print(wan.write_video(referred.video, SAVE / "lesson_09_bonfire_lora.mp4", fps=referred.fps).name)

# %%
import numpy as np

from wan_tutorial.show import plot_strips

show_picture(np.asarray(reference), alt="The reference image: a sword in a bonfire", width=192)
shown = {f"20 steps, guidance {GUIDED.guidance:g}": guided.video}
shown["4 steps, LoRA and reference"] = referred.video
show_figure(plot_strips(shown, fps=guided.fps, alt="Two videos of the workflow's prompts, made here"))

# %% [markdown]
# On the stand-in these are the scale model's pictures: judge the way, not the beauty. On the real weights they are
# yours to judge first.
#
# The second is not quite the workflow's. ComfyUI would cut this square to 832 x 480, and pommel and logs with it. Here,
# at that size, all of it stands on white, as in Wan's own code; `fit="crop"` gives the workflow's. (The stand-in's
# video is square, as the picture is: nothing is cut or padded.) And on the real weights both videos have 33 frames, not
# 81.
#
# ## Look: predicted against measured
#
# The plan for the machine that ran, and what the cells measured on it. Where the real model ran, it is that one's; otherwise
# the scale model's own plan and a run of it in 100 steps, as the plan knows nothing of stand-ins.

# %%
from wan_tutorial.machine.hardware import plan_here
from wan_tutorial.show import show_forecast

if REAL:
    forecast, measured = plan_here(entry, GUIDED), guided
else:
    long_run = Run(mini.entry.size, 100, mini.entry.guidance)  # long enough to be timed
    forecast = plan_here(mini.entry, long_run)
    measured = mini.generate(PROMPT, negative=NEGATIVE, steps=long_run.steps, progress=False)
show_forecast(forecast, measured.stages)

# %% [markdown]
# The plan thinks of a machine that does nothing else. A dash stands where it predicts less than half a second: it knows of no
# start-up. Memory is that of the whole notebook, pictures and the stand-in included; the plan counts one process that does
# nothing but paint. If the steps are off by two, it is a good plan; if by ten, other programs are at work on your machine, or the
# speed that the plan took for it is wrong. Which of your numbers is furthest off, and which of these is it?
#
# ## Explain
#
# **Why does each part leave before the next one comes? And what would a T4 say if they stayed?**

# %%
needs = {stage.name: stage.vram / 1e9 for stage in plans["the second video"].stages}
print(", ".join(f"{name} {size:.1f} GB" for name, size in needs.items()))
others = sum(find_model(MODEL).files[role].bytes for role in ("text_encoder", "vae")) / 1e9
together = needs["steps"] + others
room = 0.95 * card.vram / 1e9
print(
    f"the steps, with text encoder and VAE still there: {together:.1f} GB; {card.name} has room for {room:.1f}"
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The stages need each other's results, not each other's weights: embeddings are a table of 512 rows, a latent is a few
# MB. So the fullest stage decides, not that stage plus everybody else's weights: with these the T4 would run out of
# memory in its steps. The price is that a second video has to read the text encoder again. Programs that keep
# everything "loaded" on a small card do not fit, or move weights back and forth at every step.
#
# </details>
#
# ## Break it
#
# A download that stopped half-way, under its final name. It is the commonest fault of all. **Predict:** when will it be
# noticed: when the file is opened, at the first step, or never, as a bad picture?

# %%
# NBVAL_CHECK_OUTPUT
from pathlib import Path

torn = Path("outputs/lesson_09-half.gguf")
stand_in = Path("outputs/lesson_09_models")
source = write_stand_in(stand_in).files["transformer"]
torn.write_bytes((stand_in / source.places[0] / source.name).read_bytes()[:10_000_000])
try:
    wan.load("mini", transformer=torn)
except wan.WanError as error:
    print(str(error).replace("; ", ";\n"))

# %% [markdown]
# And a folder that keeps another run. It would go on, and paint neither this video nor that one:

# %%
# NBVAL_CHECK_OUTPUT
KeptRun("outputs/lesson_09_other", {"prompt": "a sword", "seed": 7})
try:
    KeptRun("outputs/lesson_09_other", {"prompt": "a sword", "seed": 8})
except wan.WanError as error:
    print(error)

# %% [markdown]
# <details><summary>Answer</summary>
#
# When it is opened: the header says how long each tensor is and where it begins, and the file ends before that. A program
# that reads only when it needs a tensor would have found out in the middle of the first step, minutes later.
#
# </details>
#
# ## On the real model
#
# This lesson is the real model: run it where `show_machine()` says that it fits, and every cell above is it. What to know:
#
# - **Colab:** *Runtime, Change runtime type, T4*. The session has no bfloat16, so the transformer computes in float16; what
#   must not is kept in float32, and each step is checked for numbers that ran over. That this is enough for the real weights
#   has not been verified.
# - **Your own card:** set `FOLDER` to your ComfyUI's `models` folder, and nothing is downloaded that is there already.
# - **It does not fit:** the plan names the nearest that does. Fewer frames first, then fewer pixels, then the smaller model.
# - **It ran out of memory all the same:** the error names the stage. Restart the session, as other cells may hold memory, and
#   take four frames less.
# - **Four steps look blurred or tremble:** ComfyUI's own template for VACE says to try the LoRA between 0.3 and 0.7. WanGP,
#   another program, uses 0.8 to 1 for 4 steps, and for 0.3 twelve steps. Change the strength in `LORAS`, and nothing else.
# - **Settings from ComfyUI** mean the same here, sampler and noise levels included (lessons 03 and 12).

# %%
if REAL:
    for name, made, run in (("first", guided, GUIDED), ("second", referred, REFERENCE)):
        took = sum(use.seconds for use in made.stages) / 60
        print(f"the {name} video took {took:.1f} minutes, predicted {plan_here(entry, run).minutes:.1f}")
else:
    print("This was the stand-in; on the real model this cell sets measured minutes against predicted ones.")

# %% [markdown]
# ## Recap
#
# - A run is planned before it is paid for: memory is the fullest stage, time is looks times work over speed.
# - Frames and pixels cost memory and time; steps and guidance only time.
# - What was computed is kept: an interrupted download and an interrupted run both go on.
#
# **1. Your video fits with guidance 1. Will it with guidance 6?**
#
# <details><summary>Answer</summary>
#
# In memory, yes: the two prompts are asked one after the other. It takes twice as long, and a run of many hours the
# plan counts as one that does not fit: compare *guidance 1* and *all of it* in the table above.
#
# </details>
#
# **2. A run needs 11 GB during its steps, 8 GB for the text and 7 GB for decoding. How large a card does it need?**
#
# <details><summary>Answer</summary>
#
# A little more than 11 GB: the stages take turns.
#
# </details>
#
# **3. A run was interrupted at step 12 of 20. You change the seed and ask for it again with the same folder. What happens?**
#
# <details><summary>Answer</summary>
#
# It refuses: the kept answers belong to another run, and mixed with new noise they would paint nothing. Name another folder,
# or go back to the seed.
#
# </details>
#
# **Next:** [10 · Experiment](10_experiment.ipynb)
