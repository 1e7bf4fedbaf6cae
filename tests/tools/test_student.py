"""Student copies hold the exercises and no solution; the instructor's edition opens them."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def tools():
    """The build tools, importable as they are from their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        from book.tools import settings
        from book.tools.build import build_book, leaks, student

        yield {"student": student, "leaks": leaks, "settings": settings, "build": build_book}


@pytest.fixture(scope="session")
def copies(tools, tmp_path_factory) -> Path:
    """Folder of the student's copies, freshly written."""
    folder = tmp_path_factory.mktemp("handed_out") / "student"
    tools["student"].write_copies(folder)
    return folder


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def new(kind: str, source: str, *tags: str) -> nbformat.NotebookNode:
    make = getattr(nbformat.v4, f"new_{kind}_cell")
    return make(source, metadata={"tags": list(tags)} if tags else {})


@each_notebook
def test_no_solution_is_in_the_copy(path, copies, tools):
    master, handed_out = read(path), read(copies / path.name)
    assert tagged(master, "solution") and not tagged(handed_out, "solution")
    assert tools["leaks"].leaks(master, handed_out) == []
    lost = {c.id for c in master.cells} - {c.id for c in handed_out.cells}
    assert lost == {cell.id for cell in tagged(master, "solution")}


@each_notebook
def test_each_checked_function_is_a_stub(path, copies, tools):
    master, handed_out = read(path), read(copies / path.name)
    found = tools["leaks"].checked(handed_out)
    assert found.keys() == tools["leaks"].checked(master).keys()
    for check, function in found.items():
        assert function is not None, f"{check} looks at no function of this notebook"
        assert tools["leaks"].is_stub(function), f"{check}: {function.name} is more than a stub"


@each_notebook
def test_the_copy_is_clean(path, copies):
    notebook = read(copies / path.name)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert len(tagged(notebook, "parameters")) == 1
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "jupyter"}
        assert set(cell.metadata.get("tags", [])) <= {"parameters", "quiz"}
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


@each_notebook
def test_folders_and_links_of_the_copy_resolve(path, copies, tools):
    text = "\n".join(cell.source for cell in read(copies / path.name).cells)
    assert "../" not in text
    for name in re.findall(r'published\("(\w+)"', text):
        assert (copies / "published" / f"{name}.csv").exists(), name
    home = tools["settings"].site_address()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if target.startswith(home):
            page = ROOT / unquote(target.removeprefix(home))
            assert any(page.with_suffix(s).exists() for s in (".md", ".ipynb")), target
        elif "://" not in target:
            assert (copies / target).exists(), target


@each_notebook
def test_no_cell_of_the_copy_points_to_a_solution_below_it(path, copies):
    """Hints hold their idea themselves: in a copy nothing stands below an exercise."""
    for cell in read(copies / path.name).cells:
        text = cell.source.lower()
        assert "solution below" not in text, f"{cell.id}: {cell.source}"
        if "{admonition} exercise" in text:
            assert not re.search(r"\bbelow\b(?! zero)", text), f"{cell.id}: {cell.source}"


def test_quizzes_and_their_tags_stay(tools):
    quiz = new("code", 'display_quiz("questions")', "quiz", "hide-input")
    master = nbformat.v4.new_notebook(cells=[new("markdown", "# A chapter"), quiz])
    kept = tools["student"].student_copy(master, "09_test").cells[-1]
    assert kept.source == quiz.source and kept.metadata.tags == ["quiz"]


# Planted leaks: a solution under another tag, under other names, in pieces, in words

SOLUTION = """def mean_of(values):
    \"\"\"Mean of each gene.\"\"\"
    total = values.sum(axis=0)
    return total / len(values)


exercises.check_mean(mean_of)"""
STUB = """def mean_of(values):
    \"\"\"Mean of each gene.\"\"\"
    return None  # your code


exercises.check_mean(mean_of)"""
WORDS = """:::{admonition} Solution
:class: dropdown

Ask who chose the genes, and on which sections.
:::"""


def chapter(*extra):
    cells = [
        new("markdown", "# A chapter"),
        new("code", STUB),
        new("code", SOLUTION, "solution", "hide-cell"),
        new("markdown", WORDS, "solution", "hide-cell"),
    ]
    return nbformat.v4.new_notebook(cells=[*cells, *extra])


