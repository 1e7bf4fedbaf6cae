"""Sections in SpatialData stores: a table, the shapes it describes, and an image, in zarr."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from heclip_lite.data import contract
from heclip_lite.data.export import OURS, fingerprint
from heclip_lite.data.readers.assemble import (
    VISIUM_SPOT_UM,
    Options,
    assemble,
    check_places,
    chosen,
    is_visium,
    lattice_px,
)
from heclip_lite.data.readers.files import InputError, existing, explained, no_pickles
from heclip_lite.data.readers.h5ad import counts_of, positions_of, um_from_lattice
from heclip_lite.data.readers.images import as_rgb, check_image_file
from heclip_lite.data.readers.orientation import check_pitch
from heclip_lite.data.readers.visium import pick

LARGEST_PIXELS = 4e8  # in memory, 1.2 GB
_NAMED = ("obs", "var", "obsm", "layers")  # where names may differ from the section's


def is_store(path: Path) -> bool:
    """Whether a folder is a zarr store, of version 2 or 3."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


@no_pickles()
def read_spatialdata(path: Path, options: Options) -> AnnData:
    """One section of a SpatialData store; see `readers.read_section`."""
    path = existing(path, "SpatialData store", folder=True)
    with explained(path, "SpatialData store"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spatialdata

        store = spatialdata.read_zarr(path)
        tables = {name: store.tables[name] for name in store.tables}
    if not tables:
        raise InputError(
            f"{path} (SpatialData store) holds no readable table of counts. Copy it again."
        )
    tables = {_section_of(name, table): table for name, table in tables.items()}
    name = pick(tables, options.name, path)
    with explained(path, "SpatialData store"):
        table = tables[name]
        if sparse.issparse(table.X):
            table.X.check_format(full_check=True)
    if OURS in table.uns and not (options.um_per_px or options.counts or options.image):
        return _own(table, path, store, options)
    place = f"{path} (table {name!r})"
    with explained(path, "SpatialData store"):
        image_name, pixels, to_system, system = _picture(store, options, path)
        points, radius = _points(store, table, system, place)
    back = np.linalg.inv(to_system)
    points = points @ back[:2, :2].T + back[:2, 2]
    um_scale = float(np.sqrt(abs(np.linalg.det(back[:2, :2]))))
    shell = AnnData(obs=table.obs.drop(columns=[c for c in ("region",) if c in table.obs]))
    shell.obsm["spatial"] = points
    counts, positions = chosen(counts_of(table, options, place), positions_of(shell, place))
    points = positions[["x", "y"]].to_numpy()
    um = options.um_per_px or um_from_lattice(points, positions, options, place)
    diameter = options.spot_diameter_um
    if diameter is None and is_visium(lattice_px(points, positions, place)):
        diameter = VISIUM_SPOT_UM
    if diameter is None and radius is not None:
        diameter = 2 * radius * um_scale * um
    if diameter is None:
        raise InputError(f"{place}: the size of a spot is unknown. Give spot_diameter_um.")
    file = image_name is None
    return assemble(
        counts,
        positions,
        options.but(image=check_image_file(options.image) if file else None),
        name=name if name != "table" else path.stem,
        um_per_px=um,
        spot_diameter_um=diameter,
        pixels=None if file else pixels,
        expected_pitch_um=options.spot_pitch_um,
    )


def _section_of(name: str, table: AnnData) -> str:
    """Name of the section: a table that this package wrote says it, for its own is simpler."""
    kept = table.uns.get(OURS)
    return str(kept["section"]) if isinstance(kept, dict) and "section" in kept else name


@no_pickles()
def read_points(path: Path) -> AnnData:
    """Predicted points that `export.to_spatialdata` has written: their values are no counts.

    The slide's own file is not looked for.

    Raises
    ------
    ValueError
        If the store is damaged.
    """
    with explained(path, "SpatialData store"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spatialdata

        store = spatialdata.read_zarr(path)
        (table,) = store.tables.values()
    return _written(table, path, store, Options(), look=False)


def _picture(store, options: Options, path: Path):
    """Name, pixels, way to the coordinate system (3, 3), and that system; name None for a file."""
    wanted = None if options.image is None else str(options.image)
    names = list(store.images)
    if wanted is not None and wanted not in names and Path(wanted).suffix:
        systems = store.coordinate_systems
        return None, None, np.eye(3), "global" if "global" in systems else systems[0]
    if not names:
        raise InputError(f"{path} (SpatialData store) holds no image. Give image=..., a file.")
    if wanted is None and len(names) > 1:
        sizes = {name: max(_scales(store.images[name])[0].shape) for name in names}
        wanted = max(sizes, key=sizes.get)
    wanted = wanted or names[0]
    if wanted not in names:
        raise InputError(
            f"{path} (SpatialData store) has no image {wanted!r}; choose among {', '.join(names)}."
        )
    from spatialdata.transformations import get_transformation

    full = _scales(store.images[wanted])[0]
    ways = get_transformation(store.images[wanted], get_all=True)
    system = "global" if "global" in ways else next(iter(ways))
    if full.sizes["y"] * full.sizes["x"] > LARGEST_PIXELS:
        raise InputError(
            f"{path} (SpatialData store): image {wanted!r} is {full.sizes['x']} x "
            f"{full.sizes['y']} px, too large to be held in memory. Give image=..., its TIFF file."
        )
    pixels = full.transpose("y", "x", "c").to_numpy()
    if pixels.shape[2] > 4:
        raise InputError(
            f"{path} (SpatialData store): image {wanted!r} has {pixels.shape[2]} channels and is "
            "no H&E image. Choose image= among " + ", ".join(names) + "."
        )
    way = ways[system].to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
    return wanted, as_rgb(pixels, f"{path}: image {wanted!r}"), way, system


def _scales(element) -> list:
    """Images of all resolutions, the finest first."""
    if hasattr(element, "sizes") and "y" in getattr(element, "dims", ()):
        return [element]
    return [next(iter(element[key].values())) for key in element]


def _points(store, table: AnnData, system: str, place: str) -> tuple[np.ndarray, float | None]:
    """Centres (spots, 2) in the coordinate system, and the radius of circles there."""
    from spatialdata.transformations import get_transformation

    keys = table.uns.get("spatialdata_attrs", {})
    region = keys.get("region")
    region = region[0] if isinstance(region, list | np.ndarray) and len(region) == 1 else region
    if not isinstance(region, str) or region not in store.shapes:
        raise InputError(
            f"{place}: the table describes {region!r}, but shapes are "
            f"{', '.join(store.shapes) or 'missing'}. Keep one region of spots per table."
        )
    shapes = store.shapes[region]
    instances = table.obs[keys["instance_key"]]
    at = pd.Index(shapes.index).get_indexer(instances)
    if (at < 0).any():
        raise InputError(
            f"{place}: {(at < 0).sum()} rows have no shape in {region!r}, first "
            f"{instances.iloc[int((at < 0).argmax())]!r}."
        )
    centres = shapes.geometry.centroid.iloc[at]
    ways = get_transformation(shapes, get_all=True)
    if system not in ways:
        raise InputError(
            f"{place}: image and spots share no coordinate system ({system!r} against "
            f"{', '.join(ways)}). Align them first."
        )
    way = ways[system].to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
    points = np.stack([centres.x, centres.y], axis=1) @ way[:2, :2].T + way[:2, 2]
    radius = None
    if "radius" in shapes:
        radius = float(np.median(shapes["radius"])) * np.sqrt(abs(np.linalg.det(way[:2, :2])))
    return points, radius


def _written(table: AnnData, path: Path, store, options: Options, *, look: bool = True) -> AnnData:
    """What `export.to_spatialdata` has written, as it was; values keep their type.

    With `look`, the image must be there as a file, if it is not in the store.
    """
    with explained(path, "SpatialData store", "Export the section again."):
        kept = dict(table.uns[OURS])
        keys = table.uns["spatialdata_attrs"]
        obs = table.obs.drop(columns=[keys["region_key"], keys["instance_key"]])
        (region,) = np.atleast_1d(keys["region"])
        picture = store.images[f"{str(region).removesuffix('_points')}_image"]
        pixels = _scales(picture)[0].transpose("y", "x", "c").to_numpy()
        true = {part: kept.get("names", {}).get(part, {}) for part in _NAMED}
        factors = {key: float(value) for key, value in kept["scalefactors"].items()}
        metadata = dict(kept.get("metadata", {}))
        if fingerprint(pixels, table) != str(kept["fingerprint"]):
            raise InputError(
                f"{path} (SpatialData store): image, places or counts are not those that were "
                "written: it was changed, or parts of it are lost. Export the section again."
            )
        pictures = {"fullres": pixels} if kept["image"] == "full" else {"hires": pixels}
    if kept["image"] == "full":
        from heclip_lite.data import images

        small = images.preview_of(pixels).copy()
        masks = np.asarray(metadata.get("masked_regions", ()), dtype=int).reshape(-1, 4).tolist()
        images.paint(small, masks, tuple(metadata["background"]), factors["tissue_hires_scalef"])
        pictures["hires"] = small
        metadata.pop("source_image_path", None)
        factors["tissue_fullres_scalef"] = 1.0
    elif not look:
        pass
    elif "source_image_path" in metadata:
        metadata["source_image_path"] = str(check_image_file(metadata["source_image_path"]))
    else:
        raise InputError(
            f"{path} (SpatialData store) holds the small image only. Export it with image='full'."
        )
    entry = {"images": pictures, "scalefactors": factors, "metadata": metadata}
    for column, wanted in (("section", options.name), ("donor", options.donor)):
        obs[column] = wanted or obs[column].astype(str)
    return AnnData(
        X=table.X,
        obs=obs.rename(columns=true["obs"]),
        var=table.var.rename(columns=true["var"]),
        obsm={true["obsm"].get(key, key): value for key, value in table.obsm.items()},
        layers={true["layers"].get(key, key): value for key, value in table.layers.items()},
        uns={"spatial": {str(obs["section"].iloc[0]): entry}},
    )


def _own(table: AnnData, path: Path, store, options: Options) -> AnnData:
    """A section that `export.to_spatialdata` has written, as it was."""
    section = _written(table, path, store, options)
    if section.X is not None:
        section.X = sparse.csr_matrix(section.X, dtype=np.float32)
    if options.spot_diameter_um:
        factors = section.uns["spatial"][contract.name_of(section)]["scalefactors"]
        factors["spot_diameter_fullres"] = options.spot_diameter_um / factors["microns_per_pixel"]
    contract.check_section(section)
    if options.spot_pitch_um:
        check_pitch(section, options.spot_pitch_um)
    check_places(section, options)
    return section
