"""Ceilings: how well anything could possibly score, given how noisy the measurement is."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from heclip_lite.data import genes, sections
from heclip_lite.evaluation.metrics import pearson_per_gene


def counting_ceiling(
    section: AnnData, panel: genes.GenePanel, *, thinnings: int = 20, seed: int = 0
) -> np.ndarray:
    """The Poisson counting ceiling of each gene (optimistic).

    Each spot's counts are dealt out into two halves, molecule by molecule.
    Each half is normalised by its own total.
    Their correlation r, averaged over thinnings, tells how reliable half the counts are;
    ``sqrt(2 r / (1 + r))`` is the square root of the Spearman-Brown reliability of all of them:
    the correlation that the true rates would have with the measurement.

    It knows counting noise only.
    Whatever both halves share counts as signal, also what no image can tell, such as the chance
    with which molecules of this spot were captured.
    So it is optimistic.
    Spots of a single count cannot be halved and are left out.

    Parameters
    ----------
    section
        A section with counts.
    panel
        Which genes, in which order.
    thinnings
        How often the counts are dealt out.
    seed
        Of the dealing.

    Returns
    -------
    ndarray, (genes,)
        From 0 to 1; 0 for genes constant in the section or without reliable signal.

    Raises
    ------
    ValueError
        If counts are not whole numbers, or fewer than three spots have two.
    """
    counts = section.X.toarray() if hasattr(section.X, "toarray") else np.asarray(section.X)
    if not np.array_equal(counts, np.round(counts)):
        raise ValueError(
            f"Section {sections.name_of(section)!r}: X holds values that are no counts; "
            "the ceiling needs raw counts."
        )
    whole = counts.astype(np.int64)
    whole = whole[whole.sum(1) >= 2]
    if len(whole) < 3:
        raise ValueError(
            f"Section {sections.name_of(section)!r}: {len(whole)} spots have counts that can be "
            "halved, and a correlation needs 3. Is X empty?"
        )
    listed = section.var_names.get_indexer(list(panel.genes))
    rng = np.random.default_rng(seed)
    total = np.zeros(len(panel.genes))
    for _ in range(thinnings):
        first = rng.binomial(whole, 0.5)
        first = _rescued(first, whole)
        halves = [genes.log_normalise(half.astype(np.float32)) for half in (first, whole - first)]
        r = np.zeros(len(panel.genes))
        chosen = [half[:, listed[listed >= 0]] for half in halves]
        r[listed >= 0] = np.nan_to_num(pearson_per_gene(*chosen))
        total += r
    mean = np.clip(total / thinnings, 0, None)  # below zero there is no signal at all
    return np.sqrt(2 * mean / (1 + mean))


def _rescued(first: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Halves that got all or nothing of a shallow spot exchange one count."""
    totals = first.sum(1)
    for spot in np.flatnonzero((totals == 0) | (totals == whole.sum(1))):
        gene = int(np.argmax(whole[spot]))
        first[spot, gene] += 1 if totals[spot] == 0 else -1
    return first


def adjacent_prediction(
    places_um: np.ndarray,
    neighbour_places_um: np.ndarray,
    neighbour_expression: np.ndarray,
    *,
    width_um: float,
) -> np.ndarray:
    """What the measured expression of the adjacent section says about each place.

    Scoring it gives the adjacent-section ceiling: two sections a few micrometres apart, measured
    twice, with all the noise of both and some true difference between them.

    Parameters
    ----------
    places_um
        (spots, 2), in a frame shared with the neighbour (:mod:`heclip_lite.data.registration`).
    neighbour_places_um, neighbour_expression
        (neighbours, 2) and (neighbours, genes).
    width_um
        Standard deviation of the Gaussian weights, micrometres.

    Returns
    -------
    ndarray, (spots, genes)

    Raises
    ------
    ValueError
        If places and expression differ in length, or the width is not above 0.
    """
    from sklearn.metrics import pairwise_distances

    if len(neighbour_places_um) != len(neighbour_expression):
        raise ValueError(
            f"There are {len(neighbour_places_um)} places but {len(neighbour_expression)} rows of "
            "expression; give one row for each."
        )
    if not width_um > 0:
        raise ValueError(f"width_um is {width_um}; it must be above 0.")
    squares = pairwise_distances(places_um, neighbour_places_um, metric="sqeuclidean")
    weights = np.exp(-(squares - squares.min(axis=1, keepdims=True)) / (2 * width_um**2))
    return weights / weights.sum(axis=1, keepdims=True) @ neighbour_expression


def share_of(values: np.ndarray, oracle: np.ndarray) -> float:
    """How much of an oracle's score a method reaches: the ratio of the two means over genes.

    Never the mean of per-gene ratios, which a few unpredictable genes would decide.

    Raises
    ------
    ValueError
        If the oracle's mean is not above 0.
    """
    means = [float(np.nanmean(v)) for v in (values, oracle)]
    if not means[1] > 0:
        raise ValueError(
            f"The oracle's mean is {means[1]:.3f}; a share of it has no meaning. "
            "Report the two numbers."
        )
    return means[0] / means[1]
