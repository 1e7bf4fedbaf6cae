"""Files that whole slides come in: their levels, their regions and the size of their pixels.

Used through :class:`heclip_lite.data.pyramid.Pyramid`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heclip_lite.data import images
from heclip_lite.data.download import MissingFile

_UM = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "Å": 1e-4}
_COARSEST_TAG = 10.0  # micrometres: coarser resolution tags are dots per inch of a printer
_PLAIN = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_SCANNERS = {".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide"}


class Source(Protocol):
    """An open file: width and height of its levels, and regions of them.

    Attributes
    ----------
    sizes
        (width, height) of each level, the largest first.
    um_per_px
        Micrometres per pixel of the largest level, where the file says it.
    piece
        Pixels that are decoded at once at the least.
    """

    sizes: list[tuple[int, int]]
    um_per_px: float | None
    piece: int

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """A region inside one level, in its pixels: uint8 (height, width, 3)."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_source(path: Path, *, scaled: bool = False) -> Source:
    """Open a slide with whatever reads it.

    Parameters
    ----------
    path
        The file.
    scaled
        Whether the scale is known already: what the file says of it may then be wrong, and counts
        as nothing said.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If nothing reads it, it is cut short, its pixels are not 8-bit RGB or grey, or what it says
        of its scale is damaged or not of square pixels.
    ImportError
        If the package that reads it is not installed.
    """
    if not path.is_file() and path.suffix.lower() != ".mrxs":
        raise MissingFile(f"There is no slide {path}. Check the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"The slide {path} is empty (0 bytes). Fetch or copy it again.")
    if path.suffix.lower() in _PLAIN:
        return _Plain(path)
    with open(path, "rb") as handle:
        mark = handle.read(4)
    is_tiff = mark[:2] in (b"II", b"MM") and mark[2:] in (b"*\0", b"\0*", b"+\0", b"\0+")
    if is_tiff and path.suffix.lower() not in _SCANNERS:
        return _Tiff(path, scaled)
    return _Scanner(path, scaled)


class _Plain:
    """A plain picture: decoded whole, for it cannot be read in parts."""

    um_per_px = None

    def __init__(self, path: Path) -> None:
        self.pixels = images.decode(path)
        self.sizes = [self.pixels.shape[1::-1]]
        self.piece = self.pixels.shape[0] * self.pixels.shape[1]

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return self.pixels[y0:y1, x0:x1]

    def close(self) -> None:
        pass


class _Tiff:
    """TIFF of any kind, through tifffile and zarr."""

    def __init__(self, path: Path, scaled: bool = False) -> None:
        try:
            import tifffile
            import zarr
        except ImportError as error:
            raise ImportError(
                f"Reading {path.name} needs {error.name}: pip install 'heclip-lite[scale]'."
            ) from error

        self.path = path
        try:
            self.file = tifffile.TiffFile(path)
            self.ome = self.file.ome_metadata
            series = self._series()
            levels = list(series.levels)
        except Exception as error:  # a cut or damaged file raises many kinds of errors
            raise _damaged(path, error) from error
        self.axes = series.axes
        self._check(series)
        size = path.stat().st_size
        for level in levels:
            pages = [page for page in level.pages if page is not None]
            ends = (
                offset + count
                for page in pages
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
            )
            if max(ends, default=0) > size:
                raise _damaged(path, "its pixels end beyond the file")
        self.levels = [zarr.open(series.aszarr(level=i), mode="r") for i in range(len(levels))]
        y, x = (self.axes.index(axis) for axis in "YX")
        found = [(int(level.shape[x]), int(level.shape[y])) for level in levels]
        # A thumbnail among the levels may be of another shape: it is no copy of the slide.
        ratio = found[0][0] / found[0][1]
        kept = [i for i, (w, h) in enumerate(found) if abs(w / h / ratio - 1) < 0.02 or i == 0]
        self.levels, self.sizes = [self.levels[i] for i in kept], [found[i] for i in kept]
        page = series.keyframe
        self.piece = (
            page.tilewidth * page.tilelength
            if page.is_tiled
            else page.imagewidth * min(page.rowsperstrip, page.imagelength)
        )
        self.um_per_px = _said(lambda: self._scale(page), scaled)

    def _series(self) -> Any:
        """The slide in the file: as its OME metadata say; as its pages lie, where these fail."""
        import tifffile

        if self.ome is not None:
            try:
                return self.file.series[0]
            except Exception:  # whatever its XML is
                self.file.close()
                self.file = tifffile.TiffFile(self.path, is_ome=False)
        return self.file.series[0]

    def _check(self, series: Any) -> None:
        colours = [n for n, axis in zip(series.shape, self.axes, strict=True) if axis in "SC"]
        others = [n for n, axis in zip(series.shape, self.axes, strict=True) if axis not in "SCYX"]
        if (
            series.dtype != np.uint8
            or max(others, default=1) > 1
            or int(np.prod(colours)) not in (1, 3, 4)
            or not {"Y", "X"} <= set(self.axes)
            or series.keyframe.photometric.name == "PALETTE"
        ):
            raise ValueError(
                f"{self.path} holds {series.dtype} pixels of shape {series.shape} ({self.axes}, "
                f"{series.keyframe.photometric.name}), but a slide has 8 bits per channel, grey "
                "or RGB. Convert it: vips colourspace IN OUT.tif srgb, or save it from the viewer."
            )

    def _scale(self, page: Any) -> float | None:
        """Of OME metadata, Aperio's description or the resolution tags; the first that speaks."""
        return self._from_ome() or self._from_description(page.description) or self._from_tags(page)

    def _from_ome(self) -> float | None:
        if self.ome is None:
            return None
        import tifffile

        try:
            image = tifffile.xml2dict(self.ome)["OME"]["Image"]
            pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
            found = []
            for axis in "XY":
                value = pixels.get(f"PhysicalSize{axis}")
                unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
                if value is None or unit not in _UM:
                    return None
                found.append(float(value) * _UM[unit])
        except Exception as error:  # whatever its XML is
            what = f"there is no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{self.path}: its OME metadata are damaged ({what}). Give um_per_px, the "
                "micrometres per pixel of its largest level."
            ) from error
        return _square(self.path, *found)

    def _from_description(self, text: str) -> float | None:
        found = re.search(r"\bMPP\s*=\s*([0-9]*\.?[0-9]+)", text or "")
        return float(found[1]) if found else None

    def _from_tags(self, page: Any) -> float | None:
        unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit or 1))
        if unit is None or min(page.resolution) <= 0:
            return None
        found = [unit / value for value in page.resolution]
        return None if max(found) > _COARSEST_TAG else _square(self.path, *found)

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        picks = {"Y": slice(y0, y1), "X": slice(x0, x1)}
        where = tuple(picks.get(axis, slice(None) if axis in "SC" else 0) for axis in self.axes)
        try:
            found = np.asarray(self.levels[level][where])
        except Exception as error:  # decoders raise many kinds of errors
            raise _damaged(self.path, error) from error
        axes = [axis for axis in self.axes if axis in "SCYX"]
        colours = [i for i, axis in enumerate(axes) if axis in "SC"]
        order = [axes.index("Y"), axes.index("X"), *colours]
        found = found.transpose(order).reshape(y1 - y0, x1 - x0, -1)
        return np.ascontiguousarray(
            np.repeat(found, 3, 2) if found.shape[2] == 1 else found[..., :3]
        )

    def close(self) -> None:
        self.file.close()


