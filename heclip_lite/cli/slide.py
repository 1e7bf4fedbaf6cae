"""The command `slide`: a model and a whole slide in, expression all over its tissue out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heclip_lite.cli.command import Device, Overwrite, Report, aligned, usage
from heclip_lite.cli.files import check_output
from heclip_lite.cli.options import read_places
from heclip_lite.cli.predict import made_by
from heclip_lite.cli.train import Model, read_about

STORES = (".zarr",)


def slide(
    model: Model,
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="Pyramidal TIFF, OME-TIFF, SVS and so on.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: a .zarr store.")],
    pitch_um: Annotated[
        float | None,
        typer.Option(
            help="Distance of points; by default that of the training spots.", show_default=False
        ),
    ] = None,
    um_per_px: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel, where the file does not say it.", show_default=False
        ),
    ] = None,
    positions: Annotated[
        Path | None,
        typer.Option(
            help="Table of measured spots, whose features set the scale.", show_default=False
        ),
    ] = None,
    layout: Annotated[str, typer.Option(help="anndata or spatialdata.")] = "anndata",
    cluster: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler: tcp://host:8786.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the slide; its file's by default.", show_default=False)
    ] = None,
    donor: Annotated[str, typer.Option(help="Name of the donor.")] = "unknown",
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Report:
    """Predict expression on a grid over a slide too large for memory, tile by tile.

    Finished tiles are kept beside the result: an interrupted run goes on where it stopped.
    """
    from heclip_lite import runtime
    from heclip_lite.data.pyramid import Pyramid
    from heclip_lite.methods import saved
    from heclip_lite.spatial import wholeslide

    if layout not in wholeslide.LAYOUTS:
        raise usage(f"{layout!r} is unknown; use {' or '.join(wholeslide.LAYOUTS)}.", "--layout")
    inputs = [image, model, *([] if positions is None else [positions])]
    check_output(out, suffixes=STORES, overwrite=overwrite, inputs=inputs)
    about = read_about(model)
    device = runtime.pick_device(device)
    spots = None if positions is None else read_places(positions)
    pitch_um = about.get("spot_pitch_um", 100.0) if pitch_um is None else pitch_um
    with Pyramid(image, um_per_px=um_per_px) as opened:
        loaded = saved.load(model, device=device)
        try:
            wholeslide.image_of(loaded.method)
        except TypeError as error:
            raise ValueError(f"The model in {model} predicts no whole slide. {error}") from error
        wholeslide.predict_slide(
            loaded.method,
            opened,
            out,
            pitch_um=pitch_um,
            spots=spots,
            cluster=cluster,
            layout=layout,
            name=name,
            donor=donor,
            device=device,
            overwrite=overwrite,
            made_by=made_by(loaded),
        )
        values = {
            "out": str(out),
            "width_px": opened.size[0],
            "height_px": opened.size[1],
            "um_per_px": opened.um_per_px,
            "pitch_um": pitch_um,
            "genes": len(loaded.method.genes),
            "layout": layout,
        }
    return Report(values, aligned([(key, str(value)) for key, value in values.items()]))
