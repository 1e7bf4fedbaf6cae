"""Splits: nothing on both sides, neither names nor donors nor pixels."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite.data import patches, sections
from heclip_lite.evaluation import splits
from heclip_lite.evaluation.splits import Fold


def test_leave_one_section_out(small_sections):
    folds = splits.leave_one_out(small_sections, "section")
    assert [fold.test for fold in folds] == [("P1-1",), ("P1-2",), ("P2-1",), ("P2-2",)]
    assert folds[0].training == ("P1-2", "P2-1", "P2-2")


def test_leave_one_donor_out_keeps_donors_apart(small_sections):
    folds = splits.leave_one_out(small_sections, "donor")
    first, second = ("P1-1", "P1-2"), ("P2-1", "P2-2")
    assert folds == [Fold(second, first, "donor"), Fold(first, second, "donor")]


def test_impossible_splits_are_named(small_sections):
    with pytest.raises(ValueError, match=r"only one donor \(P1\)"):
        splits.leave_one_out(small_sections[:2], "donor")
    with pytest.raises(ValueError, match="unit is 'spot'"):
        splits.leave_one_out(small_sections, "spot")
    with pytest.raises(ValueError, match="unit is 'spot'"):
        Fold(("A",), ("B",), "spot")
    for training, test in (((), ("A",)), (("A",), ()), (("A",), ("A",))):
        with pytest.raises(ValueError, match="sections on both sides and none on both"):
            Fold(training, test)
    with pytest.raises(ValueError, match="The split has no fold"):
        splits.by_name(small_sections, [])


def test_a_donor_on_both_sides_of_a_donor_split_is_named(small_sections):
    with pytest.raises(ValueError, match="donor P1 of test section P1-2 is trained on too"):
        splits.by_name(small_sections, [Fold(("P1-1", "P2-1"), ("P1-2",), "donor")])
    splits.by_name(small_sections, [Fold(("P1-1", "P2-1"), ("P1-2",), "section")])


def test_kind_is_told_from_the_donors(small_sections):
    named = {sections.name_of(s): s for s in small_sections}
    training = [named["P1-1"], named["P2-1"]]
    assert splits.kind_of(Fold(("P1-1", "P2-1"), ("P1-2",)), training, named["P1-2"]) == "section"
    assert splits.kind_of(Fold(("P1-1",), ("P2-1",)), training[:1], named["P2-1"]) == "donor"
    assert splits.kind_of(Fold(("a",), ("b",), "block"), training, named["P2-1"]) == "block"


@pytest.fixture(scope="module")
def blocks(small_sections):
    return splits.spatial_blocks(small_sections[:2], rows=1, columns=2)


def test_blocks_cover_every_spot_once(small_sections, blocks):
    pieces, folds = blocks
    named = {sections.name_of(p): p for p in pieces}
    assert [fold.unit for fold in folds] == ["block", "block"]
    for section in small_sections[:2]:
        name = sections.name_of(section)
        tested = [n for fold in folds for n in fold.test if n.startswith(name)]
        spots = [spot for n in tested for spot in named[n].obs_names]
        assert sorted(spots) == sorted(section.obs_names)


def test_blocks_keep_the_gap(small_sections, blocks):
    pieces, folds = blocks
    named = {sections.name_of(p): p for p in pieces}
    for fold in folds:
        for training, test in zip(fold.training, fold.test, strict=True):
            known, asked = named[training].obsm["spatial"], named[test].obsm["spatial"]
            apart = np.linalg.norm(known[:, None] - asked[None], axis=2).min()
            assert apart * sections.um_per_px(named[test]) > 100  # a pitch
            assert not set(named[training].obs_names) & set(named[test].obs_names)


def test_no_pixel_is_on_both_sides_of_a_block(small_sections):
    """Whatever is drawn into the block, the training piece looks the same, and the other way."""
    section = small_sections[0]
    name = sections.name_of(section)
    pieces, folds = splits.spatial_blocks([section], rows=2, columns=2)
    before = {sections.name_of(p): sections.read_image(p) for p in pieces}
    background = np.array(sections.background_of(section))
    whole = sections.read_image(section)
    for fold in folds:
        shown = {n: (before[n] != background).any(axis=2) for n in (*fold.training, *fold.test)}
        both = np.logical_and.reduce(list(shown.values()))
        assert not both.any()
        either = np.logical_or.reduce(list(shown.values()))
        assert (either == (whole != background).any(axis=2)).mean() > 0.999

    changed = section.copy()
    (training,), (test,) = folds[0].training, folds[0].test
    inside = (before[test] != background).any(axis=2)
    noise = np.random.default_rng(0).integers(0, 255, whole.shape, dtype=np.uint8)
    changed.uns["spatial"][name]["images"]["fullres"] = np.where(inside[..., None], noise, whole)
    again, _ = splits.spatial_blocks([changed], rows=2, columns=2)
    named = {sections.name_of(p): p for p in again}
    np.testing.assert_array_equal(sections.read_image(named[training]), before[training])
    options = {"width_um": 150, "size": 32}
    np.testing.assert_array_equal(
        patches.cut_patches(named[training], **options),
        patches.cut_patches(next(p for p in pieces if sections.name_of(p) == training), **options),
    )


def test_blocks_that_leave_nothing_are_named(small_sections):
    with pytest.raises(ValueError, match="2 blocks or more"):
        splits.spatial_blocks(small_sections, rows=1, columns=1)
    with pytest.raises(ValueError, match="block 1 leaves no training spot"):
        splits.spatial_blocks(small_sections, gap_um=5000)
