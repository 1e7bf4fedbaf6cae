"""The built site: complete, self-contained, its links and buttons right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse

import contents
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
ADDRESS = CONFIG["repository"]["url"]
BRANCH = CONFIG["repository"]["branch"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PROSE = [
    "index",
    "how_to_use",
    "command_line",
    "intended_use",
    "migration",
    "primers/biology",
    "primers/programming",
    "instructor/index",
    "instructor/schedules",
    "instructor/chapters",
    *(f"instructor/notes_{path.stem[:2]}" for path in NOTEBOOKS),
    "instructor/grading",
    "instructor/project",
    "instructor/setup",
    "instructor/when_machines_fail",
    "notation",
    "glossary",
    "references",
    "api",
    "benchmark",
    "benchmark_dense",
    "decks",
    "scale",
    "status",
]
MODULES = sorted(
    ".".join(path.relative_to(root).with_suffix("").parts)
    for root, package in ((ROOT, "heclip_lite"), (ROOT / "book", "heclip_course"))
    for path in (root / package).rglob("*.py")
    if path.stem[0] != "_"
)


@cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path: Path) -> set[str]:
    """What a link into a page may name."""
    tags = parse(path).find_all(True)
    return {"top"} | {tag.get(key) for tag in tags for key in ("id", "name")} - {None}


def pages(site: Path) -> list[Path]:
    return sorted(p for p in site.rglob("*.html") if "_static" not in p.parts)


def test_every_page_is_there(site):
    assert parse(site / "index.html").find("a")["href"] == "book/index.html"
    for name in PROSE:
        assert (site / "book" / f"{name}.html").exists(), name
    for notebook in NOTEBOOKS:
        assert (site / "notebooks" / f"{notebook.stem}.html").exists(), notebook.stem
    assert (site / "404.html").exists()


def test_chapters_are_executed_and_show_figures(site):
    for notebook in NOTEBOOKS:
        page = parse(site / "notebooks" / f"{notebook.stem}.html")
        assert page.select(".cell_output"), f"{notebook.stem} shows no output"
        assert page.select("figure img"), f"{notebook.stem} shows no figure"


def test_pages_load_nothing_from_outside(site):
    loads = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
    for path in pages(site):
        page = parse(path)
        addresses = [tag.get(loads[tag.name], "") for tag in page.find_all(list(loads))]
        addresses += [tag.get("href", "") for tag in page.find_all("link")]
        outside = [a for a in addresses if urlparse(a).netloc]
        assert not outside, f"{path.relative_to(site)}: {outside}"
        for script in page.find_all("script"):
            assert "https://" not in (script.string or ""), f"{path.relative_to(site)}: {script}"


def test_styles_load_nothing_from_outside(site):
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"')\s]+", text)
        assert not found, f"{path.relative_to(site)}: {found}"


def test_mathjax_is_shipped_with_its_fonts(site):
    folder = site / "_static" / "mathjax"
    assert (folder / "tex-chtml.js").exists()
    assert list(folder.rglob("*.woff"))
    page = parse(site / "notebooks" / "02_contrastive_training.html")
    assert any("mathjax/tex-chtml.js" in tag.get("src", "") for tag in page.find_all("script"))
    assert page.select(".math"), "the loss is derived in formulas"


def test_every_internal_link_and_anchor_resolves(site):
    for path in pages(site):
        for link in parse(path).find_all("a", href=True):
            parts = urlparse(link["href"])
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.relative_to(site)} links to {link['href']}"
            if parts.fragment and target.suffix == ".html":
                anchor = unquote(parts.fragment)
                assert anchor in anchors(target), f"{path.relative_to(site)}: {link['href']}"


def test_injected_parameters_are_hidden(site, executed):
    for notebook in NOTEBOOKS:
        assert "injected-parameters" in (executed / notebook.name).read_text(encoding="utf-8")
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert "injected-parameters" not in page
        assert "# Parameters</span>\n<span" not in page, "papermill's own heading of that cell"


def test_every_image_has_alternative_text(site):
    for path in pages(site):
        for image in parse(path).find_all("img"):
            assert image.get("alt", "").strip(), f"{path.relative_to(site)}: {image}"


def test_every_page_has_a_language_and_a_title(site):
    for path in pages(site):
        page = parse(path)
        assert page.html.get("lang") == "en", path.relative_to(site)
        assert page.title.get_text(strip=True), path.relative_to(site)


def test_edit_and_launch_links_name_the_source(site):
    owner_name = urlparse(ADDRESS).path.strip("/")
    for notebook in NOTEBOOKS:
        source = f"notebooks/{notebook.name}"
        page = parse(site / "notebooks" / f"{notebook.stem}.html")
        links = {a["href"] for a in page.find_all("a", href=True)}
        assert f"{ADDRESS}/edit/{BRANCH}/{source}" in links
        colab = f"https://colab.research.google.com/github/{owner_name}/blob/{BRANCH}/{source}"
        assert colab in links
        binder = f"https://mybinder.org/v2/gh/{owner_name}/{BRANCH}?urlpath=lab/tree/{source}"
        assert binder in links
    for path in [site / "book" / "glossary.html", site / "book" / "api" / "data.html"]:
        edit = [a["href"] for a in parse(path).find_all("a", href=True) if "/edit/" in a["href"]]
        (address,) = edit
        assert (ROOT / address.removeprefix(f"{ADDRESS}/edit/{BRANCH}/")).exists(), address


def test_the_answer_to_a_wrong_address_leads_home(site):
    owner, name = ADDRESS.split("/")[-2:]
    page = parse(site / "404.html")
    assert page.find("a")["href"] == f"https://{owner}.github.io/{name}/"
    assert "{{" not in page.get_text()


def test_status_page_lists_each_chapter_with_its_time(site, executed):
    rows = parse(site / "book" / "status.html").find("table").find_all("tr")[1:]
    assert len(rows) == len(NOTEBOOKS)
    for row, notebook in zip(rows, NOTEBOOKS, strict=True):
        record = json.loads((executed / f"{notebook.stem}.json").read_text(encoding="utf-8"))
        assert row.find("a")["href"].endswith(f"{notebook.stem}.html")
        assert str(record["seconds"]) in [cell.get_text(strip=True) for cell in row.find_all("td")]


@pytest.mark.parametrize("module", MODULES)
def test_reference_has_a_section_for_each_module(module, site):
    entry = f"module-{module}"
    having = [p for p in (site / "book" / "api").glob("*.html") if parse(p).find(id=entry)]
    assert len(having) == 1, f"{module} belongs on one page of book/api/"


def test_an_unchanged_site_is_not_built_again(site):
    written = (site / "index.html").stat().st_mtime_ns
    command = [sys.executable, "-m", "book.tools.build.build_book"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "site unchanged" in done.stdout, done.stderr
    assert (site / "index.html").stat().st_mtime_ns == written


def test_what_editors_leave_makes_no_other_site(tmp_path):
    """Who has opened a chapter in JupyterLab does not wait for the site again."""
    for folder in ("book", "notebooks", "heclip_lite"):
        ignore = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    for path in ("_config.yml", "_toc.yml", "requirements.txt"):
        shutil.copy2(ROOT / path, tmp_path)
    code = """
