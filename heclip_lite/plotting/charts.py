"""Charts of numbers: training, scores, curves, matrices.

Users import these names from `heclip_lite.plotting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from heclip_lite.plotting.style import (
    COLOURS,
    MARKERS,
    WIDTH,
    as_array,
    canvas,
    category_colours,
    category_legend,
    category_names,
    colour_bar,
    is_category,
    limits,
    method_colour,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def matrices(
    tables: Mapping[str, Any],
    *,
    cmap: str = "viridis",
    shared: bool = False,
    ends: tuple[float, float] | None = None,
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """Heat maps side by side.

    Parameters
    ----------
    tables
        2-d arrays or tensors by title.
    cmap
        Colour map; diverging ones are for values around zero.
    shared
        One colour scale for all.
    ends
        Ends of the colour scale of all; those of the values where they are left out.
    xlabel, ylabel
        What the columns and rows are.
    """
    count = len(tables)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure, axes = canvas(rows, columns, (WIDTH, rows * (WIDTH / max(columns, 2) + 0.4)))
    arrays = {name: as_array(table).astype(float) for name, table in tables.items()}
    pooled = np.concatenate([np.ravel(a) for a in arrays.values()])
    for ax in axes.ravel()[count:]:
        ax.set_axis_off()
    for i, (ax, (name, table)) in enumerate(zip(axes.ravel(), arrays.items(), strict=False)):
        scale = pooled if shared else table
        low, high = ends or (np.nanmin(scale), np.nanmax(scale))
        drawn = ax.imshow(table, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        ax.set_title(name)
        ax.set_xlabel(xlabel)
        if i % columns == 0:
            ax.set_ylabel(ylabel)
        ax.spines[:].set_visible(False)
        colour_bar(figure, drawn, ax, below=True)
    return figure


def history(
    curves: Mapping[str, Sequence[Mapping[str, float]]], *, chance: float | None = None
) -> Figure:
    """Loss against epoch.

    Parameters
    ----------
    curves
        Epoch records by name, such as ``heclip.history[0]``; ``validation`` is drawn dotted.
    chance
        Loss of a guess, dashed: the logarithm of the batch size for a contrast.
    """
    figure, axes = canvas(1, 1, (WIDTH, 3.4))
    ax = axes[0, 0]
    for i, (name, records) in enumerate(curves.items()):
        table = pd.DataFrame(records)
        colour = method_colour(name, i)
        ax.plot(table["epoch"], table["loss"], color=colour, label=name)
        if "validation" in table:
            ax.plot(
                table["epoch"], table["validation"], color=colour, linestyle=":",
                label=f"{name}, held-out",
            )  # fmt: skip
    if chance is not None:
        ax.axhline(chance, color="black", linestyle="--", linewidth=1.2)
        ax.annotate(
            f"chance: {chance:.2f}", (1, chance), xycoords=("axes fraction", "data"),
            xytext=(0, 4), textcoords="offset points", ha="right", va="bottom",
        )  # fmt: skip
    ax.set(xlabel="epoch", ylabel="loss (nats)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(ncols=2 if len(curves) > 3 else 1)
    return figure


_METRIC_LABELS = {"pearson": "mean Pearson r over genes", "rmse": "mean RMSE over genes (log1p)"}


def contest(
    table: pd.DataFrame, *, metric: str = "pearson", gene_sets: Sequence[str] | None = None
) -> Figure:
    """Draw the table of a contest: methods down, their value across, one panel per test section.

    Large marks are means over seeds, small dots single seeds.

    Parameters
    ----------
    table
        What `heclip_lite.evaluation.contest` returned.
    metric
        Which metric to draw.
    gene_sets
        Which gene sets, all by default.

    Raises
    ------
    ValueError
        If the table holds no such metric or gene set.
    """
    chosen = table[(table["metric"] == metric) & (table["scope"] == "per_section")]
    gene_sets = list(gene_sets or chosen["gene_set"].unique())
    chosen = chosen[chosen["gene_set"].isin(gene_sets)]
    if chosen.empty:
        raise ValueError(
            f"The table holds no {metric!r} of {gene_sets}; it holds "
            f"{sorted(set(table['metric']))} of {sorted(set(table['gene_set']))}."
        )
    folds = list(chosen["fold"].unique())
    # Best on top, for each metric by its own meaning of best.
    order = chosen.groupby("method")["value"].mean().sort_values(ascending=metric != "rmse").index
    columns = min(2, len(folds))
    rows = -(-len(folds) // columns)
    size = (WIDTH, rows * (1.1 + 0.36 * len(order)) + 0.6)
    figure, axes = canvas(rows, columns, size, sharex=True, sharey=True)
    offsets = np.linspace(0.22, -0.22, len(gene_sets)) if len(gene_sets) > 1 else [0.0]
    for ax in axes.ravel()[len(folds) :]:
        ax.set_axis_off()
    for ax, fold in zip(axes.ravel(), folds, strict=False):
        here = chosen[chosen["fold"] == fold]
        for i, gene_set in enumerate(gene_sets):
            values = here[here["gene_set"] == gene_set].groupby("method")["value"]
            mean = values.mean().reindex(order)
            height = np.arange(len(order)) + offsets[i]
            single = here[here["gene_set"] == gene_set]
            if (values.count() > 1).any():
                ax.plot(
                    single["value"], order.get_indexer(single["method"]) + offsets[i],
                    ".", color=COLOURS[i % len(COLOURS)], alpha=0.5, markersize=4,
                )  # fmt: skip
            ax.plot(
                mean, height, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)],
                markersize=7, markeredgecolor="white", markeredgewidth=0.6, label=gene_set,
            )  # fmt: skip
        kind = "a new donor" if (here["split"] == "donor").all() else "a donor seen in training"
        ax.set_title(f"{fold}: {kind}")
        ax.set_yticks(range(len(order)), order)
        ax.grid(axis="y", color="#E4E4E4")
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        if metric == "pearson":
            ax.axvline(0, color="#777777", linewidth=1)
    figure.supxlabel(_METRIC_LABELS.get(metric, metric), fontsize=10.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, handletextpad=0.2)
    return figure


def gene_scores(scores: Mapping[str, Any], *, xlabel: str = "Pearson r of a gene") -> Figure:
    """How the genes' scores are spread, one outline per method, its median as a line.

    Parameters
    ----------
    scores
        (genes,) by method; NaN are left out.
    xlabel
        What the scores are.
    """
    figure, axes = canvas(1, 1, (WIDTH, 3.4))
    ax = axes[0, 0]
    kept = {name: as_array(v)[np.isfinite(as_array(v))] for name, v in scores.items()}
    bins = np.histogram_bin_edges(np.concatenate(list(kept.values())), 30)
    for i, (name, values) in enumerate(kept.items()):
        colour = method_colour(name, i)
        label = f"{name} (median {np.median(values):.2f})"
        ax.hist(values, bins, histtype="stepfilled", alpha=0.15, color=colour)
        ax.hist(values, bins, histtype="step", color=colour, linewidth=1.8, label=label)
        ax.axvline(np.median(values), color=colour, linestyle="--", linewidth=1.4)
    ax.set(xlabel=xlabel, ylabel="genes")
    ax.legend()
    return figure


def scatter2d(
    points: Any, values: Any, *, label: str, title: str = "", axes_labels: Sequence[str] = ("", "")
) -> Figure:
    """Points of a plane, coloured by a number or a category.

    Parameters
    ----------
    points
        (points, 2), such as two principal components of an embedding.
    values
        (points,).
    label
        What the values are.
    title
        Title of the figure.
    axes_labels
        What the two axes are; without them they carry no ticks.
    """
    figure, axes = canvas(1, 1, (WIDTH * 0.85, 4.4))
    ax = axes[0, 0]
    points = as_array(points)
    style = {"s": 22, "edgecolors": "white", "linewidths": 0.3}
    if is_category(values):
        names = category_names(values)
        ax.scatter(points[:, 0], points[:, 1], c=category_colours(values, names), **style)
        category_legend(ax, names, loc="center left", bbox_to_anchor=(1.0, 0.5), title=label)
    else:
        values = as_array(values).astype(float)
        low, high = limits([values])
        drawn = ax.scatter(points[:, 0], points[:, 1], c=values, vmin=low, vmax=high, **style)
        colour_bar(figure, drawn, ax, label, extend="both")
    ax.set(title=title, xlabel=axes_labels[0], ylabel=axes_labels[1])
    if not any(axes_labels):
        ax.set(xticks=[], yticks=[])
    return figure


def curves(
    x: Any,
    lines: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
    dots: bool = False,
    diagonal: str = "",
) -> Figure:
    """Lines, or clouds of dots, over a common axis.

    Parameters
    ----------
    x
        (points,), or one such array per line.
    lines
        (points,) by name.
    xlabel, ylabel
        What the axes are, with their units.
    logx, logy
        Logarithmic axes.
    dots
        Draw single points and no line.
    diagonal
        What it means where y equals x: a dashed line with this name.
    """
    figure, axes = canvas(1, 1, (WIDTH, 3.6))
    ax = axes[0, 0]
    for i, (name, y) in enumerate(lines.items()):
        across = as_array(x[name] if isinstance(x, Mapping) else x)
        style = {"linestyle": "", "markersize": 4, "alpha": 0.6} if dots else {"markersize": 5}
        ax.plot(
            across, as_array(y), marker=MARKERS[i % len(MARKERS)], markeredgewidth=0,
            color=method_colour(name, i), label=name, **style,
        )  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if logx:
        ax.set_xscale("log")
    if logy:
        ax.set_yscale("log")
    if diagonal:
        ends = [max(ax.get_xlim()[0], ax.get_ylim()[0]), min(ax.get_xlim()[1], ax.get_ylim()[1])]
        ax.plot(ends, ends, color="black", linestyle="--", linewidth=1.2, label=diagonal)
    if len(lines) > 1 or diagonal:
        ax.legend()
    return figure


def spread_against_error(spread: Any, error: Any, *, bins: int = 10) -> Figure:
    """Draw whether retrieved spots that disagree foretell a larger error.

    Parameters
    ----------
    spread, error
        Arrays of one shape: the neighbours' standard deviation and the absolute error, log1p.
    bins
        Groups of equal size, by spread.
    """
    from scipy.stats import spearmanr

    spread, error = np.ravel(as_array(spread)), np.ravel(as_array(error))
    figure, axes = canvas(1, 1, (WIDTH * 0.85, 3.6))
    ax = axes[0, 0]
    group = pd.qcut(pd.Series(spread).rank(method="first"), bins, labels=False)
    table = pd.DataFrame({"spread": spread, "error": error}).groupby(group)
    across = table["spread"].mean()
    ax.fill_between(
        across, table["error"].quantile(0.25), table["error"].quantile(0.75),
        color=COLOURS[5], alpha=0.35, linewidth=0, label="middle half",
    )  # fmt: skip
    ax.plot(across, table["error"].mean(), "o-", color=COLOURS[0], label="mean")
    rank = spearmanr(spread, error).statistic
    ax.set(
        xlabel="spread of the retrieved spots (log1p)", ylabel="absolute error (log1p)",
        title=f"rank correlation {rank:.2f}",
    )  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure


def bars(values: Mapping[str, float], xlabel: str) -> Figure:
    """Horizontal bars, in the order given, each with its number.

    Parameters
    ----------
    values
        Numbers by name.
    xlabel
        What they are, with their unit.
    """
    figure, axes = canvas(1, 1, (WIDTH, 0.9 + 0.36 * len(values)))
    ax = axes[0, 0]
    names = list(values)[::-1]
    numbers = [float(values[name]) for name in names]
    colours = [method_colour(name, 0) for name in names]
    drawn = ax.barh(names, numbers, color=colours, height=0.65)
    ax.bar_label(drawn, [f"{number:.3g}" for number in numbers], padding=4)
    ax.margins(x=0.12)
    ax.axvline(0, color="#777777", linewidth=1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(xlabel)
    return figure
