"""Whole slides: images too large for memory, read region by region at the scale that is wanted.

Scanners keep a slide at several sizes in one file, each cut into tiles: a pyramid.
Tiled and pyramidal TIFF, OME-TIFF and SVS are read through tifffile and zarr; what these cannot
read goes to OpenSlide, where it is installed.
"""

from __future__ import annotations

import math
import os
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from heclip_lite import store
from heclip_lite.data import contract, images, patches, registration
from heclip_lite.data.slide_files import open_source

PREVIEW_PX = images.PREVIEW_PX
_GAP = 3.0  # as in Pillow's reducing_gap: averaged by whole numbers first, then resampled
_AT_ONCE = 2**24  # pixels decoded at once: bounds memory at 48 MiB
_HUGE = 2**26  # pixels from which a file without tiles or smaller copies deserves a word


class Pyramid:
    """A slide on disk, of which only the regions that are asked for are decoded.

    Parameters
    ----------
    path
        A TIFF, OME-TIFF or SVS file, or whatever else OpenSlide reads.
    um_per_px
        Micrometres per pixel of the largest level; by default what the file says.
    background
        Colour (r, g, b) of empty slide; by default the median along the slide's edge, if that is
        light or black, else white.

    Attributes
    ----------
    path, um_per_px, background
        As above.
    sizes
        Width and height of each level, the largest first.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is cut short or is no 8-bit RGB or grey image; if no scale is given, and the
        file gives none or one that cannot be.
    ImportError
        If what reads this kind of file is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        um_per_px: float | None = None,
        background: images.Colour | None = None,
    ) -> None:
        self.path = Path(path).resolve()
        self._open(scaled=um_per_px is not None)
        self.sizes = self._source.sizes
        said = self._source.um_per_px
        self.um_per_px = _scale(self.path, um_per_px, said)
        self._warn_if_slow()
        glass = images.glass_colour(self.preview) if background is None else background
        self.background = tuple(map(int, glass))

    def __getstate__(self) -> dict:
        """Everything but the open file: other processes open it for themselves."""
        return {key: value for key, value in vars(self).items() if key != "_source"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._open(scaled=True)

    def _open(self, scaled: bool) -> None:
        self._source = open_source(self.path, scaled=scaled)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Pyramid:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- regions ------------------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the largest level, pixels."""
        return self.sizes[0]

    @property
    def scales_um(self) -> list[float]:
        """Micrometres per pixel of each level."""
        return [self.um_per_px * self.size[0] / width for width, _ in self.sizes]

    def size_at(self, um_per_px: float | None = None) -> tuple[int, int]:
        """Width and height of the whole slide at a scale, pixels.

        Raises
        ------
        ValueError
            If the scale is not above 0.
        """
        if um_per_px is None:
            return self.size
        if not um_per_px > 0:
            raise ValueError(f"um_per_px is {um_per_px}; a pixel is wider than 0 micrometres.")
        zoom = self.um_per_px / um_per_px
        return tuple(max(1, round(side * zoom)) for side in self.size)

    def read(
        self,
        x0: int,
        y0: int,
        width: int,
        height: int,
        um_per_px: float | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """One region of the slide at a scale, from the level that serves it best.

        The smallest level that is no coarser than the scale is averaged down with anti-aliasing.
        Neighbouring regions fit together: each pixel is what it would be if the whole slide were
        resampled at once.

        Parameters
        ----------
        x0, y0, width, height
            The region, in whole pixels of the slide at that scale (see :meth:`size_at`).
            What lies beyond the slide has the background's colour.
        um_per_px
            The scale; that of the largest level by default.
        size
            Width and height of the whole slide, where they are to be other than
            :meth:`size_at` says.

        Returns
        -------
        ndarray, uint8, (height, width, 3), RGB

        Raises
        ------
        ValueError
            If the scale is not above 0, or the region of the file is damaged.
        """
        whole = self.size_at(um_per_px) if size is None else size
        left, top = max(0, x0), max(0, y0)
        right, bottom = min(whole[0], x0 + width), min(whole[1], y0 + height)
        if right <= left or bottom <= top:
            return np.full((height, width, 3), self.background, dtype=np.uint8)
        level = self._best(whole)
        found = self._resampled(level, whole, (left, top, right, bottom))
        if found.shape[:2] == (height, width):
            return found
        made = np.full((height, width, 3), self.background, dtype=np.uint8)
        made[top - y0 : bottom - y0, left - x0 : right - x0] = found
        return made

    def _best(self, whole: tuple[int, int]) -> int:
        """Number of the smallest level that is no smaller than `whole`."""
        fits = [i for i, (w, h) in enumerate(self.sizes) if w >= whole[0] and h >= whole[1]]
        return max(fits, default=0)

    def _resampled(self, level: int, whole: tuple[int, int], box: images.Box) -> np.ndarray:
        """A box of the slide at size `whole`, inside it, from one level."""
        source = self.sizes[level]
        ratio = [s / w for s, w in zip(source, whole, strict=True)]
        if ratio == [1, 1]:
            return self._source.read(level, *box)
        sides = box[2] - box[0], box[3] - box[1]
        if sides[0] * sides[1] * ratio[0] * ratio[1] > _AT_ONCE and max(sides) > 32:
            along = int(sides[1] >= sides[0])  # halve the longer side
            middle = (box[along] + box[along + 2]) // 2
            first = tuple(middle if i == along + 2 else v for i, v in enumerate(box))
            second = tuple(middle if i == along else v for i, v in enumerate(box))
            halves = [self._resampled(level, whole, half) for half in (first, second)]
            return np.concatenate(halves, axis=1 - along)
        # As Pillow does it for the whole slide: averaged down by whole numbers, then resampled.
        # The cut begins at a multiple of that number and is wide enough for the filter.
        by = [max(1, int(r / _GAP)) for r in ratio]
        start, stop, place = [], [], []
        for axis in (0, 1):
            scale = ratio[axis] / by[axis]
            reach = math.ceil(max(scale, 1)) + 1
            begin = max(0, math.floor(box[axis] * scale) - reach)
            end = math.ceil(box[axis + 2] * scale) + reach
            start.append(begin * by[axis])
            stop.append(min(end * by[axis], source[axis]))
            place.append((box[axis] * scale - begin, box[axis + 2] * scale - begin))
        cut = Image.fromarray(self._source.read(level, *start, *stop))
        if max(by) > 1:
            cut = cut.reduce(tuple(by))
        # Rounding must not reach beyond the cut.
        (x0, x1), (y0, y1) = place
        x1, y1 = min(x1, cut.width), min(y1, cut.height)
        return np.asarray(cut.resize(sides, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))

    # -- the slide at a glance ----------------------------------------------------------------

    @cached_property
    def preview(self) -> np.ndarray:
        """The whole slide, at most 2000 px on its long side, uint8 (h, w, 3)."""
        shrunk = max(1.0, max(self.size) / PREVIEW_PX)
        size = tuple(max(1, round(side / shrunk)) for side in self.size)
        return self.read(0, 0, *size, size=size)

    def tissue_mask(self, um_per_px: float = 20.0) -> np.ndarray:
        """Where there is tissue, bool (rows, columns); see `registration.tissue_mask`.

        Raises
        ------
        ValueError
            If no tissue is found.
        """
        return registration.tissue_mask(self.section(np.zeros((1, 2))), um_per_px)

    def on_tissue(self, points: np.ndarray) -> np.ndarray:
        """Which points (points, 2), in pixels of the largest level, lie on tissue; bool."""
        return registration.in_mask(self.tissue_mask(), np.asarray(points), self.size)

    def section(
        self,
        points: np.ndarray,
        *,
        name: str | None = None,
        donor: str = "unknown",
        diameter_um: float = 55.0,
    ) -> AnnData:
        """Points on the slide as a section without counts; its image stays on disk.

        Parameters
        ----------
        points
            (points, 2), pixels of the largest level.
        name
            Of the section; by default the name of the file.
        donor
            Name of the donor.
        diameter_um
            Diameter of a point where it is drawn, micrometres.
        """
        name = self.path.name.partition(".")[0] if name is None else name
        entry = {
            "images": {"hires": self.preview},
            "scalefactors": {
                "tissue_hires_scalef": self.preview.shape[1] / self.size[0],
                "spot_diameter_fullres": diameter_um / self.um_per_px,
                "microns_per_pixel": self.um_per_px,
            },
            "metadata": {
                "source_image_path": str(self.path),
                "image_size": list(self.size),
                "background": list(self.background),
            },
        }
        obs = pd.DataFrame({"section": name, "donor": donor}, index=range(len(points)))
        obs.index = [f"{name}_{number}" for number in obs.index]
        return AnnData(
            obs=obs,
            obsm={"spatial": np.array(points, dtype=np.float64)},
            uns={"spatial": {name: entry}},
        )

    def patches(self, points: np.ndarray, *, width_um: float, size: int) -> np.ndarray:
        """Square patches around points, as :func:`heclip_lite.data.patches.cut_patches` cuts them.

        Parameters
        ----------
        points
            (points, 2), pixels of the largest level.
        width_um, size
            Side of a patch on the tissue, micrometres, and as returned, pixels.

        Returns
        -------
        ndarray, uint8, (points, size, size, 3), RGB

        Raises
        ------
        ValueError
            If `width_um` is not above 0 or `size` not 1 or more, or the file is damaged there.
        """
        if not width_um > 0 or size < 1:
            raise ValueError(
                f"width_um is {width_um} and size {size}; a patch has a width above 0 and 1 pixel "
                "or more."
            )
        wanted = width_um / size  # micrometres per pixel
        fits = [i for i, um in enumerate(self.scales_um) if um <= wanted * (1 + 1e-6)]
        level = max(fits, default=0)
        view = _View(self, level)
        zoom = np.array(self.sizes[level]) / self.size
        side = width_um / self.scales_um[level]
        found = np.empty((len(points), size, size, 3), dtype=np.uint8)
        for patch, centre in zip(found, np.asarray(points) * zoom, strict=True):
            patch[:] = patches.cut(view, centre, side, size, self.background)
        return found

    @cached_property
    def key(self) -> str:
        """Key of the slide's content, from its overview and form: no need to read it whole."""
        return store.content_key(
            self.path.stat().st_size,
            [list(size) for size in self.sizes],
            [self.um_per_px, list(self.background)],
            self.preview,
        )

    # -- when it is opened --------------------------------------------------------------------

    def _warn_if_slow(self) -> None:
        width, height = self.size
        if width * height < _HUGE:
            return
        remedy = "Convert it once: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg."
        megapixels = f"{width * height / 1e6:,.0f} million pixels"
        if self._source.piece > _HUGE:
            warnings.warn(
                f"{self.path.name} has no tiles: any region decodes "
                f"{self._source.piece / 1e6:,.0f} million pixels at once "
                f"({3 * self._source.piece / 2**30:.1f} GiB). {remedy}",
                stacklevel=3,
            )
        elif len(self.sizes) == 1:
            warnings.warn(
                f"{self.path.name} holds no smaller copies of itself, so the overview reads all "
                f"{megapixels}. {remedy}",
                stacklevel=3,
            )


class _View:
    """One level as if it were an array of pixels; slices are read from disk."""

    def __init__(self, slide: Pyramid, level: int) -> None:
        self.slide, self.level = slide, level

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        width, height = self.slide.sizes[self.level]
        y0, y1, _ = where[0].indices(height)
        x0, x1, _ = where[1].indices(width)
        if y1 <= y0 or x1 <= x0:
            return np.empty((max(0, y1 - y0), max(0, x1 - x0), 3), dtype=np.uint8)
        return self.slide._source.read(self.level, x0, y0, x1, y1)


def _scale(path: Path, given: float | None, said: float | None) -> float:
    low, high = contract.UM_PER_PX_RANGE
    if given is None and said is None:
        raise ValueError(
            f"{path} does not say how large its pixels are. Give um_per_px, the micrometres per "
            "pixel of its largest level: about 0.25 at 40x and 0.5 at 20x."
        )
    um = said if given is None else float(given)
    if not low <= um <= high:
        raise ValueError(
            f"{path}: {um} micrometres per pixel is outside {low} to {high}: wrong scale. "
            "Give um_per_px, the micrometres per pixel of its largest level."
        )
    if given is not None and said is not None and abs(given / said - 1) > 0.05:
        warnings.warn(
            f"{path.name} says {said:.4g} micrometres per pixel, but {given:.4g} was given; the "
            "latter counts.",
            stacklevel=4,
        )
    return um
