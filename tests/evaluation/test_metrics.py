"""Metrics: each equals a plain loop over genes, and undefined values are never hidden."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from heclip_lite.data import genes, sections
from heclip_lite.evaluation import metrics


@pytest.fixture(scope="module")
def case(small_sections):
    """Truth, a prediction, log depth and the graph of one section; some genes are hard."""
    section = small_sections[0]
    panel = genes.GenePanel(tuple(section.var_names), {})
    true = genes.expression(section, panel).astype(float)
    rng = np.random.default_rng(0)
    predicted = 0.4 * true + rng.normal(size=true.shape)
    true[:, 0] = 0.7  # constant in the truth
    predicted[:, 1] = 0.2  # constant in the prediction
    true[:, 2] = np.round(true[:, 2])  # many ties
    depth = np.log(np.asarray(section.X.sum(axis=1)).ravel())
    return true, predicted, depth, metrics.graph_of(section), section


def loop(function, true, predicted):
    return np.array([function(true[:, g], predicted[:, g]) for g in range(true.shape[1])])


def compare(found, wanted, skip=(0, 1)):
    kept = np.setdiff1d(np.arange(len(found)), skip)
    np.testing.assert_allclose(found[kept], wanted[kept], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_correlations_equal_scipy(case):
    true, predicted, depth, _, _ = case
    compare(
        metrics.pearson_per_gene(true, predicted),
        loop(lambda t, p: stats.pearsonr(t, p)[0], true, predicted),
    )
    compare(
        metrics.spearman_per_gene(true, predicted),
        loop(lambda t, p: stats.spearmanr(t, p)[0], true, predicted),
    )

    def partial(t, p):
        design = np.column_stack([np.ones_like(depth), depth])
        t, p = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (t, p))
        return np.corrcoef(t, p)[0, 1]

    compare(
        metrics.partial_pearson_per_gene(true, predicted, depth), loop(partial, true, predicted)
    )


@pytest.mark.filterwarnings("ignore")
def test_errors_and_divergence_equal_a_loop(case):
    true, predicted, _, _, _ = case
    compare(
        metrics.rmse_per_gene(true, predicted),
        loop(lambda t, p: np.sqrt(np.mean((t - p) ** 2)), true, predicted),
        skip=(),
    )
    compare(
        metrics.variance_ratio_per_gene(true, predicted),
        loop(lambda t, p: np.var(p) / np.var(t), true, predicted),
    )
    compare(
        metrics.js_per_gene(true, predicted),
        loop(lambda t, p: jensenshannon(t, np.clip(p, 0, None), base=2) ** 2, true, predicted),
    )


def test_ssim_equals_a_loop_over_windows(case):
    true, predicted, _, graph, _ = case

    def ssim(t, p):
        spread = t.max() - t.min()
        values = []
        for spot in range(len(t)):
            rows = [spot, *graph[spot].indices]
            a, b = t[rows], p[rows]
            c1, c2 = (0.01 * spread) ** 2, (0.03 * spread) ** 2
            cov = ((a - a.mean()) * (b - b.mean())).mean()
            values.append(
                (2 * a.mean() * b.mean() + c1)
                * (2 * cov + c2)
                / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2))
            )
        return np.mean(values)

    columns = np.arange(1, 12)
    wanted = loop(ssim, true[:, columns], predicted[:, columns])
    found = metrics.ssim_per_gene(true[:, columns], predicted[:, columns], graph)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    same = metrics.ssim_per_gene(true, true, graph)
    np.testing.assert_allclose(same[1:], 1)


def test_moran_gap_uses_the_weights_of_the_panel(case):
    true, predicted, _, graph, section = case
    found = metrics.moran_gap_per_gene(true, predicted, graph)
    wanted = genes.morans_i(section, predicted) - genes.morans_i(section, true)
    compare(found, wanted, skip=(0,))
    blurred = np.asarray(graph @ true) / graph.sum(1).A1[:, None]
    assert np.nanmedian(metrics.moran_gap_per_gene(true, blurred, graph)) > 0.1


def test_gene_gene_equals_correlation_of_triangles(case):
    true, predicted, _, _, _ = case
    a, b = true[:, 2:12], predicted[:, 2:12]
    upper = np.triu_indices(10, 1)
    wanted = np.corrcoef(np.corrcoef(a.T)[upper], np.corrcoef(b.T)[upper])[0, 1]
    assert metrics.gene_gene(a, b) == pytest.approx(wanted, abs=1e-12)
    assert metrics.gene_gene(a, a) == pytest.approx(1)
    assert np.isnan(metrics.gene_gene(true[:, :3], predicted[:, :3]))  # two genes that vary


def test_undefined_genes_are_left_out_and_constant_predictions_score_zero(case):
    true, predicted, depth, graph, _ = case
    found = metrics.per_gene(true, predicted, log_depth=depth, graph=graph)
    assert set(found) == {
        *("pearson", "spearman", "rmse", "js", "variance_ratio"),
        *("partial_pearson", "ssim", "moran_gap"),
    }
    for name, values in found.items():
        assert np.isnan(values[0]), name
        assert np.isfinite(values[1:]).all(), name
    assert [found[n][1] for n in ("pearson", "spearman", "partial_pearson")] == [0, 0, 0]
    assert found["variance_ratio"][1] == pytest.approx(0)


def test_a_function_of_depth_alone_has_no_partial_correlation(case):
    true, _, depth, _, _ = case
    predicted = np.outer(depth, np.linspace(1, 2, true.shape[1]))
    values = metrics.per_gene(true, predicted, log_depth=depth)["partial_pearson"]
    np.testing.assert_array_equal(values[1:], 0)


def test_ranks_share_ties():
    values = np.array([[3.0, 1.0], [1.0, 1.0], [3.0, 2.0], [2.0, 1.0]])
    wanted = stats.rankdata(values, axis=0) - 1
    np.testing.assert_array_equal(metrics._ranks(values), wanted)


def test_metrics_name_what_does_not_fit(case):
    true, predicted, depth, graph, section = case
    with pytest.raises(ValueError, match="predicted is not finite, first at spot 2, gene 1"):
        broken = predicted.copy()
        broken[2, 1] = np.inf
        metrics.rmse_per_gene(true, broken)
    with pytest.raises(ValueError, match="both must be"):
        metrics.pearson_per_gene(true, predicted.T)
    with pytest.raises(ValueError, match="log_depth has shape"):
        metrics.partial_pearson_per_gene(true, predicted, depth[:-1])
    with pytest.raises(ValueError, match="The graph has shape"):
        metrics.ssim_per_gene(true, predicted, graph[:5, :5])
    with pytest.raises(ValueError, match="k is 4, but there are 3 genes"):
        metrics.hit_at_k(true[:, :3], predicted[:, :3], k=4)
    assert graph.shape == (section.n_obs,) * 2 and graph.diagonal().sum() == 0
    assert sections.spot_pitch_um(section) > 0


def test_the_mean_wins_at_hit_at_k():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 30)) + np.linspace(0, 12, 30)
    flat = np.tile(true.mean(0), (50, 1))
    assert metrics.hit_at_k(true, flat, k=5) == 1.0
