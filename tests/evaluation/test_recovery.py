"""Predicting some spots of a slide from others, and the interpolations it is measured against."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from heclip_lite import methods
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.evaluation import recovery
from heclip_lite.methods import interpolation


@pytest.fixture(scope="module")
def drawn():
    return tissue.synthetic_sections(1, 2, size_um=1200.0)


@pytest.mark.parametrize("holdout", recovery.HOLDOUTS)
def test_holdouts_hold_out_what_they_say(drawn, holdout):
    section = drawn[0]
    out = recovery.hold_out(section, holdout, seed=3)
    np.testing.assert_array_equal(out, recovery.hold_out(section, holdout, seed=3))
    assert not np.array_equal(out, recovery.hold_out(section, holdout, seed=4))
    wanted = 0.75 if holdout == "lattice" else 0.5
    assert abs(out.mean() - wanted) < 0.12
    places = np.asarray(section.obsm["spatial"]) * sections.um_per_px(section)
    apart = np.linalg.norm(places[out][:, None] - places[~out], axis=2).min(axis=1)
    pitch = sections.spot_pitch_um(section)
    if holdout == "lattice":
        known = np.linalg.norm(places[~out][:, None] - places[~out], axis=2)
        known[np.diag_indices(len(known))] = np.inf
        np.testing.assert_allclose(known.min(axis=1), 2 * pitch, rtol=0.01)
        assert np.median(apart) == pytest.approx(pitch, rel=0.01)
    if holdout == "block":
        random = recovery.hold_out(section, "random", seed=3)
        near = np.linalg.norm(places[random][:, None] - places[~random], axis=2).min(axis=1)
        assert apart.mean() > 1.3 * near.mean(), "blocks lie farther from what is known"


def test_holdouts_that_leave_nothing_are_named(drawn):
    with pytest.raises(ValueError, match="10 are needed on each side"):
        recovery.hold_out(drawn[0], "random", share=0.999)
    with pytest.raises(ValueError, match="10 are needed on each side"):
        recovery.hold_out(drawn[0][:15].copy(), "random")
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        recovery.hold_out(drawn[0], "random", share=1.5)
    with pytest.raises(ValueError, match="unknown"):
        recovery.hold_out(drawn[0], "half")


def test_nearest_spot_and_inverse_distance_by_hand(drawn):
    section = drawn[0]
    out = recovery.hold_out(section, "random")
    part = recovery.kept_part(section, out)
    hidden = sections.hide_expression(section)
    nearest = interpolation.NearestSpot().fit([part])
    values = genes.expression(section, nearest.panel)
    known = np.flatnonzero(~out)
    places = np.asarray(section.obsm["spatial"]) * sections.um_per_px(section)
    distance = np.linalg.norm(places[:, None] - places[known], axis=2)
    found = nearest.predict(hidden)
    alone = (distance < distance.min(axis=1, keepdims=True) + 1).sum(axis=1) == 1  # no tie
    np.testing.assert_allclose(
        found[alone], values[known[distance.argmin(axis=1)]][alone], rtol=1e-6
    )
    weighted = interpolation.InverseDistance((2.0,), neighbours=len(known)).fit([part])
    spot = int(np.flatnonzero(out)[0])
    weights = distance[spot] ** -2.0
    by_hand = weights @ values[known] / weights.sum()
    np.testing.assert_allclose(weighted.predict(hidden)[spot], by_hand, rtol=1e-5)


def test_a_smooth_field_is_recovered_by_a_gaussian_process(drawn):
    section = drawn[0].copy()
    places = np.asarray(section.obsm["spatial"]) * sections.um_per_px(section)
    rate = np.exp(np.sin(places[:, :1] / 150) + np.cos(places[:, 1:] / 200))
    counts = np.random.default_rng(0).poisson(400 * rate * np.ones((1, section.n_vars)))
    counts[:, : section.n_vars // 2] = 300  # depth is no longer the field itself
    section.X = type(section.X)(counts.astype(np.float32))
    out = recovery.hold_out(section, "random")
    method = interpolation.GaussianProcess().fit([recovery.kept_part(section, out)])
    found = method.predict(sections.hide_expression(section))[out]
    truth = genes.expression(section, method.panel)[out]
    varies = truth.std(0) > 0.2
    r = [pearsonr(t, f)[0] for t, f in zip(truth[:, varies].T, found[:, varies].T, strict=True)]
    assert np.mean(r) > 0.9


@pytest.mark.parametrize(
    "method",
    [interpolation.NearestSpot, interpolation.InverseDistance, interpolation.GaussianProcess],
)
def test_interpolation_refuses_another_slide(drawn, method):
    fitted = method().fit(drawn[:1])
    with pytest.raises(ValueError, match="none of the slides it was fitted on"):
        fitted.predict(drawn[1])


def test_settings_of_inverse_distance_are_checked():
    with pytest.raises(ValueError, match="powers"):
        interpolation.InverseDistance(())
    with pytest.raises(ValueError, match="neighbours 0"):
        interpolation.InverseDistance(neighbours=0)


def test_training_spots_inflate_the_score_of_all(drawn, tmp_path):
    entrants = {"nearest": interpolation.NearestSpot(), "mean": methods.Mean()}
    table = recovery.recovery(entrants, drawn[0], ("random", "block"), folder=tmp_path)
    assert list(table.columns) == recovery.COLUMNS
    assert not table.duplicated(recovery.COLUMNS[:-1]).any()
    score = table[table["metric"] == "pearson"].pivot_table(
        index=["method", "holdout"], columns="scope", values="value"
    )
    assert (score.loc["nearest", "all"] > score.loc["nearest", "heldout"] + 0.2).all()
    assert (score.loc["mean"] == 0).all().all()


def test_the_panel_knows_training_spots_only(drawn, tmp_path):
    section = drawn[0].copy()
    out = recovery.hold_out(section, "random")
    loud = section.copy()
    counts = pd.DataFrame(loud.X.toarray(), columns=loud.var_names)
    counts.iloc[np.flatnonzero(out), 0] *= 500
    loud.X = type(section.X)(counts.to_numpy(np.float32))
    one, other = (genes.fit_panel([recovery.kept_part(s, out)]) for s in (section, loud))
    assert one.to_dict() == other.to_dict()


def test_the_ceiling_stands_beside_the_methods(drawn):
    table = recovery.ceiling(drawn[0], ("random",))
    assert list(table.columns) == recovery.COLUMNS
    assert table["value"].between(0, 1).all() and set(table["scope"]) == {"heldout"}


def test_points_between_spots_are_scored_against_the_truth(drawn, tmp_path, monkeypatch):
    section = drawn[0]
    truth = tissue.truth(section).expression
    entrants = {"inverse_distance": interpolation.InverseDistance(), "mean": methods.Mean()}
    table = recovery.generation(entrants, section, truth, (1, 4, 9), folder=tmp_path)
    assert not table.duplicated(["method", "factor", "gene_set"]).any()
    points = table.groupby("factor")["points"].first()
    assert points[1] == section.n_obs and points[4] < 4 * section.n_obs < points[9] * 2
    pitch = table.groupby("factor")["pitch_um"].first()
    np.testing.assert_allclose(pitch[1] / pitch[[4, 9]], [2, 3])
    mean = table.groupby("method")["value"].mean()
    assert mean["inverse_distance"] > 0.2 and mean["mean"] == 0
    monkeypatch.setattr(interpolation.InverseDistance, "_fit", lambda *_: pytest.fail("again"))
    again = recovery.generation(entrants, section, truth, (1, 4, 9), folder=tmp_path)
    pd.testing.assert_frame_equal(again, table)


def test_a_stopped_recovery_goes_on_and_a_damaged_score_is_made_anew(drawn, tmp_path, monkeypatch):
    entrants = {"nearest": interpolation.NearestSpot()}
    table = recovery.recovery(entrants, drawn[0], ("random",), folder=tmp_path)
    fitted = []
    monkeypatch.setattr(
        interpolation.NearestSpot,
        "fit",
        lambda self, training: fitted.append(1) or methods.Method.fit(self, training),
    )
    again = recovery.recovery(entrants, drawn[0], ("random",), folder=tmp_path)
    pd.testing.assert_frame_equal(again, table)
    (kept,) = tmp_path.glob("*.json")
    kept.write_text(kept.read_text()[:50])
    with pytest.warns(UserWarning, match="is damaged"):
        again = recovery.recovery(entrants, drawn[0], ("random",), folder=tmp_path)
    pd.testing.assert_frame_equal(again, table)
    assert not fitted, "the prediction itself was kept"
