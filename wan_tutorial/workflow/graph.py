"""A workflow as data: nodes, the links between them, and what is right or wrong with them.

In: nodes from a file (`comfyui_json`) or from a result (`build`). Out: the order in which they run, and findings in
words. ComfyUI's own counterparts: `execution.py: validate_prompt` and the page's `graphToPrompt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from wan_tutorial.errors import WanError
from wan_tutorial.workflow.nodes import (
    PAGE_ONLY,
    POWER_LORA,
    PRIMITIVE,
    REROUTE,
    NodeType,
    Widget,
    node_types,
)

if TYPE_CHECKING:
    from wan_tutorial.workflow.run import NodeRun

RUNS, MUTED, BYPASSED = 0, 2, 4  # a node's `mode` in a file
SHOWN_TITLE = 60
NO_END = (
    "Nothing in this workflow makes a video here: it needs a KSampler, a VAE Decode and an output such as Save Video, "
    "all switched on."
)
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_MAKERS = (
    "CreateVideo",
    "VAEDecode",
    "TrimVideoLatent",
    "KSampler",
)  # what a run is for where there is no output


@dataclass(frozen=True)
class Link:
    """Where an input gets its value: output number `slot` of the node `source`."""

    source: str
    slot: int


@dataclass
class Node:
    """One node: its settings by name, the links into it by input name, and how it lies on the page."""

    id: str
    type: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    mode: int = RUNS
    takes: dict[str, str] = field(default_factory=dict)  # sockets by name; a known node's come from its type
    gives: tuple[tuple[str, str], ...] = ()  # outputs, in order: name and type
    position: tuple[float, float] = (0.0, 0.0)
    size: tuple[float, float] = (0.0, 0.0)
    colour: str | None = None  # of the title bar
    fill: str | None = None
    collapsed: bool = False

    @property
    def known(self) -> NodeType | None:
        return node_types().get(self.type)

    def __str__(self) -> str:
        shown = self.title if len(self.title) <= SHOWN_TITLE else f"{self.title[:SHOWN_TITLE]}..."
        return f"{shown!r} (node {self.id})"


@dataclass(frozen=True)
class Finding:
    """Something to say about a workflow: a problem stops the run, a note does not."""

    problem: bool
    node: str | None
    words: str

    def __str__(self) -> str:
        return f"{'problem' if self.problem else 'note':7}  {self.words}"


@dataclass
class Workflow:
    """A graph of nodes. `document` is the file it came from, kept whole so that nothing in it is lost."""

    nodes: dict[str, Node]
    groups: tuple[
        tuple[str, tuple[float, float, float, float], str], ...
    ] = ()  # title, (x, y, width, height), colour
    document: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None  # where the file lies: images are looked for there

    def __post_init__(self) -> None:
        check_links(self.nodes)
        in_order(self.nodes)

    # ------------------------------------------------------------------------------------- who feeds whom

    def source(self, node: Node, name: str) -> Link | None:
        """Where an input's value comes from in the end, through reroutes and bypassed nodes; None: from nowhere."""
        link = node.links.get(name)
        while link is not None:
            giver = self.nodes[link.source]
            if giver.mode == MUTED or (giver.mode == BYPASSED and not giver.gives):
                return None
            if giver.mode == BYPASSED:
                link = giver.links.get(_passes_on(giver, link.slot))
            elif giver.type == REROUTE:
                link = next(iter(giver.links.values()), None)
            else:
                return link
        return None

    def value(self, node: Node, name: str) -> Any:
        """A widget's value: the node's own, unless a PrimitiveNode is linked to it."""
        link = self.source(node, name)
        if link is not None and self.nodes[link.source].type == PRIMITIVE:
            return self.nodes[link.source].values.get("value")
        widget = node.known.widget(name) if node.known else None
        return node.values.get(name, widget.default if widget else None)

    def loras(self, node: Node) -> list[tuple[str, float]]:
        """The LoRAs that a node puts on a model, with their strengths; those switched off or at 0 left out."""
        return [(name, strength) for name, strength, _ in self._lora_rows(node) if strength]

    def clip_loras(self, node: Node) -> list[tuple[str, float]]:
        """The same for the text encoder, with their clip strengths."""
        return [(name, strength) for name, _, strength in self._lora_rows(node) if strength]

    def _lora_rows(self, node: Node) -> list[tuple[str, float, float]]:
        """Name, strength on the model and on the text encoder, which rgthree's node keeps equal where it shows one."""
        if node.type == POWER_LORA:
            on = [value for value in node.values.values() if is_lora_row(value) and value.get("on")]
            two = [row["strength"] if row.get("strengthTwo") is None else row["strengthTwo"] for row in on]
            rows = [(row["lora"], row["strength"], clip) for row, clip in zip(on, two, strict=True)]
        else:
            clip = self.value(node, "strength_clip") if node.type == "LoraLoader" else 0.0
            rows = [(self.value(node, "lora_name"), self.value(node, "strength_model"), clip)]
        return [row for row in rows if row[0] not in (None, "None")]

    def kind(self, link: Link) -> str:
        """The type of what a link carries, as its output says; "*", any, where a file does not tell."""
        gives = self.nodes[link.source].gives
        return gives[link.slot][1] if link.slot < len(gives) else "*"

    def feeds(self, node: Node) -> list[Node]:
        """The nodes that take something from this one."""
        return [
            other
            for other in self.nodes.values()
            if any(link.source == node.id for link in other.links.values())
        ]

    def plan(self) -> list[Node]:
        """The nodes that a run needs, in an order in which each finds its inputs ready."""
        needed: set[str] = set()
        waiting = [node.id for node in self.targets()]
        while waiting:
            name = waiting.pop()
            if name not in needed and self.nodes[name].type != PRIMITIVE:
                needed.add(name)
                waiting += self._sources(self.nodes[name])
        return [self.nodes[name] for name in in_order(self.nodes) if name in needed]

    def targets(self) -> list[Node]:
        """The nodes that a run is for: outputs; where none can run, the last node that makes a video."""
        complete: set[str] = set()  # known, and everything behind them known
        for name in in_order(self.nodes):
            node = self.nodes[name]
            if node.type == PRIMITIVE or (node.known and complete.issuperset(self._sources(node))):
                complete.add(name)
        alive = [node for node in self.nodes.values() if node.mode == RUNS and node.known]
        outputs = [node for node in alive if node.known and node.known.is_output]
        makers = [outputs, *([node for node in alive if node.type == kind] for kind in _MAKERS)]
        good = ([node for node in found if node.id in complete] for found in makers)
        return next(filter(None, [*good, *makers]), [])

    def _sources(self, node: Node) -> list[str]:
        return [link.source for name in node.links if (link := self.source(node, name)) is not None]

    # ----------------------------------------------------------------------------------- right and wrong

    def check(self) -> list[Finding]:
        """What stops this workflow from running here, and what one should know about it."""
        plan = self.plan()
        planned = {node.id for node in plan}
        findings = [] if plan else [Finding(True, None, NO_END)]
        for node in plan:
            findings += self._problems(node)
        for node in self.nodes.values():
            if node.id not in planned and node.type not in PAGE_ONLY:
                findings += self._left_out(node)
        return findings + [note for node in plan for note in self._notes(node)]

    def _problems(self, node: Node) -> Iterator[Finding]:
        if not node.known:
            fed = ", ".join(map(str, self.feeds(node))) or "the output"
            yield Finding(True, node.id, f"The node {node} is of the type {node.type!r}, which this kit does not know, "
                                         f"and it feeds {fed}: bypass it or replace it.")  # fmt: skip
            return
        for name, kind in node.known.takes.items():
            link = self.source(node, name)
            if link is None and name not in node.known.optional:
                yield Finding(
                    True, node.id, f"The input {name!r} of {node} has no link: connect a {kind} to it."
                )
            elif link is not None and name in node.known.unsupported:
                yield Finding(True, node.id, f"The input {name!r} of {node} is not supported here: bypass "
                                             f"{self.nodes[link.source]} or cut the link.")  # fmt: skip
            elif link is not None and (given := self._known_kind(link)) not in (kind, "*"):
                yield Finding(True, node.id, f"The input {name!r} of {node} takes {kind}, not the {given} of "
                                             f"{self.nodes[link.source]}.")  # fmt: skip
        for widget in node.known.widgets:
            link = self.source(node, widget.name)
            if link is None or self.nodes[link.source].type == PRIMITIVE:
                words = wrong_value(widget, self.value(node, widget.name))
                if words:
                    yield Finding(True, node.id, f"The setting {widget.name!r} of {node} {words}.")
                continue
            kind = {"COMBO": "STRING", "FILE": "STRING"}.get(widget.kind, widget.kind)
            given = self._known_kind(link)
            if given not in (kind, "*") and (given, kind) != ("INT", "FLOAT"):
                yield Finding(True, node.id, f"The setting {widget.name!r} of {node} takes {kind}, not the {given} of "
                                             f"{self.nodes[link.source]}.")  # fmt: skip
        yield from self._row_problems(node)

    def _row_problems(self, node: Node) -> Iterator[Finding]:
        for name, *strengths in self._lora_rows(node) if node.type == POWER_LORA else ():
            used = [strength for strength in strengths if strength]
            wrong = [wrong_name(name)] if used else []
            wrong += [wrong_value(Widget("", "FLOAT", 0, -100, 100), strength) for strength in used]
            for words in dict.fromkeys(filter(None, wrong)):  # both strengths may be wrong alike
                yield Finding(True, node.id, f"The LoRA row {str(name)[:80]!r} of {node} {words}.")

    def _known_kind(self, link: Link) -> str:
        giver = self.nodes[link.source]
        if giver.type == PRIMITIVE:
            return "setting"  # whatever type it names: it holds a number or text
        outputs = list(giver.known.gives.values()) if giver.known else [kind for _, kind in giver.gives]
        return outputs[link.slot] if link.slot < len(outputs) else "nothing"

    def _left_out(self, node: Node) -> Iterator[Finding]:
        if node.mode == RUNS and not node.known:
            fed = ", ".join(map(str, self.feeds(node))) or "nothing"
            words = (
                f"The node {node} is of the type {node.type!r}, which this kit does not know; it feeds {fed}"
            )
            yield Finding(False, node.id, f"{words}, and the rest runs without it.")
        elif node.mode in (MUTED, BYPASSED):
            how = "muted" if node.mode == MUTED else "bypassed"
            yield Finding(False, node.id, f"The node {node} is {how} and does not run.")
        elif node.mode == RUNS:
            yield Finding(False, node.id, f"The node {node} does not run: no output needs it.")

    def _notes(self, node: Node) -> Iterator[Finding]:
        if node.type == "LoraLoader" or (node.type == POWER_LORA and self.loras(node)):
            yield Finding(False, node.id, f"{node}: the clip strength does nothing, as Wan's LoRAs hold no weights for "
                                          "the text encoder.")  # fmt: skip
        text = self.value(node, "text") if node.type == "CLIPTextEncode" else ""
        if isinstance(text, str) and re.search(r"\([^()]+:[\d.]+\)", text):
            yield Finding(False, node.id, f"{node}: ComfyUI would weigh the words in (word:1.2); here they are plain "
                                          "words, as in Wan's own code.")  # fmt: skip

    # ------------------------------------------------------------------------------------------ what to do

    def set(self, kind: str, name: str, value: Any) -> None:
        """Change a setting of the only node of a type, such as set("KSampler", "steps", 8)."""
        found = [node for node in self.nodes.values() if node.type == kind]
        if len(found) != 1:
            raise WanError(
                f"This workflow has {len(found)} nodes of the type {kind!r}: change nodes[id].values instead."
            )
        known = found[0].known
        if known is None or known.widget(name) is None:
            names = [widget.name for widget in known.widgets] if known else []
            raise WanError(
                f"The node {found[0]} has no setting {name!r}: it has {', '.join(names) or 'none'}."
            )
        found[0].values[name] = value

    def run(self, **settings: Any) -> Iterator[NodeRun]:
        """Run it node by node; the settings are those of `run.run_workflow`."""
        from wan_tutorial.workflow.run import run_workflow

        return run_workflow(self, **settings)


