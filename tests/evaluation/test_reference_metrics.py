"""HECLIP's own metrics, held to figures recorded from its released code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heclip_lite.evaluation import reference_metrics as reference


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[1] / "golden" / "metrics.npz")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (reference.pearson_per_gene, "Pearson"),
        (reference.reference_ssim, "SSIM"),
        (reference.reference_rmse, "RMSE"),
        (reference.reference_js, "JS"),
    ],
)
def test_per_gene_metrics(golden, function, name):
    found = function(golden["true"], golden["pred"])
    np.testing.assert_allclose(found, golden[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["Pearson", "SSIM", "RMSE"])
def test_with_a_constant_gene(golden, name):
    function = {
        "Pearson": reference.pearson_per_gene,
        "SSIM": reference.reference_ssim,
        "RMSE": reference.reference_rmse,
    }[name]
    found = function(golden["deg_true"], golden["deg_pred"])
    np.testing.assert_allclose(found, golden[f"deg_{name}"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", range(1, 6))
def test_hit_at_k(golden, k):
    assert reference.hit_at_k(golden["true"], golden["pred"], k=k) == golden[f"hit_at_{k}"]


@pytest.mark.parametrize("n", [1, 3, 5, 10])
@pytest.mark.parametrize(("by", "name"), [("mean", "HEG"), ("variance", "HVG")])
@pytest.mark.parametrize("nan_shift", [True, False])
def test_top_genes_of_the_truth(golden, n, by, name, nan_shift):
    found = reference.reference_top(golden["true"], golden["pred"], n=n, by=by, nan_shift=nan_shift)
    assert found == pytest.approx(float(golden[f"{name}{n}"]), abs=1e-10)


def test_one_constant_gene_shifts_all_behind_it():
    """A thousand genes, three of them constant: hardly one gene averaged is the one asked for."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 1000)) + np.linspace(0, 5, 1000)
    weight = np.linspace(0, 1, 1000)
    predicted = weight * true + (1 - weight) * rng.normal(size=true.shape)
    true[:, :3] = 0
    asked = reference.reference_top(true, predicted, n=50, by="mean", nan_shift=False)
    with pytest.raises(IndexError):
        reference.reference_top(true, predicted, n=50, by="mean")
    true = true[:, ::-1]  # the constant genes come last: nothing is shifted
    predicted = predicted[:, ::-1]
    same = reference.reference_top(true, predicted, n=50, by="mean")
    assert same == pytest.approx(asked)
    true[:, [0, 5, 9]] = true.mean() + 9  # the highest genes are constant
    shifted = reference.reference_top(true, predicted, n=50, by="mean")
    meant = reference.reference_top(true, predicted, n=50, by="mean", nan_shift=False)
    assert shifted != pytest.approx(meant, abs=1e-6)


def test_z_scored_rmse_repeats_the_correlation(golden):
    r = reference.pearson_per_gene(golden["true"], golden["pred"])
    found = reference.reference_rmse(golden["true"], golden["pred"])
    np.testing.assert_allclose(found, np.sqrt(2 - 2 * r))


def test_faulty_requests_are_named(golden):
    with pytest.raises(ValueError, match="by is 'best'"):
        reference.reference_top(golden["true"], golden["pred"], n=3, by="best")
    with pytest.raises(ValueError, match="n is 31, but there are 30 genes"):
        reference.reference_top(golden["true"], golden["pred"], n=31, by="mean")
