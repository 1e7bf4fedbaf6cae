"""The benchmark page: its figures, tables and sentences, drawn from the committed results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from book.tools.build.page_figures import Draw, drawer
from book.tools.results import code_key, is_committed, read_results, read_settings
from heclip_lite import plotting
from heclip_lite.methods import recipes

PAGE = "benchmark.md"
TABLES = (
    *("contest_her2st", "contest_synthetic", "ceilings_her2st", "intervals_her2st"),
    *("audit_her2st", "ledger_her2st", "ledger_synthetic", "ablations_her2st", "tried"),
)
SETS = ("hvg1000", "hvg50", "heg50", "svg50", "fixed")
SPLITS = {
    "section": "when one section of donor C is left out at a time",
    "donor": "when one donor is left out at a time",
    "block": "when half of every section of donor C is left out at a time",
}


def fill_in(figures: Path) -> dict[str, str]:
    """Generated text by the marker it replaces; draws the figures into `figures`."""
    draw = drawer(figures, "benchmark")
    contest, record = read_results("contest_her2st")
    ceilings, _ = read_results("ceilings_her2st")
    alike = contest["method"] != contest["method"].map(recipes.without_suffix)
    main = contest[~alike]

    found = {"benchmark-record": record_text(record, contest) + other_code(TABLES)}
    for split, what in SPLITS.items():
        picture = draw(
            split,
            plotting.ranking(main, split=split, ceilings=ceilings),
            f"Ranking of methods, controls and oracles by mean correlation {what}.",
            f"her2st, {what}: mean correlation of each method, control and oracle over two sets "
            "of genes. Small dots are held-out sections, diamonds their mean. The line is the "
            "counting ceiling, which is optimistic.",
        )
        found[f"benchmark-{split}"] = "\n\n".join(
            [winner(main, split), picture, score_table(main, split)]
        )
    found["benchmark-one-scale"] = score_table(contest[alike], "donor")
    found["benchmark-synthetic"] = synthetic_text()
    found["benchmark-depth"] = "\n\n".join(
        draw(
            f"depth-{split}",
            plotting.depth(main, split=split),
            f"Correlation and partial correlation given depth of each method {SPLITS[split]}.",
            f"her2st, {SPLITS[split]}: what is left of each correlation once library size is "
            "taken out of truth and prediction.",
        )
        for split in ("section", "donor")
    )
    found["benchmark-scopes"] = scopes_text(main, draw)
    found["benchmark-intervals"] = intervals_text(draw)
    found["benchmark-ceilings"] = ceilings_text(ceilings, main)
    found["benchmark-audit"] = audit_text()
    found["benchmark-ledger"] = ledger_text(draw)
    found["benchmark-tried"] = tried_text()
    found["benchmark-full"] = full_text()
    return found


def full_text() -> str:
    """The contest with the full profile; where nobody has run it, that."""
    name = "contest_her2st_full"
    if not is_committed(name):
        return (
            "Nobody has run it yet: it takes a graphics card, and pretrained weights.\n"
            "`make contest DATA=her2st PROFILE=full` does, and this section will show its tables."
        )
    contest, record = read_results(name)
    as_they_are = contest[contest["method"] == contest["method"].map(recipes.without_suffix)]
    parts = [record_text(record, contest)]
    for split, what in SPLITS.items():
        parts += [f"{what[0].upper()}{what[1:]}:", score_table(as_they_are, split)]
    return "\n\n".join(parts)


def markdown(table: pd.DataFrame, left: int = 1) -> str:
    """A table as Markdown; the first `left` columns are text."""
    marks = [":--"] * left + ["--:"] * (table.shape[1] - left)
    rows = [list(map(str, table.columns)), marks]
    for row in table.itertuples(index=False):
        rows.append([_cell(value) for value in row])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3f}"
    return str(value)


def means(table: pd.DataFrame, split: str, metric: str = "pearson") -> pd.DataFrame:
    """Means over seeds, then sections: methods by gene set."""
    found = plotting.fold_means(table, metric=metric, split=split)
    return found.pivot_table(index="method", columns="gene_set", values="value")


def score_table(table: pd.DataFrame, split: str) -> str:
    """Methods down, gene sets across, best method first; then controls and oracles."""
    plain = means(table, split)
    shown = plain[[s for s in SETS if s in plain]].rename(columns=_set_name)
    for gene_set in ("hvg1000", "hvg50"):
        partial = means(table, split, "partial_pearson")[gene_set]
        shown[f"{_set_name(gene_set)}, partial"] = partial
    shown["RMSE"] = means(table, split, "rmse")["hvg1000"]
    return folded("All scores", markdown(_ordered(shown, by=_set_name("hvg50"))))


def folded(title: str, table: str) -> str:
    """A long table behind a line that opens it."""
    return f":::{{dropdown}} {title}\n{table}\n:::"


def _ordered(shown: pd.DataFrame, by: str) -> pd.DataFrame:
    """Methods, then controls, then oracles, the best first; their names in a first column."""
    order = {"method": 0, "control": 1, "oracle": 2}
    shown = shown.assign(rank=[order[recipes.kind_of(name)] for name in shown.index])
    shown = shown.sort_values(["rank", by], ascending=[True, False])
    shown.insert(0, "Method", [_labelled(name) for name in shown.index])
    return shown.drop(columns="rank")


def _labelled(name: str) -> str:
    kind = recipes.kind_of(name)
    if kind == "method":
        return plotting.readable(name)
    return f"{plotting.readable(name.removeprefix('oracle_'))} ({kind})"


def _set_name(gene_set: str) -> str:
    return plotting.set_name(gene_set)


def synthetic_text() -> str:
    """Scores against the counts and against the expression that made them, by split."""
    table, _ = read_results("contest_synthetic")
    parts = []
    for split, title in (("section", "Left out: a section"), ("donor", "Left out: a donor")):
        scores = {
            (gene_set, metric): means(table, split, metric)[gene_set]
            for gene_set in ("hvg1000", "hvg50")
            for metric in ("pearson", "pearson_true")
        }
        shown = pd.DataFrame(scores)
        shown.columns = [
            f"{_set_name(gene_set)}, {'measured' if metric == 'pearson' else 'true'}"
            for gene_set, metric in shown.columns
        ]
        shown = _ordered(shown, by=f"{_set_name('hvg50')}, true")
        judged = shown[[recipes.kind_of(name) == "method" for name in shown.index]]
        by_truth = judged[f"{_set_name('hvg50')}, true"]
        agreement = judged[f"{_set_name('hvg50')}, measured"].corr(by_truth, method="spearman")
        parts.append(
            f"*{title}.* First against the truth is *{judged['Method'].iloc[0]}* with "
            f"{by_truth.iloc[0]:.3f} on {_set_name('hvg50')}.\n"
            f"The ranks of the methods by counts and by truth correlate with {agreement:.2f}.\n\n"
            f"{folded('All scores', markdown(shown))}"
        )
    return "\n\n".join(parts)


def winner(table: pd.DataFrame, split: str) -> str:
    """Who is first, and what that is worth."""
    score = means(table, split)["hvg50"]
    partial = means(table, split, "partial_pearson")["hvg50"]
    methods = [n for n in score.index if recipes.kind_of(n) == "method"]
    best = score[methods].idxmax()
    return (
        f"First is *{plotting.readable(best)}*: {score[best]:.3f} on "
        f"{_set_name('hvg50')}, {partial[best]:.3f} given depth, "
        f"{score[best] / score['oracle_other_genes']:.0%} of the other-genes oracle.\n"
        f"Beside it stand position with {score['position']:.3f}, mean colour with "
        f"{score['mean_colour']:.3f} and ridge with {score['ridge']:.3f}."
    )


def other_code(names: Sequence[str]) -> str:
    """A warning that names the tables which other code has made; empty if there is none."""
    old = [name for name in names if read_settings(name).get("code") != code_key(name)]
    if not old:
        return ""
    return (
        "\n\n:::{admonition} Measured with other code\n:class: warning\n"
        f"The code that makes these tables has changed since: {', '.join(old)}. "
        "`make contest DATA=her2st QUICK=1` says whether the contest still holds.\n:::"
    )


def record_text(record: dict, table: pd.DataFrame) -> str:
    """How the contest was made."""
    versions = ", ".join(f"{k} {v}" for k, v in sorted(record["versions"].items()))
    full = " PROFILE=full" if record["settings"].get("profile") == "full" else ""
    return (
        f"The contest has {table['method'].nunique()} rows of methods, controls and oracles and "
        f"{len(table):,} values.\n"
        f"`make contest DATA=her2st{full}` made it in {record['seconds'] / 3600:.1f} hours on "
        f"{record['device']}, with {versions}."
    )


def scopes_text(table: pd.DataFrame, draw: Draw) -> str:
    """What pooling does to the markers, whose genes are the same in every fold."""
    rows = table[
        (table["split"] == "donor")
        & (table["gene_set"] == "fixed")
        & (table["metric"] == "pearson")
    ]
    mean = rows.groupby(["method", "scope"])["value"].mean().unstack()
    ours, nothing = mean.loc["heclip_recommended"], mean.loc["mean"]
    picture = draw(
        "scopes",
        plotting.scopes(table, split="donor"),
        "Correlation inside sections and pooled over sections, for each method, leaving out "
        "donors.",
        "her2st, one donor left out at a time: mean correlation of the marker genes inside "
        "sections, and with the spots of all sections thrown together.",
    )
    return (
        f"Leaving out donors, *HECLIP recommended* has {ours['per_section']:.3f} on the markers "
        f"inside sections and {ours['pooled']:.3f} pooled.\n"
        f"The training mean, which says the same of every spot of a section, has "
        f"{nothing['pooled']:.3f} pooled.\n\n{picture}"
    )


def intervals_text(draw: Draw) -> str:
    """Intervals of the sections that took no part in any choice."""
    table, _ = read_results("intervals_her2st")
    kept = [
        *("heclip_recommended", "kernel_ridge", "average", "heclip_reference_hvg"),
        *("regression", "colour", "mean_colour", "position"),
    ]
    chosen = table[
        (table["against"] == "ridge")
        & (table["gene_set"] == "hvg50")
        & (table["metric"] == "pearson")
        & table["method"].isin(kept)
    ]
    parts = []
    for split, folds in (("section", ("C6",)), ("donor", ("A1", "A2", "B4"))):
        here = chosen[(chosen["split"] == split) & chosen["fold"].isin(folds)]
        if len(here):
            parts.append(
                draw(
                    f"intervals-{split}",
                    plotting.intervals(here),
                    f"Differences to ridge with block-bootstrap intervals, {SPLITS[split]}.",
                    f"her2st, {SPLITS[split]}: difference to ridge in the mean correlation of the "
                    "50 most variable genes, with its 95 % interval, on sections that took no "
                    "part in choosing the recipes.",
                )
            )
    return "\n\n".join(parts)


def ceilings_text(ceilings: pd.DataFrame, table: pd.DataFrame) -> str:
    """Means over sections by split and gene set, with the other-genes oracle beside them."""
    mean = ceilings.pivot_table(index=["split", "gene_set"], columns="ceiling", values="value")
    oracle = pd.concat({split: means(table, split).loc["oracle_other_genes"] for split in SPLITS})
    mean["other genes"] = oracle.reindex(mean.index)
    mean = mean.reset_index()
    order = {name: i for i, name in enumerate([*SPLITS, *SETS])}
    mean = mean.sort_values(["split", "gene_set"], key=lambda c: c.map(order))
    mean["gene_set"] = mean["gene_set"].map(_set_name)
    mean = mean.rename(columns={"split": "Split", "gene_set": "Genes", "counting": "Counting"})
    return markdown(
        mean.rename(columns={"adjacent": "Adjacent sections", "other genes": "Other genes"}), left=2
    )


def audit_text() -> str:
    """Both pipelines on C6, leak by leak."""
    table, _ = read_results("audit_her2st")
    chosen = table[(table["split"] == "section") & (table["fold"] == "C6")]
    shown = pd.DataFrame({"Leak": chosen["leak"].unique()}).set_index("Leak")
    for pipeline in ("ours", "as released"):
        here = chosen[chosen["pipeline"] == pipeline].set_index("leak")
        shown[pipeline.capitalize()] = here["found"]
    sized = chosen[chosen["pipeline"] == "as released"].set_index("leak")
    shown["Size"] = [
        "" if pd.isna(size) or found == "no" else f"{size:.3g} {unit}"
        for size, unit, found in zip(sized["size"], sized["unit"], sized["found"], strict=True)
    ]
    shown["What was counted"] = sized["detail"]
    return markdown(shown.reset_index(), left=5)


def ledger_text(draw: Draw) -> str:
    """The figure of real sections, and means on both datasets."""
    real, _ = read_results("ledger_her2st")
    made, _ = read_results("ledger_synthetic")
    picture = draw(
        "ledger",
        plotting.ledger(real),
        "What each questionable choice adds to an honest score, and to the score that a pipeline "
        "would report of itself.",
        "her2st: what each questionable choice adds to an honest score (diamonds) and to the score "
        "that the pipeline would report of itself (squares). Left: switched on in the clean "
        "pipeline. Right: what the reference owes to it.",
    )
    columns = {}
    for title, table, truth in (
        ("Own score, her2st", real, "as the pipeline scores"),
        ("Honest score, her2st", real, "measured"),
        ("Own score, synthetic", made, "as the pipeline scores"),
        ("True expression, synthetic", made, "true"),
    ):
        of = table[
            (table["metric"] == "pearson")
            & (table["gene_set"] == "hvg50")
            & (table["direction"] == "one_on_from_clean")
            & (table["choice"] != "none")
            & (table["truth"] == truth)
        ]
        columns[title] = of.groupby("choice", sort=False)["difference"].mean()
    order = [name for name in made["choice"].drop_duplicates() if name != "none"]
    shown = pd.DataFrame(columns).reindex(order)
    shown.insert(0, "Switched on alone", [name.replace("_", " ") for name in shown.index])
    hits = real[(real["choice"] == "none") & (real["direction"] == "one_off_from_reference")]
    hits = hits.groupby("metric")["value"].mean()
    sentence = (
        "Hit@5 moves no correlation, so its row is zero; it misleads by itself.\n"
        f"The released pipeline, run here, reaches a Hit@5 of {hits['hit_at_5']:.3f} on her2st, "
        f"and the training mean, which never looks at the slide, {hits['hit_at_5_of_mean']:.3f}."
    )
    return "\n\n".join([picture, markdown(shown), sentence])


def tried_text() -> str:
    """The whole table."""
    table, _ = read_results("tried")
    names = {s: _set_name(s) for s in SETS} | {
        "partial_hvg1000": "HVG-1000, partial",
        "partial_hvg50": "HVG-50, partial",
    }
    what = {
        "section": "leaving out {} one at a time",
        "random": "half of the spots of {} held out at random",
        "block": "half of the spots of {} held out in blocks",
    }
    parts = []
    for (split, folds), part in table.groupby(["split", "folds"], sort=False):
        shown = part[["tried", *[c for c in names if c in table]]]
        title = f"{len(part)} configurations, {what[split].format(', '.join(folds.split()))}"
        parts.append(folded(title, markdown(shown.rename(columns={**names, "tried": "Tried"}))))
    return "\n\n".join(parts)
