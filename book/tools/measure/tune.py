"""Choose recipes by inner validation, and log every configuration that was tried.

Each configuration is scored by leaving out one of the sections C2 to C5 of her2st at a time.
Methods that predict the rest of a slide are scored on spots of these sections that are held out.
C6 and the other donors take no part.
Scores go to ``book/results/tried.csv``, also those of what was not kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
from anndata import AnnData

from book.tools.measure.jobs import TUNED_ON, keep_cache_in_build, read, size_of, spread
from book.tools.results import COMMITTED, write_results
from heclip_lite import config, evaluation, features
from heclip_lite.data import sections
from heclip_lite.evaluation import recovery
from heclip_lite.methods import (
    BLEEP,
    CLIP,
    Average,
    GaussianProcess,
    HisToSGE,
    InverseDistance,
    KernelRidge,
    NearestNeighbours,
    Regression,
    Ridge,
    recipes,
)
from heclip_lite.methods.base import Method
from heclip_lite.methods.heclip import HECLIP
from heclip_lite.methods.histosge import PUBLISHED_TRAINING

COLUMNS = ["hvg1000", "hvg50", "heg50", "svg50"]
WITHIN_HOLDOUTS = ("random", "block")
WITHIN_SEED = 100  # of the spots held out; measured are other ones


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
        **{f"HECLIP, weights {w:g}": heclip(decode={"weights": w}) for w in (0.05, 0.1, 0.15, 0.3)},
        **{f"HECLIP, {d} dimensions": heclip(contrast={"dim": d}) for d in (64, 256)},
        **{
            f"HECLIP, learning rate {rate:g}": heclip(settings={"learning_rate": rate})
            for rate in (3e-4, 3e-3)
        },
        "HECLIP, 15 epochs": heclip(settings={"epochs": 15}),
        "HECLIP, 60 epochs": heclip(settings={"epochs": 60}),
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
    }


def end_to_end() -> dict[str, Method]:
    """What was tried for methods that train their encoder; one fold each, for they are slow."""
    size = size_of("her2st")
    loops = {
        f"learning rate {rate:g}, batch {batch}, {epochs} epochs": replace(
            size.end_to_end, learning_rate=rate, batch_size=batch, epochs=epochs
        )
        for rate, batch, epochs in (
            (1e-3, 128, 8),
            (1e-3, 32, 8),
            (3e-4, 32, 8),
            (1e-4, 32, 8),
            (3e-4, 32, 15),
        )
    }
    return {
        f"{name}, end to end, {loop}": made(size.patches, settings)
        for loop, settings in loops.items()
        for name, made in (("regression", Regression), ("CLIP", CLIP))
    }


def within_slide() -> dict[str, Method]:
    """What was tried for the rest of a slide, half of whose spots are known."""
    size = recipes.for_part(size_of("her2st"))
    loop = size.dense

    def attention(image=None, settings=None, members=size.members, **changes) -> HisToSGE:
        made = recipes.histosge(size, **changes)
        return HisToSGE(
            image or size.maps, made.attention, replace(loop, **(settings or {})), members=members
        )

    patch = replace(size.patches, width_um=200.0, size=224, trainable=False)
    base, kernel, process = attention(), KernelRidge(size.maps), GaussianProcess()
    heclip = HECLIP.recommended(size.maps, size.heads)
    return {
        "HisToSGE": base,
        "HisToSGE, absolute places": attention(positions="continuous"),
        **{f"HisToSGE, {n} spots": attention(size=n) for n in (1, 7, 37)},
        "HisToSGE, whole sections": attention(
            groups="section", positions="continuous", settings={"epochs": 150}
        ),
        **{f"HisToSGE, {n} components": attention(rank=n) for n in (5, 10, 40)},
        "HisToSGE, gene head of 2048": attention(hidden=2048),
        "HisToSGE, genes": attention(targets="genes"),
        **{f"HisToSGE, {n} epochs": attention(settings={"epochs": n}) for n in (15, 60)},
        **{
            f"HisToSGE, learning rate {rate:g}": attention(settings={"learning_rate": rate})
            for rate in (3e-4, 3e-3)
        },
        "HisToSGE, dropout 0.3": attention(dropout=0.3),
        "HisToSGE, weight decay 0.1": attention(settings={"weight_decay": 0.1}),
        "HisToSGE, 2 blocks": attention(depth=2),
        "HisToSGE, 16 kernel components": attention(replace(size.maps, components=16)),
        "HisToSGE, 64 kernel components": attention(replace(size.maps, components=64)),
        "HisToSGE, patches of 200 µm": attention(patch),
        "HisToSGE, 1 network": attention(members=1),
        "HECLIP, within a slide": heclip,
        "kernel ridge, within a slide": kernel,
        "ridge, within a slide": Ridge(size.maps),
        "Gaussian process": process,
        "inverse distance": InverseDistance(),
        "average: HisToSGE, Gaussian process": Average([base, process]),
        "average: kernel ridge, Gaussian process": Average([kernel, process]),
        "average: HisToSGE, kernel ridge": Average([base, kernel]),
        "average: HisToSGE, kernel ridge, Gaussian process": Average([base, kernel, process]),
        "average: HisToSGE, HECLIP, kernel ridge, Gaussian process": Average(
            [base, heclip, kernel, process]
        ),
    }


def as_released() -> dict[str, Method]:
    """HisToSGE as its code has it, and with fewer rounds; on one section, for it is slow."""
    (section,) = read("her2st", TUNED_ON[-1:])
    size, um_per_px = size_of("her2st"), sections.um_per_px(section)
    return {
        f"HisToSGE as released, {n} rounds": recipes.histosge_reference(
            replace(size, dense_reference=replace(size.dense_reference, epochs=n)), um_per_px
        )
        for n in (30, 100, 300, PUBLISHED_TRAINING.epochs)
    }


Group = tuple[dict[str, Method], tuple[str, ...]]


def groups() -> dict[str, Group]:
    """Candidates and the sections that are left out for them, by group."""
    return {"heads": (candidates(), TUNED_ON), "end to end": (end_to_end(), TUNED_ON[-1:])}


def groups_within() -> dict[str, Group]:
    """Candidates and the sections whose spots are held out for them, by group."""
    return {"part": (within_slide(), TUNED_ON), "as released": (as_released(), TUNED_ON[-1:])}


def named(made: dict[str, Group], part: str) -> dict[str, Group]:
    """The same groups, without candidates whose name does not hold `part`."""
    return {
        group: ({n: m for n, m in methods.items() if part.lower() in n.lower()}, over)
        for group, (methods, over) in made.items()
    }


def recover(group: str, name: str, section: str, holdout: str) -> pd.DataFrame:
    """Score one candidate on the spots of one section that are held out."""
    (found,) = (s for s in read("her2st", TUNED_ON) if sections.name_of(s) == section)
    method = groups_within()[group][0][name]
    return recovery.recovery({name: method}, found, (holdout,), seeds=(WITHIN_SEED,))


def within_scores(group: str, names: Iterable[str], over: tuple[str, ...]) -> pd.DataFrame:
    """Mean correlations of each candidate on spots held out, a row per way to hold out."""
    rows = []
    for name in names:
        for holdout in WITHIN_HOLDOUTS:
            table = pd.concat([recover(group, name, section, holdout) for section in over])
            table = table[table["scope"] == "heldout"]
            mean = table.groupby(["metric", "gene_set"])["value"].mean()
            row = {"tried": name} | {s: mean["pearson", s] for s in COLUMNS}
            row |= {f"partial_{s}": mean["partial_pearson", s] for s in COLUMNS[:2]}
            rows.append({**row, "split": holdout, "folds": " ".join(over), "seeds": 1})
    return pd.DataFrame(rows)


def folds_of(held_out: tuple[str, ...]) -> tuple[list[AnnData], list[evaluation.Fold]]:
    """The tuning sections and the folds that leave out these."""
    serial = read("her2st", TUNED_ON)
    folds = evaluation.leave_one_out(serial, "section")
    return serial, [fold for fold in folds if fold.test[0] in held_out]


def describe(image: config.Input, number: int) -> None:
    """Compute and keep one slide's features."""
    features.describe(read("her2st", TUNED_ON)[number], image)


