"""A slide without counts: an image with its scale, and points to predict on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite.data import contract, images, sections
from heclip_lite.data.readers.images import check_image_file
from heclip_lite.spatial import superres


def from_image(
    path: str | Path,
    *,
    um_per_px: float,
    points: np.ndarray | None = None,
    pitch_um: float = 100.0,
    spot_diameter_um: float = 55.0,
    name: str | None = None,
    donor: str = "unknown",
) -> AnnData:
    """Points on a slide of which only the image is known, as a section without counts.

    Parameters
    ----------
    path
        The image.
    um_per_px
        Its micrometres per pixel.
    points
        (points, 2): x, y in pixels of the image; by default a square grid over the tissue.
    pitch_um
        Distance of the grid's points. Methods compare a point with the others of its slide, so
        take the pitch of the spots that the method was trained on.
    spot_diameter_um
        How much tissue a point stands for.
    name, donor
        Of the section; the name of the file by default.

    Returns
    -------
    AnnData of shape (points, 0)
        Ready for any fitted method's ``predict``.

    Raises
    ------
    FileNotFoundError
        If there is no such image.
    ValueError
        If the image is damaged, the scale impossible, no tissue is found, or points lie outside.
    """
    path = check_image_file(path)
    name = path.stem if name is None else name
    low, high = contract.UM_PER_PX_RANGE
    if not low <= um_per_px <= high:
        raise ValueError(
            f"{um_per_px} micrometres per pixel is outside {low} to {high}: wrong scale. "
            f"Give the scale of {path}."
        )
    width, height = images.size_of(path)
    entry = _entry(path, um_per_px, spot_diameter_um)
    if points is None:
        centre = np.array([[width / 2, height / 2]])
        grid = superres.grid(_section(entry, centre, None, name, donor), pitch_um)
        points, where = grid.obsm["spatial"], grid.obs[["array_row", "array_col"]]
    else:
        points, where = np.asarray(points, dtype=np.float64), None
    section = _section(entry, points, where, name, donor)
    sections.check_section(section, counts=False)
    return section


def _entry(path: Path, um_per_px: float, spot_diameter_um: float) -> dict:
    """What stands in ``uns["spatial"]``."""
    small = images.preview_of(path)
    background = [int(v) for v in images.glass_colour(small)]
    return {
        "images": {"hires": small},
        "scalefactors": {
            "tissue_hires_scalef": small.shape[1] / images.size_of(path)[0],
            "spot_diameter_fullres": spot_diameter_um / um_per_px,
            "microns_per_pixel": float(um_per_px),
        },
        "metadata": {"background": background, "source_image_path": str(path.resolve())},
    }


def _section(
    entry: dict, points: np.ndarray, where: pd.DataFrame | None, name: str, donor: str
) -> AnnData:
    names = [f"{name}_{number}" for number in range(len(points))]
    obs = pd.DataFrame({"section": name, "donor": donor}, index=names)
    if where is not None:
        obs = pd.concat([obs, where.set_axis(obs.index)], axis=1)
    return AnnData(obs=obs, obsm={"spatial": points}, uns={"spatial": {name: entry}})
