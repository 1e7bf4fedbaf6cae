"""Sections as SpatialData, for napari, Vitessce and everything else that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from heclip_lite import sections

if TYPE_CHECKING:
    from spatialdata import SpatialData


def to_spatialdata(section: AnnData, *, image: str = "hires") -> SpatialData:
    """A section as a SpatialData object: its image, its points as circles, and its table.

    Predicted and dense sections go the same way as measured ones.

    Parameters
    ----------
    section
        Any section, with or without counts.
    image
        ``"hires"``: the small image that plots use; ``"full"``: all pixels.

    Returns
    -------
    SpatialData
        Elements ``<name>_image``, ``<name>_points`` and the table ``<name>``; all in the coordinate
        system ``"global"``, pixels of the full-resolution image.

    Raises
    ------
    ValueError
        If `image` is neither of the two.
    """
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    if image not in ("hires", "full"):
        raise ValueError(f"image is {image!r}; use 'hires' or 'full'.")
    name = sections.name_of(section)
    pixels, scale = (
        (sections.read_image(section), 1.0) if image == "full" else sections.preview(section)
    )
    to_full = Scale([1 / scale, 1 / scale], axes=("x", "y")) if scale != 1 else Identity()
    picture = Image2DModel.parse(
        np.asarray(pixels).transpose(2, 0, 1),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={"global": to_full},
    )
    radius = section.uns["spatial"][name]["scalefactors"]["spot_diameter_fullres"] / 2
    points = ShapesModel.parse(
        np.asarray(section.obsm["spatial"], dtype=np.float64),
        geometry=0,  # circles
        radius=radius,
        index=section.obs_names.to_numpy(),
        transformations={"global": Identity()},
    )
    table = AnnData(
        X=section.X,
        obs=section.obs.copy(),
        var=section.var.copy(),
        obsm={key: np.asarray(value) for key, value in section.obsm.items()},
        layers=dict(section.layers),
    )
    region = f"{name}_points"
    table.obs["region"] = region
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["point"] = section.obs_names.to_numpy()
    table = TableModel.parse(table, region=region, region_key="region", instance_key="point")
    return SpatialData(
        images={f"{name}_image": picture}, shapes={region: points}, tables={name: table}
    )
