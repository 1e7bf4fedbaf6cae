"""Within one slide: learn from some spots, predict the others; and between the spots.

On her2st it writes ``book/results/recovery_her2st.csv`` and ``intervals_recovery_her2st.csv``.
On the synthetic tissue, whose expression is known everywhere, it writes
``recovery_synthetic.csv`` and ``resolution_synthetic.csv``.
A stopped run goes on where it stopped.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from book.tools.measure.jobs import TUNED_ON, from_command_line, read, size_of, spread
from book.tools.results import write_results
from heclip_lite import features
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.evaluation import intervals, recovery
from heclip_lite.methods import recipes
from heclip_lite.methods.base import Method

SEEDS = (0, 1)
QUICK_SECTIONS = {"her2st": ("C6",), "synthetic": ("P2-2",)}
QUICK_METHODS = ("histosge", "kernel_ridge", "inverse_distance", "mean")
SLOW = ("histosge_reference",)  # one seed, and the page says so
SETS = ("hvg1000", "hvg50")
AGAINST = "histosge"


def sections_of(data: str, quick: bool) -> list[AnnData]:
    """The slides: each is a test of its own."""
    return read(data, QUICK_SECTIONS[data] if quick else None)


def methods_of(data: str, section: AnnData, quick: bool) -> dict[str, Method]:
    """Methods by name; HisToSGE as released cuts patches in pixels of the slide."""
    made = recipes.within_slide(size_of(data), sections.um_per_px(section))
    return {n: m for n, m in made.items() if not quick or n in QUICK_METHODS}


def seeds_of(name: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Seeds of one method: one for those that take long."""
    return seeds[:1] if name in SLOW else seeds


def describe(data: str, quick: bool, number: int, image: int) -> None:
    """Compute and keep one description of one slide."""
    section = sections_of(data, quick)[number]
    methods = methods_of(data, section, quick)
    features.describe(section, recipes.inputs_of(methods)[image])


def job(data: str, quick: bool, number: int, name: str, holdout: str, seed: int) -> None:
    """Fit one method on a part of one slide; its prediction stays on disk."""
    section = sections_of(data, quick)[number]
    method = methods_of(data, section, quick)[name]
    recovery.recovery({name: method}, section, (holdout,), seeds=(seed,))


def dense_job(quick: bool, number: int, name: str, seed: int) -> None:
    """Fit one method on one synthetic slide and score it between the spots."""
    section = sections_of("synthetic", quick)[number]
    method = methods_of("synthetic", section, quick)[name]
    recovery.generation({name: method}, section, tissue.truth(section).expression, seeds=(seed,))


def paired_intervals(everything: list[AnnData], data: str, quick: bool) -> pd.DataFrame:
    """Paired block-bootstrap intervals over the spots held out at random, against ours."""
    tables = []
    for section in tqdm(everything, desc="intervals"):
        kept: dict = {}
        methods = methods_of(data, section, quick)
        recovery.recovery(methods, section, ("random",), seeds=SEEDS[:1], predictions=kept)
        out = kept["random", SEEDS[0]]
        part = recovery.kept_part(section, out)
        panel = genes.fit_panel([part])
        asked = section[out].copy()
        truth = genes.expression(asked, panel, absent=0.0)
        log_depth = np.log(np.asarray(asked.X.sum(axis=1)).ravel())
        reach = intervals.correlogram_range([part], panel, gene_set="svg50")
        try:
            blocks = intervals.block_labels(asked, reach)
        except ValueError:  # too few blocks: the section stays a point
            continue
        for gene_set in SETS:
            columns = panel.index(gene_set)
            predictions = {n: kept[n, "random", SEEDS[0]][out][:, columns] for n in methods}
            for metric, depth in (("pearson", None), ("partial_pearson", log_depth)):
                found = intervals.bootstrap(
                    truth[:, columns], predictions, blocks, against=AGAINST, log_depth=depth
                )
                labels = {"fold": sections.name_of(section), "gene_set": gene_set}
                tables.append(found.assign(**labels, metric=metric, block_um=reach))
    found = pd.concat(tables, ignore_index=True)
    first = ["fold", "method", "against", "gene_set", "metric"]
    return found[[*first, *[c for c in found.columns if c not in first]]]


def main() -> int:
    """Measure and write."""
    data, quick = from_command_line(__doc__)
    everything = sections_of(data, quick)
    seeds = SEEDS[:1] if quick else SEEDS
    numbered = [(n, methods_of(data, s, quick)) for n, s in enumerate(everything)]
    slides = [
        (data, quick, n, image)
        for n, methods in numbered
        for image in range(len(recipes.inputs_of(methods)))
    ]
    title = f"recovery {data}{' quick' if quick else ''}"
    seconds = spread(describe, slides, label=f"{title}, slides")
    todo = [
        (data, quick, n, name, holdout, seed)
        for n, methods in numbered
        for name in methods
        for seed in seeds_of(name, seeds)
        for holdout in recovery.HOLDOUTS
    ]
    seconds += spread(job, todo, label=title)
    settings = {
        "data": data,
        "sections": [sections.name_of(s) for s in everything],
        "tuned_on": list(TUNED_ON) if data == "her2st" else [],
        "seeds": list(seeds),
        "quick": quick,
    }
    table = pd.concat(
        [
            made
            for n, methods in tqdm(numbered, desc="scores")
            for made in (
                *(
                    recovery.recovery({name: m}, everything[n], seeds=seeds_of(name, seeds))
                    for name, m in methods.items()
                ),
                recovery.ceiling(everything[n], seeds=seeds),
            )
        ]
    )
    write_results(f"recovery_{data}", table, seconds=seconds, settings=settings, quick=quick)
    if data == "her2st":
        found = intervals(everything, data, quick)
        name = f"intervals_recovery_{data}"
        write_results(name, found, seconds=seconds, settings=settings, quick=quick)
        return 0
    dense = [
        (quick, n, name, seed)
        for n, methods in numbered
        for name in methods
        for seed in seeds_of(name, seeds)
    ]
    seconds = spread(dense_job, dense, label=f"resolution {data}{' quick' if quick else ''}")
    table = pd.concat(
        [
            recovery.generation(
                {name: method},
                everything[n],
                tissue.truth(everything[n]).expression,
                seeds=seeds_of(name, seeds),
            )
            for n, methods in numbered
            for name, method in methods.items()
        ]
    )
    write_results(f"resolution_{data}", table, seconds=seconds, settings=settings, quick=quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
