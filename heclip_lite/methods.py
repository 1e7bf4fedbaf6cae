"""Every way to predict expression from an image, behind two functions: `fit` and `predict`."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from heclip_lite import config, encoders, sections
from heclip_lite.base import Method
from heclip_lite.heclip import HECLIP

__all__ = ["HECLIP", "Mean", "Method", "NearestPosition", "Ridge"]


class Mean(Method):
    """The mean of all training spots for every spot: what one knows without looking."""

    def _fit(self, training: list[AnnData]) -> None:
        self.mean = np.concatenate(self._expression(training)).mean(0)

    def _predict(self, section: AnnData) -> np.ndarray:
        return np.tile(self.mean, (section.n_obs, 1))


class NearestPosition(Method):
    """The mean of the training spots nearest in position; it never looks at the image.

    Positions are micrometres from the centre of each section's spots.
    Serial sections of one block lie roughly on top of one another, so this control measures how
    much of a result is location alone.

    Parameters
    ----------
    k
        Spots to average.
    """

    def __init__(self, k: int = 8) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; use 1 or more.")
        self.k = k

    def _fit(self, training: list[AnnData]) -> None:
        from sklearn.neighbors import KNeighborsRegressor

        places = np.concatenate([_centred_um(section) for section in training])
        if self.k > len(places):
            raise ValueError(f"k is {self.k}, but there are {len(places)} training spots.")
        targets = np.concatenate(self._expression(training))
        self.model = KNeighborsRegressor(self.k).fit(places, targets)

    def _predict(self, section: AnnData) -> np.ndarray:
        return self.model.predict(_centred_um(section))


def _centred_um(section: AnnData) -> np.ndarray:
    places = section.obsm["spatial"] * sections.um_per_px(section)
    return places - places.mean(0)  # (spots, 2)


class Ridge(Method):
    """Ridge regression on frozen image features.

    The penalty is chosen by leaving out whole training sections, one after another.
    With a single training section it leaves out strips of spots instead.

    Parameters
    ----------
    image
        Patch vectors or pooled feature maps; the encoder is never trained.
    alphas
        Penalties to choose from, per feature.
    device
        Where the encoder runs.
    """

    def __init__(
        self,
        image: config.PatchInput | config.MapInput | None = None,
        *,
        alphas: tuple[float, ...] = tuple(10.0**e for e in range(-4, 4)),
        device: str = "auto",
    ) -> None:
        self.image = config.MapInput() if image is None else image
        self.alphas = alphas
        self.device = device

    def _features(self, section: AnnData) -> np.ndarray:
        if isinstance(self.image, config.MapInput):
            return np.concatenate(
                encoders.pooled_features(section, self.image, device=self.device), axis=1
            )
        return encoders.patch_vectors(section, self.image, device=self.device)

    def _fit(self, training: list[AnnData]) -> None:
        from sklearn.kernel_ridge import KernelRidge
        from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
        from sklearn.preprocessing import StandardScaler

        features = [self._features(section) for section in training]
        groups = np.repeat(np.arange(len(training)), [len(f) for f in features])
        self.scaler = StandardScaler().fit(np.concatenate(features))
        self.known = self.scaler.transform(np.concatenate(features))
        targets = np.concatenate(self._expression(training))
        self.mean = targets.mean(0)
        # With more features than spots the kernel form gives the same answer at less cost.
        folds = GroupKFold(len(training)) if len(training) > 1 else KFold(5)
        search = GridSearchCV(
            KernelRidge(kernel="precomputed"), {"alpha": list(self.alphas)}, cv=folds
        )
        search.fit(self._kernel(self.known), targets - self.mean, groups=groups)
        self.alpha = search.best_params_["alpha"]
        self.model = search.best_estimator_

    def _kernel(self, features: np.ndarray) -> np.ndarray:
        return features @ self.known.T / self.known.shape[1]

    def _predict(self, section: AnnData) -> np.ndarray:
        features = self.scaler.transform(self._features(section))
        return self.mean + self.model.predict(self._kernel(features))
