"""Baselines and controls: what they learn, what they may not look at, what chance scores."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite import config, evaluation, methods
from heclip_lite.data import genes, sections
from heclip_lite.evaluation.metrics import per_gene
from heclip_lite.methods.baselines import _choose, _groups

ENCODER = config.Encoder("resnet10t")
MAPS = config.MapInput(ENCODER, um_per_px=(2.4,), widths_um=(50.0, 150.0), components=32)
VECTORS = config.PatchInput(ENCODER, size=32, trainable=False)
LOOKS = config.AppearanceInput(widths_um=(50.0, 150.0), components=32)


def score(method, training, test):
    panel = genes.fit_panel(training)
    method.panel = panel
    predicted = method.fit(training).predict(sections.hide_expression(test))
    assert predicted.shape == (test.n_obs, len(panel.genes)) and predicted.dtype == np.float32
    return float(np.nanmean(per_gene(genes.expression(test, panel), predicted)["pearson"]))


@pytest.mark.parametrize("image", [MAPS, VECTORS, LOOKS], ids=["maps", "vectors", "looks"])
@pytest.mark.parametrize("kind", [methods.Ridge, methods.KernelRidge, methods.NearestNeighbours])
def test_frozen_descriptions_predict(small_sections, kind, image):
    *training, test = small_sections
    assert score(kind(image), training, test) > 0.1


def test_colour_alone_predicts_less_but_something(small_sections):
    *training, test = small_sections
    colour = score(methods.MeanColour(), training, test)
    assert 0.02 < colour < score(methods.Ridge(MAPS), training, test)


def test_position_tells_serial_sections_and_not_other_donors(small_sections):
    first, second, other = small_sections[:3]
    serial = score(methods.Position(), [second], first)
    assert serial > 0.1
    assert score(methods.Position(), [other], first) < serial - 0.1


def test_position_never_looks_inside_the_tissue(small_sections):
    first, second = small_sections[:2]
    changed = sections.hide_expression(first)
    spotless = changed.copy()
    shown = spotless.uns["spatial"]["P1-1"]["images"]
    tissue = (shown["fullres"] != sections.background_of(first)).any(axis=2)
    # One dark colour everywhere inside: the outline stays.
    shown["fullres"] = np.where(tissue[..., None], np.uint8(90), shown["fullres"])
    method = methods.Position().fit([second])
    np.testing.assert_array_equal(method.predict(changed), method.predict(spotless))


def test_shuffled_pairs_score_chance(small_sections):
    *training, test = small_sections
    inner = methods.Ridge(MAPS)
    values = [score(methods.Shuffled(inner, seed), training, test) for seed in range(3)]
    assert abs(np.mean(values)) < 0.06 < score(inner, training, test)
    again = score(methods.Shuffled(inner, 0).with_seed(1), training, test)
    assert again == values[1] != values[0]


def test_an_average_is_the_mean_of_its_methods(small_sections):
    *training, test = small_sections
    hidden = sections.hide_expression(test)
    parts = [methods.Mean(), methods.KernelRidge(MAPS)]
    apart = [method.fit(training).predict(hidden) for method in parts]
    together = methods.Average([methods.Mean(), methods.KernelRidge(MAPS)]).fit(training)
    np.testing.assert_allclose(together.predict(hidden), np.mean(apart, axis=0), atol=1e-6)
    assert together.with_seed(3) is together  # neither of them draws anything


def test_the_search_never_sees_the_counts_it_is_judged_on():
    """Poison the left-out rows: predictions for them must not change."""
    rng = np.random.default_rng(0)
    targets, groups = rng.normal(size=(30, 4)), np.repeat([0, 1, 2], 10)
    seen = []

    def predict(known, asked, choice):
        assert not set(known) & set(asked)
        assert len(set(groups[asked])) == 1 and groups[asked[0]] not in groups[known]
        seen.append(choice)
        return targets[asked] if choice == 2.0 else rng.normal(size=(len(asked), 4))

    assert _choose((1.0, 2.0, 3.0), groups, targets, predict) == 2.0
    assert seen == [1.0, 2.0, 3.0] * 3


def test_groups_are_sections_donors_or_strips(small_sections):
    sizes = [s.n_obs for s in small_sections]
    by_section = _groups(small_sections, "section")
    assert [int((by_section == sections.name_of(s)).sum()) for s in small_sections] == sizes
    assert set(_groups(small_sections, "donor")) == {"P1", "P2"}
    strips = _groups(small_sections[:1], "section")
    assert len(set(strips.tolist())) == 5 and (np.diff(strips) >= 0).all()
    with pytest.raises(ValueError, match="All 2 training sections are of donor P1"):
        _groups(small_sections[:2], "donor")


def test_ridge_leaves_out_donors_where_asked(small_sections):
    assert score(methods.Ridge(MAPS, by="donor"), small_sections[:3], small_sections[3]) > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.Ridge(MAPS, alphas=(1.0, -1.0)), "alphas is"),
        (lambda: methods.Ridge(MAPS, by="spot"), "by is 'spot'"),
        (lambda: methods.NearestNeighbours(MAPS, ks=()), "ks is"),
        (lambda: methods.KernelRidge(MAPS, rank=0), "rank is 0"),
        (lambda: methods.Average([methods.Mean()]), "1 methods to average"),
        (lambda: methods.Position(widths_um=(0.0,)), "widths_um is"),
    ],
)
def test_faulty_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_neighbours_than_spots_are_named(small_sections):
    with pytest.raises(ValueError, match="k is 9999, but there are"):
        methods.NearestNeighbours(MAPS, ks=(9999,)).fit(small_sections[:1])


def test_train_harmony_changes_training_only(small_sections):
    *training, test = small_sections
    plain, corrected = (
        methods.NearestNeighbours(MAPS),
        methods.TrainHarmony(methods.NearestNeighbours(MAPS)),
    )
    hidden = sections.hide_expression(test)
    before = plain.fit(training).predict(hidden)
    after = corrected.fit(training).predict(hidden)
    assert not np.allclose(before, after, atol=1e-3)
    alone = methods.TrainHarmony(methods.NearestNeighbours(MAPS)).fit(training[:1])
    same = methods.NearestNeighbours(MAPS).fit(training[:1])
    np.testing.assert_allclose(alone.predict(hidden), same.predict(hidden))
    split = evaluation.leave_one_out(small_sections, "donor")[:1]
    table = evaluation.contest({"harmony": corrected}, small_sections, split)
    assert table[table.metric == "pearson"].value.notna().all()
