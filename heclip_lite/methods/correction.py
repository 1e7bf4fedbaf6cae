"""Batch correction of expression, as the field does it: fairly, and as it leaks.

Harmony (Korsunsky et al., 2019) moves the spots of all sections it is given towards one another.
It cannot move a section it has not seen.
So there are two uses: correct the training sections only, and leave the held-out one as measured
(:class:`TrainHarmony`); or correct all sections together, held-out ones included, and score
against the corrected truth, as HECLIP's released code does.
The second has looked at what it should predict: the ledger shows what that is worth.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite.methods.base import Method


def harmonise_expression(expression: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Harmony directly on the genes of several sections, with the section as the batch.

    Published use is on principal components; HECLIP's released code runs it on the log-normalised
    genes themselves, and so does this.

    Parameters
    ----------
    expression
        One array (spots, genes) per section, log1p.

    Returns
    -------
    list of ndarray
        Corrected arrays, float32, in the same order.

    Raises
    ------
    ValueError
        If there is only one section, or the sections differ in their genes.
    """
    import harmonypy

    widths = {values.shape[1] for values in expression}
    if len(expression) < 2 or len(widths) != 1:
        raise ValueError(
            f"Harmony needs 2 sections or more with the same genes; there are {len(expression)} "
            f"with {sorted(widths)} genes."
        )
    sizes = [len(values) for values in expression]
    batches = pd.DataFrame({"section": np.repeat([f"s{i}" for i in range(len(sizes))], sizes)})
    pooled = np.concatenate(expression).astype(np.float64)
    corrected = np.asarray(
        harmonypy.run_harmony(pooled, batches, ["section"], verbose=False, random_state=0).Z_corr
    )
    if corrected.shape != pooled.shape:  # versions differ in which way round they return it
        corrected = corrected.T
    edges = np.cumsum(sizes)[:-1]
    return [part.astype(np.float32) for part in np.split(corrected, edges)]


class TrainHarmony(Method):
    """Another method, trained on expression that Harmony corrected among the training sections.

    The held-out section is not touched; with one training section there is nothing to correct.

    Parameters
    ----------
    method
        The method to train; unfitted.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def with_seed(self, seed: int) -> Self:
        """The same with another seed of the method inside."""
        return type(self)(self.method.with_seed(seed))

    def _fit(self, training: list[AnnData]) -> None:
        self.fitted = copy.copy(self.method)
        self.fitted.panel = self.panel
        if len(training) > 1:
            self.fitted.correct = harmonise_expression
        self.fitted.fit(training)

    def _predict(self, section: AnnData) -> np.ndarray:
        return self.fitted.predict(section)
