"""A leakage simulator: what simple methods score under leaky pipelines, beside an honest one.

Everything happens on one held-out section, so that scores differ by the pipeline alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite import config, features
from heclip_lite.data import genes, registration, sections
from heclip_lite.evaluation.metrics import per_gene
from heclip_lite.features import appearance
from heclip_lite.methods.correction import harmonise_expression

# Each choice by its name in the table; the first is the honest one.
SPLITS = ("new donor", "another section of a known donor", "random spots")
PANELS = (
    "most variable in training",
    "most variable, test section included",
    "best predicted on the test section",
)
FITTED = ("training", "training and test")
TRUTHS = ("measured", "corrected")
METHODS = ("position", "mean colour", "image features")

_FOLDS = 5  # of random spots
_NEIGHBOURS = 5  # spots averaged by position
_RANK = 20  # principal components of expression
_PENALTY = 0.1  # of ridge regression, per column of unit variance
_SET = "hvg50"


@dataclass(frozen=True)
class Leaks:
    """What leaks in a pipeline; nothing by default.

    Attributes
    ----------
    split
        What is held out, one of `SPLITS`.
    panel
        Which genes are scored, one of `PANELS`.
    fitted_on
        Where scaling and principal components are fitted, one of `FITTED`.
    truth
        What is trained on and scored against, one of `TRUTHS`: measured expression, or expression
        after Harmony over all sections, the held-out one included.
    """

    split: str = SPLITS[0]
    panel: str = PANELS[0]
    fitted_on: str = FITTED[0]
    truth: str = TRUTHS[0]

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(map(repr, known))}."
                )


_KNOWN = {"split": SPLITS, "panel": PANELS, "fitted_on": FITTED, "truth": TRUTHS}
HONEST = Leaks()


def simulate(
    all_sections: Sequence[AnnData],
    test: str,
    image: config.Input,
    *,
    seed: int = 0,
    device: str = "auto",
) -> pd.DataFrame:
    """Score three simple methods on one section under every combination of leaks.

    The methods are the mean of the nearest training spots once outlines are laid on one another,
    and ridge regression on mean colour or on frozen image features. All of them predict principal
    components of expression.

    Parameters
    ----------
    all_sections
        Sections with counts: the held-out one, another of its donor, and one of another donor.
    test
        Name of the section that is held out, whole or in part.
    image
        What frozen image features are made of.
    seed
        Of the random spots and of the components.
    device
        Where an encoder runs.

    Returns
    -------
    DataFrame
        ``split, panel, fitted_on, truth`` as in :class:`Leaks`, ``method``, and ``value``: the mean
        over genes of Pearson's r inside the held-out section, as the pipeline would report it.

    Raises
    ------
    ValueError
        If there is no such section, or no other section of its donor, or no other donor.
    """
    place = _place(all_sections, test)
    spots = _Spots(all_sections, place, image, device)
    rows = []
    for split, fitted_on in product(SPLITS, FITTED):
        predictions = _predictions(spots, split, fitted_on, seed)
        for (truth, method), predicted in predictions.items():
            r = per_gene(spots.values[truth][spots.here], predicted)["pearson"]
            for panel in PANELS:
                rows.append((split, panel, fitted_on, truth, method, spots.score(r, split, panel)))
    return pd.DataFrame(rows, columns=[f.name for f in fields(Leaks)] + ["method", "value"])


def scores(table: pd.DataFrame, leaks: Leaks = HONEST) -> pd.Series:
    """What each method scores under some leaks: `value` by method, in the order of `METHODS`."""
    chosen = np.logical_and.reduce([table[n] == getattr(leaks, n) for n in _KNOWN])
    return table[chosen].set_index("method")["value"].reindex(METHODS)


def one_at_a_time(table: pd.DataFrame) -> pd.DataFrame:
    """The honest pipeline, each leak alone, and all leaks together: scores by method."""
    rows = {"nothing leaks": scores(table)}
    for name, known in _KNOWN.items():
        for value in known[1:]:
            rows[described(Leaks(**{name: value}))] = scores(table, Leaks(**{name: value}))
    rows["everything leaks"] = scores(table, Leaks(*(known[-1] for known in _KNOWN.values())))
    return pd.DataFrame(rows).T


def described(leaks: Leaks) -> str:
    """What leaks, in words."""
    words = []
    if leaks.split != SPLITS[0]:
        words.append(f"tested on {leaks.split}")
    if leaks.panel != PANELS[0]:
        words.append(f"genes {leaks.panel}")
    if leaks.fitted_on != FITTED[0]:
        words.append("scaling and components fitted with the test section")
    if leaks.truth != TRUTHS[0]:
        words.append("truth batch-corrected with training")
    return "; ".join(words) or "nothing leaks"


def _place(all_sections: Sequence[AnnData], test: str) -> int:
    """Where the held-out section stands, after a check that every split can be made."""
    sections.check_sections(all_sections)
    names = [sections.name_of(section) for section in all_sections]
    if test not in names:
        raise ValueError(f"There is no section {test!r}; there are {', '.join(names)}.")
    place = names.index(test)
    donors = [sections.donor_of(section) for section in all_sections]
    same = donors.count(donors[place])
    if same < 2 or same == len(donors):
        raise ValueError(
            f"Section {test!r} needs another section of its donor {donors[place]} and a section of "
            f"another donor beside it; the donors are {', '.join(donors)}."
        )
    return place


class _Spots:
    """All spots of all sections, described once; the pipelines differ in what they use of them."""

    def __init__(
        self, all_sections: Sequence[AnnData], test: int, image: config.Input, device: str
    ) -> None:
        held_out = all_sections[test]
        donors = np.array([sections.donor_of(section) for section in all_sections])
        sizes = [section.n_obs for section in all_sections]
        section = np.repeat(np.arange(len(sizes)), sizes)  # (spots,)
        self.here = section == test
        self.same_donor = (donors == donors[test])[section]
        self.inputs = {
            "position": np.concatenate([_laid(s, held_out) for s in all_sections]),
            "mean colour": np.concatenate(
                [appearance.mean_colour(s, sections.spot_diameter_um(s)) for s in all_sections]
            ),
            "image features": np.concatenate(
                [features.table(s, image, device=device) for s in all_sections]
            ),
        }
        others = [s for s in all_sections if s is not held_out]
        strangers = [
            s for s, donor in zip(all_sections, donors, strict=True) if donor != donors[test]
        ]
        known = genes.fit_panel(others)
        self.panels = {
            "new donor": genes.fit_panel(strangers),
            "another section of a known donor": known,
            "random spots": known,  # of the other sections: the same genes for every random part
            "peeking": genes.fit_panel(all_sections),
        }
        every = dict.fromkeys(gene for panel in self.panels.values() for gene in panel.genes)
        self.genes = pd.Index(every)
        union = genes.GenePanel(tuple(every), {})
        measured = [genes.expression(s, union, absent=0.0) for s in all_sections]
        corrected = harmonise_expression(measured)
        self.values = {"measured": np.concatenate(measured), "corrected": np.concatenate(corrected)}

    def rounds(self, split: str, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which spots are trained on and which are tested, (spots,) each."""
        if split != "random spots":
            yield (~self.same_donor if split == "new donor" else ~self.here), self.here
            return
        part = np.full(len(self.here), -1)
        part[self.here] = np.random.default_rng(seed).permutation(self.here.sum()) % _FOLDS
        for number in range(_FOLDS):
            yield part != number, part == number

    def score(self, r: np.ndarray, split: str, panel: str) -> float:
        """Mean of r over the genes that a pipeline would choose."""
        own = self.panels["peeking" if panel == PANELS[1] else split]
        if panel == PANELS[2]:
            n = len(own.sets[_SET])
            return float(np.sort(np.nan_to_num(r[self.genes.get_indexer(own.genes)]))[-n:].mean())
        return float(np.nanmean(r[self.genes.get_indexer(own.sets[_SET])]))


