"""A few steps of every configuration of the full profile, on the CPU and on little tissue.

Networks, patch sizes and scales are those of the full profile; only epochs, members and spots
are few, and the encoder has random weights, for no test may need a model hub.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from killing import ROOT

from heclip_lite import config, course, evaluation, genes, recipes, sections, tissue

SPOTS, HELD_OUT = 51, 4  # retrieval among 50 needs more
BATCH = 17
PROFILE = course.PROFILES["full"]
ENCODER = yaml.safe_load(
    (ROOT / "notebooks" / "params" / "synthetic_full.yml").read_text(encoding="utf-8")
)["ENCODER"]
pytestmark = pytest.mark.slow


def one_step(settings: config.Training) -> config.Training:
    return replace(settings, epochs=1, batch_size=BATCH, device="cpu")


@pytest.fixture(scope="module")
def size() -> recipes.Size:
    """The full profile, but for one step of each training."""
    encoder = config.Encoder(ENCODER, "random")
    whole = recipes.Size(
        maps=config.MapInput(encoder, um_per_px=PROFILE.um_per_px, components=4),
        patches=config.PatchInput(encoder, size=PROFILE.reference_size),
    )
    loops = ("end_to_end", "reference", "heads", "dense", "dense_reference")
    return replace(whole, members=1, **{name: one_step(getattr(whole, name)) for name in loops})


@pytest.fixture(scope="module")
def drawn() -> list:
    return tissue.synthetic_sections(1, 2, size_um=1000, n_genes=60, seed=1)


def piece(section, spots: int):
    """The spots nearest to the middle."""
    places = section.obsm["spatial"]
    near = np.argsort(np.linalg.norm(places - places.mean(0), axis=1))[:spots]
    return section[np.sort(near)].copy()


CONTEST = sorted(recipes.everyone(recipes.Size()))
WITHIN = sorted(set(recipes.within_slide(recipes.Size(), 1.0)) - set(CONTEST))


def check(name: str, method, training, held_out, folder) -> None:
    panel = genes.fit_panel([training])
    found = evaluation.predictions_of(name, method, [training], [held_out], panel, folder=folder)
    assert found[sections.name_of(held_out)].shape == (held_out.n_obs, len(panel.genes))


@pytest.mark.parametrize("name", CONTEST)
def test_steps_of_the_contest(name, size, drawn, tmp_path):
    training, held_out = piece(drawn[0], SPOTS), piece(drawn[1], HELD_OUT)
    check(name, recipes.everyone(size)[name], training, held_out, tmp_path)


@pytest.mark.parametrize("name", WITHIN)
def test_steps_within_a_slide(name, size, drawn, tmp_path):
    section = piece(drawn[0], SPOTS + HELD_OUT)
    training, held_out = section[HELD_OUT:].copy(), section[:HELD_OUT].copy()
    method = recipes.within_slide(size, sections.um_per_px(training))[name]
    check(name, method, training, held_out, tmp_path)
