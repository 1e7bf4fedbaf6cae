"""JupyterLab as a reader uses it: run a notebook, use its explorer, do its exercise.

A browser does what a reader does with mouse and keyboard, on a copy of the notebooks.
Screenshots go to ``_build/screenshots/lab/``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "_build" / "screenshots" / "lab"
LONG = 300_000  # milliseconds; only to end a test that hangs
TOKEN = "test"
FAILED = '[data-mime-type="application/vnd.jupyter.error"]'  # where a traceback stands
SETTINGS = {
    # All cells stay in the page, so that each can be found, whatever is scrolled into view.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {
        "checkForUpdates": False,
        "fetchNews": "false",
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@contextlib.contextmanager
def jupyterlab(command: list[str], folder: Path, environment: dict | None = None) -> Iterator[str]:
    """Start JupyterLab on a free port; yield its address, and end it with all its kernels."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--no-browser", f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}"]
    options += ["--ServerApp.ip=127.0.0.1"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    server = subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that it can be ended together with what it starts
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, "JupyterLab ended"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def test_make_lab_opens_the_first_notebook_with_this_kernel(chromium):
    from jupyter_client.kernelspec import KernelSpecManager

    folder = KernelSpecManager().get_kernel_spec("python3").resource_dir
    assert Path(folder).is_relative_to(sys.prefix), "another kernel named python3 comes first"
    with jupyterlab(["-m", "book.tools.lab"], ROOT) as lab:
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{lab}/?token={TOKEN}")
        page.locator(".jp-Notebook h1").first.wait_for(timeout=LONG)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=LONG)
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / "make_lab.png")
        page.close()


# -- a reader at work -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory, workspace) -> Iterator[str]:
    """JupyterLab on a copy of the notebooks, with a workspace and settings of its own.

    What chapters train is there already, as for a reader who comes back.
    """
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    shutil.copytree(ROOT / "book" / "results", folder / "book" / "results")
    shutil.copytree(workspace, folder / "_build" / "workspace")
    settings = folder / "settings"
    settings.mkdir()
    (settings / "overrides.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": python_path}
    command = [
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.app_settings_dir={settings}",
        f"--LabApp.user_settings_dir={folder / 'user'}",
        f"--LabApp.workspaces_dir={folder / 'layouts'}",
    ]
    with jupyterlab(command, folder, environment) as address:
        yield address


class Reader:
    """A page of JupyterLab with one notebook, and what a reader does there."""

    def __init__(self, page, address: str, name: str) -> None:
        self.page, self.name, self.outside = page, name, []
        page.on("request", lambda request: self.note(request.url, address))
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        self.places = {cell.id: place for place, cell in enumerate(notebook.cells)}
        self.sources = {cell.id: cell.source for cell in notebook.cells}
        self.code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        # A layout of its own: JupyterLab would open the notebooks of earlier visits again.
        page.goto(f"{address}/lab/workspaces/{name}/tree/notebooks/{name}.ipynb?token={TOKEN}")
        page.locator(".jp-Notebook .jp-Cell").nth(len(self.places) - 1).wait_for(
            state="attached", timeout=LONG
        )
        assert page.locator(".jp-Notebook").count() == 1
        self.wait_until_idle()

    def note(self, asked: str, address: str) -> None:
        """Remember what the page asks of other machines; nothing should need a network."""
        if not asked.startswith((address, address.replace("http", "ws", 1), "data:", "blob:")):
            self.outside.append(asked)

    def wait_until_idle(self) -> None:
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=LONG)

    def cell(self, cell_id: str):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self.places[cell_id])

    def output(self, cell_id: str):
        return self.cell(cell_id).locator(".jp-Cell-outputWrapper")

    def run_all(self) -> None:
        """Run, Run All Cells; wait until all unfolded cells have a number, or one has failed."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(
            """([places, failed]) => {
                const cells = document.querySelectorAll('.jp-Notebook .jp-Cell');
                return document.querySelector(failed) || places.every(place => /^$|\\[\\d+\\]/.test(
                    cells[place].querySelector('.jp-InputPrompt').textContent));
            }""",
            arg=[self.code, FAILED],
            timeout=LONG,
        )
        self.wait_until_idle()

    def errors(self) -> list[str]:
        """Tracebacks, and what JupyterLab says where it cannot show a widget."""
        found = self.page.locator(FAILED).all_inner_texts()
        for words in ("Error displaying widget", "Error creating widget"):
            found += self.page.get_by_text(words).all_inner_texts()
        return found

    def picture(self, cell_id: str) -> str:
        """The picture that a cell shows, as the address of its data."""
        image = self.output(cell_id).locator("img").first
        image.wait_for(timeout=LONG)
        return image.get_attribute("src")

    def changes(self, cell_id: str, act) -> None:
        """Do something, and wait until the one picture of the cell is another."""
        before = self.picture(cell_id)
        act()
        self.page.wait_for_function(
            """([place, before]) => {
                const cell = document.querySelectorAll('.jp-Notebook .jp-Cell')[place];
                const images = cell.querySelectorAll('.jp-Cell-outputWrapper img');
                return images.length == 1 && images[0].getAttribute('src') != before;
            }""",
            arg=[self.places[cell_id], before],
            timeout=LONG,
        )
        self.wait_until_idle()

    def answer(self, cell_id: str, source: str, message: str) -> None:
        """Type into an exercise, run it, and wait for what its check says."""
        from playwright.sync_api import expect

        editor = self.cell(cell_id).locator(".cm-content").first
        editor.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.press("Delete")
        self.page.keyboard.insert_text(source)
        editor.press("Control+Enter")
        expect(self.output(cell_id)).to_contain_text(message, timeout=60_000)
        self.wait_until_idle()

    def shoot(self, name: str, cell_id: str | None = None) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        if cell_id is not None:
            self.cell(cell_id).scroll_into_view_if_needed()
        self.page.screenshot(path=SHOTS / f"{self.name}_{name}.png")


@dataclass(frozen=True)
class Visit:
    """What a reader does in one notebook."""

    notebook: str
    explorer: str  # cells
    stub: str
    wrong: tuple[str, str]  # what replaces the stub's return, and what the check says to it
    right: str


VISITS = [
    Visit(
        "01_data",
        explorer="explorer",
        stub="exercise-2-code",
        wrong=("np.log1p(1e4 * counts / counts.sum(axis=0))", "total of each gene"),
        right="np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))",
    ),
    Visit(
        "04_ablations",
        explorer="soft-target-explorer",
        stub="stub-effective",
        wrong=("torch.special.entr(target).sum(1)", "that is the entropy"),
        right="(torch.exp(torch.special.entr(target).sum(1)) - 1) / (len(target) - 1)",
    ),
]


@pytest.fixture(params=VISITS, ids=lambda visit: visit.notebook, scope="module")
def visited(request, chromium, lab):
    """A notebook, opened and run to its end."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(LONG)
    reader = Reader(page, lab, request.param.notebook)
    reader.run_all()
    yield request.param, reader
    page.close()


