"""Sections that others have already put together: ``.h5ad``, HEST-1k and SpatialData."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite.data import contract
from heclip_lite.data.readers.assemble import (
    VISIUM_PITCH_UM,
    VISIUM_SPOT_UM,
    Options,
    assemble,
    check_places,
    chosen,
    is_visium,
    lattice_px,
    scale,
)
from heclip_lite.data.readers.files import InputError, MissingFile, existing, explained, read_json
from heclip_lite.data.readers.images import as_rgb, check_image_file
from heclip_lite.data.readers.matrices import Counts
from heclip_lite.data.readers.orientation import check_pitch
from heclip_lite.data.readers.visium import pick

_LAYERS = ("counts", "raw_counts", "raw", "count")
_IMAGES = ("fullres", "hires", "lowres", "downscaled_fullres")  # best first
_LIBRARY = ("library_id", "library", "sample", "sample_id", "section")


def read_h5ad(path: Path, options: Options, *, hest: dict | None = None) -> AnnData:
    """An AnnData file in squidpy's layout, or one of this package; see `readers.read_section`."""
    path = existing(path, "h5ad")
    adata = load(path)
    ours = _own(adata, path, options)
    if ours is not None:
        return ours
    place = str(path)
    entries = adata.uns.get("spatial")
    if not isinstance(entries, dict) or not entries:
        if hest is None and not (options.image and options.um_per_px):
            raise InputError(
                f"{place}: uns['spatial'] is missing, so there is no image and no scale. Give "
                "image=... and um_per_px=..., or write the file with squidpy's layout."
            )
        entries = {path.stem: {}}
    library = pick(entries, options.name, path)
    entry = entries[library] if isinstance(entries[library], dict) else {}
    if len(entries) > 1:
        adata = _of_library(adata, library, place)
    factors = {k: _number(v, f"{place}: scale factor {k}")
               for k, v in _part(entry, "scalefactors").items() if _is_scale(k)}  # fmt: skip
    counts, positions = chosen(counts_of(adata, options, place), positions_of(adata, place))
    points = positions[["x", "y"]].to_numpy()
    um = options.um_per_px or (hest or {}).get("um_per_px") or factors.get("microns_per_pixel")
    um = um or um_from_lattice(points, positions, options, place)
    diameter = options.spot_diameter_um or (hest or {}).get("spot_diameter_um")
    if diameter is None and "spot_diameter_fullres" in factors:
        diameter = factors["spot_diameter_fullres"] * um
        if is_visium(lattice_px(points, positions, place)):
            diameter = VISIUM_SPOT_UM  # Space Ranger's value means up to 65 micrometres
    if diameter is None:
        raise InputError(f"{place}: the size of a spot is unknown. Give spot_diameter_um.")
    image, pixels, shrink = _image(entry, factors, options, path)
    if hest is None and shrink != 1:
        warnings.warn(
            f"{place}: no full-resolution image is given, so the small one in the file is used, "
            f"with {um / shrink:.1f} micrometres per pixel. Give image=... for detail.",
            stacklevel=2,
        )
    known = {key: _single(adata, key) for key in ("section", "donor")}
    return assemble(
        counts,
        positions.assign(x=positions["x"] * shrink, y=positions["y"] * shrink),
        options.but(
            image=image,
            name=options.name or known["section"],
            donor=options.donor or known["donor"] or (hest or {}).get("donor"),
        ),
        name=path.stem if library in ("spatial", "ST") else library,
        um_per_px=um / shrink,
        spot_diameter_um=diameter,
        pixels=pixels,
        expected_pitch_um=options.spot_pitch_um,
    )


