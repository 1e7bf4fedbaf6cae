"""Splits, metrics and the contest."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite import evaluation, genes, methods, sections
from heclip_lite.evaluation import Fold


def test_leave_one_section_out(small_sections):
    folds = evaluation.leave_one_out(small_sections, "section")
    assert [fold.test for fold in folds] == [("P1-1",), ("P1-2",), ("P2-1",), ("P2-2",)]
    assert folds[0].training == ("P1-2", "P2-1", "P2-2")


def test_leave_one_donor_out_keeps_donors_apart(small_sections):
    folds = evaluation.leave_one_out(small_sections, "donor")
    first, second = ("P1-1", "P1-2"), ("P2-1", "P2-2")
    assert folds == [Fold(second, first), Fold(first, second)]


def test_impossible_splits_are_named(small_sections):
    with pytest.raises(ValueError, match=r"only one donor \(P1\)"):
        evaluation.leave_one_out(small_sections[:2], "donor")
    with pytest.raises(ValueError, match="unit is 'spot'"):
        evaluation.leave_one_out(small_sections, "spot")
    for training, test in (((), ("A",)), (("A",), ()), (("A",), ("A",))):
        with pytest.raises(ValueError, match="sections on both sides and none on both"):
            Fold(training, test)


def test_pearson_equals_numpy():
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(size=(2, 40, 7))
    wanted = [np.corrcoef(true[:, g], predicted[:, g])[0, 1] for g in range(7)]
    np.testing.assert_allclose(evaluation.pearson_per_gene(true, predicted), wanted, atol=1e-12)


def test_pearson_is_nan_only_where_it_is_undefined():
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(size=(2, 20, 4))
    true[:, 1] = 0.1  # a mean that floats cannot hold exactly
    predicted[:, 3] = 0.3
    values = evaluation.pearson_per_gene(true, predicted)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False, True])


def test_metrics_name_what_does_not_fit():
    ones = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\) and predicted \(3, 4\)"):
        evaluation.pearson_per_gene(ones, ones.T)
    broken = ones.copy()
    broken[2, 1] = np.inf
    with pytest.raises(ValueError, match="predicted is not finite, first at spot 2, gene 1"):
        evaluation.rmse_per_gene(ones, broken)
    with pytest.raises(ValueError, match="k is 4, but there are 3 genes"):
        evaluation.hit_at_k(ones, ones, k=4)


def test_the_mean_wins_at_hit_at_k():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 30)) + np.linspace(0, 12, 30)
    flat = np.tile(true.mean(0), (50, 1))
    assert evaluation.hit_at_k(true, flat, k=5) == 1.0


class Truth:
    """Cheats with the truth it was handed before; for testing only."""

    def __init__(self, all_sections, change=lambda values: values):
        self.sections = {sections.name_of(s): s for s in all_sections}
        self.change = change

    def fit(self, training):
        self.training = [sections.name_of(s) for s in training]
        return self

    def predict(self, section):
        assert (
            section.n_vars == 0 and "domain" not in section.obs and "synthetic" not in section.uns
        )
        truth = genes.expression(self.sections[sections.name_of(section)], self.panel)
        return self.change(truth)


def contest(small_sections, entries, split=None, **options):
    split = evaluation.leave_one_out(small_sections, "donor")[:1] if split is None else split
    return evaluation.contest(entries, small_sections, split, **options)


def test_contest_scores_the_truth_with_one_and_withholds_counts(small_sections):
    table = contest(small_sections, {"truth": Truth(small_sections)})
    assert list(table.columns) == evaluation.COLUMNS
    assert table[table.metric == "pearson"].value.to_numpy() == pytest.approx(1)
    assert table[table.metric == "rmse"].value.to_numpy() == pytest.approx(0)
    assert set(table.fold) == {"P1-1", "P1-2"} and set(table.split) == {"donor"}
    assert table.groupby("gene_set").n_genes.first()["hvg50"] <= 50


def test_contest_tells_serial_sections_from_new_donors(small_sections):
    split = [Fold(("P1-1", "P2-1"), ("P1-2",)), Fold(("P1-1", "P1-2"), ("P2-1",))]
    table = contest(small_sections, {"mean": methods.Mean()}, split)
    assert table.groupby("fold").split.first().to_dict() == {"P1-2": "section", "P2-1": "donor"}


def test_a_constant_prediction_scores_zero_and_is_counted(small_sections):
    def flatten(values):
        values = values.copy()
        values[:, :10] = 1.0
        return values

    table = contest(small_sections, {"half": Truth(small_sections, flatten)})
    row = table[(table.metric == "pearson") & (table.gene_set == "hvg1000")].iloc[0]
    varying = row.n_genes
    assert row.n_constant == 10
    assert row.value == pytest.approx((varying - 10) / varying)


def test_a_gene_constant_in_the_truth_is_left_out_for_all(small_sections):
    changed = [s.copy() for s in small_sections]
    panel = genes.fit_panel(changed[2:])
    gene = changed[0].var_names.get_loc(panel.sets["hvg50"][3])
    counts = changed[0].X.tolil()
    counts[:, gene] = 0
    changed[0].X = counts.tocsr()
    table = contest(changed, {"mean": methods.Mean(), "truth": Truth(changed)})
    rows = table[(table.metric == "pearson") & (table.gene_set == "hvg50") & (table.fold == "P1-1")]
    assert rows.n_undefined.tolist() == [1, 1]
    assert rows.value.tolist() == pytest.approx([0, 1])


def test_the_panel_is_fitted_on_training_sections_only(small_sections, monkeypatch):
    seen = []
    original = genes.fit_panel

    def recording(training, **options):
        seen.append([sections.name_of(s) for s in training])
        return original(training, **options)

    monkeypatch.setattr(genes, "fit_panel", recording)
    contest(small_sections, {"mean": methods.Mean()})
    assert seen == [["P2-1", "P2-2"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:-1], r"truth on section P1-1: predict returned shape"),
        (lambda v: v.T, "is needed"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 3, np.nan, v), "first at spot 3"),
    ],
)
def test_faulty_predictions_are_named(small_sections, change, message):
    with pytest.raises(ValueError, match=message):
        contest(small_sections, {"truth": Truth(small_sections, change)})


def test_a_method_that_lacks_genes_is_named(small_sections):
    class Short(Truth):
        @property
        def genes(self):
            return self.panel.genes[1:]

        def predict(self, section):
            return super().predict(section)[:, 1:]

    with pytest.raises(ValueError, match="1 genes of the panel are missing, the first is"):
        contest(small_sections, {"short": Short(small_sections)})


def test_unknown_sections_of_a_split_are_named(small_sections):
    with pytest.raises(ValueError, match="names section 'P9-1'; there are P1-1, P1-2"):
        contest(small_sections, {"mean": methods.Mean()}, [Fold(("P1-1",), ("P9-1",))])
