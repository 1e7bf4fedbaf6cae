"""Random tables come back, and random damage gives a section or a sentence, nothing else."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse

from heclip_lite.data import readers, sections
from heclip_lite.data.readers import assemble as readers_parts
from heclip_lite.data.readers import files as readers_files
from heclip_lite.data.readers import gene_ids

QUICK = settings(
    max_examples=int(os.environ.get("HECLIP_LITE_EXAMPLES", "40")),
    deadline=None,
    derandomize="HECLIP_LITE_EXAMPLES" not in os.environ,  # the same examples in every run
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Letters, digits and signs that gene names have; no spaces, no delimiters, no quotes.
NAMES = st.text("ABCXYZabc0189.-_éß", min_size=1, max_size=12)
OURS = (readers_files.InputError, readers_files.MissingFile, PermissionError)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def good(folder) -> dict[str, bytes]:
    """The files of a table layout."""
    written = layouts.tables(layouts.drawn_section(), folder / "good")
    return {path.name: path.read_bytes() for path in written.path.iterdir()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def read_or_explain(path, **options):
    """A section that fulfils the contract, or one of our errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            section = readers.read_section(path, **options)
        except OURS as error:
            assert len(str(error)) > 30
        except ValueError as error:
            assert readers_files.raised_here(error)  # the contract's own words
            assert len(str(error)) > 30
        else:
            sections.check_section(section)
            return section
    return None


@st.composite
def tables(draw):
    """Counts of spots on a square lattice, with any names, in any order."""
    across, down = draw(st.integers(2, 6)), draw(st.integers(2, 5))
    genes = draw(st.lists(NAMES.map("G".__add__), min_size=1, max_size=6, unique=True))
    spots = draw(st.lists(NAMES, min_size=across * down, max_size=across * down, unique=True))
    values = draw(
        st.lists(
            st.lists(st.integers(0, 10**6), min_size=len(genes), max_size=len(genes)),
            min_size=len(spots),
            max_size=len(spots),
        )
    )
    column, row = (g.ravel() for g in np.meshgrid(np.arange(across), np.arange(down)))
    counts = np.array(values, dtype=np.int64)
    counts[:, 0] += 1  # no spot is empty
    places = pd.DataFrame({"x": 40 + 25 * column, "y": 40 + 25 * row, "selected": 1}, index=spots)
    order = draw(st.permutations(range(len(spots))))
    return pd.DataFrame(counts, spots, genes), places.iloc[order]


