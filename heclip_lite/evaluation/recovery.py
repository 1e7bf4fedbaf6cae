"""Recovery: train on some spots of a slide, predict the others, and score those only.

The released code of HisToSGE scores all spots, half of which it trained on; that score stands
beside the honest one here (``scope`` ``"all"``), so that everyone sees what it is worth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from heclip_lite import store
from heclip_lite.data import genes, sections
from heclip_lite.data.lattice import coordinates, lattice_of
from heclip_lite.evaluation import benchmark, ceilings, metrics
from heclip_lite.spatial import superres

RESTS_ON = (*benchmark.METHODS_REST_ON, "spatial", "evaluation")  # folders of code
HOLDOUTS = ("random", "block", "lattice")
METRICS = ("pearson", "partial_pearson", "spearman", "rmse")
COLUMNS = ["method", "section", "holdout", "scope", "seed", "gene_set", "metric", "value"]
FACTORS = (1, 4, 9, 16, 25)
CEILING = "ceiling_counting"  # row of the table, beside the methods
_BLOCK = 4  # pitches along the side of a block
_FEWEST = 10  # spots on either side


def hold_out(section: AnnData, holdout: str, *, share: float = 0.5, seed: int = 0) -> np.ndarray:
    """Which spots to hold out, bool (spots,).

    Parameters
    ----------
    section
        A section; ``"lattice"`` needs its array coordinates.
    holdout
        ``"random"``: `share` of the spots at random, each beside spots that are known.
        ``"block"``: square blocks of 4 pitches, until about `share` of the spots is held out.
        ``"lattice"``: all but every second spot along both steps of the lattice, three of four;
        the known ones are a coarser lattice, as if the slide had been measured so.
    share
        Of the spots, above 0 and below 1; unused with ``"lattice"``.
    seed
        Of the choice.

    Raises
    ------
    ValueError
        If the holdout is unknown, the share is not between 0 and 1, or fewer than ten spots are
        left on a side.
    """
    if holdout not in HOLDOUTS:
        raise ValueError(f"The holdout {holdout!r} is unknown; use one of {', '.join(HOLDOUTS)}.")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; hold out more than 0 and less than 1 of the spots.")
    rng = np.random.default_rng([seed, HOLDOUTS.index(holdout)])
    if holdout == "random":
        out = rng.permutation(section.n_obs) < round(share * section.n_obs)
    elif holdout == "block":
        side = _BLOCK * sections.spot_pitch_um(section) / sections.um_per_px(section)
        start = rng.uniform(0, side, 2)
        cells = np.floor((np.asarray(section.obsm["spatial"]) + start) / side).astype(int)
        _, block, sizes = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        order = rng.permutation(len(sizes))
        before = np.cumsum(sizes[order]) - sizes[order] / 2
        out = np.isin(block.ravel(), order[before < share * section.n_obs])
    else:
        steps = lattice_of(section).steps
        where = coordinates(section)
        along = np.round((where - where[0]) @ np.linalg.inv(steps)).astype(int)
        out = ((along + rng.integers(0, 2, 2)) % 2 != 0).any(axis=1)
    if min(out.sum(), (~out).sum()) < _FEWEST:
        raise ValueError(
            f"Section {sections.name_of(section)!r}: {(~out).sum()} spots to train on and "
            f"{out.sum()} held out; {_FEWEST} are needed on each side."
        )
    return out


def kept_part(section: AnnData, held_out: np.ndarray) -> AnnData:
    """The spots to train on, as a section that knows where all spots of the slide lie.

    Positions and image of the spots held out are no secret: a method may look at the slide there.
    """
    name = sections.name_of(section)
    part = sections.piece(section, ~held_out, [], name=f"{name} known")
    sections.note_spots(part, section)
    return part


def recovery(
    methods: Mapping[str, Any],
    section: AnnData,
    holdouts: Sequence[str] = HOLDOUTS,
    *,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
    predictions: dict | None = None,
) -> pd.DataFrame:
    """Train every method on a part of a section, and score the rest.

    Gene panel and scaling come from the training spots.

    Parameters
    ----------
    methods
        Unfitted methods by name.
    section
        A section with counts.
    holdouts
        See :func:`hold_out`.
    seeds
        Of the spots held out, and of the methods.
    folder
        Where predictions are kept, as in :func:`~heclip_lite.evaluation.benchmark.contest`.
    predictions
        If a dictionary is given, predictions of all spots are kept in it under
        ``(method, holdout, seed)``, and the spots held out under ``(holdout, seed)``.

    Returns
    -------
    DataFrame
        ``method, section, holdout, scope, seed, gene_set, metric, value``; `scope` is
        ``"heldout"`` or ``"all"``, where the training spots are scored too.
        Genes constant in the truth are left out for all methods.
    """
    name = sections.name_of(section)
    rows: list[dict[str, Any]] = []
    rounds = [(holdout, seed) for holdout in holdouts for seed in seeds]
    for holdout, seed in tqdm(rounds, desc=f"recovery {name}", leave=False):
        out = hold_out(section, holdout, seed=seed)
        if predictions is not None:
            predictions[holdout, seed] = out
        for method, unfitted in methods.items():
            make = partial(
                _recovered, method, unfitted, section, holdout, out, seed, folder, predictions
            )
            described = None if predictions is not None else _described(unfitted, seed)
            key = [sections.section_key(section), holdout, seed]
            shared = {"method": method, "section": name, "holdout": holdout, "seed": seed}
            rows += [{**shared, **row} for row in _kept("recovery", described, key, make, folder)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _recovered(
    name: str,
    method: Any,
    section: AnnData,
    holdout: str,
    out: np.ndarray,
    seed: int,
    folder: str | Path | None,
    predictions: dict | None,
) -> list[dict[str, Any]]:
    """Train one method on the spots that are known; score it on the others, and on all."""
    part = kept_part(section, out)
    panel = genes.fit_panel([part])
    (predicted,) = benchmark.predictions_of(
        name, method, [part], [section], panel, seed=seed, folder=folder
    ).values()
    if predictions is not None:
        predictions[name, holdout, seed] = predicted
    truth = genes.expression(section, panel, absent=0.0)
    depth = np.log(np.asarray(section.X.sum(axis=1), dtype=np.float64).ravel())
    rows = []
    for scope, chosen in (("heldout", out), ("all", np.full(len(out), True))):
        values = metrics.per_gene(truth[chosen], predicted[chosen], log_depth=depth[chosen])
        rows += _rows({"scope": scope}, panel, {metric: values[metric] for metric in METRICS})
    return rows


def _described(method: Any, seed: int) -> str | None:
    """What a method with this seed is, as `benchmark.describe` says it."""
    return benchmark.describe(method.with_seed(seed) if hasattr(method, "with_seed") else method)


def _kept(
    kind: str,
    described: str | None,
    key: list,
    make: Callable[[], list[dict[str, Any]]],
    folder: str | Path | None,
) -> list[dict[str, Any]]:
    """Scores from disk, or made and put there; made each time if the method has no description."""
    if described is None:
        return make()
    name = store.content_key(store.code_key(*RESTS_ON), described, key)
    place = store.cache_dir() / kind if folder is None else Path(folder)
    return store.cached_json(place / f"{name}.json", make)


def ceiling(
    section: AnnData, holdouts: Sequence[str] = HOLDOUTS, *, seeds: Sequence[int] = (0,)
) -> pd.DataFrame:
    """What counting noise leaves possible on the spots held out, as rows of the same table.

    See :func:`heclip_lite.evaluation.ceilings.counting_ceiling`.
    """
    rows: list[dict[str, Any]] = []
    for holdout in holdouts:
        for seed in seeds:
            out = hold_out(section, holdout, seed=seed)
            panel = genes.fit_panel([kept_part(section, out)])
            shared = {
                "method": CEILING,
                "section": sections.name_of(section),
                "holdout": holdout,
                "scope": "heldout",
                "seed": seed,
            }
            found = ceilings.counting_ceiling(section[out].copy(), panel)
            rows += _rows(shared, panel, {"pearson": found})
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(
    shared: dict[str, Any], panel: genes.GenePanel, values: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Means over the genes of each set, a row per set and metric."""
    return [
        {
            **shared,
            "gene_set": gene_set,
            "metric": metric,
            "value": float(np.nanmean(found[panel.index(gene_set)])),
        }
        for gene_set in panel.sets
        for metric, found in values.items()
    ]


