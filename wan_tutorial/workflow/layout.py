"""Where nodes lie on the page: their sizes, a place for each node of a file without places, and a new page.

In: a workflow whose nodes have no places, or the settings of a run. Out: a `Workflow` laid out as people lay it out by
hand: models, prompts, sampling, video, from left to right. Measures are those of ComfyUI's page, in its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wan_tutorial.errors import WanError
from wan_tutorial.workflow.graph import Link, Node, Workflow, in_order
from wan_tutorial.workflow.nodes import POWER_LORA, node_types

if TYPE_CHECKING:
    from wan_tutorial.pipeline import Result

TITLE, ROW, WIDGET, WIDTH, GAP = 30, 20, 24, 320, 40
_BLUE = ("#1d3a66", "#2a5391")
_GREEN, _RED = ("#232", "#353"), ("#322", "#533")  # as ComfyUI has them
_GROUP = "#3f789e"
_SAMPLERS = (
    "euler",
    "heun",
    "dpmpp_2m",
    "uni_pc",
    "uni_pc_bh2",
)  # ours that ComfyUI has under the same names
_SCHEDULERS = ("simple", "normal", "sgm_uniform", "beta")


def widget_rows(node: Node) -> list[tuple[str, Any]]:
    """What stands on a node's widget rows: name and value."""
    if node.type == POWER_LORA:
        return [("", value) for value in node.values.values()]
    if not node.known:
        return list(node.values.items())
    rows = []
    for widget in node.known.widgets:
        rows.append((widget.name, node.values.get(widget.name, widget.default)))
        if widget.then and widget.then[0] in node.values and widget.kind == "INT":
            rows.append((widget.then[0], node.values[widget.then[0]]))
    return rows


def natural_size(node: Node) -> tuple[float, float]:
    """The size ComfyUI's page would give a node."""
    rows, sockets = widget_rows(node), max(len(node.takes), len(node.gives))
    height = ROW * sockets + 6 + (WIDGET * len(rows) + 8 if rows else 0)
    if node.type == POWER_LORA:
        height += 2 * WIDGET  # the switch for all, the button
    if node.type in ("CLIPTextEncode", "Note", "MarkdownNote"):
        return 400.0, float(max(height, 170))
    tall = {"LoadImage": 260, "SaveVideo": 240, "PreviewImage": 240}.get(node.type, 0)
    return float(WIDTH), float(height + tall)


def arrange(workflow: Workflow) -> None:
    """Give every node a place: a column after all that feed it, one below the other."""
    columns: dict[str, int] = {}
    bottoms: dict[int, float] = {}
    for name in in_order(workflow.nodes):
        node = workflow.nodes[name]
        columns[name] = 1 + max((columns[link.source] for link in node.links.values()), default=-1)
        node.size = natural_size(node)
        top = bottoms.get(columns[name], 0.0)
        node.position = (columns[name] * (400.0 + 2 * GAP), top)
        bottoms[columns[name]] = top + node.size[1] + TITLE + GAP


