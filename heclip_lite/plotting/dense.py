"""Charts of high resolution and spatial domains: recovery, resolution, scores of domains.

Each takes a table with the columns of its file under ``book/results``.
Users import these names from `heclip_lite.plotting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from heclip_lite.evaluation import recovery
from heclip_lite.plotting.results import readable, set_name
from heclip_lite.plotting.style import COLOURS, DOT, GREY, MEAN, WIDTH, canvas, colour_bar
from heclip_lite.spatial import domains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOLDOUT_NAMES = {
    "random": "random spots",
    "block": "whole blocks",
    "lattice": "coarser lattice",
}
INPUT_NAMES = {
    "place": "place alone",
    "measured": "measured expression",
    "image": "image features",
    "predicted": "predicted expression, other donors",
    "hidden_other_donors": "HisToSGE hidden, other donors",
    "hidden_own_slide": "HisToSGE hidden, own slide",
    "measured_and_image": "measured and image",
    "predicted_and_image": "predicted and image",
}


def input_name(name: str) -> str:
    """How an input of domains is written in figures and tables."""
    return INPUT_NAMES.get(name, name.replace("_", " "))


def recovered(
    table: pd.DataFrame,
    *,
    gene_set: str = "hvg50",
    metric: str = "pearson",
    holdouts: Sequence[str] = recovery.HOLDOUTS,
) -> Figure:
    """The rest of each slide predicted from a part of its spots, a panel per way to hold out.

    Dots are sections (means over seeds), diamonds their mean over spots held out; open squares
    count the spots that were trained on as well.

    Parameters
    ----------
    table
        ``recovery_*.csv``.
    gene_set, metric
        Which rows.
    holdouts
        One panel each.

    Raises
    ------
    ValueError
        If the table holds no such rows.
    """
    chosen = table[(table["gene_set"] == gene_set) & (table["metric"] == metric)]
    if chosen.empty:
        raise ValueError(f"The table holds no {metric!r} of the gene set {gene_set!r}.")
    ceiling = chosen[chosen["method"] == recovery.CEILING]
    chosen = chosen[chosen["method"] != recovery.CEILING]
    keys = ["method", "section", "holdout", "scope"]
    means = chosen.groupby(keys, sort=False, as_index=False)["value"].mean()
    held = means[means["scope"] == "heldout"]
    order = list(held.groupby("method")["value"].mean().sort_values(ascending=False).index)
    figure, axes = canvas(
        1, len(holdouts), (WIDTH, 1.2 + 0.3 * len(order)), sharey=True, sharex=True
    )
    for ax, holdout in zip(axes[0], holdouts, strict=True):
        for scope, colour, style in (
            ("heldout", COLOURS[0], {"label": "spots held out"}),
            ("all", COLOURS[1], {"label": "all spots", "marker": "s", "markerfacecolor": "white",
                                 "markeredgecolor": COLOURS[1]}),
        ):  # fmt: skip
            here = means[(means["holdout"] == holdout) & (means["scope"] == scope)]
            if scope == "heldout":
                ax.plot(
                    here["value"], [order.index(m) for m in here["method"]], color=colour, **DOT
                )
            mean = here.groupby("method")["value"].mean().reindex(order)
            ax.plot(mean, np.arange(len(order)), color=colour, **{**MEAN, **style})
        line = ceiling[ceiling["holdout"] == holdout]["value"].mean()
        if np.isfinite(line):
            ax.axvline(line, color="black", linewidth=1.5, label="counting ceiling")
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_title(HOLDOUT_NAMES[holdout], fontsize=10)
        ax.grid(axis="y", color="#EEEEEE")
        ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(order)), [readable(name) for name in order])
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    axes[0, 0].locator_params(axis="x", nbins=4, prune="upper")  # panels stand close
    figure.supxlabel(f"mean r over {set_name(gene_set)}", fontsize=10.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def resolution(table: pd.DataFrame, *, gene_set: str = "hvg50") -> Figure:
    """Correlation with the true expression between the spots, by the number of points.

    Parameters
    ----------
    table
        ``resolution_synthetic.csv``.
    gene_set
        Which genes.
    """
    chosen = table[(table["gene_set"] == gene_set) & (table["metric"] == "pearson_true")]
    chosen = chosen[chosen["method"] != "mean"]  # zero everywhere
    mean = chosen.groupby(["method", "factor"])["value"].mean().unstack()
    mean = mean.loc[mean.iloc[:, -1].sort_values(ascending=False).index]
    figure, axes = canvas(1, 1, (WIDTH, 3.6))
    ax = axes[0, 0]
    steps = np.arange(len(mean.columns))
    for place, (name, values) in enumerate(mean.iterrows()):
        colour, mark = COLOURS[place % len(COLOURS)], "osD^vPX*"[place % 8]
        style = "-" if place < len(COLOURS) else "--"  # a colour that comes again looks different
        ax.plot(steps, values, style, color=colour, marker=mark, markersize=5, label=readable(name))
    ax.set_xticks(steps, ["the spots" if f == 1 else f"{f}x" for f in mean.columns])
    ax.set_xlabel("points between the spots, by how many times denser they lie")
    ax.set_ylabel(f"mean r with the truth, {set_name(gene_set)}")
    ax.grid(axis="y", color="#EEEEEE")
    ax.set_axisbelow(True)
    figure.legend(loc="outside right center")
    return figure


def domain_scores(table: pd.DataFrame, *, metric: str = "ari") -> Figure:
    """How well domains agree with the labels, by what they were found in, a panel per method.

    Dots are seeds, diamonds their mean; filled ones with smoothing over neighbours on the slide,
    open ones without.

    Parameters
    ----------
    table
        ``domains_*.csv``.
    metric
        ``"ari"``, ``"nmi"``, ``"homogeneity"``, ``"completeness"``, ``"macro_f1"`` or
        ``"coherence"``.

    Raises
    ------
    ValueError
        If the table holds no such metric.
    """
    chosen = table[table["metric"] == metric]
    if chosen.empty:
        raise ValueError(
            f"The table holds no {metric!r}; it has {', '.join(set(table['metric']))}."
        )
    given = list(dict.fromkeys(chosen["input"]))
    order = [n for n in INPUT_NAMES if n in given] + [n for n in given if n not in INPUT_NAMES]
    methods = [m for m in domains.METHODS if m in set(chosen["method"])]
    figure, axes = canvas(
        1, len(methods), (WIDTH, 1.2 + 0.36 * len(order)), sharey=True, sharex=True
    )
    for ax, method in zip(axes[0], methods, strict=True):
        for name, offset, filled in (
            (method, 0.15, False),
            (method + domains.SMOOTHED, -0.15, True),
        ):
            here = chosen[chosen["method"] == name]
            colour = COLOURS[0] if filled else COLOURS[1]
            places = np.array([order.index(i) for i in here["input"]]) + offset
            ax.plot(here["value"], places, color=colour, **DOT)
            mean = here.groupby("input")["value"].mean().reindex(order)
            style = {**MEAN, "markerfacecolor": colour if filled else "white"}
            style["markeredgecolor"] = "white" if filled else colour
            label = "smoothed" if filled else "not smoothed"
            ax.plot(mean, np.arange(len(order)) + offset, label=label, color=colour, **style)
        majority = table[table["metric"] == f"majority_{metric}"]["value"]
        if len(majority):
            ax.axvline(majority.mean(), color="black", linewidth=1.2, label="majority guess")
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_title({"kmeans": "k-means", "mixture": "mixture", "leiden": "Leiden"}[method])
        ax.grid(axis="y", color="#EEEEEE")
        ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(order)), [input_name(name) for name in order])
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    names = {
        "ari": "adjusted Rand index",
        "nmi": "normalised mutual information",
        "macro_f1": "macro-F1",
    }
    figure.supxlabel(names.get(metric, metric.replace("_", " ")), fontsize=10.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def enrichment(table: pd.DataFrame) -> Figure:
    """Which groups of spots touch: z-scores of neighbouring pairs, red above chance, blue below.

    Parameters
    ----------
    table
        (groups, groups), as :func:`heclip_lite.spatial.domains.enrichment` gives it.
    """
    figure, axes = canvas(1, 1, (WIDTH * 0.6, WIDTH * 0.5))
    ax = axes[0, 0]
    scores = table.to_numpy(dtype=float)
    most = float(np.nanmax(np.abs(scores)))
    drawn = ax.imshow(scores, cmap="RdBu_r", vmin=-most, vmax=most)
    for row, column in np.ndindex(scores.shape):
        pale = abs(scores[row, column]) < 0.6 * most
        ax.text(
            column, row, f"{scores[row, column]:.0f}", ha="center", va="center", fontsize=9,
            color="black" if pale else "white",
        )  # fmt: skip
    ax.set_xticks(range(len(table.columns)), table.columns)
    ax.set_yticks(range(len(table.index)), table.index)
    ax.set(xlabel="group", ylabel="group")
    ax.spines[:].set_visible(False)
    colour_bar(figure, drawn, ax, "z-score")
    return figure
