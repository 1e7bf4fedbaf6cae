"""Transforms fitted on training sections: components of expression, components of feature maps.

What a transform has learnt is plain arrays, so that it can be written to disk without pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np


class _Learnt:
    """Something whose attributes are all arrays or numbers."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learnt, by name."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The transform that :meth:`arrays` was called on."""
        made = cls.__new__(cls)
        vars(made).update(arrays)
        return made


class ExpressionComponents(_Learnt):
    """A few numbers per spot that hold what genes share, and the way back to genes.

    Genes are z-scored within each section, so that neither a donor's batch effect nor a gene's
    scale counts, and weighted by how spatial they are (Moran's I), so that noise counts little.

    Parameters
    ----------
    rank
        Number of principal components.
    """

    def __init__(self, rank: int = 20) -> None:
        self.rank = rank

    def fit(self, expression: Sequence[np.ndarray], weights: np.ndarray | None = None) -> Self:
        """Fit on training sections.

        Parameters
        ----------
        expression
            One (spots, genes) array per section, log1p.
        weights
            (genes,), such as the mean Moran's I over the training sections; negative ones count
            as 0. By default all genes weigh the same.

        Raises
        ------
        ValueError
            If `rank` exceeds the genes or spots there are, or no weight is above 0.
        """
        from sklearn.decomposition import PCA

        pooled = np.concatenate(expression).astype(np.float64)
        if self.rank >= min(pooled.shape):
            raise ValueError(
                f"rank is {self.rank}, but there are {pooled.shape[0]} training spots and "
                f"{pooled.shape[1]} genes; choose a rank below both."
            )
        self.weights = np.ones(pooled.shape[1]) if weights is None else np.clip(weights, 0, None)
        if not self.weights.any():
            raise ValueError("No gene has a weight above 0; check Moran's I of the panel.")
        self.mean, self.deviation = pooled.mean(0), pooled.std(0)
        scores = np.concatenate([_z_scores(values) for values in expression])
        pca = PCA(int(self.rank), svd_solver="full").fit(scores * self.weights)
        self.centre, self.axes = pca.mean_, pca.components_.T  # (genes,), (genes, rank)
        components = (scores * self.weights - self.centre) @ self.axes
        self.scale = components.std(0)
        # Least squares from components to unweighted z-scores: the reconstruction.
        self.loadings = np.linalg.lstsq(components, scores, rcond=None)[0]  # (rank, genes)
        return self

    def transform(self, expression: np.ndarray) -> np.ndarray:
        """(spots, genes) of one whole section to (spots, rank), each column of unit scale."""
        components = (_z_scores(expression) * self.weights - self.centre) @ self.axes
        return (components / self.scale).astype(np.float32)

    def reconstruct(self, components: np.ndarray) -> np.ndarray:
        """(spots, rank) to log1p expression (spots, genes), on the training sections' scale."""
        scores = (components * self.scale) @ self.loadings
        return (self.mean + self.deviation * scores).astype(np.float32)


def _z_scores(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return (values - values.mean(0)) / (values.std(0) + 1e-6)


class MeanKernel(_Learnt):
    """How alike two points look, from 0 to 1, by all blocks of their description.

    Each block (one scale, stride, width and statistic) gets a Gaussian kernel whose bandwidth is
    the median distance between training points; the kernels are averaged, so that no block drowns
    the others by its number of channels.
    """

    def fit(self, blocks: Sequence[np.ndarray]) -> Self:
        """Fit on the blocks (points, channels) of all training sections, stacked."""
        from sklearn.metrics import pairwise_distances

        points = len(blocks[0])
        self.known = np.concatenate(blocks, axis=1)
        self.edges = np.cumsum([block.shape[1] for block in blocks])[:-1]
        some = np.linspace(0, points - 1, min(points, 1000)).astype(int)
        distances = [pairwise_distances(b[some], metric="sqeuclidean") for b in blocks]
        self.gamma = 1 / np.maximum([np.median(d) for d in distances], 1e-12)
        return self

    def kernel(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Mean kernel between new points and the training points, (points, training points)."""
        from sklearn.metrics.pairwise import rbf_kernel

        known = np.split(self.known, self.edges, axis=1)
        total = np.zeros((len(blocks[0]), len(self.known)))
        for new, old, gamma in zip(blocks, known, self.gamma, strict=True):
            total += rbf_kernel(new, old, gamma)
        return total / len(known)


class KernelComponents(MeanKernel):
    """Principal components of the mean kernel: a short description of each point.

    Parameters
    ----------
    components
        How many to keep.
    """

    def __init__(self, components: int = 128) -> None:
        self.components = components

    def fit(self, blocks: Sequence[np.ndarray]) -> Self:
        """Fit on the blocks (points, channels) of all training sections, stacked.

        Raises
        ------
        ValueError
            If there are not more points than components.
        """
        from sklearn.decomposition import KernelPCA

        points, kept = len(blocks[0]), int(self.components)
        if points <= kept:
            raise ValueError(
                f"{kept} components need more than {points} training spots; "
                "lower MapInput.components."
            )
        super().fit(blocks)
        kernel = self.kernel(blocks)
        pca = KernelPCA(kept, kernel="precomputed", random_state=0).fit(kernel)
        self.column_means, self.grand_mean = kernel.mean(0), kernel.mean()
        self.projection = pca.eigenvectors_ / np.sqrt(np.maximum(pca.eigenvalues_, 1e-12))
        self.scale = np.float64(1.0)
        self.scale = self.transform(blocks).std(dtype=np.float64)
        return self

    def transform(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Blocks of new points to (points, components), overall unit scale."""
        kernel = self.kernel(blocks)
        centred = kernel - self.column_means - kernel.mean(1, keepdims=True) + self.grand_mean
        return (centred @ self.projection / self.scale).astype(np.float32)
