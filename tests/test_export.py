"""Sections as SpatialData: places, values and pixels survive, on disk too."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata

from heclip_lite import export, methods, sections, superres


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