import json, sys
sys.dont_write_bytecode = True
from book.tools import settings
from book.tools.build import build_book, freshness, stage, student
first = settings.notebooks()[:1]
student.notebooks = lambda: first
def made():
    stage.copy_book(stage.STAGE)
    sources = freshness.made_from("synthetic", "fast")
    key = build_book.site_key(stage.STAGE, sources)
    student.write_copies()
    return key, sources, sorted(path.name for path in student.STUDENT.rglob("*"))
seen, before = {}, made()
for name in sys.argv[1:]:
    path = settings.ROOT / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("of somebody")
    seen[name] = made() == before
    path.unlink()
print(json.dumps(seen))
"""
    left = ["notebooks/.ipynb_checkpoints/01_data-checkpoint.ipynb", "book/results/.DS_Store"]
    left += [
        "book/.ipynb_checkpoints/index-checkpoint.md",
        "book/tools/build/__pycache__/stage.pyc",
    ]
    left += ["book/results/.ipynb_checkpoints/tried-checkpoint.csv"]
    meant = [
        "notebooks/more.csv",
        "book/results/more.csv",
        "book/more.md",
        "book/tools/build/more.py",
        "book/tools/more.py",
        "book/heclip_course/more.py",
    ]
    command = [sys.executable, "-W", "ignore", "-c", code, *left, *meant]
    own = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {**dict.fromkeys(left, True), **dict.fromkeys(meant, False)}


def in_contents(site: Path) -> list[Path]:
    return [site / f"{name}.html" for name in contents.pages()]


def test_previous_and_next_lead_through_the_whole_book(site):
    order = in_contents(site)
    for place, path in enumerate(order):
        page = parse(path)
        for name, there in (("left-prev", place - 1), ("right-next", place + 1)):
            link = page.select_one(f".prev-next-area a.{name}")
            if 0 <= there < len(order):
                assert link, f"{path.relative_to(site)} has no {name}"
                assert (path.parent / link["href"]).resolve() == order[there].resolve()
            else:
                assert link is None


def test_every_picture_of_the_text_is_a_figure_with_a_caption(site):
    for path in in_contents(site):
        for image in parse(path).select(".bd-article img"):
            figure = image.find_parent("figure")
            name = f"{path.relative_to(site)}: {image['src']}"
            assert figure, f"{name} is no figure"
            caption = figure.select_one("figcaption .caption-text")
            assert caption and len(caption.get_text(strip=True).split()) >= 8, name
            assert image["alt"].strip() != caption.get_text(strip=True), f"{name} says it twice"


# What a caption must not say, for whoever reads it alone looks in vain for what is meant.
LEANS_AT_ITS_START = re.compile(
    r"(The same|The other|As above|As before|Likewise|Again|It|This|These|They)\b"
)
LEANS = re.compile(
    r"\b(in the same way|the same( \w+)? (sections?|slides?|genes?|spots)|as (above|before)"
    r"|run here|this (section|slide|gene|donor|run|chapter)"
    r"|these (sections|slides|genes|donors))\b",
    re.IGNORECASE,
)


def leans(caption: str) -> re.Match | None:
    """Words by which a caption leans on the text or on another figure, if it does."""
    return LEANS_AT_ITS_START.match(caption) or LEANS.search(caption)


def test_captions_can_be_read_alone(site):
    for path in in_contents(site):
        for caption in parse(path).select("figcaption .caption-text"):
            text = caption.get_text(" ", strip=True)
            assert not leans(text), f"{path.relative_to(site)}: {text}"
            assert text[-1] in ".?!)", f"{path.relative_to(site)}: {text}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_captions_in_the_sources_can_be_read_alone(path):
    """As on the site, but found without building it."""
    for cell in nbformat.read(path, as_version=4).cells:
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
        assert not leans(caption), f"{cell.id}: {caption}"


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("A method beside three baselines, judged in the same way.", "in the same way"),
        ("Factors of decoding, on the same four sections.", "the same four sections"),
        ("The other half of a section, predicted.", "The other"),
        ("Domains of this section.", "this section"),
        ("Mean level in a section, against a section of the same donor.", None),
        ("Half of a section, predicted from its other half.", None),
    ],
)
def test_a_caption_that_leans_is_found(caption, word):
    found = leans(caption)
    assert (found and found[0]) == word


def test_each_chapter_can_be_downloaded_as_a_notebook(site):
    for notebook in NOTEBOOKS:
        path = site / "notebooks" / f"{notebook.stem}.html"
        links = [a["href"] for a in parse(path).select("a.btn-download-source-button")]
        (link,) = links
        offered = (path.parent / link).resolve()
        text = offered.read_text(encoding="utf-8")
        assert nbformat.reads(text, as_version=4).cells
        assert str(ROOT) not in text, "a folder of this machine"


def test_a_folded_solution_says_that_it_is_one(site):
    found = 0
    for notebook in NOTEBOOKS:
        for cell in parse(site / "notebooks" / f"{notebook.stem}.html").select(".tag_solution"):
            found += 1
            assert cell.select_one("details summary").get_text(strip=True).startswith("Show a sol")
    assert found


def test_every_page_has_the_book_s_style_and_script(site):
    for path in in_contents(site):
        page = parse(path)
        styles = [link["href"] for link in page.select("link[rel=stylesheet]")]
        scripts = [tag["src"] for tag in page.select("script[src]")]
        for name, loaded in (("course.css", styles), ("course.js", scripts)):
            (address,) = [a for a in loaded if name in a]
            assert (path.parent / urlparse(address).path).resolve().exists()


def test_every_page_is_what_the_sources_say(site, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from book.tools.build import freshness

    assert freshness.stale(site) == []
    assert {p.relative_to(site) for p in pages(site)} == {
        p.relative_to(site) for p in site.rglob("*.html") if freshness.STAMP.search(p.read_text())
    }, "every page has its stamps"


# Chapters with a table of book/results; the status page has a line on every chapter.
SHOWING_TABLES = [
    f"{folder}/{n.stem}"
    for n in NOTEBOOKS
    if "course.published" in n.read_text(encoding="utf-8")
    for folder in ("notebooks", "decks")
]


@pytest.mark.parametrize(
    ("source", "pages_made_from_it"),
    [
        ("notebooks/01_data.ipynb", {"notebooks/01_data", "decks/01_data", "book/status"}),
        ("book/glossary.md", {"book/glossary"}),
        (
            "book/results/tried.csv",
            {
                "book/benchmark",
                "book/benchmark_dense",
                "book/scale",
                "book/status",
                *SHOWING_TABLES,
            },
        ),
        ("heclip_lite/plotting/charts.py", None),
        ("book/heclip_course/answers.py", None),
    ],
)
def test_a_changed_source_is_noticed(source, pages_made_from_it, site, tmp_path):
    """None stands for every page: what the package says or the settings are may be on any."""
    for folder in ("book", "notebooks", "heclip_lite"):
        ignore = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    for name in ("_config.yml", "_toc.yml", "requirements.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    path = tmp_path / source
    text = path.read_text(encoding="utf-8")
    end = text.rindex("\n}") if path.suffix == ".ipynb" else len(text)
    path.write_text(text[:end] + "\n" + text[end:], encoding="utf-8")
    tool = "book.tools.build.freshness"
    command = [sys.executable, "-W", "ignore", "-m", tool, str(site)]
    own = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    named = {line.partition(".html:")[0] for line in done.stdout.splitlines() if ".html:" in line}
    every = {p.relative_to(site).as_posix().removesuffix(".html") for p in pages(site)}
    assert named == (every if pages_made_from_it is None else pages_made_from_it)


def test_the_style_sheet_thinks_of_paper():
    """What it does there is tried in a browser: tests/test_browser.py."""
    text = (ROOT / "book" / "_static" / "course.css").read_text(encoding="utf-8")
    on_paper = text[text.index("@media print") :]
    for hidden in (".bd-sidebar-primary", ".prev-next-area", ".bd-header-article", ".copybtn"):
        assert hidden in on_paper
