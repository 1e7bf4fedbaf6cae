"""A synthetic tissue whose truth is known.

Real sections never tell what a gene's level *really* was under a spot, or between spots.
These do: `synthetic_sections` draws H&E-like images and counts, and `truth` answers for any point.

How a count arises: the cells under a spot give a mixture of cell types; each type has an expression
profile; hidden fields, which the image does not show, change some genes; the donor's batch effect
scales each gene; then come depth and negative binomial noise.
Where the cells lie is in `anatomy`, what they look like in `image`, and what they express in
`genes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from numbers import Integral, Real

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from heclip_lite.data.sections import make_section
from heclip_lite.data.synthetic.anatomy import CELL_TYPES, DOMAINS, Anatomy, Noise
from heclip_lite.data.synthetic.genes import HIDDEN_FIELDS, KINDS, MIN_GENES, gene_model
from heclip_lite.data.synthetic.image import UPSCALE, draw

RNA = dict(zip(CELL_TYPES, (1.5, 1.9, 1.1, 0.8, 0.6, 0.7, 0.4, 0.8, 0.6), strict=True))
HIDDEN_UM = 190.0
DRIFT_UM = 25.0
AMBIENT = 0.06  # share of the transcripts of a place that has drifted there


@dataclass(frozen=True)
class _Recipe:
    """All that is needed to make one section again."""

    donor: int
    section: int
    seed: int
    size_um: float
    um_per_px: float
    lattice: str
    pitch_um: float
    spot_um: float
    n_genes: int
    depth: float
    depth_sd: float
    overdispersion: float
    batch_effect: float
    dropout: float

    def __post_init__(self) -> None:
        # A file gives numpy scalars back. Types of fields are annotations here, hence strings.
        types = {"int": int, "float": float, "str": str}
        for field in fields(self):
            value = types[field.type](getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    @property
    def name(self) -> str:
        return f"P{self.donor + 1}-{self.section + 1}"

    @property
    def side(self) -> int:
        """Pixels, a multiple of the anatomy's step."""
        return UPSCALE * round(self.size_um / self.um_per_px / UPSCALE)


def synthetic_sections(
    n_donors: int = 3,
    sections_per_donor: int = 2,
    *,
    seed: int = 0,
    size_um: float = 1600.0,
    um_per_px: float = 1.2,
    lattice: str = "hex",
    pitch_um: float = 100.0,
    spot_um: float = 55.0,
    n_genes: int = 360,
    depth: float = 4000.0,
    depth_sd: float = 0.3,
    overdispersion: float = 0.1,
    batch_effect: float = 0.25,
    dropout: float = 0.0,
) -> list[AnnData]:
    """Draw H&E-like sections with counts whose truth is known; the same seed, the same sections.

    Serial sections of a donor share their architecture, slightly moved and bent, but not their
    cells. Donors differ in architecture, composition, stain, depth and batch effect. A donor does
    not depend on how many others are drawn.

    Parameters
    ----------
    n_donors, sections_per_donor
        Sections are named ``P1-1``, ``P1-2``, ``P2-1``, ... and donors ``P1``, ``P2``, ...
    seed
        Any whole number from 0.
    size_um
        Side of the square image in micrometres.
    um_per_px
        Micrometres per pixel.
    lattice
        ``"hex"`` as Visium (columns count in steps of two along a row) or ``"square"``.
    pitch_um, spot_um
        Distance between neighbouring spots and diameter of a spot, micrometres.
    n_genes
        Genes in all.
    depth, depth_sd
        Mean counts of a spot, and the standard deviation of its logarithm from spot to spot.
        Cell-rich spots are deeper as well, and donors differ by about a fifth.
    overdispersion
        `a` in the negative binomial variance ``mean + a * mean**2``; 0 draws Poisson counts.
    batch_effect
        Standard deviation of the logarithm of each gene's factor, drawn once per donor.
    dropout
        Chance that a gene is lost from a spot altogether.

    Returns
    -------
    Sections as `heclip_lite.data.sections.check_section` describes them, spots on tissue only.
    ``obs["domain"]`` is the compartment at the spot's centre.
    ``uns["synthetic"]`` holds the scalars from which `truth` makes the rest again.

    Raises
    ------
    ValueError
        If a parameter is out of range, or no spot lies on tissue.
    """
    for name, value, least in (
        ("n_donors", n_donors, 1),
        ("sections_per_donor", sections_per_donor, 1),
        ("seed", seed, 0),
        ("n_genes", n_genes, MIN_GENES),
    ):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}.")
    _check_number("size_um", size_um, 400, 20_000)
    _check_number("um_per_px", um_per_px, 0.25, 4)
    _check_number("pitch_um", pitch_um, 5, size_um / 2)
    _check_number("spot_um", spot_um, 1, pitch_um)
    _check_number("depth", depth, 1, 1e7)
    _check_number("depth_sd", depth_sd, 0, 3)
    _check_number("overdispersion", overdispersion, 0, 100)
    _check_number("batch_effect", batch_effect, 0, 3)
    _check_number("dropout", dropout, 0, 0.99)
    if lattice not in ("hex", "square"):
        raise ValueError(f'lattice is {lattice!r}; choose "hex" or "square".')
    sections = []
    for donor in range(n_donors):
        for section in range(sections_per_donor):
            recipe = _Recipe(
                donor, section, seed, size_um, um_per_px, lattice, pitch_um, spot_um, n_genes,
                depth, depth_sd, overdispersion, batch_effect, dropout,
            )  # fmt: skip
            sections.append(_section(recipe))
    return sections


