"""Run the contest on real slides and write ``book/results/contest_her2st.csv``.

``--profile full`` enters networks, patches and rounds of full size, for a GPU, and writes
``contest_her2st_full.csv``.

Every method, control and oracle; held out by section, by block and by donor; and once more by
donor with all slides brought to one scale and cut out alike.
A stopped run goes on where it stopped.
``--quick`` runs the cheap methods on two folds with one seed and compares them with the committed
table.
"""

from __future__ import annotations

import sys
import time

import pandas as pd
from anndata import AnnData

import heclip_course as course
from book.tools.measure.jobs import (
    SEEDS,
    SERIAL,
    TUNED_ON,
    command_line,
    keep_cache_in_build,
    known_truth,
    read,
    size_of,
    spread,
)
from book.tools.results import read_results, write_results
from book.tools.settings import BuildError
from heclip_lite import evaluation, features
from heclip_lite.data import registration, sections
from heclip_lite.evaluation import splits
from heclip_lite.methods import recipes
from heclip_lite.methods.base import Method

TOLERANCE = 0.02  # of a mean correlation, between machines
QUICK_METHODS = ("heclip_recommended", "kernel_ridge", "ridge", "colour", "mean", "position")
QUICK_FOLDS = ("C6", "B4")
COARSEST = 3.19  # um per px: donor A is published at no finer scale
# They train an encoder for each fold, which takes most of the time: one seed, and said so.
END_TO_END = ("heclip_reference_hvg", "heclip_reference_heg", "bleep", "clip", "regression")
_ON_MAPS = ("heclip_recommended", "kernel_ridge", "ridge", "average")
AT_ONE_SCALE = {  # suffix of the names, stain normalisation, methods
    "one_scale": (recipes.ONE_SCALE, "none", (*_ON_MAPS, "colour", "mean_colour")),
    "one_colour": (recipes.ONE_COLOUR, "reinhard", _ON_MAPS),
}
Part = tuple[list[AnnData], list[splits.Fold]]


def parts_of(data: str) -> dict[str, Part]:
    """Sections and folds, by kind of split."""
    everything = read(data)
    if data == "synthetic":
        return {
            "section": (everything, evaluation.leave_one_out(everything, "section")),
            "donor": (everything, evaluation.leave_one_out(everything, "donor")),
        }
    serial = [s for s in everything if sections.name_of(s) in SERIAL]
    pieces, blocks = splits.spatial_blocks(serial, rows=1, columns=2)  # left and right halves
    alike = [registration.harmonise(s, COARSEST) for s in everything]
    return {
        "section": (serial, evaluation.leave_one_out(serial, "section")),
        "donor": (everything, evaluation.leave_one_out(everything, "donor")),
        "block": (pieces, blocks),
        "one_scale": (alike, evaluation.leave_one_out(alike, "donor")),
        "one_colour": (alike, evaluation.leave_one_out(alike, "donor")),
    }


def methods_of(
    data: str, part: str, names: tuple[str, ...] | None = None, profile: str = "fast"
) -> dict:
    """Unfitted methods of one part, by their name in the table."""
    size, suffix = size_of(data, profile), ""
    if part in AT_ONE_SCALE:
        suffix, stain, allowed = AT_ONE_SCALE[part]
        size = recipes.at_one_scale(size, COARSEST, stain=stain)
        names = tuple(n for n in allowed if names is None or n in names)
    chosen = recipes.everyone(size)
    return {n + suffix: m for n, m in chosen.items() if names is None or n in names}


