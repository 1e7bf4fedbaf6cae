"""One deck a chapter: whole, self-contained, with every figure and no solution; and it opens."""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "_build" / "screenshots" / "decks"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def tools():
    """The build tools, importable as they are from their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        from book.tools import settings
        from book.tools.build import chapters, decks, leaks

        yield {"chapters": chapters, "decks": decks, "leaks": leaks, "settings": settings}


@cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def slides(page: BeautifulSoup) -> list:
    return page.select(".slides > section > section")


def shown(slide) -> str:
    """Text of a slide without the speaker's notes, spaces made alike."""
    parts = [text for text in slide.find_all(string=True) if not text.find_parent("aside")]
    return re.sub(r"\s+", " ", " ".join(parts)).strip()


# How a chapter is read


def cell(kind: str, source: str, tags=(), **more) -> nbformat.NotebookNode:
    make = getattr(nbformat.v4, f"new_{kind}_cell")
    return make(source, metadata={"tags": list(tags), **more.pop("metadata", {})}, **more)


def png(width: int, height: int) -> str:
    """A white picture, in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def picture(alt='Two "spots" & <more>', caption="A {term}`spot`, $n = 1$."):
    output = nbformat.v4.new_output("display_data", data={"image/png": png(60, 50)})
    notes = {"mystnb": {"image": {"alt": alt}, "figure": {"caption": caption, "name": "f"}}}
    return cell("code", "draw()", outputs=[output], metadata=notes)


def chapter(*, pitfalls="- **One.**\n  A trap.", built=()):
    parts = [
        cell("markdown", "# Is it real?\n\nA hook."),
        cell(
            "markdown",
            "## Objectives\n\n:::{admonition} After\n:class: tip\n\n- say a {term}`word`;\n:::",
        ),
        cell("markdown", "## Why\n\nBecause of [this](01_data.ipynb#part)."),
        cell("markdown", "## Build: slowly\n\n### First step\n\nDivide:\n\n$$a = \\frac{b}{c}$$"),
        picture(),
        *built,
        cell("markdown", f"## Pitfalls\n\n{pitfalls}"),
        cell(
            "markdown",
            "## Exercises\n\n::::{admonition} Exercise 1: think\n:class: important\n\nWhat if?\n\n"
            ":::{admonition} Hint\n:class: dropdown\n\nLook up.\n:::\n::::",
        ),
        cell("markdown", "The secret answer.", ["solution"]),
        cell(
            "markdown",
            "## Take-aways\n\n- Remember.\n\n## Next\n\n[Terms](../book/glossary.md#spot).",
        ),
    ]
    return nbformat.v4.new_notebook(cells=parts)


def test_a_deck_follows_the_chapter(tools):
    page = BeautifulSoup(tools["decks"].deck(chapter(), "08_test", "09_more"), "html.parser")
    texts = [shown(slide) for slide in slides(page)]
    assert "chapter 08 Is it real? A hook." in texts[0]
    assert texts[1] == "After this chapter you can say a word;"
    assert texts[2] == "First step Divide: $$a = \\frac{b}{c}$$"
    assert texts[3] == "First step A spot, $n = 1$."
    assert texts[4:7] == ["Pitfalls One. A trap.", "Discuss What if?", "Take-aways Remember."]
    assert texts[7].startswith("Next Terms .")
    assert page.img["alt"] == 'Two "spots" & <more>'
    assert page.img.parent["class"] == ["side"], "a square figure has its caption at its side"
    targets = {a["href"] for a in page.select(".slides a")}
    assert {"../notebooks/08_test.html", "09_more.html", "../book/glossary.html#spot"} <= targets
    assert "../notebooks/01_data.html#part" in targets, "links in notes are a deck's too"
    assert "secret" not in page.get_text()
    assert "Look up." in slides(page)[5].aside.get_text() and "Look up." not in texts[5]


def test_long_parts_go_over_several_slides_none_of_them_lonely(tools):
    points = "\n".join(f"- **Point {i}.** {'word ' * 24}" for i in range(6))
    found = tools["decks"].slides(chapter(pitfalls=points), "08_test", None)
    counts = [s.text.count("Point") for s in found if s.text.startswith("## Pitfalls")]
    assert sum(counts) == 6 and len(counts) == 2 and min(counts) >= 2


def test_a_chapter_that_lacks_a_part_is_named(tools):
    notebook = chapter()
    notebook.cells = [c for c in notebook.cells if "Pitfalls" not in c.source]
    with pytest.raises(tools["settings"].BuildError, match=r"08_test.*'## Pitfalls'"):
        tools["decks"].slides(notebook, "08_test", None)


def test_paragraphs_are_points_where_there_are_no_bullets(tools):
    text = "**One.**\nA trap.\n\n**Two.**\nAnother, {term}`deep <depth>`."
    assert tools["chapters"].items(text) == ["**One.** A trap.", "**Two.** Another, deep."]


# As shipped with the site


@each_notebook
def test_every_chapter_has_a_deck_with_its_parts(path, site):
    page = parse(site / "decks" / f"{path.stem}.html")
    headings = [slide.find(["h1", "h2"]).get_text(strip=True) for slide in slides(page)]
    for heading in ("After this chapter you can", "Pitfalls", "Discuss", "Take-aways", "Next"):
        assert heading in headings
    assert page.h1 and page.title.get_text().startswith(page.h1.get_text())
    back = {a["href"] for a in page.find_all("a", href=True)}
    assert f"../notebooks/{path.stem}.html" in back
    chapter_page = parse(site / "notebooks" / f"{path.stem}.html")
    assert chapter_page.find("a", href=f"../decks/{path.stem}.html")


@each_notebook
def test_a_deck_loads_nothing_from_outside_and_lacks_nothing(path, site):
    deck = site / "decks" / f"{path.stem}.html"
    page = parse(deck)
    loaded = [tag.get("src") or tag.get("href") for tag in page.find_all(["script", "link", "img"])]
    for address in filter(None, loaded):
        if address.startswith("data:"):
            continue
        assert not urlparse(address).netloc, address
        assert (deck.parent / unquote(address)).exists(), address
    for name in ("reveal.js", "LICENSE"):
        assert (deck.parent / "reveal" / name).stat().st_size


@each_notebook
def test_a_deck_shows_every_figure_with_its_words(path, site, executed):
    found = {}
    for cell in nbformat.read(executed / path.name, as_version=4).cells:
        if "solution" in cell.metadata.get("tags", []):
            continue
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                png = output["data"]["image/png"].replace("\n", "")
                found[f"data:image/png;base64,{png}"] = cell.metadata.mystnb
    images = {
        image["src"]: image for image in parse(site / "decks" / f"{path.stem}.html").find_all("img")
    }
    assert found and images.keys() == found.keys()
    for source, notes in found.items():
        assert images[source]["alt"] == notes.image.alt
        assert images[source].find_parent("figure").figcaption.get_text(strip=True)


@each_notebook
def test_no_solution_is_in_a_deck(path, site, tools):
    words = re.sub(r"\s+", " ", parse(site / "decks" / f"{path.stem}.html").get_text())
    master = nbformat.read(path, as_version=4)
    for solution in (c for c in master.cells if "solution" in c.metadata.get("tags", [])):
        for line in tools["leaks"].own_lines(solution.source):
            assert len(line) < 20 or line not in words, f"{solution.id}: {line}"


# In a browser, as a teacher would


@pytest.fixture(scope="module")
def projector(chromium):
    """A browser window of a projector's size."""
    context = chromium.new_context(viewport={"width": 1280, "height": 720}, color_scheme="dark")
    yield context
    context.close()


