# %% [markdown]
# # 10 · Experiment
#
# | | |
# |---|---|
# | **After this lesson you can** | change one thing and say what it did, tell an effect from luck, run a grid of settings on one machine or several, repeat any run bit for bit, and hand in one page with all of it |
# | **Time** | 45 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no account, 0 MB to download |
# | **Where it stands** | over the whole pipeline: every setting of the lessons before is here under your hand |

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
# A friend lowers the guidance, sees that the video has become calmer, and says: *lower guidance makes calmer videos.* On the
# way a new seed was rolled, too. **What does your friend know now?** Write it down before you go on.
#
# <details><summary>Answer</summary>
#
# Nothing. Two things were changed, and another seed is another video. An experiment changes one thing; and as a seed is
# luck, it is done with several seeds. The lab below remembers every run, so that you can always say what was changed.
#
# </details>
#
# ## Look: the prompt lab

# %%
import wan_tutorial as wan
from wan_tutorial.machine.download import download

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
START = {}
if MODEL != "mini":  # small, and with the LoRA for few steps, so that a grid takes minutes, not hours
    START = {"size": wan.VideoSize(480, 480, 33), "loras": [(download("causvid-v1")[0], 0.3)]}
lab = wan.explore(model=MODEL, steps=6, folder="outputs/experiments", **START)

# %% [markdown]
# On the left is every setting of the pipeline; only what is valid can be chosen. The line under **Run** says what the
# plan expects, before anything runs. Press **Run**, and watch the clean guess become a video. **Cancel** stops within
# one step. Then change *one* setting, run again, and press **Side by side**, **Difference** and **Steps**. Every run is
# kept in a folder: **History** shows it again, also tomorrow.
#
# | where | with | |
# |---|---|---|
# | JupyterLab 4.6 | ipywidgets 8.1 | tried in Chromium, and tested each time the kit is |
# | Notebook 7.6 | ipywidgets 8.1 | tried in Chromium |
# | Colab | ipywidgets 7.7 | not tried there; the panel's own tests pass under ipywidgets 7.7.1 |
# | VS Code | | not tried; it uses nothing but plain widgets |
#
# What a button does, code can do. The next cell sets the guidance, presses Run and waits, twice, and shows the same panel
# again:

# %%
lab.parts["guidance"].value = 4.0
first = lab.run()
lab.parts["guidance"].value = 1.0
second = lab.run()
lab.show()

# %%
# NBVAL_CHECK_OUTPUT
print("What is different:", "; ".join(first.settings.unlike(second.settings)))

# %%
from wan_tutorial.show import plot_strips, show_figure

runs = {f"guidance {run.settings.guidance:g}": run.frames() for run in (first, second)}
show_figure(plot_strips(runs, fps=first.fps, alt="Two runs that differ in their guidance alone"))

# %% [markdown]
# One noise, one prompt, one change: here, whatever differs comes from guidance. But is it so for *every* noise?
#
# ## Build: is the comparison fair?


# %%
def is_fair(before, after):
    """Two lists of settings in the same order -> True if exactly one setting differs"""
    ...


# %%
from wan_tutorial.exercises.comparing import check_is_fair, check_standard_error

is_fair = check_is_fair(is_fair)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def is_fair(before, after):
#     return sum(one != other for one, other in zip(before, after)) == 1
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
one, other = first.settings.to_json(), second.settings.to_json()
print("fair:", is_fair(list(one.values()), list(other.values())))
print("and with a new seed as well:", is_fair(list(one.values()), list((other | {"seed": 9}).values())))

# %% [markdown]
# ## Look: a grid
#
# **Predict:** will the videos below differ more from row to row (guidance) or from column to column (seed)?
#
# Two settings, each with its values: **Grid** in the lab, or this cell. What was made before is taken from the history, so a
# grid that you interrupt goes on where it stopped.

# %%
from dataclasses import replace

from wan_tutorial.experiments import Experiments

bench, axes = lab.bench, {"seed": [1, 2, 3, 4], "guidance": [1.0, 4.0]}
settings = replace(first.settings, steps=4)
made = {(run.settings.seed, run.settings.guidance): run for run in bench.grid(settings, axes)}

# %%
from wan_tutorial.show import plot_pictures

order = [(seed, guidance) for guidance in axes["guidance"] for seed in axes["seed"]]
shown = [made[place].frames()[6] for place in order]
labels = [f"seed {seed}, guidance {guidance:g}" for seed, guidance in order]
show_figure(plot_pictures(shown, labels=labels, alt="Four seeds at guidance 1 and at guidance 4", columns=4))