def workflow_of(
    result: Result,
    *,
    loras: Sequence[tuple[str, float]] = (),
    reference: str | None = None,
    model: str | None = None,
) -> Workflow:
    """The workflow that makes a result again in ComfyUI: same prompts, seed, size and settings.

    `loras`, if not those of the run, and `reference` are file names; `model` names another entry of the catalogue,
    whose files are to stand in the loaders.
    """
    from wan_tutorial.machine.weights import find_model

    files = {role: file.name for role, file in find_model(model or result.model).files.items()}
    settings, size, loras = result.settings, result.size, loras or result.loras
    if settings.sampler not in _SAMPLERS or settings.scheduler not in _SCHEDULERS:
        raise WanError(f"ComfyUI has no sampler {settings.sampler!r} with the scheduler {settings.scheduler!r}: it has "
                       f"{', '.join(_SAMPLERS)} with {', '.join(_SCHEDULERS)}.")  # fmt: skip
    page = _Page()
    gguf = files["transformer"].endswith(".gguf")
    unet = page.add(
        "UnetLoaderGGUF" if gguf else "UNETLoader", (0, 0, 400), {"unet_name": files["transformer"]}
    )
    clip_values = {"clip_name": files["text_encoder"], "type": "wan", "device": "default"}
    clip = page.add("CLIPLoader", (0, 130, 400), clip_values)
    vae = page.add("VAELoader", (0, 340, 400), {"vae_name": files["vae"]})
    page.group("Models", (-20, -80, 440, 520))
    network, words, x = (unet, 0), (clip, 0), 500
    if loras:
        rows = {f"lora_{i}": {"on": True, "lora": name, "strength": strength, "strengthTwo": None}
                for i, (name, strength) in enumerate(loras, 1)}  # fmt: skip
        power = page.add(POWER_LORA, (x, 0, 460), rows, {"model": network, "clip": words}, colours=_BLUE)
        page.group("LoRA", (x - 20, -80, 500, 520))
        network, words, x = (power, 0), (power, 1), x + 560
    title = "CLIP Text Encode ({} Prompt)"
    fed = {"clip": words}
    yes = page.add(  # low enough that the model's wire passes above it, and not through its sockets
        "CLIPTextEncode", (x, 80, 400, 140), {"text": result.prompt}, fed, title.format("Positive"), _GREEN
    )
    no = page.add(
        "CLIPTextEncode", (x, 280, 400, 140), {"text": result.negative}, fed, title.format("Negative"), _RED
    )
    page.group("Prompt", (x - 20, -80, 440, 520))
    taken = {"positive": (yes, 0), "negative": (no, 0), "vae": (vae, 0)}
    if reference:
        place = (x, 560, 400, 350)
        taken["reference_image"] = (page.add("LoadImage", place, {"image": reference, "upload": "image"}), 0)
        page.group("Reference image", (x - 20, 480, 440, 450), "#8A8")
    x += 500
    shift = page.add("ModelSamplingSD3", (x, 0), {"shift": settings.shift}, {"model": network})
    numbers = {
        "width": size.width,
        "height": size.height,
        "length": size.frames,
        "batch_size": 1,
        "strength": 1.0,
    }
    vace = page.add("WanVaceToVideo", (x, 100), numbers, taken)
    sampling = {
        "seed": result.seed,
        "control_after_generate": "fixed",
        "steps": settings.steps,
        "cfg": settings.guidance,
    }
    sampling |= {
        "sampler_name": settings.sampler,
        "scheduler": settings.scheduler,
        "denoise": settings.denoise,
    }
    fed = {"model": (shift, 0), "positive": (vace, 0), "negative": (vace, 1), "latent_image": (vace, 2)}
    sampler = page.add("KSampler", (x + 400, 0), sampling, fed)
    page.group("Sampling", (x - 20, -80, 760, 520))
    cut = {"samples": (sampler, 0), "trim_amount": (vace, 3)}
    left = x + 110  # room for the group's title beside the wires that come in from above
    trim = page.add("TrimVideoLatent", (left, 560, 280), {"trim_amount": 0}, cut)
    pixels = page.add("VAEDecode", (left, 680, 280), {}, {"samples": (trim, 0), "vae": (vae, 0)})
    video = page.add("CreateVideo", (left, 790, 280), {"fps": float(result.fps)}, {"images": (pixels, 0)})
    names = {"filename_prefix": "video/wan", "format": "auto", "codec": "auto"}
    page.add("SaveVideo", (x + 440, 560, 280, 350), names, {"video": (video, 0)})
    page.group("Video", (x - 20, 480, 760, 450))
    return Workflow(page.nodes, tuple(page.groups))


class _Page:
    """A page being filled."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.groups: list[tuple[str, tuple[float, float, float, float], str]] = []

    def add(
        self,
        kind: str,
        place: tuple[float, ...],
        values: dict[str, Any],
        links: dict[str, tuple[str, int]] | None = None,
        title: str = "",
        colours: tuple[str | None, str | None] = (None, None),
    ) -> str:
        """Put a node at a place, (x, y) with or without its width and height; returns its number."""
        known, name = node_types()[kind], str(len(self.nodes) + 1)
        node = Node(
            name, kind, title or known.title, values, {key: Link(*link) for key, link in (links or {}).items()},
            takes=dict(known.takes), gives=tuple(known.gives.items()),
            position=(place[0], place[1]), colour=colours[0], fill=colours[1],
        )  # fmt: skip
        own = natural_size(node)
        node.size = (place[2] if len(place) > 2 else own[0], place[3] if len(place) > 3 else own[1])
        self.nodes[name] = node
        return name

    def group(self, title: str, box: tuple[float, float, float, float], colour: str = _GROUP) -> None:
        self.groups.append((title, box, colour))
