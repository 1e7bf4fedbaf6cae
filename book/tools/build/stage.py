"""Lay out what Sphinx reads: the book, the executed notebooks and the generated tables.

The staging folder keeps the repository's relative paths,
so that the edit, Colab and Binder links of each page are right.
"""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path

import nbformat
import yaml

from book.tools.build import benchmark_page, dense_page, handouts, scale_page
from book.tools.build.run_notebooks import result_files
from book.tools.settings import (
    BUILD,
    COURSE,
    LITTER,
    ROOT,
    TOOLS,
    BuildError,
    notebooks,
    run_folder,
    shown,
    site_address,
)
from heclip_course import quiz

STAGE = BUILD / "stage"
INSTRUCTOR_STAGE = BUILD / "instructor_stage"
WIDGET = "application/vnd.jupyter.widget-view+json"
ASKED = re.compile(r"quiz\.ask\(\"(\d\d)\"\)")


def make_stage(data: str, profile: str, records: list[dict], *, instructor: bool = False) -> Path:
    """Fill a staging folder anew from the executed notebooks of one run.

    In the instructor's edition solutions stand open.
    """
    stage = INSTRUCTOR_STAGE if instructor else STAGE
    copy_book(stage)
    (stage / "notebooks").mkdir()
    folder = run_folder(data, profile)
    for notebook in notebooks():
        page = for_the_site(nbformat.read(folder / notebook.name, as_version=4))
        page.cells.insert(1, handouts.line(notebook.stem))
        if instructor:
            handouts.unfold(page)
        nbformat.write(page, stage / "notebooks" / notebook.name)
    for page in (benchmark_page, dense_page, scale_page):
        for marker, text in page.fill_in(stage / "book" / "_static").items():
            fill(stage / "book" / page.PAGE, marker, text)
    fill(stage / "book" / "status.md", "status-table", status_table(records, folder / "results"))
    fill(stage / "book" / "decks.md", "deck-table", handouts.table())
    if instructor:
        handouts.rename(stage / "_config.yml")
    return stage


def copy_book(stage: Path) -> None:
    """Begin a staging folder anew with the pages of the book and its settings."""
    shutil.rmtree(stage, ignore_errors=True)
    skip = shutil.ignore_patterns("tools", "results", COURSE.name, *LITTER)
    shutil.copytree(ROOT / "book", stage / "book", ignore=skip)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, stage / name)


def for_the_site(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Copy of an executed notebook without what a page must not show or load.

    Injected parameters are hidden, and a folded solution says that it is one.
    Widgets go: a page would fetch their scripts from the network, and they answer only to a
    running kernel; the static figure beside them stays.
    A quiz becomes text, with its answers folded.
    Papermill's notes go too: they name folders of this machine.
    """
    page = nbformat.from_dict(notebook)
    for key in ("papermill", "widgets"):
        page.metadata.pop(key, None)
    for cell in page.cells:
        cell.metadata.pop("papermill", None)
        tags = cell.metadata.setdefault("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
        if "solution" in tags:
            prompts = {"code_prompt_show": "Show a solution", "code_prompt_hide": "A solution"}
            cell.metadata["mystnb"] = {**prompts, **cell.metadata.get("mystnb", {})}
        if cell.cell_type == "code":
            cell.outputs = [part for part in cell.outputs if WIDGET not in part.get("data", {})]
    page.cells = [shown for cell in page.cells for shown in quiz_as_text(cell)]
    return page


def quiz_as_text(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What a page shows for a cell: the cell, or the questions in text where it asks a quiz.

    The cell itself stays, unseen and without its output, for those who download the page.
    """
    if "quiz" not in cell.metadata.get("tags", []):
        return [cell]
    asked = ASKED.search(cell.source)
    if cell.cell_type != "code" or not asked:
        raise BuildError(f'A cell tagged quiz has to call quiz.ask("NN"):\n{cell.source}')
    cell.metadata.tags.append("remove-cell")
    cell.outputs = []
    # With an id of its own choice nbformat would make the page another one each time.
    text = nbformat.v4.new_markdown_cell(
        quiz.as_markdown(quiz.load(asked[1])), id=f"{cell.id}-on-paper"
    )
    return [cell, text]


def fill(page: Path, marker: str, text: str) -> None:
    """Put generated `text` where `page` has the comment ``<!-- marker -->``."""
    comment = f"<!-- {marker} -->"
    source = page.read_text(encoding="utf-8")
    if comment not in source:
        raise BuildError(f"{shown(page)} lacks the line {comment}: generated text goes there.")
    page.write_text(source.replace(comment, text), encoding="utf-8")


def status_table(records: list[dict], results: Path) -> str:
    """What ran, on which data, where, for how long and when; then the versions it ran with."""
    rows, versions = [], {}
    for notebook, record in zip(notebooks(), records, strict=True):
        result = json.loads(result_files(notebook, results)[0].read_text(encoding="utf-8"))
        versions |= result["versions"]
        spots = sum(result["sections"].values())
        rows.append(
            f"| [](../notebooks/{notebook.name}) | {record['data']} | {record['profile']} "
            f"| {spots} | {result['device']} | {record['seconds']} "
            f"| {datetime.fromisoformat(record['finished']):%Y-%m-%d %H:%M} |"
        )
    head = ["| Chapter | Data | Profile | Spots | Device | Seconds | Finished (UTC) |"]
    head += ["|:--|:--|:--|--:|:--|--:|:--|"]
    used = ["", "", "| Package | Version |", "|:--|:--|"]
    used += [f"| {name} | {version} |" for name, version in sorted(versions.items())]
    return "\n".join(head + rows + used)


def plain_pages() -> dict[str, str]:
    """The pages beside the book: the way in, and the answer to a wrong address.

    The links of the latter are absolute, for it is shown at any depth.
    """
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    values = {"title": config["title"], "home": site_address()}
    pages = {}
    for path in sorted((TOOLS / "build" / "pages").glob("*.html")):
        pages[path.name] = path.read_text(encoding="utf-8")
        for key, value in values.items():
            pages[path.name] = pages[path.name].replace("{{ " + key + " }}", value)
    return pages
