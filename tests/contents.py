"""The pages of the book, read from its table of contents; several test files go through them."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import yaml

import heclip_course
import heclip_lite

ROOT = Path(__file__).resolve().parents[1]


def pages() -> list[str]:
    """Pages of the book, without ending, in the order of reading."""

    def files(entry: dict) -> list[str]:
        inner = [e for key in ("parts", "chapters", "sections") for e in entry.get(key, [])]
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [name for e in inner for name in files(e)]

    return files(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


def pages_and_beside() -> list[str]:
    """Pages of the book, and those that the site has beside them; of source files one of many.

    But for index.html, which shows nothing and leads on to the first page.
    """
    of_code = ["genindex", "py-modindex", "_modules/index", "_modules/heclip_lite/losses"]
    return [*pages(), *of_code, "search", "404"]


def decks() -> list[str]:
    """The slides of each chapter."""
    chapters = [name for name in pages() if name.startswith("notebooks/")]
    return [name.replace("notebooks/", "decks/") for name in chapters]


def modules() -> dict[str, str]:
    """Every room and file of the package and the classroom, by the name that pages call it.

    Where two files share a name, the one nearer to the top is meant.
    """
    found = {}
    for package in (heclip_lite, heclip_course):
        inside = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names = sorted((info.name for info in inside), key=lambda name: (name.count("."), name))
        for name in names:
            if not name.startswith("heclip_lite.cli."):
                found.setdefault(name.rpartition(".")[2], name)
    return found | {"course": "heclip_course"}
