"""Files and options that cannot be right, and what must be said about each.

`CASES` is the table. `Templates` writes each layout once; `Templates.make` copies one and
damages it. Nothing here needs pytest, so that the command line can walk the same table.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
from layouts import Written
from PIL import Image

Damage = Callable[[Path, Written], "Written | None"]


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes
    ----------
    name
        Says what is wrong with it.
    layout
        Which of `layouts.WRITERS` or `layouts.VARIANTS` it was made from.
    damage
        Functions of the folder and of what was written; each may return something else to read.
    says
        Words that the message must hold (a regular expression, upper and lower case alike).
        None where the input is unusual but right, and must be read.
    """

    name: str
    layout: str
    damage: tuple[Damage, ...]
    says: str | None


class Templates:
    """Each layout written once, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.written: dict[str, Written] = {}

    def make(self, case: Case, folder: Path) -> Written:
        """Copy a layout into `folder` and damage it; returns what to read."""
        source = self.folder / case.layout
        if case.layout not in self.written:
            section = layouts.drawn_section(layouts.LATTICES.get(case.layout, "hex"))
            writer = {**layouts.WRITERS, **layouts.VARIANTS}[case.layout]
            self.written[case.layout] = writer(section, source)
        given = self.written[case.layout]
        shutil.copytree(source, folder, dirs_exist_ok=True)

        def moved(value):
            below = isinstance(value, Path) and value.is_relative_to(source)
            return folder / value.relative_to(source) if below else value

        options = {key: moved(value) for key, value in given.options.items()}
        written = replace(given, path=moved(given.path), options=options)
        for step in case.damage:
            written = step(folder, written) or written
        return written


# --- Ways to damage -------------------------------------------------------------------------


def cut(name: str, share: float = 0.5) -> Damage:
    """Keep the first part of a file."""

    def step(folder: Path, written: Written) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return step


def put(name: str, data: bytes) -> Damage:
    """Write a file, whatever it held."""

    def step(folder: Path, written: Written) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return step


def drop(name: str) -> Damage:
    """Delete a file or folder."""

    def step(folder: Path, written: Written) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return step


def text(name: str, change: Callable[[str], str], encoding: str = "utf-8") -> Damage:
    """Change the text of a file, packed or not."""

    def step(folder: Path, written: Written) -> None:
        path = folder / name
        data, packed = path.read_bytes(), name.endswith(".gz")
        changed = change((gzip.decompress(data) if packed else data).decode()).encode(encoding)
        path.write_bytes(gzip.compress(changed) if packed else changed)

    return step


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    """Change a comma-separated table, all of it as text."""

    def step(folder: Path, written: Written) -> None:
        path = folder / name
        changed = change(pd.read_csv(path, dtype=str, na_filter=False))
        changed.to_csv(path, index=False)

    return step


def field(name: str, row: int, column: str | int, value: str) -> Damage:
    """Change one field of a comma-separated table."""

    def change(found: pd.DataFrame) -> pd.DataFrame:
        at = found.columns.get_loc(column) if isinstance(column, str) else column
        found.iloc[row, at] = value
        return found

    return table(name, change)


def parts(name: str, **changes) -> Damage:
    """Change entries of a JSON object; None deletes one."""

    def step(folder: Path, written: Written) -> None:
        value = json.loads((folder / name).read_text())
        for key, new in changes.items():
            value.pop(key, None) if new is None else value.update({key: new})
        (folder / name).write_text(json.dumps(value))

    return step


def hdf5(name: str, change: Callable) -> Damage:
    """Change an HDF5 file."""

    def step(folder: Path, written: Written) -> None:
        import h5py

        with h5py.File(folder / name, "r+") as file:
            change(file)

    return step


def dataset(key: str, change: Callable[[np.ndarray], object]) -> Callable:
    """Replace a data set of an HDF5 file."""

    def apply(file) -> None:
        values = change(file[key][:])
        del file[key]
        file[key] = values

    return apply


def adata(name: str, change: Callable) -> Damage:
    """Change an AnnData file; the function may return another one."""

    def step(folder: Path, written: Written) -> None:
        import anndata

        found = anndata.read_h5ad(folder / name)
        changed = change(found)
        (found if changed is None else changed).write_h5ad(folder / name)

    return step


def image(name: str, change: Callable[[Image.Image], object], **options) -> Damage:
    """Change an image; the function returns an image, or an array that tifffile writes."""

    def step(folder: Path, written: Written) -> None:
        with Image.open(folder / name) as opened:
            made = change(opened.convert("RGB"))
        if isinstance(made, np.ndarray):
            import tifffile

            tifffile.imwrite(folder / name, made)
        else:
            made.save(folder / name, **options)

    return step


def say(**options) -> Damage:
    """Pass other options; None leaves one out."""

    def step(folder: Path, written: Written) -> Written:
        merged = {**written.options, **options}
        return replace(written, options={k: v for k, v in merged.items() if v is not None})

    return step


def give(option: str, name: str) -> Damage:
    """Pass a path below the folder as an option, or as what to read."""

    def step(folder: Path, written: Written) -> Written:
        if option == "path":
            return replace(written, path=folder / name)
        return replace(written, options={**written.options, option: folder / name})

    return step


def loop(name: str) -> Damage:
    """A link that leads to itself."""

    def step(folder: Path, written: Written) -> None:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        os.symlink(path, path)

    return step


def escaping_zip(name: str) -> Damage:
    """An archive whose member would land outside its folder."""

    def step(folder: Path, written: Written) -> None:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("../escaped.txt", "outside")

    return step


class Trap:
    """Unpickling this writes a file; no reader may."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def trap(name: str) -> Damage:
    """A pickle that shows when it was loaded, as .pkl or inside .npy."""

    def step(folder: Path, written: Written) -> None:
        loaded = Trap(str(folder / "pickle_was_loaded"))
        if name.endswith(".npy"):
            np.save(folder / name, np.array([loaded], dtype=object), allow_pickle=True)
        else:
            (folder / name).write_bytes(pickle.dumps(loaded))

    return step


