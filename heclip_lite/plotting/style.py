"""The look of the book's figures: width, colours, scales and legends."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches; 770 px on the page
LARGEST_PNG = 190_000  # bytes
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
METHOD_COLOURS = {
    "HECLIP": "#0072B2",
    "HECLIP reference": "#56B4E9",
    "BLEEP": "#009E73",
    "CLIP": "#E69F00",
    "ridge": "#D55E00",
    "position": "#CC79A7",
    "mean": "#8C8C8C",
    "measured": "#000000",
}
LEVEL = "log1p of counts per 10,000"
GREY = "#777777"  # lines that only guide the eye
DOT = {"linestyle": "none", "marker": "o", "markersize": 3.5, "alpha": 0.55}
MEAN = {"linestyle": "none", "marker": "D", "markersize": 6, "markeredgecolor": "white"}
MARKERS = "osD^vPX*"
_UNKNOWN = "#C8C8C8"
_STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 10.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "lines.linewidth": 2,
}


def use_style() -> None:
    """Set the book's look for all figures of this notebook; call it once, at the top."""
    from cycler import cycler
    from IPython import get_ipython
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    pyplot.rcParams.update(_STYLE | {"axes.prop_cycle": cycler(color=COLOURS)})
    shell = get_ipython()
    if shell is not None:
        pyplot.close(pyplot.figure())  # matplotlib registers its own way to show figures here
        shell.display_formatter.formatters["image/png"].for_type(Figure, png)


def png(figure: Figure) -> bytes:
    """Draw `figure` as a PNG of fewer than 200 kB.

    In full colour a stained slide takes half a megabyte.
    So the picture gets a palette: the book's own colours are always in it, and as many colours of
    the tissue as the size allows.
    """
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_STYLE["figure.dpi"], bbox_inches="tight")
    picture = Image.open(drawn).convert("RGB")
    white = (np.asarray(picture) == 255).all(axis=2)
    palette = Image.new("P", (1, 1))
    for tissue in (160, 96, 56, 32, 20, 12):
        found = picture.quantize(tissue, method=Image.Quantize.MEDIANCUT).getpalette()
        palette.putpalette(_own_colours() + found[: 3 * tissue])
        reduced = picture.quantize(palette=palette, dither=Image.Dither.NONE)
        reduced.paste(0, mask=Image.fromarray(white))  # the match is rough: keep the ground white
        small = io.BytesIO()
        reduced.save(small, format="png", optimize=True)
        if small.tell() < LARGEST_PNG:
            break
    return small.getvalue()


@lru_cache(maxsize=1)
def _own_colours() -> list[int]:
    """Colours that must not be lost among those of a slide: r, g, b, r, g, b, ..."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    named = to_rgba_array(["white", "black", "#404040", "#808080", "#B0B0B0", "#E4E4E4", *COLOURS])
    scale = colormaps["viridis"](np.linspace(0, 1, 64))
    return np.rint(255 * np.concatenate([named, scale])[:, :3]).astype(int).ravel().tolist()


def canvas(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple:
    """Return a figure and its axes (rows, columns)."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )
    pyplot.close(figure)  # a notebook shows what a cell returns; open figures it would show twice
    return figure, axes


def as_array(values: Any) -> np.ndarray:
    """Turn a tensor of any device, a list or an array into an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def method_colour(name: str, place: int = 0) -> str:
    """Colour of a method: its own from `METHOD_COLOURS`, else one by its place in the figure."""
    known = {key.casefold(): colour for key, colour in METHOD_COLOURS.items()}
    return known.get(name.casefold(), COLOURS[place % len(COLOURS)])


def is_category(values: Any) -> bool:
    """Whether values name groups, rather than being numbers."""
    dtype = pd.Series(values).dtype
    return not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)


def category_names(values: Any) -> list[str]:
    """Names of the categories in their own order, those that occur only."""
    series = pd.Series(values)
    order = series.cat.categories if hasattr(series, "cat") else sorted(series.dropna().unique())
    return [str(name) for name in order if (series == name).any()]


def category_colours(values: Any, names: Sequence[str]) -> list[str]:
    """One colour per value; grey for a value that is missing."""
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    return [colour.get(str(value), _UNKNOWN) for value in values]


def category_legend(place: Any, names: Sequence[str], **options: Any) -> None:
    """Add the legend of `category_colours` to a figure or axes."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="o", linestyle="", markersize=7, color=COLOURS[i % len(COLOURS)])
        for i in range(len(names))
    ]
    place.legend(marks, names, handletextpad=0.2, **options)


def limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Scale that a few extreme values do not stretch; never empty."""
    pooled = np.concatenate([np.ravel(v) for v in values])
    low, high = np.nanpercentile(pooled, [1, 99])
    if high <= low:
        low, high = np.nanmin(pooled), np.nanmax(pooled)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def colour_bar(
    figure: Figure, mapped: Any, ax: Any, label: str = "", *, below: bool = False, **options: Any
) -> None:
    """Add a colour bar to the right of axes, or below them."""
    from matplotlib.ticker import MaxNLocator

    shape = {"shrink": 0.75, "aspect": 25, "pad": 0.02}
    where = "bottom" if below else "right"
    bar = figure.colorbar(mapped, ax=ax, location=where, **shape | options)
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(5 if below else 7, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3)
