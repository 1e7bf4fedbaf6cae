"""The figures: what they show, how large they are, and that they are the same each time."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

import heclip_course
from heclip_lite import plotting
from heclip_lite.data import sections
from heclip_lite.data.synthetic import tissue


@pytest.fixture(scope="module")
def section():
    """A small synthetic section: a stained picture, which is what makes figures large."""
    return tissue.synthetic_sections(1, 1, size_um=900)[0]


def table(values: dict[str, float], metric: str = "pearson") -> pd.DataFrame:
    """A contest's table with one row per method and held-out section."""
    rows = [
        {"method": name, "fold": fold, "split": split, "seed": 0, "gene_set": "hvg50"}
        | {"metric": metric, "scope": "per_section", "value": value}
        for name, value in values.items()
        for fold, split in (("P2-2", "section"), ("P3-1", "donor"))
    ]
    return pd.DataFrame(rows)


def every_figure(section) -> dict[str, Figure]:
    """One figure of each kind."""
    rng = np.random.default_rng(0)
    spots = section.n_obs
    level = rng.random(spots)
    images = rng.integers(0, 255, (7, 24, 24, 3), dtype=np.uint8)
    records = [{"epoch": i + 1, "loss": 5 - i, "validation": 5.5 - i} for i in range(4)]
    return {
        "slide": plotting.slide(section),
        "values": plotting.slide(section, level, label="level", mark=3),
        "categories": plotting.slide(section, section.obs["domain"], label="domain"),
        "slides": plotting.slides([section] * 3, [level] * 3, label="level"),
        "slides by category": plotting.slides([section] * 2, [section.obs["domain"]] * 2),
        "patches": plotting.patches(images, [str(i) for i in range(7)], columns=3, um=150),
        "widths": plotting.patches(images[:2], um=[50, 100]),
        "maps": plotting.expression_maps(
            section, {"measured": level, "predicted": level}, gene="A", scores={"predicted": 0.5}
        ),
        "neighbours": plotting.neighbours(images[0], images[1:]),
        "matrices": plotting.matrices({"a": np.eye(4), "b": level[:16].reshape(4, 4)}),
        "history": plotting.history({"HECLIP": records}, chance=4.85),
        "contest": plotting.contest(table({"HECLIP": 0.4, "mean": 0.0})),
        "gene_scores": plotting.gene_scores({"HECLIP": level, "ridge": np.append(level, np.nan)}),
        "scatter": plotting.scatter2d(rng.random((spots, 2)), level, label="level"),
        "scatter by category": plotting.scatter2d(
            rng.random((spots, 2)), section.obs["domain"], label="domain"
        ),
        "curves": plotting.curves(
            np.arange(1, 5), {"a": np.arange(1, 5)}, xlabel="x", ylabel="y", logx=True, diagonal="="
        ),
        "spread": plotting.spread_against_error(level, level**2),
        "bars": plotting.bars({"HECLIP": 0.4, "mean": 0.0}, "r"),
    }


def test_every_figure_is_drawn_small_and_on_white(section):
    for name, figure in every_figure(section).items():
        assert isinstance(figure, Figure), name
        data = plotting.png(figure)
        assert len(data) < 200_000, f"{name} takes {len(data)} bytes"
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        assert picture.width <= 800, f"{name} is wider than a page"
        assert picture.getpixel((0, 0)) == (255, 255, 255), f"{name} has no white ground"


def test_the_same_input_gives_the_same_bytes(section):
    first, second = every_figure(section), every_figure(section)
    for name in ("values", "maps", "contest", "scatter by category"):
        assert plotting.png(first[name]) == plotting.png(second[name]), name


def test_figures_are_not_left_open(section):
    from matplotlib import pyplot

    every_figure(section)
    assert pyplot.get_fignums() == [], "an open figure is shown twice by a notebook"


def test_letters_are_large_enough_for_a_phone(section):
    for name, figure in every_figure(section).items():
        texts = [text for text in figure.findobj(lambda o: hasattr(o, "get_fontsize"))]
        sizes = [text.get_fontsize() for text in texts if str(getattr(text, "get_text", str)())]
        assert min(sizes) >= 8, name


def test_own_colours_survive_beside_a_stained_slide(section):
    """A palette fitted to the tissue alone would turn the ring and the colour scale purple."""
    data = plotting.png(plotting.slide(section, mark=0))
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    colours = {to_hex(np.divide(c, 255)).upper() for _, c in picture.getcolors(10**6)}
    ring = np.array([int("D5", 16), int("5E", 16), 0])
    nearest = min(np.abs(np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) - ring).max()
                  for c in colours)  # fmt: skip
    assert nearest <= 8


def test_spots_are_circles_of_their_true_size_in_place(section):
    (ax,) = plotting.slide(section).axes
    (circles,) = ax.collections
    um = sections.um_per_px(section)
    assert np.allclose(circles.get_offsets(), section.obsm["spatial"] * um)
    assert np.allclose(circles.get_widths(), sections.spot_diameter_um(section))
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left < right and bottom > top, "y goes down, as in the image"
    (picture,) = ax.images
    assert picture.get_extent() == [left, right, bottom, top]


