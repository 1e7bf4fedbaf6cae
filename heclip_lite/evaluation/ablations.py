"""Ablations: the recommended recipe with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
from anndata import AnnData

from heclip_lite import config
from heclip_lite.evaluation import benchmark, splits
from heclip_lite.methods import Average, KernelRidge, Regression, recipes
from heclip_lite.methods.base import Method
from heclip_lite.methods.heclip import HECLIP

BASE = "recommended"
Factors = dict[str, dict[str, Method]]


def factors(size: recipes.Size, encoders: dict[str, config.Encoder] | None = None) -> Factors:
    """Single changes of the recommended recipe, by factor and level.

    Every factor has the level ``"recommended"``, which is the unchanged recipe.

    Parameters
    ----------
    size
        Inputs and training loops that all levels share.
    encoders
        Further encoders to try for the feature maps, by name.
    """
    base = HECLIP.recommended(size.maps, size.heads, members=size.members)

    def changed(**parts: object) -> HECLIP:
        return HECLIP(
            parts.get("image", base.image),
            replace(base.contrast, **parts.get("contrast", {})),
            replace(base.decode, **parts.get("decode", {})),
            replace(base.settings, **parts.get("settings", {})),
            members=parts.get("members", base.members),
        )

    def options(**values: object) -> HECLIP:
        return changed(contrast={"options": {**base.contrast.options, **values}})

    vectors = replace(size.patches, encoder=size.maps.encoder, trainable=False)
    trained = {"image": size.patches, "settings": vars(size.end_to_end), "members": 1}
    one_way = {"cosine": True}
    made: Factors = {
        "loss": {
            "CLIP, both directions": changed(contrast={"loss": "clip", "options": one_way}),
            "BLEEP, soft targets": changed(contrast={"loss": "bleep", "options": one_way}),
        },
        "target source": {
            "images": options(targets="image"),
            "expression": options(targets="spot"),
            "both": options(targets="both"),
        },
        "spot side": {
            "genes": changed(contrast={"spot_side": "expression"}),
            "5 components": changed(contrast={"rank": 5}),
            "50 components": changed(contrast={"rank": 50}),
        },
        "temperature": {
            f"{t:g}": changed(contrast={"temperature": t}) for t in (0.05, 0.1, 0.5, 1.0)
        },
        "similarity": {"dot product, temperature 1": _dot(changed, base)},
        "projection size": {f"{d}": changed(contrast={"dim": d}) for d in (16, 32, 64, 256, 512)},
        "image side": {
            "one scale, 2.74 µm/px": changed(image=replace(size.maps, um_per_px=(2.74,))),
            "one scale, 1.37 µm/px": changed(image=replace(size.maps, um_per_px=(1.37,))),
            "narrow windows only": changed(image=replace(size.maps, widths_um=(44.0,))),
            "colour and nuclei": changed(image=config.AppearanceInput()),
            "patch vectors": changed(image=vectors),
            "patches, encoder trained": changed(**trained),
        },
        "decoding": {
            "top 50, measured": changed(decode={"k": 50, "weights": None, "rank": None}),
            "top 50, reconstructed": changed(decode={"k": 50, "weights": None}),
            "soft weights, measured": changed(decode={"rank": None}),
            "against spots": changed(decode={"against": "spots"}),
        },
        "sharpness of the weights": {
            f"{t:g}": changed(decode={"weights": t}) for t in (0.02, 0.05, 0.1, 0.5)
        },
        "retrieved spots (k)": {
            f"{k}": changed(decode={"k": k, "weights": None}) for k in (1, 5, 20, 100)
        },
        "patch width": {
            f"{w} µm": changed(image=replace(vectors, width_um=float(w)))
            for w in (75, 150, 300, 600)
        },
        "augmentation": {
            "encoder trained, flips and turns": changed(**trained),
            "encoder trained, as cut": changed(
                **{**trained, "image": replace(size.patches, augment=False)}
            ),
        },
        "spot branch": {
            "projection head": changed(contrast={"head": "projection"}),
            "none": changed(contrast={"head": "none"}),
        },
        "training": {
            "10 epochs": changed(settings={"epochs": 10}),
            "60 epochs": changed(settings={"epochs": 60}),
            "1 network": changed(members=1),
        },
        "stain": {
            name.capitalize(): changed(image=replace(size.maps, stain=name))
            for name in ("reinhard", "macenko")
        },
        "encoder": {
            "random weights": changed(
                image=replace(size.maps, encoder=replace(size.maps.encoder, weights="random"))
            ),
            **{
                name: changed(image=replace(size.maps, encoder=encoder))
                for name, encoder in (encoders or {}).items()
            },
        },
        "head": {
            "kernel ridge": KernelRidge(size.maps),
            "regression": Regression(size.maps, size.heads, hidden=256, members=size.members),
            "average with kernel ridge": Average([base, KernelRidge(size.maps)]),
        },
    }
    return {factor: {BASE: base, **levels} for factor, levels in made.items()}


def _dot(changed: Callable[..., HECLIP], base: HECLIP) -> HECLIP:
    """Dot products of layer-normed embeddings, as the reference compares them."""
    plain = {**base.contrast.options, "cosine": False}
    return changed(contrast={"temperature": 1.0, "options": plain})


def ablate(
    chosen: Factors,
    all_sections: Sequence[AnnData],
    split: Sequence[splits.Fold],
    *,
    seeds: Sequence[int] = (0, 1, 2),
) -> pd.DataFrame:
    """Run every level through the contest, each once.

    Returns
    -------
    DataFrame
        The contest's columns with ``factor`` and ``level`` in place of ``method``.
    """
    table = benchmark.contest(named(chosen), all_sections, split, seeds=seeds)
    parts = [
        table[table["method"] == _name(factor, level)].assign(factor=factor, level=level)
        for factor, levels in chosen.items()
        for level in levels
    ]
    found = pd.concat(parts, ignore_index=True).drop(columns="method")
    first = ["factor", "level"]
    return found[first + [column for column in found if column not in first]]


def named(chosen: Factors) -> dict[str, Method]:
    """Every recipe once, by a name of its own."""
    return {
        _name(factor, level): method
        for factor, levels in chosen.items()
        for level, method in levels.items()
    }


def _name(factor: str, level: str) -> str:
    return BASE if level == BASE else f"{factor}: {level}"