# %% [markdown]
# Your prediction, in numbers: how far a video is from its neighbour, as the mean difference of their pixels.

# %%
import numpy as np


def apart(one, other):
    """Two places of the grid -> how far their videos are from each other, in parts of 255"""
    return np.abs(made[one].frames().astype(float) - made[other].frames()).mean()


rows = [apart((seed, 1.0), (seed, 4.0)) for seed in axes["seed"]]
columns = [apart((seed, g), (seed + 1, g)) for seed in axes["seed"][:-1] for g in axes["guidance"]]
print(f"another guidance: {np.mean(rows):.1f} of 255; another seed: {np.mean(columns):.1f}")

# %% [markdown]
# ## Look: an effect, measured
#
# Let *motion* be the mean difference between neighbouring frames. For each seed there are two videos from the same noise, and
# so one difference. Seeds differ much from each other, but that cancels out within each pair.

# %%
import torch


def motion(frames):
    """frames (f, h, w, 3), uint8 -> how much changes from frame to frame, in parts of 255"""
    return np.abs(np.diff(frames.astype(float), axis=0)).mean()


moved = {place: motion(run.frames()) for place, run in made.items()}
pairs = torch.tensor([moved[seed, 4.0] - moved[seed, 1.0] for seed in axes["seed"]])
print("guidance 4 minus guidance 1, seed by seed:", [round(value, 2) for value in pairs.tolist()])

# %%
from wan_tutorial.show import plot_lines

lines = {
    f"seed {seed}": (axes["guidance"], [moved[seed, g] for g in axes["guidance"]]) for seed in axes["seed"]
}
show_figure(plot_lines(lines, x="guidance", y="motion (of 255)", title="One line for each noise"))

# %% [markdown]
# ## Build: how sure is a mean?
#
# The mean of a few differences is itself a matter of luck. How far off it may be is called its *standard error*: the standard
# deviation of the differences, divided by the square root of their number.


# %%
def standard_error(differences):
    """differences (n,) -> how far their mean may be off by chance, as a number"""
    ...


# %%
standard_error = check_standard_error(standard_error)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def standard_error(differences):
#     return (differences.std() / len(differences) ** 0.5).item()
# ```
#
# </details>

# %%
mean, doubt = pairs.mean().item(), standard_error(pairs)
print(f"motion at guidance 4 minus guidance 1: {mean:.2f}, give or take {doubt:.2f}")
print("more than luck" if abs(mean) > 3 * doubt else "may be luck: more seeds would tell")

# %% [markdown]
# So your friend was right, here, at four steps, and did not know it. Or is it contrast? Guidance 4 also makes pictures
# harder, and harder pictures differ more even where nothing moves faster. Divide *motion* by how far a video's pixels lie
# apart, `frames.std()`, and ask again. **Predict:** what will be left of the difference?

# %%
for_its_contrast = {place: moved[place] / run.frames().std() for place, run in made.items()}
for name, value in {"motion": moved, "motion for its contrast": for_its_contrast}.items():
    low, high = (torch.tensor([value[seed, g] for seed in axes["seed"]]) for g in axes["guidance"])
    more, doubted = (high - low).mean() / low.mean(), standard_error(high - low) / low.mean()
    print(f"{name}: {more:.0%} more at guidance 4, give or take {doubted:.0%}")

# %% [markdown]
# <details><summary>What did you observe?</summary>
#
# The difference becomes smaller and stays: a part of it was contrast, and a part is not. What that part is, this number
# cannot say: a flame that flickers counts like one that rises. And all of it holds for one prompt, one number of steps and
# the scale model.
#
# </details>
#
# ## Explain
#
# **Why compare the same seed at both settings, and not four seeds at one with four others at the other?**
#
# <details><summary>Answer</summary>
#
# What a noise does to both of its videos, such as a large fire or a small one, cancels in their difference; with other seeds
# on the two sides it stays in the result as chance. How much that is worth depends on what is measured: the next cell
# computes both. Where the two numbers are alike, the noise had little to say in the matter.
#
# </details>

# %%
left, right = (torch.tensor([moved[seed, g] for seed in axes["seed"]]) for g in axes["guidance"])
apart = (left.var() / len(left) + right.var() / len(right)).sqrt().item()
print(f"give or take with the same seeds: {doubt:.2f}; with different ones: {apart:.2f}")

# %% [markdown]
# ## Look: what a record holds

# %%
# NBVAL_CHECK_OUTPUT
print(*sorted(path.name for path in first.folder.iterdir()), sep="\n")

