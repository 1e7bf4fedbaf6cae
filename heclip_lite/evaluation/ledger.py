"""The defect ledger: each questionable choice of the released HECLIP code, switched on and off.

Each choice is measured on and off (:mod:`heclip_lite.evaluation.switches`).
Places in the code are those of the repository QSong-github/HECLIP at commit 9be1333.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from tqdm import tqdm

from heclip_lite import config, store, training
from heclip_lite.data import genes, registration, sections
from heclip_lite.evaluation import benchmark, splits, switches
from heclip_lite.evaluation.metrics import per_gene
from heclip_lite.evaluation.reference_metrics import hit_at_k, reference_top
from heclip_lite.evaluation.switches import switch
from heclip_lite.methods.correction import harmonise_expression
from heclip_lite.methods.heclip import HECLIP

SHARPNESS = 0.1  # temperature of cosines in the clean pipeline
HITS = 5
_TRAINING_SHARE = 0.8


@dataclass(frozen=True)
class Choices:
    """What a pipeline does; False is the clean way."""

    joint_harmony: bool = switch(
        "Harmony over training and test sections; corrected test values are the truth",
        "preprocess_*.py",
    )
    panel_with_test: bool = switch("genes chosen with the test section", "preprocess_*.py")
    duplicated_validation: bool = switch(
        "spots listed twice, then split at random: most validation spots are training spots",
        "dt_load.py",
    )
    off_tissue: bool = switch("spots on empty glass are trained on and scored", "preprocess_*.py")
    augment_at_prediction: bool = switch("random flips and turns at prediction", "dt_load.py")
    raw_bgr: bool = switch("blue first, values from 0 to 255", "dt_load.py")
    double_log: bool = switch("normalised and logged twice", "preprocess_*.py")
    nan_shift: bool = switch(
        "undefined correlations dropped before genes are looked up", "infer.py"
    )
    saturated_targets: bool = switch("soft targets so sharp that they are one-hot", "models_*.py")
    dot_against_cosine: bool = switch("dot products in training, cosine at retrieval", "infer.py")
    attached_targets: bool = switch("gradient flows through the targets", "models_*.py")
    best_on_test: bool = switch("genes ranked on the held-out truth", "infer.py")
    hit_against_mean: bool = switch("Hit@5 reported without the mean beside it", "infer.py")


CLEAN = Choices()
REFERENCE = Choices(**{f.name: True for f in fields(Choices)})
_SCORING = ("nan_shift", "best_on_test", "hit_against_mean", "augment_at_prediction")
_SYNTHETIC_ONLY = ("off_tissue",)


def describe() -> pd.DataFrame:
    """All choices: ``choice``, ``what`` it is, and ``where`` in the released code."""
    return switches.describe(Choices)


class Pipeline(HECLIP):
    """HECLIP's ``hvg`` model under some choices: the image head projects into gene space.

    Parameters
    ----------
    choices
        What it does.
    image
        Patches whose encoder is trained end to end.
    settings
        The training loop.
    """

    def __init__(
        self, choices: Choices, image: config.PatchInput, settings: config.Training
    ) -> None:
        colours = {"colour": "bgr", "scaling": "none"} if choices.raw_bgr else {}
        super().__init__(
            replace(image, encoder=replace(image.encoder, **colours)),
            config.Contrast(),  # completed when the number of genes is known
            config.Decode(),
            settings,
        )
        self.choices = choices

    def _fit_transforms(self, training_sections: list[AnnData], expression: list) -> None:
        """Complete the loss: similarities as if the embeddings had unit length, or as they are.

        A layer-normed embedding of g genes has squared length g, so that its dot product at
        temperature 1 is its cosine at temperature 1 / g.
        """
        length = float(len(self.genes))
        sharp = 1 / length if self.choices.saturated_targets else SHARPNESS
        scale = length if self.choices.dot_against_cosine else 1.0
        self.contrast = config.Contrast(
            temperature=1.0 if self.choices.dot_against_cosine else SHARPNESS,
            options={
                "cosine": not self.choices.dot_against_cosine,
                "target_temperature": sharp * scale,
                "detach_targets": not self.choices.attached_targets,
            },
        )
        super()._fit_transforms(training_sections, expression)

    def _train(self, pair: training.Pair, held_out: training.Pair | None, *, features: int) -> None:
        """Listed twice and split at random, or with a whole section held out, as `fit` does it."""
        if self.choices.duplicated_validation:
            images, spots = (torch.cat(parts) for parts in zip(pair, held_out, strict=True))
            twice = torch.arange(len(images)).repeat(2)
            order = torch.Generator().manual_seed(self.settings.seed)
            twice = twice[torch.randperm(len(twice), generator=order)]
            cut = round(_TRAINING_SHARE * len(twice))
            pair, held_out = ((images[r], spots[r]) for r in (twice[:cut], twice[cut:]))
            steps = len(images) / cut  # as many steps as the clean pipeline takes
            epochs = max(1, round(self.settings.epochs * steps))
            kept = self.settings
            self.settings = replace(kept, epochs=epochs, patience=epochs)
            super()._train(pair, held_out, features=features)
            self.settings = kept
            return
        super()._train(pair, held_out, features=features)

    def with_augmentation(self, training_sections: Sequence[AnnData]) -> Pipeline:
        """The same trained model, whose queries and references are flipped and turned at random."""
        made = copy.copy(self)
        made.generator = torch.Generator().manual_seed(self.settings.seed)
        images = torch.cat([made._images(section) for section in training_sections])
        made.references = [made._embed(model, images) for model in made.models]
        return made

    def _embed(self, model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
        generator = getattr(self, "generator", None)
        if generator is not None:
            images = training.flip_and_turn(images, generator)
        return super()._embed(model, images)


@dataclass(frozen=True)
class _Corrected:
    """Training expression that was changed before the method sees it."""

    values: tuple[np.ndarray, ...]

    def __call__(self, measured: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.values)


def _twice_logged(section: AnnData, panel: genes.GenePanel) -> np.ndarray:
    """Normalised to the median total and logged, then once more, as if it were counts."""
    every = genes.GenePanel(tuple(section.var_names), {})
    logged = genes.expression(section, every)
    totals = logged.sum(1, keepdims=True)
    again = np.log1p(logged / totals * np.median(totals))
    columns = section.var_names.get_indexer(list(panel.genes))
    made = np.zeros((section.n_obs, len(columns)), dtype=np.float32)
    made[:, columns >= 0] = again[:, columns[columns >= 0]]
    return made


def _pipeline_expression(
    choices: Choices, training_sections: list[AnnData], test: AnnData, panel: genes.GenePanel
) -> tuple[list[np.ndarray], np.ndarray]:
    """Training expression and truth as a pipeline sees them."""
    read = _twice_logged if choices.double_log else _logged
    every = [read(section, panel) for section in [*training_sections, test]]
    if choices.joint_harmony:
        every = harmonise_expression(every)
    return every[:-1], every[-1]


def _logged(section: AnnData, panel: genes.GenePanel) -> np.ndarray:
    return genes.expression(section, panel, absent=0.0)


def add_background(section: AnnData, *, seed: int = 0, depth: float = 0.03) -> AnnData:
    """A synthetic section with spots on empty glass too: the lattice continued over the slide.

    Stray transcripts reach the glass: counts are Poisson with the section's mean profile at a
    share `depth` of its median total.

    Raises
    ------
    ValueError
        If the slide shows no glass.
    """
    pitch = sections.spot_pitch_um(section) / sections.um_per_px(section)
    width, height = sections.image_size(section)
    places = np.stack(
        np.meshgrid(np.arange(pitch / 2, width, pitch), np.arange(pitch / 2, height, pitch)), -1
    ).reshape(-1, 2)
    scale = 5.0
    mask = registration.tissue_mask(section, scale)
    cells = (places * sections.um_per_px(section) / scale).astype(int)
    cells = np.minimum(cells, np.array(mask.shape[::-1]) - 1)
    far = np.linalg.norm(places[:, None] - section.obsm["spatial"][None], axis=2).min(1) > pitch
    places = places[~mask[cells[:, 1], cells[:, 0]] & far]
    name = sections.name_of(section)
    if not len(places):
        raise ValueError(f"Section {name!r} shows no empty glass to put spots on.")
    counts = section.X.toarray()
    profile = counts.sum(0) / counts.sum()
    rng = np.random.default_rng([seed, *name.encode()])
    stray = rng.poisson(depth * np.median(counts.sum(1)) * profile, (len(places), len(profile)))
    stray[stray.sum(1) == 0, int(np.argmax(profile))] = 1
    made = sections.make_section(
        np.vstack([counts, stray]),
        list(section.var_names),
        np.vstack([section.obsm["spatial"], places]),
        name=name,
        donor=sections.donor_of(section),
        um_per_px=sections.um_per_px(section),
        spot_diameter_um=sections.spot_diameter_um(section),
        image=sections.read_image(section).copy(),
        background=sections.background_of(section),
    )
    return made


def configurations(*, synthetic: bool) -> list[switches.Configuration]:
    """All pipelines to run; empty glass beside the tissue is to be had on synthetic slides only."""
    names = [f.name for f in fields(Choices) if synthetic or f.name not in _SYNTHETIC_ONLY]
    end = replace(REFERENCE, **{n: synthetic for n in _SYNTHETIC_ONLY})
    return switches.configurations(CLEAN, end, names)


def run(
    choices: Choices,
    training_sections: Sequence[AnnData],
    test: AnnData,
    *,
    image: config.PatchInput,
    settings: config.Training,
    known: np.ndarray | None = None,
    trained: Pipeline | None = None,
) -> tuple[pd.DataFrame, Pipeline]:
    """Train one pipeline and score it as it would score itself, and honestly.

    Parameters
    ----------
    choices
        What the pipeline does.
    training_sections, test
        Sections with counts.
    image, settings
        Patches and training loop.
    known
        True log1p expression (spots, genes of the section) of `test`, where it is known.
    trained
        A pipeline trained before under the same choices but for those that only score.

    Returns
    -------
    scores
        ``gene_set, metric, truth, value``; ``truth`` is ``"as the pipeline scores"`` (its own
        genes, its own truth), ``"measured"`` (log-normalised counts of the tissue spots, sets
        chosen on the training sections) or ``"true"``.
    pipeline
        The trained pipeline.
    """
    training_sections = list(training_sections)
    given = [*training_sections, test]
    if choices.off_tissue:
        given = [add_background(section) for section in given]
    known_sections, asked = given[:-1], given[-1]
    honest = genes.fit_panel(training_sections)
    panel = genes.fit_panel(given) if choices.panel_with_test else honest
    every = genes.GenePanel(tuple(dict.fromkeys([*panel.genes, *honest.genes])), panel.sets)
    values, own_truth = _pipeline_expression(choices, known_sections, asked, every)
    if trained is None:
        settings = replace(settings, patience=settings.epochs)
        trained = Pipeline(choices, image, settings)
        trained.panel = every
        trained.correct = _Corrected(tuple(values))
        trained.fit(known_sections)
    used = trained.with_augmentation(known_sections) if choices.augment_at_prediction else trained
    predicted = used.predict(sections.hide_expression(asked))
    mean = np.tile(np.concatenate(values).mean(0), (len(predicted), 1))
    rows = _own_scores(choices, every, own_truth, predicted, mean)
    tissue = slice(0, test.n_obs)  # spots on glass come last
    correct = {"measured": _logged(test, every)}
    if known is not None:
        correct["true"] = known[:, test.var_names.get_indexer(list(every.genes))]
    for name, truth in correct.items():
        r = per_gene(truth, predicted[tissue])["pearson"]
        columns = pd.Index(every.genes)
        for gene_set, chosen in honest.sets.items():
            value = np.nanmean(r[columns.get_indexer(list(chosen))])
            rows.append((gene_set, "pearson", name, float(value)))
    return pd.DataFrame(rows, columns=["gene_set", "metric", "truth", "value"]), trained


def _own_scores(
    choices: Choices,
    panel: genes.GenePanel,
    truth: np.ndarray,
    predicted: np.ndarray,
    mean: np.ndarray,
) -> list[tuple[str, str, str, float]]:
    """What the pipeline would report of itself."""
    rows = []
    own = "as the pipeline scores"
    r = per_gene(truth, predicted)["pearson"]
    for gene_set in panel.sets:
        columns = panel.index(gene_set)
        by = {"heg50": "mean", "hvg50": "variance"}.get(gene_set)
        if choices.best_on_test and by is not None:
            try:
                value = reference_top(
                    truth, predicted, n=len(columns), by=by, nan_shift=choices.nan_shift
                )
            except IndexError:  # the released code stops here
                value = float("nan")
        elif choices.nan_shift:
            defined = r[~np.isnan(r)]
            value = float(defined[columns[columns < len(defined)]].mean())
        else:
            value = float(np.nanmean(r[columns]))
        rows.append((gene_set, "pearson", own, value))
    k = min(HITS, truth.shape[1])
    rows.append(("panel", f"hit_at_{HITS}", own, hit_at_k(truth, predicted, k=k)))
    rows.append(("panel", f"hit_at_{HITS}_of_mean", own, hit_at_k(truth, mean, k=k)))
    return rows


def _trains_alike(choices: Choices) -> Choices:
    return replace(choices, **dict.fromkeys(_SCORING, False))


def ledger(
    dataset: str,
    all_sections: Sequence[AnnData],
    split: Sequence[splits.Fold],
    *,
    image: config.PatchInput,
    settings: config.Training,
    seeds: Sequence[int] = (0,),
    known_truth: benchmark.KnownTruth | None = None,
    folder: str | Path | None = None,
    only: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Measure every choice, one on from clean and one off from the reference.

    Each pipeline's scores are kept on disk as soon as it is done; a ledger that was stopped goes
    on where it stopped.

    Parameters
    ----------
    dataset
        Its name in the table; ``"synthetic"`` also gets spots on empty glass.
    all_sections, split
        Sections and folds, with one test section each.
    image, settings
        Patches and training loop that all pipelines share.
    seeds
        Of the training.
    known_truth
        Gives the true expression of a section, where it is known.
    folder
        Where scores are kept; ``ledger`` in the cache folder by default.
    only
        Choices to measure; all by default.

    Returns
    -------
    DataFrame
        ``base`` is the score of the clean pipeline (``one_on_from_clean``) or of the reference
        (``one_off_from_reference``), ``difference`` is ``value - base``.
        Rows with the choice ``"none"`` are the two ends themselves.
    """
    place = store.cache_dir() / "ledger" if folder is None else Path(folder)
    named = splits.by_name(all_sections, split)
    wanted = configurations(synthetic=known_truth is not None)
    if only is not None:
        unknown = set(only) - {name for name, _, _ in wanted}
        if unknown:
            raise ValueError(f"The ledger has no choice {', '.join(sorted(unknown))}.")
        wanted = [w for w in wanted if w[0] == "none" or w[0] in set(only)]
    # Pipelines that train alike come one after another, so that one training serves them all.
    wanted.sort(key=lambda w: repr(_trains_alike(w[2])))
    rounds = [(fold, seed, *w) for fold in split for seed in seeds for w in wanted]
    code = store.code_key(*benchmark.METHODS_REST_ON, "evaluation")
    parts = []

    @lru_cache(maxsize=1)
    def last(fold: int, seed: int, alike: Choices) -> dict[str, Pipeline]:
        return {}  # filled by the first pipeline that trains so

    for fold, seed, choice, direction, choices in tqdm(rounds, desc=f"ledger {dataset}"):
        training_sections = [named[name] for name in fold.training]
        test = named[fold.test[0]]
        own = replace(settings, seed=seed)
        key = store.content_key(
            code,
            [sections.section_key(section) for section in [*training_sections, test]],
            {f.name: getattr(choices, f.name) for f in fields(Choices)},
            [config.as_dict(image), config.as_dict(own), known_truth is not None],
        )
        path = place / f"{key}.csv"
        if not path.exists():
            shared = last(split.index(fold), seed, _trains_alike(choices))
            scores, shared["trained"] = run(
                choices,
                training_sections,
                test,
                image=image,
                settings=own,
                known=None if known_truth is None else known_truth(test),
                trained=shared.get("trained"),
            )
            with store.atomic_path(path) as temporary:
                scores.to_csv(temporary, index=False)
        scores = pd.read_csv(path)
        parts.append(
            scores.assign(
                dataset=dataset,
                choice=choice,
                direction=direction,
                fold=sections.name_of(test),
                seed=seed,
            )
        )
    order = [f.name for f in fields(Choices)]
    return switches.differences(pd.concat(parts, ignore_index=True), order)
