"""Evidence: splits, metrics, and the contest that puts every method through the same test."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from heclip_lite import genes, sections

COLUMNS = [
    "method",
    "setting",
    "split",
    "fold",
    "seed",
    "gene_set",
    "metric",
    "n_spots",
    "n_genes",
    "n_undefined",
    "n_constant",
    "value",
]


# -- splits ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """Names of the sections to train on and to test on."""

    training: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        both = set(self.training) & set(self.test)
        if not self.training or not self.test or both:
            raise ValueError(
                f"A fold needs sections on both sides and none on both, but trains on "
                f"{self.training or 'nothing'} and tests on {self.test or 'nothing'}."
            )


def leave_one_out(all_sections: Sequence[AnnData], unit: str) -> list[Fold]:
    """One fold per section, or per donor: test on it, train on all others.

    Parameters
    ----------
    all_sections
        What there is.
    unit
        ``"section"`` or ``"donor"``.

    Raises
    ------
    ValueError
        If there is only one unit, or the unit is unknown.
    """
    if unit not in ("section", "donor"):
        raise ValueError(f"unit is {unit!r}; use 'section' or 'donor'.")
    of = sections.name_of if unit == "section" else sections.donor_of
    unit_of = {sections.name_of(s): of(s) for s in all_sections}
    units = list(dict.fromkeys(unit_of.values()))
    if len(units) < 2:
        raise ValueError(
            f"There is only one {unit} ({', '.join(units)}), so nothing is left to train on; "
            f"add another {unit}."
        )
    return [
        Fold(
            training=tuple(name for name, other in unit_of.items() if other != held_out),
            test=tuple(name for name, other in unit_of.items() if other == held_out),
        )
        for held_out in units
    ]


def _by_name(all_sections: Sequence[AnnData], split: Sequence[Fold]) -> dict[str, AnnData]:
    sections.check_sections(all_sections)
    by_name = {sections.name_of(s): s for s in all_sections}
    for name in (name for fold in split for name in fold.training + fold.test):
        if name not in by_name:
            raise ValueError(f"The split names section {name!r}; there are {', '.join(by_name)}.")
    return by_name


# -- metrics --------------------------------------------------------------------------------


def _check_pair(true: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.ndim != 2 or true.shape != predicted.shape:
        raise ValueError(
            f"true has shape {true.shape} and predicted {predicted.shape}; both must be "
            "(spots, genes) with the same spots and genes in the same order."
        )
    for name, values in (("true", true), ("predicted", predicted)):
        if not np.isfinite(values).all():
            spot, gene = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"{name} is not finite, first at spot {spot}, gene {gene}.")
    return true, predicted


def pearson_per_gene(true: Any, predicted: Any) -> np.ndarray:
    """Pearson correlation over spots, gene by gene.

    Parameters
    ----------
    true, predicted
        (spots, genes), the same spots and genes in the same order.

    Returns
    -------
    ndarray, (genes,)
        NaN where the truth or the prediction is constant.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.

    Examples
    --------
    >>> true = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> pearson_per_gene(true, 2 * true)
    array([ 1., nan])
    """
    true, predicted = _check_pair(true, predicted)
    constant = _constant(true) | _constant(predicted)
    t, p = true - true.mean(0), predicted - predicted.mean(0)
    scale = np.sqrt((t**2).sum(0) * (p**2).sum(0))
    scale[constant] = np.nan
    return np.clip((t * p).sum(0) / scale, -1, 1)


def _constant(values: np.ndarray) -> np.ndarray:
    return values.max(0) == values.min(0)


def hit_at_k(true: Any, predicted: Any, *, k: int) -> float:
    """Share of spots whose `k` highest true and predicted genes have any gene in common.

    As HECLIP's released code defines it: kept to show why it says little.
    The highest genes of a tissue hardly change from spot to spot, so that predicting the mean
    everywhere scores close to 1.

    Raises
    ------
    ValueError
        If shapes differ, values are not finite or k is not between 1 and the genes.
    """
    true, predicted = _check_pair(true, predicted)
    if not 1 <= k <= true.shape[1]:
        raise ValueError(f"k is {k}, but there are {true.shape[1]} genes.")
    tops = [np.argsort(values, axis=1)[:, -k:] for values in (true, predicted)]
    return float((tops[0][:, :, None] == tops[1][:, None, :]).any((1, 2)).mean())


def rmse_per_gene(true: Any, predicted: Any) -> np.ndarray:
    """Root mean squared error over spots, gene by gene, in log1p units; (genes,)."""
    true, predicted = _check_pair(true, predicted)
    return np.sqrt(((true - predicted) ** 2).mean(0))


def _scored(metric: str, true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Values per gene, with how many were left out and how many score 0.

    A gene constant in the truth is left out for every method (NaN).
    A prediction constant where the truth varies knows nothing about the gene and scores 0.
    """
    if metric == "rmse":
        return rmse_per_gene(true, predicted), 0, 0
    values = pearson_per_gene(true, predicted)
    undefined = _constant(true)
    flat = _constant(predicted) & ~undefined
    values[flat] = 0.0
    return values, int(undefined.sum()), int(flat.sum())


