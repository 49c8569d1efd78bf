"""The command `wan-tutorial workflow`: check a ComfyUI workflow, draw it, run it.

Stands in front of this room as `cli.py` stands in front of the package: arguments become calls, results become lines.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wan_tutorial.errors import WanError


def add_workflow_command(commands: Any) -> None:
    """Add `workflow check|draw|run FILE` to the program's commands."""
    words = "check, draw or run a ComfyUI workflow"
    workflow = commands.add_parser(
        "workflow", help=words, description="Check, draw or run a ComfyUI workflow (.json)."
    )
    verbs = workflow.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = verbs.add_parser("check", help="see whether a workflow can run here, and why not")
    draw = verbs.add_parser("draw", help="draw a workflow as a .png or .svg picture")
    run = verbs.add_parser("run", help="run a workflow node by node")
    for parser, function in ((check, run_check), (draw, run_draw), (run, run_run)):
        parser.add_argument("file", metavar="FILE", help="a workflow saved or exported by ComfyUI (.json)")
        parser.set_defaults(run=function)
    draw.add_argument("--output", type=Path, metavar="FILE", help="default: the workflow's name with .png")
    draw.add_argument(
        "--run", action="store_true", dest="with_run", help="run it first, to show its pictures"
    )
    run.add_argument(
        "--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="default: outputs"
    )
    run.add_argument(
        "--picture", type=Path, metavar="FILE", help="also draw the run, with shapes and seconds"
    )
    for parser in (draw, run):
        parser.add_argument(
            "--model", default="mini", metavar="NAME", help="the model to run it with (default: mini)"
        )
        parser.add_argument(
            "--models", type=Path, metavar="FOLDER", help="ComfyUI's models folder, for files of yours"
        )


def run_check(options: argparse.Namespace) -> int:
    """Print what stops a workflow, and what one should know about it."""
    from wan_tutorial.workflow import read_workflow

    workflow = read_workflow(options.file)
    findings = workflow.check()
    for finding in findings:
        print(finding)
    problems = sum(finding.problem for finding in findings)
    count = f"{len(workflow.nodes)} nodes, {len(workflow.plan())} of them take part"
    print(f"{count}; " + (f"{problems} problems: it cannot run here." if problems else "it can run here."))
    return 2 if problems else 0


def run_draw(options: argparse.Namespace) -> int:
    """Draw a workflow."""
    from wan_tutorial.workflow import read_workflow
    from wan_tutorial.workflow.draw import draw_workflow

    workflow = read_workflow(options.file)
    output = _check_drawing(options.output or Path(Path(options.file).with_suffix(".png").name))
    runs = list(workflow.run(model=options.model, folder=options.models)) if options.with_run else []
    print(f"wrote     {_write(draw_workflow(workflow, runs, measures=False), output)}")
    return 0


def run_run(options: argparse.Namespace) -> int:
    """Run a workflow and print what each node gave."""
    from wan_tutorial.workflow import read_workflow

    workflow, runs = read_workflow(options.file), []
    picture = _check_drawing(options.picture) if options.picture else None
    for done in workflow.run(
        model=options.model, folder=options.models, save_to=options.output, progress=True
    ):
        print(done)
        runs.append(done)
    if picture:
        from wan_tutorial.workflow.draw import draw_workflow

        print(f"wrote     {_write(draw_workflow(workflow, runs), picture)}")
    return 0


def _check_drawing(path: Path) -> Path:
    """Where a drawing goes, looked at before a run, which may take hours."""
    from wan_tutorial.show.video import check_writable

    if path.suffix not in (".png", ".svg"):
        raise WanError(
            f"A drawing is a .png or a .svg file, not {path.name!r}: try {path.stem or 'drawing'}.png."
        )
    return check_writable(path)


def _write(figure: Any, path: Path) -> Path:
    from wan_tutorial.show.style import to_png
    from wan_tutorial.workflow.draw import to_svg

    path.write_bytes(to_png(figure, dots=160) if path.suffix == ".png" else to_svg(figure).encode())
    return path
