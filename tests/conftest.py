"""Fixtures that several test files share."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image, ImageDraw

from heclip_lite.data.sections import make_section

ROOT = Path(__file__).resolve().parents[1]
# Markers whose tests must not skip, such as "browser,real_data": continuous integration sets it.
REQUIRED = set(os.environ.get("HECLIP_LITE_REQUIRE", "").split(",")) - {""}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """Several processes share the cores; numba, once it is used, sets the threads of all others."""
    threads = str(max(1, (os.cpu_count() or 1) // len(specs)))
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ.setdefault("OMP_NUM_THREADS", threads))


@pytest.hookimpl(wrapper=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Say which tests stay in one process, and in which order groups of them begin.

    What looks at the executed chapters comes first, for it begins by executing them; meanwhile
    slow tests that need none of it run, and then the slow ones that do.
    Each file makes a group, and its slow tests another.
    Whatever is held against one and the same contest makes one too.
    """

    def place(item) -> tuple[int, str]:
        slow = item.get_closest_marker("slow") is not None
        if "executed" in item.fixturenames:  # also by way of another fixture
            return (2, f"{item.path.stem}-book") if slow else (0, "book")
        if "whole_contest" in item.fixturenames:
            return 1, "contest"
        return (1, f"{item.path.stem}-slow") if slow else (3, item.path.stem)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(place(item)[1]))
    items.sort(key=lambda item: place(item)[0])
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Turn a skip into a failure where `HECLIP_LITE_REQUIRE` names one of the test's markers."""
    report = yield
    required = REQUIRED & {marker.name for marker in item.iter_markers()}
    if report.skipped and required and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"HECLIP_LITE_REQUIRE={','.join(sorted(required))}, but: {reason}"
    return report


OFFLINE = [sys.executable, str(ROOT / "book" / "tools" / "build" / "offline.py")]


@functools.cache
def why_not_offline() -> str:
    """Why no command can be started without a network here; empty where one can."""
    done = subprocess.run([*OFFLINE, sys.executable, "-c", ""], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture(scope="session")
def without_network() -> list[str]:
    """Words before a command that start it without a network; skips where the system has none."""
    if why_not_offline():
        pytest.skip(f"offline: {why_not_offline()}")
    return OFFLINE


@pytest.fixture(scope="session")
def run_build(request):
    """Run the build tool as ``make book`` does; fail with all it said where it fails.

    It runs without a network wherever the system allows that: the one execution that all tests
    share is then the proof that none is needed. Where tests ask for this proof, what was
    executed with a network does not count.
    """
    proof = any(item.get_closest_marker("offline") for item in request.session.items)
    before, after = ([], []) if why_not_offline() else (OFFLINE, ["--offline"] * proof)

    def run(*arguments: str) -> None:
        tool = [sys.executable, "-m", "book.tools.build.build_book"]
        command = [*before, *tool, *arguments, *after]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"

    return run


@pytest.fixture
def repository(tmp_path) -> Path:
    """A copy of the repository, for runs that must not meet those of other tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "repository" / name)
    return tmp_path / "repository"


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Do something once in this run of the tests: other processes wait for it, and then have it."""

    def call(name: str, work: Callable[[], None]) -> None:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            return work()
        shared = tmp_path_factory.getbasetemp().parent
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.done").exists():
                work()
                (shared / f"{name}.done").touch()

    return call


@pytest.fixture(scope="session")
def executed(run_build, once) -> Path:
    """Folder of the notebooks executed on the synthetic tissue; unchanged ones are used again."""
    once("notebooks", lambda: run_build("--notebooks-only"))
    return ROOT / "_build" / "notebooks" / "synthetic_fast"


@pytest.fixture(scope="session")
def workspace(executed: Path, tmp_path_factory) -> Path:
    """Folder of a copy of what the executed chapters left for later ones."""
    copy = tmp_path_factory.mktemp("left") / "workspace"
    shutil.copytree(ROOT / "_build" / "workspace" / "synthetic_fast", copy)
    return copy


@pytest.fixture(scope="session")
def site(executed: Path, run_build, once) -> Path:
    """Folder of the built site, from the same execution."""
    once("site", run_build)
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def address(site):
    """Address of the site on a small server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium():
    """A headless browser that reaches nothing but this machine; skips visibly where none is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"browser: none of {', '.join(names)} is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", *quiet]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def whole_contest(tmp_path_factory) -> Path:
    """Folder of a contest that nothing disturbed, on one thread."""
    from killing import contest, end, start

    folder = tmp_path_factory.mktemp("contest")
    end(start(contest, folder))
    return folder


@pytest.fixture
def toy_parts() -> dict:
    """Arguments of `make_section` for 6 x 6 spots on a drawn slide, 300 x 240 px of 2 um.

    The tissue fills the slide but for a margin of 20 px on three sides and of 60 px on the right,
    so that flipping or swapping the axes is noticed.
    """
    rng = np.random.default_rng(0)
    slide = Image.new("RGB", (300, 240), (244, 240, 243))
    pen = ImageDraw.Draw(slide)
    pen.rectangle((20, 20, 239, 219), fill=(222, 160, 200))
    for x, y in rng.uniform((22, 22), (236, 216), size=(400, 2)):
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(96, 60, 140))
    column, row = (grid.ravel() for grid in np.meshgrid(np.arange(6), np.arange(6)))
    spatial = np.column_stack([40 + 36 * column, 36 + 34 * row]).astype(float)
    # Twenty genes rise or fall from left to right, twenty from top to bottom, forty do neither.
    level = rng.gamma(2.0, 4.0, size=80)
    pattern = np.ones((36, 80))
    for first, place in ((0, column), (20, row)):
        pattern[:, first : first + 10] = (0.2 + place / 3)[:, None]
        pattern[:, first + 10 : first + 20] = (0.2 + (5 - place) / 3)[:, None]
    return {
        "counts": rng.poisson(level * pattern),
        "genes": [f"GENE{i}" for i in range(80)],
        "spatial": spatial,
        "name": "T1",
        "donor": "T",
        "um_per_px": 2.0,
        "spot_diameter_um": 55.0,
        "image": np.asarray(slide),
        "obs": pd.DataFrame({"array_row": row, "array_col": column}),
        "background": (244, 240, 243),
    }


@pytest.fixture
def toy_section(toy_parts):
    """A small section whose image lives in memory."""
    return make_section(**toy_parts)


@pytest.fixture(scope="session")
def small_sections() -> list:
    """Two donors of the synthetic tissue with two small sections each; not to be changed."""
    from heclip_lite.data.synthetic.tissue import synthetic_sections

    return synthetic_sections(2, 2, size_um=900, n_genes=60, seed=1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep what tests cache away from the user's cache folder; their processes share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        if "HECLIP_LITE_CACHE" not in os.environ:
            patch.setenv("HECLIP_LITE_CACHE", str(folder / "cache"))
        yield


@pytest.fixture
def full_disk():
    """Makes blocks in which no file of this process grows beyond some bytes, as on a full disk."""
    import resource

    @contextlib.contextmanager
    def block(room: int = 4096):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            # pytest keeps stderr in a file, and a bar of tqdm that cannot be shown keeps the lock
            # of all bars: the next thread that wants to show one would wait for ever.
            with contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return block


@pytest.fixture
def her2st_dir() -> Path:
    """Folder of the her2st files; the test is skipped, visibly, where there is none."""
    named = os.environ.get("HECLIP_LITE_DATA")
    if not named or not (Path(named) / "her2st").is_dir():
        pytest.skip("real data: HECLIP_LITE_DATA is not set or has no her2st")
    return Path(named) / "her2st"
