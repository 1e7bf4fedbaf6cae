"""Malformed inputs: folders of Space Ranger, of Visium HD and of GSE240429."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
from damage import (
    LOCKED,
    Case,
    cut,
    dataset,
    drop,
    field,
    forbid,
    give,
    grey,
    hdf5,
    image,
    loop,
    parts,
    put,
    say,
    see_through,
    swap,
    table,
    text,
    values,
)

H5, SPATIAL = "S1/filtered_feature_bc_matrix.h5", "S1/spatial"
POSITIONS, FACTORS = f"{SPATIAL}/tissue_positions.csv", f"{SPATIAL}/scalefactors_json.json"
HIRES, TIF = f"{SPATIAL}/tissue_hires_image.png", "image/S1.tif"
MTX = "S1/filtered_feature_bc_matrix"
ROW, COL = "pxl_row_in_fullres", "pxl_col_in_fullres"


def visium() -> list[Case]:
    def case(name, says, *damage):
        return Case(name, "visium", damage, says)

    return [
        case("h5 cut short", "damaged|cut short", cut(H5)),
        case("h5 of zero bytes", "could not be read|empty", put(H5, b"")),
        case("h5 that is text", "could not be read", put(H5, b"GENE1,GENE2\n1,2\n")),
        case("h5 without a matrix", "no group 'matrix'", hdf5(H5, lambda f: f.pop("matrix"))),
        case(
            "h5 without barcodes",
            "lacks matrix/barcodes",
            hdf5(H5, lambda f: f.pop("matrix/barcodes")),
        ),
        case(
            "h5 whose indices point outside",
            "damaged",
            hdf5(H5, dataset("matrix/indices", lambda v: v + 10_000_000)),
        ),
        case(
            "h5 of another shape",
            "genes and .* barcodes are named",
            hdf5(H5, dataset("matrix/shape", lambda v: v + 1)),
        ),
        case("h5 with negative counts", "negative", hdf5(H5, dataset("matrix/data", np.negative))),
        case(
            "h5 with fractions", "fractional", hdf5(H5, dataset("matrix/data", lambda v: v + 0.5))
        ),
        case(
            "h5 with counts that are not finite",
            "not finite",
            hdf5(H5, dataset("matrix/data", lambda v: v * np.nan)),
        ),
        case(
            "h5 of antibodies only",
            "Gene Expression",
            hdf5(
                H5,
                dataset(
                    "matrix/features/feature_type", lambda v: np.full_like(v, b"Antibody Capture")
                ),
            ),
        ),
        case(
            "h5 with gene names that hold spaces",
            "hold spaces",
            hdf5(
                H5, dataset("matrix/features/name", lambda v: np.array([b"GENE " + n for n in v]))
            ),
        ),
        case(
            "h5 with a barcode twice",
            "more than once",
            hdf5(H5, dataset("matrix/barcodes", lambda v: np.array([v[0], *v[:-1]]))),
        ),
        case("no counts", "holds no counts", drop(H5)),
        case(
            "a folder in place of the h5",
            "holds no counts|is a folder|features.tsv|matrix.mtx",
            drop(H5),
            put(f"{H5}/x", b""),
        ),
        case("no positions", "no positions", drop(POSITIONS)),
        case(
            "counts of two runs",
            "2 files of counts \\(A_filtered.*, B_filtered",
            put(H5.replace("filtered", "A_filtered"), b""),
            put(H5.replace("filtered", "B_filtered"), b""),
            drop(H5),
        ),
        case("positions of zero bytes", "empty", put(POSITIONS, b"")),
        case(
            "positions with a barcode twice",
            "more than once",
            table(POSITIONS, lambda t: pd.concat([t, t.tail(1)])),
        ),
        case("positions that are words", "is no number", field(POSITIONS, 3, COL, "left")),
        case("positions that are missing", "is no number", field(POSITIONS, 3, ROW, "")),
        case("positions that are not finite", "is no number", field(POSITIONS, 3, ROW, "inf")),
        case("huge positions", "more than any image", field(POSITIONS, 3, COL, "1e15")),
        case(
            "positions on another array than Visium's",
            "scale is unknown. Give spot_pitch_um",
            values(POSITIONS, "array_row", lambda v: v * 2),
            values(POSITIONS, ROW, lambda v: v * 2 / 3**0.5),
        ),
        case(
            "positions beyond the image",
            "belong together|outside",
            values(POSITIONS, COL, lambda v: v + 5000),
        ),
        case("x and y swapped", "swapped|outside", swap(POSITIONS, ROW, COL)),
        case("x flipped", "x flipped|x is flipped", values(POSITIONS, COL, lambda v: 479 - v)),
        case("y flipped", "y flipped|y is flipped", values(POSITIONS, ROW, lambda v: 359 - v)),
        case(
            "array rows shuffled",
            "do not belong together",
            table(POSITIONS, lambda t: t.assign(array_row=t["array_row"].to_numpy()[::-1])),
        ),
        case("a selection of 0, 1 and 2", "neither 0 nor 1", field(POSITIONS, 2, "in_tissue", "2")),
        case(
            "no spot in tissue",
            "none of the .* selected",
            values(POSITIONS, "in_tissue", lambda v: v * 0),
        ),
        case(
            "barcodes of another slide",
            "same section",
            table(POSITIONS, lambda t: t.assign(barcode="X" + t["barcode"])),
        ),
        case(
            "barcodes without -1",
            "ending '-1'",
            table(POSITIONS, lambda t: t.assign(barcode=t["barcode"].str[:-2])),
        ),
        case("no column of x", "no column for x", table(POSITIONS, lambda t: t.drop(columns=COL))),
        case("a header only", "no rows", table(POSITIONS, lambda t: t.head(0))),
        case(
            "no scale factors", "scale factors\\) does not exist", drop(FACTORS), say(image="hires")
        ),
        case("scale factors cut short", "not valid JSON", cut(FACTORS)),
        case("scale factors in a list", "not an object", put(FACTORS, b"[1, 2]")),
        case(
            "scale factors without that of the image",
            "lack 'tissue_hires_scalef'",
            parts(FACTORS, tissue_hires_scalef=None),
            say(image="hires"),
        ),
        case(
            "a negative scale factor", "must be above 0", parts(FACTORS, tissue_hires_scalef=-0.5)
        ),
        case(
            "a scale factor that is a word",
            "must be above 0",
            parts(FACTORS, spot_diameter_fullres="big"),
        ),
        case(
            "scale factors of another image",
            "belong to another image",
            parts(FACTORS, spot_diameter_fullres=99.0),
        ),
        case("nested JSON without end", "not valid JSON", put(FACTORS, b'{"a":' + b"[" * 100_000)),
        case("image of zero bytes", "empty", put(TIF, b"")),
        case("image cut short", "damaged|cut short", cut(TIF)),
        case("image that is text", "not an image", put(TIF, b"no image at all\n" * 20)),
        case(
            "16-bit image", "16 bits", image(TIF, lambda i: np.asarray(i).astype(np.uint16) * 257)
        ),
        case(
            "16-bit greyscale image",
            "8 bits",
            image(TIF, lambda i: np.asarray(grey(i)).astype(np.uint16)),
        ),
        case(
            "image of decimals",
            "bits|decimals",
            image(TIF, lambda i: np.asarray(grey(i)).astype(np.float32)),
        ),
        case("greyscale image", "greyscale", image(TIF, grey)),
        case("image in printing colours", "CMYK", image(TIF, lambda i: i.convert("CMYK"))),
        case("black and white image", "black and white", image(TIF, lambda i: i.convert("1"))),
        case("transparent image", "transparent", image(TIF, see_through)),
        case(
            "image of another size",
            "full-resolution image is",
            image(TIF, lambda i: i.resize((240, 180))),
        ),
        case("no image", "does not exist", drop(TIF)),
        case("a folder in place of the image", "is a folder", drop(TIF), put(f"{TIF}/x", b"")),
        case("image that is a loop of links", "loop of links", loop(TIF)),
        case(
            "image that is packed",
            "gunzip",
            put("slide.tiff.gz", b"\x1f\x8b"),
            give("image", "slide.tiff.gz"),
        ),
        case("hires image cut short", "cut short", cut(HIRES), say(image="hires")),
        case("no small image", "holds no image", drop(HIRES), say(image="hires")),
        case("negative micrometres per pixel", "above 0", say(um_per_px=-0.5)),
        case("zero micrometres per pixel", "above 0", say(um_per_px=0)),
        case("micrometres per pixel that are no number", "above 0", say(um_per_px=float("nan"))),
        case("endless micrometres per pixel", "above 0", say(um_per_px=float("inf"))),
        case(
            "micrometres per pixel of half the pitch",
            "belong to another image|wrong scale",
            say(um_per_px=2.0),
        ),
        case("a negative pitch", "above 0", say(spot_pitch_um=-100.0)),
        case("a spot wider than the pitch", "wrong scale", say(spot_diameter_um=150.0)),
        case("an unknown layout", "unknown", say(layout="visum")),
        case("a name of spaces", "give a word", say(name="  ")),
        case("an unknown column", "it may name", say(columns={"z": "height"})),
        case("bins of Visium", "visium does not use bin_um='16': only Visium HD", say(bin_um=16)),
        case("an unknown way to check the orientation", "choose", say(orientation="maybe")),
        case("a path that is not there", "does not exist", give("path", "elsewhere")),
        case("an empty folder", "no layout", drop("S1"), lambda f, w: (f / "S1").mkdir()),
        case("a folder that is a loop of links", "loop of links", loop("S1")),
        case(
            "a file in place of the folder",
            "is a file",
            drop("S1"),
            put("S1", b"x"),
            say(layout="visium"),
        ),
        case("h5 that may not be read", f"{H5} {LOCKED}", forbid(H5)),
        case("positions that may not be read", f"{POSITIONS} {LOCKED}", forbid(POSITIONS)),
        case("scale factors that may not be read", f"{FACTORS} {LOCKED}", forbid(FACTORS)),
        case("image that may not be read", f"{TIF} {LOCKED}", forbid(TIF)),
        case("a folder that may not be read", f"S1 {LOCKED}", forbid("S1")),
        case("a folder of positions that may not be read", f"{SPATIAL} {LOCKED}", forbid(SPATIAL)),
    ]


def matrices() -> list[Case]:
    def case(name, says, *damage):
        return Case(name, "visium-2-mtx", damage, says)

    def mtx(change):
        return text(f"{MTX}/matrix.mtx.gz", change)

    def line(at, new):
        return lambda t: "\n".join(new if i == at else old for i, old in enumerate(t.split("\n")))

    return [
        case("mtx.gz cut short", "could not be read", cut(f"{MTX}/matrix.mtx.gz")),
        case("mtx cut short", "could not be read", mtx(lambda t: t[: len(t) // 2])),
        case("mtx without its first line", "MatrixMarket", mtx(lambda t: t.split("\n", 1)[1])),
        case(
            "mtx on its side",
            "lies on its side",
            mtx(lambda t: line(2, " ".join(np.array(t.split("\n")[2].split())[[1, 0, 2]]))(t)),
        ),
        case(
            "mtx that points outside",
            "could not be read",
            mtx(lambda t: line(3, "99999999 1 1")(t)),
        ),
        case("mtx of huge size", "announces", mtx(lambda t: line(2, f"{10**12} {10**12} 1")(t))),
        case("mtx with words", "could not be read", mtx(lambda t: line(3, "one 1 1")(t))),
        case("mtx of negative counts", "negative", mtx(lambda t: line(3, "1 1 -7")(t))),
        case("no features", "does not exist", drop(f"{MTX}/features.tsv.gz")),
        case("features cut short", "could not be read|announces", cut(f"{MTX}/features.tsv.gz")),
        case(
            "features without a name",
            "have no name",
            text(f"{MTX}/features.tsv.gz", lambda t: t.replace("\tGENE5\t", "\t\t")),
        ),
        case(
            "features of one gene fewer",
            "announces",
            text(f"{MTX}/features.tsv.gz", lambda t: t.split("\n", 1)[1]),
        ),
        case(
            "gene names with a line of spaces",
            "hold spaces",
            text(f"{MTX}/features.tsv.gz", lambda t: t.replace("GENE7", "GENE 7")),
        ),
        case("no barcodes", "does not exist", drop(f"{MTX}/barcodes.tsv.gz")),
        case(
            "barcodes in another encoding",
            "not UTF-8",
            put(f"{MTX}/barcodes.tsv.gz", gzip.compress("Zürich-1\n".encode("latin-1"))),
        ),
        case("barcodes that are a loop of links", "loop of links", loop(f"{MTX}/barcodes.tsv.gz")),
        case(
            "barcodes that are no gzip",
            "binary|could not be read",
            put(f"{MTX}/barcodes.tsv.gz", b"\x1f\x8b\0\0"),
        ),
        case("mtx that may not be read", f"matrix.mtx.gz {LOCKED}", forbid(f"{MTX}/matrix.mtx.gz")),
        case("a folder of counts that may not be read", f"{MTX} {LOCKED}", forbid(MTX)),
    ]


def others() -> list[Case]:
    geo, bleep, prefix = "gse240429", "bleep", "GSE240429/GSM7697868_C73A1_"
    inner = "S1/binned_outputs/square_100um"
    return [
        Case(
            "GEO's files without positions",
            geo,
            (drop(f"{prefix}tissue_positions_list.csv.gz"),),
            "does not exist",
        ),
        Case(
            "GEO's image still packed",
            geo,
            (
                drop("GSE240429/GSM7697868_GEX_C73_A1_Merged.tiff"),
                put("GSE240429/GSM7697868_GEX_C73_A1_Merged.tiff.gz", b"\x1f\x8b"),
            ),
            "gunzip",
        ),
        Case(
            "GEO's files of two samples, none named",
            geo,
            (put("GSE240429/GSM7697869_C73B1_matrix.mtx.gz", b""), say(name=None)),
            "choose name",
        ),
        Case(
            "GEO's archive itself",
            geo,
            (put("GSE240429_RAW.tar", b"x"), give("path", "GSE240429_RAW.tar")),
            "archive",
        ),
        Case(
            "an empty folder for GSE240429",
            geo,
            (drop("GSE240429"), lambda f, w: (f / "GSE240429").mkdir(), say(layout="gse240429")),
            "Unpack GSE240429_RAW",
        ),
        Case(
            "GEO's files with two images",
            geo,
            (put("GSE240429/copy_C73_A1_Merged.tiff", b""),),
            "2 images of C73_A1",
        ),
        Case(
            "BLEEP's folders without the image",
            bleep,
            (drop("GSE240429_data/image/GEX_C73_A1_Merged.tiff"),),
            "image of .* is missing",
        ),
        Case(
            "BLEEP's folders without features",
            bleep,
            (drop("GSE240429_data/data/filtered_expression_matrices/1/features.tsv"),),
            "does not exist",
        ),
        Case(
            "BLEEP's folders without positions",
            bleep,
            (drop("GSE240429_data/data/tissue_pos_matrices/tissue_positions_list_1.csv"),),
            "does not exist",
        ),
        Case("bins of a width that is not there", "visium-hd", (say(bin_um=8),), "no bins of 8"),
        Case(
            "bins with damaged parquet",
            "visium-hd",
            (cut(f"{inner}/spatial/tissue_positions.parquet"),),
            "could not be read",
        ),
        Case(
            "bins with parquet of zero bytes",
            "visium-hd",
            (put(f"{inner}/spatial/tissue_positions.parquet", b""),),
            "could not be read",
        ),
        Case(
            "bins without scale factors and image",
            "visium-hd",
            (drop(f"{inner}/spatial/scalefactors_json.json"), say(image=None)),
            "scale factors\\) does not exist",
        ),
        Case(
            "bins with parquet that may not be read",
            "visium-hd",
            (forbid(f"{inner}/spatial/tissue_positions.parquet"),),
            f"tissue_positions.parquet {LOCKED}",
        ),
        Case(
            "GEO's counts that may not be read",
            geo,
            (forbid(f"{prefix}matrix.mtx.gz"),),
            f"matrix.mtx.gz {LOCKED}",
        ),
        Case("bins of half a micrometre", "visium-hd", (say(bin_um=0.5),), "no bins of 0.5"),
        Case(
            "bins of another width than the folder's",
            "visium-hd",
            (give("path", inner), say(bin_um=8, layout="visium-hd")),
            "no bins of 8 .* holds square_100um",
        ),
        Case(
            "bins and a pitch",
            "visium-hd",
            (say(spot_pitch_um=200.0),),
            "visium-hd does not use spot_pitch_um='200.0': the width of the bins is their pitch",
        ),
        Case(
            "other counts for GEO's files",
            geo,
            (give("counts", f"{prefix}matrix.mtx.gz"),),
            "gse240429 does not use counts=.*choose it with name",
        ),
    ]
