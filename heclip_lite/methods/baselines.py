"""Baselines and controls: what a method has to beat before its result means anything.

Choices inside a method (a penalty, a number of neighbours, a width) are made by leaving out whole
training sections, one after another, and keeping what gives the best mean Pearson correlation of
genes inside the section left out.
With a single training section, strips of its spots are left out instead.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
from anndata import AnnData

from heclip_lite import config, features
from heclip_lite.data import genes, registration, sections
from heclip_lite.features import appearance
from heclip_lite.methods.base import Method
from heclip_lite.methods.transforms import ExpressionComponents, MeanKernel

STRIPS = 5  # of spots, where there is only one training section
Rows = np.ndarray


def _check_choices(what: str, choices: Sequence[float], least: float) -> tuple:
    if not choices or min(choices) < least:
        raise ValueError(f"{what} is {tuple(choices)}; give one or more values from {least:g} up.")
    return tuple(choices)


def _groups(training: list[AnnData], by: str) -> np.ndarray:
    """Label of what is left out together, (training spots,)."""
    sizes = [section.n_obs for section in training]
    if len(training) == 1:
        return np.arange(sizes[0]) * STRIPS // sizes[0]
    of = sections.donor_of if by == "donor" else sections.name_of
    labels = [of(section) for section in training]
    if len(set(labels)) == 1:
        raise ValueError(
            f"All {len(training)} training sections are of donor {labels[0]}, so no donor can be "
            "left out; use by='section'."
        )
    return np.repeat(labels, sizes)


def _left_out(groups: np.ndarray) -> Iterator[tuple[Rows, Rows]]:
    for label in dict.fromkeys(groups.tolist()):
        yield np.flatnonzero(groups != label), np.flatnonzero(groups == label)


def _mean_pearson(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean correlation over genes that vary in the truth; constant predictions count 0."""
    t, p = true - true.mean(0), predicted - predicted.mean(0)
    scale = np.sqrt((t**2).sum(0) * (p**2).sum(0))
    r = (t * p).sum(0) / np.where(scale > 1e-9, scale, np.inf)
    varies = np.ptp(true, axis=0) > 0
    return float(r[varies].mean()) if varies.any() else 0.0


def _choose(
    choices: Sequence[float],
    groups: np.ndarray,
    targets: np.ndarray,
    predict: Callable[[Rows, Rows, float], np.ndarray],
) -> float:
    """The choice with the best ``predict(known, asked, choice)`` over all groups left out."""
    if len(choices) == 1:
        return choices[0]
    scores = np.zeros(len(choices))
    for known, asked in _left_out(groups):
        scores += [_mean_pearson(targets[asked], predict(known, asked, c)) for c in choices]
    return choices[int(np.argmax(scores))]


class Mean(Method):
    """The mean of all training spots for every spot: what one knows without looking."""

    def _fit(self, training: list[AnnData]) -> None:
        self.mean = np.concatenate(self._expression(training)).mean(0)

    def _predict(self, section: AnnData) -> np.ndarray:
        return np.tile(self.mean, (section.n_obs, 1))


class Shuffled(Method):
    """Another method, trained on spots whose expression was dealt out at random.

    Within each training section the pairs of picture and counts are broken.
    What it still scores is chance.

    Parameters
    ----------
    method
        The method to train; unfitted.
    seed
        Of the dealing.
    """

    def __init__(self, method: Method, seed: int = 0) -> None:
        self.method = method
        self.seed = seed

    def with_seed(self, seed: int) -> Self:
        """The same with another dealing and another seed of the method inside."""
        return _again(self, method=self.method.with_seed(seed), seed=seed)

    def _fit(self, training: list[AnnData]) -> None:
        dealt = []
        for number, section in enumerate(training):
            order = np.random.default_rng([self.seed, number]).permutation(section.n_obs)
            mixed = section.copy()
            mixed.X = section.X[order]
            dealt.append(mixed)
        self.fitted = _inner(self.method, self).fit(dealt)

    def _predict(self, section: AnnData) -> np.ndarray:
        return self.fitted.predict(section)


