"""Switch each questionable choice of the released code on and off; write the defect ledger.

Writes ``book/results/ledger_her2st.csv`` or ``ledger_synthetic.csv``.
A stopped run goes on where it stopped.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import heclip_course as course
from book.tools.measure.jobs import SERIAL, from_command_line, known_truth, read, size_of, spread
from book.tools.results import write_results
from heclip_lite import config, evaluation
from heclip_lite.evaluation import ledger

SEEDS = (0, 1)
EPOCHS = {"her2st": 6, "synthetic": 4}
FOLDS = {"her2st": ("C3", "C6"), "synthetic": None}
QUICK_CHOICES = ("joint_harmony", "double_log", "best_on_test", "hit_against_mean")


def given(data: str, quick: bool) -> tuple[list, list[evaluation.Fold], dict]:
    """Sections, folds with one test section each, and what `ledger.ledger` shares."""
    if data == "her2st":
        everything = read(data, SERIAL)
        folds = evaluation.leave_one_out(everything, "section")
        folds = [f for f in folds if f.test[0] in FOLDS[data]]
    else:
        everything = read(data)
        roles = course.DATASETS[data]
        folds = [evaluation.Fold(roles.training, (name,)) for name in roles.test]
    patches = size_of(data).patches
    options = {
        # As released, batch norms learn, so that they bear raw pixels as well as scaled ones.
        "image": replace(patches, encoder=replace(patches.encoder, fixed_norms=False)),
        "settings": config.Training(epochs=1 if quick else EPOCHS[data]),
        "only": QUICK_CHOICES if quick else None,
    }
    if data == "synthetic":
        options["known_truth"] = known_truth
    return everything, folds[:1] if quick else folds, options


def job(data: str, quick: bool, number: int, seed: int) -> None:
    """All pipelines of one fold and seed; their scores stay on disk."""
    everything, folds, options = given(data, quick)
    ledger.ledger(data, everything, [folds[number]], seeds=(seed,), **options)


def main() -> int:
    """Measure and write."""
    data, quick = from_command_line(__doc__)
    everything, folds, options = given(data, quick)
    seeds = SEEDS[:1] if quick else SEEDS
    todo = [(data, quick, number, seed) for number in range(len(folds)) for seed in seeds]
    seconds = spread(job, todo, label=f"ledger {data}{' quick' if quick else ''}")
    table = ledger.ledger(data, everything, folds, seeds=seeds, **options)
    write_results(
        f"ledger_{data}",
        table,
        seconds=seconds,
        settings={
            "data": data,
            "folds": {fold.test[0]: list(fold.training) for fold in folds},
            "seeds": list(seeds),
            "epochs": options["settings"].epochs,
            "quick": quick,
        },
        quick=quick,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
