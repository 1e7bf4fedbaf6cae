"""Choices of a pipeline that are switched one at a time, and what each switch is worth.

Faults interact.
So each choice is measured twice: switched on alone in a clean pipeline, and switched off alone in
one that makes all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields, replace
from typing import Any

import pandas as pd

COLUMNS = [
    "dataset",
    "choice",
    "direction",
    "fold",
    "seed",
    "gene_set",
    "metric",
    "truth",
    "base",
    "value",
    "difference",
]
Configuration = tuple[str, str, Any]  # choice, direction, choices of the pipeline


def switch(what: str, where: str) -> Any:
    """A field of a dataclass of choices: `what` it is, and `where` in the released code."""
    return field(default=False, metadata={"what": what, "where": where})


def describe(kind: type) -> pd.DataFrame:
    """All choices of a dataclass: ``choice``, ``what`` it is, ``where`` in the released code."""
    return pd.DataFrame(
        [{"choice": f.name, **f.metadata} for f in fields(kind)],
        columns=["choice", "what", "where"],
    )


def configurations(clean: Any, reference: Any, names: Sequence[str]) -> list[Configuration]:
    """All pipelines to run; the two ends come first, under the choice ``"none"``."""
    found = [("none", "one_on_from_clean", clean), ("none", "one_off_from_reference", reference)]
    for name in names:
        found.append((name, "one_on_from_clean", replace(clean, **{name: True})))
        found.append((name, "one_off_from_reference", replace(reference, **{name: False})))
    return found


def differences(table: pd.DataFrame, choices: Sequence[str]) -> pd.DataFrame:
    """Set each score beside that of its end, the choice ``"none"``; rows in the order of choices.

    Returns
    -------
    DataFrame
        With the columns `COLUMNS`.
    """
    on = ["direction", "fold", "seed", "gene_set", "metric", "truth"]
    ends = table[table["choice"] == "none"][[*on, "value"]].rename(columns={"value": "base"})
    made = table.merge(ends, on=on, how="left")
    made["difference"] = made["value"] - made["base"]
    order = ["none", *choices]
    made["place"] = made["choice"].map({name: i for i, name in enumerate(order)})
    made = made.sort_values(["place", *on], kind="stable", ignore_index=True)
    return made[COLUMNS]
