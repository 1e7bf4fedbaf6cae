"""Sections written in each layout read back as what they were."""

from __future__ import annotations

import warnings

import layouts
import numpy as np
import pandas as pd
import pytest

from heclip_lite import readers, sections
from heclip_lite.tissue import synthetic_sections

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
