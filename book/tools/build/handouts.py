"""What the book says of its handouts: the line in each chapter, the table, the other edition."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.tools.build.leaks import tags
from book.tools.build.student import ALL
from book.tools.settings import BuildError, notebooks, shown


def _links(stem: str) -> list[str]:
    """HTML links to the deck and the notebooks of a chapter, from a page one folder down.

    They are HTML because Sphinx does not know these files: they are put beside its pages.
    """
    return [
        f'<a href="../decks/{stem}.html">slides</a>',
        f'<a href="../student/{stem}.ipynb" download>student\'s copy</a>',
        f'<a href="../_sources/notebooks/{stem}.ipynb" download>notebook with solutions</a>',
    ]


def line(stem: str) -> NotebookNode:
    """Cell below a chapter's title that leads to what can be taken along."""
    links = " · ".join(_links(stem))
    text = f'<p class="handouts">To take along: {links}</p>'
    return nbformat.v4.new_markdown_cell(text, id="handouts")


def table() -> str:
    """Table of all handouts for the page about them, then the archive of all."""
    rows = ["| Chapter | Slides | Student's copy | With solutions |", "|:--|:--|:--|:--|"]
    for path in notebooks():
        chapter = f"{path.stem[:2]} [](../notebooks/{path.name})"
        rows.append(f"| {chapter} | " + " | ".join(_links(path.stem)) + " |")
    archive = f'<a href="../student/{ALL}" download>All student\'s copies in one archive</a>'
    return "\n".join([*rows, "", f"{archive}, with the tables that some chapters read."])


def unfold(page: NotebookNode) -> None:
    """Open the solutions of a staged chapter, and say above code that it is one."""
    opened = []
    for cell in page.cells:
        if "solution" in tags(cell):
            cell.metadata.tags = [tag for tag in tags(cell) if tag != "hide-cell"]
            cell.source = cell.source.replace(":class: dropdown\n", "")
            if cell.cell_type == "code":
                opened.append(nbformat.v4.new_markdown_cell("**Solution**", id=f"is-{cell.id}"))
        opened.append(cell)
    page.cells = opened


def rename(config: Path) -> None:
    """Put the edition into the title of a staged configuration."""
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [
        f"{text.rstrip()} (instructor's edition)\n" if text.startswith("title: ") else text
        for text in lines
    ]
    if changed == lines:
        raise BuildError(f"{shown(config)} has no title.")
    config.write_text("".join(changed), encoding="utf-8")
