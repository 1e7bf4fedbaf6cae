"""Build the book: execute the notebooks, stage the pages, run Jupyter Book, warnings as errors.

The finished site takes its place in ``_build/html`` only when it is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from book.tools.build import freshness, offline
from book.tools.build.decks import write_decks
from book.tools.build.run_notebooks import run_all
from book.tools.build.stage import make_stage, plain_pages
from book.tools.build.student import offer
from book.tools.results import COMMITTED
from book.tools.settings import BUILD, COURSE, NOTEBOOKS, ROOT, TOOLS, BuildError, files_in, shown
from heclip_lite.store import alone_in, content_key, package_hash, write_json

SITE = BUILD / "html"
INSTRUCTOR = BUILD / "instructor"  # the same book with its solutions open


def site_key(stage: Path, sources: dict) -> str:
    """Key of all a page is made from: staged files, docstrings, tools and versions."""
    folders = (stage, TOOLS, COURSE, NOTEBOOKS, COMMITTED)  # the last two are handed out
    files = [path for folder in folders for path in files_in(folder)]
    parts = [part for p in files for part in (p.relative_to(ROOT).as_posix(), p.read_bytes())]
    requirements = (ROOT / "requirements.txt").read_bytes()
    return content_key(package_hash(), requirements, sources, *parts)


def build_site(
    stage: Path,
    data: str,
    profile: str,
    sources: dict,
    *,
    site: Path = SITE,
    only_offline: bool = False,
) -> bool:
    """Build `site` from `stage`; return False where it was up to date already.

    Each page is stamped with its `sources`; with `only_offline` a site that was built in reach
    of a network does not count.

    It is always built whole: Sphinx repeats no warning of a page that it does not read again,
    so that a second, partial build would hide what failed the first.

    Raises
    ------
    BuildError
        If Sphinx warns or fails.
    """
    key, outside = site_key(stage, sources), offline.route_out()
    record = site.with_suffix(".json")
    if record.exists() and (site / "index.html").exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["key"] == key and (known.get("offline") or not only_offline):
            return False
    work = site.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    build = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", build, "build", str(stage), "--path-output", str(work)]
    command += ["-W", "-n", "--keep-going", "--quiet"]
    # Warnings go to stderr; what Jupyter Book says on stdout names a folder about to be moved.
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        raise BuildError("The site was not built: mend the warnings above (warnings are errors).")
    for name, text in plain_pages().items():
        (work / "_build" / "html" / name).write_text(text, encoding="utf-8")
    offer(work / "_build" / "html")
    write_decks(work / "_build" / "html", data, profile)
    freshness.stamp(work / "_build" / "html", data, profile, sources)
    record.unlink(missing_ok=True)
    shutil.rmtree(site, ignore_errors=True)
    os.replace(work / "_build" / "html", site)
    shutil.rmtree(work)
    write_json(record, {"key": key, "offline": not outside})
    return True


def build(data: str, profile: str, *, instructor: bool = False, only_offline: bool = False) -> Path:
    """Everything; return the address of the first page."""
    records = run_all(data, profile, only_offline=only_offline)
    clock, site = time.perf_counter(), INSTRUCTOR if instructor else SITE
    sources = freshness.made_from(data, profile)  # before they are read: an edit makes it stale
    stage = make_stage(data, profile, records, instructor=instructor)
    built = build_site(stage, data, profile, sources, site=site, only_offline=only_offline)
    print(f"site {f'built in {time.perf_counter() - clock:.0f} s' if built else 'unchanged'}")
    return site / "index.html"


def main() -> int:
    """Command line: ``build_book.py [--data her2st] [--profile full] [--notebooks-only]``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="synthetic or her2st")
    parser.add_argument("--profile", default="fast", help="fast or full")
    parser.add_argument("--notebooks-only", action="store_true", help="execute, build no site")
    parser.add_argument("--instructor", action="store_true", help="build the edition with answers")
    parser.add_argument(
        "--offline", action="store_true", help="prove that no network is needed: see offline.py"
    )
    arguments = parser.parse_args()
    run = arguments.data, arguments.profile
    try:
        if arguments.offline and offline.route_out():
            raise BuildError(
                "With --offline no route may lead out, and one does. Start it as\n"
                "    python book/tools/build/offline.py \\\n"
                "    python -m book.tools.build.build_book --offline"
            )
        with alone_in(BUILD):  # a second build waits for the first, and then has little to do
            if arguments.notebooks_only:
                run_all(*run, only_offline=arguments.offline)
            else:
                options = {"instructor": arguments.instructor, "only_offline": arguments.offline}
                print(f"Open {shown(build(*run, **options))}")
    except BuildError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nInterrupted. The next run goes on after the last finished chapter.", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
