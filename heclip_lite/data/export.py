"""Sections on their way out: ``.h5ad`` and SpatialData, with predictions beside the counts.

A section with counts reads back through `readers.read_section` as the same section.
Predictions of exactly the section's genes become layers.
Those of fewer or other genes become tables in ``obsm``, whose columns are the genes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite import store
from heclip_lite.data import sections

if TYPE_CHECKING:
    from spatialdata import SpatialData

OURS = "heclip_lite"  # in uns: who wrote it; of a SpatialData table, also what has no other place
MADE_BY = "heclip_lite_run"  # key of uns under which a prediction says how it was made, as JSON
Predictions = pd.DataFrame | Mapping[str, pd.DataFrame] | None
_ROWS = 4096  # of a table looked at at once: bounds memory


def with_predictions(section: AnnData, predictions: Predictions) -> AnnData:
    """A copy of a section that holds predictions too.

    Parameters
    ----------
    section
        Any section, with or without counts.
    predictions
        A table (spots, genes) of log1p-normalised values, its index the names of the spots and
        its columns the genes; or several by name. A single one is called ``"predicted"``.

    Returns
    -------
    AnnData
        With a layer where a table has exactly the genes of the section (in any order), else with a
        table in ``obsm``: a layer holds a value for every gene, and nothing is made up for those
        that were not predicted. For a layer, restrict the section to the panel first:
        ``section[:, list(method.genes)]``.

    Raises
    ------
    ValueError
        If the spots of a table are not those of the section, a gene occurs twice, a value is not
        finite, or a name is taken.
    """
    result = section.copy()
    if predictions is None:
        return result
    if isinstance(predictions, pd.DataFrame):
        predictions = {"predicted": predictions}
    place = f"Section {sections.name_of(section)!r}"
    for name, table in predictions.items():
        if not isinstance(table, pd.DataFrame):
            raise ValueError(
                f"{place}: prediction {name!r} is a {type(table).__name__}. "
                "Give a table: pandas.DataFrame(values, section.obs_names, method.genes)."
            )
        if name in result.layers or name in result.obsm or "/" in name or not name:
            raise ValueError(
                f"{place}: a prediction cannot be called {name!r}: the name is taken or has a "
                "slash. Choose another."
            )
        if not table.index.is_unique or set(table.index) != set(section.obs_names):
            raise ValueError(
                f"{place}: the {len(table)} rows of prediction {name!r} are not the "
                f"{section.n_obs} spots. Take section.obs_names as its index."
            )
        sections_genes = pd.Index(table.columns.astype(str))
        if not sections_genes.is_unique:
            twice = sections_genes[sections_genes.duplicated()][0]
            raise ValueError(f"{place}: prediction {name!r} names the gene {twice!r} twice.")
        values = table.set_axis(sections_genes, axis=1).loc[section.obs_names].astype(np.float32)
        if not np.isfinite(values.to_numpy()).all():
            raise ValueError(
                f"{place}: prediction {name!r} holds values that are not finite. Predict again."
            )
        if section.n_vars and set(values.columns) == set(section.var_names):
            result.layers[name] = values[list(section.var_names)].to_numpy()
        else:
            result.obsm[name] = values
    return result


def to_h5ad(section: AnnData, path: str | os.PathLike, predictions: Predictions = None) -> Path:
    """Write a section as ``.h5ad``: complete, or not at all.

    An image that lives in a file stays there, and its path is noted; it is found as well if it
    lies beside the ``.h5ad``. An image in memory is written with the section.

    Parameters
    ----------
    section
        Any section, with or without counts.
    path
        Ends in ``.h5ad``; a file that is there is replaced.
    predictions
        See `with_predictions`.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    ValueError
        If the path ends otherwise, the section breaks the contract, or predictions do not fit.
    """
    path = Path(path)
    if path.suffix != ".h5ad":
        raise ValueError(f"{path} must end in .h5ad, for this is how others recognise the file.")
    sections.check_section(section, counts=_has_counts(section))
    whole = with_predictions(section, predictions)
    mark(whole)
    save_h5ad(whole, path)
    return path


def save_h5ad(section: AnnData, path: str | os.PathLike) -> None:
    """Write a section as it is, packed: complete, or not at all."""
    from anndata.io import write_elem

    section.strings_to_categoricals()
    with store.atomic_hdf5(path) as file:
        write_elem(file, "/", section, dataset_kwargs={"compression": "gzip"})


def mark(section: AnnData) -> None:
    """Note in a section that it was written here, so that `is_ours` knows the file again."""
    section.uns[OURS] = {"section": sections.name_of(section)}


def is_ours(path: str | os.PathLike) -> bool:
    """Whether an ``.h5ad`` or a zarr store says that this package wrote it, all tables of it."""
    import h5py
    import zarr

    path = Path(path)
    try:
        if path.is_file():
            with h5py.File(path, "r") as file:
                return _is_marked(file)
        whole = zarr.open_group(path, mode="r")
        tables = [part for _, part in whole["tables"].groups()] if "tables" in whole else [whole]
    except (OSError, KeyError, ValueError):
        return False
    return bool(tables) and all(map(_is_marked, tables))


def _is_marked(table: Mapping) -> bool:
    return any(f"uns/{key}" in table for key in (OURS, MADE_BY))


def _has_counts(section: AnnData) -> bool:
    """Dense sections hold predictions in X, and no counts."""
    return sparse.issparse(section.X) and section.n_vars > 0


def to_spatialdata(
    section: AnnData, *, image: str = "hires", predictions: Predictions = None
) -> SpatialData:
    """A section as a SpatialData object: its image, its points as circles, and its table.

    Predicted and dense sections go the same way as measured ones.

    Parameters
    ----------
    section
        Any section, with or without counts.
    image
        ``"hires"``: the small image that plots use; ``"full"``: all pixels.
    predictions
        See `with_predictions`.

    Returns
    -------
    SpatialData
        Elements ``<name>_image``, ``<name>_points`` and the table ``<name>``; all in the coordinate
        system ``"global"``, pixels of the full-resolution image.
        SpatialData admits letters, digits, ``_``, ``-`` and ``.`` in names: other characters become
        ``_``, and the true names are kept in the table's ``uns["heclip_lite"]``.

    Raises
    ------
    ValueError
        If `image` is neither of the two, or predictions do not fit.
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
    entry = section.uns["spatial"][name]
    points = ShapesModel.parse(
        np.asarray(section.obsm["spatial"], dtype=np.float64),
        geometry=0,  # circles
        radius=entry["scalefactors"]["spot_diameter_fullres"] / 2,
        index=section.obs_names.to_numpy(),
        transformations={"global": Identity()},
    )
    whole = with_predictions(section, predictions)
    names = {
        "obs": _admitted(whole.obs.columns, taken=("region", "point")),
        "var": _admitted(whole.var.columns),
        "obsm": _admitted(whole.obsm),
        "layers": _admitted(whole.layers),
    }
    element = _admitted([name])[name]
    table = AnnData(
        X=whole.X,
        obs=whole.obs.rename(columns=names["obs"]),
        var=whole.var.rename(columns=names["var"]),
        obsm={
            names["obsm"][k]: v if isinstance(v, pd.DataFrame) else np.asarray(v)
            for k, v in whole.obsm.items()
        },
        layers={names["layers"][k]: v for k, v in whole.layers.items()},
        uns={
            OURS: {
                "section": name,
                "image": image,
                "scalefactors": {k: float(v) for k, v in entry["scalefactors"].items()},
                "metadata": entry.get("metadata", {}),
                "fingerprint": fingerprint(pixels, whole),
                "names": {
                    part: {new: old for old, new in both.items() if new != old}
                    for part, both in names.items()
                },
            }
        }
        | {key: section.uns[key] for key in (MADE_BY,) if key in section.uns},
    )
    region = f"{element}_points"
    table.obs["region"] = region
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["point"] = section.obs_names.to_numpy()
    table = TableModel.parse(table, region=region, region_key="region", instance_key="point")
    return SpatialData(
        images={f"{element}_image": picture}, shapes={region: points}, tables={element: table}
    )


