"""The pages to look things up: glossary, notation, and the two primers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PAGES = sorted(p for p in BOOK.rglob("*.md") if "results" not in p.parts)
GLOSSARY = (BOOK / "glossary.md").read_text(encoding="utf-8")
ENTRIES = {
    term: [line.strip() for line in body.splitlines()]
    for term, body in re.findall(
        r":::\{glossary\}\n(.+?)\n((?:  .+\n)+):::", GLOSSARY, re.MULTILINE
    )
}
FUNCTIONS = {"log", "exp", "cos", "softmax", "text", "rows", "operatorname"}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def text_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def terms(text: str) -> list[str]:
    """Terms that a text links to."""
    linked = re.findall(r"\{term\}`([^`]+)`", text)
    return [re.sub(r"^.*<(.+)>$", r"\1", term).casefold() for term in linked]


# Glossary


def place(term: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", term.casefold().replace("-", " "))


def test_entries_are_alphabetical_and_unique():
    assert list(ENTRIES) == sorted(ENTRIES, key=place)
    folded = [term.casefold() for term in ENTRIES]
    assert len(folded) == len(set(folded))
    assert GLOSSARY.count(":::{glossary}") == len(ENTRIES), "an entry that this test cannot read"


def test_entries_stand_under_their_letter_and_have_a_heading_to_link_to():
    letters = re.split(r"^## ([A-Z])$", GLOSSARY, flags=re.MULTILINE)
    assert letters[1::2] == sorted(set(letters[1::2]))
    for letter, part in zip(letters[1::2], letters[2::2], strict=True):
        inside = re.findall(r":::\{glossary\}\n(.+)", part)
        assert inside == re.findall(r"^### (.+)$", part, re.MULTILINE)
        assert inside and {place(term)[0].upper() for term in inside} == {letter}


def test_entries_have_one_to_three_sentences_each_on_a_line():
    for term, body in ENTRIES.items():
        sentences = [s for line in body for s in re.split(r"(?<=[a-z)0-9][.?]) (?=[A-Z])", line)]
        assert 1 <= len(sentences) <= 3, term
        assert all(line.endswith((".", "?")) and len(line) < 220 for line in body), term


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda p: p.stem)
def test_every_link_to_a_term_resolves(path):
    known = {term.casefold() for term in ENTRIES}
    missing = set(terms(text_of(path))) - known
    assert not missing, f"not in the glossary: {missing}"


@each_notebook
def test_a_term_is_linked_once_in_a_chapter(path):
    twice = [term for term, count in Counter(terms(text_of(path))).items() if count > 1]
    assert not twice, f"link a term at its first use only: {twice}"


def test_words_of_the_field_are_explained():
    """Without these no chapter can be read, whether it links to them or not."""
    words = """section spot donor patch count gene expression tumour stroma nucleus stain encoder
    embedding feature loss temperature softmax batch epoch seed baseline control oracle ceiling
    leakage split depth training network weights attention domain clustering""".split()
    assert not [word for word in words if word not in ENTRIES]


# Notation


def formulas(text: str) -> list[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    shown = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    return shown + re.findall(r"\$([^$\n]+)\$", re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL))


def symbols(formula: str) -> set[str]:
    """Letters of a formula; ``k_i`` and ``k_j`` are both ``k_``, which ``k`` is not."""
    formula = re.sub(r"\\(text|operatorname)\{[^}]*\}", " ", formula)
    formula = formula.replace(r"\mathcal{N}_k", r"\nearest ").replace(r"\ell", " ELL ")
    formula = re.sub(r"\\(bar|hat)\{?", " ", formula)
    formula = re.sub(r"\\[a-zA-Z]+|\\.", " ", formula)
    found = set()
    for letter, index in re.findall(r"(ELL|[A-Za-z])(_\{?[a-z]+\}?)?", formula):
        found.add(f"{letter}_" if index else letter)
        found |= set(re.sub(r"[_{}]", "", index))
    return found


def listed() -> Counter:
    text = (BOOK / "notation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \$([^|]+?)\$ \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert all(all(cell.strip() for cell in row) for row in rows), "meaning, shape, unit"
    return Counter(
        re.sub(r"_\w+$", "_", row[0]) if "mathcal" not in row[0] else row[0] for row in rows
    )


def test_symbols_are_listed_once():
    assert listed() and set(listed().values()) == {1}, listed()


@pytest.mark.parametrize("path", [*NOTEBOOKS, BOOK / "notation.md"], ids=lambda p: p.stem)
def test_every_symbol_of_the_formulas_is_listed(path):
    known = {"ELL" if symbol == r"\ell" else symbol for symbol in listed()}
    for formula in formulas(text_of(path)):
        for symbol in symbols(formula):
            # T_ij is an entry of T; but k_i, a key, is no entry of k, a number
            plain = symbol.rstrip("_")
            entry = symbol.endswith("_") and plain in known and plain not in {"k", "x"}
            assert symbol in known or entry, f"{symbol!r} in {formula!r}"


# Primers


@pytest.mark.parametrize("name", ["biology", "programming"])
def test_primer_is_about_two_printed_pages(name):
    words = text_of(BOOK / "primers" / f"{name}.md").split()
    assert 800 <= len(words) <= 1100


def test_code_of_the_primer_runs_and_says_what_its_comments_say():
    text = text_of(BOOK / "primers" / "programming.md")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    space: dict = {}
    for block in blocks:
        exec(compile(block, "primer", "exec"), space)
    assert space["counts"].shape == (2, 3) and space["totals"].shape == (2, 1)
    assert space["shares"].sum(axis=1).tolist() == [1, 1]
    assert space["cosine"] > 0.99
    assert space["log_normalise"](space["counts"])[0, 1] == 0