def load(path: Path) -> AnnData:
    """An AnnData file, with the indices of its counts checked.

    Raises
    ------
    InputError
        If it is damaged or something else.
    """
    import anndata

    with explained(path, "h5ad"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old formats and names that occur twice: checked below
        adata = anndata.read_h5ad(path)
        for matrix in (adata.X, *adata.layers.values()):
            if sparse.issparse(matrix):
                matrix.check_format(full_check=True)
    if not adata.n_obs:
        raise InputError(f"{path} holds no spots. Check the filter that made it.")
    return adata


def _own(adata: AnnData, path: Path, options: Options) -> AnnData | None:
    """A section that this package has written; None where the file is of another kind."""
    names = {key: _single(adata, key) for key in ("section", "donor")}
    entry = _part(adata.uns.get("spatial", {}), names["section"] or "")
    if None in names.values() or "microns_per_pixel" not in _part(entry, "scalefactors"):
        return None
    if options.counts or options.um_per_px or options.spot_diameter_um:
        return None
    if str(options.image) in _IMAGES:
        return None
    metadata = _part(entry, "metadata")
    if "fullres" not in _part(entry, "images"):
        source = options.image or metadata.get("source_image_path")
        if source is None:
            return None
        beside = path.parent / Path(str(source)).name
        source = beside if not Path(str(source)).exists() and beside.exists() else source
        metadata["source_image_path"] = str(check_image_file(source).resolve())
    elif options.image:
        return None
    for column, wanted in (("section", options.name), ("donor", options.donor)):
        if wanted and column == "section":
            adata.uns["spatial"] = {wanted: entry}
        if wanted:
            adata.obs[column] = wanted
    for column in ("section", "donor"):
        adata.obs[column] = adata.obs[column].astype(str)
    if adata.X is not None:
        with explained(path, "counts"):
            adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    contract.check_section(adata)
    if options.spot_pitch_um:
        check_pitch(adata, options.spot_pitch_um)
    check_places(adata, options)
    return adata


def _part(value: Any, key: str) -> dict:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _single(adata: AnnData, column: str) -> str | None:
    if column not in adata.obs or adata.obs[column].isna().any():
        return None
    values = adata.obs[column].astype(str).unique()
    return str(values[0]) if len(values) == 1 else None


def _is_scale(key: str) -> bool:
    return key.endswith(("_scalef", "_fullres")) or key == "microns_per_pixel"


def _number(value: Any, what: str) -> float:
    try:
        found = float(np.asarray(value).item())
    except (TypeError, ValueError):
        found = float("nan")
    if not 0 < found < 1e6:
        raise InputError(f"{what} is {value!r}; it must be a number above 0.")
    return found


def _of_library(adata: AnnData, library: str, place: str) -> AnnData:
    for column in _LIBRARY:
        if column in adata.obs and (adata.obs[column].astype(str) == library).any():
            return adata[(adata.obs[column].astype(str) == library).to_numpy()].copy()
    raise InputError(
        f"{place}: several sections, but no column of obs ({', '.join(_LIBRARY)}) says which "
        f"spots belong to {library!r}. Add one, or split the file."
    )


def counts_of(adata: AnnData, options: Options, place: str) -> Counts:
    """Whole numbers from X, else from a layer of counts, else from raw.

    Raises
    ------
    InputError
        If none of them holds whole numbers, or the one that `options` name is not there.
    """
    wanted = str(options.counts) if options.counts else None
    offers = {"X": (adata.X, adata.var)}
    offers |= {key: (layer, adata.var) for key, layer in adata.layers.items()}
    if adata.raw is not None:
        offers["raw"] = (adata.raw.X, adata.raw.var)
    if wanted and wanted not in offers:
        raise InputError(f"{place} has no counts {wanted!r}; it has {', '.join(offers)}.")
    for key in [wanted] if wanted else ["X", *[k for k in _LAYERS if k in offers]]:
        values, var = offers[key]
        if values is not None and (wanted or _whole(values)):
            break
    else:
        raise InputError(
            f"{place}: neither X nor a layer of counts holds raw counts (whole numbers from 0): "
            "they were normalised. Keep them in layers['counts'], or give counts='layer'."
        )
    with explained(place, "counts"):
        matrix = sparse.csr_matrix(values, dtype=np.float64)
    ids = next((var[c] for c in ("gene_ids", "gene_id", "ensembl_id", "feature_name", "gene_name")
                if c in var), None)  # fmt: skip
    ids = None if ids is None else pd.Index(ids.astype(str))
    return Counts(matrix, adata.obs_names, var.index.astype(str), ids, place)


def _whole(values: Any) -> bool:
    data = values.data if sparse.issparse(values) else np.asarray(values)
    if not np.issubdtype(data.dtype, np.number):
        return False
    with np.errstate(invalid="ignore"):
        return bool(data.size and (data >= 0).all() and (data == np.floor(data)).all())


def positions_of(adata: AnnData, place: str) -> pd.DataFrame:
    """``x`` and ``y`` of ``obsm["spatial"]``, with array coordinates and the rest of ``obs``.

    Raises
    ------
    InputError
        If positions are missing or no finite numbers, or a spot occurs twice.
    """
    if "spatial" not in adata.obsm:
        raise InputError(
            f"{place}: obsm['spatial'] is missing. Set it to the spot centres, (spots, 2): "
            "x, y in pixels of the full-resolution image."
        )
    points = np.asarray(adata.obsm["spatial"])
    if points.ndim != 2 or points.shape[1] != 2 or not np.issubdtype(points.dtype, np.number):
        raise InputError(
            f"{place}: obsm['spatial'] is {points.dtype} {points.shape}, but must be numbers "
            "(spots, 2): x and y."
        )
    if not np.isfinite(points).all():
        raise InputError(f"{place}: obsm['spatial'] holds values that are not finite.")
    found = pd.DataFrame(points.astype(float), index=adata.obs_names, columns=["x", "y"])
    twice = adata.obs_names[adata.obs_names.duplicated()]
    if len(twice):
        raise InputError(
            f"{place}: {twice.nunique()} spots are listed more than once, first {twice[0]!r}."
        )
    obs = adata.obs.drop(columns=["section", "donor", "x", "y"], errors="ignore")
    for column in ("array_row", "array_col", "in_tissue"):
        if column in obs:
            values = pd.to_numeric(obs[column].astype(str).replace({"True": "1", "False": "0"}),
                                   errors="coerce")  # fmt: skip
            if not np.isfinite(values).all():
                raise InputError(f"{place}: obs[{column!r}] holds values that are no numbers.")
            found[column] = values
    rest = obs.drop(columns=["array_row", "array_col", "in_tissue"], errors="ignore")
    return pd.concat([found, rest], axis=1)


def um_from_lattice(points, positions: pd.DataFrame, options: Options, place: str) -> float:
    """Micrometres per pixel from the pitch that is given, or that of 10x's hexagonal array.

    Raises
    ------
    InputError
        If neither is known.
    """
    pitch = options.spot_pitch_um
    if pitch is None and is_visium(lattice_px(points, positions, place)):
        pitch = VISIUM_PITCH_UM
    if pitch is None:
        raise InputError(
            f"{place}: the scale is unknown. Give um_per_px (micrometres per pixel of the "
            "full-resolution image), or spot_pitch_um, the distance between neighbouring spots."
        )
    return scale(points, positions, pitch, place)


def _image(entry: dict, factors: dict, options: Options, path: Path):
    """Image file or pixels, and their pixels per pixel of the full-resolution image."""
    pictures = _part(entry, "images")
    if options.image is not None and str(options.image) not in _IMAGES:
        return check_image_file(options.image), None, 1.0
    source = _part(entry, "metadata").get("source_image_path")
    if options.image is None and source is not None and Path(str(source)).is_file():
        return check_image_file(str(source)), None, 1.0
    for key in [str(options.image)] if options.image else _IMAGES:
        if key not in pictures:
            continue
        shrink = 1.0 if key == "fullres" else factors.get(f"tissue_{key}_scalef")
        if shrink is None:
            raise InputError(
                f"{path}: the scale factor 'tissue_{key}_scalef' of image {key!r} is missing. "
                "Add it to uns['spatial'], or give the full-resolution image=..."
            )
        return None, as_rgb(pictures[key], f"{path}: image {key!r}"), shrink
    raise MissingFile(
        f"{path}: no image is there ({', '.join(pictures) or 'none in the file'}"
        f"{f'; {source} does not exist' if source is not None else ''}). Give image=..."
    )


# --- HEST-1k --------------------------------------------------------------------------------


def hest_root(path: Path) -> Path | None:
    """Folder with ``st`` and ``wsis`` that a path names or lies in; None where there is none."""
    for root in (path, path.parent.parent if path.suffix == ".h5ad" else path):
        if (root / "st").is_dir() and ((root / "wsis").is_dir() or (root / "metadata").is_dir()):
            return root
    return None


def read_hest(path: Path, options: Options) -> AnnData:
    """A sample of HEST-1k: ``st/ID.h5ad``, ``wsis/ID.tif``, ``metadata/ID.json``."""
    root = hest_root(Path(path))
    if root is None:
        raise MissingFile(
            f"{path} holds no folders st and wsis, so it is not in HEST-1k's layout. Give the "
            "folder that holds them, or st/ID.h5ad inside it."
        )
    samples = {p.stem: p for p in sorted((root / "st").glob("*.h5ad"))}
    if not samples:
        raise MissingFile(f"{root / 'st'} holds no .h5ad file. Fetch the sample anew.")
    path = Path(path)
    name = path.stem if path.suffix == ".h5ad" else pick(samples, options.name, root)
    facts = root / "metadata" / f"{name}.json"
    known = read_json(facts, "metadata") if facts.exists() else {}
    hest: dict = {}
    for key, sources in {
        "um_per_px": ("pixel_size_um_estimated", "pixel_size_um_embedded"),
        "spot_diameter_um": ("spot_diameter",),
    }.items():
        found = next((known[s] for s in sources if known.get(s) is not None), None)
        if found is not None:
            hest[key] = _number(found, f"{facts} (metadata): {sources[0]}")
    if known.get("patient"):
        hest["donor"] = str(known["patient"])
    image = options.image
    if image is None:
        found = [root / "wsis" / f"{name}{end}" for end in (".tif", ".tiff")]
        image = next((p for p in found if p.exists()), None)
        if image is None:
            raise MissingFile(f"{found[0]} (image) does not exist. Fetch it, or give image=...")
    options = options.but(image=image, name=options.name or name)
    file = existing(samples.get(name, path), "h5ad")
    return read_h5ad(file, options, hest=hest)
