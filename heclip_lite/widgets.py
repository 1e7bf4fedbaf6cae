"""Explorers: choose a gene and a spot, and see the slide, the measurement and the prediction.

An explorer shows two things: its controls, and a figure that they change.
Where nothing answers the controls, as on a web page, the figure stands alone and still says
something; so it is an output of its own, which a live kernel draws anew in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from heclip_lite import genes as gene_tools
from heclip_lite import patches as patch_tools
from heclip_lite import plotting, sections

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure

RETRIEVED = 5  # patches shown
PATCH_UM, PATCH_PX = 150.0, 96
_WIDE = {"description_width": "initial"}


class Explorer:
    """Controls and the figure they change; a notebook shows both.

    Parameters
    ----------
    controls
        ipywidgets by name.
    draw
        Called with the controls' values by name; returns the figure.
        Raises a ``ValueError`` whose message is for the reader if a value makes no sense.

    Attributes
    ----------
    figure
        The figure of the last choice that made sense.
    """

    def __init__(self, controls: Mapping[str, Widget], draw: Callable[..., Figure]) -> None:
        import ipywidgets

        self.controls = dict(controls)
        self._draw = draw
        self._shown: list[Any] = []  # where the figure stands in the notebook
        self._note = ipywidgets.HTML()
        self.box = ipywidgets.VBox([*self.controls.values(), self._note])
        self.figure = draw(**self.values)
        for control in self.controls.values():
            control.observe(self._update, names="value")

    @property
    def values(self) -> dict[str, Any]:
        """What is chosen now."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def message(self) -> str:
        """What is wrong with the last choice; empty if nothing is."""
        return self._note.value

    def _update(self, _: Any = None) -> None:
        from html import escape

        try:
            self.figure = self._draw(**self.values)
        except ValueError as error:
            self._note.value = f'<span role="alert">{escape(str(error))}</span>'
            return
        self._note.value = ""
        for place in self._shown:
            place.update(self.figure)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)
        # The newest place is the one the reader looks at; older ones would only cost time.
        self._shown = [display(self.figure, display_id=True)]


def slide_explorer(section: AnnData, genes: Sequence[str]) -> Explorer:
    """Slide through genes and see each measured on the tissue.

    Parameters
    ----------
    section
        A section with counts.
    genes
        Genes to choose from; the first is shown first.

    Raises
    ------
    ValueError
        If there is no gene, or the section lacks one.
    """
    import ipywidgets

    measured = _measured(section, genes)
    of = {gene: i for i, gene in enumerate(genes)}
    gene = ipywidgets.SelectionSlider(
        options=list(of),
        description="Gene",
        continuous_update=False,
        style=_WIDE,
        layout={"width": "95%"},
    )

    def draw(gene: str) -> Figure:
        return plotting.expression_maps(section, {"measured": measured[:, of[gene]]}, gene=gene)

    return Explorer({"gene": gene}, draw)


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
    import ipywidgets

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
    controls = {
        "gene": ipywidgets.Combobox(
            value=gene or genes[0],
            options=genes,
            ensure_option=False,
            continuous_update=False,
            description="Gene (type, then Enter)",
            style=_WIDE,
        ),
        "method": ipywidgets.Dropdown(options=list(predictions), description="Method", style=_WIDE),
        "spot": ipywidgets.IntText(
            value=section.n_obs // 2,
            continuous_update=False,
            description=f"Spot (0 to {section.n_obs - 1}, arrow keys step)",
            style=_WIDE,
        ),
    }

    def draw(gene: str, method: str, spot: int) -> Figure:
        column, spot = _known_gene(gene, of), _known_spot(spot, section)
        both = {"measured": measured[:, column], method: np.asarray(predictions[method])[:, column]}
        return _explored(section, both, genes[column], spot, column, retrieved)

    return Explorer(controls, draw)


def _known_gene(name: str, of: Mapping[str, int]) -> int:
    if name in of:
        return of[name]
    folded = {known.casefold(): known for known in of}
    if name.strip().casefold() in folded:
        return of[folded[name.strip().casefold()]]
    near = [folded[n] for n in get_close_matches(name.strip().casefold(), folded, n=3)]
    hint = f" Near names: {', '.join(near)}." if near else " Choose one from the list."
    raise ValueError(f"There is no gene {name!r} among the {len(of)} of this panel.{hint}")


