"""Slide images of other people: which are taken, which are refused, and why.

Eight bits of red, green and blue are taken as they are, palettes too.
A greyscale image has no stain to read, sixteen bits need a choice of what is white,
CMYK depends on a colour profile, and transparent pixels have no colour: these are refused.
An alpha channel that is opaque everywhere is dropped.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from heclip_lite.data import images
from heclip_lite.data.readers.files import InputError, existing, explained

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".btf", ".svs", ".bmp", ".webp")
_BITS_PER_SAMPLE = 258  # TIFF tag
_REFUSED = {
    "L": "is greyscale",
    "LA": "is greyscale",
    "1": "is black and white",
    "I": "is greyscale with more than 8 bits",
    "F": "is greyscale with decimals",
    "CMYK": "is in CMYK (printing colours)",
    "LAB": "is in CIELAB colours",
}


def check_image_file(path: str | os.PathLike) -> Path:
    """Path of an image that a section can use; only its header is read, unless it has an alpha.

    Raises
    ------
    MissingFile
        If it is not there.
    InputError
        If it is packed, damaged, or not 8-bit RGB.
    """
    path = existing(path, "image")
    if path.suffix.lower() == ".gz":
        raise InputError(f"The image {path} is packed. Unpack it: gunzip {path.name}.")
    if path.suffix.lower() in (".npy", ".pkl", ".zip", ".h5", ".pdf", ".mrxs", ".ndpi"):
        raise InputError(
            f"The image {path} is a {path.suffix} file. Save it as TIFF, PNG or JPEG with 8 bits "
            "per channel."
        )
    with explained(path, "image"):
        try:
            with images.open_image(path) as opened:
                _check_pixels_of(path, opened)
        except InputError:
            raise
        except ValueError as error:  # it says already what is wrong
            if isinstance(error.__cause__, PermissionError):
                raise error.__cause__ from error
            raise InputError(str(error)) from error
    return path


def _check_pixels_of(path: Path, opened) -> None:
    depth = _bits(path, opened)
    if depth > 8 or opened.mode.startswith("I;"):
        raise InputError(
            f"The image {path} has {max(depth, 16)} bits per channel. Save it with 8, "
            "scaled so that empty glass is nearly white (about 240 of 255)."
        )
    if opened.mode in _REFUSED:
        raise InputError(
            f"The image {path} {_REFUSED[opened.mode]}; the colours of the stain are needed. "
            "Save the H&E image as RGB with 8 bits per channel."
        )
    if "A" in opened.getbands() or "transparency" in opened.info:
        small = opened.convert("RGBA")
        small.thumbnail((images.PREVIEW_PX, images.PREVIEW_PX))
        if np.asarray(small)[..., 3].min() < 255:
            raise InputError(_transparent(f"The image {path}"))


def _bits(path: Path, opened) -> int:
    """Bits per channel as stored: Pillow halves 16-bit RGB without a word."""
    if opened.format == "PNG":
        with open(path, "rb") as handle:
            return handle.read(25)[24]
    if opened.format == "TIFF":
        return max(opened.tag_v2.get(_BITS_PER_SAMPLE, (8,)))
    return 8


def _transparent(what: str) -> str:
    return f"{what} has transparent pixels, which have no colour. Flatten it onto white first."


def as_rgb(pixels: object, what: str) -> np.ndarray:
    """An image array as uint8 (height, width, 3); scanpy's floats from 0 to 1 become 0 to 255.

    Raises
    ------
    InputError
        If it is greyscale, has more than 8 bits, or transparent pixels.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise InputError(
            f"{what} is an array of shape {pixels.shape}, but must be (height, width, 3): RGB."
        )
    if pixels.dtype.kind == "f" and np.isfinite(pixels).all() and 0 <= pixels.min():
        if pixels.max() <= 1:
            pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(
            f"{what} holds {pixels.dtype} values, but must hold 8 bits per channel (uint8). "
            "Scale it so that empty glass is nearly white, and convert it."
        )
    if pixels.shape[2] == 4:
        if pixels[..., 3].min() < 255:
            raise InputError(_transparent(what))
        pixels = pixels[..., :3]
    return np.ascontiguousarray(pixels)
