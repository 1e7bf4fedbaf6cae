"""Read an executed chapter as its parts: prose under headings, and figures with captions."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass, field

from nbformat import NotebookNode

from book.tools.build.leaks import tags

FENCE = re.compile(r"^(:{3,})\{(\w+)\} ?(.*)$")
OPTION = re.compile(r"^:\w[\w-]*:")
ROLE = re.compile(r"\{[\w:-]+\}`([^`<]+?)(?:\s*<[^>]+>)?`")


@dataclass
class Figure:
    """A picture of a code cell: its PNG in base64, its caption and its alternative text."""

    png: str
    caption: str
    alt: str

    @property
    def aspect(self) -> float:
        """Width over height, from the PNG's own header."""
        width, height = struct.unpack(">II", base64.b64decode(self.png[:64])[16:24])
        return width / height


@dataclass
class Piece:
    """What stands under one heading, up to the next heading or the next figure.

    Attributes
    ----------
    part
        The level-two heading above it, such as ``"Build: the loss, step by step"``.
    title
        The nearest heading above it, of any level.
    text
        Its prose, generated sentences included; MyST directives and roles are still in it.
    figure
        The figure it leads to, if any.
    """

    part: str
    title: str
    text: str = ""
    figure: Figure | None = None


@dataclass
class Box:
    """An admonition: its kind, title, own text and the boxes inside."""

    kind: str
    title: str
    text: str = ""
    inner: list[Box] = field(default_factory=list)


def title(notebook: NotebookNode) -> tuple[str, str]:
    """The chapter's question, and what stands below it before the first part."""
    first = next(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading, _, rest = first.partition("\n")
    return heading.removeprefix("# ").strip(), rest.partition("\n## ")[0].strip()


def pieces(notebook: NotebookNode) -> list[Piece]:
    """The chapter after its title, in order, without its solutions and quizzes."""
    found = [Piece("", "")]
    for cell in notebook.cells:
        if {"solution", "quiz"} & set(tags(cell)):
            continue
        if cell.cell_type == "markdown":
            _add_prose(found, cell.source)
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            now = found[-1]
            if "text/markdown" in data:
                now.text += f"\n\n{data['text/markdown']}"
            if "image/png" in data:
                notes = cell.metadata.get("mystnb", {})
                caption = notes.get("figure", {}).get("caption", "")
                alt = notes.get("image", {}).get("alt", "")
                now.figure = Figure(data["image/png"].replace("\n", ""), caption, alt)
                found.append(Piece(now.part, now.title))
    return [piece for piece in found if piece.part and (piece.text.strip() or piece.figure)]


def _add_prose(found: list[Piece], source: str) -> None:
    fenced = False
    for line in source.splitlines():
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else re.match(r"(#{1,4}) +(.+)", line)
        if heading is None:
            found[-1].text += f"{line}\n"
        elif len(heading[1]) > 1:
            name = plain(heading[2])
            part = name if len(heading[1]) == 2 else found[-1].part
            found.append(Piece(part, name))
    found[-1].text += "\n"


def part(found: list[Piece], word: str) -> str:
    """All prose of the part whose heading begins with `word`."""
    return "\n".join(piece.text for piece in found if piece.part.startswith(word)).strip()


def boxes(text: str) -> list[Box]:
    """The outermost admonitions of `text`."""
    top = Box("", "")
    open_boxes, fences = [top], [""]
    for line in text.splitlines():
        fence = FENCE.match(line)
        if fence:
            box = Box(fence[2], fence[3])
            open_boxes[-1].inner.append(box)
            open_boxes.append(box)
            fences.append(fence[1])
        elif len(fences) > 1 and line.strip() == fences[-1]:
            open_boxes.pop()
            fences.pop()
        elif not (len(fences) > 1 and OPTION.match(line)):
            open_boxes[-1].text += f"{line}\n"
    return top.inner


def plain(text: str) -> str:
    """Markdown that any reader knows: roles become their words, fences of boxes go."""
    lines = [
        line
        for line in text.splitlines()
        if not (FENCE.match(line) or OPTION.match(line) or re.fullmatch(r":{3,}\s*", line))
    ]
    return ROLE.sub(r"\1", "\n".join(lines)).strip()


def items(text: str) -> list[str]:
    """The points of a part: its bullets, or its paragraphs where it has none."""
    text = plain(text)
    bullets = re.findall(r"^(?:[-*]|\d+\.) (.+(?:\n[ \t]+\S.*)*)", text, re.MULTILINE)
    points = bullets or re.split(r"\n\s*\n", text)
    return [re.sub(r"\s*\n\s*", " ", point).strip() for point in points if point.strip()]


def formulas(text: str) -> list[tuple[str, str]]:
    """Each displayed formula of `text`, with the paragraph that leads to it."""
    found = []
    blocks = [b for b in re.split(r"\n\s*\n", plain(text)) if b.strip()]
    for before, block in zip(["", *blocks], blocks, strict=False):
        formula = re.fullmatch(r"\s*\$\$(.+?)\$\$\s*", block, re.DOTALL)
        if formula:
            found.append((re.sub(r"\s*\n\s*", " ", before).strip(), formula[1].strip()))
    return found
