"""What all readers share: options, positions of spots, scale from the pitch, and the assembly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite.data import images
from heclip_lite.data.lattice import Lattice, lattice_of
from heclip_lite.data.readers import gene_ids, orientation
from heclip_lite.data.readers.files import InputError, existing, explained, numbers, read_rows
from heclip_lite.data.readers.matrices import Counts
from heclip_lite.data.sections import make_section, preview

VISIUM_PITCH_UM, VISIUM_SPOT_UM = 100.0, 55.0
_LARGEST_PX = 1e7  # a slide of 76 mm at 0.01 micrometres
# What positions are called, best first; Space Ranger, scanpy, Seurat, legacy ST, and plain names.
_NAMES = {
    "barcode": ("barcode", "barcodes", "spot", "spots", "spot_id", "spot_name", "cell_id", "id",
                "name", "index", "unnamed: 0", ""),
    "in_tissue": ("in_tissue", "selected", "under_tissue", "tissue"),
    "array_row": ("array_row", "row"),
    "array_col": ("array_col", "col", "column"),
    "x": ("pxl_col_in_fullres", "pixel_x", "x_pixel", "pxl_x", "px_x", "imagecol", "x"),
    "y": ("pxl_row_in_fullres", "pixel_y", "y_pixel", "pxl_y", "px_y", "imagerow", "y"),
}  # fmt: skip
_LIST = ["barcode", "in_tissue", "array_row", "array_col", "y", "x"]  # Space Ranger 1, no header
_YES, _NO = {"1", "1.0", "true", "yes", "t"}, {"0", "0.0", "false", "no", "f"}


@dataclass(frozen=True)
class Options:
    """What a caller of `readers.read_section` has said, checked. See there."""

    name: str | None = None
    donor: str | None = None
    um_per_px: float | None = None
    spot_pitch_um: float | None = None
    spot_diameter_um: float | None = None
    image: str | Path | None = None
    counts: str | Path | None = None
    positions: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    bin_um: int | None = None
    orientation: str = "raise"

    def __post_init__(self) -> None:
        for key in ("um_per_px", "spot_pitch_um", "spot_diameter_um", "bin_um"):
            value = getattr(self, key)
            if value is None:
                continue
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise InputError(f"{key} is {value!r}; give a number of micrometres above 0.")
        for key in ("name", "donor"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise InputError(f"{key} is {value!r}; give a word, or leave it out.")
        if self.orientation not in ("raise", "warn", "ignore"):
            raise InputError(
                f"orientation is {self.orientation!r}; choose 'raise', 'warn' or 'ignore'."
            )
        strange = set(self.columns) - set(_NAMES)
        if strange:
            raise InputError(
                f"columns names {sorted(strange)[0]!r}; it may name {', '.join(_NAMES)}."
            )

    def but(self, **changes) -> Options:
        """The same with some changed."""
        return replace(self, **changes)


def read_positions(path: str | Path, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Where spots lie: any of Space Ranger's files, or a table of one's own.

    Parameters
    ----------
    path
        CSV or another delimiter, with or without Space Ranger's header, or parquet.
    columns
        Names of the columns ``barcode``, ``x``, ``y``, ``in_tissue``, ``array_row`` and
        ``array_col`` where they are unusual.

    Returns
    -------
    DataFrame
        By barcode: ``x``, ``y`` in pixels, and ``in_tissue``, ``array_row``, ``array_col`` where
        the file has them.

    Raises
    ------
    InputError
        If a column is missing, a barcode occurs twice, or a position is no number.
    """
    path = existing(path, "positions")
    if path.suffix == ".parquet":
        with explained(path, "positions"):
            table = pd.read_parquet(path).reset_index().astype(str)
    else:
        header, table = read_rows(path, "positions", dtype=str)
        if len(header) == 6 == table.shape[1] and _all_numbers(header[1:]):
            table = pd.concat([pd.DataFrame([header]), table], ignore_index=True)
            header = _LIST
        table.columns = header if len(header) == table.shape[1] else ["", *header]
    if not len(table):
        raise InputError(f"{path} (positions) lists no spots.")
    found = _columns(table, path, dict(columns or {}))
    result = pd.DataFrame(index=range(len(table)))
    names = found.get("barcode")
    if names is None:  # legacy ST names its spots by their array coordinates
        rows = pd.Series([f"row {i + 1}" for i in range(len(table))])
        whole = [numbers(found[axis], path, axis, rows).round().astype(int).astype(str)
                 for axis in ("array_col", "array_row")]  # fmt: skip
        names = whole[0] + "x" + whole[1]
    for column in ("x", "y", "array_row", "array_col"):
        if column in found:
            result[column] = numbers(found[column], path, column, names).to_numpy()
    if result[["x", "y"]].abs().to_numpy().max() > _LARGEST_PX:
        raise InputError(
            f"{path} (positions): the largest is {result[['x', 'y']].abs().to_numpy().max():.3g} "
            "pixels, more than any image has. Give positions in pixels of the image."
        )
    if "in_tissue" in found:
        words = found["in_tissue"].str.strip().str.lower()
        odd = ~words.isin(_YES | _NO)
        if odd.any():
            raise InputError(
                f"{path} (positions): {words[odd].iloc[0]!r} in the selection column is neither "
                "0 nor 1."
            )
        result["in_tissue"] = words.isin(_YES).astype(int).to_numpy()
    for column in ("array_row", "array_col"):
        if column in result and (result[column] % 1 == 0).all():
            result[column] = result[column].astype(int)
    result.index = pd.Index(names.astype(str).str.strip())
    twice = result.index[result.index.duplicated()]
    if len(twice):
        raise InputError(
            f"{path} (positions): {twice.nunique()} spots are listed more than once, "
            f"first {twice[0]!r}. Leave one row per spot."
        )
    return result


