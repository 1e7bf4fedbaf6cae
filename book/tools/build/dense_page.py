"""The page of results within one slide: recovery, resolution, its ledger, and domains."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from book.tools.build.benchmark_page import folded, markdown, other_code
from book.tools.build.page_figures import Draw, drawer
from book.tools.results import read_results
from heclip_lite import plotting
from heclip_lite.evaluation import recovery

PAGE = "benchmark_dense.md"
TABLES = (
    *("recovery_her2st", "intervals_recovery_her2st", "recovery_synthetic"),
    *("resolution_synthetic", "dense_ledger_her2st", "dense_ledger_synthetic"),
    *("domains_her2st", "domains_dlpfc", "domains_synthetic"),
)
HOLDOUTS = {
    "random": "half of the spots at random",
    "block": "half of the spots in blocks",
    "lattice": "all but a coarser lattice",
}
SETS = ("hvg1000", "hvg50", "heg50", "svg50")
DOMAINS = {"her2st": "her2st A1", "dlpfc": "DLPFC 151510", "synthetic": "synthetic tissue"}


def fill_in(figures: Path) -> dict[str, str]:
    """Generated text by the marker it replaces; draws the figures into `figures`."""
    draw = drawer(figures, "dense")
    found = {"dense-record": record_text() + other_code(TABLES), "dense-rounds": rounds_text()}
    table, record = read_results("recovery_her2st")
    found["dense-recovery"] = "\n\n".join(
        [
            winners(table, record),
            draw(
                "recovery",
                plotting.recovered(table),
                "Correlation of each method on spots held out and on all spots, on real sections.",
                "her2st, each section on its own: mean correlation of the 50 most variable genes "
                "on spots held out (diamonds; small dots are sections) and on all spots, those "
                "that were trained on too (open squares). The line is the counting ceiling, which "
                "is optimistic.",
            ),
            *(
                folded(f"Means, holding out {what}", means(table, h))
                for h, what in HOLDOUTS.items()
            ),
        ]
    )
    found["dense-intervals"] = intervals_text(draw, record)
    finer, _ = read_results("resolution_synthetic")
    found["dense-resolution"] = "\n\n".join(
        [
            draw(
                "resolution",
                plotting.resolution(finer),
                "Correlation with the true expression by the number of points, for each method.",
                "Synthetic tissue: correlation with the true expression at points between the "
                "spots, by how densely they lie; means of all sections.",
            ),
            resolution_text(finer),
            folded("Means", resolution_table(finer)),
        ]
    )
    ledger, _ = read_results("dense_ledger_her2st")
    found["dense-ledger"] = "\n\n".join(
        [
            draw(
                "ledger",
                plotting.ledger(ledger),
                "What each questionable choice of HisToSGE's code adds to the honest score and to "
                "the pipeline's own.",
                "her2st, a coarser lattice known and the points between predicted: what each "
                "questionable choice adds to an honest score (diamonds) and to the score that the "
                "pipeline would report of itself (squares). Left: switched on in the clean "
                "pipeline. Right: what the reference owes to it.",
            ),
            ledger_table(),
        ]
    )
    for data, what in DOMAINS.items():
        domains, _ = read_results(f"domains_{data}")
        found[f"dense-domains-{data}"] = "\n\n".join(
            [
                draw(
                    f"domains-{data}",
                    plotting.domain_scores(domains),
                    f"Adjusted Rand index by input and method, {what}.",
                    f"Domains on {what}: agreement with the known ones (adjusted Rand index; 1 is "
                    "perfect, 0 is chance), by what the domains were found in and how.",
                ),
                folded(f"All scores, {what}", domain_table(domains)),
            ]
        )
    return found


def record_text() -> str:
    """What was measured, and how long it took."""
    shown = []
    for command, name in (
        ("make recovery DATA=her2st", "recovery_her2st"),
        ("make recovery", "resolution_synthetic"),
        ("make domains DATA=her2st", "domains_her2st"),
        ("make domains DATA=dlpfc", "domains_dlpfc"),
    ):
        table, record = read_results(name)
        shown.append(
            f"`{command}` made {len(table):,} values in {record['seconds'] / 60:.0f} minutes on "
            f"{record['device']}."
        )
    return "\n".join(shown)


def _held_out(table: pd.DataFrame, metric: str = "pearson") -> pd.DataFrame:
    """Means over seeds on spots held out: holdout, method, section, gene_set, value."""
    chosen = table[(table["metric"] == metric) & (table["scope"] == "heldout")]
    keys = ["holdout", "method", "section", "gene_set"]
    return chosen.groupby(keys, sort=False, as_index=False)["value"].mean()


def winners(table: pd.DataFrame, record: dict) -> str:
    """Who is first under each hold-out, and whom HisToSGE beats on how many sections."""
    held = _held_out(table)
    held = held[(held["gene_set"] == "hvg50") & (held["method"] != recovery.CEILING)]
    lines = []
    for holdout, what in HOLDOUTS.items():
        wide = held[held["holdout"] == holdout].pivot(
            index="section", columns="method", values="value"
        )
        mean = wide.mean().sort_values(ascending=False)
        beaten = "; ".join(
            f"*{plotting.readable(name)}* ({mean[name]:.3f}) on "
            f"{int((wide['histosge'] > wide[name]).sum())}"
            for name in ("histosge_reference", "inverse_distance", "gaussian_process", "ridge")
        )
        lines.append(
            f"- Holding out {what}: first is *{plotting.readable(mean.index[0])}* with "
            f"{mean.iloc[0]:.3f} on HVG-50. "
            f"*HisToSGE* has {mean['histosge']:.3f}; of {len(wide)} sections it beats {beaten}."
        )
    tuned = record["settings"]["tuned_on"]
    rest = [s for s in record["settings"]["sections"] if s not in tuned]
    lines.append(
        f"- The recipe was chosen on spots of {', '.join(tuned)} under other hold-outs; "
        f"{', '.join(rest)} took no part."
    )
    return "\n".join(lines)


def means(table: pd.DataFrame, holdout: str) -> str:
    """Methods by gene set, means over sections, the partial correlation beside."""
    columns = {}
    for metric, sets, suffix in (
        ("pearson", SETS, ""),
        ("partial_pearson", SETS[:2], ", partial"),
    ):
        held = _held_out(table, metric)
        held = held[held["holdout"] == holdout]
        wide = held.groupby(["method", "gene_set"])["value"].mean().unstack()
        for gene_set in sets:
            columns[plotting.set_name(gene_set) + suffix] = wide[gene_set]
    shown = pd.DataFrame(columns).sort_values("HVG-50", ascending=False)
    shown.insert(0, "Method", [plotting.readable(name) for name in shown.index])
    return markdown(shown)


def intervals_text(draw: Draw, record: dict) -> str:
    """Intervals on the sections that took no part in the choice of the recipe."""
    table, _ = read_results("intervals_recovery_her2st")
    rest = [s for s in record["settings"]["sections"] if s not in record["settings"]["tuned_on"]]
    chosen = table[
        (table["gene_set"] == "hvg50")
        & (table["metric"] == "pearson")
        & table["fold"].isin(rest)
        & ~table["method"].isin(["mean", "histosge"])
    ]
    return draw(
        "intervals",
        plotting.intervals(chosen),
        "Differences of each method to HisToSGE with block-bootstrap intervals, by section.",
        "her2st, random spots held out: difference to HisToSGE in the mean correlation of the 50 "
        "most variable genes, with its 95 % interval, on sections that took no part in choosing "
        "the recipe. Points to the right of the line beat it.",
    )


def rounds_text() -> str:
    """How HisToSGE as released scores with fewer rounds than it was published with."""
    table, _ = read_results("tried")
    rounds = table["tried"].str.extract(r"^HisToSGE as released, (\d+) rounds$")[0]
    table = table.assign(rounds=rounds.astype(float)).dropna(subset="rounds")
    table = table[table["split"] == "random"].sort_values("rounds")
    scores = ", ".join(
        f"{value:.3f} after {int(n):,}"
        for n, value in table[["rounds", "hvg50"]].itertuples(index=False)
    )
    best = int(table.loc[table["hvg50"].idxmax(), "rounds"])
    more = f" More than {best:,} do not help it." if best < table["rounds"].max() else ""
    return (
        f"On {table['folds'].iloc[0]}, with half of its spots held out at random, that recipe "
        f"reaches {scores} rounds on HVG-50.{more}"
    )


def _by_factor(table: pd.DataFrame) -> pd.DataFrame:
    """HVG-50, means over sections and seeds: methods by factor, best at the finest first."""
    chosen = table[table["gene_set"] == "hvg50"]
    wide = chosen.groupby(["method", "factor"])["value"].mean().unstack()
    return wide.sort_values(wide.columns[-1], ascending=False)


def resolution_text(table: pd.DataFrame) -> str:
    """Who is first at four times the points, where HisToSGE stands, and how both fall."""
    wide = _by_factor(table)
    first, finest = wide[4].idxmax(), wide.columns[-1]
    rank = 1 + int((wide[4] > wide.loc["histosge", 4]).sum())
    lines = [f"At four times the points *{plotting.readable(first)}* is first."]
    if rank > 1:
        lines.append(
            f"*HisToSGE* is number {rank} of {len(wide)}: its recipe was chosen on real slides."
        )
    for name in dict.fromkeys([first, "histosge", "inverse_distance"]):
        lines.append(
            f"*{plotting.readable(name)}* has {wide.loc[name, 4]:.3f} there and "
            f"{wide.loc[name, finest]:.3f} at {finest} times the points."
        )
    return "\n".join(lines)


def resolution_table(table: pd.DataFrame) -> str:
    """Methods by factor."""
    wide = _by_factor(table)
    wide.columns = ["the spots" if f == 1 else f"{f}x" for f in wide.columns]
    wide.insert(0, "Method", [plotting.readable(name) for name in wide.index])
    return markdown(wide)


def ledger_table() -> str:
    """Each choice switched on alone, on both datasets."""
    columns = {}
    for data, truths in (
        ("her2st", {"as the pipeline scores": "Own score", "measured": "Honest score"}),
        ("synthetic", {"as the pipeline scores": "Own score", "true": "True expression"}),
    ):
        table, _ = read_results(f"dense_ledger_{data}")
        of = table[
            (table["metric"] == "pearson")
            & (table["gene_set"] == "hvg50")
            & (table["direction"] == "one_on_from_clean")
            & (table["choice"] != "none")
        ]
        for truth, title in truths.items():
            here = of[of["truth"] == truth]
            columns[f"{title}, {data}"] = here.groupby("choice", sort=False)["difference"].mean()
    shown = pd.DataFrame(columns)
    shown.insert(0, "Switched on alone", [name.replace("_", " ") for name in shown.index])
    return markdown(shown)


def domain_table(table: pd.DataFrame) -> str:
    """Mean and spread over seeds (and sections) of ARI and NMI, and macro-F1."""
    keys = ["input", "method"]
    spread = table.groupby([*keys, "metric"], sort=False)["value"].agg(["mean", "std"])
    rows = []
    for name, method in table[keys].drop_duplicates().itertuples(index=False):
        row = {"Input": plotting.input_name(name), "Method": method.replace("_", ", ")}
        for metric, title in (("ari", "ARI"), ("nmi", "NMI"), ("macro_f1", "Macro-F1")):
            mean, deviation = spread.loc[(name, method, metric)]
            row[title] = "" if pd.isna(mean) else f"{mean:.3f} ± {deviation:.3f}"
        row["Coherence"] = float(spread.loc[(name, method, "coherence"), "mean"])
        rows.append(row)
    return markdown(pd.DataFrame(rows), left=2)
