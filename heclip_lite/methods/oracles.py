"""Oracles: yardsticks that are told something of the held-out section.

They say how much a quantity is worth, or how far one can get; they never count as best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData

from heclip_lite.data import genes, sections
from heclip_lite.methods.base import Oracle
from heclip_lite.methods.transforms import ExpressionComponents


class DepthOracle(Oracle):
    """Every gene as a straight line of log total counts, fitted on the training sections.

    What it scores, a method can score by telling deep spots from shallow ones.
    """

    reveals = "depth"

    def _fit(self, training: list[AnnData]) -> None:
        depth = np.log(np.concatenate([_totals(section) for section in training]))
        targets = np.concatenate(self._expression(training)).astype(np.float64)
        self.mean_depth, self.mean = depth.mean(), targets.mean(0)
        d = depth - self.mean_depth
        self.slope = d @ (targets - self.mean) / (d @ d)

    def _predict(self, section: AnnData, revealed: np.ndarray) -> np.ndarray:
        return self.mean + np.outer(np.log(revealed) - self.mean_depth, self.slope)


def _totals(section: AnnData) -> np.ndarray:
    return np.asarray(section.X.sum(axis=1), dtype=np.float64).ravel()


class NeighbourOracle(Oracle):
    """The kernel average of the other measured spots of the same section, never the spot itself.

    It is told what a pathologist's ruler could not: the expression next door.

    Parameters
    ----------
    widths
        Standard deviations of the Gaussian weights to choose from, in spot pitches; chosen where
        the mean correlation inside the training sections is highest.
    """

    reveals = "expression"

    def __init__(self, widths: Sequence[float] = (0.5, 0.75, 1.0, 1.5, 2.0)) -> None:
        if not widths or min(widths) <= 0:
            raise ValueError(f"widths is {tuple(widths)}; give one or more values above 0.")
        self.widths = tuple(widths)

    def _fit(self, training: list[AnnData]) -> None:
        measured = self._expression(training)
        scores = [
            np.mean(
                [
                    _mean_correlation(values, _others(section, width) @ values)
                    for section, values in zip(training, measured, strict=True)
                ]
            )
            for width in self.widths
        ]
        self.width = self.widths[int(np.argmax(scores))]

    def _predict(self, section: AnnData, revealed: np.ndarray) -> np.ndarray:
        return _others(section, self.width) @ revealed


def _others(section: AnnData, width: float) -> np.ndarray:
    """Weights of all other spots, (spots, spots), rows summing to 1, zero on the diagonal."""
    from sklearn.metrics import pairwise_distances

    reach = width * sections.spot_pitch_um(section) / sections.um_per_px(section)
    squares = pairwise_distances(section.obsm["spatial"], metric="sqeuclidean")
    np.fill_diagonal(squares, np.inf)
    weights = np.exp(-(squares - squares.min(axis=1, keepdims=True)) / (2 * reach**2))
    return weights / weights.sum(axis=1, keepdims=True)


def _mean_correlation(true: np.ndarray, predicted: np.ndarray) -> float:
    t, p = true - true.mean(0), predicted - predicted.mean(0)
    scale = np.sqrt((t**2).sum(0) * (p**2).sum(0))
    return float(((t * p).sum(0)[scale > 0] / scale[scale > 0]).mean())


class OtherGenesOracle(Oracle):
    """Each gene from all other genes of the same spot, through components learnt in training.

    With z the spot's z-scores, weighted as in
    :class:`~heclip_lite.methods.transforms.ExpressionComponents`, and L the axes (genes, rank),
    orthonormal, the components without gene g are the least squares fit to all other genes.
    They predict ``(l_g . s - h_g z_g) / (1 - h_g)`` with ``s = L' z`` and the leverage
    ``h_g = l_g . l_g``; the gene's own value does not enter.

    Parameters
    ----------
    rank
        Number of components.
    """

    reveals = "expression"

    def __init__(self, rank: int = 20) -> None:
        if rank < 1:
            raise ValueError(f"rank is {rank}; use 1 or more.")
        self.rank = rank

    def _fit(self, training: list[AnnData]) -> None:
        measured = self._expression(training)
        pairs = zip(training, measured, strict=True)
        moran = np.mean([genes.morans_i(section, values) for section, values in pairs], axis=0)
        # A gene without weight would leave no trace among the components: keep a little of it.
        self.weights = np.clip(moran, 0.01, None)
        self.components = ExpressionComponents(self.rank).fit(measured, self.weights)

    def _predict(self, section: AnnData, revealed: np.ndarray) -> np.ndarray:
        known = self.components
        values = np.asarray(revealed, dtype=np.float64)
        deviation = values.std(0)
        z = (values - values.mean(0)) / np.where(deviation > 0, deviation, 1.0) * self.weights
        leverage = np.einsum("gr,gr->g", known.axes, known.axes)
        fitted = z @ known.axes @ known.axes.T  # (spots, genes)
        others = (fitted - leverage * z) / np.maximum(1 - leverage, 1e-9)
        return known.mean + known.deviation * others / self.weights