def truth(section: AnnData) -> Truth:
    """Reveal what a synthetic section hides: its true expression, domains and cells.

    Raises
    ------
    ValueError
        If the section is not synthetic, or its expression was hidden.
    """
    kept = section.uns.get("synthetic")
    names = [field.name for field in fields(_Recipe)]
    if not isinstance(kept, Mapping) or set(names) - set(kept):
        raise ValueError(
            "This section has no known truth: uns['synthetic'] is missing or incomplete. Only "
            "sections from synthetic_sections have one, and hide_expression takes it away."
        )
    return _truth(_Recipe(**{name: kept[name] for name in names}))


class Truth:
    """True expression, domains and cells of one synthetic section. Made by `truth`.

    Genes that morphology does not determine come in three kinds. "position": a hidden field that
    serial sections share, so that it can be learned from a sibling without any biology. "section":
    a hidden field of one section. "housekeeping": the same everywhere, so that only noise varies.
    """

    def __init__(self, recipe: _Recipe):
        self._recipe = recipe
        self._um = recipe.um_per_px
        side_um = recipe.side * self._um
        place = recipe.seed, recipe.donor, recipe.section
        self._anatomy = Anatomy(*place, side_um, UPSCALE * self._um)
        self._model = gene_model(recipe.seed, recipe.n_genes)
        shared = np.random.default_rng([recipe.seed, 8, recipe.donor])
        own = np.random.default_rng([recipe.seed, 9, recipe.donor, recipe.section])
        self._hidden = {
            kind: [Noise(own if kind == "section" else shared, HIDDEN_UM, 160) for _ in range(n)]
            for kind, n in HIDDEN_FIELDS.items()
        }
        batch = np.random.default_rng([recipe.seed, 10, recipe.donor])
        self._batch = np.exp(recipe.batch_effect * batch.standard_normal(recipe.n_genes))

    @property
    def genes(self) -> pd.DataFrame:
        """One row per gene.

        `morphology`: "determined", "partly" or "none", how far the image can tell its level.
        `kind`: "marker", "state", "position", "section" or "housekeeping".
        `marker_of`: the cell type that expresses it most, or "".
        """
        return self._model.genes.copy()

    @property
    def cells(self) -> pd.DataFrame:
        """One row per cell: `x`, `y` in pixels of the image, `type`."""
        cells = self._anatomy.cells
        return cells[["x", "y"]].div(self._um).assign(type=cells["type"])

    def expression(
        self, points_px: np.ndarray, width_um: float | None = None, *, batch: bool = True
    ) -> np.ndarray:
        """Give the true expected expression round each point, without depth and noise.

        It is what log-normalised counts tend to as depth grows.

        Parameters
        ----------
        points_px
            Points (points, 2): x, y in pixels of the image.
        width_um
            Diameter of the disc in micrometres; the width of a spot if left out. Cells are averaged
            over the disc. The hidden fields, smooth over some 100 um, are taken at its centre.
        batch
            Include the donor's batch effect, as counts do. Without it donors are comparable.

        Returns
        -------
        float32 (points, genes): log1p of the rate per ten thousand, NaN where a disc lies off the
        tissue.
        """
        xy, width_um = self._places(points_px, width_um)
        rate = self._rate(self._mixture(xy, width_um), xy, batch)
        rate[self._anatomy.at("tissue", xy) < -width_um / 2] = np.nan
        return np.log1p(1e4 * rate).astype(np.float32)

    def composition(self, points_px: np.ndarray, width_um: float | None = None) -> pd.DataFrame:
        """Share of the transcripts from each cell type (points, types), as in `expression`."""
        xy, width_um = self._places(points_px, width_um)
        mixture = self._mixture(xy, width_um)
        mixture[self._anatomy.at("tissue", xy) < -width_um / 2] = np.nan
        return pd.DataFrame(mixture / mixture.sum(axis=1, keepdims=True), columns=CELL_TYPES)

    def domains(self, points_px: np.ndarray) -> np.ndarray:
        """Compartment at each point: tumour, stroma, immune, gland, fat, or "glass" off tissue."""
        xy, _ = self._places(points_px, None)
        inside = {
            name: self._anatomy.at(name, xy) > 0 for name in ("zone", "immune", "tumour", "fat")
        }
        glass = self._anatomy.at("tissue", xy) < 0
        names = ["glass", "gland", "immune", "tumour", "fat"]
        return np.select([glass, *inside.values()], names, default="stroma").astype(object)

    def _places(self, points_px: np.ndarray, width_um: float | None) -> tuple[np.ndarray, float]:
        points = np.asarray(points_px, float)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(
                f"points_px has shape {points.shape}; give (points, 2): x, y in pixels."
            )
        if width_um is None:
            width_um = self._recipe.spot_um
        _check_number("width_um", width_um, 1, 1e5)
        return points * self._um, float(width_um)

    @cached_property
    def _rna(self) -> np.ndarray:
        """RNA of each cell: larger nuclei of a type mean more."""
        cells = self._anatomy.cells
        area = cells["length"] * cells["width"]
        typical = area.groupby(cells["type"], observed=False).transform("median")
        return (area / typical * cells["type"].map(RNA).astype(float)).to_numpy()

    @cached_property
    def _trees(self) -> list[tuple[cKDTree, np.ndarray, np.ndarray]]:
        cells = self._anatomy.cells
        rows = [np.flatnonzero(cells["type"] == kind) for kind in CELL_TYPES]
        xy, reach = cells[["x", "y"]].to_numpy(), cells["reach"].to_numpy()
        return [(cKDTree(xy[r]), self._rna[r], reach[r]) for r in rows]

    @cached_property
    def _drifted(self) -> np.ndarray:
        """RNA per square um, drifted sideways, on a grid of 20 um (types, rows, columns)."""
        cells, side = self._anatomy.cells, self._anatomy.size_um
        place = [cells["type"].cat.codes, cells["y"], cells["x"]]
        n = int(np.ceil(side / 20))
        limits = [(-0.5, len(CELL_TYPES) - 0.5), (0, 20 * n), (0, 20 * n)]
        grid, _ = np.histogramdd(
            np.column_stack(place), (len(CELL_TYPES), n, n), limits, weights=self._rna
        )
        return gaussian_filter(grid / 400, (0, DRIFT_UM / 20, DRIFT_UM / 20))

    def _mixture(self, xy: np.ndarray, width_um: float) -> np.ndarray:
        """RNA of each cell type within the disc (points, types)."""
        mixture = np.zeros((len(xy), len(CELL_TYPES)))
        points = cKDTree(xy)
        where = (xy / 20 - 0.5).T[::-1]
        area = np.pi / 4 * width_um**2
        for i, (tree, rna, reach) in enumerate(self._trees):
            drifted = map_coordinates(self._drifted[i], where, order=1, mode="nearest")
            mixture[:, i] = AMBIENT * area * np.clip(drifted, 1e-9, None)
            if tree.n == 0:
                continue
            radius = width_um / 2
            pairs = points.sparse_distance_matrix(
                tree, radius + reach.max(), output_type="coo_matrix"
            )
            r = reach[pairs.col]
            # A cell on the rim of the disc counts in part; a disc within a cell holds part of it.
            overlap = np.clip((radius + r - pairs.data) / (2 * r), 0, 1) * np.minimum(
                1, (radius / r) ** 2
            )
            mixture[:, i] += np.bincount(pairs.row, overlap * rna[pairs.col], len(xy))
        return mixture

    def _rate(self, mixture: np.ndarray, xy: np.ndarray, batch: bool) -> np.ndarray:
        """Share of each gene in the transcripts (points, genes); rows add up to 1."""
        share = mixture / mixture.sum(axis=1, keepdims=True)
        kinds = self._model.genes["kind"].to_numpy()
        factor = self._batch if batch else np.ones(len(kinds))
        donor_xy = self._anatomy.to_donor(xy)
        rate = np.empty((len(xy), len(kinds)))
        for kind, (_, budget) in KINDS.items():
            of = kinds == kind
            profile = self._model.profiles[:, of] * factor[of]  # (types, genes of this kind)
            level = share @ (profile / profile.sum(axis=1, keepdims=True))
            if kind in self._hidden:
                place = xy if kind == "section" else donor_xy
                depth = 0 if kind == "section" else self._anatomy.depth / 2
                field = np.stack([noise(place, depth) for noise in self._hidden[kind]], axis=1)
                level = level * np.exp(field @ self._model.loadings[kind])
            rate[:, of] = budget * level / level.sum(axis=1, keepdims=True)
        return rate


