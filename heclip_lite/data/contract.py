"""The section contract: how to ask a section for its parts, and what must hold for them.

Everything here reads a section and changes nothing.
Users import these names from `heclip_lite.data`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.spatial import cKDTree

from heclip_lite.data import images
from heclip_lite.store import content_key

UM_PER_PX_RANGE = (0.05, 50.0)  # finer than any slide scanner, coarser than any thumbnail
GLASS_SLIDE_UM = 100_000  # a glass slide is 76 mm long


# --- Asking a section for its parts ---------------------------------------------------------


def name_of(adata: AnnData) -> str:
    """Name of the section."""
    return str(adata.obs["section"].iloc[0])


def donor_of(adata: AnnData) -> str:
    """Name of the donor."""
    return str(adata.obs["donor"].iloc[0])


def um_per_px(adata: AnnData) -> float:
    """Micrometres per pixel of the full-resolution image."""
    return float(_entry(adata)["scalefactors"]["microns_per_pixel"])


def spot_diameter_um(adata: AnnData) -> float:
    """Diameter of a spot in micrometres."""
    return float(_entry(adata)["scalefactors"]["spot_diameter_fullres"]) * um_per_px(adata)


def spot_pitch_um(adata: AnnData) -> float:
    """Median distance from a spot to its nearest neighbour, in micrometres; NaN for one spot."""
    points = np.asarray(adata.obsm["spatial"])
    if len(points) < 2:
        return float("nan")
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    return float(np.median(nearest)) * um_per_px(adata)


def spots_of(adata: AnnData) -> AnnData:
    """The spots that dense points were laid between, (spots, 0); any other section is its own."""
    entry = _entry(adata)
    kept = entry.get("metadata", {}).get("spots")
    if kept is None:
        return adata
    names = [f"{name_of(adata)}_{number}" for number in range(len(kept["spatial"]))]
    obs = pd.DataFrame({"section": name_of(adata), "donor": donor_of(adata)}, index=names)
    for column, values in kept.items():
        if column != "spatial":
            obs[column] = np.asarray(values)
    metadata = {key: value for key, value in entry["metadata"].items() if key != "spots"}
    return AnnData(
        obs=obs,
        obsm={"spatial": np.asarray(kept["spatial"])},
        uns={"spatial": {name_of(adata): {**entry, "metadata": metadata}}},
    )


def note_spots(adata: AnnData, spots: AnnData) -> None:
    """Note in a section that its points lie among these spots of the slide; changes it.

    Their places and array coordinates are kept, their counts are not.
    """
    entry = _entry(adata)
    kept = {"spatial": np.array(spots.obsm["spatial"], dtype=np.float64)}
    for column in ("array_row", "array_col"):
        if column in spots.obs:
            kept[column] = spots.obs[column].to_numpy()
    adata.uns["spatial"] = {
        name_of(adata): {**entry, "metadata": {**entry.get("metadata", {}), "spots": kept}}
    }


def background_of(adata: AnnData) -> images.Colour:
    """Colour (r, g, b) of empty slide."""
    r, g, b = (int(v) for v in _entry(adata)["metadata"].get("background", (255, 255, 255)))
    return r, g, b


def preview(adata: AnnData) -> tuple[np.ndarray, float]:
    """Return the preview, uint8 (h, w, 3), and its pixels per pixel of the full image."""
    entry = _entry(adata)
    return entry["images"]["hires"], float(entry["scalefactors"]["tissue_hires_scalef"])


def image_size(adata: AnnData) -> tuple[int, int]:
    """Width and height of the full-resolution image, without decoding it.

    A section of a whole slide, or of predicted points, has noted them: it needs no file.
    """
    entry = _entry(adata)
    if "fullres" in entry["images"]:
        height, width = entry["images"]["fullres"].shape[:2]
        return width, height
    if "image_size" in entry["metadata"]:
        width, height = (int(side) for side in entry["metadata"]["image_size"])
        return width, height
    return images.size_of(entry["metadata"]["source_image_path"])


def note_image_size(adata: AnnData) -> None:
    """Note how large the full-resolution image is, so that its file need not be there; changes it.

    For predicted points, which nobody cuts patches around any more.
    """
    entry = _entry(adata)
    noted = {**entry.get("metadata", {}), "image_size": list(image_size(adata))}
    adata.uns["spatial"] = {name_of(adata): {**entry, "metadata": noted}}


def read_image(adata: AnnData) -> np.ndarray:
    """Full-resolution image, RGB uint8 (height, width, 3), masked regions painted over.

    The array is read-only, because it is shared: the last two images from files are remembered.

    Raises
    ------
    FileNotFoundError
        If the file has gone.
    ValueError
        If the file is damaged or cut short.
    """
    entry, masks, colour = _entry(adata), _masks(adata), background_of(adata)
    if "fullres" not in entry["images"]:
        return images.decode(entry["metadata"]["source_image_path"], masks, colour)
    pixels = entry["images"]["fullres"]
    pixels = pixels.copy() if masks else pixels.view()
    images.paint(pixels, masks, colour)
    pixels.setflags(write=False)
    return pixels


def image_key(adata: AnnData) -> str:
    """Key of what `read_image` returns: the same pixels, the same key. Nothing is decoded."""
    entry, masks = _entry(adata), _masks(adata)
    source = (
        entry["images"]["fullres"]
        if "fullres" in entry["images"]
        else images.digest(entry["metadata"]["source_image_path"])
    )
    return content_key(source, masks, list(background_of(adata)) if masks else None)


def section_key(adata: AnnData) -> str:
    """Key of all that methods can learn from a section: image, scale, places, counts, names."""
    counts = sparse.csr_matrix(adata.X, copy=True) if adata.X is not None else sparse.csr_matrix(())
    counts.sort_indices()
    return content_key(
        image_key(adata),
        [name_of(adata), donor_of(adata), um_per_px(adata), list(background_of(adata))],
        np.asarray(adata.obsm["spatial"]),
        list(adata.var_names),
        counts.data,
        counts.indices,
        counts.indptr,
    )


def common_genes(sections: Sequence[AnnData]) -> list[str]:
    """Genes that all sections hold, in the order of the first section."""
    shared = set.intersection(*(set(s.var_names) for s in sections))
    return [gene for gene in sections[0].var_names if gene in shared]


def on_tissue(adata: AnnData, points: np.ndarray | None = None) -> np.ndarray:
    """Which points lie on tissue and not on empty slide, judged from the preview: bool, (points,).

    Parameters
    ----------
    adata
        A section, whose image is looked at.
    points
        (points, 2): x, y in pixels of the full-resolution image; by default its spots.
        Points beyond the image lie on no tissue.
    """
    points = np.asarray(adata.obsm["spatial"] if points is None else points, dtype=np.float64)
    return _inside(points, *image_size(adata)) & ~_on_glass(adata, points)


def _entry(adata: AnnData) -> dict:
    return adata.uns["spatial"][name_of(adata)]


def _masks(adata: AnnData) -> list[images.Box]:
    boxes = np.asarray(_entry(adata)["metadata"].get("masked_regions", ()), dtype=int)
    return [tuple(box) for box in boxes.reshape(-1, 4).tolist()]


# --- What must hold -------------------------------------------------------------------------


def check_sections(sections: Sequence[AnnData]) -> None:
    """Check several sections, each alone and all together.

    Raises
    ------
    ValueError
        If there is none, one breaks the contract, two share a name, or no gene is in all of them.
    """
    if isinstance(sections, AnnData):
        raise ValueError("A list of sections is needed; this is a single one: write [section].")
    if len(sections) == 0:
        raise ValueError("The list of sections is empty. Read or make at least one section.")
    for section in sections:
        check_section(section)
    names = pd.Index([name_of(s) for s in sections])
    check_unique(names, "this list", "section", "Leave one of them out, or rename it.")
    if not common_genes(sections):
        examples = "; ".join(f"{name_of(s)}: {', '.join(s.var_names[:3])}" for s in sections[:3])
        raise ValueError(
            f"The {len(sections)} sections have no genes in common ({examples}, ...). "
            "Name genes alike in all sections: all symbols or all Ensembl ids, in the same case."
        )


def check_section(adata: AnnData, *, counts: bool = True) -> None:
    """Say what is wrong with a section; return quietly where nothing is.

    Parameters
    ----------
    adata
        The section.
    counts
        False for a section that holds points but no expression:
        neither its counts nor the distance between its points are checked then.

    Raises
    ------
    ValueError
        With what is wrong, where, and what to do about it.
    FileNotFoundError
        If the image file is missing (this one is a ``ValueError`` too).
    """
    if not isinstance(adata, AnnData):
        raise ValueError(f"A section is an AnnData; this is a {type(adata).__name__}.")
    name = _check_labels(adata)
    _check_parts(adata, name)
    if counts:
        _check_counts(adata, name)
    _check_image(adata, name)
    _check_scale(adata, name, dense=not counts)
    _check_places(adata, name)


def check_unique(names: pd.Index, place: str, what: str, remedy: str) -> None:
    """Raise where a name occurs twice."""
    if not names.is_unique:
        twice = names[names.duplicated()]
        raise ValueError(
            f"{place}: {twice.nunique()} {what} name(s) occur more than once, first {twice[0]!r}. "
            f"{remedy}"
        )


def check_pixels(pixels: object, place: str, what: str) -> None:
    """Raise where an image is not uint8 (height, width, 3)."""
    shape, dtype = getattr(pixels, "shape", None), getattr(pixels, "dtype", None)
    if dtype != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f"{place}: {what} is {dtype} {shape}, but must be uint8 (height, width, 3), RGB. "
            "Drop an alpha channel: image[..., :3]; scale 0..1: (image * 255).astype('uint8')."
        )


def _check_labels(adata: AnnData) -> str:
    if adata.n_obs == 0:
        raise ValueError("The section holds no spots. Check the filter that made it.")
    place = "The section"
    for column in ("section", "donor"):
        if column not in adata.obs:
            raise ValueError(
                f"{place}: obs[{column!r}] is missing. Set it: adata.obs[{column!r}] = 'name'."
            )
        values = adata.obs[column].astype(str).unique()
        if len(values) > 1 or adata.obs[column].isna().any():
            raise ValueError(
                f"{place}: obs[{column!r}] holds {len(values)} values ({', '.join(values[:3])}), "
                "but a section has one. Split the table: adata[adata.obs['section'] == 'name']."
            )
        place = f"Section {name_of(adata)!r}"
    name = name_of(adata)
    if not name or "/" in name:
        raise ValueError(
            f"{place}: a name has one character or more, and no slash, under which files could "
            "not keep it. Give the section another name."
        )
    check_unique(adata.obs_names, place, "spot", "Rename them: adata.obs_names_make_unique().")
    check_unique(adata.var_names, place, "gene", "Add up their columns, or rename them.")
    if "in_tissue" in adata.obs and not adata.obs["in_tissue"].astype(float).any():
        raise ValueError(
            f"{place}: no spots in tissue, obs['in_tissue'] is 0 for all {adata.n_obs} spots. "
            "Check the tissue detection, or delete the column if it was never filled."
        )
    return name


def _check_parts(adata: AnnData, name: str) -> None:
    place = f"Section {name!r}"
    if "spatial" not in adata.obsm:
        raise ValueError(
            f"{place}: obsm['spatial'] is missing. "
            "Set it to the spot centres, (spots, 2): x, y in pixels of the full-resolution image."
        )
    points = np.asarray(adata.obsm["spatial"])
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(
            f"{place}: obsm['spatial'] has shape {points.shape}, but must be (spots, 2): x and y."
        )
    bad = ~np.isfinite(points.astype(np.float64)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{place}: {bad.sum()} spots have no finite position, "
            f"first {adata.obs_names[bad.argmax()]!r}. Drop them, or repair obsm['spatial']."
        )
    layout = f"uns['spatial'][{name!r}]"
    entry = adata.uns.get("spatial", {}).get(name)
    if not isinstance(entry, dict):
        raise ValueError(
            f"{place}: {layout} is missing, so there is no image and no scale. "
            "Build the section with make_section(...)."
        )
    needed = {
        "images": ["hires"],
        "scalefactors": ["tissue_hires_scalef", "spot_diameter_fullres", "microns_per_pixel"],
        "metadata": ["source_image_path"],
    }
    if "fullres" in entry.get("images", {}) or "image_size" in entry.get("metadata", {}):
        del needed["metadata"]
    for part, keys in needed.items():
        for missing in [key for key in keys if key not in entry.get(part, {})]:
            raise ValueError(
                f"{place}: {layout}[{part!r}][{missing!r}] is missing. "
                "Build the section with make_section(...)."
            )


def _check_counts(adata: AnnData, name: str) -> None:
    place = f"Section {name!r}"
    counts = adata.X
    if counts is None or adata.n_vars == 0:
        raise ValueError(
            f"{place} holds no genes. If its expression was hidden, ask the section it came from; "
            "else check the filter of genes."
        )
    if not sparse.issparse(counts) or counts.format != "csr" or counts.dtype != np.float32:
        kind = f"{type(counts).__name__} of {getattr(counts, 'dtype', None)}"
        raise ValueError(
            f"{place}: X is a {kind}, but must be CSR sparse float32. "
            "Convert it: adata.X = scipy.sparse.csr_matrix(adata.X, dtype='float32')."
        )
    bad = np.concatenate([start + _not_counts(part) for start, part in _chunks(counts.data)])
    if len(bad):
        spot = int(np.searchsorted(counts.indptr, bad[0], side="right")) - 1
        gene = adata.var_names[counts.indices[bad[0]]]
        raise ValueError(
            f"{place}: {len(bad)} counts are negative, fractional or not finite, "
            f"first {counts.data[bad[0]]} in spot {adata.obs_names[spot]!r}, gene {gene!r}. "
            "X holds raw counts: whole numbers from 0; give them before any normalisation."
        )
    totals = np.asarray(counts.sum(axis=1)).ravel()
    if not totals.any():
        raise ValueError(
            f"{place}: all counts of all {adata.n_vars} genes are zero. Check the count table."
        )
    if not totals.all():
        raise ValueError(
            f"{place}: {(totals == 0).sum()} spots hold no counts at all, "
            f"first {adata.obs_names[totals.argmin()]!r}. "
            "Drop them: adata = adata[np.ravel(adata.X.sum(axis=1)) > 0].copy()."
        )


def _chunks(values: np.ndarray, size: int = 1 << 16) -> list[tuple[int, np.ndarray]]:
    """Parts that fit into the processor's cache, which makes the check twice as fast."""
    starts = range(0, max(len(values), 1), size)
    return [(start, values[start : start + size]) for start in starts]


