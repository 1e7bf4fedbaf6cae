"""Switch each questionable choice of the released HisToSGE code on and off.

Writes ``book/results/dense_ledger_her2st.csv`` or ``dense_ledger_synthetic.csv``.
A stopped run goes on where it stopped.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from anndata import AnnData

from book.tools.measure.jobs import from_command_line, known_truth, read, size_of, spread
from book.tools.results import write_results
from heclip_lite import config
from heclip_lite.data import sections
from heclip_lite.evaluation import dense_ledger

SEEDS = (0, 1)
SECTIONS = {"her2st": ("C3", "C6", "B4", "A2"), "synthetic": None}
PATCHES = {"her2st": {"width_um": 150.0, "size": 224}, "synthetic": {}}
EPOCHS = 60


def given(data: str, quick: bool) -> tuple[list[AnnData], dict]:
    """Sections, and what all pipelines share."""
    everything = read(data, SECTIONS[data])
    options = {
        "image": replace(size_of(data).patches, trainable=False, **PATCHES[data]),
        "settings": config.Training(epochs=5 if quick else EPOCHS, weight_decay=0.0),
    }
    if data == "synthetic":
        options["known_truth"] = known_truth
    return everything[:1] if quick else everything, options


def job(data: str, quick: bool, number: int, seed: int) -> None:
    """All pipelines of one section and seed; their scores stay on disk."""
    everything, options = given(data, quick)
    dense_ledger.ledger(data, [everything[number]], seeds=(seed,), **options)


def main() -> int:
    """Measure and write."""
    data, quick = from_command_line(__doc__, tuple(SECTIONS))
    everything, options = given(data, quick)
    seeds = SEEDS[:1] if quick else SEEDS
    todo = [(data, quick, number, seed) for number in range(len(everything)) for seed in seeds]
    seconds = spread(job, todo, label=f"dense_ledger {data}{' quick' if quick else ''}")
    table = dense_ledger.ledger(data, everything, seeds=seeds, **options)
    write_results(
        f"dense_ledger_{data}",
        table,
        seconds=seconds,
        settings={
            "data": data,
            "sections": [sections.name_of(s) for s in everything],
            "seeds": list(seeds),
            "epochs": options["settings"].epochs,
            "quick": quick,
        },
        quick=quick,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
