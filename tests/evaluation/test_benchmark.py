"""The contest: what it withholds, what it scores, what it keeps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from heclip_lite import config, evaluation, methods, store
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.evaluation import Fold
from heclip_lite.methods.base import Oracle
from heclip_lite.methods.heclip import HECLIP


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
    for metric in ("pearson", "partial_pearson", "spearman", "ssim", "variance_ratio", "gene_gene"):
        assert table[table.metric == metric].value.to_numpy() == pytest.approx(1), metric
    for metric in ("rmse", "js", "moran_gap"):
        assert table[table.metric == metric].value.to_numpy() == pytest.approx(0, abs=1e-6), metric
    assert set(table.fold) == {"P1-1", "P1-2", "all"} and set(table.split) == {"donor"}
    assert set(table[table.fold == "all"].scope) == {"pooled"}
    assert table.groupby("gene_set").n_genes.first()["hvg50"] <= 50


def test_contest_tells_serial_sections_from_new_donors(small_sections):
    split = [Fold(("P1-1", "P2-1"), ("P1-2",)), Fold(("P1-1", "P1-2"), ("P2-1",))]
    table = contest(small_sections, {"mean": methods.Mean()}, split)
    table = table[table.scope == "per_section"]
    assert table.groupby("fold").split.first().to_dict() == {"P1-2": "section", "P2-1": "donor"}


def test_a_constant_prediction_scores_zero_and_is_counted(small_sections):
    def flatten(values):
        values = values.copy()
        values[:, :10] = 1.0
        return values

    table = contest(small_sections, {"half": Truth(small_sections, flatten)})
    row = table[
        (table.metric == "pearson") & (table.gene_set == "hvg1000") & (table.scope == "per_section")
    ].iloc[0]
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


class Counting(methods.Mean):
    """Counts how often it was fitted."""

    version = "1"
    fits = 0

    def __init__(self, shift=0.0):
        self.shift = shift

    def _fit(self, training):
        Counting.fits += 1
        super()._fit(training)

    def _predict(self, section):
        return super()._predict(section) + self.shift


@pytest.fixture
def counting(tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "fits", 0)
    return tmp_path / "contest"


def test_a_contest_computes_nothing_twice(small_sections, counting):
    split = evaluation.leave_one_out(small_sections, "donor")
    first = contest(small_sections, {"a": Counting()}, split[:1], folder=counting)
    assert Counting.fits == 1
    again = contest(small_sections, {"a": Counting()}, split, folder=counting)
    assert Counting.fits == 2  # only the second fold is new
    kept = again[(again.fold != "all") & again.fold.isin(first.fold)]
    pd.testing.assert_frame_equal(
        kept.reset_index(drop=True), first[first.fold != "all"].reset_index(drop=True)
    )


@pytest.mark.parametrize("change", ["settings", "data", "code", "damage"])
def test_a_contest_computes_again_what_has_changed(small_sections, counting, monkeypatch, change):
    split = evaluation.leave_one_out(small_sections, "donor")[:1]
    contest(small_sections, {"a": Counting()}, split, folder=counting)
    entry, given = Counting(), small_sections
    if change == "settings":
        entry = Counting(shift=1.0)
    elif change == "data":
        given = [s.copy() for s in small_sections]
        given[2].X[0, 0] += 1
    elif change == "code":
        monkeypatch.setattr(store, "code_key", lambda *_: "another version")
    else:
        (path,) = counting.glob("*.npz")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="damaged"):
            contest(given, {"a": entry}, split, folder=counting)
        assert Counting.fits == 2
        return
    contest(given, {"a": entry}, split, folder=counting)
    assert Counting.fits == 2


def test_a_method_that_cannot_be_described_is_computed_each_time(small_sections, counting):
    split = evaluation.leave_one_out(small_sections, "donor")[:1]
    for _ in range(2):
        contest(small_sections, {"a": Counting(shift=np.zeros(1))}, split, folder=counting)
    assert Counting.fits == 2 and not list(counting.glob("*"))


def test_a_method_of_ones_own_is_kept_only_with_a_version(small_sections, counting):
    class Own(Counting):
        version = None

    split = evaluation.leave_one_out(small_sections, "donor")[:1]
    for _ in range(2):
        contest(small_sections, {"a": Own()}, split, folder=counting)
    assert Counting.fits == 2 and not list(counting.glob("*"))


def test_where_a_model_is_kept_does_not_count_as_a_setting():
    a, b = (
        HECLIP.recommended(config.MapInput(), checkpoint=folder) for folder in (None, "somewhere")
    )
    assert evaluation.describe(a) == evaluation.describe(b)
    assert evaluation.describe(a) != evaluation.describe(a.with_seed(1))


class Peeking(methods.Mean):
    """Asks for the counts it must not see."""

    def _predict(self, section):
        return genes.expression(section, self.panel)


def test_a_method_that_asks_for_withheld_counts_is_stopped(small_sections):
    with pytest.raises(ValueError, match="holds no expression; it was hidden"):
        contest(small_sections, {"peek": Peeking()})


class Told(Oracle):
    """Repeats what it is told."""

    def __init__(self, reveals):
        self.reveals = reveals

    def _fit(self, training):
        pass

    def _predict(self, section, revealed):
        return revealed if revealed.ndim == 2 else np.tile(revealed[:, None], len(self.genes))


def test_oracles_are_told_what_they_name_and_no_more(small_sections):
    table = contest(small_sections, {"all": Told("expression"), "depth": Told("depth")})
    pearson = table[(table.metric == "pearson") & (table.gene_set == "hvg1000")]
    assert (pearson[pearson.method == "all"].value > 1 - 1e-6).all()
    assert (pearson[pearson.method == "depth"].value < 0.9).all()
    partial = table[(table.metric == "partial_pearson") & (table.method == "depth")]
    assert (partial.value.abs() < 0.1).all()


def test_an_oracle_is_not_told_anything_of_another_shape(small_sections):
    oracle = Told("depth").fit(small_sections[:1])
    with pytest.raises(ValueError, match=r"is told the depth of \d+ spots: shape"):
        oracle.predict(small_sections[1], np.zeros((3, 2)))


def test_a_fixed_set_is_the_same_in_every_fold(small_sections):
    split = evaluation.leave_one_out(small_sections, "section")[:2]
    fixed = list(small_sections[0].var_names[:7])
    table = contest(small_sections, {"mean": methods.Mean()}, split, fixed=fixed)
    rows = table[(table.gene_set == "fixed") & (table.metric == "rmse")]
    assert (rows.n_genes + rows.n_undefined == 7).all()
    with pytest.raises(ValueError, match="lacks 1 of 2 genes of the fixed set, first 'NOSUCH'"):
        contest(small_sections, {"m": methods.Mean()}, fixed=[fixed[0], "NOSUCH"])


def test_an_unknown_gene_set_is_named(small_sections):
    with pytest.raises(ValueError, match="no gene set 'best10'"):
        contest(small_sections, {"mean": methods.Mean()}, gene_sets=["best10"])


def test_a_section_with_other_genes_is_named(small_sections):
    strange = small_sections[0].copy()
    names = strange.var_names.tolist()
    strange.var_names = names[:5] + [f"OTHER{i}" for i in range(len(names) - 5)]
    split = [Fold(("P2-1", "P2-2"), ("P1-1",))]
    with pytest.raises(ValueError, match=r"Section 'P1-1' lists only \d+ of the"):
        contest([strange, *small_sections[1:]], {"mean": methods.Mean()}, split)


def test_pooled_spots_are_scored_beside_sections(small_sections):
    split = evaluation.leave_one_out(small_sections, "section")
    kept = {}
    table = contest(small_sections, {"mean": methods.Mean()}, split, predictions=kept)
    pooled = table[(table.scope == "pooled") & (table.metric == "pearson")]
    assert (pooled.fold == "all").all()
    assert pooled.n_spots.iloc[0] == sum(s.n_obs for s in small_sections)
    fixed = contest(
        small_sections, {"mean": methods.Mean()}, split, fixed=list(small_sections[0].var_names)
    )
    row = fixed[(fixed.scope == "pooled") & (fixed.gene_set == "fixed")]
    row = row[row.metric == "rmse"].iloc[0]
    every = genes.GenePanel(tuple(small_sections[0].var_names), {})
    errors = []
    for section in small_sections:
        others = [s for s in small_sections if s is not section]
        mean = np.concatenate([genes.expression(s, every) for s in others]).mean(0)
        errors.append(genes.expression(section, every) - mean)
    wanted = np.sqrt((np.concatenate(errors) ** 2).mean(0))
    varies = np.ptp(np.concatenate([genes.expression(s, every) for s in small_sections]), 0) > 0
    assert row.value == pytest.approx(wanted[varies].mean(), rel=1e-5)


def test_known_truth_is_scored_beside_the_measured_one(small_sections):
    def known(section):
        return tissue.truth(section).expression(section.obsm["spatial"])

    table = contest(small_sections, {"truth": Truth(small_sections)}, known_truth=known)
    against = table[(table.metric == "pearson_true") & (table.gene_set == "hvg50")].value
    assert (against > 0.3).all() and (against < 0.99).all()


def test_methods_without_randomness_run_once(small_sections):
    table = contest(small_sections, {"mean": methods.Mean()}, seeds=(0, 1, 2))
    assert set(table.seed) == {0}
