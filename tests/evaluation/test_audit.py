"""The audit: finds each planted leak, and a clean donor split clean."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite import evaluation
from heclip_lite.evaluation.audit import COLUMNS, Pipeline, audit
from heclip_lite.evaluation.splits import Fold

EVERY = [
    *("shared donor", "position overlap", "duplicated spots", "shared pixels"),
    *("panel chosen with test", "transforms fitted on all", "batch-corrected truth"),
    *("smoothed targets", "transductive adaptation"),
]
BY_DONOR = Fold(("P2-1", "P2-2"), ("P1-1",), "donor")
SERIAL = Fold(("P1-2", "P2-1", "P2-2"), ("P1-1",), "section")


def found(table):
    return table.loc[table["found"] == "yes", "leak"].tolist()


def test_a_clean_donor_split_is_clean(small_sections):
    table = audit(small_sections, BY_DONOR)
    assert list(table.columns) == COLUMNS and table["leak"].tolist() == EVERY
    assert found(table) == [] and (table["size"] == 0).all() and (table["remedy"] == "").all()


def test_a_serial_section_shares_its_donor_and_its_places(small_sections):
    table = audit(small_sections, SERIAL).set_index("leak")
    assert table.loc["shared donor", "size"] == 1
    assert "P1-2" in table.loc["shared donor", "detail"]
    assert table.loc["position overlap", "size"] > 0.9  # of the spots
    assert found(table.reset_index()) == ["shared donor", "position overlap"]


def test_position_is_measured_between_training_sections(small_sections):
    fold = Fold(("P1-1", "P1-2", "P2-1"), ("P2-2",))
    three = [s.copy() for s in small_sections]
    three[3].obs["donor"] = "P1"
    three[2].obs["donor"] = "P1"
    row = audit(three, fold).set_index("leak").loc["position overlap"]
    assert row["unit"] == "mean r" and row["found"] == "yes"


def test_copies_of_spots_are_found(small_sections):
    first, second = small_sections[0].copy(), small_sections[2].copy()
    shared = first.n_obs // 4
    counts = second.X.tolil()
    counts[:shared] = first.X[:shared]
    second.X = counts.tocsr()
    fold = Fold(("P2-1",), ("P1-1",))
    row = audit([first, second], fold).set_index("leak").loc["duplicated spots"]
    assert row["found"] == "yes" and row["size"] == pytest.approx(shared / first.n_obs)


def test_shared_pixels_are_found_and_blocks_share_none(small_sections):
    section = small_sections[0]
    left = section.obsm["spatial"][:, 0] < np.median(section.obsm["spatial"][:, 0])
    halves = [section[left].copy(), section[~left].copy()]
    for half, name in zip(halves, ("left", "right"), strict=True):
        half.uns["spatial"] = {name: section.uns["spatial"]["P1-1"]}
        half.obs["section"] = name
    wide = Pipeline(context_um=300)
    row = audit(halves, Fold(("left",), ("right",)), wide).set_index("leak").loc["shared pixels"]
    assert row["found"] == "yes" and row["size"] > 0.4
    narrow = audit(halves, Fold(("left",), ("right",)), Pipeline(context_um=5))
    assert narrow.set_index("leak").loc["shared pixels", "found"] == "no"

    pieces, folds = evaluation.spatial_blocks([section])
    clean = audit(pieces, folds[0], wide).set_index("leak")
    assert clean.loc["shared pixels", "found"] == "no"
    assert clean.loc["position overlap", "found"] == "no"


@pytest.mark.parametrize(
    ("pipeline", "leak"),
    [
        (Pipeline(panel_fitted_on="all"), "panel chosen with test"),
        (Pipeline(transforms_fitted_on="all"), "transforms fitted on all"),
        (Pipeline(batch_correction="joint"), "batch-corrected truth"),
        (Pipeline(truth="corrected"), "batch-corrected truth"),
        (Pipeline(targets="smoothed"), "smoothed targets"),
        (Pipeline(adaptation="transductive"), "transductive adaptation"),
    ],
)
def test_each_planted_leak_is_found_alone(small_sections, pipeline, leak):
    table = audit(small_sections, BY_DONOR, pipeline)
    assert found(table) == [leak]
    row = table.set_index("leak").loc[leak]
    assert row["remedy"] and (np.isnan(row["size"]) or row["size"] > 0)


def test_training_only_correction_is_no_leak(small_sections):
    assert found(audit(small_sections, BY_DONOR, Pipeline(batch_correction="training"))) == []


def test_unknown_values_are_named(small_sections):
    with pytest.raises(ValueError, match="batch_correction is 'harmony'; use one of 'none'"):
        Pipeline(batch_correction="harmony")
    with pytest.raises(ValueError, match="context_um is -1"):
        Pipeline(context_um=-1)
    with pytest.raises(ValueError, match="names section 'P9-1'"):
        audit(small_sections, Fold(("P9-1",), ("P1-1",)))
