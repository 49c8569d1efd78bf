"""A rehearsal for Colab (`make test-full`): its versions, our package on top, and every lesson, without the clone.

The runtime's list is in fixtures/colab.txt. Its Python and its PyTorch are taken where they are to be had (Python 3.13 on
this machine, PyTorch's own index of CPU builds); otherwise this environment's stand in for them. Needs a package index.
"""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
RUNTIME = Path(__file__).parent / "fixtures" / "colab.txt"
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
TORCH, TORCH_CPU = "2.11.0", "https://download.pytorch.org/whl/cpu"
MISSING = {"wan-tutorial", "gguf", "ftfy", "mediapy", "jedi"}  # jedi: IPython asks for it, Colab goes without

pytestmark = pytest.mark.full


def run(*words: object, **options) -> str:
    """What a command prints; its last words where it fails."""
    done = subprocess.run(
        [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-6000:]}"
    return done.stdout


def python_and_torch() -> tuple[str, list[str]]:
    """Colab's Python and PyTorch, or this environment's."""
    try:
        urllib.request.urlopen(f"{TORCH_CPU}/torch/", timeout=5).close()
    except OSError:
        return sys.executable, [f"torch=={torch.__version__.split('+')[0]}"]
    found = shutil.which("python3.13")
    works = (
        found and subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0
    )
    return (found if works else sys.executable), [f"torch=={TORCH}", "--index-url", TORCH_CPU]


def freeze(python: Path) -> dict[str, str]:
    """Name -> version, of all that is installed."""
    lines = run(python, "-m", "pip", "freeze", "--all").splitlines()
    pairs = [re.split(r"==| @ ", line, maxsplit=1) for line in lines if re.match(r"[\w.-]+(==| @ )", line)]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """The Python of an environment like Colab's."""
    folder = tmp_path_factory.mktemp("colab") / "runtime"
    base, torch_words = python_and_torch()
    run(base, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "-r", RUNTIME)
    run(python, "-m", "pip", "install", *torch_words)
    return python


@pytest.fixture(scope="module")
def with_kit(colab) -> tuple[Path, dict[str, str], dict[str, str]]:
    """The same with this package installed as a learner does; what was there before, and what is now."""
    before = freeze(colab)
    run(colab, "-m", "pip", "install", ROOT)
    return colab, before, freeze(colab)


def test_installing_changes_nothing_and_adds_only_what_is_missing(with_kit):
    _, before, after = with_kit
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= MISSING


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_there_without_the_clone(with_kit, lesson, tmp_path):
    python, *_ = with_kit
    copy = shutil.copy(lesson, tmp_path)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "JUPYTER", "VIRTUAL"))
    }
    own = {"JUPYTER_DATA_DIR": str(tmp_path / "jupyter"), "WAN_TUTORIAL_MINUTES": "0.15"}
    execute = python.with_name("jupyter-execute")
    run(execute, "--kernel_name=python3", "--timeout=3000", copy, cwd=tmp_path, env=clean | own)
