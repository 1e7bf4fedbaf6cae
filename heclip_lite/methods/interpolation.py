"""Interpolation: from the measured spots of a slide to places between them, without its image.

These are the baselines of within-slide prediction.
They know where a point lies and what was measured around it, and nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from scipy.spatial import cKDTree

from heclip_lite.data import registration, sections
from heclip_lite.methods.base import Method

_FOLDS = 5  # of spots, left out in turn to choose a setting
_GP_SPOTS = 800  # kept at random to choose the kernel of a Gaussian process; its cost is cubic


class _Interpolation(Method):
    """Remembers places and expression of each training slide; predicts on the same slides only."""

    def _fit(self, training: list[AnnData]) -> None:
        self.slides = {
            sections.image_key(section): self._learn(registration.positions_um(section), values)
            for section, values in zip(training, self._expression(training), strict=True)
        }

    def _predict(self, section: AnnData) -> np.ndarray:
        key = sections.image_key(section)
        if key not in self.slides:
            raise ValueError(
                f"{type(self).__name__} interpolates between measured spots of one slide, and "
                f"section {sections.name_of(section)!r} shows none of the slides it was fitted on. "
                "Fit it on a part of this section."
            )
        return self._at(self.slides[key], registration.positions_um(section))

    def _learn(self, places: np.ndarray, values: np.ndarray) -> object:
        return places, values

    @abstractmethod
    def _at(self, learnt: object, places: np.ndarray) -> np.ndarray:
        """Expression at places in micrometres, (places, genes)."""


class NearestSpot(_Interpolation):
    """Every point says what the measured spot nearest to it says."""

    def _at(self, learnt: object, places: np.ndarray) -> np.ndarray:
        known, values = learnt
        return values[cKDTree(known).query(places)[1]]


class InverseDistance(_Interpolation):
    """The mean of the measured spots around, weighted by a power of their distance (Shepard, 1968).

    Parameters
    ----------
    powers
        Exponents to choose from, by leaving out a fifth of the spots at a time.
    neighbours
        How many spots are averaged.
    """

    def __init__(
        self, powers: Sequence[float] = (0.5, 1.0, 2.0, 3.0), *, neighbours: int = 36
    ) -> None:
        if not powers or min(powers) <= 0 or neighbours < 1:
            raise ValueError(
                f"powers is {tuple(powers)} and neighbours {neighbours}; give powers above 0 and "
                "1 neighbour or more."
            )
        self.powers, self.neighbours = tuple(powers), neighbours

    def _learn(self, places: np.ndarray, values: np.ndarray) -> object:
        folds = np.random.default_rng(0).permutation(len(places)) % _FOLDS
        errors = dict.fromkeys(self.powers, 0.0)
        for fold in range(_FOLDS) if len(self.powers) > 1 and len(places) > _FOLDS else ():
            out = folds == fold
            for power in self.powers:
                found = self._mean(places[~out], values[~out], places[out], power)
                errors[power] += float(((found - values[out]) ** 2).sum())
        return places, values, min(errors, key=errors.get)

    def _at(self, learnt: object, places: np.ndarray) -> np.ndarray:
        known, values, power = learnt
        return self._mean(known, values, places, power)

    def _mean(
        self, known: np.ndarray, values: np.ndarray, places: np.ndarray, power: float
    ) -> np.ndarray:
        k = min(self.neighbours, len(known))
        distance, rows = cKDTree(known).query(places, k=np.arange(1, k + 1))
        weights = 1 / np.maximum(distance, 1e-3) ** power  # at a spot, that spot alone
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("pk,pkg->pg", weights, values[rows])


class GaussianProcess(_Interpolation):
    """Gaussian-process regression of every gene on place, the genes sharing one kernel.

    Kriging by another name: a squared exponential of distance plus noise; its width and the share
    of noise maximise the marginal likelihood of the measured spots.

    Parameters
    ----------
    seed
        Of the spots that choose the kernel, where there are many.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _learn(self, places: np.ndarray, values: np.ndarray) -> object:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        mean, deviation = values.mean(0), values.std(0) + 1e-6
        scores = (values - mean) / deviation
        pitch = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))
        kernel = ConstantKernel(0.3, (1e-4, 10.0)) * RBF(
            3 * pitch, (pitch / 2, 100 * pitch)
        ) + WhiteKernel(0.7, (1e-3, 2.0))
        some = np.random.default_rng(self.seed).permutation(len(places))[:_GP_SPOTS]
        chosen = GaussianProcessRegressor(kernel, random_state=self.seed)
        chosen.fit(places[some], scores[some])
        model = GaussianProcessRegressor(chosen.kernel_, optimizer=None)
        return model.fit(places, scores), mean, deviation

    def _at(self, learnt: object, places: np.ndarray) -> np.ndarray:
        model, mean, deviation = learnt
        return mean + deviation * model.predict(places)
