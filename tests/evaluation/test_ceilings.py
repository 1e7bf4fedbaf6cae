"""Ceilings: right for Poisson counts, too high for anything noisier."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite.data import genes
from heclip_lite.data.sections import make_section
from heclip_lite.evaluation import ceilings
from heclip_lite.evaluation.metrics import pearson_per_gene


def noisy(spread: float, seed: int = 0):
    """A section of 400 spots with known rates, and log1p of those rates per ten thousand."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(4, 1, 40) * np.exp(0.35 * rng.normal(size=(400, 40)))
    share = rate / rate.sum(1, keepdims=True)
    seen = share * np.exp(spread * rng.normal(size=share.shape))
    x, y = np.meshgrid(np.arange(20), np.arange(20))
    slide = np.full((520, 520, 3), (205, 120, 180), dtype=np.uint8)
    section = make_section(
        rng.poisson(600 * seen),
        [f"G{i}" for i in range(40)],
        np.column_stack([x.ravel(), y.ravel()]) * 25.0 + 20,
        name="N",
        donor="N",
        um_per_px=2.0,
        spot_diameter_um=40,
        image=slide,
    )
    return section, np.log1p(1e4 * share)


def test_the_ceiling_is_what_the_true_rates_score():
    section, rates = noisy(spread=0.0)
    panel = genes.GenePanel(tuple(section.var_names), {})
    ceiling = ceilings.counting_ceiling(section, panel)
    reached = pearson_per_gene(genes.expression(section, panel), rates)
    assert ceiling.mean() == pytest.approx(reached.mean(), abs=0.06)


def test_the_ceiling_is_optimistic_where_spots_differ_by_more_than_counting():
    section, rates = noisy(spread=0.8)
    panel = genes.GenePanel(tuple(section.var_names), {})
    ceiling = ceilings.counting_ceiling(section, panel, thinnings=5)
    reached = pearson_per_gene(genes.expression(section, panel), rates)
    assert ceiling.mean() > reached.mean() + 0.2


def test_the_ceiling_repeats_and_marks_what_has_no_signal():
    section, _ = noisy(spread=0.0)
    counts = section.X.toarray()
    counts[:, 0] = 0
    section.X = counts
    panel = genes.GenePanel((*section.var_names, "ABSENT"), {})
    first, again = (ceilings.counting_ceiling(section, panel, thinnings=2) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first[0] == 0 and first[-1] == 0
    assert not np.array_equal(first, ceilings.counting_ceiling(section, panel, thinnings=2, seed=1))


def test_what_cannot_be_halved_is_named():
    section, _ = noisy(spread=0.0)
    panel = genes.GenePanel(tuple(section.var_names), {})
    section.X = section.X * 0.5
    with pytest.raises(ValueError, match="needs raw counts"):
        ceilings.counting_ceiling(section, panel)
    counts = np.zeros(section.shape)
    counts[:, 0] = 1
    section.X = counts
    with pytest.raises(ValueError, match="0 spots have counts that can be halved"):
        ceilings.counting_ceiling(section, panel)


def test_spots_of_a_single_count_are_left_out():
    section, _ = noisy(spread=0.0)
    panel = genes.GenePanel(tuple(section.var_names), {})
    without = section[1:].copy()
    section.X[0] = 0
    section.X[0, 0] = 1
    np.testing.assert_array_equal(
        ceilings.counting_ceiling(section, panel, thinnings=2),
        ceilings.counting_ceiling(without, panel, thinnings=2),
    )


def test_the_adjacent_section_predicts_by_distance():
    here = np.array([[0.0, 0.0], [100.0, 0.0]])
    there = np.array([[0.0, 5.0], [100.0, 5.0], [1e6, 0.0]])
    values = np.array([[1.0], [2.0], [99.0]])
    near = ceilings.adjacent_prediction(here, there, values, width_um=10)
    np.testing.assert_allclose(near, [[1.0], [2.0]], atol=1e-6)
    wide = ceilings.adjacent_prediction(here, there, values, width_um=5000)
    np.testing.assert_allclose(wide, [[1.5], [1.5]], atol=1e-3)
    with pytest.raises(ValueError, match="3 places but 2 rows"):
        ceilings.adjacent_prediction(here, there, values[:2], width_um=10)
    with pytest.raises(ValueError, match="width_um is 0"):
        ceilings.adjacent_prediction(here, there, values, width_um=0)


def test_a_share_is_a_ratio_of_means():
    assert ceilings.share_of([0.1, 0.3, np.nan], [0.2, 0.6, 0.4]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="has no meaning"):
        ceilings.share_of([0.1], [-0.2])