def generation(
    methods: Mapping[str, Any],
    section: AnnData,
    known_truth: Callable[[np.ndarray, float], np.ndarray],
    factors: Sequence[int] = FACTORS,
    *,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Train on all spots of a section, predict between them, and compare with the true expression.

    Parameters
    ----------
    methods
        Unfitted methods by name.
    section
        A section with counts on a lattice.
    known_truth
        ``known_truth(points, width_um)`` gives the true log1p expression (points, genes of the
        section) averaged over discs of that width, NaN off the tissue.
        The width asked for is the distance of neighbouring points.
    factors
        How many times as many points; 1 stands for the spots themselves.
    seeds
        Of the methods.
    folder
        Where scores are kept, so that a stopped run goes on; ``generation`` in the cache folder by
        default.

    Returns
    -------
    DataFrame
        ``method, section, factor, pitch_um, points, seed, gene_set, metric, value``; spots
        themselves are scored at factor 1 only.
    """
    panel = genes.fit_panel([section])
    asked = [(factor, *_between(section, factor)) for factor in factors]
    rows: list[dict[str, Any]] = []
    rounds = [(name, seed) for name in methods for seed in benchmark.seeds_of(methods[name], seeds)]
    for name, seed in tqdm(rounds, desc=f"generation {sections.name_of(section)}", leave=False):
        make = partial(_generated, methods[name], seed, section, panel, asked, known_truth)
        described = _described(methods[name], seed)
        key = [sections.section_key(section), list(factors)]
        shared = {"method": name, "section": sections.name_of(section), "seed": seed}
        rows += [{**shared, **row} for row in _kept("generation", described, key, make, folder)]
    order = ["method", "section", "factor", "pitch_um", "points", "seed"]
    return pd.DataFrame(rows)[[*order, "gene_set", "metric", "value"]]


def _generated(
    method: Any,
    seed: int,
    section: AnnData,
    panel: genes.GenePanel,
    asked: Sequence[tuple[int, AnnData, float]],
    known_truth: Callable[[np.ndarray, float], np.ndarray],
) -> list[dict[str, Any]]:
    """Train one method on all spots; score it at the points of each factor."""
    method = copy.copy(method)
    method = method.with_seed(seed) if hasattr(method, "with_seed") else method
    method.panel = panel
    method.fit([section])
    columns = section.var_names.get_indexer(list(panel.genes))
    rows = []
    for factor, points, pitch_um in asked:
        truth = known_truth(points.obsm["spatial"], pitch_um)[:, columns]
        inside = np.isfinite(truth).all(axis=1)
        predicted = superres.predict(method, points).X
        r = metrics.per_gene(truth[inside], predicted[inside])["pearson"]
        shared = {"factor": factor, "pitch_um": pitch_um, "points": int(inside.sum())}
        rows += _rows(shared, panel, {"pearson_true": r})
    return rows


def _between(section: AnnData, factor: int) -> tuple[AnnData, float]:
    """Points of a fill-in that are no spots, and their pitch in micrometres."""
    pitch_um = lattice_of(section).pitch_um
    if factor == 1:
        return sections.hide_expression(section), pitch_um
    points = superres.fill_in(section, factor)
    return points[~points.obs["spot"].to_numpy()].copy(), pitch_um / factor**0.5
