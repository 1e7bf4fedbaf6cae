"""What every method shares: the gene panel and the checks around `fit` and `predict`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from anndata import AnnData

from heclip_lite.data import genes, sections


class Method(ABC):
    """A way to predict expression: subclass it and write ``_fit`` and ``_predict``.

    Attributes
    ----------
    panel
        The gene panel; fitted on the training sections unless it was set before `fit`.
    setting
        ``"published"`` for a published recipe run in full, ``"reduced"`` for a published recipe
        run smaller, ``"ours"`` for everything else.
    correct
        Changes the training expression, one array (spots, genes) per section, before anything is
        learnt from it, such as a batch correction; None leaves it as measured.
    """

    panel: genes.GenePanel | None = None
    setting: str = "ours"
    correct: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None
    _fitted: bool = False

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the predicted genes, in the order of the columns."""
        if self.panel is None:
            raise RuntimeError(f"{type(self).__name__} has no gene panel yet; call fit first.")
        return self.panel.genes

    def with_seed(self, seed: int) -> Self:
        """This method with another seed; methods without randomness return themselves."""
        return self

    def fit(self, training: Sequence[AnnData]) -> Self:
        """Learn from training sections.

        Parameters
        ----------
        training
            Sections with counts and images.

        Raises
        ------
        ValueError
            If a section breaks the contract, or the sections lack genes of the panel.
        """
        sections.check_sections(training)
        if self.panel is None:
            self.panel = genes.fit_panel(training)
        self._fit(list(training))
        self._fitted = True
        return self

    def predict(self, section: AnnData) -> np.ndarray:
        """Predict one section from its image and spot positions.

        Returns
        -------
        ndarray, float32, (spots, genes)
            log1p of counts per ten thousand, columns as in :attr:`genes`.

        Raises
        ------
        RuntimeError
            If the method was not fitted.
        """
        self._check_fitted()
        return np.asarray(self._predict(section), dtype=np.float32)

    def predict_described(self, blocks: list[np.ndarray]) -> np.ndarray:
        """Predict points that were described elsewhere, such as those of a slide read in tiles.

        Parameters
        ----------
        blocks
            As :func:`~heclip_lite.features.description.describe` gives them, float32
            (points, channels) each.

        Returns
        -------
        ndarray, float32, (points, genes)

        Raises
        ------
        RuntimeError
            If the method was not fitted.
        TypeError
            If the method needs more than a description of each point.
        """
        self._check_fitted()
        return np.asarray(self._predict_described(blocks), dtype=np.float32)

    def _predict_described(self, blocks: list[np.ndarray]) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} needs more than a description of each point.")

    def _check_fitted(self) -> None:
        if not self._fitted:
            raise RuntimeError(f"{type(self).__name__} is not fitted yet; call fit first.")

    def _expression(self, training: Sequence[AnnData]) -> list[np.ndarray]:
        """Training expression of the panel's genes: the one place where methods read it."""
        measured = [genes.expression(section, self.panel) for section in training]
        return measured if self.correct is None else self.correct(measured)

    @abstractmethod
    def _fit(self, training: list[AnnData]) -> None:
        """Learn from checked training sections; the panel is set."""

    @abstractmethod
    def _predict(self, section: AnnData) -> np.ndarray:
        """(spots, genes) for one section, which may hold no counts."""


class Oracle(Method):
    """Something that is told a part of what it should predict: a yardstick, never a contestant.

    Attributes
    ----------
    reveals
        What it is told of the held-out section: ``"depth"``, the total count of each spot (spots,);
        or ``"expression"``, the measured log1p expression (spots, genes) in the panel's order.
    """

    reveals: str

    def predict(self, section: AnnData, revealed: np.ndarray) -> np.ndarray:
        """Predict one section from what is revealed of it.

        Returns
        -------
        ndarray, float32, (spots, genes)

        Raises
        ------
        RuntimeError
            If the oracle was not fitted.
        ValueError
            If what is revealed has another shape.
        """
        self._check_fitted()
        wanted = (section.n_obs,) if self.reveals == "depth" else (section.n_obs, len(self.genes))
        if np.shape(revealed) != wanted:
            raise ValueError(
                f"{type(self).__name__} is told the {self.reveals} of {section.n_obs} spots: "
                f"shape {wanted}, but got {np.shape(revealed)}."
            )
        return np.asarray(self._predict(section, revealed), dtype=np.float32)

    @abstractmethod
    def _predict(self, section: AnnData, revealed: np.ndarray) -> np.ndarray:
        """(spots, genes) for one section."""
