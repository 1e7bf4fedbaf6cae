"""What commands write: judged before long work starts, complete or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_MARKED = (".h5ad", ".zarr")  # say themselves who wrote them; pictures and tables cannot


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
        Whether an earlier result may be replaced: an ``.h5ad`` or ``.zarr`` that this package has
        written, a folder with `mark`, or any picture or table.
    inputs
        What the command reads: neither that, nor anything in it or around it, is written over.
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
    if path.exists():
        for source in inputs:
            _check_apart(path, Path(source))
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


def _check_apart(path: Path, source: Path) -> None:
    if not source.exists():
        return
    there, read = path.resolve(), source.resolve()
    if there == read or os.path.samefile(there, read):
        raise ValueError(f"{path} is what the command reads; write to another place.")
    if read in there.parents:
        raise ValueError(f"{path} lies in {source}, which the command reads; write elsewhere.")
    if there in read.parents:
        raise ValueError(f"{path} holds {source}, which the command reads; write elsewhere.")


def _check_existing(path: Path, overwrite: bool, mark: str | None) -> None:
    if not overwrite:
        raise FileExistsError(f"{path} is already there. Choose another name, or add --overwrite.")
    if path.is_symlink():
        raise ValueError(f"{path} is a link; it is not replaced. Name the place itself.")
    suffix = path.suffix.lower()
    wanted = "folder" if mark or suffix == ".zarr" else "file"
    found = "folder" if path.is_dir() else "file"
    if found != wanted:
        raise ValueError(
            f"{path} is a {found}, but a {wanted} is to be written; it is not replaced."
        )
    if found == "folder" and not any(path.iterdir()):
        return
    if mark and not (path / mark).exists():
        raise ValueError(f"{path} is a folder with other things in it; it is not replaced.")
    if not mark and suffix in _MARKED and not _is_ours(path):
        raise ValueError(f"{path} was not written by heclip-lite; it is not replaced.")


def _is_ours(path: Path) -> bool:
    from heclip_lite.export import is_ours

    return is_ours(path)


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


@contextmanager
def files_into(path: Path, last: str) -> Iterator[Path]:
    """Yield a folder beside `path`, whose files move there when the block ends well.

    Other things in `path` stay. The file `last`, by which `path` is known as a result, is taken
    away before the others change, and comes back last.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.new")
    temporary.mkdir()
    try:
        yield temporary
        path.mkdir(exist_ok=True)
        (path / last).unlink(missing_ok=True)
        for made in sorted(temporary.iterdir(), key=lambda made: made.name == last):
            os.replace(made, path / made.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
