"""Charts of result tables: what they show is what the table holds."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from heclip_lite import plotting

METHODS = ("ridge", "heclip_recommended", "mean", "oracle_depth")
LEVEL = dict(zip(METHODS, (0.2, 0.3, 0.0, 0.4), strict=True))


@pytest.fixture(scope="module")
def contest() -> pd.DataFrame:
    rows = [
        {
            "method": method,
            "split": "section",
            "fold": "all" if scope == "pooled" else fold,
            "seed": 0,
            "gene_set": gene_set,
            "metric": metric,
            "scope": scope,
            "value": LEVEL[method] / (2 if metric == "partial_pearson" else 1),
        }
        for method, fold, gene_set, metric, scope in itertools.product(
            METHODS,
            ("C2", "C3"),
            ("hvg1000", "hvg50"),
            ("pearson", "partial_pearson"),
            ("per_section", "pooled"),
        )
    ]
    return pd.DataFrame(rows).drop_duplicates()


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def test_ranking_orders_within_kinds_and_draws_the_ceiling(contest):
    ceilings = pd.DataFrame(
        {
            "split": "section",
            "fold": ["C2"],
            "gene_set": "hvg50",
            "ceiling": "counting",
            "value": 0.8,
        }
    )
    figure = plotting.ranking(contest, split="section", ceilings=ceilings)
    assert labels(figure.axes[0]) == ["oracle depth", "HECLIP recommended", "ridge", "mean"]
    lines = [line.get_xdata()[0] for line in figure.axes[1].lines if len(line.get_xdata()) == 2]
    assert 0.8 in lines
    with pytest.raises(ValueError, match="no 'pearson' inside sections for the split 'donor'"):
        plotting.ranking(contest, split="donor")


def test_fold_means_leave_pooled_rows_out(contest):
    found = plotting.fold_means(contest, split="section")
    assert set(found["fold"]) == {"C2", "C3"}
    assert found.groupby("method")["value"].mean()["ridge"] == pytest.approx(0.2)


def test_depth_draws_from_whole_to_partial(contest):
    ax = plotting.depth(contest, split="section").axes[0]
    spans = [sorted(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert [0.15, 0.3] in [list(np.round(span, 3)) for span in spans]


def test_scopes_need_both(contest):
    ax = plotting.scopes(contest, split="section", gene_set="hvg50").axes[0]
    assert labels(ax)[-1] == "oracle depth"


@pytest.fixture(scope="module")
def ablated() -> pd.DataFrame:
    gain = {"recommended": 0.0, "0.1": -0.02, "1": 0.01}
    return pd.DataFrame(
        [
            {
                "factor": "temperature",
                "level": level,
                "fold": fold,
                "seed": seed,
                "gene_set": "hvg50",
                "metric": "pearson",
                "value": hard + add + 0.001 * seed,
            }
            for (level, add), (fold, hard), seed in itertools.product(
                gain.items(), {"C2": 0.2, "C3": 0.4}.items(), (0, 1)
            )
        ]
    )


def test_differences_are_paired(ablated):
    found = plotting.paired_differences(ablated).groupby("level")["difference"]
    assert found.mean()["0.1"] == pytest.approx(-0.02)
    assert found.std().max() < 1e-9, "how hard a section is cancels"
    ax = plotting.ablation(ablated).axes[0]
    assert labels(ax) == ["0.1", "1"]
    with pytest.raises(ValueError, match="no factor encoder"):
        plotting.ablation(ablated, ["encoder"])


def test_the_ledger_shows_what_a_choice_adds():
    rows = [
        {
            "choice": choice,
            "direction": direction,
            "fold": "C6",
            "gene_set": "hvg50",
            "metric": "pearson",
            "truth": truth,
            "difference": sign * 0.1,
        }
        for choice in ("double_log", "best_on_test")
        for direction, sign in (("one_on_from_clean", 1), ("one_off_from_reference", -1))
        for truth in ("measured", "as the pipeline scores")
    ]
    figure = plotting.ledger(pd.DataFrame(rows))
    assert labels(figure.axes[0]) == ["double log", "best on test"]
    for ax in figure.axes[:2]:  # both panels show the same, whichever way it was measured
        values = np.concatenate(
            [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
        )
        assert 0.1 in np.round(values.astype(float), 6)


def test_intervals_have_a_panel_per_section():
    table = pd.DataFrame(
        {
            "method": ["ridge", "heclip_recommended"] * 2,
            "fold": ["C6", "C6", "B4", "B4"],
            "against": "ridge",
            "difference": [0.0, 0.1, 0.0, 0.2],
            "difference_low": [0.0, 0.05, 0.0, 0.1],
            "difference_high": [0.0, 0.15, 0.0, 0.3],
        }
    )
    figure = plotting.intervals(table)
    assert len(figure.axes) == 2
    figure = plotting.ceiling_scatter(np.array([0.1, 0.5]), np.array([0.8, 0.9]), xlabel="ceiling")
    assert figure.axes[0].get_xlabel() == "ceiling"


def test_growth_shows_every_way_against_the_number_of_references():
    ways = {"brute": 4.0, "exact": 2.0, "approximate": 1.0}
    table = pd.DataFrame(
        {
            "references": n,
            "way": way,
            "search_seconds": n * factor,
            "search_mib": factor,
            "recall": 1 / factor,
        }
        for n in (1000, 100, 10)
        for way, factor in ways.items()
    )
    figure = plotting.growth(table)
    assert len(figure.axes) == 3
    for ax, values in zip(figure.axes, ("search_seconds", "search_mib", "recall"), strict=True):
        assert ax.get_xscale() == "log"
        for line, way in zip(ax.get_lines(), ways, strict=True):
            assert line.get_label() == way
            np.testing.assert_array_equal(line.get_xdata(), [10, 100, 1000])
            rows = table[table["way"] == way].sort_values("references")
            np.testing.assert_array_equal(line.get_ydata(), rows[values])
    assert figure.axes[2].get_ylim()[1] > 1
