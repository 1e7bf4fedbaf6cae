"""Stain the synthetic tissue with haematoxylin and eosin.

Two images of stain are drawn first: how much haematoxylin and how much eosin lies on each pixel.
Light is then dimmed by both, each with its colour (the law of Beer and Lambert), as in
Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution" (2001).
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from heclip_lite.data.synthetic.anatomy import Anatomy, lattice

# Nuclei: darkness, pale centre (vesicle), irregularity of the outline.
NUCLEI = {
    "tumour": (1.10, 0.35, 0.10), "cycling": (1.40, 0.20, 0.13), "luminal": (1.05, 0.2, 0.05),
    "myoepithelial": (1.05, 0, 0.05), "fibroblast": (1.05, 0, 0.06),
    "myofibroblast": (1.15, 0, 0.06), "lymphocyte": (1.45, 0, 0.04),
    "adipocyte": (1.0, 0, 0.05), "endothelial": (1.1, 0, 0.05),
}  # fmt: skip
UPSCALE = 4  # pixels between two points of the anatomy's maps


def draw(anatomy: Anatomy, um_per_px: float, seed: int, donor: int, section: int):
    """Image of a section.

    Returns
    -------
    The image, uint8 (side, side, 3), and the colour of the bare glass, three whole numbers.
    """
    rng = np.random.default_rng([seed, 3, donor, section])
    canvas = _Canvas(anatomy, um_per_px, rng)
    canvas.stroma()
    canvas.nests()
    canvas.glands()
    canvas.fat()
    canvas.vessels()
    canvas.nuclei()
    return _develop(canvas, _stain(seed, donor, section), rng)


def soft(inside: np.ndarray, width: float = 1.0) -> np.ndarray:
    """1 inside, 0 outside, with a border `width` wide."""
    return np.clip(inside / width + 0.5, 0, 1)


class _Canvas:
    """The two stains (side, side), and the maps of the anatomy at full resolution."""

    def __init__(self, anatomy: Anatomy, um_per_px: float, rng: np.random.Generator):
        self.anatomy, self.um, self.rng = anatomy, um_per_px, rng
        self.side = len(anatomy.maps["tissue"]) * UPSCALE
        names = ["tissue", "wall", "lumen", "zone", "nest", "across", "along", "dense", "immune"]
        self.maps = {name: self.grow(anatomy.maps[name]) for name in [*names, "vessel"]}
        self.grain = gaussian_filter(self._white(1), 1.0) * 3.5
        self.cloud = self.grow(gaussian_filter(self._white(4), 4) * 14)

    def grow(self, values: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.asarray(values, np.float32))
        return np.asarray(image.resize((self.side, self.side), Image.Resampling.BICUBIC))

    def _white(self, shrink: int) -> np.ndarray:
        side = self.side // shrink
        return self.rng.standard_normal((side, side), dtype=np.float32)

    def slow(self, scale: int = 20) -> np.ndarray:
        """Random field of unit variance that changes over about 16 times `scale` pixels."""
        return self.grow(gaussian_filter(self._white(16), scale) * 3.5 * scale)

    def _fibres(self, width_um: float, length_um: float, sigma: tuple) -> np.ndarray:
        """Noise drawn out along the fibres."""
        tile = self.rng.standard_normal((512, 512), dtype=np.float32)
        tile = gaussian_filter(tile, sigma, mode="wrap")
        where = [self.maps["across"] / width_um, self.maps["along"] / length_um]
        return map_coordinates(tile / tile.std(), where, order=1, mode="grid-wrap")

    def stroma(self) -> None:
        maps, cloud, dense = self.maps, self.cloud, self.maps["dense"]
        bundle = self._fibres(4.2, 16, (2.2, 4))
        fine = self._fibres(1.6, 7, (1, 4))
        self.eosin = 0.13 + 0.07 * soft(bundle, 3) + dense * (0.34 + 0.13 * bundle)
        self.eosin += (0.05 + 0.07 * dense) * fine + 0.03 * cloud + 0.03 * self.grain
        self.haem = 0.05 + 0.02 * bundle + 0.012 * fine + 0.03 * cloud * (1 - dense)
        immune = soft(maps["immune"], 14)
        self.eosin *= 1 - 0.4 * immune
        self.haem += 0.07 * immune
        # Clefts between loose fibres, where the section tore or fluid lay.
        cleft = soft(bundle + 0.45 * cloud - 1.75 + 0.55 * dense, 0.35)
        self.filled = 1 - 0.93 * cleft * soft(-maps["zone"], 6) * soft(-maps["immune"], 10)
        # Tumour nests shrink away from the stroma here and there.
        rim = soft(maps["nest"] + 3.5, 2) - soft(maps["nest"], 2.5)
        self.filled *= 1 - 0.65 * rim * soft(cloud + 0.3 * fine - 0.1, 0.8)

    def _lay(self, mask: np.ndarray, haem, eosin, filled=1.0) -> None:
        """Put a material over what is there, where `mask` is 1."""
        self.haem += mask * (haem - self.haem)
        self.eosin += mask * (eosin - self.eosin)
        self.filled += mask * (filled - self.filled)

    def nests(self) -> None:
        holes = soft(gaussian_filter(self.grain, 2.2) * 4.2 - 1.95 + 0.2 * self.cloud, 0.5)
        cytoplasm = 0.05 * self.cloud + 0.04 * self.grain
        mask = soft(self.maps["nest"], 2.5)
        self._lay(mask, 0.17 + cytoplasm, 0.20 + cytoplasm, 1 - 0.85 * holes)

    def glands(self) -> None:
        wall, lumen = self.maps["wall"], self.maps["lumen"]
        self.eosin += 0.16 * np.exp(-(((wall + 1.5) / 2) ** 2))  # basement membrane
        self._lay(soft(wall, 2), 0.26, 0.26)
        secretion = soft(self.cloud - 0.9, 0.6) * soft(lumen - 4, 3)
        self._lay(soft(lumen, 2), 0.0, 0.45 + 0.05 * self.grain, 0.6 * secretion)

    def fat(self) -> None:
        """Draw empty cells, each up to a membrane halfway to its neighbours' centres."""
        fat = self.anatomy.adipocytes
        if not len(fat):
            return
        half = self.side // 2
        gap = np.full((half, half), -9, np.float32)
        row, col = np.nonzero(_resize(self.anatomy.maps["fat"], half) > -70)
        xy = (np.column_stack([col, row]) + 0.5) * 2 * self.um
        distance, cell = cKDTree(fat[:, :2]).query(xy, k=3)
        radius = fat[cell, 2]
        room = np.max(radius - distance, axis=1)
        distance = np.sort(distance - 0.6 * radius, axis=1)  # large cells push small ones
        second, third = (distance[:, 1:] - distance[:, :1]).clip(0.05).T
        inside = 1 / (1 / second + 0.55 / third)  # rounds the corners where three cells meet
        gap[row, col] = np.clip(np.minimum(inside, room), -9, 9)
        empty = soft(self.grow(gap) - 2.4, 3)
        membrane = np.clip(1 - np.abs(empty - 0.35) / 0.35, 0, 1) * soft(-self.maps["nest"], 3)
        self.filled *= 1 - empty
        self.eosin += 0.20 * membrane / np.clip(self.filled, 0.2, 1)

    def vessels(self) -> None:
        """Draw a pink wall, and red cells (pure eosin) in the lumen."""
        inside = self.maps["vessel"]
        self._lay(soft(inside + 3, 3), 0.08, 0.45)
        self._lay(soft(inside - 1.5, 1.5), 0.0, 0.05, 0.1)
        red = lattice(self.rng, self.anatomy.size_um, 6.6, 0.16)
        red = red[(self.anatomy.at("vessel", red) > 2.5) & (self.rng.random(len(red)) < 0.8)]
        size = np.full(len(red), 5.8)
        self.red = self._stamp(red, size, size, 0 * size, 0.75, 0.25, 0.03)

    def nuclei(self) -> None:
        nuclei = np.zeros((self.side, self.side), np.float32)
        for kind, look in NUCLEI.items():
            cells = self.anatomy.cells[self.anatomy.cells["type"] == kind]
            columns = (cells[c].to_numpy() for c in ("length", "width", "angle"))
            nuclei += self._stamp(cells[["nucleus_x", "nucleus_y"]].to_numpy(), *columns, *look)
        tissue = soft(self.maps["tissue"], 3)
        nuclei *= soft(self.maps["tissue"] - 1, 2)
        chromatin = 1 + 0.16 * self.grain + 0.10 * self._white(1)
        haze = 0.16 * gaussian_filter(nuclei, 5 / self.um)  # nuclei above and below the focus
        present = self.filled * tissue
        self.haem = self.haem * present + nuclei * chromatin + haze
        self.eosin = self.eosin * present * (1 - 0.35 * np.clip(nuclei, 0, 1)) + self.red
        # The cut edge curls up a little and takes more stain.
        edge = (
            tissue
            * np.exp(-np.clip(self.maps["tissue"], 0, None) / 6)
            * soft(self.cloud + 0.3, 1.5)
        )
        self.haem += 0.30 * edge * self.filled
        self.eosin += 0.20 * edge * self.filled

    def _stamp(self, xy, length, width, angle, dark, vesicle, wobble) -> np.ndarray:
        """Ellipses with wavy outlines, all of one kind at once, added up (side, side)."""
        if not len(xy):
            return np.zeros((self.side, self.side), np.float32)
        xy = xy / self.um
        a, b = (np.asarray(v, np.float32)[:, None] / 2 / self.um for v in (length, width))
        reach = int(np.ceil(a.max() + 2))
        row, col = (v.ravel() for v in np.mgrid[-reach : reach + 1, -reach : reach + 1])
        corner = np.floor(xy).astype(int)
        dx, dy = (
            np.stack([col, row])[:, None] - (xy - corner - 0.5).T[:, :, None]
        )  # (cells, pixels)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        u, v = (
            ((cos * dx + sin * dy) / a).astype(np.float32),
            ((cos * dy - sin * dx) / b).astype(np.float32),
        )
        radius, turn = np.hypot(u, v), np.arctan2(v, u)
        outline = np.ones_like(radius)
        for waves in (2, 3, 5):
            size = self.rng.normal(0, 2 * wobble / waves, (len(xy), 1)).astype(np.float32)
            phase = self.rng.uniform(0, 2 * np.pi, (len(xy), 1)).astype(np.float32)
            outline += size * np.cos(waves * turn + phase)
        level = dark * np.exp(self.rng.normal(0, 0.17, (len(xy), 1)))
        body = (
            soft((outline - radius) * b, 1.1) * level * (1 - vesicle * np.clip(1 - radius**2, 0, 1))
        )
        x, y = corner[:, :1] + col, corner[:, 1:] + row
        seen = (body > 0) & (x >= 0) & (x < self.side) & (y >= 0) & (y < self.side)
        total = np.bincount(y[seen] * self.side + x[seen], body[seen], self.side**2)
        return total.reshape(self.side, self.side).astype(np.float32)