METRICS = ("pearson", "rmse")


# -- contest --------------------------------------------------------------------------------


def contest(
    methods: Mapping[str, Any],
    all_sections: Sequence[AnnData],
    split: Sequence[Fold],
    *,
    seeds: Sequence[int] = (0,),
    gene_sets: Sequence[str] | None = None,
    predictions: dict[tuple[str, str], np.ndarray] | None = None,
) -> pd.DataFrame:
    """Put methods through the same test: fit on training sections, predict held-out ones.

    Everything is fitted on training sections only, the gene panel included.
    `predict` receives the image and the spot positions of the held-out section, never its counts.

    Parameters
    ----------
    methods
        Unfitted methods by the name they shall have in the table.
        Anything with ``fit(sections)`` and ``predict(section)`` can enter; before `fit` it is
        given ``.panel``, whose genes it must predict in that order.
    all_sections
        Sections with counts.
    split
        Folds, such as :func:`leave_one_out` gives.
    seeds
        Each method with randomness is fitted once per seed.
    gene_sets
        Which sets of the panel to score; all by default.
    predictions
        If a dictionary is given, the prediction of each method for each test section is kept in
        it under ``(method, section)``, for the last seed.

    Returns
    -------
    DataFrame
        One row per method, test section (``fold``), seed, gene set and metric.
        ``split`` is ``"donor"`` where no training section is of the test section's donor, else
        ``"section"``: serial sections of one donor mostly test location.
        ``value`` is the mean over the genes of the set inside one section.
        ``n_undefined`` counts genes constant in the truth, or not listed by the section, left out
        for all methods;
        ``n_constant`` counts predictions constant where the truth varies, scored 0.

    Raises
    ------
    ValueError
        If a method returns the wrong shape, values that are not finite, or lacks genes.
    """
    by_name = _by_name(all_sections, split)
    rows: list[dict[str, Any]] = []
    rounds = [(fold, name, seed) for fold in split for name in methods for seed in seeds]
    panels: dict[tuple[str, ...], genes.GenePanel] = {}
    for fold, name, seed in tqdm(rounds, desc="contest", unit="fit", leave=False):
        training = [by_name[n] for n in fold.training]
        if fold.training not in panels:
            panels[fold.training] = genes.fit_panel(training)
        panel = panels[fold.training]
        known_donors = {sections.donor_of(section) for section in training}
        method = copy.copy(methods[name])
        if hasattr(method, "with_seed"):
            method = method.with_seed(seed)
        method.panel = panel
        method.fit(training)
        for test_name in fold.test:
            test = by_name[test_name]
            truth = genes.expression(test, panel, absent=0.0)  # constant, hence left out
            predicted = _checked(name, method, test, panel)
            kind = "section" if sections.donor_of(test) in known_donors else "donor"
            if predictions is not None:
                predictions[name, test_name] = predicted
            for gene_set in gene_sets or panel.sets:
                columns = panel.index(gene_set)
                for metric in METRICS:
                    values, undefined, constant = _scored(
                        metric, truth[:, columns], predicted[:, columns]
                    )
                    rows.append(
                        {
                            "method": name,
                            "setting": getattr(method, "setting", "ours"),
                            "split": kind,
                            "fold": test_name,
                            "seed": seed,
                            "gene_set": gene_set,
                            "metric": metric,
                            "n_spots": len(truth),
                            "n_genes": len(values) - undefined,
                            "n_undefined": undefined,
                            "n_constant": constant,
                            "value": float(np.nanmean(values)),
                        }
                    )
    return pd.DataFrame(rows, columns=COLUMNS)


def _checked(name: str, method: Any, test: AnnData, panel: genes.GenePanel) -> np.ndarray:
    """The prediction of the panel's genes in its order, or an error that names the fault."""
    columns = tuple(getattr(method, "genes", panel.genes))
    predicted = np.asarray(method.predict(sections.hide_expression(test)))
    place = f"{name} on section {sections.name_of(test)}"
    if predicted.shape != (test.n_obs, len(columns)):
        raise ValueError(
            f"{place}: predict returned shape {predicted.shape}, but "
            f"{(test.n_obs, len(columns))} (spots, genes) is needed."
        )
    if not np.isfinite(predicted).all():
        spot, gene = np.argwhere(~np.isfinite(predicted))[0]
        raise ValueError(
            f"{place}: a predicted value is not finite, first at spot {spot}, gene {columns[gene]}."
        )
    order = pd.Index(columns).get_indexer(list(panel.genes))
    if (order < 0).any():
        lacking = np.array(panel.genes)[order < 0]
        raise ValueError(
            f"{place}: {len(lacking)} genes of the panel are missing, the first is {lacking[0]}; "
            "predict every gene of self.panel.genes."
        )
    return predicted[:, order]
