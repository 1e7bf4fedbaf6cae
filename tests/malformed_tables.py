"""Malformed inputs: plain tables, and what people take for tables."""

from __future__ import annotations

import gzip

import pandas as pd
from damage import (
    LOCKED,
    Case,
    cut,
    drop,
    escaping_zip,
    field,
    forbid,
    give,
    grey,
    image,
    put,
    say,
    see_through,
    swap,
    table,
    text,
    trap,
    values,
)
from PIL import Image

COUNTS, PLACES, PNG = "S1/counts.csv", "S1/positions.csv", "S1/image.png"


def tables() -> list[Case]:
    def case(name, says, *damage):
        return Case(name, "tables", damage, says)

    def turned(found: pd.DataFrame) -> pd.DataFrame:
        return found.set_index(found.columns[0]).T.reset_index()

    return [
        case("counts in UTF-16", "UTF-16", text(COUNTS, str, "utf-16")),
        case(
            "counts in Latin-1",
            "not UTF-8",
            text(COUNTS, lambda t: t.replace("GENE3", "GÈNE3"), "latin-1"),
        ),
        case(
            "counts with two delimiters",
            "delimiter",
            text(COUNTS, lambda t: t.replace(",", ";", 40)),
        ),
        case(
            "a delimiter that changes halfway",
            "delimiter",
            text(COUNTS, lambda t: t[: len(t) // 2] + t[len(t) // 2 :].replace(",", "\t")),
        ),
        case("counts on their side", "transposed", table(COUNTS, turned)),
        case("a spot twice", "more than once", table(COUNTS, lambda t: pd.concat([t, t.head(1)]))),
        case(
            "a word among the counts",
            "'many' in row .* is no number",
            field(COUNTS, 4, "GENE9", "many"),
        ),
        case("an empty count", "is no number", field(COUNTS, 4, "GENE9", "")),
        case("a count of NA", "is no number", field(COUNTS, 4, "GENE9", "NA")),
        case("a count of nan", "finite|is no number", field(COUNTS, 4, "GENE9", "nan")),
        case("an endless count", "finite|is no number", field(COUNTS, 4, "GENE9", "inf")),
        case(
            "decimals with a comma",
            "decimals with a point",
            text(COUNTS, lambda t: t.replace(",", ";").replace(";3;", ";3,5;")),
        ),
        case("a negative count", "negative", field(COUNTS, 4, "GENE9", "-2")),
        case("normalised counts", "fractional", field(COUNTS, 4, "GENE9", "0.693")),
        case(
            "halves in two columns of one gene",
            "negative or fractional",
            text(COUNTS, lambda t: t.replace("GENE7,", "GENE8,")),
            values(COUNTS, "GENE8", lambda v: v + 0.5),
            values(COUNTS, "GENE8.1", lambda v: v + 0.5),
            text(COUNTS, lambda t: t.replace("GENE8.1", "GENE8")),
        ),
        case(
            "true and false as counts",
            "is no number|fractional",
            values(COUNTS, "GENE9", lambda v: v > 0),
        ),
        case(
            "no counts but zeros",
            "all counts are zero",
            table(COUNTS, lambda t: t.replace(r"^\d+$", "0", regex=True)),
        ),
        case("counts without rows", "no rows", table(COUNTS, lambda t: t.head(0))),
        case("counts of one column", "one column", table(COUNTS, lambda t: t.iloc[:, :1])),
        case("counts whose last row is cut", "shorter|is no number", cut(COUNTS, 0.97)),
        case(
            "counts without gene names",
            "holds numbers",
            text(COUNTS, lambda t: t.split("\n", 1)[1]),
        ),
        case(
            "a gene name with spaces",
            "hold spaces",
            text(COUNTS, lambda t: t.replace("GENE7,", "GENE 7,")),
        ),
        case(
            "a gene without a name",
            "have no name",
            text(COUNTS, lambda t: t.replace("GENE7,", ",")),
        ),
        case(
            "an Excel workbook named csv",
            "zip archive or an Excel",
            put(COUNTS, b"PK\x03\x04" + b"\0" * 99),
        ),
        case("an image named csv", "PNG", put(COUNTS, b"\x89PNG\r\n\x1a\n")),
        case("null bytes among the counts", "binary", put(COUNTS, b"spot,GENE1\na,\0\n")),
        case("counts of zero bytes", "empty", put(COUNTS, b"")),
        case(
            "packed counts cut short",
            "could not be read",
            lambda f, w: (
                (f / "S1/counts.csv.gz").write_bytes(
                    gzip.compress((f / COUNTS).read_bytes())[:2000]
                )
                and None
            ),
            drop(COUNTS),
        ),
        case(
            "pickled counts", "never loaded", trap("S1/counts.pkl"), give("counts", "S1/counts.pkl")
        ),
        case(
            "a pickle inside npy",
            "never loaded",
            trap("S1/counts.npy"),
            give("counts", "S1/counts.npy"),
        ),
        case("a pickle to read", "never loaded", trap("S1/all.pkl"), give("path", "S1/all.pkl")),
        case("an archive that escapes", "archive", escaping_zip("S1.zip"), give("path", "S1.zip")),
        case(
            "counts in an archive", "archive", escaping_zip("S1/c.zip"), give("counts", "S1/c.zip")
        ),
        case("no scale", "do not say the scale", say(um_per_px=None)),
        case("no size of a spot", "how large a spot", say(spot_diameter_um=None)),
        case("scale and pitch that contradict", "wrong scale", say(spot_pitch_um=200.0)),
        case("bins of a table", "tables does not use bin_um=", say(bin_um=16)),
        case("a scale of metres", "wrong scale", say(um_per_px=4e6)),
        case("no positions", "positions is not clear", drop(PLACES)),
        case(
            "two files of positions", "positions is not clear", put("S1/spots.csv", b"a,b\n1,2\n")
        ),
        case("no image", "image is not clear", drop(PNG)),
        case(
            "positions without names",
            "no column for barcode",
            table(PLACES, lambda t: t[["x", "y"]]),
        ),
        case(
            "positions of another table",
            "same section",
            table(PLACES, lambda t: t.assign(spot="s" + t["spot"])),
        ),
        case(
            "positions in micrometres",
            "outside",
            values(PLACES, "x", lambda v: v * 4),
            values(PLACES, "y", lambda v: v * 4),
        ),
        case("positions with a thousands comma", "no number", field(PLACES, 2, "x", "1,250")),
        case(
            "all spots at one place",
            "wrong scale|same place",
            values(PLACES, "x", lambda v: v * 0 + 60),
            values(PLACES, "y", lambda v: v * 0 + 60),
        ),
        case(
            "x and y swapped in the table",
            "swapped",
            swap(PLACES, "x", "y"),
            say(um_per_px=None, spot_pitch_um=100.0),
        ),
        case("a selection of words", "neither 0 nor 1", field(PLACES, 2, "selected", "maybe")),
        case("a PNG cut short", "cut short", cut(PNG)),
        case("a greyscale PNG", "greyscale", image(PNG, grey)),
        case("counts that may not be read", f"{COUNTS} {LOCKED}", forbid(COUNTS)),
        case("places that may not be read", f"{PLACES} {LOCKED}", forbid(PLACES)),
        case("a PNG that may not be read", f"{PNG} {LOCKED}", forbid(PNG)),
        case("a PNG with transparent pixels", "transparent", image(PNG, see_through)),
        case(
            "a table with Windows line ends", None, text(COUNTS, lambda t: t.replace("\n", "\r\n"))
        ),
        case("a table with a byte-order mark", None, text(COUNTS, str, "utf-8-sig")),
        case(
            "a table with a gene twice", None, text(COUNTS, lambda t: t.replace("GENE7,", "GENE8,"))
        ),
        case("a table with quotes", None, text(COUNTS, lambda t: t.replace("GENE7,", '"GENE7",'))),
        case("a PNG with an opaque alpha channel", None, image(PNG, lambda i: i.convert("RGBA"))),
        case(
            "a PNG with a palette",
            None,
            image(PNG, lambda i: i.convert("P", palette=Image.Palette.ADAPTIVE)),
        ),
    ]