_truth = lru_cache(maxsize=12)(Truth)


def _section(recipe: _Recipe) -> AnnData:
    known = _truth(recipe)
    xy, row, col = _lattice(recipe)
    on_tissue = known._anatomy.at("tissue", xy) > recipe.spot_um / 4
    xy, row, col = xy[on_tissue], row[on_tissue], col[on_tissue]
    if not len(xy):
        raise ValueError(
            f"Section {recipe.name}: of spots {recipe.pitch_um} um apart, none lies on the tissue "
            f"of an image {recipe.size_um} um wide. Make size_um larger or pitch_um smaller."
        )
    points = xy / recipe.um_per_px
    image, glass = draw(known._anatomy, recipe.um_per_px, recipe.seed, recipe.donor, recipe.section)
    obs = pd.DataFrame({
        "array_row": row, "array_col": col, "in_tissue": 1,
        "domain": pd.Categorical(known.domains(points), categories=DOMAINS),
    })  # fmt: skip
    section = make_section(
        sparse.csr_matrix(_counts(known, recipe, xy)), list(known.genes.index), points,
        name=recipe.name, donor=f"P{recipe.donor + 1}", um_per_px=recipe.um_per_px, image=image,
        spot_diameter_um=recipe.spot_um, obs=obs, background=glass,
        spot_names=[f"{recipe.name}_{r}x{c}" for r, c in zip(row, col, strict=True)],
    )  # fmt: skip
    section.uns["synthetic"] = asdict(recipe)
    return section


