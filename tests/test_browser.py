"""The prompt lab as a person meets it: Chromium, driven by Playwright, on a JupyterLab that this test starts.

Needs Playwright (in the extra `test`) and a Chromium; on Debian `apt install chromium`. Skipped where either is missing.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jupytext
import nbformat
import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip(
        "there is no Chromium to test the lab in: on Debian, apt install chromium", allow_module_level=True
    )

LESSON = Path(__file__).parents[1] / "notebooks" / "10_experiment.py"
STATE = "import hashlib\nprint('screen', hashlib.sha256(lab.parts['screen'].value).hexdigest(), lab.desk.waiting.qsize())"
SHOWN = """async () => {
    const bytes = await (await fetch(document.querySelector('.wan-lab img.wan-screen').src)).arrayBuffer()
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
    return [...digest].map(byte => byte.toString(16).padStart(2, '0')).join('')
}"""
# What JupyterLab is asked to run before the kernel answers, it forgets.
CONNECTED = """async () => {
    await window.jupyterapp.restored
    const context = window.jupyterapp.shell.currentWidget.sessionContext
    await context.ready
    await context.session.kernel.info
    while (context.kernelDisplayStatus !== 'idle') await new Promise(done => setTimeout(done, 100))
}"""
CAPTION = "img.wan-screen ~ .widget-html:last-child"
PATIENCE = 180_000  # milliseconds: a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the lesson up to its panel, and a cell that tells what Python holds."""
    folder = tmp_path_factory.mktemp("jupyter")
    notebook = jupytext.read(LESSON, fmt="py:percent")
    end = next(place for place, cell in enumerate(notebook.cells) if "wan.explore(" in cell.source)
    notebook.cells = [*notebook.cells[: end + 1], nbformat.v4.new_code_cell(STATE)]
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, folder / "lesson.ipynb")
    quiet = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """A JupyterLab on a free port, stopped at the end with its kernels."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"JUPYTERLAB_SETTINGS_DIR": folder / "settings", "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
           "JUPYTER_RUNTIME_DIR": folder / "runtime", "JUPYTER_CONFIG_DIR": folder / "config"}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               "--LabApp.expose_app_in_browser=True",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=test", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | {k: str(v) for k, v in own.items()}
        )
    place = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{place}/api/status?token=test", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield place
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(address, folder):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1300})
        page.set_default_timeout(PATIENCE)
        yield page
        page.screenshot(path=folder / "last.png")  # what was to be seen when it failed
        browser.close()


def command(page, name: str, **given: str) -> None:
    """One of JupyterLab's own commands, as its menus give it."""
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate(
        "([name, given]) => jupyterapp.restored.then(() => { jupyterapp.commands.execute(name, given) })",
        [name, given],
    )


def press(page, name: str) -> None:
    page.locator(".wan-lab").get_by_role("button", name=name, exact=True).click()


def wait_for(page, words: str, where: str = "[role=status]") -> None:
    page.wait_for_function(
        "([where, words]) => document.querySelector('.wan-lab ' + where)?.innerText.includes(words)",
        arg=[where, words],
        timeout=PATIENCE,
    )


def python_state(page) -> str:
    """What the notebook's last cell says of the bytes on the screen, asked for once more."""
    cell = page.locator(".jp-CodeCell").last
    outputs = cell.locator(".jp-OutputArea-output")
    cell.locator(".cm-content").click()
    page.keyboard.press("End")
    page.keyboard.type(" ")  # so that the count of runs in the margin is surely new
    count = cell.locator(".jp-InputPrompt").inner_text()
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        """before => {
            const prompts = document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')
            const now = prompts[prompts.length - 1].innerText
            return now !== before && !now.includes('*')
        }""",
        arg=count,
    )
    return outputs.last.inner_text().split()[1]


def screen(page) -> str:
    """The checksum of the bytes on the screen, which must be those that Python holds; they may still be on their way."""
    held = python_state(page)
    for _ in range(50):
        if page.evaluate(SHOWN) == held:
            return held
        page.wait_for_timeout(100)
    raise AssertionError("the screen does not show what Python holds")


def test_a_person_runs_watches_cancels_compares_and_exports(page, address, folder):
    page.goto(f"{address}/lab/tree/lesson.ipynb?token=test&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.evaluate(CONNECTED)
    command(page, "notebook:run-all-cells")
    wait_for(page, "Ready")

    page.get_by_label("Prompt", exact=True).fill("A torch in a snowfield, blue flames")
    page.get_by_label("Steps", exact=True).fill("40")  # long enough to be seen painting on a busy machine
    page.locator(".wan-lab").get_by_role("button", name="Run", exact=True).focus()
    page.keyboard.press("Enter")
    wait_for(page, "Painting: step")
    guess = page.evaluate(SHOWN)
    wait_for(page, "Run 1 took")
    video = screen(page)
    assert video != guess
    wait_for(page, "A torch in a snowfield", CAPTION)

    page.get_by_label("Guidance", exact=True).fill("1")
    press(page, "Run")
    wait_for(page, "Run 2 took")
    press(page, "Side by side")
    wait_for(page, "Run 1 and run 2: guidance 4 and 1", CAPTION)
    both = screen(page)
    assert both not in (video, guess)
    press(page, "Pause")
    page.locator(".wan-lab .noUi-handle[role=slider]").last.focus()
    page.keyboard.press("ArrowRight")
    wait_for(page, "2 of 13, 0.06 s", ".wan-screen ~ .wan-row")
    assert screen(page) not in (video, both)

    page.get_by_label("Steps", exact=True).fill("99")
    page.get_by_label("Frames", exact=True).select_option("33")  # long enough to be cancelled
    press(page, "Run")
    wait_for(page, "of 99")
    press(page, "Cancel")
    wait_for(page, "Cancelled")
    screen(page)  # the kernel answers, and the last run is back on the screen

    press(page, "History")
    assert page.get_by_label("Runs, newest first").locator("option").count() == 2
    page.get_by_label("Runs, newest first").select_option(index=[0, 1])
    press(page, "Save a page")
    wait_for(page, "2 runs", "span[role=status]")
    (saved,) = folder.rglob("page.html")

    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        command(page, "apputils:change-theme", theme=theme)
        for width in (800, 1280):
            page.set_viewport_size({"width": width, "height": 1300})
            assert (
                page.evaluate(
                    "() => { const e = document.querySelector('.wan-lab'); return e.scrollWidth - e.clientWidth }"
                )
                <= 1
            )

    page.goto(saved.as_uri())
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].filter(v => v.readyState >= 2).length === 2"
    )
    assert page.locator("article").count() == 2
    assert "Against the first: guidance 4 and 1." in page.content()
