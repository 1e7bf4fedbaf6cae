"""Read a section of your own: one call for every layout that slides and counts come in.

`read_section` finds out which layout a path has, reads it, derives the scale, checks that spots
lie on the tissue, and ends in the section contract.
What cannot be right is refused with a sentence that says what, where and what to do.
Nothing is fetched, no archive is unpacked, and no pickle is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from anndata import AnnData

from heclip_lite.data.readers import h5ad, spatialdata, tables, visium
from heclip_lite.data.readers.assemble import Options
from heclip_lite.data.readers.files import (
    ARCHIVES,
    PICKLES,
    InputError,
    existing,
    explained,
    no_permission,
    raised_here,
)
from heclip_lite.data.sections import check_section

LAYOUTS = {
    "visium": "a Space Ranger output folder: filtered_feature_bc_matrix (.h5 or a folder) and "
    "spatial/ with tissue_positions, scalefactors_json.json and an image",
    "visium-hd": "a Space Ranger output folder with binned_outputs/square_016um and the like",
    "spatialdata": "a SpatialData store (zarr) with a table, its shapes and an image",
    "h5ad": "an AnnData file with obsm['spatial'] and uns['spatial'], as squidpy writes it",
    "hest": "a folder of HEST-1k: st/ID.h5ad, wsis/ID.tif, metadata/ID.json",
    "gse240429": "files of GSE240429 as deposited (GSM..._matrix.mtx.gz and the like), or as "
    "BLEEP and HECLIP lay them out (filtered_expression_matrices, tissue_pos_matrices)",
    "tables": "a folder with counts, positions (CSV or TSV) and image, or the count table with "
    "positions=... and image=...",
}
_READERS = {
    "visium": visium.read_visium,
    "visium-hd": visium.read_visium_hd,
    "spatialdata": spatialdata.read_spatialdata,
    "h5ad": h5ad.read_h5ad,
    "hest": h5ad.read_hest,
    "gse240429": visium.read_gse240429,
    "tables": tables.read_tables,
}
# Options that only some layouts use: which, and what to do with the others. The rest serve all.
_IN_TABLE = "the positions come with the counts; correct them there, or leave the option out"
_USED_BY = {
    "spot_pitch_um": (
        set(LAYOUTS) - {"visium-hd"},
        "the width of the bins is their pitch; choose it with bin_um",
    ),
    "counts": (
        set(LAYOUTS) - {"gse240429"},
        "the counts of a sample lie beside its positions; choose it with name",
    ),
    "positions": ({"visium", "visium-hd", "gse240429", "tables"}, _IN_TABLE),
    "columns": ({"visium", "visium-hd", "gse240429", "tables"}, _IN_TABLE),
    "bin_um": ({"visium-hd"}, "only Visium HD has bins; leave the option out"),
}
_SHOWN = 12  # entries of a folder in a message


def read_section(
    path: str | os.PathLike,
    *,
    layout: str = "auto",
    name: str | None = None,
    donor: str | None = None,
    um_per_px: float | None = None,
    spot_pitch_um: float | None = None,
    spot_diameter_um: float | None = None,
    image: str | os.PathLike | None = None,
    counts: str | os.PathLike | None = None,
    positions: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
    bin_um: int | None = None,
    orientation: str = "raise",
) -> AnnData:
    """Read one section, whatever its layout, and check it.

    Genes go by their symbols where the files give symbols; Ensembl ids are kept in
    ``var["gene_ids"]``. Columns that share a name are added up, spots without counts and spots
    that the selection column (``in_tissue``) leaves out are dropped.
    `gene_ids.match_genes` gives several sections the same genes.
    An option that a layout does not use is refused and not passed over.

    Parameters
    ----------
    path
        File or folder; `LAYOUTS` says what each layout needs.
    layout
        One of `LAYOUTS`, or ``"auto"``: see `detect`.
    name
        Name of the section, or which one where the path holds several.
    donor
        The person it comes from. Give it, if several sections come from one person.
    um_per_px
        Micrometres per pixel of the full-resolution image.
        Where it is not given, it follows from the distance between neighbouring spots.
    spot_pitch_um
        That distance, centre to centre: 100 for Visium (known there, if spots lie on its
        hexagonal array), 200 for legacy ST.
        Where both are given, they must agree; so must it with a scale that the files give.
        Not for Visium HD.
    spot_diameter_um
        Diameter of a spot: 55 for Visium (known where the pitch is), 100 for legacy ST.
    image
        File of the full-resolution image, which is not decoded here; or which of the images inside
        (``"hires"``, ``"lowres"``, the name of an element).
        Visium: without a file, positions and scale are those of the hires image.
    counts
        Visium, Visium HD, tables: another file or folder of counts. ``.h5ad``, HEST-1k and
        SpatialData: ``"X"``, ``"raw"`` or a layer.
    positions
        Another file of positions. Visium, Visium HD, GSE240429, tables.
    columns
        Unusual names of its columns: keys ``barcode``, ``x``, ``y``, ``in_tissue``,
        ``array_row``, ``array_col``.
    bin_um
        Visium HD: width of the bins, which become the spots; 16 by default.
    orientation
        Where another of the eight flips and turns puts clearly more spots on tissue:
        ``"raise"``, ``"warn"`` or ``"ignore"``.

    Returns
    -------
    AnnData that fulfils `sections.check_section`.

    Raises
    ------
    ValueError
        If files or options cannot be right, or the layout does not use an option.
    FileNotFoundError
        If a file is missing.
    PermissionError
        If a file may not be read.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"The layout {layout!r} is unknown; choose auto, {', '.join(LAYOUTS)}.")
    options = Options(
        name=name,
        donor=donor,
        um_per_px=um_per_px,
        spot_pitch_um=spot_pitch_um,
        spot_diameter_um=spot_diameter_um,
        image=image,
        counts=counts,
        positions=positions,
        columns=dict(columns or {}),
        bin_um=bin_um,
        orientation=orientation,
    )
    path = Path(path).expanduser()
    layout = detect(path) if layout == "auto" else layout
    _check_used(options, layout, path)
    try:
        section = _READERS[layout](path, options)
        check_section(section)
    except Exception as error:
        if raised_here(error) and isinstance(error, ValueError | OSError):
            raise
        if isinstance(error, PermissionError):
            raise PermissionError(no_permission(error.filename or path, layout)) from error
        # A part that is there, but of a kind that nothing expects.
        raise InputError(
            f"{path} could not be read as {layout}: a part of it is not what it should be "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). Write it again, or "
            "name another layout."
        ) from error
    return section


