"""Change one thing of the recommended recipe at a time; write ``book/results/ablations_*.csv``.

On her2st the sections C2 to C5 are left out one at a time: where recipes are chosen.
C6 and the other donors take no part.
A stopped run goes on where it stopped.
"""

from __future__ import annotations

import sys

import heclip_course as course
from book.tools.measure.jobs import SEEDS, TUNED_ON, from_command_line, read, size_of, spread
from book.tools.results import write_results
from heclip_lite import config, evaluation, features
from heclip_lite.data import sections
from heclip_lite.evaluation import ablations
from heclip_lite.methods import recipes

QUICK_FACTORS = ("temperature", "decoding", "projection size")


def sections_of(data: str) -> list:
    """Where one section is left out at a time: training sections only."""
    return read(data, TUNED_ON if data == "her2st" else course.DATASETS[data].training)


def factors_of(data: str, *, quick: bool) -> ablations.Factors:
    """All factors, or those that train in seconds."""
    encoders = {"ResNet10t, random weights": config.Encoder("resnet10t")}
    made = ablations.factors(size_of(data), encoders if data == "her2st" else None)
    return {name: levels for name, levels in made.items() if not quick or name in QUICK_FACTORS}


def describe(data: str, quick: bool, number: int, image: int) -> None:
    """Compute and keep one description of one slide."""
    methods = ablations.named(factors_of(data, quick=quick))
    features.describe(sections_of(data)[number], recipes.inputs_of(methods)[image])


def job(data: str, quick: bool, name: str, fold: int, seed: int) -> None:
    """Fit one level on one fold with one seed; its prediction stays on disk."""
    everything = sections_of(data)
    method = ablations.named(factors_of(data, quick=quick))[name]
    split = evaluation.leave_one_out(everything, "section")
    evaluation.contest({name: method}, everything, [split[fold]], seeds=(seed,))


def main() -> int:
    """Measure and write."""
    data, quick = from_command_line(__doc__)
    title = f"ablations {data}{' quick' if quick else ''}"
    everything = sections_of(data)
    split = evaluation.leave_one_out(everything, "section")
    chosen = factors_of(data, quick=quick)
    methods = ablations.named(chosen)
    seeds = SEEDS[:1] if quick else SEEDS[:2]
    inputs = range(len(recipes.inputs_of(methods)))
    slides = [(data, quick, n, image) for n in range(len(everything)) for image in inputs]
    seconds = spread(describe, slides, label=f"{title}, slides")
    todo = [
        (data, quick, name, fold, seed)
        for fold in range(len(split))
        for name, method in methods.items()
        for seed in evaluation.seeds_of(method, seeds)
    ]
    seconds += spread(job, todo, label=title)
    table = ablations.ablate(chosen, everything, split, seeds=seeds)
    write_results(
        f"ablations_{data}",
        table[table["scope"] == "per_section"],
        seconds=seconds,
        settings={
            "data": data,
            "sections": [sections.name_of(s) for s in everything],
            "seeds": list(seeds),
            "quick": quick,
        },
        quick=quick,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
