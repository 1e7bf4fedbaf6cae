"""Folders that Space Ranger writes: Visium, version 1 and 2, and Visium HD; and GSE240429."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pandas as pd
from anndata import AnnData

from heclip_lite.data import images
from heclip_lite.data.readers.assemble import (
    VISIUM_PITCH_UM,
    VISIUM_SPOT_UM,
    Options,
    assemble,
    chosen,
    is_visium,
    lattice_px,
    read_positions,
    scale,
)
from heclip_lite.data.readers.files import InputError, MissingFile, existing, read_json
from heclip_lite.data.readers.images import check_image_file
from heclip_lite.data.readers.matrices import Counts, part, read_10x_h5, read_10x_mtx

POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_COUNTS = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
_PICTURES = ("hires", "lowres")
_SPOT_UM = (40.0, 90.0)  # Space Ranger's spot_diameter_fullres means 55 to 65 micrometres
_BINS = re.compile(r"square_(\d+)um")
_BIN_UM = 16  # of Visium HD, where no other width is asked for
BLEEP_COUNTS, BLEEP_POSITIONS = "filtered_expression_matrices", "tissue_pos_matrices"
BLEEP_NUMBERS = {"1": "A1", "2": "B1", "3": "C1", "4": "D1"}  # folder -> capture area of slide C73


def outs(path: Path) -> Path:
    """The folder itself, or ``outs`` inside it."""
    return path / "outs" if (path / "outs").is_dir() else path


def find_counts(folder: Path) -> Path | None:
    """File or folder of the filtered counts, else of the raw ones; with any prefix.

    Raises
    ------
    InputError
        If several files differ by their prefix only.
    """
    for name in _COUNTS:
        for pattern in (f"{name}.h5", f"*{name}.h5"):
            found = sorted(folder.glob(pattern))
            if len(found) > 1:
                raise InputError(
                    f"{folder} holds {len(found)} files of counts "
                    f"({', '.join(path.name for path in found)}). Give one of them as counts=..."
                )
            if found:
                return found[0]
        if (folder / name).is_dir():
            return folder / name
    return None


def _counts(folder: Path, options: Options) -> Counts:
    path = Path(options.counts) if options.counts else find_counts(folder)
    if path is None:
        raise MissingFile(
            f"{folder} holds no counts: neither filtered_feature_bc_matrix.h5 nor a folder "
            "filtered_feature_bc_matrix. Copy one there, or give counts=..."
        )
    if path.is_dir():
        return read_10x_mtx(path)
    return read_10x_h5(path)


def _positions(folder: Path, options: Options) -> pd.DataFrame:
    if options.positions:
        return read_positions(options.positions, options.columns)
    if folder.is_dir():
        existing(folder, "positions", folder=True)  # which may be read
    found = [folder / name for name in POSITIONS if (folder / name).is_file()]
    if not found:
        raise MissingFile(
            f"{folder} holds no positions of spots: none of {', '.join(POSITIONS)}. "
            "Copy one there, or give positions=..."
        )
    return read_positions(found[0], options.columns)


def factors(path: Path) -> dict[str, float]:
    """Scale factors of a JSON file, each a number above 0.

    Raises
    ------
    MissingFile, InputError
        If the file is missing or damaged, or a factor is no such number.
    """
    found = read_json(existing(path, "scale factors"), "scale factors")
    for key in [key for key in found if key.endswith(("_scalef", "_fullres", "_pixel"))]:
        value = found[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise InputError(f"{path} (scale factors): {key} is {value!r}; it must be above 0.")
    return found


def read_visium(path: Path, options: Options) -> AnnData:
    """A Space Ranger output folder; see `readers.read_section`."""
    folder = outs(existing(path, "Space Ranger folder", folder=True))
    counts, positions = chosen(_counts(folder, options), _positions(folder / "spatial", options))
    return _finish(
        counts,
        positions,
        folder / "spatial" / "scalefactors_json.json",
        folder / "spatial",
        options,
        name=path.resolve().name if path.name != "outs" else path.resolve().parent.name,
    )


def read_visium_hd(path: Path, options: Options) -> AnnData:
    """Bins of a Visium HD folder; see `readers.read_section`."""
    root = outs(existing(path, "Visium HD folder", folder=True))
    one = bool(_BINS.fullmatch(root.name))
    bins = {root.name: root} if one else bins_of(root)
    bin_um = options.bin_um or (_width(root.name) if one else _BIN_UM)
    wanted = next((name for name in bins if _width(name) == bin_um), None)
    if wanted is None:
        raise InputError(
            f"{root} holds no bins of {bin_um:g} micrometres; it holds "
            f"{', '.join(bins) or 'none'}. Choose bin_um among them."
        )
    folder, width = bins[wanted], _width(wanted)
    counts, positions = chosen(_counts(folder, options), _positions(folder / "spatial", options))
    spatial = folder / "spatial"
    options = options.but(spot_diameter_um=options.spot_diameter_um or width)
    return _finish(
        counts,
        positions,
        spatial / "scalefactors_json.json",
        spatial if any(spatial.glob("tissue_*_image.png")) else root / "spatial",
        options,
        name=root.resolve().name if root.name != "outs" else root.resolve().parent.name,
        pitch_um=width,
        spot_um=(0.8 * width, 1.2 * width),
    )


def _width(name: str) -> float:
    """Micrometres of ``square_016um``."""
    return float(_BINS.fullmatch(name)[1])


def bins_of(root: Path) -> dict[str, Path]:
    """Folders of bins by name, such as ``square_016um``."""
    found = sorted(path for path in root.glob("binned_outputs/*") if path.is_dir())
    return {path.name: path for path in found if _BINS.fullmatch(path.name)}


def _finish(
    counts: Counts,
    positions: pd.DataFrame,
    factors_path: Path,
    pictures: Path | None,
    options: Options,
    *,
    name: str,
    prefix: str = "",
    pitch_um: float | None = None,
    spot_um: tuple[float, float] = _SPOT_UM,
) -> AnnData:
    """Scale, image and assembly, as for every output of Space Ranger.

    A pitch that neither layout nor options tell is that of Visium, if spots lie on its array.

    Raises
    ------
    InputError
        If scale or size of a spot is unknown, or parts do not belong together.
    """
    inside = options.image is None or str(options.image) in _PICTURES
    known = factors(factors_path) if inside or factors_path.exists() else {}
    points = positions[["x", "y"]].to_numpy()
    pitch_um = options.spot_pitch_um or pitch_um
    if pitch_um is None and is_visium(lattice_px(points, positions, counts.source)):
        pitch_um = VISIUM_PITCH_UM
    if pitch_um is None and options.um_per_px is None:
        raise InputError(
            f"{counts.source}: the spots do not lie on Visium's hexagonal array, so that the scale "
            "is unknown. Give spot_pitch_um (100 for Visium, 200 for legacy Spatial "
            "Transcriptomics), or um_per_px."
        )
    um = options.um_per_px or scale(points, positions, pitch_um, counts.source)
    diameter = options.spot_diameter_um
    if diameter is None and pitch_um == VISIUM_PITCH_UM:
        diameter = VISIUM_SPOT_UM
    if diameter is None:
        raise InputError(
            f"{counts.source}: the size of a spot is unknown, for the spots do not lie as Visium's "
            "do. Give spot_diameter_um (100 for legacy Spatial Transcriptomics)."
        )
    if "spot_diameter_fullres" in known and pitch_um and options.spot_pitch_um is None:
        spot = known["spot_diameter_fullres"] * um
        if not spot_um[0] <= spot <= spot_um[1]:
            raise InputError(
                f"{factors_path} (scale factors): its spots would be {spot:.0f} micrometres wide, "
                f"but must be {spot_um[0]:g} to {spot_um[1]:g}, as neighbours lie {pitch_um:g} "
                "apart. Scale factors, positions or um_per_px belong to another image."
            )
    image, shrink = _image(pictures, prefix, known, options)
    if inside:
        warnings.warn(
            f"Section {options.name or name!r}: no full-resolution image is given, so "
            f"{image.name} is used, with {um / shrink:.1f} micrometres per pixel. "
            "Give image=... for detail.",
            stacklevel=2,
        )
    return assemble(
        counts,
        positions.assign(x=positions["x"] * shrink, y=positions["y"] * shrink),
        options.but(image=image),
        name=name,
        um_per_px=um / shrink,
        spot_diameter_um=diameter,
        expected_pitch_um=pitch_um,
    )


def _image(folder: Path | None, prefix: str, known: dict, options: Options) -> tuple[Path, float]:
    """Image file, and its pixels per pixel of the full-resolution image."""
    wanted = str(options.image) if options.image is not None else ""
    if wanted and wanted not in _PICTURES:
        path = check_image_file(wanted)
        _check_size(path, folder, prefix, known)
        return path, 1.0
    for kind in [wanted] if wanted else _PICTURES:
        for end in ("png", "jpg", "jpeg", "tiff", "tif"):
            path = (folder or Path()) / f"{prefix}tissue_{kind}_image.{end}"
            if not path.is_file():
                continue
            key = f"tissue_{kind}_scalef"
            if key not in known:
                raise InputError(
                    f"The scale factors lack {key!r}, which {path.name} needs. Copy "
                    "scalefactors_json.json of the same run, or give the full-resolution image=..."
                )
            return check_image_file(path), known[key]
    raise MissingFile(
        f"{folder} holds no image tissue_{wanted or 'hires'}_image.png. Copy it there, or give "
        "the full-resolution image=..."
    )


def _check_size(path: Path, folder: Path | None, prefix: str, known: dict) -> None:
    """An image whose size contradicts the small copies is not the one positions belong to."""
    for kind in _PICTURES:
        small = (folder or Path()) / f"{prefix}tissue_{kind}_image.png"
        factor = known.get(f"tissue_{kind}_scalef")
        if factor is None or not small.is_file():
            continue
        expected = [side / factor for side in images.size_of(check_image_file(small))]
        size = images.size_of(path)
        if max(abs(a * factor - b * factor) for a, b in zip(size, expected, strict=True)) > 3:
            raise InputError(
                f"The image {path} is {size[0]} x {size[1]} px, but the full-resolution image is "
                f"about {expected[0]:.0f} x {expected[1]:.0f} px by {small.name} and its scale "
                f"factor. Give that image, or image={kind!r}."
            )
        return


# --- GSE240429 ------------------------------------------------------------------------------


def gse_samples(folder: Path) -> dict[str, str]:
    """Names and file prefixes of the samples of a folder of GEO's files, or BLEEP's numbers."""
    root = bleep_root(folder)
    if root is not None:
        numbers_found = sorted(p.name for p in (root / BLEEP_COUNTS).iterdir() if p.is_dir())
        return {f"C73_{BLEEP_NUMBERS.get(n, n)}": n for n in numbers_found}
    found = {}
    for file in sorted(folder.glob("GSM*matrix.mtx*")):
        prefix = re.sub(r"matrix\.mtx(\.gz)?$", "", file.name)
        name = re.sub(r"^GSM\d+_", "", prefix).removesuffix("_").removesuffix("_VISIUM")
        found[re.sub(r"(?<=\d)([A-D]1)$", r"_\1", name)] = prefix
    return found


def bleep_root(folder: Path) -> Path | None:
    """Folder with the count and position folders of BLEEP's and HECLIP's repositories."""
    for root in (folder, folder / "data", folder / "GSE240429_data" / "data"):
        if (root / BLEEP_COUNTS).is_dir():
            return root
    return None


def read_gse240429(path: Path, options: Options) -> AnnData:
    """One section of GSE240429, from GEO's files or as BLEEP lays them out."""
    folder = existing(path, "GSE240429 folder", folder=True)
    samples = gse_samples(folder)
    if not samples:
        raise MissingFile(
            f"{folder} holds neither files GSM..._matrix.mtx.gz nor a folder {BLEEP_COUNTS}. "
            "Unpack GSE240429_RAW.tar into a folder of its own, and give that."
        )
    name = pick(samples, options.name, folder)
    bleep = bleep_root(folder)
    options = options.but(donor=options.donor or _donor_of(name))
    image = options.image or _gse_image(folder, bleep, name)
    if bleep is not None:
        number = samples[name]
        counts = read_10x_mtx(bleep / BLEEP_COUNTS / number)
        where = bleep / BLEEP_POSITIONS / f"tissue_positions_list_{number}.csv"
        factors_path, pictures, prefix = bleep / "none", None, ""
    else:
        prefix = samples[name]
        counts = read_10x_mtx(folder, prefix)
        where = part(folder, prefix, "tissue_positions_list.csv", "tissue_positions.csv")
        pictures, factors_path = folder, folder / f"{prefix}scalefactors_json.json"
    if image is None and bleep is not None:
        raise MissingFile(
            f"{folder}: the image of {name} is missing. Fetch GSM..._GEX_{name}_Merged.tiff.gz "
            "from GEO (GSE240429), unpack it, and put it into the folder image, or give image=..."
        )
    positions = read_positions(options.positions or where, options.columns)
    counts, positions = chosen(counts, positions)
    return _finish(
        counts,
        positions,
        factors_path,
        pictures,
        options.but(image=image),
        name=name,
        prefix=prefix,
    )


def pick(found: dict, wanted: str | None, folder: Path) -> str:
    """The only sample, or of several the one that is named.

    Raises
    ------
    InputError
        If there are several and none is named, or the named one is not there.
    """
    if len(found) == 1:
        return next(iter(found))
    if wanted not in found:
        said = f"no sample {wanted!r}" if wanted else f"{len(found)} samples"
        raise InputError(f"{folder} holds {said}: choose name= among {', '.join(found)}.")
    return wanted


def _donor_of(name: str) -> str | None:
    """The slide: on GSE240429's (C73), four serial sections of one liver lie side by side."""
    match = re.fullmatch(r"(\w+)_[A-D]1", name)
    return match[1] if match else None


def _gse_image(folder: Path, bleep: Path | None, name: str) -> Path | None:
    places = [folder] if bleep is None else [folder / "image", bleep.parent / "image"]
    for place in places:
        for end in ("tif", "tiff", "tif.gz", "tiff.gz"):
            found = sorted(place.glob(f"*{name}_Merged.{end}"))
            if len(found) > 1:
                raise InputError(
                    f"{place} holds {len(found)} images of {name} "
                    f"({', '.join(path.name for path in found)}). Give one of them as image=..."
                )
            if found:
                return found[0]
    return None
