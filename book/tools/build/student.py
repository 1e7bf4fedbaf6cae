"""Copies of the notebooks to hand out: without solutions, and runnable away from the repository.

A student copy keeps text, stubs and checks, and loses every cell tagged ``solution``.
Beside the copies lie the published tables, so that the folder is all a student needs
besides the installed package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.tools.build.leaks import leaks, tags
from book.tools.build.run_notebooks import run_cells
from book.tools.results import COMMITTED
from book.tools.settings import (
    BUILD,
    COURSE,
    LITTER,
    NOTEBOOKS,
    ROOT,
    BuildError,
    files_in,
    notebooks,
    parameters,
    shown,
    site_address,
)
from heclip_lite.store import code_key, content_key, write_json

STUDENT = BUILD / "student"
RUNS = BUILD / "student_runs"
ALL = "student-copies.zip"
# Parameters that name folders: a copy keeps what it makes and what it reads beside itself.
PLACES = {"WORKSPACE": "workspace", "RESULTS": "results", "PUBLISHED": "published"}
ASSIGNED = re.compile(rf'^(({"|".join(PLACES)}) = )"[^"]*"', re.MULTILINE)
KEPT_TAGS = ("parameters", "quiz")
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LINK = re.compile(r"(\]\(|href=\")((?:\.\./)*[\w./-]+\.(?:md|ipynb))(#[^)\"]*)?(?=[)\"])")


def portable(notebook: NotebookNode) -> NotebookNode:
    """Copy of a notebook that needs nothing of the repository: clean, its folders beside it.

    Raises
    ------
    BuildError
        If a cell still leads to a folder above.
    """
    copy = nbformat.from_dict(notebook)
    copy.metadata = nbformat.from_dict(KERNEL)
    for cell in copy.cells:
        metadata = {"tags": [t for t in tags(cell) if t in KEPT_TAGS]}
        metadata = {key: value for key, value in metadata.items() if value}
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            metadata["jupyter"] = {"source_hidden": True}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "parameters" in tags(cell):
                cell.source = ASSIGNED.sub(lambda m: f'{m[1]}"{PLACES[m[2]]}"', cell.source)
        else:
            cell.source = LINK.sub(_address, cell.source)
        cell.metadata = nbformat.from_dict(metadata)
        if "../" in cell.source:
            line = next(line for line in cell.source.splitlines() if "../" in line)
            raise BuildError(
                f"Cell {cell.id!r} leads out of a student's folder: {line.strip()}\n"
                "Name the folder in a parameter, and add that parameter to PLACES."
            )
    return copy


def _address(match: re.Match) -> str:
    """A link to another notebook stays; one to a page of the book leads to the site."""
    start, path, anchor = match[1], match[2], match[3] or ""
    if path.endswith(".ipynb") and "/" not in path:
        return f"{start}{path}{anchor}"
    page = (ROOT / "notebooks" / path).resolve()
    if not page.exists():
        raise BuildError(f"A notebook links to {path}, but there is no {shown(page)}.")
    return (
        f"{start}{site_address()}{page.relative_to(ROOT).with_suffix('.html').as_posix()}{anchor}"
    )


def student_copy(notebook: NotebookNode, name: str) -> NotebookNode:
    """A notebook as students get it, with a line on where the solutions are.

    Raises
    ------
    BuildError
        If a solution shows all the same.
    """
    copy = portable(notebook)
    kept = [
        c
        for c, master in zip(copy.cells, notebook.cells, strict=True)
        if "solution" not in tags(master)
    ]
    note = nbformat.v4.new_markdown_cell(
        "This is a student's copy: its exercises are yours to solve.\n"
        "Where the text speaks of a folded solution, find it in "
        f"[the course]({site_address()}notebooks/{name}.html).",
        id="student-copy",
    )
    copy.cells = [kept[0], note, *kept[1:]]
    found = leaks(notebook, copy)
    if found:
        raise BuildError(f"The student's copy of {name} shows a solution:\n" + "\n".join(found))
    return copy


# The folder


def write_copies(folder: Path = STUDENT) -> list[Path]:
    """Write the student's folder anew and return its notebooks.

    Raises
    ------
    BuildError
        If somebody has worked in the folder, or a copy would show a solution.
    """
    for path in folder.glob("*.ipynb"):
        if any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells):
            raise BuildError(
                f"{shown(path)} has been run, so somebody may have worked in it: "
                f"move {shown(folder)} elsewhere first. Nothing was changed."
            )
    work = folder.with_name(f"{folder.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    published = work / PLACES["PUBLISHED"]
    shutil.copytree(COMMITTED, published, ignore=shutil.ignore_patterns(*LITTER))
    for path in notebooks():
        copy = student_copy(nbformat.read(path, as_version=4), path.stem)
        nbformat.write(copy, work / path.name)
    (work / "README.md").write_text(_readme(), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(work, folder)
    return sorted(folder.glob("*.ipynb"))


def _readme() -> str:
    address = site_address()
    return f"""# Student's copies

The chapters of the course at <{address}>, without their solutions.

1. Install Python 3.11 or newer, then the package with what the notebooks use:
   `pip install "heclip-lite[book] @ git+{site_address(repository=True)}"`.
2. Start `jupyter lab` in this folder and open `{notebooks()[0].name}`.
3. Keep the folder together: `published` holds measured results that chapters show,
   and chapters leave what they trained in `workspace` for each other.
"""


def offer(site: Path) -> None:
    """Put what a reader may take along into a built site: notebooks without any outputs.

    The student's copies go under ``student/``, with an archive of the whole folder; the
    download button of a chapter gives the notebook with its solutions.
    """
    offered, whole = site / "student", site / "student.whole"
    offered.mkdir(exist_ok=True)
    for path in write_copies(whole):
        shutil.copy2(path, offered)
    shutil.make_archive(str(offered / ALL.removesuffix(".zip")), "zip", whole)
    shutil.rmtree(whole)
    for path in notebooks():
        complete = portable(nbformat.read(path, as_version=4))
        nbformat.write(complete, site / "_sources" / "notebooks" / path.name)


def execute_copy(copy: Path, data: str = "synthetic", profile: str = "fast") -> Path:
    """Execute a student's copy where it lies, unless that was done; return the executed one.

    It finds what the course's own execution has trained, so that only what students run anew
    takes time.

    Raises
    ------
    BuildError
        If a cell fails.
    """
    values = parameters(data, profile, copy.stem)
    values |= {
        "WORKSPACE": str((NOTEBOOKS / values["WORKSPACE"]).resolve()),
        "RESULTS": str(RUNS / "results"),
    }
    requirements = (ROOT / "requirements.txt").read_bytes()
    tables = [p.read_bytes() for p in files_in(copy.parent / PLACES["PUBLISHED"])]
    tables += [p.read_bytes() for p in sorted(COURSE.glob("*.py"))]
    key = content_key(copy.read_bytes(), code_key(), requirements, values, *tables)
    done, record = RUNS / copy.name, RUNS / f"{copy.stem}.json"
    if record.exists() and done.exists():
        if json.loads(record.read_text(encoding="utf-8"))["key"] == key:
            return done
    RUNS.mkdir(parents=True, exist_ok=True)
    unfinished, clock = RUNS / f"{copy.stem}.unfinished.ipynb", time.perf_counter()
    run_cells(copy, unfinished, values)
    os.replace(unfinished, done)
    write_json(record, {"key": key, "seconds": round(time.perf_counter() - clock, 1)})
    return done


def main() -> int:
    """Write the copies and say where they are."""
    try:
        copies = write_copies()
    except BuildError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"{len(copies)} student's copies in {shown(STUDENT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