def _admitted(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Names that SpatialData admits, by the names they stand for: no two differ in case only."""
    found, seen = {}, {name.lower() for name in taken}
    for name in names:
        plain = re.sub(r"[^\w.-]", "_", str(name))
        if plain in ("", ".", "..", "_index") or plain.startswith("__"):
            plain = f"n{plain}"
        number, new = 1, plain
        while new.lower() in seen:
            number += 1
            new = f"{plain}_{number}"
        seen.add(new.lower())
        found[name] = new
    return found


def fingerprint(pixels: np.ndarray, section: AnnData) -> str:
    """Key of an image, places and counts; a zarr store that has lost a chunk reads as zeros.

    A lazy table is computed some rows at a time.
    """
    places = np.asarray(section.obsm["spatial"], dtype=np.float64)
    rows = [] if section.X is None else range(0, section.n_obs, _ROWS)
    parts = (_rows_key(section.X[start : start + _ROWS]) for start in rows)
    return store.content_key(np.asarray(pixels), places, *parts)


def _rows_key(values: Any) -> str:
    """Key of rows of a table: dense, sparse or lazy, the same values have the same key."""
    known = values.compute() if hasattr(values, "compute") else values
    counts = sparse.csr_matrix(known, dtype=np.float32, copy=True)
    counts.eliminate_zeros()
    counts.sort_indices()
    return store.content_key(
        counts.data, *(v.astype(np.int64) for v in (counts.indices, counts.indptr))
    )


def write_spatialdata(
    section: AnnData,
    path: str | os.PathLike,
    *,
    image: str = "full",
    predictions: Predictions = None,
) -> Path:
    """Write a section as a SpatialData store: complete, or not at all.

    Parameters
    ----------
    section, image, predictions
        See `to_spatialdata`.
    path
        A folder that does not exist yet, ending in ``.zarr``.

    Returns
    -------
    Path
        Of the store.

    Raises
    ------
    ValueError
        If the path ends otherwise, the section breaks the contract, or predictions do not fit.
    FileExistsError
        If something is there already. It is left alone.
    """
    path = Path(path)
    if path.suffix != ".zarr":
        raise ValueError(f"{path} must end in .zarr, for this is how others recognise the store.")
    if path.exists():
        raise FileExistsError(f"{path} is there already. Delete it, or choose another name.")
    sections.check_section(section, counts=_has_counts(section))
    made = to_spatialdata(section, image=image, predictions=predictions)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.zarr")
    try:
        with store.told_of(path, temporary):
            made.write(temporary)
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path
