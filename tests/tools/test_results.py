"""The committed results: whole, marked, and still what the code gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from heclip_lite import evaluation
from heclip_lite.data import sections
from heclip_lite.evaluation import ablations, dense_ledger, ledger, recovery, switches
from heclip_lite.methods import recipes
from heclip_lite.spatial import domains

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "book" / "results"
TABLES = sorted(RESULTS.glob("*.csv"))
CONTEST = [
    *("method", "setting", "encoder", "weights", "split", "fold", "seed", "gene_set", "metric"),
    *("scope", "n_spots", "n_genes", "n_undefined", "value"),
]
SETS = {"hvg1000", "hvg50", "heg50", "svg50", "fixed"}


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / f"{name}.csv")


def test_the_tables_are_there():
    names = {path.stem for path in TABLES}
    assert names >= {
        *("contest_her2st", "ledger_her2st", "ablations_her2st", "tried"),
        *("contest_synthetic", "ledger_synthetic"),
        *("ceilings_her2st", "intervals_her2st", "audit_her2st"),
        *("recovery_her2st", "recovery_synthetic", "intervals_recovery_her2st"),
        *("resolution_synthetic", "dense_ledger_her2st", "dense_ledger_synthetic"),
        *("domains_her2st", "domains_dlpfc", "domains_synthetic"),
        *("retrieval", "wholeslide"),
    }


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_each_says_how_it_was_made(path):
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["rows"] == len(pd.read_csv(path))
    assert record["seconds"] > 0 and record["device"] in {"cpu", "cuda", "mps"}
    assert {"torch", "timm", "scanpy", "python"} <= record["versions"].keys()
    assert record["command"] and record["package_hash"] and record["settings"]


def test_the_contest_has_everyone_under_every_split():
    found = table("contest_her2st")
    assert set(CONTEST) <= set(found.columns)
    assert set(found["split"]) == {"donor", "section", "block"}
    assert set(found["setting"]) <= {"published", "reduced", "ours"}
    assert set(found["scope"]) == {"per_section", "pooled"}
    assert set(found["gene_set"]) == SETS
    assert {"pearson", "partial_pearson", "spearman", "rmse"} <= set(found["metric"])
    everyone = set(recipes.everyone(recipes.Size()))
    for split, part in found.groupby("split"):
        assert everyone <= set(part["method"]), f"missing under {split}"
    folds = found[found["scope"] == "per_section"].groupby("split")["fold"].agg(set)
    assert folds["section"] == {"C2", "C3", "C4", "C5", "C6"}
    assert folds["donor"] == {"A1", "A2", "B4", *folds["section"]}
    assert set(found.loc[found["method"].str.startswith("heclip_reference"), "setting"]) == {
        "reduced"
    }


def test_every_method_meets_the_true_expression():
    found = table("contest_synthetic")
    true = found[found["metric"] == "pearson_true"]
    assert set(recipes.everyone(recipes.Size())) <= set(true["method"])
    assert set(true["split"]) == {"section", "donor"}


def test_no_row_is_repeated_and_correlations_are_possible():
    found = table("contest_her2st")
    key = ["method", "split", "fold", "seed", "gene_set", "metric", "scope"]
    assert not found.duplicated(key).any()
    correlations = found[found["metric"].isin(["pearson", "partial_pearson", "spearman"])]
    assert correlations["value"].between(-1, 1).all()
    whole = found[(found["scope"] == "per_section") & (found["metric"] == "pearson")]
    assert (whole["n_genes"] + whole["n_undefined"] <= 1000).all()
    mean = whole[whole["method"] == "mean"]
    assert (mean["value"] == 0).all(), "the mean knows nothing about spots"
    depth = found[(found["method"] == "oracle_depth") & (found["metric"] == "partial_pearson")]
    inside = depth[depth["scope"] == "per_section"]
    assert inside["value"].abs().max() < 0.05, "given depth, nothing of the depth oracle is left"


def test_the_ledger_has_every_choice_both_ways():
    for data in ("her2st", "synthetic"):
        found = table(f"ledger_{data}")
        assert list(found.columns) == switches.COLUMNS
        wanted = {(c, d) for c, d, _ in ledger.configurations(synthetic=data == "synthetic")}
        assert set(zip(found["choice"], found["direction"], strict=True)) == wanted
    assert "true" in set(table("ledger_synthetic")["truth"])


def test_the_ablations_have_every_level():
    found = table("ablations_her2st")
    wanted = {
        (factor, level) for factor, ls in ablations.factors(recipes.Size()).items() for level in ls
    }
    assert set(zip(found["factor"], found["level"], strict=True)) >= wanted
    assert set(found["fold"]) == {"C2", "C3", "C4", "C5"}, "never on what the contest tests last"


def test_recipes_were_chosen_on_training_sections_only(tools):
    from book.tools.measure.jobs import TUNED_ON

    tried = table("tried")
    assert {section for folds in tried["folds"] for section in folds.split()} <= set(TUNED_ON)
    record = json.loads((RESULTS / "contest_her2st.json").read_text(encoding="utf-8"))
    assert set(record["settings"]["tuned_on"]) == set(TUNED_ON)


def test_writing_and_reading_keep_a_table(tools, tmp_path, monkeypatch):
    from book.tools import results

    monkeypatch.setattr(results, "COMMITTED", tmp_path)
    given = pd.DataFrame({"method": ["a", "b"], "value": [0.25, np.nan]})
    results.write_results("ledger_made", given, seconds=1.0, settings={"seeds": [0]})
    found, record = results.read_results("ledger_made")
    pd.testing.assert_frame_equal(found, given)
    assert record["rows"] == 2 and record["code"] == results.code_key("ledger_made")
    with pytest.raises(FileNotFoundError, match="make help"):
        results.read_results("nothing")


def test_results_of_other_code_are_marked(tools, tmp_path, monkeypatch):
    from book.tools import results
    from book.tools.build import benchmark_page

    monkeypatch.setattr(results, "COMMITTED", tmp_path)
    given = pd.DataFrame({"value": [0.25]})
    for name in ("ledger_one", "ledger_two"):
        results.write_results(name, given, seconds=1.0, settings={})
    assert benchmark_page.other_code(["ledger_one", "ledger_two"]) == ""
    record = json.loads((tmp_path / "ledger_two.json").read_text(encoding="utf-8"))
    (tmp_path / "ledger_two.json").write_text(json.dumps(record | {"code": "old"}))
    text = benchmark_page.other_code(["ledger_one", "ledger_two"])
    assert "other code" in text and "ledger_two" in text and "ledger_one" not in text


def test_a_quick_run_is_compared_row_by_row(tools):
    from book.tools.measure import contest as run_contest

    committed = table("contest_her2st")
    chosen = committed["fold"] == "C6"
    quick = committed[chosen].assign(value=committed.loc[chosen, "value"] + 0.1)
    both = run_contest.compare(quick, committed)
    assert len(both) and np.allclose(both["difference"], 0.1)


@pytest.mark.parametrize("data", ["her2st", "synthetic"])
def test_recovery_has_every_method_under_every_holdout(data):
    found = table(f"recovery_{data}")
    assert list(found.columns) == recovery.COLUMNS
    assert set(found["holdout"]) == set(recovery.HOLDOUTS)
    assert set(found["scope"]) == {"heldout", "all"}
    everyone = {*recipes.within_slide(recipes.Size(), 1.0), recovery.CEILING}
    for _, part in found.groupby(["section", "holdout"]):
        assert set(part["method"]) == everyone
    assert not found.duplicated(recovery.COLUMNS[:-1]).any()
    if data == "her2st":
        assert set(found["section"]) == {"A1", "A2", "B4", "C2", "C3", "C4", "C5", "C6"}
    mean = found[(found["method"] == "mean") & (found["metric"] == "pearson")]
    assert (mean["value"] == 0).all()


def test_every_method_meets_the_truth_between_the_spots():
    found = table("resolution_synthetic")
    assert set(found["factor"]) == set(recovery.FACTORS)
    assert set(found["method"]) == set(recipes.within_slide(recipes.Size(), 1.0))
    pitch = found.groupby(["section", "factor"])["pitch_um"].first().unstack()
    for factor in recovery.FACTORS:
        np.testing.assert_allclose(pitch[1] / pitch[factor], factor**0.5, rtol=1e-4)


def test_the_dense_ledger_has_every_choice_both_ways():
    for data in ("her2st", "synthetic"):
        found = table(f"dense_ledger_{data}")
        assert list(found.columns) == switches.COLUMNS
        wanted = {(c, d) for c, d, _ in dense_ledger.configurations()}
        assert set(zip(found["choice"], found["direction"], strict=True)) == wanted
    assert "true" in set(table("dense_ledger_synthetic")["truth"])


@pytest.mark.parametrize("data", ["her2st", "dlpfc", "synthetic"])
def test_domains_have_every_input_and_method(tools, data):
    from book.tools.measure.domains import ASKED, SEEDS, inputs_of

    found = table(f"domains_{data}")
    assert list(found.columns) == domains.COLUMNS
    assert set(found["section"].astype(str)) == set(ASKED[data])
    assert set(found["input"]) == set(inputs_of(data))
    assert set(found["seed"]) == set(SEEDS)
    wanted = {m + s for m in domains.METHODS for s in ("", domains.SMOOTHED)}
    assert set(found["method"]) == wanted
    assert {"ari", "nmi", "homogeneity", "completeness", "macro_f1"} <= set(found["metric"])


@pytest.mark.slow
@pytest.mark.real_data
def test_one_recovery_measured_again_agrees(tools, her2st_dir):
    from book.tools.measure.jobs import read, size_of

    (section,) = read("her2st", ("C6",))
    methods = recipes.within_slide(size_of("her2st"), sections.um_per_px(section))
    chosen = {name: methods[name] for name in ("kernel_ridge", "inverse_distance")}
    found = recovery.recovery(chosen, section, ("block",), seeds=(0,))
    both = found.merge(table("recovery_her2st"), on=recovery.COLUMNS[:-1], suffixes=("", "_was"))
    assert len(both) == len(found)
    assert (both["value"] - both["value_was"]).abs().max() < 0.01


@pytest.mark.slow
@pytest.mark.real_data
def test_one_fold_measured_again_agrees(tools, her2st_dir):
    """Training on C2 to C5 and testing on C6, which took no part in any choice."""
    from book.tools.measure import contest as run_contest
    from book.tools.measure.jobs import SERIAL, read, size_of

    size = size_of("her2st")
    names = ("heclip_recommended", "kernel_ridge", "ridge", "mean", "position", "oracle_depth")
    methods = {n: m for n, m in recipes.everyone(size).items() if n in names}
    serial = read("her2st", SERIAL)
    folds = [f for f in evaluation.leave_one_out(serial, "section") if f.test == ("C6",)]
    found = evaluation.contest(methods, serial, folds, seeds=(0,), fixed=recipes.BREAST_MARKERS)
    both = run_contest.compare(found, table("contest_her2st"))
    assert set(both["method"]) == set(names)
    assert both["difference"].max() < run_contest.TOLERANCE


def test_only_serial_neighbours_are_adjacent(tools):
    from book.tools.measure.ceilings import adjacent

    names = ["A1", "B4", "C2", "C3", "C4"]
    assert adjacent("C3", names) == ["C2", "C4"]
    assert adjacent("C2", names) == ["C3"]
    assert adjacent("B4", names) == []
    assert adjacent("C3 block 1", names) == []
