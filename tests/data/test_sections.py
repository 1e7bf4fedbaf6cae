"""The section contract: what a good section gives, and what is said about a bad one."""

from __future__ import annotations

import subprocess
import sys
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from heclip_lite.data import sections
from heclip_lite.data.sections import check_section, check_sections, make_section


def saved(image, path, **options):
    Image.fromarray(image).save(path, **options)
    return path


def entry(section):
    return section.uns["spatial"]["T1"]


# --- A good section -------------------------------------------------------------------------


def test_parts_of_a_section(toy_section, toy_parts):
    assert sections.name_of(toy_section) == "T1"
    assert sections.donor_of(toy_section) == "T"
    assert sections.um_per_px(toy_section) == 2.0
    assert sections.spot_diameter_um(toy_section) == 55.0
    assert sections.spot_pitch_um(toy_section) == 68.0  # rows are 34 px apart, columns 36
    assert sections.image_size(toy_section) == (300, 240)
    assert sections.background_of(toy_section) == (244, 240, 243)
    assert toy_section.X.format == "csr"
    assert toy_section.X.dtype == np.float32
    np.testing.assert_array_equal(toy_section.X.toarray(), toy_parts["counts"])
    np.testing.assert_array_equal(sections.read_image(toy_section), toy_parts["image"])
    assert toy_section.obs_names[0] == "T1_0"
    assert toy_section.obs["array_col"].tolist()[:7] == [0, 1, 2, 3, 4, 5, 0]
    assert entry(toy_section)["scalefactors"]["tissue_fullres_scalef"] == 1.0


@pytest.mark.parametrize("kind", [np.asarray, sparse.csc_matrix, sparse.coo_array, pd.DataFrame])
def test_counts_of_any_kind(toy_parts, kind):
    section = make_section(**toy_parts | {"counts": kind(toy_parts["counts"])})
    np.testing.assert_array_equal(section.X.toarray(), toy_parts["counts"])


def test_image_in_a_file(toy_parts, tmp_path):
    path = saved(toy_parts["image"], tmp_path / "slide.png")
    section = make_section(**toy_parts | {"image": None, "image_path": path})
    assert "fullres" not in entry(section)["images"]
    assert entry(section)["metadata"]["source_image_path"] == str(path.resolve())
    np.testing.assert_array_equal(sections.read_image(section), toy_parts["image"])
    assert sections.read_image(section) is sections.read_image(section)  # decoded once


def test_image_is_read_only(toy_section):
    with pytest.raises(ValueError, match=r"read-only"):
        sections.read_image(toy_section)[0, 0] = 0


@pytest.mark.parametrize("in_file", [False, True])
def test_masked_regions_are_painted(toy_parts, tmp_path, in_file):
    change = {"masked_regions": [(200, 0, 400, 50)], "background": (1, 2, 3)}
    if in_file:
        change |= {"image": None, "image_path": saved(toy_parts["image"], tmp_path / "slide.png")}
    before = toy_parts["image"].copy()
    section = make_section(**toy_parts | change)
    image = sections.read_image(section)
    assert (image[:50, 200:] == (1, 2, 3)).all()
    np.testing.assert_array_equal(image[50:], before[50:])
    np.testing.assert_array_equal(image[:, :200], before[:, :200])
    assert (sections.preview(section)[0][:50, 200:] == (1, 2, 3)).all()
    np.testing.assert_array_equal(toy_parts["image"], before)  # the caller's array is left alone


def test_grey_and_transparent_files_become_rgb(toy_parts, tmp_path):
    grey = toy_parts["image"][..., 0]
    section = make_section(
        **toy_parts | {"image": None, "image_path": saved(grey, tmp_path / "grey.png")}
    )
    np.testing.assert_array_equal(sections.read_image(section), np.stack([grey] * 3, axis=-1))


