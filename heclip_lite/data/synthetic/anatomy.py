"""Anatomy of the synthetic tissue: where its compartments, glands, fibres and cells lie.

Nothing here has a colour or a gene. Lengths are micrometres.
A donor is a set of smooth random fields; a section is one slice through them, slightly moved,
bent and deeper than the one before, with cells of its own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from scipy.special import expit

DOMAINS = ("tumour", "stroma", "immune", "gland", "fat")
CELL_TYPES = (
    "tumour", "cycling", "luminal", "myoepithelial", "fibroblast", "myofibroblast",
    "lymphocyte", "adipocyte", "endothelial",
)  # fmt: skip

# Donors take these characters in turn. Shares: of the tissue that is tumour, fat and immune, and
# of the tumour that is nests. `nest_um` is the width of a nest, `collagen` moves stroma from loose
# (negative) to dense, and the last two count glands in an image 1600 um wide.
CHARACTERS = (
    {"tumour": 0.32, "fat": 0.15, "immune": 0.09, "nests": 0.68, "nest_um": 48, "collagen": 0.0,
     "ducts": 4, "lobules": 2},
    {"tumour": 0.22, "fat": 0.33, "immune": 0.07, "nests": 0.84, "nest_um": 76, "collagen": 0.5,
     "ducts": 5, "lobules": 3},
    {"tumour": 0.42, "fat": 0.09, "immune": 0.13, "nests": 0.56, "nest_um": 30, "collagen": -0.4,
     "ducts": 3, "lobules": 2},
)  # fmt: skip
LAYER_UM = 6.4  # one layer of glandular epithelium


class Noise:
    """Smooth random field of unit variance with blobs about `scale_um` wide.

    It changes slowly with `depth` (radians): 0 and 0.2 are alike, 0 and 1.6 are independent.
    """

    def __init__(self, rng: np.random.Generator, scale_um: float, cells: int = 320):
        tiles = rng.standard_normal((2, cells, cells), dtype=np.float32)
        tiles = gaussian_filter(tiles, (0, 5, 5), mode="wrap")
        self.tiles = tiles / tiles.std(axis=(1, 2), keepdims=True)
        self.cells_per_um = 10.0 / scale_um

    def __call__(self, xy: np.ndarray, depth: float = 0.0) -> np.ndarray:
        """Read the field at positions (points, 2), um."""
        tile = np.cos(depth) * self.tiles[0] + np.sin(depth) * self.tiles[1]
        where = (xy * self.cells_per_um).T[::-1]
        return map_coordinates(tile, where, order=1, mode="grid-wrap", output=np.float32)


def lattice(rng: np.random.Generator, size_um: float, spacing_um: float, jitter: float):
    """Jittered hexagonal lattice over a square: crowded points that do not overlap much."""
    row, col = np.mgrid[: int(size_um / spacing_um / 0.866) + 2, : int(size_um / spacing_um) + 2]
    xy = np.stack([col + 0.5 * (row % 2), 0.866 * row], -1).reshape(-1, 2) * spacing_um
    xy += spacing_um * (rng.normal(0, jitter, xy.shape) - rng.random(2))
    return xy[((xy >= 0) & (xy < size_um)).all(axis=1)]


def rotation(angle: float) -> np.ndarray:
    """2 x 2 matrix that turns row vectors by `angle` (radians)."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


