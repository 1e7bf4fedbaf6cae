"""The contract of sections on random parts: valid ones hold, and one fault is always named."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse

from heclip_lite.data import sections
from heclip_lite.data.sections import check_section, make_section

EXAMPLES = int(os.environ.get("HECLIP_LITE_EXAMPLES", "30"))
QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="HECLIP_LITE_EXAMPLES" not in os.environ,  # the same examples in every run
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
QUICKER = settings(QUICK, max_examples=5 * EXAMPLES)  # nothing is written
NAMES = st.text("ABYZabz09 .-_'éß", min_size=1, max_size=8)
COUNTS = (np.asarray, np.float64, pd.DataFrame, sparse.csr_matrix, sparse.csc_matrix,
          sparse.coo_array)  # fmt: skip
IMAGES = ("array", "RGB.png", "L.png", "P.png", "RGBA.png", "RGB.tif", "RGB.jpg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@st.composite
def parts(draw) -> dict:
    """Arguments of `make_section` that fit together; all of the image is tissue."""
    across, down, genes = (draw(st.integers(low, 6)) for low in (2, 1, 1))
    pitch, um = draw(st.integers(4, 20)), draw(st.floats(0.05, 50))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    column, row = (grid.ravel() for grid in np.meshgrid(np.arange(across), np.arange(down)))
    counts = rng.poisson(draw(st.sampled_from([0.1, 3, 1e5])), (len(row), genes))
    counts[:, 0] += 1  # no spot is empty
    height, width = pitch * (down + 1), pitch * (across + 1)
    given = {
        "counts": counts,
        "genes": draw(st.lists(NAMES, min_size=genes, max_size=genes, unique=True)),
        "spatial": pitch * np.column_stack([column + 0.5, row + 0.5]) + rng.uniform(0, pitch / 2),
        "name": draw(NAMES),
        "donor": draw(NAMES),
        "um_per_px": um,
        "spot_diameter_um": pitch * um * draw(st.floats(0.1, 1)),
        "image": rng.integers(40, 170, (height, width, 3), dtype=np.uint8),
    }
    if draw(st.booleans()):
        given["spot_names"] = [f"spot {number}" for number in rng.permutation(len(row))]
    if draw(st.booleans()):
        inside = np.arange(len(row)) <= draw(st.integers(0, len(row)))
        given["obs"] = pd.DataFrame({"array_row": row, "array_col": column, "in_tissue": inside})
    return given


@QUICK
@given(given=parts(), counts=st.sampled_from(COUNTS), image=st.sampled_from(IMAGES))
def test_parts_that_fit_make_a_section_that_holds(folder, given, counts, image):
    pixels = given["image"]
    if image != "array":
        mode, _, suffix = image.partition(".")
        given |= {"image": None, "image_path": folder / f"slide.{suffix}"}
        Image.fromarray(pixels).convert(mode).save(given["image_path"])
    made = make_section(**given | {"counts": counts(given["counts"])})
    check_section(made)
    np.testing.assert_array_equal(made.X.toarray(), given["counts"])
    np.testing.assert_array_equal(made.obsm["spatial"], given["spatial"])
    assert list(made.var_names) == given["genes"]
    assert list(made.obs_names) == given.get("spot_names", list(made.obs_names))
    assert (sections.name_of(made), sections.donor_of(made)) == (given["name"], given["donor"])
    assert sections.um_per_px(made) == given["um_per_px"]
    assert sections.spot_diameter_um(made) == pytest.approx(given["spot_diameter_um"])
    assert sections.image_size(made) == (pixels.shape[1], pixels.shape[0])
    if image in ("array", "RGB.png", "RGBA.png", "RGB.tif"):
        np.testing.assert_array_equal(sections.read_image(made), pixels)
    check_section(sections.hide_expression(made), counts=False)
    check_section(made[: made.n_obs // 2])


# --- One fault ------------------------------------------------------------------------------


def at(part: str, value):
    """Another value in one place of a table."""

    def change(given: dict, number: int) -> dict:
        table = given[part].astype(object if isinstance(value, str) else np.float64)
        table.flat[number % table.size] = value
        return {part: table}

    return change


def to(part: str, value):
    """Another value of a part, or what a function makes of it."""
    return lambda given, number: {part: value(given[part]) if callable(value) else value}


def again(values: list, number: int) -> list:
    """The first name once more, in another place."""
    values = [*values, "further"] if len(values) == 1 else list(values)
    values[1 + number % (len(values) - 1)] = values[0]
    return values


def empty_spot(given: dict, number: int) -> dict:
    counts = given["counts"].copy()
    counts[number % len(counts)] = 0
    return {"counts": counts}


# What is changed among the parts of a section: a function of the parts and of a random number.
OF_PARTS = {
    **{f"a count of {value}": at("counts", value) for value in (-1, 0.5, np.nan, np.inf, "many")},
    "no counts but zeros": to("counts", np.zeros_like),
    "a spot without counts": empty_spot,
    "counts of one dimension": to("counts", np.ravel),
    "counts on their side": to("counts", lambda v: np.pad(v, ((0, 0), (0, 1))).T),
    "a gene too many": to("genes", lambda v: [*v, "one more"]),
    "a gene twice": lambda p, n: {
        "genes": again(p["genes"], n),
        "counts": np.tile(p["counts"], (1, 2)) if len(p["genes"]) == 1 else p["counts"],
    },
    "a spot twice": lambda p, n: {"spot_names": again(list(map(str, range(len(p["counts"])))), n)},
    "a spot too few": to("spatial", lambda v: v[1:]),
    "places in three dimensions": to("spatial", lambda v: np.pad(v, ((0, 0), (0, 1)))),
    **{f"a place at {value}": at("spatial", value) for value in (-1, 1e4, np.nan, -np.inf, "left")},
    **{f"a scale of {v}": to("um_per_px", v) for v in (0, -1, 0.01, 60, np.nan, np.inf)},
    **{f"a spot of {v}": to("spot_diameter_um", v) for v in (0, -5, 1e6, np.nan, np.inf)},
    "rows of obs too few": to("obs", lambda v: pd.DataFrame({"a": [1]}).head(0)),
    "no spot in tissue": lambda p, n: {"obs": pd.DataFrame({"in_tissue": [0] * len(p["counts"])})},
    "no image": to("image", None),
    "an image and its path": to("image_path", "slide.png"),
    "a grey image": to("image", lambda v: v[..., 0]),
    "a transparent image": to("image", lambda v: np.dstack([v, v[..., :1]])),
    "a 16-bit image": to("image", lambda v: v.astype(np.uint16) * 257),
    "an image of decimals": to("image", lambda v: v / 255),
    "an image of empty glass": to("image", lambda v: np.full_like(v, 245)),
    "a slash in the name": to("name", lambda v: f"{v}/{v}"),
    "no name": to("name", ""),
}


def drop(*keys: str):
    """Without an entry of the section, or of its part of ``uns["spatial"]``."""

    def change(made) -> None:
        found = getattr(made, keys[0])
        for key in keys[1:-1]:
            found = found[sections.name_of(made) if key == "NAME" else key]
        del found[sections.name_of(made) if keys[-1] == "NAME" else keys[-1]]

    return change


def preview(made) -> None:
    pictures = made.uns["spatial"][sections.name_of(made)]["images"]
    pictures["hires"] = np.repeat(pictures["hires"], 2, axis=0)


# What is changed in a section.
OF_SECTION = {
    "no donor": drop("obs", "donor"),
    "two donors": lambda a: a.obs.__setitem__("donor", [f"D{i}" for i in range(a.n_obs)]),
    "an unknown donor": lambda a: a.obs.__setitem__("donor", None),
    "no places": drop("obsm", "spatial"),
    "no image and no scale": drop("uns", "spatial"),
    "parts of another section": drop("uns", "spatial", "NAME"),
    "no preview": drop("uns", "spatial", "NAME", "images", "hires"),
    "a preview of another size": preview,
    "no scale": drop("uns", "spatial", "NAME", "scalefactors", "microns_per_pixel"),
    "no size of a spot": drop("uns", "spatial", "NAME", "scalefactors", "spot_diameter_fullres"),
    "neither image nor file": drop("uns", "spatial", "NAME", "images", "fullres"),
    "no counts at all": lambda a: setattr(a, "X", None),
    "dense counts": lambda a: setattr(a, "X", a.X.toarray()),
    "counts of 64 bits": lambda a: setattr(a, "X", a.X.astype(np.float64)),
}


@QUICKER
@given(given=parts(), fault=st.sampled_from(sorted(OF_PARTS)), number=st.integers(0, 999))
def test_one_fault_among_the_parts_is_named(given, fault, number):
    given |= OF_PARTS[fault](given | {"obs": None}, number)
    with pytest.raises(ValueError) as caught:
        make_section(**given)
    assert str(caught.value).startswith(f"Section {given['name']!r}"), (fault, caught.value)


@QUICKER
@given(given=parts(), fault=st.sampled_from(sorted(OF_SECTION)))
def test_one_fault_in_a_section_is_named(given, fault):
    made = make_section(**given)
    OF_SECTION[fault](made)
    with pytest.raises(ValueError) as caught:
        check_section(made)
    assert str(caught.value).startswith(f"Section {given['name']!r}"), (fault, caught.value)
