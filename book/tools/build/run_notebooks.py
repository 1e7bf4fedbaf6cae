"""Execute the notebooks with papermill, each only when something it rests on has changed.

An executed notebook lies under ``_build/notebooks/<DATA>_<PROFILE>/`` with a record beside it:
the key of all its inputs, the seconds it took, and when.
The book and the tests both start from here, so that they share one execution.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

from book.tools.build import offline
from book.tools.results import COMMITTED
from book.tools.settings import (
    COURSE,
    NOTEBOOKS,
    RESULTS,
    ROOT,
    BuildError,
    notebook_environment,
    notebooks,
    parameters,
    profile_path,
    run_folder,
    shown,
)
from heclip_lite.store import atomic_path, code_key, content_key, write_json


def input_key(notebook: Path, data: str, profile: str) -> str:
    """Key of everything that decides what `notebook` shows."""
    source = notebook.read_bytes()
    tables = sorted(COMMITTED.glob("*.csv")) if b"course.published" in source else []
    real = data != "synthetic" and os.environ.get("HECLIP_LITE_DATA")
    quiz = COURSE / "quizzes" / f"{notebook.stem[:2]}.json"
    slides = str(Path(real).expanduser().absolute()) if real else ""
    return content_key(
        source,
        *[table.read_bytes() for table in tables],
        quiz.read_bytes() if quiz.exists() else b"",
        profile_path(data, profile).read_bytes(),
        (ROOT / "requirements.txt").read_bytes(),
        code_key(),
        *[file.read_bytes() for file in sorted(COURSE.glob("*.py"))],
        [data, profile, slides, platform.python_version()],
    )


def result_files(notebook: Path, folder: Path) -> list[Path]:
    """What `notebook` has written as its results under `folder`: ``NN_*.json``."""
    return sorted(folder.glob(f"{notebook.stem[:2]}_*.json"))


def read_record(notebook: Path, data: str, profile: str) -> dict | None:
    """Record of the last complete execution, or None; `fresh` tells whether it still holds."""
    folder = run_folder(data, profile)
    path = folder / f"{notebook.stem}.json"
    complete = path.exists() and (folder / notebook.name).exists()
    if not complete or not result_files(notebook, folder / "results"):
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return {**record, "fresh": record["key"] == input_key(notebook, data, profile)}


def execute(notebook: Path, data: str, profile: str) -> dict:
    """Execute one notebook; its files take their final names only when it has ended well.

    Raises
    ------
    BuildError
        If a cell fails, or the notebook wrote no results.
    """
    folder = run_folder(data, profile)
    folder.mkdir(parents=True, exist_ok=True)
    key = input_key(notebook, data, profile)  # before the run: an edit meanwhile makes it stale
    unfinished = folder / f"{notebook.stem}.unfinished.ipynb"
    outside = offline.route_out()
    started, clock = time.time(), time.perf_counter()
    run_cells(notebook, unfinished, parameters(data, profile, notebook.stem))
    seconds = time.perf_counter() - clock
    written = [p for p in result_files(notebook, RESULTS) if p.stat().st_mtime >= started - 2]
    if not written:
        raise BuildError(
            f"{shown(notebook)} ended without writing {shown(RESULTS)}/{notebook.stem[:2]}_*.json: "
            "its last cell has to."
        )
    kept = folder / "results"
    for path in result_files(notebook, kept):
        path.unlink()
    for path in written:
        copied(path, kept)
    record = {
        "key": key,
        "notebook": notebook.stem,
        "data": data,
        "profile": profile,
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "offline": not outside,
    }
    os.replace(unfinished, folder / notebook.name)
    write_json(folder / f"{notebook.stem}.json", record)
    return record


def copied(path: Path, folder: Path) -> None:
    """Copy a file, with its times, into a folder."""
    with atomic_path(folder / path.name) as temporary:
        shutil.copy2(path, temporary)


def run_cells(notebook: Path, output: Path, values: dict) -> None:
    """Run `notebook` in its own folder with `values` as parameters, and write it to `output`.

    Raises
    ------
    BuildError
        If a cell fails.
    """
    try:
        with notebook_environment():
            papermill.execute_notebook(
                notebook,
                output,
                parameters=values,
                kernel_name="python3",
                cwd=notebook.parent,
                progress_bar=sys.stderr.isatty(),
                request_save_on_cell_execute=False,  # nobody reads an unfinished notebook
                extra_arguments=["--log-level=CRITICAL"],  # no advice on encrypting local traffic
            )
    except PapermillExecutionError as error:
        raise BuildError(_explain(notebook, output, error)) from None


def run_all(data: str, profile: str, *, only_offline: bool = False) -> list[dict]:
    """Execute every notebook whose inputs have changed; return the records in order.

    With `only_offline` an execution counts only if it was made out of reach of any network.

    Raises
    ------
    BuildError
        If there is no such profile, no notebook, or a notebook fails.
    """
    profile_path(data, profile)
    paths = notebooks()
    if not paths:
        raise BuildError(f"No notebooks NN_*.ipynb in {shown(NOTEBOOKS)}.")
    records = []
    for number, notebook in enumerate(paths, start=1):
        print(f"[{number}/{len(paths)}] {notebook.stem} ... ", end="", flush=True)
        record = read_record(notebook, data, profile)
        if record and record["fresh"] and (record.get("offline") or not only_offline):
            print(f"unchanged since {record['finished']}", flush=True)
            for path in result_files(notebook, run_folder(data, profile) / "results"):
                copied(path, RESULTS)
        else:
            record = execute(notebook, data, profile)
            print(f"{record['seconds']} s", flush=True)
        records.append(record)
    return records


def _explain(notebook: Path, unfinished: Path, error: PapermillExecutionError) -> str:
    first_lines = "\n".join(f"    {line}" for line in error.source.splitlines()[:12])
    return (
        f"{shown(notebook)} stopped in cell {error.exec_count} with {error.ename}:\n"
        f"    {error.evalue}\n\nThe cell begins with\n{first_lines}\n\n"
        f"The notebook up to there, with the whole traceback: {shown(unfinished)}"
    )
