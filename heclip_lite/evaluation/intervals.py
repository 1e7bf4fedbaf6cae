"""Intervals: a paired spatial-block bootstrap within one section.

Neighbouring spots are alike, so spots are not resampled one by one but in blocks at least as wide
as the likeness reaches.
All methods are resampled together, which makes their differences comparable.
An interval from one section says nothing about other donors; donors are shown as points.
Genes are never the unit: they are not drawn from anything, and they move together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite.data import genes, sections
from heclip_lite.evaluation.metrics import check_pair

MIN_BLOCKS = 4
ALIKE = 0.1  # mean correlation below which two places count as unrelated
_INTERVAL = (2.5, 97.5)  # percentiles
_CHUNK = 64  # genes at once
_NO_VARIANCE = 1e-9  # of values that were brought to variance 1


def correlogram(section: AnnData, values: np.ndarray, *, bins_um: Sequence[float]) -> pd.DataFrame:
    """How alike two spots are, by their distance.

    For each pair of spots the product of their z-scores, averaged over pairs of similar distance
    and over genes.

    Parameters
    ----------
    section
        Gives the positions.
    values
        (spots, genes), such as log-normalised expression.
    bins_um
        Edges of the distance classes, micrometres, ascending.

    Returns
    -------
    DataFrame
        ``distance_um`` (mean of the pairs), ``correlation``, ``n_pairs``; empty classes are left
        out.
    """
    from scipy.spatial.distance import pdist, squareform

    edges = np.asarray(bins_um, dtype=float)
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ValueError(f"bins_um is {tuple(bins_um)}; give 2 or more edges in ascending order.")
    deviation = values.std(0)
    z = (values - values.mean(0))[:, deviation > 0] / deviation[deviation > 0]
    alike = squareform(z @ z.T / z.shape[1], checks=False)  # (pairs,)
    distance = pdist(section.obsm["spatial"]) * sections.um_per_px(section)
    place = np.digitize(distance, edges) - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    count = np.bincount(place[inside], minlength=len(edges) - 1)
    kept = count > 0
    sums = [
        np.bincount(place[inside], v[inside], minlength=len(edges) - 1)[kept] / count[kept]
        for v in (distance, alike)
    ]
    return pd.DataFrame({"distance_um": sums[0], "correlation": sums[1], "n_pairs": count[kept]})


def correlogram_range(
    training: Sequence[AnnData], panel: genes.GenePanel, *, gene_set: str | None = None
) -> float:
    """Distance beyond which spots are hardly alike, micrometres, from training sections only.

    The first class of the mean correlogram that falls below a tenth of what it is between
    neighbours; at least one spot pitch, at most half the longest side of the tissue.

    Parameters
    ----------
    training
        Sections with counts.
    panel
        Genes whose likeness counts.
    gene_set
        A set of the panel; all its genes by default.
    """
    columns = slice(None) if gene_set is None else panel.index(gene_set)
    pitch = float(np.median([sections.spot_pitch_um(section) for section in training]))
    extent = min(
        float(np.ptp(s.obsm["spatial"], axis=0).max()) * sections.um_per_px(s) for s in training
    )
    edges = np.arange(0.5, extent / 2 / pitch, 1.0) * pitch
    tables = [
        correlogram(s, genes.expression(s, panel, absent=0.0)[:, columns], bins_um=edges)
        for s in training
    ]
    mean = pd.concat(tables).groupby(level=0)[["distance_um", "correlation"]].mean()
    below = mean[mean["correlation"] < ALIKE * mean["correlation"].iloc[0]]
    found = below["distance_um"].iloc[0] if len(below) else mean["distance_um"].iloc[-1]
    return float(max(found, pitch))


def block_labels(section: AnnData, side_um: float) -> np.ndarray:
    """Square of the tissue that each spot lies in, int (spots,), counted from 0.

    Raises
    ------
    ValueError
        If fewer than four squares hold spots: too few to resample.
    """
    places = np.asarray(section.obsm["spatial"]) * sections.um_per_px(section)
    cells = np.floor((places - places.min(0)) / side_um).astype(int)
    labels = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    if labels.max() + 1 < MIN_BLOCKS:
        raise ValueError(
            f"Section {sections.name_of(section)!r}: squares of {side_um:.0f} um make only "
            f"{labels.max() + 1} blocks; {MIN_BLOCKS} or more are needed for an interval. "
            "Show the value as a point."
        )
    return labels


def bootstrap(
    true: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    blocks: np.ndarray,
    *,
    against: str | None = None,
    log_depth: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean correlation over genes of each method, with an interval from resampled blocks.

    Blocks are drawn with replacement, the same ones for all methods; each draw weights every spot
    by how often its block was drawn.
    Sums of products per block are all that a correlation needs, so no spot is touched twice.

    Parameters
    ----------
    true
        (spots, genes).
    predictions
        (spots, genes) by method.
    blocks
        (spots,), as :func:`block_labels` gives.
    against
        The method that the others are compared with; the first one by default.
    log_depth
        (spots,); if given, correlations are partial ones given log library size.
    draws
        How many samples.
    seed
        Of the drawing.

    Returns
    -------
    DataFrame
        ``method, value, low, high, against, difference, difference_low, difference_high,
        n_blocks``; 95 % percentile intervals, conditional on this section and its donor.

    Raises
    ------
    ValueError
        If there are fewer than four blocks, shapes differ, or `against` is unknown.
    """
    labels, place = np.unique(np.asarray(blocks), return_inverse=True)
    if len(labels) < MIN_BLOCKS:
        raise ValueError(
            f"There are {len(labels)} blocks; {MIN_BLOCKS} or more are needed for an interval."
        )
    if len(place) != len(true):
        raise ValueError(f"There are {len(place)} block labels for {len(true)} spots.")
    against = next(iter(predictions)) if against is None else against
    if against not in predictions:
        raise ValueError(f"against is {against!r}; there are {', '.join(predictions)}.")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=draws)
    weights = np.vstack([np.ones(len(labels)), drawn])  # the first one is the sample itself
    found = _means(true, predictions, place, weights, log_depth)
    rows = []
    for name, values in found.items():
        difference = values - found[against]
        low, high = np.percentile(values[1:], _INTERVAL)
        less, more = np.percentile(difference[1:], _INTERVAL)
        rows.append(
            {
                "method": name,
                "value": values[0],
                "low": low,
                "high": high,
                "against": against,
                "difference": difference[0],
                "difference_low": less,
                "difference_high": more,
                "n_blocks": len(labels),
            }
        )
    return pd.DataFrame(rows)


