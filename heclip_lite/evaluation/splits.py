"""Splits: which sections are learnt from and which are held out.

Spots are never split at random: neighbouring spots look and express alike, so that a random split
asks a model to remember, not to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from anndata import AnnData

from heclip_lite.data import registration, sections

UNITS = ("section", "donor", "block")


@dataclass(frozen=True)
class Fold:
    """Names of the sections to train on and to test on.

    Attributes
    ----------
    training, test
        Names of sections.
    unit
        What is held out: ``"donor"``, ``"section"`` (other sections of the donor may be trained
        on) or ``"block"`` (a region of every section).
        None: told from the donors, test section by test section.
    """

    training: tuple[str, ...]
    test: tuple[str, ...]
    unit: str | None = None

    def __post_init__(self) -> None:
        both = set(self.training) & set(self.test)
        if not self.training or not self.test or both:
            raise ValueError(
                f"A fold needs sections on both sides and none on both, but trains on "
                f"{self.training or 'nothing'} and tests on {self.test or 'nothing'}."
            )
        if self.unit is not None and self.unit not in UNITS:
            raise ValueError(f"unit is {self.unit!r}; use {', '.join(map(repr, UNITS))} or None.")


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
            unit=unit,
        )
        for held_out in units
    ]


def by_name(all_sections: Sequence[AnnData], split: Sequence[Fold]) -> dict[str, AnnData]:
    """Sections by name, after a check that the split fits them.

    Raises
    ------
    ValueError
        If there is no fold, a name is unknown, or a donor is on both sides of a donor split.
    """
    sections.check_sections(all_sections)
    if not split:
        raise ValueError("The split has no fold; leave_one_out(sections, unit) makes one.")
    named = {sections.name_of(s): s for s in all_sections}
    for fold in split:
        for name in fold.training + fold.test:
            if name not in named:
                raise ValueError(f"The split names section {name!r}; there are {', '.join(named)}.")
        if fold.unit == "donor":
            known = {sections.donor_of(named[name]) for name in fold.training}
            for name in fold.test:
                donor = sections.donor_of(named[name])
                if donor in known:
                    raise ValueError(
                        f"The split says donors are held out, but donor {donor} of test section "
                        f"{name} is trained on too; use leave_one_out(sections, 'donor') or "
                        "unit='section'."
                    )
    return named


def kind_of(fold: Fold, training: Sequence[AnnData], test: AnnData) -> str:
    """What a fold holds out, for one test section: ``"donor"``, ``"section"`` or ``"block"``."""
    if fold.unit is not None:
        return fold.unit
    known = {sections.donor_of(section) for section in training}
    return "section" if sections.donor_of(test) in known else "donor"


# -- spatial blocks -------------------------------------------------------------------------


def spatial_blocks(
    all_sections: Sequence[AnnData],
    *,
    rows: int = 2,
    columns: int = 2,
    gap_um: float | None = None,
) -> tuple[list[AnnData], list[Fold]]:
    """Hold out one region of every section at a time, pixels included.

    Serial sections show the same tissue at the same place, so a region is taken out of all of
    them together.
    For each fold every section falls into two pieces: the test piece holds the spots inside the
    block, with the slide outside painted over; the training piece holds the spots outside and
    farther than `gap_um` from it, with the block painted over.
    No pixel is seen on both sides, however far a method looks around its spots.
    Pieces of one donor know where they lie on one another (from the outlines of the whole
    sections), because half an outline cannot be registered.

    Parameters
    ----------
    all_sections
        Sections with counts.
    rows, columns
        The spots of each section are cut into this many rows and columns of about equally many.
    gap_um
        Training spots closer than this to the block are left out, so that no training patch shows
        painted pixels; one spot pitch by default.

    Returns
    -------
    pieces
        Sections named ``C2 without 1`` and ``C2 block 1``, for each section and block.
    folds
        One per block.

    Raises
    ------
    ValueError
        If there is only one block, or a piece would be left without spots.
    """
    if rows < 1 or columns < 1 or rows * columns < 2:
        raise ValueError(f"rows={rows}, columns={columns}: there must be 2 blocks or more.")
    pieces: list[AnnData] = []
    folds: list[Fold] = []
    boxes = [_boxes(section, rows, columns) for section in all_sections]
    anchors = {sections.donor_of(s): s for s in reversed(all_sections)}  # the first of each donor
    frames = [registration.register(s, anchors[sections.donor_of(s)]) for s in all_sections]
    for block in range(rows * columns):
        training, test = [], []
        for section, of_section, frame in zip(all_sections, boxes, frames, strict=True):
            outside, inside = _cut(section, of_section[block], block + 1, gap_um)
            for part in (outside, inside):
                registration.with_frame(part, frame)
            pieces += [outside, inside]
            training.append(sections.name_of(outside))
            test.append(sections.name_of(inside))
        folds.append(Fold(tuple(training), tuple(test), unit="block"))
    return pieces, folds


Box = tuple[int, int, int, int]


def _boxes(section: AnnData, rows: int, columns: int) -> list[Box]:
    """Rectangles that tile the image, x0, y0, x1, y1 in pixels, cut at quantiles of the spots."""
    width, height = sections.image_size(section)
    edges = []
    for axis, parts, side in ((0, columns, width), (1, rows, height)):
        inner = np.quantile(section.obsm["spatial"][:, axis], np.arange(1, parts) / parts)
        edges.append([0, *np.round(inner).astype(int).tolist(), side])
    across, down = edges
    return [(x0, y0, x1, y1) for y0, y1 in pairwise(down) for x0, x1 in pairwise(across)]


def _cut(section: AnnData, box: Box, number: int, gap_um: float | None) -> tuple[AnnData, AnnData]:
    """The training piece and the test piece of one section."""
    name, scale = sections.name_of(section), sections.um_per_px(section)
    gap = sections.spot_pitch_um(section) if gap_um is None else gap_um
    low, high = np.array(box[:2]), np.array(box[2:])
    places = section.obsm["spatial"]
    inside = ((places >= low) & (places < high)).all(axis=1)
    beyond = np.maximum(np.maximum(low - places, places - high), 0) * scale
    outside = ~inside & (np.hypot(*beyond.T) > gap)
    for what, chosen in (("test", inside), ("training", outside)):
        if not chosen.any():
            raise ValueError(
                f"Section {name!r}: block {number} leaves no {what} spot; use fewer rows and "
                "columns or a smaller gap_um."
            )
    width, height = sections.image_size(section)
    x0, y0, x1, y1 = box
    around = [(0, 0, width, y0), (0, y1, width, height), (0, y0, x0, y1), (x1, y0, width, y1)]
    around = [side for side in around if side[2] > side[0] and side[3] > side[1]]
    return (
        sections.piece(section, outside, [box], name=f"{name} without {number}"),
        sections.piece(section, inside, around, name=f"{name} block {number}"),
    )
