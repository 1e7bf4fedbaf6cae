"""Normalisation and gene panels, checked against scanpy and against planted patterns."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from heclip_lite.data.genes import GenePanel, expression, fit_panel, log_normalise, morans_i
from heclip_lite.data.her2st import read_her2st
from heclip_lite.data.sections import hide_expression, make_section


@pytest.fixture
def toy_pair(toy_parts):
    """Two sections; the second holds other counts of the same genes in another order."""
    second = toy_parts | {"name": "T2", "genes": toy_parts["genes"][::-1]}
    second["counts"] = np.random.default_rng(1).poisson(toy_parts["counts"])[:, ::-1]
    return [make_section(**toy_parts), make_section(**second)]


def by_scanpy(section, target_sum=1e4):
    import scanpy

    copy = AnnData(section.X.copy())
    scanpy.pp.normalize_total(copy, target_sum=target_sum)
    scanpy.pp.log1p(copy)
    return copy.X.toarray()


# --- Normalisation --------------------------------------------------------------------------


@pytest.mark.parametrize("target_sum", [1e4, 1e6])
def test_log_normalise_equals_scanpy(toy_section, target_sum):
    expected = by_scanpy(toy_section, target_sum)
    dense = toy_section.X.toarray()
    for counts in (toy_section, toy_section.X, dense, dense.astype(int), sparse.csc_array(dense)):
        result = log_normalise(counts, target_sum)
        assert result.dtype == np.float32
        assert isinstance(result, np.ndarray)
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_log_normalise_by_hand():
    result = log_normalise(np.array([[1, 3], [0, 5]]), target_sum=100)
    np.testing.assert_allclose(result, np.log([[26, 76], [1, 101]]), rtol=1e-6)


def test_counts_are_left_alone(toy_section):
    before = toy_section.X.toarray()
    log_normalise(toy_section)
    expression(toy_section, GenePanel(("GENE3",), {}))
    np.testing.assert_array_equal(toy_section.X.toarray(), before)


def test_spots_without_counts(toy_section):
    toy_section.X = sparse.csr_matrix(toy_section.X.toarray() * (np.arange(36) != 5)[:, None])
    with pytest.raises(
        ValueError, match=r"Section 'T1': 1 spots hold no counts at all, first 'T1_5'"
    ):
        log_normalise(toy_section)
    with pytest.raises(ValueError, match=r"'T1_5', so they cannot be normalised. Drop them"):
        expression(toy_section, GenePanel(("GENE3",), {}))
    with pytest.raises(ValueError, match=r"2 spots hold no counts at all, first row 1"):
        log_normalise(np.array([[1, 0], [0, 0], [0, 0]]))


def test_expression_uses_the_library_of_all_genes(toy_section):
    panel = GenePanel(("GENE7", "GENE2", "GENE50"), {})
    result = expression(toy_section, panel)
    np.testing.assert_allclose(result, by_scanpy(toy_section)[:, [7, 2, 50]], rtol=1e-6)
    assert result.dtype == np.float32


def test_expression_of_a_section_that_lacks_genes(toy_section):
    with pytest.raises(ValueError, match=r"'T1' lacks 2 of the 3 genes of the panel, first 'B'"):
        expression(toy_section, GenePanel(("GENE7", "B", "A"), {}))
    with pytest.raises(ValueError, match=r"Section 'T1' holds no expression; it was hidden"):
        expression(hide_expression(toy_section), GenePanel(("GENE7",), {}))


# --- The panel ------------------------------------------------------------------------------


def test_panel_round_trip():
    panel = GenePanel(("B", "A", "C"), {"hvg50": ("B", "A"), "svg50": ("C", "B")})
    again = GenePanel.from_dict(json.loads(json.dumps(panel.to_dict())))
    assert again == panel
    assert again.index("svg50").tolist() == [2, 0]


@pytest.mark.parametrize(
    ("genes", "sets", "match"),
    [
        ((), {}, "panel is empty"),
        (("A", "B", "A"), {}, "names 'A' twice"),
        (("A",), {"hvg50": ("A", "Z")}, "'hvg50' holds 'Z', which is not in the panel"),
        (("A",), {"hvg50": ()}, "'hvg50' is empty"),
    ],
)
def test_panels_that_make_no_sense(genes, sets, match):
    with pytest.raises(ValueError, match=match):
        GenePanel(genes, sets)


def test_unknown_set():
    with pytest.raises(ValueError, match=r"no gene set 'hvg9'. It has hvg50"):
        GenePanel(("A",), {"hvg50": ("A",)}).index("hvg9")


# --- Fitting a panel ------------------------------------------------------------------------


def test_sets_and_panel(toy_pair):
    panel = fit_panel(toy_pair, n_hvg=30, n_small=10)
    assert {name: len(genes) for name, genes in panel.sets.items()} == {
        "hvg30": 30,
        "hvg10": 10,
        "heg10": 10,
        "svg10": 10,
    }
    assert panel.genes[:30] == panel.sets["hvg30"]
    assert panel.sets["hvg10"] == panel.sets["hvg30"][:10]
    assert set(panel.genes) == set().union(*panel.sets.values())
    assert list(fit_panel(toy_pair[:1]).sets) == ["hvg1000", "hvg50", "heg50", "svg50"]


def test_smaller_sets_where_genes_are_few(toy_pair):
    panel = fit_panel(toy_pair)
    detected = sum((s[:, sorted(s.var_names)].X > 0).sum(axis=0).A1 for s in toy_pair) >= 7.2
    assert len(panel.genes) == len(panel.sets["hvg1000"]) == detected.sum()
    assert len(panel.sets["svg50"]) == 50


def test_order_of_sections_and_genes_does_not_matter(toy_pair):
    assert fit_panel(toy_pair) == fit_panel(toy_pair[::-1]) == fit_panel(toy_pair)


def test_highly_expressed_genes(toy_pair):
    panel = fit_panel(toy_pair, n_small=10)
    names = sorted(toy_pair[0].var_names)
    both = np.concatenate([by_scanpy(s[:, names]) for s in toy_pair])
    expected = pd.Series(both.mean(axis=0), names).nlargest(10)
    assert panel.sets["heg10"] == tuple(expected.index)


def test_highly_variable_genes_are_those_of_scanpy(toy_pair):
    import anndata
    import scanpy

    pooled = anndata.concat(toy_pair)
    pooled.obs_names_make_unique()
    pooled = pooled[:, (pooled.X > 0).mean(axis=0).A1 >= 0.1].copy()
    table = scanpy.pp.highly_variable_genes(
        pooled, flavor="seurat_v3", n_top_genes=25, batch_key="section", inplace=False
    )
    table.index = pooled.var_names
    panel = fit_panel(toy_pair, n_hvg=25)
    assert set(panel.sets["hvg25"]) == set(table.index[table["highly_variable"]])
    ranks = table["highly_variable_rank"].loc[list(panel.sets["hvg25"])]
    assert ranks.is_monotonic_increasing


def test_spatially_variable_genes_are_the_planted_ones(toy_pair):
    best = fit_panel(toy_pair, n_small=10).sets["svg10"]
    assert all(int(gene[4:]) < 40 for gene in best)  # half of the genes follow the position


def test_moran_by_hand(toy_section):
    """Eight neighbours on the lattice, weights summing to one per spot."""
    score = morans_i(toy_section, by_scanpy(toy_section))
    values, lattice = by_scanpy(toy_section)[:, 11], toy_section.obs[["array_row", "array_col"]]
    gaps = np.abs(lattice.to_numpy()[:, None] - lattice.to_numpy()[None]).max(axis=-1)
    weights = (gaps == 1) / (gaps == 1).sum(axis=1, keepdims=True)
    z = values - values.mean()
    assert score[11] == pytest.approx(z @ weights @ z / (z @ z), abs=1e-5)


def test_unseen_gene_in_one_section_counts_as_no_structure(toy_pair):
    position = toy_pair[1].var_names.get_loc("GENE0")
    counts = toy_pair[1].X.toarray()
    counts[:, position] = 0
    toy_pair[1].X = sparse.csr_matrix(counts)
    assert morans_i(toy_pair[1], by_scanpy(toy_pair[1]))[position] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # scanpy: "genes are constant"
        fit_panel(toy_pair)


def test_rare_genes_are_left_out(toy_pair):
    for section in toy_pair:
        counts = section.X.toarray()
        counts[3:, section.var_names.get_loc("GENE60")] = 0  # 3 of 36 spots at most
        counts[:, section.var_names.get_loc("GENE61")] = 0
        section.X = sparse.csr_matrix(counts)
    assert not {"GENE60", "GENE61"} & set(fit_panel(toy_pair).genes)
    assert "GENE60" in fit_panel(toy_pair, min_detected=0.02).genes
    assert "GENE61" not in fit_panel(toy_pair, min_detected=0).genes


def test_ties_go_by_name(toy_pair):
    """Copies of one gene: every score is the same, so names decide."""
    for section in toy_pair:
        counts = section.X.toarray()
        top = counts.sum(axis=0).argmax()
        for gene in ("GENE79", "GENE70", "GENE75"):
            counts[:, section.var_names.get_loc(gene)] = counts[:, top] + 5
        section.X = sparse.csr_matrix(counts)
    assert fit_panel(toy_pair, n_small=3).sets["heg3"] == ("GENE70", "GENE75", "GENE79")


def test_only_shared_genes(toy_pair):
    first = toy_pair[0][:, 10:].copy()
    panel = fit_panel([first, toy_pair[1]])
    assert set(panel.genes) <= set(first.var_names)


def test_few_genes_are_enough(toy_pair):
    """With a dozen genes scanpy's default smoothing window is too narrow."""
    names = [f"GENE{i}" for i in range(12)]
    small = [section[:, names].copy() for section in toy_pair]
    assert set(fit_panel(small).genes) <= set(names)


