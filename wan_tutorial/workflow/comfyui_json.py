"""ComfyUI's two JSON formats: the UI format that its page saves, and the API format that its server runs.

In: a file, text that anybody may have written; out: a `Workflow`, or a WanError with one sentence. And back again:
`to_ui` and `to_api`. The UI format lists a node's settings by place (`widgets_values`) and its links by number; the API
format names both.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wan_tutorial.errors import WanError, check_path
from wan_tutorial.workflow.graph import BYPASSED, MUTED, RUNS, Link, Node, Workflow, is_lora_row
from wan_tutorial.workflow.nodes import NOTES, PAGE_ONLY, POWER_LORA, PRIMITIVE, node_types

LARGEST_FILE, MOST_NODES, MOST_LINKS, DEEPEST = 10 * 10**6, 2000, 10000, 50
_HEADER = {"type": "PowerLoraLoaderHeaderWidget"}


def read_workflow(path: str | Path) -> Workflow:
    """Read a workflow file, in either format."""
    path = check_path(path, "workflow", example="workflow.json")
    if not path.is_file():
        raise WanError(f"There is no workflow at {path}: save one in ComfyUI with Workflow > Export.")
    if path.stat().st_size > LARGEST_FILE:
        raise WanError(
            f"{path.name} has {path.stat().st_size / 1e6:.0f} MB, and a workflow has 10 MB at most."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WanError(f"{path.name} is not a text file in UTF-8, so it is no workflow.") from error
    try:
        workflow = parse_workflow(text)
    except WanError as error:
        raise WanError(f"{path.name}: {error}") from error
    workflow.folder = path.resolve().parent
    return workflow


def parse_workflow(text: str) -> Workflow:
    """A workflow from JSON text."""
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except WanError:
        raise
    except RecursionError as error:
        raise WanError(_TOO_DEEP) from error
    except ValueError as error:  # JSON's own errors, and numbers with thousands of digits
        raise WanError(f"This is not JSON, so it is no workflow: {str(error)[:100]}.") from error
    _check_depth(document)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise WanError(
            "The file holds half a letter (a lone surrogate), so its words cannot be read."
        ) from error
    if isinstance(document, dict) and isinstance(document.get("prompt"), dict):
        document = document["prompt"]  # as a program sends it to ComfyUI's server
    if not isinstance(document, dict) or not document:
        raise WanError("A workflow is a JSON object with nodes in it, and this is not one.")
    if "nodes" in document:
        return _read_ui(document)
    if any(isinstance(value, dict) and "class_type" in value for value in document.values()):
        return _read_api(document)
    raise WanError('A workflow has "nodes" (as ComfyUI saves it) or "class_type" in each node (its API format); '
                   "this file has neither.")  # fmt: skip


_TOO_DEEP = f"The file nests more than {DEEPEST} levels deep, which no workflow does."


def _no_constant(word: str) -> None:
    raise WanError(f"The file holds {word}, which is no number that a workflow can use.")


def _check_depth(value: Any) -> None:
    layer = [value]
    for _ in range(DEEPEST):
        inner = [part for part in layer if isinstance(part, dict | list)]
        layer = [value for part in inner for value in (part.values() if isinstance(part, dict) else part)]
        if not layer:
            return
    raise WanError(_TOO_DEEP)


# ------------------------------------------------------------------------------------------------- UI format in


def _read_ui(document: dict[str, Any]) -> Workflow:
    entries = _list_of(document.get("nodes"), dict, "nodes", MOST_NODES)
    links = dict(_ui_links(document))
    nodes: dict[str, Node] = {}
    for entry in entries:
        node = _ui_node(entry, links)
        if node.id in nodes:
            raise WanError(f"Two nodes have the number {node.id}: each needs its own.")
        nodes[node.id] = node
    groups = [_group(group) for group in _list_of(document.get("groups", []), dict, "groups", MOST_NODES)]
    return Workflow(nodes, tuple(groups), document)


def _ui_links(document: dict[str, Any]) -> Iterator[tuple[int, Link]]:
    """Links by number: [number, from, output, to, input, type], or the same with names in newer files."""
    for entry in _list_of(document.get("links", []), (list, dict), "links", MOST_LINKS):
        if isinstance(entry, dict):
            entry = [entry.get(name) for name in ("id", "origin_id", "origin_slot")]
        if len(entry) < 3 or not all(_is_number(part) or isinstance(part, str) for part in entry[:3]):
            raise WanError(f"A link is [number, from, output, to, input, type], not {_shown(entry)}.")
        if not isinstance(entry[2], int):
            raise WanError(f"A link starts at an output's number, not at {_shown(entry[2])}.")
        yield entry[0], Link(str(entry[1]), entry[2])


def _ui_node(entry: dict[str, Any], links: dict[int, Link]) -> Node:
    name, kind = entry.get("id"), entry.get("type")
    if not isinstance(name, int | str) or isinstance(name, bool) or not isinstance(kind, str):
        raise WanError(f"A node has a number and a type, and one here has {_shown(name)} and {_shown(kind)}.")
    title, mode = entry.get("title"), entry.get("mode", RUNS)
    sockets = [
        _named(socket, kind) for socket in _list_of(entry.get("inputs") or [], dict, f"inputs of {kind}")
    ]
    outputs = [
        _named(socket, kind) for socket in _list_of(entry.get("outputs") or [], dict, f"outputs of {kind}")
    ]
    flags = entry.get("flags")
    node = Node(
        str(name),
        kind,
        _title(title, kind),
        mode=mode if mode in (MUTED, BYPASSED) else RUNS,
        takes={
            socket["name"]: _plain(socket.get("type", "*")) for socket in sockets if "widget" not in socket
        },
        gives=tuple((socket["name"], _plain(socket.get("type", "*"))) for socket in outputs),
        position=_pair(entry.get("pos"), (0.0, 0.0)),
        size=_pair(entry.get("size"), (0.0, 0.0)),
        colour=_text(entry.get("color")),
        fill=_text(entry.get("bgcolor")),
        collapsed=isinstance(flags, dict) and bool(flags.get("collapsed")),
    )
    node.values = _values(node, entry.get("widgets_values"), sockets)
    for socket in sockets:
        number = socket.get("link")
        if number is not None:
            if not isinstance(number, int) or number not in links:
                raise WanError(f"The input {socket['name']!r} of {node} has the link {_shown(number)}, "
                               "which is not in the file's list of links.")  # fmt: skip
            node.links[socket["name"]] = links[number]
    return node


def _values(node: Node, written: Any, sockets: list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(written, dict):
        return dict(written)
    if not isinstance(written, list | None):
        raise WanError(f"The settings of {node} must be a list, not {_shown(written)}.")
    written = written or []
    if node.type == POWER_LORA:
        rows = [value for value in written if is_lora_row(value)]
        return {f"lora_{index}": dict(row) for index, row in enumerate(rows, 1)}
    if node.known:
        return dict(zip(node.known.places, written, strict=False))
    if node.type in NOTES:
        return {"text": str(written[0]) if written else ""}
    if node.type == PRIMITIVE:
        return {"value": written[0]} if written else {}
    names = [
        socket["name"] for socket in sockets if "widget" in socket
    ]  # newer files name the widgets themselves
    names += [f"value {index}" for index in range(len(names), len(written))]
    return dict(zip(names, written, strict=False))


def _group(entry: dict[str, Any]) -> tuple[str, tuple[float, float, float, float], str]:
    box = entry.get("bounding", [0, 0, 0, 0])
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise WanError(f"A group's bounding is four numbers, not {_shown(box)}.")
    x, y, width, height = (float(side) for side in box)
    return str(entry.get("title", "")), (x, y, width, height), _text(entry.get("color")) or "#3f789e"


# ------------------------------------------------------------------------------------------------ API format in


def _read_api(document: dict[str, Any]) -> Workflow:
    if len(document) > MOST_NODES:
        raise WanError(f"A workflow has {MOST_NODES} nodes at most, not {len(document)}.")
    nodes = {}
    for name, entry in document.items():
        inputs = entry.get("inputs", {}) if isinstance(entry, dict) else None
        if not isinstance(inputs, dict) or not isinstance(entry.get("class_type"), str):
            raise WanError(f'Node {_shown(name)} must have a "class_type" and "inputs".')
        known, meta = node_types().get(entry["class_type"]), entry.get("_meta")
        links = {key: Link(value[0], value[1]) for key, value in inputs.items() if _is_api_link(value)}
        nodes[name] = Node(
            name,
            entry["class_type"],
            _title(meta.get("title") if isinstance(meta, dict) else None, entry["class_type"]),
            values={key: value for key, value in inputs.items() if key not in links and value != _HEADER},
            links=links,
            takes=dict(known.takes) if known else {key: "*" for key in links},
            gives=tuple(known.gives.items()) if known else (),
        )
    workflow = Workflow(nodes, document=document)
    from wan_tutorial.workflow.layout import arrange

    arrange(workflow)
    return workflow


def _is_api_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


# ---------------------------------------------------------------------------------------------------------- out


def to_ui(workflow: Workflow) -> dict[str, Any]:
    """The UI format: the file that was read with today's settings in it, or a new page for other workflows."""
    if "nodes" not in workflow.document:
        return _new_page(workflow)
    document = copy.deepcopy(workflow.document)
    for entry in document["nodes"]:
        node = workflow.nodes[str(entry["id"])]
        if node.values:
            entry["widgets_values"] = _written(node, entry.get("widgets_values"))
    return document


