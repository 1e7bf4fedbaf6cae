"""Genes: counts made comparable between spots, and the gene panels on which methods are judged.

A spot that was sequenced twice as deeply holds twice the counts of every gene.
Dividing by the spot's total takes most of that away, and the logarithm tames the largest genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite.data.sections import (
    check_sections,
    common_genes,
    name_of,
    spot_pitch_um,
    um_per_px,
)

_LOESS_SPANS = (0.3, 0.6, 1.0)  # scanpy's default first; few genes need a wider window
_NEIGHBOUR_PITCHES = 1.6  # reaches eight neighbours on a square lattice, six on a hexagonal one


@dataclass(frozen=True)
class GenePanel:
    """The genes that methods predict, and the named sets of them that tables report.

    Parameters
    ----------
    genes
        The panel: every gene of every set once, highly variable genes first.
    sets
        Named gene sets, best first: ``hvg1000`` and ``hvg50`` (highly variable),
        ``heg50`` (highest mean), ``svg50`` (highest Moran's I).
        A set is smaller than its name says where fewer genes were detected.
    """

    genes: tuple[str, ...]
    sets: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", tuple(self.genes))
        object.__setattr__(self, "sets", {name: tuple(s) for name, s in self.sets.items()})
        if not self.genes:
            raise ValueError("The gene panel is empty. Give at least one gene.")
        if len(set(self.genes)) != len(self.genes):
            twice = pd.Index(self.genes)
            raise ValueError(
                f"The gene panel names {twice[twice.duplicated()][0]!r} twice. Name each gene once."
            )
        for name, genes in self.sets.items():
            strange = sorted(set(genes) - set(self.genes))
            if strange or not genes:
                fault = (
                    f"holds {strange[0]!r}, which is not in the panel" if strange else "is empty"
                )
                raise ValueError(
                    f"Gene set {name!r} {fault}. Build panels with fit_panel(training_sections)."
                )

    def index(self, name: str) -> np.ndarray:
        """Columns of a gene set within the panel: int (genes of the set,)."""
        if name not in self.sets:
            raise ValueError(f"The panel has no gene set {name!r}. It has {', '.join(self.sets)}.")
        return pd.Index(self.genes).get_indexer(list(self.sets[name]))

    def with_set(self, name: str, genes: Sequence[str]) -> GenePanel:
        """Return this panel with one more gene set, whose genes join the panel.

        Raises
        ------
        ValueError
            If the set is empty or names a gene twice.
        """
        if len(set(genes)) != len(genes):
            raise ValueError(f"Gene set {name!r} names a gene twice. Name each gene once.")
        every = tuple(dict.fromkeys([*self.genes, *genes]))
        return GenePanel(every, {**self.sets, name: tuple(genes)})

    def to_dict(self) -> dict:
        """Write the panel as plain lists, ready for JSON."""
        return {"genes": list(self.genes), "sets": {k: list(v) for k, v in self.sets.items()}}

    @classmethod
    def from_dict(cls, value: dict) -> GenePanel:
        """Make the panel that `to_dict` described."""
        return cls(tuple(value["genes"]), value["sets"])


def log_normalise(
    counts: np.ndarray | sparse.spmatrix | AnnData, target_sum: float = 1e4
) -> np.ndarray:
    """log1p of counts per `target_sum`, as scanpy's normalize_total and log1p give.

    Parameters
    ----------
    counts
        Raw counts (spots, genes), or a section. A spot's total is taken over all these genes.
    target_sum
        Total of each spot after scaling.

    Returns
    -------
    float32 (spots, genes), dense.

    Raises
    ------
    ValueError
        If a spot holds no counts at all: it has no composition to speak of.
    """
    return _log_normalised(counts, target_sum).toarray()


def _log_normalised(
    counts: np.ndarray | sparse.spmatrix | AnnData,
    target_sum: float = 1e4,
    genes: Sequence[str] | None = None,
) -> sparse.csr_matrix:
    """Sparse form of `log_normalise`; of a section, only the columns of `genes` if they are given.

    Totals are taken over all genes of the section either way.
    """
    matrix = sparse.csr_matrix(counts.X if isinstance(counts, AnnData) else counts)
    totals = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    if not totals.all():
        first = int(np.argmin(totals))
        label, place = f"row {first}", "The counts"
        if isinstance(counts, AnnData):
            label, place = repr(counts.obs_names[first]), f"Section {name_of(counts)!r}"
        raise ValueError(
            f"{place}: {(totals == 0).sum()} spots hold no counts at all, first {label}, "
            "so they cannot be normalised. Drop them before: counts[counts.sum(axis=1) > 0]."
        )
    if genes is not None:
        matrix = matrix[:, counts.var_names.get_indexer(list(genes))]
    scaled = matrix.astype(np.float64)
    scaled.data *= np.repeat(target_sum / totals, np.diff(scaled.indptr))
    return scaled.log1p().astype(np.float32)


def expression(section: AnnData, panel: GenePanel, *, absent: float | None = None) -> np.ndarray:
    """Log-normalised expression of the panel's genes: float32 (spots, panel genes).

    Parameters
    ----------
    section
        A section with counts.
    panel
        Which genes, in which order.
    absent
        Value for genes that the section does not list.
        Sequencing tables leave out genes that were never counted: 0 is right for those.
        By default such a gene is an error, for it may be a matter of another name.

    Raises
    ------
    ValueError
        If the section holds no expression, lacks genes of the panel, or has a spot without counts.
    """
    place = f"Section {name_of(section)!r}"
    if section.n_vars == 0:
        raise ValueError(
            f"{place} holds no expression; it was hidden. Ask the section it was made from."
        )
    listed = section.var_names.get_indexer(list(panel.genes)) >= 0
    if not listed.all() and absent is None:
        missing = np.array(panel.genes)[~listed]
        raise ValueError(
            f"{place} lacks {len(missing)} of the {len(panel.genes)} genes of the panel, "
            f"first {str(missing[0])!r}. Name genes alike in all sections, fit the panel on genes "
            "that this section holds, or pass absent=0 if genes without a count are not listed."
        )
    values = np.full((section.n_obs, len(panel.genes)), absent or 0.0, dtype=np.float32)
    values[:, listed] = _log_normalised(section, genes=np.array(panel.genes)[listed]).toarray()
    return values


def fit_panel(
    sections: Sequence[AnnData],
    *,
    n_hvg: int = 1000,
    n_small: int = 50,
    min_detected: float = 0.1,
) -> GenePanel:
    """Choose the gene panel on training sections.

    Show it training sections only: a gene chosen because it varies in the test section
    is an answer that leaked.

    Parameters
    ----------
    sections
        Training sections. Only genes that all of them hold can be chosen.
    n_hvg, n_small
        Size of the large set of highly variable genes, and of each small set.
        They name the sets: ``hvg1000``, ``hvg50``, ``heg50``, ``svg50``.
    min_detected
        Smallest share of the pooled training spots with at least one count of a gene.

    Returns
    -------
    GenePanel. Highly variable genes are ranked on counts section by section
    (scanpy's ``seurat_v3``, median rank); highly expressed genes by mean log-normalised
    expression over all spots; spatially variable genes by Moran's I,
    averaged over the sections, zero where a section never sees the gene.
    Ties go by name.

    Raises
    ------
    ValueError
        If a section breaks the contract, the sections share no gene,
        or fewer than two genes are detected often enough.
    """
    if n_hvg < 2 or n_small < 2 or not 0 <= min_detected <= 1:
        raise ValueError(
            f"n_hvg={n_hvg}, n_small={n_small}, min_detected={min_detected}: "
            "set sizes start at 2 genes, and min_detected is a share from 0 to 1."
        )
    check_sections(sections)
    genes = np.array(sorted(common_genes(sections)))
    seen = sum(np.asarray((s[:, genes].X > 0).sum(axis=0)).ravel() for s in sections)
    n_spots = sum(s.n_obs for s in sections)
    genes = genes[(seen >= min_detected * n_spots) & (seen > 0)]
    if len(genes) < 2:
        raise ValueError(
            f"Only {len(genes)} of {len(seen)} shared genes are detected in at least "
            f"{min_detected:.0%} of {n_spots} training spots; a panel needs 2. Lower min_detected."
        )
    normalised = [_log_normalised(s, genes=genes) for s in sections]
    mean = sum(np.asarray(x.sum(axis=0, dtype=np.float64)).ravel() for x in normalised) / n_spots
    variable = _rank_variable(sections, genes, min(n_hvg, len(genes)))
    moran = np.mean(
        [morans_i(s, x.toarray()) for s, x in zip(sections, normalised, strict=True)], axis=0
    )
    sets = {
        f"hvg{n_hvg}": variable,
        f"hvg{n_small}": variable[:n_small],
        f"heg{n_small}": _highest(mean, genes, n_small),
        f"svg{n_small}": _highest(moran, genes, n_small),
    }
    every = [gene for name in sets for gene in sets[name]]
    return GenePanel(tuple(dict.fromkeys(every)), sets)


def _highest(score: np.ndarray, genes: np.ndarray, n: int) -> tuple[str, ...]:
    """Names of the `n` best genes; `genes` are sorted, so a stable sort breaks ties by name."""
    return tuple(genes[np.argsort(-score, kind="stable")[:n]].tolist())


def _rank_variable(sections: Sequence[AnnData], genes: np.ndarray, n: int) -> tuple[str, ...]:
    import scanpy

    counts = sparse.vstack([s[:, genes].X for s in sections], format="csr")
    batch = pd.Categorical(np.repeat(range(len(sections)), [s.n_obs for s in sections]))
    obs = pd.DataFrame({"section": batch}, index=[str(i) for i in range(counts.shape[0])])
    pooled = AnnData(X=counts, obs=obs, var=pd.DataFrame(index=genes))
    for span in _LOESS_SPANS:
        try:
            table = scanpy.pp.highly_variable_genes(
                pooled,
                flavor="seurat_v3",
                n_top_genes=n,
                batch_key="section",
                span=span,
                inplace=False,
            )
            break
        except ValueError as error:  # the loess fit has too few different means in its window
            failure = error
    else:
        raise ValueError(
            f"Genes could not be ranked by variance ({failure}). {len(genes)} genes in "
            f"{pooled.n_obs} spots are too few or too alike: add sections or lower min_detected."
        ) from failure
    table = table.assign(gene=genes).sort_values(
        ["highly_variable_rank", "highly_variable_nbatches", "gene"],
        ascending=[True, False, True],
    )
    return tuple(table["gene"].iloc[:n])


def morans_i(section: AnnData, values: np.ndarray) -> np.ndarray:
    """Moran's I of each column: how alike neighbouring spots are, from about 0 to 1.

    ``I = n / W * sum_ij w_ij z_i z_j / sum_i z_i^2`` with z the values less their mean, and w_ij
    the weights between neighbouring spots, which sum to one per spot (W is their total).

    Parameters
    ----------
    section
        Gives the positions of the spots.
    values
        (spots, columns), such as log-normalised expression.

    Returns
    -------
    ndarray, (columns,); 0 where a column is constant.
    """
    from scanpy.metrics import morans_i as scanpy_morans_i
    from sklearn.preprocessing import normalize

    columns = np.ascontiguousarray(values.T)  # (columns, spots)
    varies = columns.max(axis=1) > columns.min(axis=1)
    score = np.zeros(len(columns))
    if varies.any():
        graph = normalize(neighbour_graph(section), norm="l1")
        score[varies] = scanpy_morans_i(graph, columns[varies])
    return score


def neighbour_graph(section: AnnData) -> sparse.csr_matrix:
    """Which spots lie next to one another on the lattice: (spots, spots), 0 or 1."""
    from sklearn.neighbors import radius_neighbors_graph

    reach = _NEIGHBOUR_PITCHES * spot_pitch_um(section) / um_per_px(section)
    return radius_neighbors_graph(section.obsm["spatial"], reach)
