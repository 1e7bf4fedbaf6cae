"""Patches: square cut-outs of a slide, measured in micrometres on the tissue, not in pixels.

Two slides scanned at different scales then show cells at the same size.
"""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from PIL import Image
from tqdm.auto import tqdm

from heclip_lite.data import sections
from heclip_lite.store import cached_array, code_key, content_key

_FILTER = Image.Resampling.BICUBIC
_FILTER_REACH = 2.0  # source pixels on either side, times the shrinking factor


def cut_patches(
    section: AnnData, *, width_um: float, size: int, points: np.ndarray | None = None
) -> np.ndarray:
    """Square patches centred on spots, resampled with anti-aliasing.

    What lies beyond the image's edge is filled with the section's background colour.
    Patches are kept on disk under a key of their content (image, points, scale and size);
    where they are found there, the slide is not even decoded.

    Parameters
    ----------
    section
        A section; its expression is not needed.
    width_um
        Side of a patch on the tissue, in micrometres.
    size
        Side of a patch as it is returned, in pixels.
    points
        Centres (points, 2) in pixels of the full-resolution image; the spots where none are given.
        A pixel covers the interval from its index to the next one.

    Returns
    -------
    uint8 (points, size, size, 3), RGB.

    Raises
    ------
    ValueError
        If the width or size is not positive, or a patch lies wholly outside the image.
    FileNotFoundError
        If the image file is missing.
    """
    centres = np.asarray(section.obsm["spatial"] if points is None else points, dtype=np.float64)
    side_px = width_um / sections.um_per_px(section)
    _check(section, centres, width_um, size, side_px, spots=points is None)
    size = int(size)
    key = content_key(
        code_key("core", "data"),
        sections.image_key(section),
        centres,
        [side_px, size, list(sections.background_of(section))],
    )
    return cached_array("patches", key, lambda: _cut_all(section, centres, side_px, size))


def _check(
    section: AnnData, centres: np.ndarray, width_um: float, size: int, side_px: float, spots: bool
) -> None:
    place = f"Section {sections.name_of(section)!r}"
    if not (np.isfinite(width_um) and width_um > 0):
        raise ValueError(f"{place}: width_um is {width_um}; a patch is wider than 0 micrometres.")
    if int(size) != size or size < 1:
        raise ValueError(f"{place}: size is {size}; a patch has a whole number of pixels from 1.")
    if centres.ndim != 2 or centres.shape[1] != 2:
        raise ValueError(f"{place}: points have shape {centres.shape}, but must be (points, 2).")
    extent = np.array(sections.image_size(section))
    half = side_px / 2
    seen = ((centres + half > 0) & (centres - half < extent)).all(axis=1)  # False for NaN
    if not seen.all():
        first = int(np.argmin(seen))
        label = f"spot {section.obs_names[first]!r}" if spots else f"point {first}"
        x, y = centres[first]
        raise ValueError(
            f"{place}: {(~seen).sum()} patches lie wholly outside the image of "
            f"{extent[0]} x {extent[1]} px, first {label} at ({x:.1f}, {y:.1f}). "
            "Drop these points, or correct their positions."
        )


def _cut_all(section: AnnData, centres: np.ndarray, side_px: float, size: int) -> np.ndarray:
    image = sections.read_image(section)
    background = sections.background_of(section)
    patches = np.empty((len(centres), size, size, 3), dtype=np.uint8)
    bar = tqdm(
        centres,
        desc=f"{sections.name_of(section)}: patches",
        unit="patch",
        disable=len(centres) <= 500,
    )
    for patch, centre in zip(patches, bar, strict=True):
        patch[:] = cut(image, centre, side_px, size, background)
    return patches


def cut(
    image: np.ndarray, centre: np.ndarray, side_px: float, size: int, background: sections.Colour
) -> np.ndarray:
    """One patch: a window a little wider than asked, then resampled from exact borders in it."""
    start, stop = centre - side_px / 2, centre + side_px / 2  # x, y
    margin = int(np.ceil(_FILTER_REACH * max(side_px / size, 1.0))) + 1
    x0, y0 = np.floor(start).astype(int) - margin
    x1, y1 = np.ceil(stop).astype(int) + margin
    window = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    if window.shape[:2] != (y1 - y0, x1 - x0):  # over the edge
        canvas = np.full((y1 - y0, x1 - x0, 3), background, dtype=np.uint8)
        top, left = max(-y0, 0), max(-x0, 0)
        canvas[top : top + window.shape[0], left : left + window.shape[1]] = window
        window = canvas
    box = (*(start - [x0, y0]), *(stop - [x0, y0]))
    return np.asarray(Image.fromarray(window).resize((size, size), _FILTER, box=box))
