"""The frozen recipes and their ablations: everyone is there, and one thing changes at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heclip_lite import config, evaluation
from heclip_lite.evaluation import ablations
from heclip_lite.methods import recipes
from heclip_lite.methods.heclip import HECLIP

ENCODER = config.Encoder("test_resnet")
SIZE = recipes.Size(
    maps=config.MapInput(ENCODER, um_per_px=(2.4,), widths_um=(50.0, 150.0), components=32),
    patches=config.PatchInput(ENCODER, size=32),
    end_to_end=config.Training(epochs=1, batch_size=16),
    reference=config.Training(epochs=1, batch_size=16),
    heads=config.Training(epochs=2, batch_size=16),
    members=1,
)


def test_everyone_of_the_protocol_takes_part():
    wanted = {
        *("heclip_recommended", "heclip_reference_hvg", "heclip_reference_heg", "bleep", "clip"),
        *("regression", "ridge", "knn", "colour", "kernel_ridge", "average", "mean", "position"),
        *("random_encoder", "shuffled", "mean_colour"),
        *("oracle_depth", "oracle_neighbours", "oracle_other_genes"),
    }
    assert wanted <= set(recipes.everyone(SIZE))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ridge", "method"),
        ("mean_colour", "control"),
        ("mean_colour_one_scale", "control"),
        ("oracle_depth", "oracle"),
    ],
)
def test_names_tell_what_a_row_is(name, kind):
    assert recipes.kind_of(name) == kind


def test_released_recipes_see_raw_pixels_and_train_their_norms():
    method = recipes.contestants(SIZE)["heclip_reference_hvg"]
    encoder = method.image.encoder
    assert (encoder.colour, encoder.scaling, encoder.fixed_norms) == ("bgr", "none", False)
    assert method.setting == "reduced"


def test_inputs_are_listed_once_and_found_inside_wrappers():
    found = recipes.inputs_of(recipes.everyone(SIZE))
    assert len(found) == len({repr(image) for image in found})
    assert SIZE.maps in found and config.AppearanceInput() in found
    assert not any(isinstance(i, config.PatchInput) and i.trainable for i in found)
    inside = recipes.inputs_of({"average": recipes.contestants(SIZE)["average"]})
    assert inside == [SIZE.maps]


def test_one_scale_never_looks_finer():
    assert min(recipes.at_one_scale(SIZE, 3.19).maps.um_per_px) == 3.19


def settings(method: HECLIP) -> dict:
    parts = ("image", "contrast", "decode", "settings", "members")
    return {part: getattr(method, part) for part in parts}


def test_every_level_changes_something_and_the_base_nothing():
    base = HECLIP.recommended(SIZE.maps, SIZE.heads, members=SIZE.members)
    several = replace(SIZE, members=5)
    for factor, levels in ablations.factors(several).items():
        assert levels[ablations.BASE].members == 5, factor
        if factor == "encoder":
            continue  # the base here has random weights already
        described = [evaluation.describe(method) for method in levels.values()]
        assert len(set(described)) == len(described), f"two levels of {factor} are the same"
    single = ablations.factors(SIZE)
    for levels in single.values():
        assert settings(levels[ablations.BASE]) == settings(base)
    changed = settings(single["temperature"]["0.1"])
    assert [part for part in changed if changed[part] != settings(base)[part]] == ["contrast"]


def test_ablations_are_paired_by_fold_and_seed(small_sections, tmp_path, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_CACHE", str(tmp_path))
    chosen = {"decoding": ablations.factors(SIZE)["decoding"]}
    chosen["decoding"] = {
        level: chosen["decoding"][level] for level in (ablations.BASE, "soft weights, measured")
    }
    split = evaluation.leave_one_out(small_sections[:3], "section")
    table = ablations.ablate(chosen, small_sections[:3], split, seeds=(0, 1))
    inside = table[(table["metric"] == "pearson") & (table["scope"] == "per_section")]
    counts = inside.groupby(["level", "gene_set"]).size()
    assert (counts == 6).all()  # three sections, two seeds
    assert np.isfinite(inside["value"]).all()


def test_suffixes_say_what_the_slides_were_brought_to():
    assert recipes.without_suffix("ridge" + recipes.ONE_COLOUR) == "ridge"
    assert recipes.at_one_scale(SIZE, 3.19, stain="reinhard").maps.stain == "reinhard"


def test_every_method_learns_from_a_few_dozen_spots(small_sections):
    """A quarter of a small slide of her2st has 45 spots; the default batch has 128."""
    size = replace(
        SIZE,
        heads=config.Training(epochs=1),
        dense=config.Training(epochs=1),
        dense_reference=config.Training(epochs=1),
    )
    assert small_sections[0].n_obs < 50
    for name, method in recipes.within_slide(size, 2.0).items():
        predicted = method.fit(small_sections[:1]).predict(small_sections[0])
        assert np.isfinite(predicted).all(), name
