"""What commands write, each in one place: pictures, tables, sections and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heclip_lite.cli_files import atomic_folder
from heclip_lite.cli_support import plain

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

SECTIONS = (".h5ad", ".zarr")
MADE_BY = "heclip_lite_run"  # key of uns under which a file says how it was made


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
    from heclip_lite import store

    note = None if made_by is None else json.dumps(plain(made_by), sort_keys=True)
    if path.suffix.lower() == ".h5ad":
        written = section.copy()
        if note is not None:
            written.uns[MADE_BY] = note
        with store.atomic_path(path) as temporary:
            written.write_h5ad(temporary, compression="gzip")
        return
    from heclip_lite import export

    data = export.to_spatialdata(section, image="full" if made_by is None else "hires")
    if note is not None:
        next(iter(data.tables.values())).uns[MADE_BY] = note
    with atomic_folder(path) as temporary:
        data.write(temporary)