@QUICK
@given(
    tables=tables(),
    sep=st.sampled_from([",", "\t", ";", "|"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_random_tables_come_back(folder, tables, sep, newline, encoding):
    counts, places = tables
    files = {
        f"{name}.csv": table.to_csv(sep=sep, lineterminator=newline, index_label="spot").encode(
            encoding
        )
        for name, table in {"counts": counts, "positions": places}.items()
    }
    root = write(folder / "random", files)
    Image.new("RGB", (220, 200), (222, 160, 200)).save(root / "image.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = readers.read_section(
            root, donor="D", um_per_px=4.0, spot_diameter_um=55, orientation="ignore"
        )
    assert list(found.obs_names) == list(counts.index)
    assert list(found.var_names) == list(counts.columns)
    np.testing.assert_array_equal(found.X.toarray(), counts.to_numpy(dtype=np.float32))
    expected = places.loc[counts.index, ["x", "y"]].to_numpy(dtype=float)
    np.testing.assert_array_equal(found.obsm["spatial"], expected)


@QUICK
@given(data=st.data())
def test_damaged_tables_are_read_or_explained(folder, good, data):
    name = data.draw(st.sampled_from(["counts.csv", "positions.csv", "image.png"]))
    damaged = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        how = data.draw(st.sampled_from(["flip", "cut", "drop", "add", "end"]))
        if how == "flip" and damaged:
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del damaged[at : at + data.draw(st.integers(1, 200))]
        elif how == "drop":
            del damaged[at : at + 1]
        elif how == "add":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            del damaged[at:]
    root = write(folder / "damaged", {**good, name: bytes(damaged)})
    read_or_explain(root, donor="D1", um_per_px=4.0, spot_diameter_um=55.0)


@QUICK
@given(text=st.text(max_size=300), name=st.sampled_from(["counts.csv", "positions.csv"]))
def test_any_text_is_read_or_explained(folder, good, text, name):
    files = {**good, name: text.encode("utf-8", "surrogatepass")}
    root = write(folder / "text", files)
    read_or_explain(root, donor="D1", um_per_px=4.0, spot_diameter_um=55.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["tissue_hires_scalef", "spot_diameter_fullres", "microns_per_pixel", "a"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@QUICK
@given(value=JSON)
def test_any_scale_factors_are_read_or_explained(folder, value):
    root = folder / "visium"
    if not root.exists():
        layouts.visium(layouts.drawn_section(), root)
    path = root / "S1/spatial/scalefactors_json.json"
    path.write_text(json.dumps(value))
    found = read_or_explain(root / "S1", donor="D1", image="hires")
    if found is not None:  # whatever the file says, spots stay 100 micrometres apart
        assert sections.spot_pitch_um(found) == pytest.approx(100, rel=0.1)


@QUICK
@given(
    value=st.one_of(
        st.floats(), st.integers(), st.booleans(), st.text(max_size=4), st.lists(st.integers())
    ),
    option=st.sampled_from(["um_per_px", "spot_pitch_um", "spot_diameter_um", "name", "donor"]),
)
def test_any_option_is_taken_or_explained(folder, good, value, option):
    root = write(folder / "options", good)
    options = {"donor": "D1", "um_per_px": 4.0, "spot_diameter_um": 55.0, option: value}
    read_or_explain(root, **options)


@QUICK
@given(
    points=st.lists(st.tuples(st.integers(-99, 999), st.integers(-99, 999)), min_size=1, max_size=9)
)
def test_positions_come_back_from_any_of_their_forms(folder, points):
    table = pd.DataFrame(points, columns=["pxl_row_in_fullres", "pxl_col_in_fullres"])
    table.insert(0, "barcode", [f"B{i}-1" for i in range(len(table))])
    table.insert(1, "in_tissue", 1)
    table.insert(2, "array_row", range(len(table)))
    table.insert(3, "array_col", range(len(table)))
    table.to_csv(folder / "head.csv", index=False)
    table.to_csv(folder / "list.csv", index=False, header=False)
    table.to_parquet(folder / "table.parquet")
    names = ["head.csv", "table.parquet"] + (["list.csv"] if len(table) > 1 else [])
    for name in names:
        found = readers_parts.read_positions(folder / name)
        np.testing.assert_array_equal(found[["y", "x"]], points)
        assert list(found.index) == list(table["barcode"])


@QUICK
@given(st.lists(st.sampled_from(["A", "B", "C", "A.1"]), min_size=1, max_size=8), st.data())
def test_adding_up_keeps_every_count(names, data):
    rows = st.lists(st.integers(0, 99), min_size=len(names), max_size=len(names))
    counts = np.array(data.draw(st.lists(rows, min_size=1, max_size=5)))
    made, unique = gene_ids.add_up(sparse.csr_matrix(counts), pd.Index(names))
    assert made.shape == (len(counts), len(set(names)))
    for at, name in enumerate(unique):
        expected = counts[:, [n == name for n in names]].sum(axis=1)
        np.testing.assert_array_equal(made[:, [at]].toarray().ravel(), expected)


def keys_of(path: Path) -> list[str]:
    import h5py

    found: list[str] = []
    with h5py.File(path) as file:
        file.visit(found.append)
    return found


@pytest.mark.parametrize("kind", ["h5ad", "own-h5ad"])
@pytest.mark.parametrize("how", ["missing", "a word", "a number"])
def test_an_h5ad_that_lacks_any_of_its_parts(folder, kind, how):
    import h5py

    root = folder / kind
    if not root.exists():
        {**layouts.WRITERS, **layouts.VARIANTS}[kind](layouts.drawn_section(), root)
    options = {"image": root / "image" / "S1.tif", "donor": "D1"} if kind == "h5ad" else {}
    whole = (root / "S1.h5ad").read_bytes()
    for key in keys_of(root / "S1.h5ad"):
        (root / "damaged.h5ad").write_bytes(whole)
        with h5py.File(root / "damaged.h5ad", "r+") as file:
            del file[key]
            if how != "missing":
                file[key] = "word" if how == "a word" else 3.0
        read_or_explain(root / "damaged.h5ad", **options)


@pytest.mark.slow
def test_a_store_that_lacks_any_of_its_files(folder):
    """Zarr reads a missing chunk as zeros: a section that comes back must be the one written."""
    section = layouts.drawn_section()
    written = layouts.own_spatialdata(section, folder / "zarr")
    files = sorted(path for path in written.path.rglob("*") if path.is_file())
    assert len(files) > 30
    for path in files:
        data = path.read_bytes()
        for damage in (None, data[: len(data) // 2]):
            path.unlink() if damage is None else path.write_bytes(damage)
            found = read_or_explain(written.path)
            if found is not None:
                np.testing.assert_array_equal(found.X.toarray(), section.X.toarray())
                np.testing.assert_array_equal(found.obsm["spatial"], section.obsm["spatial"])
                np.testing.assert_array_equal(
                    sections.read_image(found), sections.read_image(section)
                )
                assert sections.um_per_px(found) == pytest.approx(4.0)
            path.write_bytes(data)
