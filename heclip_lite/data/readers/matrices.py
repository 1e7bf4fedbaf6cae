"""Counts as 10x Genomics writes them: one HDF5 file, or a folder of three.

Both are read here with h5py and scipy and not through scanpy: every index is checked before it is
used (a damaged file may point outside the matrix), and file names may carry a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from heclip_lite.data.readers.files import InputError, existing, explained, open_text

_GENES = "Gene Expression"


@dataclass(frozen=True)
class Counts:
    """Raw counts with the names of their rows and columns.

    Attributes
    ----------
    matrix
        CSR (spots, genes).
    spots
        Barcodes or other names of the rows.
    genes
        Names of the columns, as far as possible symbols.
    ids
        Further identifiers of the columns, such as Ensembl's; or None.
    source
        Where they come from, for messages.
    """

    matrix: sparse.csr_matrix
    spots: pd.Index
    genes: pd.Index
    ids: pd.Index | None
    source: str


def read_10x_h5(path: str | Path) -> Counts:
    """Counts of a ``*_feature_bc_matrix.h5`` file, of Cell or Space Ranger 2 and later.

    Only gene expression is kept where the file holds other features too.

    Raises
    ------
    MissingFile
        If it is not there.
    InputError
        If it is damaged or holds no such matrix.
    """
    import h5py

    path = existing(path, "counts")
    with explained(path, "counts"), h5py.File(path, "r") as file:
        group = file.get("matrix")
        if not isinstance(group, h5py.Group):
            found = [key for key in file if isinstance(file[key], h5py.Group)]
            if len(found) != 1 or "gene_names" not in file[found[0]]:
                raise InputError(
                    f"{path} (counts) holds no group 'matrix', so it is no feature-barcode matrix "
                    f"of 10x Genomics; it holds {', '.join(file) or 'nothing'}."
                )
            group = file[found[0]]
        names = group.get("features", group)
        missing = [key for key in ("barcodes", "data", "indices", "indptr", "shape")
                   if key not in group]  # fmt: skip
        if missing:
            raise InputError(f"{path} (counts) lacks matrix/{missing[0]}. Copy it again.")
        symbols = _text(names["name"] if "name" in names else names["gene_names"])
        ids = _text(names["id"] if "id" in names else names["genes"])
        kinds = _text(names["feature_type"]) if "feature_type" in names else None
        shape = tuple(int(n) for n in group["shape"][:])  # genes, spots
        barcodes = _text(group["barcodes"])
        if shape != (len(symbols), len(barcodes)) or len(ids) != len(symbols):
            raise InputError(
                f"{path} (counts): the matrix is {shape}, but {len(symbols)} genes and "
                f"{len(barcodes)} barcodes are named. Copy it again."
            )
        parts = [group[key][:] for key in ("data", "indices", "indptr")]
        matrix = sparse.csc_matrix(tuple(parts), shape=shape)
        matrix.check_format(full_check=True)
        return _genes_only(matrix.T.tocsr(), barcodes, symbols, ids, kinds, str(path))


def _text(dataset) -> pd.Index:
    return pd.Index([v.decode() if isinstance(v, bytes) else str(v) for v in dataset[:]])


def _genes_only(matrix, barcodes, symbols, ids, kinds, source: str) -> Counts:
    if kinds is not None:
        kept = np.asarray(kinds == _GENES)
        if not kept.any():
            raise InputError(f"{source} (counts) holds no feature of type {_GENES!r}.")
        if not kept.all():
            matrix, symbols, ids = matrix[:, kept], symbols[kept], ids[kept]
    return Counts(sparse.csr_matrix(matrix, dtype=np.float64), barcodes, symbols, ids, source)


def read_10x_mtx(folder: str | Path, prefix: str = "") -> Counts:
    """Counts of a folder with a matrix, its features (or genes) and its barcodes.

    Each file may be packed with gzip, and its name may begin with `prefix`.

    Raises
    ------
    MissingFile
        If one of the three is not there.
    InputError
        If one is damaged, or they do not fit together.
    """
    from scipy.io import mmread

    folder = existing(folder, "counts", folder=True)
    path = part(folder, prefix, "matrix.mtx")
    features = _column_file(part(folder, prefix, "features.tsv", "genes.tsv"), "genes")
    barcodes = _column_file(part(folder, prefix, "barcodes.tsv"), "barcodes")
    with open_text(path, "counts") as handle:
        first = handle.readline()
        if not first.startswith("%%MatrixMarket"):
            raise InputError(f"{path} (counts) does not begin with %%MatrixMarket. Copy it again.")
        line = next((line for line in handle if not line.startswith("%")), "")
        shape = tuple(int(word) for word in line.split()[:2] if word.isdigit())
    expected = (len(features), len(barcodes))
    if shape != expected:
        hint = " It lies on its side: genes are its rows." if shape == expected[::-1] else ""
        raise InputError(
            f"{path} (counts) announces {' x '.join(map(str, shape)) or 'no size'}, but "
            f"{len(features)} genes and {len(barcodes)} barcodes are named.{hint} "
            "Take all three files from the same run."
        )
    with explained(path, "counts"):
        matrix = sparse.csr_matrix(mmread(path)).T.tocsr()
    ids = pd.Index(features[0])
    symbols = pd.Index(features[1]) if features.shape[1] > 1 else ids
    kinds = pd.Index(features[2]) if features.shape[1] > 2 else None
    return _genes_only(matrix, pd.Index(barcodes[0]), symbols, ids, kinds, str(path))


def part(folder: Path, prefix: str, *names: str) -> Path:
    """The first of these files that a folder holds, packed or not."""
    wanted = [folder / f"{prefix}{name}{end}" for name in names for end in ("", ".gz")]
    found = next((path for path in wanted if path.exists() or path.is_symlink()), wanted[0])
    return existing(found, names[0])


def _column_file(path: Path, what: str) -> pd.DataFrame:
    """A table without a header, separated by tabs: one row per gene or barcode."""
    with open_text(path, what) as handle:
        rows = pd.read_csv(handle, sep="\t", header=None, dtype=str, na_filter=False)
    if rows.isna().any(axis=None):
        raise InputError(f"{path} ({what}): its rows differ in length. Copy it again.")
    return rows
