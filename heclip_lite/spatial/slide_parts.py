"""Where the prediction of a whole slide and its parts lie: what may be replaced or deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

from heclip_lite.data.readers.spatialdata import is_store

PLAN, PROBE = "plan.json", "probe.npy"  # in a folder of parts: what for, and by which method


def parts_of(out: Path) -> Path:
    """The folder of what is finished while `out` is being made."""
    return out.with_name(out.name + ".parts")


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse to write where something else than a result, or than parts of one, would be lost.

    Raises
    ------
    ValueError
        If `out` does not end in ``.zarr``.
    FileExistsError
        If `out` exists and may not be replaced, or the folder for its parts holds other things.
    """
    if out.suffix != ".zarr":
        raise ValueError(f"{out} must end in .zarr, for this is how others recognise the store.")
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"{out} exists already. Give another name, or overwrite=True to replace it."
        )
    if out.exists() and not (out.is_dir() and is_store(out)):
        raise FileExistsError(
            f"{out} is no zarr store, so it is not replaced. Give `out` another name."
        )
    parts = parts_of(out)
    if parts.is_symlink() or (parts.exists() and not _is_ours(parts)):
        raise FileExistsError(
            f"{parts} holds other things than parts of a slide, and parts of this one would lie "
            "there. Move it, or give `out` another name."
        )


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or was begun by a run, or dropped half by one."""
    if not folder.is_dir():
        return False
    marks = (PLAN, PROBE, f".{Path(PROBE).stem}.*")  # the last while it is being written
    empty = not any(folder.iterdir())
    return empty or any(any(folder.glob(mark)) for mark in marks)


def drop(folder: Path) -> None:
    """Delete a folder of parts; what says that it can be gone on with first, its mark last."""
    if not folder.exists():
        return
    (folder / PLAN).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != PROBE:
            path.unlink()
    shutil.rmtree(folder)
