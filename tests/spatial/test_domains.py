"""Spatial domains: found, scored, and refused where they make no sense."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from heclip_lite.data.synthetic import tissue
from heclip_lite.spatial import domains


@pytest.fixture(scope="module")
def drawn():
    return tissue.synthetic_sections(1, 1, size_um=1200.0)[0]


def planted(section, rng, noise=0.3):
    """Features that tell three bands of the slide apart."""
    x = np.asarray(section.obsm["spatial"])[:, 0]
    band = np.digitize(x, np.quantile(x, [1 / 3, 2 / 3]))
    return band, np.eye(3)[band] * 3 + rng.normal(0, noise, (len(x), 3))


@pytest.mark.parametrize("method", domains.METHODS)
def test_planted_domains_are_found(drawn, method):
    band, features = planted(drawn, np.random.default_rng(0))
    section = drawn.copy()
    section.obs["domain"] = pd.Categorical(np.array(["a", "b", "c"])[band])
    found = domains.find_domains(section, 3, method, features=features)
    scores = domains.score(found)
    assert scores["ari"] > 0.99 and scores["nmi"] > 0.99 and scores["macro_f1"] > 0.99
    assert scores["coherence"] > 0.8
    assert scores["majority_macro_f1"] < 0.2
    assert list(found.obs["found"].cat.categories) == ["1", "2", "3"]
    assert "found" not in section.obs, "the section given stays as it is"


def test_smoothing_helps_where_noise_hides_the_domains(drawn):
    band, features = planted(drawn, np.random.default_rng(0), noise=4.0)
    section = drawn.copy()
    section.obs["domain"] = pd.Categorical(np.array(["a", "b", "c"])[band])
    rough, smooth = (
        domains.score(domains.find_domains(section, 3, features=features, smooth=rounds))
        for rounds in (0, 3)
    )
    assert smooth["ari"] > rough["ari"] + 0.2
    assert smooth["coherence"] > rough["coherence"]


def test_the_same_seed_gives_the_same_groups(drawn):
    for method in domains.METHODS:
        one, again = (domains.find_domains(drawn, 4, method, seed=1) for _ in range(2))
        assert (one.obs["found"] == again.obs["found"]).all()


def test_scores_by_hand(drawn):
    section, unknown = drawn.copy(), drawn.n_obs - 5
    section.obs["domain"] = pd.Categorical(["a", "a", "a", "b", "b", *[None] * unknown])
    section.obs["found"] = pd.Categorical(["1", "1", "2", "2", "2", *["1"] * unknown])
    scores = domains.score(section)
    assert scores["n_spots"] == 5
    # 1 is a: 2 of 2 and 3; 2 is b: 2 of 3 and 2.
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 4 / 5) / 2)
    # Always "a": 3 of 5 and 3, never "b".
    assert scores["majority_macro_f1"] == pytest.approx((6 / 8 + 0) / 2)


def test_markers_of_a_group_are_named(drawn):
    band, features = planted(drawn, np.random.default_rng(0))
    section = drawn.copy()
    counts = section.X.toarray()
    counts[band == 1, 7] += 40
    section.X = type(section.X)(counts)
    found = domains.find_domains(section, 3, features=features)
    middle = found.obs["found"][band == 1].mode()[0]
    table = domains.markers(found, n=2)
    assert table[table["group"] == middle]["gene"].iloc[0] == section.var_names[7]


def test_what_cannot_be_grouped_is_named(drawn):
    with pytest.raises(ValueError, match="choose from 2 to"):
        domains.find_domains(drawn, drawn.n_obs + 1)
    with pytest.raises(ValueError, match="kmeans, mixture, leiden"):
        domains.find_domains(drawn, 3, "mclust")
    with pytest.raises(ValueError, match="all 4 features are constant"):
        domains.find_domains(drawn, 3, features=np.ones((drawn.n_obs, 4)))
    with pytest.raises(ValueError, match="one row per spot"):
        domains.find_domains(drawn, 3, features=np.ones((3, 4)))
    broken = np.zeros((drawn.n_obs, 2))
    broken[5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        domains.find_domains(drawn, 3, features=broken)
    _, features = planted(drawn, np.random.default_rng(0), noise=0.01)
    with pytest.raises(ValueError, match="no resolution with"):
        domains.find_domains(drawn, drawn.n_obs - 1, "leiden", features=features)


def test_missing_labels_are_named(drawn):
    found = domains.find_domains(drawn, 3)
    del found.obs["domain"]
    with pytest.raises(ValueError, match="obs has no 'domain'"):
        domains.score(found)
    found.obs["domain"] = pd.Categorical([None] * found.n_obs)
    with pytest.raises(ValueError, match="0 of"):
        domains.score(found)
    with pytest.raises(ValueError, match="find_domains"):
        domains.score(drawn, "groups")


def test_descriptions_side_by_side_weigh_the_same():
    rng = np.random.default_rng(0)
    loud, quiet = rng.normal(0, 100, (50, 8)), rng.normal(0, 0.01, (50, 30))
    made = domains.together([loud, quiet], components=6)
    assert made.shape == (50, 12)
    variance = made.var(axis=0)
    np.testing.assert_allclose([variance[:6].sum(), variance[6:].sum()], 1)


def test_comparisons_are_kept_and_say_where_no_grouping_was_found(drawn, tmp_path, monkeypatch):
    band, features = planted(drawn, np.random.default_rng(0))
    section = drawn.copy()
    section.obs["domain"] = pd.Categorical(np.array(["a", "b", "c"])[band])
    inputs = {"planted": features, "noise": np.random.default_rng(1).normal(size=(len(band), 3))}
    table = domains.compare(section, inputs, 3, seeds=(0, 1), folder=tmp_path)
    assert list(table.columns) == domains.COLUMNS
    assert len(table) == 2 * 3 * 2 * 2 * len(domains.SCORES)
    ari = table[table["metric"] == "ari"].groupby("input")["value"].mean()
    assert ari["planted"] > 0.9 and ari["noise"] < 0.2
    monkeypatch.setattr(domains, "find_domains", lambda *_, **__: pytest.fail("again"))
    again = domains.compare(section, inputs, 3, seeds=(0, 1), folder=tmp_path)
    pd.testing.assert_frame_equal(again, table)

    def none(*_, **__):
        raise domains.NoSuchNumber("none")

    monkeypatch.setattr(domains, "find_domains", none)
    lost = domains.compare(section, inputs, 2, methods=("leiden",), folder=tmp_path)
    assert lost["value"].isna().all()


def test_bands_touch_themselves_more_than_chance(drawn):
    band, features = planted(drawn, np.random.default_rng(0))
    found = domains.find_domains(drawn, 3, features=features)
    table = domains.enrichment(found)
    assert list(table.index) == ["1", "2", "3"]
    assert (np.diag(table) > 5).all()
    left, right = (found.obs["found"][band == b].mode()[0] for b in (0, 2))
    assert table.loc[left, right] < -5, "the outer bands do not touch"


def test_the_first_graph_of_a_process_is_made_in_silence():
    code = (
        "from heclip_lite.data.synthetic import tissue\n"
        "from heclip_lite.spatial import domains\n"
        "section = tissue.synthetic_sections(1, 1, size_um=700, n_genes=60)[0]\n"
        "assert domains.neighbours(section).nnz\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