class Donor:
    """What the sections of one donor share. Positions are um from the centre of the tissue."""

    def __init__(self, seed: int, number: int, size_um: float):
        rng = np.random.default_rng([seed, 1, number])
        self.character = CHARACTERS[number % len(CHARACTERS)]
        scales = {"tumour": 210, "fat": 230, "immune": 100, "nest": self.character["nest_um"],
                  "grade": 220, "collagen": 95, "bend": 260, "slide": 260, "wave": 45,
                  "outline": 110, "lumen": 34, "thickness": 50}  # fmt: skip
        self.noise = {name: Noise(rng, scale) for name, scale in scales.items()}
        self.size_um = size_um
        self.fibres = rotation(rng.uniform(0, 2 * np.pi))
        # The outline is a polygon, as a blade cuts it, kept inside the image.
        sides = rng.integers(4, 7)
        angles = rng.uniform(0, 2 * np.pi)
        angles += 2 * np.pi * (np.arange(sides) + rng.uniform(-0.35, 0.35, sides)) / sides
        angles = np.append(angles, np.pi / 2 * np.arange(4))
        self.normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.reach = np.append(size_um * rng.uniform(0.34, 0.47, sides), [size_um / 2 - 75] * 4)

        # Thresholds that give each compartment its share, from the donor's tissue at depth 0.
        axis = np.arange(-size_um / 2, size_um / 2, 10.0)
        xy = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        xy = xy[self.tissue(xy, 0) > 0]
        share = self.character
        fat, tumour = self.noise["fat"](xy), self.noise["tumour"](xy)
        self.fat_cut = np.quantile(fat, 1 - share["fat"])
        lean = fat < self.fat_cut
        self.tumour_cut = np.quantile(tumour[lean], 1 - share["tumour"] / lean.mean())
        self.nest_cut = np.quantile(self.noise["nest"].tiles[0], 1 - share["nests"])
        self.immune_cut = 0.0
        self.immune_cut = np.quantile(self.immune(xy, 0), 1 - share["immune"])
        self._place_glands(rng, xy)

    def tissue(self, xy: np.ndarray, depth: float) -> np.ndarray:
        """Map the distance inside the outline, um, negative on the glass; so for the next maps."""
        edges = self.reach - xy @ self.normals.T  # (points, sides)
        inside = -12 * np.log(np.exp(-np.clip(edges, -400, 400) / 12).sum(axis=1))
        return inside + 8 * self.noise["outline"](xy, depth)

    def fat(self, xy: np.ndarray, depth: float) -> np.ndarray:
        """Map the fat."""
        return 115 * (self.noise["fat"](xy, depth) - self.fat_cut)

    def tumour(self, xy: np.ndarray, depth: float) -> np.ndarray:
        """Map the tumour, nests and the stroma between them alike."""
        inside = 105 * (self.noise["tumour"](xy, depth) - self.tumour_cut)
        return np.minimum(inside, -self.fat(xy, depth) - 10)

    def immune(self, xy: np.ndarray, depth: float) -> np.ndarray:
        """Map immune aggregates: they prefer the tumour's border and keep out of the fat."""
        far = np.abs(self.tumour(xy, depth) + 15) / 70
        fat = np.clip(self.fat(xy, depth) + 20, 0, None) / 15
        return 40 * (self.noise["immune"](xy, depth) - far - fat) - self.immune_cut

    def _place_glands(self, rng: np.random.Generator, xy: np.ndarray) -> None:
        """Ducts and lobules in the stroma, the roomiest places first, apart from each other.

        A gland is a row (x, y, radius, stretch, angle), a lobule a row (x, y, radius).
        """
        room = -np.maximum(self.tumour(xy, 0), self.fat(xy, 0))
        room = np.minimum(np.minimum(room, self.tissue(xy, 0) - 70), 120)
        xy = xy[np.argsort(-room + rng.normal(0, 30, len(room)))]
        taken, glands, lobules = np.zeros((0, 3)), [], []
        area = (self.size_um / 1600) ** 2
        lobules_wanted = round(area * self.character["lobules"])
        radii = [*rng.uniform(95, 140, lobules_wanted)]
        radii += [*rng.uniform(28, 62, max(1, round(area * self.character["ducts"])))]
        for i, radius in enumerate(radii):
            stretch, turn = rng.uniform(1, 2.1), rng.uniform(0, np.pi)
            gap = np.hypot(*(xy[:, None] - taken[None, :, :2]).transpose(2, 0, 1)) - taken[:, 2]
            free = (gap > 1.3 * radius + 50).all(axis=1)
            if not free.any():
                continue
            centre = xy[free][0]
            taken = np.vstack([taken, [*centre, radius]])
            if i >= lobules_wanted:
                glands.append([*centre, radius, stretch, turn])
                continue
            lobules.append([*centre, radius])
            for acinus in lattice(rng, 2 * radius, 37, 0.2) - radius:
                if np.hypot(*acinus) < radius - 12 and rng.random() < 0.9:
                    size = np.clip(rng.lognormal(np.log(15.5), 0.2), 10, 25)
                    shape = [rng.uniform(1, 1.9), rng.uniform(0, np.pi)]
                    glands.append([*(centre + acinus), size, *shape])
        self.glands = np.array(glands).reshape(-1, 5)
        self.lobules = np.array(lobules).reshape(-1, 3)

    def gland(self, xy: np.ndarray, depth: float) -> tuple[np.ndarray, np.ndarray]:
        """Map the distance inside the nearest gland's outer wall, and inside the gland zone."""
        wall = np.full(len(xy), -300.0, np.float32)
        ragged = self.noise["lumen"](xy, depth)
        tree = cKDTree(xy)
        for x, y, radius, stretch, turn in self.glands:
            near = np.array(tree.query_ball_point((x, y), radius * stretch + 150), int)
            along, across = ((xy[near] - (x, y)) @ rotation(-turn)).T
            inside = radius - np.hypot(along / stretch, across)
            inside = inside + min(0.14 * radius, 7) * ragged[near]
            wall[near] = np.maximum(wall[near], inside)
        zone = wall + 22
        for x, y, radius in self.lobules:
            inside = radius + 8 - np.hypot(xy[:, 0] - x, xy[:, 1] - y)
            zone = np.maximum(zone, inside + 10 * ragged)
        return wall, zone


