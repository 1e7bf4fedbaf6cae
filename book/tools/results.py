"""Measured results that are committed: tables under ``book/results``, each with its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from book.tools.settings import BUILD, ROOT, shown
from heclip_lite import runtime, store

COMMITTED = ROOT / "book" / "results"
QUICK = BUILD / "results" / "quick"  # what QUICK=1 measures stays out of git
# Folders of the package whose code makes the numbers of a table, by the first word of its name.
_METHODS = ("core", "data", "features", "methods")
_JUDGED = (*_METHODS, "evaluation")
_IN_SPACE = (*_METHODS, "spatial")
MADE_BY = {
    "contest": _JUDGED,
    "tried": (*_IN_SPACE, "evaluation"),
    "ablations": _JUDGED,
    "ledger": _JUDGED,
    "ceilings": _JUDGED,
    "intervals": (*_IN_SPACE, "evaluation"),
    "audit": _JUDGED,
    "recovery": (*_IN_SPACE, "evaluation"),
    "domains": (*_IN_SPACE, "evaluation"),
    "resolution": (*_IN_SPACE, "evaluation"),
    "dense": (*_IN_SPACE, "evaluation"),
    "speed": ("core", "data"),
    "wholeslide": _IN_SPACE,
    "retrieval": ("core", "methods"),
}


def write_results(
    name: str, table: pd.DataFrame, *, seconds: float, settings: dict[str, Any], quick: bool = False
) -> Path:
    """Write ``<name>.csv`` and beside it ``<name>.json``: how the table was made.

    Parameters
    ----------
    name
        File name without ending, such as ``"contest_her2st"``.
    table
        What was measured.
    seconds
        How long it took.
    settings
        What was asked for: sections, splits, seeds, sizes.
    quick
        A small run for comparison: written under ``_build``, not among the committed tables.
    """
    folder = QUICK if quick else COMMITTED
    path = folder / f"{name}.csv"
    with store.atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5f", lineterminator="\n")
    store.write_json(
        folder / f"{name}.json",
        {
            **store.provenance(runtime.pick_device()),
            "code": code_key(name),
            "rows": len(table),
            "seconds": round(seconds, 1),
            "settings": settings,
        },
    )
    print(f"{len(table):,} rows in {shown(path)}, {seconds / 60:.1f} min")
    return path


def code_key(name: str) -> str:
    """Key of the code that makes a table's numbers; comments and layout do not change it."""
    drawn = ["data/synthetic"] if name.endswith("synthetic") else []
    return store.code_key(*MADE_BY[name.partition("_")[0]], *drawn)


def is_committed(name: str) -> bool:
    """Whether a table has been measured; some need a machine that few have."""
    return (COMMITTED / f"{name}.csv").exists()


def read_settings(name: str) -> dict[str, Any]:
    """The record of a committed table: how it was made."""
    return json.loads((COMMITTED / f"{name}.json").read_text(encoding="utf-8"))


def read_results(name: str, *, quick: bool = False) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and record that `write_results` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    """
    folder = QUICK if quick else COMMITTED
    path = folder / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"There is no {shown(path)}; see `make help` for what writes it.")
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return pd.read_csv(path, keep_default_na=True), record
