"""Charts of committed results: rankings, depth, the ledger, ablations, intervals.

Each takes a table with the columns of its file under ``book/results``.
Users import these names from `heclip_lite.plotting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from heclip_lite.methods import recipes
from heclip_lite.plotting.style import COLOURS, DOT, GREY, MEAN, WIDTH, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"method": COLOURS[0], "control": COLOURS[1], "oracle": COLOURS[2]}
SET_NAMES = {
    "hvg1000": "HVG-1000",
    "hvg50": "HVG-50",
    "heg50": "HEG-50",
    "svg50": "SVG-50",
    "fixed": "fixed markers",
}


def set_name(gene_set: str) -> str:
    """How a gene set is written in figures and tables."""
    return SET_NAMES.get(gene_set, gene_set)


def readable(name: str) -> str:
    """How a method of the contest is written in figures and tables."""
    written = {
        "heclip": "HECLIP",
        "histosge": "HisToSGE",
        "bleep": "BLEEP",
        "clip": "CLIP",
        "knn": "k nearest",
        "gaussian": "Gaussian",
    }
    return " ".join(written.get(word, word) for word in name.split("_"))


def fold_means(
    table: pd.DataFrame, *, metric: str = "pearson", split: str | None = None
) -> pd.DataFrame:
    """Values per method, held-out section and gene set, averaged over seeds, inside sections.

    Raises
    ------
    ValueError
        If the table holds no such rows.
    """
    chosen = table[(table["metric"] == metric) & (table["scope"] == "per_section")]
    if split is not None:
        chosen = chosen[chosen["split"] == split]
    if chosen.empty:
        raise ValueError(
            f"The table holds no {metric!r} inside sections"
            + (f" for the split {split!r}." if split else ".")
        )
    return chosen.groupby(["method", "fold", "gene_set"], sort=False, as_index=False)[
        "value"
    ].mean()


def ranking(
    table: pd.DataFrame,
    *,
    split: str,
    metric: str = "pearson",
    gene_sets: Sequence[str] = ("hvg1000", "hvg50"),
    ceilings: pd.DataFrame | None = None,
) -> Figure:
    """Methods in the order of their mean, with controls and oracles in groups of their own.

    Small dots are held-out sections (means over seeds), diamonds their mean.

    Parameters
    ----------
    table
        ``contest_*.csv``.
    split, metric
        Which rows.
    gene_sets
        One panel each.
    ceilings
        ``ceilings_*.csv``; draws the counting ceiling of these sections as a line.
    """
    means = fold_means(table, metric=metric, split=split)
    overall = means[means["gene_set"].isin(gene_sets)].groupby("method")["value"].mean()
    kinds = {kind: [] for kind in ("oracle", "method", "control")}
    for name in overall.sort_values(ascending=False).index:
        kinds[recipes.kind_of(name)].append(name)
    order = [name for names in kinds.values() for name in names]
    size = (WIDTH, 0.9 + 0.27 * len(order))
    figure, axes = canvas(1, len(gene_sets), size, sharey=True)
    for ax, gene_set in zip(axes[0], gene_sets, strict=True):
        here = means[means["gene_set"] == gene_set]
        for kind, names in kinds.items():
            some = here[here["method"].isin(names)]
            places = [order.index(name) for name in some["method"]]
            ax.plot(some["value"], places, color=KINDS[kind], **DOT)
            mean = some.groupby("method")["value"].mean().reindex(names)
            ax.plot(
                mean, [order.index(name) for name in names], color=KINDS[kind], label=kind, **MEAN
            )
        _line_between(ax, np.cumsum([len(names) for names in kinds.values()])[:-1])
        if ceilings is not None:
            _ceiling(ax, ceilings, split, gene_set, set(here["fold"]))
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_title(set_name(gene_set))
        ax.grid(axis="y", color="#EEEEEE")
        ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(order)), [readable(name) for name in order])
    axes[0, 0].invert_yaxis()
    figure.supxlabel(_label(metric), fontsize=10.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, handletextpad=0.2)
    return figure


def _line_between(ax: Axes, places: Sequence[int]) -> None:
    for place in places:
        ax.axhline(place - 0.5, color="#BBBBBB", linewidth=1, linestyle=":")


def _ceiling(ax: Axes, ceilings: pd.DataFrame, split: str, gene_set: str, folds: set) -> None:
    of = ceilings[(ceilings["split"] == split) & (ceilings["gene_set"] == gene_set)]
    of = of[(of["ceiling"] == "counting") & of["fold"].isin(folds)]
    if len(of):
        ax.axvline(of["value"].mean(), color="black", linewidth=1.5, label="counting ceiling")


def _label(metric: str) -> str:
    return {
        "pearson": "mean Pearson r over genes",
        "partial_pearson": "mean partial Pearson r over genes, given depth",
    }.get(metric, metric.replace("_", " "))


def depth(table: pd.DataFrame, *, split: str, gene_set: str = "hvg50") -> Figure:
    """What is left of each method's correlation once library size is taken out.

    A line per method runs from its Pearson correlation (diamond) to its partial one (circle).
    """
    both = [
        fold_means(table, metric=metric, split=split) for metric in ("pearson", "partial_pearson")
    ]
    plain, partial = (t[t["gene_set"] == gene_set].groupby("method")["value"].mean() for t in both)
    order = plain.sort_values(ascending=False).index
    figure, axes = canvas(1, 1, (WIDTH, 0.9 + 0.27 * len(order)))
    ax = axes[0, 0]
    for place, name in enumerate(order):
        colour = KINDS[recipes.kind_of(name)]
        ax.plot([plain[name], partial[name]], [place, place], color=colour, linewidth=1.2)
        ax.plot(plain[name], place, color=colour, **MEAN)
        ax.plot(partial[name], place, "o", color=colour, markerfacecolor="white", markersize=6)
    ax.set_yticks(range(len(order)), [readable(name) for name in order])
    ax.invert_yaxis()
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_xlabel(
        f"mean r over {set_name(gene_set)}: Pearson (diamond), partial given depth (circle)"
    )
    return figure


def ledger(table: pd.DataFrame, *, gene_set: str = "hvg50", truth: str = "measured") -> Figure:
    """What each questionable choice adds, alone and on top of all others.

    Left: switched on in the clean pipeline.
    Right: what the reference loses when the choice is switched off, with its sign turned, so that
    both panels show what the choice adds.

    Parameters
    ----------
    table
        ``ledger_*.csv``.
    gene_set
        Which genes.
    truth
        ``"as the pipeline scores"`` (what it would report), ``"measured"`` or ``"true"``;
        filled marks show this one, open ones what the pipeline would report.
    """
    chosen = table[(table["metric"] == "pearson") & (table["gene_set"] == gene_set)]
    chosen = chosen[chosen["choice"] != "none"]
    order = list(dict.fromkeys(chosen["choice"]))
    titles = {"one_on_from_clean": "alone", "one_off_from_reference": "on top of all others"}
    figure, axes = canvas(1, 2, (WIDTH, 1.1 + 0.3 * len(order)), sharey=True)
    for ax, (direction, title) in zip(axes[0], titles.items(), strict=True):
        sign = 1 if direction == "one_on_from_clean" else -1
        for kind, offset, filled in ((truth, -0.14, True), ("as the pipeline scores", 0.14, False)):
            here = chosen[(chosen["direction"] == direction) & (chosen["truth"] == kind)]
            by_fold = sign * here.groupby(["choice", "fold"])["difference"].mean()
            places = np.array([order.index(choice) for choice, _ in by_fold.index]) + offset
            colour = COLOURS[0] if filled else COLOURS[1]
            ax.plot(by_fold.to_numpy(), places, color=colour, **DOT)
            mean = by_fold.groupby("choice").mean().reindex(order)
            ax.plot(
                mean, np.arange(len(order)) + offset, color=colour, label=kind,
                **{**MEAN, "marker": "D" if filled else "s"},
            )  # fmt: skip
        ax.axvline(0, color=GREY, linewidth=1)
        ax.locator_params(axis="x", nbins=5)
        ax.set_title(title)
        ax.grid(axis="y", color="#EEEEEE")
        ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(order)), [choice.replace("_", " ") for choice in order])
    axes[0, 0].invert_yaxis()
    figure.supxlabel(f"change of mean r over {set_name(gene_set)}", fontsize=10.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


def paired_differences(
    table: pd.DataFrame, *, gene_set: str = "hvg50", metric: str = "pearson"
) -> pd.DataFrame:
    """Differences of each level of an ablation to the recommended recipe.

    Parameters
    ----------
    table
        ``ablations_*.csv``.

    Returns
    -------
    DataFrame
        ``factor, level, fold, difference``: the same fold, means over the same seeds.
    """
    chosen = table[(table["gene_set"] == gene_set) & (table["metric"] == metric)]
    mean = chosen.groupby(["factor", "level", "fold"], sort=False, as_index=False)["value"].mean()
    base = mean[mean["level"] == "recommended"].set_index(["factor", "fold"])["value"]
    keys = pd.MultiIndex.from_frame(mean[["factor", "fold"]])
    mean["difference"] = mean["value"] - base.reindex(keys).to_numpy()
    return mean[mean["level"] != "recommended"].drop(columns="value").reset_index(drop=True)


def ablation(
    table: pd.DataFrame, factors: Sequence[str] | None = None, *, gene_set: str = "hvg50"
) -> Figure:
    """What changing one thing of the recommended recipe does, paired over folds.

    Small dots are held-out sections, diamonds their mean; left of the line the change costs.

    Raises
    ------
    ValueError
        If a factor is unknown.
    """
    found = paired_differences(table, gene_set=gene_set)
    factors = list(dict.fromkeys(found["factor"])) if factors is None else list(factors)
    unknown = set(factors) - set(found["factor"])
    if unknown:
        raise ValueError(f"The table has no factor {', '.join(sorted(unknown))}.")
    found = found[found["factor"].isin(factors)]
    rows = [(f, level) for f in factors for level in dict.fromkeys(
        found.loc[found["factor"] == f, "level"]
    )]  # fmt: skip
    figure, axes = canvas(1, 1, (WIDTH, 0.8 + 0.25 * (len(rows) + len(factors))))
    ax = axes[0, 0]
    place, ticks, names = 0.0, [], []
    for number, factor in enumerate(factors):
        ax.text(
            0, place, f" {factor}", transform=ax.get_yaxis_transform(), fontsize=9.5,
            fontweight="bold", va="center",
        )  # fmt: skip
        place += 1
        for level in [level for f, level in rows if f == factor]:
            here = found[(found["factor"] == factor) & (found["level"] == level)]["difference"]
            colour = COLOURS[number % 6]
            ax.plot(here, np.full(len(here), place), color=colour, **DOT)
            ax.plot(here.mean(), place, color=colour, **MEAN)
            ticks.append(place)
            names.append(level)
            place += 1
    ax.set_yticks(ticks, names)
    ax.set_ylim(place - 0.4, -0.6)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_xlabel(f"change of mean r over {set_name(gene_set)}")
    return figure


def ceiling_scatter(values: np.ndarray, ceilings: np.ndarray, *, xlabel: str) -> Figure:
    """Each gene's correlation against the best it could have; (genes,) each."""
    figure, axes = canvas(1, 1, (WIDTH * 0.62, WIDTH * 0.55))
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    ax.plot(ceilings, values, ".", color=COLOURS[0], alpha=0.5, markersize=5)
    ax.axhline(0, color="#DDDDDD", linewidth=1, zorder=0)
    ax.set_xlabel(xlabel)
    ax.set_ylabel("Pearson r reached")
    ax.set_xlim(-0.02, 1)
    return figure