def _not_counts(values: np.ndarray) -> np.ndarray:
    """Find values that are no whole number from 0 (NaN and infinity are none): their indices."""
    with np.errstate(invalid="ignore"):
        good = (values >= 0) & (values - np.floor(values) == 0)
    return np.flatnonzero(~good)


def _check_image(adata: AnnData, name: str) -> None:
    entry, place = _entry(adata), f"Section {name!r}"
    for key in [key for key in ("hires", "fullres") if key in entry["images"]]:
        check_pixels(entry["images"][key], place, f"image {key!r}")
    width, height = image_size(adata)
    small, scale = preview(adata)
    seen = (small.shape[1], small.shape[0])
    expected = (width * scale, height * scale)
    if max(abs(expected[0] - seen[0]), abs(expected[1] - seen[1])) > 2:
        raise ValueError(
            f"{place}: the preview is {seen[0]} x {seen[1]} px, but the image of "
            f"{width} x {height} px times tissue_hires_scalef {scale:.4g} is "
            f"{expected[0]:.0f} x {expected[1]:.0f} px. Rebuild the section with make_section(...)."
        )


def _check_scale(adata: AnnData, name: str, dense: bool) -> None:
    place, um = f"Section {name!r}", um_per_px(adata)
    remedy = "Set um_per_px to the micrometres per pixel of the full-resolution image."
    low, high = UM_PER_PX_RANGE
    if not low <= um <= high:
        raise ValueError(
            f"{place}: {um} micrometres per pixel is outside {low} to {high}: wrong scale. {remedy}"
        )
    diameter = spot_diameter_um(adata)
    if not 0 < diameter < GLASS_SLIDE_UM:
        raise ValueError(
            f"{place}: a spot diameter of {diameter} micrometres is impossible. "
            "Give spot_diameter_um (55 for Visium)."
        )
    sides = [side * um for side in image_size(adata)]
    if min(sides) < diameter or max(sides) > GLASS_SLIDE_UM:
        raise ValueError(
            f"{place}: at {um} micrometres per pixel the image is {sides[0]:.0f} x {sides[1]:.0f} "
            f"micrometres, which a spot of {diameter:.0f} or a glass slide of 76,000 "
            f"does not fit: wrong scale. {remedy}"
        )
    pitch = spot_pitch_um(adata)
    if not dense and pitch < 0.95 * diameter:
        raise ValueError(
            f"{place}: neighbouring spots are {pitch:.1f} micrometres apart, "
            f"closer than their diameter of {diameter:.1f}: wrong scale. "
            "Check um_per_px, and that spot centres count pixels of the full-resolution image, "
            "not of a smaller copy."
        )