def _check_used(options: Options, layout: str, path: Path) -> None:
    for option, (layouts, remedy) in _USED_BY.items():
        given = getattr(options, option)
        if given is not None and given != {} and layout not in layouts:
            raise InputError(
                f"{path}: the layout {layout} does not use {option}={str(given)!r}: {remedy}."
            )


def detect(path: str | os.PathLike) -> str:
    """Which of the `LAYOUTS` a path has.

    Raises
    ------
    InputError
        If it has none; the message lists what was found and what each layout needs.
    FileNotFoundError
        If the path does not exist.
    """
    path = Path(path).expanduser()
    folder = path.is_dir()
    existing(path, "section", folder=folder)
    with explained(path, "section"):
        found = _of_folder(path) if folder else _of_file(path)
    if found is None:
        needs = "\n".join(f"  {layout}: {what}" for layout, what in LAYOUTS.items())
        raise InputError(
            f"{path} has no layout that is known here. {_inside(path) if folder else ''}"
            f"Each layout needs:\n{needs}\nName it with layout=..."
        )
    return found


def _of_file(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if path.name.lower().endswith((".zarr.zip", ".tar.gz")) or suffix in ARCHIVES:
        raise InputError(
            f"{path} is an archive, and archives are not unpacked here. Unpack it into a folder "
            "of its own, and give that folder."
        )
    if suffix in PICKLES:
        raise InputError(
            f"{path} is an object of one program ({suffix}), which is never loaded. "
            "Give counts as .h5ad, .h5, .mtx or a table."
        )
    if suffix in (".h5ad", ".h5", ".hdf5") and h5ad.hest_root(path):
        return "hest"
    if suffix == ".h5ad":
        return "h5ad"
    bare = Path(path.name.lower().removesuffix(".gz"))
    return "tables" if bare.suffix in (".csv", ".tsv", ".txt", ".tab") else None


def _of_folder(path: Path) -> str | None:
    outs = visium.outs(path)
    if spatialdata.is_store(path):
        return "spatialdata"
    if visium.bins_of(outs) or path.name.startswith("square_"):
        return "visium-hd"
    if (outs / "spatial").is_dir():
        return "visium"
    if h5ad.hest_root(path):
        return "hest"
    if visium.bleep_root(path) or any(path.glob("GSM*matrix.mtx*")):
        return "gse240429"
    found = tables.candidates(path)
    return "tables" if found["counts"] or found["positions"] else None


def _inside(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"It holds {', '.join(names[:_SHOWN]) or 'nothing'}{more}. "
