"""What commands write: judged before long work starts, complete or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", "zmetadata")


def check_output(
    path: Path,
    *,
    suffixes: Sequence[str] = (),
    overwrite: bool = False,
    inputs: Sequence[str | Path] = (),
    mark: str | None = None,
) -> Path:
    """Make sure that a result can be written, before anything is computed.

    Parameters
    ----------
    path
        Where the result shall go.
    suffixes
        Endings that the command can write; none for a folder.
    overwrite
        Whether something that is there may be replaced.
    inputs
        What the command reads, which must not be written over.
    mark
        A file by which a folder is known as an earlier result; others are never replaced.

    Raises
    ------
    ValueError
        If the ending is wrong, or the path is an input or something that is not an earlier result.
    FileExistsError
        If something is there already.
    PermissionError
        If nothing can be written there.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'}; this command writes {', '.join(suffixes)}."
        )
    for source in inputs:
        if os.path.exists(source) and os.path.exists(path) and os.path.samefile(source, path):
            raise ValueError(f"{path} is what the command reads; write to another place.")
    if path.is_symlink() or path.exists():
        _check_existing(path, overwrite, mark)
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, so {path} cannot be written.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"The folder {folder} cannot be written to. Choose another place.")
    return path


def _check_existing(path: Path, overwrite: bool, mark: str | None) -> None:
    if not overwrite:
        raise FileExistsError(f"{path} is already there. Choose another name, or add --overwrite.")
    if path.is_symlink():
        raise ValueError(f"{path} is a link; it is not replaced. Name the place itself.")
    if path.is_dir():
        known = [mark] if mark else (_ZARR_MARKS if path.suffix.lower() == ".zarr" else [])
        if any(path.iterdir()) and not any((path / name).exists() for name in known):
            raise ValueError(f"{path} is a folder with other things in it; it is not replaced.")
    elif mark or path.suffix.lower() == ".zarr":
        raise ValueError(f"{path} is a file, but a folder is to be written; it is not replaced.")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` that takes its place when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}{path.suffix}")
    old = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.old")
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)  # the new one did not come: the earlier result stays
        shutil.rmtree(old, ignore_errors=True)
