"""Whom a page shuts out: axe's rules on every page of the site, light and dark.

What is folded is unfolded first, for axe looks at what shows.
Contrast takes axe the most time by far, and depends on few things, so it is asked of one element of
each look: whatever has the same ink, size and grounds has the same contrast.
"""

from __future__ import annotations

import contents
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SERIOUS = {"serious", "critical"}
CONTRAST = "color-contrast"
COLOURS = [CONTRAST, "link-in-text-block"]  # all that a dark page changes
# Marks the first text of each look; says how many looks there are.
LOOKS = """() => {
    const seen = new Set();
    for (const part of document.querySelectorAll("[data-look]")) part.removeAttribute("data-look");
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const part = texts.currentNode.parentElement;
        if (!texts.currentNode.nodeValue.trim() || !part.checkVisibility()) continue;
        const own = getComputedStyle(part);
        let look = [own.color, own.fontSize, own.fontWeight, own.textDecorationLine].join();
        for (let under = part; under; under = under.parentElement) {
            const style = getComputedStyle(under);
            look += [style.backgroundColor, style.backgroundImage, style.opacity].join();
        }
        if (!seen.has(look)) part.dataset.look = "";
        seen.add(look);
    }
    return seen.size;
}"""
UNFOLD = """() => {
    for (const part of document.querySelectorAll("details:not([open])")) part.open = true;
    for (const part of document.querySelectorAll(".toggle-hidden > .toggle-button")) part.click();
}"""
# What repeats itself, as the arrow of a deck does, changes no colour.
SETTLED = """() => document.getAnimations().every(motion =>
    motion.playState !== "running" || motion.effect.getComputedTiming().iterations > 1)"""


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
    page.goto(address)
    page.evaluate("window.MathJax?.startup?.promise")
    page.evaluate(UNFOLD)
    assert not page.locator("details:not([open]), .toggle-hidden:has(> .toggle-button)").count()
    page.wait_for_function(SETTLED)
    return page


def serious(results) -> list[str]:
    """What breaks a rule seriously: the rule, the place and what to do."""
    return [
        f"{kind['id']} at {node['target']}: {node['html'][:120]}\n  {node['failureSummary']}"
        for kind in results.response["violations"]
        if kind["impact"] in SERIOUS
        for node in kind["nodes"]
    ]


def in_form(axe, page) -> list[str]:
    """Violations of all rules but those on colours."""
    off = {rule: {"enabled": False} for rule in COLOURS}
    return serious(axe.run(page, options={"resultTypes": ["violations"], "rules": off}))


def in_colours(axe, page) -> list[str]:
    """Violations of the rules on colours, in the theme that the page has now."""
    page.wait_for_function(SETTLED)
    assert page.evaluate(LOOKS), "a page without any text"
    only = {"type": "rule", "values": COLOURS}
    where = {"include": [["[data-look]"]]}
    options = {"resultTypes": ["violations"], "runOnly": only}
    return serious(axe.run(page, context=where, options=options))


@pytest.mark.parametrize("name", [*contents.pages_and_beside(), *contents.decks()])
def test_page_shuts_nobody_out(name, axe, browser, address):
    page = unfolded(browser, f"{address}/{name}.html")
    found = in_form(axe, page) + in_colours(axe, page)
    assert not found, "light:\n" + "\n".join(found)
    if "/" in name:  # a page of the book: the theme's switch is an attribute
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
    else:
        page.emulate_media(color_scheme="dark")
    found = in_colours(axe, page)
    assert not found, "dark:\n" + "\n".join(found)
    page.close()


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        ("document.querySelector('.bd-article img').removeAttribute('alt')", "image-alt"),
        ("document.querySelector('.bd-article p').style.color = '#bbb'", CONTRAST),
        ("[...document.querySelectorAll('.bd-article li')].pop().style.color = '#bbb'", CONTRAST),
        ("document.querySelector('.bd-article section').style.opacity = 0.4", CONTRAST),
        ("document.documentElement.removeAttribute('lang')", "html-has-lang"),
    ],
)
def test_harm_done_to_a_page_is_found(harm, rule, axe, browser, address):
    page = unfolded(browser, f"{address}/book/index.html")
    assert not in_form(axe, page) + in_colours(axe, page)
    page.evaluate(harm)
    found = in_form(axe, page) + in_colours(axe, page)
    assert [line for line in found if line.startswith(rule)]
    page.close()