def test_nothing_to_choose_from(toy_pair, toy_parts):
    with pytest.raises(ValueError, match=r"list of sections is empty"):
        fit_panel([])
    strange = make_section(**toy_parts | {"name": "T3", "genes": [f"ENSG{i}" for i in range(80)]})
    with pytest.raises(ValueError, match=r"The 2 sections have no genes in common"):
        fit_panel([toy_pair[0], strange])
    with pytest.raises(ValueError, match=r"Section 'T1' holds no genes.*hidden"):
        fit_panel([hide_expression(toy_pair[0])])
    for section in toy_pair:
        counts = section.X.toarray()
        counts[:, [i for i, gene in enumerate(section.var_names) if gene != "GENE1"]] = 0
        counts[:, section.var_names.get_loc("GENE1")] += 1
        section.X = sparse.csr_matrix(counts)
    with pytest.raises(ValueError, match=r"Only 1 of 80 shared genes are detected.*at least 10%"):
        fit_panel(toy_pair)


@pytest.mark.parametrize("change", [{"n_hvg": 1}, {"n_small": 0}, {"min_detected": 1.5}])
def test_wrong_questions(toy_pair, change):
    with pytest.raises(ValueError, match=r"set sizes start at 2 genes"):
        fit_panel(toy_pair, **change)


