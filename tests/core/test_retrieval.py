"""Retrieval and imputation beyond the recorded figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heclip_lite import retrieval


def example(seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(9, 5)), rng.normal(size=(30, 5)), rng.random((30, 4))


def cosines(query, reference):
    lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(reference, axis=1)
    return query @ reference.T / lengths


def test_chunks_do_not_change_the_result(monkeypatch):
    query, reference, expression = example()
    whole = retrieval.impute(query, reference, expression, k=7, return_spread=True)
    monkeypatch.setattr(retrieval, "CHUNK", 2)
    parts = retrieval.impute(query, reference, expression, k=7, return_spread=True)
    np.testing.assert_allclose(whole, parts, rtol=1e-12)


def test_soft_weights_equal_the_formula():
    query, reference, expression = example()
    weight = np.exp(cosines(query, reference) / 0.1)
    wanted = weight @ expression / weight.sum(1, keepdims=True)
    np.testing.assert_allclose(
        retrieval.impute(query, reference, expression, k=30, weights=0.1), wanted
    )


def test_similarity_weights_ignore_negative_neighbours():
    query, reference, expression = example()
    weight = np.clip(cosines(query, reference), 0, None)
    wanted = weight @ expression / weight.sum(1, keepdims=True)
    imputed = retrieval.impute(query, reference, expression, k=30, weights="similarity")
    np.testing.assert_allclose(imputed, wanted, rtol=1e-6)


def test_spread_is_the_deviation_of_the_neighbours():
    query, reference, expression = example()
    indices = retrieval.retrieve(query, reference, k=5)
    mean, spread = retrieval.impute(query, reference, expression, k=5, return_spread=True)
    np.testing.assert_allclose(mean, expression[indices].mean(1))
    np.testing.assert_allclose(spread, expression[indices].std(1))


def test_tensors_stay_tensors():
    query, reference, expression = map(torch.from_numpy, example())
    result = retrieval.impute(query, reference, expression, k=3, return_spread=True)
    assert all(isinstance(part, torch.Tensor) for part in result)


@pytest.mark.parametrize("k", [0, 31])
def test_k_beyond_the_references_is_named(k):
    query, reference, expression = example()
    with pytest.raises(ValueError, match=f"k is {k}, but there are 30 reference spots"):
        retrieval.impute(query, reference, expression, k=k)


def test_misfits_are_named():
    query, reference, expression = example()
    with pytest.raises(ValueError, match="query has 4 dimensions and reference 5"):
        retrieval.retrieve(query[:, :4], reference, k=1)
    with pytest.raises(ValueError, match="there are 30 reference spots"):
        retrieval.impute(query, reference, expression[:-1], k=1)
    with pytest.raises(ValueError, match="weights is 'soft'"):
        retrieval.impute(query, reference, expression, k=1, weights="soft")
    query[4, 2] = np.nan
    with pytest.raises(ValueError, match="query row 4 is not finite"):
        retrieval.retrieve(query, reference, k=1)
