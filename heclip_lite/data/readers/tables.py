"""A section from plain tables: counts, positions and an image, in any delimiter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite.data.readers.assemble import Options, assemble, chosen, read_positions, scale
from heclip_lite.data.readers.files import InputError, MissingFile, existing, numbers, read_rows
from heclip_lite.data.readers.images import SUFFIXES, check_image_file
from heclip_lite.data.readers.matrices import Counts, read_10x_h5, read_10x_mtx

_TABLES = (".csv", ".tsv", ".txt", ".tab")
_COUNTS = ("counts", "count", "matrix", "expression")
_POSITIONS = ("positions", "position", "spots", "coordinates", "selection", "positions_list")
_IMAGES = ("image", "slide", "he", "tissue", "fullres")


def read_counts(path: str | Path) -> Counts:
    """Counts of a table with spots as rows and genes as columns; spot names come first in a row.

    An ``.h5`` file or a folder of 10x Genomics serves as well.

    Raises
    ------
    InputError
        If a count is missing or no number, or the first line holds no gene names.
    """
    path = Path(path)
    if path.is_dir():
        return read_10x_mtx(path)
    if path.suffix.lower() in (".h5", ".hdf5"):
        return read_10x_h5(path)
    path = existing(path, "counts")
    header, rows = read_rows(path, "counts", dtype={0: str})
    genes = header[1:] if len(header) == rows.shape[1] else header
    spots = rows.iloc[:, 0].astype(str).str.strip()
    if pd.to_numeric(pd.Series(genes), errors="coerce").notna().all():
        raise InputError(
            f"{path} (counts): the first line holds numbers ({', '.join(genes[:3])}, ...), but "
            "must hold the names of the genes."
        )
    values = rows.iloc[:, 1:]
    for at, kind in enumerate(values.dtypes):
        if pd.api.types.is_bool_dtype(kind) or not pd.api.types.is_numeric_dtype(kind):
            text = values.iloc[:, at].astype(str).str.strip()
            values.isetitem(at, numbers(text, f"{path} (counts)", genes[at], spots))
    matrix = sparse.csr_matrix(values.to_numpy(dtype=np.float64))
    return Counts(matrix, pd.Index(spots), pd.Index(genes), None, str(path))


def read_tables(path: Path, options: Options) -> AnnData:
    """Counts, positions and image from tables; see `readers.read_section`."""
    path = Path(path)
    if path.is_dir():
        folder, name = existing(path, "folder", folder=True), path.resolve().name
        counts_path = options.counts or _one(folder, _COUNTS, _TABLES, "counts")
    else:
        counts_path = options.counts or existing(path, "counts")
        folder, name = path.parent, path.name.split(".")[0]
    positions_path = options.positions or _one(folder, _POSITIONS, _TABLES, "positions")
    image = options.image or _one(folder, _IMAGES, SUFFIXES, "image")
    if options.spot_diameter_um is None:
        raise InputError(
            f"{path}: tables do not say how large a spot is. "
            "Give spot_diameter_um (55 for Visium, 100 for legacy Spatial Transcriptomics)."
        )
    if options.um_per_px is None and options.spot_pitch_um is None:
        raise InputError(
            f"{path}: tables do not say the scale. Give um_per_px (micrometres per pixel of the "
            "image), or spot_pitch_um (100 for Visium, 200 for legacy Spatial Transcriptomics)."
        )
    image = check_image_file(image)
    positions = read_positions(positions_path, options.columns)
    counts, positions = chosen(read_counts(counts_path), positions)
    um = options.um_per_px or scale(
        positions[["x", "y"]].to_numpy(), positions, options.spot_pitch_um, positions_path
    )
    return assemble(
        counts,
        positions,
        options.but(image=image),
        name=name,
        um_per_px=um,
        spot_diameter_um=options.spot_diameter_um,
        expected_pitch_um=options.spot_pitch_um,
    )


def candidates(folder: Path) -> dict[str, list[Path]]:
    """Files of a folder that may be the counts, the positions and the image of a section."""
    return {
        "counts": _like(folder, _COUNTS, _TABLES),
        "positions": _like(folder, _POSITIONS, _TABLES),
        "image": _like(folder, _IMAGES, SUFFIXES) or _like(folder, (), SUFFIXES),
    }


def _like(folder: Path, stems: tuple[str, ...], suffixes: tuple[str, ...]) -> list[Path]:
    found = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        bare = path.name.lower().removesuffix(".gz")
        stem, _, suffix = bare.rpartition(".")
        fits = not stems or stem in stems or stem.endswith(tuple(f"_{name}" for name in stems))
        if f".{suffix}" in suffixes and fits:
            found.append(path)
    return found


def _one(folder: Path, stems: tuple[str, ...], suffixes: tuple[str, ...], what: str) -> Path:
    found = candidates(folder)[what]
    if len(found) == 1:
        return found[0]
    said = f"{len(found)} that may be it ({', '.join(p.name for p in found)})" if found else "none"
    raise (InputError if found else MissingFile)(
        f"{folder}: the file of the {what} is not clear, there is {said}. Name it "
        f"{stems[0]}{suffixes[0]}, or give {what}=..."
    )
