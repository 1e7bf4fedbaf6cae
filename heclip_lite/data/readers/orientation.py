"""Whether spots lie on the tissue, or would if the slide were turned or flipped.

Positions measured on a flipped or turned copy of the image give a section that looks complete,
trains without complaint, and predicts nothing.
The image itself tells: each of the eight ways to turn and flip the positions is tried,
and the share of spots that then lie on tissue is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from heclip_lite.data.contract import image_size, name_of, on_tissue, spot_pitch_um

AS_GIVEN = "as given"
# Each takes x, y and the largest x and y of the image, and gives the place to look at instead.
TRANSFORMS = {
    AS_GIVEN: lambda x, y, w, h: (x, y),
    "x flipped": lambda x, y, w, h: (w - x, y),
    "y flipped": lambda x, y, w, h: (x, h - y),
    "turned by 180 degrees": lambda x, y, w, h: (w - x, h - y),
    "x and y swapped": lambda x, y, w, h: (y, x),
    "turned by 90 degrees clockwise": lambda x, y, w, h: (w - y, x),
    "turned by 90 degrees counter-clockwise": lambda x, y, w, h: (y, h - x),
    "x and y swapped and turned by 180 degrees": lambda x, y, w, h: (w - y, h - x),
}
_CODE = {
    AS_GIVEN: "xy",
    "x flipped": "[w - 1 - x, y]",
    "y flipped": "[x, h - 1 - y]",
    "turned by 180 degrees": "[w - 1 - x, h - 1 - y]",
    "x and y swapped": "[y, x]",
    "turned by 90 degrees clockwise": "[w - 1 - y, x]",
    "turned by 90 degrees counter-clockwise": "[y, h - 1 - x]",
    "x and y swapped and turned by 180 degrees": "[w - 1 - y, h - 1 - x]",
}
CLEAR = 0.10  # so much more of the spots on tissue is no accident of a ragged edge
DOUBTFUL = 0.05
_GOOD = 0.90  # a right orientation puts so many spots on tissue


@dataclass(frozen=True)
class Orientation:
    """How well the spots of a section lie on its tissue, and in which other way they would.

    Attributes
    ----------
    section
        Name of the section.
    share
        Share of the spots on tissue, as they are given.
    best
        The transform of the positions with the largest share; ``"as given"`` where none is better.
    best_share
        Its share.
    shares
        The share of each transform.
    sentence
        The verdict, to be read by a person.
    """

    section: str
    share: float
    best: str
    best_share: float
    shares: dict[str, float]
    sentence: str

    @property
    def wrong(self) -> bool:
        """Another orientation is clearly right, and this one is not."""
        gain = self.best_share - self.share
        return self.best != AS_GIVEN and gain >= CLEAR and self.best_share >= _GOOD

    @property
    def doubtful(self) -> bool:
        """Look at the spots over the image before you use this section."""
        return self.share < 0.5 or self.best_share - self.share >= DOUBTFUL


def moved(points: np.ndarray, transform: str, width: int, height: int) -> np.ndarray:
    """Positions (points, 2) after one of the `TRANSFORMS`, in an image of this size."""
    x, y = np.asarray(points, dtype=np.float64).T
    return np.stack(TRANSFORMS[transform](x, y, width - 1, height - 1), axis=1)


def check_orientation(section: AnnData) -> Orientation:
    """Compare the eight orientations of the spots on their image.

    Parameters
    ----------
    section
        A section, or one whose counts are hidden.

    Returns
    -------
    Orientation
        Where the tissue is symmetric, several orientations are equally good;
        the one that is given counts as the best then, and nothing is proven.
    """
    points, size = np.asarray(section.obsm["spatial"], dtype=np.float64), image_size(section)
    shares = {
        name: float(on_tissue(section, moved(points, name, *size)).mean()) for name in TRANSFORMS
    }
    best = max(shares, key=shares.get)
    if shares[best] - shares[AS_GIVEN] < 1e-9:
        best = AS_GIVEN
    here, there = shares[AS_GIVEN], shares[best]
    found = Orientation(name_of(section), here, best, there, shares, "")
    return Orientation(name_of(section), here, best, there, shares, _sentence(found))


def _sentence(found: Orientation) -> str:
    start = f"{found.share:.0%} of the spots of section {found.section!r} lie on tissue"
    code = _CODE[found.best]
    sizes = (
        ", with w and h the image's width and height in pixels" if {"w", "h"} & set(code) else ""
    )
    remedy = (
        f"Correct the positions: x, y = {code}{sizes}; or take the image that the positions were "
        "measured on."
    )
    if found.wrong:
        return f"{start}, but {found.best_share:.0%} would with positions {found.best}. {remedy}"
    if found.share < 0.5:
        return (
            f"{start}, and no other orientation is clearly right. Leave out spots off the tissue "
            "(a selection column), and check that image and positions belong together."
        )
    if found.doubtful:
        return (
            f"{start}; {found.best_share:.0%} would with positions {found.best}. "
            "Look at the spots over the image."
        )
    equal = sum(share > found.share - CLEAR for share in found.shares.values()) - 1
    if equal:
        return f"{start}. So would nearly as many in {equal} of 7 other orientations."
    return f"{start}, and clearly fewer in any other orientation."


def check_pitch(section: AnnData, expected_um: float, tolerance: float = 0.1) -> None:
    """Compare the distance between neighbouring spots with what the technology gives.

    Parameters
    ----------
    section
        A section.
    expected_um
        Centre to centre: 100 for Visium, 200 for legacy Spatial Transcriptomics.
    tolerance
        Largest relative difference.

    Raises
    ------
    ValueError
        If they differ by more: the scale is wrong.
    """
    pitch = spot_pitch_um(section)
    if not abs(pitch / expected_um - 1) <= tolerance:
        raise ValueError(
            f"Section {name_of(section)!r}: neighbouring spots are {pitch:.1f} micrometres apart, "
            f"but should be {expected_um:g}: wrong scale. Correct um_per_px (times "
            f"{expected_um / pitch:.4g}), or leave it out so that it follows from the pitch."
        )
