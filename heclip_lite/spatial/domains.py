"""Spatial domains: group spots by what they express or look like, and score the groups."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from heclip_lite import store
from heclip_lite.data import genes, sections

METHODS = ("kmeans", "mixture", "leiden")
_NEIGHBOURS = 15  # of each spot in the graph that Leiden cuts up
_STEPS = 30  # bisections of the resolution before giving up
SCORES = (
    *("ari", "nmi", "homogeneity", "completeness", "macro_f1", "majority_macro_f1"),
    *("coherence", "n_spots"),
)


class NoSuchNumber(ValueError):
    """No resolution gives the wanted number of domains."""


def find_domains(
    section: AnnData,
    n_domains: int,
    method: str = "kmeans",
    *,
    features: np.ndarray | None = None,
    components: int = 20,
    smooth: int = 0,
    seed: int = 0,
    key: str = "found",
) -> AnnData:
    """Group the spots of a section into domains.

    Parameters
    ----------
    section
        The section; its labels, if it has any, are not read.
    n_domains
        How many groups.
    method
        ``"kmeans"``; ``"mixture"``: a Gaussian mixture whose groups share one covariance, as in
        mclust's EEE; ``"leiden"``: communities of the nearest-neighbour graph, at the resolution
        that gives `n_domains` of them.
    features
        (spots, features): predicted expression, hidden features, a description of the image,
        or several side by side.
        By default the measured expression: log-normalised, the 2,000 most variable genes.
    components
        Principal components kept of the features.
    smooth
        How many times each spot is averaged with its neighbours on the slide before grouping.
    seed
        Of everything random.
    key
        Column of ``obs`` for the groups.

    Returns
    -------
    AnnData
        A copy of `section` with ``obs[key]``, categories ``"1"``, ``"2"``, ... by falling size.

    Raises
    ------
    ValueError
        If there are fewer spots than domains, a feature is not finite, all features are
        constant, or the method is unknown.
    NoSuchNumber
        If no resolution of Leiden gives the wanted number.
    """
    if method not in METHODS:
        raise ValueError(f"The method {method!r} is unknown; use one of {', '.join(METHODS)}.")
    if not 2 <= n_domains <= section.n_obs:
        raise ValueError(
            f"n_domains is {n_domains}, but section {sections.name_of(section)!r} has "
            f"{section.n_obs} spots; choose from 2 to {section.n_obs}."
        )
    values = _checked(section, expression(section) if features is None else features)
    values = _components(values, components, seed)
    if smooth:
        values = smoothed(section, values, smooth)
    group = {"kmeans": _kmeans, "mixture": _mixture, "leiden": _leiden}[method]
    with threadpool_limits(1):  # spots are few: a second thread costs more than it brings
        labels = group(values, n_domains, seed)
    order = pd.Series(labels).value_counts().index
    names = {label: str(number) for number, label in enumerate(order, start=1)}
    found = section.copy()
    found.obs[key] = pd.Categorical(
        [names[label] for label in labels], categories=list(names.values())
    )
    return found


def expression(section: AnnData, n_genes: int = 2000) -> np.ndarray:
    """Measured log-normalised expression of the most variable genes, (spots, genes)."""
    panel = genes.fit_panel([section], n_hvg=n_genes)
    values = genes.expression(section, panel)
    return values[:, panel.index(f"hvg{n_genes}")]


def _checked(section: AnnData, features: np.ndarray) -> np.ndarray:
    values = np.asarray(features, dtype=np.float64)
    place = f"Section {sections.name_of(section)!r}"
    if values.ndim != 2 or len(values) != section.n_obs:
        raise ValueError(
            f"{place}: features have shape {values.shape}; give ({section.n_obs}, features), one "
            "row per spot."
        )
    if not np.isfinite(values).all():
        bad = section.obs_names[~np.isfinite(values).all(axis=1)][0]
        raise ValueError(f"{place}: the features of spot {bad!r} are not finite.")
    varies = np.ptp(values, axis=0) > 0
    if not varies.any():
        raise ValueError(
            f"{place}: all {values.shape[1]} features are constant, so there is nothing to group "
            "spots by."
        )
    return values[:, varies]


def _components(values: np.ndarray, components: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    kept = min(components, *(side - 1 for side in values.shape))
    return values if kept < 1 else PCA(kept, random_state=seed).fit_transform(values)


def smoothed(section: AnnData, values: np.ndarray, rounds: int = 1) -> np.ndarray:
    """Average each spot with its neighbours on the slide, `rounds` times over.

    Returns
    -------
    ndarray, (spots, features)
    """
    graph = neighbours(section) + sparse.eye(section.n_obs, format="csr")
    graph = sparse.diags(1 / np.asarray(graph.sum(axis=1)).ravel()) @ graph
    for _ in range(rounds):
        values = graph @ values
    return values


def neighbours(section: AnnData) -> sparse.csr_matrix:
    """Squidpy's graph of spots next to one another, (spots, spots), 0 or 1."""
    from heclip_lite.data.lattice import lattice_of

    ring = 6 if lattice_of(section).kind == "hexagonal" else 4
    bare = AnnData(obs=section.obs[[]].copy(), obsm={"spatial": section.obsm["spatial"]})
    squidpy = _squidpy()  # sets the level below when it is first imported
    logger = logging.getLogger("spatialdata._logging")  # squidpy's, which tells of every graph
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        found = squidpy.gr.spatial_neighbors_grid(bare, n_neighs=ring, copy=True)
    finally:
        logger.setLevel(level)
    return found.connectivities.tocsr()


