# %% [markdown]
# # 12 · Open a ComfyUI workflow
#
# | | |
# |---|---|
# | **After this lesson you can** | read a ComfyUI workflow as a graph of tensors, run it node by node, say what each setting in the file means, and send your own settings back to ComfyUI |
# | **Time** | 30 minutes; the cells run in about one |
# | **Needs** | any computer with 2 GB of free memory; no GPU, no ComfyUI, 0 MB to download |
# | **Where it stands** | around the whole pipeline: the graph that its users see |
#
# People meet this model as boxes with wires between them. The boxes are the stages of this course; here you open the
# graph and look at what flows.

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
# In the graph below, **which boxes do no work with numbers at all, and which one takes most of the time?** Decide before you
# run it.
#
# ## Look: a file becomes a graph

# %%
import wan_tutorial as wan
from wan_tutorial.machine.weights import assets_folder
from wan_tutorial.workflow import read_workflow
from wan_tutorial.workflow.draw import show_workflow

MODEL = "mini"  # on a machine that fits: "wan2.1-vace-14b-q3"
GRAPH = assets_folder() / "workflows" / "t2v_workflow.json"
workflow = read_workflow(GRAPH)
show_workflow(workflow, title="Text to video")

# %% [markdown]
# Each box is a *node*, each wire a *link*, and the colour of a wire and of its sockets says what goes over it: violet a
# model, yellow a text encoder (which ComfyUI calls CLIP), red a VAE, orange embeddings, pink latents, blue pictures, green
# masks, turquoise a video, grey a number. An empty socket has no wire. The file was made for the real model, and ComfyUI
# opens it as it is.
#
# A file from somebody else deserves a look before it runs: does every node find its inputs, is anything unknown?

# %%
# NBVAL_CHECK_OUTPUT
print(len(workflow.nodes), "nodes,", len(workflow.check()), "things to say about them")
for node in workflow.plan():
    print(
        f"{node.type:18} from",
        ", ".join(workflow.nodes[link.source].type for link in node.links.values()) or "a file",
    )

# %% [markdown]
# That is the order in which they will run: each after all that feed it.
#
# ## Look: node by node
#
# The file asks for the real model's three files. The scale model has a counterpart for each, and says when it takes
# one's place.

# %%
pipe = wan.load(MODEL)
runs = []
for done in workflow.run(pipe=pipe):
    print(done)
    runs.append(done)

# %% [markdown]
# Your prediction:

# %%
whole, longest = sum(run.seconds for run in runs), max(runs, key=lambda run: run.seconds)
print(f"{longest.node.title} took {longest.seconds / whole:.0%} of {whole:.1f} s")

# %% [markdown]
# On the real model it is nearly all of it (predicted, at the end of this lesson).
#
# **Notice** the nodes that take no time. They do not compute: `ModelSamplingSD3` writes down a number for the sampler,
# and `WanVaceToVideo`, with nothing but words given, hands the prompts on and an empty latent of the right shape. (The
# loaders are quick here because `wan.load` had read the files. ComfyUI's own `WanVaceToVideo` encodes a grey video even
# when nothing is given, and the VACE blocks look at it; here they rest, as in `generate`.)
#
# Now the same graph again, with what each node gave: the shape at the start of each wire, the seconds in the titles.

# %%
show_workflow(workflow, runs, title="Text to video, after a run")

# %% [markdown]
# And as pictures: the latent, its three main directions as red, green and blue, and a frame of the video.

# %%
from wan_tutorial.show import plot_pictures, show_figure

names = ["KSampler", "VAE Decode"]
shown = [run.outputs[0].picture() for run in runs if run.node.title in names]
show_figure(plot_pictures(shown, labels=names, columns=4, alt="What two nodes made: a latent, a frame"))

# %% [markdown]
# The size became the scale model's; cfg 6 and shift 8 did not, and it paints best at 4 and 3 (its
# [training notes](../assets/mini/TRAINING.md)). Hence the hard flames.
#
# Is it the same as `generate`? Take the settings out of the graph and ask.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.workflow.run import video_of

