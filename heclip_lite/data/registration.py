"""Where sections lie on one another: tissue against glass, and rigid registration of outlines.

Only images are read here, never expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from PIL import Image

from heclip_lite import store
from heclip_lite.data import sections

_GAP_UM = 80.0  # gaps in the tissue narrower than twice this are closed
_SMALLEST = 0.02  # share of the largest piece of tissue below which a piece is a speck
_TURN_COST = 0.02  # of Dice, for half a turn: of two equal fits, the smaller turn is taken


def positions_um(section: AnnData) -> np.ndarray:
    """Spot centres in micrometres of the slide, (spots, 2)."""
    return np.asarray(section.obsm["spatial"]) * sections.um_per_px(section)


def tissue_mask(section: AnnData, um_per_px: float = 20.0) -> np.ndarray:
    """Where there is tissue, from the colour alone.

    Tissue is what differs from the colour of empty slide by more than Li's threshold
    (minimum cross entropy; pale fat and stroma count as tissue);
    holes are filled and specks are dropped.

    Parameters
    ----------
    section
        A section; only its preview image is read.
    um_per_px
        Micrometres per pixel of the mask.

    Returns
    -------
    ndarray, bool, (rows, columns)

    Raises
    ------
    ValueError
        If no tissue is found.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes, binary_opening
    from skimage.filters import threshold_li
    from skimage.measure import label

    small, scale = sections.preview(section)
    zoom = sections.um_per_px(section) / scale / um_per_px
    size = [max(8, round(side * zoom)) for side in small.shape[1::-1]]
    pixels = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BOX), dtype=float)
    distance = np.linalg.norm(pixels - np.array(sections.background_of(section)), axis=2)
    if np.ptp(distance) == 0:
        raise ValueError(
            f"Section {sections.name_of(section)!r}: the image is of one colour, so there is no "
            "tissue to find. Check the image and its masked regions."
        )
    mask = distance > threshold_li(distance)
    reach = max(1, round(_GAP_UM / um_per_px))
    mask = binary_fill_holes(binary_closing(np.pad(mask, reach), iterations=reach))
    mask = binary_opening(mask[reach:-reach, reach:-reach])
    pieces = label(mask)
    areas = np.bincount(pieces.ravel())[1:]
    if not len(areas):
        raise ValueError(
            f"Section {sections.name_of(section)!r}: no tissue stands out from the background "
            f"colour {sections.background_of(section)}. Give make_section the colour of the "
            "empty slide as background."
        )
    kept = 1 + np.flatnonzero(areas >= _SMALLEST * areas.max())
    return np.isin(pieces, kept)


def in_mask(mask: np.ndarray, points: np.ndarray, size: np.ndarray | tuple[int, int]) -> np.ndarray:
    """Which points lie where `mask` is true: bool, (points,).

    Parameters
    ----------
    mask
        bool, (rows, columns): of a whole image, in whatever resolution.
    points
        (points, 2): x, y in pixels of the image; those beyond it count as at its edge.
    size
        Width and height of the image, pixels.
    """
    shape = np.array(mask.shape[::-1])
    at = (points / np.asarray(size) * shape).astype(int).clip(0, shape - 1)
    return mask[at[:, 1], at[:, 0]]


@dataclass(frozen=True)
class Rigid:
    """A turn about the origin, then a shift: from one section's micrometres to another's.

    Attributes
    ----------
    rotation
        Radians, from x towards y.
    shift
        Micrometres, x and y.
    dice
        Overlap of the two tissue masks afterwards, from 0 to 1.
    """

    rotation: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    dice: float = 1.0

    def apply(self, places_um: np.ndarray) -> np.ndarray:
        """Places (points, 2) in the other section's frame."""
        return np.asarray(places_um) @ _turn(self.rotation).T + self.shift

    def inverse(self) -> Rigid:
        """The way back."""
        back = -_turn(-self.rotation) @ self.shift
        return Rigid(-self.rotation, tuple(back.tolist()), self.dice)

    def then(self, other: Rigid) -> Rigid:
        """This one first, the other one after it."""
        shift = _turn(other.rotation) @ self.shift + other.shift
        return Rigid(
            self.rotation + other.rotation, tuple(shift.tolist()), min(self.dice, other.dice)
        )


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def register(moving: AnnData, fixed: AnnData, *, um_per_px: float = 40.0) -> Rigid:
    """Lay the tissue of one section on that of another, by turning and shifting.

    All turns are tried with the best shift of each, found by Fourier cross correlation; the best
    one is refined by maximising the overlap (Dice) of slightly blurred masks.
    Pieces of one slide that were laid on one another before (see
    :func:`heclip_lite.evaluation.splits.spatial_blocks`) keep that placement.

    Parameters
    ----------
    moving, fixed
        Two sections; only their images are read.
    um_per_px
        Scale of the masks.

    Returns
    -------
    Rigid
        From micrometres of `moving` to micrometres of `fixed`.
    """
    frames = [_frame(section) for section in (moving, fixed)]
    if all(frame is not None for frame in frames):
        return frames[0].then(frames[1].inverse())
    key = store.content_key(
        store.code_key("core", "data"),
        *[
            part
            for section in (moving, fixed)
            for part in (
                sections.image_key(section),
                [sections.um_per_px(section), list(sections.background_of(section))],
            )
        ],
        um_per_px,
    )

    def compute() -> np.ndarray:
        return _search(*(tissue_mask(section, um_per_px) for section in (moving, fixed)))

    rotation, x, y, dice = store.cached_array("registration", key, compute).tolist()
    # Pixel centres lie half a pixel inside: bring the shift from mask pixels to micrometres.
    half = np.array([0.5, 0.5])
    shift = (np.array([x, y]) + half - _turn(rotation) @ half) * um_per_px
    return Rigid(rotation, tuple(shift.tolist()), dice)