def _squidpy() -> ModuleType:
    """Squidpy, without the warnings about its own docstrings that the first import gives."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is not a valid key", SyntaxWarning)
        import squidpy
    return squidpy


def _kmeans(values: np.ndarray, n_domains: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(n_domains, n_init=10, random_state=seed).fit_predict(values)


def _mixture(values: np.ndarray, n_domains: int, seed: int) -> np.ndarray:
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(n_domains, covariance_type="tied", n_init=5, random_state=seed)
    return model.fit_predict(values)


def _leiden(values: np.ndarray, n_domains: int, seed: int) -> np.ndarray:
    import scanpy as sc

    cells = AnnData(obsm={"X_rep": values})
    reach = min(_NEIGHBOURS, len(values) - 1)
    sc.pp.neighbors(cells, n_neighbors=reach, use_rep="X_rep", random_state=seed)
    low, high, tried = 0.0, 4.0, {}
    for _ in range(_STEPS):
        resolution = (low + high) / 2
        sc.tl.leiden(
            cells, resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False
        )
        found = cells.obs["leiden"].nunique()
        tried[found] = resolution
        if found == n_domains:
            return cells.obs["leiden"].cat.codes.to_numpy()
        low, high = (resolution, high) if found < n_domains else (low, resolution)
    counts = ", ".join(str(count) for count in sorted(tried))
    raise NoSuchNumber(
        f"Leiden finds no resolution with {n_domains} domains; it gave {counts}. Ask for one of "
        "these, or use kmeans or mixture."
    )


# -- scores -----------------------------------------------------------------------------------


def score(section: AnnData, key: str = "found", *, labels: str = "domain") -> dict[str, float]:
    """Compare groups with known domains.

    Parameters
    ----------
    section
        What :func:`find_domains` gave.
    key
        Column of ``obs`` with the groups.
    labels
        Column of ``obs`` with the known domains; spots without one are left out.

    Returns
    -------
    dict
        ``ari``, ``nmi``, ``homogeneity``, ``completeness``; ``macro_f1`` after groups and domains
        were matched one to one; ``coherence``, the share of neighbouring spots in the same group;
        ``majority_macro_f1``, what naming every spot after the largest domain would get (its ARI,
        NMI and homogeneity are 0); ``n_spots``, how many had a label.

    Raises
    ------
    ValueError
        If a column is missing, no spot has a label, or all have the same.
    """
    from sklearn import metrics

    for column, what in ((key, "groups: call find_domains"), (labels, "known domains")):
        if column not in section.obs:
            raise ValueError(
                f"Section {sections.name_of(section)!r}: obs has no {column!r} ({what})."
            )
    known = section.obs[labels].notna().to_numpy()
    true = section.obs.loc[known, labels].astype(str).to_numpy()
    found = section.obs.loc[known, key].astype(str).to_numpy()
    if len(set(true)) < 2:
        raise ValueError(
            f"Section {sections.name_of(section)!r}: {known.sum()} of {section.n_obs} spots have "
            f"a label in obs[{labels!r}], of {len(set(true))} kinds; 2 kinds or more are needed."
        )
    largest = pd.Series(true).mode()[0]
    return {
        "ari": metrics.adjusted_rand_score(true, found),
        "nmi": metrics.normalized_mutual_info_score(true, found),
        "homogeneity": metrics.homogeneity_score(true, found),
        "completeness": metrics.completeness_score(true, found),
        "macro_f1": _matched_f1(true, found),
        "majority_macro_f1": float(
            metrics.f1_score(true, np.full(len(true), largest), average="macro", zero_division=0)
        ),
        "coherence": coherence(section, key),
        "n_spots": float(known.sum()),
    }


def _matched_f1(true: np.ndarray, found: np.ndarray) -> float:
    """Mean over domains of F1, each domain matched with at most one group (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    table = pd.crosstab(true, found)
    both = 2 * table.to_numpy()
    sizes = table.sum(axis=1).to_numpy()[:, None] + table.sum(axis=0).to_numpy()
    f1 = both / sizes
    rows, columns = linear_sum_assignment(-f1)
    return float(f1[rows, columns].sum() / len(table))


def coherence(section: AnnData, key: str = "found") -> float:
    """Share of pairs of neighbouring spots that are in the same group."""
    pairs = neighbours(section).tocoo()
    codes = pd.factorize(section.obs[key])[0]
    return float((codes[pairs.row] == codes[pairs.col]).mean()) if pairs.nnz else float("nan")


def markers(section: AnnData, key: str = "found", *, n: int = 5) -> pd.DataFrame:
    """The genes that set each group apart (Wilcoxon test of scanpy), best first.

    Returns
    -------
    DataFrame
        ``group``, ``gene``, ``score``, ``log_fold_change``, ``p_adjusted``; `n` rows per group.
    """
    import scanpy as sc

    tested = section.copy()
    tested.X = genes.log_normalise(tested.X.toarray())
    large = tested.obs[key].value_counts().loc[lambda size: size > 1].index.tolist()
    sc.tl.rank_genes_groups(tested, key, groups=large, method="wilcoxon", n_genes=n)
    found = sc.get.rank_genes_groups_df(tested, None)
    names = {
        "names": "gene",
        "scores": "score",
        "logfoldchanges": "log_fold_change",
        "pvals_adj": "p_adjusted",
    }
    return found.rename(columns=names)[["group", *names.values()]]


def enrichment(section: AnnData, key: str = "found", *, seed: int = 0) -> pd.DataFrame:
    """How much more often two groups touch than chance would have it (squidpy).

    Parameters
    ----------
    section
        What :func:`find_domains` gave.
    key
        Column of ``obs`` with the groups.
    seed
        Of the labels dealt out at random.

    Returns
    -------
    DataFrame, (groups, groups)
        z-scores of the number of neighbouring pairs.
    """
    graph = AnnData(obs=section.obs[[key]].copy())
    graph.obsp["spatial_connectivities"] = neighbours(section)
    counted = _squidpy().gr.nhood_enrichment(
        graph, cluster_key=key, seed=seed, show_progress_bar=False, copy=True
    )
    names = section.obs[key].cat.categories
    return pd.DataFrame(counted[0], index=names, columns=names)


# -- many at once -----------------------------------------------------------------------------

COLUMNS = ["section", "input", "method", "seed", "metric", "value"]
SMOOTHED = "_smoothed"  # suffix of a method's name in tables


def together(blocks: Sequence[np.ndarray], *, components: int = 20, seed: int = 0) -> np.ndarray:
    """Several descriptions of the same spots side by side, each with the same total variance.

    Parameters
    ----------
    blocks
        (spots, features) each.
    components
        Principal components kept of each.
    seed
        Of the principal components.

    Returns
    -------
    ndarray, (spots, blocks x components)
    """
    parts = [_components(np.asarray(block, dtype=np.float64), components, seed) for block in blocks]
    return np.concatenate([part / np.sqrt(part.var(axis=0).sum()) for part in parts], axis=1)


def compare(
    section: AnnData,
    inputs: Mapping[str, np.ndarray],
    n_domains: int,
    *,
    methods: Sequence[str] = METHODS,
    smooth: int = 2,
    seeds: Sequence[int] = (0,),
    labels: str = "domain",
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Find domains from every input with every method, with and without smoothing, and score them.

    Scores are kept on disk as soon as they are there; a stopped run goes on where it stopped.

    Parameters
    ----------
    section
        A section with known domains.
    inputs
        (spots, features) by name.
    n_domains
        How many domains to find.
    methods
        See :func:`find_domains`.
    smooth
        How many times spots are averaged with their neighbours, where they are.
    seeds
        Of everything random.
    labels
        Column of ``obs`` with the known domains.
    folder
        Where scores are kept; ``domains`` in the cache folder by default.

    Returns
    -------
    DataFrame
        ``section, input, method, seed, metric, value``; a method that found no grouping of that
        size has no value.
    """
    place = store.cache_dir() / "domains" if folder is None else Path(folder)
    code = store.code_key("core", "data", "spatial")
    known = section.obs[labels].astype(str).tolist()
    rounds = [
        (name, method, times, seed)
        for name in inputs
        for method in methods
        for times in (0, smooth)
        for seed in seeds
    ]
    rows = []
    for name, method, times, seed in tqdm(rounds, desc=sections.name_of(section), leave=False):
        values = np.asarray(inputs[name], dtype=np.float64)
        places = np.asarray(section.obsm["spatial"], dtype=np.float64)
        key = store.content_key(code, values, places, known, [n_domains, method, times, seed])
        path = place / f"{key}.json"
        if not path.exists():
            try:
                found = find_domains(
                    section, n_domains, method, features=values, smooth=times, seed=seed
                )
                scores = score(found, labels=labels)
            except NoSuchNumber:
                scores = dict.fromkeys(SCORES, None)
            store.write_json(path, scores)
        for metric, value in json.loads(path.read_text(encoding="utf-8")).items():
            shared = (sections.name_of(section), name, method + (SMOOTHED if times else ""), seed)
            rows.append((*shared, metric, np.nan if value is None else value))
    return pd.DataFrame(rows, columns=COLUMNS)
