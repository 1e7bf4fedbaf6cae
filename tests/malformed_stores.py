"""Malformed inputs: h5ad files, HEST-1k and SpatialData stores."""

from __future__ import annotations

import shutil

import numpy as np
from damage import (
    LOCKED,
    Case,
    adata,
    cut,
    dataset,
    drop,
    forbid,
    give,
    hdf5,
    old_store,
    parts,
    pickled,
    put,
    say,
    uns,
)


def stores() -> list[Case]:
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
        old(
            "h5ad without uns",
            "uns\\['spatial'\\] is missing",
            adata(file, lambda a: a.uns.clear()),
        ),
        old(
            "h5ad without places",
            "obsm\\['spatial'\\] is missing",
            adata(file, lambda a: a.obsm.clear()),
        ),
        old(
            "h5ad with places in three dimensions",
            "must be numbers",
            adata(file, lambda a: a.obsm.update(spatial=np.zeros((a.n_obs, 3)))),
        ),
        old(
            "h5ad with a place that is not finite",
            "not finite",
            adata(file, lambda a: a.obsm.update(spatial=a.obsm["spatial"] * np.nan)),
        ),
        old("h5ad without spots", "no spots", adata(file, lambda a: a[:0].copy())),
        old("h5ad without genes", "normalised|no counts", adata(file, lambda a: a[:, :0].copy())),
        old(
            "h5ad with normalised values",
            "raw counts",
            adata(file, lambda a: setattr(a, "X", a.X.log1p())),
        ),
        old("h5ad without the layer that is asked for", "has no counts 'umi'", say(counts="umi")),
        old(
            "h5ad whose indices point outside",
            "could not be read",
            hdf5(file, dataset("X/indices", lambda v: v + 1000)),
        ),
        old(
            "h5ad with a spot twice",
            "more than once",
            adata(
                file,
                lambda a: setattr(a, "obs_names", [a.obs_names[0]] * 2 + list(a.obs_names[2:])),
            ),
        ),
        old(
            "h5ad without the scale factor of its image",
            "tissue_hires_scalef",
            adata(file, lambda a: uns(a)["scalefactors"].pop("tissue_hires_scalef") and None),
            inside,
        ),
        old(
            "h5ad with a negative scale factor",
            "must be a number above 0",
            adata(file, lambda a: uns(a)["scalefactors"].update(tissue_hires_scalef=-1.0)),
        ),
        old(
            "h5ad without an image",
            "no image is there",
            adata(file, lambda a: uns(a)["images"].clear()),
            inside,
        ),
        old(
            "h5ad with a greyscale image",
            "RGB",
            with_hires(lambda p: p[..., 0].astype(np.uint8)),
            inside,
        ),
        old(
            "h5ad with a 16-bit image",
            "8 bits",
            with_hires(lambda p: p.astype(np.uint16) * 257),
            inside,
        ),
        old(
            "h5ad with a transparent image",
            "transparent",
            with_hires(lambda p: np.dstack([p, p[..., 0] * 0]).astype(np.uint8)),
            inside,
        ),
        old("h5ad of several sections, none named", "choose name", adata(file, two)),
        old(
            "h5ad of several sections without a column",
            "which spots belong",
            adata(file, two),
            say(name="S2"),
        ),
        old(
            "h5ad without array coordinates and scale",
            "scale is unknown",
            adata(file, lambda a: setattr(a, "obs", a.obs[["in_tissue"]])),
        ),
        old(
            "h5ad with words for array rows",
            "no numbers",
            adata(file, lambda a: a.obs.__setitem__("array_row", "first")),
        ),
        old("h5ad in place of a folder", "is a file", say(layout="visium")),
        own(
            "own h5ad with a fraction",
            "fractional",
            hdf5(file, dataset("X/data", lambda v: v + 0.5)),
        ),
        own(
            "own h5ad without its scale",
            "scale|unknown|missing",
            hdf5(file, lambda f: f.pop("uns/spatial/S1/scalefactors")),
        ),
        own(
            "own h5ad with a changed preview",
            "preview",
            hdf5(file, dataset("uns/spatial/S1/images/hires", lambda v: v[::2])),
        ),
        hest("HEST without the slide", "does not exist", drop("hest/wsis/S1.tif")),
        hest("HEST with damaged metadata", "not valid JSON", cut("hest/metadata/S1.json")),
        hest(
            "HEST with a negative pixel size",
            "above 0",
            parts("hest/metadata/S1.json", pixel_size_um_estimated=-0.5),
        ),
        hest(
            "HEST with a pixel size in words",
            "above 0",
            parts("hest/metadata/S1.json", pixel_size_um_estimated="half"),
        ),
        hest("HEST without sections", "no .h5ad", drop("hest/st/S1.h5ad")),
        hest(
            "HEST of two sections, none named",
            "choose name",
            put("hest/st/S2.h5ad", b""),
            say(name=None),
        ),
        hest("HEST with a slide of zero bytes", "empty", put("hest/wsis/S1.tif", b"")),
        hest(
            "HEST with the pixel size of another slide",
            "wrong scale",
            parts("hest/metadata/S1.json", pixel_size_um_estimated=0.1),
        ),
        zarr(
            "store with damaged metadata",
            "could not be read|no readable",
            cut("S1.zarr/zarr.json", 0.3),
        ),
        zarr("store of zarr's format 2", None, old_store("S1.zarr")),
        zarr(
            "store whose names are a pickle",
            "holds pickles, .* never loaded",
            old_store("S1.zarr"),
            pickled("S1.zarr", "tables/S1/obs/_index"),
        ),
        zarr("store without a table", "no readable|could not be read", drop("S1.zarr/tables/S1")),
        zarr(
            "store with a damaged table",
            "could not be read|no readable",
            put("S1.zarr/tables/S1/X/zarr.json", b"{"),
        ),
        zarr("store without its spots", "shapes are|could not be read", no_region),
        zarr(
            "store without an image", "no image|could not be read", drop("S1.zarr/images/S1_image")
        ),
        zarr("store without that image", "has no image", say(image="other")),
        zarr(
            "store without the rows of its table",
            "could not be read",
            drop("S1.zarr/tables/S1/obs"),
        ),
        zarr(
            "own store that has lost counts",
            "not those that were written|could not be read",
            clear,
            layout="own-spatialdata",
        ),
        zarr(
            "own store that has lost its image",
            "could not be read|not those",
            drop("S1.zarr/images/S1_image/s0"),
            layout="own-spatialdata",
        ),
        old(
            "other positions for an h5ad",
            "h5ad does not use positions=.*correct them there",
            give("positions", "places.csv"),
        ),
        old("unusual columns of an h5ad", "h5ad does not use columns=", say(columns={"x": "px"})),
        own(
            "other positions for an own h5ad",
            "h5ad does not use positions=",
            give("positions", "places.csv"),
        ),
        own("own h5ad with another pitch", "wrong scale", say(spot_pitch_um=200.0)),
        hest("unusual columns in HEST", "hest does not use columns=", say(columns={"x": "px"})),
        hest(
            "other positions for HEST",
            "hest does not use positions=",
            give("positions", "places.csv"),
        ),
        hest("HEST with another pitch", "wrong scale", say(spot_pitch_um=200.0)),
        zarr(
            "other positions for a store",
            "spatialdata does not use positions=",
            give("positions", "places.csv"),
        ),
        zarr(
            "unusual columns of a store",
            "spatialdata does not use columns=",
            say(columns={"x": "px"}),
        ),
        zarr(
            "own store with another pitch",
            "wrong scale",
            say(spot_pitch_um=200.0),
            layout="own-spatialdata",
        ),
        zarr(
            "own store with spots wider than their pitch",
            "wrong scale",
            say(spot_diameter_um=150.0),
            layout="own-spatialdata",
        ),
        old("h5ad that may not be read", f"{file} {LOCKED}", forbid(file)),
        hest("HEST that may not be read", f"S1.h5ad {LOCKED}", forbid("hest/st/S1.h5ad")),
        hest("HEST's slide that may not be read", f"S1.tif {LOCKED}", forbid("hest/wsis/S1.tif")),
        zarr("store that may not be read", f"S1.zarr {LOCKED}", forbid("S1.zarr")),
        zarr(
            "store whose counts may not be read",
            f"S1.zarr.* {LOCKED}",
            forbid("S1.zarr/tables/S1/X/data/zarr.json"),
        ),
        zarr(
            "store whose image may not be read",
            f"S1.zarr.* {LOCKED}",
            forbid("S1.zarr/images/S1_image/s0"),
            layout="own-spatialdata",
        ),
        zarr(
            "store that is a file",
            "layout|could not be read",
            drop("S1.zarr"),
            put("S1.zarr", b"x"),
        ),
    ]
