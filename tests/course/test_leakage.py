"""The leakage simulator: an honest pipeline sees nothing of the held-out section; others do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from heclip_course import leakage
from heclip_lite import config
from heclip_lite.data import sections

IMAGE = config.AppearanceInput()


@pytest.fixture(scope="module")
def table(small_sections):
    return leakage.simulate(small_sections, "P1-1", IMAGE)


def test_every_combination_is_scored_once(table):
    choices = [leakage.SPLITS, leakage.PANELS, leakage.FITTED, leakage.TRUTHS, leakage.METHODS]
    keys = ["split", "panel", "fitted_on", "truth", "method"]
    found = list(table[keys].itertuples(index=False, name=None))
    assert sorted(found) == sorted(itertools.product(*choices))
    assert table["value"].between(-1, 1).all()


def test_leaks_flatter(table):
    honest = leakage.scores(table)
    random_spots = leakage.scores(table, leakage.Leaks(split="random spots"))
    assert random_spots["position"] > honest["position"] + 0.1
    best = leakage.scores(table, leakage.Leaks(panel="best predicted on the test section"))
    assert (best >= honest).all() and best.sum() > honest.sum()
    alone = leakage.one_at_a_time(table)
    assert (alone.loc["everything leaks"] > alone.loc["nothing leaks"]).all()
    assert list(alone.columns) == list(leakage.METHODS) and len(alone) == 8


def test_the_same_seed_gives_the_same_table(table, small_sections):
    assert table.equals(leakage.simulate(small_sections, "P1-1", IMAGE))


def _changed(section):
    """The section with its counts dealt out anew, among spots and among genes."""
    made = section.copy()
    made.X = section.X[np.random.default_rng(0).permutation(section.n_obs)][:, ::-1].tocsr()
    return made


def test_the_honest_pipeline_sees_no_count_of_the_held_out_section(small_sections):
    place = [sections.name_of(s) for s in small_sections].index("P1-1")
    other = [_changed(s) if i == place else s for i, s in enumerate(small_sections)]
    spots = [leakage._Spots(given, place, IMAGE, "cpu") for given in (small_sections, other)]
    assert spots[0].panels["new donor"] == spots[1].panels["new donor"]
    for split in leakage.SPLITS[:2]:
        made = [
            leakage._predictions(s, split, "training", 0)["measured", "mean colour"][
                :, s.genes.get_indexer(s.panels[split].genes)
            ]
            for s in spots
        ]
        assert np.allclose(*made), split
    leaky = [
        leakage._predictions(s, "new donor", "training and test", 0)["measured", "mean colour"][
            :, s.genes.get_indexer(s.panels["new donor"].genes)
        ]
        for s in spots
    ]
    assert not np.allclose(*leaky), "components fitted with the test section depend on its counts"


def test_every_random_spot_is_tested_once_and_never_trained_on(small_sections):
    spots = leakage._Spots(small_sections, 0, IMAGE, "cpu")
    tested = np.zeros(len(spots.here), dtype=int)
    for known, asked in spots.rounds("random spots", 0):
        assert not (known & asked).any() and (known | asked).all()
        tested += asked
    assert np.array_equal(tested, spots.here.astype(int))
    ((known, asked),) = spots.rounds("new donor", 0)
    assert not (known & spots.same_donor).any() and np.array_equal(asked, spots.here)


def test_what_cannot_be_simulated_is_named(small_sections):
    with pytest.raises(ValueError, match="no section 'P9'; there are P1-1, P1-2, P2-1, P2-2"):
        leakage.simulate(small_sections, "P9", IMAGE)
    with pytest.raises(ValueError, match="needs another section of its donor P1"):
        leakage.simulate(small_sections[1:], "P1-2", IMAGE)
    with pytest.raises(ValueError, match="a section of another donor"):
        leakage.simulate(small_sections[:2], "P1-2", IMAGE)
    with pytest.raises(ValueError, match="split is 'spots'; use one of 'new donor'"):
        leakage.Leaks(split="spots")


def test_leaks_are_put_in_words():
    assert leakage.described(leakage.HONEST) == "nothing leaks"
    words = leakage.described(leakage.Leaks(split="random spots", truth="corrected"))
    assert words == "tested on random spots; truth batch-corrected with training"