def _passes_on(node: Node, slot: int) -> str:
    """Which input a bypassed node hands on at an output: that of the same place, or the first, of the same type."""
    kind = node.gives[slot][1] if slot < len(node.gives) else ""
    names = list(node.takes)
    if slot < len(names) and node.takes[names[slot]] == kind:
        return names[slot]
    return next((name for name in names if node.takes[name] == kind), "")


def is_lora_row(value: Any) -> bool:
    return isinstance(value, dict) and "lora" in value and "strength" in value


def check_links(nodes: dict[str, Node]) -> None:
    """WanError for a link from a node that is not there, or from an output that it does not have."""
    for node in nodes.values():
        for name, link in node.links.items():
            if link.source not in nodes:
                raise WanError(
                    f"The input {name!r} of {node} is linked to node {link.source}, which is not there."
                )
            giver = nodes[link.source]
            count = max(len(giver.gives), len(giver.known.gives) if giver.known else 0)
            if (giver.known or giver.gives) and not 0 <= link.slot < count:
                raise WanError(f"The input {name!r} of {node} is linked to output {link.slot} of {giver}, "
                               f"which has {count}, counted from 0.")  # fmt: skip


def in_order(nodes: dict[str, Node]) -> list[str]:
    """All nodes, each after those that feed it; WanError names the nodes of a circle."""
    waits = {name: {link.source for link in node.links.values()} for name, node in nodes.items()}
    feeds: dict[str, list[str]] = {name: [] for name in nodes}
    for name, sources in waits.items():
        for source in sources:
            feeds[source].append(name)
    order = [name for name, sources in waits.items() if not sources]
    for name in order:  # grows while it is read
        for fed in feeds[name]:
            waits[fed].discard(name)
            if not waits[fed]:
                order.append(fed)
    if len(order) == len(nodes):
        return order
    here, path = next(name for name, sources in waits.items() if sources), []
    while here not in path:  # every node left waits for another one left: walking back must come round
        path.append(here)
        here = min(waits[here])
    circle = [str(nodes[name]) for name in path[path.index(here) :]]
    shown = " from ".join([*circle[:4], *(["..."] if len(circle) > 4 else []), circle[0]])
    raise WanError(f"The links run in a circle, {shown}: cut one of them.")


