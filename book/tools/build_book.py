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

from decks import write_decks
from results import COMMITTED
from run_notebooks import run_all
from settings import BUILD, NOTEBOOKS, ROOT, BuildError, shown
from stage import make_stage, plain_pages
from student import offer

from heclip_lite.store import content_key, package_hash, write_json

SITE = BUILD / "html"
INSTRUCTOR = BUILD / "instructor"  # the same book with its solutions open


def site_key(stage: Path) -> str:
    """Key of all a page is made from: staged files, docstrings, tools and versions."""
    folders = (stage, Path(__file__).parent, NOTEBOOKS, COMMITTED)  # the last two are handed out
    files = sorted(p for folder in folders for p in folder.rglob("*"))
    files = [p for p in files if p.is_file() and "__pycache__" not in p.parts]
    parts = [part for p in files for part in (p.relative_to(ROOT).as_posix(), p.read_bytes())]
    return content_key(package_hash(), (ROOT / "requirements.txt").read_bytes(), *parts)


def build_site(stage: Path, data: str, profile: str, site: Path = SITE) -> bool:
    """Build `site` from `stage`; return False where it was up to date already.

    It is always built whole: Sphinx repeats no warning of a page that it does not read again,
    so that a second, partial build would hide what failed the first.

    Raises
    ------
    BuildError
        If Sphinx warns or fails.
    """
    key, record = site_key(stage), site.with_suffix(".json")
    if record.exists() and (site / "index.html").exists():
        if json.loads(record.read_text(encoding="utf-8"))["key"] == key:
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
    record.unlink(missing_ok=True)
    shutil.rmtree(site, ignore_errors=True)
    os.replace(work / "_build" / "html", site)
    shutil.rmtree(work)
    write_json(record, {"key": key})
    return True


def build(data: str, profile: str, *, instructor: bool = False) -> Path:
    """Everything; return the address of the first page."""
    records = run_all(data, profile)
    clock, site = time.perf_counter(), INSTRUCTOR if instructor else SITE
    stage = make_stage(data, profile, records, instructor=instructor)
    built = build_site(stage, data, profile, site)
    print(f"site {f'built in {time.perf_counter() - clock:.0f} s' if built else 'unchanged'}")
    return site / "index.html"


def main() -> int:
    """Command line: ``build_book.py [--data her2st] [--profile full] [--notebooks-only]``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="synthetic or her2st")
    parser.add_argument("--profile", default="fast", help="fast or full")
    parser.add_argument("--notebooks-only", action="store_true", help="execute, build no site")
    parser.add_argument("--instructor", action="store_true", help="build the edition with answers")
    arguments = parser.parse_args()
    run = arguments.data, arguments.profile
    try:
        if arguments.notebooks_only:
            run_all(*run)
        else:
            print(f"Open {shown(build(*run, instructor=arguments.instructor))}")
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