def test_spots_lie_on_the_pixels_they_were_measured_on(section):
    """The drawn piece of the preview is the one that belongs to its place on the axes."""
    (ax,) = plotting.slide(section).axes
    drawn = ax.images[0].get_array()
    left, right, bottom, top = ax.images[0].get_extent()
    preview, scale = sections.preview(section)
    for x, y in section.obsm["spatial"][:: section.n_obs // 8]:
        um = np.array([x, y]) * sections.um_per_px(section)
        column = int((um[0] - left) / (right - left) * drawn.shape[1])
        row = int((um[1] - top) / (bottom - top) * drawn.shape[0])
        there = drawn[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].mean((0, 1))
        i, j = int(y * scale), int(x * scale)
        reach = int(2.5 * (preview.shape[1] * (right - left) / drawn.shape[1]) /
                    (sections.image_size(section)[0] * sections.um_per_px(section)))  # fmt: skip
        expected = preview[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
        assert np.abs(there - expected.mean((0, 1))).max() < 25


def test_wrong_number_of_values_is_named(section):
    name = sections.name_of(section)
    with pytest.raises(ValueError, match=f"{name}.*{section.n_obs} spots.*2 values"):
        plotting.slide(section, [1.0, 2.0])


def test_constant_and_missing_values_can_be_drawn(section):
    plotting.png(plotting.slide(section, np.zeros(section.n_obs)))
    labels = section.obs["domain"].astype(object).to_numpy().copy()
    labels[:5] = np.nan
    figure = plotting.slide(section, labels)
    (circles,) = figure.axes[0].collections
    assert len({tuple(c) for c in circles.get_facecolor()[:5]}) == 1, "missing ones are grey"


def test_slides_share_one_colour_scale_and_one_colour_per_category(section):
    low, high = np.zeros(section.n_obs), np.full(section.n_obs, 9.0)
    figure = plotting.slides([section, section], [low, high])
    limits = {ax.collections[0].get_clim() for ax in figure.axes if ax.images}
    assert limits == {(0.0, 9.0)}
    some = pd.Series(["stroma"] * section.n_obs)
    other = pd.Series(["tumour", "stroma"] * section.n_obs)[: section.n_obs]
    figure = plotting.slides([section, section], [some, other])
    first, second = (ax.collections[0].get_facecolor() for ax in figure.axes[:2])
    assert np.array_equal(first[1], second[1]), "stroma has one colour on both slides"
    assert not np.array_equal(first[0], second[0])


def test_maps_have_own_scales_unless_they_shall_share_one(section):
    maps = {
        "measured": np.linspace(0, 4, section.n_obs),
        "predicted": np.linspace(1, 2, section.n_obs),
    }

    def limits(figure):
        return {ax.collections[0].get_clim() for ax in figure.axes if ax.images and ax.collections}

    assert len(limits(plotting.expression_maps(section, maps, gene="A"))) == 2
    assert len(limits(plotting.expression_maps(section, maps, gene="A", shared=True))) == 1
    titles = [
        ax.get_title()
        for ax in plotting.expression_maps(section, maps, gene="A", scores={"predicted": 0.5}).axes
    ]
    assert "predicted, r = 0.50" in titles and "measured" in titles


def test_contest_puts_the_best_on_top_and_names_the_split():
    figure = plotting.contest(table({"mean": 0.0, "HECLIP": 0.4, "ridge": 0.3}))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["mean", "ridge", "HECLIP"]
    assert [ax.get_title() for ax in figure.axes] == [
        "P2-2: a donor seen in training",
        "P3-1: a new donor",
    ]
    errors = table({"mean": 0.9, "HECLIP": 0.4}, metric="rmse")
    figure = plotting.contest(errors, metric="rmse")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mean", "HECLIP"]


def test_contest_without_the_wanted_rows_says_what_there_is():
    with pytest.raises(ValueError, match=r"'rmse'.*holds \['pearson'\] of \['hvg50'\]"):
        plotting.contest(table({"mean": 0.0}), metric="rmse")


def test_tensors_are_drawn_too():
    torch = pytest.importorskip("torch")
    plotting.matrices({"logits": torch.eye(3, requires_grad=True)})


def test_methods_keep_their_colour_in_any_case():
    from heclip_lite.plotting.style import method_colour

    assert method_colour("Ridge") == plotting.METHOD_COLOURS["ridge"]
    assert method_colour("something new", 1) != method_colour("something new", 2)


def test_importing_plotting_imports_no_matplotlib():
    code = "import sys, heclip_lite.plotting; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Told apart with every kind of colour vision: Okabe and Ito's eight, greys, and two colour maps.
OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
PLOTTING, COURSE = Path(plotting.__file__).parent, Path(heclip_course.__file__).parent
DRAWING = [*PLOTTING.glob("*.py"), *COURSE.glob("*widgets.py")]


@pytest.mark.parametrize("path", DRAWING, ids=lambda path: path.stem)
def test_colours_can_be_told_apart_with_every_colour_vision(path):
    text = path.read_text(encoding="utf-8")
    for colour in re.findall(r"#[0-9A-Fa-f]{6}", text):
        grey = colour[1:3] == colour[3:5] == colour[5:7]
        assert grey or colour.upper() in OKABE_ITO, f"{colour} in {path.name}"
    maps = set(re.findall(r'cmap[^="\n]*= ?"(\w+)"|image\.cmap": "(\w+)"', text))
    assert {name for pair in maps for name in pair if name} <= {"viridis", "RdBu_r"}, path.name
