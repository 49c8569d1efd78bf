"""The package as a whole: imports point one way, importing is nothing, assets stay small, words stay clean."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wan_tutorial"
LARGEST_ASSETS = 45 * 10**6

# Rooms by layer: a module imports only from its own layer's earlier reading order or from layers below.
STAGES = {
    "checkpoint",
    "errors",
    "files",
    "lora",
    "noise",
    "quantization",
    "reference",
    "sampling",
    "sizes",
    "text",
}
STAGES |= {"taps", "transformer", "vae"}
AROUND = {"show", "machine", "mini", "exercises"}
JOINING = {"pipeline", "workflow", "experiments"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms of this package that a module imports, wherever in it the import stands."""
    rooms = set()
    depth = len(path.relative_to(ROOT).parts)  # wan_tutorial/vae.py: 2
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = list(path.relative_to(ROOT).parts[: depth - node.level]) if node.level else []
            base = ".".join([*here, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("wan_tutorial.")}
    return rooms - {"__version__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_stages_know_nothing_of_what_stands_around_them():
    for path in modules():
        if room_of(path) in STAGES:
            forbidden = imported_rooms(path) & (AROUND | JOINING | {"cli"})
            assert not forbidden, f"{path.name} imports {forbidden}"


def test_only_pipelines_join_stages_to_machine_and_only_the_command_stands_above():
    for path in modules():
        room, rooms = room_of(path), imported_rooms(path)
        assert "cli" not in rooms, path
        if room in ("show", "machine"):
            assert not rooms & JOINING, f"{path.name} imports {rooms & JOINING}"
        if room == "pipeline":
            assert not rooms & {"show", "mini", "workflow", "experiments"}, rooms


def test_every_module_says_where_it_stands():
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_importing_the_package_loads_nothing():
    code = "import sys, wan_tutorial; print(sorted({'torch', 'numpy', 'matplotlib', 'diffusers'} & set(sys.modules)))"
    assert run(code) == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_do_no_work_when_imported(path):
    """Only definitions, imports and constants stand at the top: no loops, no `with`, no bare calls."""
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
        ast.AugAssign,
        ast.If,
    )
    for node in ast.parse(path.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert isinstance(node, allowed) or docstring, f"line {node.lineno} works at import"


def test_every_public_name_is_there():
    import wan_tutorial

    for name in wan_tutorial.__all__:
        assert getattr(wan_tutorial, name) is not None
        assert name in dir(wan_tutorial)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = wan_tutorial.missing


def test_assets_are_small():
    files = [path for path in (ROOT / "assets").rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    assert total <= LARGEST_ASSETS, f"assets hold {total / 1e6:.1f} MB, 45 at most"


@pytest.mark.parametrize("page", ["README.md", "assets/README.md"])
def test_pages_name_files_that_are_there(page):
    """Links and pictures of a page, and the files in the table of assets."""
    text = (ROOT / page).read_text()
    named = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    named += re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    missing = [name for name in named if not (ROOT / page).parent.joinpath(name).exists()]
    assert not missing, f"{page} names {missing}"


def test_versions_agree():
    import wan_tutorial

    said = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert said and said[1] == wan_tutorial.__version__


def test_dependencies_have_lower_bounds_only_and_a_tested_version():
    lines = re.findall(
        r'^    "([A-Za-z][\w.-]*)([<>=!~,\d.]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert len(lines) >= 14
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for name, bounds in lines:
        assert re.fullmatch(r">=[\d.]+", bounds), f"{name}{bounds}: lower bounds only"
        assert name in pinned, f"{name} has no tested version in constraints.txt"


def test_the_repository_speaks_only_of_itself():
    """Nothing that is published names the place where it was written."""
    foreign = ["../" + "shared", "/" + "work/", "/" + "root/", "/tmp/" + "plan", "Co-" + "Authored-By"]
    endings = {".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".json", ""}
    tops = ["wan_tutorial", "tests", "notebooks", "assets", ".ci"]
    files = [path for top in tops for path in (ROOT / top).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".git")]
    for path in files:
        parts = path.relative_to(ROOT).parts
        caches = any(part == "__pycache__" or (part[0] == "." and part != ".ci") for part in parts)
        if path.suffix in endings and not caches:
            text = path.read_text(errors="replace")
            found = [word for word in foreign if word in text]
            assert not found, f"{path.relative_to(ROOT)} says {found}"


def run(code: str) -> str:
    """What a fresh Python prints for this code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()
