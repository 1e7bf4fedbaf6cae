"""The site in a real browser that reaches nothing but this machine; JupyterLab: test_lab.py.

``make screenshots`` takes pictures of every page on the way: ``_build/screenshots/<look>/``.
"""

from __future__ import annotations

import os
from pathlib import Path

import contents
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "_build" / "screenshots"
LOOKS = {  # width and height of the window, and the colours that the reader's system asks for
    "light": (1280, 900, "light"),
    "dark": (1280, 900, "dark"),
    "phone": (390, 844, "light"),
}

CUT_OFF = """() => [...document.querySelectorAll(".cell_output table.dataframe")]
    .filter(table => table.offsetWidth > table.parentElement.clientWidth)
    .map(table => table.innerText.slice(0, 80))"""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def context(chromium):
    context = chromium.new_context()
    yield context
    context.close()


def turn(page, look: str) -> None:
    """Give an open page another look."""
    width, height, colours = LOOKS[look]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=colours)
    page.wait_for_function(
        "([width, colours]) => innerWidth == width"
        " && matchMedia(`(prefers-color-scheme: ${colours})`).matches",
        arg=[width, colours],
    )


@pytest.mark.parametrize("name", contents.pages_and_beside())
def test_page_is_sound(name, context, address):
    page = context.new_page()
    turn(page, "light")
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
    page.goto(f"{address}/{name}.html")
    page.evaluate("window.MathJax?.startup?.promise")
    for look in LOOKS:
        turn(page, look)
        width, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= shown, f"{look}: the page is {width} px wide on a screen of {shown}"
        hidden = page.evaluate(CUT_OFF) if look != "phone" else []  # a phone scrolls a wide table
        assert not hidden, f"{look}: columns of these tables are cut off: {hidden}"
        if "/" in name:  # a page of the book follows the reader's system
            theme = f"document.documentElement.dataset.theme == '{LOOKS[look][2]}'"
            page.wait_for_function(theme, timeout=10_000)
        if os.environ.get("HECLIP_LITE_SCREENSHOTS"):
            (SHOTS / look).mkdir(parents=True, exist_ok=True)
            shot = SHOTS / look / f"{name.replace('/', '_')}.jpg"  # half the time of a PNG
            page.screenshot(path=shot, full_page=True, quality=80, animations="disabled")
    page.wait_for_load_state("networkidle")
    assert not complaints, complaints
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() >= formulas, "a formula is not set"
    assert page.locator("mjx-merror").count() == 0, "a formula is wrong"
    page.close()


def test_the_address_of_the_site_leads_to_the_first_page(chromium, address):
    page = chromium.new_page()
    page.goto(f"{address}/")
    page.wait_for_url(f"{address}/book/index.html")
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


def test_on_paper_everything_is_unfolded_light_and_within_the_sheet(chromium, address):
    page = chromium.new_page()
    turn(page, "dark")
    page.goto(f"{address}/notebooks/02_contrastive_training.html", wait_until="networkidle")
    look = """() => ({
        folded: document.querySelectorAll(
            ".bd-article details:not([open]), .bd-article .toggle-hidden").length,
        theme: document.documentElement.dataset.theme,
    })"""
    before = page.evaluate(look)
    assert before["folded"] and before["theme"] == "dark"
    page.evaluate(f"addEventListener('beforeprint', () => window.printed = ({look})())")
    page.pdf(format="A4")
    assert page.evaluate("window.printed") == {"folded": 0, "theme": "light"}
    assert page.evaluate(look) == before, "on the screen all is as it was"
    page.set_viewport_size({"width": 680, "height": 960})  # the text of an A4 sheet at 96 dpi
    page.emulate_media(media="print")
    furniture = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-area"
    assert page.locator(furniture).count() >= 4
    assert not [part for part in page.locator(furniture).all() if part.is_visible()]
    wide, sheet = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= sheet
    page.close()


def test_what_scrolls_can_be_scrolled_from_the_keyboard(chromium, address):
    page = chromium.new_page()
    turn(page, "phone")
    page.goto(f"{address}/notebooks/02_contrastive_training.html", wait_until="networkidle")
    page.evaluate("MathJax.startup.promise")
    code = page.locator(".cell_input pre").evaluate_all(
        "parts => parts.filter(p => p.scrollWidth > p.clientWidth).map(p => p.tabIndex)"
    )
    assert code and set(code) == {0}
    wide = page.locator(".cell_input pre[tabindex='0']").first
    wide.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("part => part.scrollLeft > 0", arg=wide.element_handle())
    page.close()


def test_chapters_show_their_numbers(chromium, address):
    page = chromium.new_page()
    page.goto(f"{address}/notebooks/02_contrastive_training.html", wait_until="networkidle")
    numbers = "parts => parts.map(part => part.dataset.chapter)"
    assert page.locator(".bd-article h1").evaluate_all(numbers) == ["02"]
    listed = page.locator(".bd-links a[data-chapter]").evaluate_all(numbers)
    assert listed == [name[10:12] for name in contents.pages() if name.startswith("notebooks/")]
    assert page.locator(".prev-next-area [data-chapter]").evaluate_all(numbers) == ["01", "03"]
    page.close()
