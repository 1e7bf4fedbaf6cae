"""Lattices of spots: which one a section lies on, and the points between its spots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from scipy.spatial import cKDTree

from heclip_lite.data import registration, sections

_REACH = 1.8  # pitches within which neighbours are looked for: hexagons and squares, diagonals too
_COMMON = 0.25  # share of spots that must have a step for it to belong to the lattice
_OFF = 0.25  # pitches that a spot may lie off its place on the lattice
_FRACTION = 4  # decimals of array coordinates that count
_TIE = 0.02  # lengths closer than this share count as equal
_STEPS = {"hexagonal": ((2, 0), (1, 1)), "square": ((1, 0), (0, 1))}  # (column, row)


@dataclass(frozen=True)
class Lattice:
    """Steps from a spot to its neighbours, and how array coordinates lie on the slide.

    Attributes
    ----------
    steps
        (2, 2): the two shortest steps, as (column, row).
    to_um
        (2, 2): ``(column, row) @ to_um`` is the way in micrometres, x and y.
    """

    steps: np.ndarray
    to_um: np.ndarray

    @property
    def pitch_um(self) -> float:
        """Length of the shortest step."""
        return float(np.linalg.norm(self.steps @ self.to_um, axis=1).min())

    @property
    def kind(self) -> str:
        """``"hexagonal"`` where the steps meet at about 60 degrees, ``"square"`` at about 90."""
        one, other = self.steps @ self.to_um
        cosine = abs(one @ other) / np.linalg.norm(one) / np.linalg.norm(other)
        return "hexagonal" if cosine > 0.25 else "square"

    def between(self, parts: int) -> np.ndarray:
        """Ways from a spot to the points that divide each step into `parts`, itself first.

        Returns
        -------
        ndarray, (parts ** 2, 2)
            As (column, row), each the shortest of the ways that mean the same points.
        """
        whole = np.arange(parts) / parts
        found = []
        for i in whole:
            for j in whole:
                ways = np.array([(i - a, j - b) for a in (0, 1) for b in (0, 1)]) @ self.steps
                lengths = np.linalg.norm(ways @ self.to_um, axis=1)
                near = ways[lengths <= lengths.min() * (1 + _TIE) + 1e-9]
                # Of equals, the one that goes down, then right.
                found.append(max(near.round(9).tolist(), key=lambda way: (way[1], way[0])))
        return np.array(found)


def coordinates(section: AnnData) -> np.ndarray:
    """Array coordinates of the spots as (column, row), (spots, 2).

    Raises
    ------
    ValueError
        If the section has none, or not for every spot.
    """
    wanted = ["array_col", "array_row"]
    missing = [column for column in wanted if column not in section.obs]
    if missing:
        raise ValueError(
            f"Section {sections.name_of(section)!r}: no lattice is recognisable, for obs lacks "
            f"{' and '.join(missing)}. Add the array coordinates, or predict on "
            "superres.grid(section, pitch_um), which needs none."
        )
    found = section.obs[wanted].to_numpy(dtype=np.float64)
    if not np.isfinite(found).all():
        bad = section.obs_names[~np.isfinite(found).all(axis=1)][0]
        raise ValueError(
            f"Section {sections.name_of(section)!r}: spot {bad!r} has no array coordinates."
        )
    return found


def lattice_of(section: AnnData, kind: str = "auto") -> Lattice:
    """Recognise the lattice of a section from its array coordinates and places.

    Parameters
    ----------
    section
        A section with ``obs["array_col"]`` and ``obs["array_row"]``.
    kind
        ``"hexagonal"`` takes 10x's numbering for granted (neighbours two columns, or one column
        and one row away), ``"square"`` that of legacy ST (one column or one row away);
        ``"auto"`` looks for the two shortest steps that spots have in common.

    Raises
    ------
    ValueError
        If there are fewer than four spots, the array coordinates are missing, the spots lie
        on no lattice, or `kind` is unknown.
    """
    if kind not in ("auto", *_STEPS):
        raise ValueError(f"The lattice {kind!r} is unknown; use auto, hexagonal or square.")
    place = f"Section {sections.name_of(section)!r}"
    if section.n_obs < 4:
        raise ValueError(
            f"{place} has {section.n_obs} spots; 4 or more are needed to recognise a lattice."
        )
    where, places = coordinates(section), registration.positions_um(section)
    centred = where - where.mean(axis=0)
    if np.linalg.matrix_rank(centred) < 2:
        raise ValueError(f"{place}: no lattice is recognisable, for all spots lie on one line.")
    to_um = np.linalg.lstsq(centred, places - places.mean(axis=0), rcond=None)[0]
    pitch = sections.spot_pitch_um(section)
    off = np.linalg.norm(centred @ to_um - (places - places.mean(axis=0)), axis=1)
    if np.median(off) > _OFF * pitch:
        raise ValueError(
            f"{place}: no lattice is recognisable: half of the spots lie more than "
            f"{np.median(off):.0f} micrometres off the place that array_col and array_row give "
            "them. Check that these belong to obsm['spatial'], or use superres.grid."
        )
    if kind != "auto":
        return Lattice(np.array(_STEPS[kind], dtype=float), to_um)
    pairs = cKDTree(places).query_pairs(_REACH * pitch, output_type="ndarray")
    ways = (where[pairs[:, 1]] - where[pairs[:, 0]]).round(_FRACTION)  # of dense points: thirds
    down = (ways[:, 1] > 0) | ((ways[:, 1] == 0) & (ways[:, 0] > 0))
    ways, counts = np.unique(np.where(down[:, None], ways, -ways), axis=0, return_counts=True)
    ways = ways[counts >= _COMMON * section.n_obs]
    ways = ways[np.argsort(np.linalg.norm(ways @ to_um, axis=1), kind="stable")]
    for one in range(len(ways)):
        for other in range(one + 1, len(ways)):
            if abs(np.linalg.det(ways[[one, other]])) > 1e-6:
                return Lattice(ways[[one, other]], to_um)
    raise ValueError(
        f"{place}: no lattice is recognisable, for too few of its {section.n_obs} spots have "
        "neighbours in two directions. Use superres.grid(section, pitch_um)."
    )
