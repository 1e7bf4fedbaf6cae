"""Time and memory of predicting whole slides, against their size.

Slides are drawn tile by tile and predicted by a small HECLIP, each in a process of its own that
tells how much memory it took beyond the loaded model, and how many seconds of the processor.
When memory is freed is partly chance: the most of several runs is kept, and their median time.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from book.tools.results import write_results
from book.tools.settings import ROOT
from heclip_lite import config, methods
from heclip_lite.data.synthetic import tissue

GIANT = ROOT / "tests" / "giant.py"
SIDES = (7_500, 15_000, 30_000)
RUNS = 3
PITCH_UM = 150.0
MAPS = config.MapInput(um_per_px=(8.0, 4.0), widths_um=(100.0, 400.0), components=16)


def train(folder: Path) -> None:
    """Save a small HECLIP: what it has learnt does not matter here."""
    contrast = config.Contrast(
        temperature=0.2,
        spot_side="components",
        head="linear",
        dim=16,
        rank=5,
        options={"cosine": True, "targets": "identity"},
    )
    decode = config.Decode(k=None, weights=0.2, rank=5)
    settings = config.Training(epochs=1, batch_size=16)
    training = tissue.synthetic_sections(1, 2, size_um=900.0, n_genes=60, seed=1)
    methods.HECLIP(MAPS, contrast, decode, settings).fit(training).save(folder)


def child(*arguments: object) -> str:
    """What another process prints."""
    command = [sys.executable, str(GIANT), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Measure all sizes and write the table."""
    started = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "model")
        for side in tqdm(SIDES, desc="whole slides"):
            slide, out = folder / f"{side}.tif", folder / f"{side}.zarr"
            child("write", slide, side)
            records = []
            for _ in range(RUNS):
                said = child("predict", folder / "model", slide, out, PITCH_UM)
                records.append(json.loads(said.splitlines()[-1]))
                shutil.rmtree(out)
            rows.append(
                {
                    "side_px": side,
                    "slide_mib": 3 * side**2 / 2**20,
                    "points": records[0]["points"],
                    "seconds": statistics.median(record["seconds"] for record in records),
                    "mib": max(record["took"] for record in records),
                }
            )
            slide.unlink()
    write_results(
        "wholeslide",
        pd.DataFrame(rows),
        seconds=time.perf_counter() - started,
        settings={
            "runs": RUNS,
            "pitch_um": PITCH_UM,
            "image": config.as_dict(MAPS),
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
