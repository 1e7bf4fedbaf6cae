"""One way to describe points of a slide, whichever image input a method was given."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from heclip_lite import config
from heclip_lite.features import appearance, encoders


def describe(
    section: AnnData,
    image: config.Input,
    points: np.ndarray | None = None,
    *,
    device: str = "auto",
) -> list[np.ndarray]:
    """Features around each point, in blocks that belong together.

    Parameters
    ----------
    section
        Where to look; only its image, scale and spot positions are used.
    image
        Patches (the encoder stays frozen), feature maps, or colour and nuclei.
    points
        (points, 2), pixels of the full-resolution image; the spots by default.
    device
        Where an encoder runs.

    Returns
    -------
    list of ndarray
        float32 blocks (points, channels).
        Feature maps and appearance are z-scored over the points of this section, block by block;
        patch vectors are as the encoder gave them.
    """
    if isinstance(image, config.MapInput):
        return encoders.pooled_features(section, image, points, device=device)
    if isinstance(image, config.AppearanceInput):
        return appearance.appearance(section, image, points)
    return [encoders.patch_vectors(section, image, points, device=device)]


def table(section: AnnData, image: config.Input, *, device: str = "auto") -> np.ndarray:
    """All blocks of the spots side by side, float32 (spots, channels)."""
    return np.concatenate(describe(section, image, device=device), axis=1)
