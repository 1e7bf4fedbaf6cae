"""HECLIP's own metrics, as its released code computes them: for comparison, not for use.

They are here so that the ledger can show what their definitions do to a number.
Ours are in `metrics`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heclip_lite.evaluation.metrics import check_pair, hit_at_k, pearson_per_gene

__all__ = [
    "hit_at_k",
    "pearson_per_gene",
    "reference_js",
    "reference_rmse",
    "reference_ssim",
    "reference_top",
]

_SHARE = 1e-10  # added to every share before the logarithm


def reference_ssim(true: Any, predicted: Any) -> np.ndarray:
    """Structural similarity of a gene as one window over all spots, (genes,).

    Each column is divided by its own maximum; there is no neighbourhood in it.
    """
    true, predicted = check_pair(true, predicted)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, p = true / true.max(0), predicted / predicted.max(0)
    top = np.maximum(t.max(0), p.max(0))
    c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
    mean_t, mean_p = t.mean(0), p.mean(0)
    covariance = ((t - mean_t) * (p - mean_p)).mean(0)
    return (
        (2 * mean_t * mean_p + c1)
        * (2 * covariance + c2)
        / ((mean_t**2 + mean_p**2 + c1) * (t.var(0) + p.var(0) + c2))
    )


def reference_rmse(true: Any, predicted: Any) -> np.ndarray:
    """Root mean squared error after z-scoring truth and prediction, gene by gene; (genes,).

    With r the Pearson correlation it equals ``sqrt(2 - 2 r)``: it adds nothing to it.
    NaN where either is constant.
    """
    true, predicted = check_pair(true, predicted)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, p = ((v - v.mean(0)) / v.std(0) for v in (true, predicted))
    return np.sqrt(((t - p) ** 2).mean(0))


def reference_js(true: Any, predicted: Any) -> np.ndarray:
    """Jensen-Shannon divergence over spots, in nats, with a small share added; (genes,)."""
    true, predicted = check_pair(true, predicted)
    shares = [v / v.sum(0) + _SHARE for v in (true, predicted)]
    t, p = (v / v.sum(0) for v in shares)
    middle = (t + p) / 2
    return ((t * np.log(t / middle)).sum(0) + (p * np.log(p / middle)).sum(0)) / 2


def reference_top(true: Any, predicted: Any, *, n: int, by: str, nan_shift: bool = True) -> float:
    """Mean correlation of the `n` genes that rank highest *in the held-out truth*.

    Parameters
    ----------
    true, predicted
        (spots, genes).
    n
        Genes to average.
    by
        ``"mean"`` (HEG-n) or ``"variance"`` (HVG-n) of the truth.
    nan_shift
        Drop undefined correlations *before* looking genes up by their place, as the released code
        does: every gene behind the first undefined one is then mistaken for another.

    Raises
    ------
    ValueError
        If `by` is unknown, or `n` exceeds the genes.
    IndexError
        With `nan_shift`, if a gene's place lies beyond the shortened list, as in the released code.
    """
    true, predicted = check_pair(true, predicted)
    if by not in ("mean", "variance"):
        raise ValueError(f"by is {by!r}; use 'mean' or 'variance'.")
    if not 1 <= n <= true.shape[1]:
        raise ValueError(f"n is {n}, but there are {true.shape[1]} genes.")
    score = true.mean(0) if by == "mean" else true.var(0)
    order = np.argsort(-score, kind="stable")[:n]
    correlation = pearson_per_gene(true, predicted)
    if nan_shift:
        return float(correlation[~np.isnan(correlation)][order].mean())
    return float(np.nanmean(correlation[order]))
