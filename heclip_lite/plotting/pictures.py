"""Slides, patches and maps of expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite.data import sections
from heclip_lite.plotting.style import (
    COLOURS,
    LEVEL,
    WIDTH,
    as_array,
    canvas,
    category_colours,
    category_legend,
    category_names,
    colour_bar,
    is_category,
    limits,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# -- slides and patches ---------------------------------------------------------------------


def slide(
    section: AnnData,
    values: Any = None,
    *,
    label: str = "",
    spots: bool = True,
    ax: Axes | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    mark: int | None = None,
    colourbar: bool = True,
    categories: Sequence[str] | None = None,
) -> Figure:
    """The H&E preview of a slide, its spots as circles of their true diameter.

    Parameters
    ----------
    section
        What to draw; its counts are not needed.
    values
        (spots,), numbers or categories, that colour the spots. Without them spots are outlined.
    label
        What the values are, with their unit.
    spots
        False to see the tissue alone.
    ax
        Where to draw, if not in a figure of its own.
    vmin, vmax
        Ends of the colour scale; the 1st and 99th percentile where they are left out.
    mark
        Spot to put a ring around.
    colourbar
        Draw the colour bar, or the legend of the categories.
    categories
        All categories in their order, where some may be missing here: each keeps its colour.

    Raises
    ------
    ValueError
        If there is not one value per spot.
    """
    from matplotlib.collections import EllipseCollection

    if values is not None and len(values) != section.n_obs:
        raise ValueError(
            f"Section {sections.name_of(section)!r} has {section.n_obs} spots, "
            f"but there are {len(values)} values. Give one value per spot."
        )
    if ax is None:
        wide = WIDTH * (0.7 if values is None else 0.85)
        ax = canvas(1, 1, (wide, WIDTH * 0.7 * tallness([section])))[1][0, 0]
    figure = ax.figure
    um = sections.um_per_px(section)
    places = np.asarray(section.obsm["spatial"]) * um  # (spots, 2)
    _tissue(section, ax, faded=values is not None)
    diameter = np.full(section.n_obs, sections.spot_diameter_um(section))
    circles = EllipseCollection(
        diameter, diameter, np.zeros_like(diameter), units="xy",
        offsets=places, offset_transform=ax.transData,
    )  # fmt: skip
    if values is None:
        circles.set(facecolor="none", edgecolor="black", linewidth=0.9)
    elif is_category(values):
        names = list(categories) if categories is not None else category_names(values)
        circles.set(facecolor=category_colours(values, names), edgecolor="white", linewidth=0.3)
        if colourbar:
            category_legend(ax, names, loc="center left", bbox_to_anchor=(1.0, 0.5), title=label)
    else:
        values = as_array(values).astype(float)
        low, high = limits([values])
        circles.set_array(values)
        circles.set(edgecolor="white", linewidth=0.3)
        circles.set_clim(low if vmin is None else vmin, high if vmax is None else vmax)
        if colourbar:
            colour_bar(figure, circles, ax, label, extend="both")
    if spots:
        ax.add_collection(circles)
    if mark is not None:
        from matplotlib.patches import Circle

        for colour, line in (("white", 5), ("#D55E00", 2.5)):
            ring = Circle(places[mark], 0.95 * diameter[0], fill=False, edgecolor=colour)
            ax.add_patch(ring).set_linewidth(line)
    _scale_bar(ax)
    return figure


def _window(section: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (x, y), in micrometres, of the part of the slide that holds spots."""
    um = sections.um_per_px(section)
    places = np.asarray(section.obsm["spatial"]) * um  # (spots, 2)
    size = np.array(sections.image_size(section)) * um
    margin = sections.spot_pitch_um(section) if len(places) > 1 else size.max()
    return np.maximum(places.min(axis=0) - margin, 0), np.minimum(places.max(axis=0) + margin, size)


def tallness(all_sections: Sequence[AnnData]) -> float:
    """Height over width of the tallest of several slides, as they are drawn."""
    sides = [high - low for low, high in map(_window, all_sections)]
    return max(height / width for width, height in sides)


def _tissue(section: AnnData, ax: Axes, *, faded: bool) -> None:
    """Draw the part of the slide that holds spots; the axes count micrometres from the corner."""
    from PIL import Image

    pixels, scale = sections.preview(section)
    um = sections.um_per_px(section) / scale  # of a pixel of the preview
    low, high = _window(section)
    low, high = (low / um).astype(int), (high / um).astype(int)
    part = Image.fromarray(pixels[low[1] : high[1], low[0] : high[0]])
    # No more pixels than the figure has room for: they cost time, and files grow.
    # Behind coloured spots the tissue steps back, and half as many will do.
    room = ax.get_position().width * ax.figure.get_figwidth() * ax.figure.dpi
    part = np.asarray(part.reduce(max(1, int((2 if faded else 1) * part.width / room))))
    if faded:
        part = 255 - (255 - part) // 4
    (left, top), (right, bottom) = low * um, high * um
    ax.imshow(part, extent=(left, right, bottom, top), interpolation="antialiased")
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_axis_off()