def _all_numbers(fields: list[str]) -> bool:
    return bool(pd.to_numeric(pd.Series(fields), errors="coerce").notna().all())


def _columns(table: pd.DataFrame, path: Path, wanted: dict[str, str]) -> dict[str, pd.Series]:
    given = [str(column).strip().lower() for column in table.columns]
    found = {}
    for part, names in _NAMES.items():
        names = (wanted[part].strip().lower(),) if part in wanted else names
        at = next((given.index(name) for name in names if name in given), None)
        if at is not None:
            found[part] = table.iloc[:, at].reset_index(drop=True)
        elif part in wanted:
            raise InputError(
                f"{path} (positions) has no column {wanted[part]!r}; "
                f"it has {', '.join(map(str, table.columns))}."
            )
    for part, axis in (("array_col", "x"), ("array_row", "y")):  # legacy ST
        if part not in found and "pixel_x" in given and "pixel_y" in given and axis in given:
            found[part] = table.iloc[:, given.index(axis)].reset_index(drop=True)
    missing = [axis for axis in ("x", "y") if axis not in found]
    if "barcode" not in found and not {"array_col", "array_row"} <= set(found):
        missing.append("barcode")
    if missing:
        raise InputError(
            f"{path} (positions) has no column for {' and '.join(missing)}; it has "
            f"{', '.join(map(str, table.columns))}. Name it with "
            f"columns={{{missing[0]!r}: '...'}}, or give it a header."
        )
    return found


