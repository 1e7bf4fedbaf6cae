"""Registration: outlines found, turned tissue laid back, slides brought to one scale."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from heclip_lite import evaluation
from heclip_lite.data import her2st, registration, sections
from heclip_lite.data.registration import Rigid
from heclip_lite.data.sections import make_section
from heclip_lite.data.synthetic import tissue

GLASS = (244, 240, 243)


def wedge(angle: float = 0.0, shift=(0, 0), glass=GLASS):
    """A slide of 2 um per px with an asymmetric piece of tissue, turned and shifted (px)."""
    corners = np.array([[90, 80], [330, 110], [300, 200], [200, 210], [170, 330], [100, 300]])
    middle = np.array([210.0, 200.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (corners - middle) @ turn.T + middle + shift
    slide = Image.new("RGB", (420, 420), glass)
    ImageDraw.Draw(slide).polygon([tuple(c) for c in moved.tolist()], fill=(205, 120, 180))
    inside = np.array([[150, 130], [250, 140], [150, 250], [130, 280], [280, 170]], dtype=float)
    places = (inside - middle) @ turn.T + middle + shift
    counts = np.random.default_rng(0).poisson(5, (len(places), 12)) + 1
    return make_section(
        counts,
        [f"G{i}" for i in range(12)],
        places,
        name=f"W{angle:.2f}",
        donor="W",
        um_per_px=2.0,
        spot_diameter_um=55,
        image=np.asarray(slide),
        background=glass,
    )


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (0, 0, 0), (200, 205, 200)])
def test_tissue_is_told_from_any_glass(glass):
    mask = registration.tissue_mask(wedge(glass=glass), um_per_px=10)
    assert mask.shape == (84, 84)
    pixels = np.array(sections.read_image(wedge(glass=glass)))
    wanted = (pixels != glass).any(axis=2).mean()
    assert mask.mean() == pytest.approx(wanted, rel=0.08)


def test_an_empty_slide_is_named(toy_section):
    shown = toy_section.uns["spatial"]["T1"]["images"]
    shown["hires"] = np.full_like(shown["hires"], 240)
    with pytest.raises(ValueError, match="the image is of one colour"):
        registration.tissue_mask(toy_section)


@pytest.mark.parametrize(
    ("angle", "shift"), [(0.0, (0, 0)), (0.0, (31, -12)), (0.5, (10, 20)), (2.4, (-5, 8))]
)
def test_a_turned_section_is_laid_back(angle, shift):
    fixed, moving = wedge(), wedge(angle, shift)
    found = registration.register(moving, fixed, um_per_px=10)
    assert found.dice > 0.95
    laid = found.apply(registration.positions_um(moving))
    error = np.linalg.norm(laid - registration.positions_um(fixed), axis=1)
    assert error.max() < 25  # um, on a piece of tissue 500 um wide


def test_rigid_maps_there_and_back():
    there = Rigid(0.7, (30.0, -4.0))
    places = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(there.inverse().apply(there.apply(places)), places, atol=1e-12)
    other = Rigid(-0.2, (1.0, 2.0))
    np.testing.assert_allclose(
        there.then(other).apply(places), other.apply(there.apply(places)), atol=1e-12
    )


def test_pieces_of_a_slide_keep_the_placement_of_the_whole(small_sections):
    first, second = small_sections[:2]
    pieces, _ = evaluation.spatial_blocks([first, second])
    named = {sections.name_of(p): p for p in pieces}
    moving, fixed = named["P1-2 without 1"], sections.hide_expression(named["P1-1 block 1"])
    whole = registration.register(second, first)
    places = registration.positions_um(moving)
    np.testing.assert_allclose(
        registration.register(moving, fixed).apply(places), whole.apply(places), atol=1e-6
    )


def test_harmonised_sections_keep_all_but_the_glass(small_sections):
    section = small_sections[0]
    made = registration.harmonise(section, um_per_px=4.8)
    assert sections.um_per_px(made) == pytest.approx(4.8, rel=0.01)
    assert (made.X != section.X).nnz == 0
    assert made.obs["domain"].tolist() == section.obs["domain"].tolist()
    np.testing.assert_allclose(
        registration.positions_um(made), registration.positions_um(section), atol=5
    )
    glass = np.asarray(sections.read_image(made))[[0, -1]][:, [0, -1]]
    assert (glass == 255).all()
    with pytest.raises(ValueError, match=r"coarser than the 0\.5 asked for"):
        registration.harmonise(section, um_per_px=0.5)


def test_serial_sections_of_the_synthetic_tissue_overlap():
    first, second = tissue.synthetic_sections(1, 2, size_um=1200, n_genes=60, seed=2)
    assert registration.register(second, first).dice > 0.85


@pytest.mark.real_data
def test_serial_sections_of_her2st_overlap(her2st_dir):
    c2, c3 = her2st.read_her2st(["C2", "C3"])
    found = registration.register(c2, c3)
    assert found.dice > 0.95 and 0.1 < found.rotation < 0.25
    mask = registration.tissue_mask(c2)
    x, y = (registration.positions_um(c2) / 20).astype(int).T
    assert mask[y, x].mean() > 0.95
