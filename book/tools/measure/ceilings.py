"""Yardsticks beside the contest: ceilings, intervals and the leakage audit.

Writes ``book/results/ceilings_her2st.csv``, ``intervals_her2st.csv`` and ``audit_her2st.csv``.
Predictions come from what ``run_contest.py`` left on disk; what is missing is computed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from book.tools.measure.contest import Part, methods_of, parts_of, run
from book.tools.measure.jobs import SEEDS, SERIAL, keep_cache_in_build
from book.tools.results import write_results
from heclip_lite import config
from heclip_lite.data import genes, registration, sections
from heclip_lite.evaluation import audit, ceilings, intervals, metrics
from heclip_lite.methods import recipes
from heclip_lite.methods.heclip import PUBLISHED_IMAGE

PARTS = ("section", "donor", "block")
AGAINST = ("position", "ridge")
SETS = ("hvg1000", "hvg50")
# Beyond two standard deviations of the widest window little is seen.
OURS = audit.Pipeline(context_um=2 * max(config.MapInput().widths_um))
LEAKY = audit.Pipeline(  # what the released code does
    panel_fitted_on="all",
    transforms_fitted_on="all",
    batch_correction="joint",
    truth="corrected",
    context_um=PUBLISHED_IMAGE.width_um / 2,
)
Case = tuple[str, list[AnnData], AnnData, genes.GenePanel]


def cases(parts: dict[str, Part]) -> Iterator[Case]:
    """Split, training sections, test section and the panel, one test section at a time."""
    for split in PARTS:
        everything, folds = parts[split]
        named = {sections.name_of(s): s for s in everything}
        for fold in folds:
            training = [named[name] for name in fold.training]
            panel = genes.fit_panel(training).with_set("fixed", recipes.BREAST_MARKERS)
            for name in fold.test:
                yield split, training, named[name], panel


def measure_ceilings(parts: dict[str, Part]) -> pd.DataFrame:
    """Counting ceiling and adjacent-section ceiling, means over the genes of each set."""
    rows = []
    whole = {sections.name_of(s): s for s in parts["donor"][0]}
    for split, _, test, panel in tqdm(list(cases(parts)), desc="ceilings"):
        truth = genes.expression(test, panel, absent=0.0)
        found = {"counting": ceilings.counting_ceiling(test, panel)}
        beside = [whole[name] for name in adjacent(sections.name_of(test), whole)]
        if split != "block" and beside:
            predicted = from_adjacent(test, beside, panel)
            found["adjacent"] = metrics.per_gene(truth, predicted)["pearson"]
        varies = ~metrics.constant(truth)
        for name, values in found.items():
            for gene_set in panel.sets:
                columns = panel.index(gene_set)
                columns = columns[varies[columns]]
                rows.append(
                    {
                        "split": split,
                        "fold": sections.name_of(test),
                        "gene_set": gene_set,
                        "ceiling": name,
                        "value": float(np.mean(values[columns])),
                    }
                )
    return pd.DataFrame(rows)


def adjacent(name: str, names: Iterable[str]) -> list[str]:
    """Serial sections next to this one: the same letter, the number one less or one more."""
    names = set(names)
    if name not in names:
        return []
    near = (f"{name[0]}{int(name[1:]) + step}" for step in (-1, 1))
    return [other for other in near if other in names]


def from_adjacent(test: AnnData, beside: list[AnnData], panel: genes.GenePanel) -> np.ndarray:
    """Measured expression of the adjacent sections, laid over, with a window of half a pitch."""
    places = [registration.register(s, test).apply(registration.positions_um(s)) for s in beside]
    return ceilings.adjacent_prediction(
        registration.positions_um(test),
        np.concatenate(places),
        np.concatenate([genes.expression(s, panel, absent=0.0) for s in beside]),
        width_um=sections.spot_pitch_um(test) / 2,
    )


def measure_intervals(parts: dict[str, Part]) -> pd.DataFrame:
    """Paired block-bootstrap intervals inside each section, of whole sections and donors."""
    tables = []
    kept: dict[str, dict] = {}
    for split in ("section", "donor"):
        kept[split] = {}
        methods = methods_of("her2st", split)
        run("her2st", split, parts, methods, parts[split][1], SEEDS[:1], kept[split])
    wanted = [case for case in cases(parts) if case[0] in kept]
    for split, training, test, panel in tqdm(wanted, desc="intervals"):
        name = sections.name_of(test)
        truth = genes.expression(test, panel, absent=0.0)
        log_depth = np.log(np.asarray(test.X.sum(axis=1)).ravel())
        reach = intervals.correlogram_range(training, panel, gene_set="svg50")
        try:
            blocks = intervals.block_labels(test, reach)
        except ValueError:  # too few blocks: the section stays a point
            continue
        for gene_set in SETS:
            columns = panel.index(gene_set)
            predictions = {
                method: values[:, columns]
                for (method, fold), values in kept[split].items()
                if fold == name
            }
            for metric, depth in (("pearson", None), ("partial_pearson", log_depth)):
                for against in AGAINST:
                    found = intervals.bootstrap(
                        truth[:, columns], predictions, blocks, against=against, log_depth=depth
                    )
                    tables.append(
                        found.assign(
                            split=split, fold=name, gene_set=gene_set, metric=metric, block_um=reach
                        )
                    )
    found = pd.concat(tables, ignore_index=True)
    first = ["split", "fold", "method", "against", "gene_set", "metric"]
    return found[[*first, *[c for c in found.columns if c not in first]]]


def measure_audit(parts: dict[str, Part]) -> pd.DataFrame:
    """The audit of every fold: our pipeline, and one that does what the released code does."""
    rows = []
    wanted = [(split, fold) for split in PARTS for fold in parts[split][1]]
    for split, fold in tqdm(wanted, desc="audit"):
        held_out = ", ".join(fold.test)
        for name, pipeline in (("ours", OURS), ("as released", LEAKY)):
            found = audit.audit(parts[split][0], fold, pipeline)
            rows.append(found.assign(split=split, fold=held_out, pipeline=name))
    found = pd.concat(rows, ignore_index=True)
    first = ["split", "fold", "pipeline"]
    return found[[*first, *audit.COLUMNS]]


def main() -> int:
    """Measure and write all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    keep_cache_in_build()
    parts = parts_of("her2st")
    for name, measure in (
        ("ceilings", measure_ceilings),
        ("intervals", measure_intervals),
        ("audit", measure_audit),
    ):
        started = time.perf_counter()
        table = measure(parts)
        write_results(
            f"{name}_her2st",
            table,
            seconds=time.perf_counter() - started,
            settings={"data": "her2st", "serial": list(SERIAL), "seeds": [SEEDS[0]]},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
