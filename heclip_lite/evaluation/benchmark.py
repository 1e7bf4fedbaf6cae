"""Evidence: the contest that puts every method through the same test.

Splits are in `splits`, metrics in `metrics`, intervals in `bootstrap`, ceilings in `ceilings`;
this module brings them together.
"""

from __future__ import annotations

import copy
import inspect
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from heclip_lite import config, store
from heclip_lite.data import genes, sections
from heclip_lite.evaluation import metrics, splits
from heclip_lite.evaluation.metrics import hit_at_k, pearson_per_gene, rmse_per_gene
from heclip_lite.evaluation.splits import Fold, leave_one_out, spatial_blocks
from heclip_lite.features import encoders
from heclip_lite.methods.base import Method

__all__ = [
    "COLUMNS",
    "Fold",
    "contest",
    "describe",
    "hit_at_k",
    "leave_one_out",
    "pearson_per_gene",
    "rmse_per_gene",
    "seeds_of",
    "spatial_blocks",
]

COLUMNS = [
    "method",
    "setting",
    "encoder",
    "weights",
    "split",
    "fold",
    "seed",
    "gene_set",
    "metric",
    "scope",
    "n_spots",
    "n_genes",
    "n_undefined",
    "n_constant",
    "value",
]
FIXED = "fixed"  # the gene set that is the same in every fold
# Folders whose code decides what a method predicts.
METHODS_REST_ON = ("core", "data", "features", "methods")
MIN_LISTED = 0.5  # share of the panel that a held-out section must list
# Correlations of a constant prediction are scored 0 and counted.
CORRELATIONS = {"pearson", "partial_pearson", "spearman", "pearson_true"}
POOLED = ("pearson", "partial_pearson", "spearman", "rmse", "pearson_true")
KnownTruth = Callable[[AnnData], np.ndarray]


@dataclass
class _Scored:
    """One prediction of one held-out section with all it is compared with."""

    method: str
    facts: dict[str, str]  # setting, encoder, weights
    split: str
    fold: str
    seed: int
    panel: genes.GenePanel
    truth: np.ndarray
    predicted: np.ndarray
    log_depth: np.ndarray
    known: np.ndarray | None
    section: AnnData | None = field(repr=False)  # None where spots of several sections are pooled

    @property
    def scope(self) -> str:
        return "pooled" if self.section is None else "per_section"


