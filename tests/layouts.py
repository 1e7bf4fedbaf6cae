"""Writing a section in each layout that the readers know, as its makers would.

`WRITERS` maps a name to a function of a section and a folder; it returns what to pass to
`readers.read_section`. Sections must have array coordinates (10x's numbering for Visium).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image, ImageDraw
from scipy import sparse
from scipy.io import mmwrite

from heclip_course.spaceranger import (
    barcodes,
    position_table,
    scale_factors,
    write_10x_h5,
    write_small,
    write_spatial,
)
from heclip_lite.data import export, sections


@dataclass(frozen=True)
class Written:
    """A section in files: what to read, which layout it has, and what it does not say itself."""

    path: Path
    layout: str
    options: dict = field(default_factory=dict)


def drawn_section(lattice: str = "hex", *, name: str = "S1", seed: int = 0) -> AnnData:
    """A section drawn in an instant: an L of tissue on a slide of 480 x 360 px of 4 um.

    No flip or turn of its spots falls on the tissue again.
    Spots of 55 um lie 100 um apart, on 10x's hexagonal array or on a square one.
    """
    rng = np.random.default_rng(seed)
    slide = Image.new("RGB", (480, 360), (243, 240, 242))
    pen = ImageDraw.Draw(slide)
    parts = [(20, 20, 180, 340), (20, 220, 330, 340)]
    for part in parts:
        pen.rectangle(part, fill=(222, 160, 200))
    for x, y in rng.uniform((0, 0), (480, 360), size=(1500, 2)):
        if any(a + 2 <= x <= c - 2 and b + 2 <= y <= d - 2 for a, b, c, d in parts):
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(96, 60, 140))
    step_x, step_y = (12.5, 12.5 * 3**0.5) if lattice == "hex" else (25.0, 25.0)
    col, row = (g.ravel() for g in np.meshgrid(np.arange(38), np.arange(18)))
    kept = (col + row) % 2 == 0 if lattice == "hex" else np.full(col.shape, True)
    x, y = 8 + col * step_x, 8 + row * step_y
    inside = [(a + 8 <= x) & (x <= c - 8) & (b + 8 <= y) & (y <= d - 8) for a, b, c, d in parts]
    kept &= inside[0] | inside[1]
    col, row, points = col[kept], row[kept], np.column_stack([x, y])[kept]
    slope = np.linspace(-1, 1, 60)[None] * (col[:, None] / 20 - 1)
    counts = rng.poisson(rng.gamma(2, 3, 60)[None] * np.exp(slope)) + 1
    return sections.make_section(
        counts,
        [f"GENE{i}" for i in range(60)],
        points,
        name=name,
        donor="D1",
        um_per_px=4.0,
        spot_diameter_um=55.0,
        image=np.asarray(slide),
        obs=pd.DataFrame({"array_row": row, "array_col": col, "in_tissue": 1}),
        background=(243, 240, 242),
    )


def ensembl(genes) -> list[str]:
    """An Ensembl id for each gene, the same one for the same name."""
    return [f"ENSG{sum(ord(c) * 131**i for i, c in enumerate(g)) % 10**11:011d}" for g in genes]


# --- Parts ----------------------------------------------------------------------------------


def write_image(section: AnnData, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(sections.read_image(section))).save(path)
    return path


def with_ids(section: AnnData) -> AnnData:
    """The section with an Ensembl id for each gene."""
    section = section.copy()
    section.var["gene_ids"] = ensembl(section.var_names)
    return section


def write_10x_mtx(section: AnnData, folder: Path, *, prefix: str = "", packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    genes = zip(ensembl(section.var_names), section.var_names, strict=True)
    texts = {
        "barcodes.tsv": "".join(f"{b}\n" for b in barcodes(section)),
        "features.tsv": "".join(f"{i}\t{g}\tGene Expression\n" for i, g in genes),
    }
    mmwrite(folder / "plain.mtx", sparse.coo_matrix(section.X.T.astype(np.int32)), field="integer")
    texts["matrix.mtx"] = (folder / "plain.mtx").read_text()
    (folder / "plain.mtx").unlink()
    for name, text in texts.items():
        data = text.encode()
        end, data = (".gz", gzip.compress(data, mtime=0)) if packed else ("", data)
        (folder / f"{prefix}{name}{end}").write_bytes(data)


# --- Layouts --------------------------------------------------------------------------------


def visium(section, folder, *, counts="h5", positions="tissue_positions.csv", image="full"):
    """A Space Ranger folder; the full-resolution image lies beside it."""
    root = folder / sections.name_of(section)
    write_spatial(
        section, root / "spatial", positions=positions, factors=scale_factors(section, 0.5, 0.2)
    )
    if counts == "h5":
        write_10x_h5(with_ids(section), root / "filtered_feature_bc_matrix.h5")
    else:
        write_10x_mtx(section, root / "filtered_feature_bc_matrix")
    options = {"donor": sections.donor_of(section)}
    if image == "full":
        options["image"] = write_image(section, folder / "image" / f"{root.name}.tif")
    elif image:
        options["image"] = image
    return Written(root, "visium", options)


def visium_hd(section, folder):
    """Square bins, as wide as the pitch of the section's spots."""
    root = folder / sections.name_of(section)
    width = round(sections.spot_pitch_um(section))
    inner = root / "binned_outputs" / f"square_{width:03d}um"
    write_10x_h5(with_ids(section), inner / "filtered_feature_bc_matrix.h5")
    write_spatial(
        section,
        inner / "spatial",
        positions="tissue_positions.parquet",
        factors=scale_factors(section, 0.5, 0.2),
    )
    um = sections.um_per_px(section)
    factors = scale_factors(section, 0.5, 0.2) | {
        "bin_size_um": float(width),
        "microns_per_pixel": um,
        "spot_diameter_fullres": width / um,
    }
    (inner / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    image = write_image(section, folder / "image" / f"{root.name}.tif")
    options = {"donor": sections.donor_of(section), "image": image, "bin_um": width}
    return Written(root, "visium-hd", options)


def spatialdata(section, folder):
    """A store as spatialdata-io writes one for Visium: nothing of this package's own."""
    made = export.to_spatialdata(section, image="full")
    name = sections.name_of(section)
    del made.tables[name].uns[export.OURS]
    path = folder / f"{name}.zarr"
    path.parent.mkdir(parents=True, exist_ok=True)
    made.write(path)
    return Written(path, "spatialdata", {"donor": sections.donor_of(section)})


def own_spatialdata(section, folder):
    path = export.write_spatialdata(section, folder / f"{sections.name_of(section)}.zarr")
    return Written(path, "spatialdata")


def squidpy_adata(section: AnnData) -> AnnData:
    """A section as squidpy reads it: small images as floats, no micrometres per pixel."""
    hires, lowres = (
        np.asarray(
            Image.fromarray(np.asarray(sections.read_image(section))).resize(
                [round(side * scale) for side in sections.image_size(section)],
                Image.Resampling.BOX,
            )
        )
        for scale in (0.5, 0.2)
    )
    obs = section.obs[["in_tissue", "array_row", "array_col"]].copy()
    obs.index = barcodes(section)
    entry = {
        "images": {"hires": hires.astype(np.float32) / 255, "lowres": lowres},
        "scalefactors": scale_factors(section, 0.5, 0.2),
        "metadata": {"software_version": "spaceranger-2.0.0"},
    }
    return AnnData(
        X=section.X.copy(),
        obs=obs,
        var=pd.DataFrame({"gene_ids": ensembl(section.var_names)}, index=section.var_names),
        obsm={"spatial": np.array(section.obsm["spatial"])},
        uns={"spatial": {sections.name_of(section): entry}},
    )


def h5ad(section, folder):
    path = folder / f"{sections.name_of(section)}.h5ad"
    path.parent.mkdir(parents=True, exist_ok=True)
    squidpy_adata(section).write_h5ad(path)
    image = write_image(section, folder / "image" / f"{sections.name_of(section)}.tif")
    return Written(path, "h5ad", {"donor": sections.donor_of(section), "image": image})


def own_h5ad(section, folder):
    return Written(export.to_h5ad(section, folder / f"{sections.name_of(section)}.h5ad"), "h5ad")


def hest(section, folder):
    name, root = sections.name_of(section), folder / "hest"
    for part in ("st", "wsis", "metadata"):
        (root / part).mkdir(parents=True, exist_ok=True)
    adata = squidpy_adata(section)
    entry = adata.uns["spatial"].pop(name)
    small = (entry["images"]["hires"] * 255).astype(np.uint8)
    adata.uns["spatial"]["ST"] = {
        "images": {"downscaled_fullres": small},
        "scalefactors": {
            "spot_diameter_fullres": 55.0 / sections.um_per_px(section),
            "tissue_downscaled_fullres_scalef": 0.5,
        },
    }
    adata.obs["pxl_col_in_fullres"], adata.obs["pxl_row_in_fullres"] = adata.obsm["spatial"].T
    adata.write_h5ad(root / "st" / f"{name}.h5ad")
    write_image(section, root / "wsis" / f"{name}.tif")
    facts = {
        "pixel_size_um_embedded": None,
        "pixel_size_um_estimated": sections.um_per_px(section),
        "spot_diameter": 55.0,
        "inter_spot_dist": 100.0,
        "st_technology": "Visium",
        "patient": sections.donor_of(section),
    }
    (root / "metadata" / f"{name}.json").write_text(json.dumps(facts))
    return Written(root, "hest", {"name": name})


def gse240429(section, folder):
    """GEO's files of one sample, unpacked from the archive, with its image unpacked too."""
    root = folder / "GSE240429"
    prefix = "GSM7697868_C73A1_"
    write_10x_mtx(section, root, prefix=prefix)
    table = position_table(section)
    text = table.to_csv(index=False, header=False)
    (root / f"{prefix}tissue_positions_list.csv.gz").write_bytes(gzip.compress(text.encode()))
    factors = json.dumps(scale_factors(section, 0.5, 0.2))
    (root / f"{prefix}scalefactors_json.json").write_text(factors)
    write_small(section, root / f"{prefix}tissue_hires_image.png", 0.5)
    write_image(section, root / "GSM7697868_GEX_C73_A1_Merged.tiff")
    options = {"name": sections.name_of(section), "donor": sections.donor_of(section)}
    return Written(root, "gse240429", options)


def bleep(section, folder):
    """The same data as BLEEP's and HECLIP's repositories lay them out."""
    root = folder / "GSE240429_data"
    matrices = root / "data" / "filtered_expression_matrices" / "1"
    write_10x_mtx(section, matrices, packed=False)
    places = root / "data" / "tissue_pos_matrices"
    places.mkdir(parents=True)
    position_table(section).to_csv(
        places / "tissue_positions_list_1.csv", index=False, header=False
    )
    write_image(section, root / "image" / "GEX_C73_A1_Merged.tiff")
    options = {"name": sections.name_of(section), "donor": sections.donor_of(section)}
    return Written(root, "gse240429", options)


def count_table(section: AnnData) -> pd.DataFrame:
    values = section.X.toarray().astype(int)
    return pd.DataFrame(values, index=barcodes(section), columns=list(section.var_names))


def tables(section, folder, *, sep=",", end="csv", newline="\n", encoding="utf-8"):
    """Counts, positions with a selection column, and an image, in a folder of their own."""
    root = folder / sections.name_of(section)
    root.mkdir(parents=True, exist_ok=True)
    points = section.obsm["spatial"]
    places = pd.DataFrame(
        {"x": points[:, 0], "y": points[:, 1], "selected": 1},
        index=pd.Index(barcodes(section), name="spot"),
    )
    for column in ("array_row", "array_col"):
        places[column] = section.obs[column].to_numpy()
    off = places.iloc[[0]].assign(selected=0).set_axis(["off_tissue"])
    for name, table in {
        "counts": count_table(section),
        "positions": pd.concat([off, places]),
    }.items():
        if name == "positions":
            table.index.name = "spot"
        text = table.to_csv(sep=sep, lineterminator=newline)
        (root / f"{name}.{end}").write_bytes(text.encode(encoding))
    write_image(section, root / "image.png")
    options = {
        "donor": sections.donor_of(section),
        "um_per_px": sections.um_per_px(section),
        "spot_diameter_um": sections.spot_diameter_um(section),
    }
    return Written(root, "tables", options)


WRITERS: dict[str, Callable[[AnnData, Path], Written]] = {
    "visium": visium,
    "visium-hd": visium_hd,
    "spatialdata": spatialdata,
    "h5ad": h5ad,
    "hest": hest,
    "gse240429": gse240429,
    "tables": tables,
}
VARIANTS: dict[str, Callable[[AnnData, Path], Written]] = {
    "visium-1-h5": lambda s, f: visium(s, f, positions="tissue_positions_list.csv"),
    "visium-1-mtx": lambda s, f: visium(s, f, counts="mtx", positions="tissue_positions_list.csv"),
    "visium-2-mtx": lambda s, f: visium(s, f, counts="mtx"),
    "visium-parquet": lambda s, f: visium(s, f, positions="tissue_positions.parquet"),
    "own-h5ad": own_h5ad,
    "own-spatialdata": own_spatialdata,
    "bleep": bleep,
    "tables-tab": lambda s, f: tables(s, f, sep="\t", end="tsv"),
    "tables-semicolon": lambda s, f: tables(s, f, sep=";", end="txt"),
    "tables-windows": lambda s, f: tables(s, f, newline="\r\n", encoding="utf-8-sig"),
}
LATTICES = {"visium-hd": "square"}  # the others are written from hexagonal sections
