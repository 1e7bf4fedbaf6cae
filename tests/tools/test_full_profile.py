"""One step of every configuration of the full profile, on the CPU and on little tissue.

Networks, patch sizes and scales are those of the full profile; only epochs, members, spots and
retrieved neighbours are few, and so are the principal components of the contest's maps, for there
must be fewer of them than spots.
The encoder has random weights, for no test may need a model hub.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from killing import ROOT

import heclip_course as course
from book.tools.measure import jobs
from heclip_lite import config, evaluation
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.methods import recipes

SPOTS, HELD_OUT = 36, 4
PATCHES = 12  # for methods that train a whole network
K = 5  # neighbours retrieved
COMPONENTS = 4  # of the contest's maps; within a slide, the recipes' own 32 are few enough
FULL = jobs.size_of("synthetic", "full")
pytestmark = pytest.mark.slow


def one_step(settings: config.Training, spots: int) -> config.Training:
    return replace(settings, epochs=1, batch_size=spots, device="cpu")


@pytest.fixture(scope="module")
def size() -> recipes.Size:
    """The full profile, but for one step of each training and random weights."""
    random = replace(FULL.patches.encoder, weights="random")
    spots = {"end_to_end": PATCHES, "reference": PATCHES}
    spots |= dict.fromkeys(("heads", "dense", "dense_reference"), SPOTS)
    steps = {name: one_step(getattr(FULL, name), n) for name, n in spots.items()}
    maps = replace(FULL.maps, encoder=random, components=COMPONENTS)
    return replace(
        FULL, maps=maps, patches=replace(FULL.patches, encoder=random), members=1, **steps
    )


def test_contest_and_chapters_have_one_full_profile():
    chapters = course.PROFILES["full"]
    assert FULL.maps.um_per_px == chapters.um_per_px
    assert (FULL.patches.size, FULL.members) == (chapters.reference_size, chapters.members)
    assert FULL.dense_reference.epochs == chapters.dense_reference_epochs
    for path in (ROOT / "notebooks" / "params").glob("*_full.yml"):
        asked = yaml.safe_load(path.read_text(encoding="utf-8"))
        encoder = FULL.patches.encoder
        assert (asked["ENCODER"], asked["WEIGHTS"]) == (encoder.name, encoder.weights)


@pytest.fixture(scope="module")
def parts() -> tuple:
    """Training spots and a few held-out ones, nearest to the middle of one section."""
    section = tissue.synthetic_sections(1, 1, size_um=900, n_genes=60, seed=1)[0]
    places = section.obsm["spatial"]
    near = np.argsort(np.linalg.norm(places - places.mean(0), axis=1))[: SPOTS + HELD_OUT]
    return section[near[HELD_OUT:]].copy(), section[near[:HELD_OUT]].copy()


CONTEST = sorted(recipes.everyone(recipes.Size()))
WITHIN = sorted(recipes.within_slide(recipes.Size(), 1.0))


def check(name: str, method, parts, folder) -> None:
    training, held_out = parts
    if getattr(method, "decode", None) is not None and method.decode.k is not None:
        method.decode = replace(method.decode, k=K)
    if isinstance(getattr(method, "image", None), config.PatchInput):
        training = training[:PATCHES].copy()
    panel = genes.fit_panel([training])
    found = evaluation.predictions_of(name, method, [training], [held_out], panel, folder=folder)
    assert found[sections.name_of(held_out)].shape == (held_out.n_obs, len(panel.genes))


@pytest.mark.parametrize("name", CONTEST)
def test_one_step_of_the_contest(name, size, parts, tmp_path):
    check(name, recipes.everyone(size)[name], parts, tmp_path)


@pytest.mark.parametrize("name", WITHIN)
def test_one_step_within_a_slide(name, size, parts, tmp_path):
    methods = recipes.within_slide(size, sections.um_per_px(parts[0]))
    check(name, methods[name], parts, tmp_path)
