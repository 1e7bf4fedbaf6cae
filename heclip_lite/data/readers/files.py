"""Files that other people made: opened with care, and explained where they cannot be read.

A reader's error names the file, says what is wrong with it and what to do about it.
Libraries raise what suits them; `explained` turns that into one such sentence.
Nothing here unpacks an archive or loads a pickle.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from heclip_lite.data.download import MissingFile

PICKLES = {".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth", ".joblib", ".rds", ".rda"}
ARCHIVES = {".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz"}
_DELIMITERS = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma", r"\s+": "spaces"}
_SNIFFED = 50  # lines
_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a parquet file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
}
csv.field_size_limit(1 << 24)
_ONE_AT_A_TIME = threading.RLock()


class InputError(ValueError):
    """A file or an option that a reader cannot use; the message says what, where and what to do."""


def existing(path: str | os.PathLike, what: str, *, folder: bool = False) -> Path:
    """A path that is there and is a file (or a folder).

    Raises
    ------
    MissingFile
        If it is not there.
    InputError
        If it is a broken link, a loop of links, or of the other kind.
    PermissionError
        If it may not be reached, or a folder may not be listed.
    """
    path = Path(path).expanduser()
    wanted = "folder" if folder else "file"
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise MissingFile(
                f"{path} ({what}) is a link to {os.readlink(path)}, which does not exist. "
                "Copy the file itself."
            ) from None
        raise MissingFile(f"{path} ({what}) does not exist. Check the path.") from None
    except PermissionError as error:
        raise PermissionError(no_permission(path, what)) from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a null byte
        raise InputError(
            f"{path} ({what}) cannot be reached ({_said(error)}): a loop of links, or no path. "
            "Give the path of the file itself."
        ) from None
    if path.is_dir() != folder:
        found = "folder" if path.is_dir() else "file"
        raise InputError(f"{path} ({what}) is a {found}, but a {wanted} is needed.")
    if not (folder or path.is_file()):
        raise InputError(f"{path} ({what}) is no ordinary file. Copy its content into one.")
    if folder and not os.access(path, os.R_OK | os.X_OK):
        raise PermissionError(no_permission(path, what))
    return path


def no_permission(path: str | os.PathLike, what: str) -> str:
    """What to say of a file or folder that may not be read."""
    return f"{path} ({what}) may not be read: permission denied. Ask for it, or copy the file."


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def raised_here(error: BaseException) -> bool:
    """Whether this package raised an exception, and not a library that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return module.partition(".")[0] == __name__.partition(".")[0]


class Pickled(ValueError):
    """A store whose values are pickles."""


class _Unpickled:
    """Stands in zarr's list of codecs where the one for pickles was."""

    @classmethod
    def from_config(cls, config: dict) -> None:
        raise Pickled(
            "holds pickles, which can run any code, so they are never loaded. "
            "Write it anew with zarr's format 3."
        )


@contextmanager
def no_pickles() -> Iterator[None]:
    """Let zarr open no array of pickles, also where numcodecs is too old to refuse them itself.

    Raises
    ------
    Pickled
        If one is opened.
    """
    from numcodecs.registry import codec_registry

    with _ONE_AT_A_TIME:  # the list is one for the whole process
        before = codec_registry.get("pickle")
        codec_registry["pickle"] = _Unpickled
        try:
            yield
        finally:
            codec_registry.pop("pickle")
            if before is not None:
                codec_registry["pickle"] = before


@contextmanager
def explained(path: str | os.PathLike, what: str, remedy: str = "Copy it again.") -> Iterator[None]:
    """Whatever a library raises inside becomes one sentence about this file.

    Raises
    ------
    InputError
        Instead of any other exception, such as those of h5py, zarr, Pillow, pandas and zlib.
    PermissionError
        If the file may not be read.
    """
    try:
        yield
    except (InputError, MissingFile):
        raise
    except Pickled as error:
        raise InputError(f"{path} ({what}) {error}") from error
    except PermissionError as error:
        raise PermissionError(no_permission(Path(path), what)) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} ({what}) is not UTF-8 text: byte 0x{error.object[error.start]:02x} "
            f"is none of its characters. Save it as UTF-8."
        ) from error
    except MemoryError as error:
        raise InputError(
            f"{path} ({what}) asks for more memory than there is: damaged, or too large. {remedy}"
        ) from error
    except Exception as error:
        raise InputError(
            f"{path} ({what}) could not be read: damaged, cut short or of another kind "
            f"({type(error).__name__}: {_said(error)}). {remedy}"
        ) from error


@contextmanager
def open_text(path: str | os.PathLike, what: str) -> Iterator[io.TextIOWrapper]:
    """UTF-8 text, packed with gzip or not, with or without a byte-order mark.

    Raises
    ------
    InputError
        If the file is empty, binary, in another encoding, or cut short.
    """
    path = existing(path, what)
    suffix = path.suffix.lower()
    if suffix in PICKLES | ARCHIVES:
        kind = "an archive" if suffix in ARCHIVES else "an object of one program"
        do = "Unpack it first" if suffix in ARCHIVES else "It is never loaded: save a table"
        raise InputError(f"{path} ({what}) is {kind} ({suffix}). {do}, and give the text file.")
    with explained(path, what), open(path, "rb") as packed:
        zipped = packed.peek(2)[:2] == b"\x1f\x8b"
        with gzip.open(packed) if zipped else packed as raw:
            _check_head(raw.peek(4096)[:4096], path, what)
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _check_head(head: bytes, path: Path, what: str) -> None:
    if not head:
        raise InputError(f"{path} ({what}) is empty (0 bytes). Fetch or copy it again.")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path} ({what}) is UTF-16 text. Save it as UTF-8.")
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if kind or b"\0" in head:
        raise InputError(f"{path} ({what}) is {kind or 'binary'}, not text. Save it as CSV or TSV.")


