"""Metrics: how close a prediction comes to the measured expression, gene by gene.

Conventions that hold for every method alike:
a gene that is constant in the truth is left out (NaN);
a prediction that is constant where the truth varies knows nothing and has correlation 0.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from heclip_lite.data import genes

_NOTHING_LEFT = 1e-12  # share of a gene's variance below which a residual counts as constant
_GENES_AT_ONCE = 64  # a chunk that stays in the processor's cache
_THREADS = 4
_SSIM_CONSTANTS = (0.01, 0.03)  # of the range, as in Wang et al. 2004


def check_pair(true: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (spots, genes), after a check that they belong together.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.
    """
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.ndim != 2 or true.shape != predicted.shape:
        raise ValueError(
            f"true has shape {true.shape} and predicted {predicted.shape}; both must be "
            "(spots, genes) with the same spots and genes in the same order."
        )
    for name, values in (("true", true), ("predicted", predicted)):
        if not np.isfinite(values).all():
            spot, gene = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"{name} is not finite, first at spot {spot}, gene {gene}.")
    return true, predicted


def constant(values: np.ndarray) -> np.ndarray:
    """Which columns hold one value only, (genes,)."""
    return values.max(0) == values.min(0)


# -- one gene at a time ---------------------------------------------------------------------


def pearson_per_gene(true: Any, predicted: Any) -> np.ndarray:
    """Pearson correlation over spots, gene by gene.

    Parameters
    ----------
    true, predicted
        (spots, genes), the same spots and genes in the same order.

    Returns
    -------
    ndarray, (genes,)
        NaN where the truth or the prediction is constant.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.

    Examples
    --------
    >>> true = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> pearson_per_gene(true, 2 * true)
    array([ 1., nan])
    """
    true, predicted = check_pair(true, predicted)
    return _correlation(true, predicted, constant(true) | constant(predicted))