def test_a_chapter_without_leaks_passes(tools):
    handed_out = tools["student"].student_copy(chapter(), "09_test")
    assert [cell.source for cell in handed_out.cells][2:] == [STUB]


@pytest.mark.parametrize(
    "planted",
    [
        new("code", SOLUTION),
        new("code", "def another(x):\n    s = x.sum(axis=0)\n    return s / len(x)"),
        new(
            "code",
            STUB.replace(
                "return None",
                "# total = values.sum(axis=0)\n    # return total / len(values)\n    return None",
            ),
        ),
        new("markdown", "```python\ntotal = values.sum(axis=0)\nreturn total / len(values)\n```"),
        new("markdown", "Ask who chose the genes,  and on which sections."),
    ],
    ids=["untagged", "renamed", "commented out", "in a text", "in words"],
)
def test_a_planted_leak_is_refused(planted, tools):
    with pytest.raises(tools["settings"].BuildError, match="shows a solution"):
        tools["student"].student_copy(chapter(planted), "09_test")


WEIGHTED = """def smooth(values, weights):
    result = weights @ values / weights.sum(axis=1, keepdims=True)
    return result"""
BESIDE = """def smooth(values, weights):
    total = weights @ values
    return total / len(total)"""
SHOWN = """near = beside.toarray() + np.eye(3)
by_hand = near @ x / near.sum(axis=1, keepdims=True)"""


def test_an_answer_that_a_kept_cell_assigns_is_a_leak(tools):
    """Under other names, and whether the solution returns it at once or by a name."""
    for solution in (WEIGHTED, WEIGHTED.replace("result = ", "return ").rpartition("\n")[0]):
        cells = [new("markdown", "# A chapter"), new("code", SHOWN)]
        cells.append(new("code", solution, "solution", "hide-cell"))
        with pytest.raises(tools["settings"].BuildError, match="shows a solution"):
            tools["student"].student_copy(nbformat.v4.new_notebook(cells=cells), "09_test")


def test_a_step_on_the_way_and_a_short_answer_are_no_leak(tools):
    """What a solution assigns on its way may be shown, and `a / len(a)` is said everywhere."""
    kept = new("code", "wide = near @ x\nby_hand = wide / len(wide)")
    cells = [new("markdown", "# A chapter"), kept, new("code", BESIDE, "solution", "hide-cell")]
    tools["student"].student_copy(nbformat.v4.new_notebook(cells=cells), "09_test")


def test_a_number_in_a_kept_cell_may_be_a_name_in_the_solution(tools):
    find = tools["leaks"].results(
        new("code", "def f(x):\n    return np.argsort(-x, axis=1)[:, :3]")
    )
    shown = tools["leaks"].expressions(new("code", "best = np.argsort(-cosine, axis=1)[:, :k]"))
    assert find == shown and len(find) == 1


def test_a_hint_of_one_line_is_no_leak(tools):
    hint = new("markdown", "`total = values.sum(axis=0)` adds over spots.\n\nThen divide.")
    tools["student"].student_copy(chapter(hint), "09_test")


def test_a_cell_that_leads_out_of_the_folder_is_refused(tools):
    stray = new("code", 'table = read("../book/results/contest.csv")')
    with pytest.raises(tools["settings"].BuildError, match="leads out of a student's folder"):
        tools["student"].student_copy(chapter(stray), "09_test")
    broken = new("markdown", "See [there](../book/nowhere.md).")
    with pytest.raises(tools["settings"].BuildError, match=r"no book/nowhere\.md"):
        tools["student"].student_copy(chapter(broken), "09_test")


def test_parameters_of_a_copy_name_folders_beside_it(tools):
    parameters = new(
        "code", 'SEED = 0  # chance\nRESULTS = "../_build/results"  # ours', "parameters"
    )
    kept = tools["student"].portable(nbformat.v4.new_notebook(cells=[parameters])).cells[0]
    assert kept.source == 'SEED = 0  # chance\nRESULTS = "results"  # ours'


