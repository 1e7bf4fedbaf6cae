"""Whole slides read region by region, against the same slide in memory."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from heclip_lite.data import patches, registration, slide_files
from heclip_lite.data.pyramid import Pyramid
from heclip_lite.data.sections import make_section

UM = 0.5


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """A slide of 1,000 x 720 px: pale glass, tissue with a grain."""
    rng = np.random.default_rng(0)
    pixels = np.full((720, 1000, 3), (240, 238, 242), dtype=np.uint8)
    grain = np.asarray(
        Image.fromarray(rng.integers(60, 220, (60, 80, 3), dtype=np.uint8)).resize((800, 520))
    )
    pixels[100:620, 90:890] = grain
    return pixels


def write(path, pixels, *, levels=1, tile=(128, 128), um=UM, **options):
    tags = {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": "CENTIMETER"} if um else {}
    options = {"photometric": "rgb", "tile": tile, "metadata": None, **tags, **options}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=levels - 1 if levels > 1 else None, **options)
        options.pop("description", None)
        for level in range(1, levels):
            small = Image.fromarray(pixels).reduce(2**level)
            file.write(np.asarray(small), subfiletype=1, **options)
    return path


@pytest.fixture(scope="module")
def flat(drawn, tmp_path_factory):
    return write(tmp_path_factory.mktemp("slides") / "flat.tif", drawn, compression="deflate")


@pytest.fixture(scope="module")
def levels(drawn, tmp_path_factory):
    return write(tmp_path_factory.mktemp("slides") / "levels.tif", drawn, levels=3)


def test_levels_and_scales_are_those_of_the_file(levels, flat):
    slide = Pyramid(levels)
    assert slide.sizes == [(1000, 720), (500, 360), (250, 180)]
    np.testing.assert_allclose(slide.scales_um, [0.5, 1.0, 2.0])
    assert slide.background == (240, 238, 242)
    assert slide.size_at(2.0) == (250, 180)
    assert Pyramid(flat).sizes == [(1000, 720)]


@pytest.mark.parametrize("um", [0.5, 0.7, 1.0, 1.9, 3.3, 7.1])
def test_regions_are_those_of_the_whole_slide_resampled_at_once(flat, drawn, um):
    slide = Pyramid(flat)
    size = slide.size_at(um)
    whole = Image.fromarray(drawn).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    whole = np.asarray(whole).astype(int)
    for x0, y0, width, height in ((0, 0, *size), (13, 7, 40, 30), (size[0] - 21, 5, 21, 33)):
        found = slide.read(x0, y0, width, height, um)
        wanted = whole[y0 : y0 + height, x0 : x0 + width]
        # Weights are rounded to whole numbers inside Pillow: one grey level at the most.
        assert np.abs(found - wanted).max() <= 1


def test_regions_in_pieces_are_the_same(flat, monkeypatch):
    slide = Pyramid(flat)
    whole = slide.read(5, 5, 300, 200, 1.3).astype(int)
    monkeypatch.setattr("heclip_lite.data.pyramid._AT_ONCE", 5000)
    assert np.abs(slide.read(5, 5, 300, 200, 1.3) - whole).max() <= 1


def test_the_smallest_level_that_serves_is_read(levels, monkeypatch):
    slide = Pyramid(levels)
    asked = []
    read = slide._source.read
    monkeypatch.setattr(
        slide._source, "read", lambda level, *box: asked.append(level) or read(level, *box)
    )
    for um, level in ((0.5, 0), (0.9, 0), (1.0, 1), (1.9, 1), (2.0, 2), (9.0, 2)):
        asked.clear()
        slide.read(2, 2, 9, 9, um)
        assert set(asked) == {level}


def test_what_lies_beyond_the_slide_has_the_colour_of_glass(flat, drawn):
    slide = Pyramid(flat)
    found = slide.read(-10, -20, 40, 50)
    assert (found[:20] == slide.background).all() and (found[:, :10] == slide.background).all()
    np.testing.assert_array_equal(found[20:, 10:], drawn[:30, :30])
    assert (slide.read(5000, 0, 4, 4) == slide.background).all()


def section_of(pixels):
    return make_section(
        np.ones((2, 1)), ["A"], np.array([[300.0, 300.0], [600.0, 300.0]]), name="flat",
        donor="d", um_per_px=UM, spot_diameter_um=20.0, image=pixels, background=(240, 238, 242),
    )  # fmt: skip


def test_tissue_is_where_it_is_for_a_section(flat, drawn):
    slide, section = Pyramid(flat), section_of(drawn)
    np.testing.assert_array_equal(slide.tissue_mask(), registration.tissue_mask(section))
    inside = slide.on_tissue(np.array([[400.0, 300.0], [20.0, 20.0]]))
    assert inside.tolist() == [True, False]


def test_patches_are_those_of_a_section(flat, levels, drawn):
    points = np.array([[100.0, 100.0], [431.3, 377.7], [5.0, 700.0]])
    options = {"width_um": 60.0, "size": 24}
    wanted = patches.cut_patches(section_of(drawn), points=points, **options)
    np.testing.assert_array_equal(Pyramid(flat).patches(points, **options), wanted)
    # From the level of 2 um, resampled once before: alike, not equal.
    coarse = Pyramid(levels).patches(points, **options)
    assert np.abs(coarse.astype(int) - wanted).mean() < 6
    with pytest.raises(ValueError, match="a width above 0"):
        Pyramid(flat).patches(points, width_um=0, size=10)


def test_a_section_of_a_slide_is_drawn_like_any_other(flat):
    from heclip_lite.data import sections

    section = Pyramid(flat).section(np.array([[400.0, 300.0], [500.0, 300.0]]), donor="D")
    sections.check_section(section, counts=False)
    assert sections.name_of(section) == "flat" and sections.um_per_px(section) == UM
    assert sections.image_size(section) == Pyramid(flat).size


def test_other_processes_open_the_slide_for_themselves(flat):
    slide = Pyramid(flat)
    again = pickle.loads(pickle.dumps(slide))
    slide.close()
    assert again.read(3, 3, 5, 5).shape == (5, 5, 3) and again.key == slide.key


def test_another_slide_has_another_key(flat, drawn, tmp_path):
    darker = write(tmp_path / "flat.tif", drawn // 2, compression="deflate")
    assert Pyramid(flat).key != Pyramid(darker).key


def test_the_scale_comes_from_ome_aperio_or_tags(drawn, tmp_path):
    ome = tmp_path / "slide.ome.tif"
    tifffile.imwrite(
        ome, drawn, photometric="rgb", tile=(128, 128),
        metadata={"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm",
                  "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"},
    )  # fmt: skip
    assert Pyramid(ome).um_per_px == pytest.approx(0.25)
    aperio = write(
        tmp_path / "a.tif", drawn, um=None, description="Aperio |AppMag = 20|MPP = 0.502"
    )
    assert Pyramid(aperio).um_per_px == pytest.approx(0.502)
    inches = write(
        tmp_path / "i.tif", drawn, um=None, resolution=(50_800, 50_800), resolutionunit="INCH"
    )
    assert Pyramid(inches).um_per_px == pytest.approx(0.5)


def test_grey_planar_and_transparent_slides_are_read(drawn, tmp_path):
    grey = write(tmp_path / "g.tif", drawn[..., 0], photometric="minisblack")
    np.testing.assert_array_equal(
        Pyramid(grey).read(90, 90, 20, 20)[..., 2], drawn[90:110, 90:110, 0]
    )
    planar = tmp_path / "p.tif"
    tifffile.imwrite(planar, drawn.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    slide = Pyramid(planar, um_per_px=UM)
    np.testing.assert_array_equal(slide.read(90, 95, 20, 10), drawn[95:105, 90:110])
    clear = np.dstack([drawn, np.full(drawn.shape[:2], 255, np.uint8)])
    alpha = write(tmp_path / "c.tif", clear, extrasamples=["unassalpha"])
    np.testing.assert_array_equal(Pyramid(alpha).read(90, 90, 9, 9), drawn[90:99, 90:99])


def test_a_plain_picture_is_a_slide_of_one_level(drawn, tmp_path):
    Image.fromarray(drawn).save(tmp_path / "plain.png")
    with Pyramid(tmp_path / "plain.png", um_per_px=UM) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 1000, 720), drawn)


def test_a_thumbnail_of_another_shape_is_no_level(drawn, tmp_path):
    path = tmp_path / "label.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(drawn, subifds=2, photometric="rgb", tile=(128, 128), metadata=None)
        file.write(drawn[::2, ::2], subfiletype=1, photometric="rgb", tile=(128, 128))
        file.write(drawn[:100, :100], subfiletype=1, photometric="rgb", tile=(128, 128))
    assert Pyramid(path, um_per_px=UM).sizes == [(1000, 720), (500, 360)]


# -- what goes wrong ----------------------------------------------------------------------------


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
def test_a_slide_cut_short_is_refused(drawn, tmp_path, share, compression):
    path = cut(write(tmp_path / "s.tif", drawn, levels=3, compression=compression), share)
    with pytest.raises(ValueError, match="damaged or cut short"):
        Pyramid(path)


def test_a_damaged_tile_is_named_when_it_is_read(drawn, tmp_path):
    path = write(tmp_path / "s.tif", drawn, compression="deflate", tile=(256, 256))
    with tifffile.TiffFile(path) as file:
        start, length = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    with open(path, "r+b") as handle:
        handle.seek(start)
        handle.write(os.urandom(length))
    with pytest.raises(ValueError, match=r"s\.tif is damaged or cut short"):
        Pyramid(path).read(0, 0, 1000, 720)


def test_no_scale_is_an_error_and_a_printers_is_none(drawn, tmp_path):
    bare = write(tmp_path / "bare.tif", drawn, um=None)
    printer = write(
        tmp_path / "dpi.tif", drawn, um=None, resolution=(72, 72), resolutionunit="INCH"
    )
    for path in (bare, printer):
        with pytest.raises(ValueError, match="Give um_per_px"):
            Pyramid(path)
        assert Pyramid(path, um_per_px=0.4).um_per_px == 0.4


def test_scales_that_disagree_or_cannot_be_are_named(drawn, flat, tmp_path):
    with pytest.warns(UserWarning, match="says 0.5 micrometres"):
        assert Pyramid(flat, um_per_px=0.25).um_per_px == 0.25
    for wrong in (-1.0, 0.0, 500.0, float("nan")):
        with pytest.raises(ValueError, match="wrong scale"):
            Pyramid(flat, um_per_px=wrong)
    oblong = write(
        tmp_path / "o.tif", drawn, um=None, resolution=(20_000, 10_000), resolutionunit="CENTIMETER"
    )
    with pytest.raises(ValueError, match="not square"):
        Pyramid(oblong)
    with pytest.raises(ValueError, match="wider than 0"):
        Pyramid(flat).size_at(0)


def with_ome(path, pixels, xml):
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(128, 128), metadata=None, description=xml.encode()
    )
    return path


OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0">{}</Image></OME>'
)
SIZES = '<Pixels PhysicalSizeX="{}" PhysicalSizeY="{}"/>'


def test_a_wrong_scale_is_no_hindrance_where_the_right_one_is_given(drawn, tmp_path):
    printer = write(
        tmp_path / "dpi.tif", drawn, um=None, resolution=(72, 96), resolutionunit="INCH"
    )
    with pytest.raises(ValueError, match="does not say how large"):
        Pyramid(printer)
    oblong = write(
        tmp_path / "o.tif", drawn, um=None, resolution=(20_000, 10_000), resolutionunit="CENTIMETER"
    )
    cases = {printer: None, oblong: "not square"}
    for number, (inside, what) in enumerate(
        {
            "": "metadata are damaged .*Pixels.*Give um_per_px",
            SIZES.format("much", "much"): "metadata are damaged .*much",
            SIZES.format(0.25, 0.5): "not square",
            SIZES.format(0, 0): "not square",
            "<Pixels": "metadata are damaged",
        }.items()
    ):
        cases[with_ome(tmp_path / f"{number}.ome.tif", drawn, OME.format(inside))] = what
    for path, what in cases.items():
        if what is not None:
            with pytest.raises(ValueError, match=what):
                Pyramid(path)
        slide = Pyramid(path, um_per_px=0.4)
        assert slide.um_per_px == 0.4
        assert pickle.loads(pickle.dumps(slide)).read(3, 3, 5, 5).shape == (5, 5, 3)


def test_openslides_pixels_must_be_square(levels, monkeypatch):
    openslide = pytest.importorskip("openslide")
    said = {openslide.PROPERTY_NAME_MPP_X: "0.25", openslide.PROPERTY_NAME_MPP_Y: "0.5"}
    monkeypatch.setattr(openslide.OpenSlide, "properties", said)
    monkeypatch.setattr(slide_files, "_SCANNERS", {".tif"})
    with pytest.raises(ValueError, match="not square"):
        Pyramid(levels)
    assert Pyramid(levels, um_per_px=UM).um_per_px == UM
    said[openslide.PROPERTY_NAME_MPP_Y] = "0.25"
    with pytest.warns(UserWarning, match="says 0.25 micrometres"):
        assert Pyramid(levels, um_per_px=UM).um_per_px == UM
    assert Pyramid(levels).um_per_px == 0.25


def test_other_pixels_are_refused(drawn, tmp_path):
    deep = write(tmp_path / "deep.tif", drawn.astype(np.uint16) * 256)
    two = write(
        tmp_path / "two.tif", drawn[..., :2], photometric="minisblack", planarconfig="contig"
    )
    for path in (deep, two):
        with pytest.raises(ValueError, match="8 bits per channel"):
            Pyramid(path)


def test_files_that_are_no_slides_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no slide"):
        Pyramid(tmp_path / "none.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(ValueError, match="0 bytes"):
        Pyramid(tmp_path / "empty.tif")
    (tmp_path / "header.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8))
    with pytest.raises(ValueError, match="damaged or cut short"):
        Pyramid(tmp_path / "header.tif")


def test_what_openslide_cannot_read_is_named(tmp_path):
    pytest.importorskip("openslide")
    (tmp_path / "text.svs").write_text("this is no slide")
    with pytest.raises(ValueError, match="no slide that tifffile or OpenSlide reads"):
        Pyramid(tmp_path / "text.svs")


def test_without_openslide_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "text.ndpi").write_text("this is no slide")
    with pytest.raises(ImportError, match=r"heclip-lite\[scale\]"):
        Pyramid(tmp_path / "text.ndpi")


def test_openslide_reads_the_same_pixels(levels, drawn, monkeypatch):
    pytest.importorskip("openslide")
    monkeypatch.setattr(slide_files, "_Tiff", slide_files._Scanner)
    monkeypatch.setattr(slide_files, "_SCANNERS", {".tif"})
    slide = Pyramid(levels, um_per_px=UM)
    assert isinstance(slide._source, slide_files._Scanner)
    np.testing.assert_array_equal(slide.read(70, 80, 90, 100), drawn[80:180, 70:160])


def test_a_huge_slide_without_tiles_or_levels_works_with_a_word(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("heclip_lite.data.pyramid._HUGE", 500_000)
    strips = tmp_path / "strips.tif"
    tifffile.imwrite(strips, drawn, photometric="rgb", rowsperstrip=720, metadata=None)
    with pytest.warns(UserWarning, match="has no tiles"):
        assert Pyramid(strips, um_per_px=UM).read(9, 9, 4, 4).shape == (4, 4, 3)
    with pytest.warns(UserWarning, match="no smaller copies"):
        Pyramid(write(tmp_path / "one.tif", drawn))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pyramid(write(tmp_path / "three.tif", drawn, levels=3))