def _written(node: Node, before: Any) -> Any:
    """A node's settings as a file lists them; what stood there beyond the settings that we know stays."""
    if isinstance(before, dict):
        return {**before, **node.values}
    before = list(before or [])
    if node.type == POWER_LORA:
        rows = list(node.values.values())
        if not any(is_lora_row(value) for value in before):
            return [{}, dict(_HEADER), *rows, {}, ""]
        first = next(index for index, value in enumerate(before) if is_lora_row(value))
        others = [value for value in before[first:] if not is_lora_row(value)]
        return [*before[:first], *rows, *others]
    if not node.known:
        values = list(node.values.values())
        return values + before[len(values) :]
    usual = dict(widget.then for widget in node.known.widgets if widget.then)
    usual |= {widget.name: widget.default for widget in node.known.widgets}
    places = node.known.places
    last = max([len(before), *(place + 1 for place, name in enumerate(places) if name in node.values)])
    values = [node.values.get(name, usual[name]) for name in places[:last]]
    return values + before[len(values) :]


def _new_page(workflow: Workflow) -> dict[str, Any]:
    entries: list[tuple[Node, list[dict[str, Any]]]] = []
    links: list[list[Any]] = []
    numbers = {
        name: int(name) if name.isdigit() else 100000 + place for place, name in enumerate(workflow.nodes)
    }
    from wan_tutorial.workflow.graph import in_order

    order = {name: place for place, name in enumerate(in_order(workflow.nodes))}
    given: dict[tuple[str, int], list[int]] = {}
    for node in workflow.nodes.values():
        sockets: list[dict[str, Any]]
        sockets = [{"name": name, "type": kind, "link": None} for name, kind in node.takes.items()]
        for name in node.links:
            if name not in node.takes:
                sockets.append({"name": name, "type": "*", "widget": {"name": name}, "link": None})
        for place, socket in enumerate(sockets):
            if node.known and socket["name"] in node.known.optional:
                socket["shape"] = 7
            link = node.links.get(socket["name"])
            if link is not None:
                kind = workflow.kind(link)
                socket["type"] = kind if "widget" in socket else socket["type"]
                socket["link"] = len(links) + 1
                links.append([len(links) + 1, numbers[link.source], link.slot, numbers[node.id], place, kind])
                given.setdefault((link.source, link.slot), []).append(len(links))
        entries.append((node, sockets))
    nodes = [_new_entry(node, sockets, numbers[node.id], order[node.id], given) for node, sockets in entries]
    groups = [{"id": place, "title": title, "bounding": list(box), "color": colour, "font_size": 24, "flags": {}}
              for place, (title, box, colour) in enumerate(workflow.groups, 1)]  # fmt: skip
    return {"revision": 0, "last_node_id": max(numbers.values(), default=0), "last_link_id": len(links), "nodes": nodes,
            "links": links, "groups": groups, "config": {}, "extra": {}, "version": 0.4}  # fmt: skip


