"""The notebooks: their form in git, and what they leave behind when executed."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import subprocess
import symtable
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pytest
import torch
import yaml

from heclip_course import exercises, quiz
from heclip_lite.store import package_hash

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PROFILES = sorted((ROOT / "notebooks" / "params").glob("*.yml"))
CHAPTERS = [
    "00_start_here",
    "01_data",
    "02_contrastive_training",
    "03_imputation",
    "04_ablations",
    "05_honest_evaluation",
    "06_high_resolution",
    "07_spatial_domains",
    "08_your_own_slide",
]
# Each chapter's level-two headings begin with these words, in this order.
SKELETON = [
    "Objectives",
    "Prerequisites",
    "Why",
    "Build",
    "Result",
    "Pitfalls",
    "Quiz",
    "Exercises",
    "Take-aways",
    "Next",
]
KINDS = ["conceptual", "coding", "open"]  # of exercises, from easy to hard
TITLE = r"^::::\{admonition\} Exercise (\d+): [^()\n]+ \((conceptual|coding|open), (\d+) minutes\)$"
ASKED = r'^quiz\.ask\("(\d\d)"\)$'
VAGUE = {"understand", "know", "learn", "appreciate", "see", "grasp", "be"}  # nobody can test these
LARGEST_FIGURE = 200_000  # bytes
LARGEST_SOURCE = 150_000
LARGEST_EXECUTED = 4_000_000

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def declared(path: Path) -> dict:
    """Names and default values in the cell tagged `parameters`."""
    (cell,) = tagged(read(path), "parameters")
    return {
        target.id: ast.literal_eval(line.value)
        for line in ast.parse(cell.source).body
        for target in line.targets
    }


def part_of(notebook: nbformat.NotebookNode, heading: str) -> str:
    """Text under the level-two heading that begins with `heading`, up to the next one."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    (part,) = re.findall(rf"^## {heading}.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return part


class Exercise(NamedTuple):
    """An exercise: its title's parts, its text, and the cells that belong to it."""

    number: int
    kind: str
    minutes: int
    text: str
    cells: list[nbformat.NotebookNode]


def exercises_of(notebook: nbformat.NotebookNode) -> list[Exercise]:
    """Every cell that opens an admonition called Exercise must have the whole title form."""
    found: list[Exercise] = []
    for cell in notebook.cells:
        is_text = cell.cell_type == "markdown"
        if is_text and "{admonition} Exercise" in cell.source:
            (title,) = re.findall(TITLE, cell.source, re.MULTILINE)
            found.append(Exercise(int(title[0]), title[1], int(title[2]), cell.source, []))
        elif is_text and cell.source.startswith("## ") and found:
            break
        elif found:
            found[-1].cells.append(cell)
    return found


# As they lie in git


def test_the_chapters_are_there():
    assert [path.stem for path in NOTEBOOKS] == CHAPTERS


@each_notebook
def test_source_holds_no_outputs_and_names_its_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


@each_notebook
def test_parameters_are_few_commented_scalars(path):
    values = declared(path)
    assert {"DATA", "PROFILE", "SEED", "WORKSPACE"} <= values.keys()
    assert len(values) <= 8
    assert all(isinstance(value, str | int | float | bool) for value in values.values())
    assert values["DATA"] == "synthetic" and values["PROFILE"] == "fast", "defaults are fast"
    (cell,) = tagged(read(path), "parameters")
    assert all("#" in line for line in cell.source.splitlines() if "=" in line.split("#")[0])


@each_notebook
def test_headings_follow_the_skeleton(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, "one title"
    headings = re.findall(r"^## (.+)", text, re.MULTILINE)
    found = [next((i for i, h in enumerate(headings) if h.startswith(w)), None) for w in SKELETON]
    missing = [word for word, place in zip(SKELETON, found, strict=True) if place is None]
    assert not missing, f"no heading begins with {missing}; there are {headings}"
    assert found == sorted(found), f"out of order: {headings}"


@each_notebook
def test_installs_the_package_on_colab_in_its_first_code_cell(path):
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"][
        "url"
    ]
    first = next(cell for cell in read(path).cells if cell.cell_type == "code")
    assert '"google.colab" in sys.modules' in first.source
    assert f"git+{address}" in first.source


