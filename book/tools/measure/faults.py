"""Plant the faults of ``tests/faults.toml`` one by one, and count those that the tests catch.

A test that cannot fail is no test, and a suite that gets shorter must not catch less.
``coverage`` runs all tests and keeps which test went through which line; ``plant`` puts each fault
into a copy of the checkout and runs the nearest test files that go through its line, until one
fails.
A checkout of an older commit is measured by this same script.

    python -m book.tools.measure.faults coverage .coverage
    python -m book.tools.measure.faults plant .coverage [--checkout FOLDER] [--only TEXT]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from book.tools.settings import BUILD, ROOT
from heclip_lite import store

FAULTS = ROOT / "tests" / "faults.toml"
CODE = ("heclip_lite", "book/heclip_course")
OPTIONS = ["-x", "-q", "-W", "ignore", "-p", "no:cacheprovider"]
# Tests that first execute all chapters are left out: what they would catch, others catch sooner.
BOOK = re.compile(r"\b(executed|run_build)\b")
NO_TESTS = 5  # what pytest returns where it finds none
LIMIT = 1800  # seconds; a fault that makes the tests hang is caught
NEAREST = 12  # test files; a fault that only others catch counts as missed


def place_of(checkout: Path, old: str) -> Path:
    """The one file that holds a text once."""
    files = [path for folder in CODE for path in sorted((checkout / folder).rglob("*.py"))]
    found = [path for path in files if old in path.read_text(encoding="utf-8")]
    if len(found) != 1 or found[0].read_text(encoding="utf-8").count(old) != 1:
        raise ValueError(f"The code holds {old!r} in {len(found)} files, and not once in one.")
    return found[0]


def tests_through(data: Path, checkout: Path, path: Path, old: str) -> list[str]:
    """The nearest test files that go through a place: of its file, of its room, then the others."""
    from coverage import CoverageData

    known = CoverageData(str(data))
    known.read()
    line = path.read_text(encoding="utf-8").partition(old)[0].count("\n") + 1
    by_line = known.contexts_by_lineno(str(path))
    contexts = by_line.get(max((n for n in by_line if n <= line + 1), default=0), [])
    through = Counter(context.partition("::")[0] for context in contexts if "::" in context)
    files = [file for file in through if not BOOK.search((checkout / file).read_text("utf-8"))]
    own, room = path.stem.split("_")[0], f"/{path.parent.name}/"
    files.sort(key=lambda file: (own not in file, room not in file, -through[file], file))
    return files[:NEAREST]


def copy_of(checkout: Path, folder: Path) -> Path:
    """What git tracks of a checkout, as a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (checkout / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def first_failure(copy: Path, marks: str, tests: list[str]) -> str:
    """Name of the first test that fails in a copy, or an empty text."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "book")]),
        "HECLIP_LITE_CACHE": str(copy.with_name("cache")),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", *OPTIONS, "-m", marks, *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return "the time limit"
    if done.returncode in (0, NO_TESTS):
        return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not lines:
        raise RuntimeError(f"pytest failed in {copy}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return lines[0].split(" - ")[0].partition(" ")[2]


def caught_by(checkout: Path, data: Path, fault: dict[str, str], marks: str) -> str:
    """Name of the test that fails with the fault and passes without, or an empty text."""
    path = place_of(checkout, fault["old"])
    tests = tests_through(data, checkout, path, fault["old"])
    while tests:
        with tempfile.TemporaryDirectory() as folder:
            copy = copy_of(checkout, Path(folder) / "copy")
            planted = copy / path.relative_to(checkout)
            text = planted.read_text(encoding="utf-8")
            planted.write_text(text.replace(fault["old"], fault["new"]), encoding="utf-8")
            failed = first_failure(copy, marks, tests)
            if "::" not in failed:
                return failed
            planted.write_text(text, encoding="utf-8")
            if not first_failure(copy, marks, [failed.partition("@")[0]]):
                return failed
        tests = [test for test in tests if test != failed.partition("::")[0]]
    return ""


def plant(checkout: Path, data: Path, marks: str, only: str, workers: int) -> None:
    """Plant every fault; print and keep what became of it."""
    faults = tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]
    faults = [fault for fault in faults if only in fault["what"]]
    for fault in faults:
        place_of(checkout, fault["old"])  # before any of them takes minutes
    path = BUILD / "faults.json"
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=checkout, text=True)
    keys = [store.content_key(fault, commit, marks) for fault in faults]

    def work(number: int) -> str:
        if keys[number] in done:  # by a run that was stopped
            return done[keys[number]]["caught_by"]
        return caught_by(checkout, data, faults[number], marks)

    with ThreadPoolExecutor(workers) as pool:
        results = tqdm(pool.map(work, range(len(faults))), total=len(faults), unit="fault")
        for key, fault, by in zip(keys, faults, results, strict=True):
            done[key] = {"room": fault["room"], "what": fault["what"], "caught_by": by}
            tqdm.write(f"{fault['room']}: {fault['what']}: {by or 'NOT CAUGHT'}")
            store.write_json(path, done)
    caught = sum(bool(done[key]["caught_by"]) for key in keys)
    print(f"{caught} of {len(keys)} faults caught by the tests that are marked {marks!r}")


def main() -> int:
    """Measure coverage, or plant faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("coverage", "plant"))
    parser.add_argument("data", type=Path, help="file of coverage")
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--marks", default="not slow and not browser")
    parser.add_argument("--only", default="", help="faults whose description holds this text")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    data, checkout = asked.data.resolve(), asked.checkout.resolve()
    if asked.command == "plant":
        plant(checkout, data, asked.marks, asked.only, asked.workers)
        return 0
    settings = "[run]\nbranch = true\npatch = subprocess\n"
    settings += f"source =\n    {checkout / CODE[0]}\n    {checkout / CODE[1]}\n"
    with tempfile.TemporaryDirectory() as folder:
        rc = Path(folder) / "coveragerc"
        rc.write_text(settings, encoding="utf-8")
        spread = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadgroup"]
        measured = [f"--cov-config={rc}", "--cov", "--cov-context=test", "--cov-report=term"]
        command = [sys.executable, "-m", "pytest", *spread, "--no-loadscope-reorder", *measured]
        environment = os.environ | {"COVERAGE_FILE": str(data)}
        return subprocess.run(command, cwd=checkout, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