def _new_entry(
    node: Node,
    sockets: list[dict[str, Any]],
    number: int,
    order: int,
    given: dict[tuple[str, int], list[int]],
) -> dict[str, Any]:
    gives = [{"name": name, "type": kind, "links": given.get((node.id, slot), [])}
             for slot, (name, kind) in enumerate(node.gives)]  # fmt: skip
    package = {"cnr_id": node.known.package, "Node name for S&R": node.type} if node.known else {}
    entry = {
        "id": number,
        "type": node.type,
        "pos": list(node.position),
        "size": list(node.size),
        "flags": {"collapsed": True} if node.collapsed else {},
        "order": order,
        "mode": node.mode,
        "inputs": sockets,
        "outputs": gives,
        "properties": package,
        "widgets_values": _written(node, None),
    }
    titled = {"title": node.title} if not node.known or node.title != node.known.title else {}
    colours = {"color": node.colour, "bgcolor": node.fill}
    return entry | titled | {key: value for key, value in colours.items() if value}


def to_api(workflow: Workflow) -> dict[str, Any]:
    """The API format: only what runs, with reroutes, notes, muted and bypassed nodes resolved."""
    document: dict[str, Any] = {}
    for node in workflow.nodes.values():
        if node.mode != RUNS or node.type in PAGE_ONLY:
            continue
        page_only = {widget.then[0] for widget in node.known.widgets if widget.then} if node.known else set()
        inputs = {name: value for name, value in node.values.items() if name not in page_only}
        if node.type == POWER_LORA:
            inputs = {"PowerLoraLoaderHeaderWidget": dict(_HEADER), **inputs}
        for name in node.links:
            link = workflow.source(node, name)
            if link is None:
                continue
            primitive = workflow.nodes[link.source].type == PRIMITIVE
            inputs[name] = workflow.value(node, name) if primitive else [link.source, link.slot]
        document[node.id] = {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title}}
    return document