def _correlation(true: np.ndarray, predicted: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    t, p = true - true.mean(0), predicted - predicted.mean(0)
    scale = np.sqrt(np.einsum("sg,sg->g", t, t) * np.einsum("sg,sg->g", p, p))
    scale[undefined | (scale == 0)] = np.nan
    return np.clip(np.einsum("sg,sg->g", t, p) / scale, -1, 1)


def partial_pearson_per_gene(true: Any, predicted: Any, log_depth: Any) -> np.ndarray:
    """Pearson correlation after log library size is regressed out of truth and prediction.

    A deep spot shows more of every gene, also after normalisation.
    What a prediction owes to that alone is gone here.

    Parameters
    ----------
    true, predicted
        (spots, genes).
    log_depth
        (spots,), natural logarithm of each spot's total count.

    Returns
    -------
    ndarray, (genes,)
        NaN where the truth or the prediction is constant, or a function of depth alone.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.
    """
    true, predicted = check_pair(true, predicted)
    depth = np.asarray(log_depth, np.float64)
    if depth.shape != (len(true),) or not np.isfinite(depth).all():
        raise ValueError(
            f"log_depth has shape {depth.shape}; give one finite value for each of {len(true)} "
            "spots. Drop spots without counts first."
        )
    (t, none_t), (p, none_p) = _without(true, depth), _without(predicted, depth)
    return _correlation(t, p, none_t | none_p)


def _without(values: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of a regression on depth with intercept, and where nothing is left of them."""
    centred, d = values - values.mean(0), depth - depth.mean()
    before = np.einsum("sg,sg->g", centred, centred)
    if d.any():
        centred -= np.outer(d, d @ centred / (d @ d))
    left = np.einsum("sg,sg->g", centred, centred)
    return centred, constant(values) | (left <= _NOTHING_LEFT * before)


def spearman_per_gene(true: Any, predicted: Any) -> np.ndarray:
    """Rank correlation over spots, gene by gene; ties share their mean rank. (genes,)."""
    true, predicted = check_pair(true, predicted)
    undefined = constant(true) | constant(predicted)
    return _correlation(_ranks(true), _ranks(predicted), undefined)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of each column from 0, ties averaged, (spots, genes)."""
    columns = np.ascontiguousarray(values.T)  # (genes, spots)
    count = columns.shape[1]
    order = np.argsort(columns, axis=1)
    ordered = np.take_along_axis(columns, order, axis=1)
    new = np.ones(columns.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = np.arange(count)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.ones(columns.shape, dtype=bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, place, count)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(columns.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks.T


def rmse_per_gene(true: Any, predicted: Any) -> np.ndarray:
    """Root mean squared error over spots, gene by gene, in log1p units; (genes,)."""
    true, predicted = check_pair(true, predicted)
    return np.sqrt(((true - predicted) ** 2).mean(0))


def js_per_gene(true: Any, predicted: Any) -> np.ndarray:
    """Jensen-Shannon divergence between where a gene is and where it is predicted to be.

    Each gene's values are brought to sum 1 over the spots; negative predictions count as 0.

    Returns
    -------
    ndarray, (genes,)
        In bits, from 0 (the same pattern) to 1 (no spot in common);
        NaN where truth or prediction is nowhere above 0.
    """
    true, predicted = check_pair(true, predicted)
    t, p = (_shares(np.clip(values, 0, None)) for values in (true, predicted))
    middle = (t + p) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log2(middle)
        parts = [np.where(v > 0, v * (np.log2(v) - logs), 0.0).sum(0) for v in (t, p)]
    value = np.clip((parts[0] + parts[1]) / 2, 0, 1)
    value[np.isnan(t[0]) | np.isnan(p[0])] = np.nan
    return value


def _shares(values: np.ndarray) -> np.ndarray:
    total = values.sum(0)
    return values / np.where(total > 0, total, np.nan)


def variance_ratio_per_gene(true: Any, predicted: Any) -> np.ndarray:
    """Variance of the prediction over that of the truth; far below 1: over-smoothed. (genes,)."""
    true, predicted = check_pair(true, predicted)
    return predicted.var(0) / np.where(constant(true), np.nan, true.var(0))


# -- on the lattice of spots ------------------------------------------------------------------


def graph_of(section: AnnData) -> sparse.csr_matrix:
    """Which spots are neighbours on the lattice, (spots, spots), 0 or 1, no spot of itself."""
    return genes.neighbour_graph(section)


def ssim_per_gene(true: Any, predicted: Any, graph: sparse.csr_matrix) -> np.ndarray:
    """Structural similarity on the lattice, gene by gene.

    A window is a spot with its lattice neighbours; means, variances and covariance inside the
    windows are compared as in Wang et al., IEEE Trans. Image Process. 13, 600 (2004), with the
    range of the gene's truth as the range of values, and averaged over windows.

    Returns
    -------
    ndarray, (genes,)
        NaN where the truth is constant.
    """
    true, predicted = check_pair(true, predicted)
    window = _windows(graph, len(true))
    mean_t, mean_p = window @ true, window @ predicted
    var_t = window @ (true**2) - mean_t**2
    var_p = window @ (predicted**2) - mean_p**2
    cov = window @ (true * predicted) - mean_t * mean_p
    spread = np.where(constant(true), np.nan, true.max(0) - true.min(0))
    c1, c2 = ((share * spread) ** 2 for share in _SSIM_CONSTANTS)
    top = (2 * mean_t * mean_p + c1) * (2 * cov + c2)
    bottom = (mean_t**2 + mean_p**2 + c1) * (var_t + var_p + c2)
    return (top / bottom).mean(0)


def _windows(graph: sparse.csr_matrix, spots: int) -> sparse.csr_matrix:
    _check_graph(graph, spots)
    window = sparse.csr_matrix(graph + sparse.identity(spots, format="csr"), dtype=np.float64)
    return sparse.diags(1 / np.asarray(window.sum(axis=1)).ravel()) @ window


def _check_graph(graph: sparse.csr_matrix, spots: int) -> None:
    if graph.shape != (spots, spots):
        raise ValueError(
            f"The graph has shape {graph.shape}, but there are {spots} spots; "
            "use graph_of(section)."
        )


def moran_gap_per_gene(true: Any, predicted: Any, graph: sparse.csr_matrix) -> np.ndarray:
    """Moran's I of the prediction minus that of the truth, gene by gene.

    A blurred prediction has a high Moran's I: being close counts, not being high.

    Returns
    -------
    ndarray, (genes,)
        NaN where the truth is constant; a constant prediction counts as 0.
    """
    true, predicted = check_pair(true, predicted)
    _check_graph(graph, len(true))
    degree = np.asarray(graph.sum(axis=1)).ravel()
    weights = sparse.diags(1 / np.where(degree > 0, degree, 1)) @ graph
    gap = _moran(predicted, weights) - _moran(true, weights)
    return np.where(constant(true), np.nan, gap)


def _moran(values: np.ndarray, weights: sparse.csr_matrix) -> np.ndarray:
    z = values - values.mean(0)
    total = np.einsum("sg,sg->g", z, z)
    shared = np.einsum("sg,sg->g", z, weights @ z)
    flat = constant(values)
    scale = len(values) / weights.sum() if weights.nnz else 0.0
    return np.where(flat, 0.0, scale * shared / np.where(flat, 1.0, total))


# -- all genes together -----------------------------------------------------------------------


def gene_gene(true: Any, predicted: Any) -> float:
    """How well the correlations between genes are kept.

    Pearson correlation between the upper triangles of the two gene-gene correlation matrices.
    Genes constant in the truth are left out; a constant prediction correlates with nothing (0).

    Returns
    -------
    float
        NaN with fewer than three genes, or if nothing varies.
    """
    true, predicted = check_pair(true, predicted)
    kept = ~constant(true)
    if kept.sum() < 3:
        return float("nan")
    triangles = [_triangle(values[:, kept]) for values in (true, predicted)]
    if any(np.ptp(triangle) == 0 for triangle in triangles):
        return float("nan")
    return float(_correlation(*(t[:, None] for t in triangles), np.zeros(1, dtype=bool))[0])


def _triangle(values: np.ndarray) -> np.ndarray:
    z = values - values.mean(0)
    length = np.sqrt(np.einsum("sg,sg->g", z, z))
    z = z / np.where(constant(values) | (length == 0), np.inf, length)
    return (z.T @ z)[np.triu_indices(z.shape[1], 1)]


def hit_at_k(true: Any, predicted: Any, *, k: int) -> float:
    """Share of spots whose `k` highest true and predicted genes have any gene in common.

    As HECLIP's released code defines it: kept to show why it says little.
    The highest genes of a tissue hardly change from spot to spot, so that predicting the mean
    everywhere scores close to 1.

    Raises
    ------
    ValueError
        If shapes differ, values are not finite or k is not between 1 and the genes.
    """
    true, predicted = check_pair(true, predicted)
    if not 1 <= k <= true.shape[1]:
        raise ValueError(f"k is {k}, but there are {true.shape[1]} genes.")
    tops = [np.argsort(values, axis=1)[:, -k:] for values in (true, predicted)]
    return float((tops[0][:, :, None] == tops[1][:, None, :]).any((1, 2)).mean())


def per_gene(
    true: Any,
    predicted: Any,
    *,
    log_depth: Any | None = None,
    graph: sparse.csr_matrix | None = None,
) -> dict[str, np.ndarray]:
    """All metrics that have a value per gene, by name.

    Parameters
    ----------
    true, predicted
        (spots, genes).
    log_depth
        (spots,); adds ``partial_pearson``.
    graph
        As :func:`graph_of` gives; adds ``ssim`` and ``moran_gap``.

    Returns
    -------
    dict of ndarray, (genes,)
        NaN where the truth is constant; correlations 0 where only the prediction is.
    """
    true, predicted = check_pair(true, predicted)
    starts = range(0, max(1, true.shape[1]), _GENES_AT_ONCE)
    chunks = [slice(start, start + _GENES_AT_ONCE) for start in starts]

    def some(chunk: slice) -> dict[str, np.ndarray]:
        return _per_gene(true[:, chunk], predicted[:, chunk], log_depth, graph)

    with ThreadPoolExecutor(_THREADS) as pool:  # numpy works outside Python's lock
        parts = list(pool.map(some, chunks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _per_gene(
    true: np.ndarray, predicted: np.ndarray, log_depth: Any, graph: sparse.csr_matrix | None
) -> dict[str, np.ndarray]:
    undefined = constant(true)
    found = {
        "pearson": pearson_per_gene(true, predicted),
        "spearman": spearman_per_gene(true, predicted),
        "rmse": rmse_per_gene(true, predicted),
        "js": js_per_gene(true, predicted),
        "variance_ratio": variance_ratio_per_gene(true, predicted),
    }
    if log_depth is not None:
        found["partial_pearson"] = partial_pearson_per_gene(true, predicted, log_depth)
    if graph is not None:
        found["ssim"] = ssim_per_gene(true, predicted, graph)
        found["moran_gap"] = moran_gap_per_gene(true, predicted, graph)
    for name in ("pearson", "spearman", "partial_pearson"):
        if name in found:
            found[name][np.isnan(found[name]) & ~undefined] = 0.0
    return {name: np.where(undefined, np.nan, values) for name, values in found.items()}
