"""The prose of the book: spelt right, and spelt one way."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "book").rglob("*.md")]
    if "_static" not in path.parts
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
QUIZZES = sorted((ROOT / "book" / "heclip_course" / "quizzes").glob("*.json"))
# What is not prose: fenced code, code spans, formulas, addresses, roles, options, comments.
NOT_PROSE = re.compile(
    r"^(`{3,}|~{3,})(?!\{(?:figure|admonition|note|tip|warning)).*?^\1\s*$"
    r"|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|<[^>\n]+>|https?://\S+"
    r"|\{[a-z:]+\}|^:[\w-]+:",
    re.MULTILINE | re.DOTALL,
)
# Names keep their spelling; a programme of study is one, a program of a computer is not.
NAMES = {"center", "centers", "program", "programs", "disk", "disks", "analog", "license"}


@functools.cache
def american() -> dict[str, str]:
    """British words by their American spelling, from codespell's own list."""
    folder = Path(importlib.util.find_spec("codespell_lib").origin).parent / "data"
    lines = (folder / "dictionary_en-GB_to_en-US.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("->") for line in lines]
    return {to.strip(",").split(",")[0].strip(): british for british, to in pairs}


def prose(path: Path) -> str:
    """What a reader reads in a page, a quiz or a chapter, figures' words included."""
    if path.suffix == ".md":
        return NOT_PROSE.sub(" ", path.read_text(encoding="utf-8"))
    if path.suffix == ".json":
        return NOT_PROSE.sub(" ", "\n".join(texts(json.loads(path.read_text(encoding="utf-8")))))
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(NOT_PROSE.sub(" ", cell.source))
        notes = cell.metadata.get("mystnb", {})
        parts += [notes.get("figure", {}).get("caption", ""), notes.get("image", {}).get("alt", "")]
    return "\n".join(parts)


def texts(content: object) -> list[str]:
    """The texts in a JSON file, however deep; not the names of its fields."""
    if isinstance(content, dict):
        return texts(list(content.values()))
    if isinstance(content, list):
        return [text for part in content for text in texts(part)]
    return [content] if isinstance(content, str) else []


def american_words(text: str) -> dict[str, str]:
    british = american()
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", text)} - NAMES
    return {word: british[word] for word in sorted(words) if word in british}


@pytest.mark.parametrize(
    "path", [*PAGES, *NOTEBOOKS, *QUIZZES], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_words_are_spelt_the_british_way(path):
    assert not american_words(prose(path))


def test_american_words_are_found_in_prose_and_left_alone_in_code(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "The color of `color=` and $color$.\n\n```python\nnormalize(color)\n```\n"
        "```{figure} slide.png\n:alt: A modeled shape.\n\nIt is normalized.\n```\n",
        encoding="utf-8",
    )
    assert american_words(prose(page)).keys() == {"color", "modeled", "normalized"}
    cell = nbformat.v4.new_code_cell("color = 1")
    cell.metadata["mystnb"] = {"figure": {"caption": "A gray box."}, "image": {"alt": "A center."}}
    chapter = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), chapter)
    assert american_words(prose(chapter)).keys() == {"gray"}
    quiz = tmp_path / "quiz.json"
    options = [{"text": "A `color`.", "why": "Its flavor."}]
    quiz.write_text(json.dumps({"questions": [{"question": "Which hue?", "options": options}]}))
    assert american_words(prose(quiz)).keys() == {"flavor"}


@pytest.mark.parametrize(
    "name", ["page.md", "chapter.ipynb", "module.py", "course.js", "quiz.json"]
)
def test_spelling_is_checked_in_each_kind_of_file(name, tmp_path):
    """`test_lint_is_clean` runs codespell over all files: its settings must not leave these out."""
    wrong = "recie" + "ve"
    text = json.dumps({"cells": [{"source": wrong}]}) if name.endswith("ipynb") else f"# {wrong}\n"
    (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and f"{wrong} ==> receive" in done.stdout, done.stdout + done.stderr
