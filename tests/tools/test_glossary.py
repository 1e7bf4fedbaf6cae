"""The pages to look things up: glossary, notation, and the two primers."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from contents import pages

ROOT = Path(__file__).resolve().parents[2]
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
# A link's words and, where they differ, its term.
LINK = r"\{term\}`(?:[^`<]+<)?(?P<linked>[^`<>]+)>?`"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def text_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def terms(text: str) -> list[str]:
    """Terms that a text links to."""
    return [term.casefold() for term in re.findall(LINK, text)]


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


# Besides a term and its plural, these words are uses of it.
FORMS = {
    "adipose tissue": "fat",
    "adjusted Rand index": "ARI",
    "coherence": "coherent",
    "contrastive loss": "contrastive learning",
    "cosine similarity": "cosines?",
    "defect ledger": "ledger",
    "dense prediction": "dense (?:map|point)s?",
    "DLPFC": "human cortex",
    "full-resolution image": "full-resolution picture",
    "GPU": "graphics cards?",
    "immune infiltrate": "immune cells?",
    "kernel ridge regression": "kernel ridge",
    "label": "labelled",
    "leakage": "leaks?",
    "macro-F1": "F1",
    "nucleus": "nuclei",
    "pooling": "pooled",
    "query, key and value": "query|queries",
    "sequencing": "sequence[drs]?",
    "soft target": "softer targets?",
    "Space Ranger folder": "Space Ranger",
    "Spearman-Brown formula": "Spearman and Brown",
    "stain": "stained",
    "stroma": "connective tissue",
    "top-k": r"top \d+",
    "whole-slide image": "whole slides?",
}
# Everyday words that are no use of a term, with what they are instead.
EVERYDAY = {
    "cells of code|run a cell|run the cells|the cell of|first cell": "of a notebook, not of tissue",
    "ranks genes|expression rank among": "the verb, not a place in a list",
    "soft weights": "of an average, not of a network",
}
# Terms that no prose uses, with the file whose code shows them to the reader, and how.
SHOWN_BY_CODE = {
    "normalised mutual information": ("book/heclip_course/model_widgets.py", "NMI {scores['nmi']"),
    "rank correlation": ("notebooks/03_imputation.ipynb", 'f\\"The rank correlation of'),
}
NOT_PROSE = "|".join(
    [
        r"```.*?```|`[^`\n]+`|<!--.*?-->",  # code, captions, comments
        r"\$\$.*?\$\$|\$[^$\n]+\$|\[[^]\n]*\]\([^)\n]*\)",  # formulas, other links
        r"^:::\{admonition\} Hint.*?^:::$|^:::\{glossary\}\n[^\n]+",  # hints, entries
        r"^(?:#|:\S)[^\n]*|^\|[^\n]+\n(?=\|[ :|-]+$)",  # headings, titles, heads of tables
        r"^(?:- )?\*\*[^*\n]+[.?]\*\*",  # lead-ins
    ]
)


def prose(text: str) -> str:
    """The sentences of a text, with their links to terms."""
    parts = re.compile(rf"({LINK})|{NOT_PROSE}", re.MULTILINE | re.DOTALL)
    return parts.sub(lambda part: part[1] or " ", text)


def prose_of(path: Path) -> str:
    """The sentences of a page, or of a chapter from behind its objectives on."""
    if path.suffix == ".md":
        return prose(text_of(path))
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    told = [c.source for c in cells if "solution" not in c.metadata.get("tags", [])]
    return prose("\n\n".join(told).partition("## Objectives")[2].partition("\n:::\n")[2])


@functools.cache
def word_of_a_term() -> re.Pattern:
    """A link, or words that use a term; where one term begins with another, the longer."""
    words = [rf"(?i:{'|'.join(EVERYDAY)})", LINK]
    for number, term in sorted(enumerate(ENTRIES), key=lambda entry: -len(entry[1])):
        one = "[- ]".join(map(re.escape, re.split("[- ]", term)))
        several = rf"{one}(?:e?s)?|{FORMS.get(term, one)}"
        case = "?i:" if term[0].islower() else "?:"  # CLIP is no verb
        words.append(rf"(?P<t{number}>\b({case}{several})\b)")
    return re.compile("|".join(words))


def first_uses(text: str) -> dict[str, bool]:
    """Each term that a text uses, and whether its first use is a link."""
    first: dict[str, bool] = {}
    for found in word_of_a_term().finditer(text):
        if found["linked"]:
            first.setdefault(found["linked"].casefold(), True)
        elif found.lastgroup:
            first.setdefault(list(ENTRIES)[int(found.lastgroup[1:])].casefold(), False)
    return first


def test_a_use_is_told_from_a_link_and_from_an_everyday_word():
    assert FORMS.keys() <= ENTRIES.keys()
    text = "Run a cell. Soft targets, clip them; *cells* of {term}`tissue`; {term}`cells <cell>`."
    assert first_uses(text) == {"soft target": False, "cell": False, "tissue": True}


def test_what_is_no_prose_uses_no_term():
    assert not first_uses(
        prose(
            "# A spot\n\n- **A lead-in names a spot.**\n  `spot`, $spot$, [a spot](spot.md)\n\n"
            "| a spot |\n|:--|\n| none |\n\n::::{admonition} Exercise 1: a spot\n\nWhat?\n\n"
            ":::{admonition} Hint\n:class: dropdown\n\nA spot.\n:::\n::::\n\n```text\na spot\n```\n"
        )
    )


@each_notebook
def test_a_term_is_linked_once_in_a_chapter_at_its_first_use(path):
    linked = Counter(terms(text_of(path)))
    twice = [term for term, count in linked.items() if count > 1]
    first = first_uses(prose_of(path))
    late = [term for term in linked if not first.get(term)]
    assert not twice and not late, "link a term once, where the prose first uses it"


def test_the_first_chapter_that_uses_a_term_links_it():
    """Each term is linked at its first use in the prose of the first chapter that uses it.

    Where no chapter does, the first page of the contents does so in its place.
    """
    places = [ROOT / f"{name}.md" for name in pages() if not name.startswith("notebooks/")]
    first: dict[str, tuple[str, bool]] = {}
    for path in [*NOTEBOOKS, *places]:
        for term, linked in first_uses(prose_of(path)).items():
            first.setdefault(term, (path.stem, linked))
    bare = {term: stem for term, (stem, linked) in first.items() if not linked}
    assert not bare, f"used there first, without a link: {bare}"
    assert {term for term in ENTRIES if term.casefold() not in first} == SHOWN_BY_CODE.keys()
    for file, words in SHOWN_BY_CODE.values():
        assert words in (ROOT / file).read_text(encoding="utf-8")


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