def test_all_cells_run_and_nothing_fails(visited):
    _, reader = visited
    assert reader.errors() == []
    assert reader.outside == []
    reader.shoot("run")


def test_the_explorer_answers_to_the_keyboard(visited):
    visit, reader = visited
    explorer = reader.output(visit.explorer)
    slider = explorer.locator(".noUi-handle").first
    slider.scroll_into_view_if_needed()
    slider.focus()
    reader.changes(visit.explorer, lambda: reader.page.keyboard.press("ArrowRight"))
    reader.changes(visit.explorer, lambda: reader.page.keyboard.press("ArrowLeft"))
    # From control to control with the Tab key, through all of them and out of the explorer.
    controls = explorer.locator("select, input[type=checkbox], .noUi-handle")
    controls.first.focus()
    for number in range(controls.count()):
        assert controls.nth(number).evaluate("control => control == document.activeElement")
        reader.page.keyboard.press("Tab")
        reader.page.wait_for_timeout(200)
        while reader.page.evaluate(
            "document.activeElement.closest('.widget-readout, .jp-OutputPrompt') !== null"
        ):
            reader.page.keyboard.press("Tab")
    reader.shoot("explorer_keyboard", visit.explorer)


def test_the_explorer_answers_to_the_mouse(visited):
    visit, reader = visited
    explorer = reader.output(visit.explorer)
    track = explorer.locator(".noUi-base").first
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    reader.changes(
        visit.explorer,
        lambda: reader.page.mouse.click(
            box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2
        ),
    )
    menu = explorer.locator("select")
    if menu.count():
        reader.changes(visit.explorer, lambda: menu.first.select_option(index=1))
    tick = explorer.locator("input[type=checkbox]")
    if tick.count():
        reader.changes(visit.explorer, lambda: tick.first.click())
    reader.shoot("explorer_mouse", visit.explorer)


def test_an_exercise_is_solved_wrongly_and_then_rightly(visited):
    visit, reader = visited
    stub = reader.sources[visit.stub]
    assert "Not done yet" in reader.output(visit.stub).inner_text()

    def filled(value: str) -> str:
        return re.sub(r"return None.*", f"return {value}", stub)

    reader.answer(visit.stub, filled(visit.wrong[0]), visit.wrong[1])
    reader.shoot("exercise_wrong", visit.stub)
    reader.answer(visit.stub, filled(visit.right), "Correct.")
    reader.shoot("exercise_right", visit.stub)
    assert "Not yet" not in reader.output(visit.stub).inner_text()
    assert reader.errors() == []
    assert reader.outside == []


def test_solutions_are_folded_until_they_are_asked_for(visited):
    _, reader = visited
    solutions = [cell for cell in reader.places if "solution" in cell]
    assert solutions
    for name in solutions:
        code = reader.cell(name).locator(".cm-content").first
        assert not code.is_visible(), name
    folded = reader.cell(name).locator(".jp-InputPlaceholder")
    assert folded.inner_text().startswith("# A solution")
    folded.click()
    code.wait_for()
    reader.shoot("solution", name)
