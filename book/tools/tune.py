"""Choose recipes by inner validation, and log every configuration that was tried.

Each configuration is scored by leaving out one of the sections C2 to C5 of her2st at a time.
C6 and the other donors take no part.
Scores go to ``book/results/tried.csv``, also those of what was not kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import pandas as pd
from measure import TUNED_ON, keep_cache_in_build, read, size_of, spread
from results import COMMITTED, write_results

from heclip_lite import config, evaluation, features, recipes
from heclip_lite.base import Method
from heclip_lite.heclip import HECLIP
from heclip_lite.methods import (
    BLEEP,
    CLIP,
    Average,
    KernelRidge,
    NearestNeighbours,
    Regression,
    Ridge,
)

COLUMNS = ["hvg1000", "hvg50", "heg50", "svg50"]


def candidates() -> dict[str, Method]:
    """Everything that was tried, by what is special about it."""
    size = size_of("her2st")
    maps, heads = size.maps, size.heads
    base = HECLIP.recommended(maps, heads)
    random = config.MapInput(config.Encoder("resnet10t"))

    def heclip(image=maps, contrast=None, decode=None, settings=None, members=5) -> HECLIP:
        return HECLIP(
            image,
            replace(base.contrast, **(contrast or {})),
            replace(base.decode, **(decode or {})),
            replace(heads, **(settings or {})),
            members=members,
        )

    def options(**values) -> dict:
        return {"options": {**base.contrast.options, **values}}

    kernel = KernelRidge(maps)
    return {
        "HECLIP recommended": base,
        "HECLIP, random ResNet10t": heclip(random),
        "HECLIP, random ResNet10t, soft image targets": heclip(random, options(targets="image")),
        "HECLIP, random ResNet10t, CLIP loss": heclip(
            random, {"loss": "clip", "options": {"cosine": True}}
        ),
        "HECLIP, random ResNet10t, 60 epochs": heclip(random, settings={"epochs": 60}),
        "HECLIP, random ResNet10t, 12 epochs": heclip(random, settings={"epochs": 12}),
        "ridge, random ResNet10t": Ridge(random),
        "HECLIP, Reinhard": heclip(replace(maps, stain="reinhard")),
        "HECLIP, Macenko": heclip(replace(maps, stain="macenko")),
        "HECLIP, windows to 800 µm": heclip(
            replace(maps, widths_um=(44.0, 100.0, 200.0, 400.0, 800.0))
        ),
        "HECLIP, windows from 100 µm": heclip(replace(maps, widths_um=(100.0, 200.0, 400.0))),
        "HECLIP, 64 kernel components": heclip(replace(maps, components=64)),
        "HECLIP, 256 kernel components": heclip(replace(maps, components=256)),
        "HECLIP, 10 expression components": heclip(contrast={"rank": 10}, decode={"rank": 10}),
        "HECLIP, 40 expression components": heclip(contrast={"rank": 40}, decode={"rank": 40}),
        "HECLIP, temperature 0.1": heclip(contrast={"temperature": 0.1}),
        "HECLIP, temperature 0.4": heclip(contrast={"temperature": 0.4}),
        "HECLIP, weights 0.05": heclip(decode={"weights": 0.05}),
        "HECLIP, weights 0.2": heclip(decode={"weights": 0.2}),
        "HECLIP, 10 networks": heclip(members=10),
        "HECLIP, colour and nuclei": heclip(config.AppearanceInput()),
        "kernel ridge": kernel,
        "kernel ridge, 50 components": KernelRidge(maps, rank=50),
        "kernel ridge, colour and nuclei": KernelRidge(config.AppearanceInput()),
        "average: HECLIP, kernel ridge": Average([base, kernel]),
        "average: HECLIP, kernel ridge, colour": Average(
            [base, kernel, KernelRidge(config.AppearanceInput())]
        ),
        "average: HECLIP on maps and on colour, kernel ridge": Average(
            [base, heclip(config.AppearanceInput()), kernel]
        ),
        "ridge": Ridge(maps),
        "ridge, colour and nuclei": Ridge(config.AppearanceInput()),
        "nearest neighbours": NearestNeighbours(maps),
        "regression": Regression(maps, heads, hidden=256, members=5),
        "regression, Poisson": Regression(maps, heads, likelihood="poisson", hidden=256, members=5),
        "regression, negative binomial": Regression(
            maps, heads, likelihood="negative_binomial", hidden=256, members=5
        ),
        "BLEEP on maps": BLEEP(maps, heads, members=5),
        "CLIP on maps": CLIP(maps, heads, members=5),
        "regression, end to end": Regression(size.patches, size.end_to_end),
    }


def _read() -> tuple[list, list]:
    serial = read("her2st", TUNED_ON)
    return serial, evaluation.leave_one_out(serial, "section")


def describe(image: config.Input, number: int) -> None:
    """Compute and keep one slide's features."""
    features.describe(read("her2st", TUNED_ON)[number], image)


def job(name: str, fold: int) -> None:
    """Fit one candidate on one fold."""
    serial, folds = _read()
    evaluation.contest({name: candidates()[name]}, serial, [folds[fold]])


def main() -> int:
    """Score all candidates, or those whose name holds ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a name")
    arguments = parser.parse_args()
    keep_cache_in_build()
    started = time.perf_counter()
    chosen = {n: m for n, m in candidates().items() if arguments.only.lower() in n.lower()}
    serial, folds = _read()
    inputs = recipes.inputs_of(chosen)
    spread(describe, [(i, n) for n in range(len(serial)) for i in inputs], label="slides")
    spread(job, [(name, fold) for fold in range(len(folds)) for name in chosen], label="tried")
    table = evaluation.contest(chosen, serial, folds)
    table = table[(table["scope"] == "per_section") & table["gene_set"].isin(COLUMNS)]
    means = table.pivot_table(
        index="method", columns=["metric", "gene_set"], values="value", aggfunc="mean", sort=False
    )
    found = pd.DataFrame({"tried": list(chosen)}).set_index("tried")
    for gene_set in COLUMNS:
        found[gene_set] = means["pearson", gene_set]
    for gene_set in COLUMNS[:2]:
        found[f"partial_{gene_set}"] = means["partial_pearson", gene_set]
    found = found.reset_index().assign(split="section", folds=" ".join(TUNED_ON), seeds=1)
    print(found.round(3).to_string(index=False))
    if arguments.only:
        print(f"{COMMITTED.name}/tried.csv is written only when all are tried.")
        return 0
    write_results(
        "tried",
        found,
        seconds=time.perf_counter() - started,
        settings={"data": "her2st", "sections": list(TUNED_ON), "seeds": [0]},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
