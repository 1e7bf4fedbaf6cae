"""Whom a page shuts out: axe's rules on every page of the site, light and dark.

What is folded is unfolded first, for axe looks at what shows.
"""

from __future__ import annotations

import contents
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SERIOUS = {"serious", "critical"}
COLOURS = ["color-contrast", "link-in-text-block"]  # all that a dark page changes
UNFOLD = """() => {
    for (const part of document.querySelectorAll("details:not([open])")) part.open = true;
    for (const part of document.querySelectorAll(".toggle-hidden > .toggle-button")) part.click();
}"""
SETTLED = "() => document.getAnimations().every(motion => motion.playState !== 'running')"


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


@pytest.fixture(scope="module")
def browser(chromium):
    """A context without motion: a colour on its way to another one has no contrast yet."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    yield context
    context.close()


def unfolded(browser, address: str):
    page = browser.new_page()
    page.goto(address, wait_until="networkidle")
    page.evaluate("window.MathJax?.startup?.promise")
    page.evaluate(UNFOLD)
    page.wait_for_function(SETTLED)
    return page


def violations(axe, page, rules: list[str] | None = None) -> list[str]:
    """What breaks a rule seriously: the rule, the place and what to do."""
    options: dict = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = axe.run(page, options=options).response["violations"]
    return [
        f"{kind['id']} at {node['target']}: {node['html'][:120]}\n  {node['failureSummary']}"
        for kind in found
        if kind["impact"] in SERIOUS
        for node in kind["nodes"]
    ]


@pytest.mark.parametrize("name", contents.pages_and_beside())
def test_page_shuts_nobody_out(name, axe, browser, address):
    page = unfolded(browser, f"{address}/{name}.html")
    found = violations(axe, page)
    assert not found, "light:\n" + "\n".join(found)
    if "/" in name:  # a page of the book: the theme's switch is an attribute
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
    else:
        page.emulate_media(color_scheme="dark")
    page.wait_for_function(SETTLED)
    found = violations(axe, page, COLOURS)
    assert not found, "dark:\n" + "\n".join(found)
    page.close()


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        ("document.querySelector('.bd-article img').removeAttribute('alt')", "image-alt"),
        ("document.querySelector('.bd-article p').style.color = '#bbb'", "color-contrast"),
        ("document.documentElement.removeAttribute('lang')", "html-has-lang"),
    ],
)
def test_harm_done_to_a_page_is_found(harm, rule, axe, browser, address):
    page = unfolded(browser, f"{address}/book/index.html")
    assert not violations(axe, page)
    page.evaluate(harm)
    assert [line for line in violations(axe, page) if line.startswith(rule)]
    page.close()
