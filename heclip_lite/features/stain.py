"""Stain normalisation: bring the colours of a slide to fixed ones, whatever its laboratory.

Both methods estimate a slide's stain from its own tissue and map it to a target that is written
down here, so that nothing is fitted on other sections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from anndata import AnnData
from PIL import Image

from heclip_lite.data import sections
from heclip_lite.data.registration import tissue_mask

METHODS = ("reinhard", "macenko")
_ROWS = 2**22  # pixels converted at once
_LIGHT = 240.0  # brightness of empty glass
_FAINT = 0.15  # optical density below which a pixel holds no stain
# Targets of a well-stained section: CIELAB mean and standard deviation, and for Macenko the
# optical density vectors of haematoxylin and eosin with their strengths (99th percentiles).
_LAB_MEAN, _LAB_STD = np.array([65.0, 22.0, -12.0]), np.array([14.0, 9.0, 7.0])
_VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
_STRENGTHS = np.array([1.9, 1.0])


class Stain(Protocol):
    """What was estimated of a slide."""

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) with the slide's stain to uint8 (h, w, 3) with the fixed one."""
        ...


@dataclass(frozen=True)
class Reinhard:
    """Mean and standard deviation in CIELAB (Reinhard et al., 2001, there in another space)."""

    mean: np.ndarray = field(repr=False)
    std: np.ndarray = field(repr=False)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) with the slide's stain to uint8 (h, w, 3) with the fixed one."""
        return _by_rows(pixels, self._apply)

    def _apply(self, pixels: np.ndarray) -> np.ndarray:
        from skimage.color import lab2rgb, rgb2lab

        lab = (rgb2lab(pixels) - self.mean) / self.std * _LAB_STD + _LAB_MEAN
        lab[..., 0] = np.clip(lab[..., 0], 0, 100)
        return 255 * np.clip(lab2rgb(lab), 0, 1)


@dataclass(frozen=True)
class Macenko:
    """Two stain vectors and their strengths (Macenko et al., 2009)."""

    vectors: np.ndarray = field(repr=False)  # (2, 3), haematoxylin first
    strengths: np.ndarray = field(repr=False)  # (2,)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) with the slide's stain to uint8 (h, w, 3) with the fixed one."""
        return _by_rows(pixels, self._apply)

    def _apply(self, pixels: np.ndarray) -> np.ndarray:
        amounts = _density(pixels) @ np.linalg.pinv(self.vectors)  # (h, w, 2)
        scaled = amounts / self.strengths * _STRENGTHS
        target = _VECTORS / np.linalg.norm(_VECTORS, axis=1, keepdims=True)
        return np.clip(_LIGHT * np.exp(-(scaled @ target)), 0, 255)


def estimate(section: AnnData, method: str) -> Stain:
    """Estimate the stain of a slide from the tissue on its preview image.

    Parameters
    ----------
    section
        A section; its expression is not needed.
    method
        ``"reinhard"`` or ``"macenko"``.

    Raises
    ------
    ValueError
        If the method is unknown, or the tissue holds too little stain to tell the vectors.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; use {' or '.join(map(repr, METHODS))}.")
    mask = tissue_mask(section)
    small, _ = sections.preview(section)
    size = mask.shape[::-1]
    tissue = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.NEAREST))[mask]
    if method == "reinhard":
        from skimage.color import rgb2lab

        lab = rgb2lab(tissue[None])[0]
        return Reinhard(lab.mean(0), np.maximum(lab.std(0), 1e-3))
    return _macenko(tissue, sections.name_of(section))


def _macenko(tissue: np.ndarray, name: str) -> Macenko:
    density = _density(tissue)
    density = density[(density > _FAINT).all(axis=1)]
    if len(density) < 100:
        raise ValueError(
            f"Section {name!r}: only {len(density)} pixels of tissue hold stain, too few to tell "
            "haematoxylin from eosin; use 'reinhard' or 'none'."
        )
    _, axes = np.linalg.eigh(np.cov(density.T))
    plane = axes[:, [2, 1]]
    plane = plane * np.where(plane.sum(0) < 0, -1.0, 1.0)  # axes point towards more stain
    angles = np.arctan2(*(density @ plane).T[::-1])
    ends = np.percentile(angles, [1, 99])
    vectors = np.stack([plane @ [np.cos(a), np.sin(a)] for a in ends])
    vectors = vectors[np.argsort(-vectors[:, 0])]  # haematoxylin takes more red away
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strengths = np.percentile(density @ np.linalg.pinv(vectors), 99, axis=0)
    return Macenko(vectors, np.maximum(strengths, 1e-3))


def _density(pixels: np.ndarray) -> np.ndarray:
    """Optical density: how much light the stain takes away, by colour channel."""
    return -np.log(np.maximum(pixels.astype(np.float64), 1.0) / _LIGHT)


def _by_rows(pixels: np.ndarray, change) -> np.ndarray:
    step = max(1, _ROWS // pixels.shape[1])
    made = np.empty_like(pixels)
    for start in range(0, len(pixels), step):
        made[start : start + step] = np.round(change(pixels[start : start + step]))
    return made