def _check_places(adata: AnnData, name: str) -> None:
    """Spots must lie in the image, and not nearly all on empty glass."""
    place, points = f"Section {name!r}", np.asarray(adata.obsm["spatial"], dtype=np.float64)
    width, height = image_size(adata)
    outside = ~_inside(points, width, height)
    if outside.any():
        x, y = points[outside.argmax()]
        raise ValueError(
            f"{place}: {outside.sum()} of {adata.n_obs} spots lie outside the image of "
            f"{width} x {height} px, first {adata.obs_names[outside.argmax()]!r} at "
            f"({x:.1f}, {y:.1f}). {_hint_outside(points, width, height)}"
        )
    share = _on_glass(adata, points).mean()
    if share > 0.9:
        raise ValueError(
            f"{place}: {share:.0%} of {adata.n_obs} spots lie on empty background, not on tissue. "
            f"{_hint_glass(adata, points, width, height)}"
        )


def _inside(points: np.ndarray, width: int, height: int) -> np.ndarray:
    return ((points >= 0) & (points < [width, height])).all(axis=1)


def _hint_outside(points: np.ndarray, width: int, height: int) -> str:
    if _inside(points[:, ::-1], width, height).all():
        return (
            "With x and y swapped all would fit: "
            "adata.obsm['spatial'] = adata.obsm['spatial'][:, ::-1]."
        )
    excess = (points.max(axis=0) / [width, height]).max()
    if points.min() >= 0 and _inside(points, width, height).mean() < 0.95:
        return (
            f"Divided by {np.ceil(excess * 100) / 100:.2f} or more all would fit: "
            "the positions may count pixels of a larger copy of the image (wrong scale)."
        )
    return "Drop these spots, or give the image that the positions belong to."