@pytest.mark.real_data
def test_panel_of_real_sections(her2st_dir):
    training = read_her2st(["C2", "C3", "C4", "C5"])
    panel = fit_panel(training)
    assert [len(genes) for genes in panel.sets.values()] == [1000, 50, 50, 50]
    assert {"FABP7", "CEACAM6", "SCGB2A2"} <= set(panel.sets["svg50"])
    assert {"IGKC", "ERBB2", "ACTB"} <= set(panel.sets["heg50"])  # HER2 is its product
    assert expression(training[0], panel).shape == (187, len(panel.genes))


def test_genes_that_a_table_does_not_list_can_stand_for_zero(toy_pair):
    panel = fit_panel(toy_pair)
    whole = expression(toy_pair[0], panel)
    gene = panel.genes[3]
    shorter = toy_pair[0][:, toy_pair[0].var_names != gene].copy()
    with pytest.raises(ValueError, match=f"lacks 1 of .* first '{gene}'.*absent=0"):
        expression(shorter, panel)
    filled = expression(shorter, panel, absent=0)
    assert (filled[:, 3] == 0).all()
    others = [i for i in range(len(panel.genes)) if i != 3]
    # The library is smaller without the gene, hence the levels of the others are higher.
    assert (filled[:, others] >= whole[:, others]).all()