positive, negative = (node.values["text"] for node in workflow.plan() if node.type == "CLIPTextEncode")
asked = {node.type: node.values for node in workflow.plan()}
sampler, shift = asked["KSampler"], asked["ModelSamplingSD3"]["shift"]
settings = {"seed": sampler["seed"], "steps": sampler["steps"], "guidance": sampler["cfg"], "shift": shift}
settings["size"] = next(run for run in runs if run.node.type == "KSampler").outputs[0].value.size
result = pipe.generate(positive, negative=negative, **settings, progress=False)
print("largest difference:", (video_of(runs).frames - result.video).abs().max().item())

# %% [markdown]
# Zero. The graph and the five calls of lesson 00 are one thing, seen from two sides.
#
# ## Build: when may a node run?
#
# A graph engine is one question, asked of every node until all have run. Write it. `feeders` are the names of the nodes
# that feed this one, `done` those that have run.


# %%
def can_run(name, feeders, done):
    """-> True if it is this node's turn"""
    ...


# %%
from wan_tutorial.exercises.graphs import check_can_run, check_ksampler_settings

can_run = check_can_run(can_run)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def can_run(name, feeders, done):
#     return name not in done and all(feeder in done for feeder in feeders)
# ```
#
# </details>
#
# With it the engine is three lines. Does it find an order that works?

# %%
feeds = {name: [link.source for link in node.links.values()] for name, node in workflow.nodes.items()}
done = []
while len(done) < len(feeds):
    done.append(next(name for name in feeds if can_run(name, feeds[name], done)))
print(" > ".join(workflow.nodes[name].type for name in done[:6]), "...")
fed = all(done.index(feeder) < done.index(name) for name in done for feeder in feeds[name])
print("each node after all that feed it:", fed)

# %% [markdown]
# It need not be the order from above: wherever two nodes do not wait for each other, either may go first.

# %% [markdown]
# ## Build: read the file yourself
#
# A workflow is text. In the page's own format a node's settings are a bare list, in an order that only the node's
# definition tells:

# %%
# NBVAL_CHECK_OUTPUT
import json

document = json.load(open(GRAPH))
entry = next(node for node in document["nodes"] if node["type"] == "KSampler")
print(entry["widgets_values"])

# %% [markdown]
# Take the seed, the steps, the cfg (our *guidance*) and the denoise out of such a list. Mind how many values there are.


# %%
def ksampler_settings(values):
    """-> seed, steps, cfg, denoise"""
    ...


# %%
# NBVAL_CHECK_OUTPUT
ksampler_settings = check_ksampler_settings(ksampler_settings)
print(ksampler_settings(entry["widgets_values"]))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def ksampler_settings(values):
#     return values[0], values[2], values[3], values[6]
# ```
#
# </details>
#
# The other format, for programs that talk to ComfyUI's server, names everything and keeps no places; a link is a node's name
# and the number of its output:

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.workflow.comfyui_json import to_api

for name, value in to_api(workflow)["8"]["inputs"].items():
    print(f"{name:13} {value}")

# %% [markdown]
# ## Explain
#
# **Why does the KSampler take its latent from `WanVaceToVideo`, when that latent is all zeros?** And **why does
# `TrimVideoLatent` stand in this graph, when it cuts nothing off?**
#
# <details><summary>Answer</summary>
#
# The sampler only needs the shape: at denoise 1 it starts from pure noise, drawn from the seed in that shape. With a
# reference image the latent has one more frame, put in front (lesson 08), and `trim_latent` says how many to cut off
# again before decoding. Without one it is 0; the node stays, so that one graph serves both.
#
# </details>
#
# ## Look: the second graph
#
# The same with a LoRA, in the blue node, and a reference image.

# %%
second = read_workflow(GRAPH.with_name("t2v_workflow_lora.json"))
show_workflow(second, title="Text to video with a LoRA and a reference image")

# %%
# NBVAL_CHECK_OUTPUT
for finding in second.check():
    print(finding)

# %% [markdown]
# **Notice** three differences in the settings: the LoRA's strength of 0.3, four steps, and a cfg of 1. Lesson 07 shows
# why they belong together, and lesson 03 what cfg 1 does to the negative prompt. A LoRA is made for one model and changes
# numbers in its matrices; the scale model has one of its own, which stands in for the file that the graph names. (It
# was trained for a strength of 1, so at the graph's 0.3 it does less than it could.)

# %%
from wan_tutorial.show import plot_strips

