"""Leakage audit: every way the held-out section can reach training or truth, with its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite.data import genes, registration, sections
from heclip_lite.evaluation import splits
from heclip_lite.evaluation.metrics import pearson_per_gene
from heclip_lite.methods.baselines import Position
from heclip_lite.methods.correction import harmonise_expression

COLUMNS = ["leak", "found", "size", "unit", "detail", "remedy"]
_FITTED = ("training", "all")
_CORRECTED = ("none", "training", "joint")


@dataclass(frozen=True)
class Pipeline:
    """What a pipeline does with the sections it is given.

    Attributes
    ----------
    panel_fitted_on, transforms_fitted_on
        ``"training"`` or ``"all"`` sections: genes chosen, scaling and components fitted.
    batch_correction
        ``"none"``, ``"training"`` (training sections only) or ``"joint"`` (held-out ones too).
    truth
        ``"measured"``, or ``"corrected"``: scored against batch-corrected values.
    targets
        ``"measured"``, or ``"smoothed"`` over neighbouring spots, which changes the test as well.
    adaptation
        ``"none"``, or ``"transductive"``: something is fitted on the held-out section's image.
    context_um
        How far from a spot's centre its picture reaches, micrometres.
    """

    panel_fitted_on: str = "training"
    transforms_fitted_on: str = "training"
    batch_correction: str = "none"
    truth: str = "measured"
    targets: str = "measured"
    adaptation: str = "none"
    context_um: float = 75.0

    def __post_init__(self) -> None:
        allowed = {
            "panel_fitted_on": _FITTED,
            "transforms_fitted_on": _FITTED,
            "batch_correction": _CORRECTED,
            "truth": ("measured", "corrected"),
            "targets": ("measured", "smoothed"),
            "adaptation": ("none", "transductive"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                known = ", ".join(map(repr, values))
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {known}.")
        if not self.context_um >= 0:
            raise ValueError(f"context_um is {self.context_um}; it must be 0 or more.")


@dataclass(frozen=True)
class _Sides:
    training: list[AnnData]
    tests: list[AnnData]
    panel: genes.GenePanel
    pipeline: Pipeline


@dataclass(frozen=True)
class _Found:
    """What a check found; `size` None where it cannot be measured."""

    present: bool
    size: float | None
    unit: str
    detail: str


def audit(
    all_sections: Sequence[AnnData], fold: splits.Fold, pipeline: Pipeline | None = None
) -> pd.DataFrame:
    """List every way in which a held-out section reaches training or truth.

    No network is trained; it takes seconds.

    Parameters
    ----------
    all_sections
        Sections with counts.
    fold
        Which are trained on and which are held out.
    pipeline
        What is done with them; the clean way by default.

    Returns
    -------
    DataFrame
        One row per leak: ``found`` is ``"yes"`` or ``"no"``; ``size`` and its ``unit`` say how much
        of it there is (NaN where it cannot be measured from the sections alone), ``detail`` what
        was counted, ``remedy`` what to do.

    Raises
    ------
    ValueError
        If the fold does not fit the sections.
    """
    pipeline = Pipeline() if pipeline is None else pipeline
    # The audit reports a donor on both sides; it must not stop at it.
    named = splits.by_name(all_sections, [splits.Fold(fold.training, fold.test)])
    training = [named[name] for name in fold.training]
    sides = _Sides(
        training, [named[name] for name in fold.test], genes.fit_panel(training), pipeline
    )
    rows = []
    for leak, (check, remedy) in _CHECKS.items():
        found = check(sides)
        rows.append(
            {
                "leak": leak,
                "found": "yes" if found.present else "no",
                "size": np.nan if found.size is None else found.size,
                "unit": found.unit,
                "detail": found.detail,
                "remedy": remedy if found.present else "",
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _shared_donor(sides: _Sides) -> _Found:
    held = {sections.donor_of(test) for test in sides.tests}
    shared = [sections.name_of(s) for s in sides.training if sections.donor_of(s) in held]
    listed = ", ".join(shared) or "none"
    return _Found(bool(shared), len(shared), "training sections", f"of a held-out donor: {listed}")


def _position(sides: _Sides) -> _Found:
    """Skill of registered position, between training sections of the held-out donor."""
    held = {sections.donor_of(test) for test in sides.tests}
    serial = [s for s in sides.training if sections.donor_of(s) in held]
    if not serial:
        return _Found(False, 0.0, "mean r", "no training section of a held-out donor")
    share = float(np.mean([_covered(test, serial) for test in sides.tests]))
    if share == 0 or len(serial) < 2:
        return _Found(
            share > 0,
            share,
            "share of test spots",
            "with a training spot of the same donor within a pitch, outlines registered",
        )
    scores = []
    for held_out in serial:
        others = [s for s in serial if s is not held_out]
        control = Position()
        control.panel = sides.panel
        predicted = control.fit(others).predict(sections.hide_expression(held_out))
        truth = genes.expression(held_out, sides.panel)
        scores.append(np.nanmean(np.nan_to_num(pearson_per_gene(truth, predicted))))
    skill = float(np.mean(scores))
    return _Found(
        skill > 0.02,
        skill,
        "mean r",
        "of position alone, between the donor's training sections",
    )


def _covered(test: AnnData, serial: list[AnnData]) -> float:
    from scipy.spatial import cKDTree

    own = registration.positions_um(test)
    laid = [registration.register(s, test).apply(registration.positions_um(s)) for s in serial]
    nearest = cKDTree(np.concatenate(laid)).query(own)[0]
    return float((nearest <= sections.spot_pitch_um(test)).mean())


def _duplicates(sides: _Sides) -> _Found:
    known = {_spot_key(s, i) for s in sides.training for i in range(s.n_obs)}
    counts = [_spot_key(test, i) in known for test in sides.tests for i in range(test.n_obs)]
    return _Found(
        any(counts),
        float(np.mean(counts)),
        "share of test spots",
        "with the counts of a training spot",
    )


def _spot_key(section: AnnData, spot: int) -> tuple:
    row = section.X[spot]
    if hasattr(row, "toarray"):
        row = row.toarray()
    row = np.asarray(row).ravel()
    seen = np.flatnonzero(row)
    return tuple(zip(section.var_names[seen], row[seen].tolist(), strict=True))


def _pixels(sides: _Sides) -> _Found:
    """Share of test spots whose context shows pixels that a training spot's context shows too."""
    touched, total = 0, 0
    for test in sides.tests:
        total += test.n_obs
        same = [s for s in sides.training if _source(s) == _source(test)]
        if not same:
            continue
        here = _views(test, sides.pipeline.context_um)
        there = np.concatenate([_views(s, sides.pipeline.context_um) for s in same])
        touched += sum(_overlaps(box, there) for box in here)
    return _Found(
        touched > 0,
        touched / total,
        "share of test spots",
        f"whose context of {sides.pipeline.context_um:g} um shares pixels with a training spot's",
    )


