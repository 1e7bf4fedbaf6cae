"""Sections: one slide with its spots, its counts and its image, as an AnnData.

A section holds raw counts in ``X`` and spot centres in ``obsm["spatial"]``,
in pixels of the full-resolution image with x to the right and y down.
Its image and its scale live in ``uns["spatial"]``, where squidpy and scanpy look for them.
`make_section` builds one, `check_section` says what is wrong with one,
and every reader ends in that check.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite.data import images
from heclip_lite.data.contract import (
    background_of,
    check_pixels,
    check_section,
    check_sections,
    check_unique,
    common_genes,
    donor_of,
    image_key,
    image_size,
    name_of,
    note_spots,
    preview,
    read_image,
    section_key,
    spot_diameter_um,
    spot_pitch_um,
    spots_of,
    um_per_px,
)
from heclip_lite.data.images import Box, Colour

__all__ = [
    "Colour",
    "background_of",
    "check_section",
    "check_sections",
    "common_genes",
    "donor_of",
    "hide_expression",
    "image_key",
    "image_size",
    "make_section",
    "name_of",
    "note_spots",
    "piece",
    "preview",
    "read_image",
    "section_key",
    "spot_diameter_um",
    "spot_pitch_um",
    "spots_of",
    "um_per_px",
]

_KEPT_OBS = ["section", "donor", "array_row", "array_col"]
_KEPT_UNS = {
    "images": ["hires", "fullres"],
    "scalefactors": [
        "tissue_hires_scalef",
        "tissue_fullres_scalef",
        "spot_diameter_fullres",
        "microns_per_pixel",
    ],
    "metadata": ["source_image_path", "masked_regions", "background", "frame", "spots"],
}


def make_section(
    counts: np.ndarray | sparse.spmatrix | pd.DataFrame,
    genes: Sequence[str],
    spatial: np.ndarray,
    *,
    name: str,
    donor: str,
    um_per_px: float,
    spot_diameter_um: float,
    image: np.ndarray | None = None,
    image_path: str | Path | None = None,
    spot_names: Sequence[str] | None = None,
    obs: pd.DataFrame | None = None,
    masked_regions: Sequence[Box] = (),
    background: Colour = (255, 255, 255),
) -> AnnData:
    """Build a section and check it.

    Parameters
    ----------
    counts
        Raw counts (spots, genes): dense, sparse or a table.
    genes
        Gene symbols, each once, in the order of the columns of `counts`.
    spatial
        Spot centres (spots, 2): x, y in pixels of the full-resolution image, y down.
    name, donor
        Name of the section and of the person it comes from.
    um_per_px
        Micrometres per pixel of the full-resolution image.
    spot_diameter_um
        Diameter of a spot in micrometres: 55 for Visium, 100 for her2st.
    image, image_path
        The full-resolution image: an array uint8 (height, width, 3), or a file. Give one of them.
    spot_names
        Unique names; ``<name>_0``, ``<name>_1``, ... where none are given.
    obs
        Further columns, one row per spot in the order of `counts`:
        ``array_row``, ``array_col``, ``domain``, ``in_tissue`` or your own.
    masked_regions
        Boxes (x0, y0, x1, y1) of the full image, to be painted over with `background`.
    background
        Colour (r, g, b) of empty slide; patches are filled with it beyond the image's edge.

    Returns
    -------
    AnnData that fulfils the section contract.

    Raises
    ------
    ValueError
        If the parts do not fit together, or `check_section` finds a fault.
    FileNotFoundError
        If `image_path` does not exist.
    """
    place = f"Section {name!r}"
    if len(counts.shape) != 2:
        raise ValueError(f"{place}: counts has shape {counts.shape}; give spots x genes.")
    if spot_names is None:
        spot_names = [f"{name}_{i}" for i in range(counts.shape[0])]
    _check_fit(place, counts, genes, spatial, spot_names, obs)
    if (image is None) == (image_path is None):
        raise ValueError(f"{place}: give either image (an array) or image_path (a file).")

    table = pd.DataFrame({"section": str(name), "donor": str(donor)}, index=list(spot_names))
    if obs is not None:
        further = obs.drop(columns=["section", "donor"], errors="ignore")
        table = pd.concat([table, further.set_axis(table.index, axis=0)], axis=1)

    masks = [[int(v) for v in box] for box in masked_regions]
    metadata: dict = {"background": [int(v) for v in background]}
    if masks:
        metadata["masked_regions"] = masks
    if image is not None:
        check_pixels(image, place, "image")
        width, pictures = image.shape[1], {"fullres": image}
    else:
        width, pictures = images.size_of(image_path)[0], {}
        metadata["source_image_path"] = str(Path(image_path).resolve())
    small = images.preview_of(image if image is not None else image_path)
    scale = small.shape[1] / width
    if masks:
        small = small.copy()
        images.paint(small, masks, background, scale)

    factors = {
        "tissue_hires_scalef": scale,
        "spot_diameter_fullres": spot_diameter_um / um_per_px if um_per_px > 0 else float("nan"),
        "microns_per_pixel": float(um_per_px),
    }
    if image is not None:
        factors["tissue_fullres_scalef"] = 1.0
    entry = {
        "images": pictures | {"hires": small},
        "scalefactors": factors,
        "metadata": metadata,
    }
    adata = AnnData(
        X=_numbers(sparse.csr_matrix, counts, np.float32, f"{place}: counts"),
        obs=table,
        var=pd.DataFrame(index=list(genes)),
        obsm={"spatial": _numbers(np.asarray, spatial, np.float64, f"{place}: spatial")},
        uns={"spatial": {str(name): entry}},
    )
    check_section(adata)
    return adata


def _numbers(kind, values, dtype, what: str):
    try:
        return kind(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be numbers ({error}). Correct the table.") from error


def _check_fit(place, counts, genes, spatial, spot_names, obs) -> None:
    n_spots, n_genes = counts.shape
    lengths = {"spatial": len(spatial), "spot_names": len(spot_names)}
    if obs is not None:
        lengths["obs"] = len(obs)
    for what, length in lengths.items():
        if length != n_spots:
            raise ValueError(
                f"{place}: counts has {n_spots} rows (spots) but {what} has {length}. "
                "Give one row per spot, in the same order."
            )
    if len(genes) != n_genes:
        raise ValueError(
            f"{place}: counts has {n_genes} columns but genes has {len(genes)} names. "
            "Counts are spots x genes: transpose them if they are the other way round."
        )
    check_unique(pd.Index(spot_names), place, "spot", "Give each spot a name of its own.")
    check_unique(pd.Index(genes), place, "gene", "Add up their columns, or rename them.")


def hide_expression(adata: AnnData) -> AnnData:
    """Copy what a method may see of a held-out section: image and places, no expression.

    Returns
    -------
    AnnData of shape (spots, 0) with spot positions, array coordinates, section and donor,
    and the image with its scale. Counts, layers, labels and everything else stay behind.
    """
    entry = adata.uns["spatial"][name_of(adata)]
    shown = {
        part: {key: entry[part][key] for key in keys if key in entry.get(part, {})}
        for part, keys in _KEPT_UNS.items()
    }
    return AnnData(
        obs=adata.obs[[column for column in _KEPT_OBS if column in adata.obs]].copy(),
        obsm={"spatial": np.array(adata.obsm["spatial"])},
        uns={"spatial": {name_of(adata): shown}},
    )


def piece(section: AnnData, spots: np.ndarray, hidden: Sequence[Box], *, name: str) -> AnnData:
    """Part of a section: some of its spots, with parts of its slide painted over.

    Parameters
    ----------
    section
        The whole section.
    spots
        Mask (spots,) of the spots to keep.
    hidden
        Boxes (x0, y0, x1, y1) of the full image that the piece must not show.
    name
        Of the piece; its donor stays the same.
    """
    part = section[spots].copy()
    entry = section.uns["spatial"][name_of(section)]
    metadata = dict(entry.get("metadata", {}))
    known = np.asarray(metadata.get("masked_regions", ()), dtype=int).reshape(-1, 4).tolist()
    metadata["masked_regions"] = known + [[int(v) for v in box] for box in hidden]
    small, scale = preview(section)
    small = small.copy()
    images.paint(small, hidden, background_of(section), scale)
    pictures = {**entry["images"], "hires": small}
    part.uns = {key: value for key, value in section.uns.items() if key != "spatial"}
    part.uns["spatial"] = {str(name): {**entry, "images": pictures, "metadata": metadata}}
    part.obs["section"] = str(name)
    check_section(part)
    return part