class Average(Method):
    """The mean of what several methods predict.

    Parameters
    ----------
    methods
        Two methods or more; unfitted.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        if len(methods) < 2:
            raise ValueError(f"There are {len(methods)} methods to average; give 2 or more.")
        self.methods = list(methods)

    def with_seed(self, seed: int) -> Self:
        """The same with another seed of every method inside."""
        if all(method.with_seed(seed) is method for method in self.methods):
            return self
        return _again(self, methods=[method.with_seed(seed) for method in self.methods])

    def _fit(self, training: list[AnnData]) -> None:
        self.fitted = [_inner(method, self).fit(training) for method in self.methods]

    def _predict(self, section: AnnData) -> np.ndarray:
        return np.mean([method.predict(section) for method in self.fitted], axis=0)

    def _predict_described(self, blocks: list[np.ndarray]) -> np.ndarray:
        return np.mean([method.predict_described(blocks) for method in self.fitted], axis=0)


def _again(original: Method, **changes: object) -> Method:
    made = copy.copy(original)
    vars(made).update(changes)
    return made


def _inner(method: Method, outer: Method) -> Method:
    """A fresh copy of a method inside another one, for the same genes."""
    made = copy.copy(method)
    made.panel = outer.panel
    if outer.correct is not None:
        made.correct = outer.correct
    return made


class Position(Method):
    """Average the training spots that lie at the same place; it never looks inside the tissue.

    The outlines of the sections are laid on top of one another (see
    :mod:`heclip_lite.data.registration`), so serial sections of one block tell each other's
    expression. This control measures how much of a result is location alone.

    Parameters
    ----------
    widths_um
        Standard deviations of the Gaussian weights to choose from, micrometres.
    """

    def __init__(self, widths_um: Sequence[float] = (50.0, 100.0, 200.0, 400.0, 800.0)) -> None:
        self.widths_um = _check_choices("widths_um", widths_um, 1.0)

    def _fit(self, training: list[AnnData]) -> None:
        self.training = training
        targets = self._expression(training)
        self.targets = np.concatenate(targets)
        groups = _groups(training, "section")
        squares = [_squares(registration.positions_um(s), self._places(s)) for s in training]
        every = np.concatenate(squares)  # (spots, spots)

        def predict(known: Rows, asked: Rows, width: float) -> np.ndarray:
            return _weights(every[np.ix_(asked, known)], width) @ self.targets[known]

        self.width_um = _choose(self.widths_um, groups, self.targets, predict)

    def _places(self, section: AnnData) -> np.ndarray:
        """Places of all training spots, in micrometres of `section`."""
        return np.concatenate([_moved(other, section) for other in self.training])

    def _predict(self, section: AnnData) -> np.ndarray:
        squares = _squares(registration.positions_um(section), self._places(section))
        return _weights(squares, self.width_um) @ self.targets


def _moved(other: AnnData, section: AnnData) -> np.ndarray:
    places = registration.positions_um(other)
    if other is section:
        return places
    return registration.register(other, section).apply(places)


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    from sklearn.metrics import pairwise_distances

    return pairwise_distances(one, other, metric="sqeuclidean")


def _weights(squares: np.ndarray, width: float) -> np.ndarray:
    """Gaussian weights, each row summing to 1; far from everything, the nearest spot counts."""
    logs = -(squares - squares.min(axis=1, keepdims=True)) / (2 * width**2)
    weights = np.exp(logs)
    return weights / weights.sum(axis=1, keepdims=True)


class _Linear(Method):
    """Ridge regression on some description of each spot."""

    alphas: tuple[float, ...]
    by: str

    @abstractmethod
    def _describe(self, section: AnnData) -> np.ndarray:
        """Columns of one section, (spots, columns)."""

    def _fit(self, training: list[AnnData]) -> None:
        from sklearn.kernel_ridge import KernelRidge as Regressor
        from sklearn.preprocessing import StandardScaler

        groups = _groups(training, self.by)
        described = [self._describe(section) for section in training]
        self.scaler = StandardScaler().fit(np.concatenate(described))
        self.known = self.scaler.transform(np.concatenate(described))
        targets = np.concatenate(self._expression(training))
        # With more features than spots the kernel form gives the same answer at less cost.
        kernel = self._kernel(self.known)

        def fitted(rows: Rows, alpha: float) -> tuple[Regressor, np.ndarray]:
            mean = targets[rows].mean(0)
            model = Regressor(kernel="precomputed", alpha=alpha)
            return model.fit(kernel[np.ix_(rows, rows)], targets[rows] - mean), mean

        def predict(known: Rows, asked: Rows, alpha: float) -> np.ndarray:
            model, mean = fitted(known, alpha)
            return mean + model.predict(kernel[np.ix_(asked, known)])

        self.alpha = _choose(self.alphas, groups, targets, predict)
        self.model, self.mean = fitted(np.arange(len(targets)), self.alpha)

    def _kernel(self, described: np.ndarray) -> np.ndarray:
        """Scalar products in double precision: with a small penalty, single is too coarse."""
        known = self.known.astype(np.float64)
        return described.astype(np.float64) @ known.T / known.shape[1]

    def _predict(self, section: AnnData) -> np.ndarray:
        return self._from_columns(self._describe(section))

    def _from_columns(self, columns: np.ndarray) -> np.ndarray:
        """(points, genes) from the columns that `_describe` gives."""
        return self.mean + self.model.predict(self._kernel(self.scaler.transform(columns)))


class Ridge(_Linear):
    """Ridge regression on frozen image features.

    Parameters
    ----------
    image
        Patch vectors, pooled feature maps, or colour and nuclei; an encoder is never trained.
    alphas
        Penalties to choose from, per feature.
    by
        Leave out one ``"section"`` or one ``"donor"`` at a time to choose.
    device
        Where the encoder runs.
    """

    def __init__(
        self,
        image: config.Input | None = None,
        *,
        alphas: Sequence[float] = tuple(10.0**e for e in range(-4, 4)),
        by: str = "section",
        device: str = "auto",
    ) -> None:
        if by not in ("section", "donor"):
            raise ValueError(f"by is {by!r}; use 'section' or 'donor'.")
        self.image = config.MapInput() if image is None else image
        self.alphas = _check_choices("alphas", alphas, 1e-12)
        self.by = by
        self.device = device

    def _describe(self, section: AnnData) -> np.ndarray:
        return features.table(section, self.image, device=self.device)

    def _predict_described(self, blocks: list[np.ndarray]) -> np.ndarray:
        return self._from_columns(np.concatenate(blocks, axis=1))


class MeanColour(_Linear):
    """Ridge regression on three numbers: the mean red, green and blue under each spot.

    Parameters
    ----------
    alphas
        Penalties to choose from.
    """

    by = "section"

    def __init__(self, alphas: Sequence[float] = tuple(10.0**e for e in range(-4, 2))) -> None:
        self.alphas = _check_choices("alphas", alphas, 1e-12)

    def _describe(self, section: AnnData) -> np.ndarray:
        return appearance.mean_colour(section, sections.spot_diameter_um(section))


class NearestNeighbours(Method):
    """The mean of the training spots that look most alike, by frozen features.

    Parameters
    ----------
    image
        Patch vectors, pooled feature maps, or colour and nuclei.
    ks
        Numbers of neighbours to choose from; those beyond the training spots are left aside.
    device
        Where the encoder runs.
    """

    def __init__(
        self,
        image: config.Input | None = None,
        *,
        ks: Sequence[int] = (5, 10, 20, 50, 100),
        device: str = "auto",
    ) -> None:
        self.image = config.MapInput() if image is None else image
        self.ks = _check_choices("ks", ks, 1)
        self.device = device

    def _fit(self, training: list[AnnData]) -> None:
        from sklearn.preprocessing import StandardScaler

        spots = sum(section.n_obs for section in training)
        ks = [k for k in self.ks if k <= spots]
        if not ks:
            raise ValueError(f"k is {min(self.ks)}, but there are {spots} training spots.")
        described = [features.table(s, self.image, device=self.device) for s in training]
        self.scaler = StandardScaler().fit(np.concatenate(described))
        self.known = self.scaler.transform(np.concatenate(described))
        self.targets = np.concatenate(self._expression(training))
        order = np.argsort(_squares(self.known, self.known), axis=1)
        groups = _groups(training, "section")

        def predict(known: Rows, asked: Rows, k: float) -> np.ndarray:
            allowed = np.isin(order[asked], known)
            nearest = [row[ok][: int(k)] for row, ok in zip(order[asked], allowed, strict=True)]
            return np.stack([self.targets[rows].mean(0) for rows in nearest])

        self.k = int(_choose(ks, groups, self.targets, predict))

    def _predict(self, section: AnnData) -> np.ndarray:
        described = self.scaler.transform(features.table(section, self.image, device=self.device))
        nearest = np.argsort(_squares(described, self.known), axis=1)[:, : self.k]
        return self.targets[nearest].mean(1)


class KernelRidge(Method):
    """Kernel ridge regression from all blocks of the description to a few expression components.

    Parameters
    ----------
    image
        Pooled feature maps, patch vectors, or colour and nuclei.
    rank
        Expression components (see :class:`~heclip_lite.methods.transforms.ExpressionComponents`).
    alphas
        Penalties to choose from.
    device
        Where the encoder runs.
    """

    def __init__(
        self,
        image: config.Input | None = None,
        *,
        rank: int = 20,
        alphas: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0),
        device: str = "auto",
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank is {rank}; use 1 or more.")
        self.image = config.MapInput() if image is None else image
        self.rank = rank
        self.alphas = _check_choices("alphas", alphas, 1e-12)
        self.device = device

    def _blocks(self, section: AnnData) -> list[np.ndarray]:
        return features.describe(section, self.image, device=self.device)

    def _fit(self, training: list[AnnData]) -> None:
        from sklearn.kernel_ridge import KernelRidge as Regressor

        expression = self._expression(training)
        pairs = list(zip(training, expression, strict=True))
        moran = np.mean([genes.morans_i(section, values) for section, values in pairs], axis=0)
        self.components = ExpressionComponents(self.rank).fit(expression, moran)
        scores = np.concatenate([self.components.transform(values) for values in expression])
        targets = np.concatenate(expression)
        stacked = [np.concatenate(b) for b in zip(*map(self._blocks, training), strict=True)]
        self.kernel = MeanKernel().fit(stacked)
        kernel = self.kernel.kernel(stacked)

        def fitted(rows: Rows, alpha: float) -> Regressor:
            model = Regressor(kernel="precomputed", alpha=alpha)
            return model.fit(kernel[np.ix_(rows, rows)], scores[rows])

        def predict(known: Rows, asked: Rows, alpha: float) -> np.ndarray:
            found = fitted(known, alpha).predict(kernel[np.ix_(asked, known)])
            return self.components.reconstruct(found)

        self.alpha = _choose(self.alphas, _groups(training, "section"), targets, predict)
        self.model = fitted(np.arange(len(targets)), self.alpha)

    def _predict(self, section: AnnData) -> np.ndarray:
        return self._predict_described(self._blocks(section))

    def _predict_described(self, blocks: list[np.ndarray]) -> np.ndarray:
        kernel = self.kernel.kernel(blocks)
        return self.components.reconstruct(self.model.predict(kernel))
