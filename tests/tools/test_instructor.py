"""The teacher's pages: clocks that add up, notes for each chapter, commands that exist."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import contents
import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "book" / "instructor"
PAGES = sorted(PACK.glob("*.md"))
PRIMERS = sorted((ROOT / "book" / "primers").glob("*.md"))
NOTEBOOKS = {p.stem[:2]: p for p in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
CLOCK = re.compile(r"^\| (\d\d):(\d\d)–(\d\d):(\d\d) \| (\d+) \| (.+) \|$", re.MULTILINE)
EVENING = re.compile(r"^\| \d+ \| (\d+) \| (.+) \|$", re.MULTILINE)
TOTAL = re.compile(r"(\d+) hours in all \((\d+) minutes\)")

each_chapter = pytest.mark.parametrize("chapter", NOTEBOOKS)
each_page = pytest.mark.parametrize("page", [*PAGES, *PRIMERS], ids=lambda page: page.stem)


def text_of(name: str) -> str:
    return (PACK / f"{name}.md").read_text(encoding="utf-8")


def sections_of(text: str, level: int) -> dict[str, str]:
    """Text below each heading of a level, by heading."""
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def headings(chapter: str) -> dict[str, str]:
    """Headings of a notebook, and the anchor that each has on its page."""
    notebook = nbformat.read(NOTEBOOKS[chapter], as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    return {h: re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in found}


def exercises(chapter: str) -> dict[int, str]:
    """Title of each exercise of a notebook, by number."""
    notebook = nbformat.read(NOTEBOOKS[chapter], as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.findall(r"\{admonition\} Exercise (\d+):? *(.*)", text)
    return {int(number): title for number, title in found}


def named(what: str) -> set[str]:
    """Chapters that a row of a schedule is about."""
    return set(re.findall(r"\[Chapter (\d\d)\]", what))


@cache
def plans() -> dict[str, dict[str, int]]:
    """Minutes of each chapter in each schedule."""
    found = {}
    for title, part in sections_of(text_of("schedules"), 2).items():
        rows = [(int(row[4]), row[5]) for row in CLOCK.findall(part)]
        rows += [(int(minutes), what) for minutes, what in EVENING.findall(part)]
        found[title] = {
            chapter: sum(minutes for minutes, what in rows if chapter in named(what))
            for chapter in NOTEBOOKS
        }
    return found


# Schedules


def test_there_are_three_schedules():
    assert list(plans()) == ["One day", "Six sessions", "On your own"]


@pytest.mark.parametrize("title", ["One day", "Six sessions", "On your own"])
def test_clock_times_add_up_to_the_stated_total(title):
    part = sections_of(text_of("schedules"), 2)[title]
    hours, minutes = map(int, TOTAL.search(part).groups())
    assert hours * 60 == minutes
    total = 0
    for name, table in sections_of(part, 3).items():
        rows = [tuple(map(int, row[:5])) for row in CLOCK.findall(table)]
        for row in rows:
            start, end = 60 * row[0] + row[1], 60 * row[2] + row[3]
            assert start < end and end - start == row[4], f"{name}: {row}"
        for before, after in pairwise(rows):
            assert before[2:4] == after[:2], f"{name}: a gap or an overlap at {after[:2]}"
        total += sum(row[4] for row in rows)
        evenings = [int(found[0]) for found in EVENING.findall(table)]
        if evenings:  # one table shows the shape of an evening, the other lists them
            assert set(evenings) == {total}
            total = sum(evenings)
    assert total == minutes
    if title == "One day":
        every = CLOCK.findall(part)
        assert all(a[2:4] == b[:2] for a, b in pairwise(every))


def minutes_of(chapter: str) -> tuple[int, int, dict[int, int]]:
    """What a chapter states: minutes of reading, of the quiz and of each exercise.

    The open exercise is left out, as an evening leaves it out.
    """
    notebook = nbformat.read(NOTEBOOKS[chapter], as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    reading, quiz = re.search(r"Reading takes about (\d+) minutes, the quiz (\d+)", text).groups()
    found = re.findall(r"Exercise (\d+): [^(\n]+\((?:conceptual|coding), (\d+) minutes\)", text)
    return int(reading), int(quiz), {int(number): int(minutes) for number, minutes in found}


@each_chapter
def test_an_evening_is_long_enough_for_what_a_chapter_states(chapter):
    part = sections_of(text_of("schedules"), 2)["On your own"]
    rows = {row[5]: int(row[4]) for row in CLOCK.findall(part)}
    (read,) = (minutes for what, minutes in rows.items() if what.startswith("Read and run"))
    (solve,) = (minutes for what, minutes in rows.items() if what.startswith("Exercises"))
    (answer,) = (minutes for what, minutes in rows.items() if what.startswith("Quiz"))
    evenings = sum(chapter in named(what) for _, what in EVENING.findall(part))
    reading, quiz, exercises = minutes_of(chapter)
    assert reading <= evenings * read and quiz <= evenings * answer
    one, other, late = re.search(
        r"In chapters (\d\d) and (\d\d), leave exercise (\d) for later too\.", part
    ).groups()
    if chapter in (one, other):
        assert sum(exercises.values()) > evenings * solve, "there is time for all of them"
        del exercises[int(late)]
    assert sum(exercises.values()) <= evenings * solve


def test_six_sessions_are_six_of_one_length():
    part = sections_of(sections_of(text_of("schedules"), 2)["Six sessions"], 3)
    assert [int(name.split()[1]) for name in part] == [1, 2, 3, 4, 5, 6]
    assert {sum(int(row[4]) for row in CLOCK.findall(table)) for table in part.values()} == {120}
    assert all("Break" in table for table in part.values())


def test_group_exercises_of_the_schedules_are_in_the_notes():
    announced = {
        name.lower()
        for chapter in NOTEBOOKS
        for name in re.findall(r"^\*\*(.+?)\*\* \(\d+ minutes", notes(chapter), re.MULTILINE)
    }
    rows = [row[5] for row in CLOCK.findall(text_of("schedules"))]
    used = {name.lower() for row in rows for name in re.findall(r"\*([^*]+)\*", row)}
    headings_used = {h.lower() for chapter in NOTEBOOKS for h in headings(chapter)}
    assert used <= announced | headings_used, used - announced - headings_used
    assert announced <= used, f"no schedule uses {announced - used}"


# Notes on each chapter


def notes(chapter: str) -> str:
    return text_of(f"notes_{chapter}")


@each_chapter
def test_minutes_in_the_notes_are_those_of_the_schedules(chapter):
    (row,) = re.findall(r"^\| (\d+) min \| (\d+) min \| (\d+) min \|$", notes(chapter), re.M)
    planned = [plan[chapter] for plan in plans().values()]
    assert all(planned), f"chapter {chapter} is missing in a schedule: {plans()}"
    assert [int(n) for n in row] == planned


@each_chapter
def test_notes_are_complete(chapter):
    parts = sections_of(notes(chapter), 2)
    assert list(parts) == [
        "Goal",
        "On the projector",
        "Stopping points",
        "When late",
        "Group exercise",
        "Questions",
        "Common errors",
    ]
    assert all(len(part.split()) >= 20 for part in parts.values())
    assert re.match(r"\s*\*\*.+\*\* \(\d+ minutes, .+\)", parts["Group exercise"])
    questions = re.findall(r"^\*\*(.+\?)( .+)?\*\*\n: .+", parts["Questions"], re.MULTILINE)
    asked = re.findall(r"^\*\*.+\*\*$", parts["Questions"], re.MULTILINE)
    answers = re.findall(r"^\*\*.+\*\*\n: \S", parts["Questions"], re.MULTILINE)
    assert questions and len(asked) == len(answers) >= 3
    assert len(re.findall(r"^\*\*.+\*\*\n: \S", parts["Common errors"], re.MULTILINE)) >= 3


@each_chapter
def test_stopping_points_and_skips_name_headings_that_exist(chapter):
    parts = sections_of(notes(chapter), 2)
    known = headings(chapter)
    place = f"../../notebooks/{NOTEBOOKS[chapter].name}#"
    for line in parts["Stopping points"].strip().splitlines():
        assert re.match(r"- \[.+\]\(.+\): .+", line), line
    links = re.findall(r"\[([^\]]+)\]\((\S+?#\S+?)\)", notes(chapter))
    assert len([1 for line in parts["Stopping points"].splitlines() if line]) >= 3
    for heading, address in links:
        assert heading in known, f"chapter {chapter} has no heading {heading!r}"
        assert address == place + known[heading]


@each_chapter
def test_exercises_that_are_named_exist(chapter):
    numbers = re.findall(r"[Ee]xercises? (\d)(?: and (\d))?", notes(chapter))
    for number in filter(None, (n for pair in numbers for n in pair)):
        assert int(number) in exercises(chapter), f"chapter {chapter} has no exercise {number}"


def test_beans_are_counted_right():
    import torch

    rows = re.findall(r"^\| ([\d.]+) \| (\d+), (\d+), (\d+), (\d+) \|$", notes("02"), re.MULTILINE)
    assert len(rows) == 3
    for temperature, *beans in rows:
        shares = torch.softmax(torch.tensor([3.0, 2, 1, 0]) / float(temperature), 0)
        assert (20 * shares).round().int().tolist() == [int(b) for b in beans]
    shares = torch.softmax(torch.tensor([256.0, 128, 128, 128]) / 45, 0)
    assert (20 * shares).round().int().tolist() == [17, 1, 1, 1]


# Grading


def rubrics(text: str) -> dict[str, list[int]]:
    """Levels of each table of levels, by the heading above it."""
    parts = {**sections_of(text, 2), **sections_of(text, 3)}
    tables = {name: re.split(r"^## ", part, flags=re.M)[0] for name, part in parts.items()}
    return {
        name: [int(n) for n in re.findall(r"^\| (\d) \| .{10,} \|$", part, re.MULTILINE)]
        for name, part in tables.items()
    }


def test_each_open_exercise_has_a_rubric():
    found = {}
    for name, levels in rubrics(text_of("grading")).items():
        match = re.match(r"Chapter (\d\d), exercise (\d+): .+", name)
        if match:
            found[match[1], int(match[2])] = levels
    for (chapter, number), levels in found.items():
        assert levels == [4, 3, 2, 1], f"chapter {chapter}, exercise {number}"
        assert number in exercises(chapter), f"chapter {chapter} has no exercise {number}"
    wanted = {
        (chapter, number)
        for chapter in NOTEBOOKS
        for number, title in exercises(chapter).items()
        if re.search(r"\bopen\b", title)
    }
    assert wanted <= found.keys(), f"no rubric for {sorted(wanted - found.keys())}"
    assert {chapter for chapter, _ in found} == NOTEBOOKS.keys(), "one open exercise a chapter"


def test_the_project_has_a_rubric_and_a_checklist():
    parts = sections_of(text_of("project"), 2)
    levels = [found for found in rubrics(parts["Rubric"]).values() if found]
    assert levels == [[4, 3, 2, 1]] * 5 and "twenty points" in parts["Rubric"]
    checklist = parts["Honest evaluation: the checklist"]
    assert len(re.findall(r"^- ☐ .+", checklist, re.MULTILINE)) >= 10


def test_plan_without_power_adds_up():
    part = sections_of(text_of("when_machines_fail"), 2)["No projector, or no power"]
    rows = [int(n) for n in re.findall(r"^\| (\d+) \| \*", part, re.MULTILINE)]
    assert f"Together: {sum(rows)} minutes" in part
    lengths = {}
    for chapter in NOTEBOOKS:
        name, minutes = re.search(r"^\*\*(.+?)\*\* \((\d+) min", notes(chapter), re.M).groups()
        lengths[name.lower()] = int(minutes)
    for minutes, name in re.findall(r"^\| (\d+) \| \*(.+?)\*", part, re.MULTILINE):
        assert int(minutes) >= lengths[name.lower()], name


# What the pages name exists


def code_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*blocks, *spans])


@each_page
def test_commands_variables_and_files_exist(page):
    code = code_of(page)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z][\w-]*)", code)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    sources = [*(ROOT / "heclip_lite").rglob("*.py"), *(ROOT / "book").rglob("*.py")]
    source = "\n".join(p.read_text(encoding="utf-8") for p in sources)
    for variable in set(re.findall(r"\bHECLIP_LITE_\w+", code)):
        assert f'"{variable}"' in source, variable
    for path in set(re.findall(r"(?<!/)\b(?:book|notebooks|tests)/[\w/.-]*\w", code)):
        assert (ROOT / path).exists(), path
    params = "\n".join(
        cell.source
        for path in NOTEBOOKS.values()
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    for name in set(re.findall(r"\b(ENCODER|WEIGHTS|WORKSPACE|PUBLISHED|SEED|DATA)\b(?= =)", code)):
        assert re.search(rf"^{name} = ", params, re.MULTILINE), name


@each_page
def test_names_of_the_package_exist(page):
    modules = contents.modules()
    for module, name in set(re.findall(r"\b([a-z_]+)\.(?!py\b)(\w+)\b", code_of(page))):
        if module in modules.keys() - {"config"} or (module, name[:1].isupper()) == (
            "config",
            True,
        ):
            assert hasattr(importlib.import_module(modules[module]), name), name


def test_stated_disk_is_what_the_installer_asks_for():
    source = (ROOT / "book/tools/bootstrap.py").read_text(encoding="utf-8")
    on_linux, elsewhere = re.search(r"GIGABYTES = (\d+) if .+ else (\d+)", source).groups()
    text = text_of("setup")
    assert f"{on_linux} GB of free disk on Linux" in text and f"{elsewhere} GB elsewhere" in text


@each_page
def test_page_is_in_the_table_of_contents(page):
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert f"file: {page.relative_to(ROOT).with_suffix('').as_posix()}\n" in toc
    assert yaml.safe_load(toc)


@each_page
def test_one_sentence_stands_on_a_line(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in text.splitlines():
        if not line.startswith(("|", "**", "1.")):
            assert not re.search(r"[a-z)][.!] [A-Z]", line), line


@pytest.mark.slow
def test_the_project_starts_as_shown():
    (code,) = re.findall(r"```python\n(.*?)```", text_of("project"), re.DOTALL)
    ast.parse(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_first_pages_tell_everybody_where_to_start():
    for page in (ROOT / "README.md", ROOT / "book" / "index.md"):
        text = page.read_text(encoding="utf-8")
        for reader, place in {
            "learn": "00_start_here",
            "teach": "instructor/index",
            "do research": "benchmark",
        }.items():
            (part,) = re.findall(rf"To {reader}\W.*?(?=To (?:teach|do)|\n\n|:::\n)", text, re.S)
            assert place in part, f"{page.name}: {reader}"
            assert (ROOT / "book" / "instructor" / "index.md").exists()
