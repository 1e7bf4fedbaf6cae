"""One reveal.js deck a chapter, made from its executed notebook through nbconvert.

A deck shows the question, the objectives, formulas and figures in the order of the chapter, its
pitfalls, a question to discuss, and what to take away. The chapter's prose goes into the
speaker's notes. Nothing is loaded from a network: reveal.js comes from the package
sphinx-revealjs, and MathJax is the book's own.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import nbformat
import yaml
from nbconvert import SlidesExporter
from nbformat import NotebookNode

from book.tools.build.chapters import Figure, boxes, formulas, items, part, pieces, plain, title
from book.tools.settings import ROOT, BuildError, notebooks, run_folder

TEMPLATES = Path(__file__).parent / "templates"
REVEAL = files("sphinx_revealjs") / "_static" / "revealjs"
REVEAL_FILES = ("dist/reveal.js", "dist/reveal.css", "dist/reset.css", "plugin/notes/notes.js")
WIDTH, HEIGHT = 1280, 720  # pixels; a projector shows the same at any size
LINES, SIGNS, GAP = 12.5, 66, 0.3  # what one slide of text holds; between points
# Parts whose prose has slides of its own, or none.
LISTED = ("Objectives", "Prerequisites", "Why", "Pitfalls", "Exercises", "Take-aways", "Next")
BLANK = "\n\n"
SQUARE = 1.45  # a figure less wide than this has its caption at its side


@dataclass
class Slide:
    """One slide: Markdown to show, and Markdown for the speaker."""

    text: str
    notes: str = ""


def slides(notebook: NotebookNode, stem: str, following: str | None) -> list[Slide]:
    """The slides of one executed chapter; `following` is the stem of the next, if any.

    Raises
    ------
    BuildError
        If the chapter lacks a part that each deck has.
    """
    question, hook = title(notebook)
    found = pieces(notebook)
    for word in ("Objectives", "Why", "Pitfalls", "Exercises", "Take-aways", "Next"):
        if not part(found, word):
            raise BuildError(f"No slides for {stem}: nothing stands under '## {word}'.")
    tasks = [b for b in boxes(part(found, "Exercises")) if b.title.startswith("Exercise")]
    if not tasks:
        raise BuildError(f"No slides for {stem}: no box '{{admonition}} Exercise 1' to discuss.")
    exercise = tasks[0]
    hints = "\n\n".join(f"**{box.title}.** {plain(box.text)}" for box in exercise.inner)
    chapter, why = f"../notebooks/{stem}.html", part(found, "Why")
    course = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"]
    return [
        Slide(
            f'<p class="quiet">{course} · chapter {stem[:2]}</p>\n\n# {question}\n\n'
            f"{plain(hook or why.partition(BLANK)[0])}\n\n[Read the chapter]({chapter})",
            plain(why),
        ),
        *_points("After this chapter you can", items(part(found, "Objectives"))),
        *_shown(found),
        *_points("Pitfalls", items(part(found, "Pitfalls"))),
        Slide(f"## Discuss\n\n{plain(exercise.text)}", hints),
        *_points("Take-aways", items(part(found, "Take-aways"))),
        Slide(f"## Next\n\n{plain(part(found, 'Next'))}\n\n{_onward(stem, following)}"),
    ]


def _shown(found: list) -> list[Slide]:
    """Formulas up to the pitfalls, and all figures; each with the prose around it as notes."""
    made, said = [], ""
    for piece in found:
        heading = f"## {re.sub('^Build: ', '', piece.title)}"
        if not piece.part.startswith(LISTED):
            said += f"\n\n{piece.text}"
            lines = [f"{lead}\n\n$${tex}$$" for lead, tex in formulas(piece.text)]
            for block in _fitted(lines, 2):
                made.append(Slide(f"{heading}\n\n" + "\n\n".join(block), plain(piece.text)))
        if piece.figure:
            made.append(Slide(f"{heading}\n\n{_figure(piece.figure)}", plain(said)))
            said = ""
    return made


def _figure(figure: Figure) -> str:
    side = ' class="side"' if figure.aspect < SQUARE else ""
    return (
        f'<figure{side}>\n<img alt="{escape(figure.alt)}" '
        f'src="data:image/png;base64,{figure.png}">\n'
        f"<figcaption>\n\n{plain(figure.caption)}\n\n</figcaption>\n</figure>"
    )


def _points(heading: str, points: list[str]) -> list[Slide]:
    """Slides with these points, as many as fit on each."""
    return [
        Slide(f"## {heading}\n\n" + "\n".join(f"- {point}" for point in block))
        for block in _fitted(points)
    ]


def _fitted(texts: list[str], formula_lines: int = 0) -> list[list[str]]:
    """`texts` in groups of at most `LINES` lines; a displayed formula takes some more."""
    needs = [
        sum(-(-len(line) // SIGNS) for line in text.splitlines() if line) + GAP + formula_lines
        for text in texts
    ]
    fewest = _split(texts, needs, LINES)
    if len(fewest) < 2:
        return fewest
    # As many slides as it takes, but none with a lonely last point.
    even = sum(needs) / len(fewest) + max(needs) / 2
    return min((_split(texts, needs, min(even, LINES)), fewest), key=len)


def _split(texts: list[str], needs: list[float], room: float) -> list[list[str]]:
    groups: list[list[str]] = []
    left = 0.0
    for text, need in zip(texts, needs, strict=True):
        if need > left:
            groups.append([])
            left = room
        groups[-1].append(text)
        left -= need
    return groups


def _onward(stem: str, following: str | None) -> str:
    links = [f"[Read this chapter](../notebooks/{stem}.html)"]
    if following:
        links.append(f"[Slides of chapter {following[:2]}]({following}.html)")
    links.append("[All slides](../book/decks.html)")
    return " · ".join(links)


def deck(notebook: NotebookNode, stem: str, following: str | None = None) -> str:
    """The whole deck of one executed chapter as a page."""
    cells = []
    for slide in slides(notebook, stem, following):
        cells.append(_cell(_linked(slide.text), "slide"))
        if slide.notes:
            cells.append(_cell(_linked(slide.notes), "notes"))
    page = nbformat.v4.new_notebook(cells=cells)
    page.metadata.update(title=title(notebook)[0], chapter=f"../notebooks/{stem}.html")
    exporter = SlidesExporter(
        extra_template_basedirs=[str(TEMPLATES)],
        template_name="deck",
        reveal_url_prefix="reveal",
        reveal_width=str(WIDTH),
        reveal_height=str(HEIGHT),
        exclude_anchor_links=True,
    )
    return exporter.from_notebook_node(page)[0]


def _cell(text: str, kind: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})


def _linked(text: str) -> str:
    """Links of a notebook, as a deck beside the chapters has them."""
    text = re.sub(r"\]\((\w+)\.ipynb(#[^)]*)?\)", r"](../notebooks/\1.html\2)", text)
    return re.sub(r"\]\((\.\./book/[\w/-]+)\.md(#[^)]*)?\)", r"](\1.html\2)", text)


def write_decks(site: Path, data: str, profile: str) -> list[Path]:
    """Write the deck of each chapter, and what it loads, under ``decks/`` of a built site."""
    folder = site / "decks"
    (folder / "reveal").mkdir(parents=True, exist_ok=True)
    for name in (*REVEAL_FILES, "LICENSE"):
        (folder / "reveal" / Path(name).name).write_bytes(REVEAL.joinpath(name).read_bytes())
    shutil.copy2(TEMPLATES / "deck" / "deck.css", folder)
    stems = [path.stem for path in notebooks()]
    written = []
    for stem, following in zip(stems, [*stems[1:], None], strict=True):
        executed = nbformat.read(run_folder(data, profile) / f"{stem}.ipynb", as_version=4)
        path = folder / f"{stem}.html"
        path.write_text(deck(executed, stem, following), encoding="utf-8")
        written.append(path)
    return written
