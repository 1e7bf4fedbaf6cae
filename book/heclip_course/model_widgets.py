"""Explorers of what models do: targets, resolution, domains, and leaks in a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_course import controls, leakage
from heclip_course.controls import Explorer
from heclip_lite import plotting
from heclip_lite.data import genes as gene_tools
from heclip_lite.data import sections
from heclip_lite.plotting import style
from heclip_lite.spatial import domains

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def target_explorer(image: np.ndarray) -> Explorer:
    """Move the temperature and see soft targets sharpen into one-hot ones.

    Parameters
    ----------
    image
        Embeddings of pictures (batch, dim).

    Raises
    ------
    ValueError
        If there are fewer than two pictures.
    """
    import torch

    from heclip_lite.losses import target_matrix

    given = torch.as_tensor(np.asarray(image, dtype=np.float64))
    if given.ndim != 2 or len(given) < 2:
        raise ValueError(
            f"image has shape {tuple(given.shape)}; give embeddings (batch, dim) of 2 or more."
        )

    def draw(temperature: float, scaled: bool) -> Figure:
        z = torch.nn.functional.normalize(given, dim=1) if scaled else given
        target = target_matrix(z, z, temperature=temperature)
        spread = float(torch.exp(torch.special.entr(target).sum(1)).mean())
        title = f"temperature {temperature:.3g}: {spread:.1f} effective targets of {len(target)}"
        # Always from 0 to 1: a scale of its own would make even nearly equal targets look sharp.
        return plotting.matrices(
            {title: target.numpy()}, ends=(0, 1), xlabel="picture", ylabel="picture"
        )

    return Explorer(
        {
            "temperature": controls.powers("Temperature", 1.0, -2, 3, 0.25),
            "scaled": controls.box("Scale embeddings to length 1"),
        },
        draw,
    )


def resolution_explorer(
    section: AnnData,
    dense: Mapping[int, AnnData],
    *,
    truth: Callable[[np.ndarray, float], np.ndarray] | None = None,
    genes: Sequence[str] | None = None,
) -> Explorer:
    """Slide from the spots to ever more points between them, one gene at a time.

    Parameters
    ----------
    section
        The measured section.
    dense
        Predicted sections by factor, as :func:`heclip_lite.spatial.superres.predict` gives.
    truth
        ``truth(points, width_um)`` gives the true expression (points, genes of the section), where
        it is known; drawn beside the prediction.
    genes
        Genes to choose from, the first shown first; all predicted genes by default.

    Raises
    ------
    ValueError
        If there is no dense section, or a gene is missing in one or in the measured section.
    """
    if not dense:
        raise ValueError("There is no dense section. Give at least one, by its factor.")
    first = next(iter(dense.values()))
    genes = list(first.var_names) if genes is None else list(genes)
    places = _columns(section, genes, f"section {sections.name_of(section)}")
    columns = {
        factor: _columns(points, genes, f"the dense section of factor {factor}")
        for factor, points in dense.items()
    }
    genes = list(section.var_names[places])
    factors = {f"{factor}x, {dense[factor].n_obs:,} points": factor for factor in sorted(dense)}
    panel = gene_tools.GenePanel(tuple(genes), {})
    measured = gene_tools.expression(section, panel)

    def draw(factor: str, gene: str) -> Figure:
        points, number = dense[factors[factor]], genes.index(gene)
        drawn = {"measured": (section, measured[:, number])}
        predicted = points.X[:, columns[factors[factor]][number]]
        drawn[f"predicted, {factor}"] = (points, predicted)
        if truth is not None:
            width = sections.spot_diameter_um(points)
            true = truth(points.obsm["spatial"], width)[:, places[number]]
            drawn["true"] = (points, true)
        return plotting.slides(
            [where for where, _ in drawn.values()],
            [np.asarray(values) for _, values in drawn.values()],
            titles=list(drawn),
            label=f"{gene} ({plotting.LEVEL})",
            columns=len(drawn),
        )

    return Explorer(
        {
            "factor": controls.steps("Resolution", list(factors)),
            "gene": controls.menu("Gene", genes),
        },
        draw,
    )


def _columns(section: AnnData, genes: Sequence[str], where: str) -> list[int]:
    """Columns of some genes; the error says where one is missing."""
    known = {name: i for i, name in enumerate(section.var_names)}
    try:
        return [controls.known_gene(gene, known) for gene in genes]
    except ValueError as error:
        raise ValueError(f"In {where}: {error}") from error


def domain_explorer(
    section: AnnData, inputs: Mapping[str, np.ndarray], *, labels: str = "domain"
) -> Explorer:
    """Find domains with another input, method, number or smoothing, and see them on the tissue.

    Parameters
    ----------
    section
        A section; its known domains are drawn beside those found, if it has any.
    inputs
        (spots, features) by name.
    labels
        Column of ``obs`` with the known domains; the default may be missing.

    Raises
    ------
    ValueError
        If there is no input, an input does not have one row per spot, or a column of known domains
        was named that does not exist.
    """
    if not inputs:
        raise ValueError("There is nothing to find domains in. Give (spots, features) by name.")
    for name, values in inputs.items():
        if np.ndim(values) != 2 or len(values) != section.n_obs:
            raise ValueError(
                f"Input {name!r} has shape {np.shape(values)}, but section "
                f"{sections.name_of(section)} has {section.n_obs} spots: give (spots, features)."
            )
    if labels not in section.obs and labels != "domain":
        raise ValueError(
            f"Section {sections.name_of(section)} has no column {labels!r} in obs; it has "
            f"{controls.listed(section.obs)}."
        )
    known = labels in section.obs and section.obs[labels].notna().any()
    count = section.obs[labels].dropna().nunique() if known else 5
    most = max(12, count)

    def draw(given: str, method: str, number: int, smooth: int) -> Figure:
        found = domains.find_domains(section, number, method, features=inputs[given], smooth=smooth)
        title = f"found in {given}"
        if not known:
            return plotting.slide(section, found.obs["found"], label=title)
        scores = domains.score(found, labels=labels)
        both = {"known": section.obs[labels], title: found.obs["found"]}
        figure = plotting.domains_beside(section, both)
        coherence = f"coherence {scores['coherence']:.2f}"
        figure.suptitle(f"ARI {scores['ari']:.2f}, NMI {scores['nmi']:.2f}, {coherence}")
        return figure

    return Explorer(
        {
            "given": controls.menu("Input", list(inputs)),
            "method": controls.menu("Method", list(domains.METHODS)),
            "number": controls.numbers("Domains", count, 2, most),
            "smooth": controls.numbers("Smoothing", 0, 0, 5),
        },
        draw,
    )


def leak_explorer(table: pd.DataFrame) -> Explorer:
    """Choose what leaks in a pipeline, and see what it would report beside an honest one.

    Parameters
    ----------
    table
        Scores of all pipelines, as :func:`heclip_course.leakage.simulate` gives.

    Raises
    ------
    ValueError
        If the table lacks a combination of leaks or a method.
    """
    wanted = [*vars(leakage.HONEST), "method", "value"]
    missing = [name for name in wanted if name not in table]
    if missing:
        raise ValueError(
            f"The table has no column {', '.join(missing)}; make it with leakage.simulate."
        )
    honest = leakage.scores(table)
    low, high = min(0.0, table["value"].min()), table["value"].max()
    reach = (low - 0.05 * (high - low), high + 0.2 * (high - low))  # one axis for all choices

    def draw(split: str, panel: str, fitted: bool, corrected: bool) -> Figure:
        leaks = leakage.Leaks(
            split, panel, leakage.FITTED[int(fitted)], leakage.TRUTHS[int(corrected)]
        )
        figure = _leaked(leakage.scores(table, leaks), honest, reach)
        figure.suptitle(_wrapped(f"This pipeline: {leakage.described(leaks)}."), fontsize=11)
        return figure

    return Explorer(
        {
            "split": controls.menu("Tested on", leakage.SPLITS, "random spots"),
            "panel": controls.menu("Genes scored", leakage.PANELS),
            "fitted": controls.box("Fit scaling and components with the test section"),
            "corrected": controls.box(
                "Batch-correct all sections together, and score against corrected values"
            ),
        },
        draw,
    )


def _leaked(reported: pd.Series, honest: pd.Series, reach: tuple[float, float]) -> Figure:
    """Draw what a pipeline reports (diamonds) and the honest score (circles), method by method."""
    figure, axes = style.canvas(1, 1, (style.WIDTH, 2.9))
    ax = axes[0, 0]
    rows = np.arange(len(honest))[::-1]
    ax.hlines(rows, honest, reported, color="#999999", linewidth=2, zorder=1)
    ax.plot(honest, rows, "o", color="#000000", markersize=9, label="honest", zorder=2)
    ax.plot(reported, rows, "D", color="#D55E00", markersize=9, label="this pipeline", zorder=3)
    for row, was, now in zip(rows, honest, reported, strict=True):
        text = f"{now:.2f} ({now - was:+.2f})"
        ax.annotate(text, (max(was, now), row), (10, 0), textcoords="offset points", va="center")
    ax.axvline(0, color="#777777", linewidth=1)
    ax.set(xlim=reach, ylim=(-0.6, len(rows) - 0.4), yticks=rows, yticklabels=list(honest.index))
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("mean r inside the held-out section, over the genes scored")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _wrapped(text: str, width: int = 78) -> str:
    import textwrap

    return textwrap.fill(text, width)