class _Scanner:
    """The scanners' own formats, through OpenSlide."""

    piece = 2**18

    def __init__(self, path: Path, scaled: bool = False) -> None:
        try:
            import openslide
        except (ImportError, OSError) as error:
            raise ImportError(
                f"{path.name} is no TIFF that can be read directly, and OpenSlide, which may know "
                "it, is not installed: pip install 'heclip-lite[scale]'."
            ) from error
        self.path = path
        try:
            self.slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise ValueError(
                f"{path} is no slide that tifffile or OpenSlide reads ({error}). "
                "Convert it to a pyramidal TIFF, or copy it again."
            ) from error
        self.sizes = list(self.slide.level_dimensions)
        self.um_per_px = _said(self._scale, scaled)

    def _scale(self) -> float | None:
        import openslide

        names = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
        found = [self.slide.properties.get(name) for name in names]
        return None if None in found else _square(self.path, *map(float, found))

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        import openslide

        down = self.slide.level_downsamples[level]
        corner = round(x0 * down), round(y0 * down)
        try:
            found = self.slide.read_region(corner, level, (x1 - x0, y1 - y0))
        except openslide.OpenSlideError as error:
            raise _damaged(self.path, error) from error
        rgba = np.asarray(found, dtype=np.uint16)
        alpha = rgba[..., 3:]  # 0 where nothing was scanned
        return ((rgba[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)

    def close(self) -> None:
        self.slide.close()


def _said(scale: Callable[[], float | None], known: bool) -> float | None:
    """What a file says of its scale; nothing, where it is wrong and the scale is known already."""
    try:
        return scale()
    except ValueError:
        if not known:
            raise
        return None


def _square(path: Path, x: float, y: float) -> float:
    """Side of a pixel, if both sides are alike."""
    if not (x > 0 and y > 0) or abs(x / y - 1) > 0.01:
        raise ValueError(
            f"{path}: its pixels are said to be {x:.4g} x {y:.4g} micrometres, not square. "
            "Resample it to square pixels first; or give um_per_px, if that is not true."
        )
    return x


def _damaged(path: Path, error: object) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"The slide {path} is damaged or cut short ({reason}). Copy it again.")
