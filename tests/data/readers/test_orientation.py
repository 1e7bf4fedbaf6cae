"""Flips and turns of the spots are found and named."""

from __future__ import annotations

import layouts
import numpy as np
import pytest

from heclip_lite.data import her2st, sections
from heclip_lite.data.readers import orientation

INVERSE = {
    "turned by 90 degrees clockwise": "turned by 90 degrees counter-clockwise",
    "turned by 90 degrees counter-clockwise": "turned by 90 degrees clockwise",
}


@pytest.fixture
def section():
    """On a square slide, so that every turn stays inside the image."""
    made = layouts.drawn_section()
    parts = {
        "counts": made.X,
        "genes": list(made.var_names),
        "spatial": made.obsm["spatial"],
        "name": "S1",
        "donor": "D1",
        "um_per_px": 4.0,
        "spot_diameter_um": 55.0,
        "image": np.pad(sections.read_image(made), ((0, 120), (0, 0), (0, 0)), constant_values=243),
    }
    return sections.make_section(**parts)


@pytest.mark.parametrize("transform", orientation.TRANSFORMS)
def test_every_wrong_orientation_is_named(section, transform):
    size = sections.image_size(section)
    section.obsm["spatial"] = orientation.moved(section.obsm["spatial"], transform, *size)
    found = orientation.check_orientation(section)
    right = INVERSE.get(transform, transform)
    assert found.best == right
    assert found.best_share == 1.0
    assert found.wrong == found.doubtful == (transform != orientation.AS_GIVEN)
    assert found.shares[orientation.AS_GIVEN] == found.share
    if found.wrong:
        assert right in found.sentence
        assert "Correct the positions" in found.sentence
        back = orientation.moved(section.obsm["spatial"], found.best, *size)
        section.obsm["spatial"] = back
        assert not orientation.check_orientation(section).wrong


def test_the_code_in_the_message_does_what_the_transform_does(section):
    points = section.obsm["spatial"]
    (w, h), (x, y) = (500, 400), points.T
    for name, code in orientation._CODE.items():
        if name == orientation.AS_GIVEN:
            continue
        made = np.stack(eval(code, {"w": w, "h": h, "x": x, "y": y}), axis=1)
        np.testing.assert_allclose(made, orientation.moved(points, name, w, h))


def test_symmetric_tissue_proves_nothing(toy_section):
    points = toy_section.obsm["spatial"]
    points[:, 0] = np.clip(points[:, 0], 90, 200)
    found = orientation.check_orientation(toy_section)
    assert found.best == orientation.AS_GIVEN
    assert not found.wrong and not found.doubtful
    assert "So would nearly as many in" in found.sentence


def test_spots_off_the_tissue_are_said(section):
    section.obsm["spatial"][:70] = (470, 10)
    found = orientation.check_orientation(section)
    assert found.doubtful and not found.wrong
    assert "Leave out spots off the tissue" in found.sentence


def test_points_beyond_the_image_are_on_no_tissue(section):
    found = sections.image_size(section)
    seen = orientation.on_tissue(section, np.array([[60, 60], [-5, 60], [found[0] + 9, 60]]))
    assert seen.tolist() == [True, False, False]


def test_pitch(section):
    orientation.check_pitch(section, 100)
    orientation.check_pitch(section, 105)
    with pytest.raises(ValueError, match=r"100\.0 micrometres apart, but should be 200.*times 2"):
        orientation.check_pitch(section, 200)


@pytest.mark.real_data
def test_real_sections_lie_as_they_should(her2st_dir):
    for section in her2st.read_her2st(["B4", "C2"]):
        found = orientation.check_orientation(section)
        assert found.best == orientation.AS_GIVEN
        assert found.share > 0.99
        width = sections.image_size(section)[0]
        section.obsm["spatial"][:, 0] = width - 1 - section.obsm["spatial"][:, 0]
        found = orientation.check_orientation(section)
        assert found.wrong and found.best == "x flipped"
