"""The defect ledger of HisToSGE: each choice does what it says, and scores are kept."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from heclip_lite import config
from heclip_lite.data import sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.evaluation import dense_ledger, recovery, switches
from heclip_lite.evaluation.dense_ledger import CLEAN, REFERENCE, Choices
from heclip_lite.methods import histosge

IMAGE = config.PatchInput(config.Encoder("resnet10t"), size=32, trainable=False)
SETTINGS = config.Training(epochs=2, weight_decay=0.0)


@pytest.fixture(scope="module")
def drawn():
    return tissue.synthetic_sections(1, 1, size_um=1500.0, n_genes=60)[0]


def test_every_choice_is_described_and_switched_both_ways():
    table = dense_ledger.describe()
    names = [f.name for f in fields(Choices)]
    assert table["choice"].tolist() == names and table["what"].str.len().min() > 10
    made = dense_ledger.configurations()
    assert len(made) == 2 + 2 * len(names)
    on = {c: choices for c, way, choices in made if way == "one_on_from_clean"}
    off = {c: choices for c, way, choices in made if way == "one_off_from_reference"}
    for name in names:
        assert on[name] == replace(CLEAN, **{name: True})
        assert off[name] == replace(REFERENCE, **{name: False})
    assert on["none"] == CLEAN and off["none"] == REFERENCE


def test_choices_change_what_they_name():
    clean = dense_ledger.pipeline(CLEAN, IMAGE, SETTINGS, 2.0)
    released = dense_ledger.pipeline(REFERENCE, IMAGE, SETTINGS, 2.0)
    assert released.attention == histosge.PUBLISHED_ATTENTION
    assert released.image.width_um == 100.0 and released.image.encoder.colour == "bgr"
    assert (clean.attention.groups, clean.attention.positions) == ("neighbourhood", "continuous")
    assert clean.image == IMAGE
    for method in (clean, released):  # a step sees about as many spots to predict
        predicted = method.attention.size if method.attention.groups == "file" else 1
        assert predicted * method.settings.batch_size == dense_ledger.SPOTS_PER_STEP


def test_a_fixed_pitch_looks_in_the_wrong_places(drawn):
    out = recovery.hold_out(drawn, "lattice")
    moved = dense_ledger.misplaced(drawn, out)
    before, after = (np.asarray(s.obsm["spatial"]) for s in (drawn, moved))
    np.testing.assert_array_equal(before[~out], after[~out])
    known = before[~out]
    pitch = sections.spot_pitch_um(drawn) / sections.um_per_px(drawn)
    parent = known[cKDTree(known).query(before[out])[1]]
    inside = (after[out] > 0).all(1) & (after[out] < sections.image_size(drawn)[0] - 1).all(1)
    wanted = parent + (before[out] - parent) * dense_ledger.HALF_STEP_PX / pitch
    np.testing.assert_allclose(after[out][inside], wanted[inside])
    assert inside.mean() > 0.8


def test_the_ledger_is_whole_and_goes_on_where_it_stopped(drawn, tmp_path, monkeypatch):
    options = {"image": IMAGE, "settings": SETTINGS, "folder": tmp_path}

    def known(section):
        return tissue.truth(section).expression(section.obsm["spatial"])

    table = dense_ledger.ledger("toy", [drawn], known_truth=known, **options)
    assert list(table.columns) == switches.COLUMNS
    assert set(table["choice"]) == {"none", *(f.name for f in fields(Choices))}
    assert set(table["truth"]) == {"measured", "as the pipeline scores", "true"}
    assert table["difference"].notna().all()
    np.testing.assert_allclose(table["value"] - table["base"], table["difference"])
    alone = (
        table[table["direction"] == "one_on_from_clean"].set_index(["choice", "truth"]).sort_index()
    )
    # What only scores changes no honest score; training spots do raise the pipeline's own.
    measured = alone.loc[("training_spots_scored", "measured")]
    assert (measured["difference"] == 0).all()
    assert (alone.loc[("training_spots_scored", "as the pipeline scores")]["difference"] != 0).all()
    monkeypatch.setattr(dense_ledger, "run", lambda *_, **__: pytest.fail("computed again"))
    again = dense_ledger.ledger("toy", [drawn], known_truth=known, **options)
    assert again.equals(table)
