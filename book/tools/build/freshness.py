"""What each page of the site was made from, and whether it still is: ``freshness.py [SITE]``.

A page names its sources with their hashes in its head, so that a copy of the site, on a server
or a stick, can be told from what the repository would build today.
"""

from __future__ import annotations

import json
import re
import sys
from html import escape, unescape
from pathlib import Path

from book.tools.build.run_notebooks import input_key
from book.tools.settings import BUILD, COURSE, ROOT, files_in, notebooks, shown
from heclip_lite.store import content_key, package_hash

SITE = BUILD / "html"
RUN = "run.json"  # in the site: which run its chapters show
PACKAGE = "heclip_lite"
RESULTS = "book/results"
# Pages that show measured tables.
MEASURED = ("book/benchmark", "book/benchmark_dense", "book/scale")
STAMP = re.compile(r'<meta name="made-from" content="([^"]*) ([0-9a-f]{16})">\n')


def made_from(data: str, profile: str) -> dict[str, dict[str, str]]:
    """Sources of each page, by its address without ending: their names and hashes.

    The key ``""`` holds what every page is made from.
    """
    everywhere = {PACKAGE: package_hash(), "book/heclip_course": _folder_hash(COURSE)}
    for name in ("_config.yml", "_toc.yml"):
        everywhere[name] = content_key((ROOT / name).read_bytes())[:16]
    sources = {"": everywhere}
    chapters = {f"notebooks/{n.stem}": (n, input_key(n, data, profile)[:16]) for n in notebooks()}
    for page, (notebook, key) in chapters.items():
        for made in (page, f"decks/{notebook.stem}"):
            sources[made] = {f"notebooks/{notebook.name}": key}
    for path in [path for path in files_in(ROOT / "book") if path.suffix == ".md"]:
        name = path.relative_to(ROOT).as_posix()
        sources[name.removesuffix(".md")] = {name: content_key(path.read_bytes())[:16]}
    for page in MEASURED:
        sources[page][RESULTS] = _folder_hash(ROOT / RESULTS)
    for own in [sources[page] for page in chapters]:
        sources["book/status"] |= own
    return sources


def _folder_hash(folder: Path) -> str:
    files = files_in(folder)
    return content_key(*[part for p in files for part in (p.name, p.read_bytes())])[:16]


def stamp(site: Path, data: str, profile: str, sources: dict[str, dict[str, str]]) -> None:
    """Write into the head of each page of `site` what it was made from."""
    for path in _pages(site):
        own = sources[""] | sources.get(_name(path, site), {})
        lines = "".join(
            f'<meta name="made-from" content="{escape(name)} {key}">\n' for name, key in own.items()
        )
        text = STAMP.sub("", path.read_text(encoding="utf-8"))
        path.write_text(text.replace("</head>", f"{lines}</head>", 1), encoding="utf-8")
    run = json.dumps({"data": data, "profile": profile})
    (site / RUN).write_text(f"{run}\n", encoding="utf-8")


def stale(site: Path) -> list[str]:
    """Sentences about pages of `site` that the sources of today would change; empty if none."""
    run = json.loads((site / RUN).read_text(encoding="utf-8"))
    sources = made_from(run["data"], run["profile"])
    found = []
    for path in _pages(site):
        name = _name(path, site)
        said = STAMP.findall(path.read_text(encoding="utf-8"))
        then = {unescape(source): key for source, key in said}
        now = sources[""] | sources.get(name, {})
        for source in sorted(then.keys() | now.keys()):
            if then.get(source) != now.get(source):
                what = "has changed" if source in then and source in now else "is new or gone"
                found.append(f"{name}.html: {source} {what} since the page was made")
    return found


def _pages(site: Path) -> list[Path]:
    return sorted(p for p in site.rglob("*.html") if "_static" not in p.relative_to(site).parts)


def _name(path: Path, site: Path) -> str:
    return path.relative_to(site).as_posix().removesuffix(".html")


def main() -> int:
    """Say what is stale in a built site; the exit status is 1 where something is."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else SITE
    if not (site / RUN).exists():
        print(f"No site that make book has built: {shown(site)}", file=sys.stderr)
        return 2
    found = stale(site)
    print("\n".join(found) or "Every page is what the sources say.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
