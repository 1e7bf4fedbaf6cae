"""Oracles: told what they name, and never the answer itself."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite import methods
from heclip_lite.data import genes, sections
from heclip_lite.evaluation.metrics import per_gene
from heclip_lite.methods.transforms import ExpressionComponents


@pytest.fixture(scope="module")
def fitted(small_sections):
    training, test = small_sections[:3], small_sections[3]
    panel = genes.fit_panel(training)

    def make(oracle):
        oracle.panel = panel
        return oracle.fit(training)

    return make, sections.hide_expression(test), genes.expression(test, panel), test


def test_other_genes_never_use_the_gene_itself(fitted):
    make, hidden, told, _ = fitted
    oracle = make(methods.OtherGenesOracle(rank=10))
    before = oracle.predict(hidden, told)
    rng = np.random.default_rng(0)
    for gene in (0, 7, 30):
        # Deal the gene's own values out anew: its scale stays, its pattern does not.
        changed = told.copy()
        changed[:, gene] = rng.permutation(changed[:, gene])
        after = oracle.predict(hidden, changed)
        np.testing.assert_allclose(after[:, gene], before[:, gene], atol=1e-4)
        assert not np.allclose(np.delete(after, gene, 1), np.delete(before, gene, 1), atol=1e-4)


def test_other_genes_equal_least_squares_without_the_gene(fitted):
    make, hidden, told, _ = fitted
    oracle = make(methods.OtherGenesOracle(rank=6))
    found = oracle.predict(hidden, told)
    axes = oracle.components.axes
    z = (told - told.mean(0)) / told.std(0) * oracle.weights
    for gene in (2, 11):
        others = np.delete(np.arange(len(axes)), gene)
        fit = np.linalg.lstsq(axes[others], z[:, others].T, rcond=None)[0]  # (rank, spots)
        wanted = axes[gene] @ fit / oracle.weights[gene]
        scaled = (found[:, gene] - oracle.components.mean[gene]) / oracle.components.deviation[gene]
        np.testing.assert_allclose(scaled, wanted, atol=1e-3)
    assert isinstance(oracle.components, ExpressionComponents)


def test_neighbours_never_use_the_spot_itself(fitted):
    make, hidden, told, _ = fitted
    oracle = make(methods.NeighbourOracle())
    before = oracle.predict(hidden, told)
    changed = told.copy()
    changed[5] += 100
    after = oracle.predict(hidden, changed)
    np.testing.assert_allclose(after[5], before[5], atol=1e-5)
    assert not np.allclose(after, before)


def test_depth_is_one_straight_line_per_gene(fitted):
    make, hidden, _, test = fitted
    totals = np.asarray(test.X.sum(axis=1)).ravel()
    predicted = make(methods.DepthOracle()).predict(hidden, totals)
    centred = predicted - predicted.mean(0)
    assert np.linalg.matrix_rank(centred, tol=1e-3) == 1
    order = np.argsort(totals)
    moves = np.diff(predicted[order], axis=0)
    assert ((moves >= -1e-5).all(0) | (moves <= 1e-5).all(0)).all()


def test_what_oracles_are_worth(fitted):
    make, hidden, told, test = fitted
    totals = np.asarray(test.X.sum(axis=1)).ravel()
    values = {
        "genes": make(methods.OtherGenesOracle(rank=10)).predict(hidden, told),
        "neighbours": make(methods.NeighbourOracle()).predict(hidden, told),
        "depth": make(methods.DepthOracle()).predict(hidden, totals),
    }
    r = {name: np.nanmean(per_gene(told, v)["pearson"]) for name, v in values.items()}
    assert r["genes"] > 0.2 and r["neighbours"] > 0.1 and r["genes"] > r["depth"]


def test_faulty_settings_are_named():
    with pytest.raises(ValueError, match="rank is 0"):
        methods.OtherGenesOracle(rank=0)
    with pytest.raises(ValueError, match="widths is"):
        methods.NeighbourOracle(widths=(0.0,))