def _laid(section: AnnData, fixed: AnnData) -> np.ndarray:
    """Spot centres in micrometres of the held-out section, outlines laid on one another."""
    places = registration.positions_um(section)
    return places if section is fixed else registration.register(section, fixed).apply(places)


def _predictions(
    spots: _Spots, split: str, fitted_on: str, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    """What each method predicts for the held-out section, (spots, genes) by truth and method."""
    from sklearn.decomposition import PCA

    every = product(TRUTHS, METHODS)
    made = {key: np.empty_like(spots.values[key[0]]) for key in every}
    for known, asked in spots.rounds(split, seed):
        seen = known if fitted_on == FITTED[0] else known | asked
        components = [PCA(_RANK, random_state=seed).fit(spots.values[t][seen]) for t in TRUTHS]
        targets = [
            pca.transform(spots.values[truth][known])
            for truth, pca in zip(TRUTHS, components, strict=True)
        ]
        for method in METHODS:
            # Both truths in one fit: they share the features, which are what costs time.
            found = _predict(method, spots.inputs[method], np.hstack(targets), known, asked, seen)
            parts = np.split(found, len(TRUTHS), axis=1)
            for truth, pca, part in zip(TRUTHS, components, parts, strict=True):
                made[truth, method][asked] = pca.inverse_transform(part)
    return {key: predicted[spots.here] for key, predicted in made.items()}


def _predict(
    method: str,
    given: np.ndarray,
    targets: np.ndarray,
    known: np.ndarray,
    asked: np.ndarray,
    seen: np.ndarray,
) -> np.ndarray:
    """Components of expression for the asked spots, (asked, components)."""
    from sklearn.linear_model import Ridge
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    if method == "position":
        nearest = KNeighborsRegressor(_NEIGHBOURS).fit(given[known], targets)
        return nearest.predict(given[asked])
    scaled = StandardScaler().fit(given[seen])
    model = Ridge(_PENALTY * given.shape[1])
    return model.fit(scaled.transform(given[known]), targets).predict(
        scaled.transform(given[asked])
    )
