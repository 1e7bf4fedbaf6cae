"""Who has solved which coded exercise: a table from the notebooks that learners handed in.

It reads what the checks printed. With ``--run`` it calls each check again, in a process of its
own: the imports of the notebook, then the learner's cell. That runs code of other people.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pandas as pd

from book.tools.settings import files_in
from heclip_lite import store

CHECK = re.compile(r"\bcheck_(\w+)\(")
MARKS = {"Correct": "correct", "Not done yet": "not done"}
PATIENCE = 120  # seconds for one exercise; importing torch takes most of them


def marks(folder: Path, *, run: bool = False) -> pd.DataFrame:
    """Learners as rows, exercises such as ``02 sharpness`` as columns.

    Parameters
    ----------
    folder
        One folder for each learner, with their notebooks anywhere inside.
    run
        Call each check again, in place of reading what it printed.

    Raises
    ------
    ValueError
        If there is no notebook, or one that cannot be read.
    """
    found: dict[str, dict[str, str]] = {}
    paths = [path for path in files_in(folder) if path.suffix == ".ipynb"]
    for path in paths:
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception as error:  # whatever a learner has made of the file
            raise ValueError(f"{path} is no notebook that can be read: {error}") from None
        learner = path.relative_to(folder).parts[0].removesuffix(".ipynb")
        for cell in notebook.cells:
            exercise = exercise_of(cell)
            if exercise:
                said = again(notebook, cell) if run else printed(cell)
                found.setdefault(learner, {})[f"{path.stem[:2]} {exercise}"] = mark(said)
    if not found:
        raise ValueError(
            f"No exercise was found under {folder}. It should hold a folder for each learner, "
            "with the notebooks they handed in."
        )
    table = pd.DataFrame.from_dict(found, orient="index").sort_index(axis=0).sort_index(axis=1)
    table = table.fillna("not handed in")
    table.insert(0, "correct", (table == "correct").sum(axis=1))
    return table.rename_axis("learner")


def exercise_of(cell: nbformat.NotebookNode) -> str | None:
    """Name of the exercise that a code cell answers; solutions are no answers."""
    if cell.cell_type != "code" or "solution" in cell.metadata.get("tags", []):
        return None
    called = CHECK.search(cell.source)
    return called[1] if called else None


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell printed when its learner ran it last."""
    return "".join(out.get("text", "") for out in cell.outputs if out.output_type == "stream")


def mark(said: str) -> str:
    """One word or two for what a check said; nothing at all means that the cell never ran."""
    if not said.strip():
        return "not run"
    line = said.strip().splitlines()[-1]
    return next((word for start, word in MARKS.items() if line.startswith(start)), "not yet")


def again(notebook: nbformat.NotebookNode, cell: nbformat.NotebookNode) -> str:
    """What the check says to the learner's cell, run after nothing but the notebook's imports."""
    script = "\n".join([*imports_of(notebook), cell.source])
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, "-c", script],
                cwd=empty,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {PATIENCE} seconds"
    return done.stdout or done.stderr or "said nothing"


def imports_of(notebook: nbformat.NotebookNode) -> list[str]:
    """The import statements of all code cells that Python can parse."""
    lines = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            try:
                body = ast.parse(cell.source).body
            except SyntaxError:  # a command of Jupyter, or an unfinished cell
                continue
            lines += [ast.unparse(s) for s in body if isinstance(s, ast.Import | ast.ImportFrom)]
    return lines


def main() -> int:
    """Command line: ``marks.py FOLDER [--run] [--csv FILE]``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds a folder for each learner")
    parser.add_argument("--run", action="store_true", help="call each check again: runs their code")
    parser.add_argument("--csv", type=Path, help="write the table to this file too")
    arguments = parser.parse_args()
    try:
        table = marks(arguments.folder, run=arguments.run)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(table.to_string())
    if arguments.csv:
        with store.atomic_path(arguments.csv) as temporary:
            table.to_csv(temporary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
