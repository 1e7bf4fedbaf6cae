"""Lattices, the points between spots, and predictions there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from heclip_lite import config, data, methods
from heclip_lite.data import lattice, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.spatial import superres

GOLDEN = Path(__file__).parents[1] / "golden" / "histosge_coords.npz"
UM = 0.73


def section_on(where: np.ndarray | None, points: np.ndarray, tissue_to: int = 2500):
    """Spots on a slide whose tissue ends at x = `tissue_to`."""
    pixels = np.full((3200, 2600, 3), 250, dtype=np.uint8)
    pixels[400:3000, 300:tissue_to] = (180, 90, 140)
    obs = None
    if where is not None:
        obs = pd.DataFrame({"array_col": where[:, 0], "array_row": where[:, 1]})
    return sections.make_section(
        np.ones((len(points), 3)),
        ["A", "B", "C"],
        points,
        name="S1",
        donor="D1",
        um_per_px=UM,
        spot_diameter_um=55.0,
        image=pixels,
        obs=obs,
    )


@pytest.fixture(scope="module")
def recorded():
    return np.load(GOLDEN, allow_pickle=False)


@pytest.fixture(scope="module")
def hexagons(recorded):
    return section_on(recorded["coord"], recorded["spatial"])


@pytest.fixture(scope="module")
def drawn():
    return tissue.synthetic_sections(1, 1, size_um=900.0)[0]


def as_set(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(point) for point in np.round(points, 6).tolist()}


def arrays(section) -> np.ndarray:
    return section.obs[["array_col", "array_row"]].to_numpy(float)


def test_filled_hexagons_equal_the_reference(recorded, hexagons):
    dense = superres.fill_in(hexagons, clip=False)
    assert dense.n_obs == len(recorded["tenx_fill"])
    assert as_set(arrays(dense)) == as_set(recorded["tenx_fill"])
    # Ours lie at half the pitch of this slide, theirs at a fixed number of whole pixels.
    place = {tuple(a): p for a, p in zip(arrays(dense), dense.obsm["spatial"], strict=True)}
    ours = np.array([place[tuple(a)] for a in recorded["tenx_fill"]])
    assert np.abs(ours - recorded["tenx_fill_spatial"]).max() <= 1


def test_filled_squares_equal_the_reference_as_meant(recorded, hexagons):
    dense = superres.fill_in(hexagons, clip=False, lattice="square")
    assert as_set(arrays(dense)) == as_set(recorded["st_fill_unaliased"])


@pytest.mark.parametrize(
    ("kind", "turn"), [("hexagonal", 0.0), ("hexagonal", 0.4), ("square", 1.2)]
)
def test_lattices_are_recognised_in_any_direction(kind, turn):
    rng = np.random.default_rng(0)
    row, col = (part.ravel() for part in np.mgrid[:8, :16])
    if kind == "hexagonal":
        kept = (row + col) % 2 == 0
        row, col = row[kept], col[kept]
        plain = np.column_stack([col * 50.0, row * 50.0 * np.sqrt(3)])
    else:
        plain = np.column_stack([col, row]) * 100.0
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    places = plain @ spin + rng.normal(0, 2, plain.shape)
    points = places / UM
    section = section_on(np.column_stack([col, row]), points - points.min(0) + (400, 500))
    found = lattice.lattice_of(section)
    assert found.kind == kind
    np.testing.assert_allclose(found.pitch_um, 100, rtol=0.02)
    dense = superres.fill_in(section, 9, clip=False)
    assert dense.n_obs == 9 * section.n_obs
    assert len(as_set(arrays(dense))) == dense.n_obs, "no two points in one place"
    finer = lattice.lattice_of(dense)
    assert finer.kind == kind, "a dense section has a lattice of its own"
    np.testing.assert_allclose(finer.pitch_um, 100 / 3, rtol=0.02)


def test_points_are_clipped_to_tissue_but_spots_stay(recorded):
    section = section_on(recorded["coord"], recorded["spatial"], tissue_to=1400)
    whole = superres.fill_in(section, clip=False)
    dense = superres.fill_in(section)
    assert section.n_obs < dense.n_obs < whole.n_obs
    assert dense.obs["spot"].sum() == section.n_obs
    assert dense.obsm["spatial"][~dense.obs["spot"], 0].max() <= 1440


def test_a_grid_of_any_pitch_covers_the_tissue(hexagons):
    dense = superres.grid(hexagons, 30.0)
    steps = np.diff(np.unique(dense.obsm["spatial"][:, 0]))
    np.testing.assert_allclose(steps * UM, 30.0)
    area = dense.n_obs * 30.0**2
    assert area == pytest.approx(2600 * 2200 * UM**2, rel=0.1)
    assert superres.grid(hexagons, 30.0, clip=False).n_obs > dense.n_obs


def test_what_cannot_be_filled_in_is_named(recorded, hexagons):
    points = recorded["spatial"]
    with pytest.raises(ValueError, match="obs lacks array_col"):
        superres.fill_in(section_on(None, points))
    with pytest.raises(ValueError, match="4 or more are needed"):
        superres.fill_in(hexagons[:3].copy())
    with pytest.raises(ValueError, match="on one line"):
        superres.fill_in(hexagons[:6].copy())
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="micrometres off"):
        superres.fill_in(section_on(rng.permutation(recorded["coord"]), points))
    for factor in (1, 3, 4.5, -4):
        with pytest.raises(ValueError, match="square number"):
            superres.fill_in(hexagons, factor)
    with pytest.raises(ValueError, match="closer than a pixel"):
        superres.fill_in(hexagons, 200**2)
    with pytest.raises(ValueError, match="closer than a pixel"):
        superres.grid(hexagons, 0.1)
    with pytest.raises(ValueError, match="no point of a grid"):
        superres.grid(hexagons, 2300.0)
    with pytest.raises(ValueError, match="auto, hexagonal or square"):
        superres.fill_in(hexagons, lattice="triangle")


def test_any_method_predicts_dense_points_alike_in_any_chunks(drawn):
    image = config.MapInput(um_per_px=(4.0,), components=16)
    method = methods.Ridge(image).fit([drawn])
    points = superres.fill_in(drawn)
    whole = superres.predict(method, points)
    assert whole.shape == (points.n_obs, len(method.genes))
    np.testing.assert_allclose(superres.predict(method, points, chunk=37).X, whole.X, atol=5e-3)
    spots = points.obs["spot"].to_numpy()
    np.testing.assert_allclose(whole.X[spots], method.predict(drawn), atol=1e-5)


def test_points_outside_the_image_are_refused(drawn):
    method = methods.Mean().fit([drawn])
    points = superres.fill_in(drawn)
    points.obsm["spatial"][3] = (-5, 10)
    with pytest.raises(ValueError, match="lie outside the image"):
        superres.predict(method, points)


def test_dense_sections_are_sections_and_plot(drawn, tmp_path):
    import squidpy as sq
    from matplotlib import pyplot

    method = methods.Mean().fit([drawn])
    dense = superres.predict(method, superres.fill_in(drawn))
    sections.check_section(dense, counts=False)
    dense.write_h5ad(tmp_path / "dense.h5ad")
    sq.pl.spatial_scatter(dense, color=dense.var_names[0], library_id="P1-1")
    pyplot.close("all")


def test_the_readme_s_ten_lines_run(small_sections, tmp_path, monkeypatch):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "read_her2st", lambda names: small_sections[: len(names)])
    scope: dict = {}
    exec(code, scope)
    assert (tmp_path / "C6.zarr").is_dir()
    assert scope["dense"].n_obs > 3 * small_sections[0].n_obs
    assert scope["dense"].obs["found"].nunique() == 5