def swap(name: str, a: str, b: str) -> Damage:
    """Exchange the values of two columns."""

    def change(found: pd.DataFrame) -> pd.DataFrame:
        return found.assign(**{a: found[b], b: found[a]})

    return table(name, change)


def values(name: str, column: str, change: Callable[[pd.Series], pd.Series]) -> Damage:
    """Change the numbers of a column."""
    return table(name, lambda t: t.assign(**{column: change(t[column].astype(float))}))


def uns(found) -> dict:
    return next(iter(found.uns["spatial"].values()))


# --- The table ------------------------------------------------------------------------------

H5, SPATIAL = "S1/filtered_feature_bc_matrix.h5", "S1/spatial"
POSITIONS, FACTORS = f"{SPATIAL}/tissue_positions.csv", f"{SPATIAL}/scalefactors_json.json"
HIRES, TIF = f"{SPATIAL}/tissue_hires_image.png", "image/S1.tif"
MTX = "S1/filtered_feature_bc_matrix"
COUNTS, PLACES, PNG = "S1/counts.csv", "S1/positions.csv", "S1/image.png"
ROW, COL = "pxl_row_in_fullres", "pxl_col_in_fullres"


def grey(opened: Image.Image) -> Image.Image:
    return opened.convert("L")


def see_through(opened: Image.Image) -> Image.Image:
    made = opened.convert("RGBA")
    made.paste((0, 0, 0, 0), (0, 0, 10, 10))
    return made