def wrong_value(widget: Widget, value: Any) -> str:
    """What is wrong with a widget's value, to follow the widget's name; empty if nothing is."""
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
    kinds: Any = {"INT": int, "FLOAT": (int, float), "BOOLEAN": bool}.get(widget.kind, str)
    if not isinstance(value, kinds) or (isinstance(value, bool) and widget.kind != "BOOLEAN"):
        words = {
            "INT": "a whole number",
            "FLOAT": "a number",
            "BOOLEAN": "true or false",
            "FILE": "a file name",
        }
        return f"must be {words.get(widget.kind, 'text')}, not {shown}"
    if widget.low is not None and widget.high is not None and not widget.low <= value <= widget.high:
        return f"must be from {widget.low:g} to {widget.high:g}, not {shown}"
    if widget.choices and value not in widget.choices:
        return f"must be one of {', '.join(widget.choices)}, not {shown}"
    return wrong_name(value) if widget.kind == "FILE" or widget.name == "filename_prefix" else ""


def wrong_name(name: Any) -> str:
    """What is wrong with a file's name in a workflow: it must stay inside its folder, on any system."""
    if not isinstance(name, str) or not name.strip():
        return "must name a file"
    path = PureWindowsPath(name)  # reads / and \ alike, and knows drives
    outside = path.drive or path.root or ".." in path.parts or name.startswith("~")
    if outside or not name.isprintable() or len(name.encode()) > 255:  # a disk counts bytes
        return f"must be the name of a file inside its folder, not {name[:80]!r}"
    return ""


def find_inside(name: str, roots: list[Path]) -> Path | None:
    """The first file of this name under these folders that truly lies in them, links on the disk followed."""
    if wrong_name(name):
        return None
    for root in roots:
        path = root / name.replace("\\", "/")
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return path
    return None


def picture_file(workflow: Workflow, name: Any) -> Path | None:
    """The picture that a LoadImage node names: beside the workflow's file, or one that this kit brings."""
    from wan_tutorial.machine.weights import bundled_folder

    roots = [workflow.folder] if workflow.folder else []
    path = find_inside(name, [*roots, bundled_folder().parent, bundled_folder()])
    return path if path and path.suffix.lower() in _PICTURES else None