def job(group: str, name: str, held_out: str) -> None:
    """Fit one candidate on one fold."""
    evaluation.contest({name: groups()[group][0][name]}, *folds_of((held_out,)))


def scores(chosen: dict[str, Method], held_out: tuple[str, ...]) -> pd.DataFrame:
    """Mean correlations of each candidate, a row each."""
    table = evaluation.contest(chosen, *folds_of(held_out))
    table = table[(table["scope"] == "per_section") & table["gene_set"].isin(COLUMNS)]
    means = table.pivot_table(
        index="method", columns=["metric", "gene_set"], values="value", aggfunc="mean", sort=False
    )
    found = pd.DataFrame({"tried": list(chosen)}).set_index("tried")
    for gene_set in COLUMNS:
        found[gene_set] = means["pearson", gene_set]
    for gene_set in COLUMNS[:2]:
        found[f"partial_{gene_set}"] = means["partial_pearson", gene_set]
    return found.reset_index().assign(split="section", folds=" ".join(held_out), seeds=1)


def main() -> int:
    """Score all candidates, or those whose name holds ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a name")
    arguments = parser.parse_args()
    keep_cache_in_build()
    chosen, within = named(groups(), arguments.only), named(groups_within(), arguments.only)
    described = chosen["heads"][0] | within["part"][0] | within["as released"][0]
    inputs = recipes.inputs_of(described)
    slides = [(image, number) for number in range(len(TUNED_ON)) for image in inputs]
    seconds = spread(describe, slides, label=f"tried {arguments.only}, slides")
    todo = [
        (group, name, section)
        for group, (made, held_out) in chosen.items()
        for section in held_out
        for name in made
    ]
    seconds += spread(job, todo, label=f"tried {arguments.only}")
    rest = [
        (group, name, section, holdout)
        for group, (made, over) in reversed(within.items())  # the slow ones first
        for section in over
        for name in reversed(made)
        for holdout in WITHIN_HOLDOUTS
    ]
    seconds += spread(recover, rest, label=f"tried {arguments.only}, within slides")
    parts = [scores(*part) for part in chosen.values() if part[0]]
    parts += [within_scores(group, *part) for group, part in within.items() if part[0]]
    found = pd.concat(parts, ignore_index=True)
    print(found.round(3).to_string(index=False))
    if arguments.only:
        print(f"{COMMITTED.name}/tried.csv is written only when all are tried.")
        return 0
    write_results(
        "tried",
        found,
        seconds=seconds,
        settings={"data": "her2st", "sections": list(TUNED_ON), "seeds": [0]},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
