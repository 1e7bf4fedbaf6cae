"""Names of genes: what is added up, translated and lost when sections are matched."""

from __future__ import annotations

import layouts
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from heclip_lite.data import sections
from heclip_lite.data.readers import gene_ids


@pytest.fixture
def section():
    return layouts.drawn_section()


def renamed(section, names, **columns):
    """The same section under other names."""
    made = section.copy()
    made.var_names = list(names)
    for column, values in columns.items():
        made.var[column] = list(values)
    return made


def as_other(section, name):
    """The same section under another name of its own."""
    made = section.copy()
    made.obs["section"] = name
    made.uns["spatial"] = {name: next(iter(section.uns["spatial"].values()))}
    return made


def test_versions_go():
    assert gene_ids.strip_version("ENSG00000141736.13") == "ENSG00000141736"
    assert gene_ids.strip_version("ENSMUSG00000041736.2") == "ENSMUSG00000041736"
    assert gene_ids.strip_version("ENSG00000182378.15_PAR_Y") == "ENSG00000182378"
    assert gene_ids.strip_version("AL627309.1") == "AL627309.1"  # a symbol with a point


def test_the_same_names_stay(section):
    other = as_other(section[:, ::-1].copy(), "S2")
    (one, two), report = gene_ids.match_genes([section, other])
    assert list(one.var_names) == list(two.var_names) == list(section.var_names)
    np.testing.assert_array_equal(one.X.toarray(), two.X.toarray())
    np.testing.assert_array_equal(report[["renamed", "merged", "dropped", "spots_lost"]], 0)
    assert report["counts_kept"].tolist() == [1, 1]


def test_ids_with_and_without_version_meet(section):
    ids = layouts.ensembl(section.var_names)
    plain = renamed(section, ids)
    versions = as_other(renamed(section, [f"{i}.{n}" for n, i in enumerate(ids)]), "S2")
    (one, two), report = gene_ids.match_genes([plain, versions])
    assert list(one.var_names) == list(two.var_names) == ids
    assert report["renamed"].tolist() == [0, section.n_vars]
    assert report["kept"].tolist() == [section.n_vars] * 2
    assert list(versions.var_names) != ids  # the caller's sections are left alone


def test_symbols_and_ids_meet_through_var(section):
    ids = layouts.ensembl(section.var_names)
    symbols = renamed(section, section.var_names, gene_ids=ids)
    only_ids = as_other(renamed(section[:, 10:].copy(), ids[10:]), "S2")
    (one, two), report = gene_ids.match_genes([symbols, only_ids])
    assert list(one.var_names) == list(two.var_names) == list(section.var_names[10:])
    assert list(two.var["gene_ids"]) == ids[10:] == list(one.var["gene_ids"])
    np.testing.assert_array_equal(one.X.toarray(), section.X.toarray()[:, 10:])
    assert report["not_shared"].tolist() == [10, 0]
    assert report["counts_kept"][0] == pytest.approx(one.X.sum() / section.X.sum())
    assert (report["before"] == report["kept"] + report["dropped"] + report["merged"]).all()
    back, _ = gene_ids.match_genes([symbols, only_ids], to="ids")
    assert list(back[0].var_names) == ids[10:]
    assert list(back[0].var["gene_name"]) == list(section.var_names[10:])


@pytest.mark.parametrize("in_file", [False, True])
def test_symbols_and_ids_meet_through_a_table(section, tmp_path, in_file):
    ids = layouts.ensembl(section.var_names)
    table = pd.DataFrame({"gene": section.var_names, "id": [f"{i}.1" for i in ids]})
    if in_file:
        table.to_csv(tmp_path / "genes.tsv", sep="\t", index=False)
        table = tmp_path / "genes.tsv"
    (one, two), report = gene_ids.match_genes(
        [section, as_other(renamed(section, ids), "S2")], table=table
    )
    assert list(one.var_names) == list(two.var_names) == list(section.var_names)
    assert report["names"].tolist() == ["symbols", "ids"]


def test_columns_that_share_a_symbol_are_added_up(section):
    ids = layouts.ensembl(section.var_names)
    symbols = ["BOTH", "BOTH", *section.var_names[2:]]
    (made,), report = gene_ids.match_genes([renamed(section, ids, gene_name=symbols)], to="symbols")
    both = section.X.toarray()[:, :2].sum(axis=1)
    np.testing.assert_array_equal(made[:, "BOTH"].X.toarray().ravel(), both)
    assert report["merged"].tolist() == [1]
    assert made.var["gene_ids"]["BOTH"] == ";".join(ids[:2])
    assert made.X.sum() == section.X.sum()


def test_genes_without_a_translation_are_counted(section):
    ids = layouts.ensembl(section.var_names)
    half = renamed(section, ids, gene_name=[*section.var_names[:30], *[""] * 30])
    (made,), report = gene_ids.match_genes([half], to="symbols")
    assert report[["unknown", "dropped", "kept"]].to_numpy().tolist() == [[30, 30, 30]]
    assert list(made.var_names) == list(section.var_names[:30])


def test_layers_follow_the_genes(section):
    section.layers["predicted"] = section.X.toarray() * 2
    (made, _), _ = gene_ids.match_genes([section, as_other(section[:, 5:].copy(), "S2")])
    np.testing.assert_array_equal(made.layers["predicted"], made.X.toarray() * 2)


def test_too_few_shared_genes(section):
    mouse = as_other(renamed(section, [g.capitalize() for g in section.var_names]), "S2")
    with pytest.raises(ValueError, match="Upper and lower case differ"):
        gene_ids.match_genes([section, mouse])
    with pytest.raises(ValueError, match="fewer than 20"):
        gene_ids.match_genes([section, as_other(section[:, :5].copy(), "S2")])
    assert gene_ids.match_genes([section[:, :5].copy()], at_least=5)[1]["kept"].tolist() == [5]


def test_names_without_a_dictionary(section):
    only_ids = as_other(renamed(section, layouts.ensembl(section.var_names)), "S2")
    with pytest.raises(ValueError, match="table"):
        gene_ids.match_genes([section, only_ids])
    with pytest.raises(ValueError, match="choose 'symbols' or 'ids'"):
        gene_ids.match_genes([section], to="entrez")
    with pytest.raises(ValueError, match="column of Ensembl"):
        gene_ids.match_genes([section], table=pd.DataFrame({"a": ["x"], "b": ["y"]}))
    with pytest.raises(ValueError, match="at least one"):
        gene_ids.match_genes([])


def test_spots_that_held_dropped_genes_only_are_counted(section):
    counts = section.X.toarray()
    counts[0, 5:] = 0
    section.X = sparse.csr_matrix(counts)
    (made, _), report = gene_ids.match_genes([section, as_other(section[1:, 5:].copy(), "S2")])
    assert report["spots_lost"].tolist() == [1, 0]
    sections.check_section(made)
    assert made.n_obs == section.n_obs - 1


def test_names_made_into_dates_are_noticed():
    with pytest.warns(UserWarning, match="look like dates, first '1-Mar'"):
        assert list(gene_ids.clean(["ERBB2", "1-Mar", " SEPT2 "], "here")) == [
            "ERBB2",
            "1-Mar",
            "SEPT2",
        ]


@pytest.mark.parametrize("name", ["", "  ", "two words", "tab\there", "null\0"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match=r"here: 1 gene(s have no name| names hold spaces)"):
        gene_ids.clean(["ERBB2", name], "here")