def test_large_image_gets_a_preview_and_no_warning(toy_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow would warn about a "bomb"
    big = np.repeat(np.repeat(toy_parts["image"], 10, axis=0), 10, axis=1)
    path = saved(big, tmp_path / "slide.jpg", quality=95)
    change = {"spatial": toy_parts["spatial"] * 10, "um_per_px": 0.2, "image": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        section = make_section(**toy_parts | change | {"image_path": path})
        image = sections.read_image(section)
    assert Image.MAX_IMAGE_PIXELS == 1000
    small, scale = sections.preview(section)
    assert small.shape == (1600, 2000, 3)
    assert scale == pytest.approx(2000 / 3000)
    assert image.shape == (2400, 3000, 3)
    assert np.abs(image.astype(int) - big).mean() < 5


def test_image_key_follows_the_pixels(toy_parts, tmp_path):
    def key(**change):
        return sections.image_key(make_section(**toy_parts | change))

    path = saved(toy_parts["image"], tmp_path / "slide.png")
    copy = saved(toy_parts["image"], tmp_path / "copy.png")
    other = saved(255 - toy_parts["image"] // 2, tmp_path / "other.png")
    masks = {"masked_regions": [(0, 0, 9, 9)]}
    in_file = {"image": None, "image_path": path}
    assert key() == key(name="another")
    assert key(**in_file) == key(image=None, image_path=copy)
    distinct = [
        key(),
        key(image=toy_parts["image"][::-1]),
        key(**in_file),
        key(image=None, image_path=other),
        key(**masks),
        key(**in_file, **masks),
        key(**in_file, masked_regions=[(0, 0, 9, 10)]),
        key(**in_file, **masks, background=(0, 0, 0)),
    ]
    assert len(set(distinct)) == len(distinct)


def test_section_survives_h5ad(toy_parts, tmp_path):
    path = saved(toy_parts["image"], tmp_path / "slide.png")
    change = {"image": None, "image_path": path, "masked_regions": [(250, 0, 300, 9)]}
    for parts in (toy_parts, toy_parts | change):
        section = make_section(**parts)
        section.write_h5ad(tmp_path / "section.h5ad")
        again = anndata.read_h5ad(tmp_path / "section.h5ad")
        check_section(again)
        assert sections.image_key(again) == sections.image_key(section)
        np.testing.assert_array_equal(sections.read_image(again), sections.read_image(section))


def test_part_of_a_section_is_a_section(toy_section):
    check_section(toy_section[:20])
    check_section(toy_section[:, :5][np.arange(9)])


def test_checks_leave_the_section_alone(toy_section):
    before = toy_section.copy()
    check_section(toy_section)
    np.testing.assert_array_equal(toy_section.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(toy_section.obs, before.obs)


def test_hidden_section_holds_no_expression(toy_parts):
    obs = toy_parts["obs"].assign(domain="tumour", n_counts=3, in_tissue=1)
    section = make_section(**toy_parts | {"obs": obs})
    section.layers["log"] = section.X
    section.obsm["X_pca"] = np.zeros((36, 2))
    section.raw = section
    section.uns["truth"] = 1
    entry(section)["metadata"]["secret"] = section.X
    entry(section)["secret"] = section.X
    hidden = sections.hide_expression(section)
    assert hidden.shape == (36, 0)
    assert list(hidden.obs) == ["section", "donor", "array_row", "array_col"]
    assert list(hidden.obsm) == ["spatial"]
    assert list(hidden.uns) == ["spatial"]
    assert set(entry(hidden)) == {"images", "scalefactors", "metadata"}
    assert "secret" not in entry(hidden)["metadata"]
    assert hidden.raw is None
    assert not hidden.layers
    assert sections.image_key(hidden) == sections.image_key(section)
    np.testing.assert_array_equal(sections.read_image(hidden), sections.read_image(section))
    check_section(hidden, counts=False)
    with pytest.raises(ValueError, match=r"Section 'T1' holds no genes.*hidden"):
        check_section(hidden)
    hidden.obsm["spatial"][:] = 0  # a method that scribbles does not touch the original
    assert section.obsm["spatial"].min() > 0


def test_common_genes_keep_the_first_order(toy_parts):
    names = toy_parts["genes"]
    first = make_section(**toy_parts)
    second = make_section(**toy_parts | {"genes": ["X", *names[:0:-1]], "name": "T2"})
    assert sections.common_genes([first, second]) == names[1:]


def test_import_is_light():
    code = (
        "import sys, heclip_lite.data.sections, heclip_lite.data.patches, heclip_lite.data.genes; "
        "print([m for m in ('torch', 'scanpy', 'squidpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- What make_section says -----------------------------------------------------------------


def told(match, **change):
    return pytest.param(change, match, id=match[:40])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        told("'T1': counts has 36 rows .spots. but spatial has 35", spatial=np.ones((35, 2))),
        told("spot_names has 2. Give one row per spot", spot_names=["a", "b"]),
        told("obs has 3. Give one row per spot", obs=pd.DataFrame({"a": [1, 2, 3]})),
        told("80 columns but genes has 1 names.*transpose", genes=["A"]),
        told("1 gene name.s. occur more than once, first 'B'.*Add up", genes=["A", "B", "B"]),
        told("1 spot name.s. occur more than once, first 's'", spot_names=["s"] * 36),
        told("give either image .an array. or image_path", image=None),
        told("image is float64 .300, 240, 3.*uint8", image=np.zeros((300, 240, 3))),
        told("image is uint8 .240, 300, 4.*alpha", image=np.zeros((240, 300, 4), np.uint8)),
        told("nan micrometres per pixel is outside 0.05 to 50.*wrong scale", um_per_px=np.nan),
        told("0.0 micrometres per pixel is outside.*Set um_per_px", um_per_px=0),
        told("-1.0 micrometres per pixel is outside", um_per_px=-1.0),
        told("400.0 micrometres per pixel is outside", um_per_px=400),
        told("spot diameter of 0.0 micrometres is impossible", spot_diameter_um=0),
        told("34.0 micrometres apart, closer than their diameter of 55.0", um_per_px=1.0),
        told("Section 'a/b': a name has .* no slash", name="a/b"),
        told("image is 15 x 12 micrometres.*does not fit: wrong scale", um_per_px=0.05),
    ],
)
def test_parts_that_do_not_fit(toy_parts, change, match):
    if "genes" in change and len(change["genes"]) == 3:
        toy_parts["counts"] = toy_parts["counts"][:, :3]
    with pytest.raises(ValueError, match=match):
        make_section(**toy_parts | change)


def test_preview_pixels_are_noticed_as_a_wrong_scale(toy_parts):
    with pytest.raises(ValueError, match=r"closer than their diameter.*not of a smaller copy"):
        make_section(**toy_parts | {"spatial": toy_parts["spatial"] / 4})


# --- What check_section says ----------------------------------------------------------------


def spoil(section, what):
    """Break one thing in a good section."""
    data, names = section.X.data, list(section.obs_names)
    counts = section.X
    if what == "nan":
        data[counts.indptr[3]] = np.nan
    elif what == "infinite":
        data[counts.indptr[3]] = np.inf
    elif what == "negative":
        data[counts.indptr[3]] = -1
    elif what == "fraction":
        data[counts.indptr[3]] = 0.5
    elif what == "all zero":
        section.X = sparse.csr_matrix(section.shape, dtype=np.float32)
    elif what == "zero spots":
        keep = np.ones(36)
        keep[[7, 9]] = 0
        section.X = sparse.csr_matrix(sparse.diags(keep) @ counts, dtype=np.float32)
    elif what == "dense":
        section.X = counts.toarray()
    elif what == "integers":
        section.X = counts.astype(int)
    elif what == "twice a spot":
        names[4] = names[2]
        section.obs_names = names
    elif what == "twice a gene":
        section.var_names = ["GENE0", *section.var_names[:-1]]
    elif what == "in_tissue":
        section.obs["in_tissue"] = 0
    elif what == "two sections":
        section.obs["section"] = ["T1"] * 30 + ["T2"] * 6
    elif what == "no donor":
        del section.obs["donor"]
    elif what == "no spatial":
        del section.obsm["spatial"]
    elif what == "three columns":
        section.obsm["spatial"] = np.ones((36, 3))
    elif what == "lost spot":
        section.obsm["spatial"][5, 0] = np.nan
    elif what == "no uns":
        del section.uns["spatial"]
    elif what == "other name":
        section.obs["section"] = "T9"
    elif what == "no scale":
        del entry(section)["scalefactors"]["microns_per_pixel"]
    elif what == "no image":
        del entry(section)["images"]["fullres"]
    elif what == "float preview":
        entry(section)["images"]["hires"] = entry(section)["images"]["hires"] / 255
    elif what == "other preview":
        entry(section)["images"]["hires"] = entry(section)["images"]["hires"][:100]
    elif what == "outside":
        section.obsm["spatial"][[4, 8]] += [500, 0]
    elif what == "left of it":
        section.obsm["spatial"][8, 0] = -3
    return section


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("nan", "'T1': 1 counts are negative, fractional or not finite, first nan in spot 'T1_3'"),
        ("infinite", "first inf in spot 'T1_3', gene 'GENE0'.*raw counts"),
        ("negative", "first -1.0 in spot 'T1_3', gene 'GENE0'"),
        ("fraction", "first 0.5 in spot 'T1_3', gene 'GENE0'.*before any normalisation"),
        ("all zero", "'T1': all counts of all 80 genes are zero. Check"),
        ("zero spots", r"2 spots hold no counts at all, first 'T1_7'. Drop them: adata = adata\["),
        ("dense", "X is a ndarray of float32, but must be CSR.*csr_matrix"),
        ("integers", "of int64, but must be CSR sparse float32"),
        ("twice a spot", "'T1': 1 spot name.s. occur more than once, first 'T1_2'.*make_unique"),
        ("twice a gene", "'T1': 1 gene name.s. occur more than once, first 'GENE0'"),
        ("in_tissue", "'T1': no spots in tissue, obs.'in_tissue'. is 0 for all 36 spots"),
        ("two sections", r"obs\['section'\] holds 2 values .T1, T2.*Split"),
        ("no donor", r"obs\['donor'\] is missing. Set it"),
        ("no spatial", r"'T1': obsm\['spatial'\] is missing. Set it to the spot centres"),
        ("three columns", r"has shape \(36, 3\), but must be \(spots, 2\)"),
        ("lost spot", "1 spots have no finite position, first 'T1_5'. Drop"),
        ("no uns", r"uns\['spatial'\]\['T1'\] is missing.*make_section"),
        ("other name", r"'T9': uns\['spatial'\]\['T9'\] is missing"),
        ("no scale", r"\['scalefactors'\]\['microns_per_pixel'\] is missing"),
        ("no image", r"\['metadata'\]\['source_image_path'\] is missing"),
        ("float preview", "image 'hires' is float64 .240, 300, 3., but must be uint8"),
        ("other preview", "the preview is 300 x 100 px, but the image of 300 x 240"),
        ("outside", r"2 of 36 spots lie outside the image of 300 x 240 px, first 'T1_4' at \(684"),
        ("left of it", "1 of 36 spots lie outside.*first 'T1_8' at .-3.0.*Drop these spots"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_broken_sections(toy_section, what, match):
    with pytest.raises(ValueError, match=match):
        check_section(spoil(toy_section, what))


def test_all_zero_genes_are_allowed(toy_parts):
    toy_parts["counts"][:, :5] = 0
    make_section(**toy_parts)


def test_remedy_for_zero_spots_works(toy_section):
    adata = spoil(toy_section, "zero spots")
    adata = adata[np.ravel(adata.X.sum(axis=1)) > 0].copy()  # as the message says
    check_section(adata)
    assert adata.n_obs == 34


def test_something_else_than_a_section():
    with pytest.raises(ValueError, match=r"A section is an AnnData; this is a ndarray"):
        check_section(np.zeros((3, 3)))


def test_empty_section(toy_section):
    with pytest.raises(ValueError, match=r"holds no spots"):
        check_section(toy_section[:0])


# --- Spots and image that do not belong together --------------------------------------------


def test_swapped_axes_outside(toy_parts):
    double = toy_parts["spatial"] * [2, 1] - [20, 0]
    image = np.concatenate([toy_parts["image"]] * 2, axis=1)  # 600 x 240 px
    make_section(**toy_parts | {"image": image, "spatial": double})
    with pytest.raises(ValueError, match=r"With x and y swapped all would fit: .*\[:, ::-1\]"):
        make_section(**toy_parts | {"image": image, "spatial": double[:, ::-1]})


def test_positions_of_a_larger_copy(toy_parts):
    with pytest.raises(ValueError, match=r"Divided by 3.44 or more all would fit.*wrong scale"):
        make_section(**toy_parts | {"spatial": toy_parts["spatial"] * 4})


def corner(toy_parts):
    """The toy tissue in one corner of a large empty slide, 1000 x 800 px."""
    image = np.full((800, 1000, 3), toy_parts["background"], dtype=np.uint8)
    image[500:740, 600:900] = toy_parts["image"]
    return toy_parts | {"image": image, "spatial": toy_parts["spatial"] + [600, 500]}


@pytest.mark.parametrize(
    ("move", "reading"),
    [
        (lambda p: [999, 0] + p * [-1, 1], "x is flipped"),
        (lambda p: [0, 799] + p * [1, -1], "y is flipped"),
        (lambda p: [999, 799] - p, "turned by 180 degrees"),
        (lambda p: p - [260, 246], "plot the spots over the image"),
    ],
)
def test_spots_on_glass(toy_parts, move, reading):
    parts = corner(toy_parts)
    make_section(**parts)
    with pytest.raises(ValueError, match=f"100% of 36 spots lie on empty background.*{reading}"):
        make_section(**parts | {"spatial": move(parts["spatial"])})


def test_swapped_axes_on_glass(toy_parts):
    image = np.full((1000, 1000, 3), toy_parts["background"], dtype=np.uint8)
    image[150:390, 600:900] = toy_parts["image"]
    parts, spatial = toy_parts | {"image": image}, toy_parts["spatial"] + [600, 150]
    make_section(**parts | {"spatial": spatial})
    with pytest.raises(ValueError, match=r"They would lie on tissue if x and y are swapped"):
        make_section(**parts | {"spatial": spatial[:, ::-1]})


def test_spots_on_black(toy_parts):
    parts = corner(toy_parts)
    empty = (parts["image"] == toy_parts["background"]).all(axis=-1)
    parts["image"][empty] = 0
    make_section(**parts)
    with pytest.raises(ValueError, match=r"empty background.*x is flipped"):
        make_section(**parts | {"spatial": [999, 0] + parts["spatial"] * [-1, 1]})


def test_preview_pixels_on_glass(toy_parts):
    """Positions in pixels of the preview, with spots small enough to keep their distance."""
    image = np.full((3200, 4000, 3), toy_parts["background"], dtype=np.uint8)
    tissue = np.repeat(np.repeat(toy_parts["image"], 4, axis=0), 4, axis=1)
    image[1600:2560, 2000:3200] = tissue
    spatial = toy_parts["spatial"] * 4 + [2000, 1600]
    parts = toy_parts | {"image": image, "um_per_px": 0.5, "spot_diameter_um": 20.0}
    make_section(**parts | {"spatial": spatial})
    with pytest.raises(ValueError, match=r"on tissue if positions count preview pixels"):
        make_section(**parts | {"spatial": spatial / 2})


def test_a_few_spots_on_glass_are_allowed(toy_parts):
    spatial = toy_parts["spatial"].copy()
    spatial[:10, 0] += 2  # still inside
    spatial[::6, 0] = 285
    make_section(**toy_parts | {"spatial": spatial})


# --- Image files ----------------------------------------------------------------------------


@pytest.fixture
def filed(toy_parts, tmp_path):
    """A section whose image is a file, and that file."""

    def build(suffix=".jpg"):
        noise = np.random.default_rng(1).integers(0, 60, toy_parts["image"].shape, dtype=np.uint8)
        path = saved(toy_parts["image"] - noise, tmp_path / f"s{suffix}")
        return make_section(**toy_parts | {"image": None, "image_path": path}), path

    return build


def test_missing_image(filed, toy_parts):
    section, path = filed()
    path.unlink()
    for call in (check_section, sections.read_image):
        with pytest.raises(FileNotFoundError, match=f"{path.name} does not exist. Put it there"):
            call(section)
    with pytest.raises(ValueError, match=r"does not exist"):  # one except clause is enough
        make_section(**toy_parts | {"image": None, "image_path": path})


def test_empty_image(filed):
    section, path = filed()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"s.jpg is empty \(0 bytes\). Fetch or copy it again"):
        check_section(section)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_image(filed, suffix):
    section, path = filed(suffix)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=f"s{suffix} is cut short: its end is missing"):
        check_section(section)


@pytest.mark.parametrize("suffix", [".png", ".tif"])  # JPEG carries nothing to notice it by
def test_damaged_image(filed, suffix):
    section, path = filed(suffix)
    content = path.read_bytes()
    middle = len(content) // 2
    spoiled = content[:middle] + content[-100:]  # the end is there, the middle is not
    path.write_bytes(spoiled)
    with pytest.raises(ValueError, match=f"s{suffix} is (damaged or cut short|not an image)"):
        sections.read_image(section)


def test_not_an_image(filed):
    section, path = filed()
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"s.jpg is not an image that Pillow can read"):
        check_section(section)


def test_sixteen_bits(toy_parts, tmp_path):
    path = saved(toy_parts["image"][..., 0].astype(np.uint16) * 257, tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png stores pixels as 'I;16'.*8 bits per channel"):
        make_section(**toy_parts | {"image": None, "image_path": path})


def test_changed_image_is_read_anew(filed):
    section, path = filed(".png")
    before, key = sections.read_image(section), sections.image_key(section)
    saved(255 - before, path)
    np.testing.assert_array_equal(sections.read_image(section), 255 - before)
    assert sections.image_key(section) != key


# --- Several sections -----------------------------------------------------------------------


def test_lists_of_sections(toy_parts):
    first = make_section(**toy_parts)
    second = make_section(**toy_parts | {"name": "T2"})
    strange = make_section(**toy_parts | {"name": "T3", "genes": [f"ENSG{i}" for i in range(80)]})
    check_sections([first, second])
    with pytest.raises(ValueError, match=r"list of sections is empty"):
        check_sections([])
    with pytest.raises(ValueError, match=r"this is a single one: write \[section\]"):
        check_sections(first)
    with pytest.raises(ValueError, match=r"1 section name.s. occur more than once, first 'T1'"):
        check_sections([first, second, first])
    with pytest.raises(ValueError, match=r"no genes in common .T1: GENE0.*T3: ENSG0.*all symbols"):
        check_sections([first, strange])
    second.X.data[0] = np.nan
    with pytest.raises(ValueError, match=r"Section 'T2': 1 counts are negative"):
        check_sections([first, second])
