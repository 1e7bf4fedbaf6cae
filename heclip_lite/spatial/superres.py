"""High resolution: points between and around the spots, and prediction at any number of them.

Whatever describes a slide at its spots describes it anywhere, so every method that reads only the
image predicts dense points as well.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from heclip_lite.data import registration, sections
from heclip_lite.data.lattice import coordinates, lattice_of
from heclip_lite.methods.base import Method

CHUNK = 4096  # points predicted at once: bounds memory


def fill_in(
    section: AnnData, factor: int = 4, *, clip: bool = True, lattice: str = "auto"
) -> AnnData:
    """Put points between the spots of a section, so that there are `factor` times as many.

    The lattice, its pitch and its direction come from the section itself.

    Parameters
    ----------
    section
        A section on a hexagonal (Visium) or square (legacy ST) lattice.
    factor
        A square number: 4 halves the distance between points, 9 divides it by three. With 4, a
        new point lies in the middle of every edge between neighbouring spots and, on a square
        lattice, one more in the middle of every square.
    clip
        Drop points that lie on glass or outside the image; the spots themselves always stay.
    lattice
        ``"hexagonal"``, ``"square"``, or ``"auto"`` to recognise it.

    Returns
    -------
    AnnData of shape (points, 0)
        A section without counts: image, places, array coordinates (with fractions), section and
        donor; ``obs["spot"]`` says which points are spots of the section.

    Raises
    ------
    ValueError
        If no lattice is recognisable, `factor` is no square number above 1, or the points would
        lie closer than a pixel.
    """
    parts = math.isqrt(int(factor)) if factor == int(factor) and factor > 0 else 0
    if parts < 2 or parts**2 != factor:
        raise ValueError(
            f"factor is {factor}; give a square number: 4, 9, 16, ... For other densities use "
            "superres.grid(section, pitch_um)."
        )
    found = lattice_of(section, lattice)
    _check_pitch(section, found.pitch_um / parts)
    ways = found.between(parts)
    where, spots = coordinates(section), np.asarray(section.obsm["spatial"], dtype=np.float64)
    um = sections.um_per_px(section)
    # From each spot its own ways: a spot that lies a little off takes its points along.
    points = np.concatenate([spots + way @ found.to_um / um for way in ways])
    arrays = np.concatenate([where + way for way in ways])
    is_spot = np.arange(len(points)) < len(spots)
    kept = np.full(len(points), True)
    if clip:
        kept = is_spot | (_inside(section, points) & _on_tissue(section, points))
    obs = pd.DataFrame({"array_row": arrays[:, 1], "array_col": arrays[:, 0], "spot": is_spot})
    return _dense(section, points[kept], obs[kept], found.pitch_um / parts)


def grid(section: AnnData, pitch_um: float, *, clip: bool = True) -> AnnData:
    """Lay a square grid of points over a section.

    Parameters
    ----------
    section
        Any section; it needs no lattice.
    pitch_um
        Distance of neighbouring points, micrometres.
    clip
        Keep only points on tissue; otherwise the whole image is covered.

    Returns
    -------
    AnnData of shape (points, 0)
        As :func:`fill_in`; no point is a spot.

    Raises
    ------
    ValueError
        If the grid is finer than a pixel, or so coarse that no point is left.
    """
    _check_pitch(section, pitch_um)
    um = sections.um_per_px(section)
    width, height = sections.image_size(section)
    step = min(pitch_um / um, 2 * max(width, height))  # no point is left then; it may be endless
    x, y = np.arange(step / 2, width, step), np.arange(step / 2, height, step)
    col, row = np.meshgrid(np.arange(len(x)), np.arange(len(y)))
    points = np.stack([x[col.ravel()], y[row.ravel()]], axis=1)
    kept = _on_tissue(section, points) if clip else np.full(len(points), True)
    if not kept.any() or step > min(width, height):
        size = f"{width * um:.0f} x {height * um:.0f}"
        raise ValueError(
            f"Section {sections.name_of(section)!r}: no point of a grid of {pitch_um} micrometres "
            f"lies on its tissue; the image has {size} micrometres. Choose a finer pitch_um."
        )
    obs = pd.DataFrame({"array_row": row.ravel(), "array_col": col.ravel(), "spot": False})
    return _dense(section, points[kept], obs[kept], pitch_um)


def predict(method: Method, points: AnnData, *, chunk: int = CHUNK) -> AnnData:
    """Predict a section of dense points, piece by piece.

    Parameters
    ----------
    method
        A fitted method that reads only the image and places.
    points
        What :func:`fill_in` or :func:`grid` gave.
    chunk
        Points predicted at once.

    Returns
    -------
    AnnData of shape (points, genes)
        `points` with predicted log1p expression in ``X``; squidpy plots it as it is.

    Raises
    ------
    RuntimeError
        If the method was not fitted.
    ValueError
        If a point lies outside the image.
    """
    sections.check_section(points, counts=False)
    found = np.empty((points.n_obs, len(method.genes)), dtype=np.float32)
    starts = range(0, points.n_obs, chunk)
    for start in tqdm(starts, desc="dense points", disable=len(starts) < 2, leave=False):
        rows = slice(start, start + chunk)
        found[rows] = method.predict(points[rows].copy())
    return AnnData(
        found,
        obs=points.obs.copy(),
        var=pd.DataFrame(index=pd.Index(method.genes)),
        obsm={"spatial": np.array(points.obsm["spatial"])},
        uns=dict(points.uns),
    )


def _dense(section: AnnData, points: np.ndarray, obs: pd.DataFrame, pitch_um: float) -> AnnData:
    made = sections.hide_expression(section)
    name = sections.name_of(section)
    sections.note_spots(made, sections.spots_of(section))
    entry = made.uns["spatial"][name]
    diameter = pitch_um / sections.um_per_px(section)  # drawn side by side
    entry["scalefactors"] = {**entry["scalefactors"], "spot_diameter_fullres": diameter}
    obs = obs.reset_index(drop=True)
    obs.index = [f"{name}_{number}" for number in obs.index]
    obs.insert(0, "section", name)
    obs.insert(1, "donor", sections.donor_of(section))
    dense = AnnData(obs=obs, obsm={"spatial": points}, uns=made.uns)
    sections.check_section(dense, counts=False)
    return dense


def _check_pitch(section: AnnData, pitch_um: float) -> None:
    um = sections.um_per_px(section)
    if not pitch_um >= um:
        raise ValueError(
            f"Points {pitch_um:.3g} micrometres apart are closer than a pixel of section "
            f"{sections.name_of(section)!r} ({um:.3g} micrometres): the image tells nothing "
            "between pixels. Choose a smaller factor or a wider pitch."
        )


def _inside(section: AnnData, points: np.ndarray) -> np.ndarray:
    return ((points >= 0) & (points < sections.image_size(section))).all(axis=1)


def _on_tissue(section: AnnData, points: np.ndarray) -> np.ndarray:
    mask = registration.tissue_mask(section)
    return registration.in_mask(mask, points, sections.image_size(section))
