"""Time, memory and recall of retrieval against the number of references.

Brute force compares all queries with all references at once, the exact index in pieces, the
approximate one looks into a few lists.
Every row is measured in a process of its own, from which only its figures come back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import metadata

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from book.tools.measure.memory import peak_mib, resident_mib, start_peak_anew
from book.tools.results import write_results
from heclip_lite import retrieval
from heclip_lite.methods.index import Index, recall_of

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
WAYS = ("brute", "exact", "approximate")
BRUTE_UP_TO = 300_000  # a million references times the queries are 4 GB of similarities
QUERIES, DIM, K, RECALL = 1_000, 64, 50, 0.95
LATENT, CENTRES, NOISE = 12, 30, 0.05  # tissue has few kinds of places, and what lies between
SEED = 0


def embeddings(rows: int, seed: int) -> np.ndarray:
    """Made-up embeddings (rows, DIM), float32: a bent sheet of few dimensions, and noise."""
    shape = np.random.default_rng(SEED)  # the same for references and queries
    centres = 1.5 * shape.normal(size=(CENTRES, LATENT))
    bend = shape.normal(size=(LATENT, DIM)) / LATENT**0.5
    rng = np.random.default_rng([SEED, seed])
    made = np.empty((rows, DIM), dtype=np.float32)
    for start in range(0, rows, 50_000):
        part = made[start : start + 50_000]
        inner = centres[rng.integers(CENTRES, size=len(part))]
        inner = inner + rng.normal(size=inner.shape)
        part[:] = np.tanh(inner @ bend) + NOISE * rng.normal(size=part.shape)
    return made


def measure(way: str, size: int) -> dict[str, float]:
    """Build and ask, in this process: seconds of the processor, MiB and recall."""
    reference, query = embeddings(size, 1), embeddings(QUERIES, 2)
    retrieval.retrieve(query[:2], query, k=2)  # the libraries wake up
    if way == "approximate":
        Index(query, kind=way)
    before = resident_mib()
    started = time.process_time()
    made = None
    if way != "brute":
        made = Index(reference, kind=way, recall=RECALL, k=K, seed=SEED)
    built = time.process_time() - started
    holds = resident_mib()
    start_peak_anew()
    started = time.process_time()
    if made is None:
        rows = retrieval.retrieve(query, reference, k=K)
    else:
        rows, _ = made.search(query, K)
    spent = time.process_time() - started
    peak = peak_mib()
    true = rows if way == "brute" else Index(reference).search(query, K)[0]
    return {
        "references": size,
        "way": way,
        "build_seconds": built,
        "search_seconds": spent,
        "index_mib": max(0.0, holds - before),
        "search_mib": max(0.0, peak - holds),
        "recall": recall_of(rows, true),
    }


def main() -> None:
    """Measure all rows and write the table."""
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    started = time.perf_counter()
    wanted = [
        (way, size) for size in SIZES for way in WAYS if way != "brute" or size <= BRUTE_UP_TO
    ]
    rows = []
    for way, size in tqdm(wanted, desc="retrieval"):
        command = [sys.executable, "-m", __spec__.name, way, str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    write_results(
        "retrieval",
        pd.DataFrame(rows),
        seconds=time.perf_counter() - started,
        settings={
            "queries": QUERIES,
            "dim": DIM,
            "k": K,
            "recall_asked": RECALL,
            "seed": SEED,
            "threads": torch.get_num_threads(),
            "faiss": metadata.version("faiss-cpu"),
        },
    )


if __name__ == "__main__":
    main()