def _source(section: AnnData) -> object:
    """The slide behind a section, whatever of it is painted over."""
    entry = section.uns["spatial"][sections.name_of(section)]
    path = entry.get("metadata", {}).get("source_image_path")
    return path if path is not None else entry["images"]["fullres"].tobytes()


def _views(section: AnnData, context_um: float) -> np.ndarray:
    """Boxes (x0, y0, x1, y1) that spots look at, without what is painted over at their edges."""
    reach = context_um / sections.um_per_px(section)
    places = section.obsm["spatial"]
    boxes = np.hstack([places - reach, places + reach])
    entry = section.uns["spatial"][sections.name_of(section)]
    masks = np.asarray(entry.get("metadata", {}).get("masked_regions", ())).reshape(-1, 4)
    for x0, y0, x1, y1 in masks:
        rows = (boxes[:, 1] < y1) & (boxes[:, 3] > y0)
        columns = (boxes[:, 0] < x1) & (boxes[:, 2] > x0)
        x, y = places.T
        boxes[:, 0] = np.where(rows & columns & (x >= x1), np.maximum(boxes[:, 0], x1), boxes[:, 0])
        boxes[:, 2] = np.where(rows & columns & (x < x0), np.minimum(boxes[:, 2], x0), boxes[:, 2])
        columns = (boxes[:, 0] < x1) & (boxes[:, 2] > x0)
        inside = rows & columns & (x >= x0) & (x < x1)
        boxes[:, 1] = np.where(inside & (y >= y1), np.maximum(boxes[:, 1], y1), boxes[:, 1])
        boxes[:, 3] = np.where(inside & (y < y0), np.minimum(boxes[:, 3], y0), boxes[:, 3])
    return boxes


