"""Sections written in each layout read back as what they were."""

from __future__ import annotations

import warnings

import layouts
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from heclip_lite.data import her2st, images, readers, sections
from heclip_lite.data.readers import gene_ids
from heclip_lite.data.readers import images as readers_images
from heclip_lite.data.synthetic.tissue import synthetic_sections

EVERY = {**layouts.WRITERS, **layouts.VARIANTS}


@pytest.fixture(scope="session")
def drawn() -> dict:
    """One small section per lattice; not to be changed."""
    return {
        lattice: synthetic_sections(1, 1, size_um=900, n_genes=60, seed=1, lattice=lattice)[0]
        for lattice in ("hex", "square")
    }


@pytest.fixture
def section(drawn):
    return drawn["hex"]


def read(written, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return readers.read_section(written.path, **{**written.options, **changes})


def assert_same(found, section):
    """The same spots (in any order), genes, counts, places, scale and pixels."""
    place = pd.Index([f"{r}x{c}" for r, c in section.obs[["array_row", "array_col"]].to_numpy()])
    given = [f"{r}x{c}" for r, c in found.obs[["array_row", "array_col"]].to_numpy().astype(int)]
    order = place.get_indexer(given)
    assert sorted(order) == list(range(section.n_obs))
    assert sections.name_of(found) == sections.name_of(section)
    assert sections.donor_of(found) == sections.donor_of(section)
    genes = found[:, list(section.var_names)]
    np.testing.assert_array_equal(genes.X.toarray(), section.X.toarray()[order])
    np.testing.assert_allclose(found.obsm["spatial"], section.obsm["spatial"][order], atol=0.01)
    assert sections.um_per_px(found) == pytest.approx(sections.um_per_px(section), rel=1e-3)
    np.testing.assert_array_equal(sections.read_image(found), sections.read_image(section))


@pytest.mark.parametrize("name", EVERY)
def test_every_layout_comes_back(name, drawn, tmp_path):
    section = drawn[layouts.LATTICES.get(name, "hex")]
    written = EVERY[name](section, tmp_path)
    assert readers.detect(written.path) == written.layout
    found = read(written)
    sections.check_section(found)
    assert_same(found, section)
    if name not in ("visium-hd",):
        assert sections.spot_diameter_um(found) == pytest.approx(55.0)


def test_the_layouts_are_all_written():
    assert set(layouts.WRITERS) == set(readers.LAYOUTS)
    assert all(len(what) > 20 for what in readers.LAYOUTS.values())


@pytest.fixture
def plain():
    """A section drawn in an instant."""
    return layouts.drawn_section()


# --- Visium ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "shrink"), [("hires", 0.5), ("lowres", 0.2)])
def test_small_images_bring_their_own_scale(plain, tmp_path, kind, shrink):
    written = layouts.visium(plain, tmp_path, image=kind)
    with pytest.warns(UserWarning, match=r"no full-resolution image.*micrometres per pixel"):
        found = readers.read_section(written.path, **written.options)
    assert sections.um_per_px(found) == pytest.approx(4.0 / shrink, rel=1e-3)
    np.testing.assert_allclose(found.obsm["spatial"], plain.obsm["spatial"] * shrink, atol=0.01)
    assert sections.spot_pitch_um(found) == pytest.approx(100, rel=0.01)
    assert sections.image_size(found) == (round(480 * shrink), round(360 * shrink))


def test_without_an_image_the_hires_one_is_taken(plain, tmp_path):
    written = layouts.visium(plain, tmp_path, image=None)
    assert sections.image_size(read(written)) == (240, 180)


def test_outs_and_prefixes_are_found(plain, tmp_path):
    written = layouts.visium(plain, tmp_path / "run")
    (tmp_path / "sample").mkdir()
    written.path.rename(tmp_path / "sample" / "outs")
    outs = tmp_path / "sample" / "outs"
    counts = "filtered_feature_bc_matrix.h5"
    (outs / counts).rename(outs / f"V1_{counts}")
    for path in (tmp_path / "sample", outs):
        assert readers.detect(path) == "visium"
        assert sections.name_of(readers.read_section(path, **written.options)) == "sample"


def test_the_scale_follows_from_the_pitch_and_not_from_the_spot(plain, tmp_path):
    """Space Ranger's spot diameter means 65 micrometres; 55 would give a scale 15 % too small."""
    found = read(layouts.visium(plain, tmp_path))
    assert sections.um_per_px(found) == pytest.approx(4.0, rel=1e-6)
    assert sections.spot_diameter_um(found) == pytest.approx(55.0)


def test_ids_are_kept_beside_symbols(plain, tmp_path):
    found = read(layouts.visium(plain, tmp_path))
    assert list(found.var["gene_ids"]) == layouts.ensembl(found.var_names)


def test_genes_that_share_a_symbol_are_added_up(plain, tmp_path):
    import h5py

    written = layouts.visium(plain, tmp_path)
    with h5py.File(written.path / "filtered_feature_bc_matrix.h5", "r+") as file:
        names = file["matrix/features/name"][:]
        names[1] = names[0]
        file["matrix/features/name"][:] = names
    found = read(written)
    assert found.n_vars == plain.n_vars - 1
    np.testing.assert_array_equal(
        found[:, "GENE0"].X.toarray().ravel(), plain.X.toarray()[:, :2].sum(axis=1)
    )
    assert found.var["gene_ids"]["GENE0"] == ";".join(layouts.ensembl(["GENE0", "GENE1"]))


def test_spots_without_counts_are_left_out_with_a_word(plain, tmp_path):
    written = layouts.tables(plain, tmp_path)
    table = pd.read_csv(written.path / "counts.csv", index_col=0)
    table.iloc[3] = 0
    table.to_csv(written.path / "counts.csv")
    with pytest.warns(UserWarning, match="1 spots hold no counts"):
        found = readers.read_section(written.path, **written.options)
    assert found.n_obs == plain.n_obs - 1


def test_an_unknown_donor_is_said(plain, tmp_path):
    written = layouts.visium(plain, tmp_path)
    with pytest.warns(UserWarning, match="donor is unknown"):
        found = readers.read_section(written.path, image=written.options["image"])
    assert sections.donor_of(found) == sections.name_of(found)


@pytest.mark.parametrize("name", ["visium", "hest", "tables", "gse240429"])
def test_large_images_stay_on_disk(name, plain, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the whole image was decoded")

    written = EVERY[name](plain, tmp_path)
    monkeypatch.setattr(images, "_decode", refuse)
    found = read(written)
    entry = found.uns["spatial"][sections.name_of(found)]
    assert "fullres" not in entry["images"]
    assert entry["metadata"]["source_image_path"]


# --- Tables ---------------------------------------------------------------------------------


def test_the_scale_of_tables_follows_from_the_pitch(plain, tmp_path):
    written = layouts.tables(plain, tmp_path)
    found = read(written, um_per_px=None, spot_pitch_um=100.0)
    assert sections.um_per_px(found) == pytest.approx(4.0, rel=1e-6)
    table = pd.read_csv(written.path / "positions.csv")
    table.drop(columns=["array_row", "array_col"]).to_csv(
        written.path / "positions.csv", index=False
    )
    found = read(written, um_per_px=None, spot_pitch_um=100.0)
    assert sections.um_per_px(found) == pytest.approx(4.0, rel=1e-3)


def test_columns_of_any_name(plain, tmp_path):
    written = layouts.tables(plain, tmp_path)
    path = written.path / "positions.csv"
    table = pd.read_csv(path).rename(columns={"x": "Links", "y": "Oben", "spot": "Punkt"})
    table.to_csv(path, index=False)
    columns = {"x": "links", "y": "Oben", "barcode": "Punkt"}
    assert_same(read(written, columns=columns), plain)
    with pytest.raises(ValueError, match=r"no column 'rechts'; it has Punkt, Links"):
        read(written, columns={**columns, "x": "rechts"})


def test_a_count_table_with_the_rest_named(plain, tmp_path):
    written = layouts.tables(plain, tmp_path)
    moved = tmp_path / "elsewhere.csv"
    (written.path / "counts.csv").rename(moved)
    options = {
        "positions": written.path / "positions.csv",
        "image": written.path / "image.png",
        "name": "S1",
    }
    found = readers.read_section(moved, **options, **written.options)
    assert_same(found, plain)


def test_tables_as_r_writes_them(plain, tmp_path):
    """The header has one field less than the rows; fields are quoted and separated by spaces."""
    written = layouts.tables(plain, tmp_path)
    table = layouts.count_table(plain)
    lines = [" ".join(f'"{g}"' for g in table.columns)]
    rows = zip(table.index, table.to_numpy(), strict=True)
    lines += [" ".join([f'"{s}"', *map(str, row)]) for s, row in rows]
    (written.path / "counts.csv").write_text("\n".join(lines))
    assert_same(read(written), plain)


def test_genes_named_na_and_nan_are_genes(plain, tmp_path):
    written = layouts.tables(plain, tmp_path)
    path = written.path / "counts.csv"
    path.write_text(path.read_text().replace("GENE1,", "NA,").replace("GENE2,", "null,"))
    assert {"NA", "null"} <= set(read(written).var_names)


@pytest.mark.parametrize("form", ["{symbol}", "{id}", "{id}.13"])
def test_tables_name_genes_by_symbols_or_ids(form, plain, tmp_path):
    """Names stay as the table has them; ids find the symbols of a section that knows both."""
    both = zip(plain.var_names, layouts.ensembl(plain.var_names), strict=True)
    named = plain.copy()
    named.var_names = [form.format(symbol=symbol, id=one) for symbol, one in both]
    found = read(layouts.tables(named, tmp_path))
    assert_same(found, named)
    other = read(layouts.visium(layouts.drawn_section(name="S2", seed=1), tmp_path))
    (made, _), report = gene_ids.match_genes([found, other])
    assert list(made.var_names) == list(plain.var_names)
    np.testing.assert_array_equal(made.X.toarray(), found.X.toarray())
    assert report["names"].tolist() == ["symbols" if form == "{symbol}" else "ids", "symbols"]


@pytest.mark.real_data
def test_legacy_st_as_published_equals_our_own_reader(her2st_dir):
    """Spots named by array coordinates, counts packed, positions with a selection column."""
    counts = her2st_dir / "data/ST-cnts/C2.tsv.gz"
    (expected,) = her2st.read_her2st(["C2"])
    found = readers.read_section(
        counts,
        name="C2",
        donor="C",
        positions=her2st_dir / "data/ST-spotfiles/C2_selection.tsv",
        image=her2st_dir / her2st.HER2ST["C2"][0],
        um_per_px=0.69,
        spot_diameter_um=100,
        spot_pitch_um=200,
    )
    assert [f"C2_{name}" for name in found.obs_names] == list(expected.obs_names)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    np.testing.assert_allclose(found.obsm["spatial"], expected.obsm["spatial"])
    assert list(found.var_names) == list(expected.var_names)


# --- h5ad -----------------------------------------------------------------------------------


def test_counts_are_looked_for_in_layers_and_raw(plain, tmp_path):
    adata = layouts.squidpy_adata(plain)
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    path = tmp_path / "one.h5ad"
    for change in (lambda a: None, lambda a: a.layers.update(counts=plain.X.copy())):
        change(adata)
        adata.write_h5ad(path)
        found = read(layouts.Written(path, "h5ad", {"donor": "D1"}))
        np.testing.assert_array_equal(found.X.toarray(), plain.X.toarray())
    with pytest.raises(ValueError, match="fractional"):
        read(layouts.Written(path, "h5ad", {"donor": "D1", "counts": "X"}))


def test_one_of_several_libraries(plain, tmp_path):
    import anndata

    other = layouts.drawn_section(name="S2", seed=1)
    parts = [layouts.squidpy_adata(s) for s in (plain, other)]
    both = anndata.concat(dict(zip(("S1", "S2"), parts, strict=True)), label="library_id",
                          uns_merge="unique", index_unique="-")  # fmt: skip
    both.uns["spatial"] = {k: v for p in parts for k, v in p.uns["spatial"].items()}
    both.write_h5ad(tmp_path / "both.h5ad")
    for name, section in (("S1", plain), ("S2", other)):
        found = read(layouts.Written(tmp_path / "both.h5ad", "h5ad", {"name": name, "donor": "D"}))
        assert sections.name_of(found) == name
        np.testing.assert_array_equal(found.X.toarray(), section.X.toarray())


@pytest.mark.parametrize("name", ["own-h5ad", "own-spatialdata"])
def test_options_speak_about_our_own_files_too(name, plain, tmp_path):
    written = EVERY[name](plain, tmp_path)
    found = read(written, spot_diameter_um=60.0, spot_pitch_um=100.0)
    assert sections.spot_diameter_um(found) == pytest.approx(60.0)
    assert_same(found, plain)
    if name == "own-h5ad":
        small = read(written, image="hires")
        factor = plain.uns["spatial"]["S1"]["scalefactors"]["tissue_hires_scalef"]
        assert sections.um_per_px(small) == pytest.approx(sections.um_per_px(plain) / factor)


# --- What is said ---------------------------------------------------------------------------


def test_a_folder_of_something_else_is_described(tmp_path):
    for name in ("holiday.jpg", "notes.docx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError) as caught:
        readers.detect(tmp_path)
    said = str(caught.value)
    assert "holiday.jpg, notes.docx" in said
    assert all(f"{layout}: {what}" in said for layout, what in readers.LAYOUTS.items())


def test_orientation_can_be_a_warning(plain, tmp_path):
    written = layouts.tables(plain, tmp_path)
    path = written.path / "positions.csv"
    table = pd.read_csv(path)
    table.assign(x=479 - table["x"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match="x flipped"):
        read(written)
    with pytest.warns(UserWarning, match="x flipped"):
        readers.read_section(written.path, **written.options, orientation="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        readers.read_section(written.path, **written.options, orientation="ignore")


def test_scanpys_floats_become_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    floats = pixels.astype(np.float32) / 255
    np.testing.assert_array_equal(readers_images.as_rgb(floats, "image"), pixels)
    opaque = np.dstack([floats, np.ones((5, 6), np.float32)])
    np.testing.assert_array_equal(readers_images.as_rgb(opaque, "image"), pixels)


def test_a_16_bit_png_is_noticed_though_pillow_halves_it(plain, tmp_path):
    import zlib

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = (8).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    rows = b"".join(b"\0" + b"\x12\x34" * 24 for _ in range(8))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    (tmp_path / "deep.png").write_bytes(png + chunk(b"IEND", b""))
    with Image.open(tmp_path / "deep.png") as opened:
        assert opened.mode == "RGB"
    with pytest.raises(ValueError, match="16 bits per channel"):
        readers_images.check_image_file(tmp_path / "deep.png")
