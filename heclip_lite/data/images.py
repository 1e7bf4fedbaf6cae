"""Slide images: opened without surprises, decoded once, shrunk to a preview.

A whole slide easily holds ninety million pixels.
Pillow warns about such files by default, because a small file can hide a huge image;
here the reader chose the file, so the limit is lifted while the file is open, and only then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from heclip_lite.data.download import MissingFile
from heclip_lite.store import file_hash

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the full-resolution image

PREVIEW_PX = 2000  # long side of a preview
_STRIP_ROWS = 256  # Pillow hands over strips five times faster than a whole slide
_READABLE_MODES = {"RGB", "RGBA", "RGBX", "L", "LA", "P", "CMYK", "YCbCr", "1"}
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


@contextmanager
def open_image(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Open an image of any size; say which file is missing, empty, cut short or unreadable."""
    path = _existing(path)
    if path.stat().st_size == 0:
        raise ValueError(f"The image file {path} is empty (0 bytes). Fetch or copy it again.")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            _check_complete(path, image)
            yield image
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image that Pillow can read. "
            "Save it as JPEG, PNG or TIFF with 8 bits per channel, or copy it again."
        ) from error
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"The image file {path} is damaged or cut short ({error}). Fetch or copy it again."
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _existing(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not path.is_file():
        raise MissingFile(
            f"The image file {path} does not exist. "
            "Put it there, or rebuild the section with make_section(image_path=...)."
        )
    return path


def _check_complete(path: Path, image: Image.Image) -> None:
    """Cheap checks that need no decoding: a known pixel format, and the format's end mark."""
    if image.mode not in _READABLE_MODES:
        raise ValueError(
            f"The image file {path} stores pixels as {image.mode!r}. "
            "Save it as RGB with 8 bits per channel."
        )
    mark = _END_MARKS.get(image.format or "")
    if mark is None:
        return
    with open(path, "rb") as handle:
        handle.seek(-min(path.stat().st_size, 1 << 16), os.SEEK_END)
        if mark not in handle.read():
            raise ValueError(
                f"The image file {path} is cut short: its end is missing. Fetch or copy it again."
            )


def size_of(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height in pixels, from the header only."""
    with open_image(path) as image:
        return image.size


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of an image file; remembered while the file does not change."""
    return file_hash(_existing(path))


def decode(path: str | os.PathLike, masks: Iterable[Box] = (), colour: Colour = (0, 0, 0)):
    """Full-resolution RGB, uint8 (height, width, 3), read-only; the last two are remembered.

    Orientation tags are ignored on purpose: spot coordinates count stored pixels.
    """
    return _decode(str(path), digest(path), tuple(map(tuple, masks)), tuple(colour))


@lru_cache(maxsize=2)
def _decode(path: str, content: str, masks: tuple[Box, ...], colour: Colour) -> np.ndarray:
    with open_image(path) as image:
        pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
        for top in range(0, image.height, _STRIP_ROWS):
            bottom = min(top + _STRIP_ROWS, image.height)
            strip = image.crop((0, top, image.width, bottom))
            pixels[top:bottom] = np.asarray(strip.convert("RGB"))
    paint(pixels, masks, colour)
    pixels.setflags(write=False)  # shared by everyone who asks for this image
    return pixels


def preview_of(image: np.ndarray | str | os.PathLike) -> np.ndarray:
    """RGB preview, uint8, at most 2000 px on its long side; a JPEG is decoded at reduced size."""
    if isinstance(image, np.ndarray):
        if max(image.shape[:2]) <= PREVIEW_PX:
            return image
        small = Image.fromarray(image)
        small.thumbnail((PREVIEW_PX, PREVIEW_PX), reducing_gap=2.0)
        return np.asarray(small)
    with open_image(image) as opened:
        opened.thumbnail((PREVIEW_PX, PREVIEW_PX), reducing_gap=1.0)
        return np.array(opened.convert("RGB"))


def paint(pixels: np.ndarray, boxes: Iterable[Box], colour: Colour, scale: float = 1.0) -> None:
    """Paint boxes over, in place; `scale` turns full-resolution pixels into those of `pixels`."""
    for box in boxes:
        x0, y0 = (int(np.floor(v * scale)) for v in box[:2])
        x1, y1 = (int(np.ceil(v * scale)) for v in box[2:])
        pixels[max(y0, 0) : y1, max(x0, 0) : x1] = colour


def rim_colour(pixels: np.ndarray, width: int = 5) -> np.ndarray:
    """Median colour along the image's edge: (3,); on most slides, the colour of empty glass."""
    rim = [pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:]]
    return np.median(np.concatenate([side.reshape(-1, 3) for side in rim]), axis=0)


def glass_colour(preview: np.ndarray) -> Colour:
    """Colour of empty slide: that of the image's edge where it looks like glass, else white."""
    rim = rim_colour(preview)
    if rim.min() >= 180 or rim.max() <= 30:
        r, g, b = (int(v) for v in rim)
        return r, g, b
    return 255, 255, 255