def _resize(values: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC))


def _stain(seed: int, donor: int, section: int) -> dict:
    """Colour and strength of both stains: they differ by donor, and a little by section."""
    of_donor = np.random.default_rng([seed, 5, donor])
    first = np.random.default_rng([seed, 7]).uniform(size=2)
    hue = iter((first + 0.618 * donor) % 1)  # the golden ratio keeps neighbouring donors apart
    of_section = np.random.default_rng([seed, 6, donor, section])

    def mixed(one, other):
        share = np.clip(next(hue) + of_section.normal(0, 0.06), 0, 1)
        colour = (1 - share) * np.array(one) + share * np.array(other)
        return colour / np.linalg.norm(colour)

    def strength(mean, donor_sd, section_sd):
        return mean * np.exp(of_donor.normal(0, donor_sd) + of_section.normal(0, section_sd))

    bright, lilac, warm = of_donor.normal((238, 3, 0), (3, 2, 2)) + of_section.normal(0, 0.7, 3)
    glass = bright + lilac * np.array([1, -1, 1]) + warm * np.array([1, 0, -1])
    return {
        "haem": mixed((0.71, 0.63, 0.30), (0.56, 0.75, 0.35)) * strength(2.35, 0.12, 0.05),
        "eosin": mixed((0.26, 0.84, 0.32), (0.07, 0.81, 0.54)) * strength(1.5, 0.16, 0.06),
        "glass": np.clip(glass, 0, 250),
    }


def _develop(canvas: _Canvas, stain: dict, rng: np.random.Generator):
    """From stain to colour: thickness, Beer-Lambert, uneven light, optics and sensor noise."""
    thickness = 1 + 0.10 * canvas.cloud + 0.06 * canvas.slow(5)
    light = 1 + 0.012 * canvas.slow(20)
    haem = np.clip(canvas.haem * thickness, 0, None)
    haem = 2.4 * (1 - np.exp(-haem / 2.4))  # crowded nuclei do not darken without end
    eosin = np.clip(canvas.eosin * thickness, 0, None)
    grey = rng.normal(0, 2.0, haem.shape)
    image = np.empty((*haem.shape, 3), np.uint8)
    for i, glass in enumerate(stain["glass"]):
        density = (haem * stain["haem"][i] + eosin * stain["eosin"][i]).astype(np.float32)
        colour = gaussian_filter(glass * light * np.exp(-density), 0.5)
        colour += grey + 1.2 * rng.standard_normal(haem.shape, dtype=np.float32)
        image[..., i] = np.clip(colour, 0, 255)
    return image, tuple(int(v) for v in stain["glass"])