def with_frame(section: AnnData, frame: Rigid) -> None:
    """Note on a section how its micrometres map to a frame that it shares with others."""
    metadata = section.uns["spatial"][sections.name_of(section)]["metadata"]
    metadata["frame"] = [frame.rotation, *frame.shift]


def _frame(section: AnnData) -> Rigid | None:
    kept = section.uns["spatial"][sections.name_of(section)].get("metadata", {}).get("frame")
    if kept is None:
        return None
    rotation, x, y = (float(v) for v in kept)
    return Rigid(rotation, (x, y))


def _search(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Rotation, x and y shift in mask pixels (about pixel indices), and the Dice reached."""
    from scipy.fft import irfft2, next_fast_len, rfft2
    from scipy.ndimage import gaussian_filter
    from scipy.optimize import minimize

    rows, columns = (
        next_fast_len(2 * max(moving.shape[axis], fixed.shape[axis])) for axis in (0, 1)
    )
    soft = [gaussian_filter(mask.astype(float), 1.0) for mask in (moving, fixed)]
    middle = (np.array(moving.shape[::-1]) - 1) / 2
    frequencies = rfft2(soft[1], (rows, columns))
    total = soft[0].sum() + soft[1].sum()
    best = (-np.inf, 0.0, np.zeros(2))
    for angle in np.deg2rad(np.arange(-180, 180, 5)):
        turned = _warp(soft[0], angle, middle - _turn(angle) @ middle, moving.shape)
        overlap = irfft2(frequencies * np.conj(rfft2(turned, (rows, columns))), (rows, columns))
        y, x = np.unravel_index(np.argmax(overlap), overlap.shape)
        score = 2 * overlap[y, x] / total - _TURN_COST * abs(angle) / np.pi
        if score > best[0]:
            there = np.array([x - columns * (x > columns // 2), y - rows * (y > rows // 2)])
            best = (score, angle, there + middle - _turn(angle) @ middle)

    def loss(values: np.ndarray) -> float:
        angle = values[0] / 20  # radians, scaled so that one unit moves the rim by some pixels
        shift = values[1:] + middle - _turn(angle) @ middle
        laid = _warp(soft[0], angle, shift, fixed.shape)
        return -2 * np.minimum(laid, soft[1]).sum() / total

    start = np.array([20 * best[1], *(best[2] - middle + _turn(best[1]) @ middle)])
    simplex = start + np.vstack([np.zeros(3), 1.5 * np.eye(3)])
    found = minimize(
        loss, start, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 0.02}
    )
    angle = found.x[0] / 20
    shift = found.x[1:] + middle - _turn(angle) @ middle
    laid = _warp(moving.astype(float), angle, shift, fixed.shape) > 0.5
    dice = 2 * (laid & fixed).sum() / (moving.sum() + fixed.sum())
    return np.array([angle, *shift, dice])


def _warp(mask: np.ndarray, angle: float, shift: np.ndarray, shape: tuple) -> np.ndarray:
    """The mask after ``place -> turn(angle) @ place + shift`` (x, y), on a grid of `shape`."""
    from scipy.ndimage import affine_transform

    back = _turn(-angle)
    offset = -back @ shift
    # affine_transform counts (row, column) = (y, x) and asks where each new pixel comes from.
    return affine_transform(mask, back[::-1, ::-1], offset[::-1], shape, order=1)


def harmonise(
    section: AnnData,
    um_per_px: float = 3.19,
    background: tuple[int, int, int] = (255, 255, 255),
) -> AnnData:
    """The same section at another scale, with everything off the tissue in one colour.

    Slides of different donors often come from different scanners.
    Bringing all of them to the coarsest scale, cut out alike, shows what depends on that.

    Parameters
    ----------
    section
        A section with counts.
    um_per_px
        Scale of the new image; not finer than the section's own.
    background
        Colour (r, g, b) of everything that is not tissue.

    Returns
    -------
    AnnData
        A section with its image in memory; counts, labels and array coordinates as before.

    Raises
    ------
    ValueError
        If the section is coarser than `um_per_px` by more than a hundredth.
    """
    own = sections.um_per_px(section)
    name = sections.name_of(section)
    if own > 1.01 * um_per_px:
        raise ValueError(
            f"Section {name!r} has {own:g} um per pixel, coarser than the {um_per_px:g} asked "
            "for; name the coarsest scale of all sections."
        )
    whole = Image.fromarray(sections.read_image(section))
    size = [max(1, round(side * own / um_per_px)) for side in whole.size]
    pixels = np.array(whole.resize(size, Image.Resampling.BOX))
    mask = Image.fromarray(tissue_mask(section)).resize(size, Image.Resampling.NEAREST)
    pixels[~np.asarray(mask)] = background
    factors = np.array(size) / whole.size
    made = sections.make_section(
        section.X,
        list(section.var_names),
        np.asarray(section.obsm["spatial"]) * factors,
        name=name,
        donor=sections.donor_of(section),
        um_per_px=own / float(factors.mean()),
        spot_diameter_um=sections.spot_diameter_um(section),
        image=pixels,
        spot_names=list(section.obs_names),
        obs=section.obs,
        background=background,
    )
    return made