def read_json(path: str | os.PathLike, what: str) -> dict:
    """A JSON object.

    Raises
    ------
    InputError
        If it is not valid JSON, or something else than an object.
    """
    with open_text(path, what) as handle:
        try:
            value = json.load(handle)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{path} ({what}) is not valid JSON ({_said(error)}). Copy it again."
            ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path} ({what}) holds a {type(value).__name__}, not an object of names.")
    return value


def read_rows(path: str | os.PathLike, what: str, **options) -> tuple[list[str], pd.DataFrame]:
    """First line of a table, and the rows below it, with whatever delimiter the file uses.

    Parameters
    ----------
    path
        Comma, tab, semicolon, bar or spaces between the fields; packed with gzip or not.
    what
        What the table is, for messages.
    **options
        For `pandas.read_csv`.

    Returns
    -------
    (header, rows)
        The first line as it stands (one field less than the rows have, where R wrote the table),
        and a table without column names.

    Raises
    ------
    InputError
        If there is no row, no delimiter or more than one, or rows differ in length.
    """
    delimiter = _delimiter(Path(path), what)
    with open_text(path, what) as handle:
        header = _split(next(line for line in handle if line.strip()), delimiter)
        try:
            rows = pd.read_csv(
                handle,
                sep=delimiter,
                header=None,
                na_filter=False,
                low_memory=False,
                skipinitialspace=True,
                **options,
            )
        except pd.errors.ParserError as error:
            raise InputError(
                f"{path} ({what}): its rows differ in length ({_said(error)}). "
                "Use one delimiter throughout, and quote fields that contain it."
            ) from error
    if rows.shape[1] - len(header) not in (0, 1):
        raise InputError(
            f"{path} ({what}): the first line has {len(header)} fields, the rows below have "
            f"{rows.shape[1]}. Use one delimiter throughout."
        )
    short = rows.isna().any(axis=1)
    if pd.api.types.is_object_dtype(rows.dtypes.iloc[-1]):
        short |= (rows.iloc[:, 1:] == "").all(axis=1)  # one field, the others are filled up
    if short.any():
        raise InputError(
            f"{path} ({what}): row {short.argmax() + 1} below the first line is shorter than "
            "the others. The file is cut short, or mixes delimiters."
        )
    return header, rows


def _split(line: str, delimiter: str) -> list[str]:
    line = line.rstrip("\r\n")
    fields = line.split() if delimiter == r"\s+" else next(csv.reader([line], delimiter=delimiter))
    return [field.strip().strip('"') for field in fields]


def _delimiter(path: Path, what: str) -> str:
    """The delimiter that gives all of the first lines the same number of fields."""
    lines = []
    with open_text(path, what) as handle:
        for line in handle:
            lines += [line] if line.strip() else []
            if len(lines) == _SNIFFED:
                break
    if len(lines) < 2:
        raise InputError(f"{path} ({what}) has {len(lines)} line(s): no rows. Copy it again.")
    widths = {
        delimiter: [len(_split(line, delimiter)) for line in lines] for delimiter in _DELIMITERS
    }
    fits = {
        delimiter: width[1]
        for delimiter, width in widths.items()
        if width[1] > 1 and len(set(width[1:])) == 1 and width[1] - width[0] in (0, 1)
    }
    if fits:
        return max(fits, key=fits.get)
    seen = {delimiter: max(width) for delimiter, width in widths.items() if max(width[1:]) > 1}
    if not seen:
        raise InputError(f"{path} ({what}) has one column: no delimiter is recognisable.")
    best = max(seen, key=seen.get)
    odd = next(i for i, width in enumerate(widths[best]) if width != seen[best])
    raise InputError(
        f"{path} ({what}) mixes delimiters or has rows of different length: separated by "
        f"{_DELIMITERS[best]}, line {odd + 1} has {widths[best][odd]} fields and others "
        f"{seen[best]}. Use one delimiter throughout."
    )


def numbers(values: pd.Series, path: object, what: str, rows: pd.Series) -> pd.Series:
    """Text as numbers; the first that is none is named with its row.

    Raises
    ------
    InputError
        If a field is empty or no finite number.
    """
    found = pd.to_numeric(values, errors="coerce").astype("float64")
    bad = ~(found.abs() < float("inf"))
    if bad.any():
        first = int(bad.to_numpy().argmax())
        shown = str(values.iloc[first])
        hint = " Write decimals with a point." if "," in shown else ""
        raise InputError(
            f"{path}: {shown!r} in row {str(rows.iloc[first])!r}, column {what!r} is no number "
            f"({bad.sum()} such).{hint or ' Correct the table.'}"
        )
    return found