def chosen(counts: Counts, positions: pd.DataFrame) -> tuple[Counts, pd.DataFrame]:
    """Spots that both tables list and the selection column keeps, in the order of the counts.

    Raises
    ------
    InputError
        If a spot has two rows of counts, or less than half of the spots have a position.
    """
    spots = pd.Index(counts.spots.astype(str).str.strip())
    twice = spots[spots.duplicated()]
    if len(twice):
        raise InputError(
            f"{counts.source}: {twice.nunique()} spots occur more than once, first {twice[0]!r}. "
            "Leave one row per spot."
        )
    if not len(spots) or not counts.matrix.shape[1]:
        raise InputError(f"{counts.source} holds no counts: {counts.matrix.shape} spots x genes.")
    at = positions.index.get_indexer(spots)
    share = (at >= 0).mean()
    if share < 0.5:
        raise InputError(_no_match(counts, spots, positions, share))
    if share < 1:
        warnings.warn(
            f"{counts.source}: {(at < 0).sum()} of {len(at)} spots have no position and are "
            f"left out, first {spots[at < 0][0]!r}.",
            stacklevel=2,
        )
    kept = at >= 0
    if "in_tissue" in positions:
        kept &= positions["in_tissue"].to_numpy()[at] == 1
        if not kept.any():
            raise InputError(
                f"{counts.source}: none of the {len(spots)} spots is selected (in tissue). "
                "Check the selection column."
            )
    counts = replace(counts, matrix=counts.matrix[kept], spots=spots[kept])
    return counts, positions.iloc[at[kept]]


def _no_match(counts: Counts, spots: pd.Index, positions: pd.DataFrame, share: float) -> str:
    start = (
        f"{counts.source}: {share:.0%} of {len(spots)} spots have a position "
        f"(counts: {', '.join(spots[:2])}, ...; positions: {', '.join(positions.index[:2])}, ...)."
    )
    names = pd.Index(counts.genes.astype(str))
    if positions.index.get_indexer(names).max(initial=-1) >= 0:
        return (
            f"{start} The columns of the counts are spots: the table is transposed. "
            "Write spots as rows: pandas.read_csv(..., index_col=0).T.to_csv(...)."
        )
    bare = spots.str.replace(r"-\d+$", "", regex=True)
    known = positions.index.str.replace(r"-\d+$", "", regex=True)
    if known.get_indexer(bare).max(initial=-1) >= 0:
        return f"{start} They differ by the ending '-1' only: write it in both tables or in none."
    return f"{start} Take counts and positions of the same section."


def lattice_px(points: np.ndarray, array: pd.DataFrame, source: object) -> Lattice | None:
    """The lattice of spots in pixels; None where there are no array coordinates.

    Raises
    ------
    InputError
        If the array coordinates do not belong to the positions.
    """
    if not {"array_row", "array_col"} <= set(array) or len(points) < 4:
        return None
    obs = array[["array_row", "array_col"]].assign(section="s", donor="d")
    obs.index = [str(i) for i in range(len(obs))]
    shell = AnnData(obs=obs, obsm={"spatial": np.asarray(points, dtype=np.float64)})
    factors = {"microns_per_pixel": 1.0, "spot_diameter_fullres": 1.0}
    shell.uns["spatial"] = {"s": {"scalefactors": factors, "images": {}, "metadata": {}}}
    try:
        return lattice_of(shell)
    except ValueError as error:
        if "more than" in str(error):
            raise InputError(
                f"{source}: array coordinates and positions in pixels do not belong together: half "
                "of the spots lie off the lattice. Are columns swapped, or rows sorted apart?"
            ) from error
        return None


def is_visium(lattice: Lattice | None) -> bool:
    """Whether neighbours are numbered as on 10x's hexagonal array, whose pitch is 100 um."""
    if lattice is None or lattice.kind != "hexagonal":
        return False
    return {tuple(map(int, np.abs(step))) for step in lattice.steps} <= {(2, 0), (1, 1)}


def scale(points: np.ndarray, array: pd.DataFrame, pitch_um: float, source: object) -> float:
    """Micrometres per pixel, from the known distance between neighbouring spots.

    Raises
    ------
    InputError
        If there are fewer than two spots, or two at the same place.
    """
    lattice = lattice_px(points, array, source)
    if lattice is not None:
        return pitch_um / lattice.pitch_um
    from scipy.spatial import cKDTree

    if len(points) < 2:
        raise InputError(f"{source}: one spot has no pitch. Give um_per_px.")
    pitch = float(np.median(cKDTree(points).query(points, k=2)[0][:, 1]))
    if not pitch > 0:
        raise InputError(f"{source}: most spots lie at the same place. Check the positions.")
    return pitch_um / pitch