@pytest.mark.slow
@pytest.mark.browser
@each_notebook
def test_a_deck_opens_from_a_file_and_steps_by_keyboard(path, site, projector):
    page = projector.new_page()
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url),
    )
    page.goto((site / "decks" / f"{path.stem}.html").as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    total = page.evaluate("Reveal.getTotalSlides()")
    assert total == len(slides(parse(site / "decks" / f"{path.stem}.html")))
    SHOTS.mkdir(parents=True, exist_ok=True)
    for number in range(total):
        assert page.evaluate("Reveal.getSlidePastCount()") == number
        size = page.evaluate(
            """() => {
              const slide = Reveal.getCurrentSlide();
              const inner = [...slide.querySelectorAll("h1, h2, p, li, figure, mjx-container")]
                .filter((e) => !e.closest("aside, mjx-assistive-mml"));
              return {
                bottom: Math.max(...inner.map((e) => e.getBoundingClientRect().bottom)),
                right: Math.max(...inner.map((e) => e.getBoundingClientRect().right)),
                scroll: [slide.scrollHeight, slide.scrollWidth],
                wrong: slide.querySelectorAll("mjx-merror").length,
                bare: (slide.innerText.match(/\\$|\\\\frac/g) || []).length,
              };
            }"""
        )
        where = f"slide {number + 1}"
        assert size["bottom"] <= 690 and size["right"] <= 1280, f"{where} runs over: {size}"
        assert size["scroll"][0] <= 720 and size["scroll"][1] <= 1280, f"{where}: {size}"
        assert not size["wrong"] and not size["bare"], f"{where}: a formula is not set"
        page.screenshot(path=SHOTS / f"{path.stem}_{number + 1:02d}.png")
        page.keyboard.press("ArrowRight")
    assert page.evaluate("Reveal.isLastSlide()")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)", "a deck is light on every system"
    assert not complaints, complaints
    page.close()
