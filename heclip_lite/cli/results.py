"""What commands write, each in one place: pictures, tables, sections and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heclip_lite.cli.command import plain
from heclip_lite.cli.files import atomic_folder

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

SECTIONS = (".h5ad", ".zarr")


def write_picture(figure: Figure, path: Path) -> None:
    """A figure as PNG, in the book's look."""
    from heclip_lite import plotting, store

    with store.atomic_path(path) as temporary:
        temporary.write_bytes(plotting.png(figure))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV."""
    from heclip_lite import store

    with store.atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def write_section(
    section: AnnData, path: Path, *, made_by: Mapping[str, Any] | None = None
) -> None:
    """A section, measured or predicted, as ``.h5ad`` or as a SpatialData store ``.zarr``.

    Parameters
    ----------
    section
        What to write; it is not changed.
    path
        Where to.
    made_by
        How it was made, kept as JSON text in ``uns["heclip_lite_run"]`` (of a store: of its table).
    """
    from heclip_lite.data import export
    from heclip_lite.data.contract import note_image_size

    written = section.copy()
    export.mark(written)
    if made_by is not None:
        note_image_size(written)
        written.uns[export.MADE_BY] = json.dumps(plain(made_by), sort_keys=True)
    if path.suffix.lower() == ".h5ad":
        export.save_h5ad(written, path)
        return
    data = export.to_spatialdata(written, image="full" if made_by is None else "hires")
    with atomic_folder(path) as temporary:
        data.write(temporary)


def read_prediction(path: Path) -> AnnData | None:
    """What `predict`, `superres` or `slide` wrote; None if the file is none of theirs.

    Raises
    ------
    ValueError
        If it is theirs and damaged.
    """
    from heclip_lite.data.readers.files import InputError
    from heclip_lite.data.sections import check_section

    try:
        made = _of_h5ad(path) if path.suffix.lower() == ".h5ad" else _of_zarr(path)
    except InputError:
        raise
    except (OSError, KeyError, ValueError):
        return None  # the reader of sections says what is wrong with it
    if made is not None:
        check_section(made, counts=False)
    return made


def _of_h5ad(path: Path) -> AnnData | None:
    import anndata
    import h5py

    from heclip_lite.data.export import MADE_BY

    with h5py.File(path, "r") as file:
        if MADE_BY not in file.get("uns", {}):
            return None
    return anndata.read_h5ad(path)


def _of_zarr(path: Path) -> AnnData | None:
    """The points of a store of AnnData, or of a SpatialData store with one table."""
    import anndata
    import zarr

    from heclip_lite.data.export import MADE_BY
    from heclip_lite.data.readers.files import InputError, no_pickles

    with no_pickles():
        store = zarr.open_group(path, mode="r")
        tables = [table for _, table in store["tables"].groups()] if "tables" in store else [store]
        if len(tables) != 1 or f"uns/{MADE_BY}" not in tables[0]:
            return None
        if tables[0] is store:
            values = store["X"]
            if values.nchunks_initialized < values.nchunks:  # zarr reads what is lost as zeros
                raise InputError(f"{path} is damaged: parts of its values are lost. Predict again.")
            return anndata.io.read_elem(store)
    from heclip_lite.data.readers.spatialdata import read_points

    return read_points(path)
