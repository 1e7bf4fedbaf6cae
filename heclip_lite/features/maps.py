"""Feature maps of slides that do not fit into memory: made, kept and pooled tile by tile.

What comes out is what :func:`heclip_lite.features.encoders.raw_features` gives for a slide in
memory: the same tiles with the same overlap go through the encoder, and the same windows pool them.
Only the maps lie on disk in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from heclip_lite import config, runtime, store
from heclip_lite.data.pyramid import Pyramid
from heclip_lite.features import encoders, stain

_WINDOW = 2**22  # values of a map pooled at once: bounds memory
_CELL = 32  # pixels; maps have at most this stride
_ENCODERS: dict[tuple[str, str], encoders.ImageEncoder] = {}  # the last one of this process


@dataclass(frozen=True)
class Tile:
    """A tile of the slide at one scale, in pixels there.

    Attributes
    ----------
    scale
        Number of the scale among ``MapInput.um_per_px``.
    top, left, tall, wide
        Its place.
    empty
        Whether it shows empty slide only; all such tiles of one form share their maps.
    """

    scale: int
    top: int
    left: int
    tall: int
    wide: int
    empty: bool

    @property
    def name(self) -> str:
        """Beginning of the names of its files."""
        if self.empty:
            return f"scale{self.scale}_empty_{self.tall}x{self.wide}"
        return f"scale{self.scale}_{self.top}_{self.left}"


class SlideMaps:
    """Feature maps of one slide at all scales, in a folder.

    Parameters
    ----------
    slide
        The slide.
    settings
        Encoder, scales and widths.
    folder
        Where the maps lie.
    points
        (points, 2), pixels of the largest level: near them the encoder looks in any case, as it
        does near tissue.
    device
        Where the encoder runs.
    """

    def __init__(
        self,
        slide: Pyramid,
        settings: config.MapInput,
        folder: Path,
        points: np.ndarray,
        device: str = "auto",
    ) -> None:
        self.slide, self.settings, self.folder, self.device = slide, settings, folder, device
        self.levels = encoders.strides_and_channels(settings.encoder)
        self.channels = sum(encoders.block_sizes(settings))
        self.sizes = [self._size(um) for um in settings.um_per_px]
        mask = Image.fromarray(slide.tissue_mask().astype(np.uint8) * 255)
        self._near = [self._near_tissue(mask, points, size) for size in self.sizes]
        self._stain = None
        if settings.stain != "none":
            self._stain = stain.estimate(slide.section(np.zeros((1, 2))), settings.stain)

    def _size(self, um_per_px: float) -> tuple[int, int]:
        zoom = self.slide.um_per_px / um_per_px
        return tuple(max(_CELL, round(side * zoom)) for side in self.slide.size)

    def _near_tissue(
        self, mask: Image.Image, points: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """Where a scale shows tissue or points: bool, one cell per 32 pixels."""
        cells = tuple(math.ceil(side / _CELL) for side in size)  # x, y
        found = np.array(mask.resize(cells, Image.Resampling.BOX)) > 0
        places = (np.asarray(points) / self.slide.size * size // _CELL).astype(int)
        places = np.clip(places, 0, np.array(cells) - 1)
        found[places[:, 1], places[:, 0]] = True
        return found

    def _grid(self, scale: int) -> Iterator[Tile]:
        width, height = (math.ceil(side / _CELL) * _CELL for side in self.sizes[scale])
        near = self._near[scale]
        for top, left in encoders.corners(height, width):
            tall = min(encoders.TILE, height - top)
            wide = min(encoders.TILE, width - left)
            seen = near[encoders.cells_of(top, tall), encoders.cells_of(left, wide)].any()
            yield Tile(scale, top, left, tall, wide, not seen)

    def tiles(self) -> list[Tile]:
        """What has to be made: all tiles with tissue, and one of each form without."""
        every = [tile for scale in range(len(self.sizes)) for tile in self._grid(scale)]
        return list({tile.name: tile for tile in every}.values())

    def bytes_needed(self) -> int:
        """Room that the maps take on disk."""
        per_pixel = sum(4 * channels / stride**2 for stride, channels in self.levels)
        return int(sum(per_pixel * tile.tall * tile.wide for tile in self.tiles()))

    def _file(self, tile: Tile, stride: int) -> Path:
        return self.folder / f"{tile.name}_stride{stride}.npy"

    def is_made(self, tile: Tile) -> bool:
        """Whether all maps of a tile lie in the folder."""
        return all(self._file(tile, stride).exists() for stride, _ in self.levels)

    @torch.inference_mode()
    def make(self, tile: Tile) -> None:
        """Run the encoder over one tile and keep its maps."""
        device = runtime.pick_device(self.device)
        with runtime.autocast(device):
            pixels = torch.from_numpy(self._pixels(tile))[None].to(device)
            maps = encoder_of(self.settings.encoder, device).maps(pixels)
        halo = encoders.HALO
        for (stride, _), level in zip(self.levels, maps, strict=True):
            rows = slice(halo // stride, (halo + tile.tall) // stride)
            columns = slice(halo // stride, (halo + tile.wide) // stride)
            kept = level[0, :, rows, columns].float().cpu().numpy()
            with store.atomic_path(self._file(tile, stride)) as temporary:
                np.save(temporary, np.ascontiguousarray(kept), allow_pickle=False)

    def _pixels(self, tile: Tile) -> np.ndarray:
        """What the encoder sees: the tile and its overlap; the slide's edge goes on beyond it."""
        halo = encoders.HALO
        shape = (tile.tall + 2 * halo, tile.wide + 2 * halo, 3)
        if tile.empty:
            return np.full(shape, self.slide.background, dtype=np.uint8)
        size = self.sizes[tile.scale]
        left, top = max(0, tile.left - halo), max(0, tile.top - halo)
        right = min(size[0], tile.left + tile.wide + halo)
        bottom = min(size[1], tile.top + tile.tall + halo)
        found = self.slide.read(left, top, right - left, bottom - top, size=size)
        if self._stain is not None:
            found = self._stain.apply(found)
        before = (top - (tile.top - halo), left - (tile.left - halo))
        after = (shape[0] - before[0] - len(found), shape[1] - before[1] - found.shape[1])
        return np.pad(found, [*zip(before, after, strict=True), (0, 0)], mode="edge")

    # -- pooling ------------------------------------------------------------------------------

    def describe(self, points: np.ndarray) -> np.ndarray:
        """Pooled features of points (points, 2), pixels of the largest level, before any scaling.

        Returns
        -------
        ndarray, float32, (points, channels)
            As :func:`heclip_lite.features.encoders.raw_features` gives them.
        """
        made = np.empty((len(points), self.channels), dtype=np.float32)
        first = 0
        for scale, (size, um) in enumerate(zip(self.sizes, self.settings.um_per_px, strict=True)):
            grid = list(self._grid(scale))
            for stride, channels in self.levels:
                centres = points * (np.array(size) / self.slide.size) / stride
                sigmas = [width / um / stride for width in self.settings.widths_um]
                first = self._pool(made, first, grid, stride, channels, centres, sigmas)
        return made

    def _pool(
        self,
        made: np.ndarray,
        first: int,
        grid: list[Tile],
        stride: int,
        channels: int,
        centres: np.ndarray,
        sigmas: list[float],
    ) -> int:
        """Fill the columns from `first` with one map pooled at all widths; the next column."""
        whole = tuple(
            max(start + side for start, side in sides) // stride
            for sides in (
                [(tile.top, tile.tall) for tile in grid],
                [(tile.left, tile.wide) for tile in grid],
            )
        )
        windows = [_around(centres, sigma, whole) for sigma in sigmas]
        outer = [
            slice(min(w[axis].start for w in windows), max(w[axis].stop for w in windows))
            for axis in (0, 1)
        ]
        cells = (outer[0].stop - outer[0].start) * (outer[1].stop - outer[1].start)
        step = max(1, min(encoders.CHANNELS, _WINDOW // cells))
        spread = stride < _CELL
        width = channels * (2 if spread else 1)
        for channel in range(0, channels, step):
            some = slice(channel, min(channel + step, channels))
            level = torch.from_numpy(self._window(grid, stride, some, outer))
            for number, (sigma, window) in enumerate(zip(sigmas, windows, strict=True)):
                rows, columns = (
                    slice(w.start - o.start, w.stop - o.start)
                    for w, o in zip(window, outer, strict=True)
                )
                origin = np.array([window[1].start, window[0].start])
                part = level[:, rows, columns]
                found = encoders.pool(part, centres - origin, sigma, spread=spread)
                at = first + number * width + channel
                for values in found:
                    made[:, at : at + values.shape[1]] = values
                    at += channels
        return first + width * len(sigmas)

    def _window(
        self, grid: list[Tile], stride: int, channels: slice, window: list[slice]
    ) -> np.ndarray:
        """Cells of one map, (channels, rows, columns), put together from its tiles."""
        rows, columns = window
        made = np.empty(
            (channels.stop - channels.start, rows.stop - rows.start, columns.stop - columns.start),
            dtype=np.float32,
        )
        for tile in grid:
            top, left = tile.top // stride, tile.left // stride
            y = slice(max(rows.start, top), min(rows.stop, top + tile.tall // stride))
            x = slice(max(columns.start, left), min(columns.stop, left + tile.wide // stride))
            if y.start >= y.stop or x.start >= x.stop:
                continue
            part = read_part(self._file(tile, stride), mapped=True)
            made[
                :,
                y.start - rows.start : y.stop - rows.start,
                x.start - columns.start : x.stop - columns.start,
            ] = part[channels, y.start - top : y.stop - top, x.start - left : x.stop - left]
        return made


def _around(centres: np.ndarray, sigma: float, whole: tuple[int, int]) -> list[slice]:
    """Rows and columns of a map that windows around the points (x, y) reach.

    They begin at a multiple of the number by which `encoders.pool` averages the map down, so that
    its cells are those of the whole map.
    """
    by = max(1, min(int(sigma // 4), min(whole)))
    reach = math.ceil(4 * max(sigma / by, 1)) + 2
    found = []
    for axis, side in ((1, whole[0]), (0, whole[1])):
        low = int(centres[:, axis].min() / by) - reach
        high = int(centres[:, axis].max() / by) + reach + 1
        start = min(max(0, low), math.ceil(side / by) - 1) * by
        found.append(slice(start, min(side, max(high * by, start + by))))
    return found


def read_part(path: Path, *, mapped: bool = False) -> np.ndarray:
    """A finished part of a run; one that is damaged is dropped, so that it is made anew.

    Feature maps are read `mapped`, a window at a time: they are gigabytes and carry no SHA-256, so
    of these only the header and the length are checked, of all other parts every byte.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return store.load_array(path, mapped=mapped)
    except ValueError as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"{error} and was dropped. Run the same again to make it anew.") from error


def encoder_of(settings: config.Encoder, device: str) -> encoders.ImageEncoder:
    """The frozen encoder, kept for the next tile."""
    key = (encoders.fingerprint(settings), device)
    if key not in _ENCODERS:
        _ENCODERS.clear()
        _ENCODERS[key] = encoders.ImageEncoder(settings).eval().to(device)
    return _ENCODERS[key]
