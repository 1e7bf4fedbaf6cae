"""Genes of the synthetic tissue: their names, and each cell type's expression profile.

Symbols of known markers are borrowed for readability; no number here was ever measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from heclip_lite.data.synthetic.anatomy import CELL_TYPES

MARKERS = {
    "tumour": "EPCAM KRT8 KRT18 KRT19 ERBB2 MUC1 TFF3 AGR2 XBP1 CD24",
    "cycling": "MKI67 TOP2A CCNB1 CDK1 UBE2C BIRC5 TYMS PCNA STMN1",
    "luminal": "SCGB2A2 SCGB1D2 PIP LTF SLPI WFDC2 KRT15 ANKRD30A",
    "myoepithelial": "KRT5 KRT14 KRT17 OXTR TP63 DST MYLK",
    "fibroblast": "DCN LUM PDGFRA FBLN1 SFRP2 COL1A2 GSN",
    "myofibroblast": "COL1A1 COL3A1 POSTN ACTA2 TAGLN FAP COL11A1 THBS2",
    "lymphocyte": "PTPRC CD3E CD8A CD2 TRAC IL7R CCL5 CD52",
    "adipocyte": "ADIPOQ PLIN1 FABP4 LPL CIDEC PLIN4 LEP",
    "endothelial": "PECAM1 VWF CLDN5 CDH5 EMCN",
}
# Bound to a visible type, but at a level that the image does not show: clones, states, subtypes.
PARTLY = {
    "tumour": "ESR1 PGR GRB7 S100A9 CEACAM6 HLA-DRA",
    "luminal": "AREG PROM1 ELF5",
    "fibroblast": "CXCL12 CXCL14 APOD",
    "myofibroblast": "MMP11 CTHRC1 SFRP4",
    "lymphocyte": "MS4A1 CD79A IGHG1 CXCL13 GZMB FOXP3",
    "endothelial": "ACKR1 PLVAP",
}
HOUSEKEEPING = (
    "ACTB GAPDH B2M TPT1 EEF1A1 RPLP0 RPLP1 RPL13A RPL3 RPS18 RPS27A RPS6 FAU UBC PPIA TMSB10 "
    "HSP90AB1 MALAT1 NACA EIF1"
)
# Kind of gene: how far morphology determines it, and its share of the genes and of the transcripts.
# Shares of transcripts are the same everywhere, so one kind never leaks into another.
KINDS = {
    "marker": ("determined", 0.45),
    "state": ("partly", 0.20),  # a cell type's gene, times a hidden field of the donor
    "position": ("none", 0.12),  # a hidden field of the donor: shared by serial sections
    "section": ("none", 0.08),  # a hidden field of this section alone
    "housekeeping": ("none", 0.15),  # the same everywhere
}
HIDDEN_FIELDS = {"state": 6, "position": 4, "section": 3}  # hidden fields behind each kind
SYMBOLS = {"marker": MARKERS, "state": PARTLY, "housekeeping": {"": HOUSEKEEPING}}
MIN_GENES = 60


@dataclass(frozen=True)
class GeneModel:
    """What all donors share: genes, each type's profile, loadings on the hidden fields."""

    genes: pd.DataFrame
    profiles: np.ndarray  # (types, genes)
    loadings: dict[str, np.ndarray]  # kind of gene -> (fields, genes of that kind)


@lru_cache(maxsize=8)
def gene_model(seed: int, n_genes: int) -> GeneModel:
    """Name the genes and draw their profiles."""
    rng = np.random.default_rng([seed, 11, n_genes])
    counts = np.diff(np.round(n_genes * np.cumsum([0, *(share for _, share in KINDS.values())])))
    fillers = (f"GENE{i:04d}" for i in range(1, n_genes + 1))
    rows, profiles, loadings = [], [], {}
    for (kind, (morphology, _)), count in zip(KINDS.items(), counts.astype(int), strict=True):
        symbols = {owner: iter(names.split()) for owner, names in SYMBOLS.get(kind, {}).items()}
        owners = CELL_TYPES if kind == "marker" else tuple(symbols) or ("",)
        profile = np.tile(rng.lognormal(0, 0.8, count), (len(CELL_TYPES), 1))
        for i in range(count):
            owner = owners[i % len(owners)]
            name = next(symbols.get(owner, iter(())), None) or next(fillers)
            rows.append((name, morphology, kind, owner))
            if owner:
                fold = rng.uniform(1.4, 3.2) if kind == "marker" else rng.uniform(1.0, 2.2)
                profile[:, i] *= np.exp(rng.normal(0, 0.25, len(CELL_TYPES)))
                profile[CELL_TYPES.index(owner), i] *= np.exp(fold)
        profiles.append(profile)
        if kind in HIDDEN_FIELDS:
            # Each gene follows one field, up or down.
            loading = np.zeros((HIDDEN_FIELDS[kind], count))
            sign = rng.choice([-1, 1], count) * rng.uniform(0.5, 1.0, count)
            loading[rng.integers(0, len(loading), count), np.arange(count)] = sign
            loadings[kind] = loading
    columns = ["gene", "morphology", "kind", "marker_of"]
    genes = pd.DataFrame(rows, columns=columns).set_index("gene")
    return GeneModel(genes, np.concatenate(profiles, axis=1), loadings)