def _overlaps(box: np.ndarray, others: np.ndarray) -> bool:
    wide = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    tall = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return bool(((wide > 0) & (tall > 0)).any())


def _panel(sides: _Sides) -> _Found:
    peeking = sides.pipeline.panel_fitted_on == "all"
    if not peeking:
        return _Found(False, 0.0, "genes", "panel chosen on training sections")
    every = genes.fit_panel(sides.training + sides.tests)
    changed = {
        name: len(set(every.sets[name]) - set(chosen)) for name, chosen in sides.panel.sets.items()
    }
    listed = ", ".join(f"{number} of {name}" for name, number in changed.items())
    return _Found(
        True, float(sum(changed.values())), "genes", f"only chosen with the test: {listed}"
    )


def _transforms(sides: _Sides) -> _Found:
    peeking = sides.pipeline.transforms_fitted_on == "all"
    if not peeking:
        return _Found(False, 0.0, "sd", "scaling and components fitted on training sections")
    measured = [_measured(s, sides.panel) for s in sides.training]
    held = [_measured(s, sides.panel) for s in sides.tests]
    alone, every = np.concatenate(measured), np.concatenate(measured + held)
    shift = np.abs(every.mean(0) - alone.mean(0)) / np.maximum(alone.std(0), 1e-6)
    return _Found(
        True, float(shift.mean()), "sd", "by which the mean of a gene moves when the test is let in"
    )


def _measured(section: AnnData, panel: genes.GenePanel) -> np.ndarray:
    return genes.expression(section, panel, absent=0.0)


def _corrected_truth(sides: _Sides) -> _Found:
    joint = sides.pipeline.batch_correction == "joint"
    scored = sides.pipeline.truth == "corrected"
    if not (joint or scored):
        return _Found(False, 0.0, "mean r", "held-out values stay as measured")
    given = [_measured(s, sides.panel) for s in sides.training + sides.tests]
    after = np.concatenate(harmonise_expression(given)[len(sides.training) :])
    before = np.concatenate(given[len(sides.training) :])
    r = np.nanmean(pearson_per_gene(before, after))
    kept = np.nanmean(after.var(0) / np.where(before.var(0) > 0, before.var(0), np.nan))
    what = "the corrected values are the truth" if scored else "training saw the held-out section"
    return _Found(
        True,
        float(r),
        "mean r",
        f"of measured with jointly corrected test values ({kept:.0%} of their variance); {what}",
    )


def _smoothed(sides: _Sides) -> _Found:
    if sides.pipeline.targets == "measured":
        return _Found(False, 0.0, "share of variance", "targets are the measured values")
    lost = []
    for test in sides.tests:
        values = _measured(test, sides.panel)
        graph = genes.neighbour_graph(test)
        degree = np.asarray(graph.sum(axis=1)).ravel()[:, None]
        smooth = (values + graph @ values) / (1 + degree)
        varies = values.var(0) > 0
        lost.append(1 - (smooth.var(0)[varies] / values.var(0)[varies]).mean())
    return _Found(
        True,
        float(np.mean(lost)),
        "share of variance",
        "of the truth that averaging with the neighbours takes away",
    )


def _transductive(sides: _Sides) -> _Found:
    adapted = sides.pipeline.adaptation == "transductive"
    detail = (
        "the model was fitted to the held-out image; how much that helps needs a run without it"
        if adapted
        else "nothing is fitted on held-out images"
    )
    return _Found(adapted, None if adapted else 0.0, "", detail)


_CHECKS: dict[str, tuple[Callable[[_Sides], _Found], str]] = {
    "shared donor": (_shared_donor, "Hold out whole donors, or say that it is a serial section."),
    "position overlap": (_position, "Show the position control beside every result."),
    "duplicated spots": (_duplicates, "Drop copies before splitting."),
    "shared pixels": (_pixels, "Use spatial_blocks, whose pieces share no pixel."),
    "panel chosen with test": (_panel, "Fit the panel on the training sections."),
    "transforms fitted on all": (_transforms, "Fit scaling and components on training sections."),
    "batch-corrected truth": (
        _corrected_truth,
        "Correct training sections only, and score against measured values.",
    ),
    "smoothed targets": (_smoothed, "Score against measured values."),
    "transductive adaptation": (_transductive, "Report it beside the run without it."),
}
