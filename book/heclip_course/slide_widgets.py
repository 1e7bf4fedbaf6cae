"""Explorers of slides: choose a section, a gene and a spot, and see what was measured there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from heclip_course import controls
from heclip_course.controls import Explorer
from heclip_lite import plotting
from heclip_lite.data import genes as gene_tools
from heclip_lite.data import patches as patch_tools
from heclip_lite.data import sections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETRIEVED = 5  # patches shown
PATCH_UM, PATCH_PX = 150.0, 96


def slide_explorer(
    given: AnnData | Sequence[AnnData], genes: Sequence[str], *, section: str | None = None
) -> Explorer:
    """Choose a section, slide through genes, and see each measured on the tissue.

    Parameters
    ----------
    given
        One section with counts, or several.
    genes
        Genes to choose from; the first is shown first.
    section
        Name of the section that is shown first; the first one by default.

    Raises
    ------
    ValueError
        If there is no section or no gene, no section lists one of the genes, or two sections
        share a name.
    """
    every = [given] if isinstance(given, AnnData) else list(given)
    named = {sections.name_of(part): part for part in every}
    if not named or len(named) < len(every):
        raise ValueError(
            f"There are {len(every)} sections with {len(named)} names ({', '.join(named)}); "
            "give one or more, each with a name of its own."
        )
    if section is not None and section not in named:
        raise ValueError(f"There is no section {section!r}; there are {', '.join(named)}.")
    genes = list(dict.fromkeys(genes))
    if not genes:
        raise ValueError("There is no gene to choose. Give at least one.")
    for gene in genes:
        if not any(gene in part.var_names for part in every):
            raise ValueError(f"There is no gene {gene!r} in section {', '.join(named)}.")
    panel = gene_tools.GenePanel(tuple(genes), {})
    kept: dict[str, np.ndarray] = {}  # log1p by section, worked out when it is first looked at

    def draw(gene: str, section: str) -> Figure:
        part = named[section]
        if gene not in part.var_names:
            raise ValueError(
                f"Section {section} does not list gene {gene}: it was never counted there. "
                "Choose another gene or another section."
            )
        if section not in kept:
            kept[section] = gene_tools.expression(part, panel, absent=0.0)
        level = kept[section][:, genes.index(gene)]
        return plotting.expression_maps(part, {"measured": level}, gene=gene)

    return Explorer(
        {
            "section": controls.menu("Section", list(named), section),
            "gene": controls.steps("Gene", genes),
        },
        draw,
    )


def gene_explorer(
    section: AnnData,
    predictions: Mapping[str, np.ndarray],
    genes: Sequence[str],
    *,
    training: Sequence[AnnData] | None = None,
    rows: np.ndarray | None = None,
    patches: np.ndarray | None = None,
    gene: str | None = None,
) -> Explorer:
    """Explore a held-out section: type a gene, pick a method, walk from spot to spot.

    Shows the slide with the spot in a ring, the gene measured and predicted, and, where they are
    given, the training spots that were retrieved for the spot, each with the gene measured there.

    Parameters
    ----------
    section
        A held-out section with counts.
    predictions
        (spots, genes) log1p by method.
    genes
        Names of the columns.
    training
        Training sections, in the order they were fitted in.
    rows
        (spots, k) rows of the stacked training spots, nearest first,
        as ``HECLIP.neighbours`` gives.
    patches
        uint8 (training spots, height, width, 3); cut from `training` where they are left out.
    gene
        Shown first; the first of `genes` by default.

    Raises
    ------
    ValueError
        If shapes do not fit, a gene is missing, or `training` comes without `rows`.
    """
    genes = list(genes)
    of = {name: i for i, name in enumerate(genes)}
    if not predictions:
        raise ValueError("There is no prediction. Give at least one (spots, genes) by method.")
    for name, values in predictions.items():
        if np.shape(values) != (section.n_obs, len(genes)):
            raise ValueError(
                f"The prediction of {name!r} has shape {np.shape(values)}, but "
                f"{(section.n_obs, len(genes))} (spots, genes) is needed."
            )
    measured = _measured(section, genes)
    retrieved = _retrieved(section, genes, training, rows, patches)
    chosen = {
        "gene": controls.name_field("Gene (type, then Enter)", genes, gene or genes[0]),
        "method": controls.menu("Method", list(predictions)),
        "spot": controls.number_field(
            f"Spot (0 to {section.n_obs - 1}, arrow keys step)", section.n_obs // 2
        ),
    }

    def draw(gene: str, method: str, spot: int) -> Figure:
        column, spot = controls.known_gene(gene, of), controls.known_spot(spot, section)
        both = {"measured": measured[:, column], method: np.asarray(predictions[method])[:, column]}
        return _explored(section, both, genes[column], spot, column, retrieved)

    return Explorer(chosen, draw)


def _measured(section: AnnData, genes: Sequence[str]) -> np.ndarray:
    """Log-normalised expression of some genes, (spots, genes)."""
    panel = gene_tools.GenePanel(tuple(genes), {})
    return gene_tools.expression(section, panel)


class _Retrieved:
    """Patches and expression of the training spots that were retrieved for each spot."""

    def __init__(self, section, genes, training, rows, patches) -> None:
        self.rows = np.asarray(rows)[:, :RETRIEVED]
        total = sum(part.n_obs for part in training)
        if len(self.rows) != section.n_obs or self.rows.min() < 0 or self.rows.max() >= total:
            raise ValueError(
                f"rows has shape {np.shape(rows)} and names rows up to {self.rows.max()}, but "
                f"there are {section.n_obs} spots to explore and {total} training spots."
            )
        cut = {"width_um": PATCH_UM, "size": PATCH_PX}
        self.queries = patch_tools.cut_patches(section, **cut)
        if patches is None:
            patches = np.concatenate([patch_tools.cut_patches(part, **cut) for part in training])
        self.patches = patches
        self.names = np.repeat(
            [sections.name_of(part) for part in training], [part.n_obs for part in training]
        )
        self.values = np.concatenate([_measured(part, genes) for part in training])

    def titles(self, spot: int, column: int) -> list[str]:
        return [f"{self.names[r]}: {self.values[r, column]:.2f}" for r in self.rows[spot]]


def _retrieved(section, genes, training, rows, patches) -> _Retrieved | None:
    if (training is None) != (rows is None):
        raise ValueError("Retrieved spots need both `training` and `rows`; give both or neither.")
    return None if rows is None else _Retrieved(section, genes, training, rows, patches)


def _explored(
    section: AnnData,
    maps: Mapping[str, np.ndarray],
    gene: str,
    spot: int,
    column: int,
    retrieved: _Retrieved | None,
) -> Figure:
    """Draw slide, measured and predicted above; the spot's patch and those retrieved below."""
    from matplotlib import pyplot

    tall = plotting.tallness([section]) * plotting.WIDTH / 3 + 0.7
    heights = [tall, 1.6] if retrieved else [tall]
    figure = pyplot.figure(figsize=(plotting.WIDTH, sum(heights) + 0.5), layout="constrained")
    pyplot.close(figure)
    grid = figure.add_gridspec(len(heights), 6, height_ratios=heights)
    above = [figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3)]
    plotting.draw_maps(above, section, maps, mark=spot)
    if retrieved:
        below = [figure.add_subplot(grid[1, i]) for i in range(6)]
        titles = retrieved.titles(spot, column)
        plotting.draw_neighbours(
            below, retrieved.queries[spot], retrieved.patches[retrieved.rows[spot]], titles
        )
    levels = ", ".join(f"{name} {values[spot]:.2f}" for name, values in maps.items())
    figure.suptitle(f"{gene} in spot {spot}: {levels} ({plotting.LEVEL})", fontsize=10.5)
    return figure