def write_workflow(workflow: Workflow, path: str | Path, *, api: bool = False) -> Path:
    """Write a file that ComfyUI opens: the UI format, or the API format that programs send to its server."""
    from wan_tutorial.show.video import check_writable  # here, so that --help needs no numpy

    path = check_path(path, "workflow", example="workflow.json")
    if path.suffix != ".json":
        raise WanError(f"A workflow is a .json file, not {path.name!r}: try {path.stem or 'workflow'}.json.")
    path = check_writable(path)
    text = json.dumps(to_api(workflow) if api else to_ui(workflow), indent=2, ensure_ascii=False) + "\n"
    partial = path.with_name(f".{path.stem}.part")  # shorter than the name that check_writable tried
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


# ------------------------------------------------------------------------------------------------------- pieces


def _list_of(value: Any, kinds: Any, name: str, most: int = MOST_NODES) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(part, kinds) for part in value):
        raise WanError(f"The {name} of a workflow must be a list, not {_shown(value)}.")
    if len(value) > most:
        raise WanError(f"A workflow has {most} {name} at most, not {len(value)}.")
    return value


def _named(socket: dict[str, Any], kind: str) -> dict[str, Any]:
    if not isinstance(socket.get("name"), str):
        raise WanError(
            f"Every input and output of {_shown(kind)} needs a name, not {_shown(socket.get('name'))}."
        )
    return socket


def _pair(value: Any, missing: tuple[float, float]) -> tuple[float, float]:
    """[x, y], or {"0": x, "1": y} as older pages wrote it."""
    if value is None:
        return missing
    parts = [value.get("0"), value.get("1")] if isinstance(value, dict) else value
    if not isinstance(parts, list) or len(parts) < 2 or not all(_is_number(part) for part in parts[:2]):
        raise WanError(f"A node's place and size are two numbers each, not {_shown(value)}.")
    return float(parts[0]), float(parts[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # NaN: no


def _title(written: Any, kind: str) -> str:
    known = node_types().get(kind)
    return _plain(written) if isinstance(written, str) and written else known.title if known else _plain(kind)


def _plain(words: Any) -> str:
    """A name from a file as it may be printed: one line, and nothing that a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in str(words)[:200]).strip() or "?"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
