"""Sections on their way out: places, values and pixels survive, predictions beside them."""

from __future__ import annotations

import tracemalloc

import anndata
import dask
import layouts
import numpy as np
import pandas as pd
import pytest
import spatialdata
from PIL import Image
from scipy import sparse

from heclip_course import spaceranger
from heclip_lite import methods, store
from heclip_lite.data import export, readers, sections
from heclip_lite.spatial import superres


@pytest.fixture
def section():
    return layouts.drawn_section()


def on_disk(section, folder):
    """The same section with its image in a file."""
    path = layouts.write_image(section, folder / "slide.png")
    return sections.make_section(
        section.X,
        list(section.var_names),
        section.obsm["spatial"],
        name="S1",
        donor="D1",
        um_per_px=4.0,
        spot_diameter_um=55.0,
        image_path=path,
        spot_names=list(section.obs_names),
        obs=section.obs,
        masked_regions=[(400, 0, 480, 50)],
        background=(243, 240, 242),
    )


def assert_equal(found, section):
    """All that a section is made of."""
    assert sections.section_key(found) == sections.section_key(section) or (
        sections.image_key(found) != sections.image_key(section)
    )
    np.testing.assert_array_equal(sections.read_image(found), sections.read_image(section))
    np.testing.assert_array_equal(found.X.toarray(), section.X.toarray())
    np.testing.assert_array_equal(found.obsm["spatial"], section.obsm["spatial"])
    pd.testing.assert_frame_equal(
        found.obs, section.obs, check_dtype=False, check_categorical=False
    )
    pd.testing.assert_frame_equal(found.var, section.var)
    assert sections.um_per_px(found) == sections.um_per_px(section)
    assert sections.spot_diameter_um(found) == sections.spot_diameter_um(section)
    assert sections.background_of(found) == sections.background_of(section)


