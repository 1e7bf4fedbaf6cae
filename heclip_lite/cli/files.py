"""What commands write: judged before long work starts, complete or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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

    What a killed run was about to write there is brought to an end first.

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
    recover(path, mark)
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
    from heclip_lite.data.export import is_ours

    return is_ours(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield the name of a folder to be made, which takes its place when the block ends well."""
    path = Path(path)
    with _aside(path) as aside:
        temporary = aside / f"new{path.suffix}"
        yield temporary
        if path.exists():
            os.replace(path, aside / _OLD)
        os.replace(temporary, path)


@contextmanager
def files_into(path: Path, last: str) -> Iterator[Path]:
    """Yield a folder whose files move to `path` when the block ends well.

    Other things in `path` stay. The file `last`, by which `path` is known as a result, is taken
    away before the others change, and comes back last.
    """
    path = Path(path)
    with _aside(path, last) as aside:
        temporary = aside / "new"
        temporary.mkdir()
        yield temporary
        os.replace(temporary, aside / _READY)
        (path / last).unlink(missing_ok=True)


_OLD = "old"  # the earlier result, from when it was moved until the new one has its name
_READY = "ready"  # files that are complete and on their way


def recover(path: Path, last: str | None = None) -> None:
    """Bring to an end what a killed run left beside `path` when it was about to write there."""
    if _beside(path).is_dir():
        with _aside(path, last):
            pass


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def _aside(path: Path, last: str | None = None) -> Iterator[Path]:
    """A hidden folder beside `path`, of this process alone, that is gone at the end."""
    from heclip_lite import store

    aside = _beside(path)
    with store.alone_in(aside):
        _settle(aside, path, last)  # what a killed run left
        try:
            with store.told_of(path, aside):
                yield aside
        finally:
            _settle(aside, path, last)
            shutil.rmtree(aside, ignore_errors=True)


def _settle(aside: Path, path: Path, last: str | None) -> None:
    """Give `path` back what is missing there, and leave nothing aside."""
    if (aside / _OLD).exists() and not path.exists():
        os.replace(aside / _OLD, path)
    if last is not None and (aside / _READY).exists() and not (path / last).exists():
        path.mkdir(exist_ok=True)
        for made in sorted((aside / _READY).iterdir(), key=lambda made: made.name == last):
            os.replace(made, path / made.name)
    for left in aside.iterdir():
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