@each_notebook
def test_solutions_are_folded_on_the_site_and_in_jupyterlab(path):
    """Code by its cell, text by an admonition: on a page, tags do not hide text."""
    for cell in tagged(read(path), "solution"):
        if cell.cell_type == "code":
            assert "hide-cell" in cell.metadata.tags
            assert cell.metadata.get("jupyter", {}).get("source_hidden") is True
            assert cell.source.startswith("# A solution\n"), "all that JupyterLab shows of it"
        else:
            assert cell.source.startswith(":::{admonition} Solution\n:class: dropdown\n\n")
            assert cell.source.endswith("\n:::")
            assert cell.metadata == {"tags": ["solution"]}


@each_notebook
def test_objectives_are_testable_and_name_what_tests_them(path):
    notebook = read(path)
    bullets = re.findall(r"^- (.+)$", part_of(notebook, "Objectives"), re.MULTILINE)
    assert bullets
    (number,) = [re.search(ASKED, cell.source, re.M)[1] for cell in tagged(notebook, "quiz")]
    there = {f"question {n}" for n in range(1, len(quiz.load(number)) + 1)}
    there |= {f"exercise {exercise.number}" for exercise in exercises_of(notebook)}
    named = []
    for bullet in bullets:
        assert bullet.split()[0] not in VAGUE, f"not testable: {bullet}"
        mapping = re.search(
            r" \(((?:exercise|question) \d+(?:, (?:exercise|question) \d+)*)\)[,;.]$", bullet
        )
        assert mapping, f"names no exercise or question at its end: {bullet}"
        named += mapping[1].split(", ")
        assert set(mapping[1].split(", ")) <= there, f"there is no such thing: {bullet}"
    assert set(named) == there, f"tests no objective: {sorted(there - set(named))}"


@each_notebook
def test_minutes_are_stated_and_add_up(path):
    notebook = read(path)
    text = part_of(notebook, "Prerequisites")
    (minutes,) = re.findall(
        r"^Reading takes about (\d+) minutes, the quiz (\d+), the exercises (\d+), "
        r"and computing about (\d+)\.$",
        text,
        re.MULTILINE,
    )
    assert all(int(number) > 0 for number in minutes)
    assert int(minutes[2]) == sum(exercise.minutes for exercise in exercises_of(notebook))


@each_notebook
def test_why_opens_with_a_question_to_the_reader(path):
    first, _, _ = part_of(read(path), "Why").strip().partition("\n\n")
    assert "?" in first, f"the first paragraph asks nothing: {first}"


@each_notebook
def test_the_idea_is_built_by_hand_and_held_against_the_package(path):
    """Between Build and Result, something written out agrees with what is imported."""
    code, heading = [], ""
    for cell in read(path).cells:
        heading = (re.findall(r"^## (\w+)", cell.source, re.MULTILINE) or [heading])[-1]
        if cell.cell_type == "code" and heading == "Build":
            code.append(cell.source)
    assert re.search(r"by_hand", "\n".join(code))
    assert re.search(r"^assert .*(allclose|isclose|array_equal|< 0)", "\n".join(code), re.MULTILINE)


@each_notebook
def test_exercises_have_one_form_and_become_harder(path):
    found = exercises_of(read(path))
    assert [exercise.number for exercise in found] == list(range(1, len(found) + 1))
    kinds = [exercise.kind for exercise in found]
    assert kinds == sorted(kinds, key=KINDS.index) and set(kinds) == set(KINDS)
    assert len(found) >= 3
    for exercise in found:
        assert re.search(r"\n:::\{admonition\} Hint\n:class: dropdown\n\n\S", exercise.text)
        assert exercise.text.rstrip().endswith("\n:::\n::::")
        solutions = [c for c in exercise.cells if "solution" in c.metadata.get("tags", [])]
        assert solutions, f"no solution: exercise {exercise.number}"
        if exercise.kind != "coding":
            assert solutions[0].cell_type == "markdown", "a model answer in words comes first"
            assert solutions == exercise.cells
            continue
        stub, *rest = exercise.cells
        assert rest == solutions and all(cell.cell_type == "code" for cell in exercise.cells)
        assert "solution" not in stub.metadata.get("tags", [])
        assert "\n    return None  # your code here\n" in stub.source
        (check,) = re.findall(r"^exercises\.check_\w+\(\w+\)$", stub.source, re.MULTILINE)
        assert solutions[-1].source.endswith(check)


@each_notebook
def test_stubs_are_not_done_yet_and_solutions_are_correct(path, capsys):
    for exercise in exercises_of(read(path)):
        if exercise.kind != "coding":
            continue
        names = {"np": np, "torch": torch, "F": torch.nn.functional, "exercises": exercises}
        stub, *solution = exercise.cells
        exec(stub.source, names)
        assert capsys.readouterr().out == "Not done yet: the function returns None.\n"
        for cell in solution:
            exec(cell.source, names)
        assert capsys.readouterr().out == "Correct.\n"


