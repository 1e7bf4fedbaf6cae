"""Stain normalisation: two laboratories' slides of one tissue end up alike."""

from __future__ import annotations

import numpy as np
import pytest

from heclip_lite import config
from heclip_lite.data import registration, sections
from heclip_lite.features import encoders, stain


def restained(section, factors=(0.6, 1.5)):
    """The same slide with another amount of each stain."""
    from skimage.color import hed2rgb, rgb2hed

    name = sections.name_of(section)
    hed = rgb2hed(sections.read_image(section))
    hed[..., :2] *= factors
    made = section.copy()
    pixels = np.round(255 * np.clip(hed2rgb(hed), 0, 1)).astype(np.uint8)
    shown = made.uns["spatial"][name]["images"]
    shown["fullres"] = shown["hires"] = pixels
    return made


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_slides_of_two_laboratories_become_alike(small_sections, method):
    section = small_sections[0]
    other = restained(section)
    mask = registration.tissue_mask(section, sections.um_per_px(section))
    before, after = [], []
    for one in (section, other):
        pixels = sections.read_image(one)
        before.append(pixels[mask].astype(float))
        after.append(stain.estimate(one, method).apply(pixels)[mask].astype(float))
    apart = [np.linalg.norm(a.mean(0) - b.mean(0)) for a, b in (before, after)]
    assert apart[1] < 0.5 * apart[0] and apart[0] > 10
    assert after[0].std() > 10  # something is left to see


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_rows_are_converted_alike(small_sections, monkeypatch, method):
    section = small_sections[0]
    pixels = sections.read_image(section)
    found = stain.estimate(section, method)
    whole = found.apply(pixels)
    monkeypatch.setattr(stain, "_ROWS", 5000)
    np.testing.assert_array_equal(found.apply(pixels), whole)
    assert whole.shape == pixels.shape and whole.dtype == np.uint8


def test_macenko_finds_the_vectors_it_was_drawn_with():
    rng = np.random.default_rng(0)
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    amounts = rng.gamma(2, 0.5, (20_000, 2)) * rng.integers(0, 2, (20_000, 2))
    pixels = np.clip(240 * np.exp(-(amounts @ vectors)), 0, 255)
    found = stain._macenko(pixels, "drawn")
    angles = np.rad2deg(np.arccos(np.clip((found.vectors * vectors).sum(1), -1, 1)))
    assert (angles < 5).all()


def test_faulty_requests_are_named(small_sections):
    with pytest.raises(ValueError, match="method is 'vahadane'; use 'reinhard' or 'macenko'"):
        stain.estimate(small_sections[0], "vahadane")
    with pytest.raises(ValueError, match="too few to tell haematoxylin from eosin"):
        stain._macenko(np.full((50, 3), 235.0), "pale")
    with pytest.raises(ValueError, match="stain is 'vahadane'"):
        config.MapInput(stain="vahadane")


@pytest.mark.filterwarnings("ignore:invalid value")
def test_feature_maps_see_the_normalised_slide(small_sections):
    encoder = config.Encoder("resnet10t")
    maps = {
        method: config.MapInput(encoder, um_per_px=(4.8,), widths_um=(100.0,), stain=method)
        for method in ("none", "reinhard")
    }
    section, other = small_sections[0], restained(small_sections[0])
    found = {
        method: [np.hstack(encoders.pooled_features(s, m)) for s in (section, other)]
        for method, m in maps.items()
    }
    likeness = {
        method: np.nanmean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])
        for method, (a, b) in found.items()
    }
    assert likeness["reinhard"] > likeness["none"]
