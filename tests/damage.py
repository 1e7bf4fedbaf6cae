"""Ways to damage a section that was written in one of the layouts.

`Templates` writes each layout once, copies it for each case, and damages the copy.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import multiprocessing
import os
import pickle
import shutil
import traceback
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
LOCKED = r"\([^)]*\) may not be read: permission denied"  # after the name of a file


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


# --- Permissions ----------------------------------------------------------------------------


def where_permissions_hold(folder: Path, work: Callable[[], None]) -> None:
    """Call a function; give back afterwards what `forbid` has taken away below a folder.

    No permission stops root: it calls the function in a process that has given up its privileges.
    """
    locked = [path for path in folder.rglob("*") if not path.lstat().st_mode & 0o777]
    try:
        work() if not locked or os.geteuid() else _without_privileges(work)
    finally:
        for path in locked:
            path.chmod(0o700)


def _without_privileges(work: Callable[[], None]) -> None:
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)

    def child() -> None:
        try:
            head = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of Linux's capabilities
            assert ctypes.CDLL(None).capset(head, (ctypes.c_uint32 * 6)()) == 0  # none of them
            work()
            there.send("")
        except BaseException:
            there.send(traceback.format_exc())

    process = fork.Process(target=child)
    process.start()
    there.close()
    problem = here.recv()
    process.join()
    assert not problem, problem


# --- Ways to damage -------------------------------------------------------------------------


def forbid(name: str) -> Damage:
    """Take all permissions of a file or folder away."""

    def step(folder: Path, written: Written) -> None:
        (folder / name).chmod(0)

    return step


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


def old_store(name: str) -> Damage:
    """A SpatialData store written anew in zarr's format 2, as older tools write it."""

    def step(folder: Path, written: Written) -> None:
        import spatialdata
        from spatialdata._io.format import SpatialDataContainerFormatV01

        found = spatialdata.read_zarr(folder / name)
        found.write(folder / "old.zarr", sdata_formats=[SpatialDataContainerFormatV01()])
        shutil.rmtree(folder / name)
        (folder / "old.zarr").rename(folder / name)

    return step


def pickled(name: str, array: str) -> Damage:
    """Text of a zarr store of format 2 as a pickle that shows when it was loaded."""

    def step(folder: Path, written: Written) -> None:
        about = folder / name / array / ".zarray"
        filters = [{"id": "vlen-utf8"}, {"id": "pickle"}]
        changed = json.loads(about.read_text()) | {"filters": filters, "compressor": None}
        about.write_text(json.dumps(changed))
        (folder / name / ".zmetadata").unlink()  # a copy of what the arrays say
        trap(f"{name}/{array}/0")(folder, written)

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


def grey(opened: Image.Image) -> Image.Image:
    """Without colour."""
    return opened.convert("L")


def see_through(opened: Image.Image) -> Image.Image:
    """With a corner that is transparent."""
    made = opened.convert("RGBA")
    made.paste((0, 0, 0, 0), (0, 0, 10, 10))
    return made
