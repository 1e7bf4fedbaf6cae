"""Our metrics and our bootstrap beside plain loops, as ratios measured in one run.

1,000 genes and 4,000 spots; the loops call SciPy gene by gene, as most notebooks of the field do.
The loops are timed on a part of the genes and draws and scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy import stats
from tqdm import tqdm

from heclip_lite.data import sections
from heclip_lite.evaluation import intervals, metrics

SPOTS, GENES, METHODS, DRAWS = 4000, 1000, 15, 1000
PART = 50  # genes, and draws, that the loops are timed on


def made() -> tuple[np.ndarray, np.ndarray, np.ndarray, object, np.ndarray]:
    """Truth, prediction, log depth, neighbours and blocks of a made-up section."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(SPOTS)))
    rows, columns = np.divmod(np.arange(SPOTS), side)
    rates = rng.gamma(1.0, 1.0, GENES) * np.exp(0.3 * rng.normal(size=(SPOTS, 1)))
    section = sections.make_section(
        rng.poisson(rates) + (np.arange(GENES) == 0),
        [f"gene-{i}" for i in range(GENES)],
        np.stack([columns, rows], 1) * 10.0 + 5.0,
        name="made-up",
        donor="none",
        um_per_px=10.0,
        spot_diameter_um=55.0,
        image=rng.integers(100, 200, (side * 10, side * 10, 3), np.uint8),
    )
    counts = section.X.toarray()
    totals = counts.sum(1)
    true = np.log1p(counts / totals[:, None] * np.median(totals)).astype(np.float32)
    predicted = (0.3 * true + rng.normal(size=true.shape)).astype(np.float32)
    blocks = rows // 8 * side + columns // 8
    return true, predicted, np.log(totals), metrics.graph_of(section), blocks


def seconds(work: Callable[[], object], turns: int = 3) -> float:
    """The fastest of a few turns."""
    found = []
    for _ in range(turns):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def loop_metrics(true: np.ndarray, predicted: np.ndarray) -> None:
    """Two correlations and two distances, gene by gene."""
    for gene in range(PART):
        t, p = true[:, gene], predicted[:, gene]
        stats.pearsonr(t, p)
        stats.spearmanr(t, p)
        np.sqrt(np.mean((t - p) ** 2))
        stats.entropy(t / t.sum(), np.clip(p, 1e-9, None))


def loop_bootstrap(true: np.ndarray, predicted: np.ndarray, blocks: np.ndarray) -> None:
    """Resample spots block by block and correlate again, draw by draw; one method."""
    rng = np.random.default_rng(0)
    labels = np.unique(blocks)
    members = {label: np.flatnonzero(blocks == label) for label in labels}
    for _ in range(PART):
        rows = np.concatenate([members[label] for label in rng.choice(labels, len(labels))])
        metrics.pearson_per_gene(true[rows], predicted[rows])


def main() -> None:
    """Measure and print."""
    true, predicted, log_depth, graph, blocks = made()
    print(f"{SPOTS:,} spots, {GENES:,} genes; seconds on this machine, then the ratio")
    methods = {f"method {i}": predicted for i in range(METHODS)}
    work = {
        "metrics, all ten": lambda: (
            metrics.per_gene(true, predicted, log_depth=log_depth, graph=graph),
            metrics.gene_gene(true, predicted),
            metrics.hit_at_k(true, predicted, k=5),
        ),
        "loop, four metrics": lambda: loop_metrics(true, predicted),
        f"bootstrap, {METHODS} methods, {DRAWS:,} draws": lambda: intervals.bootstrap(
            true, methods, blocks, log_depth=log_depth, draws=DRAWS
        ),
        "loop, resampled spots": lambda: loop_bootstrap(true, predicted, blocks),
    }
    scale = [1.0, GENES / PART, 1.0, METHODS * DRAWS / PART]
    shown = zip(work.items(), scale, strict=True)
    found = [seconds(f) * s for (_, f), s in tqdm(shown, total=len(work), leave=False)]
    for name, value in zip(work, found, strict=True):
        print(f"{name:<45}{value:>9.2f} s")
    print(f"metrics: {found[1] / found[0]:.0f} times as fast as the loop")
    print(f"bootstrap: {found[3] / found[2]:.0f} times as fast as the loop")


if __name__ == "__main__":
    main()
