"""Names of genes: cleaned, added up where one occurs twice, and matched between sections.

Sections come with symbols, with Ensembl ids, or with ids that carry a version.
Sections can be pooled only under common names, and what is lost on the way must be seen.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite.data.readers.files import InputError, read_rows
from heclip_lite.data.sections import check_section, common_genes, name_of

IDS, SYMBOLS = "gene_ids", "gene_name"  # columns of var that readers fill
_COLUMNS = {
    "ids": (IDS, "gene_id", "ensembl_id", "ensembl", "ensembl_ids", "feature_id", "ensemblid"),
    "symbols": (SYMBOLS, "gene_names", "gene_symbol", "gene_symbols", "symbol", "symbols",
                "feature_name", "hgnc_symbol", "name"),
}  # fmt: skip
_ENSEMBL = re.compile(r"(ENS[A-Z]{0,6}G\d{11})(\.\d+(_PAR_Y)?)?")
_DATE = re.compile(
    r"(\d{1,2}-(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
    r"|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)-\d{1,2})",
    re.IGNORECASE,
)
_OTHER_WAY = {"ids": "symbols", "symbols": "ids"}


def strip_version(name: str) -> str:
    """An Ensembl gene id without its version; any other name as it is.

    Examples
    --------
    >>> strip_version("ENSG00000141736.13"), strip_version("ERBB2")
    ('ENSG00000141736', 'ERBB2')
    """
    match = _ENSEMBL.fullmatch(name)
    return match[1] if match else name


def kind_of(names: Iterable[str]) -> str:
    """``"ids"`` if most of the names are Ensembl gene ids, else ``"symbols"``."""
    names = list(names)
    found = sum(bool(_ENSEMBL.fullmatch(name.split(";")[0])) for name in names)
    return "ids" if 2 * found > len(names) else "symbols"


def clean(names: Iterable[object], place: str) -> pd.Index:
    """Names of genes without spaces around them.

    Names that a spreadsheet has made into dates are kept, with a warning.

    Raises
    ------
    InputError
        If a name is empty, or holds spaces or other unprintable signs.
    """
    found = pd.Index([str(name).strip() for name in names])
    empty = np.flatnonzero((found == "") | (found == "nan"))
    if len(empty):
        raise InputError(
            f"{place}: {len(empty)} genes have no name, first the one at place {empty[0] + 1}. "
            "Name each gene, or drop its counts."
        )
    odd = [name for name in found if not name.isprintable() or any(c.isspace() for c in name)]
    if odd:
        raise InputError(
            f"{place}: {len(odd)} gene names hold spaces, first {odd[0]!r}. "
            "Correct the names, or the delimiter between them."
        )
    dates = [name for name in found if _DATE.fullmatch(name)]
    if dates:
        warnings.warn(
            f"{place}: {len(dates)} gene names look like dates, first {dates[0]!r}: "
            "a spreadsheet changed them. Take the table from before.",
            stacklevel=2,
        )
    return found


def add_up(counts: sparse.spmatrix, names: pd.Index) -> tuple[sparse.csr_matrix, pd.Index]:
    """Add up the columns that share a name; names keep the order of their first occurrence.

    Parameters
    ----------
    counts
        (spots, columns)
    names
        One per column.

    Returns
    -------
    (counts, names)
        (spots, different names), and the names.
    """
    codes, unique = pd.factorize(names)
    if len(unique) == len(names):
        return sparse.csr_matrix(counts), pd.Index(names)
    where = (np.ones(len(names)), (np.arange(len(names)), codes))
    return sparse.csr_matrix(counts @ sparse.csr_matrix(where)), pd.Index(unique)


def joined(values: pd.Index, names: pd.Index) -> pd.Index:
    """For each different name, its values, several joined by a semicolon."""
    table = pd.DataFrame({"name": np.asarray(names), "value": np.asarray(values)})
    table = table.drop_duplicates()
    return pd.Index(table.groupby("name", sort=False)["value"].agg(";".join))


def read_table(table: pd.DataFrame | str | os.PathLike) -> dict[str, str]:
    """Ensembl id to symbol, from a table whose columns are recognised by what they hold.

    Raises
    ------
    InputError
        If no column holds Ensembl gene ids, or no other one is there.
    """
    if not isinstance(table, pd.DataFrame):
        path = table
        header, rows = read_rows(path, "table of genes", dtype=str)
        first = pd.DataFrame([header]) if rows.shape[1] == len(header) else None
        table = pd.concat([first, rows.set_axis(range(rows.shape[1]), axis=1)], ignore_index=True)
    columns = [table.iloc[:, i].astype(str).str.strip() for i in range(table.shape[1])]
    ids = next((c for c in columns if kind_of(c) == "ids"), None)
    symbols = next((c for c in columns if kind_of(c) != "ids"), None)
    if ids is None or symbols is None:
        raise InputError(
            "The table of genes needs a column of Ensembl gene ids and one of symbols."
        )
    known = zip(map(strip_version, ids), symbols, strict=True)
    return {i: symbol for i, symbol in known if _ENSEMBL.fullmatch(i) and symbol}


def match_genes(
    sections: Sequence[AnnData],
    *,
    to: str | None = None,
    table: pd.DataFrame | str | os.PathLike | None = None,
    at_least: int = 20,
) -> tuple[list[AnnData], pd.DataFrame]:
    """Give sections the same genes under the same names, and report what that costs.

    Ensembl ids lose their versions.
    Where sections are named differently, names are translated through the columns of ``var``
    (``gene_ids``, ``gene_name`` and their like, pooled over all sections) and through `table`.
    Columns that then share a name are added up; genes that a section lacks are left out of all.

    Parameters
    ----------
    sections
        Sections with counts; they are not changed.
    to
        ``"symbols"`` or ``"ids"``. By default what the sections have in common;
        where they differ, symbols.
    table
        A table, or a file, with Ensembl ids and symbols.
    at_least
        Fewest genes that must remain.

    Returns
    -------
    (sections, report)
        New sections, and one row per section: ``section``, ``names`` (what it came with),
        ``before``, ``renamed``, ``unknown`` (no translation), ``merged`` (columns added to
        another), ``not_shared`` (missing in another section), ``dropped`` (unknown and not
        shared), ``kept``, ``counts_kept`` (share of all counts), and ``spots_lost`` (spots that
        held counts of dropped genes only).
        Layers survive only where no columns were added up.

    Raises
    ------
    ValueError
        If `to` is unknown, a section breaks the contract, or fewer genes remain.
    """
    if to not in (None, "symbols", "ids"):
        raise InputError(f"to={to!r}; choose 'symbols' or 'ids'.")
    if isinstance(sections, AnnData) or not len(sections):
        raise InputError("match_genes needs a list with at least one section.")
    for section in sections:
        check_section(section)
    kinds = [kind_of(section.var_names) for section in sections]
    to = to or (kinds[0] if len(set(kinds)) == 1 else "symbols")
    known = _dictionary(sections, kinds, table, to)
    done, rows = [], []
    for section, kind in zip(sections, kinds, strict=True):
        made, row = _renamed(section, kind, to, known)
        done.append(made)
        rows.append(row)
    shared = common_genes(done)
    if len(shared) < at_least:
        raise InputError(_too_few(done, shared, kinds, to, at_least))
    for i, (section, made) in enumerate(zip(sections, done, strict=True)):
        done[i] = made[:, shared].copy()
        total = float(section.X.sum())
        seen = np.asarray(done[i].X.sum(axis=1)).ravel() > 0
        if not seen.all():
            done[i] = done[i][seen].copy()
        rows[i] |= {
            "not_shared": made.n_vars - len(shared),
            "dropped": made.n_vars - len(shared) + rows[i]["unknown"],
            "kept": len(shared),
            "counts_kept": float(done[i].X.sum()) / total,
            "spots_lost": int((~seen).sum()),
        }
        check_section(done[i])
    return done, pd.DataFrame(rows)


def _column(section: AnnData, kind: str) -> pd.Series | None:
    lower = {str(column).lower(): column for column in section.var}
    found = next((lower[name] for name in _COLUMNS[kind] if name in lower), None)
    return None if found is None else section.var[found].astype(str)


def _dictionary(sections, kinds, table, to: str) -> dict[str, str]:
    """Other name to wanted name, from the table and from whatever sections know."""
    pairs: dict[str, str] = {}
    if table is not None:
        pairs |= read_table(table)
    for section, kind in zip(sections, kinds, strict=True):
        other = _column(section, _OTHER_WAY[kind])
        if other is not None:
            names = [strip_version(name) for name in section.var_names]
            both = zip(names, map(strip_version, other), strict=True)
            pairs |= {b: a for a, b in both} if kind == "symbols" else dict(both)
    pairs = {i: symbol for i, symbol in pairs.items() if symbol not in ("", "nan", "None")}
    return pairs if to == "symbols" else {symbol: i for i, symbol in pairs.items()}


def _renamed(section: AnnData, kind: str, to: str, known: dict[str, str]):
    """A section under the wanted names, with its report so far."""
    old = pd.Index([strip_version(name) for name in section.var_names])
    if kind == to:
        new = pd.Series(old, dtype=object)
    else:
        own = _column(section, to)
        own = dict(zip(old, map(strip_version, own), strict=True)) if own is not None else {}
        own = {a: b for a, b in own.items() if b not in ("", "nan", "None")}
        new = pd.Series([own.get(name, known.get(name)) for name in old], dtype=object)
    found = new.notna().to_numpy()
    if not found.any():
        raise InputError(
            f"Section {name_of(section)!r}: none of its {section.n_vars} genes "
            f"({', '.join(section.var_names[:3])}, ...) has a known name among the {to}. "
            "Give match_genes(table=...), a table of Ensembl ids and symbols."
        )
    counts, names = add_up(section[:, found].X, pd.Index(new[found]))
    made = AnnData(
        X=sparse.csr_matrix(counts, dtype=np.float32),
        obs=section.obs.copy(),
        var=pd.DataFrame(index=names),
        obsm={key: value for key, value in section.obsm.items()},
        uns=dict(section.uns),
    )
    if kind != to:
        made.var[IDS if kind == "ids" else SYMBOLS] = joined(old[found], pd.Index(new[found]))
    elif (other := _column(section, _OTHER_WAY[kind])) is not None:
        made.var[SYMBOLS if kind == "ids" else IDS] = joined(pd.Index(other[found]), new[found])
    if len(names) == found.sum():
        for key, layer in section.layers.items():
            made.layers[key] = layer[:, found]
    row = {
        "section": name_of(section),
        "names": kind,
        "before": section.n_vars,
        "renamed": int((new[found].to_numpy() != section.var_names[found].to_numpy()).sum()),
        "unknown": int((~found).sum()),
        "merged": int(found.sum()) - len(names),
    }
    return made, row


def _too_few(sections, shared, kinds, to: str, at_least: int) -> str:
    examples = "; ".join(f"{name_of(s)}: {', '.join(s.var_names[:3])}, ..." for s in sections[:3])
    folded = set.intersection(*({name.casefold() for name in s.var_names} for s in sections))
    if len(folded) >= at_least:
        hint = "Upper and lower case differ: mouse and human genes, or one table was changed."
    elif len(set(kinds)) > 1:
        hint = "Give table=..., a table of Ensembl ids and symbols."
    else:
        hint = "Do they come from the same species and panel? Lower at_least if this is meant."
    return (
        f"Only {len(shared)} {to} are shared by all {len(sections)} sections ({examples}), "
        f"fewer than {at_least}. {hint}"
    )