def intervals(table: pd.DataFrame) -> Figure:
    """Differences to one method with their 95 % block-bootstrap intervals, a panel per section.

    Parameters
    ----------
    table
        Columns of :func:`heclip_lite.evaluation.intervals.bootstrap`, and ``fold`` where there are
        several.
    """
    folds = list(table["fold"].unique()) if "fold" in table else [None]
    figure, axes = canvas(
        1, len(folds), (WIDTH, 0.9 + 0.28 * table["method"].nunique()), sharey=True, sharex=True
    )
    order = list(table.groupby("method")["difference"].mean().sort_values(ascending=False).index)
    for ax, fold in zip(axes[0], folds, strict=True):
        here = table if fold is None else table[table["fold"] == fold]
        here = here.set_index("method").reindex(order)
        place = np.arange(len(order))
        spread = [
            here["difference"] - here["difference_low"],
            here["difference_high"] - here["difference"],
        ]
        ax.errorbar(
            here["difference"], place, xerr=np.abs(spread), fmt="D", color=COLOURS[0],
            markersize=5, elinewidth=1.2, capsize=2,
        )  # fmt: skip
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_title(fold or "")
    axes[0, 0].set_yticks(range(len(order)), [readable(name) for name in order])
    axes[0, 0].invert_yaxis()
    against = readable(str(table["against"].iloc[0]))
    figure.supxlabel(f"difference of mean r to {against}", fontsize=10.5)
    return figure


