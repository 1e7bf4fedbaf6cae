"""Charts of recovery, resolution and domains: what they show is what the table holds."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from heclip_lite import plotting
from heclip_lite.data.synthetic import tissue
from heclip_lite.plotting.charts import COLOURS


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


@pytest.fixture(scope="module")
def section():
    return tissue.synthetic_sections(1, 1, size_um=900.0)[0]


@pytest.fixture(scope="module")
def recovered() -> pd.DataFrame:
    level = {"histosge": 0.3, "nearest_spot": 0.1, "ceiling_counting": 0.9}
    rows = [
        {
            "method": method,
            "section": name,
            "holdout": holdout,
            "scope": scope,
            "seed": seed,
            "gene_set": "hvg50",
            "metric": "pearson",
            "value": value + (0.2 if scope == "all" else 0.0),
        }
        for (method, value), name, holdout, scope, seed in itertools.product(
            level.items(), ("C2", "C3"), ("random", "block"), ("heldout", "all"), (0, 1)
        )
        if not (method == "ceiling_counting" and scope == "all")
    ]
    return pd.DataFrame(rows)


def test_recovery_shows_both_scopes_and_the_ceiling(recovered):
    figure = plotting.recovered(recovered, holdouts=("random", "block"))
    assert labels(figure.axes[0]) == ["HisToSGE", "nearest spot"]
    drawn = [line.get_xdata() for line in figure.axes[0].lines]
    assert any(np.allclose(x, [0.3, 0.1]) for x in drawn if len(x) == 2)
    assert any(np.allclose(x, [0.5, 0.3]) for x in drawn if len(x) == 2)
    assert any(np.allclose(x, 0.9) for x in drawn if len(x) == 2)
    with pytest.raises(ValueError, match="no 'rmse' of the gene set 'hvg50'"):
        plotting.recovered(recovered, metric="rmse")


def test_resolution_draws_a_line_per_method():
    table = pd.DataFrame(
        [
            {
                "method": m,
                "factor": f,
                "gene_set": "hvg50",
                "metric": "pearson_true",
                "value": v / f,
            }
            for m, v in (("histosge", 0.8), ("ridge", 0.1), ("mean", 0.0))
            for f in (1, 4, 9)
        ]
    )
    figure = plotting.resolution(table)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["HisToSGE"], [0.8, 0.2, 0.8 / 9])
    assert list(lines) == ["HisToSGE", "ridge"], "the mean is zero everywhere"


def test_domain_scores_have_a_panel_per_method_and_the_majority():
    rows = [
        {"input": i, "method": m + s, "seed": seed, "metric": metric, "value": 0.1 * (1 + len(s))}
        for i, m, s, seed, metric in itertools.product(
            ("measured", "place"),
            ("kmeans", "leiden"),
            ("", "_smoothed"),
            (0, 1),
            ("macro_f1", "majority_macro_f1"),
        )
    ]
    figure = plotting.domain_scores(pd.DataFrame(rows), metric="macro_f1")
    assert [ax.get_title() for ax in figure.axes] == ["k-means", "Leiden"]
    assert labels(figure.axes[0]) == ["place alone", "measured expression"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "majority guess" in names
    with pytest.raises(ValueError, match="no 'ari'"):
        plotting.domain_scores(pd.DataFrame(rows))


def test_enrichment_writes_every_pair():
    table = pd.DataFrame([[9.0, -4.0], [-4.0, 7.0]], index=["1", "2"], columns=["1", "2"])
    figure = plotting.enrichment(table)
    assert [text.get_text() for text in figure.axes[0].texts] == ["9", "-4", "-4", "7"]


def test_groups_take_the_colour_of_the_domain_they_share_most_with(section):
    x = np.asarray(section.obsm["spatial"])[:, 0]
    known = pd.Series(np.where(x < np.median(x), "left", "right"))
    known[0] = None
    found = pd.Series(np.where(x < np.median(x), "2", "1"))
    figure = plotting.domains_beside(section, {"known": known, "found": found})
    assert [ax.get_title() for ax in figure.axes[1:]] == ["known", "found"]
    one, other = ([to_hex(c) for c in ax.collections[0].get_facecolor()] for ax in figure.axes[1:])
    assert one[1:] == other[1:]
    assert one[0] not in map(str.lower, COLOURS), "a spot without a domain is grey"
