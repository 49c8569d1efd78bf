"""The lessons as files: sources and notebooks agree, cells are short, pictures have words, nothing names a machine.

That they run, and that their marked outputs come out the same, is nbval's to test (`make test`).
"""

import ast
import importlib.util
import inspect
import pkgutil
import re
import statistics
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

import wan_tutorial as wan
from wan_tutorial import exercises
from wan_tutorial.exercises.marking import Exercise, mark
from wan_tutorial.machine.weights import find_model

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)
MODULES = [
    importlib.import_module(f"{exercises.__name__}.{m.name}")
    for m in pkgutil.iter_modules(exercises.__path__)
]
EXERCISES = {
    one.name: one for module in MODULES for one in vars(module).values() if isinstance(one, Exercise)
}

spec = importlib.util.spec_from_file_location("build", NOTEBOOKS / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

SOURCES = build.lessons()
sources = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
SECTIONS = ("Predict", "Look", "Build", "Explain", "Break it", "On the real model", "Recap")


def executed(source: Path) -> nbformat.NotebookNode:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def words(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_there_are_lessons():
    assert SOURCES, "no lesson found"
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {path.stem for path in SOURCES}


@sources
def test_source_and_notebook_are_the_same_lesson(source):
    written = [(cell.cell_type, cell.source) for cell in build.read_source(source).cells]
    run = [(cell.cell_type, cell.source) for cell in executed(source).cells]
    assert written == run, "run `make notebooks`"


@sources
def test_shared_cells_are_as_they_should_be(source):
    shared = build.common_cells(source.stem)
    cells = build.read_source(source).cells
    found = {tag: cell.source for cell in cells for tag in cell.metadata.get("tags", []) if tag in shared}
    assert found == shared, "run `python notebooks/build.py --sources`"


@sources
def test_a_lesson_has_its_card_and_its_sections(source):
    text = words(build.read_source(source))
    assert text.startswith(f"# {source.name[:2]} · ")
    for row in ("After this lesson you can", "Time", "Needs", "Where it stands"):
        assert f"**{row}**" in text
    places = [re.search(rf"^## {section}", text, re.MULTILINE) for section in SECTIONS]
    assert all(places), [section for section, place in zip(SECTIONS, places, strict=True) if not place]
    recap = text[places[-1].start() :]
    assert (
        len(re.findall(r"^\*\*\d\. ", recap, re.MULTILINE)) == 3 == recap.count("<summary>Answer</summary>")
    )
    assert text.count("<details>") == text.count("</details>")


@sources
def test_code_cells_are_short(source):
    cells = code_cells(build.read_source(source))
    lengths = [
        len([line for line in cell.splitlines() if line.strip() and not line.startswith("#")])
        for cell in cells
    ]
    assert statistics.median(lengths) <= 6, lengths
    assert max(lengths) <= 20, cells[lengths.index(max(lengths))]


@sources
def test_code_is_python(source):
    for cell in code_cells(build.read_source(source)):
        ast.parse(cell)


@sources
def test_a_notebook_was_run_to_its_end_without_an_error(source):
    notebook = executed(source)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for cell in notebook.cells:
        assert not [output for output in cell.get("outputs", []) if output.output_type == "error"]
        assert not [output for output in cell.get("outputs", []) if "\r" in output.get("text", "")], (
            "a progress bar"
        )


# What lessons print where the shipped evaluation is of other files than those that they run.
WITHOUT_FIGURES = re.compile(
    r"other model files|not measured on these|\b0 (?:negative prompts|ways) were counted"
)


@sources
def test_figures_that_a_lesson_reads_stand_in_its_notebook(source):
    """Build after the evaluation is in place: a fallback that is stored tells every reader that nothing was measured."""
    for cell in executed(source).cells:
        printed = "".join(output.get("text", "") for output in cell.get("outputs", []))
        assert not WITHOUT_FIGURES.search(printed), printed
        if re.search(r"(?:for .* in|print\(.*)read_evaluation\(pipe\)", cell.source):
            assert cell.outputs, cell.source


@sources
def test_a_notebook_is_small_and_names_no_machine(source):
    text = source.with_suffix(".ipynb").read_text()
    assert len(text) <= build.LARGEST
    assert '"widgets"' not in text and build.WIDGET_VIEW not in text
    for place in (str(ROOT), str(Path.home()) + "/", "/home/", "/Users/", "/tmp/", "C:\\\\Users"):
        assert place not in text, place


@sources
def test_every_picture_has_words(source):
    for cell in executed(source).cells:
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    alt = output.metadata.get(kind, {}).get("alt", "")
                    assert len(alt) > 15 and alt == output.data["text/plain"], cell.source
            for tag in re.findall(r"<img [^>]*>", output.get("data", {}).get("text/html", "")):
                assert re.search(r'alt="[^"]+"', tag), cell.source
    for tag in re.findall(r"!\[(.*?)\]\(", words(executed(source))):
        assert tag, "a picture in the text without words"


@sources
def test_links_lead_somewhere(source):
    planned = {path.stem for path in SOURCES} | {"10_experiment"}
    for link in re.findall(r"\]\(([^)#]+)\)", words(build.read_source(source))):
        if "://" not in link:
            path = (NOTEBOOKS / link).resolve()
            assert path.exists() or path.stem in planned, link


@sources
def test_folded_solutions_are_right_and_stubs_are_empty(source):
    """Each exercise of a lesson has an empty stub in a cell, and a folded solution that passes its checker."""
    notebook = build.read_source(source)
    solutions: dict[str, object] = {}
    for block in FENCE.findall(words(notebook)):
        namespace: dict[str, object] = {}
        exec(compile(block, source.name, "exec"), namespace)
        solutions |= {name: value for name, value in namespace.items() if inspect.isfunction(value)}
    asked = set(re.findall(r"check_(\w+)\(", "\n".join(code_cells(notebook))))
    assert asked and asked <= set(solutions)
    for name in asked:
        assert mark(EXERCISES[name], solutions[name]).mark == "right", name
        stubs = [cell for cell in code_cells(notebook) if re.search(rf"^def {name}\(", cell, re.MULTILINE)]
        assert len(stubs) == 1 and stubs[0].rstrip().endswith("..."), (
            f"the stub of {name} should end with ..."
        )


def test_every_exercise_is_asked_somewhere_and_there_are_enough():
    text = "\n".join(source.read_text() for source in SOURCES)
    assert len(EXERCISES) >= 9
    if len(SOURCES) >= 4:  # lessons 00 to 03, whose exercises these are
        assert not [name for name in EXERCISES if f"check_{name}(" not in text]


def test_nothing_is_defined_twice_across_lessons():
    """Plotting and helpers live in the package; only the exercises' own functions are defined in lessons."""
    seen: dict[str, str] = {}
    for source in SOURCES:
        for cell in code_cells(build.read_source(source)):
            for node in ast.parse(cell).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    assert node.name not in seen, f"{node.name} is in {seen[node.name]} and {source.name}"
                    seen[node.name] = source.name


@pytest.mark.full
@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04"])
def test_cells_do_not_hang_on_the_scale_models_size(number, monkeypatch, tmp_path):
    """The real model paints at another size; a noise and a video that meet in a cell must agree all the same."""
    load, size = wan.load, wan.VideoSize(112, 96, 17)
    monkeypatch.setattr(wan, "load", lambda name: load(replace(find_model(name), size=size)))
    monkeypatch.setattr("IPython.display.display", lambda *pages, **how: None)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in code_cells(build.read_source(build.lessons([number])[0])):
        exec(compile(cell, number, "exec"), names)


# ------------------------------------------------------------------------------------------------ the builder


def test_the_builder_stores_pictures_as_images_and_drops_what_belongs_to_one_run():
    page = '<img src="data:image/png;base64,AAAA" alt="a &lt;b&gt; fire" width="920">'
    picture = nbformat.v4.new_output("display_data", {"text/html": page, "text/plain": "a <b> fire"})
    live = {build.WIDGET_VIEW: {"model_id": "1"}, "image/png": "BBBB", "text/plain": "a slider"}
    widget = nbformat.v4.new_output("display_data", live)
    played = {
        "text/html": "<table><video src='x'></video></table>",
        "image/png": "CCCC",
        "text/plain": "a fire",
    }
    video = nbformat.v4.new_output("display_data", played)
    graph = nbformat.v4.new_output("display_data", {"text/html": "<img>", "image/svg+xml": "<svg/>"})
    bar = nbformat.v4.new_output("stream", name="stderr", text="steps 3/20")
    cell = nbformat.v4.new_code_cell(
        "x",
        outputs=[picture, widget, video, graph, bar],
        metadata={"execution": {"iopub.status.busy": "now"}},
    )
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    build.clean(notebook)
    first, second, third, fourth = notebook.cells[0].outputs
    assert first.data == {"image/png": "AAAA", "text/plain": "a <b> fire"}
    assert first.metadata == {"image/png": {"alt": "a <b> fire", "width": 920}}
    assert build.WIDGET_VIEW not in second.data and second.data["image/png"] == "BBBB"
    assert third.data == {"image/png": "CCCC", "text/plain": "a fire"}  # plays where nobody is trusted
    assert fourth.data == {"image/svg+xml": "<svg/>"}
    assert "widgets" not in notebook.metadata and "execution" not in notebook.cells[0].metadata


def test_the_builder_refuses_what_names_this_machine_or_is_too_large():
    for text in (f"in {ROOT}/outputs", "x" * (build.LARGEST + 1)):
        with pytest.raises(SystemExit):
            build.check_clean(text, "lesson")


def test_badges_come_from_the_one_address(monkeypatch):
    monkeypatch.setattr(build, "address", lambda: "https://github.com/someone/kit")
    cells = build.common_cells("00_a_lesson")
    assert (
        "colab.research.google.com/github/someone/kit/blob/main/notebooks/00_a_lesson.ipynb" in cells["colab"]
    )
    assert "git+https://github.com/someone/kit" in cells["setup"]
    monkeypatch.setattr(build, "address", lambda: None)
    cells = build.common_cells("00_a_lesson")
    assert "badge" not in cells["colab"] and ".whl" in cells["setup"] and ".whl" in cells["colab"]


def test_the_builder_drops_progress_bars_between_printed_lines():
    """In a notebook the bars are written to stdout, one line over and over, in pieces, among what a cell prints."""
    pieces = [
        "before\n",
        "\rsteps 0/2",
        "\rsteps 1/2\rsteps 2/2",
        "\nbetween\n",
        "\rdecode 1/1",
        "\n",
        "after\n",
    ]
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=piece) for piece in pieces]
    outputs.insert(4, nbformat.v4.new_output("stream", name="stderr", text="a notice\n"))
    picture = nbformat.v4.new_output("display_data", {"text/plain": "a fire"})
    bar = nbformat.v4.new_output("stream", name="stdout", text="\rload 3/3\n")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("x", outputs=[*outputs, picture, bar])]
    )
    build.clean(notebook)
    assert [output.get("text") for output in notebook.cells[0].outputs] == ["before\nbetween\nafter\n", None]