def _visium() -> list[Case]:
    def case(name, says, *damage):
        return Case(name, "visium", damage, says)

    return [
        case("h5 cut short", "damaged|cut short", cut(H5)),
        case("h5 of zero bytes", "could not be read|empty", put(H5, b"")),
        case("h5 that is text", "could not be read", put(H5, b"GENE1,GENE2\n1,2\n")),
        case("h5 without a matrix", "no group 'matrix'", hdf5(H5, lambda f: f.pop("matrix"))),
        case("h5 without barcodes", "lacks matrix/barcodes", hdf5(H5, lambda f: f.pop("matrix/barcodes"))),
        case("h5 whose indices point outside", "damaged",
             hdf5(H5, dataset("matrix/indices", lambda v: v + 10_000_000))),
        case("h5 of another shape", "genes and .* barcodes are named",
             hdf5(H5, dataset("matrix/shape", lambda v: v + 1))),
        case("h5 with negative counts", "negative", hdf5(H5, dataset("matrix/data", np.negative))),
        case("h5 with fractions", "fractional", hdf5(H5, dataset("matrix/data", lambda v: v + 0.5))),
        case("h5 with counts that are not finite", "not finite",
             hdf5(H5, dataset("matrix/data", lambda v: v * np.nan))),
        case("h5 of antibodies only", "Gene Expression",
             hdf5(H5, dataset("matrix/features/feature_type", lambda v: np.full_like(v, b"Antibody Capture")))),
        case("h5 with gene names that hold spaces", "hold spaces",
             hdf5(H5, dataset("matrix/features/name", lambda v: np.array([b"GENE " + n for n in v])))),
        case("h5 with a barcode twice", "more than once",
             hdf5(H5, dataset("matrix/barcodes", lambda v: np.array([v[0], *v[:-1]])))),
        case("no counts", "holds no counts", drop(H5)),
        case("a folder in place of the h5", "holds no counts|is a folder|features.tsv|matrix.mtx", drop(H5), put(f"{H5}/x", b"")),
        case("no positions", "no positions", drop(POSITIONS)),
        case("positions of zero bytes", "empty", put(POSITIONS, b"")),
        case("positions with a barcode twice", "more than once",
             table(POSITIONS, lambda t: pd.concat([t, t.tail(1)]))),
        case("positions that are words", "is no number", field(POSITIONS, 3, COL, "left")),
        case("positions that are missing", "is no number", field(POSITIONS, 3, ROW, "")),
        case("positions that are not finite", "is no number", field(POSITIONS, 3, ROW, "inf")),
        case("huge positions", "more than any image", field(POSITIONS, 3, COL, "1e15")),
        case("positions beyond the image", "belong together|outside",
             values(POSITIONS, COL, lambda v: v + 5000)),
        case("x and y swapped", "swapped|outside", swap(POSITIONS, ROW, COL)),
        case("x flipped", "x flipped|x is flipped", values(POSITIONS, COL, lambda v: 479 - v)),
        case("y flipped", "y flipped|y is flipped", values(POSITIONS, ROW, lambda v: 359 - v)),
        case("array rows shuffled", "do not belong together",
             table(POSITIONS, lambda t: t.assign(array_row=t["array_row"].to_numpy()[::-1]))),
        case("a selection of 0, 1 and 2", "neither 0 nor 1", field(POSITIONS, 2, "in_tissue", "2")),
        case("no spot in tissue", "none of the .* selected", values(POSITIONS, "in_tissue", lambda v: v * 0)),
        case("barcodes of another slide", "same section",
             table(POSITIONS, lambda t: t.assign(barcode="X" + t["barcode"]))),
        case("barcodes without -1", "ending '-1'",
             table(POSITIONS, lambda t: t.assign(barcode=t["barcode"].str[:-2]))),
        case("no column of x", "no column for x", table(POSITIONS, lambda t: t.drop(columns=COL))),
        case("a header only", "no rows", table(POSITIONS, lambda t: t.head(0))),
        case("no scale factors", "scale factors\\) does not exist", drop(FACTORS), say(image="hires")),
        case("scale factors cut short", "not valid JSON", cut(FACTORS)),
        case("scale factors in a list", "not an object", put(FACTORS, b"[1, 2]")),
        case("scale factors without that of the image", "lack 'tissue_hires_scalef'",
             parts(FACTORS, tissue_hires_scalef=None), say(image="hires")),
        case("a negative scale factor", "must be above 0", parts(FACTORS, tissue_hires_scalef=-0.5)),
        case("a scale factor that is a word", "must be above 0", parts(FACTORS, spot_diameter_fullres="big")),
        case("scale factors of another image", "belong to another image",
             parts(FACTORS, spot_diameter_fullres=99.0)),
        case("nested JSON without end", "not valid JSON", put(FACTORS, b'{"a":' + b"[" * 100_000)),
        case("image of zero bytes", "empty", put(TIF, b"")),
        case("image cut short", "damaged|cut short", cut(TIF)),
        case("image that is text", "not an image", put(TIF, b"no image at all\n" * 20)),
        case("16-bit image", "16 bits", image(TIF, lambda i: np.asarray(i).astype(np.uint16) * 257)),
        case("16-bit greyscale image", "8 bits", image(TIF, lambda i: np.asarray(grey(i)).astype(np.uint16))),
        case("image of decimals", "bits|decimals", image(TIF, lambda i: np.asarray(grey(i)).astype(np.float32))),
        case("greyscale image", "greyscale", image(TIF, grey)),
        case("image in printing colours", "CMYK", image(TIF, lambda i: i.convert("CMYK"))),
        case("black and white image", "black and white", image(TIF, lambda i: i.convert("1"))),
        case("transparent image", "transparent", image(TIF, see_through)),
        case("image of another size", "full-resolution image is", image(TIF, lambda i: i.resize((240, 180)))),
        case("no image", "does not exist", drop(TIF)),
        case("a folder in place of the image", "is a folder", drop(TIF), put(f"{TIF}/x", b"")),
        case("image that is a loop of links", "loop of links", loop(TIF)),
        case("image that is packed", "gunzip", put("slide.tiff.gz", b"\x1f\x8b"), give("image", "slide.tiff.gz")),
        case("hires image cut short", "cut short", cut(HIRES), say(image="hires")),
        case("no small image", "holds no image", drop(HIRES), say(image="hires")),
        case("negative micrometres per pixel", "above 0", say(um_per_px=-0.5)),
        case("zero micrometres per pixel", "above 0", say(um_per_px=0)),
        case("micrometres per pixel that are no number", "above 0", say(um_per_px=float("nan"))),
        case("endless micrometres per pixel", "above 0", say(um_per_px=float("inf"))),
        case("micrometres per pixel of half the pitch", "belong to another image|wrong scale", say(um_per_px=2.0)),
        case("a negative pitch", "above 0", say(spot_pitch_um=-100.0)),
        case("a spot wider than the pitch", "wrong scale", say(spot_diameter_um=150.0)),
        case("an unknown layout", "unknown", say(layout="visum")),
        case("a name of spaces", "give a word", say(name="  ")),
        case("an unknown column", "it may name", say(columns={"z": "height"})),
        case("an unknown way to check the orientation", "choose", say(orientation="maybe")),
        case("a path that is not there", "does not exist", give("path", "elsewhere")),
        case("an empty folder", "no layout", drop("S1"), lambda f, w: (f / "S1").mkdir()),
        case("a folder that is a loop of links", "loop of links", loop("S1")),
        case("a file in place of the folder", "is a file", drop("S1"), put("S1", b"x"), say(layout="visium")),
    ]  # fmt: skip