def _known_spot(spot: int, section: AnnData) -> int:
    if not 0 <= spot < section.n_obs:
        raise ValueError(
            f"There is no spot {spot} on section {sections.name_of(section)}: "
            f"choose 0 to {section.n_obs - 1}."
        )
    return spot


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
    import ipywidgets
    import torch

    from heclip_lite.losses import target_matrix

    given = torch.as_tensor(np.asarray(image, dtype=np.float64))
    if given.ndim != 2 or len(given) < 2:
        raise ValueError(
            f"image has shape {tuple(given.shape)}; give embeddings (batch, dim) of 2 or more."
        )
    temperature = ipywidgets.FloatLogSlider(
        value=1.0, min=-2, max=3, step=0.25, description="Temperature", continuous_update=False,
        style=_WIDE, layout={"width": "95%"},
    )  # fmt: skip
    scaled = ipywidgets.Checkbox(value=False, description="Scale embeddings to length 1")

    def draw(temperature: float, scaled: bool) -> Figure:
        z = torch.nn.functional.normalize(given, dim=1) if scaled else given
        target = target_matrix(z, z, temperature=temperature)
        spread = float(torch.exp(torch.special.entr(target).sum(1)).mean())
        title = f"temperature {temperature:g}: {spread:.1f} effective targets of {len(target)}"
        return plotting.matrices({title: target.numpy()})

    return Explorer({"temperature": temperature, "scaled": scaled}, draw)


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
        Predicted sections by factor, as :func:`heclip_lite.superres.predict` gives.
    truth
        ``truth(points, width_um)`` gives the true expression (points, genes of the section), where
        it is known; drawn beside the prediction.
    genes
        Genes to choose from, the first shown first; all predicted genes by default.

    Raises
    ------
    ValueError
        If there is no dense section, or a gene is missing in one.
    """
    import ipywidgets

    if not dense:
        raise ValueError("There is no dense section. Give at least one, by its factor.")
    known = {name: i for i, name in enumerate(next(iter(dense.values())).var_names)}
    genes = list(known) if genes is None else list(genes)
    columns = {name: _known_gene(name, known) for name in genes}
    factors = {f"{factor}x, {dense[factor].n_obs:,} points": factor for factor in sorted(dense)}
    controls = {
        "factor": ipywidgets.SelectionSlider(
            options=list(factors),
            description="Resolution",
            continuous_update=False,
            style=_WIDE,
            layout={"width": "95%"},
        ),
        "gene": ipywidgets.Dropdown(options=genes, description="Gene", style=_WIDE),
    }
    measured = dict(zip(genes, _measured(section, genes).T, strict=True))

    def draw(factor: str, gene: str) -> Figure:
        points = dense[factors[factor]]
        drawn = {"measured": (section, measured[gene])}
        drawn[f"predicted, {factor}"] = (points, points.X[:, columns[gene]])
        if truth is not None:
            width = sections.spot_diameter_um(points)
            place = section.var_names.get_loc(gene)
            drawn["true"] = (points, truth(points.obsm["spatial"], width)[:, place])
        figure = plotting.slides(
            [where for where, _ in drawn.values()],
            [np.asarray(values) for _, values in drawn.values()],
            titles=list(drawn),
            label=f"{gene} ({plotting.LEVEL})",
            columns=len(drawn),
        )
        return figure

    return Explorer(controls, draw)


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
        Column of ``obs`` with the known domains.

    Raises
    ------
    ValueError
        If there is no input.
    """
    import ipywidgets

    from heclip_lite import domains

    if not inputs:
        raise ValueError("There is nothing to find domains in. Give (spots, features) by name.")
    known = labels in section.obs and section.obs[labels].notna().any()
    count = section.obs[labels].dropna().nunique() if known else 5
    controls = {
        "given": ipywidgets.Dropdown(options=list(inputs), description="Input", style=_WIDE),
        "method": ipywidgets.Dropdown(
            options=list(domains.METHODS), description="Method", style=_WIDE
        ),
        "number": ipywidgets.IntSlider(
            value=count, min=2, max=12, description="Domains", continuous_update=False, style=_WIDE
        ),
        "smooth": ipywidgets.IntSlider(
            value=0, min=0, max=5, description="Smoothing", continuous_update=False, style=_WIDE
        ),
    }

    def draw(given: str, method: str, number: int, smooth: int) -> Figure:
        found = domains.find_domains(section, number, method, features=inputs[given], smooth=smooth)
        title = f"found in {given}"
        if not known:
            figure = plotting.slide(section, found.obs["found"], label=title)
            return figure
        scores = domains.score(found, labels=labels)
        both = {"known": section.obs[labels], title: found.obs["found"]}
        figure = plotting.domains_beside(section, both)
        coherence = f"coherence {scores['coherence']:.2f}"
        figure.suptitle(f"ARI {scores['ari']:.2f}, NMI {scores['nmi']:.2f}, {coherence}")
        return figure

    return Explorer(controls, draw)
