"""Human brain, Visium section 151510: expression and cortical layers, to find domains in.

Only 500 genes are public in a small file, and the image is a thumbnail of 600 pixels: good for
domains in expression, no basis for any claim about images.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image
from scipy import sparse

from heclip_lite.data.download import fetch
from heclip_lite.data.sections import make_section

COUNTS = "data/dlpfc151510.rda"
COUNTS_ADDRESS = (
    "https://raw.githubusercontent.com/feiyoung/DR.SC/64d95135ab79e3e42e86e4a2e31724d17bec29d5/"
)
SLIDE_ADDRESS = (
    "https://raw.githubusercontent.com/LieberInstitute/HumanPilot/"
    "044446d6bd8fc154aa74f7be62ec67effb1ec376/"
)
SLIDE = tuple(
    f"10X/151510/{name}"
    for name in ("scalefactors_json.json", "tissue_lowres_image.png", "tissue_positions_list.txt")
)
_PITCH_UM = 100.0  # Visium: neighbouring spots of a row are two array columns apart


def read_dlpfc() -> AnnData:
    """Section 151510 of the human dorsolateral prefrontal cortex, with its layers.

    4,634 Visium spots and 500 genes (Ensembl ids); ``obs["domain"]`` holds the layers L1 to L6
    and WM (white matter) that the authors drew, missing for 39 spots.
    Counts come from the R package DR.SC (GPL-3), slide and positions from HumanPilot
    (Artistic-2.0); cite Maynard et al., Nature Neuroscience 24, 425 (2021),
    doi:10.1038/s41593-020-00787-0.

    Raises
    ------
    ValueError
        If a file is damaged.
    FileNotFoundError
        If a file is not there and cannot be fetched. Nothing else is read in its place.
    """
    import rdata

    registry = json.loads(Path(__file__).with_name("dlpfc_registry.json").read_text())
    (counts_path,) = fetch("DR.SC", [COUNTS], address=COUNTS_ADDRESS, registry=registry)
    scale_path, image_path, spots_path = fetch(
        "HumanPilot", SLIDE, address=SLIDE_ADDRESS, registry=registry
    )
    kept = next(iter(rdata.read_rda(counts_path).values()))
    matrix = kept.assays["RNA"].counts  # genes x spots, by column
    genes, barcodes = matrix.Dimnames
    counts = sparse.csc_matrix((matrix.x, matrix.i, matrix.p), shape=tuple(matrix.Dim)).T.tocsr()
    layers = pd.Series(getattr(kept, "meta.data")["annotation"]).astype(str)

    columns = ["barcode", "in_tissue", "array_row", "array_col", "y", "x"]
    spots = pd.read_csv(spots_path, names=columns, index_col="barcode").loc[barcodes]
    scale = json.loads(Path(scale_path).read_text(encoding="utf-8"))["tissue_lowres_scalef"]
    points = spots[["x", "y"]].to_numpy(dtype=np.float64) * scale
    row = spots["array_row"].to_numpy() == spots["array_row"].iloc[0]
    across, along = points[row, 0], spots["array_col"].to_numpy()[row]
    steps = np.abs(np.polyfit(along, across, 1)[0]) * 2  # pixels from spot to spot
    known = layers.where(layers.isin([*(f"Layer{n}" for n in range(1, 7)), "WM"]))
    obs = spots[["array_row", "array_col", "in_tissue"]].assign(
        domain=known.str.replace("Layer", "L").astype("category").to_numpy()
    )
    with Image.open(image_path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    return make_section(
        counts,
        list(genes),
        points,
        name="151510",
        donor="Br5292",
        um_per_px=_PITCH_UM / steps,
        spot_diameter_um=55.0,
        image=pixels,
        spot_names=list(barcodes),
        obs=obs,
    )