def _matrices() -> list[Case]:
    def case(name, says, *damage):
        return Case(name, "visium-2-mtx", damage, says)

    def mtx(change):
        return text(f"{MTX}/matrix.mtx.gz", change)

    def line(at, new):
        return lambda t: "\n".join(
            new if i == at else old for i, old in enumerate(t.split("\n"))
        )

    return [
        case("mtx.gz cut short", "could not be read", cut(f"{MTX}/matrix.mtx.gz")),
        case("mtx cut short", "could not be read", mtx(lambda t: t[: len(t) // 2])),
        case("mtx without its first line", "MatrixMarket", mtx(lambda t: t.split("\n", 1)[1])),
        case("mtx on its side", "lies on its side",
             mtx(lambda t: line(2, " ".join(np.array(t.split("\n")[2].split())[[1, 0, 2]]))(t))),
        case("mtx that points outside", "could not be read", mtx(lambda t: line(3, "99999999 1 1")(t))),
        case("mtx of huge size", "announces", mtx(lambda t: line(2, f"{10**12} {10**12} 1")(t))),
        case("mtx with words", "could not be read", mtx(lambda t: line(3, "one 1 1")(t))),
        case("mtx of negative counts", "negative", mtx(lambda t: line(3, "1 1 -7")(t))),
        case("no features", "does not exist", drop(f"{MTX}/features.tsv.gz")),
        case("features cut short", "could not be read|announces", cut(f"{MTX}/features.tsv.gz")),
        case("features without a name", "have no name",
             text(f"{MTX}/features.tsv.gz", lambda t: t.replace("\tGENE5\t", "\t\t"))),
        case("features of one gene fewer", "announces",
             text(f"{MTX}/features.tsv.gz", lambda t: t.split("\n", 1)[1])),
        case("gene names with a line of spaces", "hold spaces",
             text(f"{MTX}/features.tsv.gz", lambda t: t.replace("GENE7", "GENE 7"))),
        case("no barcodes", "does not exist", drop(f"{MTX}/barcodes.tsv.gz")),
        case("barcodes in another encoding", "not UTF-8",
             put(f"{MTX}/barcodes.tsv.gz", gzip.compress("Zürich-1\n".encode("latin-1")))),
        case("barcodes that are a loop of links", "loop of links", loop(f"{MTX}/barcodes.tsv.gz")),
        case("barcodes that are no gzip", "binary|could not be read", put(f"{MTX}/barcodes.tsv.gz", b"\x1f\x8b\0\0")),
    ]  # fmt: skip


def _tables() -> list[Case]:
    def case(name, says, *damage):
        return Case(name, "tables", damage, says)

    def turned(found: pd.DataFrame) -> pd.DataFrame:
        return found.set_index(found.columns[0]).T.reset_index()

    return [
        case("counts in UTF-16", "UTF-16", text(COUNTS, str, "utf-16")),
        case("counts in Latin-1", "not UTF-8", text(COUNTS, lambda t: t.replace("GENE3", "GÈNE3"), "latin-1")),
        case("counts with two delimiters", "delimiter", text(COUNTS, lambda t: t.replace(",", ";", 40))),
        case("a delimiter that changes halfway", "delimiter",
             text(COUNTS, lambda t: t[: len(t) // 2] + t[len(t) // 2 :].replace(",", "\t"))),
        case("counts on their side", "transposed", table(COUNTS, turned)),
        case("a spot twice", "more than once", table(COUNTS, lambda t: pd.concat([t, t.head(1)]))),
        case("a word among the counts", "'many' in row .* is no number", field(COUNTS, 4, "GENE9", "many")),
        case("an empty count", "is no number", field(COUNTS, 4, "GENE9", "")),
        case("a count of NA", "is no number", field(COUNTS, 4, "GENE9", "NA")),
        case("a count of nan", "finite|is no number", field(COUNTS, 4, "GENE9", "nan")),
        case("an endless count", "finite|is no number", field(COUNTS, 4, "GENE9", "inf")),
        case("decimals with a comma", "decimals with a point",
             text(COUNTS, lambda t: t.replace(",", ";").replace(";3;", ";3,5;"))),
        case("a negative count", "negative", field(COUNTS, 4, "GENE9", "-2")),
        case("normalised counts", "fractional", field(COUNTS, 4, "GENE9", "0.693")),
        case("true and false as counts", "is no number|fractional", values(COUNTS, "GENE9", lambda v: v > 0)),
        case("no counts but zeros", "all counts are zero", table(COUNTS, lambda t: t.replace(r"^\d+$", "0", regex=True))),
        case("counts without rows", "no rows", table(COUNTS, lambda t: t.head(0))),
        case("counts of one column", "one column", table(COUNTS, lambda t: t.iloc[:, :1])),
        case("counts whose last row is cut", "shorter|is no number", cut(COUNTS, 0.97)),
        case("counts without gene names", "holds numbers", text(COUNTS, lambda t: t.split("\n", 1)[1])),
        case("a gene name with spaces", "hold spaces", text(COUNTS, lambda t: t.replace("GENE7,", "GENE 7,"))),
        case("a gene without a name", "have no name", text(COUNTS, lambda t: t.replace("GENE7,", ","))),
        case("an Excel workbook named csv", "zip archive or an Excel", put(COUNTS, b"PK\x03\x04" + b"\0" * 99)),
        case("an image named csv", "PNG", put(COUNTS, b"\x89PNG\r\n\x1a\n")),
        case("null bytes among the counts", "binary", put(COUNTS, b"spot,GENE1\na,\0\n")),
        case("counts of zero bytes", "empty", put(COUNTS, b"")),
        case("packed counts cut short", "could not be read",
             lambda f, w: (f / "S1/counts.csv.gz").write_bytes(gzip.compress((f / COUNTS).read_bytes())[:2000]) and None,
             drop(COUNTS)),
        case("pickled counts", "never loaded", trap("S1/counts.pkl"), give("counts", "S1/counts.pkl")),
        case("a pickle inside npy", "never loaded", trap("S1/counts.npy"), give("counts", "S1/counts.npy")),
        case("a pickle to read", "never loaded", trap("S1/all.pkl"), give("path", "S1/all.pkl")),
        case("an archive that escapes", "archive", escaping_zip("S1.zip"), give("path", "S1.zip")),
        case("counts in an archive", "archive", escaping_zip("S1/c.zip"), give("counts", "S1/c.zip")),
        case("no scale", "do not say the scale", say(um_per_px=None)),
        case("no size of a spot", "how large a spot", say(spot_diameter_um=None)),
        case("scale and pitch that contradict", "wrong scale", say(spot_pitch_um=200.0)),
        case("a scale of metres", "wrong scale", say(um_per_px=4e6)),
        case("no positions", "positions is not clear", drop(PLACES)),
        case("two files of positions", "positions is not clear", put("S1/spots.csv", b"a,b\n1,2\n")),
        case("no image", "image is not clear", drop(PNG)),
        case("positions without names", "no column for barcode",
             table(PLACES, lambda t: t[["x", "y"]])),
        case("positions of another table", "same section", table(PLACES, lambda t: t.assign(spot="s" + t["spot"]))),
        case("positions in micrometres", "outside", values(PLACES, "x", lambda v: v * 4), values(PLACES, "y", lambda v: v * 4)),
        case("positions with a thousands comma", "no number", field(PLACES, 2, "x", "1,250")),
        case("all spots at one place", "wrong scale|same place", values(PLACES, "x", lambda v: v * 0 + 60), values(PLACES, "y", lambda v: v * 0 + 60)),
        case("x and y swapped in the table", "swapped", swap(PLACES, "x", "y"), say(um_per_px=None, spot_pitch_um=100.0)),
        case("a selection of words", "neither 0 nor 1", field(PLACES, 2, "selected", "maybe")),
        case("a PNG cut short", "cut short", cut(PNG)),
        case("a greyscale PNG", "greyscale", image(PNG, grey)),
        case("a PNG with transparent pixels", "transparent", image(PNG, see_through)),
        case("a table with Windows line ends", None, text(COUNTS, lambda t: t.replace("\n", "\r\n"))),
        case("a table with a byte-order mark", None, text(COUNTS, str, "utf-8-sig")),
        case("a table with a gene twice", None, text(COUNTS, lambda t: t.replace("GENE7,", "GENE8,"))),
        case("a table with quotes", None, text(COUNTS, lambda t: t.replace("GENE7,", '"GENE7",'))),
        case("a PNG with an opaque alpha channel", None, image(PNG, lambda i: i.convert("RGBA"))),
        case("a PNG with a palette", None, image(PNG, lambda i: i.convert("P", palette=Image.Palette.ADAPTIVE))),
    ]  # fmt: skip


def _stores() -> list[Case]:
    def old(name, says, *damage):
        return Case(name, "h5ad", damage, says)

    def own(name, says, *damage):
        return Case(name, "own-h5ad", damage, says)

    def hest(name, says, *damage):
        return Case(name, "hest", damage, says)

    def zarr(name, says, *damage, layout="spatialdata"):
        return Case(name, layout, damage, says)

    file, inside = "S1.h5ad", say(image=None)

    def with_hires(change):
        def apply(found):
            entry = uns(found)
            entry["images"]["hires"] = change(np.rint(entry["images"]["hires"] * 255))

        return adata(file, apply)

    def two(found):
        found.uns["spatial"]["S2"] = uns(found)

    def clear(folder, written):
        for chunk in (folder / "S1.zarr/tables/S1/X/data/c").rglob("*"):
            if chunk.is_file():
                chunk.unlink()

    def no_region(folder, written):
        shutil.rmtree(folder / "S1.zarr/shapes/S1_points")

    return [
        old("h5ad cut short", "could not be read", cut(file)),
        old("h5ad of zero bytes", "could not be read", put(file, b"")),
        old("h5ad that is text", "could not be read", put(file, b"no h5ad")),
        old("h5ad without uns", "uns\\['spatial'\\] is missing", adata(file, lambda a: a.uns.clear())),
        old("h5ad without places", "obsm\\['spatial'\\] is missing", adata(file, lambda a: a.obsm.clear())),
        old("h5ad with places in three dimensions", "must be numbers",
            adata(file, lambda a: a.obsm.update(spatial=np.zeros((a.n_obs, 3))))),
        old("h5ad with a place that is not finite", "not finite",
            adata(file, lambda a: a.obsm.update(spatial=a.obsm["spatial"] * np.nan))),
        old("h5ad without spots", "no spots", adata(file, lambda a: a[:0].copy())),
        old("h5ad without genes", "normalised|no counts", adata(file, lambda a: a[:, :0].copy())),
        old("h5ad with normalised values", "raw counts", adata(file, lambda a: setattr(a, "X", a.X.log1p()))),
        old("h5ad without the layer that is asked for", "has no counts 'umi'", say(counts="umi")),
        old("h5ad whose indices point outside", "could not be read",
            hdf5(file, dataset("X/indices", lambda v: v + 1000))),
        old("h5ad with a spot twice", "more than once",
            adata(file, lambda a: setattr(a, "obs_names", [a.obs_names[0]] * 2 + list(a.obs_names[2:])))),
        old("h5ad without the scale factor of its image", "tissue_hires_scalef",
            adata(file, lambda a: uns(a)["scalefactors"].pop("tissue_hires_scalef") and None), inside),
        old("h5ad with a negative scale factor", "must be a number above 0",
            adata(file, lambda a: uns(a)["scalefactors"].update(tissue_hires_scalef=-1.0))),
        old("h5ad without an image", "no image is there", adata(file, lambda a: uns(a)["images"].clear()), inside),
        old("h5ad with a greyscale image", "RGB", with_hires(lambda p: p[..., 0].astype(np.uint8)), inside),
        old("h5ad with a 16-bit image", "8 bits", with_hires(lambda p: p.astype(np.uint16) * 257), inside),
        old("h5ad with a transparent image", "transparent",
            with_hires(lambda p: np.dstack([p, p[..., 0] * 0]).astype(np.uint8)), inside),
        old("h5ad of several sections, none named", "choose name", adata(file, two)),
        old("h5ad of several sections without a column", "which spots belong", adata(file, two), say(name="S2")),
        old("h5ad without array coordinates and scale", "scale is unknown",
            adata(file, lambda a: setattr(a, "obs", a.obs[["in_tissue"]]))),
        old("h5ad with words for array rows", "no numbers",
            adata(file, lambda a: a.obs.__setitem__("array_row", "first"))),
        old("h5ad in place of a folder", "is a file", say(layout="visium")),
        own("own h5ad with a fraction", "fractional", hdf5(file, dataset("X/data", lambda v: v + 0.5))),
        own("own h5ad without its scale", "scale|unknown|missing",
            hdf5(file, lambda f: f.pop("uns/spatial/S1/scalefactors"))),
        own("own h5ad with a changed preview", "preview",
            hdf5(file, dataset("uns/spatial/S1/images/hires", lambda v: v[::2]))),
        hest("HEST without the slide", "does not exist", drop("hest/wsis/S1.tif")),
        hest("HEST with damaged metadata", "not valid JSON", cut("hest/metadata/S1.json")),
        hest("HEST with a negative pixel size", "above 0", parts("hest/metadata/S1.json", pixel_size_um_estimated=-0.5)),
        hest("HEST with a pixel size in words", "above 0", parts("hest/metadata/S1.json", pixel_size_um_estimated="half")),
        hest("HEST without sections", "no .h5ad", drop("hest/st/S1.h5ad")),
        hest("HEST of two sections, none named", "choose name", put("hest/st/S2.h5ad", b""), say(name=None)),
        hest("HEST with a slide of zero bytes", "empty", put("hest/wsis/S1.tif", b"")),
        hest("HEST with the pixel size of another slide", "wrong scale", parts("hest/metadata/S1.json", pixel_size_um_estimated=0.1)),
        zarr("store with damaged metadata", "could not be read|no readable", cut("S1.zarr/zarr.json", 0.3)),
        zarr("store without a table", "no readable|could not be read", drop("S1.zarr/tables/S1")),
        zarr("store with a damaged table", "could not be read|no readable", put("S1.zarr/tables/S1/X/zarr.json", b"{")),
        zarr("store without its spots", "shapes are|could not be read", no_region),
        zarr("store without an image", "no image|could not be read", drop("S1.zarr/images/S1_image")),
        zarr("store without that image", "has no image", say(image="other")),
        zarr("store without the rows of its table", "could not be read", drop("S1.zarr/tables/S1/obs")),
        zarr("own store that has lost counts", "not those that were written|could not be read", clear, layout="own-spatialdata"),
        zarr("own store that has lost its image", "could not be read|not those", drop("S1.zarr/images/S1_image/s0" ), layout="own-spatialdata"),
        zarr("store that is a file", "layout|could not be read", drop("S1.zarr"), put("S1.zarr", b"x")),
    ]  # fmt: skip


def _others() -> list[Case]:
    geo, bleep, prefix = "gse240429", "bleep", "GSE240429/GSM7697868_C73A1_"
    inner = "S1/binned_outputs/square_100um"
    return [
        Case("GEO's files without positions", geo, (drop(f"{prefix}tissue_positions_list.csv.gz"),), "does not exist"),
        Case("GEO's image still packed", geo,
             (drop("GSE240429/GSM7697868_GEX_C73_A1_Merged.tiff"),
              put("GSE240429/GSM7697868_GEX_C73_A1_Merged.tiff.gz", b"\x1f\x8b")), "gunzip"),
        Case("GEO's files of two samples, none named", geo,
             (put("GSE240429/GSM7697869_C73B1_matrix.mtx.gz", b""), say(name=None)), "choose name"),
        Case("GEO's archive itself", geo, (put("GSE240429_RAW.tar", b"x"), give("path", "GSE240429_RAW.tar")), "archive"),
        Case("an empty folder for GSE240429", geo,
             (drop("GSE240429"), lambda f, w: (f / "GSE240429").mkdir(), say(layout="gse240429")), "Unpack GSE240429_RAW"),
        Case("BLEEP's folders without the image", bleep, (drop("GSE240429_data/image/GEX_C73_A1_Merged.tiff"),), "image of .* is missing"),
        Case("BLEEP's folders without features", bleep,
             (drop("GSE240429_data/data/filtered_expression_matrices/1/features.tsv"),), "does not exist"),
        Case("BLEEP's folders without positions", bleep,
             (drop("GSE240429_data/data/tissue_pos_matrices/tissue_positions_list_1.csv"),), "does not exist"),
        Case("bins of a width that is not there", "visium-hd", (say(bin_um=8),), "no bins of 8"),
        Case("bins with damaged parquet", "visium-hd", (cut(f"{inner}/spatial/tissue_positions.parquet"),), "could not be read"),
        Case("bins with parquet of zero bytes", "visium-hd", (put(f"{inner}/spatial/tissue_positions.parquet", b""),), "could not be read"),
        Case("bins without scale factors and image", "visium-hd",
             (drop(f"{inner}/spatial/scalefactors_json.json"), say(image=None)), "scale factors\\) does not exist"),
        Case("bins of half a micrometre", "visium-hd", (say(bin_um=0.5),), "no bins of 0.5"),
    ]  # fmt: skip


CASES: list[Case] = [*_visium(), *_matrices(), *_tables(), *_stores(), *_others()]