def _scale_bar(ax: Axes, share: float = 0.3) -> None:
    """A bar of a round length in micrometres; the axes count micrometres, y down."""
    from matplotlib.patches import Rectangle

    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    wide, tall = right - left, bottom - top
    rounds = np.array([m * 10.0**e for e in range(6) for m in (1, 2, 5)])
    length = rounds[rounds <= max(share * wide, 1)][-1]
    name = f"{length:,.0f} µm" if length < 1000 else f"{length / 1000:g} mm"
    x, y = left + 0.03 * wide, bottom - 0.035 * tall
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    ax.text(x, y - 0.03 * tall, name, va="bottom", fontsize=9, bbox=box)
    bar = Rectangle((x, y - 0.018 * tall), length, 0.018 * tall, facecolor="black")
    ax.add_patch(bar).set(edgecolor="white", linewidth=0.5)


def slides(
    all_sections: Sequence[AnnData],
    values: Sequence[Any] | None = None,
    titles: Sequence[str] | None = None,
    label: str = "",
    *,
    columns: int | None = None,
) -> Figure:
    """Several slides side by side, with one colour scale for all.

    Parameters
    ----------
    all_sections
        What to draw.
    values
        One array (spots,) per section; without them the tissue is shown alone.
    titles
        One per section; by default its name.
    label
        What the values are, with their unit.
    columns
        Slides in a row; three at most by default.
    """
    count = len(all_sections)
    columns = columns or (2 if count in (2, 4) else min(3, count))
    rows = -(-count // columns)
    tall = rows * (0.3 + tallness(all_sections) * WIDTH / columns)
    figure, axes = canvas(rows, columns, (WIDTH, tall + (0.0 if values is None else 0.7)))
    titles = titles or [sections.name_of(section) for section in all_sections]
    grouped = values is not None and is_category(values[0])
    low, high = (None, None) if values is None or grouped else limits(values)
    names = None
    if grouped:  # one order of categories, hence one colour each, on all slides
        names = list(dict.fromkeys(name for v in values for name in category_names(v)))
    for i, ax in enumerate(axes.ravel()):
        if i >= count:
            ax.set_axis_off()
            continue
        own = None if values is None else values[i]
        slide(
            all_sections[i], own, ax=ax, vmin=low, vmax=high,
            spots=own is not None, colourbar=False, categories=names,
        )  # fmt: skip
        ax.set_title(titles[i])
    if grouped:
        category_legend(
            figure, names, loc="outside lower center", ncols=min(4, len(names)), title=label
        )
    elif values is not None:
        circles = axes[0, 0].collections[0]
        every = list(axes.ravel())
        colour_bar(figure, circles, every, label, below=True, extend="both", shrink=0.5)
    for ax in axes.ravel():
        ax.set_anchor("N")
    return figure


def domains_beside(
    section: AnnData, labelled: Mapping[str, Any], *, columns: int | None = None
) -> Figure:
    """The slide and, beside it, its spots coloured by several sets of domains.

    The first set keeps its colours; each other one takes the colour of the domain of the first
    that it shares most spots with, so that what agrees looks alike.

    Parameters
    ----------
    section
        Where the spots are.
    labelled
        (spots,) labels by title; missing ones stay without a colour.
    columns
        Panels in a row; three at most by default.
    """
    panels = 1 + len(labelled)
    columns = columns or (2 if panels in (2, 4) else min(3, panels))
    rows = -(-panels // columns)
    tall = rows * (0.3 + tallness([section]) * WIDTH / columns)
    figure, axes = canvas(rows, columns, (WIDTH, tall + 0.7))
    places = list(axes.ravel())
    slide(section, ax=places[0], spots=False)
    places[0].set_title(f"{sections.name_of(section)}: H&E")
    first = pd.Series(next(iter(labelled.values()))).reset_index(drop=True)
    names = category_names(first)
    for ax, (title, values) in zip(places[1:], labelled.items(), strict=False):
        own = pd.Series(values).reset_index(drop=True)
        renamed = _matched(own, first, names)
        every = list(dict.fromkeys([*names, *category_names(renamed)]))
        slide(section, renamed, ax=ax, colourbar=False, categories=every)
        ax.set_title(title)
    for ax in places:
        ax.set_anchor("N")
    for ax in places[panels:]:
        ax.set_axis_off()
    category_legend(figure, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _matched(own: pd.Series, first: pd.Series, names: Sequence[str]) -> pd.Series:
    """Groups renamed after the domains they overlap with, one to one; others keep a name."""
    from scipy.optimize import linear_sum_assignment

    known = own.notna() & first.notna()
    names_of = own.astype(object).map(str, na_action="ignore")
    table = pd.crosstab(names_of[known], first[known].astype(str))
    if set(table.index) <= set(names):
        return names_of
    groups, domains = linear_sum_assignment(-table.to_numpy())
    of = {table.index[g]: table.columns[d] for g, d in zip(groups, domains, strict=True)}
    return names_of.map(lambda name: of.get(name, f"group {name}"), na_action="ignore")


def patches(
    images: Any,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    um: float | Sequence[float] | None = None,
) -> Figure:
    """A grid of patches.

    Parameters
    ----------
    images
        uint8 (patches, height, width, 3), or a list of such images.
    titles
        One per patch.
    columns
        Patches in a row.
    um
        Width of a patch on the tissue in micrometres: one for all, with one scale bar,
        or one for each.
    """
    count = len(images)
    columns = min(columns, count)
    rows = -(-count // columns)
    side = min(WIDTH / columns, 2.6)
    figure, axes = canvas(rows, columns, (columns * side, rows * (side + 0.25 * bool(titles))))
    widths = np.broadcast_to(um, count) if um is not None else [None] * count
    for i, ax in enumerate(axes.ravel()):
        ax.set_axis_off()
        if i >= count:
            continue
        wide = widths[i] or images[i].shape[1]
        tall = wide * images[i].shape[0] / images[i].shape[1]
        ax.imshow(as_array(images[i]), extent=(0, wide, tall, 0), interpolation="antialiased")
        if titles:
            ax.set_title(titles[i], fontsize=9.5)
        if widths[i] is not None and (i == 0 or np.ndim(um) > 0):
            _scale_bar(ax, share=0.5)
    return figure


def expression_maps(
    section: AnnData,
    maps: Mapping[str, Any],
    *,
    gene: str,
    scores: Mapping[str, float] | None = None,
    shared: bool = False,
) -> Figure:
    """The slide and, beside it, maps of one gene: measured, predicted and so on.

    Parameters
    ----------
    section
        Where the spots are.
    maps
        (spots,) log1p values by title.
    gene
        Its name.
    scores
        Pearson r by title of a map, shown in its title.
    shared
        One colour scale for all maps, which shows how far predictions shrink to the mean;
        otherwise each map has its own, which shows the pattern.
    """
    panels = 1 + len(maps)
    columns = 2 if panels in (2, 4) else 3
    rows = -(-panels // columns)
    tall = tallness([section]) * WIDTH / columns
    figure, axes = canvas(rows, columns, (WIDTH, 0.3 + rows * (0.6 + tall)))
    draw_maps(list(axes.ravel()), section, maps, scores=scores, shared=shared)
    figure.suptitle(f"{gene} ({LEVEL})", fontsize=11)
    return figure


def draw_maps(
    places: Sequence[Axes],
    section: AnnData,
    maps: Mapping[str, Any],
    *,
    scores: Mapping[str, float] | None = None,
    shared: bool = False,
    mark: int | None = None,
) -> None:
    """Draw what `expression_maps` shows into given axes, with a ring around the spot `mark`."""
    slide(section, ax=places[0], spots=False, mark=mark)
    places[0].set_title(f"{sections.name_of(section)}: H&E")
    low, high = limits([as_array(v) for v in maps.values()]) if shared else (None, None)
    for ax, (name, values) in zip(places[1:], maps.items(), strict=False):
        slide(section, values, ax=ax, vmin=low, vmax=high, colourbar=False, mark=mark)
        colour_bar(ax.figure, ax.collections[0], ax, below=True)
        score = (scores or {}).get(name)
        ax.set_title(name if score is None else f"{name}, r = {score:.2f}")
    for ax in places:
        ax.set_anchor("N")
    for ax in places[1 + len(maps) :]:
        ax.set_axis_off()


def neighbours(query_patch: Any, patches: Any, titles: Sequence[str] | None = None) -> Figure:
    """A held-out patch, framed, and the training patches that were retrieved for it.

    Parameters
    ----------
    query_patch
        uint8 (height, width, 3).
    patches
        uint8 (retrieved, height, width, 3), best first.
    titles
        One per retrieved patch.
    """
    count = len(patches)
    columns = min(5, count + 1)
    rows = -(-(count + 1) // columns)
    side = WIDTH / columns
    figure, axes = canvas(rows, columns, (WIDTH, rows * (side + 0.3)))
    draw_neighbours(list(axes.ravel()), query_patch, patches, titles)
    return figure


def draw_neighbours(
    places: Sequence[Axes], query_patch: Any, patches: Any, titles: Sequence[str] | None = None
) -> None:
    """Draw what `neighbours` shows into given axes, one patch each."""
    titles = titles or [f"{i + 1}" for i in range(len(patches))]
    pictures = [(query_patch, "held-out spot"), *zip(patches, titles, strict=False)]
    for ax in places:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for i, (ax, (picture, title)) in enumerate(zip(places, pictures, strict=False)):
        ax.imshow(as_array(picture))
        ax.set_title(title, fontsize=9.5)
        if i == 0:
            ax.spines[:].set(visible=True, color=COLOURS[1], linewidth=3)
