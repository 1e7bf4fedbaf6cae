"""Colour, stain, texture and nuclei around each spot, measured without any network."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from PIL import Image

from heclip_lite import config
from heclip_lite.data import patches, sections
from heclip_lite.features import encoders
from heclip_lite.store import cached_array, code_key, content_key

_CELL_UM = 8.0  # maps are averaged down to cells of this size before they are pooled
_TEXTURE_UM = (8.0, 32.0)  # widths of the windows in which texture is measured
_APART_UM = 3.0  # centres of two nuclei are farther apart
_NUCLEUS_UM2 = (8.0, 400.0)  # smaller dark dots are dust, larger ones are many nuclei
_COLOURS, _TEXTURES, _NUCLEI = 6, 2, 4  # channels of each kind


def appearance(
    section: AnnData, settings: config.AppearanceInput, points: np.ndarray | None = None
) -> list[np.ndarray]:
    """Describe points by colour, stain, texture and nuclei in windows around them.

    Colour is the mean and standard deviation of red, green, blue, and of haematoxylin, eosin and
    a third stain after Ruifrok and Johnston (2001); texture is the standard deviation of
    brightness in small windows; nuclei are dark spots of haematoxylin: how many, how large, how
    long, how dark.
    Every column is brought to mean 0 and standard deviation 1 over the points of this section;
    this uses the section's own image, never its expression.

    Parameters
    ----------
    section
        Where to look; only its image, scale and spot positions are used.
    settings
        Scale and widths.
    points
        (points, 2), pixels of the full-resolution image; the spots by default.

    Returns
    -------
    list of ndarray
        One float32 block (points, channels) per width and kind: colour, its spread, texture,
        nuclei.
    """
    points = section.obsm["spatial"] if points is None else np.asarray(points, float)
    spots = sections.spots_of(section).obsm["spatial"]
    values = _kept(section, settings, points)
    known = values if np.array_equal(points, spots) else _kept(section, settings, spots)
    values = (values - known.mean(0)) / (known.std(0) + 1e-6)
    sizes = [_COLOURS, _COLOURS, _TEXTURES, _NUCLEI] * len(settings.widths_um)
    return np.split(values.astype(np.float32), np.cumsum(sizes)[:-1], axis=1)


def _kept(section: AnnData, settings: config.AppearanceInput, points: np.ndarray) -> np.ndarray:
    """All columns before any scaling, (points, columns), kept on disk by content."""
    key = content_key(
        code_key("core", "data", "features"),
        sections.image_key(section),
        points,
        sections.um_per_px(section),
        [settings.um_per_px, list(settings.widths_um)],
    )
    return cached_array("appearance", key, lambda: _measure(section, settings, points))


def mean_colour(section: AnnData, width_um: float) -> np.ndarray:
    """Mean red, green and blue of the square around each spot, 0 to 1, float32 (spots, 3)."""
    pixels = patches.cut_patches(section, width_um=width_um, size=16)
    return (pixels.mean(axis=(1, 2)) / 255).astype(np.float32)


@torch.inference_mode()
def _measure(section: AnnData, settings: config.AppearanceInput, points: np.ndarray) -> np.ndarray:
    own = sections.um_per_px(section)
    scale = max(settings.um_per_px, own)  # no finer than the image
    whole = Image.fromarray(sections.read_image(section))
    size = [max(16, round(side * own / scale)) for side in whole.size]
    pixels = np.asarray(whole.resize(size, Image.Resampling.BOX, reducing_gap=3.0))
    per_cell = max(1, round(_CELL_UM / scale))
    colour, stains = _colours(pixels)
    maps = torch.cat([colour, _texture(colour, scale)])
    cells = torch.nn.functional.avg_pool2d(maps[None], per_cell, ceil_mode=True)[0]
    nuclei = _nuclei(stains, scale, per_cell, tuple(cells.shape[1:]))
    # Widths of the map may not divide by the cell: count in pixels of the map, then in cells.
    centres = points * [size[0] / whole.width, size[1] / whole.height] / per_cell
    blocks = []
    for width in settings.widths_um:
        sigma = width / scale / per_cell
        mean, spread = encoders.pool(cells[:_COLOURS], centres, sigma, spread=True)
        (texture,) = encoders.pool(cells[_COLOURS:], centres, sigma, spread=False)
        (found,) = encoders.pool(nuclei, centres, sigma, spread=False)
        count = np.maximum(found[:, :1], 1e-6)
        blocks += [mean, spread, texture, np.hstack([np.log(count), found[:, 1:] / count])]
    return np.concatenate(blocks, axis=1)


def _colours(pixels: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Red, green, blue and three stains, (6, h, w); and the haematoxylin map alone."""
    from skimage.color import rgb2hed

    rows = max(1, 2**22 // pixels.shape[1])  # a few million pixels at once
    stains = np.concatenate(
        [rgb2hed(pixels[i : i + rows]).astype(np.float32) for i in range(0, len(pixels), rows)]
    )
    both = np.concatenate([pixels.astype(np.float32) / 255, stains], axis=2)
    return torch.from_numpy(both).permute(2, 0, 1).contiguous(), stains[..., 0]


def _texture(colour: torch.Tensor, scale: float) -> torch.Tensor:
    """Standard deviation of brightness in small windows, one map per width."""
    from scipy.ndimage import uniform_filter

    grey = colour[:3].mean(0).numpy()
    maps = []
    for width in _TEXTURE_UM:
        side = max(3, round(width / scale))
        mean, square = uniform_filter(grey, side), uniform_filter(grey**2, side)
        maps.append(np.sqrt(np.maximum(square - mean**2, 0)))
    return torch.from_numpy(np.stack(maps))


def _nuclei(
    haematoxylin: np.ndarray, scale: float, per_cell: int, shape: tuple[int, int]
) -> torch.Tensor:
    """Sums per cell over nuclei centred there: count, area, elongation, darkness; (4, h, w)."""
    maps = np.zeros((_NUCLEI, *shape), dtype=np.float32)
    labels = _labelled(haematoxylin, scale)
    found = int(labels.max())
    if not found:
        return torch.from_numpy(maps)
    rows, columns = np.nonzero(labels)
    flat = labels[rows, columns]

    def total(values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(flat, values, found + 1)[1:]

    area = np.maximum(total(), 1)
    y, x = total(rows) / area, total(columns) / area
    yy = total(rows.astype(float) ** 2) / area - y**2
    xx = total(columns.astype(float) ** 2) / area - x**2
    xy = total(rows * columns.astype(float)) / area - x * y
    split = np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    middle = (xx + yy) / 2 + 1 / 12  # a pixel has an extent of its own
    elongation = np.sqrt((middle + split) / np.maximum(middle - split, 1 / 12))
    darkness = total(haematoxylin[rows, columns]) / area
    um2 = area * scale**2
    kept = (um2 >= _NUCLEUS_UM2[0]) & (um2 <= _NUCLEUS_UM2[1])
    cell = tuple(
        np.minimum((axis[kept] / per_cell).astype(int), side - 1)
        for axis, side in ((y, shape[0]), (x, shape[1]))
    )
    one = np.ones(kept.sum())
    for place, values in zip(maps, (one, um2[kept], elongation[kept], darkness[kept]), strict=True):
        np.add.at(place, cell, values)
    return torch.from_numpy(maps)


def _labelled(haematoxylin: np.ndarray, scale: float) -> np.ndarray:
    """Number of the nucleus that each pixel belongs to, 0 for none; (h, w).

    Dark pixels, by Otsu's threshold; nuclei that touch are parted by a watershed from the places
    farthest from their rim.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    smooth = gaussian_filter(haematoxylin, 1.0 / scale)
    if np.ptp(smooth) == 0:
        return np.zeros(smooth.shape, dtype=np.int32)
    dark = smooth > threshold_otsu(smooth)
    depth = gaussian_filter(distance_transform_edt(dark), 0.8 / scale)
    apart = max(1, round(_APART_UM / scale))
    peaks = peak_local_max(depth, min_distance=apart, labels=dark.astype(np.int32))
    seeds = np.zeros(smooth.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, seeds, mask=dark)