def scopes(table: pd.DataFrame, *, split: str, gene_set: str = "fixed") -> Figure:
    """The same predictions scored inside sections and pooled over them."""
    chosen = table[(table["split"] == split) & (table["metric"] == "pearson")]
    chosen = chosen[chosen["gene_set"] == gene_set]
    wide = chosen.pivot_table(index="method", columns="scope", values="value")
    wide = wide.dropna().sort_values("per_section")
    figure, axes = canvas(1, 1, (WIDTH, 0.9 + 0.27 * len(wide)))
    ax = axes[0, 0]
    place = np.arange(len(wide))
    ax.hlines(place, wide["per_section"], wide["pooled"], color="#BBBBBB", linewidth=1.5)
    ax.plot(wide["per_section"], place, color=COLOURS[0], label="inside sections", **MEAN)
    ax.plot(wide["pooled"], place, color=COLOURS[1], label="pooled", **{**MEAN, "marker": "o"})
    ax.set_yticks(place, [readable(name) for name in wide.index])
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_xlabel(f"mean Pearson r over {set_name(gene_set)}")
    ax.legend(loc="lower right")
    return figure


def growth(table: pd.DataFrame) -> Figure:
    """Seconds, memory and recall of each way to search, against the number of references.

    Parameters
    ----------
    table
        ``retrieval.csv``.
    """
    panels = {
        "search_seconds": "processor seconds, all queries",
        "search_mib": "MiB beyond the index",
        "recall": "share of neighbours found",
    }
    figure, axes = canvas(1, len(panels), (WIDTH, 3.4))
    for place, (way, rows) in enumerate(table.groupby("way", sort=False)):
        rows = rows.sort_values("references")
        for ax, column in zip(axes[0], panels, strict=True):
            ax.plot(
                rows["references"], rows[column], "osD"[place % 3] + "-", label=way, markersize=5,
                color=COLOURS[place % len(COLOURS)],
            )  # fmt: skip
    for ax, (column, title) in zip(axes[0], panels.items(), strict=True):
        ax.set_xscale("log")
        ax.set_title(title, fontsize=10.5)
        if column == "search_seconds":
            ax.set_yscale("log")
        else:
            ax.set_ylim(0, 1.05 if column == "recall" else None)
    figure.supxlabel("references", fontsize=10.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure
