"""Colour, stain, texture and nuclei: counted where they are, whatever the scale."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from heclip_lite import config, features
from heclip_lite.data import sections
from heclip_lite.data.sections import make_section
from heclip_lite.data.synthetic import tissue
from heclip_lite.features import appearance


def dotted(counts=(4, 30), radius=4.0):
    """Two spots on one slide of 1 um per px with few and many round nuclei around them."""
    slide = Image.new("RGB", (600, 300), (225, 165, 205))
    pen = ImageDraw.Draw(slide)
    rng = np.random.default_rng(0)
    for middle, number in zip((150, 450), counts, strict=True):
        cells = [(x, y) for x in range(-90, 91, 20) for y in range(-90, 91, 20)]
        for i in rng.permutation(len(cells))[:number]:
            x, y = cells[i][0] + middle, cells[i][1] + 150
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(70, 45, 130))
    return make_section(
        np.ones((2, 3)),
        ["A", "B", "C"],
        np.array([[150.0, 150.0], [450.0, 150.0]]),
        name="D",
        donor="D",
        um_per_px=1.0,
        spot_diameter_um=100,
        image=np.asarray(slide),
        background=(250, 250, 250),
    )


def measured(section, **options):
    settings = config.AppearanceInput(um_per_px=1.0, widths_um=(60.0,), **options)
    return appearance._measure(section, settings, section.obsm["spatial"])


def test_nuclei_are_counted_and_measured():
    section = dotted()
    log_count, area, elongation, _ = measured(section)[:, -4:].T
    assert np.exp(log_count[1] - log_count[0]) == pytest.approx(30 / 4, rel=0.35)
    np.testing.assert_allclose(area, np.pi * 4.5**2, rtol=0.25)
    np.testing.assert_allclose(elongation, 1, atol=0.2)


def test_colour_is_the_mean_around_the_spot(small_sections):
    section = dotted(counts=(0, 60))
    plain, dark = measured(section)[:, :3]
    np.testing.assert_allclose(plain, np.array([225, 165, 205]) / 255, atol=0.01)
    assert (dark < plain).all()
    colour = appearance.mean_colour(section, 60)
    np.testing.assert_allclose(colour[0], np.array([225, 165, 205]) / 255, atol=0.01)
    assert appearance.mean_colour(small_sections[0], 55).shape == (small_sections[0].n_obs, 3)


def test_blocks_are_z_scored_and_any_point_can_be_asked(small_sections):
    section = small_sections[0]
    settings = config.AppearanceInput(widths_um=(50.0, 150.0))
    blocks = features.describe(section, settings)
    assert [b.shape[1] for b in blocks] == [6, 6, 2, 4] * 2
    for block in blocks:
        np.testing.assert_allclose(block.mean(0), 0, atol=1e-4)
    points = section.obsm["spatial"][::3]
    assert features.describe(section, settings, points)[0].shape == (len(points), 6)
    hidden = sections.hide_expression(section)
    np.testing.assert_array_equal(features.table(hidden, settings), np.hstack(blocks))


def test_nuclei_follow_the_cells_of_the_synthetic_tissue(small_sections):
    section = small_sections[0]
    cells = tissue.truth(section).cells[["x", "y"]].to_numpy()
    reach = 100 / sections.um_per_px(section)
    places = section.obsm["spatial"]
    count = [(np.linalg.norm(cells - p, axis=1) < reach).sum() for p in places]
    found = features.describe(section, config.AppearanceInput(um_per_px=1.2, widths_um=(60.0,)))
    assert np.corrcoef(np.log(count), found[-1][:, 0])[0, 1] > 0.5
