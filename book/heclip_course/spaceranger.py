"""Write a section as Space Ranger would: the folder that Visium's own software leaves behind.

It serves whoever has to hand a section to a tool that reads nothing else.
`readers.read_section` reads it back.
The folder does not say how far apart spots lie: if they lie on another lattice than Visium's, the
reader must be told ``spot_pitch_um`` and ``spot_diameter_um``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image
from scipy import sparse

from heclip_lite import store
from heclip_lite.data import sections
from heclip_lite.data.readers import gene_ids

POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")
IMAGE = "image.tif"  # the full-resolution image, which Space Ranger is given and does not copy
HIRES_PX, LOWRES_PX = 2000, 600  # longer side of the small copies
_SPOT_SHARE, _FIDUCIAL_SHARE = 65 / 55, 105 / 55  # what Space Ranger calls a spot is a bit wider


def to_spaceranger(
    section: AnnData,
    folder: str | os.PathLike,
    *,
    positions: str = POSITIONS[0],
    image: bool = True,
) -> Path:
    """Write counts, positions, scale factors and images of a section: complete, or not at all.

    Parameters
    ----------
    section
        A section with counts, and array coordinates ``obs["array_row"]``, ``obs["array_col"]``.
    folder
        A folder that does not exist yet; its name becomes that of the section when it is read.
    positions
        Name of the file of positions: version 2 of Space Ranger writes ``tissue_positions.csv``
        with a header, version 1 ``tissue_positions_list.csv`` without.
    image
        Write the full-resolution image too, as ``image.tif`` in the folder.

    Returns
    -------
    Path
        Of the folder.

    Raises
    ------
    ValueError
        If the section breaks the contract or lacks array coordinates, or `positions` is unknown.
    FileExistsError
        If something is there already. It is left alone.
    """
    folder = Path(folder)
    if positions not in POSITIONS:
        raise ValueError(f"positions is {positions!r}; choose one of {', '.join(POSITIONS)}.")
    if folder.exists():
        raise FileExistsError(f"{folder} is there already. Delete it, or choose another name.")
    sections.check_section(section)
    lacking = [name for name in ("array_row", "array_col") if name not in section.obs]
    if lacking:
        raise ValueError(
            f"Section {sections.name_of(section)!r} has no obs[{lacking[0]!r}], without which "
            "Space Ranger's positions are not complete. Add the spots' places on the array."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        with store.told_of(folder, temporary):
            write_10x_h5(section, temporary / "filtered_feature_bc_matrix.h5")
            write_spatial(section, temporary / "spatial", positions=positions)
            if image:
                Image.fromarray(np.asarray(sections.read_image(section))).save(temporary / IMAGE)
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def barcodes(section: AnnData) -> list[str]:
    """Sixteen letters and ``-1`` per spot, as 10x writes; the same for the same number of spots."""
    letters = np.array(list("ACGT"))
    return ["".join(letters[(i // 4 ** np.arange(16)) % 4]) + "-1" for i in range(section.n_obs)]


def write_10x_h5(section: AnnData, path: str | os.PathLike) -> None:
    """Counts as 10x's HDF5; ids of genes are those in ``var["gene_ids"]``, else their names."""
    matrix = sparse.csr_matrix(section.X)  # spots x genes by row = genes x spots by column
    known = section.var[gene_ids.IDS] if gene_ids.IDS in section.var else section.var_names
    with store.atomic_hdf5(path) as file:
        group = file.create_group("matrix")
        group["barcodes"] = _text(barcodes(section))
        group["data"] = matrix.data.astype(np.int32)
        group["indices"] = matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        group["shape"] = np.array(matrix.shape[::-1], dtype=np.int32)
        features = group.create_group("features")
        features["name"] = _text(section.var_names)
        features["id"] = _text(known)
        features["feature_type"] = _text(["Gene Expression"] * section.n_vars)
        features["genome"] = _text(["GRCh38"] * section.n_vars)


def _text(words: Iterable[str]) -> np.ndarray:
    """As 10x stores words: UTF-8, all of the same length."""
    return np.array([word.encode() for word in words], dtype="S")


def position_table(section: AnnData) -> pd.DataFrame:
    """Space Ranger's columns: the section's spots, and one off the tissue, as it lists these too.

    Returns
    -------
    DataFrame
        One row per spot and one more, the first; columns ``barcode``, ``in_tissue``,
        ``array_row``, ``array_col``, ``pxl_row_in_fullres`` (y) and ``pxl_col_in_fullres`` (x).
    """
    points = section.obsm["spatial"]
    table = pd.DataFrame(
        {
            "barcode": barcodes(section),
            "in_tissue": 1,
            "array_row": section.obs["array_row"].to_numpy(),
            "array_col": section.obs["array_col"].to_numpy(),
            "pxl_row_in_fullres": points[:, 1],
            "pxl_col_in_fullres": points[:, 0],
        }
    )
    off = table.iloc[[0]].assign(barcode="T" * 16 + "-1", in_tissue=0)
    return pd.concat([off, table], ignore_index=True)


def scale_factors(
    section: AnnData, hires: float | None = None, lowres: float | None = None
) -> dict[str, float]:
    """As Space Ranger gives them: for a spot of 55 micrometres its diameter means 65.

    Parameters
    ----------
    section
        A section.
    hires, lowres
        Pixels of the two small images per pixel of the full-resolution image; by default so that
        their longer sides have 2000 and 600 pixels, or those of the image itself if it is smaller.
    """
    longer = max(sections.image_size(section))
    hires = min(1.0, HIRES_PX / longer) if hires is None else hires
    lowres = min(1.0, LOWRES_PX / longer) if lowres is None else lowres
    diameter = sections.spot_diameter_um(section) / sections.um_per_px(section)
    return {
        "tissue_hires_scalef": hires,
        "tissue_lowres_scalef": lowres,
        "spot_diameter_fullres": _SPOT_SHARE * diameter,
        "fiducial_diameter_fullres": _FIDUCIAL_SHARE * diameter,
    }


def write_small(section: AnnData, path: str | os.PathLike, scale: float) -> None:
    """Write a shrunken copy of the image; `scale` is its pixels per pixel of the full image."""
    path = Path(path)
    pixels = Image.fromarray(np.asarray(sections.read_image(section)))
    size = [max(round(side * scale), 1) for side in pixels.size]
    with store.atomic_path(path) as temporary:
        pixels.resize(size, Image.Resampling.BOX).save(temporary)


def write_spatial(
    section: AnnData,
    folder: str | os.PathLike,
    *,
    positions: str = POSITIONS[0],
    factors: dict | None = None,
) -> None:
    """Write the folder ``spatial``: small images, scale factors and positions.

    Parameters
    ----------
    section
        A section with array coordinates.
    folder
        Is made, if it is not there.
    positions
        See `to_spaceranger`.
    factors
        Scale factors in place of `scale_factors`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    factors = scale_factors(section) if factors is None else factors
    write_small(section, folder / "tissue_hires_image.png", factors["tissue_hires_scalef"])
    write_small(section, folder / "tissue_lowres_image.png", factors["tissue_lowres_scalef"])
    store.write_json(folder / "scalefactors_json.json", factors)
    table = position_table(section)
    with store.atomic_path(folder / positions) as temporary:
        if positions.endswith(".parquet"):
            table.to_parquet(temporary)
        else:
            table.to_csv(temporary, index=False, header="list" not in positions)