def _lattice(recipe: _Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spot centres in um, centred in the image, with their rows and columns."""
    side, pitch = recipe.side * recipe.um_per_px, recipe.pitch_um
    across, down = (
        (pitch / 2, pitch * np.sqrt(3) / 2) if recipe.lattice == "hex" else (pitch, pitch)
    )
    row, col = np.mgrid[: int(side / down), : int(side / across)]
    xy = np.stack([(col + 0.5) * across, (row + 0.5) * down], axis=-1)
    xy += (side - xy.max(axis=(0, 1)) - xy.min(axis=(0, 1))) / 2
    kept = (row + col) % 2 == 0 if recipe.lattice == "hex" else np.full(row.shape, True)
    return xy[kept], row[kept], col[kept]


def _counts(known: Truth, recipe: _Recipe, xy: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng([recipe.seed, 4, recipe.donor, recipe.section])
    mixture = known._mixture(xy, recipe.spot_um)
    rna = mixture.sum(axis=1)
    of_donor = np.random.default_rng([recipe.seed, 12, recipe.donor]).normal(0, 0.2)
    spread = of_donor + rng.normal(0, recipe.depth_sd, len(xy)) - recipe.depth_sd**2 / 2
    rich = np.clip(rna / np.median(rna), 0.05, 4) ** 0.4
    depth = recipe.depth * np.exp(spread) * rich / rich.mean()
    mean = depth[:, None] * known._rate(mixture, xy, batch=True)  # (spots, genes)
    if recipe.overdispersion > 0:
        mean = mean * rng.gamma(1 / recipe.overdispersion, recipe.overdispersion, mean.shape)
    counts = rng.poisson(mean).astype(np.float32)
    counts[rng.random(counts.shape) < recipe.dropout] = 0
    return counts


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}; give a number from {least:g} to {most:g}.")