def _hint_glass(adata: AnnData, points: np.ndarray, width: int, height: int) -> str:
    readings = {
        "x and y are swapped": points[:, ::-1],
        "positions count preview pixels (wrong scale)": points / preview(adata)[1],
        "x is flipped (x = width - x)": [width - 1, 0] + points * [-1, 1],
        "y is flipped (y = height - y)": [0, height - 1] + points * [1, -1],
        "the slide is turned by 180 degrees": [width - 1, height - 1] - points,
    }
    for reading, moved in readings.items():
        if _inside(moved, width, height).all() and _on_glass(adata, moved).mean() < 0.5:
            return f"They would lie on tissue if {reading}: correct obsm['spatial']."
    return "Check that image and spots belong together: plot the spots over the image."


def _on_glass(adata: AnnData, points: np.ndarray) -> np.ndarray:
    """Which spots see only empty background: (spots,) bool, judged from the preview."""
    small, scale = preview(adata)
    reach = 0.35 * _entry(adata)["scalefactors"]["spot_diameter_fullres"]
    steps = np.stack(np.meshgrid([-reach, 0, reach], [-reach, 0, reach]), axis=-1).reshape(9, 2)
    samples = ((points[:, None] + steps) * scale).astype(int)  # (spots, 9, 2)
    x = samples[..., 0].clip(0, small.shape[1] - 1)
    y = samples[..., 1].clip(0, small.shape[0] - 1)
    colours = small[y, x].astype(int)  # (spots, 9, 3)
    darkest, brightest = colours.min(axis=-1), colours.max(axis=-1)
    empty = (brightest <= 20) | ((darkest >= 230) & (brightest - darkest <= 12))
    rim = images.rim_colour(small)
    if rim.min() >= 180 or rim.max() <= 30:  # else tissue reaches the edge: no glass to see there
        empty |= np.abs(colours - rim).max(axis=-1) <= 12
    return empty.mean(axis=1) > 0.85
