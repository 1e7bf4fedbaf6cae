"""The site in a real browser that reaches nothing but this machine; JupyterLab: test_lab.py.

Screenshots of every page go to ``_build/screenshots/<look>/``.
"""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "_build" / "screenshots"
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def toc_pages() -> list[str]:
    """Every page of the table of contents, and those beside it."""

    def files(entry: dict) -> list[str]:
        inner = [e for key in ("parts", "chapters", "sections") for e in entry.get(key, [])]
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [name for e in inner for name in files(e)]

    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [*files(toc), "genindex", "search", "404", "index"]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module", params=LOOKS)
def look(request, chromium):
    """Name of a look, and a browser context that has it."""
    context = chromium.new_context(**LOOKS[request.param])
    yield request.param, context
    context.close()


@pytest.mark.parametrize("name", toc_pages())
def test_page_is_sound(name, look, address):
    kind, context = look
    page = context.new_page()
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda r: (
            None
            if r.url.startswith((address, "data:", "blob:"))
            else complaints.append(f"outside: {r.url}")
        ),
    )
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    page.evaluate("window.MathJax?.startup?.promise")
    (SHOTS / kind).mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / kind / f"{name.replace('/', '_')}.png", full_page=True)
    assert not complaints, complaints
    width, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= shown, f"the page is {width} px wide on a screen of {shown}"
    if "/" in name:  # a page of the book follows the reader's system
        expected = "dark" if kind == "dark" else "light"
        assert page.evaluate("document.documentElement.dataset.theme") == expected
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() >= formulas, "a formula is not set"
    assert page.locator("mjx-merror").count() == 0, "a formula is wrong"
    page.close()


def test_search_finds_a_word_without_a_network(chromium, address):
    page = chromium.new_page()
    page.goto(f"{address}/search.html?q=spot", wait_until="networkidle")
    page.locator("#search-results li a").first.wait_for()
    page.close()


def test_hidden_cells_unfold(chromium, address):
    page = chromium.new_page()
    page.goto(f"{address}/notebooks/02_contrastive_training.html", wait_until="networkidle")
    folded = page.locator("details.hide").first
    folded.locator("summary").click()
    assert folded.locator("pre").first.is_visible()
    page.close()
