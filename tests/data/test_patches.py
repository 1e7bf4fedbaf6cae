"""Patches: exact where they can be, filled at the edges, and cut once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from heclip_lite.data import her2st, patches, sections
from heclip_lite.data.patches import cut_patches
from heclip_lite.data.sections import hide_expression, make_section


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_same_scale_gives_the_pixels_themselves(toy_section):
    image = sections.read_image(toy_section)
    cut = cut_patches(toy_section, width_um=64, size=32)  # 2 um per pixel
    assert cut.shape == (36, 32, 32, 3)
    assert cut.dtype == np.uint8
    for patch, (x, y) in zip(cut, toy_section.obsm["spatial"].astype(int), strict=True):
        np.testing.assert_array_equal(patch, image[y - 16 : y + 16, x - 16 : x + 16])


def test_points_instead_of_spots(toy_section):
    image = sections.read_image(toy_section)
    cut = cut_patches(toy_section, width_um=40, size=20, points=[[50, 60], [200, 100.0]])
    np.testing.assert_array_equal(cut[0], image[50:70, 40:60])
    np.testing.assert_array_equal(cut[1], image[90:110, 190:210])


@pytest.mark.parametrize(("width_um", "size"), [(150.3, 16), (61.7, 32), (33.3, 64)])
def test_resampling_equals_that_of_the_whole_image(toy_section, width_um, size):
    """The window around a patch is wide enough: neighbours outside the patch count as they should.

    The tolerance is one grey level: shifted borders round differently.
    """
    whole = Image.fromarray(sections.read_image(toy_section))
    points = np.array([[120.37, 110.81], [150.5, 100.25]])
    half = width_um / 2 / 2.0
    for point, patch in zip(
        points, cut_patches(toy_section, width_um=width_um, size=size, points=points), strict=True
    ):
        box = (*(point - half), *(point + half))
        expected = whole.resize((size, size), Image.Resampling.BICUBIC, box=box)
        assert np.abs(patch.astype(int) - np.asarray(expected)).max() <= 1


def test_shrinking_does_not_alias(toy_parts):
    """A fine chequerboard shrinks to its mean, not to a coarse one."""
    board = np.indices((240, 300)).sum(axis=0) % 2 * 200 + 20
    image = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
    section = make_section(**toy_parts | {"image": image})
    cut = cut_patches(section, width_um=140, size=10, points=[[150, 120]])
    assert np.abs(cut.astype(int) - 120).max() <= 3


def test_edges_are_filled_with_the_background(toy_parts):
    section = make_section(**toy_parts | {"background": (1, 200, 3)})
    image = sections.read_image(section)
    corners = [[0, 0], [300, 240], [-9, 120], [150, 249.0]]
    cut = cut_patches(section, width_um=40, size=20, points=corners)
    fill = np.array([1, 200, 3])
    np.testing.assert_array_equal(cut[0, 10:, 10:], image[:10, :10])
    assert (cut[0, :10] == fill).all()
    assert (cut[0, :, :10] == fill).all()
    np.testing.assert_array_equal(cut[1, :10, :10], image[-10:, -10:])
    assert (cut[1, 10:] == fill).all()
    np.testing.assert_array_equal(cut[2, :, 19:], image[110:130, :1])
    assert (cut[2, :, :19] == fill).all()
    np.testing.assert_array_equal(cut[3, :1], image[-1:, 140:160])
    assert (cut[3, 1:] == fill).all()


def test_patch_wider_than_the_slide(toy_section):
    cut = cut_patches(toy_section, width_um=2000, size=100, points=[[150, 120]])  # 1000 px
    assert (cut[0, 0, 0] == (244, 240, 243)).all()
    assert np.ptp(cut[0, 45:55, 45:55]) > 10


def test_width_is_in_micrometres(toy_parts):
    """The same tissue scanned at half the resolution gives nearly the same patches."""
    fine = make_section(**toy_parts)
    small = np.asarray(Image.fromarray(toy_parts["image"]).resize((150, 120), Image.Resampling.BOX))
    coarse = make_section(
        **toy_parts | {"image": small, "spatial": toy_parts["spatial"] / 2, "um_per_px": 4.0}
    )
    one, two = (cut_patches(s, width_um=120, size=15).astype(int) for s in (fine, coarse))
    assert np.abs(one - two).mean() < 4
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.99


def test_a_cached_patch_needs_no_image(toy_parts, tmp_path, cache, monkeypatch):
    Image.fromarray(toy_parts["image"]).save(tmp_path / "slide.png")
    section = make_section(**toy_parts | {"image": None, "image_path": tmp_path / "slide.png"})
    first = cut_patches(section, width_um=100, size=16)
    monkeypatch.setattr(sections, "read_image", lambda _: pytest.fail("decoded again"))
    np.testing.assert_array_equal(cut_patches(section, width_um=100, size=16), first)
    np.testing.assert_array_equal(
        cut_patches(hide_expression(section), width_um=100, size=16), first
    )
    assert len(list(cache.rglob("*.npy"))) == 1


def test_a_cached_patch_that_was_damaged_is_cut_again_with_a_word(toy_section, cache):
    first = cut_patches(toy_section, width_um=100, size=16)
    (path,) = cache.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-999] + bytes([whole[-999] ^ 1]) + whole[-998:])
    with pytest.warns(UserWarning, match=r"is damaged \(its SHA-256 is another\); computing it"):
        again = cut_patches(toy_section, width_um=100, size=16)
    np.testing.assert_array_equal(again, first)
    assert path.read_bytes() == whole


def test_cache_follows_the_content(toy_parts, cache):
    def cut(width_um=100, size=16, points=None, **change):
        section = make_section(**toy_parts | change)
        cut_patches(section, width_um=width_um, size=size, points=points)
        return len(list(cache.rglob("*.npy")))

    assert cut() == 1
    assert cut(name="other", donor="other") == 1
    assert cut(width_um=101) == 2
    assert cut(size=17) == 3
    assert cut(points=[[100, 100]]) == 4
    assert cut(image=toy_parts["image"][:, ::-1]) == 5
    assert cut(background=(0, 0, 0)) == 6
    assert cut(masked_regions=[(0, 0, 30, 30)]) == 7
    assert cut(spatial=toy_parts["spatial"] + 0.25) == 8
    assert cut() == 8


def test_patches_may_be_changed_by_their_owner(toy_section):
    first = cut_patches(toy_section, width_um=100, size=16)
    first[:] = 0
    assert cut_patches(toy_section, width_um=100, size=16).any()


def test_no_points(toy_section):
    empty = cut_patches(toy_section, width_um=100, size=16, points=np.empty((0, 2)))
    assert empty.shape == (0, 16, 16, 3)


@pytest.mark.parametrize(
    ("point", "place"),
    [([320.1, 100], "320.1, 100.0"), ([100, -20], "100.0, -20.0"), ([np.nan, 5], "nan, 5.0")],
)
def test_patch_wholly_outside(toy_section, cache, point, place):
    message = (
        rf"'T1': 1 patches lie wholly outside the image of 300 x 240 px, first point 1 at \({place}"
    )
    with pytest.raises(ValueError, match=message):
        cut_patches(toy_section, width_um=40, size=20, points=[[100, 100], point])
    toy_section.obsm["spatial"][3] = point
    with pytest.raises(ValueError, match=r"first spot 'T1_3' at .*Drop these points"):
        cut_patches(toy_section, width_um=40, size=20)
    assert not list(cache.rglob("*.npy"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width_um": 0}, "'T1': width_um is 0; a patch is wider than 0 micrometres"),
        ({"width_um": np.nan}, "width_um is nan"),
        ({"size": 0}, "'T1': size is 0; a patch has a whole number of pixels from 1"),
        ({"size": 7.5}, "size is 7.5"),
        ({"points": [1, 2]}, r"'T1': points have shape \(2,\), but must be \(points, 2\)"),
    ],
)
def test_wrong_questions(toy_section, change, match):
    with pytest.raises(ValueError, match=match):
        cut_patches(toy_section, **{"width_um": 100, "size": 16} | change)


def test_missing_image_file(toy_parts, tmp_path):
    Image.fromarray(toy_parts["image"]).save(tmp_path / "slide.png")
    section = make_section(**toy_parts | {"image": None, "image_path": tmp_path / "slide.png"})
    (tmp_path / "slide.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"slide.png does not exist"):
        cut_patches(section, width_um=100, size=16)


def test_long_work_shows_progress(toy_section, capsys):
    many = np.random.default_rng(0).uniform(60, 180, (501, 2))
    cut_patches(toy_section, width_um=20, size=4, points=many[:500])
    assert "patches" not in capsys.readouterr().err
    cut_patches(toy_section, width_um=20, size=4, points=many)
    assert "T1: patches: 100%" in capsys.readouterr().err


@pytest.mark.real_data
def test_patches_of_a_real_slide(her2st_dir):
    (section,) = her2st.read_her2st(["C6"])
    cut = cut_patches(section, width_um=224 * 0.69, size=224)
    x, y = section.obsm["spatial"][7]
    image = sections.read_image(section)
    x0, y0 = round(x) - 112, round(y) - 112
    near = image[y0 : y0 + 224, x0 : x0 + 224].astype(int)
    assert cut.shape == (178, 224, 224, 3)
    assert np.corrcoef(near.ravel(), cut[7].ravel())[0, 1] > 0.9
    assert patches._FILTER is Image.Resampling.BICUBIC