def assemble(
    counts: Counts,
    positions: pd.DataFrame,
    options: Options,
    *,
    name: str,
    um_per_px: float,
    spot_diameter_um: float,
    pixels: np.ndarray | None = None,
    expected_pitch_um: float | None = None,
) -> AnnData:
    """Make a section of the parts that a reader has found, and check it against its image.

    Parameters
    ----------
    counts, positions
        Row by row the same spots.
    options
        ``image`` is the image file, unless `pixels` are given.
    name
        Name of the section, if `options` give none.
    um_per_px, spot_diameter_um
        Scale of the image, and size of a spot.
    pixels
        The image as an array.
    expected_pitch_um
        What the distance between neighbouring spots must be.
    """
    name = options.name or name
    genes = gene_ids.clean(counts.genes, f"{counts.source} (genes)")
    given = counts.matrix.data
    if not np.isfinite(given).all():
        raise InputError(f"{counts.source}: some counts are not finite. X holds raw counts.")
    matrix, unique = gene_ids.add_up(counts.matrix, genes)
    if len(unique) < len(genes) and ((given < 0).any() or (given % 1 != 0).any()):
        raise InputError(  # sums of such values might look like counts
            f"{counts.source}: some counts are negative or fractional, and {len(genes)} columns "
            f"share {len(unique)} gene names. X holds raw counts; give them before any "
            "normalisation."
        )
    seen = np.asarray(abs(matrix).sum(axis=1)).ravel() > 0
    if not seen.any():
        raise InputError(f"{counts.source}: all counts are zero. Check the count table.")
    if not seen.all():
        warnings.warn(
            f"{counts.source}: {(~seen).sum()} spots hold no counts and are left out, "
            f"first {counts.spots[~seen][0]!r}.",
            stacklevel=2,
        )
    positions = positions[seen]
    obs = positions.drop(columns=["x", "y"])
    section = make_section(
        matrix[seen],
        list(unique),
        positions[["x", "y"]].to_numpy(dtype=np.float64),
        name=name,
        donor=donor_or_name(options, name),
        um_per_px=um_per_px,
        spot_diameter_um=spot_diameter_um,
        image=pixels,
        image_path=options.image if pixels is None else None,
        spot_names=list(counts.spots[seen]),
        obs=obs if len(obs.columns) else None,
    )
    section.uns["spatial"][name]["metadata"]["background"] = list(
        images.glass_colour(preview(section)[0])
    )
    if counts.ids is not None:
        column = gene_ids.IDS if gene_ids.kind_of(counts.ids) == "ids" else gene_ids.SYMBOLS
        if not counts.ids.equals(counts.genes):
            section.var[column] = gene_ids.joined(counts.ids, genes)
    if expected_pitch_um:
        orientation.check_pitch(section, expected_pitch_um)
    check_places(section, options)
    return section


def donor_or_name(options: Options, name: str, known: str | None = None) -> str:
    """The donor; where it is unknown, the section's own name, with a warning."""
    if options.donor or known:
        return options.donor or known
    warnings.warn(
        f"Section {name!r}: its donor is unknown and counts as one of its own. Give donor=..., "
        "or sections of one person leak into one another when sections are held out.",
        stacklevel=2,
    )
    return name


def check_places(section: AnnData, options: Options) -> None:
    """Raise or warn where another orientation puts clearly more spots on tissue."""
    if options.orientation == "ignore":
        return
    found = orientation.check_orientation(section)
    if found.wrong and options.orientation == "raise":
        raise InputError(f"{found.sentence} If it is right as it is, pass orientation='ignore'.")
    if found.wrong or found.doubtful:
        warnings.warn(found.sentence, stacklevel=2)
