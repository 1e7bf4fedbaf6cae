"""Dense prediction over whole slides: tile by tile, within bounded memory, on one machine or many.

How it is done, pass by pass, stands in :mod:`heclip_lite.spatial.slide_job`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from heclip_lite import config
from heclip_lite.data.pyramid import Pyramid
from heclip_lite.methods.base import Method, Oracle
from heclip_lite.methods.baselines import Average, Shuffled
from heclip_lite.methods.correction import TrainHarmony
from heclip_lite.methods.histosge import HisToSGE
from heclip_lite.spatial.slide_job import Job, is_frozen
from heclip_lite.spatial.slide_parts import check_out

if TYPE_CHECKING:
    from distributed import Client

LAYOUTS = ("anndata", "spatialdata")


def predict_slide(
    method: Method,
    slide: Pyramid | str | os.PathLike,
    out: str | os.PathLike,
    *,
    pitch_um: float,
    spots: np.ndarray | None = None,
    um_per_px: float | None = None,
    tile_um: float | None = None,
    cluster: str | None = None,
    layout: str = "anndata",
    name: str | None = None,
    donor: str = "unknown",
    device: str = "auto",
    overwrite: bool = False,
    made_by: Mapping[str, Any] | None = None,
) -> Path:
    """Predict expression on a square grid over the tissue of a whole slide.

    Parameters
    ----------
    method
        A fitted method that describes each point by the image around it: patches or feature maps.
    slide
        An open slide, or its path.
    out
        Where the result goes: a zarr store, ending in ``.zarr``, that does not exist yet. While it
        is being made, what is finished lies beside it, in a folder of the same name with
        ``.parts``.
    pitch_um
        Distance of neighbouring points, micrometres.
    spots
        Measured spots of this slide (spots, 2), pixels of its largest level. Features are then
        brought to mean 0 and standard deviation 1 over these, as
        :func:`heclip_lite.spatial.superres.predict` does it; by default over all points of the
        grid.
    um_per_px
        Micrometres per pixel of the slide's largest level, where `slide` is a path and its file
        does not say it.
    tile_um
        Side of a tile; by default so that the features of a tile take at most 64 MiB.
    cluster
        Address of a running Dask scheduler, such as ``"tcp://host:8786"``; its workers must reach
        the slide and `out` under the same paths. By default this process does the work.
    layout
        ``"anndata"`` or ``"spatialdata"``: what the zarr store holds.
    name, donor
        Of the resulting section; by default the name of the file.
    device
        Where encoders run.
    overwrite
        Replace an existing zarr store, and drop parts that other settings have left.
    made_by
        How it was made, kept as JSON text in ``uns["heclip_lite_run"]``.

    Returns
    -------
    Path
        `out`: points by genes, log1p, in the order of tiles; ``obs["array_row"]`` and
        ``obs["array_col"]`` are the places on the grid, and names count as those of
        :func:`heclip_lite.spatial.superres.grid`.

    Raises
    ------
    RuntimeError
        If the method was not fitted.
    TypeError
        If the method needs more than a description of each point.
    ValueError
        If a setting is out of range, no point lies on tissue, `out` does not end in ``.zarr``, or
        the slide cannot be read or gives no scale.
    FileNotFoundError
        If there is no such slide.
    ImportError
        If what reads the slide, or reaches the cluster, is not installed.
    FileExistsError
        If `out` exists, or is not a zarr store that could be replaced; or if the folder for parts
        holds those of a run with other settings, or other things.
    ConnectionError
        If the cluster cannot be reached, or its workers do not see the files.
    OSError
        If the disk has no room; finished tiles stay.
    """
    out = Path(out).resolve()
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; use {' or '.join(map(repr, LAYOUTS))}.")
    if name is not None and (not name or "/" in name):
        raise ValueError(f"name is {name!r}; give one of one character or more, without a slash.")
    if isinstance(method, Oracle):
        raise TypeError(
            f"{type(method).__name__} is told a part of what it should predict, which a slide "
            "without measurements cannot tell. Use a method that reads only the image."
        )
    method._check_fitted()
    image = image_of(method)
    check_out(out, overwrite)
    opened = slide if isinstance(slide, Pyramid) else Pyramid(slide, um_per_px=um_per_px)
    try:
        job = Job.plan(method, image, opened, out, pitch_um, spots, tile_um, device)
        out.parent.mkdir(parents=True, exist_ok=True)
        with _client(cluster, opened.path, out) as client, _room_is_kept(job.folder):
            job.start(overwrite)
            job.run(client)
            job.finish(out, layout, name, donor, made_by, overwrite)
    finally:
        if opened is not slide:
            opened.close()
    return out


def image_of(method: Method) -> config.MapInput | config.PatchInput:
    """What a fitted method sees of a slide, if that can be had tile by tile.

    Raises
    ------
    TypeError
        If it cannot, with the reason.
    """
    inner = method
    while isinstance(inner, Shuffled | TrainHarmony):
        inner = inner.fitted
    if isinstance(inner, Average):
        found = [image_of(part) for part in inner.fitted]
        if any(one != found[0] for one in found) or not is_frozen(found[0]):
            raise TypeError("The parts of this Average see the slide in different ways.")
        return found[0]
    name, image = type(inner).__name__, getattr(inner, "image", None)
    if isinstance(image, config.AppearanceInput):
        raise TypeError(
            f"{name} looks for nuclei by a threshold over the whole slide, which must be in memory "
            "for that. Train it on config.MapInput or config.PatchInput."
        )
    if isinstance(inner, HisToSGE):
        raise TypeError(
            "HisToSGE lets the spots of a slide look at one another, and a whole slide has none. "
            "Use superres.predict on a section with spots, or a method that reads only the image."
        )
    described = type(inner)._predict_described is not Method._predict_described
    if image is None or not described:
        raise TypeError(
            f"{name} needs more than a description of each point, so it cannot predict a whole "
            "slide. HECLIP, BLEEP, CLIP, Regression, Ridge and KernelRidge can."
        )
    return image


@contextmanager
def _client(address: str | None, slide: Path, out: Path) -> Iterator[Client | None]:
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("A cluster needs distributed: pip install distributed.") from error
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"No Dask scheduler answers at {address} ({type(error).__name__}). Start one with "
            "`dask scheduler`, and workers with `dask worker ADDRESS --nthreads 1`."
        ) from error
    with client:
        seen = _seen_by(client, slide, out.parent)
        if not seen:
            raise ConnectionError(
                f"The scheduler at {address} has no workers. Start some: "
                f"`dask worker {address} --nthreads 1`."
            )
        blind = [(worker, path) for worker, path in seen.items() if path]
        if blind:
            raise ConnectionError(
                f"Worker {blind[0][0]} does not see {blind[0][1]}; {len(blind)} of {len(seen)} "
                "workers do not. Put the slide and `out` on a disk that all machines share."
            )
        yield client


def _seen_by(client: Client, slide: Path, folder: Path) -> dict[str, str]:
    """By worker, what it does not see: the slide, the folder of the result, or nothing.

    Other machines may have a folder of that name too, so a file of this run is looked for in it.
    """
    token = folder / f".{uuid4().hex}"
    token.touch()
    try:
        seen = client.run(_missing, str(slide), str(token))
    finally:
        token.unlink()
    return {worker: str(folder) if path == str(token) else path for worker, path in seen.items()}


def _missing(*paths: str) -> str:
    """The first path that is not there; runs on the workers."""
    return next((path for path in paths if not os.path.exists(path)), "")


@contextmanager
def _room_is_kept(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or "pitch_um" in str(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"The disk is full. What is finished stays in {folder}: make room and run the same "
            "again",
        ) from error
