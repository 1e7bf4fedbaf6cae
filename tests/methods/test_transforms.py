"""Components of expression and of feature maps."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite.methods.transforms import ExpressionComponents, KernelComponents


def low_rank(seed: int = 0, spots: int = 40, genes: int = 12, rank: int = 3, noise: float = 0.0):
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(99).normal(size=(rank, genes))
    return 2 + rng.normal(size=(spots, rank)) @ loadings + noise * rng.normal(size=(spots, genes))


def test_low_rank_expression_comes_back_whole():
    section = low_rank()
    fitted = ExpressionComponents(3).fit([section])
    np.testing.assert_allclose(fitted.reconstruct(fitted.transform(section)), section, atol=1e-4)
    poorer = ExpressionComponents(2).fit([section])
    assert np.abs(poorer.reconstruct(poorer.transform(section)) - section).max() > 0.1


def test_a_batch_effect_of_a_section_does_not_count():
    first, second = low_rank(0), low_rank(1)
    shifted = second * np.linspace(0.5, 2, 12) + np.linspace(-1, 1, 12)
    plain = ExpressionComponents(3).fit([first, second])
    moved = ExpressionComponents(3).fit([first, shifted])
    np.testing.assert_allclose(plain.transform(second), moved.transform(shifted), atol=1e-4)


def test_weights_decide_what_is_kept():
    rng = np.random.default_rng(0)
    section = rng.normal(size=(60, 10))
    weights = np.zeros(10)
    weights[[2, 7]] = 1
    fitted = ExpressionComponents(2).fit([section], weights)
    error = np.abs(fitted.reconstruct(fitted.transform(section)) - section).mean(0)
    assert error[[2, 7]].max() < 1e-4 < 0.2 < np.delete(error, [2, 7]).min()


def blocks(seed: int, points: int = 50) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(points, 4)), 50 * rng.normal(size=(points, 9))]


def test_kernel_components_reproduce_the_centred_kernel():
    known = blocks(0)
    fitted = KernelComponents(49).fit(known)
    kernel = fitted.kernel(known)
    assert np.allclose(kernel.diagonal(), 1)
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()
    scores = fitted.transform(known).astype(float) * fitted.scale
    np.testing.assert_allclose(scores @ scores.T, centred, atol=1e-4)


def test_a_block_counts_whatever_its_scale():
    known = blocks(0)
    scaled = [known[0] * 1000, known[1]]
    one, other = KernelComponents(5).fit(known), KernelComponents(5).fit(scaled)
    np.testing.assert_allclose(one.kernel(known), other.kernel(scaled), atol=1e-8)


@pytest.mark.parametrize("kind", [ExpressionComponents, KernelComponents])
def test_arrays_hold_all_that_was_learnt(kind):
    if kind is ExpressionComponents:
        fitted, new = kind(3).fit([low_rank()]), low_rank(5)
    else:
        fitted, new = kind(5).fit(blocks(0)), blocks(1)
    again = kind.from_arrays({k: v.copy() for k, v in fitted.arrays().items()})
    np.testing.assert_array_equal(fitted.transform(new), again.transform(new))


def test_too_many_components_are_named():
    with pytest.raises(ValueError, match="rank is 12, but there are 40 training spots"):
        ExpressionComponents(12).fit([low_rank()])
    with pytest.raises(ValueError, match="50 components need more than 50 training spots"):
        KernelComponents(50).fit(blocks(0))
    with pytest.raises(ValueError, match="No gene has a weight above 0"):
        ExpressionComponents(2).fit([low_rank()], np.full(12, -1.0))