def test_copies_that_somebody_has_run_are_not_overwritten(tools, tmp_path):
    folder = tmp_path / "student"
    path = tools["student"].write_copies(folder)[0]
    worked_in = read(path)
    code = next(cell for cell in worked_in.cells if cell.cell_type == "code")
    code.outputs = [nbformat.v4.new_output("stream", text="Correct.")]
    nbformat.write(worked_in, path)
    with pytest.raises(tools["settings"].BuildError, match="somebody may have worked in it"):
        tools["student"].write_copies(folder)
    assert read(path) == worked_in


# As handed out with the site


def test_the_site_hands_out_the_same_copies(site, copies):
    for path in NOTEBOOKS:
        offered = (site / "student" / path.name).read_bytes()
        assert offered == (copies / path.name).read_bytes()
    with zipfile.ZipFile(site / "student" / "student-copies.zip") as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert names == {p.relative_to(copies).as_posix() for p in copies.rglob("*") if p.is_file()}


@each_notebook
def test_the_download_button_gives_a_notebook_without_outputs(path, site):
    offered, master = read(site / "_sources" / "notebooks" / path.name), read(path)
    assert [cell.id for cell in offered.cells] == [cell.id for cell in master.cells]
    assert all(not cell.get("outputs") for cell in offered.cells)
    page = BeautifulSoup(
        (site / "notebooks" / f"{path.stem}.html").read_text("utf-8"), "html.parser"
    )
    links = {a["href"] for a in page.find_all("a", href=True)}
    wanted = {f"../_sources/notebooks/{path.name}", f"../student/{path.name}"}
    assert wanted | {f"../decks/{path.stem}.html"} <= links


def test_the_page_of_handouts_lists_each_chapter(site):
    page = BeautifulSoup((site / "book" / "decks.html").read_text("utf-8"), "html.parser")
    rows = page.find("table").find_all("tr")[1:]
    assert len(rows) == len(NOTEBOOKS)
    for row, path in zip(rows, NOTEBOOKS, strict=True):
        targets = [a["href"] for a in row.find_all("a")]
        assert len(targets) == 4 and all(path.stem in target for target in targets)


# As executed, and as an edition of the book


@pytest.mark.slow
@each_notebook
def test_a_student_can_run_the_copy(path, executed, copies, tools):
    handed_out = copies / path.name
    notebook = read(tools["student"].execute_copy(handed_out))
    said = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    stubs = tools["leaks"].checked(read(handed_out))
    assert said.count("Not done yet") == len(stubs)
    assert "Correct." not in said
    assert all(o.output_type != "error" for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.fixture(scope="module")
def edition(executed) -> Path:
    """The instructor's edition, from the execution that all tests share."""
    command = [sys.executable, "-m", "book.tools.build.build_book", "--instructor"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return ROOT / "_build" / "instructor"


@pytest.mark.slow
def test_the_instructors_edition_opens_solutions(edition, site):
    for path in NOTEBOOKS:
        solutions = tagged(read(path), "solution")
        for folder, is_open in ((site, False), (edition, True)):
            html = (folder / "notebooks" / f"{path.stem}.html").read_text("utf-8")
            page = BeautifulSoup(html, "html.parser")
            code = [cell for cell in solutions if cell.cell_type == "code"]
            assert len(page.select(".tag_solution")) == len(code)
            assert len(page.select(".tag_solution.tag_hide-cell")) == (0 if is_open else len(code))
            labels = [s for s in page.find_all("strong") if s.get_text() == "Solution"]
            assert len(labels) == (len(code) if is_open else 0)
            boxes = [b for b in page.select(".admonition") if b.p.get_text() == "Solution"]
            assert len(boxes) == len(solutions) - len(code)
            assert all(("dropdown" in box["class"]) != is_open for box in boxes)


@pytest.mark.slow
def test_the_instructors_edition_is_the_same_book_under_its_own_name(edition, site):
    def pages(folder):
        return {p.relative_to(folder).as_posix() for p in folder.rglob("*.html")}

    assert pages(edition) == pages(site)
    title = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"]
    first = BeautifulSoup((edition / "book" / "index.html").read_text("utf-8"), "html.parser")
    assert f"{title} (instructor's edition)" in first.title.get_text()
