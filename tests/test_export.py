"""Sections as SpatialData: places, values and pixels survive, on disk too."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata

from heclip_lite import export, methods, readers, sections, spaceranger, superres


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


def test_dense_predictions_lie_on_the_image(small_sections):
    section = small_sections[0]
    dense = superres.predict(methods.Mean().fit([section]), superres.fill_in(section, 4))
    made = export.to_spatialdata(dense)
    name = sections.name_of(section)
    assert made.tables[name].shape == dense.shape
    extent = spatialdata.get_extent(made[f"{name}_image"], coordinate_system="global")
    width, height = sections.image_size(section)
    assert extent["x"][1] == pytest.approx(width, rel=0.01)
    assert extent["y"][1] == pytest.approx(height, rel=0.01)


def test_another_image_is_refused(small_sections):
    with pytest.raises(ValueError, match="use 'hires' or 'full'"):
        export.to_spatialdata(small_sections[0], image="lowres")


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
