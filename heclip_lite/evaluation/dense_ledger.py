"""The defect ledger of HisToSGE: its questionable choices, switched on and off.

Each choice is measured on and off (:mod:`heclip_lite.evaluation.switches`).
The task is the released one: learn from a coarser lattice of one slide, predict between its spots.
Choices are those of the repository wenwenmin/HisToSGE, see ``Choices``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree
from tqdm import tqdm

from heclip_lite import config, store
from heclip_lite.data import genes, sections
from heclip_lite.evaluation import metrics, recovery, switches
from heclip_lite.evaluation.switches import switch
from heclip_lite.methods import histosge

HALF_STEP_PX = 68.0  # half the spot distance of the DLPFC slides, in pixels
SPOTS_PER_STEP = 50


@dataclass(frozen=True)
class Choices:
    """What a pipeline does; False is the clean way."""

    training_spots_scored: bool = switch("spots that were trained on are scored too", "test.py")
    truncated_positions: bool = switch(
        "a vector per array row and column, whose half steps are cut off", "model.py"
    )
    file_order_groups: bool = switch(
        "attention among 50 spots that follow one another in the file", "train.py"
    )
    fixed_pitch: bool = switch(
        "points between spots lie 68 pixels away, whatever the slide", "generation data"
    )
    tiny_patches: bool = switch("patches of 50 pixels, enlarged to 224", "get_image_feature.py")
    blue_first: bool = switch("colours in the order blue, green, red", "get_image_feature.py")


CLEAN = Choices()
REFERENCE = Choices(**{f.name: True for f in fields(Choices)})
_AFTER_TRAINING = ("training_spots_scored", "fixed_pitch")


def describe() -> pd.DataFrame:
    """All choices: ``choice``, ``what`` it is, and ``where`` in the released code."""
    return switches.describe(Choices)


def configurations() -> list[switches.Configuration]:
    """All pipelines to run."""
    return switches.configurations(CLEAN, REFERENCE, [f.name for f in fields(Choices)])


def pipeline(
    choices: Choices, image: config.PatchInput, settings: config.Training, um_per_px: float
) -> histosge.HisToSGE:
    """HisToSGE under some choices, unfitted; the network is the published one throughout.

    Every step sees about as many spots, in groups of either kind.
    """
    if choices.blue_first:
        image = replace(image, encoder=replace(image.encoder, colour="bgr"))
    if choices.tiny_patches:
        image = replace(image, width_um=histosge.PUBLISHED_WIDTH_PX * um_per_px)
    attention = replace(
        histosge.PUBLISHED_ATTENTION,
        positions="index" if choices.truncated_positions else "continuous",
        **({} if choices.file_order_groups else {"groups": "neighbourhood", "size": 19}),
    )
    groups = SPOTS_PER_STEP // attention.size if choices.file_order_groups else SPOTS_PER_STEP
    return histosge.HisToSGE(image, attention, replace(settings, batch_size=groups))


def misplaced(section: AnnData, held_out: np.ndarray) -> AnnData:
    """A section whose held-out spots are looked for a fixed number of pixels from a known one."""
    moved = section.copy()
    places = np.array(section.obsm["spatial"], dtype=np.float64)
    known = places[~held_out]
    way = places[held_out] - known[cKDTree(known).query(places[held_out])[1]]
    pitch = sections.spot_pitch_um(section) / sections.um_per_px(section)
    places[held_out] += way * (HALF_STEP_PX / pitch - 1)
    moved.obsm["spatial"] = places.clip(0, np.array(sections.image_size(section)) - 1)
    return moved


def run(
    choices: Choices,
    section: AnnData,
    held_out: np.ndarray,
    *,
    image: config.PatchInput,
    settings: config.Training,
    known: np.ndarray | None = None,
    trained: histosge.HisToSGE | None = None,
) -> tuple[pd.DataFrame, histosge.HisToSGE]:
    """Train one pipeline on a part of a slide; score it as it would score itself, and honestly.

    Parameters
    ----------
    choices
        What the pipeline does.
    section, held_out
        The slide, and which of its spots are held out.
    image, settings
        Patches and training loop that all pipelines share.
    known
        True log1p expression (spots, genes of the section), where it is known.
    trained
        A pipeline trained before under the same choices but for those after training.

    Returns
    -------
    scores
        ``gene_set, metric, truth, value`` as in :func:`heclip_lite.evaluation.ledger.run`.
    pipeline
        The trained pipeline.
    """
    part = sections.piece(section, ~held_out, [], name=f"{sections.name_of(section)} known")
    if trained is None:
        trained = pipeline(choices, image, settings, sections.um_per_px(section)).fit([part])
    panel = trained.panel
    asked = misplaced(section, held_out) if choices.fixed_pitch else section
    asked = sections.hide_expression(asked)
    sections.note_spots(asked, part)
    predicted = trained.predict(asked)
    measured = genes.expression(section, panel, absent=0.0)
    truths = {"measured": (measured, held_out)}
    own = np.full(len(held_out), True) if choices.training_spots_scored else held_out
    truths["as the pipeline scores"] = (measured, own)
    if known is not None:
        columns = section.var_names.get_indexer(list(panel.genes))
        truths["true"] = (known[:, columns], held_out)
    rows = []
    for name, (truth, chosen) in truths.items():
        r = metrics.per_gene(truth[chosen], predicted[chosen])["pearson"]
        for gene_set in panel.sets:
            value = float(np.nanmean(r[panel.index(gene_set)]))
            rows.append((gene_set, "pearson", name, value))
    return pd.DataFrame(rows, columns=["gene_set", "metric", "truth", "value"]), trained


def ledger(
    dataset: str,
    all_sections: Sequence[AnnData],
    *,
    image: config.PatchInput,
    settings: config.Training,
    seeds: Sequence[int] = (0,),
    known_truth: Callable[[AnnData], np.ndarray] | None = None,
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Measure every choice on every section, one on from clean and one off from the reference.

    Scores are kept on disk as soon as they are there; a stopped run goes on where it stopped.

    Parameters
    ----------
    dataset
        Its name in the table.
    all_sections
        Sections with counts and array coordinates.
    image, settings
        Patches and training loop that all pipelines share.
    seeds
        Of the training, and of the spots held out.
    known_truth
        Gives the true expression of a section, where it is known.
    folder
        Where scores are kept; ``ledger`` in the cache folder by default.

    Returns
    -------
    DataFrame
        As :func:`heclip_lite.evaluation.ledger.ledger`; ``fold`` is the section.
    """
    place = store.cache_dir() / "ledger" if folder is None else Path(folder)
    code = store.code_key(*recovery.RESTS_ON)
    rounds = [(section, seed) for section in all_sections for seed in seeds]
    parts = []
    for section, seed in tqdm(rounds, desc=f"dense ledger {dataset}"):
        held_out = recovery.hold_out(section, "lattice", seed=seed)
        own = replace(settings, seed=seed)
        trained: dict[Choices, histosge.HisToSGE] = {}
        for choice, direction, choices in configurations():
            key = store.content_key(
                [code, sections.section_key(section), known_truth is not None],
                held_out,
                [config.as_dict(choices), config.as_dict(image), config.as_dict(own)],
            )
            path = place / f"{key}.csv"
            if not path.exists():
                alike = replace(choices, **dict.fromkeys(_AFTER_TRAINING, False))
                scores, trained[alike] = run(
                    choices,
                    section,
                    held_out,
                    image=image,
                    settings=own,
                    known=None if known_truth is None else known_truth(section),
                    trained=trained.get(alike),
                )
                with store.atomic_path(path) as temporary:
                    scores.to_csv(temporary, index=False)
            parts.append(
                pd.read_csv(path).assign(
                    dataset=dataset,
                    choice=choice,
                    direction=direction,
                    fold=sections.name_of(section),
                    seed=seed,
                )
            )
    order = [f.name for f in fields(Choices)]
    return switches.differences(pd.concat(parts, ignore_index=True), order)