# %% [markdown]
# A plain folder: `frames.png` has every pixel, `steps.png` the clean guesses, `run.json` the settings, checksums of the model's
# files, versions, seconds and memory. That is enough to make the run again. The same bits must come out:

# %%
# NBVAL_CHECK_OUTPUT
again = bench.repeat(made[1, 1.0])
print("the same, bit for bit:", again.checksum == made[1, 1.0].checksum)

# %% [markdown]
# ## Look: more than one worker
#
# A grid takes any *executor* of Python's `concurrent.futures`. Here two threads (they take turns, as a video uses all cores);
# with Dask's `distributed` (`pip install distributed`) it is a cluster: `Client("scheduler:8786").get_executor()`.
# The workers paint, this notebook writes, and the results are the same.

# %%
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(2) as workers:
    cells = list(bench.grid(settings, {"shift": [3.0, 8.0]}, executor=workers))  # as they are finished
for run in sorted(cells, key=lambda run: run.settings.shift):
    print(f"shift {run.settings.shift:g}: {sum(run.seconds.values()):.1f} s")

# %% [markdown]
# ## Look: one page to hand in

# %%
from wan_tutorial.experiments import RunSettings
from wan_tutorial.show.runs import write_page

page = write_page([first, second], "outputs/page.html", title="Guidance", words=RunSettings.unlike)
print(page, f"{page.stat().st_size / 1e3:.0f} kB")

# %% [markdown]
# The page carries its videos, pictures and settings with it: mail it, or open it in any browser. **Save a page** in the lab's
# history does the same with the runs you choose.
#
# ## Break it
#
# **Predict:** what will the kit say if somebody changes the seed in an old `run.json`, and then repeats the run?

# %%
import json
import shutil

shutil.rmtree("outputs/forged", ignore_errors=True)
about = shutil.copytree(second.folder, f"outputs/forged/{second.id}") + "/run.json"
told = json.load(open(about))
told["settings"]["seed"] += 1
json.dump(told, open(about, "w"))

# %%
forgers = Experiments("outputs/forged", bench.pipes)
try:
    forgers.repeat(forgers.history()[0])
except wan.WanError as error:
    print(error)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The video's checksum is in the record, and the repeated video has another. A record whose settings do not make its video is
# found out.
#
# </details>
#
# ## On the real model
#
# Set `MODEL = "wan2.1-vace-14b-q3"` on a machine that fits, after `wan-tutorial download wan2.1-vace-14b-q3`, and every cell
# above runs unchanged, with the smaller video and the LoRA of `START`. A grid costs the sum of its plans, so ask them first:

# %%
from wan_tutorial.machine.plan import find_card, plan_run
from wan_tutorial.machine.weights import find_model

grid, small = settings.spread(axes), wan.VideoSize(480, 480, 33)
real, card = find_model("wan2.1-vace-14b-q3"), find_card("T4")
runs = [replace(cell.run, size=small, lora=True) for cell in grid]  # as START has it
minutes = [plan_run(real, card, run).minutes for run in runs]
print(f"predicted for a T4: {min(minutes):.1f} minutes at guidance 1, {max(minutes):.1f} at guidance 4,")
print(f"{sum(minutes):.0f} for the grid; here, with {MODEL}, {sum(bench.plan(c).minutes for c in grid):.1f}")

# %% [markdown]
# What is not measured here: whether the effects you found hold for the real model. The scale model knows one fireside; a
# setting may act on it otherwise than on a model that knows the world.
#
# ## Recap
#
# - One change at a time, the same seeds on both sides, several seeds: then a difference means something.
# - A mean has a standard error; it halves with four times as many seeds.
# - A record that holds settings, seed, checksums and versions can be made again, bit for bit; anything less is an anecdote.
#
# **1. You find a prompt that makes "better" videos with seed 7. What do you do before you tell others?**
#
# <details><summary>Answer</summary>
#
# Run it, and the old prompt, with several other seeds, say in words or numbers what "better" is, and compare pair by pair.
#
# </details>
#
# **2. The mean difference over four seeds is 0.5, give or take 0.4. How many seeds would make that "give or take 0.1"?**
#
# <details><summary>Answer</summary>
#
# Four times less doubt needs sixteen times as many: 64.
#
# </details>
#
# **3. A run is repeated on another computer, and the last bits differ. Is one of the two wrong?**
#
# <details><summary>Answer</summary>
#
# No. Sums of many numbers depend on the order in which they are added, and that depends on the processor and the number of
# threads. Bit for bit holds on the same machine; the record says on which it was made.
#
# </details>
#
# **Next:** [11 · Build a scale model](11_build_a_scale_model.ipynb)
