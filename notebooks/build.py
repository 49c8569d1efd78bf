"""Build the lessons: percent sources (notebooks/*.py, made for people and for diffs) -> executed notebooks (.ipynb).

    python notebooks/build.py                 every lesson
    python notebooks/build.py 00 03           some of them
    python notebooks/build.py --sources       only put the Colab lines and the set-up cell into the sources

Each lesson runs from a fresh kernel, in an empty folder, with the Python that runs this script. What is written carries
no widget state, no times, no paths of this machine; pictures are stored as images with their alternative text.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent
ROOT = NOTEBOOKS.parent
LARGEST = 10**6  # bytes of a notebook
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PICTURE = re.compile(r'<img src="data:image/(png|jpeg);base64,([^"]+)" alt="([^"]*)"(?: width="(\d+)")?>')
PROGRESS = re.compile(r"\r[^\n]*\n?")  # a bar writes its line again and again, from the line's beginning
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

SETUP = """import importlib.util
import subprocess
import sys

KIT = "{kit}"
if importlib.util.find_spec("wan_tutorial") is None:  # on Colab, once: the kit and what it needs
    subprocess.run([sys.executable, "-m", "pip", "install", KIT], check=True)

from wan_tutorial.show import show_machine, show_place

show_machine()"""

WITHOUT_ADDRESS = """*To open this lesson in Colab from a clone: run `pip wheel . --no-deps`, open
[Colab](https://colab.research.google.com) and upload this notebook; then upload `{kit}` in its file panel.*"""

WITH_ADDRESS = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"


def lessons(numbers: list[str] | None = None) -> list[Path]:
    """The percent sources of the lessons, in order; only those whose name begins with one of the numbers."""
    sources = sorted(path for path in NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    return [path for path in sources if not numbers or path.name.startswith(tuple(numbers))]


# ---------------------------------------------------------------------------- what is the same in every lesson


def address() -> str | None:
    """The repository's address, from pyproject.toml's project URLs; None until there is one."""
    found = re.search(
        r'^\s*[Rr]epository\s*=\s*"([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    return found[1].rstrip("/") if found else None


def kit() -> str:
    """What pip installs on Colab: the repository, or the wheel that was uploaded."""
    where = address()
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return f"git+{where}" if where else f"wan_tutorial-{version[1] if version else '0'}-py3-none-any.whl"


def colab_lines(name: str) -> str:
    """How to open a lesson in Colab: a badge, or two lines until the repository has an address."""
    where = address()
    if where is None:
        return WITHOUT_ADDRESS.format(kit=kit())
    place = where.replace("https://github.com/", "https://colab.research.google.com/github/")
    return WITH_ADDRESS.format(link=f"{place}/blob/main/notebooks/{name}.ipynb")


def common_cells(name: str) -> dict[str, str]:
    """Tag -> source of the cells that all lessons share."""
    return {"colab": colab_lines(name), "setup": SETUP.format(kit=kit())}


def renew_source(path: Path) -> None:
    """Put the shared cells into a lesson's source, where they are not as they should be."""
    notebook, shared = read_source(path), common_cells(path.stem)
    changed = False
    for cell in notebook.cells:
        for tag in set(cell.metadata.get("tags", [])) & set(shared):
            changed |= cell.source != shared[tag]
            cell.source = shared[tag]
    if changed or path.read_text().startswith("# ---"):
        notebook.metadata = nbformat.from_dict({"jupytext": {"notebook_metadata_filter": "-all"}})
        path.write_text(jupytext.writes(notebook, fmt="py:percent"))


# ------------------------------------------------------------------------------------------------- building


def read_source(path: Path) -> NotebookNode:
    """A percent source as a notebook without outputs, its cells named by their place, so that builds are alike."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02}"
    return notebook


def build(path: Path, *, timeout: int = 900) -> Path:
    """Run a lesson from a fresh kernel and write its notebook; the file appears complete or not at all."""
    renew_source(path)
    notebook = read_source(path)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # empty: earlier runs leave no traces in a lesson
        client = NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    clean(notebook)
    text = nbformat.writes(notebook) + "\n"
    check_clean(text, path.stem)
    target, partial = path.with_suffix(".ipynb"), path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(target)
    print(f"{target.name}: {time.perf_counter() - started:.0f} s, {len(text) / 1e3:.0f} kB", flush=True)
    return target


def clean(notebook: NotebookNode) -> None:
    """Take out what belongs to one run or one machine; store pictures as images."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [clean_output(output) for output in without_progress(cell.outputs)]


def without_progress(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """A cell's outputs without progress bars and notices, which are for a person who waits.

    What is printed comes in pieces, and a bar's last line break in another one than the bar: they are joined first.
    """
    kept: list[NotebookNode] = []
    for output in outputs:
        printed = output.output_type == "stream"
        if printed and output.name == "stderr":
            continue
        if printed and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = PROGRESS.sub("", output.text)
    return [output for output in kept if output.output_type != "stream" or output.text]


def clean_output(output: NotebookNode) -> NotebookNode:
    """A picture in HTML becomes an image with its alternative text beside it; widgets and players leave their picture."""
    data = output.get("data", {})
    data.pop(WIDGET_VIEW, None)
    page = data.get("text/html", "")
    if ("<video" in page and "image/png" in data) or "image/svg+xml" in data:
        data.pop("text/html", None)  # pages that do not trust a notebook show an empty box; the picture shows
    found = PICTURE.fullmatch(data.get("text/html", ""))
    if found:
        kind, coded, alt, width = found.groups()
        alt = html.unescape(alt)
        output.data = nbformat.from_dict({f"image/{kind}": coded, "text/plain": alt})
        size = {"width": int(width)} if width else {}
        output.metadata = nbformat.from_dict({f"image/{kind}": {"alt": alt, **size}})
    return output


def check_clean(text: str, name: str) -> None:
    """Stop before a notebook is written that is too large or names this machine."""
    if len(text) > LARGEST:
        raise SystemExit(f"{name} would be {len(text) / 1e6:.2f} MB; a notebook has at most 1 MB.")
    for place in (str(ROOT), str(Path.home()) + "/", tempfile.gettempdir() + "/", sys.prefix):
        if place in text:
            raise SystemExit(f"{name} names a folder of this machine: {place}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the lessons and write their notebooks.")
    parser.add_argument("lesson", nargs="*", help="numbers of lessons, such as 00 03; all without any")
    parser.add_argument("--sources", action="store_true", help="only renew the shared cells of the sources")
    options = parser.parse_args()
    for path in lessons(options.lesson):
        if options.sources:
            renew_source(path)
            continue
        try:
            build(path)
        except CellExecutionError as error:
            print(f"{path.name} failed:\n{error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
