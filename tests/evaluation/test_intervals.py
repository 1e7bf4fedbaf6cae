"""Block bootstrap: equal to resampling spots by hand, wide where it should be."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite.data import genes, sections
from heclip_lite.evaluation import intervals
from heclip_lite.evaluation.metrics import partial_pearson_per_gene, pearson_per_gene


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(8), 12)
    true = rng.normal(size=(96, 15)) + rng.normal(size=(8, 15))[blocks]
    depth = rng.normal(size=96)
    good = true + rng.normal(size=true.shape) + depth[:, None]
    poor = 0.2 * true + rng.normal(size=true.shape)
    return true, {"good": good, "poor": poor}, blocks, depth


@pytest.mark.parametrize("partial", [False, True])
def test_equals_resampling_by_hand(case, partial):
    true, predictions, blocks, depth = case
    rng = np.random.default_rng(5)
    drawn = rng.multinomial(8, np.full(8, 1 / 8), size=40)
    values = {}
    for name, predicted in predictions.items():
        found = []
        for times in [np.ones(8, int), *drawn]:
            rows = np.repeat(np.arange(96), times[blocks])
            if partial:
                r = partial_pearson_per_gene(true[rows], predicted[rows], depth[rows])
            else:
                r = pearson_per_gene(true[rows], predicted[rows])
            found.append(r.mean())
        values[name] = np.array(found)
    table = intervals.bootstrap(
        true, predictions, blocks, draws=40, seed=5, log_depth=depth if partial else None
    ).set_index("method")
    for name, found in values.items():
        low, high = np.percentile(found[1:], [2.5, 97.5])
        less, more = np.percentile((found - values["good"])[1:], [2.5, 97.5])
        row = table.loc[name]
        wanted = [found[0], low, high, found[0] - values["good"][0], less, more]
        columns = ["value", "low", "high", "difference", "difference_low", "difference_high"]
        np.testing.assert_allclose(row[columns].astype(float), wanted, rtol=0, atol=1e-10)
    assert (table["against"] == "good").all() and (table["n_blocks"] == 8).all()


def test_a_real_difference_stands_clear_of_zero(case):
    true, predictions, blocks, _ = case
    table = intervals.bootstrap(true, predictions, blocks, against="poor").set_index("method")
    assert table.loc["good", "difference_low"] > 0
    assert table.loc["poor", ["difference", "difference_low", "difference_high"]].eq(0).all()


def test_blocks_make_intervals_wider_than_spots(case):
    """Spots of a block are alike: drawing them one by one would claim too much."""
    rng = np.random.default_rng(1)
    blocks = np.repeat(np.arange(8), 12)
    true = rng.normal(size=(8, 15))[blocks] + 0.1 * rng.normal(size=(96, 15))
    predicted = {"m": rng.normal(size=(8, 15))[blocks] + 0.5 * true}
    by_block = intervals.bootstrap(true, predicted, blocks).iloc[0]
    by_spot = intervals.bootstrap(true, predicted, np.arange(96)).iloc[0]
    assert by_block.high - by_block.low > 1.5 * (by_spot.high - by_spot.low)


def test_likeness_falls_with_distance(small_sections):
    panel = genes.fit_panel(small_sections)
    section = small_sections[0]
    values = genes.expression(section, panel)
    table = intervals.correlogram(section, values, bins_um=np.arange(50, 700, 100))
    assert table["correlation"].iloc[0] > table["correlation"].iloc[3]
    assert table["n_pairs"].sum() <= section.n_obs * (section.n_obs - 1) / 2
    reach = intervals.correlogram_range(small_sections, panel)
    assert sections.spot_pitch_um(section) <= reach <= 900
    noise = np.random.default_rng(0).normal(size=values.shape)
    flat = intervals.correlogram(section, noise, bins_um=[50, 150])
    assert abs(flat["correlation"].iloc[0]) < 0.1


def test_blocks_are_squares_of_tissue(small_sections):
    section = small_sections[0]
    labels = intervals.block_labels(section, 300)
    for block in np.unique(labels):
        places = section.obsm["spatial"][labels == block] * sections.um_per_px(section)
        assert (np.ptp(places, axis=0) <= 300).all()
    with pytest.raises(ValueError, match=r"make only \d blocks; 4 or more"):
        intervals.block_labels(section, 2000)


def test_faulty_requests_are_named(case):
    true, predictions, blocks, _ = case
    with pytest.raises(ValueError, match="There are 2 blocks; 4 or more"):
        intervals.bootstrap(true, predictions, blocks // 4)
    with pytest.raises(ValueError, match="50 block labels for 96 spots"):
        intervals.bootstrap(true, predictions, blocks[:50])
    with pytest.raises(ValueError, match="against is 'mean'; there are good, poor"):
        intervals.bootstrap(true, predictions, blocks, against="mean")
    with pytest.raises(ValueError, match="ascending order"):
        intervals.correlogram(None, true, bins_um=[3, 2])
