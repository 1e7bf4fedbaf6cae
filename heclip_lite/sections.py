"""Sections: one slide with its spots, its counts and its image, as an AnnData.

A section holds raw counts in ``X`` and spot centres in ``obsm["spatial"]``,
in pixels of the full-resolution image with x to the right and y down.
Its image and its scale live in ``uns["spatial"]``, where squidpy and scanpy look for them.
`make_section` builds one, `check_section` says what is wrong with one,
and every reader ends in that check.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite import images
from heclip_lite.contract import (
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
from heclip_lite.download import fetch
from heclip_lite.images import Box, Colour

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
    "read_her2st",
    "read_image",
    "section_key",
    "spot_diameter_um",
    "spot_pitch_um",
    "spots_of",
    "um_per_px",
]

HER2ST_ADDRESS = (
    "https://raw.githubusercontent.com/almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec/"
)
# Image, micrometres per pixel, colour of empty slide (median along the image's edge).
# A1 and A2 are published only as small copies, cut out on black.
# The scale comes from the image's frame, which is 32 pitches of 200 um wide.
# Fitting the array to the spots gives 0.686 to 0.689 and 3.18 to 3.20 instead:
# within 0.7 %, one pixel in a patch of 150, and scattered between slides of one scanner.
# One value per scanner keeps patches of serial sections comparable.
HER2ST = {
    "A1": ("app/www/imgs/A1_HE_image_dark.png", 3.19, (0, 0, 0)),
    "A2": ("app/www/imgs/A2_HE_image_dark.png", 3.19, (0, 0, 0)),
    "B4": ("data/ST-imgs/B/B4/BT10737_D2_HE.jpg", 0.69, (219, 208, 224)),
    "C2": ("data/ST-imgs/C/C2/5714_HE_BT_C2.jpg", 0.69, (241, 239, 238)),
    "C3": ("data/ST-imgs/C/C3/5714_HE_BT_D1.jpg", 0.69, (234, 219, 233)),
    "C4": ("data/ST-imgs/C/C4/5714_HE_BT_D2.jpg", 0.69, (229, 213, 227)),
    "C5": ("data/ST-imgs/C/C5/5714_HE_BT_E1.jpg", 0.69, (233, 217, 230)),
    "C6": ("data/ST-imgs/C/C6/5714_HE_BT_E2.jpg", 0.69, (245, 241, 239)),
}
_A1_LABELS = "data/ST-pat/lbl/A1_labeled_coordinates.tsv"
_A2_WARP = "res/ST-cluster/lbl/A2-cluster-annotation.tsv.gz"
# Where A1's small copy shows an annotated thumbnail; A2's copy was made in the same frame.
_THUMBNAIL = (1495, 0, 2000, 535)
# Width and height of the image that the spot positions were measured in -> of the small copy.
_A_FRAMES = {"A1": ((6954, 7435), (2000, 2138)), "A2": ((6966, 7441), (2000, 2136))}

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


def read_her2st(names: Sequence[str] | None = None) -> list[AnnData]:
    """Sections of HER2-positive breast tumours with their H&E slides (her2st).

    Legacy Spatial Transcriptomics: spots of 100 micrometres at a pitch of 200.
    Three donors: A (A1, A2), B (B4) and C (C2 to C6, serial sections).
    A1 carries a pathologist's labels in ``obs["domain"]``; "undetermined" is left missing.
    Files are fetched once from the authors' repository; cite
    Andersson et al., Nature Communications 12, 6012 (2021), doi:10.1038/s41467-021-26271-2.

    Parameters
    ----------
    names
        Sections to read, in this order; all eight where none are named.

    Raises
    ------
    ValueError
        If a name is unknown, or a file is damaged.
    FileNotFoundError
        If a file is not there and cannot be fetched. Nothing else is read in its place.
    """
    names = list(HER2ST) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in HER2ST]
    if unknown or not names:
        raise ValueError(
            f"her2st has no section {unknown[0] if unknown else '(empty list)'!r}. "
            f"Its sections are {', '.join(HER2ST)}."
        )
    check_unique(pd.Index(names), "read_her2st", "section", "Name each section once.")
    files = {name: _her2st_files(name) for name in names}
    wanted = list(dict.fromkeys(path for paths in files.values() for path in paths.values()))
    local = fetch("her2st", wanted, address=HER2ST_ADDRESS, registry=_her2st_registry())
    found = dict(zip(wanted, local, strict=True))
    return [
        _read_her2st(name, {part: found[path] for part, path in files[name].items()})
        for name in names
    ]


@lru_cache(maxsize=1)
def _her2st_registry() -> dict[str, str]:
    return json.loads(Path(__file__).with_name("her2st_registry.json").read_text())


def _her2st_files(name: str) -> dict[str, str]:
    files = {
        "counts": f"data/ST-cnts/{name}.tsv.gz",
        "spots": f"data/ST-spotfiles/{name}_selection.tsv",
        "image": HER2ST[name][0],
    }
    return files | {"A1": {"labels": _A1_LABELS}, "A2": {"warp": _A2_WARP}}.get(name, {})


def _read_her2st(name: str, files: dict[str, Path]) -> AnnData:
    counts = pd.read_csv(files["counts"], sep="\t", index_col=0, engine="c")
    spots = pd.read_csv(files["spots"], sep="\t")
    spots.index = _array_names(spots)
    spots = spots.loc[counts.index.intersection(spots.index)]  # spot files list a few more
    counts = counts.loc[spots.index]

    points = spots[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)
    if name == "A2":
        points = _warp_a2(points, files["warp"])
    if name in _A_FRAMES:
        measured, shown = np.array(_A_FRAMES[name], dtype=np.float64)
        points = points * shown / measured

    obs = pd.DataFrame({"array_row": spots["y"], "array_col": spots["x"]})
    if name == "A1":
        labels = pd.read_csv(files["labels"], sep="\t")
        labels.index = _array_names(labels)  # rounded; its pixel columns belong to another frame
        known = labels["label"].where(labels["label"] != "undetermined")
        obs["domain"] = known.reindex(obs.index).astype("category")
    _, um_per_px, background = HER2ST[name]
    return make_section(
        counts.to_numpy(),
        counts.columns,
        points,
        name=name,
        donor=name[0],
        um_per_px=um_per_px,
        spot_diameter_um=100.0,
        image_path=files["image"],
        spot_names=[f"{name}_{spot}" for spot in counts.index],
        obs=obs,
        masked_regions=[_THUMBNAIL] if name in _A_FRAMES else [],
        background=background,
    )


def _array_names(table: pd.DataFrame) -> pd.Index:
    """``XxY``, the name of a spot in the count tables."""
    whole = table[["x", "y"]].round().astype(int).astype(str)
    return pd.Index(whole["x"] + "x" + whole["y"])


def _warp_a2(points: np.ndarray, path: Path) -> np.ndarray:
    """Positions in A2's own frame, moved into that of A1, in which its image is published.

    The authors give the moved position of 323 of the 325 spots.
    They follow one rotation with a shift to 0.01 px, so it is fitted and applied to all.
    """
    table = pd.read_csv(path, sep="\t", index_col=0)
    given = np.column_stack([table[["pixel_x", "pixel_y"]], np.ones(len(table))])
    moved = np.linalg.lstsq(given, table[["warped_x", "warped_y"]].to_numpy(), rcond=None)[0]
    return np.column_stack([points, np.ones(len(points))]) @ moved