second_runs = []
for done in second.run(pipe=pipe):
    second_runs.append(done)
    print(done)
strips = {"the first graph": video_of(runs).frames, "the second": video_of(second_runs).frames}
show_figure(plot_strips(strips, fps=pipe.entry.fps, alt="The videos of the two graphs"))

# %% [markdown]
# ## Break it
#
# A wire to the wrong socket: `ModelSamplingSD3` gets the text encoder instead of the model. ComfyUI's page would not let you
# draw it, but a file can say it.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.workflow.graph import Link

broken = read_workflow(GRAPH)
broken.nodes["6"].links["model"] = Link("2", 0)
print(broken.check()[0])

# %% [markdown]
# And a file name that tries to leave its folder, as a file from a stranger might:

# %%
# NBVAL_CHECK_OUTPUT
broken = read_workflow(GRAPH)
broken.set("VAELoader", "vae_name", "../../../etc/passwd")
print(broken.check()[0])

# %% [markdown]
# No code in a workflow is ever executed here; a node type that this kit does not know is named and left alone.
#
# ## Back to ComfyUI
#
# Change the graph, or start from a result; either way a file comes out that ComfyUI opens with the same settings.

# %%
# NBVAL_CHECK_OUTPUT
from wan_tutorial.workflow.comfyui_json import write_workflow
from wan_tutorial.workflow.layout import workflow_of

mine = workflow_of(result, model="wan2.1-vace-14b-q3")
if pipe.entry.light:  # its 96x96x13 is nothing for the real model
    for name, value in (("width", 832), ("height", 480), ("length", 81)):
        mine.set("WanVaceToVideo", name, value)
print(write_workflow(mine, "outputs/lesson_12.json").name)
for node in to_api(mine).values():
    if node["class_type"] in ("WanVaceToVideo", "KSampler"):
        print({name: value for name, value in node["inputs"].items() if not isinstance(value, list)})

# %% [markdown]
# **Your own file:** put its name here, and run the cell. Nodes for text to video with Wan 2.1, VACE and LoRAs run; others are
# named with what they feed. A LoRA that is not here has to be switched off first.

# %%
MINE = None  # such as "my_graph.json"
if MINE:
    own = read_workflow(MINE)
    show_workflow(own)
    print(*own.check(), sep="\n")
    try:
        for done in own.run(pipe=pipe):
            print(done)
    except wan.WanError as error:
        print(error)

# %% [markdown]
# ## On the real model
#
# First `wan-tutorial download wan2.1-vace-14b-q3` and `wan-tutorial download causvid-v1`. Then set `MODEL` to
# `"wan2.1-vace-14b-q3"` on a machine that fits. Nothing stands in: the loaders take the files that the graph names, and the
# size is the graph's own. The printed seconds are the measurement; before it, a prediction for the first graph as it stands.
# The comparison with `generate` takes as long again. `workflow.set("WanVaceToVideo", "length", 33)`, in the cell that reads the
# file, makes both about a third:

# %%
from wan_tutorial.show import show_costs

show_costs(result.stages, pipe)

# %% [markdown]
# The prediction has not been checked on a real T4.
#
# ## Recap
#
# - A workflow is nodes, links and settings; running it is asking each node in an order in which its inputs are ready.
# - Most nodes only write something down; the KSampler and the VAE do the work.
# - In the page's format settings are a list whose order only the node's definition knows; the API format names them.
#
# **1. Two nodes in a file feed each other. What can a graph engine do?**
#
# <details><summary>Answer</summary>
#
# Nothing: neither's turn ever comes. This kit looks for circles when it reads a file and names the nodes in them.
#
# </details>
#
# **2. In the second graph you wire ModelSamplingSD3 to the Unet Loader again. What is lost?**
#
# <details><summary>Answer</summary>
#
# The LoRA: it travels on the model's wire. Four steps at cfg 1 then run without it.
#
# </details>
#
# **3. A colleague runs your workflow file with the same seed and gets another video. Name two reasons.**
#
# <details><summary>Answer</summary>
#
# Another model file under the same name (another quantisation, lesson 05), another size or length, so that the noise has
# another shape, or a seed that was set to change after each run: `randomize` in the file.
#
# </details>
#
# **Next:** the [front page](../README.md), and a question of your own.