def test_there_are_at_least_twelve_coding_exercises():
    every = [exercise for path in NOTEBOOKS for exercise in exercises_of(read(path))]
    assert sum(exercise.kind == "coding" for exercise in every) >= 12


@each_notebook
def test_one_cell_asks_the_quiz_of_the_chapter(path):
    notebook = read(path)
    (cell,) = tagged(notebook, "quiz")
    assert cell.cell_type == "code"
    assert re.findall(ASKED, cell.source, re.MULTILINE) == [path.stem[:2]]
    before = notebook.cells[notebook.cells.index(cell) - 1]
    questions = quiz.load(path.stem[:2])
    count = ["four", "five", "six"][len(questions) - quiz.FEWEST]
    assert before.source.startswith(
        f"## Quiz\n\n{count.capitalize()} questions, about five minutes."
    )


@each_notebook
def test_terms_are_in_the_glossary_and_linked_once(path):
    known = re.findall(
        r"^:::\{glossary\}\n(.+)$",
        (ROOT / "book" / "glossary.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    linked = [
        target or word for word, target in re.findall(r"\{term\}`([^`<]+?)(?: <([^`>]+)>)?`", text)
    ]
    assert set(linked) <= set(known), sorted(set(linked) - set(known))
    assert len(linked) == len(set(linked)), sorted({t for t in linked if linked.count(t) > 1})


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_set_only_what_notebooks_declare(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    own = values.pop("notebooks", None) or {}
    known = {notebook.stem: set(declared(notebook)) for notebook in NOTEBOOKS}
    assert set(values) <= set().union(*known.values()), "a name that no chapter has"
    for stem, names in own.items():
        assert set(names) <= known[stem], f"{stem} has no such parameter"


@pytest.mark.parametrize("name", ["synthetic_fast", "synthetic_full", "her2st_fast", "her2st_full"])
def test_profile_exists(name):
    assert ROOT / "notebooks" / "params" / f"{name}.yml" in PROFILES


def test_unknown_profile_is_refused_with_what_there_is():
    command = [
        sys.executable,
        "-m",
        "book.tools.build.build_book",
        "--data",
        "mouse",
        "--profile",
        "slow",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "DATA=mouse PROFILE=slow" in done.stderr and "DATA=synthetic PROFILE=fast" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_relative_data_folder_holds_for_kernels_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from book.tools.settings import notebook_environment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HECLIP_LITE_DATA", "slides")
    with notebook_environment():
        assert os.environ["HECLIP_LITE_DATA"] == str(tmp_path / "slides")
        assert Path(os.environ["HECLIP_LITE_CACHE"]).is_absolute()
    assert os.environ["HECLIP_LITE_DATA"] == "slides"


# As executed on the synthetic tissue


@each_notebook
def test_executed_without_error_or_warning(path, executed):
    notebook = read(executed / path.name)
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        assert cell.execution_count, f"not executed:\n{cell.source}"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert "Warning:" not in output.get("text", ""), output.text


@each_notebook
def test_the_executed_quiz_answers_and_loads_nothing(path, executed):
    (cell,) = tagged(read(executed / path.name), "quiz")
    (output,) = cell.outputs
    assert output.output_type == "display_data"
    page = output.data["text/html"]
    for question in quiz.load(path.stem[:2]):
        for option in question.options:
            assert json.dumps(quiz.as_html(option.why))[1:-1] in page
    assert not re.search(r"<(script|img|link|iframe)\b[^>]*(src|href)=", page)


def test_figures_are_named_once_in_the_whole_book():
    names = [
        cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for path in NOTEBOOKS
        for cell in read(path).cells
    ]
    names = [name for name in names if name]
    assert len(names) == len(set(names)), [n for n in set(names) if names.count(n) > 1]


@each_notebook
def test_figures_have_alternative_text_caption_and_a_modest_size(path, executed):
    for cell in read(executed / path.name).cells:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png is None:
                continue
            notes = cell.metadata.get("mystnb", {})
            assert notes.get("image", {}).get("alt", "").strip(), f"no alt text:\n{cell.source}"
            assert notes.get("figure", {}).get("caption", "").strip(), f"no caption:\n{cell.source}"
            assert len(base64.b64decode(png)) < LARGEST_FIGURE, f"too large:\n{cell.source}"


def check_result(path: Path, data: str) -> dict:
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["data"] == data
    assert result["sections"] and all(spots > 0 for spots in result["sections"].values())
    assert result["seconds"] > 0
    assert result["device"] in {"cpu", "cuda", "mps"}
    assert {"python", "torch", "numpy", "anndata"} <= result["versions"].keys()
    assert result["package_hash"] == package_hash()
    return result


@each_notebook
def test_leaves_a_result(path, executed):
    (result,) = (executed / "results").glob(f"{path.stem[:2]}_*.json")
    check_result(result, "synthetic")


def test_executions_are_recorded_and_used_again(executed):
    written = {path: (executed / path.name).stat().st_mtime_ns for path in NOTEBOOKS}
    command = [sys.executable, "-m", "book.tools.build.build_book", "--notebooks-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for path in NOTEBOOKS:
        record = json.loads((executed / f"{path.stem}.json").read_text(encoding="utf-8"))
        assert record["seconds"] > 0 and record["data"] == "synthetic"
        assert f"{path.stem} ... unchanged since {record['finished']}" in done.stdout, done.stderr
        assert (executed / path.name).stat().st_mtime_ns == written[path]


# On real slides


@pytest.mark.slow
@pytest.mark.real_data
def test_runs_on_real_slides(her2st_dir, repository):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "book.tools.build.build_book"),
            *("--data", "her2st", "--notebooks-only"),
        ],
        cwd=repository,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(repository), str(repository / "book")]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    spots = {}
    for path in (repository / "_build" / "notebooks" / "her2st_fast" / "results").glob("*.json"):
        spots |= check_result(path, "her2st")["sections"]
    assert spots["C6"] == 178


@pytest.mark.slow
def test_missing_slides_without_a_network_are_named(tmp_path):
    nowhere = "http://127.0.0.1:9"  # nothing listens there
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    command = [
        sys.executable,
        "-m",
        "book.tools.build.build_book",
        "--data",
        "her2st",
        "--notebooks-only",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **proxies, "HECLIP_LITE_DATA": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "HECLIP_LITE_DATA" in done.stderr and str(tmp_path) in done.stderr


# Their form, further


@each_notebook
def test_parameters_stand_before_all_that_uses_them(path):
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    places = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    assert len(places) == 1, "one cell tagged parameters"
    (place,) = places
    names = set(declared(path))
    for cell in code[:place]:
        lines = [line for line in cell.source.splitlines() if not line.lstrip().startswith("%")]
        used = set(re.findall(r"\b[A-Z][A-Z_]+\b", "\n".join(lines)))
        assert not used & names, f"{used & names} used before they are set"


def given_and_read(cell) -> tuple[set[str], set[str]]:
    """Names that a code cell gives to later ones, and those that it reads but does not give."""
    source = "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in cell.source.split("\n"))
    top = symtable.symtable(source, cell.id, "exec")
    given = {name.get_name() for name in top.get_symbols() if name.is_assigned()}
    wanted, scopes = set(), [top]
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        wanted |= {n.get_name() for n in scope.get_symbols() if n.is_referenced() and n.is_global()}
    return given, wanted - given


@each_notebook
def test_a_name_that_other_cells_read_is_given_by_one_cell(path):
    """Then any cell can be run again, in any order, and says the same."""
    cells = [c for c in read(path).cells if c.cell_type == "code"]
    names = {cell.id: given_and_read(cell) for cell in cells}
    wanted = set().union(*(own for _, own in names.values()))
    for name in sorted(wanted):
        givers = [cell for cell, (given, _) in names.items() if name in given]
        assert len(givers) <= 1, f"{name} is given by {', '.join(givers)}"


@each_notebook
def test_cells_have_ids_of_their_own_and_none_is_empty(path):
    notebook = read(path)
    ids = [cell.get("id") for cell in notebook.cells]
    assert all(ids), "a cell has no id: save the notebook in format 4.5"
    assert len(ids) == len(set(ids)), [i for i in ids if ids.count(i) > 1]
    empty = [cell.id for cell in notebook.cells if not cell.source.strip()]
    assert not empty, f"nothing stands in {empty}"


@each_notebook
def test_cells_ran_once_from_top_to_bottom(path, executed):
    code = [c for c in read(executed / path.name).cells if c.cell_type == "code" and c.source]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


@each_notebook
def test_notebook_is_small(path, executed):
    assert path.stat().st_size < LARGEST_SOURCE
    assert (executed / path.name).stat().st_size < LARGEST_EXECUTED, "it would open slowly"