donor_of_seed = lru_cache(maxsize=16)(Donor)


class Anatomy:
    """One section: maps on a coarse lattice, `step_um` apart, and its cells.

    Attributes
    ----------
    maps
        Arrays (side, side). Most are distances inside a compartment, um. `across` and `along` are
        coordinates that run with the fibres; `dense` (collagen) and `grade` lie in 0 to 1.
    cells
        One row per cell: `x`, `y` (um), `type`, nucleus `length` and `width` (um), `angle`,
        where its nucleus lies, and `reach`, the radius that its RNA fills (um).
    adipocytes, vessels
        Rows (x, y, radius) and (x, y, radius, stretch, angle).
    """

    def __init__(self, seed: int, donor: int, section: int, size_um: float, step_um: float):
        self.rng = np.random.default_rng([seed, 2, donor, section])
        self.size_um, self.step_um = size_um, step_um
        self.donor = donor_of_seed(seed, donor, size_um)
        self.depth = 0.16 * section
        self._turn = rotation(self.rng.normal(0, np.deg2rad(2)))
        self._shift = self.rng.normal(0, 14, 2)
        self._bend = [Noise(self.rng, 320, cells=160) for _ in range(2)]
        self._draw_maps()
        self._place_cells()

    def to_donor(self, xy: np.ndarray) -> np.ndarray:
        """Positions in the donor's tissue of positions in this section, um (points, 2)."""
        bent = np.stack([bend(xy) for bend in self._bend], axis=1)
        return (xy - self.size_um / 2) @ self._turn + self._shift + 16 * bent

    def at(self, name: str, xy: np.ndarray) -> np.ndarray:
        """Read a map at positions (points, 2), um."""
        where = (xy / self.step_um - 0.5).T[::-1]
        return map_coordinates(self.maps[name], where, order=1, mode="nearest")

    def angle(self, xy: np.ndarray) -> np.ndarray:
        """Direction of the fibres, radians. A direction has no sign, hence the doubled angle."""
        return 0.5 * np.arctan2(self.at("sin2", xy), self.at("cos2", xy))

    def _draw_maps(self) -> None:
        donor, depth, rng = self.donor, self.depth, self.rng
        side = round(self.size_um / self.step_um)
        axis = (np.arange(side) + 0.5) * self.step_um
        here = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        xy = self.to_donor(here)
        field = {name: noise(xy, depth) for name, noise in donor.noise.items() if name != "nest"}
        ragged = Noise(rng, 14, cells=512)(here)

        tissue = donor.tissue(xy, depth) + 3 * ragged + 4 * Noise(rng, 35)(here)
        wall, zone = donor.gland(xy, depth)
        fat = np.minimum(donor.fat(xy, depth), -zone)
        tumour = np.minimum(donor.tumour(xy, depth), -zone)
        immune = np.minimum(donor.immune(xy, depth), -zone)

        # Fibres follow the level lines of `across`; these wrap round glands and tumour nests.
        across, along = (xy @ donor.fibres).T
        across = across + 95 * field["bend"] + 9 * field["wave"]
        along = along + 60 * field["slide"]
        aligned = np.stack([along / 1.9, across], axis=1)
        nest = (
            (donor.noise["nest"](aligned, depth) - donor.nest_cut) * donor.character["nest_um"] / 2
        )
        nest = np.minimum(np.minimum(nest, tumour + 2.5 * ragged), 8 - immune)
        across = across + 70 * np.exp(np.clip(wall, None, 0) / 38) - 0.45 * np.clip(nest, -18, 0)
        bands = np.stack([along / 3.2, across], axis=1)
        dense = expit(
            2.2 * (donor.noise["collagen"](bands, depth) + donor.character["collagen"] - 0.3)
        )
        dense = dense * (1 - 0.75 * np.clip(zone / 20, 0, 1) * (wall < -4))
        thickness = 2 * LAYER_UM + 8 * np.clip(field["thickness"] - 0.2, 0, 1.6)

        flat = {"tissue": tissue, "wall": wall, "zone": zone, "fat": fat, "tumour": tumour,
                "immune": immune, "nest": nest, "across": across, "along": along, "dense": dense,
                "grade": expit(2 * field["grade"]), "lumen": wall - thickness}  # fmt: skip
        self.maps = {name: m.reshape(side, side).astype(np.float32) for name, m in flat.items()}
        down, right = np.gradient(self.maps["across"])
        double = 2 * np.arctan2(right, -down)
        self.maps |= {"cos2": np.cos(double), "sin2": np.sin(double)}
        down, right = np.gradient(self.maps["wall"])
        norm = np.hypot(down, right) + 1e-3
        self.maps |= {"inward_x": right / norm, "inward_y": down / norm}

    def _place_cells(self) -> None:
        """Each kind of cell on a jittered lattice of its own, thinned by what lies there."""
        self._tables: list[pd.DataFrame] = []
        self._place_fat()
        self._place_tumour()
        self._place_epithelium()
        self._place_lymphocytes()
        self._place_fibroblasts()
        self._place_vessels()
        self.cells = pd.concat(self._tables, ignore_index=True)
        self.cells["type"] = pd.Categorical(self.cells["type"], categories=CELL_TYPES)
        del self._tables

    def _add(self, xy, kind, angle, length, width, reach=6.0, nucleus=None) -> None:
        nucleus = xy if nucleus is None else nucleus
        self._tables.append(pd.DataFrame({
            "x": xy[:, 0], "y": xy[:, 1], "type": kind, "length": length, "width": width,
            "angle": angle, "nucleus_x": nucleus[:, 0], "nucleus_y": nucleus[:, 1], "reach": reach,
        }))  # fmt: skip

    def _candidates(self, spacing_um: float, jitter: float) -> np.ndarray:
        xy = lattice(self.rng, self.size_um, spacing_um, jitter)
        return xy[self.at("tissue", xy) > 3]

    def _spread(self, n: int, sd: float) -> np.ndarray:
        return np.exp(self.rng.normal(0, sd, n))

    def _chance(self, probability: np.ndarray) -> np.ndarray:
        return self.rng.random(len(probability)) < probability

    def _outside_fat(self, xy: np.ndarray) -> np.ndarray:
        if not len(self.adipocytes):
            return xy
        gap, nearest = cKDTree(self.adipocytes[:, :2]).query(xy)
        return xy[gap > self.adipocytes[nearest, 2] - 1]

    def _place_fat(self) -> None:
        xy = self._candidates(55, 0.2)
        fat = self.at("fat", xy)
        keep = self._chance(expit((fat - 2) / 9)) & (self.at("tissue", xy) > 10) & (fat > -30)
        xy = xy[keep]
        self.adipocytes = np.column_stack([xy, np.clip(33 * self._spread(len(xy), 0.14), 25, 42)])
        if len(xy) < 4:
            self.adipocytes = self.adipocytes[:0]
            return
        # The nucleus is pressed flat against the wall that faces the nearest neighbour.
        gap, nearest = cKDTree(xy).query(xy, k=2)
        wall = np.minimum(gap[:, 1] / 2, self.adipocytes[:, 2])[:, None]
        toward = (xy[nearest[:, 1]] - xy) / gap[:, 1:]
        angle = np.arctan2(toward[:, 1], toward[:, 0]) + np.pi / 2
        length = 9 * self._spread(len(xy), 0.15)
        self._add(xy, "adipocyte", angle, length, 2.8, reach=24.0, nucleus=xy + wall * toward)

    def _place_tumour(self) -> None:
        xy = self._candidates(10.6, 0.17)
        xy = xy[(self.at("nest", xy) > 1) & self._chance(np.full(len(xy), 0.95))]
        cycling = self._chance(0.04 + 0.75 * self.at("grade", xy) ** 1.5)
        size = 8.0 * self._spread(len(xy), 0.13) * np.where(cycling, 1.25, 1)
        ratio = np.sqrt(self.rng.uniform(0.66, 0.98, len(xy)))
        kind = np.where(cycling, "cycling", "tumour")
        self._add(xy, kind, self.rng.uniform(0, np.pi, len(xy)), size / ratio, size * ratio)

    def _place_epithelium(self) -> None:
        """Cells snapped into layers along the wall: myoepithelium outside, luminal cells within."""
        xy = self._candidates(6.9, 0.12)
        xy = xy[(self.at("wall", xy) > -1) & (self.at("lumen", xy) < 1)]
        wall = self.at("wall", xy)
        layer = np.clip(np.rint((wall - 3.2) / LAYER_UM), 0, None)
        inward = np.column_stack([self.at("inward_x", xy), self.at("inward_y", xy)])
        level = 3.2 + LAYER_UM * layer + self.rng.normal(0, 0.9, len(xy))
        xy = xy + inward * (level - wall)[:, None]
        outer = layer == 0
        angle = np.arctan2(inward[:, 1], inward[:, 0]) + np.where(outer, np.pi / 2, 0)
        angle += self.rng.normal(0, 0.25, len(xy))
        kind = np.where(outer, "myoepithelial", "luminal")
        length = 8.5 * self._spread(len(xy), 0.1)
        self._add(xy, kind, angle, length, np.where(outer, 4.2, 5.7))

    def _place_lymphocytes(self) -> None:
        xy = self._candidates(7.8, 0.2)
        inside, nest = self.at("immune", xy), self.at("nest", xy)
        chance = 0.95 * expit((inside - 1) / 6) + 0.015 + 0.10 * np.exp(-np.abs(inside) / 40)
        chance = np.where(nest > 0, 0.012, chance) * (self.at("wall", xy) < -2)
        xy = self._outside_fat(xy[self._chance(chance)])
        size = 6.0 * self._spread(len(xy), 0.09)
        turn = self.rng.uniform(0, np.pi, len(xy))
        self._add(xy, "lymphocyte", turn, 1.06 * size, size / 1.06, reach=4.5)

    def _place_fibroblasts(self) -> None:
        xy = self._candidates(13.5, 0.25)
        room = (self.at("immune", xy) < 2) & (self.at("nest", xy) < -2) & (self.at("wall", xy) < -4)
        xy = self._outside_fat(xy[self._chance(room * (0.52 - 0.2 * self.at("dense", xy)))])
        myo = self._chance(np.clip(1.5 * self.at("dense", xy) - 0.35, 0.02, 0.9))
        angle = self.angle(xy) + self.rng.normal(0, 0.28, len(xy))
        length = 9.5 * self._spread(len(xy), 0.22) * np.where(myo, 1.25, 1)
        width = 3.9 * self._spread(len(xy), 0.18) * np.where(myo, 0.8, 1)
        self._add(xy, np.where(myo, "myofibroblast", "fibroblast"), angle, length, width, reach=8.0)

    def _place_vessels(self) -> None:
        xy = self._candidates(150, 0.25)
        room = (self.at("tissue", xy) > 30) & (self.at("nest", xy) < -16)
        room &= (self.at("zone", xy) < -25) & (self.at("fat", xy) < -5)
        xy = xy[room & self._chance(np.full(len(xy), 0.5))]
        shape = [self.rng.uniform(7, 14, len(xy)), self.rng.uniform(1, 2.2, len(xy))]
        self.vessels = np.column_stack([xy, *shape, self.angle(xy)])
        inside = np.full(self.maps["tissue"].shape, -50, np.float32)
        for x, y, radius, stretch, turn in self.vessels:
            count = max(4, int(2 * np.pi * radius * np.sqrt(stretch) / 9))
            t = 2 * np.pi * (np.arange(count) + self.rng.uniform(-0.2, 0.2, count)) / count
            ring = np.column_stack([stretch * np.cos(t), np.sin(t)]) * radius
            tangent = np.arctan2(np.cos(t), -stretch * np.sin(t)) + turn
            self._add((x, y) + ring @ rotation(turn), "endothelial", tangent, 7.5, 3.2)
            inside = np.maximum(inside, self._ellipse(x, y, radius, stretch, turn))
        self.maps["vessel"] = inside

    def _ellipse(self, x, y, radius, stretch, turn) -> np.ndarray:
        axis = (np.arange(len(self.maps["tissue"])) + 0.5) * self.step_um
        grid = np.stack(np.meshgrid(axis - x, axis - y), -1) @ rotation(-turn)
        return (radius - np.hypot(grid[..., 0] / stretch, grid[..., 1])).astype(np.float32)