def _means(
    true: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    place: np.ndarray,
    weights: np.ndarray,
    log_depth: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Mean correlation of each method over genes that vary in the truth, one per row of `weights`.

    A few genes at a time, which stay in the processor's cache; what concerns the truth alone is
    computed once for all methods.
    """
    pairs = {name: check_pair(true, predicted) for name, predicted in predictions.items()}
    if not pairs:
        raise ValueError("There are no predictions to compare.")
    true = next(iter(pairs.values()))[0]
    varying = np.flatnonzero(true.max(0) > true.min(0))
    member = np.zeros((int(place.max()) + 1, len(place)))
    member[place, np.arange(len(place))] = 1.0
    share = weights / (weights @ member.sum(1))[:, None]  # sums per block -> mean of a draw
    depth = None if log_depth is None else _standard(np.asarray(log_depth, np.float64))
    moments = _Moments(share, member, depth)
    total = {name: np.zeros(len(weights)) for name in pairs}
    count = np.zeros(len(weights))
    for genes_ in np.array_split(varying, max(1, len(varying) // _CHUNK)):
        t = _standard(true[:, genes_])
        mean_t, var_t, depth_t = moments(t)
        defined = var_t > _NO_VARIANCE  # where no drawn spot varies, the draw leaves a gene out
        count += defined.sum(1)
        for name, (_, predicted) in pairs.items():
            p = _standard(predicted[:, genes_])
            mean_p, var_p, depth_p = moments(p)
            shared = moments.mean(t * p) - mean_t * mean_p
            if depth is not None:
                shared -= depth_t * depth_p
            square = np.where(defined, var_t, 0.0) * np.clip(var_p, 0.0, None)
            known = square > _NO_VARIANCE**2
            r = np.where(known, shared, 0.0) / np.sqrt(np.where(known, square, 1.0))
            total[name] += r.sum(1)
    return {name: sums / np.maximum(count, 1) for name, sums in total.items()}


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1; constant ones are 0."""
    centred = values - values.mean(0)
    scale = values.std(0)
    return centred / np.where(scale > 0, scale, 1.0)


class _Moments:
    """Mean and variance of columns in every draw; given depth, of what depth leaves of them.

    Parameters
    ----------
    share
        (draws, blocks), how often each block was drawn, over the spots of the draw.
    member
        (blocks, spots), 1 where a spot lies in a block.
    depth
        (spots,) or None.
    """

    def __init__(self, share: np.ndarray, member: np.ndarray, depth: np.ndarray | None) -> None:
        self.share, self.member, self.depth = share, member, depth
        if depth is not None:
            self.mean_depth = self.mean(depth)
            variance = self.mean(depth**2) - self.mean_depth**2
            self.deviation = np.sqrt(np.where(variance > _NO_VARIANCE, variance, np.inf))

    def mean(self, columns: np.ndarray) -> np.ndarray:
        """(draws, columns), from sums per block: no draw touches a spot."""
        return self.share @ (self.member @ columns)

    def __call__(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
        """Mean, variance left, and covariance with depth over the deviation of depth."""
        mean = self.mean(columns)
        variance = self.mean(columns**2) - mean**2
        if self.depth is None:
            return mean, variance, 0.0
        with_depth = self.mean(columns * self.depth[:, None]) - mean * self.mean_depth[:, None]
        with_depth /= self.deviation[:, None]
        return mean, variance - with_depth**2, with_depth