def seeds_of(name: str, method: Method, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Seeds of one method: one for those without randomness, and for those that take long."""
    return tuple(seeds[:1] if name in END_TO_END else evaluation.seeds_of(method, seeds))


def run(
    data: str,
    part: str,
    parts: dict[str, Part],
    methods: dict[str, Method],
    folds: list[splits.Fold],
    seeds: tuple[int, ...],
    predictions: dict | None = None,
) -> pd.DataFrame:
    """One part of the contest, each method with its seeds."""
    everything, _ = parts[part]
    options = {"predictions": predictions}
    if data == "her2st":
        options["fixed"] = recipes.BREAST_MARKERS
    else:
        options["known_truth"] = known_truth
    groups: dict[tuple[int, ...], dict[str, Method]] = {}
    for name, method in methods.items():
        groups.setdefault(seeds_of(name, method, seeds), {})[name] = method
    tables = [
        evaluation.contest(group, everything, folds, seeds=own, **options)
        for own, group in groups.items()
    ]
    return pd.concat(tables, ignore_index=True)


_READ: dict[str, dict[str, Part]] = {}


def job(data: str, profile: str, part: str, fold: int, name: str, seed: int) -> None:
    """Fit one method on one fold with one seed; its prediction stays on disk."""
    if data not in _READ:  # once per process
        _READ[data] = parts_of(data)
    parts = _READ[data]
    method = {name: methods_of(data, part, profile=profile)[name]}
    run(data, part, parts, method, [parts[part][1][fold]], (seed,))


def describe(
    data: str, profile: str, part: str, number: int, names: tuple[str, ...] | None
) -> None:
    """Compute and keep all features of one slide."""
    if data not in _READ:
        _READ[data] = parts_of(data)
    for image in recipes.inputs_of(methods_of(data, part, names, profile)):
        features.describe(_READ[data][part][0][number], image)


def jobs_of(data: str, profile: str, parts: dict[str, Part], names, folds_of, seeds) -> list[tuple]:
    """Everything to compute, slides first: neighbours in the list share a slide's features."""
    found = []
    for part, (_, folds) in parts.items():
        for number, fold in enumerate(folds):
            if folds_of is not None and not set(fold.test) & set(folds_of):
                continue
            for name, method in methods_of(data, part, names, profile).items():
                own = seeds_of(name, method, seeds)
                found += [(data, profile, part, number, name, seed) for seed in own]
    return found


def measure(data: str, profile: str, *, quick: bool) -> tuple[pd.DataFrame, float, dict]:
    """The whole table, the seconds it took and what was asked for."""
    title = f"contest {name_of(data, profile)}{' quick' if quick else ''}"
    parts = parts_of(data)
    names = QUICK_METHODS if quick else None
    seeds = SEEDS[:1] if quick else SEEDS
    folds_of = QUICK_FOLDS if quick and data == "her2st" else None
    if quick:
        parts = {part: parts[part] for part in ("section", "donor")}
    slides = [(data, profile, part, n, names) for part in parts for n in range(len(parts[part][0]))]
    seconds = spread(describe, slides, label=f"{title}, slides")
    seconds += spread(job, jobs_of(data, profile, parts, names, folds_of, seeds), label=title)
    started = time.perf_counter()
    tables = []
    for part, (_, folds) in parts.items():
        kept = [f for f in folds if folds_of is None or set(f.test) & set(folds_of)]
        methods = methods_of(data, part, names, profile)
        tables.append(run(data, part, parts, methods, kept, seeds))
    settings = {
        "data": data,
        "profile": profile,
        "splits": {part: [list(f.test) for f in folds] for part, (_, folds) in parts.items()},
        "seeds": list(seeds),
        "tuned_on": list(TUNED_ON) if data == "her2st" else [],
        "quick": quick,
        "tolerance": TOLERANCE,
    }
    seconds += time.perf_counter() - started
    return pd.concat(tables, ignore_index=True), seconds, settings


def compare(quick: pd.DataFrame, committed: pd.DataFrame) -> pd.DataFrame:
    """Rows that both tables hold, with their difference; pooled rows differ in their sections."""
    on = ["method", "split", "fold", "seed", "gene_set", "metric", "scope"]
    chosen = quick[
        (quick["scope"] == "per_section") & quick["metric"].isin(["pearson", "spearman"])
    ]
    both = chosen.merge(committed, on=on, suffixes=("", "_committed"))
    return both.assign(difference=(both["value"] - both["value_committed"]).abs())


def name_of(data: str, profile: str) -> str:
    """How the tables of a dataset and a profile are called."""
    return data if profile == "fast" else f"{data}_{profile}"


def main() -> int:
    """Measure, write, and with ``--quick`` compare."""
    parser = command_line(__doc__)
    parser.add_argument("--profile", choices=tuple(course.PROFILES), default="fast")
    arguments = parser.parse_args()
    keep_cache_in_build()
    data, profile, quick = arguments.data, arguments.profile, arguments.quick
    table, seconds, settings = measure(data, profile, quick=quick)
    name = f"contest_{name_of(data, profile)}"
    write_results(name, table, seconds=seconds, settings=settings, quick=quick)
    if not quick:
        return 0
    both = compare(table, read_results(name)[0])
    if both.empty:
        raise BuildError(f"The quick run shares no row with the committed {name}.csv.")
    worst = both.loc[both["difference"].idxmax()]
    print(
        f"{len(both)} rows compared with the committed table: largest difference "
        f"{worst['difference']:.4f} ({worst['method']}, {worst['fold']}, {worst['gene_set']}, "
        f"{worst['metric']}); tolerance {TOLERANCE}"
    )
    return int(worst["difference"] > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