def contest(
    methods: Mapping[str, Any],
    all_sections: Sequence[AnnData],
    split: Sequence[Fold],
    *,
    seeds: Sequence[int] = (0,),
    gene_sets: Sequence[str] | None = None,
    fixed: Sequence[str] | None = None,
    known_truth: KnownTruth | None = None,
    predictions: dict[tuple[str, str], np.ndarray] | None = None,
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Put methods through the same test: fit on training sections, predict held-out ones.

    Everything is fitted on training sections only, the gene panel included.
    `predict` receives the image and the spot positions of the held-out section, never its counts.
    An oracle (something with an attribute ``reveals``) is told what it names, and nothing else.

    Each prediction is kept on disk under a key of the method's code and settings, the training
    sections, the panel and the seed.
    A contest that was stopped goes on where it stopped, and nothing is computed twice.
    Methods of your own take part in that if their class has a ``version`` (see :func:`describe`).

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
        Methods with randomness are fitted once per seed, others once.
    gene_sets
        Which sets of the panel to score; all by default.
    fixed
        Genes of a set ``"fixed"`` that is the same in every fold, chosen without looking at any of
        these sections.
    known_truth
        Gives the true log1p expression (spots, genes of the section) of a section, where it is
        known; adds the metric ``pearson_true``.
    predictions
        If a dictionary is given, the prediction of each method for each test section is kept in
        it under ``(method, section)``, for the last seed.
    folder
        Where predictions are kept; ``contest`` in the cache folder by default.

    Returns
    -------
    DataFrame
        One row per method, test section (``fold``), seed, gene set and metric.
        ``split`` is what was held out: ``"donor"``, ``"section"`` (serial sections of one donor
        mostly test location) or ``"block"``.
        ``scope`` is ``"per_section"`` (inside one section, averaged over genes) or ``"pooled"``
        (all test spots of the split thrown together, ``fold`` is ``"all"``, only genes that are in
        the set in every fold).
        ``n_undefined`` counts genes constant in the truth, or not listed by the section, left out
        for all methods; ``n_constant`` counts predictions constant where the truth varies, whose
        correlation is scored 0.

    Raises
    ------
    ValueError
        If the split does not fit the sections, a gene set is larger than the panel or unknown,
        a section lists too few of the panel's genes, or a method returns the wrong shape, values
        that are not finite, or lacks genes.
    """
    by_name = splits.by_name(all_sections, split)
    _check_fixed(fixed, by_name.values())
    rounds = [(fold, name) for fold in split for name in methods]
    panels: dict[tuple[str, ...], genes.GenePanel] = {}
    rows: list[dict[str, Any]] = []
    scored: list[_Scored] = []
    with tqdm(rounds, desc="contest", unit="method", leave=False) as shown:
        for fold, name in shown:
            shown.set_postfix_str(f"{name} on {', '.join(fold.test)}")
            training = [by_name[n] for n in fold.training]
            tests = [by_name[n] for n in fold.test]
            if fold.training not in panels:
                panels[fold.training] = _panel(training, gene_sets, fixed)
            panel = panels[fold.training]
            for seed in seeds_of(methods[name], seeds):
                found = predictions_of(
                    name, methods[name], training, tests, panel, seed=seed, folder=folder
                )
                for test in tests:
                    one = _Scored(
                        method=name,
                        facts=_facts(methods[name]),
                        split=splits.kind_of(fold, training, test),
                        fold=sections.name_of(test),
                        seed=seed,
                        panel=panel,
                        truth=_truth(test, panel),
                        predicted=found[sections.name_of(test)],
                        log_depth=np.log(_depth(test)),
                        known=_known(known_truth, test, panel),
                        section=test,
                    )
                    rows += _rows(one, gene_sets)
                    scored.append(one)
                    if predictions is not None:
                        predictions[name, one.fold] = one.predicted
    for group in _groups(scored):
        rows += _rows(_pool(group), gene_sets)
    return pd.DataFrame(rows, columns=COLUMNS)


# -- what a contest needs of sections ---------------------------------------------------------


def _panel(
    training: list[AnnData], gene_sets: Sequence[str] | None, fixed: Sequence[str] | None
) -> genes.GenePanel:
    panel = genes.fit_panel(training)
    if fixed is not None:
        panel = panel.with_set(FIXED, fixed)
    for name in gene_sets or ():
        panel.index(name)  # says which sets there are
    return panel


def _check_fixed(fixed: Sequence[str] | None, all_sections: Any) -> None:
    for section in all_sections if fixed is not None else ():
        absent = [gene for gene in fixed if gene not in section.var_names]
        if absent:
            raise ValueError(
                f"Section {sections.name_of(section)!r} lacks {len(absent)} of {len(fixed)} genes "
                f"of the fixed set, first {absent[0]!r}; choose genes that all sections list."
            )


def _truth(test: AnnData, panel: genes.GenePanel) -> np.ndarray:
    listed = test.var_names.get_indexer(list(panel.genes)) >= 0
    if listed.mean() < MIN_LISTED:
        raise ValueError(
            f"Section {sections.name_of(test)!r} lists only {listed.sum()} of the "
            f"{len(listed)} genes of the panel, the first it lacks is "
            f"{np.array(panel.genes)[~listed][0]!r}. Name genes alike in all sections."
        )
    return genes.expression(test, panel, absent=0.0)  # not listed: constant, hence left out


def _depth(section: AnnData) -> np.ndarray:
    """Total counts of each spot, (spots,)."""
    return np.asarray(section.X.sum(axis=1), dtype=np.float64).ravel()


def _known(
    known_truth: KnownTruth | None, test: AnnData, panel: genes.GenePanel
) -> np.ndarray | None:
    if known_truth is None:
        return None
    columns = test.var_names.get_indexer(list(panel.genes))
    return np.asarray(known_truth(test), dtype=np.float64)[:, columns]


# -- predictions, each computed once ----------------------------------------------------------


def seeds_of(method: Any, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds that make a difference: one for a method without randomness."""
    if not hasattr(method, "with_seed") or method.with_seed(seeds[0]) is method:
        return seeds[:1]
    return seeds


def predictions_of(
    name: str,
    method: Any,
    training: Sequence[AnnData],
    tests: Sequence[AnnData],
    panel: genes.GenePanel,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """What one method says of sections whose expression it may not see, as in a contest.

    Parameters
    ----------
    name
        Of the method, for messages.
    method
        Unfitted.
    training, tests
        Sections with counts; those of `tests` are hidden from the method.
    panel
        Genes to predict, fitted on the training sections.
    seed
        Of the method, if it has any randomness.
    folder
        Where predictions are kept and found again; ``contest`` in the cache folder by default.

    Returns
    -------
    dict of str to ndarray
        float32 (spots, genes of the panel) by the name of the test section.

    Raises
    ------
    ValueError
        If the method returns the wrong shape, values that are not finite, or lacks genes.
    """
    folder = store.cache_dir() / "contest" if folder is None else Path(folder)
    method = copy.copy(method)
    if hasattr(method, "with_seed"):
        method = method.with_seed(seed)
    method.panel = panel
    described = describe(method)
    path = None
    if described is not None:
        held_out = [sections.section_key(test) for test in tests]
        key = store.content_key(
            described, [sections.section_key(s) for s in training], held_out, panel.to_dict()
        )
        path = folder / f"{key}.npz"
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    return {
                        sections.name_of(t): kept[f"prediction.{i}"] for i, t in enumerate(tests)
                    }
            except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
                warnings.warn(f"{path} is damaged ({error}); computing it again.", stacklevel=2)
    started = time.perf_counter()
    method.fit(list(training))
    found = [_checked(name, method, test, panel) for test in tests]
    if path is not None:
        seconds = np.float64(time.perf_counter() - started)
        with store.atomic_path(path) as temporary:
            arrays = {f"prediction.{i}": values for i, values in enumerate(found)}
            np.savez(temporary, seconds=seconds, **arrays)
    return {sections.name_of(test): values for test, values in zip(tests, found, strict=True)}


def describe(method: Any) -> str | None:
    """Code and settings of an unfitted method as text; None if they cannot be told apart.

    What a class from outside this package depends on cannot be seen from here.
    It takes part like any other, but its predictions are kept only if it has an attribute
    ``version``, a text that changes whenever its results may.
    A method with an array among its settings is computed anew each time as well.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, config.Encoder):
            return encoders.fingerprint(value)  # the weights themselves, wherever the file lies
        if is_dataclass(value):
            return [
                type(value).__name__,
                {f.name: plain(getattr(value, f.name)) for f in fields(value)},
            ]
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if hasattr(value, "fit") and hasattr(value, "predict"):
            settings = {k: v for k, v in vars(value).items() if k not in _NOT_SETTINGS}
            return [type(value).__qualname__, _code_of(type(value)), plain(settings)]
        if inspect.isfunction(value) and value.__module__.startswith("heclip_lite."):
            return [value.__qualname__, _code_of(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{type(value).__name__} has no plain form")

    try:
        return json.dumps(plain(method), sort_keys=True)
    except TypeError:
        return None


# Where training states go, and what the contest itself sets, do not change a prediction.
_NOT_SETTINGS = {"checkpoint", "panel"}


def _code_of(kind: type | Callable) -> str:
    if kind.__module__.startswith("heclip_lite."):
        return store.code_key(*METHODS_REST_ON)
    if not isinstance(getattr(kind, "version", None), str):
        raise TypeError(f"{kind.__name__} names no version")
    return store.content_key(kind.version, store.code_key(*METHODS_REST_ON))


def _checked(name: str, method: Any, test: AnnData, panel: genes.GenePanel) -> np.ndarray:
    """The prediction of the panel's genes in its order, or an error that names the fault."""
    columns = tuple(getattr(method, "genes", panel.genes))
    hidden = sections.hide_expression(test)
    reveals = getattr(method, "reveals", None)
    if reveals is None:
        predicted = np.asarray(method.predict(hidden))
    else:
        told = {"depth": _depth, "expression": lambda s: _truth(s, panel)}[reveals](test)
        predicted = np.asarray(method.predict(hidden, told))
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
    return predicted[:, order].astype(np.float32)


def _facts(method: Any) -> dict[str, str]:
    """What stands in the table about a method: its setting, encoders and their weights."""
    found: dict[str, str] = {}

    def look(value: Any) -> None:
        if isinstance(value, config.Encoder):
            local = value.weights not in ("random", "pretrained")
            path = Path(value.weights).expanduser()
            found[value.name] = f"local:{store.file_hash(path)[:12]}" if local else value.weights
        elif isinstance(value, config.PatchInput | config.MapInput):
            look(value.encoder)
        elif isinstance(value, Method):
            for inner in vars(value).values():
                look(inner)
        elif isinstance(value, list | tuple) and any(isinstance(v, Method) for v in value):
            for inner in value:
                look(inner)

    look(method)
    return {
        "setting": getattr(method, "setting", "ours"),
        "encoder": "+".join(found) or "none",
        "weights": "+".join(dict.fromkeys(found.values())) or "none",
    }


# -- scores -----------------------------------------------------------------------------------


def _rows(one: _Scored, gene_sets: Sequence[str] | None) -> list[dict[str, Any]]:
    """All metrics of one prediction, a row per gene set and metric."""
    graph = None if one.section is None else metrics.graph_of(one.section)
    values = metrics.per_gene(one.truth, one.predicted, log_depth=one.log_depth, graph=graph)
    if one.known is not None:
        values["pearson_true"] = metrics.per_gene(one.known, one.predicted)["pearson"]
    if one.section is None:
        values = {metric: v for metric, v in values.items() if metric in POOLED}
    varies = one.truth.max(0) > one.truth.min(0)
    flat = varies & (one.predicted.max(0) == one.predicted.min(0))
    shared = {
        "method": one.method,
        **one.facts,
        "split": one.split,
        "fold": one.fold,
        "seed": one.seed,
        "scope": one.scope,
        "n_spots": len(one.truth),
    }
    rows = []
    for gene_set in gene_sets or one.panel.sets:
        if gene_set not in one.panel.sets:
            continue  # pooled over folds that share no gene of this set
        columns = one.panel.index(gene_set)
        means = {}
        for metric, per_gene in values.items():
            chosen = per_gene[columns]
            left = np.isfinite(chosen)
            constant = int(flat[columns].sum()) if metric in CORRELATIONS else 0
            means[metric] = (float(chosen[left].mean()) if left.any() else np.nan, left, constant)
        if one.section is not None:
            every = np.ones(len(columns), dtype=bool)
            true, predicted = one.truth[:, columns], one.predicted[:, columns]
            means["gene_gene"] = (metrics.gene_gene(true, predicted), varies[columns], 0)
            hit = metrics.hit_at_k(true, predicted, k=min(5, len(columns)))
            means["hit_at_5"] = (hit, every, 0)
        rows += [
            {
                **shared,
                "gene_set": gene_set,
                "metric": metric,
                "n_genes": int(left.sum()),
                "n_undefined": int((~left).sum()),
                "n_constant": constant,
                "value": value,
            }
            for metric, (value, left, constant) in means.items()
        ]
    return rows


def _groups(scored: Sequence[_Scored]) -> list[list[_Scored]]:
    """Predictions of one method, split and seed for several sections."""
    groups: dict[tuple[str, str, int], list[_Scored]] = {}
    for one in scored:
        groups.setdefault((one.method, one.split, one.seed), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def _pool(group: list[_Scored]) -> _Scored:
    """Spots of several sections thrown together, as much of the literature does it."""
    first = group[0]
    sets = {
        name: tuple(g for g in genes_ if all(g in one.panel.sets[name] for one in group))
        for name, genes_ in first.panel.sets.items()
    }
    sets = {name: kept for name, kept in sets.items() if kept}
    panel = genes.GenePanel(tuple(dict.fromkeys(g for s in sets.values() for g in s)), sets)
    columns = [pd.Index(one.panel.genes).get_indexer(list(panel.genes)) for one in group]

    def stack(what: str) -> np.ndarray:
        return np.concatenate(
            [getattr(one, what)[:, c] for one, c in zip(group, columns, strict=True)]
        )

    return _Scored(
        method=first.method,
        facts=first.facts,
        split=first.split,
        fold="all",
        seed=first.seed,
        panel=panel,
        truth=stack("truth"),
        predicted=stack("predicted"),
        log_depth=np.concatenate([one.log_depth for one in group]),
        known=None if first.known is None else stack("known"),
        section=None,
    )