def test_h5ad_comes_back(section, tmp_path):
    section.var["gene_ids"] = layouts.ensembl(section.var_names)
    section.obs["domain"] = pd.Categorical(["a", "b"] * (section.n_obs // 2))
    path = export.to_h5ad(section, tmp_path / "deep" / "one.h5ad")
    assert [p.name for p in path.parent.iterdir()] == ["one.h5ad"]
    found = readers.read_section(path)
    assert sections.section_key(found) == sections.section_key(section)
    assert_equal(found, section)
    again = readers.read_section(path, name="S9", donor="D9")
    assert (sections.name_of(again), sections.donor_of(again)) == ("S9", "D9")


def test_h5ad_with_its_image_beside_it(section, tmp_path):
    section = on_disk(section, tmp_path / "a")
    export.to_h5ad(section, tmp_path / "a" / "one.h5ad")
    assert_equal(readers.read_section(tmp_path / "a" / "one.h5ad"), section)
    (tmp_path / "a").rename(tmp_path / "moved")
    found = readers.read_section(tmp_path / "moved" / "one.h5ad")
    assert found.uns["spatial"]["S1"]["metadata"]["source_image_path"].endswith("moved/slide.png")
    (tmp_path / "moved" / "slide.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"slide\.png"):
        readers.read_section(tmp_path / "moved" / "one.h5ad")


@pytest.mark.parametrize("image", ["hires", "full"])
def test_spatialdata_comes_back(section, tmp_path, image):
    section = on_disk(section, tmp_path)
    path = export.write_spatialdata(section, tmp_path / "s.zarr", image=image)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr", "slide.png"]
    assert_equal(readers.read_section(path), section)


def test_names_that_spatialdata_does_not_admit_come_back(section, tmp_path):
    section = on_disk(section, tmp_path)
    entry = section.uns["spatial"].pop("S1")
    section.obs["section"] = "mouse brain (left)"
    section.uns["spatial"]["mouse brain (left)"] = entry
    labels = pd.Categorical(["a", "b"] * (section.n_obs // 2))
    for column in ("cell type", "cell_type", "Cell type", "region", "_index", "näher?"):
        section.obs[column] = labels
    section.var["gene name"] = "g"
    section.layers["my model"] = section.X.copy()
    section.obsm["two words"] = np.ones((section.n_obs, 2))
    path = export.write_spatialdata(section, tmp_path / "s.zarr", image="hires")
    stored = spatialdata.read_zarr(path)
    assert list(stored.tables) == ["mouse_brain__left_"]
    for wanted in (None, "mouse brain (left)"):
        found = readers.read_section(path, name=wanted)
        assert_equal(found, section)
        np.testing.assert_array_equal(
            found.layers["my model"].toarray(), section.layers["my model"].toarray()
        )
        np.testing.assert_array_equal(found.obsm["two words"], section.obsm["two words"])


def test_what_this_package_wrote_is_known_again(section, tmp_path):
    ours = [
        export.to_h5ad(section, tmp_path / "ours.h5ad"),
        export.write_spatialdata(section, tmp_path / "ours.zarr"),
    ]
    assert all(map(export.is_ours, ours))
    section.write_h5ad(tmp_path / "theirs.h5ad")
    section.write_zarr(tmp_path / "theirs.zarr")
    (tmp_path / "text.h5ad").write_text("mine")
    (tmp_path / "folder.zarr").mkdir()
    both = spatialdata.read_zarr(ours[1])
    both.tables["mine"] = anndata.AnnData(np.ones((2, 2)))
    both.write(tmp_path / "both.zarr")
    theirs = ("theirs.h5ad", "theirs.zarr", "text.h5ad", "folder.zarr", "both.zarr", "none.h5ad")
    assert not any(export.is_ours(tmp_path / name) for name in theirs)


def test_a_table_too_large_for_memory_is_written_in_pieces(section, tmp_path, monkeypatch):
    import dask.array as da

    monkeypatch.setattr(export, "_ROWS", 200)
    points, genes = 6000, 2000  # 48 MB
    values = da.random.default_rng(0).random((points, genes), dtype=np.float32, chunks=(200, genes))
    rng = np.random.default_rng(0)
    places = section.obsm["spatial"][rng.integers(section.n_obs, size=points)]
    obs = section.obs.iloc[[0] * points].reset_index(drop=True)
    obs.index = obs.index.astype(str)
    large = anndata.AnnData(values, obs=obs, obsm={"spatial": places}, uns=dict(section.uns))
    with dask.config.set(scheduler="synchronous"):
        export.to_spatialdata(large)  # what is loaded and kept once
        tracemalloc.start()
        try:
            key = export.fingerprint(np.zeros(3), large)
            export.to_spatialdata(large).write(tmp_path / "s.zarr")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    whole = large.copy()
    whole.X = np.asarray(large.X)
    assert export.fingerprint(np.zeros(3), whole) == key
    whole.X = sparse.csr_matrix(whole.X)
    assert export.fingerprint(np.zeros(3), whole) == key
    whole.X[points - 1, 3] = 7
    assert export.fingerprint(np.zeros(3), whole) != key
    assert peak < values.nbytes, "the whole table was in memory"


def test_the_small_image_alone_is_no_section(section, tmp_path):
    path = export.write_spatialdata(section, tmp_path / "s.zarr", image="hires")
    with pytest.raises(ValueError, match="small image only"):
        readers.read_section(path)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_predictions_are_layers_or_tables(section, tmp_path, kind):
    values = np.random.default_rng(0).random((section.n_obs, section.n_vars), dtype=np.float32)
    same = pd.DataFrame(values, section.obs_names, section.var_names)
    shuffled = same.iloc[::-1, ::-1]
    other = same[["GENE3", "GENE1"]].rename(columns={"GENE1": "NEW"})
    path = tmp_path / f"s.{kind}"
    write = export.to_h5ad if kind == "h5ad" else export.write_spatialdata
    fewer = same[["GENE3", "GENE1"]]
    write(section, path, predictions={"heclip": shuffled, "panel": other, "fewer": fewer})
    found = readers.read_section(path)
    np.testing.assert_array_equal(found.layers["heclip"], values)
    for name, table in {"panel": other, "fewer": fewer}.items():
        pd.testing.assert_frame_equal(found.obsm[name], table, check_names=False)
    restricted = export.with_predictions(section[:, list(fewer.columns)], fewer)
    np.testing.assert_array_equal(restricted.layers["predicted"], fewer)
    assert "heclip" not in section.layers  # the caller's section is left alone
    assert_equal(found, section)


def test_a_single_prediction_and_bad_ones(section, tmp_path):
    values = pd.DataFrame(1.0, section.obs_names, section.var_names)
    assert "predicted" in export.with_predictions(section, values).layers
    bad = {
        "is a ndarray": {"p": values.to_numpy()},
        "rows of prediction": values.iloc[:-1],
        "not finite": values.replace(1.0, np.nan),
        "twice": values.set_axis(["A"] * section.n_vars, axis=1),
        "cannot be called": {"spatial": values},
        "has a slash": {"a/b": values},
    }
    for words, predictions in bad.items():
        with pytest.raises(ValueError, match=words):
            export.to_h5ad(section, tmp_path / "x.h5ad", predictions)
        with pytest.raises(ValueError, match=words):
            export.write_spatialdata(section, tmp_path / "x.zarr", predictions=predictions)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(section, tmp_path, monkeypatch, full_disk):
    path = export.to_h5ad(section, tmp_path / "one.h5ad")
    before = store.file_hash(path)

    with full_disk(), pytest.raises(OSError, match=r"too large. Make room there .*one.h5ad"):
        export.to_h5ad(section, path)
    assert store.file_hash(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["one.h5ad"]

    def half(self, name, **options):
        name.mkdir()
        (name / "zarr.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spatialdata.SpatialData, "write", half)
    with pytest.raises(OSError, match="No space left"):
        export.write_spatialdata(section, tmp_path / "one.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["one.h5ad"]


def test_where_not_to_write(section, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.h5ad"):
        export.to_h5ad(section, tmp_path / "one.csv")
    with pytest.raises(ValueError, match=r"must end in \.zarr"):
        export.write_spatialdata(section, tmp_path / "one.h5ad")
    (tmp_path / "one.zarr").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        export.write_spatialdata(section, tmp_path / "one.zarr")
    section.obs["donor"] = np.nan
    with pytest.raises(ValueError, match="donor"):
        export.to_h5ad(section, tmp_path / "one.h5ad")


def test_a_measured_section_goes_through_a_store(small_sections, tmp_path):
    section = small_sections[0]
    made = export.to_spatialdata(section, image="full")
    made.write(tmp_path / "slide.zarr")
    read = spatialdata.read_zarr(tmp_path / "slide.zarr")
    name = sections.name_of(section)
    np.testing.assert_array_equal(read.tables[name].X.toarray(), section.X.toarray())
    circles = read.shapes[f"{name}_points"]
    places = np.stack([circles.geometry.x, circles.geometry.y], axis=1)
    np.testing.assert_allclose(places, section.obsm["spatial"])
    assert (circles.radius * 2 * sections.um_per_px(section)).iloc[0] == pytest.approx(
        sections.spot_diameter_um(section)
    )
    pixels = read.images[f"{name}_image"].to_numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(pixels, sections.read_image(section))


def test_dense_predictions_lie_on_the_image(small_sections, tmp_path):
    section = small_sections[0]
    dense = superres.predict(methods.Mean().fit([section]), superres.fill_in(section, 4))
    made = export.to_spatialdata(dense)
    name = sections.name_of(section)
    assert made.tables[name].shape == dense.shape
    extent = spatialdata.get_extent(made[f"{name}_image"], coordinate_system="global")
    width, height = sections.image_size(section)
    assert extent["x"][1] == pytest.approx(width, rel=0.01)
    assert extent["y"][1] == pytest.approx(height, rel=0.01)
    path = export.to_h5ad(dense, tmp_path / "dense.h5ad")
    assert anndata.read_h5ad(path).shape == dense.shape


def test_another_image_is_refused(small_sections):
    with pytest.raises(ValueError, match="use 'hires' or 'full'"):
        export.to_spatialdata(small_sections[0], image="lowres")


def test_the_picture_of_an_export_is_the_image(section, tmp_path):
    layouts.write_image(section, tmp_path / "slide.png")
    with Image.open(tmp_path / "slide.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), sections.read_image(section))


# As a Space Ranger folder -----------------------------------------------------------------------


def test_a_space_ranger_folder_reads_back_as_the_same_section(small_sections, tmp_path):
    section = small_sections[0].copy()
    section.var["gene_ids"] = [f"ENSG{number:011d}" for number in range(section.n_vars)]
    for positions in spaceranger.POSITIONS:
        folder = spaceranger.to_spaceranger(
            section, tmp_path / positions / "S", positions=positions
        )
        read = readers.read_section(folder, donor="D", image=folder / spaceranger.IMAGE)
        assert sections.name_of(read) == "S"
        np.testing.assert_array_equal(read.X.toarray(), section.X.toarray())
        np.testing.assert_allclose(read.obsm["spatial"], section.obsm["spatial"])
        np.testing.assert_array_equal(sections.read_image(read), sections.read_image(section))
        assert list(read.var_names) == list(section.var_names)
        assert list(read.var["gene_ids"]) == list(section.var["gene_ids"])
        assert sections.um_per_px(read) == pytest.approx(sections.um_per_px(section), rel=1e-3)


def test_a_space_ranger_folder_of_another_lattice_keeps_its_scale(tmp_path):
    square = layouts.drawn_section("square")
    pixels = np.asarray(sections.read_image(square))
    section = sections.make_section(
        square.X,
        ["β-gene", *square.var_names[1:]],
        square.obsm["spatial"],
        name="S",
        donor="D",
        um_per_px=8.0,
        spot_diameter_um=100.0,
        image=pixels,
        obs=square.obs[["array_row", "array_col"]].reset_index(drop=True),
    )
    assert sections.spot_pitch_um(section) == pytest.approx(200)
    folder = spaceranger.to_spaceranger(section, tmp_path / "S")
    told = {"donor": "D", "image": folder / spaceranger.IMAGE}
    with pytest.raises(ValueError, match=r"scale is unknown. Give spot_pitch_um \(100 .*, 200 for"):
        readers.read_section(folder, **told)
    for scale in ({"spot_pitch_um": 200.0}, {"um_per_px": 8.0}):
        with pytest.raises(ValueError, match="size of a spot is unknown"):
            readers.read_section(folder, **told, **scale)
        read = readers.read_section(folder, **told, **scale, spot_diameter_um=100.0)
        assert sections.um_per_px(read) == pytest.approx(8.0)
        assert sections.spot_diameter_um(read) == pytest.approx(100.0)
        assert list(read.var_names) == list(section.var_names)


def test_a_space_ranger_folder_is_whole_or_not_there(small_sections, tmp_path, monkeypatch):
    section = small_sections[0]
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileExistsError, match="there already"):
        spaceranger.to_spaceranger(section, tmp_path / "taken")
    with pytest.raises(ValueError, match="choose one of"):
        spaceranger.to_spaceranger(section, tmp_path / "S", positions="places.csv")
    bare = section.copy()
    del bare.obs["array_row"]
    with pytest.raises(ValueError, match="array_row"):
        spaceranger.to_spaceranger(bare, tmp_path / "S")

    def fails(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(spaceranger, "write_spatial", fails)
    with pytest.raises(OSError, match="full"):
        spaceranger.to_spaceranger(section, tmp_path / "S")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
